//! The shards of all that a store has, made at once: for a start with very many names, or as many that have changed.
//!
//! Runs on the control thread. What an [`Update`](super::update::Update) looks up for each name, in the store and in the
//! table before, would be waited for in memory, one name after the other. Here all names of the store are put in the order of
//! the table first, and what one shard is made of is brought from memory together.

use smallvec::SmallVec;

use super::root::Root;
use super::shard::ShardWriter;
use super::shard_of;
use super::update::{NameRecord, append_sets, shards_for};
use crate::policy::rules::Rules;
use crate::store::{Record, Store};
use crate::wire::name::{HashSeed, QueryName};
use crate::wire::record::rtype;
use crate::wire::reverse_name::ReverseName;

/// A name's record: what is registered under it, or a pointer to that from the address's reverse name.
#[derive(Clone, Copy)]
struct Item<'a> {
    hash: u64,
    /// The registration's bytes.
    registration: &'a [u8],
    /// The place of the log that it is in.
    log: u16,
    is_pointer: bool,
}

/// Makes shards of all that `store` answers, records without a TTL having `ttl_s`, and tells `of_each` the names, in wire form
/// and lower case, each once. Returns the shards, and how many names there are.
pub(super) fn whole(
    store: &Store,
    seed: HashSeed,
    ttl_s: u32,
    rules: &Rules,
    mut of_each: impl FnMut(&[u8]),
) -> (Root, usize) {
    let items = in_order(store, seed);
    let count = shards_for(items.len());
    let mut making = Making { store, ttl_s, rules, arena: Vec::new(), names: Vec::new() };
    let (mut rest, mut names) = (&items[..], 0);
    let mut writer = ShardWriter::default();
    let root = (0..count)
        .map(|i| {
            let here = rest.iter().take_while(|item| shard_of(item.hash, count) == i).count();
            let (here, after) = rest.split_at(here);
            rest = after;
            making.write(here, &mut writer, &mut of_each);
            names += making.names.len();
            writer.finish_new()
        })
        .collect();
    (root, names)
}

/// All records of the names in the store, in the order of the names' hashes, and so by shard.
fn in_order(store: &Store, seed: HashSeed) -> Vec<Item<'_>> {
    let mut items = Vec::with_capacity(2 * store.len());
    let mut folded = QueryName::default();
    let mut hash = |name: &[u8]| {
        folded.fold_wire(name, seed).expect("names are valid");
        folded.hash()
    };
    for (log, record) in store.answered() {
        let registration = record.bytes;
        items.push(Item { hash: hash(record.name), registration, log, is_pointer: false });
        if let Some(reverse) = record.reverse_name() {
            items.push(Item { hash: hash(reverse.as_wire()), registration, log, is_pointer: true });
        }
    }
    items.sort_unstable_by_key(|item| item.hash);
    items
}

/// The name that a record stands under.
enum Owner<'a> {
    Own(&'a [u8]),
    Reverse(ReverseName),
}

impl Owner<'_> {
    fn as_wire(&self) -> &[u8] {
        match self {
            Self::Own(name) => name,
            Self::Reverse(name) => name.as_wire(),
        }
    }
}

impl<'a> Item<'a> {
    fn record(&self, store: &Store, ttl_s: u32) -> (Owner<'a>, NameRecord<'a>) {
        let record = Record::known(self.registration);
        let ttl_s = record.ttl_s().unwrap_or(ttl_s);
        match self.is_pointer.then(|| record.reverse_name()).flatten() {
            Some(reverse) => (Owner::Reverse(reverse), NameRecord::new(rtype::PTR, ttl_s, record.name)),
            None => {
                let standing = store.standing(self.log, &record);
                let said = NameRecord::new(record.rtype, ttl_s, record.rdata);
                (Owner::Own(record.name), NameRecord { standing, ..said })
            }
        }
    }
}

/// A shard in the making; kept from one to the next for its room.
struct Making<'a> {
    store: &'a Store,
    ttl_s: u32,
    rules: &'a Rules,
    /// The names, each before the record sets behind their count.
    arena: Vec<u8>,
    names: Vec<Made>,
}

/// Where a name is in the arena.
struct Made {
    hash: u64,
    begin: usize,
    sets: usize,
    end: usize,
}

impl Making<'_> {
    /// Writes the shard that has these records.
    fn write(&mut self, items: &[Item<'_>], writer: &mut ShardWriter, of_each: &mut impl FnMut(&[u8])) {
        warm(items);
        self.arena.clear();
        self.names.clear();
        for same in items.chunk_by(|a, b| a.hash == b.hash) {
            let mut records: SmallVec<[_; 2]> =
                same.iter().map(|item| item.record(self.store, self.ttl_s)).collect();
            records.sort_unstable_by(|a, b| a.0.as_wire().cmp(b.0.as_wire()));
            for of_name in records.chunk_by(|a, b| a.0.as_wire() == b.0.as_wire()) {
                let name = of_name[0].0.as_wire();
                let begin = self.arena.len();
                self.arena.extend_from_slice(name);
                let mut records = of_name.iter().map(|(_, record)| *record).collect();
                append_sets(&mut self.arena, &mut records, &self.rules.of(name));
                let (sets, end) = (begin + name.len(), self.arena.len());
                self.names.push(Made { hash: same[0].hash, begin, sets, end });
                of_each(name);
            }
        }
        writer.begin(self.names.len());
        for &Made { hash, begin, sets, end } in &self.names {
            writer.name(hash, &self.arena[begin..sets], &self.arena[sets..end]);
        }
    }
}

/// Has memory bring the registrations, all at the same time.
fn warm(items: &[Item<'_>]) {
    let seen = items.iter().fold(0, |seen, item| {
        // One is rarely on more than two cache lines.
        seen ^ item.registration[0] ^ item.registration[item.registration.len() - 1]
    });
    std::hint::black_box(seen);
}
