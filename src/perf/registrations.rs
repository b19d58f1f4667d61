//! How many registrations a second a node takes by its control listener, each on disk before it is acknowledged, and
//! what queries feel of it.
//!
//! Runs on threads of the process that measures, on the CPU that the node is not on; the load generator is a process of
//! its own.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::setpriority_process;
use serde_json::Value;

use super::cluster::{DOMAIN, Figure, addition, percentile};
use crate::api::paths;
use crate::testbed::{Node, NodePlan};
use crate::worker::may_go_first;

/// Names that are registered over and over, each time with another TTL: so each is a change.
const NAMES: u64 = 20_000;

/// Registrations in a batch, and connections that send them one by one.
const BATCH: u64 = 500;
const CONNECTIONS: usize = 4;

const BATCHED_PER_S: u64 = 20_000;
const SINGLE_PER_S: u64 = 2_000;

/// Queries a second while it is measured what they feel: few enough that they wait for nothing else.
const QUERIES_PER_S: &str = "5000";

/// The niceness of those who register: of one thread, as Linux has it.
const LOWEST_PRIORITY: i32 = 19;

/// The niceness of the load generator, where it may have that.
const HIGHEST_PRIORITY: &str = "-20";

/// Rounds of quiet and busy, in turn.
const ROUNDS: u32 = 10;

/// For so long more than the load generator takes there is something to register.
const SPARE: Duration = Duration::from_secs(3);

/// A connection to the node's control socket, kept open.
struct ControlConnection(UnixStream);

impl ControlConnection {
    /// Registers what `body` says, and waits until that is acknowledged.
    fn post(&mut self, body: &[u8]) -> io::Result<()> {
        let head = format!(
            "POST {} HTTP/1.1\r\nhost: redbreast\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            paths::NAMES,
            body.len()
        );
        self.0.write_all(&[head.as_bytes(), body].concat())?;
        let mut answer = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            let text = String::from_utf8_lossy(&answer);
            if let Some((head, rest)) = text.split_once("\r\n\r\n") {
                let len = head
                    .split("content-length: ")
                    .nth(1)
                    .and_then(|rest| rest.split("\r\n").next()?.parse().ok());
                if rest.len() >= len.unwrap_or(0) {
                    let durable = rest.contains("\"durable\":true") && rest.contains("\"unchanged\":0");
                    let done = head.starts_with("HTTP/1.1 200") && durable;
                    return if done { Ok(()) } else { Err(io::Error::other(text.into_owned())) };
                }
            }
            match self.0.read(&mut buffer)? {
                0 => return Err(io::Error::other("the node has closed the connection")),
                len => answer.extend_from_slice(&buffer[..len]),
            }
        }
    }
}

fn body(numbers: impl Iterator<Item = u64>) -> Vec<u8> {
    let one = |i: u64| {
        let (number, ttl_s) = (i % NAMES, i / NAMES % 100_000);
        let [.., a, b, c] = number.to_be_bytes();
        addition(&format!("r{number}"), [10, a, b, c], u32::try_from(ttl_s).unwrap_or_default())
    };
    serde_json::to_vec(&numbers.map(one).collect::<Vec<_>>()).expect("it has a form in JSON")
}

/// What is registered in so long a time at this rate, `batch` at a time: made beforehand, since who registers shares a
/// CPU with the load generator.
fn bodies(batch: u64, rate: u64, time: Duration, counter: &mut u64) -> Vec<Vec<u8>> {
    let count = rate / batch * (time + SPARE).as_secs();
    (0..count)
        .map(|_| {
            *counter += batch;
            body(*counter - batch..*counter)
        })
        .collect()
}

/// Registers at a steady rate until `stop`, by so many connections, `batch` at a time. Returns how many and in which
/// time.
fn register(
    node: &Node,
    directory: &Path,
    (connections, batch, rate): (usize, u64, u64),
    bodies: &[Vec<u8>],
    stop: &AtomicBool,
) -> io::Result<(u64, Duration)> {
    let socket = directory.join(format!("{}.sock", node.name()));
    let begin = Instant::now();
    let (next, made) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let run = || -> io::Result<()> {
        // It shares its CPU with the load generator, whose queries shall leave when they are due.
        setpriority_process(None, LOWEST_PRIORITY)?;
        let mut connection = ControlConnection(UnixStream::connect(&socket)?);
        while !stop.load(Ordering::Relaxed) {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(body) = bodies.get(number) else { break };
            let due = Duration::from_secs_f64(number as f64 * batch as f64 / rate as f64);
            thread::sleep(due.saturating_sub(begin.elapsed()));
            connection.post(body)?;
            made.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..connections).map(|_| scope.spawn(run)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().map_err(|_| io::Error::other("a registrar has panicked"))?)
    })?;
    Ok((made.into_inner() as u64 * batch, begin.elapsed()))
}

/// The 99th percentile of queries at a steady rate, in microseconds.
fn p99_us(node: &Node, directory: &Path, time: Duration) -> io::Result<f64> {
    let queries = directory.join("queries");
    std::fs::write(&queries, format!("r7.{DOMAIN} A\nnobody.{DOMAIN} A\n"))?;
    let (ip, port) = (node.dns().ip().to_string(), node.dns().port().to_string());
    let output = Command::new("taskset")
        .args(["-c", "1", "nice", "-n", HIGHEST_PRIORITY])
        .arg(std::env::current_exe()?)
        .args(["bench", "-s", &ip, "-p", &port, "-c", "4", "-Q", QUERIES_PER_S, "--json", "-", "-l"])
        .arg(time.as_secs().to_string())
        .arg("-d")
        .arg(queries)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    let told: Value = serde_json::from_slice(&output.stdout)?;
    told["latency_us"]["all"]["p99"]
        .as_f64()
        .ok_or_else(|| io::Error::other("the load generator tells no p99"))
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    percentile(&all, 50)
}

/// Measures; `seconds` is how long each kind of registrations goes on.
pub(super) fn registrations(directory: &Path, seconds: u32) -> io::Result<Vec<Figure>> {
    // The worker shares its CPU with all else that the node does.
    let options = if may_go_first().is_ok() { vec!["--realtime".into()] } else { Vec::new() };
    let plan = NodePlan { cpus: Some("0".into()), durable: true, options, ..NodePlan::new("node-0") };
    let node = Node::start(plan, directory, &[])?;
    let mut counter = NAMES;
    for part in 0..NAMES / BATCH {
        let socket = directory.join("node-0.sock");
        ControlConnection(UnixStream::connect(socket)?).post(&body(part * BATCH..(part + 1) * BATCH))?;
    }
    let slice = Duration::from_secs(u64::from(seconds / ROUNDS).max(3));
    let mut figures = Vec::new();
    for (what, asked, way) in [
        (
            "registrations a second by batches of 500, each on disk before it is acknowledged",
            ">= 20,000/s",
            (1, BATCH, BATCHED_PER_S),
        ),
        (
            "registrations a second one by one over 4 kept connections, each on disk",
            ">= 2,000/s",
            (CONNECTIONS, 1, SINGLE_PER_S),
        ),
    ] {
        let (mut quiet, mut busy, mut made, mut took) = (Vec::new(), Vec::new(), 0, Duration::ZERO);
        for _ in 0..ROUNDS {
            quiet.push(p99_us(&node, directory, slice)?);
            let stop = AtomicBool::new(false);
            let bodies = bodies(way.1, way.2, slice, &mut counter);
            let (p99, registered) = thread::scope(|scope| -> io::Result<_> {
                let registrar = scope.spawn(|| register(&node, directory, way, &bodies, &stop));
                let p99 = p99_us(&node, directory, slice);
                stop.store(true, Ordering::Relaxed);
                let registered =
                    registrar.join().map_err(|_| io::Error::other("the registrar has panicked"))?;
                Ok((p99?, registered?))
            })?;
            busy.push(p99);
            made += registered.0;
            took += registered.1;
        }
        let rate = made as f64 / took.as_secs_f64();
        let wanted = way.2 as f64;
        figures.push(Figure {
            what,
            asked,
            seen: format!("{rate:.0}/s for {:.0} s", took.as_secs_f64()),
            value: rate,
            holds: rate >= 0.98 * wanted,
        });
        let (quiet, busy) = (median(quiet), median(busy));
        figures.push(Figure {
            what: "99th percentile of 5,000 queries a second meanwhile, compared with quiet",
            asked: "<= 1.10",
            seen: format!(
                "{:.2}: {busy:.0} us against {quiet:.0} us, medians of {ROUNDS} rounds in turn",
                busy / quiet
            ),
            value: busy / quiet,
            holds: busy <= 1.10 * quiet,
        });
    }
    Ok(figures)
}
