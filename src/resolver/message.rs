//! What a worker makes of the answers of the servers that it asks: whether they are answers, and why not.
//!
//! Runs on the workers. What comes in may be from anybody who has guessed a port and an id, so nothing of it is
//! believed before it fits the query; and no bytes make this panic, take long, or allocate once the [`AnswerBuffer`]
//! has grown.

use super::question::Question;
use super::rewrite::Malformed;
use super::sanitize::{AnswerBuffer, Reached};
use crate::wire::header::{self, rcode, u16_at};
use crate::wire::name::{HashSeed, QueryName};
use crate::wire::record::CLASS_IN;

/// What the answer to a query has to fit.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The id that it was sent with.
    pub id: u16,
    /// What was asked.
    pub question: Question<'a>,
    /// Its name as it was sent, case and all.
    pub sent_name: &'a [u8],
    /// The case of the letters has to come back as it was sent. Most servers do so.
    pub exact_case: bool,
    /// It was sent over a stream, where no answer has a reason to be truncated.
    pub over_stream: bool,
    /// It was sent with EDNS(0).
    pub edns: bool,
    /// Answers whose aliases have led to this question, if it is not the first.
    pub before: &'a [Box<[u8]>],
}

/// Why there is no answer in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no answer to what was asked, by its id, flags or question: perhaps forged, to be counted and ignored.
    Mismatch,
    /// It is one, but broken, or too large to be passed on: this upstream has failed.
    Malformed,
    /// It leads by aliases to another name and says nothing of that, or says it for others: to be asked for by a
    /// question of its own.
    Alias,
    /// It did not fit in a datagram: to be asked again over a stream.
    Truncated,
    /// The upstream does not know EDNS(0): to be asked again without.
    NoEdns,
    /// The upstream says that it could not, or would not: another one is to be asked.
    Failed {
        /// The response code, with the upper bits that the OPT record has (RFC 6891 §6.1.3).
        rcode: u16,
        /// Why, by the number of an extended error (RFC 8914), if the upstream tells.
        extended_error: Option<u16>,
    },
}

/// Reads an answer to what is `expected`; what of it can be passed on is then in `out`. That is said in full there. Of
/// names on a chain of aliases `is_theirs` says whether they are for the same servers to tell.
///
/// # Errors
/// A [`Fault`]; what `out` has is then of no meaning.
pub fn read_answer(
    message: &[u8],
    expected: &Expected<'_>,
    is_theirs: impl Fn(&[u8]) -> bool,
    out: &mut AnswerBuffer,
) -> Result<(), Fault> {
    let Some(flags) = fitting_flags(message, expected) else { return Err(Fault::Mismatch) };
    let low = flags[1] & header::RCODE_MASK;
    let answers = is_answer(low);
    if answers && flags[0] & header::TC != 0 {
        return Err(if expected.over_stream { Fault::Malformed } else { Fault::Truncated });
    }
    let opt = match out.collect(message) {
        Ok(opt) => opt,
        // A failure is what it says that it is, whatever follows.
        Err(Malformed) if !answers => None,
        Err(Malformed) => return Err(Fault::Malformed),
    };
    let rcode = u16::from(low) | opt.map_or(0, |opt| u16::from(opt.extended_rcode) << 4);
    let no_edns = match opt {
        None => matches!(low, rcode::FORMERR | rcode::NOTIMP),
        // Who answers so by EDNS knows it, and means something else (RFC 6891 §7).
        Some(_) => rcode == rcode::BADVERS,
    };
    match u8::try_from(rcode) {
        Ok(rcode) if is_answer(rcode) => {
            let Expected { question, before, .. } = expected;
            let reached = match before {
                [] => out.sanitize(message, question, flags, is_theirs),
                _ => out.sanitize_behind(before, message, question, flags, is_theirs),
            };
            match reached {
                Ok(Reached::End) => Ok(()),
                Ok(Reached::Alias) => Err(Fault::Alias),
                Ok(Reached::Circle | Reached::Referral) => {
                    Err(Fault::Failed { rcode: rcode::SERVFAIL.into(), extended_error: None })
                }
                Err(Malformed) => Err(Fault::Malformed),
            }
        }
        _ if expected.edns && no_edns => Err(Fault::NoEdns),
        _ => Err(Fault::Failed { rcode, extended_error: opt.and_then(|opt| opt.extended_error) }),
    }
}

/// Whether a response code is an answer: that there is such a name, or that there is none.
fn is_answer(rcode: u8) -> bool {
    matches!(rcode, rcode::NOERROR | rcode::NXDOMAIN)
}

/// The type that the one question of `message` has, if that is a response; its name goes into `name`.
#[must_use]
pub fn answered_question(message: &[u8], name: &mut QueryName, seed: HashSeed) -> Option<u16> {
    let (header, after) = message.split_first_chunk::<{ header::LEN }>()?;
    let is_response = header[2] & (header::QR | header::OPCODE_MASK) == header::QR;
    if !is_response || u16_at(header, header::QDCOUNT) != 1 {
        return None;
    }
    let rest = after.get(name.fold_wire(after, seed).ok()?..)?;
    (rest.len() >= 4 && u16_at(rest, 2) == CLASS_IN).then(|| u16_at(rest, 0))
}

/// The two bytes of flags of `message`, if it is a response to what is `expected`.
fn fitting_flags(message: &[u8], expected: &Expected<'_>) -> Option<[u8; 2]> {
    let header = message.first_chunk::<{ header::LEN }>()?;
    let flags = [header[2], header[3]];
    let is_response = flags[0] & (header::QR | header::OPCODE_MASK) == header::QR;
    if !is_response || u16_at(header, 0) != expected.id {
        return None;
    }
    // Who cannot read a query may not be able to repeat its question either; so does Unbound see it.
    if u16_at(header, header::QDCOUNT) == 0 && !is_answer(flags[1] & header::RCODE_MASK) {
        return Some(flags);
    }
    // A pointer cannot be the same as the name, which has none.
    let (name, rest) = message[header::LEN..].split_at_checked(expected.sent_name.len())?;
    let same_name = if expected.exact_case {
        name == expected.sent_name
    } else {
        name.eq_ignore_ascii_case(expected.sent_name)
    };
    let same = same_name
        && u16_at(header, header::QDCOUNT) == 1
        && rest.len() >= 4
        && u16_at(rest, 0) == expected.question.qtype
        && u16_at(rest, 2) == CLASS_IN;
    same.then_some(flags)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolver::question::Answer;
    use crate::wire::message::{expand_name, records};
    use crate::wire::name::Name;
    use crate::wire::record::rtype::{A, ANY, CNAME, DNAME, MX, NS, NSEC, OPT, RRSIG, SOA, SRV};

    const NOERROR: [u8; 2] = [0x81, 0x80];
    const NXDOMAIN: [u8; 2] = [0x81, 0x83];
    const ADDRESS: &[u8] = &[192, 0, 2, 1];

    fn wire(name: &str) -> Vec<u8> {
        Name::from_text(name).unwrap().as_wire().to_vec()
    }

    fn question(name: &[u8], qtype: u16, dnssec_ok: bool) -> Question<'_> {
        Question { name, name_hash: 7, qtype, dnssec_ok, checking_disabled: false }
    }

    fn record(owner: &[u8], rtype: u16, ttl_s: u32, rdata: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rdata.len()).unwrap();
        let (rtype, ttl) = (rtype.to_be_bytes(), ttl_s.to_be_bytes());
        [owner, &rtype, &[0, 1], &ttl, &len.to_be_bytes(), rdata].concat()
    }

    /// An answer to the question for `a.example`, with these records by section.
    fn message(flags: [u8; 2], qtype: u16, sections: [&[Vec<u8>]; 3]) -> Vec<u8> {
        let mut message = [&[0, 9], &flags[..], &[0, 1]].concat();
        for section in sections {
            message.extend(u16::try_from(section.len()).unwrap().to_be_bytes());
        }
        message.extend(wire("a.example"));
        message.extend(qtype.to_be_bytes());
        message.extend([0, 1]);
        message.extend(sections.map(<[_]>::concat).concat());
        message
    }

    fn read_as(message: &[u8], qtype: u16, dnssec_ok: bool) -> Result<AnswerBuffer, Fault> {
        let name = wire("a.example");
        let question = question(&name, qtype, dnssec_ok);
        let expected = Expected {
            id: 9,
            question,
            sent_name: &name,
            exact_case: true,
            over_stream: false,
            edns: true,
            before: &[],
        };
        let mut out = AnswerBuffer::default();
        read_answer(message, &expected, |_| true, &mut out).map(|()| out)
    }

    fn read(message: &[u8]) -> Result<AnswerBuffer, Fault> {
        read_as(message, A, false)
    }

    /// The records of an answer, as text: by section, with TTLs and the names of the data that have a name in it.
    fn told(answer: Answer<'_>, qtype: u16) -> Vec<String> {
        let mut whole = message(NOERROR, qtype, [&[], &[], &[]]);
        whole[6..8].copy_from_slice(&answer.answers.to_be_bytes());
        whole[8..10].copy_from_slice(&answer.authorities.to_be_bytes());
        whole.extend(answer.records);
        let name = |at| Name::from_wire(&expand_name(&whole, at).unwrap()).unwrap().to_string();
        let mut told: Vec<_> = records(&whole)
            .map(|record| {
                let data = match record.rtype {
                    CNAME | NS | DNAME | SOA | NSEC => name(record.rdata_at),
                    MX => name(record.rdata_at + 2),
                    SRV => name(record.rdata_at + 6),
                    RRSIG => header::u16_at(record.rdata, 0).to_string(),
                    _ => format!("{:?}", record.rdata),
                };
                format!("{} {} {} {data}", name(record.owner_at), record.ttl_s, record.rtype)
            })
            .collect();
        assert_eq!(told.len(), usize::from(answer.answers + answer.authorities));
        told.insert(answer.answers.into(), "--".into());
        told
    }

    fn fault(message: &[u8]) -> Option<Fault> {
        read(message).err()
    }

    const QUESTION: &[u8] = b"\xc0\x0c";

    fn alias(owner: &str, target: &str) -> Vec<u8> {
        record(&wire(owner), CNAME, 300, &wire(target))
    }

    fn soa(owner: &str, ttl_s: u32, minimum_s: u32) -> Vec<u8> {
        let numbers = [&[0; 16][..], &minimum_s.to_be_bytes()].concat();
        record(&wire(owner), SOA, ttl_s, &[wire("ns.example"), wire("x.example"), numbers].concat())
    }

    fn signature(owner: &str, covered: u16, signer: &str) -> Vec<u8> {
        let data = [&covered.to_be_bytes()[..], &[0; 16], &wire(signer), b"signature"].concat();
        record(&wire(owner), RRSIG, 300, &data)
    }

    fn negative(flags: [u8; 2], answers: &[Vec<u8>], authorities: &[Vec<u8>]) -> (Vec<String>, u32) {
        let out = read(&message(flags, A, [answers, authorities, &[]])).unwrap();
        (told(out.answer(), A), out.answer().ttl_s)
    }

    #[test]
    fn an_answer_to_something_else_is_none() {
        let sound = message(NOERROR, A, [&[record(QUESTION, A, 60, ADDRESS)], &[], &[]]);
        assert_eq!(fault(&sound), None);
        // Id, QR, opcode, QDCOUNT, name, its case, a pointer for it, type, class.
        for (at, byte) in
            [(1, 8), (2, 1), (2, 0xa1), (5, 0), (5, 2), (13, b'b'), (13, b'A'), (12, 0xc0), (24, 2), (26, 3)]
        {
            let mut wrong = sound.clone();
            wrong[at] = byte;
            assert_eq!(fault(&wrong), Some(Fault::Mismatch), "{byte} at {at}");
        }
        for len in 0..27 {
            assert_eq!(fault(&sound[..len]), Some(Fault::Mismatch), "{len} bytes");
        }
    }

    #[test]
    fn the_case_of_the_name_may_be_another_unless_it_matters() {
        let mut answer = message(NOERROR, A, [&[record(QUESTION, A, 60, ADDRESS)], &[], &[]]);
        answer[13] = b'A';
        let name = wire("a.example");
        let mut expected = Expected {
            id: 9,
            question: question(&name, A, false),
            sent_name: &name,
            exact_case: false,
            over_stream: false,
            edns: true,
            before: &[],
        };
        let mut out = AnswerBuffer::default();
        assert_eq!(read_answer(&answer, &expected, |_| true, &mut out), Ok(()));
        assert_eq!(out.answer().answers, 1);
        expected.exact_case = true;
        assert_eq!(read_answer(&answer, &expected, |_| true, &mut out), Err(Fault::Mismatch));
    }

    #[test]
    fn failures_are_told_apart() {
        let opt = |extended_rcode: u32, options: &[u8]| record(&[0], OPT, extended_rcode << 24, options);
        let failed = |rcode, extended_error| Some(Fault::Failed { rcode, extended_error });
        for (flags, additional, expected) in [
            ([0x81, 0x82], None, failed(2, None)),
            ([0x81, 0x82], Some(opt(0, b"\0\x0f\0\x02\0\x16")), failed(2, Some(22))),
            ([0x81, 0x81], None, Some(Fault::NoEdns)),
            ([0x81, 0x81], Some(opt(0, b"")), failed(1, None)),
            ([0x81, 0x84], None, Some(Fault::NoEdns)),
            ([0x81, 0x85], None, failed(5, None)),
            ([0x83, 0x85], None, failed(5, None)),
            ([0x81, 0x80], Some(opt(1, b"")), Some(Fault::NoEdns)),
            ([0x81, 0x87], Some(opt(1, b"")), failed(23, None)),
            ([0x81, 0x83], Some(opt(1, b"")), failed(19, None)),
            ([0x83, 0x80], None, Some(Fault::Truncated)),
        ] {
            let mut answer = message(flags, A, [&[], &[], additional.as_slice()]);
            assert_eq!(fault(&answer), expected, "{flags:?} {additional:?}");
            if flags[1] & 15 != 0 && flags[1] & 15 != 3 {
                answer[5] = 0;
                answer.drain(12..27);
                assert_eq!(fault(&answer), expected, "without a question: {flags:?} {additional:?}");
            }
        }
        let broken = [&message([0x81, 0x82], A, [&[], &[], &[vec![7]]])[..], &[0xff; 9]].concat();
        assert_eq!(fault(&broken), failed(2, None), "a failure may be broken");
    }

    #[test]
    fn without_edns_or_over_a_stream_some_faults_are_others() {
        let name = wire("a.example");
        let expected = |over_stream, edns| Expected {
            id: 9,
            question: question(&name, A, false),
            sent_name: &name,
            exact_case: true,
            over_stream,
            edns,
            before: &[],
        };
        let mut out = AnswerBuffer::default();
        let formerr = message([0x81, 0x81], A, [&[], &[], &[]]);
        let failed = Fault::Failed { rcode: 1, extended_error: None };
        assert_eq!(read_answer(&formerr, &expected(false, false), |_| true, &mut out), Err(failed));
        let truncated = message([0x83, 0x80], A, [&[], &[], &[]]);
        assert_eq!(read_answer(&truncated, &expected(true, true), |_| true, &mut out), Err(Fault::Malformed));
    }

    #[test]
    fn addresses_come_as_they_are_and_of_the_question() {
        let second = record(&wire("A.Example"), A, 30, &[192, 0, 2, 2]);
        let answer = message([0x85, 0xa0], A, [&[record(QUESTION, A, 60, ADDRESS), second], &[], &[]]);
        let out = read(&answer).unwrap();
        let expected =
            b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01\xc0\x0c\0\x01\0\x01\0\0\0\x1e\0\x04\xc0\0\
                         \x02\x02";
        let told = Answer {
            rcode: 0,
            authenticated: true,
            answers: 2,
            authorities: 0,
            ttl_s: 30,
            records: expected,
            ttls_at: &[0, 6, 0, 22],
        };
        assert_eq!(out.answer(), told);
    }

    #[test]
    fn what_is_not_on_the_chain_is_left_out() {
        let poison = [
            record(&wire("bank.example"), A, 60, &[6, 6, 6, 6]),
            record(QUESTION, NS, 60, &wire("evil.test")),
            record(QUESTION, 99, 60, b"other type"),
            record(&[0], OPT, 0, b""),
            alias("bank.example", "a.example"),
        ];
        let mut chaos = record(QUESTION, A, 60, ADDRESS);
        chaos[5] = 3;
        let answers = [&poison[..], &[chaos, record(QUESTION, A, 60, ADDRESS)], &poison].concat();
        let out = read(&message(NOERROR, A, [&answers, &poison, &poison[..2]])).unwrap();
        assert_eq!(told(out.answer(), A), ["a.example. 60 1 [192, 0, 2, 1]", "--"]);
    }

    #[test]
    fn aliases_come_in_the_order_of_the_chain_wherever_they_stood() {
        let chain = [
            record(&wire("c.test"), A, 60, ADDRESS),
            alias("B.test", "c.Test"),
            alias("a.example", "b.test"),
            alias("a.example", "evil.test"),
            record(&wire("b.test"), A, 60, &[6, 6, 6, 6]),
        ];
        let expected =
            ["a.example. 300 5 b.test.", "b.test. 300 5 c.Test.", "c.Test. 60 1 [192, 0, 2, 1]", "--"];
        let out = read(&message(NOERROR, A, [&chain[..4], &[], &[]])).unwrap();
        assert_eq!(told(out.answer(), A), expected);
        // What the target has is found before what it is an alias of.
        let out = read(&message(NOERROR, A, [&chain, &[], &[]])).unwrap();
        assert_eq!(told(out.answer(), A), ["a.example. 300 5 b.test.", "b.test. 60 1 [6, 6, 6, 6]", "--"]);
    }

    #[test]
    fn aliases_themselves_may_be_asked_for_and_so_may_everything() {
        let answers = [alias("a.example", "b.test"), record(&wire("b.test"), A, 60, ADDRESS)];
        for qtype in [CNAME, ANY] {
            let out = read_as(&message(NOERROR, qtype, [&answers, &[], &[]]), qtype, false).unwrap();
            assert_eq!(told(out.answer(), qtype), ["a.example. 300 5 b.test.", "--"], "{qtype}");
        }
    }

    #[test]
    fn chains_that_lead_nowhere_are_no_answers() {
        let circle = [alias("a.example", "b.test"), alias("b.test", "a.example")];
        let failed = Some(Fault::Failed { rcode: 2, extended_error: None });
        assert_eq!(fault(&message(NOERROR, A, [&circle, &[soa("example", 60, 60)], &[]])), failed);
        for (aliases, expected) in [(17, None), (32, None), (33, failed)] {
            let name = |i| if i == 0 { "a.example".into() } else { format!("{i}.test") };
            let mut chain: Vec<_> = (0..aliases).map(|i| alias(&name(i), &name(i + 1))).collect();
            chain.push(record(&wire(&name(aliases)), A, 60, ADDRESS));
            assert_eq!(fault(&message(NOERROR, A, [&chain, &[], &[]])), expected, "{aliases}");
        }
        // One that leads to another name, and says nothing of it, is none either; nor is one that names other servers.
        let dangling = [alias("a.example", "b.test")];
        assert_eq!(fault(&message(NOERROR, A, [&dangling, &[], &[]])), Some(Fault::Alias));
        assert_eq!(fault(&message(NOERROR, A, [&dangling, &[soa("test", 60, 60)], &[]])), None);
        let referral = [record(&wire("example"), NS, 60, &wire("ns.example"))];
        assert_eq!(fault(&message([0x81, 0], A, [&[], &referral, &[]])), failed);
    }

    #[test]
    fn negative_answers_have_the_soa_of_a_zone_that_the_name_is_in() {
        let expected = vec!["--".into(), "example. 60 6 ns.example.".to_owned()];
        for flags in [NOERROR, NXDOMAIN] {
            assert_eq!(negative(flags, &[], &[soa("example", 900, 60)]), (expected.clone(), 60));
        }
        let foreign = [soa("test", 900, 60), soa("example", 60, 900), soa(".", 900, 60)];
        assert_eq!(negative(NXDOMAIN, &[], &foreign), (expected, 60));
        let referral = [record(&wire("example"), NS, 60, &wire("ns.example"))];
        assert_eq!(negative(NOERROR, &[], &referral), (vec!["--".into()], 0));
    }

    #[test]
    fn behind_aliases_it_is_the_last_name_that_does_not_exist() {
        let (told, ttl_s) = negative(
            NXDOMAIN,
            &[alias("a.example", "b.test"), record(&wire("b.test"), A, 60, ADDRESS)],
            &[soa("example", 60, 60), soa("test", 900, 900)],
        );
        assert_eq!(told, ["a.example. 300 5 b.test.", "--", "test. 900 6 ns.example."]);
        assert_eq!(ttl_s, 300);
    }

    #[test]
    fn a_ttl_with_its_top_bit_set_is_none() {
        let answers = [record(QUESTION, A, 1 << 31, ADDRESS), record(QUESTION, A, i32::MAX as u32, ADDRESS)];
        let out = read(&message(NOERROR, A, [&answers, &[], &[]])).unwrap();
        let address = "[192, 0, 2, 1]";
        let expected =
            [format!("a.example. 0 1 {address}"), format!("a.example. 2147483647 1 {address}"), "--".into()];
        assert_eq!(told(out.answer(), A), expected);
        assert_eq!(out.answer().ttl_s, 0);
    }

    #[test]
    fn dnssec_records_come_if_they_are_wanted() {
        let answers = [
            record(&wire("example"), DNAME, 300, &wire("test")),
            signature("example", DNAME, "example"),
            alias("a.example", "a.test"),
            signature("a.test", NS, "test"),
            record(&wire("a.test"), A, 60, ADDRESS),
            signature("a.test", A, "test"),
            record(&wire("other.test"), DNAME, 300, &wire("test")),
        ];
        let proof = record(&wire("b.test"), NSEC, 60, &[wire("c.test"), b"\0\x01\x40".to_vec()].concat());
        let authorities = [
            soa("test", 60, 60),
            proof,
            signature("b.test", NSEC, "test"),
            signature("test", SOA, "test"),
            record(&wire("b.example"), NSEC, 60, &wire("c.example")),
            signature("b.test", NS, "test"),
        ];
        let answer = message(NOERROR, A, [&answers, &authorities, &[]]);
        let plain = ["a.example. 300 5 a.test.", "a.test. 60 1 [192, 0, 2, 1]", "--"];
        assert_eq!(told(read(&answer).unwrap().answer(), A), plain);
        let signed = [
            "example. 300 39 test.",
            "example. 300 46 39",
            "a.example. 300 5 a.test.",
            "a.test. 60 1 [192, 0, 2, 1]",
            "a.test. 300 46 1",
            "--",
            "b.test. 60 47 c.test.",
            "b.test. 300 46 47",
        ];
        assert_eq!(told(read_as(&answer, A, true).unwrap().answer(), A), signed);
        let negative = message(NOERROR, A, [&answers[..3], &authorities, &[]]);
        let proven = [&signed[..3], &["--", "test. 60 6 ns.example."], &signed[6..]].concat();
        let out = read_as(&negative, A, true).unwrap();
        assert_eq!(told(out.answer(), A), [&proven[..], &["test. 300 46 6"]].concat());
    }

    #[test]
    fn proof_by_a_zone_that_the_name_is_not_in_is_left_out() {
        let answers = [record(QUESTION, A, 60, ADDRESS), signature("a.example", A, "test")];
        let proof = record(&wire("b.test"), NSEC, 60, &[wire("c.test"), b"\0\x01\x40".to_vec()].concat());
        let out = read_as(&message(NOERROR, A, [&answers, &[proof], &[]]), A, true).unwrap();
        assert_eq!((out.answer().answers, out.answer().authorities), (2, 0));
    }

    #[test]
    fn names_point_to_what_is_written_and_to_nothing_else() {
        // The exchange's name points into a record that is left out, the alias's target into the question.
        let left_out = record(&wire("x.test"), 99, 60, &wire("mail.test"));
        let at = u8::try_from(27 + left_out.len() - wire("mail.test").len()).unwrap();
        let exchange = record(QUESTION, MX, 60, &[0, 1, 2, b'm', b'x', 0xc0, at]);
        let service = record(QUESTION, MX, 60, &[0, 2, 1, b'z', 0xc0, 14]);
        let out =
            read_as(&message(NOERROR, MX, [&[left_out, exchange, service], &[], &[]]), MX, false).unwrap();
        assert_eq!(
            told(out.answer(), MX),
            ["a.example. 60 15 mx.mail.test.", "a.example. 60 15 z.example.", "--"]
        );
        assert!(out.answer().records.ends_with(b"\0\x06\0\x02\x01z\xc0\x0e"));

        let service = record(QUESTION, SRV, 60, &[0, 0, 0, 0, 0, 80, 1, b's', 0xc0, 14]);
        let out = read_as(&message(NOERROR, SRV, [&[service], &[], &[]]), SRV, false).unwrap();
        assert!(out.answer().records.ends_with(b"\0\x11\0\0\0\0\0\x50\x01s\x07example\0"), "none in these");
    }

    #[test]
    fn owners_behind_an_alias_point_to_its_target() {
        let answers = [alias("a.example", "www.example"), record(&wire("WWW.example"), A, 60, ADDRESS)];
        let out = read(&message(NOERROR, A, [&answers, &[], &[]])).unwrap();
        let expected = b"\xc0\x0c\0\x05\0\x01\0\0\x01\x2c\0\x06\x03www\xc0\x0e\
            \xc0\x27\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
        assert_eq!(out.answer().records, expected);
        let answers = [alias("a.example", "example"), record(&wire("example"), A, 60, ADDRESS)];
        let out = read(&message(NOERROR, A, [&answers, &[], &[]])).unwrap();
        assert_eq!(out.answer().records[10..16], *b"\0\x02\xc0\x0e\xc0\x0e", "nothing but a pointer");
    }

    #[test]
    fn broken_messages_are_a_failure() {
        let address = record(QUESTION, A, 60, ADDRESS);
        let sound = message(NOERROR, A, [std::slice::from_ref(&address), &[], &[]]);
        for len in 27..sound.len() {
            assert_eq!(fault(&sound[..len]), Some(Fault::Malformed), "{len} bytes");
        }
        let itself = [0xc0, 27];
        for (qtype, answers, what) in [
            (A, vec![record(QUESTION, A, 60, b"five5")], "an address of five bytes"),
            (A, vec![record(&itself, A, 60, ADDRESS)], "an owner in a circle"),
            (A, vec![record(&[0xc0, 39], A, 60, &wire("b")), address.clone()], "a pointer forward"),
            (A, vec![record(QUESTION, CNAME, 60, &[0xc0, 39])], "an alias in a circle"),
            (A, vec![record(QUESTION, CNAME, 60, b"\x09short\0")], "a name longer than its data"),
            (A, vec![record(QUESTION, CNAME, 60, b"\x01b\0\0")], "data behind the name"),
            (A, vec![record(QUESTION, CNAME, 60, b"\x40bad\0")], "a label of no known kind"),
            (MX, vec![record(QUESTION, MX, 60, b"\0")], "data without its name"),
            (SOA, vec![record(QUESTION, SOA, 60, b"\0\0short")], "an SOA record without its numbers"),
            (35, vec![record(QUESTION, 35, 60, b"\0\0\0\0\xff")], "a string longer than its data"),
        ] {
            let answer = message(NOERROR, qtype, [&answers, &[], &[]]);
            assert_eq!(read_as(&answer, qtype, false).err(), Some(Fault::Malformed), "{what}");
        }
        let opt = record(&[0], OPT, 0, b"");
        let two = message(NOERROR, A, [&[address], &[], &[opt.clone(), opt]]);
        assert_eq!(fault(&two), Some(Fault::Malformed), "two OPT records");
    }

    #[test]
    fn what_is_too_much_is_a_failure_and_what_is_far_from_the_front_is_not_pointed_to() {
        let tiny = vec![record(&[0], NS, 60, b""); 4096];
        let address = record(QUESTION, A, 60, ADDRESS);
        let answer = message(NOERROR, A, [&[&tiny[..], &[address]].concat(), &[], &[]]);
        assert_eq!(fault(&answer), Some(Fault::Malformed), "4,097 records");

        // Each points to the name that the first has written out: small as it came, and not to be made small again.
        let target = wire(&"x".repeat(60).split_inclusive("xxxxx").collect::<Vec<_>>().join("."));
        let mut servers = vec![record(QUESTION, NS, 60, &target)];
        servers.extend(std::iter::repeat_n(record(QUESTION, NS, 60, &[0xc0, 39]), 2_000));
        let answer = message(NOERROR, NS, [&servers, &[], &[]]);
        assert_eq!(read_as(&answer, NS, false).err(), Some(Fault::Malformed), "too large to pass on");

        let text = [&[255][..], &[b'x'; 255]].concat().repeat(64);
        let signed: Vec<u8> = [&CNAME.to_be_bytes()[..], &[0; 16], &[0], &text].concat();
        let far = [
            record(QUESTION, RRSIG, 60, &signed),
            alias("a.example", "far.test"),
            record(&wire("far.test"), A, 60, ADDRESS),
        ];
        let out = read_as(&message(NOERROR, A, [&far, &[], &[]]), A, true).unwrap();
        let expected =
            ["a.example. 60 46 5", "a.example. 300 5 far.test.", "far.test. 60 1 [192, 0, 2, 1]", "--"];
        assert_eq!(told(out.answer(), A), expected);
        assert!(out.answer().records.len() > 1 << 14);
    }
}
