//! Made-up names, for `demo`; and a server in this process that has them, for `bench --self-test`.
//!
//! Started by the main thread; its workers are its own.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::thread;

use smallvec::smallvec;

use super::Failure;
use crate::config::{DEFAULT_DOMAIN, Settings};
use crate::node::{Inbox, Node};
use crate::sources::files::Registrations;
use crate::sources::names_file::Host;
use crate::transport::Inherited;
use crate::wire::name::Name;

/// Names, with one address each.
pub(super) const NAMES: u16 = 4_000;

/// A running server, which stops when it goes out of scope.
pub(super) struct Sample {
    /// `None` only while it is being dropped.
    node: Option<Node>,
    address: SocketAddr,
}

/// Starts the server on a free port of 127.0.0.1, with half of the cores for its workers: the other half is the load's.
pub(super) fn start() -> Result<Sample, Failure> {
    let settings = Settings {
        workers: thread::available_parallelism().map_or(1, |cores| usize::from(cores).div_ceil(2)),
        ..Settings::default()
    };
    let domain = settings.domains[0].clone();
    let mut names = Registrations::default();
    hosts(&domain).for_each(|host| names.add_host(&host));
    let node = Node::start_with(settings, names, None, Inbox::new(), Inherited::default())
        .map_err(Failure::failed)?;
    Ok(Sample { address: node.addresses()[0], node: Some(node) })
}

fn hosts(domain: &Name) -> impl Iterator<Item = Host> {
    let named = move |label: &str, address: IpAddr| {
        let name = Name::from_text(label).expect("made of letters, digits and hyphens");
        Host { address, names: smallvec![name.below(domain).expect("short")] }
    };
    (0..NAMES).map(move |i| named(&host_label(i), host_address(i)))
}

fn host_label(i: u16) -> String {
    format!("host-{i}")
}

fn host_address(i: u16) -> IpAddr {
    let [high, low] = i.to_be_bytes();
    [10, 1, high, low].into()
}

/// The names as a file in the format of hosts(5).
pub(super) fn names_file() -> String {
    (0..NAMES).map(|i| format!("{} {}\n", host_address(i), host_label(i))).collect()
}

/// A query file for a server that has them: each once, and as many names that do not exist.
pub(super) fn queries() -> String {
    (0..NAMES).fold(String::new(), |mut text, i| {
        let host = host_label(i);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{host}.{DEFAULT_DOMAIN} A\nno-{host}.{DEFAULT_DOMAIN} A");
        text
    })
}

impl Sample {
    /// Where it answers.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.stop();
        }
    }
}
