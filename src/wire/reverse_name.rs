//! The names that addresses have under `in-addr.arpa` and `ip6.arpa`.
//!
//! Pure. On the stack: there is one for nearly every record of an address.

use std::net::IpAddr;

/// Bytes of the longest: 32 labels of a digit, `ip6` and `arpa`.
const MAX_LEN: usize = 2 * 32 + 4 + 5 + 1;

/// The numbers from 0 to 255 as labels, each with its length before it.
const OCTETS: [[u8; 4]; 256] = {
    let mut labels = [[0; 4]; 256];
    let mut octet = 0u8;
    loop {
        let [hundreds, tens, ones] = [b'0' + octet / 100, b'0' + octet / 10 % 10, b'0' + octet % 10];
        labels[octet as usize] = match octet {
            0..10 => [1, ones, 0, 0],
            10..100 => [2, tens, ones, 0],
            _ => [3, hundreds, tens, ones],
        };
        if octet == u8::MAX {
            break;
        }
        octet += 1;
    }
    labels
};

/// The name that PTR records of an address stand under (RFC 1035 §3.5, RFC 3596 §2.5).
#[derive(Clone, Copy, Debug)]
pub struct ReverseName {
    wire: [u8; MAX_LEN],
    len: usize,
}

impl ReverseName {
    /// The name of `address`.
    #[must_use]
    pub fn new(address: IpAddr) -> Self {
        let mut name = Self { wire: [0; MAX_LEN], len: 0 };
        match address {
            IpAddr::V4(v4) => {
                for octet in v4.octets().into_iter().rev() {
                    let label = OCTETS[usize::from(octet)];
                    name.push(label, 1 + usize::from(label[0]));
                }
                name.push(*b"\x07in-addr\x04arpa\0", 14);
            }
            IpAddr::V6(v6) => {
                for octet in v6.octets().into_iter().rev() {
                    let [low, high] =
                        [octet & 15, octet >> 4].map(|nibble| b"0123456789abcdef"[usize::from(nibble)]);
                    name.push([1, low, 1, high], 4);
                }
                name.push(*b"\x03ip6\x04arpa\0", 10);
            }
        }
        name
    }

    /// Adds so many of these bytes; the others are written as well, which is faster than to look how many, and
    /// overwritten.
    #[inline]
    fn push<const N: usize>(&mut self, bytes: [u8; N], len: usize) {
        self.wire[self.len..][..N].copy_from_slice(&bytes);
        self.len += len;
    }

    /// The wire form, its root byte included.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.wire[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;

    #[test]
    fn addresses_have_the_names_that_the_standards_say() {
        let ip6 = format!("1.{}8.b.d.0.1.0.0.2.ip6.arpa", "0.".repeat(23));
        for (address, name) in [
            ("192.0.2.10", "10.2.0.192.in-addr.arpa"),
            ("0.100.255.1", "1.255.100.0.in-addr.arpa"),
            ("2001:db8::1", ip6.as_str()),
        ] {
            let reverse = ReverseName::new(address.parse().unwrap());
            assert_eq!(Name::from_wire(reverse.as_wire()), Some(Name::from_text(name).unwrap()), "{address}");
        }
        assert_eq!(ReverseName::new([0u16; 8].into()).as_wire().len(), MAX_LEN);
    }
}
