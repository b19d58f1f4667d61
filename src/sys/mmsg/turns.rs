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

/// Asks for turns that are no longer than that. Who takes short ones has them sooner: a thread that wakes up does not
/// wait for the end of a longer turn of another one. Linux before 6.12 takes the wish and does nothing about it.
///
/// # Errors
/// When the kernel refuses, or does not know the call.
pub fn ask_for_short_turns(longest: Duration) -> io::Result<()> {
    set(SchedAttr {
        // It is set with the rest, and stays what it is.
        nice: getpriority_process(None)?,
        runtime_ns: u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX),
        ..ORDINARY
    })
}

/// Goes before all ordinary threads from now on, as the least of the real-time ones (SCHED_FIFO): whoever has its CPU
/// loses it when this thread wakes up. Others still get a twentieth of the CPU if it never sleeps; that is the kernel's
/// doing.
///
/// # Errors
/// When the kernel refuses: it takes CAP_SYS_NICE or a resource limit RTPRIO of 1.
pub fn set_fifo() -> io::Result<()> {
    set(SchedAttr { policy: SCHED_FIFO, priority: 1, ..ORDINARY })
}

const SCHED_FIFO: u32 = 1;

/// An ordinary thread (SCHED_OTHER), as all are at first.
const ORDINARY: SchedAttr = SchedAttr {
    #[allow(clippy::cast_possible_truncation)] // 48
    size: size_of::<SchedAttr>() as u32,
    policy: 0,
    flags: 0,
    nice: 0,
    priority: 0,
    runtime_ns: 0,
    deadline_ns: 0,
    period_ns: 0,
};

fn set(mut attributes: SchedAttr) -> io::Result<()> {
    const THIS_THREAD: libc::c_long = 0;
    const NO_FLAGS: libc::c_long = 0;
    // SAFETY: the kernel reads as many bytes as `size` says, which are there, and writes to that field at most, when it
    // knows fewer.
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

    #[test]
    fn who_may_goes_first() {
        let policy = std::thread::spawn(|| {
            let done = set_fifo();
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Behind the name, which may have anything in it; the policy is the 41st field, the first of these the
            // third.
            let fields = stat.rsplit_once(") ").unwrap().1.to_owned();
            (done, fields.split(' ').nth(41 - 3).unwrap().to_owned())
        });
        match policy.join().unwrap() {
            (Ok(()), policy) => assert_eq!(policy, "1"),
            (Err(error), policy) => {
                assert_eq!((error.kind(), &*policy), (io::ErrorKind::PermissionDenied, "0"));
            }
        }
    }
}
