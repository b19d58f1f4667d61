//! Names that are not ours, asked for over QUIC (RFC 9250): at a real server, by aioquic, and at some that are none.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::control;
use crate::harness::{Server, has, query, run, wait_until};
use crate::resolver_hostile::memory_kib;
use crate::resolver_tls::{NAME, certify, pin};
use crate::upstreams::{BIG, PYTHON, Recorder, Spot, Told, UNBOUND, Upstream, ZONE, zone};

/// What every answer of a [`Recorder`] has.
const RECORDED: &str = "198.18.0.9";

/// The server over QUIC, and whom it asks.
struct Peer {
    quic: Upstream,
    _plain: Upstream,
    directory: TempDir,
}

impl Peer {
    /// One that does besides what these words say.
    fn start(words: &[&str]) -> Option<Self> {
        let probe = ["-c", "import aioquic"];
        if !has(PYTHON, &probe) || !has(UNBOUND, &["-V"]) || !has("dig", &["-v"]) {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        certify(directory.path());
        let plain = Upstream::unbound(Spot::Anywhere, &zone(), "");
        let quic = Upstream::doq(directory.path(), plain.address, words);
        Some(Self { quic, _plain: plain, directory })
    }

    /// A server that asks whoever is at the port and can prove to be this.
    fn forwarder(&self, identity: &str, more: &[&str]) -> Server {
        let authority = self.directory.path().join("authority.pem");
        let upstream = format!("quic://{}{identity}", self.quic.address);
        let args = ["--workers", "1", "--upstream", &upstream, "--upstream-ca", authority.to_str().unwrap()];
        Server::start(&[&args, more].concat())
    }

    /// How often it has said this.
    fn said(&self, what: &str) -> usize {
        self.quic.log().matches(what).count()
    }
}

#[test]
fn all_questions_go_over_one_connection_and_have_no_id_on_the_way() {
    const QUESTIONS: u16 = 200;
    // A retry shows that our address is ours; the connection goes on.
    for (words, identity) in [(&[][..], format!("#{NAME}")), (&["retry"], String::new())] {
        let Some(peer) = Peer::start(words) else { return };
        let server = peer.forwarder(&identity, &[]);
        let told = Told::dig(server.address, &[&format!("chain.{ZONE}")]);
        assert_eq!((&*told.status, told.answer.len()), ("NOERROR", 4), "{}\n{}", told.text, server.log());
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
        println!("{} connections", peer.said("connection"));
        assert!((1..=2).contains(&peer.said("connection")), "{}", peer.quic.log());
        let ids = peer.said("query ");
        assert!(ids >= usize::from(QUESTIONS) && peer.said(" 0000\n") == ids, "{}", peer.quic.log());
        // It is told that we go, and need not wait for us.
        drop(server);
    }
}

#[test]
fn an_upstream_that_cannot_show_who_it_is_is_never_asked() {
    let Some(peer) = Peer::start(&[]) else { return };
    let pin = pin(peer.directory.path());
    let wrong = "sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    for (identity, why) in [
        ("#dns.other.example".to_owned(), format!("its certificate is for {NAME}, 127.0.0.1, and not for")),
        (format!("#{wrong}"), format!("its key is {pin}, which is not one")),
    ] {
        let server = peer.forwarder(&identity, &["--upstream-timeout", "1000"]);
        assert_eq!(Told::dig(server.address, &[&format!("text.{ZONE}")]).status, "SERVFAIL");
        wait_until("the log says why", || server.log().contains(&why));
        assert_eq!(peer.said("query"), 0);
    }
    // The right key, whatever the certificate says.
    let server = peer.forwarder(&format!("#{wrong}#{pin}"), &[]);
    assert_eq!(Told::dig(server.address, &[&format!("www.{ZONE}")]).answer.len(), 2, "{}", server.log());
}

#[test]
fn another_connection_is_made_when_the_upstream_is_back() {
    let Some(mut peer) = Peer::start(&[]) else { return };
    let server = peer.forwarder("", &["--upstream-timeout", "2000"]);
    let mut number = 0;
    let mut ask_another = || {
        number += 1;
        Told::dig(server.address, &[&format!("n{number}.any.{ZONE}")]).status
    };
    assert_eq!(ask_another(), "NOERROR");
    peer.quic.kill();
    assert_eq!(ask_another(), "SERVFAIL");
    peer.quic.restart();
    wait_until("there are answers again", || ask_another() == "NOERROR");
}

#[test]
fn what_an_upstream_does_wrong_with_one_query_another_answers() {
    let Some(peer) = Peer::start(&[]) else { return };
    let second = Recorder::start(Duration::ZERO);
    let order = ["--upstream-order", "fallback", "--upstream", &second.address.to_string()];
    let server = peer.forwarder("", &order);
    for kind in ["reset", "half", "twice", "close", "mute"] {
        let good = Told::dig(server.address, &[&format!("good-{kind}.any.{ZONE}")]);
        assert_eq!(good.status, "NOERROR", "{kind}: {}", good.text);
        let told = Told::dig(server.address, &[&format!("{kind}-1.any.{ZONE}")]);
        assert!(told.text.contains(RECORDED), "{kind}: {}\n{}", told.text, server.log());
    }
    println!("{}", server.log());
}

/// What a server does with a datagram: it sends back what `reply` makes of it, so often.
fn scripted(times: usize, reply: impl Fn(&[u8], usize) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 2_048];
        loop {
            match socket.recv_from(&mut buffer) {
                Ok((len, from)) => {
                    for number in 0..times {
                        // What is lost is lost.
                        let _ = socket.send_to(&reply(&buffer[..len], number), from);
                    }
                }
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    address
}

/// A packet of Version Negotiation to whoever has sent `packet`, for this version (RFC 9000 §17.2.1).
fn version_negotiation(packet: &[u8], version: u32) -> Vec<u8> {
    let id = |at: usize| packet.get(at..=at + usize::from(packet[at]));
    let Some(to_us) = id(5) else { return Vec::new() };
    let from_us = id(5 + to_us.len()).unwrap_or(&[0]);
    [&[0x80, 0, 0, 0, 0][..], from_us, to_us, &version.to_be_bytes()].concat()
}

#[test]
fn hosts_that_speak_no_quic_cost_little_and_the_next_one_answers() {
    if !has("dig", &["-v"]) {
        return;
    }
    let noise = |packet: &[u8], number: usize| {
        let len = (number * 37) % 1_200;
        packet
            .iter()
            .cycle()
            .take(len)
            .enumerate()
            .map(|(at, byte)| byte ^ (at * number).to_le_bytes()[0])
            .collect()
    };
    for (what, address, why) in [
        ("silence", scripted(0, |_, _| Vec::new()), "could not be made within 3s"),
        ("noise", scripted(2_000, noise), "could not be made within 3s"),
        ("its own packets", scripted(500, |packet, _| packet.to_vec()), ""),
        (
            "other versions",
            scripted(500, |packet, _| version_negotiation(packet, 0x0a0a_0a0a)),
            "it speaks no version of QUIC that is known here",
        ),
        (
            "our version, again and again",
            scripted(500, |packet, _| version_negotiation(packet, 1)),
            "could not be made within 3s",
        ),
    ] {
        let second = Recorder::start(Duration::ZERO);
        let upstream = format!("quic://{address}#sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=");
        let (server, at) = control::start(&[
            "--workers",
            "1",
            "--upstream-order",
            "fallback",
            "--upstream",
            &upstream,
            "--upstream",
            &second.address.to_string(),
        ]);
        let before = memory_kib(&server);
        for number in 0..20 {
            let told = Told::dig(server.address, &[&format!("n{number}.other.example")]);
            assert!(told.text.contains(RECORDED), "{what}: {}", told.text);
        }
        let status = || String::from_utf8(run(&["status", "--control", &at]).stdout).unwrap();
        wait_until(&format!("{what}: the status says why"), || {
            status().contains(&format!("the last connection to {upstream} has failed"))
                && status().contains(why)
        });
        let more = memory_kib(&server).saturating_sub(before);
        println!("{what}: {more} KiB more");
        assert!(more < 16 << 10, "{what}: {more}");
    }
}
