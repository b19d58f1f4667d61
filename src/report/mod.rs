//! What is told about a measurement: as text for people and for scripts made for dnsperf, as JSON for all others.
//!
//! Runs on the main thread before and after a measurement, never during one.

pub mod comparison;
pub mod hdr;
pub mod html;
pub mod json;
pub mod machine;
pub mod neighbour;
mod saved;
pub(crate) mod svg;
pub mod text;
