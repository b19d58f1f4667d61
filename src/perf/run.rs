//! A run of the gate's scenarios as it is kept: as the baseline that later ones are compared with, and as a dated
//! record.
//!
//! Runs on the main thread. Fields are only ever added.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::{Deserialize, Serialize};

use super::fault::{PerfFault, fault};
use crate::report::machine::Machine;

/// What was measured, where, and with what.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Run {
    /// The day, UTC.
    pub date: String,
    /// When it began, in UTC (RFC 3339); empty in records of earlier releases.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub time: String,
    /// The commit, with `+` behind it where the work tree had changes.
    pub revision: String,
    /// The machine.
    pub machine: Machine,
    /// Compiler, valgrind and C library: instructions are theirs, too.
    pub tools: BTreeMap<String, String>,
    /// What was measured, by scenario and metric.
    pub scenarios: BTreeMap<String, BTreeMap<String, f64>>,
    /// What the ratios are the medians of.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub samples: BTreeMap<String, BTreeMap<String, Vec<f64>>>,
}

impl Run {
    /// A run here and now, with nothing measured yet.
    #[must_use]
    pub fn begin() -> Self {
        let told = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output().ok()?;
            let text = String::from_utf8_lossy(&output.stdout).lines().next()?.trim().to_owned();
            (!text.is_empty()).then_some(text)
        };
        let tools = [("rustc", "--version"), ("valgrind", "--version"), ("ldd", "--version")];
        let tools =
            tools.into_iter().filter_map(|(tool, argument)| Some((tool.into(), told(tool, argument)?)));
        let git = |arguments: &[&str]| {
            let output =
                Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
        let changed = git(&["status", "--porcelain", "--untracked-files=no"])
            .is_some_and(|changes| !changes.is_empty());
        let now = jiff::Timestamp::now();
        Self {
            date: now.strftime("%Y-%m-%d").to_string(),
            time: now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            revision: commit + if changed { "+" } else { "" },
            machine: Machine::current(),
            tools: tools.collect(),
            ..Self::default()
        }
    }

    /// Reads a run.
    ///
    /// # Errors
    /// [`PerfFault`].
    pub fn read(path: &Path) -> Result<Self, PerfFault> {
        let text = fs::read_to_string(path).map_err(|error| {
            fault(
                path,
                format_args!(
                    "cannot read the baseline: {error}; make one on this machine with `redbreast \
                                      perf record --baseline {}`",
                    path.display()
                ),
            )
        })?;
        let run: Self = serde_json::from_str(&text)
            .map_err(|error| fault(path, format_args!("is no record of `redbreast perf record`: {error}")))?;
        if run.scenarios.is_empty() {
            return Err(fault(
                path,
                "has nothing measured; record it anew with `redbreast perf record --baseline`",
            ));
        }
        Ok(run)
    }

    /// Writes it.
    ///
    /// # Errors
    /// [`PerfFault`].
    pub fn write(&self, path: &Path) -> Result<(), PerfFault> {
        let text = serde_json::to_string_pretty(self).map_err(PerfFault::new)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        directory
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| fs::write(path, text + "\n"))
            .map_err(|error| fault(path, format_args!("cannot write it: {error}")))
    }

    /// The baseline's part of the machine that a comparison with `now` rests on: an error if nothing can be compared,
    /// and otherwise what differs, so that what looks slower is not held to be.
    ///
    /// # Errors
    /// [`PerfFault`]: it is of another architecture.
    pub fn differences(&self, now: &Self, path: &Path) -> Result<Vec<String>, PerfFault> {
        let (there, here) = (&self.machine, &now.machine);
        if there.arch != here.arch {
            return Err(fault(
                path,
                format_args!(
                    "was recorded on {}, and this is {}: instructions of two architectures cannot be compared. Record \
                     one here with `redbreast perf record --baseline FILE` and check with --baseline FILE",
                    there.arch, here.arch
                ),
            ));
        }
        let mut differences = Vec::new();
        if there.cpu != here.cpu {
            differences.push(format!("the baseline's processor is {}, and this is {}", there.cpu, here.cpu));
        }
        for (tool, version) in &self.tools {
            let ours = now.tools.get(tool).map_or("missing", String::as_str);
            if ours != version {
                differences.push(format!("the baseline was made with {version}, and here {tool} is {ours}"));
            }
        }
        Ok(differences)
    }

    /// A name for the machine's records: its date and what it is.
    #[must_use]
    pub fn directory_name(&self) -> String {
        let words =
            self.machine.cpu.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        let words: Vec<_> = words.take(2).map(str::to_ascii_lowercase).collect();
        format!("{}-{}-{}-cores", self.date, words.join("-"), self.machine.cores)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_baseline_that_cannot_be_compared_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("baseline.json");
        let told = |path: &Path| Run::read(path).unwrap_err().to_string();
        assert!(told(&path).contains("perf record --baseline"), "{}", told(&path));
        fs::write(&path, "{").unwrap();
        assert!(told(&path).contains("is no record of"), "{}", told(&path));
        fs::write(&path, "{}").unwrap();
        assert!(told(&path).contains("has nothing measured"), "{}", told(&path));

        let now = Run::begin();
        let mut then = now.clone();
        then.scenarios.entry("a".into()).or_default().insert("instructions".into(), 1.0);
        then.write(&path).unwrap();
        assert_eq!(Run::read(&path).unwrap(), then);
        assert_eq!(then.differences(&now, &path), Ok(Vec::new()));
        then.machine.cpu = "another".into();
        then.tools.insert("rustc".into(), "rustc 0.1".into());
        assert_eq!(then.differences(&now, &path).unwrap().len(), 2);
        then.machine.arch = "vax".into();
        assert!(then.differences(&now, &path).unwrap_err().to_string().contains("was recorded on vax"));
    }
}
