//! Asking as clients do: over DNS, or with the C library's getaddrinfo(3).
//!
//! Runs on the main thread, one question after the other: what is wanted is who is first, not how fast.

use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use super::sorting::Subnet;
use super::{Answers, ClientAnswers};
use crate::wire::header;
use crate::wire::message::{answers, write_query};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// How long an answer is waited for.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Bytes of the largest datagram that is asked for.
const PAYLOAD_LEN: u16 = 1232;

/// How questions are asked.
#[derive(Clone, Debug)]
pub struct AskOptions {
    /// Who is asked.
    pub server: SocketAddr,
    /// The name.
    pub name: Name,
    /// A or AAAA.
    pub qtype: u16,
    /// Say for whom it is, by EDNS Client Subnet.
    pub tell_client: bool,
    /// Send from the client's own address, which has to be one of this machine.
    pub bind: bool,
}

/// Asks so many times as the client in `subnet`. Returns what came, and how many questions were not answered.
///
/// # Errors
/// Those of the socket.
pub fn over_dns(
    question: &AskOptions,
    subnet: Option<Subnet>,
    times: u64,
) -> io::Result<(ClientAnswers, u64)> {
    let any = if question.server.is_ipv4() { IpAddr::from([0; 4]) } else { IpAddr::from([0u16; 8]) };
    let source = subnet.filter(|_| question.bind).map_or(any, |subnet| subnet.address);
    let socket = UdpSocket::bind((source, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(question.server)?;
    // Who is nobody in particular is whoever this machine is to the server.
    let own = socket.local_addr()?.ip();
    let client = subnet.unwrap_or(Subnet { address: own, prefix_len: if own.is_ipv4() { 32 } else { 128 } });
    let opt = opt_record(question.tell_client.then_some(client.address));
    let (mut answers, mut lost) = (Answers::default(), 0);
    for _ in 0..times {
        match ask(&socket, question, &opt)? {
            Some(found) if !found.is_empty() => *answers.entry(found).or_default() += 1,
            Some(_) | None => lost += 1,
        }
    }
    Ok((ClientAnswers { subnet: client, answers }, lost))
}

/// One question; `None` if there is no answer in time.
fn ask(socket: &UdpSocket, question: &AskOptions, opt: &[u8]) -> io::Result<Option<Vec<IpAddr>>> {
    let mut query = write_query(fastrand::u16(..), &question.name, question.qtype);
    query[header::ARCOUNT + 1] = 1;
    query.extend_from_slice(opt);
    socket.send(&query)?;
    let mut buffer = [0; PAYLOAD_LEN as usize];
    loop {
        let len = match socket.recv(&mut buffer) {
            Ok(len) => len,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let answer = &buffer[..len];
        if answer.get(..2) == query.get(..2) {
            let of_type = answers(answer).filter(|record| record.rtype == question.qtype);
            return Ok(Some(of_type.filter_map(|record| address(record.rdata)).collect()));
        }
    }
}

fn address(rdata: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(rdata).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(rdata).map(IpAddr::from)).ok()
}

/// An OPT record that takes larger answers and, if that is to be told, says for whom the question is (RFC 7871 §6).
fn opt_record(client: Option<IpAddr>) -> Vec<u8> {
    let option = client.map(|client| {
        let (family, octets) = match client {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (2, v6.octets().to_vec()),
        };
        let bits = if family == 1 { 32 } else { 128 };
        let len = if family == 1 { 8 } else { 20 };
        [&[0, 8, 0, len, 0, family, bits, 0][..], &octets].concat()
    });
    let data = option.unwrap_or_default();
    let len = u16::try_from(data.len()).unwrap_or_default();
    [&[0][..], &rtype::OPT.to_be_bytes(), &PAYLOAD_LEN.to_be_bytes(), &[0; 4], &len.to_be_bytes(), &data]
        .concat()
}

/// Asks the C library so many times, which sorts by the addresses of this machine.
#[must_use]
pub fn with_getaddrinfo(name: &str, times: u64) -> (ClientAnswers, u64) {
    let (mut answers, mut lost) = (Answers::default(), 0);
    for _ in 0..times {
        match (name, 0).to_socket_addrs() {
            Ok(found) => *answers.entry(found.map(|address| address.ip()).collect()).or_default() += 1,
            Err(_) => lost += 1,
        }
    }
    let nowhere = Subnet { address: [0; 4].into(), prefix_len: 32 };
    (ClientAnswers { subnet: nowhere, answers }, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_client_is_told_as_rfc_7871_has_it() {
        let v4 = opt_record(Some([192, 0, 2, 1].into()));
        assert_eq!(v4, b"\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x08\0\x08\0\x01\x20\0\xc0\0\x02\x01");
        assert_eq!(opt_record(None), b"\0\0\x29\x04\xd0\0\0\0\0\0\0");
        assert_eq!(opt_record(Some("2001:db8::1".parse().unwrap())).len(), 11 + 4 + 20);
    }
}
