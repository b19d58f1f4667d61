//! Changes that are being made when the server is told to stop.
//!
//! Runs on the control thread, once, while the workers answer what they have received.

use std::time::{Duration, Instant};

use super::mutations::Mutations;
use super::{Control, Node};
use crate::dataplane::worker::STOP_TIMEOUT;

/// How long the disk has to make durable what it has been given, so that whoever asked for it is told.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

const _: () = assert!(SETTLE_TIMEOUT.as_millis() < STOP_TIMEOUT.as_millis(), "workers have to tell it");

impl Node {
    /// Waits until changes are durable that are on their way to the disk, and tells who asked for them. What waits behind them
    /// is not made: its senders are refused, as is who asks for anything else.
    pub(super) fn settle(&mut self) {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while self.mutations.are_under_way() {
            match self.inbox.take() {
                Some(Control::Committed(done)) => self.committed(done),
                Some(_) => {}
                None => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break;
                    }
                    self.inbox.wait(left, |_| ());
                }
            }
        }
        self.mutations = Mutations::default();
    }
}
