//! What a sending thread keeps whatever it sends over: the clock, the schedule, the supply of queries, what is in
//! flight in all, and the counts. Owned by that thread.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use super::answer::{account, hash_of};
use super::in_flight::{QueriesInFlight, Sent};
use super::query_source::QuerySource;
use super::schedule::Schedule;
use super::series::Part;
use super::settings::WaitMode;
use super::tally::Tally;
use super::usage::ThreadUsage;
use super::verify::Verifier;
use super::workload::QueryFile;
use super::{BenchError, RunEnd, SharedRun, ThreadOutcome, share};
use crate::sys::mmsg::BATCH_LEN;
use crate::wire::header::{self, rcode};

/// Longest sleep: how soon a raised stop flag is noticed.
const MAX_SLEEP_NS: u64 = 50_000_000;

/// Sleep where the next queries have not come yet.
const STARVED_SLEEP_NS: u64 = 500_000;

/// On a schedule the thread does not sleep into the last bit before a query is due: the kernel wakes it some 50 us late
/// (its timer slack), and a core that has gone to rest takes as long again.
const WAKE_EARLY_NS: u64 = 120_000;

/// The state of one sending thread.
pub(super) struct Load<'a> {
    pub(super) job: &'a SharedRun<'a>,
    thread: u32,
    start: Instant,
    pub(super) query_source: QuerySource<'a>,
    schedule: Option<Schedule>,
    /// When the queries that [`allowed`](Self::allowed) has allowed were due.
    due_ns: [u64; BATCH_LEN],
    verifier: Option<Verifier<'a>>,
    pub(super) tally: Box<Tally>,
    completed: u64,
    /// Queries in flight, and how many there may be.
    pub(super) outstanding: u64,
    pub(super) limit: u64,
    pub(super) now_ns: u64,
    pub(super) timeout_ns: u64,
    end_ns: u64,
    /// Queries due up to here were held back by a limit.
    throttled_until_ns: u64,
    /// Number of the interval that `tally` is of, and where it ends.
    interval: u64,
    interval_ns: u64,
    interval_end_ns: u64,
    usage: ThreadUsage,
    /// Time in which there was nothing to do.
    idle_ns: u64,
    /// Why sending has ended, if it has.
    pub(super) end: Option<RunEnd>,
    /// The last query sent or answer received.
    last_traffic_ns: u64,
}

impl<'a> Load<'a> {
    pub(super) fn new(job: &'a SharedRun<'a>, thread: u32, threads: u32) -> Self {
        let settings = job.settings;
        let total = settings.effective_outstanding();
        let runs = settings.effective_runs().map(Into::into);
        let interval_ns = nanoseconds(settings.progress_interval);
        Self {
            job,
            thread,
            start: Instant::now(),
            query_source: QuerySource::new(&job.position, job.queries, runs),
            schedule: settings
                .plan
                .as_ref()
                .map(|plan| Schedule::new(plan.clone(), thread, threads, settings.seed)),
            due_ns: [0; BATCH_LEN],
            verifier: job.expected.map(Verifier::new),
            tally: Box::default(),
            completed: 0,
            outstanding: 0,
            limit: u32::try_from(total).map_or(total, |total| share(total, threads, thread).into()),
            now_ns: 0,
            timeout_ns: nanoseconds(settings.timeout),
            end_ns: settings.time_limit.map_or(u64::MAX, nanoseconds),
            throttled_until_ns: 0,
            interval: 0,
            interval_ns,
            interval_end_ns: interval_ns,
            usage: ThreadUsage::begin(),
            idle_ns: 0,
            end: None,
            last_traffic_ns: 0,
        }
    }

    /// Waits until all threads are ready: now the clock runs. Every thread has to come here, whatever it has met.
    pub(super) fn begin_together(&mut self) {
        self.start = self.job.start();
        self.usage = ThreadUsage::begin();
    }

    /// Whether queries have times when they are due.
    pub(super) fn is_scheduled(&self) -> bool {
        self.schedule.is_some()
    }

    /// Reads the clock. `idle` says that nothing was done since it was last read. An interval that has ended goes to
    /// the main thread.
    #[inline]
    pub(super) fn tick(&mut self, idle: bool) {
        let now_ns = nanoseconds(self.start.elapsed());
        if idle {
            self.idle_ns += now_ns - self.now_ns;
        }
        self.now_ns = now_ns;
        if now_ns >= self.interval_end_ns {
            self.end_interval();
        }
    }

    #[cold]
    fn end_interval(&mut self) {
        let tally = std::mem::replace(&mut self.tally, self.job.spare());
        self.job.report(Part { thread: self.thread, interval: self.interval, tally });
        self.interval = self.now_ns / self.interval_ns;
        self.interval_end_ns = (self.interval + 1).saturating_mul(self.interval_ns);
    }

    /// Books a message received now. Returns whether it completes a query.
    #[inline]
    pub(super) fn record_response(&mut self, message: &[u8], table: &mut QueriesInFlight) -> bool {
        let queries = self.job.queries;
        let Some(done) = account(message, self.now_ns, queries, table, &mut self.tally) else { return false };
        if let Some(verifier) = &mut self.verifier {
            verifier.check(done.query, message);
        }
        if self.job.settings.verbose {
            let code = rcode::mnemonic(message[3] & header::RCODE_MASK);
            let seconds = done.service_ns as f64 / 1e9;
            let sent = table.remembered(header::u16_at(message, 0));
            tell(format_args!("> {code} {} {seconds:.6}", line(queries, done.query, sent)));
        }
        true
    }

    /// So many queries are completed.
    pub(super) fn complete(&mut self, count: u64) {
        if count > 0 {
            self.outstanding -= count;
            self.completed += count;
            self.last_traffic_ns = self.now_ns;
            self.job.completed[self.thread as usize].store(self.completed, Relaxed);
        }
    }

    /// Gives up what has been in flight for the timeout or longer.
    pub(super) fn handle_timeout(&mut self, table: &mut QueriesInFlight) {
        if let Some(sent_ns) = self.now_ns.checked_sub(self.timeout_ns) {
            self.expire(table, sent_ns);
        }
    }

    /// Gives up what was sent at or before `sent_ns`.
    pub(super) fn expire(&mut self, table: &mut QueriesInFlight, sent_ns: u64) {
        let (now_ns, tally, job, mut lost) = (self.now_ns, &mut self.tally, self.job, 0);
        table.expire(sent_ns, |query, sent, sent_ns, due_ns| {
            if job.settings.verbose {
                tell(format_args!("> T {}", line(job.queries, query, sent)));
            }
            tally.censor(now_ns - sent_ns, due_ns.map(|due_ns| now_ns - due_ns));
            lost += 1;
        });
        tally.totals.lost += lost;
        self.outstanding -= lost;
    }

    /// How many queries may be sent now, of `room` at most; of these the times when they were due are kept.
    #[inline]
    pub(super) fn allowed(&mut self, room: usize) -> usize {
        let room = room.min(BATCH_LEN);
        let free = usize::try_from(self.limit - self.outstanding).unwrap_or(usize::MAX);
        let Some(schedule) = &mut self.schedule else { return room.min(free) };
        let due = schedule.due(self.now_ns, &mut self.due_ns[..room]);
        if due > free {
            self.throttled_until_ns = self.now_ns;
        }
        due.min(free)
    }

    /// There is no id, or no connection, to send what may be due.
    pub(super) fn throttle(&mut self) {
        if self.schedule.as_ref().is_some_and(|schedule| schedule.next_due_ns() <= self.now_ns) {
            self.throttled_until_ns = self.now_ns;
        }
    }

    /// The `k`-th of the allowed queries is taken up, with this id table; it was sent when the clock was last read.
    #[inline]
    pub(super) fn begin(&mut self, k: usize, query: u32, table: &mut QueriesInFlight) {
        let section = self.query_source.section();
        if self.job.queries.feed().is_some() {
            let line = if self.job.settings.verbose { section.text(query).into() } else { Box::default() };
            table.remember(Sent { hash: hash_of(section.question(query)), line });
        }
        table.begin(query, self.now_ns, self.due_ns[k]);
        self.tally.totals.request_bytes += section.packet(query).len() as u64;
    }

    /// The first `count` of the allowed queries have been sent.
    pub(super) fn sent(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        self.query_source.take(count);
        if let Some(schedule) = &mut self.schedule {
            // After sending, so that the time for that is in it.
            let sent_ns = nanoseconds(self.start.elapsed());
            for &due_ns in &self.due_ns[..count] {
                self.tally.send_lag.record(sent_ns.saturating_sub(due_ns));
                self.tally.totals.throttled += u64::from(due_ns < self.throttled_until_ns);
            }
            schedule.issue(count);
        }
        self.tally.totals.sent += count as u64;
        self.outstanding += count as u64;
        self.last_traffic_ns = self.now_ns;
    }

    /// Whether queries may be sent still; notes that the time is up or the queries are at their end.
    pub(super) fn may_send(&mut self) -> bool {
        if self.end.is_none() && self.now_ns >= self.end_ns {
            self.end = Some(RunEnd::TimeLimit);
        } else if self.end.is_none() && self.query_source.is_exhausted() {
            self.end = Some(RunEnd::EndOfFile);
        }
        self.end.is_none()
    }

    /// There has been no connection for a whole timeout: nothing more is sent.
    pub(super) fn end_without_connection(&mut self) {
        self.end.get_or_insert(RunEnd::NoConnection);
    }

    /// Whether the run is over for this thread; notes that it was interrupted.
    pub(super) fn is_over(&mut self) -> bool {
        if self.job.should_stop() {
            self.end = Some(RunEnd::Interrupted);
            return true;
        }
        self.end.is_some() && self.outstanding == 0
    }

    /// How long nothing can be to do unless something arrives, or zero where it is not worth to sleep.
    pub(super) fn sleep_ns(&self, next_expiry_ns: u64) -> u64 {
        let early_ns = if self.job.settings.wait_mode == WaitMode::Sleep { 0 } else { WAKE_EARLY_NS };
        let mut wake_ns = self.now_ns + MAX_SLEEP_NS;
        if self.outstanding > 0 {
            wake_ns = wake_ns.min(next_expiry_ns);
        }
        if self.end.is_none() {
            if self.query_source.is_starved() {
                wake_ns = wake_ns.min(self.now_ns + STARVED_SLEEP_NS);
            }
            wake_ns = wake_ns.min(self.end_ns);
            // What is due and has not come yet cannot be sent: waking for it would be a loop around nothing.
            let can_send = self.outstanding < self.limit && !self.query_source.is_starved();
            if let Some(schedule) = self.schedule.as_ref().filter(|_| can_send) {
                wake_ns = wake_ns.min(schedule.next_due_ns().saturating_sub(early_ns));
                if wake_ns <= self.now_ns {
                    return 0;
                }
            }
        }
        // At least a little: were something to do that cannot be done, this would be a loop around nothing.
        wake_ns.saturating_sub(self.now_ns).max(1_000)
    }

    /// Counts what was not sent and what is not answered, and hands everything in.
    pub(super) fn finish(mut self, tables: &mut [&mut QueriesInFlight]) -> ThreadOutcome {
        let end = self.end.unwrap_or(RunEnd::Interrupted);
        let ended_ns = if end == RunEnd::Interrupted { self.now_ns } else { self.last_traffic_ns };
        if end == RunEnd::Interrupted {
            let lost_before = self.tally.totals.lost;
            for table in tables {
                self.expire(table, u64::MAX);
            }
            self.tally.totals.interrupted = self.tally.totals.lost - lost_before;
            self.tally.totals.lost = lost_before;
        }
        if end != RunEnd::EndOfFile {
            // What was due at the very end would have been sent after it.
            self.count_overdue(self.end_ns.min(self.now_ns).saturating_sub(1));
        }
        let usage = self.usage.end(nanoseconds(self.start.elapsed()), self.idle_ns);
        self.job.report(Part { thread: self.thread, interval: self.interval, tally: self.tally });
        ThreadOutcome { ended_ns, end, usage, verification: self.verifier.map(Verifier::finish) }
    }

    /// Queries that were due by `until_ns` and never sent have waited, too.
    fn count_overdue(&mut self, until_ns: u64) {
        let Some(schedule) = &mut self.schedule else { return };
        loop {
            let count = schedule.due(until_ns, &mut self.due_ns);
            for &due_ns in &self.due_ns[..count] {
                self.tally.response.censor(until_ns - due_ns);
            }
            self.tally.totals.overdue += count as u64;
            schedule.issue(count);
            if count == 0 {
                return;
            }
        }
    }

    /// Whether the network said that nobody listens before anything was answered: then there is nothing to measure.
    pub(super) fn unreachable(&mut self, error: std::io::Error) -> Result<(), BenchError> {
        if self.job.completed() == 0 {
            return Err(BenchError::Unreachable { server: self.job.settings.server, error });
        }
        // A server that has answered may have ended or be starting again: that is what is measured.
        self.tally.totals.refused += 1;
        Ok(())
    }
}

/// The line of a query: what is kept of it, or what stands in memory.
fn line<'a>(queries: &'a QueryFile, query: u32, sent: Option<&'a Sent>) -> Cow<'a, str> {
    sent.map_or_else(|| queries.text(query), |sent| Cow::Borrowed(&*sent.line))
}

/// Prints the line of one query, as asked for with -v. That it cannot be printed is told with the result.
#[cold]
fn tell(line: fmt::Arguments<'_>) {
    let _ = writeln!(io::stdout(), "{line}");
}

pub(super) fn nanoseconds(duration: std::time::Duration) -> u64 {
    duration.as_nanos().try_into().unwrap_or(u64::MAX)
}
