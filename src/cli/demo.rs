//! `redbreast demo`: the main job in one command, with no root and no set-up.
//!
//! Runs on the main thread: starts a server in this process, asks it some questions, puts it under load for a few
//! seconds, and tells what was measured.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};

use super::Failure;
use super::ask::ask;
use super::bench::stop_on_signals;
use super::sample::{self, SERVICES, Sample};
use crate::bench::latency::{Latencies, Summary};
use crate::bench::{self, End, Outcome, Progress, QueryFile, Settings};
use crate::config::DEFAULT_DOMAIN;
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Arguments of `redbreast demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of load
    #[arg(long, value_name = "SECONDS", default_value_t = 5, allow_negative_numbers = true,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    seconds: u64,
}

/// Runs the demo.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let out = &mut io::stdout();
    let unwritable = |error| Failure::failed(format!("cannot write: {error}"));
    let sample = sample::start()?;
    writeln!(out, "A server in this process: {} names, at {} over UDP.\n", sample.names(), sample.address())
        .map_err(unwritable)?;
    show_lookups(out, sample.address()).map_err(unwritable)??;
    let time = Duration::from_secs(args.seconds);
    writeln!(
        out,
        "\nLoad for {} s, 100 queries outstanding, half of them for names that do not exist:\n",
        time.as_secs()
    )
    .map_err(unwritable)?;
    let outcome = load(&sample, time)?;
    writeln!(out, "{}\n", measured(&outcome)).map_err(unwritable)?;
    judge(&outcome)?;
    writeln!(out, "Next: serve names of your own with `redbreast serve`; the README shows how.")
        .map_err(unwritable)
}

/// Asks for what a new user would ask for, and shows the answers as they come.
fn show_lookups(out: &mut dyn Write, server: SocketAddr) -> io::Result<Result<(), Failure>> {
    let [one, .., many] = SERVICES;
    let address = IpAddr::from([10, 1, 0, 7]);
    let in_domain = |label: &str| format!("{label}.{DEFAULT_DOMAIN}");
    let lookups = [
        (in_domain(one), rtype::A, "A", "one address"),
        (in_domain(many), rtype::A, "A", "all addresses, in random order"),
        (in_domain(&many.to_uppercase()), rtype::A, "A", "the same in capitals: another order"),
        (in_domain(many), rtype::AAAA, "AAAA", "the name exists, but not with this type"),
        (in_domain("nobody"), rtype::A, "A", "no such name: told at once"),
        (Name::reverse(address).to_string(), rtype::PTR, "PTR", "an address's name"),
    ];
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    for (text, qtype, mnemonic, remark) in lookups {
        let name = Name::from_text(&text).expect("made of names");
        match ask(server, &name, qtype) {
            Ok(answer) => table.add_row([text, mnemonic.into(), answer.join(" "), remark.into()]),
            Err(error) => {
                return Ok(Err(Failure::failed(format!("no answer for {text} {mnemonic}: {error}"))));
            }
        };
    }
    writeln!(out, "{table}")?;
    Ok(Ok(()))
}

/// Runs the load with a bar on a terminal, and nothing in a pipe.
fn load(sample: &Sample, time: Duration) -> Result<Outcome, Failure> {
    let queries = QueryFile::read(sample.queries().as_bytes(), "demo", None).map_err(Failure::failed)?;
    let settings = Settings {
        time_limit: Some(time),
        clients: 4,
        progress_interval: Duration::from_millis(100),
        ..Settings::new(sample.address())
    };
    let stop =
        stop_on_signals().map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))?;
    let bar = ProgressBar::new(time.as_millis().try_into().unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("  {bar:40} {msg}") {
        bar.set_style(style);
    }
    let outcome = bench::run(&settings, &queries, &stop, &mut |Progress { elapsed, completed, qps }| {
        bar.set_position(elapsed.as_millis().try_into().unwrap_or(u64::MAX));
        bar.set_message(format!("{completed} answered, {qps:.0} a second"));
    });
    bar.finish_and_clear();
    outcome.map_err(Failure::failed)
}

/// The short table of what was measured.
fn measured(outcome: &Outcome) -> Table {
    let totals = &outcome.tally.totals;
    let mut table = Table::new();
    table.load_preset(presets::ASCII_MARKDOWN);
    table.set_header(["", "all", "positive", "negative"]);
    let kinds = [&outcome.tally.all(), &outcome.tally.positive, &outcome.tally.negative];
    let seconds = outcome.run_time.as_secs_f64().max(f64::MIN_POSITIVE);
    let mut row = |label: &str, cell: &dyn Fn(&Latencies) -> String| {
        table.add_row(std::iter::once(label.to_owned()).chain(kinds.iter().map(|kind| cell(kind))));
    };
    row("answers", &|kind| kind.count().to_string());
    row("answers a second", &|kind| format!("{:.0}", kind.count() as f64 / seconds));
    let mut latency = |label: &str, value: fn(&Summary) -> f64| {
        row(&format!("latency {label} (us)"), &|kind| {
            kind.summary().map_or("-".into(), |summary| format!("{:.1}", value(&summary)))
        });
    };
    latency("mean", |summary| summary.mean_us);
    latency("p50", |summary| summary.p50_us);
    latency("p99", |summary| summary.p99_us);
    latency("p99.9", |summary| summary.p99_9_us);
    latency("max", |summary| summary.max_us);
    table.add_row(["queries lost".to_owned(), totals.lost.to_string(), String::new(), String::new()]);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn judge(outcome: &Outcome) -> Result<(), Failure> {
    let totals = &outcome.tally.totals;
    match outcome.end {
        End::Interrupted => Err(Failure::failed("interrupted")),
        _ if totals.completed == 0 => Err(Failure::failed("no query was answered")),
        _ if totals.wrong > 0 => Err(Failure::failed(format!("{} wrong answers", totals.wrong))),
        _ => Ok(()),
    }
}
