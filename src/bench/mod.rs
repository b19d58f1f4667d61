//! The load generator: sends queries to a server, in a closed loop or at a fixed rate, and measures the answers.
//!
//! [`run`] is called by the main thread, which opens the sockets, starts the sending threads, reports progress and
//! adds up what the threads counted. A thread owns its sockets, their ids and its counters; threads share only the
//! position in the query file and a stop flag, so none of them waits for another.
//!
//! ```text
//! workload ─▶ supply ─▶ load ◀─▶ sender (UDP), stream (TCP, TLS)     load: what each thread keeps
//!                        ▲ │
//!   schedule: what is due │ ▼ in_flight: which id asks what, since when
//!                          answer: what a message is ─▶ tally, latency, verify ─▶ series ─▶ verdict
//! ```
//!
//! On top of single runs: `search` finds the highest rate that holds an objective, `ab` compares two servers.
//!
//! Of this crate it imports `wire` and `mmsg` alone: it must be an independent judge of the server.

pub mod ab;
mod answer;
mod in_flight;
pub mod latency;
mod load;
mod message;
pub mod objective;
mod query_source;
pub mod schedule;
pub mod search;
mod sender;
pub mod series;
mod settings;
mod socket;
pub mod statistics;
mod stream;
pub mod tally;
mod tls;
pub mod usage;
pub mod verdict;
pub mod verify;
pub mod workload;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use crossbeam_utils::CachePadded;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

pub use series::Point;
use series::{Collector, Part};
pub use settings::{MAX_CLIENTS, MAX_SOURCES, RunSettings, SettingsError, Source, Transport, WaitMode};
pub use tally::{Tally, Totals};
pub use tls::Tls;
pub use usage::Usage;
pub use verify::{Expectations, Verification};
pub use workload::{Edns, QueryFile, QueryFileError};

/// How a run stands, at the end of an interval.
#[derive(Clone, Copy)]
pub struct Progress<'a> {
    /// The interval.
    pub point: &'a Point,
    /// What was measured in it.
    pub tally: &'a Tally,
    /// What was counted since the start.
    pub totals: &'a Totals,
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunEnd {
    /// All queries of all passes through the file were sent.
    EndOfFile,
    /// The time limit was reached.
    TimeLimit,
    /// No thread had a connection any more, and none could be made for a whole timeout.
    NoConnection,
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
    pub end: RunEnd,
    /// Its course.
    pub series: Vec<Point>,
    /// What the sending threads did with their time.
    pub usage: Vec<Usage>,
    /// Answers that the kernel dropped because our own sockets had no room for them.
    pub drops: u64,
    /// What was found when answers were compared with what was expected of them.
    pub verification: Option<Verification>,
    /// The part of its CPUs' time that the server took, where the caller can tell and has set it.
    pub server_share: Option<f64>,
}

impl Outcome {
    /// Nothing was measured.
    #[must_use]
    pub fn nothing() -> Self {
        Self {
            tally: Tally::default(),
            run_time: Duration::ZERO,
            end: RunEnd::Interrupted,
            series: Vec::new(),
            usage: Vec::new(),
            drops: 0,
            verification: None,
            server_share: None,
        }
    }

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
                write!(f, "nobody listens at {server}: {error}")
            }
            Self::Unreachable { server, error } => write!(f, "cannot reach {server}: {error}"),
            Self::Failed(error) => write!(f, "sending or receiving failed: {error}"),
        }
    }
}

impl std::error::Error for BenchError {}

/// Parts of its result that wait for the main thread to take them, of each thread, one an interval: a terminal that
/// stands still for that long holds up the load.
const MAX_PARTS: usize = 1_024;

/// What the sending threads share.
struct SharedRun<'a> {
    settings: &'a RunSettings,
    queries: &'a QueryFile,
    expected: Option<&'a Expectations>,
    /// Position in the passes through the queries: the next that no thread has claimed.
    position: AtomicU64,
    /// Raised by the caller.
    stop: &'a AtomicBool,
    /// Raised when a thread fails: the others need not go on.
    abort: AtomicBool,
    /// Waited at by all threads until each is ready, so that no query is late because memory was made ready.
    ready: Barrier,
    /// When they were.
    start: OnceLock<Instant>,
    /// Queries completed, by thread; each is written by that thread alone.
    completed: Box<[CachePadded<AtomicU64>]>,
    /// Where the threads hand in what they counted, and tallies that can be used again.
    events: Sender<ThreadEvent>,
    spare: Receiver<Box<Tally>>,
}

/// What a sending thread tells the main thread.
enum ThreadEvent {
    Part(Part),
    Ended(u32, Result<ThreadOutcome, BenchError>),
}

impl SharedRun<'_> {
    fn completed(&self) -> u64 {
        self.completed.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// Waits until all threads are ready, and tells when that was.
    fn start(&self) -> Instant {
        self.ready.wait();
        *self.start.get_or_init(Instant::now)
    }

    fn elapsed(&self) -> Duration {
        self.start.get().map_or(Duration::ZERO, Instant::elapsed)
    }

    fn should_stop(&self) -> bool {
        self.stop.load(Relaxed) || self.abort.load(Relaxed)
    }

    fn report(&self, part: Part) {
        // The receiver lives until all threads have ended.
        let _ = self.events.send(ThreadEvent::Part(part));
    }

    fn spare(&self) -> Box<Tally> {
        self.spare.try_recv().unwrap_or_default()
    }
}

/// What one sending thread brings home besides its tallies.
struct ThreadOutcome {
    /// When it had sent its last query or had its last answer, whichever came later.
    ended_ns: u64,
    /// Why it stopped sending.
    end: RunEnd,
    usage: Usage,
    verification: Option<Verification>,
}

/// A thread's sockets, if it has any before it begins.
enum Endpoints {
    Udp(Vec<socket::ClientSockets>),
    Streams(u32),
}

/// Sends `queries` as `settings` say until they are through, the time is up or `stop` is raised.
///
/// Answers are compared with what is `expected` of them, if that is given. Meanwhile `progress` is called by the
/// calling thread for every `settings.progress_interval` that has passed.
///
/// # Errors
/// A [`BenchError`]. Lost queries are no error, nor is a server that goes away after it has answered.
pub fn run(
    settings: &RunSettings,
    queries: &QueryFile,
    expected: Option<&Expectations>,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Outcome, BenchError> {
    settings.check().map_err(BenchError::Settings)?;
    let threads = settings.effective_threads();
    raise_file_limit();
    let endpoints = open(settings, queries, threads)?;
    let (events, received) = bounded(threads as usize * MAX_PARTS);
    let (give_back, spare) = bounded(threads as usize * MAX_PARTS);
    let job = SharedRun {
        settings,
        queries,
        expected,
        position: AtomicU64::new(0),
        stop,
        abort: AtomicBool::new(false),
        ready: Barrier::new(threads as usize),
        start: OnceLock::new(),
        completed: (0..threads).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
        events,
        spare,
    };
    let mut collector = Collector::new(settings.progress_interval, threads);
    let outcomes = thread::scope(|scope| {
        for (thread, endpoints) in (0..threads).zip(&endpoints) {
            let job = &job;
            scope.spawn(move || {
                let outcome = match endpoints {
                    Endpoints::Udp(clients) => sender::run(job, thread, threads, clients),
                    Endpoints::Streams(count) => stream::run(job, thread, threads, *count),
                };
                if outcome.is_err() {
                    job.abort.store(true, Relaxed);
                }
                let _ = job.events.send(ThreadEvent::Ended(thread, outcome));
            });
        }
        supervise(&job, &received, &give_back, &mut collector, progress)
    })?;
    let clients = endpoints.iter().flat_map(|endpoints| match endpoints {
        Endpoints::Udp(clients) => clients.as_slice(),
        Endpoints::Streams(_) => &[],
    });
    let drops = clients.map(socket::ClientSockets::drops).sum();
    Ok(add_up(outcomes, collector, settings, drops))
}

/// Has as many files open at once as the system lets this process have: two for each client, and the usual limit is
/// 1,024. If it is too low all the same, opening will say so.
fn raise_file_limit() {
    let limits = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
}

fn open(settings: &RunSettings, queries: &QueryFile, threads: u32) -> Result<Vec<Endpoints>, BenchError> {
    if !settings.transport.is_udp() {
        return Ok((0..threads)
            .map(|thread| Endpoints::Streams(share(settings.clients, threads, thread)))
            .collect());
    }
    let mut clients = socket::open_all(settings, threads)?;
    if let Some(options_len) = queries.options_len().filter(|_| settings.cookies) {
        for client in clients.iter_mut().flatten() {
            client.cookie = workload::cookie::CookieJar::fill(&client.socket, queries.packet(0), options_len)
                .map_err(BenchError::Failed)?;
        }
    }
    Ok(clients.into_iter().map(Endpoints::Udp).collect())
}

/// Takes what the threads hand in until all have ended, and reports progress. The first thread's error wins.
fn supervise(
    job: &SharedRun<'_>,
    events: &Receiver<ThreadEvent>,
    give_back: &Sender<Box<Tally>>,
    collector: &mut Collector,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Vec<ThreadOutcome>, BenchError> {
    let mut results = Vec::new();
    while results.len() < job.completed.len() {
        let Ok(event) = events.recv() else { break };
        let mut spare = None;
        match event {
            ThreadEvent::Part(part) => spare = collector.take(part),
            ThreadEvent::Ended(thread, result) => {
                collector.ended(thread);
                results.push(result);
            }
        }
        let mut done = spare.into_iter().collect::<Vec<_>>();
        while let Some((point, tally)) = collector.complete(job.elapsed()) {
            // Of the last bit of a run there would be more to be told than it says.
            if point.length == job.settings.progress_interval {
                progress(Progress { point: &point, tally: &tally, totals: &collector.total.totals });
            }
            done.push(tally);
        }
        for mut tally in done {
            tally.clear();
            // One too many is let go.
            let _ = give_back.try_send(tally);
        }
    }
    results.into_iter().collect()
}

fn add_up(outcomes: Vec<ThreadOutcome>, collector: Collector, settings: &RunSettings, drops: u64) -> Outcome {
    // The strongest reason of any thread: one that found the file at its end says nothing about the others. Nor does
    // one without a connection, whose part the others have sent.
    let ended_by = |end| outcomes.iter().any(|outcome| outcome.end == end);
    let end = if ended_by(RunEnd::Interrupted) {
        RunEnd::Interrupted
    } else if outcomes.iter().all(|outcome| outcome.end == RunEnd::NoConnection) {
        RunEnd::NoConnection
    } else if ended_by(RunEnd::TimeLimit) {
        RunEnd::TimeLimit
    } else {
        RunEnd::EndOfFile
    };
    let mut run_time =
        Duration::from_nanos(outcomes.iter().map(|outcome| outcome.ended_ns).max().unwrap_or(0));
    if end == RunEnd::TimeLimit {
        run_time = run_time.max(settings.time_limit.unwrap_or(Duration::ZERO));
    }
    let usage = outcomes.iter().map(|outcome| outcome.usage).collect();
    let found = outcomes.into_iter().filter_map(|outcome| outcome.verification);
    let verification = found.reduce(|mut all, found| {
        all.merge(found);
        all
    });
    let (tally, series) = collector.finish();
    Outcome { tally, run_time, end, series, usage, drops, verification, server_share: None }
}

/// The `index`-th of `parts` nearly equal parts of `total`.
fn share(total: u32, parts: u32, index: u32) -> u32 {
    total / parts + u32::from(index < total % parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_has_lost_its_connections_when_all_threads_have() {
        use RunEnd::{EndOfFile, Interrupted, NoConnection, TimeLimit};
        for (ends, expected) in [
            ([NoConnection, NoConnection], NoConnection),
            ([NoConnection, TimeLimit], TimeLimit),
            ([EndOfFile, NoConnection], EndOfFile),
            ([NoConnection, Interrupted], Interrupted),
            ([EndOfFile, TimeLimit], TimeLimit),
        ] {
            let usage = Usage { elapsed_ns: 1, idle_ns: 0, cpu_ns: None, delayed_ns: None };
            let outcome = |end| ThreadOutcome { ended_ns: 1, end, usage, verification: None };
            let settings = RunSettings::new("127.0.0.1:53".parse().unwrap());
            let collector = Collector::new(Duration::from_secs(1), 2);
            assert_eq!(add_up(ends.map(outcome).into(), collector, &settings, 0).end, expected, "{ends:?}");
        }
    }

    #[test]
    fn shares_differ_by_one_at_most_and_add_up() {
        for (total, parts) in [(100, 1), (100, 3), (2, 3), (7, 7)] {
            let shares: Vec<_> = (0..parts).map(|index| share(total, parts, index)).collect();
            assert_eq!(shares.iter().sum::<u32>(), total);
            assert!(shares.iter().max().unwrap() - shares.iter().min().unwrap() <= 1);
        }
    }
}
