//! Which addresses an answer has, and in which order.
//!
//! Runs on the workers, for every answer: pure, allocation-free, and random only by the generator it is given.

/// Copies as many of `records` as fit into `out`, each record `record_len` bytes long, in random order.
///
/// Every order is equally likely, and where not all fit every subset is: the forward form of the Fisher-Yates shuffle
/// puts each new record at a random place among those before it and moves the one from there to the end; past the end
/// of `out` it goes on as reservoir sampling (Vitter's algorithm R), with the same bounds for its random numbers.
///
/// # Panics
/// If `record_len` is 0, or a length is not a multiple of it.
#[inline]
pub fn shuffle(rng: &mut fastrand::Rng, record_len: usize, records: &[u8], out: &mut [u8]) {
    assert!(
        record_len > 0 && records.len().is_multiple_of(record_len) && out.len().is_multiple_of(record_len)
    );
    for (i, record) in records.chunks_exact(record_len).enumerate() {
        let place = rng.usize(..=i) * record_len;
        let end = i * record_len;
        if end < out.len() {
            out.copy_within(place..place + record_len, end);
        }
        if place < out.len() {
            out[place..place + record_len].copy_from_slice(record);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    /// Counts how often each outcome comes up, two-byte records `a0 b1 c2 ..` in, `room` of them out.
    fn outcomes(records: u8, room: usize, rounds: usize) -> HashMap<Vec<u8>, usize> {
        let mut rng = fastrand::Rng::with_seed(7);
        let source: Vec<u8> = (0..records).flat_map(|i| [b'a' + i, b'0' + i]).collect();
        let mut counts = HashMap::new();
        for _ in 0..rounds {
            let mut out = vec![0; room * 2];
            shuffle(&mut rng, 2, &source, &mut out);
            assert!(out.chunks(2).all(|record| record[0] - b'a' == record[1] - b'0'), "records stay whole");
            *counts.entry(out.iter().step_by(2).copied().collect()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn every_order_is_equally_likely() {
        let counts = outcomes(4, 4, 240_000);
        assert_eq!(counts.len(), 24);
        // 10,000 each is expected with a standard deviation of 98.
        assert!(counts.values().all(|n| n.abs_diff(10_000) < 600), "{counts:?}");
    }

    #[test]
    fn every_subset_is_equally_likely_where_not_all_fit() {
        let counts = outcomes(4, 2, 120_000);
        assert_eq!(counts.len(), 12);
        assert!(counts.values().all(|n| n.abs_diff(10_000) < 600), "{counts:?}");
    }

    #[test]
    fn one_record_is_copied_and_none_is_nothing() {
        assert_eq!(outcomes(1, 1, 1), HashMap::from([(vec![b'a'], 1)]));
        assert_eq!(outcomes(0, 0, 1), HashMap::from([(vec![], 1)]));
    }
}
