//! What the gate found, for people and for programs: a table, Markdown for pull requests, JSON, and JUnit XML.
//!
//! Pure.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use quick_junit::{NonSuccessKind, Report, TestCase, TestCaseStatus, TestSuite};
use serde::Serialize;

use super::fault::Fault;
use super::gate::{Finding, Verdict};

/// All that was found.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Told {
    /// What was compared.
    pub findings: Vec<Finding>,
    /// Scenarios that were not measured, and why.
    pub skipped: Vec<(String, String)>,
    /// How the baseline's machine and its tools differ from these.
    pub differences: Vec<String>,
}

impl Told {
    /// Whether something has this verdict.
    #[must_use]
    pub fn has(&self, verdict: Verdict) -> bool {
        self.findings.iter().any(|finding| finding.verdict == verdict)
    }

    /// The table, and what else is to be said.
    #[must_use]
    pub fn text(&self) -> String {
        let mut table = Table::new();
        table.load_preset(presets::ASCII_MARKDOWN);
        table.set_header(["scenario", "metric", "base", "now", "change", "95% interval", "may", "verdict"]);
        for it in &self.findings {
            let percent = |ratio: f64| match ratio.is_finite() {
                true => format!("{:+.1}%", (ratio - 1.0) * 100.0),
                false => "from none".into(),
            };
            let interval = if it.low < it.high {
                format!("{} to {}", percent(it.low), percent(it.high))
            } else {
                "exact".into()
            };
            let may = if it.verdict == Verdict::Reported {
                String::new()
            } else {
                format!("{}%", it.tolerance * 100.0)
            };
            table.add_row([
                it.scenario.clone(),
                it.metric.clone(),
                number(it.base),
                number(it.now),
                percent(it.ratio),
                interval,
                may,
                it.verdict.name().into(),
            ]);
        }
        for column in table.column_iter_mut().skip(2).take(5) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n");
        for (scenario, why) in &self.skipped {
            let _ = writeln!(text, "\nnot measured: {scenario}: {why}");
        }
        for difference in &self.differences {
            let _ = writeln!(text, "\nnote: {difference}: what looks slower may be so for that");
        }
        text
    }

    /// For a pull request.
    #[must_use]
    pub fn markdown(&self) -> String {
        let says = match (self.has(Verdict::Slower), self.has(Verdict::CannotTell)) {
            (true, _) => "slower",
            (false, true) => "cannot tell",
            (false, false) => "holds",
        };
        format!("### Performance: {says}\n\n{}", self.text())
    }

    /// As JUnit XML: what is slower fails, what cannot be told is an error, what was not measured is skipped.
    ///
    /// # Errors
    /// None that can be met.
    pub fn junit(&self) -> Result<String, Fault> {
        let mut suite = TestSuite::new("redbreast perf check");
        for it in self.findings.iter().filter(|it| it.verdict != Verdict::Reported) {
            let mut status = match it.verdict {
                Verdict::Slower => TestCaseStatus::non_success(NonSuccessKind::Failure),
                Verdict::CannotTell => TestCaseStatus::non_success(NonSuccessKind::Error),
                Verdict::Holds | Verdict::Reported => TestCaseStatus::success(),
            };
            if it.verdict != Verdict::Holds {
                status.set_message(format!(
                    "{} against {}, {}",
                    number(it.now),
                    number(it.base),
                    it.verdict.name()
                ));
            }
            let mut case = TestCase::new(&it.metric, status);
            case.set_classname(&it.scenario);
            suite.add_test_case(case);
        }
        for (scenario, why) in &self.skipped {
            let mut status = TestCaseStatus::skipped();
            status.set_message(why);
            suite.add_test_case(TestCase::new(scenario, status));
        }
        let mut report = Report::new("redbreast");
        report.add_test_suite(suite);
        report.to_string().map_err(Fault::new)
    }
}

/// With as many digits as are of use.
pub(super) fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0.. => format!("{value:.1}"),
        0.0 => "0".into(),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_says_what_is_slower() {
        let finding = |metric: &str, ratio: f64, verdict| Finding {
            scenario: "answer-positive".into(),
            stands_for: String::new(),
            metric: metric.into(),
            base: 1_000.0,
            now: 1_000.0 * ratio,
            ratio,
            low: ratio,
            high: ratio,
            tolerance: 0.02,
            verdict,
        };
        let mut told = Told {
            findings: vec![
                finding("instructions", 1.03, Verdict::Slower),
                finding("l1_misses", 2.0, Verdict::Reported),
            ],
            skipped: vec![("serve-base".into(), "it needs another build".into())],
            differences: vec!["another compiler".into()],
        };
        let text = told.text();
        for part in [
            "answer-positive",
            "1000",
            "1030",
            "+3.0%",
            "2%",
            "SLOWER",
            "serve-base: it needs",
            "another compiler",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(told.markdown().starts_with("### Performance: slower\n"));
        let junit = told.junit().unwrap();
        assert!(
            junit.contains("failures=\"1\"")
                && junit.contains("1030 against 1000")
                && !junit.contains("l1_misses"),
            "{junit}"
        );
        told.findings[0].verdict = Verdict::CannotTell;
        assert!(told.markdown().starts_with("### Performance: cannot tell\n"));
        assert!(told.junit().unwrap().contains("errors=\"1\""));
    }
}
