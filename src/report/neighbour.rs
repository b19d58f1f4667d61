//! The process that is measured, where it runs on this machine: whether it has cores of its own decides what a result
//! is worth.
//!
//! Read by the main thread from `/proc`, after a run. What cannot be seen, like processes of others, is left out.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use super::machine::cpu_list;
use serde::{Deserialize, Serialize};

/// A process on this machine, and where it may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerProcess {
    /// Its name, as the kernel has it.
    pub name: String,
    /// CPUs that it may run on, like `0-3`.
    pub cpus: String,
    /// Its number.
    #[serde(skip)]
    pid: String,
}

impl ServerProcess {
    /// The process with a socket at `server`, if there is one that can be seen.
    #[must_use]
    pub fn find(server: SocketAddr) -> Option<Self> {
        let tables = ["udp", "udp6", "tcp", "tcp6"];
        let inodes: Vec<_> = tables
            .iter()
            .filter_map(|table| fs::read_to_string(format!("/proc/net/{table}")).ok())
            .flat_map(|text| inodes_at(&text, server))
            .map(|inode| format!("socket:[{inode}]"))
            .collect();
        if inodes.is_empty() {
            return None;
        }
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let mut processes = processes.filter(|entry| {
            entry.file_name().to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()))
        });
        let has_it = |entry: &fs::DirEntry| {
            let links = fs::read_dir(entry.path().join("fd")).into_iter().flatten().flatten();
            links.filter_map(|link| fs::read_link(link.path()).ok()).any(|target| {
                target.to_str().is_some_and(|target| inodes.iter().any(|inode| inode == target))
            })
        };
        let process = processes.find(has_it)?;
        let status = fs::read_to_string(process.path().join("status")).ok()?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned()).unwrap_or_default()
        };
        let pid = process.file_name().to_str()?.to_owned();
        Some(Self { name: field("Name:"), cpus: field("Cpus_allowed_list:"), pid })
    }

    /// CPU time that it has taken up to now, all of its threads together.
    #[must_use]
    pub fn cpu_time(&self) -> Option<Duration> {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid)).ok()?.flatten();
        let times = threads.filter_map(|thread| {
            let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
            text.split_ascii_whitespace().next()?.parse::<u64>().ok()
        });
        Some(Duration::from_nanos(times.sum()))
    }

    /// How many CPUs it may run on.
    #[must_use]
    pub fn cpu_count(&self) -> usize {
        cpu_list(&self.cpus).len()
    }

    /// Whether it and a process on `cpus` may run on the same ones.
    #[must_use]
    pub fn shares_with(&self, cpus: &str) -> bool {
        let theirs = cpu_list(&self.cpus);
        cpu_list(cpus).iter().any(|cpu| theirs.contains(cpu))
    }
}

/// The inodes of sockets that are bound to a port, and not connected to anything.
fn inodes_at(table: &str, server: SocketAddr) -> Vec<u64> {
    let port = format!(":{:04X}", server.port());
    let lines = table.lines().skip(1).map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    lines
        .filter(|fields| {
            let (Some(local), Some(remote)) = (fields.get(1), fields.get(2)) else { return false };
            local.ends_with(&port) && remote.ends_with(":0000")
        })
        .filter_map(|fields| fields.get(9)?.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn a_server_of_this_process_is_found() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let found = ServerProcess::find(socket.local_addr().unwrap()).unwrap();
        assert!(!found.name.is_empty() && !cpu_list(&found.cpus).is_empty(), "{found:?}");
        assert!(found.shares_with(&found.cpus) && found.cpu_count() > 0);
        assert!(found.cpu_time().is_some_and(|time| time > Duration::ZERO));
    }

    #[test]
    fn cpus_are_compared_as_lists() {
        let server = ServerProcess { cpus: "0-2,7".into(), ..ServerProcess::default() };
        assert!(server.shares_with("7") && server.shares_with("2-5") && !server.shares_with("3-6,8"));
        assert!(!server.shares_with(""));
    }
}
