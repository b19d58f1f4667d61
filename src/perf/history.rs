//! How scenarios have gone over the recorded runs.
//!
//! Runs on the main thread.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use comfy_table::{CellAlignment, Table, presets};

use super::fault::{PerfFault, fault};
use super::run::Run;
use super::told::number;
use crate::report::html::STYLE;
use crate::report::svg::{Line, Plot, Scale, escape};

/// What a record's file is called, in a directory of its day and machine.
pub const FILE: &str = "gate";

/// The runs below `directory`, in the order of their days.
///
/// # Errors
/// [`PerfFault`]: there are none, or one cannot be read.
pub fn runs(directory: &Path) -> Result<Vec<Run>, PerfFault> {
    let days = fs::read_dir(directory)
        .map_err(|error| fault(directory, format_args!("cannot read the runs: {error}")))?;
    let mut paths: Vec<_> = days
        .flatten()
        .flat_map(|day| fs::read_dir(day.path()).into_iter().flatten().flatten())
        .map(|file| file.path())
        .filter(|path| {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            stem.starts_with(FILE) && path.extension().is_some_and(|extension| extension == "json")
        })
        .collect();
    paths.sort_by_cached_key(|path| (path.parent().map(Path::to_owned), number_of(path), path.clone()));
    if paths.is_empty() {
        return Err(fault(directory, "there are no recorded runs; `redbreast perf record` makes one"));
    }
    let mut runs = paths.iter().map(|path| Run::read(path)).collect::<Result<Vec<_>, _>>()?;
    runs.sort_by(|a, b| (&a.date, &a.time).cmp(&(&b.date, &b.time)));
    Ok(runs)
}

/// The number behind a record's name, as in `gate-10.json`: records without a time were counted on within their day.
fn number_of(path: &Path) -> u64 {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.rsplit_once('-').and_then(|(_, number)| number.parse().ok()).unwrap_or(1)
}

/// Scenarios and metrics of all runs.
fn series(runs: &[Run]) -> BTreeSet<(&str, &str)> {
    runs.iter()
        .flat_map(|run| &run.scenarios)
        .flat_map(|(name, metrics)| metrics.keys().map(move |metric| (name.as_str(), metric.as_str())))
        .collect()
}

fn value(run: &Run, (scenario, metric): (&str, &str)) -> Option<f64> {
    run.scenarios.get(scenario)?.get(metric).copied()
}

/// A table: a row for each scenario and metric, a column for each run.
#[must_use]
pub fn text(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    let heads = runs.iter().map(|run| format!("{} {}", run.date, run.revision));
    table.set_header(["scenario", "metric"].map(String::from).into_iter().chain(heads));
    for one in series(runs) {
        let values = runs.iter().map(|run| value(run, one).map_or("-".into(), number));
        table.add_row([one.0, one.1].map(String::from).into_iter().chain(values));
    }
    for column in table.column_iter_mut().skip(2) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    format!("{table}\n")
}

/// A page with a plot for each scenario: each metric as a part of what it was first.
#[must_use]
pub fn page(runs: &[Run]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Performance over time</title>\
         <style>{STYLE}</style></head><body>\n<h1>Performance over time</h1>\n"
    );
    let all = series(runs);
    let scenarios: BTreeSet<_> = all.iter().map(|(scenario, _)| *scenario).collect();
    for scenario in scenarios {
        let metrics = all.iter().filter(|(of, _)| *of == scenario);
        let line = |(colour, &one): (usize, &(&str, &str))| {
            let first = runs.iter().find_map(|run| value(run, one)).filter(|first| *first > 0.0)?;
            let points =
                runs.iter().enumerate().filter_map(|(i, run)| Some((i as f64, value(run, one)? / first)));
            Some(Line { name: one.1.into(), points: points.collect(), dashed: false, colour })
        };
        let plot = Plot {
            x_label: "run",
            y_label: "of the first",
            x_scale: Scale::Linear,
            y_scale: Scale::Linear,
            x_marks: runs.iter().enumerate().map(|(i, run)| (i as f64, run.revision.clone())).collect(),
            lines: metrics.enumerate().filter_map(line).collect(),
        };
        let _ = write!(html, "<h2>{}</h2>\n{}\n", escape(scenario), plot.draw());
    }
    html.push_str("</body></html>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_a_day_are_told_in_the_order_of_their_times_or_else_of_their_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let record = |name: &str, time: &str| {
            let mut run = Run { date: "2026-01-01".into(), time: time.into(), ..Run::default() };
            run.revision = name.into();
            run.scenarios.entry("answer".into()).or_default().insert("instructions".into(), 1.0);
            run.write(&directory.path().join("2026-01-01").join(name)).unwrap();
        };
        record("gate-10.json", "");
        record("gate.json", "");
        record("gate-laptop.json", "");
        record("gate-desktop.json", "");
        record("gate-2.json", "");
        record("gate-11.json", "2026-01-01T10:00:00Z");
        record("gate-12.json", "2026-01-01T09:00:00Z");
        let names: Vec<_> = runs(directory.path()).unwrap().into_iter().map(|run| run.revision).collect();
        let without_a_number = ["gate-desktop.json", "gate-laptop.json", "gate.json"];
        assert_eq!(names[..3], without_a_number, "in the order of their paths, whatever the directory's is");
        assert_eq!(names[3..], ["gate-2.json", "gate-10.json", "gate-12.json", "gate-11.json"]);
    }

    #[test]
    fn runs_are_told_in_the_order_of_their_days() {
        let directory = tempfile::tempdir().unwrap();
        assert!(runs(directory.path()).unwrap_err().to_string().contains("perf record"));
        for (day, count) in [("2026-02-01", 1100.0), ("2026-01-01", 1000.0)] {
            let mut run = Run { date: day.into(), revision: format!("r{count}"), ..Run::default() };
            run.scenarios.entry("answer".into()).or_default().insert("instructions".into(), count);
            run.write(&directory.path().join(day).join("gate.json")).unwrap();
        }
        let runs = runs(directory.path()).unwrap();
        let text = text(&runs);
        assert!(text.contains("1000 |") && text.find("r1000") < text.find("r1100"), "{text}");
        let page = page(&runs);
        assert!(page.contains("<h2>answer</h2>") && page.contains("<svg"), "{page}");
    }
}
