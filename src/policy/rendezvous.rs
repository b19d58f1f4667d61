//! Rendezvous hashing: one client always has the same address first.
//!
//! Runs on the workers: pure and allocation-free. It looks at each address of the set.

use super::steering::Steering;

/// The address with the best score for this client, each address's score being a function of nothing but the client,
/// itself and its weight: so who comes or goes takes or leaves its own clients alone (Thaler and Ravishankar 1998; with
/// weights Mosko 2016).
#[inline]
pub(super) fn rendezvous(
    addresses: impl ExactSizeIterator<Item = u64>,
    steering: Steering<'_>,
    client: u64,
) -> usize {
    let count = addresses.len();
    let mut scores = addresses.map(|address| {
        // The client's bits are random already; two products carry those of the address to the top, which is what
        // counts.
        let stirred = (client ^ address).wrapping_mul(STIRRERS[0]);
        (stirred ^ stirred >> 32).wrapping_mul(STIRRERS[1])
    });
    if steering.equal {
        let (mut best, mut most) = (0, 0);
        for (i, score) in scores.enumerate() {
            if score > most {
                (best, most) = (i, score);
            }
        }
        return best;
    }
    let (mut best, mut least, mut begin) = (0, f32::INFINITY, 0);
    let mut weights = steering.weights();
    let (mut drawn, mut divisors, mut times) = ([0i32; TOGETHER], [0i32; TOGETHER], [0f32; TOGETHER]);
    // Some at a time, in loops as simple as that: the processor does the arithmetic of several at once then.
    while begin < count {
        let here = TOGETHER.min(count - begin);
        let (drawn, divisors, times) = (&mut drawn[..here], &mut divisors[..here], &mut times[..here]);
        #[allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap)] // 24 bits; below 2^20
        for (((drawn, divisor), score), weight) in
            drawn.iter_mut().zip(&mut *divisors).zip(&mut scores).zip(&mut weights)
        {
            (*drawn, *divisor) = ((score >> 40) as i32, weight as i32);
        }
        for ((time, drawn), divisor) in times.iter_mut().zip(&*drawn).zip(&*divisors) {
            // Weights need no more bits than an f32 has: what is lost is a thousandth of a percent.
            *time = exponential(unit(*drawn)) / *divisor as f32;
        }
        for (i, time) in (begin..).zip(&*times) {
            if *time < least {
                (best, least) = (i, *time);
            }
        }
        begin += here;
    }
    best
}

/// Addresses whose scores are worked out together: no name has more but few.
const TOGETHER: usize = 32;

/// Odd numbers with no few bits.
const STIRRERS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0xd6e8_feb8_6659_fd93];

/// The number between 0 and 1 that 24 bits say.
#[inline]
fn unit(bits: i32) -> f32 {
    #[allow(clippy::cast_precision_loss)] // so many bits an f32 has
    let drawn = bits as f32;
    (drawn + 0.5) / (1u32 << 24) as f32
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
        assert!(unit(0) > 0.0 && unit((1 << 24) - 1) <= 1.0);
    }
}
