//! Truncated, garbage and hostile packets against the real binary: nothing panics, nothing is amplified, everything is
//! counted by its kind, and good queries in between are answered.

use std::time::Duration;

use crate::harness::{Server, ask, query};

const A: u16 = 1;

/// A packet, what the answer's length and response code are (`None`: dropped), and how it is counted.
struct Case {
    packet: Vec<u8>,
    answer: Option<(usize, u8)>,
    counted: &'static str,
}

fn changed(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    packet[at] = byte;
    packet
}

fn cases() -> Vec<Case> {
    const FORMERR: u8 = 1;
    const NOTIMP: u8 = 4;
    let good = query(9, "web.redbreast.internal", A);
    let header = &good[..12];
    let label = |len: u8| [&[len][..], &vec![b'a'; usize::from(len)]].concat();
    let question = |name: &[u8]| [header, name, &[0, 1, 0, 1]].concat();
    let bare = |code| Some((12, code));
    let with_question = |code| Some((good.len(), code));
    let case = |packet, answer, counted| Case { packet, answer, counted };
    vec![
        case(vec![], None, "short"),
        case(vec![0; 11], None, "short"),
        case(changed(good.clone(), 2, 0x81), None, "response"),
        case(changed(good.clone(), 2, 0x79), with_question(NOTIMP), "opcode"),
        case(changed(good.clone(), 2, 0x21), with_question(NOTIMP), "opcode"),
        case(changed(good.clone(), 5, 0), bare(FORMERR), "question_count"),
        case(changed(good.clone(), 5, 2), bare(FORMERR), "question_count"),
        case(changed(good.clone(), 4, 0xff), bare(FORMERR), "question_count"),
        case(header.to_vec(), bare(FORMERR), "truncated_query"),
        case(good[..good.len() - 1].to_vec(), bare(FORMERR), "truncated_query"),
        case(good[..20].to_vec(), bare(FORMERR), "truncated_query"),
        case(question(&[0xc0, 12]), bare(FORMERR), "bad_label"),
        case(question(&[0xc0, 0]), bare(FORMERR), "bad_label"),
        case(question(&[0xff, 0xff]), bare(FORMERR), "bad_label"),
        case(question(&label(64)), bare(FORMERR), "bad_label"),
        case(question(&[label(63).repeat(4), vec![0]].concat()), bare(FORMERR), "name_too_long"),
        case(question(&[label(1).repeat(200), vec![0]].concat()), bare(FORMERR), "name_too_long"),
        case([&good[..], b"\0"].concat(), with_question(FORMERR), "bad_records"),
        case(changed(good.clone(), 11, 1), with_question(FORMERR), "bad_records"),
        case(changed(good.clone(), 7, 0xff), with_question(FORMERR), "bad_records"),
        case([&good[..], &vec![0; 4000]].concat(), bare(FORMERR), "truncated_query"),
        case([header, &[0xff; 500]].concat(), bare(FORMERR), "bad_label"),
    ]
}

#[test]
fn every_kind_of_bad_packet_is_answered_or_dropped_as_it_should_be_and_counted() {
    let server = Server::start(&["--workers", "1"]);
    let client = server.client();
    let mut counted = std::collections::BTreeMap::new();
    for (i, case) in cases().iter().enumerate() {
        *counted.entry(case.counted).or_insert(0) += 1;
        if let Some((len, code)) = case.answer {
            let answer = ask(&client, &case.packet);
            assert_eq!((answer.len(), answer[3] & 15), (len, code), "case {i}");
            assert_eq!(answer[..2], case.packet[..2], "case {i}: the id comes back");
            assert!(answer.len() <= case.packet.len(), "case {i}: never amplified");
        } else {
            client.send(&case.packet).unwrap();
        }
        // What comes next in the queue is the answer to this: a dropped packet has no answer before it.
        let id = 1000 + u16::try_from(i).unwrap();
        let answer = ask(&client, &query(id, "nobody.redbreast.internal", A));
        assert_eq!(answer[..2], id.to_be_bytes(), "case {i}");
        assert_eq!(answer[3] & 15, 3);
    }
    let log = server.stop();
    counted.insert("nxdomain", cases().len());
    for (kind, n) in counted {
        assert!(log.contains(&format!("{kind} {n}")), "{kind} {n}: {log}");
    }
}

#[test]
fn garbage_of_every_length_leaves_the_server_answering() {
    let server = Server::start(&[]);
    let client = server.client();
    let mut rng = fastrand::Rng::with_seed(42);
    for round in 0..20_000u16 {
        let mut packet = query(round, "web.redbreast.internal", A);
        match round % 4 {
            0 => packet = (0..rng.usize(..600)).map(|_| rng.u8(..)).collect(),
            1 => packet.truncate(rng.usize(..packet.len())),
            2 => packet.extend((0..rng.usize(..60)).map(|_| rng.u8(..))),
            _ => {}
        }
        for _ in 0..rng.usize(..4) {
            if !packet.is_empty() {
                let at = rng.usize(..packet.len());
                packet[at] = rng.u8(..);
            }
        }
        client.send(&packet).unwrap();
    }
    // Drain what came back, then see that it still answers.
    client.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    while client.recv(&mut [0; 2048]).is_ok() {}
    client.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    let answer = ask(&client, &query(0xbeef, "nobody.redbreast.internal", A));
    assert_eq!((&answer[..2], answer[3] & 15), (&[0xbe, 0xef][..], 3));
    assert!(!server.stop().contains("panicked"));
}

#[test]
fn a_network_over_the_rate_limit_is_sent_to_tcp_and_one_with_a_good_cookie_is_not_limited() {
    const ASKED: u16 = 400;
    let server = Server::start(&["--workers", "1", "--rate-limit", "20"]);
    let client = server.client();
    let with_cookie = |cookie: &[u8]| {
        let len = u8::try_from(cookie.len()).unwrap();
        let mut packet = query(7, "nobody.redbreast.internal", A);
        packet[11] = 1;
        [&packet[..], &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, len + 4, 0, 10, 0, len], cookie].concat()
    };
    let first = ask(&client, &with_cookie(b"a client"));
    let cookie = first[first.len() - 24..].to_vec();
    assert_eq!(&cookie[..8], b"a client");

    for id in 0..ASKED {
        client.send(&query(id, "nobody.redbreast.internal", A)).unwrap();
    }
    client.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    let (mut answered, mut truncated) = (0, 0);
    let mut answer = [0; 512];
    while client.recv(&mut answer).is_ok() {
        if answer[2] & 2 != 0 { truncated += 1 } else { answered += 1 }
    }
    // The burst may lie across the end of a second or two.
    assert!((19..=60).contains(&answered), "{answered}");
    assert!((150..=200).contains(&truncated), "{truncated}");

    client.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    for _ in 0..200 {
        let answer = ask(&client, &with_cookie(&cookie));
        assert_eq!((answer[2] & 2, answer[3] & 15), (0, 3), "a client that is known by its cookie");
    }
    assert!(server.stop().contains("rate_dropped "));
}

#[test]
fn a_client_cookie_alone_and_garbage_are_limited_like_anything_else() {
    const ASKED: usize = 200;
    let server = Server::start(&["--workers", "1", "--rate-limit", "10"]);
    let client = server.client();
    let mut unproven = query(7, "nobody.redbreast.internal", A);
    unproven[11] = 1;
    let client_part = b"\0\0\x29\x04\xd0\0\0\0\0\0\x0c\0\x0a\0\x08a client";
    unproven.extend_from_slice(client_part);
    let garbage = [&query(8, "web.redbreast.internal", A)[..12], &[0xff; 100]].concat();
    let mut answer = [0; 512];
    for (packet, answers_over_the_limit) in [(&unproven, ASKED / 2), (&garbage, 0)] {
        for _ in 0..ASKED {
            client.send(packet).unwrap();
        }
        client.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let mut answered = 0;
        while client.recv(&mut answer).is_ok() {
            answered += 1;
        }
        // Ten in each second that the burst touches; what cannot be read has no way to TCP, and so no slips.
        assert!((answers_over_the_limit..=answers_over_the_limit + 30).contains(&answered), "{answered}");
    }
    assert!(server.stop().contains("rate_dropped "));
}
