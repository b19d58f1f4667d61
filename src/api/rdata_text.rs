//! Record types and data as people write them, in the form of zone files.
//!
//! Pure; runs on the threads that talk to people. The `domain` crate knows the types.

use domain::base::Message;
use domain::base::iana::Rtype;
use domain::base::message::RecordSection;
use domain::base::name::ParsedName;
use domain::base::rdata::ParseAnyRecordData;
use domain::base::wire::ParseError;
use domain::base::zonefile_fmt::{DisplayKind, ZonefileFmt};
use domain::dep::octseq::Parser;
use domain::rdata::AllRecordData;
use serde::{Deserialize, Serialize};

/// A record, as people read it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// The name that it stands under.
    pub name: String,
    /// Seconds for which it may be kept.
    pub ttl_s: u32,
    /// Its type.
    #[serde(rename = "type")]
    pub rtype: String,
    /// Its data, as in a zone file.
    pub data: String,
}

/// The records of the answer section of a message, and those of its authority section, in their order.
///
/// # Errors
/// When it cannot be read.
pub fn answer_and_authority(message: &[u8]) -> Result<[Vec<Shown>; 2], ParseError> {
    let message = Message::from_octets(message).map_err(|_| ParseError::ShortInput)?;
    let (answer, authority) = (message.answer()?, message.authority()?);
    Ok([records(answer)?, records(authority)?])
}

fn records(section: RecordSection<'_, &[u8]>) -> Result<Vec<Shown>, ParseError> {
    let tell =
        |record: Result<domain::base::Record<ParsedName<_>, AllRecordData<_, ParsedName<_>>>, ParseError>| {
            let record = record?;
            Ok(Shown {
                name: format!("{}.", record.owner()),
                ttl_s: record.ttl().as_secs(),
                rtype: record.rtype().to_string(),
                data: record.data().display_zonefile(DisplayKind::Simple).to_string(),
            })
        };
    section.limit_to::<AllRecordData<_, _>>().map(tell).collect()
}

/// The type's mnemonic, or `TYPE123` (RFC 3597 §5).
#[must_use]
pub fn type_name(rtype: u16) -> String {
    Rtype::from_int(rtype).to_string()
}

/// The data of a record of this type; what is none of it, in hexadecimal digits (RFC 3597 §5).
#[must_use]
pub fn show(rtype: u16, rdata: &[u8]) -> String {
    let mut parser = Parser::from_ref(rdata);
    let parsed: Result<AllRecordData<_, ParsedName<_>>, _> =
        ParseAnyRecordData::parse_any_rdata(Rtype::from_int(rtype), &mut parser);
    match parsed {
        Ok(data) if parser.remaining() == 0 => data.display_zonefile(DisplayKind::Simple).to_string(),
        _ => {
            let digits: String = rdata.iter().map(|byte| format!(" {byte:02x}")).collect();
            format!("\\# {}{digits}", rdata.len())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::rtype;

    #[test]
    fn data_is_told_as_zone_files_have_it() {
        assert_eq!(show(rtype::A, &[10, 0, 0, 1]), "10.0.0.1");
        assert_eq!(show(rtype::AAAA, &[0; 16]), "::");
        assert_eq!(show(rtype::SRV, b"\0\x01\0\x02\0\x50\x03web\x07example\0"), "1 2 80 web.example.");
        assert_eq!(show(rtype::TXT, b"\x05a \"b\"\x01c"), "\"a \\\"b\\\"\" \"c\"");
        assert_eq!(show(65280, &[1, 255]), "\\# 2 01 ff");
        assert_eq!(show(rtype::A, &[1]), "\\# 1 01");
        assert_eq!(show(65280, &[]), "\\# 0");
        assert_eq!(type_name(rtype::AAAA), "AAAA");
        assert_eq!(type_name(65280), "TYPE65280");
    }
}
