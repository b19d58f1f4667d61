//! Counts that one thread writes and anyone may read at any time: plain stores, not atomic additions, which would cost
//! the writer more.
//!
//! Written on the workers, each its own: `answer::metrics` and `resolver::meter`, whose tests say what comes of their
//! times.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Adds to a counter. Only the thread that it belongs to may call this.
#[inline]
pub fn add(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
}

/// How long something took each time: the sum, and how often it was less than `SHORTEST_NS`, or than twice that, and so
/// on. The last bucket is for all that is longer.
pub struct DurationHistogram<const SHORTEST_NS: u64, const BUCKETS: usize> {
    sum_ns: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl<const SHORTEST_NS: u64, const BUCKETS: usize> Default for DurationHistogram<SHORTEST_NS, BUCKETS> {
    fn default() -> Self {
        Self { sum_ns: AtomicU64::new(0), buckets: std::array::from_fn(|_| AtomicU64::new(0)) }
    }
}

impl<const SHORTEST_NS: u64, const BUCKETS: usize> DurationHistogram<SHORTEST_NS, BUCKETS> {
    /// Counts one time. Only the thread that they belong to may call this.
    pub fn count(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let bucket = (ns / SHORTEST_NS).checked_ilog2().map_or(0, |log| log as usize + 1);
        add(&self.buckets[bucket.min(BUCKETS - 1)], 1);
        add(&self.sum_ns, ns);
    }

    /// All together, and how many were below how long; below nothing for the last.
    pub fn read(&self) -> (Duration, impl Iterator<Item = (Option<Duration>, u64)>) {
        let bucket = |(i, count): (usize, &AtomicU64)| {
            let below = (i + 1 < BUCKETS).then(|| Duration::from_nanos(SHORTEST_NS << i));
            (below, count.load(Ordering::Relaxed))
        };
        let sum = Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed));
        (sum, self.buckets.iter().enumerate().map(bucket))
    }
}
