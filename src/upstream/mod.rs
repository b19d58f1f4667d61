//! I/O with servers that are asked on a client's behalf: upstreams, and in the designs that ask at query time other
//! nodes.
//!
//! All of it runs on the workers, and no part reads a clock for itself. [`forwarding`] carries the questions that
//! `resolver` wants asked over [`sockets`] (UDP) and [`streams`] (TCP and TLS, each a [`stream`], secured by [`tls`]);
//! [`peers`] does the same for other nodes.

pub mod forwarding;
pub mod peer_sockets;
pub mod peers;
mod sockets;
pub mod stream;
pub mod streams;
pub mod tls;
