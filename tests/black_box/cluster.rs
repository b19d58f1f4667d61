//! Nodes that gossip: what is registered at one is answered by all, whatever happens to whom.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{ask, has, query, run, stdout, wait_until};
use crate::nodes::{Node, temp, trio};

const A: u16 = 1;
const SRV: u16 = 33;

#[test]
fn what_is_registered_at_one_is_answered_by_all_as_long_as_it_lives() {
    let directory = temp();
    let nodes = trio(directory.path(), &[]);
    for (node, address) in nodes.iter().zip(["10.0.0.1", "10.0.0.2", "10.0.0.3"]) {
        node.add("web", address);
    }
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2, 3]));
    assert_eq!(nodes[0].verb(&["add", "web", "10.0.0.1"])["unchanged"], 1);

    nodes[1].verb(&["remove", "web", "10.0.0.2"]);
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 3]));

    nodes[1].verb(&["add", "shop", "10.0.0.7", "--port", "80", "--service", "http"]);
    let service = query(3, "_http._tcp.shop.redbreast.internal", SRV);
    let answered = |node: &Node| ask(&node.server.client(), &service)[7];
    wait_until("the service is everywhere", || nodes.iter().all(|node| answered(node) == 1));
    assert_eq!(nodes[1].verb(&["remove", "shop"])["removed"], 2, "a service goes with its name");
    wait_until("the service is gone everywhere", || nodes.iter().all(|node| answered(node) == 0));

    // One that is killed is missed after a while, one that leaves at once.
    let [first, second, third] = nodes;
    drop(third);
    first.wait_for("web", &[1]);
    let members = second.verb(&["members"]);
    let state = |name: &str| {
        members
            .as_array()
            .unwrap()
            .iter()
            .find(|member| member["name"] == name)
            .map(|member| member["state"].clone())
    };
    assert_eq!(state("n3"), Some("down".into()), "{members}");
    assert_eq!((state("n1"), state("n2")), (Some("up".into()), Some("self".into())));
    first.server.stop();
    second.wait_for("web", &[]);
    assert_eq!(second.members(), 1);
    assert!(second.server.log().contains("n1 at"), "{}", second.server.log());
    assert!(second.server.log().contains("has left"), "{}", second.server.log());
}

#[test]
fn a_node_finds_the_cluster_by_name_and_when_it_comes_up_later() {
    let directory = temp();
    // A port that is free now.
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let early = Node::start(directory.path(), "early", &["--join", &format!("localhost:{port}")]);
    early.add("web", "10.0.0.1");
    thread::sleep(Duration::from_millis(300));
    let late = Node::start_at(directory.path(), "late", &format!("127.0.0.1:{port}"), &[]);
    late.wait_for("web", &[1]);
}

/// Writes a key file of these keys; in one step, as an operator should.
fn write_keys(path: &Path, keys: &[u8]) {
    let text: String = keys.iter().map(|key| format!("{key:02x}").repeat(32) + "\n").collect();
    let next = path.with_extension("next");
    fs::write(&next, text).unwrap();
    fs::set_permissions(&next, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&next, path).unwrap();
}

#[test]
fn keys_are_changed_while_the_cluster_runs_and_nobody_is_missed() {
    let directory = temp();
    let files: Vec<PathBuf> = (1..=3).map(|i| directory.path().join(format!("k{i}/keys"))).collect();
    for file in &files {
        fs::create_dir(file.parent().unwrap()).unwrap();
        write_keys(file, &[1]);
    }
    let file = |i: usize| files[i].to_str().unwrap();
    let first = Node::start(directory.path(), "n1", &["--key-file", file(0)]);
    let join = first.join();
    let second = Node::start(directory.path(), "n2", &["--key-file", file(1), "--join", &join]);
    let third = Node::start(directory.path(), "n3", &["--key-file", file(2), "--join", &join]);
    let nodes = [first, second, third];
    wait_until("all know each other", || nodes.iter().all(|node| node.members() == 3));
    let mut address = 0u8;
    for keys in [&[1, 2][..], &[2, 1], &[2]] {
        for (node, file) in nodes.iter().zip(&files) {
            let before = node.server.log().matches("gossip is sealed").count();
            write_keys(file, keys);
            wait_until("the keys are taken", || {
                node.server.log().matches("gossip is sealed").count() > before
            });
            // In every step between, what one registers comes to all.
            address += 1;
            node.add("web", &format!("10.0.0.{address}"));
            let expected: Vec<_> = (1..=address).collect();
            nodes.iter().for_each(|node| node.wait_for("web", &expected));
        }
    }
    for node in &nodes {
        assert!(!node.server.log().contains("is down"), "{}", node.server.log());
        assert_eq!(node.counter("rejected_unknown_key"), 0);
    }
    // A mistake in the file changes nothing, and is told with its line.
    fs::write(&files[0], "no key\n").unwrap();
    wait_until("it complains", || nodes[0].server.log().contains("keys:1: a key has 64 hexadecimal digits"));
    nodes[0].add("web", "10.0.0.99");
    wait_until("it still talks", || nodes[2].answers("web").contains(&99));
}

#[test]
fn strangers_are_told_apart_and_told_of() {
    let directory = temp();
    let keys = directory.path().join("keys");
    write_keys(&keys, &[1]);
    let other_keys = directory.path().join("other-keys");
    write_keys(&other_keys, &[2]);
    let [keys, other_keys] = [&keys, &other_keys].map(|path| path.to_str().unwrap());
    let sealed = Node::start(directory.path(), "sealed", &["--key-file", keys]);
    let plain = Node::start(directory.path(), "plain", &[]);
    let (to_sealed, to_plain) = (sealed.join(), plain.join());
    let strangers = [
        (&sealed, "unknown_key", vec!["--join", &to_sealed, "--key-file", other_keys]),
        (&sealed, "forged", vec!["--join", &to_sealed, "--key-file", keys, "--cluster", "other"]),
        (&sealed, "plain", vec!["--join", &to_sealed]),
        (&plain, "sealed", vec!["--join", &to_plain, "--key-file", keys]),
        (&plain, "cluster", vec!["--join", &to_plain, "--cluster", "other"]),
    ];
    for (i, (node, reason, args)) in strangers.iter().enumerate() {
        let stranger = Node::start(directory.path(), &format!("stranger-{i}"), args);
        wait_until(&format!("it is rejected as {reason}"), || {
            node.counter(&format!("rejected_{reason}")) > 0
        });
        assert_eq!((node.members(), stranger.members()), (1, 1), "{reason}");
        wait_until("that is told", || node.server.log().contains("gossip was rejected"));
    }
    // It is told once a minute, not each time.
    assert_eq!(sealed.server.log().matches("gossip was rejected").count(), 1);
}

#[test]
fn gossip_beyond_this_machine_takes_keys_or_the_word_for_it() {
    let refused = |args: &[&str]| {
        let output = run(&[&["serve", "--listen", "127.0.0.1:0"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{args:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let told = refused(&["--gossip", "192.0.2.1:6783"]);
    assert!(
        told.contains("--key-file") && told.contains("--insecure-gossip") && told.contains("openssl"),
        "{told}"
    );
    let told = refused(&["--gossip", "192.0.2.1:6783", "--insecure-gossip"]);
    assert!(told.contains("no such address"), "only the address is missing now: {told}");
    assert!(refused(&["--gossip", "0.0.0.0:6783"]).contains("give one of its addresses"));
    assert!(refused(&["--join", "10.0.0.1"]).contains("--gossip"));
    for seed in ["", ":1", "host:", "host:0", "host:x", "host:65536", "a b"] {
        refused(&["--gossip", "127.0.0.1:0", "--join", seed]);
    }
    assert!(refused(&["--control", "192.0.2.1:80"]).contains("--control-token-file"));
    assert!(refused(&["--node-name", &"x".repeat(65)]).contains("64 bytes"));
    let directory = temp();
    let keys = directory.path().join("keys");
    write_keys(&keys, &[1]);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    let told = refused(&["--gossip", "127.0.0.1:0", "--key-file", keys.to_str().unwrap()]);
    assert!(told.contains("chmod 600"), "{told}");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let told = refused(&["--gossip", &taken.local_addr().unwrap().to_string()]);
    assert!(told.contains("another program has port"), "{told}");
}

#[test]
fn verbs_say_what_is_wrong() {
    let directory = temp();
    let names = directory.path().join("names");
    fs::write(&names, "10.9.0.1 filed\n").unwrap();
    let node = Node::start(directory.path(), "n1", &["--names", names.to_str().unwrap()]);
    let second = Node::start(directory.path(), "n2", &["--join", &node.join()]);
    second.add("elsewhere", "10.0.0.1");
    node.wait_for("elsewhere", &[1]);
    let said = |code: i32, args: &[&str]| {
        let output = run(&[args, &["--control", &node.control]].concat());
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        errors
    };
    assert!(said(2, &["add", "web.example.org", "10.0.0.1"]).contains("redbreast.internal"));
    assert!(said(2, &["add", "a..b", "10.0.0.1"]).contains("a..b"));
    assert!(said(2, &["add", "web", "0.0.0.0"]).contains("no address of a host"));
    assert!(said(2, &["add", "web", "10.0.0.1", "--instance", "files"]).contains("node's own"));
    assert!(said(2, &["add", "web", "10.0.0.1", "--ttl", "4294967295"]).contains("TTL"));
    said(2, &["add", "web", "10.0.0.1", "--port", "80"]);
    said(2, &["add", "web", "10.0.0.256"]);
    said(2, &["add", "web"]);
    assert!(said(1, &["remove", "nobody"]).contains("nothing to remove"));
    assert!(said(1, &["remove", "filed"]).contains("in the files of this node"));
    assert!(said(1, &["remove", "elsewhere"]).contains("registered at n2"));
    let output = run(&["names", "--control", "unix:/nonexistent"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stderr).unwrap().contains("cannot reach a node"));
    let told = node.verb(&["names", "elsewhere"]);
    assert_eq!((&told[0]["data"], &told[0]["node"]), (&"10.0.0.1".into(), &"n2".into()), "{told}");
    assert_eq!(node.verb(&["names", "none"]), Value::Array(Vec::new()));
}

#[test]
fn what_was_acknowledged_survives_a_kill_at_any_moment() {
    let directory = temp();
    let data = directory.path().join("data");
    let args = ["--data-dir", data.to_str().unwrap()];
    let acknowledged = Mutex::new(Vec::<u32>::new());
    let mut rng = fastrand::Rng::new();
    let mut next = 0u32;
    for round in 0..12 {
        let node = Node::start(directory.path(), "n1", &args);
        let told = node.verb(&["names"]);
        let there: Vec<_> = told.as_array().unwrap().iter().filter_map(|it| it["name"].as_str()).collect();
        for number in acknowledged.lock().unwrap().iter() {
            let name = format!("k{number}.redbreast.internal.");
            assert!(there.contains(&name.as_str()), "round {round}: {name} was acknowledged and is lost");
        }
        // Several ask at once, so that some share a write; each over a connection of its own.
        let path = node.control.trim_start_matches("unix:").to_owned();
        let kill_after = Duration::from_millis(rng.u64(5..150));
        thread::scope(|scope| {
            for lane in 0..4 {
                let (path, acknowledged) = (&path, &acknowledged);
                let mut number = next + lane;
                scope.spawn(move || {
                    while post_name(path, &format!("k{number}")) {
                        acknowledged.lock().unwrap().push(number);
                        number += 4;
                    }
                });
            }
            thread::sleep(kill_after);
            node.server.signal("-KILL");
        });
        next += 100_000;
        drop(node);
    }
    let count = acknowledged.lock().unwrap().len();
    assert!(count > 20, "{count} is too few to tell");
}

/// Registers a name over the socket at `path`. Returns whether that was acknowledged.
fn post_name(path: &str, name: &str) -> bool {
    let body = format!(r#"{{"name":"{name}","addresses":["10.0.0.1"]}}"#);
    let head = format!(
        "POST /v1/names HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: \
         {}\r\n\r\n",
        body.len()
    );
    let exchange = || -> std::io::Result<String> {
        let mut socket = std::os::unix::net::UnixStream::connect(path)?;
        socket.write_all((head + &body).as_bytes())?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    };
    exchange().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.contains("\"durable\":true"))
}

#[test]
fn a_damaged_data_file_is_refused_and_another_node_s_too() {
    let directory = temp();
    let data = directory.path().join("data");
    let args = ["--data-dir", data.to_str().unwrap()];
    let node = Node::start(directory.path(), "n1", &args);
    node.add("web", "10.0.0.1");
    let refused = || {
        let output =
            run(&[&["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"], &args[..]].concat());
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(refused().contains("another redbreast uses this file"));
    node.server.stop();
    let file = data.join("redbreast.redb");
    let mut bytes = fs::read(&file).unwrap();
    bytes.truncate(bytes.len() / 2);
    fs::write(&file, &bytes).unwrap();
    let told = refused();
    assert!(told.contains("redbreast.redb") && told.contains("damaged") && told.contains("backup"), "{told}");
    assert_eq!(fs::read(&file).unwrap().len(), bytes.len(), "it is left as it is");
}

fn rss_kib(node: &Node) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", node.server.child.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Datagrams that are none, or were: random, cut, changed, and repeated ones.
fn flood(target: SocketAddr, recorded: &[Vec<u8>], rng: &mut fastrand::Rng, count: usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..count {
        let mut bytes = match rng.u8(..4) {
            0 => (0..rng.usize(..1500)).map(|_| rng.u8(..)).collect(),
            1 => vec![rng.u8(..3); rng.usize(..9000)],
            _ => rng.choice(recorded).cloned().unwrap_or_default(),
        };
        if rng.bool() {
            bytes.truncate(rng.usize(..=bytes.len()));
        }
        for _ in 0..rng.usize(..3) {
            if !bytes.is_empty() {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
        }
        // A full socket is the receiver's way to cope.
        let _ = socket.send_to(&bytes, target);
    }
}

#[test]
fn hostile_datagrams_and_streams_neither_stop_a_node_nor_make_it_grow() {
    let directory = temp();
    let keys = directory.path().join("keys");
    write_keys(&keys, &[1]);
    for (kind, args) in [("plain", vec![]), ("sealed", vec!["--key-file", keys.to_str().unwrap()])] {
        // What a node says to a seed, as anybody on the way could record it.
        let recorder = UdpSocket::bind("127.0.0.1:0").unwrap();
        recorder.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let seed = recorder.local_addr().unwrap().to_string();
        let first =
            Node::start(directory.path(), &format!("{kind}-1"), &[&args[..], &["--join", &seed]].concat());
        let second = Node::start(
            directory.path(),
            &format!("{kind}-2"),
            &[&args[..], &["--join", &first.join()]].concat(),
        );
        let mut recorded = Vec::new();
        let mut buffer = [0; 2048];
        for _ in 0..2 {
            let len = recorder.recv(&mut buffer).unwrap();
            recorded.push(buffer[..len].to_vec());
        }
        wait_until("both know each other", || second.members() == 2);
        let mut rng = fastrand::Rng::with_seed(1);
        flood(first.gossip, &recorded, &mut rng, 5_000);
        let before = rss_kib(&first);
        // Those who connect and say nothing, nonsense, or too much; more than there may be.
        let mut open = Vec::new();
        for i in 0..60 {
            let mut stream = TcpStream::connect(first.gossip).unwrap();
            let _ = match i % 3 {
                0 => Ok(()),
                1 => stream.write_all(&[0xff; 100]),
                _ => stream.write_all(&[&[0, 1, 0, 0, 1][..], &vec![7; 70_000]].concat()),
            };
            open.push(stream);
        }
        flood(first.gossip, &recorded, &mut rng, 20_000);
        let grown = rss_kib(&first).saturating_sub(before);
        assert!(grown < 16 * 1024, "{kind}: {grown} KiB more");
        // It still takes part, by datagram and by stream: more than fits in datagrams comes from it.
        let mut text = String::new();
        for i in 0..300 {
            writeln!(text, "10.1.{}.{} h{i}", i / 256, i % 256).unwrap();
        }
        let names = directory.path().join(format!("{kind}-names"));
        fs::write(&names, text).unwrap();
        let third = Node::start(
            directory.path(),
            &format!("{kind}-3"),
            &[&args[..], &["--join", &first.join(), "--names", names.to_str().unwrap()]].concat(),
        );
        first.wait_for("h299", &[43]);
        first.add("web", "10.0.0.1");
        third.wait_for("web", &[1]);
        second.wait_for("h0", &[0]);
        let reason = if kind == "sealed" { "rejected_forged" } else { "malformed" };
        assert!(first.counter(reason) > 0, "{kind}: {reason}");
        drop(open);
    }
}

#[test]
fn a_node_answers_without_a_pause_while_others_come_and_go() {
    let directory = temp();
    let nodes = trio(directory.path(), &[]);
    nodes[0].add("web", "10.0.0.1");
    nodes[2].wait_for("web", &[1]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut asked = 0;
            let client = nodes[2].server.client();
            while !done.load(Ordering::Relaxed) {
                let begin = Instant::now();
                let answer = ask(&client, &query(9, "web.redbreast.internal", A));
                assert_eq!(answer[7], 1, "the address is always there");
                slowest = slowest.max(begin.elapsed());
                asked += 1;
            }
            (asked, slowest)
        });
        for i in 0..4 {
            let node = Node::start(directory.path(), &format!("guest-{i}"), &["--join", &nodes[1].join()]);
            node.add("guest", &format!("10.0.1.{i}"));
            nodes[2].wait_for("guest", &[i]);
            node.server.stop();
            nodes[2].wait_for("guest", &[]);
        }
        done.store(true, Ordering::Relaxed);
        let (asked, slowest) = watch.join().unwrap();
        assert!(asked > 1000 && slowest < Duration::from_secs(1), "{asked} asked, slowest {slowest:?}");
    });
}

/// Partitions, loss, one-way links, kills, flapping, leaving and changing keys, among network namespaces: a script does
/// it and tells what was wrong.
#[test]
fn five_nodes_in_network_namespaces_answer_right_whatever_the_network_does() {
    let unshare = ["--net", "--mount", "--pid", "--fork", "true"];
    let tools =
        has("unshare", &unshare) && has("ip", &["-V"]) && has("nft", &["--version"]) && has("dig", &["-v"]);
    if !tools {
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/cluster-namespaces");
    let told = stdout(Command::new(script).arg(env!("CARGO_BIN_EXE_redbreast")).env("PATIENCE", "4"));
    assert!(told.contains("with the new one it is back"), "{told}");
}
