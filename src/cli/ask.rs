//! Asks one question and reads the answer, for people: in the demo, and for `redbreast lookup`.
//!
//! Runs on the main thread, over a socket of its own, as any other client would.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use domain::base::Message;
use serde::Serialize;

use crate::api::rdata_text::{Shown, answer_and_authority};
use crate::wire::message::write_query;
use crate::wire::name::Name;

/// How long to wait for the answer: it comes from memory.
const TIMEOUT: Duration = Duration::from_secs(5);

/// What came of a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct QueryResult {
    /// The response code, like `NOERROR`.
    pub(super) rcode: String,
    /// The records of the answer, in their order.
    pub(super) records: Vec<Shown>,
}

impl QueryResult {
    /// The data of its records, or why there are none.
    pub(super) fn told(&self) -> String {
        if self.records.is_empty() {
            return self.rcode.clone();
        }
        self.records.iter().map(|record| record.data.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// Asks over UDP, and over TCP if the answer is too long for that.
///
/// # Errors
/// Those of the sockets; `InvalidData` for an answer that cannot be read.
pub(super) fn ask(server: SocketAddr, name: &Name, qtype: u16) -> io::Result<QueryResult> {
    let query = write_query(fastrand::u16(..), name, qtype);
    let mut answer = over_udp(server, &query)?;
    if read(&answer)?.header().tc() {
        answer = over_tcp(server, &query)?;
    }
    let [records, _] = answer_and_authority(&answer).map_err(unreadable)?;
    Ok(QueryResult { rcode: read(&answer)?.header().rcode().to_string(), records })
}

fn over_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(server)?;
    socket.send(query)?;
    let mut answer = vec![0; usize::from(u16::MAX)];
    loop {
        let len = socket.recv(&mut answer)?;
        if len >= 2 && answer[..2] == query[..2] {
            answer.truncate(len);
            return Ok(answer);
        }
    }
}

fn over_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&server, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let len = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&len.to_be_bytes(), query].concat())?;
    let mut len = [0; 2];
    stream.read_exact(&mut len)?;
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer)?;
    Ok(answer)
}

fn unreadable(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the answer cannot be read: {error}"))
}

fn read(bytes: &[u8]) -> io::Result<Message<&[u8]>> {
    Message::from_octets(bytes).map_err(unreadable)
}
