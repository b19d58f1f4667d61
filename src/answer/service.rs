//! What all workers of a server have in common.

use super::access::Access;
use super::identity::Identity;

/// The rules by which a server answers, whatever its names are.
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
    /// There is a zone thread for updates and for what is signed.
    pub offloads: bool,
}
