//! What becomes of questions that are not answered: who is asked next, and when they are given up.

use std::time::{Duration, Instant};

use super::retries::{MAX_OPEN_FOR_STREAM, MAX_SENT, MAX_TRIES, RECHECK, RECHECKS_PER_S};
use super::{Attempt, Begun, Ended, Failure, InFlight, Pending, Place, STREAM};
use crate::resolver::meter::Count;
use crate::resolver::question::Question;
use crate::resolver::servers::choose;

/// How long the clients of a question wait before they are given what is stale (RFC 8767 §5).
pub const STALE_AFTER: Duration = Duration::from_millis(1_800);

/// What is done next with a question.
enum Next {
    /// This server is asked, as it usually is.
    Usual(u16),
    /// It is asked over a stream.
    Stream(u16),
    /// Those who have been asked may still answer.
    Wait,
    /// There is nobody who might.
    Nobody(Failure),
}

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

    /// Asks another server, as far as that may still be; what is told if there is none.
    fn ask_another(&mut self, key: usize) -> Option<(Ended<W>, Failure)> {
        self.act(key, self.whom_next(key))
    }

    /// The same where a server is silent, as far as there may be retries.
    fn ask_again(&mut self, key: usize, now: Instant) -> Option<(Ended<W>, Failure)> {
        let next = self.whom_next(key);
        let is_retry = matches!(next, Next::Usual(_) | Next::Stream(_));
        if is_retry && !self.retries.take(now) {
            return None;
        }
        self.act(key, next)
    }

    fn act(&mut self, key: usize, next: Next) -> Option<(Ended<W>, Failure)> {
        match next {
            Next::Usual(server) => self.queue(key, server, false),
            Next::Stream(server) => self.queue(key, server, true),
            Next::Wait => {}
            Next::Nobody(failure) => return Some((self.end(key), failure)),
        }
        None
    }

    /// Who is asked next.
    fn whom_next(&self, key: usize) -> Next {
        let Pending { group, by_datagram, over_stream, cut_short, failed, failure, is_guessed_at, .. } =
            &self.questions[key];
        let group = self.groups[usize::from(*group)].iter().copied();
        let open = group.filter(|it| !failed.contains(it));
        if choose(&self.servers, open.clone(), &[], self.rotate).is_none() {
            let otherwise = if failed.is_empty() { Failure::NobodyThere } else { Failure::NoAnswer };
            return Next::Nobody(failure.unwrap_or(otherwise));
        }
        if by_datagram.len() + over_stream.len() >= MAX_SENT {
            return Next::Wait;
        }
        // What was said over a stream is not lost: to say it again is of no use.
        let is_new = |it: &u16| !over_stream.contains(it);
        let tries = |server: u16| by_datagram.iter().filter(|it| **it == server).count();
        let usual = open.clone().filter(|it| {
            let streamed = *is_guessed_at || self.streamed[usize::from(*it)];
            if streamed { is_new(it) } else { tries(*it) < MAX_TRIES && !cut_short.contains(it) }
        });
        if let Some(server) = choose(&self.servers, usual, by_datagram, self.rotate) {
            return Next::Usual(server);
        }
        let few = self.questions.len() <= MAX_OPEN_FOR_STREAM;
        let by_stream = choose(&self.servers, open.filter(is_new), &[], self.rotate);
        by_stream.filter(|_| few).map_or(Next::Wait, Next::Stream)
    }

    /// The next question that is given up, if there is one. Asks others where a server has not answered in time; of what is to be
    /// looked at for that, each takes a step off `steps`, and with none left the rest has to wait.
    pub fn expire(&mut self, now: Instant, steps: &mut usize) -> Option<(Ended<W>, Failure)> {
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        while *steps > 0
            && let Some((place, serial)) = self.timers.fire(now)
        {
            *steps -= 1;
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
        let attempt = self.attempts.get_mut(place).filter(|attempt| attempt.serial == serial)?;
        let (key, sent, was_late) = (attempt.key, attempt.sent, attempt.is_late);
        attempt.is_late = true;
        if !was_late {
            self.servers[usize::from(place.server)].note_timeout(sent, now);
        }
        let pending = self.questions.get(key).filter(|pending| pending.serial == serial);
        let over = pending.map(|pending| pending.begun + self.timeout).filter(|over| now < *over);
        let (Some(pending), Some(over)) = (pending, over) else {
            self.attempts.remove(place);
            return None;
        };
        // It is still taken as long as the question is open.
        let is_last = pending.last == Some(place);
        let at = if is_last { over.min(now + self.recheck()) } else { over };
        self.timers.set(at, place, serial, now);
        if is_last { self.ask_again(key, now) } else { None }
    }

    /// After which time a question is looked at again that cannot be helped now: the more there are, the later.
    fn recheck(&self) -> Duration {
        RECHECK + RECHECK / RECHECKS_PER_S * u32::try_from(self.questions.len()).unwrap_or(u32::MAX)
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
        self.attempts.places().filter(which).collect()
    }

    /// Nothing will come back to `place`: its question is asked `again` over another stream, or elsewhere.
    fn give_up_on(&mut self, place: Place, again: bool) {
        let Some(Attempt { key, serial, .. }) = self.attempts.remove(place) else { return };
        if !self.is_open(key, serial) || self.questions[key].last != Some(place) {
            return;
        }
        let pending = &mut self.questions[key];
        let tries = pending.over_stream.iter().filter(|it| **it == place.server).count();
        if again && tries < MAX_TRIES {
            return self.queue(key, place.server, true);
        }
        // What was sent by datagrams before may still be answered, unless the answer is too long for one.
        if place.slot == STREAM
            && (self.streamed[usize::from(place.server)] || pending.cut_short.contains(&place.server))
        {
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
            if let Some(given_up) = all.expires(now) {
                break (given_up.0, given_up.1, now);
            }
            while all.next_overdue(now, |_| false).is_some() {}
            sent += all.sent(now).len();
        };
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::NobodyThere));
        assert!(now - begin >= 1_500 * MS && now - begin < TIMEOUT && sent == MAX_TRIES + 1, "{sent}");
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
            while all.expires(at).is_some() {}
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
        let (ended, failure) = all.expires(now).unwrap();
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
        let (ended, failure) = all.expires(now).unwrap();
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
            assert!(all.expires(now + i * Duration::from_secs(1)).is_none());
            assert!(all.sent(now).is_empty());
        }
        let (_, failure) = all.expires(now + TIMEOUT).unwrap();
        assert_eq!(failure, Failure::NoAnswer);
    }
}
