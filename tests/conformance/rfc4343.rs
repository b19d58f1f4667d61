//! RFC 4343: case, and the clients that play with it (draft-vixie-dnsext-dns0x20).

use crate::message::{A, AA, NOERROR, NXDOMAIN, Query, wire_name};
use crate::world::World;

#[test]
fn s3_letters_match_in_either_case() {
    let world = World::new();
    for name in ["web.redbreast.internal", "WEB.REDBREAST.INTERNAL", "wEb.rEdBrEaSt.InTeRnAl"] {
        for answer in world.ask(&Query::new(name, A)) {
            assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 2), "{answer:?}");
            assert!(answer.has(AA), "{answer:?}");
        }
    }
    for name in ["mixed-case.redbreast.internal", "MIXED-CASE.redbreast.internal"] {
        for answer in world.ask(&Query::new(name, A)) {
            assert_eq!(answer.data(), [[10, 0, 0, 3]], "{answer:?}");
        }
    }
}

#[test]
fn s4_1_the_question_and_the_owner_keep_the_case_that_was_asked() {
    let world = World::new();
    for name in ["wEb.rEdBrEaSt.InTeRnAl", "NoBoDy.rEdBrEaSt.InTeRnAl", "ExAmPlE.cOm"] {
        // `ask` compares the question byte by byte.
        for answer in world.ask(&Query::new(name, A)) {
            assert!(answer.answers.iter().all(|record| record.owner == wire_name(name)), "{answer:?}");
        }
    }
}

#[test]
fn s3_nothing_but_letters_is_folded() {
    let world = World::new();
    // Each differs from a name that exists in the bit that tells the cases of a letter apart.
    for name in
        ["mail\u{7f}1.redbreast.internal", "mail_\u{11}.redbreast.internal", "mixed\rcase.redbreast.internal"]
    {
        for answer in world.ask(&Query::new(name, A)) {
            assert_eq!(answer.rcode(), NXDOMAIN, "{answer:?}");
        }
    }
    for answer in world.ask(&Query::new("MAIL_1.redbreast.internal", A)) {
        assert_eq!(answer.data(), [[10, 0, 0, 5]], "{answer:?}");
    }
}
