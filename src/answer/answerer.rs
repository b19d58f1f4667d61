//! The one pure function that answers a message, whatever it came by.
//!
//! Runs on the workers. Bytes and a table in, a verdict out, the response in the query's own buffer: no I/O, no clock,
//! no allocation, and no panic whatever the bytes are.

use std::sync::Arc;

use super::answer_section::{add_additional, follow_cname, write_rrset};
use super::chaos;
use super::errors::{self, ErrorAnswer};
use super::external::{self, AliasTarget, OutOfZone};
use super::handicap::handicap;
use super::identity::ShownCookie;
use super::metrics::Event;
use super::rate_limit::{RateDecision, RateLimiter};
use super::service::Service;
use super::types::{Deferred, LookupContext, LookupState, Message, Origin, Turn, Verdict, reply};
use crate::policy::arrange::Chance;
use crate::query_time::{PeerLookup, PeerResult};
use crate::resolver::Resolver;
use crate::sys::published::Reader;
use crate::table::{Entry, MAX_TOGETHER, RecordSet, SOA_TTL, Table};
use crate::wire::cookie::Secrets;
use crate::wire::edns::Options;
use crate::wire::header::{self, rcode};
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::{CLASS_ANY, CLASS_IN, rtype};
use crate::wire::response::{Response, Suffix, Transport, refusal};

/// What one worker needs to answer, kept from message to message so that nothing has to be set up for each.
pub struct Answerer {
    service: Arc<Service>,
    secrets: Reader<Secrets>,
    limiter: RateLimiter,
    /// Names of questions that were read together before they are answered, and behind them one of a question that was
    /// not.
    names: Box<[QueryName]>,
    state: LookupState,
    /// What other nodes have said of names that are not in the table; nothing in the `gossip` design.
    peers: Option<PeerLookup>,
}

/// What a table has of names that were looked up together.
pub struct BatchLookup<'t> {
    entries: [Option<Entry<'t>>; MAX_TOGETHER],
}

/// Where the name of a question is that was not prefetched.
const NOT_PREFETCHED: usize = MAX_TOGETHER;

impl Answerer {
    /// An answerer that makes its cookies with `secrets` and draws its random orders from `rng`.
    // cold: made once, at the start of a worker
    #[must_use]
    pub fn new(service: Arc<Service>, secrets: Reader<Secrets>, rng: fastrand::Rng) -> Self {
        let limiter = RateLimiter::new(service.rate_limit);
        Self {
            service,
            secrets,
            limiter,
            names: (0..=NOT_PREFETCHED).map(|_| QueryName::default()).collect(),
            state: LookupState { chance: Chance::new(rng), resolver: None, is_complete: true },
            peers: None,
        }
    }

    /// Has names that are not in the table looked for in what other nodes say.
    pub fn set_peers(&mut self, peers: PeerLookup) {
        self.peers = Some(peers);
        self.state.is_complete = false;
    }

    /// What other nodes have said of names that are not in the table.
    pub fn peers(&mut self) -> Option<&mut PeerLookup> {
        self.peers.as_mut()
    }

    /// Has names out of our zones looked for by `resolver`.
    pub fn set_resolver(&mut self, resolver: Resolver) {
        self.state.resolver = Some(resolver);
    }

    /// What is known of names out of our zones.
    pub fn resolver(&mut self) -> Option<&mut Resolver> {
        self.state.resolver.as_mut()
    }

    /// Reads the name in the first `len` bytes of `buffer`, the `i`-th of some, below [`MAX_TOGETHER`], which will be
    /// [looked up](Self::look_up) together.
    ///
    /// # Panics
    /// If `buffer` is shorter than [`MIN_BUFFER_LEN`](crate::wire::query::MIN_BUFFER_LEN): a fault of the transport.
    #[inline]
    pub fn prefetch(&mut self, table: &Table, i: usize, (buffer, len): (&[u8], usize)) {
        // What is wrong with it is found out when it is answered.
        let _ = self.names[i].fold_question(buffer, len, table.seed());
    }

    /// Looks up the names of the first `count` queries that were prefetched.
    #[inline]
    #[must_use]
    pub fn look_up<'t>(&self, table: &'t Table, count: usize) -> BatchLookup<'t> {
        BatchLookup { entries: table.lookup_together(&self.names[..count.min(MAX_TOGETHER)]) }
    }

    /// Turns a query into a response that says that it cannot be answered now; returns its length. Which event that is,
    /// its caller knows and counts.
    #[cold]
    #[must_use]
    pub fn fail(&self, message: Message<'_>) -> usize {
        refusal(message.buffer, message.len, rcode::SERVFAIL, self.service.udp_len)
    }

    /// Answers a query.
    ///
    /// # Panics
    /// If the buffer is shorter than [`MIN_BUFFER_LEN`](crate::wire::query::MIN_BUFFER_LEN): a fault of the transport.
    #[inline]
    pub fn answer(&mut self, turn: &Turn<'_>, message: Message<'_>, origin: Origin) -> Verdict {
        self.answer_named(None, turn, message, origin)
    }

    /// The same for the `i`-th query of those [prefetched](Self::prefetch), which is as it was then, by what was found
    /// in the turn's table.
    ///
    /// # Panics
    /// The same; or if `i` is not below [`MAX_TOGETHER`].
    #[inline(always)]
    pub fn answer_prefetched(
        &mut self,
        (i, found): (usize, &BatchLookup<'_>),
        turn: &Turn<'_>,
        message: Message<'_>,
        origin: Origin,
    ) -> Verdict {
        self.answer_named(Some((i, found.entries[i])), turn, message, origin)
    }

    /// Answers; for a name that was prefetched, with its place among those and what was found of it.
    #[inline(always)]
    fn answer_named(
        &mut self,
        prefetched: Option<(usize, Option<Entry<'_>>)>,
        turn: &Turn<'_>,
        message: Message<'_>,
        origin: Origin,
    ) -> Verdict {
        let Self { service, secrets, limiter, names, state, peers } = self;
        let name = &mut names[prefetched.map_or(NOT_PREFETCHED, |(at, _)| at)];
        let known = prefetched.map(|(_, entry)| entry).filter(|_| name.len() > 0);
        let (client, table) = (origin.client, turn.table);
        let Message { buffer, len } = message;
        handicap();
        // Both are filled in where they stand: to hand them over would cost more than to make them.
        let (mut query, mut options, mut shown) = (Query::default(), Options::default(), ShownCookie::None);
        let parsed = query.read(buffer, len, || match known {
            Some(_) => Ok(name.len()),
            None => name.fold_question(buffer, len, table.seed()),
        });
        if let Err(fault) = parsed {
            let message = Message { buffer, len };
            return errors::reject(fault, (service, limiter), turn, (message, origin));
        }
        if query.signed && service.offloads {
            return Verdict::Defer(Deferred::Offload);
        }
        if let Some(edns) = &query.edns {
            (options, shown) = service.identity.options(edns, secrets.load(), origin, turn.now_s);
        }
        let subnet;
        if let Some(forwarders) = &service.forwarders {
            let edns = query.edns.filter(|_| forwarders.allows(client));
            subnet = edns.and_then(|edns| edns.client_subnet(buffer));
            options.client_subnet = subnet.as_ref();
        }
        let is_limited = origin.transport == Transport::Udp && shown != ShownCookie::Good && !origin.deferred;
        let decision = if is_limited { limiter.take(client, turn.now_s) } else { RateDecision::Answer };
        if decision != RateDecision::Answer {
            options.nsid = None;
            let mut response = Response::new(buffer, &query, origin.transport, service.udp_len, &options);
            return errors::over_limit(decision, &mut response, turn);
        }
        let mut response = Response::new(buffer, &query, origin.transport, service.udp_len, &options);
        if state.resolver.is_some() {
            response.offer_recursion();
        }
        match Kind::of(&query, service, client) {
            Kind::Lookup => {}
            Kind::Chaos => return chaos::answer(&service.identity, (name, &query), &mut response, turn),
            Kind::CookieAlone => return errors::cookie_alone(shown, &mut response, turn),
            Kind::Error(error) => return errors::write(error, &mut response, turn),
        }
        let mut context = LookupContext { turn, query: &query, origin: &origin, name, state };
        let Some(entry) = known.unwrap_or_else(|| table.lookup(context.name)) else {
            return missing(&mut context, peers, &mut response);
        };
        // The usual way is the shortest: to hand all of this to another function costs more than the copying of
        // addresses.
        if matches!(query.qtype, rtype::A | rtype::AAAA)
            && let Some(set) = entry.get(query.qtype)
        {
            return addresses(&mut context, set, &mut response);
        }
        found(&mut context, entry, &mut response)
    }
}

/// What a well-formed query is. Decided once.
enum Kind {
    /// Names are looked up for it.
    Lookup,
    /// It asks what the server says of itself, or in a class that we have nothing in.
    Chaos,
    /// It asks for a cookie alone (RFC 7873 §5.4).
    CookieAlone,
    /// It is refused.
    Error(ErrorAnswer),
}

impl Kind {
    #[inline(always)]
    fn of(query: &Query, service: &Service, client: std::net::IpAddr) -> Self {
        // The version comes first: what it means for all else, we do not know (RFC 6891 §6.1.3).
        if query.edns.is_some_and(|edns| edns.version != 0) {
            return Self::Error(ErrorAnswer::BadVersion);
        }
        if !service.access.allows(client) {
            return Self::Error(ErrorAnswer::Prohibited);
        }
        if !query.has_question() {
            return Self::CookieAlone;
        }
        if matches!(query.qtype, rtype::AXFR | rtype::IXFR) {
            return Self::Error(ErrorAnswer::NotSupported);
        }
        if matches!(query.qclass, CLASS_IN | CLASS_ANY) { Self::Lookup } else { Self::Chaos }
    }
}

/// Answers for a name that is not in the table: it does not exist, is known by other nodes, or is out of our zones.
#[inline]
fn missing(
    context: &mut LookupContext<'_>,
    peers: &mut Option<PeerLookup>,
    response: &mut Response<'_>,
) -> Verdict {
    let Some((apex, zone)) = context.turn.table.zone_of(context.name) else {
        return out_of_zone(context, peers, response);
    };
    let mut soa = zone.soa_record(header::LEN + apex);
    if let Some(peers) = peers {
        match peers.find(context.name.as_wire()) {
            PeerResult::Entry(entry) => return found(context, entry, response),
            PeerResult::Unknown => return Verdict::Defer(Deferred::Peers(context.name.clone())),
            PeerResult::Nobody { ttl_s } => soa[SOA_TTL].copy_from_slice(&ttl_s.to_be_bytes()),
        }
    }
    context.count(Event::NxDomain);
    response.authority(&soa);
    reply(response, rcode::NXDOMAIN, context.is_authoritative())
}

/// Answers with addresses.
#[inline(always)]
fn addresses(context: &mut LookupContext<'_>, set: RecordSet<'_>, response: &mut Response<'_>) -> Verdict {
    context.count(Event::Positive);
    if !write_rrset(set, context, None, response) {
        context.count(Event::TruncatedAnswer);
        response.set_truncated();
    }
    Verdict::Reply { len: response.finish(rcode::NOERROR, context.is_authoritative()) }
}

/// Answers for a name that exists.
#[inline(never)]
fn found(context: &mut LookupContext<'_>, entry: Entry<'_>, response: &mut Response<'_>) -> Verdict {
    let (table, qtype) = (context.turn.table, context.query.qtype);
    let set = if qtype == rtype::ANY {
        entry.answerable().next() // one of the sets there are is answer enough (RFC 8482 §4.1)
    } else {
        entry.get(qtype)
    };
    if let Some(set) = set {
        if matches!(set.rtype, rtype::A | rtype::AAAA) {
            return addresses(context, set, response);
        }
        context.count(Event::Positive);
        let (apex, zone) = table.zone_of_found(context.name);
        let suffix = Suffix { name: zone.lower_case_wire(), at: header::LEN + apex };
        if !write_rrset(set, context, Some(suffix), response) {
            context.count(Event::TruncatedAnswer);
            response.set_truncated();
        } else if set.rtype == rtype::SRV {
            add_additional(context, set, response);
        }
        return reply(response, rcode::NOERROR, context.is_authoritative());
    }
    if let Some(alias) = entry.get(rtype::CNAME) {
        return answer_by_alias(context, alias, response);
    }
    let (apex, zone) = table.zone_of_found(context.name);
    let soa = zone.soa_record(header::LEN + apex);
    if apex == 0 && qtype == rtype::SOA && soa.len() <= response.room() {
        context.count(Event::Positive);
        response.answer_with(1, soa.len(), |out| out.copy_from_slice(&soa));
    } else {
        context.count(Event::NoData);
        response.authority(&soa);
    }
    reply(response, rcode::NOERROR, context.is_authoritative())
}

/// Answers for a name that is another name for something, in our zones or not.
#[cold]
fn answer_by_alias(
    context: &mut LookupContext<'_>,
    alias: RecordSet<'_>,
    response: &mut Response<'_>,
) -> Verdict {
    let mut target = QueryName::default();
    let external = external::alias_target(context, alias, response, &mut target);
    if let AliasTarget::Unknown(query) = external {
        return Verdict::Defer(Deferred::Upstream(query));
    }
    let (mut code, left) = follow_cname(context, alias, response);
    if let (AliasTarget::Known, Some(target_at)) = (external, left) {
        code = external::append(context, (&target, target_at), response);
    }
    reply(response, code, context.is_authoritative())
}

/// Answers for a name that is in none of our zones: by what upstreams have said, or it is refused.
#[inline]
fn out_of_zone(
    context: &mut LookupContext<'_>,
    peers: &mut Option<PeerLookup>,
    response: &mut Response<'_>,
) -> Verdict {
    if context.name.is_single_label() {
        return match external::decide_query(context, response) {
            OutOfZone::SearchPath => search_path(context, peers, response),
            OutOfZone::Special(special) => {
                external::answer_special(special, (context.turn, context.query), response)
            }
            OutOfZone::Upstream(_) | OutOfZone::Refused => external::answer(context, response),
        };
    }
    if context.state.resolver.is_some() {
        return external::answer(context, response);
    }
    not_forwarded(context, peers, response)
}

#[cold]
fn not_forwarded(
    context: &mut LookupContext<'_>,
    peers: &mut Option<PeerLookup>,
    response: &mut Response<'_>,
) -> Verdict {
    // A reverse name is of the node that has its address.
    let peers = peers.as_mut().filter(|_| context.name.is_reverse());
    match peers.map(|peers| peers.find(context.name.as_wire())) {
        Some(PeerResult::Entry(entry)) => found(context, entry, response),
        Some(PeerResult::Unknown) => Verdict::Defer(Deferred::Peers(context.name.clone())),
        Some(PeerResult::Nobody { .. }) | None => {
            errors::write(ErrorAnswer::NotAuthoritative, response, context.turn)
        }
    }
}

/// Answers for a name of a single label that is what is left of a search path: it is a name of the first domain, or
/// there is none. Refused, it would send the client to the next server, or have it wait for one that does better; so as
/// for all such names we speak for the root.
#[cold]
fn search_path(
    context: &mut LookupContext<'_>,
    peers: &mut Option<PeerLookup>,
    response: &mut Response<'_>,
) -> Verdict {
    let table = context.turn.table;
    let qualified = table.qualify(context.name);
    if let Some(entry) = qualified.as_ref().and_then(|qualified| table.lookup(qualified)) {
        return found(context, entry, response);
    }
    if let (Some(peers), Some(qualified)) = (peers, qualified) {
        match peers.find(qualified.as_wire()) {
            PeerResult::Entry(entry) => return found(context, entry, response),
            PeerResult::Nobody { .. } => {}
            PeerResult::Unknown => return Verdict::Defer(Deferred::Peers(qualified)),
        }
    }
    response.authority(table.root_soa_record());
    // What is above a domain exists, whatever it has (RFC 8020 §2).
    let (event, code) = if table.is_above_a_zone(context.name) {
        (Event::NoData, rcode::NOERROR)
    } else {
        (Event::NxDomain, rcode::NXDOMAIN)
    };
    context.count(event);
    reply(response, code, context.is_authoritative())
}
