//! What files say beside what a node has registered of them: what is to be done for each name.
//!
//! Runs on the thread `files`.

use hashbrown::HashTable;

use super::{ITEMS_AT_ONCE, LAST, Registrations, hash};
use crate::store::Record;
use crate::sys::sched::yield_every;

impl Registrations {
    /// Begins to compare them with what a node has registered of files.
    #[must_use]
    pub fn compare(&self) -> Comparison<'_> {
        Comparison { said: self, is_there: vec![false; self.items.len()], gone: Vec::new() }
    }
}

/// A name and the key of a registration of it.
type NameAndKey = (Box<[u8]>, Box<[u8]>);

/// What files say beside what a node has registered of them.
pub struct Comparison<'a> {
    said: &'a Registrations,
    /// Which items are registered as they are said.
    is_there: Vec<bool>,
    /// Names and keys of what is registered and not said any more.
    gone: Vec<NameAndKey>,
}

impl<'a> Comparison<'a> {
    /// That this is registered. Something that has changed meanwhile may be told twice.
    pub fn registered(&mut self, record: &Record<'_>) {
        let first = self.said.first_of(hash(record.name), record.name);
        let mut of_name = first.into_iter().flat_map(|first| self.said.of_name(first));
        match of_name.find(|(_, item)| self.said.key(item) == record.key) {
            Some((number, item)) => {
                self.is_there[number as usize] = self.said.bytes(item) == record.declared();
            }
            None => self.gone.push((record.name.into(), record.key.into())),
        }
    }

    /// Calls `with` for each name of which something has to be done.
    pub fn each_name(mut self, mut with: impl FnMut(NameChanges<'_>)) {
        self.gone.sort_unstable();
        self.gone.dedup();
        let mut gone_names = HashTable::<usize>::new();
        let gone: Vec<_> = self.gone.chunk_by(|(a, _), (b, _)| a == b).collect();
        for (number, of_name) in gone.iter().enumerate() {
            gone_names.insert_unique(hash(&of_name[0].0), number, |&of| hash(&gone[of][0].0));
        }
        let said = self.said;
        for (first, item) in (0..).zip(&said.items).filter(|(_, item)| item.is_first) {
            yield_every(ITEMS_AT_ONCE, first as usize);
            let is_there = &self.is_there;
            if said.of_name(first).all(|(number, _)| is_there[number as usize]) {
                continue;
            }
            let name = said.name(item);
            let found = gone_names.find_entry(item.name_hash, |&of| *gone[of][0].0 == *name).ok();
            let removals = found.map(|found| gone[found.remove().0]).unwrap_or_default();
            with(NameChanges { said, is_there, first, removals });
        }
        let mut rest: Vec<_> = gone_names.into_iter().collect();
        rest.sort_unstable();
        for number in rest {
            with(NameChanges { said, is_there: &self.is_there, first: LAST, removals: gone[number] });
        }
    }
}

/// What is to be done for one name.
pub struct NameChanges<'a> {
    said: &'a Registrations,
    is_there: &'a [bool],
    /// The first item of the name, if it is still said.
    first: u32,
    removals: &'a [NameAndKey],
}

impl NameChanges<'_> {
    /// How many operations it takes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.puts().count() + self.removals.len()
    }

    /// Whether it takes none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is new or others: the bytes of each registration.
    pub fn puts(&self) -> impl Iterator<Item = &[u8]> {
        let of_name = self.said.of_name(self.first);
        let puts = of_name.filter(|(number, _)| !self.is_there[*number as usize]);
        puts.map(|(_, item)| self.said.bytes(item))
    }

    /// The keys of what is gone.
    pub fn removals(&self) -> impl Iterator<Item = &[u8]> {
        self.removals.iter().map(|(_, key)| &**key)
    }
}
