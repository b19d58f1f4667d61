//! What is said to the whole cluster, rather than registered by one node: drains, and policies.
//!
//! Pure. Runs on whichever thread has the lock. A statement is a registration like others, of the node where it was
//! made, so it travels, lasts and is made durable as they do. Its name is the root and its type 0, which no record has.
//! Any node may say something else about the same target: each statement has a count, one more than the highest that
//! was known, and the highest counts (of equal ones that of the highest node id). So the last word holds wherever it
//! was said, without clocks; and it holds, too, while the node that said it is down.

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;

use super::Store;
use super::codec::{Malformed, Reader, put_varint};
use super::log::Role;
use super::node_id::NodeId;
use super::record::{Attributes, Key, MAX_INSTANCE_LEN, Record, encode};
use crate::limits::MAX_STATEMENT_COUNT;
use crate::policy::rules::Scope;
use crate::policy::select::Standing;
use crate::wire::name::Name;

/// The type of statements.
pub(super) const STATEMENT: u16 = 0;

/// The instance that they belong to.
pub const STATEMENT_INSTANCE: &str = "cluster";

/// What a statement is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Whether what leads to this address is drained.
    Address(IpAddr),
    /// The same of all that belongs to an instance, on whatever node.
    Instance(Box<str>),
    /// The same of all that a node has registered.
    Node(NodeId),
    /// Which policy names have.
    Policy(Scope),
}

mod kind {
    pub(super) const ADDRESS: u8 = 1;
    pub(super) const INSTANCE: u8 = 2;
    pub(super) const NODE: u8 = 3;
    pub(super) const DEFAULT_POLICY: u8 = 4;
    pub(super) const DOMAIN_POLICY: u8 = 5;
    pub(super) const NAME_POLICY: u8 = 6;
}

impl Target {
    fn encode(&self) -> Vec<u8> {
        let (kind, bytes) = match self {
            Self::Address(IpAddr::V4(v4)) => (kind::ADDRESS, v4.octets().to_vec()),
            Self::Address(IpAddr::V6(v6)) => (kind::ADDRESS, v6.octets().to_vec()),
            Self::Instance(instance) => (kind::INSTANCE, instance.as_bytes().to_vec()),
            Self::Node(node) => (kind::NODE, node.0.to_vec()),
            Self::Policy(Scope::Default) => (kind::DEFAULT_POLICY, Vec::new()),
            Self::Policy(Scope::Domain(domain)) => (kind::DOMAIN_POLICY, domain.to_vec()),
            Self::Policy(Scope::Name(name)) => (kind::NAME_POLICY, name.to_vec()),
        };
        [&[kind], &bytes[..]].concat()
    }

    /// What a later release may say is about nothing that we know.
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let (&kind, bytes) = bytes.split_first().ok_or(Malformed)?;
        let name = || Name::from_wire(bytes).map(|name| name.as_wire().into()).ok_or(Malformed);
        Ok(match kind {
            kind::ADDRESS => Self::Address(match bytes.len() {
                4 => <[u8; 4]>::try_from(bytes).map_err(|_| Malformed)?.into(),
                _ => <[u8; 16]>::try_from(bytes).map_err(|_| Malformed)?.into(),
            }),
            kind::INSTANCE if bytes.len() <= MAX_INSTANCE_LEN => {
                Self::Instance(str::from_utf8(bytes).map_err(|_| Malformed)?.into())
            }
            kind::NODE => Self::Node(NodeId(bytes.try_into().map_err(|_| Malformed)?)),
            kind::DEFAULT_POLICY if bytes.is_empty() => Self::Policy(Scope::Default),
            kind::DOMAIN_POLICY => Self::Policy(Scope::Domain(name()?)),
            kind::NAME_POLICY => Self::Policy(Scope::Name(name()?)),
            _ => return Err(Malformed),
        })
    }
}

/// One node's word on a target.
struct Word<'a> {
    count: u64,
    origin: NodeId,
    /// Empty if it takes back what was said.
    value: &'a [u8],
}

/// What holds, of all that has been said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Statements {
    said: BTreeMap<Target, Box<[u8]>>,
    /// The highest count of each target, also of those that nothing holds of.
    counts: BTreeMap<Target, u64>,
    drained_addresses: HashSet<IpAddr>,
    drained_instances: HashSet<Box<str>>,
    drained_nodes: HashSet<NodeId>,
}

impl Statements {
    /// Reads the statements among `records`, with their origins.
    pub(super) fn read<'a>(records: impl Iterator<Item = (NodeId, Record<'a>)>) -> Self {
        let mut words: BTreeMap<Target, Word<'_>> = BTreeMap::new();
        for (origin, record) in records.filter(|(_, record)| record.rtype == STATEMENT) {
            let Ok(target) = Target::decode(record.rdata) else { continue };
            let Some(mut reader) = record.value().map(Reader) else { continue };
            let Some(count) = reader.varint().ok().filter(|count| *count < MAX_STATEMENT_COUNT) else {
                continue;
            };
            let word = Word { count, origin, value: reader.0 };
            let before = words.get(&target);
            if before.is_none_or(|before| (before.count, before.origin) < (count, origin)) {
                words.insert(target, word);
            }
        }
        let mut statements = Self::default();
        for (target, Word { count, value, .. }) in words {
            statements.counts.insert(target.clone(), count);
            if value.is_empty() {
                continue;
            }
            match &target {
                Target::Address(address) => drop(statements.drained_addresses.insert(*address)),
                Target::Instance(instance) => drop(statements.drained_instances.insert(instance.clone())),
                Target::Node(node) => drop(statements.drained_nodes.insert(*node)),
                Target::Policy(_) => {}
            }
            statements.said.insert(target, value.into());
        }
        statements
    }

    /// All that holds.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &[u8])> {
        self.said.iter().map(|(target, value)| (target, &**value))
    }

    /// What holds of `target`.
    #[must_use]
    pub fn get(&self, target: &Target) -> Option<&[u8]> {
        self.said.get(target).map(|value| &**value)
    }

    /// Whether what `record`, of `origin`, leads to is drained.
    fn drains(&self, origin: NodeId, record: &Record<'_>) -> bool {
        !self.said.is_empty()
            && (self.drained_nodes.contains(&origin)
                || self.drained_instances.contains(record.instance())
                || record.address().is_some_and(|address| self.drained_addresses.contains(&address)))
    }

    /// How what `record`, of `origin`, leads to stands.
    #[must_use]
    pub fn standing(&self, origin: NodeId, record: &Record<'_>) -> Standing {
        Standing { drained: self.drains(origin, record), ..record.standing() }
    }

    /// A statement that, from the node where it is registered, takes the place of what holds of `target`: a value, or
    /// that nothing does. As the bytes of a registration.
    #[must_use]
    pub fn say(&self, target: &Target, value: Option<&[u8]>) -> Box<[u8]> {
        // At the limit the higher node id has the last word, as of equal counts.
        let count = (self.counts.get(target).copied().unwrap_or_default() + 1).min(MAX_STATEMENT_COUNT - 1);
        let mut said = Vec::new();
        put_varint(&mut said, count);
        said.extend_from_slice(value.unwrap_or_default());
        let key = Key {
            instance: STATEMENT_INSTANCE.into(),
            name: Name::root(),
            rtype: STATEMENT,
            rdata: target.encode().into(),
        };
        encode(&key, &Attributes { value: Some(said.into()), ..Attributes::default() })
    }

    /// What holds in one of the two and not, or not so, in the other.
    pub(super) fn difference<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Target> {
        let lacking = |a: &'a Self, b: &'a Self| {
            a.said
                .iter()
                .filter(|(target, value)| b.said.get(target) != Some(value))
                .map(|(target, _)| target)
        };
        lacking(self, other).chain(lacking(other, self))
    }

    /// Whether the answers of the name of `record`, of `origin`, depend on what is said of `target`.
    #[must_use]
    pub fn concerns(target: &Target, origin: NodeId, record: &Record<'_>) -> bool {
        let has_address = || record.address().is_some();
        match target {
            Target::Address(address) => record.address() == Some(*address),
            Target::Instance(instance) => record.instance() == &**instance && has_address(),
            Target::Node(node) => origin == *node && has_address(),
            Target::Policy(Scope::Default) => has_address(),
            Target::Policy(Scope::Name(name)) => record.name == &**name,
            Target::Policy(Scope::Domain(domain)) => record.name.ends_with(domain) && has_address(),
        }
    }
}

impl Store {
    /// What holds of all that has been said, as of when changed names were last taken.
    #[must_use]
    pub fn statements(&self) -> &Statements {
        &self.statements
    }

    /// How what `record`, of the log at `place`, leads to stands.
    #[must_use]
    pub fn standing(&self, place: u16, record: &Record<'_>) -> Standing {
        let log = self.logs[usize::from(place)].as_ref();
        log.map_or_else(|| record.standing(), |log| self.statements.standing(log.origin, record))
    }

    /// Finds what holds of all that has been said, and has the names noted whose answers are others by that.
    pub(super) fn refresh_statements(&mut self) {
        let root = [0];
        let places = self.index.by_name(&root);
        let mut count = 0;
        let now = Statements::read(places.filter_map(|place| {
            count += 1;
            let log = self.logs[usize::from(place.log())].as_ref().filter(|log| log.role == Role::Current)?;
            let change = log.changes.get(place.number()).filter(|change| change.is_live())?;
            Some((log.origin, change.record()))
        }));
        self.work.add(count);
        let before = std::mem::replace(&mut self.statements, now);
        let targets: Vec<_> = before.difference(&self.statements).cloned().collect();
        self.note_targets(&targets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: [u8; 4] = [10, 0, 0, 1];

    fn target() -> Target {
        Target::Address(ADDRESS.into())
    }

    fn node(id: u8) -> Store {
        let mut store = Store::new(NodeId([id; 16]), 1);
        let key = Key::address(&format!("c{id}"), &Name::from_text("web.example").unwrap(), ADDRESS.into());
        store.register(&key, &Attributes::default()).unwrap();
        store
    }

    /// Says something at one node, and tells the other.
    fn say(at: &mut Store, other: &mut Store, target: &Target, value: Option<&[u8]>) {
        let bytes = at.statements().say(target, value);
        at.register_encoded(&bytes);
        other.apply(&at.delta(at.me(), 0, usize::MAX).unwrap());
        for store in [at, other] {
            store.settle();
            store.take_changed();
        }
    }

    fn drained(store: &Store) -> Vec<bool> {
        let name = Name::from_text("web.example").unwrap();
        store.answers(name.as_wire()).map(|answer| answer.standing.drained).collect()
    }

    #[test]
    fn a_target_comes_back_from_its_bytes() {
        let name: Box<[u8]> = Name::from_text("web.example").unwrap().as_wire().into();
        for target in [
            target(),
            Target::Address("2001:db8::1".parse().unwrap()),
            Target::Instance("c1".into()),
            Target::Node(NodeId([7; 16])),
            Target::Policy(Scope::Default),
            Target::Policy(Scope::Domain(name.clone())),
            Target::Policy(Scope::Name(name)),
        ] {
            assert_eq!(Target::decode(&target.encode()), Ok(target));
        }
        for wrong in [&b""[..], b"\x01\x01", b"\x03abc", b"\x04x", b"\x05\x03ab", b"\x09"] {
            assert_eq!(Target::decode(wrong), Err(Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn the_last_word_holds_whoever_had_it() {
        let (mut a, mut b) = (node(1), node(2));
        b.apply(&a.delta(a.me(), 0, usize::MAX).unwrap());
        a.apply(&b.delta(b.me(), 0, usize::MAX).unwrap());
        say(&mut a, &mut b, &target(), Some(b"1"));
        assert_eq!((drained(&a), drained(&b)), (vec![true; 2], vec![true; 2]));
        say(&mut b, &mut a, &target(), None);
        assert_eq!((drained(&a), drained(&b)), (vec![false; 2], vec![false; 2]));
        say(&mut a, &mut b, &target(), Some(b"1"));
        // It was said by a node that is down now: it holds, and can be taken back.
        b.set_up(a.me(), false);
        b.take_changed();
        assert_eq!(drained(&b), [true]);
        say(&mut b, &mut a, &target(), None);
        assert_eq!((drained(&a), drained(&b)), (vec![false; 2], vec![false]));
    }

    #[test]
    fn names_change_when_what_is_said_of_them_does() {
        let (mut a, mut b) = (node(1), node(2));
        a.take_changed();
        b.apply(&a.delta(a.me(), 0, usize::MAX).unwrap());
        b.take_changed();
        let web = Name::from_text("web.example").unwrap();
        for (target, concerned) in [
            (target(), true),
            (Target::Address([10, 0, 0, 2].into()), false),
            (Target::Instance("c1".into()), true),
            (Target::Instance("c3".into()), false),
            (Target::Node(a.me()), true),
            (Target::Policy(Scope::Name(web.as_wire().into())), true),
            (Target::Policy(Scope::Domain((*b"\x07example\0").into())), true),
            (Target::Policy(Scope::Domain((*b"\x05other\0").into())), false),
            (Target::Policy(Scope::Default), true),
        ] {
            for value in [Some(&b"1"[..]), None] {
                let bytes = a.statements().say(&target, value);
                a.register_encoded(&bytes);
                b.apply(&a.delta(a.me(), 0, usize::MAX).unwrap());
                for store in [&mut a, &mut b] {
                    assert!(!store.directives_settled());
                    store.settle();
                    assert!(store.directives_settled());
                    let changed = store.take_changed();
                    assert_eq!(changed.contains(web.as_wire()), concerned, "{target:?}");
                    assert_eq!(changed.len(), usize::from(concerned));
                    assert_eq!(store.statements().get(&target), value);
                }
            }
        }
        assert_eq!(a.answers(b"\0").count(), 0, "statements are no answers");
        assert!(a.all().chain(b.all()).all(|(_, _, record)| record.rtype != STATEMENT));
        assert_eq!(drained(&b), [false; 2]);
        // With the node that said it, what it said is forgotten.
        let bytes = a.statements().say(&target(), Some(b"1"));
        a.register_encoded(&bytes);
        b.apply(&a.delta(a.me(), 0, usize::MAX).unwrap());
        b.take_changed();
        b.forget(a.me());
        b.take_changed();
        assert_eq!(drained(&b), [false]);
    }
}
