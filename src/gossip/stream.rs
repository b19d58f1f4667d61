//! One stream between two nodes: what is wanted goes one way in one frame, the changes the other way in many.
//!
//! Runs on the thread `cluster` and never waits. The side that answers has one frame of its answer in memory at a time,
//! and makes the next only when the socket has taken that one: who reads slowly gets it slowly, at no cost to others.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use mio::net::TcpStream;

use super::cipher::Rejected;
use super::engine::{Bulk, Engine, MAX_STREAM_DELTA_LEN};
use super::message::Message;
use super::stream_seal::{MAX_FRAME_LEN, StreamSeal};
use crate::store::NodeId;

/// How long a stream may stand still.
const STALL: Duration = crate::limits::STREAM_STALL;

/// How long a node may take to say what it wants. Until then it may be anybody.
const REQUEST_TIME: Duration = crate::limits::STREAM_REQUEST_TIME;

/// Bytes that are read at a time: of an answer, and of a request.
const ANSWER_READ: usize = 32 * 1024;
const REQUEST_READ: usize = 4 * 1024;

/// Bytes of a request at most.
const MAX_REQUEST_LEN: usize = crate::limits::MAX_REQUEST_LEN;

/// How a turn of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is nothing to do until the event loop tells of it.
    Waits,
    /// There is more to do, but others come first.
    HasMore,
    /// All has been said.
    Ended,
    /// The other end is gone, or said what makes no sense.
    Broken,
    /// What it said could not be opened.
    Rejected(Rejected),
}

/// Bytes that a stream has taken and given in one turn.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StreamWork {
    pub(super) taken: usize,
    pub(super) sent: usize,
}

/// What a stream is for.
enum StreamPurpose {
    /// To ask, and take the answer.
    Fetch,
    /// To answer; what, once that is known.
    Serve(Option<Bulk>),
}

/// A stream.
pub(super) struct Stream {
    socket: TcpStream,
    peer: SocketAddr,
    seal: StreamSeal,
    job: StreamPurpose,
    /// What has come and is not a whole frame yet.
    input: Vec<u8>,
    /// What is to be sent, from `sent` on.
    output: Vec<u8>,
    sent: usize,
    /// When something last came or went.
    moved: Duration,
    /// Who has asked, once that is known.
    sender: Option<NodeId>,
    /// Something of the answer has come.
    answered: bool,
    work: StreamWork,
}

impl Stream {
    /// Begins to connect to `peer`, to say `request` there.
    pub(super) fn fetch(
        now: Duration,
        peer: SocketAddr,
        mut seal: StreamSeal,
        request: &[u8],
    ) -> io::Result<Self> {
        let mut output = Vec::new();
        seal.seal(request, &mut output);
        let socket = TcpStream::connect(peer)?;
        Ok(Self { output, ..Self::new(now, socket, peer, seal, StreamPurpose::Fetch) })
    }

    /// A stream that `peer` has opened.
    pub(super) fn serve(now: Duration, socket: TcpStream, peer: SocketAddr, seal: StreamSeal) -> Self {
        Self::new(now, socket, peer, seal, StreamPurpose::Serve(None))
    }

    fn new(now: Duration, socket: TcpStream, peer: SocketAddr, seal: StreamSeal, job: StreamPurpose) -> Self {
        // It is sent in large pieces; a failure costs a little time.
        let _ = socket.set_nodelay(true);
        Self {
            socket,
            peer,
            seal,
            job,
            input: Vec::new(),
            output: Vec::new(),
            sent: 0,
            moved: now,
            sender: None,
            answered: false,
            work: StreamWork::default(),
        }
    }

    pub(super) fn socket(&mut self) -> &mut TcpStream {
        &mut self.socket
    }

    pub(super) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Whether this node has asked.
    pub(super) fn is_fetch(&self) -> bool {
        matches!(self.job, StreamPurpose::Fetch)
    }

    /// Whether it is known what the other node wants.
    pub(super) fn is_served(&self) -> bool {
        matches!(self.job, StreamPurpose::Serve(Some(_)))
    }

    /// Whether the other node, if it is one, has not said yet what it wants.
    pub(super) fn is_unknown(&self) -> bool {
        matches!(self.job, StreamPurpose::Serve(None))
    }

    /// When it is closed if nothing comes or goes.
    pub(super) fn deadline(&self) -> Duration {
        self.moved + if self.is_unknown() { REQUEST_TIME } else { STALL }
    }

    /// The node that has asked, if it is another one and known.
    pub(super) fn sender(&self) -> Option<NodeId> {
        self.sender
    }

    /// Bytes of its buffers.
    pub(super) fn buffered(&self) -> usize {
        self.input.capacity() + self.output.capacity()
    }

    /// It is left alone for now, which is not the other end's fault.
    pub(super) fn rest(&mut self, now: Duration) {
        self.moved = now;
    }

    /// Does what can be done now: one frame.
    pub(super) fn work(&mut self, now: Duration, engine: &mut Engine) -> (Turn, StreamWork) {
        let turn = match self.try_work(now, engine) {
            Ok(turn) => turn,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Turn::Waits,
            Err(_) => Turn::Broken,
        };
        (turn, std::mem::take(&mut self.work))
    }

    fn try_work(&mut self, now: Duration, engine: &mut Engine) -> io::Result<Turn> {
        // A connection that is still being made says so when it is written to.
        self.flush(now)?;
        let StreamPurpose::Serve(Some(bulk)) = &mut self.job else {
            return Ok(self.take_frame(now, engine)?.unwrap_or(Turn::HasMore));
        };
        let Some(delta) = bulk.next(&engine.store().read(), MAX_STREAM_DELTA_LEN) else {
            let _ = self.socket.shutdown(Shutdown::Write);
            return Ok(Turn::Ended);
        };
        let message = Message::Changes { delta, share: (0, 0) };
        self.output.clear();
        self.seal.seal(&message.encode(engine.me()), &mut self.output);
        self.sent = 0;
        self.flush(now)?;
        Ok(Turn::HasMore)
    }

    fn flush(&mut self, now: Duration) -> io::Result<()> {
        while self.sent < self.output.len() {
            match self.socket.write(&self.output[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(len) => {
                    self.sent += len;
                    self.work.sent += len;
                    // Before it is known who it is, only what it says in time counts.
                    self.moved = if self.is_unknown() { self.moved } else { now };
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::NotConnected => {
                    return Err(ErrorKind::WouldBlock.into());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes the next frame, and reads on for it if need be. Returns how the stream ends, if it does.
    fn take_frame(&mut self, now: Duration, engine: &mut Engine) -> io::Result<Option<Turn>> {
        loop {
            match self.seal.open(&mut self.input) {
                Err(rejected) => return Ok(Some(Turn::Rejected(rejected))),
                Ok(Some((frame, taken))) => {
                    self.input.drain(..taken);
                    self.work.taken += taken;
                    return Ok(self.take_message(now, engine, &frame));
                }
                Ok(None) => {}
            }
            let limit = if self.is_fetch() { MAX_FRAME_LEN } else { MAX_REQUEST_LEN } + 128;
            let len = self.input.len();
            if len >= limit {
                return Ok(Some(Turn::Broken));
            }
            let room = if self.is_fetch() { ANSWER_READ } else { REQUEST_READ };
            self.input.resize(limit.min(len + room), 0);
            let read = self.socket.read(&mut self.input[len..]);
            self.input.truncate(len + read.as_ref().map_or(0, |&read| read));
            match read {
                Ok(0) => {
                    // A node that has too many streams closes one without a word.
                    let whole = len == 0 && self.is_fetch() && self.answered;
                    return Ok(Some(if whole { Turn::Ended } else { Turn::Broken }));
                }
                Ok(_) if self.is_unknown() => {}
                Ok(_) => self.moved = now,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn take_message(&mut self, now: Duration, engine: &mut Engine, frame: &[u8]) -> Option<Turn> {
        match (&mut self.job, Message::decode(frame)) {
            (StreamPurpose::Fetch, Ok((_, Some(Message::Changes { delta, .. })))) => {
                self.answered = true;
                engine.handle_delta(now, &delta);
                None
            }
            (StreamPurpose::Serve(bulk), Ok((sender, Some(Message::Want(wants))))) => {
                *bulk = Some(Bulk::new(wants));
                (self.moved, self.sender) = (now, Some(sender));
                self.input = Vec::new(); // nothing more comes
                None
            }
            // What a later release says besides.
            (_, Ok((_, None))) => None,
            _ => Some(Turn::Broken),
        }
    }
}
