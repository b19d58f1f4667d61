//! The queries that the options ask for: from a file, a capture, or drawn. Runs on the main thread before anything is
//! sent.

use std::io::{self, BufReader, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

use super::options::{Args, Workload};
use crate::bench::schedule::Plan;
use crate::bench::workload::feed::Feed;
use crate::bench::workload::{Reading, capture, hosts, line_reader, messages, mix, updates};
use crate::bench::{QueryFile, QueryFileError, RunSettings};
use crate::cli::{Failure, sample};
use crate::wire::record::rtype;

/// Queries, what they are called, and the times when they were sent if they were captured.
pub(super) struct Queries {
    pub(super) file: QueryFile,
    pub(super) name: String,
    at_ns: Option<Vec<u64>>,
    /// What else a capture has.
    rest: String,
}

impl Queries {
    /// Makes the queries that the options ask for.
    pub(super) fn read(args: &Args) -> Result<Self, Failure> {
        let workload = &args.workload;
        let edns = workload.edns();
        let name_of = |path: &Path| path.display().to_string();
        if workload.pcap.is_some() && edns.is_some() {
            let fault = "queries of a capture are sent as they are; expected no -e, -D, -E, --nsid or --cookie beside \
                         --pcap";
            return Err(Failure::usage(fault));
        }
        let plain = |file, name| Self { file, name, at_ns: None, rest: String::new() };
        let reading = Reading {
            edns: edns.clone(),
            strict: workload.strict,
            keep_lines: args.is_verbose() && !workload.binary && !workload.updates,
            tsig: workload.tsig.clone(),
        };
        if workload.binary && (edns.is_some() || workload.tsig.is_some()) {
            let fault = "messages of a file are sent as they are; expected no -e, -D, -E, -y, --nsid or --cookie \
                         beside -B";
            return Err(Failure::usage(fault));
        }
        if workload.tsig.is_some() && (workload.pcap.is_some() || workload.cookie) {
            let fault =
                "what is signed (-y) can have nothing added; expected no --pcap and no --cookie beside it";
            return Err(Failure::usage(fault));
        }
        let made = if let Some(path) = &workload.pcap {
            capture::open(path, workload.pcap_port).map(|capture| Self {
                file: capture.queries,
                name: name_of(path),
                at_ns: Some(capture.at_ns),
                rest: match capture.segmented {
                    0 => capture.skipped.to_string(),
                    some => format!("{some} datagrams were many queries each; {}", capture.skipped),
                },
            })
        } else if let Some(path) = &workload.hosts {
            hosts::open(path, &reading).map(|file| plain(file, name_of(path)))
        } else if workload.names.is_some() || workload.pattern.is_some() {
            return draw(workload, &reading).map(|(file, name)| plain(file, name));
        } else if let Some(path) = workload.queries.as_ref().filter(|_| workload.updates) {
            updates::open(path, &reading).map(|file| plain(file, name_of(path)))
        } else if let Some(path) = workload.queries.as_ref().filter(|_| workload.binary) {
            messages::open(path, &reading).map(|file| plain(file, name_of(path)))
        } else if let Some(path) = &workload.queries {
            QueryFile::open_as(path, &reading).map(|file| plain(file, name_of(path)))
        } else if args.self_test {
            let text = sample::queries();
            QueryFile::read_as(text.as_bytes(), "self-test", &reading)
                .map(|file| plain(file, "self-test".into()))
        } else {
            read_standard_input(&reading).map(|file| plain(file, "-".into()))
        };
        let needs_names = workload.mix.is_some() || workload.types.is_some() || workload.zipf.is_some();
        if needs_names {
            let fault = "--mix, --types and --zipf draw queries about names; expected --names or --pattern beside them";
            return Err(Failure::usage(fault));
        }
        let made = made.map_err(Failure::usage)?;
        made.check_feed(args)?;
        let bad = made.file.bad_lines();
        let mut errors = io::stderr().lock();
        for example in &bad.examples {
            let _ = writeln!(errors, "warning: {example}");
        }
        Ok(made)
    }

    /// What comes while it is sent can be sent once, and looked at no further.
    fn check_feed(&self, args: &Args) -> Result<(), Failure> {
        let judgement = &args.judgement;
        let several = [
            (judgement.verify.is_some(), "--verify"),
            (judgement.find_max, "--find-max"),
            (judgement.against.is_some(), "--against"),
            (args.passes().is_some_and(|passes| passes.get() > 1), "-n"),
        ];
        match several.iter().find(|(is_asked, _)| *is_asked) {
            Some((_, option)) if self.file.feed().is_some() => Err(Failure::usage(format!(
                "{option} needs all queries at once, and standard input has more than {} MiB of them; give them as a \
                 file (-d)",
                line_reader::FIRST_LEN >> 20
            ))),
            _ => Ok(()),
        }
    }

    /// Whether all queries could be read.
    pub(super) fn read_to_the_end(&self) -> Result<(), Failure> {
        self.file.feed().and_then(Feed::error).map_or(Ok(()), |error| Err(Failure::failed(error)))
    }

    /// Has captured queries sent at the times when they were sent, unless there is another schedule.
    pub(super) fn schedule(&self, workload: &Workload, settings: &mut RunSettings) {
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
        let fed = self.file.feed().map(Feed::counts);
        let bad = self.file.bad_lines().count + fed.map_or(0, |(_, bad)| bad);
        let mut notes = Vec::new();
        if bad > 0 {
            notes.push(format!(
                "{}: {bad} lines are no queries and were left out (--strict refuses them)",
                self.name
            ));
        }
        if let Some((count, _)) = fed {
            let first = self.file.count();
            notes.push(format!("{}: {count} queries were read while the first {first} were sent", self.name));
        }
        let Some(at_ns) = &self.at_ns else { return notes };
        let span = Duration::from_nanos(at_ns.last().copied().unwrap_or(0));
        notes.push(format!(
            "{}: {} queries over {:.3} s; {}",
            self.name,
            self.file.count(),
            span.as_secs_f64(),
            self.rest
        ));
        notes
    }
}

fn read_standard_input(reading: &Reading) -> Result<QueryFile, QueryFileError> {
    if io::stdin().is_terminal() {
        let _ = writeln!(io::stderr(), "reading queries, `name type` a line, from standard input");
    }
    line_reader::read(BufReader::with_capacity(1 << 16, io::stdin()), "standard input", reading)
}

/// Draws queries about the names of a file or a pattern.
fn draw(workload: &Workload, reading: &Reading) -> Result<(QueryFile, String), Failure> {
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
    let file = mix.draw(&names, reading).map_err(Failure::usage)?;
    Ok((file, format!("drawn from {of}")))
}
