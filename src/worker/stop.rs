//! The end of a worker: what it has received until it is told to stop is answered, within [`STOP_TIMEOUT`].
//!
//! 1. Queries that wait for others are answered by what has come back by now, or is known by now; else SERVFAIL.
//! 2. What is in the sockets is answered the same way, while the kernel lets nothing more into them.
//! 3. What the thread for updates has, it answers itself, and TCP clients take their answers. Only this takes time.
//!
//! Runs on the worker's thread, once.

use std::time::{Duration, Instant};

use mio::Events;

use super::deferred::{complete, give_up};
use super::offload::Offload;
use super::{Worker, responder, unix_time_s};
use crate::answer::metrics::Event;
use crate::answer::types::Turn;
use crate::limits::STOP_TIMEOUT;
use crate::query_time::in_flight::Answered;
use crate::upstream::forwarding::Forwarding;
use crate::upstream::peers::PeerQueries;

/// Turns in which what upstreams and other nodes have said by now is looked at: more than there is in the sockets of
/// most.
const LAST_TURNS: usize = 64;

impl Worker {
    /// Answers what has been received until now, and what is deferred.
    pub(crate) fn finish(&mut self, events: &mut Events) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        self.take_last_outcomes(events);
        self.give_up_peers();
        self.give_up_upstreams();
        self.answer_last(deadline);
        while !self.has_ended() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait(events, Some(if self.transports.is_busy() { Duration::ZERO } else { left }));
            self.take_offload_turn();
            self.take_last_turn();
        }
        // Those over connections that were offloaded are among both.
        let (outstanding, offloaded) = (self.transports.outstanding(), self.offloaded());
        self.counters.add(Event::StopTimedOut, outstanding.max(offloaded) as u64);
    }

    fn offloaded(&self) -> usize {
        self.deferred.offload.as_ref().map_or(0, Offload::open)
    }

    fn has_ended(&self) -> bool {
        self.transports.has_ended() && self.offloaded() == 0
    }

    /// Answers queries by what upstreams and other nodes have said by now.
    fn take_last_outcomes(&mut self, events: &mut Events) {
        if self.deferred.peers.is_none() && self.deferred.upstreams.is_none() {
            return;
        }
        for _ in 0..LAST_TURNS {
            self.wait(events, Some(Duration::ZERO));
            self.begin_turn();
            self.take_peers_turn();
            self.take_upstreams_turn();
            if !self.deferred.peers.as_ref().is_some_and(PeerQueries::is_busy)
                && !self.deferred.upstreams.as_ref().is_some_and(Forwarding::has_arrivals)
            {
                break;
            }
        }
    }

    /// Answers queries that wait for other nodes by what these have said so far, if they have said anything.
    fn give_up_peers(&mut self) {
        let Self { transports, deferred, tables, answerer, counters, .. } = self;
        let Some(mut peers) = deferred.peers.take() else { return };
        let turn = Turn { table: tables.load(), counters, now_s: unix_time_s() };
        transports.begin_delivery();
        for Answered { name, answer, deferred, .. } in peers.take_all() {
            if answer.is_nobody() {
                give_up(deferred, transports, answerer, counters);
            } else if let Some(lookup) = answerer.peers() {
                lookup.set_answer(Some((name, answer)));
                complete(deferred, transports, answerer, &turn);
            }
        }
        if let Some(lookup) = answerer.peers() {
            lookup.set_answer(None);
        }
        transports.end_delivery(counters);
    }

    /// Answers queries that wait for upstreams by what is stale, if there is anything.
    fn give_up_upstreams(&mut self) {
        let Self { transports, deferred, tables, answerer, counters, .. } = self;
        let Some(mut upstreams) = deferred.upstreams.take() else { return };
        let turn = Turn { table: tables.load(), counters, now_s: unix_time_s() };
        transports.begin_delivery();
        upstreams.give_up_all();
        while let Some(resolver) = answerer.resolver()
            && let Some(done) = upstreams.next_given_up()
        {
            let queries = done.tell(resolver);
            complete(queries, transports, answerer, &turn);
        }
        if let Some(resolver) = answerer.resolver() {
            resolver.end_outcome();
        }
        transports.end_delivery(counters);
    }

    /// Answers what is in the sockets, and lets nothing more in.
    fn answer_last(&mut self, deadline: Instant) {
        let Self { poll, transports, deferred, tables, answerer, counters, .. } = self;
        let mut responder = responder(answerer, tables, counters, deferred);
        transports.begin_stop(poll.registry(), &mut responder, deadline);
        transports.take_last_turn(&mut responder);
    }

    fn take_last_turn(&mut self) {
        let Self { transports, deferred, tables, answerer, counters, .. } = self;
        let mut responder = responder(answerer, tables, counters, deferred);
        transports.take_last_turn(&mut responder);
    }
}
