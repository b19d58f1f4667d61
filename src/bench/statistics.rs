//! The statistics of comparisons: a bootstrap interval, and a chi-squared test.
//!
//! Pure. Random numbers have a fixed seed: equal samples give equal intervals.

use fastrand::Rng;

/// Times that the samples are drawn anew.
const RESAMPLES: usize = 10_000;

/// An estimate, and an interval that holds the truth with 95% confidence as far as the samples can tell.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The median of the samples.
    pub median: f64,
    /// Where the interval begins.
    pub low: f64,
    /// Where it ends.
    pub high: f64,
}

/// The median of `samples`, with its bootstrap interval: of so many medians of as many samples drawn with replacement,
/// the middle 95%.
///
/// # Panics
/// If there are no samples.
#[must_use]
pub fn bootstrap_median(samples: &[f64]) -> Estimate {
    assert!(!samples.is_empty(), "nothing has no median");
    let mut random = Rng::with_seed(1);
    let mut drawn = vec![0.0; samples.len()];
    let mut medians: Vec<_> = (0..RESAMPLES)
        .map(|_| {
            drawn.iter_mut().for_each(|value| *value = samples[random.usize(..samples.len())]);
            median(&mut drawn)
        })
        .collect();
    medians.sort_by(f64::total_cmp);
    let mut all = samples.to_vec();
    Estimate {
        median: median(&mut all),
        low: medians[RESAMPLES / 40],
        high: medians[RESAMPLES - 1 - RESAMPLES / 40],
    }
}

/// The value in the middle, or between the two that are there.
///
/// # Panics
/// If there are none.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len().is_multiple_of(2) {
        f64::midpoint(values[middle - 1], values[middle])
    } else {
        values[middle]
    }
}

/// A test of whether counts are evenly spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChiSquared {
    /// The statistic.
    pub value: f64,
    /// Degrees of freedom.
    pub degrees: u64,
    /// How probable a value as high or higher is, if they are evenly spread.
    pub p: f64,
}

/// Tests whether in each group of counts all are alike but for chance. Groups with fewer than five expected in a place
/// are left out. None if nothing is left.
#[must_use]
pub fn evenness<'a>(groups: impl IntoIterator<Item = &'a [u64]>) -> Option<ChiSquared> {
    let (mut value, mut degrees) = (0.0, 0);
    for counts in groups {
        let expected = counts.iter().sum::<u64>() as f64 / counts.len() as f64;
        if counts.len() < 2 || expected < 5.0 {
            continue;
        }
        value += counts.iter().map(|&count| (count as f64 - expected).powi(2) / expected).sum::<f64>();
        degrees += counts.len() as u64 - 1;
    }
    // The probability is the upper tail of a gamma distribution with half the degrees.
    let p = || statrs::function::gamma::checked_gamma_ur(degrees as f64 / 2.0, value / 2.0).unwrap_or(1.0);
    (degrees > 0).then(|| ChiSquared { value, degrees, p: if value == 0.0 { 1.0 } else { p() } })
}

/// Tests whether `counts` fit the shares that are expected of them (Pearson's test). Places of which fewer than five
/// are expected are left out; none if fewer than two are left.
#[must_use]
pub fn fit(counts: &[u64], shares: &[f64]) -> Option<ChiSquared> {
    let sum = counts.iter().sum::<u64>() as f64;
    let (mut value, mut places) = (0.0, 0u64);
    for (&count, share) in counts.iter().zip(shares) {
        let expected = sum * share;
        if expected < 5.0 {
            // What is not expected at all and comes all the same cannot be by chance.
            value += if count > 5 && *share == 0.0 { f64::INFINITY } else { 0.0 };
            continue;
        }
        value += (count as f64 - expected).powi(2) / expected;
        places += 1;
    }
    let degrees = places.checked_sub(1).filter(|&degrees| degrees > 0)?;
    let p = statrs::function::gamma::checked_gamma_ur(degrees as f64 / 2.0, value / 2.0).unwrap_or(0.0);
    Some(ChiSquared { value, degrees, p: if value == 0.0 { 1.0 } else { p } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_samples() {
        let mut random = Rng::with_seed(7);
        let mut noisy = |count: usize| -> Vec<_> { (0..count).map(|_| 0.9 + 0.2 * random.f64()).collect() };
        let (few, many) = (bootstrap_median(&noisy(9)), bootstrap_median(&noisy(400)));
        for estimate in [few, many] {
            assert!(estimate.low <= estimate.median && estimate.median <= estimate.high);
        }
        assert!((many.median - 1.0).abs() < 0.03);
        assert!(many.high - many.low < few.high - few.low);
        assert_eq!(bootstrap_median(&[2.0]), Estimate { median: 2.0, low: 2.0, high: 2.0 });
        assert_eq!(bootstrap_median(&[1.0, 2.0]).median, 1.5);
    }

    #[test]
    fn evenness_is_that_of_the_tables() {
        // 44, 56 of 100: 1.44 with one degree of freedom, p = 0.2301; twice that with two: 2.88, p = 0.2369.
        let one = evenness([&[44, 56][..]]).unwrap();
        assert!(
            (one.value - 1.44).abs() < 1e-9 && one.degrees == 1 && (one.p - 0.2301).abs() < 1e-4,
            "{one:?}"
        );
        let two = evenness([&[44, 56][..], &[56, 44]]).unwrap();
        assert!(two.degrees == 2 && (two.p - 0.2369).abs() < 1e-4, "{two:?}");
        assert!(evenness([&[900, 100][..]]).unwrap().p < 1e-9);
        assert_eq!(evenness([&[50, 50][..]]).unwrap().p, 1.0);
        assert_eq!(evenness([&[2, 3][..], &[100]]), None);
    }

    #[test]
    fn counts_fit_the_shares_that_they_were_drawn_by() {
        let exact = fit(&[100, 200, 700], &[0.1, 0.2, 0.7]).unwrap();
        assert_eq!((exact.value, exact.degrees, exact.p), (0.0, 2, 1.0));
        // From a table: 5.991 is exceeded in one case of twenty with two degrees of freedom.
        let off = fit(&[100, 200, 300], &[0.2, 0.3, 0.5]).unwrap();
        assert!((off.value - (400.0 / 120.0 + 400.0 / 180.0)).abs() < 1e-9);
        assert!((off.p - (-off.value / 2.0).exp()).abs() < 1e-9, "with two degrees it is an exponential");
        assert_eq!(fit(&[10], &[1.0]), None);
        assert_eq!(fit(&[2, 3], &[0.5, 0.5]), None, "too few to tell");
        assert!(fit(&[500, 500, 20], &[0.5, 0.5, 0.0]).unwrap().p < 1e-9);
    }
}
