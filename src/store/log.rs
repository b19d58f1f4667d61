//! The log of one origin: every change that a node has made to its registrations, but for those that a later one has
//! made void.
//!
//! Pure. Runs on the control thread. An origin numbers its changes densely from 1; for each registration the log keeps the
//! latest change alone, which either says what is registered or that it is no more (a tombstone).

use std::collections::BTreeMap;

use super::codec::{Malformed, Reader, put_bytes, put_varint, varint_len};
use super::digest::Summary;
use super::record::{MAX_RECORD_LEN, NodeId, Record};

/// A change: a flag, then the registration's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change(Box<[u8]>);

const LIVE: u8 = 1;
const TOMBSTONE: u8 = 0;

impl Change {
    pub(super) fn registered(record: &[u8]) -> Self {
        Self([&[LIVE], record].concat().into())
    }

    /// That the registration with the bytes `key` is no more.
    pub(super) fn removed(key: &[u8]) -> Self {
        Self([&[TOMBSTONE], key].concat().into())
    }

    pub(super) fn is_live(&self) -> bool {
        self.0.first() == Some(&LIVE)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0[1..]
    }

    pub(super) fn record(&self) -> Record<'_> {
        Record::read(self.bytes()).expect("checked when it was made or decoded")
    }

    pub(super) fn heap_len(&self) -> usize {
        self.0.len()
    }
}

/// One origin's changes, as far as they are known here.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) origin: NodeId,
    /// Grows with each start of the origin.
    pub(super) incarnation: u64,
    /// The number of the latest change that is known here, and all before it are.
    pub(super) head: u64,
    /// Tombstones up to this number have been dropped. Who knows less than that has to take the whole log.
    pub(super) floor: u64,
    pub(super) changes: BTreeMap<u64, Change>,
    pub(super) tombstones: usize,
    /// The origin is a live member: its records are in answers.
    pub(super) up: bool,
}

impl Log {
    pub(super) fn new(origin: NodeId, incarnation: u64) -> Self {
        Self { origin, incarnation, head: 0, floor: 0, changes: BTreeMap::new(), tombstones: 0, up: true }
    }

    pub(super) fn live(&self) -> usize {
        self.changes.len() - self.tombstones
    }

    pub(super) fn summary(&self) -> (NodeId, Summary) {
        (self.origin, Summary { incarnation: self.incarnation, head: self.head })
    }

    pub(super) fn insert(&mut self, number: u64, change: Change) {
        self.tombstones += usize::from(!change.is_live());
        self.changes.insert(number, change);
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<Change> {
        let change = self.changes.remove(&number)?;
        self.tombstones -= usize::from(!change.is_live());
        Some(change)
    }

    /// The changes after `from`, as many as fit in `max_len` bytes and at least one.
    pub(super) fn delta(&self, from: u64, max_len: usize) -> Delta {
        let mut delta = Delta {
            origin: self.origin,
            incarnation: self.incarnation,
            floor: self.floor,
            head: self.head,
            from,
            to: self.head,
            changes: Vec::new(),
        };
        let mut len = HEADER_LEN;
        for (&number, change) in self.changes.range(from + 1..) {
            len += change.heap_len() + 2 * varint_len(change.heap_len() as u64) + 4;
            if len > max_len && !delta.changes.is_empty() {
                delta.to = delta.changes.last().map_or(from, |(last, _)| *last);
                break;
            }
            delta.changes.push((number, change.clone()));
        }
        delta
    }
}

/// Bytes of a delta before its changes, at most.
const HEADER_LEN: usize = 16 + 5 * 10;

/// A part of an origin's log: all changes with a number over `from` and up to `to` that are not void.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delta {
    /// Whose log.
    pub origin: NodeId,
    /// The origin's incarnation.
    pub incarnation: u64,
    /// The log's floor: who knows less than this has to take it from 0.
    pub floor: u64,
    /// The number of the latest change that the sender has.
    pub head: u64,
    /// The changes come after this number.
    pub from: u64,
    /// They go up to this number.
    pub to: u64,
    pub(super) changes: Vec<(u64, Change)>,
}

impl Delta {
    /// The same range with nothing in it.
    #[must_use]
    pub fn without_changes(&self) -> Self {
        Self { changes: Vec::new(), ..*self }
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Appends the delta.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.origin.0);
        for field in [self.incarnation, self.floor, self.from] {
            put_varint(out, field);
        }
        put_varint(out, self.to - self.from);
        put_varint(out, self.head - self.to);
        put_varint(out, self.changes.len() as u64);
        let mut before = self.from;
        for (number, change) in &self.changes {
            put_varint(out, number - before);
            put_bytes(out, &change.0);
            before = *number;
        }
    }

    /// Takes a delta off the front of `reader`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let origin = NodeId(reader.array()?);
        let [incarnation, floor, from] = [reader.varint()?, reader.varint()?, reader.varint()?];
        let to = from.checked_add(reader.varint()?).ok_or(Malformed)?;
        let head = to.checked_add(reader.varint()?).ok_or(Malformed)?;
        // Numbers have 48 bits in the indexes; at a million changes a second that is nine years of one start.
        if head >= 1 << 48 || floor > head {
            return Err(Malformed);
        }
        let count = reader.varint()?;
        let mut changes = Vec::new();
        let mut before = from;
        for _ in 0..count {
            let number = before.checked_add(reader.varint()?.max(1)).ok_or(Malformed)?;
            let bytes = reader.bytes(1 + MAX_RECORD_LEN)?;
            let (&flag, record) = bytes.split_first().ok_or(Malformed)?;
            let key = Record::read(record)?.key;
            if number > to || !(flag == LIVE || flag == TOMBSTONE && key.len() == record.len()) {
                return Err(Malformed);
            }
            changes.push((number, Change(bytes.into())));
            before = number;
        }
        Ok(Self { origin, incarnation, floor, head, from, to, changes })
    }
}
