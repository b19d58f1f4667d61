//! The queries of a run: dnsperf's `name type` a line, turned into packets ready to be sent.
//!
//! Read by the main thread before anything is sent; afterwards the sending threads only look. All packets lie in one
//! piece of memory: ten million of them are two allocations, and neighbours in the file are neighbours in the cache.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use crate::wire::header;
use crate::wire::name::Name;
use crate::wire::record::{CLASS_IN, rtype};

/// Bytes in a line at most. The longest name is 255 bytes of up to four characters (`\DDD`) each, so a longer line
/// cannot be right, and a file that is no text is refused before it fills the memory.
const MAX_LINE_LEN: usize = 2_048;

/// UDP payload size announced by EDNS: what fits an IPv6 packet of the least MTU, as agreed on DNS flag day 2020.
const EDNS_PAYLOAD_LEN: u16 = 1_232;

/// Bytes of an OPT record without options (RFC 6891 §6.1.2).
const OPT_LEN: usize = 11;

/// The OPT record that queries carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// Set the DO bit (RFC 3225): ask for DNSSEC records.
    pub dnssec_ok: bool,
}

/// The queries of a run as packets, each with the id 0.
pub struct QueryFile {
    packets: Vec<u8>,
    /// Where each packet begins, and where the last one ends.
    starts: Vec<usize>,
    /// Bytes that follow the question in each packet.
    opt_len: usize,
}

/// Why a query file was refused. Nothing has been sent.
#[derive(Debug)]
pub enum QueryFileError {
    /// The file cannot be opened or read.
    Unreadable {
        /// Its path.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// There is not one query in the file.
    Empty {
        /// Its path.
        file: String,
    },
    /// A line is not `name type`.
    BadLine {
        /// The file's path.
        file: String,
        /// The line's number, from 1.
        line: u64,
        /// What is wrong, with the value, and what was expected.
        fault: String,
    },
}

impl fmt::Display for QueryFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { file, error } => write!(f, "{file}: cannot be read: {error}"),
            Self::Empty { file } => {
                write!(f, "{file}: holds no query; expected lines `name type`, like `www.example.com AAAA`")
            }
            Self::BadLine { file, line, fault } => write!(f, "{file}:{line}: {fault}"),
        }
    }
}

impl std::error::Error for QueryFileError {}

impl QueryFile {
    /// Reads the file at `path`.
    ///
    /// # Errors
    /// A [`QueryFileError`].
    pub fn open(path: &Path, edns: Option<Edns>) -> Result<Self, QueryFileError> {
        let file = path.display().to_string();
        match File::open(path) {
            Ok(source) => Self::read(BufReader::with_capacity(1 << 18, source), &file, edns),
            Err(error) => Err(QueryFileError::Unreadable { file, error }),
        }
    }

    /// Reads queries from `source`, which is called `file` in errors.
    ///
    /// # Errors
    /// A [`QueryFileError`].
    pub fn read(mut source: impl BufRead, file: &str, edns: Option<Edns>) -> Result<Self, QueryFileError> {
        let opt_len = if edns.is_some() { OPT_LEN } else { 0 };
        let mut queries = Self { packets: Vec::new(), starts: vec![0], opt_len };
        let mut text = Vec::new();
        for line in 1.. {
            text.clear();
            let mut limited = (&mut source).take(MAX_LINE_LEN as u64 + 1);
            let read = limited.read_until(b'\n', &mut text);
            match read.map_err(|error| QueryFileError::Unreadable { file: file.into(), error })? {
                0 => break,
                len if len > MAX_LINE_LEN => Err(format!("a line of more than {MAX_LINE_LEN} bytes")),
                _ => queries.add_line(&text, edns),
            }
            .map_err(|fault| QueryFileError::BadLine { file: file.into(), line, fault })?;
        }
        if queries.starts.len() == 1 {
            return Err(QueryFileError::Empty { file: file.into() });
        }
        queries.packets.shrink_to_fit();
        queries.starts.shrink_to_fit();
        Ok(queries)
    }

    /// Adds the query of one line, if there is one.
    fn add_line(&mut self, text: &[u8], edns: Option<Edns>) -> Result<(), String> {
        let text = std::str::from_utf8(text).map_err(|_| {
            let lossy = String::from_utf8_lossy(text);
            format!("`{}` is not UTF-8; bytes other than letters are written \\DDD", lossy.trim_end())
        })?;
        let mut fields = text.split_ascii_whitespace();
        let Some(name_text) = fields.next().filter(|first| !is_comment(first)) else { return Ok(()) };
        let name = Name::from_text(name_text)
            .map_err(|error| format!("`{name_text}` is not a domain name: {error}; expected `name type`"))?;
        let Some(type_text) = fields.next().filter(|field| !is_comment(field)) else {
            return Err(format!("`{}` has no type; expected `name type`, like `{name_text} A`", text.trim()));
        };
        let query_type = rtype::from_text(type_text).ok_or_else(|| {
            format!("`{type_text}` is not a record type; expected one like A, AAAA, PTR or TYPE65")
        })?;
        if let Some(extra) = fields.next().filter(|field| !is_comment(field)) {
            return Err(format!("`{extra}` follows the type; expected `name type` and no more"));
        }
        if self.starts.len() > u32::MAX as usize {
            return Err(format!("there are more than the {} queries that a run can hold", u32::MAX));
        }
        self.push(&name, query_type, edns);
        Ok(())
    }

    fn push(&mut self, name: &Name, query_type: u16, edns: Option<Edns>) {
        let additional = u8::from(edns.is_some());
        // As dnsperf does, recursion is desired: a resolver is asked to resolve, an authority does not mind.
        self.packets.extend_from_slice(&[0, 0, header::RD, 0, 0, 1, 0, 0, 0, 0, 0, additional]);
        self.packets.extend_from_slice(name.as_wire());
        self.packets.extend_from_slice(&query_type.to_be_bytes());
        self.packets.extend_from_slice(&CLASS_IN.to_be_bytes());
        if let Some(Edns { dnssec_ok }) = edns {
            let flags = if dnssec_ok { 0x80 } else { 0 };
            self.packets.push(0); // the root
            self.packets.extend_from_slice(&rtype::OPT.to_be_bytes());
            self.packets.extend_from_slice(&EDNS_PAYLOAD_LEN.to_be_bytes());
            self.packets.extend_from_slice(&[0, 0, flags, 0, 0, 0]); // extended code, version, flags, no options
        }
        self.starts.push(self.packets.len());
    }

    /// Queries in the file.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.starts.len() - 1).unwrap_or(u32::MAX) // bounded by `add_line`
    }

    /// The packet of query number `index`, its id 0.
    ///
    /// # Panics
    /// If `index` is not below [`count`](Self::count).
    #[inline]
    #[must_use]
    pub fn packet(&self, index: u32) -> &[u8] {
        let index = index as usize;
        &self.packets[self.starts[index]..self.starts[index + 1]]
    }

    /// The question of query number `index`: name, type and class as on the wire.
    ///
    /// # Panics
    /// If `index` is not below [`count`](Self::count).
    #[inline]
    #[must_use]
    pub fn question(&self, index: u32) -> &[u8] {
        let index = index as usize;
        &self.packets[self.starts[index] + header::LEN..self.starts[index + 1] - self.opt_len]
    }
}

fn is_comment(field: &str) -> bool {
    field.starts_with([';', '#'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], edns: Option<Edns>) -> Result<QueryFile, QueryFileError> {
        QueryFile::read(text, "queries.txt", edns)
    }

    #[test]
    fn lines_become_packets_and_comments_nothing() {
        let text =
            b"; a comment\n# another\n\n  \t\nwww.Example.com A\r\n\texample.com.  aaaa ; why\n. TYPE65280";
        let queries = read(text, None).unwrap();
        assert_eq!(queries.count(), 3);
        let expected = b"\0\0\x01\0\0\x01\0\0\0\0\0\0\x03www\x07Example\x03com\0\0\x01\0\x01";
        assert_eq!(queries.packet(0), expected);
        assert_eq!(queries.question(0), &expected[12..]);
        assert_eq!(queries.question(1), b"\x07example\x03com\0\0\x1c\0\x01");
        assert_eq!(queries.question(2), b"\0\xff\0\0\x01");
    }

    #[test]
    fn edns_adds_an_opt_record_behind_the_question() {
        let plain = read(b"a.b PTR", None).unwrap();
        for (dnssec_ok, flags) in [(false, 0), (true, 0x80)] {
            let queries = read(b"a.b PTR", Some(Edns { dnssec_ok })).unwrap();
            assert_eq!(queries.question(0), plain.question(0));
            let packet = queries.packet(0);
            assert_eq!(packet[header::ARCOUNT..header::LEN], [0, 1]);
            assert_eq!(packet[packet.len() - OPT_LEN..], [0, 0, 41, 4, 208, 0, 0, flags, 0, 0, 0]);
        }
    }

    #[test]
    fn a_bad_line_is_named_with_its_number_its_value_and_what_was_expected() {
        let long = [b'a'; MAX_LINE_LEN + 1];
        for (bad, value, expected) in [
            (&b"www.example.com"[..], "www.example.com", "expected `name type`"),
            (b"www.example.com ; A", "www.example.com", "expected `name type`"),
            (b"www..com A", "www..com", "expected `name type`"),
            (b"www.example.com BOGUS", "BOGUS", "expected one like A"),
            (b"www.example.com IN A", "IN", "expected one like A"),
            (b"www.example.com A 5", "5", "and no more"),
            (b"\xff.com A", "is not UTF-8", "\\DDD"),
            (&long, "more than 2048 bytes", ""),
        ] {
            let text = [b"ok.example A\n; fine\n", bad, b"\nalso.ok A\n"].concat();
            let error = read(&text, None).err().unwrap().to_string();
            assert!(error.starts_with("queries.txt:3: "), "{error}");
            assert!(error.contains(value) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_missing_or_without_queries_is_refused() {
        let error = read(b"; nothing\n\n", None).err().unwrap().to_string();
        assert!(error.starts_with("queries.txt: holds no query"), "{error}");
        let error = QueryFile::open(Path::new("/nonexistent/q"), None).err().unwrap().to_string();
        assert!(error.starts_with("/nonexistent/q: cannot be read"), "{error}");
    }
}
