//! What a comparison can vary, and the values that it varies it over.

use serde::{Deserialize, Serialize};

use super::Experiment;

/// What is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Sweep {
    /// Nodes, from 2 to 32
    Nodes,
    /// Names in all, from 10 to 100,000
    Names,
    /// Changes a second, from 0 to 10,000
    Churn,
    /// The share of queries for names that nobody has, from 0 to 100%
    Negative,
    /// Seconds for which answers may be kept, from 1 to 60
    Ttl,
}

/// Seconds of load for each value.
const SECONDS: f64 = 2.0;

/// Seconds of load for each TTL: twice the longest would be too long to wait, this is enough to see the short ones.
const TTL_SECONDS: f64 = 8.0;

impl Sweep {
    /// The most nodes that are started.
    pub const MAX_NODES: usize = 32;

    /// For people: what it is, with its unit.
    #[must_use]
    pub fn text(self) -> &'static str {
        match self {
            Self::Nodes => "nodes",
            Self::Names => "names in all",
            Self::Churn => "changes a second",
            Self::Negative => "queries for names that nobody has (%)",
            Self::Ttl => "TTL (s)",
        }
    }

    /// Whether its values differ by factors.
    #[must_use]
    pub fn is_logarithmic(self) -> bool {
        matches!(self, Self::Nodes | Self::Names | Self::Ttl)
    }

    pub(super) fn values(self) -> &'static [u32] {
        match self {
            Self::Nodes => &[2, 4, 8, 16, 32],
            Self::Names => &[10, 100, 1_000, 10_000, 100_000],
            Self::Churn => &[0, 100, 1_000, 5_000, 10_000],
            Self::Negative => &[0, 10, 25, 50, 75, 100],
            Self::Ttl => &[1, 5, 15, 30, 60],
        }
    }

    pub(super) fn experiment(self, base: &Experiment, value: u32) -> Experiment {
        let base = Experiment { seconds: SECONDS, rounds: 1, ..base.clone() };
        match self {
            Self::Nodes => Experiment { nodes: value as usize, ..base },
            Self::Names => {
                let nodes = u32::try_from(base.nodes).unwrap_or(u32::MAX);
                Experiment { names_per_node: value.div_ceil(nodes), ..base }
            }
            Self::Churn => Experiment { churn_per_s: value, ..base },
            Self::Negative => Experiment { negative_share: f64::from(value) / 100.0, ..base },
            Self::Ttl => Experiment { ttl_s: Some(value), seconds: TTL_SECONDS, ..base },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sweep_varies_one_thing() {
        let base = Experiment::default();
        let names = Sweep::Names.experiment(&base, 100_000);
        assert_eq!((names.names_per_node, names.nodes), (20_000, 5));
        assert_eq!(Sweep::Nodes.experiment(&base, 32).nodes, 32);
        assert!((Sweep::Negative.experiment(&base, 25).negative_share - 0.25).abs() < 1e-9);
        assert_eq!(Sweep::Ttl.experiment(&base, 5).ttl_s, Some(5));
    }
}
