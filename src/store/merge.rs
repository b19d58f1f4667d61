//! Taking over what other nodes say: parts of their logs, in any order, some of them twice, some never.
//!
//! Pure. Runs on the control thread. `docs/gossip.md` has the rules, by number, and the tests break them.

use std::collections::HashSet;

use super::changes::Change;
use super::index::{Place, WARMED};
use super::log::{Delta, Log};
use super::{Applied, Store, note};

impl Store {
    /// Takes over what is new in `delta`.
    pub fn apply(&mut self, delta: &Delta) -> Applied {
        if delta.origin == self.me() {
            let later = delta.incarnation > self.incarnation();
            return if later { Applied::Impostor } else { Applied::Known };
        }
        let known = self.log(delta.origin).map(|log| (log.incarnation, log.head, log.floor));
        if known.is_some_and(|(incarnation, head, _)| (delta.incarnation, delta.head) <= (incarnation, head))
        {
            return Applied::Known;
        }
        if !delta.is_empty() && self.foreign_len() >= self.max_foreign_len {
            return Applied::Full;
        }
        let Some((incarnation, head, floor)) = known else { return self.begin(delta) };
        if incarnation != delta.incarnation || !delta.is_sound_after(head, floor) {
            return self.stage(delta, None);
        }
        if delta.from > head {
            return self.stage(delta, Some(head));
        }
        if delta.to <= head {
            return Applied::Known;
        }
        self.append(delta, head);
        Applied::News
    }

    /// Begins the log of an origin that nothing is known of: there is nothing to be replaced, and so nothing to wait for.
    fn begin(&mut self, delta: &Delta) -> Applied {
        if delta.from > 0 {
            return Applied::Gap(0);
        }
        let Some(place) = self.new_place() else { return Applied::Full };
        let mut log = Log::new(delta.origin, delta.incarnation);
        log.floor = delta.floor;
        self.logs[usize::from(place)] = Some(log);
        self.places.insert(delta.origin, place);
        self.append(delta, 0);
        Applied::News
    }

    /// Applies a delta that follows on what is known up to `head`.
    fn append(&mut self, delta: &Delta, head: u64) {
        let place = self.places[&delta.origin];
        let records: Vec<_> = delta.changes().map(|(_, change)| change.record()).collect();
        records.chunks(WARMED).for_each(|some| self.index.warm(some));
        for (number, change) in delta.changes().filter(|(number, _)| *number > head) {
            self.put_and_note(Place::new(place, number), change);
        }
        self.log_mut(place).head = delta.to;
        self.raise_floor(place, delta.floor);
    }

    /// Gathers a log that will replace what there is of its origin in one step, so that there is neither a gap in answers
    /// nor a ghost. Where what is `known` has no fault, what follows on it is enough.
    fn stage(&mut self, delta: &Delta, known: Option<u64>) -> Applied {
        let begun = self.staged.get(&delta.origin);
        if begun.is_some_and(|log| log.incarnation > delta.incarnation) {
            return Applied::Known;
        }
        let goes_on = begun.is_some_and(|log| {
            let sound = delta.is_sound_after(log.head, log.floor);
            log.incarnation == delta.incarnation && sound && delta.from <= log.head
        });
        if !goes_on {
            if delta.from > 0 {
                return Applied::Gap(known.unwrap_or_default());
            }
            let mut log = Log::new(delta.origin, delta.incarnation);
            log.floor = delta.floor;
            self.staged.insert(delta.origin, log);
        }
        let log = self.staged.get_mut(&delta.origin).expect("begun just now or before");
        let head = log.head;
        for (number, change) in delta.changes().filter(|(number, _)| *number > head) {
            log.changes.insert(number, change);
        }
        log.head = head.max(delta.to);
        log.floor = log.floor.max(delta.floor);
        if log.head < delta.head {
            return Applied::Staged;
        }
        let log = self.staged.remove(&delta.origin).expect("it was staged");
        if self.replace(log) { Applied::News } else { Applied::Full }
    }

    /// Puts a complete log in place of what there was of its origin. Returns whether there was room.
    fn replace(&mut self, staged: Log) -> bool {
        let origin = staged.origin;
        let up = self.log(origin).is_none_or(|log| log.up);
        let place = match self.places.get(&origin) {
            Some(&place) => place,
            None => match self.new_place() {
                Some(place) => place,
                None => return false,
            },
        };
        self.places.insert(origin, place);
        let old = self.logs[usize::from(place)].take().unwrap_or_else(|| Log::new(origin, 0));
        for (number, change) in old.changes.iter() {
            self.index.remove(Place::new(place, number), &change.record(), change.is_live());
        }
        let mut log = Log::new(origin, staged.incarnation);
        (log.head, log.up) = (staged.head, up);
        self.logs[usize::from(place)] = Some(log);
        // Within a staged log a later part may have made void what an earlier one had.
        for (number, change) in staged.changes.iter() {
            let record = change.record();
            let void = self.find(place, &record).map(|(number, _)| number);
            void.and_then(|number| self.take(place, number));
            self.index.insert(Place::new(place, number), &record, change.is_live());
            self.log_mut(place).changes.insert(number, change);
        }
        if up {
            self.note_difference(place, &old);
        }
        self.raise_floor(place, staged.floor);
        true
    }

    /// Notes the names of what only one of the two has: the `old` log, or the one at `place`.
    fn note_difference(&mut self, place: u16, old: &Log) {
        let mut changed = std::mem::take(&mut self.changed);
        let mut kept: HashSet<&[u8]> = HashSet::new();
        for change in old.changes.live() {
            let record = change.record();
            let now = self.find(place, &record).map(|(_, now)| now);
            if now == Some(change) {
                kept.insert(record.key);
            } else {
                note(&mut changed, record);
            }
        }
        let new = self.logs[usize::from(place)].iter().flat_map(|log| log.changes.live());
        new.map(Change::record)
            .filter(|record| !kept.contains(record.key))
            .for_each(|record| note(&mut changed, record));
        self.changed = changed;
    }
}
