//! What the control listener asks of the node, and what it is told: the same words on both sides of the HTTP API, and
//! in the command line that speaks it.
//!
//! Changes are asked for by the threads `http` and `zones`, made by the owner of the registrations, and answered
//! through the channel that each brings. What is read is read by the thread that asks ([`View`]).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::api::external::{CachedMessage, Forwarding, Outside, Replies, WorkerCache};
use crate::api::timing::Timing;
use crate::policy::select::Health;
use crate::store::{Attributes, Cursor, Key, NameSet, Record, STATEMENT_INSTANCE, Target};
use crate::wire::name::Name;

/// The instance of registrations that are made by hand.
pub const DEFAULT_INSTANCE: &str = "manual";

/// The instance that a node's own addresses belong to.
pub const NODE_INSTANCE: &str = "node";

/// Instances that a node keeps for what it registers itself.
const RESERVED_INSTANCES: [&str; 3] = ["files", NODE_INSTANCE, STATEMENT_INSTANCE];

/// What the instances of containers begin with; behind it is the container's id, as short as `docker ps` has it.
pub const CONTAINER_PREFIX: &str = "docker:";

/// Whether requests cannot change what belongs to an instance: it is the node's own.
#[must_use]
pub fn is_reserved(instance: &str) -> bool {
    RESERVED_INSTANCES.contains(&instance) || instance.starts_with(CONTAINER_PREFIX)
}

/// Registrations in one request at most.
pub const MAX_ADDITIONS: usize = crate::limits::MAX_ADDITIONS;

/// Where an answer goes. Whoever asked may have gone meanwhile.
pub type Reply<T> = oneshot::Sender<T>;

/// A change that is asked for.
pub enum Request {
    /// Change registrations in these steps, all or none.
    Change(Vec<Change>, Reply<Result<Changed, Rejected>>),
    /// Update a zone, wholly or not at all; back comes a response code (RFC 2136 §2.2).
    Update(ZoneUpdate, Reply<Result<u8, Rejected>>),
    /// Set the value of a directive to the whole cluster, or take it back. Back comes whether it was not so already;
    /// answers have followed by then.
    Direct(Target, Option<Box<[u8]>>, Reply<Result<bool, Rejected>>),
    /// Note how the addresses of an instance are, those that nobody else checks. Back comes how many they are.
    Report(Box<str>, Health, Reply<usize>),
    /// Tell that the owner does its work, before all changes.
    Ping(Reply<()>),
}

/// What has become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Queued {
    /// It waits for its turn.
    Waits,
    /// Too many wait already.
    Full,
    /// The node is stopping.
    Stopping,
}

/// What is read of a node, on the thread that asks. Nothing in it takes longer than a millisecond, however much is
/// registered: what concerns very many registrations is read page by page.
pub trait View: Send + Sync {
    /// The registrations that `filter` says, as far as they are among the next [`PAGE`] from `from` on.
    fn page(&self, filter: &Filter, from: Cursor) -> Page {
        self.page_of(filter, from, usize::MAX)
    }
    /// The same, but not more than `most`.
    fn page_of(&self, filter: &Filter, from: Cursor, most: usize) -> Page;
    /// The directives that are in force.
    fn directives(&self) -> Vec<Directive>;
    /// Adds to `effect` what a directive about `target` concerns, as far as it is among the next [`PAGE`]
    /// registrations. Returns where the next page begins.
    fn effect(&self, target: &Target, from: Cursor, effect: &mut Effect) -> Option<Cursor>;
    /// Why a name has the answers that it has.
    fn explain(&self, name: &Name) -> Explanation;
    /// Who is in the cluster.
    fn members(&self) -> Vec<Member>;
    /// How the node is.
    fn status(&self) -> Status;
    /// Whether what is registered here survives the node.
    fn is_durable(&self) -> bool;
    /// What the node waits for before it should be asked, if anything.
    fn waits_for(&self) -> Option<String>;
    /// Has each change sent to `events`, until nobody listens any more. False if there are too many already.
    fn subscribe(&self, events: mpsc::Sender<Event>) -> bool;
    /// Whether a container runs; nobody knows without Docker.
    fn is_running(&self, container: &str) -> Option<bool>;
    /// Has each worker say what its cache holds. Where names in other domains are not asked for, none has one, here as
    /// below. Returns whether all have room for that.
    fn caches(&self, replies: &Replies<WorkerCache>) -> bool;
    /// Has each say what it has cached of a name, which is in lower case.
    fn cached(&self, name: &Name, replies: &Replies<Vec<CachedMessage>>) -> bool;
    /// Has each forget a name, with all below it if that is said, or else everything, and say how many answers that
    /// was.
    fn flush(&self, what: Option<(Name, bool)>, replies: &Replies<usize>) -> bool;
}

/// Registrations that are looked at for a page.
pub const PAGE: usize = 512;

/// A part of a listing.
#[derive(Debug, Default)]
pub struct Page {
    /// What was found; nothing, perhaps, though there is more.
    pub registrations: Vec<Registration>,
    /// Where the next part begins.
    pub next: Option<Cursor>,
}

/// What a directive concerns.
#[derive(Default)]
pub struct Effect {
    /// Names whose answers it is about.
    pub names: NameSet,
    /// Those of them that have no address left in answers, [`MAX_EMPTIED`] at most.
    pub emptied: Vec<String>,
    /// The longest that a client may keep an answer of before.
    pub ttl_s: u32,
}

/// Names without an address that are told at most.
pub const MAX_EMPTIED: usize = 100;

/// A step of a request that changes registrations.
#[derive(Clone, Debug)]
pub enum Change {
    /// Register this, or say something else of it.
    Put(Key, Attributes),
    /// Remove these.
    Remove(Selector),
}

/// Which registrations are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Filter {
    /// All.
    All,
    /// Those whose names have this part, in lower case.
    Part(Box<str>),
    /// Those of this name.
    Name(Name),
    /// Those that lead to this address.
    Address(IpAddr),
    /// Those of this instance.
    Instance(Box<str>),
}

/// Which registrations are to go, of those that were made by request at this node: those of which all holds that is
/// said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    /// They have this name, in lower case.
    pub name: Option<Name>,
    /// They belong to this instance.
    pub instance: Option<Box<str>>,
    /// They lead to one of these addresses, if there are any.
    pub addresses: Vec<IpAddr>,
    /// They are of this type.
    pub rtype: Option<u16>,
    /// They have this data.
    pub rdata: Option<Box<[u8]>>,
}

impl Selector {
    /// Whether all that is said holds of a registration, but for its instance.
    #[must_use]
    pub fn matches(&self, record: &Record<'_>) -> bool {
        let address = || record.address().is_some_and(|address| self.addresses.contains(&address));
        self.name.as_ref().is_none_or(|name| record.name == name.as_wire())
            && self.rtype.is_none_or(|rtype| record.rtype == rtype)
            && self.rdata.as_ref().is_none_or(|rdata| *record.rdata == **rdata)
            && (self.addresses.is_empty() || address())
    }
}

/// An update of a zone (RFC 2136).
#[derive(Clone, Debug)]
pub struct ZoneUpdate {
    /// The zone, in lower case, as are all names here.
    pub zone: Name,
    /// What has to hold beforehand.
    pub prerequisites: Vec<Prerequisite>,
    /// What is to be changed then.
    pub changes: Vec<Change>,
}

/// What has to hold before an update is made (RFC 2136 §2.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Prerequisite {
    /// The name has records.
    NameInUse(Name),
    /// It has none.
    NameNotInUse(Name),
    /// The name has records of this type.
    SetExists(Name, u16),
    /// It has none.
    NoSet(Name, u16),
    /// It has these, and no others.
    SetIs(Name, u16, Vec<Box<[u8]>>),
}

/// Why nothing was changed, in the node's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// The node cannot do it now.
    Unable(String),
    /// There would be more than there can be.
    OverLimit(String),
}

/// Something to register, as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// The name; without a dot it is in the node's first domain.
    pub name: String,
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// What they belong to, for example a container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<String>,
    /// Seconds for which clients may keep the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    /// The port of its service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The service as `_http._tcp`, `http/tcp` or `http` (RFC 2782).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How often the addresses are to be chosen, compared with the name's others: from 0, never, to 65535.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// They are used when those of lower tiers do not suffice: from 0, the default, to 15.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<u32>,
    /// How the node finds out whether they are well, like `tcp:80,interval=5s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// Seconds for which their weight is ramped up when they are new or well again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_start_s: Option<u32>,
}

/// What came of a request that changes registrations.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Registrations that are new, or say something else than before.
    pub added: usize,
    /// Registrations that were there already.
    pub unchanged: usize,
    /// Registrations that are gone.
    pub removed: usize,
    /// Whether they survive the end of the node: it has a data directory.
    pub durable: bool,
    /// Of names that were to be removed, nodes that have registered them, too, and that alone can remove that.
    #[serde(default)]
    pub elsewhere: Vec<String>,
    /// Of names that were to be removed, registrations that this node has from files or containers, and that go with
    /// these.
    #[serde(default)]
    pub in_files: usize,
}

/// What came of a directive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directed {
    /// Whether it was not so already.
    pub changed: bool,
    /// Whether it survives the end of the node: it has a data directory.
    pub durable: bool,
    /// Names whose answers it is about.
    pub names: usize,
    /// Those of them that have no address left in answers, a hundred at most.
    pub emptied: Vec<String>,
    /// After so many seconds no client that keeps to it uses an answer of before.
    pub ttl_s: u32,
}

/// A directive that is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Directive {
    /// `drain` or `policy`.
    pub kind: String,
    /// Of what: an address, an instance, a node's name, a name, `*.` and a domain, or `*`.
    pub of: String,
    /// What `of` is: `address`, `instance`, `node`, `name`, `domain` or `default`.
    pub scope: String,
    /// The policy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
}

/// A policy, as it is asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyBody {
    /// As text.
    pub policy: String,
}

/// Why a name has the answers that it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The name.
    pub name: String,
    /// By which policy its addresses are chosen, if it is in one of the node's domains.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub policy: String,
    /// So little is healthy that addresses are in answers whatever their health and tier.
    #[serde(default)]
    pub panic: bool,
    /// All that is registered under it, at any node.
    pub records: Vec<Explained>,
    /// What is done about it, if it is in none of the node's domains.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<Outside>,
}

/// Why a record is in answers, or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explained {
    /// The type of the record.
    #[serde(rename = "type")]
    pub rtype: String,
    /// Its data, as in a zone file.
    pub data: String,
    /// Whether it is in answers.
    pub in_answers: bool,
    /// Why it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// The part of the answers that are to begin with it, where the policy says that: with `hash` of those to many
    /// clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share: Option<f64>,
    /// What it belongs to.
    pub instance: String,
    /// The node that has registered it.
    pub node: String,
    /// That node's id.
    pub node_id: String,
    /// Its weight, if it is an address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// The part of its weight that it has by now, if it is being ramped up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp: Option<f64>,
    /// Its tier.
    pub tier: u8,
    /// `unknown`, `up` or `down`.
    pub health: String,
    /// How that is found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check: Option<String>,
    /// What was found out last, as far as this node knows: the one that checks does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found: Option<String>,
    /// Seconds for which clients may keep it, if that is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    /// For how long it has been so, as far as this node knows, to the second: it may have learnt of it later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age_s: Option<f64>,
}

/// A registration, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// Its name, with a dot at the end.
    pub name: String,
    /// The type of its record.
    #[serde(rename = "type")]
    pub rtype: String,
    /// The data of its record, as in a zone file.
    pub data: String,
    /// What it belongs to.
    pub instance: String,
    /// Seconds for which clients may keep it, if that is its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl_s: Option<u32>,
    /// The name of the node that has registered it.
    pub node: String,
    /// That node's id.
    pub node_id: String,
    /// Whether that node is up: its registrations are withheld from answers if not.
    pub up: bool,
    /// `up` or `down`, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Member {
    /// What it calls itself.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Whether it is `self`, `up` or `down`.
    pub state: String,
    /// Where it gossips.
    pub gossip: Option<SocketAddr>,
    /// Where it answers DNS queries, if that is known.
    pub dns: Option<SocketAddr>,
    /// Its registrations, as far as they are known here.
    pub registrations: usize,
    /// Since when it has been down, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub down_s: Option<f64>,
}

/// How a node is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The release.
    pub version: String,
    /// What it calls itself.
    pub name: String,
    /// Its id.
    pub id: String,
    /// Which start of it this is.
    pub incarnation: u64,
    /// Since when it runs, in seconds.
    pub uptime_s: f64,
    /// Domains that it answers for.
    pub domains: Vec<String>,
    /// Where it answers DNS queries.
    pub dns: Vec<SocketAddr>,
    /// Where it gossips, if it does.
    pub gossip: Option<SocketAddr>,
    /// Where its own registrations are kept, if they are.
    pub data_dir: Option<String>,
    /// Why the last change could not be kept there; without a directory, why nothing is kept in the one that was asked
    /// for.
    #[serde(default)]
    pub data_fault: Option<String>,
    /// Threads that answer.
    pub workers: usize,
    /// Members that are up, this one among them.
    pub members: usize,
    /// Registrations of all nodes that are known.
    pub registrations: usize,
    /// Names with records that it answers, reverse ones included.
    pub names: usize,
    /// Records that are in no answer, since their names have more than one can.
    #[serde(default)]
    pub records_left_out: usize,
    /// Names that have changed and are not answered so yet; some may be counted twice.
    #[serde(default)]
    pub unpublished: usize,
    /// Bytes that the names take in the table that answers come from.
    #[serde(default)]
    pub table_bytes: u64,
    /// What it waits for before it should be asked, if anything.
    #[serde(default)]
    pub waits_for: Option<String>,
    /// What its workers have counted.
    pub counters: BTreeMap<String, u64>,
    /// The same, of each.
    #[serde(default)]
    pub workers_counted: Vec<WorkerCounts>,
    /// What its gossip has counted.
    pub gossip_counters: BTreeMap<String, u64>,
    /// How much CPU time turns of the thread that keeps membership alive took.
    #[serde(default)]
    pub cluster_turns: Timing,
    /// The longest of them, in seconds.
    #[serde(default)]
    pub cluster_longest_turn_s: f64,
    /// What waits for the owner of the registrations, by kind: requests of people, results of checks and containers,
    /// and batches of files.
    #[serde(default)]
    pub writes_waiting: BTreeMap<String, usize>,
    /// What it does about names in other domains, if it asks for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forwarding: Option<Forwarding>,
}

/// What one worker has counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerCounts {
    /// By event.
    pub counters: BTreeMap<String, u64>,
    /// How long batches took: from asking the kernel for queries until their answers were handed to it, of one in
    /// sixteen.
    pub batches: Timing,
}

/// Something that has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// What is registered under a name, or how it is: this is all by now.
    Name {
        /// The name.
        name: String,
        /// What is registered under it; if nothing is, it is gone.
        registrations: Vec<Registration>,
    },
    /// A member of the cluster.
    Member {
        /// What it calls itself.
        name: String,
        /// `up`, `down` or `left`.
        state: String,
    },
    /// The reader was too slow for so many events, which are left out.
    Lost {
        /// How many.
        events: u64,
    },
}
