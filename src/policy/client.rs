//! Who is answered, as far as that has a part in the order of addresses.
//!
//! Runs on the workers: pure and allocation-free.

use std::net::IpAddr;

/// Who is answered, as far as that is known: the address of a client, or the network that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Client {
    /// From the left; what is beyond the known bits is 0.
    address: u128,
    /// Bits that are known.
    bits: u32,
    is_v4: bool,
}

/// Bits of an IPv6 address that are its network's: hosts change the others as they like (RFC 8981). Those of an IPv4
/// address are among them.
const NETWORK_BITS: u32 = 64;

/// Bits in front of an IPv4 address that is mapped into IPv6 (RFC 4291 §2.5.5.2).
const MAPPED_BITS: u32 = 96;

impl Client {
    /// The client that has this address, of which so many bits are known.
    #[inline]
    #[must_use]
    pub fn new(address: IpAddr, bits: u32) -> Self {
        // Of an IPv4 address that is written as one of IPv6, the first bits say just that.
        let prefix = if address.is_ipv6() { MAPPED_BITS } else { 0 };
        let (address, bits, is_v4) = match address.to_canonical() {
            IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, bits.saturating_sub(prefix).min(32), true),
            IpAddr::V6(v6) => (u128::from(v6), bits.min(128), false),
        };
        Self { address: address & prefix_mask(bits), bits, is_v4 }
    }

    /// Whether its address is one of loopback, and so says nothing of the address that it would reach others from.
    fn is_loopback(&self) -> bool {
        if self.is_v4 { self.address >> 120 == 127 } else { self.address == 1 }
    }

    /// It, if addresses like the one with these bits can be compared with its own.
    pub(super) fn comparable(self, address: u128, is_v4: bool) -> Option<Self> {
        let first = Self { address, bits: 128, is_v4 };
        (self.bits > 0 && self.is_v4 == first.is_v4 && self.is_loopback() == first.is_loopback())
            .then_some(self)
    }

    /// Bits that it has in common with `address`, as far as they are known.
    #[inline]
    pub(super) fn common(&self, address: u128) -> u32 {
        let differing = address ^ self.address;
        let upper = (differing >> 64) as u64;
        // Of an IPv4 address that is all there is.
        let bits = if upper != 0 || self.is_v4 {
            upper.leading_zeros()
        } else {
            64 + low(differing).leading_zeros()
        };
        bits.min(self.bits)
    }

    /// The lowest and the highest address that share so many bits with it.
    #[inline]
    pub(super) fn sharing(&self, bits: u32) -> (u128, u128) {
        let mask = prefix_mask(bits);
        (self.address & mask, self.address | !mask)
    }

    /// Its address from the left, as far as it is known.
    #[inline]
    pub(super) fn address(&self) -> u128 {
        self.address
    }

    /// Bits of it that are known.
    #[inline]
    pub(super) fn bits(&self) -> u32 {
        self.bits
    }

    /// The same number on every node.
    #[inline]
    pub(super) fn hash(&self) -> u64 {
        // What is not known of an address is 0 already.
        mix((self.address >> (u128::BITS - NETWORK_BITS)) as u64)
    }
}

/// That many bits from the left.
fn prefix_mask(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}

#[allow(clippy::cast_possible_truncation)] // the low half is what is wanted
pub(super) fn low(bits: u128) -> u64 {
    bits as u64
}

/// Stirs 64 bits so that each depends on all (the finalizer of `MurmurHash3`).
#[inline]
pub(super) fn mix(mut bits: u64) -> u64 {
    bits = (bits ^ bits >> 33).wrapping_mul(0xff51_afd7_ed55_8ccd);
    bits = (bits ^ bits >> 33).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    bits ^ bits >> 33
}
