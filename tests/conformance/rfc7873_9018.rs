//! RFC 7873 and RFC 9018: cookies. The published vectors are checked in `src/wire/cookie.rs`.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::{A, Edns, FORMERR, NOERROR, Query};
use crate::world::World;

const COOKIE: u16 = 10;
const CLIENT: &[u8; 8] = b"a client";

fn query(cookie: &[u8]) -> Query {
    Query::new("web.redbreast.internal", A).option(COOKIE, cookie)
}

/// The cookie that the server gives to `CLIENT`.
fn learn(world: &World) -> Vec<u8> {
    let [udp, _] = world.ask(&query(CLIENT));
    udp.option(COOKIE).expect("a cookie").to_vec()
}

#[test]
fn rfc7873_s5_2_1_without_the_option_there_is_none() {
    let world = World::new();
    for answer in world.ask(&Query::new("web.redbreast.internal", A).edns(Edns::default())) {
        assert_eq!(answer.option(COOKIE), None, "{answer:?}");
    }
}

#[test]
fn rfc7873_s5_2_2_a_length_that_no_cookie_has_is_a_format_error() {
    let world = World::new();
    for len in (0..8).chain(9..16).chain(41..50) {
        for answer in world.send(&query(&vec![7; len]).to_bytes()) {
            assert_eq!(answer.rcode(), FORMERR, "{len}: {answer:?}");
        }
    }
}

#[test]
fn rfc7873_s5_2_3_a_client_part_alone_is_answered_with_both() {
    let world = World::new();
    for name in ["web.redbreast.internal", "nobody.redbreast.internal", "example.com"] {
        for answer in world.ask(&Query::new(name, A).option(COOKIE, CLIENT)) {
            let cookie = answer.option(COOKIE).expect("a cookie");
            assert_eq!((&cookie[..8], cookie.len()), (&CLIENT[..], 24), "{answer:?}");
        }
    }
}

#[test]
fn rfc7873_s5_2_4_a_bad_server_part_is_replaced_and_the_query_answered() {
    let world = World::new();
    let good = learn(&world);
    let mut changed = good.clone();
    changed[23] ^= 1;
    let lengths = [16, 17, 23, 25, 39, 40].map(|len| [&CLIENT[..], &vec![9; len - 8]].concat());
    for bad in lengths.into_iter().chain([changed]) {
        for answer in world.ask(&query(&bad)) {
            let cookie = answer.option(COOKIE).expect("a cookie");
            assert_eq!((answer.rcode(), answer.answers.len()), (NOERROR, 2), "{answer:?}");
            assert_eq!((&cookie[..8], cookie.len()), (&CLIENT[..], 24), "{answer:?}");
            assert_ne!(cookie, bad, "{answer:?}");
        }
    }
}

#[test]
fn rfc7873_s5_2_5_a_good_cookie_comes_back() {
    let world = World::new();
    let good = learn(&world);
    for answer in world.ask(&query(&good)) {
        assert_eq!((answer.rcode(), answer.option(COOKIE)), (NOERROR, Some(&good[..])), "{answer:?}");
    }
}

#[test]
fn rfc7873_s5_2_only_the_first_cookie_counts() {
    let world = World::new();
    let options = vec![(COOKIE, CLIENT.to_vec()), (COOKIE, b"b client".to_vec())];
    let query = Query::new("web.redbreast.internal", A).edns(Edns { options, ..Edns::default() });
    for answer in world.ask(&query) {
        assert_eq!(answer.option(COOKIE).expect("one cookie")[..8], CLIENT[..], "{answer:?}");
    }
}

#[test]
fn rfc9018_s4_the_server_part_has_version_zeroes_time_and_hash() {
    let world = World::new();
    let cookie = learn(&world);
    assert_eq!(cookie[8..12], [1, 0, 0, 0], "{cookie:?}");
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let made_s = u64::from(u32::from_be_bytes(cookie[12..16].try_into().unwrap()));
    assert!(now_s.abs_diff(made_s) < 60, "{cookie:?}");
}

#[test]
fn rfc9018_s4_3_a_cookie_from_another_time_is_not_taken_over() {
    let world = World::new();
    let good = learn(&world);
    for made_s in [0u32, 1, 0x7fff_ffff] {
        let old = [&good[..12], &made_s.to_be_bytes(), &good[16..]].concat();
        for answer in world.ask(&query(&old)) {
            assert_ne!(answer.option(COOKIE), Some(&old[..]), "{answer:?}");
        }
    }
}

#[test]
fn rfc9018_s4_4_another_clients_cookie_is_not_ours() {
    let world = World::new();
    let good = learn(&world);
    let stolen = [b"b client", &good[8..]].concat();
    for answer in world.ask(&query(&stolen)) {
        let cookie = answer.option(COOKIE).expect("a cookie");
        assert_eq!(cookie[..8], *b"b client", "{answer:?}");
        assert_ne!(cookie, stolen, "{answer:?}");
    }
}
