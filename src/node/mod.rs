//! The composition root of a server: its parts, each with its own state, the queues between them, start and stop.
//!
//! | part | owns | thread |
//! |---|---|---|
//! | `writes` | what this node has registered: applies every change of it | main |
//! | `tables` | the table that answers come from | `tables` |
//! | `cluster` | membership, dissemination, sync | `cluster` |
//! | `files` | nothing: reads files, and says what has changed in them | `files` |
//! | `views` | nothing: what is read of all of these | who asks |
//! | `lifecycle` | the threads: starts them, tells them of new settings, stops them | main |
//!
//! The workers share nothing with these but what is published: tables, upstreams, keys.

mod cache_commands;
mod cluster;
mod containers;
mod cpu_time;
mod error;
mod explain;
mod file_changes;
mod files;
mod health;
mod inbox;
mod left_out;
mod lifecycle;
mod log_throttle;
mod op;
mod persist;
mod record_age;
mod reload;
mod results;
mod room;
mod seeds;
mod settle;
mod subscribers;
mod systemd;
mod tables;
mod updates;
mod upstreams;
mod views;
mod write_plan;
mod writes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

pub use error::NodeError;
pub use inbox::{Control, ControlSender, Inbox};
use tracing::warn;

use self::cluster::Cluster;
use self::files::Files;
use self::log_throttle::{RejectedGossip, UpstreamFaults};
use self::reload::Reload;
use self::systemd::ServiceManager;
use self::tables::TablesSender;
use self::views::Views;
use self::writes::Writes;

use crate::config::{Gossip, Settings, cookie_secrets};
use crate::gossip::driver::Driver;
use crate::gossip::engine::Engine;
use crate::gossip::key_ring::KeyRing;
use crate::gossip::peer::Peer;
use crate::gossip::transport::GossipSockets;
use crate::http::{Listener, Token};
use crate::query_time::cache::Cache;
use crate::resolver::routes::Routes;
use crate::sources::docker::Watcher;
use crate::sources::files::{FilesRejected, Registrations};
use crate::sources::names_text::Texts;
use crate::sources::watch::{self, FileWatch};
use crate::store::SharedStore;
use crate::sys::published::Current;
use crate::transport::{self, Listeners};
use crate::upstream::peer_sockets::{self, PeerSocketError};
use crate::upstream::peers::PeerSetup;
use crate::wire::cookie::Secrets;
use crate::worker::{self, Handle};
use crate::zone_maintenance::keys::Keys;

/// A running server.
pub struct Node {
    settings: Current<Settings>,
    addresses: Vec<SocketAddr>,
    inbox: Inbox,
    writes: Writes,
    tables: TablesSender,
    tables_thread: Option<JoinHandle<()>>,
    cluster: Cluster,
    files: Files,
    views: Views,
    /// The keys that gossip is sealed with, as the file had them last.
    ring: Option<KeyRing>,
    secrets: Current<Secrets>,
    /// The keys of those who may update zones, or take copies of them.
    zone_keys: Current<Keys>,
    /// Whom the workers ask for names out of the node's zones.
    routes: Current<Routes>,
    /// They could ask over TLS.
    speaks_tls: bool,
    /// What has been logged of connections to upstreams, and of gossip that was rejected.
    upstream_faults: UpstreamFaults,
    rejected_gossip: RejectedGossip,
    workers: Vec<Handle>,
    control: Option<Listener>,
    docker: Option<Watcher>,
    reload: Reload,
    service_manager: ServiceManager,
}

/// Has the files watched that are read again when they change. Before they are read, or a change in between would not
/// be seen.
fn watch_files(settings: &Settings, inbox: &Inbox) -> io::Result<Option<FileWatch>> {
    let files: Vec<_> = settings.files().cloned().collect();
    if files.is_empty() {
        return Ok(None);
    }
    let sender = inbox.sender();
    let changed = move || {
        // It can only fail when the owner of the names is gone.
        sender.send(Control::Reload);
    };
    watch::watch(&files, changed).map(Some)
}

/// The watch, if there is one; else says why not. After the files have been read: what is wrong with these is told
/// first.
fn watch_or_tell(watch: io::Result<Option<FileWatch>>) -> Option<FileWatch> {
    watch.unwrap_or_else(|error| {
        warn!("cannot watch the files, send SIGHUP after a change: {error}");
        None
    })
}

/// Sees that workers will have the CPU, and the packets, that they are to have.
fn see_to_turns(settings: &Settings, listeners: &[Listeners]) -> Result<(), NodeError> {
    if settings.realtime {
        worker::may_go_first().map_err(NodeError::Realtime)?;
    }
    if settings.steer_by_cpu {
        transport::steer(listeners, &settings.cpus).map_err(NodeError::Worker)?;
    }
    Ok(())
}

/// What each worker is started with: its listeners, and sockets to ask other nodes by in the designs that do.
fn reach(
    settings: &Settings,
    listeners: Vec<Listeners>,
) -> Result<Vec<worker::WorkerSetup>, PeerSocketError> {
    let with_listeners = |listeners| worker::WorkerSetup { listeners, ..worker::WorkerSetup::default() };
    let mut workers: Vec<_> = listeners.into_iter().map(with_listeners).collect();
    let Some(peer_queries) = &settings.peer_queries else { return Ok(workers) };
    let sockets = peer_sockets::bind(&peer_queries.targets, workers.len())?;
    let cache = peer_queries.cache_entries.map(|entries| Arc::new(Cache::new(entries)));
    let epoch = Instant::now();
    let mut questions = Some(sockets.questions);
    for (worker, answers) in workers.iter_mut().zip(sockets.answers) {
        worker.peers = Some(PeerSetup {
            settings: peer_queries.clone(),
            answers,
            questions: questions.take(),
            targets: sockets.targets.clone(),
            cache: cache.clone(),
            epoch,
            access: settings.access.clone(),
        });
    }
    Ok(workers)
}

/// Makes the node a member: of the cluster that its seeds are in, or of one of its own.
fn join(
    settings: &Settings,
    addresses: &[SocketAddr],
    ring: Option<KeyRing>,
    store: &SharedStore,
    registry: &mio::Registry,
) -> Result<Driver, NodeError> {
    let (node, incarnation) = {
        let store = store.read();
        (store.me(), store.incarnation())
    };
    let transport = |gossip: &Gossip| GossipSockets::bind(gossip.address, &gossip.cluster, ring, registry);
    let transport = settings.gossip.as_ref().map(transport).transpose().map_err(NodeError::Gossip)?;
    let me = Peer {
        address: transport.as_ref().map_or(([0; 4], 0).into(), GossipSockets::address),
        node,
        generation: incarnation << 16,
        dns: addresses.iter().copied().find(|address| !address.ip().is_unspecified()),
        name: settings.node_name.as_str().into(),
    };
    let engine = Engine::new(me, store.clone(), &[], fastrand::Rng::new());
    Driver::new(engine, transport, registry).map_err(NodeError::Thread)
}

/// Reads all files that `settings` name, as a start does, and changes nothing. Returns how many registrations they
/// have, and what in them was passed over.
///
/// # Errors
/// [`NodeError`].
pub fn check(settings: &Settings) -> Result<(usize, Vec<String>), NodeError> {
    let (_, names) = read_names(settings)?;
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

fn read_names(settings: &Settings) -> Result<(Texts, Registrations), NodeError> {
    let Settings { names, zones, domains, zone, .. } = settings;
    let texts = Texts::read(names, zones).map_err(|error| NodeError::Names(FilesRejected::File(error)))?;
    let names = Registrations::of(&texts, domains, zone.ttl_s).map_err(NodeError::Names)?;
    Ok((texts, names))
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
