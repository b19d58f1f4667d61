//! RFC 6891: EDNS(0).

use crate::message::{
    A, BADVERS, DO, Edns, FORMERR, NOERROR, NOTIMP, NXDOMAIN, OPCODE_SHIFT, Query, RD, SOA, TC, message,
};
use crate::world::{MANY, World};

/// Type DNSKEY, which an unsigned zone does not have.
const DNSKEY: u16 = 48;

const WEB: &str = "web.redbreast.internal";

#[test]
fn s6_1_1_an_opt_record_answers_an_opt_record_and_only_that() {
    let world = World::new();
    for name in [WEB, "nobody.redbreast.internal", "er.redbreast.internal", "example.com"] {
        // `ask` checks that there is one when it was asked, and none when it was not.
        world.ask(&Query::new(name, A));
        for answer in world.ask(&Query::new(name, A).edns(Edns::default())) {
            let edns = answer.edns.as_ref().unwrap();
            assert_eq!((edns.version, edns.high_rcode), (0, 0), "{answer:?}");
            assert!(edns.size >= 512, "{answer:?}");
        }
    }
}

#[test]
fn s6_1_1_two_opt_records_are_a_format_error() {
    let world = World::new();
    let opt = Edns::default().to_bytes();
    let bytes = message(3, RD, [1, 0, 0, 2], &[&Query::new(WEB, A).question(), &opt, &opt]);
    for answer in world.send(&bytes) {
        assert_eq!((answer.rcode(), answer.id), (FORMERR, 3), "{answer:?}");
    }
}

#[test]
fn s6_1_1_the_opt_record_may_stand_anywhere_in_the_additional_section() {
    let world = World::new();
    let (question, opt) = (Query::new(WEB, A).question(), Edns::default().to_bytes());
    let other = b"\0\0\x01\0\x01\0\0\0\0\0\x04\x0a\0\0\x01";
    for parts in [[&question[..], &opt, other], [&question[..], other, &opt]] {
        for answer in world.send(&message(3, RD, [1, 0, 0, 2], &parts)) {
            assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 2), "{answer:?}");
            assert!(answer.edns.is_some(), "{answer:?}");
        }
    }
}

#[test]
fn s6_1_2_options_we_do_not_know_are_ignored() {
    let world = World::new();
    // 8 is client subnet, 12 padding, 65001 is for experiments.
    let options = [(8, &b"\0\x01\x18\0\x0a\0\0"[..]), (12, &[0; 100]), (65_001, b""), (65_001, b"again")];
    let options = options.map(|(code, data)| (code, data.to_vec())).to_vec();
    for answer in world.ask(&Query::new(WEB, A).edns(Edns { options, ..Edns::default() })) {
        assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 2), "{answer:?}");
        assert!(answer.edns.as_ref().unwrap().options.is_empty(), "{answer:?}");
    }
}

#[test]
fn s6_1_2_an_option_longer_than_the_record_is_a_format_error() {
    let world = World::new();
    for data in [&b"\0\x03\0\x01"[..], b"\0\x03\0", b"\0"] {
        let len = u8::try_from(data.len()).unwrap();
        let opt = [&b"\0\0\x29\x04\xd0\0\0\0\0\0"[..], &[len], data].concat();
        let bytes = message(3, RD, [1, 0, 0, 1], &[&Query::new(WEB, A).question(), &opt]);
        for answer in world.send(&bytes) {
            assert_eq!((answer.rcode(), answer.id), (FORMERR, 3), "{answer:?}");
        }
    }
}

#[test]
fn s6_1_3_a_version_we_do_not_know_is_badvers_and_ours_is_told() {
    let world = World::new();
    for version in [1, 2, 255] {
        for name in [WEB, "nobody.redbreast.internal", "example.com"] {
            let edns = Edns { version, ..Edns::default() };
            for answer in world.ask(&Query::new(name, A).edns(edns)) {
                assert_eq!(answer.rcode(), BADVERS, "{answer:?}");
                assert_eq!(answer.edns.as_ref().unwrap().version, 0, "{answer:?}");
                assert!(answer.answers.is_empty() && answer.authorities.is_empty(), "{answer:?}");
            }
        }
    }
}

#[test]
fn s6_1_4_flags_we_do_not_know_are_ignored_and_not_returned() {
    let world = World::new();
    for answer in world.ask(&Query::new(WEB, A).edns(Edns { flags: 0x7fff, ..Edns::default() })) {
        assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 2), "{answer:?}");
        assert_eq!(answer.edns.as_ref().unwrap().flags, 0, "{answer:?}");
    }
}

#[test]
fn s6_2_3_sizes_below_512_mean_512() {
    let world = World::new();
    let lens = [0, 1, 511, 512].map(|size| {
        let edns = Edns { size, ..Edns::default() };
        let [udp, tcp] = world.ask(&Query::new("many.redbreast.internal", A).edns(edns));
        assert!(udp.has(TC) && !tcp.has(TC), "{udp:?}");
        assert_eq!(tcp.answers.len(), MANY as usize);
        udp.len
    });
    assert!((512 - 15..=512).contains(&lens[0]) && lens.iter().all(|len| *len == lens[0]), "{lens:?}");
}

#[test]
fn s6_2_3_to_5_udp_answers_fit_what_was_asked_and_never_exceed_1232() {
    let world = World::new();
    for size in [513, 700, 1000, 1231, 1232, 1233, 4096, 65_535] {
        let edns = Edns { size, ..Edns::default() };
        let [udp, tcp] = world.ask(&Query::new("many.redbreast.internal", A).edns(edns));
        let limit = usize::from(size.min(1232));
        assert!((limit - 15..=limit).contains(&udp.len), "{size}: {udp:?}");
        assert!(udp.has(TC) && !udp.answers.is_empty(), "{udp:?}");
        assert!(!tcp.has(TC) && tcp.answers.len() == MANY as usize, "the size is for UDP alone");
    }
}

#[test]
fn s7_a_negative_answer_has_its_soa_beside_the_opt_record() {
    let world = World::new();
    for answer in world.ask(&Query::new("nobody.redbreast.internal", A).edns(Edns::default())) {
        assert_eq!(answer.rcode(), NXDOMAIN, "{answer:?}");
        assert!(answer.negative_soa().is_some() && answer.additionals.is_empty(), "{answer:?}");
    }
}

#[test]
fn s6_2_4_our_own_largest_size_can_be_set_and_is_announced() {
    for size in [512, 1400, 1452] {
        let world = World::with(&["--edns-size", &size.to_string()]);
        let edns = Edns { size: 4096, ..Edns::default() };
        let answers = world.send(&Query::new("many.redbreast.internal", A).edns(edns).to_bytes());
        assert!(answers.iter().all(|answer| answer.edns.as_ref().unwrap().size == size), "{answers:?}");
        assert!((usize::from(size) - 15..=size.into()).contains(&answers[0].len), "{answers:?}");
    }
}

#[test]
fn s6_1_1_and_7_what_cannot_be_taken_is_answered_with_what_of_it_can_go_back() {
    let world = World::new();
    let question = Query::new(WEB, A).question();
    let opt = Edns { flags: DO, ..Edns::default() }.to_bytes();
    let bad_option = [&b"\0\0\x29\x04\xd0\0\0\x80\0\0\x02"[..], b"\0\x03"].concat();
    let cases = [
        ("another operation", NOTIMP, 4 << OPCODE_SHIFT, 1, &opt, true),
        ("two OPT records", FORMERR, 0, 2, &[&opt[..], &opt].concat(), true),
        ("a bad option", FORMERR, 0, 1, &bad_option, true),
        ("bytes behind", FORMERR, 0, 1, &[&opt[..], b"x"].concat(), true),
        ("half a record", FORMERR, 0, 1, &opt[..10].to_vec(), false),
    ];
    for (what, rcode, flags, count, rest, has_opt) in cases {
        for answer in world.send(&message(3, RD | flags, [1, 0, 0, count], &[&question, rest])) {
            assert_eq!((answer.rcode(), &answer.question), (rcode, &question), "{what}: {answer:?}");
            assert_eq!(answer.flags & (0xf << OPCODE_SHIFT), flags, "{what}: {answer:?}");
            let edns = answer.edns.as_ref();
            assert_eq!(
                edns.map(|edns| (edns.size, edns.flags)),
                has_opt.then_some((1232, DO)),
                "{what}: {answer:?}"
            );
        }
    }
}

/// What systemd-resolved sends while it finds out what a server can do: DNSSEC with large and with small sizes, EDNS,
/// TCP, and plain DNS when something was lost. Each has to be answered so that it goes no level down.
#[test]
fn s6_2_2_the_probes_of_a_resolver_that_feels_its_way_down_are_all_answered_in_kind() {
    let world = World::new();
    let levels = [(65_494, DO), (4096, DO), (1472, DO), (512, DO), (512, 0)];
    for name in [WEB, "nobody.redbreast.internal", "redbreast.internal"] {
        for rtype in [A, SOA, DNSKEY] {
            for (size, flags) in levels {
                let edns = Edns { size, flags, ..Edns::default() };
                for answer in world.ask(&Query::new(name, rtype).edns(edns)) {
                    assert!([NOERROR, NXDOMAIN].contains(&answer.rcode()) && !answer.has(TC), "{answer:?}");
                    assert_eq!(answer.edns.as_ref().unwrap().flags, flags, "{answer:?}");
                }
            }
            for answer in world.ask(&Query::new(name, rtype)) {
                assert!([NOERROR, NXDOMAIN].contains(&answer.rcode()), "{answer:?}");
            }
        }
    }
}
