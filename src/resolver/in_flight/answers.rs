//! What becomes of questions by what comes back.

use std::time::Instant;

use super::pending::{Attempt, Pending, Stage};
use super::{Awaited, Ended, Failure, InFlight, MAX_STAGES, TransactionKey, Unawaited};
use crate::resolver::meter::{Count, Meter};
use crate::resolver::question::{OwnedQuestion, Question};
use crate::resolver::settings::Order;

impl<W> InFlight<W> {
    /// What was asked from `place`.
    ///
    /// # Errors
    /// If nothing is awaited there.
    pub fn awaited(&mut self, place: TransactionKey, now: Instant) -> Result<Awaited<'_>, Unawaited> {
        let Some(&Attempt { key, serial, case_bits, dress, stage, .. }) = self.attempts.get(place) else {
            self.meter(place).count(Count::Mismatched);
            return Err(Unawaited::Unasked);
        };
        let open = self.is_open(key, serial) && self.questions[key].before().len() == stage;
        if !open || (self.questions[key].is_spoof_suspected && !place.is_stream()) {
            // Another server was faster, or is asked over a stream. It is good to know when this one has answered.
            self.close(place, now);
            return Err(Unawaited::NoMore);
        }
        let pending = &self.questions[key];
        let (question, before) = (pending.asked(), pending.before());
        Ok(Awaited { question, edns: dress.edns, case_bits, before, group: pending.group })
    }

    /// A datagram in the name of `server` has this question, but not all else that an answer has to have. Who tries one
    /// id after the other will come upon the right one: the server is asked over a stream, and datagrams are not
    /// believed any more.
    pub fn spoof_suspected(&mut self, server: u16, question: &Question<'_>) {
        let Some(key) = self.find(question) else { return };
        let pending = &mut self.questions[key];
        let is_awaited = pending.by_datagram.contains(&server)
            && !pending.failed.contains(&server)
            && !pending.cut_short.contains(&server);
        if is_awaited && !pending.is_spoof_suspected {
            pending.is_spoof_suspected = true;
            self.queue(key, server, true);
        }
    }

    /// Ends the attempt at `place` by an answer; returns its question if that is open, and no check.
    pub(super) fn close(&mut self, place: TransactionKey, now: Instant) -> Option<usize> {
        let Attempt { key, serial, sent, stage, subject, .. } = self.attempts.remove(place)?;
        let number = usize::from(place.server);
        self.servers[number].note_answer(now.saturating_duration_since(sent), subject.qtype);
        if place.is_stream() {
            self.connections[number].note_heard(place.slot, now);
        } else {
            self.servers[number].note_arrival();
        }
        if !self.is_open(key, serial) || self.questions[key].before().len() != stage {
            return None;
        }
        if self.questions[key].is_check {
            self.end(key);
            return None;
        }
        Some(key)
    }

    /// Where it is counted what the server at `place` does.
    #[must_use]
    pub fn meter(&self, place: TransactionKey) -> &Meter {
        &self.servers[usize::from(place.server)].meter
    }

    /// There is an answer from `place`.
    pub fn answered(&mut self, place: TransactionKey, now: Instant) -> Option<Ended<W>> {
        let key = self.close(place, now)?;
        let Pending { question, group, stage, .. } = &self.questions[key];
        let question = stage.as_ref().map_or(question, |stage| &stage.question);
        self.servers[usize::from(place.server)].note_known(question, *group, now);
        Some(self.end(key))
    }

    /// The server at `place` knows of no such name. Where the order says so, the next is asked, if there is one; then
    /// nothing is told yet.
    pub fn falls_back(&mut self, place: TransactionKey, now: Instant) -> bool {
        let Some(&Attempt { key, serial, .. }) = self.attempts.get(place) else { return false };
        if self.order != Order::Fallback || !self.is_open(key, serial) || self.questions[key].is_check {
            return false;
        }
        let pending = &self.questions[key];
        let group = &self.groups[usize::from(pending.group)];
        let is_left = |it: &u16| *it != place.server && !pending.failed.contains(it);
        if !group.iter().any(is_left) {
            return false;
        }
        if let Some(key) = self.close(place, now) {
            self.questions[key].failed.push(place.server);
            let given_up = self.ask_another(key, now);
            self.done.extend(given_up);
        }
        true
    }

    /// The answer from `place`, which is this `message`, leads by aliases to another `name`: that is asked for at its
    /// own `group` of servers, on behalf of the same clients. Returns what is told if it is not.
    pub fn led_on(
        &mut self,
        place: TransactionKey,
        message: &[u8],
        name: (&[u8], u64),
        group: u16,
        now: Instant,
    ) -> Option<(Ended<W>, Failure)> {
        let key = self.close(place, now)?;
        let pending = &mut self.questions[key];
        let (name, name_hash) = name;
        let question = OwnedQuestion::from(&Question { name, name_hash, ..pending.question.get() });
        let mut before = pending.stage.take().map_or_else(Vec::new, |stage| stage.before);
        before.push(message.into());
        if before.len() > MAX_STAGES {
            return Some((self.end(key), Failure::NoAnswer));
        }
        pending.stage = Some(Box::new(Stage { question, before }));
        pending.group = group;
        pending.by_datagram.clear();
        pending.refused.clear();
        pending.resting.clear();
        pending.over_stream.clear();
        pending.broken.clear();
        pending.cut_short.clear();
        pending.rejects_option.clear();
        pending.rejects_edns.clear();
        pending.failed.clear();
        self.ask_another(key, now)
    }

    /// The answer from `place` was cut short: the same server is asked over a stream.
    pub fn truncated(&mut self, place: TransactionKey, now: Instant) {
        self.meter(place).count(Count::Truncated);
        if let Some(key) = self.close(place, now) {
            self.questions[key].cut_short.push(place.server);
            self.queue(key, place.server, true);
        }
    }

    /// What has come from `place` `has_opt` record, and perhaps `answers` the question.
    pub fn note_dress(&mut self, place: TransactionKey, has_opt: bool, answers: bool, now: Instant) {
        let Some(&Attempt { key, serial, dress, before, .. }) = self.attempts.get(place) else { return };
        if self.is_open(key, serial) {
            let occasion = self.questions[key].occasion(place.server, before);
            self.servers[usize::from(place.server)].taste.note(dress, occasion, has_opt, answers, now);
        }
    }

    /// The server rejects what it was sent, perhaps for how it was written; by what it says perhaps for EDNS. Returns
    /// whether it is asked again in another way.
    pub fn rejected(&mut self, place: TransactionKey, edns: bool, now: Instant) -> bool {
        let Some(&Attempt { key, serial, dress, .. }) = self.attempts.get(place) else { return false };
        if !self.is_open(key, serial) || self.questions[key].is_check {
            return false;
        }
        let (server, pending) = (place.server, &mut self.questions[key]);
        if dress.option && self.servers[usize::from(server)].taste.may_reject_option() {
            pending.rejects_option.push(server);
        } else if dress.edns && edns && !pending.question.get().dnssec_ok {
            pending.rejects_edns.push(server);
        } else {
            return false;
        }
        if self.close(place, now).is_some() {
            self.queue(key, server, place.is_stream());
        }
        true
    }
}
