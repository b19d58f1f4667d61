//! Queries that cannot be answered at once: who takes them over, and how they are answered later.
//!
//! Runs on the workers.

use std::time::Duration;

use mio::Token;

use super::offload::Offload;
use crate::answer::answerer::Answerer;
use crate::answer::metrics::{Counters, Event};
use crate::answer::types::{Deferred, Message, Origin, Turn, Verdict};
use crate::transport::Transports;
use crate::transport::client::DeferredQuery;
use crate::transport::responder::Defer;
use crate::upstream::forwarding::Forwarding;
use crate::upstream::peers::PeerQueries;

/// A worker's deferred queries, by what has to be done for them.
pub(crate) struct DeferredQueries {
    /// Those for which other nodes are asked, in the designs that do.
    pub(crate) peers: Option<PeerQueries>,
    /// Those for which upstreams are asked, if there are any.
    pub(crate) upstreams: Option<Forwarding>,
    /// Those that the zone thread answers, if there is one.
    pub(crate) offload: Option<Offload>,
}

impl DeferredQueries {
    /// Notes that the poll has reported `token`; returns whether that is of a socket of these.
    pub(crate) fn ready(&mut self, token: Token) -> bool {
        match (&mut self.peers, &mut self.upstreams) {
            (Some(peers), _) if PeerQueries::has(token) => peers.ready(token),
            (_, Some(upstreams)) if Forwarding::has(token) => upstreams.ready(token),
            _ => return false,
        }
        true
    }

    /// Whether there is something to do at once.
    pub(crate) fn is_busy(&self) -> bool {
        self.peers.as_ref().is_some_and(PeerQueries::is_busy)
            || self.upstreams.as_ref().is_some_and(Forwarding::is_busy)
    }

    /// How long the worker may sleep.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let peers = self.peers.as_ref().and_then(PeerQueries::timeout);
        let upstreams = self.upstreams.as_ref().and_then(Forwarding::timeout);
        peers.into_iter().chain(upstreams).min()
    }
}

impl Defer for DeferredQueries {
    fn defer(&mut self, deferred: &Deferred, query: DeferredQuery, counters: &Counters) -> bool {
        let is_offload = matches!(deferred, Deferred::Offload);
        // Each kind has who takes it over, who is gone only when the worker stops.
        let (is_taken, full) = match deferred {
            Deferred::Offload => {
                (self.offload.as_mut().map(|offload| offload.hand_over(query)), Event::OffloadFull)
            }
            Deferred::Peers(name) => {
                let ask = |peers: &mut PeerQueries| peers.ask(name.as_wire(), query, counters);
                (self.peers.as_mut().map(ask), Event::PeerQueriesFull)
            }
            Deferred::Upstream(upstream_query) => {
                // All are taken over: what is too much is answered in the next turn.
                let ask = |upstreams: &mut Forwarding| upstreams.ask(upstream_query, query, counters);
                (self.upstreams.as_mut().map(ask).map(|()| true), Event::UpstreamFailed)
            }
        };
        match is_taken {
            Some(true) if is_offload => counters.count(Event::Offloaded),
            Some(true) => {}
            Some(false) => counters.count(full),
            None => counters.count(Event::Stopping),
        }
        is_taken == Some(true)
    }
}

/// Answers deferred queries by what is known now.
pub(crate) fn complete(
    queries: impl IntoIterator<Item = DeferredQuery>,
    transports: &mut Transports,
    answerer: &mut Answerer,
    turn: &Turn<'_>,
) {
    for DeferredQuery { query, client } in queries {
        let origin = Origin { transport: client.transport(), client: client.ip(), deferred: true };
        let answer = |buffer: &mut [u8]| {
            let mut message = restore(buffer, &query);
            match answerer.answer(turn, message.reborrow(), origin) {
                Verdict::Reply { len } => Some(len),
                Verdict::Drop => None,
                // It is known by now; only a name that the table has got and lost meanwhile is not.
                Verdict::Defer(_) => {
                    turn.counters.count(Event::ChangedMeanwhile);
                    Some(answerer.fail(message))
                }
            }
        };
        transports.deliver(client, answer, turn.counters);
    }
}

/// Answers deferred queries that can wait no longer SERVFAIL: the server stops.
pub(crate) fn give_up(
    queries: impl IntoIterator<Item = DeferredQuery>,
    transports: &mut Transports,
    answerer: &Answerer,
    counters: &Counters,
) {
    for DeferredQuery { query, client } in queries {
        counters.count(Event::Stopping);
        transports.deliver(client, |buffer| Some(answerer.fail(restore(buffer, &query))), counters);
    }
}

/// Drops deferred queries, without a response.
pub(crate) fn drop_queries(
    queries: impl IntoIterator<Item = DeferredQuery>,
    transports: &mut Transports,
    counters: &Counters,
) {
    for DeferredQuery { client, .. } in queries {
        counters.count(Event::UpstreamDropped);
        transports.deliver(client, |_| None, counters);
    }
}

/// Puts a query to the front of a buffer, as it was when it came.
fn restore<'a>(buffer: &'a mut [u8], query: &[u8]) -> Message<'a> {
    buffer[..query.len()].copy_from_slice(query);
    Message { buffer, len: query.len() }
}
