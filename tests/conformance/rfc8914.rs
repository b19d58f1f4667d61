//! RFC 8914: extended DNS errors.

use crate::message::{A, Edns, NOERROR, NXDOMAIN, Query, REFUSED};
use crate::world::World;

const EXTENDED_ERROR: u16 = 15;

fn query(name: &str) -> Query {
    Query::new(name, A).edns(Edns::default())
}

#[test]
fn s4_19_who_may_not_ask_is_prohibited() {
    let world = World::with(&["--allow", "192.0.2.1"]);
    for name in ["web.redbreast.internal", "nobody.redbreast.internal", "example.com"] {
        for answer in world.ask(&query(name)) {
            assert_eq!((answer.rcode(), answer.option(EXTENDED_ERROR)), (REFUSED, Some(&[0, 18][..])));
            assert!(answer.answers.is_empty() && answer.authorities.is_empty(), "{answer:?}");
        }
    }
}

#[test]
fn s4_21_we_have_no_authority_for_names_that_are_not_ours() {
    let world = World::new();
    for name in ["example.com", "notredbreast.internal", "."] {
        for answer in world.ask(&query(name)) {
            assert_eq!((answer.rcode(), answer.option(EXTENDED_ERROR)), (REFUSED, Some(&[0, 20][..])));
        }
    }
}

#[test]
fn s4_22_transfers_and_other_classes_are_not_supported() {
    let world = World::new();
    let transfer = Query::new("redbreast.internal", 252).edns(Edns::default());
    for query in [transfer, query("web.redbreast.internal").class(4)] {
        for answer in world.ask(&query) {
            assert_eq!((answer.rcode(), answer.option(EXTENDED_ERROR)), (REFUSED, Some(&[0, 21][..])));
        }
    }
}

#[test]
fn s2_where_nothing_went_wrong_there_is_no_error() {
    let world = World::new();
    for (name, rcode) in [("web.redbreast.internal", NOERROR), ("nobody.redbreast.internal", NXDOMAIN)] {
        for answer in world.ask(&query(name)) {
            assert_eq!((answer.rcode(), answer.option(EXTENDED_ERROR)), (rcode, None), "{answer:?}");
        }
    }
}

#[test]
fn s3_who_does_not_speak_edns_gets_the_code_alone() {
    let world = World::new();
    // `ask` checks that no OPT record comes.
    for answer in world.ask(&Query::new("example.com", A)) {
        assert_eq!(answer.rcode(), REFUSED, "{answer:?}");
    }
}
