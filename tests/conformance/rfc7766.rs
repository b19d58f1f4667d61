//! RFC 7766: DNS over TCP. What it says of timeouts and limits is checked in `tests/black_box/tcp.rs`.

use std::collections::BTreeSet;
use std::io::Write;
use std::thread;
use std::time::Duration;

use crate::message::{A, Answer, FORMERR, NXDOMAIN, Query, TC};
use crate::transport::{frame, receive};
use crate::world::{HUGE, World};

fn query(id: u16, name: &str) -> Vec<u8> {
    Query { id, ..Query::new(&format!("{name}.redbreast.internal"), A) }.to_bytes()
}

#[test]
fn s5_tcp_is_answered_without_udp_before_it_and_in_full() {
    let world = World::new();
    let mut stream = world.connect();
    stream.write_all(&frame(&query(1, "huge"))).unwrap();
    let answer = Answer::read("TCP", &receive(&mut stream).unwrap());
    assert!(!answer.has(TC));
    assert_eq!(answer.answers.len(), HUGE as usize);
}

#[test]
fn s6_2_1_one_connection_serves_many_queries() {
    let world = World::new();
    let mut stream = world.connect();
    for id in 0..100 {
        let name = if id % 2 == 0 { "web" } else { "nobody" };
        stream.write_all(&frame(&query(id, name))).unwrap();
        let answer = Answer::read("TCP", &receive(&mut stream).unwrap());
        assert_eq!((answer.id, answer.rcode() == NXDOMAIN), (id, id % 2 == 1), "{answer:?}");
    }
}

#[test]
fn s6_2_1_1_queries_may_follow_each_other_without_waiting() {
    let world = World::new();
    let mut stream = world.connect();
    let all: Vec<u8> = (0..200).flat_map(|id| frame(&query(id, "web"))).collect();
    stream.write_all(&all).unwrap();
    // Answers may come in any order (§7).
    let ids: BTreeSet<_> = (0..200).map(|_| Answer::read("TCP", &receive(&mut stream).unwrap()).id).collect();
    assert_eq!(ids, (0..200).collect());
}

#[test]
fn s7_a_malformed_query_does_not_end_the_connection() {
    let world = World::new();
    let mut stream = world.connect();
    stream.write_all(&[frame(&query(1, "web")[..20]), frame(&query(2, "web"))].concat()).unwrap();
    let answers = [(); 2].map(|()| Answer::read("TCP", &receive(&mut stream).unwrap()));
    assert_eq!(answers.map(|answer| (answer.id, answer.rcode())), [(1, FORMERR), (2, 0)]);
}

#[test]
fn s8_length_and_message_may_come_in_pieces() {
    let world = World::new();
    let mut stream = world.connect();
    let bytes = frame(&query(5, "web"));
    for cut in [1, 2, 3, 14, bytes.len() - 1] {
        for piece in [&bytes[..cut], &bytes[cut..]] {
            stream.write_all(piece).unwrap();
            thread::sleep(Duration::from_millis(5));
        }
        let answer = Answer::read("TCP", &receive(&mut stream).unwrap());
        assert_eq!((answer.id, answer.answers.len()), (5, 2), "cut at {cut}: {answer:?}");
    }
}
