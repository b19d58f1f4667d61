//! The three designs on the same work: real clusters of each on this machine, under the same load, one after the other.
//!
//! Runs on the main thread of the process that compares, with threads for the probes; the nodes and the load generator
//! are processes of their own, from the same binary. `docs/designs.md` discusses what comes out.

mod churn;
mod cluster;
mod drawing;
mod faults;
mod freshness;
mod netns;
mod page;
mod probe;
mod results;
mod scale;
mod speed;
mod sweep;
mod table;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

pub use cluster::{Layout, all_names_file, check_descriptors};
pub use page::page;
pub use results::{Results, claims};
pub use speed::External;
pub use sweep::Sweep;
pub use table::text;

use crate::testbed::Node;

/// The domain of all clusters: nothing but a default of the program.
const DOMAIN: &str = "redbreast.internal";

/// A design.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Design {
    /// Each name of another node is asked for at query time.
    Broadcast,
    /// The same with a cache: weaveDNS 1.0.
    Cache,
    /// Every node holds every name: weaveDNS 1.1.
    Gossip,
}

impl Design {
    /// All of them, as they came one after the other.
    pub const ALL: [Self; 3] = [Self::Broadcast, Self::Cache, Self::Gossip];

    /// What it is called on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Broadcast => "broadcast",
            Self::Cache => "cache",
            Self::Gossip => "gossip",
        }
    }
}

/// A cluster and the load on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Names that each of them registers.
    pub names_per_node: u32,
    /// The share of queries for names that nobody has, 0 to 1.
    pub negative_share: f64,
    /// Queries outstanding.
    pub outstanding: u32,
    /// Seconds of load, each time.
    pub seconds: f64,
    /// Times that each design is measured.
    pub rounds: usize,
    /// Threads that answer, in each node.
    pub workers: usize,
    /// Changes a second while the load goes on.
    pub churn_per_s: u32,
    /// Seconds for which answers may be kept; each design's own if it is not said: 1 for `gossip`, 30 for the others.
    pub ttl_s: Option<u32>,
    /// Nodes wait for the answers of all others.
    pub collect: bool,
}

impl Default for Experiment {
    /// The published one.
    fn default() -> Self {
        Self {
            nodes: 5,
            names_per_node: 10,
            negative_share: 0.5,
            outstanding: 100,
            seconds: 1.0,
            rounds: 7,
            workers: 1,
            churn_per_s: 0,
            ttl_s: None,
            collect: false,
        }
    }
}

/// What to do.
#[derive(Clone, Debug)]
pub struct Task {
    /// The cluster and the load.
    pub experiment: Experiment,
    /// Which designs.
    pub designs: Vec<Design>,
    /// Where processes run.
    pub layout: Layout,
    /// What is varied besides.
    pub sweeps: Vec<Sweep>,
    /// What happens when nodes fail and names change is looked at, too.
    pub events: bool,
    /// Other servers under the same load.
    pub externals: Vec<External>,
    /// Set when a person has had enough.
    pub stop: Arc<AtomicBool>,
}

impl Task {
    /// Whether to go on.
    ///
    /// # Errors
    /// That a person has had enough.
    pub(crate) fn check(&self) -> io::Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted")),
            false => Ok(()),
        }
    }

    /// Sleeps until then, unless a person has had enough.
    pub(crate) fn sleep_until(&self, then: Instant) -> io::Result<()> {
        loop {
            self.check()?;
            let left = then.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(Duration::from_millis(20)));
        }
    }
}

/// Measures everything; tells `progress` what it is about to do.
///
/// # Errors
/// When a node or the load does not do what it is told, or a person has had enough. Nothing is left running then.
pub fn run(task: &Task, progress: &dyn Fn(&str)) -> io::Result<Results> {
    let begin = Instant::now();
    task.layout.keep_off_the_asked_node();
    let mut results = Results::new(task, SystemTime::now());
    results.rows = speed::measure(task, progress)?;
    if task.events {
        results.stopped = faults::measure_stopped(task, progress)?;
        progress("nodes fail, names change: what queries see meanwhile, all designs at once");
        let (faults, freshness) = thread::scope(|scope| {
            let faults = scope.spawn(|| faults::measure(task));
            let freshness = scope.spawn(|| freshness::measure(task));
            (join(faults), join(freshness))
        });
        (results.faults, results.freshness) = (faults?, freshness?);
    }
    for sweep in &task.sweeps {
        results.sweeps.push(scale::measure(task, *sweep, progress)?);
    }
    results.took_s = begin.elapsed().as_secs_f64();
    Ok(results)
}

/// What a thread of ours returns; its panic goes on here.
fn join<T>(thread: thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
