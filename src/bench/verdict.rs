//! Whether a result says something about the server, or about the generator and the way it was used.
//!
//! Pure: judged by the main thread, after a run, from what was measured.

use super::{Outcome, RunEnd, RunSettings};
use crate::wire::header::rcode;

/// Queries may be sent this much later than they were due, all but one in a hundred.
const MAX_SLIP_US: f64 = 1_000.0;

/// Part of the queries that may be missing at the end of a schedule.
const MAX_OVERDUE_SHARE: f64 = 0.001;

/// In a closed loop: the part of its time in which a thread that is not the bottleneck has something to do.
const MAX_BUSY_SHARE: f64 = 0.98;

/// A server that takes this part of its CPUs' time is at its own limit, whoever else is at theirs.
const SATURATED_SERVER_SHARE: f64 = 0.97;

/// The part of its time for which a thread may have had to wait for a CPU.
const MAX_DELAYED_SHARE: f64 = 0.05;

/// Shares of less time than this say nothing.
const SHORTEST_NS: u64 = 100_000_000;

/// A reason why a result does not stand for the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFault {
    /// A word for programs.
    pub name: &'static str,
    /// What was seen, and what to do.
    pub text: String,
}

/// Judges a run. No fault: the result is valid.
#[must_use]
pub fn judge(settings: &RunSettings, outcome: &Outcome) -> Vec<RunFault> {
    let totals = &outcome.tally.totals;
    if let Some(fault) = no_connection(settings, outcome) {
        return vec![fault];
    }
    let mut faults: Vec<_> = errors_only(outcome).into_iter().collect();
    let mut fault = |name, text| faults.push(RunFault { name, text });
    let send_lag_us = outcome.tally.send_lag.quantile_us(0.99);
    let is_late = send_lag_us > MAX_SLIP_US;
    let due = totals.sent + totals.overdue;
    let is_short =
        outcome.end != RunEnd::Interrupted && totals.overdue as f64 > MAX_OVERDUE_SHARE * due as f64;
    let is_throttled = totals.throttled as f64 > MAX_OVERDUE_SHARE * due as f64;
    if is_throttled {
        let limit = if settings.outstanding.is_some() {
            "the limit of queries outstanding (-q) held them back; leave it out, so that the schedule stands"
        } else {
            "there were no ids or connections left for them; use more clients (-c)"
        };
        fault(
            "held back",
            format!("{} queries of {due} were not sent when they were due: {limit}", totals.throttled),
        );
    } else if is_late || is_short {
        fault(
            "schedule slip",
            format!(
                "the generator could not keep the schedule: one query in a hundred was sent {send_lag_us:.0} us late \
                 or more, {} were not sent at all; use more threads (-T) or a lower rate",
                totals.overdue
            ),
        );
    }
    let usage = || outcome.usage.iter().filter(|usage| usage.elapsed_ns >= SHORTEST_NS);
    let busiest = usage().map(super::Usage::busy_share).fold(0.0, f64::max);
    let server_is_saturated = outcome.server_share.is_some_and(|share| share >= SATURATED_SERVER_SHARE);
    if settings.plan.is_none() && busiest > MAX_BUSY_SHARE && !server_is_saturated {
        fault(
            "CPU saturated",
            format!(
                "the generator was the bottleneck: a thread was busy for {:.1}% of the time; use more threads (-T, and \
                 -c) on more cores, or the server can do more than this",
                busiest * 100.0
            ),
        );
    }
    let delayed = usage().map(super::Usage::delayed_share).fold(0.0, f64::max);
    if delayed > MAX_DELAYED_SHARE {
        fault(
            "CPU taken",
            format!(
                "others had the generator's CPU for {:.1}% of the time in which it had work; pin it and the server to \
                 cores of their own",
                delayed * 100.0
            ),
        );
    }
    if outcome.drops > 0 {
        fault(
            "answers dropped",
            format!(
                "{} answers came and were dropped by the kernel, since the generator's own socket had no room; raise \
                 -b and net.core.rmem_max, or use more clients (-c) or threads (-T)",
                outcome.drops
            ),
        );
    }
    faults
}

/// A server that does not serve what was asked is not measured by how fast it says so.
fn errors_only(outcome: &Outcome) -> Option<RunFault> {
    let totals = &outcome.tally.totals;
    let served = [rcode::NOERROR, rcode::NXDOMAIN].map(|code| totals.rcodes[usize::from(code)]);
    if totals.completed == 0 || served != [0, 0] {
        return None;
    }
    let codes = (0u8..).zip(totals.rcodes).filter(|&(_, count)| count > 0);
    let codes: Vec<_> = codes.map(|(code, _)| rcode::mnemonic(code)).collect();
    let text = format!(
        "each answer was an error ({}): the server does not serve what was asked; ask for names that it has",
        codes.join(", ")
    );
    Some(RunFault { name: "errors only", text })
}

/// Without a connection, or when there is none any more, nothing else is worth saying.
fn no_connection(settings: &RunSettings, outcome: &Outcome) -> Option<RunFault> {
    let transport = settings.transport.title();
    let connections = outcome.tally.totals.connections;
    let text = if outcome.end == RunEnd::NoConnection {
        let patience_s = settings.timeout.as_secs_f64();
        format!(
            "after {connections} {transport} connections none could be made any more for {patience_s} s (-t)"
        )
    } else if connections == 0 && !settings.transport.is_udp() && outcome.end != RunEnd::Interrupted {
        format!("no {transport} connection could be made, and so no query was sent")
    } else {
        return None;
    };
    Some(RunFault { name: "no connection", text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Tally, Transport, Usage};
    use std::num::NonZeroU32;
    use std::time::Duration;

    fn settings() -> RunSettings {
        RunSettings::new("127.0.0.1:53".parse().unwrap())
    }

    /// A good run of 1,000 queries: on time, with time to spare.
    fn outcome() -> Outcome {
        let mut tally = Tally::default();
        tally.totals.sent = 1_000;
        tally.totals.completed = 1_000;
        tally.totals.rcodes[0] = 1_000;
        (0..1_000).for_each(|_| tally.send_lag.record(20_000));
        let usage = Usage {
            elapsed_ns: 1_000_000_000,
            idle_ns: 100_000_000,
            cpu_ns: Some(900_000_000),
            delayed_ns: Some(10_000_000),
        };
        Outcome {
            tally,
            run_time: Duration::from_secs(1),
            end: RunEnd::TimeLimit,
            usage: vec![usage],
            ..Outcome::nothing()
        }
    }

    fn names(settings: &RunSettings, outcome: &Outcome) -> Vec<&'static str> {
        judge(settings, outcome).into_iter().map(|fault| fault.name).collect()
    }

    #[test]
    fn a_run_in_time_is_valid() {
        assert_eq!(names(&settings(), &outcome()), [""; 0]);
        assert_eq!(names(&settings().at_rate(1_000.0), &outcome()), [""; 0]);
    }

    #[test]
    fn errors_alone_and_no_connection_are_faults() {
        let mut refused = outcome();
        refused.tally.totals.rcodes = [0; 16];
        refused.tally.totals.rcodes[5] = 1_000;
        let fault = &judge(&settings(), &refused)[0];
        assert!(fault.name == "errors only" && fault.text.contains("(REFUSED)"), "{fault:?}");
        refused.tally.totals.rcodes[3] = 1;
        refused.tally.totals.completed += 1;
        assert_eq!(names(&settings(), &refused), [""; 0]);
        let tcp = RunSettings { transport: Transport::Tcp, ..settings() };
        let mut none = Outcome { end: RunEnd::TimeLimit, ..Outcome::nothing() };
        none.tally.totals.overdue = 5_000;
        let fault = judge(&tcp.clone().at_rate(5.0), &none);
        assert!(
            fault.len() == 1 && fault[0].text.starts_with("no TCP connection could be made"),
            "{fault:?}"
        );
        none = Outcome { end: RunEnd::NoConnection, ..outcome() };
        none.tally.totals.connections = 3;
        assert_eq!(names(&tcp, &none), ["no connection"]);
    }

    #[test]
    fn a_schedule_that_was_not_kept_is_a_fault() {
        let mut late = outcome();
        (0..11).for_each(|_| late.tally.send_lag.record(2_000_000));
        assert_eq!(names(&settings().at_rate(1_000.0), &late), ["schedule slip"]);
        let mut short = outcome();
        short.tally.totals.overdue = 2;
        assert_eq!(names(&settings().at_rate(1_000.0), &short), ["schedule slip"]);
        short.end = RunEnd::Interrupted;
        assert_eq!(names(&settings().at_rate(1_000.0), &short), [""; 0]);
    }

    #[test]
    fn queries_held_back_by_a_limit_are_a_fault_of_the_limit() {
        let mut held = outcome();
        held.tally.totals.throttled = 5;
        (0..500).for_each(|_| held.tally.send_lag.record(9_000_000));
        let limited = RunSettings { outstanding: NonZeroU32::new(5), ..settings() }.at_rate(1_000.0);
        let fault = &judge(&limited, &held)[..];
        assert!(
            fault.len() == 1 && fault[0].name == "held back" && fault[0].text.contains("(-q)"),
            "{fault:?}"
        );
        assert!(judge(&settings().at_rate(1_000.0), &held)[0].text.contains("(-c)"));
    }

    #[test]
    fn a_generator_at_its_limit_is_a_fault_in_a_closed_loop() {
        let mut busy = outcome();
        busy.usage[0].idle_ns = 5_000_000;
        assert_eq!(names(&settings(), &busy), ["CPU saturated"]);
        assert_eq!(names(&settings().at_rate(1_000.0), &busy), [""; 0], "on a schedule slip tells it");
        busy.server_share = Some(0.9);
        assert_eq!(names(&settings(), &busy), ["CPU saturated"]);
        busy.server_share = Some(0.99);
        assert_eq!(names(&settings(), &busy), [""; 0], "the server cannot do more either");
    }

    #[test]
    fn a_cpu_that_others_had_and_answers_without_room_are_faults() {
        let mut taken = outcome();
        taken.usage[0].delayed_ns = Some(60_000_000);
        taken.drops = 1;
        assert_eq!(names(&settings(), &taken), ["CPU taken", "answers dropped"]);
        taken.usage[0] = Usage { elapsed_ns: 50, idle_ns: 0, cpu_ns: None, delayed_ns: Some(25) };
        assert_eq!(names(&settings(), &taken), ["answers dropped"], "too short to say");
    }
}
