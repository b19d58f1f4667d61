//! The loop of one sending thread over its UDP sockets: receive what is there, book it, send what may be sent, and
//! sleep only when neither brought anything.
//!
//! Everything is done in batches, the clock included: it is read after each receive, for the answers of the batch, and
//! before each send. A service time so includes the wait of a query for its batch to go out and that of an answer for
//! its batch to be taken in; it may be overstated by the length of a batch and is never understated. Batches grow only
//! under load: when there is little to do they hold one packet.

use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};

use super::in_flight::QueriesInFlight;
use super::load::Load;
use super::settings::Source;
use super::socket::{ClientSockets as Sockets, timespec};
use super::{BenchError, SharedRun, ThreadOutcome};
use crate::sys::mmsg::{
    Addressing, BATCH_LEN, Batch, GroupReceiver, ReturnAddress, Wait, ask_for_short_turns,
};

/// The turns of a sending thread that shares its CPU.
const LONGEST_TURN: std::time::Duration = std::time::Duration::from_micros(200);

/// Longest sleep while the kernel has no room for what is due to be sent; that it has again wakes nobody.
const SEND_RETRY_NS: u64 = 100_000;

/// How often what came from elsewhere than the server is looked for.
const STRAY_PERIOD_NS: u64 = 50_000_000;

/// Turns without anything to do before the thread sleeps. A turn is one empty receive, about 0.2 us. Against a busy
/// server on another core 0, 8 and 64 turns gave the same rate (measured), and 8 saved most of the context switches
/// of 0; more would only burn what a thread in a closed loop does not need.
const IDLE_TURNS_BEFORE_SLEEP: u32 = 8;

/// Queries sent before what has come is received.
const SENT_PER_TURN: usize = 4 * BATCH_LEN;

/// Batches that one client receives in a turn where each was full.
const BATCHES_PER_TURN: usize = 8;

/// One client: a socket, and its ids.
struct SendingClient<'a> {
    sockets: &'a Sockets,
    table: QueriesInFlight,
}

struct Sender<'a> {
    load: Load<'a>,
    clients: Vec<SendingClient<'a>>,
    /// For `poll`, by client.
    polled: Vec<PollFd<'a>>,
    batch: Batch,
    /// What comes on connected sockets.
    groups: GroupReceiver,
    /// Queries that one client sends in its turn, so that all are used alike.
    chunk: usize,
    next_client: usize,
    /// No query times out before this.
    next_expiry_ns: u64,
    next_stray_ns: u64,
    /// The kernel had no room for the last batch.
    congested: bool,
    /// Clients that are addresses alone.
    crowd: Option<Crowd>,
}

/// Clients that are addresses alone: each query is from the next of this thread's.
struct Crowd {
    sources: Source,
    count: u32,
    step: u32,
    next: u32,
    server: ReturnAddress,
}

impl Crowd {
    fn next(&mut self) -> ReturnAddress {
        let to = self.server.from_source(self.sources.address(self.next));
        self.next += self.step;
        if self.next >= self.count {
            self.next %= self.step;
        }
        to
    }
}

/// Sends thread number `thread`'s share of `job` from its `clients` until it is done or told to stop.
pub(super) fn run(
    job: &SharedRun<'_>,
    thread: u32,
    threads: u32,
    clients: &[Sockets],
) -> Result<ThreadOutcome, BenchError> {
    let load = Load::new(job, thread, threads);
    let fair = usize::try_from(load.limit).unwrap_or(BATCH_LEN) / clients.len();
    let (ids, scheduled) = (job.settings.ids_per_client(), load.is_scheduled());
    let streamed = job.queries.feed().is_some();
    let crowd = job.settings.sources.map(|sources| Crowd {
        sources,
        count: job.settings.clients,
        step: threads,
        next: thread,
        server: ReturnAddress::to(job.settings.server),
    });
    let mut sender = Sender {
        clients: clients
            .iter()
            .map(|sockets| SendingClient {
                sockets,
                table: QueriesInFlight::new(ids, scheduled).remembering(streamed),
            })
            .collect(),
        polled: clients.iter().map(|client| PollFd::new(&client.socket, PollFlags::IN)).collect(),
        batch: Batch::new(if crowd.is_some() { Addressing::PerDatagram } else { Addressing::Connected }),
        crowd,
        groups: GroupReceiver::new(),
        chunk: fair.clamp(1, BATCH_LEN),
        next_client: 0,
        next_expiry_ns: load.timeout_ns,
        next_stray_ns: STRAY_PERIOD_NS,
        congested: false,
        load,
    };
    // Where it shares a CPU, queries shall leave when they are due; where the kernel does not know that, they leave
    // later.
    let _ = ask_for_short_turns(LONGEST_TURN);
    sender.load.begin_together();
    sender.run()
}

impl Sender<'_> {
    fn run(mut self) -> Result<ThreadOutcome, BenchError> {
        let max_idle_turns = self.load.job.settings.wait_mode.idle_turns(IDLE_TURNS_BEFORE_SLEEP);
        let mut idle_turns = 0;
        loop {
            let sleep_ns = if idle_turns > max_idle_turns { self.sleep_ns() } else { 0 };
            let received = self.receive_all(sleep_ns)?;
            self.expire();
            if self.load.is_over() {
                break;
            }
            let sent = if self.load.may_send() { self.send_all()? } else { 0 };
            idle_turns = if received + sent > 0 { 0 } else { idle_turns + 1 };
        }
        self.receive_all(0)?; // duplicates of the last answers that are there already
        self.count_strays();
        let mut tables: Vec<_> = self.clients.iter_mut().map(|client| &mut client.table).collect();
        Ok(self.load.finish(&mut tables))
    }

    fn sleep_ns(&self) -> u64 {
        let sleep_ns = self.load.sleep_ns(self.next_expiry_ns);
        if self.congested { sleep_ns.min(SEND_RETRY_NS) } else { sleep_ns }
    }

    /// Receives a batch on each client that has something, after sleeping up to `sleep_ns` until one has.
    fn receive_all(&mut self, sleep_ns: u64) -> Result<usize, BenchError> {
        if self.clients.len() == 1 && sleep_ns == 0 {
            return self.receive(0, false); // an empty receive costs no more than asking whether there is something
        }
        let ready = match poll(&mut self.polled, Some(&timespec(Duration::from_nanos(sleep_ns)))) {
            Ok(ready) => ready,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(BenchError::Failed(error.into())),
        };
        // What was slept, or spent on finding nothing, was idle.
        self.load.tick(sleep_ns > 0 || ready == 0);
        let mut received = 0;
        for client in 0..self.clients.len() {
            if ready > 0 && !self.polled[client].revents().is_empty() {
                received += self.receive(client, sleep_ns > 0)?;
            }
        }
        Ok(received)
    }

    /// Receives what one client has, and books it. An error that the network reported counts as something received.
    /// `woken` says that this client's first datagram ended a sleep, after which the clock was read.
    fn receive(&mut self, client: usize, woken: bool) -> Result<usize, BenchError> {
        let mut all = 0;
        for _ in 0..BATCHES_PER_TURN {
            let (received, may_be_more) = match &self.crowd {
                Some(_) => self.receive_batch(client, woken && all == 0)?,
                None => self.receive_groups(client, woken && all == 0)?,
            };
            all += received;
            // In a closed loop the answers of one batch let the next go out.
            if !may_be_more || !self.load.is_scheduled() {
                break;
            }
        }
        Ok(all)
    }

    /// Receives once on a connected socket. Tells how much, and whether there may be more.
    fn receive_groups(&mut self, client: usize, woken: bool) -> Result<(usize, bool), BenchError> {
        let SendingClient { sockets, table } = &mut self.clients[client];
        let result = self.groups.receive(sockets.socket.as_fd());
        let count = if result.is_ok() { self.groups.datagrams().take(2).count() } else { 0 };
        // Only the first is known to have been there by then.
        if !woken || count != 1 {
            self.load.tick(result.is_err());
        }
        let may_be_more = match result {
            Ok(may_be_more) => may_be_more,
            Err(error) => return Ok((self.survive(error)?, false)),
        };
        // What is in flight too long is lost, even if its answer is in this batch.
        self.load.handle_timeout(table);
        let (mut received, mut completed) = (0, 0);
        for bytes in self.groups.datagrams() {
            received += 1;
            completed += u64::from(self.load.record_response(bytes, table));
        }
        self.load.complete(completed);
        Ok((received, may_be_more))
    }

    /// Receives once on a socket to which anybody may send. Tells how much, and whether there may be more.
    fn receive_batch(&mut self, client: usize, woken: bool) -> Result<(usize, bool), BenchError> {
        let SendingClient { sockets, table } = &mut self.clients[client];
        let result = self.batch.receive(sockets.socket.as_fd(), Wait::Never);
        // Only the first is known to have been there by then.
        if !woken || !matches!(result, Ok(1)) {
            self.load.tick(result.is_err());
        }
        let count = match result {
            Ok(count) => count,
            Err(error) => return Ok((self.survive(error)?, false)),
        };
        // What is in flight too long is lost, even if its answer is in this batch.
        self.load.handle_timeout(table);
        let mut completed = 0;
        for i in 0..count {
            if self.crowd.is_some() && self.batch.peer(i) != Some(self.load.job.settings.server) {
                self.load.tally.totals.wrong_source += 1;
                continue;
            }
            let datagram = self.batch.datagram(i);
            let bytes = &datagram.buffer[..datagram.len];
            completed += u64::from(self.load.record_response(bytes, table));
        }
        self.load.complete(completed);
        Ok((count, count == BATCH_LEN))
    }

    /// Gives up what has been in flight too long, on all clients, when there can be such.
    fn expire(&mut self) {
        let now_ns = self.load.now_ns;
        if now_ns >= self.next_stray_ns {
            self.next_stray_ns = now_ns + STRAY_PERIOD_NS;
            self.count_strays();
        }
        if now_ns < self.next_expiry_ns {
            return;
        }
        let mut oldest_ns = now_ns;
        for SendingClient { table, .. } in &mut self.clients {
            self.load.handle_timeout(table);
            oldest_ns = oldest_ns.min(table.oldest_sent_ns().unwrap_or(oldest_ns));
        }
        self.next_expiry_ns = oldest_ns.saturating_add(self.load.timeout_ns);
    }

    /// Counts what came to our ports from elsewhere than the server.
    fn count_strays(&mut self) {
        let strays: u64 = self.clients.iter().map(|client| client.sockets.count_strays()).sum();
        self.load.tally.totals.wrong_source += strays;
    }

    /// Sends what may be sent now, one chunk after the other, each from the next client. When much is due at once, as
    /// after a pause, what has come meanwhile is received before all of it is sent: the sockets have no room for it.
    fn send_all(&mut self) -> Result<usize, BenchError> {
        let mut sent = 0;
        let mut full = 0;
        while full < self.clients.len() {
            if sent >= SENT_PER_TURN {
                return Ok(sent);
            }
            let client = self.next_client;
            self.next_client = if client + 1 == self.clients.len() { 0 } else { client + 1 };
            let table = &self.clients[client].table;
            let free = table.ids() - table.len();
            if free == 0 {
                full += 1;
                continue;
            }
            let allowed = self.load.allowed(self.chunk.min(free));
            if allowed == 0 {
                return Ok(sent);
            }
            let count = self.load.query_source.available(allowed);
            let taken = self.send(client, count)?;
            sent += taken;
            if taken < count || count == 0 {
                return Ok(sent);
            }
        }
        self.load.throttle();
        Ok(sent)
    }

    /// Sends the next `count` queries from one client and returns how many the kernel took.
    fn send(&mut self, client: usize, count: usize) -> Result<usize, BenchError> {
        let SendingClient { sockets, table } = &mut self.clients[client];
        let queries = self.load.query_source.section();
        let mut numbers = [0; BATCH_LEN];
        self.batch.clear();
        for (k, number) in numbers[..count].iter_mut().enumerate() {
            *number = self.load.query_source.query(k);
            let Some(buffer) = self.batch.compose() else { break };
            let len = sockets.cookie.write(queries.packet(*number), table.upcoming(k), &mut buffer[..]);
            match &mut self.crowd {
                None => self.batch.stage(k, len),
                Some(crowd) => self.batch.stage_to(len, &crowd.next()),
            }
        }
        // What writing them took is not the server's: after a sleep that is microseconds.
        self.load.tick(false);
        let sent = match self.batch.send_from(sockets.socket.as_fd(), 0) {
            Ok(sent) => sent,
            Err(error) => {
                self.congested = self.survive(error)? == 0;
                return Ok(0);
            }
        };
        self.congested = sent < count;
        for (k, &number) in numbers[..sent].iter().enumerate() {
            self.load.begin(k, number, table);
        }
        self.load.sent(sent);
        Ok(sent)
    }

    /// Tells the errors after which to go on from those that end the run. Returns how many events it was: none when
    /// the socket merely has nothing to give or no room to take, one when the network reported something.
    fn survive(&mut self, error: io::Error) -> Result<usize, BenchError> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
            _ if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                self.load.unreachable(error).map(|()| 1)
            }
            _ => Err(BenchError::Failed(error)),
        }
    }
}
