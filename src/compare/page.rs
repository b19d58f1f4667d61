//! What came of a comparison as one page that needs nothing else, for people who hear of these designs for the first
//! time.

use std::fmt::Write as _;

use super::results::{FaultResult, Negatives, Results, SweepResult};
use super::{Design, drawing, table};
use crate::report::html::STYLE;
use crate::report::svg::{Line, Plot, Scale, escape};

/// What this page needs besides the style of all pages.
const OWN_STYLE: &str = ".designs{display:grid;grid-template-columns:repeat(auto-fit,minmax(17em,1fr));gap:1.5em}\
.drawing circle{fill:#fff;stroke:#444}.drawing rect{fill:#fff7e0;stroke:#b8860b}.drawing \
line{stroke:#0072b2;stroke-width:1.6}.drawing line.first{stroke-dasharray:4 3}.drawing \
line.update{stroke:#009e73}.drawing marker \
path{fill:#444}table.wide{font-size:13px}pre{background:#f6f6f6;padding:.6em 1em;overflow-x:auto}";

/// The page; `command` is how it was made.
#[must_use]
pub fn page(results: &Results, command: &str) -> String {
    let mut html = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Three designs on the same work</title>\
         <style>{STYLE}{OWN_STYLE}</style></head><body>\n<h1>Three designs on the same work</h1>\n\
         <p>A cluster of machines runs services that come and go. A client on one of them knows a service by name and \
         asks the name server on its own machine for the address. Where does that name server have it from? There are \
         three answers, and this page shows what each costs.</p>\n"
    );
    designs(&mut html);
    summary(&mut html, results);
    speed(&mut html, results);
    events(&mut html, results);
    for sweep in &results.sweeps {
        swept(&mut html, sweep);
    }
    machine(&mut html, results, command);
    html.push_str("</body></html>\n");
    html
}

fn designs(html: &mut String) {
    html.push_str("<div class=\"designs\">\n");
    for design in Design::ALL {
        let _ = writeln!(
            html,
            "<div><h3>{}</h3>{}<p>{}</p></div>",
            design.name(),
            drawing::drawing(design),
            drawing::told(design)
        );
    }
    html.push_str(
        "</div>\n<p class=\"note\">In a circle is what the node holds; blue arrows go while a client waits (dashed: \
         only the first time), green ones do not.</p>\n",
    );
}

fn table_of(html: &mut String, class: &str, (head, rows): (Vec<String>, Vec<Vec<String>>)) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(html, "<table class=\"{class}\"><tr>");
    head.iter().for_each(|cell| {
        let _ = write!(html, "<th>{}</th>", escape(cell));
    });
    html.push_str("</tr>\n");
    for row in rows {
        html.push_str("<tr>");
        row.iter().for_each(|cell| {
            let _ = write!(html, "<td>{}</td>", escape(cell));
        });
        html.push_str("</tr>\n");
    }
    html.push_str("</table>\n");
}

fn summary(html: &mut String, results: &Results) {
    let row = |design| results.row(design, Negatives::New);
    if let (Some(cache), Some(gossip)) = (row(Design::Cache), row(Design::Gossip)) {
        let _ = writeln!(
            html,
            "<div class=\"good\"><b>{:.0} queries a second with gossip, {:.0} with the cache</b>, on the same work: \
             {} nodes with {} names each, {:.0}% of the queries for names that nobody has.</div>",
            gossip.qps,
            cache.qps,
            results.experiment.nodes,
            results.experiment.names_per_node,
            results.experiment.negative_share * 100.0
        );
    }
    let repeated = |design| results.row(design, Negatives::Repeated);
    if let (Some(cache), Some(gossip)) = (repeated(Design::Cache), repeated(Design::Gossip)) {
        let _ = writeln!(
            html,
            "<p>That is with names that nobody has asked for before. When they are the same few again and again, the \
             cache has them, too, and does {:.0} queries a second beside {:.0}: then it pays with what it does not \
             know, as the rest of this page shows.</p>",
            cache.qps, gossip.qps
        );
    }
    table_of(html, "", table::claimed(results));
}

fn line(name: &str, points: Vec<(f64, f64)>, colour: usize) -> Line {
    Line { name: name.into(), points, dashed: false, colour }
}

fn speed(html: &mut String, results: &Results) {
    let experiment = &results.experiment;
    let _ = writeln!(
        html,
        "<h2>Speed and cost</h2>\n<p>{} queries outstanding at one node, medians of {} rounds of {} s, one design \
         after the other. Each cluster is new; before it is measured it has answered every name once, and has had a \
         second of the same load with repeated names.</p>",
        experiment.outstanding, experiment.rounds, experiment.seconds
    );
    for negatives in [Negatives::New, Negatives::Repeated] {
        let _ = writeln!(html, "<h3>When {}</h3>", table::told(negatives));
        table_of(html, "", table::speeds(results, negatives));
        let rows = results.rows.iter().filter(|row| row.negatives == Some(negatives));
        let lines = rows.enumerate().map(|(i, row)| line(&row.name, table::curve(&row.all), i)).collect();
        let marks = [("50%", 2.0), ("90%", 10.0), ("99%", 1e2), ("99.9%", 1e3), ("99.99%", 1e4)];
        let plot = Plot {
            x_label: "percentile",
            y_label: "latency (us)",
            x_scale: Scale::Log,
            y_scale: Scale::Log,
            x_marks: marks.map(|(text, value)| (value, text.into())).to_vec(),
            lines,
        };
        html.push_str(&plot.draw());
    }
    for row in results.rows.iter().filter(|row| row.generator_limited > 0) {
        let _ = writeln!(
            html,
            "<p class=\"note\">In {} of {} rounds against {} the load generator was at its own limit, or shared its \
             CPU: the server may do better than that.</p>",
            row.generator_limited,
            experiment.rounds,
            escape(&row.name)
        );
    }
}

fn events(html: &mut String, results: &Results) {
    if results.stopped.is_empty() && results.faults.is_empty() {
        return;
    }
    html.push_str(
        "<h2>When a node fails</h2>\n<p>The same load with one node stopped (it hangs: its packets are received and \
         nobody reads them), in turns with all nodes running:</p>\n",
    );
    table_of(html, "", table::stopped(results));
    for failure in table::failures(results) {
        let of_failure: Vec<_> = results.faults.iter().filter(|fault| fault.failure == failure).collect();
        let lasted_s = of_failure.first().map_or(0.0, |fault| fault.lasted_s);
        let _ = writeln!(
            html,
            "<h3>For {lasted_s:.0} s {}</h3>\n<p>Another node is asked for names of each kind. The plot has the share \
             of answers with the address that the failed node has registered: gone is good while it is dead.</p>",
            failure.text()
        );
        table_of(html, "wide", table::suffered(results, failure));
        html.push_str(&course(&of_failure));
    }
    html.push_str(
        "<h2>When a name changes</h2>\n<p>Every node is asked for it all the time, before and after; stale is every \
         answer that does not have the change, from the moment when it was acknowledged.</p>\n",
    );
    table_of(html, "", table::fresh(results));
}

/// The share of answers with the failed node's address over time.
fn course(faults: &[&FaultResult]) -> String {
    let lines = faults.iter().enumerate().filter_map(|(i, fault)| {
        let seen = fault.seen.get(2)?;
        let points = seen.course.iter().map(|&(s, share)| (s + 4.0, share * 100.0)).collect();
        Some(line(fault.design.name(), points, i))
    });
    let marks = (0..=10).map(|i| (f64::from(i) * 5.0 + 4.0, format!("{}", i * 5))).collect();
    let plot = Plot {
        x_label: "seconds since the failure began",
        y_label: "answers with its address (%)",
        x_scale: Scale::Linear,
        y_scale: Scale::Linear,
        x_marks: marks,
        lines: lines.collect(),
    };
    plot.draw()
}

fn swept(html: &mut String, result: &SweepResult) {
    let text = result.sweep.text();
    let _ = writeln!(html, "<h2>By {}</h2>", escape(text));
    table_of(html, "wide", table::swept(result));
    let designs = result.points.first().map_or(0, |(_, rows)| rows.len());
    for (y_label, of) in [
        ("queries a second", (|row: &super::results::Row| Some(row.qps)) as fn(&_) -> _),
        ("p99 (us)", |row: &super::results::Row| row.all.p99),
    ] {
        let of_design = |i: usize| {
            let name = result.points.first().and_then(|(_, rows)| rows.get(i)).map_or("", |row| &row.name);
            let points = result.points.iter().filter_map(|(value, rows)| Some((*value, of(rows.get(i)?)?)));
            line(name, points.collect(), i)
        };
        let plot = Plot {
            x_label: text,
            y_label,
            x_scale: if result.sweep.is_logarithmic() { Scale::Log } else { Scale::Linear },
            y_scale: Scale::Log,
            x_marks: result.points.iter().map(|(value, _)| (*value, format!("{value}"))).collect(),
            lines: (0..designs).map(of_design).collect(),
        };
        html.push_str(&plot.draw());
    }
}

fn machine(html: &mut String, results: &Results, command: &str) {
    let machine = &results.machine;
    let cpus = results.cpus.as_ref().map_or("not pinned".into(), |[asked, others, load]| {
        format!("the node that is asked on CPU {asked}, the others on {others}, the load on {load}")
    });
    let network = if results.namespaces { "network namespaces joined by a bridge" } else { "loopback" };
    let _ = writeln!(
        html,
        "<h2>Machine</h2>\n<p>{}, {} cores, Linux {}; {cpus}; {network}; {} threads that answer in each node. \
         Measured in {:.0} s by {} {}.</p>\n<h2>Run it again</h2>\n<pre>{}</pre>\n<p>Everything runs on one machine, \
         as processes of the same build. No design is tuned down: asking is done at once for all names that wait, in \
         flight questions are shared, and the cache refreshes all names at the same time, which weaveDNS 1.0 did one \
         after the other.</p>",
        escape(&machine.cpu),
        machine.cores,
        escape(&machine.kernel),
        results.experiment.workers,
        results.took_s,
        results.tool,
        results.version,
        escape(command)
    );
}
