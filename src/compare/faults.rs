//! What queries see while nodes fail: the same probes on a cluster of each design, all at once.
//!
//! Runs on a thread for each cluster. The probes are few, so that the clusters do not get into each other's way.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::cluster::{Cluster, address, in_domain, label};
use super::probe::{PATIENCE, Pace, ProbeAnswer, ProbeQuestion, Sample, probe};
use super::results::{FaultResult, InjectedFault, Negatives, Seen, Stopped};
use super::speed::{self, median};
use super::{Design, Experiment, Task};

/// How often each kind of name is asked for.
const PERIOD: Duration = Duration::from_millis(50);

/// How long all is well before the failure.
const BEFORE: Duration = Duration::from_secs(3);

/// How long a node is stopped, cut off, or dead: longer than a cache keeps anything.
const LASTING: Duration = Duration::from_secs(33);

/// How long it is looked at after that.
const AFTER: Duration = Duration::from_secs(5);

/// Names of each node: enough for the kind that is asked for once each.
const NAMES: u32 = 1_000;

/// The kinds of names that are asked for, in turn.
const KINDS: [&str; 4] = [
    "the asked node's own",
    "another node's",
    "the failed node's",
    "the failed node's, each for the first time",
];

const KINDS_COUNT: u32 = 4;
const _: () = assert!(KINDS.len() == KINDS_COUNT as usize);

/// The same where no node in particular fails.
const KINDS_OF_LOSS: [&str; 4] =
    ["the asked node's own", "another node's", "a third node's", "a third node's, each for the first time"];

/// The kinds that are of the failed node.
const OF_FAILED: std::ops::Range<usize> = 2..4;

/// Pairs of loads that tell what a stopped node does to all others' queries.
const PAIRS: usize = 7;

/// Puts the load on a cluster with all nodes running, and with one stopped, in turns.
pub(super) fn measure_stopped(task: &Task, progress: &dyn Fn(&str)) -> io::Result<Vec<Stopped>> {
    let experiment = Experiment { seconds: 0.8, ..task.experiment.clone() };
    let mut all = Vec::new();
    for &design in &task.designs {
        progress(&format!("{}: the same load with one node stopped", design.name()));
        let mut cluster = Cluster::start(design, &experiment, &task.layout)?;
        speed::check(&cluster, design, &experiment)?;
        let (mut running, mut stopped) = (Vec::new(), Vec::new());
        // The first is a warm-up.
        speed::load(task, &mut cluster, &experiment, Negatives::Repeated)?;
        for pair in 0..PAIRS {
            // Which comes first alternates, so that what drifts does not count for one of them.
            for stop in [pair % 2 == 0, pair % 2 != 0] {
                let last = cluster.nodes.len() - 1;
                if stop {
                    cluster.nodes[last].signal(Signal::STOP)?;
                }
                let round = speed::load_while(task, &mut cluster, &experiment, Negatives::Repeated, stop);
                if stop {
                    cluster.nodes[last].signal(Signal::CONT)?;
                }
                (if stop { &mut stopped } else { &mut running }).push(round?.figures());
            }
        }
        let ratios = running.iter().zip(&stopped).map(|(running, stopped)| stopped.1 / running.1);
        let qps = |rounds: &[(f64, f64, u64)]| median(rounds.iter().map(|round| round.0)).unwrap_or_default();
        all.push(Stopped {
            design,
            p99_ratio: median(ratios).unwrap_or(f64::NAN),
            p99_us_running: running.iter().map(|round| round.1).collect(),
            p99_us_stopped: stopped.iter().map(|round| round.1).collect(),
            lost: stopped.iter().map(|round| round.2).sum(),
            qps_running: qps(&running),
            qps_stopped: qps(&stopped),
        });
    }
    Ok(all)
}

/// Lets all that can happen happen to all designs at once.
pub(super) fn measure(task: &Task) -> io::Result<Vec<FaultResult>> {
    let mut failures = vec![InjectedFault::Stop, InjectedFault::Kill];
    if task.layout.namespaces {
        failures.extend([InjectedFault::Loss, InjectedFault::Partition]);
    }
    let cases: Vec<_> = failures
        .iter()
        .flat_map(|failure| task.designs.iter().map(move |design| (*design, *failure)))
        .collect();
    thread::scope(|scope| {
        let run = |&(design, failure)| scope.spawn(move || suffer(task, design, failure));
        let threads: Vec<_> = cases.iter().map(run).collect();
        threads.into_iter().map(super::join).collect()
    })
}

/// Runs a cluster through one failure.
fn suffer(task: &Task, design: Design, failure: InjectedFault) -> io::Result<FaultResult> {
    let experiment = Experiment { names_per_node: NAMES, churn_per_s: 0, ..task.experiment.clone() };
    let layout = task.layout.spread_out();
    let mut cluster = Cluster::start(design, &experiment, &layout)?;
    let failed = experiment.nodes - 1;
    let (node, namespace) = (cluster.asked().dns(), cluster.namespace(0));
    let nodes = experiment.nodes;
    let name_of = move |kind: usize, turn: u32| match kind {
        0 => (0, 0),
        1 => (1 % nodes, 0),
        2 => (failed, 0),
        _ => (failed, 1 + turn % (NAMES - 1)),
    };
    let end = Instant::now() + BEFORE + LASTING + AFTER;
    let (samples, began, ended) = thread::scope(|scope| {
        let probes = scope.spawn(move || {
            let question = |kind: usize, turn: u32| {
                let (owner, k) = name_of(kind, turn);
                ProbeQuestion { node, name: in_domain(&label(owner, k)) }
            };
            let pace = Pace { period: PERIOD, turns: None };
            probe(namespace.as_deref(), KINDS_COUNT, pace, question, || {
                Instant::now() < end && task.check().is_ok()
            })
        });
        let happened = happen(task, &mut cluster, failure, failed);
        let samples = super::join(probes)?;
        let (began, ended) = happened?;
        Ok::<_, io::Error>((samples, began, ended))
    })?;
    task.check()?;
    let address_of = |kind: usize, turn: u32| {
        let (owner, k) = name_of(kind, turn);
        address(&experiment, owner, k)
    };
    let seen = (0..KINDS.len())
        .map(|kind| {
            let of_kind: Vec<_> = samples.iter().filter(|sample| sample.question == kind).collect();
            let right = |i: usize, sample: &Sample| {
                sample.answer
                    == ProbeAnswer::Addresses(vec![address_of(kind, u32::try_from(i).unwrap_or(u32::MAX))])
            };
            let judged: Vec<_> =
                of_kind.iter().enumerate().map(|(i, sample)| (*sample, right(i, sample))).collect();
            see(failure, kind, &judged, began, ended)
        })
        .collect();
    Ok(FaultResult {
        design,
        failure,
        lasted_s: (ended - began).as_secs_f64(),
        watched_s: AFTER.as_secs_f64(),
        seen,
    })
}

/// Does it to the cluster, and undoes it; returns when.
fn happen(
    task: &Task,
    cluster: &mut Cluster,
    failure: InjectedFault,
    failed: usize,
) -> io::Result<(Instant, Instant)> {
    task.sleep_until(Instant::now() + BEFORE)?;
    let began = Instant::now();
    let none = || io::Error::other("there are no network namespaces");
    match failure {
        InjectedFault::Stop => cluster.nodes[failed].signal(Signal::STOP)?,
        InjectedFault::Kill => cluster.nodes[failed].kill(),
        InjectedFault::Loss => cluster.namespaces().ok_or_else(none)?.lose(5)?,
        InjectedFault::Partition => cluster.namespaces().ok_or_else(none)?.cut(failed)?,
    }
    task.sleep_until(began + LASTING)?;
    match failure {
        InjectedFault::Stop => cluster.nodes[failed].signal(Signal::CONT)?,
        InjectedFault::Kill => {}
        InjectedFault::Loss | InjectedFault::Partition => cluster.namespaces().ok_or_else(none)?.heal()?,
    }
    Ok((began, Instant::now()))
}

/// What those who asked for one kind of name have seen.
fn see(
    failure: InjectedFault,
    kind: usize,
    samples: &[(&Sample, bool)],
    began: Instant,
    ended: Instant,
) -> Seen {
    let since = |then: Instant, start: Instant| then.saturating_duration_since(start).as_secs_f64();
    let during: Vec<_> =
        samples.iter().filter(|(sample, _)| (began..ended).contains(&sample.asked)).collect();
    let percent = |of: &dyn Fn(&Sample, bool) -> bool| {
        100.0 * during.iter().filter(|(sample, right)| of(sample, *right)).count() as f64
            / during.len().max(1) as f64
    };
    let mut latencies_ms: Vec<_> = during
        .iter()
        .filter(|(sample, _)| sample.answer != ProbeAnswer::Silence)
        .map(|(sample, _)| sample.latency().as_secs_f64() * 1e3)
        .collect();
    latencies_ms.sort_by(f64::total_cmp);
    let at =
        |percent: usize| latencies_ms.get((latencies_ms.len() * percent).div_ceil(100).max(1) - 1).copied();
    // Of a node that has failed the address is expected to go, and to come back.
    let of_failed = OF_FAILED.contains(&kind) && failure != InjectedFault::Loss;
    let last_right =
        during.iter().rev().find(|(_, right)| *right).map(|(sample, _)| since(sample.ended, began));
    let last_is_absent = during.last().is_some_and(|(_, right)| !right);
    let after = || samples.iter().filter(|(sample, _)| sample.asked >= ended);
    let last_wrong = after().rev().find(|(_, right)| !right).map(|(sample, _)| since(sample.ended, ended));
    let last_is_right = after().next_back().is_some_and(|(_, right)| *right);
    let mut course: Vec<(f64, f64)> = Vec::new();
    let first = samples.first().map_or(began, |(sample, _)| sample.asked);
    let halves = |sample: &Sample| (since(sample.asked, first) * 2.0).floor();
    for chunk in samples.chunk_by(|a, b| halves(a.0) == halves(b.0)) {
        let share = chunk.iter().filter(|(_, right)| *right).count() as f64 / chunk.len() as f64;
        course.push((halves(chunk[0].0) / 2.0 - since(began, first), share));
    }
    Seen {
        names: if failure == InjectedFault::Loss { KINDS_OF_LOSS } else { KINDS }[kind].into(),
        of_failed,
        asked: during.len(),
        answered_percent: percent(&|_, right| right),
        absent_percent: percent(&|sample, _| sample.answer == ProbeAnswer::Nothing),
        failed_percent: percent(&|sample, right| !right && sample.answer != ProbeAnswer::Nothing),
        p50_ms: at(50),
        p99_ms: at(99),
        gone_after_s: last_is_absent.then_some(last_right.unwrap_or(0.0)).filter(|_| of_failed),
        back_after_s: last_is_right.then_some(last_wrong.unwrap_or(0.0)).filter(|_| of_failed),
        course,
    }
}

const _: () = assert!(AFTER.as_millis() > PATIENCE.as_millis());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_an_address_goes_and_comes_back_is_seen() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let sample = |ms, right| {
            let answer = if right { ProbeAnswer::Addresses(Vec::new()) } else { ProbeAnswer::Nothing };
            (Sample { question: 2, asked: at(ms), ended: at(ms + 10), answer }, right)
        };
        // The failure lasts from 1,000 to 3,000; the address goes after 1,500 and is back by 3,200.
        let samples: Vec<_> =
            (0..50).map(|i| i * 100).map(|ms| sample(ms, ms <= 1_500 || ms > 3_200)).collect();
        let judged: Vec<_> = samples.iter().map(|(sample, right)| (sample, *right)).collect();
        let seen = see(InjectedFault::Stop, 2, &judged, at(1_000), at(3_000));
        assert_eq!(seen.asked, 20);
        assert_eq!((seen.answered_percent, seen.absent_percent, seen.failed_percent), (30.0, 70.0, 0.0));
        assert!((seen.gone_after_s.unwrap() - 0.51).abs() < 1e-6, "{:?}", seen.gone_after_s);
        assert!((seen.back_after_s.unwrap() - 0.21).abs() < 1e-6, "{:?}", seen.back_after_s);
        assert_eq!(seen.course.first(), Some(&(-1.0, 1.0)));
        assert!((seen.p99_ms.unwrap() - 10.0).abs() < 1e-6);
        assert!(
            see(InjectedFault::Stop, 1, &judged, at(1_000), at(3_000)).gone_after_s.is_none(),
            "of a node that did not fail"
        );
    }
}
