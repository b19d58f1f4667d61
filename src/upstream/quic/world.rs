//! For the tests of connections over QUIC: a server in the same process, a network that loses and reorders, and a time
//! of their own.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use quinn_proto::crypto::rustls::QuicServerConfig;
use quinn_proto::{ConnectionError, Dir, EndpointConfig, ServerConfig, StreamId, TransportConfig};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::version::TLS13;

use super::*;
use crate::sys::tls_trust::Trust;

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(super) const ALPN: &[u8] = b"doq";
pub(super) const SERVER: &str = "192.0.2.53:853";
/// One way.
pub(super) const LATENCY: Duration = Duration::from_millis(10);

pub(super) fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// TLS of a server whose certificate is for `dns.test` and 192.0.2.53.
pub(super) fn server_tls(authority: &Authority, alpn: &[u8]) -> rustls::ServerConfig {
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

pub(super) fn client_tls(authority: &Authority) -> ClientConfig {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), authority.pem()).unwrap();
    let mut tls = Trust::of_file(file.path()).unwrap().quic_config(&[], true).unwrap();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    transport::client_config(Arc::new(tls)).unwrap()
}

/// What the network does with a datagram: when its copies arrive. The number is that of all before it.
pub(super) type Fate = Box<dyn FnMut(usize) -> Vec<Duration>>;

/// Datagrams on their way, by when they arrive and by number.
#[derive(Default)]
pub(super) struct Way(pub(super) BTreeMap<(Instant, usize), Vec<u8>>);

impl Way {
    pub(super) fn take(&mut self, now: Instant) -> Option<Vec<u8>> {
        self.0.first_entry().filter(|entry| entry.key().0 <= now).map(|entry| entry.remove())
    }
}

/// The network between the two.
pub(super) struct Network {
    pub(super) now: Instant,
    pub(super) fate: Fate,
    pub(super) sent: usize,
    pub(super) to_server: Way,
    pub(super) to_client: Way,
    /// What the client's kernel says next instead of sending or receiving.
    pub(super) error: Option<ErrorKind>,
}

impl Network {
    pub(super) fn carry(&mut self, to_server: bool, bytes: &[u8]) {
        let way = if to_server { &mut self.to_server } else { &mut self.to_client };
        for delay in (self.fate)(self.sent) {
            self.sent += 1;
            way.0.insert((self.now + delay, self.sent), bytes.to_vec());
        }
        self.sent += 1;
    }
}

#[derive(Clone)]
pub(super) struct MemorySocket(pub(super) Rc<RefCell<Network>>);

impl Datagrams for MemorySocket {
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
pub(super) type Answer = Box<dyn FnMut(&mut Connection, StreamId, &[u8])>;

/// A server for one connection after another.
pub(super) struct QuicServer {
    pub(super) endpoint: Endpoint,
    pub(super) connections: BTreeMap<usize, Connection>,
    pub(super) queries: BTreeMap<(usize, StreamId), Vec<u8>>,
    pub(super) answer: Answer,
    /// How often the other side has closed a connection, and why the last time.
    pub(super) closed: Vec<ConnectionError>,
}

impl QuicServer {
    pub(super) fn new(tls: rustls::ServerConfig, transport: TransportConfig, answer: Answer) -> Self {
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

    pub(super) fn turn(&mut self, network: &mut Network) {
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
pub(super) fn reply(connection: &mut Connection, id: StreamId, bytes: &[u8]) {
    let mut stream = connection.send_stream(id);
    assert_eq!(stream.write(bytes).unwrap(), bytes.len());
    stream.finish().unwrap();
}

/// A server that sends back what it is asked.
pub(super) fn echo() -> Answer {
    Box::new(|connection, id, query| {
        assert_eq!(query[2..4], [0, 0], "queries have the id 0");
        reply(connection, id, query);
    })
}

/// A client, a server and the network between them.
pub(super) struct World {
    pub(super) network: Rc<RefCell<Network>>,
    pub(super) peer: Option<QuicServer>,
    pub(super) client: QuicConnection<MemorySocket>,
    pub(super) answers: Vec<Vec<u8>>,
    pub(super) buffers: Buffers,
    pub(super) begun: Instant,
    /// The client has nothing to do before something happens.
    rests: bool,
}

impl World {
    pub(super) fn new(config: ClientConfig, name: &str, peer: Option<QuicServer>, fate: Fate) -> Self {
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
        let socket = MemorySocket(Rc::clone(&network));
        let client = QuicConnection::new(socket, SERVER.parse().unwrap(), (config, &name), begun).unwrap();
        Self { network, peer, client, answers: Vec::new(), buffers: Buffers::default(), begun, rests: false }
    }

    /// One whose server is right, over a network without faults, and answers so.
    pub(super) fn answering(answer: Answer) -> Self {
        let authority = authority("ours");
        let peer = QuicServer::new(server_tls(&authority, ALPN), TransportConfig::default(), answer);
        Self::new(client_tls(&authority), "dns.test", Some(peer), Box::new(|_| vec![LATENCY]))
    }

    pub(super) fn now(&self) -> Instant {
        self.network.borrow().now
    }

    pub(super) fn since_begun(&self) -> Duration {
        self.now() - self.begun
    }

    pub(super) fn send(&mut self, message: &[u8]) -> bool {
        self.rests = false;
        self.client.send(message, self.now())
    }

    /// Time goes on to what is next, and the server has its turn.
    fn pass_time(&mut self) {
        let network = &mut *self.network.borrow_mut();
        if self.rests {
            let arrivals = [&network.to_client, &network.to_server];
            let arrivals = arrivals.into_iter().filter_map(|way| way.0.keys().next()).map(|key| key.0);
            let connections = self.peer.iter_mut().flat_map(|peer| peer.connections.values_mut());
            let timers = connections.filter_map(Connection::poll_timeout);
            let next = arrivals.chain(timers).chain([self.client.deadline()]).min().unwrap();
            network.now = network.now.max(next);
        }
        match &mut self.peer {
            Some(peer) => peer.turn(network),
            None => network.to_server.0.clear(),
        }
    }

    /// Time goes on to what is next, and both have their turn.
    pub(super) fn step(&mut self) -> Standing {
        self.pass_time();
        let now = self.now();
        let mut take = |message: &[u8]| self.answers.push(message.to_vec());
        let standing = self.client.turn(&mut self.buffers, now, &mut take);
        self.rests = matches!(standing, Standing::Open);
        standing
    }

    /// Lets time go on until there are so many answers, or the connection ends.
    pub(super) fn run(&mut self, answers: usize) -> Option<End> {
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
    pub(super) fn run_server(&mut self) {
        let mut network = self.network.borrow_mut();
        network.now += LATENCY;
        self.peer.as_mut().unwrap().turn(&mut network);
    }
}
