//! Changes that go on while something else is measured.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::Node;
use crate::api::request::RegisterRequest;

/// Changes in one request.
const CHANGES_PER_REQUEST: u32 = 100;

/// Names that change.
const CHANGING: u32 = 10_000;

/// Changes names at the last node of a cluster, so many a second, until it is `done`.
pub(super) fn churn(node: &Node, per_s: u32, done: &AtomicBool) -> io::Result<()> {
    let begin = Instant::now();
    let mut made = 0;
    while per_s > 0 && !done.load(Ordering::Relaxed) {
        let due = begin + Duration::from_secs_f64(f64::from(made) / f64::from(per_s));
        let now = Instant::now();
        if due > now {
            thread::sleep((due - now).min(Duration::from_millis(5)));
            continue;
        }
        let change = |i: u32| {
            let [_, high, mid, low] = (made + i).to_be_bytes();
            RegisterRequest {
                name: format!("changing-{}", (made + i) % CHANGING),
                addresses: vec![[172, 16 | high & 15, mid, low].into()],
                ..RegisterRequest::default()
            }
        };
        let batch: Vec<_> = (0..CHANGES_PER_REQUEST.min(per_s)).map(change).collect();
        node.add(&batch).map_err(io::Error::other)?;
        made += CHANGES_PER_REQUEST.min(per_s);
    }
    Ok(())
}
