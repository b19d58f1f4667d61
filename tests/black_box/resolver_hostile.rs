//! Names that are asked of an upstream that lies, floods, breaks off or keeps silent: what clients get, how soon, and
//! that the server stays well and small.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use redbreast::wire::header::{self, rcode};
use redbreast::wire::message::answers;
use redbreast::wire::record::rtype::{A, TXT};
use socket2::SockRef;

use crate::control::start;
use crate::harness::{PATIENCE, Server, query, wait_until};
use crate::hostile_upstream::{FLOOD, Upstream};
use crate::http::get;

/// What a server that has nothing in its cache and answers little may have more at the end than at the beginning.
const MORE_KIB: u64 = 8 << 10;

/// A server with one worker that asks `upstream`.
fn serve(upstream: &Upstream, args: &[&str]) -> Server {
    serve_and_control(upstream, args).0
}

/// The same, and where it is controlled.
fn serve_and_control(upstream: &Upstream, args: &[&str]) -> (Server, String) {
    let address = upstream.address.to_string();
    start(&[&["--workers", "1", "--upstream", &address], args].concat())
}

/// How often the server has counted this of its upstream.
fn counted(control: &str, event: &str) -> u64 {
    let status = get(control, "/v1/status").json();
    status["forwarding"]["upstreams"][0]["counters"][event].as_u64().unwrap()
}

/// What a client gets.
struct Got {
    message: Vec<u8>,
    after: Duration,
}

impl Got {
    fn rcode(&self) -> u8 {
        self.message[3] & header::RCODE_MASK
    }

    /// Addresses in the answer, each with its TTL.
    fn addresses(&self) -> Vec<(u32, [u8; 4])> {
        answers(&self.message)
            .filter(|view| view.rtype == A)
            .map(|view| (view.ttl_s, view.rdata.try_into().expect("four bytes")))
            .collect()
    }

    fn is_truncated(&self) -> bool {
        self.message[2] & header::TC != 0
    }
}

fn ask_quietly(server: &Server, name: &str) -> Got {
    let (begin, client) = (Instant::now(), server.client());
    let message = crate::harness::ask(&client, &query(7, name, A));
    Got { message, after: begin.elapsed() }
}

fn ask(server: &Server, name: &str) -> Got {
    let got = ask_quietly(server, name);
    println!("{name}: {} after {:?}", rcode::mnemonic(got.rcode()), got.after);
    got
}

fn ask_tcp(server: &Server, name: &str, qtype: u16) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let message = query(7, name, qtype);
    let framed = [&u16::try_from(message.len()).unwrap().to_be_bytes(), &message[..]].concat();
    stream.write_all(&framed).unwrap();
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(prefix).into()];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// Memory of the server that is in use, in KiB.
pub(crate) fn memory_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const TRUE: [u8; 4] = [10, 0, 0, 1];

/// Asks for what the upstream answers well until it is answered: it may be believed to be down for a second.
fn is_well(server: &Server, name: &str) {
    wait_until("an upstream that answers is asked", || {
        ask_quietly(server, name).addresses() == [(300, TRUE)]
    });
}

#[test]
fn of_forged_answers_none_is_taken_and_the_true_one_wins() {
    let upstream = Upstream::start(true);
    let (server, control) = serve_and_control(&upstream, &[]);
    is_well(&server, "good.example");
    let before = memory_kib(&server);
    assert_eq!(ask(&server, "lies.example").addresses(), [(300, TRUE)]);
    // Of six lies one came from elsewhere, which the kernel keeps off, and one was empty.
    assert!(counted(&control, "mismatched") >= 4);
    let got = ask(&server, "flood.example");
    assert_eq!(got.addresses(), [(300, TRUE)], "among {FLOOD} others");
    assert_eq!(ask(&server, "flood.example").addresses().len(), 1, "and it is what is kept");
    let forged = counted(&control, "mismatched");
    // The kernel has room for some thousands, and drops the rest of what comes too fast.
    assert!(forged > 1_000, "{forged}");
    is_well(&server, "good-2.example");
    let more = memory_kib(&server).saturating_sub(before);
    println!("of {FLOOD} forged answers {forged} have come, {more} KiB more");
    assert!(more < MORE_KIB, "{more} KiB more");
}

#[test]
fn what_is_truncated_is_fetched_over_tcp_if_that_can_be() {
    let upstream = Upstream::start(true);
    let server = serve(&upstream, &[]);
    is_well(&server, "good.example");
    let before = memory_kib(&server);
    assert!(ask(&server, "truncated.example").is_truncated(), "80 addresses do not fit");
    assert_eq!(answers(&ask_tcp(&server, "truncated.example", A)).count(), 80);
    let giant = ask_tcp(&server, "giant.example", TXT);
    assert!(giant.len() > 63_000 && answers(&giant).count() == 250, "{}", giant.len());
    // Broken off: over another connection it is the same, and there is nobody else to ask.
    assert_eq!(ask(&server, "reset.example").rcode(), rcode::SERVFAIL);
    assert_eq!(answers(&ask_tcp(&server, "truncated-2.example", A)).count(), 80);
    // The other half never comes.
    let got = ask(&server, "half.example");
    assert!(got.rcode() == rcode::SERVFAIL && got.after < Duration::from_secs(15));
    is_well(&server, "good-2.example");
    let more = memory_kib(&server).saturating_sub(before);
    assert!(more < MORE_KIB, "{more} KiB more");
}

#[test]
fn what_is_truncated_where_there_is_no_tcp_fails_soon() {
    let upstream = Upstream::start(false);
    let server = serve(&upstream, &[]);
    is_well(&server, "good.example");
    let got = ask(&server, "truncated.example");
    assert!(got.rcode() == rcode::SERVFAIL && got.after < Duration::from_secs(3), "{:?}", got.after);
    is_well(&server, "good-2.example");
}

#[test]
fn strange_answers_are_told_as_far_as_they_are_sound() {
    let upstream = Upstream::start(true);
    let server = serve(&upstream, &[]);
    let before = memory_kib(&server);
    let circle = ask(&server, "circle.example");
    assert!(circle.rcode() == rcode::SERVFAIL && answers(&circle.message).count() == 0);
    assert_eq!(ask(&server, "trailing.example").addresses(), [(300, TRUE)]);
    for name in ["pointers.example", "counts.example"] {
        assert_eq!(ask(&server, name).rcode(), rcode::SERVFAIL);
    }
    for name in ["zero.example", "longest.example"] {
        for times in 1..=3 {
            assert_eq!(ask(&server, name).addresses(), [(0, TRUE)], "the top bit of a TTL means 0");
            assert!(upstream.asked(name) >= times, "it is not kept");
        }
    }
    wait_until("what leads nowhere is kept for a second alone", || {
        ask(&server, "circle.example");
        upstream.asked("circle.example") >= 2
    });
    let more = memory_kib(&server).saturating_sub(before);
    assert!(more < MORE_KIB, "{more} KiB more");
}

#[test]
fn who_is_slow_is_waited_for_and_who_is_silent_is_not() {
    let upstream = Upstream::start(true);
    let server = serve(&upstream, &[]);
    is_well(&server, "good.example");
    let slow = ask(&server, "slow.example");
    assert_eq!(slow.addresses(), [(300, TRUE)]);
    assert!(slow.after >= Duration::from_secs(1), "{:?}", slow.after);
    let silent = ask(&server, "silent.example");
    assert!(silent.rcode() == rcode::SERVFAIL && silent.after < Duration::from_secs(10));
    // That it is silent to some names says nothing of others, also while these are waited for.
    thread::scope(|scope| {
        let again = scope.spawn(|| ask(&server, "silent-2.example"));
        for i in 0..20 {
            let good = ask(&server, &format!("good-{i}.example"));
            assert!(good.addresses() == [(300, TRUE)] && good.after < silent.after / 2, "{:?}", good.after);
            thread::sleep(Duration::from_millis(100));
        }
        let again = again.join().unwrap();
        assert!(again.rcode() == rcode::SERVFAIL && again.after < Duration::from_secs(10));
    });
}

#[test]
fn with_mixed_case_an_answer_in_another_case_is_none_unless_it_comes_over_a_stream() {
    let upstream = Upstream::start(true);
    let (server, control) = serve_and_control(&upstream, &["--mix-case"]);
    is_well(&server, "good.example");
    // Twelve letters and more: that all are in lower case by chance is not to be expected.
    let got = ask(&server, "lower-case-of-a-long-name.example");
    assert_eq!(got.addresses(), [(300, TRUE)]);
    assert_eq!(counted(&control, "mismatched"), 1, "what may be forged is not asked for by datagrams again");
    is_well(&server, "good-2.example");
}

#[test]
fn with_mixed_case_an_answer_in_another_case_is_none_where_there_are_no_streams() {
    let upstream = Upstream::start(false);
    let server = serve(&upstream, &["--mix-case", "--upstream-timeout", "2000"]);
    is_well(&server, "good.example");
    let got = ask(&server, "lower-case-of-a-long-name.example");
    assert!(got.rcode() == rcode::SERVFAIL && got.after < Duration::from_secs(10));
    is_well(&server, "good-2.example");
}

/// Questions that are in flight at most, and more of them than that.
const QUESTIONS: u64 = 100_000;
const TOO_MANY: u64 = 120_000;

/// Bytes of memory for each of them at most, all in all.
const QUESTION_LEN: u64 = 2_048;

#[test]
fn of_a_hundred_thousand_open_questions_the_oldest_are_given_up_and_our_own_names_are_answered_meanwhile() {
    let upstream = Upstream::start(true);
    let dir = tempfile::tempdir().unwrap();
    let names = dir.path().join("names");
    fs::write(&names, "10.0.0.9 own\n").unwrap();
    let names = format!("--names={}", names.display());
    let (server, control) = serve_and_control(&upstream, &["--upstream-timeout", "60000", &names]);
    is_well(&server, "good.example");
    // It is known to be slow by then.
    (0..10).for_each(|i| {
        assert_eq!(ask(&server, &format!("slow-at-first-{i}.example")).addresses(), [(300, TRUE)])
    });
    let before = memory_kib(&server);
    let client = server.client();
    SockRef::from(&client).set_recv_buffer_size(4 << 20).unwrap();
    let (given_up, done) = (AtomicU64::new(0), AtomicBool::new(false));
    let ((slowest, lost), in_flight) = thread::scope(|scope| {
        scope.spawn(|| count_failures(&client, &given_up, &done));
        scope.spawn(|| ask_upstream(&server, &done));
        let own = scope.spawn(|| ask_for_own(&server, &done));
        let in_flight = || get(&control, "/v1/cache").json()["in_flight"].as_u64().unwrap();
        let (begin, mut most) = (Instant::now(), 0);
        for i in 0.. {
            if i % 64 == 0 {
                // Or the kernel would have no room for them.
                thread::sleep(Duration::from_millis(4));
            }
            if i % 10_000 == 0 {
                most = most.max(in_flight());
            }
            if i >= TOO_MANY && given_up.load(Ordering::Relaxed) > 1_000 || begin.elapsed() > PATIENCE {
                break;
            }
            client.send(&query(7, &format!("silent-{i}.example"), A)).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        (own.join().unwrap(), most.max(in_flight()))
    });
    let more = memory_kib(&server).saturating_sub(before);
    let (given_up, sent) = (given_up.load(Ordering::Relaxed), counted(&control, "sent"));
    println!("{in_flight} in flight, {sent} sent, {given_up} given up, {more} KiB more");
    println!("own names within {slowest:?}, {lost} of them lost");
    assert!(
        (QUESTIONS * 9 / 10..=QUESTIONS).contains(&in_flight) && given_up > 1_000,
        "{in_flight} in flight"
    );
    assert!(more < QUESTIONS * QUESTION_LEN / 1_024, "{more} KiB more");
    is_well(&server, "good-2.example");
}

/// Counts the answers that say that there is none.
fn count_failures(client: &UdpSocket, count: &AtomicU64, done: &AtomicBool) {
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut buffer = [0; 512];
    while !done.load(Ordering::Relaxed) {
        if client.recv(&mut buffer).is_ok() {
            assert_eq!(buffer[3] & header::RCODE_MASK, rcode::SERVFAIL);
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Asks for names that the upstream answers, since it is not silent altogether, but slow: so no question is repeated
/// soon.
fn ask_upstream(server: &Server, done: &AtomicBool) {
    let client = server.client();
    for i in 0..=u16::MAX {
        if done.load(Ordering::Relaxed) {
            break;
        }
        client.send(&query(i, &format!("slow-{i}.example"), A)).unwrap();
        thread::sleep(Duration::from_millis(20));
    }
}

/// Asks for a name of ours. Returns how long that took at most, and how often it was not answered in a second: on a
/// busy machine the kernel may have no room for all that comes.
fn ask_for_own(server: &Server, done: &AtomicBool) -> (Duration, u32) {
    let client = server.client();
    client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let (mut slowest, mut lost, mut buffer) = (Duration::ZERO, 0, [0; 512]);
    for i in 0..=u16::MAX {
        if done.load(Ordering::Relaxed) {
            break;
        }
        let begin = Instant::now();
        client.send(&query(i, "own.redbreast.internal", A)).unwrap();
        match client.recv(&mut buffer) {
            Ok(len) => {
                assert_eq!(buffer[len - 4..len], [10, 0, 0, 9]);
                slowest = slowest.max(begin.elapsed());
            }
            Err(_) => lost += 1,
        }
        thread::sleep(Duration::from_millis(5));
    }
    (slowest, lost)
}
