//! Names from files in the format of hosts(5): an address, its canonical name, then aliases; `#` begins a comment.
//!
//! Runs on the thread `files`. A file is taken whole or not at all: the first mistake refuses it and is reported with
//! its file, line and value, so that a slip of the pen never takes half of a cluster's names away.

use std::fmt;
use std::net::IpAddr;
use std::path::Path;

use smallvec::SmallVec;

use crate::limits::MAX_LINE_LEN;
use crate::sys::file_error::{self, Excerpt, FileError};
use crate::sys::sched::yield_every;
use crate::wire::name::{Name, NameTextError};

/// One address of a file with its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The address.
    pub address: IpAddr,
    /// Canonical name first, then the aliases; all fully qualified and in one of the server's domains.
    pub names: SmallVec<[Name; 1]>,
}

/// What is wrong with a line.
#[derive(Debug)]
enum Cause {
    NotText,
    TooLong(usize),
    NoAddress(String),
    ScopedAddress(String),
    NoName(String),
    BadName(String, NameTextError),
    NotHostName(String),
    NotOurs(String, String),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::NotText => {
                f.write_str("the line is not UTF-8 text; a names file has an address and names a line")
            }
            Cause::TooLong(len) => write!(
                f,
                "the line has {len} bytes before its comment; it can have {MAX_LINE_LEN}: write the address again in \
                 another line, with the other names"
            ),
            Cause::NoAddress(value) => {
                write!(f, "`{value}` is not an address; a line has an IPv4 or IPv6 address, then names")
            }
            Cause::ScopedAddress(value) => {
                write!(f, "`{value}` has a zone (%); DNS cannot carry it: leave it out or remove the line")
            }
            Cause::NoName(value) => {
                write!(f, "`{value}` has no name; a line has an address, then one or more names")
            }
            Cause::BadName(value, error) => write!(f, "`{value}` is not a name: {error}"),
            Cause::NotHostName(value) => write!(
                f,
                "`{value}` is not a host name: its labels may have letters, digits, `-` (not at an end) and `_`; \
                 write other scripts in their `xn--` form"
            ),
            Cause::NotOurs(value, domains) => write!(
                f,
                "`{value}` is in none of the domains served ({domains}); add its domain with --domain, or write it \
                 without a dot to have it in the first one"
            ),
        }
    }
}

/// Reads a names file for a server of `domains`, line by line. A name without a dot is meant in the first of them.
///
/// # Errors
/// [`FileError`] for the first mistake, after the lines before it.
pub fn read(path: &Path, domains: &[Name], with: impl FnMut(Host)) -> Result<(), FileError> {
    parse(path, &file_error::read(path, "names file")?, domains, with)
}

/// The same of what has been read of the file.
///
/// # Errors
/// [`FileError`] for the first mistake, after the lines before it.
pub fn parse(
    path: &Path,
    bytes: &[u8],
    domains: &[Name],
    mut with: impl FnMut(Host),
) -> Result<(), FileError> {
    parse_numbered(path, bytes, domains, |_, host| with(host))
}

/// The same; `with` gets the number of each line, too.
///
/// # Errors
/// The same.
pub fn parse_numbered(
    path: &Path,
    bytes: &[u8],
    domains: &[Name],
    mut with: impl FnMut(usize, Host),
) -> Result<(), FileError> {
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        yield_every(LINES_AT_ONCE, i);
        let host = parse_line(line, domains).map_err(|cause| FileError::at(path, i + 1, cause))?;
        host.into_iter().for_each(|host| with(i + 1, host));
    }
    Ok(())
}

/// Lines that are read before others may have the CPU.
const LINES_AT_ONCE: usize = 64;

fn parse_line(line: &[u8], domains: &[Name]) -> Result<Option<Host>, Cause> {
    // A comment may be in any encoding.
    let line = line.split(|&byte| byte == b'#').next().unwrap_or_default();
    if line.len() > MAX_LINE_LEN {
        return Err(Cause::TooLong(line.len()));
    }
    let line = std::str::from_utf8(line).map_err(|_| Cause::NotText)?;
    let mut words = line.split_ascii_whitespace();
    let Some(address) = words.next() else { return Ok(None) };
    let parsed = address.parse::<IpAddr>().map_err(|_| match address.split_once('%') {
        Some((bare, _)) if bare.parse::<IpAddr>().is_ok() => Cause::ScopedAddress(shown(address)),
        _ => Cause::NoAddress(shown(address)),
    })?;
    let names = words.map(|word| parse_name(word, domains)).collect::<Result<SmallVec<_>, _>>()?;
    if names.is_empty() {
        return Err(Cause::NoName(shown(address)));
    }
    Ok(Some(Host { address: parsed, names }))
}

fn parse_name(word: &str, domains: &[Name]) -> Result<Name, Cause> {
    let bad = |error| Cause::BadName(shown(word), error);
    let mut name = Name::from_text(word).map_err(bad)?;
    if !name.labels().all(is_host_label) || name == Name::root() {
        return Err(Cause::NotHostName(shown(word)));
    }
    if name.labels().count() == 1
        && !word.ends_with('.')
        && let Some(first) = domains.first()
    {
        name = name.below(first).map_err(bad)?;
    }
    if domains.iter().any(|domain| name.is_within(domain)) {
        return Ok(name);
    }
    let served = domains.iter().map(|domain| domain.to_string()).collect::<Vec<_>>();
    Err(Cause::NotOurs(shown(word), served.join(", ")))
}

/// Letters, digits and inner hyphens (RFC 952, RFC 1123 §2.1), and the underscore that is in wide use.
fn is_host_label(label: &[u8]) -> bool {
    label.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && label.first() != Some(&b'-')
        && label.last() != Some(&b'-')
}

/// A value of a file, for people.
fn shown(value: &str) -> String {
    Excerpt(value).to_string()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn domains() -> Vec<Name> {
        ["redbreast.internal", "example.com"].map(|text| Name::from_text(text).unwrap()).into()
    }

    fn read_text(text: &[u8]) -> Result<Vec<Host>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hosts");
        fs::write(&path, text).unwrap();
        let mut hosts = Vec::new();
        let parsed = read(&path, &domains(), |host| hosts.push(host)).map(|()| hosts);
        parsed.map_err(|error| error.to_string().replace(&format!("{}/", dir.path().display()), ""))
    }

    #[test]
    fn hosts_files_are_read_as_the_system_reads_them() {
        let text = b"# comment \xff in any encoding\r\n\n10.0.0.1 web\tWWW.Example.COM # aliases\n\n  ::1\tlocalhost";
        let hosts = read_text(text).unwrap();
        let shown: Vec<_> =
            hosts.iter().map(|host| (host.address.to_string(), format!("{:?}", host.names))).collect();
        let expected = [
            ("10.0.0.1", "[web.redbreast.internal., WWW.Example.COM.]"),
            ("::1", "[localhost.redbreast.internal.]"),
        ];
        assert_eq!(shown, expected.map(|(a, b)| (a.to_owned(), b.to_owned())));
    }

    #[test]
    fn each_mistake_is_told_with_file_line_and_value() {
        let long = format!("10.0.0.1 {}", "a".repeat(64));
        let far_too_long = format!("\n10.0.0.1 {}", "a ".repeat(500_000));
        let one_too_many = format!("10.0.0.1 a{}", " ".repeat(MAX_LINE_LEN - 9));
        let longest = format!("10.0.0.1 a{}# {far_too_long}", " ".repeat(MAX_LINE_LEN - 10));
        assert!(read_text(longest.replace('\n', "").as_bytes()).is_ok(), "comments have any length");
        for (text, told) in [
            (&b"\n10.0.0.300 web"[..], "hosts:2: `10.0.0.300` is not an address"),
            (b"10.0.0.1", "hosts:1: `10.0.0.1` has no name"),
            (b"fe80::1%lo0 localhost", "hosts:1: `fe80::1%lo0` has a zone"),
            (b"10.0.0.1 a..b", "hosts:1: `a..b` is not a name"),
            (b"10.0.0.1 -a", "hosts:1: `-a` is not a host name"),
            (b"10.0.0.1 .", "hosts:1: `.` is not a host name"),
            ("10.0.0.1 bücher".as_bytes(), "hosts:1: `bücher` is not a host name"),
            (b"10.0.0.1 w\xff", "hosts:1: the line is not UTF-8"),
            (b"10.0.0.1 web.example.org", "hosts:1: `web.example.org` is in none of the domains served"),
            (b"10.0.0.1 web.", "hosts:1: `web.` is in none of the domains served"),
            (long.as_bytes(), "a label can have at most 63 bytes"),
            (
                far_too_long.as_bytes(),
                "hosts:2: the line has 1000009 bytes before its comment; it can have 65536",
            ),
            (one_too_many.as_bytes(), "hosts:1: the line has 65537 bytes"),
            (&[b'x'; MAX_LINE_LEN], "hosts:1: `xxxxxx"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.len() < 400, "{error}");
            assert!(error.contains(told), "{told}: {error}");
        }
    }

    #[test]
    fn a_missing_file_is_told() {
        let error = read(Path::new("/nonexistent/hosts"), &domains(), drop).unwrap_err().to_string();
        assert!(error.starts_with("/nonexistent/hosts: cannot read the names file: "), "{error}");
    }
}
