//! What health checks do and cost: how soon what fails is out of all answers, and what very many checks take of a node.
//!
//! Runs on the main thread of the process that measures, with a thread that is what is checked.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{Figure, Probe, addition};
use crate::api::request::RegisterRequest;
use crate::testbed::{Node, NodePlan, start_cluster, wait_until};

const NODES: usize = 5;

/// Times that the checked server goes and comes back.
const ROUNDS: usize = 20;

const INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_millis(200);
const FALL: u32 = 2;
const RISE: u32 = 2;
/// What the cluster may take on top.
const ALLOWANCE: Duration = Duration::from_millis(50);

/// Where the checked server is.
const CHECKED: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Checks of one node, how often, and for how long that is watched.
const MANY: u32 = 10_000;
const MANY_INTERVAL: Duration = Duration::from_secs(10);
const WATCHED: Duration = Duration::from_secs(30);
/// A burst would be seen in one of these.
const SLOT: Duration = Duration::from_millis(100);

/// Measures all of it.
pub(super) fn health(directory: &Path) -> io::Result<Vec<Figure>> {
    let mut figures = in_and_out(directory)?;
    figures.extend(many(directory)?);
    Ok(figures)
}

/// A server that is checked goes and comes back.
fn in_and_out(directory: &Path) -> io::Result<Vec<Figure>> {
    let plans = (1..=NODES).map(|i| NodePlan::new(&format!("checked{i}"))).collect();
    let nodes = start_cluster(plans, directory)?;
    let probes = nodes.iter().map(|node| Probe::new(node.dns())).collect::<io::Result<Vec<_>>>()?;
    let mut listener = Some(TcpListener::bind((CHECKED, 0))?);
    let port = listener.as_ref().map_or(Ok(0), |it| it.local_addr().map(|address| address.port()))?;
    let check = format!(
        "tcp:{port},interval={}ms,timeout={}ms,rise={RISE},fall={FALL}",
        INTERVAL.as_millis(),
        TIMEOUT.as_millis()
    );
    let checked = RegisterRequest {
        check: Some(check),
        addresses: vec![CHECKED.into()],
        ..addition("checked", [127, 0, 0, 9], 1)
    };
    nodes[0].add(&[checked, addition("checked", [127, 0, 0, 9], 1)]).map_err(io::Error::other)?;
    let all_have = |count: u8| -> io::Result<bool> {
        for probe in &probes {
            if probe.count("checked")? != count {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let wait_for = |count: u8| -> io::Result<()> {
        while !all_have(count)? {
            thread::sleep(Duration::from_millis(1)); // they need the CPUs as well
        }
        Ok(())
    };
    wait_until("all nodes have both addresses", || all_have(2).unwrap_or(false))?;
    let (mut out_s, mut in_s) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        // At any time of the interval.
        thread::sleep(INTERVAL * 2 + INTERVAL.mul_f64(fastrand::f64()));
        drop(listener.take());
        let begin = Instant::now();
        wait_for(1)?;
        out_s.push(begin.elapsed().as_secs_f64());
        thread::sleep(INTERVAL.mul_f64(fastrand::f64()));
        listener = Some(TcpListener::bind((CHECKED, port))?);
        let begin = Instant::now();
        wait_for(2)?;
        in_s.push(begin.elapsed().as_secs_f64());
    }
    Ok(vec![
        figure(
            "from when a server dies to when its address is in no answer of five nodes, checked twice a second, fall 2",
            "<= fall x interval + timeout + 50 ms",
            INTERVAL * FALL + TIMEOUT + ALLOWANCE,
            out_s,
        ),
        figure(
            "from when it is back to when it is in the answers of all five, rise 2",
            "<= rise x interval + 50 ms",
            INTERVAL * RISE + ALLOWANCE,
            in_s,
        ),
    ])
}

fn figure(what: &'static str, asked: &'static str, due: Duration, mut took_s: Vec<f64>) -> Figure {
    took_s.sort_by(f64::total_cmp);
    let slowest = took_s.last().copied().unwrap_or_default();
    Figure {
        what,
        asked,
        seen: format!(
            "slowest of {ROUNDS} {slowest:.3} s, median {:.3} s; {:.3} s are asked for",
            took_s[ROUNDS / 2],
            due.as_secs_f64()
        ),
        value: slowest,
        holds: slowest <= due.as_secs_f64(),
    }
}

/// Very many checks of one node, which all succeed.
fn many(directory: &Path) -> io::Result<[Figure; 2]> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let port = listener.local_addr()?.port();
    let node = Node::start(NodePlan { cpus: Some("0".into()), ..NodePlan::new("checker") }, directory, &[])?;
    let (count, stop) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for stream in listener.incoming() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                drop(stream);
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let measured = watch_many(&node, port, &count);
        // It looks whether it is to stop when somebody connects.
        stop.store(true, Ordering::Relaxed);
        drop(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
        measured
    })
}

fn watch_many(node: &Node, port: u16, count: &AtomicU64) -> io::Result<[Figure; 2]> {
    let check = format!("tcp:{port},interval={}s,timeout=1s", MANY_INTERVAL.as_secs());
    for first in (0..MANY).step_by(1_000) {
        let additions: Vec<_> = (first..first + 1_000)
            .map(|i| {
                let [.., high, low] = (i + 256).to_be_bytes();
                RegisterRequest {
                    check: Some(check.clone()),
                    ..addition(&format!("n{i}"), [127, 1, high, low], 1)
                }
            })
            .collect();
        node.add(&additions).map_err(io::Error::other)?;
    }
    // All have been found to be well by then, which is news, once.
    thread::sleep(MANY_INTERVAL + Duration::from_secs(2));
    let (user, system) = node.cpu_s()?;
    let begin = Instant::now();
    let (mut slots, mut before) = (Vec::new(), count.load(Ordering::Relaxed));
    while begin.elapsed() < WATCHED {
        thread::sleep(SLOT);
        let now = count.load(Ordering::Relaxed);
        slots.push(now - before);
        before = now;
    }
    let took_s = begin.elapsed().as_secs_f64();
    let (user_then, system_then) = node.cpu_s()?;
    let (user, system) = (user_then - user, system_then - system);
    let share = (user + system) / took_s;
    let checks: u64 = slots.iter().sum();
    let mean = checks as f64 / slots.len() as f64;
    let highest = slots.iter().copied().max().unwrap_or_default() as f64;
    Ok([
        Figure {
            what: "CPU of a node that makes 10,000 TCP checks every 10 s",
            asked: "< 0.05 of a core",
            seen: format!(
                "{share:.3} of a core ({:.3} user, {:.3} system) at {:.0} checks/s",
                user / took_s,
                system / took_s,
                checks as f64 / took_s
            ),
            value: share,
            holds: share < 0.05
                && checks as f64 / took_s > 0.95 * f64::from(MANY) / MANY_INTERVAL.as_secs_f64(),
        },
        Figure {
            what: "the fullest tenth of a second of these, against the mean",
            asked: "no bursts: <= 1.6",
            seen: format!("{highest:.0} against {mean:.0}, {:.2}", highest / mean),
            value: highest / mean,
            holds: highest <= 1.6 * mean,
        },
    ])
}
