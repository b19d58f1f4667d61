//! Requests that change registrations: planned here, on the control thread, and made durable before they are applied.
//!
//! What cannot be made durable is not applied. A request is done wholly or not at all.

use std::collections::{BTreeSet, VecDeque};

use super::journal::{Op, Written};
use super::plan::Plan;
use super::{Node, updates};
use crate::precedence::make_way;
use crate::registry::request::{Change, Changed, Refused, Reply, Selector, Stated, ZoneUpdate, is_reserved};
use crate::store::{NodeId, Record, Store, Target};
use crate::wire::header::rcode;
use crate::wire::record::rtype;

/// Changes that are made durable together at most.
const MAX_OPS: usize = 10_000;

/// A request that changes something and waits for its turn.
pub(super) enum Mutation {
    Change(Vec<Change>, Reply<Result<Changed, Refused>>),
    Update(ZoneUpdate, Reply<Result<u8, Refused>>),
    /// That a value holds of a target, or none.
    State(Target, Option<Box<[u8]>>, Reply<Result<Stated, Refused>>),
}

/// What requests may share a batch: those that only add, or only remove. What does both, or depends on what was said before,
/// goes alone.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Adds,
    Removes,
    Alone,
}

impl Mutation {
    fn kind(&self) -> Kind {
        match self {
            Self::Change(changes, _) if changes.iter().all(|it| matches!(it, Change::Put(..))) => Kind::Adds,
            Self::Change(changes, _) if changes.iter().all(|it| matches!(it, Change::Remove(_))) => {
                Kind::Removes
            }
            Self::Change(..) | Self::Update(..) | Self::State(..) => Kind::Alone,
        }
    }
}

/// Changes that are being made durable, and who is to be told.
#[derive(Default)]
struct Batch {
    ops: Vec<Op>,
    acks: Vec<Ack>,
}

enum Ack {
    /// With the nodes that have registered the names that were to go, too.
    Changed(Changed, BTreeSet<NodeId>, Reply<Result<Changed, Refused>>),
    /// With a response code.
    Updated(u8, Reply<Result<u8, Refused>>),
    /// Whether it was not so before.
    Stated(Target, bool, Reply<Result<Stated, Refused>>),
}

/// Requests on their way.
#[derive(Default)]
pub(super) struct Mutations {
    waiting: VecDeque<Mutation>,
    under_way: Option<Batch>,
    /// Own registrations of services, which go with their name.
    services: usize,
}

impl Mutations {
    /// Begins with what the disk had.
    pub(super) fn new(store: &Store) -> Self {
        Self { services: store.registrations().filter(is_service).count(), ..Self::default() }
    }

    pub(super) fn wait(&mut self, mutation: Mutation) {
        self.waiting.push_back(mutation);
    }

    /// Whether changes are being made durable.
    pub(super) fn are_under_way(&self) -> bool {
        self.under_way.is_some()
    }

    /// Whether what comes next depends on what has been said to the cluster.
    fn states_next(&self) -> bool {
        matches!(self.waiting.front(), Some(Mutation::State(..)))
    }

    /// The next batch: requests of one kind, in the order in which they came, each computed on what is there by then.
    fn next_batch(&mut self, store: &Store, durable: bool) -> Batch {
        let (mut plan, mut batch) = (Plan::default(), Batch::default());
        let Some(kind) = self.waiting.front().map(Mutation::kind) else { return batch };
        while plan.len() < MAX_OPS {
            let joins =
                |next: &&Mutation| next.kind() == kind && (batch.acks.is_empty() || kind != Kind::Alone);
            if self.waiting.front().filter(joins).is_none() {
                break;
            }
            match self.waiting.pop_front() {
                Some(Mutation::Change(changes, reply)) => {
                    let mut told = Changed { durable, ..Changed::default() };
                    let mut others = BTreeSet::new();
                    for (i, change) in changes.into_iter().enumerate() {
                        make_way(i);
                        match change {
                            Change::Put(key, attributes) => plan.put(store, &key, &attributes, &mut told),
                            Change::Remove(which) => {
                                self.plan_removal(store, &which, &mut plan, &mut told, &mut others);
                            }
                        }
                    }
                    batch.acks.push(Ack::Changed(told, others, reply));
                }
                Some(Mutation::Update(update, reply)) => {
                    let planned = updates::plan(store, &update, &mut plan);
                    let code = planned.as_ref().map_or_else(|code| *code, |()| rcode::NOERROR);
                    batch.ops = if planned.is_ok() { plan.into_ops() } else { Vec::new() };
                    batch.acks.push(Ack::Updated(code, reply));
                    return batch;
                }
                Some(Mutation::State(target, value, reply)) => {
                    let changed = store.statements().get(&target) != value.as_deref();
                    if changed {
                        let bytes = store.statements().say(&target, value.as_deref());
                        let key_len = Record::known(&bytes).key.len();
                        batch.ops.push(Op::Put { key_len, bytes });
                    }
                    batch.acks.push(Ack::Stated(target, changed, reply));
                    return batch;
                }
                None => break,
            }
        }
        batch.ops = plan.into_ops();
        batch
    }

    /// Plans to remove what is meant by `which` of what was registered by request.
    fn plan_removal(
        &self,
        store: &Store,
        which: &Selector,
        plan: &mut Plan,
        told: &mut Changed,
        others: &mut BTreeSet<NodeId>,
    ) {
        let is_instance = |record: &Record<'_>| match &which.instance {
            Some(instance) => record.instance() == &**instance,
            None => !is_reserved(record.instance()),
        };
        let meant = |record: &Record<'_>| which.matches(record) && is_instance(record);
        let Some(name) = &which.name else {
            let gone: Vec<_> =
                plan.now(store.registrations()).filter(meant).map(|it| it.key.to_vec()).collect();
            gone.iter().for_each(|key| plan.remove(key, told));
            return;
        };
        for (origin, _, record) in store.named(name.as_wire()) {
            if origin != store.me() {
                others.insert(origin);
            } else {
                told.in_files += usize::from(is_reserved(record.instance()));
            }
        }
        let here = plan.named(store, name).filter(is_instance);
        let (gone, left): (Vec<_>, Vec<_>) = here.partition(meant);
        let mut gone: Vec<_> = gone.iter().map(|record| record.key.to_vec()).collect();
        // A service goes with the last address of its name.
        if !gone.is_empty() && left.is_empty() && self.services > 0 {
            let of_name =
                |record: &Record<'_>| is_service(record) && record.rdata.get(6..) == Some(name.as_wire());
            let services = plan.now(store.registrations()).filter(is_instance).filter(of_name);
            gone.extend(services.map(|record| record.key.to_vec()));
        }
        gone.iter().for_each(|key| plan.remove(key, told));
    }
}

impl Node {
    /// Begins with the requests that wait, unless others are being made durable.
    pub(super) fn mutate(&mut self) {
        while self.mutations.under_way.is_none() && !self.mutations.waiting.is_empty() {
            let durable = self.journal.is_durable();
            if self.mutations.states_next() {
                self.note_changed(); // so that what was said before is known
            }
            let batch = self.mutations.next_batch(&self.cluster.engine().store().read(), durable);
            let written = if batch.ops.is_empty() { Written::Now } else { self.journal.write(&batch.ops) };
            self.mutations.under_way = Some(batch);
            match written {
                Written::Now => self.committed(Ok(())),
                Written::Later => return,
                Written::Never => self.committed(Err("the thread that writes to disk has ended".into())),
            }
        }
    }

    /// What was under way is durable now, or it is not.
    pub(super) fn committed(&mut self, done: Result<(), String>) {
        let Some(batch) = self.mutations.under_way.take() else { return };
        if let Err(why) = done {
            tracing::error!("nothing was registered: {why}");
            batch.acks.into_iter().for_each(|ack| ack.refuse(&why));
            return;
        }
        for (i, op) in batch.ops.iter().enumerate() {
            make_way(i);
            self.apply(op);
        }
        for ack in batch.acks {
            match ack {
                // Who asked may have gone: then nobody is told.
                Ack::Changed(told, others, reply) => {
                    let names = if others.is_empty() { Default::default() } else { self.node_names() };
                    let name = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| node.to_string());
                    let elsewhere = others.into_iter().map(name).collect();
                    drop(reply.send(Ok(Changed { elsewhere, ..told })));
                }
                Ack::Updated(code, reply) => {
                    // Whoever has been told that it is made asks for it next.
                    if code == rcode::NOERROR {
                        self.publish_all();
                    }
                    drop(reply.send(Ok(code)));
                }
                Ack::Stated(target, changed, reply) => {
                    // Whoever says it may rely on it from now on.
                    self.publish_all();
                    drop(reply.send(Ok(self.stated(&target, changed))));
                }
            }
        }
    }

    /// Does to the registrations what is durable by now, or need not be.
    pub(super) fn apply(&mut self, op: &Op) {
        let store = self.cluster.engine().store().clone();
        let mut store = store.write();
        match op {
            Op::Put { bytes, .. } => {
                let record = Record::known(bytes);
                let before = store.own(op.key());
                let new = before.is_none();
                let check = |record: &Record<'_>| record.attributes().ok().and_then(|it| it.check);
                // What was found out by the same check still holds.
                let state = before.filter(|before| check(before) == check(&record));
                let state = state.and_then(|before| before.attributes().ok()).map(|it| it.state);
                store.register_encoded(&record.with_state(state.unwrap_or_default()));
                self.mutations.services += usize::from(new && is_service(&record));
                self.watch_registered(bytes, new);
            }
            Op::Remove { key } => {
                let service = Record::read(key).is_ok_and(|record| is_service(&record));
                let there = store.remove_key(key);
                self.mutations.services -= usize::from(there && service);
                self.unwatch(key);
            }
        }
    }
}

impl Ack {
    fn refuse(self, why: &str) {
        match self {
            Self::Changed(_, _, reply) => drop(reply.send(Err(Refused(why.into())))),
            Self::Updated(_, reply) => drop(reply.send(Err(Refused(why.into())))),
            Self::Stated(_, _, reply) => drop(reply.send(Err(Refused(why.into())))),
        }
    }
}

fn is_service(record: &Record<'_>) -> bool {
    record.rtype == rtype::SRV && !is_reserved(record.instance())
}
