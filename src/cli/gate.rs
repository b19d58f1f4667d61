//! `redbreast perf check`, `record` and `history`: the performance gate.
//!
//! Runs on the main thread. Exit status 0: nothing is slower; 1: something is, or a server could not be measured; 2: a
//! file, a tool or an option is wrong, and nothing was judged; 3: it cannot be told, since the machine is too noisy or
//! is not the baseline's.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use tempfile::TempDir;

use super::Failure;
use crate::bench::QueryFile;
use crate::perf::gate::{Base, Bench, Checked, GateVerdict};
use crate::perf::history;
use crate::perf::run::Run;
use crate::perf::scenario::{self, Measure, Scenario};
use crate::perf::told::Told;
use crate::perf::{build_revision, valgrind};

/// Where a clone of the repository has its baseline and its records.
const BASELINE: &str = "perf/baseline.json";
const RUNS: &str = "perf/runs";

/// What is measured, and how.
#[derive(clap::Args)]
pub(super) struct MeasureArgs {
    /// Directory with the scenarios
    #[arg(long, value_name = "DIR", default_value = "perf/scenarios")]
    scenarios: PathBuf,

    /// Measure this scenario alone; give it again for more
    #[arg(long, value_name = "SCENARIO")]
    only: Vec<String>,

    /// Measure scenarios of this kind alone
    #[arg(long, value_enum)]
    kind: Option<ScenarioKind>,

    /// Measure the DNS server that runs there, in place of this build
    #[arg(long, value_name = "ADDR:PORT", requires = "queries")]
    server: Option<SocketAddr>,

    /// What that server is asked: a query file as dnsperf reads it
    #[arg(long, value_name = "FILE", requires = "server")]
    queries: Option<PathBuf>,

    /// CPU for the servers, which take turns [default: the first there is]
    #[arg(long, value_name = "CPU")]
    server_cpu: Option<usize>,

    /// CPU for the load [default: the next]
    #[arg(long, value_name = "CPU")]
    load_cpu: Option<usize>,
}

/// Kinds of scenarios.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScenarioKind {
    /// Instructions, which come out the same each time
    Count,
    /// Queries a second and CPU time beside another server
    Load,
}

/// Arguments of `redbreast perf check`.
#[derive(clap::Args)]
pub(super) struct CheckArgs {
    #[command(flatten)]
    measure: MeasureArgs,

    /// What was recorded and is compared with
    #[arg(long, value_name = "FILE", default_value = BASELINE)]
    baseline: PathBuf,

    /// Compare with this revision of the repository here, which is built first
    #[arg(long, value_name = "REV", conflicts_with_all = ["base_binary", "baseline", "server"])]
    base: Option<String>,

    /// Compare with this build
    #[arg(long, value_name = "PATH", conflicts_with_all = ["baseline", "server"])]
    base_binary: Option<PathBuf>,

    /// Write what was found to this file, too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// The same as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,

    /// The same as Markdown, for a pull request
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
}

/// Arguments of `redbreast perf record`.
#[derive(clap::Args)]
pub(super) struct RecordArgs {
    #[command(flatten)]
    measure: MeasureArgs,

    /// Directory of the records; each goes to a directory of its day and machine below it
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    runs: PathBuf,

    /// Write the baseline, too, that later checks compare with
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = BASELINE)]
    baseline: Option<PathBuf>,
}

/// Arguments of `redbreast perf history`.
#[derive(clap::Args)]
pub(super) struct HistoryArgs {
    /// Directory of the records
    #[arg(long, value_name = "DIR", default_value = RUNS)]
    runs: PathBuf,

    /// Draw it as a page, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Compares with the baseline or with another build.
pub(super) fn check(args: &CheckArgs) -> Result<(), Failure> {
    let scenarios = chosen(&args.measure)?;
    let base = match (&args.base, &args.base_binary) {
        (Some(revision), _) => {
            say(&format!("building {revision} for comparison"));
            Base::Build(build_revision(revision).map_err(Failure::usage)?)
        }
        (None, Some(path)) if path.is_file() => Base::Build(path.clone()),
        (None, Some(path)) => {
            return Err(Failure::usage(format!("--base-binary {}: there is no such file", path.display())));
        }
        (None, None) => Base::recorded(&args.baseline, &scenarios).map_err(Failure::usage)?,
    };
    let directory = temporary()?;
    let bench = bench(&args.measure, directory.path())?;
    let mut impossible = Vec::new();
    let mut told = Told { differences: base.differences().to_vec(), ..Told::default() };
    for scenario in &scenarios {
        say(&format!("{}: {}", scenario.name, scenario.stands_for));
        match bench.check(scenario, &base).map_err(Failure::failed)? {
            Checked::Findings(findings) => told.findings.extend(findings),
            Checked::Skipped(why) => told.skipped.push((scenario.name.clone(), why.into())),
            Checked::Impossible(why) => {
                impossible.push(scenario.name.clone());
                told.skipped.push((scenario.name.clone(), why));
            }
        }
    }
    write!(io::stdout(), "{}", told.text()).map_err(Failure::failed)?;
    let json = serde_json::to_string_pretty(&told).map_err(Failure::failed)?;
    write_to(args.json.as_deref(), || Ok(json + "\n"))?;
    write_to(args.junit.as_deref(), || Ok(told.junit()))?;
    write_to(args.markdown.as_deref(), || Ok(told.markdown()))?;
    judge(&told, &impossible)
}

/// What all findings say together.
fn judge(told: &Told, impossible: &[String]) -> Result<(), Failure> {
    let names = |verdict| {
        let of = told.findings.iter().filter(|finding| finding.verdict == verdict);
        of.map(|finding| format!("{} ({})", finding.scenario, finding.metric)).collect::<Vec<_>>().join(", ")
    };
    if told.has(GateVerdict::Slower) {
        return Err(Failure::failed(format!("slower than it may be: {}", names(GateVerdict::Slower))));
    }
    if told.has(GateVerdict::CannotTell) {
        let what = names(GateVerdict::CannotTell);
        return Err(Failure::uncertain(format!(
            "cannot tell whether this is slower: {what}. Try again on a quieter machine, with more max_rounds in the \
             scenario, or with a baseline of this machine (`redbreast perf record --baseline`)"
        )));
    }
    if !impossible.is_empty() {
        let what = impossible.join(", ");
        return Err(Failure::uncertain(format!(
            "cannot tell whether this is slower: {what} cannot be measured here, see above"
        )));
    }
    if told.findings.is_empty() {
        return Err(Failure::usage("nothing was measured: see why above"));
    }
    Ok(())
}

/// Measures and keeps it.
pub(super) fn record(args: &RecordArgs) -> Result<(), Failure> {
    let scenarios = chosen(&args.measure)?;
    let directory = temporary()?;
    let bench = bench(&args.measure, directory.path())?;
    let mut run = Run::begin();
    for scenario in &scenarios {
        say(&format!("{}: {}", scenario.name, scenario.stands_for));
        if !bench.record(scenario, &mut run).map_err(Failure::failed)? {
            say("  left out: it is measured beside another build alone (perf check --base)");
        }
    }
    if run.scenarios.is_empty() {
        return Err(Failure::usage("nothing could be measured: choose other scenarios"));
    }
    let day = args.runs.join(run.directory_name());
    let path = (1..)
        .map(|i| if i == 1 { history::FILE.into() } else { format!("{}-{i}", history::FILE) })
        .map(|name: String| day.join(name + ".json"))
        .find(|path| !path.exists())
        .ok_or_else(|| Failure::failed("no name is free for the record"))?;
    run.write(&path).map_err(Failure::failed)?;
    let mut out = io::stdout();
    writeln!(out, "{}\nrecorded in {}", history::text(std::slice::from_ref(&run)), path.display())
        .map_err(Failure::failed)?;
    if let Some(baseline) = &args.baseline {
        let baseline_run = Run { samples: Default::default(), ..run };
        baseline_run.write(baseline).map_err(Failure::failed)?;
        writeln!(out, "later checks compare with it: {}", baseline.display()).map_err(Failure::failed)?;
    }
    Ok(())
}

/// Tells of all records.
pub(super) fn tell_history(args: &HistoryArgs) -> Result<(), Failure> {
    let runs = history::runs(&args.runs).map_err(Failure::usage)?;
    write!(io::stdout(), "{}", history::text(&runs)).map_err(Failure::failed)?;
    write_to(args.html.as_deref(), || Ok(history::page(&runs)))
}

/// The scenarios that are asked for; what they need is there.
fn chosen(args: &MeasureArgs) -> Result<Vec<Scenario>, Failure> {
    let mut all = scenario::read_all(&args.scenarios).map_err(Failure::usage)?;
    if let Some(unknown) = args.only.iter().find(|only| all.iter().all(|scenario| scenario.name != **only)) {
        let names: Vec<_> = all.iter().map(|scenario| scenario.name.as_str()).collect();
        return Err(Failure::usage(format!(
            "--only {unknown}: there is no such scenario; there are {}",
            names.join(", ")
        )));
    }
    all.retain(|scenario| {
        let kind = match scenario.measure {
            Measure::Count(_) => ScenarioKind::Count,
            Measure::Load(_) => ScenarioKind::Load,
        };
        (args.only.is_empty() || args.only.contains(&scenario.name))
            && args.kind.is_none_or(|asked| asked == kind)
    });
    if all.is_empty() {
        return Err(Failure::usage("no scenario is of the --kind and among the --only asked for"));
    }
    let counts = all.iter().any(|scenario| matches!(scenario.measure, Measure::Count(_)));
    if counts && args.server.is_none() {
        valgrind().map_err(Failure::usage)?;
    }
    Ok(all)
}

fn bench(args: &MeasureArgs, directory: &Path) -> Result<Bench, Failure> {
    let queries = args
        .queries
        .as_deref()
        .map(|path| QueryFile::open(path, None))
        .transpose()
        .map_err(Failure::usage)?;
    let cpus = [args.server_cpu, args.load_cpu];
    Ok(Bench::new(cpus, args.server.zip(queries), directory))
}

fn temporary() -> Result<TempDir, Failure> {
    TempDir::with_prefix("redbreast-perf-")
        .map_err(|error| Failure::failed(format!("cannot make a temporary directory: {error}")))
}

fn write_to(path: Option<&Path>, text: impl FnOnce() -> Result<String, Failure>) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    fs::write(path, text()?)
        .map_err(|error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}

#[allow(clippy::print_stderr)] // progress: what is found goes to the standard output
fn say(what: &str) {
    eprintln!("{what}");
}
