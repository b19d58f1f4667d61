//! Who gets the traffic: policies, weights, tiers and drains, said once and held to by all nodes.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::harness::{Server, ask, query, run, wait_until};
use crate::nodes::{Node, temp, trio};

/// The last bytes of the addresses that it answers, in the order of the answer.
fn in_order(server: &Server, name: &str) -> Vec<u8> {
    let answer = ask(&server.client(), &query(9, &format!("{name}.redbreast.internal"), 1));
    let count = usize::from(answer[7]);
    (0..count).rev().map(|i| answer[answer.len() - 1 - 16 * i]).collect()
}

fn failure(node: &Node, args: &[&str]) -> (Option<i32>, String) {
    let output = run(&[args, &["--control", &node.control]].concat());
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What is said of the record with this data.
fn explained(node: &Node, name: &str, data: &str) -> Value {
    let explanation = node.verb(&["explain", name]);
    let records = explanation["records"].as_array().unwrap();
    records.iter().find(|record| record["data"] == data).unwrap_or_else(|| panic!("{explanation}")).clone()
}

#[test]
fn what_is_drained_at_one_is_in_no_answer_of_any_until_it_is_put_back() {
    let directory = temp();
    let nodes = trio(directory.path(), &[]);
    for (node, address) in nodes.iter().zip(["10.0.0.1", "10.0.0.2", "10.0.0.3"]) {
        node.verb(&["add", "web", address, "--instance", "blue", "--ttl", "2"]);
        node.add("web", "10.0.0.9");
    }
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2, 3, 9]));
    assert!(in_order(&nodes[1].server, "web").contains(&2));

    // Said at a node that has not registered it; and this one answers by it when it has been told that it is so.
    let stated = nodes[0].verb(&["drain", "10.0.0.2"]);
    assert_eq!(
        (&stated["changed"], &stated["names"], &stated["ttl_s"]),
        (&true.into(), &1.into(), &2.into())
    );
    assert_eq!(nodes[0].answers("web"), [1, 3, 9]);
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 3, 9]));
    assert_eq!(explained(&nodes[2], "web", "10.0.0.2")["why_not"], "its address is drained");
    assert_eq!(nodes[1].verb(&["drain", "10.0.0.2"])["changed"], false);
    assert_eq!(nodes[2].verb(&["drain", "--undo", "10.0.0.2"])["changed"], true);
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2, 3, 9]));

    nodes[1].verb(&["drain", "blue"]);
    nodes.iter().for_each(|node| node.wait_for("web", &[9]));
    assert_eq!(explained(&nodes[0], "web", "10.0.0.3")["why_not"], "its instance is drained");
    let stated = nodes[0].verb(&["drain", "10.0.0.9"]);
    assert_eq!(stated["emptied"], serde_json::json!(["web.redbreast.internal."]), "{stated}");
    nodes.iter().for_each(|node| node.wait_for("web", &[]));
    let list = run(&["drain", "--control", &nodes[2].control]);
    assert_eq!(String::from_utf8_lossy(&list.stdout), "address  10.0.0.9 \ninstance blue \n");
    nodes[2].verb(&["drain", "--undo", "10.0.0.9"]);
    nodes[2].verb(&["drain", "--undo", "blue"]);
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2, 3, 9]));

    // A node by its name, and by being asked; what is registered elsewhere, too, stays.
    nodes[0].verb(&["drain", "--node", "n3"]);
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2, 9]));
    nodes[2].verb(&["drain", "--node", "--undo"]);
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2, 3, 9]));

    // The word of a node holds while it is down, and can be taken back without it.
    let [first, second, third] = nodes;
    third.verb(&["drain", "10.0.0.1"]);
    first.wait_for("web", &[2, 3, 9]);
    drop(third);
    first.wait_for("web", &[2, 9]);
    second.wait_for("web", &[2, 9]);
    second.verb(&["drain", "--undo", "10.0.0.1"]);
    first.wait_for("web", &[1, 2, 9]);
}

#[test]
fn a_drain_says_when_clients_that_keep_to_the_ttl_have_forgotten_the_address() {
    let directory = temp();
    let node = Node::start(directory.path(), "n1", &["--ttl", "1"]);
    node.add("web", "10.0.0.1");
    node.add("web", "10.0.0.2");
    let begin = Instant::now();
    let output = run(&["drain", "10.0.0.1", "--control", &node.control]);
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(begin.elapsed() >= Duration::from_secs(1), "{told}");
    assert!(told.contains("address 10.0.0.1 is out of the answers of 1 name, at all nodes"), "{told}");
    assert!(told.contains("its TTL of 1 s has passed"), "{told}");
    let (status, told) = failure(&node, &["drain", "--node", "nobody"]);
    assert!(status == Some(2) && told.contains("there is no node \"nobody\""), "{told}");
    let (status, told) = failure(&node, &["drain", "--undo"]);
    assert!(status == Some(2) && told.contains("say what is to be put back"), "{told}");
    // Nothing has it: that is told, and holds for when something does.
    assert_eq!(node.verb(&["drain", "10.0.0.7"])["names"], 0);
    node.add("web", "10.0.0.7");
    node.wait_for("web", &[2]);
}

#[test]
fn drains_and_policies_survive_the_end_of_the_node_with_a_data_directory() {
    let directory = temp();
    let data = directory.path().join("data");
    let args = ["--data-dir", data.to_str().unwrap()];
    let node = Node::start(directory.path(), "n1", &args);
    for address in ["10.0.0.1", "10.0.0.2", "10.0.0.3"] {
        node.add("web", address);
    }
    node.verb(&["drain", "10.0.0.2"]);
    node.verb(&["policy", "web", "fixed,answers=one"]);
    node.server.stop();
    let node = Node::start(directory.path(), "n1", &args);
    assert_eq!(in_order(&node.server, "web"), [1]);
    node.verb(&["policy", "web", "--remove"]);
    node.wait_for("web", &[1, 3]);
    node.server.stop();
    let node = Node::start(directory.path(), "n1", &args);
    assert_eq!(node.answers("web"), [1, 3]);
}

#[test]
fn a_policy_said_once_is_that_of_all_nodes() {
    let directory = temp();
    let nodes = trio(directory.path(), &["--policy", "*.lab.redbreast.internal=fixed,answers=2"]);
    for name in ["web", "a.lab.redbreast.internal"] {
        for (i, weight) in [(1, "1"), (2, "5"), (3, "3")] {
            nodes[i % 3].verb(&["add", name, &format!("10.0.0.{i}"), "--weight", weight]);
        }
    }
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2, 3]));
    for node in &nodes {
        wait_until("the flag's policy is there", || in_order(&node.server, "a.lab") == [2, 3]);
    }
    nodes[1].verb(&["policy", "web", "fixed"]);
    nodes.iter().for_each(|node| wait_until("web is fixed", || in_order(&node.server, "web") == [2, 3, 1]));
    // What is said to the cluster goes before a flag, and what is said of a name before what is said of all.
    nodes[2].verb(&["policy", "*.lab.redbreast.internal", "fixed,answers=one"]);
    nodes.iter().for_each(|node| wait_until("one is left", || in_order(&node.server, "a.lab") == [2]));
    nodes[0].verb(&["policy", "*", "rotate,answers=one"]);
    let list = run(&["policy", "--control", &nodes[1].control]);
    let expected = "default  * rotate,answers=one\n\
                    domain   *.lab.redbreast.internal. fixed,answers=one\n\
                    name     web.redbreast.internal. fixed\n";
    wait_until("the list has all", || {
        String::from_utf8_lossy(&run(&["policy", "--control", &nodes[1].control]).stdout) == expected
    });
    assert!(list.status.success());
    nodes[2].verb(&["policy", "web", "--remove"]);
    for node in &nodes {
        wait_until("web is rotated", || {
            let first: Vec<_> = (0..3).flat_map(|_| in_order(&node.server, "web")).collect();
            first.len() == 3 && first[0] != first[1] && first[1] != first[2] && first[0] != first[2]
        });
    }
    for (args, told) in [
        (&["policy", "web", "random"][..], "\"random\" is no order of addresses"),
        (&["policy", "web", "near,answers=0"], "expected all, one, or a number"),
        (&["policy", "web.example", "near"], "the node answers for redbreast.internal. alone"),
        (&["policy", "web"], "which policy is web to have?"),
    ] {
        let (status, error) = failure(&nodes[0], args);
        assert!(status == Some(2) && error.contains(told), "{args:?}: {error}");
    }
    let bad_flag = run(&["serve", "--policy", "web=random"]);
    assert_eq!(bad_flag.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&bad_flag.stderr).contains("--policy web=random: \"random\" is no order")
    );
}

#[test]
fn an_explanation_says_of_each_record_whether_it_is_in_answers_and_why_not() {
    let directory = temp();
    let node = Node::start(directory.path(), "n1", &[]);
    for (address, more) in [
        ("10.0.0.1", &["--weight", "3"][..]),
        ("10.0.0.2", &["--weight", "1"]),
        ("10.0.0.3", &["--weight", "0"]),
        ("10.0.0.4", &["--tier", "1"]),
        ("10.0.0.5", &["--weight", "65535", "--slow-start", "86400"]),
    ] {
        node.verb(&[&["add", "web", address], more].concat());
    }
    node.verb(&["drain", "10.0.0.2"]);
    wait_until("all is published", || node.answers("web") == [1, 5]);
    let record = |data: &str| explained(&node, "web", data);
    assert_eq!(record("10.0.0.3")["why_not"], "its weight is 0");
    assert_eq!(record("10.0.0.4")["why_not"], "addresses of a higher tier suffice");
    assert_eq!((&record("10.0.0.1")["in_answers"], &record("10.0.0.1")["weight"]), (&true.into(), &3.into()));
    // A sixteenth of its weight by now: 65,535 parts beside three times sixteen.
    let share = record("10.0.0.5")["share"].as_f64().unwrap();
    assert!((share - 65_535.0 / (65_535.0 + 48.0)).abs() < 1e-6, "{share}");
    assert_eq!(record("10.0.0.5")["ramp"], 0.0625);
    wait_until("it is a second old", || record("10.0.0.1")["age_s"].as_f64() > Some(1.0));
    let table = run(&["explain", "web", "--control", &node.control]);
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    assert!(table.starts_with("web.redbreast.internal. is answered by the policy weighted\n"), "{table}");
    assert!(table.contains("no: its address is drained"), "{table}");
    let nothing = run(&["explain", "nobody", "--control", &node.control]);
    assert!(String::from_utf8_lossy(&nothing.stdout).contains("has no records that somebody has registered"));
    for (args, told) in [
        (&["--weight", "65536"][..], "a weight is from 0 to 65535, not 65536"),
        (&["--tier", "16"], "a tier is from 0 to 15"),
        (&["--slow-start", "0"], "a slow start takes from 1 to 86400 seconds"),
        (&["--check", "tcp:80,interval=1s,timeout=2s"], "timeout=2s: expected 10ms to the interval, 1s"),
        (&["--check", "command:sh"], "the node runs no programs: it was started without --check-dir"),
    ] {
        let (status, error) = failure(&node, &[&["add", "web", "10.0.0.1"], args].concat());
        assert!(status == Some(2) && error.contains(told), "{args:?}: {error}");
    }
}

/// Says at `node` how an instance is; returns the response.
fn report(node: &Node, instance: &str, health: &str) -> String {
    let path = node.control.strip_prefix("unix:").unwrap();
    let body = format!("{{\"health\":\"{health}\"}}");
    let request = format!(
        "PUT /v1/instances/{instance}/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: \
         application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).unwrap();
    answer
}

#[test]
fn how_an_address_is_says_the_node_that_has_registered_it_and_no_other() {
    let directory = temp();
    let nodes = trio(directory.path(), &[]);
    // The same address at two nodes, by instances of one name.
    nodes[0].verb(&["add", "web", "10.0.0.1", "--instance", "c1"]);
    nodes[1].verb(&["add", "web", "10.0.0.2", "--instance", "c1"]);
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2]));
    assert!(!report(&nodes[2], "c1", "down").contains("{\"addresses\":1}"), "it has none");
    assert!(report(&nodes[1], "c1", "down").contains("{\"addresses\":1}"), "it has one of the two");
    nodes.iter().for_each(|node| node.wait_for("web", &[1]));
    // Nobody else can say that it is well again.
    assert!(!report(&nodes[2], "c1", "up").contains("{\"addresses\":1}"));
    assert!(report(&nodes[0], "c1", "up").contains("{\"addresses\":1}"));
    nodes[2].add("marker", "10.0.0.3");
    nodes.iter().for_each(|node| node.wait_for("marker", &[3]));
    nodes.iter().for_each(|node| assert_eq!(node.answers("web"), [1]));
    assert!(report(&nodes[1], "c1", "up").contains("{\"addresses\":1}"));
    nodes.iter().for_each(|node| node.wait_for("web", &[1, 2]));
}

#[test]
fn what_is_checked_by_somebody_else_is_down_by_his_word() {
    let directory = temp();
    let node = Node::start(directory.path(), "n1", &[]);
    node.verb(&["add", "web", "10.0.0.1", "--instance", "c1"]);
    node.verb(&["add", "web", "10.0.0.2", "--instance", "c2"]);
    let put = |health: &str| report(&node, "c1", health);
    assert!(put("down").contains("{\"addresses\":1}"));
    node.wait_for("web", &[2]);
    assert_eq!(explained(&node, "web", "10.0.0.1")["why_not"], "down");
    assert_eq!(node.verb(&["explain", "web"])["panic"], false);
    node.verb(&["policy", "web", "weighted,panic=60%"]);
    node.wait_for("web", &[1, 2]);
    assert_eq!(node.verb(&["explain", "web"])["panic"], true);
    node.verb(&["policy", "web", "--remove"]);
    node.wait_for("web", &[2]);
    put("up");
    node.wait_for("web", &[1, 2]);
    assert_eq!(explained(&node, "web", "10.0.0.1")["health"], "up");
    assert!(put("sick").starts_with("HTTP/1.1 400"));
    // To register it once more changes nothing of that.
    put("down");
    node.wait_for("web", &[2]);
    assert_eq!(node.verb(&["add", "web", "10.0.0.1", "--instance", "c1"])["unchanged"], 1);
    node.verb(&["add", "web", "10.0.0.1", "--instance", "c1", "--weight", "7"]);
    assert_eq!(node.answers("web"), [2]);
}
