//! The immutable name table that every lookup is answered from.
//!
//! Workers read a [`Table`] through a [`Reader`](crate::sys::published::Reader); the thread `tables` makes the next one
//! of the names that have changed in the [store](crate::store) and swaps it in with a [`Publisher`]. A table is never
//! changed after it was published, so there is nothing to lock.
//!
//! A name lives in one of many shards, chosen by its hash. Shards that a new table has in common with the one
//! before it are shared, not copied: a small change costs little to publish and leaves the workers' caches warm.

mod crowded;
mod publish;
mod recent;
mod root;
mod shard;
mod update;
mod whole;
mod zone;

pub use crowded::Crowded;
pub use publish::Publisher;
pub use shard::{Entry, MAX_SET_LEN, MAX_TOGETHER, RecordSet};
pub(crate) use shard::{append_set, limit_ttl};
pub use zone::{MAX_APEX_LEN, SOA_RECORD_LEN, SOA_TTL, Zone, ZoneSettings, name_server};

use crate::wire::name::{HashSeed, Name, QueryName, suffix_at};
use recent::Recent;
use root::Root;
use shard::ShardWriter;
use update::Counts;

/// All names of one moment, with what a worker needs to answer for them.
pub struct Table {
    shards: Root,
    /// What is newer than in the shards.
    recent: Recent,
    seed: HashSeed,
    /// Longest name first, so that the first match is the closest enclosing zone.
    zones: Box<[Zone]>,
    /// Stands in where a name we answer for is in none of our zones: a reverse name, or one of a single label, is then
    /// a zone of its own.
    lone_zone: Zone,
    root_soa: Box<[u8]>,
    /// The root if there are no domains.
    first_domain: Name,
    /// Names with records.
    names: usize,
    /// All names that exist.
    entries: usize,
    serial: u32,
}

impl Table {
    /// A table with no names at all, not even those of its zones.
    // cold: before there is a table
    fn empty(domains: &[Name], settings: ZoneSettings, seed: HashSeed) -> Self {
        let mut writer = ShardWriter::default();
        writer.begin(0);
        let shards = std::iter::repeat_n(writer.finish_new(), *update::SHARDS.start()).collect();
        Self { shards, ..Self::without_names(domains, settings, seed, 0) }
    }

    /// All of a table but its shards.
    // cold: made with a whole table, on the thread `tables`
    fn without_names(domains: &[Name], settings: ZoneSettings, seed: HashSeed, serial: u32) -> Self {
        let mut zones: Vec<_> = domains.iter().map(|domain| Zone::new(domain, settings, serial)).collect();
        zones.sort_by_key(|zone| std::cmp::Reverse(zone.lower_case_wire().len()));
        Self {
            shards: Root::from_iter([]),
            recent: Recent::default(),
            seed,
            zones: zones.into(),
            lone_zone: Zone::new(&Name::root(), settings, serial),
            root_soa: Zone::root_soa_record(settings, serial),
            first_domain: domains.first().cloned().unwrap_or_else(Name::root),
            names: 0,
            entries: 0,
            serial,
        }
    }

    /// The seed that names must be folded with to be found here.
    #[inline]
    #[must_use]
    pub fn seed(&self) -> HashSeed {
        self.seed
    }

    /// What is known of `name`; `None` if it does not exist.
    #[inline]
    #[must_use]
    pub fn lookup(&self, name: &QueryName) -> Option<Entry<'_>> {
        // Mostly there is nothing.
        if !self.recent.is_empty()
            && let Some(entry) = self.recent.find(name)
        {
            return (!entry.is_gone()).then_some(entry);
        }
        self.shards.get(shard_of(name.hash(), self.shards.len())).find(name)
    }

    /// What is known of up to [`MAX_TOGETHER`] names, as by [`lookup`](Self::lookup) of each, but the waits for memory
    /// overlap.
    #[inline]
    #[must_use]
    pub fn lookup_together(&self, names: &[QueryName]) -> [Option<Entry<'_>>; MAX_TOGETHER] {
        let mut found = [None; MAX_TOGETHER];
        shard::find_together(names, |hash| self.shards.get(shard_of(hash, self.shards.len())), &mut found);
        if !self.recent.is_empty() {
            for (name, found) in names.iter().zip(&mut found) {
                if let Some(entry) = self.recent.find(name) {
                    *found = (!entry.is_gone()).then_some(entry);
                }
            }
        }
        found
    }

    /// A `name` of one label in the first domain, where people mean it; `None` if that is too long.
    #[must_use]
    pub fn qualify(&self, name: &QueryName) -> Option<QueryName> {
        name.below(self.first_domain.as_wire(), self.seed)
    }

    /// The closest of our zones that `name` is in, and where in the name the zone's own name begins.
    #[inline]
    #[must_use]
    pub fn zone_of(&self, name: &QueryName) -> Option<(usize, &Zone)> {
        self.zones
            .iter()
            .find_map(|zone| Some((suffix_at(name.as_wire(), zone.lower_case_wire(), |a, b| a == b)?, zone)))
    }

    /// The root's SOA record, complete, for names of a single label that do not exist.
    #[must_use]
    pub fn root_soa_record(&self) -> &[u8] {
        &self.root_soa
    }

    /// Whether one of our zones is below `name`.
    #[must_use]
    pub fn is_above_a_zone(&self, name: &QueryName) -> bool {
        self.zones
            .iter()
            .any(|zone| suffix_at(zone.lower_case_wire(), name.as_wire(), |a, b| a == b).is_some())
    }

    /// The zone of a `name` that was found in this table.
    #[inline]
    #[must_use]
    pub fn zone_of_found(&self, name: &QueryName) -> (usize, &Zone) {
        self.zone_of(name).unwrap_or((0, &self.lone_zone))
    }

    /// What is known of `name`, for callers outside the query path.
    #[must_use]
    pub fn get(&self, name: &Name) -> Option<Entry<'_>> {
        self.lookup(&QueryName::from_name(name, self.seed))
    }

    fn counts(&self) -> Counts {
        Counts { entries: self.entries, names: self.names }
    }

    /// What is known of the name that is `wire`, uncompressed; outside the query path.
    fn get_wire(&self, wire: &[u8]) -> Option<Entry<'_>> {
        let mut name = QueryName::default();
        name.fold_wire(wire, self.seed).ok()?;
        self.lookup(&name)
    }

    /// The data of a zone's SOA record with its names in full, and its TTL; `None` if the zone, said in lower case, is
    /// none of ours.
    #[must_use]
    pub fn soa_of(&self, zone: &Name) -> Option<(Vec<u8>, u32)> {
        let zone = self.zones.iter().find(|it| it.lower_case_wire() == zone.as_wire())?;
        Some(zone.soa_rdata())
    }

    /// All names in a zone, said in lower case, with what is answered for them; but not those of our zones below it.
    pub fn names_of<'a>(&'a self, zone: &'a Name) -> impl Iterator<Item = (&'a [u8], Entry<'a>)> {
        let is_in = |name: &[u8]| {
            let zones = self.zones.iter().map(Zone::lower_case_wire);
            let closest = zones.into_iter().find(|zone| suffix_at(name, zone, |a, b| a == b).is_some());
            closest == Some(zone.as_wire())
        };
        self.all().filter(move |(name, _)| is_in(name)).map(|(name, sets)| (name, Entry::from_sets(sets)))
    }

    /// All names with their record sets behind their count, in no order.
    fn all(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut folded = QueryName::default();
        let mut is_newer = move |name: &[u8]| {
            !self.recent.is_empty() && {
                folded.fold_wire(name, self.seed).expect("it was folded before");
                self.recent.find(&folded).is_some()
            }
        };
        let shards = self.shards.iter().flat_map(shard::Shard::entries);
        let there = |sets: &[u8]| !Entry::from_sets(sets).is_gone();
        shards
            .filter(move |(name, _)| !is_newer(name))
            .chain(self.recent.iter().filter(move |(_, sets)| there(sets)))
    }

    /// Names with records, reverse names included.
    #[must_use]
    pub fn names(&self) -> usize {
        self.names
    }

    /// The number of this table in the order of publication, which is also the serial of its SOA records.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// Bytes that the table takes on the heap.
    #[must_use]
    pub fn heap_len(&self) -> usize {
        self.shards.heap_len() + self.recent.heap_len()
    }
}

/// Which of `shards` (a power of two) has the names with this hash: its top bits, since the slots use its low ones.
#[inline]
fn shard_of(hash: u64, shards: usize) -> usize {
    #[allow(clippy::cast_possible_truncation)] // below `shards`
    let shard = ((u128::from(hash) * shards as u128) >> 64) as usize;
    shard
}
