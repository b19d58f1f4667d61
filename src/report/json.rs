//! A measurement as JSON, the form in which results are kept and compared.
//!
//! Built by the main thread after a run. Fields are only ever added; a reader ignores those it does not know. Units
//! stand in the names; a number that was not measured is `null`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::text::reason;
use crate::bench::latency::Latencies;
use crate::bench::{End, Outcome, Settings};
use crate::wire::header::rcode;

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What measured: `redbreast bench`.
    pub tool: String,
    /// Its version.
    pub version: String,
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
    /// Latencies by kind of answer.
    pub latency_us: LatencyRecord,
    /// Completed queries by response code, those that occurred.
    pub rcodes: BTreeMap<String, u64>,
    /// Whether the run was what was asked for.
    pub verdict: Verdict,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The server as named on the command line.
    pub server: String,
    /// Its address and port.
    pub address: String,
    /// How queries travelled: `udp`.
    pub transport: String,
}

/// What was asked for, defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SettingsRecord {
    /// The query file; `-` for standard input.
    pub queries: String,
    /// Queries in it.
    pub queries_in_file: u32,
    /// Sockets.
    pub clients: u32,
    /// Threads that had something to do.
    pub threads: u32,
    /// Queries in flight at most.
    pub outstanding: u64,
    /// The fixed rate, if any.
    pub max_qps: Option<u32>,
    /// Passes through the file at most.
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
#[allow(missing_docs)] // named as there
pub struct TotalsRecord {
    pub sent: u64,
    pub completed: u64,
    pub lost: u64,
    pub late: u64,
    pub wrong: u64,
    pub duplicate: u64,
    pub interrupted: u64,
    pub refused: u64,
    pub overdue: u64,
    pub request_bytes: u64,
    pub response_bytes: u64,
}

/// Latencies by kind of answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LatencyRecord {
    /// Of all completed queries.
    pub all: Percentiles,
    /// Of answers that bring records.
    pub positive: Percentiles,
    /// Of answers that say that there is none.
    pub negative: Percentiles,
}

/// Statistics of latencies in microseconds; all `null` when there are none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
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
}

/// Whether the run was what was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// The run went to its end and was answered.
    pub complete: bool,
    /// It was stopped from outside.
    pub interrupted: bool,
    /// Why it ended: `end of file`, `time limit`, `interruption`, or the error that ended it.
    pub reason: String,
}

/// What a report says besides what the run itself knows.
#[derive(Clone, Debug)]
pub struct Circumstances<'a> {
    /// The server as named on the command line.
    pub server: &'a str,
    /// The query file as named on the command line; `-` for standard input.
    pub queries: &'a str,
    /// Queries in it.
    pub queries_in_file: u32,
    /// Queries carried an OPT record.
    pub edns: bool,
    /// And in it the DO bit.
    pub dnssec_ok: bool,
}

impl Report {
    /// The report of a run. If an `error` ended it, `outcome` is an empty one.
    #[must_use]
    pub fn new(
        circumstances: &Circumstances<'_>,
        settings: &Settings,
        outcome: &Outcome,
        error: Option<&str>,
    ) -> Self {
        let tally = &outcome.tally;
        let rcodes = (0u8..).zip(tally.totals.rcodes).filter(|&(_, count)| count > 0);
        let interrupted = outcome.end == End::Interrupted && error.is_none();
        Self {
            tool: "redbreast bench".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            machine: Machine::current(),
            target: Target {
                server: circumstances.server.into(),
                address: settings.server.to_string(),
                transport: "udp".into(),
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
            rcodes: rcodes.map(|(code, count)| (rcode::mnemonic(code).into(), count)).collect(),
            verdict: Verdict {
                complete: error.is_none() && !interrupted && tally.totals.completed > 0,
                interrupted,
                reason: error.unwrap_or(reason(outcome.end)).into(),
            },
        }
    }
}

impl SettingsRecord {
    fn new(circumstances: &Circumstances<'_>, settings: &Settings) -> Self {
        Self {
            queries: circumstances.queries.into(),
            queries_in_file: circumstances.queries_in_file,
            clients: settings.clients,
            threads: settings.effective_threads(),
            outstanding: settings.effective_outstanding(),
            max_qps: settings.rate_qps.map(Into::into),
            runs: settings.effective_runs().map(Into::into),
            time_limit_s: settings.time_limit.as_ref().map(Duration::as_secs_f64),
            timeout_s: settings.timeout.as_secs_f64(),
            edns: circumstances.edns,
            dnssec_ok: circumstances.dnssec_ok,
        }
    }
}

impl TotalsRecord {
    fn new(totals: &crate::bench::Totals) -> Self {
        Self {
            sent: totals.sent,
            completed: totals.completed,
            lost: totals.lost,
            late: totals.late,
            wrong: totals.wrong,
            duplicate: totals.duplicate,
            interrupted: totals.interrupted,
            refused: totals.refused,
            overdue: totals.overdue,
            request_bytes: totals.request_bytes,
            response_bytes: totals.response_bytes,
        }
    }
}

impl Percentiles {
    /// Statistics of `latencies`.
    #[must_use]
    pub fn new(latencies: &Latencies) -> Self {
        latencies.summary().map_or_else(Self::default, |summary| Self {
            min: Some(summary.min_us),
            mean: Some(summary.mean_us),
            stddev: summary.stddev_us,
            p50: Some(summary.p50_us),
            p90: Some(summary.p90_us),
            p99: Some(summary.p99_us),
            p99_9: Some(summary.p99_9_us),
            p99_99: Some(summary.p99_99_us),
            max: Some(summary.max_us),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Tally;
    use serde_json::{Value, json};

    const CIRCUMSTANCES: Circumstances<'_> = Circumstances {
        server: "localhost",
        queries: "q.txt",
        queries_in_file: 7,
        edns: true,
        dnssec_ok: false,
    };

    fn report(outcome: &Outcome, error: Option<&str>) -> Value {
        let settings = Settings::new("127.0.0.1:5300".parse().unwrap());
        let report = Report::new(&CIRCUMSTANCES, &settings, outcome, error);
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
        let outcome = Outcome { tally, run_time: Duration::from_millis(1_500), end: End::TimeLimit };
        let report = report(&outcome, None);
        assert_eq!(report["tool"], "redbreast bench");
        assert_eq!(report["target"]["address"], "127.0.0.1:5300");
        assert_eq!(report["settings"]["outstanding"], 100);
        assert_eq!(report["settings"]["max_qps"], Value::Null);
        for count in ["sent", "completed", "lost", "late", "wrong", "duplicate"] {
            assert!(report["totals"][count].is_u64(), "{count}");
        }
        assert_eq!((&report["run_time_s"], &report["qps"]), (&json!(1.5), &json!(2.0)));
        let positive = json!({"min": 5.0, "mean": 5.0, "stddev": null, "p50": 5.0, "p90": 5.0, "p99": 5.0,
            "p99_9": 5.0, "p99_99": 5.0, "max": 5.0});
        assert_eq!(report["latency_us"]["positive"], positive);
        assert_eq!(report["latency_us"]["all"]["mean"], 7.0);
        assert_eq!(report["rcodes"], json!({"NOERROR": 1, "NXDOMAIN": 2}));
        let verdict = json!({"complete": true, "interrupted": false, "reason": "time limit"});
        assert_eq!(report["verdict"], verdict);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let nothing = Outcome { tally: Tally::default(), run_time: Duration::ZERO, end: End::Interrupted };
        let interrupted = report(&nothing, None);
        for kind in ["all", "positive", "negative"] {
            let statistics = interrupted["latency_us"][kind].as_object().unwrap();
            assert_eq!(statistics.len(), 9);
            assert!(statistics.values().all(Value::is_null));
        }
        assert_eq!(interrupted["verdict"]["interrupted"], true);
        let failed = report(&nothing, Some("nobody listens"));
        let verdict = json!({"complete": false, "interrupted": false, "reason": "nobody listens"});
        assert_eq!(failed["verdict"], verdict);
    }
}
