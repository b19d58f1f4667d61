//! Properties of what is taken of upstreams' answers, sound, mutated and random ones, with hickory-proto as an
//! independent reader.
#![allow(missing_docs)]

use hickory_proto::op::Message;
use proptest::prelude::*;
use redbreast::resolver::message::{Expected, read_answer};
use redbreast::resolver::question::{Answer, Question};
use redbreast::resolver::rewrite::MAX_RECORDS_LEN;
use redbreast::resolver::sanitize::AnswerBuffer;
use redbreast::wire::message::{RecordView, expand_name, records};
use redbreast::wire::name::Name;
use redbreast::wire::record::rtype::{A, AAAA, ANY, CNAME, DNAME, MX, NS, NSEC, OPT, RRSIG, SOA, SRV, TXT};

const HTTPS: u16 = 65;

/// Names that answers are made of: few, so that chains come about, and below one another.
const NAMES: [&str; 8] =
    ["a.example", "example", "b.example", "WWW.b.example", "c.test", "d.c.Test", "test", "."];

fn wire(name: usize) -> Vec<u8> {
    Name::from_text(NAMES[name]).unwrap().as_wire().to_vec()
}

fn is_within(name: &[u8], ancestor: &[u8]) -> bool {
    Name::from_wire(name).unwrap().is_within(&Name::from_wire(ancestor).unwrap())
}

/// A record of an answer. Names are places in [`NAMES`].
#[derive(Clone, Debug)]
struct Record {
    owner: usize,
    rtype: u16,
    ttl_s: u32,
    /// A name in its data, if it has one; and, if it is a signature, what type it is for.
    target: usize,
    covered: u16,
}

/// An answer of an upstream.
#[derive(Clone, Debug)]
struct Sent {
    qname: usize,
    qtype: u16,
    rcode: u8,
    sections: [Vec<Record>; 3],
    /// Names are written with pointers wherever that can be.
    compressed: bool,
}

#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    /// Names that stand somewhere.
    names: Vec<(Vec<u8>, usize)>,
    compressed: bool,
}

impl Writer {
    fn name(&mut self, name: &[u8], may_point: bool) {
        let mut rest = name;
        while rest[0] != 0 {
            let known = self.names.iter().find(|(known, _)| known == rest).map(|(_, at)| *at);
            if let Some(at) = known.filter(|_| self.compressed && may_point) {
                self.bytes.extend((0xc000 | u16::try_from(at).unwrap()).to_be_bytes());
                return;
            }
            if known.is_none() {
                self.names.push((rest.to_vec(), self.bytes.len()));
            }
            let (label, after) = rest.split_at(1 + usize::from(rest[0]));
            self.bytes.extend(label);
            rest = after;
        }
        self.bytes.push(0);
    }

    fn record(&mut self, record: &Record) {
        let target = wire(record.target);
        self.name(&wire(record.owner), true);
        self.bytes.extend(record.rtype.to_be_bytes());
        self.bytes.extend([0, 1]);
        self.bytes.extend(record.ttl_s.to_be_bytes());
        self.bytes.extend([0, 0]);
        let begin = self.bytes.len();
        match record.rtype {
            A => self.bytes.extend([192, 0, 2, 1]),
            AAAA => self.bytes.extend([1; 16]),
            NS | CNAME => self.name(&target, true),
            DNAME => self.name(&target, false),
            MX => {
                self.bytes.extend([0, 10]);
                self.name(&target, true);
            }
            SRV => {
                self.bytes.extend([0, 0, 0, 0, 0, 80]);
                self.name(&target, true); // as old servers do
            }
            SOA => {
                self.name(&target, true);
                self.name(&target, true);
                self.bytes.extend([[0; 4]; 4].concat());
                self.bytes.extend((record.ttl_s ^ 0x55).to_be_bytes());
            }
            RRSIG => {
                self.bytes.extend(record.covered.to_be_bytes());
                self.bytes.extend([8; 16]);
                self.name(&target, false);
                self.bytes.extend(b"signature");
            }
            NSEC => {
                self.name(&target, false);
                self.bytes.extend(b"\0\x01\x40");
            }
            HTTPS => {
                self.bytes.extend([0, 1]);
                self.name(&target, false);
            }
            _ => self.bytes.extend(b"\x04text"),
        }
        let len = u16::try_from(self.bytes.len() - begin).unwrap();
        self.bytes[begin - 2..begin].copy_from_slice(&len.to_be_bytes());
    }
}

impl Sent {
    fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer { compressed: self.compressed, ..Writer::default() };
        writer.bytes.extend([0x12, 0x34, 0x81, 0x80 | self.rcode, 0, 1]);
        for (i, section) in self.sections.iter().enumerate() {
            let count = section.len() + usize::from(i == 2); // the OPT record
            writer.bytes.extend(u16::try_from(count).unwrap().to_be_bytes());
        }
        writer.name(&wire(self.qname), false);
        writer.bytes.extend(self.qtype.to_be_bytes());
        writer.bytes.extend([0, 1]);
        self.sections.iter().flatten().for_each(|record| writer.record(record));
        writer.bytes.extend(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
        writer.bytes
    }
}

fn record() -> impl Strategy<Value = Record> {
    let rtype = prop_oneof![
        4 => Just(CNAME),
        4 => prop::sample::select(vec![A, AAAA]),
        2 => prop::sample::select(vec![RRSIG, NSEC, SOA]),
        2 => prop::sample::select(vec![NS, MX, SRV, TXT, DNAME, HTTPS]),
    ];
    let covered = prop::sample::select(vec![A, CNAME, DNAME, NSEC, SOA]);
    let ttl_s = prop_oneof![4 => 0..4u32, 1 => any::<u32>()];
    let names = 0..NAMES.len();
    (names.clone(), rtype, ttl_s, names, covered).prop_map(|(owner, rtype, ttl_s, target, covered)| Record {
        owner,
        rtype,
        ttl_s,
        target,
        covered,
    })
}

fn sent() -> impl Strategy<Value = Sent> {
    let section = |len| prop::collection::vec(record(), 0..len);
    let qtype = prop::sample::select(vec![A, A, A, AAAA, CNAME, MX, SRV, NS, TXT, SOA, RRSIG, HTTPS, ANY]);
    let rcode = prop_oneof![5 => Just(0u8), 2 => Just(3u8), 1 => 0..16u8];
    (0..3usize, qtype, rcode, section(12), section(6), section(3), any::<bool>()).prop_map(
        |(qname, qtype, rcode, answers, authorities, additionals, compressed)| Sent {
            qname,
            qtype,
            rcode,
            sections: [answers, authorities, additionals],
            compressed,
        },
    )
}

/// What is done to a sound answer.
#[derive(Clone, Debug)]
enum Mutation {
    Set(prop::sample::Index, u8),
    /// A pointer to some place.
    Point(prop::sample::Index, prop::sample::Index),
    Truncate(prop::sample::Index),
    Append(Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
    Count(usize, u8),
}

impl Mutation {
    fn apply(&self, packet: &mut Vec<u8>) {
        // The question stays as it is, mostly: all that is of interest is behind it.
        let behind = |index: &prop::sample::Index, len: usize| {
            20.min(len - 1) + index.index(len.saturating_sub(20).max(1))
        };
        let len = packet.len();
        if len == 0 {
            return;
        }
        match self {
            Self::Set(at, byte) => packet[behind(at, len)] = *byte,
            Self::Point(at, to) => {
                let (at, to) = (behind(at, len), u16::try_from(to.index(len)).unwrap_or_default());
                let end = (at + 2).min(len);
                packet[at..end].copy_from_slice(&(0xc000 | to).to_be_bytes()[..end - at]);
            }
            Self::Truncate(at) => packet.truncate(behind(at, len)),
            Self::Append(bytes) => packet.extend_from_slice(bytes),
            Self::Repeat(a, b) => {
                let (a, b) = (behind(a, len), behind(b, len));
                packet.extend_from_within(a.min(b)..a.max(b));
            }
            Self::Count(at, count) => *packet.get_mut(*at).unwrap_or(&mut 0) = *count,
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        (index(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (index(), index()).prop_map(|(at, to)| Mutation::Point(at, to)),
        index().prop_map(Mutation::Truncate),
        prop::collection::vec(any::<u8>(), 1..20).prop_map(Mutation::Append),
        (index(), index()).prop_map(|(a, b)| Mutation::Repeat(a, b)),
        (prop::sample::select(vec![2usize, 3, 5, 7, 9, 11]), 0..20u8)
            .prop_map(|(at, n)| Mutation::Count(at, n)),
    ]
}

/// How many messages are tried for each property; `scripts/fuzz` has more.
fn cases() -> u32 {
    let asked = std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(if std::env::var_os("CI").is_some() { 500_000 } else { 50_000 })
}

/// Reads `message` as the answer to a question.
fn read(message: &[u8], qname: &[u8], qtype: u16, dnssec_ok: bool) -> Option<AnswerBuffer> {
    let name = qname.to_ascii_lowercase();
    let question = Question { name: &name, name_hash: 0, qtype, dnssec_ok, checking_disabled: false };
    let expected = Expected {
        id: 0x1234,
        question,
        sent_name: qname,
        exact_case: false,
        over_stream: false,
        edns: true,
        before: &[],
    };
    let mut out = AnswerBuffer::default();
    read_answer(message, &expected, |_| true, &mut out).ok().map(|()| out)
}

/// The message that an answer becomes.
fn whole(answer: Answer<'_>, qname: &[u8], qtype: u16) -> Vec<u8> {
    let ad = u8::from(answer.authenticated) << 5;
    let header = [0x12, 0x34, 0x81, 0x80 | ad | answer.rcode, 0, 1];
    let counts = [answer.answers, answer.authorities, 0].map(u16::to_be_bytes).concat();
    [&header, &counts[..], qname, &qtype.to_be_bytes(), &[0, 1], answer.records].concat()
}

/// Checks what every answer that was taken has to be.
fn check(message: &[u8], answer: Answer<'_>, qname: &[u8], qtype: u16, dnssec_ok: bool) {
    let whole = whole(answer, qname, qtype);
    let base = 12 + qname.len() + 4;
    let views: Vec<_> = records(&whole).collect();
    assert_eq!(views.len(), usize::from(answer.answers + answer.authorities));
    let end = views.last().map_or(base, |last| last.rdata_at + last.rdata.len());
    assert_eq!(end, whole.len(), "the counts are those of the records");
    assert!(answer.records.len() <= MAX_RECORDS_LEN);
    let at = |view: &RecordView<'_>| u16::try_from(view.rdata_at - 6 - base).unwrap().to_be_bytes();
    assert_eq!(views.iter().flat_map(at).collect::<Vec<_>>(), answer.ttls_at);
    for view in &views {
        assert!(view.ttl_s < 1 << 31 && answer.ttl_s <= view.ttl_s);
    }
    check_owners(&whole, &views, answer, (qname, qtype), dnssec_ok);
    if Message::from_vec(message).is_ok() {
        Message::from_vec(&whole).unwrap_or_else(|error| panic!("hickory cannot read {whole:?}: {error}"));
    }
    let again = read(&whole, qname, qtype, dnssec_ok).expect("what was taken is taken again");
    assert_eq!(again.answer(), answer);
}

/// Checks that all records are of names on the chain, or else prove that there is nothing.
fn check_owners(
    whole: &[u8],
    views: &[RecordView<'_>],
    answer: Answer<'_>,
    (qname, qtype): (&[u8], u16),
    dnssec_ok: bool,
) {
    let name = |at| expand_name(whole, at).expect("names can be read").to_ascii_lowercase();
    let (answers, authorities) = views.split_at(answer.answers.into());
    let mut chain = vec![qname.to_ascii_lowercase()];
    for view in answers {
        let owner = name(view.owner_at);
        let last = chain.last().unwrap();
        let covered = (view.rtype == RRSIG).then(|| u16::from_be_bytes([view.rdata[0], view.rdata[1]]));
        if view.rtype == DNAME || covered == Some(DNAME) {
            assert!(chain.iter().any(|name| is_within(name, &owner)));
        } else if covered == Some(CNAME) {
            assert!(chain.contains(&owner));
        } else {
            assert_eq!(&owner, last, "of the name that the one before leads to");
        }
        // Where aliases were asked for themselves they are not followed.
        if view.rtype == CNAME && (answer.rcode == 3 || ![CNAME, ANY].contains(&qtype)) {
            chain.push(name(view.rdata_at));
        }
        assert!(![0, OPT].contains(&view.rtype) && !(128..256).contains(&view.rtype));
    }
    let is_negative = answers.iter().all(|view| matches!(view.rtype, CNAME | DNAME | RRSIG));
    for view in authorities {
        let owner = name(view.owner_at);
        match view.rtype {
            SOA => assert!(is_negative && is_within(chain.last().unwrap(), &owner)),
            RRSIG | NSEC | 50 => assert!(dnssec_ok),
            other => panic!("{other} in the authority section"),
        }
    }
    let soas = authorities.iter().filter(|view| view.rtype == SOA).count();
    assert!(soas <= 1 && (dnssec_ok || soas == authorities.len()));
    let fails_to_prove = answers.is_empty() && soas == 0;
    assert!(!fails_to_prove || answer.ttl_s == 0);
}

/// The records of the answer section that should be taken, by their places in it. None if they are no whole answer:
/// aliases that go in a circle, or lead to a name of which nothing is said.
fn model(sent: &Sent, dnssec_ok: bool) -> Option<Vec<usize>> {
    let answers = &sent.sections[0];
    let same = |a: usize, b: usize| wire(a).eq_ignore_ascii_case(&wire(b));
    let (mut here, mut visited, mut taken) = (sent.qname, vec![sent.qname], Vec::new());
    loop {
        let signs = |i: usize, rtype| dnssec_ok && answers[i].rtype == RRSIG && answers[i].covered == rtype;
        let of_here = |i: usize| same(answers[i].owner, here);
        // What is signed above a name is not what the name itself has: that would contradict the DNAME record.
        let is_wanted = |i: usize| {
            of_here(i) && !taken.contains(&i) && (sent.qtype == ANY || answers[i].rtype == sent.qtype)
        };
        if sent.rcode == 0 && (0..answers.len()).any(is_wanted) {
            let is_data = |i: &usize| is_wanted(*i) || of_here(*i) && signs(*i, sent.qtype);
            let data: Vec<_> = (0..answers.len()).filter(is_data).collect();
            taken.extend(data);
            return Some(taken);
        }
        let alias = (0..answers.len()).find(|&i| of_here(i) && answers[i].rtype == CNAME);
        let Some(alias) = alias else {
            let says_so = |it: &Record| it.rtype == SOA && is_within(&wire(here), &wire(it.owner));
            let is_told = sent.rcode == 3 || sent.sections[1].iter().any(says_so);
            return (visited.len() == 1 || is_told).then_some(taken);
        };
        let belongs = |i: usize| {
            let above = !of_here(i) && is_within(&wire(here), &wire(answers[i].owner));
            let is_dname = dnssec_ok && answers[i].rtype == DNAME || signs(i, DNAME);
            let above = above && !taken.contains(&i);
            i == alias || of_here(i) && signs(i, CNAME) || above && is_dname
        };
        let more: Vec<_> = (0..answers.len()).filter(|&i| belongs(i)).collect();
        taken.extend(more);
        here = answers[alias].target;
        if visited.iter().any(|&name| same(name, here)) {
            return None;
        }
        visited.push(here);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn of_a_sound_answer_the_chain_is_taken_and_read_by_hickory_as_it_was(sent in sent(), dnssec_ok: bool) {
        let (message, qname) = (sent.to_bytes(), wire(sent.qname));
        let out = read(&message, &qname, sent.qtype, dnssec_ok);
        let expected = model(&sent, dnssec_ok).filter(|_| sent.rcode == 0 || sent.rcode == 3);
        prop_assert_eq!(out.is_some(), expected.is_some());
        let (Some(out), Some(expected)) = (out, expected) else { return Ok(()) };
        check(&message, out.answer(), &qname, sent.qtype, dnssec_ok);
        let before = Message::from_vec(&message).expect("it is sound");
        let after = Message::from_vec(&whole(out.answer(), &qname, sent.qtype)).expect("so is this");
        prop_assert_eq!(after.answers.len(), expected.len());
        for (taken, place) in after.answers.iter().zip(expected) {
            let mut record = before.answers[place].clone();
            record.ttl = if record.ttl >= 1 << 31 { 0 } else { record.ttl };
            prop_assert_eq!(taken, &record);
        }
    }

    #[test]
    fn whatever_is_done_to_an_answer_what_is_taken_is_sound(
        sent in sent(),
        mutations in prop::collection::vec(mutation(), 1..5),
        dnssec_ok: bool,
    ) {
        let (mut message, qname) = (sent.to_bytes(), wire(sent.qname));
        mutations.iter().for_each(|mutation| mutation.apply(&mut message));
        if let Some(out) = read(&message, &qname, sent.qtype, dnssec_ok) {
            check(&message, out.answer(), &qname, sent.qtype, dnssec_ok);
        }
    }

    #[test]
    fn random_bytes_behind_a_question_are_read_or_not_without_a_panic(
        counts: [u8; 3],
        bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0u8), Just(0xc0u8), 1..40u8], 0..300),
    ) {
        let qname = wire(0);
        let counts = counts.map(|count| [0, count % 4]).concat();
        let header = b"\x12\x34\x81\x80\0\x01";
        let message = [header, &counts[..], &qname, b"\0\xff\0\x01", &bytes].concat();
        if let Some(out) = read(&message, &qname, ANY, true) {
            check(&message, out.answer(), &qname, ANY, true);
        }
        prop_assert!(read(&bytes, &qname, ANY, true).is_none());
    }
}
