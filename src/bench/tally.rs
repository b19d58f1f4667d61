//! What is counted: the totals and latencies of a run, or of a part of it.
//!
//! Each sending thread fills one after the other, one for each interval; the main thread adds them up.

use super::latency::Latencies;

/// Counts of queries and answers.
///
/// `sent = completed + lost + interrupted`. Late, duplicate, mismatched and stray answers are counted besides: the
/// query that a late answer belongs to has been lost already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Queries sent.
    pub sent: u64,
    /// Queries answered in time.
    pub completed: u64,
    /// Queries not answered within the timeout.
    pub lost: u64,
    /// Queries still unanswered when the run was interrupted.
    pub interrupted: u64,
    /// First answers to queries that had been given up.
    pub late: u64,
    /// Further answers to queries that had one.
    pub duplicate: u64,
    /// Messages from the server that answer nothing that was asked: no response, an id never used, or another question.
    pub mismatched: u64,
    /// Datagrams to our ports from elsewhere than the server.
    pub wrong_source: u64,
    /// Times that the server's host said that nobody listens, or the way there that it cannot be reached.
    pub refused: u64,
    /// Connections that were made (TCP, TLS).
    pub connections: u64,
    /// Connections that ended before all their queries were answered; those queries are lost.
    pub broken: u64,
    /// Queries that the schedule called for and that were not sent by the end of the run.
    pub overdue: u64,
    /// Times that a query was due and the limit of queries outstanding, or of ids, did not let it go.
    pub throttled: u64,
    /// Bytes of all queries sent, without UDP, TCP and IP headers.
    pub request_bytes: u64,
    /// Bytes of all answers that completed a query.
    pub response_bytes: u64,
    /// Completed queries by response code.
    pub rcodes: [u64; 16],
}

/// Totals and latencies.
///
/// *Service time* runs from when a query was sent, *response time* from when it was due. In a closed loop a query is
/// due when it can be sent, and the two are one.
#[derive(Clone, Default)]
pub struct Tally {
    /// The counts.
    pub totals: Totals,
    /// Service times of answers that bring records: NOERROR and at least one.
    pub positive: Latencies,
    /// Service times of answers that say that there is none: NXDOMAIN, or NOERROR without records (RFC 2308).
    pub negative: Latencies,
    /// Service times of all others: failures, refusals, truncated answers that bring nothing; and, as lower bounds, of
    /// queries that were not answered.
    pub other: Latencies,
    /// Response times of all queries that were due, answered or not. Empty in a closed loop.
    pub response: Latencies,
    /// How long after they were due queries were sent. Empty in a closed loop.
    pub send_lag: Latencies,
}

impl Totals {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.completed += other.completed;
        self.lost += other.lost;
        self.interrupted += other.interrupted;
        self.late += other.late;
        self.duplicate += other.duplicate;
        self.mismatched += other.mismatched;
        self.wrong_source += other.wrong_source;
        self.refused += other.refused;
        self.connections += other.connections;
        self.broken += other.broken;
        self.overdue += other.overdue;
        self.throttled += other.throttled;
        self.request_bytes += other.request_bytes;
        self.response_bytes += other.response_bytes;
        for (sum, part) in self.rcodes.iter_mut().zip(other.rcodes) {
            *sum += part;
        }
    }
}

impl Tally {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.totals.merge(&other.totals);
        self.positive.merge(&other.positive);
        self.negative.merge(&other.negative);
        self.other.merge(&other.other);
        self.response.merge(&other.response);
        self.send_lag.merge(&other.send_lag);
    }

    /// Empties it and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.totals = Totals::default();
        for latencies in
            [&mut self.positive, &mut self.negative, &mut self.other, &mut self.response, &mut self.send_lag]
        {
            latencies.clear();
        }
    }

    /// Service times of all queries.
    #[must_use]
    pub fn all(&self) -> Latencies {
        let mut all = self.positive.clone();
        all.merge(&self.negative);
        all.merge(&self.other);
        all
    }

    /// Response times of all queries; in a closed loop they are the service times.
    #[must_use]
    pub fn responses(&self) -> Latencies {
        if self.response.is_empty() { self.all() } else { self.response.clone() }
    }

    /// Books a query that was never answered: `sent_ns` and `due_ns` ago it was sent and due. `due_ns` is none in a
    /// closed loop.
    pub(crate) fn censor(&mut self, since_sent_ns: u64, since_due_ns: Option<u64>) {
        self.other.censor(since_sent_ns);
        if let Some(since_due_ns) = since_due_ns {
            self.response.censor(since_due_ns);
        }
    }
}
