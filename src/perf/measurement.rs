//! What can be measured of clusters and large nodes, each by its name on the command line.

use std::io;

use tempfile::TempDir;

use super::cluster::{self, Figure};
use super::{health, large, registrations};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Measurement {
    /// From registering a name to every node answering it, under load.
    Propagation,
    /// From killing a node to its addresses being gone.
    Kill,
    /// A new node takes over 100,000 records.
    Join,
    /// What a node sends when nothing changes.
    Idle,
    /// 10,000 changes a second.
    Churn,
    /// Bytes for a record, at a million.
    Memory,
    /// A node with a million names of a file: loading, memory, changes.
    Large,
    /// Registrations a second by the control listener, and what queries feel of them.
    Registrations,
    /// How soon what fails its checks is out of answers, and what 10,000 checks cost.
    Health,
}

/// Measures; `seconds` is how long the changes go on.
///
/// # Errors
/// When the nodes do not do what they are told.
pub fn measure(what: Measurement, seconds: u32, records: u32) -> io::Result<Vec<Figure>> {
    let directory = TempDir::with_prefix("redbreast-perf-")?;
    let directory = directory.path();
    match what {
        Measurement::Propagation => cluster::propagation(directory),
        Measurement::Kill => cluster::kill(directory),
        Measurement::Join => cluster::join(directory),
        Measurement::Idle => cluster::idle(directory),
        Measurement::Churn => cluster::churn(directory, seconds),
        Measurement::Memory => cluster::memory(directory, records),
        Measurement::Large => large::large(directory, records),
        Measurement::Registrations => registrations::registrations(directory, seconds),
        Measurement::Health => health::health(directory),
    }
}
