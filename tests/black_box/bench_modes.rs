//! What `redbreast bench` does beyond dnsperf: verdicts, searches, comparisons, checks of answers, TCP and TLS, and
//! files. Each against a real server, or a thread that misbehaves in one way. The machine may be busy: no result has to
//! be valid.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::harness::{Server, has, redbreast, wait_until};

/// What a server thread does with a query and the client's address.
pub(crate) type Behaviour = fn(&UdpSocket, &mut Vec<(Vec<u8>, SocketAddr)>, Vec<u8>, SocketAddr);

pub(crate) fn start(behaviour: Behaviour) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    thread::spawn(move || {
        let (mut buffer, mut kept) = ([0; 2_048], Vec::new());
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            let mut answer = buffer[..len].to_vec();
            answer[2] |= 0x80;
            behaviour(&socket, &mut kept, answer, peer);
        }
    });
    address
}

pub(crate) fn honest(
    socket: &UdpSocket,
    _: &mut Vec<(Vec<u8>, SocketAddr)>,
    answer: Vec<u8>,
    peer: SocketAddr,
) {
    let _ = socket.send_to(&answer, peer);
}

pub(crate) fn bench(server: SocketAddr, options: &str) -> Command {
    let mut command = redbreast();
    let (address, port) = (server.ip().to_string(), server.port().to_string());
    command
        .args(["bench", "-s", &address, "-p", &port])
        .args(options.split_whitespace())
        .stdin(Stdio::null());
    command
}

pub(crate) fn queries(folder: &Path, text: &str) -> String {
    let path = folder.join("queries");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

pub(crate) fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub(crate) fn run(mut command: Command) -> (Output, String) {
    let output = command.output().unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(!text.contains("panicked"), "{text}");
    (output, text)
}

fn fault_names(report: &Value) -> Vec<String> {
    let faults = report["verdict"]["faults"].as_array().unwrap();
    faults.iter().map(|fault| fault["name"].as_str().unwrap().to_owned()).collect()
}

/// The measurement that dnsperf gets wrong: a server that stops for a second while queries are due.
#[test]
fn a_paused_server_shows_in_full_and_hides_from_dnsperf() {
    let folder = tempfile::tempdir().unwrap();
    let file = queries(folder.path(), "a.redbreast.internal A\n");
    let pause = |child: Command| -> String {
        let server = Server::start(&[]);
        let mut command = child;
        command.args(["-s", "127.0.0.1", "-p", &server.port(), "-d", &file, "-l", "3", "-Q", "2000"]);
        let child =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        thread::sleep(Duration::from_secs(1));
        server.signal("-STOP");
        thread::sleep(Duration::from_secs(1));
        server.signal("-CONT");
        let output = child.wait_with_output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let json = folder.path().join("result.json");
    let mut ours = redbreast();
    ours.args(["bench", "--accept-invalid", "--json", json.to_str().unwrap()]);
    pause(ours);
    let report = read_json(&json);
    assert_eq!(report["totals"]["lost"], 0, "{report}");
    for kind in ["response_us", "latency_us"] {
        let latencies = if kind == "response_us" { &report[kind] } else { &report[kind]["all"] };
        // A third of the queries is due within the pause; the first of them waits for all of it.
        for percentile in ["p99", "p99_9", "max"] {
            let seconds = latencies[percentile].as_f64().unwrap() / 1e6;
            assert!((0.85..3.0).contains(&seconds), "{kind} {percentile}: {seconds} s");
        }
        assert!(latencies["mean"].as_f64().unwrap() > 100_000.0, "{report}");
    }
    if has("dnsperf", &["-h"]) {
        // It holds still with 100 queries outstanding: 100 of some 4,000 queries see the pause.
        let theirs = pause(Command::new("dnsperf"));
        let line = theirs.lines().find(|line| line.contains("Average Latency")).unwrap();
        let mean_s: f64 = line.split_whitespace().nth(3).unwrap().parse().unwrap();
        println!("mean latency: ours {} us, dnsperf's {mean_s} s", report["response_us"]["mean"]);
        assert!(mean_s * 1e6 < report["response_us"]["mean"].as_f64().unwrap() / 2.0, "{theirs}");
    }
}

#[test]
fn a_generator_that_sleeps_leaves_its_core_to_others() {
    let server = start(honest);
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    // So near to each other that who spins never stops.
    let measure = |how: &str| {
        let options =
            format!("-d {file} -Q 9000 -l 1 --wait {how} --accept-invalid --json {}", json.display());
        let (output, text) = run(bench(server, &options));
        assert_eq!(output.status.code(), Some(0), "{text}");
        let report = read_json(&json);
        assert_eq!(report["settings"]["waiting"], how);
        assert_eq!(report["totals"]["completed"], report["totals"]["sent"], "{report}");
        report["generator"]["threads"][0]["cpu_s"].as_f64().unwrap()
    };
    let (spinning, sleeping) = (measure("spin"), measure("sleep"));
    assert!(sleeping < 0.75 * spinning, "{sleeping} s of {spinning} s");
}

#[test]
fn a_schedule_that_a_limit_holds_back_is_invalid() {
    let server = start(|socket, _, answer, peer| {
        thread::sleep(Duration::from_millis(20));
        let _ = socket.send_to(&answer, peer);
    });
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    let options = format!("-d {file} -Q 500 -q 2 -l 0.5 --json {}", json.display());
    let (output, text) = run(bench(server, &options));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("[Verdict] INVALID, held back: ") && text.contains("(-q)"), "{text}");
    let report = read_json(&json);
    assert_eq!((&report["verdict"]["valid"], &report["verdict"]["complete"]), (&false.into(), &true.into()));
    assert_eq!(fault_names(&report)[0], "held back");
    // What was due and never sent has waited, too.
    assert!(report["totals"]["overdue"].as_u64().unwrap() > 100);
    assert!(report["response_us"]["p99"].as_f64().unwrap() > 300_000.0, "{}", report["response_us"]);
    assert_eq!(run(bench(server, &(options + " --accept-invalid"))).0.status.code(), Some(0));
}

#[test]
fn a_generator_whose_cpu_is_taken_says_so() {
    let server = start(honest);
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    // Three others want the one CPU that the generator is pinned to, all the time.
    let spin =
        || Command::new("taskset").args(["-c", "0", "sh", "-c", "while :; do :; done"]).spawn().unwrap();
    let mut spinners: Vec<Child> = (0..3).map(|_| spin()).collect();
    let mut command = Command::new("taskset");
    let redbreast = env!("CARGO_BIN_EXE_redbreast");
    command.args([
        "-c",
        "0",
        redbreast,
        "bench",
        "-p",
        &server.port().to_string(),
        "-d",
        &file,
        "-l",
        "2",
        "-Q",
        "5000",
    ]);
    command.args(["--json", json.to_str().unwrap()]);
    let (output, text) = run(command);
    for spinner in &mut spinners {
        spinner.kill().unwrap();
        spinner.wait().unwrap();
    }
    assert_eq!(output.status.code(), Some(1), "{text}");
    let report = read_json(&json);
    let names = fault_names(&report);
    assert!(
        names.iter().any(|name| name == "CPU taken") && names.iter().any(|name| name == "schedule slip"),
        "{text}"
    );
    assert_eq!(report["machine"]["cpus"], "0");
}

#[test]
fn answers_without_room_are_the_generators_fault() {
    // It keeps what comes for a while and then answers everything at once, each query many times.
    let server = start(|socket, kept, answer, peer| {
        kept.push((answer, peer));
        if kept.len() == 50 {
            for (answer, peer) in kept.drain(..) {
                (0..100).for_each(|_| drop(socket.send_to(&answer, peer)));
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    let (output, text) =
        run(bench(server, &format!("-d {file} -Q 2000 -l 1 -t 0.5 -b 1 --json {}", json.display())));
    assert_eq!(output.status.code(), Some(1), "{text}");
    let report = read_json(&json);
    assert!(fault_names(&report).contains(&"answers dropped".to_owned()), "{text}");
    assert!(report["generator"]["drops"].as_u64().unwrap() > 0);
    assert!(report["generator"]["kernel_udp"]["receive_buffer_errors"].as_u64().unwrap() > 0);
    assert!(report["totals"]["duplicate"].as_u64().unwrap() > 0);
}

#[test]
fn what_others_send_and_what_answers_another_question_is_counted_apart() {
    let server = start(|socket, _, mut answer, peer| {
        let elsewhere = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = elsewhere.send_to(&answer, peer);
        answer[13] ^= 1;
        let _ = socket.send_to(&answer, peer);
        answer[13] ^= 1;
        let _ = socket.send_to(&answer, peer);
    });
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "abc A\n"), folder.path().join("j"));
    let (output, text) =
        run(bench(server, &format!("-d {file} -n 50 -q 1 --accept-invalid --json {}", json.display())));
    assert!(output.status.success(), "{text}");
    let totals = &read_json(&json)["totals"];
    assert_eq!(
        (&totals["completed"], &totals["mismatched"], &totals["wrong_source"]),
        (&50.into(), &50.into(), &50.into())
    );
    assert_eq!(totals["wrong"], 100);
}

#[test]
fn the_highest_rate_is_found_and_confirmed() {
    // Some 2,000 a second, one after the other.
    let server = start(|socket, _, answer, peer| {
        thread::sleep(Duration::from_micros(500));
        let _ = socket.send_to(&answer, peer);
    });
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    let options =
        format!("-d {file} --find-max --slo p50<40ms,loss<1% -Q 200 -l 0.4 --json {}", json.display());
    let (_, text) = run(bench(server, &options));
    let report = read_json(&json);
    let search = &report["search"];
    let trials = search["trials"].as_array().unwrap();
    assert!(trials.len() > 4 && trials[0]["rate_qps"] == 200.0, "{text}");
    // On a machine that is busy with other things no rate may be confirmed; if one is, it is what the server can do.
    if let Some(best) = search["best_qps"].as_f64() {
        assert!(best < 2_100.0, "{text}");
        assert!(
            trials.iter().any(|trial| trial["confirmation"] == true && trial["rate_qps"] == best),
            "{text}"
        );
        assert!(
            text.contains("Highest rate that holds p50<40.000ms") || text.contains("is the limit"),
            "{text}"
        );
    }
}

#[test]
fn two_servers_are_compared_in_rounds_that_take_turns() {
    let fast = start(honest);
    let slow = start(|socket, _, answer, peer| {
        thread::sleep(Duration::from_millis(1));
        let _ = socket.send_to(&answer, peer);
    });
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    let options = |require: &str| {
        format!(
            "-d {file} --against {slow} --rounds 5 -l 0.2 --require {require} --accept-invalid --json {}",
            json.display()
        )
    };
    let (output, text) = run(bench(fast, &options("qps>=2,p50<0.5")));
    assert!(output.status.success(), "{text}");
    let report = read_json(&json);
    let contest = &report["contest"];
    assert_eq!(contest["rounds"].as_array().unwrap().len(), 5);
    let qps = &contest["comparisons"][0];
    let [low, ratio, high] = ["low", "ratio", "high"].map(|field| qps[field].as_f64().unwrap());
    assert!(qps["metric"] == "qps" && low <= ratio && ratio <= high && low > 2.0, "{qps}");
    assert!(text.contains("Required qps>=2: holds"), "{text}");
    let (output, text) = run(bench(fast, &options("qps<0.5")));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Required qps<0.5: does NOT hold\n"), "{text}");

    // A result that was saved: the slow one against what was measured of the fast one.
    let saved = folder.path().join("saved.json");
    run(bench(fast, &format!("-d {file} -l 0.3 --json {}", saved.display())));
    let options =
        format!("-d {file} -l 0.3 --accept-invalid --against {} --require qps>=0.9", saved.display());
    let (output, text) = run(bench(slow, &options));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("Required qps>=0.9: does NOT hold (of one run each"), "{text}");
    let (output, text) = run(bench(slow, &format!("-d {file} --against {file}")));
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("is no result of `redbreast bench --json`"), "{text}");
}

#[test]
fn answers_are_checked_against_what_they_should_be() {
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("names");
    fs::write(&names, "10.0.0.1 web\n10.0.0.2 web\n10.0.0.3 web\n10.0.0.9 db\n").unwrap();
    let server = Server::start(&["--names", names.to_str().unwrap()]);
    let file = queries(
        folder.path(),
        "web.redbreast.internal A\ndb.redbreast.internal A\ndb.redbreast.internal AAAA\nno.redbreast.internal A\n",
    );
    let expected = folder.path().join("expected");
    let json = folder.path().join("j");
    let run_against = |text: &str| {
        fs::write(&expected, text).unwrap();
        let options = format!(
            "-d {file} -n 2000 --accept-invalid --verify {} --json {}",
            expected.display(),
            json.display()
        );
        let (output, text) = run(bench(server.address, &options));
        (output.status.code(), text, read_json(&json)["verification"].clone())
    };
    let right = "10.0.0.1 web.redbreast.internal\n10.0.0.2 web.redbreast.internal\n10.0.0.3 web.redbreast.internal\n\
                 db.redbreast.internal A 10.0.0.9\ndb.redbreast.internal AAAA NODATA\nno.redbreast.internal A \
                 NXDOMAIN\n";
    let (code, text, found) = run_against(right);
    assert_eq!((code, &found["checked"], &found["right"]), (Some(0), &8_000.into(), &8_000.into()), "{text}");
    // All addresses come first equally often, or one run in a million would say otherwise.
    assert_eq!(found["first_degrees"], 2);
    assert!(found["first_p"].as_f64().unwrap() > 1e-6, "{found}");
    // An address that is no more, and one that is not yet: stale and missing.
    let (code, text, found) = run_against("web.redbreast.internal A 10.0.0.1 10.0.0.2 10.0.0.4\n");
    assert_eq!(
        (code, &found["unexpected"], &found["missing"]),
        (Some(1), &2_000.into(), &2_000.into()),
        "{text}"
    );
    assert_eq!(found["unchecked"], 6_000);
    assert!(text.contains("web.redbreast.internal A: NOERROR 10.0.0."), "{text}");
    let (code, text, found) = run_against("db.redbreast.internal A NXDOMAIN\n");
    assert_eq!((code, &found["wrong_code"]), (Some(1), &2_000.into()), "{text}");
    let (code, text, _) = {
        fs::write(&expected, "web A\n").unwrap();
        let (output, text) =
            run(bench(server.address, &format!("-d {file} --verify {}", expected.display())));
        (output.status.code(), text, ())
    };
    assert!(code == Some(2) && text.contains("expected:1: nothing is expected"), "{text}");
}

#[test]
fn queries_are_drawn_and_read_from_hosts_files_with_options_and_cookies() {
    let folder = tempfile::tempdir().unwrap();
    let names = folder.path().join("hosts");
    let lines: String =
        (1..=200).map(|i| format!("10.0.0.{} h{i}.redbreast.internal\n", i % 200 + 1)).collect();
    fs::write(&names, lines).unwrap();
    let server = Server::start(&["--names", names.to_str().unwrap()]);
    let json = folder.path().join("j");
    let measure = |options: &str| {
        let options = format!("{options} --accept-invalid --json {}", json.display());
        let (output, text) = run(bench(server.address, &options));
        assert!(output.status.success(), "{text}");
        read_json(&json)
    };
    let report = measure(&format!("--hosts {} -n 3 --nsid --cookie -D -E 65001:c0ffee", names.display()));
    assert_eq!(report["rcodes"], serde_json::json!({ "NOERROR": 600 }));
    assert_eq!(report["settings"]["dnssec_ok"], true);
    let report = measure(
        "--pattern h{1..200}.redbreast.internal --mix positive=50%,negative=50% --zipf 1 --draws 20000 -a \
         127.0.5.0/24 -c 8 -T 2",
    );
    let [positive, negative] = ["NOERROR", "NXDOMAIN"].map(|code| report["rcodes"][code].as_u64().unwrap());
    assert_eq!(positive + negative, 20_000);
    assert!((9_500..10_500).contains(&positive), "{positive}");
    let (output, text) = run(bench(server.address, "--mix positive"));
    assert!(output.status.code() == Some(2) && text.contains("expected --names or --pattern"), "{text}");
}

#[test]
fn connections_carry_many_queries_and_are_replaced() {
    let server = Server::start(&[]);
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a.redbreast.internal A\n"), folder.path().join("j"));
    let measure = |options: &str| {
        let options = format!("-m tcp -d {file} --accept-invalid --json {} {options}", json.display());
        let (output, text) = run(bench(server.address, &options));
        assert!(output.status.success(), "{text}");
        read_json(&json)
    };
    let report = measure("-n 20000 -c 10 -T 2");
    assert_eq!(report["target"]["transport"], "tcp");
    let totals = &report["totals"];
    assert_eq!(
        (&totals["completed"], &totals["connections"], &totals["lost"]),
        (&20_000.into(), &10.into(), &0.into())
    );
    let totals = &measure("-n 1000 -c 2 --queries-per-connection 50")["totals"];
    assert_eq!((&totals["completed"], &totals["lost"]), (&1_000.into(), &0.into()));
    assert!((20..=22).contains(&totals["connections"].as_u64().unwrap()), "{totals}");
    let report = measure("-Q 1000 -l 1");
    let totals = &report["totals"];
    let sent = totals["sent"].as_u64().unwrap() + totals["overdue"].as_u64().unwrap();
    assert_eq!((sent, &totals["lost"]), (1_000, &0.into()), "{totals}");
    assert_eq!(report["settings"]["schedule"], "constant");
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap(); // and closed again
    let (output, text) = run(bench(port, &format!("-m tcp -d {file}")));
    assert!(output.status.code() == Some(1) && text.contains(&format!("nobody listens at {port}")), "{text}");
}

/// Unbound with a certificate of its own on a TLS port.
#[test]
fn queries_go_over_tls_and_the_certificate_is_looked_at_if_asked() {
    if !has("/usr/sbin/unbound", &["-V"]) || !has("openssl", &["version"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (key, certificate) = (path("key.pem"), path("cert.pem"));
    let make = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=dns.test -addext \
                subjectAltName=DNS:dns.test -addext basicConstraints=critical,CA:FALSE";
    let made =
        Command::new("openssl").args(make.split(' ')).args(["-keyout", &key, "-out", &certificate]).output();
    assert!(made.unwrap().status.success());
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = format!(
        "server:\n interface: 127.0.0.1@{port}\n tls-port: {port}\n tls-service-key: \"{key}\"\n tls-service-pem: \
         \"{certificate}\"\n\
         username: \"\"\n chroot: \"\"\n directory: \"{0}\"\n pidfile: \"{0}/pid\"\n use-syslog: no\n do-daemonize: \
         no\n\
         local-zone: \"test.\" static\n local-data: \"a.test. A 10.0.0.1\"\nremote-control:\n control-enable: no\n",
        folder.path().display()
    );
    fs::write(path("unbound.conf"), config).unwrap();
    let mut unbound = Command::new("/usr/sbin/unbound")
        .args(["-d", "-c", &path("unbound.conf")])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    wait_until("Unbound listens", || std::net::TcpStream::connect(address).is_ok());
    let file = queries(folder.path(), "a.test A\n");
    let json = path("j");
    let options = |more: &str| format!("-m dot -d {file} -n 2000 -c 4 --accept-invalid --json {json} {more}");
    let results = [
        options(""),
        options(&format!("--tls-ca {certificate} --tls-name dns.test")),
        options(&format!("--tls-ca {certificate} --tls-name other.test -t 0.3")),
    ]
    .map(|options| run(bench(address, &options)));
    let report = read_json(Path::new(&json));
    unbound.kill().unwrap();
    unbound.wait().unwrap();
    let [any, right, wrong] = results;
    assert!(any.0.status.success(), "{}", any.1);
    assert!(any.1.contains("  Response codes:       NOERROR 2000 (100.00%)"), "{}", any.1);
    assert!(right.0.status.success(), "{}", right.1);
    assert_eq!(wrong.0.status.code(), Some(1), "{}", wrong.1);
    assert!(wrong.1.contains("certificate"), "{}", wrong.1);
    assert_eq!(report["target"]["transport"], "dot");
}

#[test]
fn results_are_written_in_all_forms_and_laid_over_each_other() {
    let server = start(honest);
    let folder = tempfile::tempdir().unwrap();
    let file = queries(folder.path(), "a A\n");
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [json, html, hgrm, log] = ["one.json", "one.html", "one.hgrm", "one.hlog"].map(path);
    let (_, text) = run(bench(
        server,
        &format!(
            "-d {file} --ramp 200..2k/2s --accept-invalid --json {json} --html {html} --hgrm {hgrm} --hdr-log {log}"
        ),
    ));
    assert!(text.contains("  Maximum throughput:   "), "{text}");
    let report = read_json(Path::new(&json));
    assert_eq!(report["settings"]["schedule"], "200..2000/2s");
    let series = report["series"].as_array().unwrap();
    assert!((50..=62).contains(&series.len()), "{}", series.len());
    let offered = |at: usize| series[at]["offered_qps"].as_f64().unwrap();
    assert!(offered(0) < 250.0 && offered(50) > 1_500.0);
    let page = fs::read_to_string(&html).unwrap();
    assert!(page.contains("<svg") && page.contains("Answered against offered") && !page.contains("NaN"));
    assert!(!page.contains("<script") && !page.contains("http"), "nothing is fetched");
    assert!(fs::read_to_string(&hgrm).unwrap().contains("#[Max     ="));
    let lines = fs::read_to_string(&log).unwrap();
    assert!(lines.starts_with('#') && lines.lines().filter(|line| line.contains(",HISTFAAA")).count() > 50);

    let other = path("other.json");
    run(bench(server, &format!("-d {file} -n 500 --json {other}")));
    let both = path("both.html");
    let output = redbreast().args(["bench", "report", &json, &other, "--html", &both]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && table.contains("one") && table.contains("other"), "{table}");
    let page = fs::read_to_string(both).unwrap();
    assert!(page.contains("one: answered") && page.contains("other: answered"));
    let (output, text) = run({
        let mut command = redbreast();
        command.args(["bench", "report", &file]);
        command
    });
    assert!(output.status.code() == Some(2) && text.contains("is no result"), "{text}");
}

#[test]
fn a_full_disk_is_told_with_the_file_and_loses_nothing_else() {
    let server = start(honest);
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    for full in ["--html", "--hgrm", "--hdr-log"] {
        let options = format!("-d {file} -n 10 --accept-invalid {full} /dev/full --json {}", json.display());
        let (output, text) = run(bench(server, &options));
        assert_eq!(output.status.code(), Some(1), "{full}: {text}");
        assert!(text.contains("/dev/full: the result could not be written: No space left"), "{full}: {text}");
        assert_eq!(read_json(&json)["totals"]["completed"], 10);
        fs::remove_file(&json).unwrap();
    }
    let (output, text) = run(bench(server, &format!("-d {file} -n 10 --accept-invalid --json /dev/full")));
    assert!(output.status.code() == Some(1) && text.contains("Queries completed:    10 "), "{text}");
}

#[test]
fn an_interrupted_run_tells_what_was_measured_and_that_it_was_interrupted() {
    let server = start(honest);
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (queries(folder.path(), "a A\n"), folder.path().join("j"));
    let mut command = bench(server, &format!("-d {file} -l 60 -Q 100 -S 0.1 --json {}", json.display()));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // The first interval has been told: the run is under way.
    let mut reader = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut first = String::new();
    while !first.starts_with(|c: char| c.is_ascii_digit()) {
        first.clear();
        assert!(std::io::BufRead::read_line(&mut reader, &mut first).unwrap() > 0);
    }
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut reader, &mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(rest.contains("[Status] Testing complete (interruption)"), "{rest}");
    assert!(rest.contains("[Verdict] interrupted"), "{rest}");
    let report = read_json(&json);
    assert_eq!(
        (&report["verdict"]["interrupted"], &report["verdict"]["valid"]),
        (&true.into(), &false.into())
    );
    assert!(report["totals"]["sent"].as_u64().unwrap() > 0);
}
