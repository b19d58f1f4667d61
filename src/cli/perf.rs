//! `redbreast perf`: measures what this machine and this build can do.
//!
//! Runs on the main thread.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use super::{Failure, gate};
use crate::perf::floor;
use crate::perf::measurement::{self, Measurement};
use crate::perf::operations;

/// Arguments of `redbreast perf`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the echo floor: send each datagram back as it came, QR bit set, with no DNS done at all
    Floor(FloorArgs),
    /// Measure clusters of nodes on this machine: how fast changes spread, what they cost, what a record weighs
    Cluster(ClusterArgs),
    /// Say whether this build is slower than the baseline, or than another build
    Check(Box<gate::CheckArgs>),
    /// Measure the scenarios of the gate, and keep what comes out
    Record(gate::RecordArgs),
    /// Tell how the scenarios have gone over the recorded runs
    History(gate::HistoryArgs),
    /// Do what a scenario counts, so many times; for `perf check`, which runs this under valgrind
    #[command(hide = true)]
    Operation(OperationArgs),
}

#[derive(clap::Args)]
struct OperationArgs {
    name: String,
    #[arg(long)]
    calls: u32,
}

#[derive(clap::Args)]
struct ClusterArgs {
    /// What to measure [default: all of it]
    #[arg(long, value_enum)]
    only: Vec<Measurement>,

    /// How long names are changed 10,000 times a second
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(10..=3600))]
    seconds: u32,

    /// Records for the measurement of memory
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    records: u32,

    /// Write the figures to this file, too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(clap::Args)]
struct FloorArgs {
    /// Where to listen; port 0 lets the kernel choose
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
}

/// Runs the subcommand asked for.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Floor(FloorArgs { listen }) => run_floor(*listen),
        Command::Cluster(args) => run_cluster(args),
        Command::Check(args) => gate::check(args),
        Command::Record(args) => gate::record(args),
        Command::History(args) => gate::tell_history(args),
        Command::Operation(args) => run_operation(args),
    }
}

fn run_operation(args: &OperationArgs) -> Result<(), Failure> {
    let OperationArgs { name, calls } = args;
    let done = operations::perform(name, *calls).ok_or_else(|| {
        Failure::usage(format!("no operation `{name}`; there are: {}", operations::names().join(", ")))
    })?;
    writeln!(io::stdout(), "{done}").map_err(Failure::failed)
}

/// Measures and tells each figure as it is there. Fails if one is not as asked.
fn run_cluster(args: &ClusterArgs) -> Result<(), Failure> {
    let out = &mut io::stdout();
    let all = Measurement::value_variants();
    let chosen = if args.only.is_empty() { all } else { &args.only };
    let mut figures = Vec::new();
    for &what in chosen {
        for figure in measurement::measure(what, args.seconds, args.records).map_err(Failure::failed)? {
            let verdict = if figure.holds { "holds" } else { "MISSED" };
            writeln!(out, "{verdict:<7} {}: {}\n        asked: {}", figure.what, figure.seen, figure.asked)
                .map_err(Failure::failed)?;
            figures.push(figure);
        }
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&figures).map_err(Failure::failed)?;
        fs::write(path, text + "\n")
            .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))?;
    }
    match figures.iter().filter(|figure| !figure.holds).count() {
        0 => Ok(()),
        missed => Err(Failure::failed(format!("{missed} figures are not as asked"))),
    }
}

/// Echoes until the process is killed; returns only when the socket cannot be had or fails.
#[allow(clippy::print_stderr)] // scripts wait for this line
fn run_floor(listen: SocketAddr) -> Result<(), Failure> {
    floor::run(listen, |bound| eprintln!("listening on {bound}"))
        .map_err(|error| Failure::usage(format!("cannot serve UDP on {listen}: {error}")))
}
