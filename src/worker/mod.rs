//! One worker: a thread with its own sockets, event loop, view of the table and counters.
//!
//! Everything in this file but [`Worker::start`] and [`Handle`] runs on the worker's thread.

pub mod cache_commands;
mod deferred;
mod handle;
pub mod offload;
mod stop;

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;
pub use handle::{Handle, WorkerLink};
use mio::{Events, Poll, Token, Waker};
use rustix::thread::{CpuSet, sched_setaffinity};

use self::cache_commands::CacheCommand;
use self::deferred::{DeferredQueries, complete, drop_queries};
use self::offload::{Offload, OffloadedMessage};
use crate::answer::answerer::Answerer;
use crate::answer::metrics::Counters;
use crate::answer::types::Turn;
use crate::query_time::in_flight::Answered;
use crate::sys::mmsg::{ask_for_short_turns, set_fifo};
use crate::sys::published::Reader;
use crate::table::Table;
use crate::transport::responder::Responder;
use crate::transport::{self, BusyPoll, Listeners, Transports};
use crate::upstream::forwarding::{self, Forwarding};
use crate::upstream::peers::{self, PeerQueries};

/// The turns of a worker that shares its CPU: enough for some batches.
const LONGEST_TURN: Duration = Duration::from_micros(200);

/// Events taken from the poll at once; what does not fit comes with the next look.
const EVENTS_LEN: usize = 256;

/// The token of the waker; sockets have their indices.
const WAKE: Token = Token(usize::MAX);

/// How a worker waits, and where it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerSchedule {
    /// For how long after the last query it looks for the next one before it sleeps: to be woken takes longer than to
    /// look, and looking takes the whole CPU.
    pub busy_poll: BusyPoll,
    /// The only CPU that it runs on.
    pub cpu: Option<usize>,
    /// It goes before all ordinary threads, those of this process included.
    pub realtime: bool,
}

/// What a worker is started with.
#[derive(Default)]
pub struct WorkerSetup {
    /// The sockets that clients reach.
    pub listeners: Listeners,
    /// How it asks other nodes, in the designs that do at query time.
    pub peers: Option<peers::PeerSetup>,
    /// How it asks upstreams, if there are any.
    pub upstreams: Option<forwarding::UpstreamSetup>,
    /// Where updates and what is signed go, if anywhere.
    pub offload: Option<Sender<OffloadedMessage>>,
}

/// The state of a worker on its own thread.
pub struct Worker {
    poll: Poll,
    transports: Transports,
    deferred: DeferredQueries,
    cache_commands: Receiver<CacheCommand>,
    tables: Reader<Table>,
    answerer: Answerer,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts a worker that answers on the listeners of `setup` from `tables` by `answerer`.
    ///
    /// # Errors
    /// When the kernel has no event queue or thread to give.
    pub fn start(
        (index, schedule): (usize, WorkerSchedule),
        setup: WorkerSetup,
        tables: Reader<Table>,
        answerer: Answerer,
    ) -> io::Result<Handle> {
        let WorkerSetup { listeners, peers, upstreams, offload } = setup;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let registered = transport::register(listeners, poll.registry())?;
        peers.as_ref().map_or(Ok(()), |setup| PeerQueries::register(setup, poll.registry()))?;
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        // Of the standard library, since what waits in it goes with its receiver: so nobody waits for a worker that has
        // ended.
        let (commands_sender, cache_commands) = sync_channel(handle::MAX_CACHE_COMMANDS);
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn({
            let (counters, stop) = (Arc::clone(&counters), Arc::clone(&stop));
            let offload = offload.map(|sender| Offload::new(sender, Arc::clone(&waker)));
            move || {
                // Queries shall not wait until another thread, of this process or others, has ended a turn of
                // milliseconds. Where the kernel does not know that, they do; that it allows what is wanted was seen
                // before.
                let _ = if schedule.realtime { set_fifo() } else { ask_for_short_turns(LONGEST_TURN) };
                if let Some(cpu) = schedule.cpu {
                    pin(cpu);
                }
                let transports = Transports::new(registered, schedule.busy_poll, poll.registry());
                let (peers, upstreams) = (peers.map(PeerQueries::new), upstreams.map(Forwarding::new));
                let deferred = DeferredQueries { peers, upstreams, offload };
                Self { poll, transports, deferred, cache_commands, tables, answerer, counters, stop }.run();
            }
        })?;
        Ok(Handle { thread, waker, stop, counters, cache_commands: commands_sender })
    }

    /// The event loop.
    ///
    /// The poll is edge-triggered: a socket is reported once when something arrives, so the worker remembers which
    /// sockets it has not yet seen empty. While there are any it only glances at the poll.
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_LEN);
        while !self.stop.load(Ordering::Acquire) {
            if self.transports.looks_on() {
                self.look();
                continue;
            }
            self.wait(&mut events, if self.is_busy() { Some(Duration::ZERO) } else { self.timeout() });
            self.begin_turn();
            self.take_clients_turn();
            self.take_peers_turn();
            self.take_upstreams_turn();
            self.take_offload_turn();
        }
        self.finish(&mut events);
    }

    /// Waits until something is ready, for so long at most, and notes what.
    fn wait(&mut self, events: &mut Events, timeout: Option<Duration>) {
        match self.poll.poll(events, timeout) {
            Ok(()) => {}
            // Then nothing is ready; the loop comes round again.
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            // epoll_wait fails only for a bad descriptor or pointer: the program itself is broken.
            Err(error) => panic!("the worker's event queue failed: {error}"),
        }
        for event in events.iter().filter(|event| event.token() != WAKE) {
            if !self.deferred.ready(event.token()) {
                self.transports.ready(event);
            }
        }
    }

    /// Answers what has come in datagrams since the last look.
    fn look(&mut self) {
        let Self { poll, transports, deferred, tables, answerer, counters, .. } = self;
        let mut responder = responder(answerer, tables, counters, deferred);
        transports.look(poll.registry(), &mut responder);
    }

    /// Answers what clients have sent.
    fn take_clients_turn(&mut self) {
        let Self { poll, transports, deferred, tables, answerer, counters, .. } = self;
        let mut responder = responder(answerer, tables, counters, deferred);
        transports.take_turn(poll.registry(), &mut responder);
    }

    fn is_busy(&self) -> bool {
        self.transports.is_busy() || self.deferred.is_busy()
    }

    /// How long it may sleep.
    fn timeout(&self) -> Option<Duration> {
        self.transports.timeout().into_iter().chain(self.deferred.timeout()).min()
    }

    /// Sets the clocks of the caches, where there are any.
    fn begin_turn(&mut self) {
        let DeferredQueries { peers, upstreams, .. } = &mut self.deferred;
        if let (Some(upstreams), Some(resolver)) = (upstreams, self.answerer.resolver()) {
            let now_s = upstreams.begin_turn(resolver);
            resolver.set_time(now_s);
        }
        if let Some(peers) = peers {
            let now_ms = peers.begin_turn();
            if let Some(lookup) = self.answerer.peers() {
                lookup.set_time(now_ms);
            }
        }
    }

    /// Answers the other nodes, and the queries that they have answered; sends the questions of this turn.
    fn take_peers_turn(&mut self) {
        let Self { transports, deferred, tables, answerer, counters, .. } = self;
        let Some(peers) = &mut deferred.peers else { return };
        let turn = Turn { table: tables.load(), counters, now_s: unix_time_s() };
        peers.answer_others(turn.table, counters);
        transports.begin_delivery();
        while let Some(Answered { name, answer, deferred, .. }) = peers.next_answer(counters) {
            if deferred.is_empty() {
                continue;
            }
            if let Some(lookup) = answerer.peers() {
                lookup.set_answer(Some((name, answer)));
            }
            complete(deferred, transports, answerer, &turn);
        }
        if let Some(lookup) = answerer.peers() {
            lookup.set_answer(None);
        }
        transports.end_delivery(counters);
        peers.refresh(counters);
        peers.flush(counters);
    }

    /// Answers the queries that upstreams have answered, and sends the questions of this turn; does what other threads
    /// ask.
    fn take_upstreams_turn(&mut self) {
        let Self { poll, transports, deferred, cache_commands, tables, answerer, counters, .. } = self;
        let Some(upstreams) = &mut deferred.upstreams else { return };
        let turn = Turn { table: tables.load(), counters, now_s: unix_time_s() };
        transports.begin_delivery();
        while let Some(resolver) = answerer.resolver()
            && let Some(done) = upstreams.next_done(resolver)
        {
            let queries = done.tell(resolver);
            complete(queries, transports, answerer, &turn);
        }
        transports.end_delivery(counters);
        while let Some(queries) = upstreams.next_dropped() {
            drop_queries(queries, transports, counters);
        }
        if let Some(resolver) = answerer.resolver() {
            resolver.end_outcome();
            upstreams.refresh(resolver, counters);
            cache_commands::take_turn(cache_commands, resolver, upstreams);
        }
        upstreams.flush(poll.registry());
    }

    /// Sends what the zone thread has answered.
    fn take_offload_turn(&mut self) {
        if let Some(offload) = &mut self.deferred.offload {
            offload.take_turn(&mut self.transports, &self.counters);
        }
    }
}

/// What a worker answers with.
fn responder<'a>(
    answerer: &'a mut Answerer,
    tables: &'a mut Reader<Table>,
    counters: &'a Counters,
    deferred: &'a mut DeferredQueries,
) -> Responder<'a> {
    let beside_outcomes = deferred.upstreams.as_ref().is_some_and(Forwarding::is_busy);
    Responder { answerer, tables, counters, clock: &unix_time_s, deferrer: deferred, beside_outcomes }
}

/// Whether workers may go before all ordinary threads ([`WorkerSchedule::realtime`]).
///
/// # Errors
/// What the kernel says if not.
pub fn may_go_first() -> io::Result<()> {
    thread::Builder::new()
        .spawn(set_fifo)?
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a thread has ended")))
}

/// Seconds since 1970, in the 32 bits that cookies and the serials of zones have for it. Workers read it once a batch.
#[must_use]
#[allow(clippy::cast_possible_truncation)] // they wrap in 2106, as RFC 9018 knows and RFC 1982 allows
pub fn unix_time_s() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

/// Holds this thread to one CPU. The CPU was seen to be there; if it is not any more, the thread runs where it may.
fn pin(cpu: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    let _ = sched_setaffinity(None, &cpus);
}
