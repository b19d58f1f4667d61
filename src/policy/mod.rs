//! Which addresses an answer has, and in which order.
//!
//! A [`Policy`] is what an operator says of a name, of a domain, or of all names. Half of it is done by the `tables`
//! thread when a table is made: [`select`] leaves out what is down, drained, or of a lower tier, once for all queries.
//! The other half, the [order](arrange), is done by the workers for each answer: pure, allocation-free, and random only
//! by the generator it is given. What they need for that is laid out behind the addresses ([`steering`]).

mod addresses;
pub mod arrange;
pub mod client;
mod rendezvous;
pub mod rules;
pub mod select;
pub mod steering;

use std::fmt;
use std::str::FromStr;

/// What an operator wants of the addresses of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Which address is first, and what follows it.
    pub order: Order,
    /// Addresses in an answer at most; 0 for all there are.
    pub answers: u16,
    /// When less than this part of the weight is healthy, in percent, health is not looked at: all addresses are
    /// returned. With 0 that is so when none is healthy.
    pub panic_percent: u8,
    /// A lower tier is used, too, when those above it have less than so many healthy addresses.
    pub min_healthy: u16,
}

/// Which address of an answer is first, and what follows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Order {
    /// Every order is equally likely, whatever the weights.
    Shuffle = 1,
    /// Each answer begins with the address after the one that the last answer of the same worker began with.
    Rotate = 2,
    /// An address is first as often as its weight says; the others follow in random order.
    #[default]
    Weighted = 3,
    /// The heaviest first, always; those of one weight by address.
    Fixed = 4,
    /// Those that have the longest prefix with the client in common first; of these by weight.
    Near = 5,
    /// One client always has the same address first, and clients have addresses by their weights. When an address comes
    /// or goes only the clients that it gets or had change (rendezvous hashing).
    Hash = 6,
    /// The first by weight, and of the others those that the client's own sorting (RFC 6724 §6, rule 9) leaves behind
    /// it.
    Rfc6724 = 7,
}

impl Order {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Shuffle, Self::Rotate, Self::Weighted, Self::Fixed, Self::Near, Self::Hash, Self::Rfc6724];

    /// Its name, as it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shuffle => "shuffle",
            Self::Rotate => "rotate",
            Self::Weighted => "weighted",
            Self::Fixed => "fixed",
            Self::Near => "near",
            Self::Hash => "hash",
            Self::Rfc6724 => "rfc6724",
        }
    }

    /// Whether the address of the client has a part in it.
    #[must_use]
    pub fn sees_client(self) -> bool {
        matches!(self, Self::Near | Self::Hash | Self::Rfc6724)
    }
}

impl Default for Policy {
    /// All healthy addresses, by weight: in random order as long as nobody has given weights.
    fn default() -> Self {
        Self { order: Order::default(), answers: 0, panic_percent: 0, min_healthy: 1 }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { order, answers, panic_percent, min_healthy } = *self;
        f.write_str(order.name())?;
        match answers {
            0 => {}
            1 => f.write_str(",answers=one")?,
            _ => write!(f, ",answers={answers}")?,
        }
        if panic_percent > 0 {
            write!(f, ",panic={panic_percent}%")?;
        }
        if min_healthy != 1 {
            write!(f, ",min-healthy={min_healthy}")?;
        }
        Ok(())
    }
}

/// A text is no policy; says why, and what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadPolicy(String);

impl fmt::Display for BadPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadPolicy {}

impl FromStr for Policy {
    type Err = BadPolicy;

    /// Reads `ORDER[,answers=N|all|one][,panic=PERCENT%][,min-healthy=N]`; what is not said is as by default.
    fn from_str(text: &str) -> Result<Self, BadPolicy> {
        let mut policy = Self::default();
        for (i, part) in text.split(',').map(str::trim).enumerate() {
            let Some((option, value)) = part.split_once('=') else {
                let order = Order::ALL.into_iter().find(|order| i == 0 && order.name() == part);
                policy.order = order.ok_or_else(|| no_order(part))?;
                continue;
            };
            match option {
                "answers" => policy.answers = answers(value)?,
                "panic" => {
                    let digits = value.strip_suffix('%').unwrap_or(value);
                    let percent = digits.parse().ok().filter(|percent| (0..=100).contains(percent));
                    policy.panic_percent = percent.ok_or_else(|| {
                        BadPolicy(format!("panic={value}: expected a percentage from 0 to 100"))
                    })?;
                }
                "min-healthy" => {
                    let count = value.parse().ok().filter(|&count| count > 0);
                    policy.min_healthy = count.ok_or_else(|| {
                        BadPolicy(format!("min-healthy={value}: expected a number from 1 to {}", u16::MAX))
                    })?;
                }
                _ => {
                    let known = "answers, panic, min-healthy";
                    return Err(BadPolicy(format!("a policy has no option {option:?}; there are {known}")));
                }
            }
        }
        Ok(policy)
    }
}

fn no_order(text: &str) -> BadPolicy {
    let names = Order::ALL.map(Order::name).join(", ");
    BadPolicy(format!("{text:?} is no order of addresses: a policy begins with one of {names}"))
}

fn answers(value: &str) -> Result<u16, BadPolicy> {
    match value {
        "all" => Ok(0),
        "one" => Ok(1),
        _ => value.parse().ok().filter(|&count| count > 0).ok_or_else(|| {
            BadPolicy(format!("answers={value}: expected all, one, or a number from 1 to {}", u16::MAX))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_read_as_it_is_written() {
        for text in [
            "shuffle",
            "rotate,answers=2",
            "weighted,answers=one,panic=50%,min-healthy=3",
            "fixed,panic=100%",
            "near",
            "hash,answers=65535",
            "rfc6724",
        ] {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), text);
        }
        let same = [("answers=all", "weighted"), ("near, answers=1, panic=7", "near,answers=one,panic=7%")];
        for (text, written) in same {
            assert_eq!(text.parse::<Policy>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_none_is_told_with_what_would_be() {
        for (text, told) in [
            ("", "begins with one of shuffle, rotate"),
            ("random", "\"random\" is no order"),
            ("answers=2,rotate", "\"rotate\" is no order"),
            ("rotate,answers=0", "expected all, one, or a number from 1"),
            ("rotate,answers=65536", "answers=65536"),
            ("rotate,panic=101%", "from 0 to 100"),
            ("rotate,panic=-1", "from 0 to 100"),
            ("rotate,min-healthy=0", "min-healthy=0"),
            ("rotate,ttl=3", "no option \"ttl\""),
        ] {
            let error = text.parse::<Policy>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
