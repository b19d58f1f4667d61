//! The designs that ask at query time, beside which gossip is measured: `broadcast` and `cache` (weaveDNS 1.0).
//!
//! A node of these designs holds its own names alone. A name that it does not hold is asked for in a message to all
//! nodes ([`message`]), and waits among those [`in_flight`] until one answers or the window ends. `cache` keeps what
//! was answered ([`cache`]) for a while. What the workers see of all that is [`PeerLookup`], where a name that is not
//! in the table is looked for. `docs/designs.md` tells the whole of it.
//!
//! Everything here does no I/O: it takes bytes and the time, and its sockets are `upstream::peers`'s.

pub mod cache;
pub mod in_flight;
pub mod message;
mod peer_answer;
mod peer_lookup;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

pub use peer_answer::{Gathered, PeerAnswer};
pub use peer_lookup::{PeerLookup, PeerResult};

/// Where questions to all nodes go unless told otherwise: the group and port of multicast DNS (RFC 6762 §3).
pub const DEFAULT_GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(224, 0, 0, 251), 5353);

/// How long answers are waited for unless told otherwise: weaveDNS 1.0's window.
pub const DEFAULT_WINDOW_MS: u64 = 500;

/// Names in the cache at most unless told otherwise: as in weaveDNS 1.0.
pub const DEFAULT_CACHE_ENTRIES: usize = crate::limits::DEFAULT_CACHE_ENTRIES;

/// Seconds for which answers may be kept unless told otherwise, where names are asked for: as in weaveDNS 1.0.
pub const DEFAULT_TTL_S: u32 = 30;

/// Other nodes that are asked one by one, at most: each question is sent to every one of them.
pub const MAX_PEERS: usize = crate::limits::MAX_PEERS;

/// How all other nodes are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PeerTargets {
    /// By one message to a group that all nodes are in.
    Multicast {
        /// The group and its port.
        group: SocketAddrV4,
        /// The address of the interface that is used; unspecified for the one that the system takes.
        interface: Ipv4Addr,
    },
    /// By a message to each.
    Peers {
        /// Where this node is asked.
        listen: SocketAddr,
        /// Where the others are.
        peers: Vec<SocketAddr>,
    },
}

/// How a node learns of names that it does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerQuerySettings {
    /// How the others are asked.
    pub targets: PeerTargets,
    /// How long answers are waited for.
    pub window: Duration,
    /// The answers of all are waited for; otherwise the first one is taken.
    pub collect: bool,
    /// Names in the cache at most; `None` for no cache.
    pub cache_entries: Option<usize>,
    /// Seconds for which it is kept that nobody has a name.
    pub negative_ttl_s: u32,
}
