//! The control listener: what can be asked of it, by whom, and what it makes of nonsense.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Server, ask, has, query, redbreast, run, wait_until};
use crate::http::{exchange, get, json as send_json, send};

/// A server alone, and where its control listener is.
pub(crate) fn start(args: &[&str]) -> (Server, String) {
    let server = Server::start(args);
    let log = server.log();
    let control = log.split("control at ").nth(1).and_then(|rest| rest.split_whitespace().next());
    (server, control.expect("it says where").to_owned())
}

/// The addresses that a name has in answers.
pub(crate) fn addresses(server: &Server, name: &str) -> Vec<IpAddr> {
    let answer = ask(&server.client(), &query(9, &format!("{name}.redbreast.internal"), 1));
    let count = usize::from(answer[7]);
    let last = |i: usize| {
        let end = answer.len() - 16 * i;
        IpAddr::from(<[u8; 4]>::try_from(&answer[end - 4..end]).expect("four bytes"))
    };
    let mut found: Vec<_> = (0..count).map(last).collect();
    found.sort();
    found
}

fn wait_for(server: &Server, name: &str, expected: &[&str]) {
    let expected: Vec<IpAddr> = expected.iter().map(|text| text.parse().unwrap()).collect();
    wait_until(&format!("{name} has {expected:?}"), || addresses(server, name) == expected);
}

fn changed(answer: &crate::http::Answer) -> [u64; 3] {
    assert_eq!(answer.status, 200, "{answer:?}");
    ["added", "unchanged", "removed"].map(|field| answer.json()[field].as_u64().expect(field))
}

#[test]
fn names_addresses_and_instances_are_put_and_deleted() {
    let (server, at) = start(&[]);
    let two = json!({"addresses": ["10.0.0.1", "10.0.0.2"]});
    assert_eq!(changed(&send_json(&at, "PUT", "/v1/names/web", &two)), [2, 0, 0]);
    wait_for(&server, "web", &["10.0.0.1", "10.0.0.2"]);
    let other = json!({"addresses": ["10.0.0.2", "10.0.0.3"], "ttl_s": 9});
    assert_eq!(changed(&send_json(&at, "PUT", "/v1/names/web", &other)), [2, 0, 1]);
    assert_eq!(changed(&send_json(&at, "PUT", "/v1/names/web", &other)), [0, 2, 0]);
    wait_for(&server, "web", &["10.0.0.2", "10.0.0.3"]);
    let path = "/v1/names/web/addresses/10.0.0.4?weight=7&instance=c1";
    assert_eq!(changed(&send(&at, "PUT", path, "", "")), [1, 0, 0]);
    wait_for(&server, "web", &["10.0.0.2", "10.0.0.3", "10.0.0.4"]);
    assert_eq!(get(&at, "/v1/addresses/10.0.0.4").json()[0]["instance"], "c1");
    assert_eq!(changed(&send(&at, "DELETE", "/v1/names/web/addresses/10.0.0.3", "", "")), [0, 0, 1]);
    wait_for(&server, "web", &["10.0.0.2", "10.0.0.4"]);
    // An instance has what it is put with, and nothing else.
    let of_instance = json!([
        {"name": "web", "addresses": ["10.0.0.5"]},
        {"name": "db", "addresses": ["10.0.0.6"], "port": 5432, "service": "_pg._tcp"},
    ]);
    assert_eq!(changed(&send_json(&at, "PUT", "/v1/instances/c1", &of_instance)), [3, 0, 1]);
    wait_for(&server, "web", &["10.0.0.2", "10.0.0.5"]);
    assert_eq!(get(&at, "/v1/instances/c1").json().as_array().map(Vec::len), Some(3));
    let told = get(&at, "/v1/instances").json();
    assert!(told.as_array().unwrap().iter().any(|it| it["instance"] == "c1" && it["registrations"] == 3));
    assert_eq!(changed(&send(&at, "DELETE", "/v1/addresses/10.0.0.2", "", "")), [0, 0, 1]);
    assert_eq!(changed(&send(&at, "DELETE", "/v1/instances/c1", "", "")), [0, 0, 3]);
    wait_for(&server, "web", &[]);
    wait_for(&server, "db", &[]);
}

#[test]
fn a_batch_is_done_wholly_or_not_at_all() {
    let (server, at) = start(&[]);
    let add = |name: &str, address: &str| json!({"add": {"name": name, "addresses": [address]}});
    let first = json!([add("a", "10.0.0.1"), add("b", "10.0.0.2"), add("c", "10.0.0.3")]);
    assert_eq!(changed(&send_json(&at, "POST", "/v1/batch", &first)), [3, 0, 0]);
    let mixed = json!([
        {"remove": {"name": "a"}},
        {"replace": {"name": "b", "addresses": ["10.0.0.7", "10.0.0.2"]}},
        {"remove": {"addresses": ["10.0.0.3"]}},
        add("a", "10.0.0.8"),
    ]);
    assert_eq!(changed(&send_json(&at, "POST", "/v1/batch", &mixed)), [2, 1, 2]);
    wait_for(&server, "a", &["10.0.0.8"]);
    wait_for(&server, "b", &["10.0.0.2", "10.0.0.7"]);
    wait_for(&server, "c", &[]);
    for (wrong, told) in [
        (json!([add("d", "10.0.0.9"), add("bad..name", "10.0.0.9")]), "item 2, nothing was changed"),
        (json!([{"remove": {"name": "b"}}, {"remove": {}}]), "say what is to be removed"),
        (json!([{"remove": {"name": "b"}}, {"erase": {}}]), "item 2"),
        (json!([{"remove": {"name": "b", "instance": "files"}}]), "the node's own"),
    ] {
        let answer = send_json(&at, "POST", "/v1/batch", &wrong);
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.problem().contains(told), "{wrong}: {answer:?}");
    }
    wait_for(&server, "b", &["10.0.0.2", "10.0.0.7"]);
    wait_for(&server, "d", &[]);
}

#[test]
fn nonsense_is_refused_with_what_was_wrong_and_changes_nothing() {
    let (server, at) = start(&[]);
    let one = |field: &str, value: Value| {
        let mut body = json!({"name": "web", "addresses": ["10.0.0.1"]});
        body[field] = value;
        body.to_string()
    };
    let label = "x".repeat(64);
    for (body, told) in [
        (one("name", json!("a b")), "a b"),
        (one("name", json!("a.")), "redbreast.internal"),
        (one("name", json!("web.example.com")), "redbreast.internal"),
        (one("name", json!(label)), "63"),
        (one("addresses", json!(["10.0.0.256"])), "IP address"),
        (one("addresses", json!([])), "needs an address"),
        (one("addresses", json!("10.0.0.1")), "addresses"),
        (one("ttl_s", json!(-1)), "ttl_s"),
        (one("ttl_s", json!(4_294_967_295u32)), "2147483647"),
        (one("weight", json!(65_536)), "65535"),
        (one("tier", json!(16)), "15"),
        (one("instance", json!("docker:abc")), "the node's own"),
        (one("colour", json!("red")), "colour"),
        ("{".into(), "EOF"),
        ("[1]".into(), "item 1"),
        (String::new(), "EOF"),
    ] {
        let answer = send(&at, "POST", "/v1/names", "content-type: application/json\r\n", &body);
        assert_eq!(answer.status, 400, "{body}: {answer:?}");
        assert!(answer.problem().contains(told), "{body}: {}", answer.problem());
    }
    let answer = send(&at, "POST", "/v1/names", "", "{}");
    assert_eq!(answer.status, 415, "no type: {answer:?}");
    assert_eq!(get(&at, "/v2/names").status, 404);
    assert_eq!(send(&at, "PATCH", "/v1/names", "", "").status, 405);
    assert_eq!(send(&at, "PUT", "/v1/names/web/addresses/nowhere", "", "").status, 400);
    assert_eq!(
        send_json(&at, "PUT", "/v1/names/a", &json!({"name": "b", "addresses": ["10.0.0.1"]})).status,
        400
    );
    wait_for(&server, "web", &[]);
}

#[test]
fn huge_slow_and_many_clients_are_let_go_and_others_served() {
    let (server, at) = start(&[]);
    // A body of 100 MB is refused by its length, before it is sent.
    let head = format!("POST /v1/names HTTP/1.1\r\nhost: {at}\r\ncontent-type: application/json\r\n");
    let huge = format!("{head}content-length: 100000000\r\n\r\n[");
    assert_eq!(exchange(&at, huge.as_bytes()).status, 413);
    // One that is longer than it says, or says nothing, is read no further than to the limit.
    let chunk = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
    let endless = format!("{head}transfer-encoding: chunked\r\n\r\n{}1\r\n \r\n", chunk.repeat(64));
    assert_eq!(exchange(&at, endless.as_bytes()).status, 413);
    // Slow ones: as many connections as there can be, each of which has begun a request and says nothing more.
    let begin = Instant::now();
    let mut slow: Vec<_> = (0..700)
        .filter_map(|_| {
            let mut stream = TcpStream::connect(&at).ok()?;
            stream.write_all(b"GET / HTTP/1.1\r\nx: ").ok()?;
            Some(stream)
        })
        .collect();
    wait_until("there is room again", || {
        TcpStream::connect(&at).is_ok_and(|mut stream| {
            let request = format!("GET /health HTTP/1.1\r\nhost: {at}\r\nconnection: close\r\n\r\n");
            let mut answer = String::new();
            stream.write_all(request.as_bytes()).is_ok()
                && stream.read_to_string(&mut answer).is_ok()
                && answer.starts_with("HTTP/1.1 200")
        })
    });
    assert!(begin.elapsed() < Duration::from_secs(18), "{:?}", begin.elapsed());
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
        let mut rest = Vec::new();
        // Told that it was too slow, or that there was no room; or just hung up on.
        assert!(stream.read_to_end(&mut rest).is_ok() || begin.elapsed() < Duration::from_secs(15));
    }
    // Who answers DNS has not noticed.
    assert_eq!(addresses(&server, "nobody"), Vec::<IpAddr>::new());
    let pid = server.child.id();
    let open = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    drop(slow);
    wait_until("nothing is left open", || open() < 60);
}

#[test]
fn beyond_loopback_a_token_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("token");
    let file = file.to_str().unwrap();
    let refused = run(&["serve", "--listen", "127.0.0.1:0", "--control", "0.0.0.0:0"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--control-token-file"));
    fs::write(file, "0123456789abcdef0123\n").unwrap();
    fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    let open_to_all =
        run(&["serve", "--control", "127.0.0.1:0", "--control-token-file", file, "--listen", "127.0.0.1:0"]);
    assert_eq!(open_to_all.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&open_to_all.stderr).contains("chmod 600"));
    fs::set_permissions(file, PermissionsExt::from_mode(0o600)).unwrap();
    fs::write(file, "short\n").unwrap();
    let guessable =
        run(&["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--control-token-file", file]);
    assert_eq!(guessable.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&guessable.stderr).contains("token:1: a token has at least 16"));
    fs::write(file, "0123456789abcdef0123\n").unwrap();
    let mut command = redbreast();
    command.args([
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--control",
        "0.0.0.0:0",
        "--control-token-file",
        file,
    ]);
    let server = Server::spawn(&mut command);
    let log = server.log();
    let port =
        log.split("control at 0.0.0.0:").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    let at = format!("127.0.0.1:{port}");
    let with =
        |token: &str| send(&at, "GET", "/v1/names", &format!("authorization: Bearer {token}\r\n"), "").status;
    assert_eq!(get(&at, "/v1/names").status, 401);
    assert_eq!(with("0123456789abcdef0124"), 401);
    assert_eq!(with("0123456789abcdef0123"), 200);
    assert_eq!(get(&at, "/health").status, 200);
    assert_eq!(run(&["names", "--control", &at]).status.code(), Some(2));
    assert!(run(&["add", "web", "10.0.0.1", "--control", &at, "--token-file", file]).status.success());
    wait_for(&server, "web", &["10.0.0.1"]);
}

#[test]
fn pages_of_others_cannot_ask_by_way_of_a_browser() {
    let (_server, at) = start(&[]);
    let rebound =
        exchange(&at, b"DELETE /v1/names/web HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n");
    assert_eq!(rebound.status, 403);
    assert_eq!(send(&at, "DELETE", "/v1/names/web", "origin: https://evil.example\r\n", "").status, 403);
    assert_eq!(send(&at, "DELETE", "/v1/names/web", &format!("origin: http://{at}\r\n"), "").status, 200);
}

#[test]
fn prometheus_reads_the_metrics() {
    let (server, at) = start(&["--workers", "2"]);
    for i in 0..40 {
        assert_eq!(addresses(&server, &format!("nobody-{i}")), Vec::<IpAddr>::new());
    }
    let Some(metrics) = Metrics::read(&at) else { return };
    assert_eq!(metrics.sum("redbreast_dns_events_total nxdomain"), 40.0, "{metrics:?}");
    assert_eq!(metrics.sum("redbreast_members "), 1.0);
    assert!(metrics.sum("redbreast_dns_batch_duration_seconds_count") >= 2.0, "{metrics:?}");
    assert!(metrics.sum("redbreast_uptime_seconds") > 0.0);
}

/// The metrics of a node, as Prometheus reads them: a line for each, with its name, its event if it has one, and its
/// value.
#[derive(Debug)]
pub(crate) struct Metrics(String);

impl Metrics {
    /// Nothing without Prometheus's own parser.
    pub(crate) fn read(at: &str) -> Option<Self> {
        let answer = get(at, "/metrics");
        assert!(answer.head.contains("application/openmetrics-text; version=1.0.0"), "{answer:?}");
        let is_there = has("/usr/bin/python3", &["-c", "import prometheus_client.openmetrics.parser"]);
        is_there.then(|| Self(parse_metrics(&answer.body)))
    }

    /// The sum of all whose lines begin so.
    pub(crate) fn sum(&self, start: &str) -> f64 {
        let lines = self.0.lines().filter(|line| line.starts_with(start));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }
}

fn parse_metrics(text: &str) -> String {
    let script = "import sys; from prometheus_client.openmetrics.parser import text_string_to_metric_families as \
                  parse\n\
                  for family in parse(sys.stdin.read()):\n  for it in family.samples: print(it.name, \
                  it.labels.get('event', ''), it.value)";
    let mut parser = Command::new("/usr/bin/python3")
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python starts");
    parser.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = parser.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_node_is_ready_when_it_knows_what_the_cluster_knows() {
    let (_server, at) = start(&[]);
    assert_eq!((get(&at, "/ready").status, get(&at, "/health").status), (200, 200));
    // Its seed is nobody: it waits for a while, and is then a cluster of its own.
    let (_server, at) = start(&["--gossip", "127.0.0.1:0", "--join", "127.0.0.1:9"]);
    let answer = get(&at, "/ready");
    assert_eq!((answer.status, &answer.json()["status"]), (503, &json!("starting")), "{answer:?}");
    assert_eq!(answer.json()["waits_for"], "an answer of one of its seeds");
    assert_eq!(get(&at, "/health").status, 200);
    wait_until("it is ready", || get(&at, "/ready").status == 200);
}

#[test]
fn changes_are_told_as_they_come() {
    let (server, at) = start(&[]);
    let mut watch = redbreast()
        .args(["watch", "--count", "2", "--json", "--control", &at])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let add = json!({"name": "web", "addresses": ["10.0.0.1"]});
    // It may not listen yet.
    wait_until("both changes are told", || {
        send_json(&at, "POST", "/v1/names", &add);
        wait_for(&server, "web", &["10.0.0.1"]);
        send(&at, "DELETE", "/v1/names/web", "", "");
        wait_for(&server, "web", &[]);
        watch.try_wait().expect("our child").is_some()
    });
    let output = watch.wait_with_output().unwrap();
    assert!(output.status.success());
    let lines: Vec<Value> = output
        .stdout
        .split(|byte| *byte == b'\n')
        .filter_map(|line| serde_json::from_slice(line).ok())
        .collect();
    assert_eq!(lines.len(), 2);
    let counts: Vec<_> = lines.iter().map(|line| line["registrations"].as_array().map(Vec::len)).collect();
    assert!(counts == [Some(1), Some(0)] || counts == [Some(0), Some(1)], "{lines:?}");
    assert!(lines.iter().all(|line| line["name"] == "web.redbreast.internal." && line["event"] == "name"));
}

#[test]
fn a_name_is_looked_up_where_the_node_answers() {
    let (_server, at) = start(&[]);
    assert!(run(&["add", "web", "10.0.0.1", "fd00::1", "--control", &at]).status.success());
    wait_until("it is answered", || run(&["lookup", "web", "--control", &at]).status.success());
    let output = run(&["lookup", "web", "--control", &at, "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let data: Vec<_> =
        told["records"].as_array().unwrap().iter().map(|it| it["data"].as_str().unwrap()).collect();
    assert_eq!(data, ["10.0.0.1", "fd00::1"]);
    let output = run(&["lookup", "nobody", "--control", &at]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody.redbreast.internal. does not exist"));
    assert_eq!(run(&["lookup", "web", "TXT", "--control", &at]).status.code(), Some(1));
    assert_eq!(run(&["lookup", "web", "NOTYPE", "--control", &at]).status.code(), Some(2));
}

#[test]
fn shells_and_manuals_have_all_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let output = run(&["completions", shell]);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("explain"), "{shell}");
    }
    let directory = tempfile::tempdir().unwrap();
    assert!(run(&["man", directory.path().to_str().unwrap()]).status.success());
    let page = fs::read_to_string(directory.path().join("redbreast-serve.1")).unwrap();
    assert!(page.contains("control\\-token\\-file"), "{page}");
    assert_eq!(run(&["man", "/nowhere"]).status.code(), Some(2));
}

#[test]
fn the_description_of_the_api_has_every_path_that_there_is_and_no_other() {
    // With somebody to ask there is a cache.
    let (_server, at) = start(&["--upstream", "127.0.0.1:9"]);
    let description = get(&at, "/v1/openapi.json").json();
    let paths = description["paths"].as_object().expect("paths");
    for (path, methods) in paths {
        // A path that streams has no end.
        if path == "/v1/watch" {
            continue;
        }
        let path = path.replace("{name}", "web").replace("{address}", "10.0.0.1").replace("{scope}", "web");
        let path = path.replace("{what}", "address").replace("{of}", "10.0.0.1").replace("{instance}", "c1");
        let path = path.replace("{container}", "c1").replace("{ip}", "10.0.0.1");
        for method in ["get", "put", "post", "delete"] {
            let described = methods.get(method).is_some();
            let answer = send(&at, &method.to_uppercase(), &path, "", "");
            assert!(answer.status != 404 || path == "/dns-address", "{method} {path}: {answer:?}");
            assert_eq!(described, answer.status != 405, "{method} {path}: {answer:?}");
        }
    }
    // The other way round: what the router has is in the description.
    let source =
        |file| fs::read_to_string(format!("{}/src/{file}", env!("CARGO_MANIFEST_DIR"))).expect("it is there");
    let (own, of_weave) = (source("api/paths.rs"), source("http/weave.rs"));
    let own = own.split("&str = \"").skip(1);
    let routes: Vec<_> = own.chain(of_weave.split(".route(\"").skip(1)).collect();
    assert!(routes.len() > 20, "{routes:?}");
    for route in routes.iter().filter_map(|rest| rest.split('"').next()) {
        assert!(paths.contains_key(route), "{route} is not in docs/openapi.json");
    }
}
