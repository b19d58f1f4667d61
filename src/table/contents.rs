//! What a table is to hold, and its making.
//!
//! Runs on the control thread. Records are gathered in one arena with small fixed-size items that point into it, then
//! sorted: a million names need no million allocations.

use std::fmt;
use std::net::IpAddr;

use super::shard::{MAX_SET_LEN, SetTooLarge, ShardWriter};
use super::{Table, Zone, ZoneSettings, shard_of};
use crate::wire::name::{HashSeed, Name, QueryName};
use crate::wire::record;

/// Names per shard aimed at: few enough that copying one shard for one change is cheap, enough that the shards' fixed
/// cost is spread thin.
const NAMES_PER_SHARD: usize = 64;
/// Shards of the smallest and of the largest table. The pointers to the latter take 128 KiB.
const SHARDS: std::ops::RangeInclusive<usize> = 64..=16_384;

/// Marks a name that exists without records; no record has type 0 (RFC 6895 §3.1).
const NO_RECORD: u16 = 0;

/// The domains and records of a table to be made.
pub struct Contents {
    /// Longest name first.
    domains: Vec<Name>,
    first_domain: Name,
    settings: ZoneSettings,
    seed: HashSeed,
    /// The name that was added last; kept for its room.
    folded: QueryName,
    items: Vec<Item>,
    arena: Vec<u8>,
}

/// How much contents hold.
#[derive(Clone, Copy, Default)]
pub(super) struct Size {
    items: usize,
    arena_len: usize,
}

/// A name with one record, or with none; names and records are in the arena.
#[derive(Clone, Copy)]
struct Item {
    hash: u64,
    name_at: u32,
    record_at: u32,
    name_len: u8,
    rtype: u16,
    record_len: u16,
}

/// Why contents make no table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContentsError {
    /// One name has more records of a type than a message over TCP can carry.
    SetTooLarge {
        /// The name.
        name: String,
        /// How many records it has.
        records: usize,
    },
}

impl fmt::Display for ContentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::SetTooLarge { name, records } = self;
        write!(
            f,
            "{name} has {records} records of one type, more than one answer can carry ({MAX_SET_LEN} bytes)"
        )
    }
}

impl std::error::Error for ContentsError {}

impl Contents {
    /// Empty contents for a server that is authoritative for `domains`, with room for as much as there was `before`.
    pub(super) fn new(domains: &[Name], settings: ZoneSettings, seed: HashSeed, before: Size) -> Self {
        let mut contents = Self {
            domains: domains.to_vec(),
            first_domain: domains.first().cloned().unwrap_or_else(Name::root),
            settings,
            seed,
            folded: QueryName::default(),
            items: Vec::with_capacity(before.items),
            arena: Vec::with_capacity(before.arena_len),
        };
        contents.domains.sort_by_key(|domain| std::cmp::Reverse(domain.as_wire().len()));
        for domain in domains {
            contents.push(domain, NO_RECORD, |_| {});
        }
        contents
    }

    /// How much there is.
    pub(super) fn size(&self) -> Size {
        Size { items: self.items.len(), arena_len: self.arena.len() }
    }

    /// `name` has `address`.
    pub fn add_address(&mut self, name: &Name, address: IpAddr) {
        let rtype = if address.is_ipv4() { record::rtype::A } else { record::rtype::AAAA };
        let ttl_s = self.settings.ttl_s;
        self.push(name, rtype, |arena| record::push_address(arena, address, ttl_s));
        self.add_ancestors(name);
    }

    /// `address` belongs to `name`: a PTR record under the address's reverse name.
    pub fn add_pointer(&mut self, address: IpAddr, name: &Name) {
        let reverse = Name::reverse(address);
        let ttl_s = self.settings.ttl_s;
        self.push(&reverse, record::rtype::PTR, |arena| record::push_pointer(arena, name, ttl_s));
        self.add_ancestors(&reverse);
    }

    /// The names between `name` and its zone exist too, though they may have no records (RFC 8020).
    fn add_ancestors(&mut self, name: &Name) {
        let Some(zone) = self.domains.iter().find(|domain| name.is_within(domain)) else { return };
        // Most names stand right below their zone: this is for the few that do not, and allocates for them alone.
        let zone_labels = zone.labels().count();
        let between = name.labels().count().saturating_sub(zone_labels + 1);
        let mut ancestor = if between > 0 { name.parent() } else { None };
        for _ in 0..between {
            let Some(name) = ancestor else { return };
            self.push(&name, NO_RECORD, |_| {});
            ancestor = name.parent();
        }
    }

    fn push(&mut self, name: &Name, rtype: u16, write_record: impl FnOnce(&mut Vec<u8>)) {
        self.folded.fold_name(name, self.seed);
        let name_at = self.arena.len();
        self.arena.extend_from_slice(self.folded.as_wire());
        let record_at = self.arena.len();
        write_record(&mut self.arena);
        let offset = |at: usize| u32::try_from(at).expect("all records together are below 4 GiB");
        self.items.push(Item {
            hash: self.folded.hash(),
            name_at: offset(name_at),
            record_at: offset(record_at),
            name_len: u8::try_from(record_at - name_at).expect("a wire name has at most 255 bytes"),
            rtype,
            record_len: u16::try_from(self.arena.len() - record_at).expect("one record of a bounded name"),
        });
    }

    fn name(&self, item: &Item) -> &[u8] {
        &self.arena[item.name_at as usize..][..usize::from(item.name_len)]
    }

    fn record(&self, item: &Item) -> &[u8] {
        &self.arena[item.record_at as usize..][..usize::from(item.record_len)]
    }

    /// Makes the table, sharing with `previous` every shard that is the same in both.
    ///
    /// # Errors
    /// [`ContentsError`]; nothing is changed then.
    pub(super) fn build(mut self, serial: u32, previous: Option<&Table>) -> Result<Table, ContentsError> {
        let mut items = std::mem::take(&mut self.items);
        // By hash, and so by shard; then so that equal names, types and records are neighbours. Equal contents come
        // out in equal order whatever order they went in: that is what lets unchanged shards be recognised.
        // The keys alone are sorted, which are half as long as the items.
        let mut order: Vec<(u64, u32)> = items.iter().map(|item| item.hash).zip(0..).collect();
        order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| {
                let key = |(_, i): &(u64, u32)| {
                    let item = &items[*i as usize];
                    (self.name(item), item.rtype, self.record(item))
                };
                key(a).cmp(&key(b))
            })
        });
        items = order.into_iter().map(|(_, i)| items[i as usize]).collect();
        let same_name = |a: &Item, b: &Item| a.hash == b.hash && self.name(a) == self.name(b);
        let names = items.chunk_by(same_name).count();
        let shards = (names / NAMES_PER_SHARD).next_power_of_two().clamp(*SHARDS.start(), *SHARDS.end());
        let mut writer = ShardWriter::default();
        let mut with_records = 0;
        let mut rest = &items[..];
        let mut built = Vec::with_capacity(shards);
        for i in 0..shards {
            let (here, after) = rest.split_at(rest.partition_point(|item| shard_of(item.hash, shards) <= i));
            rest = after;
            writer.begin(here.chunk_by(same_name).count());
            for name in here.chunk_by(same_name) {
                with_records += usize::from(self.write(name, &mut writer)?);
            }
            let same = previous.filter(|table| table.shards.len() == shards).map(|table| &table.shards[i]);
            built.push(writer.finish(same));
        }
        Ok(Table {
            shards: built.into(),
            seed: self.seed,
            zones: self.domains.iter().map(|domain| Zone::new(domain, self.settings, serial)).collect(),
            first_domain: self.first_domain,
            lone_zone: Zone::new(&Name::root(), self.settings, serial),
            names: with_records,
            serial,
        })
    }

    /// Writes one name, its records by type and each once. Returns whether it has any.
    fn write(&self, name: &[Item], writer: &mut ShardWriter) -> Result<bool, ContentsError> {
        writer.name(name[0].hash, self.name(&name[0]));
        let mut any = false;
        for set in name.chunk_by(|a, b| a.rtype == b.rtype).filter(|set| set[0].rtype != NO_RECORD) {
            let records =
                set.chunk_by(|a, b| self.record(a) == self.record(b)).map(|equal| self.record(&equal[0]));
            writer.set(set[0].rtype, records).map_err(|SetTooLarge| {
                let name =
                    Name::from_wire(self.name(&name[0])).map_or_else(String::new, |name| name.to_string());
                ContentsError::SetTooLarge { name, records: set.len() }
            })?;
            any = true;
        }
        Ok(any)
    }
}
