//! I/O with servers that are asked on a client's behalf: upstreams, and in the designs that ask at query time other
//! nodes.
//!
//! All of it runs on the workers, and no part reads a clock for itself. [`forwarding`] carries the questions that
//! `resolver` wants asked over `sockets` (UDP) and [`streams`] (each a `link`: a [`stream`] over TCP or TLS,
//! `https`, both secured by [`tls`], or [`quic`]); [`peers`] does the same for other nodes.

pub mod forwarding;
mod https;
mod link;
pub mod peer_sockets;
pub mod peers;
pub mod quic;
mod sockets;
pub mod standing;
pub mod stream;
pub mod streams;
pub mod tls;
