//! `redbreast serve`: run a server until it is told to stop.
//!
//! The main thread becomes the control thread of [`Node`]; a thread for signals and one for file changes tell it what
//! happened.

use std::fs;
use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;

use clap::builder::RangedU64ValueParser;
use crossbeam_channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use tracing::{info, warn};

use super::Failure;
use crate::config::{
    DEFAULT_DOMAIN, DEFAULT_LISTEN, DEFAULT_TTL_S, MAX_DOMAINS, MAX_TTL_S, MAX_WORKERS, Settings,
};
use crate::dataplane::access::{Access, Prefix};
use crate::node::{Control, Node};
use crate::registry::watch;
use crate::table::{MAX_APEX_LEN, ZoneSettings};
use crate::wire::name::Name;
use crate::wire::response::{DEFAULT_UDP_LEN, UDP_LENS};

/// Arguments of `redbreast serve`.
#[derive(clap::Args)]
pub(crate) struct Args {
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
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = RangedU64ValueParser::<usize>::new().range(1..=MAX_WORKERS as u64))]
    workers: Option<usize>,

    /// Seconds for which clients may keep an answer
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, default_value_t = DEFAULT_TTL_S,
          value_parser = RangedU64ValueParser::<u32>::new().range(0..=u64::from(MAX_TTL_S)))]
    ttl: u32,

    /// Clients that may ask, by address or prefix; give it again for more [default: this machine and private networks]
    #[arg(long, value_name = "PREFIX")]
    allow: Vec<Prefix>,

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

    /// What the node calls itself, to those who ask for NSID or id.server [default: the host's name]
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,

    /// Do not tell the node's name nor its version
    #[arg(long, conflicts_with = "node_name")]
    hide_identity: bool,
}

impl Args {
    fn settings(self) -> Result<Settings, Failure> {
        if self.domain.len() > MAX_DOMAINS {
            return Err(Failure::usage(format!(
                "--domain was given {} times; {MAX_DOMAINS} domains can be served at most",
                self.domain.len()
            )));
        }
        let workers = self.workers.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
        Ok(Settings {
            listen: self.listen,
            domains: self.domain,
            names: self.names,
            zones: self.zone,
            cookie_secrets: self.cookie_secrets,
            workers: workers.min(MAX_WORKERS),
            zone: ZoneSettings { ttl_s: self.ttl, negative_ttl_s: self.ttl },
            udp_len: self.edns_size,
            access: if self.allow.is_empty() { Access::default() } else { Access::new(self.allow) },
            rate_limit: self.rate_limit,
            node_name: (!self.hide_identity).then(|| self.node_name.unwrap_or_else(host_name)),
        })
    }
}

/// The host's name as the kernel has it, which is where `hostname` looks too.
fn host_name() -> String {
    fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "redbreast".into(), |name| name.trim().into())
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

/// Runs the server.
pub(crate) fn run(args: Args) -> Result<(), Failure> {
    let terminal = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_writer(io::stderr).with_ansi(terminal).with_target(false).init();
    let settings = args.settings()?;
    let (sender, control) = crossbeam_channel::unbounded();
    // Before the node starts: a signal during the start is then obeyed after it.
    obey_signals(sender.clone())?;
    let node = Node::start(settings.clone()).map_err(Failure::usage)?;
    let _watch = watch_files(&settings, sender);
    for address in node.addresses() {
        info!("listening on {address}");
    }
    let domains: Vec<_> = settings.domains.iter().map(ToString::to_string).collect();
    info!(
        "serving {} names, reverse ones included, in {} with {} workers",
        node.table().names(),
        domains.join(", "),
        settings.workers
    );
    node.run(&control);
    Ok(())
}

fn obey_signals(sender: Sender<Control>) -> Result<(), Failure> {
    let cannot = |error| Failure::failed(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new([SIGHUP, SIGINT, SIGTERM]).map_err(cannot)?;
    let listener = move || {
        for signal in signals.forever() {
            let command = if signal == SIGHUP { Control::Reload } else { Control::Stop };
            if sender.send(command).is_err() {
                break;
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(listener).map_err(cannot)?;
    Ok(())
}

fn watch_files(settings: &Settings, sender: Sender<Control>) -> Option<watch::FileWatch> {
    let files: Vec<_> = settings.files().cloned().collect();
    if files.is_empty() {
        return None;
    }
    let changed = move || {
        // It can only fail when the control thread is gone, and the names with it.
        let _ = sender.send(Control::Reload);
    };
    watch::watch(&files, changed)
        .inspect_err(|error| warn!("cannot watch the files, send SIGHUP after a change: {error}"))
        .ok()
}
