//! Two servers, or two builds of one, compared: short rounds in turn, so that what changes on the machine meanwhile
//! meets both, and ratios of rounds that are neighbours.
//!
//! Runs on the main thread; each round is a run of its own.

use super::objective::{Metric, Objective};
use super::statistics::{Estimate, bootstrap_median};
use super::verdict::{self, RunFault};
use super::{BenchError, Outcome, RunEnd, RunSettings};

/// What is compared.
pub const METRICS: [Metric; 6] = [
    Metric::Qps,
    Metric::Mean,
    Metric::Quantile(0.5),
    Metric::Quantile(0.9),
    Metric::Quantile(0.99),
    Metric::Quantile(0.999),
];

/// One round: what was measured of both.
#[derive(Clone)]
pub struct Round {
    /// Of the server.
    pub ours: Outcome,
    /// Of the one that it is compared with.
    pub theirs: Outcome,
}

/// A metric of both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// What was compared.
    pub metric: Metric,
    /// The median of our rounds.
    pub ours: f64,
    /// The median of theirs.
    pub theirs: f64,
    /// The ratio, ours to theirs, over the rounds. One round alone has no interval.
    pub ratio: Estimate,
}

/// What became of a requirement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RequirementResult {
    /// What was required.
    pub requirement: Objective,
    /// What was seen of its metric.
    pub ratio: Estimate,
    /// Whether the median holds it.
    pub holds: bool,
    /// Whether the whole interval says the same.
    pub certain: bool,
}

/// A comparison that was made.
pub struct AbRounds {
    /// The rounds.
    pub rounds: Vec<Round>,
    /// Why results do not stand for the servers, if so, and whose: ours (true) or theirs.
    pub faults: Vec<(bool, RunFault)>,
    /// It was stopped from outside.
    pub interrupted: bool,
}

impl AbRounds {
    /// A metric of both, over all rounds.
    #[must_use]
    pub fn compare(&self, metric: Metric) -> Option<Comparison> {
        let value = |outcome: &Outcome| metric.of(outcome);
        let (ours, theirs): (Vec<_>, Vec<_>) =
            self.rounds.iter().map(|round| (value(&round.ours), value(&round.theirs))).unzip();
        compare(metric, &ours, &theirs)
    }

    /// Whether the requirements hold.
    #[must_use]
    pub fn rule(&self, requirements: &[Objective]) -> Vec<RequirementResult> {
        let rule = |requirement: &Objective| {
            self.compare(requirement.metric).map(|comparison| rule(requirement, comparison.ratio))
        };
        requirements.iter().filter_map(rule).collect()
    }
}

/// Compares values of rounds that belong together. None if there are none, or a value is none that a ratio can be made
/// of.
#[must_use]
pub fn compare(metric: Metric, ours: &[f64], theirs: &[f64]) -> Option<Comparison> {
    let usable = |value: &f64| value.is_finite() && *value > 0.0;
    if ours.is_empty() || !ours.iter().chain(theirs).all(usable) {
        return None;
    }
    let ratios: Vec<_> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    Some(Comparison {
        metric,
        ours: bootstrap_median(ours).median,
        theirs: bootstrap_median(theirs).median,
        ratio: bootstrap_median(&ratios),
    })
}

/// Whether a ratio holds a requirement.
#[must_use]
pub fn rule(requirement: &Objective, ratio: Estimate) -> RequirementResult {
    let holds = requirement.holds(ratio.median);
    let certain = requirement.holds(ratio.low) == holds && requirement.holds(ratio.high) == holds;
    RequirementResult { requirement: *requirement, ratio, holds, certain }
}

/// Compares two servers in `rounds` rounds. `run` does one run, of ours (true) or of theirs; `tell` hears of each
/// round.
///
/// # Errors
/// The first error of a run.
pub fn run_rounds(
    rounds: u32,
    mut run: impl FnMut(bool) -> Result<(RunSettings, Outcome), BenchError>,
    mut tell: impl FnMut(u32, &Round),
) -> Result<AbRounds, BenchError> {
    let mut done = AbRounds { rounds: Vec::new(), faults: Vec::new(), interrupted: false };
    for number in 0..rounds {
        // Who is first has a colder machine: in turn.
        let ours_first = number % 2 == 0;
        let (first, second) = (run(ours_first)?, run(!ours_first)?);
        for (is_ours, (settings, outcome)) in [(ours_first, &first), (!ours_first, &second)] {
            for fault in verdict::judge(settings, outcome) {
                if !done.faults.iter().any(|known| (known.0, known.1.name) == (is_ours, fault.name)) {
                    done.faults.push((is_ours, fault));
                }
            }
            done.interrupted |= outcome.end == RunEnd::Interrupted;
        }
        if done.interrupted {
            break;
        }
        let (ours, theirs) = if ours_first { (first.1, second.1) } else { (second.1, first.1) };
        let round = Round { ours, theirs };
        tell(number, &round);
        done.rounds.push(round);
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn outcome(completed: u64) -> Outcome {
        let mut outcome =
            Outcome { run_time: Duration::from_secs(1), end: RunEnd::TimeLimit, ..Outcome::nothing() };
        outcome.tally.totals.completed = completed;
        outcome.tally.positive.record(1_000_000_000 / completed);
        outcome
    }

    #[test]
    fn ratios_are_those_of_neighbouring_rounds() {
        // The machine gets slower all the time; ours has 0.9 of theirs in each round.
        let mut speed = 100_000;
        let mut order = Vec::new();
        let run = |is_ours: bool| {
            order.push(is_ours);
            if order.len() % 2 == 1 {
                speed -= 5_000;
            }
            let outcome = outcome(if is_ours { speed * 9 / 10 } else { speed });
            Ok((RunSettings::new("127.0.0.1:53".parse().unwrap()), outcome))
        };
        let rounds = run_rounds(9, run, |_, _| ()).unwrap();
        assert_eq!(order[..4], [true, false, false, true]);
        let comparison = rounds.compare(Metric::Qps).unwrap();
        assert!(
            (comparison.ratio.median - 0.9).abs() < 1e-3
                && comparison.ratio.high - comparison.ratio.low < 1e-3
        );
        let requirements = Objective::parse_ratios("qps>=0.95,qps>=0.85,qps>0.9").unwrap();
        let rulings = rounds.rule(&requirements);
        assert!(!rulings[0].holds && rulings[0].certain && rulings[1].holds && rulings[1].certain);
    }

    #[test]
    fn an_interval_across_the_bound_is_not_certain() {
        let requirement = Objective::parse_ratios("qps>=0.95").unwrap()[0];
        let ruling = rule(&requirement, Estimate { median: 0.96, low: 0.94, high: 0.98 });
        assert!(ruling.holds && !ruling.certain);
    }

    #[test]
    fn what_was_not_measured_is_not_compared() {
        assert_eq!(compare(Metric::Qps, &[], &[]), None);
        assert_eq!(compare(Metric::Mean, &[f64::INFINITY], &[1.0]), None);
        assert_eq!(compare(Metric::Loss, &[0.0], &[0.0]), None);
    }
}
