//! What the control listener asks for, answered on the control thread.

use std::collections::BTreeMap;
use std::time::Duration;

use super::mutations::Mutation;
use super::{Node, journal};
use crate::dataplane::counters::{Counters, Event};
use crate::gossip::peer::Peer;
use crate::policy::select::Health;
use crate::registry::rdata_text;
use crate::registry::request::{
    Member, Registration, Request, Sought, Status, Timing, TimingBucket, WorkerCounts,
};
use crate::store::{NodeId, Record};
use crate::wire::name::Name;

/// After so long without an answer of its seeds a node is a cluster of its own.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);

impl Node {
    /// Does what a request asks for, or begins to.
    pub(super) fn obey(&mut self, request: Request) {
        match request {
            Request::Change(changes, reply) => self.mutations.wait(Mutation::Change(changes, reply)),
            Request::Update(update, reply) => self.mutations.wait(Mutation::Update(update, reply)),
            Request::State(target, value, reply) => {
                self.mutations.wait(Mutation::State(target, value, reply));
            }
            // Who asked may have gone: then nobody is told.
            Request::Report(instance, health, reply) => drop(reply.send(self.report(&instance, health))),
            Request::Statements(reply) => {
                self.note_changed();
                drop(reply.send(self.said()));
            }
            Request::Explain(name, reply) => {
                self.note_changed();
                drop(reply.send(Box::new(self.explain_any(&name))));
            }
            Request::Names(sought, reply) => drop(reply.send(self.registrations(&sought))),
            Request::Members(reply) => drop(reply.send(self.members())),
            Request::Status(reply) => drop(reply.send(Box::new(self.status()))),
            Request::Readiness(reply) => drop(reply.send(self.waits_for())),
            Request::Watch(sender) => self.watchers.add(sender),
            Request::IsRunning(said, reply) => drop(reply.send(self.containers.is_running(&said))),
            Request::Caches(told) => self.tell_caches(&told),
            Request::Cached(name, told) => self.tell_cached(&name, &told),
            Request::Flush(what, told) => self.flush(what, &told),
        }
    }

    pub(super) fn registrations(&self, sought: &Sought) -> Vec<Registration> {
        let store = self.cluster.engine().store().read();
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
            health: match record.standing().health {
                Health::Unknown => None,
                Health::Up => Some("up".into()),
                Health::Down => Some("down".into()),
            },
        };
        match sought {
            Sought::All => store.all().map(tell).collect(),
            Sought::Part { of_name, limit } => {
                let has_part = |name: &[u8]| {
                    let text = || Name::from_wire(name).map(|name| name.to_string()).unwrap_or_default();
                    of_name.is_empty() || text().contains(&**of_name)
                };
                store.all().filter(|(.., record)| has_part(record.name)).take(*limit).map(tell).collect()
            }
            Sought::Name(name) => store.named(name.to_lower_case().as_wire()).map(tell).collect(),
            Sought::Address(address) => {
                store.all().filter(|(.., record)| record.address() == Some(*address)).map(tell).collect()
            }
            Sought::Instance(instance) => {
                store.all().filter(|(.., record)| record.instance() == &**instance).map(tell).collect()
            }
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
        let store = engine.store().read();
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

    /// What it waits for before it should be asked, if anything: a node that is to join a cluster for the others' names.
    fn waits_for(&self) -> Option<String> {
        let engine = self.cluster.engine();
        let joins = self.settings.gossip.as_ref().is_some_and(|gossip| !gossip.join.is_empty());
        if !joins || engine.is_synchronised() {
            return None;
        }
        if engine.membership().members().len() > 0 {
            return Some("the other nodes' names".into());
        }
        // Somebody has to be the first: all nodes may have the same seeds.
        (self.cluster.now() < JOIN_PATIENCE).then(|| "an answer of one of its seeds".into())
    }

    fn status(&self) -> Status {
        let engine = self.cluster.engine();
        let counted = |(event, count): (Event, u64)| (event.name().into(), count);
        let counters = self.counts().into_iter().map(counted).collect();
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            name: self.settings.node_name.clone(),
            id: engine.me().to_string(),
            incarnation: engine.store().read().incarnation(),
            uptime_s: self.cluster.now().as_secs_f64(),
            domains: self.settings.domains.iter().map(ToString::to_string).collect(),
            dns: self.addresses.clone(),
            gossip: self.cluster.address(),
            data_dir: self.settings.data_dir.as_deref().map(journal::shown),
            workers: self.workers.len(),
            members: engine.membership().members().len() + 1,
            registrations: engine.store().read().len(),
            names: self.publisher.current().names(),
            records_left_out: self.publisher.crowded().records(),
            table_bytes: self.publisher.current().heap_len() as u64,
            waits_for: self.waits_for(),
            forwarding: self.forwarding(&counters),
            counters,
            workers_counted: self.workers.iter().map(|worker| told(worker.counters())).collect(),
            gossip_counters: self.gossip_counts(),
        }
    }
}

/// What a worker has counted.
fn told(counters: &Counters) -> WorkerCounts {
    let (sum, buckets) = counters.times();
    let event = |event: &Event| (event.name().to_owned(), counters.get(*event));
    WorkerCounts { counters: Event::ALL.iter().map(event).collect(), batches: timing(sum, buckets) }
}

/// Times as they were counted: all together, and how many took up to how long.
pub(super) fn timing(sum: Duration, buckets: impl Iterator<Item = (Option<Duration>, u64)>) -> Timing {
    let bucket = |(up_to, count): (Option<Duration>, u64)| {
        let up_to_s = up_to.map(|up_to| up_to.as_secs_f64());
        TimingBucket { up_to_s, count }
    };
    let buckets: Vec<_> = buckets.map(bucket).collect();
    let count = buckets.iter().map(|bucket| bucket.count).sum();
    Timing { count, sum_s: sum.as_secs_f64(), buckets }
}
