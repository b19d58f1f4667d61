//! How much CPU time a thread has had.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long this thread has had a CPU: what others do on it meanwhile does not count.
pub(super) fn thread_cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.try_into().unwrap_or_default(), time.tv_nsec.try_into().unwrap_or_default())
}
