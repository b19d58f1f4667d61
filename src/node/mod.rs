//! The composition root of a server: its threads, the queues between them, start and stop.
//!
//! Runs on the main thread, which is also the control thread: it takes registrations, gossips them, builds tables and
//! publishes them. The workers are the only other threads that matter; they share nothing with this one but the published
//! table.

mod ages;
mod caches;
mod containers;
mod explain;
mod health;
mod inbox;
mod journal;
mod mutations;
mod plan;
mod requests;
mod run;
mod seeds;
mod settle;
mod statements;
mod supervisor;
mod updates;
mod upstreams;
mod watchers;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ages::Ages;
use containers::Containers;
pub use inbox::{ControlSender, Inbox};
use journal::Journal;
use mutations::Mutations;
use supervisor::Supervisor;
use tracing::warn;
use watchers::Watchers;

use crate::config::{Gossip, Settings, cookie_secrets};
use crate::dataplane::answer::{Answerer, Service};
use crate::dataplane::asking::Setup;
use crate::dataplane::asking_sockets::{self, ReachError};
use crate::dataplane::counters::Event;
use crate::dataplane::handed::{HandedOver, MAX_WAITING};
use crate::dataplane::identity::Identity;
use crate::dataplane::upstream_tls::TrustError;
use crate::dataplane::worker::{Handle, Listeners, Manner, Worker};
use crate::dataplane::{self, Inherited, ListenError, unix_time_s};
use crate::design::Elsewhere;
use crate::design::cache::Cache;
use crate::gossip::driver::Driver;
use crate::gossip::engine::Engine;
use crate::gossip::key_ring::KeyRing;
use crate::gossip::peer::Peer;
use crate::gossip::transport::{Transport, TransportError};
use crate::health::monitor::Found as HealthFound;
use crate::health::runner::Runner;
use crate::registry::docker;
use crate::registry::files::{Refused, Registrations};
use crate::registry::http::{HttpError, Listener, Rules, Token};
use crate::registry::request::{NODE_INSTANCE, Request};
use crate::registry::watch::{self, FileWatch};
use crate::resolver::routes::Routes;
use crate::share_out::threads_for;
use crate::snapshot::Current;
use crate::store::{Attributes, Disk, DiskError, Found, Key, NodeId, Store, encode};
use crate::table::{Publisher, Table, name_server};
use crate::text_file::FileError;
use crate::wire::cookie::Secrets;
use crate::wire::name::Name;
use crate::zone_maintenance;
use crate::zone_maintenance::keys::Keys;

/// What the control thread is asked to do.
pub enum Control {
    /// Read the files again.
    Reload,
    /// Be as these settings say, as far as that can be changed, and read their files.
    Configure(Box<Settings>),
    /// Look for the cluster at this address, too.
    Seed(SocketAddr),
    /// Do what the control listener was asked for.
    Request(Request),
    /// What was to be made durable is, or the disk says why not.
    Committed(Result<(), String>),
    /// A health check has found something.
    Found(HealthFound),
    /// A connection to an upstream has failed, for a reason that is news.
    UpstreamFault(String),
    /// Something has changed of a container.
    Docker(docker::Update),
    /// Answer what has been received, then end.
    Stop,
}

/// Why a server did not start, or did not take new names.
#[derive(Debug)]
pub enum NodeError {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// The address of the gossip cannot be had.
    Gossip(TransportError),
    /// The other nodes cannot be asked, or cannot ask.
    Reach(ReachError),
    /// The address of the control listener cannot be had.
    Control(HttpError),
    /// The Docker Engine's socket may not be used.
    Docker(PathBuf, io::Error),
    /// The data directory cannot be used.
    Disk(DiskError),
    /// Names files or zone files were refused.
    Names(Refused),
    /// Another file was refused.
    File(FileError),
    /// Upstreams cannot be asked over TLS.
    Trust(TrustError),
    /// The kernel refused a thread or an event queue.
    Worker(io::Error),
    /// The same, for the control thread and its helpers.
    Thread(io::Error),
    /// The kernel does not let threads go before others.
    Realtime(io::Error),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Gossip(error) => error.fmt(f),
            Self::Reach(error) => error.fmt(f),
            Self::Control(error) => error.fmt(f),
            Self::Docker(socket, error) => write!(
                f,
                "cannot use the Docker Engine's socket {}: {error}; run as a user of its group, or choose another with --docker",
                socket.display()
            ),
            Self::Disk(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::Names(refused) => refused.fmt(f),
            Self::Trust(error) => error.fmt(f),
            Self::Worker(error) => write!(f, "cannot start a worker: {error}; try fewer with --workers"),
            Self::Thread(error) => write!(f, "cannot start a thread or an event queue: {error}"),
            Self::Realtime(error) => write!(
                f,
                "--realtime: {error}; run as root, or with CAP_SYS_NICE or a resource limit RTPRIO of 1 (in a unit of systemd \
                 LimitRTPRIO=1 and RestrictRealtime=no)"
            ),
        }
    }
}

impl std::error::Error for NodeError {}

/// A running server.
pub struct Node {
    settings: Settings,
    addresses: Vec<SocketAddr>,
    inbox: Inbox,
    /// The keys that gossip is sealed with, as the file had them last.
    ring: Option<KeyRing>,
    /// The registrations of all nodes, and the other nodes.
    cluster: Driver,
    /// Requests that change registrations.
    mutations: Mutations,
    journal: Journal,
    publisher: Publisher,
    /// Not before then.
    next_publication: Instant,
    /// When names had changed that were published.
    changed_at: Instant,
    /// When names were published last, and the CPU time that publications are ahead of their share.
    published_at: Instant,
    publication_debt: Duration,
    /// When files are to be read again.
    reload_at: Option<Instant>,
    /// What has been told about gossip that was rejected.
    told: run::Told,
    secrets: Current<Secrets>,
    /// The keys of those who may update zones, or take copies of them.
    zone_keys: Current<Keys>,
    /// Whom the workers ask for names that are not ours.
    routes: Current<Routes>,
    /// They could ask over TLS.
    speaks_tls: bool,
    /// What has been told of connections to upstreams that have failed, and when.
    told_faults: HashMap<String, Instant>,
    workers: Vec<Handle>,
    control: Option<Listener>,
    /// Who checks this node's registrations, if there is anything to check.
    health: Option<Runner>,
    /// How long registrations have been as they are.
    ages: Ages,
    /// What runs in containers.
    containers: Containers,
    /// Who watches the files.
    file_watch: Option<FileWatch>,
    /// What started the process, if it wants to know how it is.
    supervisor: Supervisor,
    /// Those who are told of each change.
    watchers: Watchers,
    /// What was found out last of each, for people.
    found: HashMap<Box<[u8]>, String>,
}

impl Node {
    /// Reads the files, binds the addresses, starts the threads. The first packet is answered from all names that this
    /// node has; those of others come when it has found them.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub fn start(settings: Settings, inbox: Inbox) -> Result<Self, NodeError> {
        Self::start_with(settings, inbox, Inherited::default())
    }

    /// The same with sockets that the process was started with, if there are any, in the place of those to be bound.
    ///
    /// # Errors
    /// The same.
    pub fn start_with(settings: Settings, inbox: Inbox, inherited: Inherited) -> Result<Self, NodeError> {
        let file_watch = watch_files(&settings, &inbox);
        let names = read_names(&settings)?;
        let secrets = read_secrets(&settings)?.unwrap_or_else(Secrets::random);
        let ring = read_ring(&settings)?;
        let zone_keys = Current::new(read_zone_keys(&settings)?);
        let mut listeners: Vec<_> = (0..settings.workers).map(|_| Listeners::default()).collect();
        let mut addresses = Vec::new();
        if inherited.is_empty() {
            for &listen in &settings.listen {
                addresses.push(dataplane::bind(listen, &mut listeners).map_err(NodeError::Listen)?);
            }
        } else {
            addresses = dataplane::adopt(inherited, &mut listeners).map_err(NodeError::Listen)?;
        }
        see_to_turns(&settings, &listeners)?;
        reach(&settings, &mut listeners).map_err(NodeError::Reach)?;
        let mut publisher = Publisher::new(&settings.domains, settings.zone);
        publisher.count_from(unix_time_s());
        let (store, journal) = open_store(&settings, &inbox)?;
        let mutations = Mutations::new(&store);
        let cluster = join(&settings, &addresses, ring.clone(), store, &inbox)?;
        let secrets = Current::new(secrets);
        let mut node = Self {
            settings,
            addresses,
            inbox,
            ring,
            cluster,
            mutations,
            journal,
            publisher,
            next_publication: Instant::now(),
            changed_at: Instant::now(),
            published_at: Instant::now(),
            publication_debt: Duration::ZERO,
            reload_at: None,
            told: run::Told::default(),
            secrets,
            zone_keys,
            routes: Current::new(Routes::default()),
            speaks_tls: false,
            told_faults: HashMap::new(),
            workers: Vec::new(),
            control: None,
            health: None,
            ages: Ages::new(),
            containers: Containers::default(),
            file_watch: watch_or_tell(file_watch),
            supervisor: Supervisor::default(),
            watchers: Watchers::default(),
            found: HashMap::new(),
        };
        node.apply_policies();
        node.register_name_servers();
        node.replace(names);
        node.watch_all();
        match node.start_threads(listeners) {
            Ok(()) => {
                node.supervisor.tell_ready();
                Ok(node)
            }
            Err(error) => {
                node.stop();
                Err(error)
            }
        }
    }

    /// Starts the thread that makes updates and transfers, if there is to be one; returns where workers leave these.
    fn start_zone_maintenance(
        &mut self,
        service: &Arc<Service>,
    ) -> Result<Option<crossbeam_channel::Sender<HandedOver>>, NodeError> {
        let Some(settings) = &self.settings.zone_maintenance else { return Ok(None) };
        let (sender, receiver) = crossbeam_channel::bounded(MAX_WAITING);
        let zones = zone_maintenance::Service {
            zones: self.settings.domains.iter().map(Name::to_lower_case).collect(),
            keys: self.zone_keys.reader(),
            unsigned_updates: settings.unsigned_updates,
            tables: self.publisher.reader(),
            answerer: Answerer::new(Arc::clone(service), self.secrets.reader(), fastrand::Rng::new()),
        };
        let control = self.inbox.sender();
        let ask = move |request| control.send(Control::Request(request));
        zone_maintenance::start(zones, receiver, ask).map_err(NodeError::Thread)?;
        Ok(Some(sender))
    }

    fn start_threads(&mut self, mut listeners: Vec<Listeners>) -> Result<(), NodeError> {
        let service = Arc::new(Service {
            access: self.settings.access.clone(),
            forwarders: self.settings.forwarders.clone(),
            rate_limit: self.settings.rate_limit,
            udp_len: self.settings.udp_len,
            hands_over: self.settings.zone_maintenance.is_some(),
            identity: Identity::new(
                (!self.settings.hide_identity).then_some(self.settings.node_name.as_str()),
            ),
        });
        let handed = self.start_zone_maintenance(&service)?;
        let resolvers = self.start_forwarding(&mut listeners)?;
        for (index, (mut listeners, resolver)) in listeners.into_iter().zip(resolvers).enumerate() {
            listeners.handed.clone_from(&handed);
            let mut answerer =
                Answerer::new(Arc::clone(&service), self.secrets.reader(), fastrand::Rng::new());
            if let Some(setup) = &listeners.asking {
                answerer.look_elsewhere(Elsewhere::new(setup.cache.clone()));
            }
            if let Some(resolver) = resolver {
                answerer.forward_by(resolver);
            }
            let Settings { busy_poll, realtime, .. } = self.settings;
            let manner = Manner { busy_poll, cpu: self.cpu_of(index), realtime };
            let worker = Worker::start(index, manner, listeners, self.publisher.reader(), answerer);
            self.workers.push(worker.map_err(NodeError::Worker)?);
        }
        if let Some(address) = &self.settings.control {
            let sender = self.inbox.sender();
            let ask = move |request| sender.send(Control::Request(request));
            let token = self.settings.control_token.as_deref().map(Token::read);
            let rules = Rules {
                domains: self.settings.domains.clone(),
                check_dir: self.settings.check_dir.clone(),
                token: token.transpose().map_err(NodeError::File)?,
            };
            match Listener::start(address, rules, ask) {
                Ok(control) => self.control = Some(control),
                Err(error) if self.settings.control_is_default => {
                    warn!("{error}; going on without a control listener");
                }
                Err(error) => return Err(NodeError::Control(error)),
            }
        }
        self.watch_containers()?;
        if let Some(gossip) = &self.settings.gossip {
            seeds::look_up(&gossip.join, self.inbox.sender()).map_err(NodeError::Thread)?;
        }
        Ok(())
    }

    /// The CPU for a worker, if it is not to run on any.
    fn cpu_of(&self, worker: usize) -> Option<usize> {
        let cpus = &self.settings.cpus;
        cpus.get(worker.checked_rem(cpus.len())?).copied()
    }

    /// Where it answers; with port 0 asked for, the ports that the kernel picked.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where it gossips, if it does.
    #[must_use]
    pub fn gossip_address(&self) -> Option<SocketAddr> {
        self.cluster.address()
    }

    /// Where its control listener is, as it is given with `--control`.
    #[must_use]
    pub fn control_address(&self) -> Option<String> {
        self.control.as_ref().map(|control| control.address().to_string())
    }

    /// Asks things of it from other threads.
    #[must_use]
    pub fn sender(&self) -> ControlSender {
        self.inbox.sender()
    }

    /// Publishes `names` in place of all that files gave before.
    pub fn replace(&mut self, names: Registrations) {
        let shared = self.cluster.engine().store().clone();
        let mut store = shared.write();
        let before = Registrations::of(store.registrations());
        // At a start nothing has been published yet, also of what was on disk.
        let starting = self.workers.is_empty();
        if before.is_empty() && (starting || names.len() > store.len()) {
            // Later, the other processors are the workers'.
            let threads = if starting { threads_for(names.len()) } else { 1 };
            store.load(&names.all(), threads);
            drop((store.take_changed(), names));
            drop(store);
            self.apply_policies();
            self.publisher.publish_whole(&self.cluster.engine().store().read(), threads);
            return;
        }
        for gone in before.beyond(&names) {
            store.remove_key(gone.key);
        }
        for new in names.beyond(&before) {
            store.register_encoded(new.bytes);
        }
        drop((before, names, store));
        self.publish_all();
    }

    /// Each domain's name server is this node, where it is known under which addresses it is asked.
    fn register_name_servers(&mut self) {
        let attributes = Attributes { no_pointer: true, ..Attributes::default() };
        for name in self.settings.domains.iter().filter_map(name_server) {
            for ip in self.addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()) {
                let bytes = encode(&Key::address(NODE_INSTANCE, &name, ip), &attributes);
                self.cluster.engine().store().write().register_encoded(&bytes);
            }
        }
    }

    /// The table that answers come from now.
    #[must_use]
    pub fn table(&self) -> Arc<Table> {
        self.publisher.current()
    }

    /// How often `event` happened, over all workers.
    #[must_use]
    pub fn count(&self, event: Event) -> u64 {
        self.workers.iter().map(|worker| worker.counters().get(event)).sum()
    }

    /// How often each event happened.
    #[must_use]
    pub fn counts(&self) -> Vec<(Event, u64)> {
        Event::ALL.iter().map(|&event| (event, self.count(event))).collect()
    }

    /// Leaves the cluster, answers what has been received, then ends the threads. Returns all that workers have counted.
    pub fn stop(mut self) -> Vec<(Event, u64)> {
        self.supervisor.tell_stopping();
        self.cluster.leave();
        drop(self.health.take());
        std::mem::take(&mut self.containers).stop();
        self.workers.iter().for_each(Handle::stop);
        self.settle();
        // Whoever asks for something from now on is told at once that nobody does it.
        drop(self.inbox);
        let counters: Vec<_> = self.workers.into_iter().map(Handle::join).collect();
        if let Some(control) = self.control {
            control.stop();
        }
        self.journal.close();
        let total = |event: Event| counters.iter().map(|counters| counters.get(event)).sum();
        Event::ALL.iter().map(|&event| (event, total(event))).collect()
    }
}

/// Has the files watched that are read again when they change. Before they are read, or a change in between would not be seen.
fn watch_files(settings: &Settings, inbox: &Inbox) -> notify::Result<Option<FileWatch>> {
    let files: Vec<_> = settings.files().cloned().collect();
    if files.is_empty() {
        return Ok(None);
    }
    let sender = inbox.sender();
    let changed = move || {
        // It can only fail when the control thread is gone, and the names with it.
        sender.send(Control::Reload);
    };
    watch::watch(&files, changed).map(Some)
}

/// The watch, if there is one; else says why not. After the files have been read: what is wrong with these is told first.
fn watch_or_tell(watch: notify::Result<Option<FileWatch>>) -> Option<FileWatch> {
    watch.unwrap_or_else(|error| {
        warn!("cannot watch the files, send SIGHUP after a change: {error}");
        None
    })
}

/// Sees that workers will have the CPU, and the packets, that they are to have.
fn see_to_turns(settings: &Settings, listeners: &[Listeners]) -> Result<(), NodeError> {
    if settings.realtime {
        dataplane::worker::may_go_first().map_err(NodeError::Realtime)?;
    }
    if settings.steer_by_cpu {
        dataplane::steer(listeners, &settings.cpus).map_err(NodeError::Worker)?;
    }
    Ok(())
}

/// The store with what this node has registered in earlier times, and where it keeps what it registers from now on.
fn open_store(settings: &Settings, inbox: &Inbox) -> Result<(Store, Journal), NodeError> {
    let now = u64::from(unix_time_s());
    let Some(directory) = &settings.data_dir else {
        // A new node each time: its incarnation can be any.
        return Ok((Store::new(NodeId::random(), now), Journal::memory()));
    };
    let (disk, Found { node, incarnation, registrations }) =
        Disk::open(directory, now).map_err(NodeError::Disk)?;
    let mut store = Store::new(node, incarnation);
    let registrations: Vec<_> = registrations.iter().map(|bytes| &bytes[..]).collect();
    store.load(&registrations, threads_for(registrations.len()));
    Ok((store, Journal::on(disk, inbox.sender())?))
}

/// Binds what the designs that ask need, for each worker.
fn reach(settings: &Settings, workers: &mut [Listeners]) -> Result<(), ReachError> {
    let Some(asking) = &settings.asking else { return Ok(()) };
    let sockets = asking_sockets::bind(&asking.reach, workers.len())?;
    let cache = asking.cache_entries.map(|entries| Arc::new(Cache::new(entries)));
    let epoch = Instant::now();
    let mut questions = Some(sockets.questions);
    for (worker, answers) in workers.iter_mut().zip(sockets.answers) {
        worker.asking = Some(Setup {
            asking: asking.clone(),
            answers,
            questions: questions.take(),
            targets: sockets.targets.clone(),
            cache: cache.clone(),
            epoch,
            access: settings.access.clone(),
        });
    }
    Ok(())
}

/// Makes the node a member: of the cluster that its seeds are in, or of one of its own.
fn join(
    settings: &Settings,
    addresses: &[SocketAddr],
    ring: Option<KeyRing>,
    store: Store,
    inbox: &Inbox,
) -> Result<Driver, NodeError> {
    let registry = inbox.registry();
    let transport = |gossip: &Gossip| Transport::bind(gossip.address, &gossip.cluster, ring, registry);
    let transport = settings.gossip.as_ref().map(transport).transpose().map_err(NodeError::Gossip)?;
    let me = Peer {
        address: transport.as_ref().map_or(([0; 4], 0).into(), Transport::address),
        node: store.me(),
        generation: store.incarnation() << 16,
        dns: addresses.iter().copied().find(|address| !address.ip().is_unspecified()),
        name: settings.node_name.as_str().into(),
    };
    let engine = Engine::new(me, crate::store::SharedStore::new(store), &[], fastrand::Rng::new());
    Driver::new(engine, transport, registry).map_err(NodeError::Thread)
}

/// Reads all files that `settings` name, as a start does, and changes nothing. Returns how many registrations they have, and what
/// in them was passed over.
///
/// # Errors
/// [`NodeError`].
pub fn check(settings: &Settings) -> Result<(usize, Vec<String>), NodeError> {
    let names = read_names(settings)?;
    read_secrets(settings)?;
    read_ring(settings)?;
    read_zone_keys(settings)?;
    settings.control_token.as_deref().map(Token::read).transpose().map_err(NodeError::File)?;
    let Some((upstreams, told)) = upstreams::read(settings, &settings.listen)? else {
        return Ok((names.len(), Vec::new()));
    };
    upstreams::tls(settings, &upstreams)?;
    Ok((names.len(), told))
}

fn read_names(settings: &Settings) -> Result<Registrations, NodeError> {
    let Settings { names, zones, domains, zone, .. } = settings;
    Registrations::read(names, zones, domains, zone.ttl_s).map_err(NodeError::Names)
}

fn read_secrets(settings: &Settings) -> Result<Option<Secrets>, NodeError> {
    settings.cookie_secrets.as_deref().map(cookie_secrets::read).transpose().map_err(NodeError::File)
}

fn read_ring(settings: &Settings) -> Result<Option<KeyRing>, NodeError> {
    let file = settings.gossip.as_ref().and_then(|gossip| gossip.key_file.as_deref());
    file.map(KeyRing::read).transpose().map_err(NodeError::File)
}

fn read_zone_keys(settings: &Settings) -> Result<Keys, NodeError> {
    let Some(files) = &settings.zone_maintenance else { return Ok(Keys::default()) };
    Keys::read(&files.update_keys, &files.transfer_keys).map_err(NodeError::File)
}
