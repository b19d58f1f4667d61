//! Work in parts that several threads share, where a start has very much of it.
//!
//! Runs on the calling thread, and on helpers that end before the call does.

use std::panic::resume_unwind;
use std::sync::Mutex;
use std::thread;

/// Threads at most: beyond these, memory is what there is too little of.
const MAX_THREADS: usize = 8;

/// Names or registrations for which one thread is enough: others would take longer to begin than they are of use.
const ENOUGH_FOR_ONE: usize = 10_000;

/// How many threads so many names or registrations are best shared by, of those that this process can have run at the
/// same time.
#[must_use]
pub fn threads_for(count: usize) -> usize {
    if count < ENOUGH_FOR_ONE {
        return 1;
    }
    thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS)
}

/// Does each of the `parts`, on as many threads as there are parts, and returns what came of each. Where the system
/// gives fewer threads, those that there are do it all.
///
/// # Panics
/// If `work` does.
pub fn parallel_map<T: Send, R: Send>(parts: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let helpers = parts.len().saturating_sub(1);
    let queue = Mutex::new(parts.into_iter().enumerate());
    let take = || queue.lock().ok()?.next();
    let run = || {
        let mut done = Vec::new();
        while let Some((number, part)) = take() {
            done.push((number, work(part)));
        }
        done
    };
    let mut done = thread::scope(|scope| {
        let helper = || thread::Builder::new().name("helper".into()).spawn_scoped(scope, run).ok();
        let helpers: Vec<_> = (0..helpers).map_while(|_| helper()).collect();
        let mut done = run();
        for helper in helpers {
            done.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic)));
        }
        done
    });
    done.sort_unstable_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_of_the_parts_is_in_their_order() {
        for count in [0, 1, 2, 7, 40] {
            let parts: Vec<usize> = (0..count).collect();
            let expected: Vec<_> = parts.iter().map(|part| part * part).collect();
            assert_eq!(parallel_map(parts, |part| part * part), expected);
        }
    }

    #[test]
    fn all_parts_are_under_way_at_the_same_time() {
        let barrier = std::sync::Barrier::new(3);
        parallel_map(vec![(); 3], |()| barrier.wait());
    }

    #[test]
    #[should_panic(expected = "in a part")]
    fn a_panic_is_passed_on() {
        parallel_map(vec![1, 2, 3], |part| assert!(part != 2, "in a part"));
    }
}
