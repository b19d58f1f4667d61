//! The tools that people ask DNS servers with get right answers: kdig and drill; dig and dnspython are in
//! `serve_clients`.

use std::fs;
use std::process::Command;

use crate::harness::{Server, has, stdout};

const HOSTS: &str = "10.0.0.1 web\n10.0.0.2 web\nfd00::1 web\n";
const ZONE: &str = "_http._tcp.web SRV 0 5 8080 web\nshop CNAME web\nweb TXT \"two words\"\n";

fn serve() -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let (hosts, zone) = (dir.path().join("hosts"), dir.path().join("zone"));
    fs::write(&hosts, HOSTS).unwrap();
    fs::write(&zone, ZONE).unwrap();
    let server = Server::with_names(&hosts, &["--zone", zone.to_str().unwrap(), "--node-name", "node-7"]);
    (dir, server)
}

fn kdig(server: &Server, args: &[&str]) -> String {
    stdout(Command::new("kdig").args(["@127.0.0.1", "-p", &server.port(), "+timeout=10"]).args(args))
}

#[test]
fn kdig_keeps_one_connection_open_for_several_questions() {
    if !has("kdig", &["-V"]) {
        return;
    }
    let (_dir, server) = serve();
    let names = ["web.redbreast.internal", "shop.redbreast.internal", "nobody.redbreast.internal"];
    let text = kdig(&server, &[&["+tcp", "+keepopen", "+noall", "+header"], &names[..]].concat());
    let found: Vec<_> =
        text.lines().filter_map(|line| line.split("status: ").nth(1)?.split(';').next()).collect();
    assert_eq!(found, ["NOERROR", "NOERROR", "NXDOMAIN"], "{text}");
    let log = server.stop();
    assert!(log.contains("tcp_accepted 1"), "{log}");
}

#[test]
fn kdig_is_given_a_cookie_that_is_good_the_next_time_and_the_nodes_name() {
    if !has("kdig", &["-V"]) {
        return;
    }
    let (_dir, server) = serve();
    let text = kdig(&server, &["+cookie=0123456789abcdef", "+nsid", "web.redbreast.internal"]);
    assert!(text.contains("NSID") && text.contains("node-7"), "{text}");
    let cookie = |text: &str| {
        let rest = text.split("COOKIE: ").nth(1).unwrap_or_else(|| panic!("{text}"));
        rest.split_whitespace().next().unwrap().to_owned()
    };
    let first = cookie(&text);
    assert!(first.starts_with("0123456789ABCDEF") && first.len() == 48, "{text}");
    let again = kdig(&server, &[&format!("+cookie={first}"), "web.redbreast.internal"]);
    assert_eq!(cookie(&again), first, "a good cookie comes back as it is");
}

#[test]
fn kdig_reads_services_aliases_and_texts() {
    if !has("kdig", &["-V"]) {
        return;
    }
    let (_dir, server) = serve();
    for (name, qtype, expected) in [
        ("_http._tcp.web", "SRV", &["0 5 8080 web.redbreast.internal."][..]),
        ("shop", "AAAA", &["web.redbreast.internal.", "fd00::1"]),
        ("web", "TXT", &["\"two words\""]),
    ] {
        let text = kdig(&server, &["+short", &format!("{name}.redbreast.internal"), qtype]);
        assert_eq!(text.lines().collect::<Vec<_>>(), expected, "{name} {qtype}");
    }
}

#[test]
fn drill_gets_addresses_names_and_reasons() {
    if !has("drill", &["-v"]) {
        return;
    }
    let (_dir, server) = serve();
    let drill = |args: &[&str]| {
        stdout(Command::new("drill").args(["-p", &server.port()]).args(args).arg("@127.0.0.1"))
    };
    for transport in ["-u", "-t"] {
        let text = drill(&[transport, "web.redbreast.internal", "A"]);
        assert!(text.contains("rcode: NOERROR") && text.contains("flags: qr aa rd"), "{text}");
        assert_eq!(text.matches("\tIN\tA\t10.0.0.").count(), 2, "{text}");
        let text = drill(&[transport, "web.redbreast.internal", "AAAA"]);
        assert!(text.contains("\tIN\tAAAA\tfd00::1"), "{text}");
        let text = drill(&[transport, "nobody.redbreast.internal", "A"]);
        assert!(text.contains("rcode: NXDOMAIN") && text.contains("\tIN\tSOA\t"), "{text}");
    }
    let text = drill(&["-x", "fd00::1"]);
    assert!(text.contains("\tIN\tPTR\tweb.redbreast.internal."), "{text}");
    let text = drill(&["-D", "_http._tcp.web.redbreast.internal", "SRV"]);
    assert!(text.contains("0 5 8080 web.redbreast.internal."), "{text}");
    assert!(text.contains("EDNS: version 0; flags: do"), "{text}");
}
