//! The thread `cluster`: membership, dissemination and sync, and nothing else, so that nothing else can silence the
//! node.
//!
//! No turn of it takes more than 10 ms of CPU time ([`ClusterState::turns`] counts them). It reads no file, writes no
//! log, builds no table and waits for nobody but the store's lock, which others hold for less than a millisecond.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::{Events, Poll, Token, Waker};

use super::cpu_time::thread_cpu_time;
use super::inbox::{Control, ControlSender};
use super::tables::TablesSender;
use crate::gossip::driver::Driver;
use crate::gossip::engine::{Down, Faults, News};
use crate::gossip::key_ring::KeyRing;
use crate::gossip::peer::Peer;
use crate::gossip::transport::Traffic;
use crate::store::NodeId;
use crate::sys::counter::DurationHistogram;
use crate::sys::published::{Current, View};

/// The waker's token; the sockets of the gossip have those from `gossip::transport::FIRST_TOKEN` on.
const WAKER: Token = Token(0);

/// Events that the kernel tells of at once.
const EVENTS: usize = 256;

/// Commands that may wait: seeds, mostly, of which membership takes no more than 256.
const MAX_COMMANDS: usize = 1_024;

/// How long a node that goes waits for having said so.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(1);

/// Turns by their CPU time: less than 16 us, 32 us, and so on; the last are those of 65 ms and more.
pub(super) type TurnTimes = DurationHistogram<16_000, 14>;

/// What the thread is asked to do.
enum Command {
    /// Look for the cluster at this address, too.
    Seed(SocketAddr),
    /// Seal with these keys from now on.
    SetRing(Option<KeyRing>),
    /// Tell the others that this node goes for good; then end.
    Leave(Sender<()>),
}

/// Who is in the cluster.
#[derive(Clone, Debug)]
pub(super) struct Members {
    pub(super) me: Peer,
    pub(super) up: Vec<Peer>,
    pub(super) down: Vec<(NodeId, Down)>,
}

/// What has been counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ClusterCounts {
    /// None if it does not gossip.
    pub(super) traffic: Option<Traffic>,
    pub(super) faults: Faults,
    /// Whether it has once known all that another node knew.
    pub(super) is_synchronised: bool,
}

/// What other threads see of the cluster.
pub(super) struct ClusterState {
    members: View<Members>,
    counts: Mutex<ClusterCounts>,
    /// CPU time of its turns.
    pub(super) turns: TurnTimes,
    longest_turn_ns: AtomicU64,
    turns_done: AtomicU64,
    /// Where it gossips, if it does.
    pub(super) address: Option<SocketAddr>,
    begin: Instant,
}

impl ClusterState {
    pub(super) fn members(&self) -> Arc<Members> {
        self.members.load()
    }

    pub(super) fn counts(&self) -> ClusterCounts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The longest turn so far.
    pub(super) fn longest_turn(&self) -> Duration {
        Duration::from_nanos(self.longest_turn_ns.load(Ordering::Relaxed))
    }

    /// How many turns there have been: it grows while the thread is alive.
    pub(super) fn turns_done(&self) -> u64 {
        self.turns_done.load(Ordering::Relaxed)
    }

    /// The node's own time, which begins with it.
    pub(super) fn now(&self) -> Duration {
        self.begin.elapsed()
    }
}

/// The thread, as others have it.
pub(super) struct Cluster {
    pub(super) state: Arc<ClusterState>,
    pub(super) sender: ClusterSender,
    thread: Option<JoinHandle<()>>,
}

/// Asks things of the thread.
#[derive(Clone)]
pub(super) struct ClusterSender {
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl ClusterSender {
    /// Has it look for the cluster at `address`, too. Waits while it has too much to do. Returns whether it is still
    /// there.
    pub(super) fn seed(&self, address: SocketAddr) -> bool {
        self.send(Command::Seed(address))
    }

    pub(super) fn set_ring(&self, ring: Option<KeyRing>) {
        self.send(Command::SetRing(ring));
    }

    /// Tells it that there are changes to be sent.
    pub(super) fn wake(&self) {
        // It can only fail when the thread has ended.
        let _ = self.waker.wake();
    }

    fn send(&self, command: Command) -> bool {
        // It is queued before it is told of, so that whoever wakes up finds it.
        self.commands.send(command).is_ok() && self.waker.wake().is_ok()
    }
}

/// An event loop, for the sockets of a transport.
pub(super) fn event_loop() -> io::Result<Poll> {
    Poll::new()
}

impl Cluster {
    /// Starts the thread with a driver whose sockets are in the event loop `poll`.
    pub(super) fn start(
        driver: Driver,
        poll: Poll,
        control: ControlSender,
        tables: TablesSender,
    ) -> io::Result<Self> {
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (sender, commands) = bounded(MAX_COMMANDS);
        let members = Current::new(members_of(&driver));
        let state = Arc::new(ClusterState {
            members: members.view(),
            counts: Mutex::new(counts_of(&driver)),
            turns: TurnTimes::default(),
            longest_turn_ns: AtomicU64::new(0),
            turns_done: AtomicU64::new(0),
            address: driver.address(),
            begin: driver.begin(),
        });
        let work = Loop { driver, poll, commands, members, state: Arc::clone(&state), control, tables };
        let thread = thread::Builder::new().name("cluster".into()).spawn(move || work.run())?;
        Ok(Self { state, sender: ClusterSender { commands: sender, waker }, thread: Some(thread) })
    }

    /// Has it tell the others that this node goes, and waits until that is done.
    pub(super) fn leave(&mut self) {
        let (done, is_done) = bounded(1);
        if self.sender.send(Command::Leave(done)) {
            // A peer that does not hear of it finds out.
            let _ = is_done.recv_timeout(LEAVE_TIMEOUT);
        }
        // A panic there has been told by the panic itself.
        drop(self.thread.take().map(JoinHandle::join));
    }
}

/// What the thread has.
struct Loop {
    driver: Driver,
    poll: Poll,
    commands: Receiver<Command>,
    members: Current<Members>,
    state: Arc<ClusterState>,
    control: ControlSender,
    tables: TablesSender,
}

impl Loop {
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS);
        loop {
            let timeout = if self.commands.is_empty() { self.driver.timeout() } else { Duration::ZERO };
            // Interrupted by a signal: the loop comes round again.
            let polled = self.poll.poll(&mut events, Some(timeout)).is_ok();
            let before = thread_cpu_time();
            if polled {
                let of_sockets = events.iter().filter(|event| event.token() != WAKER);
                of_sockets.for_each(|event| self.driver.note(event));
            }
            let goes_on = self.handle_commands();
            self.advance();
            self.count_turn(thread_cpu_time().saturating_sub(before));
            if !goes_on {
                return;
            }
        }
    }

    /// Returns whether there will be more.
    fn handle_commands(&mut self) -> bool {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Seed(address) => self.driver.engine_mut().add_seed(address),
                Command::SetRing(ring) => self.driver.set_ring(ring),
                Command::Leave(done) => {
                    self.driver.leave();
                    let _ = done.send(());
                    return false;
                }
            }
        }
        true
    }

    fn advance(&mut self) {
        let news = self.driver.advance();
        let engine = self.driver.engine();
        let members = self.members.load();
        let is_other = members.up.len() != engine.membership().members().len()
            || members.down.len() != engine.down().count()
            || members.me.generation != engine.membership().me().generation;
        if is_other || !news.is_empty() {
            self.members.replace(members_of(&self.driver));
        }
        let counts = counts_of(&self.driver);
        *self.state.counts.lock().unwrap_or_else(PoisonError::into_inner) = counts;
        if !news.is_empty() {
            self.tell(news);
        }
        let has_work = {
            let store = engine.store().read();
            store.changed() > 0 || store.has_sweeps()
        };
        if has_work {
            self.tables.wake();
        }
    }

    /// Has others log it: a log may be slow to take a line.
    fn tell(&self, news: Vec<News>) {
        self.control.try_send(Control::Members(news));
    }

    fn count_turn(&self, took: Duration) {
        self.state.turns.count(took);
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        // This thread alone writes it.
        if ns > self.state.longest_turn_ns.load(Ordering::Relaxed) {
            self.state.longest_turn_ns.store(ns, Ordering::Relaxed);
        }
        self.state.turns_done.store(self.state.turns_done() + 1, Ordering::Relaxed);
    }
}

fn members_of(driver: &Driver) -> Members {
    let engine = driver.engine();
    Members {
        me: engine.membership().me().clone(),
        up: engine.membership().members().cloned().collect(),
        down: engine.down().map(|(node, down)| (node, down.clone())).collect(),
    }
}

fn counts_of(driver: &Driver) -> ClusterCounts {
    let engine = driver.engine();
    ClusterCounts {
        traffic: driver.traffic().copied(),
        faults: engine.faults(),
        is_synchronised: engine.is_synchronised(),
    }
}
