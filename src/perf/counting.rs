//! Counting the instructions of an operation under valgrind's callgrind: the same number each time on any machine,
//! however busy it is.
//!
//! Runs on the main thread; the operation in a process of its own.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::fault::{PerfFault, fault};
use super::scenario::Count;

/// Where counting begins and ends.
const COUNTED: &str = "redbreast::perf::operations::counted";

/// Counts for one query or change, by metric: `instructions`; `bus_locks`, which are atomic changes of memory, as a
/// lock or a shared counter makes them; and with simulated caches `branch_misses`, `l1_misses` (of instructions and
/// data) and `memory_misses`.
pub(super) type Counts = BTreeMap<String, f64>;

/// Whether more of it is slower for certain: what is simulated of caches and branches is not.
pub(super) fn is_gated(metric: &str) -> bool {
    matches!(metric, "instructions" | BUS_LOCKS)
}

/// How much more there may be beside the tolerance, which is nothing where there were none.
pub(super) fn slack(metric: &str) -> f64 {
    if metric == BUS_LOCKS { 0.02 } else { 0.0 }
}

const BUS_LOCKS: &str = "bus_locks";

/// The version that valgrind tells.
///
/// # Errors
/// [`PerfFault`]: it is missing.
pub fn valgrind() -> Result<String, PerfFault> {
    let missing = |error: io::Error| {
        PerfFault::new(format_args!(
            "valgrind cannot be run ({error}): instructions are counted with it. Install it (apt-get install \
             valgrind), or choose scenarios that do without: --only serve-floor"
        ))
    };
    let output = Command::new("valgrind").arg("--version").output().map_err(missing)?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Counts what `program`, a build of this one, does for `count`. `directory` takes what valgrind writes.
///
/// # Errors
/// [`PerfFault`].
pub(super) fn count(program: &Path, count: &Count, directory: &Path) -> Result<Counts, PerfFault> {
    let Count { operation, calls, simulate_caches } = count;
    let out = directory.join(format!("{operation}.callgrind"));
    let mut command = Command::new("valgrind");
    // What the environment holds shifts the stack, and what is aligned by chance would count otherwise.
    command.env_clear().envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.args([
        "--tool=callgrind",
        "--quiet",
        "--collect-bus=yes",
        &format!("--toggle-collect={COUNTED}"),
    ]);
    command.arg(format!("--callgrind-out-file={}", out.display()));
    if *simulate_caches {
        command.args(["--cache-sim=yes", "--branch-sim=yes"]);
    }
    command.arg(program).args(["perf", "operation", operation, "--calls", &calls.to_string()]);
    command.stdin(Stdio::null());
    let output =
        command.output().map_err(|error| PerfFault::new(format_args!("valgrind cannot be run: {error}")))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        return Err(fault(program, format_args!("cannot be counted ({operation}): {}", told.trim())));
    }
    let done = String::from_utf8_lossy(&output.stdout).trim().parse::<f64>();
    let done =
        done.map_err(|_| fault(program, format_args!("did not say how much of {operation} it did")))?;
    let written =
        fs::read_to_string(&out).map_err(|error| fault(&out, format_args!("cannot read it: {error}")))?;
    let counts = per_operation(&written, done);
    counts.filter(|counts| counts["instructions"] > 0.0).ok_or_else(|| {
        fault(
            program,
            format_args!(
                "valgrind found no function `{COUNTED}` to count: the build must not be stripped of its \
                          symbols"
            ),
        )
    })
}

/// What callgrind has written, for each of what was `done`.
fn per_operation(written: &str, done: f64) -> Option<Counts> {
    let line = |name: &str| {
        written.lines().find_map(|line| line.strip_prefix(name)).map(str::split_ascii_whitespace)
    };
    // Zeros at the end are left out.
    let values = line("totals:")?.map(|value| value.parse::<f64>().ok()).chain(std::iter::repeat(Some(0.0)));
    let totals: BTreeMap<&str, f64> =
        line("events:")?.zip(values).filter_map(|(name, value)| Some((name, value?))).collect();
    let sum = |names: &[&str]| {
        let values: Option<Vec<f64>> = names.iter().map(|name| totals.get(name).copied()).collect();
        values.map(|values| values.iter().sum::<f64>() / done)
    };
    let metrics = [
        ("instructions", sum(&["Ir"])),
        (BUS_LOCKS, sum(&["Ge"])),
        ("branch_misses", sum(&["Bcm", "Bim"])),
        ("l1_misses", sum(&["I1mr", "D1mr", "D1mw"])),
        ("memory_misses", sum(&["ILmr", "DLmr", "DLmw"])),
    ];
    let counts: Counts =
        metrics.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    counts.contains_key("instructions").then_some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_callgrind_writes_is_told_for_each_operation() {
        let counts =
            per_operation("version: 1\nevents: Ir Bc Bcm Bi Bim\nfn=x\n1 2\ntotals: 1000 100 10 5 1\n", 10.0)
                .unwrap();
        assert_eq!(counts.len(), 2);
        assert_eq!((counts["instructions"], counts["branch_misses"]), (100.0, 1.1));
        let counts = per_operation("events: Ir Ge\ntotals: 50\n", 10.0).unwrap();
        assert_eq!((counts["instructions"], counts["bus_locks"]), (5.0, 0.0));
        assert_eq!(per_operation("events: Ir\n", 1.0), None);
    }
}
