//! What the names files and zone files of a node say together, as registrations.
//!
//! Runs on the control thread.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::path::PathBuf;

use foldhash::fast::FixedState;

use super::conflict::{self, Conflict};
use super::names_file::{self, Host};
use super::zone_file::{self, ZoneRecord};
use crate::limits::{MAX_RECORD_SETS, MAX_SET_LEN};
use crate::store::{Attributes, Record, encode_to};
use crate::text_file::FileError;
use crate::wire::name::Name;
use crate::wire::record::{FIXED_LEN, rtype};

/// The instance that what files say belongs to.
pub const INSTANCE: &str = "files";

/// Why files are not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// One of them has a mistake.
    File(FileError),
    /// What they say cannot stand together.
    Conflict(Conflict),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Conflict(conflict) => conflict.fmt(f),
        }
    }
}

impl std::error::Error for Refused {}

/// Registrations in one block of bytes, in an order of their own that makes two of them easy to compare: a file of many
/// names is read again when one of them has changed.
#[derive(Clone, Debug, Default)]
pub struct Registrations {
    arena: Vec<u8>,
    items: Vec<Item>,
}

/// Where a registration is. The order of the fields is that of the items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Item {
    name_hash: u64,
    key_hash: u64,
    rtype: u16,
    at: usize,
    len: u16,
    key_len: u16,
}

impl Registrations {
    /// Reads `hosts` and `zones` files for a server of `domains`; records of zone files that do not say their TTL have
    /// `ttl_s`.
    ///
    /// # Errors
    /// [`Refused`] for the first mistake.
    pub fn read(hosts: &[PathBuf], zones: &[PathBuf], domains: &[Name], ttl_s: u32) -> Result<Self, Refused> {
        let mut registrations = Self::default();
        for path in hosts {
            names_file::read(path, domains, |host| registrations.add_host(&host)).map_err(Refused::File)?;
        }
        for path in zones {
            let records = zone_file::read(path, domains, ttl_s).map_err(Refused::File)?;
            records.iter().for_each(|record| registrations.add_record(record));
        }
        registrations.settled().map_err(|conflict| {
            let place = conflict::find(&conflict, hosts, zones, domains, ttl_s);
            place.map_or(Refused::Conflict(conflict), Refused::File)
        })
    }

    /// Adds what a line of a hosts file says.
    pub fn add_host(&mut self, host: &Host) {
        for (i, name) in host.names.iter().enumerate() {
            // As everywhere that reads hosts files, an address leads back to its canonical name, not to the aliases.
            let attributes = Attributes { no_pointer: i > 0, ..Attributes::default() };
            match host.address {
                IpAddr::V4(v4) => self.push(name, rtype::A, &v4.octets(), &attributes),
                IpAddr::V6(v6) => self.push(name, rtype::AAAA, &v6.octets(), &attributes),
            }
        }
    }

    /// Adds a record of a zone file.
    pub fn add_record(&mut self, ZoneRecord { name, rtype, ttl_s, rdata }: &ZoneRecord) {
        // Pointers are records of their own in zone files.
        let attributes = Attributes { no_pointer: true, ..Attributes::with_ttl_s(*ttl_s) };
        self.push(name, *rtype, rdata, &attributes);
    }

    fn push(&mut self, name: &Name, rtype: u16, rdata: &[u8], attributes: &Attributes) {
        let at = self.arena.len();
        let parts = encode_to(&mut self.arena, INSTANCE, name.as_wire(), (rtype, rdata), attributes);
        self.note(at, parts.name, parts.key_len, rtype);
    }

    /// Those of `records` that come from files.
    pub fn of<'a>(records: impl Iterator<Item = Record<'a>>) -> Self {
        let mut registrations = Self::default();
        for record in records.filter(|record| record.instance() == INSTANCE) {
            let at = registrations.arena.len();
            registrations.arena.extend_from_slice(record.bytes);
            let name = record.name_range();
            registrations.note(at, name, record.key.len(), record.rtype);
        }
        registrations.items.sort_unstable();
        registrations
    }

    /// Notes the registration whose encoding begins at `at` and is the last in the arena.
    fn note(&mut self, at: usize, name: (usize, usize), key_len: usize, rtype: u16) {
        // Files are the operator's own: nobody else chooses what is hashed here.
        let hash = |from: usize, to: usize| FixedState::default().hash_one(&self.arena[at + from..at + to]);
        let short = |len: usize| {
            u16::try_from(len).expect("at most MAX_RECORD_LEN: the readers of files bound every part")
        };
        let item = Item {
            name_hash: hash(name.0, name.1),
            key_hash: hash(0, key_len),
            rtype,
            at,
            len: short(self.arena.len() - at),
            key_len: short(key_len),
        };
        self.items.push(item);
    }

    fn bytes(&self, item: &Item) -> &[u8] {
        &self.arena[item.at..][..usize::from(item.len)]
    }

    fn key(&self, item: &Item) -> &[u8] {
        &self.bytes(item)[..usize::from(item.key_len)]
    }

    fn record(&self, item: &Item) -> Record<'_> {
        Record::read(self.bytes(item)).expect("just encoded, and checked by the readers of files")
    }

    /// All of them in order, each once. Of what is said twice the first holds.
    ///
    /// # Errors
    /// [`Conflict`] if they cannot stand together.
    pub fn settled(mut self) -> Result<Self, Conflict> {
        let mut items = std::mem::take(&mut self.items);
        items.sort_unstable();
        items.dedup_by(|later, first| later.key_hash == first.key_hash && self.key(later) == self.key(first));
        for name in items.chunk_by(|a, b| a.name_hash == b.name_hash).filter(|name| name.len() > 1) {
            let text = || self.record(&name[0]).to_key().name.to_string();
            if name.iter().any(|item| item.rtype == rtype::CNAME) {
                return Err(Conflict::AliasAndMore { name: text() });
            }
            // What a record takes is less than its registration and its fixed part.
            let bound: usize = name.iter().map(|item| usize::from(item.len) + FIXED_LEN).sum();
            let rtypes: BTreeSet<u16> = name.iter().map(|item| item.rtype).collect();
            if rtypes.len() > MAX_RECORD_SETS {
                return Err(Conflict::TooManyTypes { name: text(), types: rtypes.len() });
            }
            for rtype in rtypes.into_iter().filter(|_| bound > MAX_SET_LEN) {
                let set = || name.iter().filter(|item| item.rtype == rtype);
                if set().map(|item| FIXED_LEN + self.record(item).rdata.len()).sum::<usize>() > MAX_SET_LEN {
                    return Err(Conflict::SetTooLarge { name: text(), records: set().count() });
                }
            }
        }
        self.items = items;
        Ok(self)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The encodings of all, in the order in which they were said: to read them so waits the least for memory.
    pub fn all(&self) -> Vec<&[u8]> {
        let mut places: Vec<_> = self.items.iter().map(|item| (item.at, item.len)).collect();
        places.sort_unstable();
        places.into_iter().map(|(at, len)| &self.arena[at..][..usize::from(len)]).collect()
    }

    /// The encodings of those that are not, or not so, among `others`.
    pub fn beyond<'a>(&'a self, others: &'a Self) -> impl Iterator<Item = Change<'a>> {
        let mut theirs = others.items.iter().peekable();
        let order = |item: &Item| (item.name_hash, item.key_hash);
        self.items.iter().filter_map(move |item| {
            while theirs.next_if(|other| order(other) < order(item)).is_some() {}
            let same = theirs.peek().is_some_and(|other| others.bytes(other) == self.bytes(item));
            (!same).then(|| Change { key: self.key(item), bytes: self.bytes(item) })
        })
    }
}

/// A registration that is new, or gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// The bytes of what is registered.
    pub key: &'a [u8],
    /// All of its bytes.
    pub bytes: &'a [u8],
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registrations(records: &[(&str, u16, &[u8])]) -> Result<Registrations, Conflict> {
        let record = |&(owner, rtype, rdata): &(&str, u16, &[u8])| ZoneRecord {
            name: Name::from_text(owner).unwrap(),
            rtype,
            ttl_s: 1,
            rdata: rdata.into(),
        };
        let mut registrations = Registrations::default();
        records.iter().for_each(|said| registrations.add_record(&record(said)));
        registrations.settled()
    }

    #[test]
    fn an_alias_is_nothing_else() {
        let alias = ("a.example", rtype::CNAME, &b"\x01x\0"[..]);
        assert_eq!(registrations(&[alias, alias]).unwrap().len(), 1, "the same twice is one");
        for other in [("A.example", rtype::A, &[10, 0, 0, 1][..]), ("a.EXAMPLE", rtype::CNAME, b"\x01y\0")] {
            let error = registrations(&[alias, other]).unwrap_err().to_string();
            assert!(error.starts_with("a.example. has a CNAME record and others"), "{error}");
        }
    }

    #[test]
    fn more_records_than_an_answer_can_carry_are_refused() {
        let addresses: Vec<_> = (0..4_100u32).map(u32::to_be_bytes).collect();
        let records: Vec<_> = addresses.iter().map(|rdata| ("many.example", rtype::A, &rdata[..])).collect();
        let error = registrations(&records).unwrap_err().to_string();
        assert!(error.contains("many.example. has 4100 records"), "{error}");
    }

    #[test]
    fn a_name_has_as_many_types_as_a_table_holds_and_not_one_more() {
        let types = |count: u16| {
            let all: Vec<_> = (0..count).map(|i| ("many.example", 1_000 + i, &b"x"[..])).collect();
            registrations(&all).map(|all| all.len())
        };
        let max = u16::try_from(MAX_RECORD_SETS).unwrap();
        assert_eq!(types(max), Ok(MAX_RECORD_SETS));
        for count in [max + 1, 256, 257, 300] {
            let error = types(count).unwrap_err().to_string();
            assert!(error.starts_with(&format!("many.example. has records of {count} types")), "{error}");
        }
    }

    #[test]
    fn an_address_leads_back_to_the_first_name_of_its_line_alone() {
        let name = |text: &str| Name::from_text(text).unwrap();
        let host =
            Host { address: [10, 0, 0, 1].into(), names: smallvec::smallvec![name("B.x"), name("a.x")] };
        let mut registrations = Registrations::default();
        registrations.add_host(&host);
        let registrations = registrations.settled().unwrap();
        let leads_back = |item| registrations.record(item).reverse_name().is_some();
        let items = registrations.items.iter();
        let mut pointers: Vec<_> =
            items.map(|item| (registrations.record(item).name[1], leads_back(item))).collect();
        pointers.sort_unstable();
        assert_eq!(pointers, [(b'a', false), (b'b', true)]);
    }

    #[test]
    fn what_has_changed_is_what_one_has_and_the_other_has_not() {
        let records: Vec<_> = (0..100u8).map(|i| [10, 0, 0, i]).collect();
        let of = |range: std::ops::Range<usize>| {
            let records: Vec<_> =
                records[range].iter().map(|rdata| ("web.example", rtype::A, &rdata[..])).collect();
            registrations(&records).unwrap()
        };
        let last = |change: Change<'_>| *change.key.last().unwrap();
        let (before, after) = (of(0..90), of(10..100));
        let mut gone: Vec<_> = before.beyond(&after).map(last).collect();
        let mut new: Vec<_> = after.beyond(&before).map(last).collect();
        gone.sort_unstable();
        new.sort_unstable();
        assert_eq!((gone, new), ((0..10).collect(), (90..100).collect()));
        assert_eq!(after.beyond(&after).count(), 0);
        assert!(after.all().iter().map(|bytes| bytes[bytes.len() - 4]).is_sorted(), "as they were said");
        // What is in the store is as good as what was read.
        let records = || after.items.iter().map(|item| after.record(item));
        let stored = Registrations::of(records());
        assert_eq!(
            (stored.items.len(), after.beyond(&stored).count(), stored.beyond(&after).count()),
            (90, 0, 0)
        );
    }
}
