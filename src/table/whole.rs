//! The shards of all that a store has, made at once: for a start with very many names, or as many that have changed.
//!
//! Runs on the thread `tables`, and on helpers at a start. What an [`Update`](super::update::Update) looks up for each
//! name, in the store and in the table before, would be waited for in memory, one name after the other. Here all names
//! of the store are put in the order of the table first, and what one shard is made of is brought from memory together.
//! They are put apart by ranges of their hashes, of which each is put in order by itself: no step is long, and each
//! range stays in the nearest memory.

use std::ops::Range;
use std::thread;

use smallvec::SmallVec;

use super::crowded::Crowded;
use super::root::Root;
use super::shard::{Shard, ShardWriter};
use super::shard_of;
use super::update::{Below, NameRecord, append_sets, shards_for};
use crate::policy::rules::Rules;
use crate::policy::select::Standing;
use crate::store::{Cursor, ReadStore, Record, SharedStore, Store};
use crate::sys::parallel_map::parallel_map;
use crate::sys::sched::{SHORT_STEPS, give_back, yield_every};
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
    /// Copies what `store` answers. What changes meanwhile may be there as it was, as it is, both, or neither: its name
    /// has to be looked up once more.
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
            thread::yield_now();
        }
        copied
    }

    /// Frees them.
    pub(super) fn give_back(self) {
        give_back(self.arena);
        give_back(self.records);
    }

    /// One of so many shares of them, each of records that follow each other.
    fn share(&self, share: usize, shares: usize) -> impl Iterator<Item = (Standing, Record<'_>)> {
        let place = |share: usize| share * self.records.len() / shares;
        let here = place(share)..place(share + 1);
        let mut begin = here.start.checked_sub(1).map_or(0, |before| self.records[before].0);
        self.records[here].iter().map(move |&(end, standing)| {
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

/// Makes shards of all that `store` answers, with up to so many threads. `count` is told the names, in wire form and
/// lower case, each once, and counts what is above them.
pub(super) fn whole(
    store: &Store,
    making: Making<'_>,
    count: impl Fn(&[u8], &mut Below) + Sync,
    threads: usize,
) -> Whole {
    let ranges = ranges_for(store.len());
    let found = parallel_map((0..threads).collect(), |share| {
        let records = store.answered(share, threads);
        let records = records.map(|(log, record)| (store.standing(log, &record), record));
        in_ranges(records, making.seed, ranges, store.len() / threads)
    });
    make(found, making, count)
}

/// The same of what has been copied out of a store.
pub(super) fn whole_of_copy(
    copied: &Copied,
    making: Making<'_>,
    count: impl Fn(&[u8], &mut Below) + Sync,
    threads: usize,
) -> Whole {
    let records = copied.records.len();
    let found = parallel_map((0..threads).collect(), |share| {
        in_ranges(copied.share(share, threads), making.seed, ranges_for(records), records / threads)
    });
    make(found, making, count)
}

/// Ranges of hashes at most: items of a range are put in order in a fraction of a millisecond.
const MAX_RANGES: usize = 1_024;

/// Ranges of hashes by which the items of so many records are put apart: a power of two, and at most as many as there
/// will be shards, so that each shard is in one range.
fn ranges_for(records: usize) -> usize {
    shards_for(records).min(MAX_RANGES)
}

/// Makes the shards of items that are there by their shares of the store, and in each by the range of their hashes, on
/// as many threads as there are shares.
fn make(
    found: Vec<Vec<Vec<Item<'_>>>>,
    making: Making<'_>,
    count: impl Fn(&[u8], &mut Below) + Sync,
) -> Whole {
    let (threads, ranges) = (found.len(), found[0].len());
    let shards = shards_for(found.iter().flatten().map(Vec::len).sum());
    let mut by_range: Vec<Vec<Vec<Item<'_>>>> = vec![Vec::with_capacity(threads); ranges];
    for share in found {
        by_range.iter_mut().zip(share).for_each(|(range, items)| range.push(items));
    }
    let mut by_range = by_range.into_iter().enumerate();
    let place = |thread: usize| thread * ranges / threads;
    let parts =
        (0..threads).map(|thread| by_range.by_ref().take(place(thread + 1) - place(thread)).collect());
    let made = parallel_map(parts.collect(), |ranges_here: Vec<(usize, Vec<Vec<Item<'_>>>)>| {
        let mut writer = Writer::new(making, shards / ranges * ranges_here.len());
        for (range, items) in ranges_here {
            let here = shards / ranges;
            writer.shards(&in_order(items), (range * here..(range + 1) * here, shards), &count);
        }
        writer.finish()
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

/// The items of so many records, by the range that their names' hashes are in.
fn in_ranges<'a>(
    records: impl Iterator<Item = (Standing, Record<'a>)>,
    seed: HashSeed,
    ranges: usize,
    count: usize,
) -> Vec<Vec<Item<'a>>> {
    // Most have a pointer; and chance may add a little.
    let likely = 2 * count / ranges;
    let room = likely + 3 * likely.isqrt();
    let mut items = Vec::with_capacity(ranges);
    for range in 0..ranges {
        yield_every(SHORT_STEPS, range);
        items.push(Vec::with_capacity(room));
    }
    let mut folded = QueryName::default();
    let mut hash = |name: &[u8]| {
        folded.fold_wire(name, seed).expect("names are valid");
        folded.hash()
    };
    for (done, (standing, record)) in records.enumerate() {
        yield_every(HASHED_AT_ONCE, done);
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

/// Records that are hashed before others may have the CPU.
const HASHED_AT_ONCE: usize = 64;

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
    shard: ShardWriter,
    made: MadeRanges,
}

/// The shards of some ranges, and what there is to tell of them.
struct MadeRanges {
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

impl<'a> Writer<'a> {
    /// With room for so many shards.
    fn new(making: Making<'a>, shards: usize) -> Self {
        let (below, crowded) = (Below::default(), Crowded::default());
        let made = MadeRanges { shards: Vec::with_capacity(shards), names: 0, below, crowded };
        Self { making, arena: Vec::new(), names: Vec::new(), shard: ShardWriter::default(), made }
    }

    fn finish(self) -> MadeRanges {
        let Self { mut made, shard, .. } = self;
        made.crowded.add_names(shard.left_out());
        made
    }

    /// Makes the shards with these numbers, of so many, from all items that are in them.
    fn shards(
        &mut self,
        items: &[Item<'_>],
        (numbers, of): (Range<usize>, usize),
        count: &impl Fn(&[u8], &mut Below),
    ) {
        let mut rest = items;
        for number in numbers {
            yield_every(SHORT_STEPS, number);
            let here = rest.iter().take_while(|item| shard_of(item.hash, of) == number).count();
            let (here, after) = rest.split_at(here);
            rest = after;
            self.write(here, count);
            self.made.names += self.names.len();
            self.made.shards.push(self.shard.finish_new());
        }
    }

    /// Writes the shard that has these records.
    fn write(&mut self, items: &[Item<'_>], count: &impl Fn(&[u8], &mut Below)) {
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
                self.made.crowded.note(name, left_out);
                let (sets, end) = (begin + name.len(), self.arena.len());
                self.names.push(Made { hash: same[0].hash, begin, sets, end });
                count(name, &mut self.made.below);
            }
        }
        self.shard.begin(self.names.len());
        for &Made { hash, begin, sets, end } in &self.names {
            self.shard.name(hash, &self.arena[begin..sets], &self.arena[sets..end]);
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
