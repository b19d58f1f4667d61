//! Who has sent a query that is not answered at once: enough to bring the response back.
//!
//! Each transport has its kind of [`Client`] here.

use std::net::IpAddr;

use crate::sys::mmsg::ReturnAddress;
use crate::wire::response::Transport;

/// A query that is answered later.
pub(crate) struct DeferredQuery {
    /// The message.
    pub(crate) query: Box<[u8]>,
    pub(crate) client: Client,
}

/// Who asked it.
#[derive(Clone)]
pub(crate) enum Client {
    /// Over UDP, by way of the worker's socket of this number.
    Udp {
        socket: usize,
        ip: IpAddr,
        to: ReturnAddress,
    },
    Tcp(TcpClient),
    /// That of a test, by its number.
    #[cfg(test)]
    Memory(usize),
}

/// The client of a connection, and which connection it is, for an answer that comes later.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TcpClient {
    /// Its address.
    pub(crate) ip: IpAddr,
    pub(super) key: usize,
    pub(super) serial: u64,
}

impl Client {
    /// Its address.
    pub(crate) fn ip(&self) -> IpAddr {
        match self {
            Self::Udp { ip, .. } => *ip,
            Self::Tcp(client) => client.ip,
            #[cfg(test)]
            Self::Memory(_) => std::net::Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// What it asked over.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Udp { .. } => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
            #[cfg(test)]
            Self::Memory(_) => Transport::Tcp,
        }
    }
}
