//! `redbreast watch`: what changes, as it comes.
//!
//! Runs on the main thread, until it is interrupted or the node ends.

use std::io::{self, Write};

use super::{ControlArgs, Failure};
use crate::api::paths;
use crate::api::request::Event;

/// Arguments of `redbreast watch`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// End after so many changes [default: never]
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    #[command(flatten)]
    control: ControlArgs,
}

/// Tells what changes.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let Args { count, control } = args;
    let mut left = count.unwrap_or(u64::MAX);
    let mut written = Ok(());
    control.client()?.follow(paths::WATCH, |line| {
        written = tell(line, control.json);
        left = left.saturating_sub(1);
        written.is_ok() && left > 0
    })?;
    match written {
        // Whoever reads has had enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(Failure::failed(format!("cannot write: {error}"))),
        Ok(()) if left > 0 && count.is_some() => Err(Failure::failed("the node has ended")),
        Ok(()) => Ok(()),
    }
}

fn tell(line: &[u8], json: bool) -> io::Result<()> {
    let out = &mut io::stdout().lock();
    if json {
        out.write_all(line)?;
        return writeln!(out);
    }
    match serde_json::from_slice(line)? {
        Event::Name { name, registrations } if registrations.is_empty() => writeln!(out, "{name} is gone"),
        Event::Name { name, registrations } => {
            let told: Vec<_> = registrations
                .iter()
                .map(|it| {
                    format!("{} {} from {}{}", it.rtype, it.data, it.node, if it.up { "" } else { " (down)" })
                })
                .collect();
            writeln!(out, "{name} is {}", told.join(", "))
        }
        Event::Member { name, state } => writeln!(
            out,
            "node {name} {}",
            match &*state {
                "left" => "has left",
                "down" => "is down",
                _ => "is up",
            }
        ),
        Event::Lost { events } => writeln!(out, "{events} changes were too many to tell"),
    }
}
