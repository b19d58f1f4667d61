//! What clients' resolvers make of an answer: rule 9 of RFC 6724 §6, as two C libraries have it.
//!
//! Pure. The other rules treat addresses alike that are reached from the same source, which is what is looked at here:
//! several servers of one kind. Sorting is stable in both libraries.

use std::net::IpAddr;
use std::str::FromStr;

/// An address in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    /// The address.
    pub address: IpAddr,
    /// Bits of it that are its network's.
    pub prefix_len: u8,
}

impl Subnet {
    /// Whether the address is one host's, rather than the whole network's.
    #[must_use]
    pub fn is_host(&self) -> bool {
        let bits = match self.address {
            IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
            IpAddr::V6(v6) => v6.to_bits(),
        };
        bits.checked_shl(self.prefix_len.into()).is_some_and(|host| host != 0)
    }

    /// The address `i` places behind the network's own, within the network.
    #[must_use]
    pub fn host(&self, i: u128) -> Self {
        let width = width(self.address);
        let host_bits = u32::from(width - self.prefix_len);
        let hosts = 1u128.checked_shl(host_bits).unwrap_or(0).wrapping_sub(1);
        // The network's own address and the last are no hosts'.
        let place = if hosts > 2 { 1 + i % (hosts - 1) } else { i & hosts };
        let address = match self.address {
            #[allow(clippy::cast_possible_truncation)] // 32 bits
            IpAddr::V4(v4) => IpAddr::from((v4.to_bits() & !(hosts as u32) | place as u32).to_be_bytes()),
            IpAddr::V6(v6) => IpAddr::from((v6.to_bits() & !hosts | place).to_be_bytes()),
        };
        Self { address, ..*self }
    }
}

fn width(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, len) = text.split_once('/').unwrap_or((text, ""));
        let address: IpAddr =
            address.parse().map_err(|_| format!("{text:?} is no subnet like 10.0.0.0/24"))?;
        let width = width(address);
        let prefix_len =
            if len.is_empty() { Some(width) } else { len.parse().ok().filter(|len| *len <= width) };
        prefix_len
            .map(|prefix_len| Self { address, prefix_len })
            .ok_or_else(|| format!("{text:?}: {len:?} is no length of a prefix, from 0 to {width}"))
    }
}

/// Bits that two addresses have in common; none if they are of different families.
fn common(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

/// The first of the addresses that share most by `key`, as a stable sort would have it.
fn first_by(answer: &[IpAddr], key: impl Fn(IpAddr) -> u32) -> Option<IpAddr> {
    answer.iter().copied().rev().max_by_key(|&address| key(address))
}

/// What glibc puts first for a client: IPv4 prefixes count within its own subnet alone.
#[must_use]
pub fn glibc_first(answer: &[IpAddr], client: &Subnet) -> Option<IpAddr> {
    first_by(answer, |address| match common(address, client.address) {
        bits if address.is_ipv6() || bits >= u32::from(client.prefix_len) => bits,
        _ => 0,
    })
}

/// What musl puts first for a client: it leaves answers alone that have nothing but IPv4 addresses.
#[must_use]
pub fn musl_first(answer: &[IpAddr], client: &Subnet) -> Option<IpAddr> {
    if answer.iter().all(IpAddr::is_ipv4) {
        return answer.first().copied();
    }
    first_by(answer, |address| common(address, client.address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_is_first_and_order_decides_among_equals() {
        let client: Subnet = "10.0.0.2/24".parse().unwrap();
        let list = |text: &str| text.split(' ').map(|text| text.parse().unwrap()).collect::<Vec<IpAddr>>();
        for (answer, glibc) in [
            ("10.0.0.4 10.0.0.3", "10.0.0.3"),
            ("10.0.0.4 10.0.0.5", "10.0.0.4"),
            ("10.0.0.5 10.0.0.4", "10.0.0.5"),
            // Outside of its subnet glibc sees no difference.
            ("192.0.2.1 10.9.0.1", "192.0.2.1"),
            ("10.9.0.1 10.0.0.200", "10.0.0.200"),
        ] {
            assert_eq!(glibc_first(&list(answer), &client), Some(glibc.parse().unwrap()), "{answer}");
            assert_eq!(musl_first(&list(answer), &client), list(answer).first().copied(), "{answer}");
        }
        let client: Subnet = "2001:db8::2/64".parse().unwrap();
        let answer = list("2001:db8:1::1 2001:db8::ffff");
        assert_eq!(glibc_first(&answer, &client), Some(answer[1]));
        assert_eq!(musl_first(&answer, &client), Some(answer[1]));
        assert_eq!(musl_first(&[], &client), None);
    }

    #[test]
    fn clients_are_hosts_of_their_subnet() {
        let shown = |text: &str, i: u128| text.parse::<Subnet>().unwrap().host(i).address.to_string();
        assert_eq!(
            [0, 1, 253, 254].map(|i| shown("10.0.0.77/24", i)),
            ["10.0.0.1", "10.0.0.2", "10.0.0.254", "10.0.0.1"]
        );
        assert_eq!([0, 1, 2].map(|i| shown("10.0.0.4/31", i)), ["10.0.0.4", "10.0.0.5", "10.0.0.4"]);
        assert_eq!(shown("10.0.0.4", 7), "10.0.0.4");
        assert_eq!(shown("2001:db8::/64", 9), "2001:db8::a");
        assert_eq!(shown("::/0", 0), "::1");
        for (text, is_host) in
            [("10.0.0.0/24", false), ("10.0.0.2/24", true), ("10.0.0.2", false), ("::/0", false)]
        {
            assert_eq!(text.parse::<Subnet>().unwrap().is_host(), is_host, "{text}");
        }
        for wrong in ["10.0.0/24", "10.0.0.0/33", "10.0.0.0/x", "2001:db8::/129", ""] {
            assert!(wrong.parse::<Subnet>().is_err(), "{wrong}");
        }
    }
}
