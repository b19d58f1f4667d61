//! One shard of the table: some dozens of names with their answers, in a single block of bytes.
//!
//! Read by the workers, written once by the thread `tables`. The block is laid out so that a lookup touches few cache
//! lines and needs no pointer beyond the shard's own:
//!
//! ```text
//! block  = slot u64 × count | entries
//! slot   = offset of an entry u32 (0: empty) | tag u32
//! entry  = name length u8 | lower-cased wire name | record set count u8 | record sets
//! set    = type u16 | record count u16 | length u16 | records | steering, where the count has its top bit set
//! record = as it goes on the wire, its owner a pointer to the question's name
//! ```
//!
//! Integers are little-endian but for what goes on the wire. Slots are an open-addressing hash table with linear
//! probing; the tag, other bits of the hash than those that choose the slot, spares nearly all comparisons of names
//! that would fail. Equal contents make equal blocks, so a publisher can see that a shard has not changed.

use std::sync::Arc;

use crate::limits;
use crate::policy::steering;
use crate::wire::name::{self as wire_name, QueryName};
use crate::wire::record;

/// Bytes of a cache line.
const LINE_LEN: usize = 64;
const SLOT_LEN: usize = 8;
const SET_HEADER_LEN: usize = 6;

pub use crate::limits::MAX_SET_LEN;

/// In the place of the count of record sets: the name is gone. Only where shards that still have it stand behind this
/// one.
const GONE: u8 = u8::MAX;

const _: () =
    assert!(limits::MAX_RECORD_SETS < GONE as usize, "no count of record sets is taken for the mark");
const _: () = assert!(MAX_SET_LEN <= u16::MAX as usize, "a set's length has 16 bits");
const _: () = assert!(MAX_SET_LEN / record::FIXED_LEN < STEERED as usize, "a set's record count has 15 bits");
const _: () = assert!(wire_name::MAX_LEN <= u8::MAX as usize, "a name's length has 8 bits");

/// The bit of a record count that says that a steering follows the records. There are never as many records: each takes
/// twelve bytes at least.
const STEERED: u16 = 1 << 15;

/// The numbers of a set's header: its type, how many records it has, their length and that of the steering behind them.
#[inline]
fn set_header(header: &[u8; SET_HEADER_LEN]) -> (u16, u16, usize, usize) {
    let field = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let count = field(2) & !STEERED;
    let steering_len = if field(2) & STEERED == 0 { 0 } else { steering::len(count.into()) };
    (field(0), count, field(4).into(), steering_len)
}

/// Says that the steering of the set whose header is at `header`, the last in `block`, follows.
pub(super) fn mark_steered(block: &mut [u8], header: usize) {
    block[header + 3] |= STEERED.to_le_bytes()[1];
}

/// What became of the records of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Appended {
    /// How many the set has.
    pub(crate) count: u16,
    /// How many were too much for one answer.
    pub(crate) left_out: usize,
}

/// Appends a record set in a shard's form: the records of one type, by their data. The first that does not fit in
/// [`MAX_SET_LEN`] is left out whole, and so are all behind it.
pub(crate) fn append_set<'a>(
    block: &mut Vec<u8>,
    rtype: u16,
    ttl_s: u32,
    mut data: impl Iterator<Item = &'a [u8]>,
) -> Appended {
    let header = block.len();
    block.resize(header + SET_HEADER_LEN, 0);
    let begin = block.len();
    let (mut count, mut left_out) = (0u16, 0);
    while let Some(rdata) = data.next() {
        if block.len() - begin + record::FIXED_LEN + rdata.len() > MAX_SET_LEN {
            left_out = 1 + data.by_ref().count();
            break;
        }
        record::push_record(block, rtype, ttl_s, rdata);
        count += 1;
    }
    let len = u16::try_from(block.len() - begin).expect("at most MAX_SET_LEN");
    for (at, field) in [rtype, count, len].into_iter().enumerate() {
        block[header + 2 * at..][..2].copy_from_slice(&field.to_le_bytes());
    }
    Appended { count, left_out }
}

/// Lowers the TTL of each record in `sets`, which stand behind their count, to `ttl_s` where it is higher.
pub(crate) fn limit_ttl(sets: &mut [u8], ttl_s: u32) {
    const TTL: std::ops::Range<usize> = record::FIXED_LEN - 6..record::FIXED_LEN - 2;
    let Some((&mut count, mut rest)) = sets.split_first_mut() else { return };
    for _ in 0..count {
        let Some((header, after)) = rest.split_first_chunk_mut() else { return };
        let (_, _, len, steering_len) = set_header(header);
        let Some((mut records, after)) = after.split_at_mut_checked(len) else { return };
        while let Some((fixed, data)) = records.split_at_mut_checked(record::FIXED_LEN) {
            let own = fixed[TTL].iter().fold(0, |ttl_s, &byte| ttl_s << 8 | u32::from(byte));
            fixed[TTL].copy_from_slice(&own.min(ttl_s).to_be_bytes());
            let data_len = usize::from(u16::from_be_bytes([fixed[TTL.end], fixed[TTL.end + 1]]));
            records = data.get_mut(data_len..).unwrap_or_default();
        }
        rest = after.get_mut(steering_len..).unwrap_or_default();
    }
}

/// Bytes of a shard's block before its last entry at most: slots have 32 bits for where an entry begins.
const MAX_BLOCK_LEN: usize = u32::MAX as usize;

/// The block of a shard in the making. One writer serves for all shards of a table.
pub(crate) struct ShardWriter {
    block: Vec<u8>,
    slots: usize,
    max_block_len: usize,
    left_out: usize,
}

// cold: made with a table, on the thread `tables`
impl Default for ShardWriter {
    fn default() -> Self {
        Self { block: Vec::new(), slots: 0, max_block_len: MAX_BLOCK_LEN, left_out: 0 }
    }
}

impl ShardWriter {
    /// Names that were left out of all shards so far, since their block was full. Names are spread over the shards by a
    /// secret hash: for a block of 4 GiB a table would have to take terabytes.
    pub(crate) fn left_out(&self) -> usize {
        self.left_out
    }

    /// Begins a shard of `names` names.
    pub(crate) fn begin(&mut self, names: usize) {
        // Two slots in three are taken, at most: probing stays short and the slots cost twelve bytes a name.
        self.begin_with(names + names / 2 + 1);
    }

    fn begin_with(&mut self, slots: usize) {
        self.slots = slots;
        self.block.clear();
        self.block.resize(slot_at(self.slots), 0);
    }

    /// Adds a name, lower-cased and different from all others in the shard, with its record sets behind their count.
    pub(crate) fn name(&mut self, hash: u64, name: &[u8], sets: &[u8]) {
        let mut slot = first_slot(hash, self.slots);
        while self.block[slot_at(slot)..][..SLOT_LEN] != [0; SLOT_LEN] {
            slot = (slot + 1) % self.slots;
        }
        self.append(slot, hash, name, sets);
    }

    /// Adds an entry, and has a slot point to it. In a full block it is left out, and the slot stays as it is.
    fn append(&mut self, slot: usize, hash: u64, name: &[u8], sets: &[u8]) {
        let fitting = Some(self.block.len()).filter(|len| *len <= self.max_block_len);
        let Some(offset) = fitting.and_then(|len| u32::try_from(len).ok()) else {
            self.left_out += 1;
            return;
        };
        let word = u64::from(offset) | u64::from(tag(hash)) << 32;
        self.block[slot_at(slot)..][..SLOT_LEN].copy_from_slice(&word.to_le_bytes());
        self.block.push(u8::try_from(name.len()).expect("a wire name has at most 255 bytes"));
        self.block.extend_from_slice(name);
        self.block.extend_from_slice(sets);
    }

    /// Begins with what `old` has, if anything, with room for `more` names or more precise ones of those that are
    /// there: to be added with [`put`](Self::put). Names are hashed by `hash`.
    pub(crate) fn go_on(&mut self, old: Option<&Shard>, more: usize, mut hash: impl FnMut(&[u8]) -> u64) {
        let names = old.map_or(0, |old| old.placed().count());
        let old_slots = old.map_or(0, Shard::slots);
        self.block.clear();
        if let Some(old) = old.filter(|_| 2 * (names + more) <= old_slots) {
            self.slots = old_slots;
            self.block.extend_from_slice(&old.block);
            return;
        }
        // Half of them stay empty until there are twice as many names.
        self.begin_with(4 * (names + more));
        for (name, sets) in old.iter().flat_map(|old| old.placed()) {
            self.name(hash(name), name, sets);
        }
    }

    /// Adds a name, or puts these record sets into the place of those that it has. Without any, not even their count,
    /// it is gone.
    pub(crate) fn put(&mut self, hash: u64, name: &[u8], sets: &[u8]) {
        let sets = if sets.is_empty() { &[GONE][..] } else { sets };
        let mut slot = first_slot(hash, self.slots);
        loop {
            let word = word_at(&self.block, slot);
            if word == 0 {
                return self.name(hash, name, sets);
            }
            let offset = offset_of(word);
            if word >> 32 == u64::from(tag(hash))
                && let Some((stored, before)) = entry_at(&self.block[offset..])
                && stored == name
            {
                if before.len() == sets.len() {
                    self.block[offset + 1 + name.len()..][..sets.len()].copy_from_slice(sets);
                } else {
                    self.append(slot, hash, name, sets);
                }
                return;
            }
            slot = (slot + 1) % self.slots;
        }
    }

    /// The shard as written; `same` if that has become the very same.
    pub(crate) fn finish(&self, same: &Shard) -> Shard {
        let is_same = same.slots() == self.slots && *same.block == *self.block;
        if is_same { same.clone() } else { self.finish_new() }
    }

    /// The shard as written.
    pub(crate) fn finish_new(&self) -> Shard {
        let slots = u32::try_from(self.slots).expect("a block with 2^32 slots alone takes 32 GiB");
        Shard { block: self.block.as_slice().into(), slots }
    }
}

/// An immutable block of names. Tables that have it in common share the block, to which the shard is one pointer.
#[derive(Clone)]
pub(crate) struct Shard {
    block: Arc<[u8]>,
    /// Beside the pointer and not in the block: a look-up can so go to the slot that it wants at once.
    slots: u32,
}

/// The records of one name, borrowed from a table.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// The record sets, one after the other.
    sets: &'a [u8],
}

/// All records of one name and type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordSet<'a> {
    /// Their type.
    pub rtype: u16,
    /// How many there are in answers; none if all that there are have been taken out.
    pub count: u16,
    /// The records one after the other, ready for an answer section.
    pub records: &'a [u8],
    /// How answers are made of them ([`steering`]); empty if all are in each, in random order.
    pub steering: &'a [u8],
}

impl<'a> RecordSet<'a> {
    /// Its records one by one, each with a pointer to the question as its owner.
    pub fn each(self) -> impl Iterator<Item = &'a [u8]> {
        let mut rest = self.records;
        std::iter::from_fn(move || {
            let fixed = rest.first_chunk::<{ record::FIXED_LEN }>()?;
            let len =
                usize::from(u16::from_be_bytes([fixed[record::FIXED_LEN - 2], fixed[record::FIXED_LEN - 1]]));
            let (record, after) = rest.split_at_checked(record::FIXED_LEN + len)?;
            rest = after;
            Some(record)
        })
    }
}

impl Shard {
    /// The records of `name`, if it is here.
    #[inline]
    pub(crate) fn find(&self, name: &QueryName) -> Option<Entry<'_>> {
        self.candidates(name.hash()).find_map(|bytes| entry_of(bytes, name))
    }

    /// What begins with each of the entries whose names may have this hash: rarely is there a second one.
    #[inline]
    fn candidates(&self, hash: u64) -> impl Iterator<Item = &[u8]> {
        let (block, slots, wanted) = (&*self.block, self.slots(), u64::from(tag(hash)));
        let mut slot = first_slot(hash, slots);
        std::iter::from_fn(move || {
            loop {
                let word = word_at(block, slot);
                if word == 0 {
                    return None; // at least one slot is empty, so every search ends
                }
                slot = if slot + 1 == slots { 0 } else { slot + 1 };
                if word >> 32 == wanted {
                    return Some(&block[offset_of(word)..]);
                }
            }
        })
    }

    /// Bytes on the heap.
    pub(crate) fn heap_len(&self) -> usize {
        self.block.len() + 2 * size_of::<usize>() // the counts of its `Arc`
    }

    /// Where its block is.
    pub(super) fn address(&self) -> usize {
        self.block.as_ptr().addr()
    }

    /// How many have its block: to ask brings that count from memory.
    pub(super) fn owners(&self) -> usize {
        Arc::strong_count(&self.block)
    }

    /// Has memory bring all of it, at once.
    pub(super) fn warm(&self) {
        std::hint::black_box(self.block.iter().step_by(LINE_LEN).fold(0, |seen, byte| seen ^ byte));
    }

    /// Whether both are the same block, not only equal ones.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.block, &other.block)
    }
}

/// Names that are looked up together at most: enough for their waits for memory to overlap, and few enough for all that
/// is read for them to stay in the nearest cache until they are answered.
pub const MAX_TOGETHER: usize = crate::limits::MAX_TOGETHER;

/// Looks up names together, each in its shard. The steps of a look-up wait for memory one after the other, since each
/// says where the next one reads; done step by step for all names, those of different names do not.
#[inline]
pub(crate) fn find_together<'a>(
    names: &[QueryName],
    shard: impl Fn(u64) -> &'a Shard,
    found: &mut [Option<Entry<'a>>; MAX_TOGETHER],
) {
    let names = &names[..names.len().min(MAX_TOGETHER)];
    let mut shards = [shard(0); MAX_TOGETHER];
    for (i, name) in names.iter().enumerate() {
        shards[i] = shard(name.hash());
    }
    let mut seen = 0;
    for (i, name) in names.iter().enumerate() {
        let slot = slot_at(first_slot(name.hash(), shards[i].slots()));
        seen ^= shards[i].block.get(slot).copied().unwrap_or_default();
    }
    let mut entries = [&[][..]; MAX_TOGETHER];
    for (i, name) in names.iter().enumerate() {
        entries[i] = shards[i].candidates(name.hash()).next().unwrap_or_default();
        // An entry is rarely on more than two cache lines.
        for at in [0, LINE_LEN - 1] {
            seen ^= entries[i].get(at).copied().unwrap_or_default();
        }
    }
    std::hint::black_box(seen);
    for (i, name) in names.iter().enumerate() {
        found[i] = match entry_of(entries[i], name) {
            None if !entries[i].is_empty() => shards[i].find(name),
            sure => sure,
        };
    }
}

/// The entry that `bytes` begin with, if it is that of `name`.
#[inline]
fn entry_of<'a>(bytes: &'a [u8], name: &QueryName) -> Option<Entry<'a>> {
    let (&len, after) = bytes.split_first()?;
    let (stored, sets) = after.split_at_checked(len.into())?;
    (stored == name.as_wire()).then_some(Entry { sets })
}

#[inline]
fn slot_at(slot: usize) -> usize {
    slot * SLOT_LEN
}

/// Where the search for a hash begins: its low half scaled to the number of slots.
#[inline]
#[allow(clippy::cast_possible_truncation)] // below `slots`
fn first_slot(hash: u64, slots: usize) -> usize {
    (((hash & 0xffff_ffff) * slots as u64) >> 32) as usize
}

/// Bits of the hash that mostly do not choose the slot within a small shard, nor the shard.
#[inline]
#[allow(clippy::cast_possible_truncation)] // 32 of the bits are what is wanted
fn tag(hash: u64) -> u32 {
    (hash >> 12) as u32
}

impl Shard {
    /// All names with their record sets behind their count, in the order of their hashes.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.block[slot_at(self.slots())..];
        std::iter::from_fn(move || {
            let (name, sets) = entry_at(rest)?;
            rest = &rest[1 + name.len() + sets.len()..];
            Some((name, sets))
        })
    }

    /// The same by the slots, in no order: for shards that were written with [`ShardWriter::put`].
    pub(crate) fn placed(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let words = (0..self.slots()).map(|slot| word_at(&self.block, slot)).filter(|word| *word != 0);
        words.filter_map(|word| entry_at(&self.block[offset_of(word)..]))
    }

    #[inline]
    fn slots(&self) -> usize {
        self.slots as usize
    }
}

#[inline]
fn word_at(block: &[u8], slot: usize) -> u64 {
    u64::from_le_bytes(block[slot_at(slot)..][..SLOT_LEN].try_into().expect("eight bytes"))
}

/// Where the entry of a slot is.
#[inline]
#[allow(clippy::cast_possible_truncation)] // the low half is what is wanted
fn offset_of(word: u64) -> usize {
    word as u32 as usize
}

/// The name and the record sets, behind their count, of the entry that `bytes` begin with.
fn entry_at(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&name_len, after) = bytes.split_first()?;
    let (name, after) = after.split_at_checked(usize::from(name_len))?;
    let mut len = 1;
    for _ in 0..Some(*after.first()?).filter(|count| *count != GONE).unwrap_or(0) {
        let (_, _, records_len, steering_len) = set_header(after.get(len..)?.first_chunk()?);
        len += SET_HEADER_LEN + records_len + steering_len;
    }
    Some((name, after.get(..len)?))
}

impl<'a> Entry<'a> {
    /// The records in `sets`, behind their count as in a shard.
    #[inline]
    pub(crate) fn from_sets(sets: &'a [u8]) -> Self {
        Self { sets }
    }

    /// Whether this says that the name is gone, which stands behind only for shards that still have it.
    #[inline]
    pub(super) fn is_gone(self) -> bool {
        self.sets.first() == Some(&GONE)
    }

    /// The records of type `rtype` that answers have.
    #[inline]
    #[must_use]
    pub fn get(self, rtype: u16) -> Option<RecordSet<'a>> {
        self.sets().find(|set| set.rtype == rtype && set.count > 0)
    }

    /// All record sets that answers have, in the order of their types.
    #[inline]
    pub fn answerable(self) -> impl Iterator<Item = RecordSet<'a>> {
        self.sets().filter(|set| set.count > 0)
    }

    /// All record sets, in the order of their types; none for a name that exists only because others stand below it.
    #[inline]
    pub fn sets(self) -> impl Iterator<Item = RecordSet<'a>> {
        let (count, mut rest) =
            self.sets.split_first().map_or((0, self.sets), |(&count, rest)| (count, rest));
        (0..count).map_while(move |_| {
            let (header, after) = rest.split_first_chunk()?;
            let (rtype, count, len, steering_len) = set_header(header);
            let (records, after) = after.split_at_checked(len)?;
            let (steering, after) = after.split_at_checked(steering_len)?;
            rest = after;
            Some(RecordSet { rtype, count, records, steering })
        })
    }
}

#[cfg(test)]
mod bounds;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::{HashSeed, Name};

    const SEED: HashSeed = HashSeed::from_words(3, 5);

    fn folded(i: usize) -> QueryName {
        QueryName::from_name(&Name::from_text(&format!("n{i}.x")).unwrap(), SEED)
    }

    #[test]
    fn every_name_placed_is_found_and_no_other() {
        for count in [0, 1, 2, 3, 50, 500] {
            let names: Vec<_> = (0..count).map(folded).collect();
            let mut writer = ShardWriter::default();
            writer.begin(count);
            for (i, name) in names.iter().enumerate() {
                let mut sets = vec![2];
                append_set(&mut sets, 1, 7, [&[i.to_le_bytes()[0]; 3][..]].into_iter());
                append_set(&mut sets, 28, 7, [&[9; 4][..], &[8; 4]].into_iter());
                writer.name(name.hash(), name.as_wire(), &sets);
            }
            let shard = writer.finish_new();
            assert!(writer.finish(&shard).is_same(&shard), "what is the same is shared");
            for names in names.chunks(MAX_TOGETHER) {
                let mut found = [None; MAX_TOGETHER];
                find_together(names, |_| &shard, &mut found);
                let alone = names.iter().map(|name| shard.find(name).unwrap().sets.as_ptr());
                let found = found.iter().flatten().map(|entry| entry.sets.as_ptr());
                assert!(found.eq(alone));
            }
            assert!(shard.entries().map(|(name, _)| name).eq(names.iter().map(QueryName::as_wire)));
            assert!(shard.entries().all(|(_, sets)| sets.len() == 1 + 2 * 6 + 15 + 2 * 16));
            for (i, name) in names.iter().enumerate() {
                let entry = shard.find(name).unwrap();
                let expected =
                    [&b"\xc0\x0c\0\x01\0\x01\0\0\0\x07\0\x03"[..], &[i.to_le_bytes()[0]; 3]].concat();
                assert_eq!(
                    entry.get(1),
                    Some(RecordSet { rtype: 1, count: 1, records: &expected, steering: &[] })
                );
                let two = entry.get(28).unwrap();
                assert_eq!((two.count, two.records.len()), (2, 2 * 16));
                assert_eq!(entry.get(2), None);
                assert_eq!(entry.sets().count(), 2);
            }
            for i in count..count + 100 {
                assert!(shard.find(&folded(i)).is_none());
            }
        }
    }
}
