//! A connection to an upstream, of whatever kind: what [`super::streams`] needs of one.
//!
//! Runs on the worker that asks.

use std::io;
use std::time::Instant;

use mio::{Interest, Registry, Token};

use crate::resolver::upstream::{Protocol, Upstream};
use crate::sys::tls_error;
use crate::upstream::https::{Https, RequestTarget};
use crate::upstream::quic::{self, QuicConnection, transport};
use crate::upstream::standing::{Buffers, Standing};
use crate::upstream::stream::{UpstreamStream, connect};
use crate::upstream::tls::{Alpn, TlsClient};

/// A connection to an upstream.
pub(crate) enum Link {
    /// Over TCP or TLS: messages behind their lengths.
    Stream(UpstreamStream),
    /// Over QUIC: each message on a stream of its own.
    Quic(Box<QuicConnection>),
    /// Over HTTP/2 in TLS.
    Https(Box<Https>),
}

impl Link {
    /// Begins to connect to `upstream`, registered with the poll by this token.
    ///
    /// # Errors
    /// What the kernel says at once; that TLS cannot be used.
    pub(crate) fn open(
        upstream: &Upstream,
        (registry, token): (&Registry, Token),
        tls: Option<&TlsClient>,
        now: Instant,
    ) -> io::Result<Self> {
        let alpn = match upstream.protocol {
            Protocol::Https { .. } => Alpn::H2,
            Protocol::Quic { .. } => return Self::open_quic(upstream, (registry, token), tls, now),
            Protocol::Dns | Protocol::Tcp | Protocol::Tls { .. } => Alpn::Dot,
        };
        let session = match (upstream.protocol.identity(), tls) {
            (None, _) => None,
            (Some(_), None) => return Err(io::Error::other("TLS has not been set up")),
            (Some(identity), Some(tls)) => {
                let session = tls.session(identity, alpn);
                Some(session.map_err(|error| io::Error::other(tls_error::text(&error)))?)
            }
        };
        let mut stream = connect(upstream.address)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        match &upstream.protocol {
            Protocol::Https { identity, path } => {
                let target =
                    RequestTarget::new(identity, upstream.address, path).map_err(io::Error::other)?;
                let session = session.ok_or_else(|| io::Error::other("TLS has not been set up"))?;
                Ok(Self::Https(Box::new(Https::new(stream, session, target, now))))
            }
            _ => Ok(Self::Stream(UpstreamStream::new(stream, session, now))),
        }
    }

    fn open_quic(
        upstream: &Upstream,
        (registry, token): (&Registry, Token),
        tls: Option<&TlsClient>,
        now: Instant,
    ) -> io::Result<Self> {
        let (Some(identity), Some(tls)) = (upstream.protocol.identity(), tls) else {
            return Err(io::Error::other("TLS has not been set up"));
        };
        let config = tls.config(identity, Alpn::Doq).and_then(transport::client_config);
        let config = config.map_err(|error| io::Error::other(tls_error::text(&error)))?;
        let mut socket = quic::connect(upstream.address)?;
        registry.register(&mut socket, token, Interest::READABLE | Interest::WRITABLE)?;
        let connection = QuicConnection::new(socket, upstream.address, (config, &identity.name), now)?;
        Ok(Self::Quic(Box::new(connection)))
    }

    /// Queues `message`, a query with an id of its own on this connection, for the next turn, which is to be soon.
    /// Returns whether it may: not while too many wait.
    #[must_use]
    pub(crate) fn send(&mut self, message: &[u8], now: Instant) -> bool {
        match self {
            Self::Stream(stream) => stream.send(message, now),
            Self::Quic(connection) => connection.send(message, now),
            Self::Https(https) => https.send(message, now),
        }
    }

    /// When it is to have a turn even if nothing happens.
    pub(crate) fn deadline(&self) -> Instant {
        match self {
            Self::Stream(stream) => stream.deadline(),
            Self::Quic(connection) => connection.deadline(),
            Self::Https(https) => https.deadline(),
        }
    }

    /// Whether it has brought any answer: then what is left in flight when it ends is worth another connection at once.
    pub(crate) fn has_answered(&self) -> bool {
        match self {
            Self::Stream(stream) => stream.has_answered(),
            Self::Quic(connection) => connection.has_answered(),
            Self::Https(https) => https.has_answered(),
        }
    }

    /// Has what has come acknowledged at once, where a server may hold the first answer back until then.
    pub(crate) fn acknowledge(&self) {
        match self {
            Self::Stream(stream) => stream.acknowledge(),
            Self::Quic(_) => {}
            Self::Https(https) => https.acknowledge(),
        }
    }

    /// What was wrong with a query's answer since this was asked last, where the others on the connection go on.
    pub(crate) fn take_fault(&mut self) -> Option<String> {
        match self {
            Self::Stream(_) => None,
            Self::Quic(connection) => connection.take_fault(),
            Self::Https(https) => https.take_fault(),
        }
    }

    /// Reads what is there and gives each answer to `take`, with the id of its query; sends what is queued.
    pub(crate) fn turn(
        &mut self,
        buffers: &mut Buffers,
        now: Instant,
        take: &mut dyn FnMut(&[u8]),
    ) -> Standing {
        match self {
            Self::Stream(stream) => stream.turn(buffers, now, take),
            Self::Quic(connection) => connection.turn(buffers, now, take),
            Self::Https(https) => https.turn(buffers, now, take),
        }
    }
}
