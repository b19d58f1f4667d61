//! Names that are not ours, and upstreams that do not answer: those that are dead, and those that would ask us.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{PATIENCE, Server, ask, has, query, wait_until};
use crate::upstreams::{Spot, Told, UNBOUND, Upstream, ZONE, zone};

const A: u16 = 1;

fn forwarder(arguments: &[&str]) -> Server {
    Server::start(&[&["--workers", "1"], arguments].concat())
}

fn is_here() -> bool {
    has(UNBOUND, &["-V"]) && has("dig", &["-v"])
}

/// Names that nobody has asked for yet.
struct Names(usize);

impl Names {
    fn next(&mut self) -> String {
        self.0 += 1;
        format!("n{}.any.{ZONE}", self.0)
    }
}

/// Waits until names that are not in the cache fail at once, as they do when it is known that nobody is there.
fn wait_for_failure(server: &Server, names: &mut Names) {
    wait_until("questions fail at once", || {
        let begin = Instant::now();
        let told = Told::dig(server.address, &[&names.next()]);
        let failed = told.status == "SERVFAIL" && told.reason() == Some(22);
        assert!(failed || told.status == "NOERROR", "{}", told.text);
        failed && begin.elapsed() < Duration::from_millis(500)
    });
}

/// Waits until names are answered again, and says how long that took.
fn wait_for_answers(server: &Server, names: &mut Names) {
    let begin = Instant::now();
    wait_until("there are answers again", || {
        let told = Told::dig(server.address, &[&names.next()]);
        told.status == "NOERROR" && told.answer.len() == 1
    });
    println!("answers again after {:?}", begin.elapsed());
}

#[test]
fn what_is_known_outlives_its_upstream_and_the_rest_fails_at_once() {
    if !is_here() {
        return;
    }
    let mut unbound = Upstream::unbound(Spot::Anywhere, &zone(), "");
    let server = forwarder(&["--fail-fast", "--upstream", &unbound.at()]);
    let (short, nobody) = (format!("short.{ZONE}"), format!("nobody.{ZONE}"));
    let mut names = Names(0);
    // Once it hangs, and once its port is closed.
    for hangs in [true, false] {
        assert_eq!(Told::dig(server.address, &[&short]).reason(), None);
        assert_eq!(Told::dig(server.address, &[&nobody]).status, "NXDOMAIN");
        if hangs {
            unbound.signal("-STOP")
        } else {
            unbound.kill()
        }
        wait_until("what is over is answered with", || {
            let told = Told::dig(server.address, &[&short]);
            assert_eq!(told.answer, ["short.forwarded.example. IN A 198.18.0.3"], "{}", told.text);
            assert_eq!((told.reason() == Some(3)), told.ttl_s > 1, "{}", told.text);
            told.reason() == Some(3) && told.ttl_s <= 30
        });
        wait_for_failure(&server, &mut names);
        // What is not over is answered as ever.
        let told = Told::dig(server.address, &[&nobody]);
        assert_eq!((&*told.status, told.reason()), ("NXDOMAIN", None), "{}", told.text);
        assert_eq!(ask(&server.client(), &query(1, "nobody.redbreast.internal", A))[3] & 15, 3);
        if hangs {
            unbound.signal("-CONT")
        } else {
            unbound.restart()
        }
        wait_for_answers(&server, &mut names);
        let begin = Instant::now();
        wait_until("what was over is fresh again", || {
            let told = Told::dig(server.address, &[&short]);
            assert_eq!(told.answer.len(), 1, "{}", told.text);
            told.reason().is_none()
        });
        println!("fresh again after {:?}", begin.elapsed());
    }
    let log = server.stop();
    assert!(log.contains("stale ") && log.contains("forward_failed "), "{log}");
}

#[test]
fn without_an_upstream_at_the_start_questions_fail_and_then_do_not() {
    if !is_here() {
        return;
    }
    let mut unbound = Upstream::unbound(Spot::Anywhere, &zone(), "");
    unbound.kill();
    let server = forwarder(&["--fail-fast", "--upstream", &unbound.at()]);
    let mut names = Names(0);
    wait_for_failure(&server, &mut names);
    unbound.restart();
    wait_for_answers(&server, &mut names);
}

#[test]
fn with_one_of_three_dead_every_question_is_answered() {
    const QUESTIONS: u16 = 400;
    if !is_here() {
        return;
    }
    let mut upstreams = [(); 3].map(|()| Upstream::unbound(Spot::Anywhere, &zone(), ""));
    let addresses = upstreams.each_ref().map(Upstream::at);
    let arguments: Vec<_> = addresses.iter().flat_map(|at| ["--upstream", at]).collect();
    let mut names = Names(0);
    // From the start, and while it is being asked; silent, and with its port closed.
    for (dead, after, hangs) in [(0, 0, true), (1, 100, true), (2, 100, false)] {
        let server = forwarder(&arguments);
        let socket = server.client();
        let mut took = Vec::new();
        for id in 0..QUESTIONS {
            if id == after && hangs {
                upstreams[dead].signal("-STOP");
            } else if id == after {
                upstreams[dead].kill();
            }
            let begin = Instant::now();
            let answer = ask(&socket, &query(id, &names.next(), A));
            took.push(begin.elapsed());
            assert_eq!((answer[3] & 15, answer[7]), (0, 1), "question {id}");
        }
        took.sort_unstable();
        println!(
            "of {QUESTIONS}: 99% within {:?}, all within {:?}",
            took[took.len() * 99 / 100],
            took[took.len() - 1]
        );
        if hangs {
            upstreams[dead].signal("-CONT");
        } else {
            upstreams[dead].restart();
        }
    }
}

/// Passes questions on to a server that is not known yet when it begins, and counts them.
struct Relay {
    address: SocketAddr,
    to: Arc<OnceLock<SocketAddr>>,
    passed: Arc<AtomicUsize>,
}

impl Relay {
    fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        let (to, passed) = (Arc::new(OnceLock::new()), Arc::new(AtomicUsize::new(0)));
        let it = Self { address, to: Arc::clone(&to), passed: Arc::clone(&passed) };
        thread::spawn(move || {
            let mut buffer = [0; 1500];
            while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                passed.fetch_add(1, Ordering::Relaxed);
                let (query, back) = (buffer[..len].to_vec(), socket.try_clone().unwrap());
                let to: SocketAddr = *to.get().expect("set before anything is asked");
                thread::spawn(move || pass_on(&query, to, &back, from));
            }
        });
        it
    }

    fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }
}

fn pass_on(query: &[u8], to: SocketAddr, back: &UdpSocket, from: SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    let mut answer = [0; 1500];
    // Either side may be gone at the end of the test.
    if socket.send(query).is_ok()
        && let Ok(len) = socket.recv(&mut answer)
    {
        let _ = back.send_to(&answer[..len], from);
    }
}

#[test]
fn two_that_ask_each_other_find_out_at_once() {
    const QUESTIONS: usize = 10;
    if !has("dig", &["-v"]) {
        return;
    }
    let relay = Relay::start();
    let first = forwarder(&["--upstream", &relay.address.to_string()]);
    let second = forwarder(&["--upstream", &first.address.to_string()]);
    relay.to.set(second.address).unwrap();
    let mut fastest = Duration::MAX;
    for i in 0..QUESTIONS {
        let begin = Instant::now();
        let told = Told::dig(first.address, &[&format!("n{i}.elsewhere.example")]);
        fastest = fastest.min(begin.elapsed());
        assert_eq!(told.status, "SERVFAIL", "{}", told.text);
    }
    println!("{QUESTIONS} questions, {} passed on; the fastest took {fastest:?}", relay.passed());
    // On a machine that stands still some may be sent again.
    assert!((QUESTIONS..3 * QUESTIONS).contains(&relay.passed()), "{}", relay.passed());
    assert!(fastest < Duration::from_millis(100), "{fastest:?}");
    let log = first.stop();
    assert!(log.contains("forward_loop "), "{log}");
}

/// Unbound does not tell by whom a question has come to it.
#[test]
fn a_loop_through_a_server_of_another_kind_ends_when_the_time_is_over() {
    if !is_here() {
        return;
    }
    let relay = Relay::start();
    let more = format!(
        " local-zone: \"loop.example.\" transparent\nforward-zone:\n name: \"loop.example.\"\n forward-addr: {}@{}",
        relay.address.ip(),
        relay.address.port()
    );
    let unbound = Upstream::unbound(Spot::Anywhere, &zone(), &more);
    let server = forwarder(&["--upstream", &unbound.at(), "--upstream-timeout", "1000"]);
    relay.to.set(server.address).unwrap();
    let told = Told::dig(server.address, &["www.loop.example"]);
    assert_eq!(told.status, "SERVFAIL", "{}", told.text);
    println!("{} messages in the loop", relay.passed());
    assert!(relay.passed() < 50, "{}", relay.passed());
    // The others are answered beside it.
    assert_eq!(Told::dig(server.address, &[&format!("www.{ZONE}")]).answer.len(), 2);
}
