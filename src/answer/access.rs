//! Who may ask: address prefixes.
//!
//! Made by the main thread, read by the workers for every packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// An address prefix, such as `10.0.0.0/8`. An address alone is a prefix of all its bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prefix {
    /// Of IPv4: the network and the mask.
    V4(u32, u32),
    /// Of IPv6: the network and the mask.
    V6(u128, u128),
}

/// The clients that may ask. Others are refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Default for Access {
    /// This machine and private networks: RFC 1122 §3.2.1.3, RFC 1918, RFC 3927, RFC 4193, RFC 4291 §2.5.6.
    fn default() -> Self {
        const PRIVATE: [&str; 8] = [
            "127.0.0.0/8",
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "::1",
            "fc00::/7",
            "fe80::/10",
        ];
        Self::new(PRIVATE.map(|text| text.parse().expect("a prefix")))
    }
}

impl Access {
    /// Lets those in `prefixes` ask.
    // cold: made once, at the start
    pub fn new(prefixes: impl IntoIterator<Item = Prefix>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for prefix in prefixes {
            match prefix {
                Prefix::V4(network, mask) => v4.push((network, mask)),
                Prefix::V6(network, mask) => v6.push((network, mask)),
            }
        }
        Self { v4: v4.into(), v6: v6.into() }
    }

    /// Whether `client` may ask.
    #[inline]
    #[must_use]
    pub fn allows(&self, client: IpAddr) -> bool {
        match client {
            IpAddr::V4(v4) => self.v4.iter().any(|(network, mask)| v4.to_bits() & mask == *network),
            IpAddr::V6(v6) => self.v6.iter().any(|(network, mask)| v6.to_bits() & mask == *network),
        }
    }
}

impl FromStr for Prefix {
    type Err = String;

    // cold: reads a setting, at the start
    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || "expected an address, or a prefix like 10.0.0.0/8 or fd00::/8".to_owned();
        let (address, len) = match text.split_once('/') {
            Some((address, len)) => (address, Some(len.parse::<u32>().map_err(|_| expected())?)),
            None => (text, None),
        };
        let prefix = match address.parse().map_err(|_| expected())? {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - len.unwrap_or(32).min(32)).unwrap_or(0);
                (len.unwrap_or(0) <= 32)
                    .then_some(Self::V4(v4.to_bits(), mask))
                    .filter(|_| v4.to_bits() & !mask == 0)
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - len.unwrap_or(128).min(128)).unwrap_or(0);
                (len.unwrap_or(0) <= 128)
                    .then_some(Self::V6(v6.to_bits(), mask))
                    .filter(|_| v6.to_bits() & !mask == 0)
            }
        };
        prefix.ok_or_else(|| "the length is too large, or there are bits set behind it".to_owned())
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(network, mask) => write!(f, "{}/{}", Ipv4Addr::from_bits(*network), mask.leading_ones()),
            Self::V6(network, mask) => write!(f, "{}/{}", Ipv6Addr::from_bits(*network), mask.leading_ones()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_and_shown() {
        for text in ["10.0.0.0/8", "192.0.2.1/32", "0.0.0.0/0", "fd00::/8", "::1/128", "::/0"] {
            assert_eq!(text.parse::<Prefix>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Prefix>().unwrap().to_string(), "192.0.2.1/32");
        for wrong in
            ["", "10", "10.0.0.0/33", "::/129", "10.0.0.1/8", "fd00::1/8", "10.0.0.0/", "10.0.0.0/-1", "a/8"]
        {
            assert!(wrong.parse::<Prefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn private_clients_may_ask_and_public_ones_may_not() {
        let access = Access::default();
        for (client, allowed) in [
            ("127.0.0.1", true),
            ("10.255.0.1", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("192.168.1.1", true),
            ("192.0.2.1", false),
            ("8.8.8.8", false),
            ("::1", true),
            ("::2", false),
            ("fd12::1", true),
            ("fe80::1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(access.allows(client.parse().unwrap()), allowed, "{client}");
        }
    }
}
