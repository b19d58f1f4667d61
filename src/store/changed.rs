//! Which names have changed, noted until somebody takes them to answer otherwise: one by one, or, where they are very
//! many, only how many.
//!
//! Pure. Runs on whichever thread has the lock.

use super::record::Record;
use super::statement::STATEMENT;
use super::{NameSet, Store};

/// Names whose records are others.
#[derive(Debug)]
pub enum Changed {
    /// These.
    Names(NameSet),
    /// More than are noted: about so many.
    Many(usize),
}

impl Store {
    /// Notes the names whose records depend on `record`.
    pub(super) fn note(&mut self, record: Record<'_>) {
        if self.counts_only {
            self.lost_changes += 1;
            return;
        }
        note(&mut self.changed, record);
        if self.changed.len() >= self.max_changed {
            // Who takes them makes all answers anew then.
            self.lost_changes += self.changed.len();
            self.changed = NameSet::default();
        }
    }

    /// The same store, that notes up to so many names as changed ([`take_changes`](Self::take_changes)).
    #[must_use]
    pub fn with_max_changed(self, max_changed: usize) -> Self {
        Self { max_changed, ..self }
    }

    /// From now on names are not noted, but only counted: who takes them makes all answers anew. Or they are noted
    /// again.
    pub fn count_changes_only(&mut self, count_only: bool) {
        self.counts_only = count_only;
    }

    /// What has changed since this was last called, with the directives that are in force by now.
    pub fn take_changes(&mut self) -> Changed {
        let names = self.take_changed();
        match std::mem::take(&mut self.lost_changes) {
            0 => Changed::Names(names),
            lost => Changed::Many(lost + names.len()),
        }
    }

    /// Names, in wire form and lower case, whose records have changed since this was last called, as far as they have
    /// been noted: those that sweeps note come later.
    pub fn take_changed(&mut self) -> NameSet {
        if self.index.take_statements_changed() {
            self.refresh_statements();
        }
        let room = self.changed.room();
        std::mem::replace(&mut self.changed, room)
    }

    /// How many names that would be.
    #[must_use]
    pub fn changed(&self) -> usize {
        self.changed.len() + self.lost_changes + usize::from(self.index.statements_changed())
    }

    /// Whether directives have come, gone or changed since changes were last taken.
    #[must_use]
    pub fn has_new_directives(&self) -> bool {
        self.index.statements_changed()
    }

    /// Finds which directives are in force now; the names that they concern are noted as changed.
    pub fn refresh_directives(&mut self) {
        if self.index.take_statements_changed() {
            self.refresh_statements();
        }
    }
}

/// Adds the names whose records depend on `record`.
pub(super) fn note(changed: &mut NameSet, record: Record<'_>) {
    if record.rtype == STATEMENT {
        return; // the index knows, and which names depend on it is found out when they are taken
    }
    changed.insert(record.name);
    if let Some(reverse) = record.reverse_name() {
        changed.insert(reverse.as_wire());
    }
}
