//! A worker's part in asking upstreams: its sockets for them. What is asked, and what comes of it, is in
//! `resolver::forwarder`.
//!
//! Runs on the workers. Nothing of it is there without upstreams.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::{Registry, Token};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

use crate::answer::metrics::{Counters, Event};
use crate::answer::types::UpstreamQuery;
use crate::resolver::Resolver;
use crate::resolver::forwarder::{Arrival, Arrivals, Completed, Forwarder};
use crate::resolver::in_flight::STREAM;
use crate::resolver::query::MAX_QUERY_LEN;
use crate::resolver::routes::Routes;
use crate::sys::mmsg::{Addressing, BATCH_LEN, Batch, ReturnAddress, Wait};
use crate::transport::client::DeferredQuery;
use crate::upstream::sockets::{SLOTS, Sockets};
use crate::upstream::streams::{PER_SERVER, Streams, TellFault};
use crate::upstream::tls::TlsClient;
use crate::wire::header;
use crate::wire::name::HashSeed;

/// Tokens of the sockets begin here, and those of the streams; what is below is of the clients' side.
const SOCKETS: usize = 1 << 24;
const STREAMS: usize = 1 << 28;

const _: () = assert!(SLOTS < STREAM as usize && SOCKETS + u16::MAX as usize * SLOTS < STREAMS);
const _: () = assert!(u16::MAX as usize * PER_SERVER < STREAMS);

/// Queries sent to upstreams before clients get their turn.
const QUERIES_PER_TURN: usize = crate::limits::QUERIES_PER_TURN;

/// What a worker that forwards is given.
pub struct UpstreamSetup {
    /// The number of the worker.
    pub worker: usize,
    /// Letters of names are sent in upper or lower case by chance, and have to come back so.
    pub mix_case: bool,
    /// For upstreams that are asked over TLS.
    pub tls: Option<TlsClient>,
    /// What names are hashed with.
    pub seed: HashSeed,
    /// When the clock of the cache began.
    pub epoch: Instant,
    /// Who is told why a connection to an upstream has failed.
    pub tell_fault: TellFault,
}

/// Questions to upstreams, and answers, of one worker.
pub(crate) struct Forwarding {
    forwarder: Forwarder<DeferredQuery>,
    links: Links,
    outgoing: Batch,
    tls: Option<TlsClient>,
    epoch: Instant,
    now: Instant,
    secret: StdRng,
}

impl Forwarding {
    pub(crate) fn new(setup: UpstreamSetup) -> Self {
        let UpstreamSetup { worker, mix_case, tls, seed, epoch, tell_fault } = setup;
        Self {
            forwarder: Forwarder::new(worker, mix_case, secret(), seed),
            links: Links::new(worker, tell_fault),
            outgoing: Batch::new(Addressing::Connected),
            tls,
            epoch,
            now: Instant::now(),
            secret: secret(),
        }
    }

    /// Whether `token` is of one of its sockets or streams.
    pub(crate) fn has(token: Token) -> bool {
        (SOCKETS..STREAMS << 1).contains(&token.0)
    }

    /// Notes that the poll has reported one of them.
    #[allow(clippy::cast_possible_truncation)] // of a server's number and a slot's, as they were when it was registered
    pub(crate) fn ready(&mut self, token: Token) {
        match token.0.checked_sub(STREAMS) {
            Some(place) => self.links.streams.ready((place / PER_SERVER) as u16, (place % PER_SERVER) as u8),
            None => {
                let place = token.0 - SOCKETS;
                self.links.ready.push_back(((place / SLOTS) as u16, (place % SLOTS) as u8));
            }
        }
    }

    /// Begins a turn: the time that holds for all of it, and the ports. Returns the time on the cache's clock.
    pub(crate) fn begin_turn(&mut self, resolver: &mut Resolver) -> u32 {
        self.now = Instant::now();
        if let Some(routes) = self.forwarder.begin_turn(resolver, self.now) {
            self.links.change_to(routes, self.now);
        }
        for sockets in &mut self.links.sockets {
            sockets.choose(self.now, &mut self.secret);
        }
        let since = self.now.saturating_duration_since(self.epoch);
        u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
    }

    /// Questions that upstreams have been asked, and queries that wait for the answers.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        self.forwarder.in_flight()
    }

    /// Whether there is something to do at once.
    pub(crate) fn is_busy(&self) -> bool {
        self.links.is_busy() || self.forwarder.is_busy()
    }

    /// How long the worker may sleep.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let deadline = self.forwarder.deadline().into_iter().chain(self.links.streams.deadline()).min()?;
        // Rounded up to the poll's milliseconds, or it would look in vain until the moment has come.
        Some(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    /// Has `query` wait for what upstreams say.
    pub(crate) fn ask(&mut self, upstream_query: &UpstreamQuery, query: DeferredQuery, counters: &Counters) {
        counters.count(Event::UpstreamQuery);
        self.forwarder.note_client(query.client.ip());
        let UpstreamQuery { group, passed_by, .. } = upstream_query;
        if self.forwarder.ask(&upstream_query.question(), *group, passed_by, query, self.now) {
            counters.count(Event::Coalesced);
        }
    }

    /// Asks once more for popular answers that expire soon.
    pub(crate) fn refresh(&mut self, resolver: &mut Resolver, counters: &Counters) {
        (0..self.forwarder.refresh(resolver, self.now)).for_each(|_| counters.count(Event::Prefetched));
    }

    /// The next question that something has come of. It is told before the next is looked for.
    pub(crate) fn next_done(&mut self, resolver: &mut Resolver) -> Option<Completed<DeferredQuery>> {
        self.forwarder.next_done(resolver, &mut self.links, self.now)
    }

    /// Those who have waited for a question that there is no time to say anything of.
    pub(crate) fn next_dropped(&mut self) -> Option<impl IntoIterator<Item = DeferredQuery>> {
        self.forwarder.next_dropped()
    }

    /// Gives up all questions, since the server stops: what comes of each, [`next_given_up`](Self::next_given_up) says.
    pub(crate) fn give_up_all(&mut self) {
        self.forwarder.give_up_all();
    }

    /// The next question that something has come of without anything that arrives. It is told before the next is looked
    /// for.
    pub(crate) fn next_given_up(&mut self) -> Option<Completed<DeferredQuery>> {
        self.forwarder.next_given_up()
    }

    /// Whether upstreams may have said something that was not looked at.
    pub(crate) fn has_arrivals(&self) -> bool {
        self.links.is_busy()
    }

    /// Sends the questions that are to be sent, as far as this turn goes: those for one server together.
    pub(crate) fn flush(&mut self, registry: &Registry) {
        while let Some(server) = self.forwarder.next_renewal() {
            if let Some(sockets) = self.links.sockets.get_mut(usize::from(server)) {
                sockets.renew(self.now);
            }
        }
        while let Some((server, slot)) = self.forwarder.next_closing() {
            self.links.streams.close(server, slot);
        }
        let mut staged_for = 0;
        for _ in 0..QUERIES_PER_TURN {
            let Some(server) = self.forwarder.next_server() else { break };
            if self.outgoing.staged() == BATCH_LEN || server != staged_for {
                self.send(staged_for, registry);
                staged_for = server;
            }
            let Self { forwarder, links, outgoing, tls, now, .. } = self;
            let slot = links.sockets.get(usize::from(server)).map_or(0, Sockets::chosen);
            let Some(query) = forwarder.next_to_send(slot, *now) else { continue };
            let place = query.place();
            if place.is_stream() {
                let mut message = [0; MAX_QUERY_LEN];
                let len = query.write(&mut message);
                let token =
                    Token(STREAMS + usize::from(server) * PER_SERVER + usize::from(place.slot - STREAM));
                let at = (server, place.slot);
                links.streams.send(at, &message[..len], (registry, token), tls.as_ref(), *now);
            } else if let Some(buffer) = outgoing.compose() {
                let len = query.write(buffer);
                outgoing.stage_to(len, &ReturnAddress::connected());
            }
        }
        self.send(staged_for, registry);
    }

    /// Sends what is staged for `server`. What the kernel does not take is lost, as on any network.
    #[allow(clippy::cast_possible_truncation)] // a slot's number
    fn send(&mut self, server: u16, registry: &Registry) {
        let Self { links, outgoing, forwarder, now, .. } = self;
        let sockets = links.sockets.get_mut(usize::from(server));
        let Some(sockets) = sockets.filter(|_| outgoing.staged() > 0) else {
            return outgoing.clear();
        };
        let slot = usize::from(sockets.chosen());
        let token = Token(SOCKETS + usize::from(server) * SLOTS + slot);
        let (mut next, mut is_new, mut is_refused) = (0, false, false);
        while next < outgoing.staged() {
            let sent =
                sockets.open(registry, token).and_then(|socket| outgoing.send_from(socket.as_fd(), next));
            let Err(error) = sent.map(|sent| next += sent) else { continue };
            match error.kind() {
                ErrorKind::Interrupted => {}
                // As if it were lost.
                ErrorKind::WouldBlock => next += 1,
                // That is said of what was sent before, if it was by this socket.
                ErrorKind::ConnectionRefused => {
                    if is_refused {
                        next += 1;
                    } else {
                        forwarder.server_refuses(server, slot as u8, *now);
                    }
                    is_refused = true;
                }
                // Our own kernel: the address is gone that the socket sends from, or the way. Another may have a way.
                _ if !is_new => {
                    sockets.close();
                    is_new = true;
                }
                _ => {
                    sockets.close();
                    forwarder.cannot_send(server, slot as u8, *now);
                    break;
                }
            }
        }
        outgoing.clear();
    }
}

/// Random numbers that nobody can guess, seeded by the kernel.
fn secret() -> StdRng {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the kernel gives random numbers");
    StdRng::from_seed(seed)
}

/// The sockets and streams to all upstreams, and what has come by them.
struct Links {
    /// The number of the worker.
    worker: usize,
    tell_fault: TellFault,
    sockets: Vec<Sockets>,
    streams: Streams,
    /// Sockets that may have something, as server and slot.
    ready: VecDeque<(u16, u8)>,
    incoming: Batch,
    /// Datagrams of the last receive that have not been looked at, and where they came in.
    unread: Range<usize>,
    reading: (u16, u8),
    /// The message that came over a stream last.
    message: Box<[u8]>,
}

impl Arrivals for Links {
    fn next(&mut self, now: Instant) -> Option<Arrival<'_>> {
        loop {
            if let Some(i) = self.unread.next() {
                let (server, slot) = self.reading;
                let datagram = self.incoming.datagram(i);
                // It may be an answer that lost its end here, and not there.
                if datagram.truncated {
                    datagram.buffer[2] |= header::TC;
                }
                return Some(Arrival::Message { server, slot, bytes: &datagram.buffer[..datagram.len] });
            }
            match self.receive() {
                Received::Something => {}
                Received::Refused(server, slot) => return Some(Arrival::Refused { server, slot }),
                Received::Unreachable(server, slot) => return Some(Arrival::Unreachable { server, slot }),
                Received::Nothing => break,
            }
        }
        if let Some((server, slot, message)) = self.streams.next_message(now) {
            self.message = message;
            return Some(Arrival::Message { server, slot, bytes: &self.message });
        }
        let (server, slot, end) = self.streams.next_broken()?;
        Some(Arrival::StreamBroken { server, slot, end })
    }
}

/// What a receive has brought.
enum Received {
    /// Datagrams, or a socket less to look at.
    Something,
    /// A server's host says to the socket in a slot that nobody is there.
    Refused(u16, u8),
    /// Something on the way says that a server is not reached by the socket in a slot.
    Unreachable(u16, u8),
    /// There is nothing.
    Nothing,
}

impl Links {
    /// None yet.
    fn new(worker: usize, tell_fault: TellFault) -> Self {
        Self {
            worker,
            streams: Streams::new(std::iter::empty(), Arc::clone(&tell_fault)),
            tell_fault,
            sockets: Vec::new(),
            ready: VecDeque::new(),
            incoming: Batch::new(Addressing::Connected),
            unread: 0..0,
            reading: (0, 0),
            message: Box::default(),
        }
    }

    /// Begins anew with other servers.
    fn change_to(&mut self, routes: &Routes, now: Instant) {
        let servers = || routes.servers.iter();
        self.sockets = servers().map(|it| Sockets::new(it.upstream.address, now)).collect();
        let with_meters = servers().map(|it| (it.upstream.clone(), it.meter(self.worker)));
        self.streams = Streams::new(with_meters, Arc::clone(&self.tell_fault));
        self.ready.clear();
        self.unread = 0..0;
    }

    fn is_busy(&self) -> bool {
        !self.ready.is_empty() || !self.unread.is_empty() || self.streams.is_busy()
    }

    /// Receives from a socket that has something.
    fn receive(&mut self) -> Received {
        let Some((server, slot)) = self.ready.front().copied() else {
            return Received::Nothing;
        };
        let Some(socket) = self.sockets.get(usize::from(server)).and_then(|it| it.get(slot)) else {
            // It has got a new port since.
            self.ready.pop_front();
            return Received::Something;
        };
        self.reading = (server, slot);
        match self.incoming.receive(socket.as_fd(), Wait::Never) {
            Ok(received) => {
                self.unread = 0..received;
                if received < BATCH_LEN {
                    self.ready.pop_front();
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => drop(self.ready.pop_front()),
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                return Received::Refused(server, slot);
            }
            Err(_) => return Received::Unreachable(server, slot),
        }
        Received::Something
    }
}
