//! Network namespaces for the nodes of a cluster, joined by a bridge: a network of their own, where packets can be
//! lost.
//!
//! Needs root, and the programs `ip` and `nft`. They go with the value that made them.

use std::io;
use std::net::IpAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// Numbers those that this process has made.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The namespaces of one cluster.
pub(super) struct Namespaces {
    /// Begins the name of each.
    prefix: String,
    nodes: usize,
}

impl Namespaces {
    /// Makes one for each node, and one for the bridge that joins them.
    pub(super) fn create(nodes: usize) -> io::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let namespaces = Self { prefix: format!("rb{}x{number}", std::process::id()), nodes };
        let hub = namespaces.hub();
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "add", "hub", "type", "bridge", "mcast_snooping", "0"])?;
        ip(&["-n", &hub, "link", "set", "hub", "up"])?;
        for node in 0..nodes {
            let (name, address) = namespaces.place(node);
            let port = format!("p{node}");
            ip(&["netns", "add", &name])?;
            ip(&["-n", &name, "link", "set", "lo", "up"])?;
            ip(&["-n", &hub, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            ip(&["-n", &hub, "link", "set", &port, "master", "hub", "up"])?;
            ip(&["-n", &name, "address", "add", &format!("{address}/16"), "dev", "eth0"])?;
            ip(&["-n", &name, "link", "set", "eth0", "up"])?;
        }
        Ok(namespaces)
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// The namespace of a node, and its address there.
    pub(super) fn place(&self, node: usize) -> (String, IpAddr) {
        let [high, low] = u16::try_from(node + 1).unwrap_or(u16::MAX).to_be_bytes();
        (format!("{}n{node}", self.prefix), [172, 31, high, low].into())
    }

    /// Loses so many of a hundred packets that come to each node from the others.
    pub(super) fn lose(&self, percent: u32) -> io::Result<()> {
        (0..self.nodes).try_for_each(|node| self.drop_at(node, &format!("numgen random mod 100 < {percent}")))
    }

    /// Cuts a node off from all others.
    pub(super) fn cut(&self, node: usize) -> io::Result<()> {
        (0..self.nodes).filter(|&other| other != node).try_for_each(|other| {
            self.drop_at(node, &format!("ip saddr {}", self.place(other).1))?;
            self.drop_at(other, &format!("ip saddr {}", self.place(node).1))
        })
    }

    /// Ends all loss.
    pub(super) fn heal(&self) -> io::Result<()> {
        (0..self.nodes).try_for_each(|node| self.nft(node, "flush ruleset"))
    }

    fn drop_at(&self, node: usize, what: &str) -> io::Result<()> {
        self.nft(
            node,
            &format!(
                "add table ip faults; add chain ip faults in {{ type filter hook input priority 0; }}; \
                 add rule ip faults in iifname eth0 {what} drop"
            ),
        )
    }

    fn nft(&self, node: usize, rules: &str) -> io::Result<()> {
        run("ip", &["netns", "exec", &self.place(node).0, "nft", rules])
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in (0..self.nodes).map(|node| self.place(node).0).chain([self.hub()]) {
            // What is not there, because making it failed, cannot be deleted.
            let _ = ip(&["netns", "delete", &name]);
        }
    }
}

fn ip(words: &[&str]) -> io::Result<()> {
    run("ip", words)
}

fn run(program: &str, words: &[&str]) -> io::Result<()> {
    let output = Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| io::Error::other(format!("--netns needs the program `{program}`: {error}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "--netns needs root: `{program} {}` failed: {}",
        words.join(" "),
        said.trim()
    )))
}
