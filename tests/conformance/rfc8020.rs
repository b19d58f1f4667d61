//! RFC 8020: NXDOMAIN says that there is nothing below the name either.

use crate::message::{A, AA, AAAA, NOERROR, NXDOMAIN, Query};
use crate::world::World;

#[test]
fn s2_a_name_with_nothing_but_names_below_exists() {
    let world = World::new();
    for qtype in [A, AAAA, 65_280] {
        for answer in world.ask(&Query::new("er.redbreast.internal", qtype)) {
            assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 0), "{answer:?}");
            assert!(answer.has(AA) && answer.negative_soa().is_some(), "{answer:?}");
        }
    }
    for answer in world.ask(&Query::new("deep.er.redbreast.internal", A)) {
        assert_eq!(answer.data(), [[10, 0, 0, 4]], "{answer:?}");
    }
}

#[test]
fn s2_below_a_name_that_does_not_exist_nothing_does() {
    let world = World::new();
    for name in ["nobody", "x.nobody", "x.web", "x.er", "x.deep.er"] {
        for answer in world.ask(&Query::new(&format!("{name}.redbreast.internal"), A)) {
            assert_eq!(answer.rcode(), NXDOMAIN, "{answer:?}");
        }
    }
}

#[test]
fn s2_a_single_label_is_said_not_to_exist_unless_one_of_our_domains_is_below_it() {
    let world = World::new();
    for (name, rcode) in [("nobody", NXDOMAIN), ("com", NXDOMAIN), ("internal", NOERROR), ("ORG", NOERROR)] {
        for answer in world.ask(&Query::new(name, A)) {
            assert_eq!((answer.rcode(), answer.answers.len()), (rcode, 0), "{answer:?}");
            assert_eq!(answer.negative_soa().expect("a SOA").owner, [0], "that of the root: {answer:?}");
        }
    }
}
