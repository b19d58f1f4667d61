//! The ways in which names get into the server.
//!
//! Files, read at the start and whenever they change: those in the format of /etc/hosts for addresses, zone files for all
//! kinds of records. The control listener, an HTTP API. And the containers of a Docker Engine.

pub mod addition;
pub mod client;
pub mod conflict;
pub mod control_address;
pub mod docker;
pub mod files;
pub mod forwarding;
pub mod http;
pub mod names_file;
pub mod names_text;
pub mod rdata_text;
pub mod request;
pub mod watch;
pub mod zone_file;
mod zone_text;
