//! Answers for names that are in none of our domains: what the resolver knows of them, what is reserved, and what has to be
//! asked for.
//!
//! Runs on the workers, called by `answer` alone.

use smallvec::SmallVec;

use crate::answer::metrics::Event;
use crate::answer::types::{Look, MAX_ALIASES, Verdict, Wanted, reply};
use crate::resolver::in_flight::Failure;
use crate::resolver::question::{Answer, Question, age};
use crate::resolver::reserved::{Reserved, local_answer};
use crate::resolver::routes::Route;
use crate::resolver::{Resolver, Sought};
use crate::table::{RecordSet, Table};
use crate::wire::edns::{ExtendedError, MAX_PASSED_BY};
use crate::wire::header::{self, rcode, u16_at};
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::{CLASS_IN, FIXED_LEN, rtype};
use crate::wire::response::{POINTER_REACH, Response};

/// The question that `query` asks of `name`.
fn question<'a>(name: &'a QueryName, query: &Query, response: &Response<'_>) -> Question<'a> {
    Question {
        name: name.as_wire(),
        name_hash: name.hash(),
        qtype: query.qtype,
        dnssec_ok: query.edns.is_some_and(|edns| edns.dnssec_ok),
        checking_disabled: response.checking_disabled(),
    }
}

/// Whether a question for a name of one label is about that name, and not what is left of a search path: those are for addresses and
/// the like, of programs that do not validate. A domain with upstreams of its own is about itself.
#[cold]
pub(crate) fn is_no_search(
    table: &Table,
    name: &QueryName,
    resolver: &mut Resolver,
    query: &Query,
    response: &Response<'_>,
) -> bool {
    let asked = question(name, query, response);
    let may_be_search = matches!(
        query.qtype,
        rtype::A
            | rtype::AAAA
            | rtype::HTTPS
            | rtype::SVCB
            | rtype::SRV
            | rtype::MX
            | rtype::TXT
            | rtype::PTR
            | rtype::ANY
    );
    if !may_be_search || matches!(resolver.route(asked.name), Route::Forward(_)) {
        return true;
    }
    let is_validated = asked.dnssec_ok || asked.checking_disabled;
    is_validated && table.qualify(name).is_none_or(|qualified| table.lookup(&qualified).is_none())
}

/// Answers for a name that is not ours. What has to be asked for is then in `wanted`.
///
/// Apart from the way for our own names, which stays as short as it is.
#[inline(never)]
pub(crate) fn answer(
    name: &QueryName,
    resolver: &mut Resolver,
    query: &Query,
    response: Response<'_>,
    wanted: &mut Wanted,
    count: impl FnMut(Event),
) -> Verdict {
    let asked = question(name, query, &response);
    match resolver.seek(&asked) {
        Sought::Answer { answer, age_s, stale } => reply_with(&answer, (age_s, stale), response, count),
        Sought::Failed(failure) => match resolver.seek_unsigned(&asked) {
            Some((answer, age_s, stale)) => reply_with(&answer, (age_s, stale), response, count),
            None => fail(failure, response, count),
        },
        Sought::Unknown => ask(&asked, resolver, query, response, wanted, count),
    }
}

/// Replies with an answer that came so many seconds ago, and is stale or not.
#[inline]
fn reply_with(
    answer: &Answer<'_>,
    (age_s, stale): (u32, bool),
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    count(if stale { Event::Stale } else { Event::Cached });
    if !copy(answer, &mut response, |records| age(records, answer.ttls_at, age_s, stale)) {
        count(Event::TruncatedAnswer);
    }
    finish(answer, stale, response)
}

/// What is to be done for a question of which nothing is known.
#[cold]
fn ask(
    asked: &Question<'_>,
    resolver: &mut Resolver,
    query: &Query,
    mut response: Response<'_>,
    wanted: &mut Wanted,
    mut count: impl FnMut(Event),
) -> Verdict {
    let route = resolver.route(asked.name);
    if !matches!(route, Route::Forward(_))
        && let Some(reserved) = local_answer(asked.name, asked.qtype)
    {
        return answer_reserved(reserved, query, response, count);
    }
    let group = match route {
        Route::Forward(group) | Route::Default(group) if may_be_asked(query) => group,
        _ => {
            count(Event::Refused);
            response.explain(ExtendedError::NotAuthoritative);
            return reply(response, rcode::REFUSED, false);
        }
    };
    // Without RD only what is known is told (RFC 1035 §4.1.1).
    if !response.recursion_desired() {
        count(Event::Refused);
        response.explain(ExtendedError::NotAuthoritative);
        return reply(response, rcode::REFUSED, false);
    }
    wanted.passed_by.clear();
    if let Some(edns) = query.edns.filter(|edns| edns.was_passed_on()) {
        wanted.passed_by.extend(edns.passed_by(response.message()).take(MAX_PASSED_BY));
        if wanted.passed_by.contains(&resolver.id()) || wanted.passed_by.len() == MAX_PASSED_BY {
            count(Event::ForwardLoop);
            response.explain(ExtendedError::NoReachableAuthority);
            return reply(response, rcode::REFUSED, false);
        }
    }
    wanted.passed_by.push(resolver.id());
    let Question { qtype, dnssec_ok, checking_disabled, .. } = *asked;
    *wanted = Wanted {
        qtype,
        dnssec_ok,
        checking_disabled,
        group,
        passed_by: std::mem::take(&mut wanted.passed_by),
    };
    Verdict::Forward
}

/// What `name` is if it is that of this machine itself.
#[cold]
pub(crate) fn localhost(name: &QueryName, query: &Query) -> Option<Reserved> {
    local_answer(name.as_wire(), query.qtype).filter(|it| !matches!(it, Reserved::NxDomain { .. }))
}

/// Answers for a name that is nobody's (RFC 6761, RFC 6303).
#[cold]
pub(crate) fn answer_reserved(
    reserved: Reserved,
    query: &Query,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    count(match reserved {
        Reserved::NxDomain { .. } => Event::NxDomain,
        Reserved::NoData { .. } => Event::NoData,
        _ => Event::Positive,
    });
    let record = reserved.record(query.qtype, RESERVED_TTL_S);
    if reserved.is_negative() {
        response.authority(&record);
    } else if record.len() <= response.room() {
        response.answer_with(1, record.len(), |out| out.copy_from_slice(&record));
    }
    reply(response, reserved.rcode(), true)
}

/// Seconds for which others may keep what is reserved: a private address may get a name at any time.
const RESERVED_TTL_S: u32 = 60;

/// Whether upstreams can be asked that: not in all classes at once, nor for types that are part of the protocol
/// (RFC 6895 §3.1), but for all types at once.
fn may_be_asked(query: &Query) -> bool {
    let is_meta = query.qtype == 0
        || query.qtype == rtype::OPT
        || (128..256).contains(&query.qtype) && query.qtype != rtype::ANY;
    query.qclass == CLASS_IN && !is_meta
}

/// Says that there is no answer, and why.
#[cold]
fn fail(failure: Failure, mut response: Response<'_>, mut count: impl FnMut(Event)) -> Verdict {
    count(if failure == Failure::Stopping { Event::Stopping } else { Event::ForwardFailed });
    response.explain(match failure {
        Failure::Answered(_, Some(code)) => ExtendedError::Told(code),
        Failure::Answered(..) | Failure::NobodyThere | Failure::NoAnswer => {
            ExtendedError::NoReachableAuthority
        }
        Failure::Cached => ExtendedError::CachedError,
        Failure::Overload | Failure::Stopping => ExtendedError::NotReady,
    });
    reply(response, rcode::SERVFAIL, false)
}

/// Copies the records of `answer` into `response` and has `mend` make them what they are now. Returns whether all of them have fit;
/// otherwise those answers that do are there, for clients that do not ask again over TCP.
#[inline]
fn copy(answer: &Answer<'_>, response: &mut Response<'_>, mend: impl FnOnce(&mut [u8])) -> bool {
    if answer.records.len() <= response.room() {
        mend(response.sections(answer.answers, answer.authorities, answer.records));
        return true;
    }
    let (count, len) = answer.answers_within(response.room());
    mend(response.sections(count, 0, &answer.records[..len]));
    response.set_truncated();
    false
}

#[inline]
fn finish(answer: &Answer<'_>, stale: bool, mut response: Response<'_>) -> Verdict {
    if answer.authenticated {
        response.set_authenticated();
    }
    if stale {
        let is_nxdomain = answer.rcode == rcode::NXDOMAIN;
        response.explain(if is_nxdomain { ExtendedError::StaleNxdomain } else { ExtendedError::StaleAnswer });
    }
    reply(response, answer.rcode, false)
}

/// What there is to do for an alias of ours that leads out of our domains.
pub(crate) enum Outside {
    /// It does not, or nobody can be asked.
    No,
    /// This has to be asked for; the query is as it was.
    Ask,
    /// It leads to a target of which something is known.
    Known,
}

/// Looks where the chain of aliases leads that begins with `alias`, before anything is written; `target` is then where.
#[cold]
pub(crate) fn leads_outside<'a>(
    look: &mut Look<'a>,
    mut alias: RecordSet<'a>,
    query: &Query,
    response: &Response<'_>,
    target: &mut QueryName,
) -> Outside {
    let Some(resolver) = look.resolver.as_deref_mut() else { return Outside::No };
    let table: &'a Table = look.table;
    for _ in 0..MAX_ALIASES {
        let wire = alias.records.get(FIXED_LEN..).unwrap_or_default();
        if target.fold_wire(wire, table.seed()).is_err() {
            return Outside::No;
        }
        if table.zone_of(target).is_none() {
            let asked = question(target, query, response);
            if !matches!(resolver.seek(&asked), Sought::Unknown) {
                return Outside::Known;
            }
            let (Route::Forward(group) | Route::Default(group)) = resolver.route(asked.name) else {
                return Outside::No;
            };
            if local_answer(asked.name, asked.qtype).is_some()
                || target.is_single_label() && !is_no_search(table, target, resolver, query, response)
                || !may_be_asked(query)
                || !response.recursion_desired()
            {
                return Outside::No;
            }
            let Question { qtype, dnssec_ok, checking_disabled, .. } = asked;
            let passed_by = SmallVec::from_slice(&[resolver.id()]);
            *look.wanted = Wanted { qtype, dnssec_ok, checking_disabled, group, passed_by };
            std::mem::swap(look.name, target);
            return Outside::Ask;
        }
        let entry = table.lookup(target);
        match entry.filter(|it| it.get(query.qtype).is_none()).and_then(|it| it.get(rtype::CNAME)) {
            Some(next) => alias = next,
            None => return Outside::No,
        }
    }
    Outside::No
}

/// Adds what is known of `target`, where a chain of aliases of ours has led, whose name stands at `target_at` in the message.
/// Returns the response code of the whole.
#[cold]
pub(crate) fn append(
    target: &QueryName,
    target_at: usize,
    resolver: &mut Resolver,
    query: &Query,
    response: &mut Response<'_>,
) -> u8 {
    let asked = question(target, query, response);
    let (answer, age_s, stale) = match resolver.seek(&asked) {
        Sought::Answer { answer, age_s, stale } => (answer, age_s, stale),
        Sought::Failed(_) => match resolver.seek_unsigned(&asked) {
            Some(unsigned) => unsigned,
            None => return rcode::SERVFAIL,
        },
        Sought::Unknown => return rcode::NOERROR,
    };
    // Beyond, no pointer reaches.
    if response.end() + answer.records.len() > POINTER_REACH {
        return rcode::NOERROR;
    }
    let shift = Shift { name_len: asked.name.len(), target_at, records_at: response.end() };
    let mend = |records: &mut [u8]| {
        age(records, answer.ttls_at, age_s, stale);
        shift.apply(records);
    };
    copy(&answer, response, mend);
    answer.rcode
}

/// How pointers change when records that stood behind their question stand elsewhere.
struct Shift {
    name_len: usize,
    /// Where the question's name is now.
    target_at: usize,
    /// Where the records are now.
    records_at: usize,
}

impl Shift {
    fn apply(&self, records: &mut [u8]) {
        let mut at = 0;
        while at < records.len() {
            let Some(fixed) = self.shift_name(records, at) else { return };
            let Some(head) = records.get(fixed..fixed + FIXED_LEN - 2) else { return };
            let (rtype, len) = (u16_at(head, 0), usize::from(u16_at(head, 8)));
            let data = fixed + FIXED_LEN - 2;
            match rtype {
                rtype::NS | rtype::CNAME | rtype::PTR => _ = self.shift_name(records, data),
                rtype::MX => _ = self.shift_name(records, data + 2),
                rtype::SOA => {
                    if let Some(second) = self.shift_name(records, data) {
                        self.shift_name(records, second);
                    }
                }
                _ => {}
            }
            at = data + len;
        }
    }

    /// Changes the pointer that the name at `at` ends with, if it does; returns where the name ends.
    fn shift_name(&self, records: &mut [u8], mut at: usize) -> Option<usize> {
        loop {
            match *records.get(at)? {
                0 => return Some(at + 1),
                len if len & 0xc0 == 0xc0 => break,
                len => at += 1 + usize::from(len),
            }
        }
        let bytes = records.get_mut(at..at + 2)?;
        let old = usize::from(u16_at(bytes, 0) & 0x3fff);
        let new = match old.checked_sub(header::LEN + self.name_len + 4) {
            Some(within) => self.records_at + within,
            None => self.target_at + old.saturating_sub(header::LEN),
        };
        #[allow(clippy::cast_possible_truncation)]
        // 14 bits: of what goes further, an answer is truncated before
        bytes.copy_from_slice(&(0xc000 | (new & 0x3fff) as u16).to_be_bytes());
        Some(at + 2)
    }
}
