//! Binding the sockets of the designs that ask: one for each worker's questions, one for what the other nodes ask.
//!
//! Runs on the main thread before the workers start.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use crate::query_time::PeerTargets;
use crate::sys::mmsg::buffered;

/// Why the other nodes cannot be asked, or cannot ask this one.
#[derive(Debug)]
pub struct PeerSocketError {
    doing: String,
    source: io::Error,
}

impl fmt::Display for PeerSocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}: {}", self.doing, self.source)
    }
}

impl std::error::Error for PeerSocketError {}

/// The sockets.
pub struct ReachSockets {
    /// For each worker, where its questions leave from and answers come in.
    pub answers: Vec<UdpSocket>,
    /// Where the questions of others come in.
    pub questions: UdpSocket,
    /// Where questions go.
    pub targets: Vec<SocketAddr>,
}

/// Binds all of them.
///
/// # Errors
/// [`PeerSocketError`].
pub fn bind(reach: &PeerTargets, workers: usize) -> Result<ReachSockets, PeerSocketError> {
    let fail = |doing: String| move |source| PeerSocketError { doing, source };
    match reach {
        PeerTargets::Multicast { group, interface } => {
            let by = if interface.is_unspecified() {
                String::new()
            } else {
                format!(" on the interface with {interface}")
            };
            let options = "--multicast and --multicast-interface choose others, and --peer does without";
            let ask = || {
                sender(*interface)
                    .map_err(fail(format!("send to the multicast group {group}{by} ({options})")))
            };
            let answers = (0..workers).map(|_| ask()).collect::<Result<_, _>>()?;
            let questions = member(*group, *interface)
                .map_err(fail(format!("join the multicast group {group}{by} ({options})")))?;
            Ok(ReachSockets { answers, questions, targets: vec![SocketAddr::V4(*group)] })
        }
        PeerTargets::Peers { listen, peers } => {
            let local = SocketAddr::new(listen.ip(), 0);
            let ask = || plain(local).map_err(fail(format!("ask other nodes from {}", listen.ip())));
            let answers = (0..workers).map(|_| ask()).collect::<Result<_, _>>()?;
            let questions = plain(*listen).map_err(fail(format!("be asked by other nodes at {listen}")))?;
            // Asking itself would be of no use to anyone.
            let targets = peers.iter().copied().filter(|peer| peer != listen).collect();
            Ok(ReachSockets { answers, questions, targets })
        }
    }
}

fn plain(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = buffered(address)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// A socket with a port of its own, so that answers come back to it alone (RFC 6762 §6.7).
fn sender(interface: Ipv4Addr) -> io::Result<UdpSocket> {
    let local = SocketAddr::from((interface, 0));
    let socket = buffered(local)?;
    socket.bind(&local.into())?;
    if !interface.is_unspecified() {
        socket.set_multicast_if_v4(&interface)?;
    }
    // Nodes on the same host are asked, too; and nobody beyond this link.
    socket.set_multicast_loop_v4(true)?;
    socket.set_multicast_ttl_v4(1)?;
    Ok(socket.into())
}

/// A member of the group, beside others on this host: each of them gets a copy of what is sent to it.
fn member(group: SocketAddrV4, interface: Ipv4Addr) -> io::Result<UdpSocket> {
    let socket = buffered(SocketAddr::V4(group))?;
    socket.set_reuse_address(true)?;
    // Bound to the group's own address it hears nothing that was sent to the port alone.
    socket.bind(&SocketAddr::V4(group).into())?;
    socket.join_multicast_v4(group.ip(), &interface)?;
    // Without this it would also get what was sent to the group by way of other interfaces that others here have joined
    // on.
    socket.set_multicast_all_v4(false)?;
    // Answers leave by the same interface; the kernel takes its address for them.
    if !interface.is_unspecified() {
        socket.set_multicast_if_v4(&interface)?;
    }
    Ok(socket.into())
}
