//! The owner of the registrations: it applies every change of what this node has registered, whatever its source, one
//! after the other.
//!
//! A request is planned on what is there, made durable, and then applied; it is done wholly or not at all, and what
//! cannot be made durable is not applied. All that has gathered while one write was under way goes into the next.
//! Changes are applied some at a time, and those of one name at once, so that no reader sees half of a name, nor waits
//! for long.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::yield_now;

use super::cluster::ClusterSender;
use super::health::Checks;
use super::inbox::Inbox;
use super::op::{Op, OpRef};
use super::persist::{Journal, Written};
use super::room::{self, Room};
use super::tables::TablesSender;
use super::updates;
use super::views::Views;
use super::write_plan::WritePlan;
use crate::api::request::{Change, Changed, Rejected, Reply, Request, Selector, ZoneUpdate, is_reserved};
use crate::limits::{MAX_BATCH_OPERATIONS, MAX_CHANGED};
use crate::store::{Cursor, Filling, NameSet, NodeId, ReadStore, Record, SharedStore, Target};
use crate::wire::header::rcode;
use crate::wire::record::rtype;

/// Operations that are made durable together at most, but for those of one request.
const MAX_DURABLE: usize = 10_000;

/// Operations that are applied while nobody can read the store, but for those of one name.
const APPLIED_AT_ONCE: usize = 64;

/// Batches of files after which others are woken to see to them: fewer names than the store notes one by one.
const BATCHES_TOGETHER: usize = 16;
const _: () = assert!(2 * BATCHES_TOGETHER * MAX_BATCH_OPERATIONS < MAX_CHANGED);

/// Registrations that are read while nobody can change the store.
const READ_AT_ONCE: usize = 512;

/// What requests may share a batch: those that only add, or only remove. What does both, or depends on what was there
/// before, goes alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum BatchKind {
    Adds,
    Removes,
    Alone,
}

fn kind(request: &Request) -> BatchKind {
    match request {
        Request::Change(changes, _) if changes.iter().all(|it| matches!(it, Change::Put(..))) => {
            BatchKind::Adds
        }
        Request::Change(changes, _) if changes.iter().all(|it| matches!(it, Change::Remove(_))) => {
            BatchKind::Removes
        }
        Request::Change(..)
        | Request::Update(..)
        | Request::Direct(..)
        | Request::Report(..)
        | Request::Ping(_) => BatchKind::Alone,
    }
}

/// Changes that are being made durable, and who is to be answered.
struct Pending {
    ops: Arc<[Op]>,
    answers: Vec<PendingReply>,
}

enum PendingReply {
    /// With the nodes that have registered the names that were to go, too.
    Changed(Changed, BTreeSet<NodeId>, Reply<Result<Changed, Rejected>>),
    /// With a response code.
    Updated(u8, Reply<Result<u8, Rejected>>),
    /// Whether it was not so before.
    Directed(bool, Reply<Result<bool, Rejected>>),
}

/// The owner's state.
pub(super) struct Writes {
    pub(super) store: SharedStore,
    pub(super) checks: Checks,
    journal: Journal,
    tables: TablesSender,
    cluster: ClusterSender,
    /// A request that could not share the batch before it.
    held: Option<Request>,
    pending: Option<Pending>,
    /// Own registrations of services, which go with their name.
    services: usize,
    /// Batches of files that have been applied.
    batches: usize,
}

impl Writes {
    /// Begins with what the disk had.
    pub(super) fn new(
        store: SharedStore,
        checks: Checks,
        journal: Journal,
        tables: TablesSender,
        cluster: ClusterSender,
    ) -> Self {
        let mut services = 0;
        each_own(&store, |record| services += usize::from(is_service(record)));
        Self { store, checks, journal, tables, cluster, held: None, pending: None, services, batches: 0 }
    }

    /// Whether it can take a request now: else one is being made durable.
    pub(super) fn takes_requests(&self) -> bool {
        self.pending.is_none()
    }

    /// A request that waits for its turn, if there is one.
    pub(super) fn take_held(&mut self) -> Option<Request> {
        self.held.take_if(|_| self.pending.is_none())
    }

    /// Begins with `request`, and those that wait behind it and may share a batch with it.
    pub(super) fn handle(&mut self, request: Request, inbox: &Inbox, views: &Views) {
        let pending = match request {
            Request::Report(instance, health, reply) => {
                // Who asked may have gone: then nobody is told, here as below.
                let _ = reply.send(self.report(&instance, health));
                return;
            }
            Request::Ping(reply) => {
                let _ = reply.send(());
                return;
            }
            Request::Update(update, reply) => self.plan_update(&update, reply),
            Request::Direct(target, value, reply) => self.plan_directive(&target, value.as_deref(), reply),
            Request::Change(..) => self.plan_changes(request, inbox),
        };
        let written = if pending.ops.is_empty() { Written::Now } else { self.journal.write(&pending.ops) };
        self.pending = Some(pending);
        match written {
            Written::Now => self.committed(Ok(()), views),
            Written::Later => {}
            Written::Never => self.committed(Err("the thread that writes to disk has ended".into()), views),
        }
    }

    fn plan_changes(&mut self, first: Request, inbox: &Inbox) -> Pending {
        let (mut plan, mut answers, mut room) = (WritePlan::default(), Vec::new(), Room::default());
        let kind_of_all = kind(&first);
        let durable = self.journal.is_durable();
        let mut next = Some(first);
        while let Some(request) = next.take() {
            if kind(&request) != kind_of_all {
                self.held = Some(request);
                break;
            }
            match request {
                Request::Change(changes, reply) => {
                    match self.plan_change(&changes, kind_of_all, &mut plan, &mut room) {
                        Ok((told, others)) => {
                            answers.push(PendingReply::Changed(Changed { durable, ..told }, others, reply));
                        }
                        Err(why) => drop(reply.send(Err(Rejected::OverLimit(why)))),
                    }
                }
                other => self.held = Some(other),
            }
            if kind_of_all != BatchKind::Alone && plan.len() < MAX_DURABLE {
                next = inbox.next_request();
            }
        }
        Pending { ops: plan.into_ops().into(), answers }
    }

    /// Plans what a request asks for. Returns what is to be told of it, and the nodes that have registered the names
    /// that are to go, too.
    ///
    /// # Errors
    /// What has no room; nothing of the request is planned then.
    fn plan_change(
        &self,
        changes: &[Change],
        kind: BatchKind,
        plan: &mut WritePlan,
        room: &mut Room,
    ) -> Result<(Changed, BTreeSet<NodeId>), String> {
        if kind == BatchKind::Adds {
            room.take(&self.store.read(), plan, changes)?;
        }
        let (mut told, mut others) = (Changed::default(), BTreeSet::new());
        for change in changes {
            match change {
                Change::Put(key, attributes) => plan.put(&self.store.read(), key, attributes, &mut told),
                Change::Remove(which) => self.plan_removal(which, plan, &mut told, &mut others),
            }
        }
        // What is removed makes room for what takes its place; and there is nothing else in the plan.
        if kind == BatchKind::Alone
            && let Err(why) = room::check(&self.store.read(), plan, changes)
        {
            *plan = WritePlan::default();
            return Err(why);
        }
        Ok((told, others))
    }

    fn plan_update(&mut self, update: &ZoneUpdate, reply: Reply<Result<u8, Rejected>>) -> Pending {
        let mut plan = WritePlan::default();
        let planned = {
            let store = self.store.read();
            let planned = updates::plan(&store, update, &mut plan);
            if let Err(why) = planned.map_or(Ok(()), |()| room::check(&store, &plan, &update.changes)) {
                drop(reply.send(Err(Rejected::OverLimit(why))));
                return Pending { ops: Arc::default(), answers: Vec::new() };
            }
            planned
        };
        let code = planned.as_ref().map_or_else(|code| *code, |()| rcode::NOERROR);
        let ops = if planned.is_ok() { plan.into_ops() } else { Vec::new() };
        Pending { ops: ops.into(), answers: vec![PendingReply::Updated(code, reply)] }
    }

    fn plan_directive(
        &mut self,
        target: &Target,
        value: Option<&[u8]>,
        reply: Reply<Result<bool, Rejected>>,
    ) -> Pending {
        let mut store = self.store.write();
        store.refresh_directives(); // so that what was set before is known
        let changed = store.statements().get(target) != value;
        let mut ops = Vec::new();
        if changed {
            let bytes = store.statements().say(target, value);
            let key_len = Record::known(&bytes).key.len();
            ops.push(Op::Put { key_len, bytes });
        }
        Pending { ops: ops.into(), answers: vec![PendingReply::Directed(changed, reply)] }
    }

    /// Plans to remove what is meant by `which` of what was registered by request.
    fn plan_removal(
        &self,
        which: &Selector,
        plan: &mut WritePlan,
        told: &mut Changed,
        others: &mut BTreeSet<NodeId>,
    ) {
        let is_instance = |record: &Record<'_>| match &which.instance {
            Some(instance) => record.instance() == &**instance,
            None => !is_reserved(record.instance()),
        };
        let meant = |record: &Record<'_>| which.matches(record) && is_instance(record);
        let Some(name) = &which.name else {
            let gone = planned_of_all(&self.store, plan, meant);
            return gone.iter().for_each(|key| plan.remove(key, told));
        };
        let (mut gone, is_empty) = {
            let store = self.store.read();
            for (origin, _, record) in store.named(name.as_wire()) {
                if origin != store.me() {
                    others.insert(origin);
                } else {
                    told.in_files += usize::from(is_reserved(record.instance()));
                }
            }
            let here = plan.named(&store, name).filter(is_instance);
            let (gone, left): (Vec<_>, Vec<_>) = here.partition(meant);
            (gone.iter().map(|record| record.key.to_vec()).collect::<Vec<_>>(), left.is_empty())
        };
        // A service goes with the last address of its name.
        if !gone.is_empty() && is_empty && self.services > 0 {
            let of_name =
                |record: &Record<'_>| is_service(record) && record.rdata.get(6..) == Some(name.as_wire());
            gone.extend(planned_of_all(&self.store, plan, |record| is_instance(record) && of_name(record)));
        }
        gone.iter().for_each(|key| plan.remove(key, told));
    }

    /// What was pending is durable now, or it is not.
    pub(super) fn committed(&mut self, done: Result<(), String>, views: &Views) {
        let Some(Pending { ops, answers }) = self.pending.take() else { return };
        if let Err(why) = done {
            tracing::error!("nothing was registered: {why}");
            answers.into_iter().for_each(|answer| answer.reject(&why));
            return;
        }
        self.apply(&ops.iter().map(Op::as_ref).collect::<Vec<_>>());
        if self.store.filling() == Filling::UnderWay && !ops.is_empty() {
            // What a person asks for is not to wait until all of a file is there.
            self.tables.publish_first(ops.iter().map(Op::name).collect(), || {});
        }
        for answer in answers {
            match answer {
                PendingReply::Changed(told, others, reply) => {
                    let names = if others.is_empty() { Default::default() } else { views.node_names() };
                    let name = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| node.to_string());
                    let elsewhere = others.into_iter().map(name).collect();
                    drop(reply.send(Ok(Changed { elsewhere, ..told })));
                }
                // Whoever has been told that it is made asks for it next.
                PendingReply::Updated(code, reply) if code == rcode::NOERROR => {
                    let names: NameSet = ops.iter().map(Op::name).collect();
                    self.tables.publish_first(names, move || drop(reply.send(Ok(code))));
                }
                PendingReply::Updated(code, reply) => drop(reply.send(Ok(code))),
                // Whoever directs may rely on it from now on.
                PendingReply::Directed(changed, reply) => {
                    self.tables.publish_all(move || drop(reply.send(Ok(changed))));
                }
            }
        }
    }

    /// Does to the registrations what is durable by now, or need not be, and has others see to it. Operations on one
    /// name follow each other.
    pub(super) fn apply(&mut self, ops: &[OpRef<'_>]) {
        self.apply_quietly(ops);
        if !ops.is_empty() {
            self.has_changed();
        }
    }

    /// The same with one batch of many, whose source tells when that was the last: others are woken for some of them
    /// together.
    pub(super) fn apply_batch(&mut self, ops: &[OpRef<'_>]) {
        self.apply_quietly(ops);
        self.batches += 1;
        if self.batches.is_multiple_of(BATCHES_TOGETHER) {
            self.has_changed();
        }
    }

    fn apply_quietly(&mut self, ops: &[OpRef<'_>]) {
        let mut rest = ops;
        while !rest.is_empty() {
            let mut len = rest.len().min(APPLIED_AT_ONCE);
            while len < rest.len() && rest[len].name() == rest[len - 1].name() {
                len += 1;
            }
            let (now, later) = rest.split_at(len);
            self.apply_at_once(now);
            rest = later;
            if !rest.is_empty() {
                yield_now();
            }
        }
    }

    fn apply_at_once(&mut self, ops: &[OpRef<'_>]) {
        let mut news = Vec::with_capacity(ops.len());
        {
            let mut store = self.store.write();
            // What follows each other and registers something is registered together.
            for same in ops.chunk_by(|a, b| matches!((a, b), (OpRef::Put(_), OpRef::Put(_)))) {
                if let OpRef::Remove(key) = same[0] {
                    news.push(store.remove_key(key));
                    continue;
                }
                let records = same.iter().filter_map(OpRef::registered);
                store.register_some(&records.collect::<Vec<_>>(), |new| news.push(new));
            }
        }
        for (op, is_news) in ops.iter().zip(news) {
            match op {
                OpRef::Put(record) => {
                    self.services += usize::from(is_news && is_service(record));
                    self.checks.registered(record, is_news);
                }
                OpRef::Remove(key) => {
                    let is_of_service = || Record::read(key).is_ok_and(|record| is_service(&record));
                    self.services -= usize::from(is_news && is_of_service());
                    self.checks.removed(key);
                }
            }
        }
    }

    /// Lets go of what has not been made: whoever waits for it is told that nobody does it.
    pub(super) fn reject_waiting(&mut self) {
        (self.held, self.pending) = (None, None);
    }

    /// Has others see to what has changed.
    pub(super) fn has_changed(&self) {
        self.cluster.wake();
        self.tables.wake();
    }

    /// Waits until all is on disk, and lets go of it. Who still waits is refused.
    pub(super) fn close(self) {
        drop(self.checks);
        self.journal.close();
    }
}

impl PendingReply {
    fn reject(self, why: &str) {
        match self {
            Self::Changed(_, _, reply) => drop(reply.send(Err(Rejected::Unable(why.into())))),
            Self::Updated(_, reply) => drop(reply.send(Err(Rejected::Unable(why.into())))),
            Self::Directed(_, reply) => drop(reply.send(Err(Rejected::Unable(why.into())))),
        }
    }
}

/// Calls `each` for all that this node has registered, some at a time.
pub(super) fn each_own(store: &SharedStore, mut each: impl FnMut(&Record<'_>)) {
    let mut cursor = Some(Cursor::default());
    while let Some(from) = cursor {
        cursor = store.with(|store| store.scan_own(from, READ_AT_ONCE, |record| each(&record)));
        yield_now();
    }
}

/// The keys of all own registrations that are meant, as they are after the plan.
fn planned_of_all(
    store: &SharedStore,
    plan: &WritePlan,
    meant: impl Fn(&Record<'_>) -> bool,
) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    each_own(store, |record| {
        if meant(record) && !plan.concerns(record.key) {
            found.push(record.key.to_vec());
        }
    });
    found.extend(plan.planned().filter(|record| meant(record)).map(|record| record.key.to_vec()));
    found
}

fn is_service(record: &Record<'_>) -> bool {
    record.rtype == rtype::SRV && !is_reserved(record.instance())
}
