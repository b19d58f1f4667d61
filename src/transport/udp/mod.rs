//! DNS over UDP: binding the workers' sockets, and receiving, answering and sending a batch.
//!
//! Binding runs on the main thread before the workers start; the rest on the workers.

mod batch;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use socket2::{SockRef, Socket};

use self::batch::Served;
pub(crate) use self::batch::send;
use super::responder::{ClientTransport, Responder};
use crate::answer::metrics::Counters;
use crate::limits::{BATCHES_BESIDE_OUTCOMES, BATCHES_PER_TURN};
use crate::sys::mmsg::{self, Addressing, BATCH_LEN, Batch, ReturnAddress, buffered, refuse_more};

/// Bytes of queries and of responses that the kernel is asked to hold for a socket. At about 800 bytes of kernel memory
/// for a small datagram, 4 MiB hold some 5,000: more than a worker answers in ten milliseconds, so that it may lose its
/// core for a scheduler's time slice without losing a query. The kernel silently grants less (`net.core.rmem_max`)
/// where it is set to.
const SOCKET_BUFFER_LEN: usize = crate::limits::SOCKET_BUFFER_LEN;

/// When a worker that is told to look for queries all the time glances at the poll: once in so many looks that found
/// nothing. It delays connections and a request to stop by some ten microseconds.
const LOOKS_PER_GLANCE: u32 = crate::limits::LOOKS_PER_GLANCE;

/// One batch in so many is timed: two readings of the clock for each would cost what an answer does.
const BATCHES_PER_TIMING: u32 = 16;

/// Batches that are taken at a stop from a socket into which more may come, since the service manager has it, too: more
/// than its buffer holds.
const LAST_BATCHES: usize = 256;

/// Binds one socket per worker to `address`; with port 0 all of them to the one free port that the kernel picks.
///
/// The kernel spreads clients over the sockets by a hash of their address and port (SO_REUSEPORT). That option would
/// also let a second server share the port unnoticed, each getting some of the queries. So the first socket is bound
/// without it, which fails if anybody has the port, and is only then opened for sharing with the others.
///
/// # Errors
/// What the kernel says.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let first = open(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let first = UdpSocket::from(first);
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let socket = open(bound)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// One socket per worker for the address that `first` is bound to by others.
///
/// # Errors
/// What the kernel says.
pub(crate) fn share(first: UdpSocket, address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let shared = SockRef::from(&first).reuse_port()?;
    first.set_nonblocking(true)?;
    // The kernel may grant less; what it was given is good then.
    let _ = SockRef::from(&first).set_recv_buffer_size(SOCKET_BUFFER_LEN);
    if address.ip().is_unspecified() {
        mmsg::report_local_address(first.as_fd(), &address)?;
    }
    let mut sockets = vec![first];
    for _ in 1..workers {
        let next = if shared {
            let socket = open(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.into()
        } else {
            sockets[0].try_clone()?
        };
        sockets.push(next);
    }
    Ok(sockets)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = buffered(address)?;
    if address.is_ipv6() {
        // `--listen 0.0.0.0:53 --listen [::]:53` shall work whatever the system's default.
        socket.set_only_v6(true)?;
    }
    if address.ip().is_unspecified() {
        mmsg::report_local_address(socket.as_fd(), &address)?;
    }
    Ok(socket)
}

/// What has to travel with the datagrams of `socket`: bound to one address it needs no local ones.
pub(crate) fn addressing(socket: &UdpSocket) -> Addressing {
    let bound_to_all = socket.local_addr().is_ok_and(|address| address.ip().is_unspecified());
    if bound_to_all { Addressing::PerDatagramAndLocal } else { Addressing::PerDatagram }
}

/// How a worker learns that a socket has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Watch {
    /// The poll watches it, and has nothing to report.
    Waiting,
    /// The poll watches it and has reported something; its queue has not been seen empty since.
    Ready,
    /// Nobody watches it, the worker looks for itself: there has been something every time. To watch a socket is not
    /// free: for each response sent, as for each query received, the kernel calls the poll back and takes its lock,
    /// about 5% of all that a packet costs. Under load that buys nothing.
    Busy,
}

/// What came of a turn of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SocketTurn {
    /// The poll watches it, or does so from now on.
    None,
    /// There was something.
    Served,
    /// There was nothing, and nobody but the worker will look again.
    InVain,
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

/// A UDP socket with the room for what goes through it.
struct Watched {
    socket: UdpSocket,
    batch: Batch,
    watch: Watch,
}

/// All of a worker's UDP.
pub(crate) struct Udp {
    sockets: Vec<Watched>,
    busy_poll: BusyPoll,
    /// Since when it has looked in vain, and how often.
    idle_since: Option<Instant>,
    idle_looks: u32,
    /// Batches until the next that is timed.
    untimed: u32,
}

/// Has the poll report `sockets`, which are a worker's.
///
/// # Errors
/// When the kernel has no memory for that.
pub(crate) fn register(sockets: &[UdpSocket], registry: &Registry) -> io::Result<()> {
    sockets.iter().enumerate().try_for_each(|(i, socket)| register_one(registry, i, socket))
}

fn register_one(registry: &Registry, i: usize, socket: &UdpSocket) -> io::Result<()> {
    registry.register(&mut SourceFd(&socket.as_raw_fd()), Token(i), Interest::READABLE)
}

impl ClientTransport for Udp {
    type Client = (usize, ReturnAddress);

    #[inline]
    fn take_turn(&mut self, registry: &Registry, responder: &mut Responder<'_>) {
        self.look(registry, responder);
    }

    fn deliver(
        &mut self,
        (socket, to): Self::Client,
        answer: impl FnOnce(&mut [u8]) -> Option<usize>,
        counters: &Counters,
    ) {
        let Some(Watched { socket, batch, .. }) = self.sockets.get_mut(socket) else { return };
        let Some(buffer) = batch.compose() else { return };
        if let Some(len) = answer(buffer) {
            batch.stage_to(len, &to);
        }
        if batch.staged() == BATCH_LEN {
            send(socket, batch, counters);
            batch.clear();
        }
    }

    #[inline]
    fn is_busy(&self) -> bool {
        self.sockets.iter().any(|socket| socket.watch != Watch::Waiting)
    }

    fn timeout(&self) -> Option<Duration> {
        None
    }
}

impl Udp {
    /// Of these sockets, which are [registered](register).
    pub(crate) fn new(sockets: Vec<UdpSocket>, busy_poll: BusyPoll, registry: &Registry) -> Self {
        let watched = |socket| {
            let batch = Batch::new(addressing(&socket));
            Watched { socket, batch, watch: Watch::Waiting }
        };
        let sockets = sockets.into_iter().map(watched).collect();
        let mut udp = Self { sockets, busy_poll, idle_since: None, idle_looks: 0, untimed: 0 };
        if busy_poll == BusyPoll::Always {
            (0..udp.sockets.len()).for_each(|i| udp.stop_watching(i, registry));
        }
        udp
    }

    /// Notes that the poll has reported a socket; returns whether `token` is that of one.
    #[inline]
    pub(crate) fn ready(&mut self, token: Token) -> bool {
        let Some(socket) = self.sockets.get_mut(token.0) else { return false };
        if socket.watch == Watch::Waiting {
            socket.watch = Watch::Ready;
        }
        true
    }

    /// Whether to look for queries again before the poll is asked. It is only glanced at, once in so many looks that
    /// found nothing.
    #[inline]
    pub(crate) fn looks_on(&self) -> bool {
        !self.idle_looks.is_multiple_of(LOOKS_PER_GLANCE)
    }

    /// Serves the sockets that may have something. When none of those that it looks at by itself
    /// has had anything for long enough, it has the poll watch all of them: the time is one for all sockets, not one
    /// for each.
    fn look(&mut self, registry: &Registry, responder: &mut Responder<'_>) {
        let (mut found, mut in_vain) = (false, false);
        for i in 0..self.sockets.len() {
            let turn = self.serve_socket(i, registry, responder);
            found |= turn == SocketTurn::Served;
            in_vain |= turn == SocketTurn::InVain;
        }
        if in_vain && !found && !self.looks_again() {
            (self.idle_since, self.idle_looks) = (None, 0);
            for i in 0..self.sockets.len() {
                if self.sockets[i].watch == Watch::Busy {
                    self.watch(i, registry);
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

    /// Serves one socket until it is empty, or the others are due.
    fn serve_socket(&mut self, i: usize, registry: &Registry, responder: &mut Responder<'_>) -> SocketTurn {
        let watch = self.sockets[i].watch;
        if watch == Watch::Waiting {
            return SocketTurn::None;
        }
        let mut turn = SocketTurn::None;
        for _ in 0..batches(responder) {
            let served = self.serve_and_time(i, responder);
            if served != Served::Empty {
                (self.idle_since, self.idle_looks) = (None, 0);
                turn = SocketTurn::Served;
            }
            match (watch, served) {
                // Whatever comes after the queue was seen empty is a new edge.
                (Watch::Ready, Served::Partial | Served::Empty) => {
                    if self.busy_poll == BusyPoll::Never {
                        self.sockets[i].watch = Watch::Waiting;
                    } else {
                        self.stop_watching(i, registry);
                    }
                    return turn;
                }
                (Watch::Busy, Served::Empty) if self.busy_poll == BusyPoll::Never => {
                    self.watch(i, registry);
                    return turn;
                }
                (Watch::Busy, Served::Empty) if turn == SocketTurn::None => return SocketTurn::InVain,
                (Watch::Busy, Served::Empty) => return turn,
                // Queries that are deferred take little time: there are more of them in a turn, as behind them there
                // may be some for names of our own.
                (_, Served::Full { responses }) if responder.beside_outcomes && responses > BATCH_LEN / 2 => {
                    break;
                }
                _ => {}
            }
        }
        if watch == Watch::Ready {
            self.stop_watching(i, registry);
        }
        turn
    }

    /// Has the poll watch a socket again. It reports at once what has arrived meanwhile.
    fn watch(&mut self, i: usize, registry: &Registry) {
        let Watched { socket, watch, .. } = &mut self.sockets[i];
        // If the kernel has no memory for this, the worker goes on looking for itself.
        if register_one(registry, i, socket).is_ok() {
            *watch = Watch::Waiting;
        }
    }

    fn stop_watching(&mut self, i: usize, registry: &Registry) {
        let Watched { socket, watch, .. } = &mut self.sockets[i];
        if registry.deregister(&mut SourceFd(&socket.as_raw_fd())).is_ok() {
            *watch = Watch::Busy;
        }
    }

    /// Serves one batch, and of some of them takes the time.
    fn serve_and_time(&mut self, i: usize, responder: &mut Responder<'_>) -> Served {
        if self.untimed > 0 {
            let served = self.sockets[i].serve(i, responder);
            self.untimed -= u32::from(served != Served::Empty);
            return served;
        }
        let begin = Instant::now();
        let served = self.sockets[i].serve(i, responder);
        if served != Served::Empty {
            responder.counters.time(begin.elapsed());
            self.untimed = BATCHES_PER_TIMING - 1;
        }
        served
    }

    /// Forgets what was staged, so that responses to deferred queries can be.
    pub(crate) fn begin_delivery(&mut self) {
        self.sockets.iter_mut().for_each(|socket| socket.batch.clear());
    }

    /// Sends the responses to deferred queries.
    pub(crate) fn end_delivery(&mut self, counters: &Counters) {
        for Watched { socket, batch, .. } in &mut self.sockets {
            send(socket, batch, counters);
            batch.clear();
        }
    }

    /// Answers the datagrams that the sockets have, until the `deadline` at most. New ones are kept out, so this comes
    /// to an end however many there are; but not of `inherited` sockets, which the next process, or the service
    /// manager, is to have.
    pub(crate) fn serve_last(&mut self, inherited: bool, responder: &mut Responder<'_>, deadline: Instant) {
        for (i, socket) in self.sockets.iter_mut().enumerate() {
            let is_closed = !inherited && refuse_more(&socket.socket).is_ok();
            let mut batches = 0;
            while socket.serve(i, responder) != Served::Empty && Instant::now() < deadline {
                batches += 1;
                if !is_closed && batches == LAST_BATCHES {
                    break;
                }
            }
        }
    }
}

/// How many batches are taken from one socket before the others, and a request to stop, get their turn.
fn batches(responder: &Responder<'_>) -> usize {
    if responder.beside_outcomes { BATCHES_BESIDE_OUTCOMES } else { BATCHES_PER_TURN }
}
