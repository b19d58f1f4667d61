//! Work that concerns very many records, done in steps.
//!
//! Pure.

use super::Store;

impl Store {
    /// Does up to so many units of postponed work. Returns whether some is left.
    pub fn sweep(&mut self, _steps: usize) -> bool {
        self.has_sweeps()
    }

    /// Whether there is postponed work.
    #[must_use]
    pub fn has_sweeps(&self) -> bool {
        false
    }

    /// Does all postponed work at once and finds what holds of all that has been said: for those who have nobody to keep
    /// waiting (tests, measurements).
    pub fn settle(&mut self) {
        if self.index.take_statements_changed() {
            self.refresh_statements();
        }
        while self.sweep(usize::MAX) {}
    }

    /// Whether all names that directives concern have been noted as changed.
    #[must_use]
    pub fn directives_settled(&self) -> bool {
        !self.index.statements_changed()
    }

    /// Units of work since this was last asked: records that were touched, in writing and reading.
    pub fn take_work(&self) -> u64 {
        self.work.take()
    }
}
