//! Filling a response with records: addresses in random order or by policy, names shortened, aliases followed,
//! truncation.
//!
//! Runs on the workers, called by `answer` alone. The ways for addresses and for all else part early: the first is the
//! one that has to be fast.

use super::metrics::Event;
use super::types::{LookupContext, MAX_ALIASES};
use crate::policy::arrange::{self, Arrangement};
use crate::policy::client::Client;
use crate::policy::steering::Steering;
use crate::table::RecordSet;
use crate::wire::header::{self, rcode};
use crate::wire::record::{FIXED_LEN, rtype};
use crate::wire::response::{Response, Suffix};

/// Targets of an SRV answer whose addresses are added to it.
const MAX_ADDITIONAL: usize = crate::limits::MAX_ADDITIONAL;

/// Bytes of SRV data before its target: priority, weight, port (RFC 2782).
const SRV_TARGET_AT: usize = 6;

/// Copies the records that fit, whole ones only; returns whether that was all of them. Names in their data end with a
/// pointer to `suffix` where they can.
#[inline(always)]
pub(crate) fn write_rrset(
    set: RecordSet<'_>,
    context: &mut LookupContext<'_>,
    suffix: Option<Suffix<'_>>,
    response: &mut Response<'_>,
) -> bool {
    match set.rtype {
        rtype::A => copy_addresses::<{ FIXED_LEN + 4 }>(set, context, response),
        rtype::AAAA => copy_addresses::<{ FIXED_LEN + 16 }>(set, context, response),
        _ => copy_others(set, suffix, response),
    }
}

/// Copies records of one length: any of them may go, in any order.
#[inline(always)]
fn copy_addresses<const LEN: usize>(
    set: RecordSet<'_>,
    context: &mut LookupContext<'_>,
    response: &mut Response<'_>,
) -> bool {
    let records = set.records.as_chunks::<LEN>().0;
    if let Some(steering) = Steering::read(set.steering) {
        return copy_steered(records, steering, context, response);
    }
    let count = records.len().min(response.room() / LEN);
    #[allow(clippy::cast_possible_truncation)] // at most `set.count`
    response.answer_with(count as u16, count * LEN, |out| {
        arrange::shuffle(&mut context.state.chance.rng, records.iter(), out.as_chunks_mut().0);
    });
    count == records.len()
}

/// Copies addresses by the policy of their name, the first of them first; returns whether all that it wants have fit.
fn copy_steered<const LEN: usize>(
    records: &[[u8; LEN]],
    steering: Steering<'_>,
    context: &mut LookupContext<'_>,
    response: &mut Response<'_>,
) -> bool {
    if steering.order.sees_client() {
        response.depends_on_client_subnet();
    }
    let client = || match response.client_subnet() {
        Some(subnet) => Client::new(subnet.address, subnet.source_prefix_len.into()),
        None => Client::new(context.origin.client, u32::MAX),
    };
    let arrangement =
        Arrangement::new(steering, records, context.name.hash(), client, &mut context.state.chance);
    let count = arrangement.wanted().min(response.room() / LEN);
    #[allow(clippy::cast_possible_truncation)] // at most as many as a set can have
    response.answer_with(count as u16, count * LEN, |out| {
        arrangement.write(&mut context.state.chance.rng, out.as_chunks_mut().0);
    });
    count == arrangement.wanted()
}

/// The same for records that have any length. The shortest come first, so that as many as can be go.
fn copy_others(set: RecordSet<'_>, suffix: Option<Suffix<'_>>, response: &mut Response<'_>) -> bool {
    // Names may be shortened in the types of RFC 1035 alone (RFC 3597 §4).
    let before = match set.rtype {
        rtype::NS | rtype::CNAME | rtype::PTR => Some(0),
        rtype::MX => Some(2),
        _ => None,
    };
    set.each().all(|record| match before {
        Some(before) => response.answer_with_name(record, before, header::LEN, suffix).is_some(),
        None if record.len() <= response.room() => {
            response.answer_with(1, record.len(), |out| out.copy_from_slice(record));
            true
        }
        None => false,
    })
}

/// Answers by the `alias` that the question's `name` is, and by what that leads to as long as it is in our domains
/// (RFC 1034 §3.6.2, §4.3.2). Returns the response code, which is that of the last name (RFC 6604 §3), and where in
/// the message the last name stands, if it is none of ours.
///
/// A chain that leads out of our domains, back to where it was, or too far, is answered as far as it was followed; and
/// so is one that leads to a name that is not in the table, unless that is complete.
#[cold]
pub(crate) fn follow_cname(
    context: &mut LookupContext<'_>,
    alias: RecordSet<'_>,
    response: &mut Response<'_>,
) -> (u8, Option<usize>) {
    let (table, complete, qtype) = (context.turn.table, context.state.is_complete, context.query.qtype);
    let mut alias = alias;
    context.count(Event::Alias);
    let (apex, zone) = table.zone_of_found(context.name);
    let suffix = Suffix { name: zone.lower_case_wire(), at: header::LEN + apex };
    let mut seen = [0; MAX_ALIASES];
    let mut owner = header::LEN;
    for i in 0..MAX_ALIASES {
        seen[i] = context.name.hash();
        let target = response.answer_with_name(alias.records, 0, owner, Some(suffix));
        let Some(target) = target else {
            context.count(Event::TruncatedAnswer);
            response.set_truncated();
            return (rcode::NOERROR, None);
        };
        let wire = alias.records.get(FIXED_LEN..).unwrap_or_default();
        if context.name.fold_wire(wire, table.seed()).is_err() || seen[..=i].contains(&context.name.hash()) {
            return (rcode::NOERROR, None);
        }
        let zone = table.zone_of(context.name);
        let entry = table.lookup(context.name);
        if let Some(set) = entry.and_then(|entry| entry.get(qtype)) {
            let from = response.end();
            if !write_rrset(set, context, Some(suffix), response) {
                context.count(Event::TruncatedAnswer);
                response.set_truncated();
            }
            response.set_owner(from, target);
            return (rcode::NOERROR, None);
        }
        if let Some(next) = entry.and_then(|entry| entry.get(rtype::CNAME)) {
            (alias, owner) = (next, target);
            continue;
        }
        // Where names are asked for, what another node has under this one is for the client to ask.
        let Some((apex, zone)) = zone.filter(|_| entry.is_some() || complete) else {
            return (rcode::NOERROR, zone.is_none().then_some(target));
        };
        // In the zone of the question the target was shortened, and its apex stands in the question.
        let same = zone.lower_case_wire() == suffix.name;
        let apex_at = if same { suffix.at } else { target + apex };
        let soa = zone.soa_record(apex_at);
        let is_soa = apex == 0 && qtype == rtype::SOA && soa.len() <= response.room();
        if is_soa {
            response.answer_with(1, soa.len(), |out| out.copy_from_slice(&soa));
        } else {
            response.authority(&soa);
        }
        return (if entry.is_some() { rcode::NOERROR } else { rcode::NXDOMAIN }, None);
    }
    (rcode::NOERROR, None)
}

/// Adds the addresses of the services in `set`, whose records are all that is in the answer, so that clients need not
/// ask for them (RFC 2782, "Usage rules"). What does not fit is left out: nobody depends on it (RFC 2181 §9).
#[cold]
pub(crate) fn add_additional(
    context: &mut LookupContext<'_>,
    set: RecordSet<'_>,
    response: &mut Response<'_>,
) {
    let mut seen = [0; MAX_ADDITIONAL];
    let (table, name) = (context.turn.table, &mut *context.name);
    let mut at = context.query.question_end;
    for (i, record) in set.each().take(MAX_ADDITIONAL).enumerate() {
        let target = at + FIXED_LEN + SRV_TARGET_AT;
        at += record.len();
        let wire = record.get(FIXED_LEN + SRV_TARGET_AT..).unwrap_or_default();
        if name.fold_wire(wire, table.seed()).is_err() || seen[..i].contains(&name.hash()) {
            continue;
        }
        seen[i] = name.hash();
        let Some(entry) = table.lookup(name) else { continue };
        for set in [rtype::A, rtype::AAAA].into_iter().filter_map(|rtype| entry.get(rtype)) {
            response.additional(target, set.count, set.records);
        }
    }
}
