//! An upstream that does what the first label of a name says: lies, keeps silent, floods, breaks off.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use redbreast::wire::header;
use redbreast::wire::message::expand_name;
use redbreast::wire::record::rtype;
use socket2::SockRef;

/// Forged answers in a flood.
pub(crate) const FLOOD: usize = 100_000;

/// Bytes of a record with an address, its owner a pointer.
const ADDRESS: [u8; 4] = [10, 0, 0, 1];
const FORGED: [u8; 4] = [6, 6, 6, 6];

/// The upstream. Its threads end when it goes out of scope.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// How often it was asked for each name by datagrams.
    asked: Arc<Mutex<HashMap<String, u32>>>,
    stop: Arc<AtomicBool>,
}

impl Upstream {
    /// One that is asked by datagrams and, if it has `tcp`, over streams.
    pub(crate) fn start(tcp: bool) -> Self {
        let (udp, listener) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            // Somebody else may have it for TCP.
            match TcpListener::bind(udp.local_addr().expect("bound")) {
                Ok(listener) => break (udp, listener),
                Err(_) => continue,
            }
        };
        SockRef::from(&udp).set_recv_buffer_size(4 << 20).expect("a buffer");
        udp.set_read_timeout(Some(Duration::from_millis(100))).expect("not zero");
        let upstream =
            Self { address: udp.local_addr().expect("bound"), asked: Arc::default(), stop: Arc::default() };
        let (asked, stop) = (Arc::clone(&upstream.asked), Arc::clone(&upstream.stop));
        thread::spawn(move || serve_udp(&udp, &asked, &stop));
        if tcp {
            let stop = Arc::clone(&upstream.stop);
            thread::spawn(move || {
                for stream in listener.incoming().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    thread::spawn(move || serve_tcp(stream.expect("accepted")));
                }
            });
        }
        upstream
    }

    /// How often it was asked for `name` by datagrams.
    pub(crate) fn asked(&self, name: &str) -> u32 {
        self.asked.lock().expect("nobody panics with it").get(name).copied().unwrap_or_default()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // The listener, if there is one, looks only when somebody comes.
        drop(TcpStream::connect(self.address));
    }
}

fn serve_udp(socket: &UdpSocket, asked: &Mutex<HashMap<String, u32>>, stop: &AtomicBool) {
    let mut buffer = [0; 2_048];
    while !stop.load(Ordering::Relaxed) {
        let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
        let query = &buffer[..len];
        // Of these there are many: to keep silent is to be quick.
        if query.get(header::LEN + 1..).is_some_and(|name| name.starts_with(b"silent-")) {
            continue;
        }
        let name = name_of(query);
        *asked.lock().expect("nobody panics with it").entry(name.clone()).or_default() += 1;
        answer_datagram(socket, from, query, &name);
    }
}

/// What can be lost is lost: a full buffer on the other side is no fault here.
fn send(socket: &UdpSocket, to: SocketAddr, message: &[u8]) {
    let _ = socket.send_to(message, to);
}

fn answer_datagram(socket: &UdpSocket, to: SocketAddr, query: &[u8], name: &str) {
    let good = address(query, 300, ADDRESS);
    let forged = address(query, 300, FORGED);
    let changed = |at: usize| {
        let mut message = forged.clone();
        message[at] ^= 1;
        message
    };
    match name.split(['.', '-']).next().unwrap_or_default() {
        "silent" => {}
        "slow" => {
            let socket = socket.try_clone().expect("a descriptor");
            thread::spawn(move || {
                thread::sleep(Duration::from_secs(1));
                send(&socket, to, &good);
            });
        }
        "lies" => {
            let other = UdpSocket::bind("127.0.0.1:0").expect("a free port");
            send(&other, to, &forged);
            // Another id, no response, another name, another type, nothing at all, half of it.
            for at in [1, header::LEN + 1, header::LEN + name.len() + 3] {
                send(socket, to, &changed(at));
            }
            for message in [query, b"", &forged[..20]] {
                send(socket, to, message);
            }
            thread::sleep(Duration::from_millis(5));
            send(socket, to, &good);
        }
        "flood" => {
            flood(socket, to, &query[..2], changed(header::LEN + 1));
            send(socket, to, &good);
        }
        "truncated" | "giant" | "reset" | "half" => {
            send(socket, to, &response(query, header::TC, &[]));
        }
        "circle" => send(socket, to, &response(query, 0, &circle(name))),
        "trailing" => send(socket, to, &[&good[..], &[0xff; 500]].concat()),
        "pointers" => {
            let mut message = good;
            let owner = message.len() - 16;
            message[owner + 1] = u8::try_from(owner).expect("a short name");
            send(socket, to, &message);
        }
        "counts" => {
            let mut message = good;
            message[header::ANCOUNT..header::ANCOUNT + 2].fill(0xff);
            send(socket, to, &message);
        }
        "zero" => send(socket, to, &address(query, 0, ADDRESS)),
        "longest" => send(socket, to, &address(query, u32::MAX, ADDRESS)),
        "lower" => {
            let mut message = good;
            let end = header::LEN + name.len() + 2;
            message[header::LEN..end].make_ascii_lowercase();
            send(socket, to, &message);
        }
        _ => send(socket, to, &good),
    }
}

/// Sends `message`, which is no answer, by turns with the `right` id and with any; with another name in it, or it might
/// hit what is asked again meanwhile.
fn flood(socket: &UdpSocket, to: SocketAddr, right: &[u8], mut message: Vec<u8>) {
    for i in 0..FLOOD {
        let any: [u8; 2] = *i.to_be_bytes().last_chunk().expect("eight bytes");
        message[..2].copy_from_slice(if i % 2 == 0 { right } else { &any });
        send(socket, to, &message);
    }
    // There is room for the true one again.
    thread::sleep(Duration::from_millis(50));
}

fn serve_tcp(mut stream: TcpStream) {
    let mut prefix = [0; 2];
    while stream.read_exact(&mut prefix).is_ok() {
        let mut query = vec![0; u16::from_be_bytes(prefix).into()];
        if stream.read_exact(&mut query).is_err() {
            return;
        }
        let name = name_of(&query);
        let records = match name.split(['.', '-']).next().unwrap_or_default() {
            // As much as there can be in a message: about 64,000 bytes.
            "giant" => (0..250).map(|i| text(&[i; 242])).collect(),
            "truncated" | "reset" | "half" => {
                (0..80).map(|i| record(rtype::A, 300, &[10, 0, 1, i])).collect::<Vec<_>>()
            }
            "lower" | "lies" | "flood" => vec![record(rtype::A, 300, &ADDRESS)],
            // What is answered by datagrams, or not at all.
            _ => continue,
        };
        let mut message = response(&query, 0, &records);
        if name.starts_with("lower") {
            message[header::LEN..header::LEN + name.len() + 2].make_ascii_lowercase();
        }
        let framed = [&u16::try_from(message.len()).expect("it fits").to_be_bytes(), &message[..]].concat();
        match name.split(['.', '-']).next() {
            Some("reset") => {
                let _ = stream.write_all(&framed[..framed.len() / 2]);
                // Closed without waiting for anything, it is reset.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
                return;
            }
            Some("half") => {
                let _ = stream.write_all(&framed[..framed.len() / 2]);
                thread::sleep(Duration::from_secs(20));
            }
            _ => _ = stream.write_all(&framed),
        }
    }
}

/// The name that `query` asks for, lower-cased.
fn name_of(query: &[u8]) -> String {
    let wire = expand_name(query, header::LEN).unwrap_or_default();
    let labels = std::iter::successors(wire.split_first(), |(len, rest)| {
        rest.get(usize::from(**len)..)?.split_first()
    });
    let text = |(len, rest): (&u8, &[u8])| String::from_utf8_lossy(&rest[..usize::from(*len)]).to_lowercase();
    labels.take_while(|(len, _)| **len > 0).map(text).collect::<Vec<_>>().join(".")
}

fn record(rtype: u16, ttl_s: u32, rdata: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rdata.len()).expect("short");
    let fixed = [[0xc0, 12], rtype.to_be_bytes(), [0, 1]].concat();
    [&fixed, &ttl_s.to_be_bytes()[..], &len.to_be_bytes(), rdata].concat()
}

fn text(bytes: &[u8]) -> Vec<u8> {
    record(rtype::TXT, 300, &[&[u8::try_from(bytes.len()).expect("short")], bytes].concat())
}

/// Two names of which each is an alias of the other; the question's is the first.
fn circle(name: &str) -> Vec<Vec<u8>> {
    let other = b"\x05other\x07example\0";
    let there = record(rtype::CNAME, 300, other);
    let back = record(rtype::CNAME, 300, &[0xc0, 12]);
    // Its owner is the other name, which begins where the data of the first record does.
    let at = header::LEN + name.len() + 2 + 4 + 12;
    let pointer = 0xc000 | u16::try_from(at).expect("a short name");
    vec![there, [&pointer.to_be_bytes(), &back[2..]].concat()]
}

/// A response to `query` with these flags and answers.
fn response(query: &[u8], flags: u8, answers: &[Vec<u8>]) -> Vec<u8> {
    let name_len = expand_name(query, header::LEN).unwrap_or_default().len();
    let question = query.get(header::LEN..header::LEN + name_len + 4).unwrap_or_default();
    let head = [query[0], query[1], header::QR | header::RD | flags, header::RA, 0, 1];
    let count = u16::try_from(answers.len()).expect("not so many").to_be_bytes();
    [&head, &count[..], &[0; 4], question, &answers.concat()].concat()
}

fn address(query: &[u8], ttl_s: u32, address: [u8; 4]) -> Vec<u8> {
    response(query, 0, &[record(rtype::A, ttl_s, &address)])
}
