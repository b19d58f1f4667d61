//! The one pure function that answers a packet, whatever it came by.
//!
//! Runs on the workers. Bytes and a table in, a verdict out, the response in the query's own buffer: no I/O, no clock,
//! no allocation, and no panic whatever the bytes are.

use super::counters::Event;
use crate::policy;
use crate::table::{Entry, RecordSet, Table};
use crate::wire::header::{self, rcode};
use crate::wire::name::{NameFault, QueryName};
use crate::wire::query::{Fault, Query};
use crate::wire::record::{CLASS_ANY, CLASS_IN, FIXED_LEN, rtype};
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

/// What one worker needs to answer, kept from packet to packet so that nothing has to be set up for each.
pub struct Answerer {
    name: QueryName,
    rng: fastrand::Rng,
}

impl Answerer {
    /// An answerer that draws its random orders from `rng`.
    #[must_use]
    pub fn new(rng: fastrand::Rng) -> Self {
        Self { name: QueryName::default(), rng }
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
        transport: Transport,
        mut count: impl FnMut(Event),
    ) -> Verdict {
        let query = match Query::parse(buffer, len, &mut self.name, table.seed()) {
            Ok(query) => query,
            Err(fault) => return reject(fault, buffer, count),
        };
        let mut response = Response::new(buffer, &query, transport);
        if query.edns.is_some_and(|edns| edns.version != 0) {
            count(Event::BadVersion);
            response.set_bad_version();
            return reply(response, rcode::NOERROR, false);
        }
        if query.qclass != CLASS_IN && query.qclass != CLASS_ANY {
            count(Event::Refused);
            return reply(response, rcode::REFUSED, false);
        }
        if let Some(entry) = table.lookup(&self.name) {
            return self.found(table, entry, query.qtype, response, count);
        }
        let Some((apex, zone)) = table.zone_of(&self.name) else {
            count(Event::Refused);
            return reply(response, rcode::REFUSED, false);
        };
        count(Event::NxDomain);
        response.authority(&zone.soa_record(header::LEN + apex));
        reply(response, rcode::NXDOMAIN, true)
    }

    /// Answers for a name that exists.
    #[inline]
    fn found(
        &mut self,
        table: &Table,
        entry: Entry<'_>,
        qtype: u16,
        mut response: Response<'_>,
        mut count: impl FnMut(Event),
    ) -> Verdict {
        let set = if qtype == rtype::ANY {
            entry.sets().next() // one of the sets there are is answer enough (RFC 8482 §4.1)
        } else {
            entry.get(qtype)
        };
        if let Some(set) = set {
            count(Event::Positive);
            if !self.copy_answers(set, &mut response) {
                count(Event::TruncatedAnswer);
                response.set_truncated();
            }
            return reply(response, rcode::NOERROR, true);
        }
        let (apex, zone) = table.zone_of_found(&self.name);
        let soa = zone.soa_record(header::LEN + apex);
        if apex == 0 && (qtype == rtype::SOA || qtype == rtype::ANY) && soa.len() <= response.room() {
            count(Event::Positive);
            response.answer_with(1, soa.len(), |out| out.copy_from_slice(&soa));
        } else {
            count(Event::NoData);
            response.authority(&soa);
        }
        reply(response, rcode::NOERROR, true)
    }

    /// Copies the records that fit, whole ones only; returns whether that was all of them.
    #[inline]
    fn copy_answers(&mut self, set: RecordSet<'_>, response: &mut Response<'_>) -> bool {
        let room = response.room();
        let (count, len) = match set.rtype {
            rtype::A | rtype::AAAA => {
                // All of one length: any of them may go, in any order.
                let record_len = FIXED_LEN + if set.rtype == rtype::A { 4 } else { 16 };
                let count = usize::from(set.count).min(room / record_len);
                let len = count * record_len;
                let rng = &mut self.rng;
                #[allow(clippy::cast_possible_truncation)] // at most `set.count`
                response
                    .answer_with(count as u16, len, |out| policy::shuffle(rng, record_len, set.records, out));
                return count == usize::from(set.count);
            }
            _ => whole_records(set.records, room),
        };
        response.answer_with(count, len, |out| out.copy_from_slice(&set.records[..len]));
        count == set.count
    }
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

/// Answers what is no query by a bare header, or not at all.
#[cold]
fn reject(fault: Fault, buffer: &mut [u8], mut count: impl FnMut(Event)) -> Verdict {
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
    count(event);
    match code {
        Some(code) => Verdict::Reply { len: header_only(buffer, code) },
        None => Verdict::Drop,
    }
}
