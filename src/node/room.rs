//! Whether what is to be registered fits in answers, beside what is registered already.
//!
//! Pure. Runs on the owner of the registrations. What other nodes register at the same time is not seen: the table
//! leaves out what then is too much ([`table::Crowded`](crate::table::Crowded)).

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::write_plan::WritePlan;
use crate::api::rdata_text::type_name;
use crate::api::request::Change;
use crate::limits::{MAX_RECORD_SETS, MAX_SET_LEN};
use crate::store::{Key, Store};
use crate::wire::name::Name;
use crate::wire::record::FIXED_LEN;

/// Bytes of a name's records by their types.
type Sets = BTreeMap<u16, usize>;

/// What names have, those that a batch of requests adds to.
#[derive(Default)]
pub(super) struct Room {
    names: HashMap<Name, Sets>,
}

impl Room {
    /// Whether all that a request registers has room beside what there is, and what `plan` adds to it; `plan` is of
    /// requests that were checked before.
    ///
    /// # Errors
    /// What has none; nothing of the request may be planned then.
    pub(super) fn take(&mut self, store: &Store, plan: &WritePlan, changes: &[Change]) -> Result<(), String> {
        let mut over: Vec<&Name> = Vec::new();
        for key in puts(changes) {
            let sets = self.names.entry(key.name.clone()).or_insert_with(|| bound(store, &key.name));
            *sets.entry(key.rtype).or_default() += FIXED_LEN + key.rdata.len();
            // So far what several nodes have registered, or was there before, counts as often.
            if (sets.len() > MAX_RECORD_SETS || sets[&key.rtype] > MAX_SET_LEN) && !over.contains(&&key.name)
            {
                over.push(&key.name);
            }
        }
        for name in over {
            let added = puts(changes).filter(|key| key.name == *name).map(|key| (key.rtype, &key.rdata[..]));
            let sets = fitting(name, plan.visible(store, name).chain(added.map(own)));
            // Of a request that is refused nothing has been added to what there is and what is planned.
            let before = || fitting(name, plan.visible(store, name)).unwrap_or_else(|_| bound(store, name));
            self.names.insert(name.clone(), sets.clone().unwrap_or_else(|_| before()));
            sets?;
        }
        Ok(())
    }
}

/// Whether all that `changes` register has room once all of `plan` is done, which they are part of.
///
/// # Errors
/// What has none.
pub(super) fn check(store: &Store, plan: &WritePlan, changes: &[Change]) -> Result<(), String> {
    let names: BTreeSet<&Name> = puts(changes).map(|key| &key.name).collect();
    names.into_iter().try_for_each(|name| fitting(name, plan.visible(store, name)).map(drop))
}

/// What the changes register.
fn puts(changes: &[Change]) -> impl Iterator<Item = &Key> {
    changes.iter().filter_map(|change| match change {
        Change::Put(key, _) => Some(key),
        Change::Remove(_) => None,
    })
}

/// What a name has, with what is registered several times counted as often.
fn bound(store: &Store, name: &Name) -> Sets {
    let mut sets = Sets::new();
    for (_, _, record) in store.named(name.as_wire()).filter(|(_, up, _)| *up) {
        *sets.entry(record.rtype).or_default() += FIXED_LEN + record.rdata.len();
    }
    sets
}

fn own((rtype, rdata): (u16, &[u8])) -> (u16, Box<[u8]>) {
    (rtype, rdata.into())
}

/// What a name has with these records, of which equal ones are one; or what is too much.
fn fitting(name: &Name, records: impl Iterator<Item = (u16, Box<[u8]>)>) -> Result<Sets, String> {
    let records: BTreeSet<_> = records.collect();
    let mut sets = Sets::new();
    for (rtype, rdata) in &records {
        *sets.entry(*rtype).or_default() += FIXED_LEN + rdata.len();
    }
    if sets.len() > MAX_RECORD_SETS {
        let types = sets.len();
        return Err(format!("{name} would have records of {types} types; a name can have {MAX_RECORD_SETS}"));
    }
    match sets.iter().find(|(_, len)| **len > MAX_SET_LEN) {
        None => Ok(sets),
        Some((rtype, _)) => {
            let count = records.iter().filter(|(it, _)| it == rtype).count();
            let rtype = type_name(*rtype);
            Err(format!(
                "{name} would have {count} {rtype} records, more than one answer can carry ({MAX_SET_LEN} bytes): \
                 give some to another name"
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::request::Changed;
    use crate::store::{Attributes, NodeId};

    fn put(name: &str, rtype: u16, rdata: &[u8]) -> Change {
        let name = Name::from_text(name).unwrap();
        Change::Put(Key { instance: "i".into(), name, rtype, rdata: rdata.into() }, Attributes::default())
    }

    fn addresses(range: std::ops::Range<u32>) -> Vec<Change> {
        range.map(|i| put("web.example", 1, &i.to_be_bytes())).collect()
    }

    fn plan_all(store: &Store, plan: &mut WritePlan, changes: &[Change]) {
        for change in changes {
            let Change::Put(key, attributes) = change else { continue };
            plan.put(store, key, attributes, &mut Changed::default());
        }
    }

    /// What is planned of these requests in one batch, and what is told of each.
    fn batch(store: &Store, requests: &[Vec<Change>]) -> (usize, Vec<Result<(), String>>) {
        let (mut room, mut plan) = (Room::default(), WritePlan::default());
        let mut told = Vec::new();
        for changes in requests {
            let taken = room.take(store, &plan, changes);
            if taken.is_ok() {
                plan_all(store, &mut plan, changes);
            }
            told.push(taken);
        }
        (plan.len(), told)
    }

    #[test]
    fn what_has_no_room_is_refused_and_takes_none() {
        let mut store = Store::new(NodeId([1; 16]), 1);
        for i in 0..2_000u32 {
            let Change::Put(key, attributes) = &addresses(i..i + 1)[0] else { continue };
            store.register(key, attributes).unwrap();
        }
        // There is room for 4,062 records of 16 bytes.
        let requests = [
            addresses(2_000..3_000),
            addresses(3_000..4_000),
            addresses(4_000..4_063),
            addresses(0..1_000),
            addresses(4_000..4_062),
            vec![put("web.example", 1, &[255; 4])],
            vec![put("other.example", 1, &[255; 4])],
        ];
        let (planned, told) = batch(&store, &requests);
        let why = "web.example. would have 4063 A records, more than one answer can carry (65000 bytes): give some to \
                   another name";
        let refused = || Err(why.to_owned());
        assert_eq!(told, [Ok(()), Ok(()), refused(), Ok(()), Ok(()), refused(), Ok(())]);
        assert_eq!(planned, 2_062 + 1);
    }

    #[test]
    fn a_type_too_many_is_refused_and_what_takes_a_place_is_not() {
        let store = Store::new(NodeId([1; 16]), 1);
        let types = |range: std::ops::Range<u16>| {
            range.map(|it| put("web.example", 1_000 + it, b"x")).collect::<Vec<_>>()
        };
        let max = u16::try_from(MAX_RECORD_SETS).unwrap();
        let (_, told) =
            batch(&store, &[types(1..max), types(max..max + 2), types(max..max + 1), types(1..max + 1)]);
        let why = Err("web.example. would have records of 255 types; a name can have 254".to_owned());
        assert_eq!(told, [Ok(()), why.clone(), Ok(()), Ok(())]);
        // As a whole: what is removed by the same request makes room.
        let mut plan = WritePlan::default();
        let all = types(1..max + 2);
        plan_all(&store, &mut plan, &all);
        assert_eq!(check(&store, &plan, &all), why);
        let mut plan = WritePlan::default();
        plan_all(&store, &mut plan, &all[1..]);
        assert_eq!(check(&store, &plan, &all[1..]), Ok(()));
    }
}
