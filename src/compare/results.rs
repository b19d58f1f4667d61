//! What came of a comparison, as it is kept in JSON; and what is claimed of it.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::sweep::Sweep;
use super::{Design, Experiment, Task};
use crate::report::json::Percentiles;
use crate::report::machine::Machine;

/// Which names nobody has are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Negatives {
    /// Another each time: nobody can have kept the answer.
    New,
    /// The same few again and again.
    Repeated,
}

/// All results.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// `redbreast compare`.
    pub tool: String,
    /// The release.
    pub version: String,
    /// Seconds since 1970.
    pub time_s: u64,
    /// Where it ran.
    pub machine: Machine,
    /// The cluster and the load.
    pub experiment: Experiment,
    /// CPUs of the node that is asked, of the others, of the load.
    pub cpus: Option<[String; 3]>,
    /// Nodes were in network namespaces of their own.
    pub namespaces: bool,
    /// Speed, by design and by what is asked.
    pub rows: Vec<Row>,
    /// The same load with one node stopped, and without.
    pub stopped: Vec<Stopped>,
    /// What queries see while nodes fail.
    pub faults: Vec<FaultResult>,
    /// How long changes take, and how many answers are stale meanwhile.
    pub freshness: Vec<Freshness>,
    /// What was varied.
    pub sweeps: Vec<SweepResult>,
    /// How long it all took.
    pub took_s: f64,
}

/// One design or server under one load: medians over the rounds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// The design's or the server's name.
    pub name: String,
    /// Which names nobody has.
    pub negatives: Option<Negatives>,
    /// Queries a second.
    pub qps: f64,
    /// Latency in microseconds of all answers.
    pub all: Percentiles,
    /// Of those with records.
    pub positive: Percentiles,
    /// Of those without.
    pub negative: Percentiles,
    /// Queries that were not answered, in all rounds.
    pub lost: u64,
    /// Queries that were answered, in all rounds.
    pub completed: u64,
    /// Datagrams between nodes for each query.
    pub datagrams_per_query: Option<f64>,
    /// Bytes of them.
    pub bytes_per_query: Option<f64>,
    /// Datagrams between nodes for each registration, besides those of an idle cluster.
    pub datagrams_per_registration: Option<f64>,
    /// Bytes of them.
    pub bytes_per_registration: Option<f64>,
    /// CPU microseconds of the node that is asked for each query.
    pub cpu_us_per_query: Option<f64>,
    /// CPU microseconds of all nodes for each query.
    pub cluster_cpu_us_per_query: Option<f64>,
    /// Resident memory of the node that is asked, in MiB.
    pub memory_mib: Option<f64>,
    /// The generator was at its limit in so many of the rounds: the server may do better.
    pub generator_limited: usize,
    /// Queries a second in each round.
    pub rounds_qps: Vec<f64>,
}

/// One design with a node stopped (SIGSTOP) and without, alternately.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Stopped {
    /// The design.
    pub design: Design,
    /// 99th percentile in microseconds with all nodes running: each round.
    pub p99_us_running: Vec<f64>,
    /// With one stopped.
    pub p99_us_stopped: Vec<f64>,
    /// The median of the ratios of the second to the first.
    pub p99_ratio: f64,
    /// Queries that were not answered with one stopped.
    pub lost: u64,
    /// Queries a second, with all running and with one stopped.
    pub qps_running: f64,
    /// The second.
    pub qps_stopped: f64,
}

/// What was done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InjectedFault {
    /// A node is stopped for a while (SIGSTOP).
    Stop,
    /// A node is killed.
    Kill,
    /// Packets between nodes are lost, one in twenty.
    Loss,
    /// A node is cut off from all others for a while.
    Partition,
}

impl InjectedFault {
    /// For people.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Stop => "one node stopped (SIGSTOP), then continued",
            Self::Kill => "one node killed",
            Self::Loss => "5% of packets between nodes lost",
            Self::Partition => "one node cut off, then joined again",
        }
    }
}

/// What queries for one kind of name saw while a node failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Seen {
    /// Which names.
    pub names: String,
    /// They are of the node that failed.
    pub of_failed: bool,
    /// Queries while it lasted.
    pub asked: usize,
    /// Answered with the registered address, in %.
    pub answered_percent: f64,
    /// Told that there is no such name, in %.
    pub absent_percent: f64,
    /// Not answered, or with an error, in %.
    pub failed_percent: f64,
    /// Median in milliseconds, of those that were answered.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Seconds after the failure began from which on no answer had the address any more.
    pub gone_after_s: Option<f64>,
    /// Seconds after it ended from which on every answer had it.
    pub back_after_s: Option<f64>,
    /// The share of answers with the address in each half second: pairs of seconds since the failure and a share.
    pub course: Vec<(f64, f64)>,
}

/// A failure, as seen at the node that is asked.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FaultResult {
    /// The design.
    pub design: Design,
    /// What was done.
    pub failure: InjectedFault,
    /// How long it lasted, in seconds.
    pub lasted_s: f64,
    /// How long it was looked at after that, in seconds.
    pub watched_s: f64,
    /// What was seen.
    pub seen: Vec<Seen>,
}

/// How a change reaches all nodes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Freshness {
    /// The design.
    pub design: Design,
    /// What was changed.
    pub change: String,
    /// Seconds until every node answered by it, and for good; none if that was not seen.
    pub settled_s: Option<f64>,
    /// Answers that were not by it, after it was acknowledged.
    pub stale: usize,
    /// All answers after it was acknowledged, until it was settled.
    pub answers: usize,
    /// How long it was looked at.
    pub watched_s: f64,
}

/// One thing varied.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SweepResult {
    /// Which.
    pub sweep: Sweep,
    /// Values, and the row of each design.
    pub points: Vec<(f64, Vec<Row>)>,
}

impl Results {
    /// Nothing yet.
    #[must_use]
    pub(super) fn new(task: &Task, now: SystemTime) -> Self {
        Self {
            tool: "redbreast compare".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            time_s: now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            machine: Machine::current(),
            experiment: task.experiment.clone(),
            cpus: task.layout.cpus.clone(),
            namespaces: task.layout.namespaces,
            rows: Vec::new(),
            stopped: Vec::new(),
            faults: Vec::new(),
            freshness: Vec::new(),
            sweeps: Vec::new(),
            took_s: 0.0,
        }
    }

    /// The row of a design.
    #[must_use]
    pub fn row(&self, design: Design, negatives: Negatives) -> Option<&Row> {
        self.rows.iter().find(|row| row.name == design.name() && row.negatives == Some(negatives))
    }
}

/// Something published of weaveDNS 1.0 and 1.1, and what is seen here.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// What is compared.
    pub what: &'static str,
    /// How much better 1.1 was, as published.
    pub published: f64,
    /// How much better `gossip` is than `cache` here.
    pub seen: Option<f64>,
}

impl Claim {
    /// Whether the published order is reproduced.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.seen.is_some_and(|seen| seen >= self.published)
    }
}

/// The published differences between 1.0 (`cache`) and 1.1 (`gossip`), and those of the same experiment here.
#[must_use]
pub fn claims(results: &Results) -> Vec<Claim> {
    let row = |design| results.row(design, Negatives::New);
    let (cache, gossip) = (row(Design::Cache), row(Design::Gossip));
    let ratio = |of: &dyn Fn(&Row) -> Option<f64>| Some(of(cache?)? / of(gossip?)?);
    vec![
        Claim { what: "queries/s, higher", published: 2.36, seen: ratio(&|row| Some(1.0 / row.qps)) },
        Claim { what: "mean latency, lower", published: 2.17, seen: ratio(&|row| row.all.mean) },
        Claim { what: "maximum latency, lower", published: 45.0, seen: ratio(&|row| row.all.max) },
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_compare_gossip_with_cache() {
        let row = |name: &str, qps, mean, max| Row {
            name: name.into(),
            negatives: Some(Negatives::New),
            qps,
            all: Percentiles { mean: Some(mean), max: Some(max), ..Percentiles::default() },
            ..Row::default()
        };
        let task = Task {
            experiment: Experiment::default(),
            designs: Vec::new(),
            layout: super::super::Layout::default(),
            sweeps: Vec::new(),
            events: false,
            externals: Vec::new(),
            stop: std::sync::Arc::default(),
        };
        let mut results = Results::new(&task, SystemTime::now());
        assert!(claims(&results).iter().all(|claim| claim.seen.is_none() && !claim.holds()));
        results.rows = vec![row("cache", 100.0, 9.0, 500.0), row("gossip", 300.0, 3.0, 100.0)];
        let seen: Vec<_> =
            claims(&results).iter().map(|claim| (claim.seen.unwrap(), claim.holds())).collect();
        assert_eq!(seen, [(3.0, true), (3.0, true), (5.0, false)]);
    }
}
