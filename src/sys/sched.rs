//! Who has the CPU first where there are too few: the workers, whose queries wait, before those who do long work for
//! others.
//!
//! Runs on the threads that stand back.

use std::thread;

use rustix::process::{getpriority_process, setpriority_process};

/// Steps of long work, of some microseconds each, between which the CPU is left to others. The kernel gives it to a
/// worker that wakes up sooner or later, but may let a turn go on until its next tick, milliseconds later (seen on
/// Linux 6.18).
pub const SHORT_STEPS: usize = 8;

/// How much nicer than the workers threads are that only those wait for who have asked for changes.
const NICER: i32 = 5;

/// Lets others have the CPU, once in `steps` steps of which `done` have been done: those are to take some ten
/// microseconds together. Where nobody waits for it, this costs a tenth of a microsecond.
#[inline]
pub fn yield_every(steps: usize, done: usize) {
    if done % steps == steps - 1 {
        thread::yield_now();
    }
}

/// Bytes of memory that are given back in one go. The kernel takes a tenth of a millisecond for them (seen on Linux
/// 6.18), in which nobody else has the CPU.
const GIVEN_BACK_AT_ONCE: usize = 1 << 20;

/// Frees what may take very much memory, with others having the CPU in between.
pub fn give_back<T: Copy>(mut all: Vec<T>) {
    let step = (GIVEN_BACK_AT_ONCE / size_of::<T>().max(1)).max(1);
    while all.capacity() > step {
        let rest = all.capacity() - step;
        all.truncate(rest);
        all.shrink_to(rest);
        thread::yield_now();
    }
}

/// From now on others go before this thread, which still has a quarter of a CPU that a worker wants all of.
pub fn lower_priority() {
    // Where it cannot be, the thread is as important as all.
    let _ = getpriority_process(None).and_then(|nice| setpriority_process(None, nice + NICER));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_is_freed_to_the_end() {
        give_back(Vec::<u64>::new());
        give_back(vec![1u8; 10]);
        give_back(vec![[0u8; 48]; 200_000]);
    }

    #[test]
    fn who_stands_back_is_nicer_than_the_others() {
        let here = || getpriority_process(None).unwrap();
        let before = here();
        let there = thread::spawn(move || {
            lower_priority();
            (0..2 * SHORT_STEPS).for_each(|done| yield_every(SHORT_STEPS, done));
            here()
        });
        assert_eq!(there.join().unwrap(), (before + NICER).min(19));
        assert_eq!(here(), before);
    }
}
