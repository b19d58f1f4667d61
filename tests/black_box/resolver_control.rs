//! What an operator sees of the resolver, and can do to it: caches, upstreams, metrics, explanations.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::control::{Metrics, start};
use crate::harness::{Server, ask, query, run, wait_until};
use crate::http::{get, send};

/// A server that says, of each name below `example`, 10.9.0.1 for a minute; of `nx.example`, that there is none; of
/// `fail.example`, that it cannot say.
pub(crate) struct ScriptedUpstream {
    pub(crate) address: String,
    asked: Arc<AtomicUsize>,
}

impl ScriptedUpstream {
    pub(crate) fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        let asked = Arc::new(AtomicUsize::new(0));
        thread::spawn({
            let asked = Arc::clone(&asked);
            move || {
                let mut buffer = [0; 2_000];
                while let Ok((len, client)) = socket.recv_from(&mut buffer) {
                    asked.fetch_add(1, Ordering::Relaxed);
                    socket.send_to(&answer(&buffer[..len]), client).unwrap();
                }
            }
        });
        Self { address, asked }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn answer(query: &[u8]) -> Vec<u8> {
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
    let question = &query[12..end];
    let soa =
        b"\x07example\0\0\x06\0\x01\0\0\0\x3c\0\x16\0\0\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x01\0\0\0\x3c";
    let (code, counts, record): (u8, [u8; 2], &[u8]) = match question {
        [2, b'n', b'x', ..] => (3, [0, 1], soa),
        [4, b'f', b'a', b'i', b'l', ..] => (2, [0, 0], b""),
        _ => (0, [1, 0], b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\x09\0\x01"),
    };
    let [answers, authorities] = counts;
    let header = [query[0], query[1], 0x81, 0x80 | code, 0, 1, 0, answers, 0, authorities, 0, 0];
    [&header[..], question, record].concat()
}

/// Looks `name` up; returns the response code.
fn look_up(server: &Server, name: &str) -> u8 {
    ask(&server.client(), &query(7, name, 1))[3] & 0xf
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text_of(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
fn the_cache_is_shown_and_forgets_what_it_is_told_to() {
    let upstream = ScriptedUpstream::start();
    let (server, at) = start(&["--workers", "1", "--upstream", &upstream.address]);
    let cache = |args: &[&str]| run(&[&["cache"], args, &["--control", &at]].concat());
    let nothing = cache(&["show", "www.example"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text_of(&nothing).contains("nothing of www.example is in the cache"));
    for (name, code) in [("www.example", 0), ("www.example", 0), ("a.www.example", 0), ("nx.example", 3)] {
        assert_eq!(look_up(&server, name), code, "{name}");
    }
    assert_eq!(upstream.asked(), 3);
    let shown = json_of(&cache(&["show", "WWW.example", "--json"]));
    let answer = &shown[0];
    assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(
        [&answer["type"], &answer["rcode"], &answer["dnssec_ok"], &answer["workers"][0]["stale"]],
        [&json!("A"), &json!("NOERROR"), &json!(false), &json!(false)]
    );
    let left = answer["workers"][0]["left_s"].as_i64().unwrap();
    assert!((1..=60).contains(&left), "{shown}");
    let record = &answer["answers"][0];
    assert_eq!((&record["name"], &record["data"]), (&json!("www.example."), &json!("10.9.0.1")));
    assert_eq!(record["ttl_s"].as_i64(), Some(left));
    let negative = text_of(&cache(&["show", "nx.example"]));
    assert!(negative.contains("NXDOMAIN") && negative.contains("example. "), "{negative}");
    let stats = json_of(&cache(&["stats", "--json"]));
    assert_eq!((&stats["entries"], &stats["workers"][0]["entries"]), (&json!(3), &json!(3)), "{stats}");
    assert_eq!((&stats["limits"]["max_bytes"], &stats["hit_ratio"]), (&json!(64 << 20), &json!(0.25)));
    assert!(text_of(&cache(&["stats"])).contains("25.0% of the queries for names in other domains"));
    // Forgotten, it is asked for once more; what is below it is not.
    assert_eq!(text_of(&cache(&["flush", "www.example"])), "1 answer forgotten\n");
    assert_eq!((look_up(&server, "www.example"), look_up(&server, "a.www.example")), (0, 0));
    assert_eq!(upstream.asked(), 4);
    assert_eq!(json_of(&cache(&["flush", "www.example", "--below", "--json"])), json!({"removed": 2}));
    assert_eq!(text_of(&cache(&["flush", "--all"])), "1 answer forgotten\n");
    assert_eq!(text_of(&cache(&["flush", "."])), "nothing of that was in the cache\n");
}

#[test]
fn an_answer_that_several_workers_have_is_shown_once() {
    let upstream = ScriptedUpstream::start();
    let (server, at) = start(&["--workers", "2", "--upstream", &upstream.address]);
    // The kernel gives each client to one worker.
    wait_until("both workers have asked", || {
        look_up(&server, "www.example");
        upstream.asked() == 2
    });
    let shown = get(&at, "/v1/cache/www.example").json();
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(shown[0]["workers"].as_array().map(Vec::len), Some(2), "{shown}");
    assert_eq!(send(&at, "DELETE", "/v1/cache/www.example", "", "").json(), json!({"removed": 2}));
    let stats = get(&at, "/v1/cache").json();
    assert_eq!((&stats["entries"], stats["workers"].as_array().map(Vec::len)), (&json!(0), Some(2)));
}

#[test]
fn what_cannot_be_told_of_a_cache_is_refused_with_what_to_do() {
    let (_server, at) = start(&[]);
    for (method, path) in [
        ("GET", "/v1/cache"),
        ("GET", "/v1/cache/www.example"),
        ("DELETE", "/v1/cache"),
        ("DELETE", "/v1/cache/www.example"),
    ] {
        let answer = send(&at, method, path, "", "");
        assert_eq!(answer.status, 404, "{method} {path}");
        assert!(answer.problem().contains("start it with --upstream, --resolv-conf or --forward"));
    }
    let output = run(&["cache", "stats", "--control", &at]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text_of(&output).contains("--upstream"), "{output:?}");
    let (_server, at) = start(&["--upstream", "127.0.0.1:9"]);
    for (path, told) in [
        ("/v1/cache/web.redbreast.internal", "answered from memory and never in the cache"),
        ("/v1/cache/a..b", "is no name"),
        ("/v1/cache/www.example?above=true", "above"),
    ] {
        let answer = send(&at, "DELETE", path, "", "");
        assert_eq!(answer.status, 400, "{path}: {answer:?}");
        assert!(answer.problem().contains(told), "{path}: {answer:?}");
    }
    for args in
        [&["cache", "flush"][..], &["cache", "flush", "a.example", "--all"], &["cache", "flush", "--below"]]
    {
        assert_eq!(run(args).status.code(), Some(2), "{args:?}");
    }
}

#[test]
fn each_packet_is_counted_once_and_each_upstream_is_told() {
    let upstream = ScriptedUpstream::start();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent_at = silent.local_addr().unwrap().to_string();
    let forward = format!("slow.example={silent_at}");
    let args = ["--upstream", &upstream.address, "--forward", &forward, "--upstream-timeout", "400"];
    let (server, at) = start(&[&["--workers", "1"], &args[..]].concat());
    for (name, code) in [
        ("a.example", 0),
        ("a.example", 0),
        ("b.example", 0),
        ("nx.example", 3),
        ("nx.example", 3),
        ("fail.example", 2),
        ("a.slow.example", 2),
        ("localhost", 0),
        ("web.redbreast.internal", 3),
    ] {
        assert_eq!(look_up(&server, name), code, "{name}");
    }
    // While one waits, so it is told.
    let client = server.client();
    client.send(&query(8, "b.slow.example", 1)).unwrap();
    wait_until("it waits", || {
        let stats = get(&at, "/v1/cache").json();
        (&stats["in_flight"], &stats["waiting"]) == (&json!(1), &json!(1))
    });
    client.recv(&mut [0; 512]).unwrap();
    let status = get(&at, "/v1/status").json();
    let counted = |events: &[&str]| -> Vec<_> {
        events.iter().map(|event| status["counters"][event].as_u64().unwrap()).collect()
    };
    assert_eq!(counted(&["cached", "fetched", "stale", "forward_failed"]), [2, 3, 0, 3], "{status}");
    assert_eq!(counted(&["positive", "nxdomain", "forwarded", "coalesced"]), [1, 1, 6, 0], "{status}");
    assert_eq!(status["forwarding"]["hit_ratio"], 0.25);
    let upstreams = status["forwarding"]["upstreams"].as_array().unwrap();
    let of = |i: usize, event: &str| upstreams[i]["counters"][event].as_u64().unwrap();
    assert_eq!((&upstreams[0]["upstream"], &upstreams[0]["state"]), (&json!(upstream.address), &json!("up")));
    assert_eq!(
        (&upstreams[0]["domains"], &upstreams[1]["domains"]),
        (&json!(["."]), &json!(["slow.example."]))
    );
    assert_eq!((of(0, "answered"), of(0, "declined"), of(1, "answered")), (4, 1, 0), "{status}");
    assert_eq!(upstreams[0]["round_trips"]["count"], 4);
    assert!(of(1, "sent") >= 2 && of(1, "timed_out") >= 2, "{status}");
    let table = text_of(&run(&["status", "--control", &at]));
    assert!(table.contains("25.0% answered from the cache") && table.contains("slow.example."), "{table}");
    let Some(metrics) = Metrics::read(&at) else { return };
    assert_eq!(metrics.sum("redbreast_dns_events_total fetched"), 3.0, "{metrics:?}");
    assert_eq!(metrics.sum("redbreast_upstream_events_total declined"), 1.0, "{metrics:?}");
    assert_eq!(metrics.sum("redbreast_upstream_round_trip_seconds_count"), 4.0, "{metrics:?}");
    assert!(metrics.sum("redbreast_upstream_up ") >= 1.0, "{metrics:?}");
    assert!(metrics.sum("redbreast_cache_entries ") >= 3.0, "{metrics:?}");
    assert!(metrics.sum("redbreast_cache_bytes ") > 1_000.0, "{metrics:?}");
    assert_eq!(metrics.sum("redbreast_cache_evictions_total"), 0.0, "{metrics:?}");
    assert_eq!(metrics.sum("redbreast_questions_in_flight "), 0.0, "{metrics:?}");
}

/// A server of DNS over TLS whose certificate nobody vouches for; where it is.
fn self_signed() -> String {
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![key.cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(key.signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let config = Arc::new(config);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let tls = rustls::ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, stream.unwrap());
            // The client will not have it.
            let _ = stream.read(&mut [0; 512]);
            let _ = stream.flush();
        }
    });
    address.to_string()
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_told_and_not_silently_servfail() {
    let directory = tempfile::tempdir().unwrap();
    let authority = directory.path().join("ca.pem");
    let other = rcgen::generate_simple_self_signed(["other.example".to_owned()]).unwrap();
    std::fs::write(&authority, other.cert.pem()).unwrap();
    let upstream = format!("tls://{}", self_signed());
    let authority = authority.to_str().unwrap();
    let (mut server, at) = start(&[
        "--workers",
        "1",
        "--upstream",
        &upstream,
        "--upstream-ca",
        authority,
        "--upstream-timeout",
        "1000",
    ]);
    assert_eq!(look_up(&server, "www.example"), 2);
    let status = get(&at, "/v1/status").json();
    let told = &status["forwarding"]["upstreams"][0];
    assert_eq!(told["state"], "down", "{status}");
    let fault = told["fault"].as_str().unwrap_or_else(|| panic!("{status}"));
    assert!(fault.starts_with("TLS: its certificate") && fault.contains("has a signature that"), "{fault}");
    let table = text_of(&run(&["status", "--control", &at]));
    assert!(
        table.contains(&format!("the last connection to {upstream} has failed: TLS: its certificate")),
        "{table}"
    );
    server
        .wait_for_log(&format!("the connection to the upstream {upstream} has failed: TLS: its certificate"));
    // It is told once, however often it happens.
    for _ in 0..3 {
        look_up(&server, "www.example");
        thread::sleep(Duration::from_millis(400));
    }
    assert_eq!(server.log().matches("TLS: its certificate").count(), 1, "{}", server.log());
}

#[test]
fn an_explanation_says_what_is_done_about_names_in_other_domains() {
    let (_server, at) =
        start(&["--upstream", "192.0.2.1", "--forward", "corp.example=192.0.2.2,192.0.2.3:5353"]);
    assert!(run(&["add", "web", "10.0.0.1", "--control", &at]).status.success());
    let explain = |name: &str| text_of(&run(&["explain", name, "--control", &at]));
    for (name, told) in [
        ("www.example", "it is asked for at 192.0.2.1; "),
        ("a.corp.example", "it is asked for at 192.0.2.2, 192.0.2.3:5353, who are there for corp.example.; "),
        ("a.localhost", "it is answered here, and nobody else is asked, as RFC 6761 §6.3 has it"),
        ("localhost.", "RFC 6761 §6.3"),
        ("7.0.0.10.in-addr.arpa", "RFC 6303"),
        ("1.0.0.10.in-addr.arpa", "from memory, as the reverse name"),
        ("com.", "a name of one label is looked for in the first domain"),
        ("web", "is answered by the policy "),
        ("nobody", "has no records that somebody has registered"),
    ] {
        wait_until(&format!("{name} is explained"), || explain(name).contains(told));
    }
    let forwarded = get(&at, "/v1/explain/a.corp.example").json();
    let expected =
        json!({"by": "forwarded", "upstreams": ["192.0.2.2", "192.0.2.3:5353"], "domain": "corp.example."});
    assert_eq!(forwarded["outside"], expected);
    let (_server, at) = start(&[]);
    let refused = text_of(&run(&["explain", "www.example", "--control", &at]));
    assert!(refused.contains("it is refused, for nobody is asked for such names"), "{refused}");
}
