//! Queries that do not all stand in memory: those that follow on a first part come in blocks, while these are sent.
//!
//! The thread `input` reads blocks of lines ahead, a few of them; sending threads take one each when they have sent the
//! one before. So the queries are sent in the order of the blocks, and once.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crossbeam_channel::Receiver;

/// What is to be told of an input after the run.
#[derive(Debug, Default)]
pub(super) struct FeedState {
    pub(super) read: AtomicU64,
    pub(super) bad: AtomicU64,
    /// Why it ended before its end.
    pub(super) error: OnceLock<String>,
}

/// Where the next blocks come from.
pub struct Feed<B> {
    pub(super) blocks: Receiver<B>,
    pub(super) state: Arc<FeedState>,
}

/// What a look for the next block finds.
pub(crate) enum NextBlock<B> {
    /// A block.
    Block(Box<B>),
    /// None yet.
    Later,
    /// None any more.
    End,
}

impl<B> Feed<B> {
    pub(crate) fn next(&self) -> NextBlock<B> {
        match self.blocks.try_recv() {
            Ok(block) => NextBlock::Block(Box::new(block)),
            Err(crossbeam_channel::TryRecvError::Empty) => NextBlock::Later,
            Err(crossbeam_channel::TryRecvError::Disconnected) => NextBlock::End,
        }
    }

    /// Queries, and bad lines, that have come by it.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.state.read.load(Relaxed), self.state.bad.load(Relaxed))
    }

    /// Why it ended before its end, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.state.error.get().map(String::as_str)
    }
}

// Not derived: a clone takes from the same blocks, and copies none.
impl<B> Clone for Feed<B> {
    fn clone(&self) -> Self {
        Self { blocks: self.blocks.clone(), state: Arc::clone(&self.state) }
    }
}
