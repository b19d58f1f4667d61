//! Each design under the same load: rounds, one design after the other, each with a new cluster.
//!
//! A round begins with a check that the node that is asked answers every name with its address, and with a warm-up: a
//! cache has all names then, as it would after a while of real use, and most of those that nobody has, where they are
//! repeated.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::churn::churn;
use super::cluster::{Cluster, Traffic, all_names, in_domain};
use super::results::{Negatives, Row};
use super::{DOMAIN, Design, Experiment, Task};
use crate::api::request::RegisterRequest;
use crate::bench::statistics;
use crate::report::json::{Percentiles, Report};
use crate::testbed;

/// Another server under the same load, at an address where it has the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct External {
    /// What it is called.
    pub name: String,
    /// Where it is.
    pub address: SocketAddr,
}

/// Names that are registered to see what that costs on the network.
const REGISTRATIONS: u32 = 100;

/// How long a cluster is left alone to see what it sends when nothing happens.
const IDLE: Duration = Duration::from_millis(1_500);

/// How long the last of a change's messages may take.
const SETTLING: Duration = Duration::from_millis(1_500);

/// Seconds of load before what is measured: two windows, in which a hundred queries outstanding learn of two hundred
/// names that nobody has.
const WARM_UP_S: f64 = 1.0;

/// Queries for names that nobody has, where they are repeated: as many as there are names, up to so many.
const MAX_REPEATED: usize = 10_000;

/// Queries in a file at least: enough that what is drawn at random is as it should be.
const MIN_QUERIES: usize = 1_000;

/// What one round has shown.
pub(super) struct Round {
    report: Report,
    traffic: Option<Traffic>,
    cpu_s: Option<(f64, f64)>,
    memory_mib: Option<f64>,
}

/// Measures all designs and other servers.
pub(super) fn measure(task: &Task, progress: &dyn Fn(&str)) -> io::Result<Vec<Row>> {
    let mut rounds: Vec<Vec<Vec<Round>>> = Vec::new(); // by design, by kind of negative names
    rounds.resize_with(task.designs.len() + task.externals.len(), || vec![Vec::new(), Vec::new()]);
    let mut costs = vec![None; task.designs.len()];
    for round in 0..task.experiment.rounds {
        for (i, &design) in task.designs.iter().enumerate() {
            progress(&format!("round {} of {}: {}", round + 1, task.experiment.rounds, design.name()));
            let mut cluster = Cluster::start(design, &task.experiment, &task.layout)?;
            check(&cluster, design, &task.experiment)?;
            if costs[i].is_none() {
                costs[i] = Some(registration_cost(task, &cluster)?);
            }
            warm_up(task, &mut cluster, &task.experiment)?;
            for (negatives, into) in [Negatives::Repeated, Negatives::New].iter().zip(&mut rounds[i]) {
                into.push(load(task, &mut cluster, &task.experiment, *negatives)?);
            }
        }
        for (external, into) in task.externals.iter().zip(&mut rounds[task.designs.len()..]) {
            progress(&format!("round {} of {}: {}", round + 1, task.experiment.rounds, external.name));
            for (negatives, into) in [Negatives::Repeated, Negatives::New].iter().zip(into) {
                into.push(load_external(task, external, *negatives)?);
            }
        }
    }
    let names = task.designs.iter().map(|design| design.name().to_owned());
    let names = names.chain(task.externals.iter().map(|external| external.name.clone()));
    let mut rows = Vec::new();
    for (i, (name, kinds)) in names.zip(&rounds).enumerate() {
        for (negatives, of_kind) in [Negatives::Repeated, Negatives::New].iter().zip(kinds) {
            let mut row = summarise(&name, *negatives, of_kind);
            if let Some((datagrams, bytes)) = costs.get(i).copied().flatten() {
                (row.datagrams_per_registration, row.bytes_per_registration) = (Some(datagrams), Some(bytes));
            }
            rows.push(row);
        }
    }
    Ok(rows)
}

/// Has the names that nobody has, where they are repeated, asked for once: a cache has them then as far as it can. It
/// is put on every design alike, and not measured.
pub(super) fn warm_up(task: &Task, cluster: &mut Cluster, experiment: &Experiment) -> io::Result<()> {
    let experiment = Experiment { seconds: WARM_UP_S, churn_per_s: 0, ..experiment.clone() };
    load(task, cluster, &experiment, Negatives::Repeated).map(drop)
}

/// That the node that is asked answers every name with its address, before anything is measured.
pub(super) fn check(cluster: &Cluster, design: Design, experiment: &Experiment) -> io::Result<()> {
    let names = all_names(experiment).map(|(label, address)| (in_domain(&label), address)).collect();
    let wrong = super::probe::check_all(cluster.namespace(0), cluster.asked().dns(), names)?;
    let Some(first) = wrong.first() else { return Ok(()) };
    Err(io::Error::other(format!(
        "{} answers {} names wrongly before any load, so its figures would mean nothing: {first}",
        design.name(),
        wrong.len()
    )))
}

/// Puts the load on the cluster's first node, while names change if the experiment says so.
pub(super) fn load(
    task: &Task,
    cluster: &mut Cluster,
    experiment: &Experiment,
    negatives: Negatives,
) -> io::Result<Round> {
    load_while(task, cluster, experiment, negatives, false)
}

/// The same, where the last node may be stopped: then it cannot say what it has sent.
pub(super) fn load_while(
    task: &Task,
    cluster: &mut Cluster,
    experiment: &Experiment,
    negatives: Negatives,
    last_is_stopped: bool,
) -> io::Result<Round> {
    let directory = cluster.directory().to_owned();
    let (command, target) = (cluster.load_command()?, cluster.asked().dns());
    let count = |cluster: &Cluster| if last_is_stopped { Ok(None) } else { cluster.traffic().map(Some) };
    let (before, cpu) = (count(cluster)?, cluster.cpu_s());
    let done = AtomicBool::new(false);
    let report = thread::scope(|scope| {
        let changing = cluster.nodes.last().filter(|_| experiment.churn_per_s > 0);
        let churn = changing.map(|node| scope.spawn(|| churn(node, experiment.churn_per_s, &done)));
        let report = run(task, command, target, &directory, experiment, negatives);
        done.store(true, Ordering::Relaxed);
        churn.map_or(Ok(()), super::join)?;
        report
    })?;
    cluster.check()?;
    let (after, cpu_after) = (count(cluster)?, cluster.cpu_s());
    Ok(Round {
        report,
        traffic: before.zip(after).map(|(before, after)| Traffic {
            datagrams: after.datagrams - before.datagrams,
            bytes: after.bytes - before.bytes,
        }),
        cpu_s: Some((cpu_after.0 - cpu.0, cpu_after.1 - cpu.1)),
        memory_mib: cluster.memory_mib(),
    })
}

fn load_external(task: &Task, external: &External, negatives: Negatives) -> io::Result<Round> {
    let directory = tempfile::TempDir::with_prefix("redbreast-compare-")?;
    let cpus = task.layout.cpus.as_ref().map(|[.., load]| load.as_str());
    let command = testbed::program(None, cpus, None)?;
    let report = run(task, command, external.address, directory.path(), &task.experiment, negatives)?;
    if report.totals.completed == 0 {
        return Err(io::Error::other(format!("{} at {} answers nothing", external.name, external.address)));
    }
    Ok(Round { report, traffic: None, cpu_s: None, memory_mib: None })
}

/// Runs the load generator to its end, unless a person has had enough.
fn run(
    task: &Task,
    mut command: Command,
    target: SocketAddr,
    directory: &Path,
    experiment: &Experiment,
    negatives: Negatives,
) -> io::Result<Report> {
    // A file of its own for each, so that nothing is taken for the result of a load that had none.
    let result = tempfile::NamedTempFile::new_in(directory)?;
    command.args(["bench", "-s", &target.ip().to_string(), "-p", &target.port().to_string()]);
    command.args(["-q", &experiment.outstanding.to_string(), "-l", &experiment.seconds.to_string()]);
    command.args(["-t", "5", "--accept-invalid", "--json"]).arg(result.path());
    command.args(queries(directory, experiment, negatives)?);
    let log = directory.join("load.log");
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(&log)?).spawn()?;
    loop {
        if let Err(error) = task.check() {
            // It fails only if it has ended already.
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
        if child.try_wait()?.is_some() {
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let text = fs::read_to_string(result.path())?;
    serde_json::from_str(&text).map_err(|_| {
        let said = fs::read_to_string(&log).unwrap_or_default();
        io::Error::other(format!("the load generator did not measure anything: {}", said.trim()))
    })
}

/// Writes what is asked, and returns the options that tell the load generator.
fn queries(directory: &Path, experiment: &Experiment, negatives: Negatives) -> io::Result<Vec<String>> {
    let path = |name: &str| -> PathBuf { directory.join(name) };
    let shown = |path: &Path| path.display().to_string();
    let share = experiment.negative_share;
    if negatives == Negatives::New {
        let names = path("asked-names");
        let mut file = io::BufWriter::new(fs::File::create(&names)?);
        for (label, _) in all_names(experiment) {
            writeln!(file, "{label}.{DOMAIN}")?;
        }
        file.flush()?;
        let shares = [("positive", 1.0 - share), ("negative", share)];
        let shares = shares.into_iter().filter(|(_, share)| *share > 0.0);
        let mix: Vec<_> = shares.map(|(kind, share)| format!("{kind}={}%", share * 100.0)).collect();
        let mix = mix.join(",");
        // Other names each time, so that nobody can have kept them.
        let seed = fastrand::u32(..).to_string();
        return Ok(["--names", &shown(&names), "--mix", &mix, "--seed", &seed].map(str::to_owned).to_vec());
    }
    let file_path = path("asked-queries");
    let mut file = io::BufWriter::new(fs::File::create(&file_path)?);
    let labels: Vec<_> = all_names(experiment).map(|(label, _)| label).collect();
    let mut negative = 0.0;
    // Each name comes as often as any other; names that nobody has are strewn between them.
    let mut next = labels.iter().cycle();
    for _ in 0..labels.len().max(MIN_QUERIES) * 2 {
        negative += share;
        if negative >= 1.0 {
            negative -= 1.0;
            let k = fastrand::usize(..labels.len().min(MAX_REPEATED));
            writeln!(file, "no-{}.{DOMAIN} A", labels[k])?;
        } else if let Some(label) = next.next() {
            writeln!(file, "{label}.{DOMAIN} A")?;
        }
    }
    file.flush()?;
    Ok(vec!["-d".into(), shown(&file_path)])
}

/// Datagrams and bytes between nodes for each registration, besides what an idle cluster sends.
fn registration_cost(task: &Task, cluster: &Cluster) -> io::Result<(f64, f64)> {
    let per_s = |before: Traffic, after: Traffic, begin: Instant| {
        let seconds = begin.elapsed().as_secs_f64();
        ((after.datagrams - before.datagrams) as f64 / seconds, (after.bytes - before.bytes) as f64 / seconds)
    };
    let (before, begin) = (cluster.traffic()?, Instant::now());
    task.sleep_until(begin + IDLE)?;
    let idle = per_s(before, cluster.traffic()?, begin);
    let (before, begin) = (cluster.traffic()?, Instant::now());
    for i in 0..REGISTRATIONS {
        let addition = RegisterRequest {
            name: format!("registered-{i}"),
            addresses: vec![[192, 0, 2, 1].into()],
            ..RegisterRequest::default()
        };
        let node = &cluster.nodes[i as usize % cluster.nodes.len()];
        node.add(&[addition]).map_err(io::Error::other)?;
    }
    task.sleep_until(Instant::now() + SETTLING)?;
    let after = cluster.traffic()?;
    let seconds = begin.elapsed().as_secs_f64();
    let each =
        |all: u64, idle_per_s: f64| (all as f64 - idle_per_s * seconds).max(0.0) / f64::from(REGISTRATIONS);
    Ok((each(after.datagrams - before.datagrams, idle.0), each(after.bytes - before.bytes, idle.1)))
}

/// The medians of some rounds.
pub(super) fn summarise(name: &str, negatives: Negatives, rounds: &[Round]) -> Row {
    let of = |value: &dyn Fn(&Round) -> Option<f64>| median(rounds.iter().filter_map(value));
    let per_query = |value: &dyn Fn(&Round) -> Option<f64>| {
        of(&|round| Some(value(round)? / (round.report.totals.completed.max(1) as f64)))
    };
    let latency = |of_report: fn(&Report) -> &Percentiles| {
        let each: Vec<_> = rounds.iter().map(|round| of_report(&round.report)).collect();
        median_percentiles(&each)
    };
    Row {
        name: name.into(),
        negatives: Some(negatives),
        qps: of(&|round| Some(round.report.qps)).unwrap_or_default(),
        all: latency(|report| &report.latency_us.all),
        positive: latency(|report| &report.latency_us.positive),
        negative: latency(|report| &report.latency_us.negative),
        lost: rounds.iter().map(|round| round.report.totals.lost).sum(),
        completed: rounds.iter().map(|round| round.report.totals.completed).sum(),
        datagrams_per_query: per_query(&|round| Some(round.traffic?.datagrams as f64)),
        bytes_per_query: per_query(&|round| Some(round.traffic?.bytes as f64)),
        datagrams_per_registration: None,
        bytes_per_registration: None,
        cpu_us_per_query: per_query(&|round| Some(round.cpu_s?.0 * 1e6)),
        cluster_cpu_us_per_query: per_query(&|round| Some(round.cpu_s?.1 * 1e6)),
        memory_mib: of(&|round| round.memory_mib),
        generator_limited: rounds.iter().filter(|round| !round.report.verdict.valid).count(),
        rounds_qps: rounds.iter().map(|round| round.report.qps).collect(),
    }
}

impl Round {
    /// Queries a second, the 99th percentile in microseconds, and queries lost.
    pub(super) fn figures(&self) -> (f64, f64, u64) {
        let report = &self.report;
        (report.qps, report.latency_us.all.p99.unwrap_or(f64::NAN), report.totals.lost)
    }
}

/// The median; none of nothing.
pub(super) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    (!values.is_empty()).then(|| statistics::median(&mut values))
}

/// Each statistic's median over the rounds.
fn median_percentiles(rounds: &[&Percentiles]) -> Percentiles {
    let of = |value: fn(&Percentiles) -> Option<f64>| median(rounds.iter().filter_map(|round| value(round)));
    Percentiles {
        min: of(|round| round.min),
        mean: of(|round| round.mean),
        stddev: of(|round| round.stddev),
        p50: of(|round| round.p50),
        p90: of(|round| round.p90),
        p99: of(|round| round.p99),
        p99_9: of(|round| round.p99_9),
        p99_99: of(|round| round.p99_99),
        max: of(|round| round.max),
        censored: rounds.iter().map(|round| round.censored).sum(),
        bounds_from: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle_or_between_two() {
        assert_eq!(median([].into_iter()), None);
        assert_eq!(median([3.0].into_iter()), Some(3.0));
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([4.0, 1.0].into_iter()), Some(2.5));
    }

    #[test]
    fn repeated_queries_have_the_share_that_was_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        for share in [0.0, 0.25, 0.5, 0.9, 1.0] {
            let experiment = Experiment { negative_share: share, ..Experiment::default() };
            let options = queries(directory.path(), &experiment, Negatives::Repeated).unwrap();
            let text = fs::read_to_string(&options[1]).unwrap();
            let negative = text.lines().filter(|line| line.starts_with("no-")).count() as f64;
            let seen = negative / text.lines().count() as f64;
            assert!((seen - share).abs() < 0.01, "{share}: {seen}");
        }
    }
}
