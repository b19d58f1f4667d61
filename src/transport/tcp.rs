//! DNS over TCP (RFC 7766): listening, and a worker's connections with their limits.
//!
//! Binding runs on the main thread before the workers start; the rest on the workers, in turns with UDP.

use std::collections::HashMap;
mod stop;

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener as StdListener};
use std::time::{Duration, Instant};

use mio::event::Event as Readiness;
use mio::net::{TcpListener, TcpStream};
use mio::{Interest, Registry, Token};
use slab::Slab;
use socket2::{Domain, Protocol, Socket, Type};

use super::client::{Client, TcpClient};
use super::connection::{Buffers, Connection, ConnectionState};
use super::responder::{ClientTransport, Responder};
use crate::answer::metrics::{Counters, Event};
use crate::answer::types::Message;

/// Connections of one worker at most. The one that has been idle for longest makes room for a new one.
const MAX_CONNECTIONS: usize = crate::limits::MAX_TCP_CONNECTIONS;

/// Connections of one worker to one client at most; an IPv6 client is a network of 64 bits.
const MAX_CONNECTIONS_PER_CLIENT: u32 = crate::limits::MAX_TCP_CONNECTIONS_PER_CLIENT;

/// Connections that the kernel holds ready for a worker to accept.
const BACKLOG: i32 = 1_024;

/// Connections accepted before the others get their turn.
const ACCEPTS_PER_TURN: usize = 64;

/// How often connections are looked at for their deadlines.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// Tokens of listeners, and of connections, begin here; UDP sockets are below.
const LISTENERS: usize = 1 << 16;
const CONNECTIONS: usize = 1 << 17;

const _: () = assert!(CONNECTIONS + MAX_CONNECTIONS < usize::MAX);

/// Opens one listener per worker at `address`, whose port is known by now: UDP had the choice.
///
/// # Errors
/// What the kernel says.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<StdListener>> {
    let mut listeners = Vec::with_capacity(workers);
    for i in 0..workers {
        let socket =
            Socket::new(Domain::for_address(address), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        // Connections of a server that has ended linger in the kernel and do not keep the next one from its port.
        socket.set_reuse_address(true)?;
        // The first one is bound alone, so that it fails if anybody has the port: see `udp::bind`.
        socket.set_reuse_port(i > 0)?;
        socket.bind(&address.into())?;
        socket.set_reuse_port(true)?;
        listeners.push(socket);
    }
    // Only now, so that no connection is made before all of the workers can take their share.
    listeners.iter().try_for_each(|listener| listener.listen(BACKLOG))?;
    Ok(listeners.into_iter().map(StdListener::from).collect())
}

/// A connection with what its worker knows about it.
struct ClientConnection {
    connection: Connection<ClientStream>,
    client: IpAddr,
    /// Its number among all that there have been.
    serial: u64,
    /// It is in the queue of those that have something to do.
    queued: bool,
}

/// A client's stream, of which no more is read than may be: from a stop on what has come until then. For the connection
/// it ends there, as if its client had said that it asks no more, and so is closed once all is answered.
struct ClientStream {
    stream: TcpStream,
    /// Bytes that may still be read.
    unread: usize,
}

impl Read for ClientStream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let len = room.len().min(self.unread);
        if len == 0 {
            return Ok(0);
        }
        let read = self.stream.read(&mut room[..len])?;
        self.unread -= read;
        Ok(read)
    }
}

impl Write for ClientStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

impl ClientTransport for Tcp {
    type Client = TcpClient;

    /// Accepts what has come, and gives each connection that has something to do its turn.
    fn take_turn(&mut self, registry: &Registry, responder: &mut Responder<'_>) {
        if !self.is_due() {
            return;
        }
        let now = Instant::now();
        self.accept(registry, now, responder.counters);
        self.serve(now, responder);
        self.sweep(now, responder.counters);
    }

    fn deliver(&mut self, client: TcpClient, answer: impl FnOnce(&mut [u8]) -> Option<usize>, _: &Counters) {
        let entry = self.connections.get_mut(client.key).filter(|entry| entry.serial == client.serial);
        let Some(entry) = entry else { return };
        let message = self.buffers.message();
        let len = answer(message);
        entry.connection.deliver(len.map(|len| &message[..len]));
        self.enqueue(client.key);
    }

    #[inline]
    fn is_busy(&self) -> bool {
        !self.queue.is_empty() || self.listeners.iter().any(|(_, ready)| *ready)
    }

    fn timeout(&self) -> Option<Duration> {
        self.next_sweep.map(|at| at.saturating_duration_since(Instant::now()))
    }
}

/// All of a worker's TCP.
pub(crate) struct Tcp {
    listeners: Vec<(TcpListener, bool)>,
    connections: Slab<ClientConnection>,
    /// Connections by client.
    clients: HashMap<IpAddr, u32>,
    /// Keys of connections that may have something to do.
    queue: Vec<usize>,
    /// Empty between turns.
    spare_queue: Vec<usize>,
    buffers: Buffers,
    next_sweep: Option<Instant>,
    next_serial: u64,
}

impl Tcp {
    pub(crate) fn new(listeners: Vec<StdListener>, registry: &Registry) -> io::Result<Self> {
        let mut watched = Vec::new();
        for (i, listener) in listeners.into_iter().enumerate() {
            let mut listener = TcpListener::from_std(listener);
            registry.register(&mut listener, Token(LISTENERS + i), Interest::READABLE)?;
            watched.push((listener, true));
        }
        Ok(Self {
            listeners: watched,
            connections: Slab::new(),
            clients: HashMap::new(),
            queue: Vec::new(),
            spare_queue: Vec::new(),
            buffers: Buffers::default(),
            next_sweep: None,
            next_serial: 0,
        })
    }

    /// Notes what the poll has reported.
    pub(crate) fn ready(&mut self, event: &Readiness) {
        let token = event.token().0;
        if let Some(key) = token.checked_sub(CONNECTIONS) {
            // It may be gone: closed in the turn before the one that it was reported in.
            if let Some(entry) = self.connections.get_mut(key) {
                if event.is_read_closed() {
                    entry.connection.note_end();
                }
                self.enqueue(key);
            }
        } else if let Some((_, ready)) = token.checked_sub(LISTENERS).and_then(|i| self.listeners.get_mut(i))
        {
            *ready = true;
        }
    }

    /// Whether a turn would do anything: there is something to do, or there are connections to look at.
    #[inline]
    fn is_due(&self) -> bool {
        self.is_busy() || self.next_sweep.is_some()
    }

    /// Gives each connection that has something to do its turn.
    fn serve(&mut self, now: Instant, responder: &mut Responder<'_>) {
        let mut responder = responder.begin_batch();
        // What is queued meanwhile has its turn next time. The two queues change places, so that neither is allocated
        // anew.
        let mut due = std::mem::replace(&mut self.queue, std::mem::take(&mut self.spare_queue));
        for key in due.drain(..) {
            let Some(entry) = self.connections.get_mut(key) else { continue };
            entry.queued = false;
            let client = TcpClient { ip: entry.client, key, serial: entry.serial };
            let answer = |message: Message<'_>| responder.respond(message, Client::Tcp(client));
            match entry.connection.take_turn(&mut self.buffers, now, answer) {
                ConnectionState::Waiting => {}
                ConnectionState::More => self.enqueue(key),
                ConnectionState::Closed => self.close(key),
            }
        }
        self.spare_queue = due;
    }

    /// Whether a client takes more now; `None` if it is gone.
    pub(crate) fn takes(&self, client: TcpClient) -> Option<bool> {
        let entry = self.connections.get(client.key).filter(|entry| entry.serial == client.serial)?;
        Some(entry.connection.takes())
    }

    /// Sends one of several messages that answer a query. The connection may be gone.
    pub(crate) fn deliver_part(&mut self, client: TcpClient, message: &[u8]) {
        let entry = self.connections.get_mut(client.key).filter(|entry| entry.serial == client.serial);
        let Some(entry) = entry else { return };
        entry.connection.deliver_part(message, Instant::now());
        self.enqueue(client.key);
    }

    fn enqueue(&mut self, key: usize) {
        let entry = &mut self.connections[key];
        if !entry.queued {
            entry.queued = true;
            self.queue.push(key);
        }
    }

    fn accept(&mut self, registry: &Registry, now: Instant, counters: &Counters) {
        for i in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                let (listener, ready) = &mut self.listeners[i];
                if !*ready {
                    break;
                }
                match listener.accept() {
                    Ok((stream, peer)) => self.admit(registry, stream, peer.ip(), now, counters),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => *ready = false,
                    Err(error) if is_of_connection(&error) => {}
                    Err(_) => {
                        // Out of descriptors or memory. The connection waits in the kernel, and nothing will report it
                        // again: the next sweep looks.
                        *ready = false;
                        counters.count(Event::TcpAcceptFailed);
                        self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
                    }
                }
            }
        }
    }

    fn admit(
        &mut self,
        registry: &Registry,
        mut stream: TcpStream,
        client: IpAddr,
        now: Instant,
        counters: &Counters,
    ) {
        if self.clients.get(&client_of(client)).is_some_and(|&count| count >= MAX_CONNECTIONS_PER_CLIENT)
            || (self.connections.len() >= MAX_CONNECTIONS && !self.make_room())
        {
            counters.count(Event::TcpRefused);
            return;
        }
        let entry = self.connections.vacant_entry();
        let key = entry.key();
        // Small answers shall not wait for each other's acknowledgements; a failure costs only time.
        let _ = stream.set_nodelay(true);
        let interest = Interest::READABLE | Interest::WRITABLE;
        if registry.register(&mut stream, Token(CONNECTIONS + key), interest).is_err() {
            counters.count(Event::TcpRefused);
            return;
        }
        let serial = self.next_serial;
        self.next_serial += 1;
        let connection = Connection::new(ClientStream { stream, unread: usize::MAX }, now);
        entry.insert(ClientConnection { connection, client, serial, queued: false });
        *self.clients.entry(client_of(client)).or_insert(0) += 1;
        counters.count(Event::TcpAccepted);
        self.next_sweep.get_or_insert(now + SWEEP_INTERVAL);
        self.enqueue(key);
    }

    /// Closes the connection that has been idle for longest; returns whether there was one.
    fn make_room(&mut self) -> bool {
        let idle = self.connections.iter().filter(|(_, entry)| entry.connection.is_idle());
        let Some(longest) = idle.min_by_key(|(_, entry)| entry.connection.deadline()).map(|(key, _)| key)
        else {
            return false;
        };
        self.close(longest);
        true
    }

    /// Closes connections past their deadlines.
    fn sweep(&mut self, now: Instant, counters: &Counters) {
        if self.next_sweep.is_none_or(|at| now < at) {
            return;
        }
        let late = self.connections.iter().filter(|(_, entry)| entry.connection.deadline() <= now);
        for key in late.map(|(key, _)| key).collect::<Vec<_>>() {
            counters.count(Event::TcpTimedOut);
            self.close(key);
        }
        self.listeners.iter_mut().for_each(|(_, ready)| *ready = true);
        self.next_sweep = (!self.connections.is_empty()).then_some(now + SWEEP_INTERVAL);
    }

    /// Closing the descriptor takes the stream out of the poll.
    fn close(&mut self, key: usize) {
        let client = client_of(self.connections.remove(key).client);
        if let Some(count) = self.clients.get_mut(&client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(&client);
            }
        }
    }
}

/// Whether `accept` failed for the one connection only, which was gone before it was taken (accept(2), "Error
/// handling").
fn is_of_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Interrupted
            | ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::NetworkDown
            | ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
    )
}

/// What counts as one client: an IPv4 address, or an IPv6 network that is usually one host's or one household's.
fn client_of(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(_) => ip,
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
    }
}
