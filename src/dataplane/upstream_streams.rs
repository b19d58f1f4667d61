//! A worker's connections to its upstreams, one to each at most: made when there is something to ask, and let go when they end.
//!
//! Runs on the workers.

use std::collections::VecDeque;
use std::fmt::Display;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use mio::{Interest, Registry, Token};

use super::upstream_stream::{Buffers, End, Standing, UpstreamStream, connect};
use super::upstream_tls::TlsClient;
use crate::resolver::meter::Meter;
use crate::resolver::settings::{Protocol, Upstream};
use crate::tls_error;

/// Is told, of an upstream, why a connection to it has failed, when that is news. Called on a worker.
pub type TellFault = Arc<dyn Fn(&Upstream, &str) + Send + Sync>;

/// An upstream, and the connection to it if there is one.
struct Place {
    upstream: Upstream,
    meter: Arc<Meter>,
    stream: Option<UpstreamStream>,
    /// The last connection that was of use, or would have been, has failed.
    faulty: bool,
    /// It is in the queue of those that have something to do.
    queued: bool,
}

impl Place {
    /// Notes why its connection has failed.
    fn note_fault(&mut self, why: &impl Display, tell_fault: &TellFault) {
        let why = why.to_string();
        self.faulty = true;
        if self.meter.set_fault(Some(&why)) {
            tell_fault(&self.upstream, &why);
        }
    }
}

/// The connections.
pub(super) struct Streams {
    places: Vec<Place>,
    tell_fault: TellFault,
    buffers: Buffers,
    /// Numbers of those that may have something to do.
    queue: VecDeque<u16>,
    /// What has come, and from whom.
    messages: VecDeque<(u16, Box<[u8]>)>,
    /// Whose connection has ended with questions that were not answered, and whether it had answered any.
    broken: VecDeque<(u16, bool)>,
}

impl Streams {
    /// None yet, to these; with each the meter that says what is wrong with it.
    pub(super) fn new(
        upstreams: impl Iterator<Item = (Upstream, Arc<Meter>)>,
        tell_fault: TellFault,
    ) -> Self {
        let place = |(upstream, meter): (_, Arc<Meter>)| {
            let faulty = meter.fault().is_some();
            Place { upstream, meter, stream: None, faulty, queued: false }
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

    /// Notes that the poll has reported the connection to a server.
    pub(super) fn ready(&mut self, server: usize) {
        if let Ok(server) = u16::try_from(server) {
            self.enqueue(server);
        }
    }

    fn enqueue(&mut self, server: u16) {
        if let Some(place) = self.places.get_mut(usize::from(server)).filter(|place| !place.queued) {
            place.queued = true;
            self.queue.push_back(server);
        }
    }

    /// Whether there is something to do at once.
    pub(super) fn is_busy(&self) -> bool {
        !self.queue.is_empty() || !self.messages.is_empty() || !self.broken.is_empty()
    }

    /// When there will be something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.places.iter().filter_map(|place| Some(place.stream.as_ref()?.deadline())).min()
    }

    /// Sends `message` to `server`, over a connection that is made for it if there is none.
    pub(super) fn send(
        &mut self,
        server: u16,
        message: &[u8],
        (registry, token): (&Registry, Token),
        tls: Option<&TlsClient>,
        now: Instant,
    ) {
        let Some(place) = self.places.get_mut(usize::from(server)) else { return };
        if place.stream.is_none() {
            match open(&place.upstream, registry, token, tls, now) {
                Ok(stream) => place.stream = Some(stream),
                Err(error) => place.note_fault(&error, &self.tell_fault),
            }
        }
        match &mut place.stream {
            // What there is no room for waits until somebody else is asked.
            Some(stream) => _ = stream.send(message, now),
            None => self.broken.push_back((server, false)),
        }
        self.enqueue(server);
    }

    /// The next message that has come, and from whom.
    pub(super) fn next_message(&mut self, now: Instant) -> Option<(u16, Box<[u8]>)> {
        for server in 0..self.places.len() {
            let due = self.places[server].stream.as_ref().is_some_and(|stream| stream.deadline() <= now);
            if due {
                self.ready(server);
            }
        }
        // Each has one turn: one that has more to say has another after the clients.
        for _ in 0..self.queue.len() {
            if !self.messages.is_empty() {
                break;
            }
            let server = self.queue.pop_front()?;
            self.take_turn(server, now);
        }
        self.messages.pop_front()
    }

    fn take_turn(&mut self, server: u16, now: Instant) {
        let Self { places, buffers, messages, tell_fault, .. } = self;
        let place = &mut places[usize::from(server)];
        place.queued = false;
        let Some(stream) = &mut place.stream else { return };
        let mut take = |message: &[u8]| messages.push_back((server, message.into()));
        let standing = stream.turn(buffers, now, &mut take);
        let worked = stream.has_answered();
        if worked && place.faulty {
            place.faulty = false;
            place.meter.set_fault(None);
        }
        match standing {
            Standing::Open => {}
            Standing::More => self.enqueue(server),
            Standing::Closed(End::Idle) => place.stream = None,
            Standing::Closed(end) => {
                // It may end one that it has answered on whenever it likes (RFC 7766 §6.2.3).
                if !(worked && matches!(end, End::ByServer)) {
                    place.note_fault(&end, tell_fault);
                }
                place.stream = None;
                self.broken.push_back((server, worked));
            }
        }
    }

    /// A server whose connection has ended: whether it had answered before.
    pub(super) fn next_broken(&mut self) -> Option<(u16, bool)> {
        self.broken.pop_front()
    }
}

fn open(
    upstream: &Upstream,
    registry: &Registry,
    token: Token,
    tls: Option<&TlsClient>,
    now: Instant,
) -> io::Result<UpstreamStream> {
    let session = match (&upstream.protocol, tls) {
        (Protocol::Dns, _) => None,
        (Protocol::Tls { identity }, Some(tls)) => {
            Some(tls.session(identity).map_err(|error| io::Error::other(tls_error::text(&error)))?)
        }
        (Protocol::Tls { .. }, None) => return Err(io::Error::other("TLS has not been set up")),
    };
    let mut stream = connect(upstream.address)?;
    registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
    Ok(UpstreamStream::new(stream, session, now))
}
