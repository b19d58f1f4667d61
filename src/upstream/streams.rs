//! A worker's connections to its upstreams, a few to each at most: made when there is something to ask, and let go when
//! they end.
//!
//! Runs on the workers. Which of them a question goes over is for `resolver::in_flight` to say, which begins another
//! where one is silent.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::Instant;

use mio::{Registry, Token};

use crate::resolver::in_flight::{STREAM, STREAMS, StreamEnd};
use crate::resolver::meter::Meter;
use crate::resolver::upstream::Upstream;
use crate::upstream::link::Link;
use crate::upstream::standing::{Buffers, End, Standing};
use crate::upstream::tls::TlsClient;

/// Is told, of an upstream, why a connection to it has failed, when that is news. Called on a worker.
pub type TellFault = Arc<dyn Fn(&Upstream, &str) + Send + Sync>;

/// Connections to one server.
pub(crate) const PER_SERVER: usize = STREAMS as usize;

/// An upstream, and the connections to it that there are.
struct ServerLinks {
    upstream: Upstream,
    meter: Arc<Meter>,
    streams: [Option<Link>; PER_SERVER],
    /// The last connection that was of use, or would have been, has failed.
    faulty: bool,
    /// They are in the queue of those that have something to do.
    queued: [bool; PER_SERVER],
}

impl ServerLinks {
    /// Notes why a connection has failed.
    fn note_fault(&mut self, why: &impl Display, tell_fault: &TellFault) {
        let why = why.to_string();
        self.faulty = true;
        if self.meter.set_fault(Some(&why)) {
            tell_fault(&self.upstream, &why);
        }
    }
}

/// A server, and the number of a connection to it.
type Number = (u16, u8);

/// The connections.
pub(crate) struct Streams {
    places: Vec<ServerLinks>,
    tell_fault: TellFault,
    buffers: Buffers,
    /// Those that may have something to do.
    queue: VecDeque<Number>,
    /// What has come, and over which of them.
    messages: VecDeque<(Number, Box<[u8]>)>,
    /// Those that have ended with questions that were not answered, and how.
    broken: VecDeque<(Number, StreamEnd)>,
}

impl Streams {
    /// None yet, to these; with each the meter that says what is wrong with it.
    pub(crate) fn new(
        upstreams: impl Iterator<Item = (Upstream, Arc<Meter>)>,
        tell_fault: TellFault,
    ) -> Self {
        let place = |(upstream, meter): (_, Arc<Meter>)| {
            let faulty = meter.fault().is_some();
            ServerLinks { upstream, meter, streams: Default::default(), faulty, queued: Default::default() }
        };
        Self {
            places: upstreams.map(place).collect(),
            tell_fault,
            buffers: Buffers::default(),
            queue: VecDeque::new(),
            messages: VecDeque::new(),
            broken: VecDeque::new(),
        }
    }

    /// Notes that the poll has reported the connection of this number to a server.
    pub(crate) fn ready(&mut self, server: u16, number: u8) {
        let place = self.places.get_mut(usize::from(server));
        if let Some(queued) = place.and_then(|place| place.queued.get_mut(usize::from(number)))
            && !*queued
        {
            *queued = true;
            self.queue.push_back((server, number));
        }
    }

    /// Whether there is something to do at once.
    pub(crate) fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.messages.is_empty() || !self.broken.is_empty()
    }

    /// When there will be something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.places.iter().flat_map(|place| &place.streams).flatten().map(Link::deadline).min()
    }

    /// Sends `message` to a server over the connection of this `slot`, which is made if it is not there.
    pub(crate) fn send(
        &mut self,
        (server, slot): (u16, u8),
        message: &[u8],
        poll: (&Registry, Token),
        tls: Option<&TlsClient>,
        now: Instant,
    ) {
        let number = slot.saturating_sub(STREAM);
        let Some(place) = self.places.get_mut(usize::from(server)) else { return };
        let Some(stream) = place.streams.get_mut(usize::from(number)) else { return };
        let opened = match stream {
            Some(_) => Ok(()),
            None => Link::open(&place.upstream, poll, tls, now).map(|new| *stream = Some(new)),
        };
        match stream {
            // What there is no room for waits until somebody else is asked.
            Some(stream) => _ = stream.send(message, now),
            None => {
                let end = opened.as_ref().err().map_or(StreamEnd::Useless, end_of);
                self.broken.push_back(((server, number), end));
            }
        }
        if let Err(error) = opened {
            place.note_fault(&error, &self.tell_fault);
        }
        self.ready(server, number);
    }

    /// Closes the connection of this `slot`, if it is there. What was asked over it is not waited for.
    pub(crate) fn close(&mut self, server: u16, slot: u8) {
        let place = self.places.get_mut(usize::from(server));
        let number = usize::from(slot.saturating_sub(STREAM));
        if let Some(stream) = place.and_then(|place| place.streams.get_mut(number)) {
            *stream = None;
        }
    }

    /// The next message that has come, from whom, and to which slot.
    pub(crate) fn next_message(&mut self, now: Instant) -> Option<(u16, u8, Box<[u8]>)> {
        for (server, place) in (0..).zip(&mut self.places) {
            for (number, (stream, queued)) in (0..).zip(place.streams.iter().zip(&mut place.queued)) {
                let due = stream.as_ref().is_some_and(|stream| stream.deadline() <= now);
                if due && !*queued {
                    *queued = true;
                    self.queue.push_back((server, number));
                }
            }
        }
        // Each has one turn: one that has more to say has another after the clients.
        for _ in 0..self.queue.len() {
            if !self.messages.is_empty() {
                break;
            }
            let number = self.queue.pop_front()?;
            self.take_turn(number, now);
        }
        let ((server, number), message) = self.messages.pop_front()?;
        Some((server, STREAM + number, message))
    }

    fn take_turn(&mut self, (server, number): Number, now: Instant) {
        let Self { places, buffers, messages, tell_fault, .. } = self;
        let place = &mut places[usize::from(server)];
        place.queued[usize::from(number)] = false;
        let Some(stream) = &mut place.streams[usize::from(number)] else { return };
        let mut take = |message: &[u8]| messages.push_back(((server, number), message.into()));
        let standing = stream.turn(buffers, now, &mut take);
        let worked = stream.has_answered();
        if !worked {
            stream.acknowledge();
        }
        if let Some(why) = stream.take_fault() {
            place.note_fault(&why, tell_fault);
        } else if worked && place.faulty {
            place.faulty = false;
            place.meter.set_fault(None);
        }
        match standing {
            Standing::Open => {}
            Standing::More => self.ready(server, number),
            Standing::Closed(End::Idle) => place.streams[usize::from(number)] = None,
            Standing::Closed(end) => {
                // It may end one that it has answered on whenever it likes (RFC 7766 §6.2.3).
                if !(worked && matches!(end, End::ByServer)) {
                    place.note_fault(&end, tell_fault);
                }
                place.streams[usize::from(number)] = None;
                let how = match &end {
                    _ if worked => StreamEnd::Worked,
                    End::Io(error) => end_of(error),
                    _ => StreamEnd::Useless,
                };
                self.broken.push_back(((server, number), how));
            }
        }
    }

    /// A connection that has ended, as server and slot, and how.
    pub(crate) fn next_broken(&mut self) -> Option<(u16, u8, StreamEnd)> {
        let ((server, number), end) = self.broken.pop_front()?;
        Some((server, STREAM + number, end))
    }
}

/// Whose the `error` of a connection is that has brought nothing: the server's, unless our own kernel says that it has
/// no way there, or nothing to open a connection with.
fn end_of(error: &io::Error) -> StreamEnd {
    let is_local = matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkDown
            | ErrorKind::AddrNotAvailable
            | ErrorKind::PermissionDenied
            | ErrorKind::InvalidInput
            | ErrorKind::OutOfMemory
    ) || matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::EMFILE | libc::ENFILE));
    if is_local { StreamEnd::NoWay } else { StreamEnd::Useless }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_our_own_kernel_says_is_no_word_of_the_servers() {
        for code in [
            libc::ENETUNREACH,
            libc::EHOSTUNREACH,
            libc::EINVAL,
            libc::EADDRNOTAVAIL,
            libc::EPERM,
            libc::ENOBUFS,
            libc::EMFILE,
        ] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(end_of(&error), StreamEnd::NoWay, "{error}");
        }
        for code in [libc::ECONNREFUSED, libc::ECONNRESET, libc::ECONNABORTED, libc::EPIPE, libc::ETIMEDOUT] {
            let error = io::Error::from_raw_os_error(code);
            assert_eq!(end_of(&error), StreamEnd::Useless, "{error}");
        }
        for kind in [ErrorKind::UnexpectedEof, ErrorKind::InvalidData, ErrorKind::WriteZero, ErrorKind::Other]
        {
            assert_eq!(end_of(&kind.into()), StreamEnd::Useless, "{kind}");
        }
    }
}
