//! What the black-box tests share beside the server's process: stopping it, talking to it, and the tools of others.

use std::net::UdpSocket;
use std::process::{Command, Output, Stdio};

pub(crate) use crate::server::{PATIENCE, Server, has, redbreast, wait_until};

/// Runs the binary to its end.
pub(crate) fn run(args: &[&str]) -> Output {
    redbreast().args(args).stdin(Stdio::null()).output().expect("the binary starts")
}

impl Server {
    pub(crate) fn port(&self) -> String {
        self.address.port().to_string()
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

/// What a command prints, which has to succeed.
pub(crate) fn stdout(command: &mut Command) -> String {
    for _ in 0..10 {
        let output = command.stdin(Stdio::null()).output().expect("the command starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {}\n{text}{errors}", output.status);
        // The kernel may give dig the very port that it asks, since both share ports: then it hears its own question
        // (findings/dig-hears-itself.sh).
        if !text.contains("query response not set") {
            return text;
        }
    }
    panic!("{command:?} heard nothing but itself");
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
