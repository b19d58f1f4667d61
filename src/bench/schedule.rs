//! The schedule of an open-loop run: when each query is due, whatever the server does.
//!
//! Pure: it is told the time and never looks at a clock. Each sending thread owns one.
//!
//! Arrivals are counted in queries since the start, and a rate curve turns a count into a time: query `s` is due when
//! the curve has reached `s`. At a constant rate that is `s / rate`; on a ramp it is where the area under the line is
//! `s`. Constant arrivals are the whole numbers, of which thread `k` of `n` has those that are `k` modulo `n`: together
//! they keep the exact rate, evenly spaced. Poisson arrivals are the sums of exponentially distributed steps, of mean
//! `n` in each of `n` threads: together they are a Poisson process of the whole rate.
//!
//! A sender that was held up finds all that it missed still due, each query with its own time: were the schedule moved
//! instead, an overloaded server would slow the load down and so hide its overload (coordinated omission).

use std::time::Duration;

const NS_PER_S: f64 = 1e9;

/// How many queries a second, over the time of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// The same all the time.
    Constant {
        /// Queries a second.
        qps: f64,
    },
    /// From one rate to another in a straight line, and on at the latter.
    Ramp {
        /// Queries a second at the start.
        from_qps: f64,
        /// Queries a second at the end of the ramp.
        to_qps: f64,
        /// How long that takes.
        over: Duration,
    },
}

impl Rate {
    /// The rate at a time after the start.
    #[must_use]
    pub fn qps_at(&self, after: Duration) -> f64 {
        match *self {
            Self::Constant { qps } => qps,
            Self::Ramp { from_qps, to_qps, over } => {
                let part = (after.as_secs_f64() / over.as_secs_f64()).min(1.0);
                from_qps + (to_qps - from_qps) * part
            }
        }
    }

    /// When `count` queries are due to have been sent.
    fn time_ns(&self, count: f64) -> u64 {
        let time_s = match *self {
            Self::Constant { qps } => count / qps,
            Self::Ramp { from_qps, to_qps, over } => {
                let over_s = over.as_secs_f64();
                let on_ramp = (from_qps + to_qps) / 2.0 * over_s;
                if count >= on_ramp {
                    over_s + (count - on_ramp) / to_qps
                } else {
                    // from t + slope t² / 2 = count, in the form that does not subtract nearly equal numbers.
                    let slope = (to_qps - from_qps) / over_s;
                    2.0 * count / (from_qps + (from_qps * from_qps + 2.0 * slope * count).max(0.0).sqrt())
                }
            }
        };
        nanoseconds(time_s)
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
fn nanoseconds(time_s: f64) -> u64 {
    (time_s * NS_PER_S).ceil() as u64
}

/// How queries are spaced around the rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arrivals {
    /// Evenly.
    #[default]
    Constant,
    /// As those of very many clients that know nothing of each other: a Poisson process.
    Poisson,
}

/// When queries are due.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// At a rate.
    Rate(Rate, Arrivals),
    /// Each at its own time after the start of the pass through the queries; a pass takes `pass_ns`.
    Recorded {
        /// The times, by query, in nanoseconds, ascending.
        at_ns: std::sync::Arc<[u64]>,
        /// How long a pass takes.
        pass_ns: u64,
    },
}

/// One thread's share of the schedule.
#[derive(Debug)]
pub(crate) struct Schedule {
    plan: Plan,
    step: f64,
    random: fastrand::Rng,
    /// The count of the next query, on the scale of all threads; of a recorded plan the number of the next query.
    next: f64,
    number: u64,
    next_due_ns: u64,
}

impl Schedule {
    /// The share of thread number `thread` of `threads`. Equal seeds give equal schedules.
    pub(crate) fn new(plan: Plan, thread: u32, threads: u32, seed: u64) -> Self {
        assert!(thread < threads);
        let random = fastrand::Rng::with_seed(seed.wrapping_add(u64::from(thread)));
        let next = f64::from(thread);
        let mut schedule = Self { plan, step: f64::from(threads), random, next, number: 0, next_due_ns: 0 };
        if matches!(schedule.plan, Plan::Rate(_, Arrivals::Poisson)) {
            schedule.next = 0.0;
            schedule.advance();
        }
        schedule.next_due_ns = schedule.due_ns();
        schedule
    }

    /// When the next query is due, in nanoseconds after the start; in the past if the sender is late.
    pub(crate) fn next_due_ns(&self) -> u64 {
        self.next_due_ns
    }

    /// Writes the times of queries due at `now_ns` to `due_ns`, from the first that has not been issued, and returns
    /// how many there are, at most as many as fit. They remain due until they are [issued](Self::issue).
    #[inline]
    pub(crate) fn due(&mut self, now_ns: u64, due_ns: &mut [u64]) -> usize {
        if now_ns < self.next_due_ns || due_ns.is_empty() {
            return 0;
        }
        let before = (self.next, self.number, self.random.clone());
        let mut count = 0;
        let mut at_ns = self.next_due_ns;
        while count < due_ns.len() && at_ns <= now_ns {
            due_ns[count] = at_ns;
            count += 1;
            self.advance();
            at_ns = self.due_ns();
        }
        (self.next, self.number, self.random) = before;
        count
    }

    /// The first `count` of the due queries have been sent.
    pub(crate) fn issue(&mut self, count: usize) {
        (0..count).for_each(|_| self.advance());
        self.next_due_ns = self.due_ns();
    }

    fn advance(&mut self) {
        match self.plan {
            Plan::Rate(_, Arrivals::Constant) => self.next += self.step,
            // 1 - f is in (0, 1], of which there is a logarithm.
            Plan::Rate(_, Arrivals::Poisson) => self.next -= (1.0 - self.random.f64()).ln() * self.step,
            Plan::Recorded { .. } => self.number += 1,
        }
    }

    fn due_ns(&self) -> u64 {
        match &self.plan {
            Plan::Rate(rate, _) => rate.time_ns(self.next),
            Plan::Recorded { at_ns, pass_ns } => {
                let len = at_ns.len() as u64;
                let within = usize::try_from(self.number % len).unwrap_or(0);
                (self.number / len).saturating_mul(*pass_ns).saturating_add(at_ns[within])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn constant(qps: f64) -> Plan {
        Plan::Rate(Rate::Constant { qps }, Arrivals::Constant)
    }

    /// All that is due at `now_ns`, issued.
    fn drain(schedule: &mut Schedule, now_ns: u64) -> Vec<u64> {
        let mut all = Vec::new();
        let mut due_ns = [0; 64];
        loop {
            let count = schedule.due(now_ns, &mut due_ns);
            all.extend_from_slice(&due_ns[..count]);
            schedule.issue(count);
            if count == 0 {
                return all;
            }
        }
    }

    #[test]
    fn the_first_query_is_due_at_once_and_the_others_evenly_after_it() {
        let mut schedule = Schedule::new(constant(1_000.0), 0, 1, 0);
        assert_eq!(drain(&mut schedule, 0), [0]);
        assert_eq!(schedule.next_due_ns(), 1_000_000);
        assert!(drain(&mut schedule, 999_999).is_empty());
        assert_eq!(drain(&mut schedule, 1_000_000), [1_000_000]);
    }

    #[test]
    fn what_was_missed_stays_due_with_its_own_time() {
        let mut schedule = Schedule::new(constant(100.0), 0, 1, 0);
        let missed = drain(&mut schedule, 1_000_000_000);
        assert!(missed.into_iter().eq((0..=100).map(|i| i * 10_000_000)));
    }

    #[test]
    fn what_was_not_issued_is_due_again_at_the_same_times() {
        let mut schedule = Schedule::new(Plan::Rate(Rate::Constant { qps: 1e5 }, Arrivals::Poisson), 0, 1, 7);
        let (mut first, mut again) = ([0; 64], [0; 64]);
        assert_eq!(schedule.due(10_000_000, &mut first), 64);
        schedule.issue(10);
        assert_eq!(schedule.due(10_000_000, &mut again), 64);
        assert_eq!(first[10..], again[..54]);
    }

    #[test]
    fn a_ramp_has_the_area_under_its_line() {
        let rate = Rate::Ramp { from_qps: 100.0, to_qps: 300.0, over: Duration::from_secs(10) };
        let mut schedule = Schedule::new(Plan::Rate(rate, Arrivals::Constant), 0, 1, 0);
        // After 5 s: 5 s of 100 a second and half of 5 s of 100 more; after the ramp 300 a second.
        assert_eq!(drain(&mut schedule, 5_000_000_000).len(), 750 + 1);
        assert_eq!(drain(&mut schedule, 10_000_000_000).len(), 1_250);
        assert_eq!(drain(&mut schedule, 12_000_000_000).len(), 600);
        assert_eq!(rate.qps_at(Duration::from_secs(5)), 200.0);
        let down = Rate::Ramp { from_qps: 300.0, to_qps: 100.0, over: Duration::from_secs(10) };
        let mut schedule = Schedule::new(Plan::Rate(down, Arrivals::Constant), 0, 1, 0);
        assert_eq!(drain(&mut schedule, 5_000_000_000).len(), 1_250 + 1);
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_the_spread_of_a_poisson_process() {
        let plan = Plan::Rate(Rate::Constant { qps: 50_000.0 }, Arrivals::Poisson);
        for threads in [1, 3] {
            let mut at_ns: Vec<_> = (0..threads)
                .flat_map(|thread| {
                    drain(&mut Schedule::new(plan.clone(), thread, threads, 42), 4_000_000_000)
                })
                .collect();
            at_ns.sort_unstable();
            let count = at_ns.len() as f64;
            assert!((count - 200_000.0).abs() < 5.0 * 200_000f64.sqrt(), "{count}");
            let gaps_ns: Vec<_> = at_ns.windows(2).map(|pair| (pair[1] - pair[0]) as f64).collect();
            let mean_ns = gaps_ns.iter().sum::<f64>() / gaps_ns.len() as f64;
            let variance =
                gaps_ns.iter().map(|gap| (gap - mean_ns).powi(2)).sum::<f64>() / gaps_ns.len() as f64;
            // Of an exponential distribution the deviation is the mean.
            assert!((variance.sqrt() / mean_ns - 1.0).abs() < 0.02, "{}", variance.sqrt() / mean_ns);
        }
    }

    #[test]
    fn recorded_times_are_kept_pass_after_pass() {
        let plan = Plan::Recorded { at_ns: [0, 5, 5, 90].into(), pass_ns: 100 };
        let mut schedule = Schedule::new(plan, 0, 1, 0);
        assert_eq!(drain(&mut schedule, 104), [0, 5, 5, 90, 100]);
        assert_eq!(schedule.next_due_ns(), 105);
    }

    proptest! {
        #[test]
        fn threads_together_keep_the_whole_schedule(
            qps in 1..2_000_000u32, threads in 1..9u32, now_ns in 0..1u64 << 24,
        ) {
            let due: usize = (0..threads)
                .map(|thread| drain(&mut Schedule::new(constant(f64::from(qps)), thread, threads, 0), now_ns).len())
                .sum();
            let exact = now_ns as f64 * f64::from(qps) / NS_PER_S + 1.0;
            prop_assert!((due as f64 - exact.floor()).abs() <= 1.0, "{due} and not {exact}");
        }

        #[test]
        fn a_query_is_due_from_its_time_on_and_not_before(
            qps in 1..2_000_000u32, issued in 0..1_000usize, poisson: bool,
        ) {
            let arrivals = if poisson { Arrivals::Poisson } else { Arrivals::Constant };
            let plan = Plan::Rate(Rate::Constant { qps: f64::from(qps) }, arrivals);
            let mut schedule = Schedule::new(plan, 1, 4, 1);
            schedule.issue(issued);
            let next_ns = schedule.next_due_ns();
            prop_assert!(schedule.due(next_ns, &mut [0; 1]) == 1);
            prop_assert!(next_ns == 0 || schedule.due(next_ns - 1, &mut [0; 1]) == 0);
        }
    }
}
