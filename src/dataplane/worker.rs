//! One worker: a thread with its own sockets, event loop, view of the table and counters.
//!
//! Everything in this file but [`Worker::start`] and [`Handle`] runs on the worker's thread.

use std::io::{self, ErrorKind};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::answer::{Answerer, Origin};
use super::counters::Counters;
use super::tcp::Tcp;
use super::udp::{self, Served};
use crate::mmsg::Batch;
use crate::snapshot::Reader;
use crate::table::Table;
use crate::wire::response::Transport;

/// Batches taken from one socket before the others, and a request to stop, get their turn.
const BATCHES_PER_TURN: usize = 16;

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

/// Events taken from the poll at once; what does not fit comes with the next look.
const EVENTS_LEN: usize = 256;

/// The token of the waker; sockets have their indices.
const WAKE: Token = Token(usize::MAX);

/// A running worker, as the thread that started it sees it.
pub struct Handle {
    thread: JoinHandle<()>,
    waker: Waker,
    stop: Arc<AtomicBool>,
    counters: Arc<Counters>,
}

impl Handle {
    /// What the worker has counted so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Asks the worker to answer what it has received and then to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // It can only fail if the worker is gone already.
        let _ = self.waker.wake();
    }

    /// Waits for the worker to end, and returns what it has counted.
    ///
    /// # Panics
    /// If the worker panicked: then the panic goes on here.
    #[must_use]
    pub fn join(self) -> Arc<Counters> {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
        self.counters
    }
}

/// A UDP socket with the room for what goes through it.
struct Watched {
    socket: UdpSocket,
    batch: Batch,
    watch: Watch,
}

/// What a worker listens on.
#[derive(Default)]
pub struct Listeners {
    /// One per address.
    pub udp: Vec<UdpSocket>,
    /// One per address.
    pub tcp: Vec<TcpListener>,
}

/// The state of a worker on its own thread.
pub struct Worker {
    poll: Poll,
    sockets: Vec<Watched>,
    tcp: Tcp,
    reader: Reader<Table>,
    answerer: Answerer,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts a worker that answers on `listeners` from the tables of `reader` by `answerer`.
    ///
    /// # Errors
    /// When the kernel has no event queue or thread to give.
    pub fn start(
        index: usize,
        listeners: Listeners,
        reader: Reader<Table>,
        answerer: Answerer,
    ) -> io::Result<Handle> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        for (i, socket) in listeners.udp.iter().enumerate() {
            register(&poll, i, socket)?;
        }
        let tcp = Tcp::new(listeners.tcp, poll.registry())?;
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn({
            let (counters, stop) = (Arc::clone(&counters), Arc::clone(&stop));
            move || {
                let watched = |socket| {
                    let batch = Batch::new(udp::addressing(&socket));
                    Watched { socket, batch, watch: Watch::Waiting }
                };
                let sockets = listeners.udp.into_iter().map(watched).collect();
                Self { poll, sockets, tcp, reader, answerer, counters, stop }.run();
            }
        })?;
        Ok(Handle { thread, waker, stop, counters })
    }

    /// The event loop.
    ///
    /// The poll is edge-triggered: a socket is reported once when something arrives, so the worker remembers which
    /// sockets it has not yet seen empty. While there are any it only glances at the poll.
    fn run(mut self) {
        let mut events = Events::with_capacity(EVENTS_LEN);
        while !self.stop.load(Ordering::Acquire) {
            let busy = self.tcp.is_busy() || self.sockets.iter().any(|socket| socket.watch != Watch::Waiting);
            let timeout = if busy { Some(Duration::ZERO) } else { self.tcp.timeout() };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // epoll_wait fails only for a bad descriptor or pointer: the program itself is broken.
                Err(error) => panic!("the worker's event queue failed: {error}"),
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                match self.sockets.get_mut(event.token().0) {
                    Some(socket) if socket.watch == Watch::Waiting => socket.watch = Watch::Ready,
                    Some(_) => {}
                    None => self.tcp.ready(event),
                }
            }
            for i in 0..self.sockets.len() {
                self.take_turn(i);
            }
            self.take_tcp_turn();
        }
        self.finish();
    }

    fn take_tcp_turn(&mut self) {
        if !self.tcp.is_due() {
            return;
        }
        let Self { poll, tcp, reader, answerer, counters, .. } = self;
        let table = reader.load();
        let now_s = unix_time_s();
        tcp.take_turn(poll.registry(), counters, |message, len, client| {
            let origin = Origin { transport: Transport::Tcp, client, now_s };
            answerer.answer(table, message, len, origin, |event| counters.count(event))
        });
    }

    /// Serves one socket until it is empty, or the others are due.
    fn take_turn(&mut self, i: usize) {
        let watch = self.sockets[i].watch;
        if watch == Watch::Waiting {
            return;
        }
        for _ in 0..BATCHES_PER_TURN {
            match (watch, self.serve(i)) {
                // Whatever comes after the queue was seen empty is a new edge.
                (Watch::Ready, Served::Partial | Served::Empty) => {
                    self.sockets[i].watch = Watch::Waiting;
                    return;
                }
                (Watch::Busy, Served::Empty) => return self.watch(i),
                _ => {}
            }
        }
        if watch == Watch::Ready {
            self.stop_watching(i);
        }
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

    fn serve(&mut self, i: usize) -> Served {
        let Self { sockets, reader, answerer, counters, .. } = self;
        let Watched { socket, batch, .. } = &mut sockets[i];
        udp::serve_batch(socket, batch, reader, answerer, counters, unix_time_s)
    }

    /// Answers what the sockets have received until now. New packets are kept out, so this comes to an end however
    /// many there are.
    fn finish(&mut self) {
        for i in 0..self.sockets.len() {
            if udp::refuse_more(&self.sockets[i].socket).is_ok() {
                while self.serve(i) != Served::Empty {}
            }
        }
        let Self { tcp, reader, answerer, counters, .. } = self;
        let table = reader.load();
        let now_s = unix_time_s();
        tcp.finish(|message, len, client| {
            let origin = Origin { transport: Transport::Tcp, client, now_s };
            answerer.answer(table, message, len, origin, |event| counters.count(event))
        });
    }
}

/// Seconds since 1970, in the 32 bits that cookies have for it. Read once a batch.
#[allow(clippy::cast_possible_truncation)] // they wrap in 2106, as RFC 9018 knows
fn unix_time_s() -> u32 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as u32)
}

fn register(poll: &Poll, i: usize, socket: &UdpSocket) -> io::Result<()> {
    poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(i), Interest::READABLE)
}
