//! `redbreast serve`: what it is told, by flags or by a file.
//!
//! Runs on the main thread.

pub(super) mod config_file;
mod resolver;
mod run;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use rustix::thread::{CpuSet, sched_getaffinity};

use self::resolver::ResolverArgs;
pub(crate) use self::run::run;
use super::Failure;
use super::design::DesignArgs;

use crate::answer::access::{Access, Prefix};
use crate::api::control_address::ControlAddress;
use crate::api::register::parse_scope;
use crate::config::{
    DEFAULT_CLUSTER, DEFAULT_DOMAIN, DEFAULT_LISTEN, DEFAULT_TTL_S, DockerSettings, GOSSIP_PORT, Gossip,
    MAX_DOMAINS, MAX_TTL_S, MAX_WORKERS, Settings, ZoneMaintenance,
};
use crate::gossip::peer::MAX_NODE_NAME_LEN;
use crate::http::is_private;
use crate::policy::Policy;
use crate::policy::rules::Scope;
use crate::query_time;
use crate::sources::docker::DEFAULT_SOCKET;
use crate::table::{MAX_APEX_LEN, ZoneSettings};
use crate::transport::BusyPoll;
use crate::wire::name::Name;
use crate::wire::response::{DEFAULT_UDP_LEN, UDP_LENS};
use crate::zone_maintenance::keys::KeyFile;

/// Arguments of `redbreast serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// File with what else there is to say, in TOML: a key for each of these flags, without the dashes in front. A flag
    /// goes before the file. Read again on SIGHUP, as far as that can be changed in a running server
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// How the log is written: as text, or as a line of JSON for each message [default: text on a terminal, else JSON]
    #[arg(long, value_enum, value_name = "FORMAT")]
    log: Option<LogFormat>,

    /// Address and port to answer at; give it again for more. Port 0 takes any free port
    #[arg(long, value_name = "ADDR:PORT", default_values_t = [DEFAULT_LISTEN])]
    listen: Vec<SocketAddr>,

    /// Domain to answer for with authority; give it again for more. Names without a dot are in the first
    #[arg(long, value_name = "NAME", default_values = [DEFAULT_DOMAIN], value_parser = parse_domain)]
    domain: Vec<Name>,

    /// File with names in the format of /etc/hosts; give it again for more. Read again when it changes, and on SIGHUP
    #[arg(long, value_name = "HOSTS-FILE")]
    names: Vec<PathBuf>,

    /// Zone file (RFC 1035 §5) with records of any type; give it again for more. Names without a dot at the end are in
    /// the first domain, unless the file has an $ORIGIN. Read again when it changes, and on SIGHUP
    #[arg(long, value_name = "ZONE-FILE")]
    zone: Vec<PathBuf>,

    /// Threads that answer queries [default: one per core]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_WORKERS as u64))]
    workers: Option<usize>,

    /// Look for queries for so long after the last one before sleeping until there is one; all the time, if no time is
    /// said. Answers come sooner, and each worker takes a whole CPU meanwhile
    #[arg(long, value_name = "MICROSECONDS", num_args = 0..=1, require_equals = true, default_missing_value = "always",
          value_parser = parse_busy_poll)]
    busy_poll: Option<BusyPoll>,

    /// Have workers go before all other threads on their CPUs (SCHED_FIFO), so that queries do not wait for
    /// registrations, gossip or another program. Takes root, CAP_SYS_NICE, or a resource limit RTPRIO of 1
    #[arg(long, conflicts_with = "busy_poll")]
    realtime: bool,

    /// CPUs for the workers, in turn, like 0-3,6 [default: where the scheduler puts them]
    #[arg(long, value_name = "LIST", value_parser = parse_cpus)]
    cpus: Option<CpuList>,

    /// Give each packet to the worker on the CPU that the kernel has processed it on, rather than by the client's
    /// address
    #[arg(long, requires = "cpus")]
    steer_by_cpu: bool,

    /// Seconds for which clients may keep an answer [default: 1; 30 in the designs that ask, as in weaveDNS 1.0]
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true,
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_TTL_S)))]
    ttl: Option<u32>,

    /// Clients that may ask, by address or prefix; give it again for more [default: this machine and private networks]
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<Prefix>,

    /// Forwarders that are believed when they say for whom they ask (EDNS client subnet, RFC 7871), by address or
    /// prefix; give it again for more [default: none]
    #[arg(long, value_name = "PREFIX")]
    ecs_from: Vec<Prefix>,

    /// Which address of a name is first, and what follows: shuffle, rotate, weighted, fixed, near, hash or rfc6724, and
    /// options like answers=2,panic=50%,min-healthy=1 with commas between them. Before it, with a `=` between them, a
    /// name for which it is, or `*.` and a domain; give it again for more. What is said with `redbreast policy` goes
    /// before it [default: weighted]
    #[arg(long, value_name = "[NAME=]POLICY")]
    policy: Vec<String>,

    /// Directory with the programs that may be run as health checks, by their names in it [default: none may]
    #[arg(long, value_name = "DIR")]
    check_dir: Option<PathBuf>,

    /// Responses a second over UDP to one client network (24 bits of IPv4, 56 of IPv6) by one worker; 0 for no limit
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    rate_limit: u32,

    /// Bytes of a response over UDP at most; clients that take less, by EDNS(0), get less
    #[arg(long, value_name = "BYTES", allow_negative_numbers = true, default_value_t = DEFAULT_UDP_LEN,
          value_parser = RangedU64ValueParser::<u16>::new()
              .range(u64::from(*UDP_LENS.start())..=u64::from(*UDP_LENS.end())))]
    edns_size: u16,

    /// File with the secrets for DNS cookies, so that servers behind one address know each other's: 32 hexadecimal
    /// digits a line, the first to use, a second to accept too. Read again when it changes, and on SIGHUP
    /// [default: a secret of this process alone]
    #[arg(long, value_name = "FILE")]
    cookie_secrets: Option<PathBuf>,

    /// What the node calls itself, to the other nodes and to those who ask for NSID or id.server [default: the host's
    /// name]
    #[arg(long, value_name = "NAME", value_parser = parse_node_name)]
    node_name: Option<String>,

    /// Tell DNS clients neither the node's name nor its version
    #[arg(long)]
    hide_identity: bool,

    /// Stop when standard input ends: so a node that another program has started does not outlive it
    #[arg(long, hide = true)]
    until_eof: bool,

    #[command(flatten)]
    cluster: ClusterArgs,

    #[command(flatten)]
    design: DesignArgs,

    #[command(flatten)]
    resolver: ResolverArgs,

    /// Directory for what is registered at this node, which then survives its end; made if it is not there [default:
    /// nothing survives]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,

    /// Where that directory cannot be written at the start, go on without keeping anything. A damaged file is still
    /// refused
    #[arg(long, requires = "data_dir")]
    data_dir_optional: bool,

    /// File with keys, as `tsig-keygen` makes them, of those who may update the domain by DNS (RFC 2136, TSIG); all
    /// domains if none is said. Give it again for more. Read again when it changes, and on SIGHUP
    #[arg(long, value_name = "[DOMAIN=]FILE")]
    update_key: Vec<KeyFile>,

    /// The same, of those who may take copies of the domain (AXFR)
    #[arg(long, value_name = "[DOMAIN=]FILE")]
    transfer_key: Vec<KeyFile>,

    /// Take updates without a signature from this machine itself
    #[arg(long)]
    allow_unsigned_updates: bool,

    /// Register the running containers of the Docker Engine at this socket, as they come and go [default where it is
    /// given without a value: /var/run/docker.sock]
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = DEFAULT_SOCKET)]
    docker: Option<PathBuf>,

    /// Register the containers' addresses in this network alone, by its name; give it again for more
    #[arg(long, value_name = "NAME", requires = "docker")]
    docker_network: Vec<String>,

    /// Address or Unix socket at which the node takes requests from `redbreast add` and others; beyond loopback it
    /// takes a token [default: 127.0.0.1:6784, if it is free]
    #[arg(long, value_name = "ADDR:PORT|unix:PATH")]
    control: Option<ControlAddress>,

    /// File with a token that everybody has to bring who asks the control address, in its first line;
    /// `openssl rand -hex 32` makes one
    #[arg(long, value_name = "FILE")]
    control_token_file: Option<PathBuf>,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LogFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What makes the server a node of a cluster.
#[derive(clap::Args)]
struct ClusterArgs {
    /// Be a node of a cluster: the address at which the other nodes reach this one. Port 0 takes any free port
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_gossip)]
    gossip: Option<SocketAddr>,

    /// Another node of the cluster, by name or address; give it again for more. One that can be reached is enough, and
    /// it may come up later
    #[arg(long, value_name = "HOST:PORT", requires = "gossip", value_parser = parse_seed)]
    join: Vec<String>,

    /// File with the keys that the nodes of the cluster share: 64 hexadecimal digits a line, the first to seal with,
    /// all to open with. Read again when it changes, and on SIGHUP
    #[arg(long, value_name = "FILE", requires = "gossip")]
    key_file: Option<PathBuf>,

    /// The cluster's name: nodes of others are strangers
    #[arg(long, value_name = "NAME", requires = "gossip", default_value = DEFAULT_CLUSTER)]
    cluster: String,

    /// Gossip beyond this machine without keys: whoever can reach the port can then change any name
    #[arg(long, requires = "gossip", conflicts_with = "key_file")]
    insecure_gossip: bool,
}

impl ClusterArgs {
    fn settings(self) -> Result<Option<Gossip>, Failure> {
        let Some(address) = self.gossip else { return Ok(None) };
        if !address.ip().is_loopback() && self.key_file.is_none() && !self.insecure_gossip {
            return Err(Failure::usage(format!(
                "--gossip {address} can be reached from other machines, and without keys everybody there could change \
                 any name. Make a file with a key, for example by `openssl rand -hex 32 >gossip.key; chmod 600 \
                 gossip.key`, and give it to every node with --key-file; or say --insecure-gossip if the network is \
                 trusted wholly"
            )));
        }
        let Self { join, key_file, cluster, .. } = self;
        Ok(Some(Gossip { address, join, key_file, cluster }))
    }
}

impl Args {
    pub(super) fn settings(self) -> Result<Settings, Failure> {
        if self.domain.len() > MAX_DOMAINS {
            return Err(Failure::usage(format!(
                "--domain was given {} times; {MAX_DOMAINS} domains can be served at most",
                self.domain.len()
            )));
        }
        let design_ttl_s = if self.design.asks() { query_time::DEFAULT_TTL_S } else { DEFAULT_TTL_S };
        let ttl_s = self.ttl.unwrap_or(design_ttl_s);
        if self.design.asks() && self.cluster.gossip.is_some() {
            return Err(Failure::usage(
                "--gossip is of the design `gossip`: in the others nodes do not tell each other their names, but ask; \
                 leave out --gossip or --design",
            ));
        }
        if let Some(address) = &self.control
            && self.control_token_file.is_none()
            && !is_private(address)
        {
            return Err(Failure::usage(format!(
                "--control {address} can be reached from other machines, and everybody there could change any name: \
                 make a token, for example by `openssl rand -hex 32 >token; chmod 600 token`, and give it with \
                 --control-token-file"
            )));
        }
        let resolver = self.resolver.settings(&self.listen, &self.domain, self.design.asks())?;
        let peer_queries = self.design.settings(ttl_s, &self.listen)?;
        let policies = self.policy.iter().map(|text| parse_policy(text, &self.domain));
        let policies = policies.collect::<Result<_, _>>().map_err(Failure::usage)?;
        let zones =
            !self.update_key.is_empty() || !self.transfer_key.is_empty() || self.allow_unsigned_updates;
        let cores = || thread::available_parallelism().map_or(1, usize::from);
        let workers =
            self.workers.unwrap_or_else(|| self.cpus.as_ref().map_or_else(cores, |cpus| cpus.0.len()));
        Ok(Settings {
            listen: self.listen,
            policies,
            forwarders: (!self.ecs_from.is_empty()).then(|| Access::new(self.ecs_from)),
            check_dir: self.check_dir,
            domains: self.domain,
            names: self.names,
            zones: self.zone,
            cookie_secrets: self.cookie_secrets,
            workers: workers.min(MAX_WORKERS),
            busy_poll: self.busy_poll.unwrap_or_default(),
            realtime: self.realtime,
            cpus: self.cpus.unwrap_or_default().0,
            steer_by_cpu: self.steer_by_cpu,
            zone: ZoneSettings { ttl_s, negative_ttl_s: ttl_s },
            peer_queries,
            resolver,
            udp_len: self.edns_size,
            access: if self.allow.is_empty() { Access::default() } else { Access::new(self.allow) },
            rate_limit: self.rate_limit,
            node_name: self.node_name.unwrap_or_else(host_name),
            hide_identity: self.hide_identity,
            gossip: self.cluster.settings()?,
            data_dir: self.data_dir,
            data_dir_optional: self.data_dir_optional,
            zone_maintenance: zones.then_some(ZoneMaintenance {
                update_keys: self.update_key,
                transfer_keys: self.transfer_key,
                unsigned_updates: self.allow_unsigned_updates,
            }),
            docker: self.docker.map(|socket| DockerSettings { socket, networks: self.docker_network }),
            control_token: self.control_token_file,
            control_is_default: self.control.is_none(),
            control: Some(self.control.unwrap_or(ControlAddress::DEFAULT)),
        })
    }
}

/// The host's name as the kernel has it, which is where `hostname` looks too.
fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname");
    let name = name.map_or_else(|_| "redbreast".into(), |name| name.trim().to_owned());
    if name.len() > MAX_NODE_NAME_LEN { "redbreast".into() } else { name }
}

fn parse_node_name(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("a node needs a name".into()),
        1..=MAX_NODE_NAME_LEN => Ok(text.into()),
        len => Err(format!("a node's name can have {MAX_NODE_NAME_LEN} bytes, not {len}")),
    }
}

/// A list of CPUs; a type of its own, or the command line would take each as an argument.
#[derive(Clone, Debug, Default)]
struct CpuList(Vec<usize>);

fn parse_cpus(text: &str) -> Result<CpuList, String> {
    let mut cpus = Vec::new();
    for range in text.split(',') {
        let (low, high) = range.split_once('-').unwrap_or((range, range));
        let number =
            |text: &str| text.trim().parse::<usize>().map_err(|_| format!("{text:?} is no CPU's number"));
        let (low, high) = (number(low)?, number(high)?);
        if low > high || high >= CpuSet::MAX_CPU {
            return Err(format!("{range:?} is no range of CPUs"));
        }
        cpus.extend(low..=high);
    }
    let allowed =
        sched_getaffinity(None).map_err(|error| format!("cannot ask which CPUs there are: {error}"))?;
    match cpus.iter().find(|&&cpu| !allowed.is_set(cpu)) {
        Some(cpu) => Err(format!("CPU {cpu} is not there, or this process may not use it")),
        None => Ok(CpuList(cpus)),
    }
}

/// A policy, and for which names of these domains it is.
fn parse_policy(text: &str, domains: &[Name]) -> Result<(Scope, Policy), String> {
    // What is in front of a policy's own options has a comma or nothing before its `=`.
    let (scope, policy) = match text.split_once('=') {
        Some((scope, policy)) if !scope.contains(',') => (scope, policy),
        _ => ("*", text),
    };
    let wrong = |error: &dyn std::fmt::Display| format!("--policy {text}: {error}");
    let policy = policy.parse::<Policy>().map_err(|error| wrong(&error))?;
    Ok((parse_scope(scope, domains).map_err(|error| wrong(&error))?, policy))
}

fn parse_busy_poll(text: &str) -> Result<BusyPoll, String> {
    match text {
        "always" => Ok(BusyPoll::Always),
        _ => match text.parse() {
            Ok(0) => Ok(BusyPoll::Never),
            Ok(us @ 1..=1_000_000) => Ok(BusyPoll::For(Duration::from_micros(us))),
            _ => Err("expected microseconds, up to 1000000".into()),
        },
    }
}

fn parse_gossip(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected ADDR:PORT".to_owned())?;
    if address.ip().is_unspecified() {
        return Err("the other nodes have to know where to reach this one: give one of its addresses".into());
    }
    Ok(address)
}

/// A seed, with the port where it has none.
fn parse_seed(text: &str) -> Result<String, String> {
    if let Ok(ip) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, GOSSIP_PORT).to_string());
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    if host.is_empty() || host.contains(char::is_whitespace) {
        return Err("expected HOST:PORT".into());
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(format!("{host}:{port}")),
        Err(_) if port.is_empty() && !text.ends_with(':') => Ok(format!("{host}:{GOSSIP_PORT}")),
        _ => Err(format!("{port:?} is no port")),
    }
}

fn parse_domain(text: &str) -> Result<Name, String> {
    match Name::from_text(text) {
        Ok(name) if name == Name::root() => Err("the root cannot be served".into()),
        Ok(name) if name.as_wire().len() > MAX_APEX_LEN => Err(format!(
            "a domain can have at most {MAX_APEX_LEN} bytes, so that the names of its SOA record fit"
        )),
        Ok(name) => Ok(name),
        Err(error) => Err(error.to_string()),
    }
}
