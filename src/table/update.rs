//! The next table: the one before it with some names changed.
//!
//! Runs on the thread `tables`. Only the shards that the changed names are in are written anew. A name that exists
//! because others stand below it is counted by them, so that it comes and goes with the first and the last of them.

use std::collections::HashMap;

use smallvec::SmallVec;

use super::recent::{self, Recent};
use super::root::Root;
use super::shard::{Appended, Shard, ShardWriter, append_set, mark_steered};
use super::{Table, Zone, ZoneSettings, shard_of};
use crate::limits::{MAX_RECORD_SETS, MAX_SET_LEN};
use crate::policy::select::{Standing, select};
use crate::policy::{Order, Policy, steering};
use crate::store::NameSet;
use crate::sys::sched::{SHORT_STEPS, yield_every};
use crate::wire::name::{HashSeed, Name, QueryName, suffix_at};
use crate::wire::record::{FIXED_LEN, rtype};

const _: () = assert!(
    MAX_RECORD_SETS * (MAX_SET_LEN + 64 + 4 * steering::MAX_ADDRESSES) <= u32::MAX as usize,
    "the length of a name's record sets has 32 bits"
);
const _: () = assert!(
    MAX_SET_LEN / (FIXED_LEN + 4) <= steering::MAX_ADDRESSES,
    "all addresses of a set can be steered"
);

/// Names per shard aimed at: few enough that copying one shard for one change is cheap, enough that the shards' fixed
/// cost is spread thin.
pub(super) const NAMES_PER_SHARD: usize = 16;
/// Shards of the smallest and of the largest table. The pointers to the latter take 2 MiB.
pub(super) const SHARDS: std::ops::RangeInclusive<usize> = 64..=131_072;

/// What a name and its records take, as a guess.
const LIKELY_LEN: usize = 64;

/// A record of a name.
#[derive(Clone, Copy)]
pub(super) struct NameRecord<'a> {
    pub(super) rtype: u16,
    /// How long others may keep it.
    pub(super) ttl_s: u32,
    pub(super) rdata: &'a [u8],
    /// If it is an address, how that stands.
    pub(super) standing: Standing,
}

impl<'a> NameRecord<'a> {
    pub(super) fn new(rtype: u16, ttl_s: u32, rdata: &'a [u8]) -> Self {
        Self { rtype, ttl_s, rdata, standing: Standing::default() }
    }
}

/// Names, in wire form and lower case, and how many names with records stand below each of them in its zone. Names
/// right below their zone count for nobody, so that most names cost nothing here.
pub(super) type Below = HashMap<Box<[u8]>, usize>;

/// How many names a table has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Counts {
    /// All that exist.
    pub(super) entries: usize,
    /// Those with records.
    pub(super) names: usize,
}

/// Names with their records, to be put into the place of what there was.
pub(super) struct Update {
    seed: HashSeed,
    /// The name that was added last; kept for its room.
    folded: QueryName,
    entries: Vec<StagedName>,
    arena: Vec<u8>,
}

/// A name and its record sets as a shard has them, one after the other in the arena, which may have more than 4 GiB.
#[derive(Clone, Copy)]
struct StagedName {
    hash: u64,
    at: usize,
    name_len: u8,
    sets_len: u32,
}

impl Update {
    /// With room for so many names.
    pub(super) fn new(seed: HashSeed, names: usize) -> Self {
        Self {
            seed,
            folded: QueryName::default(),
            entries: Vec::with_capacity(names),
            arena: Vec::with_capacity(names * LIKELY_LEN),
        }
    }

    fn name(&self, entry: &StagedName) -> &[u8] {
        &self.arena[entry.at..][..usize::from(entry.name_len)]
    }

    /// The count of its record sets, and they; empty for a name that does not exist.
    fn sets(&self, entry: &StagedName) -> &[u8] {
        &self.arena[entry.at + usize::from(entry.name_len)..][..entry.sets_len as usize]
    }

    /// The changed `name` has these records now, in any order, and its answers are made of them by `policy`.
    ///
    /// `exists` says whether the name exists without any, too. Returns how many records are too many for a table.
    pub(super) fn push(
        &mut self,
        name: &[u8],
        records: &mut SmallVec<[NameRecord<'_>; 8]>,
        policy: &Policy,
        exists: bool,
    ) -> usize {
        let at = self.begin(name);
        let is_there = exists || !records.is_empty();
        let left_out = if is_there { append_sets(&mut self.arena, records, policy) } else { 0 };
        self.end(name, at);
        left_out
    }

    fn begin(&mut self, name: &[u8]) -> usize {
        let at = self.arena.len();
        self.arena.extend_from_slice(name);
        at
    }

    fn end(&mut self, name: &[u8], at: usize) {
        self.folded.fold_wire(name, self.seed).expect("names are valid");
        let sets_len = self.arena.len() - at - name.len();
        self.entries.push(StagedName {
            hash: self.folded.hash(),
            at,
            name_len: u8::try_from(name.len()).expect("a wire name has at most 255 bytes"),
            sets_len: u32::try_from(sets_len).expect("bounded by MAX_RECORD_SETS and MAX_SET_LEN"),
        });
    }

    /// Makes the table that follows on `old`. Returns it, and how many names did not fit in their shards.
    pub(super) fn build(
        mut self,
        old: &Table,
        counts: Counts,
        domains: &[Name],
        settings: ZoneSettings,
    ) -> (Table, usize) {
        self.sort();
        let mut writer = ShardWriter::default();
        let Counts { entries, names } = counts;
        let shards = old.shards.len();
        let fits = entries <= 2 * NAMES_PER_SHARD * shards && 4 * entries >= NAMES_PER_SHARD * shards;
        let wanted = shards_for(entries);
        let mut recent = old.recent.clone();
        let shards = if fits || wanted == shards {
            self.put_aside(&mut recent, entries, &mut writer);
            self.rewrite_touched(old, &mut writer)
        } else {
            self.take_over(old);
            recent = Recent::default();
            self.rewrite_all(wanted, &mut writer)
        };
        let table = Table {
            shards,
            recent,
            names,
            entries,
            ..Table::without_names(domains, settings, old.seed, old.serial.wrapping_add(1))
        };
        (table, writer.left_out())
    }

    /// By hash, and so by shard; equal contents come out in equal order, whatever order they went in.
    fn sort(&mut self) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.sort_unstable_by(|a, b| a.hash.cmp(&b.hash).then_with(|| self.name(a).cmp(self.name(b))));
        self.entries = entries;
    }

    /// Puts what has changed where it is looked for first, if that is worth it in a table of so many names, and takes
    /// from there what is to go into the shards.
    fn put_aside(&mut self, recent: &mut Recent, entries: usize, writer: &mut ShardWriter) {
        let is_worth = recent::is_worth(self.entries.len(), entries);
        if !is_worth && recent.is_empty() {
            return;
        }
        let settles = self.entries.is_empty();
        let mut folded = QueryName::default();
        let seed = self.seed;
        let mut hash = |name: &[u8]| {
            folded.fold_wire(name, seed).expect("it was folded before");
            folded.hash()
        };
        let all = std::mem::take(&mut self.entries);
        let by_part = all.chunk_by(|a, b| recent::part_of(a.hash) == recent::part_of(b.hash));
        for (done, changed) in by_part.enumerate() {
            yield_every(SHORT_STEPS, done);
            let part = recent::part_of(changed[0].hash);
            // What is newer there would hide what is written into the shards.
            if is_worth || recent.part(part).is_some() {
                let changed = changed.iter().map(|entry| (entry.hash, self.name(entry), self.sets(entry)));
                recent.put(part, changed, writer, &mut hash);
            } else {
                self.entries.extend(changed);
            }
        }
        while let Some(ripe) = recent.ripe(entries, settles) {
            for (name, sets) in recent.part(ripe).into_iter().flat_map(Shard::placed) {
                let at = self.begin(name);
                if !super::Entry::from_sets(sets).is_gone() {
                    self.arena.extend_from_slice(sets);
                }
                self.end(name, at);
            }
            recent.clear(ripe);
            if settles {
                break;
            }
        }
        self.sort();
    }

    fn rewrite_touched(&self, old: &Table, writer: &mut ShardWriter) -> Root {
        let count = old.shards.len();
        let mut shards = old.shards.clone();
        let mut folded = QueryName::default();
        let mut all: Vec<(u64, &[u8], &[u8])> = Vec::new();
        let by_shard = self.entries.chunk_by(|a, b| shard_of(a.hash, count) == shard_of(b.hash, count));
        for (done, changed) in by_shard.enumerate() {
            yield_every(SHORT_STEPS, done);
            let i = shard_of(changed[0].hash, count);
            // Both are in the order of their hashes, then names: what is in both is met at the same time.
            let mut changed = changed.iter().peekable();
            all.clear();
            old.shards.get(i).warm();
            for (name, sets) in old.shards.get(i).entries() {
                folded.fold_wire(name, self.seed).expect("it was folded before");
                let hash = folded.hash();
                while let Some(entry) = changed.next_if(|entry| (entry.hash, self.name(entry)) < (hash, name))
                {
                    all.push((entry.hash, self.name(entry), self.sets(entry)));
                }
                let now = changed.next_if(|entry| entry.hash == hash && self.name(entry) == name);
                all.push((hash, name, now.map_or(sets, |entry| self.sets(entry))));
            }
            all.extend(changed.map(|entry| (entry.hash, self.name(entry), self.sets(entry))));
            all.retain(|(.., sets)| !sets.is_empty());
            writer.begin(all.len());
            all.iter().for_each(|(hash, name, sets)| writer.name(*hash, name, sets));
            let before = old.shards.get(i);
            let after = writer.finish(before);
            if !after.is_same(before) {
                shards.replace(i, after);
            }
        }
        shards
    }

    /// Adds what the old table has and this does not change.
    fn take_over(&mut self, old: &Table) {
        let changed: NameSet = self.entries.iter().map(|entry| self.name(entry)).collect();
        for (name, sets) in old.all().filter(|(name, _)| !changed.contains(name)) {
            let at = self.begin(name);
            self.arena.extend_from_slice(sets);
            self.end(name, at);
        }
        self.sort();
    }

    fn rewrite_all(&self, count: usize, writer: &mut ShardWriter) -> Root {
        let entries: Vec<_> = self.entries.iter().filter(|entry| entry.sets_len > 0).collect();
        let mut rest = &entries[..];
        (0..count)
            .map(|i| {
                let (here, after) =
                    rest.split_at(rest.partition_point(|entry| shard_of(entry.hash, count) <= i));
                rest = after;
                writer.begin(here.len());
                here.iter().for_each(|entry| writer.name(entry.hash, self.name(entry), self.sets(entry)));
                writer.finish_new()
            })
            .collect()
    }
}

/// Appends the record sets of a name with these records, in any order, behind their count; equal records are one. What
/// cannot stand together is left out, the same on every node: of a name that is an alias and something else the alias,
/// of several aliases all but the lowest.
///
/// So is what is more than a table holds: the sets of all types but the [`MAX_RECORD_SETS`] lowest, and of a set the
/// records from the first on that goes over [`MAX_SET_LEN`], shorter data and lower bytes first. Returns how many
/// records that is.
pub(super) fn append_sets(
    out: &mut Vec<u8>,
    records: &mut SmallVec<[NameRecord<'_>; 8]>,
    policy: &Policy,
) -> usize {
    records.sort_unstable_by_key(|record| (record.rtype, record.rdata.len(), record.rdata, record.ttl_s));
    if records.iter().any(|record| record.rtype != rtype::CNAME) {
        records.retain(|record| record.rtype != rtype::CNAME);
    } else {
        records.truncate(1);
    }
    let count_at = out.len();
    out.push(0);
    let mut left_out = 0;
    for (sets, set) in records.chunk_by(|a, b| a.rtype == b.rtype).enumerate() {
        if sets == MAX_RECORD_SETS {
            let beyond = records.iter().filter(|record| record.rtype >= set[0].rtype);
            let mut beyond: Vec<_> = beyond.map(|record| (record.rtype, record.rdata)).collect();
            beyond.dedup();
            left_out += beyond.len();
            break;
        }
        let ttl_s = set.iter().map(|record| record.ttl_s).min().unwrap_or_default();
        let is_address = matches!(set[0].rtype, rtype::A | rtype::AAAA);
        let plain = || set.iter().all(|record| record.standing == Standing::default());
        if is_address && !(*policy == Policy::default() && plain()) {
            left_out += append_addresses(out, set, ttl_s, policy);
        } else {
            let data = set.chunk_by(|a, b| a.rdata == b.rdata).map(|equal| equal[0].rdata);
            left_out += append_set(out, set[0].rtype, ttl_s, data).left_out;
        }
        out[count_at] += 1;
    }
    left_out
}

/// Appends those addresses of a `set` that are in answers, and what answers are made by. Returns how many were too
/// many.
fn append_addresses(out: &mut Vec<u8>, set: &[NameRecord<'_>], ttl_s: u32, policy: &Policy) -> usize {
    let mut chosen: SmallVec<[_; 8]> = SmallVec::new();
    let registered = set.iter().map(|record| (record.rdata, record.standing));
    select(policy, registered, |rdata, verdict| chosen.extend(verdict.ok().map(|weight| (rdata, weight))));
    if policy.order == Order::Fixed {
        chosen.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    }
    let header = out.len();
    let rdata = chosen.iter().map(|(rdata, _)| *rdata);
    let Appended { count, left_out } = append_set(out, set[0].rtype, ttl_s, rdata);
    let weights: SmallVec<[_; 8]> =
        chosen.iter().take(usize::from(count)).map(|(_, weight)| *weight).collect();
    if steering::is_needed(policy, &weights) {
        mark_steered(out, header);
        steering::write(policy, &weights, out);
    }
    left_out
}

/// Shards that a table of so many names has.
pub(super) fn shards_for(entries: usize) -> usize {
    (entries / NAMES_PER_SHARD).next_power_of_two().clamp(*SHARDS.start(), *SHARDS.end())
}

/// The names between `name` and the one of our zones that it is in: they exist by its being there (RFC 8020).
pub(super) fn between<'a>(name: &'a [u8], zones: &[Zone]) -> impl Iterator<Item = &'a [u8]> {
    let apex = zones.iter().find_map(|zone| suffix_at(name, zone.lower_case_wire(), |a, b| a == b));
    let mut at = 0;
    std::iter::from_fn(move || {
        at += 1 + usize::from(name[at]);
        (at < apex?).then(|| &name[at..])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_between_a_name_and_its_zone_are_found() {
        let name = |text: &str| Name::from_text(text).unwrap();
        let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
        let zones = [Zone::new(&name("x.example"), settings, 1), Zone::new(&name("example"), settings, 1)];
        for (text, expected) in [
            ("a.b.c.example", &["b.c.example", "c.example"][..]),
            ("a.b.x.example", &["b.x.example"]),
            ("a.x.example", &[]),
            ("example", &[]),
            ("a.b.c", &[]),
        ] {
            let name_of = |wire: &[u8]| Name::from_wire(wire).unwrap().to_string();
            let wire = name(text);
            let found: Vec<_> = between(wire.as_wire(), &zones).map(name_of).collect();
            assert_eq!(found, expected.iter().map(|text| format!("{text}.")).collect::<Vec<_>>(), "{text}");
        }
    }
}
