//! What a node does with very many names from a file: how soon it has them, what they weigh, what changing one costs.
//!
//! Runs on the main thread of the process that measures. The node is on the first CPU alone, all else on the second.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::cluster::{DOMAIN, Figure, Probe, addition, load_for, make_changes, names_file, percentile};
use crate::testbed::{Node, NodePlan, wait_until};
use crate::wire::name::Name;

/// Changes that are timed.
const ROUNDS: usize = 500;

/// Names that change while the load is on.
const CHANGING: u32 = 10_000;

/// How long each load is.
const SLICE: Duration = Duration::from_secs(5);

/// Measures all of it with so many names.
pub(super) fn large(directory: &Path, records: u32) -> io::Result<Vec<Figure>> {
    let path = directory.join("names");
    names_file(&path, 0, records)?;
    let empty = Node::start(NodePlan::new("empty"), directory, &[])?;
    let base = empty.resident_bytes()?;
    drop(empty);
    let plan = NodePlan { names: vec![path], ..NodePlan::new("loader") };
    let begin = Instant::now();
    let node = Node::start(plan.clone(), directory, &[])?;
    let loaded = begin.elapsed();
    drop(node);
    // On one CPU with its worker, so that changes cost the one what the other does.
    let plan = NodePlan { cpus: Some("0".into()), name: "holder".into(), ..plan };
    let node = Node::start(plan, directory, &[])?;
    let mut figures = vec![Figure {
        what: "from the start of a node to its first answer, with all names of a hosts file and all CPUs",
        asked: "<= 1.5 s at a million",
        seen: format!("{:.2} s for {records} names and as many reverse ones", loaded.as_secs_f64()),
        value: loaded.as_secs_f64(),
        holds: loaded <= Duration::from_millis(1_500),
    }];
    figures.extend(weight(&node, base, records)?);
    figures.push(change(&node)?);
    figures.push(changes(&node, directory)?);
    Ok(figures)
}

fn weight(node: &Node, base: u64, records: u32) -> io::Result<[Figure; 2]> {
    let status = node.status().map_err(io::Error::other)?;
    let name_len = Name::from_text(&format!("n0000000.{DOMAIN}")).map_err(io::Error::other)?.as_wire().len();
    let in_table = status.table_bytes as f64 / status.names as f64 - name_len as f64;
    let resident = (node.resident_bytes()? - base) as f64 / f64::from(records);
    Ok([
        Figure {
            what: "a name in the table, its record and its share of all else, beside the name itself",
            asked: "<= 100 bytes",
            seen: format!(
                "{in_table:.0} bytes; {:.0} MB for {} names",
                status.table_bytes as f64 / 1e6,
                status.names
            ),
            value: in_table,
            holds: in_table <= 100.0,
        },
        Figure {
            what: "resident memory for each name of the file, with its reverse name, store and table",
            asked: "<= 300 bytes",
            seen: format!("{resident:.0} bytes"),
            value: resident,
            holds: resident <= 300.0,
        },
    ])
}

/// From when a change is acknowledged to when it is answered.
fn change(node: &Node) -> io::Result<Figure> {
    let probe = Probe::new(node.dns())?;
    let mut took_ms = Vec::new();
    for round in 0..ROUNDS {
        let label = format!("p{round}");
        // An address of its own: its reverse name would have as many records as there were rounds.
        let [.., high, low] = round.to_be_bytes();
        node.add(&[addition(&label, [10, 255, high, low], 1)]).map_err(io::Error::other)?;
        let accepted = Instant::now();
        while probe.count(&label)? == 0 {}
        took_ms.push(accepted.elapsed().as_secs_f64() * 1e3);
        // As changes come that are no burst.
        thread::sleep(Duration::from_millis(5));
    }
    took_ms.sort_by(f64::total_cmp);
    let p99 = percentile(&took_ms, 99);
    Ok(Figure {
        what: "one change: from when it is acknowledged to when it is answered, the question and its answer included",
        asked: "p99 <= 1 ms",
        seen: format!("p50 {:.3} ms, p99 {p99:.3} ms", percentile(&took_ms, 50)),
        value: p99,
        holds: p99 <= 1.0,
    })
}

/// What changes registered at another node cost this one's data plane.
fn changes(node: &Node, directory: &Path) -> io::Result<Figure> {
    let seeds: Vec<_> = node.gossip().into_iter().collect();
    let registrar =
        Node::start(NodePlan { cpus: Some("1".into()), ..NodePlan::new("registrar") }, directory, &seeds)?;
    let all = node.status().map_err(io::Error::other)?.names;
    wait_until("the other node has all names", || {
        registrar.status().is_ok_and(|status| status.names >= all)
    })?;
    node.add(&[addition("base", [10, 0, 0, 1], 1)]).map_err(io::Error::other)?;
    let (quiet_qps, quiet) = load_for(node, directory, SLICE)?;
    let stop = AtomicBool::new(false);
    let begin = Instant::now();
    let (made, (busy_qps, busy)) = thread::scope(|scope| -> io::Result<_> {
        let changing = scope.spawn(|| make_changes(&registrar, CHANGING, &stop));
        // The first of them are names that are new.
        thread::sleep(Duration::from_secs(2));
        let busy = load_for(node, directory, SLICE);
        stop.store(true, Ordering::Relaxed);
        let (made, _) = changing.join().map_err(|_| io::Error::other("the registrar has panicked"))??;
        Ok((made, busy?))
    })?;
    let per_s = made as f64 / begin.elapsed().as_secs_f64();
    let ratio = busy / quiet;
    Ok(Figure {
        what: "what of its CPU is left for queries while another node makes 10,000 changes a second, under full load",
        asked: ">= 0.95 of quiet",
        seen: format!(
            "{ratio:.3} at {per_s:.0} changes/s; {busy_qps:.0} queries/s against {quiet_qps:.0} by a load that shares \
             its CPU with the registrar"
        ),
        value: ratio,
        holds: ratio >= 0.95,
    })
}
