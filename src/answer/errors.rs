//! What is answered without a lookup: what is no query, is over the rate limit, or asks for a cookie or the server itself.
//!
//! Runs on the workers, called by `answer` alone.

use std::net::IpAddr;

use crate::answer::identity::ShownCookie;
use crate::answer::metrics::Event;
use crate::answer::rate_limit::{Allowance, RateLimiter};
use crate::answer::types::{Origin, Service, Verdict, reply};
use crate::wire::edns::{ExtendedError, Options};
use crate::wire::header::{self, rcode};
use crate::wire::name::{NameFault, QueryName};
use crate::wire::query::{Fault, Query};
use crate::wire::record::{CLASS_CHAOS, rtype};
use crate::wire::response::{Response, Transport, refusal};

impl Service {
    /// Whether this message, of an operation other than a query, is an update for the thread that makes them.
    #[cold]
    fn takes_update(&self, message: &[u8], client: IpAddr) -> bool {
        let opcode = message.get(2).map(|flags| (flags & header::OPCODE_MASK) >> 3);
        self.hands_over && opcode == Some(header::OPCODE_UPDATE) && self.access.allows(client)
    }
}

/// Sends a client whose network is over the rate limit to TCP, in as few bytes as can be, or nothing.
#[cold]
pub(crate) fn over_limit(
    allowance: Allowance,
    buffer: &mut [u8],
    query: &Query,
    udp_len: u16,
    options: Options<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    if allowance == Allowance::Drop {
        count(Event::RateDropped);
        return Verdict::Drop;
    }
    count(Event::RateTruncated);
    let options = Options { nsid: None, ..options };
    let mut response = Response::new(buffer, query, Transport::Udp, udp_len, options);
    response.set_truncated();
    reply(response, rcode::NOERROR, false)
}

/// Says that of EDNS only version 0 is known (RFC 6891 §6.1.3).
#[cold]
pub(crate) fn bad_version(mut response: Response<'_>, mut count: impl FnMut(Event)) -> Verdict {
    count(Event::BadVersion);
    response.set_extended();
    reply(response, rcode::BADVERS_LOW, false)
}

/// Refuses a client that may not ask.
#[cold]
pub(crate) fn prohibited(mut response: Response<'_>, mut count: impl FnMut(Event)) -> Verdict {
    count(Event::Prohibited);
    response.explain(ExtendedError::Prohibited);
    reply(response, rcode::REFUSED, false)
}

/// Answers a query for a cookie alone (RFC 7873 §5.4); the cookie itself is among the response's options.
#[cold]
pub(crate) fn cookie_alone(
    shown: ShownCookie,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    count(Event::CookieAlone);
    if shown == ShownCookie::Bad {
        response.set_extended();
        return reply(response, rcode::BADCOOKIE_LOW, false);
    }
    reply(response, rcode::NOERROR, false)
}

/// Answers in class CHAOS what a server says of itself, and nothing in any other class; nobody may have a whole zone.
#[cold]
pub(crate) fn no_lookup(
    service: &Service,
    name: &QueryName,
    query: &Query,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    let asks_text = query.qclass == CLASS_CHAOS && matches!(query.qtype, rtype::TXT | rtype::ANY);
    let record = service.identity.chaos_record(name.as_wire()).filter(|_| asks_text);
    if let Some(record) = record.filter(|record| record.len() <= response.room()) {
        count(Event::Positive);
        response.answer_with(1, record.len(), |out| out.copy_from_slice(record));
        return reply(response, rcode::NOERROR, true);
    }
    count(Event::Refused);
    response.explain(ExtendedError::NotSupported);
    reply(response, rcode::REFUSED, false)
}

/// Answers the first `len` bytes of `buffer`, which are no query, by what can be said to them if the `limiter` allows that,
/// or not at all.
#[cold]
pub(crate) fn reject(
    fault: Fault,
    service: &Service,
    limiter: &mut RateLimiter,
    origin: Origin,
    buffer: &mut [u8],
    len: usize,
    mut count: impl FnMut(Event),
) -> Verdict {
    if fault == Fault::Opcode && service.takes_update(buffer, origin.client) {
        return Verdict::HandOver;
    }
    let (event, code) = match fault {
        Fault::Short => (Event::Short, None),
        Fault::Response => (Event::Response, None),
        Fault::Opcode => (Event::Opcode, Some(rcode::NOTIMP)),
        Fault::QuestionCount => (Event::QuestionCount, Some(rcode::FORMERR)),
        Fault::Name(NameFault::BadLabel) => (Event::BadLabel, Some(rcode::FORMERR)),
        Fault::Name(NameFault::TooLong) => (Event::NameTooLong, Some(rcode::FORMERR)),
        Fault::Name(NameFault::Truncated) | Fault::QuestionTruncated => {
            (Event::Truncated, Some(rcode::FORMERR))
        }
        Fault::Records => (Event::Records, Some(rcode::FORMERR)),
    };
    // What is never answered takes nothing from what its sender's network may have: it may be forged.
    if code.is_some()
        && origin.transport == Transport::Udp
        && limiter.take(origin.client, origin.now_s) != Allowance::Answer
    {
        count(Event::RateDropped);
        return Verdict::Drop;
    }
    count(event);
    match code {
        Some(code) => Verdict::Reply { len: refusal(buffer, len, code, service.udp_len) },
        None => Verdict::Drop,
    }
}
