//! Nodes as processes of their own on this machine, for the demo and for measurements of whole clusters.
//!
//! Runs on the thread that wants them. They end with it, however it ends: their standard input is a pipe from it.

use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hyper::Method;

use crate::registry::client::{ClientError, escape, request};
use crate::registry::control_address::ControlAddress;
use crate::registry::request::{Added, Addition, Member, Registration, Removed, Status};

/// How long a node may take to start, or to find the others.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often it is looked whether something has happened.
const TICK: Duration = Duration::from_millis(2);

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What it calls itself, which is unique.
    pub name: String,
    /// Threads that answer.
    pub workers: usize,
    /// Files with its names.
    pub names: Vec<PathBuf>,
    /// It keeps what it is told to register.
    pub durable: bool,
    /// The only CPU that it may run on.
    pub cpu: Option<usize>,
}

impl Plan {
    /// A node with one worker that knows nothing.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.into(), workers: 1, names: Vec::new(), durable: false, cpu: None }
    }
}

/// A node.
pub struct Node {
    plan: Plan,
    directory: PathBuf,
    process: Option<Child>,
    status: Status,
}

impl Node {
    /// Starts a node that keeps its things in `directory` and looks for others at `seeds`, and waits until it serves.
    ///
    /// # Errors
    /// What the node had to say, if it did not start.
    pub fn start(plan: Plan, directory: &Path, seeds: &[SocketAddr]) -> io::Result<Self> {
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
        let free: SocketAddr = ([127, 0, 0, 1], 0).into();
        let dns = self.status.dns.first().copied().unwrap_or(free).to_string();
        let gossip = self.status.gossip.unwrap_or(free).to_string();
        let log = File::create(self.log_path())?;
        let program = std::env::current_exe()?;
        let mut command = match self.plan.cpu {
            Some(cpu) => {
                let mut command = Command::new("taskset");
                command.args(["-c", &cpu.to_string()]).arg(program);
                command
            }
            None => Command::new(program),
        };
        command.args(["serve", "--until-eof", "--listen", &dns, "--gossip", &gossip]);
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
            if let Ok(status) = self.get("/v1/status") {
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

    fn control(&self) -> ControlAddress {
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

    fn get<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        request(&self.control(), Method::GET, path, None::<&()>)
    }

    /// How it is.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn status(&self) -> Result<Status, ClientError> {
        self.get("/v1/status")
    }

    /// Who it thinks is in the cluster.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn members(&self) -> Result<Vec<Member>, ClientError> {
        self.get("/v1/members")
    }

    /// What it knows to be registered.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn names(&self) -> Result<Vec<Registration>, ClientError> {
        self.get("/v1/names")
    }

    /// Registers something at it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn add(&self, additions: &[Addition]) -> Result<Added, ClientError> {
        request(&self.control(), Method::POST, "/v1/names", Some(&additions))
    }

    /// Removes a name from it.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn remove(&self, name: &str) -> Result<Removed, ClientError> {
        request(&self.control(), Method::DELETE, &format!("/v1/names/{}", escape(name)), None::<&()>)
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

/// Starts nodes one after the other, and waits until each knows all others.
///
/// # Errors
/// Why one did not start, or that they did not find each other.
pub fn start_cluster(plans: Vec<Plan>, directory: &Path) -> io::Result<Vec<Node>> {
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
