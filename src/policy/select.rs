//! Which addresses of a name are in its answers: by health, drains, weights and tiers.
//!
//! Pure. Runs on the thread `tables`, when a table is made, and on any when somebody asks for an explanation.

use smallvec::SmallVec;

use super::Policy;

/// The highest weight of an address, as of an SRV record (RFC 2782).
pub const MAX_WEIGHT: u16 = crate::limits::MAX_WEIGHT;

/// What an address weighs if nobody has said.
const DEFAULT_WEIGHT: u16 = 1;

/// The lowest tier there is.
pub const MAX_TIER: u8 = crate::limits::MAX_TIER;

/// A weight that is ramped up is so many parts of it, at last all.
pub const RAMP_STEPS: u8 = crate::limits::RAMP_STEPS;

/// What health checks have found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Health {
    /// Nothing yet, or nobody checks: that counts as up.
    #[default]
    Unknown,
    /// It is well.
    Up,
    /// It is not.
    Down,
}

/// How an address of a name stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Standing {
    /// How often it is to be chosen, compared with the others; with 0 never.
    pub weight: u16,
    /// It is used if those of the tiers before it, with lower numbers, do not suffice.
    pub tier: u8,
    /// How many of [`RAMP_STEPS`] parts of its weight it has by now.
    pub ramp: u8,
    /// What checks have found.
    pub health: Health,
    /// Somebody has taken it out of answers.
    pub drained: bool,
}

impl Default for Standing {
    fn default() -> Self {
        Self { weight: DEFAULT_WEIGHT, tier: 0, ramp: RAMP_STEPS, health: Health::Unknown, drained: false }
    }
}

impl Standing {
    /// Its weight by now, in parts.
    fn effective(&self) -> u32 {
        match self.weight {
            0 => 0,
            weight => (u32::from(weight) * u32::from(self.ramp.min(RAMP_STEPS))).max(1),
        }
    }

    /// That of an address that is registered twice: what is best of both counts, and of its health what is known.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        if self.drained != other.drained {
            return if self.drained { other } else { self };
        }
        let rank = |health| match health {
            Health::Up => 2,
            Health::Down => 1,
            Health::Unknown => 0,
        };
        let health = if rank(self.health) < rank(other.health) { other.health } else { self.health };
        let heavier = if self.effective() < other.effective() { other } else { self };
        Self { tier: self.tier.min(other.tier), health, ..heavier }
    }
}

/// Why an address is in no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exclusion {
    /// Somebody has drained it.
    Drained,
    /// Its weight is 0.
    WeightZero,
    /// Its checks have failed.
    Down,
    /// Addresses of higher tiers suffice.
    LowerTier,
}

impl Exclusion {
    /// It in words.
    #[must_use]
    pub fn told(self) -> &'static str {
        match self {
            Self::Drained => "drained",
            Self::WeightZero => "its weight is 0",
            Self::Down => "down",
            Self::LowerTier => "addresses of a higher tier suffice",
        }
    }
}

/// What is said of an address: the weight that it is in answers with, in parts, or why it is in none.
pub type AddressVerdict = Result<u32, Exclusion>;

/// Says of each of a name's addresses of one family whether it is in answers.
///
/// What is drained is never in. Of the others with a weight (of all, if none has one) those that are not down are, as
/// long as they have the part of the weight that the policy asks for: with less all are in, whatever their health and
/// tier. Tiers are used from the first on until they have as many healthy addresses as the policy asks for.
///
/// The addresses come in order as they are registered, and equal ones are one. Returns whether it is so bad that health
/// and tier do not count.
pub fn select<T: Copy + PartialEq>(
    policy: &Policy,
    registered: impl IntoIterator<Item = (T, Standing)>,
    mut tell: impl FnMut(T, AddressVerdict),
) -> bool {
    let mut addresses: SmallVec<[(T, Standing); 8]> = SmallVec::new();
    for (address, standing) in registered {
        match addresses.last_mut() {
            Some((last, best)) if *last == address => *best = best.or(standing),
            _ => addresses.push((address, standing)),
        }
    }
    let candidates = || addresses.iter().map(|(_, standing)| standing).filter(|standing| !standing.drained);
    // As everywhere where weights are given: none at all are equal weights.
    let weightless = candidates().all(|standing| standing.weight == 0);
    let weight = |standing: &Standing| if weightless { 1 } else { standing.effective() };
    let healthy = |standing: &&Standing| standing.health != Health::Down;
    let sum = |of: &mut dyn Iterator<Item = &Standing>| of.map(|it| u64::from(weight(it))).sum::<u64>();
    let (all, up) = (sum(&mut candidates()), sum(&mut candidates().filter(healthy)));
    let panic = up == 0 || 100 * up < u64::from(policy.panic_percent) * all;
    let lowest = if panic { MAX_TIER } else { lowest_tier(policy, candidates().filter(|it| weight(it) > 0)) };
    for (address, standing) in &addresses {
        let verdict = match weight(standing) {
            _ if standing.drained => Err(Exclusion::Drained),
            0 => Err(Exclusion::WeightZero),
            _ if !panic && standing.health == Health::Down => Err(Exclusion::Down),
            _ if standing.tier > lowest => Err(Exclusion::LowerTier),
            weight => Ok(weight),
        };
        tell(*address, verdict);
    }
    panic
}

/// The last tier that is needed.
fn lowest_tier<'a>(policy: &Policy, candidates: impl Iterator<Item = &'a Standing>) -> u8 {
    let mut healthy = [0usize; MAX_TIER as usize + 1];
    for standing in candidates.filter(|standing| standing.health != Health::Down) {
        healthy[usize::from(standing.tier.min(MAX_TIER))] += 1;
    }
    let mut found = 0;
    for (tier, count) in (0..).zip(healthy) {
        found += count;
        if found >= usize::from(policy.min_healthy) {
            return tier;
        }
    }
    MAX_TIER
}

#[cfg(test)]
mod tests {
    use super::*;
    use Exclusion::{Down, Drained, LowerTier, WeightZero};

    const UP: Standing = Standing { weight: 1, tier: 0, ramp: 16, health: Health::Up, drained: false };
    const DOWN: Standing = Standing { health: Health::Down, ..UP };
    const OUT: Standing = Standing { drained: true, ..UP };
    const SECOND: Standing = Standing { tier: 1, ..UP };
    const ZERO: Standing = Standing { weight: 0, ..UP };

    fn selected(policy: &str, standings: &[Standing]) -> Vec<AddressVerdict> {
        let mut verdicts = Vec::new();
        let registered = standings.iter().copied().enumerate();
        select(&policy.parse().unwrap(), registered, |i, verdict| {
            assert_eq!(i, verdicts.len());
            verdicts.push(verdict);
        });
        verdicts
    }

    #[test]
    fn the_unhealthy_are_left_out_until_too_few_are_left() {
        let unknown = Standing { health: Health::Unknown, ..UP };
        assert_eq!(selected("shuffle", &[unknown, DOWN]), [Ok(16), Err(Down)]);
        assert_eq!(selected("shuffle", &[DOWN, DOWN]), [Ok(16), Ok(16)], "none is healthy");
        let four = [UP, DOWN, DOWN, UP];
        assert_eq!(selected("shuffle,panic=50%", &four), [Ok(16), Err(Down), Err(Down), Ok(16)]);
        assert_eq!(selected("shuffle,panic=51%", &four), [Ok(16); 4]);
        // It is the weight that counts, not how many there are.
        let heavy = Standing { weight: 9, ..UP };
        assert_eq!(selected("shuffle,panic=90%", &[heavy, DOWN]), [Ok(144), Err(Down)]);
        assert_eq!(selected("shuffle", &[]), []);
    }

    #[test]
    fn what_is_drained_stays_out_whatever_is_left() {
        assert_eq!(selected("shuffle", &[OUT, UP]), [Err(Drained), Ok(16)]);
        assert_eq!(selected("shuffle,panic=100%", &[OUT, DOWN]), [Err(Drained), Ok(16)]);
        assert_eq!(selected("shuffle", &[OUT, OUT]), [Err(Drained), Err(Drained)]);
    }

    #[test]
    fn a_weight_of_zero_is_a_drain_unless_all_are() {
        assert_eq!(selected("weighted", &[ZERO, UP]), [Err(WeightZero), Ok(16)]);
        assert_eq!(selected("weighted", &[ZERO, ZERO]), [Ok(1), Ok(1)]);
        assert_eq!(selected("weighted", &[ZERO, OUT]), [Ok(1), Err(Drained)]);
        // The last one with a weight is down: it is that one that is tried, not those that were taken out.
        assert_eq!(selected("weighted", &[ZERO, DOWN]), [Err(WeightZero), Ok(16)]);
    }

    #[test]
    fn lower_tiers_help_out() {
        assert_eq!(selected("shuffle", &[UP, SECOND]), [Ok(16), Err(LowerTier)]);
        assert_eq!(selected("shuffle", &[DOWN, SECOND]), [Err(Down), Ok(16)]);
        assert_eq!(selected("shuffle,min-healthy=2", &[UP, DOWN, SECOND]), [Ok(16), Err(Down), Ok(16)]);
        let fifth = Standing { tier: 5, ..UP };
        assert_eq!(selected("shuffle", &[fifth, OUT]), [Ok(16), Err(Drained)], "tiers may be empty");
        assert_eq!(selected("shuffle,min-healthy=9", &[UP, SECOND, fifth]), [Ok(16); 3]);
        let down = Standing { tier: 1, ..DOWN };
        assert_eq!(selected("shuffle", &[DOWN, down]), [Ok(16), Ok(16)], "in a panic tiers do not count");
    }

    #[test]
    fn weights_are_ramped_up_and_cannot_overflow() {
        let young = Standing { weight: 100, ramp: 1, ..UP };
        assert_eq!(selected("weighted", &[young, UP]), [Ok(100), Ok(16)]);
        let heaviest = Standing { weight: MAX_WEIGHT, ..UP };
        let verdicts = selected("weighted", &vec![heaviest; 4_000]);
        let sum: u32 = verdicts.iter().map(|verdict| verdict.unwrap()).sum();
        assert_eq!(u64::from(sum), 4_000 * 16 * 65_535);
    }

    #[test]
    fn of_an_address_that_is_registered_twice_the_best_counts() {
        let second = Standing { weight: 3, ..SECOND };
        assert_eq!(DOWN.or(second), Standing { weight: 3, tier: 0, ..UP });
        assert_eq!(OUT.or(second), second);
        assert_eq!(second.or(OUT), second);
        assert_eq!(ZERO.or(UP), UP);
        let mut told = Vec::new();
        let panic = select(&Policy::default(), [(1, DOWN), (1, second), (2, DOWN)], |address, verdict| {
            told.push((address, verdict));
        });
        assert!(!panic);
        assert_eq!(told, [(1, Ok(48)), (2, Err(Down))]);
        let unknown = Standing { health: Health::Unknown, ..UP };
        assert_eq!(unknown.or(DOWN), DOWN, "who checks knows better than who does not");
    }
}
