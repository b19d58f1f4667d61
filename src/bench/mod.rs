//! The load generator: sends queries to a server, in a closed loop or at a fixed rate, and measures the answers.
//!
//! [`run`] is called by the main thread, which opens the sockets, starts the sending threads, reports progress and
//! adds up what the threads counted. A thread owns its sockets, their ids and its counters; threads share only the
//! position in the query file and a stop flag, so none of them waits for another.
//!
//! ```text
//! query_file ─▶ supply ─▶ sender ◀─▶ sockets          sender: the loop of one thread
//!                          │  ▲
//!              pacer: how many are due     in_flight: which id asks what, since when
//!                          ▼
//!              answer: what a datagram is ─▶ tally, latency
//! ```
//!
//! Of this crate it stands on `wire` and `mmsg` alone: it must be an independent judge of the server.

mod answer;
mod in_flight;
pub mod latency;
mod pacer;
pub mod query_file;
mod sender;
mod settings;
mod supply;
pub mod tally;

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_utils::CachePadded;
use socket2::{Domain, Protocol, Socket, Type};

pub use query_file::{Edns, QueryFile, QueryFileError};
pub use settings::{MAX_CLIENTS, Settings, SettingsError};
pub use tally::{Tally, Totals};

/// Socket buffers asked for when no size is set. The kernel grants at most `net.core.rmem_max` and `wmem_max`.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// Since its start.
    pub elapsed: Duration,
    /// Queries completed so far.
    pub completed: u64,
    /// Queries completed a second since the last report.
    pub qps: f64,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All queries of all passes through the file were sent.
    EndOfFile,
    /// The time limit was reached.
    TimeLimit,
    /// The stop flag was raised.
    Interrupted,
}

/// What a run measured.
#[derive(Clone)]
pub struct Outcome {
    /// Counts and latencies of all threads.
    pub tally: Tally,
    /// From the first query to the last answer, or to the time limit if that came later. Waiting in vain for lost
    /// queries at the end does not count.
    pub run_time: Duration,
    /// Why it ended.
    pub end: End,
}

impl Outcome {
    /// Queries completed a second.
    #[must_use]
    pub fn qps(&self) -> f64 {
        let run_time_s = self.run_time.as_secs_f64();
        if run_time_s > 0.0 { self.tally.totals.completed as f64 / run_time_s } else { 0.0 }
    }
}

/// Why a run could not be done.
#[derive(Debug)]
pub enum BenchError {
    /// The settings make no sense; nothing was sent.
    Settings(SettingsError),
    /// A socket could not be opened; nothing was sent.
    Open {
        /// The server.
        server: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// Before any answer came, the server's host said that nobody listens there, or that it cannot be reached.
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// What was said.
        error: io::Error,
    },
    /// Sending, receiving or waiting failed; what was measured until then is lost.
    Failed(io::Error),
}

impl fmt::Display for BenchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Settings(error) => error.fmt(f),
            Self::Open { server, error } => write!(f, "cannot open a socket to {server}: {error}"),
            Self::Unreachable { server, error } if error.kind() == io::ErrorKind::ConnectionRefused => {
                write!(f, "nobody listens at {server} (UDP): {error}")
            }
            Self::Unreachable { server, error } => write!(f, "cannot reach {server}: {error}"),
            Self::Failed(error) => write!(f, "sending or receiving failed: {error}"),
        }
    }
}

impl std::error::Error for BenchError {}

/// What the sending threads share.
struct Job<'a> {
    settings: &'a Settings,
    queries: &'a QueryFile,
    /// Position in the passes through the file: the next query that no thread has claimed.
    position: AtomicU64,
    /// Raised by the caller.
    stop: &'a AtomicBool,
    /// Raised when a thread fails: the others need not go on.
    abort: AtomicBool,
    start: Instant,
    /// Queries completed, by thread; each is written by that thread alone.
    completed: Box<[CachePadded<AtomicU64>]>,
}

impl Job<'_> {
    fn completed(&self) -> u64 {
        self.completed.iter().map(|count| count.load(Relaxed)).sum()
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Relaxed) || self.abort.load(Relaxed)
    }
}

/// What one sending thread brings home.
struct ThreadOutcome {
    tally: Tally,
    /// When it had sent its last query or had its last answer, whichever came later.
    ended_ns: u64,
    /// Why it stopped sending.
    end: End,
}

/// Sends `queries` as `settings` say until they are through, the time is up or `stop` is raised.
///
/// Meanwhile `progress` is called by the calling thread every `settings.progress_interval`.
///
/// # Errors
/// A [`BenchError`]. Lost queries are no error, nor is a server that goes away after it has answered.
pub fn run(
    settings: &Settings,
    queries: &QueryFile,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome, BenchError> {
    settings.check().map_err(BenchError::Settings)?;
    let threads = settings.effective_threads();
    let mut sockets = Vec::new();
    for thread in 0..threads {
        sockets.push(open_sockets(settings, share(settings.clients, threads, thread))?);
    }
    let job = Job {
        settings,
        queries,
        position: AtomicU64::new(0),
        stop,
        abort: AtomicBool::new(false),
        start: Instant::now(),
        completed: (0..threads).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
    };
    let outcomes = thread::scope(|scope| {
        let (done, finished) = mpsc::channel();
        for (thread, sockets) in (0..threads).zip(&sockets) {
            let (job, done) = (&job, done.clone());
            scope.spawn(move || {
                let outcome = sender::run(job, thread, threads, sockets);
                if outcome.is_err() {
                    job.abort.store(true, Relaxed);
                }
                // The receiver lives until all threads have reported.
                let _ = done.send(outcome);
            });
        }
        drop(done);
        supervise(&job, &finished, progress)
    })?;
    Ok(add_up(&outcomes, settings))
}

/// Waits for all threads and reports progress meanwhile. The first thread's error wins.
fn supervise(
    job: &Job<'_>,
    finished: &mpsc::Receiver<Result<ThreadOutcome, BenchError>>,
    progress: &mut dyn FnMut(Progress),
) -> Result<Vec<ThreadOutcome>, BenchError> {
    let mut results = Vec::new();
    let mut next = job.start.checked_add(job.settings.progress_interval);
    let (mut last_elapsed, mut last_completed) = (Duration::ZERO, 0);
    loop {
        let result = match next {
            Some(at) => finished.recv_timeout(at.saturating_duration_since(Instant::now())),
            None => finished.recv().map_err(RecvTimeoutError::from),
        };
        match result {
            Ok(result) => results.push(result),
            Err(RecvTimeoutError::Disconnected) => return results.into_iter().collect(),
            Err(RecvTimeoutError::Timeout) => {
                let (elapsed, completed) = (job.start.elapsed(), job.completed());
                let qps = (completed - last_completed) as f64 / (elapsed - last_elapsed).as_secs_f64();
                progress(Progress { elapsed, completed, qps });
                (last_elapsed, last_completed) = (elapsed, completed);
                // From the schedule, not from now: the reports of a long run do not drift.
                next = next.and_then(|at| at.checked_add(job.settings.progress_interval));
            }
        }
    }
}

fn add_up(outcomes: &[ThreadOutcome], settings: &Settings) -> Outcome {
    let mut tally = Tally::default();
    outcomes.iter().for_each(|outcome| tally.merge(&outcome.tally));
    // The strongest reason of any thread: one that found the file at its end says nothing about the others.
    let ended_by = |end| outcomes.iter().any(|outcome| outcome.end == end);
    let reasons = [End::Interrupted, End::TimeLimit];
    let end = reasons.into_iter().find(|&end| ended_by(end)).unwrap_or(End::EndOfFile);
    let mut run_time =
        Duration::from_nanos(outcomes.iter().map(|outcome| outcome.ended_ns).max().unwrap_or(0));
    if end == End::TimeLimit {
        run_time = run_time.max(settings.time_limit.unwrap_or(Duration::ZERO));
    }
    Outcome { tally, run_time, end }
}

/// The `index`-th of `parts` nearly equal parts of `total`.
fn share(total: u32, parts: u32, index: u32) -> u32 {
    total / parts + u32::from(index < total % parts)
}

fn open_sockets(settings: &Settings, count: u32) -> Result<Vec<UdpSocket>, BenchError> {
    let server = settings.server;
    (0..count).map(|_| open_socket(settings).map_err(|error| BenchError::Open { server, error })).collect()
}

fn open_socket(settings: &Settings) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(settings.server), Type::DGRAM, Some(Protocol::UDP))?;
    let buffer_len = settings.buffer_len.unwrap_or(SOCKET_BUFFER_LEN);
    socket.set_recv_buffer_size(buffer_len)?;
    socket.set_send_buffer_size(buffer_len)?;
    // Connected, so that the kernel passes on that nobody listens, drops what others send, and looks up the route once.
    socket.connect(&settings.server.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_differ_by_one_at_most_and_add_up() {
        for (total, parts) in [(100, 1), (100, 3), (2, 3), (7, 7)] {
            let shares: Vec<_> = (0..parts).map(|index| share(total, parts, index)).collect();
            assert_eq!(shares.iter().sum::<u32>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
