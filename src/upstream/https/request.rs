//! One question over HTTP/2: what is asked for, what an answer has to look like, and what comes of it.
//!
//! Runs on the worker that asks.

use std::net::SocketAddr;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use h2::client::ResponseFuture;
use http::header::{ACCEPT, AGE, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::uri::{Scheme, Uri};
use http::{Method, Request as HttpRequest, Response, StatusCode};
use rustls::pki_types::ServerName;

use crate::resolver::upstream::HTTPS_PORT;
use crate::sys::tls_trust::ServerIdentity;
use crate::wire::header::{self, rcode};
use crate::wire::message::records;
use crate::wire::record::rtype::OPT;

/// What questions and answers are (RFC 8484 §6).
const DNS_MESSAGE: &str = "application/dns-message";

/// Bytes of what a server says that are shown at most.
const MAX_SHOWN_LEN: usize = 64;

/// What all requests to one upstream have in common.
pub(crate) struct RequestTarget {
    uri: Uri,
    /// With the length of the last query: since queries are padded, most have the same.
    headers: HeaderMap,
    len: usize,
}

impl RequestTarget {
    /// Requests to `path` on the server at `address` that has to be this.
    ///
    /// # Errors
    /// If name or path cannot be in a URI.
    pub(crate) fn new(identity: &ServerIdentity, address: SocketAddr, path: &str) -> Result<Self, String> {
        let host = match &identity.name {
            ServerName::DnsName(name) => name.as_ref().to_owned(),
            _ if address.is_ipv6() => format!("[{}]", address.ip()),
            _ => address.ip().to_string(),
        };
        let authority = match address.port() {
            HTTPS_PORT => host,
            port => format!("{host}:{port}"),
        };
        let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path);
        let message = HeaderValue::from_static(DNS_MESSAGE);
        let headers = HeaderMap::from_iter([(ACCEPT, message.clone()), (CONTENT_TYPE, message)]);
        Ok(Self { uri: uri.build().map_err(|error| error.to_string())?, headers, len: 0 })
    }

    /// A request that carries `len` bytes.
    pub(super) fn request(&mut self, len: usize) -> HttpRequest<()> {
        if self.len != len {
            self.headers.insert(CONTENT_LENGTH, HeaderValue::from(len));
            self.len = len;
        }
        let mut request = HttpRequest::new(());
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

/// A question that was sent.
pub(super) struct HttpsRequest {
    id: u16,
    state: RequestState,
    age_s: u32,
    /// What has come of an answer that has not come whole.
    body: Vec<u8>,
}

enum RequestState {
    Headers(ResponseFuture),
    Body(RecvStream),
}

/// What has come of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum RequestOutcome {
    /// An answer of so many bytes, at the front of the room for it.
    Answer(usize),
    /// No answer of this server's, and why.
    Failed(String),
    /// None, since the connection ends: it may be asked over another.
    Unprocessed,
}

impl HttpsRequest {
    /// The one of this id, which the query had before it was sent.
    pub(super) fn new(id: u16, response: ResponseFuture) -> Self {
        Self { id, state: RequestState::Headers(response), age_s: 0, body: Vec::new() }
    }

    /// The answer to give to who has asked where there is none: the server could not answer.
    pub(super) fn failure(&self) -> [u8; header::LEN] {
        let [high, low] = self.id.to_be_bytes();
        [high, low, header::QR | header::RD, rcode::SERVFAIL, 0, 0, 0, 0, 0, 0, 0, 0]
    }

    /// What has come of it, if anything has. An answer is in `room` then, with the id of the query, and as old as it
    /// is.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<RequestOutcome> {
        loop {
            let done = match &mut self.state {
                RequestState::Headers(response) => match ready!(std::pin::pin!(response).as_mut().poll(cx)) {
                    Err(error) => return Poll::Ready(failed(&error)),
                    Ok(response) => check(&response).map(|age_s| {
                        self.age_s = age_s;
                        self.state = RequestState::Body(response.into_body());
                    }),
                },
                RequestState::Body(body) => match ready!(body.poll_data(cx)) {
                    None => return Poll::Ready(self.finish(&Bytes::new(), room)),
                    Some(Err(error)) => return Poll::Ready(failed(&error)),
                    Some(Ok(part)) if body.is_end_stream() => return Poll::Ready(self.finish(&part, room)),
                    Some(Ok(part)) if self.body.len() + part.len() > usize::from(u16::MAX) => Err(too_long()),
                    Some(Ok(part)) => {
                        self.body.extend_from_slice(&part);
                        Ok(())
                    }
                },
            };
            if let Err(why) = done {
                return Poll::Ready(RequestOutcome::Failed(why));
            }
        }
    }

    /// The whole answer: what has come before, and the last `part`.
    fn finish(&self, part: &Bytes, room: &mut [u8]) -> RequestOutcome {
        let len = self.body.len() + part.len();
        let Some(message) = room.get_mut(..len).filter(|_| len <= usize::from(u16::MAX)) else {
            return RequestOutcome::Failed(too_long());
        };
        let (front, back) = message.split_at_mut(self.body.len());
        front.copy_from_slice(&self.body);
        back.copy_from_slice(part);
        if len < header::LEN {
            return RequestOutcome::Failed(format!(
                "an HTTP answer of {len} bytes, too short for a DNS message"
            ));
        }
        message[..2].copy_from_slice(&self.id.to_be_bytes());
        if self.age_s > 0 {
            grow_older(message, self.age_s);
        }
        RequestOutcome::Answer(len)
    }
}

fn too_long() -> String {
    format!("an HTTP answer longer than a DNS message of {} bytes", u16::MAX)
}

/// Whether a response brings an answer; if so, for how many seconds it has been in a cache (RFC 8484 §5.1).
fn check(response: &Response<RecvStream>) -> Result<u32, String> {
    if response.status() != StatusCode::OK {
        // Where a redirect leads to is nobody who has been chosen to be asked.
        return Err(format!("HTTP status {}", response.status().as_u16()));
    }
    let text = |name| response.headers().get(name).map(HeaderValue::as_bytes);
    let kind = text(CONTENT_TYPE).unwrap_or_default();
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    if !essence.eq_ignore_ascii_case(DNS_MESSAGE.as_bytes()) {
        let shown = essence[..essence.len().min(MAX_SHOWN_LEN)].escape_ascii();
        return Err(format!("HTTP content of the type `{shown}`, not {DNS_MESSAGE}"));
    }
    let number = |name| text(name).and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
    if number(CONTENT_LENGTH).is_some_and(|len| len > u64::from(u16::MAX)) {
        return Err(too_long());
    }
    Ok(number(AGE).map_or(0, |age_s| u32::try_from(age_s).unwrap_or(u32::MAX)))
}

fn failed(error: &h2::Error) -> RequestOutcome {
    let is_of_all = error.is_go_away() || error.is_io();
    if is_of_all { RequestOutcome::Unprocessed } else { RequestOutcome::Failed(format!("HTTP/2: {error}")) }
}

/// Makes the TTLs in `message` what they are after so many seconds. What is no DNS message stays as it is, and is
/// refused later.
fn grow_older(message: &mut [u8], age_s: u32) {
    // The flags of EDNS are where others have the TTL.
    let left = |record: crate::wire::message::RecordView<'_>| {
        (record.rtype != OPT).then(|| (record.rdata_at - 6, record.ttl_s.saturating_sub(age_s)))
    };
    let left: Vec<_> = records(message).filter_map(left).collect();
    for (at, ttl_s) in left {
        if let Some(ttl) = message.get_mut(at..at + 4) {
            ttl.copy_from_slice(&ttl_s.to_be_bytes());
        }
    }
}
