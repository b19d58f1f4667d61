//! The schedule of a fixed-rate run (`-Q`): how many queries are due.
//!
//! Pure: it is told the time and never looks at a clock. Each sending thread owns one.
//!
//! Query `j` of the run is due `j / rate` after its start, whatever happened before. A sender that was held up finds
//! all that it missed still due: were the schedule moved instead, an overloaded server would slow the load down and so
//! hide its overload. Thread `k` of `n` sends the queries whose number is `k` modulo `n`; together they keep the exact
//! rate, evenly spaced, even where it does not divide by `n`.

const NS_PER_S: u128 = 1_000_000_000;

/// One thread's share of the schedule.
#[derive(Debug)]
pub(crate) struct Pacer {
    rate_qps: u32,
    thread: u32,
    threads: u32,
    issued: u64,
}

impl Pacer {
    /// The share of thread number `thread` of `threads` in a schedule of `rate_qps` queries a second.
    pub(crate) fn new(rate_qps: u32, thread: u32, threads: u32) -> Self {
        assert!(rate_qps > 0 && thread < threads);
        Self { rate_qps, thread, threads, issued: 0 }
    }

    /// Queries due at `now_ns` after the start that have not been issued.
    pub(crate) fn due(&self, now_ns: u64) -> u64 {
        let of_all = saturate(u128::from(now_ns) * u128::from(self.rate_qps) / NS_PER_S) + 1;
        let threads = u64::from(self.threads);
        let own = (of_all + threads - 1 - u64::from(self.thread)) / threads;
        own.saturating_sub(self.issued)
    }

    /// `count` of the due queries have been sent.
    pub(crate) fn issue(&mut self, count: u64) {
        self.issued += count;
    }

    /// When the next query is due; in the past if the sender is late.
    pub(crate) fn next_due_ns(&self) -> u64 {
        let number = u128::from(self.issued) * u128::from(self.threads) + u128::from(self.thread);
        saturate((number * NS_PER_S).div_ceil(u128::from(self.rate_qps)))
    }
}

fn saturate(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_query_is_due_at_once_and_the_others_evenly_after_it() {
        let mut pacer = Pacer::new(1_000, 0, 1);
        assert_eq!(pacer.due(0), 1);
        pacer.issue(1);
        assert_eq!((pacer.due(999_999), pacer.next_due_ns()), (0, 1_000_000));
        assert_eq!(pacer.due(1_000_000), 1);
    }

    #[test]
    fn what_was_missed_stays_due() {
        let mut pacer = Pacer::new(100, 0, 1);
        assert_eq!(pacer.due(1_000_000_000), 101);
        pacer.issue(1);
        assert_eq!(pacer.due(1_000_000_000), 100);
        assert_eq!(pacer.next_due_ns(), 10_000_000);
    }

    proptest! {
        #[test]
        fn threads_together_keep_the_whole_schedule(rate in 1..5_000_000u32, threads in 1..9u32, now_ns in 0..1u64 << 44) {
            let due: u64 = (0..threads).map(|thread| Pacer::new(rate, thread, threads).due(now_ns)).sum();
            prop_assert_eq!(u128::from(due), u128::from(now_ns) * u128::from(rate) / NS_PER_S + 1);
        }

        #[test]
        fn a_query_is_due_from_its_time_on_and_not_before(rate: u32, issued in 0..1u64 << 30, thread in 0..4u32) {
            let mut pacer = Pacer::new(rate.max(1), thread, 4);
            pacer.issue(issued);
            let next_ns = pacer.next_due_ns();
            prop_assert!(pacer.due(next_ns) >= 1);
            prop_assert!(next_ns == 0 || pacer.due(next_ns - 1) == 0);
        }
    }
}
