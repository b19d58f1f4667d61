//! What goes into the answerer and comes out of it.
//!
//! Shared by all files of this room, so that these need not import each other.

use std::net::IpAddr;

use smallvec::SmallVec;

use super::access::Access;
use super::identity::Identity;
use crate::policy::arrange::Chance;
use crate::resolver::Resolver;
use crate::resolver::question::Question;
use crate::table::Table;
use crate::wire::edns::MAX_PASSED_BY;
use crate::wire::name::QueryName;
use crate::wire::query::Query;
use crate::wire::record::CLASS_IN;
use crate::wire::response::{Response, Transport};

/// Aliases followed for one query. Nobody needs as many; BIND follows as many.
pub(crate) const MAX_ALIASES: usize = crate::limits::MAX_ALIASES;

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
    /// The other nodes have to be asked for the name that the answerer has [in hand](Answerer::name); the query is as it
    /// was. Only in the designs that ask.
    Ask,
    /// Upstreams have to be asked what the answerer has [in hand](Answerer::wanted); the query is as it was.
    Forward,
    /// It is for another thread: an update of a zone, or something signed. The message is as it was.
    HandOver,
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
    /// It came a while ago and has waited for other nodes; it has had its share of the rate limit then.
    pub waited: bool,
}

/// What all workers of a server have in common.
pub struct Service {
    /// Who may ask.
    pub access: Access,
    /// Who may say for whom it asks (RFC 7871), if anybody.
    pub forwarders: Option<Access>,
    /// What the server says of itself.
    pub identity: Identity,
    /// Responses a second that a worker gives to one client network over UDP; 0 for no limit.
    pub rate_limit: u32,
    /// Bytes of a response over UDP at most.
    pub udp_len: u16,
    /// Somebody is there for updates and for what is signed.
    pub hands_over: bool,
}

/// What an answer is looked up with.
pub(crate) struct Look<'a> {
    pub(crate) table: &'a Table,
    /// The question's name.
    pub(crate) name: &'a mut QueryName,
    pub(crate) chance: &'a mut Chance,
    pub(crate) origin: &'a Origin,
    /// What is not in the table does not exist.
    pub(crate) complete: bool,
    /// Who knows of names that are not ours, if anybody.
    pub(crate) resolver: Option<&'a mut Resolver>,
    /// What has to be asked for.
    pub(crate) wanted: &'a mut Wanted,
}

/// What upstreams have to be asked.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    pub(crate) qtype: u16,
    pub(crate) dnssec_ok: bool,
    pub(crate) checking_disabled: bool,
    /// The group of upstreams.
    pub group: u16,
    /// The servers that have passed the question on, and this one.
    pub passed_by: SmallVec<[u64; MAX_PASSED_BY]>,
}

impl Wanted {
    /// The question, with the name that is in hand.
    pub(crate) fn question<'a>(&self, name: &'a QueryName) -> Question<'a> {
        Question {
            name: name.as_wire(),
            name_hash: name.hash(),
            qtype: self.qtype,
            dnssec_ok: self.dnssec_ok,
            checking_disabled: self.checking_disabled,
        }
    }
}

/// Over all classes at once nobody has authority (RFC 1035 §6.2).
#[inline]
pub(crate) fn is_authoritative(query: &Query) -> bool {
    query.qclass == CLASS_IN
}

#[inline]
pub(crate) fn reply(mut response: Response<'_>, code: u8, authoritative: bool) -> Verdict {
    Verdict::Reply { len: response.finish(code, authoritative) }
}
