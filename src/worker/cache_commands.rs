//! What another thread has a worker do with what only the worker may touch: its cache, and what it has in flight.
//!
//! A cache belongs to its worker and has no lock. Who wants to look at it, or have something forgotten, leaves a
//! command, wakes the worker and goes on; the command does it between two of the worker's turns and sends what has come
//! of it wherever it likes. Asked by the thread `http`; cache_commands run on the workers.

use std::sync::mpsc::Receiver;

use crate::resolver::Resolver;
use crate::resolver::cache::Cache;
use crate::upstream::forwarding::Forwarding;

/// Something to be done by a worker. While it takes, the worker answers nobody.
pub type CacheCommand = Box<dyn FnOnce(&mut CacheView<'_>) + Send>;

/// What a command has before it.
pub struct CacheView<'a> {
    /// The worker's cache.
    pub cache: &'a mut Cache,
    /// The time on the cache's clock.
    pub now_s: u32,
    /// Questions that upstreams have been asked and have not answered.
    pub in_flight: usize,
    /// Queries that wait for these.
    pub deferred: usize,
}

/// Does what there is to do.
pub(crate) fn take_turn(
    cache_commands: &Receiver<CacheCommand>,
    resolver: &mut Resolver,
    forwarding: &Forwarding,
) {
    while let Ok(command) = cache_commands.try_recv() {
        let (in_flight, deferred) = forwarding.in_flight();
        let now_s = resolver.now_s();
        command(&mut CacheView { cache: resolver.cache(), now_s, in_flight, deferred });
    }
}
