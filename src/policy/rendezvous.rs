//! Rendezvous hashing: one client always has the same address first.
//!
//! Runs on the workers: pure and allocation-free. It looks at each address of the set.

use super::client::low;
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
        // The client's bits are random already; two products carry those of the address to the top, which is what counts.
        let stirred = (client ^ (address >> 64) as u64 ^ low(address)).wrapping_mul(STIRRERS[0]);
        (stirred ^ stirred >> 32).wrapping_mul(STIRRERS[1])
    };
    if steering.equal {
        return (0..count).max_by_key(|&i| score(i)).unwrap_or_default();
    }
    let (mut best, mut least) = (0, f32::INFINITY);
    let mut weights = steering.weights();
    // Some at a time, so that the compiler can have the processor do the arithmetic of several at once.
    for begin in (0..count).step_by(LANES) {
        let mut times = [f32::INFINITY; LANES];
        let mut divisors = [1.0; LANES];
        for (lane, (time, divisor)) in times.iter_mut().zip(&mut divisors).enumerate().take(count - begin) {
            *time = unit(score(begin + lane));
            // Weights need no more bits than an f32 has: what is lost is a thousandth of a percent.
            *divisor = weights.next().unwrap_or(1) as f32;
        }
        for (time, divisor) in times.iter_mut().zip(divisors) {
            *time = exponential(*time) / divisor;
        }
        for (lane, time) in times.into_iter().enumerate().take(count - begin) {
            if time < least {
                (best, least) = (begin + lane, time);
            }
        }
    }
    best
}

/// Addresses whose scores are worked out together.
const LANES: usize = 8;

/// Odd numbers with no few bits.
const STIRRERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];

/// The number between 0 and 1 that the upper bits say.
#[inline]
fn unit(bits: u64) -> f32 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_possible_wrap)]
    // 24 bits
    let upper = (bits >> 40) as i32 as f32;
    (upper + 0.5) / (1u32 << 24) as f32
}

/// −ln(u) for a `u` between 0 and 1.
#[inline]
fn exponential(u: f32) -> f32 {
    const MANTISSA_BITS: u32 = 23;
    // u = m × 2^e with m from √½ to √2, and ln m = 2 artanh((m − 1)/(m + 1)), whose series is good where m is near 1.
    let shifted = u.to_bits().wrapping_add(1f32.to_bits() - std::f32::consts::FRAC_1_SQRT_2.to_bits());
    #[allow(clippy::cast_possible_wrap, clippy::cast_precision_loss)] // eight bits
    let exponent = ((shifted >> MANTISSA_BITS) as i32 - 127) as f32;
    let m =
        f32::from_bits((shifted & ((1 << MANTISSA_BITS) - 1)) + std::f32::consts::FRAC_1_SQRT_2.to_bits());
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s;
    let ln_m = 2.0 * s * (1.0 + square * (1.0 / 3.0 + square * (0.2 + square / 7.0)));
    -(ln_m + exponent * std::f32::consts::LN_2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_one() {
        for i in 1..100_000u32 {
            #[allow(clippy::cast_precision_loss)]
            let u = i as f32 / 100_000.0;
            let exact = -f64::from(u).ln();
            let off = (f64::from(exponential(u)) - exact).abs() / exact;
            assert!(off < 1e-5, "{u}: {off}");
        }
        assert!(unit(0) > 0.0 && unit(u64::MAX) <= 1.0);
    }
}
