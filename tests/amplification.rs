//! What a forged query is worth to whoever forges it: bytes of the answer over bytes of the query, over UDP, for
//! answers that have no records of names files in them. What names files hold is as large as they make it.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // tests tell what they measured

use std::net::IpAddr;
use std::sync::Arc;

use redbreast::answer::access::Access;
use redbreast::answer::answerer::Answerer;
use redbreast::answer::identity::Identity;
use redbreast::answer::metrics::Counters;
use redbreast::answer::service::Service;
use redbreast::answer::types::{Message, Origin, Turn, Verdict};
use redbreast::sys::published::Current;
use redbreast::table::{Publisher, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::name::Name;
use redbreast::wire::query::MIN_BUFFER_LEN;
use redbreast::wire::response::{DEFAULT_UDP_LEN, Transport};

const A: u16 = 1;
const NS: u16 = 2;
const SOA: u16 = 6;
const TXT: u16 = 16;
const ANY: u16 = 255;
const IN: u8 = 1;
const CHAOS: u8 = 3;

/// Questions whose answers have nothing of a names file.
const QUESTIONS: [(&str, u16, u8); 13] = [
    ("nobody.redbreast.internal", A, IN),
    ("a.redbreast.internal", A, IN),
    ("redbreast.internal", A, IN),
    ("redbreast.internal", NS, IN),
    ("redbreast.internal", SOA, IN),
    ("redbreast.internal", ANY, IN),
    ("example.com", A, IN),
    ("x", A, IN),
    ("internal", A, IN),
    (".", A, IN),
    ("version.bind", TXT, CHAOS),
    ("hostname.bind", TXT, CHAOS),
    ("id.server", TXT, CHAOS),
];

/// The longest name of a node with which no such answer has more than three times the bytes of its query: what is told
/// of longer ones, up to 128 bytes, is more.
const NODE_NAME_LEN: usize = 35;

/// How the question is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Edns {
    None,
    Plain,
    Nsid,
}

fn packet(name: &str, qtype: u16, class: u8, edns: Edns) -> Vec<u8> {
    let name = Name::from_text(name).unwrap();
    let mut packet =
        [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name.as_wire(), &qtype.to_be_bytes(), &[0, class]].concat();
    packet[11] = u8::from(edns != Edns::None);
    packet.extend_from_slice(match edns {
        Edns::None => b"",
        Edns::Plain => b"\0\0\x29\x04\xd0\0\0\0\0\0\0",
        Edns::Nsid => b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x03\0\0",
    });
    packet
}

fn packets() -> impl Iterator<Item = (String, Vec<u8>)> {
    QUESTIONS.into_iter().flat_map(|(name, qtype, class)| {
        [Edns::None, Edns::Plain, Edns::Nsid]
            .map(|edns| (format!("{name} {qtype} {edns:?}"), packet(name, qtype, class, edns)))
    })
}

/// A worker's part of a server, and how long what it answers is.
struct Server {
    publisher: Publisher,
    answerer: Answerer,
}

impl Server {
    fn new(node_name_len: usize, rate_limit: u32) -> Self {
        let domains = ["redbreast.internal", "lan"].map(|domain| Name::from_text(domain).unwrap());
        let publisher = Publisher::new(&domains, ZoneSettings { ttl_s: 30, negative_ttl_s: 5 });
        let service = Service {
            forwarders: None,
            access: Access::default(),
            identity: Identity::new(Some(&"n".repeat(node_name_len))),
            rate_limit,
            udp_len: DEFAULT_UDP_LEN,
            offloads: false,
        };
        let secrets = Current::new(Secrets::random()).reader();
        Self { publisher, answerer: Answerer::new(Arc::new(service), secrets, fastrand::Rng::with_seed(3)) }
    }

    /// The answer, if there is one.
    fn answer(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_535.max(MIN_BUFFER_LEN)];
        buffer[..packet.len()].copy_from_slice(packet);
        let client = IpAddr::from([10, 0, 0, 9]);
        let origin = Origin { transport: Transport::Udp, client, deferred: false };
        let (table, counters) = (self.publisher.current(), Counters::default());
        let turn = Turn { table: &table, counters: &counters, now_s: 1_800_000_000 };
        match self.answerer.answer(&turn, Message { buffer: &mut buffer, len: packet.len() }, origin) {
            Verdict::Reply { len } => Some(buffer[..len].to_vec()),
            Verdict::Drop | Verdict::Defer(_) => None,
        }
    }

    /// The answer that is most bytes for a byte of its query: the query, bytes in, bytes out.
    fn worst(&mut self) -> (String, usize, usize) {
        packets()
            .map(|(what, packet)| (what, packet.len(), self.answer(&packet).expect("an answer").len()))
            .max_by_key(|(_, asked, answered)| answered * 1000 / asked)
            .unwrap()
    }
}

#[test]
fn what_we_say_of_ourselves_and_of_what_is_not_there_is_at_most_three_times_the_query() {
    for node_name_len in [1, 16, NODE_NAME_LEN] {
        let (what, asked, answered) = Server::new(node_name_len, 0).worst();
        println!("a node name of {node_name_len} bytes: {answered} bytes for {asked}: {what}");
        assert!(answered <= 3 * asked, "{node_name_len}: {answered} bytes for {asked}: {what}");
    }
    let (what, asked, answered) = Server::new(NODE_NAME_LEN + 1, 0).worst();
    assert!(answered > 3 * asked, "NODE_NAME_LEN can be more: {answered} bytes for {asked}: {what}");
    let (what, asked, answered) = Server::new(1000, 0).worst();
    println!("the longest that is told: {answered} bytes for {asked}: {what}");
    assert!(answered <= 8 * asked, "{answered} bytes for {asked}: {what}");
}

/// The SOA record of a domain names its server and its keeper below it, and so is long beside a short name of the
/// domain.
#[test]
fn a_domain_of_one_label_amplifies_a_little_more() {
    let mut server = Server::new(16, 0);
    for (name, qtype, most) in [("lan", A, 71), ("lan", SOA, 71), ("lan", NS, 38), ("a.lan", A, 73)] {
        let packet = packet(name, qtype, IN, Edns::None);
        let len = server.answer(&packet).expect("an answer").len();
        println!("{name} {qtype}: {len} bytes for {}", packet.len());
        assert!(len <= most, "{name} {qtype}: {len} bytes for {}", packet.len());
    }
}

/// Over the limit a response is no longer than its query, whatever its options ask for.
#[test]
fn slips_of_the_rate_limit_amplify_nothing() {
    let mut server = Server::new(16, 1);
    server.answer(&packet("x", A, IN, Edns::None)).expect("the first is answered");
    for (what, packet) in packets() {
        let slips: Vec<_> = (0..4).filter_map(|_| server.answer(&packet)).collect();
        assert_eq!(slips.len(), 2, "{what}: every second one");
        for slip in slips {
            assert!(slip[2] & 2 != 0 && slip[6..11] == [0; 5], "{what}: TC and no records: {slip:?}");
            assert!(slip.len() <= packet.len(), "{what}: {} for {}", slip.len(), packet.len());
        }
    }
}
