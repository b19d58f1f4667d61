//! DNS over TCP (RFC 7766) with real sockets and real clients.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Server, has, query, run, stdout};

const A: u16 = 1;

fn serve(hosts: &str, args: &[&str]) -> (tempfile::TempDir, Server) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, hosts).unwrap();
    let server = Server::with_names(&file, args);
    (dir, server)
}

pub(crate) fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// Reads one message; `None` when the server has closed the connection.
pub(crate) fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).ok()?;
    let mut message = vec![0; u16::from_be_bytes(prefix).into()];
    stream.read_exact(&mut message).expect("the message that was announced");
    Some(message)
}

fn addresses(count: u32) -> String {
    (0..count).fold(String::new(), |mut text, i| {
        let [_, _, high, low] = i.to_be_bytes();
        writeln!(text, "10.3.{high}.{low} many").unwrap();
        text
    })
}

#[test]
fn what_is_truncated_over_udp_comes_whole_over_tcp() {
    if !has("dig", &["-v"]) {
        return;
    }
    let (_dir, server) = serve(&addresses(4_000), &[]);
    let text =
        stdout(Command::new("dig").args(["@127.0.0.1", "-p", &server.port(), "many.redbreast.internal"]));
    assert!(text.contains("Truncated, retrying in TCP mode"), "{text}");
    assert!(text.contains("flags: qr aa rd; QUERY: 1, ANSWER: 4000,"), "{text}");
}

#[test]
fn queries_are_answered_however_the_stream_is_cut_and_however_many_come_at_once() {
    const QUERIES: u16 = 2_000;
    let (_dir, server) = serve("10.0.0.1 web\n", &[]);
    let mut stream = connect(&server);
    for byte in frame(&query(77, "web.redbreast.internal", A)) {
        stream.write_all(&[byte]).unwrap();
    }
    assert_eq!(receive(&mut stream).unwrap()[..2], [0, 77]);
    let many: Vec<u8> = (0..QUERIES).flat_map(|id| frame(&query(id, "web.redbreast.internal", A))).collect();
    let mut writer = stream.try_clone().unwrap();
    let writing = std::thread::spawn(move || writer.write_all(&many).unwrap());
    for id in 0..QUERIES {
        assert_eq!(receive(&mut stream).unwrap()[..2], id.to_be_bytes());
    }
    writing.join().unwrap();
}

#[test]
fn a_client_that_says_it_is_done_still_gets_its_answers() {
    let (_dir, server) = serve("10.0.0.1 web\n", &[]);
    let mut stream = connect(&server);
    let queries: Vec<u8> = (0..10).flat_map(|id| frame(&query(id, "web.redbreast.internal", A))).collect();
    stream.write_all(&queries).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    for id in 0..10u16 {
        assert_eq!(receive(&mut stream).unwrap()[..2], id.to_be_bytes());
    }
    let begin = Instant::now();
    assert_eq!(receive(&mut stream), None);
    assert!(begin.elapsed() < Duration::from_secs(4), "closed at once, not when patience ends");
}

#[test]
fn what_is_no_query_ends_the_connection_and_bad_queries_do_not() {
    let (_dir, server) = serve("10.0.0.1 web\n", &[]);
    let good = query(5, "web.redbreast.internal", A);
    let mut stream = connect(&server);
    stream.write_all(&frame(&good[..20])).unwrap();
    assert_eq!(receive(&mut stream).unwrap()[3] & 15, 1, "FORMERR");
    stream.write_all(&frame(&good)).unwrap();
    assert_eq!(receive(&mut stream).unwrap()[7], 1, "and it goes on");
    let mut response = good.clone();
    response[2] |= 0x80;
    for not_a_query in [&response[..], &[0; 11], &[]] {
        let mut stream = connect(&server);
        stream.write_all(&frame(not_a_query)).unwrap();
        assert_eq!(receive(&mut stream), None);
    }
}

#[test]
fn one_client_cannot_have_all_connections_nor_keep_them_by_dribbling() {
    let (_dir, server) = serve("10.0.0.1 web\n", &["--workers", "1"]);
    let question = frame(&query(1, "web.redbreast.internal", A));
    let mut held = Vec::new();
    let mut refused = 0;
    for _ in 0..300 {
        let mut stream = connect(&server);
        let answered = stream.write_all(&question).is_ok() && receive(&mut stream).is_some();
        if answered { held.push(stream) } else { refused += 1 }
    }
    assert_eq!((held.len(), refused), (256, 44));
    held.truncate(10);
    // A byte a second is not enough: the query has to be finished in time.
    let mut slow = held.pop().unwrap();
    let begin = Instant::now();
    for byte in question {
        let sent = slow.write_all(&[byte]);
        std::thread::sleep(Duration::from_secs(1));
        if sent.is_err() {
            break;
        }
    }
    assert_eq!(receive(&mut slow), None);
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    let log = server.stop();
    assert!(log.contains("tcp_refused 44") && log.contains("tcp_timed_out "), "{log}");
}

#[test]
fn a_client_that_takes_no_answers_is_let_go_and_others_are_served_meanwhile() {
    let (_dir, server) = serve(&addresses(4_000), &["--workers", "1"]);
    let greedy = connect(&server);
    let asking = frame(&query(1, "many.redbreast.internal", A)).repeat(1_000);
    greedy.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    // 64 MB of answers are asked for and none is read, until the queries are not read either.
    let _ = (&greedy).write_all(&asking);
    let begin = Instant::now();
    let mut other = connect(&server);
    for id in 0..100 {
        other.write_all(&frame(&query(id, "many.redbreast.internal", A))).unwrap();
        assert_eq!(receive(&mut other).unwrap().len(), 12 + 29 + 4_000 * 16);
    }
    assert!(begin.elapsed() < PATIENCE, "{:?}", begin.elapsed());
    let client = server.client();
    let answer = crate::harness::ask(&client, &query(9, "nobody.redbreast.internal", A));
    assert_eq!(answer[3] & 15, 3, "and so is UDP");
}

#[test]
fn a_stop_answers_what_was_received_before() {
    let (_dir, server) = serve("10.0.0.1 web\n", &[]);
    let mut streams: Vec<_> = (0..20).map(|_| connect(&server)).collect();
    for stream in &mut streams {
        stream.write_all(&frame(&query(0, "web.redbreast.internal", A))).unwrap();
        receive(stream).expect("it is accepted");
    }
    server.signal("-STOP");
    for stream in &mut streams {
        let queries: Vec<u8> =
            (0..50).flat_map(|id| frame(&query(id, "web.redbreast.internal", A))).collect();
        stream.write_all(&queries).unwrap();
    }
    server.signal("-TERM");
    server.signal("-CONT");
    server.stop_after(|| {
        for stream in &mut streams {
            for id in 0..50u16 {
                assert_eq!(receive(stream).expect("every query is answered")[..2], id.to_be_bytes());
            }
        }
    });
}

#[test]
fn a_tcp_port_in_use_is_told() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let output = run(&["serve", "--listen", &taken.to_string()]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("another program has TCP port"), "{text}");
}

#[test]
fn kdig_and_dnsperf_use_tcp() {
    let (dir, server) = serve("10.0.0.1 web\n", &[]);
    if has("kdig", &["--version"]) {
        let args = ["@127.0.0.1", "-p", &server.port(), "+tcp", "+keepopen", "+short"];
        let twice = ["web.redbreast.internal", "web.redbreast.internal"];
        assert_eq!(stdout(Command::new("kdig").args(args).args(twice)), "10.0.0.1\n10.0.0.1\n");
    }
    if has("dnsperf", &["-h"]) {
        let file = dir.path().join("queries");
        fs::write(&file, "web.redbreast.internal A\nnobody.redbreast.internal A\n").unwrap();
        let args =
            ["-m", "tcp", "-s", "127.0.0.1", "-p", &server.port(), "-c", "20", "-q", "400", "-l", "2", "-d"];
        let text = stdout(Command::new("dnsperf").args(args).arg(&file));
        assert!(text.contains("Queries lost:         0 (0.00%)"), "{text}");
    }
}

/// A forged address cannot be asked from over TCP; and it is where clients go that are over the limit.
#[test]
fn the_rate_limit_is_for_udp_alone() {
    const LIMIT: usize = 5;
    const ASKED: u16 = 200;
    let (_dir, server) = serve("10.0.0.1 web\n", &["--workers", "1", "--rate-limit", &LIMIT.to_string()]);
    let client = server.client();
    for id in 0..ASKED {
        client.send(&query(id, "web.redbreast.internal", A)).unwrap();
    }
    let mut stream = connect(&server);
    for id in 0..ASKED {
        stream.write_all(&frame(&query(id, "web.redbreast.internal", A))).unwrap();
        let answer = receive(&mut stream).expect("an answer to each");
        assert_eq!((answer[2] & 2, answer[3] & 15, answer[7]), (0, 0, 1), "whole: {answer:?}");
    }
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut whole, mut slips) = (0, 0);
    let mut answer = [0; 512];
    while let Ok(len) = client.recv(&mut answer) {
        let asked = query(u16::from_be_bytes([answer[0], answer[1]]), "web.redbreast.internal", A);
        if answer[2] & 2 == 0 {
            whole += 1;
        } else {
            assert_eq!(answer[12..len], asked[12..], "a slip is the question and nothing else");
            slips += 1;
        }
    }
    // The burst may lie across the end of a second or two.
    assert!((LIMIT..=3 * LIMIT).contains(&whole), "{whole}");
    assert_eq!(slips, (usize::from(ASKED) - whole) / 2, "every second one over the limit");
    let log = server.stop();
    assert!(log.contains(&format!("rate_truncated {slips}")), "{log}");
}
