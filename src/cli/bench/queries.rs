//! The queries that the options ask for: from a file, a capture, or drawn. Runs on the main thread before anything is sent.

use std::io::{self, BufReader, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::options::{Args, Workload};
use crate::bench::schedule::Plan;
use crate::bench::workload::{capture, hosts, mix};
use crate::bench::{QueryFile, QueryFileError, Settings};
use crate::cli::{Failure, sample};
use crate::wire::record::rtype;

/// Queries, what they are called, and the times when they were sent if they were captured.
pub(super) struct Queries {
    pub(super) file: QueryFile,
    pub(super) name: String,
    at_ns: Option<Vec<u64>>,
    passed_over: u64,
}

impl Queries {
    /// Makes the queries that the options ask for.
    pub(super) fn read(args: &Args) -> Result<Self, Failure> {
        let workload = &args.workload;
        let edns = workload.edns();
        let name_of = |path: &Path| path.display().to_string();
        if workload.pcap.is_some() && edns.is_some() {
            let fault = "queries of a capture are sent as they are; expected no -e, -D, -E, --nsid or --cookie beside --pcap";
            return Err(Failure::usage(fault));
        }
        let plain = |file, name| Self { file, name, at_ns: None, passed_over: 0 };
        let made = if let Some(path) = &workload.pcap {
            capture::open(path, workload.pcap_port).map(|capture| Self {
                file: capture.queries,
                name: name_of(path),
                at_ns: Some(capture.at_ns),
                passed_over: capture.passed_over,
            })
        } else if let Some(path) = &workload.hosts {
            hosts::open(path, edns.as_ref()).map(|file| plain(file, name_of(path)))
        } else if workload.names.is_some() || workload.pattern.is_some() {
            return draw(workload).map(|(file, name)| plain(file, name));
        } else if let Some(path) = &workload.queries {
            QueryFile::open(path, edns.as_ref()).map(|file| plain(file, name_of(path)))
        } else if args.self_test {
            let text = sample::queries();
            QueryFile::read(text.as_bytes(), "self-test", edns.as_ref())
                .map(|file| plain(file, "self-test".into()))
        } else {
            read_standard_input(edns.as_ref()).map(|file| plain(file, "-".into()))
        };
        let needs_names = workload.mix.is_some() || workload.types.is_some() || workload.zipf.is_some();
        if needs_names {
            let fault = "--mix, --types and --zipf draw queries about names; expected --names or --pattern beside them";
            return Err(Failure::usage(fault));
        }
        made.map_err(Failure::usage)
    }

    /// Has captured queries sent at the times when they were sent, unless there is another schedule.
    pub(super) fn schedule(&self, workload: &Workload, settings: &mut Settings) {
        let Some(at_ns) = self.at_ns.as_ref().filter(|_| settings.plan.is_none()) else { return };
        let speed = workload.speed.unwrap_or(1.0);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates
        let faster = |at_ns: u64| (at_ns as f64 / speed) as u64;
        let last_ns = faster(at_ns.last().copied().unwrap_or(0));
        // The next pass begins as long after the last query as queries are apart, and so not in the same moment.
        let gap_ns = last_ns / (at_ns.len() as u64).saturating_sub(1).max(1);
        settings.plan = Some(Plan::Recorded {
            at_ns: at_ns.iter().map(|&at_ns| faster(at_ns)).collect(),
            pass_ns: last_ns + gap_ns.max(1_000),
        });
    }

    /// What a reader of the result should know of them.
    pub(super) fn notes(&self) -> Vec<String> {
        let Some(at_ns) = &self.at_ns else { return Vec::new() };
        let span = Duration::from_nanos(at_ns.last().copied().unwrap_or(0));
        vec![format!(
            "{}: {} queries over {:.3} s; {} other packets were passed over",
            self.name,
            self.file.count(),
            span.as_secs_f64(),
            self.passed_over
        )]
    }
}

fn read_standard_input(edns: Option<&crate::bench::Edns>) -> Result<QueryFile, QueryFileError> {
    if io::stdin().is_terminal() {
        let _ = writeln!(io::stderr(), "reading queries, `name type` a line, from standard input");
    }
    QueryFile::read(BufReader::new(io::stdin().lock()), "standard input", edns)
}

/// Draws queries about the names of a file or a pattern.
fn draw(workload: &Workload) -> Result<(QueryFile, String), Failure> {
    let (names, of) = match (&workload.names, &workload.pattern) {
        (Some(path), _) => (mix::read_names(path).map_err(Failure::usage)?, path.display().to_string()),
        (None, Some(pattern)) => (mix::expand_pattern(pattern).map_err(Failure::usage)?, pattern.clone()),
        (None, None) => return Err(Failure::usage("no names; expected --names or --pattern")),
    };
    let mix = mix::Mix {
        kinds: workload.mix.clone().unwrap_or_else(|| mix::Shares::all(mix::Kind::Positive)),
        types: workload.types.clone().unwrap_or_else(|| mix::Shares::all(rtype::A)),
        zipf: workload.zipf.unwrap_or(0.0),
        count: workload.draws,
        seed: workload.seed,
    };
    let file = mix.draw(&names, workload.edns().as_ref()).map_err(Failure::usage)?;
    Ok((file, format!("drawn from {of}")))
}
