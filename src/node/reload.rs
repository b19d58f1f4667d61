//! Files that are read again, and new settings: when, and what is taken over of them.
//!
//! Runs on the main thread; the files themselves are read by the thread `files`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tracing::{error, info, warn};

use super::file_changes::{FilesRead, Job};
use super::systemd::ServiceManager;
use super::{Node, watch_files, watch_or_tell};
use crate::config::Settings;
use crate::sources::watch::FileWatch;
use crate::store::Filling;

/// What is to be read again.
#[derive(Default)]
pub(super) struct Reload {
    /// Who watches the files.
    pub(super) file_watch: Option<FileWatch>,
    /// When they are to be read.
    pub(super) at: Option<Instant>,
    /// They are being read.
    is_reading: bool,
    /// New settings whose files are to be read.
    pub(super) configuration: Option<Box<Settings>>,
}

impl Reload {
    pub(super) fn is_due(&self) -> bool {
        !self.is_reading && self.at.is_some_and(|at| Instant::now() >= at)
    }

    /// How long it may be waited for.
    pub(super) fn timeout(&self) -> Option<Duration> {
        let at = self.at.filter(|_| !self.is_reading)?;
        Some(at.saturating_duration_since(Instant::now()))
    }
}

impl Node {
    /// Has the files read, of new settings if there are some.
    pub(super) fn read_files(&mut self) {
        self.reload.at = None;
        let (settings, is_configuration) = match self.reload.configuration.take() {
            None => (self.settings.load(), false),
            Some(new) => {
                let mut settings = Settings::clone(&self.settings.load());
                let fixed = settings.fixed_differences(&new);
                if !fixed.is_empty() {
                    warn!("these take a restart, and stay as they were: {}", fixed.join(", "));
                }
                settings.take_changeable(*new);
                self.reload.file_watch = watch_or_tell(watch_files(&settings, &self.inbox));
                (Arc::new(settings), true)
            }
        };
        self.reload.is_reading = true;
        self.service_manager.tell_reloading();
        let policies =
            (settings.policies != self.settings.load().policies).then(|| settings.policies.clone());
        self.files.read(Job { settings, is_configuration, policies });
    }

    /// Takes what files say besides names, which have been taken by now, all of it or nothing.
    pub(super) fn take_files(&mut self, FilesRead { job, begin, read }: FilesRead) {
        self.reload.is_reading = false;
        let Job { settings, is_configuration, .. } = job;
        let contents = match read {
            Ok(contents) => contents,
            Err(why) => {
                error!(
                    "{}: {why}",
                    if is_configuration { "nothing was changed" } else { "names not changed" }
                );
                if is_configuration {
                    self.reload.file_watch = watch_or_tell(watch_files(&self.settings.load(), &self.inbox));
                }
                return ServiceManager::tell_reloaded();
            }
        };
        let store = self.writes.store.clone();
        store.set_filling(Filling::ToBePublished);
        self.writes.has_changed();
        self.zone_keys.replace(contents.zone_keys);
        if let Some(upstreams) = contents.upstreams {
            self.ask_others(upstreams);
        }
        if let Some(secrets) = contents.secrets.filter(|secrets| *secrets != *self.secrets.load()) {
            self.secrets.replace(secrets);
        }
        if contents.ring != self.ring {
            info!("gossip is sealed with the keys as they are in the file now");
            self.cluster.sender.set_ring(contents.ring.clone());
            self.ring = contents.ring;
        }
        if is_configuration {
            self.settings.replace(Settings::clone(&settings));
        }
        let table = self.views.table.clone();
        self.tables.publish_all(move || {
            store.set_filling(Filling::No);
            let names = table.load().names();
            if is_configuration {
                info!("configuration read again: {names} names");
            } else {
                let took_ms = begin.elapsed().as_secs_f64() * 1e3;
                info!("names read again: {names} names, in {took_ms:.1} ms");
            }
            ServiceManager::tell_reloaded();
        });
    }
}
