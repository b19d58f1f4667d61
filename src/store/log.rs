//! The log of one origin: every change that a node has made to its registrations, but for those that a later one has
//! made void.
//!
//! Pure. Runs on whichever thread has the lock. An origin numbers its changes densely from 1; for each registration the
//! log keeps the latest change alone, which either says what is registered or that it is no more (a tombstone).

use super::changes::{Change, Changes};
use super::codec::{Malformed, Reader, put_bytes, put_varint, varint_len};
use super::digest::Summary;
use super::node_id::NodeId;
use super::noting::Noting;
use super::record::MAX_RECORD_LEN;
use crate::limits::{MAX_CHANGES, MAX_INCARNATION};

/// What a log is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// It is what is known of its origin.
    Current,
    /// It is being gathered, and will take the place of what is known of its origin.
    Staged,
    /// It is being taken apart. If `quiet`, nothing of it is answered any more.
    Leaving {
        /// None of its names has to be noted.
        quiet: bool,
    },
}

/// One origin's changes, as far as they are known here.
#[derive(Clone, Debug)]
pub(super) struct Log {
    pub(super) origin: NodeId,
    /// Grows with each start of the origin.
    pub(super) incarnation: u64,
    /// The number of the latest change that is known here, and all before it are.
    pub(super) head: u64,
    /// Tombstones up to this number have been dropped. Who knows less than that has to take the whole log. It is over
    /// the head while that is being done where there was nothing of the origin before.
    pub(super) floor: u64,
    pub(super) changes: Changes,
    /// The origin is a live member: its records are in answers.
    pub(super) up: bool,
    pub(super) role: Role,
    /// Its names are being noted as changed.
    pub(super) noting: Option<Noting>,
    /// Tombstones up to the floor are being dropped, from this number on.
    pub(super) dropping: Option<u64>,
}

impl Log {
    pub(super) fn new(origin: NodeId, incarnation: u64) -> Self {
        Self {
            origin,
            incarnation,
            head: 0,
            floor: 0,
            changes: Changes::default(),
            up: true,
            role: Role::Current,
            noting: None,
            dropping: None,
        }
    }

    /// Whether it is answered from.
    pub(super) fn is_visible(&self) -> bool {
        self.up && self.role == Role::Current
    }

    pub(super) fn live(&self) -> usize {
        self.changes.len() - self.changes.tombstones()
    }

    pub(super) fn summary(&self) -> (NodeId, Summary) {
        (self.origin, Summary { incarnation: self.incarnation, head: self.head })
    }

    /// The changes after `from`, as many as fit in `max_len` bytes and at least one. It ends between two names where
    /// that is possible: who gets it shall not show half of a name's addresses.
    pub(super) fn delta(&self, from: u64, max_len: usize) -> Delta {
        let mut delta = Delta {
            origin: self.origin,
            incarnation: self.incarnation,
            floor: self.floor.min(self.head),
            head: self.head,
            from,
            to: self.head,
            numbers: Vec::new(),
            bytes: Vec::new(),
        };
        let mut len = HEADER_LEN;
        for (number, change) in self.changes.range(from + 1..) {
            let change_len = change.as_bytes().len();
            len += change_len + 2 * varint_len(change_len as u64) + 4;
            if len > max_len && !delta.is_empty() {
                delta.leave_name(change.record().name);
                delta.to = delta.numbers.last().map_or(from, |(last, _)| *last);
                break;
            }
            delta.push(number, change);
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
    /// The changes' numbers, and where each ends in `bytes`.
    numbers: Vec<(u64, usize)>,
    bytes: Vec<u8>,
}

impl Delta {
    /// The same range with nothing in it.
    #[must_use]
    pub fn without_changes(&self) -> Self {
        Self { numbers: Vec::new(), bytes: Vec::new(), ..*self }
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.numbers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.numbers.is_empty()
    }

    /// Whether what is known up to `head` under `floor` goes on with this. Up to a floor tombstones are missing:
    /// whoever has less may have what is gone, here as well as in the delta, and only the whole log tells. But nothing
    /// that two parts have under one and the same floor can be gone.
    pub(super) fn is_sound_after(&self, head: u64, floor: u64) -> bool {
        floor == self.floor || head >= floor.max(self.floor)
    }

    /// Leaves the changes of this name out that are at the end, unless there are no others.
    fn leave_name(&mut self, name: &[u8]) {
        let begins = |at: usize| at.checked_sub(1).map_or(0, |before| self.numbers[before].1);
        let has_name =
            |at: &usize| Change::known(&self.bytes[begins(*at)..self.numbers[*at].1]).record().name == name;
        let others = self.numbers.len() - (0..self.numbers.len()).rev().take_while(has_name).count();
        if others > 0 {
            self.bytes.truncate(begins(others));
            self.numbers.truncate(others);
        }
    }

    fn push(&mut self, number: u64, change: Change<'_>) {
        self.bytes.extend_from_slice(change.as_bytes());
        self.numbers.push((number, self.bytes.len()));
    }

    /// The changes with their numbers, in the order of these.
    pub(super) fn changes(&self) -> impl Iterator<Item = (u64, Change<'_>)> {
        let mut begin = 0;
        self.numbers.iter().map(move |&(number, end)| {
            let change = Change::known(&self.bytes[begin..end]);
            begin = end;
            (number, change)
        })
    }

    /// Appends the delta.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.origin.0);
        for field in [self.incarnation, self.floor, self.from] {
            put_varint(out, field);
        }
        put_varint(out, self.to - self.from);
        put_varint(out, self.head - self.to);
        put_varint(out, self.numbers.len() as u64);
        let mut before = self.from;
        for (number, change) in self.changes() {
            put_varint(out, number - before);
            put_bytes(out, change.as_bytes());
            before = number;
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
        if head >= MAX_CHANGES || incarnation >= MAX_INCARNATION || floor > head {
            return Err(Malformed);
        }
        let count = reader.varint()?;
        let (numbers, bytes) = (Vec::new(), Vec::new());
        let mut delta = Self { origin, incarnation, floor, head, from, to, numbers, bytes };
        let mut before = from;
        for _ in 0..count {
            let number = before.checked_add(reader.varint()?.max(1)).ok_or(Malformed)?;
            let change = Change::read(reader.bytes(1 + MAX_RECORD_LEN)?).ok_or(Malformed)?;
            if number > to {
                return Err(Malformed);
            }
            delta.push(number, change);
            before = number;
        }
        Ok(delta)
    }
}
