//! The composition root of a server: its threads, the queues between them, start and stop.
//!
//! Runs on the main thread, which is also the control thread: it reads names, builds tables and publishes them. The
//! workers are the only other threads that matter; they share nothing with this one but the published table.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::Receiver;
use tracing::{error, info};

use crate::config::Settings;
use crate::dataplane::answer::Service;
use crate::dataplane::counters::Event;
use crate::dataplane::identity::Identity;
use crate::dataplane::worker::{Handle, Listeners, Worker};
use crate::dataplane::{self, ListenError};
use crate::registry::names_file::{self, Host, NamesFileError};
use crate::table::{ContentsError, Publisher, Table};
use crate::wire::cookie::Secrets;

/// What the control thread is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// Read the names files again.
    Reload,
    /// Answer what has been received, then end.
    Stop,
}

/// Why a server did not start, or did not take new names.
#[derive(Debug)]
pub enum NodeError {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// A names file was refused.
    NamesFile(NamesFileError),
    /// The names files together are more than a table takes.
    Contents(ContentsError),
    /// The kernel refused a thread or an event queue.
    Worker(io::Error),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::NamesFile(error) => error.fmt(f),
            Self::Contents(error) => error.fmt(f),
            Self::Worker(error) => write!(f, "cannot start a worker: {error}; try fewer with --workers"),
        }
    }
}

impl std::error::Error for NodeError {}

/// A running server.
pub struct Node {
    settings: Settings,
    addresses: Vec<SocketAddr>,
    publisher: Publisher,
    workers: Vec<Handle>,
}

impl Node {
    /// Reads the names files, binds the addresses, starts the workers. The first packet is answered from all names.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running then.
    pub fn start(settings: Settings) -> Result<Self, NodeError> {
        let hosts = read_names(&settings)?;
        let mut publisher = Publisher::new(&settings.domains, settings.zone);
        publish(&mut publisher, &hosts)?;
        let mut listeners: Vec<_> = (0..settings.workers).map(|_| Listeners::default()).collect();
        let mut addresses = Vec::new();
        for &listen in &settings.listen {
            addresses.push(dataplane::bind(listen, &mut listeners).map_err(NodeError::Listen)?);
        }
        let service = Arc::new(Service {
            access: settings.access.clone(),
            rate_limit: settings.rate_limit,
            identity: Identity::new(Secrets::random(), settings.node_name.as_deref()),
        });
        let mut node = Self { settings, addresses, publisher, workers: Vec::new() };
        for (index, listeners) in listeners.into_iter().enumerate() {
            match Worker::start(index, listeners, node.publisher.reader(), Arc::clone(&service)) {
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

    /// Reads the names files again and publishes them.
    ///
    /// # Errors
    /// [`NodeError`]; the old names stay, all of them.
    pub fn reload(&mut self) -> Result<(), NodeError> {
        let hosts = read_names(&self.settings)?;
        publish(&mut self.publisher, &hosts)
    }

    /// Publishes `hosts` in place of all names there were.
    ///
    /// # Errors
    /// [`NodeError::Contents`]; the old names stay.
    pub fn replace(&mut self, hosts: &[Host]) -> Result<(), NodeError> {
        publish(&mut self.publisher, hosts)
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
            // Several reasons to reload at once are one; a wish to stop is not kept waiting by any.
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

fn read_names(settings: &Settings) -> Result<Vec<Host>, NodeError> {
    let mut hosts = Vec::new();
    for path in &settings.names {
        hosts.extend(names_file::read(path, &settings.domains).map_err(NodeError::NamesFile)?);
    }
    Ok(hosts)
}

fn publish(publisher: &mut Publisher, hosts: &[Host]) -> Result<(), NodeError> {
    let mut contents = publisher.contents();
    for host in hosts {
        for name in &host.names {
            contents.add_address(name, host.address);
        }
        // As everywhere that reads hosts files, an address leads back to its canonical name, not to the aliases.
        if let Some(canonical) = host.names.first() {
            contents.add_pointer(host.address, canonical);
        }
    }
    publisher.publish(contents).map_err(NodeError::Contents)
}
