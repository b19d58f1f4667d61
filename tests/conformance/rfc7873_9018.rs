//! RFC 7873 and RFC 9018: cookies. The published vectors are checked in `src/wire/cookie.rs`.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::message::{A, BADCOOKIE, Edns, FORMERR, NOERROR, Query, RD, message};
use crate::server::wait_until;
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

/// A query without a question, with a cookie.
fn alone(cookie: &[u8]) -> Vec<u8> {
    message(5, RD, [0, 0, 0, 1], &[&Edns::with_option(COOKIE, cookie).to_bytes()])
}

#[test]
fn rfc7873_s5_4_a_cookie_may_be_asked_for_without_a_question() {
    let world = World::new();
    let good = learn(&world);
    let mut changed = good.clone();
    changed[23] ^= 1;
    for (cookie, rcode) in [
        (&CLIENT[..], NOERROR),
        (&good, NOERROR),
        (&changed, BADCOOKIE),
        (b"a clientof another length", BADCOOKIE),
    ] {
        for answer in world.send_v4(&alone(cookie)) {
            assert_eq!((answer.rcode(), answer.questions, answer.id), (rcode, 0, 5), "{answer:?}");
            assert!(answer.answers.is_empty() && answer.authorities.is_empty(), "{answer:?}");
            assert_eq!(answer.option(COOKIE).expect("a cookie")[..8], CLIENT[..], "{answer:?}");
        }
    }
    let [udp, _] = world.send_v4(&alone(CLIENT));
    for answer in world.ask(&query(udp.option(COOKIE).unwrap())) {
        assert_eq!(answer.option(COOKIE), udp.option(COOKIE), "it is good for questions: {answer:?}");
    }
}

#[test]
fn rfc7873_s5_4_without_a_cookie_no_question_is_a_format_error() {
    let world = World::new();
    for bytes in [
        message(5, RD, [0, 0, 0, 0], &[]),
        message(5, RD, [0, 0, 0, 1], &[&Edns::default().to_bytes()]),
        alone(b"short"),
    ] {
        for answer in world.send(&bytes) {
            assert_eq!((answer.rcode(), answer.questions), (FORMERR, 0), "{answer:?}");
            assert_eq!(answer.edns.is_some(), bytes.len() > 12, "{answer:?}");
        }
    }
}

/// A server with these secrets.
fn sharing(file: &tempfile::NamedTempFile, secrets: &str) -> World {
    fs::write(file.path(), secrets).unwrap();
    World::with(&["--cookie-secrets", file.path().to_str().unwrap()])
}

#[test]
fn rfc9018_s5_servers_with_one_secret_accept_each_others_cookies_while_secrets_are_exchanged() {
    let (old, new) = ("e5e973e5a6b2a43f48e7dc849e37bfcf", "445536bcd2513298075a5d379663c962");
    let files = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    let [one, two] = [0, 1].map(|i| sharing(&files[i], old));
    let first = learn(&one);
    let same = |world: &World, cookie: &[u8]| learn_with(world, cookie) == cookie;
    assert!(same(&two, &first), "both have one secret");

    // The steps of §5: the new secret is accepted everywhere, then used everywhere, then the old one goes.
    let step = |secrets: &str, file: &tempfile::NamedTempFile| fs::write(file.path(), secrets).unwrap();
    for file in &files {
        step(&format!("{old}\n{new}\n"), file);
    }
    step(&format!("{new}\n{old}\n"), &files[0]);
    let mut second = Vec::new();
    wait_until("one server uses the new secret", || {
        second = learn_with(&one, &first);
        second != first
    });
    wait_until("the other accepts it", || accepts(&two, &second));
    assert!(accepts(&two, &first) && accepts(&one, &first), "nobody is sent away while secrets change");
    step(&format!("{new}\n"), &files[0]);
    wait_until("the old secret is gone", || !accepts(&one, &first));
    assert!(accepts(&one, &second));

    // A mistake in the file changes nothing.
    step("e5e9", &files[0]);
    assert!(accepts(&one, &second));
}

/// The cookie that the server gives to who shows `cookie`.
fn learn_with(world: &World, cookie: &[u8]) -> Vec<u8> {
    let [udp, _] = world.ask(&query(cookie));
    udp.option(COOKIE).expect("a cookie").to_vec()
}

/// Whether `cookie` is good: a query for nothing else tells.
fn accepts(world: &World, cookie: &[u8]) -> bool {
    let [udp, _] = world.send_v4(&alone(cookie));
    udp.rcode() == NOERROR
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
