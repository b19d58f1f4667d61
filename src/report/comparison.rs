//! What came of many runs: a search for the highest rate, and a comparison with another server, as JSON and as text.
//!
//! Made by the main thread.

use std::io::{self, Write};

use comfy_table::{CellAlignment, Table, presets};
use serde::{Deserialize, Serialize};

use crate::bench::ab::{self, AbRounds, Comparison, METRICS, RequirementResult};
use crate::bench::objective::{Metric, Objective};
use crate::bench::search::{Limit, SearchResult, Trial};

/// A search for the highest rate that holds an objective.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchRecord {
    /// What had to hold.
    pub objective: String,
    /// The highest rate that was confirmed.
    pub best_qps: Option<f64>,
    /// `server` or `generator`.
    pub limit: String,
    /// All trials in their order.
    pub trials: Vec<TrialRecord>,
}

/// One trial of a search.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TrialRecord {
    /// Queries a second that were asked for.
    pub rate_qps: f64,
    /// Queries answered a second.
    pub qps: f64,
    /// Response times.
    pub p50_us: f64,
    /// The 99th percentile.
    pub p99_us: f64,
    /// Part of the queries that were not answered, 0 to 1.
    pub loss: f64,
    /// It was made to confirm a rate.
    pub confirmation: bool,
    /// It held, and the generator kept up.
    pub holds: bool,
    /// Why not.
    pub missed: Vec<String>,
}

impl SearchRecord {
    /// What came of a search.
    #[must_use]
    pub fn new(objectives: &[Objective], found: &SearchResult) -> Self {
        let objective: Vec<_> = objectives.iter().map(ToString::to_string).collect();
        Self {
            objective: objective.join(","),
            best_qps: found.best_qps,
            limit: if found.limit == Limit::Server { "server" } else { "generator" }.into(),
            trials: found.trials.iter().map(TrialRecord::new).collect(),
        }
    }
}

impl TrialRecord {
    fn new(trial: &Trial) -> Self {
        let missed = trial
            .missed
            .iter()
            .map(|(objective, value)| format!("{} is {}", objective.metric, objective.metric.show(*value)));
        let faults = trial.faults.iter().map(|fault| fault.name.to_owned());
        Self {
            rate_qps: trial.rate_qps,
            qps: trial.outcome.qps(),
            p50_us: Metric::Quantile(0.5).of(&trial.outcome),
            p99_us: Metric::Quantile(0.99).of(&trial.outcome),
            loss: Metric::Loss.of(&trial.outcome),
            confirmation: trial.is_confirmation,
            holds: trial.holds(),
            missed: missed.chain(faults).collect(),
        }
    }
}

/// Writes the line of one trial.
///
/// # Errors
/// Those of `out`.
pub fn write_trial(out: &mut dyn Write, trial: &Trial) -> io::Result<()> {
    let record = TrialRecord::new(trial);
    let verdict = match (record.holds, record.confirmation) {
        (true, false) => "holds".into(),
        (true, true) => "confirmed".into(),
        (false, _) => record.missed.join(", "),
    };
    let show = |metric: Metric, value| metric.show(value);
    writeln!(
        out,
        "  {:>10.0}/s  p50 {:>10}  p99 {:>10}  loss {:>8}  {verdict}",
        record.rate_qps,
        show(Metric::Mean, record.p50_us),
        show(Metric::Mean, record.p99_us),
        show(Metric::Loss, record.loss)
    )
}

/// Writes the end of a search.
///
/// # Errors
/// Those of `out`.
pub fn write_found(out: &mut dyn Write, objectives: &[Objective], found: &SearchResult) -> io::Result<()> {
    let record = SearchRecord::new(objectives, found);
    match (record.best_qps, found.limit) {
        (Some(best), Limit::Server) => {
            writeln!(out, "\nHighest rate that holds {}: {best:.0} queries/s", record.objective)
        }
        (Some(best), Limit::Generator) => writeln!(
            out,
            "\nThe server holds {} at {best:.0} queries/s at least: the generator, and not the server, is the limit",
            record.objective
        ),
        (None, Limit::Server) => writeln!(out, "\nNo rate that was tried holds {}", record.objective),
        (None, Limit::Generator) => {
            writeln!(out, "\nNo rate that was tried could be judged: the generator did not keep up")
        }
    }
}

/// A comparison with another server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ContestRecord {
    /// What it was compared with: an address, or a file.
    pub against: String,
    /// Values of each round, by metric: ours and theirs.
    pub rounds: Vec<Vec<(String, f64, f64)>>,
    /// The metrics, over all rounds.
    pub comparisons: Vec<ComparisonRecord>,
    /// What was required.
    pub requirements: Vec<RulingRecord>,
}

/// A metric of both.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // as in `Comparison`
pub struct ComparisonRecord {
    pub metric: String,
    pub ours: f64,
    pub theirs: f64,
    pub ratio: f64,
    /// Where the interval of 95% confidence begins and ends; `null` for one round alone.
    pub low: Option<f64>,
    pub high: Option<f64>,
}

/// What became of a requirement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs)] // as in `RequirementResult`
pub struct RulingRecord {
    pub requirement: String,
    pub holds: bool,
    pub certain: bool,
}

impl ContestRecord {
    /// What came of a comparison of rounds.
    #[must_use]
    pub fn of_rounds(against: &str, contest: &AbRounds, requirements: &[Objective]) -> Self {
        let values = |round: &ab::Round| {
            let value =
                |metric: &Metric| (metric.to_string(), metric.of(&round.ours), metric.of(&round.theirs));
            METRICS.iter().map(value).collect()
        };
        let comparisons: Vec<_> = METRICS.iter().filter_map(|&metric| contest.compare(metric)).collect();
        Self {
            against: against.into(),
            rounds: contest.rounds.iter().map(values).collect(),
            comparisons: comparisons
                .iter()
                .map(|one| ComparisonRecord::new(one, contest.rounds.len()))
                .collect(),
            requirements: contest.rule(requirements).iter().map(RulingRecord::new).collect(),
        }
    }

    /// Whether all requirements hold.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.requirements.iter().all(|ruling| ruling.holds)
    }
}

impl ComparisonRecord {
    pub(super) fn new(comparison: &Comparison, rounds: usize) -> Self {
        let Comparison { metric, ours, theirs, ratio } = comparison;
        let several = |value| (rounds > 1).then_some(value);
        Self {
            metric: metric.to_string(),
            ours: *ours,
            theirs: *theirs,
            ratio: ratio.median,
            low: several(ratio.low),
            high: several(ratio.high),
        }
    }
}

impl RulingRecord {
    pub(super) fn new(ruling: &RequirementResult) -> Self {
        let Objective { metric, bound, .. } = ruling.requirement;
        // The bound is a ratio, and not in the unit of the metric.
        let text = ruling.requirement.to_string().replace(&metric.show(bound), &bound.to_string());
        Self { requirement: text, holds: ruling.holds, certain: ruling.certain }
    }
}

/// Writes a comparison as a table, and what became of the requirements.
///
/// # Errors
/// Those of `out`.
pub fn write_contest(out: &mut dyn Write, record: &ContestRecord) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["", "ours", "theirs", "ratio", "95% interval"]);
    for row in &record.comparisons {
        let show =
            |value: f64| if row.metric == "qps" { format!("{value:.0}") } else { format!("{value:.1} us") };
        let interval =
            row.low.zip(row.high).map_or("-".into(), |(low, high)| format!("{low:.3} to {high:.3}"));
        table.add_row([
            row.metric.clone(),
            show(row.ours),
            show(row.theirs),
            format!("{:.3}", row.ratio),
            interval,
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    writeln!(out, "\nAgainst {}:\n\n{table}\n", record.against)?;
    if !record.rounds.is_empty() {
        writeln!(
            out,
            "ours, theirs: medians of the rounds. ratio: the median of the ratios of rounds that are neighbours, with \
             what the machine did then in both; it need not be the quotient of the two medians.\n"
        )?;
    }
    for ruling in &record.requirements {
        let verdict = if ruling.holds { "holds" } else { "does NOT hold" };
        let doubt = match (ruling.certain, record.rounds.is_empty()) {
            (true, _) => "",
            (false, false) => " (not certain: the interval reaches across; more --rounds would tell)",
            (false, true) => " (of one run each: how certain that is cannot be told)",
        };
        writeln!(out, "Required {}: {verdict}{doubt}", ruling.requirement)?;
    }
    Ok(())
}
