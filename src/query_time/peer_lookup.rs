//! Where a worker looks for names that are not in the table: the one seam between the designs.
//!
//! In the `gossip` design there is no elsewhere: a name that is not in the table does not exist. In the others it is
//! known by an answer that has just come, or by the cache, or it has to be asked for.

use std::sync::Arc;

use super::cache::Cache;
use super::peer_answer::PeerAnswer;
use crate::table::Entry;

/// What is known of a name that is not in the table.
pub enum PeerResult<'a> {
    /// Another node has it.
    Entry(Entry<'a>),
    /// Nobody has it, which holds for so many seconds.
    Nobody {
        /// The seconds.
        ttl_s: u32,
    },
    /// The other nodes have to be asked.
    Unknown,
}

/// What a worker knows of names that are not in the table.
#[derive(Default)]
pub struct PeerLookup {
    /// What has just been answered, and for which name.
    answer: Option<(Box<[u8]>, PeerAnswer)>,
    cache: Option<Arc<Cache>>,
    /// When it is.
    now_ms: u64,
    /// Records from the cache, as old as they are.
    aged: Vec<u8>,
}

impl PeerLookup {
    /// Nothing yet, but what is in the `cache`, if there is one.
    #[must_use]
    pub fn new(cache: Option<Arc<Cache>>) -> Self {
        Self { cache, ..Self::default() }
    }

    /// The time from now on, in milliseconds on the clock of whoever fills the cache.
    pub fn set_time(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
    }

    /// Has what is known of a name now for those who have waited for it.
    pub fn set_answer(&mut self, answer: Option<(Box<[u8]>, PeerAnswer)>) {
        self.answer = answer;
    }

    /// What is known of `name`, lower-cased in wire form.
    pub fn find(&mut self, name: &[u8]) -> PeerResult<'_> {
        let Self { answer, cache, now_ms, aged } = self;
        if let Some((_, answer)) = answer.as_ref().filter(|(answered, _)| **answered == *name) {
            return answer.entry().map_or(PeerResult::Nobody { ttl_s: answer.ttl_s() }, PeerResult::Entry);
        }
        match cache.as_ref().and_then(|cache| cache.find(name, *now_ms, aged)) {
            Some((_, true)) => PeerResult::Entry(Entry::from_sets(aged)),
            Some((ttl_s, false)) => PeerResult::Nobody { ttl_s },
            None => PeerResult::Unknown,
        }
    }
}
