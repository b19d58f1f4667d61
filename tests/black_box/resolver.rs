//! Names that are not ours: what real upstreams say reaches clients as it is, once for all of them, and nothing of our
//! own reaches upstreams.

use std::fs;
use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::harness::{Server, ask, has, query, run, stdout, wait_until};
use crate::upstreams::{BIG, KNOT, Recorder, Spot, Told, UNBOUND, Upstream, ZONE, zone};

/// A server with one worker, and with it one cache.
fn forwarder(arguments: &[&str]) -> Server {
    Server::start(&[&["--workers", "1"], arguments].concat())
}

/// Unbound, and a server that asks it. `None` without Unbound or dig.
fn pair(arguments: &[&str]) -> Option<(Upstream, Server)> {
    if !has(UNBOUND, &["-V"]) || !has("dig", &["-v"]) {
        return None;
    }
    let unbound = Upstream::unbound(Spot::Anywhere, &zone(), "");
    let server = forwarder(&[&["--upstream", &unbound.at()], arguments].concat());
    Some((unbound, server))
}

fn full(name: &str) -> String {
    if name == "@" { ZONE.into() } else { format!("{name}.{ZONE}") }
}

#[test]
fn answers_of_unbound_are_passed_on_as_they_are() {
    let Some((unbound, server)) = pair(&[]) else { return };
    for (name, rtype, answers, authorities) in [
        ("www", "A", 2, 0),
        ("www", "AAAA", 1, 0),
        ("alias", "AAAA", 2, 0),
        ("chain", "A", 4, 0),
        ("chain", "CNAME", 1, 0),
        ("@", "MX", 1, 0),
        ("@", "SOA", 1, 0),
        ("@", "NS", 1, 0),
        ("text", "TXT", 1, 0),
        ("_sip._tcp", "SRV", 1, 0),
        ("web", "HTTPS", 1, 0),
        ("odd", "TYPE65280", 1, 0),
        ("a.b.any", "A", 1, 0),
        ("middle", "TXT", 3, 0),
        // No such name, no such type, and the same behind an alias.
        ("nobody", "A", 0, 1),
        ("www", "TXT", 0, 1),
        ("any", "A", 0, 1),
        ("dangling", "A", 1, 1),
        ("alias", "TXT", 1, 1),
    ] {
        let asked = [&*full(name), rtype];
        let (through, again) = (Told::dig(server.address, &asked), Told::dig(server.address, &asked));
        let direct = Told::dig(unbound.address, &asked);
        assert_eq!(
            (through.answer.len(), through.authority.len()),
            (answers, authorities),
            "{}",
            through.text
        );
        for told in [through, again] {
            assert_eq!(told.status, direct.status, "{name} {rtype}");
            assert_eq!((&told.answer, &told.authority), (&direct.answer, &direct.authority));
            assert_eq!(told.flags, "qr rd ra", "{name} {rtype}");
            assert!(told.ttl_s <= direct.ttl_s + 20, "{name} {rtype}: {told:?}");
        }
    }
    assert_eq!(Told::dig(server.address, &[&full("dangling")]).status, "NXDOMAIN");
    let negative = Told::dig(server.address, &[&full("nobody")]);
    assert!(negative.authority[0].starts_with("forwarded.example. IN SOA ns.forwarded."), "{negative:?}");
}

#[test]
fn what_an_upstream_refuses_fails_and_its_reason_is_told() {
    let Some((_unbound, server)) = pair(&[]) else { return };
    let told = Told::dig(server.address, &["www.elsewhere.example"]);
    assert_eq!(told.status, "SERVFAIL", "{}", told.text);
    assert!(told.reason().is_some() && told.has_flag("ra"), "{}", told.text);
}

#[test]
fn a_long_answer_is_fetched_over_tcp_and_given_whole_over_tcp() {
    let Some((unbound, server)) = pair(&[]) else { return };
    let big = full("big");
    for _ in 0..2 {
        let udp = Told::dig(server.address, &["+ignore", &big]);
        assert!(udp.status == "NOERROR" && udp.has_flag("tc"), "{}", udp.text);
    }
    // Once over UDP, which was not enough, and once over TCP.
    assert_eq!(unbound.heard(&big, "A"), 2);
    for transport in ["+notcp", "+tcp"] {
        let whole = Told::dig(server.address, &[transport, &big]);
        assert!(whole.answer.len() == BIG && !whole.has_flag("tc"), "{}", whole.text);
    }
    assert_eq!(unbound.heard(&big, "A"), 2);
    // The same by a client that comes over TCP first.
    let Some((_unbound, server)) = pair(&[]) else { return };
    assert_eq!(Told::dig(server.address, &["+tcp", &big]).answer.len(), BIG);
}

#[test]
fn clients_are_given_over_udp_what_they_have_room_for() {
    let Some((_unbound, server)) = pair(&[]) else { return };
    for (room, fits) in
        [("+noedns", false), ("+bufsize=512", false), ("+bufsize=600", false), ("+bufsize=1232", true)]
    {
        let told = Told::dig(server.address, &["+ignore", "+nocookie", room, &full("middle"), "TXT"]);
        assert_eq!((told.has_flag("tc"), told.answer.len() == 3), (!fits, fits), "{room}: {}", told.text);
        assert_eq!(told.text.contains("; EDNS: version: 0"), room != "+noedns", "{}", told.text);
    }
}

#[test]
fn each_client_has_its_question_back_in_its_own_case() {
    for flags in [&[][..], &["--mix-case"]] {
        let Some((unbound, server)) = pair(flags) else { return };
        for name in ["WWW.forwarded.EXAMPLE", "www.FORWARDED.example", "www.forwarded.example"] {
            let told = Told::dig(server.address, &[name]);
            assert!(told.question.starts_with(&format!("{name}.")), "{}", told.text);
            assert!(told.answer.len() == 2 && told.answer[0].starts_with(name), "{}", told.text);
        }
        let heard = unbound.log().to_lowercase().matches(" www.forwarded.example. a in").count();
        assert_eq!(heard, 1, "they are one question: {}", unbound.log());
    }
}

#[test]
fn ttls_count_down_and_the_upstream_is_asked_once() {
    let Some((unbound, server)) = pair(&[]) else { return };
    for (name, rtype, ttl_s) in [("www", "A", 300), ("chain", "A", 300), ("nobody", "A", 30)] {
        let name = full(name);
        let first = Told::dig(server.address, &[&name, rtype]);
        assert!((1..=ttl_s).contains(&first.ttl_s), "{}", first.text);
        wait_until("the TTL is lower", || {
            let told = Told::dig(server.address, &[&name, rtype]);
            assert!(told.answer == first.answer && told.authority == first.authority, "{}", told.text);
            told.ttl_s < first.ttl_s
        });
        assert_eq!(unbound.heard(&name, rtype), 1);
    }
    // And when it is over, it is asked again.
    let short = full("short");
    wait_until("the short one has been asked for twice", || {
        let told = Told::dig(server.address, &[&short]);
        assert!(told.status == "NOERROR" && told.ttl_s <= 1 && told.reason().is_none(), "{}", told.text);
        unbound.heard(&short, "A") >= 2
    });
}

#[test]
fn without_rd_only_what_is_known_is_told() {
    let Some((unbound, server)) = pair(&[]) else { return };
    let name = full("www");
    let unknown = Told::dig(server.address, &["+norecurse", &name]);
    assert!(unknown.status == "REFUSED" && unknown.has_flag("ra"), "{}", unknown.text);
    assert_eq!(unbound.heard(&name, "A"), 0);
    assert_eq!(Told::dig(server.address, &[&name]).answer.len(), 2);
    let known = Told::dig(server.address, &["+norecurse", &name]);
    assert_eq!((known.answer.len(), &*known.flags), (2, "qr ra"), "{}", known.text);
}

/// Signs the zone as BIND's tools do, then changes a record in it. Returns the zone and its trust anchor.
fn signed_zone(directory: &Path) -> (String, String) {
    fs::write(directory.join("zone"), zone() + "forged A 198.18.0.66\n").unwrap();
    let mut keygen = Command::new("dnssec-keygen");
    stdout(keygen.args(["-q", "-a", "ECDSAP256SHA256", "-f", "KSK", ZONE]).current_dir(directory));
    let mut sign = Command::new("dnssec-signzone");
    stdout(sign.args(["-q", "-S", "-z", "-P", "-o", ZONE, "-f", "signed", "zone"]).current_dir(directory));
    let signed = fs::read_to_string(directory.join("signed")).unwrap();
    let anchor = fs::read_to_string(directory.join(format!("dsset-{ZONE}."))).unwrap();
    (signed.replace("198.18.0.66", "198.18.0.67"), anchor.trim().to_owned())
}

#[test]
fn what_unbound_has_validated_is_told_to_those_who_ask_for_it() {
    if !has(UNBOUND, &["-V"]) || !has("dig", &["-v"]) || !has("dnssec-keygen", &["-V"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (zone, anchor) = signed_zone(directory.path());
    let more = format!(" module-config: \"validator iterator\"\n trust-anchor: \"{anchor}\"");
    let unbound = Upstream::unbound(Spot::Anywhere, &zone, &more);
    let server = forwarder(&["--upstream", &unbound.at()]);
    let (www, forged, nobody) = (full("www"), full("forged"), full("nobody"));
    // dig asks for AD unless it is told not to. In this order and in the other: they are kept apart.
    let all = ["+dnssec", "+noadflag", "+adflag"];
    for how in all.iter().chain(all.iter().rev()) {
        let told = Told::dig(server.address, &[how, &www]);
        let signatures = told.answer.iter().filter(|record| record.contains(" RRSIG ")).count();
        assert_eq!(told.answer.len() - signatures, 2, "{how}: {}", told.text);
        assert_eq!(signatures > 0, *how == "+dnssec", "{how}: {}", told.text);
        assert_eq!(told.has_flag("ad"), *how != "+noadflag", "{how}: {}", told.text);
    }
    // That there is nothing is proved, too.
    let nothing = Told::dig(server.address, &["+dnssec", &nobody]);
    assert!(nothing.status == "NXDOMAIN" && nothing.has_flag("ad"), "{}", nothing.text);
    assert!(nothing.authority.iter().any(|record| record.contains(" NSEC ")), "{}", nothing.text);
    assert_eq!(Told::dig(server.address, &[&nobody]).authority.len(), 1);
    // What is forged is told to nobody but those who want to check it themselves.
    let told = Told::dig(server.address, &[&forged]);
    assert_eq!((&*told.status, told.reason()), ("SERVFAIL", Some(6)), "DNSSEC Bogus: {}", told.text);
    for _ in 0..2 {
        let told = Told::dig(server.address, &[&forged]);
        assert_eq!((&*told.status, told.answer.len()), ("SERVFAIL", 0), "{}", told.text);
        let told = Told::dig(server.address, &["+cd", &forged]);
        assert_eq!((&*told.status, told.answer.len()), ("NOERROR", 1), "{}", told.text);
        assert!(told.has_flag("cd") && !told.has_flag("ad"), "{}", told.text);
    }
}

#[test]
fn an_alias_of_ours_is_followed_out_of_our_domains() {
    let Some((_unbound, server)) = pair(&["--allow-unsigned-updates"]) else { return };
    let input = format!(
        "server 127.0.0.1 {}\nzone redbreast.internal\nupdate add out.redbreast.internal 60 CNAME chain.{ZONE}.\n\
         update add gone.redbreast.internal 60 CNAME nobody.{ZONE}.\nsend\n",
        server.port()
    );
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), input).unwrap();
    stdout(Command::new("nsupdate").arg(file.path()));
    for _ in 0..2 {
        let told = Told::dig(server.address, &["out.redbreast.internal"]);
        assert_eq!((&*told.status, told.answer.len()), ("NOERROR", 5), "{}", told.text);
        assert!(told.answer.iter().any(|it| it == "www.forwarded.example. IN A 198.18.0.1"), "{}", told.text);
        let gone = Told::dig(server.address, &["gone.redbreast.internal"]);
        assert_eq!((&*gone.status, gone.answer.len()), ("NXDOMAIN", 1), "{}", gone.text);
    }
}

/// What is the same at all upstreams that have the zone.
fn check_basics(server: &Server) {
    for (name, rtype, status, answers) in [
        ("www", "A", "NOERROR", 2),
        ("www", "AAAA", "NOERROR", 1),
        ("chain", "A", "NOERROR", 4),
        ("@", "MX", "NOERROR", 1),
        ("text", "TXT", "NOERROR", 1),
        ("_sip._tcp", "SRV", "NOERROR", 1),
        ("web", "HTTPS", "NOERROR", 1),
        ("odd", "TYPE65280", "NOERROR", 1),
        ("big", "A", "NOERROR", BIG),
        ("nobody", "A", "NXDOMAIN", 0),
        ("www", "TXT", "NOERROR", 0),
    ] {
        for _ in 0..2 {
            let told = Told::dig(server.address, &[&full(name), rtype]);
            assert_eq!((&*told.status, told.answer.len()), (status, answers), "{}", told.text);
            assert_eq!(told.flags, "qr rd ra", "{}", told.text);
            assert_eq!(told.authority.len(), usize::from(answers == 0), "{}", told.text);
        }
    }
}

/// An authoritative server, which offers no recursion and does not hear that it is not asked for it.
#[test]
fn knot_is_asked_as_well() {
    if !has(KNOT, &["--version"]) || !has("dig", &["-v"]) {
        return;
    }
    let knot = Upstream::knot(&[(ZONE, &zone())]);
    check_basics(&forwarder(&["--upstream", &knot.at()]));
    check_basics(&forwarder(&["--upstream", &knot.at(), "--mix-case"]));
}

/// dnsmasq says without an SOA record that there is nothing.
#[test]
fn dnsmasq_is_asked_as_well_and_a_domain_may_have_another_upstream() {
    if !has("dnsmasq", &["--version"]) || !has(KNOT, &["--version"]) || !has("dig", &["-v"]) {
        return;
    }
    let dnsmasq = Upstream::dnsmasq(&[
        "--local=/lan.example/",
        "--host-record=printer.lan.example,198.18.0.9,2001:2::9,300",
        "--cname=print.lan.example,printer.lan.example",
        "--txt-record=printer.lan.example,one two",
        "--mx-host=lan.example,printer.lan.example,10",
        "--local=/forwarded.example/",
    ]);
    let reverse = "$ORIGIN 10.in-addr.arpa.\n@ 60 SOA ns nobody 1 1 1 1 1\n@ 60 NS ns\n1.0.9 60 PTR \
                   www.forwarded.example.\n";
    let inner = "$ORIGIN deep.lan.example.\n@ 60 SOA ns nobody 1 1 1 1 1\n@ 60 NS ns\nwww 60 A 198.18.0.10\n";
    let knot = Upstream::knot(&[(ZONE, &zone()), ("10.in-addr.arpa", reverse), ("deep.lan.example", inner)]);
    let of_knot = [ZONE, "10.in-addr.arpa", "deep.lan.example"].map(|it| format!("{it}={}", knot.at()));
    let mut arguments = vec!["--upstream".to_owned(), dnsmasq.at()];
    arguments.extend(of_knot.into_iter().flat_map(|it| ["--forward".to_owned(), it]));
    let server = forwarder(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for (name, rtype, status, first) in [
        ("printer.lan.example", "A", "NOERROR", "printer.lan.example. IN A 198.18.0.9"),
        ("printer.lan.example", "AAAA", "NOERROR", "printer.lan.example. IN AAAA 2001:2::9"),
        ("print.lan.example", "A", "NOERROR", "print.lan.example. IN CNAME printer.lan.example."),
        ("printer.lan.example", "TXT", "NOERROR", "printer.lan.example. IN TXT \"one two\""),
        ("lan.example", "MX", "NOERROR", "lan.example. IN MX 10 printer.lan.example."),
        ("printer.lan.example", "SRV", "NOERROR", ""),
        ("nobody.lan.example", "A", "NXDOMAIN", ""),
        // These are Knot's, also where a private address would have no name otherwise.
        ("www.deep.lan.example", "A", "NOERROR", "www.deep.lan.example. IN A 198.18.0.10"),
        ("1.0.9.10.in-addr.arpa", "PTR", "NOERROR", "1.0.9.10.in-addr.arpa. IN PTR www.forwarded.example."),
    ] {
        for transport in ["+notcp", "+tcp"] {
            let told = Told::dig(server.address, &[transport, name, rtype]);
            assert_eq!(told.status, status, "{}", told.text);
            assert_eq!(told.answer.first().map_or("", String::as_str), first, "{}", told.text);
            assert_eq!(told.flags, "qr rd ra", "{}", told.text);
        }
    }
    check_basics(&server);
    // With a domain alone that is asked for elsewhere, the rest is refused.
    let server = forwarder(&["--forward", &format!("{ZONE}={}", knot.at())]);
    check_basics(&server);
    assert_eq!(Told::dig(server.address, &["printer.lan.example"]).status, "REFUSED");
}

const A: u16 = 1;
const PTR: u16 = 12;

#[test]
fn our_own_names_and_those_of_nobody_never_leave() {
    let recorder = Recorder::start(Duration::ZERO);
    let names = tempfile::NamedTempFile::new().unwrap();
    fs::write(names.path(), "10.0.0.1 web\n").unwrap();
    let server = forwarder(&[
        "--upstream",
        &recorder.address.to_string(),
        "--names",
        names.path().to_str().unwrap(),
        "--domain",
        "redbreast.internal",
        "--domain",
        "lab.example",
    ]);
    let socket = server.client();
    let rcode = |name: &str, rtype| ask(&socket, &query(7, name, rtype))[3] & 15;
    for name in ["web.redbreast.internal", "web", "WEB", "localhost", "a.localhost"] {
        assert_eq!(rcode(name, A), 0, "{name}");
    }
    for name in [
        "nobody.redbreast.internal",
        "a.b.c.redbreast.internal",
        "nobody.LAB.example",
        "printer",
        "com",
        "hidden.onion",
        "a.invalid",
        "printer.local",
        "a.test",
        "router.home.arpa",
        "a.service.arpa",
    ] {
        assert_eq!(rcode(name, A), 3, "{name}");
    }
    assert_eq!(rcode("1.0.0.10.in-addr.arpa", PTR), 0, "it is the address of a name of ours");
    for name in [
        "9.9.9.10.in-addr.arpa",
        "1.16.172.in-addr.arpa",
        "1.1.168.192.in-addr.arpa",
        "1.1.254.169.in-addr.arpa",
        "1.1.64.100.in-addr.arpa",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
        "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.e.f.ip6.arpa",
        "8.b.d.0.1.0.0.2.ip6.arpa",
    ] {
        assert!([0, 3].contains(&rcode(name, PTR)), "{name}");
    }
    assert_eq!(rcode("1.0.0.127.in-addr.arpa", PTR), 0);
    // It hears of what follows, so it would have heard of that.
    assert_eq!(rcode("www.elsewhere.example", A), 0);
    assert_eq!(rcode("1.2.18.198.in-addr.arpa", A), 0);
    assert_eq!(rcode("1.15.172.in-addr.arpa", A), 0, "the range of 172.16 begins behind it");
    let heard: std::collections::BTreeSet<_> = recorder.heard().into_iter().collect();
    let expected = ["1.15.172.in-addr.arpa.", "1.2.18.198.in-addr.arpa.", "www.elsewhere.example."];
    assert_eq!(heard.iter().collect::<Vec<_>>(), expected);
}

#[test]
fn many_who_ask_the_same_at_once_are_one_question() {
    const CLIENTS: usize = 50;
    let recorder = Recorder::start(Duration::from_millis(100));
    let server = forwarder(&["--upstream", &recorder.address.to_string()]);
    let clients: Vec<UdpSocket> = (0..CLIENTS).map(|_| server.client()).collect();
    for (id, client) in (0..).zip(&clients) {
        client.send(&query(id, "www.elsewhere.example", A)).unwrap();
    }
    for (id, client) in (0u16..).zip(&clients) {
        let mut answer = [0; 512];
        let len = client.recv(&mut answer).unwrap();
        assert_eq!(
            (&answer[..2], &answer[6..8]),
            (&id.to_be_bytes()[..], &[0, 1][..]),
            "{:?}",
            &answer[..len]
        );
    }
    // A question of which nothing is heard for long is sent again; on a machine that stands still that may be needless.
    let heard = recorder.heard().len();
    println!("{CLIENTS} clients, {heard} messages to the upstream");
    assert!((1..=3).contains(&heard), "{heard}");
    let log = server.stop();
    let counted = |name: &str| -> usize {
        let rest = log.split(&format!("{name} ")).nth(1).unwrap_or("0");
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    // Who is late finds the answer in the cache.
    assert_eq!(counted("forwarded") - counted("coalesced"), 1, "{log}");
}

#[test]
fn what_cannot_be_an_upstream_is_a_mistake_that_is_explained() {
    for (arguments, told) in [
        (&["--upstream", "dns.example"][..], "is no address"),
        (&["--upstream", "10.0.0.2:0"], "nobody can be asked at port 0"),
        (&["--upstream", "0.0.0.0"], "is no host's address"),
        (&["--upstream", "http://10.0.0.2"], "expected an address"),
        (&["--upstream", "tls://10.0.0.2#"], "name in the server's certificate"),
        (&["--upstream", "127.0.0.1:5399"], "is where this server itself listens"),
        (&["--upstream", "10.0.0.2", "--upstream", "10.0.0.2:53"], "given twice"),
        (&["--forward", "corp.example"], "corp.example=10.0.0.2"),
        (&["--forward", "corp.example=127.0.0.1:5399"], "is where this server itself listens"),
        (&["--mix-case"], "say who with --upstream"),
        (&["--upstream", "10.0.0.2", "--upstream-ca", "/nowhere"], "tls://"),
    ] {
        let output = run(&[&["serve", "--listen", "127.0.0.1:5399"], arguments].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains(told), "{arguments:?}: {text}");
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
    }
    // A file that is not there is found out before anything is served.
    for file in
        [&["--upstream", "tls://10.0.0.2", "--upstream-ca", "/nowhere"][..], &["--resolv-conf=/nowhere"]]
    {
        let output = run(&[&["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"], file].concat());
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains("/nowhere"), "{file:?}: {text}");
        assert!(!text.contains("serving "), "{text}");
    }
}
