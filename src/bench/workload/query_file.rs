//! The queries of a run: dnsperf's `name type` a line, turned into packets ready to be sent.
//!
//! Read by the main thread before anything is sent; afterwards the sending threads only look. All packets lie in one
//! piece of memory: ten million of them are two allocations, and neighbours in the file are neighbours in the cache. A
//! line that is no query is left out and counted, as dnsperf does, or refuses the file where that is asked for.

use std::borrow::Cow;
use std::fmt;
use std::io;

use super::super::message::question_text;
use super::feed::Feed;
use super::tsig::Tsig;
use crate::wire::header;
use crate::wire::name::Name;
use crate::wire::record::{CLASS_IN, rtype};

/// UDP payload size announced by EDNS: what fits an IPv6 packet of the least MTU, as agreed on DNS flag day 2020.
const EDNS_PAYLOAD_LEN: u16 = 1_232;

/// Bad lines that are shown at most; the others are counted.
const MAX_EXAMPLES: usize = 10;

/// Bytes of an OPT record without options (RFC 6891 §6.1.2).
const OPT_LEN: usize = 11;

/// The OPT record that queries carry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Edns {
    /// Set the DO bit (RFC 3225): ask for DNSSEC records.
    pub dnssec_ok: bool,
    /// Options by code, in this order.
    pub options: Vec<(u16, Vec<u8>)>,
}

impl Edns {
    /// The option that asks a server for its name (RFC 5001).
    pub const NSID: (u16, Vec<u8>) = (3, Vec::new());

    fn opt_record(&self) -> Vec<u8> {
        let len = self.options.iter().map(|(_, value)| 4 + value.len()).sum::<usize>();
        let mut opt = vec![0]; // the root
        opt.extend_from_slice(&rtype::OPT.to_be_bytes());
        opt.extend_from_slice(&EDNS_PAYLOAD_LEN.to_be_bytes());
        opt.extend_from_slice(&[0, 0, if self.dnssec_ok { 0x80 } else { 0 }, 0]); // extended code, version, flags
        opt.extend_from_slice(&u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes());
        for (code, value) in &self.options {
            opt.extend_from_slice(&code.to_be_bytes());
            opt.extend_from_slice(&u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
            opt.extend_from_slice(value);
        }
        opt
    }
}

/// How queries are read.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// The OPT record that each carries.
    pub edns: Option<Edns>,
    /// A bad line refuses the file.
    pub strict: bool,
    /// Lines are kept as they stand, to be shown.
    pub keep_lines: bool,
    /// What each is signed with.
    pub tsig: Option<Tsig>,
}

/// Lines that were left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BadLines {
    /// How many.
    pub count: u64,
    /// What is wrong with the first of them.
    pub examples: Vec<String>,
}

impl BadLines {
    fn add(&mut self, error: &QueryFileError) {
        if self.examples.len() < MAX_EXAMPLES {
            self.examples.push(error.to_string());
        }
        self.count += 1;
    }
}

/// Lines of text, by query.
#[derive(Default)]
struct Lines {
    text: Vec<u8>,
    ends: Vec<usize>,
}

/// The queries of a run as packets, each with the id 0.
pub struct QueryFile {
    packets: Vec<u8>,
    /// Where each packet begins, and where the last one ends.
    starts: Vec<usize>,
    /// The OPT record that follows the question in each packet, and what the packet is signed with.
    opt: Vec<u8>,
    tsig: Option<Tsig>,
    /// Where packets are not made alike: bytes that follow the question, by packet.
    tails: Vec<u16>,
    /// The lines as they stand, if they are kept.
    lines: Option<Lines>,
    bad: BadLines,
    /// The queries that come after these.
    feed: Option<Feed<QueryFile>>,
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
        /// How many queries before it were good.
        good: u64,
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
            Self::BadLine { file, line, good, fault } => {
                write!(f, "{file}:{line}: {fault} ({good} good queries stand before it)")
            }
        }
    }
}

impl std::error::Error for QueryFileError {}

impl QueryFile {
    /// No queries yet.
    pub(super) fn begin(edns: Option<&Edns>) -> Self {
        Self::begin_as(&Reading { edns: edns.cloned(), ..Reading::default() })
    }

    /// No queries yet, to be made as is said.
    pub(super) fn begin_as(reading: &Reading) -> Self {
        Self {
            packets: Vec::new(),
            starts: vec![0],
            opt: reading.edns.as_ref().map_or_else(Vec::new, Edns::opt_record),
            tsig: reading.tsig.clone(),
            tails: Vec::new(),
            lines: reading.keep_lines.then(Lines::default),
            bad: BadLines::default(),
            feed: None,
        }
    }

    /// Leaves something out that is no query, or refuses the file for it.
    pub(super) fn leave_out(
        &mut self,
        error: QueryFileError,
        reading: &Reading,
    ) -> Result<(), QueryFileError> {
        if reading.strict {
            return Err(error);
        }
        self.bad.add(&error);
        Ok(())
    }

    /// Keeps the line of the query that was added last.
    pub(super) fn keep_line(&mut self, text: &[u8]) {
        if let Some(lines) = &mut self.lines {
            lines.text.extend_from_slice(text.trim_ascii_end());
            lines.ends.push(lines.text.len());
        }
    }

    /// Has others come after these.
    pub(super) fn followed_by(mut self, feed: Feed<Self>) -> Self {
        self.feed = Some(feed);
        self
    }

    /// What comes after these, if it does not stand in memory.
    #[must_use]
    pub fn feed(&self) -> Option<&Feed<Self>> {
        self.feed.as_ref()
    }

    /// Bytes of memory that they take, nearly.
    pub(super) fn memory_len(&self) -> usize {
        let lines_len =
            self.lines.as_ref().map_or(0, |lines| lines.text.len() + lines.ends.len() * size_of::<usize>());
        self.packets.len() + self.starts.len() * size_of::<usize>() + lines_len
    }

    /// Lines that were left out.
    #[must_use]
    pub fn bad_lines(&self) -> &BadLines {
        &self.bad
    }

    /// Query number `index` as it stands in the file, or else `name type`.
    ///
    /// # Panics
    /// If `index` is not below [`count`](Self::count).
    #[must_use]
    pub fn text(&self, index: u32) -> Cow<'_, str> {
        let Some(lines) = &self.lines else { return question_text(self.question(index)).into() };
        let index = index as usize;
        let begin = index.checked_sub(1).map_or(0, |before| lines.ends[before]);
        String::from_utf8_lossy(&lines.text[begin..lines.ends[index]])
    }

    /// All queries are there; refused if there are none.
    pub(super) fn end(mut self, file: &str) -> Result<Self, QueryFileError> {
        if self.starts.len() == 1 {
            return Err(QueryFileError::Empty { file: file.into() });
        }
        self.packets.shrink_to_fit();
        self.starts.shrink_to_fit();
        Ok(self)
    }

    /// Adds the query of a line that is written as nearly all are: a name of letters, digits, `-`, `_` and `*`, one
    /// space, and A or AAAA. Returns whether it is such a line; any other is left to [`add_line`](Self::add_line).
    pub(super) fn add_plain_line(&mut self, text: &[u8]) -> bool {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let (name, query_type) = if let Some(name) = text.strip_suffix(b" A") {
            (name, rtype::A)
        } else if let Some(name) = text.strip_suffix(b" AAAA") {
            (name, rtype::AAAA)
        } else {
            return false;
        };
        let name = name.strip_suffix(b".").unwrap_or(name);
        if name.is_empty() || name.len() > 253 || self.starts.len() > u32::MAX as usize {
            return false;
        }
        let begin = self.packets.len();
        self.push_header();
        let mut len_at = self.packets.len();
        self.packets.push(0);
        self.packets.extend_from_slice(name);
        self.packets.push(b'.');
        // Each dot becomes the length of the label behind it; the first length stands before the name.
        for at in len_at + 1..self.packets.len() {
            match self.packets[at] {
                b'.' => match u8::try_from(at - len_at - 1) {
                    Ok(len @ 1..64) => {
                        self.packets[len_at] = len;
                        len_at = at;
                    }
                    _ => {
                        self.packets.truncate(begin);
                        return false;
                    }
                },
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'*' => {}
                _ => {
                    self.packets.truncate(begin);
                    return false;
                }
            }
        }
        self.packets[len_at] = 0;
        self.push_rest(query_type);
        true
    }

    /// Adds the query of one line, if there is one.
    pub(super) fn add_line(&mut self, text: &[u8]) -> Result<(), String> {
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
        self.push(name.as_wire(), query_type)
    }

    /// Adds a query for a name in wire form.
    pub(super) fn push(&mut self, name: &[u8], query_type: u16) -> Result<(), String> {
        self.make_room()?;
        self.push_header();
        self.packets.extend_from_slice(name);
        self.push_rest(query_type);
        Ok(())
    }

    fn make_room(&self) -> Result<(), String> {
        if self.starts.len() > u32::MAX as usize {
            return Err(format!("there are more than the {} queries that a run can hold", u32::MAX));
        }
        Ok(())
    }

    fn push_header(&mut self) {
        let additional = u8::from(!self.opt.is_empty());
        let additional = additional + u8::from(self.tsig.is_some());
        // As dnsperf does, recursion is desired: a resolver is asked to resolve, an authority does not mind.
        self.packets.extend_from_slice(&[0, 0, header::RD, 0, 0, 1, 0, 0, 0, 0, 0, additional]);
    }

    fn push_rest(&mut self, query_type: u16) {
        self.packets.extend_from_slice(&query_type.to_be_bytes());
        self.packets.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.packets.extend_from_slice(&self.opt);
        if let Some(tsig) = &self.tsig {
            tsig.sign(&mut self.packets, self.starts[self.starts.len() - 1]);
        }
        self.starts.push(self.packets.len());
    }

    /// Adds a whole query as it was captured, with `tail_len` bytes behind its question, for a run of such alone.
    pub(super) fn push_packet(&mut self, packet: &[u8], tail_len: u16) -> Result<(), String> {
        self.make_room()?;
        self.packets.extend_from_slice(packet);
        let begin = self.packets.len() - packet.len();
        self.packets[begin..begin + 2].fill(0);
        self.starts.push(self.packets.len());
        self.tails.push(tail_len);
        Ok(())
    }

    /// Adds a whole message that was made here, with `tail_len` bytes behind its question, and what all are to carry.
    pub(super) fn push_message(&mut self, message: &[u8], tail_len: usize) -> Result<(), String> {
        self.make_room()?;
        let tail_len = tail_len + self.opt.len() + self.tsig.as_ref().map_or(0, Tsig::record_len);
        let tail_len = u16::try_from(tail_len)
            .map_err(|_| "it is longer than the 65535 bytes of a message".to_owned())?;
        let begin = self.packets.len();
        self.packets.extend_from_slice(message);
        self.packets[begin + header::ARCOUNT + 1] +=
            u8::from(!self.opt.is_empty()) + u8::from(self.tsig.is_some());
        self.packets.extend_from_slice(&self.opt);
        if let Some(tsig) = &self.tsig {
            tsig.sign(&mut self.packets, begin);
        }
        self.starts.push(self.packets.len());
        self.tails.push(tail_len);
        Ok(())
    }

    /// Bytes of options in the OPT record of each query; none if they have no such record.
    #[must_use]
    pub fn options_len(&self) -> Option<usize> {
        self.opt.len().checked_sub(OPT_LEN)
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
        let tail_len = match self.tails.get(index) {
            Some(&len) => len.into(),
            None => self.opt.len() + self.tsig.as_ref().map_or(0, Tsig::record_len),
        };
        &self.packets[self.starts[index] + header::LEN..self.starts[index + 1] - tail_len]
    }
}

fn is_comment(field: &str) -> bool {
    field.starts_with([';', '#'])
}

#[cfg(test)]
mod tests {
    use super::super::line_reader::MAX_LINE_LEN;
    use super::*;
    use std::path::Path;

    fn read(text: &[u8], edns: Option<&Edns>) -> Result<QueryFile, QueryFileError> {
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
            let queries = read(b"a.b PTR", Some(&Edns { dnssec_ok, options: Vec::new() })).unwrap();
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
            assert!(error.ends_with("(1 good queries stand before it)"), "{error}");
            assert!(error.contains(value) && error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_bad_line_is_left_out_and_counted_unless_that_is_strict() {
        let long = "x".repeat(3 * MAX_LINE_LEN);
        let text = format!("ok.example A\nwww..com A\n{long} A\n  Also.OK   aaaa ; here\r\nbad\n");
        let reading = Reading { keep_lines: true, ..Reading::default() };
        let queries = QueryFile::read_as(text.as_bytes(), "q", &reading).unwrap();
        assert_eq!((queries.count(), queries.bad_lines().count), (2, 3));
        let told = queries.bad_lines().examples.join("\n");
        for part in ["q:2: `www..com`", "q:3: a line of more than", "q:5: `bad` has no type"] {
            assert!(told.contains(part), "{told}");
        }
        assert_eq!((&*queries.text(0), &*queries.text(1)), ("ok.example A", "  Also.OK   aaaa ; here"));
        let plain = read(b"Also.OK aaaa", None).unwrap();
        assert_eq!(plain.text(0), "Also.OK AAAA", "without lines that are kept it is told from the question");
        let strict = Reading { strict: true, ..Reading::default() };
        assert!(QueryFile::read_as(text.as_bytes(), "q", &strict).is_err());
        assert!(QueryFile::read_as(&b"bad\nworse\n"[..], "q", &reading).is_err(), "nothing is left to send");
        let many =
            QueryFile::read_as(format!("a A\n{}", "bad\n".repeat(50)).as_bytes(), "q", &reading).unwrap();
        assert_eq!((many.bad_lines().count, many.bad_lines().examples.len()), (50, MAX_EXAMPLES));
    }

    #[test]
    fn the_longest_line_takes_nothing_of_the_next() {
        let padded = |begin: &str| begin.to_owned() + &"x".repeat(MAX_LINE_LEN - begin.len());
        let (good, bad, too_long) = (padded("a A ;"), padded("a A "), padded("a A ;") + "x");
        for (line, count, bad_lines) in [(good, 2, 0), (bad, 1, 1), (too_long, 1, 1)] {
            let text = format!("{line}\nb A\n");
            let queries = QueryFile::read_as(text.as_bytes(), "q", &Reading::default()).unwrap();
            assert_eq!((queries.count(), queries.bad_lines().count), (count, bad_lines), "{}", &line[..5]);
            assert_eq!(queries.text(count - 1), "b A");
        }
    }

    #[test]
    fn options_follow_in_the_opt_record() {
        let edns = Edns { dnssec_ok: false, options: vec![Edns::NSID, (65_001, b"hello".to_vec())] };
        let queries = read(b"a.b A\na.b PTR", Some(&edns)).unwrap();
        for i in 0..2 {
            assert!(
                queries.packet(i).ends_with(b"\0\0\x29\x04\xd0\0\0\0\0\0\x0d\0\x03\0\0\xfd\xe9\0\x05hello")
            );
            assert!(queries.question(i).starts_with(b"\x01a\x01b\0"));
        }
        assert_eq!(queries.options_len(), Some(13));
    }

    #[test]
    fn plain_lines_become_what_they_would_by_the_long_way() {
        let long = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(61));
        let too_long = format!("{long}b");
        for name in [
            "www.Example.com",
            "www.example.com.",
            "a",
            "*.x_y-z.0",
            ".",
            "..",
            ".a",
            "a..b",
            "a.b..",
            "",
            &long,
            &too_long,
        ] {
            for rest in [" A", " AAAA", " A\n", "  A", " A ", " NS", " AAAA\r\n"] {
                let line = format!("{name}{rest}");
                let (mut quick, mut slow) = (QueryFile::begin(None), QueryFile::begin(None));
                let taken = quick.add_plain_line(line.as_bytes());
                let added = slow.add_line(line.as_bytes());
                assert!(!taken || added.is_ok(), "{line:?}");
                assert!(!taken || quick.packets == slow.packets && quick.starts == slow.starts, "{line:?}");
                assert!(taken || quick.packets.is_empty() && quick.starts == [0], "{line:?}");
            }
        }
        assert!(QueryFile::begin(None).add_plain_line(b"www.example.com A\n"));
    }

    #[test]
    fn a_file_that_is_missing_or_without_queries_is_refused() {
        let error = read(b"; nothing\n\n", None).err().unwrap().to_string();
        assert!(error.starts_with("queries.txt: holds no query"), "{error}");
        let error = QueryFile::open(Path::new("/nonexistent/q"), None).err().unwrap().to_string();
        assert!(error.starts_with("/nonexistent/q: cannot be read"), "{error}");
    }
}
