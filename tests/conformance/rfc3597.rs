//! RFC 3597: types and classes that the server does not know.

use crate::message::{NOERROR, NXDOMAIN, Query, REFUSED};
use crate::world::World;

/// Numbers that IANA has not given away, or for private use.
const UNKNOWN: [u16; 4] = [1234, 31_337, 65_280, 65_534];

#[test]
fn s3_a_type_we_do_not_know_is_asked_for_like_any_other() {
    let world = World::new();
    for qtype in UNKNOWN {
        for (name, rcode) in [
            ("web.redbreast.internal", NOERROR),
            ("redbreast.internal", NOERROR),
            ("er.redbreast.internal", NOERROR),
            ("nobody.redbreast.internal", NXDOMAIN),
        ] {
            for answer in world.ask(&Query::new(name, qtype)) {
                assert_eq!(answer.rcode(), rcode, "{answer:?}");
                assert!(answer.answers.is_empty() && answer.negative_soa().is_some(), "{answer:?}");
            }
        }
        for answer in world.ask(&Query::new("example.com", qtype)) {
            assert_eq!(answer.rcode(), REFUSED, "{answer:?}");
        }
    }
}

#[test]
fn s3_a_class_we_do_not_know_is_one_we_have_no_data_in() {
    let world = World::new();
    for class in UNKNOWN {
        for answer in world.ask(&Query::new("web.redbreast.internal", 1).class(class)) {
            assert_eq!(answer.rcode(), REFUSED, "{answer:?}");
        }
    }
}

#[test]
fn s4_data_of_a_type_we_do_not_know_is_handed_out_as_it_is() {
    let world = World::new();
    for answer in world.ask(&Query::new("odd.redbreast.internal", 65_280)) {
        assert_eq!(
            (answer.rcode(), answer.data()),
            (NOERROR, vec![&[0xc0, 0xff, 0xee, 0][..]]),
            "{answer:?}"
        );
    }
}
