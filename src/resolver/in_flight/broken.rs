//! What becomes of questions when a host says that nobody is there, or when a connection is silent or breaks.
//!
//! Neither says anything of the question, nor much of the server: that is asked once more, another way or a little
//! later. What the server is taken for follows from what comes of that.

use std::time::{Duration, Instant};

use super::pending::{Attempt, AttemptState};
use super::{InFlight, STREAM, STREAMS, TransactionKey};

/// How long no connection to a server is begun after the second in a row that was of no use; twice as long after each
/// further one.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The shortest wait for anything to come over a connection before another is begun beside it.
const MIN_STREAM_PATIENCE: Duration = Duration::from_millis(100);

/// Connections that had worked and have ended before one question was answered, at most: as many as there may be
/// questions on one, for a server may answer one over each.
const MAX_ENDED: u16 = crate::limits::MAX_STREAMS_ENDED;

/// How a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamEnd {
    /// It had brought answers.
    Worked,
    /// It has brought none.
    Useless,
    /// Our own kernel, or something on the way, says that the server is not reached.
    NoWay,
}

/// The connections to one server: few, of which one is used for what is sent.
#[derive(Default)]
pub(super) struct Connections {
    /// How often another was begun: says which of [`STREAMS`] is used.
    number: u32,
    /// When something came over each of them last.
    heard: [Option<Instant>; STREAMS as usize],
    /// Connections in a row that have brought nothing.
    useless: u32,
    /// None is begun before.
    not_before: Option<Instant>,
}

impl Connections {
    /// The slot of what is sent.
    pub(super) fn slot(&self) -> u8 {
        slot_of(self.number)
    }

    /// The number of the one that is used, which no other has had.
    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// When the next may be begun, if that is later.
    pub(super) fn pause(&self, now: Instant) -> Option<Instant> {
        self.not_before.filter(|at| *at > now)
    }

    /// Whether one may be begun now.
    pub(super) fn may_begin(&self, now: Instant) -> bool {
        self.pause(now).is_none()
    }

    /// Something has come over the one of this slot.
    pub(super) fn note_heard(&mut self, slot: u8, now: Instant) {
        self.heard[usize::from(slot - STREAM)] = Some(now);
        (self.useless, self.not_before) = (0, None);
    }

    /// Whether nothing has come over the one of this slot since `sent`, and it is used: then another should be.
    fn is_silent(&self, slot: u8, sent: Instant) -> bool {
        let heard = self.heard[usize::from(slot - STREAM)].is_some_and(|at| at >= sent);
        !heard && slot == self.slot()
    }

    /// The one that is used has brought nothing. Returns whether that is at least the second in a row.
    fn note_useless(&mut self, now: Instant) -> bool {
        self.useless = self.useless.saturating_add(1);
        let Some(more) = self.useless.checked_sub(2) else { return false };
        self.not_before = Some(now + (FIRST_PAUSE * (1 << more.min(8))).min(MAX_PAUSE));
        true
    }

    /// There is no way to the server now. That is looked at again soon, however often.
    fn note_no_way(&mut self, now: Instant) {
        self.not_before = Some(now + FIRST_PAUSE);
    }

    /// From now on another is used. Returns its slot.
    fn change(&mut self) -> u8 {
        self.number = self.number.wrapping_add(1);
        let slot = self.slot();
        self.heard[usize::from(slot - STREAM)] = None;
        slot
    }
}

/// The slot of the connection with this number: with [`STREAMS`] others begun since, another has it.
#[allow(clippy::cast_possible_truncation)] // a few
fn slot_of(number: u32) -> u8 {
    STREAM + (number % u32::from(STREAMS)) as u8
}

/// How long anything is waited for over a connection, where a datagram would be waited for so long.
pub(super) fn stream_patience(patience: Duration) -> Duration {
    (patience * 2).max(MIN_STREAM_PATIENCE)
}

impl<W> InFlight<W> {
    /// The host of `server` says, to the socket of this slot, that nobody is there.
    pub fn server_refuses(&mut self, server: u16, slot: u8, now: Instant) {
        self.servers[usize::from(server)].note_down(now);
        for place in self.places(|place| (place.server, place.slot) == (server, slot)) {
            self.lose(place, now);
        }
    }

    /// What was sent to `server` from this slot does not get there, by what our own kernel says or something on the
    /// way: that is no word of the server's.
    pub fn unreachable(&mut self, server: u16, slot: u8, now: Instant) {
        self.servers[usize::from(server)].note_no_way();
        for place in self.places(|place| (place.server, place.slot) == (server, slot)) {
            self.lose(place, now);
        }
    }

    /// The connection to `server` of this slot is broken. What was asked over it is asked once more over another; that
    /// does not count if the connection had worked: a server may end one whenever it likes (RFC 7766 §6.2.3).
    pub fn stream_broken(&mut self, server: u16, slot: u8, end: StreamEnd, now: Instant) {
        let number = usize::from(server);
        // Several questions may have been told of the same connection.
        if slot == self.connections[number].slot() {
            self.begin_connection(server);
            match end {
                StreamEnd::Worked => {}
                StreamEnd::Useless => {
                    if self.connections[number].note_useless(now) && self.streamed[number] {
                        self.servers[number].note_down(now);
                    }
                }
                StreamEnd::NoWay => {
                    self.connections[number].note_no_way(now);
                    self.servers[number].note_no_way();
                }
            }
        }
        let in_vain = end != StreamEnd::Worked && !self.connections[number].may_begin(now);
        for place in self.places(|place| (place.server, place.slot) == (server, slot)) {
            self.lose_stream(place, end, in_vain, now);
        }
    }

    /// What was sent to `place` at `sent` over a connection has no answer in time: if nothing else has come over it
    /// either, another is used from now on.
    pub(super) fn note_silent_stream(&mut self, place: TransactionKey, sent: Instant) {
        if self.connections[usize::from(place.server)].is_silent(place.slot, sent) {
            self.begin_connection(place.server);
        }
    }

    /// Has what is sent to `server` go over another connection. The one that had its slot before is long silent, or
    /// gone.
    fn begin_connection(&mut self, server: u16) {
        let slot = self.connections[usize::from(server)].change();
        self.closings.push_back((server, slot));
    }

    /// A connection, by server and slot, that is to be closed, if it is there.
    pub fn next_closing(&mut self) -> Option<(u16, u8)> {
        self.closings.pop_front()
    }

    fn places(&self, which: impl Fn(&TransactionKey) -> bool) -> Vec<TransactionKey> {
        self.attempts.places().filter(which).collect()
    }

    /// Whether nothing else is waited for by the question that was asked at `place`; if so, its key.
    fn waits_for(&self, place: TransactionKey) -> Option<usize> {
        let Attempt { key, serial, state, .. } = self.attempts.get(place)?;
        let waits = self.is_open(*key, *serial) && self.questions[*key].last == Some(place);
        (waits && *state != AttemptState::Lost).then_some(*key)
    }

    /// What was sent to `place` is lost: its question is asked elsewhere now, or there again when the time for it has
    /// come.
    fn lose(&mut self, place: TransactionKey, now: Instant) {
        let waits = self.waits_for(place);
        if let Some(attempt) = self.attempts.get_mut(place) {
            attempt.state = AttemptState::Lost;
        }
        let Some(key) = waits else { return };
        self.questions[key].refused.push(place.server);
        self.ask_elsewhere(key, place.server, now);
        self.hurry(key);
    }

    /// The same of what was sent over a connection.
    fn lose_stream(&mut self, place: TransactionKey, end: StreamEnd, in_vain: bool, now: Instant) {
        let Some(key) = self.waits_for(place) else {
            // What was not sent over it is looked at when its time has come.
            if self.attempts.get(place).is_some_and(|attempt| attempt.state != AttemptState::Lost) {
                self.attempts.remove(place);
            }
            return;
        };
        if self.questions[key].is_check {
            self.attempts.remove(place);
            self.end(key);
            return;
        }
        let pending = &mut self.questions[key];
        let is_same = |it: &(u16, u32)| (it.0, slot_of(it.1)) == (place.server, place.slot);
        let counts_not = match end {
            StreamEnd::Worked => pending.ended < MAX_ENDED,
            StreamEnd::NoWay => true,
            StreamEnd::Useless => false,
        };
        if counts_not && let Some(at) = pending.over_stream.iter().rposition(is_same) {
            pending.ended += u16::from(end == StreamEnd::Worked);
            pending.over_stream.remove(at);
        } else {
            pending.broken.push(place.server);
        }
        let may_be_asked = self.may_be_streamed(key, place.server);
        if !in_vain && may_be_asked {
            self.attempts.remove(place);
            return self.queue(key, place.server, true);
        }
        if self.needs_stream(key, place.server) && !may_be_asked {
            self.questions[key].failed.push(place.server);
            self.attempts.remove(place);
            let given_up = self.ask_another(key, now);
            return self.done.extend(given_up);
        }
        if self.ask_elsewhere(key, place.server, now) {
            self.attempts.remove(place);
        } else if let Some(attempt) = self.attempts.get_mut(place) {
            // It is looked at again when there may be a connection; until then what was sent by datagrams may be
            // answered.
            attempt.state = AttemptState::Lost;
            let serial = attempt.serial;
            let at =
                self.connections[usize::from(place.server)].pause(now).unwrap_or(now + MIN_STREAM_PATIENCE);
            self.timers.set(at, place, serial, now);
        }
        self.hurry(key);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::*;
    use super::*;

    /// Has nobody be reached for so long; returns the time then, and when it was tried last.
    fn without_a_way(all: &mut InFlight<u32>, begin: Instant, long: Duration) -> Instant {
        let mut now = begin;
        while now < begin + long {
            for place in all.sent(now) {
                all.stream_broken(place.server, place.slot, StreamEnd::NoWay, now);
            }
            while all.next_closing().is_some() {}
            now = all.deadline().unwrap();
            assert!(all.expires(now).is_none(), "not given up");
            while all.next_overdue(now, |_| false).is_some() {}
        }
        now
    }

    #[test]
    fn what_our_own_kernel_says_is_no_word_of_the_servers_and_is_tried_again_soon() {
        let begin = Instant::now();
        let mut all = of_upstreams(&["tls://192.0.2.1".parse().unwrap()]);
        (1..=4).for_each(|id| assert!(all.waits(&[1, b'a' + id, 0], u32::from(id), begin)));
        let now = without_a_way(&mut all, begin, Duration::from_secs(2));
        assert!(all.servers[0].is_up());
        let mut answered = 0;
        let mut now = now;
        while answered < 4 {
            for place in all.sent(now) {
                answered += usize::from(all.answered(place, now).is_some());
            }
            now = all.deadline().map_or(now, |at| at);
            assert!(now < begin + Duration::from_millis(2_200), "{answered} after {:?}", now - begin);
            while all.expires(now).is_some() {}
        }
    }

    #[test]
    fn one_connection_that_fails_counts_once_however_many_ask_over_it() {
        let now = Instant::now();
        let mut all = of_upstreams(&["tls://192.0.2.1".parse().unwrap()]);
        (1..=8).for_each(|id| assert!(all.waits(&[1, b'a' + id, 0], u32::from(id), now)));
        let sent = all.sent(now);
        assert_eq!(sent.len(), 8);
        sent.iter().for_each(|it| all.stream_broken(it.server, it.slot, StreamEnd::Useless, now));
        assert!(all.connections[0].may_begin(now), "the first is by chance");
        let again = all.sent(now);
        assert_eq!(again.len(), 8, "all are asked once more at once");
        again.iter().for_each(|it| all.stream_broken(it.server, it.slot, StreamEnd::Useless, now));
        assert_eq!(all.connections[0].pause(now), Some(now + FIRST_PAUSE), "that of two, not of sixteen");
    }
}
