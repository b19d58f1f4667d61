//! Response rate limiting: how often one client network is answered over UDP.
//!
//! Runs on the workers, each with a table of its own. Whoever forges the address of a victim gets the victim no more
//! than this many responses a second; a real client that is limited with it is sent to TCP by some empty, truncated
//! answers in between, and one that has shown a good cookie is never limited, since its address is its own.

use std::net::IpAddr;

/// Buckets in a worker's table. Two networks that fall into one bucket push each other out, which gives both a fresh
/// start: with a million networks at once the limit is loose, and memory is still no more than this.
const BUCKETS: usize = crate::limits::RATE_LIMIT_NETWORKS;

/// Of the responses over the limit, every so many-th goes out truncated; the others are dropped.
const SLIP: u32 = 2;

/// What may be done for a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateDecision {
    /// Answer.
    Answer,
    /// Tell it to come back over TCP.
    Truncate,
    /// Nothing.
    Drop,
}

#[derive(Clone, Copy, Default)]
struct Bucket {
    /// Which network this is, by other bits of its hash than chose the bucket.
    tag: u32,
    /// When it was last looked at.
    at_s: u32,
    /// Responses that it may still have.
    credit: u32,
    /// Responses over the limit.
    over: u32,
}

/// One worker's limiter.
pub struct RateLimiter {
    /// Empty if there is no limit.
    buckets: Box<[Bucket]>,
    per_second: u32,
    seed: u64,
}

impl RateLimiter {
    /// Allows each client network, 24 bits of IPv4 or 56 of IPv6, this many responses a second; 0 for no limit.
    // cold: made once, at the start of a worker
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let buckets = if per_second > 0 { BUCKETS } else { 0 };
        Self { buckets: vec![Bucket::default(); buckets].into(), per_second, seed: fastrand::u64(..) | 1 }
    }

    /// What may be done for `client`, of which one more response is thereby taken.
    #[inline]
    pub fn take(&mut self, client: IpAddr, now_s: u32) -> RateDecision {
        if self.buckets.is_empty() {
            return RateDecision::Answer;
        }
        self.take_of_bucket(client, now_s)
    }

    fn take_of_bucket(&mut self, client: IpAddr, now_s: u32) -> RateDecision {
        let network = match client {
            IpAddr::V4(v4) => u64::from(v4.to_bits() >> 8),
            // Its top bit cannot be one of an IPv4 network.
            #[allow(clippy::cast_possible_truncation)] // 56 bits are left
            IpAddr::V6(v6) => (v6.to_bits() >> 72) as u64 | 1 << 63,
        };
        let mixed = u128::from(network ^ self.seed).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        #[allow(clippy::cast_possible_truncation)] // parts of the product are what is wanted
        let (tag, index) = ((mixed >> 64) as u32, (mixed >> 100) as usize % BUCKETS);
        let bucket = &mut self.buckets[index];
        let elapsed_s = now_s.wrapping_sub(bucket.at_s);
        if bucket.tag != tag || elapsed_s > 0 {
            let same = bucket.tag == tag;
            *bucket = Bucket {
                tag,
                at_s: now_s,
                credit: self.per_second,
                over: if same { bucket.over } else { 0 },
            };
        }
        if let Some(left) = bucket.credit.checked_sub(1) {
            bucket.credit = left;
            return RateDecision::Answer;
        }
        bucket.over = bucket.over.wrapping_add(1);
        if bucket.over.is_multiple_of(SLIP) { RateDecision::Truncate } else { RateDecision::Drop }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(limiter: &mut RateLimiter, client: &str, now_s: u32, asked: usize) -> [usize; 3] {
        let client = client.parse().unwrap();
        let mut counts = [0; 3];
        for _ in 0..asked {
            counts[limiter.take(client, now_s) as usize] += 1;
        }
        counts
    }

    #[test]
    fn a_network_has_its_share_of_each_second_and_then_every_second_one_truncated() {
        let mut limiter = RateLimiter::new(10);
        assert_eq!(count(&mut limiter, "192.0.2.1", 5, 30), [10, 10, 10]);
        assert_eq!(count(&mut limiter, "192.0.2.200", 5, 4), [0, 2, 2], "the same network");
        assert_eq!(count(&mut limiter, "192.0.3.1", 5, 4), [4, 0, 0], "another one");
        assert_eq!(count(&mut limiter, "192.0.2.1", 6, 12), [10, 1, 1], "another second");
    }

    #[test]
    fn an_ipv6_network_is_56_bits() {
        let mut limiter = RateLimiter::new(2);
        assert_eq!(count(&mut limiter, "2001:db8:0:1::1", 5, 2), [2, 0, 0]);
        assert_eq!(count(&mut limiter, "2001:db8:0:ff::9", 5, 2), [0, 1, 1]);
        assert_eq!(count(&mut limiter, "2001:db8:0:100::1", 5, 2), [2, 0, 0]);
    }

    #[test]
    fn without_a_limit_everything_is_answered() {
        assert_eq!(count(&mut RateLimiter::new(0), "192.0.2.1", 5, 1000), [1000, 0, 0]);
    }

    #[test]
    fn networks_rarely_share_a_bucket() {
        let mut limiter = RateLimiter::new(1);
        let fresh = |limiter: &mut RateLimiter| {
            (0..1000u32)
                .filter(|i| limiter.take(IpAddr::from((i << 8).to_be_bytes()), 5) == RateDecision::Answer)
                .count()
        };
        assert_eq!(fresh(&mut limiter), 1000);
        assert!(
            fresh(&mut limiter) < 60,
            "the second time they are known: about 16 of 1,000 collide in 65,536"
        );
    }
}
