//! What a health check is to do, as people write it.
//!
//! Pure.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use crate::wire::name::Name;
use crate::wire::record::rtype;

/// How often may be checked.
const INTERVALS: RangeInclusive<Duration> =
    crate::limits::MIN_CHECK_INTERVAL..=crate::limits::MAX_CHECK_INTERVAL;
/// A check may not take less than this.
const MIN_TIMEOUT: Duration = crate::limits::MIN_CHECK_TIMEOUT;
/// Checks in a row that may be asked for.
const MAX_STREAK: u32 = crate::limits::MAX_STREAK;

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
const DEFAULT_RISE: u32 = 2;
const DEFAULT_FALL: u32 = 3;
/// What an HTTP server says if it is well.
const DEFAULT_STATUS: (u16, u16) = (200, 399);

/// A health check: what is done, and when what comes of it counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// What is done.
    pub probe: Probe,
    /// From the beginning of one to the beginning of the next, at most.
    pub interval: Duration,
    /// What takes longer has failed.
    pub timeout: Duration,
    /// Successes in a row after which what was down is up.
    pub rise: u32,
    /// Failures in a row after which what was up is down.
    pub fall: u32,
}

/// What is done to find out whether an address is well.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Probe {
    /// Connecting to a port.
    Tcp {
        /// The port.
        port: u16,
    },
    /// Asking a web server; its certificate is not looked at.
    Http {
        /// Encrypted.
        tls: bool,
        /// Its port.
        port: u16,
        /// The path, and what is behind it.
        path: Box<str>,
        /// What the `Host` field says; the address if it is not said.
        host: Option<Box<str>>,
        /// The lowest and the highest status that is well.
        status: (u16, u16),
    },
    /// Asking a DNS server, which has to answer NOERROR.
    Dns {
        /// Its port.
        port: u16,
        /// The name.
        name: Name,
        /// The type, by its number.
        qtype: u16,
    },
    /// Running a program with the address as its argument: well if it ends with status 0.
    Command {
        /// Its name in the directory of such programs.
        program: Box<str>,
    },
}

/// A text is no check; says why, and what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadCheck(String);

impl fmt::Display for BadCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BadCheck {}

fn bad<T>(why: impl Into<String>) -> Result<T, BadCheck> {
    Err(BadCheck(why.into()))
}

impl fmt::Display for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { port } => write!(f, "tcp:{port}"),
            Self::Http { tls, port, path, host, status } => {
                write!(f, "{}:{port}{path}", if *tls { "https" } else { "http" })?;
                if let Some(host) = host {
                    write!(f, ",host={host}")?;
                }
                match *status {
                    DEFAULT_STATUS => Ok(()),
                    (low, high) if low == high => write!(f, ",status={low}"),
                    (low, high) => write!(f, ",status={low}-{high}"),
                }
            }
            Self::Dns { port, name, qtype } => {
                write!(f, "dns:{port}/{name}")?;
                match *qtype {
                    rtype::A => Ok(()),
                    qtype => write!(f, "/TYPE{qtype}"),
                }
            }
            Self::Command { program } => write!(f, "command:{program}"),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, interval, timeout, rise, fall } = self;
        write!(f, "{probe},interval={},timeout={}", shown(*interval), shown(*timeout))?;
        write!(f, ",rise={rise},fall={fall}")
    }
}

impl FromStr for Check {
    type Err = BadCheck;

    /// Reads `KIND:PORT…[,OPTION=VALUE…]`.
    fn from_str(text: &str) -> Result<Self, BadCheck> {
        let mut parts = text.split(',').map(str::trim);
        let mut probe: Probe = parts.next().unwrap_or_default().parse()?;
        let (mut interval, mut timeout) = (DEFAULT_INTERVAL, None);
        let (mut rise, mut fall) = (DEFAULT_RISE, DEFAULT_FALL);
        for part in parts {
            let Some((option, value)) = part.split_once('=') else {
                return bad(format!("{part:?}: expected an option like interval=10s"));
            };
            match (option, &mut probe) {
                ("interval", _) => interval = duration(option, value)?,
                ("timeout", _) => timeout = Some(duration(option, value)?),
                ("rise", _) => rise = streak(option, value)?,
                ("fall", _) => fall = streak(option, value)?,
                ("host", Probe::Http { host, .. }) => *host = Some(host_field(value)?),
                ("status", Probe::Http { status, .. }) => *status = statuses(value)?,
                ("host" | "status", _) => {
                    return bad(format!("{option} is an option of http and https alone"));
                }
                _ => {
                    let known = "interval, timeout, rise, fall, host, status";
                    return bad(format!("a check has no option {option:?}; there are {known}"));
                }
            }
        }
        if !INTERVALS.contains(&interval) {
            let (low, high) = (shown(*INTERVALS.start()), shown(*INTERVALS.end()));
            return bad(format!("interval={}: expected {low} to {high}", shown(interval)));
        }
        let timeout = timeout.unwrap_or(DEFAULT_TIMEOUT.min(interval));
        if timeout < MIN_TIMEOUT || timeout > interval {
            return bad(format!(
                "timeout={}: expected {} to the interval, {}",
                shown(timeout),
                shown(MIN_TIMEOUT),
                shown(interval)
            ));
        }
        Ok(Self { probe, interval, timeout, rise, fall })
    }
}

impl FromStr for Probe {
    type Err = BadCheck;

    fn from_str(text: &str) -> Result<Self, BadCheck> {
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        let (port, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let port = |default: Option<u16>| match (port, default) {
            ("", Some(default)) => Ok(default),
            _ => match port.parse::<u16>() {
                Ok(port) if port > 0 => Ok(port),
                _ => bad(format!("{text:?}: {port:?} is no port")),
            },
        };
        match kind {
            "tcp" if path.is_empty() => Ok(Self::Tcp { port: port(None)? }),
            "http" | "https" => {
                let tls = kind == "https";
                let path = if path.is_empty() { "/" } else { path };
                if !path.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return bad(format!("{text:?}: the path has characters that a URL cannot have"));
                }
                let port = port(Some(if tls { 443 } else { 80 }))?;
                Ok(Self::Http { tls, port, path: path.into(), host: None, status: DEFAULT_STATUS })
            }
            "dns" => {
                let question = path.strip_prefix('/').filter(|question| !question.is_empty());
                let Some(question) = question else {
                    return bad(format!("{text:?}: expected the name to ask for, as in dns:53/example.com"));
                };
                let (name, qtype) = question.split_once('/').unwrap_or((question, "A"));
                let name = Name::from_text(name).map_err(|error| BadCheck(format!("{text:?}: {error}")))?;
                let Some(qtype) = rtype::from_text(qtype) else {
                    return bad(format!("{text:?}: {qtype:?} is no record type"));
                };
                Ok(Self::Dns { port: port(Some(53))?, name, qtype })
            }
            "command" => {
                let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                if rest.is_empty() || rest.starts_with('.') || !rest.bytes().all(sound) {
                    return bad(format!("{text:?}: expected the name of a file in the node's --check-dir"));
                }
                Ok(Self::Command { program: rest.into() })
            }
            _ => bad(format!(
                "{text:?} is no check: expected tcp:PORT, http:PORT/PATH, https:PORT/PATH, dns:PORT/NAME/TYPE or \
                 command:PROGRAM, and options like interval=10s,timeout=2s,rise=2,fall=3"
            )),
        }
    }
}

fn host_field(value: &str) -> Result<Box<str>, BadCheck> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return bad(format!("host={value}: that is no host"));
    }
    Ok(value.into())
}

fn statuses(value: &str) -> Result<(u16, u16), BadCheck> {
    let (low, high) = value.split_once('-').unwrap_or((value, value));
    match (low.parse(), high.parse()) {
        (Ok(low), Ok(high)) if (100..=high).contains(&low) && high < 600 => Ok((low, high)),
        _ => bad(format!("status={value}: expected one like 200, or a range like 200-299")),
    }
}

fn streak(option: &str, value: &str) -> Result<u32, BadCheck> {
    match value.parse() {
        Ok(count @ 1..=MAX_STREAK) => Ok(count),
        _ => bad(format!("{option}={value}: expected a number of checks from 1 to {MAX_STREAK}")),
    }
}

fn duration(option: &str, value: &str) -> Result<Duration, BadCheck> {
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    let unit_ms = match &value[digits..] {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => 0,
    };
    match value[..digits].parse::<u32>() {
        Ok(count) if unit_ms > 0 => Ok(Duration::from_millis(u64::from(count) * unit_ms)),
        _ => bad(format!("{option}={value}: expected a time like 500ms, 10s or 2m")),
    }
}

/// A duration as it is read.
fn shown(duration: Duration) -> String {
    match duration.as_millis() {
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_is_read_as_it_is_written() {
        for text in [
            "tcp:80,interval=500ms,timeout=200ms,rise=1,fall=2",
            "http:8080/health?a=b,host=web.example,status=204,interval=5s,timeout=1s,rise=2,fall=3",
            "https:8443/,status=200-299,interval=5s,timeout=5s,rise=2,fall=3",
            "dns:5353/example.com.,interval=10s,timeout=2s,rise=2,fall=3",
            "dns:53/example.com./TYPE6,interval=10s,timeout=2s,rise=2,fall=3",
            "command:disk-free.sh,interval=60s,timeout=2s,rise=2,fall=3",
        ] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), text);
        }
        for (text, written) in [
            ("tcp:80", "tcp:80,interval=10s,timeout=2s,rise=2,fall=3"),
            ("http:", "http:80/,interval=10s,timeout=2s,rise=2,fall=3"),
            ("https, interval=1s", "https:443/,interval=1s,timeout=1s,rise=2,fall=3"),
            ("dns:/a.example/soa", "dns:53/a.example./TYPE6,interval=10s,timeout=2s,rise=2,fall=3"),
            ("tcp:1,interval=2m", "tcp:1,interval=120s,timeout=2s,rise=2,fall=3"),
        ] {
            assert_eq!(text.parse::<Check>().unwrap().to_string(), written);
        }
    }

    #[test]
    fn what_is_none_is_told_with_what_would_be() {
        for (text, told) in [
            ("", "expected tcp:PORT"),
            ("ping:1", "expected tcp:PORT"),
            ("tcp", "\"\" is no port"),
            ("tcp:0", "\"0\" is no port"),
            ("tcp:80/x", "expected tcp:PORT"),
            ("http:80/a b", "characters that a URL cannot have"),
            ("http:80/,status=99", "status=99: expected"),
            ("http:80/,status=300-200", "expected one like 200"),
            ("tcp:80,status=200", "of http and https alone"),
            ("tcp:80,interval=10", "expected a time like"),
            ("tcp:80,interval=99ms", "expected 100ms to 3600s"),
            ("tcp:80,interval=2h", "expected a time like"),
            ("tcp:80,interval=99999999999s", "expected a time like"),
            ("tcp:80,interval=1s,timeout=2s", "expected 10ms to the interval, 1s"),
            ("tcp:80,rise=0", "from 1 to 100"),
            ("tcp:80,fall=101", "from 1 to 100"),
            ("tcp:80,retries=3", "no option \"retries\""),
            ("tcp:80,often", "expected an option like"),
            ("dns:53", "expected the name to ask for"),
            ("dns:53/a..b", "dns:53/a..b"),
            ("dns:53/a/BOGUS", "\"BOGUS\" is no record type"),
            ("command:", "file in the node's --check-dir"),
            ("command:../sh", "file in the node's --check-dir"),
            ("command:a/b", "file in the node's --check-dir"),
        ] {
            let error = text.parse::<Check>().unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
        }
    }
}
