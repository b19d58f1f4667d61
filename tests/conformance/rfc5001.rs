//! RFC 5001: the name server identifier option.

use crate::message::{A, Edns, Query};
use crate::world::World;

const NSID: u16 = 3;

#[test]
fn s2_1_and_2_2_who_asks_is_told_and_who_does_not_is_not() {
    let world = World::with(&["--node-name", "node-1"]);
    for name in ["web.redbreast.internal", "nobody.redbreast.internal", "example.com"] {
        for answer in world.ask(&Query::new(name, A).option(NSID, b"")) {
            assert_eq!(answer.option(NSID), Some(&b"node-1"[..]), "{answer:?}");
        }
        for answer in world.ask(&Query::new(name, A).edns(Edns::default())) {
            assert_eq!(answer.option(NSID), None, "{answer:?}");
        }
    }
}

#[test]
fn s2_2_data_in_the_query_is_ignored() {
    let world = World::with(&["--node-name", "node-1"]);
    for answer in world.ask(&Query::new("web.redbreast.internal", A).option(NSID, b"whatever")) {
        assert_eq!(answer.option(NSID), Some(&b"node-1"[..]), "{answer:?}");
    }
}

#[test]
fn s2_2_a_server_can_be_told_to_keep_it_to_itself() {
    let world = World::with(&["--hide-identity"]);
    for answer in world.ask(&Query::new("web.redbreast.internal", A).option(NSID, b"")) {
        assert_eq!((answer.option(NSID), answer.answers.len()), (None, 2), "{answer:?}");
    }
}
