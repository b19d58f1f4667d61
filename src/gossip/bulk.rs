//! The answer to a request for much, part by part.
//!
//! Pure. Runs on the cluster thread.

use std::collections::VecDeque;

use crate::store::{Delta, Store, Want};

/// Bytes of changes in one message of a stream that we send: some hundred records, so that a receiver gets other things
/// done between one and the next. Others may send longer ones.
pub const MAX_STREAM_DELTA_LEN: usize = crate::limits::MAX_STREAM_DELTA_LEN;

/// The answer to a request over a stream, part by part: so that who is slow to read holds nothing up and no memory.
#[derive(Clone, Debug)]
pub struct Bulk {
    wants: VecDeque<Want>,
    last: Option<Delta>,
}

impl Bulk {
    /// The answer to `wants`.
    #[must_use]
    pub fn new(wants: Vec<Want>) -> Self {
        Self { wants: wants.into(), last: None }
    }

    /// The next part of it.
    pub fn next(&mut self, store: &Store, max_len: usize) -> Option<Delta> {
        let follows = self.last.take().and_then(|last| store.delta_after(&last, max_len));
        let next = follows.or_else(|| {
            std::iter::from_fn(|| self.wants.pop_front())
                .find_map(|want| store.delta(want.origin, want.from, max_len))
        })?;
        // The changes themselves are not needed to go on after them.
        self.last = Some(next.without_changes());
        Some(next)
    }
}
