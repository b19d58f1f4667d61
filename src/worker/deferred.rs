//! Queries that cannot be answered at once: who takes them, and how they are answered later.
//!
//! Runs on the workers.

use std::net::IpAddr;

use crate::answer::answerer::Answerer;
use crate::answer::metrics::{Counters, Event};
use crate::answer::types::{Origin, Verdict};
use crate::sys::mmsg::BATCH_LEN;
use crate::table::Table;
use crate::transport::client::{Client, Waiter};
use crate::transport::tcp::{Tcp, TcpClient};
use crate::transport::udp;
use crate::transport::udp::Watched;
use crate::upstream::forwarding::Forwarding;
use crate::upstream::peers::Asking;
use crate::wire::response::Transport;
use crate::worker::offload::Handing;

/// A query that nobody takes: it is to be answered SERVFAIL. Why, is counted.
pub(crate) struct NotTaken;

/// Those who take what a worker cannot answer at once.
pub(crate) struct Takers<'a> {
    /// Who asks the other nodes, in the designs that do.
    pub(crate) asking: Option<&'a mut Asking>,
    /// Who asks upstreams, if there are any.
    pub(crate) forwarding: Option<&'a mut Forwarding>,
    /// The thread for updates and what is signed, if there is one.
    pub(crate) handing: Option<&'a mut Handing>,
}

impl Takers<'_> {
    /// Has the one that the `verdict` is for take a query.
    ///
    /// # Errors
    /// [`NotTaken`]. Each kind of verdict has its taker, who is gone only when the worker stops.
    pub(crate) fn take(
        &mut self,
        verdict: Verdict,
        answerer: &Answerer,
        query: &[u8],
        client: Client,
        counters: &Counters,
    ) -> Result<(), NotTaken> {
        let wait = |client| Waiter { query: query.into(), client };
        let (taken, full) = match verdict {
            Verdict::Reply { .. } | Verdict::Drop => return Ok(()),
            Verdict::HandOver => {
                let hand_over = |handing: &mut &mut Handing| {
                    handing.hand_over(query, client.ip(), client.transport(), client)
                };
                (self.handing.as_mut().map(hand_over), Event::OffloadFull)
            }
            Verdict::Ask => {
                let ask = |asking: &mut &mut Asking| asking.ask(answerer.name(), wait(client), counters);
                (self.asking.as_mut().map(ask), Event::PeerQueriesFull)
            }
            Verdict::Forward => {
                // It takes all: what is too much it answers itself.
                let ask = |forwarding: &mut &mut Forwarding| {
                    forwarding.ask(answerer.wanted(), wait(client), counters);
                    true
                };
                (self.forwarding.as_mut().map(ask), Event::ForwardFailed)
            }
        };
        match taken {
            Some(true) if verdict == Verdict::HandOver => counters.count(Event::HandedOver),
            Some(true) => {}
            Some(false) => counters.count(full),
            None => counters.count(Event::Stopping),
        }
        if taken == Some(true) { Ok(()) } else { Err(NotTaken) }
    }
}

/// Answers a message that came over TCP, or has it wait.
pub(crate) fn answer_tcp(
    answerer: &mut Answerer,
    takers: &mut Takers<'_>,
    table: &Table,
    (message, len): (&mut [u8], usize),
    client: TcpClient,
    now_s: u32,
    counters: &Counters,
) -> Verdict {
    let origin = Origin { transport: Transport::Tcp, client: client.ip, now_s, waited: false };
    let verdict = answerer.answer(table, message, len, origin, |event| counters.count(event));
    match takers.take(verdict, answerer, &message[..len], Client::Tcp(client), counters) {
        Ok(()) => verdict,
        Err(_) => Verdict::Reply { len: answerer.fail(message, len) },
    }
}

/// Answers the queries that have waited, over UDP into their sockets' batches.
pub(crate) fn resume(
    waiters: impl IntoIterator<Item = Waiter>,
    sockets: &mut [Watched],
    tcp: &mut Tcp,
    answerer: &mut Answerer,
    table: &Table,
    now_s: u32,
    counters: &Counters,
) {
    complete(waiters, sockets, tcp, counters, |buffer, len, transport, client| {
        let origin = Origin { transport, client, now_s, waited: true };
        // What is found only now is no hit.
        let count = |event| counters.count(if event == Event::Cached { Event::Fetched } else { event });
        match answerer.answer(table, buffer, len, origin, count) {
            Verdict::Reply { len } => Some(len),
            Verdict::Drop => None,
            // It is known by now; only a name that the table has got and lost meanwhile is not.
            Verdict::Ask | Verdict::Forward | Verdict::HandOver => {
                counters.count(Event::ChangedMeanwhile);
                Some(answerer.fail(buffer, len))
            }
        }
    });
}

/// Answers queries that have waited, and shall not any longer, SERVFAIL: the server stops.
pub(crate) fn give_up(
    waiters: impl IntoIterator<Item = Waiter>,
    sockets: &mut [Watched],
    tcp: &mut Tcp,
    answerer: &Answerer,
    counters: &Counters,
) {
    complete(waiters, sockets, tcp, counters, |buffer, len, _, _| {
        counters.count(Event::Stopping);
        Some(answerer.fail(buffer, len))
    });
}

/// Has `answer` turn each query that has waited, in the first bytes of a buffer, into its response.
fn complete(
    waiters: impl IntoIterator<Item = Waiter>,
    sockets: &mut [Watched],
    tcp: &mut Tcp,
    counters: &Counters,
    mut answer: impl FnMut(&mut [u8], usize, Transport, IpAddr) -> Option<usize>,
) {
    for Waiter { query, client } in waiters {
        let mut answer = |buffer: &mut [u8], transport, client| {
            buffer[..query.len()].copy_from_slice(&query);
            answer(buffer, query.len(), transport, client)
        };
        match client {
            Client::Udp { socket, ip, to } => {
                let Watched { socket, batch, .. } = &mut sockets[socket];
                let Some(buffer) = batch.compose() else { continue };
                if let Some(len) = answer(buffer, Transport::Udp, ip) {
                    batch.stage_to(len, &to);
                }
                if batch.staged() == BATCH_LEN {
                    udp::send(socket, batch, counters);
                    batch.clear();
                }
            }
            Client::Tcp(client) => {
                tcp.deliver_with(client, |buffer| answer(buffer, Transport::Tcp, client.ip));
            }
        }
    }
}

/// Drops queries that have waited, without an answer.
pub(crate) fn drop_queries(waiters: impl IntoIterator<Item = Waiter>, tcp: &mut Tcp, counters: &Counters) {
    for Waiter { client, .. } in waiters {
        counters.count(Event::ForwardDropped);
        if let Client::Tcp(client) = client {
            tcp.deliver(client, None);
        }
    }
}
