//! The composition root of a server: its threads, the queues between them, start and stop.
//!
//! Runs on the main thread, which is also the control thread: it reads names, builds tables and publishes them. The
//! workers are the only other threads that matter; they share nothing with this one but the published table.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use tracing::{error, info};

use crate::config::{Settings, cookie_secrets};
use crate::dataplane::answer::{Answerer, Service};
use crate::dataplane::counters::Event;
use crate::dataplane::identity::Identity;
use crate::dataplane::worker::{Handle, Listeners, Worker};
use crate::dataplane::{self, ListenError};
use crate::registry::files::{Conflict, Names, Registrations};
use crate::snapshot::Current;
use crate::store::{Attributes, Key, NodeId, Store, encode};
use crate::table::{Publisher, Table, name_server};
use crate::text_file::FileError;
use crate::wire::cookie::Secrets;

/// How long after the first sign of a change files are read, so that one change is one reading.
const SETTLING: Duration = Duration::from_millis(5);

/// The instance that a node's own addresses belong to.
const NODE_INSTANCE: &str = "node";

/// What the control thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Read the files again.
    Reload,
    /// Answer what has been received, then end.
    Stop,
}

/// Why a server did not start, or did not take new names.
#[derive(Debug)]
pub enum NodeError {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// A file was refused.
    File(FileError),
    /// What the files say cannot be served together.
    Conflict(Conflict),
    /// The kernel refused a thread or an event queue.
    Worker(io::Error),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::Worker(error) => write!(f, "cannot start a worker: {error}; try fewer with --workers"),
        }
    }
}

impl std::error::Error for NodeError {}

/// A running server.
pub struct Node {
    settings: Settings,
    addresses: Vec<SocketAddr>,
    /// What files have said last.
    files: Registrations,
    /// The registrations that answers are made of.
    store: Store,
    publisher: Publisher,
    secrets: Current<Secrets>,
    workers: Vec<Handle>,
}

impl Node {
    /// Reads the files, binds the addresses, starts the workers. The first packet is answered from all names.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub fn start(settings: Settings) -> Result<Self, NodeError> {
        let names = read_names(&settings)?;
        let secrets = read_secrets(&settings)?.unwrap_or_else(Secrets::random);
        let mut listeners: Vec<_> = (0..settings.workers).map(|_| Listeners::default()).collect();
        let mut addresses = Vec::new();
        for &listen in &settings.listen {
            addresses.push(dataplane::bind(listen, &mut listeners).map_err(NodeError::Listen)?);
        }
        let publisher = Publisher::new(&settings.domains, settings.zone);
        let store = Store::new(NodeId::random(), 1);
        let secrets = Current::new(secrets);
        let mut node = Self {
            settings,
            addresses,
            files: Registrations::default(),
            store,
            publisher,
            secrets,
            workers: Vec::new(),
        };
        node.register_name_servers();
        node.replace(&names)?;
        let service = Arc::new(Service {
            access: node.settings.access.clone(),
            rate_limit: node.settings.rate_limit,
            udp_len: node.settings.udp_len,
            identity: Identity::new(node.settings.node_name.as_deref()),
        });
        for (index, listeners) in listeners.into_iter().enumerate() {
            let answerer = Answerer::new(Arc::clone(&service), node.secrets.reader(), fastrand::Rng::new());
            match Worker::start(index, listeners, node.publisher.reader(), answerer) {
                Ok(worker) => node.workers.push(worker),
                Err(error) => {
                    node.stop();
                    return Err(NodeError::Worker(error));
                }
            }
        }
        Ok(node)
    }

    /// Where it answers; with port 0 asked for, the ports that the kernel picked.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Reads the files again and takes what they say.
    ///
    /// # Errors
    /// [`NodeError`]; names and secrets are then as they were, all of them.
    pub fn reload(&mut self) -> Result<(), NodeError> {
        let names = read_names(&self.settings)?;
        let secrets = read_secrets(&self.settings)?;
        self.replace(&names)?;
        if let Some(secrets) = secrets.filter(|secrets| *secrets != *self.secrets.load()) {
            self.secrets.replace(secrets);
        }
        Ok(())
    }

    /// Publishes `names` in place of all that files gave before.
    ///
    /// # Errors
    /// [`NodeError::Conflict`]; the old names stay.
    pub fn replace(&mut self, names: &Names) -> Result<(), NodeError> {
        let registrations = names.registrations().map_err(NodeError::Conflict)?;
        for gone in self.files.beyond(&registrations) {
            self.store.remove_key(gone.key);
        }
        for new in registrations.beyond(&self.files) {
            self.store.register_encoded(new.bytes);
        }
        self.files = registrations;
        let changed = self.store.take_changed();
        if !changed.is_empty() {
            self.publisher.update(&self.store, changed);
        }
        Ok(())
    }

    /// Each domain's name server is this node, where it is known under which addresses it is asked.
    fn register_name_servers(&mut self) {
        let attributes = Attributes { no_pointer: true, ..Attributes::default() };
        for name in self.settings.domains.iter().filter_map(name_server) {
            for ip in self.addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()) {
                self.store.register_encoded(&encode(&Key::address(NODE_INSTANCE, &name, ip), &attributes));
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

    /// Does what it is asked until it is asked to stop, or nobody is left to ask.
    pub fn run(mut self, control: &Receiver<Control>) {
        while let Ok(command) = control.recv() {
            // Several reasons to reload at once are one: a file that is moved into place is told of three times. A wish to
            // stop is not kept waiting by any.
            if command == Control::Reload {
                thread::sleep(SETTLING);
            }
            let pending: Vec<_> = std::iter::once(command).chain(control.try_iter()).collect();
            if pending.contains(&Control::Stop) {
                break;
            }
            let begin = Instant::now();
            match self.reload() {
                Ok(()) => {
                    let (names, took_ms) = (self.table().names(), begin.elapsed().as_secs_f64() * 1e3);
                    info!("names read again: {names} names, in {took_ms:.1} ms");
                }
                Err(refused) => error!("names not changed: {refused}"),
            }
        }
        info!("stopping: answering what has been received");
        let totals = self.stop();
        let told: Vec<_> =
            totals.iter().filter(|(_, n)| *n > 0).map(|(event, n)| format!("{} {n}", event.name())).collect();
        info!("stopped; counted: {}", if told.is_empty() { "nothing".into() } else { told.join(", ") });
    }

    /// Answers what has been received, then ends the workers. Returns all that they have counted.
    pub fn stop(self) -> Vec<(Event, u64)> {
        self.workers.iter().for_each(Handle::stop);
        let counters: Vec<_> = self.workers.into_iter().map(Handle::join).collect();
        let total = |event: Event| counters.iter().map(|counters| counters.get(event)).sum();
        Event::ALL.iter().map(|&event| (event, total(event))).collect()
    }
}

fn read_names(settings: &Settings) -> Result<Names, NodeError> {
    let Settings { names, zones, domains, zone, .. } = settings;
    Names::read(names, zones, domains, zone.ttl_s).map_err(NodeError::File)
}

fn read_secrets(settings: &Settings) -> Result<Option<Secrets>, NodeError> {
    settings.cookie_secrets.as_deref().map(cookie_secrets::read).transpose().map_err(NodeError::File)
}
