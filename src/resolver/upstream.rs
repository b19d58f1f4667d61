//! A server that is asked for names that are not ours: where it is, how it is asked, and how a person writes that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustls::pki_types::ServerName;

use crate::sys::tls_trust::{KeyPin, ServerIdentity};

/// Keys of an upstream at most: the one that it has, and those that it may have next.
const MAX_PINS: usize = 8;

/// The port of DNS over UDP and TCP.
pub const DNS_PORT: u16 = 53;
/// The port of DNS over TLS (RFC 7858 §3.1), and of DNS over QUIC (RFC 9250 §4.1.1).
pub const TLS_PORT: u16 = 853;
/// The port of DNS over HTTPS.
pub const HTTPS_PORT: u16 = 443;
/// The path of DNS over HTTPS where none is said: the usual one (RFC 8484 §4.1.1).
const HTTPS_PATH: &str = "/dns-query";
/// Bytes of a path of DNS over HTTPS at most: every query carries it.
const MAX_PATH_LEN: usize = 256;

/// How an upstream is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Over UDP, and over TCP where an answer is truncated.
    Dns,
    /// Over TCP (RFC 7766).
    Tcp,
    /// Over TLS (RFC 7858).
    Tls {
        /// Who it has to be: of its name, or its address where no name is said.
        identity: ServerIdentity,
    },
    /// Over HTTP/2 in TLS (RFC 8484).
    Https {
        /// Who it has to be. The name, or the address, is the authority of the requests, too.
        identity: ServerIdentity,
        /// Where on it: `/` and visible ASCII, at most `MAX_PATH_LEN` bytes.
        path: Box<str>,
    },
    /// Over QUIC (RFC 9250).
    Quic {
        /// Who it has to be.
        identity: ServerIdentity,
    },
}

impl Protocol {
    /// Who the server has to be, where it is asked over TLS.
    #[must_use]
    pub fn identity(&self) -> Option<&ServerIdentity> {
        match self {
            Self::Dns | Self::Tcp => None,
            Self::Tls { identity } | Self::Https { identity, .. } | Self::Quic { identity } => Some(identity),
        }
    }

    /// What an upstream with it begins with, and the port where none is said.
    fn scheme(&self) -> (&'static str, u16) {
        match self {
            Self::Dns => ("", DNS_PORT),
            Self::Tcp => ("tcp://", DNS_PORT),
            Self::Tls { .. } => ("tls://", TLS_PORT),
            Self::Https { .. } => ("https://", HTTPS_PORT),
            Self::Quic { .. } => ("quic://", TLS_PORT),
        }
    }
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
        let (scheme, default_port) = self.protocol.scheme();
        f.write_str(scheme)?;
        match self.address {
            address if address.port() != default_port => address.fmt(f)?,
            SocketAddr::V6(v6) if v6.scope_id() != 0 => write!(f, "{}%{}", v6.ip(), v6.scope_id())?,
            address => address.ip().fmt(f)?,
        }
        if let Protocol::Https { path, .. } = &self.protocol
            && **path != *HTTPS_PATH
        {
            f.write_str(path)?;
        }
        let Some(ServerIdentity { name, pins, certified }) = self.protocol.identity() else {
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

    /// Reads `ADDR[:PORT]`, `tcp://ADDR[:PORT]`, `tls://ADDR[:PORT][#NAME][#PIN]...`, the same with `quic://`, or
    /// `https://ADDR[:PORT][/PATH][#NAME][#PIN]...`; an IPv6 address with a port is in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Ok(Self::dns(address(text, DNS_PORT)?));
        };
        if scheme == "tcp" {
            return Ok(Self { address: address(rest, DNS_PORT)?, protocol: Protocol::Tcp });
        }
        let mut parts = rest.split('#');
        let place = parts.next().unwrap_or_default();
        let mut secure = |place, default_port| {
            let address = address(place, default_port)?;
            Ok::<_, String>((address, identity(address.ip(), &mut parts)?))
        };
        let (address, protocol) = match scheme {
            "tls" => secure(place, TLS_PORT).map(|(address, identity)| (address, Protocol::Tls { identity })),
            "quic" => {
                secure(place, TLS_PORT).map(|(address, identity)| (address, Protocol::Quic { identity }))
            }
            "https" => {
                let (place, path) = place.split_at(place.find('/').unwrap_or(place.len()));
                let (address, identity) = secure(place, HTTPS_PORT)?;
                path_of(path).map(|path| (address, Protocol::Https { identity, path }))
            }
            _ => Err(format!("`{scheme}://` is not known; expected {EXPECTED}")),
        }?;
        Ok(Self { address, protocol })
    }
}

/// The path of an upstream over HTTPS by what follows its address.
fn path_of(text: &str) -> Result<Box<str>, String> {
    let is_path = |text: &str| text.parse::<http::uri::PathAndQuery>().is_ok();
    match text {
        "" => Ok(HTTPS_PATH.into()),
        _ if text.len() > MAX_PATH_LEN => {
            Err(format!("a path of {} bytes is too long; it has {MAX_PATH_LEN} at most", text.len()))
        }
        _ if text.contains(['{', '}']) => Err(format!(
            "`{text}` is a template; questions are sent with POST, so that the path is said alone, as {HTTPS_PATH}"
        )),
        _ if text.contains(',') => {
            Err(format!("in `{text}` there is a comma, which is between upstreams; write %2C"))
        }
        _ if text.bytes().all(|byte| byte.is_ascii_graphic()) && is_path(text) => Ok(text.into()),
        _ => Err(format!("`{}` is no path; expected visible ASCII, as {HTTPS_PATH}", text.escape_debug())),
    }
}

/// Who the server at `ip` has to be, by what follows its address: a name, and pins of keys.
fn identity<'a>(ip: IpAddr, parts: &mut impl Iterator<Item = &'a str>) -> Result<ServerIdentity, String> {
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
pub(super) const EXPECTED: &str = "an address, as 10.0.0.2, 10.0.0.2:5353, 2001:db8::1 or [2001:db8::1]:5353, over \
                        TCP alone tcp://10.0.0.2, or one of DNS over TLS, HTTPS or QUIC, as \
                        tls://10.0.0.2#dns.example, https://10.0.0.2/dns-query#dns.example or \
                        quic://10.0.0.2#dns.example";

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

/// Whether `ip` is not reached from everywhere: private, shared, loopback, link-local, or none at all.
#[must_use]
pub fn is_near(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let is_shared = u32::from(v4) >> 22 == u32::from(Ipv4Addr::new(100, 64, 0, 0)) >> 22;
            v4.is_private() || v4.is_unspecified() || v4.is_loopback() || v4.is_link_local() || is_shared
        }
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()
        }
    }
}

/// Whether what is at `upstream` is this server itself, which listens at `listen`. It never asks itself, or a question
/// would go round until somebody gives up. `is_local` says whether an address is one of this machine.
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
            "https://10.0.0.2",
            "https://10.0.0.2#dns.example",
            "https://[2001:db8::1]:8443/#dns.example",
            "https://2001:db8::1/a/path?for=us#10.0.0.2#sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "https://fe80::1%3/x%2Cy",
            "quic://10.0.0.2",
            "quic://[::1]:8853#dns.example#sha256//AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
            "tcp://10.0.0.2",
            "tcp://[2001:db8::1]:5353",
        ] {
            assert_eq!(upstream(text).to_string(), text);
        }
        for (text, short) in [
            ("10.0.0.2:53", "10.0.0.2"),
            ("[2001:db8::1]:53", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("::ffff:10.0.0.2", "10.0.0.2"),
            ("tls://1.2.3.4:853#1.2.3.4", "tls://1.2.3.4"),
            ("https://1.2.3.4:443/dns-query#1.2.3.4", "https://1.2.3.4"),
            ("quic://1.2.3.4:853", "quic://1.2.3.4"),
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
            ("http://10.0.0.2/dns-query", "`http://` is not known"),
            ("https://dns.example/dns-query", "`dns.example` is no address, and there is nobody yet"),
            ("https:///dns-query", "`` is no address"),
            ("https://10.0.0.2/dns-query{?dns}", "is a template; questions are sent with POST"),
            ("https://10.0.0.2/a path", "`/a path` is no path; expected visible ASCII"),
            ("https://10.0.0.2/\u{e9}", "is no path"),
            ("https://10.0.0.2/a,b", "write %2C"),
            ("https://10.0.0.2/<>", "`/<>` is no path"),
            ("https://10.0.0.2/a#", "has to follow `#`"),
            ("https://10.0.0.2#dns.example/a", "is no name that a certificate could have"),
            (
                &format!("https://10.0.0.2/{}", "a".repeat(256)),
                "a path of 257 bytes is too long; it has 256 at most",
            ),
            ("quic://dns.example", "is no address"),
            ("quic://10.0.0.2/dns-query", "is no address"),
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
}
