//! Containers of a real Docker Engine come and go by name.
//!
//! The Engine runs in namespaces of its own, which end with the process that holds them, and all that is in them:
//! nothing of it is left. Its image is made here, of one static program that waits.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use crate::control::{addresses, start};
use crate::harness::{Server, has, run, stdout, wait_until};
use crate::http::{get, json as send_json, send};

const WAITING: &str = "#include <signal.h>\n#include <unistd.h>\nstatic void end(int s) { _exit(0); }\n\
                       int main(void) { signal(SIGTERM, end); for (;;) pause(); }\n";

/// A Docker Engine of the test's own.
struct Engine {
    directory: tempfile::TempDir,
    /// The first process of its namespaces.
    holder: Child,
    daemon: Option<Child>,
}

impl Engine {
    /// Starts one, if that can be done here.
    fn start() -> Option<Self> {
        // SAFETY of the machine: it takes root, and everything happens in namespaces.
        if !has("unshare", &["--net", "--mount", "--pid", "--fork", "true"])
            || !has("dockerd", &["--version"])
            || !has("docker", &["--version"])
            || !has("musl-gcc", &["--version"])
        {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", "ip link set lo up; exec sleep infinity"])
            .spawn()
            .expect("unshare starts");
        let mut engine = Self { directory, holder, daemon: None };
        engine.start_daemon();
        engine.make_image();
        Some(engine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn socket(&self) -> String {
        self.path("docker.sock").display().to_string()
    }

    fn start_daemon(&mut self) {
        let holder = self.holder.id();
        // What `unshare` has started is in the namespaces; it takes a moment.
        let mut inner = String::new();
        wait_until("the namespaces are there", || {
            let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children"));
            inner = children.unwrap_or_default().trim().to_owned();
            !inner.is_empty()
        });
        let log = fs::File::options().create(true).append(true).open(self.path("dockerd.log")).unwrap();
        let dir = |name: &str| self.path(name).display().to_string();
        let daemon = Command::new("nsenter")
            .args(["--target", &inner, "--net", "--mount", "--pid", "dockerd", "--live-restore"])
            .args(["--host", &format!("unix://{}", self.socket()), "--data-root", &dir("data")])
            .args(["--exec-root", &dir("exec"), "--pidfile", &dir("dockerd.pid")])
            .args(["--iptables=false", "--ip6tables=false", "--ip-masq=false", "--storage-driver=vfs"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("dockerd starts");
        self.daemon = Some(daemon);
        let begin = Instant::now();
        while !self.docker(&["info"]).output().is_ok_and(|output| output.status.success()) {
            let log = || fs::read_to_string(self.path("dockerd.log")).unwrap_or_default();
            assert!(begin.elapsed() < Duration::from_secs(60), "dockerd does not serve: {}", log());
            std::thread::sleep(Duration::from_millis(100));
        }
    }

    /// Ends the daemon, and leaves the containers running.
    fn stop_daemon(&mut self) {
        let mut daemon = self.daemon.take().expect("it runs");
        // `nsenter` has forked to be in the other process namespace: what it waits for is the daemon.
        let nsenter = daemon.id();
        let children = fs::read_to_string(format!("/proc/{nsenter}/task/{nsenter}/children")).unwrap();
        assert!(Command::new("kill").args(["-TERM", children.trim()]).status().unwrap().success());
        daemon.wait().unwrap();
    }

    fn docker(&self, args: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.args(["--host", &format!("unix://{}", self.socket())]).args(args);
        command
    }

    fn run(&self, args: &[&str]) -> String {
        stdout(&mut self.docker(args)).trim().to_owned()
    }

    fn make_image(&self) {
        let source = self.path("wait.c");
        fs::write(&source, WAITING).unwrap();
        stdout(Command::new("musl-gcc").args(["-static", "-Os", "-o"]).arg(self.path("wait")).arg(&source));
        let tar = self.path("image.tar");
        stdout(
            Command::new("tar")
                .arg("--create")
                .arg("--file")
                .arg(&tar)
                .arg("--directory")
                .arg(self.directory.path())
                .arg("wait"),
        );
        self.run(&["import", "--change", "CMD [\"/wait\"]", tar.to_str().unwrap(), "wait"]);
    }

    /// Starts a container, and returns its id.
    fn container(&self, args: &[&str]) -> String {
        self.run(&[&["run", "--detach"], args, &["wait"]].concat())
    }

    fn address(&self, container: &str, network: &str) -> IpAddr {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.run(&["inspect", "--format", &format, container]).parse().expect("an address")
    }

    fn serve(&self, args: &[&str]) -> (Server, String) {
        start(&[&[&*format!("--docker={}", self.socket())], args].concat())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // As far as that can still be done: with the holder all of it ends.
        if let Ok(output) = self.docker(&["ps", "--all", "--quiet"]).output() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let ids: Vec<_> = text.split_whitespace().collect();
            if !ids.is_empty() {
                let _ = self.docker(&[&["rm", "--force"], &ids[..]].concat()).output();
            }
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        if let Some(mut daemon) = self.daemon.take() {
            let _ = daemon.wait();
        }
    }
}

fn wait_for(server: &Server, name: &str, expected: &[IpAddr]) {
    let mut expected = expected.to_vec();
    expected.sort();
    wait_until(&format!("{name} has {expected:?}"), || addresses(server, name) == expected);
}

#[test]
fn containers_have_their_names_for_as_long_as_they_run() {
    let Some(engine) = Engine::start() else { return };
    // One that runs already.
    engine.container(&["--name", "early"]);
    let (server, at) = engine.serve(&[]);
    wait_for(&server, "early", &[engine.address("early", "bridge")]);
    engine.run(&["network", "create", "back"]);
    let id = engine.container(&[
        "--name",
        "db",
        "--hostname",
        "postgres",
        "--network",
        "back",
        "--network-alias",
        "store",
    ]);
    let db = engine.address("db", "back");
    for name in ["db", "postgres", "store"] {
        wait_for(&server, name, &[db]);
    }
    wait_for(&server, &id[..12], &[]);
    // In a second network it has a second address, and none of the first one's aliases there.
    engine.run(&["network", "create", "front"]);
    engine.run(&["network", "connect", "--alias", "shared", "front", "db"]);
    let front = engine.address("db", "front");
    wait_for(&server, "shared", &[front]);
    wait_until("db has all its addresses", || addresses(&server, "db").contains(&front));
    engine.run(&["network", "disconnect", "front", "db"]);
    wait_for(&server, "shared", &[]);
    engine.run(&["rename", "db", "database"]);
    wait_until("it has its new name", || addresses(&server, "database").contains(&db));
    wait_for(&server, "db", &[]);
    engine.run(&["pause", "database"]);
    wait_for(&server, "database", &[]);
    engine.run(&["unpause", "database"]);
    wait_until("it is back", || addresses(&server, "database").contains(&db));
    // Its registrations are the Engine's to change.
    assert_eq!(send(&at, "DELETE", &format!("/v1/instances/docker:{}", &id[..12]), "", "").status, 400);
    assert_eq!(run(&["remove", "database", "--control", &at]).status.code(), Some(1));
    engine.run(&["stop", "database"]);
    wait_for(&server, "database", &[]);
    engine.run(&["kill", "early"]);
    wait_for(&server, "early", &[]);
    let left = get(&at, "/v1/names").json();
    let left: Vec<_> = left.as_array().unwrap().iter().filter(|it| it["instance"] != "node").collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn labels_health_and_networks_say_what_is_registered() {
    let Some(engine) = Engine::start() else { return };
    engine.run(&["network", "create", "back"]);
    let (server, at) = engine.serve(&["--docker-network", "back"]);
    engine.container(&["--name", "elsewhere"]);
    engine.container(&["--name", "ignored", "--network", "back", "--label", "redbreast.ignore=true"]);
    let labels = ["redbreast.name=api,admin", "redbreast.weight=7", "redbreast.port=_pg._tcp:5432"];
    let labels = labels.map(|label| ["--label", label]).concat();
    let check = ["--health-cmd", "none", "--health-interval", "1s", "--health-retries", "1"];
    engine.container(&[&["--name", "labelled", "--network", "back"], &labels[..], &check].concat());
    let address = engine.address("labelled", "back");
    wait_for(&server, "api", &[address]);
    wait_for(&server, "admin", &[address]);
    assert!(addresses(&server, "labelled").is_empty());
    assert_eq!((addresses(&server, "elsewhere"), addresses(&server, "ignored")), (vec![], vec![]));
    let explained = || get(&at, "/v1/explain/api").json()["records"][0].clone();
    assert_eq!(explained()["weight"], 7);
    // There is no shell in the image, so its own check fails; it is all there is, and stays in answers.
    wait_until("it is unhealthy", || explained()["health"] == "down");
    assert_eq!(addresses(&server, "api"), [address]);
    engine.container(&["--name", "second", "--network", "back", "--label", "redbreast.name=api"]);
    wait_for(&server, "api", &[engine.address("second", "back")]);
    // A label that makes no sense: the container is left out, and the log says which and why.
    engine.container(&["--name", "wrong", "--network", "back", "--label", "redbreast.weight=heavy"]);
    wait_until("the log says why", || {
        server.log().contains("wrong: label redbreast.weight=heavy: expected a number")
    });
    assert!(addresses(&server, "wrong").is_empty());
    // For scripts of weaveDNS: whoever runs is registered, whoever does not is not.
    let put = |container: &str, ip: &str| {
        let path = format!("/name/{container}/{ip}?fqdn=extra.redbreast.internal&check-alive=true");
        send(&at, "PUT", &path, "", "").status
    };
    assert_eq!((put("second", "10.3.0.1"), put("nobody", "10.3.0.2")), (204, 204));
    wait_for(&server, "extra", &["10.3.0.1".parse().unwrap()]);
    // One that is not to be registered by itself runs, too.
    assert_eq!(put("ignored", "10.3.0.3"), 204);
    wait_for(&server, "extra", &["10.3.0.1", "10.3.0.3"].map(|text| text.parse().unwrap()));
}

#[test]
fn an_engine_that_goes_and_comes_back_is_believed_again() {
    let Some(mut engine) = Engine::start() else { return };
    let data = engine.path("redbreast").display().to_string();
    let (server, at) = engine.serve(&["--data-dir", &data]);
    engine.container(&["--name", "stays"]);
    engine.container(&["--name", "ends"]);
    let (stays, ends) = (engine.address("stays", "bridge"), engine.address("ends", "bridge"));
    wait_for(&server, "ends", &[ends]);
    wait_for(&server, "stays", &[stays]);
    let pid = engine.run(&["inspect", "--format", "{{.State.Pid}}", "ends"]);
    engine.stop_daemon();
    wait_until("it is told", || server.log().contains("containers stay as they were until it is back"));
    assert_eq!(addresses(&server, "stays"), [stays], "nobody says that it has ended");
    // Meanwhile one ends, which nobody tells. Its process id is one of the namespaces'.
    let inner = fs::read_to_string(format!("/proc/{0}/task/{0}/children", engine.holder.id())).unwrap();
    let kill = ["--target", inner.trim(), "--pid", "--mount", "kill", "-KILL", &pid];
    assert!(Command::new("nsenter").args(kill).status().unwrap().success());
    engine.start_daemon();
    wait_for(&server, "ends", &[]);
    wait_for(&server, "stays", &[stays]);
    // While this node is down, another one ends; after a start from disk nothing is left of it.
    assert_eq!(
        send_json(&at, "POST", "/v1/names", &json!({"name": "kept", "addresses": ["10.3.0.9"]})).status,
        200
    );
    server.stop();
    engine.run(&["kill", "stays"]);
    let (server, _) = engine.serve(&["--data-dir", &data]);
    wait_for(&server, "kept", &["10.3.0.9".parse().unwrap()]);
    wait_for(&server, "stays", &[]);
}

#[test]
fn a_socket_that_is_missing_or_denied_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let missing = directory.path().join("docker.sock");
    let (server, _) = start(&[&format!("--docker={}", missing.display())]);
    wait_until("it is told", || server.log().contains("no events of the Docker Engine at"));
    // A socket that is of somebody else.
    let _held = std::os::unix::net::UnixListener::bind(&missing).unwrap();
    if !has("setpriv", &["--reuid=65534", "--clear-groups", "true"]) {
        return;
    }
    let binary = copy_for_all(directory.path());
    fs::set_permissions(&missing, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary)
        .args(["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0"])
        .arg(format!("--docker={}", missing.display()))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("cannot use the Docker Engine's socket") && text.contains("its group"), "{text}");
}

/// The binary where a user without rights can run it.
fn copy_for_all(directory: &Path) -> PathBuf {
    let binary = directory.join("redbreast");
    fs::copy(env!("CARGO_BIN_EXE_redbreast"), &binary).unwrap();
    fs::set_permissions(&binary, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    binary
}

/// How soon a container answers by its name after it has started, and is gone after it has died, by Docker's own clock.
/// For `scripts/docker-latency`, on a machine that does nothing else.
#[test]
fn names_follow_containers_at_once() {
    let Some(engine) = Engine::start() else { return };
    let (server, _) = engine.serve(&[]);
    let rounds: usize =
        std::env::var("REDBREAST_DOCKER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(2);
    let mut took = Vec::new();
    for round in 0..rounds {
        let name = format!("round-{round}");
        let (born, died) = std::thread::scope(|scope| {
            let seen = scope.spawn(|| seen(&server, &name));
            engine.container(&["--name", &name]);
            std::thread::sleep(Duration::from_millis(100));
            engine.run(&["kill", &name]);
            seen.join().unwrap()
        });
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let now = format!("{}.{:09}", now.as_secs(), now.subsec_nanos());
        let event = |action: &str| -> SystemTime {
            let filters = ["--filter", &format!("container={name}"), "--filter", &format!("event={action}")]
                .map(str::to_owned);
            let text = stdout(
                engine
                    .docker(&["events", "--since", "1m", "--until", &now, "--format", "{{.TimeNano}}"])
                    .args(filters),
            );
            let ns: u64 = text.lines().next().expect("there was one").trim().parse().unwrap();
            SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
        };
        let after = |seen: SystemTime, event: SystemTime| seen.duration_since(event).unwrap_or_default();
        took.push((after(born, event("start")), after(died, event("die"))));
    }
    let slowest = |of: fn(&(Duration, Duration)) -> Duration| took.iter().map(of).max().unwrap();
    let (start, die) = (slowest(|it| it.0), slowest(|it| it.1));
    println!(
        "of {rounds} containers, slowest: answered {start:?} after its start, gone {die:?} after its death: {took:?}"
    );
    // A busy machine may take longer than an idle one.
    let limit = if std::env::var_os("REDBREAST_DOCKER_ROUNDS").is_some() { 100 } else { 2_000 };
    assert!(start.max(die) <= Duration::from_millis(limit), "{took:?}");
}

/// When a name has its first address, and when it has none any more.
fn seen(server: &Server, name: &str) -> (SystemTime, SystemTime) {
    let wait = |there: bool| {
        wait_until(name, || addresses(server, name).is_empty() != there);
        SystemTime::now()
    };
    (wait(true), wait(false))
}
