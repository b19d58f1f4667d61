//! `redbreast spread`, and the experiment that shows why: who gets the traffic in fact.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::harness::{Server, has, run, stdout};
use crate::nodes::{Node, temp};

fn spread(server: &Server, args: &[&str]) -> (Option<i32>, String, String) {
    let address = server.address.to_string();
    let output = run(&[&["spread", "web.redbreast.internal", "-s", &address], args].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json(told: &str) -> Value {
    serde_json::from_str(told).unwrap_or_else(|error| panic!("{error}: {told}"))
}

#[test]
fn it_says_who_would_get_the_traffic_and_what_clients_make_of_it() {
    let directory = temp();
    let node = Node::start(directory.path(), "n1", &["--ecs-from", "127.0.0.0/8"]);
    for (last, weight) in [(3, "10"), (4, "30"), (5, "20"), (6, "20"), (7, "20")] {
        node.verb(&["add", "web", &format!("10.0.0.{last}"), "--weight", weight]);
    }
    let subnet = ["--subnet", "10.0.0.2/24", "--control", &node.control, "--json"];
    let (status, told, error) = spread(&node.server, &subnet);
    assert_eq!(status, Some(0), "{error}");
    let results = json(&told);
    assert_eq!(results["intended"], serde_json::json!([0.1, 0.3, 0.2, 0.2, 0.2]));
    let off = |results: &Value, i: usize| results["spreads"][i]["max_deviation_points"].as_f64().unwrap();
    let p = |results: &Value, i: usize| results["spreads"][i]["chi_squared"]["p"].as_f64().unwrap();
    assert!(off(&results, 0) < 2.5 && p(&results, 0) > 1e-6, "as answered: {told}");
    assert!(off(&results, 1) > 60.0 && p(&results, 1) < 1e-6, "glibc takes .3 always: {told}");

    // Asked as that client, the name is answered such that sorting changes nothing.
    node.verb(&["policy", "web", "rfc6724"]);
    let page = directory.path().join("page.html");
    let as_client = ["--ecs", "--within", "2.5", "--html", page.to_str().unwrap()];
    let (status, told, error) = spread(&node.server, &[&subnet[..], &as_client].concat());
    assert_eq!(status, Some(0), "{error}");
    let results = json(&told);
    assert!(results["addresses_per_answer"].as_f64().unwrap() > 2.0, "{told}");
    assert_eq!(results["policy"], "rfc6724");
    let page = fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.contains("10.0.0.4") && !page.contains("http-equiv"));

    // What is off fails where that is asked for; other clients, other shares.
    node.verb(&["policy", "web", "hash,answers=one"]);
    let (status, told, error) = spread(&node.server, &["--within", "5", "--control", &node.control]);
    assert!(status == Some(1) && error.contains("percentage points off; 5 are allowed"), "{told}{error}");
    let many =
        ["--subnet", "192.168.0.0/16", "--ecs", "-c", "5000", "--control", &node.control, "--within", "4"];
    let (status, told, error) = spread(&node.server, &many);
    assert_eq!(status, Some(0), "{told}{error}");
    assert!(told.contains("10000 answers to 5000 clients"), "{told}");
}

#[test]
fn it_says_what_is_wrong() {
    let directory = temp();
    let node = Node::start(directory.path(), "n1", &[]);
    for (args, status, told) in [
        (&[][..], 1, "gave no address for web.redbreast.internal"),
        (&["--subnet", "10.0.0.0/33"], 2, "no length of a prefix, from 0 to 32"),
        (&["--weights", "10.0.0.1=x"], 2, "\"x\" is no weight"),
        (&["--weights", "10.0.0.1=0"], 2, "all --weights are 0"),
        (&["--ecs"], 2, "--subnet"),
        (&["-n", "0"], 2, "0 is not in 1.."),
        (&["--subnet", "192.0.2.1", "--bind"], 1, "as client 1: "),
    ] {
        let (code, out, error) = spread(&node.server, args);
        assert!(code == Some(status) && error.contains(told), "{args:?}: {code:?} {out}{error}");
    }
}

#[test]
fn the_c_library_can_do_the_choosing() {
    // Every machine has an address for itself.
    let output = run(&["spread", "localhost", "--resolver", "getaddrinfo", "-n", "20", "--json"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        // It may have an IPv6 address first.
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(error.contains("gave no address for localhost"), "{error}");
        return;
    }
    let results = json(&told);
    assert_eq!((&results["answers"], &results["spreads"][0]["chooser"]), (&20.into(), &"getaddrinfo".into()));
    assert!(results["addresses"].as_array().unwrap().contains(&"127.0.0.1".into()), "{told}");
}

/// The script itself fails if a policy does not hold to what it promises.
#[test]
fn the_experiment_shows_that_sorting_undoes_a_shuffle_and_not_rfc6724() {
    let unshare = ["--map-root-user", "--net", "--mount", "--pid", "--fork", "true"];
    if !has("unshare", &unshare) || !has("ip", &["-V"]) || !has("gcc", &["--version"]) {
        return;
    }
    if !has("musl-gcc", &["--version"]) || !has("python3", &["--version"]) {
        return;
    }
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/load-balancing");
    let binary = env!("CARGO_BIN_EXE_redbreast");
    let table = stdout(Command::new(script).args(["--binary", binary, "--connections", "2000"]));
    assert_eq!(table.lines().filter(|line| line.contains("rfc6724")).count(), 4, "{table}");
}
