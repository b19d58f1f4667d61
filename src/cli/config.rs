//! `redbreast config`: looking at a configuration file without running it.
//!
//! Runs on the main thread.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Subcommand;

use super::Failure;
use super::serve::config_file;
use crate::node;

/// Arguments of `redbreast config`.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Say whether `redbreast serve --config FILE` would start with this file and those that it names
    Check {
        /// The file
        file: PathBuf,
    },
}

/// Looks at a configuration.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Command::Check { file } = &args.command;
    let settings = config_file::alone(file)?.settings()?;
    let (names, told) = node::check(&settings).map_err(Failure::usage)?;
    let mut out = io::stdout().lock();
    let cannot = |error| Failure::failed(format!("cannot write: {error}"));
    told.iter().try_for_each(|line| writeln!(out, "{line}")).map_err(cannot)?;
    let written = writeln!(
        out,
        "{}: good; {names} registrations in its files, {} domains, {} addresses to listen at",
        file.display(),
        settings.domains.len(),
        settings.listen.len()
    );
    written.map_err(cannot)
}
