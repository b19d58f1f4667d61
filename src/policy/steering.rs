//! What stands behind the addresses of a set whose answers are not simply all of them in random order.
//!
//! Written by the thread `tables`, read by the workers:
//!
//! ```text
//! steering = order u8 | 1 u8 if all weights are equal, else 0 | answers u16 | cumulative weight u32 × count
//! ```
//!
//! The addresses stand in ascending order before it, but for [`Order::Fixed`], where they stand in the order of the
//! answer. An address's cumulative weight is its own with those of all before it. Integers are little-endian.

use std::ops::Range;

use super::select::{MAX_WEIGHT, RAMP_STEPS};
use super::{Order, Policy};

const HEADER_LEN: usize = 4;
const WEIGHT_LEN: usize = 4;

/// Addresses that can be steered together: their weights have to add up within 32 bits.
pub const MAX_ADDRESSES: usize = crate::limits::MAX_ADDRESSES;

const _: () = assert!(MAX_ADDRESSES as u64 * MAX_WEIGHT as u64 * RAMP_STEPS as u64 <= u32::MAX as u64);

/// Bytes that steering so many addresses takes.
#[must_use]
pub fn len(addresses: usize) -> usize {
    HEADER_LEN + addresses * WEIGHT_LEN
}

/// Whether addresses of these weights, all of which are in answers, have to be steered at all: all of them in random
/// order is what a set without steering gives.
#[must_use]
pub fn is_needed(policy: &Policy, weights: &[u32]) -> bool {
    let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
    let shuffled = policy.order == Order::Shuffle || policy.order == Order::Weighted && equal;
    // The order of one is always the same, and there is no answer of less.
    weights.len() > 1 && !(shuffled && policy.answers == 0)
}

/// Appends the steering of addresses with these weights in parts, none of them 0.
pub fn write(policy: &Policy, weights: &[u32], out: &mut Vec<u8>) {
    let equal = policy.order == Order::Shuffle || weights.windows(2).all(|pair| pair[0] == pair[1]);
    out.extend_from_slice(&[policy.order as u8, equal.into()]);
    out.extend_from_slice(&policy.answers.to_le_bytes());
    let mut sum = 0u32;
    for &weight in weights.iter().take(MAX_ADDRESSES) {
        sum += if policy.order == Order::Shuffle { 1 } else { weight };
        out.extend_from_slice(&sum.to_le_bytes());
    }
}

/// It, as the workers read it.
#[derive(Clone, Copy, Debug)]
pub struct Steering<'a> {
    /// The order that is wanted.
    pub order: Order,
    /// Addresses in an answer at most; 0 for all.
    pub answers: usize,
    /// All weights are equal.
    pub equal: bool,
    cumulative: &'a [[u8; WEIGHT_LEN]],
}

impl<'a> Steering<'a> {
    /// Reads it; `None` if it is none.
    #[inline]
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (&[order, equal, low, high], weights) = bytes.split_first_chunk::<HEADER_LEN>()?;
        let order = *Order::ALL.get(usize::from(order).wrapping_sub(1))?;
        Some(Self {
            order,
            answers: u16::from_le_bytes([low, high]).into(),
            equal: equal != 0,
            cumulative: weights.as_chunks::<WEIGHT_LEN>().0,
        })
    }

    /// The weight of all addresses before the `i`-th.
    #[inline]
    fn before(&self, i: usize) -> u32 {
        i.checked_sub(1).and_then(|i| self.cumulative.get(i)).map_or(0, |sum| u32::from_le_bytes(*sum))
    }

    /// The weights of all addresses, in their order.
    #[inline]
    pub fn weights(&self) -> impl Iterator<Item = u32> {
        let mut before = 0;
        self.cumulative.iter().map(move |sum| {
            let sum = u32::from_le_bytes(*sum);
            sum.saturating_sub(std::mem::replace(&mut before, sum))
        })
    }

    /// Draws one of the addresses in `among`, each as often as its weight says.
    #[inline]
    #[must_use]
    pub fn draw(&self, among: Range<usize>, rng: &mut fastrand::Rng) -> usize {
        let (low, high) = (self.before(among.start), self.before(among.end));
        // The high half of a product: for so few bits as good as an unbiased draw, to one in a thousand million.
        let drawn = (u64::from(rng.u32(..)) * u64::from(high.saturating_sub(low))) >> 32;
        #[allow(clippy::cast_possible_truncation)] // below the 32-bit sum
        let drawn = low + drawn as u32;
        let weights = self.cumulative.get(among.clone()).unwrap_or_default();
        let at = weights.partition_point(|sum| u32::from_le_bytes(*sum) <= drawn);
        (among.start + at).min(among.end.saturating_sub(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Policy {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        write(&policy("near,answers=3"), &[5, 1, 16], &mut bytes);
        assert_eq!(bytes.len(), len(3));
        let steering = Steering::read(&bytes).unwrap();
        assert_eq!((steering.order, steering.answers), (Order::Near, 3));
        assert!(steering.weights().eq([5, 1, 16]) && !steering.equal);
        for wrong in [&b""[..], b"\x03\0\0", b"\0\0\0\0", b"\x08\0\0\0"] {
            assert!(Steering::read(wrong).is_none(), "{wrong:?}");
        }
        for order in Order::ALL {
            bytes[0] = order as u8;
            assert_eq!(Steering::read(&bytes).unwrap().order, order);
        }
    }

    #[test]
    fn the_default_needs_none_while_weights_are_equal() {
        let default = Policy::default();
        assert!(!is_needed(&default, &[7, 7, 7]) && !is_needed(&policy("shuffle"), &[1, 2]));
        assert!(is_needed(&default, &[7, 7, 8]) && is_needed(&policy("shuffle,answers=1"), &[1, 1]));
        assert!(is_needed(&policy("rotate"), &[1, 1]) && !is_needed(&policy("rotate"), &[1]));
    }

    #[test]
    fn each_is_drawn_as_often_as_its_weight_says() {
        let weights = [1u32, 30, 0xffff, 1_000, 5];
        let mut bytes = Vec::new();
        write(&policy("weighted"), &weights, &mut bytes);
        let steering = Steering::read(&bytes).unwrap();
        let mut rng = fastrand::Rng::with_seed(9);
        for among in [0..5, 1..4, 2..5, 4..5] {
            let mut drawn = [0u32; 5];
            (0..100_000).for_each(|_| drawn[steering.draw(among.clone(), &mut rng)] += 1);
            let sum: u32 = weights[among.clone()].iter().sum();
            for i in 0..5 {
                let share = if among.contains(&i) { f64::from(weights[i]) / f64::from(sum) } else { 0.0 };
                let seen = f64::from(drawn[i]) / 1e5;
                assert!((seen - share).abs() < 0.005, "{among:?}, {i}: {seen}, expected {share}");
            }
        }
    }
}
