//! What of this node's own registrations is checked, and what is found.
//!
//! Runs on the control thread; the checks themselves are made by the `health` thread, which is there when there is one to make.

use std::sync::Arc;
use std::time::Duration;

use tracing::{error, info};

use super::{Control, Node};
use crate::health::monitor::{Found, Watch};
use crate::health::runner::Runner;
use crate::policy::select::Health;
use crate::store::{Record, State};

impl Node {
    /// Has all that is registered checked, where that is asked for.
    pub(super) fn watch_all(&mut self) {
        let store = self.cluster.engine().store().clone();
        let store = store.read();
        let own = store.registrations();
        let watched: Vec<_> = own.filter_map(|record| Some((record.key.to_vec(), watch(&record)?))).collect();
        for (key, watch) in watched {
            self.watch(&key, watch, false);
        }
    }

    /// Has what was registered with these bytes checked, if that is asked for, and otherwise no longer.
    pub(super) fn watch_registered(&mut self, bytes: &[u8], new: bool) {
        let Ok(record) = Record::read(bytes) else { return };
        match watch(&record) {
            Some(watch) => self.watch(record.key, watch, new),
            None => self.unwatch(record.key),
        }
    }

    fn watch(&mut self, key: &[u8], watch: Watch, new: bool) {
        if self.health.is_none() {
            let sender = self.inbox.sender();
            let tell = move |found| {
                // It can only fail when this thread is gone, and the registrations with it.
                sender.send(Control::Found(found));
            };
            match Runner::start(self.settings.check_dir.clone(), tell) {
                Ok(runner) => self.health = Some(runner),
                Err(why) => return error!("health checks are not made: {why}"),
            }
        }
        if let Some(runner) = &self.health {
            runner.watch(key, watch, new);
        }
    }

    /// What has this key is gone, and so is what was known of it.
    pub(super) fn unwatch(&mut self, key: &[u8]) {
        self.found.remove(key);
        if let Some(runner) = &self.health {
            runner.forget(key);
        }
    }

    /// Takes what a check has found.
    pub(super) fn found(&mut self, found: Found) {
        let Found { key, state, told } = found;
        let store = self.cluster.engine().store().clone();
        let mut store = store.write();
        let Some(record) = store.own(&key) else { return };
        let before = record.attributes().map(|attributes| attributes.state.health);
        let (name, address) = (record.to_key().name, record.address());
        if before != Ok(state.health)
            && let Some(address) = address
        {
            match state.health {
                Health::Down => info!("{address} of {name} is down: {told}"),
                Health::Up => info!("{address} of {name} is up"),
                Health::Unknown => {}
            }
        }
        store.set_state(&key, state);
        self.found.insert(key, told);
    }

    /// Notes how the addresses of an instance are, by the word of whoever runs it. Those that are checked are left to that.
    pub(super) fn report(&mut self, instance: &str, health: Health) -> usize {
        let store = self.cluster.engine().store().clone();
        let mut store = store.write();
        let meant = |record: &Record<'_>| {
            let checked = || record.attributes().is_ok_and(|attributes| attributes.check.is_some());
            record.instance() == instance && record.address().is_some() && !checked()
        };
        let keys: Vec<_> = store.registrations().filter(meant).map(|record| record.key.to_vec()).collect();
        for key in &keys {
            let ramp = store.own(key).and_then(|record| record.attributes().ok()?.state.ramp);
            store.set_state(key, State { health, ramp });
        }
        keys.len()
    }
}

/// What there is to be watched of a registration.
fn watch(record: &Record<'_>) -> Option<Watch> {
    let address = record.address()?;
    let attributes = record.attributes().ok()?;
    let slow_start = attributes.slow_start_s.map(|s| Duration::from_secs(s.into()));
    // It was checked when it was registered; what a later release may have asked for, this one cannot do.
    let check = attributes.check.and_then(|check| check.parse().ok()).map(Arc::new);
    (check.is_some() || slow_start.is_some()).then_some(Watch { address, check, slow_start })
}
