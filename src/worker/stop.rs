//! The end of a worker: what it has received until it is told to stop is answered, within [`STOP_TIMEOUT`].
//!
//! 1. Queries that wait for others are answered by what has come back by now, or is known by now; else SERVFAIL.
//! 2. What is in the sockets is answered the same way, while the kernel lets nothing more into them.
//! 3. What the thread for updates has, it answers itself, and TCP clients take their answers. Only this takes time.
//!
//! Runs on the worker's thread, once.

use std::time::{Duration, Instant};

use mio::Events;

use super::{Worker, send_completed, unix_time_s};
use crate::answer::metrics::Event;
use crate::limits::STOP_TIMEOUT;
use crate::query_time::in_flight::Answered;
use crate::transport::udp::{self, Served};
use crate::upstream::forwarding::Forwarding;
use crate::upstream::peers::Asking;
use crate::worker::deferred::{Takers, answer_tcp, give_up, resume};
use crate::worker::offload::Handing;

/// Turns in which what upstreams and other nodes have said by now is looked at: more than there is in the sockets of most.
const LAST_TURNS: usize = 64;

/// Batches that are taken at a stop from a socket into which more may come, since the service manager has it, too: more than
/// its buffer holds.
const LAST_BATCHES: usize = 256;

impl Worker {
    /// Answers what has been received until now, and what waits.
    pub(crate) fn finish(&mut self, events: &mut Events) {
        let deadline = Instant::now() + STOP_TIMEOUT;
        self.tell_arrived(events);
        self.give_up_asking();
        self.give_up_forwarding();
        for i in 0..self.sockets.len() {
            self.serve_last(i, deadline);
        }
        let Self { poll, tcp, counters, .. } = self;
        tcp.begin_stop(self.is_inherited, poll.registry(), counters);
        self.take_last_tcp_turn();
        let is_over = |worker: &Self| {
            worker.tcp.has_ended() && worker.handing.as_ref().is_none_or(|handing| handing.open() == 0)
        };
        while !is_over(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            self.wait(events, Some(if self.tcp.is_busy() { Duration::ZERO } else { left }));
            self.take_handed_turn();
            self.take_last_tcp_turn();
        }
        // Those over TCP that were handed over are among both.
        let (of_tcp, handed) = (self.tcp.outstanding(), self.handing.as_ref().map_or(0, Handing::open));
        self.counters.add(Event::StopTimedOut, of_tcp.max(handed) as u64);
    }

    /// Tells those who wait what upstreams and other nodes have said by now.
    fn tell_arrived(&mut self, events: &mut Events) {
        if self.asking.is_none() && self.forwarding.is_none() {
            return;
        }
        for _ in 0..LAST_TURNS {
            self.wait(events, Some(Duration::ZERO));
            self.begin_turn();
            self.take_asking_turn();
            self.take_forwarding_turn();
            if !self.asking.as_ref().is_some_and(Asking::is_busy)
                && !self.forwarding.as_ref().is_some_and(Forwarding::has_arrivals)
            {
                break;
            }
        }
    }

    /// Answers queries that wait for other nodes by what these have said so far, if they have said anything.
    fn give_up_asking(&mut self) {
        let Some(mut asking) = self.asking.take() else { return };
        let Self { sockets, tcp, reader, answerer, counters, .. } = self;
        let table = reader.load();
        let now_s = unix_time_s();
        sockets.iter_mut().for_each(|socket| socket.batch.clear());
        for Answered { name, known, waiters, .. } in asking.take_all() {
            if known.is_nobody() {
                give_up(waiters, sockets, tcp, answerer, counters);
            } else if let Some(elsewhere) = answerer.elsewhere() {
                elsewhere.set_answer(Some((name, known)));
                resume(waiters, sockets, tcp, answerer, table, now_s, counters);
            }
        }
        if let Some(elsewhere) = answerer.elsewhere() {
            elsewhere.set_answer(None);
        }
        send_completed(&mut self.sockets, &self.counters);
    }

    /// Answers queries that wait for upstreams by what is stale, if there is anything.
    fn give_up_forwarding(&mut self) {
        let Some(mut forwarding) = self.forwarding.take() else { return };
        let Self { sockets, tcp, reader, answerer, counters, .. } = self;
        let table = reader.load();
        let now_s = unix_time_s();
        sockets.iter_mut().for_each(|socket| socket.batch.clear());
        forwarding.give_up_all();
        while let Some(resolver) = answerer.resolver()
            && let Some(done) = forwarding.next_given_up()
        {
            let waiters = done.tell(resolver);
            resume(waiters, sockets, tcp, answerer, table, now_s, counters);
        }
        if let Some(resolver) = answerer.resolver() {
            resolver.end_outcome();
        }
        send_completed(&mut self.sockets, &self.counters);
    }

    /// Answers the datagrams that a socket has. New ones are kept out, so this comes to an end however many there are; but not
    /// where the next process, or the service manager, is to have them.
    fn serve_last(&mut self, i: usize, deadline: Instant) {
        let closed = !self.is_inherited && udp::refuse_more(&self.sockets[i].socket).is_ok();
        let mut batches = 0;
        while self.serve(i) != Served::Empty && Instant::now() < deadline {
            batches += 1;
            if !closed && batches == LAST_BATCHES {
                break;
            }
        }
    }

    fn take_last_tcp_turn(&mut self) {
        let Self { tcp, reader, answerer, counters, handing, .. } = self;
        let table = reader.load();
        let now_s = unix_time_s();
        let mut takers = Takers { asking: None, forwarding: None, handing: handing.as_mut() };
        tcp.take_last_turn(|message, len, client| {
            answer_tcp(answerer, &mut takers, table, (message, len), client, now_s, counters)
        });
    }
}
