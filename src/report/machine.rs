//! The machine that a measurement was made on: without it, a number is only a number.
//!
//! Read by the main thread from `/proc`. Nothing that tells whose machine it is.

use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// Hardware and kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Machine {
    /// The processor's own name; `unknown` where the kernel does not say.
    pub cpu: String,
    /// Processors that the kernel runs.
    pub cores: usize,
    /// Processors that this process may use: fewer when it is pinned or in a container.
    pub usable_cores: usize,
    /// Architecture, as Rust calls it.
    pub arch: String,
    /// The kernel's release.
    pub kernel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// CPUs that this process may run on, like `0-3`.
    pub cpus: String,
    /// How the kernel sets their clock, where it does: `performance`, `powersave`, `schedutil`...
    pub governor: Option<String>,
}

/// What the kernel has counted of UDP, for all programs in this network namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UdpCounters {
    /// Datagrams dropped because a socket had no room for them: the server's, too, where it runs here.
    pub receive_buffer_errors: u64,
    /// Datagrams that could not be sent for want of room.
    pub send_buffer_errors: u64,
    /// Datagrams to ports where nobody listens.
    pub no_ports: u64,
}

impl UdpCounters {
    /// What has been counted up to now; none where the kernel does not tell.
    #[must_use]
    pub fn read() -> Option<Self> {
        let v4 = fs::read_to_string("/proc/net/snmp").ok()?;
        let v6 = fs::read_to_string("/proc/net/snmp6").unwrap_or_default();
        Some(Self::from_proc(&v4, &v6))
    }

    /// What has been counted since `before`.
    #[must_use]
    pub fn since(self, before: Self) -> Self {
        Self {
            receive_buffer_errors: self.receive_buffer_errors.saturating_sub(before.receive_buffer_errors),
            send_buffer_errors: self.send_buffer_errors.saturating_sub(before.send_buffer_errors),
            no_ports: self.no_ports.saturating_sub(before.no_ports),
        }
    }

    fn from_proc(v4: &str, v6: &str) -> Self {
        let mut udp = v4.lines().filter_map(|line| line.strip_prefix("Udp: "));
        let (heads, values) = (udp.next().unwrap_or_default(), udp.next().unwrap_or_default());
        let count = |name: &str| -> u64 {
            let mut v4 = heads.split_ascii_whitespace().zip(values.split_ascii_whitespace());
            let v4 = v4.find(|(head, _)| *head == name).and_then(|(_, value)| value.parse::<u64>().ok());
            let mut v6 = v6.lines().map(|line| line.split_ascii_whitespace());
            let v6 = v6.find_map(|mut words| {
                (words.next()?.strip_prefix("Udp6") == Some(name))
                    .then(|| words.next()?.parse::<u64>().ok())?
            });
            v4.unwrap_or(0) + v6.unwrap_or(0)
        };
        Self {
            receive_buffer_errors: count("RcvbufErrors"),
            send_buffer_errors: count("SndbufErrors"),
            no_ports: count("NoPorts"),
        }
    }
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn current() -> Self {
        let usable_cores = thread::available_parallelism().map_or(1, Into::into);
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let status = read("/proc/thread-self/status");
        let cpus = field(&status, "Cpus_allowed_list").unwrap_or_default().to_owned();
        let first = cpus.split([',', '-']).next().unwrap_or_default();
        let governor =
            fs::read_to_string(format!("/sys/devices/system/cpu/cpu{first}/cpufreq/scaling_governor"));
        Self {
            governor: governor.ok().map(|governor| governor.trim().to_owned()),
            cpus,
            ..Self::from_proc(
                &read("/proc/cpuinfo"),
                &read("/proc/meminfo"),
                &read("/proc/sys/kernel/osrelease"),
                usable_cores,
            )
        }
    }

    fn from_proc(cpuinfo: &str, meminfo: &str, osrelease: &str, usable_cores: usize) -> Self {
        let unless_empty = |text: &str| if text.is_empty() { "unknown".into() } else { text.into() };
        let cores = cpuinfo.lines().filter(|line| line.starts_with("processor")).count();
        let memory =
            field(meminfo, "MemTotal").and_then(|value| value.strip_suffix(" kB")?.parse::<u64>().ok());
        Self {
            cpu: unless_empty(field(cpuinfo, "model name").unwrap_or_default()),
            cores: cores.max(usable_cores),
            usable_cores,
            arch: std::env::consts::ARCH.into(),
            kernel: unless_empty(osrelease.trim()),
            memory_mib: memory.unwrap_or(0) / 1_024,
            ..Self::default()
        }
    }
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
}

/// The CPUs of a list like `0-2,5`.
#[must_use]
pub fn cpu_list(text: &str) -> Vec<u32> {
    let part = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.trim().parse().ok()?..=last.trim().parse().ok()?)
    };
    text.split(',').filter_map(part).flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read_as_the_kernel_writes_it() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\nmodel name\t: AMD EPYC\n";
        let machine = Machine::from_proc(
            cpuinfo,
            "MemTotal:        8148240 kB\nMemFree: 1 kB\n",
            "6.1.0-37-amd64\n",
            1,
        );
        assert_eq!((machine.cpu.as_str(), machine.cores, machine.usable_cores), ("AMD EPYC", 2, 1));
        assert_eq!((machine.kernel.as_str(), machine.memory_mib), ("6.1.0-37-amd64", 7_957));
    }

    #[test]
    fn counters_of_both_families_are_added() {
        let v4 = "Ip: Forwarding\nIp: 1\nUdp: InDatagrams NoPorts RcvbufErrors SndbufErrors\nUdp: 9 3 5 0\nUdpLite: \
                  X\n";
        let v6 = "Udp6InDatagrams 4\nUdp6NoPorts\t1\nUdp6RcvbufErrors  2\n";
        let counters = UdpCounters::from_proc(v4, v6);
        let expected = UdpCounters { receive_buffer_errors: 7, send_buffer_errors: 0, no_ports: 4 };
        assert_eq!(counters, expected);
        assert_eq!(counters.since(counters), UdpCounters::default());
        assert!(UdpCounters::read().is_some());
    }

    #[test]
    fn what_the_kernel_does_not_say_is_unknown() {
        let machine = Machine::from_proc("", "", "", 4);
        assert_eq!((machine.cpu.as_str(), machine.cores, machine.kernel.as_str()), ("unknown", 4, "unknown"));
    }
}
