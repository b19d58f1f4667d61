//! What this node registers: the log that nobody else writes.
//!
//! Pure. Runs on whichever thread has the lock.

use smallvec::SmallVec;

use super::changes::Change;
use super::index::{ChangePlace, Spots, WARMED};
use super::{Attributes, Key, ObservedState, Record, Store, TooLong, encode};

impl Store {
    /// Registers `key`, or changes what is said of it. Returns whether that changed anything.
    ///
    /// # Errors
    /// [`TooLong`]; nothing is changed then.
    pub fn register(&mut self, key: &Key, attributes: &Attributes) -> Result<bool, TooLong> {
        key.check()?;
        Ok(self.register_encoded(&encode(key, attributes)))
    }

    /// The same with a registration's [encoding](encode).
    ///
    /// # Panics
    /// If it is none.
    pub fn register_encoded(&mut self, bytes: &[u8]) -> bool {
        let record = Record::read(bytes).expect("an encoding");
        let spots = self.index.spots(&record, true);
        let found = self.find_at(0, self.index.by_spots(&spots), &record);
        if found.is_some_and(|(_, change)| change.is_live() && change.record_bytes() == bytes) {
            return false;
        }
        let void = found.map(|(number, _)| number);
        self.put_own(&record, void, &spots);
        true
    }

    /// Registers what each of `records` says, of which `told` is told whether nothing was registered with its key. What
    /// has been found out about it by the same check still holds. What this reads of memory is brought for many of them
    /// at the same time.
    pub fn register_some(&mut self, records: &[Record<'_>], mut told: impl FnMut(bool)) {
        for some in records.chunks(WARMED) {
            let spots: SmallVec<[_; WARMED]> =
                some.iter().map(|record| self.index.spots(record, true)).collect();
            self.index.warm(&spots);
            some.iter().zip(&spots).for_each(|(record, spots)| told(self.register_anew(record, spots)));
        }
    }

    fn register_anew(&mut self, record: &Record<'_>, spots: &Spots) -> bool {
        let found = self.find_at(0, self.index.by_spots(spots), record);
        let void = found.map(|(number, _)| number);
        let before = found.filter(|(_, change)| change.is_live()).map(|(_, change)| change.record());
        let Some(before) = before else {
            self.put_own(record, void, spots);
            return true;
        };
        let check = |record: &Record<'_>| record.attributes().ok().and_then(|attributes| attributes.check);
        let state = before.attributes().ok().map(|it| it.state).filter(|it| *it != ObservedState::default());
        match state.filter(|_| check(&before) == check(record)) {
            Some(state) => drop(self.register_encoded(&record.with_state(state))),
            None if before.bytes == record.bytes => {}
            None => self.put_own(record, void, spots),
        }
        false
    }

    /// The same with the encodings of many that all are new, by so many threads, but for noting their names: who calls
    /// this makes a table of all that there is.
    ///
    /// # Panics
    /// If one is none.
    pub fn load(&mut self, registrations: &[&[u8]], threads: usize) {
        debug_assert!(registrations.iter().all(|bytes| self.find(0, &Record::known(bytes)).is_none()));
        let log = self.log_mut(0);
        let first = ChangePlace::new(0, log.head + 1);
        let mut change = Vec::new();
        for bytes in registrations {
            log.head += 1;
            Change::register(bytes, &mut change);
            log.changes.insert(log.head, Change::known(&change));
        }
        self.index.load(first, registrations, threads);
    }

    /// Registers what is not registered yet, or otherwise in the change with the number `void`.
    fn put_own(&mut self, record: &Record<'_>, void: Option<u64>, spots: &Spots) {
        let log = self.log_mut(0);
        log.head += 1;
        let place = ChangePlace::new(0, log.head);
        let mut change = std::mem::take(&mut self.change);
        Change::register(record.bytes, &mut change);
        let is_answered = self.put(place, Change::known(&change), (record, spots), void);
        self.change = change;
        if is_answered {
            self.note(*record);
        }
    }

    /// Removes this node's registration with the bytes `key`. Returns whether there was one.
    pub fn remove_key(&mut self, key: &[u8]) -> bool {
        let there = self.has_own_key(key);
        if there {
            self.change(&Change::removed(key));
        }
        there
    }

    /// Removes those of this node's registrations that `which` says. Returns their keys.
    pub fn remove(&mut self, mut which: impl FnMut(&Record<'_>) -> bool) -> Vec<Key> {
        let own = self.own_log();
        let gone: Vec<_> = own
            .changes
            .live()
            .map(Change::record)
            .filter(|record| which(record))
            .map(|record| (record.to_key(), Change::removed(record.key)))
            .collect();
        gone.into_iter()
            .map(|(key, change)| {
                self.change(&change);
                key
            })
            .collect()
    }

    fn change(&mut self, change: &[u8]) {
        let number = self.own_log().head + 1;
        self.put_and_note(ChangePlace::new(0, number), Change::known(change));
        self.log_mut(0).head = number;
    }

    /// Whether this node has the registration with these bytes, attributes and all, whatever it has found out about it
    /// since.
    #[must_use]
    pub fn has_own(&self, bytes: &[u8]) -> bool {
        self.own(bytes).is_some_and(|own| own.declared() == bytes)
    }

    /// This node's registration with the key that `bytes` begin with.
    #[must_use]
    pub fn own(&self, bytes: &[u8]) -> Option<Record<'_>> {
        self.own_live(bytes).map(Change::record)
    }

    /// Whether this node has a registration with the bytes `key`.
    #[must_use]
    pub fn has_own_key(&self, key: &[u8]) -> bool {
        self.own_live(key).is_some()
    }

    /// This node's registration with the key that `bytes` begin with.
    fn own_live(&self, bytes: &[u8]) -> Option<Change<'_>> {
        let record = Record::read(bytes).ok()?;
        let (_, change) = self.find(0, &record)?;
        change.is_live().then_some(change)
    }

    /// This node's registration with these bytes as its key gets another state. Returns whether that changed anything.
    pub fn set_state(&mut self, key: &[u8], state: ObservedState) -> bool {
        let Some(record) = self.own(key) else { return false };
        let bytes = record.with_state(state);
        self.register_encoded(&bytes)
    }
}
