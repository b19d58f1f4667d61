//! Rendezvous hashing: one client always has the same address first.
//!
//! Runs on the workers: pure and allocation-free. It looks at each address of the set.

use super::client::{low, mix};
use super::steering::Steering;

/// The address with the best score for this client, each address's score being a function of nothing but the client, itself
/// and its weight: so who comes or goes takes or leaves its own clients alone (Thaler and Ravishankar 1998; with weights
/// Mosko 2016).
#[inline]
pub(super) fn rendezvous(
    count: usize,
    address: impl Fn(usize) -> u128,
    steering: Steering<'_>,
    client: u64,
) -> usize {
    let score = |i: usize| {
        let address = address(i);
        mix(client ^ mix((address >> 64) as u64 ^ low(address).wrapping_mul(GOLDEN)))
    };
    let weight = steering.weight(0);
    if (1..count).all(|i| steering.weight(i) == weight) {
        return (0..count).max_by_key(|&i| score(i)).unwrap_or_default();
    }
    let mut best = (f32::INFINITY, 0);
    for i in 0..count {
        // Weights need no more bits than an f32 has: what is lost is a thousandth of a percent.
        #[allow(clippy::cast_precision_loss)]
        let time = exponential(score(i)) / steering.weight(i) as f32;
        if time < best.0 {
            best = (time, i);
        }
    }
    best.1
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// −ln(u) for the u in (0, 1) that the upper bits say: the less, the higher the bits.
#[inline]
fn exponential(bits: u64) -> f32 {
    const MANTISSA_BITS: u32 = 23;
    #[allow(clippy::cast_precision_loss)] // 24 bits and a half
    let u = ((bits >> 40) as f32 + 0.5) / (1u32 << 24) as f32;
    // u = m × 2^e with m from √½ to √2, and ln m = 2 artanh((m − 1)/(m + 1)), whose series is good where m is near 1.
    let shifted = u.to_bits() + (1f32.to_bits() - std::f32::consts::FRAC_1_SQRT_2.to_bits());
    #[allow(clippy::cast_possible_wrap, clippy::cast_precision_loss)] // eight bits
    let exponent = ((shifted >> MANTISSA_BITS) as i32 - 127) as f32;
    let m =
        f32::from_bits((shifted & ((1 << MANTISSA_BITS) - 1)) + std::f32::consts::FRAC_1_SQRT_2.to_bits());
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let ln_m = 2.0 * s * (1.0 + square * (1.0 / 3.0 + square * (0.2 + square / 7.0)));
    -(ln_m + exponent * std::f32::consts::LN_2)
}
