//! What a server says of itself: the EDNS options of its responses, and its answers in class CHAOS.
//!
//! Made by the main thread, read by the workers.

use super::types::Origin;
use crate::limits::TCP_IDLE_TIMEOUT;
use crate::wire::cookie::Secrets;
use crate::wire::edns::{Cookie, Edns, MAX_NSID_LEN, Options};
use crate::wire::record::{self, CLASS_CHAOS, QUESTION_POINTER, rtype};
use crate::wire::response::Transport;

/// Names under which servers tell their version (of old) and their name (RFC 4892), as a folded query has them.
const VERSION_NAMES: [&[u8]; 2] = [b"\x07version\x04bind\0", b"\x07version\x06server\0"];
const NODE_NAMES: [&[u8]; 2] = [b"\x02id\x06server\0", b"\x08hostname\x04bind\0"];

/// Who this server is.
pub struct Identity {
    /// `None` if it does not tell.
    names: Option<Names>,
}

struct Names {
    node_name: Box<[u8]>,
    /// TXT records in class CHAOS, ready for an answer.
    version_record: Box<[u8]>,
    node_record: Box<[u8]>,
}

impl Identity {
    /// A server that tells `node_name`, unless that is `None`. Of a name of more than 128 bytes it tells the front.
    #[must_use]
    pub fn new(node_name: Option<&str>) -> Self {
        let names = node_name.map(|name| {
            let name = &name.as_bytes()[..name.len().min(MAX_NSID_LEN)];
            let version = concat!("redbreast ", env!("CARGO_PKG_VERSION"));
            Names {
                node_name: name.into(),
                version_record: chaos_text(version.as_bytes()),
                node_record: chaos_text(name),
            }
        });
        Self { names }
    }

    /// The TXT record in class CHAOS under `name`, if there is one.
    #[must_use]
    pub fn chaos_record(&self, name: &[u8]) -> Option<&[u8]> {
        let names = self.names.as_ref()?;
        if VERSION_NAMES.contains(&name) {
            Some(&names.version_record)
        } else if NODE_NAMES.contains(&name) {
            Some(&names.node_record)
        } else {
            None
        }
    }

    /// The EDNS options that a response to this query has, with a cookie made by `secrets`, and what the cookie that
    /// the client has shown is worth.
    #[must_use]
    pub fn options(
        &self,
        edns: &Edns,
        secrets: &Secrets,
        origin: Origin,
        now_s: u32,
    ) -> (Options<'_>, ShownCookie) {
        let Origin { transport, client, .. } = origin;
        let keepalive = edns.wants_keepalive && transport == Transport::Tcp;
        let mut options = Options {
            cookie: None,
            nsid: self.names.as_ref().filter(|_| edns.wants_nsid).map(|names| &*names.node_name),
            #[allow(clippy::cast_possible_truncation)] // some seconds
            keepalive_100ms: keepalive.then_some((TCP_IDLE_TIMEOUT.as_millis() / 100) as u16),
            client_subnet: None,
        };
        let Some(Cookie { client: part, server, foreign }) = edns.cookie else {
            return (options, ShownCookie::None);
        };
        let renewed = server.and_then(|server| secrets.renew(part, server, client, now_s));
        options.cookie = Some((part, renewed.unwrap_or_else(|| secrets.make(part, client, now_s))));
        let shown = match renewed {
            Some(_) => ShownCookie::Good,
            None if server.is_some() || foreign => ShownCookie::Bad,
            None => ShownCookie::None,
        };
        (options, shown)
    }
}

/// What the server's part of a query's cookie is worth (RFC 7873 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShownCookie {
    /// There is none.
    None,
    /// It is not one that a server with our secrets gave to this client lately.
    Bad,
    /// The client's address is its own.
    Good,
}

/// A TXT record of one string.
// cold: made once, at the start
fn chaos_text(text: &[u8]) -> Box<[u8]> {
    let len = u8::try_from(text.len()).expect("bounded by the caller");
    let mut record = Vec::new();
    record::push_record(&mut record, rtype::TXT, 0, &[&[len], text].concat());
    let class = QUESTION_POINTER.len() + 2;
    record[class..class + 2].copy_from_slice(&CLASS_CHAOS.to_be_bytes());
    record.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_tells_its_name_and_version_or_nothing() {
        let identity = Identity::new(Some("node-1"));
        let record = identity.chaos_record(b"\x02id\x06server\0").unwrap();
        assert_eq!(record, b"\xc0\x0c\0\x10\0\x03\0\0\0\0\0\x07\x06node-1");
        assert!(identity.chaos_record(b"\x07version\x04bind\0").is_some());
        assert!(identity.chaos_record(b"\x07version\x04burn\0").is_none());
        let silent = Identity::new(None);
        assert!(silent.chaos_record(b"\x02id\x06server\0").is_none());
    }

    const SECRETS: Secrets = Secrets { current: [7; 16], previous: None };

    fn origin(transport: Transport) -> Origin {
        Origin { transport, client: [10, 0, 0, 1].into(), deferred: false }
    }

    #[test]
    fn options_answer_what_was_asked_and_keepalive_only_over_tcp() {
        let identity = Identity::new(Some("node-1"));
        let asked = Edns { wants_keepalive: true, wants_nsid: true, ..Edns::default() };
        let (options, _) = identity.options(&asked, &SECRETS, origin(Transport::Tcp), 1000);
        assert_eq!((options.keepalive_100ms, options.nsid), (Some(100), Some(&b"node-1"[..])));
        let options = |edns| identity.options(&edns, &SECRETS, origin(Transport::Udp), 1000).0;
        assert_eq!(options(asked).keepalive_100ms, None);
        assert!(options(Edns::default()).cookie.is_none());
    }

    #[test]
    fn a_cookie_that_is_good_comes_back_and_another_is_replaced() {
        let ask = |server, foreign| {
            let cookie = Some(Cookie { client: *b"a client", server, foreign });
            let edns = Edns { cookie, ..Edns::default() };
            let identity = Identity::new(None);
            let (options, shown) = identity.options(&edns, &SECRETS, origin(Transport::Udp), 1000);
            (options.cookie.unwrap(), shown)
        };
        let ((part, first), shown) = ask(None, false);
        assert_eq!((part, shown), (*b"a client", ShownCookie::None));
        assert_eq!(ask(Some(first), false), ((part, first), ShownCookie::Good));
        // Made anew at the same time, so the same.
        assert_eq!(ask(Some([0; 16]), false), ((part, first), ShownCookie::Bad));
        assert_eq!(ask(None, true), ((part, first), ShownCookie::Bad));
    }
}
