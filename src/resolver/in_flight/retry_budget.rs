//! How often questions are asked again that nobody has answered.

use std::time::{Duration, Instant};

/// How often one server is sent a question by datagrams (RFC 9520 §3.1) before it is left alone with it for a second.
pub(super) const MAX_TRIES: usize = crate::limits::MAX_TRIES;

/// How often one server is sent a question over streams that it cannot be sent by datagrams; and one that it has not
/// answered by these.
pub(super) const MAX_STREAM_TRIES: usize = crate::limits::MAX_STREAM_TRIES;
pub(super) const MAX_STREAM_TRIES_BESIDE: usize = crate::limits::MAX_STREAM_TRIES_BESIDE;

/// How often a question is sent to all servers together.
pub(super) const MAX_SENT: usize = crate::limits::MAX_SENT;

/// While no more questions than these are open, one that no datagram has brought an answer to is asked over a stream,
/// which sends again what gets lost. More of them are no loss that this would mend, but a flood, or a server that is
/// gone.
pub(super) const MAX_OPEN_FOR_STREAM: usize = crate::limits::MAX_OPEN_FOR_STREAM;

/// When a question for which nobody is left to be asked is looked at again: a server may be back by then.
pub(super) const RECHECK: Duration = Duration::from_secs(1);

/// How many questions are looked at again in a second at most: each takes a worker half a microsecond where there are
/// very many.
pub(super) const RECHECKS_PER_S: u32 = crate::limits::RECHECKS_PER_S;

/// Retries of one worker: so many a millisecond, and so many at once. The upstream's loss takes a part of the questions
/// and never needs more; questions that nobody answers, however many, so cost little more than being asked once.
const PER_MS: u32 = AT_ONCE / 1_000;
const AT_ONCE: u32 = crate::limits::RETRIES_PER_S;
const _: () = assert!(PER_MS > 0, "retries are counted by the millisecond");

/// Retries that may still be sent.
pub(super) struct RetryBudget {
    left: u32,
    /// Up to when those that the time brings have been added.
    counted: Option<Instant>,
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { left: AT_ONCE, counted: None }
    }
}

impl RetryBudget {
    /// Takes one, if there is one.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let counted = *self.counted.get_or_insert(now);
        let elapsed_ms = now.saturating_duration_since(counted).as_millis();
        if elapsed_ms > 0 {
            let elapsed_ms = u32::try_from(elapsed_ms).unwrap_or(u32::MAX).min(AT_ONCE);
            self.left = (self.left + elapsed_ms * PER_MS).min(AT_ONCE);
            self.counted = Some(now);
        }
        let is_left = self.left > 0;
        self.left -= u32::from(is_left);
        is_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_at_once_and_then_as_time_goes() {
        let (mut allowance, begin) = (RetryBudget::default(), Instant::now());
        let mut taken = |ms| {
            let now = begin + Duration::from_millis(ms);
            (0..2 * AT_ONCE).filter(|_| allowance.take(now)).count()
        };
        let all = AT_ONCE as usize;
        assert_eq!([taken(0), taken(0), taken(1), taken(11)], [all, 0, 5, 50]);
        assert_eq!(taken(3_600_000), all);
    }
}
