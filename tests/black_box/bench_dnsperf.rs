//! `redbreast bench` beside Debian's dnsperf, both against the same server: a script that reads the one must be able
//! to read the other.

use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use crate::harness::has;

/// A server that runs until this process ends: NOERROR and NXDOMAIN by turns, and nothing for names with `drop`.
fn start_server() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        for n in (0..2u8).cycle() {
            let Ok((len, peer)) = socket.recv_from(&mut buffer) else { return };
            let dropped = buffer[..len].windows(4).any(|window| window == b"drop");
            buffer[2] |= 0x80;
            buffer[3] |= 3 * n;
            if !dropped {
                let _ = socket.send_to(&buffer[..len], peer);
            }
        }
    });
    address
}

/// Runs `command` with dnsperf's `options`; sends it SIGINT after `interrupt_after`, if any.
fn run(mut command: Command, options: &[&str], interrupt_after: Option<Duration>) -> Output {
    let child = command
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    if let Some(delay) = interrupt_after {
        thread::sleep(delay);
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    }
    child.wait_with_output().unwrap()
}

/// A line with its numbers replaced by their form: `#` for whole ones, `#.6` for six decimals.
fn form(line: &str) -> String {
    for (prefix, form) in [("[Status] Command line: ", "COMMAND"), ("Version ", "VERSION")] {
        if line.starts_with(prefix) {
            return format!("{prefix}{form}");
        }
    }
    let mut form = String::new();
    let mut chars = line.chars().peekable();
    let mut after_point = false;
    while let Some(c) = chars.next() {
        if !c.is_ascii_digit() {
            form.push(c);
            after_point = c == '.';
            continue;
        }
        let mut digits = 1;
        while chars.next_if(char::is_ascii_digit).is_some() {
            digits += 1;
        }
        form.push_str(&if after_point { digits.to_string() } else { "#".into() });
        after_point = false;
    }
    form
}

/// The forms of the lines of an output, without those that depend on chance.
fn forms(output: &[u8]) -> Vec<String> {
    let text = String::from_utf8(output.to_vec()).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with("[Timeout] "));
    let mut forms: Vec<_> = lines
        .map(|line| match line.strip_prefix("[Status] Started at: ") {
            Some(time) => format!("[Status] Started at: {} {}", time.len(), form(time).replace(' ', "")),
            None => form(line),
        })
        .collect();
    forms.dedup_by(|a, b| a == b && a.starts_with('#')); // the lines of intervals
    forms
}

/// Runs both and compares the lines that dnsperf prints.
fn compare(options: &[&str], queries: &str, interrupt_after: Option<Duration>) {
    if !has("dnsperf", &["-h"]) {
        return;
    }
    let server = start_server();
    let port = server.port().to_string();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(queries.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    let options = [&["-s", "127.0.0.1", "-p", &port, "-d", path], options].concat();
    let theirs = run(Command::new("dnsperf"), &options, interrupt_after);
    let mut ours = Command::new(env!("CARGO_BIN_EXE_redbreast"));
    // Whether the machine is idle is not what is asked here.
    ours.args(["bench", "--accept-invalid"]);
    let ours = run(ours, &options, interrupt_after);
    let (their_forms, our_forms) = (forms(&theirs.stdout), forms(&ours.stdout));
    assert!(their_forms.len() > 15, "{their_forms:#?}");
    assert!(our_forms.len() >= their_forms.len(), "{our_forms:#?}");
    let stderr = String::from_utf8_lossy(&ours.stderr);
    assert_eq!(our_forms[..their_forms.len()], their_forms, "{options:?} {stderr}");
    let expected = if interrupt_after.is_some() { 1 } else { 0 };
    assert_eq!(ours.status.code(), Some(expected), "{stderr}");
}

const QUERIES: &str = "; two names\nwww.example.com A\nmail.example.com AAAA\n";

#[test]
fn a_run_through_the_file_is_told_as_by_dnsperf() {
    compare(&["-n", "50"], QUERIES, None);
}

#[test]
fn a_run_of_some_seconds_with_intervals_is_told_as_by_dnsperf() {
    compare(&["-l", "1", "-S", "0.3", "-c", "2", "-T", "2"], QUERIES, None);
    compare(&["-l", "30", "-n", "20", "-e"], QUERIES, None);
}

#[test]
fn lost_queries_are_told_as_by_dnsperf() {
    compare(&["-n", "3", "-t", "0.3"], "www.example.com A\ndrop.example.com A\n", None);
}

#[test]
fn an_interrupted_run_is_told_as_by_dnsperf() {
    let queries = "www.example.com A\ndrop.example.com A\n";
    compare(&["-l", "30", "-t", "20"], queries, Some(Duration::from_millis(800)));
}

#[test]
fn each_query_is_told_as_by_dnsperf() {
    compare(&["-n", "3", "-v", "-q", "1"], QUERIES, None);
    compare(&["-n", "2", "-v", "-t", "0.3", "-q", "1"], "drop.example.com A\nwww.example.com A\n", None);
}
