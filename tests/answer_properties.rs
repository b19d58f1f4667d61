//! Properties of the one function that answers, with hickory-proto and domain as independent readers of what comes in
//! and of what goes out.
#![allow(missing_docs)]

use std::net::IpAddr;
use std::sync::Arc;

use domain::base::iana::{Opcode, OptionCode};
use domain::base::name::{ToLabelIter, ToName};
use domain::base::opt::UnknownOptData;
use domain::rdata::AllRecordData;
use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use proptest::prelude::*;
use redbreast::answer::access::Access;
use redbreast::answer::answerer::Answerer;
use redbreast::answer::identity::Identity;
use redbreast::answer::metrics::{Counters, Event};
use redbreast::answer::service::Service;
use redbreast::answer::types::{self, Origin, Turn, Verdict};
use redbreast::store::{Attributes, Key, NodeId, Store};
use redbreast::sys::published::Current;
use redbreast::table::{Publisher, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::name::{Name, QueryName};
use redbreast::wire::query::{MIN_BUFFER_LEN, Query};
use redbreast::wire::record::rtype;
use redbreast::wire::response::{DEFAULT_UDP_LEN, Transport};

const NAMES: [&str; 6] = ["web", "WWW", "a.b.c", "x", "many", "mail_1"];

/// Names with other records than addresses.
const RECORDS: &[&str] = &["alias", "again", "loop", "lost", "out", "_http._tcp.web", "mail", "text"];

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn addresses(i: usize) -> Vec<IpAddr> {
    let count = if NAMES[i] == "many" { 100 } else { i + 1 };
    let last = |n: usize| u8::try_from(n).unwrap();
    let v4 = (0..count).map(|n| IpAddr::from([10, 0, last(i), last(n)]));
    let v6 =
        (0..i).map(|n| IpAddr::from([0xfd00, 0, 0, 0, 0, 0, i.try_into().unwrap(), n.try_into().unwrap()]));
    v4.chain(v6).collect()
}

fn publisher() -> Publisher {
    let settings = ZoneSettings { ttl_s: 30, negative_ttl_s: 5 };
    let mut publisher = Publisher::new(&[name("redbreast.internal"), name("test")], settings);
    let mut store = Store::new(NodeId([1; 16]), 1);
    for (i, host) in NAMES.iter().enumerate() {
        let host = name(&format!("{host}.redbreast.internal"));
        for address in addresses(i) {
            store.register(&Key::address("", &host, address), &Attributes::default()).unwrap();
        }
    }
    let local = |host: &str| name(&format!("{host}.redbreast.internal"));
    for (owner, rtype, data) in [
        ("alias", rtype::CNAME, local("web").as_wire().to_vec()),
        ("again", rtype::CNAME, local("alias").as_wire().to_vec()),
        ("loop", rtype::CNAME, local("loop").as_wire().to_vec()),
        ("lost", rtype::CNAME, local("nobody").as_wire().to_vec()),
        ("out", rtype::CNAME, name("www.example.com").as_wire().to_vec()),
        ("_http._tcp.web", rtype::SRV, [&[0, 1, 0, 2, 0, 80], local("web").as_wire()].concat()),
        ("_http._tcp.web", rtype::SRV, [&[0, 1, 0, 2, 0, 81], local("many").as_wire()].concat()),
        ("mail", rtype::MX, [&[0, 1], local("web").as_wire()].concat()),
        ("text", rtype::TXT, [&[200][..], &[b'x'; 200]].concat().repeat(6)),
        ("text", rtype::TXT, b"\x05hello".to_vec()),
    ] {
        let key = Key { instance: "".into(), name: local(owner), rtype, rdata: data.into() };
        store.register(&key, &Attributes::with_ttl_s(30)).unwrap();
    }
    publisher.note(store.take_changed());
    publisher.publish(&store, usize::MAX);
    publisher
}

fn service() -> Arc<Service> {
    let identity = Identity::new(Some("node-1"));
    Arc::new(Service {
        access: Access::default(),
        forwarders: None,
        identity,
        rate_limit: 0,
        udp_len: DEFAULT_UDP_LEN,
        offloads: false,
    })
}

/// Answers `packet` and returns the response, if there is one. It is the same whether the name was read before, with
/// the others of a batch, or not.
fn answer(publisher: &Publisher, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let secrets = Current::new(Secrets::random());
    let origin = Origin { transport, client: IpAddr::from([10, 0, 0, 9]), deferred: false };
    let answer = |expected: bool| {
        let mut buffer = vec![0xa5; 65_535.max(packet.len()).max(MIN_BUFFER_LEN)];
        buffer[..packet.len()].copy_from_slice(packet);
        let (table, counters, len) = (publisher.current(), Counters::default(), packet.len());
        let turn = Turn { table: &table, counters: &counters, now_s: 1_800_000_000 };
        let mut answerer = Answerer::new(service(), secrets.reader(), fastrand::Rng::with_seed(3));
        let verdict = if expected {
            answerer.prefetch(&table, 5, (&buffer, len));
            let found = answerer.look_up(&table, 6);
            answerer.answer_prefetched(
                (5, &found),
                &turn,
                types::Message { buffer: &mut buffer, len },
                origin,
            )
        } else {
            answerer.answer(&turn, types::Message { buffer: &mut buffer, len }, origin)
        };
        let events: u64 = Event::ALL.iter().map(|event| counters.get(*event)).sum();
        assert!((1..=2).contains(&events), "each packet is counted");
        match verdict {
            Verdict::Reply { len } => {
                buffer.truncate(len);
                Some(buffer)
            }
            Verdict::Drop | Verdict::Defer(_) => None,
        }
    };
    let response = answer(false);
    assert_eq!(answer(true), response, "{packet:?}");
    response
}

fn ask(publisher: &Publisher, qname: &str, qtype: RecordType, transport: Transport) -> (Vec<u8>, Message) {
    let packet = [
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0",
        name(qname).as_wire(),
        &u16::from(qtype).to_be_bytes(),
        &[0, 1],
    ]
    .concat();
    let bytes = answer(publisher, &packet, transport).expect("a query is answered");
    let message = Message::from_vec(&bytes).expect("hickory reads what we write");
    (bytes, message)
}

fn found_addresses(message: &Message) -> Vec<IpAddr> {
    let address = |data: &RData| match data {
        RData::A(v4) => IpAddr::V4(v4.0),
        RData::AAAA(v6) => IpAddr::V6(v6.0),
        other => panic!("unexpected {other}"),
    };
    let mut found: Vec<_> = message.answers.iter().map(|record| address(&record.data)).collect();
    found.sort();
    found
}

#[test]
fn every_address_is_answered_and_leads_back() {
    let publisher = publisher();
    for (i, host) in NAMES.iter().enumerate() {
        let qname = format!("{host}.redbreast.internal");
        for (qtype, v4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
            let (_, message) = ask(&publisher, &qname, qtype, Transport::Tcp);
            let expected: Vec<_> =
                addresses(i).into_iter().filter(|address| address.is_ipv4() == v4).collect();
            assert_eq!(found_addresses(&message), expected, "{qname} {qtype}");
            assert_eq!(message.metadata.response_code, ResponseCode::NoError);
            assert!(message.metadata.authoritative);
            assert!(message.answers.iter().all(|record| record.ttl == 30));
            assert_eq!(message.authorities.len(), usize::from(expected.is_empty()), "SOA when there is none");
        }
        for address in addresses(i) {
            let reverse = Name::reverse(address).to_string();
            let (_, message) = ask(&publisher, &reverse, RecordType::PTR, Transport::Udp);
            let RData::PTR(target) = &message.answers[0].data else { panic!("{message}") };
            assert_eq!(target.0.to_string(), format!("{qname}.").to_ascii_lowercase());
        }
    }
}

#[test]
fn negative_answers_carry_the_soa_of_their_zone() {
    let publisher = publisher();
    for (qname, code, zone) in [
        ("nobody.redbreast.internal", ResponseCode::NXDomain, "redbreast.internal."),
        ("b.web.redbreast.internal", ResponseCode::NXDomain, "redbreast.internal."),
        ("b.c.redbreast.internal", ResponseCode::NoError, "redbreast.internal."),
        ("c.redbreast.internal", ResponseCode::NoError, "redbreast.internal."),
        ("test", ResponseCode::NoError, "test."),
        ("x.test", ResponseCode::NXDomain, "test."),
        ("0.0.0.10.in-addr.arpa", ResponseCode::NoError, "0.0.0.10.in-addr.arpa."),
    ] {
        let (_, message) = ask(&publisher, qname, RecordType::TXT, Transport::Udp);
        assert_eq!(message.metadata.response_code, code, "{qname}");
        let [soa] = &message.authorities[..] else { panic!("{qname}: {message}") };
        assert_eq!((soa.name.to_string().as_str(), soa.ttl), (zone, 5), "{qname}");
        let RData::SOA(data) = &soa.data else { panic!("{message}") };
        assert_eq!((data.mname.to_string(), data.minimum), (format!("ns.{zone}"), 5));
    }
}

/// How many random packets are tried for each property: about a minute of them on CI, and `scripts/fuzz` has more.
fn cases() -> u32 {
    let asked = std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok());
    asked.unwrap_or(if std::env::var_os("CI").is_some() { 1_500_000 } else { 50_000 })
}

/// A well-formed query, and what is done to it.
fn mutated_query() -> impl Strategy<Value = Vec<u8>> {
    let mutation = prop_oneof![
        (0..12usize, any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::SetAnywhere(at, byte)),
        any::<prop::sample::Index>().prop_map(Mutation::Truncate),
        prop::collection::vec(any::<u8>(), 1..20).prop_map(Mutation::Append),
        (any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(a, b)| Mutation::Repeat(a, b)),
        any::<u64>().prop_map(Mutation::Case),
    ];
    (well_formed_query(), prop::collection::vec(mutation, 0..4)).prop_map(|(mut packet, mutations)| {
        mutations.iter().for_each(|mutation| mutation.apply(&mut packet));
        packet
    })
}

#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    SetAnywhere(prop::sample::Index, u8),
    Truncate(prop::sample::Index),
    Append(Vec<u8>),
    Repeat(prop::sample::Index, prop::sample::Index),
    Case(u64),
}

impl Mutation {
    fn apply(&self, packet: &mut Vec<u8>) {
        if packet.is_empty() {
            return;
        }
        match self {
            Self::Set(at, byte) => *packet.get_mut(*at).unwrap_or(&mut 0) = *byte,
            Self::SetAnywhere(at, byte) => *at.get_mut(packet) = *byte,
            Self::Truncate(at) => packet.truncate(at.index(packet.len())),
            Self::Append(bytes) => packet.extend_from_slice(bytes),
            Self::Repeat(a, b) => {
                let (a, b) = (a.index(packet.len()), b.index(packet.len()));
                packet.extend_from_within(a.min(b)..a.max(b));
            }
            Self::Case(bits) => {
                for (i, byte) in
                    packet.iter_mut().enumerate().skip(12).filter(|(_, byte)| byte.is_ascii_alphabetic())
                {
                    *byte ^= u8::from(bits >> (i % 64) & 1 == 1) << 5;
                }
            }
        }
    }
}

/// A query as a client would send it: a name of ours or not, a type, and EDNS with options or none.
fn well_formed_query() -> impl Strategy<Value = Vec<u8>> {
    let qname = prop_oneof![
        4 => prop::sample::select([&NAMES[..], RECORDS].concat()).prop_map(|host| format!("{host}.redbreast.internal")),
        1 => prop::sample::select(vec!["web", "alias", "nobody", "test", "a.test", "example.com", ".",
            "redbreast.internal", "1.0.0.10.in-addr.arpa", "id.server", "version.bind"]).prop_map(str::to_owned),
    ];
    let types = prop::sample::select(vec![1u16, 28, 1, 28, 2, 5, 6, 12, 15, 16, 33, 252, 255, 65_280]);
    let class = prop::sample::select(vec![1u8, 1, 1, 1, 3, 255]);
    let option = prop_oneof![
        any::<[u8; 8]>().prop_map(|cookie| [&[0, 10, 0, 8], &cookie[..]].concat()),
        any::<[u8; 24]>().prop_map(|cookie| [&[0, 10, 0, 24], &cookie[..]].concat()),
        Just(vec![0, 3, 0, 0]),
        Just(vec![0, 11, 0, 0]),
        Just(vec![0, 8, 0, 7, 0, 1, 24, 0, 10, 0, 0]),
    ];
    let edns = prop::option::of((any::<u16>(), any::<bool>(), prop::collection::vec(option, 0..4)));
    (qname, types, class, edns).prop_map(|(qname, qtype, class, edns)| {
        let mut packet = [
            &b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0"[..],
            name(&qname).as_wire(),
            &qtype.to_be_bytes(),
            &[0, class],
        ]
        .concat();
        if let Some((size, dnssec_ok, options)) = edns {
            let options = options.concat();
            packet[11] = 1;
            packet.extend(
                [&[0, 0, 41][..], &size.to_be_bytes(), &[0, 0, u8::from(dnssec_ok) << 7, 0, 0]].concat(),
            );
            packet.push(u8::try_from(options.len()).unwrap());
            packet.extend(options);
        }
        packet
    })
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![nearly_a_query(), mutated_query()]
}

/// Bytes that are nearly a query: most of the interesting paths begin behind a plausible header.
fn nearly_a_query() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        4 => Just(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec()),
        2 => Just(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..16),
    ];
    let question = prop_oneof![
        prop::sample::select([&NAMES[..], RECORDS].concat()).prop_map(|host| name(&format!(
            "{host}.redbreast.internal"
        ))
        .as_wire()
        .to_vec()),
        prop::collection::vec("[a-zA-Z]{1,30}", 0..10).prop_map(|labels| Name::from_text(&labels.join("."))
            .unwrap_or_else(|_| Name::root())
            .as_wire()
            .to_vec()),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    let types = prop_oneof![
        Just(vec![0, 1, 0, 1]),
        Just(vec![0, 28, 0, 1]),
        prop::sample::select(vec![2, 5, 6, 12, 15, 16, 33, 255]).prop_map(|qtype| vec![0, qtype, 0, 1]),
        prop::collection::vec(any::<u8>(), 0..6)
    ];
    let opt = prop_oneof![
        Just(vec![]),
        any::<[u8; 6]>().prop_map(|ttl| [&[0, 0, 41], &ttl[..], &[0, 0]].concat()),
        any::<[u8; 8]>().prop_map(|cookie| {
            [&b"\0\0\x29\x02\0\0\0\0\0\0\x14\0\x0a\0\x08"[..], &cookie, b"\0\x03\0\0\0\x0b\0\0"].concat()
        }),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    (header, question, types, opt).prop_map(|(a, b, c, d)| [a, b, c, d].concat())
}

/// Checks what every response has to be, given its query.
fn check(packet: &[u8], transport: Transport, response: Option<&[u8]>) {
    let Some(response) = response else {
        assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "only these are dropped");
        return;
    };
    let tcp = transport == Transport::Tcp;
    assert!(tcp || response.len() <= 1232);
    if matches!(response[3] & 15, 1 | 4) {
        assert!(response.len() <= packet.len(), "a refusal of {} bytes for {}", response.len(), packet.len());
    }
    let message = Message::from_vec(response)
        .unwrap_or_else(|error| panic!("hickory cannot read {response:?}: {error}"));
    read_by_domain(response, true).unwrap_or_else(|error| panic!("domain cannot read {response:?}: {error}"));
    assert_eq!(&response[..2], &packet[..2]);
    assert_eq!(message.metadata.message_type, MessageType::Response);
    assert_eq!(response[2] & 0x78, packet[2] & 0x78, "the operation comes back");
    if message.answers.is_empty() && message.authorities.is_empty() {
        // Nothing to tell, so nothing is amplified: on top of what was asked there are at most the server's part of a
        // cookie (16), the value of NSID (6, of `node-1`), that of keepalive (2), and an extended error (6).
        let options_len = if message.edns.is_some() { 30 } else { 0 };
        assert!(response.len() <= packet.len() + options_len, "{} for {}", response.len(), packet.len());
    }
    // Three times what came, unless records that we hold are more; a domain of one label is asked for in so few bytes
    // that its SOA record is.
    let zone_of_one_label = message.authorities.iter().any(|soa| soa.name.num_labels() == 1);
    if !tcp && message.answers.is_empty() && !zone_of_one_label {
        assert!(response.len() <= 3 * packet.len(), "{} for {}: {message}", response.len(), packet.len());
    }
    if let [_question] = &message.queries[..] {
        // The question as it was asked, byte for byte.
        let mut end = 12;
        while packet[end] != 0 {
            end += 1 + usize::from(packet[end]);
        }
        assert_eq!(&response[12..end + 5], &packet[12..end + 5]);
    }
}

/// Reads all of a message with the domain crate, `with_data` the data of its records too.
fn read_by_domain(bytes: &[u8], with_data: bool) -> Result<domain::base::Message<&[u8]>, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let message = domain::base::Message::from_octets(bytes).map_err(|error| text(&error))?;
    for question in message.question() {
        question.map_err(|error| text(&error))?;
    }
    let mut section = Some(message.answer().map_err(|error| text(&error))?);
    while let Some(mut records) = section {
        for record in records.by_ref() {
            let record = record.map_err(|error| text(&error))?;
            if with_data {
                record.to_any_record::<AllRecordData<_, _>>().map_err(|error| text(&error))?;
            }
        }
        section = records.next_section().map_err(|error| text(&error))?;
    }
    Ok(message)
}

/// Whether the first name of a message ends with a pointer.
fn question_has_pointer(packet: &[u8]) -> bool {
    let mut at = 12;
    while let Some(&len @ 1..=63) = packet.get(at) {
        at += 1 + usize::from(len);
    }
    packet.get(at).is_some_and(|&byte| byte >= 0xc0)
}

/// Bytes of the only record behind the question, if that is an OPT record with cookies of lengths that they can have.
fn sound_opt_len(message: &domain::base::Message<&[u8]>) -> Option<usize> {
    let counts = message.header_counts();
    let record = message.additional().ok()?.next()?.ok()?;
    let opt = message.opt()?;
    let sound = opt.opt().iter::<UnknownOptData<_>>().all(|option| {
        option.is_ok_and(|option| match option.code() {
            OptionCode::COOKIE => matches!(option.data().len(), 8 | 16..=40),
            OptionCode::CLIENT_SUBNET => is_sound_subnet(option.data()),
            _ => true,
        })
    });
    let alone = (counts.ancount(), counts.nscount(), counts.arcount()) == (0, 0, 1);
    (alone && sound).then(|| 11 + usize::from(record.rdlen()))
}

/// Whether a client subnet is written as a query has to have it (RFC 7871 §6), or is of a family that nobody knows.
fn is_sound_subnet(value: &[u8]) -> bool {
    let [family_high, family_low, source_len, scope, address @ ..] = value else { return false };
    let width = match (family_high, family_low) {
        (0, 1) => 32,
        (0, 2) => 128,
        _ => return true,
    };
    let bit = |i: usize| address[i / 8] << (i % 8) & 0x80 != 0;
    let source_len = usize::from(*source_len);
    *scope == 0
        && source_len <= width
        && address.len() == source_len.div_ceil(8)
        && !(source_len..8 * address.len()).any(bit)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn whatever_comes_in_what_goes_out_is_a_bounded_response(packet in any_packet(), tcp: bool) {
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let response = answer(publisher_once(), &packet, transport);
        check(&packet, transport, response.as_deref());
    }

    #[test]
    fn what_we_read_in_a_query_is_what_hickory_reads(packet in any_packet()) {
        let publisher = publisher_once();
        let response = answer(publisher, &packet, Transport::Udp);
        // Where hickory reads a plain query with one question, we do not call it malformed.
        if let Ok(message) = Message::from_vec(&packet)
            && message.metadata.message_type == MessageType::Query
            && packet[2] & 0x78 == 0
            && message.queries.len() == 1
            && packet[12] < 0xc0
            && message.to_vec().is_ok_and(|bytes| bytes.len() == packet.len())
        {
            // It does not mind cookies of lengths that none can have (RFC 7873 §5.2.2), nor networks of clients that
            // are not written as they have to be.
            let mut options = message.edns.iter().flat_map(|edns| edns.options().as_ref());
            let bad_option = options.any(|(code, option)| {
                let bytes: Vec<u8> = option.try_into().unwrap_or_default();
                match u16::from(*code) {
                    10 => bytes.len() != 8 && !(16..=40).contains(&bytes.len()),
                    8 => !is_sound_subnet(&bytes),
                    _ => false,
                }
            });
            let code = response.expect("a query is answered")[3] & 15;
            prop_assert!(bad_option || (code != 1 && code != 4), "{message:?} was answered with code {code}");
        }
    }

    #[test]
    fn what_we_read_in_a_query_is_what_domain_reads(packet in any_packet()) {
        let mut buffer = packet.clone();
        buffer.resize(packet.len().max(MIN_BUFFER_LEN), 0);
        let (mut qname, seed) = (QueryName::default(), publisher_once().current().seed());
        let ours = Query::parse(&buffer, packet.len(), &mut qname, seed);
        // What stands in the records of a query means nothing, but for OPT.
        let theirs = read_by_domain(&packet, false);
        if let Ok(query) = ours && query.has_question() {
            // It follows pointers in the owners of records that mean nothing to us; we pass over them.
            if theirs.is_err() && packet[query.question_end..].iter().any(|&byte| byte >= 0xc0) {
                return Ok(());
            }
            let unread = |error| TestCaseError::fail(format!("domain cannot read it: {error}"));
            let message = theirs.as_ref().map_err(unread)?;
            let question = message.sole_question().map_err(|error| TestCaseError::fail(error.to_string()))?;
            let wire = question.qname().to_vec().as_slice().to_ascii_lowercase();
            prop_assert_eq!(wire.as_slice(), qname.as_wire());
            prop_assert_eq!((question.qtype().to_int(), question.qclass().to_int()), (query.qtype, query.qclass));
            // What stands in the OPT record of another version, nobody knows.
            if query.edns.is_none_or(|edns| edns.version == 0) {
                let ours = query.edns.map(|edns| (edns.udp_payload_size, edns.version, edns.dnssec_ok));
                let theirs = message.opt().map(|opt| (opt.udp_payload_size(), opt.version(), opt.dnssec_ok()));
                prop_assert_eq!(theirs, ours);
            }
        } else if let Ok(message) = theirs
            && message.header().opcode() == Opcode::QUERY
            && !message.header().qr()
            && message.sole_question().is_ok()
        {
            // What domain reads and we refuse: it does not mind bytes behind the last record, nor where OPT records
            // stand and how many they are, nor how cookies and networks are written, nor a pointer in the question,
            // which has to point into the header.
            let counts = message.header_counts();
            let name_len = message.sole_question().map(|question| usize::from(question.qname().compose_len()));
            let end = 12 + name_len.map_or(0, |len| len + 4);
            let opt_len = sound_opt_len(&message).filter(|_| packet.get(end) == Some(&0));
            let plain = opt_len.is_some() || (counts.ancount(), counts.nscount(), counts.arcount()) == (0, 0, 0);
            let end = end + opt_len.unwrap_or(0);
            let has_pointer = question_has_pointer(&packet);
            prop_assert!(!plain || has_pointer || end != packet.len(), "we refuse {packet:?}: {ours:?}");
        }
    }
}

/// Packets that were of interest once: every kind of malformation that has a test, and what fuzzing has found. A line
/// each: the packet in hexadecimal digits, then what it is.
#[test]
fn the_corpus_is_answered_as_everything_has_to_be() {
    let corpus = include_str!("data/packets.hex");
    let lines = corpus.lines().filter(|line| !line.starts_with('#'));
    let mut packets = 0;
    for line in lines {
        let hex = line.split_whitespace().next().unwrap_or_default();
        let packet: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        for transport in [Transport::Udp, Transport::Tcp] {
            check(&packet, transport, answer(publisher_once(), &packet, transport).as_deref());
        }
        packets += 1;
    }
    assert!(packets > 30);
}

fn publisher_once() -> &'static Publisher {
    static PUBLISHER: std::sync::OnceLock<Publisher> = std::sync::OnceLock::new();
    PUBLISHER.get_or_init(publisher)
}
