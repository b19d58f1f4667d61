//! What people want of the workers' caches: each worker does it with its own, and replies.
//!
//! Asked by the thread `http`; it is done on the workers.

use crate::api::external::{CachedMessage, Replies, WorkerCache};
use crate::resolver::cache::Stats;
use crate::wire::name::Name;
use crate::worker::WorkerLink;
use crate::worker::cache_commands::CacheView;

/// Has each of the workers, which have caches, do `command` with its own and reply. Returns whether all have room for
/// it.
fn ask_workers<T: Send + 'static>(
    workers: &[WorkerLink],
    replies: &Replies<T>,
    command: impl Fn(&mut CacheView<'_>, usize) -> T + Clone + Send + 'static,
) -> bool {
    let mut all = true;
    for (number, worker) in workers.iter().enumerate() {
        let (replies, command) = (replies.clone(), command.clone());
        // There is room for a reply of each. Who asked may have gone: then nobody is told.
        all &= worker.command(Box::new(move |view| drop(replies.try_send(command(view, number)))));
    }
    all
}

/// What the caches hold.
pub(super) fn caches(workers: &[WorkerLink], replies: &Replies<WorkerCache>) -> bool {
    ask_workers(workers, replies, |view, worker| {
        let Stats { entries, bytes, evictions } = view.cache.stats();
        let (in_flight, waiting) = (view.in_flight, view.deferred);
        WorkerCache { worker: Some(worker), entries, bytes, evictions, in_flight, waiting }
    })
}

/// What they have of a name.
pub(super) fn cached(workers: &[WorkerLink], name: &Name, replies: &Replies<Vec<CachedMessage>>) -> bool {
    let name = name.clone();
    ask_workers(workers, replies, move |view, worker| {
        let name = name.as_wire();
        let entries = view.cache.entries(name, view.now_s);
        let message = |it: crate::resolver::cache::Entry<'_>| CachedMessage {
            worker,
            dnssec_ok: it.dnssec_ok,
            left_s: it.left_s,
            message: it.to_message(name),
        };
        entries.map(message).collect()
    })
}

/// Has them forget a name, with what is below it if that is said; or everything.
pub(super) fn flush(workers: &[WorkerLink], what: Option<(Name, bool)>, replies: &Replies<usize>) -> bool {
    ask_workers(workers, replies, move |view, _| match &what {
        Some((name, below)) => view.cache.flush(name.as_wire(), *below),
        None => view.cache.clear(),
    })
}
