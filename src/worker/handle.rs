//! A worker as other threads have it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::SyncSender;
use std::thread::JoinHandle;

use mio::Waker;

use crate::answer::metrics::Counters;
use crate::worker::cache_commands::CacheCommand;

/// A running worker, as the thread that started it sees it.
pub struct Handle {
    pub(crate) thread: JoinHandle<()>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) cache_commands: SyncSender<CacheCommand>,
}

/// Commands that wait for a worker at most: the control listener has fewer connections, each with one request.
pub(crate) const MAX_CACHE_COMMANDS: usize = 1_024;

/// What other threads have of a worker while it runs.
#[derive(Clone)]
pub struct WorkerLink {
    waker: Arc<Waker>,
    counters: Arc<Counters>,
    cache_commands: SyncSender<CacheCommand>,
}

impl WorkerLink {
    /// Has the worker do something with its cache, if it forwards and so has one; else the command waits for ever.
    /// Returns whether there was room for one more, and the worker is still there.
    #[must_use]
    pub fn command(&self, command: CacheCommand) -> bool {
        self.cache_commands.try_send(command).is_ok() && self.waker.wake().is_ok()
    }

    /// What the worker has counted so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Handle {
    /// What other threads are given of it.
    #[must_use]
    pub fn link(&self) -> WorkerLink {
        WorkerLink {
            waker: Arc::clone(&self.waker),
            counters: Arc::clone(&self.counters),
            cache_commands: self.cache_commands.clone(),
        }
    }

    /// What the worker has counted so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }

    /// Asks the worker to answer what it has received and then to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        // It can only fail if the worker is gone already.
        let _ = self.waker.wake();
    }

    /// Waits for the worker to end, and returns what it has counted.
    ///
    /// # Panics
    /// If the worker panicked: then the panic goes on here.
    #[must_use]
    pub fn join(self) -> Arc<Counters> {
        if let Err(panic) = self.thread.join() {
            std::panic::resume_unwind(panic);
        }
        self.counters
    }
}
