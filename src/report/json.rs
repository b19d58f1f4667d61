//! A measurement as JSON, the form in which results are kept and compared.
//!
//! Built by the main thread after a run. Fields are only ever added; a reader ignores those it does not know, and does
//! without those that an earlier release did not write. Units stand in the names; a number not measured is `null`.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::comparison::{ContestRecord, SearchRecord};
use super::machine::{Machine, UdpCounters};
use super::neighbour::ServerProcess;
use super::text::{reason, rfc3339};
use crate::bench::latency::Latencies;
use crate::bench::schedule::{Arrivals, Plan, Rate};
use crate::bench::statistics::evenness;
use crate::bench::verdict::RunFault;
use crate::bench::{Outcome, Point, RunEnd, RunSettings, Totals, Usage, Verification};
use crate::wire::header::rcode;

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What measured: `redbreast bench`.
    pub tool: String,
    /// Its version.
    pub version: String,
    /// When it began, in UTC (RFC 3339).
    #[serde(default)]
    pub started: String,
    /// Where it ran.
    pub machine: Machine,
    /// What was measured.
    pub target: Target,
    /// What was asked for.
    pub settings: SettingsRecord,
    /// Counts.
    pub totals: TotalsRecord,
    /// From the first query to the last answer.
    pub run_time_s: f64,
    /// Queries completed a second.
    pub qps: f64,
    /// Service times, from when a query was sent, by kind of answer.
    pub latency_us: LatencyRecord,
    /// Response times, from when a query was due. In a closed loop they are the service times.
    #[serde(default)]
    pub response_us: Percentiles,
    /// How long after they were due queries were sent; all `null` in a closed loop.
    #[serde(default)]
    pub slip_us: Percentiles,
    /// Response times by percentile: pairs of a percentile (0 to 100) and microseconds.
    #[serde(default)]
    pub curve: Vec<(f64, f64)>,
    /// Response times by how many there were: pairs of an upper end in microseconds and a count.
    #[serde(default)]
    pub histogram: Vec<(f64, u64)>,
    /// The course of the run.
    #[serde(default)]
    pub series: Vec<PointRecord>,
    /// Completed queries by response code, those that occurred.
    pub rcodes: BTreeMap<String, u64>,
    /// What the generator itself did.
    #[serde(default)]
    pub generator: GeneratorRecord,
    /// What was found when answers were compared with what was expected.
    #[serde(default)]
    pub verification: Option<VerificationRecord>,
    /// The search for the highest rate, if that was asked for; the rest of the report is of its last trial.
    #[serde(default)]
    pub search: Option<SearchRecord>,
    /// The comparison with another server, if that was asked for; the rest of the report is of all rounds together.
    #[serde(default)]
    pub contest: Option<ContestRecord>,
    /// Whether the run was what was asked for.
    pub verdict: RunVerdict,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The server as named on the command line.
    pub server: String,
    /// Its address and port.
    pub address: String,
    /// How queries travelled: `udp`, `tcp` or `dot`.
    pub transport: String,
}

/// What was asked for, defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SettingsRecord {
    /// The query file; `-` for standard input.
    pub queries: String,
    /// Queries in it.
    pub queries_in_file: u32,
    /// Sockets, or connections.
    pub clients: u32,
    /// Threads that had something to do.
    pub threads: u32,
    /// Queries in flight at most.
    pub outstanding: u64,
    /// The fixed rate, if any.
    pub max_qps: Option<f64>,
    /// The schedule: `closed loop`, `constant`, `poisson`, `capture`, or a ramp like `10000..500000/60s`.
    pub schedule: String,
    /// How the threads waited: `spin` or `sleep`.
    pub waiting: String,
    /// Passes through the queries at most.
    pub runs: Option<u32>,
    /// Seconds of sending at most.
    pub time_limit_s: Option<f64>,
    /// Seconds until a query is lost.
    pub timeout_s: f64,
    /// Queries carried an OPT record.
    pub edns: bool,
    /// And in it the DO bit.
    pub dnssec_ok: bool,
}

/// Counts; see [`crate::bench::Totals`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // named as there
pub struct TotalsRecord {
    pub sent: u64,
    pub completed: u64,
    pub lost: u64,
    pub late: u64,
    /// Mismatched answers and those from elsewhere, together.
    pub wrong: u64,
    pub mismatched: u64,
    pub wrong_source: u64,
    pub duplicate: u64,
    pub interrupted: u64,
    pub refused: u64,
    pub connections: u64,
    pub broken: u64,
    pub overdue: u64,
    pub held_back: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// Latencies by kind of answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyRecord {
    /// Of all queries.
    pub all: Percentiles,
    /// Of answers that bring records.
    pub positive: Percentiles,
    /// Of answers that say that there is none.
    pub negative: Percentiles,
}

/// Statistics of latencies in microseconds; all `null` when there are none. Percentiles include the queries that were
/// not answered, as lower bounds; minimum, mean, deviation and maximum are those of the answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // statistics by their usual names
pub struct Percentiles {
    pub min: Option<f64>,
    pub mean: Option<f64>,
    pub stddev: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p99_9: Option<f64>,
    pub p99_99: Option<f64>,
    pub max: Option<f64>,
    /// How many were not answered.
    pub censored: u64,
    /// From here on percentiles are lower bounds.
    pub bounds_from: Option<f64>,
}

/// One interval of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PointRecord {
    /// When it began, and how long it was.
    pub start_s: f64,
    /// How long it was.
    pub length_s: f64,
    /// Queries a second that the schedule called for.
    pub offered_qps: Option<f64>,
    /// Queries sent, answered, and given up in it.
    pub sent: u64,
    /// Queries answered.
    pub completed: u64,
    /// Queries given up: sent a timeout before.
    pub lost: u64,
    /// Response times, in microseconds; `null` where nothing was answered.
    pub p50_us: Option<f64>,
    /// The 99th percentile.
    pub p99_us: Option<f64>,
    /// The greatest.
    pub max_us: Option<f64>,
}

/// What the generator itself did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GeneratorRecord {
    /// Its sending threads.
    pub threads: Vec<ThreadRecord>,
    /// Answers that the kernel dropped because the generator's sockets had no room.
    pub drops: u64,
    /// What the kernel counted of UDP meanwhile, for all programs of this machine or container.
    pub kernel_udp: Option<UdpCounters>,
    /// The server's process, where it runs on this machine and can be seen.
    pub server_process: Option<ServerProcess>,
    /// The part of its CPUs' time that it took, 0 to 1.
    pub server_share: Option<f64>,
}

/// One sending thread: parts of its time, 0 to 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThreadRecord {
    /// In which it had something to do.
    pub busy: f64,
    /// In which others had the CPU that it needed.
    pub delayed: f64,
    /// CPU seconds.
    pub cpu_s: Option<f64>,
}

/// What was found when answers were compared with what was expected; see [`Verification`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // named as there
pub struct VerificationRecord {
    pub checked: u64,
    pub right: u64,
    pub wrong_code: u64,
    pub unexpected: u64,
    pub missing: u64,
    pub truncated: u64,
    pub unchecked: u64,
    pub examples: Vec<String>,
    /// Whether each datum came first equally often: the statistic, degrees of freedom, and how probable that or more is
    /// if they do.
    pub first_chi_squared: Option<f64>,
    pub first_degrees: Option<u64>,
    pub first_p: Option<f64>,
}

/// Whether the run was what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunVerdict {
    /// The run went to its end and was answered.
    pub complete: bool,
    /// It was stopped from outside.
    pub interrupted: bool,
    /// Why it ended: `end of file`, `time limit`, `interruption`, or the error that ended it.
    pub reason: String,
    /// The result stands for the server, and not for the generator.
    #[serde(default)]
    pub valid: bool,
    /// Why it does not.
    #[serde(default)]
    pub faults: Vec<FaultRecord>,
    /// What else a reader should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// A reason why a result does not stand for the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultRecord {
    /// A word for programs.
    pub name: String,
    /// What was seen, and what to do.
    pub text: String,
}

/// What a report says besides what the run itself knows.
#[derive(Clone, Debug)]
pub struct Circumstances {
    /// When it began.
    pub started: SystemTime,
    /// The server as named on the command line.
    pub server: String,
    /// The query file as named on the command line; `-` for standard input.
    pub queries: String,
    /// Queries in it.
    pub queries_in_file: u32,
    /// Queries carried an OPT record.
    pub edns: bool,
    /// And in it the DO bit.
    pub dnssec_ok: bool,
    /// What the kernel counted of UDP during the run.
    pub kernel_udp: Option<UdpCounters>,
    /// The server's process.
    pub server_process: Option<ServerProcess>,
    /// What else a reader should know.
    pub notes: Vec<String>,
}

impl Report {
    /// The report of a run. If an `error` ended it, `outcome` is an empty one.
    #[must_use]
    pub fn new(
        circumstances: &Circumstances,
        settings: &RunSettings,
        outcome: &Outcome,
        faults: &[RunFault],
        error: Option<&str>,
    ) -> Self {
        let tally = &outcome.tally;
        let responses = tally.responses();
        let rcodes = (0u8..).zip(tally.totals.rcodes).filter(|&(_, count)| count > 0);
        Self {
            tool: "redbreast bench".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            started: rfc3339(circumstances.started),
            machine: Machine::current(),
            target: Target {
                server: circumstances.server.clone(),
                address: settings.server.to_string(),
                transport: settings.transport.name().into(),
            },
            settings: SettingsRecord::new(circumstances, settings),
            totals: TotalsRecord::new(&tally.totals),
            run_time_s: outcome.run_time.as_secs_f64(),
            qps: outcome.qps(),
            latency_us: LatencyRecord {
                all: Percentiles::new(&tally.all()),
                positive: Percentiles::new(&tally.positive),
                negative: Percentiles::new(&tally.negative),
            },
            response_us: Percentiles::new(&responses),
            slip_us: Percentiles::new(&tally.send_lag),
            curve: curve(&responses),
            histogram: histogram(&responses),
            series: outcome.series.iter().map(|point| PointRecord::new(point, settings)).collect(),
            rcodes: rcodes.map(|(code, count)| (rcode::mnemonic(code).into(), count)).collect(),
            generator: GeneratorRecord {
                threads: outcome.usage.iter().map(ThreadRecord::new).collect(),
                drops: outcome.drops,
                kernel_udp: circumstances.kernel_udp,
                server_process: circumstances.server_process.clone(),
                server_share: outcome.server_share,
            },
            verification: outcome.verification.as_ref().map(VerificationRecord::new),
            search: None,
            contest: None,
            verdict: RunVerdict::new(circumstances, outcome, faults, error),
        }
    }
}

impl RunVerdict {
    fn new(
        circumstances: &Circumstances,
        outcome: &Outcome,
        faults: &[RunFault],
        error: Option<&str>,
    ) -> Self {
        let interrupted = outcome.end == RunEnd::Interrupted && error.is_none();
        let complete = error.is_none() && !interrupted && outcome.tally.totals.completed > 0;
        let record = |fault: &RunFault| FaultRecord { name: fault.name.into(), text: fault.text.clone() };
        Self {
            complete,
            interrupted,
            reason: error.unwrap_or(reason(outcome.end)).into(),
            valid: complete && faults.is_empty(),
            faults: faults.iter().map(record).collect(),
            notes: circumstances.notes.clone(),
        }
    }
}

impl SettingsRecord {
    fn new(circumstances: &Circumstances, settings: &RunSettings) -> Self {
        Self {
            queries: circumstances.queries.clone(),
            queries_in_file: circumstances.queries_in_file,
            clients: settings.clients,
            threads: settings.effective_threads(),
            outstanding: settings.effective_outstanding(),
            max_qps: settings.rate_qps(),
            schedule: match &settings.plan {
                None => "closed loop".into(),
                Some(Plan::Recorded { .. }) => "capture".into(),
                Some(Plan::Rate(Rate::Ramp { from_qps, to_qps, over }, _)) => {
                    format!("{from_qps}..{to_qps}/{}s", over.as_secs_f64())
                }
                Some(Plan::Rate(_, Arrivals::Constant)) => "constant".into(),
                Some(Plan::Rate(_, Arrivals::Poisson)) => "poisson".into(),
            },
            waiting: settings.wait_mode.name().into(),
            runs: settings.effective_runs().map(Into::into),
            time_limit_s: settings.time_limit.as_ref().map(Duration::as_secs_f64),
            timeout_s: settings.timeout.as_secs_f64(),
            edns: circumstances.edns,
            dnssec_ok: circumstances.dnssec_ok,
        }
    }
}

impl TotalsRecord {
    fn new(totals: &Totals) -> Self {
        Self {
            sent: totals.sent,
            completed: totals.completed,
            lost: totals.lost,
            late: totals.late,
            wrong: totals.mismatched + totals.wrong_source,
            mismatched: totals.mismatched,
            wrong_source: totals.wrong_source,
            duplicate: totals.duplicate,
            interrupted: totals.interrupted,
            refused: totals.refused,
            connections: totals.connections,
            broken: totals.broken,
            overdue: totals.overdue,
            held_back: totals.throttled,
            request_bytes: totals.request_bytes,
            response_bytes: totals.response_bytes,
        }
    }
}

impl Percentiles {
    /// Statistics of `latencies`.
    #[must_use]
    pub fn new(latencies: &Latencies) -> Self {
        let nothing = Self {
            censored: latencies.censored(),
            bounds_from: latencies.bounds_from_us(),
            ..Self::default()
        };
        latencies.summary().map_or(nothing, |summary| Self {
            min: Some(summary.min_us),
            mean: Some(summary.mean_us),
            stddev: summary.stddev_us,
            p50: Some(summary.p50_us),
            p90: Some(summary.p90_us),
            p99: Some(summary.p99_us),
            p99_9: Some(summary.p99_9_us),
            p99_99: Some(summary.p99_99_us),
            max: Some(summary.max_us),
            censored: summary.censored,
            bounds_from: summary.bounds_from_us,
        })
    }
}

impl PointRecord {
    fn new(point: &Point, settings: &RunSettings) -> Self {
        let offered_qps = match &settings.plan {
            Some(Plan::Rate(rate, _)) => Some(rate.qps_at(point.start + point.length / 2)),
            _ => None,
        };
        Self {
            start_s: point.start.as_secs_f64(),
            length_s: point.length.as_secs_f64(),
            offered_qps,
            sent: point.totals.sent,
            completed: point.totals.completed,
            lost: point.totals.lost,
            p50_us: point.p50_us,
            p99_us: point.p99_us,
            max_us: point.max_us,
        }
    }
}

impl ThreadRecord {
    fn new(usage: &Usage) -> Self {
        Self {
            busy: usage.busy_share(),
            delayed: usage.delayed_share(),
            cpu_s: usage.cpu_ns.map(|cpu_ns| cpu_ns as f64 / 1e9),
        }
    }
}

impl VerificationRecord {
    fn new(found: &Verification) -> Self {
        let first = evenness(found.first.values().map(Vec::as_slice));
        Self {
            checked: found.checked,
            right: found.right,
            wrong_code: found.wrong_code,
            unexpected: found.unexpected,
            missing: found.missing,
            truncated: found.truncated,
            unchecked: found.unchecked,
            examples: found.examples.clone(),
            first_chi_squared: first.map(|test| test.value),
            first_degrees: first.map(|test| test.degrees),
            first_p: first.map(|test| test.p),
        }
    }
}

/// Percentiles closer and closer to 100, and the latencies there.
fn curve(latencies: &Latencies) -> Vec<(f64, f64)> {
    let mut points: Vec<(f64, f64)> = latencies
        .histogram()
        .iter_quantiles(5)
        .map(|step| (step.quantile_iterated_to() * 100.0, latencies.quantile_us(step.quantile_iterated_to())))
        .collect();
    points.dedup();
    points
}

/// Counts of latencies between ends that grow by a quarter each.
fn histogram(latencies: &Latencies) -> Vec<(f64, u64)> {
    let mut bars: Vec<(f64, u64)> = Vec::new();
    let mut end_us = 1.0;
    for step in latencies.histogram().iter_recorded() {
        let value_us = step.value_iterated_to() as f64 / 1e3;
        while value_us > end_us {
            end_us *= 1.25;
        }
        match bars.last_mut() {
            Some((last_us, count)) if *last_us == end_us => *count += step.count_since_last_iteration(),
            _ => bars.push((end_us, step.count_since_last_iteration())),
        }
    }
    bars
}
#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Tally;
    use serde_json::{Value, json};

    fn circumstances() -> Circumstances {
        Circumstances {
            server: "localhost".into(),
            queries: "q.txt".into(),
            queries_in_file: 7,
            edns: true,
            started: SystemTime::UNIX_EPOCH + Duration::from_secs(951_827_696),
            dnssec_ok: false,
            kernel_udp: None,
            server_process: None,
            notes: Vec::new(),
        }
    }

    fn report(outcome: &Outcome, error: Option<&str>) -> Value {
        let settings = RunSettings::new("127.0.0.1:5300".parse().unwrap());
        let report = Report::new(&circumstances(), &settings, outcome, &[], error);
        let text = serde_json::to_string(&report).unwrap();
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn a_run_has_every_field_of_the_schema() {
        let mut tally = Tally::default();
        (tally.totals.sent, tally.totals.completed, tally.totals.lost) = (4, 3, 1);
        (tally.totals.rcodes[0], tally.totals.rcodes[3]) = (1, 2);
        tally.positive.record(5_000);
        tally.negative.record(7_000);
        tally.negative.record(9_000);
        let run_time = Duration::from_millis(1_500);
        let outcome = Outcome { tally, run_time, end: RunEnd::TimeLimit, ..Outcome::nothing() };
        let report = report(&outcome, None);
        assert_eq!(report["tool"], "redbreast bench");
        assert_eq!(report["started"], "2000-02-29T12:34:56Z");
        assert_eq!(report["target"]["address"], "127.0.0.1:5300");
        assert_eq!(report["settings"]["outstanding"], 100);
        assert_eq!(report["settings"]["max_qps"], Value::Null);
        for count in ["sent", "completed", "lost", "late", "wrong", "duplicate"] {
            assert!(report["totals"][count].is_u64(), "{count}");
        }
        assert_eq!((&report["run_time_s"], &report["qps"]), (&json!(1.5), &json!(2.0)));
        let positive = json!({"min": 5.0, "mean": 5.0, "stddev": null, "p50": 5.0, "p90": 5.0, "p99": 5.0,
            "p99_9": 5.0, "p99_99": 5.0, "max": 5.0, "censored": 0, "bounds_from": null});
        assert_eq!(report["latency_us"]["positive"], positive);
        assert_eq!(report["latency_us"]["all"]["mean"], 7.0);
        assert_eq!(report["rcodes"], json!({"NOERROR": 1, "NXDOMAIN": 2}));
        let verdict = json!({"complete": true, "interrupted": false, "reason": "time limit",
            "valid": true, "faults": [], "notes": []});
        assert_eq!(report["verdict"], verdict);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let nothing = Outcome::nothing();
        let interrupted = report(&nothing, None);
        for kind in ["all", "positive", "negative"] {
            let statistics = interrupted["latency_us"][kind].as_object().unwrap();
            assert_eq!(statistics.len(), 11);
            assert!(statistics.iter().all(|(name, value)| value.is_null() || name == "censored"));
        }
        assert_eq!(interrupted["verdict"]["interrupted"], true);
        let verdict = json!({"complete": false, "interrupted": false, "reason": "nobody listens",
            "valid": false, "faults": [], "notes": []});
        assert_eq!(report(&nothing, Some("nobody listens"))["verdict"], verdict);
    }
}
