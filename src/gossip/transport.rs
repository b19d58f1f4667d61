//! The gossip's sockets: datagrams for what is small and now, streams for what is much.
//!
//! Runs on the control thread, in its event loop; nothing in here waits. All that goes out is sealed, and only what could
//! be opened comes in. What a socket does not take is dropped: anti-entropy makes up for it.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::time::Duration;

use mio::event::Event;
use mio::net::{TcpListener, UdpSocket};
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use super::engine::{Engine, Output};
use super::key_ring::KeyRing;
use super::message::Message;
use super::seal::{Rejected, Seal};
use super::stream::{Stream, Turn};
use super::stream_seal::{MAX_FRAME_LEN, Side};
use crate::store::{NodeId, Want};

/// Datagrams that are taken before others get their turn.
const DATAGRAMS_PER_TURN: usize = crate::limits::GOSSIP_DATAGRAMS_PER_TURN;

/// Bytes of a datagram at most: of one change that is as long as it may be, sealed.
const MAX_DATAGRAM_LEN: usize = crate::limits::MAX_GOSSIP_DATAGRAM_LEN;

/// Bytes asked of the kernel for datagrams that wait, each way.
const SOCKET_BUFFER_LEN: usize = 4 * 1024 * 1024;

/// Streams from others at a time; more are closed at once, and come again.
const MAX_SERVED: usize = crate::limits::MAX_SERVED_STREAMS;

/// Streams to others at a time.
const MAX_FETCHED: usize = crate::limits::MAX_FETCHED_STREAMS;

/// How often another free port is tried when the kernel picked one for UDP that TCP has in use.
const PORT_TRIES: usize = 16;

/// The sockets' tokens begin here; those below are the owner's of the event loop.
pub const FIRST_TOKEN: usize = 16;
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
    /// Datagrams that the kernel did not take.
    pub datagrams_unsent: u64,
    /// Streams opened to other nodes.
    pub streams_out: u64,
    /// Streams opened by other nodes.
    pub streams_in: u64,
    /// Streams that were closed because there were too many, or because of their other end: it was silent or slow, or what
    /// it sent could not be opened.
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
pub struct Transport {
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
    /// The same of streams.
    busy: Vec<usize>,
}

impl Transport {
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
            busy: Vec::new(),
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

    /// Does what the engine wants to be done.
    pub fn send_all(&mut self, now: Duration, registry: &Registry, engine: &mut Engine) {
        let me = engine.me();
        while let Some(output) = engine.poll() {
            match output {
                Output::Datagram { to, bytes } => self.send(to, &bytes),
                Output::Fetch { to, wants } => self.fetch(now, registry, me, to, wants),
            }
        }
    }

    fn send(&mut self, to: SocketAddr, bytes: &[u8]) {
        self.sealed.clear();
        self.seal.seal(bytes, &mut self.sealed);
        match self.udp.send_to(&self.sealed, to) {
            Ok(len) => {
                self.traffic.datagrams_out += 1;
                self.traffic.bytes_out += len as u64;
            }
            Err(_) => self.traffic.datagrams_unsent += 1,
        }
    }

    /// Begins to ask a node for much, unless as much is under way already.
    fn fetch(&mut self, now: Duration, registry: &Registry, me: NodeId, to: SocketAddr, wants: Vec<Want>) {
        let mut fetched = self.streams.iter().filter(|(_, stream)| stream.is_fetch());
        if fetched.clone().count() >= MAX_FETCHED || fetched.any(|(_, stream)| stream.peer() == to) {
            return;
        }
        let request = Message::Want(wants).encode(me);
        if request.len() > MAX_FRAME_LEN / 2 {
            return; // thousands of origins at once: the next digests tell of fewer
        }
        if let Ok(stream) = Stream::fetch(now, to, self.seal.stream(Side::Client), &request) {
            self.traffic.streams_out += u64::from(self.insert(registry, stream));
        }
    }

    fn insert(&mut self, registry: &Registry, mut stream: Stream) -> bool {
        let entry = self.streams.vacant_entry();
        let (key, interest) = (entry.key(), Interest::READABLE | Interest::WRITABLE);
        let registered = registry.register(stream.socket(), Token(FIRST_STREAM + key), interest).is_ok();
        if registered {
            entry.insert(stream);
            self.busy.push(key);
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
                if self.streams.contains(key) && !self.busy.contains(&key) {
                    self.busy.push(key);
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
    }

    /// Takes what has come and does what streams have to do, as much as is one turn's.
    pub fn work(&mut self, now: Duration, registry: &Registry, engine: &mut Engine) {
        self.receive(now, engine);
        for key in std::mem::take(&mut self.busy) {
            let Some(stream) = self.streams.get_mut(key) else { continue };
            match stream.work(now, engine) {
                Turn::Waits => {}
                Turn::HasMore => self.busy.push(key),
                Turn::Ended => self.close(registry, key),
                Turn::Broken => {
                    self.traffic.streams_broken += 1;
                    self.close(registry, key);
                }
                Turn::Rejected(rejected) => {
                    self.traffic.rejected[rejected.index()] += 1;
                    self.close(registry, key);
                }
            }
        }
        let late = self.streams.iter().filter(|(_, stream)| now >= stream.deadline());
        for key in late.map(|(key, _)| key).collect::<Vec<_>>() {
            self.traffic.streams_broken += 1;
            self.close(registry, key);
        }
    }

    fn receive(&mut self, now: Duration, engine: &mut Engine) {
        if !std::mem::take(&mut self.udp_has_more) {
            return;
        }
        for _ in 0..DATAGRAMS_PER_TURN {
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
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // What a peer's host says of an earlier datagram of ours, for example that nobody listens there.
                Err(_) => {}
            }
        }
        self.udp_has_more = true;
    }

    /// When [`work`](Self::work) should be called next, if nothing comes.
    #[must_use]
    pub fn next_time(&self) -> Option<Duration> {
        self.streams.iter().map(|(_, stream)| stream.deadline()).min()
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
