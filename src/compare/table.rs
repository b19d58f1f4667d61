//! What came of a comparison, for a terminal.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};

use super::results::{FaultResult, InjectedFault, Negatives, Results, Row, Seen, SweepResult, claims};
use crate::report::json::Percentiles;

/// A figure of a row as text; a dash where it was not measured.
type Cell = fn(&Row) -> Option<String>;

/// A row of the table of speeds.
pub(super) type Figure = (&'static str, Cell);

/// Latency in microseconds, or milliseconds where it is long.
fn time(us: Option<f64>) -> Option<String> {
    let us = us?;
    Some(if us < 10_000.0 { format!("{us:.0} us") } else { format!("{:.1} ms", us / 1e3) })
}

/// The figures of speed and cost, in the order in which they are told.
const FIGURES: [Figure; 26] = [
    ("queries/s", |row| Some(format!("{:.0}", row.qps))),
    ("latency: mean", |row| time(row.all.mean)),
    ("standard deviation", |row| time(row.all.stddev)),
    ("min", |row| time(row.all.min)),
    ("p50", |row| time(row.all.p50)),
    ("p90", |row| time(row.all.p90)),
    ("p99", |row| time(row.all.p99)),
    ("p99.9", |row| time(row.all.p99_9)),
    ("p99.99", |row| time(row.all.p99_99)),
    ("max", |row| time(row.all.max)),
    ("positive answers: mean", |row| time(row.positive.mean)),
    ("p50", |row| time(row.positive.p50)),
    ("p99", |row| time(row.positive.p99)),
    ("max", |row| time(row.positive.max)),
    ("negative answers: mean", |row| time(row.negative.mean)),
    ("p50", |row| time(row.negative.p50)),
    ("p99", |row| time(row.negative.p99)),
    ("max", |row| time(row.negative.max)),
    ("queries lost", |row| Some(row.lost.to_string())),
    ("datagrams between nodes per query", |row| Some(few(row.datagrams_per_query?))),
    ("bytes of them", |row| Some(few(row.bytes_per_query?))),
    ("datagrams per registration", |row| Some(few(row.datagrams_per_registration?))),
    ("bytes of them", |row| Some(few(row.bytes_per_registration?))),
    ("CPU per query, the asked node", |row| Some(format!("{:.2} us", row.cpu_us_per_query?))),
    ("CPU per query, all nodes", |row| Some(format!("{:.2} us", row.cluster_cpu_us_per_query?))),
    ("memory of the asked node", |row| Some(format!("{:.1} MiB", row.memory_mib?))),
];

/// A number with as many decimals as it needs.
fn few(value: f64) -> String {
    match value {
        _ if value < 0.000_05 => "0".into(),
        _ if value < 0.1 => format!("{value:.4}"),
        _ if value < 100.0 => format!("{value:.2}"),
        _ => format!("{value:.0}"),
    }
}

/// What is asked, for people.
pub(super) fn told(negatives: Negatives) -> &'static str {
    match negatives {
        Negatives::New => "every name that nobody has is a new one",
        Negatives::Repeated => "the names that nobody has are the same few again and again",
    }
}

fn aligned(head: &[String]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(head);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// A table as Markdown, which is also what a terminal shows.
fn table(head: Vec<String>, rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = aligned(&head);
    table.add_rows(rows);
    table.to_string()
}

/// The head and the rows of the table of speeds, for one kind of names that nobody has.
pub(super) fn speeds(results: &Results, negatives: Negatives) -> (Vec<String>, Vec<Vec<String>>) {
    let rows: Vec<_> = results.rows.iter().filter(|row| row.negatives == Some(negatives)).collect();
    let head = std::iter::once(String::new()).chain(rows.iter().map(|row| row.name.clone())).collect();
    let line = |(label, cell): &Figure| {
        let cells = rows.iter().map(|row| cell(row).unwrap_or("-".into()));
        std::iter::once((*label).to_owned()).chain(cells).collect()
    };
    (head, FIGURES.iter().map(line).collect())
}

/// The published differences beside those here.
pub(super) fn claimed(results: &Results) -> (Vec<String>, Vec<Vec<String>>) {
    let head = ["gossip against cache", "published", "here", ""].map(str::to_owned).to_vec();
    let rows = claims(results).into_iter().map(|claim| {
        vec![
            claim.what.into(),
            format!("{:.2} times", claim.published),
            claim.seen.map_or("-".into(), |seen| format!("{seen:.0} times")),
            if claim.holds() { "holds" } else { "does not hold" }.into(),
        ]
    });
    (head, rows.collect())
}

/// The same load with one node stopped.
pub(super) fn stopped(results: &Results) -> (Vec<String>, Vec<Vec<String>>) {
    let head = ["one node stopped", "queries/s before", "queries/s", "p99 against before", "queries lost"];
    let rows = results.stopped.iter().map(|stopped| {
        vec![
            stopped.design.name().into(),
            format!("{:.0}", stopped.qps_running),
            format!("{:.0}", stopped.qps_stopped),
            format!("{:.2}", stopped.p99_ratio),
            stopped.lost.to_string(),
        ]
    });
    (head.map(str::to_owned).to_vec(), rows.collect())
}

/// What queries saw while one thing happened.
pub(super) fn suffered(results: &Results, failure: InjectedFault) -> (Vec<String>, Vec<Vec<String>>) {
    let head = [
        "design",
        "names",
        "with address",
        "no such name",
        "failed",
        "p50",
        "p99",
        "address gone after",
        "back after",
    ];
    let seconds = |s: Option<f64>| s.map_or("-".into(), |s| format!("{s:.1} s"));
    let back = |fault: &FaultResult, seen: &Seen| match seen.back_after_s {
        // Of a node that stays dead nothing comes back.
        _ if fault.failure == InjectedFault::Kill || !seen.of_failed => "-".into(),
        None => format!("over {:.0} s", fault.watched_s),
        some => seconds(some),
    };
    let ms = |ms: Option<f64>| ms.map_or("-".into(), |ms| format!("{ms:.1} ms"));
    let of_failure = results.faults.iter().filter(|fault| fault.failure == failure);
    let rows = of_failure.flat_map(|fault| {
        fault.seen.iter().map(|seen| {
            vec![
                fault.design.name().into(),
                seen.names.clone(),
                format!("{:.1}%", seen.answered_percent),
                format!("{:.1}%", seen.absent_percent),
                format!("{:.1}%", seen.failed_percent),
                ms(seen.p50_ms),
                ms(seen.p99_ms),
                seconds(seen.gone_after_s),
                back(fault, seen),
            ]
        })
    });
    (head.map(str::to_owned).to_vec(), rows.collect())
}

/// How long changes took.
pub(super) fn fresh(results: &Results) -> (Vec<String>, Vec<Vec<String>>) {
    let head = ["change", "design", "every node answers by it after", "stale answers meanwhile", "of"];
    let mut sorted: Vec<_> = results.freshness.iter().collect();
    sorted.sort_by_key(|fresh| {
        results.freshness.iter().position(|other| other.change == fresh.change).unwrap_or_default()
    });
    let rows = sorted.into_iter().map(|fresh| {
        let settled = match fresh.settled_s {
            Some(s) if s < 1.0 => format!("{:.0} ms", s * 1e3),
            Some(s) => format!("{s:.1} s"),
            None => format!("over {:.0} s", fresh.watched_s),
        };
        vec![
            fresh.change.clone(),
            fresh.design.name().into(),
            settled,
            fresh.stale.to_string(),
            fresh.answers.to_string(),
        ]
    });
    (head.map(str::to_owned).to_vec(), rows.collect())
}

/// What came of varying one thing: queries a second and p99 of each design.
pub(super) fn swept(sweep: &SweepResult) -> (Vec<String>, Vec<Vec<String>>) {
    let names: Vec<_> =
        sweep.points.first().map_or(Vec::new(), |(_, rows)| rows.iter().map(|row| &row.name).collect());
    let head = std::iter::once(sweep.sweep.text().to_owned())
        .chain(names.iter().flat_map(|name| [format!("{name}: queries/s"), format!("{name}: p99")]))
        .collect();
    let rows = sweep.points.iter().map(|(value, rows)| {
        let cells =
            rows.iter().flat_map(|row| [format!("{:.0}", row.qps), time(row.all.p99).unwrap_or("-".into())]);
        std::iter::once(format!("{value:.0}")).chain(cells).collect()
    });
    (head, rows.collect())
}

/// What happened to nodes, of what was looked at.
pub(super) fn failures(results: &Results) -> Vec<InjectedFault> {
    let mut all: Vec<_> = results.faults.iter().map(|fault| fault.failure).collect();
    all.dedup();
    all
}

/// Everything, for a terminal or a Markdown file.
#[must_use]
pub fn text(results: &Results) -> String {
    let experiment = &results.experiment;
    let mut out = String::new();
    let mut say = |title: &str, (head, rows): (Vec<String>, Vec<Vec<String>>)| {
        if !rows.is_empty() {
            // Writing to a string cannot fail.
            let _ = writeln!(out, "{title}\n\n{}\n", table(head, rows));
        }
    };
    let load = format!(
        "{} nodes with {} names each, {:.0}% of queries for names that nobody has, {} outstanding; medians of {} \
         rounds of {} s",
        experiment.nodes,
        experiment.names_per_node,
        experiment.negative_share * 100.0,
        experiment.outstanding,
        experiment.rounds,
        experiment.seconds
    );
    for negatives in [Negatives::New, Negatives::Repeated] {
        say(&format!("{load}; {}:", told(negatives)), speeds(results, negatives));
    }
    say("What was published of weaveDNS 1.0 and 1.1, and the same here:", claimed(results));
    say("The same load (repeated names) with one node stopped, in turns with all running:", stopped(results));
    for failure in failures(results) {
        let lasted =
            results.faults.iter().find(|fault| fault.failure == failure).map_or(0.0, |fault| fault.lasted_s);
        say(
            &format!("For {lasted:.0} s {}, as seen at another:", failure.text()),
            suffered(results, failure),
        );
    }
    say("Changes at one node:", fresh(results));
    for sweep in &results.sweeps {
        say(&format!("By {}:", sweep.sweep.text()), swept(sweep));
    }
    for row in results.rows.iter().filter(|row| row.generator_limited > 0) {
        let _ = writeln!(
            out,
            "Note: in {} of {} rounds against {} the load generator was at its own limit, or shared its CPU: it may \
             do better than that.",
            row.generator_limited, experiment.rounds, row.name
        );
    }
    out
}

/// The statistics of a row that a plot of percentiles has.
pub(super) fn curve(of: &Percentiles) -> Vec<(f64, f64)> {
    [(50.0, of.p50), (90.0, of.p90), (99.0, of.p99), (99.9, of.p99_9), (99.99, of.p99_99)]
        .into_iter()
        .filter_map(|(percentile, value)| Some((1.0 / (1.0 - percentile / 100.0), value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_decimals_that_they_need() {
        assert_eq!([0.0, 0.0123, 2.5, 123.4].map(few), ["0", "0.0123", "2.50", "123"]);
        assert_eq!(
            [Some(12.3), Some(501_234.0), None].map(time),
            [Some("12 us".into()), Some("501.2 ms".into()), None]
        );
    }
}
