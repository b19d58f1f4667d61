//! Scenarios of the performance gate: files that say what is measured, what it stands for and how much worse it may be.
//!
//! Runs on the main thread.

use std::fs;
use std::num::NonZeroU32;
use std::path::Path;

use serde::Deserialize;

use super::fault::{PerfFault, fault};
use super::operations;
use crate::bench::Source;

/// A file of scenarios, by its name.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// The file's name without `.toml`.
    pub name: String,
    /// What a user would recognise it by.
    pub stands_for: String,
    /// How much worse it may be, as a part of what it was: 0.02 is two percent.
    pub tolerance: f64,
    /// What is measured.
    pub measure: Measure,
}

/// What is measured.
#[derive(Clone, Debug)]
pub enum Measure {
    /// Instructions of an operation, under valgrind.
    Count(Count),
    /// Queries a second and CPU time for a query of a whole server, beside another one in the same run.
    Load(Load),
}

/// Instructions of an operation.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Which; `redbreast perf operation` has them.
    pub operation: String,
    /// How often it is done.
    pub calls: NonZeroU32,
    /// Have valgrind simulate caches and branches, too: reported, not gated, and slower.
    #[serde(default)]
    pub simulate_caches: bool,
}

/// A load on two servers in turn.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Whom it is compared with.
    pub against: Against,
    /// Names that the server has; half of the queries are for others.
    pub names: NonZeroU32,
    /// Sockets that queries are sent from, or addresses of `sources`.
    pub clients: NonZeroU32,
    /// The prefix of the clients' addresses, where each is one of its own.
    #[serde(default)]
    pub sources: Option<Source>,
    /// Queries in flight.
    pub outstanding: NonZeroU32,
    /// Seconds of each round and server.
    pub round_s: f64,
    /// Rounds that are made.
    pub rounds: NonZeroU32,
    /// Rounds at most, when those cannot tell.
    pub max_rounds: NonZeroU32,
}

/// The other server of a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The echo floor, which does no DNS.
    Floor,
    /// Another build.
    Base,
}

/// A file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioFile {
    stands_for: String,
    tolerance: f64,
    count: Option<Count>,
    load: Option<Load>,
}

/// Reads all scenarios of a directory, in the order of their names.
///
/// # Errors
/// [`PerfFault`]: the directory has none, or one of them is wrong.
pub fn read_all(directory: &Path) -> Result<Vec<Scenario>, PerfFault> {
    let entries = fs::read_dir(directory).map_err(|error| {
        fault(directory, format_args!("cannot read the scenarios: {error}; --scenarios says where they are"))
    })?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    if paths.is_empty() {
        return Err(fault(
            directory,
            "there are no scenarios (*.toml) here; --scenarios says where they are",
        ));
    }
    paths.iter().map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Scenario, PerfFault> {
    let text =
        fs::read_to_string(path).map_err(|error| fault(path, format_args!("cannot read it: {error}")))?;
    let written: ScenarioFile =
        toml::from_str(&text).map_err(|error| fault(path, error.to_string().trim_end()))?;
    let ScenarioFile { stands_for, tolerance, count, load } = written;
    let measure = match (count, load) {
        (Some(count), None) => Measure::Count(count),
        (None, Some(load)) => Measure::Load(load),
        _ => return Err(fault(path, "a scenario has either [count] or [load]")),
    };
    if !(tolerance > 0.0 && tolerance < 1.0) {
        return Err(fault(
            path,
            format_args!("tolerance = {tolerance}: it is a part, over 0 and below 1, like 0.02"),
        ));
    }
    match &measure {
        Measure::Count(count) if !operations::names().contains(&count.operation.as_str()) => {
            let known = operations::names().join(", ");
            return Err(fault(
                path,
                format_args!("operation = \"{}\": there is none such; there are {known}", count.operation),
            ));
        }
        Measure::Load(Load { sources: Some(sources), clients, .. }) if clients.get() > sources.count => {
            return Err(fault(
                path,
                format_args!("clients = {clients}: sources has {} addresses for them", sources.count),
            ));
        }
        Measure::Load(load) if !(0.1..=60.0).contains(&load.round_s) || load.max_rounds < load.rounds => {
            return Err(fault(path, "round_s is 0.1 to 60, and max_rounds not below rounds"));
        }
        _ => {}
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Scenario { name, stands_for, tolerance, measure })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_scenarios_are_read() {
        let all = read_all(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/perf/scenarios"))).unwrap();
        let counted = all.iter().filter(|one| matches!(one.measure, Measure::Count(_))).count();
        assert_eq!(counted, operations::names().len(), "each operation has a scenario");
        assert!(all.len() > counted);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_file_and_value() {
        let directory = tempfile::tempdir().unwrap();
        assert!(read_all(directory.path()).unwrap_err().to_string().contains("no scenarios"));
        let path = directory.path().join("one.toml");
        let count =
            "stands_for = \"x\"\ntolerance = 0.02\n[count]\noperation = \"answer-positive\"\ncalls = 5\n";
        for (text, told) in [
            (count.replace("0.02", "2"), "tolerance = 2"),
            (
                count.replace("answer-positive", "answer-all"),
                "\"answer-all\": there is none such; there are answer-positive,",
            ),
            (count.replace("calls", "cals"), "cals"),
            (count.replace("calls = 5", "calls = 0"), "calls"),
            ("stands_for = \"x\"\ntolerance = 0.02\n".into(), "either [count] or [load]"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = read_all(directory.path()).unwrap_err().to_string();
            assert!(error.contains("one.toml: ") && error.contains(told), "{told}: {error}");
        }
        let load = "stands_for = \"x\"\ntolerance = 0.02\n[load]\nagainst = \"floor\"\nnames = 1\nclients = 300\n\
                    sources = \"127.9.9.0/24\"\noutstanding = 1\nround_s = 1.0\nrounds = 1\nmax_rounds = 1\n";
        for (text, told) in
            [(load.to_owned(), "sources has 254 addresses"), (load.replace("/24", "/99"), "127.9.9.0/99")]
        {
            fs::write(&path, &text).unwrap();
            let error = read_all(directory.path()).unwrap_err().to_string();
            assert!(error.contains("one.toml: ") && error.contains(told), "{told}: {error}");
        }
        fs::write(&path, count).unwrap();
        assert_eq!(read_all(directory.path()).unwrap()[0].name, "one");
    }
}
