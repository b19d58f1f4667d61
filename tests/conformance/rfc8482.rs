//! RFC 8482: queries of type ANY.

use crate::message::{A, AA, AAAA, ANY, NOERROR, NS, NXDOMAIN, PTR, Query, SOA, TC};
use crate::world::World;

#[test]
fn s4_1_one_record_set_is_answer_enough() {
    let world = World::new();
    for (name, rtypes) in [
        ("web.redbreast.internal", &[A, AAAA][..]),
        ("six.redbreast.internal", &[AAAA]),
        ("redbreast.internal", &[NS, SOA]),
        ("3.0.0.10.in-addr.arpa", &[PTR]),
    ] {
        for answer in world.ask(&Query::new(name, ANY)) {
            assert_eq!(answer.rcode(), NOERROR, "{answer:?}");
            let rtype = answer.answers.first().unwrap_or_else(|| panic!("{answer:?}")).rtype;
            assert!(rtypes.contains(&rtype) && answer.has(AA) && !answer.has(TC), "{answer:?}");
            assert!(answer.answers.iter().all(|record| record.rtype == rtype), "{answer:?}");
        }
    }
}

#[test]
fn s4_1_a_name_without_records_has_none_of_any_type() {
    let world = World::new();
    for (name, rcode) in [("er.redbreast.internal", NOERROR), ("nobody.redbreast.internal", NXDOMAIN)] {
        for answer in world.ask(&Query::new(name, ANY)) {
            assert_eq!(answer.rcode(), rcode, "{answer:?}");
            assert!(answer.answers.is_empty() && answer.negative_soa().is_some(), "{answer:?}");
        }
    }
}
