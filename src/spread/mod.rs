//! Who would get the traffic: asking a name over and over, as many clients, and counting which address comes first.
//!
//! Runs on the main thread of `redbreast spread`. It knows nothing of the server but what it answers, and what its
//! control listener says is intended.

pub mod ask;
pub mod page;
pub mod sorting;
pub mod told;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use crate::bench::statistics::{ChiSquared, fit};
use sorting::Subnet;

/// What the answers to one client were: how often each list of addresses came, in its order.
pub type Answers = BTreeMap<Vec<IpAddr>, u64>;

/// A client, and what it was answered.
#[derive(Clone, Debug)]
pub struct ClientAnswers {
    /// Its address, and the network that it is in.
    pub subnet: Subnet,
    /// What it was answered.
    pub answers: Answers,
}

/// Who chooses the first address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Chooser {
    /// Nobody: the first of the answer.
    AsAnswered,
    /// What glibc's getaddrinfo makes of it by rule 9.
    Glibc,
    /// What musl's does.
    Musl,
    /// What this system's getaddrinfo made of it, in fact.
    Getaddrinfo,
}

impl Chooser {
    /// It in a heading.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::AsAnswered => "as answered",
            Self::Glibc => "after glibc",
            Self::Musl => "after musl",
            Self::Getaddrinfo => "by getaddrinfo",
        }
    }
}

/// How often each address was first, and how that fits what is intended.
#[derive(Clone, Debug, Serialize)]
pub struct Spread {
    /// Who chose.
    pub chooser: Chooser,
    /// The part of the answers that began with each address, in the order of [`Results::addresses`].
    pub shares: Vec<f64>,
    /// The greatest difference from what is intended, in percentage points.
    pub max_deviation_points: f64,
    /// How well that fits what is intended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chi_squared: Option<Fit>,
}

/// Pearson's test of fit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fit {
    /// The statistic.
    pub value: f64,
    /// Degrees of freedom.
    pub degrees: u64,
    /// How probable a value as high or higher is, if each answer begins with an address as often as intended.
    pub p: f64,
}

impl From<ChiSquared> for Fit {
    fn from(ChiSquared { value, degrees, p }: ChiSquared) -> Self {
        Self { value, degrees, p }
    }
}

/// What came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Results {
    /// The name.
    pub name: String,
    /// Who was asked.
    pub server: String,
    /// The policy, if the server's control listener was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Answers that were counted.
    pub answers: u64,
    /// Questions that were not answered.
    pub lost: u64,
    /// Addresses in an answer on average: more than one is something to fail over to.
    pub addresses_per_answer: f64,
    /// Clients.
    pub clients: usize,
    /// All addresses that came, or that are intended to.
    pub addresses: Vec<IpAddr>,
    /// The part of the clients' traffic that each is to get.
    pub intended: Vec<f64>,
    /// The part that it gets.
    pub spreads: Vec<Spread>,
}

impl Results {
    /// Sums up what `clients` were answered, as it is `chosen` from that. Without `intended` shares all addresses are
    /// to get the same.
    #[must_use]
    pub fn new(
        name: &str,
        server: String,
        clients: &[ClientAnswers],
        lost: u64,
        chosen: &[Chooser],
        intended: &BTreeMap<IpAddr, f64>,
    ) -> Self {
        let seen = clients.iter().flat_map(|client| client.answers.keys().flatten());
        let mut addresses: Vec<_> = seen.chain(intended.keys()).copied().collect();
        addresses.sort_unstable();
        addresses.dedup();
        let shares: Vec<_> = addresses
            .iter()
            .map(|address| match intended.is_empty() {
                true => 1.0 / addresses.len() as f64,
                false => intended.get(address).copied().unwrap_or_default(),
            })
            .collect();
        let all = || clients.iter().flat_map(|client| &client.answers);
        let answers: u64 = all().map(|(_, count)| count).sum();
        let records: u64 = all().map(|(answer, count)| answer.len() as u64 * count).sum();
        let spreads = chosen.iter().map(|&chooser| spread(chooser, clients, &addresses, &shares)).collect();
        Self {
            name: name.into(),
            server,
            policy: None,
            answers,
            lost,
            addresses_per_answer: records as f64 / answers.max(1) as f64,
            clients: clients.len(),
            addresses,
            intended: shares,
            spreads,
        }
    }
}

fn spread(chooser: Chooser, clients: &[ClientAnswers], addresses: &[IpAddr], intended: &[f64]) -> Spread {
    let mut counts = vec![0u64; addresses.len()];
    for ClientAnswers { subnet, answers } in clients {
        for (answer, count) in answers {
            let first = match chooser {
                Chooser::AsAnswered | Chooser::Getaddrinfo => answer.first().copied(),
                Chooser::Glibc => sorting::glibc_first(answer, subnet),
                Chooser::Musl => sorting::musl_first(answer, subnet),
            };
            let at = first.and_then(|first| addresses.binary_search(&first).ok());
            at.and_then(|at| counts.get_mut(at)).into_iter().for_each(|counted| *counted += count);
        }
    }
    let sum = counts.iter().sum::<u64>().max(1) as f64;
    let shares: Vec<_> = counts.iter().map(|&count| count as f64 / sum).collect();
    let deviation = shares.iter().zip(intended).map(|(share, intended)| 100.0 * (share - intended).abs());
    Spread {
        chooser,
        max_deviation_points: deviation.fold(0.0, f64::max),
        chi_squared: fit(&counts, intended).map(Fit::from),
        shares,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn shares_are_those_of_the_first_address_as_each_chooser_has_it() {
        let subnet: Subnet = "10.0.0.2/24".parse().unwrap();
        let answers = [(vec![v4(3), v4(4)], 30), (vec![v4(4), v4(3)], 70)].into_iter().collect();
        let client = ClientAnswers { subnet, answers };
        let choosers = [Chooser::AsAnswered, Chooser::Glibc, Chooser::Musl];
        let intended = [(v4(3), 0.3), (v4(4), 0.7)].into_iter().collect();
        let results = Results::new("web", "x".into(), &[client], 2, &choosers, &intended);
        assert_eq!((results.answers, results.lost, results.addresses_per_answer), (100, 2, 2.0));
        assert_eq!(results.spreads[0].shares, [0.3, 0.7]);
        assert_eq!(results.spreads[0].max_deviation_points, 0.0);
        assert!((results.spreads[0].chi_squared.unwrap().p - 1.0).abs() < 1e-9);
        // .2 and .3 differ in the last bit alone: the client always takes .3.
        let glibc = &results.spreads[1];
        assert_eq!(glibc.shares, [1.0, 0.0]);
        assert!((glibc.max_deviation_points - 70.0).abs() < 1e-9);
        assert!(glibc.chi_squared.unwrap().p < 1e-9);
        assert_eq!(results.spreads[2].shares, [0.3, 0.7]);
    }

    #[test]
    fn what_nobody_intends_is_to_be_even_and_what_never_comes_counts_as_none() {
        let client = ClientAnswers {
            subnet: "10.0.0.2/24".parse().unwrap(),
            answers: [(vec![v4(3)], 10)].into_iter().collect(),
        };
        let even = Results::new(
            "web",
            "x".into(),
            std::slice::from_ref(&client),
            0,
            &[Chooser::AsAnswered],
            &BTreeMap::new(),
        );
        assert_eq!(even.intended, [1.0]);
        let intended = [(v4(3), 0.5), (v4(9), 0.5)].into_iter().collect();
        let half = Results::new("web", "x".into(), &[client], 0, &[Chooser::AsAnswered], &intended);
        assert_eq!((half.addresses.len(), half.spreads[0].max_deviation_points), (2, 50.0));
    }
}
