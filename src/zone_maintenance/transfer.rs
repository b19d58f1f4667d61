//! Copies of a zone for other servers (AXFR, RFC 5936), as messages of moderate length.
//!
//! Pure: made of one table, so that a copy is of one moment however long it takes.

use domain::base::iana::{Class, Rcode};
use domain::base::message_builder::{AdditionalBuilder, AnswerBuilder, PushError};
use domain::base::rdata::UnknownRecordData;
use domain::base::{Message, MessageBuilder, Name as WireName, Rtype, Ttl};

use crate::table::Table;
use crate::wire::name::Name;
use crate::wire::record::{FIXED_LEN, rtype};

/// A message is sent when it has so many bytes; one more record fits in any.
const MESSAGE_LEN: usize = 16 << 10;

/// Makes a copy of `zone` as of `table`, in answer to `request`, and gives each message to `send`, which says whether
/// to go on. With `soa_alone` it is just the record that says which copy it would be.
///
/// # Errors
/// When a record does not fit in any message, which none does that was registered.
pub(super) fn copy(
    request: &Message<Vec<u8>>,
    zone: &Name,
    table: &Table,
    soa_alone: bool,
    mut send: impl FnMut(AdditionalBuilder<Vec<u8>>) -> bool,
) -> Result<(), PushError> {
    let Some((rdata, ttl_s)) = table.soa_of(zone) else { return Ok(()) };
    let soa = |out: &mut AnswerBuilder<Vec<u8>>| push(out, zone.as_wire(), rtype::SOA, ttl_s, &rdata);
    let mut out = begin(request)?;
    soa(&mut out)?;
    if soa_alone {
        send(out.additional());
        return Ok(());
    }
    for (name, entry) in table.names_of(zone) {
        for set in entry.sets().filter(|set| set.rtype != rtype::SOA) {
            for record in set.each() {
                let (fixed, rdata) = record.split_at(FIXED_LEN);
                let ttl_s = u32::from_be_bytes([fixed[6], fixed[7], fixed[8], fixed[9]]);
                push(&mut out, name, set.rtype, ttl_s, rdata)?;
                if out.as_slice().len() >= MESSAGE_LEN {
                    let full = std::mem::replace(&mut out, begin(request)?);
                    if !send(full.additional()) {
                        return Ok(());
                    }
                }
            }
        }
    }
    soa(&mut out)?;
    send(out.additional());
    Ok(())
}

fn begin(request: &Message<Vec<u8>>) -> Result<AnswerBuilder<Vec<u8>>, PushError> {
    let builder =
        MessageBuilder::from_target(Vec::with_capacity(2 * MESSAGE_LEN)).expect("a vector has room");
    let mut out = builder.start_answer(request, Rcode::NOERROR)?;
    out.header_mut().set_aa(true);
    Ok(out)
}

fn push(
    out: &mut AnswerBuilder<Vec<u8>>,
    name: &[u8],
    rtype: u16,
    ttl_s: u32,
    rdata: &[u8],
) -> Result<(), PushError> {
    let owner = WireName::from_octets(name).expect("names of the table are valid");
    let data = UnknownRecordData::from_octets(Rtype::from_int(rtype), rdata).expect("it was in a record");
    out.push((owner, Class::IN, Ttl::from_secs(ttl_s), data))
}
