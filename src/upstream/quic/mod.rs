//! One connection to an upstream over QUIC (RFC 9250): each query on a stream of its own, answers in any order.
//!
//! Runs on the worker that asks. It does no I/O but through the socket it is given, and takes the time as an argument,
//! so that its tests need neither sockets nor clocks. Packets, their loss and their encryption are `quinn-proto`'s,
//! which is driven from here without any runtime; what a connection may take of time and memory is in `transport`.
//!
//! An answer is one whole message and the end of its stream. Anything else breaks the protocol and ends the connection
//! (RFC 9250 §4.3.3). A stream that the server resets is its word that it cannot answer this one query: that is handed
//! on as SERVFAIL.

mod end;
mod streams;
#[cfg(test)]
mod tests;
pub(crate) mod transport;
#[cfg(test)]
mod world;

use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use mio::net::UdpSocket;
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Endpoint, Event, StreamEvent, VarInt,
};
use rustls::pki_types::ServerName;

use crate::sys::tls_trust::take_refusal;
use crate::upstream::standing::{Buffers, End, Flight, Standing};
use end::end_of;
use streams::{Progress, Queries};

/// Datagrams received, and datagrams sent, before the worker's other sockets get their turn.
const DATAGRAMS_PER_TURN: usize = crate::limits::BATCH_LEN;

/// How a connection is ended without a fault (RFC 9250 §4.3).
const DOQ_NO_ERROR: u32 = 0;
/// How one is ended whose server breaks the protocol.
const DOQ_PROTOCOL_ERROR: u32 = 2;

/// A socket that is connected to the upstream, and does not block.
pub trait Datagrams {
    /// Receives one datagram into `room`, and returns its length.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; else what the upstream's host or something on the way has reported.
    fn receive(&mut self, room: &mut [u8]) -> io::Result<usize>;

    /// Sends `bytes` as one datagram.
    ///
    /// # Errors
    /// `WouldBlock` when the kernel takes none now; else as at a receive, and what our own kernel says: there is no
    /// way.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Datagrams for UdpSocket {
    fn receive(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.recv(room)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        UdpSocket::send(self, bytes).map(drop)
    }
}

/// A socket for a connection to `address`, at a port that the kernel gives. It is to be registered with the poll,
/// readable and writable, before the connection gets its first turn.
///
/// # Errors
/// What the kernel says at once: out of descriptors, no route.
pub fn connect(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    Ok(socket)
}

/// A connection to one upstream, made because there is a query for it.
pub struct QuicConnection<S: Datagrams = UdpSocket> {
    socket: S,
    server: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Box<Connection>,
    queries: Queries,
    flight: Flight,
    /// The other side has been told of the end, or has told us.
    ended: bool,
    /// When QUIC wants a turn: to send what was lost once more, to acknowledge, to go on sending.
    timer: Option<Instant>,
    /// A datagram that the socket has not taken; there is no other before it.
    unsent: Vec<u8>,
    /// What was wrong with an answer.
    fault: Option<String>,
    /// The time of the last turn.
    now: Instant,
}

impl<S: Datagrams> QuicConnection<S> {
    /// A connection over `socket` to the `server` that proves to be `name` as `config` wants it. `config` is of
    /// `transport::client_config`.
    ///
    /// # Errors
    /// When TLS cannot begin.
    pub fn new(
        socket: S,
        server: SocketAddr,
        (config, name): (ClientConfig, &ServerName<'_>),
        now: Instant,
    ) -> io::Result<Self> {
        // Each connection has a socket of its own, as each has over TCP: datagrams belong to it by that, and not by an
        // id in them.
        let mut endpoint = Endpoint::new(transport::endpoint_config(), None, false, None);
        let (handle, connection) =
            endpoint.connect(now, config, server, &name.to_str()).map_err(io::Error::other)?;
        Ok(Self {
            socket,
            server,
            endpoint,
            handle,
            connection: Box::new(connection),
            queries: Queries::default(),
            flight: Flight::new(now),
            ended: false,
            timer: None,
            unsent: Vec::new(),
            fault: None,
            now,
        })
    }

    /// Queues `message`, a query, for the next turn, which is to be soon. Returns whether it may: not while too many
    /// wait for a stream that the upstream does not give.
    #[must_use]
    pub fn send(&mut self, message: &[u8], now: Instant) -> bool {
        let has_room = self.queries.push(message);
        if has_room {
            self.flight.note_query(now);
        }
        has_room
    }

    /// When it is to have a turn even if nothing happens.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        let deadline = self.flight.deadline();
        self.timer.map_or(deadline, |timer| timer.min(deadline))
    }

    /// Whether it has brought any answer: then what is left in flight when it ends is worth another connection at once.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.flight.has_answered()
    }

    /// What was wrong with a query's answer since this was asked last, where the others on the connection go on.
    pub fn take_fault(&mut self) -> Option<String> {
        self.fault.take()
    }

    /// Reads what is there and gives each whole answer to `take`, with the id of its query; sends what there is to
    /// send.
    pub fn turn(&mut self, buffers: &mut Buffers, now: Instant, take: &mut dyn FnMut(&[u8])) -> Standing {
        self.now = now;
        // One of another connection, over TLS.
        drop(take_refusal());
        let received = self.receive(buffers, now);
        // What the upstream answered before its host said that it is gone is taken before that counts.
        let turned = self.advance(now, take).and_then(|()| {
            let more = received?;
            Ok(self.transmit(now)? || more)
        });
        self.timer = self.connection.poll_timeout();
        let end = match turned {
            Ok(_) if self.flight.deadline() <= now => self.flight.patience().1,
            Ok(true) => return Standing::More,
            Ok(false) => return Standing::Open,
            Err(end) => end,
        };
        self.take_leave(matches!(end, End::NoMessage | End::Quic(_)));
        Standing::Closed(end)
    }

    /// Receives until the socket is empty, or the others are due. Returns whether there may be more.
    fn receive(&mut self, buffers: &mut Buffers, now: Instant) -> io::Result<bool> {
        let room = &mut buffers.network[..];
        for _ in 0..DATAGRAMS_PER_TURN {
            let len = match self.socket.receive(room) {
                Ok(len) => len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let datagram = BytesMut::from(&room[..len]);
            // What is of no connection would be answered with a reset: the client's side has no use for that.
            let event = self.endpoint.handle(now, self.server, None, None, datagram, &mut Vec::new());
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.connection.handle_event(event);
            }
        }
        Ok(true)
    }

    /// Does what has become possible or due by what was received and by the time.
    fn advance(&mut self, now: Instant, take: &mut dyn FnMut(&[u8])) -> Result<(), End> {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        self.exchange_events();
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.flight.note_open(true, now),
                Event::ConnectionLost { reason } => {
                    self.ended = self.connection.is_drained();
                    return Err(end_of(&reason, take_refusal(), self.flight.patience().1));
                }
                Event::Stream(StreamEvent::Readable { id }) => {
                    match self.queries.read(&mut self.connection, id, take)? {
                        Progress::None => {}
                        Progress::Answer => self.flight.note_answer(now)?,
                        Progress::Reset(code) => {
                            self.flight.note_failure(now);
                            self.fault = Some(format!("QUIC: it does not answer: {}", end::meaning(code)));
                        }
                    }
                }
                Event::Stream(StreamEvent::Writable { id }) => self.queries.write(&mut self.connection, id),
                // A server that has read a query may stop its stream; whether it answers shows in its answer.
                _ => {}
            }
        }
        // If all wait for too long, it is the connection that is given up.
        if self.flight.deadline() > now {
            let given_up = self.queries.give_up(&mut self.connection, now);
            (0..given_up).for_each(|_| self.flight.note_loss());
        }
        if self.flight.is_open() {
            self.queries.begin(&mut self.connection, now);
        }
        Ok(())
    }

    /// Carries messages between the two parts of QUIC: which ids there are, and which resets would end the connection.
    fn exchange_events(&mut self) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
    }

    /// Sends until all is sent, the socket takes no more or the others are due. Returns whether there may be more.
    fn transmit(&mut self, now: Instant) -> io::Result<bool> {
        for _ in 0..DATAGRAMS_PER_TURN {
            if self.unsent.is_empty() && self.connection.poll_transmit(now, 1, &mut self.unsent).is_none() {
                return Ok(false);
            }
            match self.socket.send(&self.unsent) {
                Ok(()) => self.unsent.clear(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Tells the other side that this is the end, as far as it can be told at once.
    fn take_leave(&mut self, broken: bool) {
        if self.ended {
            return;
        }
        self.ended = true;
        let code = if broken { DOQ_PROTOCOL_ERROR } else { DOQ_NO_ERROR };
        self.connection.close(self.now, VarInt::from_u32(code), Bytes::new());
        self.unsent.clear();
        if self.connection.poll_transmit(self.now, 1, &mut self.unsent).is_some() {
            let _ = self.socket.send(&self.unsent);
        }
    }
}

/// A server would keep a connection that nobody closes for as long as it keeps idle ones.
impl<S: Datagrams> Drop for QuicConnection<S> {
    fn drop(&mut self) {
        self.take_leave(false);
    }
}
