//! The cluster: who is in it, and how registrations come to all of them.
//!
//! Sans-I/O but for the driver: protocols take the time and bytes and return what to do, so that a simulator can run a
//! thousand nodes in one process. Everything in here runs on the thread `cluster`.

mod bulk;
mod burst;
pub mod cipher;
pub mod driver;
pub mod engine;
pub mod key_ring;
pub mod membership;
pub mod message;
pub mod peer;
mod replay;
mod requests;
pub mod seal;
mod stream;
pub mod stream_seal;
pub mod transport;
