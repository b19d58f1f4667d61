//! Taking over what other nodes say: parts of their logs, in any order, some of them twice, some never.
//!
//! Pure. Runs on whichever thread has the lock. `docs/gossip.md` has the rules, by number, and the tests break them.

use smallvec::SmallVec;

use super::index::{ChangePlace, WARMED};
use super::log::{Delta, Log, Role};
use super::{Applied, Store};

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
        if !delta.is_empty() && self.foreign_len >= self.max_foreign_len {
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

    /// Begins the log of an origin that nothing is known of: there is nothing to be replaced, and so nothing to wait
    /// for.
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
        self.put_all(place, delta, head);
        self.log_mut(place).head = delta.to;
        self.raise_floor(place, delta.floor);
    }

    /// Gathers a log that will replace what there is of its origin in one step, so that there is neither a gap in
    /// answers nor a ghost. Where what is `known` has no fault, what follows on it is enough. It has a place of its
    /// own, where it is indexed as it comes, and nobody sees it.
    fn stage(&mut self, delta: &Delta, known: Option<u64>) -> Applied {
        let begun = self.staged.get(&delta.origin).and_then(|&place| {
            let log = self.logs[usize::from(place)].as_ref()?;
            Some((place, log.incarnation, log.head, log.floor))
        });
        if begun.is_some_and(|(_, incarnation, ..)| incarnation > delta.incarnation) {
            return Applied::Known;
        }
        let goes_on = begun.filter(|&(_, incarnation, head, floor)| {
            incarnation == delta.incarnation && delta.is_sound_after(head, floor) && delta.from <= head
        });
        let (place, head) = match goes_on {
            Some((place, _, head, _)) => (place, head),
            None if delta.from > 0 => return Applied::Gap(known.unwrap_or_default()),
            None => {
                let Some(place) = self.new_place() else { return Applied::Full };
                let mut log = Log::new(delta.origin, delta.incarnation);
                (log.floor, log.role) = (delta.floor, Role::Staged);
                self.logs[usize::from(place)] = Some(log);
                if let Some(before) = self.staged.insert(delta.origin, place) {
                    self.dismiss(before);
                }
                (place, 0)
            }
        };
        self.put_all(place, delta, head);
        let log = self.log_mut(place);
        log.head = head.max(delta.to);
        log.floor = log.floor.max(delta.floor);
        if log.head < delta.head {
            return Applied::Staged;
        }
        self.staged.remove(&delta.origin);
        let old = self.places.insert(delta.origin, place).expect("what is replaced");
        self.put_in_place(old, place);
        Applied::News
    }

    /// Puts the changes of a delta with higher numbers than `head` into the log at `place`.
    fn put_all(&mut self, place: u16, delta: &Delta, head: u64) {
        let mut changes = delta.changes().filter(|(number, _)| *number > head);
        loop {
            let some: SmallVec<[_; WARMED]> = changes.by_ref().take(WARMED).collect();
            if some.is_empty() {
                return;
            }
            let spots: SmallVec<[_; WARMED]> =
                some.iter().map(|(_, change)| self.index.spots(&change.record(), change.is_live())).collect();
            self.index.warm(&spots);
            for ((number, change), spots) in some.into_iter().zip(&spots) {
                let (now, record) = (ChangePlace::new(place, number), change.record());
                self.put_at(now, change, &record, spots);
            }
        }
    }
}
