//! RFC 3596: IPv6 addresses.

use std::net::Ipv6Addr;

use crate::message::{A, AAAA, NOERROR, Query};
use crate::world::World;

#[test]
fn s2_2_an_address_has_sixteen_bytes() {
    let world = World::new();
    let expected: Ipv6Addr = "fd00::6".parse().unwrap();
    for answer in world.ask(&Query::new("six.redbreast.internal", AAAA)) {
        assert_eq!(answer.data(), [expected.octets()], "{answer:?}");
        assert!(answer.answers[0].rtype == AAAA && answer.answers[0].class == 1, "{answer:?}");
    }
}

#[test]
fn s2_3_addresses_of_the_other_family_are_not_mixed_in() {
    let world = World::new();
    for (qtype, len, count) in [(A, 4, 2), (AAAA, 16, 1)] {
        for answer in world.ask(&Query::new("web.redbreast.internal", qtype)) {
            assert_eq!((answer.rcode(), answer.data().len()), (NOERROR, count), "{answer:?}");
            assert!(answer.data().iter().all(|data| data.len() == len), "{answer:?}");
            assert!(answer.additionals.is_empty(), "{answer:?}");
        }
    }
}
