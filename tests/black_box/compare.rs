//! `redbreast compare`: that it measures, that it says what is wrong, and that nothing of it is left running.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::{PATIENCE, Server, redbreast, run, wait_until};

/// The comparison with its temporary files in `directory`, by which its processes can be told from all others.
fn compare(directory: &Path, args: &[&str]) -> Command {
    let mut command = redbreast();
    command.arg("compare").args(args).arg("--html").arg(directory.join("page.html"));
    command.env("TMPDIR", directory).stdin(Stdio::null());
    command
}

/// Processes that were started for a comparison with its files there.
fn processes(directory: &Path) -> Vec<(u32, String)> {
    let of = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let words = fs::read(entry.path().join("cmdline")).ok()?;
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        // The comparison itself has the directory on its command line, too.
        (words.contains(directory.to_str()?) && !words.contains(" compare ")).then_some((pid, words))
    };
    fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
}

fn start(directory: &Path, args: &[&str]) -> Child {
    let errors = fs::File::create(directory.join("errors")).unwrap();
    let child = compare(directory, args).stdout(Stdio::null()).stderr(errors).spawn().unwrap();
    wait_until("nodes run", || {
        processes(directory).iter().filter(|(_, words)| words.contains(" serve ")).count() >= 3
    });
    child
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

fn wait_until_nothing_is_left(directory: &Path) {
    wait_until("nothing is left running", || processes(directory).is_empty());
}

#[test]
fn the_three_designs_are_measured_and_told_as_table_json_and_page() {
    let directory = TempDir::new().unwrap();
    let json = directory.path().join("results.json");
    let args = ["--speed-only", "--rounds", "1", "-l", "1", "--nodes", "3", "--names", "5"];
    let output = compare(directory.path(), &args).arg("--json").arg(&json).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_str(&fs::read_to_string(&json).unwrap()).unwrap();
    let row = |name: &str, negatives: &str| {
        let rows = results["rows"].as_array().unwrap();
        rows.iter().find(|row| row["name"] == name && row["negatives"] == negatives).unwrap().clone()
    };
    for negatives in ["new", "repeated"] {
        for design in ["broadcast", "cache", "gossip"] {
            let row = row(design, negatives);
            assert!(
                row["completed"].as_u64().unwrap() > 0 && row["memory_mib"].as_f64().unwrap() > 1.0,
                "{row}"
            );
            assert!(row["cpu_us_per_query"].as_f64().unwrap() > 0.1, "{row}");
        }
    }
    let figure = |design: &str, figure: &str| row(design, "new")[figure].as_f64().unwrap();
    // Who asks for a name that nobody has waits for the whole window; gossip knows at once.
    assert!(figure("gossip", "qps") > 2.36 * figure("cache", "qps"));
    let mean = |design: &str| row(design, "new")["negative"]["mean"].as_f64().unwrap();
    assert!(mean("cache") > 490_000.0 && mean("broadcast") > 490_000.0 && mean("gossip") < 100_000.0);
    assert!(
        figure("broadcast", "datagrams_per_query") > 0.5 && figure("gossip", "datagrams_per_query") < 0.1
    );
    assert!(figure("gossip", "datagrams_per_registration") > 0.5);
    assert!(text.contains("| queries/s ") && text.contains("What was published"), "{text}");
    let page = fs::read_to_string(directory.path().join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("Run it again") && page.contains("--speed-only"));
    for outside in ["http://", "https://", "src=", "<script", "<link"] {
        assert!(!page.contains(outside), "the page needs {outside}");
    }
    assert!(processes(directory.path()).is_empty());
}

#[test]
fn another_server_gets_a_row_beside_the_designs() {
    let directory = TempDir::new().unwrap();
    let names = directory.path().join("names");
    let wrote = run(&["compare", "--nodes", "2", "--names", "4", "--write-names", names.to_str().unwrap()]);
    assert!(wrote.status.success());
    assert_eq!(fs::read_to_string(&names).unwrap().lines().count(), 8);
    let server = Server::with_names(&names, &["--workers", "1"]);
    let with = format!("mine={}", server.address);
    let args =
        ["--speed-only", "--rounds", "1", "-l", "1", "--nodes", "2", "--names", "4", "--designs", "gossip"];
    let output = compare(directory.path(), &args).args(["--with", &with, "--json", "-"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let mine: Vec<_> =
        results["rows"].as_array().unwrap().iter().filter(|row| row["name"] == "mine").collect();
    assert_eq!(mine.len(), 2);
    assert!(mine.iter().all(|row| row["positive"]["p50"].as_f64().unwrap() > 0.0), "{mine:?}");
}

#[test]
fn an_interrupted_comparison_leaves_nothing_running() {
    for name in ["-INT", "-TERM", "-KILL"] {
        let directory = TempDir::new().unwrap();
        let mut child = start(directory.path(), &["-l", "60", "--nodes", "3"]);
        signal(child.id(), name);
        let begin = Instant::now();
        let status = child.wait().unwrap();
        assert!(begin.elapsed() < PATIENCE, "{name}: {:?}", begin.elapsed());
        if name != "-KILL" {
            let errors = fs::read_to_string(directory.path().join("errors")).unwrap();
            assert_eq!(status.code(), Some(1), "{name}: {errors}");
            assert!(errors.contains("interrupted"), "{name}: {errors}");
            assert!(processes(directory.path()).is_empty(), "{name}: ended before it ended");
        }
        // Killed, it cannot end its children; they see that it is gone. The load ends with its time limit.
        wait_until("no node is left", || {
            processes(directory.path()).iter().all(|(_, words)| !words.contains(" serve "))
        });
        processes(directory.path()).iter().for_each(|(pid, _)| signal(*pid, "-KILL"));
        wait_until_nothing_is_left(directory.path());
    }
}

#[test]
fn a_node_that_dies_is_told_and_all_others_are_ended() {
    let directory = TempDir::new().unwrap();
    let args = ["-l", "5", "--nodes", "3", "--designs", "gossip", "--speed-only"];
    let mut child = start(directory.path(), &args);
    wait_until("the load runs", || {
        processes(directory.path()).iter().any(|(_, words)| words.contains(" bench "))
    });
    let nodes = processes(directory.path());
    let (victim, _) = nodes.iter().find(|(_, words)| words.contains("gossip-2")).expect("the third node");
    signal(*victim, "-KILL");
    let status = child.wait().unwrap();
    let errors = fs::read_to_string(directory.path().join("errors")).unwrap();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("gossip-2 has ended"), "{errors}");
    wait_until_nothing_is_left(directory.path());
}

#[test]
fn what_cannot_be_measured_is_said_at_once() {
    let directory = TempDir::new().unwrap();
    let begin = Instant::now();
    for (args, said) in [
        (&["--with", "nonsense"][..], "NAME=ADDR:PORT"),
        (&["--with", "gossip=127.0.0.1:53"], "not one of the designs'"),
        (&["--nodes", "1"], "2..=64"),
        (&["--negative", "101"], "from 0 to 100"),
        (&["--scale=nonsense"], "possible values"),
        (&["--json", "/nonexistent/results.json"], "/nonexistent/results.json: cannot be written"),
    ] {
        let output = compare(directory.path(), args).output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {errors}");
        assert!(errors.contains(said), "{args:?}: {errors}");
    }
    let mut limited = Command::new("sh");
    limited.args(["-c", "ulimit -n 128; exec \"$0\" compare --nodes 32", env!("CARGO_BIN_EXE_redbreast")]);
    let output = limited.current_dir(directory.path()).stdin(Stdio::null()).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("ulimit -n"), "{errors}");
    assert!(begin.elapsed() < Duration::from_secs(10), "none of them measures anything first");
}

/// Whether this process may make network namespaces.
fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    status.lines().any(|line| line.starts_with("Uid:") && line.split_whitespace().nth(2) == Some("0"))
}

/// Takes a minute, most of it waiting: what is looked at lasts longer than a cache keeps anything.
#[test]
fn failures_and_changes_are_seen_as_they_are() {
    if !is_root() {
        println!("skipped: network namespaces take root");
        return;
    }
    let directory = TempDir::new().unwrap();
    let args =
        ["--netns", "--rounds", "1", "-l", "1", "--nodes", "4", "--designs", "gossip,cache", "--json", "-"];
    let output = compare(directory.path(), &args).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let results: Value = serde_json::from_slice(&output.stdout).unwrap();
    let seen = |design: &str, failure: &str, kind: usize| {
        let faults = results["faults"].as_array().unwrap();
        let fault = faults.iter().find(|fault| fault["design"] == design && fault["failure"] == failure);
        fault.unwrap_or_else(|| panic!("{design} {failure}"))["seen"][kind].clone()
    };
    let number = |value: &Value| value.as_f64().unwrap_or_else(|| panic!("{value}"));
    for failure in ["stop", "kill", "loss", "partition"] {
        for design in ["gossip", "cache"] {
            // Of the node that is asked, and of one that is well.
            assert!(number(&seen(design, failure, 0)["answered_percent"]) > 99.9, "{design} {failure}");
        }
        assert!(number(&seen("gossip", failure, 1)["answered_percent"]) > 99.0, "{failure}");
        if failure != "loss" {
            let gone = number(&seen("gossip", failure, 2)["gone_after_s"]);
            assert!((0.5..20.0).contains(&gone), "{failure}: withdrawn after {gone} s");
            assert!(number(&seen("cache", failure, 2)["answered_percent"]) > 50.0, "{failure}: kept");
            assert!(
                number(&seen("cache", failure, 3)["p50_ms"]) > 490.0,
                "{failure}: first seen, and waited for"
            );
        }
    }
    for failure in ["stop", "partition"] {
        number(&seen("gossip", failure, 2)["back_after_s"]);
    }
    assert!(number(&seen("gossip", "loss", 3)["answered_percent"]) > 99.9);
    for fresh in results["freshness"].as_array().unwrap().iter().filter(|fresh| fresh["design"] == "gossip") {
        assert!(number(&fresh["settled_s"]) < 5.0, "{fresh}");
    }
    let stopped = results["stopped"].as_array().unwrap().iter().find(|stopped| stopped["design"] == "gossip");
    assert_eq!(stopped.unwrap()["lost"], 0, "with a node stopped nothing is lost");
    let left = Command::new("ip").args(["netns", "list"]).output().unwrap();
    let left = String::from_utf8_lossy(&left.stdout).lines().filter(|line| line.starts_with("rb")).count();
    assert_eq!((left, processes(directory.path()).len()), (0, 0));
}
