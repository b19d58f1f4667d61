//! What a table is to hold, and its making.
//!
//! Runs on the control thread. Records are gathered in one arena with small fixed-size items that point into it, then
//! sorted: a million names need no million allocations. In the arena a record is its TTL and its data.

use std::fmt;
use std::net::IpAddr;

use super::shard::{MAX_SET_LEN, SetTooLarge, ShardWriter};
use super::{Table, Zone, ZoneSettings, shard_of, zone};
use crate::wire::name::{HashSeed, Name, QueryName};
use crate::wire::record::{self, rtype};

/// Names per shard aimed at: few enough that copying one shard for one change is cheap, enough that the shards' fixed
/// cost is spread thin.
const NAMES_PER_SHARD: usize = 64;
/// Shards of the smallest and of the largest table. The pointers to the latter take 128 KiB.
const SHARDS: std::ops::RangeInclusive<usize> = 64..=16_384;

/// Marks a name that exists without records; no record has type 0 (RFC 6895 §3.1).
const NO_RECORD: u16 = 0;

/// Bytes of the TTL before a record's data in the arena.
const TTL_LEN: usize = 4;

/// Bytes of one record's data at most: the largest set of one.
pub const MAX_RDATA_LEN: usize = MAX_SET_LEN - record::FIXED_LEN;

/// The domains and records of a table to be made.
pub struct Contents {
    /// Longest name first.
    domains: Vec<Name>,
    /// Those of them that were given name servers.
    delegated: Vec<Name>,
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
    rdata_len: u16,
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
    /// A name is an alias (CNAME) and something else too, or an alias of two names (RFC 1034 §3.6.2).
    AliasAndMore {
        /// The name.
        name: String,
    },
}

impl fmt::Display for ContentsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SetTooLarge { name, records } => write!(
                f,
                "{name} has {records} records of one type, more than one answer can carry ({MAX_SET_LEN} bytes)"
            ),
            Self::AliasAndMore { name } => write!(
                f,
                "{name} has a CNAME record and others; an alias can have one CNAME and nothing else: \
                 remove it or the others"
            ),
        }
    }
}

impl std::error::Error for ContentsError {}

impl Contents {
    /// Empty contents for a server that is authoritative for `domains`, with room for as much as there was `before`.
    pub(super) fn new(domains: &[Name], settings: ZoneSettings, seed: HashSeed, before: Size) -> Self {
        let mut contents = Self {
            domains: domains.to_vec(),
            delegated: Vec::new(),
            first_domain: domains.first().cloned().unwrap_or_else(Name::root),
            settings,
            seed,
            folded: QueryName::default(),
            items: Vec::with_capacity(before.items),
            arena: Vec::with_capacity(before.arena_len),
        };
        contents.domains.sort_by_key(|domain| std::cmp::Reverse(domain.as_wire().len()));
        contents
    }

    /// How much there is.
    pub(super) fn size(&self) -> Size {
        Size { items: self.items.len(), arena_len: self.arena.len() }
    }

    /// `name` has `address`.
    pub fn add_address(&mut self, name: &Name, address: IpAddr) {
        let ttl_s = self.settings.ttl_s;
        match address {
            IpAddr::V4(v4) => self.add(name, rtype::A, ttl_s, &v4.octets()),
            IpAddr::V6(v6) => self.add(name, rtype::AAAA, ttl_s, &v6.octets()),
        }
    }

    /// `address` belongs to `name`: a PTR record under the address's reverse name.
    pub fn add_pointer(&mut self, address: IpAddr, name: &Name) {
        self.add(&Name::reverse(address), rtype::PTR, self.settings.ttl_s, name.as_wire());
    }

    /// `name` has a record of type `rtype`. Names in its data are in wire form, uncompressed.
    ///
    /// NS records at a domain's apex replace the one that every domain has otherwise. Where records of one name and
    /// type have different TTLs, all get the lowest of them (RFC 2181 §5.2).
    ///
    /// # Panics
    /// If `rdata` is longer than [`MAX_RDATA_LEN`].
    pub fn add(&mut self, name: &Name, rtype: u16, ttl_s: u32, rdata: &[u8]) {
        assert!(rdata.len() <= MAX_RDATA_LEN, "the ways in refuse longer records");
        self.push(name, rtype, ttl_s, rdata);
        self.add_ancestors(name);
        if rtype == rtype::NS && !self.delegated.contains(name) {
            self.delegated.push(name.clone());
        }
    }

    /// Gives its name server to each domain that was given none, so that every apex has NS records (RFC 1035 §5.2).
    fn add_name_servers(&mut self) {
        for domain in self.domains.clone() {
            let lower_case = domain.to_lower_case();
            if self.delegated.iter().any(|name| name.to_lower_case() == lower_case) {
                continue;
            }
            // The domain whose name is so long that nothing fits below it has none.
            let server = zone::name_server(&domain);
            let (rtype, target) =
                server.as_ref().map_or((NO_RECORD, &[][..]), |ns| (rtype::NS, ns.as_wire()));
            self.push(&domain, rtype, self.settings.ttl_s, target);
        }
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
            self.push(&name, NO_RECORD, 0, &[]);
            ancestor = name.parent();
        }
    }

    fn push(&mut self, name: &Name, rtype: u16, ttl_s: u32, rdata: &[u8]) {
        self.folded.fold_name(name, self.seed);
        let name_at = self.arena.len();
        self.arena.extend_from_slice(self.folded.as_wire());
        let record_at = self.arena.len();
        self.arena.extend_from_slice(&ttl_s.to_be_bytes());
        self.arena.extend_from_slice(rdata);
        let offset = |at: usize| u32::try_from(at).expect("all records together are below 4 GiB");
        self.items.push(Item {
            hash: self.folded.hash(),
            name_at: offset(name_at),
            record_at: offset(record_at),
            name_len: u8::try_from(record_at - name_at).expect("a wire name has at most 255 bytes"),
            rtype,
            rdata_len: u16::try_from(rdata.len()).expect("checked where it came in"),
        });
    }

    fn name(&self, item: &Item) -> &[u8] {
        &self.arena[item.name_at as usize..][..usize::from(item.name_len)]
    }

    fn ttl_s(&self, item: &Item) -> u32 {
        let (ttl, _) = self.arena[item.record_at as usize..].split_first_chunk().expect("it was pushed");
        u32::from_be_bytes(*ttl)
    }

    fn rdata(&self, item: &Item) -> &[u8] {
        &self.arena[item.record_at as usize + TTL_LEN..][..usize::from(item.rdata_len)]
    }

    /// Makes the table, sharing with `previous` every shard that is the same in both.
    ///
    /// # Errors
    /// [`ContentsError`]; nothing is changed then.
    pub(super) fn build(mut self, serial: u32, previous: Option<&Table>) -> Result<Table, ContentsError> {
        self.add_name_servers();
        let mut items = std::mem::take(&mut self.items);
        // By hash, and so by shard; then so that equal names, types and records are neighbours. Equal contents come
        // out in equal order whatever order they went in: that is what lets unchanged shards be recognised.
        // The keys alone are sorted, which are half as long as the items.
        let mut order: Vec<(u64, u32)> = items.iter().map(|item| item.hash).zip(0..).collect();
        order.sort_unstable_by(|a, b| {
            a.0.cmp(&b.0).then_with(|| {
                let key = |(_, i): &(u64, u32)| {
                    let item = &items[*i as usize];
                    // The shortest first: where not all fit, as many as can be do.
                    (self.name(item), item.rtype, item.rdata_len, self.rdata(item))
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
            root_soa: Zone::root_soa_record(self.settings, serial),
            names: with_records,
            serial,
        })
    }

    /// Writes one name, its records by type and each once. Returns whether it has any.
    fn write(&self, name: &[Item], writer: &mut ShardWriter) -> Result<bool, ContentsError> {
        writer.name(name[0].hash, self.name(&name[0]));
        let mut sets = 0;
        let mut alias = false;
        let text = || Name::from_wire(self.name(&name[0])).map_or_else(String::new, |name| name.to_string());
        for set in name.chunk_by(|a, b| a.rtype == b.rtype).filter(|set| set[0].rtype != NO_RECORD) {
            let data = set.chunk_by(|a, b| self.rdata(a) == self.rdata(b)).map(|equal| self.rdata(&equal[0]));
            let ttl_s = set.iter().map(|item| self.ttl_s(item)).min().unwrap_or_default();
            let count = writer
                .set(set[0].rtype, ttl_s, data)
                .map_err(|SetTooLarge| ContentsError::SetTooLarge { name: text(), records: set.len() })?;
            sets += 1;
            alias |= set[0].rtype == rtype::CNAME;
            if alias && (sets > 1 || count > 1) {
                return Err(ContentsError::AliasAndMore { name: text() });
            }
        }
        Ok(sets > 0)
    }
}
