//! What the resolver is told: whom to ask for what, how long to wait, how much to keep.
//!
//! Read by the main thread before anything starts, and by the thread `files` when that is said anew.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::upstream::{EXPECTED, Upstream};
use crate::wire::name::{Name, suffix_at};

/// Upstreams at most, of one domain as for all the rest: each is measured by each worker, and when all are down each is
/// tried.
pub const MAX_UPSTREAMS: usize = crate::limits::MAX_UPSTREAMS;

/// Domains with upstreams of their own at most: a question that is not in the cache is compared with each.
pub const MAX_FORWARDS: usize = crate::limits::MAX_FORWARDS;

/// Bytes of the cache, of all workers together, unless told otherwise; and the least and the most that can be told.
/// Less would hold a few hundred answers a worker; more is more than there are names that anybody asks for.
pub const DEFAULT_CACHE_BYTES: usize = crate::limits::DEFAULT_CACHE_BYTES;
/// See [`DEFAULT_CACHE_BYTES`].
pub const MIN_CACHE_BYTES: usize = crate::limits::MIN_CACHE_BYTES;
/// See [`DEFAULT_CACHE_BYTES`].
pub const MAX_CACHE_BYTES: usize = crate::limits::MAX_CACHE_BYTES;

/// For how many seconds an answer is kept at most, whatever its TTL, unless told otherwise: a day. What can be told is
/// up to the seven days that RFC 8767 §4 has for it.
pub const DEFAULT_MAX_TTL_S: u32 = crate::limits::DEFAULT_MAX_TTL_S;
/// See [`DEFAULT_MAX_TTL_S`].
pub const MAX_MAX_TTL_S: u32 = crate::limits::MAX_KEPT_S;

/// The same of answers that there is nothing: RFC 2308 §5 has one to three hours for it.
pub const DEFAULT_MAX_NEGATIVE_TTL_S: u32 = crate::limits::DEFAULT_MAX_NEGATIVE_TTL_S;

/// For how many seconds it is kept that there is nothing where no SOA record says for how long: long enough that a
/// program that asks again and again is not passed on each time.
pub const DEFAULT_NEGATIVE_TTL_S: u32 = crate::limits::DEFAULT_NEGATIVE_TTL_S;
/// The most that can be told.
pub const MAX_NEGATIVE_TTL_S: u32 = crate::limits::MAX_NEGATIVE_TTL_S;
/// The most that can be told of the seconds for which an answer is kept at least: more would keep names where they are
/// not any more.
pub const MAX_MIN_TTL_S: u32 = crate::limits::MAX_MIN_TTL_S;

/// For how many seconds after its end an answer is still given where no upstream answers (RFC 8767 §5 has one to three
/// days for it), and the most that can be told.
pub const DEFAULT_MAX_STALE_S: u32 = crate::limits::DEFAULT_MAX_STALE_S;
/// See [`DEFAULT_MAX_STALE_S`].
pub const MAX_MAX_STALE_S: u32 = crate::limits::MAX_KEPT_S;

/// How long a question may take as a whole, in milliseconds, unless told otherwise: what stub resolvers wait for an
/// answer. And the least and the most that can be told.
pub const DEFAULT_TIMEOUT_MS: u64 = crate::limits::DEFAULT_TIMEOUT_MS;
/// See [`DEFAULT_TIMEOUT_MS`].
pub const MIN_TIMEOUT_MS: u64 = crate::limits::MIN_TIMEOUT_MS;
/// See [`DEFAULT_TIMEOUT_MS`].
pub const MAX_TIMEOUT_MS: u64 = crate::limits::MAX_TIMEOUT_MS;

/// In which order upstreams are asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// First the one that is expected to answer soonest.
    #[default]
    Fastest,
    /// As they are listed, as resolv.conf(5) has it: the next only if one does not answer.
    Listed,
    /// As they are listed; the next, too, if one says that there is no such name, or that it could not answer.
    Fallback,
}

/// A domain with upstreams of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// It, and all below it; in lower case. Never the root, whose upstreams are those of [`Settings`].
    pub domain: Name,
    /// Who is asked. Where there is nobody, there is no answer.
    pub upstreams: Vec<Upstream>,
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}=", self.domain)?;
        for (i, upstream) in self.upstreams.iter().enumerate() {
            write!(f, "{}{upstream}", if i > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

impl FromStr for Forward {
    type Err = String;

    /// Reads `DOMAIN=UPSTREAM[,UPSTREAM]...`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, upstreams) = text
            .split_once('=')
            .ok_or("expected a domain and who is asked for it, as corp.example=10.0.0.2,10.0.0.3")?;
        let domain = Name::from_text(domain).map_err(|error| format!("`{domain}`: {error}"))?.to_lower_case();
        if domain == Name::root() {
            return Err("the root has all names: give those who are asked for them with --upstream".into());
        }
        if upstreams.is_empty() {
            return Err(format!("who is asked for {domain} has to follow `=`; expected {EXPECTED}"));
        }
        let upstreams: Vec<_> = upstreams.split(',').map(Upstream::from_str).collect::<Result<_, _>>()?;
        check_upstreams(&upstreams)?;
        Ok(Self { domain, upstreams })
    }
}

/// Whether these can be asked beside each other.
///
/// # Errors
/// Why not.
pub fn check_upstreams(upstreams: &[Upstream]) -> Result<(), String> {
    if upstreams.len() > MAX_UPSTREAMS {
        return Err(format!(
            "{} upstreams were given; {MAX_UPSTREAMS} can be asked at most",
            upstreams.len()
        ));
    }
    match (1..upstreams.len()).find(|&i| upstreams[..i].iter().any(|it| it.address == upstreams[i].address)) {
        Some(twice) => Err(format!("the upstream {} was given twice", upstreams[twice])),
        None => Ok(()),
    }
}

/// All that the resolver is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Who is asked.
    pub upstreams: Vec<Upstream>,
    /// The file that names others, in the format of resolv.conf(5).
    pub resolv_conf: Option<PathBuf>,
    /// In which order these are asked.
    pub order: Order,
    /// Domains with upstreams of their own.
    pub forwards: Vec<Forward>,
    /// Bytes of the cache, of all workers together.
    pub cache_bytes: usize,
    /// For how many seconds an answer is kept at most, whatever its TTL.
    pub max_ttl_s: u32,
    /// The same of answers that there is nothing.
    pub max_negative_ttl_s: u32,
    /// For how many seconds an answer is kept at least, but for one that may not be kept at all.
    pub min_ttl_s: u32,
    /// For how many seconds it is kept that there is nothing, where the upstream does not say for how long.
    pub negative_ttl_s: u32,
    /// For how many seconds after its end an answer is still given where no upstream answers; 0 for never.
    pub max_stale_s: u32,
    /// Addresses of private and other near networks are not taken from those who are asked for everything.
    pub rebind_protection: bool,
    /// But for names in these domains, in lower case.
    pub rebind_allow: Vec<Name>,
    /// How long a question may take as a whole.
    pub timeout: Duration,
    /// Letters of a question's name are in upper or lower case by chance, and its answer has to have them so (0x20):
    /// harder to guess, for those who would answer in the upstream's place.
    pub mix_case: bool,
    /// Where all upstreams are down there is no answer, and nobody is asked but to see whether they are back.
    pub fail_fast: bool,
    /// The file with the certificates of those who vouch for upstreams over TLS; those of the system without it.
    pub tls_ca: Option<PathBuf>,
}

impl Default for Settings {
    /// Nobody is asked.
    fn default() -> Self {
        Self {
            upstreams: Vec::new(),
            resolv_conf: None,
            order: Order::Fastest,
            forwards: Vec::new(),
            cache_bytes: DEFAULT_CACHE_BYTES,
            max_ttl_s: DEFAULT_MAX_TTL_S,
            max_negative_ttl_s: DEFAULT_MAX_NEGATIVE_TTL_S,
            min_ttl_s: 0,
            negative_ttl_s: DEFAULT_NEGATIVE_TTL_S,
            max_stale_s: DEFAULT_MAX_STALE_S,
            rebind_protection: false,
            rebind_allow: Vec::new(),
            timeout: Duration::from_millis(DEFAULT_TIMEOUT_MS),
            mix_case: false,
            fail_fast: false,
            tls_ca: None,
        }
    }
}

impl Settings {
    /// Takes over what can be changed in a running server: whom it asks.
    pub fn take_changeable(&mut self, new: Self) {
        self.upstreams = new.upstreams;
        self.resolv_conf = new.resolv_conf;
        self.order = new.order;
        self.rebind_protection = new.rebind_protection;
        self.rebind_allow = new.rebind_allow;
        self.forwards = new.forwards;
        self.tls_ca = new.tls_ca;
    }

    /// What is different in `new` and cannot be changed in a running server, by its flags.
    #[must_use]
    pub fn fixed_differences(&self, new: &Self) -> Vec<&'static str> {
        let differences = [
            ("cache-size", self.cache_bytes != new.cache_bytes),
            ("cache-max-ttl", self.max_ttl_s != new.max_ttl_s),
            ("cache-min-ttl", self.min_ttl_s != new.min_ttl_s),
            ("negative-ttl", self.negative_ttl_s != new.negative_ttl_s),
            ("max-stale", self.max_stale_s != new.max_stale_s),
            ("upstream-timeout", self.timeout != new.timeout),
            ("mix-case", self.mix_case != new.mix_case),
            ("fail-fast", self.fail_fast != new.fail_fast),
        ];
        differences.into_iter().filter(|(_, differs)| *differs).map(|(flag, _)| flag).collect()
    }

    /// The files that are read again when they change.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.resolv_conf.iter().chain(&self.tls_ca)
    }
}

/// Whom to ask for what, as [`Settings`] and the file that they name say together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstreams {
    /// Who is asked for all that is in none of the domains below. Where there is nobody, there is no answer.
    general: Vec<Upstream>,
    /// Domains with upstreams of their own, the longest first.
    forwards: Vec<Forward>,
    /// In which order they are asked.
    pub order: Order,
    /// They are to be asked in turn, rather than the fastest.
    pub rotate: bool,
    /// Addresses of near networks are not taken from those who are asked for everything.
    pub rebind_protection: bool,
    /// But for names in these domains, in lower case.
    pub rebind_allow: Vec<Name>,
    /// Where all are down there is no answer, and nobody is asked but to see whether they are back.
    pub fail_fast: bool,
    /// How long a question may take as a whole.
    pub timeout: Duration,
}

impl Upstreams {
    /// These, with the fastest to be asked.
    #[must_use]
    pub fn new(general: Vec<Upstream>, mut forwards: Vec<Forward>, timeout: Duration) -> Self {
        forwards.sort_by_key(|forward| std::cmp::Reverse(forward.domain.as_wire().len()));
        Self { general, forwards, timeout, ..Self::default() }
    }

    /// Has more of them asked for all that is in no domain of its own, as far as there is room. Returns how many there
    /// was none for; those that are asked already do not count.
    pub fn add(&mut self, mut more: Vec<Upstream>) -> usize {
        more.retain(|upstream| self.general.iter().all(|known| known.address != upstream.address));
        let room = MAX_UPSTREAMS.saturating_sub(self.general.len());
        let left_out = more.len().saturating_sub(room);
        self.general.extend(more.into_iter().take(room));
        left_out
    }

    /// Who is asked for all that is in no domain with upstreams of its own.
    #[must_use]
    pub fn general(&self) -> &[Upstream] {
        &self.general
    }

    /// The domains with upstreams of their own.
    #[must_use]
    pub fn forwards(&self) -> &[Forward] {
        &self.forwards
    }

    /// Whether addresses of near networks are taken for `name`, a wire name, in spite of the protection.
    #[must_use]
    pub fn may_be_near(&self, name: &[u8]) -> bool {
        let is_in = |domain: &Name| suffix_at(name, domain.as_wire(), <[u8]>::eq_ignore_ascii_case).is_some();
        self.rebind_allow.iter().any(is_in)
    }

    /// Which of [`forwards`](Self::forwards) `name` is in, a wire name: the longest, if it is in several.
    #[must_use]
    pub fn forward_of(&self, name: &[u8]) -> Option<usize> {
        let is_in = |forward: &Forward| {
            suffix_at(name, forward.domain.as_wire(), <[u8]>::eq_ignore_ascii_case).is_some()
        };
        self.forwards.iter().position(is_in)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(text: &str) -> Upstream {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn a_domain_has_upstreams_of_its_own() {
        let forward: Forward = "Corp.Example=10.0.0.2,tls://[::1]#dns.example".parse().unwrap();
        assert_eq!(forward.to_string(), "corp.example.=10.0.0.2,tls://::1#dns.example");
        assert_eq!(forward.upstreams.len(), 2);
        for (text, told) in [
            ("corp.example", "as corp.example=10.0.0.2"),
            ("corp.example=", "has to follow `=`"),
            ("=10.0.0.2", "a name cannot be empty"),
            (".=10.0.0.2", "--upstream"),
            ("corp..example=10.0.0.2", "`corp..example`: a label"),
            ("corp.example=10.0.0.2,", "is no address"),
            ("corp.example=10.0.0.2,10.0.0.2:53", "the upstream 10.0.0.2 was given twice"),
        ] {
            let error = text.parse::<Forward>().unwrap_err();
            assert!(error.contains(told), "{text}: {error}");
        }
        let many = (0..=MAX_UPSTREAMS).map(|i| format!("10.0.0.{}", i + 1)).collect::<Vec<_>>().join(",");
        assert!(format!("a={many}").parse::<Forward>().unwrap_err().contains("33 upstreams were given; 32"));
    }

    #[test]
    fn the_longest_domain_wins() {
        let forwards = ["example=10.0.0.1", "b.a.example=10.0.0.2", "a.example=10.0.0.3"];
        let forwards = forwards.map(|text| text.parse().unwrap()).to_vec();
        let upstreams = Upstreams::new(Vec::new(), forwards, Duration::ZERO);
        let of = |name: &str| {
            let at = upstreams.forward_of(Name::from_text(name).unwrap().as_wire())?;
            Some(upstreams.forwards()[at].upstreams[0].to_string())
        };
        assert_eq!(of("c.b.a.example").as_deref(), Some("10.0.0.2"));
        assert_eq!(of("a.example").as_deref(), Some("10.0.0.3"));
        assert_eq!(of("ba.example").as_deref(), Some("10.0.0.1"));
        assert_eq!(of("other"), None);
        assert_eq!(of("."), None);
    }

    #[test]
    fn whom_it_asks_can_be_changed_and_what_it_keeps_cannot() {
        let mut settings = Settings { upstreams: vec![upstream("10.0.0.2")], ..Settings::default() };
        let new = Settings {
            forwards: vec!["example=10.0.0.3".parse().unwrap()],
            resolv_conf: Some("/etc/resolv.conf".into()),
            cache_bytes: MIN_CACHE_BYTES,
            mix_case: true,
            ..Settings::default()
        };
        assert_eq!(settings.fixed_differences(&new), ["cache-size", "mix-case"]);
        settings.take_changeable(new.clone());
        assert_eq!(
            (settings.upstreams.len(), &settings.forwards, &settings.resolv_conf, settings.cache_bytes),
            (0, &new.forwards, &new.resolv_conf, DEFAULT_CACHE_BYTES)
        );
        assert_eq!(settings.files().count(), 1);
    }
}
