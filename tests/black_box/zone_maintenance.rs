//! Updates by Debian's nsupdate, and copies of zones for Debian's NSD, dig and BIND's own key files.

use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::control::start;
use crate::harness::{Server, has, run, stdout, wait_until};
use crate::http::get;
use crate::nodes::{temp, trio};

const ZONE: &str = "redbreast.internal";

/// A key file as `tsig-keygen` makes it.
fn key_file(directory: &Path, name: &str, secret: &str) -> PathBuf {
    let path = directory.join(format!("{name}.key"));
    fs::write(&path, format!("key \"{name}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{secret}\";\n}};\n"))
        .unwrap();
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    path
}

/// An update by who believes that it is ten minutes ago.
const LATE_UPDATE: &str = "
import sys, time, dns.query, dns.tsigkeyring, dns.update
now = time.time
time.time = lambda: now() - 600
keyring = dns.tsigkeyring.from_text({'ddns': ('hmac-sha256', sys.argv[2])})
update = dns.update.UpdateMessage('redbreast.internal', keyring=keyring)
update.add('web', 60, 'A', '10.0.0.1')
print(dns.query.udp(update, '127.0.0.1', port=int(sys.argv[1]), timeout=10))
";

const SECRET: &str = "bm9ib2R5IGtub3dzIHdoYXQgaXMgaW4gaGVyZSBub3c=";
const OTHER_SECRET: &str = "c29tZXRoaW5nIGVsc2UgaXMgaW4gaGVyZSwgaXQgaXM=";

/// Runs nsupdate with these lines.
fn nsupdate(server: &Server, options: &[&str], lines: &str) -> Output {
    let input = format!("server 127.0.0.1 {}\nzone {ZONE}\n{lines}\nsend\n", server.port());
    let mut child = Command::new("nsupdate")
        .args(options)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("nsupdate starts");
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

fn update(server: &Server, options: &[&str], lines: &str) {
    let output = nsupdate(server, options, lines);
    assert!(output.status.success(), "{lines}: {}", told(&output));
}

fn refused(server: &Server, options: &[&str], lines: &str, why: &str) {
    let output = nsupdate(server, options, lines);
    let text = told(&output);
    assert!(!output.status.success() && text.contains(why), "{lines}: {text}");
}

fn dig(server: &Server, args: &[&str]) -> String {
    stdout(Command::new("dig").args(["@127.0.0.1", "-p", &server.port(), "+time=5", "+tries=1"]).args(args))
}

fn short(server: &Server, name: &str, rtype: &str) -> Vec<String> {
    let text = dig(server, &["+short", name, rtype]);
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn nsupdate_adds_and_removes_records_of_all_types() {
    if !has("nsupdate", &["-V"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let key = key_file(directory.path(), "ddns", SECRET);
    let key = key.to_str().unwrap();
    let data = directory.path().join("data");
    let args = ["--update-key", key, "--data-dir", data.to_str().unwrap()];
    let (server, at) = start(&args);
    for transport in [&["-k", key][..], &["-v", "-k", key]] {
        let add = |name: &str, rest: &str| format!("update add {name}.{ZONE} 60 {rest}");
        let lines = [
            add("web", "A 10.0.0.1"),
            add("WEB", "A 10.0.0.2"),
            add("web", "AAAA fd00::1"),
            add("_http._tcp.web", &format!("SRV 0 5 80 web.{ZONE}.")),
            add("web", "TXT \"owner=us\""),
            add("www", &format!("CNAME web.{ZONE}.")),
            add("ptr", &format!("PTR web.{ZONE}.")),
        ];
        update(&server, transport, &lines.join("\n"));
        assert_eq!(short(&server, &format!("web.{ZONE}"), "A"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(short(&server, &format!("web.{ZONE}"), "AAAA"), ["fd00::1"]);
        assert_eq!(short(&server, &format!("_http._tcp.web.{ZONE}"), "SRV"), [format!("0 5 80 web.{ZONE}.")]);
        assert_eq!(short(&server, &format!("web.{ZONE}"), "TXT"), ["\"owner=us\""]);
        assert_eq!(short(&server, &format!("www.{ZONE}"), "CNAME"), [format!("web.{ZONE}.")]);
        assert_eq!(short(&server, &format!("ptr.{ZONE}"), "PTR"), [format!("web.{ZONE}.")]);
        assert!(
            dig(&server, &[&format!("web.{ZONE}"), "A"]).contains("\t60\tIN\tA"),
            "the TTL is the update's"
        );
        update(
            &server,
            transport,
            &format!("update delete web.{ZONE} A 10.0.0.1\nupdate delete web.{ZONE} TXT"),
        );
        assert_eq!(short(&server, &format!("web.{ZONE}"), "A"), ["10.0.0.2"]);
        assert!(short(&server, &format!("web.{ZONE}"), "TXT").is_empty());
        let all = ["web", "www", "ptr", "_http._tcp.web"].map(|name| format!("update delete {name}.{ZONE}"));
        update(&server, transport, &all.join("\n"));
        assert!(dig(&server, &[&format!("web.{ZONE}"), "A"]).contains("NXDOMAIN"));
    }
    // What is acknowledged is on disk, and what is added by other ways can be removed by this one.
    update(&server, &["-k", key], &format!("update add kept.{ZONE} 60 A 10.0.0.9"));
    assert!(run(&["add", "by-hand", "10.0.0.8", "--control", &at]).status.success());
    server.stop();
    let (server, _) = start(&args);
    assert_eq!(short(&server, &format!("kept.{ZONE}"), "A"), ["10.0.0.9"]);
    update(&server, &["-k", key], &format!("update delete by-hand.{ZONE} A"));
    assert!(short(&server, &format!("by-hand.{ZONE}"), "A").is_empty());
}

#[test]
fn prerequisites_hold_or_nothing_is_changed() {
    if !has("nsupdate", &["-V"]) {
        return;
    }
    let names = tempfile::tempdir().unwrap();
    let file = names.path().join("names");
    fs::write(&file, "10.0.0.5 filed\n").unwrap();
    let (server, _) = start(&["--allow-unsigned-updates", "--names", file.to_str().unwrap()]);
    let no_key = &[][..];
    let web = format!("web.{ZONE}");
    let add = format!("update add {web} 60 A 10.0.0.1");
    refused(&server, no_key, &format!("prereq yxdomain {web}\n{add}"), "NXDOMAIN");
    update(&server, no_key, &format!("prereq nxdomain {web}\n{add}"));
    refused(&server, no_key, &format!("prereq nxdomain {web}\nupdate add {web} 60 A 10.0.0.2"), "YXDOMAIN");
    refused(&server, no_key, &format!("prereq yxrrset {web} AAAA\n{add}"), "NXRRSET");
    refused(&server, no_key, &format!("prereq nxrrset {web} A\n{add}"), "YXRRSET");
    refused(&server, no_key, &format!("prereq yxrrset {web} A 10.0.0.7\nupdate delete {web}"), "NXRRSET");
    update(&server, no_key, &format!("prereq yxrrset {web} A 10.0.0.1\nupdate add {web} 60 A 10.0.0.2"));
    refused(&server, no_key, &format!("prereq yxrrset {web} A 10.0.0.1\nupdate delete {web}"), "NXRRSET");
    assert_eq!(short(&server, &web, "A"), ["10.0.0.1", "10.0.0.2"]);
    // An alias stands alone, and what comes second is passed over; another alias takes the first one's place.
    update(&server, no_key, &format!("update add {web} 60 CNAME x.{ZONE}."));
    assert!(short(&server, &web, "CNAME").is_empty());
    update(&server, no_key, &format!("update add alias.{ZONE} 60 CNAME x.{ZONE}."));
    update(
        &server,
        no_key,
        &format!("update add alias.{ZONE} 60 CNAME y.{ZONE}.\nupdate add alias.{ZONE} 60 A 10.0.0.1"),
    );
    assert_eq!(short(&server, &format!("alias.{ZONE}"), "CNAME"), [format!("y.{ZONE}.")]);
    // The zone's own records stay, and what is in files is removed there; with the rest nothing is changed.
    update(&server, no_key, &format!("update delete {ZONE} NS"));
    assert!(!short(&server, ZONE, "NS").is_empty());
    refused(&server, no_key, &format!("update delete {web} A\nupdate delete filed.{ZONE} A"), "REFUSED");
    assert_eq!(short(&server, &web, "A").len(), 2);
    refused(&server, no_key, &format!("update add {web} 60 TYPE65280 \\# 1 00"), "REFUSED");
    refused(&server, no_key, "update add a.elsewhere.test 60 A 10.0.0.1", "NOTZONE");
    let elsewhere = "zone elsewhere.test\nupdate add a.elsewhere.test 60 A 10.0.0.1";
    refused(&server, no_key, elsewhere, "NOTAUTH");
}

#[test]
fn what_another_node_has_registered_stays() {
    if !has("nsupdate", &["-V"]) {
        return;
    }
    let directory = temp();
    let [first, second, _third] = trio(directory.path(), &["--allow-unsigned-updates"]);
    first.add("theirs", "10.0.0.1");
    second.add("mine", "10.0.0.2");
    second.wait_for("theirs", &[1]);
    let delete = |name: &str| format!("update delete {name}.{ZONE} A");
    refused(&second.server, &[], &delete("theirs"), "REFUSED");
    // Nor is the part of an update made that could be.
    let both = format!("{}\n{}", delete("mine"), delete("theirs"));
    refused(&second.server, &[], &both, "REFUSED");
    assert_eq!((second.answers("theirs"), second.answers("mine")), (vec![1], vec![2]));
    update(&second.server, &[], &delete("mine"));
    assert!(second.answers("mine").is_empty());
    first.wait_for("mine", &[]);
    assert_eq!(first.answers("theirs"), [1]);
}

#[test]
fn who_may_not_changes_nothing() {
    if !has("nsupdate", &["-V"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let key = key_file(directory.path(), "ddns", SECRET);
    let lab = key_file(directory.path(), "lab", SECRET);
    let wrong = directory.path().join("wrong");
    fs::create_dir(&wrong).unwrap();
    let wrong = key_file(&wrong, "ddns", OTHER_SECRET);
    let unknown = key_file(directory.path(), "unknown", SECRET);
    let of_lab = format!("lab.test={}", lab.display());
    let (server, _) = start(&[
        "--update-key",
        key.to_str().unwrap(),
        "--update-key",
        &of_lab,
        "--domain",
        ZONE,
        "--domain",
        "lab.test",
        "--domain",
        &format!("sub.{ZONE}"),
    ]);
    let add = format!("update add web.{ZONE} 60 A 10.0.0.1");
    let with = |key: &Path| ["-k".to_owned(), key.display().to_string()];
    let refused_with = |key: &Path, why: &str| {
        let options = with(key);
        refused(&server, &[&options[0], &options[1]], &add, why);
    };
    refused(&server, &[], &add, "REFUSED");
    refused_with(&wrong, "NOTAUTH(BADSIG)");
    refused_with(&unknown, "NOTAUTH(BADKEY)");
    refused_with(&lab, "REFUSED");
    assert!(short(&server, &format!("web.{ZONE}"), "A").is_empty());
    let options = with(&lab);
    let lines = "zone lab.test\nupdate add a.lab.test 60 A 10.0.0.1";
    update(&server, &[&options[0], &options[1]], lines);
    assert_eq!(short(&server, "a.lab.test", "A"), ["10.0.0.1"]);
    // A zone of ours below another one is another zone, with keys of its own.
    let options = with(&key);
    let below = format!("update add a.sub.{ZONE} 60 A 10.0.0.1");
    refused(&server, &[&options[0], &options[1]], &below, "NOTZONE");
    // A clock that is wrong by ten minutes: dnspython's can be told another time.
    if has("/usr/bin/python3", &["-c", "import dns.tsigkeyring"]) {
        let output = Command::new("/usr/bin/python3")
            .args(["-c", LATE_UPDATE, &server.port(), SECRET])
            .output()
            .unwrap();
        let text = told(&output);
        assert!(text.contains("PeerBadTime"), "{text}");
        assert!(short(&server, &format!("web.{ZONE}"), "A").is_empty());
    }
    // Without any of this, updates are not known at all.
    let (plain, _) = start(&[]);
    refused(&plain, &[], &add, "NOTIMP");
}

/// An NSD that has a copy of the zone.
struct Secondary {
    child: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Secondary {
    fn start(primary: &Server, secret: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let port = free_port();
        let dir = directory.path().display();
        let primary = primary.port();
        let config = format!(
            "server:\n ip-address: 127.0.0.1@{port}\n zonesdir: \"{dir}\"\n zonelistfile: \"{dir}/zone.list\"\n \
             database: \"\"\n xfrdfile: \"{dir}/xfrd.state\"\n xfrdir: \"{dir}\"\n pidfile: \"\"\n username: \"\"\n \
             logfile: \"{dir}/log\"\n verbosity: 2\n chroot: \"\"\n\
             remote-control:\n control-enable: no\n\
             key:\n name: \"copies\"\n algorithm: hmac-sha256\n secret: \"{secret}\"\n\
             zone:\n name: \"{ZONE}\"\n zonefile: \"zone\"\n request-xfr: AXFR 127.0.0.1@{primary} copies\n \
             allow-notify: 127.0.0.1 NOKEY\n min-refresh-time: 1\n max-refresh-time: 1\n min-retry-time: 1\n \
             max-retry-time: 1\n"
        );
        let file = directory.path().join("nsd.conf");
        fs::write(&file, config).unwrap();
        let child = Command::new("nsd").arg("-d").arg("-c").arg(&file).spawn().expect("nsd starts");
        Self { child, port, _directory: directory }
    }

    fn short(&self, name: &str, rtype: &str) -> Vec<String> {
        let port = self.port.to_string();
        let output = Command::new("dig")
            .args(["@127.0.0.1", "-p", &port, "+short", "+time=1", "+tries=1", "+tcp", name, rtype])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut lines: Vec<_> =
            text.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect();
        lines.sort();
        lines
    }
}

impl Drop for Secondary {
    fn drop(&mut self) {
        // It has children of its own, which end with it.
        let _ = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = udp.local_addr().unwrap().port();
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

#[test]
fn nsd_has_a_copy_and_follows_what_changes() {
    if !has("/usr/sbin/nsd", &["-v"]) || !has("dig", &["-v"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let key = key_file(directory.path(), "copies", SECRET);
    let names = directory.path().join("names");
    let many: String = (0..3_000).map(|i| format!("10.1.{}.{} host-{i}\n", i / 250, i % 250 + 1)).collect();
    fs::write(&names, many).unwrap();
    let zone = directory.path().join("zone");
    fs::write(
        &zone,
        "web A 10.0.0.1\nweb A 10.0.0.2\nweb TXT \"a\"\nwww CNAME web\n_http._tcp.web SRV 0 0 80 web\n",
    )
    .unwrap();
    let args = [
        "--transfer-key",
        key.to_str().unwrap(),
        "--names",
        names.to_str().unwrap(),
        "--zone",
        zone.to_str().unwrap(),
    ];
    let (server, at) = start(&args);
    let secondary = Secondary::start(&server, SECRET);
    wait_until("it has the zone", || !secondary.short(ZONE, "SOA").is_empty());
    for (name, rtype) in [
        (format!("web.{ZONE}"), "A"),
        (format!("web.{ZONE}"), "TXT"),
        (format!("www.{ZONE}"), "CNAME"),
        (format!("_http._tcp.web.{ZONE}"), "SRV"),
        (format!("host-2999.{ZONE}"), "A"),
        (ZONE.to_owned(), "NS"),
        (ZONE.to_owned(), "SOA"),
    ] {
        let expected = short(&server, &name, rtype);
        assert!(!expected.is_empty(), "{name} {rtype}");
        assert_eq!(secondary.short(&name, rtype), expected, "{name} {rtype}");
    }
    assert!(run(&["add", "fresh", "10.0.0.77", "--control", &at]).status.success());
    wait_until("what is new is there, too", || {
        secondary.short(&format!("fresh.{ZONE}"), "A") == ["10.0.0.77"]
    });
    assert!(run(&["remove", "fresh", "--control", &at]).status.success());
    wait_until("what is gone is gone", || secondary.short(&format!("fresh.{ZONE}"), "A").is_empty());
    // Who has another secret gets nothing.
    let stranger = Secondary::start(&server, OTHER_SECRET);
    wait_until("it is told", || server.log().contains("signed wrongly"));
    assert!(stranger.short(ZONE, "SOA").is_empty());
    assert!(get(&at, "/v1/status").json()["counters"]["handed_over"].as_u64() > Some(1));
}

#[test]
fn a_copy_is_the_whole_zone_and_is_given_to_whom_it_may() {
    if !has("dig", &["-v"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let key = key_file(directory.path(), "copies", SECRET);
    let updater = key_file(directory.path(), "ddns", SECRET);
    let names = directory.path().join("names");
    let many: String = (0..20_000)
        .map(|i| format!("10.{}.{}.{} host-{i}\n", 1 + i / 62_500, i / 250 % 250, i % 250 + 1))
        .collect();
    fs::write(&names, many).unwrap();
    let args = [
        "--transfer-key",
        key.to_str().unwrap(),
        "--update-key",
        updater.to_str().unwrap(),
        "--names",
        names.to_str().unwrap(),
        "--domain",
        ZONE,
        "--domain",
        &format!("sub.{ZONE}"),
    ];
    let (server, at) = start(&args);
    assert!(run(&["add", &format!("below.sub.{ZONE}"), "10.0.0.3", "--control", &at]).status.success());
    let copy = dig(&server, &["-k", key.to_str().unwrap(), ZONE, "AXFR"]);
    let records: Vec<_> = copy
        .lines()
        .filter(|line| !line.starts_with(';') && !line.is_empty() && !line.contains("\tTSIG\t"))
        .collect();
    let of_type =
        |rtype: &str| records.iter().filter(|line| line.split_whitespace().nth(3) == Some(rtype)).count();
    assert_eq!((of_type("SOA"), of_type("NS")), (2, 1), "{}", records.len());
    assert_eq!(of_type("A"), 20_001, "the names, and the name server's");
    assert!(records[0].contains("\tSOA\t") && records[records.len() - 1].contains("\tSOA\t"));
    assert!(!copy.contains("below.sub"), "that is another zone's");
    // Without a key, and with one for something else, there is none; a signed question of another kind is answered,
    // signed.
    assert!(dig(&server, &[ZONE, "AXFR"]).contains("Transfer failed"));
    assert!(dig(&server, &["-k", updater.to_str().unwrap(), ZONE, "AXFR"]).contains("Transfer failed"));
    let answer = dig(&server, &["-k", key.to_str().unwrap(), &format!("host-7.{ZONE}"), "A"]);
    assert!(
        answer.contains("10.1.0.8") && answer.contains("TSIG") && !answer.contains("Couldn't verify"),
        "{answer}"
    );
    let unsigned = dig(&server, &[&format!("host-7.{ZONE}"), "A"]);
    assert!(unsigned.contains("10.1.0.8") && !unsigned.contains("TSIG"));
    // Who takes nothing holds up nobody.
    let mut idle = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut idle, &[0, 12, 0]).unwrap();
    assert!(short(&server, &format!("host-8.{ZONE}"), "A").len() == 1);
}
