//! How long changes take to reach every node, and how many answers are stale meanwhile.
//!
//! Runs on a thread for each cluster. Every node is asked all the time for every name that changes, so that whatever
//! keeps answers keeps the old ones.

use std::io;
use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{Cluster, in_domain};
use super::probe::{Pace, ProbeAnswer, ProbeQuestion, Sample, probe};
use super::results::Freshness;
use super::{Design, Experiment, Task};
use crate::api::request::RegisterRequest;

/// How often each node is asked for each name.
const PERIOD: Duration = Duration::from_millis(50);

/// How long things are as they were.
const BEFORE: Duration = Duration::from_secs(3);

/// How long the changes are looked at: longer than answers are kept.
const WATCHED: Duration = Duration::from_secs(36);

const OLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const NEW: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// What happens to a name.
struct NameChange {
    label: &'static str,
    text: &'static str,
    before: Option<Ipv4Addr>,
    after: Option<Ipv4Addr>,
}

const CHANGES: [NameChange; 3] = [
    NameChange { label: "moves", text: "a name gets another address", before: Some(OLD), after: Some(NEW) },
    NameChange { label: "goes", text: "a name is removed", before: Some(OLD), after: None },
    NameChange {
        label: "comes",
        text: "a name appears that was asked for before",
        before: None,
        after: Some(NEW),
    },
];

/// Changes names in a cluster of each design, all at once.
pub(super) fn measure(task: &Task) -> io::Result<Vec<Freshness>> {
    let all: io::Result<Vec<Vec<Freshness>>> = thread::scope(|scope| {
        let threads: Vec<_> =
            task.designs.iter().map(|&design| scope.spawn(move || change(task, design))).collect();
        threads.into_iter().map(super::join).collect()
    });
    Ok(all?.into_iter().flatten().collect())
}

fn change(task: &Task, design: Design) -> io::Result<Vec<Freshness>> {
    let experiment = Experiment { churn_per_s: 0, ..task.experiment.clone() };
    let layout = task.layout.spread_out();
    let cluster = Cluster::start(design, &experiment, &layout)?;
    let owner = cluster.nodes.last().ok_or_else(|| io::Error::other("a cluster has nodes"))?;
    let add = |label: &str, address: Ipv4Addr| {
        let addition = RegisterRequest {
            name: label.into(),
            addresses: vec![address.into()],
            ..RegisterRequest::default()
        };
        owner.add(&[addition]).map(drop).map_err(io::Error::other)
    };
    for change in &CHANGES {
        change.before.map_or(Ok(()), |address| add(change.label, address))?;
    }
    let (nodes, namespace) =
        (cluster.nodes.iter().map(super::Node::dns).collect::<Vec<_>>(), cluster.namespace(0));
    let count = u32::try_from(nodes.len() * CHANGES.len()).unwrap_or(u32::MAX);
    let end = Instant::now() + BEFORE + WATCHED;
    let (samples, acknowledged) = thread::scope(|scope| {
        let probes = scope.spawn(move || {
            let question = |number: usize, _| ProbeQuestion {
                node: nodes[number / CHANGES.len()],
                name: in_domain(CHANGES[number % CHANGES.len()].label),
            };
            let pace = Pace { period: PERIOD, turns: None };
            probe(namespace.as_deref(), count, pace, question, || {
                Instant::now() < end && task.check().is_ok()
            })
        });
        let done = task.sleep_until(Instant::now() + BEFORE).and_then(|()| {
            CHANGES.iter().map(|change| make(&cluster, change, &add)).collect::<io::Result<Vec<_>>>()
        });
        let samples = super::join(probes)?;
        Ok::<_, io::Error>((samples, done?))
    })?;
    task.check()?;
    let of = |i: usize, acknowledged: Instant| {
        let after: Vec<_> = samples
            .iter()
            .filter(|sample| sample.question % CHANGES.len() == i && sample.asked >= acknowledged)
            .collect();
        judge(design, &CHANGES[i], &after, acknowledged)
    };
    Ok(acknowledged.iter().enumerate().map(|(i, &acknowledged)| of(i, acknowledged)).collect())
}

/// Makes a change at the node that the name is of; returns when that was acknowledged.
fn make(
    cluster: &Cluster,
    change: &NameChange,
    add: &dyn Fn(&str, Ipv4Addr) -> io::Result<()>,
) -> io::Result<Instant> {
    if let Some(address) = change.after {
        add(change.label, address)?;
    }
    if let (Some(address), Some(owner)) = (change.before, cluster.nodes.last()) {
        owner.remove_address(change.label, address.into()).map_err(io::Error::other)?;
    }
    Ok(Instant::now())
}

/// What those saw who asked after the change was acknowledged.
fn judge(design: Design, change: &NameChange, samples: &[&Sample], acknowledged: Instant) -> Freshness {
    let fresh = |sample: &Sample| match change.after {
        Some(address) => sample.answer == ProbeAnswer::Addresses(vec![address]),
        None => sample.answer == ProbeAnswer::Nothing,
    };
    let since = |then: Instant| then.saturating_duration_since(acknowledged).as_secs_f64();
    // By when an answer was there: until then its asker had the old one, or none.
    let last_stale = samples
        .iter()
        .filter(|sample| !fresh(sample))
        .map(|sample| since(sample.ended))
        .max_by(f64::total_cmp);
    let first_fresh = samples
        .iter()
        .filter(|sample| fresh(sample))
        .map(|sample| since(sample.ended))
        .min_by(f64::total_cmp);
    let settled_s = last_stale.or(first_fresh);
    let watched_s = WATCHED.as_secs_f64();
    let settled_s = settled_s.filter(|settled| *settled < watched_s - 1.0 && first_fresh.is_some());
    Freshness {
        design,
        change: change.text.into(),
        settled_s,
        stale: samples.iter().filter(|sample| !fresh(sample)).count(),
        answers: samples
            .iter()
            .filter(|sample| settled_s.is_none_or(|settled| since(sample.asked) <= settled))
            .count(),
        watched_s,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_settled_when_the_last_stale_answer_is_there() {
        let begin = Instant::now();
        let sample = |ms: u64, answer| {
            let asked = begin + Duration::from_millis(ms);
            Sample { question: 0, asked, ended: asked + Duration::from_millis(1), answer }
        };
        let old = || ProbeAnswer::Addresses(vec![OLD]);
        let new = || ProbeAnswer::Addresses(vec![NEW]);
        let samples = [sample(0, old()), sample(10, new()), sample(20, old()), sample(30, new())];
        let judged = judge(Design::Cache, &CHANGES[0], &samples.iter().collect::<Vec<_>>(), begin);
        assert!((judged.settled_s.unwrap() - 0.021).abs() < 1e-6);
        assert_eq!((judged.stale, judged.answers), (2, 3));
        let none = judge(Design::Cache, &CHANGES[1], &samples.iter().collect::<Vec<_>>(), begin);
        assert_eq!((none.settled_s, none.stale), (None, 4), "never gone");
    }
}
