//! What the control listener asks of the node, and what it is told: the same words on both sides of the HTTP API, and in
//! the command line that speaks it.
//!
//! Requests are made on the `control` thread, and answered by the control thread through the channel that each brings.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::policy::select::Health;
use crate::store::{Attributes, Key, STATEMENT_INSTANCE, Target};
use crate::wire::name::Name;

/// The instance of registrations that are made by hand.
pub const DEFAULT_INSTANCE: &str = "manual";

/// Instances that a node keeps for what it registers itself.
pub const RESERVED_INSTANCES: [&str; 3] = ["files", "node", STATEMENT_INSTANCE];

/// Registrations in one request at most.
pub const MAX_ADDITIONS: usize = 1_000;

/// Where an answer goes. Whoever asked may have gone meanwhile.
pub type Reply<T> = oneshot::Sender<T>;

/// What is asked.
pub enum Request {
    /// Register these, all or none.
    Add(Vec<(Key, Attributes)>, Reply<Result<Added, Refused>>),
    /// Remove what was registered by a request.
    Remove(Removal, Reply<Result<Removed, Refused>>),
    /// Say something to the whole cluster: that a value holds of a target, or that nothing does.
    State(Target, Option<Box<[u8]>>, Reply<Result<Stated, Refused>>),
    /// Note how the addresses of an instance are, those that nobody else checks.
    Report(Box<str>, Health, Reply<usize>),
    /// Tell what has been said to the cluster.
    Statements(Reply<Vec<Statement>>),
    /// Tell why a name has the answers that it has.
    Explain(Name, Reply<Box<Explanation>>),
    /// Tell the registrations of all nodes, or of one name.
    Names(Option<Name>, Reply<Vec<Registration>>),
    /// Tell who is in the cluster.
    Members(Reply<Vec<Member>>),
    /// Tell how the node is.
    Status(Reply<Box<Status>>),
}

/// Which registrations are to go.
#[derive(Clone, Debug)]
pub struct Removal {
    /// Of this name.
    pub name: Name,
    /// Of this instance.
    pub instance: Box<str>,
    /// With these addresses; all if there are none.
    pub addresses: Vec<IpAddr>,
}

/// Why nothing was changed, in the node's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub String);

/// Something to register, as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Addition {
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

/// What came of an addition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Added {
    /// Registrations that are new, or say something else than before.
    pub added: usize,
    /// Registrations that were there already.
    pub unchanged: usize,
    /// Whether they survive the end of the node: it has a data directory.
    pub durable: bool,
}

/// What came of a removal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Registrations that are gone.
    pub removed: usize,
    /// Nodes that have registered the name, too, and that alone can remove it.
    pub elsewhere: Vec<String>,
    /// Registrations of the name in this node's files, where they have to be removed.
    pub in_files: usize,
}

/// What came of something that was said to the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stated {
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

/// Something that was said to the cluster and holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
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

/// Why a name has the answers that it has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Explanation {
    /// The name.
    pub name: String,
    /// By which policy its addresses are chosen.
    pub policy: String,
    /// So little is healthy that addresses are in answers whatever their health and tier.
    #[serde(default)]
    pub panic: bool,
    /// All that is registered under it, at any node.
    pub records: Vec<Explained>,
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
    /// The part of the answers that are to begin with it, where the policy says that: with `hash` of those to many clients.
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
    /// Threads that answer.
    pub workers: usize,
    /// Members that are up, this one among them.
    pub members: usize,
    /// Registrations of all nodes that are known.
    pub registrations: usize,
    /// Names with records that it answers, reverse ones included.
    pub names: usize,
    /// Bytes that the names take in the table that answers come from.
    #[serde(default)]
    pub table_bytes: u64,
    /// What its workers have counted.
    pub counters: std::collections::BTreeMap<String, u64>,
    /// What its gossip has counted.
    pub gossip_counters: std::collections::BTreeMap<String, u64>,
}
