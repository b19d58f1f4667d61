//! The cluster over real sockets, with a real clock.
//!
//! Runs on the thread `cluster`, whose event loop it is told by. Without an address to gossip at there are no sockets,
//! and the node is a cluster of itself.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use mio::Registry;
use mio::event::Event;

use super::engine::{Engine, News};
use super::key_ring::KeyRing;
use super::transport::{GossipSockets, Traffic};

/// How often a node that gossips with nobody looks whether something is to be forgotten.
const ALONE_PERIOD: Duration = Duration::from_secs(60);

/// An engine with its sockets and its clock.
pub struct Driver {
    engine: Engine,
    transport: Option<GossipSockets>,
    registry: Registry,
    begin: Instant,
}

impl Driver {
    /// The node `engine`, which gossips over `transport` if there is one; the event loop is `registry`'s.
    ///
    /// # Errors
    /// Those of the event loop.
    pub fn new(engine: Engine, transport: Option<GossipSockets>, registry: &Registry) -> io::Result<Self> {
        Ok(Self { engine, transport, registry: registry.try_clone()?, begin: Instant::now() })
    }

    /// What the node knows.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The same, to be changed; [`advance`](Self::advance) then sends it out.
    pub fn engine_mut(&mut self) -> &mut Engine {
        &mut self.engine
    }

    /// Where it gossips.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.transport.as_ref().map(GossipSockets::address)
    }

    /// What has come and gone.
    #[must_use]
    pub fn traffic(&self) -> Option<&Traffic> {
        self.transport.as_ref().map(GossipSockets::traffic)
    }

    /// Other keys from now on.
    pub fn set_ring(&mut self, ring: Option<KeyRing>) {
        if let Some(transport) = &mut self.transport {
            transport.set_ring(ring);
        }
    }

    /// The node's own time, which begins with it.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    /// When that time began.
    #[must_use]
    pub fn begin(&self) -> Instant {
        self.begin
    }

    /// How long the event loop may wait.
    #[must_use]
    pub fn timeout(&self) -> Duration {
        let Some(transport) = &self.transport else {
            // Nobody is to be told anything: only what is postponed is to be done.
            let next = self.engine.next_sweep().map(|at| at.saturating_sub(self.now()));
            return next.unwrap_or(ALONE_PERIOD).min(ALONE_PERIOD);
        };
        if transport.is_busy() {
            return Duration::ZERO;
        }
        let next = transport.next_time().into_iter().fold(self.engine.next_time(), Duration::min);
        next.saturating_sub(self.now())
    }

    /// Bytes that wait to be sent and of the streams' buffers.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.engine.buffered() + self.transport.as_ref().map_or(0, GossipSockets::buffered)
    }

    /// Takes note of what the event loop tells.
    pub fn note(&mut self, event: &Event) {
        let now = self.now();
        if let Some(transport) = &mut self.transport {
            transport.note(now, event, &self.registry);
        }
    }

    /// Takes what has come, does what is due, and sends what is to be sent, our own new changes among it.
    pub fn advance(&mut self) -> Vec<News> {
        let now = self.now();
        if let Some(transport) = &mut self.transport {
            transport.work(now, &self.registry, &mut self.engine);
        }
        self.engine.handle_time(now);
        self.send();
        self.engine.take_news()
    }

    fn send(&mut self) {
        let now = self.now();
        match &mut self.transport {
            Some(transport) => drop(transport.send_all(now, &self.registry, &mut self.engine)),
            None => while self.engine.poll().is_some() {},
        }
    }

    /// Tells the others that this node goes for good.
    pub fn leave(&mut self) {
        if self.transport.is_none() || self.engine.membership().members().len() == 0 {
            return;
        }
        let now = self.now();
        self.engine.leave(now);
        self.send();
    }
}
