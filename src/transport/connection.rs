//! One TCP connection (RFC 7766): messages cut out of the stream, answers put into it, as fast as the client takes
//! them.
//!
//! Runs on the worker that accepted it. It does no I/O but through the stream it is given, and takes the time as an
//! argument, so that its tests need neither sockets nor clocks.

use std::io::{ErrorKind, Read, Write};
use std::time::{Duration, Instant};

use super::responder::Disposition;
use crate::answer::types::Message;
use crate::sys::write_some;
use crate::wire::framing::{FRAME_LEN as INPUT_LEN, MESSAGE_LEN, PREFIX_LEN, first_message};

/// Bytes of answers gathered before they are written. A connection whose client does not take them holds at most this
/// and one more message; its queries are not even read then.
const OUTPUT_LEN: usize = crate::limits::TCP_OUTPUT_LEN;

/// Queries of a connection that wait for other nodes at most: its next ones are not read before one of them is
/// answered.
const MAX_OUTSTANDING: usize = crate::limits::MAX_OUTSTANDING;

/// How long a client may say nothing between two queries (RFC 7766 §6.2.3 wants seconds; gdnsd and Knot have 10).
pub(crate) const IDLE_TIMEOUT: Duration = crate::limits::TCP_IDLE_TIMEOUT;

/// How long a client may take to finish a query that it has begun, or to take its answers.
const SLOW_TIMEOUT: Duration = crate::limits::TCP_SLOW_TIMEOUT;

/// Room to work in, shared by all connections of a worker: idle ones need none of it.
pub struct Buffers {
    input: Box<[u8]>,
    message: Box<[u8]>,
    output: Vec<u8>,
}

// cold: made once, at the start of a worker
impl Default for Buffers {
    fn default() -> Self {
        Self {
            input: vec![0; INPUT_LEN].into(),
            message: vec![0; MESSAGE_LEN].into(),
            output: Vec::with_capacity(OUTPUT_LEN + INPUT_LEN),
        }
    }
}

/// What the connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaiting {
    /// The client has nothing open.
    Query,
    /// Part of a query has come.
    RestOfQuery,
    /// The client has not taken all answers.
    Space,
}

/// How a connection stands after its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionState {
    /// Nothing to do before the stream becomes readable or writable.
    Waiting,
    /// There may be more to do at once.
    More,
    /// Finished, broken, or not worth keeping.
    Closed,
}

/// A connection to one client.
pub struct Connection<S> {
    stream: S,
    /// Received and not answered: an incomplete query, or queries kept back until the client takes its answers.
    received: Vec<u8>,
    /// Answers that the stream would not take yet.
    unsent: Vec<u8>,
    /// Queries that wait for other nodes.
    outstanding: usize,
    awaiting: Awaiting,
    awaiting_since: Instant,
    /// The client will send no more, as the poll says.
    end_reported: bool,
    /// The client will send no more, and all that it sent has been read.
    ended: bool,
}

impl Buffers {
    /// Room for one message.
    pub(crate) fn message(&mut self) -> &mut [u8] {
        &mut self.message
    }
}

impl<S: Read + Write> Connection<S> {
    /// A connection that has just been accepted.
    // cold: once for each connection, and empty vectors take no memory
    pub fn new(stream: S, now: Instant) -> Self {
        Self {
            stream,
            received: Vec::new(),
            unsent: Vec::new(),
            outstanding: 0,
            awaiting: Awaiting::Query,
            awaiting_since: now,
            end_reported: false,
            ended: false,
        }
    }

    /// Notes that the poll has reported the end of what the client sends: it may be reported once only, so the stream
    /// has to be read until it shows.
    pub(crate) fn note_end(&mut self) {
        self.end_reported = true;
    }

    /// When the client's patience with us, or ours with it, ends.
    pub(crate) fn deadline(&self) -> Instant {
        let timeout = if self.awaiting == Awaiting::Query { IDLE_TIMEOUT } else { SLOW_TIMEOUT };
        self.awaiting_since + timeout
    }

    /// Whether nothing is open, so that it may be closed for another without harm (RFC 7766 §6.2.3).
    pub(crate) fn is_idle(&self) -> bool {
        self.awaiting == Awaiting::Query && self.outstanding == 0
    }

    /// Takes the answer to a query that has waited, to be sent in the next turn; none if it gets none.
    pub(crate) fn deliver(&mut self, answer: Option<&[u8]>) {
        self.outstanding = self.outstanding.saturating_sub(1);
        let Some(answer) = answer else { return };
        if let Ok(prefix) = u16::try_from(answer.len()) {
            self.unsent.extend_from_slice(&prefix.to_be_bytes());
            self.unsent.extend_from_slice(answer);
        }
    }

    /// What it reads from and writes to.
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        &mut self.stream
    }

    /// Queries that wait for others.
    pub(crate) fn outstanding(&self) -> usize {
        self.outstanding
    }

    /// Whether the client has taken all that there was for it.
    pub(crate) fn takes(&self) -> bool {
        self.unsent.is_empty()
    }

    /// Takes one of several messages that answer a query, to be sent in the next turn.
    pub(crate) fn deliver_part(&mut self, message: &[u8], now: Instant) {
        self.outstanding += 1;
        self.deliver(Some(message));
        // Its client has something to do.
        self.awaiting_since = now;
    }

    /// Reads once and answers all queries that are complete, with one write for all of them where that will do.
    pub fn take_turn(
        &mut self,
        buffers: &mut Buffers,
        now: Instant,
        mut answer: impl FnMut(Message<'_>) -> Disposition,
    ) -> ConnectionState {
        if !self.flush() {
            return ConnectionState::Closed;
        }
        if !self.unsent.is_empty() || self.outstanding >= MAX_OUTSTANDING {
            return ConnectionState::Waiting;
        }
        let kept = self.received.len();
        buffers.input[..kept].copy_from_slice(&self.received);
        // Queries that were kept back come before new ones.
        let reads = !self.ended && first_message(&self.received).is_none();
        let Some(read) = (if reads { self.read(&mut buffers.input[kept..]) } else { Some(0) }) else {
            return ConnectionState::Closed;
        };
        let len = kept + read;
        let Some(used) = self.answer_all(buffers, len, &mut answer) else { return ConnectionState::Closed };
        self.received.clear();
        self.received.extend_from_slice(&buffers.input[used..len]);
        self.note(now, used > 0);
        let queries_left = first_message(&self.received).is_some();
        if !self.unsent.is_empty() || self.outstanding >= MAX_OUTSTANDING {
            ConnectionState::Waiting
        } else if self.ended && !queries_left {
            // Answers are still owed to a client that has said that it will ask no more.
            if self.outstanding > 0 { ConnectionState::Waiting } else { ConnectionState::Closed }
        } else if queries_left || !reads || len == INPUT_LEN || self.end_reported {
            // The stream was not seen empty, and what it has will not be reported again.
            ConnectionState::More
        } else {
            ConnectionState::Waiting
        }
    }

    /// Reads once. `None` if the stream is broken.
    fn read(&mut self, room: &mut [u8]) -> Option<usize> {
        loop {
            match self.stream.read(room) {
                Ok(0) => {
                    self.ended = true;
                    return Some(0);
                }
                Ok(read) => return Some(read),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Some(0),
                Err(_) => return None,
            }
        }
    }

    /// Answers the complete queries among the first `len` bytes of input, until the client does not take the answers.
    /// Returns how many bytes that were; `None` if the connection is not to go on.
    fn answer_all(
        &mut self,
        buffers: &mut Buffers,
        len: usize,
        answer: &mut impl FnMut(Message<'_>) -> Disposition,
    ) -> Option<usize> {
        let Buffers { input, message, output } = buffers;
        output.clear();
        let mut at = 0;
        while self.outstanding < MAX_OUTSTANDING
            && let Some(query) = first_message(&input[at..len])
        {
            message[..query.len()].copy_from_slice(query);
            let query_len = query.len();
            at += PREFIX_LEN + query_len;
            let reply_len = match answer(Message { buffer: message, len: query_len }) {
                Disposition::Send { len } => len,
                Disposition::Deferred => {
                    self.outstanding += 1;
                    continue;
                }
                // What gets no answer over UDP is no DNS client at all over TCP.
                Disposition::Drop => return None,
            };
            let prefix = u16::try_from(reply_len).ok()?;
            output.extend_from_slice(&prefix.to_be_bytes());
            output.extend_from_slice(&message[..reply_len]);
            if output.len() >= OUTPUT_LEN {
                self.send(output)?;
                output.clear();
                if !self.unsent.is_empty() {
                    return Some(at);
                }
            }
        }
        self.send(output)?;
        Some(at)
    }

    /// Writes `output` and keeps what the stream does not take. `None` if the stream is broken.
    fn send(&mut self, output: &[u8]) -> Option<()> {
        let sent = write_some(&mut self.stream, output).ok()?;
        self.unsent.extend_from_slice(&output[sent..]);
        Some(())
    }

    /// Writes what is unsent, as far as the stream takes it. Returns whether the stream is sound.
    fn flush(&mut self) -> bool {
        match write_some(&mut self.stream, &self.unsent) {
            Ok(sent) => {
                self.unsent.drain(..sent);
                true
            }
            Err(_) => false,
        }
    }

    /// Notes what is awaited from `now` on. Waiting begins anew with each query that was answered, and with each other
    /// thing waited for; not with each byte, or a client could keep a connection for ever with a byte now and then.
    fn note(&mut self, now: Instant, answered: bool) {
        let awaiting = match (self.unsent.is_empty(), self.received.is_empty()) {
            (false, _) => Awaiting::Space,
            (true, false) => Awaiting::RestOfQuery,
            (true, true) => Awaiting::Query,
        };
        if answered || awaiting != self.awaiting {
            (self.awaiting, self.awaiting_since) = (awaiting, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;
    use std::io;

    use proptest::prelude::*;

    /// A stream that gives what it was told to in those pieces, and takes only so much.
    struct Script {
        incoming: VecDeque<Vec<u8>>,
        taken: Vec<u8>,
        space: usize,
        ends: bool,
    }

    impl Read for Script {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let Some(piece) = self.incoming.pop_front() else {
                return if self.ends { Ok(0) } else { Err(ErrorKind::WouldBlock.into()) };
            };
            let len = piece.len().min(room.len());
            room[..len].copy_from_slice(&piece[..len]);
            if len < piece.len() {
                self.incoming.push_front(piece[len..].to_vec());
            }
            Ok(len)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.space == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            let len = bytes.len().min(self.space);
            self.space -= len;
            self.taken.extend_from_slice(&bytes[..len]);
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn connect(pieces: Vec<Vec<u8>>, space: usize) -> Connection<Script> {
        let script = Script { incoming: pieces.into(), taken: Vec::new(), space, ends: false };
        Connection::new(script, Instant::now())
    }

    fn frame(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    /// Repeats the message, which a message of `drop` keeps it from.
    fn echo(Message { buffer, len }: Message<'_>) -> Disposition {
        if &buffer[..len] == b"drop" { Disposition::Drop } else { Disposition::Send { len } }
    }

    /// Takes turns until there is nothing more to do.
    fn run(connection: &mut Connection<Script>) -> ConnectionState {
        let mut buffers = Buffers::default();
        loop {
            let more = !connection.stream.incoming.is_empty() && connection.unsent.is_empty();
            match connection.take_turn(&mut buffers, Instant::now(), echo) {
                ConnectionState::Waiting if more => {}
                ConnectionState::More => {}
                state => return state,
            }
        }
    }

    proptest! {
        #[test]
        fn messages_come_back_in_order_however_the_stream_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..30),
            cuts in prop::collection::vec(1..200usize, 1..20),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
            let (mut pieces, mut rest) = (Vec::new(), &stream[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                pieces.push(piece.to_vec());
                rest = after;
            }
            let mut connection = connect(pieces, usize::MAX);
            prop_assert_eq!(run(&mut connection), ConnectionState::Waiting);
            prop_assert_eq!(&connection.stream.taken, &stream);
            prop_assert!(connection.is_idle());
        }
    }

    #[test]
    fn a_client_that_takes_no_answers_is_not_read_from_and_costs_bounded_memory() {
        let stream = frame(&[7; 1000]).repeat(1000);
        let mut connection = connect(vec![stream.clone()], 10);
        assert_eq!(run(&mut connection), ConnectionState::Waiting);
        assert!(connection.unsent.len() <= OUTPUT_LEN + INPUT_LEN, "{}", connection.unsent.len());
        assert!(connection.received.len() <= INPUT_LEN);
        assert!(!connection.stream.incoming.is_empty(), "the rest stays in the kernel");
        // Once it takes them, all come, in order.
        while connection.stream.taken.len() < stream.len() {
            connection.stream.space = 70_000;
            run(&mut connection);
        }
        assert_eq!(connection.stream.taken, stream);
    }

    /// As the worker sees it: a turn when the poll reports something, and further ones only while there is more.
    #[test]
    fn what_was_kept_back_is_not_forgotten_when_the_client_takes_its_answers_at_last() {
        let stream = frame(&[7; 1000]).repeat(200);
        let mut connection = connect(vec![stream.clone()], 10);
        let mut buffers = Buffers::default();
        let mut reported = |connection: &mut Connection<Script>| {
            while connection.take_turn(&mut buffers, Instant::now(), echo) == ConnectionState::More {}
        };
        reported(&mut connection);
        reported(&mut connection); // readable again: nothing can be done about it now
        connection.stream.space = usize::MAX;
        reported(&mut connection); // writable
        assert_eq!(connection.stream.taken.len(), stream.len());
    }

    #[test]
    fn the_longest_message_passes() {
        let stream = frame(&[9; MESSAGE_LEN]).repeat(3);
        let mut connection = connect(stream.chunks(1460).map(<[u8]>::to_vec).collect(), usize::MAX);
        run(&mut connection);
        assert_eq!(connection.stream.taken, stream);
    }

    #[test]
    fn what_was_asked_before_the_end_is_answered_and_then_it_is_closed() {
        let mut connection = connect(vec![[frame(b"one"), frame(b"two"), vec![0]].concat()], usize::MAX);
        connection.stream.ends = true;
        let mut buffers = Buffers::default();
        assert_eq!(connection.take_turn(&mut buffers, Instant::now(), echo), ConnectionState::Waiting);
        assert_eq!(connection.take_turn(&mut buffers, Instant::now(), echo), ConnectionState::Closed);
        assert_eq!(connection.stream.taken, [frame(b"one"), frame(b"two")].concat());
    }

    #[test]
    fn an_end_that_came_with_the_last_query_is_seen_at_once() {
        let mut connection = connect(vec![frame(b"query")], usize::MAX);
        connection.stream.ends = true;
        connection.note_end();
        assert_eq!(run(&mut connection), ConnectionState::Closed);
        assert_eq!(connection.stream.taken, frame(b"query"));
    }

    #[test]
    fn what_is_no_query_ends_the_connection() {
        assert_eq!(run(&mut connect(vec![frame(b"drop")], usize::MAX)), ConnectionState::Closed);
    }

    #[test]
    fn patience_begins_anew_with_a_query_but_not_with_a_byte() {
        let mut connection = connect(vec![frame(b"query"), vec![0], vec![9], vec![1]], usize::MAX);
        let mut buffers = Buffers::default();
        let begin = Instant::now();
        let mut deadline_after = |seconds| {
            let now = begin + Duration::from_secs(seconds);
            connection.take_turn(&mut buffers, now, echo);
            connection.deadline() - begin
        };
        assert_eq!(deadline_after(3), Duration::from_secs(3) + IDLE_TIMEOUT, "a query");
        assert_eq!(deadline_after(8), Duration::from_secs(8) + SLOW_TIMEOUT, "the first byte of the next");
        assert_eq!(deadline_after(9), Duration::from_secs(8) + SLOW_TIMEOUT, "another byte");
        assert_eq!(deadline_after(10), Duration::from_secs(8) + SLOW_TIMEOUT, "and another");
    }
}
