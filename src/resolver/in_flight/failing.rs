//! What becomes of questions that are not answered: who is asked next, and when they are given up.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::time::{Duration, Instant};

use super::{Attempt, Begun, Ended, Failure, InFlight, MAX_SENT, Pending, Place, STREAM};
use crate::resolver::meter::Count;
use crate::resolver::question::Question;
use crate::resolver::servers::choose;

/// How long the clients of a question wait before they are given what is stale (RFC 8767 §5).
pub const STALE_AFTER: Duration = Duration::from_millis(1_800);

impl<W> InFlight<W> {
    /// The server cannot answer, and says why: another is asked if there is one.
    pub fn declined(&mut self, place: Place, failure: Failure, now: Instant) -> Option<(Ended<W>, Failure)> {
        self.meter(place).count(Count::Declined);
        let key = self.close(place, now)?;
        let pending = &mut self.questions[key];
        pending.failed.push(place.server);
        pending.failure = Some(failure);
        // What was sent beside it may still be answered by somebody else.
        if pending.last == Some(place) { self.ask_another(key) } else { None }
    }

    /// Asks another server; what is told if there is none.
    fn ask_another(&mut self, key: usize) -> Option<(Ended<W>, Failure)> {
        let Pending { group, asked, failed, failure, .. } = &self.questions[key];
        let group = self.groups[usize::from(*group)].iter().copied();
        match choose(&self.servers, group.filter(|it| !failed.contains(it)), asked, self.rotate) {
            // What was said over a stream is not lost: to say it again is of no use.
            Some(server) if self.streamed[usize::from(server)] && asked.contains(&server) => None,
            Some(_) if asked.len() >= MAX_SENT => None,
            Some(server) => {
                self.queue(key, server, false);
                None
            }
            None => {
                let otherwise = if failed.is_empty() { Failure::NobodyThere } else { Failure::NoAnswer };
                let failure = failure.unwrap_or(otherwise);
                Some((self.end(key), failure))
            }
        }
    }

    /// The next question that is given up, if there is one. Asks others where a server has not answered in time.
    pub fn expire(&mut self, now: Instant) -> Option<(Ended<W>, Failure)> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        while let Some(Reverse((_, place, serial))) = self.timers.peek().filter(|it| it.0.0 <= now).copied() {
            self.timers.pop();
            if let Some(given_up) = self.time_out(place, serial, now) {
                return Some(given_up);
            }
        }
        while let Some(Begun { at, key, serial }) = self.begun.front().copied() {
            let failure = self.questions.get(key).filter(|pending| pending.serial == serial);
            let failure = failure.map(|pending| pending.failure.unwrap_or(Failure::NoAnswer));
            if failure.is_some() && at + self.timeout > now {
                break;
            }
            self.begun.pop_front();
            if let Some(failure) = failure {
                return Some((self.end(key), failure));
            }
        }
        None
    }

    fn time_out(&mut self, place: Place, serial: u64, now: Instant) -> Option<(Ended<W>, Failure)> {
        let Entry::Occupied(mut entry) = self.attempts.entry(place) else { return None };
        let attempt = entry.get_mut();
        if attempt.serial != serial {
            return None;
        }
        let (key, sent, was_late) = (attempt.key, attempt.sent, attempt.is_late);
        attempt.is_late = true;
        if !was_late {
            self.servers[usize::from(place.server)].note_timeout(sent, now);
        }
        let pending = self.questions.get(key).filter(|pending| pending.serial == serial);
        let Some(pending) = pending.filter(|_| !was_late) else {
            entry.remove();
            return None;
        };
        // It is still taken as long as the question is open.
        self.timers.push(Reverse((pending.begun + self.timeout, place, serial)));
        if pending.last == Some(place) { self.ask_another(key) } else { None }
    }

    /// The host of `server` says that nobody is there.
    pub fn server_refuses(&mut self, server: u16, now: Instant) {
        if self.servers[usize::from(server)].note_down(now) {
            for place in self.places(|place| place.server == server) {
                self.give_up_on(place, false);
            }
        }
    }

    /// The stream to `server` is broken. If it has `worked`, what was asked over it is asked once more over another; else
    /// elsewhere.
    pub fn stream_broken(&mut self, server: u16, worked: bool, now: Instant) {
        if !worked && self.streamed[usize::from(server)] {
            self.servers[usize::from(server)].note_down(now);
        }
        for place in self.places(|place| place.server == server && place.slot == STREAM) {
            self.give_up_on(place, worked);
        }
    }

    fn places(&self, which: impl Fn(&Place) -> bool) -> Vec<Place> {
        self.attempts.keys().copied().filter(which).collect()
    }

    /// Nothing will come back to `place`: its question is asked `again` over another stream, or elsewhere.
    fn give_up_on(&mut self, place: Place, again: bool) {
        let Some(Attempt { key, serial, .. }) = self.attempts.remove(&place) else { return };
        if !self.is_open(key, serial) || self.questions[key].last != Some(place) {
            return;
        }
        let pending = &mut self.questions[key];
        if again && pending.asked.len() < MAX_SENT {
            return self.queue(key, place.server, true);
        }
        if place.slot == STREAM {
            // What does not fit in a datagram this server cannot tell.
            pending.failed.push(place.server);
        }
        let given_up = self.ask_another(key);
        self.done.extend(given_up);
    }

    /// The next question whose clients have waited for long, if they can be given something stale instead, as `has_stale`
    /// says. The question itself goes on.
    pub fn next_overdue(
        &mut self,
        now: Instant,
        mut has_stale: impl FnMut(&Question<'_>) -> bool,
    ) -> Option<Ended<W>> {
        loop {
            let Begun { at, key, serial } = *self.fresh.front()?;
            let open = self.questions.get_mut(key).filter(|pending| pending.serial == serial);
            if open.is_some() && at + STALE_AFTER > now {
                return None;
            }
            self.fresh.pop_front();
            let Some(pending) = open else { continue };
            if !pending.waiters.is_empty() && has_stale(&pending.question.get()) {
                let waiters = std::mem::take(&mut pending.waiters);
                self.waiters -= waiters.len();
                return Some(Ended { question: pending.question.clone(), waiters });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::*;

    #[test]
    fn a_question_is_given_up_in_the_end() {
        let (mut all, begin) = (of(1), Instant::now());
        all.waits(b"\x01a\0", 1, begin);
        let mut sent = all.sent(begin).len();
        let (ended, failure, now) = loop {
            let now = all.deadline().unwrap();
            if let Some(given_up) = all.expire(now) {
                break (given_up.0, given_up.1, now);
            }
            while all.next_overdue(now, |_| false).is_some() {}
            sent += all.sent(now).len();
        };
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::NobodyThere));
        assert!(
            now - begin >= 1_500 * MS && now - begin < TIMEOUT && (3..MAX_SENT).contains(&sent),
            "{sent}"
        );
        // By now it is known that nobody is there.
        assert!(!all.waits(b"\x01b\0", 2, now) && all.sent(now).is_empty());
        let later = now + Duration::from_secs(1);
        assert!(!all.waits(b"\x01b\0", 3, later));
        let probe = all.sent(later)[0];
        assert!(!all.waits(b"\x01b\0", 4, later), "nobody waits for a probe");
        assert!(all.answered(probe, later + MS).unwrap().waiters.is_empty());
        assert!(all.waits(b"\x01b\0", 5, later + MS), "it is back");
        // Probes that are not answered end, too.
        while let Some(at) = all.deadline() {
            while all.expire(at).is_some() {}
            while all.next_overdue(at, |_| false).is_some() {}
            all.sent(at);
        }
        assert!(all.is_empty() && all.attempts.is_empty() && all.waiters == 0);
    }

    #[test]
    fn who_cannot_answer_is_not_asked_again() {
        let (mut all, now) = (of(2), Instant::now());
        all.waits(b"\x01a\0", 1, now);
        let first = all.sent(now)[0];
        assert!(all.declined(first, Failure::Answered(2, None), now).is_none());
        let second = all.sent(now)[0];
        assert_ne!(first.server, second.server);
        let (ended, failure) = all.declined(second, Failure::Answered(5, Some(18)), now).unwrap();
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::Answered(5, Some(18))));
    }

    #[test]
    fn what_is_cut_short_is_asked_again_over_a_stream() {
        let (mut all, now) = (of(1), Instant::now());
        all.waits(b"\x01a\0", 1, now);
        let place = all.sent(now)[0];
        all.truncated(place, now);
        let stream = all.sent(now)[0];
        assert_eq!((stream.server, stream.slot), (place.server, STREAM));
        all.stream_broken(0, true, now);
        let again = all.sent(now)[0];
        assert_eq!(again.slot, STREAM, "it was closed, as it may be");
        all.stream_broken(0, false, now);
        let (ended, failure) = all.expire(now).unwrap();
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::NoAnswer));
        assert!(all.waits(b"\x01b\0", 2, now), "by datagrams it still answers");
    }

    #[test]
    fn where_nobody_is_the_next_is_asked_at_once() {
        let (mut all, now) = (of(2), Instant::now());
        all.waits(b"\x01a\0", 1, now);
        let first = all.sent(now)[0];
        all.server_refuses(first.server, now);
        let second = all.sent(now)[0];
        assert_ne!(second.server, first.server);
        all.server_refuses(second.server, now);
        let (ended, failure) = all.expire(now).unwrap();
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::NobodyThere));
    }

    #[test]
    fn who_has_waited_for_long_may_have_something_stale() {
        let (mut all, begin) = (of(1), Instant::now());
        all.servers[0].note_answer(MS);
        all.waits(b"\x01a\0", 1, begin);
        all.waits(b"\x01b\0", 2, begin);
        assert!(all.next_overdue(begin + STALE_AFTER - MS, |_| true).is_none());
        let stale = all.next_overdue(begin + STALE_AFTER, |question| question.name == b"\x01b\0").unwrap();
        assert_eq!((waiters(&stale), stale.question.get().name), (&[2][..], &b"\x01b\0"[..]));
        assert_eq!((all.len(), all.waiters), (2, 1), "the question goes on");
    }

    #[test]
    fn a_server_that_is_asked_over_streams_alone_is_not_asked_twice_at_once() {
        let now = Instant::now();
        let mut all = of_upstreams(&["tls://192.0.2.1".parse().unwrap()]);
        all.waits(b"\x01a\0", 1, now);
        assert_eq!(all.sent(now)[0].slot, STREAM);
        for i in 1..4 {
            assert!(all.expire(now + i * Duration::from_secs(1)).is_none());
            assert!(all.sent(now).is_empty());
        }
        let (_, failure) = all.expire(now + TIMEOUT).unwrap();
        assert_eq!(failure, Failure::NoAnswer);
    }
}
