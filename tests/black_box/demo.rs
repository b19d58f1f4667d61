//! `redbreast demo` does the main job by itself.

use crate::harness::run;

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
fn an_absurd_duration_is_a_usage_error() {
    for seconds in ["0", "-1", "x", "1000000"] {
        assert_eq!(run(&["demo", "--seconds", seconds]).status.code(), Some(2), "{seconds}");
    }
}
