//! Parsing a query in place: header, one question, and the OPT record if there is one.
//!
//! Runs on the workers, for every packet: no allocation, no panic, bounds checked by the slice accesses themselves.

use super::edns::{BadOption, Edns};
use super::header::{self, u16_at};
use super::name::{FOLD_LEN, HashSeed, MAX_LEN, NameFault, QueryName};
use super::record::rtype;

/// The smallest buffer a query may be parsed and answered in. The longest name is loaded from it by whole words, and
/// a response of 512 bytes, which every client takes, has to fit.
pub const MIN_BUFFER_LEN: usize = 512;

const _: () = assert!(MIN_BUFFER_LEN >= header::LEN + FOLD_LEN);

/// A well-formed query with one question, whose name is in the [`QueryName`] it was parsed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Type asked for.
    pub qtype: u16,
    /// Class asked for.
    pub qclass: u16,
    /// Where the question ends and the answer section will begin. A query for a cookie alone has no question: then it
    /// is the end of the header (RFC 7873 §5.4).
    pub question_end: usize,
    /// What the client said by EDNS(0), if it did.
    pub edns: Option<Edns>,
    /// It has a signature (TSIG, RFC 8945), which nobody has looked at.
    pub signed: bool,
}

/// Why a packet is no query we can look up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Less than a header: there is not even an id to answer to.
    Short,
    /// A response. Answering one could begin an endless exchange between two servers.
    Response,
    /// An operation other than a standard query.
    Opcode,
    /// Not exactly one question; or none and no cookie either, which alone may be asked for without a question.
    QuestionCount,
    /// The question's name is malformed.
    Name(NameFault),
    /// The message ends inside the question's type or class.
    QuestionTruncated,
    /// A record behind the question or an EDNS option is malformed, there are two OPT records, or bytes follow the
    /// last.
    Records,
}

impl Query {
    /// Parses the first `len` bytes of `buffer` and folds the question's name into `name`.
    ///
    /// # Errors
    /// A [`Fault`].
    ///
    /// # Panics
    /// If `buffer` has less than [`MIN_BUFFER_LEN`] bytes: a fault of the transport, whatever the packet says.
    #[inline]
    pub fn parse(buffer: &[u8], len: usize, name: &mut QueryName, seed: HashSeed) -> Result<Self, Fault> {
        Self::parse_with(buffer, len, || name.fold_question(buffer, len, seed))
    }

    /// The same where the question's name may have been read already: `name_len` does that, or only tells its length.
    ///
    /// # Errors
    /// A [`Fault`].
    ///
    /// # Panics
    /// As [`parse`](Self::parse).
    #[inline]
    fn parse_with(
        buffer: &[u8],
        len: usize,
        name_len: impl FnOnce() -> Result<usize, NameFault>,
    ) -> Result<Self, Fault> {
        let mut query = Self::default();
        query.read(buffer, len, name_len)?;
        Ok(query)
    }

    /// The same into what is a [default](Self::default) query before.
    ///
    /// # Errors
    /// A [`Fault`]; the query is then of no use.
    ///
    /// # Panics
    /// As [`parse`](Self::parse).
    #[inline(always)]
    pub fn read(
        &mut self,
        buffer: &[u8],
        len: usize,
        name_len: impl FnOnce() -> Result<usize, NameFault>,
    ) -> Result<(), Fault> {
        assert!(buffer.len() >= MIN_BUFFER_LEN && len <= buffer.len());
        if len < header::LEN {
            return Err(Fault::Short);
        }
        if buffer[2] & header::QR != 0 {
            return Err(Fault::Response);
        }
        if (buffer[2] & header::OPCODE_MASK) >> 3 != header::OPCODE_QUERY {
            return Err(Fault::Opcode);
        }
        if u16_at(buffer, header::QDCOUNT) != 1 {
            *self = parse_without_question(&buffer[..len])?;
            return Ok(());
        }
        let name_end = header::LEN + name_len().map_err(Fault::Name)?;
        let question_end = name_end + 4;
        if question_end > len {
            return Err(Fault::QuestionTruncated);
        }
        // Often nothing follows.
        if buffer[header::ANCOUNT..header::LEN] != [0; 6] || question_end != len {
            (self.edns, self.signed) = parse_records(&buffer[..len], question_end)?;
        }
        self.qtype = u16_at(buffer, name_end);
        self.qclass = u16_at(buffer, name_end + 2);
        self.question_end = question_end;
        Ok(())
    }
}

impl QueryName {
    /// Reads the name of the question in the first `len` bytes of `buffer`; returns its length.
    ///
    /// # Errors
    /// A [`NameFault`]; the name is then unspecified but harmless.
    ///
    /// # Panics
    /// If `buffer` has less than [`MIN_BUFFER_LEN`] bytes.
    #[inline]
    pub fn fold_question(&mut self, buffer: &[u8], len: usize, seed: HashSeed) -> Result<usize, NameFault> {
        let window = buffer[header::LEN..][..FOLD_LEN].try_into().expect("a slice of that length");
        self.fold(window, len.saturating_sub(header::LEN), seed)
    }
}

impl Query {
    /// Whether there is a question; without one the query is for a cookie alone.
    #[inline]
    #[must_use]
    pub fn has_question(&self) -> bool {
        self.question_end > header::LEN
    }
}

/// A query for a cookie alone (RFC 7873 §5.4), if it is one.
#[cold]
fn parse_without_question(message: &[u8]) -> Result<Query, Fault> {
    if u16_at(message, header::QDCOUNT) != 0 {
        return Err(Fault::QuestionCount);
    }
    match parse_records(message, header::LEN) {
        Ok((edns @ Some(Edns { cookie: Some(_), .. }), signed)) => {
            Ok(Query { qtype: 0, qclass: 0, question_end: header::LEN, edns, signed })
        }
        _ => Err(Fault::QuestionCount),
    }
}

/// What of a message that is no query can still be told to its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remains {
    /// Where the question ends, which goes back; the end of the header if there is not one well-formed question.
    pub question_end: usize,
    /// The sender speaks EDNS, and so has to be answered with it (RFC 6891 §6.1.1).
    pub has_opt: bool,
    /// It has set DO, which goes back too (RFC 3225 §3).
    pub dnssec_ok: bool,
}

/// Looks for what can still be used in a `message` that was refused. At least its header is there.
#[cold]
#[must_use]
pub fn salvage(message: &[u8]) -> Remains {
    let mut remains = Remains { question_end: header::LEN, has_opt: false, dnssec_ok: false };
    let questions = u16_at(message, header::QDCOUNT);
    let mut at = header::LEN;
    for _ in 0..questions {
        let name_end = skip_name(message, at);
        let Some(end) = name_end.map(|end| end + 4).filter(|&end| end <= message.len()) else {
            return remains;
        };
        at = end;
    }
    if questions == 1 && is_plain_name(&message[header::LEN..at - 4]) {
        remains.question_end = at;
    }
    let counts = [header::ANCOUNT, header::NSCOUNT, header::ARCOUNT];
    let records: u32 = counts.iter().map(|&count| u32::from(u16_at(message, count))).sum();
    for _ in 0..records {
        let Some(fixed) = skip_name(message, at).filter(|&fixed| fixed + 10 <= message.len()) else { break };
        if !remains.has_opt && message[at] == 0 && u16_at(message, fixed) == rtype::OPT {
            remains.has_opt = true;
            remains.dnssec_ok = message[fixed + 6] & 0x80 != 0;
        }
        at = fixed + 10 + usize::from(u16_at(message, fixed + 8));
    }
    remains
}

/// Walks the records behind the question, of which only OPT means anything in a query; and tells whether the last one
/// is a signature.
#[inline(never)]
fn parse_records(message: &[u8], mut at: usize) -> Result<(Option<Edns>, bool), Fault> {
    let elsewhere = u32::from(u16_at(message, header::ANCOUNT)) + u32::from(u16_at(message, header::NSCOUNT));
    let records = elsewhere + u32::from(u16_at(message, header::ARCOUNT));
    let (mut edns, mut signed) = (None, false);
    // Each record takes at least eleven bytes of the message, so the message bounds this loop, not the counts.
    for i in 0..records {
        let owner = at;
        at = skip_name(message, at).ok_or(Fault::Records)?;
        let (fixed, rest) =
            message.get(at..).and_then(<[u8]>::split_first_chunk::<10>).ok_or(Fault::Records)?;
        let data = rest.get(..u16_at(fixed, 8).into()).ok_or(Fault::Records)?;
        if u16_at(fixed, 0) == rtype::OPT {
            // Its owner is the root, its place the additional section, and there is one (RFC 6891 §6.1.1).
            if message[owner] != 0 || i < elsewhere || edns.is_some() {
                return Err(Fault::Records);
            }
            edns = Some(Edns::parse(fixed, at + fixed.len(), data).map_err(|BadOption| Fault::Records)?);
        }
        signed = u16_at(fixed, 0) == rtype::TSIG;
        at += fixed.len() + data.len();
    }
    if at == message.len() { Ok((edns, signed)) } else { Err(Fault::Records) }
}

/// Whether `name`, which was skipped before, has no pointer and no more bytes than a name can have.
fn is_plain_name(name: &[u8]) -> bool {
    let mut label = 0;
    while let Some(&len @ 1..=63) = name.get(label) {
        label += 1 + usize::from(len);
    }
    name.len() <= MAX_LEN && label + 1 == name.len()
}

/// Where the name at `at` ends; `None` if the message ends before. A pointer ends a name; what it points at is never
/// followed, so it cannot loop.
#[must_use]
pub fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len @ 1..=63 => at += 1 + usize::from(len),
            0xc0.. => return Some(at + 2),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: &[u8] =
        b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x03web\x09redbreast\x08internal\0\0\x01\0\x01";
    const OPT: &[u8] = b"\0\0\x29\x04\xd0\0\0\x80\0\0\0";

    fn parse(message: &[u8]) -> Result<Query, Fault> {
        let mut buffer = vec![0xee; MIN_BUFFER_LEN.max(message.len())];
        buffer[..message.len()].copy_from_slice(message);
        Query::parse(&buffer, message.len(), &mut QueryName::default(), HashSeed::from_words(1, 2))
    }

    fn with(at: usize, byte: u8, more: &[u8]) -> Vec<u8> {
        let mut message = [QUESTION, more].concat();
        message[at] = byte;
        message
    }

    #[test]
    fn a_plain_query_is_read() {
        let query = parse(QUESTION).unwrap();
        assert_eq!((query.qtype, query.qclass, query.question_end), (1, 1, QUESTION.len()));
        assert_eq!(query.edns, None);
    }

    #[test]
    fn the_opt_record_is_read() {
        let query = parse(&with(11, 1, OPT)).unwrap();
        assert_eq!(query.edns, Some(Edns { udp_payload_size: 1232, dnssec_ok: true, ..Edns::default() }));
    }

    #[test]
    fn every_truncation_is_a_fault() {
        let message = with(11, 1, OPT);
        for len in 0..message.len() {
            assert!(parse(&message[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn faults_are_told_apart() {
        assert_eq!(parse(&QUESTION[..11]), Err(Fault::Short));
        assert_eq!(parse(&with(2, 0x81, b"")), Err(Fault::Response));
        assert_eq!(parse(&with(2, 0x28, b"")), Err(Fault::Opcode));
        assert_eq!(parse(&with(5, 0, b"")), Err(Fault::QuestionCount));
        assert_eq!(parse(&with(5, 2, b"")), Err(Fault::QuestionCount));
        assert_eq!(parse(&with(12, 0xc0, b"")), Err(Fault::Name(NameFault::BadLabel)));
        assert_eq!(parse(&QUESTION[..QUESTION.len() - 1]), Err(Fault::QuestionTruncated));
        assert_eq!(parse(&with(11, 0, b"\0")), Err(Fault::Records), "bytes behind the last record");
        assert_eq!(parse(&with(11, 2, &[OPT, OPT].concat())), Err(Fault::Records), "two OPT records");
        assert_eq!(parse(&with(7, 1, OPT)), Err(Fault::Records), "OPT in the answer section");
        assert_eq!(parse(&with(11, 255, b"")), Err(Fault::Records), "a count without its records");
    }

    #[test]
    fn a_cookie_may_be_asked_for_without_a_question() {
        let cookie = b"\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x08clientck";
        let header = b"\x12\x34\x01\0\0\0\0\0\0\0\0\x01";
        let query = parse(&[&header[..], cookie].concat()).unwrap();
        assert!(!query.has_question() && query.edns.unwrap().cookie.is_some());
        assert_eq!(parse(&[&header[..], OPT].concat()), Err(Fault::QuestionCount), "no cookie");
    }

    #[test]
    fn what_is_left_of_a_refused_message_is_its_question_and_that_it_had_opt() {
        let end = QUESTION.len();
        let remains = |question_end, has_opt| Remains { question_end, has_opt, dnssec_ok: has_opt };
        assert_eq!(salvage(&with(11, 2, &[OPT, OPT].concat())), remains(end, true));
        assert_eq!(salvage(&with(11, 1, b"\0\x01")), remains(end, false), "half a record");
        assert_eq!(salvage(&with(5, 2, &[&QUESTION[12..], OPT].concat())), remains(12, false), "no ARCOUNT");
        let mut two = with(5, 2, &[&QUESTION[12..], OPT].concat());
        two[11] = 1;
        assert_eq!(salvage(&two), remains(12, true));
        for pointer in [b"\xc0\0", b"\xc0\x0c"] {
            let question = [&QUESTION[..12], pointer, b"\0\x01\0\x01"].concat();
            assert_eq!(salvage(&question), remains(12, false), "a pointer is not echoed");
        }
        let long = [
            &QUESTION[..12],
            &b"\x3faaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa".repeat(4)[..],
            b"\0\0\x01\0\x01",
        ];
        assert_eq!(salvage(&long.concat()), remains(12, false), "a name of 257 bytes");
        for len in 12..QUESTION.len() {
            assert_eq!(salvage(&QUESTION[..len]), remains(12, false), "{len}");
        }
    }

    #[test]
    fn a_pointer_that_points_at_itself_is_skipped_not_followed() {
        let loop_at = u8::try_from(QUESTION.len()).unwrap();
        let record = [&[0xc0, loop_at][..], b"\0\x01\0\x01\0\0\0\0\0\0"].concat();
        assert!(parse(&with(11, 1, &record)).is_ok());
    }
}
