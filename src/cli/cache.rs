//! `redbreast cache`: what a running node remembers of names in other domains.
//!
//! Runs on the main thread.

use std::io::{self, Write};

use comfy_table::{Table, presets};
use hyper::Method;

use super::names::tell;
use super::{ControlArgs, Failure};
use crate::api::external::{CacheStats, CachedAnswer, CachedAt, Flushed, WorkerCache};
use crate::api::paths;
use crate::api::rdata_text::Shown;
use crate::http::client::escape;

/// Arguments of `redbreast cache`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Tell what is remembered of a name, and for how long
    Show(ShowArgs),
    /// Forget a name, so that the next query asks the upstreams
    Flush(FlushArgs),
    /// Tell how much is remembered
    Stats(StatsArgs),
}

#[derive(clap::Args)]
struct ShowArgs {
    /// Name, whole: it is in none of the node's domains
    name: String,

    #[command(flatten)]
    control: ControlArgs,
}

#[derive(clap::Args)]
struct FlushArgs {
    /// Name, whole
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    name: Option<String>,

    /// All names below it, too
    #[arg(long, requires = "name")]
    below: bool,

    /// All that there is
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    control: ControlArgs,
}

#[derive(clap::Args)]
struct StatsArgs {
    #[command(flatten)]
    control: ControlArgs,
}

/// Looks at the cache, or has it forget.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    match &args.command {
        Command::Show(args) => show(args),
        Command::Flush(args) => flush(args),
        Command::Stats(args) => stats(args),
    }
}

/// Fails if there is nothing.
fn show(args: &ShowArgs) -> Result<(), Failure> {
    let ShowArgs { name, control } = args;
    let path = paths::with(paths::CACHED, &[&escape(name)]);
    let all: Vec<CachedAnswer> = control.client()?.request(Method::GET, &path, None::<&()>)?;
    tell(control, &all, |out| {
        let mut table = Table::new();
        table.load_preset(presets::NOTHING);
        table.set_header(["TYPE", "FLAGS", "ANSWER", "LEFT", "WORKER", "RECORDS"]);
        table.add_rows(all.iter().map(row));
        if all.is_empty() { Ok(()) } else { writeln!(out, "{}", table.trim_fmt()) }
    })?;
    if all.is_empty() {
        return Err(Failure::failed(format!("nothing of {name} is in the cache")));
    }
    Ok(())
}

fn row(it: &CachedAnswer) -> [String; 6] {
    let flags = [("do", it.dnssec_ok), ("cd", it.checking_disabled), ("ad", it.authenticated)];
    let flags: Vec<_> = flags.into_iter().filter(|(_, set)| *set).map(|(flag, _)| flag).collect();
    let lines =
        |line: &dyn Fn(&CachedAt) -> String| it.workers.iter().map(line).collect::<Vec<_>>().join("\n");
    let left = |at: &CachedAt| match at.left_s {
        left_s @ 1.. => format!("{left_s} s"),
        left_s => format!("stale for {} s", -left_s),
    };
    let record = |it: &Shown| format!("{} {} {} {}", it.name, it.ttl_s, it.rtype, it.data);
    let records: Vec<_> = it.answers.iter().chain(&it.authorities).map(record).collect();
    [
        it.qtype.clone(),
        flags.join(" "),
        it.rcode.clone(),
        lines(&left),
        lines(&|at| at.worker.to_string()),
        records.join("\n"),
    ]
}

fn flush(args: &FlushArgs) -> Result<(), Failure> {
    let FlushArgs { name, below, control, .. } = args;
    let path = match name {
        Some(name) => format!("{}?below={below}", paths::with(paths::CACHED, &[&escape(name)])),
        None => paths::CACHE.into(),
    };
    let flushed: Flushed = control.client()?.request(Method::DELETE, &path, None::<&()>)?;
    tell(control, &flushed, |out| match flushed.removed {
        0 => writeln!(out, "nothing of that was in the cache"),
        1 => writeln!(out, "1 answer forgotten"),
        count => writeln!(out, "{count} answers forgotten"),
    })
}

fn stats(args: &StatsArgs) -> Result<(), Failure> {
    let stats: CacheStats = args.control.client()?.request(Method::GET, paths::CACHE, None::<&()>)?;
    tell(&args.control, &stats, |out| tell_stats(out, &stats))
}

fn tell_stats(out: &mut dyn Write, stats: &CacheStats) -> io::Result<()> {
    let CacheStats { total, hit_ratio, limits, workers } = stats;
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["WORKER", "ANSWERS", "MIB", "EVICTED", "IN FLIGHT", "WAITING"]);
    let row = |it: &WorkerCache| {
        let worker = it.worker.map_or_else(|| "all".into(), |worker| worker.to_string());
        let counts = [it.evictions.to_string(), it.in_flight.to_string(), it.waiting.to_string()];
        [vec![worker, it.entries.to_string(), mib(it.bytes)], counts.into()].concat()
    };
    table.add_rows(workers.iter().map(row));
    if workers.len() > 1 {
        table.add_row(row(total));
    }
    writeln!(out, "{}", table.trim_fmt())?;
    if let Some(ratio) = hit_ratio {
        writeln!(
            out,
            "{:.1}% of the queries for names in other domains were answered at once",
            100.0 * ratio
        )?;
    }
    writeln!(
        out,
        "at most {} MiB, the same part for each worker; answers are kept for {} s at most, negative ones {} s, and {} \
         s more if upstreams fail",
        mib(limits.max_bytes),
        limits.max_ttl_s,
        limits.max_negative_ttl_s,
        limits.max_stale_s
    )
}

#[allow(clippy::cast_precision_loss)] // to a tenth of a mebibyte
fn mib(bytes: usize) -> String {
    format!("{:.1}", bytes as f64 / f64::from(1 << 20))
}
