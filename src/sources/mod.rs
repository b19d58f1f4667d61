//! Where names come from, other than the control API and DNS UPDATE.
//!
//! Files, read at the start and whenever they change: those in the format of /etc/hosts for addresses, zone files for
//! all kinds of records. And the containers of a Docker Engine.

pub mod conflict;
pub mod docker;
pub mod files;
pub mod names_file;
pub mod names_text;
pub mod watch;
pub mod zone_file;
mod zone_text;
