//! Names with more records than a table holds: which, and how many of their records no answer has.
//!
//! Pure. Runs on the thread `tables`. Each way in refuses what does not fit, but no way in sees what other nodes
//! register at the same time, nor which addresses lead back to one reverse name. What is too much then is left out of
//! the table, in an order that is the same on all nodes ([`limits`](crate::limits)), and counted here, so that it can
//! be told.

use std::collections::BTreeMap;

/// The names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crowded {
    /// In wire form and lower case, with how many records each has too many; none of them none.
    names: BTreeMap<Box<[u8]>, usize>,
    left_out_names: usize,
}

impl Crowded {
    /// Notes that so many records of `name` are left out.
    pub(super) fn note(&mut self, name: &[u8], records: usize) {
        if records > 0 {
            self.names.insert(name.into(), records);
        } else if !self.names.is_empty() {
            self.names.remove(name);
        }
    }

    /// Notes that so many names did not fit in their shards.
    pub(super) fn add_names(&mut self, names: usize) {
        self.left_out_names += names;
    }

    /// Adds what is known of other names.
    pub(super) fn extend(&mut self, other: Self) {
        self.names.extend(other.names);
        self.left_out_names += other.left_out_names;
    }

    /// The names, in wire form and lower case, with how many of their records are left out.
    pub fn names(&self) -> impl Iterator<Item = (&[u8], usize)> {
        self.names.iter().map(|(name, records)| (&**name, *records))
    }

    /// Whether records of `name`, in wire form and lower case, are left out.
    #[must_use]
    pub fn has(&self, name: &[u8]) -> bool {
        self.names.contains_key(name)
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// How many records are left out, of all names together.
    #[must_use]
    pub fn records(&self) -> usize {
        self.names.values().sum()
    }

    /// How often a name was left out as a whole since its shard was full.
    #[must_use]
    pub fn left_out_names(&self) -> usize {
        self.left_out_names
    }
}
