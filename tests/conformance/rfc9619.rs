//! RFC 9619: a query has one question.

use crate::message::{A, Edns, FORMERR, Query, RD, message};
use crate::world::World;

#[test]
fn s4_more_than_one_question_is_a_format_error() {
    let world = World::new();
    let question = Query::new("web.redbreast.internal", A).question();
    let opt = Edns::default().to_bytes();
    for bytes in [
        message(3, RD, [2, 0, 0, 0], &[&question, &question]),
        message(3, RD, [2, 0, 0, 1], &[&question, &question, &opt]),
        message(3, RD, [2, 0, 0, 0], &[&question]),
        message(3, RD, [0xffff, 0, 0, 0], &[&question]),
    ] {
        for answer in world.send(&bytes) {
            assert_eq!((answer.rcode(), answer.id), (FORMERR, 3), "{answer:?}");
            assert!(answer.answers.is_empty() && answer.authorities.is_empty(), "{answer:?}");
        }
    }
}

/// RFC 9619 leaves that as it was; RFC 7873 §5.4 has the exception, a cookie asked for alone.
#[test]
fn no_question_is_a_format_error_too() {
    let world = World::new();
    for answer in world.send(&message(3, RD, [0, 0, 0, 0], &[])) {
        assert_eq!((answer.rcode(), answer.id), (FORMERR, 3), "{answer:?}");
    }
}
