//! Containers of a Docker Engine, registered as they come and go.
//!
//! Runs on a thread `docker` of its own, asynchronously. What it finds is not kept on disk: the Engine knows what runs,
//! and is asked anew after every interruption, so that nothing stays of a container that has ended meanwhile.

mod container;

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

use bollard::errors::Error;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::StreamExt;
use tokio::sync::oneshot;
use tracing::{info, warn};

use self::container::Container;
use crate::policy::select::Health;
use crate::store::{Attributes, Key};
use crate::wire::name::Name;

/// Where the Engine listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/var/run/docker.sock";

/// How long the Engine may take for an answer.
const TIMEOUT_S: u64 = 10;

/// How long to wait before an Engine that is gone is tried again.
const RETRY_PERIOD: Duration = Duration::from_millis(500);

/// What is watched, and how it is registered.
#[derive(Clone, Debug)]
pub struct DockerRules {
    /// The Engine's socket.
    pub socket: PathBuf,
    /// Addresses in these networks alone, by their names; in all if there are none.
    pub networks: Vec<String>,
    /// The domains that names can be in; those without a dot are in the first.
    pub domains: Vec<Name>,
    /// Where programs are that may be run as health checks.
    pub check_dir: Option<PathBuf>,
}

/// What has changed of a container.
#[derive(Clone, Debug, Default)]
pub struct ContainerUpdate {
    /// Registrations that are gone.
    pub remove: Vec<Key>,
    /// Registrations that are new or others.
    pub put: Vec<(Key, Attributes)>,
    /// How these registrations' addresses are.
    pub health: Option<(Vec<Key>, Health)>,
    /// The container by its id, with its name if it runs.
    pub container: Option<(Box<str>, Option<Box<str>>)>,
    /// Whether the Engine is there from now on, and all that runs has been told.
    pub complete: Option<bool>,
}

/// A running watch.
pub struct Watcher {
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Watcher {
    /// Watches, and tells what changes by `tell`, which says whether it was taken.
    ///
    /// # Errors
    /// When the socket is there but may not be used, or the kernel has no thread. A socket that is not there may come
    /// later.
    pub fn start(
        rules: DockerRules,
        tell: impl Fn(ContainerUpdate) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        if let Err(error) = UnixStream::connect(&rules.socket)
            && error.kind() == io::ErrorKind::PermissionDenied
        {
            return Err(error);
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let watch = move || {
            runtime.block_on(async {
                let mut watch = EngineWatch::new(rules, tell);
                tokio::select! {
                    () = watch.run() => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("docker".into()).spawn(watch)?;
        Ok(Self { stop, thread })
    }

    /// Ends it.
    pub fn stop(self) {
        drop(self.stop);
        // A panic there has been told by the panic itself.
        let _ = self.thread.join();
    }
}

/// What is registered of a container.
#[derive(Default)]
struct Known {
    registrations: HashMap<Key, Attributes>,
    health: Health,
    name: Box<str>,
}

struct EngineWatch<T> {
    rules: DockerRules,
    tell: T,
    /// By their ids.
    containers: HashMap<String, Known>,
    /// What has been told of the Engine, so that it is told once.
    told: String,
}

impl<T: Fn(ContainerUpdate) -> bool> EngineWatch<T> {
    fn new(rules: DockerRules, tell: T) -> Self {
        Self { rules, tell, containers: HashMap::new(), told: String::new() }
    }

    async fn run(&mut self) {
        loop {
            let why = match self.follow().await {
                Ok(()) => "it has closed the connection".to_owned(),
                Err(error) => error.to_string(),
            };
            self.tell_complete(false);
            if why != self.told {
                let socket = self.rules.socket.display();
                warn!(
                    "no events of the Docker Engine at {socket}: {why}; containers stay as they were until it is back"
                );
                self.told = why;
            }
            tokio::time::sleep(RETRY_PERIOD).await;
        }
    }

    /// Takes over what runs, and then what happens, until the Engine is gone.
    async fn follow(&mut self) -> Result<(), Error> {
        let docker = connect(&self.rules.socket)?.negotiate_version().await?;
        // Events from before the list are told once more after it: so none is missed between the two.
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        self.reconcile(&docker).await?;
        self.tell_complete(true);
        info!("watching the containers of the Docker Engine at {}", self.rules.socket.display());
        self.told.clear();
        let filters = HashMap::from([("type", vec!["container", "network"])]);
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        let mut events = pin!(docker.events(Some(options)));
        while let Some(event) = events.next().await {
            self.handle(&docker, &event?).await?;
        }
        Ok(())
    }

    /// Has what runs registered, and nothing else.
    async fn reconcile(&mut self, docker: &Docker) -> Result<(), Error> {
        let listed = docker.list_containers(Some(ListContainersOptionsBuilder::new().build())).await?;
        let running: HashSet<_> = listed.into_iter().filter_map(|it| it.id).collect();
        let gone: Vec<_> = self.containers.keys().filter(|id| !running.contains(*id)).cloned().collect();
        gone.iter().for_each(|id| self.forget(id));
        for id in running {
            self.refresh(docker, &id).await?;
        }
        Ok(())
    }

    async fn handle(&mut self, docker: &Docker, event: &EventMessage) -> Result<(), Error> {
        let Some(actor) = &event.actor else { return Ok(()) };
        let action = event.action.as_deref().unwrap_or_default();
        let container = match event.typ {
            Some(EventMessageTypeEnum::CONTAINER) => actor.id.as_deref(),
            Some(EventMessageTypeEnum::NETWORK) if matches!(action, "connect" | "disconnect") => actor
                .attributes
                .as_ref()
                .and_then(|attributes| attributes.get("container"))
                .map(String::as_str),
            _ => None,
        };
        let Some(id) = container else { return Ok(()) };
        match action {
            "die" | "destroy" | "pause" => self.forget(id),
            // That it is to be stopped, or has been looked into, is no change yet.
            _ if matches!(action, "start" | "unpause" | "rename" | "connect" | "disconnect" | "update")
                || action.starts_with("health_status") =>
            {
                self.refresh(docker, id).await?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Looks at a container, and tells what of it has changed.
    async fn refresh(&mut self, docker: &Docker, id: &str) -> Result<(), Error> {
        match docker.inspect_container(id, None).await {
            Ok(inspected) => match Container::read(&inspected, &self.rules) {
                Ok(Some(container)) => self.take(id, container),
                Ok(None) => self.forget(id),
                Err(why) => {
                    warn!("a container is not registered: {why}");
                    self.forget(id);
                }
            },
            Err(Error::DockerResponseServerError { status_code: 404, .. }) => self.forget(id),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn take(&mut self, id: &str, container: Container) {
        let Container { name, health, registrations, .. } = container;
        let known = self.containers.entry(id.to_owned()).or_default();
        let registrations: HashMap<_, _> = registrations.into_iter().collect();
        let remove = known.registrations.keys().filter(|key| !registrations.contains_key(*key)).cloned();
        let is_new =
            |(key, attributes): &(&Key, &Attributes)| known.registrations.get(*key) != Some(*attributes);
        let put: Vec<_> = registrations.iter().filter(is_new).map(|(a, b)| (a.clone(), b.clone())).collect();
        let update = ContainerUpdate {
            remove: remove.collect(),
            // What is new has to be told how it is, too.
            health: (known.health != health || !put.is_empty())
                .then(|| (registrations.keys().cloned().collect(), health)),
            put,
            container: Some((id.into(), Some(name.clone()))),
            complete: None,
        };
        *known = Known { registrations, health, name };
        (self.tell)(update);
    }

    fn tell_complete(&self, complete: bool) {
        (self.tell)(ContainerUpdate { complete: Some(complete), ..ContainerUpdate::default() });
    }

    fn forget(&mut self, id: &str) {
        if let Some(known) = self.containers.remove(id) {
            tracing::debug!("container {} has ended", known.name);
            let remove = known.registrations.into_keys().collect();
            (self.tell)(ContainerUpdate {
                remove,
                container: Some((id.into(), None)),
                ..ContainerUpdate::default()
            });
        }
    }
}

fn connect(socket: &Path) -> Result<Docker, Error> {
    Docker::connect_with_unix(&socket.to_string_lossy(), TIMEOUT_S, API_DEFAULT_VERSION)
}
