//! Handing tables from the thread `tables` to the workers.
//!
//! The [`Publisher`] runs on that thread.

use std::sync::Arc;
use std::thread::yield_now;

use smallvec::SmallVec;

use super::crowded::Crowded;
use super::update::{Below, Counts, NameRecord, Update, between};
use super::whole::{Copied, Making, Whole, whole, whole_of_copy};
use super::{Entry, MAX_TOGETHER, Table, ZoneSettings, name_server, shard_of};
use crate::policy::Policy;
use crate::policy::rules::Rules;
use crate::store::{NameSet, ReadStore, SharedStore, Store};
use crate::sys::parallel_map::threads_for;
use crate::sys::published::{Current, Reader, View};
use crate::wire::name::{HashSeed, Name, QueryName};
use crate::wire::record::rtype;

/// The one writer of tables.
pub struct Publisher {
    current: Current<Table>,
    domains: Vec<Name>,
    settings: ZoneSettings,
    rules: Rules,
    below: Below,
    /// Names with more records than a table holds.
    crowded: Crowded,
    /// Names that have changed since they were published, as long as all of them fit one publication.
    fresh: NameSet,
    /// If they do not: by the part of the table that they are in.
    pending: [NameSet; PARTS],
    /// The part whose turn is next, where there is too much for one publication.
    next_part: usize,
}

/// Names that are published at once, as they were noted: no name is in two parts.
#[derive(Default)]
struct ChangedNames {
    parts: Vec<NameSet>,
}

impl ChangedNames {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().flat_map(NameSet::iter)
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.parts.iter().any(|part| part.contains(name))
    }
}

/// Parts of the table that are published one after the other where much has changed: each writes its own shards anew,
/// and the others wait for their turn.
const PARTS: usize = 64;

impl Publisher {
    /// Begins with a table that has the `domains` and no other names.
    #[must_use]
    pub fn new(domains: &[Name], settings: ZoneSettings) -> Self {
        Self::with_seed(domains, settings, HashSeed::random())
    }

    /// The same with names hashed from `seed`, which nobody outside may know: for measurements that are to come out the
    /// same each time.
    #[must_use]
    pub fn with_seed(domains: &[Name], settings: ZoneSettings, seed: HashSeed) -> Self {
        let empty = Table::empty(domains, settings, seed);
        let mut publisher = Self {
            current: Current::new(empty),
            domains: domains.to_vec(),
            settings,
            rules: Rules::default(),
            below: Below::default(),
            crowded: Crowded::default(),
            fresh: NameSet::default(),
            pending: std::array::from_fn(|_| NameSet::default()),
            next_part: 0,
        };
        let apexes: Vec<_> = domains.iter().map(Name::to_lower_case).collect();
        publisher.note(apexes.iter().map(Name::as_wire).collect());
        publisher.publish(&Store::new(crate::store::NodeId([0; 16]), 0), usize::MAX);
        publisher
    }

    /// Counts publications from here on, which are the serials of our zones: copies that others have taken of the zones
    /// of an earlier process have lower ones.
    pub fn count_from(&mut self, serial: u32) {
        let old = self.current.load();
        let zones = Table::without_names(&self.domains, self.settings, old.seed, serial);
        let (names, entries) = (old.names, old.entries);
        let (shards, recent) = (old.shards.clone(), old.recent.clone());
        self.current.replace(Table { shards, recent, names, entries, ..zones });
    }

    /// A view for a thread that is no worker.
    #[must_use]
    pub fn view(&self) -> View<Table> {
        self.current.view()
    }

    /// A view for one more worker.
    #[must_use]
    pub fn reader(&self) -> Reader<Table> {
        self.current.reader()
    }

    /// The table that workers load from now on.
    #[must_use]
    pub fn current(&self) -> Arc<Table> {
        self.current.load()
    }

    /// Makes the answers of names that are published from now on by these rules.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Which policy each name has.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The names of which some records are left out of answers, since there are more than a table holds.
    #[must_use]
    pub fn crowded(&self) -> &Crowded {
        &self.crowded
    }

    /// Notes that the records of these names are others now.
    pub fn note(&mut self, changed: NameSet) {
        if self.pending() == 0 {
            self.fresh = changed;
        } else {
            self.spread(&changed);
        }
    }

    /// Notes names by their part of the table.
    fn spread(&mut self, changed: &NameSet) {
        let mut folded = QueryName::default();
        let seed = self.current.load().seed();
        for name in changed.iter() {
            folded.fold_wire(name, seed).expect("names are valid");
            self.pending[shard_of(folded.hash(), PARTS)].insert(name);
        }
    }

    /// How many names have changed and are not published yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.fresh.len() + self.pending.iter().map(NameSet::len).sum::<usize>()
    }

    /// Whether the next publication without a change would do nothing: else it brings a part of the table in order.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.current.load().recent.is_empty()
    }

    /// Takes names whose turn it is: all, or parts of the table until there are `most`.
    fn take_pending(&mut self, most: usize) -> ChangedNames {
        let mut taken = ChangedNames::default();
        let fresh = std::mem::take(&mut self.fresh);
        if self.pending() == 0 && fresh.len() <= most {
            taken.parts.push(fresh);
            return taken;
        }
        self.spread(&fresh);
        let mut len = 0;
        for _ in 0..PARTS {
            let part = std::mem::take(&mut self.pending[self.next_part]);
            self.next_part = (self.next_part + 1) % PARTS;
            len += part.len();
            taken.parts.push(part);
            if len >= most {
                break;
            }
        }
        taken
    }

    /// Makes a table in which names that have changed, `most` or somewhat more of them, have the records that `store`
    /// has now, and lets the workers have it, each with its next batch. A name's records always change as a whole.
    pub fn publish(&mut self, store: &impl ReadStore, most: usize) {
        let changed = self.take_pending(most);
        let table = self.next(&self.current.load(), &changed, store);
        self.current.replace(table);
    }

    /// Publishes these names at once, before others that wait. They may wait, too.
    pub fn publish_first(&mut self, store: &impl ReadStore, names: NameSet) {
        let table = self.next(&self.current.load(), &ChangedNames { parts: vec![names] }, store);
        self.current.replace(table);
    }

    /// Makes a table of all that `store` has, and lets the workers have it. For a start, where nobody changes the
    /// store. Made by so many threads.
    pub fn publish_whole(&mut self, store: &Store, threads: usize) {
        let old = self.current.load();
        self.forget_pending();
        let made = whole(store, self.making(old.seed), |name, below| count_above(name, &old, below), threads);
        self.publish_made(made, &old, NameSet::default(), store);
    }

    /// The same while others change the store: where so many names have changed that to look at each of them would be
    /// slower. What has changed before, as far as it has been noted, is in it; what changes meanwhile is given by
    /// `take_changed` when all has been read, and looked up once more, so that no name has half of its records.
    pub fn rebuild(&mut self, store: &SharedStore, take_changed: impl FnOnce() -> NameSet) {
        let threads = threads_for(store.read().len());
        let old = self.current.load();
        self.forget_pending();
        let copied = Copied::of(store);
        let made = whole_of_copy(
            &copied,
            self.making(old.seed),
            |name, below| count_above(name, &old, below),
            threads,
        );
        copied.give_back();
        self.publish_made(made, &old, take_changed(), store);
    }

    fn making(&self, seed: HashSeed) -> Making<'_> {
        Making { seed, ttl_s: self.settings.ttl_s, rules: &self.rules }
    }

    /// Forgets which names have changed: a table is going to be made of all.
    pub fn forget_pending(&mut self) {
        self.fresh = NameSet::default();
        self.pending = std::array::from_fn(|_| NameSet::default());
    }

    /// Publishes shards that were made of the whole store, with `changed` names looked up once more.
    fn publish_made(
        &mut self,
        Whole { shards, names, below, crowded }: Whole,
        old: &Table,
        changed: NameSet,
        store: &impl ReadStore,
    ) {
        (self.below, self.crowded) = (below, crowded);
        let zones = Table::without_names(&self.domains, self.settings, old.seed, old.serial);
        let table = Table { shards, names, entries: names, ..zones };
        // What is not in the store: the domains' name servers, and names that exist because others stand below them.
        let mut special = changed;
        let apexes: Vec<_> = self.domains.iter().map(Name::to_lower_case).collect();
        special.extend(apexes.iter().map(Name::as_wire).chain(self.below.keys().map(|name| &**name)));
        let table = self.next(&table, &ChangedNames { parts: vec![special] }, store);
        self.current.replace(table);
    }

    /// The table that follows on `old` when these names have changed.
    fn next(&mut self, old: &Table, changed: &ChangedNames, store: &impl ReadStore) -> Table {
        let names: Vec<_> = changed.iter().collect();
        let mut next = Next {
            old,
            counts: old.counts(),
            update: Update::new(old.seed(), names.len()),
            bare: Vec::new(),
        };
        for (done, together) in names.chunks(MAX_TOGETHER).enumerate() {
            if done > 0 {
                yield_now(); // between two looks at the store, which others wait for
            }
            store.with(|store| {
                let before = look_up(together, old, store);
                together
                    .iter()
                    .zip(before)
                    .for_each(|(name, before)| self.lay_out(name, before, &mut next, store));
            });
        }
        let Next { mut counts, mut update, bare, .. } = next;
        // Names without records exist if others stand below them, which is known only now.
        let above = changed.iter().flat_map(|name| between(name, &old.zones));
        let bare: NameSet = above.filter(|name| !changed.contains(name)).chain(bare).collect();
        for name in bare.iter() {
            let before = old.get_wire(name);
            if before.is_some_and(|before| before.sets().next().is_some()) && !changed.contains(name) {
                continue;
            }
            let exists = self.below.contains_key(name);
            counts.entries = counts.entries + usize::from(exists) - usize::from(before.is_some());
            update.push(name, &mut SmallVec::new(), &Policy::default(), exists);
        }
        let (table, left_out) = update.build(old, counts, &self.domains, self.settings);
        self.crowded.add_names(left_out);
        table
    }

    /// Lays out the answers of a changed name, of which there was `before`.
    fn lay_out<'a>(&mut self, name: &'a [u8], before: Option<Entry<'_>>, next: &mut Next<'a>, store: &Store) {
        // Every apex has a name server: those it was given, or ours (RFC 1035 §5.2).
        let server = self.own_name_server(name);
        let answers = store.answers(name);
        let mut records: SmallVec<[_; 8]> = answers
            .map(|answer| NameRecord {
                rtype: answer.rtype,
                ttl_s: answer.ttl_s.unwrap_or(self.settings.ttl_s),
                rdata: answer.rdata,
                standing: answer.standing,
            })
            .collect();
        if let Some(server) =
            server.as_ref().filter(|_| records.iter().all(|record| record.rtype != rtype::NS))
        {
            records.push(NameRecord::new(rtype::NS, self.settings.ttl_s, server.as_wire()));
        }
        let had = before.is_some_and(|before| before.sets().next().is_some());
        let has = !records.is_empty();
        let counts = &mut next.counts;
        if had != has {
            counts.names = counts.names + usize::from(has) - usize::from(had);
            self.count_below(name, next.old, has);
        }
        if has {
            counts.entries += usize::from(before.is_none());
            let left_out = next.update.push(name, &mut records, &self.rules.of(name), true);
            self.crowded.note(name, left_out);
        } else {
            self.crowded.note(name, 0);
            next.bare.push(name);
        }
    }

    /// Notes that there is one name with records more, or less, below those that `name` is below.
    fn count_below(&mut self, name: &[u8], table: &Table, more: bool) {
        for above in between(name, &table.zones) {
            let below = self.below.entry(above.into()).or_default();
            *below = if more { *below + 1 } else { *below - 1 };
            if *below == 0 {
                self.below.remove(above);
            }
        }
    }

    fn own_name_server(&self, name: &[u8]) -> Option<Name> {
        let apex = self.domains.iter().find(|domain| domain.as_wire().eq_ignore_ascii_case(name))?;
        name_server(apex)
    }
}

/// A table in the making: the one before it, and what is known of the next so far.
struct Next<'a> {
    old: &'a Table,
    counts: Counts,
    update: Update,
    /// Changed names without records.
    bare: Vec<&'a [u8]>,
}

/// Counts `name` at those that it is below.
fn count_above(name: &[u8], table: &Table, below: &mut Below) {
    between(name, &table.zones).for_each(|above| *below.entry(above.into()).or_default() += 1);
}

/// What `table` has of up to [`MAX_TOGETHER`] names; and has memory bring what will be read of them in the `store`.
fn look_up<'a>(names: &[&[u8]], table: &'a Table, store: &Store) -> [Option<Entry<'a>>; MAX_TOGETHER] {
    let fold = |name: &&[u8]| {
        let mut folded = QueryName::default();
        folded.fold_wire(name, table.seed()).expect("names are valid");
        folded
    };
    if names.len() > 1 {
        store.warm(names);
    }
    table.lookup_together(&names.iter().map(fold).collect::<SmallVec<[_; MAX_TOGETHER]>>())
}

#[cfg(test)]
mod tests;
