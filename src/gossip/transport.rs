//! The gossip's sockets: datagrams for what is small and now, streams for what is much.
//!
//! Runs on the thread `cluster`, in its event loop; nothing in here waits. All that goes out is sealed, and only what
//! could be opened comes in. What a socket does not take is dropped: anti-entropy makes up for it.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpListener, UdpSocket};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::cipher::Rejected;
use super::engine::{Engine, Output};
use super::key_ring::KeyRing;
use super::message::Message;
use super::seal::Seal;
use super::stream::{Stream, Turn};
use super::stream_seal::Side;
use crate::limits::{MAX_FETCHED_STREAMS, MAX_REQUEST_LEN};
use crate::store::{NodeId, Want};

/// Bytes of datagrams that are taken in one turn, with what is said to them.
const DATAGRAM_BYTES_PER_TURN: usize = crate::limits::GOSSIP_BYTES_PER_TURN;

/// What a datagram counts for at least, in bytes: a system call takes as long, however short it is.
const DATAGRAM_COST: usize = 256;

/// Bytes of streams that are taken and given in one turn, of all together.
const STREAM_BYTES_PER_TURN: usize = crate::limits::STREAM_BYTES_PER_TURN;

/// How often it is looked whether streams that were not read for want of room can be.
const RESUME_PERIOD: Duration = Duration::from_millis(2);

/// Bytes of a datagram at most: of one change that is as long as it may be, sealed.
const MAX_DATAGRAM_LEN: usize = crate::limits::MAX_GOSSIP_DATAGRAM_LEN;

/// Bytes asked of the kernel for datagrams that wait, each way.
const SOCKET_BUFFER_LEN: usize = 4 * 1024 * 1024;

/// Streams from others at a time; more are closed at once, and come again.
const MAX_SERVED: usize = crate::limits::MAX_SERVED_STREAMS;

/// Streams of one node among them.
const MAX_SERVED_OF_ONE: usize = crate::limits::MAX_SERVED_OF_ONE;

/// How often another free port is tried when the kernel picked one for UDP that TCP has in use.
const PORT_TRIES: usize = 16;

/// The sockets' tokens begin here; those below are the owner's of the event loop.
const FIRST_TOKEN: usize = 16;
const UDP: Token = Token(FIRST_TOKEN);
const LISTENER: Token = Token(FIRST_TOKEN + 1);
const FIRST_STREAM: usize = FIRST_TOKEN + 2;

/// What has come and gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Datagrams that could be opened.
    pub datagrams_in: u64,
    /// Bytes of all datagrams that came.
    pub bytes_in: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Bytes of these.
    pub bytes_out: u64,
    /// Bytes of streams that came.
    pub stream_bytes_in: u64,
    /// Bytes of streams that were sent.
    pub stream_bytes_out: u64,
    /// Datagrams that the kernel did not take.
    pub datagrams_unsent: u64,
    /// Streams opened to other nodes.
    pub streams_out: u64,
    /// Streams opened by other nodes.
    pub streams_in: u64,
    /// Streams that were closed because there were too many, or because of their other end: it was silent or slow, or
    /// what it sent could not be opened.
    pub streams_broken: u64,
    /// Datagrams and streams that could not be opened, by reason.
    pub rejected: [u64; Rejected::ALL.len()],
}

/// Why the sockets are not there.
#[derive(Debug)]
pub struct TransportError {
    address: SocketAddr,
    source: io::Error,
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        write!(f, "cannot gossip at {address}: ")?;
        match source.kind() {
            ErrorKind::AddrInUse => {
                write!(f, "another program has port {}; choose another with --gossip", address.port())
            }
            ErrorKind::AddrNotAvailable => {
                f.write_str("this machine has no such address (`ip address` lists them)")
            }
            _ => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for TransportError {}

/// The sockets.
pub struct GossipSockets {
    address: SocketAddr,
    udp: UdpSocket,
    listener: TcpListener,
    seal: Seal,
    streams: slab::Slab<Stream>,
    traffic: Traffic,
    buffer: Vec<u8>,
    sealed: Vec<u8>,
    /// There may be datagrams that the event loop has told of already.
    udp_has_more: bool,
    /// The same of streams, in the order of their turns.
    busy: VecDeque<usize>,
    /// Streams that are not read since too many names wait to be published.
    paused: Vec<usize>,
    /// When it is looked for room for them.
    resume: Duration,
    /// What `sealed` has, if others get the same.
    last: Option<Arc<[u8]>>,
}

impl GossipSockets {
    /// Binds `address` over UDP and TCP.
    ///
    /// # Errors
    /// [`TransportError`].
    pub fn bind(
        address: SocketAddr,
        cluster: &str,
        ring: Option<KeyRing>,
        registry: &Registry,
    ) -> Result<Self, TransportError> {
        let fail = |source| TransportError { address, source };
        let (mut udp, mut listener) = bind_both(address).map_err(fail)?;
        registry.register(&mut udp, UDP, Interest::READABLE).map_err(fail)?;
        registry.register(&mut listener, LISTENER, Interest::READABLE).map_err(fail)?;
        Ok(Self {
            address: udp.local_addr().map_err(fail)?,
            udp,
            listener,
            seal: Seal::new(cluster, ring),
            streams: slab::Slab::new(),
            traffic: Traffic::default(),
            buffer: vec![0; MAX_DATAGRAM_LEN],
            sealed: Vec::with_capacity(MAX_DATAGRAM_LEN),
            udp_has_more: false,
            busy: VecDeque::new(),
            paused: Vec::new(),
            resume: Duration::ZERO,
            last: None,
        })
    }

    /// Where it gossips.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What has come and gone.
    #[must_use]
    pub fn traffic(&self) -> &Traffic {
        &self.traffic
    }

    /// Other keys from now on; streams that are under way go on with theirs.
    pub fn set_ring(&mut self, ring: Option<KeyRing>) {
        self.last = None;
        self.seal.set_ring(ring);
    }

    /// Whether there is work that the event loop will not tell of.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.udp_has_more || !self.busy.is_empty()
    }

    /// Streams that are open.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// Bytes of the streams' buffers.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.streams.iter().map(|(_, stream)| stream.buffered()).sum()
    }

    /// Does what the engine wants to be done. Returns how many bytes were sent, short datagrams counted as longer ones.
    pub fn send_all(&mut self, now: Duration, registry: &Registry, engine: &mut Engine) -> usize {
        let me = engine.me();
        let mut cost = 0;
        while let Some(output) = engine.poll() {
            match output {
                Output::Datagram { to, bytes } => {
                    cost += bytes.len().max(DATAGRAM_COST);
                    self.send(to, bytes);
                }
                Output::Fetch { to, wants } => {
                    if !self.fetch(now, registry, me, to, wants) {
                        engine.handle_fetch_end(to, false);
                    }
                }
            }
        }
        self.last = None;
        cost
    }

    fn send(&mut self, to: SocketAddr, bytes: Arc<[u8]>) {
        // What goes to several is sealed once: it is one message, whoever gets it.
        if !self.last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &bytes)) {
            self.sealed.clear();
            self.seal.seal(&bytes, &mut self.sealed);
            self.last = Some(bytes);
        }
        match self.udp.send_to(&self.sealed, to) {
            Ok(len) => {
                self.traffic.datagrams_out += 1;
                self.traffic.bytes_out += len as u64;
            }
            Err(_) => self.traffic.datagrams_unsent += 1,
        }
    }

    /// Begins to ask a node for much. Returns whether that was possible.
    fn fetch(
        &mut self,
        now: Duration,
        registry: &Registry,
        me: NodeId,
        to: SocketAddr,
        wants: Vec<Want>,
    ) -> bool {
        // A request is over before a stream that stalls is.
        let mut open = self.streams.iter().map(|(_, stream)| stream).filter(|stream| stream.is_fetch());
        if open.clone().count() >= MAX_FETCHED_STREAMS || open.any(|stream| stream.peer() == to) {
            return false;
        }
        let request = Message::Want(wants).encode(me);
        if request.len() > MAX_REQUEST_LEN {
            return false; // thousands of origins at once: the next digests tell of fewer
        }
        let stream = Stream::fetch(now, to, self.seal.stream(Side::Client), &request);
        let opened = stream.is_ok_and(|stream| self.insert(registry, stream));
        self.traffic.streams_out += u64::from(opened);
        opened
    }

    fn insert(&mut self, registry: &Registry, mut stream: Stream) -> bool {
        let entry = self.streams.vacant_entry();
        let (key, interest) = (entry.key(), Interest::READABLE | Interest::WRITABLE);
        let registered = registry.register(stream.socket(), Token(FIRST_STREAM + key), interest).is_ok();
        if registered {
            entry.insert(stream);
            self.busy.push_back(key);
        }
        registered
    }

    /// Takes note of what the event loop tells of a socket; [`work`](Self::work) does what follows.
    pub fn note(&mut self, now: Duration, event: &Event, registry: &Registry) {
        match event.token() {
            UDP => self.udp_has_more = true,
            LISTENER => self.accept(now, registry),
            Token(token) => {
                let key = token.saturating_sub(FIRST_STREAM);
                let known = self.busy.contains(&key) || self.paused.contains(&key);
                if self.streams.contains(key) && !known {
                    self.busy.push_back(key);
                }
            }
        }
    }

    fn accept(&mut self, now: Duration, registry: &Registry) {
        while let Ok((socket, peer)) = self.listener.accept() {
            if self.streams.iter().filter(|(_, stream)| !stream.is_fetch()).count() >= MAX_SERVED {
                self.traffic.streams_broken += 1;
                // Whoever has said nothing yet makes room: it may be anybody.
                let unknown = self.streams.iter().filter(|(_, stream)| stream.is_unknown());
                let Some((oldest, _)) = unknown.min_by_key(|(_, stream)| stream.deadline()) else { continue };
                self.close(registry, oldest);
            }
            let stream = Stream::serve(now, socket, peer, self.seal.stream(Side::Server));
            self.traffic.streams_in += u64::from(self.insert(registry, stream));
        }
    }

    fn close(&mut self, registry: &Registry, key: usize) {
        if let Some(mut stream) = self.streams.try_remove(key) {
            // It is closed right after, which takes it out of the event loop as well.
            let _ = registry.deregister(stream.socket());
        }
        self.busy.retain(|&busy| busy != key);
        self.paused.retain(|&paused| paused != key);
    }

    /// Takes what has come and does what streams have to do, as much as is one turn's: datagrams first, then each
    /// stream a frame after the other.
    pub fn work(&mut self, now: Duration, registry: &Registry, engine: &mut Engine) {
        self.receive(now, registry, engine);
        if now >= self.resume {
            self.busy.extend(self.paused.drain(..));
        }
        let mut left = STREAM_BYTES_PER_TURN;
        while left > 0 {
            let Some(key) = self.busy.pop_front() else { break };
            let Some(stream) = self.streams.get_mut(key) else { continue };
            let waits =
                stream.is_fetch() && !engine.takes_bulk() || stream.is_served() && !engine.gives_bulk(now);
            if waits {
                stream.rest(now);
                self.paused.push(key);
                self.resume = now + RESUME_PERIOD;
                continue;
            }
            let (turn, work) = stream.work(now, engine);
            self.traffic.stream_bytes_in += work.taken as u64;
            self.traffic.stream_bytes_out += work.sent as u64;
            left = left.saturating_sub((work.taken + work.sent).max(DATAGRAM_COST));
            match turn {
                Turn::Waits => {}
                Turn::HasMore if self.asks_too_often(key) => self.end(registry, engine, key, Turn::Broken),
                Turn::HasMore => self.busy.push_back(key),
                end => self.end(registry, engine, key, end),
            }
        }
        let late = self.streams.iter().filter(|(_, stream)| now >= stream.deadline());
        for key in late.map(|(key, _)| key).collect::<Vec<_>>() {
            self.end(registry, engine, key, Turn::Broken);
        }
    }

    /// Whether the node that has opened this stream has opened too many.
    fn asks_too_often(&self, key: usize) -> bool {
        let sender = self.streams.get(key).and_then(Stream::sender);
        let same = self.streams.iter().filter(|(_, stream)| stream.sender() == sender);
        sender.is_some() && same.count() > MAX_SERVED_OF_ONE
    }

    /// Closes a stream that has ended so.
    fn end(&mut self, registry: &Registry, engine: &mut Engine, key: usize, turn: Turn) {
        match turn {
            Turn::Rejected(rejected) => self.traffic.rejected[rejected.index()] += 1,
            Turn::Broken => self.traffic.streams_broken += 1,
            _ => {}
        }
        if let Some(stream) = self.streams.get(key).filter(|stream| stream.is_fetch()) {
            engine.handle_fetch_end(stream.peer(), turn == Turn::Ended);
        }
        self.close(registry, key);
    }

    fn receive(&mut self, now: Duration, registry: &Registry, engine: &mut Engine) {
        if !std::mem::take(&mut self.udp_has_more) {
            return;
        }
        let mut left = DATAGRAM_BYTES_PER_TURN;
        while left > 0 {
            match self.udp.recv_from(&mut self.buffer) {
                Ok((len, from)) => {
                    self.traffic.bytes_in += len as u64;
                    match self.seal.open(&mut self.buffer[..len]) {
                        Ok(bytes) => {
                            self.traffic.datagrams_in += 1;
                            engine.handle_datagram(now, from, bytes);
                        }
                        Err(rejected) => self.traffic.rejected[rejected.index()] += 1,
                    }
                    let said = self.send_all(now, registry, engine);
                    left = left.saturating_sub(len.max(DATAGRAM_COST) + said);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What a peer's host says of an earlier datagram of ours, for example that nobody listens there.
                Err(_) => left -= DATAGRAM_COST.min(left),
            }
        }
        self.udp_has_more = true;
    }

    /// When [`work`](Self::work) should be called next, if nothing comes.
    #[must_use]
    pub fn next_time(&self) -> Option<Duration> {
        let resume = (!self.paused.is_empty()).then_some(self.resume);
        self.streams.iter().map(|(_, stream)| stream.deadline()).chain(resume).min()
    }
}

/// A port that is free for both transports.
fn bind_both(address: SocketAddr) -> io::Result<(UdpSocket, TcpListener)> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        // The kernel gives what it may; less costs datagrams under load, which come again.
        let _ = socket.set_recv_buffer_size(SOCKET_BUFFER_LEN);
        let _ = socket.set_send_buffer_size(SOCKET_BUFFER_LEN);
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        let udp = UdpSocket::from_std(socket.into());
        match TcpListener::bind(udp.local_addr()?) {
            Ok(listener) => return Ok((udp, listener)),
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(error),
        }
    }
}
