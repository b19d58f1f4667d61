//! Why a name has the answers that it has.
//!
//! Runs on the thread that asks.

use std::collections::{BTreeMap, HashSet};
use std::time::Instant;

use super::views::Views;
use crate::answer::external::{self, OutOfZone};
use crate::api::external::Outside;
use crate::api::rdata_text;
use crate::api::request::{Explained, Explanation};
use crate::policy::select::{AddressVerdict, Health, RAMP_STEPS, select};
use crate::policy::{Order, Policy};
use crate::resolver::question::Question;
use crate::resolver::special_use::reason;
use crate::store::{NodeId, Record, Store, Target};
use crate::wire::name::{Name, QueryName};
use crate::wire::record::{FIXED_LEN, rtype};

/// The registrations of one name, with their origins and whether these are up.
type NameRecords<'a> = [(NodeId, bool, Record<'a>)];

impl Views {
    fn explain_own(&self, name: &Name) -> Explanation {
        let lower = name.to_lower_case();
        let store = self.store.read();
        let policy = self.rules.load().of(lower.as_wire());
        let numbered = store.named_numbered(lower.as_wire());
        let (found, numbers): (Vec<_>, Vec<_>) =
            numbered.map(|(origin, up, number, record)| ((origin, up, record), number)).unzip();
        let (verdicts, panic) = verdicts(&policy, &store, &found);
        let totals = totals(&verdicts);
        // Other orders depend on who asks, or on no weight at all.
        let share = |rtype: u16, weight: u32| {
            let (weights, count) = totals.get(&rtype)?;
            match policy.order {
                Order::Weighted | Order::Rfc6724 | Order::Hash => Some(f64::from(weight) / weights),
                Order::Shuffle | Order::Rotate => Some(1.0 / count),
                Order::Fixed | Order::Near => None,
            }
        };
        let (names, ages, now) = (self.node_names(), self.ages(), Instant::now());
        let shown = self.shown_of_too_many(lower.as_wire());
        let is_left_out = |record: &Record<'_>| {
            shown.as_ref().is_some_and(|shown| !shown.contains(&(record.rtype, record.rdata.into())))
        };
        let explain = |((origin, up, record), number): (&(NodeId, bool, Record<'_>), &u64)| {
            let attributes = record.attributes().unwrap_or_default();
            let verdict = verdicts.get(&(record.rtype, record.rdata));
            let own = store.statements().standing(*origin, record);
            let why_not = if *up {
                match verdict {
                    Some(Ok(_)) if own.drained => {
                        Some("drained; its address is registered once more".to_owned())
                    }
                    Some(Ok(_)) | None if is_left_out(record) => {
                        Some("its name has more records than an answer can".into())
                    }
                    Some(Ok(_)) | None => None,
                    Some(Err(why)) if own.drained => Some(drained_by(&store, *origin, record, why.told())),
                    Some(Err(why)) => Some(why.told().to_owned()),
                }
            } else {
                Some("its node is down".into())
            };
            let is_address = record.address().is_some();
            let weight = verdict.and_then(|verdict| verdict.ok()).filter(|_| why_not.is_none());
            Explained {
                rtype: rdata_text::type_name(record.rtype),
                data: rdata_text::show(record.rtype, record.rdata),
                in_answers: why_not.is_none(),
                why_not,
                share: weight.and_then(|weight| share(record.rtype, weight)),
                instance: record.instance().into(),
                node: names.get(origin).cloned().unwrap_or_default(),
                node_id: origin.to_string(),
                weight: is_address.then_some(own.weight),
                ramp: attributes.state.ramp.map(|ramp| f64::from(ramp) / f64::from(RAMP_STEPS)),
                tier: own.tier,
                health: health_text(own.health).into(),
                check: attributes.check.map(Into::into),
                found: self.check_result(record.key),
                ttl_s: attributes.ttl_s,
                age_s: Some(ages.of(*origin, *number, now).as_secs_f64()),
            }
        };
        let records: Vec<_> = found.iter().zip(&numbers).map(explain).collect();
        Explanation { name: name.to_string(), policy: policy.to_string(), panic, records, outside: None }
    }

    /// Which records of a name are in answers, if it has more than can be.
    fn shown_of_too_many(&self, name: &[u8]) -> Option<HashSet<(u16, Box<[u8]>)>> {
        if !self.crowded.load().has(name) {
            return None;
        }
        let (table, name) = (self.table.load(), Name::from_wire(name)?);
        let sets = table.get(&name).into_iter().flat_map(|entry| entry.answerable());
        Some(
            sets.flat_map(|set| {
                set.each().filter_map(move |it| Some((set.rtype, it.get(FIXED_LEN..)?.into())))
            })
            .collect(),
        )
    }

    /// Explains a name; of one that is in none of the domains, what is done about it.
    pub(super) fn explain_any(&self, name: &Name) -> Explanation {
        if self.is_authoritative(name) {
            return self.explain_own(name);
        }
        let outside = Some(self.outside(&name.to_lower_case()));
        Explanation { name: name.to_string(), outside, ..Explanation::default() }
    }

    /// What the workers do about a name, in lower case, that is in none of the domains.
    fn outside(&self, name: &Name) -> Outside {
        let by = |by: &str| Outside { by: by.into(), ..Outside::default() };
        let wire = name.as_wire();
        let table = self.table.load();
        let mut queried = QueryName::default();
        if queried.fold_wire(wire, table.seed()).is_ok() && table.lookup(&queried).is_some() {
            return by("memory");
        }
        let (name, name_hash) = (queried.as_wire(), queried.hash());
        let question =
            Question { name, name_hash, qtype: rtype::A, dnssec_ok: false, checking_disabled: false };
        let routes = self.routes.load();
        let route = self.settings.load().resolver.is_some().then(|| routes.route(wire));
        match external::decide(&table, &queried, &question, route) {
            OutOfZone::Special(_) => Outside { document: reason(wire).map(Into::into), ..by("reserved") },
            OutOfZone::SearchPath => by("single_label"),
            OutOfZone::Refused => by("refused"),
            OutOfZone::Upstream(_) => {
                let forwards = routes.upstreams.forwards();
                let forward = routes.upstreams.forward_of(wire).and_then(|number| forwards.get(number));
                let upstreams = forward.map_or(routes.upstreams.general(), |forward| &forward.upstreams);
                Outside {
                    upstreams: upstreams.iter().map(ToString::to_string).collect(),
                    domain: forward.map(|forward| forward.domain.to_string()),
                    ..by("forwarded")
                }
            }
        }
    }
}

/// What holds of each address of a name, as when its answers were laid out; and whether health and tier do not count.
fn verdicts<'a>(
    policy: &Policy,
    store: &Store,
    found: &NameRecords<'a>,
) -> (BTreeMap<(u16, &'a [u8]), AddressVerdict>, bool) {
    let statements = store.statements();
    let addresses = found.iter().filter(|(_, up, record)| *up && record.address().is_some());
    let mut addresses: Vec<_> = addresses
        .map(|(origin, _, record)| ((record.rtype, record.rdata), statements.standing(*origin, record)))
        .collect();
    addresses.sort_unstable_by_key(|(key, _)| *key);
    let (mut verdicts, mut panic) = (BTreeMap::new(), false);
    for family in addresses.chunk_by(|((a, _), _), ((b, _), _)| a == b) {
        panic |= select(policy, family.iter().copied(), |key, verdict| {
            verdicts.insert(key, verdict);
        });
    }
    (verdicts, panic)
}

/// The sum of the weights, and the number of the addresses, that are in answers, by type. They are added up once: the
/// store is held meanwhile.
fn totals(verdicts: &BTreeMap<(u16, &[u8]), AddressVerdict>) -> BTreeMap<u16, (f64, f64)> {
    let mut totals: BTreeMap<u16, (f64, f64)> = BTreeMap::new();
    for ((rtype, _), verdict) in verdicts {
        if let Ok(weight) = *verdict {
            let (weights, count) = totals.entry(*rtype).or_default();
            (*weights, *count) = (*weights + f64::from(weight), *count + 1.0);
        }
    }
    totals
}

fn health_text(health: Health) -> &'static str {
    match health {
        Health::Unknown => "unknown",
        Health::Up => "up",
        Health::Down => "down",
    }
}

fn drained_by(store: &Store, origin: NodeId, record: &Record<'_>, otherwise: &str) -> String {
    let statements = store.statements();
    let is_drained = |target: &Target| statements.get(target).is_some();
    let by = match record.address().map(Target::Address) {
        Some(target) if is_drained(&target) => "its address is drained",
        _ if is_drained(&Target::Instance(record.instance().into())) => "its instance is drained",
        _ if is_drained(&Target::Node(origin)) => "its node is drained",
        _ => otherwise,
    };
    by.into()
}
