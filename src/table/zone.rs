//! The domains we are authoritative for, with their SOA records and the names of their servers.
//!
//! Read by the workers for negative answers, written by the thread `tables`.

use crate::wire::name::{MAX_LEN, Name};
use crate::wire::record::{self, rtype};

/// Bytes of the SOA record as it goes on the wire, its three names shortened by pointers to the zone's name.
pub const SOA_RECORD_LEN: usize = record::FIXED_LEN + MNAME.len() + 2 + RNAME.len() + 2 + 20;

/// Where its TTL stands in it.
pub const SOA_TTL: std::ops::Range<usize> = record::FIXED_LEN - 6..record::FIXED_LEN - 2;

/// First label of the primary name server; the zone's own name follows.
const MNAME: &[u8] = b"\x02ns";
/// First label of the mailbox of the person responsible; the zone's own name follows.
const RNAME: &[u8] = b"\x0ahostmaster";

/// Where pointers to the zone's name stand in the record: its owner, and the ends of MNAME and RNAME.
const POINTERS: [usize; 3] =
    [0, record::FIXED_LEN + MNAME.len(), record::FIXED_LEN + MNAME.len() + 2 + RNAME.len()];

/// Seconds that secondaries would wait between checks, after a failed one, and before giving up (RFC 1035 §3.3.13).
/// Those of RIPE-203 scaled to data that changes by the second.
const REFRESH_S: u32 = 60;
const RETRY_S: u32 = 10;
const EXPIRE_S: u32 = 3600;

/// How long others may keep what we say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ZoneSettings {
    /// TTL of the records, in seconds.
    pub ttl_s: u32,
    /// TTL of negative answers (RFC 2308), in seconds.
    pub negative_ttl_s: u32,
}

/// Bytes of a zone's name at most, in wire form: RNAME has to fit below it.
pub const MAX_APEX_LEN: usize = MAX_LEN - RNAME.len();

/// The name server of the zone `apex`, which its NS and SOA records have: `ns` below it. `None` if that is too long.
#[must_use]
pub fn name_server(apex: &Name) -> Option<Name> {
    Name::from_text("ns").and_then(|label| label.below(apex)).ok()
}

/// One domain that we answer for with authority.
#[derive(Clone, PartialEq, Eq)]
pub struct Zone {
    lower_case: Name,
    soa: [u8; SOA_RECORD_LEN],
}

impl Zone {
    /// The zone `apex` as of `serial`.
    // cold: made with a table, on the thread `tables`
    #[must_use]
    pub fn new(apex: &Name, settings: ZoneSettings, serial: u32) -> Self {
        let mut rdata = [MNAME, &[0, 0], RNAME, &[0, 0]].concat();
        for field in [serial, REFRESH_S, RETRY_S, EXPIRE_S, settings.negative_ttl_s] {
            rdata.extend_from_slice(&field.to_be_bytes());
        }
        let mut soa = Vec::new();
        // In a negative answer the SOA's TTL is the lower of its own and the minimum field (RFC 2308 §3): here they
        // are the same, so the one record serves for both.
        record::push_record(&mut soa, rtype::SOA, settings.negative_ttl_s, &rdata);
        Self { lower_case: apex.to_lower_case(), soa: soa.try_into().expect("every part has a fixed length") }
    }

    /// The SOA record of the root as of `serial`, for names of a single label that do not exist. It is kept short,
    /// since the questions are: an answer should be no means of attack.
    // cold: made with a table, on the thread `tables`
    #[must_use]
    pub fn root_soa_record(settings: ZoneSettings, serial: u32) -> Box<[u8]> {
        const ROOT: u8 = 0; // the name, as owner, MNAME and RNAME
        let mut rdata = vec![ROOT, ROOT];
        for field in [serial, REFRESH_S, RETRY_S, EXPIRE_S, settings.negative_ttl_s] {
            rdata.extend_from_slice(&field.to_be_bytes());
        }
        let mut record = Vec::new();
        record::push_record(&mut record, rtype::SOA, settings.negative_ttl_s, &rdata);
        record.splice(..record::QUESTION_POINTER.len(), [ROOT]);
        record.into()
    }

    /// The zone's name in the form that folded names are compared with.
    #[inline]
    #[must_use]
    pub fn lower_case_wire(&self) -> &[u8] {
        self.lower_case.as_wire()
    }

    /// The data of the SOA record with its names in full, and its TTL.
    // cold: for copies of zones
    #[must_use]
    pub fn soa_rdata(&self) -> (Vec<u8>, u32) {
        let apex = self.lower_case.as_wire();
        let numbers = &self.soa[self.soa.len() - 20..];
        let ttl_s = self.soa[SOA_TTL].iter().fold(0, |ttl_s, &byte| ttl_s << 8 | u32::from(byte));
        ([MNAME, apex, RNAME, apex, numbers].concat(), ttl_s)
    }

    /// The SOA record for a message in which the zone's name begins at offset `apex`.
    #[inline]
    #[must_use]
    pub fn soa_record(&self, apex: usize) -> [u8; SOA_RECORD_LEN] {
        let mut record = self.soa;
        #[allow(clippy::cast_possible_truncation)] // within a question: below 12 + 255, so within 14 bits too
        let [high, low] = (apex as u16).to_be_bytes();
        for at in POINTERS {
            record[at] = 0xc0 | high;
            record[at + 1] = low;
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soa_record_points_at_the_zone_wherever_it_begins() {
        let settings = ZoneSettings { ttl_s: 5, negative_ttl_s: 7 };
        let zone = Zone::new(&Name::from_text("Example").unwrap(), settings, 258);
        let soa = zone.soa_record(16);
        assert_eq!(&soa[..12], b"\xc0\x10\0\x06\0\x01\0\0\0\x07\0\x26");
        assert_eq!(&soa[12..30], b"\x02ns\xc0\x10\x0ahostmaster\xc0\x10");
        assert_eq!(&soa[30..], b"\0\0\x01\x02\0\0\0\x3c\0\0\0\x0a\0\0\x0e\x10\0\0\0\x07");
        assert_eq!(zone.soa_record(300)[..2], [0xc1, 0x2c]);
    }
}
