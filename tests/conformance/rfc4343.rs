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

/// Clients that mix the case at random take an answer with another mix for a forged one (0x20).
#[test]
fn s4_1_any_mix_of_case_comes_back_byte_for_byte() {
    let world = World::new();
    let mut rng = fastrand::Rng::with_seed(0x20);
    for round in 0..200 {
        let (name, rcode, count) = [
            ("web.redbreast.internal", NOERROR, 2),
            ("mixed-case.redbreast.internal", NOERROR, 1),
            ("nobody.redbreast.internal", NXDOMAIN, 0),
        ][round % 3];
        let mixed: String =
            name.chars().map(|c| if rng.bool() { c.to_ascii_uppercase() } else { c }).collect();
        // `ask` compares the question byte by byte.
        for answer in world.ask(&Query::new(&mixed, A)) {
            assert_eq!((answer.rcode(), answer.answers.len()), (rcode, count), "{mixed}: {answer:?}");
            assert!(answer.answers.iter().all(|record| record.owner == wire_name(&mixed)), "{answer:?}");
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
