//! What runs in containers, as the thread `docker` tells it.
//!
//! Runs on the control thread. It is not kept on disk: the Engine is asked anew after each start.

use std::collections::BTreeMap;

use super::journal::Op;
use super::{Control, Node, NodeError};
use crate::registry::docker::{Rules, Update, Watcher};

/// Characters of an id that have to be said at least for it to be meant.
const MIN_ID_LEN: usize = 12;

/// The containers that run, and who tells of them.
#[derive(Default)]
pub(super) struct Containers {
    watcher: Option<Watcher>,
    /// Their names by their ids.
    running: BTreeMap<Box<str>, Box<str>>,
    /// These are all: the Engine is there, and has told.
    complete: bool,
}

impl Containers {
    /// Whether one runs, said by its id, the beginning of it, or its name; nobody knows while there is no Engine.
    pub(super) fn is_running(&self, said: &str) -> Option<bool> {
        let is_meant =
            |id: &str, name: &str| name == said || said.len() >= MIN_ID_LEN && id.starts_with(said);
        self.complete.then(|| self.running.iter().any(|(id, name)| is_meant(id, name)))
    }

    pub(super) fn stop(self) {
        if let Some(watcher) = self.watcher {
            watcher.stop();
        }
    }
}

impl Node {
    /// Watches the Engine, if that is asked for.
    pub(super) fn watch_containers(&mut self) -> Result<(), NodeError> {
        let Some(docker) = &self.settings.docker else { return Ok(()) };
        let rules = Rules {
            socket: docker.socket.clone(),
            networks: docker.networks.clone(),
            domains: self.settings.domains.clone(),
            check_dir: self.settings.check_dir.clone(),
        };
        let sender = self.inbox.sender();
        let watcher = Watcher::start(rules, move |update| sender.send(Control::Docker(update)));
        let failed = |source| NodeError::Docker(docker.socket.clone(), source);
        self.containers.watcher = Some(watcher.map_err(failed)?);
        Ok(())
    }

    /// Takes what has changed of a container.
    pub(super) fn take_container(&mut self, update: Update) {
        let Update { remove, put, health, container, complete } = update;
        self.containers.complete = complete.unwrap_or(self.containers.complete);
        for key in remove {
            self.apply(&Op::remove(&key));
        }
        for (key, attributes) in put {
            self.apply(&Op::put(&key, &attributes));
        }
        if let Some((instance, health)) = health {
            self.report(&instance, health);
        }
        match container {
            Some((id, Some(name))) => drop(self.containers.running.insert(id, name)),
            Some((id, None)) => drop(self.containers.running.remove(&id)),
            None => {}
        }
    }
}
