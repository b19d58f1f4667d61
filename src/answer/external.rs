//! Answers for names out of our zones: what the resolver knows of them, what is special, and what has to be asked for.
//!
//! Runs on the workers, called by `answerer` alone.

use super::errors::{self, ErrorAnswer};
use super::metrics::Event;
use super::types::{Deferred, LookupContext, MAX_ALIASES, Origin, Turn, UpstreamQuery, Verdict, reply};
use crate::resolver::question::{Answer, Question, age};
use crate::resolver::routes::Route;
use crate::resolver::special_use::{SpecialUse, local_answer};
use crate::resolver::{CacheResult, Resolver};
use crate::table::{RecordSet, Table};
use crate::wire::edns::{ExtendedError, MAX_PASSED_BY};
use crate::wire::header::{self, rcode, u16_at};
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::{CLASS_IN, FIXED_LEN, rtype};
use crate::wire::response::{POINTER_REACH, Response};

/// Seconds for which others may keep what is special: a private address may get a name at any time.
const SPECIAL_TTL_S: u32 = 60;

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

/// What is done about a name out of our zones, in the order of [`decide`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutOfZone {
    /// It is special (RFC 6761) or locally served (RFC 6303).
    Special(SpecialUse),
    /// It is what is left of a search path: a name of the first domain, or none.
    SearchPath,
    /// The upstreams of this group are asked.
    Upstream(u16),
    /// Nobody is asked.
    Refused,
}

/// Decides what is done about a name out of our zones: the one order for answers and for `explain`. The `route` is
/// where the resolver would ask, if there is one.
#[must_use]
pub fn decide(table: &Table, name: &QueryName, question: &Question<'_>, route: Option<Route>) -> OutOfZone {
    let special = || local_answer(question.name, question.qtype);
    let is_own_domain = matches!(route, Some(Route::Forward(_)));
    if name.is_single_label() && !is_own_domain && (route.is_none() || is_search(table, name, question)) {
        // Of what is special, only this machine itself has addresses.
        let localhost = special().filter(|it| route.is_some() && !matches!(it, SpecialUse::NxDomain { .. }));
        return localhost.map_or(OutOfZone::SearchPath, OutOfZone::Special);
    }
    if !is_own_domain
        && route.is_some()
        && let Some(special) = special()
    {
        return OutOfZone::Special(special);
    }
    match route {
        Some(Route::Forward(group) | Route::Default(group)) if may_be_asked(question.qtype) => {
            OutOfZone::Upstream(group)
        }
        _ => OutOfZone::Refused,
    }
}

/// Whether a question for a name of one label is what is left of a search path: those are for addresses and the like,
/// of programs that do not validate.
fn is_search(table: &Table, name: &QueryName, question: &Question<'_>) -> bool {
    let may_be_search = matches!(
        question.qtype,
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
    let is_validated = question.dnssec_ok || question.checking_disabled;
    may_be_search
        && (!is_validated || table.qualify(name).is_some_and(|qualified| table.lookup(&qualified).is_some()))
}

/// Whether upstreams can be asked for that type: not for types that are part of the protocol (RFC 6895 §3.1), but for
/// all types at once.
fn may_be_asked(qtype: u16) -> bool {
    let is_meta = qtype == 0 || qtype == rtype::OPT || (128..256).contains(&qtype) && qtype != rtype::ANY;
    !is_meta
}

/// What is done about the question's name.
#[cold]
pub(crate) fn decide_query(context: &mut LookupContext<'_>, response: &Response<'_>) -> OutOfZone {
    let asked = question(context.name, context.query, response);
    let route = context.state.resolver.as_mut().map(|resolver| resolver.route(asked.name));
    decide(context.turn.table, context.name, &asked, route)
}

/// Answers for a name out of our zones, or says what has to be asked for.
///
/// Apart from the way for our own names, which stays as short as it is.
#[inline(never)]
pub(crate) fn answer(context: &mut LookupContext<'_>, response: &mut Response<'_>) -> Verdict {
    let LookupContext { turn, query, origin, name, state } = context;
    let Some(resolver) = &mut state.resolver else {
        return errors::write(ErrorAnswer::NotAuthoritative, response, turn);
    };
    let asked = question(name, query, response);
    match resolver.lookup(&asked) {
        CacheResult::Answer { answer, age_s, stale } => {
            reply_with(&answer, (age_s, stale), (turn, origin), response)
        }
        CacheResult::Failed(failure) => match resolver.lookup_unsigned(&asked) {
            Some((answer, age_s, stale)) => reply_with(&answer, (age_s, stale), (turn, origin), response),
            None => errors::write(ErrorAnswer::Failed(failure), response, turn),
        },
        CacheResult::Unknown => ask(resolver, (turn, query), name, response),
    }
}

/// Replies with an answer that came so many seconds ago, and is stale or not.
#[inline]
fn reply_with(
    answer: &Answer<'_>,
    (age_s, stale): (u32, bool),
    (turn, origin): (&Turn<'_>, &Origin),
    response: &mut Response<'_>,
) -> Verdict {
    turn.counters.count(match stale {
        true => Event::Stale,
        // What is found only now is no hit.
        false if origin.deferred => Event::Fetched,
        false => Event::Cached,
    });
    if !copy(answer, response, |records| age(records, answer.ttls_at, age_s, stale)) {
        turn.counters.count(Event::TruncatedAnswer);
    }
    finish(answer, stale, response)
}

/// What is to be done for a question of which nothing is known.
#[cold]
fn ask(
    resolver: &mut Resolver,
    (turn, query): (&Turn<'_>, &Query),
    name: &QueryName,
    response: &mut Response<'_>,
) -> Verdict {
    let asked = question(name, query, response);
    let group = match decide(turn.table, name, &asked, Some(resolver.route(asked.name))) {
        OutOfZone::Special(special) => return answer_special(special, (turn, query), response),
        // Without RD only what is known is told (RFC 1035 §4.1.1), and not of all classes at once.
        OutOfZone::Upstream(group) if query.qclass == CLASS_IN && response.recursion_desired() => group,
        _ => return errors::write(ErrorAnswer::NotAuthoritative, response, turn),
    };
    let mut upstream_query = UpstreamQuery::new(name, &asked, group);
    let passed_by = &mut upstream_query.passed_by;
    if let Some(edns) = query.edns.filter(|edns| edns.was_passed_on()) {
        passed_by.extend(edns.passed_by(response.message()).take(MAX_PASSED_BY));
        if passed_by.contains(&resolver.id()) || passed_by.len() == MAX_PASSED_BY {
            return errors::write(ErrorAnswer::Loop, response, turn);
        }
    }
    passed_by.push(resolver.id());
    Verdict::Defer(Deferred::Upstream(upstream_query))
}

/// Answers for a name that is special (RFC 6761) or locally served (RFC 6303).
#[cold]
pub(crate) fn answer_special(
    special: SpecialUse,
    (turn, query): (&Turn<'_>, &Query),
    response: &mut Response<'_>,
) -> Verdict {
    turn.counters.count(match special {
        SpecialUse::NxDomain { .. } => Event::NxDomain,
        SpecialUse::NoData { .. } => Event::NoData,
        _ => Event::Positive,
    });
    let record = special.record(query.qtype, SPECIAL_TTL_S);
    if special.is_negative() {
        response.authority(&record);
    } else if record.len() <= response.room() {
        response.answer_with(1, record.len(), |out| out.copy_from_slice(&record));
    }
    reply(response, special.rcode(), true)
}

/// Copies the records of `answer` into `response` and has `mend` make them what they are now. Returns whether all of
/// them have fit; otherwise those answers that do are there, for clients that do not ask again over TCP.
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
fn finish(answer: &Answer<'_>, stale: bool, response: &mut Response<'_>) -> Verdict {
    if answer.authenticated {
        response.set_authenticated();
    }
    if stale {
        let is_nxdomain = answer.rcode == rcode::NXDOMAIN;
        response.explain(if is_nxdomain { ExtendedError::StaleNxdomain } else { ExtendedError::StaleAnswer });
    }
    reply(response, answer.rcode, false)
}

/// Where a chain of aliases of ours leads.
#[allow(clippy::large_enum_variant)] // as in a verdict
pub(crate) enum AliasTarget {
    /// Into our zones, or nobody can be asked.
    Internal,
    /// Out of them, to a name of which something is known.
    Known,
    /// Out of them, to a name that has to be asked for.
    Unknown(UpstreamQuery),
}

/// Looks where the chain of aliases leads that begins with `alias`, before anything is written; `target` is then where.
#[cold]
pub(crate) fn alias_target(
    context: &mut LookupContext<'_>,
    alias: RecordSet<'_>,
    response: &Response<'_>,
    target: &mut QueryName,
) -> AliasTarget {
    let Some(resolver) = context.state.resolver.as_mut() else { return AliasTarget::Internal };
    let (table, query) = (context.turn.table, context.query);
    let mut alias = alias;
    for _ in 0..MAX_ALIASES {
        let wire = alias.records.get(FIXED_LEN..).unwrap_or_default();
        if target.fold_wire(wire, table.seed()).is_err() {
            return AliasTarget::Internal;
        }
        if table.zone_of(target).is_none() {
            let asked = question(target, query, response);
            if !matches!(resolver.lookup(&asked), CacheResult::Unknown) {
                return AliasTarget::Known;
            }
            let route = Some(resolver.route(asked.name));
            let OutOfZone::Upstream(group) = decide(table, target, &asked, route) else {
                return AliasTarget::Internal;
            };
            if query.qclass != CLASS_IN || !response.recursion_desired() {
                return AliasTarget::Internal;
            }
            let mut upstream_query = UpstreamQuery::new(target, &asked, group);
            upstream_query.passed_by.push(resolver.id());
            return AliasTarget::Unknown(upstream_query);
        }
        let entry = table.lookup(target);
        match entry.filter(|it| it.get(query.qtype).is_none()).and_then(|it| it.get(rtype::CNAME)) {
            Some(next) => alias = next,
            None => return AliasTarget::Internal,
        }
    }
    AliasTarget::Internal
}

/// Adds what is known of `target`, where a chain of aliases of ours has led, whose name stands at `target_at` in the
/// message. Returns the response code of the whole.
#[cold]
pub(crate) fn append(
    context: &mut LookupContext<'_>,
    (target, target_at): (&QueryName, usize),
    response: &mut Response<'_>,
) -> u8 {
    let Some(resolver) = context.state.resolver.as_mut() else { return rcode::NOERROR };
    let asked = question(target, context.query, response);
    let (answer, age_s, stale) = match resolver.lookup(&asked) {
        CacheResult::Answer { answer, age_s, stale } => (answer, age_s, stale),
        CacheResult::Failed(_) => match resolver.lookup_unsigned(&asked) {
            Some(unsigned) => unsigned,
            None => return rcode::SERVFAIL,
        },
        CacheResult::Unknown => return rcode::NOERROR,
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
