//! The echo floor: the least that any UDP DNS server has to do, and no DNS at all.
//!
//! Runs on one thread, the caller's. A server's rate divided by this loop's, in the same run on the same cores, says
//! how much of the machine the server's own work costs; that ratio survives a noisy machine where rates do not. The
//! floor moves its datagrams through the same [`Batch`] as the data plane, so the ratio compares what is done with a
//! packet and not how it is moved.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use socket2::{Domain, Socket, Type};

use crate::sys::mmsg::{Addressing, Batch, Wait};

/// Asked of the kernel for each direction (it grants at most `net.core.rmem_max` and `wmem_max`): room for some
/// thousand small datagrams, so that a burst waits in the socket's queue rather than being lost.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// Where a DNS header has its QR bit: the top bit of the byte after the id. Set, the message is a response.
const QR_OFFSET: usize = 2;
const QR_BIT: u8 = 0x80;

/// Sends each datagram that arrives at `listen` back with its QR bit set, for ever.
///
/// `ready` is called with the address bound (port 0 lets the kernel choose) before the first datagram is awaited.
///
/// # Errors
/// If the address cannot be bound, or the socket fails later; an error of one reply alone only drops that reply.
pub fn run(listen: SocketAddr, ready: impl FnOnce(SocketAddr)) -> io::Result<()> {
    let socket = bind(listen)?;
    ready(socket.local_addr()?);
    let mut batch = Batch::new(Addressing::PerDatagram);
    loop {
        match batch.receive(socket.as_fd(), Wait::ForOne) {
            Ok(received) => echo(&mut batch, received, socket.as_fd()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn bind(listen: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(listen), Type::DGRAM, None)?;
    socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    socket.bind(&listen.into())?;
    Ok(socket.into())
}

/// Turns the datagrams received into responses and sends them back.
///
/// Responses are dropped: a forged query would otherwise have two such servers echo each other for ever.
#[inline]
fn echo(batch: &mut Batch, received: usize, socket: BorrowedFd<'_>) {
    for i in 0..received {
        let datagram = batch.datagram(i);
        let len = datagram.len;
        if len > QR_OFFSET && datagram.buffer[QR_OFFSET] & QR_BIT == 0 {
            datagram.buffer[QR_OFFSET] |= QR_BIT;
            batch.stage(i, len);
        }
    }
    let mut next = 0;
    while next < batch.staged() {
        // An error is that of the reply `next` alone, which is dropped: UDP may lose it, and the floor must not stop.
        next += batch.send_from(socket, next).unwrap_or(1).max(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    /// The floor never returns, so its thread is left to end with the test process.
    fn start() -> SocketAddr {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || run("127.0.0.1:0".parse().unwrap(), |bound| sender.send(bound).unwrap()));
        receiver.recv().unwrap()
    }

    #[test]
    fn a_query_comes_back_with_only_its_qr_bit_changed_and_a_response_does_not() {
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        client.connect(start()).unwrap();
        client.send(&[9, 9, 0x81, 0, 1]).unwrap();
        client.send(&[9]).unwrap();
        client.send(&[1, 2, 0x01, 0, 7]).unwrap();
        let mut reply = [0; 16];
        assert_eq!(client.recv(&mut reply).unwrap(), 5);
        assert_eq!(reply[..5], [1, 2, 0x81, 0, 7]);
    }

    #[test]
    fn an_address_in_use_is_an_error() {
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let error = run(taken.local_addr().unwrap(), |_| unreachable!()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    }
}
