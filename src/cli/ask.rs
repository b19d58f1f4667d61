//! Asks one question and shows the answer, for the people who watch the demo.
//!
//! Runs on the main thread, over a socket of its own, as any other client would.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use crate::wire::header::{self, rcode, u16_at};
use crate::wire::message::write_query;
use crate::wire::name::Name;
use crate::wire::query::skip_name;
use crate::wire::record::rtype;

/// How long to wait for the answer: it comes from the same machine.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Returns the data of each record in the answer, or the response code if there is none.
///
/// # Errors
/// Those of the socket; `InvalidData` for an answer that cannot be read.
pub(super) fn ask(server: SocketAddr, name: &Name, qtype: u16) -> io::Result<Vec<String>> {
    let socket = UdpSocket::bind(if server.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.connect(server)?;
    let query = write_query(fastrand::u16(..), name, qtype);
    socket.send(&query)?;
    let mut answer = [0; 512];
    loop {
        let len = socket.recv(&mut answer)?;
        if answer[..2] == query[..2] {
            let shown = show(&answer[..len], query.len());
            return shown
                .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "the answer cannot be read"));
        }
    }
}

/// The answer's data as text; its answer section begins at `at`.
fn show(answer: &[u8], mut at: usize) -> Option<Vec<String>> {
    let count = u16_at(answer, header::ANCOUNT);
    if count == 0 {
        return Some(vec![rcode::mnemonic(*answer.get(3)?).into()]);
    }
    let mut shown = Vec::new();
    for _ in 0..count {
        let fixed = skip_name(answer, at)?;
        let data = fixed + 10;
        at = data + usize::from(u16_at(answer, data - 2));
        shown.push(show_data(u16_at(answer, fixed), answer.get(data..at)?));
    }
    Some(shown)
}

fn show_data(rtype: u16, data: &[u8]) -> String {
    let v4 = || <[u8; 4]>::try_from(data).map(|octets| IpAddr::from(octets).to_string()).ok();
    let v6 = || <[u8; 16]>::try_from(data).map(|octets| IpAddr::from(octets).to_string()).ok();
    let name = || Name::from_wire(data).map(|name| name.to_string());
    let known = match rtype {
        rtype::A => v4(),
        rtype::AAAA => v6(),
        rtype::PTR => name(),
        _ => None,
    };
    known.unwrap_or_else(|| format!("TYPE{rtype}, {} bytes", data.len()))
}
