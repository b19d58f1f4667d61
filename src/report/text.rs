//! The text of a run of `bench`: dnsperf's own lines, to the space, then what dnsperf does not tell.
//!
//! Written by the main thread. Scripts that read dnsperf's output read this as well; what is added comes after
//! dnsperf's last line, except `Queries interrupted:`, which stands where dnsperf has it.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::bench::latency::{Latencies, Summary};
use crate::bench::series::whole;
use crate::bench::statistics::evenness;
use crate::bench::verdict::RunFault;
use crate::bench::{Outcome, Point, RunEnd, RunSettings, Totals, Verification};
use crate::wire::header::rcode;

/// Writes what stands before a run: the tool, the command line, what will be done.
///
/// # Errors
/// Those of `out`.
pub fn write_start(
    out: &mut dyn Write,
    command_line: &str,
    settings: &RunSettings,
    now: SystemTime,
) -> io::Result<()> {
    writeln!(out, "DNS Performance Testing Tool\nVersion {}\n", env!("CARGO_PKG_VERSION"))?;
    writeln!(out, "[Status] Command line: {command_line}")?;
    let server: SocketAddr = settings.server;
    writeln!(out, "[Status] Sending queries (to {server})")?;
    writeln!(out, "[Status] Started at: {}", calendar_time(now))?;
    let time = settings.time_limit.map(|limit| format!("{} seconds", seconds(limit)));
    let runs = settings.effective_runs().map(NonZeroU32::get);
    let runs = runs.map(|runs| format!("{runs} run{} through file", if runs == 1 { "" } else { "s" }));
    let limits: Vec<_> = time.into_iter().chain(runs).collect();
    writeln!(out, "[Status] Stopping after {}", limits.join(" or "))
}

/// Writes the line of one interval (`-S`): the time, and queries completed a second since the last.
///
/// # Errors
/// Those of `out`.
pub fn write_interval(out: &mut dyn Write, now: SystemTime, qps: f64) -> io::Result<()> {
    writeln!(out, "{}: {qps:.6}", seconds(now.duration_since(UNIX_EPOCH).unwrap_or_default()))
}

/// Writes what stands after a run: how it ended, and its statistics.
///
/// # Errors
/// Those of `out`.
pub fn write_end(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    writeln!(out, "[Status] Testing complete ({})\n", reason(outcome.end))?;
    write_statistics(out, outcome)?;
    write_additions(out, outcome)
}

/// How a run ended, in dnsperf's words.
#[must_use]
pub fn reason(end: RunEnd) -> &'static str {
    match end {
        RunEnd::EndOfFile => "end of file",
        RunEnd::TimeLimit => "time limit",
        RunEnd::NoConnection => "no connection",
        RunEnd::Interrupted => "interruption",
    }
}

fn write_statistics(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    let totals = &outcome.tally.totals;
    let of_sent = |count| percent(count, totals.sent);
    writeln!(out, "Statistics:\n")?;
    writeln!(out, "  Queries sent:         {}", totals.sent)?;
    writeln!(out, "  Queries completed:    {} ({})", totals.completed, of_sent(totals.completed))?;
    writeln!(out, "  Queries lost:         {} ({})", totals.lost, of_sent(totals.lost))?;
    if totals.interrupted > 0 {
        writeln!(out, "  Queries interrupted:  {} ({})", totals.interrupted, of_sent(totals.interrupted))?;
    }
    writeln!(out, "\n  Response codes:       {}", response_codes(totals))?;
    let request_len = totals.request_bytes.checked_div(totals.sent).unwrap_or(0);
    let response_len = totals.response_bytes.checked_div(totals.completed).unwrap_or(0);
    writeln!(out, "  Average packet size:  request {request_len}, response {response_len}")?;
    writeln!(out, "  Run time (s):         {}", seconds(outcome.run_time))?;
    writeln!(out, "  Queries per second:   {:.6}\n", outcome.qps())?;
    let summary = outcome.tally.all().summary();
    let (mean_us, min_us, max_us) =
        summary.map_or((0.0, 0.0, 0.0), |all| (all.mean_us, all.min_us, all.max_us));
    let [mean, min, max] = [mean_us, min_us, max_us].map(seconds_of_us);
    writeln!(out, "  Average Latency (s):  {mean} (min {min}, max {max})")?;
    if let Some(stddev_us) = summary.and_then(|all| all.stddev_us) {
        writeln!(out, "  Latency StdDev (s):   {:.6}", stddev_us / 1e6)?;
    }
    writeln!(out)
}

fn response_codes(totals: &Totals) -> String {
    let codes = (0u8..).zip(totals.rcodes).filter(|&(_, count)| count > 0);
    let codes = codes.map(|(code, count)| {
        format!("{} {count} ({})", rcode::mnemonic(code), percent(count, totals.completed))
    });
    codes.collect::<Vec<_>>().join(", ")
}

/// What dnsperf does not tell: answers that were not counted as completing a query, and percentiles.
fn write_additions(out: &mut dyn Write, outcome: &Outcome) -> io::Result<()> {
    let tally = &outcome.tally;
    let totals = &tally.totals;
    let counts = [
        ("Answers late:", totals.late),
        ("Answers duplicate:", totals.duplicate),
        ("Answers mismatched:", totals.mismatched),
        ("Wrong source:", totals.wrong_source),
        ("Refused by host:", totals.refused),
        ("Connections:", totals.connections),
        ("Connections broken:", totals.broken),
        ("Queries overdue:", totals.overdue),
        ("Queries held back:", totals.throttled),
    ];
    for (label, count) in counts.into_iter().filter(|&(_, count)| count > 0) {
        writeln!(out, "  {label:<21} {count}")?;
    }
    if counts.iter().any(|&(_, count)| count > 0) {
        writeln!(out)?;
    }
    if totals.completed == 0 {
        return Ok(());
    }
    let heads = ["p50", "p90", "p99", "p99.9", "p99.99", "max"];
    let heads: String = heads.iter().map(|head| format!("{head:>12}")).collect();
    writeln!(out, "  {:<16}{:>12}{heads}", "Latency (us)", "answers")?;
    if !tally.response.is_empty() {
        write_percentiles(out, "response", &tally.response)?;
    }
    write_percentiles(out, if tally.response.is_empty() { "all" } else { "service" }, &tally.all())?;
    write_percentiles(out, "positive", &tally.positive)?;
    write_percentiles(out, "negative", &tally.negative)?;
    if !tally.send_lag.is_empty() {
        write_percentiles(out, "sent after due", &tally.send_lag)?;
    }
    let censored = tally.responses().censored();
    if censored > 0 {
        writeln!(
            out,
            "\n  > at least: {censored} queries were not answered, and count with the time waited for them"
        )?;
    }
    writeln!(out)
}

/// Writes what was found when answers were compared with what was expected.
///
/// # Errors
/// Those of `out`.
pub fn write_verification(out: &mut dyn Write, found: &Verification) -> io::Result<()> {
    let counts = [
        ("Answers checked:", found.checked),
        ("  as expected:", found.right),
        ("  unexpected data:", found.unexpected),
        ("  data missing:", found.missing),
        ("  wrong code:", found.wrong_code),
        ("  truncated:", found.truncated),
        ("Answers unchecked:", found.unchecked),
    ];
    for (label, count) in counts {
        writeln!(out, "  {label:<21} {count}")?;
    }
    for example in &found.examples {
        writeln!(out, "    {example}")?;
    }
    if let Some(test) = evenness(found.first.values().map(Vec::as_slice)) {
        writeln!(
            out,
            "  First address:        chi-squared {:.1} with {} degrees of freedom, p {:.4}{}",
            test.value,
            test.degrees,
            test.p,
            if test.p < 0.001 { ": not each equally often" } else { "" }
        )?;
    }
    writeln!(out)
}

/// Writes whether the result stands for the server, and what else a reader should know.
///
/// # Errors
/// Those of `out`.
pub fn write_verdict(
    out: &mut dyn Write,
    outcome: &Outcome,
    faults: &[RunFault],
    notes: &[String],
) -> io::Result<()> {
    if outcome.end == RunEnd::Interrupted {
        writeln!(out, "[Verdict] interrupted: this is what was measured up to then")?;
    } else if faults.is_empty() {
        writeln!(out, "[Verdict] valid")?;
    }
    for fault in faults {
        writeln!(out, "[Verdict] INVALID, {}: {}", fault.name, fault.text)?;
    }
    notes.iter().try_for_each(|note| writeln!(out, "[Note] {note}"))
}

/// Writes the course of a ramp: what was offered and what was answered, and the most that was answered.
///
/// # Errors
/// Those of `out`.
pub fn write_ramp(
    out: &mut dyn Write,
    series: &[Point],
    offered_qps: &dyn Fn(&Point) -> f64,
) -> io::Result<()> {
    writeln!(
        out,
        "  {:>8}{:>12}{:>12}{:>12}{:>12}",
        "time (s)", "offered/s", "answered/s", "p50 (us)", "p99 (us)"
    )?;
    let whole = whole(series, |point| point.length.as_secs_f64());
    let whole: Vec<_> = whole.iter().filter(|point| point.totals.sent > 0).collect();
    let latency = |value: Option<f64>| value.map_or("-".into(), |us| format!("{us:.1}"));
    for point in &whole {
        let (offered, answered) = (offered_qps(point), point.qps());
        writeln!(
            out,
            "  {:>8.1}{offered:>12.0}{answered:>12.0}{:>12}{:>12}",
            point.start.as_secs_f64(),
            latency(point.p50_us),
            latency(point.p99_us)
        )?;
    }
    if let Some(best) = whole.iter().max_by(|a, b| a.qps().total_cmp(&b.qps())) {
        let (offered, answered) = (offered_qps(best), best.qps());
        let lost = percent_of((offered - answered).max(0.0), offered);
        writeln!(out, "\n  Maximum throughput:   {answered:.0} qps")?;
        writeln!(out, "  Unanswered then:      {lost} of {offered:.0} qps offered\n")?;
    }
    Ok(())
}

fn write_percentiles(out: &mut dyn Write, kind: &str, latencies: &Latencies) -> io::Result<()> {
    write!(out, "  {kind:<16}{:>12}", latencies.count())?;
    match latencies.summary() {
        Some(summary) => {
            let Summary { p50_us, p90_us, p99_us, p99_9_us, p99_99_us, worst_us, .. } = summary;
            for value_us in [p50_us, p90_us, p99_us, p99_9_us, p99_99_us, worst_us] {
                let bound = if summary.is_bound(value_us) { ">" } else { "" };
                write!(out, "{:>12}", format!("{bound}{value_us:.1}"))?;
            }
        }
        None => write!(out, "{}", format!("{:>12}", "-").repeat(6))?,
    }
    writeln!(out)
}

fn percent(part: u64, whole: u64) -> String {
    percent_of(part as f64, whole as f64)
}

fn percent_of(part: f64, whole: f64) -> String {
    let percent = if whole == 0.0 { 0.0 } else { 100.0 * part / whole };
    format!("{percent:.2}%")
}

/// Seconds with six decimals, cut off rather than rounded, as dnsperf prints whole microseconds.
fn seconds(duration: Duration) -> String {
    format!("{}.{:06}", duration.as_secs(), duration.subsec_micros())
}

fn seconds_of_us(value_us: f64) -> String {
    seconds(Duration::try_from_secs_f64(value_us / 1e6).unwrap_or(Duration::MAX))
}

/// A time in UTC, in whole seconds.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// A time as ctime(3) prints it, in UTC: the standard library knows no time zones.
fn calendar_time(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    time.strftime("%a %b %e %H:%M:%S %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Tally;

    fn outcome() -> Outcome {
        let totals = Totals {
            sent: 2_000,
            completed: 1_999,
            lost: 1,
            request_bytes: 62_000,
            response_bytes: 93_953,
            rcodes: std::array::from_fn(|code| if code == 0 { 1_000 } else { 999 * u64::from(code == 3) }),
            ..Totals::default()
        };
        let mut tally = Tally { totals, ..Tally::default() };
        (1..=1_000).for_each(|i| tally.positive.record(i * 1_000));
        (1..=999).for_each(|i| tally.negative.record(i * 2_000));
        Outcome {
            tally,
            run_time: Duration::from_micros(500_012),
            end: RunEnd::EndOfFile,
            ..Outcome::nothing()
        }
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_run_is_told_in_dnsperfs_lines_and_then_in_percentiles() {
        let expected = "\
[Status] Testing complete (end of file)

Statistics:

  Queries sent:         2000
  Queries completed:    1999 (99.95%)
  Queries lost:         1 (0.05%)

  Response codes:       NOERROR 1000 (50.03%), NXDOMAIN 999 (49.97%)
  Average packet size:  request 31, response 47
  Run time (s):         0.500012
  Queries per second:   3997.904050

  Average Latency (s):  0.000750 (min 0.000001, max 0.001998)
  Latency StdDev (s):   0.000520

  Latency (us)         answers         p50         p90         p99       p99.9      p99.99         max
  all                     1999       667.1      1600.5      1961.0      1996.8      1998.0      1998.0
  positive                1000       500.2       900.1       990.2       999.4      1000.0      1000.0
  negative                 999      1000.4      1800.2      1980.4      1998.0      1998.0      1998.0

";
        assert_eq!(written(|out| write_end(out, &outcome())), expected);
    }

    #[test]
    fn a_run_without_answers_divides_by_nothing() {
        let mut nothing = Outcome::nothing();
        nothing.tally.totals.interrupted = 3;
        nothing.tally.totals.mismatched = 2;
        let text = written(|out| write_end(out, &nothing));
        assert!(text.contains("  Queries completed:    0 (0.00%)\n"), "{text}");
        assert!(text.contains("  Queries interrupted:  3 (0.00%)\n\n  Response codes:       \n"), "{text}");
        assert!(text.contains("  Average Latency (s):  0.000000 (min 0.000000, max 0.000000)\n\n"), "{text}");
        assert!(text.ends_with("\n  Answers mismatched:   2\n\n"), "{text}");
    }

    #[test]
    fn the_start_says_what_will_be_done() {
        let mut settings = RunSettings::new("[::1]:5300".parse().unwrap());
        settings.time_limit = Some(Duration::from_millis(2_500));
        let now = UNIX_EPOCH + Duration::from_secs(1_709_210_096);
        let text = written(|out| write_start(out, "redbreast bench -l 2.5", &settings, now));
        let status = text.split_once("\n\n").unwrap().1;
        let expected = "\
[Status] Command line: redbreast bench -l 2.5
[Status] Sending queries (to [::1]:5300)
[Status] Started at: Thu Feb 29 12:34:56 2024
[Status] Stopping after 2.500000 seconds
";
        assert_eq!(status, expected);
        settings.runs = NonZeroU32::new(3);
        let text = written(|out| write_start(out, "", &settings, now));
        assert!(text.ends_with("Stopping after 2.500000 seconds or 3 runs through file\n"), "{text}");
        assert_eq!(written(|out| write_interval(out, now, 1.5)), "1709210096.000000: 1.500000\n");
    }

    #[test]
    fn calendar_times_are_those_of_ctime() {
        for (seconds, expected) in [
            (0, "Thu Jan  1 00:00:00 1970"),
            (951_782_400, "Tue Feb 29 00:00:00 2000"),
            (1_798_761_599, "Thu Dec 31 23:59:59 2026"),
            (4_107_542_400, "Mon Mar  1 00:00:00 2100"),
        ] {
            assert_eq!(calendar_time(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
