//! Opening a UDP socket for batches.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};

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
