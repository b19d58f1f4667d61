//! What a server is told by its flags, with the defaults and the limits.
//!
//! Read once by the main thread before anything starts.

pub mod cookie_secrets;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::dataplane::access::Access;
use crate::table::ZoneSettings;
use crate::wire::name::Name;

/// Where we listen unless told otherwise: the port of DNS, on loopback, so that nobody offers DNS to a network by
/// accident.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// The domain we serve unless told otherwise; `internal` is reserved for private use.
pub const DEFAULT_DOMAIN: &str = "redbreast.internal";

/// Seconds for which others may keep our answers: long enough to spare a client's second question in one breath, short
/// enough that nobody talks to a dead address for long.
pub const DEFAULT_TTL_S: u32 = 1;

/// The highest TTL (RFC 2181 §8).
pub const MAX_TTL_S: u32 = i32::MAX as u32;

/// Domains at most: a negative answer looks at each of them.
pub const MAX_DOMAINS: usize = 64;

/// Workers at most; the kernel spreads packets over no more sockets than this in practice, and each has its buffers.
pub const MAX_WORKERS: usize = 1024;

/// Everything that a server needs to know to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses to answer at.
    pub listen: Vec<SocketAddr>,
    /// Domains we are authoritative for; names without a dot are in the first.
    pub domains: Vec<Name>,
    /// Files in the format of /etc/hosts, all of them together.
    pub names: Vec<PathBuf>,
    /// Zone files, on top of these.
    pub zones: Vec<PathBuf>,
    /// File with the secrets for cookies; without one they are made up at the start.
    pub cookie_secrets: Option<PathBuf>,
    /// Worker threads.
    pub workers: usize,
    /// How long others may keep our answers.
    pub zone: ZoneSettings,
    /// Bytes of a response over UDP at most.
    pub udp_len: u16,
    /// Who may ask.
    pub access: Access,
    /// Responses a second that a worker gives to one client network over UDP; 0 for no limit.
    pub rate_limit: u32,
    /// What the node calls itself; `None` if it does not tell.
    pub node_name: Option<String>,
}

impl Settings {
    /// The files that are read again when they change.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.names.iter().chain(&self.zones).chain(&self.cookie_secrets)
    }
}
