//! `redbreast check-data`: a look at a data directory in a process of its own, which may crash.
//!
//! `serve` starts it before it opens the file itself, on the main thread: the library that reads the file panics at
//! some damages, and a release build ends at once then. In a child that end is the verdict, and `serve` can say what is
//! wrong.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use rustix::process::{Resource, Rlimit, Signal, setrlimit};
use tracing::warn;

use super::Failure;
use crate::store::{self, DiskError};

/// This binary, also after another has been put in its place.
const PROGRAM: &str = "/proc/self/exe";

/// What the child may take, beside what the file's length explains: a damage can ask for any amount.
const MAX_MEMORY_LEN: u64 = 2 << 30;
const MAX_CPU_S: u64 = 60;
/// Bytes of the file that are read in a second of CPU time even in a build for debugging; release builds read a hundred
/// times as many.
const BYTES_PER_CPU_S: u64 = 1 << 20;

/// The child's exit status where the file holds; or another process has it, or it cannot be read: that is for the start
/// to find.
const NO_DAMAGE: i32 = 0;
/// And where it is damaged, with what to do as its last line.
const DAMAGED: i32 = 2;

/// Arguments of `redbreast check-data`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The data directory
    directory: PathBuf,
}

/// Looks at the file. A damage that the library finds is a failure; one at which it crashes ends the process.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    limit(&args.directory);
    match store::check(&args.directory) {
        Err(error) if !error.is_of_place() && !matches!(error, DiskError::InUse(_)) => {
            Err(Failure::usage(error))
        }
        _ => Ok(()),
    }
}

/// Has the process end rather than take all memory, loop for ever or leave a core.
fn limit(directory: &Path) {
    let len = store::file_in(directory).metadata().map_or(0, |it| it.len());
    let memory = MAX_MEMORY_LEN.saturating_add(len.saturating_mul(4));
    let cpu_s = MAX_CPU_S + len / BYTES_PER_CPU_S;
    for (resource, most) in [(Resource::Core, 0), (Resource::As, memory), (Resource::Cpu, cpu_s)] {
        // Without the limit it is as good as before, but for the worst damages.
        let _ = setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) });
    }
}

/// Has a child look at the file in `directory`.
///
/// # Errors
/// When the file is damaged.
pub(crate) fn in_child(directory: &Path) -> Result<(), Failure> {
    let path = store::file_in(directory);
    if fs::metadata(&path).is_err() {
        return Ok(());
    }
    let child = Command::new(PROGRAM)
        .args(["check-data", "--"])
        .arg(directory)
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output();
    match child {
        Ok(output) => judge(path, &output),
        Err(error) => {
            warn!("{}: cannot be checked in a process of its own: {error}", path.display());
            Ok(())
        }
    }
}

/// What the end of the child says of the file.
fn judge(path: PathBuf, output: &Output) -> Result<(), Failure> {
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.lines().rev().find(|line| !line.is_empty() && !line.starts_with("note: "));
    let last = last.unwrap_or_default();
    let by_others = [Signal::INT, Signal::TERM, Signal::HUP, Signal::KILL].map(Signal::as_raw);
    match (output.status.code(), output.status.signal()) {
        (Some(NO_DAMAGE), _) => Ok(()),
        (Some(DAMAGED), _) => Err(Failure::usage(last.strip_prefix("redbreast: ").unwrap_or(last))),
        (_, Some(signal)) if by_others.contains(&signal) => Err(Failure::failed(format!(
            "{}: the process that checked it was ended by signal {signal}; start again",
            path.display()
        ))),
        _ => {
            let what = format!("reading it ends in a crash, {}: {last}", output.status);
            Err(Failure::usage(DiskError::Damaged(path, what)))
        }
    }
}
