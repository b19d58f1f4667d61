//! RFC 1035: records, names, messages, transports.

use std::io::Write;
use std::net::UdpSocket;

use crate::message::{
    A, AA, AAAA, AD, Answer, CD, CLASS_ANY, CLASS_CH, FORMERR, MX, NOERROR, NOTIMP, NS, NXDOMAIN,
    OPCODE_SHIFT, PTR, QR, Query, RA, RD, REFUSED, SOA, TC, TXT, Z, message, wire_name,
};
use crate::server::PATIENCE;
use crate::transport::{frame, receive};
use crate::world::{HUGE, MANY, TTL_S, World};

const WEB: &str = "web.redbreast.internal";

#[test]
fn s3_2_1_records_have_owner_type_class_ttl_and_data() {
    let world = World::new();
    for answer in world.ask(&Query::new(WEB, A)) {
        assert_eq!(answer.rcode(), NOERROR, "{answer:?}");
        assert_eq!(answer.data(), [[10, 0, 0, 1], [10, 0, 0, 2]], "{answer:?}");
        for record in &answer.answers {
            assert_eq!((&record.owner, record.rtype, record.class), (&wire_name(WEB), A, 1), "{answer:?}");
            assert_eq!(record.ttl, TTL_S);
        }
        assert!(answer.authorities.is_empty() && answer.additionals.is_empty(), "{answer:?}");
    }
}

#[test]
fn s3_3_12_and_3_5_a_pointer_leads_from_address_to_name() {
    let world = World::new();
    for name in
        ["3.0.0.10.in-addr.arpa", "6.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa"]
    {
        for answer in world.ask(&Query::new(name, PTR)) {
            let [record] = &answer.answers[..] else { panic!("{answer:?}") };
            let expected = if name.starts_with('3') { "Mixed-Case" } else { "six" };
            let expected = wire_name(&format!("{expected}.redbreast.internal"));
            assert!(record.data.eq_ignore_ascii_case(&expected), "{answer:?}");
            assert!(answer.has(AA) && record.rtype == PTR, "{answer:?}");
        }
    }
}

#[test]
fn s3_3_13_the_soa_stands_at_the_apex_and_only_there() {
    let world = World::new();
    for answer in world.ask(&Query::new("redbreast.internal", SOA)) {
        let [record] = &answer.answers[..] else { panic!("{answer:?}") };
        let names = [wire_name("ns.redbreast.internal"), wire_name("hostmaster.redbreast.internal")].concat();
        assert_eq!((record.rtype, &record.owner), (SOA, &wire_name("redbreast.internal")), "{answer:?}");
        assert_eq!(record.data[..names.len()], names, "{answer:?}");
        assert_eq!(record.data.len(), names.len() + 20, "five numbers follow: {answer:?}");
        assert!(answer.has(AA), "{answer:?}");
    }
    for answer in world.ask(&Query::new(WEB, SOA)) {
        assert!(answer.answers.is_empty() && answer.negative_soa().is_some(), "{answer:?}");
    }
}

#[test]
fn s4_1_1_id_and_question_come_back() {
    let world = World::new();
    for id in [0, 1, 0x8000, 0xffff] {
        // `ask` compares id and question.
        for answer in world.ask(&Query { id, ..Query::new("wEb.RedBreast.Internal", A) }) {
            assert_eq!((answer.rcode(), answer.questions), (NOERROR, 1), "{answer:?}");
        }
    }
}

#[test]
fn s4_1_1_flags_are_those_of_an_authority_that_does_not_recurse() {
    let world = World::new();
    for asked in [0, RD, RD | CD, RD | AD, AA | TC | RA | Z | RD, Z] {
        for (name, rcode) in [(WEB, NOERROR), ("nobody.redbreast.internal", NXDOMAIN)] {
            for answer in world.ask(&Query::new(name, A).flags(asked)) {
                let expected = QR | AA | (asked & RD) | rcode;
                // What RFC 4035 says of CD and AD is checked elsewhere.
                assert_eq!(answer.flags & !(AD | CD), expected, "asked {asked:#06x}: {answer:?}");
            }
        }
    }
    for answer in world.ask(&Query::new("example.com", A)) {
        assert_eq!(answer.flags, QR | RD | REFUSED, "no authority for what is not ours: {answer:?}");
        assert!(answer.authorities.is_empty(), "and no referral: {answer:?}");
    }
}

#[test]
fn s4_1_1_other_operations_are_not_implemented() {
    let world = World::new();
    for opcode in 1..16 {
        let flags = opcode << OPCODE_SHIFT | RD;
        for answer in world.send(&Query::new(WEB, A).flags(flags).to_bytes()) {
            assert_eq!((answer.rcode(), answer.id), (NOTIMP, 0x1a2b), "{answer:?}");
            assert_eq!(answer.flags & !15, QR | flags, "the operation comes back: {answer:?}");
            assert!(answer.answers.is_empty() && answer.authorities.is_empty(), "{answer:?}");
        }
    }
}

#[test]
fn s4_1_1_a_response_and_less_than_a_header_are_not_answered() {
    let world = World::new();
    let good = Query { id: 7, ..Query::new(WEB, A) }.to_bytes();
    let response = Query::new(WEB, A).flags(QR | RD).to_bytes();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(world.server.address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for silent in [&response[..], &good[..11], &good[..1], &[]] {
        socket.send(silent).unwrap();
        let mut stream = world.connect();
        stream.write_all(&frame(silent)).unwrap();
        assert_eq!(receive(&mut stream), None, "{silent:?}");
    }
    socket.send(&good).unwrap();
    let mut buffer = [0; 512];
    let len = socket.recv(&mut buffer).unwrap();
    assert_eq!(Answer::read("UDP", &buffer[..len]).id, 7, "the first answer is to the first real query");
}

#[test]
fn s4_1_messages_that_break_the_format_are_told_so() {
    let world = World::new();
    let good = Query::new(WEB, A);
    let question = good.question();
    let bytes = good.to_bytes();
    let cases: [(&str, Vec<u8>); 6] = [
        ("a header alone that promises a question", message(1, RD, [1, 0, 0, 0], &[])),
        ("the name ends early", bytes[..20].to_vec()),
        ("the class is cut", bytes[..bytes.len() - 1].to_vec()),
        ("bytes behind the message", [&bytes[..], b"x"].concat()),
        ("a record is promised and missing", message(1, RD, [1, 0, 0, 1], &[&question])),
        ("a record is cut", message(1, RD, [1, 0, 0, 1], &[&question, b"\0\0\x01\0\x01\0\0\0\0\0\x04\x0a"])),
    ];
    for (what, bytes) in cases {
        for answer in world.send(&bytes) {
            assert_eq!(answer.rcode(), FORMERR, "{what}: {answer:?}");
            assert_eq!([answer.id.to_be_bytes()[0], answer.id.to_be_bytes()[1]], bytes[..2], "{what}");
        }
    }
}

#[test]
fn s3_1_labels_have_63_bytes_and_names_255_at_most() {
    let world = World::new();
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}.redbreast.internal", "b".repeat(42));
    assert_eq!(wire_name(&longest).len(), 255);
    for answer in world.ask(&Query::new(&longest, A)) {
        assert_eq!(answer.rcode(), NXDOMAIN, "{answer:?}");
        assert!(answer.negative_soa().is_some(), "{answer:?}");
    }
    let too_long = wire_name(&format!("b{longest}"));
    let bad_labels = [&[0x40, b'a'][..], &[0x80, b'a'], &[0xc0, 12], &[0xc0, 0]];
    for name in bad_labels.into_iter().chain([&too_long[..]]) {
        let question = [name, &[0, 0, 1, 0, 1]].concat();
        for answer in world.send(&message(9, RD, [1, 0, 0, 0], &[&question])) {
            assert_eq!((answer.rcode(), answer.id), (FORMERR, 9), "{name:?}: {answer:?}");
        }
    }
}

#[test]
fn s4_1_4_pointers_lead_to_what_came_before() {
    // `Answer::read` follows each pointer and panics when it leads anywhere but to the front.
    let world = World::new();
    for (name, qtype) in [
        (WEB, A),
        (WEB, AAAA),
        ("many.redbreast.internal", A),
        ("nobody.at.all.redbreast.internal", A),
        ("redbreast.internal", SOA),
        ("3.0.0.10.in-addr.arpa", A),
    ] {
        for answer in world.ask(&Query::new(name, qtype)) {
            assert!(answer.answers.iter().all(|record| record.owner == wire_name(name)), "{answer:?}");
            if let Some(soa) = answer.negative_soa() {
                assert!(wire_name(name).ends_with(&soa.owner), "{answer:?}");
            }
        }
    }
}

#[test]
fn s4_2_1_udp_has_512_bytes_and_tcp_has_all() {
    let world = World::new();
    for (name, count) in [("many", MANY), ("huge", HUGE)] {
        let [udp, tcp] = world.ask(&Query::new(&format!("{name}.redbreast.internal"), A));
        assert!(udp.has(TC) && udp.len <= 512, "{udp:?}");
        let room = 512 - 12 - udp.question.len();
        assert_eq!(udp.answers.len(), room / 16, "whole records, as many as there is room for: {udp:?}");
        assert!(!tcp.has(TC));
        assert_eq!(tcp.answers.len(), count as usize);
    }
}

#[test]
fn s3_2_4_there_is_nothing_in_other_classes() {
    let world = World::new();
    for class in [0, 2, CLASS_CH, 4, 254, 0xff00] {
        for answer in world.ask(&Query::new(WEB, A).class(class)) {
            assert_eq!(answer.flags, QR | RD | REFUSED, "class {class}: {answer:?}");
            assert!(answer.answers.is_empty() && answer.authorities.is_empty(), "{answer:?}");
        }
    }
}

#[test]
fn s3_2_5_and_6_2_any_class_includes_ours_without_authority() {
    let world = World::new();
    for answer in world.ask(&Query::new(WEB, A).class(CLASS_ANY)) {
        assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 2), "{answer:?}");
        assert!(answer.answers.iter().all(|record| record.class == 1), "{answer:?}");
        assert!(!answer.has(AA), "{answer:?}");
    }
}

#[test]
fn s3_2_3_transfers_are_refused() {
    let world = World::new();
    for qtype in [251, 252] {
        for name in [WEB, "redbreast.internal", "nobody.redbreast.internal"] {
            for answer in world.ask(&Query::new(name, qtype)) {
                assert_eq!(answer.flags, QR | RD | REFUSED, "{name} {qtype}: {answer:?}");
                assert!(answer.answers.is_empty() && answer.authorities.is_empty(), "{answer:?}");
            }
        }
    }
}

#[test]
fn s3_3_11_the_name_server_of_each_domain_stands_at_its_apex_and_has_an_address() {
    let world = World::new();
    for domain in ["redbreast.internal", "example.org"] {
        let server = format!("ns.{domain}");
        for answer in world.ask(&Query::new(domain, NS)) {
            assert_eq!(answer.data(), [wire_name(&server)], "{answer:?}");
            assert!(answer.has(AA), "{answer:?}");
        }
        for answer in world.ask(&Query::new(&server, A)) {
            assert_eq!(answer.data(), [[127, 0, 0, 1]], "{answer:?}");
        }
    }
    for answer in world.ask(&Query::new("web.redbreast.internal", NS)) {
        assert!(answer.answers.is_empty() && answer.negative_soa().is_some(), "{answer:?}");
    }
}

#[test]
fn s3_3_14_texts_are_answered_whole_and_have_one_ttl() {
    let world = World::new();
    for answer in world.ask(&Query::new("text.redbreast.internal", TXT)) {
        let expected = [&b"\x05hello\x09two words"[..], b"\x13a lower TTL for all"];
        assert_eq!(answer.data(), expected, "{answer:?}");
        assert!(answer.answers.iter().all(|record| record.ttl == 5), "RFC 2181 §5.2: {answer:?}");
    }
}

#[test]
fn s3_3_9_a_mail_exchange_has_its_preference_and_name() {
    let world = World::new();
    for answer in world.ask(&Query::new("mx.redbreast.internal", MX)) {
        let expected = [&[0, 10][..], &wire_name("mail_1.redbreast.internal")].concat();
        assert_eq!(answer.data(), [expected], "{answer:?}");
    }
}

#[test]
fn s4_1_1_where_one_record_fits_an_answer_is_not_empty() {
    let world = World::new();
    let [udp, tcp] = world.ask(&Query::new("large.redbreast.internal", TXT));
    assert!(udp.has(TC) && udp.len <= 512, "{udp:?}");
    assert_eq!(udp.data(), [b"\x0ba short one"], "the long one does not fit, the short one does");
    assert!(!tcp.has(TC) && tcp.answers.len() == 2, "{tcp:?}");
}
