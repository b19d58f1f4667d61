//! The options of `redbreast serve` that choose the design, and of those designs that ask at query time.
//!
//! Runs on the main thread.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::RangedU64ValueParser;

use super::Failure;
use crate::query_time::{
    DEFAULT_CACHE_ENTRIES, DEFAULT_GROUP, DEFAULT_WINDOW_MS, MAX_PEERS, PeerQuerySettings, PeerTargets,
};

/// How a node comes to know the names of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Design {
    /// Nodes tell each other what is registered: every node holds every name
    Gossip,
    /// A name that a node does not hold is asked of all others, and the answer kept for its TTL: weaveDNS 1.0
    Cache,
    /// The same, and nothing is kept
    Broadcast,
}

/// The design, and what there is to say of those that ask.
#[derive(clap::Args)]
pub(super) struct DesignArgs {
    /// How the node comes to know the names of others. The two that ask at query time are there to be compared
    #[arg(long, value_enum, default_value_t = Design::Gossip)]
    design: Design,

    /// Where nodes that ask send their questions: an IPv4 multicast group and a port [default: 224.0.0.251:5353]
    #[arg(long, value_name = "GROUP:PORT", value_parser = parse_group, help_heading = "Designs that ask")]
    multicast: Option<SocketAddrV4>,

    /// The address of the interface for that [default: the first IPv4 address of --listen, if it is a certain one]
    #[arg(long, value_name = "ADDRESS", conflicts_with = "peer", help_heading = "Designs that ask")]
    multicast_interface: Option<Ipv4Addr>,

    /// Ask this node by unicast, and the others that are given, instead of a multicast group; give it again for more
    #[arg(
        long,
        value_name = "ADDR:PORT",
        conflicts_with = "multicast",
        requires = "peer_listen",
        help_heading = "Designs that ask"
    )]
    peer: Vec<SocketAddr>,

    /// Where the others ask this node by unicast
    #[arg(long, value_name = "ADDR:PORT", value_parser = parse_peer_listen, requires = "peer",
          help_heading = "Designs that ask")]
    peer_listen: Option<SocketAddr>,

    /// Wait for the answers of all nodes, as long as the window is open, and answer with all addresses; otherwise the
    /// first answer is taken
    #[arg(long, help_heading = "Designs that ask")]
    collect: bool,

    /// How long answers of other nodes are waited for
    #[arg(long, value_name = "MILLISECONDS", default_value_t = DEFAULT_WINDOW_MS, help_heading = "Designs that ask",
          value_parser = RangedU64ValueParser::<u64>::new().range(1..=5_000))]
    window_ms: u64,

    /// Names that the cache holds at most
    #[arg(long, value_name = "N", default_value_t = DEFAULT_CACHE_ENTRIES, help_heading = "Designs that ask",
          value_parser = RangedU64ValueParser::<usize>::new().range(1..=10_000_000))]
    cache_entries: usize,
}

impl DesignArgs {
    /// Whether names of others are asked for at query time.
    pub(super) fn asks(&self) -> bool {
        self.design != Design::Gossip
    }

    /// The settings of the designs that ask; `None` in the other one.
    pub(super) fn settings(
        self,
        negative_ttl_s: u32,
        listen: &[SocketAddr],
    ) -> Result<Option<PeerQuerySettings>, Failure> {
        let Self {
            design,
            multicast,
            multicast_interface,
            peer,
            peer_listen,
            collect,
            window_ms,
            cache_entries,
        } = self;
        if design == Design::Gossip {
            let given = multicast.is_some() || multicast_interface.is_some() || !peer.is_empty() || collect;
            return if given {
                Err(Failure::usage(
                    "--multicast, --multicast-interface, --peer and --collect are of the designs that ask: choose one \
                     of them with --design cache or --design broadcast",
                ))
            } else {
                Ok(None)
            };
        }
        if peer.len() > MAX_PEERS {
            return Err(Failure::usage(format!(
                "--peer was given {} times; {MAX_PEERS} nodes can be asked at most, since each question goes to every \
                 one",
                peer.len()
            )));
        }
        let targets = match peer_listen {
            Some(listen) => PeerTargets::Peers { listen, peers: peer },
            None => {
                let of_listen = listen.iter().find_map(|address| match address.ip() {
                    IpAddr::V4(ip) if !ip.is_unspecified() => Some(ip),
                    _ => None,
                });
                PeerTargets::Multicast {
                    group: multicast.unwrap_or(DEFAULT_GROUP),
                    interface: multicast_interface.or(of_listen).unwrap_or(Ipv4Addr::UNSPECIFIED),
                }
            }
        };
        Ok(Some(PeerQuerySettings {
            targets,
            window: Duration::from_millis(window_ms),
            collect,
            cache_entries: (design == Design::Cache).then_some(cache_entries),
            negative_ttl_s,
        }))
    }
}

/// What a person should know of how names are asked for.
pub(super) fn told(settings: &PeerQuerySettings) -> String {
    let PeerQuerySettings { targets, window, collect, cache_entries, .. } = settings;
    let all = match targets {
        PeerTargets::Multicast { group, interface } if interface.is_unspecified() => format!("at {group}"),
        PeerTargets::Multicast { group, interface } => format!("at {group} by way of {interface}"),
        PeerTargets::Peers { listen, peers } => format!("of {} nodes, from {listen}", peers.len()),
    };
    let kept =
        cache_entries.map_or("nothing is kept".into(), |entries| format!("up to {entries} names are kept"));
    let taken = if *collect { "all answers" } else { "the first answer" };
    format!("names of other nodes are asked for {all}; {taken} within {} ms; {kept}", window.as_millis())
}

fn parse_group(text: &str) -> Result<SocketAddrV4, String> {
    let group: SocketAddrV4 =
        text.parse().map_err(|_| "expected an IPv4 group and a port, as 224.0.0.251:5353".to_owned())?;
    match (group.ip().is_multicast(), group.port()) {
        (false, _) => {
            Err(format!("{} is no multicast group: those are 224.0.0.0 to 239.255.255.255", group.ip()))
        }
        (true, 0) => Err("all nodes have to use the same port, so it cannot be 0".into()),
        (true, _) => Ok(group),
    }
}

fn parse_peer_listen(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| "expected ADDR:PORT".to_owned())?;
    if address.ip().is_unspecified() {
        return Err("the other nodes have to know where to ask this one: give one of its addresses".into());
    }
    Ok(address)
}
