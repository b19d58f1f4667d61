//! A result against another that was saved.
//!
//! Made by the main thread.

use super::comparison::{ComparisonRecord, ContestRecord, RulingRecord};
use super::json::Report;
use crate::bench::ab::{self, METRICS};
use crate::bench::objective::{Metric, Objective};

impl ContestRecord {
    /// What comes of comparing one result with another that was saved: ratios, and no interval.
    #[must_use]
    pub fn of_reports(against: &str, ours: &Report, theirs: &Report, requirements: &[Objective]) -> Self {
        let value = |report: &Report, metric: Metric| match metric {
            Metric::Qps => Some(report.qps),
            Metric::Mean => report.response_us.mean,
            Metric::Quantile(0.5) => report.response_us.p50,
            Metric::Quantile(0.9) => report.response_us.p90,
            Metric::Quantile(0.99) => report.response_us.p99,
            Metric::Quantile(0.999) => report.response_us.p99_9,
            Metric::Quantile(0.9999) => report.response_us.p99_99,
            Metric::Quantile(1.0) => report.response_us.max,
            Metric::Quantile(_) | Metric::Loss | Metric::Errors => None,
        };
        let compare = |metric| ab::compare(metric, &[value(ours, metric)?], &[value(theirs, metric)?]);
        let rule = |requirement: &Objective| match compare(requirement.metric) {
            Some(comparison) => {
                RulingRecord { certain: false, ..RulingRecord::new(&ab::rule(requirement, comparison.ratio)) }
            }
            None => RulingRecord { requirement: requirement.to_string(), ..RulingRecord::default() },
        };
        Self {
            against: against.into(),
            rounds: Vec::new(),
            comparisons: METRICS
                .iter()
                .filter_map(|&metric| Some(ComparisonRecord::new(&compare(metric)?, 1)))
                .collect(),
            requirements: requirements.iter().map(rule).collect(),
        }
    }
}
