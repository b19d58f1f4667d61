//! The highest rate at which a server holds an objective: found by trials, and confirmed by more of them.
//!
//! Runs on the main thread; each trial is a run of its own. The rate is doubled until a trial fails, then the interval
//! between what held and what failed is halved until it is narrow. What held is then tried again: chance favours the
//! search, which stops at the luckiest of many trials.

use super::objective::Objective;
use super::verdict::{self, RunFault};
use super::{BenchError, Outcome, RunEnd, RunSettings};

/// The interval is narrow enough when its end is so many times its beginning.
const PRECISION: f64 = 1.03;

/// Trials at a rate until it has failed.
const ATTEMPTS: u32 = 2;

/// Trials at the rate that was found which have to hold, while one may fail; how far back if two do, and how often.
const CONFIRMATIONS: u32 = 3;
const STEP_BACK: f64 = 0.96;
const MAX_STEPS_BACK: u32 = 8;

/// Rates beyond this are not tried.
const MAX_QPS: f64 = 1e8;

/// What came of one trial.
#[derive(Clone)]
pub struct Trial {
    /// Queries a second that were asked for.
    pub rate_qps: f64,
    /// What was measured.
    pub outcome: Outcome,
    /// The objectives that did not hold, with their values.
    pub missed: Vec<(Objective, f64)>,
    /// Why it says nothing about the server, if so.
    pub faults: Vec<RunFault>,
    /// It was made to confirm a rate.
    pub is_confirmation: bool,
}

impl Trial {
    /// Whether the server held the objective, and the generator kept up.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.missed.is_empty() && self.faults.is_empty()
    }
}

/// What limits the rate that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// The server: at a higher rate it does not hold the objective.
    Server,
    /// The generator, which cannot send faster: the server holds at least this rate.
    Generator,
}

/// The end of a search.
pub struct SearchResult {
    /// The highest rate that was confirmed; none if not even the lowest that was tried was.
    pub best_qps: Option<f64>,
    /// What limits it.
    pub limit: Limit,
    /// All trials in their order.
    pub trials: Vec<Trial>,
    /// It was stopped from outside.
    pub interrupted: bool,
}

/// Trials as they are made.
struct Trials<'a, R, T> {
    objectives: &'a [Objective],
    run: R,
    tell: T,
    made: Vec<Trial>,
    interrupted: bool,
}

impl<R, T> Trials<'_, R, T>
where
    R: FnMut(f64) -> Result<(RunSettings, Outcome), BenchError>,
    T: FnMut(&Trial),
{
    /// Whether a rate holds. After an interruption nothing does, so that the search ends soon.
    fn holds(&mut self, rate_qps: f64, is_confirmation: bool) -> Result<bool, BenchError> {
        if self.interrupted {
            return Ok(false);
        }
        let (settings, outcome) = (self.run)(rate_qps)?;
        self.interrupted = outcome.end == RunEnd::Interrupted;
        let values = self.objectives.iter().map(|objective| (*objective, objective.metric.of(&outcome)));
        let missed = values.filter(|(objective, value)| !objective.holds(*value)).collect();
        let faults = verdict::judge(&settings, &outcome);
        let trial = Trial { rate_qps, outcome, missed, faults, is_confirmation };
        (self.tell)(&trial);
        let holds = trial.holds() && !self.interrupted;
        self.made.push(trial);
        Ok(holds)
    }

    /// Whether a rate holds in one of its trials.
    fn holds_once(&mut self, rate_qps: f64) -> Result<bool, BenchError> {
        for _ in 0..ATTEMPTS {
            if self.holds(rate_qps, false)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The highest rate that held once, as closely as is asked.
    fn bracket(&mut self, start_qps: f64) -> Result<Option<f64>, BenchError> {
        let (mut good_qps, mut bad_qps) = (None, None);
        let mut rate_qps = start_qps;
        while bad_qps.is_none() && rate_qps <= MAX_QPS {
            if self.holds_once(rate_qps)? {
                good_qps = Some(rate_qps);
                rate_qps *= 2.0;
            } else {
                bad_qps = Some(rate_qps);
            }
        }
        // Not even the first: downwards until one holds.
        while good_qps.is_none() && rate_qps > start_qps / 1_000.0 && rate_qps >= 2.0 {
            rate_qps /= 2.0;
            *(if self.holds_once(rate_qps)? { &mut good_qps } else { &mut bad_qps }) = Some(rate_qps);
        }
        while let (Some(good), Some(bad)) = (good_qps, bad_qps) {
            if bad / good <= PRECISION {
                break;
            }
            let middle = (good * bad).sqrt();
            *(if self.holds_once(middle)? { &mut good_qps } else { &mut bad_qps }) = Some(middle);
        }
        Ok(good_qps)
    }

    /// The highest rate from this one on downwards that holds again and again.
    fn confirm(&mut self, mut rate_qps: f64) -> Result<Option<f64>, BenchError> {
        for _ in 0..=MAX_STEPS_BACK {
            let (mut held, mut failed) = (0, 0);
            while held < CONFIRMATIONS && failed < ATTEMPTS {
                *(if self.holds(rate_qps, true)? { &mut held } else { &mut failed }) += 1;
            }
            if held == CONFIRMATIONS {
                return Ok(Some(rate_qps));
            }
            rate_qps *= STEP_BACK;
        }
        Ok(None)
    }
}

/// Searches. `run` does one run at a rate, `tell` hears of each trial.
///
/// # Errors
/// The first error of a run.
pub fn search(
    start_qps: f64,
    objectives: &[Objective],
    run: impl FnMut(f64) -> Result<(RunSettings, Outcome), BenchError>,
    tell: impl FnMut(&Trial),
) -> Result<SearchResult, BenchError> {
    let mut trials = Trials { objectives, run, tell, made: Vec::new(), interrupted: false };
    let best_qps = match trials.bracket(start_qps)? {
        Some(good_qps) => trials.confirm(good_qps)?,
        None => None,
    };
    let Trials { made: trials, interrupted, .. } = trials;
    // Of the trials above it that failed, those closest to it say why: the server, unless not one of them was judged.
    let above =
        trials.iter().filter(|trial| !trial.holds() && best_qps.is_none_or(|best| trial.rate_qps > best));
    let closest_qps = above.clone().map(|trial| trial.rate_qps).min_by(f64::total_cmp);
    let is_generator =
        above.filter(|trial| Some(trial.rate_qps) == closest_qps).all(|trial| !trial.faults.is_empty());
    let limit = if is_generator { Limit::Generator } else { Limit::Server };
    Ok(SearchResult { best_qps, limit, trials, interrupted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// A server that answers within 100 us up to a rate and 10 ms beyond it, and a generator that keeps up to another
    /// rate.
    fn find(server_qps: f64, generator_qps: f64, start_qps: f64) -> SearchResult {
        let objectives = Objective::parse_all("p99<1ms").unwrap();
        let run = |rate_qps: f64| {
            let mut outcome = Outcome { run_time: Duration::from_secs(1), ..Outcome::nothing() };
            outcome.end = RunEnd::TimeLimit;
            outcome.tally.totals.sent = 1_000;
            let latency_ns = if rate_qps <= server_qps { 100_000 } else { 10_000_000 };
            (0..1_000).for_each(|_| outcome.tally.response.record(latency_ns));
            outcome.tally.totals.overdue = if rate_qps <= generator_qps { 0 } else { 500 };
            Ok((RunSettings::new("127.0.0.1:53".parse().unwrap()).at_rate(rate_qps), outcome))
        };
        search(start_qps, &objectives, run, |_| ()).unwrap()
    }

    #[test]
    fn the_limit_of_the_server_is_found_from_below_and_from_above() {
        for start_qps in [1_000.0, 50_000.0, 800_000.0] {
            let found = find(123_456.0, 1e9, start_qps);
            let best_qps = found.best_qps.unwrap();
            assert!((0.96..=1.0).contains(&(best_qps / 123_456.0)), "{best_qps}");
            assert_eq!(found.limit, Limit::Server);
            assert_eq!(found.trials.iter().filter(|trial| trial.is_confirmation).count(), 3);
            assert!(found.trials.len() < 32, "{}", found.trials.len());
        }
    }

    #[test]
    fn a_generator_that_gives_up_first_is_told() {
        let found = find(1e9, 200_000.0, 10_000.0);
        assert_eq!(found.limit, Limit::Generator);
        assert!(found.best_qps.unwrap() <= 200_000.0);
    }

    #[test]
    fn a_moment_of_noise_is_forgiven() {
        let objectives = Objective::parse_all("p99<1ms").unwrap();
        let mut trial = 0;
        let run = |rate_qps: f64| {
            trial += 1;
            let mut outcome = Outcome { end: RunEnd::TimeLimit, ..Outcome::nothing() };
            // Each third trial meets a busy machine; beyond 100,000 a second nothing holds.
            let latency_ns = if rate_qps > 100_000.0 || trial % 3 == 0 { 10_000_000 } else { 100_000 };
            outcome.tally.response.record(latency_ns);
            Ok((RunSettings::new("127.0.0.1:53".parse().unwrap()).at_rate(rate_qps), outcome))
        };
        let found = search(1_000.0, &objectives, run, |_| ()).unwrap();
        assert!(found.best_qps.is_some_and(|best_qps| best_qps > 90_000.0), "{:?}", found.best_qps);
        assert_eq!(found.limit, Limit::Server);
    }

    #[test]
    fn a_server_that_never_holds_has_no_rate() {
        let found = find(0.5, 1e9, 1_000.0);
        assert_eq!((found.best_qps, found.limit), (None, Limit::Server));
    }
}
