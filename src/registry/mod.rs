//! The ways in which names get into the server.
//!
//! So far: files, read at the start and whenever they change; those in the format of /etc/hosts for addresses, zone files
//! for all kinds of records.

pub mod files;
pub mod names_file;
pub mod watch;
pub mod zone_file;
mod zone_text;
