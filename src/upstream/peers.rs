//! A worker's part in the designs that ask: its questions to the other nodes, the queries that wait for answers, and,
//! on one of the workers, the answers to what the others ask.
//!
//! Sockets are bound on the main thread before the workers start; the rest runs on the workers. Nothing of it is there
//! in the `gossip` design.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::answer::access::Access;
use crate::answer::metrics::{Counters, Event};
use crate::query_time::cache::Cache;
use crate::query_time::in_flight::{Answered, Asked, InFlight};
use crate::query_time::message::{answer_question, write_question};
use crate::query_time::{self, PeerAnswer, PeerTargets};
use crate::sys::mmsg::{Addressing, BATCH_LEN, Batch, ReturnAddress, Wait};
use crate::table::Table;
use crate::transport::client::DeferredQuery;
use crate::wire::name::QueryName;

/// The tokens of the two sockets.
pub(crate) const ANSWERS: Token = Token(usize::MAX - 1);
pub(crate) const QUESTIONS: Token = Token(usize::MAX - 2);

/// Batches taken from one of the sockets before clients get their turn.
const BATCHES_PER_TURN: usize = 4;

/// Names that are asked for once more in one turn, so that many that expire together hold nobody up.
const REFRESHES_PER_TURN: usize = 64;

/// What a worker of a design that asks is given.
pub struct PeerSetup {
    /// How it asks.
    pub settings: query_time::PeerQuerySettings,
    /// Where its questions leave from and answers come in.
    pub answers: UdpSocket,
    /// Where the questions of others come in, if this worker is the one that answers them.
    pub questions: Option<UdpSocket>,
    /// Where its questions go.
    pub targets: Vec<std::net::SocketAddr>,
    /// What all workers share.
    pub cache: Option<Arc<Cache>>,
    /// When the clock of the cache began.
    pub epoch: Instant,
    /// Who may ask, of those that can reach this node.
    pub access: Access,
}

impl PeerSetup {
    /// Whether a node at `ip` may ask this one. Answers are longer than questions, whose sender may be forged.
    fn allows(&self, ip: IpAddr) -> bool {
        match &self.settings.targets {
            PeerTargets::Multicast { .. } => self.access.allows(ip),
            PeerTargets::Peers { peers, .. } => peers.iter().any(|peer| peer.ip() == ip),
        }
    }
}

/// Questions and answers of one worker.
pub(crate) struct PeerQueries {
    setup: PeerSetup,
    targets: Vec<ReturnAddress>,
    in_flight: InFlight<DeferredQuery>,
    /// Questions that are about to be sent.
    outgoing: Batch,
    incoming: Batch,
    /// Datagrams of the last receive that have not been looked at.
    unread: std::ops::Range<usize>,
    /// The sockets may have something.
    answers_ready: bool,
    questions_ready: bool,
    /// When names in the cache are to be asked for once more, if anybody still wants them.
    refreshes: BinaryHeap<Reverse<(u64, Box<[u8]>)>>,
    now: Instant,
    name: QueryName,
}

impl PeerQueries {
    /// Registers the sockets of `setup`.
    pub(crate) fn register(setup: &PeerSetup, registry: &Registry) -> std::io::Result<()> {
        registry.register(&mut SourceFd(&setup.answers.as_raw_fd()), ANSWERS, Interest::READABLE)?;
        match &setup.questions {
            Some(socket) => {
                registry.register(&mut SourceFd(&socket.as_raw_fd()), QUESTIONS, Interest::READABLE)
            }
            None => Ok(()),
        }
    }

    pub(crate) fn new(setup: PeerSetup) -> Self {
        Self {
            targets: setup.targets.iter().copied().map(ReturnAddress::to).collect(),
            in_flight: InFlight::new(
                setup.settings.window,
                setup.settings.negative_ttl_s,
                setup.cache.is_some(),
            ),
            outgoing: Batch::new(Addressing::PerDatagram),
            incoming: Batch::new(Addressing::PerDatagram),
            unread: 0..0,
            answers_ready: false,
            questions_ready: false,
            refreshes: BinaryHeap::new(),
            now: Instant::now(),
            name: QueryName::default(),
            setup,
        }
    }

    /// Whether `token` is that of one of the sockets.
    pub(crate) fn has(token: Token) -> bool {
        matches!(token, ANSWERS | QUESTIONS)
    }

    /// Notes that the poll has reported one of the sockets.
    pub(crate) fn ready(&mut self, token: Token) {
        match token {
            ANSWERS => self.answers_ready = true,
            _ => self.questions_ready = true,
        }
    }

    /// Begins a turn: the time that holds for all of it. Returns it on the cache's clock.
    pub(crate) fn begin_turn(&mut self) -> u64 {
        self.now = Instant::now();
        self.now_ms()
    }

    fn now_ms(&self) -> u64 {
        self.now.saturating_duration_since(self.setup.epoch).as_millis().try_into().unwrap_or(u64::MAX)
    }

    /// Whether there is something to do at once.
    pub(crate) fn is_busy(&self) -> bool {
        self.answers_ready || self.questions_ready || !self.unread.is_empty()
    }

    /// How long the worker may sleep.
    pub(crate) fn timeout(&self) -> Option<Duration> {
        let refresh =
            self.refreshes.peek().map(|Reverse((at_ms, _))| self.setup.epoch + Duration::from_millis(*at_ms));
        let deadline = self.in_flight.deadline().into_iter().chain(refresh).min()?;
        // Rounded up to the poll's milliseconds, or it would look in vain until the moment has come.
        Some(deadline.saturating_duration_since(Instant::now()) + Duration::from_millis(1))
    }

    /// Has `waiter` wait for what the other nodes say of `name`. Returns whether it may.
    pub(crate) fn ask(&mut self, name: &[u8], query: DeferredQuery, counters: &Counters) -> bool {
        match self.in_flight.ask(name, Some(query), self.setup.settings.collect, self.now) {
            Asked::New(id) => self.send_question(id, name, counters),
            Asked::Joined => {}
            Asked::Full => return false,
        }
        counters.count(Event::PeerQuery);
        true
    }

    fn send_question(&mut self, id: u16, name: &[u8], counters: &Counters) {
        for i in 0..self.targets.len() {
            if self.outgoing.staged() == BATCH_LEN {
                self.flush(counters);
            }
            let Some(buffer) = self.outgoing.compose() else { return };
            let len = write_question(id, name, buffer);
            self.outgoing.stage_to(len, &self.targets[i]);
            counters.add(Event::PeerBytesOut, len as u64);
        }
    }

    /// Sends the questions. One that the kernel does not take is lost, as on any network: its window ends without
    /// answers.
    pub(crate) fn flush(&mut self, counters: &Counters) {
        if self.outgoing.staged() > 0 {
            crate::transport::send(&self.setup.answers, &mut self.outgoing, counters);
            counters.add(Event::PeerDatagramsOut, self.outgoing.staged() as u64);
            self.outgoing.clear();
        }
    }

    /// Answers what other nodes ask, of the names in `table`.
    pub(crate) fn answer_others(&mut self, table: &Table, counters: &Counters) {
        let Self { setup, incoming, unread, name, questions_ready, .. } = self;
        let Some(socket) = &setup.questions else { return };
        for _ in 0..BATCHES_PER_TURN {
            if !*questions_ready || unread.start < unread.end {
                return;
            }
            let received = receive(socket, incoming, questions_ready, counters);
            for i in 0..received {
                let allowed =
                    incoming.peer(i).is_some_and(|peer| peer.port() != 0 && setup.allows(peer.ip()));
                let datagram = incoming.datagram(i);
                if datagram.truncated || !allowed {
                    continue;
                }
                if let Some(len) = answer_question(table, name, datagram.buffer, datagram.len) {
                    incoming.stage(i, len);
                    counters.count(Event::PeerDatagramsOut);
                    counters.add(Event::PeerBytesOut, len as u64);
                }
            }
            crate::transport::send(socket, incoming, counters);
        }
    }

    /// The next name that there is something new to know of: another node has answered, or the window has ended.
    pub(crate) fn next_answer(&mut self, counters: &Counters) -> Option<Answered<DeferredQuery>> {
        for _ in 0..BATCHES_PER_TURN {
            for i in self.unread.by_ref() {
                let datagram = self.incoming.datagram(i);
                let message = &datagram.buffer[..datagram.len];
                if let Some(answered) = self.in_flight.receive(message) {
                    self.keep(&answered.name, &answered.answer, answered.complete);
                    return Some(answered);
                }
            }
            if !self.answers_ready {
                break;
            }
            let Self { setup, incoming, answers_ready, .. } = self;
            self.unread = 0..receive(&setup.answers, incoming, answers_ready, counters);
        }
        let ended = self.in_flight.expire(self.now)?;
        self.keep(&ended.name, &ended.answer, true);
        Some(ended)
    }

    /// All names that are being asked for, each with what is known of it so far.
    pub(crate) fn take_all(&mut self) -> impl Iterator<Item = Answered<DeferredQuery>> {
        self.in_flight.take_all()
    }

    /// Puts what is known into the cache, if there is one, and sees to it that it is asked for again before it expires.
    fn keep(&mut self, name: &[u8], answer: &PeerAnswer, complete: bool) {
        let now_ms = self.now_ms();
        let Some(cache) = &self.setup.cache else { return };
        cache.insert(name, answer.clone(), now_ms);
        let window_ms = u64::try_from(self.setup.settings.window.as_millis()).unwrap_or(u64::MAX);
        // In time for the answers of all to be there when it expires. What is to be kept for less is not worth it.
        let lead_ms = 2 * window_ms;
        let ttl_ms = u64::from(answer.ttl_s()) * 1_000;
        if complete && ttl_ms > 2 * lead_ms {
            self.refreshes.push(Reverse((now_ms + ttl_ms - lead_ms, name.into())));
        }
    }

    /// Asks once more for the names that are about to expire and still wanted: all of them at once, unlike weaveDNS
    /// 1.0, which asked for one after the other and could so keep two names a second.
    pub(crate) fn refresh(&mut self, counters: &Counters) {
        let now_ms = self.now_ms();
        let Some(cache) = self.setup.cache.clone() else { return };
        for _ in 0..REFRESHES_PER_TURN {
            if self.refreshes.peek().is_none_or(|Reverse((at_ms, _))| *at_ms > now_ms) {
                return;
            }
            let Some(Reverse((_, name))) = self.refreshes.pop() else { return };
            if cache.is_wanted(&name, now_ms)
                && let Asked::New(id) = self.in_flight.ask(&name, None, true, self.now)
            {
                self.send_question(id, &name, counters);
            }
        }
    }
}

/// Receives a batch; `ready` becomes false when the socket was seen empty.
fn receive(socket: &UdpSocket, batch: &mut Batch, ready: &mut bool, counters: &Counters) -> usize {
    match batch.receive(socket.as_fd(), Wait::Never) {
        Ok(received) => {
            *ready = received == BATCH_LEN;
            counters.add(Event::PeerDatagramsIn, received as u64);
            let bytes: usize = (0..received).map(|i| batch.datagram(i).len).sum();
            counters.add(Event::PeerBytesIn, bytes as u64);
            received
        }
        Err(error) => {
            // An error that another node's host has reported is that of one datagram: there may be more.
            *ready = !matches!(error.kind(), ErrorKind::WouldBlock);
            if *ready {
                counters.count(Event::ReceiveFailed);
            }
            0
        }
    }
}
