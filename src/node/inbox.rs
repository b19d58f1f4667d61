//! The queue of changes: what the owner of the registrations is asked to do, by whom, and in which order it takes that.
//!
//! Every source of names hands its changes to this queue. It has a lane for each kind of source; each has a named
//! limit, and a source waits, or is refused, when its lane is full. Lanes are served in this order:
//!
//! 1. control: what signals and other threads tell of; a stop goes before all else;
//! 2. requests: what people and programs ask for, who wait for the answer;
//! 3. results: what checks have found, and what has become of containers;
//! 4. bulk: batches of what files say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Select, Sender, TrySendError, bounded, never, select};

use super::file_changes::{Batch, FilesRead};
use crate::api::request::{Queued, Reply, Request};
use crate::config::Settings;
use crate::gossip::engine::News;
use crate::health::monitor::HealthChange;
use crate::limits::{MAX_BATCHES_WAITING, MAX_CONTROL_WAITING, MAX_REQUESTS_WAITING, MAX_RESULTS_WAITING};
use crate::policy::Policy;
use crate::policy::rules::Scope;
use crate::sources::docker;

/// What other threads tell the owner.
pub enum Control {
    /// Read the files again.
    Reload,
    /// Be as these settings say, as far as that can be changed, and read their files.
    Configure(Box<Settings>),
    /// What was to be made durable is, or the disk says why not.
    Committed(Result<(), String>),
    /// Who has come to the cluster and gone.
    Members(Vec<News>),
    /// A connection to an upstream has failed, for a reason that is news.
    UpstreamFault(String),
    /// Tell somebody that the owner does its work.
    Ping(Reply<()>),
    /// Answer what has been received, then end.
    Stop,
}

/// A change that checks or containers bring about.
pub(super) enum Observation {
    /// A health check has found something.
    Health(HealthChange),
    /// Something has changed of a container.
    Docker(docker::ContainerUpdate),
}

/// Changes by files.
pub(super) enum Bulk {
    /// New policies, before the names of the same configuration.
    Policies(Vec<(Scope, Policy)>),
    /// Some of them.
    Batch(Batch),
    /// All that is in the files has been handed over, or was refused.
    Read(Box<FilesRead>),
}

/// What the owner does next.
pub(super) enum Work {
    Control(Control),
    Request(Request),
    Outcome(Observation),
    Bulk(Bulk),
}

/// Asks things of the owner.
#[derive(Clone)]
pub struct ControlSender {
    control: Sender<Control>,
    requests: Sender<Request>,
    outcomes: Sender<Observation>,
    bulk: Sender<Bulk>,
    /// A reload waits already: one reading is enough for all that has changed before it.
    reload_waits: Arc<AtomicBool>,
}

impl ControlSender {
    /// Tells it something; waits while the lane is full. Returns whether there is still somebody to do it.
    pub fn send(&self, control: Control) -> bool {
        if matches!(control, Control::Reload) && self.reload_waits.swap(true, Ordering::AcqRel) {
            return true;
        }
        self.control.send(control).is_ok()
    }

    /// The same for threads that may not wait: if the lane is full, it is not told.
    pub(super) fn try_send(&self, control: Control) {
        let _ = self.control.try_send(control);
    }

    /// Asks for a change without waiting.
    pub(super) fn request(&self, request: Request) -> Queued {
        match request {
            // It does not wait for the disk, as changes do.
            Request::Ping(reply) => queued(&self.control.try_send(Control::Ping(reply))),
            request => queued(&self.requests.try_send(request)),
        }
    }

    /// Waits while the lane is full. Returns whether there is still somebody to take it.
    pub(super) fn outcome(&self, outcome: Observation) -> bool {
        self.outcomes.send(outcome).is_ok()
    }

    /// The same.
    pub(super) fn bulk(&self, bulk: Bulk) -> bool {
        self.bulk.send(bulk).is_ok()
    }

    /// What waits, by lane.
    pub(super) fn waiting(&self) -> [(&'static str, usize); 3] {
        [("requests", self.requests.len()), ("results", self.outcomes.len()), ("bulk", self.bulk.len())]
    }
}

fn queued<T>(sent: &Result<(), TrySendError<T>>) -> Queued {
    match sent {
        Ok(()) => Queued::Waits,
        Err(TrySendError::Full(_)) => Queued::Full,
        Err(TrySendError::Disconnected(_)) => Queued::Stopping,
    }
}

/// The owner's side.
pub struct Inbox {
    control: Receiver<Control>,
    requests: Receiver<Request>,
    outcomes: Receiver<Observation>,
    bulk: Receiver<Bulk>,
    sender: ControlSender,
}

impl Default for Inbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbox {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        let (control_sender, control) = bounded(MAX_CONTROL_WAITING);
        let (requests_sender, requests) = bounded(MAX_REQUESTS_WAITING);
        let (outcomes_sender, outcomes) = bounded(MAX_RESULTS_WAITING);
        let (bulk_sender, bulk) = bounded(MAX_BATCHES_WAITING);
        let sender = ControlSender {
            control: control_sender,
            requests: requests_sender,
            outcomes: outcomes_sender,
            bulk: bulk_sender,
            reload_waits: Arc::default(),
        };
        Self { control, requests, outcomes, bulk, sender }
    }

    /// A sender for another thread.
    #[must_use]
    pub fn sender(&self) -> ControlSender {
        self.sender.clone()
    }

    /// The next thing to do, by the order of the lanes; waits for one for so long at most. Requests are left where they
    /// are unless `with_requests`, and so are batches of files unless `with_bulk`.
    pub(super) fn next(&self, timeout: Duration, with_requests: bool, with_bulk: bool) -> Option<Work> {
        let (no_requests, no_bulk) = (never(), never());
        let requests = if with_requests { &self.requests } else { &no_requests };
        let bulk = if with_bulk { &self.bulk } else { &no_bulk };
        let take = || {
            let control = || self.control.try_recv().ok().map(Work::Control);
            let request = || requests.try_recv().ok().map(Work::Request);
            let outcome = || self.outcomes.try_recv().ok().map(Work::Outcome);
            let bulk = || bulk.try_recv().ok().map(Work::Bulk);
            control().or_else(request).or_else(outcome).or_else(bulk)
        };
        let work = take().or_else(|| {
            let mut select = Select::new();
            select.recv(&self.control);
            select.recv(requests);
            select.recv(&self.outcomes);
            select.recv(bulk);
            select.ready_timeout(timeout).ok()?;
            take()
        });
        if matches!(work, Some(Work::Control(Control::Reload))) {
            // What changes from now on is another change.
            self.sender.reload_waits.store(false, Ordering::Release);
        }
        work
    }

    /// The next request, if one waits.
    pub(super) fn next_request(&self) -> Option<Request> {
        self.requests.try_recv().ok()
    }

    /// Takes no more. Who waits for room in a lane waits no longer; requests are let go of, by which those who wait for
    /// them are told that nobody does them. A queue whose reader is gone keeps what is in it, so these are read until
    /// nobody can ask any more.
    pub(super) fn refuse(self) {
        let Self { control, requests, sender, .. } = self;
        drop(sender);
        // Both end with the last sender.
        let refuse = move || {
            while select! { recv(control) -> it => it.is_ok(), recv(requests) -> it => it.is_ok() } {}
        };
        // Where there is no thread for it, the process ends a little later.
        let _ = thread::Builder::new().name("refuse".into()).spawn(refuse);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change() -> Request {
        Request::Change(Vec::new(), tokio::sync::oneshot::channel().0)
    }

    #[test]
    fn who_asks_before_or_after_the_end_is_refused() {
        let inbox = Inbox::new();
        let sender = inbox.sender();
        let ask = || {
            let (reply, answer) = tokio::sync::oneshot::channel();
            (sender.request(Request::Change(Vec::new(), reply)), answer)
        };
        let (queued, before) = ask();
        inbox.refuse();
        let (_, after) = ask();
        assert_eq!(queued, Queued::Waits);
        assert!(before.blocking_recv().is_err() && after.blocking_recv().is_err());
        assert!(!sender.bulk(Bulk::Batch(Batch::default())), "nobody takes it");
    }

    #[test]
    fn requests_go_before_results_and_those_before_files_and_a_stop_before_all() {
        let inbox = Inbox::new();
        let sender = inbox.sender();
        assert!(sender.bulk(Bulk::Batch(Batch::default())));
        assert!(sender.outcome(Observation::Docker(docker::ContainerUpdate::default())));
        assert_eq!(sender.request(change()), Queued::Waits);
        assert!(sender.send(Control::Stop));
        let next = |with_requests, with_bulk| match inbox.next(Duration::ZERO, with_requests, with_bulk) {
            Some(Work::Control(_)) => "control",
            Some(Work::Request(_)) => "request",
            Some(Work::Outcome(_)) => "outcome",
            Some(Work::Bulk(_)) => "bulk",
            None => "nothing",
        };
        assert_eq!(
            [next(true, true), next(false, true), next(true, true)],
            ["control", "outcome", "request"]
        );
        assert_eq!([next(true, false), next(true, true), next(true, true)], ["nothing", "bulk", "nothing"]);
    }

    #[test]
    fn what_is_over_a_lane_is_refused_or_waits_and_a_reload_waits_once() {
        let inbox = Inbox::new();
        let sender = inbox.sender();
        for _ in 0..MAX_REQUESTS_WAITING {
            assert_eq!(sender.request(change()), Queued::Waits);
        }
        assert_eq!(sender.request(change()), Queued::Full);
        for _ in 0..2 * MAX_CONTROL_WAITING {
            assert!(sender.send(Control::Reload));
        }
        assert!(matches!(inbox.next(Duration::ZERO, false, false), Some(Work::Control(Control::Reload))));
        assert!(inbox.next(Duration::ZERO, false, false).is_none(), "one reload for all");
        assert!(sender.send(Control::Reload));
        assert!(inbox.next(Duration::ZERO, false, false).is_some(), "and another for what changes after it");
        drop(inbox);
        assert_eq!(sender.request(change()), Queued::Stopping);
    }
}
