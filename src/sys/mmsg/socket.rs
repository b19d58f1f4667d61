//! Opening a UDP socket for batches, and closing any socket to what is new.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;

use socket2::{Domain, Protocol, SockFilter, SockRef, Socket, Type};

use crate::limits::SOCKET_BUFFER_LEN;

/// A socket for addresses of that family, not bound, which does not block and has room for many datagrams each way.
///
/// # Errors
/// Those of socket(2) and setsockopt(2).
pub fn buffered(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM.nonblocking(), Some(Protocol::UDP))?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_LEN)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_LEN)?;
    Ok(socket)
}

/// Lets nothing more into the socket's queue, or no more connections be made to it; what is already there can still be
/// received, or accepted. It holds for as long as anybody has the socket, which may be another process.
///
/// # Errors
/// Those of setsockopt(2).
pub fn refuse_more(socket: &impl AsFd) -> io::Result<()> {
    const RETURN_CONSTANT: u16 = 0x06; // BPF_RET | BPF_K: keep 0 bytes of the packet, that is, drop it
    SockRef::from(socket).attach_filter(&[SockFilter::new(RETURN_CONSTANT, 0, 0, 0)])
}
