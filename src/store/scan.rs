//! Reading very much in pieces: so that whoever reads can let go of the store in between.
//!
//! Pure. Runs on any thread that has the lock. The order is that of the origins' ids, then of the changes' numbers. A
//! record that changes gets a higher number, so it may be seen twice; one that is there all the time is never missed.
//! Where an origin has restarted in between, its log is a new one with numbers of its own: it is read again from its
//! beginning.

use std::fmt;
use std::ops::Bound;

use super::changes::Change;
use super::log::Log;
use super::statement::STATEMENT;
use super::{NodeId, Record, Store};

/// How far a reader has come. As text it is three numbers; whoever keeps it that way goes on with it later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    origin: NodeId,
    incarnation: u64,
    /// Changes of the origin up to this number have been read.
    number: u64,
}

impl Cursor {
    /// Before all.
    pub const BEGIN: Self = Self { origin: NodeId([0; 16]), incarnation: 0, number: 0 };

    /// The cursor that is written so.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut part = || parts.next();
        let origin = NodeId::from_text(part()?)?;
        let (incarnation, number) = (part()?.parse().ok()?, part()?.parse().ok()?);
        parts.next().is_none().then_some(Self { origin, incarnation, number })
    }

    /// The number of the change in `log` from which on to read.
    fn next_in(&self, log: &Log) -> u64 {
        if log.origin == self.origin && log.incarnation == self.incarnation {
            self.number.saturating_add(1)
        } else {
            0
        }
    }
}

impl Default for Cursor {
    fn default() -> Self {
        Self::BEGIN
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.origin, self.incarnation, self.number)
    }
}

impl Store {
    /// Goes on from `cursor` through the registrations of all origins, directives left out, and touches at most `limit`
    /// changes (at least one): `each` gets an origin, whether it is up, and a registration. Returns where to go on,
    /// and `None` at the end. How an address stands is said by [`Statements::standing`](super::Statements::standing).
    pub fn scan(
        &self,
        cursor: Cursor,
        limit: usize,
        mut each: impl FnMut(NodeId, bool, Record<'_>),
    ) -> Option<Cursor> {
        let mut left = limit.max(1);
        let origins = (Bound::Included(cursor.origin), Bound::Unbounded);
        for log in self.places.range(origins).filter_map(|(_, &place)| self.logs[usize::from(place)].as_ref())
        {
            let cursor = self.scan_log(log, cursor, &mut left, |change| {
                let record = change.record();
                if record.rtype != STATEMENT {
                    each(log.origin, log.up, record);
                }
            });
            if cursor.is_some() {
                self.work.add(limit.max(1) - left);
                return cursor;
            }
        }
        self.work.add(limit.max(1) - left);
        None
    }

    /// The same through this node's own registrations, directives among them.
    pub fn scan_own(&self, cursor: Cursor, limit: usize, mut each: impl FnMut(Record<'_>)) -> Option<Cursor> {
        let mut left = limit.max(1);
        let next = self.scan_log(self.own_log(), cursor, &mut left, |change| each(change.record()));
        self.work.add(limit.max(1) - left);
        next
    }

    /// Goes on through one log, from `cursor` if that is in it. Takes what it touches, and one for the log, from
    /// `left`.
    fn scan_log<'a>(
        &self,
        log: &'a Log,
        cursor: Cursor,
        left: &mut usize,
        mut each: impl FnMut(Change<'a>),
    ) -> Option<Cursor> {
        let at = |number| Some(Cursor { origin: log.origin, incarnation: log.incarnation, number });
        let begin = cursor.next_in(log);
        let mut done = begin.saturating_sub(1);
        if *left == 0 {
            return at(done);
        }
        for (number, change) in log.changes.range(begin..) {
            if *left == 0 {
                return at(done);
            }
            *left -= 1;
            if change.is_live() {
                each(change);
            }
            done = number;
        }
        // A log with nothing in it is work, too.
        *left = left.saturating_sub(1);
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::store::{Attributes, Key};
    use crate::wire::name::Name;

    fn key(i: u32) -> Key {
        Key::address("", &Name::from_text(&format!("n{i}.example")).unwrap(), i.to_be_bytes().into())
    }

    fn registered(id: u8, incarnation: u64, names: std::ops::Range<u32>) -> Store {
        let mut store = Store::new(NodeId([id; 16]), incarnation);
        for i in names {
            store.register(&key(i), &Attributes::default()).unwrap();
        }
        store
    }

    #[test]
    fn a_cursor_is_read_as_it_is_written() {
        let cursor = Cursor { origin: NodeId([7; 16]), incarnation: 1 << 40, number: 3 };
        assert_eq!(Cursor::parse(&cursor.to_string()), Some(cursor));
        let id = "07".repeat(16);
        for wrong in ["", "x.1.2", "1.2", &format!("{id}.1"), &format!("{id}.1.2.3"), &format!("{id}.1.-2")] {
            assert_eq!(Cursor::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_there_all_the_time_is_never_missed_and_no_piece_is_longer_than_asked() {
        let mut rng = fastrand::Rng::with_seed(7);
        for limit in [1, 2, 7, 1_000] {
            let mut store = registered(2, 1, 0..60);
            let mut other = registered(1, 1, 100..160);
            store.apply(&other.delta(other.me(), 0, usize::MAX).unwrap());
            let stays: BTreeSet<u32> = (0..60).chain(100..160).filter(|i| i % 3 == 0).collect();
            let (mut seen, mut cursor, mut pieces) = (BTreeSet::new(), Some(Cursor::BEGIN), 0);
            while let Some(at) = cursor {
                let mut touched = 0;
                let at = Cursor::parse(&at.to_string()).unwrap();
                cursor = store.scan(at, limit, |_, up, record| {
                    touched += 1;
                    assert!(up);
                    seen.insert(u32::from_be_bytes(record.rdata.try_into().unwrap()));
                });
                assert!(touched <= limit, "{touched} of {limit}");
                pieces += 1;
                if pieces > 60 {
                    continue; // changes come to an end, or it would never catch up
                }
                // Those that stay change what is said of them, others go, the other origin restarts.
                let i = rng.u32(..60);
                let attributes = Attributes::with_ttl_s(rng.u32(..1_000));
                store.register(&key(i / 3 * 3), &attributes).unwrap();
                store.remove(|record| record.rdata == (i / 3 * 3 + 1).to_be_bytes());
                if pieces % 20 == 19 {
                    other = registered(1, other.incarnation() + 1, 100..160);
                    store.apply(&other.delta(other.me(), 0, usize::MAX).unwrap());
                }
            }
            assert!(seen.is_superset(&stays), "{limit}: {:?}", stays.difference(&seen));
        }
    }

    #[test]
    fn own_registrations_come_in_pieces_and_each_once() {
        let mut store = registered(2, 1, 0..50);
        store.apply(&registered(1, 1, 100..110).delta(NodeId([1; 16]), 0, usize::MAX).unwrap());
        let (mut seen, mut cursor) = (Vec::new(), Some(Cursor::BEGIN));
        while let Some(at) = cursor {
            cursor = store
                .scan_own(at, 7, |record| seen.push(u32::from_be_bytes(record.rdata.try_into().unwrap())));
        }
        assert_eq!(seen, (0..50).collect::<Vec<_>>());
        assert!(store.take_work() >= 50 && store.take_work() == 0);
    }
}
