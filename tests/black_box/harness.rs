//! What the black-box tests share: the real binary as a child process, and the tools of others.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// How long anything may take that takes milliseconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn redbreast() -> Command {
    Command::new(env!("CARGO_BIN_EXE_redbreast"))
}

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    redbreast().args(args).stdin(Stdio::null()).output().expect("the binary starts")
}

/// A `redbreast serve` of this test's own. It is killed when it goes out of scope.
pub(crate) struct Server {
    child: Child,
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts on a free port of 127.0.0.1 and waits until it serves.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::spawn(redbreast().args(["serve", "--listen", "127.0.0.1:0"]).args(args))
    }

    /// Starts with one names file.
    pub(crate) fn with_names(file: &Path, args: &[&str]) -> Self {
        let names = ["--names", file.to_str().expect("a UTF-8 path")];
        Self::start(&[&names, args].concat())
    }

    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the binary starts");
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

    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
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

    pub(crate) fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill runs").success());
    }

    /// Asks it to end, and returns all it wrote.
    pub(crate) fn stop(self) -> String {
        self.signal("-TERM");
        self.stop_after(|| {})
    }

    /// Waits for it to end by itself once `last` is done, and returns all it wrote.
    pub(crate) fn stop_after(mut self, last: impl FnOnce()) -> String {
        last();
        let status = self.child.wait().expect("our child");
        self.reader.take().expect("joined once").join().expect("the reader does not panic");
        assert!(status.success(), "{status}: {}", self.log());
        self.log()
    }

    /// A socket that talks to it.
    pub(crate) fn client(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
        socket.connect(self.address).expect("loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("not zero");
        socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // After `stop` both fail, which is as it should be.
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// What a command prints, which has to succeed.
pub(crate) fn stdout(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().expect("the command starts");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
    text
}

/// A query for `name` and `qtype` with this id, RD set.
pub(crate) fn query(id: u16, name: &str, qtype: u16) -> Vec<u8> {
    let name = redbreast::wire::name::Name::from_text(name).expect("a valid name");
    let [type_high, type_low] = qtype.to_be_bytes();
    [&id.to_be_bytes(), &b"\x01\0\0\x01\0\0\0\0\0\0"[..], name.as_wire(), &[type_high, type_low, 0, 1]]
        .concat()
}

/// Sends one packet and returns the answer.
pub(crate) fn ask(socket: &UdpSocket, packet: &[u8]) -> Vec<u8> {
    socket.send(packet).expect("the server is there");
    let mut answer = vec![0; 65_535];
    let len = socket.recv(&mut answer).expect("an answer in time");
    answer.truncate(len);
    answer
}
