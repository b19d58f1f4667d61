//! Names that are not ours, asked for over HTTPS: at a real BIND and Unbound, and at a server that does all that it
//! should not.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;
use tempfile::TempDir;

use crate::control::start;
use crate::harness::{Server, has, query, wait_until};
use crate::hostile_https;
use crate::http::get;
use crate::resolver_tls::{NAME, certify};
use crate::upstreams::{BIG, NAMED, Spot, Told, UNBOUND, Upstream, ZONE, zone};

/// What a server that is flooded may have more at the end than at the beginning.
const MORE_KIB: u64 = 16 << 10;

/// Certificates, as [`certify`] makes them.
fn certificates() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    certify(directory.path());
    directory
}

/// A server with one worker that asks who is there over HTTPS, and these.
fn serve(address: SocketAddr, certificates: &Path, args: &[&str]) -> (Server, String) {
    let upstream = format!("https://{address}#{NAME}");
    let file = certificates.join("authority.pem");
    let ours = ["--workers", "1", "--upstream", &upstream, "--upstream-ca", file.to_str().unwrap()];
    start(&[&ours, args].concat())
}

/// How its first upstream is.
fn upstream(control: &str) -> Value {
    get(control, "/v1/status").json()["forwarding"]["upstreams"][0].clone()
}

/// What it is asked for comes, however much at once and however long.
fn ask_everything(server: &Server) {
    let told = Told::dig(server.address, &[&format!("chain.{ZONE}")]);
    assert_eq!((&*told.status, told.answer.len()), ("NOERROR", 4), "{}\n{}", told.text, server.log());
    assert_eq!(Told::dig(server.address, &[&format!("nobody.{ZONE}")]).status, "NXDOMAIN");
    let big = Told::dig(server.address, &[&format!("big.{ZONE}")]);
    assert_eq!(big.answer.len(), BIG, "{}", big.text);
    let socket = server.client();
    for round in 0..5 {
        for id in 0..200 {
            socket.send(&query(id, &format!("n{round}-{id}.any.{ZONE}"), 1)).unwrap();
        }
        for _ in 0..200 {
            let mut answer = [0; 512];
            socket.recv(&mut answer).unwrap();
            assert_eq!((answer[3] & 15, answer[7]), (0, 1));
        }
    }
}

#[test]
fn bind_is_asked_over_http_2() {
    if !has(NAMED, &["-V"]) || !has("dig", &["-v"]) {
        return;
    }
    let certificates = certificates();
    let named = Upstream::named_https(&zone(), certificates.path());
    let (server, control) = serve(named.address, certificates.path(), &[]);
    ask_everything(&server);
    assert_eq!(upstream(&control)["fault"], Value::Null);
}

#[test]
fn unbound_is_asked_over_http_2_and_again_when_it_is_back() {
    if !has(UNBOUND, &["-V"]) || !has("dig", &["-v"]) {
        return;
    }
    let certificates = certificates();
    let dir = certificates.path().display();
    let more = format!(
        " https-port: PORT\n tls-service-key: \"{dir}/key.pem\"\n tls-service-pem: \"{dir}/certificate.pem\"\n \
         incoming-num-tcp: 100"
    );
    let mut unbound = Upstream::unbound(Spot::Anywhere, &zone(), &more);
    let (server, _) = serve(unbound.address, certificates.path(), &[]);
    ask_everything(&server);
    unbound.restart();
    let mut number = 0;
    wait_until("there are answers again", || {
        number += 1;
        Told::dig(server.address, &[&format!("again{number}.any.{ZONE}")]).status == "NOERROR"
    });
}

#[test]
fn what_is_no_answer_is_asked_elsewhere_and_told() {
    if !has("dig", &["-v"]) {
        return;
    }
    let certificates = certificates();
    let hostile = hostile_https::start(certificates.path(), &["h2"]);
    let (alone, control) = serve(hostile, certificates.path(), &["--max-stale", "0"]);
    for (label, why) in [
        ("error", "HTTP status 500"),
        ("page", "HTTP content of the type `text/html`, not application/dns-message"),
        ("redirect", "HTTP status 302"),
        ("long", "an HTTP answer longer than a DNS message of 65535 bytes"),
    ] {
        let good = Told::dig(alone.address, &[&format!("good-{label}.example")]);
        assert_eq!(good.status, "NOERROR", "{}\n{}", good.text, alone.log());
        let told = Told::dig(alone.address, &[&format!("{label}.example")]);
        assert_eq!(told.status, "SERVFAIL", "{label}: {}", told.text);
        assert!(told.reason().is_some(), "{}", told.text);
        assert_eq!(upstream(&control)["fault"], why, "{label}");
    }
    let old = Told::dig(alone.address, &["old.example"]);
    assert!((190..=200).contains(&old.ttl_s), "{}", old.text);
}

#[test]
fn with_another_upstream_nobody_notices() {
    if !has("dig", &["-v"]) {
        return;
    }
    let certificates = certificates();
    let hostile = hostile_https::start(certificates.path(), &["h2"]);
    let other = crate::upstreams::Recorder::start(std::time::Duration::ZERO);
    let other = other.address.to_string();
    let args = ["--upstream", &*other, "--upstream-order", "listed"];
    for label in ["error", "page", "redirect", "long", "goodbye", "garbage", "half", "continuation", "pings"]
    {
        let (server, _) = serve(hostile, certificates.path(), &args);
        let told = Told::dig(server.address, &[&format!("{label}.example")]);
        assert_eq!(told.answer, [format!("{label}.example. IN A 198.18.0.9")], "{label}: {}", told.text);
    }
}

#[test]
fn who_agrees_on_something_else_is_not_asked() {
    if !has("dig", &["-v"]) {
        return;
    }
    let certificates = certificates();
    for (alpn, why) in
        [(&["http/1.1"][..], "application protocol"), (&[], "does not speak HTTP/2 there (ALPN)")]
    {
        let other = hostile_https::start(certificates.path(), alpn);
        let (server, control) = serve(other, certificates.path(), &[]);
        assert_eq!(Told::dig(server.address, &["good.example"]).status, "SERVFAIL");
        let fault = upstream(&control)["fault"].to_string();
        assert!(fault.contains(why), "{fault}");
    }
}

fn rss_kib(server: &Server) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", server.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn floods_cost_a_connection_and_no_memory() {
    if !has("dig", &["-v"]) {
        return;
    }
    let certificates = certificates();
    let hostile = hostile_https::start(certificates.path(), &["h2"]);
    let (server, control) = serve(hostile, certificates.path(), &[]);
    assert_eq!(Told::dig(server.address, &["good.example"]).status, "NOERROR");
    let before = rss_kib(&server);
    for label in ["continuation", "pings", "settings", "interim", "long", "garbage", "half"] {
        for number in 0..2 {
            let told = Told::dig(server.address, &[&format!("{label}-{number}.example")]);
            assert_eq!(told.status, "SERVFAIL", "{label}: {}", told.text);
        }
        println!("{label}: {}", upstream(&control)["fault"]);
        let fault = upstream(&control)["fault"].as_str().unwrap_or_default().to_owned();
        // One that is silent is left for another before it has failed.
        assert!(!fault.is_empty() || label == "half", "{label}");
        let grown = rss_kib(&server).saturating_sub(before);
        assert!(grown < MORE_KIB, "{label}: {grown} KiB");
        wait_until("it answers", || {
            Told::dig(server.address, &[&format!("after-{label}.example")]).status == "NOERROR"
        });
    }
    let log = server.log();
    assert!(log.lines().count() < 200, "{log}");
}
