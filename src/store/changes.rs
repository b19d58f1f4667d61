//! The changes of one log by their numbers, packed: a node holds millions.
//!
//! Pure. Runs on whichever thread has the lock. Numbers are dense but for what is void, and nearly always new ones are
//! the highest. So sixteen neighbours share a block of bytes, in which they stand one after the other, each behind its
//! length: five bytes of overhead for each, where a map of allocations of their own took fifty.

use std::collections::BTreeMap;
use std::ops::RangeFrom;

use super::codec::{Reader, put_bytes};
use super::record::Record;

/// Changes in a block at most.
const BLOCK: u64 = BLOCK_LEN as u64;
pub(super) const BLOCK_LEN: usize = 16;

const _: () = assert!(BLOCK <= u16::BITS as u64, "a block has a bit for each of its numbers");

const LIVE: u8 = 1;
const TOMBSTONE: u8 = 0;

/// A change: a flag, then the registration's bytes, or for a tombstone those of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Change<'a>(&'a [u8]);

impl<'a> Change<'a> {
    /// Reads it; `None` if it is none.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&flag, record) = bytes.split_first()?;
        let key = Record::read(record).ok()?.key;
        (flag == LIVE || flag == TOMBSTONE && key.len() == record.len()).then_some(Self(bytes))
    }

    /// Makes `change` the bytes of a registration as a change.
    pub(super) fn register(record: &[u8], change: &mut Vec<u8>) {
        change.clear();
        change.push(LIVE);
        change.extend_from_slice(record);
    }

    /// That the registration with the bytes `key` is no more, as a change.
    pub(super) fn removed(key: &[u8]) -> Box<[u8]> {
        [&[TOMBSTONE], key].concat().into()
    }

    /// A change that was [read](Self::read) before.
    pub(super) fn known(bytes: &'a [u8]) -> Self {
        debug_assert!(Self::read(bytes).is_some());
        Self(bytes)
    }

    pub(super) fn is_live(self) -> bool {
        self.0.first() == Some(&LIVE)
    }

    /// Flag and all.
    pub(super) fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// What is registered.
    pub(super) fn record_bytes(self) -> &'a [u8] {
        &self.0[1..]
    }

    /// Whether it is about the registration with the bytes `key`.
    pub(super) fn has_key(self, key: &[u8]) -> bool {
        self.record_bytes().starts_with(key)
    }

    pub(super) fn record(self) -> Record<'a> {
        Record::known(self.record_bytes())
    }
}

/// Changes by number.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    blocks: BTreeMap<u64, Block>,
    len: usize,
    tombstones: usize,
    bytes: usize,
}

/// Some neighbours.
#[derive(Clone, Debug, Default)]
pub(super) struct Block {
    /// Which of its numbers are there.
    present: u16,
    /// Which of them are tombstones.
    tombstones: u16,
    bytes: Vec<u8>,
}

impl Block {
    /// Where the change that is `place`th in the block begins.
    fn offset(&self, place: u64) -> usize {
        if self.present >> place == 0 {
            return self.bytes.len(); // behind all, as nearly always
        }
        let before = (self.present & ((1 << place) - 1)).count_ones();
        let mut reader = Reader(&self.bytes);
        for _ in 0..before {
            reader.bytes(usize::MAX).expect("written whole");
        }
        self.bytes.len() - reader.0.len()
    }

    fn has(&self, place: u64) -> bool {
        self.present & (1 << place) != 0
    }

    fn at(&self, offset: usize) -> &[u8] {
        Reader(&self.bytes[offset..]).bytes(usize::MAX).expect("written whole")
    }

    /// All changes with their numbers, in a block that begins with this one.
    pub(super) fn changes(&self, begin: u64) -> impl Iterator<Item = (u64, Change<'_>)> {
        self.from(0).map(move |(place, change)| (begin + place, change))
    }

    /// The changes from `place` on, with their places.
    fn from(&self, place: u64) -> impl Iterator<Item = (u64, Change<'_>)> {
        let mut reader = Reader(&self.bytes[self.offset(place)..]);
        let places = (place..BLOCK).filter(|&place| self.has(place));
        places.map(move |place| (place, Change(reader.bytes(usize::MAX).expect("written whole"))))
    }
}

/// Blocks without tombstones that are passed over at once.
const BLOCKS_TOGETHER: usize = 16;

/// Tombstones of one block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tombstones {
    begin: u64,
    which: u16,
    /// Where to look for more.
    pub(super) next: u64,
    /// How many blocks were looked at.
    pub(super) blocks: usize,
}

impl Tombstones {
    /// Their numbers.
    pub(super) fn numbers(self) -> impl Iterator<Item = u64> {
        (0..BLOCK).filter(move |place| self.which & (1 << place) != 0).map(move |place| self.begin + place)
    }
}

impl Changes {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn tombstones(&self) -> usize {
        self.tombstones
    }

    /// Bytes of all changes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, number: u64) -> Option<Change<'_>> {
        let block = self.blocks.get(&(number / BLOCK)).filter(|block| block.has(number % BLOCK))?;
        Some(Change(block.at(block.offset(number % BLOCK))))
    }

    /// Puts a change where none is.
    pub(super) fn insert(&mut self, number: u64, change: Change<'_>) {
        let (block, place) = (self.blocks.entry(number / BLOCK).or_default(), number % BLOCK);
        debug_assert!(!block.has(place));
        let offset = block.offset(place);
        if offset == block.bytes.len() {
            if block.present == 0 && place == 0 {
                // As if the others were as long, and a little more: it is given back when the block is full.
                block.bytes.reserve((change.0.len() + 4) * BLOCK_LEN);
            }
            put_bytes(&mut block.bytes, change.0);
        } else {
            let mut bytes = Vec::with_capacity(change.0.len() + 3);
            put_bytes(&mut bytes, change.0);
            block.bytes.splice(offset..offset, bytes);
        }
        block.present |= 1 << place;
        block.tombstones |= u16::from(!change.is_live()) << place;
        // What comes next is in another block, nearly always.
        if place == BLOCK - 1 {
            block.bytes.shrink_to_fit();
        }
        self.len += 1;
        self.bytes += change.0.len();
        self.tombstones += usize::from(!change.is_live());
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Box<[u8]>> {
        let block = self.blocks.get_mut(&(number / BLOCK)).filter(|block| block.has(number % BLOCK))?;
        let offset = block.offset(number % BLOCK);
        let mut reader = Reader(&block.bytes[offset..]);
        let bytes: Box<[u8]> = reader.bytes(usize::MAX).expect("written whole").into();
        let end = block.bytes.len() - reader.0.len();
        block.bytes.drain(offset..end);
        block.present &= !(1 << (number % BLOCK));
        block.tombstones &= block.present;
        if block.present == 0 {
            self.blocks.remove(&(number / BLOCK));
        }
        self.len -= 1;
        self.bytes -= bytes.len();
        self.tombstones -= usize::from(!Change(&bytes).is_live());
        Some(bytes)
    }

    /// Takes the first block out, with the number that it begins with.
    pub(super) fn take_block(&mut self) -> Option<(u64, Block)> {
        let (number, block) = self.blocks.pop_first()?;
        self.len -= block.present.count_ones() as usize;
        self.tombstones -= block.tombstones.count_ones() as usize;
        self.bytes -= block.changes(0).map(|(_, change)| change.0.len()).sum::<usize>();
        Some((number * BLOCK, block))
    }

    /// The tombstones with numbers from `from` on that are in the next block which has some; it looks at a few blocks
    /// only and then may have found none.
    pub(super) fn next_tombstones(&self, from: u64) -> Option<Tombstones> {
        let mut found = None;
        for (looked, (&number, block)) in (1..=BLOCKS_TOGETHER).zip(self.blocks.range(from / BLOCK..)) {
            let below = if number == from / BLOCK { (1u16 << (from % BLOCK)) - 1 } else { 0 };
            let which = block.tombstones & !below;
            let begin = number * BLOCK;
            found = Some(Tombstones { begin, which, next: begin + BLOCK, blocks: looked });
            if which != 0 {
                break;
            }
        }
        found
    }

    /// The changes in the order of their numbers, from one on.
    pub(super) fn range(&self, range: RangeFrom<u64>) -> impl Iterator<Item = (u64, Change<'_>)> {
        let first = range.start / BLOCK;
        self.blocks.range(first..).flat_map(move |(&number, block)| {
            let begin = if number == first { range.start % BLOCK } else { 0 };
            block.from(begin).map(move |(place, change)| (number * BLOCK + place, change))
        })
    }

    /// Those that are no tombstones.
    pub(super) fn live(&self) -> impl Iterator<Item = Change<'_>> {
        self.live_share(0, 1)
    }

    /// One of `shares` shares of these.
    pub(super) fn live_share(&self, share: usize, shares: usize) -> impl Iterator<Item = Change<'_>> {
        let is_in_share = move |number: u64| number % shares as u64 == share as u64;
        let blocks = self.blocks.iter().filter(move |(number, _)| is_in_share(**number));
        blocks
            .flat_map(|(_, block)| block.from(0))
            .map(|(_, change)| change)
            .filter(|change| change.is_live())
    }

    /// Bytes on the heap, but for what the allocator adds.
    pub(super) fn heap_len(&self) -> usize {
        let slots = self.blocks.len() * (size_of::<u64>() + size_of::<Block>());
        slots + self.blocks.values().map(|block| block.bytes.capacity()).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::btree_map::Entry;

    use super::*;
    use crate::store::{Attributes, Key, encode};
    use crate::wire::name::Name;

    fn change(number: u64, live: bool) -> Box<[u8]> {
        let name =
            Name::from_text(&format!("{}.example", "x".repeat(1 + usize::try_from(number % 50).unwrap())))
                .unwrap();
        let bytes = encode(&Key::address("i", &name, [10, 0, 0, 1].into()), &Attributes::default());
        let mut change = Vec::new();
        Change::register(&bytes, &mut change);
        if live { change.into() } else { Change::removed(&bytes) }
    }

    #[test]
    fn they_are_what_a_map_of_them_would_be() {
        let mut rng = fastrand::Rng::with_seed(2);
        let (mut changes, mut model) = (Changes::default(), BTreeMap::new());
        for _ in 0..20_000 {
            let number = rng.u64(..300);
            if rng.bool() {
                assert_eq!(changes.remove(number), model.remove(&number));
            } else if let Entry::Vacant(vacant) = model.entry(number) {
                let bytes = change(number, rng.u8(..4) > 0);
                changes.insert(number, Change::known(&bytes));
                vacant.insert(bytes);
            }
            assert_eq!(changes.get(number).map(Change::as_bytes), model.get(&number).map(|bytes| &**bytes));
            let from = rng.u64(..310);
            if rng.u8(..20) == 0 {
                let found = changes.range(from..).map(|(number, change)| (number, change.as_bytes()));
                assert!(found.eq(model.range(from..).map(|(&number, bytes)| (number, &**bytes))));
                assert_eq!(changes.len(), model.len());
                assert_eq!(changes.bytes(), model.values().map(|bytes| bytes.len()).sum::<usize>());
                assert_eq!(changes.tombstones() + changes.live().count(), model.len());
            }
        }
    }

    #[test]
    fn a_million_would_take_little_above_their_bytes() {
        let mut changes = Changes::default();
        let mut total = 0;
        for number in 1..=10_000 {
            let bytes = change(number, true);
            total += bytes.len();
            changes.insert(number, Change::known(&bytes));
        }
        let overhead = (changes.heap_len() - total) as f64 / 10_000.0;
        assert!(overhead < 5.0, "{overhead} bytes for each");
    }
}
