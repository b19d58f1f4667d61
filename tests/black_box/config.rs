//! Configuration files, and what service managers do: tell, watch, hand over sockets.

use std::fs;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use crate::harness::{PATIENCE, Server, ask, has, query, redbreast, run, wait_until};

fn answers(server: &Server, name: &str) -> u8 {
    ask(&server.client(), &query(3, &format!("{name}.redbreast.internal"), 1))[7]
}

#[test]
fn a_file_says_what_flags_say_and_is_read_again_on_sighup() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    fs::write(path("names"), "10.0.0.1 web\n10.0.0.2 web\n").unwrap();
    fs::write(path("more"), "10.0.0.3 db\n").unwrap();
    let config = |names: &str, more: &str| {
        let text = format!(
            "listen = [\"127.0.0.1:0\"]\ncontrol = \"unix:{}\"\nworkers = 1\nnames = [{names}]\n{more}\n",
            path("control")
        );
        fs::write(path("redbreast.toml"), text).unwrap();
    };
    let (first, second) = (format!("\"{}\"", path("names")), format!("\"{}\"", path("more")));
    config(&first, "policy = [\"web=fixed,answers=one\"]");
    let check = || run(&["config", "check", &path("redbreast.toml")]);
    let checked = check();
    assert!(checked.status.success(), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("good; 2 registrations"), "{checked:?}");
    let mut server = Server::spawn(redbreast().args(["serve", "--config", &path("redbreast.toml")]));
    assert_eq!((answers(&server, "web"), answers(&server, "db")), (1, 0));
    config(&format!("{first}, {second}"), "policy = [\"web=fixed\"]\nttl = 9");
    server.signal("-HUP");
    wait_until("both files are served", || answers(&server, "db") == 1);
    assert_eq!(answers(&server, "web"), 2, "the policy is another");
    server.wait_for_log("these take a restart, and stay as they were: ttl");
    // The new file is watched, too.
    fs::write(path("more"), "10.0.0.3 db\n10.0.0.4 db\n").unwrap();
    wait_until("the new file is watched", || answers(&server, "db") == 2);
    config(&first, "wrkers = 2");
    let checked = check();
    assert_eq!(checked.status.code(), Some(2));
    let told = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(told.contains("redbreast.toml:5: there is no key `wrkers`; do you mean `workers`?"), "{told}");
    server.signal("-HUP");
    server.wait_for_log("nothing was changed: ");
    assert_eq!(answers(&server, "db"), 2);
    assert_eq!(run(&["serve", "--config", &path("nowhere")]).status.code(), Some(2));
}

#[test]
fn a_check_reads_the_upstreams_and_says_what_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    let text = format!(
        "listen = \"127.0.0.1:53\"\nresolv-conf = \"{}\"\ncache-size = \"1G\"\n",
        path("resolv.conf")
    );
    fs::write(path("redbreast.toml"), text).unwrap();
    let check = || run(&["config", "check", &path("redbreast.toml")]);
    let missing = check();
    assert_eq!(missing.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&missing.stderr).contains("resolv.conf: cannot read the upstreams"),
        "{missing:?}"
    );
    fs::write(path("resolv.conf"), "nameserver 127.0.0.1\nnameserver here\nnameserver 198.51.100.9\n")
        .unwrap();
    let checked = check();
    let told = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success(), "{checked:?}");
    assert!(told.contains("resolv.conf:2: `here` is no address; the line is passed over"), "{told}");
    assert!(told.contains("127.0.0.1 is this server itself, and is not asked"), "{told}");
    assert!(told.contains("good; 0 registrations"), "{told}");
}

#[test]
fn a_service_manager_is_told_how_it_goes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = redbreast();
    command.args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "200000");
    let server = Server::spawn(&mut command);
    let told = || {
        let mut buffer = [0; 1000];
        let len = manager.recv(&mut buffer).expect("it tells in time");
        String::from_utf8_lossy(&buffer[..len]).into_owned()
    };
    assert!(told().contains("READY=1"));
    for _ in 0..3 {
        assert!(told().contains("WATCHDOG=1"));
    }
    server.signal("-HUP");
    let next = || std::iter::repeat_with(told).find(|text| !text.contains("WATCHDOG")).unwrap();
    let reloading = next();
    assert!(reloading.contains("RELOADING=1") && reloading.contains("MONOTONIC_USEC="), "{reloading}");
    assert!(next().contains("READY=1"));
    server.stop();
    assert!(next().contains("STOPPING=1"));
}

#[test]
fn sockets_that_it_is_started_with_are_answered_at() {
    if !has("systemd-socket-activate", &["--version"]) {
        return;
    }
    let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let at = format!("127.0.0.1:{port}");
    let mut command = Command::new("systemd-socket-activate");
    command.args(["--datagram", "--listen", &at, env!("CARGO_BIN_EXE_redbreast")]);
    command.args(["serve", "--control", "127.0.0.1:0", "--workers", "2"]);
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(&at).unwrap();
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    // It is started by the first packet, which waits in its socket meanwhile.
    let asked = std::thread::spawn(move || {
        let mut buffer = [0; 512];
        let packet = query(5, "nobody.redbreast.internal", 1);
        for _ in 0..200 {
            let _ = client.send(&packet);
            if let Ok(len) = client.recv(&mut buffer) {
                return buffer[..len].to_vec();
            }
            // Nobody listens yet, perhaps, which is told at once.
            std::thread::sleep(Duration::from_millis(20));
        }
        Vec::new()
    });
    let server = Server::spawn(&mut command);
    assert_eq!(server.address.to_string(), at);
    let answer = asked.join().unwrap();
    assert_eq!(answer.get(3).map(|flags| flags & 15), Some(3), "NXDOMAIN: {answer:?}");
    server.stop();
}

#[test]
fn a_log_that_nobody_looks_at_is_json() {
    let mut command = redbreast();
    command.args(["serve", "--listen", "256.0.0.1:0"]);
    assert_eq!(command.output().unwrap().status.code(), Some(2));
    let directory = tempfile::tempdir().unwrap();
    let log = fs::File::create(directory.path().join("log")).unwrap();
    let mut child = redbreast()
        .args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .stderr(log)
        .spawn()
        .unwrap();
    let text = || fs::read_to_string(directory.path().join("log")).unwrap();
    wait_until("it serves", || text().contains("serving "));
    child.kill().unwrap();
    child.wait().unwrap();
    for line in text().lines() {
        let line: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(line["message"].is_string() && line["level"].is_string() && line["timestamp"].is_string());
    }
}

#[test]
fn systemd_understands_the_unit_files() {
    if !has("systemd-analyze", &["--version"]) {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    for unit in ["redbreast.service", "redbreast.socket"] {
        let text = fs::read_to_string(format!("{}/packaging/{unit}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        // As it would be once it is installed, with its manual.
        let text = text.replace("/usr/bin/redbreast", env!("CARGO_BIN_EXE_redbreast"));
        let text: String = text
            .lines()
            .filter(|line| !line.starts_with("Documentation="))
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(directory.path().join(unit), text).unwrap();
    }
    for unit in ["redbreast.service", "redbreast.socket"] {
        let output =
            Command::new("systemd-analyze").arg("verify").arg(directory.path().join(unit)).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<_> = told.lines().filter(|line| line.contains("redbreast.")).collect();
        assert!(ours.is_empty(), "{told}");
    }
    let example = format!("{}/packaging/redbreast.toml", env!("CARGO_MANIFEST_DIR"));
    assert!(run(&["config", "check", &example]).status.success());
}
