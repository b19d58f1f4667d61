//! The load generator against servers that behave and that misbehave, each a thread of this process.

use std::io::{BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redbreast::bench::workload::{Reading, line_reader};
use redbreast::bench::{
    self, BenchError, Outcome, Progress, QueryFile, RunEnd, RunSettings, Source, Tls, Transport,
};

/// What a server does with its `n`-th query, whose answer would be `answer`: calls `send` with what it sends, when.
type Behaviour = fn(n: u64, answer: &mut Vec<u8>, send: &mut dyn FnMut(&[u8], Duration));

/// A server on a loopback port, which ends when dropped.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(behaviour: Behaviour) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(5))).unwrap();
        let address = socket.local_addr().unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || serve(&socket, &stopped, behaviour));
        Self { address, stop, thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(socket: &UdpSocket, stop: &AtomicBool, behaviour: Behaviour) {
    let mut buffer = [0; 512];
    let mut postponed: Vec<(Instant, Vec<u8>, SocketAddr)> = Vec::new();
    let mut count = 0;
    while !stop.load(Relaxed) {
        postponed.retain(|(due, answer, peer)| {
            let wait = *due > Instant::now();
            if !wait {
                let _ = socket.send_to(answer, peer);
            }
            wait
        });
        let Ok((len, peer)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = buffer[..len].to_vec();
        answer[2] |= 0x80;
        behaviour(count, &mut answer, &mut |answer, delay| {
            if delay.is_zero() {
                let _ = socket.send_to(answer, peer);
            } else {
                postponed.push((Instant::now() + delay, answer.to_vec(), peer));
            }
        });
        count += 1;
    }
}

fn queries(count: u32) -> QueryFile {
    let lines: String = (0..count).map(|i| format!("Host{i}.redbreast.internal A\n")).collect();
    QueryFile::read(lines.as_bytes(), "test", None).unwrap()
}

fn run(settings: &RunSettings, count: u32) -> Result<Outcome, BenchError> {
    bench::run(settings, &queries(count), None, &AtomicBool::new(false), &mut |_| ())
}

/// For servers that leave queries unanswered: the time that each lost one costs, and yet long for a busy machine.
fn settings(server: &Server) -> RunSettings {
    RunSettings { timeout: Duration::from_secs(1), ..RunSettings::new(server.address) }
}

/// An honest server on a busy machine may be slow.
fn patient(server: &Server) -> RunSettings {
    RunSettings { timeout: Duration::from_secs(10), ..RunSettings::new(server.address) }
}

#[allow(clippy::ptr_arg)] // a `Behaviour`
fn honest(_: u64, answer: &mut Vec<u8>, send: &mut dyn FnMut(&[u8], Duration)) {
    send(answer, Duration::ZERO);
}

#[test]
fn every_query_of_every_pass_is_sent_and_answered() {
    let server = Server::start(|n, answer, send| {
        match n % 3 {
            0 => answer[7] = 1,  // a record
            1 => answer[3] |= 3, // NXDOMAIN
            _ => (),             // no data
        }
        send(answer, Duration::ZERO);
    });
    for (clients, threads) in [(1, 1), (5, 1), (5, 3), (3, 8)] {
        let settings = RunSettings { clients, threads, runs: NonZeroU32::new(3), ..patient(&server) };
        let outcome = run(&settings, 1_001).unwrap();
        let totals = &outcome.tally.totals;
        assert_eq!((totals.sent, totals.completed, totals.lost), (3_003, 3_003, 0), "{clients} {threads}");
        assert_eq!((totals.late, totals.duplicate, totals.mismatched, totals.refused), (0, 0, 0, 0));
        assert_eq!(totals.rcodes[0] + totals.rcodes[3], 3_003);
        assert_eq!(outcome.tally.positive.count() + outcome.tally.negative.count(), 3_003);
        assert_eq!(totals.request_bytes, totals.response_bytes);
        assert_eq!(outcome.end, RunEnd::EndOfFile);
        let latency = outcome.tally.all().summary().unwrap();
        assert!(latency.min_us > 0.0 && latency.min_us <= latency.p50_us && latency.p50_us <= latency.max_us);
        assert!(latency.max_us <= outcome.run_time.as_secs_f64() * 1e6);
    }
}

#[test]
fn all_clients_are_used_alike_and_no_more_is_outstanding_than_allowed() {
    let server = UdpSocket::bind("127.0.0.1:0").unwrap();
    server.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let settings = RunSettings {
        clients: 4,
        threads: 2,
        outstanding: NonZeroU32::new(20),
        timeout: Duration::from_secs(60),
        ..RunSettings::new(server.local_addr().unwrap())
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let outcome = scope.spawn(|| bench::run(&settings, &queries(100), None, &stop, &mut |_| ()).unwrap());
        // Nothing is answered: the first 20 queries must come, five from each client, and no more.
        let mut by_peer = std::collections::BTreeMap::<_, u32>::new();
        let mut buffer = [0; 512];
        while let Ok((_, peer)) = server.recv_from(&mut buffer) {
            *by_peer.entry(peer).or_default() += 1;
        }
        stop.store(true, Relaxed);
        assert_eq!(by_peer.into_values().collect::<Vec<_>>(), [5; 4]);
        let totals = outcome.join().unwrap().tally.totals;
        assert_eq!((totals.sent, totals.completed, totals.interrupted), (20, 0, 20));
    });
}

#[test]
fn what_a_server_drops_is_lost() {
    let server = Server::start(|n, answer, send| {
        if n % 10 != 9 {
            send(answer, Duration::ZERO);
        }
    });
    let outcome = run(&settings(&server), 500).unwrap();
    let totals = &outcome.tally.totals;
    assert_eq!((totals.sent, totals.completed, totals.lost), (500, 450, 50));
    assert_eq!(outcome.tally.all().count(), 450, "a lost query has no latency");
}

#[test]
fn a_second_answer_is_a_duplicate() {
    let server = Server::start(|_, answer, send| {
        send(answer, Duration::ZERO);
        send(answer, Duration::ZERO);
    });
    let totals = run(&patient(&server), 2_000).unwrap().tally.totals;
    assert_eq!((totals.sent, totals.completed, totals.lost, totals.mismatched), (2_000, 2_000, 0, 0));
    // Those of the last answers may come after the end.
    assert!((1_900..=2_000).contains(&totals.duplicate), "{}", totals.duplicate);
}

#[test]
fn an_answer_after_the_timeout_is_late_and_its_query_lost() {
    let server = Server::start(|n, answer, send| {
        send(answer, if n % 2 == 0 { Duration::ZERO } else { Duration::from_millis(300) });
    });
    let settings = RunSettings {
        time_limit: Some(Duration::from_secs(1)),
        timeout: Duration::from_millis(200),
        outstanding: NonZeroU32::new(10),
        ..settings(&server)
    };
    let outcome = run(&settings, 7).unwrap();
    let totals = outcome.tally.totals;
    assert_eq!(totals.sent, totals.completed + totals.lost);
    assert!(totals.late > 0 && totals.late <= totals.lost, "{totals:?}");
    assert_eq!((totals.duplicate, totals.mismatched), (0, 0));
    assert_eq!(outcome.end, RunEnd::TimeLimit);
}

#[test]
fn an_answer_to_another_question_is_wrong() {
    let server = Server::start(|n, answer, send| {
        if n % 4 == 0 {
            answer[13] ^= 1; // in the name
        }
        send(answer, Duration::ZERO);
    });
    let totals = run(&settings(&server), 400).unwrap().tally.totals;
    assert_eq!((totals.sent, totals.completed, totals.lost, totals.mismatched), (400, 300, 100, 100));
}

#[test]
fn nobody_listening_is_told_at_once() {
    let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // and closed again
    let start = Instant::now();
    let settings = RunSettings {
        time_limit: Some(Duration::from_secs(60)),
        clients: 3,
        threads: 3,
        ..RunSettings::new(address)
    };
    let error = run(&settings, 10).err().unwrap();
    assert!(matches!(error, BenchError::Unreachable { .. }), "{error:?}");
    assert!(error.to_string().contains(&format!("nobody listens at {address}")), "{error}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_server_that_goes_away_is_counted_and_the_run_goes_on() {
    let server = Server::start(honest);
    let settings = RunSettings {
        time_limit: Some(Duration::from_secs(1)),
        timeout: Duration::from_millis(200),
        ..settings(&server)
    };
    let ender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(300));
        drop(server);
    });
    let outcome = run(&settings, 10).unwrap();
    ender.join().unwrap();
    let totals = outcome.tally.totals;
    assert!(totals.completed > 0 && totals.lost > 0 && totals.refused > 0, "{totals:?}");
    assert_eq!(totals.sent, totals.completed + totals.lost);
    assert_eq!(outcome.end, RunEnd::TimeLimit);
}

#[test]
fn a_fixed_rate_is_kept() {
    let server = Server::start(honest);
    let time_limit = Some(Duration::from_secs(1));
    for threads in [1, 3] {
        let settings = RunSettings { clients: 3, threads, time_limit, ..patient(&server) }.at_rate(2_000.0);
        let totals = run(&settings, 100).unwrap().tally.totals;
        let sent = totals.sent + totals.overdue;
        assert_eq!(sent, 2_000, "what is due in a second has been sent or is overdue: {totals:?}");
        assert!(totals.overdue < 200, "{totals:?}");
        assert_eq!(totals.completed, totals.sent);
    }
}

#[test]
fn a_slow_server_does_not_slow_a_fixed_rate_down() {
    let server = Server::start(|_, answer, send| send(answer, Duration::from_millis(100)));
    let settings = RunSettings {
        time_limit: Some(Duration::from_millis(500)),
        timeout: Duration::from_secs(10),
        ..settings(&server)
    }
    .at_rate(1_000.0);
    let outcome = run(&settings, 100).unwrap();
    let totals = &outcome.tally.totals;
    assert_eq!(totals.sent + totals.overdue, 500);
    assert!(totals.overdue < 100, "{totals:?}");
    assert!(outcome.tally.all().summary().unwrap().min_us >= 100_000.0);
    // Five at a time and 100 ms each: 50 a second are possible, and what was due is admitted to be overdue.
    let limited = RunSettings { outstanding: NonZeroU32::new(5), ..settings };
    let totals = run(&limited, 100).unwrap().tally.totals;
    assert!(totals.sent <= 30 && totals.sent + totals.overdue == 500, "{totals:?}");
}

#[test]
fn a_raised_flag_ends_the_run_and_says_what_was_under_way() {
    let server = Server::start(|n, answer, send| {
        if n < 50 {
            send(answer, Duration::ZERO);
        }
    });
    let settings = RunSettings {
        time_limit: Some(Duration::from_secs(60)),
        progress_interval: Duration::from_millis(100),
        ..patient(&server)
    };
    let stop = AtomicBool::new(false);
    let start = Instant::now();
    let mut stop_when_answered =
        |progress: Progress<'_>| stop.store(progress.totals.completed == 50, Relaxed);
    let outcome = bench::run(&settings, &queries(10), None, &stop, &mut stop_when_answered).unwrap();
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!(outcome.end, RunEnd::Interrupted);
    let totals = outcome.tally.totals;
    assert_eq!((totals.completed, totals.lost), (50, 0));
    assert_eq!((totals.interrupted, totals.sent), (100, 150));
}

#[test]
fn progress_is_reported_while_it_is_made() {
    let server = Server::start(honest);
    let settings = RunSettings {
        time_limit: Some(Duration::from_millis(550)),
        progress_interval: Duration::from_millis(100),
        ..patient(&server)
    };
    let mut reports = Vec::new();
    let outcome = bench::run(&settings, &queries(10), None, &AtomicBool::new(false), &mut |progress| {
        reports.push((progress.point.clone(), progress.totals.completed));
    })
    .unwrap();
    assert!((2..=6).contains(&reports.len()), "{reports:?}");
    assert!(reports.is_sorted_by_key(|(point, completed)| (point.start, *completed)));
    let (last, completed) = reports.last().unwrap();
    assert!(last.qps() > 0.0 && *completed > 0 && *completed <= outcome.tally.totals.completed);
    let in_points: u64 = outcome.series.iter().map(|point| point.totals.completed).sum();
    assert_eq!(in_points, outcome.tally.totals.completed);
}

#[test]
fn a_rate_without_limit_uses_every_id_and_never_one_twice() {
    // Nothing is answered for a while, at a rate that asks for more ids than there are.
    let server = Server::start(|_, _, _| ());
    let settings = RunSettings {
        time_limit: Some(Duration::from_millis(600)),
        timeout: Duration::from_millis(1_500),
        ..settings(&server)
    }
    .at_rate(400_000.0);
    let totals = run(&settings, 3).unwrap().tally.totals;
    assert!(totals.sent <= 65_536, "{totals:?}");
    assert_eq!((totals.completed, totals.lost), (0, totals.sent));
    assert_eq!(totals.sent + totals.overdue, 240_000);
}

#[test]
fn very_many_clients_are_served_within_little_memory() {
    let server = Server::start(honest);
    let settings = RunSettings {
        clients: 1_024,
        outstanding: NonZeroU32::new(150),
        runs: NonZeroU32::new(2),
        ..patient(&server)
    };
    let totals = run(&settings, 5_000).unwrap().tally.totals;
    assert_eq!((totals.sent, totals.completed), (10_000, 10_000));
}

#[test]
fn ipv6_is_measured_as_ipv4_is() {
    let socket = UdpSocket::bind("[::1]:0").unwrap();
    let settings = RunSettings { clients: 2, ..RunSettings::new(socket.local_addr().unwrap()) };
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            let _ = socket.send_to(&buffer[..len], peer);
        }
    });
    assert_eq!(run(&settings, 300).unwrap().tally.totals.completed, 300);
}

/// A TCP server that answers the queries of one connection, up to a number of them, and then says that there are no
/// more. It reads on: what is closed with queries unread would take back the answers before.
fn serve_one_connection(most: u64) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        drop(listener);
        let mut message = [0; 512];
        for _ in 0..most {
            let mut len = [0; 2];
            if stream.read_exact(&mut len).is_err() {
                return;
            }
            let answer = &mut message[..usize::from(u16::from_be_bytes(len))];
            stream.read_exact(answer).unwrap();
            answer[2] |= 0x80;
            let framed = [&len[..], answer].concat();
            if stream.write_all(&framed).is_err() {
                return;
            }
        }
        let _ = stream.shutdown(Shutdown::Write);
        while stream.read(&mut message).is_ok_and(|len| len > 0) {}
    });
    address
}

#[test]
fn a_schedule_is_kept_as_finely_over_connections_as_with_datagrams() {
    // The machine may be busy: the best of some short runs tells what the generator does of itself.
    let send_lag_us = |_| {
        let time_limit = Some(Duration::from_millis(250));
        let settings = RunSettings {
            transport: Transport::Tcp,
            time_limit,
            ..RunSettings::new(serve_one_connection(u64::MAX)).at_rate(1_000.0)
        };
        run(&settings, 3).unwrap().tally.send_lag.quantile_us(0.5)
    };
    let best_us = (0..20).map(send_lag_us).fold(f64::INFINITY, f64::min);
    assert!(best_us < 250.0, "half of the queries were sent {best_us} us late or more");
}

#[test]
fn connections_of_several_threads_have_addresses_of_their_own() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = RunSettings {
        transport: Transport::Tcp,
        source: Some(Source::parse("127.0.9.0/29").unwrap()),
        clients: 5,
        threads: 2,
        timeout: Duration::from_secs(60),
        ..RunSettings::new(listener.local_addr().unwrap())
    };
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        // More than may be outstanding, so that there are some left for each thread.
        let run = || bench::run(&settings, &queries(10_000), None, &stop, &mut |_| ()).unwrap();
        let outcome = scope.spawn(run);
        let accepted: Vec<_> = (0..5).map(|_| listener.accept().unwrap()).collect();
        stop.store(true, Relaxed);
        let mut sources: Vec<_> = accepted.iter().map(|(_, peer)| peer.ip()).collect();
        sources.sort_unstable();
        assert_eq!(sources, [1, 2, 3, 4, 5].map(|host| IpAddr::from([127, 0, 9, host])));
        outcome.join().unwrap();
    });
}

/// Lines of queries, and then none for a while, before the end.
struct Stalling {
    line: Vec<u8>,
    at: usize,
    left: usize,
    stall_from_now: Arc<AtomicBool>,
}

/// How long it has none.
const STALL: Duration = Duration::from_millis(600);

impl Read for Stalling {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let len = (self.line.len() - self.at).min(buffer.len()).min(self.left);
        if len == 0 {
            while !self.stall_from_now.load(Relaxed) {
                thread::sleep(Duration::from_millis(5));
            }
            thread::sleep(STALL);
        }
        buffer[..len].copy_from_slice(&self.line[self.at..self.at + len]);
        (self.at, self.left) = ((self.at + len) % self.line.len(), self.left - len);
        Ok(len)
    }
}

#[test]
fn a_thread_without_queries_sleeps_although_they_are_due() {
    let label = "a".repeat(63);
    let line = format!("{label}.{label}.{label}.{} A\n", &label[..60]).into_bytes();
    let stall_from_now = Arc::new(AtomicBool::new(false));
    let source =
        Stalling { left: line.len() * 62_000, line, at: 0, stall_from_now: Arc::clone(&stall_from_now) };
    let queries = line_reader::read(BufReader::new(source), "stalling", &Reading::default()).unwrap();
    assert!(queries.feed().is_some());
    let server = Server::start(honest);
    let settings = RunSettings {
        timeout: Duration::from_millis(50),
        progress_interval: Duration::from_millis(20),
        ..settings(&server).at_rate(200_000.0)
    };
    let mut progress = |Progress { totals, .. }: Progress<'_>| {
        if totals.sent >= queries.count().into() {
            stall_from_now.store(true, Relaxed);
        }
    };
    let outcome = bench::run(&settings, &queries, None, &AtomicBool::new(false), &mut progress).unwrap();
    assert_eq!((outcome.tally.totals.sent, outcome.end), (62_000, RunEnd::EndOfFile));
    let usage = outcome.usage[0];
    let slept_ns = usage.elapsed_ns - usage.cpu_ns.unwrap();
    assert!(u128::from(slept_ns) > STALL.as_nanos() / 2, "{usage:?}");
}

#[test]
fn a_server_that_shakes_no_hands_ends_the_run() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let tls = Transport::Tls(Tls::new("localhost", None).unwrap());
    let timeout = Duration::from_millis(200);
    let settings =
        RunSettings { transport: tls, timeout, ..RunSettings::new(listener.local_addr().unwrap()) };
    let error = run(&settings, 3).err().unwrap().to_string();
    assert!(error.contains("no TLS connection could be made within 0.2 s"), "{error}");
    // Before a connection is given up, the time may be up.
    let settings = RunSettings { timeout: Duration::from_secs(60), time_limit: Some(timeout), ..settings };
    let outcome = run(&settings, 3).unwrap();
    assert_eq!((outcome.tally.totals.sent, outcome.end), (0, RunEnd::TimeLimit));
    let faults = bench::verdict::judge(&settings, &outcome);
    assert!(faults.len() == 1 && faults[0].text.contains("no TLS connection could be made"), "{faults:?}");
}

#[test]
fn a_run_without_a_time_limit_ends_when_there_is_no_connection_any_more() {
    let timeout = Duration::from_millis(300);
    let base = RunSettings::new(serve_one_connection(40));
    let settings = RunSettings { transport: Transport::Tcp, timeout, runs: NonZeroU32::new(100), ..base };
    let outcome = run(&settings, 100).unwrap();
    assert_eq!(outcome.end, RunEnd::NoConnection);
    assert_eq!((outcome.tally.totals.completed, outcome.tally.totals.connections), (40, 1));
    assert_eq!(bench::verdict::judge(&settings, &outcome)[0].name, "no connection");
}
