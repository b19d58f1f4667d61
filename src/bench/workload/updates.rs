//! Dynamic updates (RFC 2136) from a file in dnsperf's format, its `-u`: a zone, then what is required, added and
//! deleted in it, then `send`; and so on.
//!
//! Read by the main thread before the run. Names without a dot at their end are below the zone.

use std::fs;
use std::path::Path;

use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::name::Name as DomainName;
use domain::base::rdata::ComposeRecordData;
use domain::zonefile::inplace::{Entry, Zonefile};

use super::query_file::{QueryFile, QueryFileError, Reading};
use crate::wire::header;
use crate::wire::name::Name;
use crate::wire::record::{CLASS_IN, rtype};

/// OPCODE 5, in its place in the header.
const OPCODE_UPDATE: u8 = 5 << 3;

/// Classes with a meaning of their own in updates (RFC 2136 §1.3).
const CLASS_NONE: u16 = 254;
const CLASS_ANY: u16 = 255;

const COMMANDS: &str = "`require`, `prohibit`, `add`, `delete` or `send`";

/// An update that is being read.
struct UpdateDraft {
    zone: Name,
    prerequisites: u16,
    changes: u16,
    sections: Vec<u8>,
}

/// Reads the file at `path`.
///
/// # Errors
/// A [`QueryFileError`].
pub fn open(path: &Path, reading: &Reading) -> Result<QueryFile, QueryFileError> {
    let file = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => read(&text, &file, reading),
        Err(error) => Err(QueryFileError::Unreadable { file, error }),
    }
}

fn read(text: &str, file: &str, reading: &Reading) -> Result<QueryFile, QueryFileError> {
    let mut queries = QueryFile::begin_as(reading);
    let mut update = None;
    // Behind a mistake the rest of its update is no update.
    let mut is_wrong = false;
    let mut last_line = 0;
    for (line, text) in (1..).zip(text.lines()) {
        last_line = line;
        let text = text.trim();
        if text.is_empty() || text.starts_with([';', '#']) {
            continue;
        }
        let is_end = text.eq_ignore_ascii_case("send");
        if !is_wrong && let Err(fault) = add_line(text, is_end, &mut update, &mut queries) {
            is_wrong = true;
            let good = queries.count().into();
            queries.leave_out(QueryFileError::BadLine { file: file.into(), line, good, fault }, reading)?;
        }
        if is_end {
            (update, is_wrong) = (None, false);
        }
    }
    if update.is_some() && !is_wrong {
        let (good, fault) = (queries.count().into(), "the last update has no `send`".into());
        queries.leave_out(
            QueryFileError::BadLine { file: file.into(), line: last_line, good, fault },
            reading,
        )?;
    }
    queries.end(file)
}

fn add_line(
    text: &str,
    is_end: bool,
    update: &mut Option<UpdateDraft>,
    queries: &mut QueryFile,
) -> Result<(), String> {
    match update {
        None if is_end => {
            Err("`send` without a zone before it; expected the zone's name alone on a line".into())
        }
        None => {
            let zone =
                Name::from_text(text).map_err(|error| format!("`{text}` is no name of a zone: {error}"))?;
            *update = Some(UpdateDraft { zone, prerequisites: 0, changes: 0, sections: Vec::new() });
            Ok(())
        }
        Some(update) if is_end => update.push_to(queries),
        Some(update) => update.add(text),
    }
}

impl UpdateDraft {
    /// Takes what one line asks for.
    fn add(&mut self, text: &str) -> Result<(), String> {
        let (command, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let mut fields = rest.split_ascii_whitespace();
        let name = fields.next().ok_or_else(|| format!("`{text}` has no name; expected {COMMANDS}"))?;
        let owner = self.absolute(name)?;
        let command = command.to_ascii_lowercase();
        let ttl_s = match (command.as_str(), fields.clone().next()) {
            ("add", Some(ttl)) => {
                let ttl_s = ttl.parse::<u32>().map_err(|_| format!("`{ttl}` is no TTL in seconds"))?;
                fields.next();
                ttl_s
            }
            _ => 0,
        };
        let kind = fields.next();
        let rtype = match kind {
            None => rtype::ANY,
            Some(kind) => rtype::from_text(kind).ok_or_else(|| format!("`{kind}` is not a record type"))?,
        };
        let data: Vec<_> = fields.collect();
        let data = match kind {
            Some(kind) if !data.is_empty() => Some(self.data(kind, &data.join(" "))?),
            _ => None,
        };
        let class = match (command.as_str(), kind, &data) {
            ("require", _, None) | ("delete", _, None) => CLASS_ANY,
            ("require", _, Some(_)) | ("add", Some(_), Some(_)) => CLASS_IN,
            ("prohibit", _, None) | ("delete", _, Some(_)) => CLASS_NONE,
            ("prohibit", ..) => {
                return Err(format!("`{text}`: data cannot be prohibited, but a name or a type"));
            }
            ("add", ..) => {
                return Err(format!("`{text}` lacks something; expected `add NAME TTL TYPE DATA`"));
            }
            _ => return Err(format!("`{command}` is no command; expected {COMMANDS}")),
        };
        let is_change = matches!(command.as_str(), "add" | "delete");
        if !is_change && self.changes > 0 {
            return Err(format!("`{text}` follows a change; what is required comes first"));
        }
        let count = if is_change { &mut self.changes } else { &mut self.prerequisites };
        *count = count.checked_add(1).ok_or("an update has 65535 records at most")?;
        let data = data.unwrap_or_default();
        let len = u16::try_from(data.len()).map_err(|_| "a record has 65535 bytes of data at most")?;
        self.sections.extend_from_slice(owner.as_wire());
        self.sections.extend_from_slice(&rtype.to_be_bytes());
        self.sections.extend_from_slice(&class.to_be_bytes());
        self.sections.extend_from_slice(&ttl_s.to_be_bytes());
        self.sections.extend_from_slice(&len.to_be_bytes());
        self.sections.extend_from_slice(&data);
        Ok(())
    }

    fn absolute(&self, name: &str) -> Result<Name, String> {
        let zone = self.zone.to_string();
        let text = match name {
            "@" => zone,
            _ if name.ends_with('.') => name.into(),
            _ => format!("{name}.{}", zone.trim_start_matches('.')),
        };
        Name::from_text(&text).map_err(|error| format!("`{name}` is not a domain name: {error}"))
    }

    /// The data of a record as on the wire.
    fn data(&self, kind: &str, data: &str) -> Result<Vec<u8>, String> {
        let mut source = Zonefile::new();
        source.extend_from_slice(format!("@ 0 IN {kind} {data}\n").as_bytes());
        source.set_default_class(Class::IN);
        let origin = Bytes::copy_from_slice(self.zone.as_wire());
        source.set_origin(DomainName::from_octets(origin).map_err(|error| error.to_string())?);
        match source.next_entry() {
            Ok(Some(Entry::Record(record))) => {
                let mut wire = Vec::new();
                let Ok(()) = record.data().compose_rdata(&mut wire);
                Ok(wire)
            }
            _ => Err(format!("`{data}` is no data of type {kind}")),
        }
    }

    /// Makes the message.
    fn push_to(&self, queries: &mut QueryFile) -> Result<(), String> {
        let mut message = vec![0; header::LEN];
        message[2] = OPCODE_UPDATE;
        message[header::QDCOUNT + 1] = 1;
        message[header::ANCOUNT..header::ANCOUNT + 2].copy_from_slice(&self.prerequisites.to_be_bytes());
        message[header::NSCOUNT..header::NSCOUNT + 2].copy_from_slice(&self.changes.to_be_bytes());
        message.extend_from_slice(self.zone.as_wire());
        message.extend_from_slice(&rtype::SOA.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        message.extend_from_slice(&self.sections);
        queries.push_message(&message, self.sections.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_are_made_as_the_protocol_has_them() {
        let text = "; two\nexample.com\nrequire a\nrequire b A\nrequire c A 192.0.2.1\nprohibit d\nprohibit e.other. \
                    AAAA\n\
                    add f 3600 TXT \"some text\"\ndelete g\ndelete h MX\ndelete i MX 10 \
                    mail\nsend\nexample.org\nsend\n";
        let queries = read(text, "u", &Reading::default()).unwrap();
        assert_eq!(queries.count(), 2);
        let packet = queries.packet(0);
        assert_eq!(packet[..header::LEN], [0, 0, 0x28, 0, 0, 1, 0, 5, 0, 4, 0, 0]);
        assert_eq!(queries.question(0), b"\x07example\x03com\0\0\x06\0\x01");
        let rest = &packet[header::LEN + queries.question(0).len()..];
        let zone: &[u8] = b"\x07example\x03com\0";
        let record = |owner: &[u8], zone: &[u8], fixed: &[u8], data: &[u8]| {
            let len = u16::try_from(data.len()).unwrap().to_be_bytes();
            [owner, zone, fixed, &len[..], data].concat()
        };
        let expected = [
            record(b"\x01a", zone, b"\0\xff\0\xff\0\0\0\0", b""),
            record(b"\x01b", zone, b"\0\x01\0\xff\0\0\0\0", b""),
            record(b"\x01c", zone, b"\0\x01\0\x01\0\0\0\0", &[192, 0, 2, 1]),
            record(b"\x01d", zone, b"\0\xff\0\xfe\0\0\0\0", b""),
            record(b"\x01e\x05other\0", b"", b"\0\x1c\0\xfe\0\0\0\0", b""),
            record(b"\x01f", zone, b"\0\x10\0\x01\0\0\x0e\x10", b"\x09some text"),
            record(b"\x01g", zone, b"\0\xff\0\xff\0\0\0\0", b""),
            record(b"\x01h", zone, b"\0\x0f\0\xff\0\0\0\0", b""),
            record(b"\x01i", zone, b"\0\x0f\0\xfe\0\0\0\0", &[b"\0\x0a\x04mail", zone].concat()),
        ];
        assert_eq!(rest, expected.concat());
    }

    #[test]
    fn an_update_with_a_mistake_is_left_out_with_all_of_it() {
        for (text, why) in [
            ("a.example\nfrob x\nsend\n", "u:2: `frob` is no command"),
            ("a.example\nadd x A 192.0.2.1\nadd y\nsend\n", "`A` is no TTL"),
            ("a.example\nadd x 5 A\nsend\n", "expected `add NAME TTL TYPE DATA`"),
            ("a.example\nadd x 5 A 300.0.0.1\nsend\n", "`300.0.0.1` is no data of type A"),
            ("a.example\ndelete x\nrequire y\nsend\n", "u:3: `require y` follows a change"),
            ("a.example\ndelete x BOGUS\nsend\n", "`BOGUS`"),
            ("a..b\nsend\n", "u:1: `a..b` is no name of a zone"),
            ("send\n", "`send` without a zone"),
            ("a.example\ndelete x\n", "u:2: the last update has no `send`"),
        ] {
            let with_good = format!("ok.example\nadd x 5 A 192.0.2.1\nsend\n{text}");
            let queries = read(&with_good, "u", &Reading::default()).unwrap();
            assert_eq!((queries.count(), queries.bad_lines().count), (1, 1), "{text}");
            let strict = Reading { strict: true, ..Reading::default() };
            let error = read(text, "u", &strict).err().unwrap().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
