//! What came of it as one page that needs nothing else: bars for the shares.
//!
//! Pure.

use std::fmt::Write as _;

use super::Results;
use crate::report::html::STYLE;
use crate::report::svg::escape;

const WIDTH: f64 = 760.0;
const LABEL_WIDTH: f64 = 150.0;
const BAR_HEIGHT: f64 = 14.0;
const GAP: f64 = 12.0;

/// Colours as of the other plots (Okabe and Ito); the first is what is intended.
const COLOURS: [&str; 5] = ["#999999", "#0072b2", "#d55e00", "#009e73", "#cc79a7"];

/// A group of bars: what it is of, and a share for each series.
pub struct Group {
    /// Its label.
    pub label: String,
    /// The shares, from 0 to 1.
    pub shares: Vec<f64>,
}

/// Bars side by side, drawn as SVG, for shares of these series.
#[must_use]
pub fn bars(series: &[&str], groups: &[Group]) -> String {
    let highest = groups.iter().flat_map(|group| &group.shares).copied().fold(0.01, f64::max);
    let group_height = series.len() as f64 * BAR_HEIGHT + GAP;
    let height = 24.0 + groups.len() as f64 * group_height;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\" role=\"img\" aria-label=\"shares of the traffic\">\n"
    );
    let mut x = LABEL_WIDTH;
    for (i, name) in series.iter().enumerate() {
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"4\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"13\">{}</text>",
            COLOURS[i % COLOURS.len()],
            x + 14.0,
            escape(name)
        );
        x += 30.0 + 6.5 * name.len() as f64;
    }
    for (i, Group { label, shares }) in groups.iter().enumerate() {
        let top = 24.0 + i as f64 * group_height;
        let middle = top + (group_height - GAP) / 2.0 + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{}\" y=\"{middle:.1}\" text-anchor=\"end\">{}</text>",
            LABEL_WIDTH - 8.0,
            escape(label)
        );
        for (j, share) in shares.iter().enumerate() {
            let y = top + j as f64 * BAR_HEIGHT;
            let len = (WIDTH - LABEL_WIDTH - 50.0) * share / highest;
            let _ = writeln!(
                svg,
                "<rect x=\"{LABEL_WIDTH}\" y=\"{y:.1}\" width=\"{len:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
                 <text x=\"{:.1}\" y=\"{:.1}\">{:.1}%</text>",
                BAR_HEIGHT - 2.0,
                COLOURS[j % COLOURS.len()],
                LABEL_WIDTH + len + 4.0,
                y + BAR_HEIGHT - 4.0,
                100.0 * share
            );
        }
    }
    svg + "</svg>\n"
}

/// The page; `command` is how it was made.
#[must_use]
pub fn page(results: &Results, command: &str) -> String {
    let titles: Vec<_> = results.spreads.iter().map(|spread| spread.chooser.title()).collect();
    let series = [&["intended"][..], &titles].concat();
    let groups: Vec<_> = results
        .addresses
        .iter()
        .enumerate()
        .map(|(i, address)| {
            let shares = results.spreads.iter().map(|spread| spread.shares[i]);
            Group {
                label: address.to_string(),
                shares: [results.intended[i]].into_iter().chain(shares).collect(),
            }
        })
        .collect();
    let title = format!("Who gets the traffic of {}", results.name);
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n<p>{1} answers to {2} clients; {3:.2} addresses in an answer on average{4}.</p>\n",
        escape(&title),
        results.answers,
        results.clients,
        results.addresses_per_answer,
        results
            .policy
            .as_ref()
            .map_or_else(String::new, |policy| format!("; the policy is {}", escape(policy))),
    );
    html += &bars(&series, &groups);
    html += "<table><tr><th>who chooses</th><th>furthest off</th><th>chi-squared</th><th>p</th></tr>\n";
    for spread in &results.spreads {
        let (value, p) = spread.chi_squared.map_or_else(
            || (String::new(), String::new()),
            |fit| (format!("{:.1} of {}", fit.value, fit.degrees), format!("{:.3}", fit.p)),
        );
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{:.2} points</td><td>{value}</td><td>{p}</td></tr>",
            spread.chooser.title(),
            spread.max_deviation_points
        );
    }
    let _ = writeln!(
        html,
        "</table>\n<p class=\"note\">Made by <code>{}</code>.</p>\n</body></html>",
        escape(command)
    );
    html
}
