//! What runs in containers, as the thread `docker` tells it.
//!
//! Runs on the owner of the registrations. It is not kept on disk: the Engine is asked anew after each start.

use std::collections::BTreeMap;

use super::NodeError;
use super::inbox::{ControlSender, Observation};
use crate::config::Settings;
use crate::sources::docker::{DockerRules, Watcher};

/// Characters of an id that have to be said at least for it to be meant.
const MIN_ID_LEN: usize = 12;

/// The containers that run.
#[derive(Default)]
pub(super) struct Containers {
    /// Their names by their ids.
    running: BTreeMap<Box<str>, Box<str>>,
    /// These are all: the Engine is there, and has told.
    complete: bool,
}

impl Containers {
    /// Whether one runs, said by its id, the beginning of it, or its name; nobody knows while there is no Engine.
    pub(super) fn is_running(&self, container: &str) -> Option<bool> {
        let is_meant = |id: &str, name: &str| {
            name == container || container.len() >= MIN_ID_LEN && id.starts_with(container)
        };
        self.complete.then(|| self.running.iter().any(|(id, name)| is_meant(id, name)))
    }

    pub(super) fn note(&mut self, container: Option<(Box<str>, Option<Box<str>>)>, complete: Option<bool>) {
        self.complete = complete.unwrap_or(self.complete);
        match container {
            Some((id, Some(name))) => drop(self.running.insert(id, name)),
            Some((id, None)) => drop(self.running.remove(&id)),
            None => {}
        }
    }
}

/// Watches the Engine, if that is asked for.
pub(super) fn watch(settings: &Settings, sender: ControlSender) -> Result<Option<Watcher>, NodeError> {
    let Some(docker) = &settings.docker else { return Ok(None) };
    let rules = DockerRules {
        socket: docker.socket.clone(),
        networks: docker.networks.clone(),
        domains: settings.domains.clone(),
        check_dir: settings.check_dir.clone(),
    };
    let watcher = Watcher::start(rules, move |update| sender.outcome(Observation::Docker(update)));
    watcher.map(Some).map_err(|source| NodeError::Docker(docker.socket.clone(), source))
}
