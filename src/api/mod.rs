//! The words of the control API: what can be requested, what comes back, and the one check of what can be a record.
//!
//! Server, client and command line share them. Nothing in here does I/O.

pub mod control_address;
pub mod external;
pub mod paths;
pub mod rdata_text;
pub mod register;
pub mod request;
pub mod timing;
