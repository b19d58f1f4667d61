//! One connection to an upstream, over TCP (RFC 7766) or TLS (RFC 7858): many queries in flight on it, answers in any
//! order.
//!
//! Runs on the worker that asks. It does no I/O but through the stream it is given, and takes the time as an argument,
//! so that its tests need neither sockets nor clocks.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::time::Instant;

use mio::net::TcpStream;
use rustls::ClientConnection;
use socket2::SockRef;

use crate::sys::write_some;
use crate::upstream::standing::{Buffers, End, Flight, READS_PER_TURN, Standing, read};
use crate::upstream::tls::{decrypt, encrypt, take_leave};
use crate::wire::framing::{PREFIX_LEN, first_message};
use crate::wire::header;

/// Bytes of queries that wait for the stream to take them at most: about a thousand. TLS holds as many again,
/// encrypted.
const QUEUE_LEN: usize = crate::limits::UPSTREAM_QUEUE_LEN;

/// Begins to connect to `address`. The stream is to be registered with the poll, readable and writable, before it gets
/// its first turn.
///
/// # Errors
/// What the kernel says at once: out of descriptors, no route.
pub fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)?;
    // Small queries shall not wait for each other's acknowledgements.
    stream.set_nodelay(true)?;
    Ok(stream)
}

impl UpstreamStream {
    /// Has the kernel acknowledge at once what has come: a server behind its handshake's last message may hold the
    /// first answer back until then, which is 40 ms by a delayed acknowledgement (RFC 1122 §4.2.3.2, Nagle).
    pub fn acknowledge(&self) {
        let _ = SockRef::from(&self.stream).set_tcp_quickack(true);
    }
}

/// A connection to one upstream, made because there is a query for it.
pub struct UpstreamStream<S = TcpStream> {
    stream: S,
    tls: Option<Box<ClientConnection>>,
    /// Queries that neither the stream nor TLS has taken yet.
    unsent: Vec<u8>,
    /// An answer that has not come whole.
    received: Vec<u8>,
    flight: Flight,
}

impl<S: Read + Write> UpstreamStream<S> {
    /// A connection over `stream`, which is just being made, and in which everything goes through `tls` if there is
    /// one.
    pub fn new(stream: S, tls: Option<ClientConnection>, now: Instant) -> Self {
        let tls = tls.map(|mut tls| {
            tls.set_buffer_limit(Some(QUEUE_LEN));
            Box::new(tls)
        });
        Self { stream, tls, unsent: Vec::new(), received: Vec::new(), flight: Flight::new(now) }
    }

    /// Queues `message`, a query with an id of its own on this connection (RFC 7766 §6.2.1), for the next turn, which
    /// is to be soon. Returns whether it may: not while too many wait that the upstream does not take.
    #[must_use]
    pub fn send(&mut self, message: &[u8], now: Instant) -> bool {
        let Ok(prefix) = u16::try_from(message.len()) else { return false };
        if self.unsent.len() + PREFIX_LEN + message.len() > QUEUE_LEN {
            return false;
        }
        self.flight.note_query(now);
        self.unsent.extend_from_slice(&prefix.to_be_bytes());
        self.unsent.extend_from_slice(message);
        true
    }

    /// When it is to have a turn even if nothing happens, which then ends it.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.flight.deadline()
    }

    /// Whether it has brought any answer: then what is left in flight when it ends is worth another connection at once.
    #[must_use]
    pub fn has_answered(&self) -> bool {
        self.flight.has_answered()
    }

    /// Reads what is there and gives each whole message to `take`, in the order in which they came; writes what the
    /// stream takes.
    pub fn turn(&mut self, buffers: &mut Buffers, now: Instant, take: &mut dyn FnMut(&[u8])) -> Standing {
        // What the upstream answered before it closed the connection is read before writing shows that it has.
        let turned =
            self.read(buffers, now, take).and_then(|more| self.write(now).map(|()| more).map_err(End::Io));
        let end = match turned {
            Ok(_) if self.deadline() <= now => self.flight.patience().1,
            Ok(true) => return Standing::More,
            Ok(false) => return Standing::Open,
            Err(end) => end,
        };
        if let Some(tls) = &mut self.tls {
            take_leave(tls, &mut self.stream);
        }
        Standing::Closed(end)
    }

    /// Reads until the stream is empty, or the others are due. Returns whether there may be more.
    fn read(
        &mut self,
        buffers: &mut Buffers,
        now: Instant,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<bool, End> {
        let Self { stream, tls, received, flight, .. } = self;
        let Buffers { network, input } = buffers;
        let mut len = received.len();
        input[..len].copy_from_slice(received);
        let mut cut = |input: &mut [u8], len| cut_messages(flight, (input, len), now, take);
        let mut more = true;
        for _ in 0..READS_PER_TURN {
            let room = if tls.is_some() { &mut network[..] } else { &mut input[len..] };
            let Some(read) = read(stream, room)? else {
                more = false;
                break;
            };
            len = match tls {
                _ if read == 0 => return Err(End::ByServer),
                None => cut(input, len + read)?,
                Some(tls) => decrypt(tls, &network[..read], input, len, &mut cut)?,
            };
        }
        received.clear();
        received.extend_from_slice(&input[..len]);
        Ok(more)
    }

    /// Writes until all is written, or the stream takes no more.
    fn write(&mut self, now: Instant) -> io::Result<()> {
        let Self { stream, tls, unsent, .. } = self;
        let Some(tls) = tls else {
            let sent = write_some(stream, unsent)?;
            unsent.drain(..sent);
            // Before the connection is made the kernel takes nothing.
            self.flight.note_open(sent > 0, now);
            return Ok(());
        };
        let open = encrypt(tls, unsent, stream)?;
        self.flight.note_open(open, now);
        Ok(())
    }
}

/// Gives the whole messages among the first `len` bytes of `input` to `take`, moves the rest to the front, and returns
/// how many bytes that is.
fn cut_messages(
    flight: &mut Flight,
    (input, len): (&mut [u8], usize),
    now: Instant,
    take: &mut dyn FnMut(&[u8]),
) -> Result<usize, End> {
    let mut at = 0;
    while let Some(message) = first_message(&input[at..len]) {
        if message.len() < header::LEN {
            return Err(End::NoMessage);
        }
        flight.note_answer(now)?;
        take(message);
        at += PREFIX_LEN + message.len();
    }
    input.copy_within(at..len, 0);
    Ok(len - at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::standing::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, IDLE_TIMEOUT};
    use crate::wire::framing::FRAME_LEN;
    use std::collections::VecDeque;
    use std::io::ErrorKind;
    use std::net::{Shutdown, TcpListener};
    use std::thread;
    use std::time::Duration;

    use mio::{Events, Interest, Poll, Token};
    use proptest::prelude::*;

    /// A stream on which things happen in the order they are told, and which takes only so much.
    #[derive(Default)]
    struct Script {
        incoming: VecDeque<Incoming>,
        taken: Vec<u8>,
        space: usize,
        /// Writing is interrupted so often.
        interruptions: usize,
    }

    enum Incoming {
        Bytes(Vec<u8>),
        Error(ErrorKind),
        End,
    }

    impl Read for Script {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            match self.incoming.pop_front() {
                None => Err(ErrorKind::WouldBlock.into()),
                Some(Incoming::Error(kind)) => Err(kind.into()),
                Some(Incoming::End) => Ok(0),
                Some(Incoming::Bytes(mut bytes)) => {
                    let len = bytes.len().min(room.len());
                    room[..len].copy_from_slice(&bytes[..len]);
                    if len < bytes.len() {
                        self.incoming.push_front(Incoming::Bytes(bytes.split_off(len)));
                    }
                    Ok(len)
                }
            }
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.interruptions > 0 {
                self.interruptions -= 1;
                return Err(ErrorKind::Interrupted.into());
            }
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

    const QUERY: &[u8] = b"a query that is long enough";

    fn frame(message: &[u8]) -> Vec<u8> {
        [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
    }

    /// A connection that is made, with so many queries in flight, on which `incoming` is about to happen.
    fn asked(queries: usize, incoming: Vec<Incoming>, now: Instant) -> UpstreamStream<Script> {
        let script = Script { space: usize::MAX, ..Script::default() };
        let mut stream = UpstreamStream::new(script, None, now);
        (0..queries).for_each(|_| assert!(stream.send(QUERY, now)));
        let (standing, messages) = turn(&mut stream, now);
        assert!(matches!(standing, Standing::Open) && messages.is_empty());
        stream.stream.incoming = incoming.into();
        stream
    }

    fn turn(stream: &mut UpstreamStream<Script>, now: Instant) -> (Standing, Vec<Vec<u8>>) {
        let mut messages = Vec::new();
        let standing =
            stream.turn(&mut Buffers::default(), now, &mut |message| messages.push(message.to_vec()));
        (standing, messages)
    }

    proptest! {
        #[test]
        fn answers_come_whole_and_in_order_however_the_stream_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 12..300), 1..30),
            cuts in prop::collection::vec(1..200usize, 1..20),
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| frame(message)).collect();
            let (mut pieces, mut rest) = (Vec::new(), &bytes[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                pieces.extend([Incoming::Bytes(piece.to_vec()), Incoming::Error(ErrorKind::Interrupted)]);
                // The poll reports one piece at a time, or many.
                if cut % 2 == 0 {
                    pieces.push(Incoming::Error(ErrorKind::WouldBlock));
                }
                rest = after;
            }
            let now = Instant::now();
            let mut stream = asked(messages.len(), pieces, now);
            let mut got = Vec::new();
            while !stream.stream.incoming.is_empty() {
                let (standing, some) = turn(&mut stream, now);
                prop_assert!(!matches!(standing, Standing::Closed(_)));
                got.extend(some);
            }
            prop_assert_eq!(got, messages);
            prop_assert_eq!(stream.flight.in_flight(), 0);
        }
    }

    #[test]
    fn queries_leave_as_fast_as_the_stream_takes_them_and_only_so_many_wait() {
        let now = Instant::now();
        let script = Script { interruptions: 2, ..Script::default() };
        let mut stream = UpstreamStream::new(script, None, now);
        let mut sent = 0;
        while stream.send(QUERY, now) {
            sent += 1;
        }
        assert_eq!(sent, QUEUE_LEN / (QUERY.len() + PREFIX_LEN));
        while stream.stream.taken.len() < sent * (QUERY.len() + PREFIX_LEN) {
            stream.stream.space = 1_000;
            assert!(matches!(turn(&mut stream, now).0, Standing::Open));
        }
        assert_eq!(stream.stream.taken, frame(QUERY).repeat(sent));
        assert!(stream.send(QUERY, now), "there is room again");
    }

    #[test]
    fn the_longest_answers_pass_and_one_that_is_not_whole_takes_bounded_memory() {
        let now = Instant::now();
        let answer = vec![7; usize::from(u16::MAX)];
        let mut stream = asked(40, vec![Incoming::Bytes(frame(&answer).repeat(40))], now);
        let (standing, first) = turn(&mut stream, now);
        assert!(matches!(standing, Standing::More), "the others have their turn: {standing:?}");
        assert_eq!(first.len(), READS_PER_TURN);
        let mut got = first.len();
        while !stream.stream.incoming.is_empty() {
            got += turn(&mut stream, now).1.iter().filter(|message| **message == answer).count();
            assert!(stream.received.len() <= FRAME_LEN);
        }
        assert_eq!(got, 40);
    }

    #[test]
    fn what_is_too_short_for_dns_ends_it_and_what_came_before_counts() {
        for len in [0, 1, 11] {
            let now = Instant::now();
            let bytes = [frame(&[1; 12]), frame(&vec![2; len]), frame(&[3; 12])].concat();
            let (standing, messages) = turn(&mut asked(3, vec![Incoming::Bytes(bytes)], now), now);
            assert!(matches!(standing, Standing::Closed(End::NoMessage)), "{len}: {standing:?}");
            assert_eq!(messages, [[1; 12]]);
        }
    }

    #[test]
    fn more_answers_than_queries_end_it() {
        let now = Instant::now();
        let bytes = frame(&[1; 12]).repeat(3);
        let (standing, messages) = turn(&mut asked(2, vec![Incoming::Bytes(bytes)], now), now);
        assert!(matches!(standing, Standing::Closed(End::Unasked)), "{standing:?}");
        assert_eq!(messages.len(), 2);
    }

    #[test]
    fn a_server_that_closes_after_some_answers_has_given_these() {
        let now = Instant::now();
        let incoming =
            vec![Incoming::Bytes(frame(&[1; 12]).repeat(3)), Incoming::Bytes(vec![0]), Incoming::End];
        let mut stream = asked(9, incoming, now);
        assert!(!stream.has_answered());
        let (standing, messages) = turn(&mut stream, now);
        assert!(matches!(standing, Standing::Closed(End::ByServer)), "{standing:?}");
        assert!(messages.len() == 3 && stream.has_answered());
    }

    #[test]
    fn a_reset_in_the_middle_of_an_answer_ends_it() {
        let now = Instant::now();
        let half = frame(&[1; 100])[..50].to_vec();
        let reset = || Incoming::Error(ErrorKind::ConnectionReset);
        let mut stream = asked(1, vec![Incoming::Bytes(half), reset()], now);
        let (standing, messages) = turn(&mut stream, now);
        let Standing::Closed(End::Io(error)) = standing else { panic!("{standing:?}") };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        assert!(messages.is_empty() && !stream.has_answered());
    }

    #[test]
    fn it_has_three_seconds_to_be_made() {
        let begin = Instant::now();
        let mut stream = UpstreamStream::new(Script::default(), None, begin);
        let after = |ms| begin + Duration::from_millis(ms);
        assert!(stream.send(QUERY, after(2_000)));
        assert_eq!(stream.deadline(), begin + CONNECT_TIMEOUT, "from the beginning, not from the query");
        assert!(matches!(turn(&mut stream, after(2_999)).0, Standing::Open));
        assert!(matches!(turn(&mut stream, after(3_000)).0, Standing::Closed(End::NotMade)));
    }

    #[test]
    fn answers_are_awaited_from_when_the_queries_could_leave() {
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let mut stream = UpstreamStream::new(Script::default(), None, begin);
        assert!(stream.send(QUERY, begin));
        stream.stream.space = usize::MAX;
        assert!(matches!(turn(&mut stream, after(2_000)).0, Standing::Open));
        assert_eq!(stream.deadline(), after(2_000) + ANSWER_TIMEOUT);
        assert!(stream.send(QUERY, after(6_000)));
        assert_eq!(stream.deadline(), after(2_000) + ANSWER_TIMEOUT, "another query is no answer");
        stream.stream.incoming.push_back(Incoming::Bytes(vec![0]));
        assert!(matches!(turn(&mut stream, after(6_999)).0, Standing::Open), "neither is a byte");
        assert!(matches!(turn(&mut stream, after(7_000)).0, Standing::Closed(End::Silent)));
    }

    #[test]
    fn each_answer_renews_patience_and_without_queries_it_is_idle_for_ten_seconds() {
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let mut stream = asked(2, vec![Incoming::Bytes(frame(&[1; 12]))], begin);
        turn(&mut stream, after(4_000));
        assert_eq!(stream.deadline(), after(4_000) + ANSWER_TIMEOUT);
        // An answer that is there is taken, however late the turn.
        stream.stream.incoming.push_back(Incoming::Bytes(frame(&[1; 12])));
        assert!(matches!(turn(&mut stream, after(9_500)).0, Standing::Open));
        assert_eq!(stream.deadline(), after(9_500) + IDLE_TIMEOUT);
        assert!(stream.send(QUERY, after(19_000)));
        assert_eq!(stream.deadline(), after(19_000) + ANSWER_TIMEOUT);
        stream.stream.incoming.push_back(Incoming::Bytes(frame(&[1; 12])));
        turn(&mut stream, after(20_000));
        assert!(matches!(turn(&mut stream, after(29_999)).0, Standing::Open));
        assert!(matches!(turn(&mut stream, after(30_000)).0, Standing::Closed(End::Idle)));
    }

    /// A connection to `address` with `queries`, driven by a poll as a worker does it, until it ends.
    fn drive(address: SocketAddr, queries: usize) -> (End, usize) {
        let mut poll = Poll::new().unwrap();
        let mut tcp = match connect(address) {
            Ok(tcp) => tcp,
            Err(error) => return (End::Io(error), 0),
        };
        poll.registry().register(&mut tcp, Token(0), Interest::READABLE | Interest::WRITABLE).unwrap();
        let mut stream = UpstreamStream::new(tcp, None, Instant::now());
        (0..queries).for_each(|_| assert!(stream.send(QUERY, Instant::now())));
        let (mut buffers, mut events, mut answers) = (Buffers::default(), Events::with_capacity(8), 0);
        loop {
            let mut take = |message: &[u8]| answers += usize::from(message == QUERY);
            let timeout = match stream.turn(&mut buffers, Instant::now(), &mut take) {
                Standing::Closed(end) => return (end, answers),
                Standing::More => Duration::ZERO,
                Standing::Open => stream.deadline().saturating_duration_since(Instant::now()),
            };
            poll.poll(&mut events, Some(timeout)).unwrap();
        }
    }

    #[test]
    fn a_real_connection_is_made_and_carries_what_is_asked_until_the_server_closes_it() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut queries = vec![0; 1_000 * (PREFIX_LEN + QUERY.len())];
            client.read_exact(&mut queries).unwrap();
            client.write_all(&queries).unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            client
        });
        let (end, answers) = drive(address, 1_000);
        assert!(matches!(end, End::ByServer), "{end:?}");
        assert_eq!(answers, 1_000);
        server.join().unwrap();
    }

    #[test]
    fn where_nobody_listens_the_kernel_says_so() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // and closed again
        let (end, _) = drive(address, 1);
        assert!(matches!(&end, End::Io(error) if error.kind() == ErrorKind::ConnectionRefused), "{end:?}");
    }
}
