//! A set of names, as many as change at once: blocks of bytes rather than an allocation for each, which would leave the
//! heap in pieces.
//!
//! Pure. Runs on whichever thread has the store. Nothing that grows is moved as a whole: a set of many names has
//! several tables, each of which doubles on its own, and several blocks.

use std::hash::BuildHasher;

use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;

/// Names in wire form and lower case.
#[derive(Clone, Debug, Default)]
pub struct NameSet {
    hasher: SeedableRandomState,
    /// The names one after the other; each ends with its root label, and is in one block.
    blocks: Vec<Vec<u8>>,
    len: usize,
    /// Where each of the first names begins, with its hash.
    first: HashTable<(usize, u64)>,
    /// The same of all further ones, by their hashes' low bits; empty as long as there are none.
    more: Vec<HashTable<(usize, u64)>>,
}

/// Names that room is kept for, when as many have just been in a set.
const MAX_ROOM: usize = 4_096;

/// Names in the first table.
const MAX_FIRST: usize = 3_500;

/// The further tables.
const TABLES: usize = 64;

/// Bytes of a block.
const BLOCK_LEN: usize = 1 << 16;

impl NameSet {
    /// An empty set whose hashes are the same in each process.
    pub(super) fn fixed() -> Self {
        Self { hasher: SeedableRandomState::fixed(), ..Self::default() }
    }

    /// An empty set with room for about what is in this one.
    pub(super) fn room(&self) -> Self {
        let empty = Self { hasher: self.hasher.clone(), ..Self::default() };
        match self.blocks.first() {
            Some(first) if self.len <= MAX_ROOM => Self {
                blocks: vec![Vec::with_capacity(first.len())],
                first: HashTable::with_capacity(self.first.len()),
                ..empty
            },
            _ => empty,
        }
    }

    /// Adds `name`. Returns whether it is new.
    pub fn insert(&mut self, name: &[u8]) -> bool {
        let hash = self.hasher.hash_one(name);
        if let [block] = &mut self.blocks[..]
            && block.len() + name.len() <= BLOCK_LEN
            && self.first.len() < MAX_FIRST
        {
            // As long as there are few, all of them are in these two.
            let same = |&(begin, of): &(usize, u64)| of == hash && block[begin..].starts_with(name);
            if self.first.find(hash, same).is_some() {
                return false;
            }
            self.first.insert_unique(hash, (block.len(), hash), |(_, hash)| *hash);
            block.extend_from_slice(name);
            self.len += 1;
            return true;
        }
        self.insert_among_many(name, hash)
    }

    #[cold]
    fn insert_among_many(&mut self, name: &[u8], hash: u64) -> bool {
        if self.find(name, hash) {
            return false;
        }
        if self.blocks.last().is_none_or(|block| block.len() + name.len() > BLOCK_LEN) {
            let room = if self.blocks.is_empty() { 0 } else { BLOCK_LEN };
            self.blocks.push(Vec::with_capacity(room));
        }
        let number = self.blocks.len() - 1;
        let block = &mut self.blocks[number];
        let begin = number * BLOCK_LEN + block.len();
        block.extend_from_slice(name);
        self.len += 1;
        let table = if self.first.len() < MAX_FIRST {
            &mut self.first
        } else {
            self.more.resize_with(TABLES, HashTable::new);
            &mut self.more[table_of(hash)]
        };
        table.insert_unique(hash, (begin, hash), |(_, hash)| *hash);
        true
    }

    /// Whether `name` is in it.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.find(name, self.hasher.hash_one(name))
    }

    fn find(&self, name: &[u8], hash: u64) -> bool {
        let same = |(begin, of): &(usize, u64)| {
            *of == hash && self.blocks[begin / BLOCK_LEN][begin % BLOCK_LEN..].starts_with(name)
        };
        let in_more = || self.more.get(table_of(hash)).is_some_and(|table| table.find(hash, same).is_some());
        self.first.find(hash, same).is_some() || in_more()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The names in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.blocks.iter().flat_map(|block| {
            let mut rest = &block[..];
            std::iter::from_fn(move || {
                let mut len = 1;
                while *rest.get(len - 1)? != 0 {
                    len += 1 + usize::from(rest[len - 1]);
                }
                let (name, after) = rest.split_at(len);
                rest = after;
                Some(name)
            })
        })
    }
}

/// The further table for this hash. A table takes its top seven bits and its low ones; these are between.
#[allow(clippy::cast_possible_truncation)] // below `TABLES`
fn table_of(hash: u64) -> usize {
    (hash >> 32) as usize % TABLES
}

impl<'a> Extend<&'a [u8]> for NameSet {
    fn extend<T: IntoIterator<Item = &'a [u8]>>(&mut self, names: T) {
        for name in names {
            self.insert(name);
        }
    }
}

impl<'a> FromIterator<&'a [u8]> for NameSet {
    fn from_iter<T: IntoIterator<Item = &'a [u8]>>(names: T) -> Self {
        let mut set = Self::default();
        set.extend(names);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_in_it_once_and_in_order() {
        let names = [&b"\x03web\x07example\0"[..], b"\x03web\0", b"\0", b"\x07example\0", b"\x03web\0"];
        let set: NameSet = names.into_iter().collect();
        assert!(set.iter().eq(names[..4].iter().copied()));
        assert_eq!((set.len(), set.is_empty(), NameSet::default().is_empty()), (4, false, true));
        // No name is the front of another: what ends with a root label goes no further.
        assert!(names.iter().all(|name| set.contains(name)) && !set.contains(b"\x02we\0"));
    }

    #[test]
    fn very_many_names_are_what_a_set_of_them_would_be() {
        let mut rng = fastrand::Rng::with_seed(1);
        let (mut set, mut model, mut order) =
            (NameSet::default(), std::collections::HashSet::new(), Vec::new());
        for _ in 0..30_000 {
            let mut name = Vec::new();
            for _ in 0..rng.usize(1..4) {
                let label = format!("{}{}", rng.u16(..2_000), "x".repeat(rng.usize(..50)));
                name.push(u8::try_from(label.len()).unwrap());
                name.extend_from_slice(label.as_bytes());
            }
            name.push(0);
            let is_new = model.insert(name.clone());
            assert_eq!(set.insert(&name), is_new);
            order.extend(is_new.then_some(name));
            assert_eq!((set.len(), set.room().is_empty()), (model.len(), true));
        }
        assert!(set.iter().eq(order.iter().map(|name| &name[..])));
        assert!(order.iter().all(|name| set.contains(name)) && !set.contains(b"\x01y\0"));
        assert!(set.blocks.len() > 10 && set.more.len() == TABLES);
    }
}
