//! Latency statistics: percentiles from an HDR histogram; least, greatest, mean and standard deviation exactly.
//!
//! Each sending thread records into its own and the main thread merges them. Within a run the unit is the nanosecond;
//! summaries speak in microseconds.
//!
//! A query that was not answered has a latency, too: more than the time that was waited for it. It is a *censored*
//! sample. Left out, the slowest queries would be missing from the percentiles; so it is in them, as a lower bound. The
//! mean and the standard deviation are those of the answers alone, as dnsperf's are.

use hdrhistogram::Histogram;

/// Longest latency that the percentiles tell apart; longer ones count as this (minimum, maximum, mean and deviation
/// stay exact). More than any sensible timeout, and the table of a histogram still takes under 300 KiB.
const HIGHEST_NS: u64 = 3_600_000_000_000;

/// Significant decimal digits of percentiles: within 0.1% of the truth.
const DIGITS: u8 = 3;

/// Latencies of one kind of query.
#[derive(Clone)]
pub struct Latencies {
    /// Of all, answered or not.
    histogram: Histogram<u64>,
    answered: u64,
    min_ns: u64,
    max_ns: u64,
    sum_ns: u128,
    /// Wide enough for 10^18 answers of 10 seconds each.
    sum_of_squares: u128,
    /// Of those not answered: the longest time that was waited, and how many waited up to each power of two.
    most_censored_ns: u64,
    censored_by_power: [u64; POWERS],
}

/// Powers of two that times are told apart by: up to some 39 hours.
const POWERS: usize = 48;

/// A percentile is a lower bound if among all at or below it there are unanswered ones, more than this part of those
/// above it: they may belong there.
const DOUBTFUL_SHARE: f64 = 0.1;

/// The percentiles that are told.
const TOLD: [f64; 6] = [0.5, 0.9, 0.99, 0.999, 0.9999, 1.0];

/// Statistics of [`Latencies`] in microseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The least of the answers.
    pub min_us: f64,
    /// The mean of the answers.
    pub mean_us: f64,
    /// The sample standard deviation of the answers, which a single one does not have.
    pub stddev_us: Option<f64>,
    /// The median of all.
    pub p50_us: f64,
    /// The 90th percentile of all.
    pub p90_us: f64,
    /// The 99th percentile of all.
    pub p99_us: f64,
    /// The 99.9th percentile of all.
    pub p99_9_us: f64,
    /// The 99.99th percentile of all.
    pub p99_99_us: f64,
    /// The greatest of the answers.
    pub max_us: f64,
    /// The greatest of all.
    pub worst_us: f64,
    /// How many were not answered.
    pub censored: u64,
    /// From here on percentiles are lower bounds, because some were not answered.
    pub bounds_from_us: Option<f64>,
}

impl Summary {
    /// Whether a value among the percentiles is only known to be at least that.
    #[must_use]
    pub fn is_bound(&self, value_us: f64) -> bool {
        self.bounds_from_us.is_some_and(|from_us| value_us >= from_us)
    }
}

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, HIGHEST_NS, DIGITS).expect("the bounds are in order");
        Self {
            histogram,
            answered: 0,
            min_ns: u64::MAX,
            max_ns: 0,
            sum_ns: 0,
            sum_of_squares: 0,
            most_censored_ns: 0,
            censored_by_power: [0; POWERS],
        }
    }
}

impl Latencies {
    /// Adds that of an answer.
    #[inline]
    pub fn record(&mut self, latency_ns: u64) {
        self.histogram.saturating_record(latency_ns);
        self.answered += 1;
        self.min_ns = self.min_ns.min(latency_ns);
        self.max_ns = self.max_ns.max(latency_ns);
        self.sum_ns += u128::from(latency_ns);
        self.sum_of_squares += u128::from(latency_ns) * u128::from(latency_ns);
    }

    /// Adds one that was not answered while it was waited for, so long.
    pub fn censor(&mut self, waited_ns: u64) {
        self.histogram.saturating_record(waited_ns);
        self.censored_by_power[power(waited_ns)] += 1;
        self.most_censored_ns = self.most_censored_ns.max(waited_ns);
    }

    /// Adds all of `other`.
    ///
    /// # Panics
    /// Never: all histograms have the same bounds.
    pub fn merge(&mut self, other: &Self) {
        if other.is_empty() {
            return;
        }
        self.histogram.add(&other.histogram).expect("all histograms have the same bounds");
        self.answered += other.answered;
        self.min_ns = self.min_ns.min(other.min_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
        self.sum_ns += other.sum_ns;
        self.sum_of_squares += other.sum_of_squares;
        self.most_censored_ns = self.most_censored_ns.max(other.most_censored_ns);
        for (sum, part) in self.censored_by_power.iter_mut().zip(other.censored_by_power) {
            *sum += part;
        }
    }

    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        if self.is_empty() {
            return;
        }
        self.histogram.reset();
        (self.answered, self.sum_ns, self.sum_of_squares) = (0, 0, 0);
        (self.min_ns, self.max_ns) = (u64::MAX, 0);
        (self.most_censored_ns, self.censored_by_power) = (0, [0; POWERS]);
    }

    /// How many were answered.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.answered
    }

    /// How many were not.
    #[must_use]
    pub fn censored(&self) -> u64 {
        self.histogram.len() - self.answered
    }

    /// Whether there are none, answered or not.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.histogram.is_empty()
    }

    /// All of them, in nanoseconds.
    #[must_use]
    pub fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// From this value on percentiles are lower bounds, since enough was not answered; none if there is no such.
    #[must_use]
    pub fn bounds_from_us(&self) -> Option<f64> {
        if self.censored() == 0 {
            return None;
        }
        let all = self.histogram.len() as f64;
        TOLD.into_iter().find_map(|quantile| {
            let value_us = self.quantile_us(quantile);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // it was an integer
            let value_ns = (value_us * 1e3) as u64;
            let below: u64 = self.censored_by_power[..=power(value_ns)].iter().sum();
            (below as f64 > DOUBTFUL_SHARE * (1.0 - quantile) * all).then_some(value_us)
        })
    }

    /// The value that so many of all are at or below, in microseconds.
    #[must_use]
    pub fn quantile_us(&self, quantile: f64) -> f64 {
        // A bucket speaks by its upper end, which may lie above the greatest value in it.
        let greatest_ns = self.max_ns.max(self.most_censored_ns);
        self.histogram.value_at_quantile(quantile).min(greatest_ns) as f64 / 1e3
    }

    /// Their statistics; `None` when none was answered.
    #[must_use]
    pub fn summary(&self) -> Option<Summary> {
        if self.answered == 0 {
            return None;
        }
        Some(Summary {
            min_us: self.min_ns as f64 / 1e3,
            mean_us: self.sum_ns as f64 / self.answered as f64 / 1e3,
            stddev_us: self.stddev_ns().map(|stddev_ns| stddev_ns / 1e3),
            p50_us: self.quantile_us(0.5),
            p90_us: self.quantile_us(0.9),
            p99_us: self.quantile_us(0.99),
            p99_9_us: self.quantile_us(0.999),
            p99_99_us: self.quantile_us(0.9999),
            max_us: self.max_ns as f64 / 1e3,
            worst_us: self.max_ns.max(self.most_censored_ns) as f64 / 1e3,
            censored: self.censored(),
            bounds_from_us: self.bounds_from_us(),
        })
    }

    /// Sample standard deviation, as dnsperf computes it.
    fn stddev_ns(&self) -> Option<f64> {
        let count = self.answered as f64;
        if count < 2.0 {
            return None;
        }
        // n Σx² - (Σx)² in integers while they are wide enough: the two terms nearly cancel, and floating point would
        // keep only what is left of its 53 bits. Past that there are so many samples that it does not show.
        let exact = (|| {
            let squares = u128::from(self.answered).checked_mul(self.sum_of_squares)?;
            squares.checked_sub(self.sum_ns.checked_mul(self.sum_ns)?)
        })();
        let scaled = exact.map_or_else(
            || count * self.sum_of_squares as f64 - (self.sum_ns as f64).powi(2),
            |difference| difference as f64,
        );
        Some((scaled.max(0.0) / count / (count - 1.0)).sqrt())
    }
}

fn power(value_ns: u64) -> usize {
    (value_ns.max(1).ilog2() as usize).min(POWERS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values_ns: impl IntoIterator<Item = u64>) -> Latencies {
        let mut latencies = Latencies::default();
        values_ns.into_iter().for_each(|value_ns| latencies.record(value_ns));
        latencies
    }

    #[test]
    fn nothing_recorded_has_no_statistics() {
        assert_eq!(Latencies::default().summary(), None);
    }

    #[test]
    fn a_single_latency_is_all_of_its_percentiles() {
        let summary = of([123_456]).summary().unwrap();
        assert_eq!((summary.min_us, summary.mean_us, summary.max_us), (123.456, 123.456, 123.456));
        assert_eq!((summary.stddev_us, summary.p50_us, summary.p99_99_us), (None, 123.456, 123.456));
    }

    #[test]
    fn statistics_are_those_of_the_textbook() {
        let summary = of([2_000, 4_000, 4_000, 4_000, 5_000, 5_000, 7_000, 9_000]).summary().unwrap();
        assert_eq!((summary.min_us, summary.mean_us, summary.max_us), (2.0, 5.0, 9.0));
        assert!((summary.stddev_us.unwrap() - (32.0f64 / 7.0).sqrt()).abs() < 1e-9);
        let summary = of((1..=100_000).map(|i| i * 1_000)).summary().unwrap();
        let percentiles = [
            (summary.p50_us, 50_000.0),
            (summary.p90_us, 90_000.0),
            (summary.p99_us, 99_000.0),
            (summary.p99_9_us, 99_900.0),
            (summary.p99_99_us, 99_990.0),
        ];
        for (measured, expected) in percentiles {
            assert!((measured / expected - 1.0).abs() < 1e-3, "{measured} instead of {expected}");
        }
    }

    #[test]
    fn the_deviation_of_latencies_far_from_zero_is_not_lost_in_rounding() {
        let base_ns = 4_000_000_000;
        let summary = of((0..1_000_000).map(|i| base_ns + i % 2)).summary().unwrap();
        assert!((summary.stddev_us.unwrap() - 0.000_5).abs() < 1e-8, "{summary:?}");
    }

    #[test]
    fn merging_is_recording_everything_in_one() {
        let mut merged = of(1..500);
        merged.merge(&of(500..1_000));
        merged.merge(&Latencies::default());
        assert_eq!(merged.summary(), of(1..1_000).summary());
        assert_eq!(merged.count(), 999);
    }

    #[test]
    fn what_was_not_answered_is_in_the_percentiles_as_a_bound_and_not_in_the_mean() {
        let mut latencies = of((1..=90).map(|i| i * 1_000));
        (0..10).for_each(|_| latencies.censor(5_000_000));
        let summary = latencies.summary().unwrap();
        assert_eq!((latencies.count(), latencies.censored(), summary.censored), (90, 10, 10));
        assert_eq!((summary.mean_us, summary.max_us, summary.worst_us), (45.5, 90.0, 5_000.0));
        assert_eq!((summary.p50_us.round(), summary.p99_us), (50.0, 5_000.0));
        assert!(summary.is_bound(summary.p99_us) && !summary.is_bound(summary.p90_us));
        // One that was still waited for when the run ended says next to nothing; of few that were lost all but the
        // last percentiles are known.
        let mut short = of((1..=9_999).map(|i| i * 1_000));
        short.censor(500);
        let summary = short.summary().unwrap();
        assert!(!summary.is_bound(summary.p99_9_us) && summary.is_bound(summary.worst_us), "{summary:?}");
        latencies.clear();
        assert!(latencies.is_empty() && latencies.summary().is_none());
        latencies.record(3_000);
        assert_eq!(latencies.summary(), of([3_000]).summary());
    }

    #[test]
    fn latencies_beyond_the_histogram_still_count() {
        let summary = of([HIGHEST_NS * 4]).summary().unwrap();
        assert_eq!(summary.max_us, HIGHEST_NS as f64 * 4.0 / 1e3);
    }
}
