//! What of this node's own registrations is checked, and what is found.
//!
//! Runs on the owner of the registrations; the checks themselves are made by the `health` thread, which is there when
//! there is one to make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tracing::error;

use super::inbox::{ControlSender, Observation};
use crate::health::monitor::Watch;
use crate::health::runner::Runner;
use crate::store::Record;

/// Who checks this node's registrations.
pub(super) struct Checks {
    /// If there is anything to check.
    runner: Option<Runner>,
    check_dir: Option<PathBuf>,
    sender: ControlSender,
    /// What was found out last of each, for people, by their keys.
    results: Arc<DashMap<Box<[u8]>, String>>,
}

impl Checks {
    pub(super) fn new(check_dir: Option<PathBuf>, sender: ControlSender) -> Self {
        Self { runner: None, check_dir, sender, results: Arc::default() }
    }

    /// What was found out last, for whoever wants to read it.
    pub(super) fn results(&self) -> Arc<DashMap<Box<[u8]>, String>> {
        Arc::clone(&self.results)
    }

    /// Has what was registered checked, if that is asked for, and otherwise no longer.
    pub(super) fn registered(&mut self, record: &Record<'_>, new: bool) {
        match watch(record) {
            Some(watch) => self.watch(record.key, watch, new),
            None => self.removed(record.key),
        }
    }

    /// Notes what was found out of what has this key.
    pub(super) fn note(&self, key: Box<[u8]>, told: String) {
        self.results.insert(key, told);
    }

    fn watch(&mut self, key: &[u8], watch: Watch, new: bool) {
        if self.runner.is_none() {
            let sender = self.sender.clone();
            let found = move |found| {
                // It can only fail when the owner is gone, and the registrations with it.
                sender.outcome(Observation::Health(found));
            };
            match Runner::start(self.check_dir.clone(), found) {
                Ok(runner) => self.runner = Some(runner),
                Err(why) => return error!("health checks are not made: {why}"),
            }
        }
        if let Some(runner) = &self.runner {
            runner.watch(key, watch, new);
        }
    }

    /// What has this key is gone, and so is what was known of it.
    pub(super) fn removed(&mut self, key: &[u8]) {
        if let Some(runner) = &self.runner {
            self.results.remove(key);
            runner.forget(key);
        }
    }
}

/// What there is to be watched of a registration.
pub(super) fn watch(record: &Record<'_>) -> Option<Watch> {
    let address = record.address().filter(|_| record.has_attributes())?;
    let attributes = record.attributes().ok()?;
    let slow_start = attributes.slow_start_s.map(|s| Duration::from_secs(s.into()));
    // It was checked when it was registered; what a later release may have asked for, this one cannot do.
    let check = attributes.check.and_then(|check| check.parse().ok()).map(Arc::new);
    (check.is_some() || slow_start.is_some()).then_some(Watch { address, check, slow_start })
}
