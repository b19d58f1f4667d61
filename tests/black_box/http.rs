//! HTTP as its users' tools speak it: requests byte by byte, so that wrong ones can be sent, too.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::harness::PATIENCE;

/// What was answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The detail of a problem, which has to be one by its form (RFC 9457).
    pub(crate) fn problem(&self) -> String {
        assert!(self.head.contains("application/problem+json"), "{self:?}");
        assert_eq!(self.json()["status"], self.status, "{self:?}");
        self.json()["detail"].as_str().expect("a detail").to_owned()
    }
}

/// Sends these bytes and reads until the other side has said all.
pub(crate) fn exchange(at: &str, request: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(at).expect("the node listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("not zero");
    // It may answer, and hang up, before it has read all.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let text = String::from_utf8_lossy(&answer);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    let chunked = head.to_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { body.split("\r\n").skip(1).step_by(2).collect() } else { body.to_owned() };
    Answer { status, head: head.to_owned(), body }
}

/// Sends a request with a body.
pub(crate) fn send(at: &str, method: &str, path: &str, fields: &str, body: &str) -> Answer {
    let len = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\ncontent-length: {len}\r\n{fields}\r\n{body}"
    );
    exchange(at, request.as_bytes())
}

/// Sends JSON.
pub(crate) fn json(at: &str, method: &str, path: &str, body: &Value) -> Answer {
    send(at, method, path, "content-type: application/json\r\n", &body.to_string())
}

/// Asks for something.
pub(crate) fn get(at: &str, path: &str) -> Answer {
    send(at, "GET", path, "", "")
}
