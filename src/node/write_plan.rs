//! What a batch of requests makes of own registrations, before any of it is done.
//!
//! Pure. Runs on the owner of the registrations.

use std::collections::{BTreeSet, HashMap};

use super::op::Op;
use crate::api::request::Changed;
use crate::store::{Attributes, Key, Record, Store};
use crate::wire::name::Name;

/// What is to be done to own registrations, by their keys; what is not in it stays as it is in the store.
#[derive(Default)]
pub(super) struct WritePlan {
    after: HashMap<Box<[u8]>, Op>,
    /// Keys of what has been planned to be registered, by their names: a name is looked up for each of its records.
    puts: HashMap<Box<[u8]>, BTreeSet<Box<[u8]>>>,
}

impl WritePlan {
    /// Registrations that it is about.
    pub(super) fn len(&self) -> usize {
        self.after.len()
    }

    /// Has this registered.
    pub(super) fn put(&mut self, store: &Store, key: &Key, attributes: &Attributes, told: &mut Changed) {
        let op = Op::put(key, attributes);
        let Op::Put { bytes, .. } = &op else { return };
        let there = store.has_own(bytes);
        match self.after.get(op.key()) {
            Some(Op::Put { bytes: before, .. }) if before == bytes => return told.unchanged += 1,
            Some(Op::Remove { .. }) if store.has_own_key(op.key()) => {
                // It was removed by the same request, which now puts something in its place.
                told.removed -= 1;
                *if there { &mut told.unchanged } else { &mut told.added } += 1;
            }
            None if there => return told.unchanged += 1,
            _ => told.added += 1,
        }
        if there {
            self.after.remove(op.key());
        } else {
            self.puts.entry(op.name().into()).or_default().insert(op.key().into());
            self.after.insert(op.key().into(), op);
        }
    }

    /// Has what has this key removed.
    pub(super) fn remove(&mut self, key: &[u8], told: &mut Changed) {
        told.removed += 1;
        self.after.insert(key.into(), Op::Remove { key: key.into() });
    }

    /// Own registrations of a name as they are after the plan.
    pub(super) fn named<'a>(&'a self, store: &'a Store, name: &'a Name) -> impl Iterator<Item = Record<'a>> {
        let own = store.named(name.as_wire()).filter(|(origin, ..)| *origin == store.me());
        let stored = own.map(|(_, _, record)| record).filter(|record| !self.after.contains_key(record.key));
        let planned = self.puts.get(name.as_wire()).into_iter().flatten();
        stored.chain(planned.filter_map(|key| put_of(self.after.get(key)?)))
    }

    /// Types and data of the records that a name has after the plan, whoever has registered them.
    pub(super) fn visible<'a>(
        &'a self,
        store: &'a Store,
        name: &'a Name,
    ) -> impl Iterator<Item = (u16, Box<[u8]>)> + use<'a> {
        let others = store.named(name.as_wire()).filter(|(origin, up, _)| *origin != store.me() && *up);
        let records = others.map(|(_, _, record)| record).chain(self.named(store, name));
        records.map(|record| (record.rtype, record.rdata.into()))
    }

    /// What is to be registered, of what the store does not have so.
    pub(super) fn planned(&self) -> impl Iterator<Item = Record<'_>> {
        self.after.values().filter_map(put_of)
    }

    /// Whether something is to be done about what has this key.
    pub(super) fn concerns(&self, key: &[u8]) -> bool {
        self.after.contains_key(key)
    }

    /// What there is to be done, name by name.
    pub(super) fn into_ops(self) -> Vec<Op> {
        let mut ops: Vec<_> = self.after.into_values().collect();
        ops.sort_by(|a, b| a.name().cmp(b.name()));
        ops
    }
}

/// The registration that an operation makes.
fn put_of(op: &Op) -> Option<Record<'_>> {
    match op {
        Op::Put { bytes, .. } => Some(Record::known(bytes)),
        Op::Remove { .. } => None,
    }
}
