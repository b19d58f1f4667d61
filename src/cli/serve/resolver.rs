//! The options of `redbreast serve` for names that are in none of its domains.
//!
//! Runs on the main thread.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;

use super::super::Failure;
use crate::config::upstreams::{is_local, number_scopes};
use crate::resolver::settings::{
    DEFAULT_CACHE_BYTES, DEFAULT_MAX_NEGATIVE_TTL_S, DEFAULT_MAX_STALE_S, DEFAULT_MAX_TTL_S,
    DEFAULT_NEGATIVE_TTL_S, DEFAULT_TIMEOUT_MS, Forward, MAX_CACHE_BYTES, MAX_FORWARDS, MAX_MAX_STALE_S,
    MAX_MAX_TTL_S, MAX_MIN_TTL_S, MAX_NEGATIVE_TTL_S, MAX_TIMEOUT_MS, MIN_CACHE_BYTES, MIN_TIMEOUT_MS, Order,
    Settings, check_upstreams,
};
use crate::resolver::upstream::{Upstream, is_own};
use crate::wire::name::Name;

/// Where a machine's upstreams are unless told otherwise.
const DEFAULT_RESOLV_CONF: &str = "/etc/resolv.conf";

/// How an upstream is given.
const UPSTREAM_FORMS: &str = "ADDR[:PORT]|tcp://ADDR[:PORT]|tls://ADDR[:PORT][#NAME][#PIN]...|\
    https://ADDR[:PORT][/PATH][#NAME][#PIN]...|quic://ADDR[:PORT][#NAME][#PIN]...";

/// Who is asked for names that are not ours, and what is kept of their answers.
#[derive(clap::Args)]
pub(super) struct ResolverArgs {
    /// Answer for names in other domains, too, by asking this server, and the others that are given; give it again for
    /// more. One with `tls://` is asked over TLS, and its certificate has to be for NAME, or for the address; with
    /// PINs, `sha256//` and the hash of a key in base64, its key has to be one of these, and its certificate counts
    /// only if a NAME is said, too. The same with `https://` is asked over HTTP/2, at the PATH /dns-query if none is
    /// said; with `quic://` over QUIC. Without this, --resolv-conf or --forward, such names are refused
    #[arg(
        long,
        value_name = UPSTREAM_FORMS,
        value_parser = parse_scoped::<Upstream>,
        help_heading = "Names in other domains"
    )]
    upstream: Vec<Upstream>,

    /// Ask the name servers in this file, in the format of resolv.conf(5), this server itself aside. Read again when it
    /// changes, and on SIGHUP [default where it is given without a value: /etc/resolv.conf]
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true,
          default_missing_value = DEFAULT_RESOLV_CONF, help_heading = "Names in other domains")]
    resolv_conf: Option<PathBuf>,

    /// Ask these upstreams, and no others, for the names in this domain; the longest domain counts. Give it again for
    /// more
    #[arg(long, value_name = "DOMAIN=UPSTREAM[,UPSTREAM]...", value_parser = parse_scoped::<Forward>,
          help_heading = "Names in other domains")]
    forward: Vec<Forward>,

    /// In which order upstreams are asked: the fastest first; as they are listed, the next where one does not answer;
    /// or the next also where one says that there is no such name, or that it could not answer [default: fastest; for
    /// --resolv-conf alone listed, as resolv.conf(5) has it]
    #[arg(long, value_name = "ORDER", help_heading = "Names in other domains")]
    upstream_order: Option<OrderArg>,

    /// Do not take addresses of private, loopback and other near networks from the upstreams that are asked for
    /// everything: a page on the web could have a browser talk to what is inside. --forward domains may have them
    #[arg(long, help_heading = "Names in other domains")]
    rebind_protection: bool,

    /// But for the names in this domain. Give it again for more
    #[arg(
        long,
        value_name = "DOMAIN",
        requires = "rebind_protection",
        value_parser = parse_name,
        help_heading = "Names in other domains"
    )]
    rebind_allow: Vec<Name>,

    /// Memory for the cache, of all workers together; K, M and G stand for 2^10, 2^20 and 2^30 bytes [default: 64M]
    #[arg(
        long,
        value_name = "BYTES",
        allow_negative_numbers = true,
        value_parser = parse_cache_size,
        help_heading = "Names in other domains"
    )]
    cache_size: Option<usize>,

    /// For how long an answer is kept at most, whatever its TTL [default: 86400]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, help_heading = "Names in other domains",
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_MAX_TTL_S)))]
    cache_max_ttl: Option<u32>,

    /// For how long an answer is kept at least, but for one that may not be kept at all [default: 0]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, help_heading = "Names in other domains",
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_MIN_TTL_S)))]
    cache_min_ttl: Option<u32>,

    /// For how long it is kept that there is nothing, where the upstream does not say for how long [default: 5]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, help_heading = "Names in other domains",
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_NEGATIVE_TTL_S)))]
    negative_ttl: Option<u32>,

    /// For how long after its end an answer is still given where no upstream answers; 0 for never [default: 86400]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, help_heading = "Names in other domains",
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_MAX_STALE_S)))]
    max_stale: Option<u32>,

    /// How long a question may take as a whole, whoever is asked [default: 5000]
    #[arg(long, value_name = "MILLISECONDS", allow_negative_numbers = true, help_heading = "Names in other domains",
          value_parser = RangedU64ValueParser::<u64>::new().range(MIN_TIMEOUT_MS..=MAX_TIMEOUT_MS))]
    upstream_timeout: Option<u64>,

    /// Ask with letters in upper and lower case by chance, and take only answers that have them so: these are harder to
    /// forge, and a few servers do not give them
    #[arg(long, help_heading = "Names in other domains")]
    mix_case: bool,

    /// Answer SERVFAIL at once where all upstreams look down. Without this they are asked all the same, as long as
    /// clients wait
    #[arg(long, help_heading = "Names in other domains")]
    fail_fast: bool,

    /// File with the certificates, as PEM, of those who may vouch for upstreams over TLS, or of these upstreams
    /// themselves [default: those who may by this system]
    #[arg(long, value_name = "FILE", help_heading = "Names in other domains")]
    upstream_ca: Option<PathBuf>,
}

impl ResolverArgs {
    /// The settings, for a server that listens at `listen` and has `domains` of its own; `None` if nobody is to be
    /// asked. `asks` says that names of other nodes are asked for at query time.
    pub(super) fn settings(
        self,
        listen: &[SocketAddr],
        domains: &[Name],
        asks: bool,
    ) -> Result<Option<Settings>, Failure> {
        if self.upstream.is_empty() && self.resolv_conf.is_none() && self.forward.is_empty() {
            return match self.needs_upstreams() {
                Some(flag) => Err(Failure::usage(format!(
                    "--{flag} is for names in other domains, and nobody is asked for these: say who with --upstream, \
                     --resolv-conf or --forward"
                ))),
                None => Ok(None),
            };
        }
        if asks {
            return Err(Failure::usage(
                "--upstream, --resolv-conf and --forward are of the design `gossip`: in the others a name that a node \
                 does not have is asked of the other nodes; leave them out or --design",
            ));
        }
        self.check_upstreams(listen)?;
        self.check_forwards(domains)?;
        let all = || self.upstream.iter().chain(self.forward.iter().flat_map(|forward| &forward.upstreams));
        let is_tls = |upstream: &Upstream| upstream.protocol.identity().is_some();
        if self.upstream_ca.is_some() && !all().any(is_tls) {
            return Err(Failure::usage(
                "--upstream-ca is for upstreams over TLS, and there are none: they are given as \
                 tls://ADDR[:PORT][#NAME], or with https:// or quic://",
            ));
        }
        let max_ttl_s = self.cache_max_ttl.unwrap_or(DEFAULT_MAX_TTL_S);
        let min_ttl_s = self.cache_min_ttl.unwrap_or(0);
        if min_ttl_s > max_ttl_s {
            return Err(Failure::usage(format!(
                "--cache-min-ttl {min_ttl_s} is longer than --cache-max-ttl {max_ttl_s}: an answer cannot be kept for \
                 both"
            )));
        }
        let is_file_alone = self.resolv_conf.is_some() && self.upstream.is_empty();
        let default_order = if is_file_alone { Order::Listed } else { Order::Fastest };
        Ok(Some(Settings {
            upstreams: self.upstream,
            resolv_conf: self.resolv_conf,
            order: self.upstream_order.map_or(default_order, Into::into),
            forwards: self.forward,
            cache_bytes: self.cache_size.unwrap_or(DEFAULT_CACHE_BYTES),
            max_ttl_s,
            max_negative_ttl_s: max_ttl_s.min(DEFAULT_MAX_NEGATIVE_TTL_S),
            min_ttl_s,
            negative_ttl_s: self.negative_ttl.unwrap_or(DEFAULT_NEGATIVE_TTL_S),
            max_stale_s: self.max_stale.unwrap_or(DEFAULT_MAX_STALE_S),
            rebind_protection: self.rebind_protection,
            rebind_allow: self.rebind_allow.iter().map(Name::to_lower_case).collect(),
            timeout: Duration::from_millis(self.upstream_timeout.unwrap_or(DEFAULT_TIMEOUT_MS)),
            mix_case: self.mix_case,
            fail_fast: self.fail_fast,
            tls_ca: self.upstream_ca,
        }))
    }

    /// A flag that was given and says nothing without upstreams.
    fn needs_upstreams(&self) -> Option<&'static str> {
        let given = [
            ("cache-size", self.cache_size.is_some()),
            ("cache-max-ttl", self.cache_max_ttl.is_some()),
            ("cache-min-ttl", self.cache_min_ttl.is_some()),
            ("negative-ttl", self.negative_ttl.is_some()),
            ("max-stale", self.max_stale.is_some()),
            ("upstream-order", self.upstream_order.is_some()),
            ("rebind-protection", self.rebind_protection),
            ("upstream-timeout", self.upstream_timeout.is_some()),
            ("mix-case", self.mix_case),
            ("fail-fast", self.fail_fast),
            ("upstream-ca", self.upstream_ca.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(flag, _)| flag)
    }

    fn check_upstreams(&self, listen: &[SocketAddr]) -> Result<(), Failure> {
        check_upstreams(&self.upstream).map_err(|error| Failure::usage(format!("--upstream: {error}")))?;
        let itself = |flag: &str, upstream: &Upstream| {
            Failure::usage(format!(
                "--{flag}: {upstream} is where this server itself listens, and it would ask itself in a circle; \
                 expected another server's address"
            ))
        };
        let own = |upstream: &&Upstream| is_own(upstream.address, listen, is_local);
        if let Some(upstream) = self.upstream.iter().find(own) {
            return Err(itself("upstream", upstream));
        }
        match self.forward.iter().find_map(|forward| forward.upstreams.iter().find(own)) {
            Some(upstream) => Err(itself("forward", upstream)),
            None => Ok(()),
        }
    }

    fn check_forwards(&self, domains: &[Name]) -> Result<(), Failure> {
        let forwards = &self.forward;
        if forwards.len() > MAX_FORWARDS {
            return Err(Failure::usage(format!(
                "--forward was given {} times; {MAX_FORWARDS} domains can have upstreams of their own at most",
                forwards.len()
            )));
        }
        for (i, forward) in forwards.iter().enumerate() {
            let Forward { domain, .. } = forward;
            if let Some(own) = domains.iter().find(|own| domain.is_within(own)) {
                return Err(Failure::usage(format!(
                    "--forward {domain}: this server answers itself for all names in {own}; leave out the --forward \
                     or the --domain"
                )));
            }
            if forwards[..i].iter().any(|other| other.domain == *domain) {
                return Err(Failure::usage(format!(
                    "--forward {domain} was given twice: give its upstreams together, with commas between them"
                )));
            }
        }
        Ok(())
    }
}

/// In which order upstreams are asked.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum OrderArg {
    Fastest,
    Listed,
    Fallback,
}

impl From<OrderArg> for Order {
    fn from(order: OrderArg) -> Self {
        match order {
            OrderArg::Fastest => Self::Fastest,
            OrderArg::Listed => Self::Listed,
            OrderArg::Fallback => Self::Fallback,
        }
    }
}

fn parse_name(text: &str) -> Result<Name, String> {
    Name::from_text(text).map_err(|error| error.to_string())
}

/// Reads what has addresses in it, with the names of interfaces or their numbers.
fn parse_scoped<T: FromStr<Err = String>>(text: &str) -> Result<T, String> {
    number_scopes(text)?.parse()
}

/// Reads a number of bytes, with `K`, `M` or `G` for 2^10, 2^20 or 2^30 of them.
fn parse_cache_size(text: &str) -> Result<usize, String> {
    let (number, shift) = match text.as_bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = number.parse::<usize>().ok().and_then(|number| number.checked_mul(1 << shift));
    bytes.filter(|bytes| (MIN_CACHE_BYTES..=MAX_CACHE_BYTES).contains(bytes)).ok_or_else(|| {
        format!(
            "expected bytes, as 64M or 1G or a plain number, from {}M to {}G",
            MIN_CACHE_BYTES >> 20,
            MAX_CACHE_BYTES >> 30
        )
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches};

    use super::super::super::Cli;
    use super::super::Args;
    use super::*;
    use crate::resolver::settings::MAX_UPSTREAMS;

    /// What these flags say, or what is wrong with them.
    fn settings(flags: &[&str]) -> Result<Option<Settings>, String> {
        let command_line = ["redbreast", "serve"].iter().chain(flags);
        let matches = Cli::command().try_get_matches_from(command_line).map_err(|error| error.to_string())?;
        let serve = matches.subcommand_matches("serve").unwrap();
        let settings = Args::from_arg_matches(serve).unwrap().settings();
        settings.map(|settings| settings.resolver).map_err(|failure| failure.message)
    }

    #[test]
    fn nobody_is_asked_unless_it_is_said_who() {
        assert_eq!(settings(&[]), Ok(None));
        assert_eq!(
            settings(&["--upstream", "10.0.0.2"]),
            Ok(Some(Settings { upstreams: vec!["10.0.0.2".parse().unwrap()], ..Settings::default() }))
        );
        let order = |flags: &[&str]| settings(flags).unwrap().unwrap().order;
        let upstream = "--upstream=10.0.0.2";
        assert_eq!(order(&["--resolv-conf"]), Order::Listed);
        assert_eq!(order(&["--resolv-conf", upstream]), Order::Fastest);
        assert_eq!(order(&[upstream, "--upstream-order=fallback"]), Order::Fallback);
        assert_eq!(order(&["--resolv-conf", "--upstream-order=fastest"]), Order::Fastest);
        let file = |flag| settings(&[flag]).unwrap().unwrap().resolv_conf.unwrap();
        assert_eq!(file("--resolv-conf"), PathBuf::from(DEFAULT_RESOLV_CONF));
        assert_eq!(file("--resolv-conf=upstreams"), PathBuf::from("upstreams"));
        for flag in [
            "--cache-size=64M",
            "--cache-max-ttl=1",
            "--max-stale=0",
            "--upstream-timeout=1000",
            "--mix-case",
        ] {
            let error = settings(&[flag]).unwrap_err();
            let name = flag.split('=').next().unwrap();
            assert!(
                error.starts_with(&format!("{name} is for names in other domains, and nobody")),
                "{error}"
            );
        }
    }

    #[test]
    fn flags_say_how_it_is_done() {
        let said = settings(&[
            "--upstream=tls://192.0.2.1#dns.example",
            "--upstream=192.0.2.2:5353",
            "--forward=corp.example=192.0.2.3,192.0.2.4",
            "--cache-size=1G",
            "--cache-max-ttl=60",
            "--max-stale=0",
            "--upstream-timeout=750",
            "--mix-case",
            "--upstream-ca=ca.pem",
        ])
        .unwrap()
        .unwrap();
        assert_eq!((said.upstreams.len(), said.forwards.len()), (2, 1));
        assert_eq!(
            (said.cache_bytes, said.max_ttl_s, said.max_negative_ttl_s, said.max_stale_s),
            (1 << 30, 60, 60, 0)
        );
        assert_eq!((said.timeout, said.mix_case), (Duration::from_millis(750), true));
        assert_eq!(said.tls_ca, Some("ca.pem".into()));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_what_is_expected() {
        for (flags, told) in [
            (&["--upstream=dns.example"][..], "`dns.example` is no address"),
            (&["--upstream=10.0.0.2:0"], "port 0"),
            (&["--upstream=0.0.0.0"], "no host's address"),
            (&["--upstream=http://10.0.0.2/"], "`http://` is not known"),
            (
                &["--upstream=10.0.0.2", "--upstream=10.0.0.2:53"],
                "--upstream: the upstream 10.0.0.2 was given twice",
            ),
            (&["--upstream=127.0.0.1"], "127.0.0.1 is where this server itself listens"),
            (
                &["--listen=0.0.0.0:5353", "--upstream=127.0.0.2:5353"],
                "127.0.0.2:5353 is where this server itself",
            ),
            (&["--forward=a.example=10.0.0.2,127.0.0.1"], "--forward: 127.0.0.1 is where this server itself"),
            (&["--forward=a.example"], "as corp.example=10.0.0.2"),
            (&["--forward==10.0.0.2"], "a name cannot be empty"),
            (&["--forward=a.example=10.0.0.2", "--forward=A.example=10.0.0.3"], "a.example. was given twice"),
            (
                &["--domain=a.example", "--forward=b.A.example=10.0.0.2"],
                "answers itself for all names in a.example.",
            ),
            (&["--design=cache", "--upstream=10.0.0.2"], "of the design `gossip`"),
            (&["--design=broadcast", "--resolv-conf"], "of the design `gossip`"),
            (&["--upstream=10.0.0.2", "--upstream-ca=ca.pem"], "--upstream-ca is for upstreams over TLS"),
            (&["--upstream=fe80::1%no-such"], "there is no network interface `no-such`"),
            (&["--upstream=10.0.0.2", "--rebind-allow=example"], "--rebind-protection"),
            (
                &["--upstream=10.0.0.2", "--cache-min-ttl=60", "--cache-max-ttl=30"],
                "is longer than --cache-max-ttl 30",
            ),
            (&["--upstream=10.0.0.2", "--upstream-order=alphabetical"], "fastest, listed, fallback"),
            (&["--upstream=10.0.0.2", "--cache-size=1023K"], "from 1M to 256G"),
            (&["--upstream=10.0.0.2", "--cache-size=257G"], "from 1M to 256G"),
            (&["--upstream=10.0.0.2", "--cache-size=99999999999999G"], "from 1M to 256G"),
            (&["--upstream=10.0.0.2", "--cache-size=much"], "as 64M or 1G"),
            (&["--upstream=10.0.0.2", "--cache-size=-1"], "as 64M or 1G"),
            (&["--upstream=10.0.0.2", "--upstream-timeout=1"], "100..=60000"),
            (&["--upstream=10.0.0.2", "--max-stale=604801"], "0..=604800"),
        ] {
            let error = settings(flags).unwrap_err();
            assert!(error.contains(told), "{flags:?}: {error}");
        }
        // The parent of an own domain is another's.
        assert!(settings(&["--domain=a.example", "--forward=example=10.0.0.2"]).is_ok());
        let many: Vec<_> = (0..=MAX_UPSTREAMS).map(|i| format!("--upstream=10.0.1.{i}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(settings(&many).unwrap_err().contains("33 upstreams were given; 32"));
        let many: Vec<_> = (0..=MAX_FORWARDS).map(|i| format!("--forward=d{i}.example=10.0.0.2")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(settings(&many).unwrap_err().contains("--forward was given 257 times; 256"));
    }

    #[test]
    fn sizes_are_bytes_or_powers_of_two_of_them() {
        for (text, bytes) in
            [("1048576", 1 << 20), ("1M", 1 << 20), ("2048K", 2 << 20), ("64M", 64 << 20), ("1G", 1 << 30)]
        {
            assert_eq!(parse_cache_size(text), Ok(bytes), "{text}");
        }
        for wrong in ["", "M", "1.5G", "64m", "64MB", "é"] {
            assert!(parse_cache_size(wrong).is_err(), "{wrong}");
        }
    }
}
