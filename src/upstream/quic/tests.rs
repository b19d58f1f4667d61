//! Connections over QUIC, tested without sockets and clocks.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;
use quinn_proto::{ConnectionError, Dir, StreamId, TransportConfig};
use rustls::{CertificateError, Error};

use super::world::*;
use super::*;
use crate::limits::{MAX_QUIC_STREAMS, UPSTREAM_PARTIAL_LEN, UPSTREAM_QUEUE_LEN};
use crate::upstream::standing::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, IDLE_TIMEOUT};

/// A query with this id, for a name of one label.
fn query(id: u16, name: &str) -> Vec<u8> {
    let header = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    let len = u8::try_from(name.len()).unwrap();
    [&header[..], &[len], name.as_bytes(), &[0, 0, 1, 0, 1]].concat()
}

/// The text of a connection's end.
fn told(end: Option<End>) -> String {
    match end.expect("the connection has ended") {
        End::Quic(what) => what,
        other => format!("other: {other}"),
    }
}

#[test]
fn many_queries_are_answered_each_with_its_id_and_the_connection_is_kept_for_ten_seconds() {
    let mut world = World::answering(echo());
    let queries: Vec<_> = (0..1_000).map(|id| query(id, "name")).collect();
    for query in &queries {
        assert!(world.send(query));
    }
    assert!(world.run(queries.len()).is_none() && world.client.has_answered());
    world.answers.sort();
    assert_eq!(world.answers, queries);
    assert!(world.since_begun() < Duration::from_secs(1), "{:?}", world.since_begun());
    let last = world.now();
    assert!(matches!(world.run(usize::MAX), Some(End::Idle)));
    assert_eq!(world.now(), last + IDLE_TIMEOUT);
    world.run_server();
    let closed = &world.peer.as_ref().unwrap().closed;
    assert!(
        matches!(&closed[..], [ConnectionError::ApplicationClosed(close)] if close.error_code == 0u32.into()),
        "{closed:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn answers_come_whole_whatever_the_network_loses_doubles_and_reorders(
        sizes in prop::collection::vec(12..20_000usize, 1..8),
        seed in any::<u64>(),
    ) {
        let authority = authority("ours");
        let answer = Box::new({
            let sizes = sizes.clone();
            move |connection: &mut Connection, id: StreamId, query: &[u8]| {
                let size = sizes[usize::from(query[4])];
                let mut answer = u16::try_from(size).unwrap().to_be_bytes().to_vec();
                answer.extend([0, 0]);
                answer.resize(2 + size, query[4]);
                reply(connection, id, &answer);
            }
        });
        let peer = QuicServer::new(server_tls(&authority, ALPN), TransportConfig::default(), answer);
        let mut chance = fastrand::Rng::with_seed(seed);
        // The first few are the handshake, which shall be made in time.
        let fate = Box::new(move |number: usize| {
            let delay = Duration::from_millis(chance.u64(10..14));
            match chance.u8(0..20) {
                0 if number > 12 => vec![],
                1 => vec![delay, delay * 2],
                // Behind all others: QUIC takes what others overtake for lost, and is then as slow as if it was.
                2 => vec![delay * 4],
                _ => vec![delay],
            }
        });
        let mut world = World::new(client_tls(&authority), "dns.test", Some(peer), fate);
        for number in 0..sizes.len() {
            let number = u8::try_from(number).unwrap();
            let mut message = vec![number; 12];
            message[..2].copy_from_slice(&[7, number]);
            prop_assert!(world.send(&message));
        }
        let end = world.run(sizes.len());
        prop_assert!(end.is_none(), "{:?} after {:?}", end, world.since_begun());
        world.answers.sort();
        for (number, (answer, size)) in world.answers.iter().zip(&sizes).enumerate() {
            let number = u8::try_from(number).unwrap();
            prop_assert_eq!((answer.len(), &answer[..2]), (*size, &[7, number][..]));
            prop_assert!(answer[2..].iter().all(|byte| *byte == number));
        }
    }
}

#[test]
fn a_server_that_is_another_is_refused_before_anything_is_asked_and_told_why() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    for (config, name, expected) in [
        (client_tls(&ours), "dns.test", "signed by nobody who is trusted here"),
        (
            client_tls(&theirs),
            "other.test",
            "its certificate is for dns.test, 192.0.2.53, and not for other.test",
        ),
        (client_tls(&theirs), "192.0.2.54", "and not for 192.0.2.54"),
    ] {
        let answer = Box::new(|_: &mut _, _, _: &_| panic!("it is asked"));
        let peer = QuicServer::new(server_tls(&theirs, ALPN), TransportConfig::default(), answer);
        let mut world = World::new(config, name, Some(peer), Box::new(|_| vec![LATENCY]));
        assert!(world.send(&query(1, "secret")));
        let end = world.run(1).unwrap();
        assert!(matches!(&end, End::Tls(Error::InvalidCertificate(_))), "{end:?}");
        assert!(end.to_string().contains(expected), "{end}");
        assert!(!matches!(end, End::Tls(Error::InvalidCertificate(CertificateError::Other(_)))));
        world.run_server();
        let closed = format!("{:?}", world.peer.unwrap().closed);
        assert!(closed.contains("ConnectionClosed"), "the server is told: {closed}");
    }
}

#[test]
fn a_server_of_something_else_than_dns_is_left() {
    let authority = authority("ours");
    let peer = QuicServer::new(server_tls(&authority, b"h3"), TransportConfig::default(), echo());
    let mut world = World::new(client_tls(&authority), "dns.test", Some(peer), Box::new(|_| vec![LATENCY]));
    assert!(world.send(&query(1, "name")));
    let end = world.run(1).unwrap().to_string();
    assert!(end.contains("no application protocol"), "{end}");
}

#[test]
fn where_all_is_silent_it_has_three_seconds_to_be_made() {
    let mut world = World::new(client_tls(&authority("ours")), "dns.test", None, Box::new(|_| vec![LATENCY]));
    assert!(world.send(&query(1, "name")));
    assert!(matches!(world.run(1), Some(End::NotMade)));
    assert_eq!(world.since_begun(), CONNECT_TIMEOUT);
    assert!(world.network.borrow().sent < 20, "little is sent meanwhile");
}

#[test]
fn a_server_that_falls_silent_has_five_seconds() {
    let mut world = World::answering(echo());
    assert!(world.send(&query(1, "name")));
    assert!(world.run(1).is_none());
    world.peer = None;
    assert!(world.send(&query(2, "name")));
    let asked = world.now();
    assert!(matches!(world.run(2), Some(End::Silent)));
    assert_eq!(world.now(), asked + ANSWER_TIMEOUT);
}

#[test]
fn a_server_that_closes_after_some_answers_has_given_these() {
    let mut world = World::answering(echo());
    for id in 0..3 {
        assert!(world.send(&query(id, "name")));
    }
    assert!(world.run(2).is_none());
    let now = world.now();
    for connection in world.peer.as_mut().unwrap().connections.values_mut() {
        connection.close(now, VarInt::from_u32(0), Bytes::new());
    }
    assert!(world.send(&query(4, "name")));
    let end = world.run(9);
    assert!(matches!(end, Some(End::ByServer)), "{end:?}");
    assert!(world.client.has_answered());
}

#[test]
fn the_reasons_that_a_server_gives_are_told_and_its_words_are_not() {
    for (code, expected) in [(1, "an internal error"), (4, "excessive load"), (99, "error 99")] {
        let mut world = World::answering(Box::new(move |connection, _, _| {
            let words = Bytes::from_static(b"\x1b[31mred");
            connection.close(Instant::now(), VarInt::from_u32(code), words);
        }));
        assert!(world.send(&query(1, "name")));
        let told = told(world.run(1));
        assert_eq!(told, format!("it has ended the connection: {expected}"));
    }
}

/// Why a connection ends on which a query is answered by these bytes, and then the end of the stream if it is to be.
fn answered_by(bytes: &'static [u8], ended: bool) -> Option<End> {
    let mut world = World::answering(Box::new(move |connection, id, _| {
        let mut stream = connection.send_stream(id);
        assert_eq!(stream.write(bytes).unwrap(), bytes.len());
        if ended {
            stream.finish().unwrap();
        }
    }));
    assert!(world.send(&query(1, "name")));
    let end = world.run(1);
    assert_eq!(world.answers.len(), 0);
    world.run_server();
    let code = if matches!(end, Some(End::Silent)) { 0u32 } else { 2 };
    let closed = world.peer.unwrap().closed;
    assert!(
        matches!(&closed[..], [ConnectionError::ApplicationClosed(close)] if close.error_code == code.into()),
        "{closed:?}"
    );
    end
}

#[test]
fn an_answer_is_one_whole_message_and_the_end_of_its_stream() {
    const WHOLE: &[u8] = &[0, 12, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const TWO: &[u8] =
        &[0, 12, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 12, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const WITH_ID: &[u8] = &[0, 12, 0, 1, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(matches!(answered_by(WHOLE, false), Some(End::Silent)));
    for end in [true, false] {
        assert!(told(answered_by(TWO, end)).contains("more than one message"));
    }
    for part in [&WHOLE[..13], &WHOLE[..1], &[]] {
        assert!(told(answered_by(part, true)).contains("before its answer is whole"), "{part:?}");
    }
    assert!(matches!(answered_by(&[0, 0], true), Some(End::NoMessage)));
    assert!(matches!(answered_by(&[0, 3, 0, 0, 0], true), Some(End::NoMessage)));
    assert!(told(answered_by(WITH_ID, true)).contains("an id"));
}

#[test]
fn a_stream_that_the_server_resets_is_a_servfail_and_the_others_go_on() {
    let mut world = World::answering(Box::new(|connection, id, query| {
        if query.windows(3).any(|window| window == b"bad") {
            connection.send_stream(id).reset(VarInt::from_u32(1)).unwrap();
        } else {
            reply(connection, id, query);
        }
    }));
    assert!(world.send(&query(0x0102, "bad")) && world.send(&query(2, "good")));
    assert!(world.run(2).is_none());
    let refusal = vec![1, 2, 0x81, 2, 0, 0, 0, 0, 0, 0, 0, 0];
    world.answers.sort();
    assert_eq!(world.answers, [query(2, "good"), refusal]);
    assert_eq!(world.client.take_fault().unwrap(), "QUIC: it does not answer: an internal error");
}

#[test]
fn queries_wait_for_streams_that_the_server_does_not_give_and_only_so_many() {
    let authority = authority("ours");
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(3));
    let peer = QuicServer::new(server_tls(&authority, ALPN), transport, echo());
    let mut world = World::new(client_tls(&authority), "dns.test", Some(peer), Box::new(|_| vec![LATENCY]));
    let mut sent = 0;
    while world.send(&query(sent, "name")) {
        sent += 1;
    }
    assert_eq!(usize::from(sent), UPSTREAM_QUEUE_LEN / (2 + query(0, "name").len()));
    assert!(world.run(usize::from(sent)).is_none());
    // A round trip for each three.
    let least = LATENCY * 2 * u32::from(sent) / 3;
    assert!(world.since_begun() >= least, "{:?}", world.since_begun());
    assert!(!world.send(&[0; 1]), "that is no query");
    assert!(world.send(&query(0, "name")), "there is room again");
}

#[test]
fn queries_that_a_server_never_answers_leave_room_for_others() {
    let authority = authority("ours");
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(2));
    let answer: Answer = Box::new(|connection, id, query| {
        if !query.windows(4).any(|window| window == b"lost") {
            reply(connection, id, query);
        }
    });
    let peer = QuicServer::new(server_tls(&authority, ALPN), transport, answer);
    let mut world = World::new(client_tls(&authority), "dns.test", Some(peer), Box::new(|_| vec![LATENCY]));
    assert!(world.send(&query(1, "lost")));
    for number in 1..=4 {
        assert!(world.send(&query(9, "name")));
        assert!(world.run(number).is_none());
        world.network.borrow_mut().now += ANSWER_TIMEOUT / 3;
    }
    assert_eq!(world.client.flight.in_flight(), 0, "it was given up, and the connection is not");
}

#[test]
fn a_server_that_opens_a_stream_breaks_the_rules() {
    // It is not let do that by its own library, so its client is to let it: what a server is let have is nothing.
    let mut world = World::answering(echo());
    assert!(world.send(&query(1, "name")));
    assert!(world.run(1).is_none());
    for connection in world.peer.as_mut().unwrap().connections.values_mut() {
        assert!(connection.streams().open(Dir::Bi).is_none());
        assert!(connection.streams().open(Dir::Uni).is_none());
    }
}

#[test]
fn answers_that_never_end_take_bounded_memory() {
    let part = [&[0xff, 0xff, 0, 0][..], &[1; 60_000]].concat();
    let mut world = World::answering(Box::new(move |connection, id, _| {
        assert_eq!(connection.send_stream(id).write(&part).unwrap(), part.len());
    }));
    let mut begun = 0;
    let end = loop {
        // One after the other: all at once they would not be begun before one has ended.
        let until = world.now() + 2 * LATENCY;
        assert!(world.send(&query(1, "name")));
        begun += 1;
        let ended = loop {
            match world.step() {
                Standing::Closed(end) => break Some(end),
                _ if world.now() > until => break None,
                _ => {}
            }
        };
        if let Some(end) = ended {
            break end;
        }
    };
    assert!(told(Some(end)).contains("too many answers"));
    assert!((begun - 3..=begun).contains(&(UPSTREAM_PARTIAL_LEN / 60_000)), "{begun}");
}

#[test]
fn what_the_kernel_says_ends_it() {
    for kind in [ErrorKind::ConnectionRefused, ErrorKind::NetworkUnreachable] {
        let mut world = World::answering(echo());
        assert!(world.send(&query(1, "name")));
        world.network.borrow_mut().error = Some(kind);
        let end = world.run(1);
        assert!(matches!(&end, Some(End::Io(error)) if error.kind() == kind), "{end:?}");
    }
}

/// A packet of Version Negotiation to whoever has sent `initial`, for these versions (RFC 9000 §17.2.1).
fn version_negotiation(initial: &[u8], versions: &[u32]) -> Vec<u8> {
    let destination = usize::from(initial[5]);
    let (to_us, rest) = initial[6..].split_at(destination);
    let source = usize::from(rest[0]);
    let from_us = &rest[1..=source];
    let mut packet = vec![0x80, 0, 0, 0, 0, rest[0]];
    packet.extend(from_us);
    packet.push(initial[5]);
    packet.extend(to_us);
    versions.iter().for_each(|version| packet.extend(version.to_be_bytes()));
    packet
}

#[test]
fn a_server_that_only_negotiates_versions_is_left() {
    for (versions, expected) in [
        (&[0x0a0a_0a0a_u32][..], Some("no version of QUIC that is known here")),
        // Ours is among them, so that cannot be from the server itself: it has to be ignored (RFC 9000 §6.2).
        (&[1], None),
    ] {
        let mut world =
            World::new(client_tls(&authority("ours")), "dns.test", None, Box::new(|_| vec![LATENCY]));
        assert!(world.send(&query(1, "name")));
        let mut take = |_: &[u8]| panic!("that was no answer");
        let mut turns = 0;
        let end = loop {
            let now = world.now();
            match world.client.turn(&mut world.buffers, now, &mut take) {
                Standing::Closed(end) => break end,
                standing => {
                    let network = &mut *world.network.borrow_mut();
                    while let Some(initial) = network.to_server.take(now + LATENCY) {
                        // A flood of them.
                        let packet = version_negotiation(&initial, versions);
                        (0..3 * DATAGRAMS_PER_TURN).for_each(|_| network.carry(false, &packet));
                    }
                    turns += 1;
                    assert!(turns < 1_000, "{standing:?}");
                    let next = network.to_client.0.keys().next().map(|key| key.0);
                    network.now = next.into_iter().chain([world.client.deadline()]).min().unwrap().max(now);
                }
            }
        };
        match expected {
            Some(expected) => assert!(told(Some(end)).contains(expected)),
            None => assert!(matches!(end, End::NotMade), "{end:?}"),
        }
    }
}

#[test]
fn what_is_no_quic_is_ignored_and_a_turn_reads_so_much() {
    let mut world = World::answering(echo());
    assert!(world.send(&query(1, "name")));
    assert!(world.run(1).is_none());
    let now = world.now();
    for number in 0..3 * DATAGRAMS_PER_TURN {
        let garbage: Vec<u8> = (0..number * 7 % 1_200).map(|at| (at * number).to_le_bytes()[0]).collect();
        let network = &mut *world.network.borrow_mut();
        network.to_client.0.insert((now, number + 1_000_000), garbage);
    }
    let standing = world.client.turn(&mut world.buffers, now, &mut |_| panic!("that was no answer"));
    assert!(matches!(standing, Standing::More), "{standing:?}");
    assert_eq!(world.network.borrow().to_client.0.len(), 2 * DATAGRAMS_PER_TURN);
    assert!(world.send(&query(2, "name")));
    assert!(world.run(2).is_none());
}

#[test]
fn no_more_than_so_many_streams_are_open() {
    let authority = authority("ours");
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(1 << 20));
    let asked = Rc::new(Cell::new(0));
    let count = Rc::clone(&asked);
    let answer: Answer = Box::new(move |_, _, _| count.set(count.get() + 1));
    let peer = QuicServer::new(server_tls(&authority, ALPN), transport, answer);
    let mut world = World::new(client_tls(&authority), "dns.test", Some(peer), Box::new(|_| vec![LATENCY]));
    while world.send(&query(1, "name")) {}
    assert!(matches!(world.run(1), Some(End::Silent)));
    assert_eq!(asked.get(), MAX_QUIC_STREAMS);
}
