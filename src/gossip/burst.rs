//! How much of its own changes a node tells in datagrams: a bucket of tokens, and what is done when it is empty.
//!
//! Pure: it takes the time. Runs on the cluster thread. Datagrams beyond what sockets and receivers can hold are lost,
//! and each one that is lost is asked for. So beyond a bound changes are not told at all: the members hear that there
//! is something, and pull it over streams, at the pace at which they can take it.

use std::time::Duration;

/// Datagrams with changes for one member at once: what a socket's buffer has room for where the kernel gives no more
/// than its default.
const AT_ONCE: usize = crate::limits::CHANGE_DATAGRAMS;

/// Datagrams with changes for all members at once: a kernel takes some 200,000 a second.
const FOR_ALL_AT_ONCE: usize = crate::limits::CHANGE_DATAGRAMS_OF_ALL;

/// In this time an empty bucket is full again.
const REFILL: Duration = crate::limits::CHANGE_DATAGRAM_PERIOD;

/// How often members are told that there is something to pull; and as long nothing may have changed for it to be over.
const TELLING: Duration = Duration::from_millis(100);

/// Whether changes are told.
#[derive(Debug, Default)]
pub(super) struct Burst {
    /// Datagrams that have been sent and not been made up for by time.
    spent: f64,
    spent_at: Duration,
    behind: Option<Behind>,
}

/// Changes are not told but pulled.
#[derive(Debug)]
struct Behind {
    next_telling: Duration,
    /// It is over then, unless something changes before.
    over: Duration,
}

impl Burst {
    /// Whether a datagram with changes may go to each of so many members now; if so it is accounted for. If not,
    /// members are told that there is something to pull from now on.
    pub(super) fn take(&mut self, now: Duration, members: usize) -> bool {
        let room = (FOR_ALL_AT_ONCE / members.max(1)).clamp(1, AT_ONCE) as f64;
        let passed = now.saturating_sub(self.spent_at).as_secs_f64() / REFILL.as_secs_f64();
        (self.spent, self.spent_at) = ((self.spent - passed * room).max(0.0), now);
        if self.spent + 1.0 > room {
            self.behind = Some(Behind { next_telling: now, over: now + TELLING });
            return false;
        }
        self.spent += 1.0;
        true
    }

    /// Whether changes are not told but pulled.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Takes note of the time, and of whether something has changed. Returns whether members are to be told that there
    /// is something to pull.
    pub(super) fn tells(&mut self, now: Duration, changed: bool) -> bool {
        let Some(behind) = &mut self.behind else { return false };
        if changed {
            behind.over = now + TELLING;
        }
        if now >= behind.over {
            self.behind = None;
            return true; // once more: the last may have been lost
        }
        if now < behind.next_telling {
            return false;
        }
        behind.next_telling = now + TELLING;
        true
    }

    /// When [`tells`](Self::tells) should be asked next, if nothing changes.
    pub(super) fn next_time(&self) -> Option<Duration> {
        self.behind.as_ref().map(|behind| behind.over.min(behind.next_telling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_burst_is_told_up_to_its_bound_and_then_pulled_until_it_is_quiet() {
        let mut burst = Burst::default();
        let now = Duration::from_secs(5);
        let told = |burst: &mut Burst, now, members| {
            std::iter::from_fn(|| burst.take(now, members).then_some(())).count()
        };
        assert_eq!(told(&mut burst, now, 6), 64);
        assert!(burst.is_behind() && burst.tells(now, true) && !burst.tells(now, true));
        let tellings = (1..=300u32).filter(|i| burst.tells(now + *i * MS, true)).count();
        assert_eq!((tellings, burst.is_behind()), (3, true), "one each 100 ms");
        let quiet = now + 300 * MS;
        let tellings: Vec<_> = (1..=300u32).filter(|i| burst.tells(quiet + *i * MS, false)).collect();
        assert_eq!(
            (tellings, burst.is_behind(), burst.next_time()),
            (vec![100], false, None),
            "and when it is over"
        );
        assert_eq!(told(&mut burst, now + 600 * MS, 6), 64);
        burst = Burst::default();
        assert_eq!(told(&mut burst, now, 32), 16, "all of them have a bound, too");
        assert_eq!(told(&mut Burst::default(), now, 10_000), 1);
    }

    #[test]
    fn what_comes_steadily_is_told() {
        let mut burst = Burst::default();
        for i in 0..10_000u32 {
            let now = Duration::from_secs(1) + i * MS;
            assert!((0..6).all(|_| burst.take(now, 6)), "{i}");
        }
    }
}
