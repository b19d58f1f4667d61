//! What the names files and zone files of a node say together, as registrations.
//!
//! Runs on the thread `files`, and at a start on the main thread.

mod comparison;

use std::collections::{BTreeSet, HashSet};
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

pub use comparison::{Comparison, NameChanges};

use crate::limits::{MAX_RECORD_SETS, MAX_SET_LEN};
use crate::sources::conflict::{self, Conflict};
use crate::sources::names_file::{self, Host};
use crate::sources::names_text::{Text, Texts, ZoneText};
use crate::sources::zone_file::{self, ZoneRecord};
use crate::store::{Attributes, Record, encode_to};
use crate::sys::file_error::FileError;
use crate::sys::parallel_map::{parallel_map, threads_for};
use crate::sys::sched::{give_back, yield_every};
use crate::wire::name::Name;
use crate::wire::record::{FIXED_LEN, rtype};

/// The instance that what files say belongs to.
pub const INSTANCE: &str = "files";

/// Why files are not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FilesRejected {
    /// One of them has a mistake.
    File(FileError),
    /// What they say cannot stand together.
    Conflict(Conflict),
}

impl fmt::Display for FilesRejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(error) => error.fmt(f),
            Self::Conflict(conflict) => conflict.fmt(f),
        }
    }
}

impl std::error::Error for FilesRejected {}

/// Registrations in one block of bytes, each once, with all of a name linked to each other: so that a million of them
/// are read and compared in a fraction of a second.
#[derive(Debug, Default)]
pub struct Registrations {
    arena: Vec<u8>,
    items: Vec<Item>,
    /// The first item of each name, by the name's hash.
    names: HashTable<u32>,
    /// Hashes of names of which something is said twice.
    doubled: HashSet<u64>,
}

/// Names of which something is said twice, by their hashes.
#[derive(Debug, Default)]
pub struct Doubled(HashSet<u64>);

impl Doubled {
    /// Whether something is said of the name twice.
    #[must_use]
    pub fn has(&self, name: &[u8]) -> bool {
        self.0.contains(&hash(name))
    }
}

/// Items that are looked at before others may have the CPU.
const ITEMS_AT_ONCE: usize = 256;

/// Bytes of a line, as a guess.
const LIKELY_LINE_LEN: usize = 24;

/// Where a registration is.
#[derive(Clone, Copy, Debug)]
struct Item {
    at: usize,
    name_hash: u64,
    /// The next item of the same name; none if it is [`LAST`].
    next: u32,
    rtype: u16,
    len: u16,
    key_len: u16,
    name: (u16, u16),
    is_first: bool,
}

/// In the place of a next item.
const LAST: u32 = u32::MAX;

impl Registrations {
    /// Reads `hosts` and `zones` files for a server of `domains`; records of zone files that do not say their TTL have
    /// `ttl_s`.
    ///
    /// # Errors
    /// [`FilesRejected`] for the first mistake.
    pub fn read(
        hosts: &[PathBuf],
        zones: &[PathBuf],
        domains: &[Name],
        ttl_s: u32,
    ) -> Result<Self, FilesRejected> {
        Self::of(&Texts::read(hosts, zones).map_err(FilesRejected::File)?, domains, ttl_s)
    }

    /// The same of files of which the text has been read.
    ///
    /// # Errors
    /// [`FilesRejected`] for the first mistake.
    pub fn of(texts: &Texts, domains: &[Name], ttl_s: u32) -> Result<Self, FilesRejected> {
        let mut registrations = Self::default();
        for Text { path, bytes, .. } in &texts.hosts {
            registrations.read_hosts(path, bytes, domains).map_err(FilesRejected::File)?;
        }
        for ZoneText { path, bytes, .. } in &texts.zones {
            let zone = zone_file::parse(path, bytes, domains, ttl_s).map_err(FilesRejected::File)?;
            zone.records.iter().for_each(|record| registrations.add_record(record));
        }
        registrations.checked().map_err(|conflict| {
            let place = conflict::find(&conflict, texts, domains, ttl_s);
            place.map_or(FilesRejected::Conflict(conflict), FilesRejected::File)
        })
    }

    /// Adds what a hosts file says.
    fn read_hosts(&mut self, path: &Path, bytes: &[u8], domains: &[Name]) -> Result<(), FileError> {
        let parts = lines_in_parts(bytes, threads_for(bytes.len() / LIKELY_LINE_LEN));
        if parts.len() > 1 {
            let parsed = parallel_map(parts, |lines| {
                let mut part = Parsed::default();
                part.reserve(lines);
                names_file::parse(path, lines, domains, |host| part.add_host(&host)).map(|()| part)
            });
            if parsed.iter().all(Result::is_ok) {
                self.reserve(parsed.iter().flatten().map(|part| part.items.len()).sum());
                parsed.into_iter().flatten().for_each(|part| self.append(part));
                return Ok(());
            }
            // Which line it is, and whether there is one before it, is found by reading all in its order.
        }
        let mut part = Parsed::default();
        part.reserve(bytes);
        names_file::parse(path, bytes, domains, |host| part.add_host(&host))?;
        self.reserve(part.items.len());
        self.append(part);
        Ok(())
    }

    /// Adds what a line of a hosts file says.
    pub fn add_host(&mut self, host: &Host) {
        let mut part = Parsed::default();
        part.add_host(host);
        self.append(part);
    }

    /// Adds what has been parsed.
    fn append(&mut self, part: Parsed) {
        // To make room only when there is none would move all that is there, in one long step.
        self.arena.reserve(part.arena.len());
        for (done, parsed) in part.items.iter().enumerate() {
            yield_every(ITEMS_AT_ONCE, done);
            let at = self.arena.len();
            self.arena.extend_from_slice(&part.arena[parsed.at..][..usize::from(parsed.len)]);
            self.add(Item { at, ..*parsed });
        }
        give_back(part.arena);
        give_back(part.items);
    }

    /// What these lines of hosts files say, if there is no mistake in them, and nothing is said twice.
    #[must_use]
    pub fn of_lines(lines: &[&[u8]], domains: &[Name]) -> Option<Self> {
        let mut registrations = Self::default();
        for lines in lines {
            registrations.read_hosts(Path::new(""), lines, domains).ok()?;
        }
        let registrations = registrations.checked().ok()?;
        registrations.doubled.is_empty().then_some(registrations)
    }

    fn reserve(&mut self, more: usize) {
        self.items.reserve(more);
        let items = &self.items;
        self.names.reserve(more, |&of| items[of as usize].name_hash);
    }

    /// The hashes of such names, which are all that is kept of registrations until the next reading.
    #[must_use]
    pub fn into_doubled(self) -> Doubled {
        give_back(self.arena);
        give_back(self.items);
        Doubled(self.doubled)
    }

    /// All registrations by name: of each its number of key bytes, and its bytes.
    pub fn each(&self) -> impl Iterator<Item = (usize, &[u8])> {
        self.items.iter().map(|item| (usize::from(item.key_len), self.bytes(item)))
    }

    /// The registration with this key, of this name.
    #[must_use]
    pub fn get(&self, name: &[u8], key: &[u8]) -> Option<&[u8]> {
        let first = self.first_of(hash(name), name)?;
        let found = self.of_name(first).find(|(_, item)| self.key(item) == key);
        found.map(|(_, item)| self.bytes(item))
    }

    /// Adds a record of a zone file.
    pub fn add_record(&mut self, ZoneRecord { name, rtype, ttl_s, rdata }: &ZoneRecord) {
        // Pointers are records of their own in zone files.
        let attributes = Attributes { no_pointer: true, ..Attributes::with_ttl_s(*ttl_s) };
        let item = encode_item(&mut self.arena, name, *rtype, rdata, &attributes);
        self.add(item);
    }

    /// Adds the registration that the arena ends with. Of what is said twice the first holds.
    fn add(&mut self, mut item: Item) {
        let number = u32::try_from(self.items.len()).expect("the readers of files bound their size");
        let Some(first) = self.first_of(item.name_hash, self.name(&item)) else {
            self.items.push(item);
            let items = &self.items;
            self.names.insert_unique(item.name_hash, number, |&of| items[of as usize].name_hash);
            return;
        };
        // The same name once more: behind the last of it, unless it is there already.
        let mut last = first;
        loop {
            if self.key(&self.items[last as usize]) == self.key(&item) {
                self.doubled.insert(item.name_hash);
                self.arena.truncate(item.at);
                return;
            }
            match self.items[last as usize].next {
                LAST => break,
                next => last = next,
            }
        }
        item.is_first = false;
        self.items.push(item);
        self.items[last as usize].next = number;
    }

    fn first_of(&self, name_hash: u64, name: &[u8]) -> Option<u32> {
        let is_same = |&of: &u32| {
            let item = &self.items[of as usize];
            item.name_hash == name_hash && self.name(item) == name
        };
        self.names.find(name_hash, is_same).copied()
    }

    fn bytes(&self, item: &Item) -> &[u8] {
        &self.arena[item.at..][..usize::from(item.len)]
    }

    fn key(&self, item: &Item) -> &[u8] {
        &self.bytes(item)[..usize::from(item.key_len)]
    }

    fn name(&self, item: &Item) -> &[u8] {
        &self.bytes(item)[usize::from(item.name.0)..usize::from(item.name.1)]
    }

    fn record(&self, item: &Item) -> Record<'_> {
        Record::read(self.bytes(item)).expect("just encoded, and checked by the readers of files")
    }

    /// The item with this number and those that follow it of the same name.
    fn of_name(&self, first: u32) -> impl Iterator<Item = (u32, &Item)> {
        let mut next = first;
        std::iter::from_fn(move || {
            let number = next;
            let item = self.items.get(number as usize)?;
            next = item.next;
            Some((number, item))
        })
    }

    /// All of them, if they can stand together.
    ///
    /// # Errors
    /// [`Conflict`] if they cannot.
    pub fn checked(self) -> Result<Self, Conflict> {
        for (first, item) in (0..).zip(&self.items) {
            yield_every(ITEMS_AT_ONCE, first as usize);
            if !item.is_first || item.next == LAST {
                continue;
            }
            let of_name = || self.of_name(first).map(|(_, item)| item);
            let text = || self.record(item).to_key().name.to_string();
            if of_name().any(|item| item.rtype == rtype::CNAME) {
                return Err(Conflict::AliasAndMore { name: text() });
            }
            // What a record takes is less than its registration and its fixed part.
            let bound: usize = of_name().map(|item| usize::from(item.len) + FIXED_LEN).sum();
            let rtypes: BTreeSet<u16> = of_name().map(|item| item.rtype).collect();
            if rtypes.len() > MAX_RECORD_SETS {
                return Err(Conflict::TooManyTypes { name: text(), types: rtypes.len() });
            }
            for rtype in rtypes.into_iter().filter(|_| bound > MAX_SET_LEN) {
                let set = || of_name().filter(|item| item.rtype == rtype);
                if set().map(|item| FIXED_LEN + self.record(item).rdata.len()).sum::<usize>() > MAX_SET_LEN {
                    return Err(Conflict::SetTooLarge { name: text(), records: set().count() });
                }
            }
        }
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
    #[must_use]
    pub fn all(&self) -> Vec<&[u8]> {
        self.items.iter().map(|item| self.bytes(item)).collect()
    }
}

/// What some lines of a hosts file say, in their order.
#[derive(Default)]
struct Parsed {
    arena: Vec<u8>,
    items: Vec<Item>,
}

impl Parsed {
    /// Makes room for what these lines are likely to say.
    fn reserve(&mut self, lines: &[u8]) {
        self.arena.reserve(2 * lines.len());
        self.items.reserve(lines.len() / LIKELY_LINE_LEN);
    }

    /// Adds what a line says.
    fn add_host(&mut self, host: &Host) {
        for (i, name) in host.names.iter().enumerate() {
            // As everywhere that reads hosts files, an address leads back to its canonical name, not to the aliases.
            let attributes = Attributes { no_pointer: i > 0, ..Attributes::default() };
            let mut add = |rtype, rdata: &[u8]| {
                self.items.push(encode_item(&mut self.arena, name, rtype, rdata, &attributes));
            };
            match host.address {
                IpAddr::V4(v4) => add(rtype::A, &v4.octets()),
                IpAddr::V6(v6) => add(rtype::AAAA, &v6.octets()),
            }
        }
    }
}

/// Appends a registration to the `arena`.
fn encode_item(arena: &mut Vec<u8>, name: &Name, rtype: u16, rdata: &[u8], attributes: &Attributes) -> Item {
    let at = arena.len();
    let parts = encode_to(arena, INSTANCE, name.as_wire(), (rtype, rdata), attributes);
    let short = |len: usize| {
        u16::try_from(len).expect("at most MAX_RECORD_LEN: the readers of files bound every part")
    };
    Item {
        at,
        name_hash: hash(&arena[at + parts.name.0..at + parts.name.1]),
        next: LAST,
        rtype,
        len: short(arena.len() - at),
        key_len: short(parts.key_len),
        name: (short(parts.name.0), short(parts.name.1)),
        is_first: true,
    }
}

/// The text in up to so many parts of about the same length, each of whole lines.
fn lines_in_parts(text: &[u8], parts: usize) -> Vec<&[u8]> {
    let mut rest = text;
    let mut all = Vec::with_capacity(parts);
    for left in (1..parts).rev() {
        let middle = rest.len() / (left + 1);
        let Some(end) = memchr::memchr(b'\n', &rest[middle..]) else { break };
        let (part, after) = rest.split_at(middle + end + 1);
        all.push(part);
        rest = after;
    }
    all.push(rest);
    all
}

fn hash(name: &[u8]) -> u64 {
    // Files are the operator's own: nobody else chooses what is hashed here.
    FixedState::default().hash_one(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_not_cut_where_a_text_is_shared_out() {
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..500 {
            let text: Vec<u8> =
                (0..rng.usize(..200)).map(|_| if rng.u8(..6) == 0 { b'\n' } else { b'x' }).collect();
            let parts = lines_in_parts(&text, rng.usize(1..6));
            assert_eq!(parts.concat(), text);
            assert!(parts[..parts.len() - 1].iter().all(|part| part.ends_with(b"\n")));
        }
    }

    #[test]
    fn the_first_mistake_of_a_long_file_is_told_and_what_is_said_first_holds() {
        let domains = [Name::from_text("example").unwrap()];
        let lines: Vec<_> =
            (0..60_000).map(|i| format!("10.0.{}.{} h{}", i / 250 % 250, i % 250, i % 50_000)).collect();
        let read = |lines: &[String]| {
            let mut registrations = Registrations::default();
            registrations.read_hosts(Path::new("hosts"), lines.join("\n").as_bytes(), &domains)?;
            Ok::<_, FileError>(registrations)
        };
        let all = read(&lines).unwrap();
        let mut one_by_one = Registrations::default();
        for line in &lines {
            one_by_one.read_hosts(Path::new("hosts"), line.as_bytes(), &domains).unwrap();
        }
        assert!(all.each().eq(one_by_one.each()));
        let mut wrong = lines;
        for mistake in [59_000, 41_000, 700] {
            wrong[mistake] = format!("10.0.0.300 h{mistake}");
            let told = read(&wrong).unwrap_err().to_string();
            assert!(told.starts_with(&format!("hosts:{}: ", mistake + 1)), "{told}");
        }
    }

    fn registrations(records: &[(&str, u16, &[u8])]) -> Result<Registrations, Conflict> {
        let record = |&(owner, rtype, rdata): &(&str, u16, &[u8])| ZoneRecord {
            name: Name::from_text(owner).unwrap(),
            rtype,
            ttl_s: 1,
            rdata: rdata.into(),
        };
        let mut registrations = Registrations::default();
        records.iter().for_each(|said| registrations.add_record(&record(said)));
        registrations.checked()
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
        let registrations = registrations.checked().unwrap();
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
            let records: Vec<_> = records[range]
                .iter()
                .map(|rdata| (if rdata[3] < 50 { "web.example" } else { "db.example" }, rtype::A, &rdata[..]))
                .collect();
            registrations(&records).unwrap()
        };
        let last = |key: &[u8]| *key.last().unwrap();
        let (before, after) = (of(0..90), of(10..100));
        let mut comparison = after.compare();
        before.items.iter().for_each(|item| comparison.registered(&before.record(item)));
        let (mut gone, mut new) = (Vec::new(), Vec::new());
        comparison.each_name(|changes| {
            gone.extend(changes.removals().map(last));
            new.extend(changes.puts().map(|bytes| last(Record::known(bytes).key)));
        });
        assert_eq!((gone, new), ((0..10).collect(), (90..100).collect()));
        let mut same = after.compare();
        after.items.iter().for_each(|item| same.registered(&after.record(item)));
        same.each_name(|_| panic!("nothing has changed"));
        assert!(after.all().iter().map(|bytes| bytes[bytes.len() - 4]).is_sorted(), "as they were said");
    }

    #[test]
    fn other_attributes_are_a_change_and_what_was_found_out_is_none() {
        let said = registrations(&[("web.example", rtype::A, &[10, 0, 0, 1])]).unwrap();
        let record = said.record(&said.items[0]);
        let state = crate::store::ObservedState { health: crate::policy::select::Health::Up, ramp: None };
        let with_state = record.with_state(state);
        let other = crate::store::encode(&record.to_key(), &Attributes::with_ttl_s(77));
        for (bytes, changes) in [(&with_state[..], 0), (&other[..], 1)] {
            let mut comparison = said.compare();
            comparison.registered(&Record::read(bytes).unwrap());
            let mut puts = 0;
            comparison.each_name(|of| puts += of.puts().count());
            assert_eq!(puts, changes);
        }
    }
}
