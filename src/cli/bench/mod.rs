//! `redbreast bench`: what the options ask for, done and told. Runs on the main thread.
//!
//! Exit status 0: the run was done, its result is valid, and all that was asked to hold holds; 1: the server could not
//! be reached, nothing was answered, the result is invalid, something does not hold, or the run was interrupted; 2: an
//! option or a file is wrong, and nothing was sent.

mod compare;
mod options;
mod outputs;
mod queries;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

pub(crate) use options::Args;
use outputs::Outputs;
use queries::Queries;

use super::Failure;
use super::sample;
use crate::bench::ab::run_rounds;
use crate::bench::schedule::Plan;
use crate::bench::search::search;
use crate::bench::verdict::{self, RunFault};
use crate::bench::{self, BenchError, Expectations, Outcome, Point, RunEnd, RunSettings};
use crate::report::comparison::{self, ContestRecord, SearchRecord};
use crate::report::json::{Circumstances, Report};
use crate::report::machine::{Machine, UdpCounters};
use crate::report::neighbour::ServerProcess;
use crate::report::text;

/// How long a self-test sends, a trial of a search, and a round of a comparison, when it is not told.
const SELF_TEST_TIME: Duration = Duration::from_secs(5);
const TRIAL_TIME: Duration = Duration::from_secs(5);
const ROUND_TIME: Duration = Duration::from_secs(1);

/// A run, or several, as asked for.
struct Task<'a> {
    args: &'a Args,
    settings: RunSettings,
    queries: Queries,
    expected: Option<Expectations>,
    stop: Arc<AtomicBool>,
    udp_before: Option<UdpCounters>,
    started: SystemTime,
}

/// What is to be told at the end, and whether all that was asked holds.
struct EndReport {
    report: Report,
    outcome: Outcome,
    judgement: Result<(), Failure>,
}

/// Runs the load generator.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    if let Some(command) = &args.command {
        return compare::run(command);
    }
    // What can be wrong without asking anybody comes first, what takes time last.
    let loopback = SocketAddr::from(([127, 0, 0, 1], args.port()));
    let probe = args.settings(loopback).map_err(Failure::usage)?;
    let probe = RunSettings { source: None, ..probe };
    probe.check().map_err(Failure::usage)?;
    let mut outputs = Outputs::open(&args.outputs, args.stats_interval.is_some())?;
    let self_test = args.self_test.then(sample::start).transpose()?;
    let queries = Queries::read(args)?;
    let expected = args.judgement.verify.as_deref().map(|path| Expectations::open(path, &queries.file));
    let expected = expected.transpose().map_err(Failure::usage)?;
    let server = match &self_test {
        Some(server) => server.address(),
        None => args.resolve().map_err(Failure::failed)?,
    };
    let mut settings = args.settings(server).map_err(Failure::usage)?;
    settings.check().map_err(Failure::usage)?;
    if args.self_test && settings.time_limit.is_none() && settings.runs.is_none() {
        settings.time_limit = Some(SELF_TEST_TIME);
    }
    queries.schedule(&args.workload, &mut settings);
    let stop =
        stop_on_signals().map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))?;
    let task = Task {
        args,
        settings,
        queries,
        expected,
        stop,
        udp_before: UdpCounters::read(),
        started: outputs.started(),
    };
    let told = if args.judgement.find_max {
        task.find_max(&mut outputs)?
    } else if let Some(against) =
        args.judgement.against.as_deref().filter(|against| against.parse::<SocketAddr>().is_ok())
    {
        task.contest(&mut outputs, against)?
    } else {
        task.measure(&mut outputs)?
    };
    drop(self_test);
    let whole = task.queries.read_to_the_end();
    let written = outputs.finish(&told.report, &told.outcome.tally.responses());
    whole.and(told.judgement).and(written)
}

impl Task<'_> {
    fn run(&self, outputs: &mut Outputs, settings: &RunSettings) -> Result<Outcome, BenchError> {
        // Where the server runs here, its own CPU time tells whether it was at its limit.
        let server = ServerProcess::find(settings.server).filter(|_| !self.args.self_test);
        let (begin, before) = (Instant::now(), server.as_ref().and_then(ServerProcess::cpu_time));
        let expected = self.expected.as_ref();
        let outcome = bench::run(settings, &self.queries.file, expected, &self.stop, &mut |progress| {
            outputs.progress(settings, progress);
        })?;
        let share = |server: ServerProcess| {
            let took = server.cpu_time()?.checked_sub(before?)?;
            let cpus = server.cpu_count().max(1) as f64;
            Some(took.as_secs_f64() / begin.elapsed().as_secs_f64() / cpus)
        };
        Ok(Outcome { server_share: server.and_then(share), ..outcome })
    }

    /// One run.
    fn measure(&self, outputs: &mut Outputs) -> Result<EndReport, Failure> {
        let saved =
            self.args.judgement.against.as_deref().map(|path| compare::read(Path::new(path))).transpose()?;
        self.begin(outputs, &self.settings);
        let (outcome, error) = match self.run(outputs, &self.settings) {
            Ok(outcome) => (outcome, None),
            Err(BenchError::Settings(error)) => return Err(Failure::usage(error)),
            Err(error) => (Outcome::nothing(), Some(error.to_string())),
        };
        if let Some(error) = error {
            let circumstances = self.circumstances();
            let report = Report::new(&circumstances, &self.settings, &outcome, &[], Some(&error));
            return Ok(EndReport { report, outcome, judgement: Err(Failure::failed(error)) });
        }
        let faults = verdict::judge(&self.settings, &outcome);
        let circumstances = self.circumstances();
        let mut report = Report::new(&circumstances, &self.settings, &outcome, &faults, None);
        outputs.text(|out| {
            text::write_end(out, &outcome)?;
            if let (true, Some(Plan::Rate(rate, _))) = (self.args.is_ramp(), &self.settings.plan) {
                let offered = |point: &Point| rate.qps_at(point.start + point.length / 2);
                text::write_ramp(out, &outcome.series, &offered)?;
            }
            if let Some(found) = &outcome.verification {
                text::write_verification(out, found)?;
            }
            text::write_verdict(out, &outcome, &faults, &circumstances.notes)
        });
        let mut required = Ok(());
        if let (Some(saved), Some(path)) = (saved, &self.args.judgement.against) {
            let record = ContestRecord::of_reports(path, &report, &saved, &self.requirements());
            outputs.text(|out| comparison::write_contest(out, &record));
            required = holds(&record);
            report.contest = Some(record);
        }
        let judgement = self.judge(&outcome, &faults).and(self.objective_holds(&outcome)).and(required);
        Ok(EndReport { report, outcome, judgement })
    }

    /// Trials until the highest rate is found that holds the objective.
    fn find_max(&self, outputs: &mut Outputs) -> Result<EndReport, Failure> {
        let objectives = self.args.judgement.slo.clone().map(|slo| slo.0).unwrap_or_default();
        let time_limit = self.settings.time_limit.or(Some(TRIAL_TIME));
        let at_rate = |qps: f64| RunSettings { time_limit, ..self.settings.clone() }.at_rate(qps);
        self.begin(outputs, &at_rate(self.args.start_qps()));
        let outputs = std::cell::RefCell::new(outputs);
        let found = search(
            self.args.start_qps(),
            &objectives,
            |rate_qps| {
                let settings = at_rate(rate_qps);
                outputs.borrow().say(format!("trying {rate_qps:.0} a second"));
                let outcome = self.run(&mut outputs.borrow_mut(), &settings)?;
                Ok((settings, outcome))
            },
            |trial| outputs.borrow_mut().text(|out| comparison::write_trial(out, trial)),
        )
        .map_err(Failure::failed)?;
        let outputs = outputs.into_inner();
        outputs.text(|out| comparison::write_found(out, &objectives, &found));
        let last = found.trials.last();
        let settings = at_rate(last.map_or(self.args.start_qps(), |trial| trial.rate_qps));
        let outcome = last.map_or_else(Outcome::nothing, |trial| trial.outcome.clone());
        let faults = last.map_or_else(Vec::new, |trial| trial.faults.clone());
        let mut report = Report::new(&self.circumstances(), &settings, &outcome, &faults, None);
        report.search = Some(SearchRecord::new(&objectives, &found));
        let judgement = match (found.interrupted, found.best_qps, found.limit) {
            (true, ..) => Err(Failure::failed("interrupted")),
            (false, Some(_), bench::search::Limit::Server) => Ok(()),
            (false, Some(_), bench::search::Limit::Generator) if self.args.judgement.accept_invalid => Ok(()),
            (false, Some(_), bench::search::Limit::Generator) => {
                Err(Failure::failed("the generator, and not the server, is the limit"))
            }
            (false, None, _) => Err(Failure::failed("no rate that was tried holds the objective")),
        };
        Ok(EndReport { report, outcome, judgement })
    }

    /// Rounds that take turns with another server.
    fn contest(&self, outputs: &mut Outputs, against: &str) -> Result<EndReport, Failure> {
        let other: SocketAddr = against.parse().map_err(Failure::usage)?;
        let time_limit = self.settings.time_limit.or(Some(ROUND_TIME));
        let ours = RunSettings { time_limit, ..self.settings.clone() };
        let theirs = RunSettings { server: other, ..ours.clone() };
        theirs.check().map_err(Failure::usage)?;
        self.begin(outputs, &ours);
        let rounds = self.args.judgement.rounds;
        let outputs = std::cell::RefCell::new(outputs);
        let result = run_rounds(
            rounds,
            |is_ours| {
                let settings = if is_ours { &ours } else { &theirs };
                Ok((settings.clone(), self.run(&mut outputs.borrow_mut(), settings)?))
            },
            |number, _| outputs.borrow().say(format!("round {} of {rounds} is done", number + 1)),
        )
        .map_err(Failure::failed)?;
        let outputs = outputs.into_inner();
        let outcome = together(result.rounds.iter().map(|round| &round.ours));
        let faults: Vec<RunFault> = result
            .faults
            .iter()
            .map(|(is_ours, fault)| RunFault {
                name: fault.name,
                text: format!("{}: {}", if *is_ours { "ours" } else { "theirs" }, fault.text),
            })
            .collect();
        let circumstances = self.circumstances();
        let mut report = Report::new(&circumstances, &ours, &outcome, &faults, None);
        let record = ContestRecord::of_rounds(against, &result, &self.requirements());
        outputs.text(|out| {
            comparison::write_contest(out, &record)?;
            text::write_verdict(out, &outcome, &faults, &circumstances.notes)
        });
        let judgement = if result.interrupted {
            Err(Failure::failed("interrupted"))
        } else {
            self.judge(&outcome, &faults).and(holds(&record))
        };
        report.contest = Some(record);
        Ok(EndReport { report, outcome, judgement })
    }

    fn begin(&self, outputs: &mut Outputs, settings: &RunSettings) {
        let neighbour = ServerProcess::find(settings.server).filter(|_| !self.args.self_test);
        let is_tight =
            thread::available_parallelism().is_ok_and(|cpus| cpus.get() <= settings.threads as usize + 1);
        if let Some(note) = neighbour.as_ref().and_then(shared_cores).filter(|_| is_tight) {
            // Before the time is spent; it stands behind the result as well.
            let _ = writeln!(
                io::stderr(),
                "note: {note} (taskset -c 0 for the server, taskset -c 1 for this), or ask for a rate that leaves \
                 both time (-Q 10k): else the result may be marked as invalid"
            );
        }
        let command_line: Vec<_> =
            std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
        let command_line = format!("redbreast {}", command_line.join(" "));
        let started = outputs.started();
        outputs.text(|out| text::write_start(out, &command_line, settings, started));
    }

    fn requirements(&self) -> Vec<bench::objective::Objective> {
        self.args.judgement.require.clone().map(|require| require.0).unwrap_or_default()
    }

    /// What a result is to be read with. Looked up after the run.
    fn circumstances(&self) -> Circumstances {
        let args = self.args;
        let server_process = ServerProcess::find(self.settings.server).filter(|_| !args.self_test);
        let mut notes = self.queries.notes();
        if args.self_test {
            notes.push(
                "the server is a part of the generator's own process: what it can do alone is more".into(),
            );
        } else {
            notes.extend(server_process.as_ref().and_then(shared_cores));
        }
        Circumstances {
            started: self.started,
            server: if args.self_test { "self-test".into() } else { args.server.clone() },
            queries: self.queries.name.clone(),
            queries_in_file: self.queries.file.count(),
            edns: args.workload.edns().is_some(),
            dnssec_ok: args.workload.dnssec_ok,
            kernel_udp: self.udp_before.and_then(|before| Some(UdpCounters::read()?.since(before))),
            server_process,
            notes,
        }
    }

    /// Whether the run was done, and its result stands for the server. Lost queries alone are a result and no failure,
    /// as with dnsperf.
    fn judge(&self, outcome: &Outcome, faults: &[RunFault]) -> Result<(), Failure> {
        let totals = &outcome.tally.totals;
        if outcome.end == RunEnd::Interrupted {
            return Err(Failure::failed("interrupted"));
        }
        if totals.completed == 0 {
            let text = format!("no answer from {} to {} queries", self.settings.server, totals.sent);
            return Err(Failure::failed(text));
        }
        if let Some(found) = outcome.verification.as_ref().filter(|found| !found.holds()) {
            let wrong = found.checked - found.right - found.truncated;
            return Err(Failure::failed(format!(
                "{wrong} of {} answers were not as expected",
                found.checked
            )));
        }
        match faults {
            [fault, ..] if !self.args.judgement.accept_invalid => {
                Err(Failure::failed(format!("the result is invalid: {}", fault.name)))
            }
            _ => Ok(()),
        }
    }

    /// Whether the objective of a single run holds.
    fn objective_holds(&self, outcome: &Outcome) -> Result<(), Failure> {
        let objectives = self.args.judgement.slo.as_ref().map_or(&[][..], |slo| &slo.0);
        let missed = objectives.iter().find(|objective| !objective.holds(objective.metric.of(outcome)));
        missed.map_or(Ok(()), |missed| {
            let value = missed.metric.show(missed.metric.of(outcome));
            Err(Failure::failed(format!("{missed} does not hold: it is {value}")))
        })
    }
}

/// That a server and this process may run on the same cores, if they may.
fn shared_cores(process: &ServerProcess) -> Option<String> {
    let cpus = Machine::current().cpus;
    process.shares_with(&cpus).then(|| {
        format!(
            "the server ({}, CPUs {}) and the generator (CPUs {cpus}) may run on the same cores; pin each to its own",
            process.name, process.cpus
        )
    })
}

/// Whether all that was required of a comparison holds.
fn holds(record: &ContestRecord) -> Result<(), Failure> {
    let missed = record.requirements.iter().find(|ruling| !ruling.holds);
    missed.map_or(Ok(()), |missed| Err(Failure::failed(format!("{} does not hold", missed.requirement))))
}

/// Several runs as one.
fn together<'a>(outcomes: impl Iterator<Item = &'a Outcome>) -> Outcome {
    let mut all = Outcome { end: RunEnd::TimeLimit, ..Outcome::nothing() };
    for outcome in outcomes {
        all.tally.merge(&outcome.tally);
        all.series.extend(
            outcome.series.iter().cloned().map(|point| Point { start: point.start + all.run_time, ..point }),
        );
        all.run_time += outcome.run_time;
        all.drops += outcome.drops;
        all.usage = outcome.usage.clone();
        if let Some(found) = &outcome.verification {
            all.verification.get_or_insert_default().merge(found.clone());
        }
    }
    all
}

/// A flag that the first SIGINT or SIGTERM raises; the second ends the process at once.
pub(super) fn stop_on_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_shutdown(signal, 1, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
