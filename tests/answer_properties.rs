//! Properties of the one function that answers, with hickory-proto as an independent reader of what it writes.
#![allow(missing_docs)]

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use hickory_proto::rr::{RData, RecordType};
use proptest::prelude::*;
use redbreast::dataplane::access::Access;
use redbreast::dataplane::answer::{Answerer, Origin, Service, Verdict};
use redbreast::dataplane::identity::Identity;
use redbreast::snapshot::Current;
use redbreast::table::{Publisher, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::name::Name;
use redbreast::wire::query::MIN_BUFFER_LEN;
use redbreast::wire::response::{DEFAULT_UDP_LEN, Transport};

const NAMES: [&str; 6] = ["web", "WWW", "a.b.c", "x", "many", "mail_1"];

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
    let mut contents = publisher.contents();
    for (i, host) in NAMES.iter().enumerate() {
        let host = name(&format!("{host}.redbreast.internal"));
        for address in addresses(i) {
            contents.add_address(&host, address);
            contents.add_pointer(address, &host);
        }
    }
    publisher.publish(contents).unwrap();
    publisher
}

fn service() -> Arc<Service> {
    let identity = Identity::new(Some("node-1"));
    Arc::new(Service { access: Access::default(), identity, rate_limit: 0, udp_len: DEFAULT_UDP_LEN })
}

/// Answers `packet` and returns the response, if there is one.
fn answer(publisher: &Publisher, packet: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let mut buffer = vec![0xa5; 65_535.max(packet.len()).max(MIN_BUFFER_LEN)];
    buffer[..packet.len()].copy_from_slice(packet);
    let mut events = 0;
    let mut answerer =
        Answerer::new(service(), Current::new(Secrets::random()).reader(), fastrand::Rng::with_seed(3));
    let origin = Origin { transport, client: IpAddr::from([10, 0, 0, 9]), now_s: 1_800_000_000 };
    let verdict = answerer.answer(&publisher.current(), &mut buffer, packet.len(), origin, |_| events += 1);
    assert!((1..=2).contains(&events), "each packet is counted");
    match verdict {
        Verdict::Reply { len } => {
            buffer.truncate(len);
            Some(buffer)
        }
        Verdict::Drop => None,
    }
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
            assert_eq!(target.0.to_string(), format!("{qname}."));
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

/// How many random packets are tried; `scripts/fuzz` has many more of them.
fn cases() -> u32 {
    std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20_000)
}

/// Bytes that are nearly a query: most of the interesting paths begin behind a plausible header.
fn nearly_a_query() -> impl Strategy<Value = Vec<u8>> {
    let header = prop_oneof![
        4 => Just(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0".to_vec()),
        2 => Just(b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01".to_vec()),
        1 => prop::collection::vec(any::<u8>(), 0..16),
    ];
    let question = prop_oneof![
        prop::sample::select(NAMES.to_vec())
            .prop_map(|host| name(&format!("{host}.redbreast.internal")).as_wire().to_vec()),
        prop::collection::vec("[a-zA-Z]{1,30}", 0..10).prop_map(|labels| Name::from_text(&labels.join("."))
            .unwrap_or_else(|_| Name::root())
            .as_wire()
            .to_vec()),
        prop::collection::vec(any::<u8>(), 0..300),
    ];
    let types = prop_oneof![
        Just(vec![0, 1, 0, 1]),
        Just(vec![0, 28, 0, 1]),
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(cases()))]

    #[test]
    fn whatever_comes_in_what_goes_out_is_a_bounded_response(packet in nearly_a_query(), tcp: bool) {
        let publisher = publisher_once();
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let Some(response) = answer(publisher, &packet, transport) else {
            prop_assert!(packet.len() < 12 || packet[2] & 0x80 != 0, "only these are dropped");
            return Ok(());
        };
        prop_assert!(tcp || response.len() <= 1232);
        let message = Message::from_vec(&response)
            .unwrap_or_else(|error| panic!("hickory cannot read {response:?}: {error}"));
        prop_assert_eq!(&response[..2], &packet[..2]);
        prop_assert_eq!(message.metadata.message_type, MessageType::Response);
        if message.answers.is_empty() && message.authorities.is_empty() {
            // Nothing to tell, so nothing is amplified: on top of what was asked there are at most the server's part of a
            // cookie (16), the value of NSID (6, of `node-1`), that of keepalive (2), and an extended error (6).
            let options_len = if message.edns.is_some() { 30 } else { 0 };
            prop_assert!(response.len() <= packet.len() + options_len, "{} for {}", response.len(), packet.len());
        }
        if let [_question] = &message.queries[..] {
            // The question as it was asked, byte for byte.
            let end = 12 + packet[12..].iter().scan(0usize, |skip, &byte| {
                if *skip == 0 { if byte == 0 { return None; } *skip = usize::from(byte) + 1; }
                *skip -= 1;
                Some(())
            }).count() + 5;
            prop_assert_eq!(&response[12..end], &packet[12..end]);
        }
    }

    #[test]
    fn what_we_read_in_a_query_is_what_hickory_reads(packet in nearly_a_query()) {
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
            let code = response.expect("a query is answered")[3] & 15;
            prop_assert!(code != 1 && code != 4, "{message:?} was answered with code {code}");
        }
    }
}

fn publisher_once() -> &'static Publisher {
    static PUBLISHER: std::sync::OnceLock<Publisher> = std::sync::OnceLock::new();
    PUBLISHER.get_or_init(publisher)
}
