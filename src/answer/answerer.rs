//! The one pure function that answers a packet, whatever it came by.
//!
//! Runs on the workers. Bytes and a table in, a verdict out, the response in the query's own buffer: no I/O, no clock,
//! no allocation, and no panic whatever the bytes are.

use std::sync::Arc;

use crate::answer::answer_section::{add_additional, copy_answers, follow_alias};
use crate::answer::errors::{bad_version, cookie_alone, no_lookup, over_limit, prohibited, reject};
use crate::answer::external::{self, Outside};
use crate::answer::handicap::handicap;
use crate::answer::identity::ShownCookie;
use crate::answer::metrics::Event;
use crate::answer::rate_limit::{Allowance, RateLimiter};
use crate::answer::types::{Look, Origin, Service, Verdict, Wanted, is_authoritative, reply};
use crate::policy::arrange::Chance;
use crate::query_time::{Elsewhere, Finding};
use crate::resolver::Resolver;
use crate::resolver::question::Question;
use crate::sys::published::Reader;
use crate::table::{Entry, MAX_TOGETHER, RecordSet, SOA_TTL, Table};
use crate::wire::cookie::Secrets;
use crate::wire::edns::{ClientSubnet, ExtendedError, Options};
use crate::wire::header::{self, rcode};
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::{CLASS_ANY, CLASS_IN, rtype};
use crate::wire::response::{Response, Suffix, Transport, refusal};

/// What one worker needs to answer, kept from packet to packet so that nothing has to be set up for each.
pub struct Answerer {
    service: Arc<Service>,
    secrets: Reader<Secrets>,
    limiter: RateLimiter,
    /// Names of questions that were read together before they are answered, and behind them one of a question that was not.
    names: Box<[QueryName]>,
    /// Which of them is being answered.
    current: usize,
    chance: Chance,
    /// For whom the query in hand was asked, if that is somebody else.
    subnet: Option<ClientSubnet>,
    /// Where names are looked for that are not in the table; in the `gossip` design nowhere.
    elsewhere: Option<Elsewhere>,
    /// What is known of names that are not ours, if they are looked for.
    resolver: Option<Resolver>,
    wanted: Wanted,
}

/// What a table has of names that were looked up together.
pub struct LookedUp<'t> {
    table: &'t Table,
    entries: [Option<Entry<'t>>; MAX_TOGETHER],
}

/// Where the name of a question is that was not expected.
const UNEXPECTED: usize = MAX_TOGETHER;

impl Answerer {
    /// An answerer that makes its cookies with `secrets` and draws its random orders from `rng`.
    #[must_use]
    pub fn new(service: Arc<Service>, secrets: Reader<Secrets>, rng: fastrand::Rng) -> Self {
        let limiter = RateLimiter::new(service.rate_limit);
        Self {
            service,
            secrets,
            limiter,
            names: (0..=UNEXPECTED).map(|_| QueryName::default()).collect(),
            current: UNEXPECTED,
            chance: Chance::new(rng),
            subnet: None,
            elsewhere: None,
            resolver: None,
            wanted: Wanted::default(),
        }
    }

    /// Has names that are not in the table looked for `elsewhere`.
    pub fn look_elsewhere(&mut self, elsewhere: Elsewhere) {
        self.elsewhere = Some(elsewhere);
    }

    /// What is known of names that are not in the table.
    pub fn elsewhere(&mut self) -> Option<&mut Elsewhere> {
        self.elsewhere.as_mut()
    }

    /// Has names that are not ours looked for by `resolver`.
    pub fn forward_by(&mut self, resolver: Resolver) {
        self.resolver = Some(resolver);
    }

    /// What is known of names that are not ours.
    pub fn resolver(&mut self) -> Option<&mut Resolver> {
        self.resolver.as_mut()
    }

    /// After [`Verdict::Forward`] what is to be asked: the question, and the rest.
    #[must_use]
    pub fn wanted(&self) -> (Question<'_>, &Wanted) {
        (self.wanted.question(&self.names[self.current]), &self.wanted)
    }

    /// Reads the name in the first `len` bytes of `buffer`, the `i`-th of some, below [`MAX_TOGETHER`], which will be
    /// [looked up](Self::look_up) together.
    ///
    /// # Panics
    /// If `buffer` is shorter than [`MIN_BUFFER_LEN`](crate::wire::query::MIN_BUFFER_LEN): a fault of the transport.
    #[inline]
    pub fn expect(&mut self, table: &Table, i: usize, buffer: &[u8], len: usize) {
        // What is wrong with it is found out when it is answered.
        let _ = self.names[i].fold_question(buffer, len, table.seed());
    }

    /// Looks up the names of the first `count` queries that were expected.
    #[inline]
    #[must_use]
    pub fn look_up<'t>(&self, table: &'t Table, count: usize) -> LookedUp<'t> {
        LookedUp { table, entries: table.lookup_together(&self.names[..count.min(MAX_TOGETHER)]) }
    }

    /// After [`Verdict::Ask`] the name to ask for, lower-cased in wire form.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        self.names[self.current].as_wire()
    }

    /// Turns the query in the first `len` bytes of `buffer` into a response that says that it cannot be answered now;
    /// returns its length. Which event that is, its caller knows and counts.
    #[cold]
    #[must_use]
    pub fn fail(&self, buffer: &mut [u8], len: usize) -> usize {
        refusal(buffer, len, rcode::SERVFAIL, self.service.udp_len)
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
        count: impl FnMut(Event),
    ) -> Verdict {
        self.answer_named(None, table, buffer, len, origin, count)
    }

    /// The same for the `i`-th query of those [expected](Self::expect), which is as it was then, by what its name was `looked_up`
    /// to be.
    ///
    /// # Panics
    /// The same; or if `i` is not below [`MAX_TOGETHER`].
    #[inline]
    pub fn answer_expected(
        &mut self,
        i: usize,
        looked_up: &LookedUp<'_>,
        buffer: &mut [u8],
        len: usize,
        origin: Origin,
        count: impl FnMut(Event),
    ) -> Verdict {
        self.answer_named(Some((i, looked_up.entries[i])), looked_up.table, buffer, len, origin, count)
    }

    /// Answers; for a name that was expected, with its place among those and what was found of it.
    #[inline(always)]
    fn answer_named(
        &mut self,
        expected: Option<(usize, Option<Entry<'_>>)>,
        table: &Table,
        buffer: &mut [u8],
        len: usize,
        origin: Origin,
        count: impl FnMut(Event),
    ) -> Verdict {
        self.current = expected.map_or(UNEXPECTED, |(at, _)| at);
        let name = &mut self.names[self.current];
        let known = expected.map(|(_, entry)| entry).filter(|_| name.len() > 0);
        let Self { service, secrets, limiter, chance, subnet, elsewhere, .. } = self;
        let (resolver, wanted) = (self.resolver.as_mut(), &mut self.wanted);
        let Origin { transport, client, now_s, waited } = origin;
        handicap();
        // Both are filled in where they stand: to hand them over would cost more than to make them.
        let (mut query, mut options, mut shown) = (Query::default(), Options::default(), ShownCookie::None);
        let parsed = query.read(buffer, len, || match known {
            Some(_) => Ok(name.len()),
            None => name.fold_question(buffer, len, table.seed()),
        });
        if let Err(fault) = parsed {
            return reject(fault, service, limiter, origin, buffer, len, count);
        }
        if query.signed && service.hands_over {
            return Verdict::HandOver;
        }
        if let Some(edns) = &query.edns {
            (options, shown) = service.identity.options(edns, secrets.load(), origin);
        }
        if let Some(forwarders) = &service.forwarders {
            let told = query.edns.filter(|_| forwarders.allows(client));
            *subnet = told.and_then(|edns| edns.client_subnet(buffer));
            options.client_subnet = subnet.as_ref();
        }
        let limited = transport == Transport::Udp && shown != ShownCookie::Good && !waited;
        let allowance = if limited { limiter.take(client, now_s) } else { Allowance::Answer };
        if allowance != Allowance::Answer {
            return over_limit(allowance, buffer, &query, service.udp_len, options, count);
        }
        let mut response = Response::new(buffer, &query, transport, service.udp_len, options);
        if resolver.is_some() {
            response.offer_recursion();
        }
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return bad_version(response, count);
        }
        if !service.access.allows(client) {
            return prohibited(response, count);
        }
        if !query.has_question() {
            return cookie_alone(shown, response, count);
        }
        if !matches!(query.qclass, CLASS_IN | CLASS_ANY) || matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            return no_lookup(service, name, &query, response, count);
        }
        let complete = elsewhere.is_none();
        let mut look = Look { table, name, chance, origin: &origin, complete, resolver, wanted };
        if let Some(entry) = known.unwrap_or_else(|| table.lookup(look.name)) {
            // The usual way is the shortest: to hand all of this to another function costs more than the copying of addresses.
            if matches!(query.qtype, rtype::A | rtype::AAAA)
                && let Some(set) = entry.get(query.qtype)
            {
                return addresses(&mut look, set, &query, &mut response, count);
            }
            return found(look, entry, &query, response, count);
        }
        missing(look, elsewhere.as_mut(), &query, response, count)
    }
}

/// Answers for a name that is not in the table: it does not exist, is known elsewhere, or is none of ours.
#[inline]
fn missing(
    mut look: Look<'_>,
    elsewhere: Option<&mut Elsewhere>,
    query: &Query,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    let Some((apex, zone)) = look.table.zone_of(look.name) else {
        let is_search = look.name.is_single_label()
            && look.resolver.as_deref_mut().is_none_or(|resolver| {
                !external::is_no_search(look.table, look.name, resolver, query, &response)
            });
        return match look.resolver {
            Some(resolver) if !is_search => {
                external::answer(look.name, resolver, query, response, look.wanted, count)
            }
            _ => not_ours(look, elsewhere, query, response, count),
        };
    };
    let mut soa = zone.soa_record(header::LEN + apex);
    if let Some(elsewhere) = elsewhere {
        match elsewhere.find(look.name.as_wire()) {
            Finding::Entry(entry) => return found(look, entry, query, response, count),
            Finding::Unknown => return Verdict::Ask,
            Finding::Nobody { ttl_s } => soa[SOA_TTL].copy_from_slice(&ttl_s.to_be_bytes()),
        }
    }
    count(Event::NxDomain);
    response.authority(&soa);
    reply(response, rcode::NXDOMAIN, is_authoritative(query))
}

/// Answers with addresses.
#[inline(always)]
fn addresses(
    look: &mut Look<'_>,
    set: RecordSet<'_>,
    query: &Query,
    response: &mut Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    count(Event::Positive);
    if !copy_answers(set, look, None, response) {
        count(Event::TruncatedAnswer);
        response.set_truncated();
    }
    Verdict::Reply { len: response.finish(rcode::NOERROR, is_authoritative(query)) }
}

/// Answers for a name that exists.
#[inline(never)]
fn found(
    mut look: Look<'_>,
    entry: Entry<'_>,
    query: &Query,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    let table = look.table;
    let qtype = query.qtype;
    let authoritative = is_authoritative(query);
    let set = if qtype == rtype::ANY {
        entry.answerable().next() // one of the sets there are is answer enough (RFC 8482 §4.1)
    } else {
        entry.get(qtype)
    };
    if let Some(set) = set {
        if matches!(set.rtype, rtype::A | rtype::AAAA) {
            return addresses(&mut look, set, query, &mut response, count);
        }
        count(Event::Positive);
        let (apex, zone) = table.zone_of_found(look.name);
        let suffix = Suffix { name: zone.lower_case_wire(), at: header::LEN + apex };
        if !copy_answers(set, &mut look, Some(suffix), &mut response) {
            count(Event::TruncatedAnswer);
            response.set_truncated();
        } else if set.rtype == rtype::SRV {
            add_additional(table, set, look.name, query.question_end, &mut response);
        }
        return reply(response, rcode::NOERROR, authoritative);
    }
    if let Some(alias) = entry.get(rtype::CNAME) {
        return answer_by_alias(look, alias, query, response, count);
    }
    let (apex, zone) = table.zone_of_found(look.name);
    let soa = zone.soa_record(header::LEN + apex);
    if apex == 0 && qtype == rtype::SOA && soa.len() <= response.room() {
        count(Event::Positive);
        response.answer_with(1, soa.len(), |out| out.copy_from_slice(&soa));
    } else {
        count(Event::NoData);
        response.authority(&soa);
    }
    reply(response, rcode::NOERROR, authoritative)
}

/// Answers for a name that is another name for something, ours or not.
#[cold]
fn answer_by_alias<'a>(
    mut look: Look<'a>,
    alias: RecordSet<'a>,
    query: &Query,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    let mut target = QueryName::default();
    let outside = external::leads_outside(&mut look, alias, query, &response, &mut target);
    if let Outside::Ask = outside {
        return Verdict::Forward;
    }
    let (mut code, left) = follow_alias(&mut look, alias, query.qtype, &mut response, &mut count);
    if let (Outside::Known, Some(target_at), Some(resolver)) = (outside, left, look.resolver) {
        code = external::append(&target, target_at, resolver, query, &mut response);
    }
    reply(response, code, is_authoritative(query))
}

/// Answers for a name that is in none of our domains.
///
/// One of a single label is what is left of a search path: a name of the first domain, or none. Refused, it would send the
/// client to the next server, or have it wait for one that does better; so as for all such names we speak for the root.
#[cold]
fn not_ours(
    look: Look<'_>,
    elsewhere: Option<&mut Elsewhere>,
    query: &Query,
    mut response: Response<'_>,
    mut count: impl FnMut(Event),
) -> Verdict {
    if !look.name.is_single_label() {
        // A reverse name is of the node that has its address.
        match elsewhere
            .filter(|_| look.name.is_reverse())
            .map(|elsewhere| elsewhere.find(look.name.as_wire()))
        {
            Some(Finding::Entry(entry)) => return found(look, entry, query, response, count),
            Some(Finding::Unknown) => return Verdict::Ask,
            Some(Finding::Nobody { .. }) | None => {}
        }
        count(Event::Refused);
        response.explain(ExtendedError::NotAuthoritative);
        return reply(response, rcode::REFUSED, false);
    }
    if look.resolver.is_some()
        && let Some(reserved) = external::localhost(look.name, query)
    {
        return external::answer_reserved(reserved, query, response, count);
    }
    let qualified = look.table.qualify(look.name);
    if let Some(entry) = qualified.as_ref().and_then(|qualified| look.table.lookup(qualified)) {
        return found(look, entry, query, response, count);
    }
    if let (Some(elsewhere), Some(qualified)) = (elsewhere, qualified) {
        match elsewhere.find(qualified.as_wire()) {
            Finding::Entry(entry) => return found(look, entry, query, response, count),
            Finding::Nobody { .. } => {}
            Finding::Unknown => {
                *look.name = qualified;
                return Verdict::Ask;
            }
        }
    }
    response.authority(look.table.root_soa_record());
    // What is above a domain exists, whatever it has (RFC 8020 §2).
    let (event, code) = if look.table.is_above_a_zone(look.name) {
        (Event::NoData, rcode::NOERROR)
    } else {
        (Event::NxDomain, rcode::NXDOMAIN)
    };
    count(event);
    reply(response, code, is_authoritative(query))
}
