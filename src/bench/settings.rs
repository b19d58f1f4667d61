//! What a run is asked to do, and which requests make no sense. Read-only once the run has begun.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};

use super::in_flight::IDS;
use super::schedule::{Arrivals, Plan, Rate};
use super::tls::Tls;

/// Clients of a run at most: sockets, two for each, or connections.
pub const MAX_CLIENTS: u32 = 1_024;

/// Clients at most where each is an address alone.
pub const MAX_SOURCES: u32 = 1 << 24;

/// Sockets of each thread that has clients which are addresses alone.
const SOCKETS_OF_THREAD: u32 = 4;

/// Ids of all clients together at most, some 26 bytes each.
const MAX_IDS: usize = 1 << 22;

/// Queries outstanding when neither their number nor a rate is set, as in dnsperf.
const DEFAULT_OUTSTANDING: u64 = 100;

/// How queries travel.
#[derive(Clone, Debug, Default)]
pub enum Transport {
    /// A datagram each.
    #[default]
    Udp,
    /// Many over one connection (RFC 7766).
    Tcp,
    /// The same, encrypted (RFC 7858).
    Tls(Tls),
}

impl Transport {
    /// Its name on the command line.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls(_) => "dot",
        }
    }

    /// Its name for people.
    #[must_use]
    pub fn title(&self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls(_) => "TLS",
        }
    }

    /// Whether each query is a datagram.
    #[must_use]
    pub fn is_udp(&self) -> bool {
        matches!(self, Self::Udp)
    }
}

/// Addresses to send from: those of a prefix, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// The first.
    pub first: IpAddr,
    /// How many there are.
    pub count: u32,
}

impl Source {
    /// Reads `ADDRESS` or `ADDRESS/LENGTH`. Of a prefix its host addresses are meant: neither the first nor the last of
    /// an IPv4 prefix, not the first of an IPv6 one.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected =
            || format!("`{text}` is no address or prefix; expected one like 127.0.0.1 or 127.0.5.0/24");
        let (address, len) = text.split_once('/').map_or((text, None), |(address, len)| (address, Some(len)));
        let first: IpAddr = address.parse().map_err(|_| expected())?;
        let Some(len) = len else { return Ok(Self { first, count: 1 }) };
        let bits = if first.is_ipv4() { 32 } else { 128 };
        let len: u32 = len.parse().map_err(|_| expected())?;
        if len > bits {
            return Err(expected());
        }
        let reserved = match bits - len {
            0 | 1 => 0,
            _ if first.is_ipv4() => 2,
            _ => 1,
        };
        let count = 1u32.checked_shl(bits - len).unwrap_or(u32::MAX) - reserved;
        let mut source = Self { first, count: u32::MAX };
        if reserved > 0 {
            source.first = source.address(1);
        }
        Ok(Self { count, ..source })
    }

    /// The address of client number `number`.
    #[must_use]
    pub fn address(&self, number: u32) -> IpAddr {
        let offset = number % self.count;
        match self.first {
            IpAddr::V4(first) => IpAddr::V4(u32::from(first).wrapping_add(offset).into()),
            IpAddr::V6(first) => IpAddr::V6(u128::from(first).wrapping_add(offset.into()).into()),
        }
    }
}

impl<'de> Deserialize<'de> for Source {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(D::Error::custom)
    }
}

/// How a sending thread waits for an answer, or for when the next query is due.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WaitMode {
    /// It looks all the time where what it waits for is near: latency is the server's.
    #[default]
    Spin,
    /// It sleeps, as an application does and dnsperf: that the kernel has to wake it is part of latency.
    Sleep,
}

impl WaitMode {
    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Sleep => "sleep",
        }
    }

    /// Turns without anything to do before a thread sleeps that sleeps after `turns` of them unless told otherwise.
    pub(super) fn idle_turns(self, turns: u32) -> u32 {
        if self == Self::Sleep { 0 } else { turns }
    }
}

/// What to send, where to, how fast and how long.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// The server.
    pub server: SocketAddr,
    /// How queries travel.
    pub transport: Transport,
    /// Addresses to send from, instead of the one that the kernel chooses.
    pub source: Option<Source>,
    /// Addresses of the clients, each query from the next: they share a few sockets. A server sees as many clients as
    /// there are, whatever their number costs here.
    pub sources: Option<Source>,
    /// The port to send from, and those after it of other clients; 0 has the kernel choose.
    pub local_port: u16,
    /// Queries that one connection carries before another takes its place.
    pub queries_per_connection: Option<NonZeroU32>,
    /// Queries carry DNS cookies (RFC 7873); they have to have an OPT record.
    pub cookies: bool,
    /// Sockets to send from: ports of UDP, connections of TCP.
    pub clients: u32,
    /// Threads to send from; more than there are clients or queries outstanding would have nothing to do and are
    /// not started.
    pub threads: u32,
    /// Passes through the query file at most. Without it and without `time_limit` there is one.
    pub runs: Option<NonZeroU32>,
    /// Stop sending after this long.
    pub time_limit: Option<Duration>,
    /// Queries in flight at most, in all threads and clients together. If unset: 100 in a closed loop; as many as
    /// there are ids on a schedule, because there a limit would let a slow server slow the load down.
    pub outstanding: Option<NonZeroU32>,
    /// A schedule instead of a closed loop.
    pub plan: Option<Plan>,
    /// How threads wait.
    pub wait_mode: WaitMode,
    /// Where the random numbers of the schedule begin.
    pub seed: u64,
    /// A query not answered within this time is lost.
    pub timeout: Duration,
    /// Socket buffer size in bytes; if unset, generous.
    pub buffer_len: Option<usize>,
    /// Print a line for each query on standard output.
    pub verbose: bool,
    /// How often progress is reported, and how far apart the points of the run's course are.
    pub progress_interval: Duration,
}

/// A setting that makes no sense, with its value and what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingsError(String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}

impl RunSettings {
    /// One client of one thread, one pass through the file, a timeout of 5 seconds: as dnsperf without options.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            transport: Transport::Udp,
            source: None,
            sources: None,
            local_port: 0,
            queries_per_connection: None,
            cookies: false,
            clients: 1,
            threads: 1,
            runs: None,
            time_limit: None,
            outstanding: None,
            plan: None,
            wait_mode: WaitMode::default(),
            seed: 0,
            timeout: Duration::from_secs(5),
            buffer_len: None,
            verbose: false,
            progress_interval: Duration::from_secs(1),
        }
    }

    /// Evenly spaced queries at this rate.
    #[must_use]
    pub fn at_rate(self, qps: f64) -> Self {
        Self { plan: Some(Plan::Rate(Rate::Constant { qps }, Arrivals::Constant)), ..self }
    }

    /// Queries a second that are asked for, if that is one number.
    #[must_use]
    pub fn rate_qps(&self) -> Option<f64> {
        match self.plan {
            Some(Plan::Rate(Rate::Constant { qps }, _)) => Some(qps),
            _ => None,
        }
    }

    /// Passes through the file at most, `None` for as many as there is time for.
    #[must_use]
    pub fn effective_runs(&self) -> Option<NonZeroU32> {
        self.runs.or(if self.time_limit.is_none() { Some(NonZeroU32::MIN) } else { None })
    }

    /// Queries in flight at most.
    #[must_use]
    pub fn effective_outstanding(&self) -> u64 {
        match (self.outstanding, &self.plan) {
            (Some(limit), _) => limit.get().into(),
            (None, Some(_)) => self.ids(),
            (None, None) => DEFAULT_OUTSTANDING,
        }
    }

    /// Threads that have something to do.
    #[must_use]
    pub fn effective_threads(&self) -> u32 {
        let outstanding = u32::try_from(self.effective_outstanding()).unwrap_or(u32::MAX);
        self.threads.min(self.sockets()).min(outstanding)
    }

    /// Sockets, or connections, that queries are sent from.
    pub(super) fn sockets(&self) -> u32 {
        match self.sources {
            Some(_) => self.clients.min(SOCKETS_OF_THREAD.saturating_mul(self.threads)),
            None => self.clients,
        }
    }

    fn ids(&self) -> u64 {
        u64::from(self.sockets()) * self.ids_per_client() as u64
    }

    /// Ids of each client: all that there are, or, where there are very many clients, as many as keep their tables
    /// within [`MAX_IDS`] together.
    pub(super) fn ids_per_client(&self) -> usize {
        let fair = MAX_IDS / self.sockets().max(1) as usize;
        if fair >= IDS { IDS } else { 1 << fair.ilog2() }
    }

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), SettingsError> {
        let most = self.sources.map_or(MAX_CLIENTS, |sources| sources.count.min(MAX_SOURCES));
        let error = if self.clients == 0 || self.clients > most {
            let why = if self.sources.is_some() {
                "as many as --sources has addresses"
            } else {
                "or more with --sources, where each is an address alone"
            };
            format!("{} clients; expected 1 to {most}, {why}", self.clients)
        } else if self.sources.is_some()
            && (!self.transport.is_udp() || self.cookies || self.source.is_some())
        {
            "--sources with connections, cookies or -a; expected UDP alone, where an address is all of a client".into()
        } else if u32::from(self.local_port) + self.sockets() > 65_536 && self.local_port > 0 {
            format!(
                "ports from {} on for {} sockets; expected ports up to 65535",
                self.local_port,
                self.sockets()
            )
        } else if self.threads == 0 {
            "0 threads; expected at least 1".into()
        } else if self.effective_outstanding() > self.ids() {
            format!(
                "{} queries outstanding; expected at most {} for each of the {} sockets, which is as many as there \
                 are ids",
                self.effective_outstanding(),
                self.ids_per_client(),
                self.sockets()
            )
        } else if self.threads > 1 && matches!(self.plan, Some(Plan::Recorded { .. })) {
            format!("{} threads; expected 1 where queries are sent at the times of a capture", self.threads)
        } else if self
            .source
            .or(self.sources)
            .is_some_and(|source| source.first.is_ipv4() != self.server.is_ipv4())
        {
            "addresses to send from of another family than the server's; expected the same".into()
        } else if self.queries_per_connection.is_some() && self.transport.is_udp() {
            "queries per connection, over UDP; expected TCP or TLS, where there are connections".into()
        } else if self.cookies && !self.transport.is_udp() {
            "cookies over TCP or TLS; expected UDP, where they tell who asks".into()
        } else if self.timeout.is_zero() {
            "a timeout of 0 seconds; expected more".into()
        } else if self.time_limit.is_some_and(|limit| limit.is_zero()) {
            "a time limit of 0 seconds; expected more".into()
        } else if self.progress_interval.is_zero() {
            "a progress interval of 0 seconds; expected more".into()
        } else if self.server.port() == 0 {
            "port 0; expected 1 to 65535".into()
        } else {
            return Ok(());
        };
        Err(SettingsError(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sensible() -> RunSettings {
        RunSettings::new("127.0.0.1:53".parse().unwrap())
    }

    #[test]
    fn defaults_are_those_of_dnsperf() {
        let settings = sensible();
        settings.check().unwrap();
        assert_eq!(settings.effective_outstanding(), 100);
        assert_eq!(settings.effective_runs(), NonZeroU32::new(1));
        assert_eq!(
            RunSettings { time_limit: Some(Duration::from_secs(1)), ..settings }.effective_runs(),
            None
        );
    }

    #[test]
    fn a_fixed_rate_is_limited_by_ids_unless_told_otherwise() {
        let settings = RunSettings { clients: 2, ..sensible() }.at_rate(5.0);
        assert_eq!(settings.effective_outstanding(), 131_072);
        let many = RunSettings { clients: MAX_CLIENTS, ..settings.clone() };
        assert_eq!((many.ids_per_client(), many.effective_outstanding()), (4_096, 4_194_304));
        let limited = RunSettings { outstanding: NonZeroU32::new(7), ..settings };
        assert_eq!(limited.effective_outstanding(), 7);
    }

    #[test]
    fn sources_are_the_hosts_of_a_prefix_one_after_the_other() {
        let addresses = |text: &str, number| Source::parse(text).unwrap().address(number).to_string();
        assert_eq!(
            (addresses("127.0.0.5", 0), addresses("127.0.0.5", 9)),
            ("127.0.0.5".into(), "127.0.0.5".into())
        );
        assert_eq!(addresses("127.0.5.0/24", 0), "127.0.5.1");
        assert_eq!(addresses("127.0.5.0/24", 253), "127.0.5.254");
        assert_eq!(addresses("127.0.5.0/24", 254), "127.0.5.1");
        assert_eq!(
            (addresses("10.0.0.2/31", 0), addresses("10.0.0.2/31", 1)),
            ("10.0.0.2".into(), "10.0.0.3".into())
        );
        assert_eq!(
            (addresses("2001:db8::/64", 0), addresses("::1/128", 7)),
            ("2001:db8::1".into(), "::1".into())
        );
        for bad in ["localhost", "127.0.0.1/33", "::1/", "::1/x", "/8"] {
            assert!(Source::parse(bad).unwrap_err().contains("expected"), "{bad}");
        }
    }

    #[test]
    fn threads_without_anything_to_do_are_not_started() {
        let settings = RunSettings { threads: 8, clients: 4, outstanding: NonZeroU32::new(3), ..sensible() };
        assert_eq!(settings.effective_threads(), 3);
    }

    fn many_sources() -> RunSettings {
        RunSettings { sources: Some(Source::parse("127.9.9.0/24").unwrap()), clients: 200, ..sensible() }
    }

    #[test]
    fn clients_that_are_addresses_share_a_few_sockets() {
        let settings = RunSettings { threads: 2, ..many_sources() };
        settings.check().unwrap();
        assert_eq!((settings.sockets(), settings.effective_threads()), (8, 2));
        assert_eq!(settings.at_rate(1.0).effective_outstanding(), 8 * 65_536);
    }

    #[test]
    fn absurd_settings_are_refused_with_their_value() {
        for (settings, value) in [
            (RunSettings { clients: 0, ..sensible() }, "0 clients"),
            (RunSettings { clients: 5_000, ..sensible() }, "5000 clients"),
            (RunSettings { clients: 255, ..many_sources() }, "255 clients; expected 1 to 254"),
            (RunSettings { transport: Transport::Tcp, ..many_sources() }, "UDP alone"),
            (RunSettings { local_port: 65_500, clients: 100, ..sensible() }, "65500"),
            (RunSettings { threads: 0, ..sensible() }, "0 threads"),
            (RunSettings { outstanding: NonZeroU32::new(65_537), ..sensible() }, "65537 queries outstanding"),
            (
                RunSettings { outstanding: NonZeroU32::new(262_145), ..many_sources() },
                "expected at most 65536 for each of the 4 sockets",
            ),
            (RunSettings { timeout: Duration::ZERO, ..sensible() }, "timeout of 0"),
            (RunSettings { time_limit: Some(Duration::ZERO), ..sensible() }, "time limit of 0"),
            (RunSettings { progress_interval: Duration::ZERO, ..sensible() }, "interval of 0"),
            (RunSettings::new("127.0.0.1:0".parse().unwrap()), "port 0"),
            (
                RunSettings {
                    plan: Some(Plan::Recorded { at_ns: [0].into(), pass_ns: 1 }),
                    threads: 2,
                    clients: 2,
                    ..sensible()
                },
                "2 threads",
            ),
            (RunSettings { source: Some(Source::parse("::1").unwrap()), ..sensible() }, "another family"),
            (RunSettings { queries_per_connection: NonZeroU32::new(5), ..sensible() }, "over UDP"),
            (RunSettings { cookies: true, transport: Transport::Tcp, ..sensible() }, "over TCP"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(value) && error.contains("expected"), "{error}");
        }
    }
}
