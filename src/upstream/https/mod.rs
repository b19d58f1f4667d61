//! One connection to an upstream over HTTPS (RFC 8484): HTTP/2 (RFC 9113) in TLS, many questions in flight on it.
//!
//! Runs on the worker that asks. HTTP/2 is the crate `h2`, polled by hand in the connection's turn; wakers only note
//! which requests have something. As [`super::stream`] it does no I/O but through the stream it is given, and takes the
//! time as an argument.
//!
//! An answer that is none (another status, another type, too long) fails its question alone, which is then asked
//! elsewhere. What breaks HTTP/2 ends the connection. Where the server ends it (GOAWAY), what it has taken may be
//! answered for [`DRAIN_TIMEOUT`]; the rest is then asked over another.

mod pipe;
mod request;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::io::{ErrorKind, Read, Write};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use h2::Reason;
use h2::client::{Builder, Connection, SendRequest};
use mio::net::TcpStream;
use rustls::ClientConnection;
use slab::Slab;
use socket2::SockRef;

use crate::limits::{
    UPSTREAM_HTTPS_HEADER_LEN, UPSTREAM_HTTPS_LEN, UPSTREAM_HTTPS_REQUESTS, UPSTREAM_QUEUE_LEN,
};
use crate::upstream::standing::{Buffers, End, Flight, READS_PER_TURN, Standing, read};
use crate::upstream::tls::{Alpn, take_leave};
use pipe::{Pipe, Woken};
use request::{HttpsRequest, RequestOutcome};

pub(crate) use request::RequestTarget;

/// How long a server that ends the connection has for what it still answers. Who waits for the rest waits as long.
const DRAIN_TIMEOUT: Duration = Duration::from_millis(500);

/// Bytes of a frame at most: the least that RFC 9113 §4.2 has.
const FRAME_LEN: u32 = 16 << 10;

/// Bytes of one answer that a server may send at once: more than a DNS message has, so that one that is too long shows
/// that it is, and does not wait for us to take more.
const WINDOW_LEN: u32 = 2 * (u16::MAX as u32 + 1);

/// Bytes that may come without any answer: as many as may have come of some, and their headers.
const MAX_UNANSWERED_LEN: usize = 2 * UPSTREAM_HTTPS_LEN as usize;

/// Requests that were given up, of which the server may not know yet: more end the connection.
const MAX_RESETS: usize = 128;

/// Questions in flight before the first answer: BIND 9.18 drops a connection on which it has read the headers of 51
/// requests, and of none the whole, although it says that there may be a hundred.
const FIRST_REQUESTS: usize = 32;

/// How often HTTP/2 gets its turn in one of ours while the network takes what it writes.
const MAX_POLLS: usize = 8;

/// HTTP/2, when the handshake of TLS is over.
struct Http {
    connection: Connection<Pipe, Bytes>,
    sender: SendRequest<Bytes>,
}

/// A connection to one upstream, made because there is a query for it.
pub(crate) struct Https<S = TcpStream> {
    stream: S,
    tls: Rc<RefCell<ClientConnection>>,
    target: RequestTarget,
    http: Option<Http>,
    /// Queries that have not been sent, by their ids; in the messages the id is 0 (RFC 8484 §4.1).
    waiting: VecDeque<(u16, Bytes)>,
    waiting_len: usize,
    requests: Slab<HttpsRequest>,
    woken: Arc<Woken>,
    wakers: Vec<Waker>,
    flight: Flight,
    fault: Option<String>,
    /// Bytes that have come since the last answer.
    unanswered_len: usize,
    /// Until when the server that ends it may answer, and why it does, if it has said so.
    leaving: Option<(Instant, Option<Reason>)>,
}

impl<S: Read + Write> Https<S> {
    /// A connection over `stream`, which is just being made, and `tls`.
    pub(crate) fn new(stream: S, mut tls: ClientConnection, target: RequestTarget, now: Instant) -> Self {
        tls.set_buffer_limit(Some(UPSTREAM_QUEUE_LEN));
        let woken = Arc::new(Woken::default());
        Self {
            stream,
            tls: Rc::new(RefCell::new(tls)),
            target,
            http: None,
            waiting: VecDeque::new(),
            waiting_len: 0,
            requests: Slab::new(),
            wakers: woken.wakers(),
            woken,
            flight: Flight::new(now),
            fault: None,
            unanswered_len: 0,
            leaving: None,
        }
    }

    /// Queues `message`, a query with an id of its own, for the next turn, which is to be soon. Returns whether it may:
    /// not while too many wait that the upstream does not take.
    #[must_use]
    pub(crate) fn send(&mut self, message: &[u8], now: Instant) -> bool {
        let Some((id, rest)) = message.split_first_chunk::<2>() else { return false };
        if self.waiting_len + message.len() > UPSTREAM_QUEUE_LEN {
            return false;
        }
        self.flight.note_query(now);
        let mut body = BytesMut::with_capacity(message.len());
        body.extend_from_slice(&[0, 0]);
        body.extend_from_slice(rest);
        self.waiting_len += message.len();
        self.waiting.push_back((u16::from_be_bytes(*id), body.freeze()));
        true
    }

    /// When it is to have a turn even if nothing happens.
    #[must_use]
    pub(crate) fn deadline(&self) -> Instant {
        let deadline = self.flight.deadline();
        self.leaving.map_or(deadline, |(until, _)| until.min(deadline))
    }

    /// Whether the last that it has brought was an answer.
    #[must_use]
    pub(crate) fn has_answered(&self) -> bool {
        self.flight.has_answered()
    }

    /// Why a question had no answer since this was asked last.
    pub(crate) fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    /// Reads what is there and gives each answer to `take`; sends what waits.
    pub(crate) fn turn(
        &mut self,
        buffers: &mut Buffers,
        now: Instant,
        take: &mut dyn FnMut(&[u8]),
    ) -> Standing {
        let turned = self.read(buffers, now, take);
        let turned = turned.and_then(|more| self.write(now).map(|()| more));
        let end = match turned {
            Ok(_) if self.leaving.is_some_and(|(until, _)| self.requests.is_empty() || until <= now) => {
                self.end_of_leave()
            }
            Ok(_) if self.deadline() <= now => self.flight.patience().1,
            Ok(true) => return Standing::More,
            Ok(false) => return Standing::Open,
            Err(end) => end,
        };
        take_leave(&mut self.tls.borrow_mut(), &mut self.stream);
        Standing::Closed(end)
    }

    /// How it ends that the server has ended.
    fn end_of_leave(&self) -> End {
        match self.leaving {
            _ if self.flight.in_flight() == 0 => End::Idle,
            Some((_, Some(reason))) if reason != Reason::NO_ERROR => {
                End::GoingAway(reason.description().to_owned())
            }
            _ => End::ByServer,
        }
    }

    /// Reads until the stream is empty, or the others are due. Returns whether there may be more.
    fn read(
        &mut self,
        buffers: &mut Buffers,
        now: Instant,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, End> {
        for _ in 0..READS_PER_TURN {
            let Some(len) = read(&mut self.stream, &mut buffers.network)? else { return Ok(false) };
            let mut records = &buffers.network[..len];
            let mut is_over = len == 0;
            self.unanswered_len += len;
            while !records.is_empty() {
                let mut tls = self.tls.borrow_mut();
                // There is no room only if HTTP/2 does not read on, before what it has to say for that is taken.
                let full = |_| End::Http("the upstream sends much, and takes nothing".into());
                is_over |= tls.read_tls(&mut records).map_err(full)? == 0;
                is_over |= tls.process_new_packets().map_err(End::Tls)?.peer_has_closed();
                drop(tls);
                let polled = self.poll(now);
                self.collect(&mut buffers.input, now, take)?;
                polled?;
                if is_over {
                    break;
                }
            }
            if self.unanswered_len > MAX_UNANSWERED_LEN {
                return Err(End::Http("the upstream sends much, and answers nothing".into()));
            }
            if is_over {
                return Err(if self.leaving.is_some() { self.end_of_leave() } else { End::ByServer });
            }
        }
        Ok(true)
    }

    /// Sends what waits, as far as the server lets us, and writes until all is written or the stream takes no more.
    fn write(&mut self, now: Instant) -> Result<(), End> {
        for _ in 0..MAX_POLLS {
            self.start(now)?;
            self.poll(now)?;
            let mut tls = self.tls.borrow_mut();
            if !tls.wants_write() {
                return Ok(());
            }
            let mut written = 0;
            while tls.wants_write() {
                match tls.write_tls(&mut self.stream) {
                    Ok(0) => return Err(End::Io(ErrorKind::WriteZero.into())),
                    Ok(len) => written += len,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(End::Io(error)),
                }
            }
            // HTTP/2 has more only if the session was full.
            if written < UPSTREAM_QUEUE_LEN / 2 {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Begins HTTP/2 if the handshake is over, and lets it do what it can.
    fn poll(&mut self, now: Instant) -> Result<(), End> {
        if !self.flight.is_open() {
            if self.tls.borrow().is_handshaking() {
                return Ok(());
            }
            if self.tls.borrow().alpn_protocol() != Some(Alpn::H2.id()) {
                return Err(End::NotSpoken("HTTP/2"));
            }
            self.http = Some(begin(Pipe::new(Rc::clone(&self.tls)))?);
            self.flight.note_open(true, now);
        }
        let Some(http) = &mut self.http else { return Ok(()) };
        let mut cx = Context::from_waker(Waker::noop());
        let polled = Pin::new(&mut http.connection).poll(&mut cx);
        if self.leaving.is_none()
            && let Poll::Ready(Err(error)) = http.sender.poll_ready(&mut cx)
            && error.is_go_away()
            && error.is_remote()
        {
            self.leaving = Some((now + DRAIN_TIMEOUT, error.reason()));
        }
        match polled {
            _ if self.leaving.is_some() => Ok(()),
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => Err(End::ByServer),
            Poll::Ready(Err(error)) => Err(ended(error)),
        }
    }

    /// Asks what waits, as far as the server lets us.
    fn start(&mut self, now: Instant) -> Result<(), End> {
        let Some(http) = self.http.as_mut().filter(|_| self.leaving.is_none()) else { return Ok(()) };
        let most = if self.flight.has_answered() { UPSTREAM_HTTPS_REQUESTS } else { FIRST_REQUESTS };
        let most = most.min(http.sender.current_max_send_streams());
        while self.requests.len() < most {
            let Some((id, body)) = self.waiting.pop_front() else { break };
            self.waiting_len -= body.len();
            let request = self.target.request(body.len());
            let sent = http.sender.send_request(request, false).and_then(|(response, mut stream)| {
                stream.send_data(body, true)?;
                Ok(response)
            });
            match sent {
                // The first look leaves its waker there.
                Ok(response) => self.woken.wake(self.requests.insert(HttpsRequest::new(id, response))),
                Err(error) if error.is_go_away() && error.is_remote() => {
                    self.leaving = Some((now + DRAIN_TIMEOUT, error.reason()));
                    break;
                }
                Err(error) => return Err(ended(error)),
            }
        }
        Ok(())
    }

    /// Gives the answers that have come to `take`, and notes why others have not.
    fn collect(&mut self, room: &mut [u8], now: Instant, take: &mut dyn FnMut(&[u8])) -> Result<(), End> {
        for number in self.woken.take() {
            let (Some(request), Some(waker)) = (self.requests.get_mut(number), self.wakers.get(number))
            else {
                continue;
            };
            let Poll::Ready(outcome) = request.poll(&mut Context::from_waker(waker), room) else { continue };
            match outcome {
                RequestOutcome::Answer(len) => {
                    self.flight.note_answer(now)?;
                    take(&room[..len]);
                }
                RequestOutcome::Failed(why) => {
                    self.flight.note_failure(now);
                    self.fault = Some(why);
                    take(&request.failure());
                }
                // It stays in flight, for the end of the connection to say so.
                RequestOutcome::Unprocessed => {}
            }
            self.requests.remove(number);
            self.unanswered_len = 0;
        }
        Ok(())
    }
}

impl Https {
    /// Has the kernel acknowledge at once what has come, as [`super::stream::UpstreamStream::acknowledge`] does.
    pub(crate) fn acknowledge(&self) {
        let _ = SockRef::from(&self.stream).set_tcp_quickack(true);
    }
}

fn begin(pipe: Pipe) -> Result<Http, End> {
    let mut builder = Builder::new();
    builder
        .enable_push(false)
        .initial_window_size(WINDOW_LEN)
        .initial_connection_window_size(UPSTREAM_HTTPS_LEN)
        .max_frame_size(FRAME_LEN)
        .max_header_list_size(UPSTREAM_HTTPS_HEADER_LEN)
        .max_concurrent_streams(0)
        .max_concurrent_reset_streams(MAX_RESETS)
        .max_local_error_reset_streams(Some(MAX_RESETS))
        .max_pending_accept_reset_streams(0)
        .max_send_buffer_size(UPSTREAM_QUEUE_LEN);
    let handshake = pin!(builder.handshake::<_, Bytes>(pipe));
    // All that it does is to write a few bytes, for which a new session has room.
    match handshake.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok((sender, connection))) => Ok(Http { connection, sender }),
        Poll::Ready(Err(error)) => Err(ended(error)),
        Poll::Pending => Err(End::Http("there is no room to begin".into())),
    }
}

fn ended(error: h2::Error) -> End {
    if error.is_io() {
        let text = error.to_string();
        return error.into_io().map_or(End::Http(text), End::Io);
    }
    End::Http(error.to_string())
}
