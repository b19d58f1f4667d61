//! The loop of one sending thread over its sockets: receive what is there, book it, send what may be sent, and sleep
//! only when neither brought anything.
//!
//! Everything is done in batches, the clock included: it is read once after each receive, and that reading stamps the
//! answers of the batch and the queries sent next. A latency so includes the wait of a query for its batch to go out
//! and that of an answer for its batch to be taken in; it may be overstated by the length of a batch and is never
//! understated. Batches grow only under load: when there is little to do they hold one packet.

use std::io::{self, ErrorKind};
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::answer::account;
use super::in_flight::{IDS, InFlight};
use super::pacer::Pacer;
use super::supply::Supply;
use super::tally::Tally;
use super::{BenchError, End, Job, ThreadOutcome, share};
use crate::mmsg::{Addressing, BATCH_LEN, Batch, Wait};

/// Longest sleep: how soon a raised stop flag is noticed.
const MAX_SLEEP_NS: u64 = 50_000_000;

/// Longest sleep while the kernel has no room for what is due to be sent; that it has again wakes nobody.
const SEND_RETRY_NS: u64 = 100_000;

/// Turns without anything to do before the thread sleeps. A turn is one empty receive, about 0.2 us. Against a busy
/// server on another core 0, 8 and 64 turns gave the same rate (measured), and 8 saved most of the context switches
/// of 0; more would only burn what a thread at a fixed rate does not need.
const IDLE_TURNS_BEFORE_SLEEP: u32 = 8;

/// One socket, and its ids.
struct Client<'a> {
    socket: &'a UdpSocket,
    table: InFlight,
}

struct Sender<'a> {
    job: &'a Job<'a>,
    thread: usize,
    clients: Vec<Client<'a>>,
    /// For `poll`, by client.
    polled: Vec<PollFd<'a>>,
    batch: Batch,
    supply: Supply<'a>,
    pacer: Option<Pacer>,
    tally: Tally,
    /// Queries in flight over all clients, and how many there may be.
    outstanding: u64,
    limit: u64,
    /// Queries that one client sends in its turn, so that all are used alike.
    chunk: usize,
    next_client: usize,
    now_ns: u64,
    timeout_ns: u64,
    /// No query times out before this.
    next_expiry_ns: u64,
    /// The kernel had no room for the last batch.
    congested: bool,
    /// Why sending has ended, if it has.
    end: Option<End>,
    /// The last query sent or answer received.
    last_traffic_ns: u64,
}

/// Sends thread number `thread`'s share of `job` from `sockets` until it is done or told to stop.
pub(super) fn run(
    job: &Job<'_>,
    thread: u32,
    threads: u32,
    sockets: &[UdpSocket],
) -> Result<ThreadOutcome, BenchError> {
    let settings = job.settings;
    let total = settings.effective_outstanding();
    let limit = u32::try_from(total).map_or(total, |total| share(total, threads, thread).into());
    let fair = usize::try_from(limit).unwrap_or(BATCH_LEN) / sockets.len();
    let runs = settings.effective_runs().map(Into::into);
    let timeout_ns = nanoseconds(settings.timeout);
    let sender = Sender {
        job,
        thread: thread as usize,
        clients: sockets.iter().map(|socket| Client { socket, table: InFlight::new() }).collect(),
        polled: sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect(),
        batch: Batch::new(Addressing::Connected),
        supply: Supply::new(&job.position, job.queries.count(), runs),
        pacer: settings.rate_qps.map(|rate_qps| Pacer::new(rate_qps.get(), thread, threads)),
        tally: Tally::default(),
        outstanding: 0,
        limit,
        chunk: fair.clamp(1, BATCH_LEN),
        next_client: 0,
        now_ns: 0,
        timeout_ns,
        next_expiry_ns: timeout_ns,
        congested: false,
        end: None,
        last_traffic_ns: 0,
    };
    sender.run()
}

impl Sender<'_> {
    fn run(mut self) -> Result<ThreadOutcome, BenchError> {
        let end_ns = self.job.settings.time_limit.map_or(u64::MAX, nanoseconds);
        let mut idle_turns = 0;
        loop {
            let sleep_ns = if idle_turns > IDLE_TURNS_BEFORE_SLEEP { self.sleep_ns(end_ns) } else { 0 };
            let received = self.receive_all(sleep_ns)?;
            self.expire();
            if self.job.should_stop() {
                self.end = Some(End::Interrupted);
                break;
            }
            let mut sent = 0;
            if self.end.is_none() {
                if self.now_ns >= end_ns {
                    self.stop_sending(End::TimeLimit, end_ns);
                } else {
                    sent = self.send_all()?;
                    if self.supply.is_exhausted() {
                        self.stop_sending(End::EndOfFile, self.now_ns);
                    }
                }
            }
            if self.end.is_some() && self.outstanding == 0 {
                break;
            }
            idle_turns = if received + sent > 0 { 0 } else { idle_turns + 1 };
        }
        self.finish()
    }

    fn stop_sending(&mut self, end: End, at_ns: u64) {
        self.end = Some(end);
        if let (Some(pacer), End::TimeLimit) = (&self.pacer, end) {
            // What was due at the very end would have been sent after it.
            self.tally.totals.overdue = pacer.due(at_ns.saturating_sub(1));
        }
    }

    fn finish(mut self) -> Result<ThreadOutcome, BenchError> {
        let end = self.end.unwrap_or(End::Interrupted);
        let mut ended_ns = self.last_traffic_ns;
        if end == End::Interrupted {
            self.tally.totals.interrupted = self.outstanding;
            ended_ns = self.now_ns;
        } else {
            self.receive_all(0)?; // duplicates of the last answers that are there already
        }
        Ok(ThreadOutcome { tally: self.tally, ended_ns, end })
    }

    /// How long nothing can be to do unless something arrives.
    fn sleep_ns(&self, end_ns: u64) -> u64 {
        let mut wake_ns = self.now_ns + MAX_SLEEP_NS;
        if self.outstanding > 0 {
            wake_ns = wake_ns.min(self.next_expiry_ns);
        }
        if self.end.is_none() {
            wake_ns = wake_ns.min(end_ns);
            if self.congested {
                wake_ns = wake_ns.min(self.now_ns + SEND_RETRY_NS);
            }
            if let Some(pacer) = self.pacer.as_ref().filter(|_| self.outstanding < self.limit) {
                wake_ns = wake_ns.min(pacer.next_due_ns());
            }
        }
        // At least a little: were a query due that cannot be sent, this would be a loop around nothing.
        wake_ns.saturating_sub(self.now_ns).max(1_000)
    }

    /// Receives a batch on each client that has something, after sleeping up to `sleep_ns` until one has.
    fn receive_all(&mut self, sleep_ns: u64) -> Result<usize, BenchError> {
        if self.clients.len() == 1 && sleep_ns == 0 {
            return self.receive(0); // an empty receive costs no more than asking whether there is something
        }
        let sleep = Duration::from_nanos(sleep_ns);
        let timeout = Timespec {
            tv_sec: sleep.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: sleep.subsec_nanos().into(),
        };
        match poll(&mut self.polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(BenchError::Failed(error.into())),
        }
        let mut received = 0;
        for client in 0..self.clients.len() {
            if !self.polled[client].revents().is_empty() {
                received += self.receive(client)?;
            }
        }
        if received == 0 {
            self.read_clock();
        }
        Ok(received)
    }

    /// Receives a batch on one client and books it. An error that the network reported counts as something received.
    fn receive(&mut self, client: usize) -> Result<usize, BenchError> {
        let Client { socket, table } = &mut self.clients[client];
        let result = self.batch.receive(socket.as_fd(), Wait::Never);
        self.now_ns = nanoseconds(self.job.start.elapsed());
        let count = match result {
            Ok(count) => count,
            Err(error) => return self.survive(error),
        };
        // What is in flight too long is lost, even if its answer is in this batch.
        self.outstanding -= expire(table, self.now_ns, self.timeout_ns, &mut self.tally);
        let mut completed = 0;
        for i in 0..count {
            let datagram = self.batch.datagram(i);
            let bytes = &datagram.buffer[..datagram.len];
            completed += u64::from(account(bytes, self.now_ns, self.job.queries, table, &mut self.tally));
        }
        if completed > 0 {
            self.outstanding -= completed;
            self.last_traffic_ns = self.now_ns;
            self.job.completed[self.thread].store(self.tally.totals.completed, Relaxed);
        }
        Ok(count)
    }

    /// Gives up what has been in flight too long, on all clients, when there can be such.
    fn expire(&mut self) {
        if self.now_ns < self.next_expiry_ns {
            return;
        }
        let mut oldest_ns = self.now_ns;
        for Client { table, .. } in &mut self.clients {
            self.outstanding -= expire(table, self.now_ns, self.timeout_ns, &mut self.tally);
            oldest_ns = oldest_ns.min(table.oldest_sent_ns().unwrap_or(oldest_ns));
        }
        self.next_expiry_ns = oldest_ns.saturating_add(self.timeout_ns);
    }

    /// Sends what may be sent now, one chunk after the other, each from the next client.
    fn send_all(&mut self) -> Result<usize, BenchError> {
        let mut sent = 0;
        let mut full = 0;
        while full < self.clients.len() {
            let due = self.pacer.as_ref().map_or(u64::MAX, |pacer| pacer.due(self.now_ns));
            let allowed = (self.limit - self.outstanding).min(due);
            let client = self.next_client;
            self.next_client = if client + 1 == self.clients.len() { 0 } else { client + 1 };
            let free = IDS - self.clients[client].table.len();
            let want = usize::try_from(allowed).unwrap_or(usize::MAX).min(self.chunk);
            if want == 0 {
                break;
            } else if free == 0 {
                full += 1;
                continue;
            }
            let count = self.supply.available(want.min(free));
            let taken = self.send(client, count)?;
            sent += taken;
            if taken < count || count == 0 {
                break;
            }
        }
        Ok(sent)
    }

    /// Sends the next `count` queries from one client and returns how many the kernel took.
    fn send(&mut self, client: usize, count: usize) -> Result<usize, BenchError> {
        let Client { socket, table } = &mut self.clients[client];
        let queries = self.job.queries;
        let mut numbers = [0; BATCH_LEN];
        self.batch.clear();
        for (k, number) in numbers[..count].iter_mut().enumerate() {
            *number = self.supply.query(k);
            let packet = queries.packet(*number);
            let buffer = self.batch.datagram(k).buffer;
            buffer[..packet.len()].copy_from_slice(packet);
            buffer[..2].copy_from_slice(&table.upcoming(k).to_be_bytes());
            self.batch.stage(k, packet.len());
        }
        let sent = match self.batch.send_from(socket.as_fd(), 0) {
            Ok(sent) => sent,
            Err(error) => {
                self.congested = self.survive(error)? == 0;
                return Ok(0);
            }
        };
        self.congested = sent < count;
        for &number in &numbers[..sent] {
            table.begin(number, self.now_ns);
            self.tally.totals.request_bytes += queries.packet(number).len() as u64;
        }
        self.supply.take(sent);
        if let Some(pacer) = &mut self.pacer {
            pacer.issue(sent as u64);
        }
        self.tally.totals.sent += sent as u64;
        self.outstanding += sent as u64;
        if sent > 0 {
            self.last_traffic_ns = self.now_ns;
        }
        Ok(sent)
    }

    fn read_clock(&mut self) {
        self.now_ns = nanoseconds(self.job.start.elapsed());
    }

    /// Tells the errors after which to go on from those that end the run. Returns how many events it was: none when
    /// the socket merely has nothing to give or no room to take, one when the network reported something.
    fn survive(&mut self, error: io::Error) -> Result<usize, BenchError> {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::Interrupted => Ok(0),
            _ if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(0),
            ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
                if self.job.completed() == 0 {
                    return Err(BenchError::Unreachable { server: self.job.settings.server, error });
                }
                // A server that has answered may have ended or be starting again: that is what is measured.
                self.tally.totals.refused += 1;
                Ok(1)
            }
            _ => Err(BenchError::Failed(error)),
        }
    }
}

/// Gives up what one client has had in flight for the timeout or longer, and returns how many queries that was.
fn expire(table: &mut InFlight, now_ns: u64, timeout_ns: u64, tally: &mut Tally) -> u64 {
    let lost = now_ns.checked_sub(timeout_ns).map_or(0, |sent_ns| table.expire(sent_ns));
    tally.totals.lost += lost;
    lost
}

fn nanoseconds(duration: Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}
