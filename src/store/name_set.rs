//! A set of names, as many as change at once: one block of bytes rather than an allocation for each, which would leave the
//! heap in pieces.
//!
//! Pure. Runs on the control thread.

use std::hash::BuildHasher;

use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;

/// Names in wire form and lower case.
#[derive(Clone, Debug, Default)]
pub struct NameSet {
    hasher: SeedableRandomState,
    /// The names one after the other; each ends with its root label.
    bytes: Vec<u8>,
    /// Where each begins, with its hash.
    begins: HashTable<(usize, u64)>,
}

/// Names that room is kept for, when as many have just been in a set.
const MAX_ROOM: usize = 4_096;

impl NameSet {
    /// An empty set whose hashes are the same in each process.
    pub(super) fn fixed() -> Self {
        Self { hasher: SeedableRandomState::fixed(), ..Self::default() }
    }

    /// An empty set with room for about what is in this one.
    pub(super) fn room(&self) -> Self {
        if self.is_empty() || self.len() > MAX_ROOM {
            return Self { hasher: self.hasher.clone(), ..Self::default() };
        }
        Self {
            hasher: self.hasher.clone(),
            bytes: Vec::with_capacity(self.bytes.len()),
            begins: HashTable::with_capacity(self.len()),
        }
    }

    /// Adds `name`. Returns whether it is new.
    pub fn insert(&mut self, name: &[u8]) -> bool {
        let hash = self.hasher.hash_one(name);
        if self.find(name, hash) {
            return false;
        }
        self.begins.insert_unique(hash, (self.bytes.len(), hash), |(_, hash)| *hash);
        self.bytes.extend_from_slice(name);
        true
    }

    /// Whether `name` is in it.
    #[must_use]
    pub fn contains(&self, name: &[u8]) -> bool {
        self.find(name, self.hasher.hash_one(name))
    }

    fn find(&self, name: &[u8], hash: u64) -> bool {
        let same = |(begin, of): &(usize, u64)| *of == hash && self.bytes[*begin..].starts_with(name);
        self.begins.find(hash, same).is_some()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.begins.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.begins.is_empty()
    }

    /// The names in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.bytes[..];
        std::iter::from_fn(move || {
            let mut len = 1;
            while *rest.get(len - 1)? != 0 {
                len += 1 + usize::from(rest[len - 1]);
            }
            let (name, after) = rest.split_at(len);
            rest = after;
            Some(name)
        })
    }
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
}
