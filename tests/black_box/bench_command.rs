//! `redbreast bench` as a command: exit statuses, error lines and JSON.

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;

fn bench(options: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_redbreast")).arg("bench").args(options).output().unwrap()
}

/// An echo server that runs until this process ends; returns its port.
fn start_server() -> String {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            buffer[2] |= 0x80;
            let _ = socket.send_to(&buffer[..len], peer);
        }
    });
    port.to_string()
}

fn query_file(folder: &Path, text: &str) -> String {
    let path = folder.join("queries.txt");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

/// Asserts the exit status and that standard error is one line with `words` beside notes, and nothing of a panic.
fn assert_fails(output: &Output, status: i32, words: &[&str]) {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(status), "{stderr}");
    let errors: Vec<&str> = stderr.lines().filter(|line| !line.starts_with("note: ")).collect();
    assert_eq!(errors.len(), 1, "{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    for word in words {
        assert!(errors[0].contains(word), "`{word}` is not in: {stderr}");
    }
}

#[test]
fn a_result_is_written_as_json_to_a_file_or_to_standard_output() {
    let folder = tempfile::tempdir().unwrap();
    let queries = query_file(folder.path(), "a.example A\nb.example A\n");
    let json = folder.path().join("result.json");
    let port = start_server();
    let options = ["-p", &port, "--queries", &queries, "--runs", "5", "--accept-invalid", "--json"];
    let output = bench(&[&options[..], &[json.to_str().unwrap()]].concat());
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout).unwrap().contains("  Queries completed:    10 (100.00%)\n"));
    let in_file: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    let output = bench(&[&options[..], &["-"]].concat());
    assert!(String::from_utf8(output.stderr).unwrap().contains("  Queries completed:    10 (100.00%)\n"));
    let on_stdout: Value = serde_json::from_slice(&output.stdout).unwrap();
    for result in [in_file, on_stdout] {
        assert_eq!(result["totals"]["completed"], 10);
        assert_eq!(result["target"]["server"], "127.0.0.1");
        assert_eq!(result["verdict"]["complete"], true);
        assert!(result["latency_us"]["negative"]["p99_99"].is_f64());
        assert!(result["latency_us"]["positive"]["p50"].is_null());
    }
}

#[test]
fn nobody_listening_is_one_line_and_exit_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let queries = query_file(folder.path(), "a.example A\n");
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let json = folder.path().join("result.json");
    let output = bench(&["-p", &port, "-d", &queries, "--json", json.to_str().unwrap()]);
    assert_fails(&output, 1, &["nobody listens at 127.0.0.1:", &port]);
    let result: Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(result["verdict"]["complete"], false);
    assert!(result["verdict"]["reason"].as_str().unwrap().contains("nobody listens"));
}

#[test]
fn a_server_that_does_not_answer_or_cannot_be_found_is_exit_status_1() {
    let folder = tempfile::tempdir().unwrap();
    let queries = query_file(folder.path(), "a.example A\n");
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port().to_string();
    let output = bench(&["-p", &port, "-d", &queries, "-t", "0.2"]);
    assert_fails(&output, 1, &["no answer from 127.0.0.1:", "to 1 queries"]);
    let output = bench(&["-s", "no such host", "-d", &queries]);
    assert_fails(&output, 1, &["cannot resolve", "`no such host`"]);
}

#[test]
fn a_bad_file_or_option_is_one_line_and_exit_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let queries = query_file(folder.path(), "a.example A\nb..example A\n");
    let words = ["queries.txt:2: ", "`b..example`", "expected `name type`"];
    assert_fails(&bench(&["--strict", "-d", &queries]), 2, &words);
    assert_fails(&bench(&["-d", "/nonexistent/q"]), 2, &["/nonexistent/q: cannot be read"]);
    let good = query_file(folder.path(), "a.example A\n");
    assert_fails(&bench(&["-d", &good, "-q", "65537"]), 2, &["65537 queries outstanding", "at most 65536"]);
    assert_fails(
        &bench(&["-d", &good, "--json", "/nonexistent/j"]),
        2,
        &["/nonexistent/j: cannot be written"],
    );
    for options in [&["-q", "0"][..], &["--no-such-option"], &["-t", "-1"]] {
        let output = bench(options);
        assert_eq!(output.status.code(), Some(2), "{options:?}");
        assert!(output.stdout.is_empty());
    }
}
