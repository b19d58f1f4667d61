//! Very many names, from files, in requests and in listings, while everything else goes on: nobody is silenced by them.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::wait_until;
use crate::nodes::{Node, temp};

/// Names of a large file; `scripts/reload-million` takes a million.
const MANY: u32 = 200_000;

fn lines(range: std::ops::Range<u32>) -> String {
    range.fold(String::new(), |mut text, i| {
        let [_, a, b, c] = i.to_be_bytes();
        let _ = writeln!(text, "10.{a}.{b}.{c} h{i}");
        text
    })
}

/// The file is there as a whole or not at all, as with an editor.
fn replace(file: &Path, text: &str) {
    let new = file.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, file).unwrap();
}

/// A request at a node's control socket; returns head and body.
fn request(node: &Node, head: &str, body: &str) -> (String, String) {
    let mut stream = UnixStream::connect(node.control.strip_prefix("unix:").unwrap()).unwrap();
    let len = body.len();
    let text = format!(
        "{head} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
         content-length: {len}\r\n\r\n{body}"
    );
    stream.write_all(text.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_lowercase(), body.to_owned())
}

/// The chunks of a streamed body, put together.
fn unchunked(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((len, rest)) = body.split_once("\r\n") {
        let len = usize::from_str_radix(len, 16).expect("a length");
        if len == 0 {
            break;
        }
        whole += &rest[..len];
        body = rest[len..].trim_start_matches("\r\n");
    }
    whole
}

#[test]
fn a_reload_of_very_many_names_silences_nobody() {
    let directory = temp();
    let file = directory.path().join("hosts");
    fs::write(&file, "192.0.2.1 a\n192.0.2.2 b\n").unwrap();
    let names = file.to_str().unwrap();
    let first = Node::start(directory.path(), "n1", &["--names", names]);
    let second = Node::start(directory.path(), "n2", &["--join", &first.join()]);
    second.wait_for("a", &[1]);
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        // The peer answers for the two names all the time.
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!((second.answers("a"), second.answers("b")), (vec![1], vec![2]));
                asked.fetch_add(1, Ordering::Relaxed);
            }
        });
        // A person is served meanwhile.
        scope.spawn(|| {
            for i in 0.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let body = json!({"name": format!("p{}", i % 20), "addresses": ["10.200.0.1"]}).to_string();
                assert!(request(&first, "POST /v1/names", &body).0.starts_with("http/1.1 200"));
                assert!(request(&first, "GET /v1/status", "").0.starts_with("http/1.1 200"));
            }
        });
        replace(&file, &(lines(0..MANY) + "192.0.2.1 a\n192.0.2.2 b\n"));
        for node in [&first, &second] {
            let last = format!("h{}", MANY - 1);
            let deadline = Instant::now() + Duration::from_secs(120);
            while node.answers(&last).is_empty() {
                assert!(Instant::now() < deadline, "the new names do not come");
                thread::sleep(Duration::from_millis(20));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(asked.load(Ordering::Relaxed) > 10);
    for node in [&first, &second] {
        assert!(!node.server.log().contains("is down"), "{}", node.server.log());
        let status = node.verb(&["status"]);
        // How long a turn takes is held by the simulator; this shows that it is counted.
        assert!(status["cluster_turns"]["count"].as_u64().unwrap() > 10, "{status}");
        assert!(status["cluster_longest_turn_s"].as_f64().unwrap() > 0.0);
    }
    // Ten names that have changed are ten names.
    let heads = |node: &Node| node.verb(&["status"])["registrations"].as_u64().unwrap();
    let before = heads(&first);
    replace(&file, &(lines(10..MANY) + "192.0.2.1 a\n192.0.2.2 b\n10.77.0.1 new\n"));
    first.wait_for("new", &[1]);
    assert_eq!(heads(&first), before - 9);
    wait_until("one that is gone is gone everywhere", || second.answers("h3").is_empty());
}

#[test]
fn a_file_that_is_replaced_all_the_time_removed_or_wrong_does_no_harm() {
    let directory = temp();
    let file = directory.path().join("hosts");
    let text = |i: u32| lines(0..5_000) + &format!("10.99.0.{} moving\n192.0.2.1 a\n", i % 200 + 1);
    fs::write(&file, text(0)).unwrap();
    let node = Node::start(directory.path(), "n1", &["--names", file.to_str().unwrap()]);
    for i in 1..=30 {
        replace(&file, &text(i));
        thread::sleep(Duration::from_millis(30));
        assert_eq!((node.answers("a"), node.answers("moving").len()), (vec![1], 1));
    }
    node.wait_for("moving", &[31]);
    fs::remove_file(&file).unwrap();
    node.server.signal("-HUP");
    wait_until("that it is gone is told", || node.server.log().contains("names not changed"));
    node.wait_for("a", &[1]);
    // A mistake in the last line changes nothing, of no line.
    replace(&file, &(text(77).replace("192.0.2.1 a", "192.0.2.9 a") + "10.0.0.1\n"));
    wait_until("the mistake is told", || node.server.log().contains("hosts:5003: `10.0.0.1` has no name"));
    assert_eq!((node.answers("a"), node.answers("moving")), (vec![1], vec![31]));
    replace(&file, "192.0.2.3 a\n");
    node.wait_for("a", &[3]);
    assert!(node.answers("h17").is_empty());
}

#[test]
fn who_registers_does_not_wait_for_a_source_that_floods() {
    let directory = temp();
    let file = directory.path().join("hosts");
    fs::write(&file, "192.0.2.1 a\n").unwrap();
    let node = Node::start(directory.path(), "n1", &["--names", file.to_str().unwrap()]);
    replace(&file, &lines(0..MANY));
    let mut slowest = Duration::ZERO;
    let mut served = 0;
    while node.answers(&format!("h{}", MANY - 1)).is_empty() {
        let begin = Instant::now();
        let body = json!({"name": format!("p{served}"), "addresses": ["10.200.0.1"]}).to_string();
        assert!(request(&node, "POST /v1/names", &body).0.starts_with("http/1.1 200"));
        slowest = slowest.max(begin.elapsed());
        served += 1;
    }
    // The script measures 50 ms; here it has to be far from the seconds that all of the file takes.
    assert!(slowest < Duration::from_secs(2), "{slowest:?} of {served}");
    node.wait_for("p0", &[1]);
}

#[test]
fn a_listing_is_streamed_and_can_be_had_in_parts() {
    let directory = temp();
    let file = directory.path().join("hosts");
    fs::write(&file, lines(0..3_000)).unwrap();
    let node = Node::start(directory.path(), "n1", &["--names", file.to_str().unwrap()]);
    let (head, body) = request(&node, "GET /v1/names?search=h1", "");
    assert!(head.contains("transfer-encoding: chunked"), "{head}");
    let all: Vec<Value> = serde_json::from_str(&unchunked(&body)).unwrap();
    let expected = (0..3_000).filter(|i| format!("h{i}.").contains("h1")).count();
    assert_eq!(all.len(), expected);

    let (mut path, mut parts, mut found) = ("/v1/names?search=h1&limit=100".to_owned(), 0, Vec::new());
    loop {
        let (head, body) = request(&node, &format!("GET {path}"), "");
        let part: Vec<Value> = serde_json::from_str(&body).unwrap();
        assert!(part.len() <= 100, "{}", part.len());
        found.extend(part);
        parts += 1;
        let Some(link) = head.lines().find_map(|line| line.strip_prefix("link: <")) else { break };
        path = link.split('>').next().unwrap().to_owned();
        // What is registered meanwhile does not disturb it.
        node.add(&format!("other{parts}"), "10.201.0.1");
    }
    assert_eq!((found.len(), parts), (expected, expected.div_ceil(100)));
    let mut names: Vec<_> = found.iter().map(|it| it["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), expected);
    for (wrong, why) in [("limit=10001", "10000"), ("limit=5&cursor=x", "no cursor")] {
        let (head, body) = request(&node, &format!("GET /v1/names?{wrong}"), "");
        assert!(head.starts_with("http/1.1 400") && body.contains(why), "{head}\n{body}");
    }
    let (_, body) = request(&node, "GET /v1/names?search=nothing-has-this", "");
    assert_eq!(unchunked(&body), "[]");
}

#[test]
fn directives_about_very_many_names_are_answered_when_they_are_in_force() {
    let directory = temp();
    let file = directory.path().join("hosts");
    fs::write(&file, lines(0..MANY)).unwrap();
    let node = Node::start(directory.path(), "n1", &["--names", file.to_str().unwrap()]);
    for (head, body) in [
        ("PUT /v1/policies/*", r#"{"policy": "fixed"}"#),
        ("PUT /v1/drains/self", ""),
        ("DELETE /v1/drains/self", ""),
        ("DELETE /v1/policies/*", ""),
    ] {
        // More names than are noted at once, and nothing else that would have them taken.
        let (answer, text) = request(&node, head, body);
        assert!(answer.starts_with("http/1.1 200"), "{head}: {answer}\n{text}");
        let directed: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(directed["changed"], json!(true), "{head}");
        assert!(directed["names"].as_u64().unwrap() >= u64::from(MANY), "{head}: {directed}");
    }
    assert_eq!(node.answers("h7"), [7]);
}

/// Batches of a thousand go in as fast as they are acknowledged; the process is killed in the middle of one.
#[test]
fn of_a_kill_in_the_middle_of_very_much_each_batch_is_there_wholly_or_not_at_all() {
    const BATCH: usize = 1_000;
    let directory = temp();
    let data = directory.path().join("data");
    let start = || Node::start(directory.path(), "n1", &["--data-dir", data.to_str().unwrap()]);
    let mut acknowledged = Vec::new();
    for round in 0..3 {
        let mut node = start();
        let socket = node.control.strip_prefix("unix:").unwrap().to_owned();
        let first = acknowledged.len();
        let writer = thread::spawn(move || {
            let mut done = Vec::new();
            for batch in first.. {
                let names = (0..BATCH)
                    .map(|i| json!({"name": format!("r{round}b{batch}n{i}"), "addresses": ["10.0.0.1"]}));
                let body = Value::Array(names.collect()).to_string();
                let Ok(mut stream) = UnixStream::connect(&socket) else { return (done, batch) };
                let head = format!(
                    "POST /v1/names HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: \
                     application/json\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let mut answer = String::new();
                let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body.as_bytes()));
                if sent.and_then(|()| stream.read_to_string(&mut answer)).is_err()
                    || !answer.contains("\"durable\":true")
                {
                    return (done, batch);
                }
                done.push(batch);
            }
            unreachable!("it goes on until it is killed")
        });
        wait_until("some batches are there", || {
            let count = node.verb(&["status"])["registrations"].as_u64().unwrap();
            usize::try_from(count).unwrap() > (first + 3) * BATCH
        });
        node.server.child.kill().unwrap();
        node.server.child.wait().unwrap();
        let (done, last) = writer.join().unwrap();
        acknowledged.extend(done.iter().map(|batch| format!("r{round}b{batch}")));
        let node = start();
        let count = |prefix: &str| {
            let (_, body) = request(&node, &format!("GET /v1/names?search={prefix}n"), "");
            serde_json::from_str::<Vec<Value>>(&unchunked(&body)).unwrap().len()
        };
        for batch in &acknowledged {
            assert_eq!(count(batch), BATCH, "{batch} was acknowledged");
        }
        let unsure = count(&format!("r{round}b{last}"));
        assert!(unsure == 0 || unsure == BATCH, "{unsure} of a batch that was not");
        drop(node);
    }
}
