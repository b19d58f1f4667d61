//! What the gate found, for people and for programs: a table, Markdown for pull requests, JSON, and JUnit XML.
//!
//! Pure.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::gate::{Finding, GateVerdict};
use crate::report::svg::escape;

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
    pub fn has(&self, verdict: GateVerdict) -> bool {
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
            let may = if it.verdict == GateVerdict::Reported {
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
        let says = match (self.has(GateVerdict::Slower), self.has(GateVerdict::CannotTell)) {
            (true, _) => "slower",
            (false, true) => "cannot tell",
            (false, false) => "holds",
        };
        format!("### Performance: {says}\n\n{}", self.text())
    }

    /// As JUnit XML: what is slower fails, what cannot be told is an error, what was not measured is skipped.
    #[must_use]
    pub fn junit(&self) -> String {
        let mut cases = String::new();
        let (mut failures, mut errors, mut tests) = (0, 0, self.skipped.len());
        for it in self.findings.iter().filter(|it| it.verdict != GateVerdict::Reported) {
            tests += 1;
            let element = match it.verdict {
                GateVerdict::Slower => "failure",
                GateVerdict::CannotTell => "error",
                GateVerdict::Holds | GateVerdict::Reported => "",
            };
            failures += usize::from(element == "failure");
            errors += usize::from(element == "error");
            let text = format!("{} against {}, {}", number(it.now), number(it.base), it.verdict.name());
            push_case(&mut cases, &it.scenario, &it.metric, element, &text);
        }
        for (scenario, why) in &self.skipped {
            push_case(&mut cases, scenario, scenario, "skipped", why);
        }
        let counts = format!(
            "tests=\"{tests}\" skipped=\"{}\" errors=\"{errors}\" failures=\"{failures}\"",
            self.skipped.len()
        );
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"redbreast\" {counts}>\n\
             <testsuite name=\"redbreast perf check\" {counts}>\n{cases}</testsuite>\n</testsuites>\n"
        )
    }
}

/// Adds one test case, with an element that says how it ended unless that is well.
fn push_case(cases: &mut String, scenario: &str, metric: &str, element: &str, message: &str) {
    let _ = write!(cases, "<testcase classname=\"{}\" name=\"{}\"", escape(scenario), escape(metric));
    let _ = match element {
        "" => writeln!(cases, "/>"),
        _ => writeln!(cases, "><{element} message=\"{}\"/></testcase>", escape(message)),
    };
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
                finding("instructions", 1.03, GateVerdict::Slower),
                finding("l1_misses", 2.0, GateVerdict::Reported),
            ],
            skipped: vec![("serve-base".into(), "it needs <another> \"build\"".into())],
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
        let junit = told.junit();
        assert!(
            junit.contains("failures=\"1\"")
                && junit.contains("1030 against 1000")
                && junit.contains("tests=\"2\" skipped=\"1\" errors=\"0\"")
                && junit.contains("<skipped message=\"it needs &lt;another&gt; &quot;build&quot;\"/>")
                && !junit.contains("l1_misses"),
            "{junit}"
        );
        told.findings[0].verdict = GateVerdict::CannotTell;
        assert!(told.markdown().starts_with("### Performance: cannot tell\n"));
        assert!(told.junit().contains("errors=\"1\""));
    }
}
