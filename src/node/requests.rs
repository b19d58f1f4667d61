//! What the control listener asks for: done here, on the control thread.
//!
//! Changes are made durable first, then applied, then acknowledged; what cannot be made durable is not applied.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::Node;
use super::journal::{self, Op, Written};
use crate::gossip::peer::Peer;
use crate::registry::rdata_text;
use crate::registry::request::{
    Added, Member, RESERVED_INSTANCES, Refused, Registration, Removal, Removed, Reply, Request, Stated,
    Status,
};
use crate::store::{Attributes, Key, NodeId, Parts, Record, Store, Target, encode_to};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Changes that are made durable together at most.
const MAX_OPS: usize = 10_000;

/// A request that changes something and waits for its turn.
pub(super) enum Mutation {
    Add(Vec<(Key, Attributes)>, Reply<Result<Added, Refused>>),
    Remove(Removal, Reply<Result<Removed, Refused>>),
    /// That a value holds of a target, or none.
    State(Target, Option<Box<[u8]>>, Reply<Result<Stated, Refused>>),
}

/// Changes that are being made durable, and who is to be told.
#[derive(Default)]
pub(super) struct Batch {
    ops: Vec<Op>,
    acks: Vec<Ack>,
}

enum Ack {
    Added(Added, Reply<Result<Added, Refused>>),
    /// With the nodes that have registered the name, too.
    Removed(Removed, BTreeSet<NodeId>, Reply<Result<Removed, Refused>>),
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

    /// The next batch: requests of one kind, in the order in which they came, each computed on what is there.
    fn next_batch(&mut self, store: &Store, durable: bool) -> Batch {
        let mut batch = Batch::default();
        let adds = matches!(self.waiting.front(), Some(Mutation::Add(..)));
        let mut gone = HashSet::new();
        while batch.ops.len() < MAX_OPS {
            match self.waiting.pop_front() {
                Some(Mutation::Add(new, reply)) if adds => {
                    let mut added = Added { durable, ..Added::default() };
                    for (key, attributes) in &new {
                        let mut bytes = Vec::new();
                        let data = (key.rtype, &key.rdata[..]);
                        let Parts { key_len, .. } =
                            encode_to(&mut bytes, &key.instance, key.name.as_wire(), data, attributes);
                        if store.has_own(&bytes) {
                            added.unchanged += 1;
                        } else {
                            added.added += 1;
                            batch.ops.push(Op::Put { key_len, bytes: bytes.into() });
                        }
                    }
                    batch.acks.push(Ack::Added(added, reply));
                }
                Some(Mutation::Remove(removal, reply)) if !adds => {
                    let (removed, others) = self.plan_removal(store, &removal, &mut gone, &mut batch.ops);
                    batch.acks.push(Ack::Removed(removed, others, reply));
                }
                // What is said depends on what was said before: it goes alone.
                Some(Mutation::State(target, value, reply)) if batch.acks.is_empty() => {
                    let changed = store.statements().get(&target) != value.as_deref();
                    if changed {
                        let bytes = store.statements().say(&target, value.as_deref());
                        let key_len = Record::known(&bytes).key.len();
                        batch.ops.push(Op::Put { key_len, bytes });
                    }
                    batch.acks.push(Ack::Stated(target, changed, reply));
                    break;
                }
                Some(other) => {
                    self.waiting.push_front(other);
                    break;
                }
                None => break,
            }
        }
        batch
    }

    /// Appends what removes it to `ops`. `gone` has what this batch removes already.
    fn plan_removal(
        &self,
        store: &Store,
        removal: &Removal,
        gone: &mut HashSet<Box<[u8]>>,
        ops: &mut Vec<Op>,
    ) -> (Removed, BTreeSet<NodeId>) {
        let (mut removed, mut others) = (Removed::default(), BTreeSet::new());
        let name = removal.name.to_lower_case();
        let mut left = 0;
        for (origin, _, record) in store.named(name.as_wire()) {
            if origin != store.me() {
                others.insert(origin);
                continue;
            }
            removed.in_files += usize::from(RESERVED_INSTANCES.contains(&record.instance()));
            if record.instance() != &*removal.instance || gone.contains(record.key) {
                continue;
            }
            let meant = removal.addresses.is_empty()
                || record.address().is_some_and(|address| removal.addresses.contains(&address));
            if meant {
                removed.removed += 1;
                gone.insert(record.key.into());
                ops.push(Op::Remove { key: record.key.into() });
            } else {
                left += 1;
            }
        }
        // A service goes with the last address of its name.
        if removed.removed > 0 && left == 0 && self.services > 0 {
            let services = store.registrations().filter(is_service);
            for record in services.filter(|record| record.instance() == &*removal.instance) {
                if record.rdata.get(6..) == Some(name.as_wire()) && gone.insert(record.key.into()) {
                    removed.removed += 1;
                    ops.push(Op::Remove { key: record.key.into() });
                }
            }
        }
        (removed, others)
    }
}

impl Node {
    /// Does what a request asks for, or begins to.
    pub(super) fn obey(&mut self, request: Request) {
        match request {
            Request::Add(new, reply) => self.mutations.waiting.push_back(Mutation::Add(new, reply)),
            Request::Remove(removal, reply) => {
                self.mutations.waiting.push_back(Mutation::Remove(removal, reply));
            }
            Request::State(target, value, reply) => {
                self.mutations.waiting.push_back(Mutation::State(target, value, reply));
            }
            // Who asked may have gone: then nobody is told.
            Request::Report(instance, health, reply) => drop(reply.send(self.report(&instance, health))),
            Request::Statements(reply) => {
                self.note_changed();
                drop(reply.send(self.said()));
            }
            Request::Explain(name, reply) => {
                self.note_changed();
                drop(reply.send(Box::new(self.explain(&name))));
            }
            Request::Names(name, reply) => drop(reply.send(self.registrations(name.as_ref()))),
            Request::Members(reply) => drop(reply.send(self.members())),
            Request::Status(reply) => drop(reply.send(Box::new(self.status()))),
        }
    }

    /// Begins with the requests that wait, unless others are being made durable.
    pub(super) fn mutate(&mut self) {
        while self.mutations.under_way.is_none() && !self.mutations.waiting.is_empty() {
            let durable = self.journal.is_durable();
            if matches!(self.mutations.waiting.front(), Some(Mutation::State(..))) {
                self.note_changed(); // so that what was said before is known
            }
            let batch = self.mutations.next_batch(self.cluster.engine().store(), durable);
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
        for op in &batch.ops {
            self.apply(op);
        }
        for ack in batch.acks {
            match ack {
                Ack::Added(added, reply) => drop(reply.send(Ok(added))),
                Ack::Removed(removed, others, reply) => {
                    let names = self.node_names();
                    let name = |node: NodeId| names.get(&node).cloned().unwrap_or_else(|| node.to_string());
                    let elsewhere = others.into_iter().map(name).collect();
                    drop(reply.send(Ok(Removed { elsewhere, ..removed })));
                }
                Ack::Stated(target, changed, reply) => {
                    // Whoever says it may rely on it from now on.
                    self.publish_all();
                    drop(reply.send(Ok(self.stated(&target, changed))));
                }
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        let store = self.cluster.engine_mut().store_mut();
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

    fn registrations(&self, name: Option<&Name>) -> Vec<Registration> {
        let store = self.cluster.engine().store();
        let names = self.node_names();
        let tell = |(origin, up, record): (NodeId, bool, Record<'_>)| Registration {
            name: record.to_key().name.to_string(),
            rtype: rdata_text::type_name(record.rtype),
            data: rdata_text::show(record.rtype, record.rdata),
            instance: record.instance().into(),
            ttl_s: record.ttl_s(),
            node: names.get(&origin).cloned().unwrap_or_default(),
            node_id: origin.to_string(),
            up,
        };
        match name.map(Name::to_lower_case) {
            Some(name) => store.named(name.as_wire()).map(tell).collect(),
            None => store.all().map(tell).collect(),
        }
    }

    /// What nodes call themselves.
    pub(super) fn node_names(&self) -> BTreeMap<NodeId, String> {
        let engine = self.cluster.engine();
        let me = engine.membership().me();
        let down = engine.down().filter_map(|(_, down)| down.peer.as_ref());
        let all = engine.membership().members().chain(down).chain([me]);
        all.map(|peer| (peer.node, peer.name.to_string())).collect()
    }

    fn members(&self) -> Vec<Member> {
        let (engine, now) = (self.cluster.engine(), self.cluster.now());
        let store = engine.store();
        let tell = |peer: &Peer, state: &str| Member {
            name: peer.name.to_string(),
            id: peer.node.to_string(),
            state: state.into(),
            gossip: self.cluster.address().is_some().then_some(peer.address),
            dns: peer.dns,
            registrations: store.count(peer.node),
            down_s: None,
        };
        let mut members = vec![tell(engine.membership().me(), "self")];
        members.extend(engine.membership().members().map(|peer| tell(peer, "up")));
        members.extend(engine.down().map(|(node, down)| Member {
            name: down.peer.as_ref().map(|peer| peer.name.to_string()).unwrap_or_default(),
            id: node.to_string(),
            state: "down".into(),
            gossip: down.peer.as_ref().map(|peer| peer.address),
            dns: down.peer.as_ref().and_then(|peer| peer.dns),
            registrations: store.count(node),
            down_s: Some(now.saturating_sub(down.since).as_secs_f64()),
        }));
        members
    }

    fn status(&self) -> Status {
        let engine = self.cluster.engine();
        let counted = |(event, count): (crate::dataplane::counters::Event, u64)| (event.name().into(), count);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.settings.node_name.clone(),
            id: engine.store().me().to_string(),
            incarnation: engine.store().incarnation(),
            uptime_s: self.cluster.now().as_secs_f64(),
            domains: self.settings.domains.iter().map(ToString::to_string).collect(),
            dns: self.addresses.clone(),
            gossip: self.cluster.address(),
            data_dir: self.settings.data_dir.as_deref().map(journal::shown),
            workers: self.workers.len(),
            members: engine.membership().members().len() + 1,
            registrations: engine.store().len(),
            names: self.publisher.current().names(),
            table_bytes: self.publisher.current().heap_len() as u64,
            counters: self.counts().into_iter().map(counted).collect(),
            gossip_counters: self.gossip_counts(),
        }
    }
}

impl Ack {
    fn refuse(self, why: &str) {
        match self {
            Self::Added(_, reply) => drop(reply.send(Err(Refused(why.into())))),
            Self::Removed(_, _, reply) => drop(reply.send(Err(Refused(why.into())))),
            Self::Stated(_, _, reply) => drop(reply.send(Err(Refused(why.into())))),
        }
    }
}

fn is_service(record: &Record<'_>) -> bool {
    record.rtype == rtype::SRV && !RESERVED_INSTANCES.contains(&record.instance())
}
