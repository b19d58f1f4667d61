//! `redbreast bench`: dnsperf's options, and what is done with them. Runs on the main thread.
//!
//! Exit status 0: the run was done; 1: the server could not be reached, nothing was answered, or the run was
//! interrupted; 2: an option or the query file is wrong, and nothing was sent.

use std::fs::File;
use std::io::{self, BufReader, IsTerminal, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use super::Failure;
use super::sample;
use crate::bench::{self, BenchError, Edns, End, Outcome, Progress, QueryFile, Settings, Tally};
use crate::report::json::{Circumstances, Report};
use crate::report::text;

/// How long a self-test sends when it is not told.
const SELF_TEST_TIME: Duration = Duration::from_secs(5);

/// Longest time that can be asked for: a year.
const LONGEST_S: f64 = 31_536_000.0;

/// Options of `redbreast bench`; the letters are dnsperf's.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// The server to query, by address or by name
    #[arg(short = 's', long, value_name = "SERVER", default_value = "127.0.0.1")]
    server: String,
    /// The port on which to query the server
    #[arg(short = 'p', long, value_name = "PORT", default_value_t = 53,
          value_parser = clap::value_parser!(u16).range(1..), allow_negative_numbers = true)]
    port: u16,
    /// Address family, when the server is given by name
    #[arg(short = 'f', long, value_name = "FAMILY", value_enum, default_value_t = Family::Any)]
    family: Family,
    /// Transport
    #[arg(short = 'm', long, value_name = "MODE", value_enum, default_value_t = Mode::Udp)]
    mode: Mode,
    /// File of queries, `name type` a line [default: standard input]
    #[arg(short = 'd', long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// Clients to act as: sockets to send from
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::MAX_CLIENTS)),
          allow_negative_numbers = true)]
    clients: u32,
    /// Threads to run; at most one per client
    #[arg(short = 'T', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    threads: u32,
    /// Run through the file at most N times [default: 1, or without end if --time-limit is given]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    runs: Option<NonZeroU32>,
    /// Send for at most this many seconds
    #[arg(short = 'l', long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    time_limit: Option<Duration>,
    /// Queries outstanding at most, all clients together [default: 100, or as many as there are ids with --max-qps]
    #[arg(short = 'q', long, value_name = "N", allow_negative_numbers = true)]
    outstanding: Option<NonZeroU32>,
    /// Send at this fixed rate, in queries a second, instead of as fast as answers come
    #[arg(short = 'Q', long, value_name = "N", allow_negative_numbers = true)]
    max_qps: Option<NonZeroU32>,
    /// Seconds after which a query is lost
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "5", value_parser = seconds,
          allow_negative_numbers = true)]
    timeout: Duration,
    /// Socket buffer size in kilobytes [default: 4096, as far as the kernel allows]
    #[arg(short = 'b', long, value_name = "KB", value_parser = clap::value_parser!(u32).range(1..=1_048_576),
          allow_negative_numbers = true)]
    buffer_size: Option<u32>,
    /// Enable EDNS 0
    #[arg(short = 'e', long)]
    edns: bool,
    /// Set the DNSSEC OK bit (implies EDNS)
    #[arg(short = 'D', long)]
    dnssec_ok: bool,
    /// Print the rate every N seconds
    #[arg(short = 'S', long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    stats_interval: Option<Duration>,
    /// Write the result as JSON; `-` for standard output, and the text then goes to standard error
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Start a server in this process and measure that
    #[arg(long, conflicts_with_all = ["server", "port", "family"])]
    self_test: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    Any,
    Inet,
    Inet6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    Udp,
}

/// Runs the load generator.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    // What can be wrong without asking anybody comes first, what takes time last.
    args.settings(SocketAddr::from(([127, 0, 0, 1], args.port))).check().map_err(Failure::usage)?;
    let to_stdout = args.json.as_deref() == Some(Path::new("-"));
    let json = args.json.as_deref().filter(|_| !to_stdout).map(create).transpose()?;
    let self_test = args.self_test.then(sample::start).transpose()?;
    let queries = args.read_queries()?;
    let server = match &self_test {
        Some(server) => server.address(),
        None => resolve(&args.server, args.port, args.family).map_err(Failure::failed)?,
    };
    let mut settings = args.settings(server);
    if args.self_test && settings.time_limit.is_none() && settings.runs.is_none() {
        settings.time_limit = Some(SELF_TEST_TIME);
    }
    let mut out: Box<dyn Write> = if to_stdout { Box::new(io::stderr()) } else { Box::new(io::stdout()) };
    let result = measure(args, &settings, &queries, &mut *out);
    let json_out: Option<Box<dyn Write>> = match json {
        Some(file) => Some(Box::new(file)),
        None => to_stdout.then(|| Box::new(io::stdout()) as _),
    };
    if let Some(json_out) = json_out {
        write_json(json_out, args, &settings, &queries, &result)?;
    }
    drop(self_test);
    judge(&settings, &result?)
}

impl Args {
    fn settings(&self, server: SocketAddr) -> Settings {
        Settings {
            clients: self.clients,
            threads: self.threads,
            runs: self.runs,
            time_limit: self.time_limit,
            outstanding: self.outstanding,
            rate_qps: self.max_qps,
            timeout: self.timeout,
            buffer_len: self.buffer_size.map(|size_kb| size_kb as usize * 1_024),
            progress_interval: self.stats_interval.unwrap_or(Duration::from_millis(250)),
            ..Settings::new(server)
        }
    }

    fn edns(&self) -> Option<Edns> {
        (self.edns || self.dnssec_ok).then_some(Edns { dnssec_ok: self.dnssec_ok })
    }

    fn read_queries(&self) -> Result<QueryFile, Failure> {
        let queries = match (&self.queries, self.self_test) {
            (Some(path), _) => QueryFile::open(path, self.edns()),
            (None, true) => QueryFile::read(sample::queries().as_bytes(), "self-test", self.edns()),
            (None, false) => {
                if io::stdin().is_terminal() {
                    let _ =
                        writeln!(io::stderr(), "reading queries, `name type` a line, from standard input");
                }
                QueryFile::read(BufReader::new(io::stdin().lock()), "standard input", self.edns())
            }
        };
        queries.map_err(Failure::usage)
    }
}

/// Does the run and tells about it on `out`.
fn measure(
    args: &Args,
    settings: &Settings,
    queries: &QueryFile,
    out: &mut dyn Write,
) -> Result<Outcome, Failure> {
    let command_line: Vec<_> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    let command_line = format!("redbreast {}", command_line.join(" "));
    text::write_start(out, &command_line, settings, SystemTime::now()).map_err(unwritable)?;
    let stop =
        stop_on_signals().map_err(|error| Failure::failed(format!("cannot catch signals: {error}")))?;
    let intervals = args.stats_interval.is_some();
    // Drawn on a terminal alone, and not among the lines of intervals.
    let display = if intervals { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
    if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
        display.set_style(style);
    }
    let mut written = Ok(());
    let outcome = bench::run(settings, queries, &stop, &mut |Progress { completed, qps, .. }| {
        if intervals {
            written = text::write_interval(out, SystemTime::now(), qps);
        } else {
            display.set_message(format!("{completed} answered, {qps:.0} a second"));
            display.tick();
        }
    });
    display.finish_and_clear();
    written.map_err(unwritable)?;
    let outcome = outcome.map_err(|error| match error {
        BenchError::Settings(_) => Failure::usage(error),
        _ => Failure::failed(error),
    })?;
    text::write_end(out, &outcome).and_then(|()| out.flush()).map_err(unwritable)?;
    Ok(outcome)
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

fn write_json(
    mut out: Box<dyn Write>,
    args: &Args,
    settings: &Settings,
    queries: &QueryFile,
    result: &Result<Outcome, Failure>,
) -> Result<(), Failure> {
    let file = args.queries.as_ref().map(|path| path.display().to_string());
    let circumstances = Circumstances {
        server: if args.self_test { "self-test" } else { &args.server },
        queries: file.as_deref().unwrap_or(if args.self_test { "self-test" } else { "-" }),
        queries_in_file: queries.count(),
        edns: args.edns().is_some(),
        dnssec_ok: args.dnssec_ok,
    };
    let report = match result {
        Ok(outcome) => Report::new(&circumstances, settings, outcome, None),
        Err(failure) => {
            let nothing =
                Outcome { tally: Tally::default(), run_time: Duration::ZERO, end: End::Interrupted };
            Report::new(&circumstances, settings, &nothing, Some(failure.message()))
        }
    };
    serde_json::to_writer_pretty(&mut out, &report).map_err(io::Error::from).map_err(unwritable)?;
    writeln!(out).and_then(|()| out.flush()).map_err(unwritable)
}

/// Whether what was asked for holds. Lost queries alone are a result and no failure, as with dnsperf.
fn judge(settings: &Settings, outcome: &Outcome) -> Result<(), Failure> {
    let totals = &outcome.tally.totals;
    if outcome.end == End::Interrupted {
        Err(Failure::failed("interrupted"))
    } else if totals.completed == 0 {
        Err(Failure::failed(format!("no answer from {} to {} queries", settings.server, totals.sent)))
    } else {
        Ok(())
    }
}

fn unwritable(error: io::Error) -> Failure {
    Failure::failed(format!("cannot write the result: {error}"))
}

fn create(path: &Path) -> Result<File, Failure> {
    File::create(path)
        .map_err(|error| Failure::usage(format!("{}: cannot be written: {error}", path.display())))
}

/// The first address of `server`, which may be an address itself, in brackets or not.
fn resolve(server: &str, port: u16, family: Family) -> Result<SocketAddr, String> {
    let bare = server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(server);
    let addresses = match bare.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => {
            let found = (bare, port).to_socket_addrs();
            found.map_err(|error| format!("cannot resolve the server's name `{server}`: {error}"))?.collect()
        }
    };
    let fits = |address: &SocketAddr| match family {
        Family::Any => true,
        Family::Inet => address.is_ipv4(),
        Family::Inet6 => address.is_ipv6(),
    };
    let wanted = if family == Family::Inet6 { "IPv6" } else { "IPv4" };
    addresses.into_iter().find(fits).ok_or_else(|| format!("the server `{server}` has no {wanted} address"))
}

/// Reads a positive number of seconds, fractions allowed.
fn seconds(text: &str) -> Result<Duration, String> {
    let expected = || format!("expected seconds, more than 0 and at most {LONGEST_S}, like 5 or 0.5");
    let value: f64 = text.parse().map_err(|_| expected())?;
    if !(value > 0.0 && value <= LONGEST_S) {
        return Err(expected());
    }
    let duration = Duration::from_secs_f64(value);
    if duration.as_micros() == 0 { Err(expected()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Command::try_parse_from(line.split_whitespace()).map(|command| command.args)
    }

    #[test]
    fn dnsperfs_letters_mean_what_they_mean_there() {
        let args = parse("bench -s ::1 -p 5300 -d q -c 8 -T 2 -n 3 -l 2.5 -q 200 -Q 9 -t 0.25 -b 64 -D -S 1")
            .unwrap();
        let settings = args.settings("[::1]:5300".parse().unwrap());
        settings.check().unwrap();
        assert_eq!((settings.clients, settings.threads), (8, 2));
        assert_eq!((settings.runs, settings.outstanding), (NonZeroU32::new(3), NonZeroU32::new(200)));
        assert_eq!(settings.time_limit, Some(Duration::from_millis(2_500)));
        assert_eq!(settings.timeout, Duration::from_millis(250));
        assert_eq!((settings.rate_qps, settings.buffer_len), (NonZeroU32::new(9), Some(65_536)));
        assert_eq!(settings.progress_interval, Duration::from_secs(1));
        assert_eq!(args.edns(), Some(Edns { dnssec_ok: true }));
    }

    #[test]
    fn absurd_options_are_usage_errors_that_name_the_value() {
        for (options, value) in [
            ("-q 0", "'0'"),
            ("-c 0", "'0'"),
            ("-T 0", "'0'"),
            ("-n 0", "'0'"),
            ("-Q 0", "'0'"),
            ("-l 0", "'0'"),
            ("-t -1", "'-1'"),
            ("-t 0.0000001", "'0.0000001'"),
            ("-l NaN", "'NaN'"),
            ("-l inf", "'inf'"),
            ("-p 0", "'0'"),
            ("-p 65536", "'65536'"),
            ("-c -5", "'-5'"),
            ("-q many", "'many'"),
            ("-m doh", "'doh'"),
            ("-f ipx", "'ipx'"),
            ("--self-test -s ::1", "--self-test"),
            ("-Z", "'-Z'"),
        ] {
            let error = parse(&format!("bench {options}")).err().unwrap_or_else(|| panic!("{options}"));
            assert_eq!(error.exit_code(), 2, "{options}");
            assert!(error.to_string().contains(value), "{options}: {error}");
        }
        let args = parse("bench -q 200000 -c 2").unwrap();
        assert!(args.settings("127.0.0.1:53".parse().unwrap()).check().is_err());
    }

    #[test]
    fn a_server_is_an_address_or_a_name() {
        assert_eq!(resolve("192.0.2.1", 53, Family::Any).unwrap().to_string(), "192.0.2.1:53");
        assert_eq!(resolve("[2001:db8::1]", 53, Family::Inet6).unwrap().to_string(), "[2001:db8::1]:53");
        assert!(resolve("localhost", 53, Family::Inet).unwrap().ip().is_loopback());
        assert!(resolve("192.0.2.1", 53, Family::Inet6).unwrap_err().contains("has no IPv6 address"));
        assert!(resolve("no such name", 53, Family::Any).unwrap_err().contains("`no such name`"));
    }
}
