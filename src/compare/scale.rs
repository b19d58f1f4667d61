//! One thing varied, all else as it is: how each design does with more nodes, names, changes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::cluster::Cluster;
use super::results::{Negatives, Row, SweepResult};
use super::{Design, Experiment, Task, speed};
use crate::api::request::Addition;

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sweep {
    /// Nodes, from 2 to 32
    Nodes,
    /// Names in all, from 10 to 100,000
    Names,
    /// Changes a second, from 0 to 10,000
    Churn,
    /// The share of queries for names that nobody has, from 0 to 100%
    Negative,
    /// Seconds for which answers may be kept, from 1 to 60
    Ttl,
}

/// Seconds of load for each value.
const SECONDS: f64 = 2.0;

/// Seconds of load for each TTL: twice the longest would be too long to wait, this is enough to see the short ones.
const TTL_SECONDS: f64 = 8.0;

/// Changes in one request.
const CHANGES_PER_REQUEST: u32 = 100;

/// Names that change.
const CHANGING: u32 = 10_000;

impl Sweep {
    /// The most nodes that are started.
    pub const MAX_NODES: usize = 32;

    /// For people: what it is, with its unit.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Names => "names in all",
            Self::Churn => "changes a second",
            Self::Negative => "queries for names that nobody has (%)",
            Self::Ttl => "TTL (s)",
        }
    }

    /// Whether its values differ by factors.
    #[must_use]
    pub fn is_logarithmic(self) -> bool {
        matches!(self, Self::Nodes | Self::Names | Self::Ttl)
    }

    fn values(self) -> &'static [u32] {
        match self {
            Self::Nodes => &[2, 4, 8, 16, 32],
            Self::Names => &[10, 100, 1_000, 10_000, 100_000],
            Self::Churn => &[0, 100, 1_000, 5_000, 10_000],
            Self::Negative => &[0, 10, 25, 50, 75, 100],
            Self::Ttl => &[1, 5, 15, 30, 60],
        }
    }

    fn experiment(self, base: &Experiment, value: u32) -> Experiment {
        let base = Experiment { seconds: SECONDS, rounds: 1, ..base.clone() };
        match self {
            Self::Nodes => Experiment { nodes: value as usize, ..base },
            Self::Names => {
                let nodes = u32::try_from(base.nodes).unwrap_or(u32::MAX);
                Experiment { names_per_node: value.div_ceil(nodes), ..base }
            }
            Self::Churn => Experiment { churn_per_s: value, ..base },
            Self::Negative => Experiment { negative_share: f64::from(value) / 100.0, ..base },
            Self::Ttl => Experiment { ttl_s: Some(value), seconds: TTL_SECONDS, ..base },
        }
    }

    /// Which names nobody has are asked for: where that is not what is varied, they are those that a cache can keep, since
    /// with new ones nothing else would be seen of it.
    fn negatives(self) -> Negatives {
        if self == Self::Negative { Negatives::New } else { Negatives::Repeated }
    }
}

/// Varies one thing.
pub(super) fn measure(task: &Task, sweep: Sweep, progress: &dyn Fn(&str)) -> io::Result<SweepResult> {
    let mut points = Vec::new();
    for &value in sweep.values() {
        let experiment = sweep.experiment(&task.experiment, value);
        let mut rows = Vec::new();
        for &design in &task.designs {
            progress(&format!("{}: {value}: {}", sweep.text(), design.name()));
            rows.push(measure_one(task, design, &experiment, sweep.negatives())?);
        }
        points.push((f64::from(value), rows));
    }
    Ok(SweepResult { sweep, points })
}

fn measure_one(
    task: &Task,
    design: Design,
    experiment: &Experiment,
    negatives: Negatives,
) -> io::Result<Row> {
    let mut cluster = Cluster::start(design, experiment, &task.layout)?;
    speed::check(&cluster, design, experiment)?;
    speed::warm_up(task, &mut cluster, experiment)?;
    let round = speed::load_while(task, &mut cluster, experiment, negatives, false)?;
    Ok(speed::summarise(design.name(), negatives, &[round]))
}

/// Changes names at the last node of a cluster, so many a second, until it is `done`.
pub(super) fn churn(node: &super::Node, per_s: u32, done: &AtomicBool) -> io::Result<()> {
    let begin = Instant::now();
    let mut made = 0;
    while per_s > 0 && !done.load(Ordering::Relaxed) {
        let due = begin + Duration::from_secs_f64(f64::from(made) / f64::from(per_s));
        let now = Instant::now();
        if due > now {
            thread::sleep((due - now).min(Duration::from_millis(5)));
            continue;
        }
        let change = |i: u32| {
            let [_, high, mid, low] = (made + i).to_be_bytes();
            Addition {
                name: format!("changing-{}", (made + i) % CHANGING),
                addresses: vec![[172, 16 | high & 15, mid, low].into()],
                ..Addition::default()
            }
        };
        let batch: Vec<_> = (0..CHANGES_PER_REQUEST.min(per_s)).map(change).collect();
        node.add(&batch).map_err(io::Error::other)?;
        made += CHANGES_PER_REQUEST.min(per_s);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_varies_one_thing() {
        let base = Experiment::default();
        let names = Sweep::Names.experiment(&base, 100_000);
        assert_eq!((names.names_per_node, names.nodes), (20_000, 5));
        assert_eq!(Sweep::Nodes.experiment(&base, 32).nodes, 32);
        assert!((Sweep::Negative.experiment(&base, 25).negative_share - 0.25).abs() < 1e-9);
        assert_eq!(Sweep::Ttl.experiment(&base, 5).ttl_s, Some(5));
    }
}
