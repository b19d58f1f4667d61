//! I/O with clients: each transport a file or folder of its own, all behind one seam.
//!
//! `listen` binds the sockets. `udp` and `tcp` receive messages on a worker's thread, have each answered in place
//! by what is behind the [`responder`], and send the responses; a `client` is what a deferred query needs to find its
//! way back. [`connection`] is one stream of queries, without I/O of its own. `ARCHITECTURE.md` lists what a new
//! transport provides.

pub(crate) mod client;
pub mod connection;
mod listen;
pub mod responder;
mod tcp;
mod udp;

use std::io;
use std::time::{Duration, Instant};

pub use listen::{Inherited, ListenError, Listeners, adopt, bind, steer};
use mio::Registry;
use mio::event::Event as Readiness;
pub use udp::BusyPoll;
pub(crate) use udp::send;

use self::client::Client;
use self::responder::{ClientTransport, Responder};
use self::tcp::Tcp;
use self::udp::Udp;
use crate::answer::metrics::Counters;

/// A worker's listeners, registered with its poll.
pub(crate) struct Registered {
    udp: Vec<std::net::UdpSocket>,
    tcp: Tcp,
    is_inherited: bool,
}

/// Has the poll report a worker's `listeners`.
///
/// # Errors
/// When the kernel has no memory for that.
pub(crate) fn register(listeners: Listeners, registry: &Registry) -> io::Result<Registered> {
    let Listeners { udp, tcp, is_inherited } = listeners;
    udp::register(&udp, registry)?;
    Ok(Registered { udp, tcp: Tcp::new(tcp, registry)?, is_inherited })
}

/// All transports of one worker. Each is a [`ClientTransport`], and what is more of it than that is here alone.
pub(crate) struct Transports {
    udp: Udp,
    tcp: Tcp,
    is_inherited: bool,
}

impl Transports {
    /// On the worker's own thread, with buffers of its own.
    pub(crate) fn new(registered: Registered, busy_poll: BusyPoll, registry: &Registry) -> Self {
        let Registered { udp, tcp, is_inherited } = registered;
        Self { udp: Udp::new(udp, busy_poll, registry), tcp, is_inherited }
    }

    /// Notes what the poll has reported.
    #[inline]
    pub(crate) fn ready(&mut self, event: &Readiness) {
        if !self.udp.ready(event.token()) {
            self.tcp.ready(event);
        }
    }

    /// Whether there is something to do at once.
    #[inline]
    pub(crate) fn is_busy(&self) -> bool {
        self.tcp.is_busy() || self.udp.is_busy()
    }

    /// Whether to look for datagrams again before the poll is asked.
    #[inline]
    pub(crate) fn looks_on(&self) -> bool {
        self.udp.looks_on()
    }

    /// How long the worker may sleep.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        self.tcp.timeout().into_iter().chain(self.udp.timeout()).min()
    }

    /// Answers datagrams: what comes without a connection, and most of all that comes.
    #[inline]
    pub(crate) fn look(&mut self, registry: &Registry, responder: &mut Responder<'_>) {
        self.udp.take_turn(registry, responder);
    }

    /// Gives all transports their turn.
    pub(crate) fn take_turn(&mut self, registry: &Registry, responder: &mut Responder<'_>) {
        self.udp.take_turn(registry, responder);
        self.tcp.take_turn(registry, responder);
    }

    /// Has responses to deferred queries [delivered](Self::deliver) from now on.
    pub(crate) fn begin_delivery(&mut self) {
        self.udp.begin_delivery();
    }

    /// Gives the response to a deferred query its way back: `answer` writes it to the front of a buffer, or there is
    /// none.
    pub(crate) fn deliver(
        &mut self,
        client: Client,
        answer: impl FnOnce(&mut [u8]) -> Option<usize>,
        counters: &Counters,
    ) {
        match client {
            Client::Udp { socket, to, .. } => self.udp.deliver((socket, to), answer, counters),
            Client::Tcp(client) => self.tcp.deliver(client, answer, counters),
            #[cfg(test)]
            Client::Memory(_) => {}
        }
    }

    /// Gives one of several messages that answer a query its way back. `None` if its client is gone, or can have one
    /// only; else whether it takes it now.
    pub(crate) fn takes(&self, client: &Client) -> Option<bool> {
        match client {
            Client::Tcp(client) => self.tcp.takes(*client),
            _ => None,
        }
    }

    /// Sends one of several messages that answer a query.
    pub(crate) fn deliver_part(&mut self, client: &Client, message: &[u8]) {
        if let Client::Tcp(client) = client {
            self.tcp.deliver_part(*client, message);
        }
    }

    /// Sends what was delivered.
    pub(crate) fn end_delivery(&mut self, counters: &Counters) {
        self.udp.end_delivery(counters);
    }

    /// Answers what has been received until a stop, and lets nothing more in.
    pub(crate) fn begin_stop(
        &mut self,
        registry: &Registry,
        responder: &mut Responder<'_>,
        deadline: Instant,
    ) {
        self.udp.serve_last(self.is_inherited, responder, deadline);
        self.tcp.begin_stop(self.is_inherited, registry, responder.counters);
    }

    /// Gives each connection that has something to do its turn. Those of which all is answered are closed.
    pub(crate) fn take_last_turn(&mut self, responder: &mut Responder<'_>) {
        self.tcp.take_last_turn(responder);
    }

    /// Whether all is answered, and the clients have taken it.
    pub(crate) fn has_ended(&self) -> bool {
        self.tcp.has_ended()
    }

    /// Queries over connections that are deferred.
    pub(crate) fn outstanding(&self) -> usize {
        self.tcp.outstanding()
    }
}
