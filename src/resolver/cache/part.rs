//! A part of the cache, with a bound of its own: finds answers, and decides which go when there are too many (S3-FIFO).
//!
//! What is new waits in a small queue; only what is asked for there, or once more soon after it has left, gets into the
//! main one. So a scan of many names, each asked for once, passes through the small queue and leaves the main one
//! alone.
//!
//! Runs on the worker that owns the cache.

use std::collections::VecDeque;

use hashbrown::HashTable;

use super::block::Block;
use crate::resolver::question::Question;

/// One in so many of a part's bytes is the small queue's.
const SMALL_SHARE: usize = 10;

/// Beyond this an answer's popularity is not counted.
const MAX_FREQUENCY: u8 = 3;

/// Beyond this it is not counted how often an answer was found.
pub(super) const MAX_FOUND: u8 = 3;

/// As often as this an answer was found when it gets from the small queue into the main one.
const WANTED_FREQUENCY: u8 = 2;

/// Answers that are spared for being popular until one goes, all the same: so no insertion takes long.
const MAX_SPARED: usize = 128;

/// A part remembers what has left its small queue: as many as it would hold answers of this size.
const BYTES_PER_GHOST: usize = 256;

/// Which queue an answer is in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Queue {
    Small,
    Main,
}

/// An answer's place in the table.
pub(super) struct Slot {
    pub(super) block: Block,
    hash: u32,
    queue: Queue,
    /// How popular it is: it rises when it is found, and sinks when it might go.
    frequency: u8,
    /// How often it was found since it came, up to [`MAX_FOUND`].
    pub(super) found: u8,
    /// Somebody was told that it is about to expire.
    pub(super) told: bool,
}

// Three eights: a lookup's second wait is for one of these.
const _: () = assert!(size_of::<Slot>() == 24);

impl Slot {
    /// Notes that it was found.
    #[inline]
    pub(super) fn touch(&mut self) {
        // What is most popular is not written to any more.
        if self.frequency < MAX_FREQUENCY || self.found < MAX_FOUND {
            self.frequency = (self.frequency + 1).min(MAX_FREQUENCY);
            self.found = (self.found + 1).min(MAX_FOUND);
        }
    }

    #[inline]
    fn is(&self, hash: u32, queue: Queue) -> bool {
        self.hash == hash && self.queue == queue
    }
}

/// The table takes its bits from both ends.
#[inline]
fn spread(hash: u32) -> u64 {
    u64::from(hash) << 32 | u64::from(hash)
}

/// A part of the cache. Hashes are the half of a question's that has not chosen the part.
pub(super) struct Part {
    slots: HashTable<Slot>,
    /// The hashes of what is in the table, each once, in the order in which they came.
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    /// The hashes of what has left the small queue, each where its low bits say, until another takes its place.
    ghosts: Box<[u32]>,
    small_bytes: usize,
    block_bytes: usize,
    max_bytes: usize,
    evictions: u64,
}

impl Part {
    // cold: made once, at the start of a worker
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            slots: HashTable::new(),
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghosts: vec![0; (max_bytes / BYTES_PER_GHOST).next_power_of_two()].into(),
            small_bytes: 0,
            block_bytes: 0,
            max_bytes,
            evictions: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn evictions(&self) -> u64 {
        self.evictions
    }

    pub(super) fn blocks(&self) -> impl Iterator<Item = &Block> {
        self.slots.iter().map(|slot| &slot.block)
    }

    /// What it takes of the memory, all in all.
    pub(super) fn heap_len(&self) -> usize {
        let queued = self.small.capacity() + self.main.capacity() + self.ghosts.len();
        size_of::<Self>() + self.block_bytes + self.slots.allocation_size() + queued * size_of::<u32>()
    }

    #[inline]
    pub(super) fn find(&mut self, hash: u32, question: &Question<'_>) -> Option<&mut Slot> {
        self.slots.find_mut(spread(hash), |slot| slot.hash == hash && slot.block.answers_to(question))
    }

    /// Keeps `block`, the answer to `question`, instead of the one before. Others go until there is room for it; if it
    /// can have none it is not kept.
    pub(super) fn insert(&mut self, hash: u32, question: &Question<'_>, block: Block) {
        let added = block.heap_len();
        if let Some(slot) = self.find(hash, question) {
            let removed = slot.block.heap_len();
            slot.block = block;
            slot.found = 0;
            slot.told = false;
            if slot.queue == Queue::Small {
                self.small_bytes = self.small_bytes - removed + added;
            }
            self.block_bytes = self.block_bytes - removed + added;
            while self.heap_len() > self.max_bytes && self.evict() {}
            return;
        }
        while self.heap_len() + added + self.growth() > self.max_bytes {
            if !self.evict() {
                return;
            }
        }
        if self.slots.len() == self.slots.capacity() && self.is_worn() {
            self.rebuild();
        }
        let queue = if self.ghosts[self.ghost_at(hash)] == hash { Queue::Main } else { Queue::Small };
        match queue {
            Queue::Small => {
                self.small_bytes += added;
                self.small.push_back(hash);
            }
            Queue::Main => self.main.push_back(hash),
        }
        self.block_bytes += added;
        let slot = Slot { block, hash, queue, frequency: 0, found: 0, told: false };
        self.slots.insert_unique(spread(hash), slot, |slot| spread(slot.hash));
    }

    /// By how much the table and the queues grow if one more comes. A full table would double: if there is no room for
    /// that, an answer goes instead.
    fn growth(&self) -> usize {
        let table = if self.slots.len() < self.slots.capacity() || self.is_worn() {
            0
        } else {
            self.slots.allocation_size()
        };
        let of = |queue: &VecDeque<u32>| if queue.len() < queue.capacity() { 0 } else { queue.capacity() };
        table + of(&self.small).max(of(&self.main)) * size_of::<u32>()
    }

    /// Whether at least an eighth of the places in the table are free. If it says that it is full, they have marks of
    /// what was removed: it would double for these, and be all but empty.
    fn is_worn(&self) -> bool {
        self.slots.len() <= self.places() / 8 * 7
    }

    /// How many slots a table of this size can have: hashbrown keeps an eighth of its buckets free.
    fn places(&self) -> usize {
        self.slots.num_buckets() / 8 * 7
    }

    /// Makes the table anew, as large, without marks.
    fn rebuild(&mut self) {
        let anew = HashTable::with_capacity(self.places());
        for slot in std::mem::replace(&mut self.slots, anew) {
            self.slots.insert_unique(spread(slot.hash), slot, |slot| spread(slot.hash));
        }
    }

    fn ghost_at(&self, hash: u32) -> usize {
        hash as usize & (self.ghosts.len() - 1)
    }

    /// Lets one answer go. False if there is none.
    fn evict(&mut self) -> bool {
        for spared in 0.. {
            let (queue, hashes) = if self.main.is_empty() || self.small_bytes * SMALL_SHARE > self.block_bytes
            {
                (Queue::Small, &mut self.small)
            } else {
                (Queue::Main, &mut self.main)
            };
            let Some(hash) = hashes.pop_front() else { return false };
            // It is not there if it was flushed while another had the same hash.
            let Ok(mut entry) = self.slots.find_entry(spread(hash), |slot| slot.is(hash, queue)) else {
                continue;
            };
            let slot = entry.get_mut();
            let len = slot.block.heap_len();
            if queue == Queue::Small {
                self.small_bytes -= len;
            }
            let needed = if queue == Queue::Small { WANTED_FREQUENCY } else { 1 };
            if slot.frequency >= needed && spared < MAX_SPARED {
                if queue == Queue::Main {
                    slot.frequency -= 1;
                }
                slot.queue = Queue::Main;
                self.main.push_back(hash);
                continue;
            }
            entry.remove();
            self.block_bytes -= len;
            self.evictions += 1;
            if queue == Queue::Small {
                let at = self.ghost_at(hash);
                self.ghosts[at] = hash;
            }
            return true;
        }
        false
    }

    /// Removes all that `goes`. Returns how many.
    pub(super) fn remove(&mut self, goes: impl Fn(&Block) -> bool) -> usize {
        let before = self.slots.len();
        self.slots.retain(|slot| {
            if !goes(&slot.block) {
                return true;
            }
            let len = slot.block.heap_len();
            self.block_bytes -= len;
            if slot.queue == Queue::Small {
                self.small_bytes -= len;
            }
            false
        });
        let removed = before - self.slots.len();
        if removed > 0 {
            for (queue, hashes) in [(Queue::Small, &mut self.small), (Queue::Main, &mut self.main)] {
                let slots = &self.slots;
                hashes.retain(|&hash| slots.find(spread(hash), |slot| slot.is(hash, queue)).is_some());
            }
        }
        removed
    }

    /// Removes everything, and gives the memory back. Returns how many answers there were.
    pub(super) fn clear(&mut self) -> usize {
        let removed = self.len();
        *self = Self { evictions: self.evictions, ..Self::new(self.max_bytes) };
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::question::Answer;

    /// A question, and an answer of `len` bytes to it, under a hash that others have, too.
    fn insert(part: &mut Part, number: u32, len: usize) {
        let name = number.to_be_bytes();
        let question =
            Question { name: &name, name_hash: 0, qtype: 1, dnssec_ok: false, checking_disabled: false };
        let records = vec![0; len];
        let answer = Answer {
            rcode: 0,
            authenticated: false,
            answers: 1,
            authorities: 0,
            ttl_s: 1,
            records: &records,
            ttls_at: &[],
        };
        part.insert(number % 509, &question, Block::new(&question, &answer, 0, 1).unwrap());
        if number.is_multiple_of(3)
            && let Some(slot) = part.find(number % 509, &question)
        {
            (0..number % 5).for_each(|_| slot.touch());
        }
    }

    fn check(part: &Part) {
        let len = |queue| -> usize {
            part.slots.iter().filter(|slot| slot.queue == queue).map(|slot| slot.block.heap_len()).sum()
        };
        assert_eq!(part.small_bytes, len(Queue::Small));
        assert_eq!(part.block_bytes, len(Queue::Small) + len(Queue::Main));
        assert!(part.small.len() + part.main.len() >= part.slots.len());
        assert!(part.heap_len() <= part.max_bytes, "{} bytes", part.heap_len());
    }

    #[test]
    fn sums_are_right_and_the_bound_holds_whatever_comes_and_goes() {
        let mut part = Part::new(100_000);
        let mut random = fastrand::Rng::with_seed(11);
        for round in 0..20_000 {
            let len = if random.u8(..) == 0 { random.usize(..120_000) } else { random.usize(..300) };
            insert(&mut part, random.u32(..2_000), len.min(65_535));
            if round % 1_000 == 999 {
                let removed = part.remove(|block| block.name()[3].is_multiple_of(2));
                assert!(removed > 0 && part.len() > 0);
            }
            check(&part);
        }
        assert!(part.evictions > 1_000);
        let left = part.len();
        assert_eq!(part.clear(), left);
        check(&part);
        assert_eq!(part.block_bytes, 0);
    }

    #[test]
    fn what_comes_back_soon_after_it_has_left_gets_into_the_main_queue() {
        let mut part = Part::new(20_000);
        // Numbers that are 1 after division by 3 are never found.
        for number in 0..400 {
            insert(&mut part, 3 * number + 1, 40);
        }
        assert!(part.main.is_empty());
        let gone = part.small.front().copied().unwrap() - 3;
        insert(&mut part, gone, 40);
        assert_eq!(part.main, [gone]);
        check(&part);
    }

    #[test]
    fn what_has_room_nowhere_is_not_kept_and_a_part_without_room_keeps_nothing() {
        let mut part = Part::new(20_000);
        insert(&mut part, 1, 30_000);
        assert_eq!(part.len(), 0);
        let mut part = Part::new(0);
        insert(&mut part, 1, 1);
        assert_eq!(part.len(), 0);
    }
}
