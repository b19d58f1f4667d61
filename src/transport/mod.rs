//! I/O with clients: each transport a file or folder of its own, all behind one seam.
//!
//! [`listen`] binds the sockets, [`udp`] and [`tcp`] receive queries on a worker's thread, have each answered in place, and send the
//! responses; [`connection`] is one stream of queries, without I/O of its own.

pub mod client;
pub mod connection;
mod listen;
pub mod tcp;
pub mod udp;

pub use listen::{Inherited, ListenError, Listeners, adopt, bind, steer};
