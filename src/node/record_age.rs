//! How long registrations have been as they are, as far as this node knows.
//!
//! Noted on the thread `tables`, read by all. Records carry no times, and clocks of other nodes are not believed: what
//! is known is when this node came to know how much of each log, to the second.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use crate::store::{NodeId, Store};

/// How often it is noted how long the logs are.
const PERIOD: Duration = Duration::from_secs(1);

/// Notes of one log at most; when there are more, every second one is dropped, and ages are known less precisely.
const MAX_NOTES: usize = 512;

/// What has been noted.
pub(super) struct RecordAge {
    next: Instant,
    logs: HashMap<NodeId, Notes>,
}

#[derive(Default)]
struct Notes {
    incarnation: u64,
    /// When the log was found to be so long.
    heads: VecDeque<(Instant, u64)>,
}

impl RecordAge {
    pub(super) fn new() -> Self {
        Self { next: Instant::now(), logs: HashMap::new() }
    }

    /// Notes how long the logs are by now.
    pub(super) fn note(&mut self, store: &Store, now: Instant) {
        if now < self.next {
            return;
        }
        self.next = now + PERIOD;
        for (origin, incarnation, head) in store.heads() {
            let notes = self.logs.entry(origin).or_default();
            if notes.incarnation != incarnation {
                *notes = Notes { incarnation, heads: VecDeque::new() };
            }
            if notes.heads.back().is_none_or(|(_, last)| *last < head) {
                notes.heads.push_back((now, head));
            }
            if notes.heads.len() > MAX_NOTES {
                let mut keep = false;
                notes.heads.retain(|_| {
                    keep = !keep;
                    keep
                });
            }
        }
        if self.logs.len() > store.heads().count() {
            let known: HashSet<_> = store.heads().map(|(origin, ..)| origin).collect();
            self.logs.retain(|origin, _| known.contains(origin));
        }
    }

    /// How long ago this node came to know a change, by its number in a log.
    pub(super) fn of(&self, origin: NodeId, number: u64, now: Instant) -> Duration {
        let notes = self.logs.get(&origin).map(|notes| &notes.heads);
        let known = notes.and_then(|heads| heads.get(heads.partition_point(|(_, head)| *head < number)));
        known.map_or(Duration::ZERO, |(since, _)| now.saturating_duration_since(*since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attributes, Key};
    use crate::wire::name::Name;

    #[test]
    fn a_change_is_as_old_as_the_knowledge_of_it() {
        let (me, begin) = (NodeId([1; 16]), Instant::now());
        let mut store = Store::new(me, 1);
        let mut ages = RecordAge::new();
        let at = |s: u64| begin + Duration::from_secs(s);
        for i in 0..2_000u16 {
            let [high, low] = i.to_be_bytes();
            let name = Name::from_text(&format!("h{i}.example")).unwrap();
            store
                .register(&Key::address("", &name, [10, 0, high, low].into()), &Attributes::default())
                .unwrap();
            ages.note(&store, at(u64::from(i) * 2 + 1));
        }
        let age = |number| ages.of(me, number, at(4_000)).as_secs();
        assert!((3_990..=4_000).contains(&age(1)), "{}", age(1));
        assert!((1_960..=2_000).contains(&age(1_000)), "{}", age(1_000));
        // A log begins with a change of its own: the last of the names is the 2,001st.
        assert_eq!((age(2_001), age(2_002)), (1, 0));
        assert!(ages.logs[&me].heads.len() <= MAX_NOTES);
    }
}
