//! `redbreast compare`: the three designs on the same work.
//!
//! Runs on the main thread. All processes that it starts end with it, however it ends.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use clap::builder::RangedU64ValueParser;

use super::bench::stop_on_signals;
use super::{Failure, spinner};
use crate::compare::{self, Design, Experiment, External, Layout, Results, Sweep, Task};
use crate::report::machine::Machine;

/// Arguments of `redbreast compare`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Designs to compare, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Design::ALL)]
    designs: Vec<Design>,

    /// Nodes of each cluster
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = RangedU64ValueParser::<usize>::new().range(2..=64))]
    nodes: usize,

    /// Names that each node registers
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    names: u32,

    /// Percentage of queries for names that nobody has
    #[arg(long, value_name = "PERCENT", default_value_t = 50.0, value_parser = parse_percent)]
    negative: f64,

    /// Queries outstanding
    #[arg(short = 'q', long, value_name = "N", default_value_t = 100,
          value_parser = clap::value_parser!(u32).range(1..=60_000))]
    outstanding: u32,

    /// Seconds of load, each time
    #[arg(short = 'l', long, value_name = "SECONDS", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,

    /// Times that each design is measured, in turns with the others
    #[arg(long, value_name = "N", default_value_t = 7,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=100))]
    rounds: usize,

    /// Threads that answer, in each node
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=64))]
    workers: usize,

    /// Seconds for which answers may be kept [default: 1 with gossip, 30 with the designs that ask]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(0..=86_400))]
    ttl: Option<u32>,

    /// Nodes that ask wait for the answers of all others, and not for the first alone
    #[arg(long)]
    collect: bool,

    /// What to vary besides, each a plot: `nodes`, `names`, `churn`, `negative`, `ttl`, separated by commas; all of
    /// them if nothing is said
    #[arg(long, value_enum, value_delimiter = ',', num_args = 0.., require_equals = true,
          default_missing_values = ["nodes", "names", "churn", "negative", "ttl"])]
    scale: Vec<Sweep>,

    /// Measure speed alone: leave out what happens when nodes fail and names change
    #[arg(long)]
    speed_only: bool,

    /// Put each node into a network namespace of its own, and look at lost packets and a partition, too; takes root
    #[arg(long)]
    netns: bool,

    /// Put the same load on another server, too, which has the same names; give it again for more
    #[arg(long, value_name = "NAME=ADDR:PORT", value_parser = parse_external, conflicts_with = "netns")]
    with: Vec<External>,

    /// Write the names that the designs have, in the format of /etc/hosts, for a server of --with; and end
    #[arg(long, value_name = "FILE")]
    write_names: Option<PathBuf>,

    /// Write a page with everything to this file
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Write the results to this file as JSON, too; `-` for standard output, instead of the tables
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

impl Args {
    fn experiment(&self) -> Experiment {
        Experiment {
            nodes: self.nodes,
            names_per_node: self.names,
            negative_share: self.negative / 100.0,
            outstanding: self.outstanding,
            seconds: self.seconds.into(),
            rounds: self.rounds,
            workers: self.workers,
            churn_per_s: 0,
            ttl_s: self.ttl,
            collect: self.collect,
        }
    }
}

/// Compares.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let experiment = args.experiment();
    if let Some(path) = &args.write_names {
        return write(path, &compare::all_names_file(&experiment));
    }
    let most = if args.scale.contains(&Sweep::Nodes) { args.nodes.max(Sweep::MAX_NODES) } else { args.nodes };
    compare::check_descriptors(most).map_err(Failure::usage)?;
    // Before the minutes of measuring, not after them.
    let outputs = [args.html.as_ref(), args.json.as_ref().filter(|path| path.as_path() != Path::new("-"))];
    outputs.into_iter().flatten().try_for_each(|path| {
        let opened = fs::OpenOptions::new().append(true).create(true).open(path);
        opened
            .map(drop)
            .map_err(|error| Failure::usage(format!("{}: cannot be written: {error}", path.display())))
    })?;
    let stop =
        stop_on_signals().map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))?;
    let layout = Layout { cpus: Layout::of_cpus(&Machine::current().cpus), namespaces: args.netns };
    let task = Task {
        experiment,
        designs: args.designs.clone(),
        layout,
        sweeps: args.scale.clone(),
        events: !args.speed_only,
        externals: args.with.clone(),
        stop,
    };
    let bar = spinner();
    let results = compare::run(&task, &|what| bar.set_message(what.to_owned()));
    bar.finish_and_clear();
    let results = results.map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted if task.stop.load(Ordering::Relaxed) => {
            Failure::failed("interrupted; all nodes have been ended, and nothing was written")
        }
        _ => Failure::failed(error),
    })?;
    tell(args, &results)
}

/// Writes the page and the JSON, and shows the tables.
fn tell(args: &Args, results: &Results) -> Result<(), Failure> {
    let command: Vec<_> = std::env::args().skip(1).collect();
    if let Some(path) = &args.html {
        write(path, &compare::page(results, &format!("redbreast {}", command.join(" "))))?;
    }
    let json = serde_json::to_string_pretty(results).map_err(Failure::failed)? + "\n";
    let out = &mut io::stdout();
    if args.json.as_deref() == Some(Path::new("-")) {
        return out.write_all(json.as_bytes()).map_err(Failure::failed);
    }
    if let Some(path) = &args.json {
        write(path, &json)?;
    }
    write!(out, "{}", compare::text(results)).map_err(Failure::failed)?;
    match &args.html {
        Some(path) => writeln!(out, "The page with everything is {}.", path.display()),
        None => writeln!(out, "--html FILE makes a page with plots of this."),
    }
    .map_err(Failure::failed)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text)
        .map_err(|error| Failure::failed(format!("{}: cannot be written: {error}", path.display())))
}

fn parse_percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse::<f64>() {
        Ok(percent) if (0.0..=100.0).contains(&percent) => Ok(percent),
        _ => Err("expected a percentage from 0 to 100".into()),
    }
}

fn parse_external(text: &str) -> Result<External, String> {
    let (name, address) = text.split_once('=').ok_or("expected NAME=ADDR:PORT")?;
    if name.is_empty() || Design::ALL.iter().any(|design| design.name() == name) {
        return Err("it needs a name that is not one of the designs'".into());
    }
    let address: SocketAddr = address.parse().map_err(|_| format!("{address:?} is no ADDR:PORT"))?;
    Ok(External { name: name.into(), address })
}
