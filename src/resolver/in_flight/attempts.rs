//! What was sent and may still be answered, by where it was sent from and to whom.
//!
//! Chains from heads that are all there from the beginning: a table that grows, or that has to be made anew once much
//! was removed from it, would have clients wait for milliseconds while questions come in a flood.

use slab::Slab;

use super::TransactionKey;
use super::pending::Attempt;

/// Chains. What is sent has ids drawn by chance, which so are spread evenly.
const CHAINS: usize = 1 << 17;

/// No entry.
const NONE: u32 = u32::MAX;

struct ChainEntry {
    place: TransactionKey,
    attempt: Attempt,
    /// The next of the same chain.
    next: u32,
}

/// The attempts, one at a place.
pub(super) struct Attempts {
    entries: Slab<ChainEntry>,
    chains: Box<[u32]>,
}

/// The number of the chain of `place`.
fn chain(place: TransactionKey) -> usize {
    // Odd slots have other chains than even ones; servers are shifted against each other.
    let number = usize::from(place.id) | usize::from(place.slot & 1) << 16;
    (number + usize::from(place.server) * 0x5851 + usize::from(place.slot >> 1) * 0x2545) % CHAINS
}

impl Attempts {
    /// None yet, with room for so many.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self { entries: Slab::with_capacity(capacity), chains: (0..CHAINS).map(|_| NONE).collect() }
    }

    fn key(&self, place: TransactionKey) -> Option<usize> {
        let mut key = self.chains[chain(place)] as usize;
        loop {
            let entry = self.entries.get(key)?;
            if entry.place == place {
                return Some(key);
            }
            key = entry.next as usize;
        }
    }

    /// The attempt at `place`.
    pub(super) fn get(&self, place: TransactionKey) -> Option<&Attempt> {
        Some(&self.entries[self.key(place)?].attempt)
    }

    /// The same.
    pub(super) fn get_mut(&mut self, place: TransactionKey) -> Option<&mut Attempt> {
        let key = self.key(place)?;
        Some(&mut self.entries[key].attempt)
    }

    /// Notes what was sent at `place`, instead of what was before.
    #[allow(clippy::cast_possible_truncation)] // there is no memory for 2^32 of them
    pub(super) fn insert(&mut self, place: TransactionKey, attempt: Attempt) {
        if let Some(before) = self.get_mut(place) {
            *before = attempt;
            return;
        }
        let first = &mut self.chains[chain(place)];
        *first = self.entries.insert(ChainEntry { place, attempt, next: *first }) as u32;
    }

    /// Forgets what was sent at `place`, and returns it.
    pub(super) fn remove(&mut self, place: TransactionKey) -> Option<Attempt> {
        let key = self.key(place)?;
        let ChainEntry { attempt, next, .. } = self.entries.remove(key);
        let first = &mut self.chains[chain(place)];
        if *first as usize == key {
            *first = next;
            return Some(attempt);
        }
        let mut before = *first as usize;
        while let Some(entry) = self.entries.get_mut(before) {
            if entry.next as usize == key {
                entry.next = next;
                break;
            }
            before = entry.next as usize;
        }
        Some(attempt)
    }

    /// Where there are any.
    pub(super) fn places(&self) -> impl Iterator<Item = TransactionKey> {
        self.entries.iter().map(|(_, entry)| entry.place)
    }

    /// Whether there are none.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Instant;

    use super::super::pending::AttemptState;
    use super::*;
    use crate::resolver::dress::Dress;
    use crate::resolver::servers::Subject;

    #[test]
    fn as_a_map_would() {
        let (mut attempts, mut map) = (Attempts::with_capacity(0), HashMap::new());
        let (mut rng, sent) = (fastrand::Rng::with_seed(3), Instant::now());
        for serial in 0..200_000 {
            // Few places, many of them in the same chain.
            let place = TransactionKey { server: rng.u16(..3), slot: rng.u8(..4), id: rng.u16(..3) * 0x5851 };
            if rng.bool() {
                let subject = Subject { hash: 0, qtype: 1, first: true };
                let (state, dress) = (AttemptState::Awaited, Dress::default());
                attempts.insert(
                    place,
                    Attempt {
                        key: 0,
                        serial,
                        sent,
                        case_bits: 0,
                        dress,
                        before: 0,
                        stage: 0,
                        state,
                        subject,
                    },
                );
                map.insert(place, serial);
            } else {
                assert_eq!(attempts.remove(place).map(|it| it.serial), map.remove(&place));
            }
            let place = TransactionKey { server: rng.u16(..3), slot: rng.u8(..4), id: rng.u16(..3) * 0x5851 };
            assert_eq!(attempts.get(place).map(|it| it.serial), map.get(&place).copied());
            assert_eq!(attempts.is_empty(), map.is_empty());
        }
        assert_eq!(attempts.places().count(), map.len());
        assert!(attempts.places().all(|place| map.contains_key(&place)));
    }
}
