//! Which datagrams have been there before: a sliding window for each sender (RFC 4303 §3.4.3).
//!
//! Pure, and bounded. Runs on the thread `cluster`.

use std::collections::{BTreeMap, HashMap};

use super::cipher::SESSION_LEN;

/// Datagrams of one sender that may overtake each other.
pub(super) const WINDOW: u64 = 1024;

/// Senders that are remembered; the one that was silent longest makes room.
const MAX_SESSIONS: usize = 4096;

/// Which counters of which sessions have been seen.
#[derive(Default)]
pub(super) struct Windows {
    sessions: HashMap<[u8; SESSION_LEN], Window>,
    /// Sessions by when they were last heard of, in the order of `turn`.
    by_turn: BTreeMap<u64, [u8; SESSION_LEN]>,
    turn: u64,
}

struct Window {
    highest: u64,
    /// A bit for each counter up to `WINDOW` below the highest.
    seen: [u64; (WINDOW / 64) as usize],
    turn: u64,
}

impl Windows {
    /// Whether this counter of the session has not been seen, which it now has.
    pub(super) fn is_new(&mut self, session: [u8; SESSION_LEN], counter: u64) -> bool {
        self.turn += 1;
        let is_full = !self.sessions.contains_key(&session) && self.sessions.len() >= MAX_SESSIONS;
        if let Some((_, oldest)) = is_full.then(|| self.by_turn.pop_first()).flatten() {
            self.sessions.remove(&oldest);
        }
        let fresh = Window { highest: 0, seen: [0; (WINDOW / 64) as usize], turn: self.turn };
        let window = self.sessions.entry(session).or_insert(fresh);
        self.by_turn.remove(&window.turn);
        self.by_turn.insert(self.turn, session);
        window.turn = self.turn;
        window.note(counter)
    }
}

impl Window {
    fn note(&mut self, counter: u64) -> bool {
        if counter > self.highest {
            // What comes into the window has not been seen.
            let begin = (self.highest + 1).max(counter.saturating_sub(WINDOW - 1));
            (begin..=counter).for_each(|new| self.clear(new));
            self.highest = counter;
        } else if self.highest - counter >= WINDOW {
            return false;
        }
        let (word, bit) = Self::place(counter);
        let new = self.seen[word] & bit == 0;
        self.seen[word] |= bit;
        new
    }

    fn clear(&mut self, counter: u64) {
        let (word, bit) = Self::place(counter);
        self.seen[word] &= !bit;
    }

    fn place(counter: u64) -> (usize, u64) {
        ((counter % WINDOW / 64) as usize, 1 << (counter % 64))
    }
}

#[cfg(test)]
impl Windows {
    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sessions_that_are_remembered_are_bounded() {
        let mut windows = Windows::default();
        for i in 0..3 * MAX_SESSIONS as u128 {
            assert!(windows.is_new(i.to_be_bytes(), 1));
            assert!(!windows.is_new(i.to_be_bytes(), 1));
            assert!(
                windows.sessions.len() <= MAX_SESSIONS && windows.by_turn.len() == windows.sessions.len()
            );
        }
        let last = 3 * MAX_SESSIONS as u128 - 1;
        assert!(!windows.is_new(last.to_be_bytes(), 1), "the latest are there still");
        assert!(windows.is_new(0u128.to_be_bytes(), 1), "the oldest made room");
    }
}
