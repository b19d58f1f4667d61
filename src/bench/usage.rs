//! What a sending thread took of the CPU, and how long it had to wait for one: the generator's own part in what is
//! seen.
//!
//! Read by each sending thread at its begin and its end.

use std::fs;

/// A reading at the begin of a thread.
#[derive(Debug)]
pub(super) struct ThreadUsage {
    at_begin: Option<(u64, u64)>,
}

/// What a sending thread did with its time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// How long it ran, on the clock.
    pub elapsed_ns: u64,
    /// In which nothing was to do: it slept, or looked for answers and there were none.
    pub idle_ns: u64,
    /// CPU time, where the kernel tells.
    pub cpu_ns: Option<u64>,
    /// Time in which it could have run and others had the CPU, where the kernel tells.
    pub delayed_ns: Option<u64>,
}

impl Usage {
    /// The part of the time in which there was something to do.
    #[must_use]
    pub fn busy_share(&self) -> f64 {
        if self.elapsed_ns == 0 { 0.0 } else { 1.0 - self.idle_ns as f64 / self.elapsed_ns as f64 }
    }

    /// The part of the time in which others had the CPU that it needed.
    #[must_use]
    pub fn delayed_share(&self) -> f64 {
        if self.elapsed_ns == 0 { 0.0 } else { self.delayed_ns.unwrap_or(0) as f64 / self.elapsed_ns as f64 }
    }
}

impl ThreadUsage {
    pub(super) fn begin() -> Self {
        Self { at_begin: scheduler_statistics() }
    }

    pub(super) fn end(&self, elapsed_ns: u64, idle_ns: u64) -> Usage {
        let since = self.at_begin.zip(scheduler_statistics());
        Usage {
            elapsed_ns,
            idle_ns,
            cpu_ns: since.map(|(begin, end)| end.0.saturating_sub(begin.0)),
            delayed_ns: since.map(|(begin, end)| end.1.saturating_sub(begin.1)),
        }
    }
}

/// CPU time of this thread, and its time on a run queue, in nanoseconds.
fn scheduler_statistics() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let mut fields = text.split_ascii_whitespace().map(str::parse);
    Some((fields.next()?.ok()?, fields.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_time_on_the_clock() {
        let usage = Usage { elapsed_ns: 200, idle_ns: 50, cpu_ns: Some(160), delayed_ns: Some(20) };
        assert_eq!((usage.busy_share(), usage.delayed_share()), (0.75, 0.1));
        assert_eq!((Usage::default().busy_share(), Usage::default().delayed_share()), (0.0, 0.0));
    }

    #[test]
    fn the_kernel_tells_of_this_thread() {
        let begin = ThreadUsage::begin();
        let mut sum = 0u64;
        (0..20_000_000u64).for_each(|i| sum = std::hint::black_box(sum ^ i));
        let usage = begin.end(1, 0);
        assert!(usage.cpu_ns.is_some_and(|cpu_ns| cpu_ns > 100_000), "{usage:?}");
    }
}
