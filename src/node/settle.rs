//! Changes that are being made when the server is told to stop.
//!
//! Runs on the main thread, once, while the workers answer what they have received.

use std::time::Instant;

use super::Node;
use super::inbox::{Control, Work};
use crate::limits::SETTLE_TIMEOUT;

impl Node {
    /// Waits until changes are durable that are on their way to the disk, and answers who asked for them. What waits
    /// behind them is not made: its senders are refused, as is who asks for anything else.
    pub(super) fn settle(&mut self) {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        while !self.writes.takes_requests() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            if let Some(Work::Control(Control::Committed(done))) = self.inbox.next(left, false, false) {
                self.writes.committed(done, &self.views);
            }
        }
        self.writes.reject_waiting();
    }
}
