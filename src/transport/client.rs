//! Who has asked a query that is not answered at once: enough to bring the answer back.

use std::net::IpAddr;

use super::tcp::TcpClient;
use crate::sys::mmsg::ReturnAddress;
use crate::wire::response::Transport;

/// A query that waits.
pub(crate) struct Waiter {
    pub(crate) query: Box<[u8]>,
    pub(crate) client: Client,
}

/// Who asked it.
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
    pub(crate) fn ip(&self) -> IpAddr {
        match self {
            Self::Udp { ip, .. } => *ip,
            Self::Tcp(client) => client.ip,
        }
    }

    pub(crate) fn transport(&self) -> Transport {
        match self {
            Self::Udp { .. } => Transport::Udp,
            Self::Tcp(_) => Transport::Tcp,
        }
    }
}
