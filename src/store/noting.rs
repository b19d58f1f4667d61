//! How far the noting of a log's names is, which is done in steps ([`sweep`](super::sweep)).

/// A way through positions: from `at` to `end`, and then from the beginning to `again`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lap {
    pub(super) at: u64,
    pub(super) end: u64,
    again: u64,
}

impl Lap {
    pub(super) fn new(end: u64) -> Self {
        Self { at: 0, end, again: 0 }
    }

    /// There is a reason to go through all once more.
    pub(super) fn restart(&mut self, end: u64) {
        *self = Self { at: self.at, end, again: self.at };
    }

    /// The first part is over. Returns whether that was all.
    pub(super) fn turn(&mut self) -> bool {
        let again = std::mem::take(&mut self.again);
        *self = Self::new(again);
        again == 0
    }
}

/// A log whose names are to be noted.
#[derive(Clone, Debug)]
pub(super) struct Noting {
    pub(super) lap: Lap,
    /// The log that this one has replaced, which is to be dismantled then.
    pub(super) old: Option<u16>,
    /// Only the names whose records are others than in the old one.
    pub(super) differing: bool,
}
