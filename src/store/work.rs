//! How much the store has done: each record that it touched is a unit.
//!
//! Pure. Counted on any thread. The simulator makes time of it, so that a seed fails in which somebody does too much at
//! once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Units of work since somebody last asked.
#[derive(Debug, Default)]
pub(super) struct Work(AtomicU64);

impl Work {
    pub(super) fn add(&self, units: usize) {
        self.0.fetch_add(units as u64, Relaxed);
    }

    /// The same where nobody else can count: without a locked operation.
    pub(super) fn add_alone(&mut self, units: usize) {
        *self.0.get_mut() += units as u64;
    }

    pub(super) fn take(&self) -> u64 {
        self.0.swap(0, Relaxed)
    }
}
