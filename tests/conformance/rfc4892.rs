//! RFC 4892: what a server says of itself in class CHAOS.

use crate::message::{A, CLASS_CH, CLASS_IN, NOERROR, Query, REFUSED, TXT};
use crate::world::World;

#[test]
fn s2_id_server_tells_the_nodes_name() {
    let world = World::with(&["--node-name", "node-1"]);
    for name in ["id.server", "ID.Server", "hostname.bind"] {
        for answer in world.ask(&Query::new(name, TXT).class(CLASS_CH)) {
            assert_eq!(answer.rcode(), NOERROR, "{answer:?}");
            assert_eq!(answer.data(), [b"\x06node-1"], "{answer:?}");
            let record = &answer.answers[0];
            assert_eq!((record.class, record.rtype, record.ttl), (CLASS_CH, TXT, 0), "{answer:?}");
        }
    }
    for answer in world.ask(&Query::new("version.bind", TXT).class(CLASS_CH)) {
        assert!(answer.data()[0][1..].starts_with(b"redbreast "), "{answer:?}");
    }
}

#[test]
fn s2_there_is_nothing_else_there_nor_in_class_in() {
    let world = World::with(&["--node-name", "node-1"]);
    for query in [
        Query::new("id.server", A).class(CLASS_CH),
        Query::new("other.server", TXT).class(CLASS_CH),
        Query::new("id.server", TXT).class(CLASS_IN),
    ] {
        for answer in world.ask(&query) {
            assert_eq!((answer.rcode(), answer.answers.len()), (REFUSED, 0), "{answer:?}");
        }
    }
}

#[test]
fn s3_a_server_can_be_told_to_keep_it_to_itself() {
    let world = World::with(&["--hide-identity"]);
    for name in ["id.server", "hostname.bind", "version.bind", "version.server"] {
        for answer in world.ask(&Query::new(name, TXT).class(CLASS_CH)) {
            assert_eq!((answer.rcode(), answer.answers.len()), (REFUSED, 0), "{answer:?}");
        }
    }
}
