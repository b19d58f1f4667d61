//! What is said to the whole cluster: drains and policies.
//!
//! Runs on the control thread.

use std::collections::BTreeSet;

use tracing::warn;

use super::Node;
use crate::policy::rules::{Rules, Scope};
use crate::registry::request::{Stated, Statement};
use crate::store::{Statements, Target};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Names without an address that are told at most.
const MAX_EMPTIED: usize = 100;

impl Node {
    /// Makes the answers of all names by what holds now: what the cluster was told, and else what this node was.
    pub(super) fn apply_policies(&mut self) {
        let mut rules = Rules::default();
        for (scope, policy) in &self.settings.policies {
            rules.set(scope, *policy);
        }
        for (target, value) in self.cluster.engine().store().read().statements().iter() {
            let Target::Policy(scope) = target else { continue };
            match str::from_utf8(value).ok().and_then(|text| text.parse().ok()) {
                Some(policy) => rules.set(scope, policy),
                None => warn!(
                    "another node has said a policy that this release does not know: {}",
                    String::from_utf8_lossy(value)
                ),
            }
        }
        self.publisher.set_rules(rules);
    }

    /// What came of saying something about `target`, which is published.
    pub(super) fn stated(&self, target: &Target, changed: bool) -> Stated {
        let store = self.cluster.engine().store().read();
        let mut names = BTreeSet::new();
        let mut ttl_s = 0;
        for (origin, up, record) in store.all() {
            if up && Statements::concerns(target, origin, &record) && record.address().is_some() {
                names.insert(record.name);
                ttl_s = ttl_s.max(record.ttl_s().unwrap_or(self.settings.zone.ttl_s));
            }
        }
        let table = self.table();
        let is_empty = |name: &Name| {
            table.get(name).is_some_and(|entry| {
                let mut addresses = entry.sets().filter(|set| matches!(set.rtype, rtype::A | rtype::AAAA));
                addresses.all(|set| set.count == 0)
            })
        };
        let emptied = if matches!(target, Target::Policy(_)) {
            Vec::new()
        } else {
            let all = names.iter().filter_map(|wire| Name::from_wire(wire));
            all.filter(is_empty).take(MAX_EMPTIED).map(|name| name.to_string()).collect()
        };
        Stated { changed, durable: self.journal.is_durable(), names: names.len(), emptied, ttl_s }
    }

    /// All that has been said and holds.
    pub(super) fn said(&self) -> Vec<Statement> {
        let names = self.node_names();
        let text = |wire: &[u8]| Name::from_wire(wire).map(|name| name.to_string()).unwrap_or_default();
        let tell = |(target, value): (&Target, &[u8])| {
            let (kind, scope, of) = match target {
                Target::Address(address) => ("drain", "address", address.to_string()),
                Target::Instance(instance) => ("drain", "instance", instance.to_string()),
                Target::Node(node) => {
                    ("drain", "node", names.get(node).cloned().unwrap_or_else(|| node.to_string()))
                }
                Target::Policy(Scope::Default) => ("policy", "default", "*".into()),
                Target::Policy(Scope::Domain(domain)) => ("policy", "domain", format!("*.{}", text(domain))),
                Target::Policy(Scope::Name(name)) => ("policy", "name", text(name)),
            };
            let policy = (kind == "policy").then(|| String::from_utf8_lossy(value).into_owned());
            Statement { kind: kind.into(), of, scope: scope.into(), policy }
        };
        self.cluster.engine().store().read().statements().iter().map(tell).collect()
    }
}
