//! DNS cookies of a client (RFC 7873): asked for by the main thread before the run, put onto each query by a sending
//! thread.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use crate::wire::edns::CLIENT_COOKIE_LEN;
use crate::wire::message::records;
use crate::wire::record::rtype;

/// The number of the option.
const COOKIE: u16 = 10;

/// Longest server cookie (RFC 7873 §4).
const MAX_SERVER_COOKIE_LEN: usize = 32;

/// How long an answer to the first query is waited for, and how often it is asked again.
const PATIENCE: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 4;

/// What one client puts onto its queries besides what is in them: nothing, or its cookies.
#[derive(Clone, Debug, Default)]
pub(crate) struct CookieJar {
    /// The whole option; empty without cookies.
    option: Vec<u8>,
    /// Bytes of other options in each query's OPT record, which is its last.
    options_len: usize,
}

impl CookieJar {
    /// Draws a client cookie and asks the server of the connected `socket` for its own, with `query`. A server without
    /// cookies, or one that does not answer, gets the client's alone.
    pub(crate) fn fill(socket: &UdpSocket, query: &[u8], options_len: usize) -> io::Result<Self> {
        let client: [u8; CLIENT_COOKIE_LEN] = fastrand::u64(..).to_be_bytes();
        let mut jar = Self { option: option(&client, &[]), options_len };
        let mut packet = [0; 1_600];
        let len = jar.write(query, 0, &mut packet);
        socket.set_nonblocking(false)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let mut answer = [0; 4_096];
        for _ in 0..ATTEMPTS {
            // That nobody listens will be told by the run.
            if socket.send(&packet[..len]).is_err() {
                break;
            }
            let Ok(received) = socket.recv(&mut answer) else { continue };
            if let Some(server) = server_cookie(&answer[..received], client) {
                jar.option = option(&client, server);
            }
            break;
        }
        socket.set_read_timeout(None)?;
        socket.set_nonblocking(true)?;
        Ok(jar)
    }

    /// Writes `query` to `buffer` with its `id`, and the cookies in its OPT record. Returns its length.
    #[inline]
    pub(crate) fn write(&self, query: &[u8], id: u16, buffer: &mut [u8]) -> usize {
        buffer[..query.len()].copy_from_slice(query);
        buffer[..2].copy_from_slice(&id.to_be_bytes());
        if self.option.is_empty() {
            return query.len();
        }
        let len = query.len() + self.option.len();
        buffer[query.len()..len].copy_from_slice(&self.option);
        let rdlen_at = query.len() - self.options_len - 2;
        let rdlen = u16::try_from(self.options_len + self.option.len()).unwrap_or(u16::MAX);
        buffer[rdlen_at..rdlen_at + 2].copy_from_slice(&rdlen.to_be_bytes());
        len
    }
}

fn option(client: &[u8; CLIENT_COOKIE_LEN], server: &[u8]) -> Vec<u8> {
    let len = u16::try_from(client.len() + server.len()).unwrap_or(u16::MAX);
    [&COOKIE.to_be_bytes()[..], &len.to_be_bytes(), client, server].concat()
}

/// The server's cookie in an answer to a query with the cookie `client`.
fn server_cookie(answer: &[u8], client: [u8; CLIENT_COOKIE_LEN]) -> Option<&[u8]> {
    let mut options = records(answer).find(|record| record.rtype == rtype::OPT)?.rdata;
    while let [code_high, code_low, len_high, len_low, rest @ ..] = options {
        let len = usize::from(u16::from_be_bytes([*len_high, *len_low]));
        let (value, after) = rest.split_at_checked(len)?;
        if u16::from_be_bytes([*code_high, *code_low]) == COOKIE {
            let server = value.strip_prefix(&client)?;
            return (8..=MAX_SERVER_COOKIE_LEN).contains(&server.len()).then_some(server);
        }
        options = after;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &[u8] =
        b"\0\0\x01\0\0\x01\0\0\0\0\0\x01\x01a\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x03\0\0";

    #[test]
    fn cookies_go_behind_the_other_options() {
        let jar = CookieJar { option: option(&[7; 8], &[9; 16]), options_len: 4 };
        let mut buffer = [0; 512];
        let len = jar.write(QUERY, 0x1234, &mut buffer);
        assert_eq!(len, QUERY.len() + 28);
        assert_eq!(buffer[..2], [0x12, 0x34]);
        let opt = records(&buffer[..len]).next().unwrap();
        assert_eq!((opt.rtype, opt.rdata.len()), (rtype::OPT, 32));
        assert_eq!(server_cookie(&buffer[..len], [7; 8]), Some(&[9; 16][..]));
        assert_eq!(server_cookie(&buffer[..len], [8; 8]), None);
        let plain = CookieJar::default().write(QUERY, 0, &mut buffer);
        assert_eq!(buffer[..plain], *QUERY);
    }
}
