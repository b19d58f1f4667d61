//! Tests of upstreams over HTTPS, at a server in this process that says the bytes of HTTP/2 that it is told to.

use std::cell::RefCell;
use std::fs;
use std::io;
use std::rc::Rc;

use rcgen::{CertificateParams, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{ServerConfig, ServerConnection};

use super::*;
use crate::sys::tls_trust::ServerIdentity;
use crate::upstream::tls::TlsClient;
use crate::wire::header::{self, rcode};

const PREFACE_LEN: usize = 24;
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// What HPACK has for `:status: 200` and `:status: 500`, and for the names of some headers (RFC 7541, appendix A).
const OK: &[u8] = &[0x88];
const ERROR: &[u8] = &[0x8e];
const TYPE: [u8; 2] = [0x0f, 0x10];
const AGE: [u8; 2] = [0x0f, 0x06];
const LENGTH: [u8; 2] = [0x0f, 0x0d];
const LOCATION: [u8; 2] = [0x0f, 0x1f];

/// A question for `a.` and an address that is an answer to it, as they are sent.
const QUERY: &[u8] = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01a\0\0\x01\0\x01";
const ANSWER: &[u8] =
    b"\0\0\x81\x80\0\x01\0\x01\0\0\0\x01\x01a\0\0\x01\0\x01\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\x0a\0\0\x01\0\0\x29\
      \x04\xd0\0\0\x80\0\0\0";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn field(name: [u8; 2], value: &str) -> Vec<u8> {
    [&name[..], &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat()
}

/// A response with these headers and this content.
fn response(stream: u32, headers: &[u8], content: &[u8]) -> Vec<u8> {
    let data: Vec<_> = content.chunks(16 << 10).map(|part| frame(DATA, 0, stream, part)).collect();
    [frame(HEADERS, END_HEADERS, stream, headers), data.concat(), frame(DATA, END_STREAM, stream, b"")]
        .concat()
}

fn answer(stream: u32) -> Vec<u8> {
    response(stream, &[OK, &field(TYPE, "application/dns-message")].concat(), ANSWER)
}

/// The server's side, which says what `script` has for each frame of the client's, by its kind, flags and stream.
struct Side {
    tls: ServerConnection,
    plain: Vec<u8>,
    settings: Vec<u8>,
    script: Box<dyn FnMut(u8, u8, u32) -> Vec<u8>>,
    /// What has come, frame by frame.
    heard: Vec<(u8, u32, Vec<u8>)>,
    unsent: Vec<u8>,
}

#[derive(Clone)]
struct HttpsServer(Rc<RefCell<Side>>);

impl Side {
    fn hear(&mut self) {
        if self.settings.is_empty() && self.plain.len() >= PREFACE_LEN {
            self.plain.drain(..PREFACE_LEN);
            self.settings = frame(SETTINGS, 0, 0, b"");
            self.unsent.extend(self.settings.clone());
        }
        while !self.settings.is_empty() && self.plain.len() >= 9 {
            let len = usize::from(self.plain[1]) << 8 | usize::from(self.plain[2]);
            if self.plain.len() < 9 + len {
                break;
            }
            let rest = self.plain.split_off(9 + len);
            let whole = std::mem::replace(&mut self.plain, rest);
            let stream = u32::from_be_bytes(*whole[5..].first_chunk().unwrap());
            self.unsent.extend((self.script)(whole[3], whole[4], stream));
            self.heard.push((whole[3], stream, whole[9..].to_vec()));
        }
    }
}

impl Read for HttpsServer {
    fn read(&mut self, mut room: &mut [u8]) -> io::Result<usize> {
        let Side { tls, unsent, .. } = &mut *self.0.borrow_mut();
        if !tls.is_handshaking() && !unsent.is_empty() {
            let taken = tls.writer().write(unsent)?;
            unsent.drain(..taken);
        }
        if tls.wants_write() { tls.write_tls(&mut room) } else { Err(ErrorKind::WouldBlock.into()) }
    }
}

impl Write for HttpsServer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut side = self.0.borrow_mut();
        let mut rest = bytes;
        while side.tls.read_tls(&mut rest)? > 0 {
            let _ = side.tls.process_new_packets();
            let mut plain = Vec::new();
            let _ = side.tls.reader().read_to_end(&mut plain);
            side.plain.extend(plain);
        }
        side.hear();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A connection to a server that speaks `alpn` and says what `script` has.
fn connect(
    alpn: &[u8],
    script: impl FnMut(u8, u8, u32) -> Vec<u8> + 'static,
) -> (HttpsServer, Https<HttpsServer>) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["dns.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), certificate.pem()).unwrap();
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
    let tls = ServerConnection::new(Arc::new(config)).unwrap();
    let side = Side {
        tls,
        plain: Vec::new(),
        settings: Vec::new(),
        script: Box::new(script),
        heard: Vec::new(),
        unsent: Vec::new(),
    };
    let peer = HttpsServer(Rc::new(RefCell::new(side)));
    let name = ServerName::try_from("dns.test").unwrap();
    let identity = ServerIdentity { name, pins: Vec::new(), certified: true };
    let session = TlsClient::new(Some(file.path()), true).unwrap().session(&identity, Alpn::H2).unwrap();
    let target = RequestTarget::new(&identity, "192.0.2.1:8443".parse().unwrap(), "/dns-query").unwrap();
    let https = Https::new(peer.clone(), session, target, Instant::now());
    (peer, https)
}

/// Has turns until nothing more happens.
fn settle(peer: &HttpsServer, https: &mut Https<HttpsServer>, now: Instant) -> (Standing, Vec<Vec<u8>>) {
    let (mut buffers, mut answers) = (Buffers::default(), Vec::new());
    loop {
        let standing = https.turn(&mut buffers, now, &mut |message| answers.push(message.to_vec()));
        let side = peer.0.borrow();
        match standing {
            Standing::Open if side.tls.wants_write() || !side.unsent.is_empty() => {}
            Standing::More => {}
            standing => return (standing, answers),
        }
    }
}

/// Asks `queries` of a server that says what `script` has for the end of each.
fn ask(
    queries: usize,
    mut script: impl FnMut(u32) -> Vec<u8> + 'static,
) -> (HttpsServer, Https<HttpsServer>, Standing, Vec<Vec<u8>>) {
    let now = Instant::now();
    let of_end = move |kind, flags, stream| {
        if kind == DATA && flags & END_STREAM != 0 { script(stream) } else { Vec::new() }
    };
    let (peer, mut https) = connect(b"h2", of_end);
    (0..queries).for_each(|_| assert!(https.send(QUERY, now)));
    let (standing, answers) = settle(&peer, &mut https, now);
    (peer, https, standing, answers)
}

#[test]
fn questions_go_without_their_ids_and_answers_come_back_with_them() {
    let (peer, mut https, standing, answers) = ask(300, answer);
    assert!(matches!(standing, Standing::Open), "{standing:?}");
    assert_eq!(answers.len(), 300);
    assert!(answers.iter().all(|message| message[..2] == QUERY[..2] && message[2..] == ANSWER[2..]));
    assert!(https.has_answered() && https.take_fault().is_none());
    assert_eq!((https.flight.in_flight(), https.requests.len()), (0, 0));
    let side = peer.0.borrow();
    let mut asked = side.heard.iter().filter(|(kind, _, _)| *kind == DATA);
    assert!(asked.all(|(_, _, message)| message[..2] == [0, 0] && message[2..] == QUERY[2..]));
}

#[test]
fn so_many_are_in_flight_as_both_sides_allow() {
    let (peer, mut https, standing, _) = ask(300, |_| Vec::new());
    assert!(matches!(standing, Standing::Open), "{standing:?}");
    let asked = |peer: &HttpsServer| peer.0.borrow().heard.iter().filter(|(kind, ..)| *kind == DATA).count();
    assert_eq!(
        (asked(&peer), https.requests.len(), https.waiting.len()),
        (FIRST_REQUESTS, FIRST_REQUESTS, 268)
    );
    peer.0.borrow_mut().unsent.extend(answer(1));
    let (_, answers) = settle(&peer, &mut https, Instant::now());
    assert_eq!((answers.len(), asked(&peer)), (1, 1 + UPSTREAM_HTTPS_REQUESTS));
    assert_eq!((https.requests.len(), https.waiting.len()), (UPSTREAM_HTTPS_REQUESTS, 171));
    peer.0.borrow_mut().unsent.extend(frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 2]));
    peer.0.borrow_mut().unsent.extend((1..=128).flat_map(|i| answer(2 * i + 1)));
    let (_, answers) = settle(&peer, &mut https, Instant::now());
    assert_eq!((answers.len(), https.requests.len(), https.waiting.len()), (128, 2, 169));
}

#[test]
fn what_is_no_answer_fails_its_question_alone_and_says_why() {
    let message = || field(TYPE, "Application/DNS-Message; x=y");
    let cases: Vec<(Vec<u8>, usize, &str)> = vec![
        (ERROR.to_vec(), 0, "HTTP status 500"),
        ([&[0x08, 3][..], b"302", &field(LOCATION, "/other")].concat(), 0, "HTTP status 302"),
        ([OK, &field(TYPE, "text/html")].concat(), 20, "type `text/html`"),
        (OK.to_vec(), 20, "type ``"),
        ([OK, &field(TYPE, "a\tb")].concat(), 20, "type `a\\tb`"),
        ([OK, &message()].concat(), 0, "of 0 bytes, too short"),
        ([OK, &message()].concat(), 11, "too short for a DNS message"),
        ([OK, &message(), &field(LENGTH, "65536")].concat(), 0, "longer than a DNS message"),
    ];
    for (headers, len, why) in cases {
        let script = move |stream| match stream {
            1 => response(stream, &headers, &vec![b'<'; len]),
            _ => answer(stream),
        };
        let (_, mut https, standing, answers) = ask(2, script);
        assert!(matches!(standing, Standing::Open), "{why}: {standing:?}");
        assert_eq!(answers.len(), 2, "{why}");
        let is_failure = |it: &&Vec<u8>| it.len() == header::LEN && it[3] == rcode::SERVFAIL;
        assert_eq!(answers.iter().filter(is_failure).count(), 1);
        assert!(answers.iter().all(|it| it[..2] == QUERY[..2]));
        assert!(https.take_fault().is_some_and(|fault| fault.contains(why)), "{why}");
    }
}

#[test]
fn the_longest_answers_pass_and_longer_ones_fail_in_bounded_memory() {
    for (len, passes) in [(65_535, true), (65_536, false), (65_535, true)] {
        let headers = [OK, &field(TYPE, "application/dns-message")].concat();
        let script = move |stream| response(stream, &headers, &vec![7; len]);
        // More than the window of the connection together.
        let (_, mut https, standing, answers) = ask(40, script);
        assert!(matches!(standing, Standing::Open), "{standing:?}");
        assert_eq!(answers.iter().filter(|it| it.len() == len).count(), if passes { 40 } else { 0 });
        let fault = https.take_fault();
        assert_eq!(fault.is_none(), passes, "{fault:?}");
    }
}

#[test]
fn answers_are_as_old_as_caches_on_the_way_have_made_them() {
    for (age, ttl_s) in [("100", 200), ("301", 0), ("99999999999", 0), ("-1", 300), ("x", 300), ("", 300)] {
        let headers = [OK, &field(TYPE, "application/dns-message"), &field(AGE, age)].concat();
        let (_, _, _, answers) = ask(1, move |stream| response(stream, &headers, ANSWER));
        let ttl = &answers[0][ANSWER.len() - 21..][..4];
        assert_eq!(ttl, u32::to_be_bytes(ttl_s), "{age}");
        assert_eq!(answers[0][ANSWER.len() - 11..], ANSWER[ANSWER.len() - 11..], "EDNS has no TTL");
    }
}

#[test]
fn who_says_goodbye_may_answer_what_it_has_taken_and_no_more_is_asked_there() {
    let goodbye = |reason: u8| frame(GOAWAY, 0, 0, &[0, 0, 0, 3, 0, 0, 0, reason]);
    for reason in [0, 11] {
        let script = move |stream| if stream == 5 { goodbye(reason) } else { Vec::new() };
        let (peer, mut https, standing, _) = ask(3, script);
        assert!(matches!(standing, Standing::Open), "{standing:?}");
        assert_eq!((https.requests.len(), https.flight.in_flight()), (2, 3), "the third is for another");
        let now = Instant::now();
        assert!(https.send(QUERY, now));
        peer.0.borrow_mut().unsent.extend([answer(1), answer(3)].concat());
        let (standing, answers) = settle(&peer, &mut https, now);
        assert_eq!((answers.len(), https.flight.in_flight()), (2, 2));
        match standing {
            Standing::Closed(End::ByServer) => assert_eq!(reason, 0),
            Standing::Closed(End::GoingAway(why)) => assert!(reason == 11 && !why.is_empty(), "{why}"),
            standing => panic!("{standing:?}"),
        }
    }
    let (peer, mut https, ..) = ask(1, move |_| goodbye(0));
    let (standing, _) = settle(&peer, &mut https, Instant::now() + DRAIN_TIMEOUT);
    assert!(matches!(standing, Standing::Closed(End::ByServer)), "no answer in time: {standing:?}");
}

#[test]
fn who_does_not_agree_on_http_2_is_not_asked() {
    let now = Instant::now();
    let (peer, mut https) = connect(b"", |_, _, _| Vec::new());
    assert!(https.send(QUERY, now));
    let (standing, _) = settle(&peer, &mut https, now);
    assert!(matches!(standing, Standing::Closed(End::NotSpoken("HTTP/2"))), "{standing:?}");
    assert!(peer.0.borrow().plain.is_empty());
}

/// What a server sends when it is asked on this stream.
type Frames = Box<dyn FnMut(u32) -> Vec<u8>>;

#[test]
fn floods_and_garbage_end_it_with_a_reason() {
    let headers = |stream| frame(HEADERS, 0, stream, OK);
    let more = |stream| frame(CONTINUATION, 0, stream, &field([0x00, 0x01], "x")).repeat(10_000);
    let pings = || frame(PING, 0, 0, &[7; 8]).repeat(100_000);
    let cases: Vec<(&str, Frames)> = vec![
        ("garbage", Box::new(|_| b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n".to_vec())),
        ("continuation", Box::new(move |stream| [headers(stream), more(stream)].concat())),
        ("pings", Box::new(move |_| pings())),
        ("resets", Box::new(|_| frame(RST_STREAM, 0, 99, &[0; 4]))),
    ];
    for (what, script) in cases {
        let (_, _, standing, answers) = ask(1, script);
        let Standing::Closed(end) = standing else { panic!("{what}: {standing:?}") };
        assert!(answers.is_empty() && matches!(end, End::Http(_)), "{what}: {end:?}");
    }
}

#[test]
fn interim_responses_without_end_are_dropped_and_the_question_has_its_time() {
    let interim = |stream| frame(HEADERS, END_HEADERS, stream, b"\x08\x03103");
    let (peer, mut https, standing, _) = ask(1, move |stream| interim(stream).repeat(50_000));
    assert!(matches!(standing, Standing::Open), "{standing:?}");
    let later = Instant::now() + crate::upstream::standing::ANSWER_TIMEOUT;
    let (standing, _) = settle(&peer, &mut https, later);
    assert!(matches!(standing, Standing::Closed(End::Silent)), "{standing:?}");
}
