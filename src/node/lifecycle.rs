//! Start and stop of a server, and what it takes over of new settings while it runs.
//!
//! Runs on the main thread, which becomes the owner of the registrations.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::cluster::{self, Cluster};
use super::containers;
use super::files::{Before, Files};
use super::health::Checks;
use super::inbox::{Bulk, Control, Inbox, Observation, Work};
use super::log_throttle::{RejectedGossip, UpstreamFaults};
use super::persist::Journal;
use super::reload::Reload;
use super::systemd::ServiceManager;
use super::tables::{self, Tables, TablesInbox};
use super::views::{Parts, Views};
use super::writes::Writes;
use super::{
    Node, NodeError, join, reach, read_names, read_ring, read_secrets, read_zone_keys, see_to_turns, seeds,
    watch_files, watch_or_tell,
};
use crate::answer::answerer::Answerer;
use crate::answer::identity::Identity;
use crate::answer::metrics::Counters;
use crate::answer::metrics::Event;
use crate::answer::service::Service;
use crate::api::request::{NODE_INSTANCE, Queued, Request};
use crate::config::Settings;
use crate::gossip::engine::News;
use crate::http::{Listener, ListenerRules, Token};
use crate::query_time::PeerLookup;
use crate::resolver::routes::Routes;
use crate::sources::files::Registrations;
use crate::sources::names_text::Texts;
use crate::store::{Attributes, Filling, Key, MAX_CHANGED, SharedStore, encode};
use crate::sys::parallel_map::threads_for;
use crate::sys::published::Current;
use crate::sys::sched::lower_priority;
use crate::table::{Publisher, Table, name_server};
use crate::transport;
use crate::transport::Inherited;
use crate::transport::Listeners;
use crate::wire::cookie::Secrets;
use crate::wire::name::Name;
use crate::worker::offload::{MAX_WAITING, OffloadedMessage};
use crate::worker::unix_time_s;
use crate::worker::{self, Handle, Worker, WorkerSchedule};
use crate::zone_maintenance;

/// How long after the first sign of a change files are read, so that one change is one reading.
const SETTLING: Duration = Duration::from_millis(5);

/// How often the owner looks around if nothing happens.
const TICK: Duration = Duration::from_secs(1);

impl Node {
    /// Reads the files, binds the addresses, starts the threads. The first packet is answered from all names that this
    /// node has; those of others come when it has found them.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub fn start(settings: Settings, inbox: Inbox, inherited: Inherited) -> Result<Self, NodeError> {
        let file_watch = watch_files(&settings, &inbox);
        let (texts, names) = read_names(&settings)?;
        let mut node = Self::start_with(settings, names, Some(texts), inbox, inherited)?;
        node.reload.file_watch = watch_or_tell(file_watch);
        Ok(node)
    }

    /// The same with these names, which `texts` say if they are from files, and sockets that the process was started
    /// with, if there are any, in the place of those to be bound.
    ///
    /// # Errors
    /// The same.
    pub fn start_with(
        settings: Settings,
        names: Registrations,
        texts: Option<Texts>,
        inbox: Inbox,
        inherited: Inherited,
    ) -> Result<Self, NodeError> {
        let secrets = Current::new(read_secrets(&settings)?.unwrap_or_else(Secrets::random));
        let (ring, zone_keys) = (read_ring(&settings)?, Current::new(read_zone_keys(&settings)?));
        let (listeners, addresses) = listen(&settings, inherited)?;
        see_to_turns(&settings, &listeners)?;
        let workers = reach(&settings, listeners).map_err(NodeError::Reach)?;
        let (store, journal, before) = begin(&settings, &addresses, names, texts, &inbox)?;
        let (thread, sender) = (NodeError::Thread, inbox.sender());
        let poll = cluster::event_loop().map_err(thread)?;
        let driver = join(&settings, &addresses, ring.clone(), &store, poll.registry())?;
        let maker = first_tables(&settings, &store);
        let (tables, tables_inbox) = tables::queue();
        let cluster = Cluster::start(driver, poll, sender.clone(), tables.clone()).map_err(thread)?;
        let files = Files::start(store.clone(), sender.clone(), addresses.clone(), before).map_err(thread)?;
        let checks = Checks::new(settings.check_dir.clone(), sender.clone());
        let (settings, routes) = (Current::new(settings), Current::new(Routes::default()));
        let views = Views::new(Parts {
            settings: settings.view(),
            addresses: addresses.clone(),
            store: store.clone(),
            cluster: Arc::clone(&cluster.state),
            table: maker.publisher().view(),
            unpublished: maker.unpublished_names(),
            rules: maker.rules(),
            crowded: maker.crowded(),
            routes: routes.view(),
            workers: OnceLock::new(),
            keeps: journal.is_durable(),
            data_fault: journal.fault(),
            ages: maker.ages(),
            containers: Arc::default(),
            check_results: checks.results(),
            subscribers: maker.subscribers(),
            inbox: sender,
        });
        let writes = Writes::new(store, checks, journal, tables.clone(), cluster.sender.clone());
        let mut node = Self {
            settings,
            addresses,
            inbox,
            writes,
            tables,
            tables_thread: None,
            cluster,
            files,
            views,
            ring,
            secrets,
            zone_keys,
            routes,
            speaks_tls: false,
            upstream_faults: UpstreamFaults::default(),
            rejected_gossip: RejectedGossip::default(),
            workers: Vec::new(),
            control: None,
            docker: None,
            reload: Reload::default(),
            service_manager: ServiceManager::default(),
        };
        node.writes.check_all();
        node.go(workers, maker, tables_inbox)
    }

    /// Starts the threads that answer, and those that tell them what.
    fn go(
        mut self,
        workers: Vec<worker::WorkerSetup>,
        maker: Tables,
        tables_inbox: TablesInbox,
    ) -> Result<Self, NodeError> {
        match self.start_threads(workers, &maker) {
            Ok(()) => {
                self.tables_thread = Some(maker.start(tables_inbox).map_err(NodeError::Thread)?);
                self.service_manager.tell_ready();
                Ok(self)
            }
            Err(error) => {
                self.stop();
                Err(error)
            }
        }
    }

    /// Starts the thread that makes updates and transfers, if there is to be one; returns where workers leave these.
    fn start_zone_maintenance(
        &mut self,
        service: &Arc<Service>,
        maker: &Tables,
    ) -> Result<Option<crossbeam_channel::Sender<OffloadedMessage>>, NodeError> {
        let settings = self.settings.load();
        let Some(maintenance) = &settings.zone_maintenance else { return Ok(None) };
        let (sender, receiver) = crossbeam_channel::bounded(MAX_WAITING);
        let zones = zone_maintenance::Service {
            zones: settings.domains.iter().map(Name::to_lower_case).collect(),
            keys: self.zone_keys.reader(),
            unsigned_updates: maintenance.unsigned_updates,
            tables: maker.publisher().reader(),
            answerer: Answerer::new(Arc::clone(service), self.secrets.reader(), fastrand::Rng::new()),
            counters: Counters::default(),
        };
        let control = self.inbox.sender();
        let ask = move |request: Request| control.request(request) == Queued::Waits;
        zone_maintenance::start(zones, receiver, ask).map_err(NodeError::Thread)?;
        Ok(Some(sender))
    }

    fn start_threads(
        &mut self,
        mut workers: Vec<worker::WorkerSetup>,
        maker: &Tables,
    ) -> Result<(), NodeError> {
        let settings = self.settings.load();
        let service = Arc::new(Service {
            access: settings.access.clone(),
            forwarders: settings.forwarders.clone(),
            rate_limit: settings.rate_limit,
            udp_len: settings.udp_len,
            offloads: settings.zone_maintenance.is_some(),
            identity: Identity::new((!settings.hide_identity).then_some(settings.node_name.as_str())),
        });
        let offload = self.start_zone_maintenance(&service, maker)?;
        let resolvers = self.start_forwarding(&mut workers, maker.publisher().current().seed())?;
        for (index, (mut worker, resolver)) in workers.into_iter().zip(resolvers).enumerate() {
            worker.offload.clone_from(&offload);
            let mut answerer =
                Answerer::new(Arc::clone(&service), self.secrets.reader(), fastrand::Rng::new());
            if let Some(setup) = &worker.peers {
                answerer.set_peers(PeerLookup::new(setup.cache.clone()));
            }
            if let Some(resolver) = resolver {
                answerer.set_resolver(resolver);
            }
            let schedule = WorkerSchedule {
                busy_poll: settings.busy_poll,
                cpu: cpu_of(&settings, index),
                realtime: settings.realtime,
            };
            let worker = Worker::start((index, schedule), worker, maker.publisher().reader(), answerer);
            self.workers.push(worker.map_err(NodeError::Worker)?);
        }
        let _ = self.views.workers.set(self.workers.iter().map(Handle::link).collect());
        self.start_control(&settings)?;
        self.docker = containers::watch(&settings, self.inbox.sender())?;
        if let Some(gossip) = &settings.gossip {
            seeds::look_up(&gossip.join, self.cluster.sender.clone()).map_err(NodeError::Thread)?;
        }
        Ok(())
    }

    fn start_control(&mut self, settings: &Settings) -> Result<(), NodeError> {
        let Some(address) = &settings.control else { return Ok(()) };
        let sender = self.inbox.sender();
        let token = settings.control_token.as_deref().map(Token::read);
        let rules = ListenerRules {
            domains: settings.domains.clone(),
            check_dir: settings.check_dir.clone(),
            token: token.transpose().map_err(NodeError::File)?,
        };
        let view = Arc::new(self.views.clone());
        match Listener::start(address, rules, view, move |request| sender.request(request)) {
            Ok(control) => self.control = Some(control),
            Err(error) if settings.control_is_default => {
                warn!("{error}; going on without a control listener");
            }
            Err(error) => return Err(NodeError::Control(error)),
        }
        Ok(())
    }

    /// How often `event` happened, over all workers.
    #[must_use]
    pub fn count(&self, event: Event) -> u64 {
        self.workers.iter().map(|worker| worker.counters().get(event)).sum()
    }

    /// Whether what is registered at it survives it.
    #[must_use]
    pub fn keeps(&self) -> bool {
        self.views.keeps
    }

    /// Where it answers; with port 0 asked for, the ports that the kernel picked.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it gossips, if it does.
    #[must_use]
    pub fn gossip_address(&self) -> Option<SocketAddr> {
        self.cluster.state.address
    }

    /// Where its control listener is, as it is given with `--control`.
    #[must_use]
    pub fn control_address(&self) -> Option<String> {
        self.control.as_ref().map(|control| control.address().to_string())
    }

    /// Asks things of it from other threads.
    #[must_use]
    pub fn sender(&self) -> super::ControlSender {
        self.inbox.sender()
    }

    /// The table that answers come from now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.views.table.load()
    }

    /// Does what it is asked until it is asked to stop.
    pub fn run(mut self) {
        // Queries go before changes.
        lower_priority();
        while self.turn() {}
        info!("stopping: answering what has been received");
        let totals = self.stop();
        let counted: Vec<_> =
            totals.iter().filter(|(_, n)| *n > 0).map(|(event, n)| format!("{} {n}", event.name())).collect();
        info!("stopped; counted: {}", if counted.is_empty() { "nothing".into() } else { counted.join(", ") });
    }

    /// Waits until there is something to do, and does it. Returns whether there will be more.
    fn turn(&mut self) -> bool {
        if let Some(request) = self.writes.take_held() {
            self.writes.handle(request, &self.inbox, &self.views);
        }
        let with_bulk = !self.writes.store.is_bulk_held() && !self.tables.has_policies_waiting();
        let timeout = if with_bulk { self.timeout() } else { SETTLING };
        match self.inbox.next(timeout, self.writes.takes_requests(), with_bulk) {
            Some(Work::Control(Control::Stop)) => return false,
            Some(Work::Control(control)) => self.handle(control),
            Some(Work::Request(request)) => self.writes.handle(request, &self.inbox, &self.views),
            Some(Work::Outcome(Observation::Health(found))) => self.writes.take_check_result(found),
            Some(Work::Outcome(Observation::Docker(update))) => {
                self.writes.take_container(update, &self.views.containers);
            }
            Some(Work::Bulk(Bulk::Policies(policies))) => self.tables.set_policies(policies),
            Some(Work::Bulk(Bulk::Batch(batch))) => {
                self.writes.store.set_filling(Filling::UnderWay);
                self.writes.apply_batch(&batch.ops());
            }
            Some(Work::Bulk(Bulk::Read(read))) => self.take_files(*read),
            None => {}
        }
        if self.reload.is_due() {
            self.read_files();
        }
        self.rejected_gossip.log(&self.cluster.state.counts());
        let gossips = self.cluster.state.address.is_some();
        self.service_manager.tell_alive(gossips.then(|| self.cluster.state.turns_done()));
        true
    }

    fn timeout(&self) -> Duration {
        [self.reload.timeout(), self.service_manager.timeout()]
            .into_iter()
            .flatten()
            .fold(TICK, Duration::min)
    }

    fn handle(&mut self, control: Control) {
        match control {
            Control::Reload => {
                self.reload.at.get_or_insert_with(|| Instant::now() + SETTLING);
            }
            Control::Configure(settings) => {
                self.reload.configuration = Some(settings);
                self.reload.at = Some(Instant::now());
            }
            Control::Committed(done) => self.writes.committed(done, &self.views),
            Control::Members(news) => self.tell_members(&news),
            Control::UpstreamFault(what) => self.upstream_faults.log(what),
            // Whoever asked may be gone.
            Control::Ping(reply) => _ = reply.send(()),
            Control::Stop => {}
        }
    }

    fn tell_members(&self, all: &[News]) {
        for news in all {
            match news {
                News::Up(peer) => info!("{} at {} is up", peer.name, peer.address),
                News::Down(peer) => {
                    info!("{} at {} is down: its records are withheld", peer.name, peer.address);
                }
                News::Left(peer) => info!("{} at {} has left", peer.name, peer.address),
            }
        }
        self.views.subscribers.tell_members(all);
    }

    /// Leaves the cluster, answers what has been received, then ends the threads. Returns all that workers have
    /// counted.
    pub fn stop(mut self) -> Vec<(Event, u64)> {
        self.service_manager.tell_stopping();
        self.cluster.leave();
        self.workers.iter().for_each(Handle::stop);
        self.settle();
        // From now on nobody takes changes: whoever waits for one, or for room in a lane, is refused.
        self.inbox.refuse();
        self.files.stop();
        if let Some(docker) = self.docker {
            docker.stop();
        }
        let counters: Vec<_> = self.workers.into_iter().map(Handle::join).collect();
        if let Some(control) = self.control {
            control.stop();
        }
        self.writes.close();
        drop(self.tables);
        if let Some(thread) = self.tables_thread {
            // A panic there has been told by the panic itself.
            let _ = thread.join();
        }
        let total = |event: Event| counters.iter().map(|counters| counters.get(event)).sum();
        Event::ALL.iter().map(|&event| (event, total(event))).collect()
    }
}

/// The first table, of all that is in the store.
fn first_tables(settings: &Settings, store: &SharedStore) -> Tables {
    let mut publisher = Publisher::new(&settings.domains, settings.zone);
    publisher.count_from(unix_time_s());
    let threads = threads_for(store.read().len());
    Tables::new(store.clone(), publisher, settings.policies.clone(), threads)
}

/// The sockets of each worker, and where they listen.
fn listen(settings: &Settings, inherited: Inherited) -> Result<(Vec<Listeners>, Vec<SocketAddr>), NodeError> {
    let mut listeners: Vec<_> = (0..settings.workers).map(|_| Listeners::default()).collect();
    let mut addresses = Vec::new();
    if inherited.is_empty() {
        for &listen in &settings.listen {
            addresses.push(transport::bind(listen, &mut listeners).map_err(NodeError::Listen)?);
        }
    } else {
        addresses = transport::adopt(inherited, &mut listeners).map_err(NodeError::Listen)?;
    }
    Ok((listeners, addresses))
}

/// The CPU for a worker, if it is not to run on any.
fn cpu_of(settings: &Settings, worker: usize) -> Option<usize> {
    let cpus = &settings.cpus;
    cpus.get(worker.checked_rem(cpus.len())?).copied()
}

/// The store with what is on disk and in files, where what is registered from now on is kept, and what was read of
/// files.
fn begin(
    settings: &Settings,
    addresses: &[SocketAddr],
    names: Registrations,
    texts: Option<Texts>,
    inbox: &Inbox,
) -> Result<(SharedStore, Journal, Option<Before>), NodeError> {
    let (mut store, journal) = Journal::open(settings, inbox)?;
    register_name_servers(settings, addresses, &mut store);
    store.load(&names.all(), threads_for(names.len()));
    let before = texts.and_then(|texts| Before::new(settings, texts, names));
    Ok((SharedStore::new(store.with_max_changed(MAX_CHANGED)), journal, before))
}

/// Each domain's name server is this node, where it is known under which addresses it is asked.
fn register_name_servers(settings: &Settings, addresses: &[SocketAddr], store: &mut crate::store::Store) {
    let attributes = Attributes { no_pointer: true, ..Attributes::default() };
    for name in settings.domains.iter().filter_map(name_server) {
        for ip in addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()) {
            store.register_encoded(&encode(&Key::address(NODE_INSTANCE, &name, ip), &attributes));
        }
    }
}
