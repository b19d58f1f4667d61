//! The loop of one sending thread over its connections, TCP or TLS: many queries in flight on each (RFC 7766 §6.2.1.1).
//!
//! A connection that has carried its share of queries, or that the server has closed, is replaced by a new one. Queries
//! that were in flight on one that broke are lost. The time that a connection takes to be made is part of the response
//! time of the queries that wait for it, and of nobody's service time.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use rustix::event::{PollFd, PollFlags, poll};
use rustls::ClientConnection;
use socket2::{Domain, Protocol, Socket, Type};

use super::in_flight::{IDS, QueriesInFlight};
use super::load::Load;
use super::settings::Transport;
use super::socket::{local_port, source, timespec};
use super::{BenchError, SharedRun, ThreadOutcome};
use crate::sys::mmsg::BATCH_LEN;
use crate::sys::tls_error;

/// How long after a failure a connection is tried again.
const RETRY_NS: u64 = 10_000_000;

/// Turns without anything to do before the thread sleeps.
const IDLE_TURNS_BEFORE_SLEEP: u32 = 2;

/// Bytes read at a time: many answers.
const READ_LEN: usize = 1 << 16;

/// One connection, or the place of one.
struct Connection {
    /// None while it is waited to try again.
    stream: Option<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    /// It is made: queries can go out.
    open: bool,
    /// It is given up if it is not made by then.
    made_by_ns: u64,
    retry_ns: u64,
    table: QueriesInFlight,
    /// Queries that it has carried.
    carried: u32,
    /// What is to be written, and how much of it has been.
    out: Vec<u8>,
    written: usize,
    /// What has been read and is no whole message yet.
    input: Vec<u8>,
}

struct Streams<'a> {
    load: Load<'a>,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    /// The number, among those of all threads, of this thread's first connection.
    first: u32,
    /// Queries in flight on one connection at most.
    pipelined: usize,
    next: usize,
    next_expiry_ns: u64,
    next_retry_ns: u64,
    /// When there was a connection last.
    last_open_ns: u64,
    buffer: Box<[u8]>,
}

/// Sends thread number `thread`'s share of `job` over `count` connections until it is done or told to stop.
pub(super) fn run(
    job: &SharedRun<'_>,
    thread: u32,
    threads: u32,
    count: u32,
) -> Result<ThreadOutcome, BenchError> {
    let mut load = Load::new(job, thread, threads);
    let share = usize::try_from(load.limit.div_ceil(u64::from(count))).unwrap_or(IDS).min(IDS);
    // Twice as many ids as can be in flight, so that an answer that is late or comes twice is known as such.
    let ids = (2 * share).next_power_of_two().clamp(256, IDS);
    let (scheduled, streamed) = (load.is_scheduled(), job.queries.feed().is_some());
    let place = || Connection {
        stream: None,
        tls: None,
        open: false,
        made_by_ns: 0,
        retry_ns: 0,
        table: QueriesInFlight::new(ids, scheduled).remembering(streamed),
        carried: 0,
        out: Vec::new(),
        written: 0,
        input: Vec::new(),
    };
    let connections = (0..count).map(|_| place()).collect();
    load.begin_together();
    let streams = Streams {
        poll: Poll::new().map_err(BenchError::Failed)?,
        events: Events::with_capacity(1_024),
        connections,
        first: (0..thread).map(|before| super::share(job.settings.clients, threads, before)).sum(),
        pipelined: share,
        next: 0,
        next_expiry_ns: load.timeout_ns,
        next_retry_ns: 0,
        last_open_ns: 0,
        buffer: vec![0; READ_LEN].into(),
        load,
    };
    streams.run()
}

impl Streams<'_> {
    fn run(mut self) -> Result<ThreadOutcome, BenchError> {
        let max_idle_turns = self.load.job.settings.wait_mode.idle_turns(IDLE_TURNS_BEFORE_SLEEP);
        let mut idle_turns = 0;
        loop {
            let sleep_ns = if idle_turns > max_idle_turns {
                let retry_ns = self.next_retry_ns.saturating_sub(self.load.now_ns).max(1_000);
                let is_open = self.last_open_ns == self.load.now_ns;
                // Without a connection the schedule has nothing to be in time for.
                let sleep_ns = self.load.sleep_ns(self.next_expiry_ns);
                if is_open { sleep_ns } else { sleep_ns.max(1_000_000) }.min(retry_ns)
            } else {
                0
            };
            let received = self.receive(sleep_ns)?;
            self.expire()?;
            if self.load.is_over() {
                break;
            }
            if self.load.now_ns >= self.last_open_ns.saturating_add(self.load.timeout_ns) {
                self.load.end_without_connection();
            }
            let mut sent = 0;
            if self.load.may_send() {
                self.connect()?;
                sent = self.send_all()?;
            }
            idle_turns = if received + sent > 0 { 0 } else { idle_turns + 1 };
        }
        let mut tables: Vec<_> =
            self.connections.iter_mut().map(|connection| &mut connection.table).collect();
        Ok(self.load.finish(&mut tables))
    }

    /// Makes connections where there is none, unless it has just failed.
    fn connect(&mut self) -> Result<(), BenchError> {
        if self.load.now_ns < self.next_retry_ns {
            return Ok(());
        }
        self.next_retry_ns = u64::MAX;
        for number in 0..self.connections.len() {
            if self.connections[number].stream.is_some() {
                continue;
            }
            let retry_ns = self.connections[number].retry_ns;
            if retry_ns > self.load.now_ns {
                self.next_retry_ns = self.next_retry_ns.min(retry_ns);
                continue;
            }
            let server = self.load.job.settings.server;
            let (stream, tls) = self.open(number).map_err(|error| BenchError::Open { server, error })?;
            let connection = &mut self.connections[number];
            (connection.stream, connection.tls) = (Some(stream), tls);
            (connection.open, connection.carried, connection.written) = (false, 0, 0);
            connection.made_by_ns = self.load.now_ns.saturating_add(self.load.timeout_ns);
            self.next_expiry_ns = self.next_expiry_ns.min(connection.made_by_ns);
            connection.out.clear();
            connection.input.clear();
        }
        Ok(())
    }

    fn open(&self, number: usize) -> io::Result<(TcpStream, Option<Box<ClientConnection>>)> {
        let settings = self.load.job.settings;
        let socket = Socket::new(Domain::for_address(settings.server), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        if let Some(buffer_len) = settings.buffer_len {
            socket.set_recv_buffer_size(buffer_len)?;
            socket.set_send_buffer_size(buffer_len)?;
        }
        if settings.source.is_some() || settings.local_port > 0 {
            let number = self.first.saturating_add(u32::try_from(number).unwrap_or(u32::MAX));
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(source(settings, number), local_port(settings, number)).into())?;
        }
        match socket.connect(&settings.server.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => return Err(error),
            _ => {}
        }
        let mut stream = TcpStream::from_std(socket.into());
        self.poll.registry().register(&mut stream, Token(number), Interest::READABLE | Interest::WRITABLE)?;
        let tls = match &settings.transport {
            Transport::Tls(tls) => Some(Box::new(tls.connection().map_err(io::Error::other)?)),
            _ => None,
        };
        Ok((stream, tls))
    }

    /// Takes what has arrived on any connection, after sleeping up to `sleep_ns` until something has.
    fn receive(&mut self, sleep_ns: u64) -> Result<usize, BenchError> {
        if sleep_ns > 0 {
            // `mio` sleeps for whole milliseconds, which is later than queries are due.
            let mut events = [PollFd::new(self.poll.registry(), PollFlags::IN)];
            match poll(&mut events, Some(&timespec(Duration::from_nanos(sleep_ns)))) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(BenchError::Failed(error.into())),
            }
        }
        match self.poll.poll(&mut self.events, Some(Duration::ZERO)) {
            Err(error) if error.kind() != ErrorKind::Interrupted => return Err(BenchError::Failed(error)),
            _ => {}
        }
        self.load.tick(sleep_ns > 0 || self.events.is_empty());
        let events: Vec<_> = self
            .events
            .iter()
            .map(|event| (event.token().0, event.is_readable() || event.is_read_closed() || event.is_error()))
            .collect();
        let mut received = 0;
        for (number, readable) in events {
            let result = self.advance(number, readable);
            match result {
                Ok(count) => received += count,
                Err(error) => {
                    self.broke(number, error)?;
                    received += 1;
                }
            }
        }
        Ok(received)
    }

    /// Goes on with a connection on which something has happened. Returns how many queries were answered.
    fn advance(&mut self, number: usize, readable: bool) -> io::Result<usize> {
        let connection = &mut self.connections[number];
        let Some(stream) = &connection.stream else { return Ok(0) };
        if !connection.open {
            if let Some(error) = stream.take_error()? {
                return Err(error);
            }
            if connection.tls.is_none() && stream.peer_addr().is_ok() {
                connection.open = true;
                self.load.tally.totals.connections += 1;
            }
        }
        let mut completed = 0;
        if readable {
            completed = self.read(number)?;
        }
        let connection = &mut self.connections[number];
        if !connection.open && connection.tls.as_ref().is_some_and(|tls| !tls.is_handshaking()) {
            connection.open = true;
            self.load.tally.totals.connections += 1;
        }
        connection.write()?;
        self.retire(number);
        Ok(completed)
    }

    /// Reads and books all that has arrived on a connection.
    fn read(&mut self, number: usize) -> io::Result<usize> {
        let mut completed = 0;
        while let Connection { stream: Some(stream), tls, input, table, .. } = &mut self.connections[number] {
            let read = match tls {
                None => {
                    stream.read(&mut self.buffer).inspect(|&len| input.extend_from_slice(&self.buffer[..len]))
                }
                Some(tls) => read_tls(stream, tls, &mut self.buffer, input),
            };
            self.load.tick(false);
            match read {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            self.load.handle_timeout(table);
            let mut at = 0;
            let mut count = 0;
            while let Some(&[high, low]) = input.get(at..at + 2) {
                let len = usize::from(u16::from_be_bytes([high, low]));
                let Some(message) = input.get(at + 2..at + 2 + len) else { break };
                count += u64::from(self.load.record_response(message, table));
                at += 2 + len;
            }
            input.drain(..at);
            self.load.complete(count);
            completed += usize::try_from(count).unwrap_or(usize::MAX);
        }
        Ok(completed)
    }

    /// A connection that has carried all that it may, and has it answered, makes room for another.
    fn retire(&mut self, number: usize) {
        let connection = &mut self.connections[number];
        let quota = self.load.job.settings.queries_per_connection;
        if quota.is_some_and(|quota| connection.carried >= quota.get()) && connection.table.len() == 0 {
            connection.stream = None;
            connection.retry_ns = 0;
            self.next_retry_ns = 0;
        }
    }

    /// A connection could not be made, or has ended. What was in flight on it is lost.
    fn broke(&mut self, number: usize, error: io::Error) -> Result<(), BenchError> {
        let connection = &mut self.connections[number];
        let (was_open, in_flight, carried) = (connection.open, connection.table.len(), connection.carried);
        self.load.expire(&mut connection.table, u64::MAX);
        connection.stream = None;
        // One that was of use is replaced at once.
        connection.retry_ns = if was_open && carried > 0 { 0 } else { self.load.now_ns + RETRY_NS };
        self.next_retry_ns = self.next_retry_ns.min(connection.retry_ns);
        if !was_open {
            return self.load.unreachable(error);
        }
        self.load.tally.totals.broken += u64::from(in_flight > 0);
        Ok(())
    }

    /// Gives up what has been in flight too long, and connections that are not made in time, when there can be such.
    fn expire(&mut self) -> Result<(), BenchError> {
        let now_ns = self.load.now_ns;
        if self.connections.iter().any(|connection| connection.open && connection.stream.is_some()) {
            self.last_open_ns = now_ns;
        }
        if now_ns < self.next_expiry_ns {
            return Ok(());
        }
        let mut next_ns = now_ns.saturating_add(self.load.timeout_ns);
        for number in 0..self.connections.len() {
            let connection = &mut self.connections[number];
            self.load.handle_timeout(&mut connection.table);
            if let Some(oldest_ns) = connection.table.oldest_sent_ns() {
                next_ns = next_ns.min(oldest_ns.saturating_add(self.load.timeout_ns));
            }
            if connection.stream.is_none() || connection.open {
                continue;
            }
            if connection.made_by_ns > now_ns {
                next_ns = next_ns.min(connection.made_by_ns);
                continue;
            }
            let settings = self.load.job.settings;
            let (transport, timeout_s) = (settings.transport.title(), settings.timeout.as_secs_f64());
            let text = format!("no {transport} connection could be made within {timeout_s} s (-t)");
            self.broke(number, io::Error::new(ErrorKind::TimedOut, text))?;
        }
        self.next_expiry_ns = next_ns;
        // One that waited for its last answers in vain has nothing left to wait for.
        (0..self.connections.len()).for_each(|number| self.retire(number));
        Ok(())
    }

    /// Sends what may be sent now, each connection in its turn.
    fn send_all(&mut self) -> Result<usize, BenchError> {
        let (mut sent, mut passed) = (0, 0);
        while passed < self.connections.len() {
            let number = self.next;
            self.next = if number + 1 == self.connections.len() { 0 } else { number + 1 };
            let quota = self.load.job.settings.queries_per_connection;
            let room = self.connections[number].room(self.pipelined, quota.map(u32::from));
            if room == 0 {
                passed += 1;
                continue;
            }
            let allowed = self.load.allowed(room.min(BATCH_LEN));
            let count = self.load.query_source.available(allowed);
            if allowed == 0 || count == 0 {
                return Ok(sent);
            }
            passed = 0;
            sent += count;
            if let Err(error) = self.send(number, count) {
                self.broke(number, error)?;
            }
        }
        self.load.throttle();
        Ok(sent)
    }

    /// Sends the next `count` queries over one connection.
    fn send(&mut self, number: usize, count: usize) -> io::Result<()> {
        let connection = &mut self.connections[number];
        let queries = self.load.query_source.section().clone();
        for k in 0..count {
            let query = self.load.query_source.query(k);
            let packet = queries.packet(query);
            let len = u16::try_from(packet.len()).unwrap_or(u16::MAX).to_be_bytes();
            let id = connection.table.upcoming(0).to_be_bytes();
            connection.out.extend_from_slice(&[len[0], len[1], id[0], id[1]]);
            connection.out.extend_from_slice(&packet[2..]);
            self.load.begin(k, query, &mut connection.table);
        }
        connection.carried = connection.carried.saturating_add(u32::try_from(count).unwrap_or(u32::MAX));
        let written = connection.write();
        self.load.sent(count);
        written
    }
}

/// Reads from the network what is there, and takes what it says. Returns how many bytes came from the network.
fn read_tls(
    stream: &mut TcpStream,
    tls: &mut ClientConnection,
    buffer: &mut [u8],
    input: &mut Vec<u8>,
) -> io::Result<usize> {
    let len = tls.read_tls(stream)?;
    tls.process_new_packets()
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, tls_error::text(&error)))?;
    loop {
        match tls.reader().read(buffer) {
            // The other side has said that it ends; what follows on the network tells that as well.
            Ok(0) => return Ok(len),
            Ok(plain) => input.extend_from_slice(&buffer[..plain]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(len),
            Err(error) => return Err(error),
        }
    }
}

impl Connection {
    /// How many queries it can take now.
    fn room(&self, pipelined: usize, quota: Option<u32>) -> usize {
        if !self.open || self.stream.is_none() || self.written < self.out.len() {
            return 0;
        }
        let room = pipelined.saturating_sub(self.table.len());
        quota.map_or(room, |quota| room.min(quota.saturating_sub(self.carried) as usize))
    }

    /// Writes what is to be written, as far as the network takes it.
    fn write(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if let Some(tls) = &mut self.tls {
            // What the encryption takes at a time is bounded.
            let mut blocked = false;
            while !blocked {
                if self.open && self.written < self.out.len() {
                    self.written += tls.writer().write(&self.out[self.written..])?;
                }
                if !tls.wants_write() {
                    break;
                }
                match tls.write_tls(stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => blocked = true,
                    Err(error) => return Err(error),
                }
            }
        } else {
            while self.open && self.written < self.out.len() {
                match stream.write(&self.out[self.written..]) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(len) => self.written += len,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error),
                }
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        }
        Ok(())
    }
}
