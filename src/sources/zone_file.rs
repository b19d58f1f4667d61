//! Names from zone files (RFC 1035 §5), for records that a hosts file cannot say: TXT, SRV, CNAME and any other type.
//!
//! Runs on the thread `files`. A file is taken whole or not at all, as a hosts file is. The syntax is read by the
//! `domain` crate; what is checked here is what a server without delegations, wildcards and signatures cannot serve.

use std::path::Path;

use bytes::Bytes;
use domain::base::iana::Class;
use domain::base::name::{Name as DomainName, ToName};
use domain::base::rdata::ComposeRecordData;
use domain::zonefile::inplace::{Entry, ScannedRecord, Zonefile};

use crate::sources::zone_text::{self, Entries};
use crate::store::MAX_RDATA_LEN;
use crate::sys::file_error::{self, FileError};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// A record of a zone file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneRecord {
    /// Its owner, in one of the server's domains.
    pub name: Name,
    /// Its type.
    pub rtype: u16,
    /// How long others may keep it.
    pub ttl_s: u32,
    /// Its data as it goes on the wire, names uncompressed.
    pub rdata: Box<[u8]>,
}

/// Types that mean more to a server than to hand them out: delegation of a subtree, signatures, and those that exist
/// in messages alone. Each with what they would need.
const REFUSED: &[(std::ops::RangeInclusive<u16>, &str)] = &[
    (39..=39, "DNAME records are not served: write a CNAME for each name"),
    (41..=41, "OPT is no record of a zone"),
    (43..=43, "DS records belong to delegations, which are not served"),
    (46..=48, "signed zones are not served: leave RRSIG, NSEC and DNSKEY records out"),
    (50..=51, "signed zones are not served: leave NSEC3 and NSEC3PARAM records out"),
    (128..=255, "this type exists in messages alone"),
];

/// Reads a zone file for a server of `domains`. Names without a dot at the end are meant in the first of them unless
/// the file has an `$ORIGIN`. Records without a TTL get that of `$TTL`, or else that of the record before, or else
/// `ttl_s`.
///
/// SOA records are read over: the server makes its own, since names come in other ways too.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path, domains: &[Name], ttl_s: u32) -> Result<Vec<ZoneRecord>, FileError> {
    parse(path, &file_error::read(path, "zone file")?, domains, ttl_s).map(|placed| placed.records)
}

/// The records of a file, with where they are in it.
pub(super) struct Placed {
    pub(super) records: Vec<ZoneRecord>,
    /// Up to where the file was read when each had been.
    ends: Vec<usize>,
    entries: Entries,
}

impl Placed {
    /// The line of the file, counted from 1, that a record's entry begins in.
    pub(super) fn line_of(&self, record: usize) -> usize {
        line_of(&self.entries, self.ends.get(record).copied().unwrap_or_default())
    }
}

/// The same of what has been read of the file, with where the records are.
///
/// # Errors
/// The same.
pub(super) fn parse(path: &Path, text: &[u8], domains: &[Name], ttl_s: u32) -> Result<Placed, FileError> {
    let first = domains.first().cloned().unwrap_or_else(Name::root);
    let entries = zone_text::entries(text, &first.to_string());
    let entries = entries.map_err(|(line, what)| FileError::at(path, line, what))?;
    // The TTL that holds until the file states one can be told to the reader only by a record before the file's first.
    let preamble = format!("@ {ttl_s} IN TXT before\n");
    let mut source = Zonefile::with_capacity(preamble.len() + entries.text.len());
    source.extend_from_slice(preamble.as_bytes());
    source.extend_from_slice(&entries.text);
    source.set_default_class(Class::IN);
    let origin = Bytes::copy_from_slice(first.as_wire());
    source.set_origin(DomainName::from_octets(origin).expect("a Name is valid"));
    let mut placed = Placed { records: Vec::new(), ends: Vec::new(), entries };
    let outcome = read_records(&mut source, domains, preamble.len(), &mut placed);
    outcome.map_err(|what| {
        let read = source.current_offset().saturating_sub(preamble.len());
        FileError::at(path, line_of(&placed.entries, read), what)
    })?;
    Ok(placed)
}

/// Reads on to the end; what is told of a mistake is without its place.
fn read_records(
    source: &mut Zonefile,
    domains: &[Name],
    preamble_len: usize,
    placed: &mut Placed,
) -> Result<(), String> {
    let next = |source: &mut Zonefile| source.next_entry().map_err(|error| reason(&error.to_string()));
    next(source)?; // the one before the file's first
    while let Some(entry) = next(source)? {
        match entry {
            Entry::Record(scanned) => {
                placed.records.extend(convert(&scanned, domains)?);
                placed
                    .ends
                    .resize(placed.records.len(), source.current_offset().saturating_sub(preamble_len));
            }
            Entry::Include { path: included, .. } => {
                return Err(format!("$INCLUDE is not followed: give `{included}` with --zone, too"));
            }
        }
    }
    Ok(())
}

/// The line of the file that the entry began in whose reading has come to `offset`: behind it, or inside.
fn line_of(entries: &Entries, offset: usize) -> usize {
    let end = offset.saturating_sub(1).min(entries.text.len());
    let entry = entries.text[..end].iter().filter(|&&byte| byte == b'\n').count();
    entries.lines.get(entry).or(entries.lines.last()).copied().unwrap_or(1)
}

/// What the reader tells, without its own count of lines.
fn reason(error: &str) -> String {
    let what = error.splitn(3, ':').nth(2).unwrap_or(error);
    format!("this is no record:{what}; a line has a name, a TTL, a type and its data (RFC 1035 §5.1)")
}

/// A record as we keep it; `None` if it is one that we make ourselves.
fn convert(scanned: &ScannedRecord, domains: &[Name]) -> Result<Option<ZoneRecord>, String> {
    let wire = scanned.owner().to_vec();
    let name = Name::from_wire(wire.as_slice()).ok_or("the name is too long")?;
    let rtype = scanned.rtype().to_int();
    if !domains.iter().any(|domain| name.is_within(domain)) {
        let served: Vec<_> = domains.iter().map(ToString::to_string).collect();
        return Err(format!(
            "`{name}` is in none of the domains served ({}); add its domain with --domain",
            served.join(", ")
        ));
    }
    if name.labels().any(|label| label == b"*") {
        return Err(format!("`{name}` is a wildcard; wildcards are not served: write each name"));
    }
    if let Some((_, what)) = REFUSED.iter().find(|(types, _)| types.contains(&rtype)) {
        return Err(format!("`{name}`: {what}"));
    }
    let is_apex = domains.iter().any(|domain| domain.is_within(&name) && name.is_within(domain));
    if rtype == rtype::NS && !is_apex {
        return Err(format!("`{name}` has NS records and is no domain served: delegations are not served"));
    }
    if rtype == rtype::SOA {
        return Ok(None);
    }
    let mut rdata = Vec::new();
    let Ok(()) = scanned.data().compose_rdata(&mut rdata);
    if rdata.len() > MAX_RDATA_LEN {
        return Err(format!(
            "`{name}`: {} bytes of data are too many; a record can have {MAX_RDATA_LEN}",
            rdata.len()
        ));
    }
    Ok(Some(ZoneRecord { name, rtype, ttl_s: scanned.ttl().as_secs(), rdata: rdata.into() }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read_text(text: &[u8]) -> Result<Vec<ZoneRecord>, String> {
        let domains = ["redbreast.internal", "example.com"].map(|text| Name::from_text(text).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zone");
        fs::write(&path, text).unwrap();
        let read = read(&path, &domains, 7);
        read.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn records_of_all_kinds_are_read_relative_to_the_first_domain() {
        let text = b"first A 10.0.0.9\nweb 60 IN A 10.0.0.1\n  AAAA fd00::1 ; the same owner\n_http._tcp.web SRV 1 2 \
                     8080 web\n\
            text TXT \"a b\" c\nalias CNAME Web\n@ NS ns1\n@ SOA ns1 me 1 2 3 4 5\n$TTL 9\n$ORIGIN example.com.\n\
            @ MX 10 mail (\n )\nmail CNAME @\nodd TYPE65280 \\# 2 abcd";
        let shown: Vec<_> = read_text(text)
            .unwrap()
            .iter()
            .map(|record| (record.name.to_string(), record.rtype, record.ttl_s, record.rdata.len()))
            .collect();
        let expected = [
            ("first.redbreast.internal.", 1, 7, 4),
            ("web.redbreast.internal.", 1, 60, 4),
            ("web.redbreast.internal.", 28, 60, 16),
            ("_http._tcp.web.redbreast.internal.", 33, 60, 6 + 24),
            ("text.redbreast.internal.", 16, 60, 6),
            ("alias.redbreast.internal.", 5, 60, 24),
            ("redbreast.internal.", 2, 60, 24),
            ("example.com.", 15, 9, 2 + 18),
            ("mail.example.com.", 5, 9, 13),
            ("odd.example.com.", 65280, 9, 2),
        ];
        assert_eq!(shown, expected.map(|(name, rtype, ttl_s, len)| (name.to_owned(), rtype, ttl_s, len)));
    }

    #[test]
    fn each_mistake_is_told_with_file_line_and_value() {
        for (text, told) in [
            (&b"\nweb A 10.0.0.300\n"[..], "zone:2: this is no record: "),
            (b"web A 10.0.0.1\nweb BOGUS x", "zone:2: this is no record: "),
            (
                b"web A 10.0.0.1\n\nx.example.org. A 10.0.0.1\n",
                "zone:3: `x.example.org.` is in none of the domains",
            ),
            (b"web A 10.0.0.1\n*.web A 10.0.0.1", "zone:2: `*.web.redbreast.internal.` is a wildcard"),
            (b"sub NS ns.sub", "zone:1: `sub.redbreast.internal.` has NS records and is no domain served"),
            (b"a DNAME b", "zone:1: `a.redbreast.internal.`: DNAME records are not served"),
            (b"; one\n$INCLUDE other\n", "zone:2: $INCLUDE is not followed: give `other` with --zone"),
            (b"web CH A 10.0.0.1\n", "zone:1: this is no record: different class"),
            (b"web A 10.0.0.1\nweb TXT (\n", "zone:2: a parenthesis is opened here and never closed"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains(told), "{told}: {error}");
        }
        assert!(read_text(b"").unwrap().is_empty());
    }

    #[test]
    fn no_file_whatever_is_in_it_ends_the_server() {
        let sample = b"web 60 IN A 10.0.0.1\n  AAAA fd00::1 ; c\n_h._t.web SRV 1 2 8080 web\n@ MX 10 @ (\n )\n\
            text TXT \"a \\\" b\" c\\032\nodd TYPE65280 \\# 2 abcd\n$TTL 9\n$ORIGIN example.com.\nx CAA 0 issue \
            \"y\"\n";
        let pieces: [&[u8]; 12] =
            [b"(", b")", b"\"", b";", b"\\", b"\n", b" ", b"\\#", b"$", b"@", b"\0", b"\xff"];
        let mut rng = fastrand::Rng::with_seed(11);
        for _ in 0..20_000 {
            let mut text = sample.to_vec();
            text.truncate(rng.usize(..=text.len()));
            for _ in 0..rng.usize(1..6) {
                let at = rng.usize(..=text.len());
                let end = (at + rng.usize(..4)).min(text.len());
                text.splice(at..end, pieces[rng.usize(..pieces.len())].iter().copied());
            }
            let _ = read_text(&text);
        }
    }
}
