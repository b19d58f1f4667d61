//! What of this node's own registrations is checked, and what is found.
//!
//! Runs on the owner of the registrations; the checks themselves are made by the `health` thread, which is there when there is one to
//! make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dashmap::DashMap;
use tracing::{error, info};

use super::inbox::{ControlSender, Outcome};
use super::writes::{Writes, each_own};
use crate::health::monitor::{Found, Watch};
use crate::health::runner::Runner;
use crate::policy::select::Health;
use crate::store::{Record, State};

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

    fn watch(&mut self, key: &[u8], watch: Watch, new: bool) {
        if self.runner.is_none() {
            let sender = self.sender.clone();
            let found = move |found| {
                // It can only fail when the owner is gone, and the registrations with it.
                sender.outcome(Outcome::Health(found));
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

impl Writes {
    /// Has all that is registered checked, where that is asked for.
    pub(super) fn check_all(&mut self) {
        let mut checked = Vec::new();
        each_own(&self.store, |record| {
            if watch(record).is_some() {
                checked.push(record.bytes.to_vec());
            }
        });
        checked.iter().for_each(|bytes| self.checks.registered(&Record::known(bytes), false));
    }

    /// Takes what a check has found.
    pub(super) fn take_check_result(&mut self, found: Found) {
        let Found { key, state, told } = found;
        let change = {
            let mut store = self.store.write();
            let Some(record) = store.own(&key) else { return };
            let before = record.attributes().map(|attributes| attributes.state.health);
            let change = record.address().filter(|_| before != Ok(state.health));
            let change = change.map(|address| (address, record.to_key().name));
            store.set_state(&key, state);
            change
        };
        if let Some((address, name)) = change {
            match state.health {
                Health::Down => info!("{address} of {name} is down: {told}"),
                Health::Up => info!("{address} of {name} is up"),
                Health::Unknown => {}
            }
        }
        self.checks.results.insert(key, told);
        self.has_changed();
    }

    /// Notes how the addresses of an instance are, by the word of whoever runs it. Those that are checked are left to that. Returns
    /// how many they are.
    pub(super) fn report(&mut self, instance: &str, health: Health) -> usize {
        let mut keys = Vec::new();
        each_own(&self.store, |record| {
            if record.instance() == instance {
                keys.push(record.key.to_vec());
            }
        });
        self.set_health(keys, health)
    }

    /// The same of the registrations with these keys.
    pub(super) fn set_health(&mut self, keys: impl IntoIterator<Item = Vec<u8>>, health: Health) -> usize {
        let mut count = 0;
        for key in keys {
            let mut store = self.store.write();
            let Some(record) = store.own(&key).filter(|record| record.address().is_some()) else { continue };
            let Ok(attributes) = record.attributes() else { continue };
            if attributes.check.is_none() {
                store.set_state(&key, State { health, ramp: attributes.state.ramp });
                count += 1;
            }
        }
        self.has_changed();
        count
    }
}

/// What there is to be watched of a registration.
fn watch(record: &Record<'_>) -> Option<Watch> {
    let address = record.address().filter(|_| record.has_attributes())?;
    let attributes = record.attributes().ok()?;
    let slow_start = attributes.slow_start_s.map(|s| Duration::from_secs(s.into()));
    // It was checked when it was registered; what a later release may have asked for, this one cannot do.
    let check = attributes.check.and_then(|check| check.parse().ok()).map(Arc::new);
    (check.is_some() || slow_start.is_some()).then_some(Watch { address, check, slow_start })
}
