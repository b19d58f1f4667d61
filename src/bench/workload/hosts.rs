//! Queries from a hosts file: each name, with the type of each of its addresses.

use std::fs;
use std::net::IpAddr;
use std::path::Path;

use super::query_file::{QueryFile, QueryFileError, Reading};
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Reads `address name...` lines, and makes a query for each name: A or AAAA, as its address is.
///
/// # Errors
/// A [`QueryFileError`].
pub fn open(path: &Path, reading: &Reading) -> Result<QueryFile, QueryFileError> {
    let file = path.display().to_string();
    let text =
        fs::read_to_string(path).map_err(|error| QueryFileError::Unreadable { file: file.clone(), error })?;
    read(&text, &file, reading)
}

fn read(text: &str, file: &str, reading: &Reading) -> Result<QueryFile, QueryFileError> {
    let mut queries = QueryFile::begin_as(reading);
    for (line, text) in (1..).zip(text.lines()) {
        let good = u64::from(queries.count());
        add_line(text, &mut queries).map_err(|fault| QueryFileError::BadLine {
            file: file.into(),
            line,
            good,
            fault,
        })?;
    }
    queries.end(file)
}

fn add_line(text: &str, queries: &mut QueryFile) -> Result<(), String> {
    let mut fields = text.split('#').next().unwrap_or_default().split_ascii_whitespace();
    let Some(address) = fields.next() else { return Ok(()) };
    let bare = address.split('%').next().unwrap_or_default(); // a zone index says where, not what
    let query_type = match bare.parse() {
        Ok(IpAddr::V4(_)) => rtype::A,
        Ok(IpAddr::V6(_)) => rtype::AAAA,
        Err(_) => return Err(format!("`{address}` is not an address; expected `address name...`")),
    };
    let mut names = fields.peekable();
    if names.peek().is_none() {
        return Err(format!("`{address}` has no name; expected `address name...`"));
    }
    for name in names {
        let name =
            Name::from_text(name).map_err(|error| format!("`{name}` is not a domain name: {error}"))?;
        queries.push(name.as_wire(), query_type)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_asked_for_by_the_type_of_its_address() {
        let text = "# hosts\n127.0.0.1 localhost a.b\n\nfe80::1%lo0 six # and so on\n";
        let queries = read(text, "hosts", &Reading::default()).unwrap();
        let questions: Vec<_> = (0..queries.count()).map(|i| queries.question(i)).collect();
        let expected: [&[u8]; 3] =
            [b"\x09localhost\0\0\x01\0\x01", b"\x01a\x01b\0\0\x01\0\x01", b"\x03six\0\0\x1c\0\x01"];
        assert_eq!(questions, expected);
    }

    #[test]
    fn bad_lines_are_named() {
        for (line, words) in [
            ("localhost 127.0.0.1", "is not an address"),
            ("::1", "has no name"),
            ("::1 a..b", "not a domain name"),
        ] {
            let error =
                read(&format!("::1 ok\n{line}\n"), "hosts", &Reading::default()).err().unwrap().to_string();
            assert!(error.starts_with("hosts:2: ") && error.contains(words), "{error}");
        }
        assert!(
            read("# nothing\n", "hosts", &Reading::default()).err().unwrap().to_string().contains("no query")
        );
    }
}
