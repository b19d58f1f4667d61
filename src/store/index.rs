//! Where in the logs a registration stands, by its key and by the names that its records have.
//!
//! Pure. Runs on the control thread. Eight bytes an entry: the bytes that are looked for stand in the logs.

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use std::hash::BuildHasher;

use super::log::Change;

/// A change, by the place of its log and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place(u64);

const NUMBER_BITS: u32 = 48;

impl Place {
    pub(super) fn new(log: u16, number: u64) -> Self {
        debug_assert!(number < 1 << NUMBER_BITS);
        Self(u64::from(log) << NUMBER_BITS | number)
    }

    pub(super) fn log(self) -> u16 {
        (self.0 >> NUMBER_BITS) as u16
    }

    pub(super) fn number(self) -> u64 {
        self.0 & ((1 << NUMBER_BITS) - 1)
    }
}

/// Both ways to look a change up. What is found by a hash has to be compared by whoever has the logs.
#[derive(Default)]
pub(super) struct Index {
    hasher: RandomState,
    by_key: HashTable<Entry>,
    by_name: HashTable<Entry>,
}

/// The hash stands beside the place, so that the table can grow without the logs.
#[derive(Clone, Copy)]
struct Entry {
    place: Place,
    hash: u32,
}

impl Index {
    fn hash(&self, bytes: &[u8]) -> u64 {
        spread(short(self.hasher.hash_one(bytes)))
    }

    pub(super) fn insert(&mut self, place: Place, change: &Change) {
        let record = change.record();
        let hash = self.hash(record.key);
        self.by_key.insert_unique(hash, Entry { place, hash: short(hash) }, |entry| spread(entry.hash));
        self.each_name(change, |table, hash| {
            table.insert_unique(hash, Entry { place, hash: short(hash) }, |entry| spread(entry.hash));
        });
    }

    pub(super) fn remove(&mut self, place: Place, change: &Change) {
        let hash = self.hash(change.record().key);
        let drop_from = |table: &mut HashTable<Entry>, hash| {
            if let Ok(found) = table.find_entry(hash, |entry| entry.place == place) {
                found.remove();
            }
        };
        drop_from(&mut self.by_key, hash);
        self.each_name(change, drop_from);
    }

    /// Calls `with` for each name that the change is found under; tombstones are under none.
    fn each_name(&mut self, change: &Change, mut with: impl FnMut(&mut HashTable<Entry>, u64)) {
        if !change.is_live() {
            return;
        }
        let record = change.record();
        let hash = self.hash(record.name);
        with(&mut self.by_name, hash);
        if let Some(reverse) = record.reverse_name() {
            let hash = self.hash(reverse.as_wire());
            with(&mut self.by_name, hash);
        }
    }

    pub(super) fn by_key(&self, key: &[u8]) -> impl Iterator<Item = Place> {
        let hash = self.hash(key);
        self.by_key.iter_hash(hash).filter(move |entry| entry.hash == short(hash)).map(|entry| entry.place)
    }

    pub(super) fn by_name(&self, name: &[u8]) -> impl Iterator<Item = Place> {
        let hash = self.hash(name);
        self.by_name.iter_hash(hash).filter(move |entry| entry.hash == short(hash)).map(|entry| entry.place)
    }

    pub(super) fn heap_len(&self) -> usize {
        self.by_key.allocation_size() + self.by_name.allocation_size()
    }
}

#[allow(clippy::cast_possible_truncation)] // its upper half is as good as any
fn short(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A hash that a table can use, of 32 bits: it takes the top seven and the low ones.
fn spread(short: u32) -> u64 {
    u64::from(short) << 32 | u64::from(short)
}
