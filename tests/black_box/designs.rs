//! `redbreast serve --design broadcast|cache`: nodes that ask each other at query time, as real processes on loopback.

use std::net::UdpSocket;
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::harness::{PATIENCE, Server, ask, has, query, redbreast, run, stdout, wait_until};

const WINDOW: Duration = Duration::from_millis(500);

/// Nodes that ask each other; the `i`-th has `own<i>` and `shared`.
struct Cluster {
    nodes: Vec<Server>,
    directory: TempDir,
}

impl Cluster {
    /// By multicast at a group of its own, or by unicast.
    fn start(design: &str, nodes: usize, multicast: bool, more: &[&str]) -> Self {
        let directory = TempDir::new().unwrap();
        // A port that is free now: nobody else will ask for it with this group.
        let port = || UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let group = format!("239.255.77.{}:{}", fastrand::u8(1..255), port());
        let peers: Vec<_> = (0..nodes).map(|_| format!("127.0.0.1:{}", port())).collect();
        let start = |i: usize| {
            let names = directory.path().join(format!("names{i}"));
            std::fs::write(&names, format!("10.0.0.{i} own{i} shared\n")).unwrap();
            let mut args = vec!["--design", design, "--names", names.to_str().unwrap()];
            if !more.contains(&"--workers") {
                args.extend(["--workers", "2"]);
            }
            if multicast {
                args.extend(["--multicast", &group]);
            } else {
                args.extend(["--peer-listen", &peers[i]]);
                peers.iter().for_each(|peer| args.extend(["--peer", peer]));
            }
            args.extend(more);
            Server::start(&args)
        };
        Self { nodes: (0..nodes).map(start).collect(), directory }
    }

    /// What dig says of a name at the first node: its addresses, its status, and how long that took.
    fn dig(&self, name: &str, more: &[&str]) -> (Vec<String>, String, Duration) {
        let begin = Instant::now();
        let mut dig = std::process::Command::new("dig");
        dig.args(["@127.0.0.1", "-p", &self.nodes[0].port(), "+tries=1", "+time=10", name]).args(more);
        let text = stdout(&mut dig);
        let took = begin.elapsed();
        let status =
            text.split("status: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap_or_default();
        let answers = text.split("ANSWER SECTION:\n").nth(1).unwrap_or_default();
        let answers = answers.lines().take_while(|line| !line.is_empty());
        let mut data: Vec<_> =
            answers.filter_map(|line| line.split_whitespace().last()).map(str::to_owned).collect();
        data.sort();
        (data, status.to_owned(), took)
    }

    /// How often the first node has counted something, when it has ended.
    fn count(mut self, event: &str) -> u64 {
        let log = self.nodes.remove(0).stop();
        let counted = log.split("counted: ").nth(1).expect("it tells");
        let of = counted.split([',', '\n']).find_map(|part| part.trim().strip_prefix(&format!("{event} ")));
        of.map_or(0, |count| count.parse().unwrap())
    }
}

#[test]
fn names_of_all_nodes_are_answered_over_udp_and_tcp_and_in_reverse() {
    if !has("dig", &["-v"]) {
        return;
    }
    for (design, multicast) in [("broadcast", true), ("cache", true), ("broadcast", false), ("cache", false)]
    {
        let cluster = Cluster::start(design, 3, multicast, &[]);
        for i in 0..3 {
            for more in [&[][..], &["+tcp"]] {
                let name = format!("own{i}.redbreast.internal");
                let (addresses, status, _) = cluster.dig(&name, more);
                assert_eq!(
                    (addresses, &*status),
                    (vec![format!("10.0.0.{i}")], "NOERROR"),
                    "{design} {name} {more:?}"
                );
            }
        }
        let (names, ..) = cluster.dig("2.0.0.10.in-addr.arpa", &["PTR"]);
        assert_eq!(names, ["own2.redbreast.internal."], "{design}");
        assert_eq!(cluster.dig("own1", &[]).0, ["10.0.0.1"], "a single label is one of the first domain");
        let (none, status, took) = cluster.dig("own2.redbreast.internal", &["AAAA"]);
        assert_eq!((none.len(), &*status), (0, "NOERROR"), "the name exists, the type does not");
        assert!(took < WINDOW, "who has the name says what it has: {took:?}");
        assert_eq!(
            cluster.dig("shared.redbreast.internal", &[]).0,
            ["10.0.0.0"],
            "own names are not asked for"
        );
    }
}

#[test]
fn a_name_that_nobody_has_waits_for_the_window_and_the_cache_keeps_that() {
    if !has("dig", &["-v"]) {
        return;
    }
    for (design, waits_again) in [("broadcast", true), ("cache", false)] {
        let cluster = Cluster::start(design, 2, true, &[]);
        for more in [&[][..], &["+tcp"]] {
            let name = format!("nobody{}.redbreast.internal", more.len());
            let (_, status, first) = cluster.dig(&name, more);
            assert!(status == "NXDOMAIN" && first >= WINDOW, "{design}: {status} after {first:?}");
            let (_, status, second) = cluster.dig(&name, more);
            assert_eq!(status, "NXDOMAIN");
            assert_eq!(second >= WINDOW, waits_again, "{design}: {second:?}");
        }
        let (_, status, _) = cluster.dig("example.com", &[]);
        assert_eq!(status, "REFUSED", "of other domains nobody is asked");
    }
}

#[test]
fn queries_for_one_name_share_one_question() {
    for design in ["broadcast", "cache"] {
        let cluster = Cluster::start(design, 2, true, &["--workers", "1"]);
        let clients: Vec<_> = (0..50).map(|_| cluster.nodes[0].client()).collect();
        for (id, client) in (0u16..).zip(&clients) {
            client.send(&query(id, "nobody.redbreast.internal", 1)).unwrap();
        }
        for (id, client) in (0u16..).zip(&clients) {
            let mut answer = [0; 512];
            client.recv(&mut answer).expect("each of them is answered");
            assert_eq!((&answer[..2], answer[3] & 15), (&id.to_be_bytes()[..], 3));
        }
        assert_eq!(cluster.count("peer_datagrams_out"), 1, "{design}");
    }
}

#[test]
fn the_first_answer_wins_unless_all_are_collected() {
    if !has("dig", &["-v"]) {
        return;
    }
    let shared = |cluster: &Cluster| {
        // The node that is asked does not have the name itself.
        std::fs::write(cluster.directory.path().join("names0"), "10.0.0.9 else\n").unwrap();
        wait_until("the file was read", || cluster.nodes[0].log().contains("names read again"));
        cluster.dig("shared.redbreast.internal", &[])
    };
    let (addresses, _, took) = shared(&Cluster::start("broadcast", 3, true, &["--window-ms", "700"]));
    assert!(addresses.len() == 1 && took < Duration::from_millis(700), "{addresses:?} after {took:?}");
    let (addresses, _, took) =
        shared(&Cluster::start("broadcast", 3, true, &["--window-ms", "700", "--collect"]));
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2"]);
    assert!(took >= Duration::from_millis(700), "{took:?}");
    // What comes after the first answer is in the cache when the window has ended.
    let cluster = Cluster::start("cache", 3, true, &["--window-ms", "50"]);
    shared(&cluster);
    wait_until("the cache has both", || cluster.dig("shared.redbreast.internal", &[]).0.len() == 2);
}

#[test]
fn the_cache_forgets_after_the_ttl_and_asks_again_before_that_for_what_is_wanted() {
    if !has("dig", &["-v"]) {
        return;
    }
    let cluster = Cluster::start("cache", 2, true, &["--ttl", "3"]);
    assert_eq!(cluster.dig("own1.redbreast.internal", &[]).0, ["10.0.0.1"]);
    std::fs::write(cluster.directory.path().join("names1"), "10.0.0.7 own1\n").unwrap();
    assert_eq!(cluster.dig("own1.redbreast.internal", &[]).0, ["10.0.0.1"], "kept");
    // Asked for in the background before it expires, so that nobody waits and the new address comes.
    wait_until("the new address is there", || cluster.dig("own1.redbreast.internal", &[]).0 == ["10.0.0.7"]);
    assert!(cluster.count("peer_datagrams_out") >= 2);
}

#[test]
fn many_unknown_names_at_once_hold_up_nobody() {
    let cluster = Cluster::start("cache", 2, true, &["--workers", "1"]);
    // Each has few enough for its socket to hold all answers, which come at once when the window ends.
    let clients: Vec<_> = (0..8).map(|_| cluster.nodes[0].client()).collect();
    for id in 0..2_000u16 {
        let query = query(id, &format!("nobody{id}.redbreast.internal"), 1);
        clients[usize::from(id % 8)].send(&query).unwrap();
    }
    let begin = Instant::now();
    let answer = ask(&cluster.nodes[0].client(), &query(7, "own1.redbreast.internal", 1));
    assert_eq!(answer[7], 1);
    assert!(begin.elapsed() < WINDOW, "another's name is answered meanwhile: {:?}", begin.elapsed());
    clients.iter().for_each(|client| client.set_nonblocking(true).unwrap());
    let mut buffer = [0; 512];
    let mut answered = 0;
    // The kernel may drop some on their way to the node.
    while answered < 1_000 {
        for client in &clients {
            while let Ok(len) = client.recv(&mut buffer) {
                answered += usize::from(len > 12 && buffer[3] & 15 == 3);
            }
        }
        assert!(begin.elapsed() < PATIENCE, "{answered} are answered");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_cannot_be_is_said_with_what_to_do() {
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let listen = ["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"];
    for (args, said) in [
        (&["--design", "cache", "--multicast", "10.0.0.1:5353"][..], "no multicast group"),
        (&["--design", "cache", "--multicast", "239.1.1.1:0"], "cannot be 0"),
        (&["--design", "cache", "--multicast", "nonsense"], "expected an IPv4 group"),
        (&["--design", "cache", "--multicast-interface", "192.0.2.1"], "--multicast-interface"),
        (&["--design", "cache", "--gossip", "127.0.0.1:0"], "leave out --gossip"),
        (&["--design", "broadcast", "--peer", "127.0.0.1:1"], "--peer-listen"),
        (&["--design", "broadcast", "--peer", "127.0.0.1:1", "--peer-listen", &taken], &taken),
        (&["--design", "broadcast", "--peer", "127.0.0.1:1", "--peer-listen", "0.0.0.0:1"], "where to ask"),
        (&["--collect"], "--design cache"),
        (&["--design", "nonsense"], "possible values: gossip, cache, broadcast"),
        (&["--design", "cache", "--window-ms", "0"], "0"),
    ] {
        let output = run(&[&listen, args].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(said), "{args:?}: {errors}");
    }
    let help = stdout(redbreast().args(["serve", "--help"]));
    assert!(help.contains("224.0.0.251:5353") && help.contains("Designs that ask"));
}
