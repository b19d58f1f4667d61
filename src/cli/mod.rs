//! The command line: one file per subcommand.
//!
//! Runs on the main thread. Exit status: 0 when what was asked was done and holds, 1 when a check failed or a server
//! could not be reached, 2 when the command line or a file is wrong.

use std::fs;
use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};

use crate::api::control_address::ControlAddress;
use crate::http::client::{ClientError, ControlClient};

mod ask;
mod balancing;
mod bench;
mod cache;
mod check_data;
mod compare;
mod config;
mod demo;
mod design;
mod gate;
mod generate;
mod lookup;
mod members;
mod names;
mod perf;
mod sample;
mod serve;
mod spread;
mod watch;

/// Gossip DNS: every node holds every name, so every lookup is a local one.
#[derive(Parser)]
#[command(name = "redbreast", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer DNS queries from names held in memory
    Serve(Box<serve::Args>),
    /// Look at a configuration file without running it
    Config(config::Args),
    /// Register a name with its addresses at a running node
    Add(names::AddArgs),
    /// Remove what was registered with `add` at a running node
    Remove(names::RemoveArgs),
    /// Tell what is registered at all nodes, as a running node knows it
    Names(names::NamesArgs),
    /// Take addresses out of answers at once, at all nodes, and put them back; or tell which are out
    Drain(balancing::DrainArgs),
    /// Say which address of a name is first, at all nodes; or tell what is said
    Policy(balancing::PolicyArgs),
    /// Tell why a name has the answers that it has
    Explain(balancing::ExplainArgs),
    /// Ask a name over and over, as many clients, and tell who would get the traffic
    Spread(Box<spread::Args>),
    /// Tell who is in the cluster, as a running node knows it
    Members(members::MembersArgs),
    /// Tell what changes at all nodes, as it comes to a running node
    Watch(watch::Args),
    /// Look a name up at a running node
    Lookup(lookup::Args),
    /// Look at what a running node remembers of names in other domains, or have it forget
    Cache(cache::Args),
    /// Tell how a running node is
    Status(members::StatusArgs),
    /// Send queries to a DNS server and measure the answers; the letters are dnsperf's
    Bench(Box<bench::Args>),
    /// Compare query-time broadcast, the same with a cache, and gossip: real clusters of each on the same work
    Compare(Box<compare::Args>),
    /// See the main job done: a server on loopback, some look-ups, five seconds of load
    Demo(demo::Args),
    /// Measure what this machine and this build can do
    Perf(perf::Args),
    /// Look at a data directory where a crash does no harm: `serve` starts this before it opens the file itself
    #[command(hide = true)]
    CheckData(check_data::Args),
    /// Write what a shell reads to complete these commands
    Completions(generate::CompletionsArgs),
    /// Write manual pages of these commands
    Man(generate::ManArgs),
}

/// Why a subcommand ended without having done what was asked: one line for a person, and the exit status.
pub(crate) struct Failure {
    message: String,
    status: u8,
}

impl Failure {
    /// The command line or a file is wrong, or asks for something that this machine cannot give.
    pub(crate) fn usage(message: impl ToString) -> Self {
        Self { message: message.to_string(), status: 2 }
    }

    /// A check failed, or a server could not be reached.
    pub(crate) fn failed(message: impl ToString) -> Self {
        Self { message: message.to_string(), status: 1 }
    }

    /// What was asked cannot be told.
    pub(crate) fn uncertain(message: impl ToString) -> Self {
        Self { message: message.to_string(), status: 3 }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Wrong(_) => Self::usage(error),
            ClientError::Failed(_) => Self::failed(error),
        }
    }
}

/// Which node to talk to, and how to tell what it says.
#[derive(clap::Args, Clone, Debug)]
struct ControlArgs {
    /// The node's control address
    #[arg(long, value_name = "ADDR:PORT|unix:PATH", default_value_t = ControlAddress::DEFAULT)]
    control: ControlAddress,

    /// File with the token that the node asks for
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,

    /// Tell it as JSON
    #[arg(long)]
    json: bool,
}

impl ControlArgs {
    /// The node that is meant.
    fn client(&self) -> Result<ControlClient, Failure> {
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).map_err(|error| {
                Failure::usage(format!("{}: cannot read the token: {error}", path.display()))
            })?;
            Ok::<_, Failure>(text.lines().next().unwrap_or_default().trim().to_owned())
        };
        let token = self.token_file.as_ref().map(read).transpose()?;
        Ok(ControlClient { address: self.control.clone(), token })
    }
}

/// Parses the command line, does what it says, returns the exit status.
#[must_use]
pub fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(args) => serve::run(*args),
        Command::Config(args) => config::run(&args),
        Command::Add(args) => names::add(args),
        Command::Remove(args) => names::remove(&args),
        Command::Names(args) => names::names(&args),
        Command::Drain(args) => balancing::drain(&args),
        Command::Policy(args) => balancing::policy(&args),
        Command::Explain(args) => balancing::explain(&args),
        Command::Spread(args) => spread::run(&args),
        Command::Members(args) => members::members(&args),
        Command::Watch(args) => watch::run(&args),
        Command::Lookup(args) => lookup::run(&args),
        Command::Cache(args) => cache::run(&args),
        Command::Status(args) => members::status(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Compare(args) => compare::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Perf(args) => perf::run(&args),
        Command::CheckData(args) => check_data::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.message);
            ExitCode::from(failure.status)
        }
    }
}

/// Shows what is under way, on a terminal alone.
fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("  {spinner} [{elapsed}] {msg}") {
        spinner.set_style(style);
    }
    if io::stderr().is_terminal() {
        spinner.enable_steady_tick(Duration::from_millis(100));
    }
    spinner
}

#[allow(clippy::print_stderr)] // this is where the program speaks to a person
fn complain(message: &str) {
    eprintln!("redbreast: {message}");
}
