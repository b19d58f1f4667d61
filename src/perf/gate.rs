//! The performance gate: measures scenarios and says of each whether it has become slower, or that this cannot be told.
//!
//! Runs on the main thread.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::counting;
use super::fault::{PerfFault, fault};
use super::ratios::{self, Cpus, Ratios, Server};
use super::run::Run;
use super::scenario::{Against, Count, Load, Measure, Scenario};
use crate::bench::QueryFile;
use crate::bench::statistics::Estimate;

/// What is said of one metric of a scenario.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GateVerdict {
    /// It is not slower than it may be.
    Holds,
    /// It is, for certain.
    Slower,
    /// The machine is too noisy, or is not the baseline's.
    CannotTell,
    /// It is told and not judged.
    Reported,
}

impl GateVerdict {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Holds => "holds",
            Self::Slower => "SLOWER",
            Self::CannotTell => "cannot tell",
            Self::Reported => "reported",
        }
    }
}

/// One metric of a scenario.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Finding {
    /// The scenario.
    pub scenario: String,
    /// What it stands for.
    pub stands_for: String,
    /// What was measured.
    pub metric: String,
    /// What it was, and is.
    pub base: f64,
    /// The same now.
    pub now: f64,
    /// The ratio of the two, and the interval that holds it with 95% confidence; counts have none.
    pub ratio: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
    /// How much worse it may be.
    pub tolerance: f64,
    /// What that means.
    pub verdict: GateVerdict,
}

/// What a build is compared with.
pub enum Base {
    /// What was recorded.
    Recorded {
        /// The record.
        run: Box<Run>,
        /// Its file.
        path: PathBuf,
        /// How that machine and its tools differ from these.
        differences: Vec<String>,
    },
    /// Another build, measured at the same time.
    Build(PathBuf),
}

/// How to measure.
pub struct Bench {
    /// Where servers and load run; chosen once, since this thread keeps to one CPU from the first load on.
    cpus: Result<Cpus, PerfFault>,
    /// A server that runs already, in place of this build, and what it is asked.
    other: Option<(SocketAddr, QueryFile)>,
    /// What valgrind and servers write.
    directory: PathBuf,
}

/// What came of checking a scenario.
pub enum Checked {
    /// What was found.
    Findings(Vec<Finding>),
    /// It was not measured, since it is not asked for in this way, and why.
    Skipped(&'static str),
    /// It cannot be measured on this machine, and why.
    Impossible(String),
}

impl Bench {
    /// On the CPUs that are asked for, or two of those that there are; of the `other` server, if there is one, and with
    /// the queries that it is asked.
    #[must_use]
    pub fn new(
        [server_cpu, load_cpu]: [Option<usize>; 2],
        other: Option<(SocketAddr, QueryFile)>,
        directory: &Path,
    ) -> Self {
        Self { cpus: Cpus::choose(server_cpu, load_cpu), other, directory: directory.to_owned() }
    }

    /// Checks one scenario.
    ///
    /// # Errors
    /// [`PerfFault`].
    pub fn check(&self, scenario: &Scenario, base: &Base) -> Result<Checked, PerfFault> {
        match &scenario.measure {
            Measure::Count(_) if self.other.is_some() => Ok(Checked::Skipped(
                "instructions are counted of this program alone, and --server is another",
            )),
            Measure::Count(count) => self.check_count(scenario, count, base).map(Checked::Findings),
            Measure::Load(load) => self.check_load(scenario, load, base),
        }
    }

    fn check_count(
        &self,
        scenario: &Scenario,
        count: &Count,
        base: &Base,
    ) -> Result<Vec<Finding>, PerfFault> {
        let before = match base {
            Base::Recorded { run, path, .. } => recorded(run, path, scenario)?.clone(),
            Base::Build(path) => counting::count(path, count, &self.directory)?,
        };
        let now = self.count(count)?;
        if let Some(lacking) =
            now.keys().find(|metric| counting::is_gated(metric) && !before.contains_key(*metric))
        {
            return Err(PerfFault::new(format_args!(
                "the base has no {lacking} of {}: record it anew with `redbreast perf record --baseline`",
                scenario.name
            )));
        }
        let finding = |(metric, &now): (&String, &f64)| {
            let base_value = *before.get(metric)?;
            let ratio = if base_value == now { 1.0 } else { now / base_value };
            let most = base_value * (1.0 + scenario.tolerance) + counting::slack(metric);
            let verdict = match (counting::is_gated(metric), now > most) {
                (true, true) => base.verdict_of_slower(),
                (true, false) => GateVerdict::Holds,
                (false, _) => GateVerdict::Reported,
            };
            let certain = Estimate { median: ratio, low: ratio, high: ratio };
            Some(finding(scenario, metric, [base_value, now], certain, verdict))
        };
        Ok(now.iter().filter_map(finding).collect())
    }

    /// Counts what this build does.
    fn count(&self, count: &Count) -> Result<counting::Counts, PerfFault> {
        counting::count(&this_program()?, count, &self.directory)
    }

    fn check_load(&self, scenario: &Scenario, load: &Load, base: &Base) -> Result<Checked, PerfFault> {
        let before = match (load.against, base) {
            (Against::Floor, Base::Recorded { run, path, .. }) => recorded(run, path, scenario)?.clone(),
            (Against::Base, Base::Build(_)) => BTreeMap::from([(QPS.into(), 1.0), (CPU.into(), 1.0)]),
            (Against::Floor, Base::Build(_)) => {
                return Ok(Checked::Skipped(
                    "this build is compared with another here, and not with the floor",
                ));
            }
            (Against::Base, Base::Recorded { .. }) => {
                return Ok(Checked::Skipped("it needs another build: --base REV or --base-binary PATH"));
            }
        };
        let cpus = match &self.cpus {
            Ok(cpus) => *cpus,
            Err(fault) => return Ok(Checked::Impossible(fault.to_string())),
        };
        let mut findings = Vec::new();
        self.rounds(load, cpus, base.build(), load.max_rounds.get(), |ratios| {
            let of = |metric: &str, ratio: Option<Estimate>| {
                let (ratio, before) = (ratio?, *before.get(metric)?);
                let relative = Estimate {
                    median: ratio.median / before,
                    low: ratio.low / before,
                    high: ratio.high / before,
                };
                let verdict = judge(relative, scenario.tolerance, metric == QPS);
                let verdict = if verdict == GateVerdict::Slower { base.verdict_of_slower() } else { verdict };
                Some(finding(scenario, metric, [before, ratio.median], relative, verdict))
            };
            findings = [of(QPS, ratios.qps()), of(CPU, ratios.cpu())].into_iter().flatten().collect();
            findings.iter().all(|finding| finding.verdict != GateVerdict::CannotTell)
        })?;
        if findings.is_empty() {
            return Err(PerfFault::new(format_args!("{}: nothing could be compared", scenario.name)));
        }
        Ok(Checked::Findings(findings))
    }

    /// Makes the rounds of a load, and more of them up to `most` until `enough` says so.
    fn rounds(
        &self,
        load: &Load,
        cpus: Cpus,
        base: Option<&Path>,
        most: u32,
        mut enough: impl FnMut(&Ratios) -> bool,
    ) -> Result<Ratios, PerfFault> {
        let made = ratios::queries(load)?;
        let (ours, queries) = match &self.other {
            Some((address, queries)) => (Server::Other(*address), queries),
            None => (ratios::start(None, "ours", load, cpus, &self.directory)?, &made),
        };
        let theirs = match (load.against, base) {
            (Against::Base, Some(path)) => ratios::start(Some(path), "base", load, cpus, &self.directory)?,
            _ => ratios::start_floor(cpus)?,
        };
        let mut ratios = Ratios::default();
        // What is cold or not yet allowed to run says nothing of either.
        ratios::add_rounds(&mut Ratios::default(), 1, load, queries, [&ours, &theirs], cpus)?;
        loop {
            ratios::add_rounds(&mut ratios, load.rounds.get(), load, queries, [&ours, &theirs], cpus)?;
            let made = u32::try_from(ratios.qps.len()).unwrap_or(u32::MAX);
            if enough(&ratios) || made >= most {
                return Ok(ratios);
            }
        }
    }

    /// Measures a scenario for a record; `None` if it cannot be measured alone.
    ///
    /// # Errors
    /// [`PerfFault`].
    pub fn record(&self, scenario: &Scenario, run: &mut Run) -> Result<bool, PerfFault> {
        let metrics = match &scenario.measure {
            Measure::Count(_) if self.other.is_some() => return Ok(false),
            Measure::Load(load) if load.against == Against::Base => return Ok(false),
            Measure::Count(count) => self.count(count)?,
            Measure::Load(load) => {
                let cpus = self.cpus.clone()?;
                let ratios = self.rounds(load, cpus, None, load.max_rounds.get(), |_| false)?;
                let medians = [(QPS, ratios.qps()), (CPU, ratios.cpu())];
                let samples = [(QPS.to_owned(), ratios.qps), (CPU.to_owned(), ratios.cpu)];
                run.samples.insert(scenario.name.clone(), samples.into());
                medians
                    .into_iter()
                    .filter_map(|(metric, ratio)| Some((metric.to_owned(), ratio?.median)))
                    .collect()
            }
        };
        run.scenarios.insert(scenario.name.clone(), metrics);
        Ok(true)
    }
}

/// Metrics of loads: both are ratios to the other server's.
const QPS: &str = "queries a second, to theirs";
const CPU: &str = "CPU for a query, to theirs";

impl Base {
    /// The record at `path`, to be compared with here and now.
    ///
    /// # Errors
    /// [`PerfFault`]: it cannot be read or compared, or lacks one of the `scenarios` that are asked for.
    pub fn recorded(path: &Path, scenarios: &[Scenario]) -> Result<Self, PerfFault> {
        let run = Run::read(path)?;
        let differences = run.differences(&Run::begin(), path)?;
        for scenario in scenarios {
            if !matches!(&scenario.measure, Measure::Load(load) if load.against == Against::Base) {
                recorded(&run, path, scenario)?;
            }
        }
        Ok(Self::Recorded { run: Box::new(run), path: path.to_owned(), differences })
    }

    /// How the base's machine and its tools differ from these.
    #[must_use]
    pub fn differences(&self) -> &[String] {
        match self {
            Self::Recorded { differences, .. } => differences,
            Self::Build(_) => &[],
        }
    }

    fn build(&self) -> Option<&Path> {
        match self {
            Self::Recorded { .. } => None,
            Self::Build(path) => Some(path),
        }
    }

    /// What is slower than on another machine, or by another compiler, may be so for that.
    fn verdict_of_slower(&self) -> GateVerdict {
        match self {
            Self::Recorded { differences, .. } if !differences.is_empty() => GateVerdict::CannotTell,
            _ => GateVerdict::Slower,
        }
    }
}

/// What a ratio to the base says: it is slower only if the whole interval is, and holds only if the whole interval
/// does.
fn judge(ratio: Estimate, tolerance: f64, more_is_better: bool) -> GateVerdict {
    let (best, worst) = if more_is_better { (ratio.high, ratio.low) } else { (-ratio.low, -ratio.high) };
    let bound = if more_is_better { 1.0 - tolerance } else { -(1.0 + tolerance) };
    match (worst >= bound, best < bound) {
        (true, _) => GateVerdict::Holds,
        (_, true) => GateVerdict::Slower,
        _ => GateVerdict::CannotTell,
    }
}

fn finding(
    scenario: &Scenario,
    metric: &str,
    [base, now]: [f64; 2],
    ratio: Estimate,
    verdict: GateVerdict,
) -> Finding {
    Finding {
        scenario: scenario.name.clone(),
        stands_for: scenario.stands_for.clone(),
        metric: metric.into(),
        base,
        now,
        ratio: ratio.median,
        low: ratio.low,
        high: ratio.high,
        tolerance: scenario.tolerance,
        verdict,
    }
}

fn recorded<'a>(
    run: &'a Run,
    path: &Path,
    scenario: &Scenario,
) -> Result<&'a BTreeMap<String, f64>, PerfFault> {
    run.scenarios.get(&scenario.name).ok_or_else(|| {
        fault(
            path,
            format_args!(
                "has no scenario `{}`; record the baseline anew with `redbreast perf record --baseline {}`",
                scenario.name,
                path.display()
            ),
        )
    })
}

fn this_program() -> Result<PathBuf, PerfFault> {
    std::env::current_exe()
        .map_err(|error| PerfFault::new(format_args!("cannot tell where this program is: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_whole_interval_says_is_said() {
        let ratio = |low, high| Estimate { median: f64::midpoint(low, high), low, high };
        for (low, high, more_is_better, expected) in [
            (0.97, 1.02, true, GateVerdict::Holds),
            (0.95, 0.96, true, GateVerdict::Holds),
            (0.93, 0.96, true, GateVerdict::CannotTell),
            (0.90, 0.949, true, GateVerdict::Slower),
            (0.98, 1.04, false, GateVerdict::Holds),
            (1.02, 1.08, false, GateVerdict::CannotTell),
            (1.051, 1.2, false, GateVerdict::Slower),
            (0.5, 0.6, false, GateVerdict::Holds),
        ] {
            assert_eq!(judge(ratio(low, high), 0.05, more_is_better), expected, "{low} {high}");
        }
    }
}
