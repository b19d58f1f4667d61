//! Nodes of one cluster as processes, and what tests ask of them.

use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Server, ask, query, redbreast, run, wait_until};

const A: u16 = 1;

/// A node with a control socket of its own.
pub(crate) struct Node {
    pub(crate) server: Server,
    pub(crate) control: String,
    pub(crate) gossip: SocketAddr,
}

impl Node {
    pub(crate) fn start(directory: &Path, name: &str, args: &[&str]) -> Self {
        Self::start_at(directory, name, "127.0.0.1:0", args)
    }

    pub(crate) fn start_at(directory: &Path, name: &str, gossip: &str, args: &[&str]) -> Self {
        let control = format!("unix:{}", directory.join(format!("{name}.sock")).display());
        let mut command = redbreast();
        command.args(["serve", "--listen", "127.0.0.1:0", "--gossip", gossip, "--node-name", name]);
        command.args(["--control", &control, "--workers", "1"]).args(args);
        if !args.contains(&"--cluster") {
            // Nodes look for those that are down: a node of another test that gets such a port would be taken for one
            // of them.
            command.arg("--cluster").arg(directory.file_name().expect("each test has one of its own"));
        }
        let server = Server::spawn(&mut command);
        let log = server.log();
        let gossip = log.split("gossiping at ").nth(1).and_then(|rest| rest.split_whitespace().next());
        let gossip = gossip.expect("it says where it gossips").parse().expect("an address");
        Self { server, control, gossip }
    }

    /// Runs a verb at it. Returns its output as JSON.
    pub(crate) fn verb(&self, args: &[&str]) -> Value {
        let output = run(&[args, &["--json", "--control", &self.control]].concat());
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {errors}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub(crate) fn add(&self, name: &str, address: &str) {
        assert_eq!(self.verb(&["add", name, address])["added"], 1, "{name} {address}");
    }

    /// The last bytes of the addresses that it answers.
    pub(crate) fn answers(&self, name: &str) -> Vec<u8> {
        let answer = ask(&self.server.client(), &query(9, &format!("{name}.redbreast.internal"), A));
        let count = usize::from(answer[7]);
        let mut last: Vec<_> = (0..count).map(|i| answer[answer.len() - 1 - 16 * i]).collect();
        last.sort_unstable();
        last
    }

    pub(crate) fn wait_for(&self, name: &str, expected: &[u8]) {
        wait_until(&format!("{name} has {expected:?}"), || self.answers(name) == expected);
    }

    pub(crate) fn members(&self) -> usize {
        let status = self.verb(&["status"]);
        usize::try_from(status["members"].as_u64().expect("a number")).expect("few")
    }

    pub(crate) fn counter(&self, name: &str) -> u64 {
        self.verb(&["status"])["gossip_counters"][name].as_u64().expect(name)
    }

    pub(crate) fn join(&self) -> String {
        self.gossip.to_string()
    }
}

pub(crate) fn temp() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

pub(crate) fn trio(directory: &Path, args: &[&str]) -> [Node; 3] {
    let first = Node::start(directory, "n1", args);
    let join = first.join();
    let args = [&["--join", &join], args].concat();
    let others = ["n2", "n3"].map(|name| Node::start(directory, name, &args));
    let [second, third] = others;
    let nodes = [first, second, third];
    wait_until("all know each other", || nodes.iter().all(|node| node.members() == 3));
    nodes
}
