//! The data directory when things happen to it: damage at any place, a full disk, one that is read-only, one that is
//! gone.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Server, has, run, wait_until};
use crate::http::{self, Answer};
use crate::nodes::temp;

const FILE: &str = "redbreast.redb";
const MARK: &str = "redbreast.mark";

/// redb's own, which its pages are a multiple of.
const PAGE: usize = 4096;

/// Bytes of redb's header before its two notes of transactions, and of such a note.
const NOTES_AT: usize = 64;
const NOTE: usize = 128;

const SERVE: [&str; 7] = ["serve", "--listen", "127.0.0.1:0", "--control", "127.0.0.1:0", "--workers", "1"];

fn control(log: &str) -> String {
    let rest = log.split("control at ").nth(1).and_then(|rest| rest.split_whitespace().next());
    rest.unwrap_or_else(|| panic!("it does not say where it is told what to do: {log}")).to_owned()
}

/// Registers names in one batch.
fn add(at: &str, names: std::ops::Range<u32>) -> Answer {
    let all: Vec<_> =
        names.map(|i| json!({"name": format!("n{i}"), "addresses": ["10.0.0.1"], "ttl_s": 7})).collect();
    http::json(at, "POST", "/v1/names", &Value::Array(all))
}

/// All names with an address that are registered by request.
fn names(at: &str) -> BTreeSet<String> {
    let all = http::get(at, "/v1/names").json();
    let all = all.as_array().expect("a list").iter().filter(|it| it["instance"] == "manual");
    all.map(|it| it["name"].as_str().expect("a name").split('.').next().unwrap().to_owned()).collect()
}

fn status(at: &str) -> Value {
    http::get(at, "/v1/status").json()
}

/// What became of a start.
enum Start {
    /// It serves these.
    Serves(BTreeSet<String>),
    /// It ended so, with this on stderr.
    Ended(Option<i32>, String),
}

/// Starts a server with this data directory, sees what becomes of it, and kills it.
fn start(directory: &Path) -> Start {
    let mut child = crate::harness::redbreast()
        .args(SERVE)
        .args(["--log", "text", "--data-dir"])
        .arg(directory)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut log = String::new();
    while !log.contains("serving ") {
        if stderr.read_line(&mut log).unwrap() == 0 {
            return Start::Ended(child.wait().unwrap().code(), log);
        }
    }
    let there = names(&control(&log));
    child.kill().unwrap();
    child.wait().unwrap();
    Start::Serves(there)
}

/// A data directory with 300 names that were acknowledged, and these names: of a node that was stopped, or killed.
fn written(directory: &Path, killed: bool) -> BTreeSet<String> {
    let server = Server::start(&["--workers", "1", "--data-dir", directory.to_str().unwrap()]);
    let at = control(&server.log());
    for i in 0..10 {
        assert_eq!(add(&at, i * 30..i * 30 + 30).status, 200);
    }
    let there = names(&at);
    assert_eq!(there.len(), 300);
    if killed {
        server.signal("-KILL");
        drop(server);
    } else {
        server.stop();
    }
    there
}

/// What is done to a part of the file, of which that is all.
type Damage = fn(&mut [u8], &[u8], &mut fastrand::Rng);

const DAMAGES: [(&str, Damage); 6] = [
    ("zeros over 512 bytes", |at, _, _| at.iter_mut().take(512).for_each(|byte| *byte = 0)),
    ("ones over 512 bytes", |at, _, _| at.iter_mut().take(512).for_each(|byte| *byte = 0xff)),
    ("a page of random bytes", |at, _, rng| at.iter_mut().take(PAGE).for_each(|byte| *byte = rng.u8(..))),
    ("a page of zeros", |at, _, _| at.iter_mut().take(PAGE).for_each(|byte| *byte = 0)),
    ("another page", |at, other, _| at.iter_mut().zip(other).for_each(|(byte, other)| *byte = *other)),
    ("a flipped bit", |at, _, rng| at[rng.usize(..at.len().min(64))] ^= 1 << rng.u8(..8)),
];

/// A copy of the data directory in which the file is another.
fn copy_with(original: &Path, file: &[u8]) -> TempDir {
    let copy = temp();
    fs::write(copy.path().join(FILE), file).unwrap();
    fs::copy(original.join(MARK), copy.path().join(MARK)).unwrap();
    copy
}

fn no_damage_is_taken_for_sound(killed: bool) {
    let original = temp();
    let expected = written(original.path(), killed);
    let whole = fs::read(original.path().join(FILE)).unwrap();
    assert!(
        matches!(start(copy_with(original.path(), &whole).path()), Start::Serves(there) if there == expected)
    );
    let is_used = |at: &usize| whole[*at..*at + PAGE].iter().any(|byte| *byte != 0);
    let used: Vec<_> = (PAGE..whole.len()).step_by(PAGE).filter(is_used).collect();
    // The header in parts, and pages all over the file.
    let pages = used.iter().copied().step_by(used.len().div_ceil(9));
    let offsets: Vec<_> = [0, NOTES_AT, NOTES_AT + NOTE, 512].into_iter().chain(pages).collect();
    let mut rng = fastrand::Rng::with_seed(u64::from(killed));
    let (mut refused, mut count) = (0, 0);
    for at in offsets {
        for (kind, damage) in DAMAGES {
            let mut bytes = whole.clone();
            let other = used[rng.usize(..used.len())];
            damage(&mut bytes[at..], &whole[other..other + PAGE], &mut rng);
            let copy = copy_with(original.path(), &bytes);
            match start(copy.path()) {
                Start::Serves(there) => assert_eq!(there, expected, "{kind} at {at}"),
                Start::Ended(code, told) => {
                    assert_eq!(code, Some(2), "{kind} at {at}: {told}");
                    let is_clear = told.contains(FILE) && told.contains("damaged") && told.contains("backup");
                    assert!(is_clear, "{kind} at {at}: {told}");
                    let left = fs::read(copy.path().join(FILE)).unwrap();
                    assert!(left == bytes, "{kind} at {at}: the file is not as it was");
                    refused += 1;
                }
            }
            count += 1;
        }
    }
    println!("{refused} of {count} damages were refused, the others did no harm");
    assert!(count >= 60 && refused > count / 3, "{refused} of {count}");
}

#[test]
fn no_damage_after_a_stop_is_taken_for_sound_nor_ends_in_a_crash() {
    no_damage_is_taken_for_sound(false);
}

#[test]
fn no_damage_after_a_kill_is_taken_for_sound_nor_ends_in_a_crash() {
    no_damage_is_taken_for_sound(true);
}

#[test]
fn a_lost_note_of_the_last_transaction_is_not_taken_for_one_that_was_cut_off() {
    let original = temp();
    let expected = written(original.path(), true);
    let mut bytes = fs::read(original.path().join(FILE)).unwrap();
    // Which of the notes is the last is in the lowest bit behind the magic number.
    let at = NOTES_AT + NOTE * usize::from(bytes[9] & 1);
    // Its checksum is at its end.
    bytes[at + NOTE - 1] ^= 1;
    let copy = copy_with(original.path(), &bytes);
    let Start::Ended(Some(2), told) = start(copy.path()) else { panic!("it was taken for sound") };
    assert!(told.contains("were acknowledged") && told.contains(MARK), "{told}");
    assert!(fs::read(copy.path().join(FILE)).unwrap() == bytes, "the file is not as it was");
    // As it says, one can go on with what is there.
    fs::remove_file(copy.path().join(MARK)).unwrap();
    let Start::Serves(there) = start(copy.path()) else { panic!("it is still refused") };
    assert!(there.is_subset(&expected) && there.len() == 270, "{} names", there.len());
}

#[test]
fn nothing_is_acknowledged_once_the_directory_is_gone() {
    let directory = temp();
    let (data, aside) = (directory.path().join("data"), directory.path().join("aside"));
    let server = Server::start(&["--workers", "1", "--data-dir", data.to_str().unwrap()]);
    let at = control(&server.log());
    assert_eq!(add(&at, 0..2).json()["durable"], true);
    fs::rename(&data, &aside).unwrap();
    let refused = || {
        let answer = add(&at, 2..3);
        assert_eq!(answer.status, 500, "{answer:?}");
        assert!(answer.problem().contains("was removed, or another is in its place"), "{answer:?}");
        assert!(status(&at)["data_fault"].as_str().unwrap().contains("was removed"));
    };
    refused();
    // Another node's file, or an empty volume, is not the one that was there.
    fs::create_dir(&data).unwrap();
    fs::copy(aside.join(FILE), data.join(FILE)).unwrap();
    refused();
    assert_eq!(names(&at).len(), 2);
    fs::remove_dir_all(&data).unwrap();
    fs::rename(&aside, &data).unwrap();
    assert_eq!(add(&at, 3..4).json()["durable"], true);
    assert_eq!(status(&at)["data_fault"], Value::Null);
    server.signal("-KILL");
    drop(server);
    let Start::Serves(there) = start(&data) else { panic!("it does not start") };
    // Whether what was refused is in the file does not matter: nobody was told that it is.
    assert!(["n0", "n1", "n3"].iter().all(|name| there.contains(*name)), "{there:?}");
}

/// A small file system that is mounted in a namespace of its own, which ends with it.
struct Mount {
    holder: Child,
}

impl Mount {
    const AT: &str = "/mnt";

    /// `None` where namespaces cannot be made.
    fn new(size: &str) -> Option<Self> {
        if !has("unshare", &["--mount", "true"]) {
            return None;
        }
        let script =
            format!("mount -t tmpfs -o size={size} tmpfs {} && echo there && exec sleep 1000", Self::AT);
        let mut holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", &script])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut there = [0; 5];
        holder.stdout.take().unwrap().read_exact(&mut there).unwrap();
        Some(Self { holder })
    }

    /// A command in there.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--target", &self.holder.id().to_string(), program]);
        command
    }

    fn serve(&self) -> Command {
        let mut command = self.command(env!("CARGO_BIN_EXE_redbreast"));
        command.args(SERVE).args(["--data-dir", "/mnt/data"]);
        command
    }

    /// What is at `path` in there, as it is reached from here.
    fn path(&self, path: &str) -> PathBuf {
        format!("/proc/{}/root{}/{path}", self.holder.id(), Self::AT).into()
    }

    /// Takes all room that there is.
    fn fill(&self) {
        let file = fs::File::create(self.path("fill")).unwrap();
        let mut at = 0;
        for block in [64 * 1024, 4096] {
            while file.write_all_at(&vec![1; block], at).is_ok() {
                at += block as u64;
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

#[test]
fn on_a_full_disk_names_are_removed_and_addresses_drained_but_nothing_is_registered() {
    let Some(mount) = Mount::new("16m") else { return };
    let server = Server::spawn(&mut mount.serve());
    let at = control(&server.log());
    for i in 0..10 {
        assert_eq!(add(&at, i * 100..i * 100 + 100).status, 200);
    }
    mount.fill();
    // Some may still go into pages that are there.
    let mut count = 1_000;
    let refused = loop {
        let answer = add(&at, count..count + 100);
        if answer.status != 200 {
            break answer;
        }
        count += 100;
        assert!(count < 100_000, "the disk is never full");
    };
    assert!(
        refused.problem().contains("the disk is full") && refused.problem().contains("Make room"),
        "{refused:?}"
    );
    assert!(status(&at)["data_fault"].as_str().unwrap().contains("the disk is full"));
    let mut expected = names(&at);
    assert_eq!(expected.len(), count as usize);
    for i in 0..60 {
        let answer = http::send(&at, "DELETE", &format!("/v1/names/n{i}"), "", "");
        assert_eq!(answer.status, 200, "{i}: {answer:?}");
        assert_eq!(answer.json()["durable"], true);
        expected.remove(&format!("n{i}"));
        let drain = format!("/v1/drains/address/10.9.0.{i}");
        let answer = http::send(&at, "PUT", &drain, "", "");
        assert_eq!((answer.status, &answer.json()["durable"]), (200, &Value::Bool(true)), "{i}: {answer:?}");
        if i % 20 == 0 {
            assert_eq!(add(&at, 900_000..900_100).status, 500, "{i}");
        }
    }
    assert_eq!(names(&at), expected);
    // The disk is as full at the next start.
    mount.fill();
    server.signal("-KILL");
    drop(server);
    let server = Server::spawn(&mut mount.serve());
    let at = control(&server.log());
    assert_eq!(names(&at), expected);
    assert_eq!(http::send(&at, "DELETE", "/v1/names/n200", "", "").status, 200);
    fs::remove_file(mount.path("fill")).unwrap();
    wait_until("there is room again", || add(&at, 0..100).status == 200);
    assert_eq!(status(&at)["data_fault"], Value::Null);
    server.stop();
}

#[test]
fn a_directory_that_cannot_be_written_is_refused_or_gone_on_without_as_one_says() {
    let Some(mount) = Mount::new("16m") else { return };
    let server = Server::spawn(&mut mount.serve());
    assert_eq!(add(&control(&server.log()), 0..10).status, 200);
    server.signal("-KILL");
    drop(server);
    let remount = |how: &str| {
        assert!(mount.command("mount").args(["-o", how, Mount::AT]).status().unwrap().success());
    };
    remount("remount,ro");
    let refused = mount.serve().output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2), "{told}");
    for part in ["/mnt/data/redbreast.redb", "cannot be written", "Read-only", "--data-dir-optional"] {
        assert!(told.contains(part), "{told}");
    }
    let config = temp();
    let file = config.path().join("config.toml");
    fs::write(&file, "data-dir = \"/mnt/data\"\ndata-dir-optional = true\n").unwrap();
    let mut by_file = mount.command(env!("CARGO_BIN_EXE_redbreast"));
    by_file.args(SERVE).arg("--config").arg(&file);
    for command in [mount.serve().arg("--data-dir-optional"), &mut by_file] {
        let server = Server::spawn(command);
        let (log, at) = (server.log(), control(&server.log()));
        assert!(log.contains("WARN") && log.contains("Going on without"), "{log}");
        assert!(!log.contains("registrations are kept"), "{log}");
        assert_eq!(add(&at, 0..1).json()["durable"], false);
        let status = status(&at);
        assert_eq!(status["data_dir"], Value::Null);
        assert!(status["data_fault"].as_str().unwrap().contains("cannot be written"), "{status}");
        let told = run(&["status", "--control", &at]);
        let told = String::from_utf8_lossy(&told.stdout);
        assert!(told.contains("in memory alone: /mnt/data/redbreast.redb: it cannot be written"), "{told}");
        server.stop();
    }
    remount("remount,rw");
    let server = Server::spawn(mount.serve().arg("--data-dir-optional"));
    let at = control(&server.log());
    assert_eq!(names(&at).len(), 10);
    assert_eq!(add(&at, 10..11).json()["durable"], true);
    server.stop();
    // It is not for damage.
    fs::write(mount.path("data/redbreast.redb"), b"not what was written").unwrap();
    let refused = mount.serve().arg("--data-dir-optional").output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!((refused.status.code(), told.contains("damaged")), (Some(2), true), "{told}");
}
