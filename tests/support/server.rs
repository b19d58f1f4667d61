//! A `redbreast serve` as a child process, for every test crate that asks the real binary.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long anything may take that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn redbreast() -> Command {
    Command::new(env!("CARGO_BIN_EXE_redbreast"))
}

/// A `redbreast serve` of this test's own. It is killed when it goes out of scope.
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    pub(crate) reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a free port of 127.0.0.1 and waits until it serves.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(
            redbreast().args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]).args(args),
        )
    }

    /// Starts with one names file.
    pub(crate) fn with_names(file: &Path, args: &[&str]) -> Self {
        let names = ["--names", file.to_str().expect("a UTF-8 path")];
        Self::start(&[&names, args].concat())
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command
            .args(["--log", "text"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = child.stderr.take().expect("piped");
        let reader = thread::spawn({
            let log = Arc::clone(&log);
            move || copy_lines(stderr, &log)
        });
        let mut server = Self { child, address: ([127, 0, 0, 1], 0).into(), log, reader: Some(reader) };
        server.wait_for_log("serving ");
        let log = server.log();
        let listening = log.split("listening on ").nth(1).and_then(|rest| rest.split_whitespace().next());
        server.address = listening.expect("it says where it listens").parse().expect("an address");
        server
    }

    /// All that it has written to stderr.
    pub(crate) fn log(&self) -> String {
        self.log.lock().expect("the reader does not panic").clone()
    }

    /// Waits until it has written `text`.
    pub(crate) fn wait_for_log(&mut self, text: &str) {
        wait_until(&format!("the log says {text:?}"), || {
            let ended = self.child.try_wait().expect("our child");
            assert!(ended.is_none() || self.log().contains(text), "ended with {ended:?}: {}", self.log());
            self.log().contains(text)
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` both fail, which is as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Not joined: a child of the child may hold its end of the pipe still.
        drop(self.reader.take());
    }
}

fn copy_lines(stderr: ChildStderr, log: &Mutex<String>) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let mut log = log.lock().expect("nobody panics with it");
        log.push_str(&line);
        log.push('\n');
    }
}

/// Waits until `condition` holds; panics when it does not in a long time.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Whether a tool of others is there. On CI it has to be, since `scripts/test` installed it.
pub(crate) fn has(tool: &str, probe: &[&str]) -> bool {
    let found = Command::new(tool)
        .args(probe)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(
        found || std::env::var_os("CI").is_none(),
        "`{tool}` is missing on CI: scripts/test has to install it"
    );
    if !found {
        println!(
            "SKIPPED: `{tool} {}` does not work here; scripts/test as root installs it",
            probe.join(" ")
        );
    }
    found
}
