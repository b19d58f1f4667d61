//! A server that is asked for names that are not ours: where it is, how it is asked, and how a person writes that.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use rustls::pki_types::ServerName;

use crate::sys::tls_trust::{KeyPin, ServerIdentity};

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
    /// Over TCP (RFC 7766).
    Tcp,
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
            Protocol::Tcp => {
                f.write_str("tcp://")?;
                DNS_PORT
            }
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

    /// Reads `ADDR[:PORT]`, `tcp://ADDR[:PORT]` or `tls://ADDR[:PORT][#NAME][#PIN]...`; an IPv6 address with a port is
    /// in brackets.
    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("tcp://") {
            return Ok(Self { address: address(rest, DNS_PORT)?, protocol: Protocol::Tcp });
        }
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
pub(super) const EXPECTED: &str = "an address, as 10.0.0.2, 10.0.0.2:5353, 2001:db8::1 or [2001:db8::1]:5353, over \
                        TCP alone tcp://10.0.0.2, or one of DNS over TLS, as tls://10.0.0.2#dns.example";

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
