//! A server of one test's own, with the same names for all of them, and the asking of it over both transports.

use std::fmt::Write;
use std::fs;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use crate::message::{Answer, Query};
use crate::server::{PATIENCE, Server};
use crate::transport;

/// TTL of all records, and of what does not exist.
pub(crate) const TTL_S: u32 = 7;

/// How many addresses `many` has, and `huge`: too many for a UDP answer, and for one of 64 KiB over UDP.
pub(crate) const MANY: u32 = 100;
pub(crate) const HUGE: u32 = 4_000;

const HOSTS: &str = "
10.0.0.1  web
10.0.0.2  web
fd00::1   web
10.0.0.3  Mixed-Case
10.0.0.4  deep.er.redbreast.internal
10.0.0.5  mail_1
fd00::6   six
";

/// What a hosts file cannot say. `chain16` is sixteen aliases away from an address, `chain17` one more.
const ZONE: &str = r#"
$TTL 7
text        TXT     "hello" "two words"
text        5 TXT   "a lower TTL for all"
mx          MX      10 mail_1
_http._tcp.web      SRV 0 5 8080 web
_http._tcp.web      SRV 1 5 8081 six
_http._tcp.web      SRV 2 5 8082 web
_sip._udp.web       SRV 0 0 5060 sip.example.com.
alias       CNAME   Web
again       CNAME   alias
other       CNAME   host.example.org.
outside     CNAME   www.example.com.
dangling    CNAME   nobody
only-six    CNAME   six
to-apex     CNAME   @
to-many     CNAME   many
loop        CNAME   pool
pool        CNAME   loop
self        CNAME   self
odd         TYPE65280 \# 4 c0ffee00
large       TXT     "a short one"
large       TXT     (
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
    "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789" )
host.example.org.   A       10.0.0.8
"#;

/// The names of the aliases that lead to `chain0`, which has an address.
fn chain() -> String {
    (1..=17).fold("$TTL 7\nchain0 A 10.0.0.7\n".to_owned(), |mut text, i| {
        writeln!(text, "chain{i} CNAME chain{}", i - 1).unwrap();
        text
    })
}

pub(crate) struct World {
    _dir: tempfile::TempDir,
    pub(crate) server: Server,
    /// Where it answers over IPv6, if the machine has that on loopback.
    v6: Option<SocketAddr>,
}

/// `count` lines that give addresses of 10.`block`.0.0/16 to `name`.
pub(crate) fn addresses(name: &str, block: u8, count: u32) -> String {
    (0..count).fold(String::new(), |mut text, i| {
        let [_, _, high, low] = i.to_be_bytes();
        writeln!(text, "10.{block}.{high}.{low} {name}").unwrap();
        text
    })
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with(&[])
    }

    /// A server with more arguments.
    pub(crate) fn with(args: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hosts");
        let hosts = [HOSTS, &addresses("many", 1, MANY), &addresses("huge", 2, HUGE)].concat();
        fs::write(&file, hosts).unwrap();
        let zone = dir.path().join("zone");
        fs::write(&zone, [&chain(), ZONE].concat()).unwrap();
        let ttl = TTL_S.to_string();
        let domains = ["--domain", "redbreast.internal", "--domain", "Example.org"];
        let own = ["--workers", "1", "--ttl", &ttl, "--zone", zone.to_str().unwrap()];
        let has_v6 = UdpSocket::bind("[::1]:0").is_ok();
        let v6 = if has_v6 { &["--listen", "[::1]:0"][..] } else { &[] };
        let server = Server::with_names(&file, &[&own[..], &domains, v6, args].concat());
        let log = server.log();
        let listening = log.split("listening on ").nth(2).and_then(|rest| rest.split_whitespace().next());
        let v6 = has_v6.then(|| listening.expect("it says so").parse().expect("an address"));
        Self { _dir: dir, server, v6 }
    }

    /// Sends these bytes over UDP and over TCP, and over IPv6 too, where the same has to come back.
    pub(crate) fn send(&self, bytes: &[u8]) -> [Answer; 2] {
        let answers = Self::send_to(self.server.address, bytes);
        if let Some(v6) = self.v6 {
            for (v4, v6) in answers.iter().zip(&Self::send_to(v6, bytes)) {
                assert_eq!(v4.essence(), v6.essence(), "{v4:?} over IPv4, {v6:?} over IPv6");
            }
        }
        answers
    }

    /// The same over IPv4 alone, for what depends on the client's address.
    pub(crate) fn send_v4(&self, bytes: &[u8]) -> [Answer; 2] {
        Self::send_to(self.server.address, bytes)
    }

    fn send_to(address: SocketAddr, bytes: &[u8]) -> [Answer; 2] {
        let udp = transport::udp(address, bytes, PATIENCE).expect("an answer over UDP");
        let tcp = transport::tcp(address, bytes, PATIENCE).expect("an answer over TCP");
        [Answer::read("UDP", &udp), Answer::read("TCP", &tcp)]
    }

    /// Asks over UDP and over TCP; what every answer has to the question is checked here.
    pub(crate) fn ask(&self, query: &Query) -> [Answer; 2] {
        let answers = self.send(&query.to_bytes());
        for answer in &answers {
            assert_eq!(answer.id, query.id, "{answer:?}");
            assert_eq!(answer.question, query.question(), "{answer:?}");
            assert_eq!(answer.edns.is_some(), query.edns.is_some(), "{answer:?}");
            assert!(answer.over == "TCP" || answer.len <= 1232, "{answer:?}");
        }
        answers
    }

    /// A TCP connection to the server.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.server.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }
}
