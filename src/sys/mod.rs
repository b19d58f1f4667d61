//! The ground that all rooms stand on: system calls in batches, scheduling, and small tools that know nothing of DNS.

pub mod counter;
pub mod file_error;
pub mod mmsg;
pub mod parallel_map;
pub mod published;
pub mod sched;
mod stream;
pub mod tls_error;
pub mod tls_trust;

pub use stream::write_some;
