//! Why the names of all files of a node cannot be served together, and where in the files that is.
//!
//! Runs on the thread `files`, when files have been refused. They are then read once more: what they say is kept
//! without its place.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

use domain::base::iana::Rtype;

use crate::limits::{MAX_RECORD_SETS, MAX_SET_LEN};
use crate::sources::names_file;
use crate::sources::names_text::{Text, Texts, ZoneText};
use crate::sources::zone_file;
use crate::sys::file_error::FileError;
use crate::wire::name::Name;
use crate::wire::record::{FIXED_LEN, rtype};

/// Why names cannot be served together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// One name has records of more types than a table holds.
    TooManyTypes {
        /// The name.
        name: String,
        /// Of how many types it has records.
        types: usize,
    },
    /// One name has more records of a type than a message over TCP can carry.
    SetTooLarge {
        /// The name.
        name: String,
        /// How many records it has.
        records: usize,
    },
    /// A name is an alias (CNAME) and something else too, or an alias of two names (RFC 1034 §3.6.2).
    AliasAndMore {
        /// The name.
        name: String,
    },
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyTypes { name, types } => write!(
                f,
                "{name} has records of {types} types; a name can have {MAX_RECORD_SETS}: give some to another name"
            ),
            Self::SetTooLarge { name, records } => write!(
                f,
                "{name} has {records} records of one type, more than one answer can carry ({MAX_SET_LEN} bytes)"
            ),
            Self::AliasAndMore { name } => write!(
                f,
                "{name} has a CNAME record and others; an alias can have one CNAME and nothing else: remove it or the \
                 others"
            ),
        }
    }
}

impl std::error::Error for Conflict {}

impl Conflict {
    fn name(&self) -> &str {
        match self {
            Self::TooManyTypes { name, .. }
            | Self::SetTooLarge { name, .. }
            | Self::AliasAndMore { name } => name,
        }
    }
}

/// The records of one name, as they come.
struct Seen<'a> {
    conflict: &'a Conflict,
    name: Name,
    records: BTreeSet<(u16, Box<[u8]>)>,
    /// Their types, with the bytes of the records of each.
    types: BTreeMap<u16, usize>,
}

impl Seen<'_> {
    /// Takes a record. Returns whether it is the first that is too much.
    fn is_too_much(&mut self, name: &Name, rtype: u16, rdata: &[u8]) -> bool {
        if !name.as_wire().eq_ignore_ascii_case(self.name.as_wire()) {
            return false;
        }
        if self.records.insert((rtype, rdata.into())) {
            *self.types.entry(rtype).or_default() += FIXED_LEN + rdata.len();
        }
        match self.conflict {
            Conflict::TooManyTypes { .. } => self.types.len() > MAX_RECORD_SETS,
            Conflict::SetTooLarge { .. } => self.types.get(&rtype).is_some_and(|len| *len > MAX_SET_LEN),
            Conflict::AliasAndMore { .. } => self.records.len() > 1 && self.types.contains_key(&rtype::CNAME),
        }
    }
}

/// The record of the files from which on `conflict` holds.
pub(super) fn find(conflict: &Conflict, texts: &Texts, domains: &[Name], ttl_s: u32) -> Option<FileError> {
    let name = Name::from_text(conflict.name()).ok()?;
    let mut seen = Seen { conflict, name, records: BTreeSet::new(), types: BTreeMap::new() };
    let told = |rtype: u16| format!("{conflict} (from this {} record on)", Rtype::from_int(rtype));
    let mut found = None;
    for Text { path, bytes, .. } in &texts.hosts {
        let read = names_file::parse_numbered(path, bytes, domains, |line, host| {
            let (rtype, rdata) = match host.address {
                IpAddr::V4(v4) => (rtype::A, v4.octets().to_vec()),
                IpAddr::V6(v6) => (rtype::AAAA, v6.octets().to_vec()),
            };
            for name in &host.names {
                if found.is_none() && seen.is_too_much(name, rtype, &rdata) {
                    found = Some(FileError::at(path, line, told(rtype)));
                }
            }
        });
        read.ok()?;
        if found.is_some() {
            return found;
        }
    }
    for ZoneText { path, bytes, .. } in &texts.zones {
        let placed = zone_file::parse(path, bytes, domains, ttl_s).ok()?;
        let mut records = placed.records.iter().enumerate();
        let first = records.find(|(_, it)| seen.is_too_much(&it.name, it.rtype, &it.rdata));
        if let Some((record, it)) = first {
            return Some(FileError::at(path, placed.line_of(record), told(it.rtype)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::sources::files::Registrations;

    /// What is told of these names and this zone file.
    fn told(hosts: &str, zone: &str) -> Result<usize, String> {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["hosts", "zone"].map(|file| dir.path().join(file));
        fs::write(&paths[0], hosts).unwrap();
        fs::write(&paths[1], zone).unwrap();
        let domains = [Name::from_text("example").unwrap()];
        let read = Registrations::read(&paths[..1], &paths[1..], &domains, 1);
        read.map(|names| names.len())
            .map_err(|it| it.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn what_is_too_much_is_told_with_file_line_and_value() {
        let types = |count: usize| -> String {
            (0..count).map(|i| format!("many TYPE{} \\# 1 00\n", 1_000 + i)).collect()
        };
        assert_eq!(told("10.0.0.1 many\n", &types(MAX_RECORD_SETS - 1)), Ok(MAX_RECORD_SETS));
        let error = told("10.0.0.1 many\n", &format!("\n{}", types(300))).unwrap_err();
        assert_eq!(
            error,
            "zone:255: many.example. has records of 301 types; a name can have 254: give some to another name (from \
             this TYPE1253 record on)"
        );
        let error = told("10.0.0.1 web\n10.0.0.2 web\n", "; a comment\nWEB CNAME other\n").unwrap_err();
        assert!(error.starts_with("zone:2: web.example. has a CNAME record and others"), "{error}");
        let hosts: String = (0..4_100).map(|i| format!("10.0.{}.{} web\n", i / 256, i % 256)).collect();
        let error = told(&hosts, "").unwrap_err();
        assert!(error.starts_with("hosts:4063: web.example. has 4100 records of one type"), "{error}");
        assert!(error.ends_with("(from this A record on)"), "{error}");
    }
}
