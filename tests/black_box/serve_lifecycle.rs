//! Start, change of names, and stop of `redbreast serve`, and what it says when something is wrong.

use std::fmt::Write;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{Server, ask, query, run, wait_until};

const A: u16 = 1;

/// The last byte of the one address of `name`; `None` if there is no answer.
fn last_octet(socket: &UdpSocket, name: &str) -> Option<u8> {
    let answer = ask(socket, &query(7, name, A));
    assert_eq!(answer[..2], [0, 7]);
    (answer[7] == 1).then(|| answer[answer.len() - 1])
}

fn wait_for_octet(server: &Server, name: &str, octet: Option<u8>) {
    let client = server.client();
    wait_until(&format!("{name} has {octet:?}: {}", server.log()), || last_octet(&client, name) == octet);
}

#[test]
fn names_follow_their_file_however_it_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, "10.0.0.1 web\n").unwrap();
    let server = Server::with_names(&file, &[]);
    wait_for_octet(&server, "web.redbreast.internal", Some(1));

    fs::write(&file, "10.0.0.2 web\n").unwrap();
    wait_for_octet(&server, "web.redbreast.internal", Some(2));

    let next = dir.path().join("next");
    fs::write(&next, "10.0.0.3 web\n10.0.0.4 more\n").unwrap();
    fs::rename(&next, &file).unwrap();
    wait_for_octet(&server, "web.redbreast.internal", Some(3));
    wait_for_octet(&server, "more.redbreast.internal", Some(4));

    fs::write(&file, "10.0.0.4 more\n").unwrap();
    wait_for_octet(&server, "web.redbreast.internal", None);
}

#[test]
fn names_follow_a_link_that_is_swapped() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for (version, octet) in [("v1", 1), ("v2", 2)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("hosts"), format!("10.0.0.{octet} web\n")).unwrap();
    }
    symlink("v1", at("current")).unwrap();
    symlink("current/hosts", at("hosts")).unwrap();
    let server = Server::with_names(&at("hosts"), &[]);
    wait_for_octet(&server, "web.redbreast.internal", Some(1));
    symlink("v2", at("next")).unwrap();
    fs::rename(at("next"), at("current")).unwrap();
    wait_for_octet(&server, "web.redbreast.internal", Some(2));
}

#[test]
fn a_file_with_a_mistake_is_refused_whole_and_the_old_names_stay() {
    let dir = tempfile::tempdir().unwrap();
    let (file, other) = (dir.path().join("hosts"), dir.path().join("other"));
    fs::write(&file, "10.0.0.1 web\n").unwrap();
    fs::write(&other, "10.0.0.9 other\n").unwrap();
    let mut server = Server::with_names(&file, &["--names", other.to_str().unwrap()]);
    fs::write(&file, "10.0.0.2 web\n10.0.0.300 db\n").unwrap();
    server.wait_for_log("hosts:2: `10.0.0.300` is not an address");
    wait_for_octet(&server, "web.redbreast.internal", Some(1));
    wait_for_octet(&server, "other.redbreast.internal", Some(9));
    fs::remove_file(&file).unwrap();
    server.signal("-HUP");
    server.wait_for_log("hosts: cannot read the names file");
    wait_for_octet(&server, "web.redbreast.internal", Some(1));
    fs::write(&file, "10.0.0.3 web\n").unwrap();
    server.signal("-HUP");
    wait_for_octet(&server, "web.redbreast.internal", Some(3));
}

/// The real thing at a smaller scale: `scripts/bench-servers --updates` measures what it costs.
#[test]
fn ten_thousand_names_are_republished_ten_times_a_second_and_every_answer_stays_right() {
    let dir = tempfile::tempdir().unwrap();
    let (file, next) = (dir.path().join("hosts"), dir.path().join("next"));
    let write_version = |path: &Path, version: u8| {
        let mut hosts = format!("10.9.0.{version} moving\n");
        for i in 0..10_000u32 {
            let [_, _, high, low] = i.to_be_bytes();
            writeln!(hosts, "10.0.{high}.{low} host-{i}").unwrap();
        }
        fs::write(path, hosts).unwrap();
    };
    write_version(&file, 0);
    let server = Server::with_names(&file, &[]);
    let client = server.client();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            for version in 1..=30 {
                let begin = Instant::now();
                write_version(&next, version);
                fs::rename(&next, &file).unwrap();
                thread::sleep(Duration::from_millis(100).saturating_sub(begin.elapsed()));
            }
            done.store(true, Ordering::Release);
        });
        let (mut newest, mut asked) = (0, 0u32);
        while !done.load(Ordering::Acquire) {
            let i = asked * 7919 % 10_000;
            assert_eq!(
                last_octet(&client, &format!("host-{i}.redbreast.internal")),
                Some(i.to_be_bytes()[3])
            );
            assert_eq!(last_octet(&client, &format!("nobody-{i}.redbreast.internal")), None);
            let now = last_octet(&client, "moving.redbreast.internal").expect("it never vanishes");
            // One socket always reaches the same worker, and what a worker has seen it does not forget.
            assert!(now >= newest, "went back from {newest} to {now}");
            (newest, asked) = (now, asked + 1);
        }
        assert!(newest > 5, "updates arrived while we asked: {newest} of 30");
        assert!(asked > 100, "asked {asked}");
    });
    wait_for_octet(&server, "moving.redbreast.internal", Some(30));
}

#[test]
fn a_stop_answers_what_was_received_before() {
    const QUERIES: u16 = 200;
    for signal in ["-TERM", "-INT"] {
        let server = Server::start(&[]);
        let client = server.client();
        // While it is halted, its queue fills and the request to stop comes in: it finds both when it goes on.
        server.signal("-STOP");
        for id in 0..QUERIES {
            client.send(&query(id, "nobody.redbreast.internal", A)).unwrap();
        }
        server.signal(signal);
        server.signal("-CONT");
        let log = server.stop_after(|| {
            let mut answer = [0; 512];
            for _ in 0..QUERIES {
                client.recv(&mut answer).expect("every query is answered");
            }
        });
        assert!(log.contains(&format!("nxdomain {QUERIES}")), "{log}");
    }
}

#[test]
fn a_port_in_use_is_told_whoever_has_it() {
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ours = Server::start(&["--workers", "2"]);
    for taken in [other.local_addr().unwrap(), ours.address] {
        let output = run(&["serve", "--listen", &taken.to_string()]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(&format!("cannot listen on {taken}: another program has UDP port")), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
}

#[test]
fn mistakes_on_the_command_line_and_in_files_end_with_status_2_and_say_what() {
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("wrong");
    fs::write(&wrong, "10.0.0.1 web\n10.0.0.2 web.example.org\n").unwrap();
    let wrong = wrong.to_str().unwrap();
    for (args, told) in [
        (&["--names", "/nonexistent/hosts"][..], "/nonexistent/hosts: cannot read the names file: "),
        (
            &["--names", wrong],
            "wrong:2: `web.example.org` is in none of the domains served (redbreast.internal.)",
        ),
        (&["--listen", "localhost"], "invalid value 'localhost' for '--listen"),
        (&["--listen", "192.0.2.1:0"], "cannot listen on 192.0.2.1:0: this machine has no such address"),
        (&["--workers", "0"], "invalid value '0' for '--workers"),
        (&["--domain", "a..b"], "a label between two dots cannot be empty"),
        (&["--domain", "."], "the root cannot be served"),
        (&["--ttl", "-1"], "invalid value '-1' for '--ttl"),
        (&["--allow", "10.0.0.1/8"], "invalid value '10.0.0.1/8' for '--allow"),
        (&["--bogus"], "unexpected argument '--bogus'"),
    ] {
        let output = run(&[&["serve"], args].concat());
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{args:?}: {text}");
        assert!(text.contains(told), "{args:?}: {text}");
        assert!(!text.contains("panicked"), "{text}");
    }
}

#[test]
fn several_addresses_and_domains_are_served_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, "10.0.0.1 web web.sub.example.com\n").unwrap();
    let args = [
        "--listen",
        "[::1]:0",
        "--domain",
        "one.test",
        "--domain",
        "example.com",
        "--domain",
        "sub.example.com",
    ];
    let server = Server::with_names(&file, &args);
    let v6 = server
        .log()
        .split("listening on [::1]:")
        .nth(1)
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .to_owned();
    let client = UdpSocket::bind("[::1]:0").unwrap();
    client.connect(format!("[::1]:{v6}")).unwrap();
    client.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    for socket in [&client, &server.client()] {
        assert_eq!(last_octet(socket, "web.one.test"), Some(1));
        assert_eq!(last_octet(socket, "web.sub.example.com"), Some(1));
        // The closest zone speaks: the SOA's owner is a pointer to where `sub` begins.
        let answer = ask(socket, &query(1, "nobody.sub.example.com", A));
        assert_eq!(answer[40..42], [0xc0, 12 + 7], "{answer:?}");
    }
}
