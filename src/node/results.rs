//! What checks and containers bring about: results of others, applied to what this node has registered.
//!
//! Runs on the owner of the registrations.

use std::sync::{Mutex, PoisonError};

use tracing::info;

use super::containers::Containers;
use super::health::watch;
use super::op::Op;
use super::writes::{Writes, each_own};
use crate::health::monitor::HealthChange;
use crate::policy::select::Health;
use crate::sources::docker::ContainerUpdate;
use crate::store::{ObservedState, Record};

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
    pub(super) fn take_check_result(&mut self, found: HealthChange) {
        let HealthChange { key, state, told } = found;
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
        self.checks.note(key, told);
        self.has_changed();
    }

    /// Notes how the addresses of an instance are, by the word of whoever runs it. Those that are checked are left to
    /// that. Returns how many they are.
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
    fn set_health(&mut self, keys: impl IntoIterator<Item = Vec<u8>>, health: Health) -> usize {
        let mut count = 0;
        for key in keys {
            let mut store = self.store.write();
            let Some(record) = store.own(&key).filter(|record| record.address().is_some()) else { continue };
            let Ok(attributes) = record.attributes() else { continue };
            if attributes.check.is_none() {
                store.set_state(&key, ObservedState { health, ramp: attributes.state.ramp });
                count += 1;
            }
        }
        self.has_changed();
        count
    }

    /// Takes what has changed of a container.
    pub(super) fn take_container(&mut self, update: ContainerUpdate, containers: &Mutex<Containers>) {
        let ContainerUpdate { remove, put, health, container, complete } = update;
        let gone = remove.iter().map(Op::remove);
        let new = put.iter().map(|(key, attributes)| Op::put(key, attributes));
        let mut ops: Vec<_> = gone.chain(new).collect();
        ops.sort_by(|a, b| a.name().cmp(b.name()));
        self.apply(&ops.iter().map(Op::as_ref).collect::<Vec<_>>());
        if let Some((keys, health)) = health {
            let keys = keys.iter().map(|key| Op::remove(key).key().to_vec());
            self.set_health(keys, health);
        }
        containers.lock().unwrap_or_else(PoisonError::into_inner).note(container, complete);
    }
}
