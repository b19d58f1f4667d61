//! Two servers in turn under the same load: queries a second and CPU time for a query, as ratios of neighbouring
//! rounds.
//!
//! Runs on the main thread, which keeps to one CPU with the load; each server is a process of its own on another.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::cluster::{DOMAIN, names_file};
use super::fault::PerfFault;
use super::scenario::Load;
use crate::bench::ab::run_rounds;
use crate::bench::statistics::{Estimate, bootstrap_median};
use crate::bench::{self, QueryFile, RunSettings};
use crate::report::neighbour::ServerProcess;
use crate::testbed::{Node, NodePlan, program};

/// The part of the queries that may go unanswered: more, and the rates say nothing.
const MAX_LOST: f64 = 0.01;

/// A server that is measured.
pub(super) enum Server {
    /// A build of this program.
    Build(Box<Node>),
    /// The echo floor.
    Floor(Floor),
    /// One that runs already.
    Other(SocketAddr),
}

impl Server {
    fn address(&self) -> SocketAddr {
        match self {
            Self::Build(node) => node.dns(),
            Self::Floor(floor) => floor.address,
            Self::Other(address) => *address,
        }
    }
}

/// The echo floor, which ends with this.
pub(super) struct Floor {
    process: Child,
    address: SocketAddr,
}

impl Drop for Floor {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The CPUs of the servers and of the load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cpus {
    /// The servers', which take turns.
    pub(super) server: usize,
    /// The load's.
    pub(super) load: usize,
}

impl Cpus {
    /// Two of those that this process may run on, unless others are asked for.
    ///
    /// # Errors
    /// [`PerfFault`] where there is one alone: server and load would measure each other.
    pub(super) fn choose(server: Option<usize>, load: Option<usize>) -> Result<Self, PerfFault> {
        let set = sched_getaffinity(None)
            .map_err(|error| PerfFault::new(format_args!("cannot ask for CPUs: {error}")))?;
        let mut usable = (0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu));
        let server = server.or_else(|| usable.next());
        let load = load.or_else(|| usable.find(|&cpu| Some(cpu) != server));
        match (server, load) {
            (Some(server), Some(load)) if server != load => Ok(Self { server, load }),
            _ => Err(PerfFault::new(
                "server and load need a CPU each, and there is one alone: count instructions here (--kind count)",
            )),
        }
    }

    /// Has this thread, and what it starts, run on the load's CPU.
    fn keep_to_load(self) -> Result<(), PerfFault> {
        let mut cpus = CpuSet::new();
        cpus.set(self.load);
        sched_setaffinity(None, &cpus)
            .map_err(|error| PerfFault::new(format_args!("cannot run on CPU {}: {error}", self.load)))
    }
}

/// Starts the build at `path`, or this one, with the names of the load.
///
/// # Errors
/// What it had to say if it did not start.
pub(super) fn start(
    path: Option<&Path>,
    name: &str,
    load: &Load,
    cpus: Cpus,
    directory: &Path,
) -> Result<Server, PerfFault> {
    let names = directory.join("names");
    let plan = NodePlan {
        names: vec![names.clone()],
        cpus: Some(cpus.server.to_string()),
        gossips: false,
        program: path.map(Path::to_owned),
        ..NodePlan::new(name)
    };
    names_file(&names, 0, load.names.get())
        .and_then(|()| Node::start(plan, directory, &[]))
        .map(|node| Server::Build(Box::new(node)))
        .map_err(|error| PerfFault::new(format_args!("the server cannot be measured: {error}")))
}

/// Starts the echo floor.
///
/// # Errors
/// That it did not start.
pub(super) fn start_floor(cpus: Cpus) -> Result<Server, PerfFault> {
    let start = || -> io::Result<Floor> {
        let mut command = program(None, Some(&cpus.server.to_string()), None)?;
        command.args(["perf", "floor"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = command.spawn()?;
        let mut line = String::new();
        if let Some(stderr) = process.stderr.take() {
            BufReader::new(stderr).read_line(&mut line)?;
        }
        let address = line.trim().rsplit(' ').next().and_then(|address| address.parse().ok());
        match address {
            Some(address) => Ok(Floor { process, address }),
            None => {
                let _ = process.kill();
                let _ = process.wait();
                Err(io::Error::other(format!("it said `{}`", line.trim())))
            }
        }
    };
    start()
        .map(Server::Floor)
        .map_err(|error| PerfFault::new(format_args!("the echo floor did not start: {error}")))
}

/// The queries of a load: half for names that exist, half for others, mixed.
///
/// # Errors
/// None that can be met.
pub(super) fn queries(load: &Load) -> Result<QueryFile, PerfFault> {
    let names = load.names.get();
    let mut order: Vec<u32> = (0..2 * names).collect();
    fastrand::Rng::with_seed(1).shuffle(&mut order);
    let mut text = String::new();
    for i in order {
        let kind = if i < names { 'n' } else { 'x' };
        let _ = writeln!(text, "{kind}{:07}.{DOMAIN} A", i % names);
    }
    QueryFile::read(text.as_bytes(), "queries", None).map_err(PerfFault::new)
}

/// What was measured of both servers in each round, as ratios of the first to the second.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Ratios {
    /// Queries a second: more is better.
    pub(super) qps: Vec<f64>,
    /// CPU time for a query: less is better. Empty where a process cannot be seen.
    pub(super) cpu: Vec<f64>,
}

impl Ratios {
    /// The median of queries a second, and where it may be.
    #[must_use]
    pub(super) fn qps(&self) -> Option<Estimate> {
        (!self.qps.is_empty()).then(|| bootstrap_median(&self.qps))
    }

    /// The same of CPU time.
    #[must_use]
    pub(super) fn cpu(&self) -> Option<Estimate> {
        (!self.cpu.is_empty()).then(|| bootstrap_median(&self.cpu))
    }
}

/// Adds `rounds` rounds to what there is.
///
/// # Errors
/// [`PerfFault`]: a server does not answer, or loses too much.
pub(super) fn add_rounds(
    ratios: &mut Ratios,
    rounds: u32,
    load: &Load,
    queries: &QueryFile,
    [ours, theirs]: [&Server; 2],
    cpus: Cpus,
) -> Result<(), PerfFault> {
    cpus.keep_to_load()?;
    let settings = |server: &Server| RunSettings {
        clients: load.clients.get(),
        sources: load.sources,
        outstanding: Some(load.outstanding),
        time_limit: Some(Duration::from_secs_f64(load.round_s)),
        ..RunSettings::new(server.address())
    };
    let stop = AtomicBool::new(false);
    let mut cpu_s = Vec::new();
    let mut lost = None;
    let result = run_rounds(
        rounds,
        |is_ours| {
            let settings = settings(if is_ours { ours } else { theirs });
            let process = ServerProcess::find(settings.server);
            let before = process.as_ref().and_then(ServerProcess::cpu_time);
            let outcome = bench::run(&settings, queries, None, &stop, &mut |_| ())?;
            let after = process.as_ref().and_then(ServerProcess::cpu_time);
            let totals = &outcome.tally.totals;
            if totals.completed as f64 <= totals.sent as f64 * (1.0 - MAX_LOST) {
                lost = Some((settings.server, totals.sent - totals.completed, totals.sent));
            }
            let took = after.zip(before).and_then(|(after, before)| after.checked_sub(before));
            cpu_s.push((is_ours, took.map(|took| took.as_secs_f64() / totals.completed.max(1) as f64)));
            Ok((settings, outcome))
        },
        |_, _| (),
    )
    .map_err(PerfFault::new)?;
    if let Some((server, lost, sent)) = lost {
        return Err(PerfFault::new(format_args!(
            "{server} left {lost} of {sent} queries without an answer: its rate says nothing"
        )));
    }
    ratios.qps.extend(result.rounds.iter().map(|round| round.ours.qps() / round.theirs.qps()));
    for pair in cpu_s.chunks_exact(2) {
        let of = |ours: bool| pair.iter().find(|(is_ours, _)| *is_ours == ours).and_then(|(_, cpu)| *cpu);
        ratios.cpu.extend(
            of(true).zip(of(false)).map(|(ours, theirs)| ours / theirs).filter(|ratio| ratio.is_finite()),
        );
    }
    Ok(())
}
