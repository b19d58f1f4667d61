//! RFC 3225 and RFC 4035: a client that wants DNSSEC asks a server that does not sign.

use crate::message::{A, AD, CD, DO, Edns, NOERROR, NXDOMAIN, Query, RD};
use crate::world::World;

#[test]
fn rfc3225_s3_do_comes_back_as_it_was_asked() {
    let world = World::new();
    for flags in [0, DO] {
        for name in ["web.redbreast.internal", "nobody.redbreast.internal", "example.com"] {
            for answer in world.ask(&Query::new(name, A).edns(Edns { flags, ..Edns::default() })) {
                assert_eq!(answer.edns.as_ref().unwrap().flags, flags, "{answer:?}");
            }
        }
    }
}

#[test]
fn rfc4035_s3_1_6_unsigned_data_is_never_called_authentic() {
    let world = World::new();
    for flags in [RD, RD | AD, RD | CD, RD | AD | CD] {
        for (name, rcode, count) in
            [("web.redbreast.internal", NOERROR, 2), ("nobody.redbreast.internal", NXDOMAIN, 0)]
        {
            let edns = Edns { flags: DO, ..Edns::default() };
            for answer in world.ask(&Query::new(name, A).flags(flags).edns(edns)) {
                assert!(!answer.has(AD) && !answer.has(CD), "{answer:?}");
                assert_eq!((answer.rcode(), answer.answers.len()), (rcode, count), "{answer:?}");
            }
        }
    }
}

#[test]
fn rfc4035_s3_1_unsigned_zones_are_answered_without_dnssec_records() {
    let world = World::new();
    for name in ["web.redbreast.internal", "nobody.redbreast.internal"] {
        let edns = Edns { flags: DO, ..Edns::default() };
        for answer in world.ask(&Query::new(name, A).edns(edns)) {
            let records = answer.answers.iter().chain(&answer.authorities);
            assert!(records.clone().all(|record| [1, 6].contains(&record.rtype)), "{answer:?}");
        }
    }
    for qtype in [43, 46, 47, 48, 50] {
        for answer in world.ask(&Query::new("redbreast.internal", qtype)) {
            assert_eq!(answer.rcode(), NOERROR, "{answer:?}");
            assert!(answer.answers.is_empty() && answer.negative_soa().is_some(), "{answer:?}");
        }
    }
}
