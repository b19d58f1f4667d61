//! What a worker counts of one upstream. Each worker writes its own, anyone may read them at any time.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::sys::counter::{self, add};

/// What is counted, each with its name for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Count {
    /// Queries sent.
    Sent,
    /// Answers that came, whatever they said.
    Answered,
    /// Queries that were not answered in time.
    TimedOut,
    /// Answers that said that it could not answer, or could not be read.
    Declined,
    /// Answers that did not fit in a datagram.
    Truncated,
    /// Messages that answered nothing that was asked: late, or forged.
    Mismatched,
}

impl Count {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Sent, Self::Answered, Self::TimedOut, Self::Declined, Self::Truncated, Self::Mismatched];

    /// Its name in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Answered => "answered",
            Self::TimedOut => "timed_out",
            Self::Declined => "declined",
            Self::Truncated => "truncated",
            Self::Mismatched => "mismatched",
        }
    }
}

/// RoundTrips that are told apart, with a last one for what is longer.
pub const BUCKETS: usize = 18;

/// From 64 us on, to 4 s.
type RoundTrips = counter::DurationHistogram<64_000, BUCKETS>;

/// The counts of one worker of one upstream: plain stores of a single writer.
#[derive(Default)]
pub struct Meter {
    inner: CachePadded<Inner>,
}

#[derive(Default)]
struct Inner {
    counts: [AtomicU64; Count::ALL.len()],
    times: RoundTrips,
    is_down: AtomicBool,
    /// Written when a connection ends, never for a packet.
    fault: Mutex<Option<Box<str>>>,
}

impl Meter {
    /// Counts one. Only the worker that owns the meter may call this, as all that follows.
    pub fn count(&self, count: Count) {
        add(&self.inner.counts[count as usize], 1);
    }

    /// Counts an answer that took so long.
    pub fn time(&self, took: Duration) {
        self.inner.times.count(took);
        self.count(Count::Answered);
    }

    /// Notes whether the upstream is believed to answer.
    pub fn set_down(&self, is_down: bool) {
        self.inner.is_down.store(is_down, Ordering::Relaxed);
    }

    /// Notes why the last connection to it has failed, or that one is well again. Returns whether that is news.
    pub fn set_fault(&self, why: Option<&str>) -> bool {
        let mut fault = self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = fault.as_deref() != why;
        if is_news {
            *fault = why.map(Into::into);
        }
        is_news
    }

    /// Why the last connection to it has failed, over TCP or TLS; nothing if it has not, or another has brought answers
    /// since.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fault = self.inner.fault.lock().unwrap_or_else(PoisonError::into_inner);
        fault.as_deref().map(Into::into)
    }

    /// How often it was counted.
    #[must_use]
    pub fn get(&self, count: Count) -> u64 {
        self.inner.counts[count as usize].load(Ordering::Relaxed)
    }

    /// Whether the upstream is believed not to answer.
    #[must_use]
    pub fn is_down(&self) -> bool {
        self.inner.is_down.load(Ordering::Relaxed)
    }

    /// How long the answers took: all together, and how many took less than how long.
    pub fn times(&self) -> (Duration, impl Iterator<Item = (Option<Duration>, u64)>) {
        self.inner.times.read()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_by_how_long_they_are() {
        let meter = Meter::default();
        for us in [0, 63, 64, 127, 128, 100_000_000] {
            meter.time(Duration::from_micros(us));
        }
        let (sum, buckets) = meter.times();
        let buckets: Vec<_> = buckets.collect();
        assert_eq!((sum.as_micros(), meter.get(Count::Answered)), (100_000_382, 6));
        let first = [64, 128, 256].map(|us| Some(Duration::from_micros(us)));
        assert_eq!(buckets[..3], [(first[0], 2), (first[1], 2), (first[2], 1)]);
        assert_eq!(buckets.last(), Some(&(None, 1)));
    }

    #[test]
    fn a_fault_is_news_once_and_gone_when_it_is_well() {
        let meter = Meter::default();
        assert_eq!((meter.set_fault(Some("refused")), meter.set_fault(Some("refused"))), (true, false));
        assert_eq!(meter.fault().as_deref(), Some("refused"));
        assert!(meter.set_fault(Some("reset")) && meter.set_fault(None));
        assert_eq!(meter.fault(), None);
    }

    #[test]
    fn meters_of_two_workers_share_no_cache_line() {
        assert!(align_of::<Meter>() >= 128);
    }
}
