//! How the kernel's scheduler gives a thread its turns.
//!
//! Runs on the thread that it is about, once.

#![allow(unsafe_code)]

use std::io;
use std::time::Duration;

use rustix::process::getpriority_process;

/// `struct sched_attr` as of Linux 3.14 (sched_setattr(2)).
#[repr(C)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    /// Of an ordinary thread: how long its turns are, since Linux 6.12.
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
}

/// Asks for turns that are no longer than that. Who takes short ones has them sooner: a thread that wakes up does not wait for the
/// end of a longer turn of another one. Linux before 6.12 takes the wish and does nothing about it.
///
/// # Errors
/// When the kernel refuses, or does not know the call.
pub fn ask_for_short_turns(longest: Duration) -> io::Result<()> {
    #[allow(clippy::cast_possible_truncation)] // 48
    const SIZE: u32 = size_of::<SchedAttr>() as u32;
    const THIS_THREAD: libc::c_long = 0;
    const NO_FLAGS: libc::c_long = 0;
    let mut attributes = SchedAttr {
        size: SIZE,
        policy: 0, // SCHED_OTHER
        flags: 0,
        // It is set with the rest, and stays what it is.
        nice: getpriority_process(None)?,
        priority: 0,
        runtime_ns: u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX),
        deadline_ns: 0,
        period_ns: 0,
    };
    // SAFETY: the kernel reads as many bytes as `size` says, which are there, and writes to that field at most, when it knows fewer.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, THIS_THREAD, &raw mut attributes, NO_FLAGS) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_takes_the_wish_and_the_priority_stays() {
        let before = getpriority_process(None).unwrap();
        ask_for_short_turns(Duration::from_micros(100)).unwrap();
        assert_eq!(getpriority_process(None).unwrap(), before);
    }
}
