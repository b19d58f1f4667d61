//! `redbreast bench report`: saved results side by side. Runs on the main thread.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use comfy_table::{CellAlignment, Table, presets};

use crate::cli::Failure;
use crate::report::html;
use crate::report::json::{Percentiles, Report};

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum Command {
    /// Show results that were saved as JSON side by side
    Report(ReportArgs),
}

#[derive(clap::Args, Clone, Debug)]
pub(crate) struct ReportArgs {
    /// Results, as `--json` writes them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Write one HTML page with their plots over each other
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Shows results side by side.
pub(super) fn run(Command::Report(args): &Command) -> Result<(), Failure> {
    let names = names(&args.files);
    let reports = args.files.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let reports: Vec<_> = names.into_iter().zip(reports).collect();
    writeln!(io::stdout(), "{}", table(&reports)).map_err(Failure::failed)?;
    if let Some(path) = &args.html {
        fs::write(path, html::page("redbreast bench", &reports))
            .map_err(|error| Failure::failed(format!("{}: cannot be written: {error}", path.display())))?;
    }
    Ok(())
}

/// Reads a result that was saved as JSON.
pub(super) fn read(path: &Path) -> Result<Report, Failure> {
    let file = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("{file}: cannot be read: {error}")))?;
    serde_json::from_str(&text)
        .map_err(|error| Failure::usage(format!("{file}: is no result of `redbreast bench --json`: {error}")))
}

/// The files' names without what they have in common at their end.
fn names(files: &[PathBuf]) -> Vec<String> {
    files
        .iter()
        .map(|path| path.with_extension("").file_name().unwrap_or_default().to_string_lossy().into_owned())
        .collect()
}

fn table(reports: &[(String, Report)]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(std::iter::once("").chain(reports.iter().map(|(name, _)| name.as_str())));
    let mut row = |label: &str, cell: &dyn Fn(&Report) -> String| {
        let cells = reports.iter().map(|(_, report)| cell(report));
        table.add_row(std::iter::once(label.to_owned()).chain(cells));
    };
    row("server", &|report| format!("{} ({})", report.target.address, report.target.transport));
    row("queries/s", &|report| format!("{:.0}", report.qps));
    row("lost", &|report| format!("{} of {}", report.totals.lost, report.totals.sent));
    type Of = fn(&Percentiles) -> Option<f64>;
    let statistics: [(&str, Of); 7] = [
        ("mean", |of| of.mean),
        ("p50", |of| of.p50),
        ("p90", |of| of.p90),
        ("p99", |of| of.p99),
        ("p99.9", |of| of.p99_9),
        ("p99.99", |of| of.p99_99),
        ("max", |of| of.max),
    ];
    for (label, of) in statistics {
        row(&format!("{label} (us)"), &|report| {
            of(&report.response_us).map_or("-".into(), |value| format!("{value:.1}"))
        });
    }
    row("verdict", &|report| match (report.verdict.valid, report.verdict.complete) {
        (true, _) => "valid".into(),
        (false, true) => {
            report.verdict.faults.iter().map(|fault| fault.name.as_str()).collect::<Vec<_>>().join(", ")
        }
        (false, false) => "not complete".into(),
    });
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}
