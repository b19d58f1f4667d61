//! Objectives: what a measurement has to hold, like `p99<1ms,loss<0.1%`.
//!
//! Pure.

use std::fmt;

use super::Outcome;

/// What can be asked something of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Metric {
    /// Queries completed a second.
    Qps,
    /// Part of the queries due that were not answered, 0 to 1.
    Loss,
    /// Part of the answers that are neither NOERROR nor NXDOMAIN, 0 to 1.
    Errors,
    /// The mean of response times, in microseconds.
    Mean,
    /// A quantile of response times, 0 to 1, in microseconds.
    Quantile(f64),
}

impl Metric {
    /// Its value in a run. Where there is no latency, since nothing was answered, it is without end.
    #[must_use]
    pub fn of(self, outcome: &Outcome) -> f64 {
        let totals = &outcome.tally.totals;
        let responses = outcome.tally.responses();
        match self {
            Self::Qps => outcome.qps(),
            Self::Loss => {
                let due = (totals.sent + totals.overdue - totals.interrupted) as f64;
                if due == 0.0 { 0.0 } else { (totals.lost + totals.overdue) as f64 / due }
            }
            Self::Errors => {
                let good = totals.rcodes[0] + totals.rcodes[3];
                (totals.completed - good) as f64 / (totals.completed as f64).max(1.0)
            }
            _ if responses.is_empty() => f64::INFINITY,
            Self::Mean => responses.summary().map_or(f64::INFINITY, |summary| summary.mean_us),
            Self::Quantile(quantile) => responses.quantile_us(quantile),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "qps" => Self::Qps,
            "loss" => Self::Loss,
            "errors" => Self::Errors,
            "mean" => Self::Mean,
            "max" => Self::Quantile(1.0),
            _ => {
                let percent: f64 = text.strip_prefix('p')?.parse().ok()?;
                Self::Quantile((0.0..100.0).contains(&percent).then_some(percent / 100.0)?)
            }
        })
    }

    /// A value of it, as people write it.
    #[must_use]
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Qps => format!("{value:.0}"),
            Self::Loss | Self::Errors => format!("{:.3}%", value * 100.0),
            Self::Mean | Self::Quantile(_) if value >= 1_000.0 => format!("{:.3}ms", value / 1_000.0),
            Self::Mean | Self::Quantile(_) => format!("{value:.1}us"),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Qps => f.write_str("qps"),
            Self::Loss => f.write_str("loss"),
            Self::Errors => f.write_str("errors"),
            Self::Mean => f.write_str("mean"),
            Self::Quantile(1.0) => f.write_str("max"),
            Self::Quantile(quantile) => write!(f, "p{}", (quantile * 1e6).round() / 1e4),
        }
    }
}

/// How a value is compared with a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Relation {
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
}

/// A metric and its bound.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Objective {
    /// What is asked something of.
    pub metric: Metric,
    relation: Relation,
    /// What it is compared with, in the unit of the metric.
    pub bound: f64,
}

impl Objective {
    /// Whether `value` holds it.
    #[must_use]
    pub fn holds(&self, value: f64) -> bool {
        match self.relation {
            Relation::Less => value < self.bound,
            Relation::LessOrEqual => value <= self.bound,
            Relation::More => value > self.bound,
            Relation::MoreOrEqual => value >= self.bound,
        }
    }

    fn read(text: &str, read_bound: impl Fn(Metric, &str) -> Option<f64>) -> Option<Self> {
        let at = text.find(['<', '>'])?;
        let (metric, rest) = (Metric::parse(text[..at].trim())?, &text[at..]);
        let (relation, bound) = match rest.as_bytes() {
            [b'<', b'=', ..] => (Relation::LessOrEqual, &rest[2..]),
            [b'>', b'=', ..] => (Relation::MoreOrEqual, &rest[2..]),
            [b'<', ..] => (Relation::Less, &rest[1..]),
            _ => (Relation::More, &rest[1..]),
        };
        Some(Self { metric, relation, bound: read_bound(metric, bound.trim())? })
    }

    /// Reads objectives of a run, like `p99<1ms,loss<0.1%`.
    ///
    /// # Errors
    /// What is wrong, with what was expected.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, String> {
        let read = |part: &str| {
            Self::read(part, read_value).ok_or_else(|| {
                format!(
                    "`{part}` is no objective; expected one like p99<1ms, mean<=200us, max<1s, loss<0.1%, errors<1% or \
                     qps>=10k"
                )
            })
        };
        text.split(',').map(read).collect()
    }

    /// Reads objectives of a comparison, like `qps>=0.95`: bounds are ratios to the other's.
    ///
    /// # Errors
    /// What is wrong, with what was expected.
    pub fn parse_ratios(text: &str) -> Result<Vec<Self>, String> {
        let ratio = |_, text: &str| text.parse().ok().filter(|ratio: &f64| ratio.is_finite() && *ratio > 0.0);
        let read = |part: &str| {
            Self::read(part, ratio).ok_or_else(|| {
                format!(
                    "`{part}` is no requirement; expected a metric and a ratio, like qps>=0.95 or p99<1.1"
                )
            })
        };
        text.split(',').map(read).collect()
    }
}

impl fmt::Display for Objective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let relation = match self.relation {
            Relation::Less => "<",
            Relation::LessOrEqual => "<=",
            Relation::More => ">",
            Relation::MoreOrEqual => ">=",
        };
        write!(f, "{}{relation}{}", self.metric, self.metric.show(self.bound))
    }
}

fn read_value(metric: Metric, text: &str) -> Option<f64> {
    let value = match metric {
        Metric::Qps => parse_rate(text).ok()?,
        Metric::Loss | Metric::Errors => match text.strip_suffix('%') {
            Some(percent) => percent.trim().parse::<f64>().ok()? / 100.0,
            None => text.parse().ok()?,
        },
        Metric::Mean | Metric::Quantile(_) => {
            let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
            let (number, factor) =
                units.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
            number.trim().parse::<f64>().ok()? * factor
        }
    };
    (value.is_finite() && value >= 0.0).then_some(value)
}

/// Reads a rate in queries a second: `500`, `10k`, `1.5M`.
///
/// # Errors
/// What was expected.
pub fn parse_rate(text: &str) -> Result<f64, String> {
    let (number, factor) = match text.strip_suffix(['k', 'K', 'M']) {
        Some(number) => (number, if text.ends_with('M') { 1e6 } else { 1e3 }),
        None => (text, 1.0),
    };
    let rate = number.parse::<f64>().ok().map(|rate| rate * factor);
    rate.filter(|rate| *rate > 0.0 && *rate <= 1e9).ok_or_else(|| {
        format!("`{text}` is no rate; expected queries a second, more than 0, like 500, 10k or 1.5M")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read_and_shown_in_peoples_units() {
        let all =
            Objective::parse_all("p99<1ms, loss<=0.1%,max<2s,p99.9 < 250us,errors<1%,mean<1ms,qps>=10k")
                .unwrap();
        let shown: Vec<_> = all.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "p99<1.000ms",
                "loss<=0.100%",
                "max<2000.000ms",
                "p99.9<250.0us",
                "errors<1.000%",
                "mean<1.000ms",
                "qps>=10000"
            ]
        );
        assert!(all[0].holds(999.0) && !all[0].holds(1_000.0) && all[1].holds(0.001) && all[6].holds(1e4));
        for bad in ["", "p99", "p99<1", "p101<1ms", "loss<x%", "speed>1", "p99=1ms", "p99<-1ms"] {
            assert!(Objective::parse_all(bad).unwrap_err().contains("expected"), "{bad}");
        }
        let ratio = Objective::parse_ratios("qps>=0.95").unwrap();
        assert!(ratio[0].holds(0.95) && !ratio[0].holds(0.94));
        assert!(Objective::parse_ratios("qps>=0").is_err() && Objective::parse_ratios("p99<1ms").is_err());
    }

    #[test]
    fn rates_have_their_units() {
        assert_eq!(
            [parse_rate("500"), parse_rate("10k"), parse_rate("1.5M")],
            [Ok(500.0), Ok(1e4), Ok(1.5e6)]
        );
        for bad in ["0", "-5", "x", "1e99", "", "k"] {
            assert!(parse_rate(bad).unwrap_err().contains("expected"), "{bad}");
        }
    }

    #[test]
    fn what_was_not_answered_counts_in_every_metric() {
        let mut outcome = Outcome::nothing();
        assert_eq!(Metric::Quantile(0.99).of(&outcome), f64::INFINITY);
        let totals = &mut outcome.tally.totals;
        (totals.sent, totals.completed, totals.lost, totals.overdue) = (90, 80, 10, 10);
        (totals.rcodes[0], totals.rcodes[2]) = (76, 4);
        (0..80).for_each(|_| outcome.tally.response.record(1_000));
        (0..20).for_each(|_| outcome.tally.response.censor(5_000_000));
        assert_eq!((Metric::Loss.of(&outcome), Metric::Errors.of(&outcome)), (0.2, 0.05));
        assert_eq!((Metric::Quantile(0.99).of(&outcome), Metric::Mean.of(&outcome)), (5_000.0, 1.0));
    }
}
