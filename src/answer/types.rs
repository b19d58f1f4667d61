//! What goes into the answerer and comes out of it.
//!
//! Shared by all files of this room, so that these need not import each other.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::metrics::{Counters, Event};
use crate::policy::arrange::Chance;
use crate::resolver::Resolver;
use crate::resolver::question::Question;
use crate::table::Table;
use crate::wire::edns::MAX_PASSED_BY;
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::CLASS_IN;
use crate::wire::response::{Response, Transport};

/// Aliases that a chain may have in an answer.
pub(crate) const MAX_ALIASES: usize = crate::limits::MAX_ALIASES;

/// What to do with a message.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // a box would be an allocation, and only who defers writes the large one
pub enum Verdict {
    /// Send the first `len` bytes of its buffer back.
    Reply {
        /// Bytes of response.
        len: usize,
    },
    /// Send nothing.
    Drop,
    /// Something else has to be done first. The message is as it was.
    Defer(Deferred),
}

/// What has to be done before a message can be answered.
#[derive(Debug)]
pub enum Deferred {
    /// The zone thread has to answer it: an update of a zone, or something signed.
    Offload,
    /// Upstreams have to be asked. When they have answered, the message goes through the answerer once more.
    Upstream(UpstreamQuery),
    /// The other nodes have to be asked for this name, and then the same. Only in the designs that ask at query time.
    Peers(QueryName),
}

/// What upstreams have to be asked.
#[derive(Clone, Debug)]
pub struct UpstreamQuery {
    name: QueryName,
    qtype: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
    /// The number of the group of upstreams.
    pub group: u16,
    /// The servers that have passed the question on, and this one.
    pub passed_by: SmallVec<[u64; MAX_PASSED_BY]>,
}

impl UpstreamQuery {
    /// The `question` about `name`, for the upstreams of this `group`.
    pub(crate) fn new(name: &QueryName, question: &Question<'_>, group: u16) -> Self {
        let Question { qtype, dnssec_ok, checking_disabled, .. } = *question;
        let passed_by = SmallVec::new();
        Self { name: name.clone(), qtype, dnssec_ok, checking_disabled, group, passed_by }
    }

    /// The question.
    #[must_use]
    pub fn question(&self) -> Question<'_> {
        Question {
            name: self.name.as_wire(),
            name_hash: self.name.hash(),
            qtype: self.qtype,
            dnssec_ok: self.dnssec_ok,
            checking_disabled: self.checking_disabled,
        }
    }
}

/// A message in a buffer that has room for its response.
#[derive(Debug)]
pub struct Message<'a> {
    /// The message, and room. At least [`MIN_BUFFER_LEN`](crate::wire::query::MIN_BUFFER_LEN) bytes.
    pub buffer: &'a mut [u8],
    /// Bytes of the message.
    pub len: usize,
}

impl Message<'_> {
    /// The same message, for somebody who gives it back.
    pub(crate) fn reborrow(&mut self) -> Message<'_> {
        Message { buffer: self.buffer, len: self.len }
    }
}

/// What holds for all messages that a worker answers in one turn.
#[derive(Clone, Copy)]
pub struct Turn<'a> {
    /// The names of our zones.
    pub table: &'a Table,
    /// Where is counted what the messages were.
    pub counters: &'a Counters,
    /// Seconds since 1970: cookies have their age.
    pub now_s: u32,
}

/// Where a message came from.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// How it came.
    pub transport: Transport,
    /// Who sent it.
    pub client: IpAddr,
    /// It came a while ago and was deferred; it has had its share of the rate limit then.
    pub deferred: bool,
}

/// What an answer is looked up with.
pub(crate) struct LookupContext<'a> {
    pub(crate) turn: &'a Turn<'a>,
    pub(crate) query: &'a Query,
    pub(crate) origin: &'a Origin,
    /// The question's name.
    pub(crate) name: &'a mut QueryName,
    pub(crate) state: &'a mut LookupState,
}

/// What lookups need and keep from message to message.
pub(crate) struct LookupState {
    pub(crate) chance: Chance,
    /// What is known of names out of our zones, if they are looked for.
    pub(crate) resolver: Option<Resolver>,
    /// What is not in the table does not exist: other nodes are not asked.
    pub(crate) is_complete: bool,
}

impl LookupContext<'_> {
    #[inline]
    pub(crate) fn count(&self, event: Event) {
        self.turn.counters.count(event);
    }

    /// Whether we speak for our zones. Over all classes at once nobody has authority (RFC 1035 §6.2).
    #[inline]
    pub(crate) fn is_authoritative(&self) -> bool {
        self.query.qclass == CLASS_IN
    }
}

#[inline]
pub(crate) fn reply(response: &mut Response<'_>, code: u8, authoritative: bool) -> Verdict {
    Verdict::Reply { len: response.finish(code, authoritative) }
}
