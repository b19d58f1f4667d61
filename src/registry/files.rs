//! What the names files and zone files of a node say together, as registrations.
//!
//! Runs on the control thread.

use std::fmt;
use std::path::PathBuf;

use super::names_file::{self, Host};
use super::zone_file::{self, ZoneRecord};
use crate::store::{Attributes, Key, Record, encode};
use crate::table::MAX_SET_LEN;
use crate::text_file::FileError;
use crate::wire::name::Name;
use crate::wire::record::{FIXED_LEN, rtype};

/// The instance that what files say belongs to.
pub const INSTANCE: &str = "files";

/// The names that files give.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// From files in the format of /etc/hosts.
    pub hosts: Vec<Host>,
    /// From zone files.
    pub records: Vec<ZoneRecord>,
}

/// Why names cannot be served together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
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

impl Names {
    /// Reads `hosts` and `zones` files for a server of `domains`; records of zone files that do not say their TTL have
    /// `ttl_s`.
    ///
    /// # Errors
    /// [`FileError`] for the first mistake.
    pub fn read(
        hosts: &[PathBuf],
        zones: &[PathBuf],
        domains: &[Name],
        ttl_s: u32,
    ) -> Result<Self, FileError> {
        let mut names = Self::default();
        for path in hosts {
            names.hosts.extend(names_file::read(path, domains)?);
        }
        for path in zones {
            names.records.extend(zone_file::read(path, domains, ttl_s)?);
        }
        Ok(names)
    }

    /// The registrations that they are, for [`Store::replace_instance`](crate::store::Store::replace_instance).
    ///
    /// # Errors
    /// [`Conflict`].
    pub fn registrations(&self) -> Result<Vec<Box<[u8]>>, Conflict> {
        let mut registrations = Vec::with_capacity(self.hosts.len() + self.records.len());
        for host in &self.hosts {
            for (i, name) in host.names.iter().enumerate() {
                // As everywhere that reads hosts files, an address leads back to its canonical name, not to the aliases.
                let attributes = Attributes { no_pointer: i > 0, ..Attributes::default() };
                registrations.push(encode(&Key::address(INSTANCE, name, host.address), &attributes));
            }
        }
        for ZoneRecord { name, rtype, ttl_s, rdata } in &self.records {
            let key =
                Key { instance: INSTANCE.into(), name: name.clone(), rtype: *rtype, rdata: rdata.clone() };
            // Pointers are records of their own in zone files.
            let attributes = Attributes { no_pointer: true, ..Attributes::with_ttl_s(*ttl_s) };
            registrations.push(encode(&key, &attributes));
        }
        // All are of one instance, so this is by name, then by type. Of what is said twice the first holds, and the shorter
        // encoding comes first: the one of a hosts file.
        registrations.sort_unstable();
        registrations.dedup_by(|later, first| record(later).key == record(first).key);
        check(&registrations)?;
        Ok(registrations)
    }
}

fn record(bytes: &[u8]) -> Record<'_> {
    Record::read(bytes).expect("just encoded, and checked by the readers of files")
}

fn check(registrations: &[Box<[u8]>]) -> Result<(), Conflict> {
    for name in registrations.chunk_by(|a, b| record(a).name == record(b).name) {
        let text = || record(&name[0]).to_key().name.to_string();
        if name.len() > 1 && name.iter().any(|bytes| record(bytes).rtype == rtype::CNAME) {
            return Err(Conflict::AliasAndMore { name: text() });
        }
        for set in name.chunk_by(|a, b| record(a).rtype == record(b).rtype) {
            if set.iter().map(|bytes| FIXED_LEN + record(bytes).rdata.len()).sum::<usize>() > MAX_SET_LEN {
                return Err(Conflict::SetTooLarge { name: text(), records: set.len() });
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(records: &[(&str, u16, &[u8])]) -> Names {
        let record = |&(owner, rtype, rdata): &(&str, u16, &[u8])| ZoneRecord {
            name: Name::from_text(owner).unwrap(),
            rtype,
            ttl_s: 1,
            rdata: rdata.into(),
        };
        Names { hosts: Vec::new(), records: records.iter().map(record).collect() }
    }

    #[test]
    fn an_alias_is_nothing_else() {
        let alias = ("a.example", rtype::CNAME, &b"\x01x\0"[..]);
        assert_eq!(names(&[alias, alias]).registrations().unwrap().len(), 1, "the same twice is one");
        for other in [("A.example", rtype::A, &[10, 0, 0, 1][..]), ("a.EXAMPLE", rtype::CNAME, b"\x01y\0")] {
            let error = names(&[alias, other]).registrations().unwrap_err().to_string();
            assert!(error.starts_with("a.example. has a CNAME record and others"), "{error}");
        }
    }

    #[test]
    fn more_records_than_an_answer_can_carry_are_refused() {
        let addresses: Vec<_> = (0..4_100u32).map(u32::to_be_bytes).collect();
        let records: Vec<_> = addresses.iter().map(|rdata| ("many.example", rtype::A, &rdata[..])).collect();
        let error = names(&records).registrations().unwrap_err().to_string();
        assert!(error.contains("many.example. has 4100 records"), "{error}");
    }

    #[test]
    fn an_address_leads_back_to_the_first_name_of_its_line_alone() {
        let name = |text: &str| Name::from_text(text).unwrap();
        let host =
            Host { address: [10, 0, 0, 1].into(), names: smallvec::smallvec![name("B.x"), name("a.x")] };
        let registrations = Names { hosts: vec![host], records: Vec::new() }.registrations().unwrap();
        let pointers: Vec<_> =
            registrations.iter().map(|bytes| record(bytes).reverse_name().is_some()).collect();
        assert_eq!(pointers, [false, true]);
    }
}
