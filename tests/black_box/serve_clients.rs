//! Real clients get right answers from `redbreast serve --names`: dig, dnspython, getaddrinfo and dnsperf.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{Server, has, stdout};

const HOSTS: &str = "
10.0.0.1   web www   # two names, and web has two addresses
10.0.0.2   web
fd00::1    web
10.0.0.3   Mixed-Case.Redbreast.Internal
10.0.0.4   deep.er.redbreast.internal
";

fn serve(hosts: &str) -> (tempfile::TempDir, Server) {
    serve_with(hosts, &[])
}

fn serve_with(hosts: &str, args: &[&str]) -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let file: PathBuf = dir.path().join("hosts");
    fs::write(&file, hosts).unwrap();
    let server = Server::with_names(&file, args);
    (dir, server)
}

fn dig(server: &Server, args: &[&str]) -> String {
    stdout(Command::new("dig").args(["@127.0.0.1", "-p", &server.port(), "+tries=1", "+time=10"]).args(args))
}

fn set(text: &str) -> BTreeSet<&str> {
    text.lines().collect()
}

#[test]
fn dig_gets_addresses_names_and_the_soa() {
    if !has("dig", &["-v"]) {
        return;
    }
    let (_dir, server) = serve(HOSTS);
    let short = |args: &[&str]| dig(&server, &[args, &["+short"]].concat());
    assert_eq!(set(&short(&["web.redbreast.internal", "A"])), BTreeSet::from(["10.0.0.1", "10.0.0.2"]));
    assert_eq!(short(&["web.redbreast.internal", "AAAA"]), "fd00::1\n");
    assert_eq!(short(&["www.redbreast.internal", "A"]), "10.0.0.1\n");
    assert_eq!(short(&["MIXED-case.redbreast.internal"]), "10.0.0.3\n");
    assert_eq!(short(&["Mixed-CASE."]), "10.0.0.3\n", "one label is meant in the first domain");
    assert_eq!(short(&["-x", "10.0.0.1"]), "web.redbreast.internal.\n", "the canonical name, not the alias");
    assert_eq!(short(&["-x", "fd00::1"]), "web.redbreast.internal.\n");
    let soa = short(&["redbreast.internal", "SOA"]);
    assert!(soa.starts_with("ns.redbreast.internal. hostmaster.redbreast.internal. "), "{soa}");
}

#[test]
fn dig_is_told_what_does_not_exist_and_what_is_not_ours() {
    if !has("dig", &["-v"]) {
        return;
    }
    let (_dir, server) = serve(HOSTS);
    for (args, status, flags, soa) in [
        (&["nobody.redbreast.internal"][..], "NXDOMAIN", "qr aa rd", true),
        (&["web.redbreast.internal", "TXT"], "NOERROR", "qr aa rd", true),
        (&["web.redbreast.internal", "TYPE65280"], "NOERROR", "qr aa rd", true),
        (&["er.redbreast.internal"], "NOERROR", "qr aa rd", true),
        (&["redbreast.internal"], "NOERROR", "qr aa rd", true),
        (&["notredbreast.internal"], "REFUSED", "qr rd", false),
        (&["web.", "TXT"], "NOERROR", "qr aa rd", true),
        (&["nobody."], "NXDOMAIN", "qr aa rd", true),
        (&["example.com"], "REFUSED", "qr rd", false),
        (&["."], "REFUSED", "qr rd", false),
        (&["web.redbreast.internal", "CH"], "REFUSED", "qr rd", false),
        (&["-x", "10.9.9.9"], "REFUSED", "qr rd", false),
        (&["+opcode=notify", "web.redbreast.internal"], "NOTIMP", "qr rd", false),
        (&["+edns=1", "+noednsnegotiation", "web.redbreast.internal"], "BADVERS", "qr rd", false),
    ] {
        let text = dig(&server, args);
        assert!(text.contains(&format!("status: {status},")), "{args:?}: {text}");
        assert!(text.contains(&format!("flags: {flags};")), "{args:?}: {text}");
        assert!(text.contains("ANSWER: 0,") || status == "NOTIMP", "{args:?}: {text}");
        assert_eq!(text.contains("\tSOA\t"), soa, "{args:?}: {text}");
    }
}

#[test]
fn the_question_comes_back_in_the_case_it_was_asked_in() {
    if !has("dig", &["-v"]) {
        return;
    }
    let (_dir, server) = serve(HOSTS);
    let text = dig(&server, &["wEb.ReDbReAsT.iNtErNaL", "+noall", "+question", "+answer"]);
    assert!(text.contains(";wEb.ReDbReAsT.iNtErNaL.\t"), "{text}");
    assert_eq!(text.matches("\nwEb.ReDbReAsT.iNtErNaL.").count(), 2, "{text}");
}

#[test]
fn many_addresses_are_truncated_to_whole_records_that_change_from_answer_to_answer() {
    if !has("dig", &["-v"]) {
        return;
    }
    let hosts: String = (0..200).fold(String::new(), |mut text, i| {
        writeln!(text, "10.0.1.{i} many").unwrap();
        text
    });
    let (_dir, server) = serve(&hosts);
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        // Without EDNS: 12 bytes of header, 28 of question, and 29 records of 16 bytes make 504 of 512.
        let text = dig(&server, &["many.redbreast.internal", "+noedns", "+ignore"]);
        assert!(text.contains("flags: qr aa tc rd; QUERY: 1, ANSWER: 29,"), "{text}");
        seen.extend(text.lines().filter(|line| line.contains("\tA\t")).map(str::to_owned));
    }
    assert!(seen.len() > 150, "20 random choices of 29 in 200 show nearly all of them: {}", seen.len());
    let text = dig(&server, &["many.redbreast.internal", "+bufsize=4096", "+nocookie", "+ignore"]);
    assert!(text.contains("flags: qr aa tc rd; QUERY: 1, ANSWER: 73,"), "1,232 bytes at most: {text}");
}

#[test]
fn dnspython_parses_every_answer_and_sees_all_orders() {
    let python = "/usr/bin/python3";
    if !has(python, &["-c", "import dns.query"]) {
        return;
    }
    let (_dir, server) = serve(HOSTS);
    let script = r#"
import sys, dns.message, dns.query, dns.rcode, dns.flags, dns.reversename
port = int(sys.argv[1])
def ask(name, rtype, **options):
    query = dns.message.make_query(name, rtype, **options)
    return dns.query.udp(query, "127.0.0.1", port=port, timeout=10)
orders = set()
for _ in range(100):
    answer = ask("web.redbreast.internal", "A", use_edns=0, payload=1400).answer[0]
    orders.add(tuple(record.address for record in answer))
    assert answer.ttl == 1
assert orders == {("10.0.0.1", "10.0.0.2"), ("10.0.0.2", "10.0.0.1")}, orders
negative = ask("nobody.redbreast.internal", "A")
assert negative.rcode() == dns.rcode.NXDOMAIN and negative.flags & dns.flags.AA
soa = negative.authority[0]
assert str(soa.name) == "redbreast.internal." and soa.ttl == 1 and soa[0].minimum == 1
pointer = ask(dns.reversename.from_address("fd00::1"), "PTR").answer[0][0]
assert str(pointer.target) == "web.redbreast.internal.", pointer
plain = ask("web.redbreast.internal", "AAAA")
assert plain.edns == -1, "no OPT for those who sent none"
assert ask("web.redbreast.internal", "AAAA", use_edns=0, want_dnssec=True).ednsflags & dns.flags.DO
"#;
    stdout(Command::new(python).args(["-c", script, &server.port()]));
}

#[test]
fn dig_is_given_cookies_the_servers_name_and_reasons() {
    if !has("dig", &["-v"]) {
        return;
    }
    let (_dir, server) = serve_with(HOSTS, &["--node-name", "node-1"]);
    let good = dig(&server, &["+nsid", "+cookie=0102030405060708", "web.redbreast.internal"]);
    assert!(good.contains("; NSID:") && good.contains("(\"node-1\")"), "{good}");
    let cookie = good.split("; COOKIE: ").nth(1).unwrap().split_whitespace().next().unwrap();
    assert!(cookie.starts_with("010203040506070801000000") && cookie.len() == 48, "{cookie}");
    assert!(good.contains(&format!("{cookie} (good)")), "{good}");
    let again = dig(&server, &[&format!("+cookie={cookie}"), "web.redbreast.internal"]);
    assert!(again.contains(&format!("{cookie} (good)")), "the same comes back: {again}");
    let elsewhere = dig(&server, &["example.com"]);
    assert!(elsewhere.contains("; EDE: 20 (Not Authoritative)"), "{elsewhere}");
    let keepalive = dig(&server, &["+tcp", "+keepalive", "web.redbreast.internal"]);
    assert!(keepalive.contains("; TCP KEEPALIVE: 10.0 secs"), "{keepalive}");
    for (asked, told) in
        [("id.server", "\"node-1\""), ("hostname.bind", "\"node-1\""), ("version.bind", "\"redbreast ")]
    {
        let text = dig(&server, &["+short", "CH", "TXT", asked]);
        assert!(text.starts_with(told), "{asked}: {text}");
    }
    let (_dir, silent) = serve_with(HOSTS, &["--hide-identity"]);
    assert!(dig(&silent, &["CH", "TXT", "id.server"]).contains("status: REFUSED"));
    assert!(!dig(&silent, &["+nsid", "web.redbreast.internal"]).contains("NSID"));
}

#[test]
fn clients_that_may_not_ask_are_refused_and_told_why() {
    if !has("dig", &["-v"]) {
        return;
    }
    let (_dir, server) = serve_with(HOSTS, &["--allow", "10.0.0.0/8", "--allow", "127.0.0.2"]);
    for transport in ["+notcp", "+tcp"] {
        let refused = dig(&server, &[transport, "web.redbreast.internal"]);
        assert!(
            refused.contains("status: REFUSED") && refused.contains("; EDE: 18 (Prohibited)"),
            "{refused}"
        );
        let allowed = dig(&server, &[transport, "-b", "127.0.0.2", "web.redbreast.internal", "+short"]);
        assert_eq!(allowed.lines().count(), 2, "{allowed}");
    }
    assert!(server.stop().contains("prohibited 2"));
}

/// Bound to all addresses, an answer still leaves from the one that was asked, though the way back would have another:
/// two addresses on a link, and a client that sends to the second.
#[test]
fn answers_leave_from_the_address_that_was_asked() {
    let unshare = ["--map-root-user", "--net", "--mount"];
    if !has("unshare", &[&unshare[..], &["true"]].concat()) || !has("ip", &["-V"]) || !has("dig", &["-v"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("hosts"), HOSTS).unwrap();
    // `ip netns` wants a place of its own to keep names in.
    let script = r#"
set -eu
mount -t tmpfs none /run
ip netns add client
ip link add server type veth peer name client netns client
ip address add 10.77.0.1/24 dev server
ip address add 10.77.0.2/24 dev server
ip -6 address add fd77::1/64 dev server nodad
ip -6 address add fd77::2/64 dev server nodad
ip link set server up
ip -n client address add 10.77.0.9/24 dev client
ip -n client -6 address add fd77::9/64 dev client nodad
ip -n client link set client up
"$2" serve --listen 0.0.0.0:5300 --listen '[::]:5300' --names "$1/hosts" 2>"$1/log" &
server=$!
trap 'kill $server; wait $server' EXIT
for _ in $(seq 200); do grep -q 'serving ' "$1/log" && break; sleep 0.05; done
for address in 10.77.0.1 10.77.0.2 fd77::1 fd77::2; do
    for transport in +notcp +tcp; do
        ip netns exec client dig "@$address" -p 5300 $transport +tries=3 +time=5 +short mixed-case.redbreast.internal
    done
done
"#;
    let path = dir.path().to_str().unwrap();
    let args = ["sh", "-c", script, "sh", path, env!("CARGO_BIN_EXE_redbreast")];
    let text = stdout(Command::new("unshare").args(unshare).args(args));
    assert_eq!(text, "10.0.0.3\n".repeat(8), "dig takes no answer from another address than it asked");
}

/// glibc's resolver asks port 53 and the servers of /etc/resolv.conf, so it gets a network and a mount namespace of its
/// own in which these are ours.
#[test]
fn getaddrinfo_finds_names_through_resolv_conf() {
    let unshare = ["--map-root-user", "--net", "--mount"];
    if !has("unshare", &[&unshare[..], &["true"]].concat()) || !has("ip", &["-V"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("hosts"), HOSTS).unwrap();
    let conf = "nameserver 127.0.0.1\nsearch redbreast.internal\noptions timeout:10 attempts:1\n";
    fs::write(dir.path().join("resolv.conf"), conf).unwrap();
    fs::write(dir.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
    let script = r#"
set -eu
ip link set lo up
for file in resolv.conf nsswitch.conf; do
    # The file may be a link into a place that is not there in this namespace.
    real=$(readlink -f /etc/$file)
    mount --bind "$1/$file" "$real"
done
"$2" serve --listen 127.0.0.1:53 --names "$1/hosts" 2>"$1/log" &
server=$!
trap 'kill $server; wait $server' EXIT
for _ in $(seq 200); do grep -q 'serving ' "$1/log" && break; sleep 0.05; done
echo "both: $(getent ahosts web | awk '{print $1}' | sort -u | tr '\n' ' ')"
echo "full: $(getent ahosts mixed-case.redbreast.internal | awk 'NR==1 {print $1}')"
echo "back: $(getent hosts 10.0.0.1 | awk '{print $2}')"
echo "none: $(getent ahosts nobody.redbreast.internal || echo "status $?")"
"#;
    let path = dir.path().to_str().unwrap();
    let text = stdout(Command::new("unshare").args(unshare).args([
        "sh",
        "-c",
        script,
        "sh",
        path,
        env!("CARGO_BIN_EXE_redbreast"),
    ]));
    let lines: Vec<_> = text.lines().map(str::trim_end).collect();
    assert_eq!(
        lines,
        [
            "both: 10.0.0.1 10.0.0.2 fd00::1",
            "full: 10.0.0.3",
            "back: web.redbreast.internal",
            "none: status 2"
        ]
    );
}

/// `DNSPERF_SECONDS=60` makes this the soak of the release check; a few seconds show the same faults nearly as well.
#[test]
fn dnsperf_loses_nothing() {
    if !has("dnsperf", &["-h"]) {
        return;
    }
    let mut hosts = String::new();
    let mut queries = String::new();
    for i in 0..5_000 {
        writeln!(hosts, "10.2.{}.{} host-{i}", i / 250, i % 250).unwrap();
        writeln!(queries, "host-{i}.redbreast.internal A\nnobody-{i}.redbreast.internal A").unwrap();
    }
    let (dir, server) = serve(&hosts);
    let file = dir.path().join("queries");
    fs::write(&file, queries).unwrap();
    let seconds = std::env::var("DNSPERF_SECONDS").unwrap_or_else(|_| "4".into());
    let text = stdout(
        Command::new("dnsperf")
            .args(["-s", "127.0.0.1", "-p", &server.port(), "-c", "8", "-q", "200", "-l", &seconds, "-d"])
            .arg(&file),
    );
    println!("{text}");
    assert!(text.contains("Queries lost:         0 (0.00%)"), "{text}");
    let codes = text.split("Response codes:").nth(1).unwrap().lines().next().unwrap();
    assert!(codes.contains("NOERROR") && codes.contains("NXDOMAIN"), "{codes}");
    assert_eq!(
        codes.matches("(50.00%)").count()
            + codes.matches("(49.99%)").count()
            + codes.matches("(50.01%)").count(),
        2,
        "{codes}"
    );
}
