//! Reading updates of a zone (RFC 2136): what has to hold beforehand, and what is to be changed.
//!
//! Pure. Whether it holds is seen, and all is changed, by the owner of the registrations in one step.

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::rdata::ComposeRecordData;
use domain::base::{Message, ParsedRecord};
use domain::rdata::AllRecordData;

use super::name;
use crate::api::register;
use crate::api::request::{Change, Prerequisite, Selector, ZoneUpdate};
use crate::store::{Attributes, Key};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// The instance of what is registered by updates.
const INSTANCE: &str = "update";

/// Records in one update at most.
const MAX_RECORDS: usize = crate::limits::MAX_UPDATE_RECORDS;

/// Types that can be added.
const TYPES: [u16; 7] = [rtype::A, rtype::AAAA, rtype::CNAME, rtype::PTR, rtype::MX, rtype::TXT, rtype::SRV];

type UpdateRecord<'a> = ParsedRecord<'a, Vec<u8>>;

/// A set of records that has to be there: the name, the type, the data.
type WantedSet = (Name, u16, Vec<Box<[u8]>>);

/// The zone that an update is of, if it names one.
pub(super) fn zone(message: &Message<Vec<u8>>) -> Option<Name> {
    let question = message.sole_question().ok()?;
    (question.qtype() == Rtype::SOA && question.qclass() == Class::IN).then(|| name(question.qname()))?
}

/// Reads an update of `zone`, one of our `zones`.
///
/// # Errors
/// The response code of the mistake.
pub(super) fn read(message: &Message<Vec<u8>>, zone: &Name, zones: &[Name]) -> Result<ZoneUpdate, Rcode> {
    let mut update = ZoneUpdate { zone: zone.clone(), prerequisites: Vec::new(), changes: Vec::new() };
    let mut sets: Vec<WantedSet> = Vec::new();
    for record in message.answer().map_err(|_| Rcode::FORMERR)?.take(MAX_RECORDS + 1) {
        let record = record.map_err(|_| Rcode::FORMERR)?;
        let owner = owner(&record, zone, zones)?;
        if record.ttl().as_secs() != 0 {
            return Err(Rcode::FORMERR);
        }
        let rtype = record.rtype().to_int();
        let is_any = record.rtype() == Rtype::ANY;
        let prerequisite = match record.class() {
            Class::ANY | Class::NONE if record.rdlen() > 0 => return Err(Rcode::FORMERR),
            Class::ANY if is_any => Prerequisite::NameInUse(owner),
            Class::NONE if is_any => Prerequisite::NameNotInUse(owner),
            Class::ANY => Prerequisite::SetExists(owner, rtype),
            Class::NONE => Prerequisite::NoSet(owner, rtype),
            Class::IN => {
                let rdata = rdata(&record)?;
                match sets.iter_mut().find(|(name, of, _)| *name == owner && *of == rtype) {
                    Some((.., set)) => set.push(rdata),
                    None => sets.push((owner, rtype, vec![rdata])),
                }
                continue;
            }
            _ => return Err(Rcode::FORMERR),
        };
        update.prerequisites.push(prerequisite);
    }
    update
        .prerequisites
        .extend(sets.into_iter().map(|(name, rtype, set)| Prerequisite::SetIs(name, rtype, set)));
    for record in message.authority().map_err(|_| Rcode::FORMERR)?.take(MAX_RECORDS + 1) {
        let record = record.map_err(|_| Rcode::FORMERR)?;
        update.changes.extend(change(&record, owner(&record, zone, zones)?, zone)?);
    }
    if update.changes.len() > MAX_RECORDS || update.prerequisites.len() > MAX_RECORDS {
        return Err(Rcode::REFUSED);
    }
    Ok(update)
}

/// The steps that one record of the update section stands for.
fn change(record: &UpdateRecord<'_>, owner: Name, zone: &Name) -> Result<Vec<Change>, Rcode> {
    let rtype = record.rtype().to_int();
    // Types of questions, and of records that only travel (RFC 6895 §3.1).
    let is_meta = (128..=255).contains(&rtype) || rtype == rtype::OPT;
    let is_apex = owner == *zone;
    let remove = |rtype, rdata| {
        let which = Selector { name: Some(owner.clone()), rtype, rdata, ..Selector::default() };
        vec![Change::Remove(which)]
    };
    match record.class() {
        Class::IN => {
            if is_meta {
                return Err(Rcode::FORMERR);
            }
            // The zone's own records are made by the server; an addition of theirs is passed over (§3.4.2.2).
            if rtype == rtype::SOA || rtype == rtype::NS && is_apex {
                return Ok(Vec::new());
            }
            let is_address = matches!(rtype, rtype::A | rtype::AAAA);
            if !TYPES.contains(&rtype) || is_address && register::check_host(&owner).is_err() {
                return Err(Rcode::REFUSED);
            }
            // As a zone file's (RFC 2181 §8).
            let ttl_s = i32::try_from(record.ttl().as_secs()).map_or(0, i32::cast_unsigned);
            let key = Key { instance: INSTANCE.into(), name: owner.clone(), rtype, rdata: rdata(record)? };
            key.check().map_err(|_| Rcode::REFUSED)?;
            // A name has one alias at most: another one takes its place.
            let mut steps = if rtype == rtype::CNAME { remove(Some(rtype), None) } else { Vec::new() };
            steps.push(Change::Put(key, Attributes { no_pointer: true, ..Attributes::with_ttl_s(ttl_s) }));
            Ok(steps)
        }
        Class::ANY | Class::NONE if record.ttl().as_secs() != 0 => Err(Rcode::FORMERR),
        Class::ANY if record.rdlen() > 0 => Err(Rcode::FORMERR),
        Class::ANY if record.rtype() == Rtype::ANY => Ok(remove(None, None)),
        Class::ANY | Class::NONE if is_meta => Err(Rcode::FORMERR),
        // The zone's own are not to be removed (§3.4.2.3, §3.4.2.4).
        Class::ANY | Class::NONE if rtype == rtype::SOA || rtype == rtype::NS && is_apex => Ok(Vec::new()),
        Class::ANY => Ok(remove(Some(rtype), None)),
        Class::NONE => Ok(remove(Some(rtype), Some(rdata(record)?))),
        _ => Err(Rcode::FORMERR),
    }
}

/// The name that a record stands under, which has to be in the zone, and not in one of ours below it: that has keys of
/// its own.
fn owner(record: &UpdateRecord<'_>, zone: &Name, zones: &[Name]) -> Result<Name, Rcode> {
    let owner = name(record.owner()).ok_or(Rcode::FORMERR)?;
    let closest = zones.iter().filter(|it| owner.is_within(it)).max_by_key(|it| it.labels().count());
    if closest == Some(zone) { Ok(owner) } else { Err(Rcode::NOTZONE) }
}

/// A record's data with its names in full and in lower case.
fn rdata(record: &UpdateRecord<'_>) -> Result<Box<[u8]>, Rcode> {
    let record = record.to_any_record::<AllRecordData<_, _>>().map_err(|_| Rcode::FORMERR)?;
    let mut bytes = Vec::new();
    record.data().compose_canonical_rdata(&mut bytes).map_err(|_| Rcode::FORMERR)?;
    Ok(bytes.into())
}
