//! DNS bytes (RFC 1035 and its heirs): parsing queries in place, writing responses in place, names and records.
//!
//! No I/O, no allocation on the query path, and nothing of this crate is imported here: the data plane and the load
//! generator both stand on it, and the second has to be an independent judge of the first.

pub mod cookie;
pub mod edns;
pub mod framing;
pub mod header;
pub mod message;
pub mod name;
pub mod query;
pub mod record;
pub mod response;
pub mod reverse_name;
