//! Updates of zones (RFC 2136), planned against what is registered at all nodes.
//!
//! Pure. Runs on the owner of the registrations.

use super::write_plan::WritePlan;
use crate::api::request::{Change, Changed, Prerequisite, Selector, ZoneUpdate, is_reserved};
use crate::store::{NodeId, Record, Store};
use crate::wire::header::rcode;
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Plans an update, or says by a response code why it is not made.
pub(super) fn plan(store: &Store, update: &ZoneUpdate, plan: &mut WritePlan) -> Result<(), u8> {
    update.prerequisites.iter().try_for_each(|it| check(store, &update.zone, it))?;
    for change in &update.changes {
        match change {
            Change::Remove(which) => remove(store, which, plan)?,
            Change::Put(key, attributes) => {
                // An alias stands alone; what comes second is passed over (§3.4.2.2).
                let conflicts = |other: u16| (key.rtype == rtype::CNAME) != (other == rtype::CNAME);
                if plan.visible(store, &key.name).any(|(other, _)| conflicts(other)) {
                    continue;
                }
                plan.put(store, key, attributes, &mut Changed::default());
            }
        }
    }
    Ok(())
}

/// Whether a prerequisite holds (§3.2).
fn check(store: &Store, zone: &Name, prerequisite: &Prerequisite) -> Result<(), u8> {
    let types = |name: &Name| {
        let mut all: Vec<(u16, Box<[u8]>)> = WritePlan::default().visible(store, name).collect();
        // The zone's own records are made by the server.
        if name == zone {
            all.extend([(rtype::SOA, Box::default()), (rtype::NS, Box::default())]);
        }
        all
    };
    let has = |name: &Name, rtype: u16| types(name).iter().any(|(it, _)| *it == rtype);
    let holds = |holds: bool, otherwise: u8| if holds { Ok(()) } else { Err(otherwise) };
    match prerequisite {
        Prerequisite::NameInUse(name) => holds(!types(name).is_empty(), rcode::NXDOMAIN),
        Prerequisite::NameNotInUse(name) => holds(types(name).is_empty(), rcode::YXDOMAIN),
        Prerequisite::SetExists(name, rtype) => holds(has(name, *rtype), rcode::NXRRSET),
        Prerequisite::NoSet(name, rtype) => holds(!has(name, *rtype), rcode::YXRRSET),
        Prerequisite::SetIs(name, rtype, set) => {
            let sorted = |mut all: Vec<Box<[u8]>>| {
                all.sort();
                all.dedup();
                all
            };
            let there = types(name).into_iter().filter(|(it, _)| it == rtype).map(|(_, rdata)| rdata);
            holds(sorted(there.collect()) == sorted(set.clone()), rcode::NXRRSET)
        }
    }
}

/// Plans a removal. What others have registered, or this node has from files or containers, cannot be removed here: to
/// pass over that would tell a success that is none.
fn remove(store: &Store, which: &Selector, plan: &mut WritePlan) -> Result<(), u8> {
    let Some(name) = &which.name else { return Err(rcode::FORMERR) };
    let cannot = |origin, record: &Record<'_>| origin != store.me() || is_reserved(record.instance());
    let is_elsewhere = |(origin, up, record): (NodeId, bool, Record<'_>)| {
        up && which.matches(&record) && cannot(origin, &record)
    };
    if store.named(name.as_wire()).any(is_elsewhere) {
        return Err(rcode::REFUSED);
    }
    let gone = plan.named(store, name).filter(|record| which.matches(record));
    let gone: Vec<_> = gone.map(|record| record.key.to_vec()).collect();
    gone.iter().for_each(|key| plan.remove(key, &mut Changed::default()));
    Ok(())
}
