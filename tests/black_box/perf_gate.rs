//! `redbreast perf check`, `record` and `history`: that what is slower is said to be, and that what cannot be judged
//! never passes in silence.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{Server, has, redbreast};

const SCENARIOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/perf/scenarios");

fn perf(directory: &Path, command: &str, args: &[&str]) -> Output {
    let mut perf = redbreast();
    perf.current_dir(directory).args(["perf", command]);
    perf.args(args).output().unwrap()
}

fn check(directory: &Path, args: &[&str]) -> (i32, String, String) {
    let output = perf(directory, "check", &[&["--scenarios", SCENARIOS], args].concat());
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// Records the baseline of one quick scenario.
fn record(directory: &Path) {
    let args = ["--scenarios", SCENARIOS, "--only", "answer-negative", "--baseline"];
    let output = perf(directory, "record", &args);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn change_baseline(directory: &Path, change: impl FnOnce(&mut Value)) {
    let path = directory.join("perf/baseline.json");
    let mut baseline: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    change(&mut baseline);
    fs::write(path, baseline.to_string()).unwrap();
}

#[test]
fn the_same_build_holds_to_the_instruction_and_three_percent_more_are_slower() {
    if !has("valgrind", &["--version"]) {
        return;
    }
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    record(directory);
    let only =
        ["--only", "answer-negative", "--json", "out.json", "--junit", "out.xml", "--markdown", "out.md"];
    let (status, out, errors) = check(directory, &only);
    assert_eq!(status, 0, "{out}{errors}");
    let found: Value =
        serde_json::from_str(&fs::read_to_string(directory.join("out.json")).unwrap()).unwrap();
    let of = |metric: &str| {
        let findings = found["findings"].as_array().unwrap();
        findings.iter().find(|finding| finding["metric"] == metric).unwrap().clone()
    };
    let (base, now) =
        (of("instructions")["base"].as_f64().unwrap(), of("instructions")["now"].as_f64().unwrap());
    assert!((base - now).abs() <= base * 0.001 && now > 100.0, "{base} {now}: repeatable to 0.1%");
    assert_eq!(of("bus_locks")["now"].as_f64(), Some(0.0), "the answer takes no lock");
    assert!(fs::read_to_string(directory.join("out.xml")).unwrap().contains("failures=\"0\""));
    assert!(fs::read_to_string(directory.join("out.md")).unwrap().contains("Performance: holds"));

    // As if it had been faster by three percent, and then without that lock.
    change_baseline(directory, |baseline| {
        let was = &mut baseline["scenarios"]["answer-negative"]["instructions"];
        *was = (was.as_f64().unwrap() / 1.03).into();
    });
    let (status, out, errors) = check(directory, &only);
    assert!(status == 1 && out.contains("SLOWER"), "{status} {out}");
    assert!(errors.contains("slower than it may be: answer-negative (instructions)"), "{errors}");
    assert!(fs::read_to_string(directory.join("out.xml")).unwrap().contains("failures=\"1\""));

    // On another machine it cannot be told whether that is the build's doing.
    change_baseline(directory, |baseline| baseline["machine"]["cpu"] = "another processor".into());
    let (status, out, errors) = check(directory, &only);
    assert!(
        status == 3 && out.contains("another processor") && errors.contains("cannot tell"),
        "{status} {errors}"
    );

    let history = perf(directory, "history", &["--html", "history.html"]);
    assert!(String::from_utf8_lossy(&history.stdout).contains("answer-negative"));
    assert!(fs::read_to_string(directory.join("history.html")).unwrap().contains("<svg"));
}

#[test]
fn another_build_is_compared_without_a_baseline() {
    if !has("valgrind", &["--version"]) {
        return;
    }
    let directory = TempDir::new().unwrap();
    let base = env!("CARGO_BIN_EXE_redbreast");
    let (status, out, errors) =
        check(directory.path(), &["--base-binary", base, "--only", "answer-negative"]);
    assert!(status == 0 && out.contains("holds"), "{out}{errors}");
    // What is no build of this program is told so.
    let (status, _, errors) =
        check(directory.path(), &["--base-binary", "/bin/true", "--only", "answer-negative"]);
    assert!(
        status == 1 && errors.contains("/bin/true: did not say how much of answer-negative it did"),
        "{errors}"
    );
}

#[test]
fn what_cannot_be_judged_never_passes() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    let load = ["--only", "serve-floor"];
    for (args, told) in [
        (&["--only", "serve-floor"][..], "perf/baseline.json: cannot read the baseline"),
        (&["--only", "serve-all"], "--only serve-all: there is no such scenario; there are answer-cached,"),
        (&["--only", "serve-floor", "--kind", "count"], "no scenario is of the --kind"),
        (
            &["--only", "serve-base", "--base-binary", "nothing"],
            "--base-binary nothing: there is no such file",
        ),
        (
            &["--only", "serve-base", "--base", "no-such-revision"],
            "--base no-such-revision: there is no such revision here",
        ),
        (&["--server", "127.0.0.1:53"], "--queries"),
    ] {
        let (status, out, errors) = check(directory, args);
        assert!(status == 2 && out.is_empty() && errors.contains(told), "{args:?}: {status} {errors}");
    }
    // Where there is one CPU alone, server and load would measure each other.
    let one = [&load[..], &["--server-cpu", "0", "--load-cpu", "0", "--base-binary", "/bin/true"]].concat();
    let (status, out, errors) = check(directory, &[&one[..], &["--only", "serve-base"]].concat());
    assert!(
        status == 3 && out.contains("a CPU each") && errors.contains("serve-base cannot be measured"),
        "{errors}"
    );
    let empty = perf(directory, "check", &["--scenarios", "."]);
    assert_eq!(empty.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&empty.stderr).contains("there are no scenarios"));

    fs::create_dir(directory.join("perf")).unwrap();
    let baseline = directory.join("perf/baseline.json");
    for (text, told) in [
        ("{", "is no record of `redbreast perf record`"),
        (r#"{"scenarios": {}}"#, "has nothing measured"),
        (
            r#"{"machine": {"arch": "vax"}, "scenarios": {"serve-floor": {}}}"#,
            "was recorded on vax, and this is",
        ),
    ] {
        fs::write(&baseline, text).unwrap();
        let (status, out, errors) = check(directory, &load);
        assert!(status == 2 && out.is_empty() && errors.contains(told), "{text}: {status} {errors}");
    }
    let arch = std::env::consts::ARCH;
    fs::write(&baseline, format!(r#"{{"machine": {{"arch": "{arch}"}}, "scenarios": {{"other": {{}}}}}}"#))
        .unwrap();
    let (status, out, errors) = check(directory, &load);
    assert!(status == 2 && out.is_empty() && errors.contains("has no scenario `serve-floor`"), "{errors}");
}

#[test]
fn without_valgrind_it_says_what_to_install() {
    let directory = TempDir::new().unwrap();
    let output = redbreast()
        .args(["perf", "check", "--only", "answer-positive", "--scenarios", SCENARIOS])
        .current_dir(directory.path())
        .env("PATH", directory.path())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && errors.contains("apt-get install valgrind"), "{errors}");
}

/// Any server is gated by its ratio to the floor. The machine may be too busy to tell; it may not fail.
#[test]
fn a_server_of_others_is_gated_too() {
    let directory = TempDir::new().unwrap();
    let directory = directory.path();
    fs::write(directory.join("names"), "10.0.0.1 web\n").unwrap();
    fs::write(directory.join("queries"), "web.redbreast.internal A\nno.redbreast.internal A\n").unwrap();
    fs::create_dir(directory.join("scenarios")).unwrap();
    let scenario = fs::read_to_string(Path::new(SCENARIOS).join("serve-floor.toml")).unwrap();
    let scenario =
        scenario.replace("rounds = 5\n", "rounds = 3\n").replace("0.5", "0.1").replace("0.10", "0.9");
    // Two of them: what the first does to where this process runs must not keep the second from being measured.
    fs::write(directory.join("scenarios/again.toml"), &scenario).unwrap();
    fs::write(directory.join("scenarios/quick.toml"), scenario).unwrap();
    let server = Server::with_names(&directory.join("names"), &["--workers", "1"]);
    let address = server.address.to_string();
    let common = [
        "--scenarios",
        "scenarios",
        "--server",
        &address,
        "--queries",
        "queries",
        "--baseline",
        "theirs.json",
    ];
    let output = perf(directory, "record", &common);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let output = perf(directory, "check", &common);
    let (out, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(matches!(output.status.code(), Some(0 | 3)) && out.contains("queries a second"), "{out}{errors}");
    assert!(out.contains("again ") && out.contains("quick "), "{out}");
    // A server that is gone is no pass.
    drop(server);
    let output = perf(directory, "check", &common);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
}
