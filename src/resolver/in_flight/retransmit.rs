//! What becomes of questions that are not answered: who is asked next, and when they are given up.

use std::time::{Duration, Instant};

use super::pending::AttemptState;
use super::retry_budget::{
    MAX_OPEN_FOR_STREAM, MAX_SENT, MAX_STREAM_TRIES, MAX_STREAM_TRIES_BESIDE, MAX_TRIES, RECHECK,
    RECHECKS_PER_S,
};
use super::{Begun, Ended, Failure, InFlight, TransactionKey};
use crate::resolver::meter::Count;
use crate::resolver::question::Question;
use crate::resolver::servers::{ChoiceRules, choose};
use crate::resolver::settings::Order;
use smallvec::SmallVec;

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
    pub fn declined(
        &mut self,
        place: TransactionKey,
        failure: Failure,
        now: Instant,
    ) -> Option<(Ended<W>, Failure)> {
        self.meter(place).count(Count::Declined);
        let key = self.close(place, now)?;
        let pending = &mut self.questions[key];
        pending.failed.push(place.server);
        pending.failure = Some(failure);
        // What was sent beside it may still be answered by somebody else.
        if pending.last == Some(place) { self.ask_another(key, now) } else { None }
    }

    /// Asks another server, as far as that may still be; what is told if there is none.
    pub(super) fn ask_another(&mut self, key: usize, now: Instant) -> Option<(Ended<W>, Failure)> {
        self.act(key, self.whom_next(key, false, now))
    }

    /// The same where a server is silent, as far as there may be retries; `late` if it has been for long.
    fn ask_again(&mut self, key: usize, late: bool, now: Instant) -> Option<(Ended<W>, Failure)> {
        if self.questions[key].is_check {
            return None;
        }
        let next = self.whom_next(key, late, now);
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

    /// Who is asked next; if nobody has answered for long, perhaps one that would not be asked again else.
    fn whom_next(&self, key: usize, late: bool, now: Instant) -> Next {
        let pending = &self.questions[key];
        let group = self.groups[usize::from(pending.group)].iter().copied();
        let open = group.filter(|it| !pending.failed.contains(it));
        let is_up = |it: u16| self.servers[usize::from(it)].is_up();
        let mut left = open.clone().peekable();
        if left.peek().is_none() || self.fail_fast && !left.any(is_up) {
            let otherwise = if pending.failed.is_empty() { Failure::NobodyThere } else { Failure::NoAnswer };
            return Next::Nobody(pending.failure.unwrap_or(otherwise));
        }
        if pending.is_sent_out() {
            return Next::Wait;
        }
        let (asked, manner) = (self.asked(key), self.manner(key));
        // Hosts that refuse are asked again and again; beside these, one that was only silent has its turn after each
        // pause.
        let is_few = self.questions.len() <= MAX_OPEN_FOR_STREAM;
        let usual = open.clone().filter(|&it| {
            self.may_be_asked(key, it) || is_few && !self.needs_stream(key, it) && pending.has_rested(it, now)
        });
        if let Some(server) = choose(&self.servers, usual, &asked, manner) {
            return Next::Usual(server);
        }
        if !is_few {
            return Next::Wait;
        }
        // Over a stream it is said once, and once more after each pause. What was said over one that has broken was not
        // said.
        let by_stream = open.clone().filter(|&it| {
            let count = |servers: &[u16]| servers.iter().filter(|at| **at == it).count();
            let said = pending.over_stream.iter().filter(|asked| asked.0 == it).count();
            let pauses = count(&pending.by_datagram).saturating_sub(MAX_TRIES + count(&pending.refused));
            let is_new = said <= count(&pending.broken) + pauses;
            is_new && if pauses == 0 { self.may_be_streamed(key, it) } else { self.has_stream_tries(key, it) }
        });
        if let Some(server) = choose(&self.servers, by_stream, &[], manner) {
            return Next::Stream(server);
        }
        // It may be back by now, or answer what it has dropped before.
        let again =
            open.filter(|&it| late && (!self.needs_stream(key, it) || self.has_stream_tries(key, it)));
        choose(&self.servers, again, &asked, manner).map_or(Next::Wait, Next::Usual)
    }

    fn manner(&self, key: usize) -> ChoiceRules {
        ChoiceRules {
            qtype: self.questions[key].question.get().qtype,
            in_turn: self.rotate || self.order != Order::Fastest,
        }
    }

    /// Who has been asked, once for each time.
    fn asked(&self, key: usize) -> SmallVec<[u16; MAX_SENT]> {
        let pending = &self.questions[key];
        let over_stream = pending.over_stream.iter().map(|(server, _)| *server);
        pending.by_datagram.iter().copied().chain(over_stream).collect()
    }

    /// Whether `server` may be asked as it usually is.
    fn may_be_asked(&self, key: usize, server: u16) -> bool {
        if self.needs_stream(key, server) {
            return self.may_be_streamed(key, server);
        }
        let count = |servers: &[u16]| servers.iter().filter(|it| **it == server).count();
        let pending = &self.questions[key];
        // What is said to have reached nobody does not count.
        count(&pending.by_datagram) < MAX_TRIES + count(&pending.refused)
    }

    /// Whether only a stream is of use at `server`.
    pub(super) fn needs_stream(&self, key: usize, server: u16) -> bool {
        let pending = &self.questions[key];
        pending.is_spoof_suspected
            || self.streamed[usize::from(server)]
            || pending.cut_short.contains(&server)
    }

    /// Whether `server` may be asked over a stream: what was said over one is not lost while that is there, and of no
    /// use to be said again at once.
    pub(super) fn may_be_streamed(&self, key: usize, server: u16) -> bool {
        let connection = self.connections[usize::from(server)].number();
        !self.questions[key].over_stream.contains(&(server, connection)) && self.has_stream_tries(key, server)
    }

    /// Whether `server` has not been asked over streams so often that it is not any more.
    fn has_stream_tries(&self, key: usize, server: u16) -> bool {
        let most = if self.needs_stream(key, server) { MAX_STREAM_TRIES } else { MAX_STREAM_TRIES_BESIDE };
        self.questions[key].over_stream.iter().filter(|it| it.0 == server).count() < most
    }

    /// Asks somebody else than `server`, which has not got the question, if somebody is up, or not asked yet; or this
    /// one over a stream, where that has not been tried. Tells whether it does.
    pub(super) fn ask_elsewhere(&mut self, key: usize, server: u16, now: Instant) -> bool {
        let (asked, manner) = (self.asked(key), self.manner(key));
        let pending = &self.questions[key];
        if pending.is_check || pending.is_sent_out() {
            return false;
        }
        if self.fail_fast && self.all_down(pending.group) {
            let given_up = (self.end(key), Failure::NobodyThere);
            self.done.push_back(given_up);
            return true;
        }
        let group = self.groups[usize::from(pending.group)].iter().copied();
        let others = group.filter(|&it| {
            let is_new = self.servers[usize::from(it)].is_up() || !asked.contains(&it);
            it != server && is_new && !pending.failed.contains(&it) && self.may_be_asked(key, it)
        });
        if let Some(other) = choose(&self.servers, others, &asked, manner) {
            self.queue(key, other, false);
            return true;
        }
        let may_begin = self.connections[usize::from(server)].may_begin(now);
        let over_stream = may_begin && !pending.over_stream.iter().any(|it| it.0 == server);
        if over_stream {
            self.queue(key, server, true);
        }
        over_stream
    }

    /// The next question that is given up, if there is one. Asks others where a server has not answered in time; of
    /// what is to be looked at for that, each takes a step off `steps`, and with none left the rest has to wait.
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
            let is_check = failure.is_some_and(|pending| pending.is_check);
            let failure = failure.map(|pending| pending.failure.unwrap_or(Failure::NoAnswer));
            if failure.is_some() && at + self.timeout > now {
                break;
            }
            self.begun.pop_front();
            if let Some(failure) = failure {
                let ended = self.end(key);
                if !is_check {
                    return Some((ended, failure));
                }
            }
        }
        None
    }

    fn time_out(&mut self, place: TransactionKey, serial: u64, now: Instant) -> Option<(Ended<W>, Failure)> {
        let attempt = self.attempts.get_mut(place).filter(|attempt| attempt.serial == serial)?;
        let (key, sent, before, subject) = (attempt.key, attempt.sent, attempt.state, attempt.subject);
        attempt.state = AttemptState::Late;
        if before == AttemptState::Awaited {
            let number = usize::from(place.server);
            if place.is_stream() {
                self.note_silent_stream(place, sent);
            } else if self.servers[number].note_loss() {
                self.renewals.push_back(place.server);
            }
            if self.servers[usize::from(place.server)].note_timeout(subject, sent, now) {
                self.check(place.server, now);
            }
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
        self.hurry(key);
        if is_last { self.ask_again(key, before == AttemptState::Late, now) } else { None }
    }

    /// After which time a question is looked at again that cannot be helped now: the more there are, the later.
    fn recheck(&self) -> Duration {
        RECHECK + RECHECK / RECHECKS_PER_S * u32::try_from(self.questions.len()).unwrap_or(u32::MAX)
    }

    /// The next question whose clients have waited for long, or whom nobody can answer now, if they can be given
    /// something stale instead, as `has_stale` says; and whether all servers are down. The question itself goes on.
    pub fn next_overdue(
        &mut self,
        now: Instant,
        mut has_stale: impl FnMut(&Question<'_>) -> bool,
    ) -> Option<(Ended<W>, bool)> {
        while let Some((key, serial)) = self.hurried.pop_front() {
            if let Some(ended) = self.let_go(key, serial, &mut has_stale) {
                return Some((ended, true));
            }
        }
        loop {
            let Begun { at, key, serial } = *self.fresh.front()?;
            let open = self.questions.get_mut(key).filter(|pending| pending.serial == serial);
            if open.is_some() && at + STALE_AFTER > now {
                return None;
            }
            self.fresh.pop_front();
            if let Some(ended) = self.let_go(key, serial, &mut has_stale) {
                return Some((ended, false));
            }
        }
    }

    /// Those who wait for a question, if something stale is there for them.
    fn let_go(
        &mut self,
        key: usize,
        serial: u64,
        has_stale: &mut impl FnMut(&Question<'_>) -> bool,
    ) -> Option<Ended<W>> {
        let pending = self.questions.get_mut(key).filter(|pending| pending.serial == serial)?;
        if pending.waiters.is_empty() || !has_stale(&pending.question.get()) {
            return None;
        }
        let waiters = std::mem::take(&mut pending.waiters);
        self.waiters -= waiters.len();
        Some(Ended { question: pending.question.clone(), waiters })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::super::{STREAM, StreamEnd};
    use super::*;

    #[test]
    fn a_question_is_given_up_in_the_end_and_the_next_is_asked_all_the_same() {
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
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::NoAnswer));
        assert!(now - begin == TIMEOUT && sent > MAX_TRIES + 1 && sent < MAX_SENT, "{sent}");
        assert!(!all.servers[0].is_up(), "several questions: the check is one");
        assert!(all.waits(b"\x01b\0", 2, now));
        let asked = all.sent(now);
        assert!(!asked.is_empty());
        assert_eq!(waiters(&all.answered(*asked.last().unwrap(), now + MS).unwrap()), [2]);
        assert!(all.servers[0].is_up());
        // Checks that are not answered end, too.
        while let Some(at) = all.deadline() {
            while all.expires(at).is_some() {}
            while all.next_overdue(at, |_| false).is_some() {}
            all.sent(at);
        }
        assert!(all.is_empty() && all.attempts.is_empty() && all.waiters == 0);
    }

    #[test]
    fn where_it_is_to_fail_fast_nobody_waits_for_those_who_are_down() {
        let (mut all, now) = (of(1), Instant::now());
        all.fail_fast = true;
        all.waits(b"\x01a\0", 1, now);
        let place = all.sent(now)[0];
        all.server_refuses(0, place.slot, now);
        let (ended, failure) = all.expires(now).unwrap();
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::NobodyThere));
        assert!(!all.waits(b"\x01b\0", 2, now) && all.sent(now).is_empty());
        let later = now + Duration::from_secs(1);
        assert!(!all.waits(b"\x01b\0", 3, later));
        let check = all.sent(later)[0];
        assert!(all.answered(check, later + MS).is_none(), "nobody waits for a check");
        assert!(all.waits(b"\x01b\0", 4, later + MS), "it is back");
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
        all.stream_broken(0, stream.slot, StreamEnd::Worked, now);
        let again = all.sent(now)[0];
        assert_eq!(again.slot, STREAM + 1, "it was closed, as it may be");
        all.stream_broken(0, again.slot, StreamEnd::Useless, now);
        let again = all.sent(now)[0];
        assert_eq!(again.slot, STREAM + 2, "once may be by chance");
        all.stream_broken(0, again.slot, StreamEnd::Useless, now);
        assert!(all.sent(now).is_empty(), "twice is not");
        let (ended, failure, now) = loop {
            let now = all.deadline().unwrap();
            if let Some(given_up) = all.expires(now) {
                break (given_up.0, given_up.1, now);
            }
            while all.next_overdue(now, |_| false).is_some() {}
            for place in all.sent(now) {
                all.stream_broken(0, place.slot, StreamEnd::Useless, now);
            }
        };
        assert_eq!((waiters(&ended), failure), (&[1][..], Failure::NoAnswer));
        assert!(all.waits(b"\x01b\0", 2, now) && all.servers[0].is_up(), "by datagrams it still answers");
    }

    #[test]
    fn where_nobody_is_the_next_is_asked_at_once() {
        let (mut all, now) = (of(2), Instant::now());
        all.waits(b"\x01a\0", 1, now);
        let first = all.sent(now)[0];
        all.server_refuses(first.server, first.slot, now);
        let second = all.sent(now)[0];
        assert_ne!(second.server, first.server);
        all.server_refuses(second.server, second.slot, now);
        // Both are down. They are asked all the same: over a stream, and again when it is time.
        let stream = all.sent(now)[0];
        assert_eq!((stream.server, stream.is_stream()), (second.server, true));
        all.stream_broken(stream.server, stream.slot, StreamEnd::Useless, now);
        all.sent(now).iter().for_each(|it| all.stream_broken(it.server, it.slot, StreamEnd::Useless, now));
        let (again, later) = loop {
            let later = all.deadline().unwrap();
            assert!(all.expires(later).is_none() && later < now + 300 * MS);
            if let Some(again) = all.sent(later).iter().find(|it| !it.is_stream()) {
                break (*again, later);
            }
        };
        assert_eq!(waiters(&all.answered(again, later).unwrap()), [1]);
    }

    #[test]
    fn who_has_waited_for_long_may_have_something_stale() {
        let (mut all, begin) = (of(1), Instant::now());
        all.servers[0].note_answer(MS, crate::wire::record::rtype::A);
        all.waits(b"\x01a\0", 1, begin);
        all.waits(b"\x01b\0", 2, begin);
        assert!(all.next_overdue(begin + STALE_AFTER - MS, |_| true).is_none());
        let stale = all.next_overdue(begin + STALE_AFTER, |question| question.name == b"\x01b\0").unwrap();
        assert_eq!((waiters(&stale.0), stale.0.question.get().name), (&[2][..], &b"\x01b\0"[..]));
        assert!(!stale.1, "nobody is down");
        assert_eq!((all.len(), all.waiters), (2, 1), "the question goes on");
    }

    #[test]
    fn a_connection_that_is_silent_has_another_beside_it_and_one_that_is_not_has_none() {
        let now = Instant::now();
        let mut all = of_upstreams(&["tls://192.0.2.1".parse().unwrap()]);
        all.waits(b"\x01a\0", 1, now);
        all.waits(b"\x01b\0", 2, now);
        let [a, b] = all.sent(now)[..] else { panic!() };
        assert_eq!((a.slot, b.slot), (STREAM, STREAM));
        assert_eq!(waiters(&all.answered(b, now + MS).unwrap()), [2]);
        // Something has come: it is the question that takes long.
        let later = now + 400 * MS;
        assert!(all.expires(later).is_none() && all.sent(later).is_empty());
        all.waits(b"\x01c\0", 3, later);
        assert_eq!(all.sent(later)[0].slot, STREAM);
        let silent = later + 100 * MS;
        assert!(all.expires(silent).is_none());
        // Two in a row had no answer: it is checked, too.
        let [check, again] = all.sent(silent)[..] else { panic!() };
        assert_eq!((check.slot, again.slot), (STREAM + 1, STREAM + 1));
        assert_eq!(all.next_closing(), Some((0, STREAM + 1)), "what may be left there of before");
        // What comes over the first counts all the same.
        assert_eq!(waiters(&all.answered(a, silent).unwrap()), [1]);
        assert_eq!(waiters(&all.answered(again, silent).unwrap()), [3]);
        assert!(all.answered(check, silent).is_none());
    }
}
