//! Conformance: one file per RFC, each test named after the section that it checks, each case asked of the real binary
//! over UDP and over TCP. `docs/conformance.md` has the table of what is done and what is not.
//!
//! Every answer is read twice: strictly byte by byte in `message`, and by hickory-proto.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // tests tell what they skipped

mod message;
mod peers;
mod rfc1034;
mod rfc1035;
mod rfc2308;
mod rfc2782;
mod rfc3225_4035;
mod rfc3596;
mod rfc3597;
mod rfc4343;
mod rfc4892;
mod rfc5001;
mod rfc6891;
mod rfc7766;
mod rfc7828;
mod rfc7873_9018;
mod rfc8020;
mod rfc8482;
mod rfc8914;
mod rfc9619;
#[path = "../support/server.rs"]
mod server;
mod transport;
mod world;
