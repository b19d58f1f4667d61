//! `redbreast demo`: the main job in one command, with no root and no set-up.
//!
//! Runs on the main thread: starts a cluster of three nodes, each a process of its own, registers names at one and asks
//! the others, kills one and starts it again, then puts a node under load for a few seconds, and tells what was
//! measured.

use std::fs;
use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;

use super::Failure;
use super::ask::ask;
use super::bench::stop_on_signals;
use super::{sample, spinner};
use crate::api::request::RegisterRequest;
use crate::bench::latency::{Latencies, Summary};
use crate::bench::{self, Outcome, Progress, QueryFile, RunEnd, RunSettings};
use crate::config::DEFAULT_DOMAIN;
use crate::testbed::{Node, NodePlan, start_cluster, wait_until};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Arguments of `redbreast demo`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds of load
    #[arg(long, value_name = "SECONDS", default_value_t = 5, allow_negative_numbers = true,
          value_parser = RangedU64ValueParser::<u64>::new().range(1..=86_400))]
    seconds: u64,

    /// Leave the cluster running at the end, until Ctrl-C
    #[arg(long)]
    stay: bool,
}

/// The nodes, each with the address that it registers `web` with.
const NODES: [(&str, [u8; 4]); 3] =
    [("robin", [10, 0, 0, 1]), ("wren", [10, 0, 0, 2]), ("finch", [10, 0, 0, 3])];

/// The name that all of them register.
const WEB: &str = "web";

/// Runs the demo.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::failed(error);
    let out = &mut io::stdout();
    let directory = TempDir::with_prefix("redbreast-demo-").map_err(failed)?;
    let progress = spinner();
    progress.set_message("starting three nodes");
    let mut nodes = begin(out, &directory, &progress)?;
    show_lookups(out, &nodes, &progress)?;
    kill_and_restart(out, &mut nodes, &progress)?;
    progress.finish_and_clear();
    let time = Duration::from_secs(args.seconds);
    writeln!(
        out,
        "\nLoad on {} for {} s, 100 queries outstanding, half of them for names that do not exist:\n",
        nodes[1].name(),
        time.as_secs()
    )
    .map_err(failed)?;
    // One flag for both: a second one would not see a signal that came before it, and end the process at the next.
    let stop =
        stop_on_signals().map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))?;
    let outcome = load(nodes[1].dns(), time, &stop)?;
    writeln!(out, "{}\n", measured(&outcome)).map_err(failed)?;
    judge(&outcome)?;
    if args.stay {
        return stay(out, &nodes[0], &stop);
    }
    let me = own_name();
    writeln!(
        out,
        "Try next:\n  {me} demo --stay                                   # the same, and leaves the cluster running \
         for you\n  {me} serve --names /etc/hosts --listen 127.0.0.1:5300   # serves names of your own\n  \
         {me} bench --self-test                              # measures what one thread can answer here"
    )
    .map_err(failed)
}

/// Tells what can be tried on the running cluster, and waits until that has been done.
fn stay(out: &mut dyn Write, node: &Node, stop: &AtomicBool) -> Result<(), Failure> {
    let (me, port, control) = (own_name(), node.dns().port(), node.control());
    writeln!(
        out,
        "The cluster runs until Ctrl-C. Try next, in another terminal:\n  \
         dig @127.0.0.1 -p {port} web.{DEFAULT_DOMAIN}\n  \
         {me} add shop 10.0.0.9 --control {control}\n  \
         {me} bench -p {port} -Q 20k -l 5 --pattern 'host-{{1..4000}}.{DEFAULT_DOMAIN}'"
    )
    .and_then(|()| out.flush())
    .map_err(Failure::failed)?;
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// This program as it was called.
fn own_name() -> String {
    std::env::args().next().unwrap_or_else(|| "redbreast".into())
}

/// Writes a text, for which what is drawn makes way.
fn say(out: &mut dyn Write, progress: &ProgressBar, text: &str) -> Result<(), Failure> {
    progress.suspend(|| writeln!(out, "{text}").and_then(|()| out.flush())).map_err(Failure::failed)
}

/// Starts the nodes; the first has names from a file, and each registers one address of a common name.
fn begin(out: &mut dyn Write, directory: &TempDir, progress: &ProgressBar) -> Result<Vec<Node>, Failure> {
    let names = directory.path().join("names");
    fs::write(&names, sample::names_file()).map_err(Failure::failed)?;
    let plan = |(i, (name, _)): (usize, &(&str, [u8; 4]))| NodePlan {
        names: if i == 0 { vec![names.clone()] } else { Vec::new() },
        durable: true,
        ..NodePlan::new(name)
    };
    let plans = NODES.iter().enumerate().map(plan).collect();
    let nodes = start_cluster(plans, directory.path()).map_err(Failure::failed)?;
    let mut table = plain_table();
    for node in &nodes {
        table.add_row([node.name().to_owned(), format!("answers at {} over UDP and TCP", node.dns())]);
    }
    let (first, count) = (nodes[0].name(), sample::NAMES);
    let told = format!(
        "Three nodes, each a process of its own, in one cluster; {first} has {count} names from a file:\n{table}\n"
    );
    say(out, progress, &told)?;
    for (node, (_, address)) in nodes.iter().zip(NODES) {
        let addition = RegisterRequest {
            name: WEB.into(),
            addresses: vec![address.into()],
            ..RegisterRequest::default()
        };
        node.add(&[addition])?;
        let address = IpAddr::from(address);
        say(out, progress, &format!("  {}$ redbreast add {WEB} {address}", node.name()))?;
    }
    wait_until_all_have(&nodes, NODES.len())?;
    Ok(nodes)
}

/// Waits until all nodes answer the common name with so many addresses; returns how long that took.
fn wait_until_all_have(nodes: &[Node], count: usize) -> Result<Duration, Failure> {
    let name = in_domain(WEB);
    wait_until(&format!("all nodes answer {WEB} with {count} addresses"), || {
        nodes
            .iter()
            .filter(|node| node.pid().is_some())
            .all(|node| ask(node.dns(), &name, rtype::A).is_ok_and(|answer| answer.records.len() == count))
    })
    .map_err(Failure::failed)
}

fn in_domain(label: &str) -> Name {
    Name::from_text(&format!("{label}.{DEFAULT_DOMAIN}")).expect("made of names")
}

fn plain_table() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table
}

/// Asks for what a new user would ask for, and shows the answers as they come.
fn show_lookups(out: &mut dyn Write, nodes: &[Node], progress: &ProgressBar) -> Result<(), Failure> {
    let host = IpAddr::from([10, 1, 0, 7]);
    let lookups = [
        (0, in_domain(WEB), rtype::A, "A", "registered at three nodes, answered by each"),
        (1, in_domain(WEB), rtype::A, "A", "all addresses, in random order"),
        (2, in_domain(&WEB.to_uppercase()), rtype::A, "A", "the same in capitals"),
        (2, in_domain("host-7"), rtype::A, "A", "from the other node's file"),
        (1, in_domain(WEB), rtype::AAAA, "AAAA", "the name exists, but not with this type"),
        (1, in_domain("nobody"), rtype::A, "A", "no such name: told at once"),
        (2, Name::reverse(host), rtype::PTR, "PTR", "an address's name"),
    ];
    let mut table = plain_table();
    for (node, name, qtype, mnemonic, remark) in lookups {
        let node = &nodes[node];
        let answer = ask(node.dns(), &name, qtype).map_err(|error| {
            Failure::failed(format!("no answer of {} for {name} {mnemonic}: {error}", node.name()))
        })?;
        table.add_row([
            format!("{}$", node.name()),
            name.to_string(),
            mnemonic.into(),
            answer.told(),
            remark.into(),
        ]);
    }
    say(out, progress, &format!("\n{table}"))
}

/// Shows that a node's addresses go and come with it.
fn kill_and_restart(out: &mut dyn Write, nodes: &mut [Node], progress: &ProgressBar) -> Result<(), Failure> {
    let [first, .., last] = nodes else { return Err(Failure::failed("a cluster has several nodes")) };
    let seeds: Vec<_> = first.gossip().into_iter().collect();
    last.kill();
    let name = last.name().to_owned();
    progress.set_message(format!("{name} is killed; waiting until its address is gone everywhere"));
    let gone = wait_until_all_have(nodes, NODES.len() - 1)?;
    let left = ask(nodes[0].dns(), &in_domain(WEB), rtype::A).map_err(Failure::failed)?;
    let (gone_s, left) = (gone.as_secs_f64(), left.told());
    say(
        out,
        progress,
        &format!("\n{name} is killed: after {gone_s:.1} s its address is gone everywhere: {left}"),
    )?;
    progress.set_message(format!("{name} is started again"));
    let begin = std::time::Instant::now();
    if let [.., last] = nodes {
        last.restart(&seeds).map_err(Failure::failed)?;
    }
    wait_until_all_have(nodes, NODES.len())?;
    let back = ask(nodes[0].dns(), &in_domain(WEB), rtype::A).map_err(Failure::failed)?;
    let (back_s, back) = (begin.elapsed().as_secs_f64(), back.told());
    let told = format!(
        "{name} is started again: after {back_s:.1} s it is back everywhere, from its own disk: {back}"
    );
    say(out, progress, &told)
}

/// Runs the load with a bar on a terminal, and nothing in a pipe.
fn load(target: SocketAddr, time: Duration, stop: &AtomicBool) -> Result<Outcome, Failure> {
    let queries = QueryFile::read(sample::queries().as_bytes(), "demo", None).map_err(Failure::failed)?;
    let settings = RunSettings {
        time_limit: Some(time),
        clients: 4,
        progress_interval: Duration::from_millis(100),
        ..RunSettings::new(target)
    };
    let bar = ProgressBar::new(time.as_millis().try_into().unwrap_or(u64::MAX));
    if let Ok(style) = ProgressStyle::with_template("  {bar:40} {msg}") {
        bar.set_style(style);
    }
    let outcome = bench::run(&settings, &queries, None, stop, &mut |Progress { point, totals, .. }| {
        let (elapsed, completed, qps) = (point.start + point.length, totals.completed, point.qps());
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
        RunEnd::Interrupted => Err(Failure::failed("interrupted")),
        _ if totals.completed == 0 => Err(Failure::failed("no query was answered")),
        _ if totals.mismatched > 0 => Err(Failure::failed(format!("{} wrong answers", totals.mismatched))),
        _ => Ok(()),
    }
}
