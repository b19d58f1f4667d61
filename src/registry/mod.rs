//! The ways in which names get into the server.
//!
//! So far: files in the format of /etc/hosts, read at the start and whenever they change.

pub mod names_file;
pub mod watch;
