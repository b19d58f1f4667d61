//! When attempts are looked at: a wheel with a slot for each millisecond.
//!
//! A heap would be simpler, but takes microseconds for each timer when there are hundreds of thousands, all of it cache
//! misses; and that is when questions come in a flood, while clients wait for names of our own.

use std::time::{Duration, Instant};

use slab::Slab;

use super::TransactionKey;

/// Milliseconds of one turn of the wheel: more than any wait for an answer. What is set for later fires early.
const SLOTS: u64 = 2_048;

/// No timer.
const NONE: u32 = u32::MAX;

struct Timer {
    place: TransactionKey,
    serial: u64,
    /// The next of the same millisecond.
    next: u32,
}

/// First and last of a millisecond's timers, which fire in the order in which they were set.
#[derive(Clone, Copy)]
struct Slot {
    first: u32,
    last: u32,
}

const EMPTY: Slot = Slot { first: NONE, last: NONE };

/// The timers. Each is for a place, and for the question with a serial number.
pub(super) struct Timers {
    timers: Slab<Timer>,
    slots: Box<[Slot]>,
    /// When its milliseconds are counted from.
    begin: Option<Instant>,
    /// All up to this millisecond have fired.
    fired_ms: u64,
}

impl Timers {
    /// None yet, with room for so many.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        let slots = (0..SLOTS).map(|_| EMPTY).collect();
        Self { timers: Slab::with_capacity(capacity), slots, begin: None, fired_ms: 0 }
    }

    /// Sets one that fires at `at`, rounded up to the millisecond, or earlier if that is more than two seconds away.
    // there are fewer than attempts, and these are kept in much less than 2^32 bytes
    #[allow(clippy::cast_possible_truncation)]
    pub(super) fn set(&mut self, at: Instant, place: TransactionKey, serial: u64, now: Instant) {
        let begin = *self.begin.get_or_insert(now);
        if self.timers.is_empty() {
            self.fired_ms = milliseconds(now.saturating_duration_since(begin)).0;
        }
        let at_ms = milliseconds(at.saturating_duration_since(begin)).1;
        let at_ms = at_ms.clamp(self.fired_ms + 1, self.fired_ms + SLOTS - 1);
        let key = self.timers.insert(Timer { place, serial, next: NONE }) as u32;
        let slot = &mut self.slots[(at_ms % SLOTS) as usize];
        let last = std::mem::replace(&mut slot.last, key);
        match self.timers.get_mut(last as usize) {
            Some(last) if slot.first != NONE => last.next = key,
            _ => slot.first = key,
        }
    }

    /// The next that is due, which then is no more.
    #[allow(clippy::cast_possible_truncation)] // what is left of a division by SLOTS
    pub(super) fn fire(&mut self, now: Instant) -> Option<(TransactionKey, u64)> {
        let now_ms = milliseconds(now.saturating_duration_since(self.begin?)).0;
        while !self.timers.is_empty() && self.fired_ms < now_ms {
            let slot = &mut self.slots[((self.fired_ms + 1) % SLOTS) as usize];
            if let Some(timer) = self.timers.try_remove(slot.first as usize) {
                slot.first = timer.next;
                return Some((timer.place, timer.serial));
            }
            *slot = EMPTY;
            self.fired_ms += 1;
        }
        None
    }

    /// When the next will be due.
    #[allow(clippy::cast_possible_truncation)] // what is left of a division by SLOTS
    pub(super) fn next(&self) -> Option<Instant> {
        let ahead = (self.fired_ms + 1..=self.fired_ms + SLOTS)
            .find(|at_ms| self.slots[(at_ms % SLOTS) as usize].first != NONE)
            .filter(|_| !self.timers.is_empty())?;
        Some(self.begin? + Duration::from_millis(ahead))
    }
}

/// The milliseconds that are over, and those that have begun.
fn milliseconds(since: Duration) -> (u64, u64) {
    let whole = u64::try_from(since.as_millis()).unwrap_or(u64::MAX / 2);
    (whole, whole + u64::from(!since.subsec_nanos().is_multiple_of(1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn place(id: u16) -> TransactionKey {
        TransactionKey { server: 0, slot: 0, id }
    }

    fn fired(timers: &mut Timers, now: Instant) -> Vec<u64> {
        std::iter::from_fn(|| timers.fire(now).map(|it| it.1)).collect()
    }

    #[test]
    fn each_fires_in_the_first_millisecond_that_is_not_before_it() {
        let (mut timers, begin) = (Timers::with_capacity(4), Instant::now());
        assert!(timers.next().is_none() && timers.fire(begin).is_none());
        for (serial, at) in [(1, 30 * MS), (2, 10 * MS), (3, 10 * MS - MS / 3), (4, Duration::ZERO)] {
            timers.set(begin + at, place(0), serial, begin);
        }
        assert_eq!(timers.next(), Some(begin + MS));
        assert!(fired(&mut timers, begin).is_empty());
        assert_eq!(fired(&mut timers, begin + 10 * MS - MS / 10), [4]);
        assert_eq!(timers.next(), Some(begin + 10 * MS));
        assert_eq!(fired(&mut timers, begin + 10 * MS), [2, 3]);
        timers.set(begin + 30 * MS, place(0), 5, begin + 10 * MS);
        assert_eq!(fired(&mut timers, begin + Duration::from_secs(9)), [1, 5]);
        assert!(timers.next().is_none() && timers.timers.is_empty());
        // After a long pause, too.
        let later = begin + Duration::from_secs(99);
        timers.set(later + 7 * MS, place(0), 6, later);
        assert_eq!(timers.next(), Some(later + 7 * MS));
        assert_eq!(fired(&mut timers, later + 6 * MS), [0; 0]);
        assert_eq!(fired(&mut timers, later + 7 * MS), [6]);
    }

    #[test]
    fn as_a_sorted_list_would() {
        let (mut timers, begin) = (Timers::with_capacity(0), Instant::now());
        let mut rng = fastrand::Rng::with_seed(5);
        let (mut set, mut now_ms) = (Vec::new(), 0_u64);
        for serial in 0..50_000 {
            let now = begin + MS * u32::try_from(now_ms).unwrap();
            let at_ms = now_ms + 1 + rng.u64(..2_000);
            timers.set(begin + MS * u32::try_from(at_ms).unwrap(), place(0), serial, now);
            set.push((at_ms, serial));
            if rng.u8(..10) == 0 {
                now_ms += rng.u64(..40);
                let now = begin + MS * u32::try_from(now_ms).unwrap();
                set.sort_unstable();
                let due = set.partition_point(|(at_ms, _)| *at_ms <= now_ms);
                let expected: Vec<_> = set.drain(..due).map(|(_, serial)| serial).collect();
                assert_eq!(fired(&mut timers, now), expected);
                let next = set.first().map(|(at_ms, _)| begin + MS * u32::try_from(*at_ms).unwrap());
                assert_eq!(timers.next(), next);
            }
        }
        // What is too far away fires early, and so is set again.
        timers.set(
            begin + MS * u32::try_from(now_ms + 10_000).unwrap(),
            place(0),
            0,
            begin + MS * u32::try_from(now_ms).unwrap(),
        );
        assert!(!fired(&mut timers, begin + MS * u32::try_from(now_ms + SLOTS).unwrap()).is_empty());
    }
}
