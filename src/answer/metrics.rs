//! What a worker counts. Each worker writes its own counters, anyone may read them at any time.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_utils::CachePadded;

use crate::sys::counter::{self, add};

/// Declares [`Event`] with its name for people and programs, so that none can be forgotten.
macro_rules! events {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Something that happened to a packet. Each received packet is exactly one of those up to
        /// [`Event::BadVersion`]; the rest come on top. A query that waits for others is one of them when it is
        /// answered: if its connection is gone by then, it is none.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum Event {
            $($(#[$doc])* $variant,)*
        }

        impl Event {
            /// All events, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// Its name in metrics and tables.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

events! {
    /// Answered with records.
    Positive => "positive",
    /// Answered with an alias (CNAME) and what it leads to, if anything.
    Alias => "alias",
    /// The name exists, the type does not: NOERROR without answers.
    NoData => "nodata",
    /// The name does not exist, in a domain of ours or in one that is nobody's.
    NxDomain => "nxdomain",
    /// REFUSED: neither the name nor any domain above it is ours, or the class is not IN.
    Refused => "refused",
    /// REFUSED: the client's address may not ask.
    Prohibited => "prohibited",
    /// Answered with nothing but TC: its network is over the rate limit.
    RateTruncated => "rate_truncated",
    /// Dropped: its network is over the rate limit.
    RateDropped => "rate_dropped",
    /// Dropped: from port 0.
    BadSource => "bad_source",
    /// Dropped: shorter than a header.
    Short => "short",
    /// Dropped: a response, sent to us as if it were a query.
    Response => "response",
    /// NOTIMP: an operation other than a query.
    Opcode => "opcode",
    /// FORMERR: not exactly one question.
    QuestionCount => "question_count",
    /// FORMERR: a label over 63 bytes or a compression pointer in the question.
    BadLabel => "bad_label",
    /// FORMERR: a name over 255 bytes.
    NameTooLong => "name_too_long",
    /// FORMERR: the packet ends inside its question, or was longer than any query and lost its end.
    Truncated => "truncated_query",
    /// FORMERR: malformed records or EDNS options behind the question, or bytes behind the last record.
    Records => "bad_records",
    /// Answered at once with what upstreams have said before.
    Cached => "cached",
    /// Answered with what upstreams have said to it: it has waited.
    Fetched => "fetched",
    /// Answered with what upstreams said once and that is over, since they do not answer now.
    Stale => "stale",
    /// SERVFAIL: upstreams could not answer.
    UpstreamFailed => "forward_failed",
    /// Dropped: so many questions wait for upstreams that not all of their clients can be told so.
    UpstreamDropped => "forward_dropped",
    /// REFUSED: the question has passed this server before.
    UpstreamLoop => "forward_loop",
    /// Answered with a cookie, which was all that was asked for.
    CookieAlone => "cookie_alone",
    /// SERVFAIL: as many names are being asked of other nodes, or as many queries wait for these, as may be.
    PeerQueriesFull => "peer_queries_full",
    /// SERVFAIL: as many updates, transfers and signed messages wait for the thread that has them as may be.
    OffloadFull => "offload_full",
    /// SERVFAIL: it has waited, and would have to wait again, since names have changed meanwhile.
    ChangedMeanwhile => "changed_meanwhile",
    /// SERVFAIL: the server stops, and there is no time to wait for others.
    Stopping => "stopping",
    /// Left to another thread: an update, a transfer, or something signed.
    Offloaded => "handed_over",
    /// BADVERS: an EDNS version we do not know.
    BadVersion => "bad_edns_version",
    /// The answer did not fit and went out with TC set.
    TruncatedAnswer => "truncated_answer",
    /// The kernel would not take a response: the peer's address cannot be reached, or the send buffer was full.
    SendFailed => "send_failed",
    /// The kernel failed a receive.
    ReceiveFailed => "receive_failed",
    /// A batch of packets was received.
    Batch => "batch",
    /// A query has begun to wait for what other nodes say.
    PeerQuery => "asked",
    /// A query has begun to wait for upstreams.
    UpstreamQuery => "forwarded",
    /// Of these, for a question that they had been asked already.
    Coalesced => "coalesced",
    /// A question was asked once more before its answer expired.
    Prefetched => "prefetched",
    /// Questions and answers sent to other nodes.
    PeerDatagramsOut => "peer_datagrams_out",
    /// Bytes of DNS in them.
    PeerBytesOut => "peer_bytes_out",
    /// Questions and answers received from other nodes.
    PeerDatagramsIn => "peer_datagrams_in",
    /// Bytes of DNS in them.
    PeerBytesIn => "peer_bytes_in",
    /// A TCP connection was accepted.
    TcpAccepted => "tcp_accepted",
    /// A TCP connection was closed at once: its client has too many, or all there can be are busy.
    TcpRefused => "tcp_refused",
    /// A TCP connection was closed because its client said nothing, or did not finish, for too long.
    TcpTimedOut => "tcp_timed_out",
    /// The kernel had no descriptor or memory for a TCP connection.
    TcpAcceptFailed => "tcp_accept_failed",
    /// The server stopped, and the time that it has for that was over before this query was answered.
    StopTimedOut => "stop_timed_out",
}

/// One worker's counters. They are plain stores of a single writer, not atomic additions, and share no cache line with
/// anything that another thread writes.
pub struct Counters {
    counts: CachePadded<[AtomicU64; Event::ALL.len()]>,
    times: CachePadded<BatchDurations>,
}

/// BatchDurations from a microsecond on, to 16 ms.
type BatchDurations = counter::DurationHistogram<1_024, 16>;

impl Default for Counters {
    fn default() -> Self {
        Self {
            counts: CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0))),
            times: CachePadded::default(),
        }
    }
}

impl Counters {
    /// Counts one event. Only the worker that owns these counters may call this.
    #[inline]
    pub fn count(&self, event: Event) {
        self.add(event, 1);
    }

    /// Counts `n` of an event. Only the worker that owns these counters may call this.
    #[inline]
    pub fn add(&self, event: Event, n: u64) {
        add(&self.counts[event as usize], n);
    }

    /// Counts how long a batch took. Only the worker that owns these counters may call this.
    pub fn time(&self, took: Duration) {
        self.times.count(took);
    }

    /// How long the batches took that were timed: all together, and how many took less than how long.
    pub fn times(&self) -> (Duration, impl Iterator<Item = (Option<Duration>, u64)>) {
        self.times.read()
    }

    /// How often `event` was counted.
    #[must_use]
    pub fn get(&self, event: Event) -> u64 {
        self.counts[event as usize].load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_by_how_long_they_are() {
        let counters = Counters::default();
        for us in [0, 1, 2, 3, 100_000, 10_000_000] {
            counters.time(Duration::from_micros(us));
        }
        let (sum, buckets) = counters.times();
        assert_eq!(sum, Duration::from_micros(10_100_006));
        let buckets: Vec<_> = buckets.collect();
        assert_eq!(
            buckets[..3],
            [
                (Some(Duration::from_nanos(1024)), 2),
                (Some(Duration::from_nanos(2048)), 1),
                (Some(Duration::from_nanos(4096)), 1)
            ]
        );
        assert_eq!(buckets.last(), Some(&(None, 2)));
    }

    #[test]
    fn counters_of_two_workers_share_no_cache_line() {
        // Processors fetch lines of 64 bytes in pairs.
        assert!(align_of::<Counters>() >= 128 && size_of::<Counters>().is_multiple_of(128));
    }

    #[test]
    fn each_event_is_counted_for_itself() {
        let counters = Counters::default();
        counters.count(Event::PeerQuery);
        counters.add(Event::PeerBytesOut, 70);
        counters.add(Event::PeerBytesOut, 7);
        let counted: Vec<_> =
            Event::ALL.iter().map(|&event| counters.get(event)).filter(|&n| n > 0).collect();
        assert_eq!(counted, [1, 77]);
    }
}
