//! Asking over UDP and over TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Sends a datagram and returns the one that answers it; `None` when none comes in time.
pub(crate) fn udp(address: SocketAddr, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let socket = UdpSocket::bind(if address.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
    socket.connect(address).unwrap();
    socket.set_read_timeout(Some(patience)).unwrap();
    socket.send(query).ok()?;
    let mut answer = vec![0; 65_535];
    let len = socket.recv(&mut answer).ok()?;
    answer.truncate(len);
    Some(answer)
}

/// Asks over a connection of its own; `None` when it is closed instead, or nothing comes in time.
pub(crate) fn tcp(address: SocketAddr, query: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(patience)).unwrap();
    stream.write_all(&frame(query)).ok()?;
    receive(&mut stream)
}

/// A message behind its length (RFC 1035 §4.2.2).
pub(crate) fn frame(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes(), message].concat()
}

/// Reads one message; `None` when the stream has ended.
pub(crate) fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut prefix = [0; 2];
    stream.read_exact(&mut prefix).ok()?;
    let mut message = vec![0; u16::from_be_bytes(prefix).into()];
    stream.read_exact(&mut message).expect("the message that was announced");
    Some(message)
}
