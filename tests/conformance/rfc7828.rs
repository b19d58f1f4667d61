//! RFC 7828: the edns-tcp-keepalive option.

use crate::message::{A, Edns, NOERROR, Query};
use crate::world::World;

const KEEPALIVE: u16 = 11;

#[test]
fn s3_3_1_over_udp_it_is_ignored_and_s3_3_2_over_tcp_answered_with_the_idle_timeout() {
    let world = World::new();
    for name in ["web.redbreast.internal", "nobody.redbreast.internal"] {
        let [udp, tcp] = world.ask(&Query::new(name, A).option(KEEPALIVE, b""));
        assert_eq!(udp.option(KEEPALIVE), None, "{udp:?}");
        // Ten seconds, in units of 100 ms.
        assert_eq!(tcp.option(KEEPALIVE), Some(&[0, 100][..]), "{tcp:?}");
    }
}

#[test]
fn s3_3_2_it_is_not_sent_to_who_does_not_ask() {
    let world = World::new();
    for answer in world.ask(&Query::new("web.redbreast.internal", A).edns(Edns::default())) {
        assert_eq!((answer.rcode(), answer.option(KEEPALIVE)), (NOERROR, None), "{answer:?}");
    }
}
