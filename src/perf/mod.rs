//! Performance: what this machine can do at best, what Redbreast does on it, and whether that got worse.
//!
//! Runs in the process that measures, never inside a serving one.

pub mod cluster;
pub mod floor;
mod large;
