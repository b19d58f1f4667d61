//! The addresses of a set, compared as numbers.
//!
//! Runs on the workers: pure and allocation-free.

use std::ops::Range;

use super::client::{Client, low};

/// Bytes of an A record with a pointer as its owner.
pub(super) const V4_RECORD_LEN: usize = crate::wire::record::FIXED_LEN + 4;

/// The addresses of a set, as records of one length, in ascending order.
#[derive(Clone, Copy)]
pub(super) struct Addresses<'a, const LEN: usize>(pub(super) &'a [[u8; LEN]]);

impl<'a, const LEN: usize> Addresses<'a, LEN> {
    const IS_V4: bool = LEN == V4_RECORD_LEN;

    /// The `i`-th, from the left.
    #[inline]
    pub(super) fn bits(&self, i: usize) -> u128 {
        let record = self.0.get(i).map_or(&[][..], |record| record);
        if Self::IS_V4 {
            record.last_chunk().map_or(0, |v4| u128::from(u32::from_be_bytes(*v4)) << 96)
        } else {
            record.last_chunk().map_or(0, |v6| u128::from_be_bytes(*v6))
        }
    }

    /// Each in 64 bits, told apart in the lowest.
    #[inline]
    pub(super) fn folded(self) -> impl ExactSizeIterator<Item = u64> {
        self.0.iter().map(|record| {
            if Self::IS_V4 {
                record.last_chunk().map_or(0, |v4| u64::from(u32::from_be_bytes(*v4)))
            } else {
                record.last_chunk().map_or(0, |v6| {
                    let bits = u128::from_be_bytes(*v6);
                    (bits >> 64) as u64 ^ low(bits)
                })
            }
        })
    }

    /// The client, if its address can be compared with these.
    #[inline]
    pub(super) fn comparable(&self, client: Client) -> Option<Client> {
        client.comparable(self.bits(0), Self::IS_V4)
    }

    /// The first address that is not `before`.
    #[inline]
    pub(super) fn partition(&self, before: impl Fn(u128) -> bool) -> usize {
        let (mut low, mut high) = (0, self.0.len());
        while low < high {
            let middle = low.midpoint(high);
            if before(self.bits(middle)) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    /// Those that have `bits` bits in common with the client: they stand side by side.
    #[inline]
    pub(super) fn sharing(&self, client: &Client, bits: u32) -> Range<usize> {
        let (first, last) = client.sharing(bits);
        self.partition(|address| address < first)..self.partition(|address| address <= last)
    }

    /// All of a range but the `winner`.
    #[inline]
    pub(super) fn others(self, within: Range<usize>, winner: usize) -> impl Iterator<Item = &'a [u8; LEN]> {
        let part = |range: Range<usize>| self.0.get(range).unwrap_or_default();
        let before = part(within.start..winner.clamp(within.start, within.end));
        let after = part((winner + 1).clamp(within.start, within.end)..within.end);
        before.iter().chain(after)
    }
}
