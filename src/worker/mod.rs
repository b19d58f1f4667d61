//! One worker: a thread with its own sockets, event loop, view of the table and counters.
//!
//! Everything in this file but [`Worker::start`] and [`Handle`] runs on the worker's thread.

pub mod cache_commands;
mod deferred;
mod handle;
pub mod offload;
mod stop;

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;
pub use handle::{Handle, Link};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::answer::answerer::Answerer;
use crate::upstream::peers::{self, Asking};

use self::cache_commands::Job;
use crate::answer::metrics::Counters;
use crate::query_time::in_flight::Answered;
use crate::sys::mmsg::{BATCH_LEN, Batch, ask_for_short_turns, set_fifo};
use crate::sys::published::Reader;
use crate::table::Table;
use crate::transport::Listeners;
use crate::transport::client::Client;
use crate::transport::tcp::Tcp;
use crate::transport::udp::{self, Served, Watch, Watched};
use crate::upstream::forwarding::{self, Forwarding};
use crate::worker::deferred::{Takers, answer_tcp, drop_queries, resume};
use crate::worker::offload::{HandedOver, Handing};

/// Batches taken from one socket before the others, and a request to stop, get their turn.
const BATCHES_PER_TURN: usize = crate::limits::BATCHES_PER_TURN;

/// The same where upstreams have answered, or are to be asked; fewer if these are for the most part answered at once.
const BATCHES_BESIDE_OUTCOMES: usize = crate::limits::BATCHES_BESIDE_OUTCOMES;

/// What came of a look at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The poll watches it, or does so from now on.
    None,
    /// There was something.
    Served,
    /// There was nothing, and nobody but the worker will look again.
    InVain,
}

/// When a worker that is told to look for queries all the time glances at the poll: once in so many looks that found
/// nothing. It delays connections and a request to stop by some ten microseconds.
const LOOKS_PER_GLANCE: u32 = crate::limits::LOOKS_PER_GLANCE;

/// The turns of a worker that shares its CPU: enough for some batches.
const LONGEST_TURN: Duration = Duration::from_micros(200);

/// One batch in so many is timed: two readings of the clock for each would cost what an answer does.
const BATCHES_PER_TIMING: u32 = 16;

/// Events taken from the poll at once; what does not fit comes with the next look.
const EVENTS_LEN: usize = 256;

/// The token of the waker; sockets have their indices.
const WAKE: Token = Token(usize::MAX);

/// How a worker waits, and where it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manner {
    /// For how long after the last query it looks for the next one before it sleeps: to be woken takes longer than to look,
    /// and looking takes the whole CPU.
    pub busy_poll: BusyPoll,
    /// The only CPU that it runs on.
    pub cpu: Option<usize>,
    /// It goes before all ordinary threads, those of this process included.
    pub realtime: bool,
}

/// For how long a worker looks for queries before it sleeps until there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BusyPoll {
    /// Not at all.
    #[default]
    Never,
    /// So long after the last one.
    For(Duration),
    /// It never sleeps.
    Always,
}

/// What a worker is started with.
#[derive(Default)]
pub struct Setup {
    /// The sockets that clients reach.
    pub listeners: Listeners,
    /// How it asks other nodes, in the designs that do.
    pub asking: Option<peers::Setup>,
    /// How it asks upstreams, if there are any.
    pub forwarding: Option<forwarding::Setup>,
    /// Where updates and what is signed go, if anywhere.
    pub handed: Option<Sender<HandedOver>>,
}

/// The state of a worker on its own thread.
pub struct Worker {
    poll: Poll,
    sockets: Vec<Watched>,
    is_inherited: bool,
    tcp: Tcp,
    asking: Option<Asking>,
    forwarding: Option<Forwarding>,
    handing: Option<Handing>,
    jobs: Receiver<Job>,
    reader: Reader<Table>,
    answerer: Answerer,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
    busy_poll: BusyPoll,
    /// Since when it has looked in vain, and how often.
    idle_since: Option<Instant>,
    idle_looks: u32,
    /// Batches until the next that is timed.
    untimed: u32,
}

impl Worker {
    /// Starts a worker that answers on the listeners of `setup` from the tables of `reader` by `answerer`.
    ///
    /// # Errors
    /// When the kernel has no event queue or thread to give.
    pub fn start(
        index: usize,
        manner: Manner,
        setup: Setup,
        reader: Reader<Table>,
        answerer: Answerer,
    ) -> io::Result<Handle> {
        let Setup { listeners, asking, forwarding, handed } = setup;
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        for (i, socket) in listeners.udp.iter().enumerate() {
            register(&poll, i, socket)?;
        }
        let tcp = Tcp::new(listeners.tcp, poll.registry())?;
        asking.as_ref().map_or(Ok(()), |setup| Asking::register(setup, poll.registry()))?;
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        // Of the standard library, since what waits in it goes with its receiver: so nobody waits for a worker that has ended.
        let (jobs_sender, jobs) = sync_channel(handle::MAX_JOBS);
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn({
            let (counters, stop) = (Arc::clone(&counters), Arc::clone(&stop));
            let handing = handed.map(|handed| Handing::new(handed, Arc::clone(&waker)));
            move || {
                let watched = |socket| {
                    let batch = Batch::new(udp::addressing(&socket));
                    Watched { socket, batch, watch: Watch::Waiting }
                };
                let sockets = listeners.udp.into_iter().map(watched).collect();
                // Queries shall not wait until another thread, of this process or others, has ended a turn of milliseconds. Where the
                // kernel does not know that, they do; that it allows what is wanted was seen before.
                let _ = if manner.realtime { set_fifo() } else { ask_for_short_turns(LONGEST_TURN) };
                if let Some(cpu) = manner.cpu {
                    pin(cpu);
                }
                let asking = asking.map(Asking::new);
                let forwarding = forwarding.map(Forwarding::new);
                let (busy_poll, idle_since, idle_looks) = (manner.busy_poll, None, 0);
                Self {
                    poll,
                    sockets,
                    is_inherited: listeners.is_inherited,
                    tcp,
                    asking,
                    forwarding,
                    handing,
                    jobs,
                    reader,
                    answerer,
                    counters,
                    stop,
                    busy_poll,
                    idle_since,
                    idle_looks,
                    untimed: 0,
                }
                .run();
            }
        })?;
        Ok(Handle { thread, waker, stop, counters, jobs: jobs_sender })
    }

    /// The event loop.
    ///
    /// The poll is edge-triggered: a socket is reported once when something arrives, so the worker remembers which
    /// sockets it has not yet seen empty. While there are any it only glances at the poll.
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_LEN);
        if self.busy_poll == BusyPoll::Always {
            (0..self.sockets.len()).for_each(|i| self.stop_watching(i));
        }
        while !self.stop.load(Ordering::Acquire) {
            if !self.idle_looks.is_multiple_of(LOOKS_PER_GLANCE) {
                self.look();
                continue;
            }
            self.wait(&mut events, if self.is_busy() { Some(Duration::ZERO) } else { self.timeout() });
            self.begin_turn();
            self.look();
            self.take_tcp_turn();
            self.take_asking_turn();
            self.take_forwarding_turn();
            self.take_handed_turn();
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
            match (self.sockets.get_mut(event.token().0), &mut self.asking) {
                (Some(socket), _) if socket.watch == Watch::Waiting => socket.watch = Watch::Ready,
                (Some(_), _) => {}
                (None, Some(asking)) if matches!(event.token(), peers::ANSWERS | peers::QUESTIONS) => {
                    asking.ready(event.token());
                }
                (None, _) => match &mut self.forwarding {
                    Some(forwarding) if Forwarding::has(event.token()) => forwarding.ready(event.token()),
                    _ => self.tcp.ready(event),
                },
            }
        }
    }

    /// Serves the sockets that may have something. When none of those that it looks at by itself has had anything for long
    /// enough, it has the poll watch all of them: the time is one for all sockets, not one for each.
    fn look(&mut self) {
        let (mut found, mut in_vain) = (false, false);
        for i in 0..self.sockets.len() {
            let turn = self.take_turn(i);
            found |= turn == Turn::Served;
            in_vain |= turn == Turn::InVain;
        }
        if in_vain && !found && !self.looks_again() {
            (self.idle_since, self.idle_looks) = (None, 0);
            for i in 0..self.sockets.len() {
                if self.sockets[i].watch == Watch::Busy {
                    self.watch(i);
                }
            }
        }
    }

    /// Whether to look once more for what just was not there, rather than to sleep until there is something.
    fn looks_again(&mut self) -> bool {
        self.idle_looks = self.idle_looks.wrapping_add(1);
        match self.busy_poll {
            BusyPoll::Never => false,
            BusyPoll::Always => true,
            BusyPoll::For(time) => {
                let now = Instant::now();
                now.saturating_duration_since(*self.idle_since.get_or_insert(now)) < time
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.tcp.is_busy()
            || self.sockets.iter().any(|socket| socket.watch != Watch::Waiting)
            || self.asking.as_ref().is_some_and(Asking::is_busy)
            || self.forwarding.as_ref().is_some_and(Forwarding::is_busy)
    }

    /// How long it may sleep.
    fn timeout(&self) -> Option<Duration> {
        let asking = self.asking.as_ref().and_then(Asking::timeout);
        let forwarding = self.forwarding.as_ref().and_then(Forwarding::timeout);
        self.tcp.timeout().into_iter().chain(asking).chain(forwarding).min()
    }

    /// Sets the clocks of the caches, where there are any.
    fn begin_turn(&mut self) {
        if let (Some(forwarding), Some(resolver)) = (&mut self.forwarding, self.answerer.resolver()) {
            let now_s = forwarding.begin_turn(resolver);
            resolver.set_time(now_s);
        }
        if let Some(asking) = &mut self.asking {
            let now_ms = asking.begin_turn();
            if let Some(elsewhere) = self.answerer.elsewhere() {
                elsewhere.set_time(now_ms);
            }
        }
    }

    /// Answers the other nodes, and the queries that they have answered; sends the questions of this turn.
    fn take_asking_turn(&mut self) {
        let Self { sockets, tcp, asking: Some(asking), reader, answerer, counters, .. } = self else {
            return;
        };
        let table = reader.load();
        let now_s = unix_time_s();
        asking.answer_others(table, counters);
        sockets.iter_mut().for_each(|socket| socket.batch.clear());
        while let Some(Answered { name, known, waiters, .. }) = asking.next_answer(counters) {
            if waiters.is_empty() {
                continue;
            }
            if let Some(elsewhere) = answerer.elsewhere() {
                elsewhere.set_answer(Some((name, known)));
            }
            resume(waiters, sockets, tcp, answerer, table, now_s, counters);
        }
        if let Some(elsewhere) = answerer.elsewhere() {
            elsewhere.set_answer(None);
        }
        send_completed(sockets, counters);
        asking.refresh(counters);
        asking.flush(counters);
    }

    /// Answers the queries that upstreams have answered, and sends the questions of this turn; does what other threads ask.
    fn take_forwarding_turn(&mut self) {
        let Self {
            poll, sockets, tcp, forwarding: Some(forwarding), jobs, reader, answerer, counters, ..
        } = self
        else {
            return;
        };
        let table = reader.load();
        let now_s = unix_time_s();
        sockets.iter_mut().for_each(|socket| socket.batch.clear());
        while let Some(resolver) = answerer.resolver()
            && let Some(done) = forwarding.next_done(resolver)
        {
            let waiters = done.tell(resolver);
            resume(waiters, sockets, tcp, answerer, table, now_s, counters);
        }
        send_completed(sockets, counters);
        while let Some(waiters) = forwarding.next_dropped() {
            drop_queries(waiters, tcp, counters);
        }
        if let Some(resolver) = answerer.resolver() {
            resolver.end_outcome();
            forwarding.refresh(resolver, counters);
            cache_commands::take_turn(jobs, resolver, forwarding);
        }
        forwarding.flush(poll.registry());
    }

    /// Sends what another thread has answered to messages that were handed over.
    fn take_handed_turn(&mut self) {
        let Self { sockets, tcp, handing: Some(handing), counters, .. } = self else { return };
        while let Some((client, message)) = handing.next_reply() {
            match client {
                Client::Tcp(client) => tcp.deliver(client, message.as_deref()),
                Client::Udp { socket, to, .. } => {
                    let Watched { socket, batch, .. } = &mut sockets[socket];
                    batch.clear();
                    let (Some(message), Some(buffer)) = (message, batch.compose()) else { continue };
                    let Some(room) = buffer.get_mut(..message.len()) else { continue };
                    room.copy_from_slice(&message);
                    batch.stage_to(message.len(), &to);
                    udp::send(socket, batch, counters);
                    batch.clear();
                }
            }
        }
        handing.deliver_several(tcp);
    }

    fn take_tcp_turn(&mut self) {
        if !self.tcp.is_due() {
            return;
        }
        let Self { poll, tcp, reader, answerer, counters, asking, forwarding, handing, .. } = self;
        let table = reader.load();
        let now_s = unix_time_s();
        let (asking, forwarding, handing) = (asking.as_mut(), forwarding.as_mut(), handing.as_mut());
        let mut takers = Takers { asking, forwarding, handing };
        tcp.take_turn(poll.registry(), counters, |message, len, client| {
            answer_tcp(answerer, &mut takers, table, (message, len), client, now_s, counters)
        });
    }

    /// Serves one socket until it is empty, or the others are due.
    fn take_turn(&mut self, i: usize) -> Turn {
        let watch = self.sockets[i].watch;
        if watch == Watch::Waiting {
            return Turn::None;
        }
        let mut turn = Turn::None;
        // What has come of other questions is not to wait for more and more new ones. Those that are passed on take little time: there are
        // more of them in a turn, as behind them there may be some for names of our own.
        let forwards = self.forwarding.as_ref().is_some_and(Forwarding::is_busy);
        let batches = if forwards { BATCHES_BESIDE_OUTCOMES } else { BATCHES_PER_TURN };
        for _ in 0..batches {
            let served = self.serve_and_time(i);
            if served != Served::Empty {
                (self.idle_since, self.idle_looks) = (None, 0);
                turn = Turn::Served;
            }
            match (watch, served) {
                // Whatever comes after the queue was seen empty is a new edge.
                (Watch::Ready, Served::Partial | Served::Empty) => {
                    if self.busy_poll == BusyPoll::Never {
                        self.sockets[i].watch = Watch::Waiting;
                    } else {
                        self.stop_watching(i);
                    }
                    return turn;
                }
                (Watch::Busy, Served::Empty) if self.busy_poll == BusyPoll::Never => {
                    self.watch(i);
                    return turn;
                }
                (Watch::Busy, Served::Empty) if turn == Turn::None => return Turn::InVain,
                (Watch::Busy, Served::Empty) => return turn,
                (_, Served::Full { responses }) if forwards && responses > BATCH_LEN / 2 => break,
                _ => {}
            }
        }
        if watch == Watch::Ready {
            self.stop_watching(i);
        }
        turn
    }

    /// Has the poll watch a socket again. It reports at once what has arrived meanwhile.
    fn watch(&mut self, i: usize) {
        let Watched { socket, watch, .. } = &mut self.sockets[i];
        // If the kernel has no memory for this, the worker goes on looking for itself.
        if register(&self.poll, i, socket).is_ok() {
            *watch = Watch::Waiting;
        }
    }

    fn stop_watching(&mut self, i: usize) {
        let Watched { socket, watch, .. } = &mut self.sockets[i];
        if self.poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd())).is_ok() {
            *watch = Watch::Busy;
        }
    }

    /// Serves one batch, and of some of them takes the time.
    fn serve_and_time(&mut self, i: usize) -> Served {
        if self.untimed > 0 {
            let served = self.serve(i);
            self.untimed -= u32::from(served != Served::Empty);
            return served;
        }
        let begin = Instant::now();
        let served = self.serve(i);
        if served != Served::Empty {
            self.counters.time(begin.elapsed());
            self.untimed = BATCHES_PER_TIMING - 1;
        }
        served
    }

    fn serve(&mut self, i: usize) -> Served {
        let Self { sockets, reader, answerer, counters, asking, forwarding, handing, .. } = self;
        let Watched { socket, batch, .. } = &mut sockets[i];
        let (asking, forwarding, handing) = (asking.as_mut(), forwarding.as_mut(), handing.as_mut());
        let mut takers = Takers { asking, forwarding, handing };
        let pass_on = |answerer: &Answerer, batch: &mut Batch, datagram: usize, len: usize, verdict| {
            let ip = batch.peer(datagram)?.ip();
            let to = batch.return_address(datagram);
            let buffer = batch.datagram(datagram).buffer;
            let client = Client::Udp { socket: i, ip, to };
            let taken = takers.take(verdict, answerer, &buffer[..len], client, counters);
            taken.is_err().then(|| answerer.fail(buffer, len))
        };
        udp::serve_batch(socket, batch, reader, answerer, counters, unix_time_s, pass_on)
    }
}

/// Sends the answers to queries that have waited, which are in the sockets' batches.
fn send_completed(sockets: &mut [Watched], counters: &Counters) {
    for Watched { socket, batch, .. } in sockets {
        udp::send(socket, batch, counters);
        batch.clear();
    }
}

/// Whether workers may go before all ordinary threads ([`Manner::realtime`]).
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

fn register(poll: &Poll, i: usize, socket: &UdpSocket) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(i), Interest::READABLE)
}
