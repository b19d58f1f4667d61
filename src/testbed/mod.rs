//! Nodes as processes of their own on this machine, for the demo and for measurements of whole clusters.
//!
//! Runs on the thread that wants them. They end with it, however it ends: their standard input is a pipe from it.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};

use crate::api::control_address::ControlAddress;
use crate::api::paths;
use crate::api::request::{Changed, Member, RegisterRequest, Registration, Status};
use crate::http::client::{ClientError, ControlClient, escape};

/// How long a node may take to start, or to find the others.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether something has happened.
const TICK: Duration = Duration::from_millis(2);

/// How a node is started.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// What it calls itself, which is unique.
    pub name: String,
    /// Threads that answer.
    pub workers: usize,
    /// Files with its names.
    pub names: Vec<PathBuf>,
    /// It keeps what it is told to register.
    pub durable: bool,
    /// The CPUs that it may run on, as `taskset` takes them.
    pub cpus: Option<String>,
    /// It gossips with the others.
    pub gossips: bool,
    /// The network namespace that it runs in, and its address there.
    pub namespace: Option<(String, IpAddr)>,
    /// What else it is told on its command line.
    pub options: Vec<String>,
    /// Another build of this program.
    pub program: Option<PathBuf>,
}

impl NodePlan {
    /// A node with one worker that knows nothing.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            workers: 1,
            names: Vec::new(),
            durable: false,
            cpus: None,
            gossips: true,
            namespace: None,
            options: Vec::new(),
            program: None,
        }
    }
}

/// A node.
pub struct Node {
    plan: NodePlan,
    directory: PathBuf,
    process: Option<Child>,
    status: Status,
}

impl Node {
    /// Starts a node that keeps its things in `directory` and looks for others at `seeds`, and waits until it serves.
    ///
    /// # Errors
    /// What the node had to say, if it did not start.
    pub fn start(plan: NodePlan, directory: &Path, seeds: &[SocketAddr]) -> io::Result<Self> {
        let mut node =
            Self { plan, directory: directory.to_owned(), process: None, status: Status::default() };
        node.restart(seeds)?;
        Ok(node)
    }

    /// Starts it once more, at the same addresses if it ran before.
    ///
    /// # Errors
    /// The same.
    pub fn restart(&mut self, seeds: &[SocketAddr]) -> io::Result<()> {
        let ip = self.plan.namespace.as_ref().map_or([127, 0, 0, 1].into(), |(_, ip)| *ip);
        let free = SocketAddr::new(ip, 0);
        let dns = self.status.dns.first().copied().unwrap_or(free).to_string();
        let gossip = self.status.gossip.unwrap_or(free).to_string();
        let log = File::create(self.log_path())?;
        let namespace = self.plan.namespace.as_ref().map(|(name, _)| name.as_str());
        let mut command = program(namespace, self.plan.cpus.as_deref(), self.plan.program.as_deref())?;
        command.args(["serve", "--until-eof", "--log", "text", "--listen", &dns]);
        if self.plan.gossips {
            // A node that is down is looked for, and its port may be somebody else's by then.
            let cluster = format!("testbed-{}", std::process::id());
            command.args(["--gossip", &gossip, "--cluster", &cluster]);
        }
        if !ip.is_loopback() && self.plan.gossips {
            // The namespaces are made for this, and nobody else is in them.
            command.arg("--insecure-gossip");
        }
        command.args(&self.plan.options);
        command.args(["--node-name", &self.plan.name, "--workers", &self.plan.workers.to_string()]);
        command.arg("--control").arg(self.control().to_string());
        for file in &self.plan.names {
            command.arg("--names").arg(file);
        }
        for seed in seeds {
            command.args(["--join", &seed.to_string()]);
        }
        if self.plan.durable {
            command.arg("--data-dir").arg(self.directory.join(&self.plan.name));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        self.process = Some(command.spawn()?);
        let begin = Instant::now();
        loop {
            if let Ok(status) = self.get(paths::STATUS) {
                self.status = status;
                return Ok(());
            }
            let ended = self.process.as_mut().map(Child::try_wait).transpose()?.flatten();
            if ended.is_some() || begin.elapsed() > PATIENCE {
                let log = fs::read_to_string(self.log_path()).unwrap_or_default();
                return Err(io::Error::other(format!("{} did not start: {}", self.plan.name, log.trim())));
            }
            thread::sleep(TICK);
        }
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join(format!("{}.log", self.plan.name))
    }

    fn client(&self) -> ControlClient {
        ControlClient { address: self.control(), token: None }
    }

    /// Where it takes requests.
    #[must_use]
    pub fn control(&self) -> ControlAddress {
        ControlAddress::Unix(self.directory.join(format!("{}.sock", self.plan.name)))
    }

    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Where it answers.
    #[must_use]
    pub fn dns(&self) -> SocketAddr {
        self.status.dns[0]
    }

    /// Where it gossips.
    #[must_use]
    pub fn gossip(&self) -> Option<SocketAddr> {
        self.status.gossip
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    fn proc_path(&self) -> io::Result<PathBuf> {
        let pid = self.pid().ok_or_else(|| io::Error::other(format!("{} has ended", self.plan.name)))?;
        Ok(PathBuf::from(format!("/proc/{pid}")))
    }

    /// CPU time that it has taken, in seconds: its workers, and all its other threads.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cpu_s(&self) -> io::Result<(f64, f64)> {
        let (mut workers, mut others) = (0.0, 0.0);
        for task in fs::read_dir(self.proc_path()?.join("task"))? {
            let task = task?.path();
            let is_worker = fs::read_to_string(task.join("comm"))?.starts_with("worker");
            let text = fs::read_to_string(task.join("schedstat"))?;
            let ns: f64 = text.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or_default();
            *(if is_worker { &mut workers } else { &mut others }) += ns / 1e9;
        }
        Ok((workers, others))
    }

    /// Memory that it holds, in bytes.
    ///
    /// # Errors
    /// When it has ended.
    pub fn resident_bytes(&self) -> io::Result<u64> {
        let status = fs::read_to_string(self.proc_path()?.join("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("the kernel does not say what it holds"))
    }

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.client().request(Method::GET, path, None::<&()>)
    }

    /// How it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get(paths::STATUS)
    }

    /// Who it thinks is in the cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn members(&self) -> Result<Vec<Member>, ClientError> {
        self.get(paths::MEMBERS)
    }

    /// What it knows to be registered.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn names(&self) -> Result<Vec<Registration>, ClientError> {
        self.get(paths::NAMES)
    }

    /// Registers something at it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn add(&self, additions: &[RegisterRequest]) -> Result<Changed, ClientError> {
        self.client().request(Method::POST, paths::NAMES, Some(&additions))
    }

    /// Removes a name from it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn remove(&self, name: &str) -> Result<Changed, ClientError> {
        self.client().request(Method::DELETE, &paths::with(paths::NAME, &[&escape(name)]), None::<&()>)
    }

    /// Removes one address of a name from it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn remove_address(&self, name: &str, address: IpAddr) -> Result<Changed, ClientError> {
        let path = format!("{}?address={address}", paths::with(paths::NAME, &[&escape(name)]));
        self.client().request(Method::DELETE, &path, None::<&()>)
    }

    /// Sends it a signal by its name, like `STOP`.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        let process = self.process.as_ref().and_then(|process| Pid::from_raw(process.id().try_into().ok()?));
        let process = process.ok_or_else(|| io::Error::other(format!("{} has ended", self.plan.name)))?;
        Ok(kill_process(process, signal)?)
    }

    /// That it still runs.
    ///
    /// # Errors
    /// What it had to say, if it has ended by itself.
    pub fn check(&mut self) -> io::Result<()> {
        match self.process.as_mut().map(Child::try_wait).transpose()?.flatten() {
            None => Ok(()),
            Some(status) => {
                let log = fs::read_to_string(self.log_path()).unwrap_or_default();
                let last = log.lines().last().unwrap_or_default();
                Err(io::Error::other(format!("{} has ended with {status}: {last}", self.plan.name)))
            }
        }
    }

    /// Ends it at once, with no time to say anything.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // It fails only if the process has ended already.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
    }
}

/// This program, or the one at `path`, to be run in that network namespace and on those CPUs.
///
/// # Errors
/// When it cannot be told where it is.
pub fn program(namespace: Option<&str>, cpus: Option<&str>, path: Option<&Path>) -> io::Result<Command> {
    let mut words: Vec<OsString> = Vec::new();
    // Each of these becomes the program that it is given, so that the process is that of the node.
    if let Some(namespace) = namespace {
        words.extend(["ip", "netns", "exec", namespace].map(OsString::from));
    }
    if let Some(cpus) = cpus {
        words.extend(["taskset", "-c", cpus].map(OsString::from));
    }
    words.push(path.map_or_else(std::env::current_exe, |path| Ok(path.to_owned()))?.into());
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]);
    Ok(command)
}

/// Starts nodes one after the other, and waits until each knows all others.
///
/// # Errors
/// Why one did not start, or that they did not find each other.
pub fn start_cluster(plans: Vec<NodePlan>, directory: &Path) -> io::Result<Vec<Node>> {
    let mut nodes: Vec<Node> = Vec::new();
    for plan in plans {
        let seeds: Vec<_> = nodes.first().and_then(Node::gossip).into_iter().collect();
        nodes.push(Node::start(plan, directory, &seeds)?);
    }
    wait_until("all nodes know each other", || {
        nodes.iter().all(|node| node.status().is_ok_and(|status| status.members == nodes.len()))
    })?;
    Ok(nodes)
}

/// Waits until `condition` holds; returns how long that took.
///
/// # Errors
/// That it did not in a long time.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) -> io::Result<Duration> {
    let begin = Instant::now();
    while !condition() {
        if begin.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("waited in vain until {what}")));
        }
        thread::sleep(TICK);
    }
    Ok(begin.elapsed())
}
