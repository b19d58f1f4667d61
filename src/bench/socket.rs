//! The UDP sockets of the clients: opened by the main thread, each then used by one sending thread.
//!
//! A client has a port of its own and two sockets on it. One is connected, so that the kernel passes on that nobody
//! listens, drops what others send, and looks up the route once. The other gets what others send, which is only
//! counted. With `--sources` a client is an address, and many share one socket.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::Timespec;
use socket2::{Domain, Protocol, Socket, Type};

use super::settings::RunSettings;
use super::workload::cookie::CookieJar;
use super::{BenchError, share};
use crate::sys::mmsg;

/// Socket buffers asked for when no size is set. The kernel grants at most `net.core.rmem_max` and `wmem_max`.
const SOCKET_BUFFER_LEN: usize = 4 << 20;

/// A client's sockets.
pub(super) struct ClientSockets {
    pub(super) socket: UdpSocket,
    /// None where the socket is not connected, and gets all.
    strays: Option<UdpSocket>,
    pub(super) cookie: CookieJar,
}

impl ClientSockets {
    /// How many datagrams have come from elsewhere than the server since this was last asked.
    pub(super) fn count_strays(&self) -> u64 {
        let Some(strays) = &self.strays else { return 0 };
        let mut buffer = [0; 1];
        let mut count = 0;
        while strays.recv_from(&mut buffer).is_ok() {
            count += 1;
        }
        count
    }

    /// How many answers the kernel has dropped because the socket had no room.
    pub(super) fn drops(&self) -> u64 {
        mmsg::receive_drops(self.socket.as_fd()).unwrap_or(0).into()
    }
}

/// Opens the sockets of all clients, by thread.
pub(super) fn open_all(settings: &RunSettings, threads: u32) -> Result<Vec<Vec<ClientSockets>>, BenchError> {
    let failed = |error| BenchError::Open { server: settings.server, error };
    let mut number = 0;
    let mut open = || {
        let source = SocketAddr::new(source(settings, number), local_port(settings, number));
        number += 1;
        if settings.sources.is_some() { open_for_all(settings, source) } else { open(settings, source) }
    };
    (0..threads)
        .map(|thread| (0..share(settings.sockets(), threads, thread)).map(|_| open()).collect())
        .collect::<io::Result<_>>()
        .map_err(failed)
}

/// The address that client number `number` sends from.
pub(super) fn source(settings: &RunSettings, number: u32) -> IpAddr {
    let any = match settings.server {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    settings.source.map_or(any, |source| source.address(number))
}

/// The port that socket number `number` sends from; 0 for any.
pub(super) fn local_port(settings: &RunSettings, number: u32) -> u16 {
    let offset = u16::try_from(number).unwrap_or(u16::MAX);
    if settings.local_port == 0 { 0 } else { settings.local_port.saturating_add(offset) }
}

/// A socket that sends from any address, and receives what comes to any.
fn open_for_all(settings: &RunSettings, source: SocketAddr) -> io::Result<ClientSockets> {
    let socket = new_socket(settings)?;
    socket.bind(&source.into())?;
    Ok(ClientSockets { socket: socket.into(), strays: None, cookie: CookieJar::default() })
}

fn open(settings: &RunSettings, source: SocketAddr) -> io::Result<ClientSockets> {
    // Only a socket that would share no port gets one that no other client has; the second one then shares it. What the
    // server sends goes to the connected one, as the closer match.
    let strays = new_socket(settings)?;
    strays.bind(&source.into())?;
    strays.set_reuse_port(true)?;
    let socket = new_socket(settings)?;
    socket.set_reuse_port(true)?;
    socket.bind(&strays.local_addr()?)?;
    socket.connect(&settings.server.into())?;
    // An older kernel hands over each alone.
    let _ = mmsg::hand_over_groups(socket.as_fd());
    Ok(ClientSockets { socket: socket.into(), strays: Some(strays.into()), cookie: CookieJar::default() })
}

/// A time to sleep, as poll(2) is told it.
pub(super) fn timespec(time: Duration) -> Timespec {
    Timespec { tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX), tv_nsec: time.subsec_nanos().into() }
}

fn new_socket(settings: &RunSettings) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(settings.server), Type::DGRAM, Some(Protocol::UDP))?;
    let buffer_len = settings.buffer_len.unwrap_or(SOCKET_BUFFER_LEN);
    socket.set_recv_buffer_size(buffer_len)?;
    socket.set_send_buffer_size(buffer_len)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}
