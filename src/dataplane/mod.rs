//! The data plane: one thread per worker, each with its own sockets and its own event loop.
//!
//! A packet's way through it: `udp` receives a batch, [`answer`] turns each query into its response in place, `udp`
//! sends the batch. [`worker`] is the loop around that, [`counters`] what it tells the rest of the program. Nothing in
//! here blocks, locks, allocates, logs or reads a clock per packet.

pub mod access;
pub mod answer;
pub mod asking;
pub mod asking_sockets;
pub mod connection;
pub mod counters;
mod forwarded;
pub mod forwarding;
pub mod handed;
mod handicap;
pub mod identity;
pub mod jobs;
mod listen;
mod no_lookup;
pub mod rate_limit;
mod records;
mod tcp;
mod udp;
mod upstream_sockets;
pub mod upstream_stream;
pub mod upstream_streams;
pub mod upstream_tls;
mod waiting;
pub mod worker;

pub use listen::{Inherited, ListenError, adopt, bind, steer};
pub use worker::unix_time_s;
