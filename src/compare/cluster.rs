//! A cluster of one design, and what can be read of it: traffic, CPU time, memory.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use tempfile::TempDir;

use super::netns::Namespaces;
use super::{DOMAIN, Design, Experiment};
use crate::report::machine::cpu_list;
use crate::testbed::{self, Node, NodePlan};
use crate::wire::name::Name;

/// Descriptors that the comparing process needs besides those for its nodes.
const OWN_DESCRIPTORS: u64 = 64;

/// Descriptors for one node: the pipe to it, its log, the connection to its control socket, a probe's sockets.
const DESCRIPTORS_PER_NODE: u64 = 6;

/// Clusters that run at once at most: each design in each of the things that may happen.
const CLUSTERS_AT_ONCE: u64 = 12;

/// Descriptors that a node needs itself.
const DESCRIPTORS_OF_NODE: u64 = 40;

/// Where processes run.
#[derive(Clone, Debug, Default)]
pub struct Layout {
    /// CPUs of the node that is asked, of all other nodes, and of the load; all CPUs if they are not said.
    pub cpus: Option<[String; 3]>,
    /// Each node is in a network namespace of its own.
    pub namespaces: bool,
}

impl Layout {
    /// Has this thread, and all that it starts, run where the node that is asked does not.
    pub(super) fn keep_off_the_asked_node(&self) {
        let Some([_, others, load]) = &self.cpus else { return };
        let mut cpus = CpuSet::new();
        for cpu in others.split(',').chain([load.as_str()]) {
            cpu.parse().into_iter().for_each(|cpu| cpus.set(cpu));
        }
        // Without it the measurement is noisier, and no less right.
        let _ = sched_setaffinity(None, &cpus);
    }

    /// All nodes on all CPUs, for many clusters that do little.
    pub(super) fn spread_out(&self) -> Self {
        let all = self.cpus.as_ref().map(|cpus| cpus.join(","));
        Self { cpus: all.map(|all| [all.clone(), all.clone(), all]), ..self.clone() }
    }

    /// Which CPUs are for whom, by the list of those that may be used, as the kernel writes it: the first for the node
    /// that is asked, the last for the load, those between for the other nodes, which share the load's if there are
    /// none.
    #[must_use]
    pub fn of_cpus(list: &str) -> Option<[String; 3]> {
        let cpus = cpu_list(list);
        let [asked, between @ .., load] = &cpus[..] else { return None };
        let between: Vec<_> = between.iter().map(u32::to_string).collect();
        let others = if between.is_empty() { load.to_string() } else { between.join(",") };
        Some([asked.to_string(), others, load.to_string()])
    }
}

/// That this process and its nodes may have as many descriptors as they need.
///
/// # Errors
/// What is missing.
pub fn check_descriptors(nodes: usize) -> Result<(), String> {
    let needed = OWN_DESCRIPTORS + CLUSTERS_AT_ONCE * DESCRIPTORS_PER_NODE * nodes as u64;
    let needed = needed.max(DESCRIPTORS_OF_NODE);
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < needed => Err(format!(
            "{nodes} nodes of each design take up to {needed} file descriptors, and this process may have {limit}: \
             raise that with `ulimit -n {needed}`, or take fewer nodes with --nodes"
        )),
        _ => Ok(()),
    }
}

/// What nodes have sent to each other: datagrams, and bytes with their IPv4 and UDP headers.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Traffic {
    pub(super) datagrams: u64,
    pub(super) bytes: u64,
}

/// A running cluster.
pub(super) struct Cluster {
    pub(super) nodes: Vec<Node>,
    namespaces: Option<Namespaces>,
    cpus: Option<[String; 3]>,
    directory: TempDir,
}

impl Cluster {
    /// Starts the nodes, each with its names.
    pub(super) fn start(design: Design, experiment: &Experiment, layout: &Layout) -> io::Result<Self> {
        let directory = TempDir::with_prefix("redbreast-compare-")?;
        let namespaces = layout.namespaces.then(|| Namespaces::create(experiment.nodes)).transpose()?;
        let cpus = layout.cpus.clone();
        let mut cluster = Self { nodes: Vec::new(), namespaces, cpus, directory };
        let group = free_group()?;
        for i in 0..experiment.nodes {
            let names = cluster.directory.path().join(format!("names-{i}"));
            fs::write(&names, names_file(experiment, i))?;
            let plan = cluster.plan(design, experiment, i, names, &group);
            let seeds: Vec<_> = cluster.nodes.first().and_then(Node::gossip).into_iter().collect();
            let node = Node::start(plan, cluster.directory.path(), &seeds)?;
            cluster.nodes.push(node);
        }
        if design == Design::Gossip {
            cluster.wait_until_spread(experiment)?;
        }
        Ok(cluster)
    }

    fn plan(
        &self,
        design: Design,
        experiment: &Experiment,
        i: usize,
        names: PathBuf,
        group: &str,
    ) -> NodePlan {
        let mut options = vec!["--design".to_owned(), design.name().into()];
        if let Some(ttl_s) = experiment.ttl_s {
            options.extend(["--ttl".into(), ttl_s.to_string()]);
        }
        if design != Design::Gossip {
            // In namespaces of their own they are alone with the group that is the default.
            if self.namespaces.is_none() {
                options.extend(["--multicast".into(), group.into()]);
            }
            if experiment.collect {
                options.push("--collect".into());
            }
        }
        NodePlan {
            workers: experiment.workers,
            names: vec![names],
            cpus: self.cpus.as_ref().map(|[asked, others, _]| if i == 0 { asked } else { others }.clone()),
            gossips: design == Design::Gossip,
            namespace: self.namespaces.as_ref().map(|namespaces| namespaces.place(i)),
            options,
            ..NodePlan::new(&format!("{}-{i}", design.name()))
        }
    }

    fn wait_until_spread(&self, experiment: &Experiment) -> io::Result<()> {
        let all = experiment.nodes * experiment.names_per_node as usize;
        testbed::wait_until("all nodes have all names", || {
            let knows = |node: &Node| {
                node.status().is_ok_and(|status| {
                    status.members == self.nodes.len()
                        && status.registrations >= all
                        && status.unpublished == 0
                })
            };
            self.nodes.iter().all(knows)
        })
        .map(drop)
    }

    /// The node that is asked.
    pub(super) fn asked(&self) -> &Node {
        &self.nodes[0]
    }

    /// Where files of this cluster can be put.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The namespace of a node, if it has one.
    pub(super) fn namespace(&self, node: usize) -> Option<String> {
        self.namespaces.as_ref().map(|namespaces| namespaces.place(node).0)
    }

    /// The namespaces, if there are any.
    pub(super) fn namespaces(&self) -> Option<&Namespaces> {
        self.namespaces.as_ref()
    }

    /// This program where the load belongs.
    pub(super) fn load_command(&self) -> io::Result<Command> {
        let cpus = self.cpus.as_ref().map(|[.., load]| load.as_str());
        testbed::program(self.namespace(0).as_deref(), cpus, None)
    }

    /// What the nodes have sent to each other so far.
    pub(super) fn traffic(&self) -> io::Result<Traffic> {
        let mut traffic = Traffic::default();
        for node in &self.nodes {
            let status = node.status().map_err(io::Error::other)?;
            let of = |names: [&str; 2]| {
                status.counters.get(names[0]).copied().unwrap_or_default()
                    + status.gossip_counters.get(names[1]).copied().unwrap_or_default()
            };
            let datagrams = of(["peer_datagrams_out", "datagrams_out"]);
            traffic.datagrams += datagrams;
            traffic.bytes += of(["peer_bytes_out", "bytes_out"]) + 28 * datagrams;
        }
        Ok(traffic)
    }

    /// CPU seconds of the node that is asked, and of all nodes together.
    pub(super) fn cpu_s(&self) -> (f64, f64) {
        let of_node = |node: &Node| node.cpu_s().map_or(0.0, |(workers, others)| workers + others);
        let each: Vec<_> = self.nodes.iter().map(of_node).collect();
        (each.first().copied().unwrap_or_default(), each.iter().sum())
    }

    /// Resident memory of the node that is asked, in MiB.
    pub(super) fn memory_mib(&self) -> Option<f64> {
        Some(self.asked().resident_bytes().ok()? as f64 / f64::from(1 << 20))
    }

    /// That all nodes still run.
    pub(super) fn check(&mut self) -> io::Result<()> {
        self.nodes.iter_mut().try_for_each(Node::check)
    }
}

/// A multicast group and port that no other cluster here is likely to use.
fn free_group() -> io::Result<String> {
    let port = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
    // Of the block for use within a site (RFC 2365).
    let group = Ipv4Addr::new(239, 255, fastrand::u8(..), fastrand::u8(1..255));
    Ok(format!("{group}:{port}"))
}

/// What the `k`-th name of a node is called, without the domain.
pub(super) fn label(node: usize, k: u32) -> String {
    format!("c{k}-n{node}")
}

/// Its address.
pub(super) fn address(experiment: &Experiment, node: usize, k: u32) -> Ipv4Addr {
    let number =
        u32::try_from(node).unwrap_or(u32::MAX).saturating_mul(experiment.names_per_node).saturating_add(k);
    Ipv4Addr::from(0x0a00_0000 | (number + 1) & 0x00ff_ffff)
}

/// The same in the domain.
pub(super) fn in_domain(label: &str) -> Name {
    Name::from_text(&format!("{label}.{DOMAIN}")).expect("made of letters, digits and hyphens")
}

/// A node's names as a file in the format of hosts(5).
pub(super) fn names_file(experiment: &Experiment, node: usize) -> String {
    let line = |k| format!("{} {}\n", address(experiment, node, k), label(node, k));
    (0..experiment.names_per_node).map(line).collect()
}

/// The names of all nodes as one file.
#[must_use]
pub fn all_names_file(experiment: &Experiment) -> String {
    (0..experiment.nodes).map(|node| names_file(experiment, node)).collect()
}

/// All names of a cluster, with their addresses.
pub(super) fn all_names(experiment: &Experiment) -> impl Iterator<Item = (String, Ipv4Addr)> + '_ {
    (0..experiment.nodes).flat_map(move |node| {
        (0..experiment.names_per_node).map(move |k| (label(node, k), address(experiment, node, k)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpus_are_shared_out_as_far_as_they_go() {
        let of = |list| Layout::of_cpus(list).map(|[asked, others, load]| format!("{asked} {others} {load}"));
        assert_eq!(of("0"), None);
        assert_eq!(of("0-1").unwrap(), "0 1 1");
        assert_eq!(of("2,4-6").unwrap(), "2 4,5 6");
        assert_eq!(of("nonsense"), None);
    }

    #[test]
    fn every_name_has_an_address_of_its_own() {
        let experiment = Experiment { names_per_node: 1_000, ..Experiment::default() };
        let all: std::collections::BTreeSet<_> = all_names(&experiment).map(|(_, address)| address).collect();
        assert_eq!(all.len(), 5_000);
        assert_eq!(names_file(&experiment, 1).lines().next(), Some("10.0.3.233 c0-n1"));
    }

    #[test]
    fn more_nodes_than_descriptors_are_refused() {
        assert!(check_descriptors(1).is_ok());
        let error = check_descriptors(10_000_000).unwrap_err();
        assert!(error.contains("ulimit -n"), "{error}");
    }
}
