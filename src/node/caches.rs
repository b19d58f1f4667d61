//! What the control listener wants of the workers' caches: each worker is given a job, and tells what has come of it.
//!
//! Runs on the control thread; the jobs run on the workers.

use super::Node;
use crate::dataplane::jobs::Desk;
use crate::registry::forwarding::{CachedMessage, Told, WorkerCache};
use crate::resolver::cache::Stats;
use crate::wire::name::Name;

impl Node {
    /// Has each worker do `job` with its cache, if they have some, and tell what has come of it.
    fn ask_workers<T: Send + 'static>(
        &self,
        told: &Told<T>,
        job: impl Fn(&mut Desk<'_>, usize) -> T + Clone + Send + 'static,
    ) {
        if self.settings.resolver.is_none() {
            return;
        }
        for (number, worker) in self.workers.iter().enumerate() {
            let (told, job) = (told.clone(), job.clone());
            // Who asked may have gone: then nobody is told.
            worker.ask(Box::new(move |desk| drop(told.send(job(desk, number)))));
        }
    }

    /// What the caches hold.
    pub(super) fn tell_caches(&self, told: &Told<WorkerCache>) {
        self.ask_workers(told, |desk, worker| {
            let Stats { entries, bytes, evictions } = desk.cache.stats();
            let (in_flight, waiting) = (desk.in_flight, desk.waiting);
            WorkerCache { worker: Some(worker), entries, bytes, evictions, in_flight, waiting }
        });
    }

    /// What they have of a name.
    pub(super) fn tell_cached(&self, name: &Name, told: &Told<Vec<CachedMessage>>) {
        let name = name.clone();
        self.ask_workers(told, move |desk, worker| {
            let name = name.as_wire();
            let entries = desk.cache.entries(name, desk.now_s);
            let tell = |it: crate::resolver::cache::Entry<'_>| CachedMessage {
                worker,
                dnssec_ok: it.dnssec_ok,
                left_s: it.left_s,
                message: it.to_message(name),
            };
            entries.map(tell).collect()
        });
    }

    /// Has them forget a name, with what is below it if that is said; or everything.
    pub(super) fn flush(&self, what: Option<(Name, bool)>, told: &Told<usize>) {
        self.ask_workers(told, move |desk, _| match &what {
            Some((name, below)) => desk.cache.flush(name.as_wire(), *below),
            None => desk.cache.clear(),
        });
    }
}
