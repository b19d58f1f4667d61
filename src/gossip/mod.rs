//! The cluster: who is in it, and how registrations come to all of them.
//!
//! Sans-I/O but for the driver: protocols take the time and bytes and return what to do, so that a simulator can run a
//! thousand nodes in one process. Everything in here runs on the control thread.

pub mod engine;
pub mod membership;
pub mod message;
pub mod peer;
