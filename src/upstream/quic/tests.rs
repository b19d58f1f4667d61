//! Connections over QUIC to a server in the same process, over a network that loses and reorders, in a time of its own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{ConnectionError, Dir, EndpointConfig, ServerConfig, StreamId, TransportConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS13;
use rustls::{CertificateError, Error};

use super::*;
use crate::limits::{MAX_QUIC_STREAMS, UPSTREAM_PARTIAL_LEN, UPSTREAM_QUEUE_LEN};
use crate::sys::tls_trust::Trust;
use crate::upstream::standing::{ANSWER_TIMEOUT, CONNECT_TIMEOUT, IDLE_TIMEOUT};

type Authority = CertifiedIssuer<'static, KeyPair>;

const ALPN: &[u8] = b"doq";
const SERVER: &str = "192.0.2.53:853";
/// One way.
const LATENCY: Duration = Duration::from_millis(10);

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// TLS of a server whose certificate is for `dns.test` and 192.0.2.53.
fn server_tls(authority: &Authority, alpn: &[u8]) -> rustls::ServerConfig {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(["dns.test".to_owned(), "192.0.2.53".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, authority).unwrap();
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
        )
        .unwrap();
    config.alpn_protocols = vec![alpn.to_vec()];
    config
}

fn client_tls(authority: &Authority) -> ClientConfig {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), authority.pem()).unwrap();
    let mut tls = Trust::of_file(file.path()).unwrap().quic_config(&[], true).unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    transport::client_config(Arc::new(tls)).unwrap()
}

/// What the network does with a datagram: when its copies arrive. The number is that of all before it.
type Fate = Box<dyn FnMut(usize) -> Vec<Duration>>;

/// Datagrams on their way, by when they arrive and by number.
#[derive(Default)]
struct Way(BTreeMap<(Instant, usize), Vec<u8>>);

impl Way {
    fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.0.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
    }
}

/// The network between the two.
struct Network {
    now: Instant,
    fate: Fate,
    sent: usize,
    to_server: Way,
    to_client: Way,
    /// What the client's kernel says next instead of sending or receiving.
    error: Option<ErrorKind>,
}

impl Network {
    fn carry(&mut self, to_server: bool, bytes: &[u8]) {
        let way = if to_server { &mut self.to_server } else { &mut self.to_client };
        for delay in (self.fate)(self.sent) {
            self.sent += 1;
            way.0.insert((self.now + delay, self.sent), bytes.to_vec());
        }
        self.sent += 1;
    }
}

#[derive(Clone)]
struct Socket(Rc<RefCell<Network>>);

impl Datagrams for Socket {
    fn receive(&mut self, room: &mut [u8]) -> io::Result<usize> {
        let network = &mut *self.0.borrow_mut();
        if let Some(kind) = network.error {
            return Err(kind.into());
        }
        let datagram = network.to_client.take(network.now).ok_or(ErrorKind::WouldBlock)?;
        room[..datagram.len()].copy_from_slice(&datagram);
        Ok(datagram.len())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.borrow_mut().carry(true, bytes);
        Ok(())
    }
}

/// What a server does with a whole query on a stream.
type Answer = Box<dyn FnMut(&mut Connection, StreamId, &[u8])>;

/// A server for one connection after another.
struct Peer {
    endpoint: Endpoint,
    connections: BTreeMap<usize, Connection>,
    queries: BTreeMap<(usize, StreamId), Vec<u8>>,
    answer: Answer,
    /// How often the other side has closed a connection, and why the last time.
    closed: Vec<ConnectionError>,
}

impl Peer {
    fn new(tls: rustls::ServerConfig, transport: TransportConfig, answer: Answer) -> Self {
        let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls).unwrap()));
        config.transport_config(Arc::new(transport));
        let endpoint = Arc::new(EndpointConfig::default());
        Self {
            endpoint: Endpoint::new(endpoint, Some(Arc::new(config)), true, None),
            connections: BTreeMap::new(),
            queries: BTreeMap::new(),
            answer,
            closed: Vec::new(),
        }
    }

    fn turn(&mut self, network: &mut Network) {
        let now = network.now;
        while let Some(datagram) = network.to_server.take(now) {
            let (mut room, client) = (Vec::new(), "192.0.2.1:4000".parse().unwrap());
            match self.endpoint.handle(now, client, None, None, datagram[..].into(), &mut room) {
                Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                    self.connections.get_mut(&handle.0).unwrap().handle_event(event);
                }
                Some(DatagramEvent::NewConnection(incoming)) => {
                    match self.endpoint.accept(incoming, now, &mut room, None) {
                        Ok((handle, connection)) => drop(self.connections.insert(handle.0, connection)),
                        Err(error) => {
                            if error.response.is_some() {
                                network.carry(false, &room);
                            }
                        }
                    }
                }
                Some(DatagramEvent::Response(_)) => network.carry(false, &room),
                None => {}
            }
        }
        for (&number, connection) in &mut self.connections {
            if connection.poll_timeout().is_some_and(|at| at <= now) {
                connection.handle_timeout(now);
            }
            while let Some(event) = connection.poll() {
                if let Event::ConnectionLost { reason } = event {
                    self.closed.push(reason);
                }
            }
            while let Some(id) = connection.streams().accept(Dir::Bi) {
                self.queries.insert((number, id), Vec::new());
            }
            self.queries.retain(|&(of, id), query| {
                if of != number || connection.is_closed() {
                    return of != number;
                }
                let mut stream = connection.recv_stream(id);
                let Ok(mut chunks) = stream.read(true) else { return false };
                let ended = loop {
                    match chunks.next(usize::MAX) {
                        Ok(Some(chunk)) => query.extend_from_slice(&chunk.bytes),
                        Ok(None) => break true,
                        Err(_) => break false,
                    }
                };
                let _ = chunks.finalize();
                if ended {
                    (self.answer)(connection, id, query);
                }
                !ended
            });
            while let Some(event) = connection.poll_endpoint_events() {
                if let Some(event) = self.endpoint.handle_event(ConnectionHandle(number), event) {
                    connection.handle_event(event);
                }
            }
            let mut room = Vec::new();
            while connection.poll_transmit(now, 1, &mut room).is_some() {
                network.carry(false, &room);
                room.clear();
            }
        }
        self.connections.retain(|_, connection| !connection.is_drained());
    }
}

/// Writes `bytes`, which have to fit at once, and ends the stream.
fn reply(connection: &mut Connection, id: StreamId, bytes: &[u8]) {
    let mut stream = connection.send_stream(id);
    assert_eq!(stream.write(bytes).unwrap(), bytes.len());
    stream.finish().unwrap();
}

/// A server that sends back what it is asked.
fn echo() -> Answer {
    Box::new(|connection, id, query| {
        assert_eq!(query[2..4], [0, 0], "queries have the id 0");
        reply(connection, id, query);
    })
}

/// A client, a server and the network between them.
struct World {
    network: Rc<RefCell<Network>>,
    peer: Option<Peer>,
    client: QuicConnection<Socket>,
    answers: Vec<Vec<u8>>,
    buffers: Buffers,
    begun: Instant,
}

impl World {
    fn new(config: ClientConfig, name: &str, peer: Option<Peer>, fate: Fate) -> Self {
        let begun = Instant::now();
        let network = Rc::new(RefCell::new(Network {
            now: begun,
            fate,
            sent: 0,
            to_server: Way::default(),
            to_client: Way::default(),
            error: None,
        }));
        let name = ServerName::try_from(name).unwrap();
        let socket = Socket(Rc::clone(&network));
        let client = QuicConnection::new(socket, SERVER.parse().unwrap(), (config, &name), begun).unwrap();
        Self { network, peer, client, answers: Vec::new(), buffers: Buffers::default(), begun }
    }

    /// One whose server is right, over a network without faults, and answers so.
    fn answering(answer: Answer) -> Self {
        let authority = authority("ours");
        let peer = Peer::new(server_tls(&authority, ALPN), TransportConfig::default(), answer);
        Self::new(client_tls(&authority), "dns.test", Some(peer), Box::new(|_| vec![LATENCY]))
    }

    fn now(&self) -> Instant {
        self.network.borrow().now
    }

    fn since_begun(&self) -> Duration {
        self.now() - self.begun
    }

    fn send(&mut self, message: &[u8]) -> bool {
        self.client.send(message, self.now())
    }

    /// Both have their turn, and time goes on to what is next.
    fn step(&mut self) -> Standing {
        let now = self.now();
        let mut take = |message: &[u8]| self.answers.push(message.to_vec());
        let standing = self.client.turn(&mut self.buffers, now, &mut take);
        let network = &mut *self.network.borrow_mut();
        match &mut self.peer {
            Some(peer) => peer.turn(network),
            None => network.to_server.0.clear(),
        }
        if let Standing::Open = standing {
            let arrivals = [&network.to_client, &network.to_server];
            let arrivals = arrivals.into_iter().filter_map(|way| way.0.keys().next()).map(|key| key.0);
            let connections = self.peer.iter_mut().flat_map(|peer| peer.connections.values_mut());
            let timers = connections.filter_map(Connection::poll_timeout);
            let next = arrivals.chain(timers).chain([self.client.deadline()]).min().unwrap();
            network.now = network.now.max(next);
        }
        standing
    }

    /// Lets time go on until there are so many answers, or the connection ends.
    fn run(&mut self, answers: usize) -> Option<End> {
        for _ in 0..200_000 {
            if let Standing::Closed(end) = self.step() {
                return Some(end);
            }
            if self.answers.len() >= answers {
                return None;
            }
        }
        panic!("it does not come to an end");
    }

    /// Lets the server have what is on its way to it.
    fn run_server(&mut self) {
        let mut network = self.network.borrow_mut();
        network.now += LATENCY;
        self.peer.as_mut().unwrap().turn(&mut network);
    }
}

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
        sizes in prop::collection::vec(12..20_000usize, 1..20),
        fates in prop::collection::vec((0..10u8, 1..60u64), 1..50),
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
        let peer = Peer::new(server_tls(&authority, ALPN), TransportConfig::default(), answer);
        // Of ten one is lost, if it is a third, and one comes twice. The first few are the handshake, which shall be made.
        let fate = Box::new(move |number: usize| {
            let (kind, delay) = fates[number % fates.len()];
            let delay = Duration::from_millis(delay);
            match kind {
    0 if number > 6 && number % 3 == 0 => vec![],
                1 => vec![delay, delay * 2],
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
        let peer = Peer::new(server_tls(&theirs, ALPN), TransportConfig::default(), answer);
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
    let peer = Peer::new(server_tls(&authority, b"h3"), TransportConfig::default(), echo());
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
    assert!(world.network.borrow().sent < 10, "little is sent meanwhile");
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
    // With an OPT record, which the refusal has not.
    let mut with_opt = query(0x0102, "bad");
    with_opt[11] = 1;
    with_opt.extend([0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    assert!(world.send(&with_opt) && world.send(&query(2, "good")));
    assert!(world.run(2).is_none());
    let mut refusal = query(0x0102, "bad");
    (refusal[2], refusal[3]) = (0x81, 2);
    world.answers.sort();
    assert_eq!(world.answers, [query(2, "good"), refusal]);
}

#[test]
fn queries_wait_for_streams_that_the_server_does_not_give_and_only_so_many() {
    let authority = authority("ours");
    let mut transport = TransportConfig::default();
    transport.max_concurrent_bidi_streams(VarInt::from_u32(3));
    let peer = Peer::new(server_tls(&authority, ALPN), transport, echo());
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
    let peer = Peer::new(server_tls(&authority, ALPN), transport, answer);
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
        let garbage: Vec<u8> = (0..number * 7 % 1_200).map(|at| (at * number) as u8).collect();
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
    let peer = Peer::new(server_tls(&authority, ALPN), transport, Box::new(|_, _, _| {}));
    let mut world = World::new(client_tls(&authority), "dns.test", Some(peer), Box::new(|_| vec![LATENCY]));
    while world.send(&query(1, "name")) {}
    assert!(matches!(world.run(1), Some(End::Silent)));
    let most = world.client.connection.streams().send_streams();
    assert!(most <= MAX_QUIC_STREAMS && most > 0, "{most}");
}
