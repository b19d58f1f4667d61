//! What `redbreast bench` is given to ask: standard input, bad lines, very many clients, signatures, captures.

use std::collections::HashMap;
use std::fs;
use std::net::UdpSocket;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::bench_modes::{bench, honest, queries, read_json, run, start};
use crate::harness::Server;

/// The child's peak of resident memory, in MiB, as long as it runs.
fn peak_mib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().trim_end_matches(" kB").parse::<u64>().ok().map(|kib| kib / 1_024)
}

#[test]
fn standard_input_without_an_end_is_sent_while_it_is_read() {
    let server = start(honest);
    let mut yes = Command::new("yes").arg("name.example AAAA").stdout(Stdio::piped()).spawn().unwrap();
    let mut child = bench(server, "-l 1 --accept-invalid")
        .stdin(yes.stdout.take().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        peak = peak.max(peak_mib(child.id()).unwrap_or(0));
        thread::sleep(Duration::from_millis(10));
    }
    let _ = yes.kill();
    let _ = yes.wait();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("queries were read while the first"), "{text}");
    // Beside the queries there are the ids and the counters of the run.
    assert!(peak > 16 && peak < 64 + 16, "{peak} MiB");
    let mut yes = Command::new("yes").arg("name.example AAAA").stdout(Stdio::piped()).spawn().unwrap();
    let output = bench(server, "-n 2").stdin(yes.stdout.take().unwrap()).output().unwrap();
    let _ = yes.kill();
    let _ = yes.wait();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && errors.contains("-n needs all queries at once"), "{errors}");
}

#[test]
fn bad_lines_are_left_out_and_told_and_lines_are_shown_as_they_stand() {
    let server = start(honest);
    let folder = tempfile::tempdir().unwrap();
    let file = queries(folder.path(), "WWW.Example.com  a ; first\nwww..com A\nhost.example NSAP-PTR\n");
    let (output, text) = run(bench(server, &format!("-d {file} -v")));
    assert!(output.status.success(), "{text}");
    for part in [
        "> NOERROR WWW.Example.com  a ; first 0.",
        "> NOERROR host.example NSAP-PTR 0.",
        ":2: `www..com` is not a domain name",
        "1 lines are no queries and were left out",
        "Queries sent:         2",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let (output, text) = run(bench(server, &format!("-d {file} --strict")));
    assert!(output.status.code() == Some(2) && text.contains(":2: `www..com`"), "{text}");
}

#[test]
fn very_many_clients_are_addresses_of_a_prefix_and_all_are_answered() {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = socket.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(HashMap::new()));
    let counts = Arc::clone(&seen);
    thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((len, peer)) = socket.recv_from(&mut buffer) {
            *counts.lock().unwrap().entry(peer.ip()).or_insert(0) += 1;
            buffer[2] |= 0x80;
            let _ = socket.send_to(&buffer[..len], peer);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let file = queries(folder.path(), &"a.example A\n".repeat(2_000));
    let options = format!("-d {file} -c 1000 -T 1 --sources 127.44.0.0/16 -q 50 --accept-invalid");
    let (output, text) = run(bench(server, &options));
    assert!(output.status.success() && text.contains("Queries completed:    2000 (100.00%)"), "{text}");
    let seen = seen.lock().unwrap();
    // Several threads would take turns in stretches, as the machine lets them.
    assert!(
        seen.len() > 900 && seen.values().all(|&count| count <= 8),
        "{} {:?}",
        seen.len(),
        seen.values().max()
    );
    assert!(seen.keys().all(|ip| ip.to_string().starts_with("127.44.")));
    let (output, text) = run(bench(server, &format!("-d {file} -c 300 --sources 127.44.0.0/24")));
    assert!(output.status.code() == Some(2) && text.contains("expected 1 to 254"), "{text}");
}

#[test]
fn signed_queries_are_taken_by_a_server_that_asks_for_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("update.key");
    fs::write(&key, "key \"bench.\" { algorithm hmac-sha256; secret \"c2VjcmV0LXNlY3JldC1zZWNyZXQ=\"; };\n")
        .unwrap();
    fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    let server = Server::start(&["--update-key", key.to_str().unwrap()]);
    let file = queries(folder.path(), "nobody.redbreast.internal A\n");
    let codes = |key: &str| {
        let (_, text) = run(bench(server.address, &format!("-d {file} -y {key} --accept-invalid")));
        text.lines().find(|line| line.contains("Response codes:")).unwrap_or(&text).trim().to_owned()
    };
    let good = codes("bench:c2VjcmV0LXNlY3JldC1zZWNyZXQ=");
    assert!(good.contains("NXDOMAIN 1 (100.00%)"), "{good}");
    let bad = codes("bench:d3Jvbmc=");
    assert!(bad.contains("NOTAUTH"), "{bad}");
}

#[test]
fn a_capture_is_sent_at_its_own_times_or_at_a_rate() {
    // 100 queries to port 53 within a second, over IPv4 without a link layer.
    let mut capture = Vec::new();
    let header = [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 65_535, 101];
    header.into_iter().for_each(|field| capture.extend(field.to_le_bytes()));
    for i in 0..100u32 {
        let query = crate::harness::query(7, &format!("h{i}.redbreast.internal"), 1);
        let mut packet = Vec::new();
        let builder = etherparse::PacketBuilder::ipv4([192, 0, 2, 1], [192, 0, 2, 2], 64).udp(40_000, 53);
        builder.write(&mut packet, &query).unwrap();
        let len = u32::try_from(packet.len()).unwrap();
        [1_000, i * 10_000, len, len].into_iter().for_each(|field| capture.extend(field.to_le_bytes()));
        capture.extend(packet);
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, json) = (folder.path().join("c.pcap"), folder.path().join("j"));
    fs::write(&file, capture).unwrap();
    let server = start(honest);
    let measure = |options: &str| {
        let options =
            format!("--pcap {} --accept-invalid --json {} {options}", file.display(), json.display());
        let (output, text) = run(bench(server, &options));
        assert!(output.status.success(), "{text}");
        assert!(text.contains("100 queries over 0.990 s; 0 other packets were passed over"), "{text}");
        read_json(&json)
    };
    let report = measure("");
    assert_eq!(
        (&report["totals"]["completed"], &report["settings"]["schedule"]),
        (&100.into(), &"capture".into())
    );
    assert!(report["run_time_s"].as_f64().unwrap() >= 0.99);
    let twice = measure("--speed 4 -n 2")["run_time_s"].as_f64().unwrap();
    assert!((0.49..1.9).contains(&twice), "two passes of a quarter of a second each: {twice}");
    assert_eq!(measure("-Q 2000")["settings"]["schedule"], "constant");
    let (output, text) = run(bench(server, &format!("--pcap {} -e", file.display())));
    assert!(output.status.code() == Some(2) && text.contains("sent as they are"), "{text}");
}
