//! The one pure function that answers a packet, whatever it came by.
//!
//! Runs on the workers. Bytes and a table in, a verdict out, the response in the query's own buffer: no I/O, no clock,
//! no allocation, and no panic whatever the bytes are.

use std::net::IpAddr;
use std::sync::Arc;

use super::access::Access;
use super::counters::Event;
use super::identity::Identity;
use super::rate_limit::{Allowance, RateLimiter};
use crate::policy;
use crate::table::{Entry, RecordSet, Table};
use crate::wire::edns::{ExtendedError, Options};
use crate::wire::header::{self, rcode};
use crate::wire::name::{NameFault, QueryName};
use crate::wire::query::{Fault, Query};
use crate::wire::record::{CLASS_ANY, CLASS_CHAOS, CLASS_IN, FIXED_LEN, rtype};
use crate::wire::response::{Response, Transport, header_only};

/// What to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the first `len` bytes of its buffer back.
    Reply {
        /// Bytes of response.
        len: usize,
    },
    /// Send nothing.
    Drop,
}

/// Where a packet came from, and when.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// How it came.
    pub transport: Transport,
    /// Who sent it.
    pub client: IpAddr,
    /// Seconds since 1970, as of the batch that it came in: cookies have their age.
    pub now_s: u32,
}

/// What all workers of a server have in common.
pub struct Service {
    /// Who may ask.
    pub access: Access,
    /// What the server says of itself.
    pub identity: Identity,
    /// Responses a second that a worker gives to one client network over UDP; 0 for no limit.
    pub rate_limit: u32,
}

/// What one worker needs to answer, kept from packet to packet so that nothing has to be set up for each.
pub struct Answerer {
    service: Arc<Service>,
    limiter: RateLimiter,
    name: QueryName,
    rng: fastrand::Rng,
}

impl Answerer {
    /// An answerer that draws its random orders from `rng`.
    #[must_use]
    pub fn new(service: Arc<Service>, rng: fastrand::Rng) -> Self {
        let limiter = RateLimiter::new(service.rate_limit);
        Self { service, limiter, name: QueryName::default(), rng }
    }

    /// Answers the query in the first `len` bytes of `buffer` from `table`, and says by `count` what it was.
    ///
    /// # Panics
    /// If `buffer` is shorter than [`MIN_BUFFER_LEN`](crate::wire::query::MIN_BUFFER_LEN): a fault of the transport.
    #[inline]
    pub fn answer(
        &mut self,
        table: &Table,
        buffer: &mut [u8],
        len: usize,
        origin: Origin,
        mut count: impl FnMut(Event),
    ) -> Verdict {
        let Self { service, limiter, name, rng } = self;
        let Origin { transport, client, now_s } = origin;
        let query = match Query::parse(buffer, len, name, table.seed()) {
            Ok(query) => query,
            Err(fault) => {
                let allowed = transport == Transport::Tcp || limiter.take(client, now_s) == Allowance::Answer;
                return reject(fault, allowed, buffer, count);
            }
        };
        let (options, known) = match &query.edns {
            Some(edns) => service.identity.options(edns, transport, client, now_s),
            None => (Options::default(), false),
        };
        let mut response = Response::new(buffer, &query, transport, options);
        if transport == Transport::Udp && !known {
            match limiter.take(client, now_s) {
                Allowance::Answer => {}
                Allowance::Truncate => {
                    count(Event::RateTruncated);
                    response.set_truncated();
                    return reply(response, rcode::NOERROR, false);
                }
                Allowance::Drop => {
                    count(Event::RateDropped);
                    return Verdict::Drop;
                }
            }
        }
        if query.edns.is_some_and(|edns| edns.version != 0) {
            count(Event::BadVersion);
            response.set_bad_version();
            return reply(response, rcode::NOERROR, false);
        }
        if !service.access.allows(client) {
            count(Event::Prohibited);
            response.explain(ExtendedError::Prohibited);
            return reply(response, rcode::REFUSED, false);
        }
        if query.qclass != CLASS_IN && query.qclass != CLASS_ANY {
            return other_class(service, name, &query, response, count);
        }
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            count(Event::Refused); // nobody may have a whole zone
            return reply(response, rcode::REFUSED, false);
        }
        if let Some(entry) = table.lookup(name) {
            return found(table, name, rng, entry, &query, response, count);
        }
        let Some((apex, zone)) = table.zone_of(name) else {
            if name.is_single_label()
                && let Some(entry) = table.lookup_unqualified(name)
            {
                return found(table, name, rng, entry, &query, response, count);
            }
            count(Event::Refused);
            response.explain(ExtendedError::NotAuthoritative);
            return reply(response, rcode::REFUSED, false);
        };
        count(Event::NxDomain);
        response.authority(&zone.soa_record(header::LEN + apex));
        reply(response, rcode::NXDOMAIN, is_authoritative(&query))
    }
}

/// Answers for a name that exists.
#[inline]
fn found(
    table: &Table,
    name: &QueryName,
    rng: &mut fastrand::Rng,
    entry: Entry<'_>,
    query: &Query,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    let qtype = query.qtype;
    let authoritative = is_authoritative(query);
    let set = if qtype == rtype::ANY {
        entry.sets().next() // one of the sets there are is answer enough (RFC 8482 §4.1)
    } else {
        entry.get(qtype)
    };
    if let Some(set) = set {
        count(Event::Positive);
        if !copy_answers(set, rng, &mut response) {
            count(Event::TruncatedAnswer);
            response.set_truncated();
        }
        return reply(response, rcode::NOERROR, authoritative);
    }
    let (apex, zone) = table.zone_of_found(name);
    let soa = zone.soa_record(header::LEN + apex);
    if apex == 0 && (qtype == rtype::SOA || qtype == rtype::ANY) && soa.len() <= response.room() {
        count(Event::Positive);
        response.answer_with(1, soa.len(), |out| out.copy_from_slice(&soa));
    } else {
        count(Event::NoData);
        response.authority(&soa);
    }
    reply(response, rcode::NOERROR, authoritative)
}

/// Over all classes at once nobody has authority (RFC 1035 §6.2).
#[inline]
fn is_authoritative(query: &Query) -> bool {
    query.qclass == CLASS_IN
}

/// Copies the records that fit, whole ones only; returns whether that was all of them.
#[inline]
fn copy_answers(set: RecordSet<'_>, rng: &mut fastrand::Rng, response: &mut Response<'_>) -> bool {
    let room = response.room();
    let (count, len) = match set.rtype {
        rtype::A | rtype::AAAA => {
            // All of one length: any of them may go, in any order.
            let record_len = FIXED_LEN + if set.rtype == rtype::A { 4 } else { 16 };
            let count = usize::from(set.count).min(room / record_len);
            let len = count * record_len;
            #[allow(clippy::cast_possible_truncation)] // at most `set.count`
            response.answer_with(count as u16, len, |out| policy::shuffle(rng, record_len, set.records, out));
            return count == usize::from(set.count);
        }
        _ => whole_records(set.records, room),
    };
    response.answer_with(count, len, |out| out.copy_from_slice(&set.records[..len]));
    count == set.count
}

/// Answers in class CHAOS what a server says of itself, and nothing in any other class.
#[cold]
fn other_class(
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
    reply(response, rcode::REFUSED, false)
}

/// How many of `records`, and how many bytes of them, fit in `room`.
fn whole_records(records: &[u8], room: usize) -> (u16, usize) {
    let (mut count, mut end) = (0, 0);
    while end + FIXED_LEN <= records.len() {
        let next = end + FIXED_LEN + usize::from(header::u16_at(records, end + FIXED_LEN - 2));
        if next > room {
            break;
        }
        (count, end) = (count + 1, next);
    }
    (count, end)
}

#[inline]
fn reply(response: Response<'_>, code: u8, authoritative: bool) -> Verdict {
    Verdict::Reply { len: response.finish(code, authoritative) }
}

/// Answers what is no query by a bare header if that is `allowed`, or not at all.
#[cold]
fn reject(fault: Fault, allowed: bool, buffer: &mut [u8], mut count: impl FnMut(Event)) -> Verdict {
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
    if code.is_some() && !allowed {
        count(Event::RateDropped);
        return Verdict::Drop;
    }
    count(event);
    match code {
        Some(code) => Verdict::Reply { len: header_only(buffer, code) },
        None => Verdict::Drop,
    }
}
