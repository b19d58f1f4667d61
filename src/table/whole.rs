//! The shards of all that a store has, made at once: for a start with very many names, or as many that have changed.
//!
//! Runs on the thread `tables`, and on helpers at a start. What an [`Update`](super::update::Update) looks up for each name,
//! in the store and in the table before, would be waited for in memory, one name after the other. Here all names of the store
//! are put in the order of the table first, and what one shard is made of is brought from memory together.

use std::ops::Range;
use std::thread::yield_now;

use smallvec::SmallVec;

use super::crowded::Crowded;
use super::root::Root;
use super::shard::{Shard, ShardWriter};
use super::shard_of;
use super::update::{Below, NameRecord, SHARDS, append_sets, shards_for};
use crate::policy::rules::Rules;
use crate::policy::select::Standing;
use crate::share_out::share_out;
use crate::store::{Cursor, ReadStore, Record, SharedStore, Store};
use crate::wire::name::{HashSeed, QueryName};
use crate::wire::record::rtype;
use crate::wire::reverse_name::ReverseName;

/// A name's record: what is registered under it, or a pointer to that from the address's reverse name.
#[derive(Clone, Copy)]
struct Item<'a> {
    hash: u64,
    /// The registration's bytes.
    registration: &'a [u8],
    standing: Standing,
    is_pointer: bool,
}

/// The records of a store that others change meanwhile, copied out of it step by step.
#[derive(Default)]
pub(super) struct Copied {
    arena: Vec<u8>,
    /// Where each ends in the arena, and how it stands.
    records: Vec<(usize, Standing)>,
}

/// Records that are copied while nobody can change the store.
const COPIED_AT_ONCE: usize = 512;

impl Copied {
    /// Copies what `store` answers. What changes meanwhile may be there as it was, as it is, both, or neither: its name has to be
    /// looked up once more.
    pub(super) fn of(store: &SharedStore) -> Self {
        let mut copied = Self::default();
        let mut cursor = Some(Cursor::default());
        while let Some(from) = cursor {
            cursor = store.with(|store| {
                store.scan(from, COPIED_AT_ONCE, |origin, up, record| {
                    if up {
                        copied.arena.extend_from_slice(record.bytes);
                        let standing = store.statements().standing(origin, &record);
                        copied.records.push((copied.arena.len(), standing));
                    }
                })
            });
            yield_now();
        }
        copied
    }

    fn records(&self) -> impl Iterator<Item = (Standing, Record<'_>)> {
        let mut begin = 0;
        self.records.iter().map(move |&(end, standing)| {
            let record = Record::known(&self.arena[begin..end]);
            begin = end;
            (standing, record)
        })
    }
}
/// What a table is made with.
#[derive(Clone, Copy)]
pub(super) struct Making<'a> {
    pub(super) seed: HashSeed,
    /// The TTL of records that have none of their own.
    pub(super) ttl_s: u32,
    pub(super) rules: &'a Rules,
}

/// What a table is made of, but for what is not in the store.
pub(super) struct Whole {
    pub(super) shards: Root,
    /// How many names there are.
    pub(super) names: usize,
    /// What is above them.
    pub(super) below: Below,
    /// Those with more records than a table holds.
    pub(super) crowded: Crowded,
}

/// Makes shards of all that `store` answers, with up to so many threads. `count` is told the names, in wire form and lower case, each
/// once, and counts what is above them.
pub(super) fn whole(
    store: &Store,
    making: Making<'_>,
    count: impl Fn(&[u8], &mut Below) + Sync,
    threads: usize,
) -> Whole {
    // A power of two, as the shards are, so that each shard is in one range of hashes.
    let ranges = threads.next_power_of_two().min(*SHARDS.start());
    let found = share_out((0..ranges).collect(), |share| {
        let room = 2 * store.len() / ranges / ranges;
        let records = store.answered(share, ranges);
        in_ranges(
            records.map(|(log, record)| (store.standing(log, &record), record)),
            making.seed,
            ranges,
            room,
        )
    });
    make(found, making, count)
}

/// The same of what has been copied out of a store, by this thread alone.
pub(super) fn whole_of_copy(
    copied: &Copied,
    making: Making<'_>,
    count: impl Fn(&[u8], &mut Below) + Sync,
) -> Whole {
    let room = 2 * copied.records.len();
    make(vec![in_ranges(copied.records(), making.seed, 1, room)], making, count)
}

/// Makes the shards of items that are there by their shares of the store, and in each by the range of their hashes.
fn make(
    found: Vec<Vec<Vec<Item<'_>>>>,
    making: Making<'_>,
    count: impl Fn(&[u8], &mut Below) + Sync,
) -> Whole {
    let ranges = found.len();
    let shards = shards_for(found.iter().flatten().map(Vec::len).sum());
    let mut by_range: Vec<Vec<Vec<Item<'_>>>> = vec![Vec::new(); ranges];
    for share in found {
        by_range.iter_mut().zip(share).for_each(|(range, items)| range.push(items));
    }
    let made = share_out(by_range.into_iter().enumerate().collect(), |(range, items)| {
        let here = shards / ranges;
        let writer = Writer { making, arena: Vec::new(), names: Vec::new(), crowded: Crowded::default() };
        writer.shards(in_order(items), (range * here..(range + 1) * here, shards), &count)
    });
    let (mut names, mut below, mut crowded) = (0, Below::default(), Crowded::default());
    let mut shards = Vec::with_capacity(shards);
    for made in made {
        names += made.names;
        made.below.into_iter().for_each(|(name, count)| *below.entry(name).or_default() += count);
        crowded.extend(made.crowded);
        shards.extend(made.shards);
    }
    Whole { shards: shards.into_iter().collect(), names, below, crowded }
}

/// The items of these records, by the range that their names' hashes are in. There is room for so many in each.
fn in_ranges<'a>(
    records: impl Iterator<Item = (Standing, Record<'a>)>,
    seed: HashSeed,
    ranges: usize,
    room: usize,
) -> Vec<Vec<Item<'a>>> {
    let mut items: Vec<_> = (0..ranges).map(|_| Vec::with_capacity(room + room / 32)).collect();
    let mut folded = QueryName::default();
    let mut hash = |name: &[u8]| {
        folded.fold_wire(name, seed).expect("names are valid");
        folded.hash()
    };
    for (standing, record) in records {
        let registration = record.bytes;
        let mut add = |hash, is_pointer| {
            items[shard_of(hash, ranges)].push(Item { hash, registration, standing, is_pointer });
        };
        add(hash(record.name), false);
        if let Some(reverse) = record.reverse_name() {
            add(hash(reverse.as_wire()), true);
        }
    }
    items
}

/// The items of several shares in the order of their hashes, and so by shard.
fn in_order(shares: Vec<Vec<Item<'_>>>) -> Vec<Item<'_>> {
    let mut shares = shares.into_iter();
    let mut items = shares.next().unwrap_or_default();
    shares.for_each(|share| items.extend(share));
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
    fn record(&self, ttl_s: u32) -> (Owner<'a>, NameRecord<'a>) {
        let record = Record::known(self.registration);
        let ttl_s = record.ttl_s().unwrap_or(ttl_s);
        match self.is_pointer.then(|| record.reverse_name()).flatten() {
            Some(reverse) => (Owner::Reverse(reverse), NameRecord::new(rtype::PTR, ttl_s, record.name)),
            None => {
                let bare = NameRecord::new(record.rtype, ttl_s, record.rdata);
                (Owner::Own(record.name), NameRecord { standing: self.standing, ..bare })
            }
        }
    }
}

/// A shard in the making; kept from one to the next for its room.
struct Writer<'a> {
    making: Making<'a>,
    /// The names, each before the record sets behind their count.
    arena: Vec<u8>,
    names: Vec<Made>,
    crowded: Crowded,
}

/// The shards of a range, and what there is to tell of them.
struct MadeRange {
    shards: Vec<Shard>,
    names: usize,
    below: Below,
    crowded: Crowded,
}

/// Where a name is in the arena.
struct Made {
    hash: u64,
    begin: usize,
    sets: usize,
    end: usize,
}

impl Writer<'_> {
    /// Makes the shards with these numbers, of so many, from all items that are in them.
    fn shards(
        mut self,
        items: Vec<Item<'_>>,
        (numbers, of): (Range<usize>, usize),
        count: impl Fn(&[u8], &mut Below),
    ) -> MadeRange {
        let (mut rest, mut names, mut below) = (&items[..], 0, Below::default());
        let mut writer = ShardWriter::default();
        let shards = numbers.map(|number| {
            let here = rest.iter().take_while(|item| shard_of(item.hash, of) == number).count();
            let (here, after) = rest.split_at(here);
            rest = after;
            self.write(here, &mut writer, |name| count(name, &mut below));
            names += self.names.len();
            writer.finish_new()
        });
        let shards = shards.collect();
        let mut crowded = self.crowded;
        crowded.add_names(writer.left_out());
        MadeRange { shards, names, below, crowded }
    }

    /// Writes the shard that has these records.
    fn write(&mut self, items: &[Item<'_>], writer: &mut ShardWriter, mut of_each: impl FnMut(&[u8])) {
        warm(items);
        self.arena.clear();
        self.names.clear();
        for same in items.chunk_by(|a, b| a.hash == b.hash) {
            let mut records: SmallVec<[_; 2]> =
                same.iter().map(|item| item.record(self.making.ttl_s)).collect();
            records.sort_unstable_by(|a, b| a.0.as_wire().cmp(b.0.as_wire()));
            for of_name in records.chunk_by(|a, b| a.0.as_wire() == b.0.as_wire()) {
                let name = of_name[0].0.as_wire();
                let begin = self.arena.len();
                self.arena.extend_from_slice(name);
                let mut records = of_name.iter().map(|(_, record)| *record).collect();
                let left_out = append_sets(&mut self.arena, &mut records, &self.making.rules.of(name));
                self.crowded.note(name, left_out);
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
