//! One worker: a thread with its own sockets, event loop, view of the table and counters.
//!
//! Everything in this file but [`Worker::start`] and [`Handle`] runs on the worker's thread.

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};

use super::answer::Answerer;
use super::counters::Counters;
use super::udp;
use crate::mmsg::{Addressing, Batch};
use crate::table::Reader;

/// Batches taken from one socket before the others, and a request to stop, get their turn.
const BATCHES_PER_TURN: usize = 16;

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

/// The state of a worker on its own thread.
pub struct Worker {
    poll: Poll,
    sockets: Vec<UdpSocket>,
    batch: Batch,
    reader: Reader,
    answerer: Answerer,
    counters: Arc<Counters>,
    stop: Arc<AtomicBool>,
}

impl Worker {
    /// Starts a worker that answers on `sockets` from the tables of `reader`.
    ///
    /// # Errors
    /// When the kernel has no event queue or thread to give.
    pub fn start(index: usize, sockets: Vec<UdpSocket>, reader: Reader) -> io::Result<Handle> {
        let poll = Poll::new()?;
        let waker = Waker::new(poll.registry(), WAKE)?;
        for (i, socket) in sockets.iter().enumerate() {
            poll.registry().register(&mut SourceFd(&socket.as_raw_fd()), Token(i), Interest::READABLE)?;
        }
        let counters = Arc::new(Counters::default());
        let stop = Arc::new(AtomicBool::new(false));
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn({
            let (counters, stop) = (Arc::clone(&counters), Arc::clone(&stop));
            move || {
                let batch = Batch::new(Addressing::PerDatagram);
                let answerer = Answerer::new(fastrand::Rng::new());
                Self { poll, sockets, batch, reader, answerer, counters, stop }.run();
            }
        })?;
        Ok(Handle { thread, waker, stop, counters })
    }

    /// The event loop.
    ///
    /// The poll is edge-triggered: a socket is reported once when something arrives, so the worker remembers which
    /// sockets it has not yet seen empty. While there are any it only glances at the poll.
    fn run(mut self) {
        let mut events = Events::with_capacity(self.sockets.len() + 1);
        let mut ready = vec![true; self.sockets.len()];
        while !self.stop.load(Ordering::Acquire) {
            let timeout = ready.contains(&true).then_some(Duration::ZERO);
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                // epoll_wait fails only for a bad descriptor or pointer: the program itself is broken.
                Err(error) => panic!("the worker's event queue failed: {error}"),
            }
            for event in events.iter().filter(|event| event.token() != WAKE) {
                ready[event.token().0] = true;
            }
            for (i, ready) in ready.iter_mut().enumerate() {
                for _ in 0..BATCHES_PER_TURN {
                    *ready = *ready && self.serve(i);
                }
            }
        }
        self.finish();
    }

    fn serve(&mut self, socket: usize) -> bool {
        let Self { sockets, batch, reader, answerer, counters, .. } = self;
        udp::serve_batch(&sockets[socket], batch, reader, answerer, counters)
    }

    /// Answers what the sockets have received until now. New packets are kept out, so this comes to an end however
    /// many there are.
    fn finish(&mut self) {
        for i in 0..self.sockets.len() {
            if udp::refuse_more(&self.sockets[i]).is_ok() {
                while self.serve(i) {}
            }
        }
    }
}
