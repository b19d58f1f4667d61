//! Which query comes next: each thread claims stretches of the passes through the file from a shared position.
//!
//! One atomic addition claims a whole batch. All threads together send the file in order, and one that is slower
//! sends less of it, as if they read from one file.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// One thread's claims.
pub(crate) struct Supply<'a> {
    position: &'a AtomicU64,
    /// Queries in all passes; `u64::MAX` if there is no end.
    total: u64,
    file_len: u32,
    /// Claimed and not taken: `next..end`.
    next: u64,
    end: u64,
}

impl<'a> Supply<'a> {
    /// Claims from `position` in `runs` passes through a file of `file_len` queries.
    pub(crate) fn new(position: &'a AtomicU64, file_len: u32, runs: Option<u32>) -> Self {
        let total = runs.map_or(u64::MAX, |runs| u64::from(runs) * u64::from(file_len));
        Self { position, total, file_len, next: 0, end: 0 }
    }

    /// How many of `want` queries can be taken; less than that only for a moment, or when the end is reached.
    pub(crate) fn available(&mut self, want: usize) -> usize {
        let want = want as u64;
        if self.next == self.end {
            self.next = self.position.fetch_add(want, Relaxed).min(self.total);
            self.end = self.next.saturating_add(want).min(self.total);
        }
        usize::try_from(want.min(self.end - self.next)).unwrap_or(usize::MAX)
    }

    /// Nothing is left to take, for this thread.
    pub(crate) fn is_exhausted(&self) -> bool {
        self.next >= self.total || (self.next == self.end && self.position.load(Relaxed) >= self.total)
    }

    /// The index in the file of the `k`-th query that can be taken.
    #[allow(clippy::cast_possible_truncation)] // less than `file_len`
    pub(crate) fn query(&self, k: usize) -> u32 {
        ((self.next + k as u64) % u64::from(self.file_len)) as u32
    }

    /// Takes `count` queries.
    pub(crate) fn take(&mut self, count: usize) {
        self.next += count as u64;
        debug_assert!(self.next <= self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_together_send_each_pass_in_full() {
        let position = AtomicU64::new(0);
        let mut supplies = [(); 3].map(|()| Supply::new(&position, 7, Some(4)));
        let mut sent = [0; 7];
        for turn in 0.. {
            let supply = &mut supplies[turn % 3];
            let count = supply.available(5).min(turn % 4); // not always all of what was claimed
            (0..count).for_each(|k| sent[supply.query(k) as usize] += 1);
            supply.take(count);
            if supplies.iter().all(Supply::is_exhausted) {
                break;
            }
        }
        assert_eq!(sent, [4; 7]);
    }

    #[test]
    fn without_a_number_of_passes_there_is_no_end() {
        let position = AtomicU64::new(0);
        let mut supply = Supply::new(&position, 3, None);
        for i in 0..100 {
            assert_eq!(supply.available(1), 1);
            assert_eq!(supply.query(0), i % 3);
            supply.take(1);
        }
        assert!(!supply.is_exhausted());
    }
}
