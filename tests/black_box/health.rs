//! Health checks, of real listeners and programs: what is not well is in no answer of any node.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::{has, stdout, wait_until};
use crate::nodes::{Node, temp};

/// What is checked: something that listens at 127.0.0.2, where nobody else does.
fn listen(port: u16) -> TcpListener {
    let address = SocketAddr::from(([127, 0, 0, 2], port));
    let mut listener = None;
    wait_until("the port is free", || {
        listener = TcpListener::bind(address).ok();
        listener.is_some()
    });
    listener.expect("just bound")
}

/// What is said of the one address of `name` that is checked.
fn found(node: &Node, name: &str) -> serde_json::Value {
    let explanation = node.verb(&["explain", name]);
    let records = explanation["records"].as_array().unwrap();
    records
        .iter()
        .find(|record| record["check"].is_string())
        .unwrap_or_else(|| panic!("{explanation}"))
        .clone()
}

#[test]
fn an_address_whose_check_fails_is_out_of_the_answers_of_all_five_nodes_in_time() {
    const INTERVAL: Duration = Duration::from_millis(500);
    let directory = temp();
    let first = Node::start(directory.path(), "n1", &[]);
    let join = first.join();
    let mut nodes = vec![first];
    for i in 2..=5 {
        nodes.push(Node::start(directory.path(), &format!("n{i}"), &["--join", &join]));
    }
    wait_until("all know each other", || nodes.iter().all(|node| node.members() == 5));
    let mut listener = Some(listen(0));
    let port = listener.as_ref().unwrap().local_addr().unwrap().port();
    let check = format!("tcp:{port},interval=500ms,timeout=200ms,rise=2,fall=2");
    nodes[0].verb(&["add", "web", "127.0.0.2", "--check", &check]);
    nodes[0].verb(&["add", "web", "127.0.0.3"]);
    nodes.iter().for_each(|node| node.wait_for("web", &[2, 3]));
    wait_until("the first check has been made", || found(&nodes[4], "web")["health"] == "up");
    for _ in 0..3 {
        for (expected, checks, slack) in
            [(&[3][..], 2, Duration::from_millis(200)), (&[2, 3][..], 2, Duration::ZERO)]
        {
            listener = if listener.is_some() { None } else { Some(listen(port)) };
            let begin = Instant::now();
            nodes.iter().for_each(|node| node.wait_for("web", expected));
            let (took, due) = (begin.elapsed(), INTERVAL * checks + slack + Duration::from_millis(50));
            println!("{expected:?} at all five nodes after {took:?}; {due:?} are asked for");
            // The machine may be busy: what is asked for is measured by `redbreast perf health`.
            assert!(took > INTERVAL / 2 && took < due + Duration::from_secs(2), "{took:?}");
        }
    }
    let record = found(&nodes[0], "web");
    assert_eq!(record["check"], check, "{record}");
    assert!(nodes[0].server.log().contains("127.0.0.2 of web.redbreast.internal. is down: "));
}

/// Serves HTTP: each connection is answered with the status that `status` has, and counted.
fn serve_http(listener: TcpListener, status: &Arc<AtomicUsize>, count: &Arc<AtomicUsize>) {
    let (status, count) = (Arc::clone(status), Arc::clone(count));
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let mut request = [0; 1024];
            let len = stream.read(&mut request).unwrap_or_default();
            assert!(request[..len].starts_with(b"GET /health?a=b HTTP/1.1\r\n"));
            let code = status.load(Ordering::SeqCst);
            // One that says nothing, but stays there, is as bad as one that says no.
            if code == 0 {
                thread::sleep(Duration::from_millis(400));
                continue;
            }
            // It has gone if that fails.
            let _ = write!(stream, "HTTP/1.1 {code} X\r\nContent-Length: 1000000\r\n\r\nx");
        }
    });
}

#[test]
fn a_web_server_is_well_by_its_status_and_checked_as_long_as_it_is_registered() {
    let directory = temp();
    let node = Node::start(directory.path(), "n1", &[]);
    let (status, count) = (Arc::new(AtomicUsize::new(200)), Arc::new(AtomicUsize::new(0)));
    let listener = listen(0);
    let port = listener.local_addr().unwrap().port();
    serve_http(listener, &status, &count);
    let check = format!("http:{port}/health?a=b,interval=100ms,timeout=100ms,rise=1,fall=2");
    node.verb(&["add", "web", "127.0.0.2", "--check", &check]);
    node.add("web", "127.0.0.3");
    for (code, expected, told) in [
        (500, &[3][..], "HTTP status 500"),
        (302, &[2, 3], ""),
        (0, &[3], "no answer within 100 ms"),
        (200, &[2, 3], ""),
    ] {
        status.store(code, Ordering::SeqCst);
        node.wait_for("web", expected);
        wait_until("it is told why", || found(&node, "web")["found"].as_str().unwrap_or_default() == told);
    }
    node.verb(&["remove", "web", "127.0.0.2"]);
    node.wait_for("web", &[3]);
    // One may be under way still.
    thread::sleep(Duration::from_millis(200));
    let then = count.load(Ordering::SeqCst);
    thread::sleep(Duration::from_millis(500));
    assert_eq!(count.load(Ordering::SeqCst), then, "a check does not outlive its record");
}

/// A program of others that ends with its test, however that ends.
struct Other(Child);

impl Drop for Other {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_web_server_is_asked_over_tls_whoever_has_signed_its_certificate() {
    if !has("openssl", &["version"]) {
        return;
    }
    let directory = temp();
    let file = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (file("key.pem"), file("certificate.pem"));
    let request =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=nobody.example", "-days", "1"];
    stdout(Command::new("openssl").args(request).args(["-keyout", &key, "-out", &certificate]));
    // It has no way to choose a port and say which: one that was free just now.
    let port = listen(0).local_addr().unwrap().port().to_string();
    let server = Command::new("openssl")
        .args(["s_server", "-www", "-quiet", "-key", &key, "-cert", &certificate])
        .args(["-accept", &format!("127.0.0.2:{port}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Other(server.unwrap());
    let node = Node::start(directory.path(), "n1", &[]);
    let every = "interval=300ms,timeout=300ms,rise=1,fall=1";
    node.verb(&["add", "web", "127.0.0.2", "--check", &format!("https:{port}/,host=web.example,{every}")]);
    node.add("web", "127.0.0.3");
    node.verb(&["add", "plain", "127.0.0.2", "--check", &format!("http:{port}/,{every}")]);
    node.add("plain", "127.0.0.3");
    wait_until("it is well", || found(&node, "web")["health"] == "up");
    node.wait_for("plain", &[3]);
    drop(server);
    node.wait_for("web", &[3]);
}

#[test]
fn a_name_server_is_well_if_it_answers_and_what_never_answers_is_not() {
    let directory = temp();
    let node = Node::start(directory.path(), "n1", &[]);
    let checked = Node::start(directory.path(), "checked", &[]);
    let port = checked.server.address.port();
    let every = "interval=100ms,timeout=100ms,rise=1,fall=1";
    node.verb(&["add", "dns", "127.0.0.1", "--check", &format!("dns:{port}/redbreast.internal/SOA,{every}")]);
    node.add("dns", "127.0.0.9");
    node.verb(&[
        "add",
        "none",
        "127.0.0.1",
        "--check",
        &format!("dns:{port}/none.redbreast.internal,{every}"),
    ]);
    node.add("none", "127.0.0.9");
    node.wait_for("none", &[9]);
    wait_until("it is told why", || found(&node, "none")["found"] == "DNS response code 3");
    wait_until("it is well", || found(&node, "dns")["health"] == "up");
    assert_eq!(node.answers("dns"), [1, 9]);
    // A server that has stopped keeps its port, and says nothing.
    checked.server.signal("-STOP");
    node.wait_for("dns", &[9]);
    wait_until("it is told why", || found(&node, "dns")["found"] == "no answer within 100 ms");
    checked.server.signal("-CONT");
    node.wait_for("dns", &[1, 9]);
}

fn program(directory: &Path, name: &str, text: &str) {
    let path = directory.join(name);
    fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn programs_are_checks_too_and_leave_nothing_behind_when_they_hang_or_fork() {
    let directory = temp();
    let programs = directory.path().join("checks");
    fs::create_dir(&programs).unwrap();
    // A time to sleep that is this test's own, to be told from others'.
    let own = format!("98{}", std::process::id());
    program(
        &programs,
        "flag",
        &format!("test \"$1\" = 10.0.0.1 && test -e {}/flag", directory.path().display()),
    );
    program(&programs, "hangs", &format!("sleep {own}"));
    program(&programs, "forks", &format!("sleep {own} & sleep {own} & exit 0"));
    let node = Node::start(directory.path(), "n1", &["--check-dir", programs.to_str().unwrap()]);
    let every = "interval=200ms,timeout=200ms,rise=1,fall=1";
    for (name, program) in [("flag", "flag"), ("hangs", "hangs"), ("forks", "forks")] {
        node.verb(&["add", name, "10.0.0.1", "--check", &format!("command:{program},{every}")]);
        node.add(name, "10.0.0.9");
    }
    node.wait_for("flag", &[9]);
    wait_until("it is told why", || found(&node, "flag")["found"] == "it ended with exit status: 1");
    fs::write(directory.path().join("flag"), "").unwrap();
    node.wait_for("flag", &[1, 9]);
    node.wait_for("hangs", &[9]);
    wait_until("it is told why", || found(&node, "hangs")["found"] == "it had not ended after 200 ms");
    wait_until("what forks has ended well", || found(&node, "forks")["health"] == "up");
    let sleeping = || {
        let all = stdout(Command::new("ps").args(["-eo", "args"]));
        all.lines().filter(|line| *line == format!("sleep {own}")).count()
    };
    for name in ["hangs", "forks"] {
        node.verb(&["remove", name]);
    }
    wait_until("nothing is left of them", || sleeping() == 0);
    let missing = crate::harness::run(&[
        "add",
        "x",
        "10.0.0.1",
        "--check",
        "command:missing",
        "--control",
        &node.control,
    ]);
    assert_eq!(missing.status.code(), Some(2));
    let told = String::from_utf8_lossy(&missing.stderr);
    assert!(told.contains("there is no program \"missing\" in the node's"), "{told}");
    // A program that goes away later says nothing of the address.
    fs::remove_file(programs.join("flag")).unwrap();
    wait_until("it is told why", || {
        found(&node, "flag")["found"].as_str().unwrap_or_default().contains("cannot be run")
            || found(&node, "flag")["health"] == "up"
    });
    assert_eq!(node.answers("flag"), [1, 9]);
}

#[test]
fn a_node_ends_at_once_whatever_is_being_checked() {
    let directory = temp();
    let programs = directory.path().join("checks");
    fs::create_dir(&programs).unwrap();
    program(&programs, "slow", "exec sleep 30");
    let node = Node::start(directory.path(), "n1", &["--check-dir", programs.to_str().unwrap()]);
    node.verb(&["add", "web", "10.0.0.1", "--check", "command:slow,interval=30s,timeout=30s"]);
    node.verb(&["add", "web", "127.0.0.2", "--check", "tcp:1,interval=100ms,timeout=100ms"]);
    let begin = Instant::now();
    node.server.stop();
    assert!(begin.elapsed() < Duration::from_secs(10));
}
