//! The registrations of all nodes, as far as they are known to this one: a set of logs, one for each origin.
//!
//! Pure: no clock and no I/O. Runs on whichever thread has the lock.
//!
//! **Single writer.** A registration belongs to the node that made it, its origin, and only that node changes it. It
//! numbers every change by (incarnation, sequence). Of two changes to one registration the one with the higher number
//! holds, so that merging is commutative, associative and idempotent, and no clocks are compared. `docs/gossip.md` has
//! the invariants.

mod changed;
mod changes;
mod codec;
mod digest;
mod disk;
mod disk_check;
mod disk_mark;
mod index;
mod log;
mod merge;
mod name_set;
mod node_id;
mod noting;
mod own;
mod record;
mod reserve;
mod scan;
mod shared;
mod statement;
mod sweep;
mod work;

use std::collections::BTreeMap;

pub use changed::Changed;
use changed::note;
use changes::Change;
pub use codec::{Malformed, Reader, put_bytes, put_varint};
pub use digest::{Digest, Summary, Want};
pub use disk::{Disk, DiskContents, DiskError, Write, file_in};
pub use disk_check::check;
use index::{ChangePlace, Index, Spots};
pub use log::Delta;
use log::{Log, Role};
pub use name_set::NameSet;
pub use node_id::NodeId;
pub use record::{
    Attributes, Key, MAX_CHECK_LEN, MAX_INSTANCE_LEN, MAX_RDATA_LEN, ObservedState, Parts, Record, TooLong,
    encode, encode_to,
};
pub use scan::Cursor;
pub use shared::{Filling, ReadStore, SharedStore};
use statement::STATEMENT;
pub use statement::{STATEMENT_INSTANCE, Statements, Target};
pub use sweep::MAX_CHANGED;
use sweep::Sweeps;

use crate::policy::select::Standing;
use crate::wire::record::rtype;
use work::Work;

/// Origins at most: their places in the indexes have 16 bits.
pub const MAX_ORIGINS: usize = crate::limits::MAX_ORIGINS;

/// What [`Store::apply`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// Something that was not known.
    News,
    /// Nothing: it was known, or is of an earlier incarnation.
    Known,
    /// Something that was not known, of a log that is not complete yet.
    Staged,
    /// Nothing: changes before it are missing. Everything after this number is wanted.
    Gap(u64),
    /// Nothing: it claims to come from this node, in a later incarnation than this one. Two nodes have the same id, or
    /// an old copy of our data was started.
    Impostor,
    /// Nothing: other nodes have registered more than there may be, or there are too many of them.
    Full,
}

/// Bytes of changes that are held for other nodes at most. With what the indexes and the table add that is some three
/// times as much memory.
pub const MAX_FOREIGN_LEN: usize = crate::limits::MAX_FOREIGN_LEN;

/// A record for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableRecord<'a> {
    /// Its type.
    pub rtype: u16,
    /// How long others may keep it, if its registration says.
    pub ttl_s: Option<u32>,
    /// Its data.
    pub rdata: &'a [u8],
    /// If it is an address, how that stands.
    pub standing: Standing,
}

/// All logs.
pub struct Store {
    /// Ours is the first. A log keeps its place until it has been taken apart.
    logs: Vec<Option<Log>>,
    /// Places without a log.
    free: Vec<u16>,
    /// Where what is known of an origin is.
    places: BTreeMap<NodeId, u16>,
    /// Logs that replace what there is of their origin as soon as they are complete: of a new incarnation, or because
    /// we were behind the floor.
    staged: BTreeMap<NodeId, u16>,
    index: Index,
    /// Names, in wire form and lower case, whose records are others than when [`take_changed`](Self::take_changed) was
    /// last called.
    changed: NameSet,
    /// What holds of all that has been said, as of the last [`take_changed`](Self::take_changed).
    statements: Statements,
    sweeps: Sweeps,
    /// Bytes of changes that are held for other nodes.
    foreign_len: usize,
    max_foreign_len: usize,
    /// Names that are noted as changed at most; when there are more, only how many.
    max_changed: usize,
    /// Names that have changed and are not noted one by one.
    lost_changes: usize,
    /// Names are counted rather than noted for now.
    counts_only: bool,
    /// The latest change of our own; kept for its room.
    change: Vec<u8>,
    work: Work,
}

impl Store {
    /// The store of the node `me` in this incarnation, with nothing in it.
    #[must_use]
    pub fn new(me: NodeId, incarnation: u64) -> Self {
        let mut own = Log::new(me, incarnation);
        // The start is the first change: so there is something to tell those who hold records of an earlier
        // incarnation, also where there is nothing registered any more.
        own.head = 1;
        Self {
            logs: vec![Some(own)],
            free: Vec::new(),
            places: BTreeMap::from([(me, 0)]),
            staged: BTreeMap::new(),
            index: Index::default(),
            changed: NameSet::default(),
            statements: Statements::default(),
            sweeps: Sweeps::default(),
            foreign_len: 0,
            max_foreign_len: MAX_FOREIGN_LEN,
            max_changed: usize::MAX,
            lost_changes: 0,
            counts_only: false,
            change: Vec::new(),
            work: Work::default(),
        }
    }

    /// An empty store whose hashes are the same in each process: for measurements that are to come out the same each
    /// time. Where others register names they could choose such that they collide.
    #[must_use]
    pub fn with_fixed_hashes(me: NodeId, incarnation: u64) -> Self {
        Self { index: Index::fixed(), changed: NameSet::fixed(), ..Self::new(me, incarnation) }
    }

    /// The same with another limit for what other nodes have registered.
    #[must_use]
    pub fn with_max_foreign_len(self, max_foreign_len: usize) -> Self {
        Self { max_foreign_len, ..self }
    }

    /// Bytes of changes that are held for other nodes, also of what is being taken apart.
    #[must_use]
    pub fn foreign_len(&self) -> usize {
        self.foreign_len
    }

    /// This node.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.own_log().origin
    }

    /// This node's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> u64 {
        self.own_log().incarnation
    }

    /// The number of this node's latest change.
    #[must_use]
    pub fn own_head(&self) -> u64 {
        self.own_log().head
    }

    fn own_log(&self) -> &Log {
        self.logs[0].as_ref().expect("a node does not forget itself")
    }

    /// What is known of the origins, with the places.
    fn current(&self) -> impl Iterator<Item = (u16, &Log)> {
        let logs = (0..).zip(&self.logs).filter_map(|(place, log)| Some((place, log.as_ref()?)));
        logs.filter(|(_, log)| log.role == Role::Current)
    }

    fn log(&self, origin: NodeId) -> Option<&Log> {
        self.places.get(&origin).and_then(|&place| self.logs[usize::from(place)].as_ref())
    }

    /// How many registrations of `origin` are known.
    #[must_use]
    pub fn count(&self, origin: NodeId) -> usize {
        self.log(origin).map_or(0, Log::live)
    }

    /// This node's registrations.
    pub fn registrations(&self) -> impl Iterator<Item = Record<'_>> {
        self.own_log().changes.live().map(Change::record)
    }

    /// The registrations of `name`, in wire form and lower case, with their origins and whether these are up.
    pub fn named<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = (NodeId, bool, Record<'a>)> {
        self.named_numbered(name).map(|(origin, up, _, record)| (origin, up, record))
    }

    /// The same, with the number of the change in its origin's log that registered each.
    pub fn named_numbered<'a>(
        &'a self,
        name: &'a [u8],
    ) -> impl Iterator<Item = (NodeId, bool, u64, Record<'a>)> {
        self.index.by_name(name).filter_map(move |place| {
            let log = self.logs[usize::from(place.log())].as_ref().filter(|log| log.role == Role::Current)?;
            let record = log.changes.get(place.number()).filter(|change| change.is_live())?.record();
            (record.name == name).then_some((log.origin, log.up, place.number(), record))
        })
    }

    /// Each log that is known: whose, of which start, and the number of its latest change.
    pub fn heads(&self) -> impl Iterator<Item = (NodeId, u64, u64)> {
        self.current().map(|(_, log)| (log.origin, log.incarnation, log.head))
    }

    /// All registrations, with their origins and whether these are up.
    pub fn all(&self) -> impl Iterator<Item = (NodeId, bool, Record<'_>)> {
        self.current()
            .flat_map(|(_, log)| log.changes.live().map(|change| (log.origin, log.up, change.record())))
            .filter(|(_, _, record)| record.rtype != STATEMENT)
    }

    /// One of `shares` shares of what is registered by the origins that are up, with the places of their logs: what
    /// answers are made of.
    pub fn answered(&self, share: usize, shares: usize) -> impl Iterator<Item = (u16, Record<'_>)> {
        let up = self.current().filter(|(_, log)| log.up);
        let records = up.flat_map(move |(place, log)| {
            log.changes.live_share(share, shares).map(move |change| (place, change.record()))
        });
        records.filter(|(_, record)| record.rtype != STATEMENT)
    }

    /// How many registrations there are, over all origins.
    #[must_use]
    pub fn len(&self) -> usize {
        self.current().map(|(_, log)| log.live()).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn log_mut(&mut self, place: u16) -> &mut Log {
        self.logs[usize::from(place)].as_mut().expect("the place of a log")
    }

    /// The change in one log to what `record` registers, and its number.
    fn find(&self, place: u16, record: &Record<'_>) -> Option<(u64, Change<'_>)> {
        self.find_at(place, self.index.by_name(record.name), record)
    }

    /// The same where it is known under which places there may be something.
    fn find_at(
        &self,
        place: u16,
        found: impl Iterator<Item = ChangePlace>,
        record: &Record<'_>,
    ) -> Option<(u64, Change<'_>)> {
        let here = found.filter(|found| found.log() == place);
        let log = self.logs[usize::from(place)].as_ref()?;
        let mut here = here.filter_map(|found| Some((found.number(), log.changes.get(found.number())?)));
        here.find(|(_, change)| change.has_key(record.key))
    }

    /// Puts a change into a log in place of what it makes void, and notes the names whose records are others by that.
    fn put_and_note(&mut self, place: ChangePlace, change: Change<'_>) {
        let record = change.record();
        let spots = self.index.spots(&record, change.is_live());
        self.put_at(place, change, &record, &spots);
    }

    /// The same of what `record` says, whose `spots` have been looked for.
    fn put_at(&mut self, now: ChangePlace, change: Change<'_>, record: &Record<'_>, spots: &Spots) {
        let void = self.find_at(now.log(), self.index.by_spots(spots), record).map(|(number, _)| number);
        if self.put(now, change, (record, spots), void) {
            self.note(*record);
        }
    }

    /// Puts a change of what `record` says into a log in place of the one with the number `void`. Returns whether what
    /// is answered is other by that.
    fn put(
        &mut self,
        now: ChangePlace,
        change: Change<'_>,
        (record, spots): (&Record<'_>, &Spots),
        void: Option<u64>,
    ) -> bool {
        let log = self.log_mut(now.log());
        let before = void.and_then(|number| log.changes.remove(number));
        log.changes.insert(now.number(), change);
        let is_visible = log.is_visible();
        if now.log() > 0 {
            self.foreign_len += change.as_bytes().len();
            self.foreign_len -= before.as_ref().map_or(0, |before| before.len());
        }
        self.work.add_alone(1);
        let was_live = before.as_deref().map(|bytes| Change::known(bytes).is_live());
        match void.map(|number| ChangePlace::new(now.log(), number)) {
            // The key is the same, and so are the names that it is found under.
            Some(void) if was_live == Some(change.is_live()) => {
                self.index.move_to(now, void, record, spots);
            }
            Some(void) => {
                let before = before.as_deref().map_or(change, Change::known);
                self.index.remove(void, &before.record(), before.is_live());
                self.index.insert(now, record, spots);
            }
            None => self.index.insert(now, record, spots),
        }
        let matters = was_live == Some(true) || change.is_live();
        let differs = before.as_deref() != Some(change.as_bytes());
        matters && (is_visible && differs || self.is_noting(now.log()))
    }

    fn take(&mut self, place: u16, number: u64) -> Option<Box<[u8]>> {
        let bytes = self.log_mut(place).changes.remove(number)?;
        self.foreign_len -= if place > 0 { bytes.len() } else { 0 };
        let change = Change::known(&bytes);
        self.index.remove(ChangePlace::new(place, number), &change.record(), change.is_live());
        Some(bytes)
    }

    /// The records of `name`, in wire form and lower case, of all origins that are up: what is registered, and pointers
    /// to the names that have the address whose reverse name it is. Several may be the same.
    pub fn answers<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = TableRecord<'a>> {
        self.index.by_name(name).filter_map(move |place| {
            let log = self.logs[usize::from(place.log())].as_ref().filter(|log| log.is_visible())?;
            let record = log.changes.get(place.number()).filter(|change| change.is_live())?.record();
            let ttl_s = record.ttl_s();
            if record.name == name {
                let standing = self.statements.standing(log.origin, &record);
                let Record { rtype, rdata, .. } = record;
                return (rtype != STATEMENT).then_some(TableRecord { rtype, ttl_s, rdata, standing });
            }
            let reverse = record.reverse_name()?;
            let standing = Standing::default();
            let pointer = TableRecord { rtype: rtype::PTR, ttl_s, rdata: record.name, standing };
            (reverse.as_wire() == name).then_some(pointer)
        })
    }

    /// Has memory bring what looking for the answers of these names will read, for all of them at the same time.
    pub fn warm(&self, names: &[&[u8]]) {
        self.index.warm_names(names);
    }

    fn new_place(&mut self) -> Option<u16> {
        self.free.pop().or_else(|| {
            let place = u16::try_from(self.logs.len()).ok()?;
            self.logs.push(None);
            Some(place)
        })
    }

    /// The part of the log of `origin` after `from`, as much of it as fits in `max_len` bytes, and the whole log for
    /// who is behind its floor; `None` if there is nothing after it, or nothing of the origin.
    #[must_use]
    pub fn delta(&self, origin: NodeId, from: u64, max_len: usize) -> Option<Delta> {
        let log = self.log(origin).filter(|log| log.head > from)?;
        Some(self.part(log, if from < log.floor { 0 } else { from }, max_len))
    }

    /// The part that follows on `part`, whatever the floor is; `None` if that was the last, or the origin has begun
    /// anew.
    #[must_use]
    pub fn delta_after(&self, part: &Delta, max_len: usize) -> Option<Delta> {
        let log =
            self.log(part.origin).filter(|log| log.incarnation == part.incarnation && log.head > part.to)?;
        Some(self.part(log, part.to, max_len))
    }

    fn part(&self, log: &Log, from: u64, max_len: usize) -> Delta {
        let delta = log.delta(from, max_len);
        self.work.add(delta.len());
        delta
    }

    /// Whether the origin is up: if not, its records are kept but withheld from answers. That holds at once; its names
    /// are noted by sweeps.
    pub fn set_up(&mut self, origin: NodeId, up: bool) {
        let Some(&place) = self.places.get(&origin) else { return };
        let log = self.log_mut(place);
        if log.up != up {
            log.up = up;
            self.note_all(place);
        }
    }

    /// Removes all that is known of `origin`, which is another node: from answers at once, from memory by sweeps.
    pub fn forget(&mut self, origin: NodeId) {
        if let Some(place) = self.staged.remove(&origin) {
            self.dismiss(place);
        }
        if origin != self.me()
            && let Some(place) = self.places.remove(&origin)
        {
            self.dismiss(place);
        }
    }

    /// What is known of the origins that are up: the same on all nodes once they have talked to each other.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::new(self.current().filter(|(_, log)| log.up).map(|(_, log)| log.summary()))
    }

    /// The hash of that, which is all that travels while nothing changes.
    #[must_use]
    pub fn digest_hash(&self) -> u64 {
        let logs = self.places.values().filter_map(|&place| self.logs[usize::from(place)].as_ref());
        digest::hash(logs.filter(|log| log.up).map(Log::summary))
    }

    /// What is known of all origins, up or not: nobody needs to tell us of that.
    #[must_use]
    pub fn known(&self) -> Digest {
        Digest::new(self.current().map(|(_, log)| log.summary()))
    }

    /// Bytes on the heap, but for what the allocator adds.
    #[must_use]
    pub fn heap_len(&self) -> usize {
        self.index.heap_len() + self.logs.iter().flatten().map(|log| log.changes.heap_len()).sum::<usize>()
    }
}
