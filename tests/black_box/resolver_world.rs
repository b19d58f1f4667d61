//! Machines whose resolv.conf names nobody but us: all kinds of programs find our names and all others.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Server, has, stdout, wait_until};
use crate::upstreams::{BIG, Spot, Told, UNBOUND, Upstream, World, zone};

const RESOLV_CONF: &str = "nameserver 127.0.0.1\nsearch redbreast.internal\noptions timeout:10 attempts:1\n";
const HOSTS: &str = "10.0.0.1 web\n10.0.0.2 web\nfd00::1 web\n10.0.0.4 deep.er.redbreast.internal\n";

/// A machine, an Unbound in its network, and the server that it asks. It knows of the upstream by a file that names
/// itself, too.
fn machine() -> Option<(World, Upstream, Server)> {
    if !has(UNBOUND, &["-V"]) {
        return None;
    }
    let world = World::new(&[("resolv.conf", RESOLV_CONF), ("nsswitch.conf", "hosts: dns\n")])?;
    let reverse = " local-data-ptr: \"198.18.0.1 www.forwarded.example\"";
    let unbound = Upstream::unbound(Spot::In(&world, "127.0.0.2:53".parse().unwrap()), &zone(), reverse);
    let path = |name: &str| world.directory().join(name).to_str().unwrap().to_owned();
    fs::write(path("hosts"), HOSTS).unwrap();
    fs::write(path("upstreams"), "nameserver 127.0.0.1\nnameserver 127.0.0.2\n").unwrap();
    let upstreams = format!("--resolv-conf={}", path("upstreams"));
    let server = world.server(&["--workers", "1", "--names", &path("hosts"), &upstreams]);
    Some((world, unbound, server))
}

/// Builds a program of the tests' data, and returns where it is.
fn build(world: &World, compiler: &str, source: &str) -> String {
    let program = world.directory().join(compiler).to_str().unwrap().to_owned();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(source);
    let mut command = Command::new(compiler);
    if compiler == "go" {
        command.arg("build").env("GOCACHE", world.directory().join("cache")).env("GO111MODULE", "off");
    }
    stdout(command.arg("-o").arg(&program).arg(source));
    program
}

/// The lines of `text`: a name, and what was found, sorted.
fn found(text: &str) -> Vec<(&str, Vec<&str>)> {
    let line = |line| {
        let (name, rest) = str::split_once(line, ' ').unwrap_or((line, ""));
        let mut rest: Vec<_> = rest.trim_matches(['[', ']']).split(' ').collect();
        rest.sort_unstable();
        (name, rest)
    };
    text.lines().map(line).collect()
}

const LOCAL: [&str; 3] = ["10.0.0.1", "10.0.0.2", "fd00::1"];
const FORWARDED: [&str; 3] = ["198.18.0.1", "198.18.0.2", "2001:2::1"];

/// getaddrinfo(3) of the library that `compiler` links with.
fn check_library(compiler: &str, has_tcp: bool) {
    let Some((world, unbound, _server)) = machine() else { return };
    if !has(compiler, &["--version"]) {
        return;
    }
    let program = build(&world, compiler, "getaddrinfo_probe.c");
    let begin = Instant::now();
    for _ in 0..2 {
        let names = ["web", "web.redbreast.internal", "www.forwarded.example", "chain.forwarded.example."];
        let text = world.stdout(&program, &names);
        let (web, www) = (LOCAL.to_vec(), FORWARDED.to_vec());
        let expected =
            vec![(names[0], web.clone()), (names[1], web), (names[2], www.clone()), (names[3], www)];
        assert_eq!(found(&text), expected, "{compiler}");
        let nobody = ["nobody", "nobody.redbreast.internal", "nobody.forwarded.example", "a.invalid"];
        let text = world.stdout(&program, &nobody);
        assert!(text.lines().all(|line| line.ends_with(" EAI_NONAME")), "{compiler}: {text}");
        let text = world.stdout(&program, &["text.forwarded.example.", "localhost"]);
        assert!(!text.contains("text.forwarded.example. 1") && text.contains("127.0.0.1"), "{text}");
        if has_tcp {
            assert_eq!(found(&world.stdout(&program, &["big.forwarded.example"]))[0].1.len(), BIG);
        }
    }
    // resolv.conf has ten seconds for a question without an answer.
    assert!(begin.elapsed() < Duration::from_secs(10), "{compiler}: {:?}", begin.elapsed());
    for family in ["A", "AAAA"] {
        assert_eq!(unbound.heard("www.forwarded.example", family), 1, "the second time is from the cache");
    }
}

#[test]
fn glibc_finds_our_names_and_all_others() {
    check_library("gcc", true);
}

/// Before 1.2.4 it does not ask over TCP.
#[test]
fn musl_finds_our_names_and_all_others() {
    check_library("musl-gcc", false);
}

#[test]
fn getent_finds_names_by_their_addresses() {
    let Some((world, _unbound, _server)) = machine() else { return };
    let begin = Instant::now();
    for (address, name) in [
        ("10.0.0.1", "web.redbreast.internal"),
        ("fd00::1", "web.redbreast.internal"),
        ("198.18.0.1", "www.forwarded.example"),
        ("127.0.0.1", "localhost"),
    ] {
        let text = world.stdout("getent", &["hosts", address]);
        assert_eq!(text.split_whitespace().collect::<Vec<_>>(), [address, name]);
    }
    for nobody in
        ["10.9.9.9", "192.168.1.1", "fd00::9", "nobody.redbreast.internal", "nobody.forwarded.example"]
    {
        let status = world.command("getent").args(["hosts", nobody]).status().unwrap();
        assert_eq!(status.code(), Some(2), "{nobody}");
    }
    let text = world.stdout("getent", &["ahosts", "www.forwarded.example"]);
    assert!(FORWARDED.iter().all(|address| text.contains(address)), "{text}");
    assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
}

/// Go is a large package and `scripts/test` does not install it; where it is there, its resolver is asked.
#[test]
fn go_finds_our_names_and_all_others() {
    if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no go here");
        return;
    }
    let Some((world, _unbound, _server)) = machine() else { return };
    let program = build(&world, "go", "lookup.go");
    let names =
        ["web", "www.forwarded.example", "chain.forwarded.example.", "nobody.forwarded.example", "nobody"];
    let text = world.stdout(&program, &[&["resolv.conf"], &names[..]].concat());
    let none = vec!["found:", "not", "true"];
    let expected = [LOCAL.to_vec(), FORWARDED.to_vec(), FORWARDED.to_vec(), none.clone(), none];
    assert_eq!(found(&text), names.into_iter().zip(expected).collect::<Vec<_>>());
    let text = world.stdout(&program, &["resolv.conf", "big.forwarded.example"]);
    assert_eq!(text.matches("198.18.1.").count(), BIG, "over TCP: {text}");
}

#[test]
fn dig_and_drill_find_our_names_and_all_others() {
    if !has("dig", &["-v"]) || !has("drill", &["-v"]) {
        return;
    }
    let Some((world, _unbound, mut server)) = machine() else { return };
    server.wait_for_log("127.0.0.1 is this server itself, and is not asked");
    for (words, status, answers) in [
        (&["web.redbreast.internal"][..], "NOERROR", 2),
        (&["web.redbreast.internal", "AAAA"], "NOERROR", 1),
        (&["www.forwarded.example"], "NOERROR", 2),
        (&["chain.forwarded.example", "AAAA"], "NOERROR", 3),
        (&["big.forwarded.example"], "NOERROR", BIG),
        (&["nobody.redbreast.internal"], "NXDOMAIN", 0),
        (&["nobody.forwarded.example"], "NXDOMAIN", 0),
        (&["text.forwarded.example", "A"], "NOERROR", 0),
        (&["-x", "10.0.0.1"], "NOERROR", 1),
        (&["-x", "198.18.0.1"], "NOERROR", 1),
        (&["-x", "192.168.7.7"], "NXDOMAIN", 0),
    ] {
        for (dig, drill) in [("+notcp", "-4"), ("+tcp", "-t")] {
            let told = Told::read(world.stdout("dig", &[&[dig, "+time=10", "+tries=1"], words].concat()));
            assert_eq!((&*told.status, told.answer.len()), (status, answers), "{}", told.text);
            // It does not ask over TCP by itself.
            if answers == BIG && drill != "-t" {
                continue;
            }
            let text = world.stdout("drill", &[&[drill], words].concat());
            assert!(text.contains(&format!("rcode: {status}")), "{text}");
            assert!(text.contains(&format!("ANSWER: {answers},")), "{text}");
        }
    }
}

#[test]
fn a_change_of_resolv_conf_is_a_change_of_upstream() {
    if !has(UNBOUND, &["-V"]) || !has("dig", &["-v"]) {
        return;
    }
    let Some(world) = World::new(&[]) else { return };
    let upstream = |last: u8| {
        let zone = zone() + &format!("who 300 A 198.18.2.{last}\n");
        Upstream::unbound(Spot::In(&world, ([127, 0, 0, last], 53).into()), &zone, "")
    };
    let (second, third) = (upstream(2), upstream(3));
    let file = world.directory().join("upstreams");
    fs::write(&file, "nameserver 127.0.0.2\n").unwrap();
    let mut server = world.server(&[&format!("--resolv-conf={}", file.display())]);
    let ask =
        || Told::read(world.stdout("dig", &["@127.0.0.1", "+time=10", "+tries=1", "who.forwarded.example"]));
    let wait_for = |last: u8| {
        let expected = [format!("who.forwarded.example. IN A 198.18.2.{last}")];
        wait_until("the other answers", || ask().answer == expected);
    };
    wait_for(2);
    // As tools put another in its place, and as an editor writes into it. What the one before has said is forgotten.
    let other = world.directory().join("other");
    fs::write(&other, "# another network\nnameserver 127.0.0.3\n").unwrap();
    fs::rename(&other, &file).unwrap();
    wait_for(3);
    server.wait_for_log("asked for at: 127.0.0.3");
    fs::write(&file, "nameserver 127.0.0.2\nnameserver 127.0.0.1\n").unwrap();
    wait_for(2);
    server.wait_for_log("127.0.0.1 is this server itself, and is not asked");
    // Once each, and once more where the machine was too busy to answer in time.
    assert!(
        second.heard("who.forwarded.example", "A") >= 2 && third.heard("who.forwarded.example", "A") >= 1
    );
    // Without anybody in it nobody is asked, and that is told.
    fs::write(&file, "search example\n").unwrap();
    server.wait_for_log("there is no name server in it");
    wait_until("nobody is asked", || ask().status == "REFUSED");
    fs::write(&file, "nameserver 127.0.0.3\n").unwrap();
    wait_for(3);
}
