//! The resolvers that programs are linked with get right answers: glibc's and musl's getaddrinfo(3), and Go's.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::{Server, has, stdout};

/// Enough that they do not fit in 512 bytes, nor in 1,232.
const MANY: usize = 100;

fn hosts() -> String {
    let mut hosts = "10.0.0.1 web\n10.0.0.2 web\nfd00::1 web\n10.0.0.3 four\nfd00::6 six\n10.0.0.4 \
         deep.er.redbreast.internal\n"
        .to_owned();
    for i in 0..MANY {
        writeln!(hosts, "10.1.0.{i} many").unwrap();
    }
    hosts
}

/// What the probe, built by `compiler`, prints for `names`; `None` where it cannot be built or have a network of its
/// own: these resolvers ask port 53 and the servers of /etc/resolv.conf, so it gets namespaces in which these are ours.
fn probe(compiler: &str, names: &[&str]) -> Option<Vec<String>> {
    let unshare = ["--map-root-user", "--net", "--mount"];
    if !has("unshare", &[&unshare[..], &["true"]].concat())
        || !has("ip", &["-V"])
        || !has(compiler, &["--version"])
    {
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("hosts"), hosts()).unwrap();
    let conf = "nameserver 127.0.0.1\nsearch redbreast.internal\noptions timeout:10 attempts:1\n";
    fs::write(dir.path().join("resolv.conf"), conf).unwrap();
    fs::write(dir.path().join("nsswitch.conf"), "hosts: dns\n").unwrap();
    let program = dir.path().join("probe");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/getaddrinfo_probe.c");
    stdout(Command::new(compiler).arg("-o").arg(&program).arg(source));
    let script = r#"
set -eu
ip link set lo up
for file in resolv.conf nsswitch.conf; do
    # The file may be a link into a place that is not there in this namespace.
    mount --bind "$1/$file" "$(readlink -f /etc/$file)"
done
"$2" serve --listen 127.0.0.1:53 --names "$1/hosts" 2>"$1/log" &
server=$!
trap 'kill $server; wait $server' EXIT
for _ in $(seq 200); do grep -q 'serving ' "$1/log" && break; sleep 0.05; done
grep -q 'serving ' "$1/log" || { cat "$1/log" >&2; exit 1; }
probe=$1/probe
shift 2
"$probe" "$@"
"#;
    let text = stdout(
        Command::new("unshare")
            .args(unshare)
            .args(["sh", "-c", script, "sh", dir.path().to_str().unwrap(), env!("CARGO_BIN_EXE_redbreast")])
            .args(names),
    );
    Some(text.lines().map(str::to_owned).collect())
}

/// A line of the probe: the name, then the rest as a set.
fn line(text: &str) -> (&str, BTreeSet<&str>) {
    let (name, rest) = text.split_once(' ').unwrap_or((text, ""));
    (name, rest.split(' ').collect())
}

const NAMES: [&str; 5] = ["web", "four.redbreast.internal", "six", "nobody", "WEB.redbreast.internal."];

/// What both libraries find for `NAMES`.
fn check_names(lines: &[String]) {
    let web = ["10.0.0.1", "10.0.0.2", "fd00::1"];
    let expected: [(&str, &[&str]); 5] = [
        ("web", &web),
        ("four.redbreast.internal", &["10.0.0.3"]),
        ("six", &["fd00::6"]),
        ("nobody", &["EAI_NONAME"]),
        ("WEB.redbreast.internal.", &web),
    ];
    for (text, (name, found)) in lines.iter().zip(expected) {
        assert_eq!(line(text), (name, found.iter().copied().collect()), "{lines:?}");
    }
}

#[test]
fn glibc_finds_both_families_at_once_and_asks_over_tcp_for_more() {
    let Some(lines) = probe("gcc", &[&NAMES[..], &["many"]].concat()) else { return };
    check_names(&lines);
    assert_eq!(line(&lines[5]).1.len(), MANY, "{lines:?}");
}

#[test]
fn musl_finds_both_families_at_once_and_what_fits_of_many() {
    let Some(lines) = probe("musl-gcc", &[&NAMES[..], &["many"]].concat()) else { return };
    check_names(&lines);
    // Up to 1.2.3 musl does not ask over TCP: it has to find all that fits in 512 bytes, 29 records of 16 bytes
    // behind 40. From 1.2.4 on it asks, and takes 48 of what it gets.
    let (_, found) = line(&lines[5]);
    assert!([29, 48].contains(&found.len()), "{lines:?}");
    assert!(found.iter().all(|address| address.starts_with("10.1.0.")), "{lines:?}");
}

/// A name that exists and has no address: that is an answer, and no reason to ask again or to go on with the search
/// path.
#[test]
fn glibc_and_musl_take_a_name_without_addresses_for_one() {
    for (compiler, answers) in [
        ("gcc", &["No address associated with hostname"][..]),
        ("musl-gcc", &["Name has no usable address", "EAI_NONAME"]),
    ] {
        let begin = Instant::now();
        let Some(lines) = probe(compiler, &["er.redbreast.internal.", "er"]) else { continue };
        for (line, name) in lines.iter().zip(["er.redbreast.internal.", "er"]) {
            let (asked, found) = line.split_once(' ').unwrap();
            assert!(asked == name && answers.contains(&found), "{compiler}: {lines:?}");
        }
        // resolv.conf has ten seconds for a question without an answer.
        assert!(begin.elapsed() < Duration::from_secs(9), "{compiler}: {:?}", begin.elapsed());
    }
}

/// Go is a large package and `scripts/test` does not install it; where it is there, its resolver is asked.
#[test]
fn go_finds_both_families_at_once_and_asks_over_tcp_for_more() {
    if !Command::new("go").arg("version").output().is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no go here");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hosts");
    fs::write(&file, hosts()).unwrap();
    let server = Server::with_names(&file, &[]);
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/lookup.go");
    let names = ["web", "nobody", "many"].map(|host| format!("{host}.redbreast.internal."));
    let text = stdout(
        Command::new("go")
            .arg("run")
            .arg(source)
            .arg(server.port())
            .args(&names)
            .env("GOCACHE", dir.path().join("cache"))
            .env("GO111MODULE", "off"),
    );
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], format!("{} [10.0.0.1 10.0.0.2 fd00::1]", names[0]));
    assert_eq!(lines[1], format!("{} [not found: true]", names[1]));
    assert_eq!(lines[2].matches("10.1.0.").count(), MANY, "{}", lines[2]);
}
