//! Names that are not ours, asked for over TLS at a real Unbound: as long as it shows who it is, and never in plain
//! text.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use tempfile::TempDir;

use crate::harness::{Server, ask, has, query, run, stdout, wait_until};
use crate::upstreams::{BIG, Spot, Told, UNBOUND, Upstream, ZONE, zone};

pub(crate) const NAME: &str = "dns.upstream.example";

/// Makes an authority, and a certificate by it for [`NAME`] and 127.0.0.1.
pub(crate) fn certify(directory: &Path) {
    let mut params = CertificateParams::new([]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "an authority of a test");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = [NAME.to_owned(), "127.0.0.1".to_owned()];
    let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    fs::write(directory.join("authority.pem"), authority.pem()).unwrap();
    fs::write(directory.join("certificate.pem"), certificate.pem()).unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
}

/// A way to the upstream on which all is noted that is said to it.
struct Tap {
    address: SocketAddr,
    connections: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Connections below this number are silent: what is said on them is lost, either way.
    silent_below: Arc<AtomicUsize>,
    /// Of so many more each ends with the first that is said after its handshake.
    resets: Arc<AtomicUsize>,
    /// At the same port, for what should not come there.
    udp: UdpSocket,
}

impl Tap {
    fn start(to: SocketAddr) -> Self {
        let (listener, udp) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            if let Ok(udp) = UdpSocket::bind(listener.local_addr().unwrap()) {
                break (listener, udp);
            }
        };
        udp.set_nonblocking(true).unwrap();
        let (address, connections) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
        let (silent_below, resets) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let it = Self {
            address,
            connections: Arc::clone(&connections),
            silent_below: Arc::clone(&silent_below),
            resets: Arc::clone(&resets),
            udp,
        };
        let notes = connections;
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                // The client sees it if nobody is there.
                let Ok(server) = TcpStream::connect(to) else { continue };
                let number = notes.lock().unwrap().len();
                notes.lock().unwrap().push(Vec::new());
                let (notes, back) =
                    (Arc::clone(&notes), (server.try_clone().unwrap(), client.try_clone().unwrap()));
                let (there, here) = (Arc::clone(&silent_below), Arc::clone(&silent_below));
                let resets = Arc::clone(&resets);
                let mut messages = 0;
                thread::spawn(move || {
                    copy(client, server, |bytes| {
                        notes.lock().unwrap()[number].extend(bytes);
                        messages += 1;
                        // The first two are of the handshake.
                        let less = |left: usize| left.checked_sub(1);
                        let order = Ordering::Relaxed;
                        if messages > 2 && resets.fetch_update(order, order, less).is_ok() {
                            return Fate::End;
                        }
                        if number < there.load(order) { Fate::Lost } else { Fate::Passed }
                    })
                });
                thread::spawn(move || {
                    copy(back.0, back.1, |_| {
                        if number < here.load(Ordering::Relaxed) { Fate::Lost } else { Fate::Passed }
                    })
                });
            }
        });
        it
    }

    /// What was said on each of the connections.
    fn said(&self) -> Vec<Vec<u8>> {
        self.connections.lock().unwrap().clone()
    }

    /// Whether all that came was TLS, in which no name could be read.
    fn is_secret(&self) -> bool {
        let said = self.said();
        let plain = b"forwarded";
        // A record of a handshake is the first of a connection (RFC 8446 §5.1).
        said.iter().all(|bytes| bytes.first().is_none_or(|byte| *byte == 0x16))
            && said.iter().all(|bytes| !bytes.windows(plain.len()).any(|window| window == plain))
            && self.udp.recv(&mut [0; 16]).is_err()
    }
}

/// What becomes of what is said.
enum Fate {
    Passed,
    Lost,
    End,
}

fn copy(mut from: TcpStream, mut to: TcpStream, mut note: impl FnMut(&[u8]) -> Fate) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        match note(&buffer[..len]) {
            Fate::Passed if to.write_all(&buffer[..len]).is_err() => break,
            Fate::Passed | Fate::Lost => {}
            Fate::End => break,
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// A certificate as people make one with `openssl req -x509`: signed by itself, and with CA:TRUE.
fn certify_itself(directory: &Path) {
    let file = |name: &str| directory.join(name).into_os_string();
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "30",
        ])
        .args([
            "-subj",
            &format!("/CN={NAME}"),
            "-addext",
            &format!("subjectAltName=DNS:{NAME},IP:127.0.0.1"),
        ])
        .args(["-keyout".into(), file("key.pem"), "-out".into(), file("certificate.pem")])
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// The pin of the key in a certificate, as docs/resolver.md has it.
pub(crate) fn pin(directory: &Path) -> String {
    let script = "openssl x509 -in certificate.pem -pubkey -noout | openssl pkey -pubin -outform der | \
                  openssl dgst -sha256 -binary | base64";
    format!("sha256//{}", stdout(Command::new("sh").args(["-c", script]).current_dir(directory)).trim())
}

/// Unbound, which understands nothing but TLS, and the way to it.
fn upstream() -> Option<(TempDir, Upstream, Tap)> {
    upstream_with(certify)
}

/// The same with certificates that are made so.
fn upstream_with(certify: impl Fn(&Path)) -> Option<(TempDir, Upstream, Tap)> {
    if !has(UNBOUND, &["-V"]) || !has("dig", &["-v"]) || !has("openssl", &["version"]) {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path());
    let dir = directory.path().display();
    let more = format!(
        " tls-port: PORT\n tls-service-key: \"{dir}/key.pem\"\n tls-service-pem: \"{dir}/certificate.pem\"\n \
         incoming-num-tcp: 100"
    );
    let unbound = Upstream::unbound(Spot::Anywhere, &zone(), &more);
    let tap = Tap::start(unbound.address);
    Some((directory, unbound, tap))
}

/// A server that asks over TLS whoever is at the tap and can prove to be `name`, by the certificates in a `file`.
fn forwarder(tap: &Tap, name: &str, directory: &TempDir, file: &str) -> Server {
    let file = directory.path().join(file);
    let upstream = format!("tls://{}{name}", tap.address);
    Server::start(&["--workers", "1", "--upstream", &upstream, "--upstream-ca", file.to_str().unwrap()])
}

#[test]
fn all_questions_go_over_one_connection_that_nobody_can_read() {
    const QUESTIONS: u16 = 200;
    let Some((directory, _unbound, tap)) = upstream() else { return };
    let by_name = format!("#{NAME}");
    for name in [&*by_name, ""] {
        let before = tap.said().len();
        let server = forwarder(&tap, name, &directory, "authority.pem");
        let told = Told::dig(server.address, &[&format!("chain.{ZONE}")]);
        assert_eq!((&*told.status, told.answer.len()), ("NOERROR", 4), "{}", told.text);
        assert_eq!(Told::dig(server.address, &[&format!("nobody.{ZONE}")]).status, "NXDOMAIN");
        let big = Told::dig(server.address, &[&format!("big.{ZONE}")]);
        assert_eq!(big.answer.len(), BIG, "{}", big.text);
        let socket = server.client();
        for id in 0..QUESTIONS {
            socket.send(&query(id, &format!("n{id}.any.{ZONE}"), 1)).unwrap();
        }
        for _ in 0..QUESTIONS {
            let mut answer = [0; 512];
            socket.recv(&mut answer).unwrap();
            assert_eq!((answer[3] & 15, answer[7]), (0, 1));
        }
        println!("{} connections", tap.said().len() - before);
        assert!((1..=2).contains(&(tap.said().len() - before)), "{}", tap.said().len());
        assert!(tap.is_secret());
    }
}

#[test]
fn an_upstream_that_cannot_show_who_it_is_is_never_asked() {
    let Some((directory, unbound, tap)) = upstream() else { return };
    let other = TempDir::new().unwrap();
    certify(other.path());
    let right = format!("#{NAME}");
    // Another name, another authority.
    for (name, authority) in [("#dns.other.example", &directory), (&*right, &other)] {
        let server = forwarder(&tap, name, authority, "authority.pem");
        let (name, mut failed) = (format!("www.{ZONE}"), 0);
        wait_until("it has failed for some times", || {
            let told = Told::dig(server.address, &[&name]);
            assert_eq!((&*told.status, told.answer.len()), ("SERVFAIL", 0), "{}", told.text);
            failed += 1;
            failed == 3
        });
        // Ours are answered beside it.
        assert_eq!(ask(&server.client(), &query(1, "nobody.redbreast.internal", 1))[3] & 15, 3);
        assert!(!tap.said().is_empty() && tap.is_secret());
        assert_eq!(unbound.heard(&name, "A"), 0);
    }
}

#[test]
fn a_certificate_that_signed_itself_is_taken_if_it_is_the_one_that_is_given_and_told_if_not() {
    let Some((directory, unbound, tap)) = upstream_with(certify_itself) else { return };
    for name in [&*format!("#{NAME}"), ""] {
        let server = forwarder(&tap, name, &directory, "certificate.pem");
        let told = Told::dig(server.address, &[&format!("www.{ZONE}")]);
        assert_eq!((&*told.status, told.answer.len()), ("NOERROR", 2), "{}\n{}", told.text, server.log());
    }
    let other = TempDir::new().unwrap();
    certify_itself(other.path());
    let server = forwarder(&tap, "", &other, "certificate.pem");
    assert_eq!(Told::dig(server.address, &[&format!("text.{ZONE}")]).status, "SERVFAIL");
    wait_until("the log says why", || server.log().contains("basicConstraints=CA:FALSE"));
    assert!(!server.log().contains("CaUsed") && !server.log().contains("Other("), "{}", server.log());
    assert_eq!(unbound.heard(&format!("text.{ZONE}"), "A"), 0);
    // The load generator checks servers in the same way.
    let bench = |directory: &TempDir| {
        let file = directory.path().join("certificate.pem");
        let queries = directory.path().join("queries");
        fs::write(&queries, format!("www.{ZONE} A\n")).unwrap();
        let (ip, port) = (unbound.address.ip().to_string(), unbound.address.port().to_string());
        let (queries, file) = (queries.to_str().unwrap(), file.to_str().unwrap());
        let how = ["-m", "dot", "-n", "200", "-c", "1", "-t", "0.5", "--accept-invalid", "--tls-name", NAME];
        run(&[&["bench", "-s", &ip, "-p", &port, "-d", queries, "--tls-ca", file], &how[..]].concat())
    };
    let done = bench(&directory);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let failed = bench(&other);
    let text = [failed.stdout, failed.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(!failed.status.success() && text.contains("basicConstraints=CA:FALSE"), "{text}");
}

#[test]
fn an_upstream_is_taken_by_its_key_whatever_its_certificate_says() {
    let Some((directory, unbound, tap)) = upstream() else { return };
    let pin = pin(directory.path());
    let start = |identity: &str| {
        let upstream = format!("tls://{}#{identity}", tap.address);
        Server::start(&["--workers", "1", "--upstream", &upstream])
    };
    let www = format!("www.{ZONE}");
    for identity in [pin.clone(), format!("sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=#{pin}")] {
        let server = start(&identity);
        let told = Told::dig(server.address, &[&www]);
        assert_eq!((&*told.status, told.answer.len()), ("NOERROR", 2), "{}\n{}", told.text, server.log());
    }
    // Another key; the right one, where the certificate counts, too, and is by nobody who is known.
    let text = format!("text.{ZONE}");
    for (identity, why) in [
        (
            "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            format!("its key is {pin}, which is not one"),
        ),
        (&*format!("{NAME}#{pin}"), "signed by nobody who is trusted here".into()),
    ] {
        let server = start(identity);
        assert_eq!(Told::dig(server.address, &[&text]).status, "SERVFAIL");
        wait_until("the log says why", || server.log().contains(&why));
        assert_eq!(unbound.heard(&text, "A"), 0);
    }
}

#[test]
fn an_upstream_that_speaks_no_tls_is_never_asked() {
    let Some((directory, _unbound, _)) = upstream() else { return };
    let plain = Upstream::unbound(Spot::Anywhere, &zone(), "");
    let tap = Tap::start(plain.address);
    let server = forwarder(&tap, "", &directory, "authority.pem");
    let told = Told::dig(server.address, &[&format!("www.{ZONE}")]);
    assert_eq!(told.status, "SERVFAIL", "{}", told.text);
    assert!(!tap.said().is_empty() && tap.is_secret());
    assert_eq!(plain.heard(&format!("www.{ZONE}"), "A"), 0);
}

#[test]
fn another_connection_is_made_when_the_upstream_is_back() {
    let Some((directory, mut unbound, tap)) = upstream() else { return };
    let server = forwarder(&tap, "", &directory, "authority.pem");
    let mut number = 0;
    let mut ask_another = || {
        number += 1;
        Told::dig(server.address, &[&format!("n{number}.any.{ZONE}")])
    };
    assert_eq!(ask_another().status, "NOERROR");
    unbound.kill();
    assert_eq!(ask_another().status, "SERVFAIL");
    unbound.restart();
    wait_until("there are answers again", || ask_another().status == "NOERROR");
    assert!(tap.said().len() >= 2 && tap.is_secret());
}

#[test]
fn connections_that_fall_silent_or_break_cost_no_question() {
    let Some((directory, _unbound, tap)) = upstream() else { return };
    let server = forwarder(&tap, "", &directory, "authority.pem");
    let mut number = 0;
    let mut lost = |count| {
        let names = (0..count).map(|_| {
            number += 1;
            format!("n{number}.any.{ZONE}")
        });
        names.filter(|name| Told::dig(server.address, &[name]).answer.len() != 1).count()
    };
    assert_eq!(lost(10), 0);
    tap.silent_below.store(tap.said().len(), Ordering::Relaxed);
    assert_eq!(lost(40), 0, "it was silent");
    for _ in 0..6 {
        tap.resets.store(1, Ordering::Relaxed);
        assert_eq!(lost(1), 0, "it broke");
    }
    assert!(tap.said().len() > 2 && tap.is_secret());
}
