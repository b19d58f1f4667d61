//! What the resolver is told: whom to ask for what, how long to wait, how much to keep.
//!
//! Read by the main thread before anything starts, and by the thread `files` when that is said anew.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::tls_trust::{KeyPin, ServerIdentity};
use crate::wire::name::{Name, suffix_at};

/// Upstreams at most, of one domain as for all the rest: each is measured by each worker, and when all are down each is tried.
pub const MAX_UPSTREAMS: usize = crate::limits::MAX_UPSTREAMS;

/// Domains with upstreams of their own at most: a question that is not in the cache is compared with each.
pub const MAX_FORWARDS: usize = crate::limits::MAX_FORWARDS;

/// Bytes of the cache, of all workers together, unless told otherwise; and the least and the most that can be told. Less would
/// hold a few hundred answers a worker; more is more than there are names that anybody asks for.
pub const DEFAULT_CACHE_BYTES: usize = crate::limits::DEFAULT_CACHE_BYTES;
/// See [`DEFAULT_CACHE_BYTES`].
pub const MIN_CACHE_BYTES: usize = crate::limits::MIN_CACHE_BYTES;
/// See [`DEFAULT_CACHE_BYTES`].
pub const MAX_CACHE_BYTES: usize = crate::limits::MAX_CACHE_BYTES;

/// For how many seconds an answer is kept at most, whatever its TTL, unless told otherwise: a day. What can be told is up to
/// the seven days that RFC 8767 §4 has for it.
pub const DEFAULT_MAX_TTL_S: u32 = crate::limits::DEFAULT_MAX_TTL_S;
/// See [`DEFAULT_MAX_TTL_S`].
pub const MAX_MAX_TTL_S: u32 = crate::limits::MAX_KEPT_S;

/// The same of answers that there is nothing: RFC 2308 §5 has one to three hours for it.
pub const DEFAULT_MAX_NEGATIVE_TTL_S: u32 = crate::limits::DEFAULT_MAX_NEGATIVE_TTL_S;

/// For how many seconds after its end an answer is still given where no upstream answers (RFC 8767 §5 has one to three days
/// for it), and the most that can be told.
pub const DEFAULT_MAX_STALE_S: u32 = crate::limits::DEFAULT_MAX_STALE_S;
/// See [`DEFAULT_MAX_STALE_S`].
pub const MAX_MAX_STALE_S: u32 = crate::limits::MAX_KEPT_S;

/// How long a question may take as a whole, in milliseconds, unless told otherwise: what stub resolvers wait for an answer. And
/// the least and the most that can be told.
pub const DEFAULT_TIMEOUT_MS: u64 = crate::limits::DEFAULT_TIMEOUT_MS;
/// See [`DEFAULT_TIMEOUT_MS`].
pub const MIN_TIMEOUT_MS: u64 = crate::limits::MIN_TIMEOUT_MS;
/// See [`DEFAULT_TIMEOUT_MS`].
pub const MAX_TIMEOUT_MS: u64 = crate::limits::MAX_TIMEOUT_MS;

/// Keys of an upstream at most: the one that it has, and those that it may have next.
pub const MAX_PINS: usize = 8;

/// The port of DNS over UDP and TCP.
pub const DNS_PORT: u16 = 53;
/// The port of DNS over TLS (RFC 7858 §3.1).
pub const TLS_PORT: u16 = 853;

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Over UDP, and over TCP where an answer is truncated.
    Dns,
    /// Over TLS (RFC 7858).
    Tls {
        /// Who it has to be: of its name, or its address where no name is said.
        identity: ServerIdentity,
    },
}

/// A server that is asked for names that are not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// Where it is. Never a port 0, nor an address that is no single host's.
    pub address: SocketAddr,
    /// How it is asked.
    pub protocol: Protocol,
}

impl Upstream {
    /// One that is asked over UDP and TCP.
    #[must_use]
    pub fn dns(address: SocketAddr) -> Self {
        Self { address, protocol: Protocol::Dns }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let default_port = match self.protocol {
            Protocol::Dns => DNS_PORT,
            Protocol::Tls { .. } => {
                f.write_str("tls://")?;
                TLS_PORT
            }
        };
        match self.address {
            address if address.port() != default_port => address.fmt(f)?,
            SocketAddr::V6(v6) if v6.scope_id() != 0 => write!(f, "{}%{}", v6.ip(), v6.scope_id())?,
            address => address.ip().fmt(f)?,
        }
        let Protocol::Tls { identity: ServerIdentity { name, pins, certified } } = &self.protocol else {
            return Ok(());
        };
        match name {
            ServerName::DnsName(name) => write!(f, "#{}", name.as_ref())?,
            // Beside pins it says that the certificate counts, too.
            name if *certified && !pins.is_empty() => write!(f, "#{}", name.to_str())?,
            _ => {}
        }
        pins.iter().try_for_each(|pin| write!(f, "#{pin}"))
    }
}

impl FromStr for Upstream {
    type Err = String;

    /// Reads `ADDR[:PORT]` or `tls://ADDR[:PORT][#NAME][#PIN]...`; an IPv6 address with a port is in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some(rest) = text.strip_prefix("tls://") else {
            return match text.split_once("://") {
                Some((scheme, _)) => Err(format!("`{scheme}://` is not known; expected {EXPECTED}")),
                None => Ok(Self::dns(address(text, DNS_PORT)?)),
            };
        };
        let mut parts = rest.split('#');
        let address = address(parts.next().unwrap_or_default(), TLS_PORT)?;
        let identity = identity(address.ip(), parts)?;
        Ok(Self { address, protocol: Protocol::Tls { identity } })
    }
}

/// Who the server at `ip` has to be, by what follows its address: a name, and pins of keys.
fn identity<'a>(ip: IpAddr, parts: impl Iterator<Item = &'a str>) -> Result<ServerIdentity, String> {
    let (mut name, mut pins) = (None, Vec::new());
    for part in parts {
        if part.is_empty() {
            return Err(
                "the name in the server's certificate, or the hash of its key, has to follow `#`".into()
            );
        } else if KeyPin::is_meant(part) {
            pins.push(part.parse()?);
        } else if name.is_none() {
            let valid = ServerName::try_from(part.to_owned());
            name = Some(valid.map_err(|_| format!("`{part}` is no name that a certificate could have"))?);
        } else {
            return Err(format!("`{part}` is a second name; a server is asked for one"));
        }
    }
    if pins.len() > MAX_PINS {
        return Err(format!("there are {} hashes of keys; {MAX_PINS} can be given at most", pins.len()));
    }
    let certified = name.is_some() || pins.is_empty();
    Ok(ServerIdentity { name: name.unwrap_or_else(|| ServerName::from(ip)), pins, certified })
}

/// What an upstream is given as.
const EXPECTED: &str = "an address, as 10.0.0.2, 10.0.0.2:5353, 2001:db8::1 or [2001:db8::1]:5353, or one of DNS over TLS, as \
                        tls://10.0.0.2#dns.example";

/// Reads an address with or without a port.
fn address(text: &str, default_port: u16) -> Result<SocketAddr, String> {
    let with_port = || {
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        // Only so does the standard library read the interface of a link-local address.
        format!("[{inner}]:{default_port}").parse::<SocketAddr>().ok()
    };
    let address = text
        .parse()
        .ok()
        .or_else(|| text.parse::<Ipv4Addr>().ok().map(|ip| (ip, default_port).into()))
        .or_else(with_port);
    let Some(mut address) = address else {
        return Err(format!(
            "`{text}` is no address, and there is nobody yet who could be asked for a name's; expected {EXPECTED}"
        ));
    };
    address.set_ip(address.ip().to_canonical());
    check_address(address)?;
    Ok(address)
}

/// Whether a server can be asked at `address`.
///
/// # Errors
/// Why not.
pub fn check_address(address: SocketAddr) -> Result<(), String> {
    let no_host = match address.ip() {
        IpAddr::V4(v4) => v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_multicast(),
    };
    match address {
        _ if address.port() == 0 => Err("nobody can be asked at port 0".into()),
        _ if address.ip().is_unspecified() => Err(format!("{} is no host's address", address.ip())),
        _ if no_host => Err(format!("{} is not the address of one host", address.ip())),
        SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => Err(format!(
            "{ip} is there on every link: say by which interface it is reached, by its number in `ip link`, as {ip}%2",
            ip = v6.ip()
        )),
        _ => Ok(()),
    }
}

/// Whether what is at `upstream` is this server itself, which listens at `listen`. It never asks itself, or a question would go
/// round until somebody gives up. `is_local` says whether an address is one of this machine.
#[must_use]
pub fn is_own(upstream: SocketAddr, listen: &[SocketAddr], is_local: impl Fn(IpAddr) -> bool) -> bool {
    let ip = match upstream.ip() {
        // What is sent there goes to loopback.
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    listen.iter().filter(|listen| listen.port() == upstream.port()).any(|listen| {
        // Listening at `::` is not listening at IPv4 addresses, too.
        let everywhere = listen.ip().is_unspecified() && listen.is_ipv4() == ip.is_ipv4();
        listen.ip() == ip || everywhere && (ip.is_loopback() || is_local(ip))
    })
}

/// A domain with upstreams of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// It, and all below it; in lower case. Never the root, whose upstreams are those of [`Settings`].
    pub domain: Name,
    /// Who is asked. Where there is nobody, there is no answer.
    pub upstreams: Vec<Upstream>,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.domain)?;
        for (i, upstream) in self.upstreams.iter().enumerate() {
            write!(f, "{}{upstream}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Forward {
    type Err = String;

    /// Reads `DOMAIN=UPSTREAM[,UPSTREAM]...`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, upstreams) = text
            .split_once('=')
            .ok_or("expected a domain and who is asked for it, as corp.example=10.0.0.2,10.0.0.3")?;
        let domain = Name::from_text(domain).map_err(|error| format!("`{domain}`: {error}"))?.to_lower_case();
        if domain == Name::root() {
            return Err("the root has all names: give those who are asked for them with --upstream".into());
        }
        if upstreams.is_empty() {
            return Err(format!("who is asked for {domain} has to follow `=`; expected {EXPECTED}"));
        }
        let upstreams: Vec<_> = upstreams.split(',').map(Upstream::from_str).collect::<Result<_, _>>()?;
        check_upstreams(&upstreams)?;
        Ok(Self { domain, upstreams })
    }
}

/// Whether these can be asked beside each other.
///
/// # Errors
/// Why not.
pub fn check_upstreams(upstreams: &[Upstream]) -> Result<(), String> {
    if upstreams.len() > MAX_UPSTREAMS {
        return Err(format!(
            "{} upstreams were given; {MAX_UPSTREAMS} can be asked at most",
            upstreams.len()
        ));
    }
    match (1..upstreams.len()).find(|&i| upstreams[..i].iter().any(|it| it.address == upstreams[i].address)) {
        Some(twice) => Err(format!("the upstream {} was given twice", upstreams[twice])),
        None => Ok(()),
    }
}

/// All that the resolver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who is asked.
    pub upstreams: Vec<Upstream>,
    /// The file that names others, in the format of resolv.conf(5).
    pub resolv_conf: Option<PathBuf>,
    /// Domains with upstreams of their own.
    pub forwards: Vec<Forward>,
    /// Bytes of the cache, of all workers together.
    pub cache_bytes: usize,
    /// For how many seconds an answer is kept at most, whatever its TTL.
    pub max_ttl_s: u32,
    /// The same of answers that there is nothing.
    pub max_negative_ttl_s: u32,
    /// For how many seconds after its end an answer is still given where no upstream answers; 0 for never.
    pub max_stale_s: u32,
    /// How long a question may take as a whole.
    pub timeout: Duration,
    /// Letters of a question's name are in upper or lower case by chance, and its answer has to have them so (0x20): harder to
    /// guess, for those who would answer in the upstream's place.
    pub mix_case: bool,
    /// The file with the certificates of those who vouch for upstreams over TLS; those of the system without it.
    pub tls_ca: Option<PathBuf>,
}

impl Default for Settings {
    /// Nobody is asked.
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            resolv_conf: None,
            forwards: Vec::new(),
            cache_bytes: DEFAULT_CACHE_BYTES,
            max_ttl_s: DEFAULT_MAX_TTL_S,
            max_negative_ttl_s: DEFAULT_MAX_NEGATIVE_TTL_S,
            max_stale_s: DEFAULT_MAX_STALE_S,
            timeout: Duration::from_millis(DEFAULT_TIMEOUT_MS),
            mix_case: false,
            tls_ca: None,
        }
    }
}

impl Settings {
    /// Takes over what can be changed in a running server: whom it asks.
    pub fn take_changeable(&mut self, new: Self) {
        self.upstreams = new.upstreams;
        self.resolv_conf = new.resolv_conf;
        self.forwards = new.forwards;
        self.tls_ca = new.tls_ca;
    }

    /// What is different in `new` and cannot be changed in a running server, by its flags.
    #[must_use]
    pub fn fixed_differences(&self, new: &Self) -> Vec<&'static str> {
        let differences = [
            ("cache-size", self.cache_bytes != new.cache_bytes),
            ("cache-max-ttl", self.max_ttl_s != new.max_ttl_s),
            ("max-stale", self.max_stale_s != new.max_stale_s),
            ("upstream-timeout", self.timeout != new.timeout),
            ("mix-case", self.mix_case != new.mix_case),
        ];
        differences.into_iter().filter(|(_, differs)| *differs).map(|(flag, _)| flag).collect()
    }

    /// The files that are read again when they change.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.resolv_conf.iter().chain(&self.tls_ca)
    }
}

/// Whom to ask for what, as [`Settings`] and the file that they name say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// Who is asked for all that is in none of the domains below. Where there is nobody, there is no answer.
    general: Vec<Upstream>,
    /// Domains with upstreams of their own, the longest first.
    forwards: Vec<Forward>,
    /// They are to be asked in turn, rather than the fastest.
    pub rotate: bool,
    /// How long a question may take as a whole.
    pub timeout: Duration,
}

impl Upstreams {
    /// These, with the fastest to be asked.
    #[must_use]
    pub fn new(general: Vec<Upstream>, mut forwards: Vec<Forward>, timeout: Duration) -> Self {
        forwards.sort_by_key(|forward| std::cmp::Reverse(forward.domain.as_wire().len()));
        Self { general, forwards, rotate: false, timeout }
    }

    /// Has more of them asked for all that is in no domain of its own, as far as there is room. Returns how many there was none for;
    /// those that are asked already do not count.
    pub fn add(&mut self, mut more: Vec<Upstream>) -> usize {
        more.retain(|upstream| self.general.iter().all(|known| known.address != upstream.address));
        let room = MAX_UPSTREAMS.saturating_sub(self.general.len());
        let left_out = more.len().saturating_sub(room);
        self.general.extend(more.into_iter().take(room));
        left_out
    }

    /// Who is asked for all that is in no domain with upstreams of its own.
    #[must_use]
    pub fn general(&self) -> &[Upstream] {
        &self.general
    }

    /// The domains with upstreams of their own.
    #[must_use]
    pub fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// Which of [`forwards`](Self::forwards) `name` is in, a wire name in lower case: the longest, if it is in several.
    #[must_use]
    pub fn forward_of(&self, name: &[u8]) -> Option<usize> {
        let is_in = |forward: &Forward| suffix_at(name, forward.domain.as_wire(), |a, b| a == b).is_some();
        self.forwards.iter().position(is_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(text: &str) -> Upstream {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn upstreams_come_back_as_they_were_given() {
        for text in [
            "10.0.0.2",
            "10.0.0.2:5353",
            "2001:db8::1",
            "[2001:db8::1]:5353",
            "fe80::1%3",
            "[fe80::1%3]:5353",
            "tls://1.2.3.4",
            "tls://1.2.3.4#dns.example",
            "tls://[::1]:8853#dns.example",
            "tls://1.2.3.4#sha256//d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=",
            "tls://1.2.3.4#1.2.3.4#sha256//d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=",
            "tls://1.2.3.4#dns.example#sha256//d6qzRu9zOECb90Uez27xWltNsj0e1Md7GkYYkVoZWmM=\
             #sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "tls://2001:db8::1#dns.example",
        ] {
            assert_eq!(upstream(text).to_string(), text);
        }
        for (text, short) in [
            ("10.0.0.2:53", "10.0.0.2"),
            ("[2001:db8::1]:53", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:10.0.0.2", "10.0.0.2"),
            ("tls://1.2.3.4:853#1.2.3.4", "tls://1.2.3.4"),
        ] {
            assert_eq!(upstream(text).to_string(), short, "{text}");
        }
        assert_eq!(upstream("tls://[::1]").address, "[::1]:853".parse().unwrap());
        let name = ServerName::try_from("dns.example").unwrap();
        let identity = ServerIdentity { name, pins: Vec::new(), certified: true };
        assert_eq!(upstream("tls://[::1]#dns.example").protocol, Protocol::Tls { identity });
        let pinned = upstream("tls://[::1]#sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=").protocol;
        assert!(
            matches!(pinned, Protocol::Tls { identity } if !identity.certified && identity.pins.len() == 1)
        );
    }

    #[test]
    fn what_is_no_upstream_is_told_with_what_is_expected() {
        for (text, told) in [
            ("", "is no address"),
            ("dns.example", "`dns.example` is no address, and there is nobody yet who could be asked"),
            ("10.0.0.2:0", "port 0"),
            ("10.0.0.2:65536", "is no address"),
            ("10.0.0", "is no address"),
            ("10.0.0.2#dns.example", "expected an address, as 10.0.0.2, "),
            ("0.0.0.0", "0.0.0.0 is no host's address"),
            ("[::]:53", ":: is no host's address"),
            ("224.0.0.251", "not the address of one host"),
            ("255.255.255.255", "not the address of one host"),
            ("ff02::fb", "not the address of one host"),
            ("fe80::1", "as fe80::1%2"),
            ("https://10.0.0.2/dns-query", "`https://` is not known"),
            ("tls://dns.example", "is no address"),
            ("tls://1.2.3.4#", "has to follow `#`"),
            ("tls://1.2.3.4#not a name", "is no name that a certificate could have"),
            ("tls://", "is no address"),
            ("tls://1.2.3.4#a.example#b.example", "is a second name"),
            ("tls://1.2.3.4#a.example#", "has to follow `#`"),
            ("tls://1.2.3.4#sha256//AAAA", "is no hash of a key"),
            ("tls://1.2.3.4#md5//AAAA", "expected `sha256//`"),
        ] {
            let error = text.parse::<Upstream>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
    }

    #[test]
    fn a_domain_has_upstreams_of_its_own() {
        let forward: Forward = "Corp.Example=10.0.0.2,tls://[::1]#dns.example".parse().unwrap();
        assert_eq!(forward.to_string(), "corp.example.=10.0.0.2,tls://::1#dns.example");
        assert_eq!(forward.upstreams.len(), 2);
        for (text, told) in [
            ("corp.example", "as corp.example=10.0.0.2"),
            ("corp.example=", "has to follow `=`"),
            ("=10.0.0.2", "a name cannot be empty"),
            (".=10.0.0.2", "--upstream"),
            ("corp..example=10.0.0.2", "`corp..example`: a label"),
            ("corp.example=10.0.0.2,", "is no address"),
            ("corp.example=10.0.0.2,10.0.0.2:53", "the upstream 10.0.0.2 was given twice"),
        ] {
            let error = text.parse::<Forward>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        let many = (0..=MAX_UPSTREAMS).map(|i| format!("10.0.0.{}", i + 1)).collect::<Vec<_>>().join(",");
        assert!(format!("a={many}").parse::<Forward>().unwrap_err().contains("33 upstreams were given; 32"));
    }

    #[test]
    fn the_longest_domain_wins() {
        let forwards = ["example=10.0.0.1", "b.a.example=10.0.0.2", "a.example=10.0.0.3"];
        let forwards = forwards.map(|text| text.parse().unwrap()).to_vec();
        let upstreams = Upstreams::new(Vec::new(), forwards, Duration::ZERO);
        let of = |name: &str| {
            let at = upstreams.forward_of(Name::from_text(name).unwrap().as_wire())?;
            Some(upstreams.forwards()[at].upstreams[0].to_string())
        };
        assert_eq!(of("c.b.a.example").as_deref(), Some("10.0.0.2"));
        assert_eq!(of("a.example").as_deref(), Some("10.0.0.3"));
        assert_eq!(of("ba.example").as_deref(), Some("10.0.0.1"));
        assert_eq!(of("other"), None);
        assert_eq!(of("."), None);
    }

    #[test]
    fn an_upstream_that_is_this_server_itself_is_known() {
        let own = |upstream: &str, listen: &[&str]| {
            let listen: Vec<_> = listen.iter().map(|text| text.parse().unwrap()).collect();
            let here: IpAddr = "10.0.0.1".parse().unwrap();
            is_own(upstream.parse().unwrap(), &listen, |ip| ip == here)
        };
        assert!(own("127.0.0.1:53", &["10.0.0.1:53", "127.0.0.1:53"]));
        assert!(own("[::1]:53", &["[::1]:53"]));
        assert!(own("0.0.0.0:53", &["127.0.0.1:53"]));
        assert!(own("10.0.0.1:53", &["0.0.0.0:53"]));
        assert!(own("127.0.0.53:53", &["0.0.0.0:53"]));
        assert!(own("[::1]:53", &["[::]:53"]));
        assert!(own("[::]:53", &["[::]:53"]));
        assert!(!own("127.0.0.53:53", &["127.0.0.1:53"]), "another address of loopback is another server");
        assert!(!own("127.0.0.1:5353", &["127.0.0.1:53"]));
        assert!(!own("10.0.0.2:53", &["0.0.0.0:53"]), "the address of another machine");
        assert!(!own("10.0.0.1:53", &["[::]:53"]), "IPv6 alone");
        assert!(!own("10.0.0.1:53", &[]));
    }

    #[test]
    fn whom_it_asks_can_be_changed_and_what_it_keeps_cannot() {
        let mut settings = Settings { upstreams: vec![upstream("10.0.0.2")], ..Settings::default() };
        let new = Settings {
            forwards: vec!["example=10.0.0.3".parse().unwrap()],
            resolv_conf: Some("/etc/resolv.conf".into()),
            cache_bytes: MIN_CACHE_BYTES,
            mix_case: true,
            ..Settings::default()
        };
        assert_eq!(settings.fixed_differences(&new), ["cache-size", "mix-case"]);
        settings.take_changeable(new.clone());
        assert_eq!(
            (settings.upstreams.len(), &settings.forwards, &settings.resolv_conf, settings.cache_bytes),
            (0, &new.forwards, &new.resolv_conf, DEFAULT_CACHE_BYTES)
        );
        assert_eq!(settings.files().count(), 1);
    }
}
