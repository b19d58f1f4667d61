//! What a cluster does on this machine: how fast changes spread, what they cost, and what a million records weigh.
//!
//! Runs on the main thread of the process that measures; the nodes are processes of their own. The first node is on the
//! first CPU alone; all others share the second with the load and with whoever registers.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::api::request::RegisterRequest;
use crate::testbed::{Node, NodePlan, start_cluster, wait_until};
use crate::wire::message::write_query;
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// A figure: what was asked of it and what was seen.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Figure {
    /// What was measured.
    pub what: &'static str,
    /// What is asked.
    pub asked: &'static str,
    /// What was seen, for people.
    pub seen: String,
    /// The number that is compared, in the unit of what is asked.
    pub value: f64,
    /// Whether it is as asked.
    pub holds: bool,
}

/// Nodes of the clusters.
const NODES: usize = 5;

/// Changes a second that are to be carried.
const CHANGES_PER_S: u32 = 10_000;

/// Changes in one request.
const CHANGES_PER_REQUEST: u32 = 200;

pub(super) const DOMAIN: &str = "redbreast.internal";

fn cluster(directory: &Path) -> io::Result<Vec<Node>> {
    let plan = |i: usize| NodePlan {
        cpus: Some(usize::from(i > 0).to_string()),
        ..NodePlan::new(&format!("node-{i}"))
    };
    start_cluster((0..NODES).map(plan).collect(), directory)
}

/// The value below which so many of a hundred are; `sorted` is.
pub(super) fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// Asks one node, over and over.
pub(super) struct Probe {
    socket: UdpSocket,
}

impl Probe {
    pub(super) fn new(dns: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        socket.connect(dns)?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(Self { socket })
    }

    /// How many addresses `label` has.
    pub(super) fn count(&self, label: &str) -> io::Result<u8> {
        let name = Name::from_text(&format!("{label}.{DOMAIN}")).map_err(io::Error::other)?;
        let id = fastrand::u16(..);
        self.socket.send(&write_query(id, &name, rtype::A))?;
        let mut answer = [0; 512];
        loop {
            let len = self.socket.recv(&mut answer)?;
            if len > 8 && answer[..2] == id.to_be_bytes() {
                return Ok(answer[7]);
            }
        }
    }
}

pub(super) fn addition(label: &str, address: [u8; 4], ttl_s: u32) -> RegisterRequest {
    RegisterRequest {
        name: label.into(),
        addresses: vec![address.into()],
        ttl_s: Some(ttl_s),
        ..RegisterRequest::default()
    }
}

/// A load on one node as fast as it answers, in a process of its own, which yields to the nodes that share its CPU:
/// they would have CPUs of their own.
struct ClusterLoad(Child);

impl ClusterLoad {
    fn start(target: SocketAddr, directory: &Path) -> io::Result<Self> {
        let queries = directory.join("queries");
        fs::write(&queries, format!("base.{DOMAIN} A\nnobody.{DOMAIN} A\n"))?;
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(std::env::current_exe()?).args(["bench", "-c", "4", "-l", "3600"]);
        command.args(["-s", &target.ip().to_string(), "-p", &target.port().to_string(), "-d"]).arg(queries);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let load = Self(command.spawn()?);
        // Until it is at full speed.
        thread::sleep(Duration::from_millis(500));
        Ok(load)
    }
}

impl Drop for ClusterLoad {
    fn drop(&mut self) {
        // It fails only if the process has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `work` while the node is asked as fast as it answers. Returns what `work` does and the queries a second.
fn under_load<T>(
    node: &Node,
    directory: &Path,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<(T, f64)> {
    let answered = || -> io::Result<u64> {
        let counters = node.status().map_err(io::Error::other)?.counters;
        Ok(["positive", "nxdomain"].iter().filter_map(|name| counters.get(*name)).sum())
    };
    let _load = ClusterLoad::start(node.dns(), directory)?;
    let (before, begin) = (answered()?, Instant::now());
    let done = work()?;
    let qps = (answered()? - before) as f64 / begin.elapsed().as_secs_f64();
    Ok((done, qps))
}

pub(super) fn propagation(directory: &Path) -> io::Result<Vec<Figure>> {
    const ROUNDS: usize = 500;
    let nodes = cluster(directory)?;
    let probes: Vec<_> = nodes.iter().map(|node| Probe::new(node.dns())).collect::<io::Result<_>>()?;
    let spread = || {
        let (mut from_request, mut from_reply) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let label = format!("p{round}");
            let begin = Instant::now();
            nodes[round % NODES].add(&[addition(&label, [10, 0, 0, 1], 1)]).map_err(io::Error::other)?;
            let accepted = Instant::now();
            for probe in &probes {
                while probe.count(&label)? == 0 {}
            }
            from_request.push(begin.elapsed().as_secs_f64() * 1e3);
            from_reply.push(accepted.elapsed().as_secs_f64() * 1e3);
        }
        from_request.sort_by(f64::total_cmp);
        from_reply.sort_by(f64::total_cmp);
        Ok((from_request, from_reply))
    };
    let ((from_request, from_reply), qps) = under_load(&nodes[0], directory, spread)?;
    let p99 = percentile(&from_reply, 99);
    Ok(vec![Figure {
        what: "registration accepted to answered by all 5 nodes, one of them under full load",
        asked: "p99 <= 10 ms",
        seen: format!(
            "p50 {:.2} ms, p99 {p99:.2} ms; from the request on p50 {:.2}, p99 {:.2} ms; at {qps:.0} queries/s",
            percentile(&from_reply, 50),
            percentile(&from_request, 50),
            percentile(&from_request, 99),
        ),
        value: p99,
        holds: p99 <= 10.0,
    }])
}

pub(super) fn kill(directory: &Path) -> io::Result<Vec<Figure>> {
    const ROUNDS: usize = 20;
    let mut nodes = cluster(directory)?;
    let seeds: Vec<_> = nodes[0].gossip().into_iter().collect();
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let victim = 1 + round % (NODES - 1);
        let label = format!("k{round}");
        nodes[victim].add(&[addition(&label, [10, 0, 0, 1], 1)]).map_err(io::Error::other)?;
        let probes: Vec<_> = nodes.iter().map(|node| Probe::new(node.dns())).collect::<io::Result<_>>()?;
        let others = || probes.iter().enumerate().filter(|(i, _)| *i != victim).map(|(_, probe)| probe);
        let all_have = |count| others().all(|probe| probe.count(&label).is_ok_and(|found| found == count));
        wait_until("all have the name", || all_have(1))?;
        nodes[victim].kill();
        took.push(wait_until("the name is gone", || all_have(0))?.as_secs_f64());
        nodes[victim].restart(&seeds)?;
        let all = || nodes.iter().all(|node| node.status().is_ok_and(|status| status.members == NODES));
        wait_until("all are back", all)?;
    }
    took.sort_by(f64::total_cmp);
    let slowest = percentile(&took, 100);
    Ok(vec![Figure {
        what: "a killed node's addresses are gone from all answers",
        asked: "p99 <= 5 s",
        seen: format!("p50 {:.2} s, slowest of {ROUNDS} {slowest:.2} s", percentile(&took, 50)),
        value: slowest,
        holds: slowest <= 5.0,
    }])
}

/// A file of `count` names, numbered from `first` on.
pub(super) fn names_file(path: &Path, first: u32, count: u32) -> io::Result<()> {
    let mut text = String::new();
    for number in first..first + count {
        let [_, a, b, c] = number.to_be_bytes();
        // Writing to a string cannot fail.
        let _ = writeln!(text, "10.{a}.{b}.{c} n{number:07}");
    }
    fs::write(path, text)
}

pub(super) fn join(directory: &Path) -> io::Result<Vec<Figure>> {
    const PER_NODE: u32 = 20_000;
    let mut plans = Vec::new();
    for i in 0..NODES {
        let path = directory.join(format!("names-{i}"));
        names_file(&path, u32::try_from(i).unwrap_or_default() * PER_NODE, PER_NODE)?;
        plans.push(NodePlan { names: vec![path], ..NodePlan::new(&format!("node-{i}")) });
    }
    let nodes = start_cluster(plans, directory)?;
    let total = PER_NODE as usize * NODES;
    let has_all = |node: &Node| node.status().is_ok_and(|status| status.names >= 2 * total);
    wait_until("all nodes have all names", || nodes.iter().all(has_all))?;
    let seeds: Vec<_> = nodes[0].gossip().into_iter().collect();
    let mut took = Vec::new();
    for round in 0..5 {
        let begin = Instant::now();
        let node = Node::start(NodePlan::new(&format!("new-{round}")), directory, &seeds)?;
        wait_until("the new node answers all names", || has_all(&node))?;
        took.push(begin.elapsed().as_secs_f64());
    }
    took.sort_by(f64::total_cmp);
    let slowest = percentile(&took, 100);
    Ok(vec![Figure {
        what: "a new node answers 100,000 records of 5 others, from the start of its process on",
        asked: "<= 2 s",
        seen: format!("median {:.2} s, slowest of 5 {slowest:.2} s", percentile(&took, 50)),
        value: slowest,
        holds: slowest <= 2.0,
    }])
}

pub(super) fn idle(directory: &Path) -> io::Result<Vec<Figure>> {
    let nodes = cluster(directory)?;
    let sent = || -> io::Result<u64> {
        let counted = |node: &Node| node.status().map(|status| status.gossip_counters);
        let counters: Vec<_> =
            nodes.iter().map(counted).collect::<Result<_, _>>().map_err(io::Error::other)?;
        // With the headers of IPv4 and UDP.
        let of = |name: &str| counters.iter().filter_map(|counters| counters.get(name)).sum::<u64>();
        Ok(of("bytes_out") + 28 * of("datagrams_out"))
    };
    thread::sleep(Duration::from_secs(5));
    let (before, begin) = (sent()?, Instant::now());
    thread::sleep(Duration::from_secs(20));
    let bytes_per_s = (sent()? - before) as f64 / begin.elapsed().as_secs_f64() / NODES as f64;
    Ok(vec![Figure {
        what: "traffic of a node with no changes, 5 nodes",
        asked: "<= 2,000 bytes/s",
        seen: format!("{bytes_per_s:.0} bytes/s"),
        value: bytes_per_s,
        holds: bytes_per_s <= 2000.0,
    }])
}

/// What the first node does under load for a while: queries a second, and the share of its CPU that is left for
/// workers.
pub(super) fn load_for(node: &Node, directory: &Path, time: Duration) -> io::Result<(f64, f64)> {
    let before = node.cpu_s()?;
    let ((), qps) = under_load(node, directory, || {
        thread::sleep(time);
        Ok(())
    })?;
    let after = node.cpu_s()?;
    // The node has one CPU: what its other threads take is what its worker could have had.
    let share = 1.0 - (after.1 - before.1) / time.as_secs_f64();
    Ok((qps, share))
}

/// Registers changes at a steady rate until `stop`. Returns how many, and the last TTL of each name.
pub(super) fn make_changes(node: &Node, names: u32, stop: &AtomicBool) -> io::Result<(u64, Vec<u32>)> {
    let (mut made, mut ttls) = (0u64, vec![0; names as usize]);
    let begin = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let mut additions = Vec::new();
        for _ in 0..CHANGES_PER_REQUEST {
            let number = u32::try_from(made % u64::from(names)).unwrap_or_default();
            let ttl_s = u32::try_from(made / u64::from(names) % 1000).unwrap_or_default() + 1;
            let [_, a, b, c] = number.to_be_bytes();
            additions.push(addition(&format!("c{number}"), [10, a, b, c], ttl_s));
            ttls[number as usize] = ttl_s;
            made += 1;
        }
        let added = node.add(&additions).map_err(io::Error::other)?;
        if added.added != CHANGES_PER_REQUEST as usize {
            return Err(io::Error::other("a change was not taken for one"));
        }
        let due = Duration::from_secs_f64(made as f64 / f64::from(CHANGES_PER_S));
        thread::sleep(due.saturating_sub(begin.elapsed()));
    }
    Ok((made, ttls))
}

/// Whether a node knows the last change of each name that `owner` has changed, and all of these names.
fn has_last_changes(node: &Node, owner: &str, ttls: &[u32]) -> bool {
    let Ok(names) = node.names() else { return false };
    let number = |name: &str| name.strip_prefix('c')?.split('.').next()?.parse::<usize>().ok();
    let changed = names.iter().filter(|it| it.node == owner);
    let changed: Vec<_> = changed.filter_map(|it| Some((number(&it.name)?, it.ttl_s))).collect();
    changed.len() == ttls.len() && changed.iter().all(|(number, ttl_s)| ttls.get(*number).copied() == *ttl_s)
}

pub(super) fn churn(directory: &Path, seconds: u32) -> io::Result<Vec<Figure>> {
    const NAMES: u32 = 10_000;
    const SLICE: Duration = Duration::from_secs(5);
    let nodes = cluster(directory)?;
    nodes[0].add(&[addition("base", [10, 0, 0, 1], 1)]).map_err(io::Error::other)?;
    // All names are there before it begins, so that the table is as large at both times.
    let fill: Vec<_> = (0..NAMES)
        .map(|i| {
            let [_, a, b, c] = i.to_be_bytes();
            addition(&format!("c{i}"), [10, a, b, c], 5000)
        })
        .collect();
    for part in fill.chunks(500) {
        nodes[1].add(part).map_err(io::Error::other)?;
    }
    let (quiet_qps, quiet_share) = load_for(&nodes[0], directory, SLICE)?;
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let (made, ttls, busy) = thread::scope(|scope| -> io::Result<_> {
        let registrar = scope.spawn(|| make_changes(&nodes[1], NAMES, &stop));
        thread::sleep(Duration::from_secs(1));
        let busy = load_for(&nodes[0], directory, SLICE);
        thread::sleep(Duration::from_secs(seconds.into()).saturating_sub(begin.elapsed()));
        stop.store(true, Ordering::Relaxed);
        let (made, ttls) = registrar.join().map_err(|_| io::Error::other("the registrar has panicked"))??;
        Ok((made, ttls, busy?))
    })?;
    let rate = made as f64 / begin.elapsed().as_secs_f64();
    let (busy_qps, busy_share) = busy;
    let complete = |node: &Node| has_last_changes(node, nodes[1].name(), &ttls);
    let caught_up = wait_until("all nodes have the last of all changes", || nodes.iter().all(complete));
    let ratio = busy_share / quiet_share;
    Ok(vec![
        Figure {
            what: "changes a second, registered at one of 5 nodes, none of them lost",
            asked: ">= 10,000/s",
            seen: format!(
                "{rate:.0}/s for {:.0} s, {made} in all; {}",
                begin.elapsed().as_secs_f64(),
                match &caught_up {
                    Ok(took) => format!("all nodes had all of them {:.2} s later", took.as_secs_f64()),
                    Err(error) => error.to_string(),
                }
            ),
            value: rate,
            holds: rate >= 0.98 * f64::from(CHANGES_PER_S) && caught_up.is_ok(),
        },
        Figure {
            what: "what of another node's CPU is left for queries meanwhile, under full load",
            asked: ">= 0.95 of quiet",
            seen: format!(
                "{ratio:.3}: {busy_share:.3} of it against {quiet_share:.3}; {busy_qps:.0} queries/s against \
                 {quiet_qps:.0} by a load that shares its CPU with four nodes and the registrar"
            ),
            value: ratio,
            holds: ratio >= 0.95,
        },
    ])
}

pub(super) fn memory(directory: &Path, records: u32) -> io::Result<Vec<Figure>> {
    let path = directory.join("names");
    names_file(&path, 0, records)?;
    let owner = Node::start(NodePlan { names: vec![path], ..NodePlan::new("owner") }, directory, &[])?;
    let empty = Node::start(NodePlan::new("empty"), directory, &[])?;
    let base = empty.resident_bytes()?;
    drop(empty);
    let seeds: Vec<_> = owner.gossip().into_iter().collect();
    let begin = Instant::now();
    let node = Node::start(NodePlan::new("holder"), directory, &seeds)?;
    let has_all = || node.status().is_ok_and(|status| status.names >= 2 * records as usize);
    while !has_all() {
        if begin.elapsed() > Duration::from_secs(300) {
            return Err(io::Error::other("the records did not come over in five minutes"));
        }
        thread::sleep(Duration::from_millis(50));
    }
    let took = begin.elapsed().as_secs_f64();
    thread::sleep(Duration::from_secs(3));
    let held = node.resident_bytes()? - base;
    let name_len = Name::from_text(&format!("n0000000.{DOMAIN}")).map_err(io::Error::other)?.as_wire().len();
    let per_record = held as f64 / f64::from(records) - name_len as f64;
    Ok(vec![Figure {
        what: "resident memory of a node for each record that came by gossip, with its reverse name, above its name",
        asked: "<= 250 bytes",
        seen: format!(
            "{per_record:.0} bytes at {records} records ({:.0} MB in all; they came over in {took:.1} s)",
            held as f64 / 1e6
        ),
        value: per_record,
        holds: per_record <= 250.0,
    }])
}
