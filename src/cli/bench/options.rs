//! The options of `redbreast bench`, and what they ask for. The letters are dnsperf's; `docs/bench.md` has the table.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use crate::bench::objective::{Objective, parse_rate};
use crate::bench::schedule::{Arrivals, Plan, Rate};
use crate::bench::workload::{Tsig, mix};
use crate::bench::{self, Edns, RunSettings, Source, Tls, Transport, WaitMode};

/// Longest time that can be asked for: a year.
const LONGEST_S: f64 = 31_536_000.0;

/// The port of DNS over TLS.
const TLS_PORT: u16 = 853;

/// Options of `redbreast bench`; the letters are dnsperf's.
#[derive(clap::Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(super) command: Option<super::compare::Command>,

    /// The server to query, by address or by name
    #[arg(short = 's', long, value_name = "SERVER", default_value = "127.0.0.1")]
    pub(super) server: String,
    /// The port on which to query the server [default: 53, or 853 with `-m dot`]
    #[arg(short = 'p', long, value_name = "PORT",
          value_parser = clap::value_parser!(u16).range(1..), allow_negative_numbers = true)]
    port: Option<u16>,
    /// Address family, when the server is given by name
    #[arg(short = 'f', long, value_name = "FAMILY", value_enum, default_value_t = Family::Any)]
    family: Family,
    /// Transport
    #[arg(short = 'm', long, value_name = "MODE", value_enum, default_value_t = Mode::Udp)]
    mode: Mode,
    /// Addresses to send from, the clients taking them in turn
    #[arg(short = 'a', long, value_name = "ADDRESS[/LENGTH]", value_parser = Source::parse)]
    source: Option<Source>,
    /// Addresses of the clients, each query from the next: N clients (-c) over a few sockets
    #[arg(long, value_name = "ADDRESS/LENGTH", value_parser = Source::parse, conflicts_with = "source")]
    sources: Option<Source>,
    /// The port to send from; of several clients each has the next
    #[arg(short = 'x', long, value_name = "PORT", default_value_t = 0, hide_default_value = true)]
    local_port: u16,
    /// Clients to act as: sockets or connections to send from, or addresses of --sources
    #[arg(short = 'c', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(bench::MAX_SOURCES)),
          allow_negative_numbers = true)]
    clients: u32,
    /// Threads to run; at most one per client
    #[arg(short = 'T', long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..), allow_negative_numbers = true)]
    threads: u32,
    /// Run through the queries at most N times [default: 1, or without end if --time-limit is given]
    #[arg(short = 'n', long, value_name = "N", allow_negative_numbers = true)]
    runs: Option<NonZeroU32>,
    /// Send for at most this many seconds; of each trial or round, if there are several
    #[arg(short = 'l', long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    time_limit: Option<Duration>,
    /// Queries outstanding at most, all clients together [default: 100, or as many as there are ids on a schedule]
    #[arg(short = 'q', long, value_name = "N", allow_negative_numbers = true)]
    outstanding: Option<NonZeroU32>,
    /// Send at this rate, in queries a second, whatever the server does, instead of as fast as answers come
    #[arg(short = 'Q', long, value_name = "RATE", value_parser = parse_rate, allow_negative_numbers = true)]
    max_qps: Option<f64>,
    /// How queries are spaced around the rate
    #[arg(long, value_name = "SPACING", value_enum, default_value_t = Spacing::Constant)]
    arrivals: Spacing,
    /// How it waits for answers, and for when the next query is due
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Wait::Spin)]
    wait: Wait,
    /// Raise the rate in a straight line, like 10k..500k/60s, and tell what is answered of what is offered
    #[arg(long, value_name = "FROM..TO/SECONDS", value_parser = parse_ramp, conflicts_with = "max_qps")]
    ramp: Option<Rate>,
    /// Seconds after which a query is lost
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "5", value_parser = seconds,
          allow_negative_numbers = true)]
    timeout: Duration,
    /// Socket buffer size in kilobytes [default: 4096, as far as the kernel allows]
    #[arg(short = 'b', long, value_name = "KB", value_parser = clap::value_parser!(u32).range(1..=1_048_576),
          allow_negative_numbers = true)]
    buffer_size: Option<u32>,
    /// Print the rate every N seconds
    #[arg(short = 'S', long, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    pub(super) stats_interval: Option<Duration>,
    /// Print a line for each query: its response code, or T if it was lost, the query, and the seconds to its answer
    #[arg(short = 'v', long)]
    verbose: bool,
    /// Start a server in this process and measure that
    #[arg(long, conflicts_with_all = ["server", "port", "family", "mode"])]
    pub(super) self_test: bool,

    #[command(flatten)]
    pub(super) workload: Workload,
    #[command(flatten)]
    connection: ConnectionArgs,
    #[command(flatten)]
    pub(super) judgement: Judgement,
    #[command(flatten)]
    pub(super) outputs: super::outputs::OutputArgs,
}

/// What is asked.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "What is asked")]
#[group(skip)]
pub(super) struct Workload {
    /// File of queries, `name type` a line [default: standard input]
    #[arg(short = 'd', long, value_name = "FILE")]
    pub(super) queries: Option<PathBuf>,
    /// The file has dynamic updates: a zone, `require`, `prohibit`, `add` and `delete` lines, `send`
    #[arg(short = 'u', long, requires = "queries", conflicts_with_all = ["binary", "cookie"])]
    pub(super) updates: bool,
    /// The file has whole messages, each behind its length in two bytes, as over TCP
    #[arg(short = 'B', long, requires = "queries")]
    pub(super) binary: bool,
    /// Ask for the names of a hosts file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queries", "pcap", "names", "pattern"])]
    pub(super) hosts: Option<PathBuf>,
    /// Send the queries of a capture, at the times when they were sent unless -Q is given
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queries", "names", "pattern"])]
    pub(super) pcap: Option<PathBuf>,
    /// The port that queries of a capture went to
    #[arg(long, value_name = "PORT", default_value_t = 53, requires = "pcap")]
    pub(super) pcap_port: u16,
    /// Send a capture so many times as fast
    #[arg(long, value_name = "FACTOR", value_parser = positive, requires = "pcap")]
    pub(super) speed: Option<f64>,
    /// Draw queries about the names of a file, the first word of each line
    #[arg(long, value_name = "FILE", conflicts_with_all = ["queries", "pattern"])]
    pub(super) names: Option<PathBuf>,
    /// Draw queries about the names of a pattern, like host{1..10000}.example
    #[arg(long, value_name = "PATTERN", conflicts_with = "queries")]
    pub(super) pattern: Option<String>,
    /// Shares of positive (the names), negative (random names beside them) and random (random names below them)
    #[arg(long, value_name = "KIND=SHARE,...", value_parser = mix::parse_kinds)]
    pub(super) mix: Option<mix::Shares<mix::Kind>>,
    /// Shares of types, like A=80%,AAAA=20% [default: A]
    #[arg(long, value_name = "TYPE=SHARE,...", value_parser = mix::parse_types)]
    pub(super) types: Option<mix::Shares<u16>>,
    /// Ask for the k-th name 1/k^S as often as for the first [default: all alike]
    #[arg(long, value_name = "S", value_parser = not_negative)]
    pub(super) zipf: Option<f64>,
    /// How many queries to draw; after the last the first comes again
    #[arg(long, value_name = "N", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..=mix::MAX_NAMES))]
    pub(super) draws: u64,
    /// Where random numbers begin: equal seeds ask the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// Refuse a file with a line that is no query, instead of leaving that line out
    #[arg(long)]
    pub(super) strict: bool,
    /// Sign queries with TSIG: [ALGORITHM:]NAME:SECRET, by default with hmac-sha256
    #[arg(short = 'y', long, value_name = "KEY", value_parser = Tsig::parse)]
    pub(super) tsig: Option<Tsig>,
    /// Enable EDNS 0
    #[arg(short = 'e', long)]
    pub(super) edns: bool,
    /// Set the DNSSEC OK bit (implies EDNS)
    #[arg(short = 'D', long)]
    pub(super) dnssec_ok: bool,
    /// An EDNS option, its value in hexadecimal (implies EDNS; may be repeated)
    #[arg(short = 'E', long, value_name = "CODE:VALUE", value_parser = parse_option)]
    pub(super) edns_option: Vec<(u16, Vec<u8>)>,
    /// Ask the server for its name by NSID (implies EDNS)
    #[arg(long)]
    pub(super) nsid: bool,
    /// Send DNS cookies, each client its own (implies EDNS; UDP alone)
    #[arg(long)]
    pub(super) cookie: bool,
}

/// Connections.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Connections (TCP and TLS)")]
#[group(skip)]
struct ConnectionArgs {
    /// Replace a connection by a new one when it has carried N queries
    #[arg(long, value_name = "N")]
    queries_per_connection: Option<NonZeroU32>,
    /// The server's name in its certificate [default: as given by --server]
    #[arg(long, value_name = "NAME")]
    tls_name: Option<String>,
    /// Authorities in PEM form, one of which has to vouch for the server, or its own certificate [default: any will do]
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
}

/// What has to hold.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "What has to hold")]
#[group(skip)]
pub(super) struct Judgement {
    /// Find the highest rate that holds the objective; -Q says where to begin [default: 10k]
    #[arg(long, requires = "slo", conflicts_with_all = ["against", "ramp"])]
    pub(super) find_max: bool,
    /// What has to hold, like p99<1ms,loss<0.1%
    #[arg(long, value_name = "OBJECTIVE,...", value_parser = Objectives::parse, conflicts_with = "against")]
    pub(super) slo: Option<Objectives>,
    /// Compare with another server, in rounds that take turns, or with a result that was saved as JSON
    #[arg(long, value_name = "ADDR:PORT|FILE", conflicts_with = "ramp")]
    pub(super) against: Option<String>,
    /// Rounds of the comparison
    #[arg(long, value_name = "N", default_value_t = 9, requires = "against",
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(super) rounds: u32,
    /// What has to hold of the ratio to the other, like qps>=0.95
    #[arg(long, value_name = "METRIC>=RATIO,...", value_parser = Objectives::parse_ratios, requires = "against")]
    pub(super) require: Option<Objectives>,
    /// Check answers against a file of what they should be
    #[arg(long, value_name = "FILE")]
    pub(super) verify: Option<PathBuf>,
    /// End with status 0 although the result is marked as invalid
    #[arg(long)]
    pub(super) accept_invalid: bool,
}

/// Objectives as one value of the command line.
#[derive(Clone, Debug)]
pub(super) struct Objectives(pub(super) Vec<Objective>);

impl Objectives {
    fn parse(text: &str) -> Result<Self, String> {
        Objective::parse_all(text).map(Self)
    }

    fn parse_ratios(text: &str) -> Result<Self, String> {
        Objective::parse_ratios(text).map(Self)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Family {
    Any,
    Inet,
    Inet6,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// Datagrams
    Udp,
    /// Connections
    Tcp,
    /// Encrypted connections (DNS over TLS)
    #[value(alias = "tls")]
    Dot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Spacing {
    /// Evenly
    Constant,
    /// As by very many clients that know nothing of each other
    Poisson,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// Looking all the time, so that latency is the server's
    Spin,
    /// Asleep, as applications and dnsperf do: to be woken is part of latency
    Sleep,
}

impl Args {
    /// What a single run is asked to do.
    pub(super) fn settings(&self, server: SocketAddr) -> Result<RunSettings, String> {
        let arrivals = match self.arrivals {
            Spacing::Constant => Arrivals::Constant,
            Spacing::Poisson => Arrivals::Poisson,
        };
        let rate = self.ramp.or(self.max_qps.map(|qps| Rate::Constant { qps }));
        let ramp_time = match self.ramp {
            Some(Rate::Ramp { over, .. }) => Some(over),
            _ => None,
        };
        // A ramp has some sixty points.
        let interval =
            ramp_time.map_or(Duration::from_secs(1), |over| (over / 60).min(Duration::from_secs(1)));
        Ok(RunSettings {
            transport: self.transport()?,
            source: self.source,
            sources: self.sources,
            local_port: self.local_port,
            queries_per_connection: self.connection.queries_per_connection,
            cookies: self.workload.cookie,
            clients: self.clients,
            threads: self.threads,
            runs: self.runs,
            time_limit: self.time_limit.or(ramp_time),
            outstanding: self.outstanding,
            plan: rate.map(|rate| Plan::Rate(rate, arrivals)),
            wait_mode: match self.wait {
                Wait::Spin => WaitMode::Spin,
                Wait::Sleep => WaitMode::Sleep,
            },
            seed: self.workload.seed,
            timeout: self.timeout,
            verbose: self.verbose,
            buffer_len: self.buffer_size.map(|size_kb| size_kb as usize * 1_024),
            progress_interval: self.stats_interval.unwrap_or(interval.max(Duration::from_millis(20))),
            ..RunSettings::new(server)
        })
    }

    fn transport(&self) -> Result<Transport, String> {
        Ok(match self.mode {
            Mode::Udp => Transport::Udp,
            Mode::Tcp => Transport::Tcp,
            Mode::Dot => {
                let name = self.connection.tls_name.as_deref().unwrap_or(&self.server);
                Transport::Tls(Tls::new(name, self.connection.tls_ca.as_deref())?)
            }
        })
    }

    /// The server's address.
    pub(super) fn resolve(&self) -> Result<SocketAddr, String> {
        resolve(&self.server, self.port(), self.family)
    }

    pub(super) fn port(&self) -> u16 {
        self.port.unwrap_or(if self.mode == Mode::Dot { TLS_PORT } else { 53 })
    }

    /// Where a search begins.
    pub(super) fn start_qps(&self) -> f64 {
        self.max_qps.unwrap_or(10_000.0)
    }

    /// Passes through the queries, if their number is given.
    pub(super) fn passes(&self) -> Option<NonZeroU32> {
        self.runs
    }

    pub(super) fn is_verbose(&self) -> bool {
        self.verbose
    }

    pub(super) fn is_ramp(&self) -> bool {
        self.ramp.is_some()
    }
}

impl Workload {
    pub(super) fn edns(&self) -> Option<Edns> {
        let mut options = Vec::new();
        if self.nsid {
            options.push(Edns::NSID);
        }
        options.extend(self.edns_option.iter().cloned());
        let wanted = self.edns || self.dnssec_ok || self.cookie || !options.is_empty();
        wanted.then_some(Edns { dnssec_ok: self.dnssec_ok, options })
    }
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

/// Reads `FROM..TO/SECONDS`.
fn parse_ramp(text: &str) -> Result<Rate, String> {
    let expected = || format!("`{text}` is no ramp; expected one like 10k..500k/60s");
    let (rates, time) = text.split_once('/').ok_or_else(expected)?;
    let (from, to) = rates.split_once("..").ok_or_else(expected)?;
    let over = seconds(time.strip_suffix('s').unwrap_or(time)).map_err(|_| expected())?;
    Ok(Rate::Ramp { from_qps: parse_rate(from)?, to_qps: parse_rate(to)?, over })
}

/// Reads `CODE:HEX`.
fn parse_option(text: &str) -> Result<(u16, Vec<u8>), String> {
    let expected =
        || format!("`{text}` is no option; expected a code and a value in hexadecimal, like 65001:c0ffee");
    let (code, value) = text.split_once(':').unwrap_or((text, ""));
    let code = code.parse().map_err(|_| expected())?;
    if !value.is_ascii() || !value.len().is_multiple_of(2) || value.len() > 1_000 {
        return Err(expected());
    }
    let byte = |at: usize| u8::from_str_radix(&value[at..at + 2], 16).map_err(|_| expected());
    Ok((code, (0..value.len()).step_by(2).map(byte).collect::<Result<_, _>>()?))
}

fn positive(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| *value > 0.0 && value.is_finite());
    value.ok_or_else(|| "expected a number more than 0, like 2 or 0.5".into())
}

fn not_negative(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value: &f64| *value >= 0.0 && *value <= 10.0);
    value.ok_or_else(|| "expected a number from 0 to 10, like 1.0".into())
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
        let settings = args.settings("[::1]:5300".parse().unwrap()).unwrap();
        settings.check().unwrap();
        assert_eq!((settings.clients, settings.threads), (8, 2));
        assert_eq!((settings.runs, settings.outstanding), (NonZeroU32::new(3), NonZeroU32::new(200)));
        assert_eq!(settings.time_limit, Some(Duration::from_millis(2_500)));
        assert_eq!(settings.timeout, Duration::from_millis(250));
        assert_eq!((settings.rate_qps(), settings.buffer_len), (Some(9.0), Some(65_536)));
        assert_eq!(settings.progress_interval, Duration::from_secs(1));
        assert_eq!(args.workload.edns(), Some(Edns { dnssec_ok: true, options: Vec::new() }));
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
            ("-Q -5", "'-5'"),
            ("-Q 1e99", "'1e99'"),
            ("--ramp 10k..20k", "'10k..20k'"),
            ("--ramp 10k..20k/0s", "'10k..20k/0s'"),
            ("--ramp 0..20k/5s", "'0..20k/5s'"),
            ("--ramp 1k..2k/5s -Q 5", "--ramp"),
            ("--find-max", "--slo"),
            ("--slo p99<1ms --against ::1", "--against"),
            ("--find-max --slo p99", "'p99'"),
            ("--require qps>=1", "--against"),
            ("--against ::1 --require qps", "'qps'"),
            ("-a 127.0.0.1/99", "'127.0.0.1/99'"),
            ("-E x:00", "'x:00'"),
            ("-E 5:0", "'5:0'"),
            ("--mix positive=10%", "'positive=10%'"),
            ("--speed 2", "--pcap"),
            ("-d x --pattern y", "--pattern"),
            ("-Z", "'-Z'"),
        ] {
            let error = parse(&format!("bench {options}")).err().unwrap_or_else(|| panic!("{options}"));
            assert_eq!(error.exit_code(), 2, "{options}");
            assert!(error.to_string().contains(value), "{options}: {error}");
        }
        let args = parse("bench -q 200000 -c 2").unwrap();
        assert!(args.settings("127.0.0.1:53".parse().unwrap()).unwrap().check().is_err());
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
