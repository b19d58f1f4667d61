//! `redbreast completions` and `man`: made from the command line's own description.
//!
//! Runs on the main thread.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Failure};

/// Arguments of `redbreast completions`.
#[derive(clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell that they are for
    shell: Shell,
}

/// Arguments of `redbreast man`.
#[derive(clap::Args)]
pub(crate) struct ManArgs {
    /// Directory for the pages, one for each command; it has to be there [default: the page of the program alone, to
    /// standard output]
    directory: Option<PathBuf>,
}

/// Writes what a shell reads to complete commands.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "redbreast", &mut text);
    io::stdout().lock().write_all(&text).map_err(|error| Failure::failed(format!("cannot write: {error}")))
}

/// Writes manual pages.
pub(crate) fn man(args: &ManArgs) -> Result<(), Failure> {
    let Some(directory) = &args.directory else {
        let page = clap_mangen::Man::new(Cli::command());
        return page
            .render(&mut io::stdout().lock())
            .map_err(|error| Failure::failed(format!("cannot write: {error}")));
    };
    clap_mangen::generate_to(Cli::command(), directory)
        .map_err(|error| Failure::usage(format!("cannot write to {}: {error}", directory.display())))
}
