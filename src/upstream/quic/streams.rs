//! The queries of one QUIC connection: those that wait for a stream, and those that have one.
//!
//! A query is `2-byte length, message` and then the end of the stream; so is its answer (RFC 9250 §4.2). Its id is 0 on
//! the way (§4.2.1), and is what it was again when its answer is handed on.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use quinn_proto::{Connection, Dir, ReadError, StreamId, VarInt, WriteError};

use crate::limits::{MAX_QUIC_STREAMS, UPSTREAM_PARTIAL_LEN, UPSTREAM_QUEUE_LEN};
use crate::upstream::standing::{ANSWER_TIMEOUT, End};
use crate::wire::framing::{FRAME_LEN, PREFIX_LEN};
use crate::wire::header::{self, rcode};

/// How a stream is stopped whose answer nobody waits for any more (RFC 9250 §4.3).
const DOQ_REQUEST_CANCELLED: VarInt = VarInt::from_u32(3);

/// Bytes of a message's id.
const ID_LEN: usize = 2;

/// A query, and what has come of its answer.
struct Query {
    id: [u8; ID_LEN],
    /// The query with its length before it, of which so much is written.
    frame: Vec<u8>,
    written: usize,
    answer: Vec<u8>,
    /// When it got a stream.
    begun: Option<Instant>,
}

/// What reading a stream has brought.
pub(super) enum Progress {
    /// No whole answer yet, or nothing that anybody waits for.
    None,
    /// An answer, which has been handed on.
    Answer,
    /// The server's word that it does not answer, and why.
    Reset(VarInt),
}

/// The queries.
#[derive(Default)]
pub(super) struct Queries {
    /// Those that wait for a stream, and their bytes.
    waiting: VecDeque<Query>,
    waiting_len: usize,
    /// Those that have one, which are in the order in which they got it.
    streams: BTreeMap<StreamId, Query>,
    /// Bytes of answers that have not come whole.
    partial_len: usize,
}

impl Queries {
    /// Takes one, if there is room.
    pub(super) fn push(&mut self, message: &[u8]) -> bool {
        let (Ok(prefix), Some((id, rest))) =
            (u16::try_from(message.len()), message.split_first_chunk::<ID_LEN>())
        else {
            return false;
        };
        let frame = [&prefix.to_be_bytes()[..], &[0; ID_LEN], rest].concat();
        if self.waiting_len + frame.len() > UPSTREAM_QUEUE_LEN {
            return false;
        }
        self.waiting_len += frame.len();
        self.waiting.push_back(Query { id: *id, frame, written: 0, answer: Vec::new(), begun: None });
        true
    }

    /// Gives streams to those that wait, as many as the server lets us have.
    pub(super) fn begin(&mut self, connection: &mut Connection, now: Instant) {
        while !self.waiting.is_empty() && self.streams.len() < MAX_QUIC_STREAMS {
            let Some(id) = connection.streams().open(Dir::Bi) else { return };
            let Some(mut query) = self.waiting.pop_front() else { return };
            self.waiting_len -= query.frame.len();
            query.begun = Some(now);
            self.streams.insert(id, query);
            self.write(connection, id);
        }
    }

    /// Writes what the stream takes of its query, and its end.
    pub(super) fn write(&mut self, connection: &mut Connection, id: StreamId) {
        let Some(query) = self.streams.get_mut(&id) else { return };
        let mut stream = connection.send_stream(id);
        while query.written < query.frame.len() {
            match stream.write(&query.frame[query.written..]) {
                Ok(written) => query.written += written,
                // It is reported when there is room.
                Err(WriteError::Blocked) => return,
                // The server does not want to hear it: what it says to that is its answer.
                Err(WriteError::Stopped(_) | WriteError::ClosedStream) => return,
            }
        }
        let _ = stream.finish();
    }

    /// Reads what has come on a stream, and hands the answer to `take` if it has ended.
    pub(super) fn read(
        &mut self,
        connection: &mut Connection,
        id: StreamId,
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<Progress, End> {
        let Some(query) = self.streams.get_mut(&id) else { return Ok(Progress::None) };
        let mut stream = connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(Progress::None) };
        let reset = loop {
            match chunks.next(FRAME_LEN) {
                Ok(Some(chunk)) => {
                    query.answer.extend_from_slice(&chunk.bytes);
                    self.partial_len += chunk.bytes.len();
                    if said_len(&query.answer).is_some_and(|len| query.answer.len() > len) {
                        return Err(End::Quic("it sends more than one message on a stream".into()));
                    }
                    if self.partial_len > UPSTREAM_PARTIAL_LEN {
                        return Err(End::Quic("it begins too many answers that it does not end".into()));
                    }
                }
                Ok(None) => break None,
                Err(ReadError::Blocked) => return Ok(Progress::None),
                Err(ReadError::Reset(code)) => break Some(code),
            }
        };
        let _ = chunks.finalize();
        let Some(mut query) = self.streams.remove(&id) else { return Ok(Progress::None) };
        self.partial_len -= query.answer.len();
        if let Some(code) = reset {
            take(&query.refusal());
            return Ok(Progress::Reset(code));
        }
        take(query.finish()?);
        Ok(Progress::Answer)
    }

    /// Gives up those that nobody waits for any more: they would keep others from having a stream. Returns how many.
    pub(super) fn give_up(&mut self, connection: &mut Connection, now: Instant) -> usize {
        let mut given_up = 0;
        while let Some(oldest) = self.streams.first_entry()
            && oldest.get().begun.is_none_or(|begun| begun + ANSWER_TIMEOUT <= now)
        {
            let (id, query) = oldest.remove_entry();
            self.partial_len -= query.answer.len();
            let _ = connection.recv_stream(id).stop(DOQ_REQUEST_CANCELLED);
            let _ = connection.send_stream(id).reset(DOQ_REQUEST_CANCELLED);
            given_up += 1;
        }
        given_up
    }
}

/// The length of a whole frame that begins so, if that can be read.
fn said_len(frame: &[u8]) -> Option<usize> {
    frame.first_chunk().map(|prefix| PREFIX_LEN + usize::from(u16::from_be_bytes(*prefix)))
}

impl Query {
    /// The answer, whose stream has ended.
    fn finish(&mut self) -> Result<&[u8], End> {
        if said_len(&self.answer) != Some(self.answer.len()) {
            return Err(End::Quic("it ends a stream before its answer is whole".into()));
        }
        let message = &mut self.answer[PREFIX_LEN..];
        if message.len() < header::LEN {
            return Err(End::NoMessage);
        }
        if message[..ID_LEN] != [0; ID_LEN] {
            return Err(End::Quic("its answer has an id, which is to be 0".into()));
        }
        message[..ID_LEN].copy_from_slice(&self.id);
        Ok(message)
    }

    /// The answer to give to who has asked where there is none: the server could not answer. Another is then asked at
    /// once.
    fn refusal(&self) -> [u8; header::LEN] {
        let [high, low] = self.id;
        [high, low, header::QR | header::RD, rcode::SERVFAIL, 0, 0, 0, 0, 0, 0, 0, 0]
    }
}
