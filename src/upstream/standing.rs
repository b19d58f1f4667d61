//! How connections to upstreams stand, of every kind: why they end, how long they are kept, what is awaited on them.
//!
//! Runs on the workers.

use std::fmt;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

use crate::sys::tls_error;
use crate::wire::framing::FRAME_LEN;

/// Bytes of TLS taken from the network at once: some records of the longest kind.
const NETWORK_LEN: usize = 64 * 1024;

/// Reads before the worker's other sockets get their turn.
pub(crate) const READS_PER_TURN: usize = 8;

/// How long a connection may take to be made, with TLS's handshake.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// How long an upstream may leave all of its queries unanswered before the connection counts as broken: whoever waits
/// for them has given up by then.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a connection is kept without queries in flight: to make the next one would take round trips, two or three
/// with TLS, and servers keep idle ones for ten to thirty seconds.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(10);

/// Room to work in, shared by all connections of a worker: idle ones need none of it.
pub struct Buffers {
    /// What has come, as TLS has it.
    pub(super) network: Box<[u8]>,
    /// Messages, plain.
    pub(super) input: Box<[u8]>,
}

impl Default for Buffers {
    fn default() -> Self {
        Self { network: vec![0; NETWORK_LEN].into(), input: vec![0; FRAME_LEN].into() }
    }
}

/// How a connection stands after its turn.
#[derive(Debug)]
pub enum Standing {
    /// Nothing to do before the poll reports it, a query is sent or its deadline comes.
    Open,
    /// There may be more to read at once, which the poll will not report again.
    More,
    /// It is of no use any more. Queries that were in flight on it get no answer from it.
    Closed(End),
}

/// Why a connection has ended.
#[derive(Debug)]
pub enum End {
    /// There was nothing to ask for [`IDLE_TIMEOUT`].
    Idle,
    /// The upstream has closed it. It may, at any time (RFC 7766 §6.2.3); what it has not answered may be asked once
    /// more over another connection.
    ByServer,
    /// It was not made within [`CONNECT_TIMEOUT`].
    NotMade,
    /// No query was answered for [`ANSWER_TIMEOUT`].
    Silent,
    /// A message came that is too short for DNS.
    NoMessage,
    /// A message came although nothing had been asked.
    Unasked,
    /// The upstream does not speak TLS as it should, or has not proved who it is.
    Tls(rustls::Error),
    /// The upstream does not agree to speak what it is asked in: this.
    NotSpoken(&'static str),
    /// The upstream does not speak HTTP/2 as it should.
    Http(String),
    /// The upstream does not speak QUIC, or DNS over it (RFC 9250), as it should, or has said why it ends the
    /// connection.
    Quic(String),
    /// The upstream ends it (RFC 9113 §6.8), and not only since it likes to.
    GoingAway(String),
    /// The network or the system has ended it, or has not let it be made.
    Io(io::Error),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Idle => f.write_str("there was nothing to ask"),
            Self::ByServer => f.write_str("closed by the upstream"),
            Self::NotMade => write!(f, "could not be made within {CONNECT_TIMEOUT:?}"),
            Self::Silent => write!(f, "no answer for {ANSWER_TIMEOUT:?}"),
            Self::NoMessage => f.write_str("the upstream has sent what is no DNS message"),
            Self::Unasked => f.write_str("the upstream has answered without being asked"),
            Self::Tls(error) => write!(f, "TLS: {}", tls_error::text(error)),
            Self::NotSpoken(what) => write!(f, "the upstream does not speak {what} there (ALPN)"),
            Self::Http(what) => write!(f, "HTTP/2: {what}"),
            Self::Quic(what) => write!(f, "QUIC: {what}"),
            Self::GoingAway(why) => write!(f, "the upstream ends it, by HTTP/2: {why}"),
            Self::Io(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for End {}

impl From<io::Error> for End {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Queries without answers on a connection, and how long they are waited for.
#[derive(Debug)]
pub(super) struct Flight {
    /// It is made, with all handshakes.
    open: bool,
    /// Queries without answers.
    in_flight: usize,
    /// The last that it has brought was an answer.
    answered: bool,
    /// Since when there is something to wait for.
    since: Instant,
}

impl Flight {
    /// Of a connection that is just being made.
    pub(super) fn new(now: Instant) -> Self {
        Self { open: false, in_flight: 0, answered: false, since: now }
    }

    /// Notes whether the connection is made: answers are awaited from then on.
    pub(super) fn note_open(&mut self, open: bool, now: Instant) {
        if open && !self.open {
            self.open = true;
            self.since = now;
        }
    }

    /// Notes that a query is to be sent.
    pub(super) fn note_query(&mut self, now: Instant) {
        if self.open && self.in_flight == 0 {
            self.since = now;
        }
        self.in_flight += 1;
    }

    /// Notes that something has come that settles a query.
    ///
    /// # Errors
    /// If there was none.
    pub(super) fn note_answer(&mut self, now: Instant) -> Result<(), End> {
        // So an upstream cannot keep us busy with what nobody wants.
        self.in_flight = self.in_flight.checked_sub(1).ok_or(End::Unasked)?;
        self.answered = true;
        self.since = now;
        Ok(())
    }

    /// Notes that a query is given up: nobody waits for its answer any more.
    pub(super) fn note_loss(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Notes that a query has no answer here, whatever others have.
    pub(super) fn note_failure(&mut self, now: Instant) {
        self.in_flight = self.in_flight.saturating_sub(1);
        self.answered = false;
        self.since = now;
    }

    /// Whether it is made.
    pub(super) fn is_open(&self) -> bool {
        self.open
    }

    /// Whether anything has been answered, and nothing has failed since.
    pub(super) fn has_answered(&self) -> bool {
        self.answered
    }

    /// Queries without answers.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// When what is awaited has to have come.
    pub(super) fn deadline(&self) -> Instant {
        self.since + self.patience().0
    }

    /// How long what is awaited may take, and what it means if it has not come by then.
    pub(super) fn patience(&self) -> (Duration, End) {
        match (self.open, self.in_flight) {
            (false, _) => (CONNECT_TIMEOUT, End::NotMade),
            (true, 0) => (IDLE_TIMEOUT, End::Idle),
            (true, _) => (ANSWER_TIMEOUT, End::Silent),
        }
    }
}

/// Reads once; 0 at the end, and nothing where there is nothing yet.
pub(super) fn read(stream: &mut impl Read, room: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(room) {
            Ok(read) => return Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}
