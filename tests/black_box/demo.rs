//! `redbreast demo` does the main job by itself.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::harness::{redbreast, run};

#[test]
fn the_demo_resolves_names_measures_a_load_and_says_what_it_saw() {
    let output = run(&["demo", "--seconds", "1"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{text}{errors}");
    assert_eq!(errors, "", "nothing to complain of, and no progress bar in a pipe");
    for told in [
        "4000 names",
        "10.0.0.3",
        "finch is killed",
        "back everywhere",
        "NXDOMAIN",
        "host-7.redbreast.internal.",
        "| queries lost",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    let row = |label: &str| -> Vec<u64> {
        let line = text.lines().find(|line| line.starts_with(&format!("| {label} "))).expect(label);
        line.split('|').skip(2).filter_map(|cell| cell.trim().parse().ok()).collect()
    };
    let [all, positive, negative] = row("answers")[..] else { panic!("{text}") };
    assert_eq!(all, positive + negative);
    assert!(positive.abs_diff(negative) <= 100 && all > 1_000, "half and half: {text}");
}

#[test]
fn the_cluster_stays_for_what_is_tried_next() {
    let mut child = redbreast()
        .args(["demo", "--seconds", "1", "--stay"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let tried: Vec<String> =
        lines.by_ref().skip_while(|line| !line.contains("Try next")).skip(1).take(3).collect();
    let words =
        |line: &str| line.split_whitespace().skip(1).map(|word| word.replace('\'', "")).collect::<Vec<_>>();
    // The second adds a name at the running cluster, the third puts it under load.
    for (command, says) in [(&tried[1], "1 added"), (&tried[2], "Queries completed")] {
        let output = redbreast().args(words(command)).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(says), "{command}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    assert!(tried[0].contains("dig @127.0.0.1"), "{tried:?}");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

#[test]
fn an_absurd_duration_is_a_usage_error() {
    for seconds in ["0", "-1", "x", "1000000"] {
        assert_eq!(run(&["demo", "--seconds", seconds]).status.code(), Some(2), "{seconds}");
    }
}
