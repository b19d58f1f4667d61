//! Redbreast: gossip DNS.
pub mod mmsg;
pub mod wire;
