//! Who has the CPU first where there are too few: the workers, whose queries wait, before those who do long work for others.
//!
//! Runs on the threads that stand back.

use std::thread;

use rustix::process::{getpriority_process, setpriority_process};

/// Steps of long work, of some microseconds each, between which the CPU is left to others. The kernel gives it to a worker that
/// wakes up sooner or later, but may let a turn go on until its next tick, milliseconds later (seen on Linux 6.18).
const STEPS: usize = 8;

/// How much nicer than the workers threads are that only those wait for who have asked for changes.
const NICER: i32 = 5;

/// Lets others have the CPU, once in some steps of which `done` have been done; where nobody waits for it, this costs a tenth of a
/// microsecond.
#[inline]
pub fn make_way(done: usize) {
    if done % STEPS == STEPS - 1 {
        thread::yield_now();
    }
}

/// From now on others go before this thread, which still has a quarter of a CPU that a worker wants all of.
pub fn stand_back() {
    // Where it cannot be, the thread is as important as all.
    let _ = getpriority_process(None).and_then(|nice| setpriority_process(None, nice + NICER));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stands_back_is_nicer_than_the_others() {
        let here = || getpriority_process(None).unwrap();
        let before = here();
        let there = thread::spawn(move || {
            stand_back();
            (0..2 * STEPS).for_each(make_way);
            here()
        });
        assert_eq!(there.join().unwrap(), (before + NICER).min(19));
        assert_eq!(here(), before);
    }
}
