//! What a batch of requests makes of own registrations, before any of it is done.
//!
//! Pure. Runs on the control thread.

use std::collections::HashMap;

use super::journal::Op;
use crate::registry::request::Changed;
use crate::store::{Record, Store};

/// A registration, and how long its key is.
struct Encoded {
    key_len: usize,
    bytes: Box<[u8]>,
}

/// What a batch makes of own registrations, on top of what is there: by key, what it is then, or that it is gone.
#[derive(Default)]
pub(super) struct Plan {
    after: HashMap<Box<[u8]>, Option<Encoded>>,
    /// Registrations in it.
    puts: usize,
}

impl Plan {
    /// Registrations that it is about.
    pub(super) fn len(&self) -> usize {
        self.after.len()
    }

    /// Has this registered.
    pub(super) fn put(&mut self, store: &Store, bytes: Vec<u8>, key_len: usize, told: &mut Changed) {
        let there = store.has_own(&bytes);
        match self.after.get(&bytes[..key_len]) {
            Some(Some(before)) if *before.bytes == *bytes => return told.unchanged += 1,
            Some(None) if store.has_own_key(&bytes[..key_len]) => {
                // It was removed by the same request, which now puts something in its place.
                told.removed -= 1;
                *if there { &mut told.unchanged } else { &mut told.added } += 1;
            }
            None if there => return told.unchanged += 1,
            _ => told.added += 1,
        }
        self.puts += 1;
        self.after.insert(bytes[..key_len].into(), Some(Encoded { key_len, bytes: bytes.into() }));
    }

    /// Has what has this key removed.
    pub(super) fn remove(&mut self, key: &[u8], told: &mut Changed) {
        told.removed += 1;
        self.after.insert(key.into(), None);
    }

    /// Own registrations as they are after the plan, of those in the store that are among `stored`.
    pub(super) fn now<'a>(
        &'a self,
        stored: impl Iterator<Item = Record<'a>>,
    ) -> impl Iterator<Item = Record<'a>> {
        let planned = if self.puts == 0 { None } else { Some(self.after.values()) };
        let planned = planned.into_iter().flatten().flatten().map(|it| Record::known(&it.bytes));
        stored.filter(|record| !self.after.contains_key(record.key)).chain(planned)
    }

    /// What there is to be done.
    pub(super) fn ops(self, store: &Store) -> Vec<Op> {
        let op = |(key, after): (Box<[u8]>, Option<Encoded>)| match after {
            Some(Encoded { bytes, .. }) if store.has_own(&bytes) => None,
            Some(Encoded { key_len, bytes }) => Some(Op::Put { key_len, bytes }),
            None if store.has_own_key(&key) => Some(Op::Remove { key }),
            None => None,
        };
        self.after.into_iter().filter_map(op).collect()
    }
}
