//! TLS to upstreams (RFC 7858): a client's side of sessions, and what goes through one.
//!
//! [`TlsClient`] is made by the main thread at the start and shared by all workers, on which the rest runs. Who an
//! upstream has to be, and how it shows that, is in [`crate::sys::tls_trust`].

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::{ClientConfig, ClientConnection};

use crate::sys::tls_error;
use crate::sys::tls_trust::{KeyPin, ServerIdentity, Trust};
use crate::upstream::standing::End;

/// What a client says that it will speak (RFC 7301).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alpn {
    /// DNS over TLS (RFC 7858 §3.1).
    Dot,
    /// HTTP/2 (RFC 9113 §3.2).
    H2,
    /// DNS over QUIC (RFC 9250 §4.1).
    Doq,
}

impl Alpn {
    /// As the registry has it.
    #[must_use]
    pub fn id(self) -> &'static [u8] {
        match self {
            Self::Dot => b"dot",
            Self::H2 => b"h2",
            Self::Doq => b"doq",
        }
    }
}

/// Sets of rules that are kept at most: more than an operator gives pins.
const MAX_CONFIGS: usize = 64;

/// Why upstreams cannot be asked over TLS.
#[derive(Debug)]
pub enum TrustError {
    /// The file of authorities is no such file.
    File {
        /// Where it is.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// This system has no authorities that can be used, and what has been in the way.
    System(String),
    /// The cryptography cannot be used.
    Tls(rustls::Error),
}

impl fmt::Display for TrustError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, what } => {
                write!(f, "{}: cannot be read as certificates in PEM form: {what}", path.display())
            }
            Self::System(what) => write!(
                f,
                "this system trusts no certificate authority, so that no upstream could prove over TLS who it \
                 is{what}; the package `ca-certificates` brings the usual ones"
            ),
            Self::Tls(error) => write!(f, "cannot set up TLS: {}", tls_error::text(error)),
        }
    }
}

impl std::error::Error for TrustError {}

/// How upstreams with these keys are connected to, whose certificates count or not, for what is spoken then.
type Configured = (Vec<KeyPin>, bool, Alpn, Arc<ClientConfig>);

/// Makes the client's side of TLS sessions.
#[derive(Clone, Debug)]
pub struct TlsClient {
    trust: Arc<Trust>,
    /// By the keys that an upstream may have, and whether its certificate counts. There are as many as there are
    /// upstreams of their own kind, and connections are made seldom.
    configs: Arc<Mutex<Vec<Configured>>>,
}

impl TlsClient {
    /// One that trusts what is in the file at `authorities`, in PEM form, and nobody else; without a file, those that
    /// this system trusts. It may trust nobody only where no server is to be `certified`.
    ///
    /// # Errors
    /// When there are none.
    pub fn new(authorities: Option<&Path>, certified: bool) -> Result<Self, TrustError> {
        let trust = match authorities {
            Some(path) => {
                Trust::of_file(path).map_err(|what| TrustError::File { path: path.to_owned(), what })?
            }
            None => match Trust::of_system() {
                (trust, what) if trust.is_empty() && certified => {
                    let what = what.map(|what| format!(" ({what})")).unwrap_or_default();
                    return Err(TrustError::System(what));
                }
                (trust, _) => trust,
            },
        };
        let client = Self { trust: Arc::new(trust), configs: Arc::default() };
        if certified {
            client.configured(&[], true, Alpn::Dot).map_err(TrustError::Tls)?;
        }
        Ok(client)
    }

    /// A session with the upstream that can prove to be this. It is resumed where there has been one before, on any
    /// worker, and the upstream still knows of it. Nothing is said before its handshake is over (0-RTT): who copied
    /// that could have it asked again.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn session(&self, identity: &ServerIdentity, alpn: Alpn) -> Result<ClientConnection, rustls::Error> {
        ClientConnection::new(self.config(identity, alpn)?, identity.name.clone())
    }

    /// What sessions with the upstream that can prove to be this are made with.
    ///
    /// # Errors
    /// When a certificate would have to be checked, and nobody is trusted.
    pub fn config(&self, identity: &ServerIdentity, alpn: Alpn) -> Result<Arc<ClientConfig>, rustls::Error> {
        self.configured(&identity.pins, identity.certified, alpn)
    }

    fn configured(
        &self,
        pins: &[KeyPin],
        certified: bool,
        alpn: Alpn,
    ) -> Result<Arc<ClientConfig>, rustls::Error> {
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        let known = configs.iter().find(|(of_pins, is_certified, speaks, _)| {
            of_pins == pins && (*is_certified, *speaks) == (certified, alpn)
        });
        if let Some((_, _, _, config)) = known {
            return Ok(Arc::clone(config));
        }
        let mut config = match alpn {
            Alpn::Doq => self.trust.quic_config(pins, certified)?,
            Alpn::Dot | Alpn::H2 => self.trust.client_config(pins, certified)?,
        };
        config.alpn_protocols = vec![alpn.id().to_vec()];
        let config = Arc::new(config);
        // The oldest goes: that of an upstream that there was before a reload.
        if configs.len() == MAX_CONFIGS {
            configs.remove(0);
        }
        configs.push((pins.to_owned(), certified, alpn, Arc::clone(&config)));
        Ok(config)
    }
}

/// Encrypts `unsent`, once the handshake is done, and writes as much as `stream` takes; what TLS itself has to say goes
/// first. Returns whether the handshake is done.
pub(crate) fn encrypt(
    tls: &mut ClientConnection,
    unsent: &mut Vec<u8>,
    stream: &mut impl Write,
) -> io::Result<bool> {
    let open = !tls.is_handshaking();
    loop {
        if open && !unsent.is_empty() && !tls.wants_write() {
            let taken = tls.writer().write(unsent)?;
            unsent.drain(..taken);
        }
        if !tls.wants_write() {
            return Ok(open);
        }
        match tls.write_tls(stream) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(open),
            Err(error) => return Err(error),
        }
    }
}

/// Puts what is in `records`, as they came from the network, behind the first `len` bytes of `input`, where `cut` takes
/// what it can. Returns how many bytes are left there.
pub(crate) fn decrypt(
    tls: &mut ClientConnection,
    mut records: &[u8],
    input: &mut [u8],
    mut len: usize,
    mut cut: impl FnMut(&mut [u8], usize) -> Result<usize, End>,
) -> Result<usize, End> {
    while !records.is_empty() {
        if tls.read_tls(&mut records)? == 0 {
            return Err(End::ByServer);
        }
        tls.process_new_packets().map_err(End::Tls)?;
        loop {
            // There is room: an incomplete message leaves at least a byte.
            match tls.reader().read(&mut input[len..]) {
                Ok(0) => return Err(End::ByServer),
                Ok(read) => len = cut(input, len + read)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(End::Io(error)),
            }
        }
    }
    Ok(len)
}

/// Tells the other side that this is the end, and why if TLS has failed, as far as it can be told at once.
pub(crate) fn take_leave(tls: &mut ClientConnection, stream: &mut impl Write) {
    tls.send_close_notify();
    while tls.wants_write() && matches!(tls.write_tls(stream), Ok(1..)) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::standing::{Buffers, Standing};
    use crate::upstream::stream::UpstreamStream;
    use std::cell::RefCell;
    use std::fs;
    use std::rc::Rc;
    use std::time::Instant;

    use rcgen::{
        BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair,
        KeyUsagePurpose,
    };
    use rustls::crypto::ring;
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{AlertDescription, CertificateError, HandshakeKind, ServerConfig, ServerConnection};

    const QUERY: &[u8] = b"a query that is long enough";

    /// An authority of its own kind: no two are the same.
    fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    /// A server whose certificate is for `dns.test` and 192.0.2.53, signed by `authority`.
    fn server(authority: &CertifiedIssuer<'_, KeyPair>) -> Arc<ServerConfig> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(["dns.test".to_owned(), "192.0.2.53".to_owned()]).unwrap();
        let certificate: Certificate = params.signed_by(&key, authority).unwrap();
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        config.alpn_protocols = vec![Alpn::Dot.id().to_vec()];
        Arc::new(config)
    }

    fn client(authority: &CertifiedIssuer<'_, KeyPair>) -> TlsClient {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), authority.pem()).unwrap();
        TlsClient::new(Some(file.path()), true).unwrap()
    }

    fn named(name: &str) -> ServerIdentity {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        ServerIdentity { name, pins: Vec::new(), certified: true }
    }

    /// The server's side of a connection, which sends back what it gets; as a stream, the client's way to it.
    #[derive(Clone)]
    struct Echo(Rc<RefCell<Side>>);

    struct Side {
        tls: ServerConnection,
        /// What the client has done wrong in its eyes.
        fault: Option<rustls::Error>,
        /// What has come, encrypted as it was.
        seen: Vec<u8>,
    }

    impl Echo {
        fn new(config: &Arc<ServerConfig>) -> Self {
            let tls = ServerConnection::new(Arc::clone(config)).unwrap();
            Self(Rc::new(RefCell::new(Side { tls, fault: None, seen: Vec::new() })))
        }
    }

    impl Read for Echo {
        fn read(&mut self, mut room: &mut [u8]) -> io::Result<usize> {
            let tls = &mut self.0.borrow_mut().tls;
            if tls.wants_write() { tls.write_tls(&mut room) } else { Err(ErrorKind::WouldBlock.into()) }
        }
    }

    impl Write for Echo {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let Side { tls, fault, seen } = &mut *self.0.borrow_mut();
            // Networks take what they like.
            let mut rest = &bytes[..bytes.len().min(1_000)];
            let len = rest.len();
            seen.extend_from_slice(rest);
            while fault.is_none() && tls.read_tls(&mut rest)? > 0 {
                *fault = tls.process_new_packets().err();
                let mut plain = Vec::new();
                let _ = tls.reader().read_to_end(&mut plain);
                tls.writer().write_all(&plain)?;
            }
            Ok(len)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Asks `queries` of a server with `config` that is to be `name`. Returns the server's side, how many answers came
    /// back, and how the connection stood at last.
    fn ask(
        client: &TlsClient,
        config: &Arc<ServerConfig>,
        name: &str,
        queries: usize,
    ) -> (Echo, usize, Standing) {
        let now = Instant::now();
        let echo = Echo::new(config);
        let mut stream =
            UpstreamStream::new(echo.clone(), Some(client.session(&named(name), Alpn::Dot).unwrap()), now);
        (0..queries).for_each(|_| assert!(stream.send(QUERY, now)));
        let (mut buffers, mut answers) = (Buffers::default(), 0);
        let mut take = |message: &[u8]| answers += usize::from(message == QUERY);
        loop {
            match stream.turn(&mut buffers, now, &mut take) {
                Standing::Open if echo.0.borrow().tls.wants_write() => {}
                Standing::More => {}
                standing => return (echo, answers, standing),
            }
        }
    }

    fn refused(standing: Standing) -> CertificateError {
        match standing {
            Standing::Closed(End::Tls(rustls::Error::InvalidCertificate(error))) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_server_that_proves_its_name_or_address_is_asked_and_nothing_leaves_in_plain_text() {
        let authority = authority("ours");
        let (config, client) = (server(&authority), client(&authority));
        for name in ["dns.test", "192.0.2.53"] {
            let (echo, answers, standing) = ask(&client, &config, name, 2_000);
            assert!(matches!(standing, Standing::Open), "{name}: {standing:?}");
            assert_eq!(answers, 2_000);
            let side = echo.0.borrow();
            assert_eq!(side.tls.alpn_protocol(), Some(Alpn::Dot.id()));
            assert!(!side.seen.windows(QUERY.len()).any(|window| window == QUERY));
        }
    }

    #[test]
    fn a_server_that_is_another_is_refused_before_anything_is_asked() {
        let authority = authority("ours");
        let (config, client) = (server(&authority), client(&authority));
        for name in ["other.test", "192.0.2.54"] {
            let (echo, answers, standing) = ask(&client, &config, name, 1);
            let error = refused(standing);
            assert!(matches!(error, CertificateError::NotValidForNameContext { .. }), "{name}: {error:?}");
            assert_eq!(answers, 0);
            assert!(echo.0.borrow().tls.is_handshaking(), "the client has not finished the handshake");
        }
    }

    #[test]
    fn a_server_whose_authority_is_unknown_is_refused_and_told_why() {
        let (config, client) = (server(&authority("theirs")), client(&authority("ours")));
        let (echo, answers, standing) = ask(&client, &config, "dns.test", 1);
        assert_eq!(refused(standing), CertificateError::UnknownIssuer);
        assert_eq!(answers, 0);
        let told = echo.0.borrow().fault.clone();
        assert_eq!(told, Some(rustls::Error::AlertReceived(AlertDescription::UnknownCA)));
    }

    #[test]
    fn a_server_that_does_not_speak_tls_is_refused() {
        struct Plain(usize);
        impl Read for Plain {
            fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
                let answer = [&[0, 12][..], &[0; 12]].concat();
                self.0 += 1;
                if self.0 > 1 {
                    return Err(ErrorKind::WouldBlock.into());
                }
                room[..answer.len()].copy_from_slice(&answer);
                Ok(answer.len())
            }
        }
        impl Write for Plain {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let session = client(&authority("ours")).session(&named("dns.test"), Alpn::Dot).unwrap();
        let mut stream = UpstreamStream::new(Plain(0), Some(session), Instant::now());
        assert!(stream.send(QUERY, Instant::now()));
        let mut take = |_: &[u8]| panic!("that was no answer");
        let standing = stream.turn(&mut Buffers::default(), Instant::now(), &mut take);
        assert!(matches!(standing, Standing::Closed(End::Tls(_))), "{standing:?}");
    }

    #[test]
    fn a_second_session_resumes_the_first() {
        let authority = authority("ours");
        let (config, client) = (server(&authority), client(&authority));
        let kind = || ask(&client, &config, "dns.test", 1).0.0.borrow().tls.handshake_kind();
        assert_eq!(kind(), Some(HandshakeKind::Full));
        assert_eq!(kind(), Some(HandshakeKind::Resumed));
    }

    #[test]
    fn a_file_without_certificates_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (bytes, what) in [("", "there is none in it"), ("-----BEGIN CERTIFICATE-----\n", "")] {
            fs::write(file.path(), bytes).unwrap();
            let error = TlsClient::new(Some(file.path()), true).unwrap_err().to_string();
            assert!(error.starts_with(&*file.path().to_string_lossy()) && error.ends_with(what), "{error}");
        }
        let error = TlsClient::new(Some(Path::new("/nowhere/ca.pem")), true).unwrap_err().to_string();
        assert!(error.starts_with("/nowhere/ca.pem: ") && error.contains("No such file"), "{error}");
    }
}
