//! How long something took, as it was counted: in the status of a node, and of each upstream.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long something took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// How often it was timed.
    pub count: u64,
    /// All times together.
    pub sum_s: f64,
    /// How often it took how long.
    pub buckets: Vec<TimingBucket>,
}

impl Timing {
    /// Times as they were counted: all together, and how many took up to how long.
    #[must_use]
    pub fn new(sum: Duration, buckets: impl Iterator<Item = (Option<Duration>, u64)>) -> Self {
        let bucket = |(up_to, count): (Option<Duration>, u64)| {
            let up_to_s = up_to.map(|up_to| up_to.as_secs_f64());
            TimingBucket { up_to_s, count }
        };
        let buckets: Vec<_> = buckets.map(bucket).collect();
        let count = buckets.iter().map(|bucket| bucket.count).sum();
        Self { count, sum_s: sum.as_secs_f64(), buckets }
    }

    /// The mean, in seconds; none without times.
    #[must_use]
    #[allow(clippy::cast_precision_loss)] // of more than 2^53 a few do not matter
    pub fn mean_s(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum_s / self.count as f64)
    }

    /// The time, in seconds, that so many of a hundred did not exceed, as far as the buckets tell: the end of one. None
    /// without times, or where it is beyond the last bucket's begin.
    #[must_use]
    pub fn within_s(&self, percent: u64) -> Option<f64> {
        let mut left = (self.count * percent).div_ceil(100).max(1);
        for TimingBucket { up_to_s, count } in &self.buckets {
            if *count >= left {
                return *up_to_s;
            }
            left -= count;
        }
        None
    }
}

/// Times that are near each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TimingBucket {
    /// The longest of them; the last bucket has no end.
    pub up_to_s: Option<f64>,
    /// How many.
    pub count: u64,
}
