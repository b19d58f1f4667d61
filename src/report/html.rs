//! Results as one page that needs nothing else: tables, percentile curve, course, histogram, machine. Of several
//! results the lines lie over each other.
//!
//! Written by the main thread from reports, new or saved.

use std::fmt::Write as _;

use super::json::{Percentiles, Report};
use super::svg::{Line, Plot, Scale, escape, short};
use crate::bench::series::whole;

pub(crate) const STYLE: &str = ":root{color-scheme:light dark;--text:#222;--page:#fff;--line:#ddd;--grid:#e4e4e4;\
--good:#eaf6ec;--bad:#fdecea;--dim:#555}@media(prefers-color-scheme:dark){:root{--text:#ddd;--page:#16181c;\
--line:#3a3d44;\
--grid:#2b2e35;--good:#17301c;--bad:#3a1d1b;--dim:#aaa}}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:var(--text);\
background:var(--page)}\
table{border-collapse:collapse;margin:1em 0;display:block;overflow-x:auto}\
td,th{padding:.2em .8em;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}\
td:first-child,th:first-child{text-align:left}td.wrap{white-space:normal}\
svg{width:100%;height:auto;font-size:12px}svg text{fill:var(--text)}.grid{stroke:var(--grid)}\
.legend span{margin-right:1.2em;display:inline-block}.legend svg{width:1.9em;height:.4em;margin-right:.4em;\
vertical-align:middle}\
.bad{background:var(--bad);border-left:4px solid #c0392b;padding:.5em 1em}\
.good{background:var(--good);border-left:4px solid #2e7d32;padding:.5em 1em}.note{color:var(--dim)}\
@media(max-width:600px){body{margin:1em \
auto}td,th{padding:.2em .4em}svg{font-size:20px}.bad,.good{overflow-wrap:anywhere}}";

/// The page of some results, each with its name.
#[must_use]
pub fn page(title: &str, reports: &[(String, Report)]) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head><body>\n\
         <h1>{0}</h1>\n",
        escape(title)
    );
    reports.iter().for_each(|(name, report)| verdict(&mut html, name, report));
    html.push_str(
        "<h2>Latency by percentile</h2>\n<p>Response time: from when a query was due to its answer. Queries that were \
         not answered count with the time that was waited for them.</p>\n",
    );
    html.push_str(&percentile_plot(reports).draw());
    html.push_str("<h2>Course</h2>\n");
    html.push_str(&rate_plot(reports).draw());
    html.push_str(&course_plot(reports).draw());
    if reports.iter().any(|(_, report)| report.settings.schedule.contains("..")) {
        html.push_str("<h2>Answered against offered</h2>\n");
        html.push_str(&ramp_plot(reports).draw());
    }
    html.push_str("<h2>Distribution</h2>\n");
    html.push_str(&histogram_plot(reports).draw());
    comparisons(&mut html, reports);
    latencies(&mut html, reports);
    totals(&mut html, reports);
    machines(&mut html, reports);
    html.push_str("</body></html>\n");
    html
}

fn verdict(html: &mut String, name: &str, report: &Report) {
    let class = if report.verdict.valid { "good" } else { "bad" };
    let _ = write!(html, "<div class=\"{class}\"><b>{}</b>: ", escape(name));
    if report.verdict.valid {
        let _ = write!(html, "{:.0} queries/s, valid: the result stands for the server.", report.qps);
    } else if report.verdict.complete {
        html.push_str("<b>invalid</b>: the result does not stand for the server.");
    } else {
        let _ = write!(html, "<b>not complete</b>: {}", escape(&report.verdict.reason));
    }
    for fault in &report.verdict.faults {
        let _ = write!(html, "<br>{}: {}", escape(&fault.name), escape(&fault.text));
    }
    for note in &report.verdict.notes {
        let _ = write!(html, "<br><span class=\"note\">{}</span>", escape(note));
    }
    html.push_str("</div>\n");
}

/// What stands in one row of a table.
type Cell<'a> = &'a dyn Fn(&Report) -> String;

/// A table with a column for each result.
fn table(html: &mut String, reports: &[(String, Report)], rows: &[(&str, Cell<'_>)]) {
    html.push_str("<table><tr><th></th>");
    for (name, _) in reports {
        let _ = write!(html, "<th>{}</th>", escape(name));
    }
    html.push_str("</tr>\n");
    for (label, cell) in rows {
        let _ = write!(html, "<tr><td>{}</td>", escape(label));
        for (_, report) in reports {
            let _ = write!(html, "<td>{}</td>", escape(&cell(report)));
        }
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

fn totals(html: &mut String, reports: &[(String, Report)]) {
    html.push_str("<h2>Counts</h2>\n");
    table(
        html,
        reports,
        &[
            ("server", &|report| format!("{} ({})", report.target.address, report.target.transport)),
            ("schedule", &|report| match report.settings.max_qps {
                Some(qps) => format!("{qps} a second, {}", report.settings.schedule),
                None => report.settings.schedule.clone(),
            }),
            ("queries answered a second", &|report| format!("{:.0}", report.qps)),
            ("run time (s)", &|report| format!("{:.3}", report.run_time_s)),
            ("sent", &|report| report.totals.sent.to_string()),
            ("answered", &|report| report.totals.completed.to_string()),
            ("lost", &|report| report.totals.lost.to_string()),
            ("due and never sent", &|report| report.totals.overdue.to_string()),
            ("late, duplicate", &|report| format!("{}, {}", report.totals.late, report.totals.duplicate)),
            ("mismatched, from elsewhere", &|report| {
                format!("{}, {}", report.totals.mismatched, report.totals.wrong_source)
            }),
            ("response codes", &|report| {
                report
                    .rcodes
                    .iter()
                    .map(|(code, count)| format!("{code} {count}"))
                    .collect::<Vec<_>>()
                    .join(", ")
            }),
        ],
    );
}

fn latencies(html: &mut String, reports: &[(String, Report)]) {
    type Rows<'a> = [(&'a str, &'a dyn Fn(&Percentiles) -> Option<f64>); 8];
    let rows: Rows<'_> = [
        ("min", &|of| of.min),
        ("mean", &|of| of.mean),
        ("p50", &|of| of.p50),
        ("p90", &|of| of.p90),
        ("p99", &|of| of.p99),
        ("p99.9", &|of| of.p99_9),
        ("p99.99", &|of| of.p99_99),
        ("max", &|of| of.max),
    ];
    type Of = fn(&Report) -> &Percentiles;
    let kinds: [(&str, Of); 4] = [
        ("response time", |report| &report.response_us),
        ("service time, positive", |report| &report.latency_us.positive),
        ("service time, negative", |report| &report.latency_us.negative),
        ("sent after due", |report| &report.slip_us),
    ];
    html.push_str("<h2>Latency (us)</h2>\n<table><tr><th></th>");
    for (label, _) in &rows {
        let _ = write!(html, "<th>{label}</th>");
    }
    html.push_str("</tr>\n");
    for (kind, of) in kinds {
        for (name, report) in reports.iter().filter(|(_, report)| of(report).min.is_some()) {
            let name = if reports.len() > 1 { format!("{kind}: {}", escape(name)) } else { kind.into() };
            let _ = write!(html, "<tr><td>{name}</td>");
            for (label, value) in &rows {
                let _ = write!(html, "<td>{}</td>", escape(&show(of(report), label, value(of(report)))));
            }
            html.push_str("</tr>\n");
        }
    }
    html.push_str("</table>\n");
}

/// A statistic; percentiles as bounds where they are. The others are those of the answers.
fn show(of: &Percentiles, label: &str, value: Option<f64>) -> String {
    let bound =
        label.starts_with('p') && of.bounds_from.is_some_and(|from| value.is_some_and(|value| value >= from));
    value.map_or("-".into(), |value| format!("{}{value:.1}", if bound { "≥ " } else { "" }))
}

fn line(name: String, points: Vec<(f64, f64)>, colour: usize) -> Line {
    Line { name, points, dashed: false, colour }
}

fn percentile_plot(reports: &[(String, Report)]) -> Plot<'static> {
    let lines = reports.iter().enumerate().map(|(number, (name, report))| {
        // The last point would be at infinity: it is drawn a step after the one before.
        let points = report.curve.iter().map(|&(percentile, us)| (1.0 / (1.0 - percentile / 100.0), us));
        line(name.clone(), points.filter(|point| point.0.is_finite()).collect(), number)
    });
    let marks = [("0%", 1.0), ("90%", 10.0), ("99%", 1e2), ("99.9%", 1e3), ("99.99%", 1e4), ("99.999%", 1e5)];
    Plot {
        x_label: "percentile",
        y_label: "response time (us)",
        x_scale: Scale::Log,
        y_scale: Scale::Log,
        x_marks: marks.map(|(text, value)| (value, text.into())).to_vec(),
        lines: lines.collect(),
    }
}

fn rate_plot(reports: &[(String, Report)]) -> Plot<'static> {
    let mut lines = Vec::new();
    for (number, (name, report)) in reports.iter().enumerate() {
        let middle = |point: &super::json::PointRecord| point.start_s + point.length_s / 2.0;
        let whole =
            || whole(&report.series, |point| point.length_s).iter().filter(|point| point.length_s > 0.0);
        let answered =
            whole().map(|point| (middle(point), point.completed as f64 / point.length_s)).collect();
        lines.push(line(format!("{name}: answered"), answered, number));
        let offered: Vec<_> = whole().filter_map(|point| Some((middle(point), point.offered_qps?))).collect();
        if !offered.is_empty() {
            lines.push(Line { dashed: true, ..line(format!("{name}: offered"), offered, number) });
        }
    }
    Plot {
        x_label: "seconds since the start",
        y_label: "queries a second",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        x_marks: Vec::new(),
        lines,
    }
}

fn course_plot(reports: &[(String, Report)]) -> Plot<'static> {
    let mut lines = Vec::new();
    for (number, (name, report)) in reports.iter().enumerate() {
        let answered = || report.series.iter().filter(|point| point.completed > 0);
        let p50 = answered().filter_map(|point| Some((point.start_s, point.p50_us?))).collect();
        let p99 = answered().filter_map(|point| Some((point.start_s, point.p99_us?))).collect();
        lines.push(line(format!("{name}: p99"), p99, number));
        lines.push(Line { dashed: true, ..line(format!("{name}: p50"), p50, number) });
    }
    Plot {
        x_label: "seconds since the start",
        y_label: "response time (us)",
        x_scale: Scale::Linear,
        y_scale: Scale::Log,
        x_marks: Vec::new(),
        lines,
    }
}

fn ramp_plot(reports: &[(String, Report)]) -> Plot<'static> {
    let lines = reports.iter().enumerate().map(|(number, (name, report))| {
        let whole = whole(&report.series, |point| point.length_s).iter().filter(|point| point.length_s > 0.0);
        let points =
            whole.filter_map(|point| Some((point.offered_qps?, point.completed as f64 / point.length_s)));
        line(name.clone(), points.collect(), number)
    });
    Plot {
        x_label: "offered queries a second",
        y_label: "answered queries a second",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        x_marks: Vec::new(),
        lines: lines.collect(),
    }
}

fn histogram_plot(reports: &[(String, Report)]) -> Plot<'static> {
    let lines = reports.iter().enumerate().map(|(number, (name, report))| {
        let total: u64 = report.histogram.iter().map(|bar| bar.1).sum();
        let points =
            report.histogram.iter().map(|&(end_us, count)| (end_us, 100.0 * count as f64 / total as f64));
        line(name.clone(), points.collect(), number)
    });
    Plot {
        x_label: "response time (us)",
        y_label: "% of queries",
        x_scale: Scale::Log,
        y_scale: Scale::Linear,
        x_marks: Vec::new(),
        lines: lines.collect(),
    }
}

/// What was found by a search, and what came of a comparison.
fn comparisons(html: &mut String, reports: &[(String, Report)]) {
    for (name, report) in reports {
        if let Some(search) = &report.search {
            let best = search.best_qps.map_or("none".into(), |best| format!("{best:.0} queries/s"));
            let _ = write!(
                html,
                "<h2>{}: highest rate that holds {}</h2><p>{best}; the limit is the {}.</p>\n<table><tr><th>rate</th>\
                 <th>answered/s</th><th>p50 (us)</th><th>p99 (us)</th><th>loss</th><th></th></tr>\n",
                escape(name),
                escape(&search.objective),
                escape(&search.limit)
            );
            for trial in &search.trials {
                let verdict = if trial.holds { "holds".into() } else { trial.missed.join(", ") };
                let _ = writeln!(
                    html,
                    "<tr><td>{:.0}</td><td>{:.0}</td><td>{:.1}</td><td>{:.1}</td><td>{:.3}%</td><td>{}</td></tr>",
                    trial.rate_qps,
                    trial.qps,
                    trial.p50_us,
                    trial.p99_us,
                    trial.loss * 100.0,
                    escape(&verdict)
                );
            }
            html.push_str("</table>\n");
        }
        if let Some(contest) = &report.contest {
            let _ = write!(
                html,
                "<h2>{} against {}</h2>\n<table><tr><th></th><th>ours</th><th>theirs</th><th>ratio</th>\
                 <th>95% interval</th></tr>\n",
                escape(name),
                escape(&contest.against)
            );
            for row in &contest.comparisons {
                let interval =
                    row.low.zip(row.high).map_or("-".into(), |(low, high)| format!("{low:.3} to {high:.3}"));
                let _ = writeln!(
                    html,
                    "<tr><td>{}</td><td>{}</td><td>{}</td><td>{:.3}</td><td>{interval}</td></tr>",
                    escape(&row.metric),
                    short(row.ours),
                    short(row.theirs),
                    row.ratio
                );
            }
            html.push_str("</table>\n");
        }
    }
}

fn machines(html: &mut String, reports: &[(String, Report)]) {
    html.push_str("<h2>Machine</h2>\n");
    table(
        html,
        reports,
        &[
            ("processor", &|report| report.machine.cpu.clone()),
            ("cores, and those of the generator", &|report| {
                format!("{}, {}", report.machine.cores, report.machine.cpus)
            }),
            ("clock governor", &|report| report.machine.governor.clone().unwrap_or("-".into())),
            ("kernel", &|report| report.machine.kernel.clone()),
            ("server's process, and its cores", &|report| {
                let process = report.generator.server_process.as_ref();
                let share =
                    report.generator.server_share.map(|share| format!(", {:.0}% busy", share * 100.0));
                process.map_or("not seen on this machine".into(), |process| {
                    format!("{}, {}{}", process.name, process.cpus, share.unwrap_or_default())
                })
            }),
            ("generator busy, waiting for a CPU", &|report| {
                let threads = report.generator.threads.iter();
                let parts = threads
                    .map(|thread| format!("{:.0}%, {:.1}%", thread.busy * 100.0, thread.delayed * 100.0));
                parts.collect::<Vec<_>>().join("; ")
            }),
            ("clients, threads", &|report| {
                format!("{}, {}", report.settings.clients, report.settings.threads)
            }),
            ("queries", &|report| {
                format!("{} ({})", report.settings.queries, report.settings.queries_in_file)
            }),
            ("measured by", &|report| format!("{} {}", report.tool, report.version)),
        ],
    );
}
