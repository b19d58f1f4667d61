//! What a run is asked to do, and which requests make no sense. Read-only once the run has begun.

use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use super::in_flight::IDS;

/// Sockets of a run at most. Each has a table of its ids, about 1.2 MiB.
pub const MAX_CLIENTS: u32 = 1_024;

/// Queries outstanding when neither their number nor a rate is set, as in dnsperf.
const DEFAULT_OUTSTANDING: u64 = 100;

/// What to send, where to, how fast and how long.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The server.
    pub server: SocketAddr,
    /// Sockets to send from.
    pub clients: u32,
    /// Threads to send from; more than there are clients or queries outstanding would have nothing to do and are
    /// not started.
    pub threads: u32,
    /// Passes through the query file at most. Without it and without `time_limit` there is one.
    pub runs: Option<NonZeroU32>,
    /// Stop sending after this long.
    pub time_limit: Option<Duration>,
    /// Queries in flight at most, in all threads and clients together. If unset: 100 in a closed loop; as many as
    /// there are ids at a fixed rate, because there a limit would let a slow server slow the load down.
    pub outstanding: Option<NonZeroU32>,
    /// Queries a second: a fixed schedule instead of a closed loop.
    pub rate_qps: Option<NonZeroU32>,
    /// A query not answered within this time is lost.
    pub timeout: Duration,
    /// Socket buffer size in bytes; if unset, generous.
    pub buffer_len: Option<usize>,
    /// How often progress is reported.
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

impl Settings {
    /// One client of one thread, one pass through the file, a timeout of 5 seconds: as dnsperf without options.
    #[must_use]
    pub fn new(server: SocketAddr) -> Self {
        Self {
            server,
            clients: 1,
            threads: 1,
            runs: None,
            time_limit: None,
            outstanding: None,
            rate_qps: None,
            timeout: Duration::from_secs(5),
            buffer_len: None,
            progress_interval: Duration::from_millis(100),
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
        match (self.outstanding, self.rate_qps) {
            (Some(limit), _) => limit.get().into(),
            (None, Some(_)) => self.ids(),
            (None, None) => DEFAULT_OUTSTANDING,
        }
    }

    /// Threads that have something to do.
    #[must_use]
    pub fn effective_threads(&self) -> u32 {
        let outstanding = u32::try_from(self.effective_outstanding()).unwrap_or(u32::MAX);
        self.threads.min(self.clients).min(outstanding)
    }

    fn ids(&self) -> u64 {
        u64::from(self.clients) * IDS as u64
    }

    /// Whether the settings make sense.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self) -> Result<(), SettingsError> {
        let error = if self.clients == 0 || self.clients > MAX_CLIENTS {
            format!("{} clients; expected 1 to {MAX_CLIENTS}", self.clients)
        } else if self.threads == 0 {
            "0 threads; expected at least 1".into()
        } else if self.effective_outstanding() > self.ids() {
            format!(
                "{} queries outstanding; expected at most {IDS} for each of the {} clients, which is as many as there are ids",
                self.effective_outstanding(),
                self.clients
            )
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

    fn sensible() -> Settings {
        Settings::new("127.0.0.1:53".parse().unwrap())
    }

    #[test]
    fn defaults_are_those_of_dnsperf() {
        let settings = sensible();
        settings.check().unwrap();
        assert_eq!(settings.effective_outstanding(), 100);
        assert_eq!(settings.effective_runs(), NonZeroU32::new(1));
        assert_eq!(Settings { time_limit: Some(Duration::from_secs(1)), ..settings }.effective_runs(), None);
    }

    #[test]
    fn a_fixed_rate_is_limited_by_ids_unless_told_otherwise() {
        let settings = Settings { rate_qps: NonZeroU32::new(5), clients: 2, ..sensible() };
        assert_eq!(settings.effective_outstanding(), 131_072);
        let limited = Settings { outstanding: NonZeroU32::new(7), ..settings };
        assert_eq!(limited.effective_outstanding(), 7);
    }

    #[test]
    fn threads_without_anything_to_do_are_not_started() {
        let settings = Settings { threads: 8, clients: 4, outstanding: NonZeroU32::new(3), ..sensible() };
        assert_eq!(settings.effective_threads(), 3);
    }

    #[test]
    fn absurd_settings_are_refused_with_their_value() {
        for (settings, value) in [
            (Settings { clients: 0, ..sensible() }, "0 clients"),
            (Settings { clients: 5_000, ..sensible() }, "5000 clients"),
            (Settings { threads: 0, ..sensible() }, "0 threads"),
            (Settings { outstanding: NonZeroU32::new(65_537), ..sensible() }, "65537 queries outstanding"),
            (Settings { timeout: Duration::ZERO, ..sensible() }, "timeout of 0"),
            (Settings { time_limit: Some(Duration::ZERO), ..sensible() }, "time limit of 0"),
            (Settings { progress_interval: Duration::ZERO, ..sensible() }, "interval of 0"),
            (Settings::new("127.0.0.1:0".parse().unwrap()), "port 0"),
        ] {
            let error = settings.check().unwrap_err().to_string();
            assert!(error.contains(value) && error.contains("expected"), "{error}");
        }
    }
}
