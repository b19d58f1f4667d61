//! RFC 2308: negative answers.

use crate::message::{A, AA, AAAA, Answer, MX, NOERROR, NXDOMAIN, PTR, Query, SOA, TXT, wire_name};
use crate::world::{TTL_S, World};

/// Checks that the SOA of `zone` is there, and good for as long as its last field says.
fn check_soa(answer: &Answer, zone: &str) {
    assert!(answer.answers.is_empty() && answer.additionals.is_empty(), "{answer:?}");
    let soa = answer.negative_soa().unwrap_or_else(|| panic!("no SOA: {answer:?}"));
    assert_eq!(soa.owner, wire_name(zone), "{answer:?}");
    let minimum = u32::from_be_bytes(*soa.data.last_chunk().unwrap());
    assert_eq!((soa.ttl, minimum), (TTL_S, TTL_S), "{answer:?}");
    assert!(answer.has(AA), "{answer:?}");
}

#[test]
fn s2_1_a_name_that_does_not_exist_is_nxdomain_with_soa() {
    let world = World::new();
    for name in ["nobody.redbreast.internal", "below.web.redbreast.internal", "a.b.c.d.redbreast.internal"] {
        for qtype in [A, AAAA, MX, SOA] {
            for answer in world.ask(&Query::new(name, qtype)) {
                assert_eq!(answer.rcode(), NXDOMAIN, "{answer:?}");
                check_soa(&answer, "redbreast.internal");
            }
        }
    }
}

#[test]
fn s2_2_a_type_that_a_name_does_not_have_is_noerror_with_soa() {
    let world = World::new();
    for (name, qtypes) in [
        ("web.redbreast.internal", &[MX, TXT, PTR][..]),
        ("six.redbreast.internal", &[A, MX]),
        ("mixed-case.redbreast.internal", &[AAAA]),
        ("redbreast.internal", &[A, AAAA, MX]),
        ("er.redbreast.internal", &[A, AAAA, MX]),
    ] {
        for &qtype in qtypes {
            for answer in world.ask(&Query::new(name, qtype)) {
                assert_eq!(answer.rcode(), NOERROR, "{answer:?}");
                check_soa(&answer, "redbreast.internal");
            }
        }
    }
}

#[test]
fn s2_2_each_reverse_name_is_a_zone_of_its_own() {
    let world = World::new();
    for answer in world.ask(&Query::new("3.0.0.10.in-addr.arpa", A)) {
        assert_eq!(answer.rcode(), NOERROR, "{answer:?}");
        check_soa(&answer, "3.0.0.10.in-addr.arpa");
    }
}

#[test]
fn s3_the_soa_is_that_of_the_closest_zone() {
    let world = World::with(&["--domain", "redbreast.internal", "--domain", "sub.redbreast.internal"]);
    for (name, zone) in [
        ("x.sub.redbreast.internal", "sub.redbreast.internal"),
        ("x.redbreast.internal", "redbreast.internal"),
    ] {
        for answer in world.ask(&Query::new(name, A)) {
            assert_eq!(answer.rcode(), NXDOMAIN, "{answer:?}");
            check_soa(&answer, zone);
        }
    }
}
