//! Performance: what this machine can do at best, what Redbreast does on it, and whether that got worse.
//!
//! Runs in the process that measures, never inside a serving one.

pub mod cluster;
mod counting;
mod fault;
pub mod floor;
pub mod gate;
mod health;
pub mod history;
mod large;
pub mod measurement;
pub mod operations;
mod ratios;
mod registrations;
mod revision;
pub mod run;
pub mod scenario;
pub mod told;

pub use counting::valgrind;
pub use fault::PerfFault;
pub use revision::build_revision;
