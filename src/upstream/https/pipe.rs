//! The way between HTTP/2 and TLS: what one has to say the other takes, without a runtime, a thread or a copy in
//! between.
//!
//! Runs on the worker that asks. HTTP/2 is polled when there is something to do, so that nobody has to be woken for
//! bytes.

use std::cell::RefCell;
use std::io::{self, BufRead, ErrorKind, Write};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use rustls::ClientConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::limits::UPSTREAM_HTTPS_REQUESTS;

/// A session, as HTTP/2 reads and writes it. What it writes waits in the session, bounded by the session's buffer
/// limit.
pub(super) struct Pipe {
    tls: Rc<RefCell<ClientConnection>>,
}

impl Pipe {
    /// The way to this session, whose handshake is over.
    pub(super) fn new(tls: Rc<RefCell<ClientConnection>>) -> Self {
        Self { tls }
    }
}

/// What comes of a read or write that does not block, as a future has it.
fn polled<T>(done: io::Result<T>) -> Poll<io::Result<T>> {
    match done {
        Err(error) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

impl AsyncRead for Pipe {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, room: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut tls = self.tls.borrow_mut();
        let mut reader = tls.reader();
        // Put there at once: no room is filled with zeros first.
        let read = reader.fill_buf().map(|there| {
            let part = &there[..there.len().min(room.remaining())];
            room.put_slice(part);
            part.len()
        });
        if let Ok(len) = read {
            reader.consume(len);
        }
        polled(read.map(|_| ()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.tls.borrow_mut().writer().write(bytes) {
            // The session is full: the network takes its time.
            Ok(0) => Poll::Pending,
            written => polled(written),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Which of a connection's requests HTTP/2 has something for: with a hundred in flight, one turn brings a few.
#[derive(Default)]
pub(super) struct Woken([AtomicU64; WORDS]);

const WORDS: usize = UPSTREAM_HTTPS_REQUESTS.div_ceil(u64::BITS as usize);

impl Woken {
    /// The waker of each.
    pub(super) fn wakers(self: &Arc<Self>) -> Vec<Waker> {
        let waker = |number| Waker::from(Arc::new(OfOne { number, woken: Arc::clone(self) }));
        (0..UPSTREAM_HTTPS_REQUESTS).map(waker).collect()
    }

    /// Has this one be looked at.
    pub(super) fn wake(&self, number: usize) {
        if let Some(word) = self.0.get(number / 64) {
            word.fetch_or(1 << (number % 64), Ordering::Relaxed);
        }
    }

    /// The numbers of those that were woken since.
    pub(super) fn take(&self) -> impl Iterator<Item = usize> + use<> {
        let words = [0, 1].map(|at| self.0[at].swap(0, Ordering::Relaxed));
        (0..).zip(words).flat_map(|(at, mut bits)| {
            std::iter::from_fn(move || {
                let number = bits.trailing_zeros() as usize;
                bits &= bits.checked_sub(1)?;
                Some(64 * at + number)
            })
        })
    }
}

struct OfOne {
    number: usize,
    woken: Arc<Woken>,
}

impl Wake for OfOne {
    fn wake(self: Arc<Self>) {
        self.woken.wake(self.number);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.wake(self.number);
    }
}
