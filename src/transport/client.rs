//! Who has sent a query that is not answered at once: enough to bring the response back.
//!
//! Each transport has its kind of [`Client`] here.

use std::net::IpAddr;

use super::tcp::TcpClient;
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
}

impl Client {
    /// Its address.
    pub(crate) fn ip(&self) -> IpAddr {
        match self {
            Self::Udp { ip, .. } => *ip,
            Self::Tcp(client) => client.ip,
        }
    }

    /// What it asked over.
    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Udp { .. } => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
        }
    }
}
