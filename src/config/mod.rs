//! What a server is told by its flags, with the defaults and the limits.
//!
//! Read once by the main thread before anything starts.

pub mod cookie_secrets;
pub mod upstreams;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::answer::access::Access;
use crate::api::control_address::ControlAddress;
use crate::policy::Policy;
use crate::policy::rules::Scope;
use crate::query_time::PeerQuerySettings;
use crate::resolver;
use crate::table::ZoneSettings;
use crate::transport::BusyPoll;
use crate::wire::name::Name;
use crate::wire::response::DEFAULT_UDP_LEN;
use crate::zone_maintenance::keys::KeyFile;

/// Where we listen unless told otherwise: the port of DNS, on loopback, so that nobody offers DNS to a network by
/// accident.
pub const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 53);

/// The domain we serve unless told otherwise; `internal` is reserved for private use.
pub const DEFAULT_DOMAIN: &str = "redbreast.internal";

/// Seconds for which others may keep our answers: long enough to spare a client's second question in one breath, short
/// enough that nobody talks to a dead address for long.
pub const DEFAULT_TTL_S: u32 = 1;

/// The highest TTL (RFC 2181 §8).
pub const MAX_TTL_S: u32 = crate::limits::MAX_TTL_S;

/// Domains at most: a negative answer looks at each of them.
pub const MAX_DOMAINS: usize = crate::limits::MAX_DOMAINS;

/// Workers at most; the kernel spreads packets over no more sockets than this in practice, and each has its buffers.
pub const MAX_WORKERS: usize = crate::limits::MAX_WORKERS;

/// The port of the gossip where none is said.
pub const GOSSIP_PORT: u16 = 6783;

/// What a cluster is called unless told otherwise.
pub const DEFAULT_CLUSTER: &str = "redbreast";

/// How a server talks to the others of its cluster.
#[derive(Clone, Debug)]
pub struct Gossip {
    /// The address that others reach it at.
    pub address: SocketAddr,
    /// Where to look for others: `HOST:PORT`, by name or address.
    pub join: Vec<String>,
    /// The keys that all is sealed with; without them nothing is.
    pub key_file: Option<PathBuf>,
    /// Nodes with another name here are strangers.
    pub cluster: String,
}

/// Whose containers are registered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DockerSettings {
    /// The Engine's socket.
    pub socket: PathBuf,
    /// Addresses in these networks alone, by their names; in all if there are none.
    pub networks: Vec<String>,
}

/// Who may update zones, or take copies of them, by DNS itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneMaintenance {
    /// Files with the keys of those who may update.
    pub update_keys: Vec<KeyFile>,
    /// Files with the keys of those who may take copies.
    pub transfer_keys: Vec<KeyFile>,
    /// Updates from this machine itself need no key.
    pub unsigned_updates: bool,
}

/// Everything that a server needs to know to start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses to answer at.
    pub listen: Vec<SocketAddr>,
    /// Domains we are authoritative for; names without a dot are in the first.
    pub domains: Vec<Name>,
    /// Files in the format of /etc/hosts, all of them together.
    pub names: Vec<PathBuf>,
    /// Zone files, on top of these.
    pub zones: Vec<PathBuf>,
    /// File with the secrets for cookies; without one they are made up at the start.
    pub cookie_secrets: Option<PathBuf>,
    /// Worker threads.
    pub workers: usize,
    /// For how long they look for queries before they sleep.
    pub busy_poll: BusyPoll,
    /// They go before all ordinary threads on their CPUs.
    pub realtime: bool,
    /// CPUs for the workers, in turn; where the scheduler puts them if there are none.
    pub cpus: Vec<usize>,
    /// Each worker takes the packets that the kernel has processed on its own CPU.
    pub steer_by_cpu: bool,
    /// How long others may keep our answers.
    pub zone: ZoneSettings,
    /// Bytes of a response over UDP at most.
    pub udp_len: u16,
    /// Who may ask.
    pub access: Access,
    /// Whose word is taken for whom they ask (RFC 7871), if anybody's.
    pub forwarders: Option<Access>,
    /// Policies of names, where the cluster has not been told others.
    pub policies: Vec<(Scope, Policy)>,
    /// Where the programs are that may be run as health checks; without it none are.
    pub check_dir: Option<PathBuf>,
    /// Responses a second that a worker gives to one client network over UDP; 0 for no limit.
    pub rate_limit: u32,
    /// What the node calls itself.
    pub node_name: String,
    /// It tells neither its name nor its version to those who ask for them with DNS.
    pub hide_identity: bool,
    /// How it talks to the others of its cluster; `None` if it is alone.
    pub gossip: Option<Gossip>,
    /// How it asks the others for names at query time; `None` in the `gossip` design.
    pub peer_queries: Option<PeerQuerySettings>,
    /// How it answers for names that are not in its domains; `None` if it refuses them.
    pub resolver: Option<resolver::settings::Settings>,
    /// Where it keeps what it is told to register; `None` if that ends with it.
    pub data_dir: Option<PathBuf>,
    /// Where it cannot write there at a start, it goes on without.
    pub data_dir_optional: bool,
    /// Who may update zones, or take copies of them; nobody, and nothing is there for it, if it is not said.
    pub zone_maintenance: Option<ZoneMaintenance>,
    /// Whose containers are registered, if anybody's.
    pub docker: Option<DockerSettings>,
    /// Where it is told what to do.
    pub control: Option<ControlAddress>,
    /// File with what everybody has to bring who tells it.
    pub control_token: Option<PathBuf>,
    /// Nobody asked for that address: it can do without.
    pub control_is_default: bool,
}

impl Default for Settings {
    /// A server alone, at a free port of 127.0.0.1, which nobody can tell anything.
    fn default() -> Self {
        Self {
            listen: vec![(Ipv4Addr::LOCALHOST, 0).into()],
            domains: vec![Name::from_text(DEFAULT_DOMAIN).expect("the default domain is a name")],
            names: Vec::new(),
            zones: Vec::new(),
            cookie_secrets: None,
            workers: 1,
            busy_poll: BusyPoll::Never,
            realtime: false,
            cpus: Vec::new(),
            steer_by_cpu: false,
            zone: ZoneSettings { ttl_s: DEFAULT_TTL_S, negative_ttl_s: DEFAULT_TTL_S },
            udp_len: DEFAULT_UDP_LEN,
            access: Access::default(),
            forwarders: None,
            policies: Vec::new(),
            check_dir: None,
            rate_limit: 0,
            node_name: "redbreast".into(),
            hide_identity: true,
            gossip: None,
            peer_queries: None,
            resolver: None,
            data_dir: None,
            data_dir_optional: false,
            zone_maintenance: None,
            docker: None,
            control: None,
            control_token: None,
            control_is_default: false,
        }
    }
}

impl Settings {
    /// Takes over what can be changed in a running server: which files it reads, policies, and upstreams.
    pub fn take_changeable(&mut self, new: Self) {
        self.names = new.names;
        self.zones = new.zones;
        self.cookie_secrets = new.cookie_secrets;
        self.policies = new.policies;
        if let (Some(zones), Some(new)) = (&mut self.zone_maintenance, new.zone_maintenance) {
            zones.update_keys = new.update_keys;
            zones.transfer_keys = new.transfer_keys;
        }
        if let (Some(gossip), Some(new)) = (&mut self.gossip, new.gossip) {
            gossip.key_file = new.key_file;
        }
        if let (Some(resolver), Some(new)) = (&mut self.resolver, new.resolver) {
            resolver.take_changeable(new);
        }
    }

    /// What is different in `new` and cannot be changed in a running server, by its flags.
    #[must_use]
    pub fn fixed_differences(&self, new: &Self) -> Vec<&'static str> {
        let gossip = |settings: &Self| {
            settings
                .gossip
                .as_ref()
                .map(|it| (it.address, it.join.clone(), it.cluster.clone(), it.key_file.is_some()))
        };
        let unsigned = |settings: &Self| settings.zone_maintenance.as_ref().map(|it| it.unsigned_updates);
        let differences = [
            ("listen", self.listen != new.listen),
            ("domain", self.domains != new.domains),
            ("workers", self.workers != new.workers),
            ("busy-poll", self.busy_poll != new.busy_poll),
            ("realtime", self.realtime != new.realtime),
            ("cpus", self.cpus != new.cpus),
            ("steer-by-cpu", self.steer_by_cpu != new.steer_by_cpu),
            ("ttl", self.zone != new.zone),
            ("edns-size", self.udp_len != new.udp_len),
            ("allow", self.access != new.access),
            ("ecs-from", self.forwarders != new.forwarders),
            ("check-dir", self.check_dir != new.check_dir),
            ("rate-limit", self.rate_limit != new.rate_limit),
            ("node-name", self.node_name != new.node_name),
            ("hide-identity", self.hide_identity != new.hide_identity),
            ("gossip, join, cluster or the use of a key-file", gossip(self) != gossip(new)),
            ("design", self.peer_queries != new.peer_queries),
            (
                "the use of upstream, resolv-conf and forward",
                self.resolver.is_some() != new.resolver.is_some(),
            ),
            ("data-dir", self.data_dir != new.data_dir),
            ("data-dir-optional", self.data_dir_optional != new.data_dir_optional),
            ("docker", self.docker != new.docker),
            (
                "the use of update-key and transfer-key, or allow-unsigned-updates",
                unsigned(self) != unsigned(new),
            ),
            ("control", self.control != new.control),
            ("control-token-file", self.control_token != new.control_token),
        ];
        let both = self.resolver.as_ref().zip(new.resolver.as_ref());
        let of_resolver = both.map(|(ours, theirs)| ours.fixed_differences(theirs)).unwrap_or_default();
        let differing = differences.into_iter().filter(|(_, differs)| *differs);
        differing.map(|(flag, _)| flag).chain(of_resolver).collect()
    }

    /// The files that are read again when they change.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        let key_file = self.gossip.iter().filter_map(|gossip| gossip.key_file.as_ref());
        let keys = self.zone_maintenance.iter().flat_map(|it| it.update_keys.iter().chain(&it.transfer_keys));
        let keys = keys.map(|file| &file.path);
        let resolver = self.resolver.iter().flat_map(resolver::settings::Settings::files);
        let files = self.names.iter().chain(&self.zones).chain(&self.cookie_secrets);
        files.chain(key_file).chain(keys).chain(resolver)
    }
}
