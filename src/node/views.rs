//! What is read of a running node, by the threads that ask: listings, members, status, directives.
//!
//! Nobody else is held up by it. The store is read for some microseconds at a time, page by page; all else is an
//! immutable value that its owner replaces as a whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use dashmap::DashMap;
use tokio::sync::mpsc;

use super::cluster::ClusterState;
use super::containers::Containers;
use super::inbox::ControlSender;
use super::record_age::RecordAge;
use super::subscribers::{Registered, Subscribers};
use super::{cache_commands, upstreams};
use crate::answer::metrics::{Counters, Event};
use crate::api::external::{CachedMessage, Replies, WorkerCache};
use crate::api::rdata_text;
use crate::api::request::{
    self, Directive, Effect, Explanation, Filter, MAX_EMPTIED, Member, PAGE, Page, Registration, Status,
    View, WorkerCounts,
};
use crate::api::timing::Timing;
use crate::config::Settings;
use crate::gossip::cipher::Rejected;
use crate::gossip::peer::Peer;
use crate::policy::rules::{Rules, Scope};
use crate::policy::select::Health;
use crate::resolver::routes::Routes;
use crate::store::{Cursor, NodeId, Record, SharedStore, Statements, Store, Target};
use crate::sys::published;
use crate::table::{Crowded, Table};
use crate::wire::name::Name;
use crate::wire::record::rtype;
use crate::worker::WorkerLink;

/// After so long without an answer of its seeds a node is a cluster of its own.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);

/// All that can be read. A clone is another handle to the same.
#[derive(Clone)]
pub(super) struct Views(Arc<Parts>);

pub(super) struct Parts {
    pub(super) settings: published::View<Settings>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) store: SharedStore,
    pub(super) cluster: Arc<ClusterState>,
    pub(super) table: published::View<Table>,
    /// Names that the thread `tables` has taken and not published yet.
    pub(super) unpublished: Arc<AtomicUsize>,
    pub(super) rules: published::View<Rules>,
    /// Names with more records than answers can have.
    pub(super) crowded: published::View<Crowded>,
    pub(super) routes: published::View<Routes>,
    /// The workers; set when they run.
    pub(super) workers: OnceLock<Vec<WorkerLink>>,
    /// Whether what is registered survives the node, and why the last change could not be kept.
    pub(super) keeps: bool,
    pub(super) data_fault: Arc<Mutex<Option<String>>>,
    pub(super) ages: Arc<Mutex<RecordAge>>,
    pub(super) containers: Arc<Mutex<Containers>>,
    /// What checks have found last, by the keys of what they check.
    pub(super) check_results: Arc<DashMap<Box<[u8]>, String>>,
    pub(super) subscribers: Arc<Subscribers>,
    pub(super) inbox: ControlSender,
}

impl Deref for Views {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Views {
    /// They are what subscribers read from now on.
    pub(super) fn new(parts: Parts) -> Self {
        let parts = Arc::new(parts);
        // The views hold the subscribers, and not the other way, too.
        let views: Weak<Parts> = Arc::downgrade(&parts);
        parts.subscribers.read_from(views);
        Self(parts)
    }

    pub(super) fn ages(&self) -> MutexGuard<'_, RecordAge> {
        self.ages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a check has found last of what has this key.
    pub(super) fn check_result(&self, key: &[u8]) -> Option<String> {
        self.check_results.get(key).map(|found| found.clone()).filter(|found| !found.is_empty())
    }

    pub(super) fn workers(&self) -> &[WorkerLink] {
        self.workers.get().map_or(&[], Vec::as_slice)
    }

    /// The workers, if they keep answers of upstreams.
    fn with_caches(&self) -> &[WorkerLink] {
        if self.settings.load().resolver.is_some() { self.workers() } else { &[] }
    }

    /// How often each event happened, over all workers.
    fn counts(&self) -> Vec<(Event, u64)> {
        let sum = |event| self.workers().iter().map(|worker| worker.counters().get(event)).sum();
        Event::ALL.iter().map(|&event| (event, sum(event))).collect()
    }

    /// What the gossip has counted, by name.
    fn gossip_counts(&self) -> BTreeMap<String, u64> {
        let counts = self.cluster.counts();
        let Some(traffic) = counts.traffic else { return BTreeMap::new() };
        let rejected = traffic.rejected.iter().zip(Rejected::ALL);
        let rejected = rejected.map(|(&count, reason)| (format!("rejected_{}", reason.name()), count));
        [
            ("datagrams_in", traffic.datagrams_in),
            ("bytes_in", traffic.bytes_in),
            ("datagrams_out", traffic.datagrams_out),
            ("bytes_out", traffic.bytes_out),
            ("datagrams_unsent", traffic.datagrams_unsent),
            ("streams_in", traffic.streams_in),
            ("streams_out", traffic.streams_out),
            ("streams_broken", traffic.streams_broken),
            ("malformed", counts.faults.malformed),
            ("impostor", counts.faults.impostor),
            ("full", counts.faults.full),
        ]
        .map(|(name, count)| (name.to_owned(), count))
        .into_iter()
        .chain(rejected)
        .collect()
    }

    /// Whether a name has no address left in answers.
    fn is_emptied(&self, name: &Name) -> bool {
        self.table.load().get(name).is_some_and(|entry| {
            let mut addresses = entry.sets().filter(|set| matches!(set.rtype, rtype::A | rtype::AAAA));
            addresses.all(|set| set.count == 0)
        })
    }
}

/// Whether a registration is one that `filter` says.
fn is_meant(filter: &Filter, record: &Record<'_>) -> bool {
    match filter {
        Filter::All => true,
        Filter::Part(part) => {
            let text = || Name::from_wire(record.name).map(|name| name.to_string()).unwrap_or_default();
            part.is_empty() || text().contains(&**part)
        }
        Filter::Name(name) => record.name == name.to_lower_case().as_wire(),
        Filter::Address(address) => record.address() == Some(*address),
        Filter::Instance(instance) => record.instance() == &**instance,
    }
}

fn registration(
    names: &BTreeMap<NodeId, String>,
    origin: NodeId,
    up: bool,
    record: &Record<'_>,
) -> Registration {
    Registration {
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
    }
}

/// Goes on through all registrations from `from`, at most [`PAGE`] of them and until `each` has taken `most`.
fn scan(
    store: &Store,
    from: Cursor,
    most: usize,
    mut each: impl FnMut(NodeId, bool, Record<'_>) -> bool,
) -> Option<Cursor> {
    if most >= PAGE {
        return store.scan(from, PAGE, |origin, up, record| {
            each(origin, up, record);
        });
    }
    // A cursor stands before one registration, so they are taken one by one where it may have to stand anywhere.
    let (mut next, mut taken) = (Some(from), 0);
    for _ in 0..PAGE {
        let Some(from) = next.filter(|_| taken < most) else { break };
        next = store.scan(from, 1, |origin, up, record| taken += usize::from(each(origin, up, record)));
    }
    next
}

impl Parts {
    /// Whether the name is in one of the node's domains.
    pub(super) fn is_authoritative(&self, name: &Name) -> bool {
        self.settings.load().domains.iter().any(|domain| name.is_within(domain))
    }

    /// What nodes call themselves.
    pub(super) fn node_names(&self) -> BTreeMap<NodeId, String> {
        let members = self.cluster.members();
        let down = members.down.iter().filter_map(|(_, down)| down.peer.as_ref());
        let all = members.up.iter().chain(down).chain([&members.me]);
        all.map(|peer| (peer.node, peer.name.to_string())).collect()
    }

    /// What is registered under a name, `most` of it at most, by nodes of these `names`.
    fn registrations_of(
        &self,
        name: &Name,
        most: usize,
        names: &BTreeMap<NodeId, String>,
    ) -> Vec<Registration> {
        let lower = name.to_lower_case();
        // A name may have thousands: they are copied while the store holds still, and shown afterwards.
        let found: Vec<_> = {
            let store = self.store.read();
            let found = store.named(lower.as_wire()).take(most);
            found.map(|(origin, up, record)| (origin, up, record.bytes.to_vec())).collect()
        };
        let shown = |(origin, up, bytes): &(NodeId, bool, Vec<u8>)| {
            registration(names, *origin, *up, &Record::known(bytes))
        };
        found.iter().map(shown).collect()
    }
}

impl Registered for Parts {
    fn node_names(&self) -> BTreeMap<NodeId, String> {
        self.node_names()
    }

    fn registrations(&self, name: &Name, names: &BTreeMap<NodeId, String>) -> Option<Vec<Registration>> {
        self.is_authoritative(name).then(|| self.registrations_of(name, usize::MAX, names))
    }
}

impl View for Views {
    fn is_durable(&self) -> bool {
        self.keeps
    }

    fn page_of(&self, filter: &Filter, from: Cursor, most: usize) -> Page {
        let names = self.node_names();
        if let Filter::Name(name) = filter {
            return Page { registrations: self.registrations_of(name, most, &names), next: None };
        }
        let store = self.store.read();
        let mut registrations = Vec::new();
        let next = scan(&store, from, most, |origin, up, record| {
            let meant = is_meant(filter, &record);
            if meant {
                registrations.push(registration(&names, origin, up, &record));
            }
            meant
        });
        Page { registrations, next }
    }

    fn directives(&self) -> Vec<Directive> {
        let names = self.node_names();
        let text = |wire: &[u8]| Name::from_wire(wire).map(|name| name.to_string()).unwrap_or_default();
        let directive = |(target, value): (&Target, &[u8])| {
            let (kind, scope, of) = match target {
                Target::Address(address) => ("drain", "address", address.to_string()),
                Target::Instance(instance) => ("drain", "instance", instance.to_string()),
                Target::Node(node) => {
                    ("drain", "node", names.get(node).cloned().unwrap_or_else(|| node.to_string()))
                }
                Target::Policy(Scope::Default) => ("policy", "default", "*".into()),
                Target::Policy(Scope::Domain(domain)) => ("policy", "domain", format!("*.{}", text(domain))),
                Target::Policy(Scope::Name(name)) => ("policy", "name", text(name)),
            };
            let policy = (kind == "policy").then(|| String::from_utf8_lossy(value).into_owned());
            Directive { kind: kind.into(), of, scope: scope.into(), policy }
        };
        self.store.read().statements().iter().map(directive).collect()
    }

    fn effect(&self, target: &Target, from: Cursor, effect: &mut Effect) -> Option<Cursor> {
        let settings = self.settings.load();
        let mut found = Vec::new();
        let next = self.store.read().scan(from, PAGE, |origin, up, record| {
            if up && Statements::concerns(target, origin, &record) && record.address().is_some() {
                effect.ttl_s = effect.ttl_s.max(record.ttl_s().unwrap_or(settings.zone.ttl_s));
                if effect.names.insert(record.name) && !matches!(target, Target::Policy(_)) {
                    found.extend(Name::from_wire(record.name));
                }
            }
        });
        let room = MAX_EMPTIED.saturating_sub(effect.emptied.len());
        let emptied = found.into_iter().filter(|name| self.is_emptied(name)).take(room);
        effect.emptied.extend(emptied.map(|name| name.to_string()));
        next
    }

    fn explain(&self, name: &Name) -> Explanation {
        self.explain_any(name)
    }

    fn members(&self) -> Vec<Member> {
        let (members, now) = (self.cluster.members(), self.cluster.now());
        let store = self.store.read();
        let member = |peer: &Peer, state: &str| Member {
            name: peer.name.to_string(),
            id: peer.node.to_string(),
            state: state.into(),
            gossip: self.cluster.address.is_some().then_some(peer.address),
            dns: peer.dns,
            registrations: store.count(peer.node),
            down_s: None,
        };
        let mut all = vec![member(&members.me, "self")];
        all.extend(members.up.iter().map(|peer| member(peer, "up")));
        all.extend(members.down.iter().map(|(node, down)| Member {
            name: down.peer.as_ref().map(|peer| peer.name.to_string()).unwrap_or_default(),
            id: node.to_string(),
            state: "down".into(),
            gossip: down.peer.as_ref().map(|peer| peer.address),
            dns: down.peer.as_ref().and_then(|peer| peer.dns),
            registrations: store.count(*node),
            down_s: Some(now.saturating_sub(down.since).as_secs_f64()),
        }));
        all
    }

    fn status(&self) -> Status {
        let settings = self.settings.load();
        let table = self.table.load();
        let named = |(event, count): (Event, u64)| (event.name().into(), count);
        let counters = self.counts().into_iter().map(named).collect();
        let (turns, buckets) = self.cluster.turns.read();
        let waiting = self.inbox.waiting().map(|(lane, count)| (lane.to_owned(), count));
        let (id, incarnation, registrations, changed) = {
            let store = self.store.read();
            (store.me().to_string(), store.incarnation(), store.len(), store.changed())
        };
        // In this order: what is not in the one any more is in the other.
        let unpublished = changed + self.unpublished.load(Ordering::Acquire);
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            name: settings.node_name.clone(),
            id,
            incarnation,
            uptime_s: self.cluster.now().as_secs_f64(),
            domains: settings.domains.iter().map(ToString::to_string).collect(),
            dns: self.addresses.clone(),
            gossip: self.cluster.address,
            data_dir: settings
                .data_dir
                .as_deref()
                .filter(|_| self.keeps)
                .map(|path| path.display().to_string()),
            data_fault: self.data_fault.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            workers: self.workers().len(),
            members: self.cluster.members().up.len() + 1,
            registrations,
            names: table.names(),
            records_left_out: self.crowded.load().records(),
            unpublished,
            table_bytes: table.heap_len() as u64,
            waits_for: self.waits_for(),
            cluster_turns: Timing::new(turns, buckets),
            cluster_longest_turn_s: self.cluster.longest_turn().as_secs_f64(),
            writes_waiting: waiting.into_iter().collect(),
            forwarding: upstreams::forwarding(&settings, &self.routes.load(), &counters),
            counters,
            workers_counted: self.workers().iter().map(|worker| counted(worker.counters())).collect(),
            gossip_counters: self.gossip_counts(),
        }
    }

    fn waits_for(&self) -> Option<String> {
        let settings = self.settings.load();
        let joins = settings.gossip.as_ref().is_some_and(|gossip| !gossip.join.is_empty());
        if !joins || self.cluster.counts().is_synchronised {
            return None;
        }
        if !self.cluster.members().up.is_empty() {
            return Some("the other nodes' names".into());
        }
        // Somebody has to be the first: all nodes may have the same seeds.
        (self.cluster.now() < JOIN_TIMEOUT).then(|| "an answer of one of its seeds".into())
    }

    fn subscribe(&self, events: mpsc::Sender<request::Event>) -> bool {
        self.subscribers.add(events)
    }

    fn is_running(&self, container: &str) -> Option<bool> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner).is_running(container)
    }

    fn caches(&self, replies: &Replies<WorkerCache>) -> bool {
        cache_commands::caches(self.with_caches(), replies)
    }

    fn cached(&self, name: &Name, replies: &Replies<Vec<CachedMessage>>) -> bool {
        cache_commands::cached(self.with_caches(), name, replies)
    }

    fn flush(&self, what: Option<(Name, bool)>, replies: &Replies<usize>) -> bool {
        cache_commands::flush(self.with_caches(), what, replies)
    }
}

/// What a worker has counted.
fn counted(counters: &Counters) -> WorkerCounts {
    let (sum, buckets) = counters.times();
    let event = |event: &Event| (event.name().to_owned(), counters.get(*event));
    WorkerCounts { counters: Event::ALL.iter().map(event).collect(), batches: Timing::new(sum, buckets) }
}
