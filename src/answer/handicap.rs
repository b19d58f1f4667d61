//! What makes a build slower on purpose, to prove that the performance gate sees it: nothing, unless one of the
//! features `handicap-*` is on.
//!
//! Runs on the workers, for every query. `scripts/prove-perf-gate` builds with these features; nobody else does.

/// Does what the features say.
#[inline(always)]
pub(crate) fn handicap() {
    #[cfg(feature = "handicap-allocation")]
    drop(std::hint::black_box(Box::new([0u8; 64])));
    #[cfg(feature = "handicap-instructions")]
    for i in 0..std::hint::black_box(ROUNDS) {
        std::hint::black_box(i);
    }
    #[cfg(feature = "handicap-lock")]
    {
        static LOCK: std::sync::Mutex<u64> = std::sync::Mutex::new(0);
        *LOCK.lock().unwrap_or_else(std::sync::PoisonError::into_inner) += 1;
    }
}

/// About three percent of what a positive answer takes: a round of the loop takes some five instructions, as the
/// compiler does not know how many there are.
#[cfg(feature = "handicap-instructions")]
const ROUNDS: u32 = 6;
