//! What other nodes have answered, kept for a while: the cache of the design `cache`.
//!
//! All workers share it. Looking up takes a shard's read lock, which is what this design pays where gossip has none.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_queue::ArrayQueue;
use dashmap::DashMap;
use foldhash::fast::SeedableRandomState;

use super::peer_answer::PeerAnswer;

/// For how long after a name was last asked for it is kept fresh: weaveDNS 1.0's time.
const INTEREST_MS: u64 = 60_000;

/// How often the oldest name is spared for having been asked for since it was looked at last, before one has to go.
const MAX_SPARED: usize = 32;

/// What is known of a name, until when, and when it was last asked for. Times are in milliseconds on the clock of
/// whoever calls.
struct Kept {
    answer: PeerAnswer,
    expires_ms: u64,
    asked_ms: AtomicU64,
    /// When it was looked at last whether it may go.
    weighed_ms: AtomicU64,
}

/// The cache.
pub struct Cache {
    names: DashMap<Box<[u8]>, Kept, SeedableRandomState>,
    /// The names, those that came first in front: who comes first goes first, unless it was asked for meanwhile
    /// (CLOCK).
    order: ArrayQueue<Box<[u8]>>,
}

impl Cache {
    /// With room for so many names.
    #[must_use]
    pub fn new(entries: usize) -> Self {
        Self { names: DashMap::default(), order: ArrayQueue::new(entries.max(1)) }
    }

    /// The same with hashes that are the same in each process: for measurements that are to come out the same each
    /// time.
    #[must_use]
    pub fn with_fixed_hashes(entries: usize) -> Self {
        Self { names: DashMap::with_hasher(SeedableRandomState::fixed()), ..Self::new(entries) }
    }

    /// Looks up `name`, which somebody asks for. `None` if nothing is known of it, or no longer. Otherwise the seconds
    /// for which it is known, and whether somebody has it: then `out` has its records.
    #[must_use]
    pub fn find(&self, name: &[u8], now_ms: u64, out: &mut Vec<u8>) -> Option<(u32, bool)> {
        let kept = self.names.get(name)?;
        if kept.expires_ms <= now_ms {
            return None;
        }
        // Most often it was asked for in the same millisecond: then its cache line stays shared.
        if kept.asked_ms.load(Ordering::Relaxed) != now_ms {
            kept.asked_ms.store(now_ms, Ordering::Relaxed);
        }
        let left_s = u32::try_from((kept.expires_ms - now_ms).div_ceil(1_000)).unwrap_or(u32::MAX);
        let exists = !kept.answer.is_nobody();
        if exists {
            kept.answer.age_into(left_s, out);
        }
        Some((left_s, exists))
    }

    /// Keeps what is `known` of `name` from now on. If it is kept already, when it was asked for stays.
    pub fn insert(&self, name: &[u8], answer: PeerAnswer, now_ms: u64) {
        let expires_ms = now_ms + u64::from(answer.ttl_s()) * 1_000;
        if let Some(mut kept) = self.names.get_mut(name) {
            kept.answer = answer;
            kept.expires_ms = expires_ms;
            return;
        }
        self.enqueue(name.into());
        let times = || AtomicU64::new(now_ms);
        self.names.insert(name.into(), Kept { answer, expires_ms, asked_ms: times(), weighed_ms: times() });
    }

    /// Puts a new name last, and takes out old ones until there is room for it.
    fn enqueue(&self, name: Box<[u8]>) {
        let mut name = name;
        let mut spared = 0;
        while let Err(back) = self.order.push(name) {
            name = back;
            let Some(oldest) = self.order.pop() else { continue };
            let wanted = self.names.get(&oldest).is_some_and(|kept| {
                let asked = kept.asked_ms.load(Ordering::Relaxed);
                kept.weighed_ms.swap(asked, Ordering::Relaxed) < asked
            });
            if wanted && spared < MAX_SPARED {
                spared += 1;
                // Whoever has taken its room meanwhile was later: then this one goes after all.
                if let Err(oldest) = self.order.push(oldest) {
                    self.names.remove(&oldest);
                }
            } else {
                self.names.remove(&oldest);
            }
        }
    }

    /// Whether `name`, which is about to expire, is still asked for.
    #[must_use]
    pub fn is_wanted(&self, name: &[u8], now_ms: u64) -> bool {
        let kept = self.names.get(name);
        kept.is_some_and(|kept| kept.asked_ms.load(Ordering::Relaxed) + INTEREST_MS > now_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::query_time::peer_answer::Gathered;

    fn answer(ttl_s: u32) -> PeerAnswer {
        let mut gathered = Gathered::default();
        gathered.add_answer();
        gathered.add(1, ttl_s, &[10, 0, 0, 1]);
        gathered.answer(1)
    }

    #[test]
    fn an_answer_is_kept_for_its_time_which_is_counted_down() {
        let (cache, mut out) = (Cache::new(10), Vec::new());
        cache.insert(b"a", answer(30), 1_000);
        cache.insert(b"n", PeerAnswer::nobody(5), 1_000);
        assert_eq!(cache.find(b"a", 1_000, &mut out), Some((30, true)));
        assert_eq!(cache.find(b"a", 11_500, &mut out), Some((20, true)));
        assert_eq!(out[7..][6..10], 20u32.to_be_bytes());
        assert_eq!(cache.find(b"n", 5_999, &mut out), Some((1, false)));
        assert_eq!(cache.find(b"n", 6_000, &mut out), None);
        assert_eq!(cache.find(b"a", 31_000, &mut out), None);
        assert_eq!(cache.find(b"b", 1_000, &mut out), None);
    }

    #[test]
    fn it_never_has_more_than_it_may_and_spares_what_is_asked_for() {
        let (cache, mut out) = (Cache::new(8), Vec::new());
        cache.insert(b"wanted", answer(30), 0);
        for i in 1..1_000u16 {
            cache.insert(&i.to_be_bytes(), answer(30), i.into());
            assert!(cache.find(b"wanted", i.into(), &mut out).is_some(), "{i}");
            assert!(cache.names.len() <= 8);
        }
        assert_eq!(cache.names.len(), 8);
    }

    #[test]
    fn interest_is_lost_a_minute_after_the_last_question() {
        let (cache, mut out) = (Cache::new(8), Vec::new());
        cache.insert(b"a", answer(30), 0);
        assert!(cache.find(b"a", 10_000, &mut out).is_some());
        assert!(cache.is_wanted(b"a", 69_999));
        assert!(!cache.is_wanted(b"a", 70_000));
        cache.insert(b"a", answer(30), 69_000);
        assert!(!cache.is_wanted(b"a", 70_000), "an answer is not a question");
        assert!(!cache.is_wanted(b"b", 0));
    }
}
