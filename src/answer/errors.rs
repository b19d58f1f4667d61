//! Answers that are errors, and the few others that need no lookup: what is no query, is over the rate limit, or asks
//! for a cookie alone.
//!
//! Runs on the workers. [`write`] is the one place that writes an error; a new one is a variant of [`ErrorAnswer`] with
//! its line in [`ErrorAnswer::parts`].

use super::identity::ShownCookie;
use super::metrics::Event;
use super::rate_limit::{RateDecision, RateLimiter};
use super::service::Service;
use super::types::{Deferred, Message, Origin, Turn, Verdict, reply};
use crate::resolver::in_flight::Failure;
use crate::wire::edns::ExtendedError;
use crate::wire::header::{self, rcode};
use crate::wire::name::NameFault;
use crate::wire::query::Fault;
use crate::wire::response::{Response, Transport, refusal};

/// Why a well-formed query is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ErrorAnswer {
    /// Of EDNS only version 0 is known (RFC 6891 §6.1.3).
    BadVersion,
    /// The client's cookie is none of ours (RFC 7873 §5.4).
    BadCookie,
    /// The client may not ask.
    Prohibited,
    /// The name is in none of our zones, and nobody is asked for it.
    NotAuthoritative,
    /// We do not do what was asked for.
    NotSupported,
    /// The question has passed this server before.
    Loop,
    /// Upstreams could not answer.
    Failed(Failure),
}

impl ErrorAnswer {
    /// What is counted, the response code with its upper bits (RFC 6891 §6.1.3), and why (RFC 8914).
    fn parts(self) -> (Event, u16, Option<ExtendedError>) {
        use ExtendedError as Why;
        const REFUSED: u16 = rcode::REFUSED as u16;
        match self {
            Self::BadVersion => (Event::BadVersion, rcode::BADVERS, None),
            Self::BadCookie => (Event::CookieAlone, rcode::BADCOOKIE, None),
            Self::Prohibited => (Event::Prohibited, REFUSED, Some(Why::Prohibited)),
            Self::NotAuthoritative => (Event::Refused, REFUSED, Some(Why::NotAuthoritative)),
            Self::NotSupported => (Event::Refused, REFUSED, Some(Why::NotSupported)),
            Self::Loop => (Event::UpstreamLoop, REFUSED, Some(Why::NoReachableAuthority)),
            Self::Failed(failure) => {
                let is_stop = failure == Failure::Stopping;
                let event = if is_stop { Event::Stopping } else { Event::UpstreamFailed };
                let why = match failure {
                    Failure::Answered(_, Some(code)) => Why::OfUpstream(code),
                    Failure::Answered(..) | Failure::NobodyThere | Failure::NoAnswer => {
                        Why::NoReachableAuthority
                    }
                    Failure::Cached => Why::CachedError,
                    Failure::Overload | Failure::Stopping => Why::NotReady,
                };
                (event, rcode::SERVFAIL.into(), Some(why))
            }
        }
    }
}

/// Writes an error.
#[cold]
pub(crate) fn write(error: ErrorAnswer, response: &mut Response<'_>, turn: &Turn<'_>) -> Verdict {
    let (event, code, why) = error.parts();
    turn.counters.count(event);
    if let Some(why) = why {
        response.explain(why);
    }
    Verdict::Reply { len: response.finish_with(code) }
}

/// Sends a client whose network is over the rate limit to TCP, in as few bytes as can be, or nothing.
#[cold]
pub(crate) fn over_limit(decision: RateDecision, response: &mut Response<'_>, turn: &Turn<'_>) -> Verdict {
    if decision == RateDecision::Drop {
        turn.counters.count(Event::RateDropped);
        return Verdict::Drop;
    }
    turn.counters.count(Event::RateTruncated);
    response.set_truncated();
    reply(response, rcode::NOERROR, false)
}

/// Answers a query for a cookie alone (RFC 7873 §5.4); the cookie itself is among the response's options.
#[cold]
pub(crate) fn cookie_alone(shown: ShownCookie, response: &mut Response<'_>, turn: &Turn<'_>) -> Verdict {
    if shown == ShownCookie::Bad {
        return write(ErrorAnswer::BadCookie, response, turn);
    }
    turn.counters.count(Event::CookieAlone);
    reply(response, rcode::NOERROR, false)
}

/// Answers a message that is no query by what can be said to it if the limiter allows that, or not at all.
#[cold]
pub(crate) fn reject(
    fault: Fault,
    (service, limiter): (&Service, &mut RateLimiter),
    turn: &Turn<'_>,
    (message, origin): (Message<'_>, Origin),
) -> Verdict {
    if fault == Fault::Opcode && is_update(service, &message, origin) {
        return Verdict::Defer(Deferred::Offload);
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
        && limiter.take(origin.client, turn.now_s) != RateDecision::Answer
    {
        turn.counters.count(Event::RateDropped);
        return Verdict::Drop;
    }
    turn.counters.count(event);
    match code {
        Some(code) => Verdict::Reply { len: refusal(message.buffer, message.len, code, service.udp_len) },
        None => Verdict::Drop,
    }
}

/// Whether this message, of an operation other than a query, is an update for the zone thread.
#[cold]
fn is_update(service: &Service, message: &Message<'_>, origin: Origin) -> bool {
    let opcode = message.buffer.get(2).map(|flags| (flags & header::OPCODE_MASK) >> 3);
    service.offloads && opcode == Some(header::OPCODE_UPDATE) && service.access.allows(origin.client)
}
