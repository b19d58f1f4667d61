//! RFC 2782: SRV records.

use crate::message::{A, AA, AAAA, NOERROR, Query, SRV, wire_name};
use crate::world::World;

#[test]
fn a_service_is_answered_with_its_records_and_their_targets_addresses() {
    let world = World::new();
    for answer in world.ask(&Query::new("_http._tcp.web.redbreast.internal", SRV)) {
        assert!(answer.has(AA), "{answer:?}");
        let (web, six) = (wire_name("web.redbreast.internal"), wire_name("six.redbreast.internal"));
        let data = |priority, port: u16, target: &[u8]| {
            [&[0, priority, 0, 5][..], &port.to_be_bytes(), target].concat()
        };
        assert_eq!(
            answer.data(),
            [data(0, 8080, &web), data(1, 8081, &six), data(2, 8082, &web)],
            "{answer:?}"
        );
        let mut additionals: Vec<_> =
            answer.additionals.iter().map(|record| (record.owner.clone(), record.rtype)).collect();
        additionals.sort();
        assert_eq!(
            additionals,
            [(six, AAAA), (web.clone(), A), (web.clone(), A), (web, AAAA)],
            "each once: {answer:?}"
        );
    }
}

#[test]
fn a_target_that_is_not_ours_has_no_addresses_with_it() {
    let world = World::new();
    for answer in world.ask(&Query::new("_SIP._udp.web.redbreast.internal", SRV)) {
        assert_eq!((answer.answers.len(), answer.additionals.len()), (1, 0), "{answer:?}");
        assert_eq!(answer.answers[0].data[6..], wire_name("sip.example.com"), "{answer:?}");
    }
}

#[test]
fn the_names_above_a_service_exist() {
    let world = World::new();
    for answer in world.ask(&Query::new("_tcp.web.redbreast.internal", SRV)) {
        assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 0), "{answer:?}");
    }
}
