//! The machine that a measurement was made on: without it, a number is only a number.
//!
//! Read by the main thread from `/proc`. Nothing that tells whose machine it is.

use std::fs;
use std::thread;

use serde::{Deserialize, Serialize};

/// Hardware and kernel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
}

impl Machine {
    /// This machine.
    #[must_use]
    pub fn current() -> Self {
        let usable_cores = thread::available_parallelism().map_or(1, Into::into);
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self::from_proc(
            &read("/proc/cpuinfo"),
            &read("/proc/meminfo"),
            &read("/proc/sys/kernel/osrelease"),
            usable_cores,
        )
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
        }
    }
}

/// The value of the first line `name : value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = text.lines().filter_map(|line| line.split_once(':'));
    pairs.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim())
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
    fn what_the_kernel_does_not_say_is_unknown() {
        let machine = Machine::from_proc("", "", "", 4);
        assert_eq!((machine.cpu.as_str(), machine.cores, machine.kernel.as_str()), ("unknown", 4, "unknown"));
    }
}
