//! Every limit that an operator or a peer can meet: what it bounds, in which unit, and what breaks if it changes.
//!
//! Constants alone, which all of the crate may use; the assertions at the end say how they depend on each other. The
//! tables in `docs/limits.md` and `docs/gossip.md` are checked against this file by `tests/limits.rs`.
//!
//! What is over a limit is refused where it comes in, with its place and its value. Only what no way in can see is left
//! out later: several nodes may register the same name at the same time, and many names may have the same address, so
//! one reverse name. The table then leaves out whole records, in an order that is the same on all nodes: of a name's
//! types those with the highest numbers, of a type's records the longest, and of these those with the highest bytes
//! ([`table::Crowded`](crate::table::Crowded)).

use std::time::Duration;

pub use crate::wire::edns::MAX_PASSED_BY;
use crate::wire::name::MAX_LEN as MAX_NAME_LEN;
use crate::wire::record::FIXED_LEN;
use crate::wire::response::{DEFAULT_UDP_LEN as UDP_LEN, MAX_OVERHEAD, UDP_LENS};

// Names and their records.

/// Types of records that one name has at most. A table counts them in eight bits, of which one value says that the name
/// is gone; more would take another format of the table's blocks.
pub const MAX_RECORD_SETS: usize = 254;

/// Bytes of the records of one name and type at most, each with the 12 bytes in front of its data. They have to fit in
/// a message over TCP with its header, the longest question and an OPT record, and a table has 16 bits for it.
pub const MAX_SET_LEN: usize = 65_000;

/// Bytes of a record's data at most. A dozen of them still fit in an answer over TCP.
pub const MAX_RDATA_LEN: usize = 4_096;

/// Bytes of an instance's name at most; a container's id has 64.
pub const MAX_INSTANCE_LEN: usize = 64;

/// Bytes of all attributes of a registration at most.
pub const MAX_ATTRIBUTES_LEN: usize = 1_024;

/// Bytes of a health check, as text, at most: it is one of the attributes.
pub const MAX_CHECK_LEN: usize = 256;

/// Bytes of a registration at most. A registration from files has its length in 16 bits, and one change has to fit in a
/// datagram.
pub const MAX_RECORD_LEN: usize = MAX_INSTANCE_LEN + MAX_NAME_LEN + MAX_RDATA_LEN + MAX_ATTRIBUTES_LEN + 16;

/// Seconds of a TTL at most (RFC 2181 §8): clients take more for 0.
pub const MAX_TTL_S: u32 = i32::MAX.unsigned_abs();

/// Addresses of a name that a policy is for: the sum of their weights has 32 bits.
pub const MAX_ADDRESSES: usize = 4_096;

/// The highest weight of an address, as of an SRV record (RFC 2782).
pub const MAX_WEIGHT: u16 = u16::MAX;

/// The number of the last tier of addresses: there is a count for each in the choice of addresses.
pub const MAX_TIER: u8 = 15;

/// Parts of a weight that is ramped up.
pub const RAMP_STEPS: u8 = 16;

/// Registrations in one request: they are made together, and nothing else meanwhile.
pub const MAX_ADDITIONS: usize = 1_000;

/// Records in one update of a zone, for the same reason.
pub const MAX_UPDATE_RECORDS: usize = 1_000;

/// Bytes of a names file, or of a zone file, which are in memory while they are read: thirty million names.
pub const MAX_FILE_LEN: u64 = 1 << 30;

/// Bytes of a line of a names file without its comment, and of an entry of a zone file. What is longer is no line that
/// somebody has written, and would be read as one value.
pub const MAX_LINE_LEN: usize = 64 << 10;

// Queries and answers.

/// Datagrams moved by one system call at most. Beyond 64 the per-call cost is already spread so thin that larger
/// batches only add latency and cache footprint; the kernel itself caps a call at 1,024.
pub const BATCH_LEN: usize = 64;

/// Bytes in a datagram buffer. An odd multiple of the 64-byte cache line: with a power of two the first lines of
/// all 64 buffers would compete for the same few sets of a 48 KiB, 12-way L1 cache.
pub const BUFFER_LEN: usize = 25 * 64;

/// Bytes of a UDP response unless it is set: crosses today's networks whole (DNS Flag Day 2020).
pub const DEFAULT_UDP_LEN: u16 = UDP_LEN;
/// The least that can be set: what every client takes (RFC 1035 §4.2.1).
pub const MIN_UDP_LEN: u16 = *UDP_LENS.start();
/// The most that can be set: what fits in an Ethernet frame.
pub const MAX_UDP_LEN: u16 = *UDP_LENS.end();

/// Aliases followed for one query: it bounds the work for a chain that somebody has registered.
pub const MAX_ALIASES: usize = 16;

/// Targets of an SRV answer whose addresses come with it.
pub const MAX_ADDITIONAL: usize = 16;

/// Domains: a negative answer looks at each of them.
pub const MAX_DOMAINS: usize = 64;

/// Workers. Each has its buffers, and the kernel spreads packets over no more sockets in practice.
pub const MAX_WORKERS: usize = 1_024;

/// Bytes of the kernel's buffers of a socket, asked for each way: 50 ms of a flood.
pub const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// Batches that one socket is read before the others get their turn.
pub const BATCHES_PER_TURN: usize = 16;
/// The same where outcomes of queries to upstreams wait, too.
pub const BATCHES_BESIDE_OUTCOMES: usize = 4;

/// How often a worker that always finds something looks at its sockets before it looks at its poll.
pub const LOOKS_PER_GLANCE: u32 = 32;

/// Names looked up together: enough for their waits for memory to overlap, few enough for the nearest cache.
pub const MAX_TOGETHER: usize = 16;

/// Client networks that a worker's rate limit tells apart; others share a count.
pub const RATE_LIMIT_NETWORKS: usize = 1 << 16;

/// Names with rotated addresses that a worker counts apart; others share a count.
pub const ROTATIONS: usize = 1_024;

/// TCP connections of a worker: each takes a descriptor and some hundred bytes.
pub const MAX_TCP_CONNECTIONS: usize = 2_048;
/// Of these, one client's.
pub const MAX_TCP_CONNECTIONS_PER_CLIENT: u32 = 256;
/// What a worker may take at a stop: TCP clients that are slow to take their answers, and updates that are being made.
/// Below what a service manager waits (systemd: 90 s).
pub const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// Of this, what the disk may take to make durable what it has been given, so that whoever asked for it is answered.
pub const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);
const _: () = assert!(SETTLE_TIMEOUT.as_millis() < STOP_TIMEOUT.as_millis(), "workers have to tell it");
/// How long a TCP connection may be idle.
pub const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a TCP client may take for a query, or to take its answers.
pub const TCP_SLOW_TIMEOUT: Duration = Duration::from_secs(5);
/// Bytes of answers that are held for a TCP client before its next query is read.
pub const TCP_OUTPUT_LEN: usize = 64 << 10;
/// Queries of one TCP connection that wait for others.
pub const MAX_OUTSTANDING: usize = 1_024;

/// Updates of zones and signed messages that wait; those after them are SERVFAIL.
pub const MAX_HANDED_OVER: usize = 1_024;
/// Copies of zones that are made at the same time: a thread each.
pub const MAX_TRANSFERS: usize = 8;

// Names in other domains.

/// Upstreams of one domain, or of all others: each is measured by each worker.
pub const MAX_UPSTREAMS: usize = 32;
/// Domains with upstreams of their own: a question that is not in the cache is compared with each. Upstreams have
/// 16-bit numbers.
pub const MAX_FORWARDS: usize = 256;

/// Bytes of the cache of all workers unless it is set.
pub const DEFAULT_CACHE_BYTES: usize = 64 << 20;
/// The least that can be set: some hundred answers a worker.
pub const MIN_CACHE_BYTES: usize = 1 << 20;
/// The most that can be set: more than there are names that anybody asks for.
pub const MAX_CACHE_BYTES: usize = 256 << 30;
/// Bytes of a part of the cache, at least; at most twice as many. Within a part alone something may have to be moved.
pub const CACHE_PART_LEN: usize = 1 << 20;

/// Seconds for which an answer is kept unless it is set.
pub const DEFAULT_MAX_TTL_S: u32 = 86_400;
/// The same of an answer that there is nothing (RFC 2308 §5).
pub const DEFAULT_MAX_NEGATIVE_TTL_S: u32 = 3_600;
/// Seconds for which it is kept that there is nothing where no SOA record says for how long, unless it is set: long
/// enough that a program that asks again and again is not passed on each time.
pub const DEFAULT_NEGATIVE_TTL_S: u32 = 5;
/// The most that this can be set to.
pub const MAX_NEGATIVE_TTL_S: u32 = 3_600;
/// The most that the seconds for which an answer is kept at least can be set to: more would keep names where they are
/// not any more.
pub const MAX_MIN_TTL_S: u32 = 3_600;
/// Seconds after its end for which an answer is given where no upstream answers, unless it is set (RFC 8767 §5).
pub const DEFAULT_MAX_STALE_S: u32 = 86_400;
/// The most that the first and the last can be set to (RFC 8767 §4).
pub const MAX_KEPT_S: u32 = 7 * 86_400;

/// Questions of one worker that upstreams are being asked. For a new one the oldest is given up.
pub const MAX_QUESTIONS: usize = 100_000;
/// Queries of one worker that wait for them.
pub const MAX_WAITERS: usize = 131_072;
/// How often one question is sent to all servers together; what has reached nobody counts half. Enough for a host that
/// refuses all of it to be asked again as long as clients wait.
pub const MAX_SENT: usize = 20;
/// How often to one server by datagrams (RFC 9520 §3.1) before it is left alone with it for a second.
pub const MAX_TRIES: usize = 3;
/// How often to one server over streams, where it is asked over these alone: connections that break are no answer.
pub const MAX_STREAM_TRIES: usize = 8;
/// How often to one server over streams beside datagrams that it has not answered.
pub const MAX_STREAM_TRIES_BESIDE: usize = 3;
/// Connections that had worked and have ended before one question was answered: fewer, and where a server closes after
/// each answer not all that are asked at once are answered.
pub const MAX_STREAMS_ENDED: u16 = 1_000;
/// Retries of one worker at once, and each second.
pub const RETRIES_PER_S: u32 = 5_000;
/// Questions in flight beyond which silence is no reason for a stream.
pub const MAX_OPEN_FOR_STREAM: usize = 1_000;
/// Questions that are looked at again each second since nobody could be asked.
pub const RECHECKS_PER_S: u32 = 10_000;
/// Ports of one worker for one upstream.
pub const UPSTREAM_PORTS: usize = 16;
/// How long one of them is used.
pub const UPSTREAM_PORT_AGE: Duration = Duration::from_secs(160);
/// How long as many old ones are kept for answers that come late, where all were renewed together: as long as clients
/// wait.
pub const OLD_UPSTREAM_PORT_AGE: Duration = Duration::from_secs(5);
/// Connections of one worker to one upstream: one that is silent has others beside it.
pub const UPSTREAM_STREAMS: u8 = 4;
/// Bytes that wait to be sent on one of them.
pub const UPSTREAM_QUEUE_LEN: usize = 64 << 10;
/// Queries in flight on a connection over QUIC, each on a stream; a server may let us have fewer. As many as wait over
/// TCP.
pub const MAX_QUIC_STREAMS: usize = 1_024;
/// Bytes that a server may send over QUIC out of order before they are read: what a round trip of 100 ms brings at 80
/// Mbit/s.
pub const QUIC_WINDOW_LEN: usize = 1 << 20;
/// Bytes of answers on a connection over QUIC that have not come whole: more ends it.
pub const UPSTREAM_PARTIAL_LEN: usize = 4 << 20;
/// Questions in flight on a connection over HTTPS, and fewer if the server says so; more wait for these.
pub const UPSTREAM_HTTPS_REQUESTS: usize = 128;
/// Bytes of answers that have not come whole on one of them.
pub const UPSTREAM_HTTPS_LEN: u32 = 1 << 20;
/// Bytes of the headers of one answer there.
pub const UPSTREAM_HTTPS_HEADER_LEN: u32 = 16 << 10;
/// Answers and failures of upstreams that are looked at before clients get their turn.
pub const STEPS_PER_TURN: usize = 16;
/// Attempts without an answer that are looked at before clients get their turn.
pub const ATTEMPTS_PER_TURN: usize = 8;
/// As many more for each query that was sent in the turn before.
pub const ATTEMPTS_PER_QUERY: usize = 2;
/// Questions of one worker that wait to be sent.
pub const MAX_UNSENT: usize = 4_096;
/// Failures that wait to be told.
pub const MAX_UNTOLD: usize = 4_096;
/// Records of an upstream's answer: a place is noted for each.
pub const MAX_UPSTREAM_RECORDS: usize = 4_096;
/// Aliases that are followed in it, as by dnsmasq; Unbound and BIND end at 11 and 17.
pub const MAX_UPSTREAM_ALIASES: usize = 32;
/// Questions of our own that its aliases lead to, one after the other.
pub const MAX_ALIAS_QUESTIONS: usize = 11;
/// Popular answers that are asked for once more in one turn.
pub const MAX_EXPIRING: usize = 64;
/// Queries to upstreams before clients get their turn.
pub const QUERIES_PER_TURN: usize = 16;

/// Milliseconds that a question to upstreams may take as a whole unless it is set: what stub resolvers wait for an
/// answer.
pub const DEFAULT_TIMEOUT_MS: u64 = 5_000;
/// The least that can be set.
pub const MIN_TIMEOUT_MS: u64 = 100;
/// The most that can be set.
pub const MAX_TIMEOUT_MS: u64 = 60_000;

// Names of other nodes, in the designs that ask.

/// Names of one worker that other nodes are being asked for: their ids have 16 bits, and a free one is found by trying.
pub const MAX_ASKED_NAMES: usize = 16_384;
/// Queries of one worker that wait for them.
pub const MAX_ASKING: usize = 131_072;
/// Records of one name that are taken of other nodes: far more than fit in their messages.
pub const MAX_GATHERED: usize = 1_024;
/// Names in the cache of the design `cache` unless it is set.
pub const DEFAULT_CACHE_ENTRIES: usize = 8_192;
/// Nodes that are asked by unicast, each with a datagram.
pub const MAX_PEERS: usize = 256;

// Health checks.

/// The shortest interval of a check.
pub const MIN_CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// The longest interval of a check.
pub const MAX_CHECK_INTERVAL: Duration = Duration::from_secs(3_600);
/// The shortest timeout of a check; the longest is its interval.
pub const MIN_CHECK_TIMEOUT: Duration = Duration::from_millis(10);
/// Results in a row that can be asked for before a change.
pub const MAX_STREAK: u32 = 100;
/// Checks under way: each has a socket.
pub const MAX_CHECKS: usize = 4_096;
/// Programs among them.
pub const MAX_CHECK_PROGRAMS: usize = 64;

// The control listener.

/// Bytes of a request's body.
pub const MAX_BODY_LEN: usize = 4 << 20;
/// Connections.
pub const MAX_CONTROL_CONNECTIONS: usize = 512;
/// Requests a second.
pub const MAX_REQUESTS_PER_S: u32 = 20_000;
/// Changes that wait for a slow reader of `watch`; one that is behind by more begins anew.
pub const MAX_WATCH_EVENTS: usize = 4_096;

// The load generator.

/// Queries in flight of one socket: the ids there are.
pub const MAX_IN_FLIGHT: usize = 1 << 16;

// The store and the gossip.

/// Origins: their places in the indexes have 16 bits. What a further one has registered is left out and told of.
pub const MAX_ORIGINS: usize = 1 << 16;
/// Bytes of changes of other nodes. More is left out and told of; the indexes and the table add twice as much memory.
pub const MAX_FOREIGN_LEN: usize = 4 << 30;
/// Changes of one start of a node: their numbers have 48 bits in the indexes. At a million a second that is nine years.
pub const MAX_CHANGES: u64 = 1 << 48;
/// What a statement's count stays below. A higher one is none of ours, and nothing could ever be said against it.
pub const MAX_STATEMENT_COUNT: u64 = 1 << 48;
/// What a start's number stays below: a member's generation has it in its upper 48 bits.
pub const MAX_INCARNATION: u64 = 1 << 48;
/// Tombstones of its own that a node keeps at least, whatever the number of its registrations.
pub const MIN_TOMBSTONES: usize = 10_000;
/// How old tombstones get before they go even where somebody has not told of having them; and how long the records of a
/// node that is down are kept.
pub const TOMBSTONE_AGE: Duration = Duration::from_secs(30 * 60);
/// Bytes of a datagram before it is sealed, but for one with a single longer change.
pub const MAX_MESSAGE_LEN: usize = 1_160;
/// Bytes of a datagram that is received, sealed: one change has to fit.
pub const MAX_GOSSIP_DATAGRAM_LEN: usize = 8 << 10;
/// Bytes of a node's name: a membership message has several.
pub const MAX_NODE_NAME_LEN: usize = 64;
/// Bytes of datagrams that are taken in one turn of the cluster, with what is said to them.
pub const GOSSIP_BYTES_PER_TURN: usize = 32 << 10;
/// Streams that others have opened.
pub const MAX_SERVED_STREAMS: usize = 32;
/// Streams that this node has opened.
pub const MAX_FETCHED_STREAMS: usize = 4;
/// Streams of one node among those from others: one that asks for the same again and again leaves room for the rest.
pub const MAX_SERVED_OF_ONE: usize = 4;
/// Names that have changed and are noted one by one until they are published, some 45 bytes each. Beyond them the table
/// is made anew.
pub const MAX_CHANGED: usize = 100_000;
/// Units of the store's postponed work that the cluster does in one turn: some 2 ms of them.
pub const SWEEP_STEPS: usize = 1_000;
/// Bytes of all streams together in one turn of the cluster.
pub const STREAM_BYTES_PER_TURN: usize = 32 << 10;
/// Datagrams with a node's own changes that go to one member at once. What is over that the others pull.
pub const CHANGE_DATAGRAMS: usize = 64;
/// The same to all members together.
pub const CHANGE_DATAGRAMS_OF_ALL: usize = 512;
/// When as many may go again.
pub const CHANGE_DATAGRAM_PERIOD: Duration = Duration::from_millis(10);
/// Messages of other threads that wait for the owner of the registrations.
pub const MAX_CONTROL_WAITING: usize = 256;
/// Requests that wait for it; more are refused.
pub const MAX_REQUESTS_WAITING: usize = 1_024;
const _: () = assert!(MAX_CONTROL_CONNECTIONS < MAX_REQUESTS_WAITING, "each connection has one request");
/// Results of checks and containers that wait for it; then these do.
pub const MAX_RESULTS_WAITING: usize = 4_096;
/// Batches of files that wait for it; then the thread that reads files does.
pub const MAX_BATCHES_WAITING: usize = 4;
/// Operations of a batch of files, but for those of one name, which stay together.
pub const MAX_BATCH_OPERATIONS: usize = 1_000;
/// Registrations in one part of a listing.
pub const MAX_LISTED: usize = 10_000;
/// Who follows the changes.
pub const MAX_SUBSCRIBERS: usize = 256;
/// How long who has opened a stream may take to say what is wanted.
pub const STREAM_REQUEST_TIME: Duration = Duration::from_secs(2);
/// How long a stream may stand still.
pub const STREAM_STALL: Duration = Duration::from_secs(10);
/// How long streams wait at most while the node that gives registers very much of its own.
pub const FILLING_WAIT: Duration = Duration::from_secs(3);
const _: () = assert!(FILLING_WAIT.as_millis() * 2 < STREAM_STALL.as_millis(), "who fetches still waits");
/// Bytes of a stream's frame, sealed.
pub const MAX_FRAME_LEN: usize = 1 << 17;
/// Bytes of a stream's first frame, which says what is wanted.
pub const MAX_REQUEST_LEN: usize = MAX_FRAME_LEN / 2;
/// Bytes of changes in a frame, but for one with a single longer change.
pub const MAX_STREAM_DELTA_LEN: usize = 16_000;
/// Seeds: each is announced to for ever.
pub const MAX_SEEDS: usize = 256;
/// The shortest time between two publications.
pub const PUBLICATION_PERIOD: Duration = Duration::from_millis(1);
/// CPU time that publications may be ahead of their share.
pub const PUBLICATION_CREDIT: Duration = Duration::from_millis(50);
/// Publications may take one part in so many of the time.
pub const PUBLICATION_SHARE: u32 = 80;

// How they depend on each other.

const _: () =
    assert!(size_of::<usize>() >= 8, "offsets into a table, and what other nodes register, go beyond 4 GiB");

const _: () = assert!(
    MAX_SET_LEN + MAX_OVERHEAD <= u16::MAX as usize,
    "all records of a name and type fit in one message over TCP, with every option that it may have"
);
const _: () = assert!(MAX_RDATA_LEN + FIXED_LEN <= MAX_SET_LEN, "one record always fits in its set");
const _: () = assert!(MAX_RDATA_LEN <= u16::MAX as usize, "RDLENGTH has 16 bits");
const _: () = assert!(MAX_CHECK_LEN + 8 <= MAX_ATTRIBUTES_LEN, "a check fits among the attributes");
const _: () =
    assert!(MAX_RECORD_LEN <= u16::MAX as usize, "the lengths of registrations from files have 16 bits");
const _: () = assert!(
    MAX_ADDRESSES as u64 * MAX_WEIGHT as u64 * RAMP_STEPS as u64 <= u32::MAX as u64,
    "the sum of the weights of a name's addresses has 32 bits"
);
const _: () =
    assert!(MAX_LINE_LEN as u64 <= MAX_FILE_LEN, "a file can have one line of any length that it may have");

const _: () = assert!(
    MAX_RECORD_LEN + GOSSIP_OVERHEAD <= MAX_GOSSIP_DATAGRAM_LEN,
    "any one change fits in a datagram, sealed"
);
const _: () = assert!(
    MAX_STREAM_DELTA_LEN + MAX_RECORD_LEN + GOSSIP_OVERHEAD <= MAX_FRAME_LEN,
    "the changes of a frame fit in it, sealed"
);
const _: () = assert!(
    MAX_GOSSIP_DATAGRAM_LEN / MIN_SUMMARY_LEN * MAX_WANT_LEN <= MAX_REQUEST_LEN,
    "all that one digest makes a node want fits in the request for it"
);
const _: () = assert!(MAX_ORIGINS <= 1 << (64 - MAX_CHANGES.ilog2()), "a place in the index has 64 bits");

const _: () = assert!(
    (MAX_FORWARDS + 1) * MAX_UPSTREAMS < u16::MAX as usize,
    "upstreams, and the groups that are asked together, have numbers of 16 bits"
);
const _: () = assert!(
    ((MAX_QUESTIONS * MAX_SENT) as u64) < u32::MAX as u64,
    "what was sent, and when to look at it again, have keys of 32 bits"
);
const _: () = assert!(
    2 * UPSTREAM_PORTS + UPSTREAM_STREAMS as usize <= u8::MAX as usize,
    "old and new ports and the streams of an upstream have numbers of eight bits together"
);
const _: () = assert!(
    MAX_TRIES + MAX_STREAM_TRIES <= MAX_SENT,
    "a question that one upstream loses is sent to another as often"
);
const _: () = assert!(MAX_ASKED_NAMES <= u16::MAX as usize / 2, "a free id is found by trying");
const _: () =
    assert!(MAX_ASKED_NAMES <= MAX_ASKING && MAX_QUESTIONS <= MAX_WAITERS, "each name may have a query");
const _: () = assert!(MAX_ADDITIONS <= MAX_ADDRESSES, "a request can give a name all of its addresses");

/// What a message of one delta has around a change at most: header, share, delta, change, seal.
const GOSSIP_OVERHEAD: usize = 18 + 6 + 16 + 6 * 10 + 2 * 10 + 64;
/// What one origin takes in a digest at least, and in a request at most.
const MIN_SUMMARY_LEN: usize = 16 + 1 + 1;
const MAX_WANT_LEN: usize = 16 + 10 + 10;
