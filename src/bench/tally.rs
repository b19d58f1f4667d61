//! What is counted: the totals and latencies of a run.
//!
//! Each sending thread fills one of its own; the main thread adds them up when all are done.

use super::latency::Latencies;

/// Counts of queries and answers.
///
/// `sent = completed + lost + interrupted`. Late, duplicate and wrong answers are counted besides: the query that a
/// late answer belongs to has been lost already.
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
    /// Datagrams that answer nothing that was asked: no response, an id never used, or another question.
    pub wrong: u64,
    /// Times that the server's host said that nobody listens, or the way there that it cannot be reached.
    pub refused: u64,
    /// Queries that a fixed rate called for and that were not sent by the end of the run.
    pub overdue: u64,
    /// Bytes of all queries sent, without UDP and IP headers.
    pub request_bytes: u64,
    /// Bytes of all answers that completed a query.
    pub response_bytes: u64,
    /// Completed queries by response code.
    pub rcodes: [u64; 16],
}

/// Totals and latencies.
#[derive(Clone, Default)]
pub struct Tally {
    /// The counts.
    pub totals: Totals,
    /// Latencies of answers that bring records: NOERROR and at least one.
    pub positive: Latencies,
    /// Latencies of answers that say that there is none: NXDOMAIN, or NOERROR without records (RFC 2308).
    pub negative: Latencies,
    /// Latencies of all others: failures, refusals, and truncated answers that bring nothing.
    pub other: Latencies,
}

impl Tally {
    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        let (sum, part) = (&mut self.totals, &other.totals);
        sum.sent += part.sent;
        sum.completed += part.completed;
        sum.lost += part.lost;
        sum.interrupted += part.interrupted;
        sum.late += part.late;
        sum.duplicate += part.duplicate;
        sum.wrong += part.wrong;
        sum.refused += part.refused;
        sum.overdue += part.overdue;
        sum.request_bytes += part.request_bytes;
        sum.response_bytes += part.response_bytes;
        for (sum, part) in sum.rcodes.iter_mut().zip(part.rcodes) {
            *sum += part;
        }
        self.positive.merge(&other.positive);
        self.negative.merge(&other.negative);
        self.other.merge(&other.other);
    }

    /// Latencies of all answers.
    #[must_use]
    pub fn all(&self) -> Latencies {
        let mut all = self.positive.clone();
        all.merge(&self.negative);
        all.merge(&self.other);
        all
    }
}
