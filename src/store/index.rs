//! Where in the logs the changes stand, by the names of their records.
//!
//! Pure. Runs on whichever thread has the lock. Twelve bytes an entry: the bytes that are looked for stand in the logs.
//! A registration is found by its own name, which is part of its key, and by its address's reverse name; a tombstone by
//! its own name.

use foldhash::fast::SeedableRandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;
use std::hash::BuildHasher;

use super::record::Record;
use super::statement::STATEMENT;
use crate::limits::MAX_CHANGES;
use crate::sys::parallel_map::parallel_map;

/// A change, by the place of its log and its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ChangePlace(u64);

const NUMBER_BITS: u32 = 48;

const _: () = assert!(MAX_CHANGES == 1 << NUMBER_BITS);

impl ChangePlace {
    pub(super) fn new(log: u16, number: u64) -> Self {
        debug_assert!(number < MAX_CHANGES);
        Self(u64::from(log) << NUMBER_BITS | number)
    }

    /// What the places of one log take.
    pub(super) const LOG: u64 = 1 << NUMBER_BITS;

    /// The place with this number among those of all logs.
    pub(super) fn from_number(number: u64) -> Self {
        Self(number)
    }

    pub(super) fn as_number(self) -> u64 {
        self.0
    }

    pub(super) fn log(self) -> u16 {
        (self.0 >> NUMBER_BITS) as u16
    }

    pub(super) fn number(self) -> u64 {
        self.0 & ((1 << NUMBER_BITS) - 1)
    }
}

/// Parts of the index. They have shares of the names from one to nearly two, so that they double one after the other
/// and not all at a time: half of the room would be empty right after that. And they are so many that one which doubles
/// moves some thousand entries at most, where there are a million names: whoever registers a name waits for that.
const PARTS: usize = 1_024;

/// Registrations that are loaded in one round: what their names' hashes take stays in the caches.
const LOADED: usize = 1 << 16;

/// Registrations or names whose places are touched together: as many as a processor can wait for at once, and more.
pub(super) const WARMED: usize = 64;

/// The index. What is found by a hash has to be compared by whoever has the logs.
pub(super) struct Index {
    /// Whether statements have come, gone or changed since somebody last asked.
    statements_changed: bool,
    hasher: SeedableRandomState,
    parts: Box<[HashTable<PackedPlace>]>,
}

/// A place and a hash, packed. The hash stands beside the place so that the table can grow without the logs.
#[derive(Clone, Copy)]
struct PackedPlace {
    place: [u32; 2],
    hash: u32,
}

impl PackedPlace {
    fn new(place: ChangePlace, hash: u32) -> Self {
        Self { place: [(place.0 >> 32) as u32, short_low(place.0)], hash }
    }

    fn place(self) -> ChangePlace {
        ChangePlace(u64::from(self.place[0]) << 32 | u64::from(self.place[1]))
    }
}

/// Where a registration is found: under its name, and under its address's reverse name if it has one. Each is a part
/// and a hash.
#[derive(Clone, Debug, Default)]
pub(super) struct Spots(SmallVec<[(usize, u32); 2]>);

impl Default for Index {
    fn default() -> Self {
        let parts = (0..PARTS).map(|_| HashTable::new()).collect();
        Self { statements_changed: false, hasher: SeedableRandomState::default(), parts }
    }
}

impl Index {
    /// The part that names with this hash are in, and the hash.
    fn find(&self, name: &[u8]) -> (usize, u32) {
        let hash = self.hasher.hash_one(name);
        (part_of(hash), short(hash))
    }

    /// An empty index whose hashes are the same in each process.
    pub(super) fn fixed() -> Self {
        Self { hasher: SeedableRandomState::fixed(), ..Self::default() }
    }

    /// Makes room for so many entries more.
    pub(super) fn reserve(&mut self, entries: usize) {
        for (i, part) in self.parts.iter_mut().enumerate() {
            // Its share of the names, and a little over what chance may add.
            let share = entries as f64 * part_width(i);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // little more than `entries`
            part.reserve((share + 2.0 * share.sqrt()) as usize, |entry| spread(entry.hash));
        }
    }

    /// Where `record` is found, or will be: a registration that is `live`, or a tombstone.
    pub(super) fn spots(&self, record: &Record<'_>, live: bool) -> Spots {
        let mut spots = Spots::default();
        self.each_hash(record, live, |part, hash| spots.0.push((part, hash)));
        spots
    }

    /// Has memory bring what inserting registrations at these spots will read, for all of them at the same time.
    pub(super) fn warm(&self, spots: &[Spots]) {
        let look = |any: bool, spot: &(usize, u32)| any | has(&self.parts[spot.0], spot.1);
        std::hint::black_box(spots.iter().flat_map(|spots| &spots.0).fold(false, look));
    }

    /// Where there may be changes that are found under the name that `spots` are of.
    pub(super) fn by_spots(&self, spots: &Spots) -> impl Iterator<Item = ChangePlace> {
        let (part, hash) = spots.0[0];
        let found = self.parts[part].iter_hash(spread(hash));
        found.filter(move |entry| entry.hash == hash).map(|entry| entry.place())
    }

    /// The same for what finding these names will read.
    pub(super) fn warm_names(&self, names: &[&[u8]]) {
        let hashes: SmallVec<[_; 2 * WARMED]> = names.iter().map(|name| self.find(name)).collect();
        self.look_at(&hashes);
    }

    /// Looks where these hashes are. There is so little between one and the next that the processor waits for many
    /// together.
    fn look_at(&self, hashes: &[(usize, u32)]) {
        let look = |any: bool, &(part, hash): &(usize, u32)| any | has(&self.parts[part], hash);
        std::hint::black_box(hashes.iter().fold(false, look));
    }

    /// The same as to [insert](Self::insert) each of these registrations, which are found at one place after the other
    /// from `first` on, with so many threads.
    pub(super) fn load(&mut self, first: ChangePlace, registrations: &[&[u8]], threads: usize) {
        // Most are found under two names.
        self.reserve(2 * registrations.len());
        let threads = threads.clamp(1, PARTS);
        let parts_each = PARTS.div_ceil(threads);
        for (round, registrations) in registrations.chunks(LOADED).enumerate() {
            let share = registrations.len().div_ceil(threads);
            let shares: Vec<_> = registrations.chunks(share).enumerate().collect();
            // By who is to insert them.
            let found = parallel_map(shares, |(number, registrations)| {
                let mut found = vec![Vec::new(); threads];
                let mut statements = false;
                let begin = first.0 + (round * LOADED + number * share) as u64;
                for (place, bytes) in (begin..).zip(registrations) {
                    let record = Record::read(bytes).expect("an encoding");
                    statements |= record.rtype == STATEMENT;
                    self.each_hash(&record, true, |part, hash| {
                        found[part / parts_each]
                            .push((part % parts_each, PackedPlace::new(ChangePlace(place), hash)));
                    });
                }
                (found, statements)
            });
            self.statements_changed |= found.iter().any(|(_, statements)| *statements);
            let parts = self.parts.chunks_mut(parts_each).enumerate().collect();
            parallel_map(parts, |(number, parts)| {
                for (found, _) in &found {
                    insert_all(parts, &found[number]);
                }
            });
        }
    }

    /// What `record` says, whose spots these are, is found at `place`.
    pub(super) fn insert(&mut self, place: ChangePlace, record: &Record<'_>, spots: &Spots) {
        self.statements_changed |= record.rtype == STATEMENT;
        for &(part, hash) in &spots.0 {
            self.parts[part]
                .insert_unique(spread(hash), PackedPlace::new(place, hash), |entry| spread(entry.hash));
        }
    }

    pub(super) fn remove(&mut self, place: ChangePlace, record: &Record<'_>, live: bool) {
        self.statements_changed |= record.rtype == STATEMENT;
        for (part, hash) in self.spots(record, live).0 {
            if let Ok(found) = self.parts[part].find_entry(spread(hash), |entry| entry.place() == place) {
                found.remove();
            }
        }
    }

    /// What was found at the place `void` is found at `place` from now on, at the same spots.
    pub(super) fn move_to(
        &mut self,
        place: ChangePlace,
        void: ChangePlace,
        record: &Record<'_>,
        spots: &Spots,
    ) {
        self.statements_changed |= record.rtype == STATEMENT;
        for &(part, hash) in &spots.0 {
            if let Some(entry) = self.parts[part].find_mut(spread(hash), |entry| entry.place() == void) {
                *entry = PackedPlace::new(place, hash);
            }
        }
    }

    /// Calls `with` for each name that the record is found under: the part that it is in, and its hash.
    #[inline]
    fn each_hash(&self, record: &Record<'_>, live: bool, mut with: impl FnMut(usize, u32)) {
        let (part, hash) = self.find(record.name);
        with(part, hash);
        if let Some(reverse) = live.then(|| record.reverse_name()).flatten() {
            let (part, hash) = self.find(reverse.as_wire());
            with(part, hash);
        }
    }

    /// Whether statements have come, gone or changed since that was last taken.
    pub(super) fn statements_changed(&self) -> bool {
        self.statements_changed
    }

    /// They may have: a log that has some came or went.
    pub(super) fn note_statements(&mut self) {
        self.statements_changed = true;
    }

    /// The same, and from now on no longer.
    pub(super) fn take_statements_changed(&mut self) -> bool {
        std::mem::take(&mut self.statements_changed)
    }

    /// Where there may be changes that are found under `name`.
    pub(super) fn by_name(&self, name: &[u8]) -> impl Iterator<Item = ChangePlace> {
        let (part, hash) = self.find(name);
        let found = self.parts[part].iter_hash(spread(hash));
        found.filter(move |entry| entry.hash == hash).map(|entry| entry.place())
    }

    pub(super) fn heap_len(&self) -> usize {
        self.parts.iter().map(HashTable::allocation_size).sum()
    }
}

/// Whether a part has an entry with this hash.
fn has(part: &HashTable<PackedPlace>, hash: u32) -> bool {
    part.find(spread(hash), |entry| entry.hash == hash).is_some()
}

/// Inserts entries, each into its part. Where they go is touched first, for many at the same time.
fn insert_all(parts: &mut [HashTable<PackedPlace>], entries: &[(usize, PackedPlace)]) {
    for some in entries.chunks(WARMED) {
        let look = |any: bool, (part, entry): &(usize, PackedPlace)| any | has(&parts[*part], entry.hash);
        std::hint::black_box(some.iter().fold(false, look));
        for &(part, entry) in some {
            parts[part].insert_unique(spread(entry.hash), entry, |entry| spread(entry.hash));
        }
    }
}

/// The low 24 bits of a hash as a number from 0 up to 1, raised onto a scale on which each part is a little wider than
/// the one before, and the last about twice as wide as the first: the logarithm to base two of 1 to 2, nearly, and
/// cheaper.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // below `PARTS`
fn part_of(hash: u64) -> usize {
    let fraction = (hash & 0x00ff_ffff) as f32 / 16_777_216.0;
    ((fraction + 0.33 * fraction * (1.0 - fraction)) * PARTS as f32) as usize % PARTS
}

/// The share of the names that a part has: what [`part_of`] does, the other way round.
fn part_width(part: usize) -> f64 {
    let begin =
        |part: usize| (1.33 - (1.33f64.powi(2) - 4.0 * 0.33 * part as f64 / PARTS as f64).sqrt()) / 0.66;
    begin(part + 1) - begin(part)
}

#[allow(clippy::cast_possible_truncation)] // the low half is what is wanted
fn short_low(value: u64) -> u32 {
    value as u32
}

#[allow(clippy::cast_possible_truncation)] // its upper half is as good as any
fn short(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// A hash that a table can use, of 32 bits: it takes the top seven and the low ones.
fn spread(short: u32) -> u64 {
    u64::from(short) << 32 | u64::from(short)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_double_one_after_the_other() {
        let mut counts = [0usize; PARTS];
        let hashes = 1u64 << 24;
        (0..hashes).for_each(|hash| counts[part_of(hash)] += 1);
        let widest = counts.iter().max().unwrap();
        let narrowest = counts.iter().min().unwrap();
        assert!((1.8..2.0).contains(&(*widest as f64 / *narrowest as f64)), "{counts:?}");
        for pair in counts.windows(2) {
            assert!((0.99..1.01).contains(&(pair[1] as f64 / pair[0] as f64)), "{counts:?}");
        }
        for (part, count) in counts.iter().enumerate() {
            let width = *count as f64 / hashes as f64;
            assert!((width / part_width(part) - 1.0).abs() < 0.01, "{part}: {width} {}", part_width(part));
        }
        assert_eq!(size_of::<PackedPlace>(), 12);
        let place = ChangePlace::new(65_535, (1 << NUMBER_BITS) - 1);
        assert_eq!(PackedPlace::new(place, 7).place(), place);
    }
}
