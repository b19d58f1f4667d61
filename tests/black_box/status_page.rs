//! The status page, in a real Chromium.

use std::process::{Command, Output};
use std::time::Duration;

use crate::control::start;
use crate::harness::{ask, has, query, run, wait_until};
use crate::http::get;
use crate::resolver_control::ScriptedUpstream;

/// Loads the page in a window of this size and lets it run for some seconds.
fn chromium(at: &str, window: &str, more: &[&str]) -> Output {
    let profile = tempfile::tempdir().unwrap();
    Command::new("timeout")
        .args([
            "60",
            "chromium",
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ])
        .args(["--no-first-run", "--disable-background-networking", "--disable-component-update"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg(format!("--window-size={window}"))
        .args(["--virtual-time-budget=6000"])
        .args(more)
        .arg(format!("http://{at}/"))
        .output()
        .expect("chromium starts")
}

#[test]
fn the_page_shows_nodes_names_and_rates_and_loads_nothing_from_elsewhere() {
    let upstream = ScriptedUpstream::start();
    let (server, at) = start(&["--upstream", &upstream.address]);
    let page = get(&at, "/");
    assert!(page.head.contains("content-security-policy: default-src 'none'"), "{page:?}");
    for elsewhere in ["src=", "href=", "@import", "http://", "https://", "url("] {
        assert!(!page.body.contains(elsewhere), "the page has `{elsewhere}`");
    }
    if !has("chromium", &["--version"]) {
        return;
    }
    for (name, address) in [("web", "10.0.0.1"), ("web", "10.0.0.2"), ("db", "10.0.0.3")] {
        assert!(run(&["add", name, address, "--control", &at]).status.success());
    }
    // A name is text there, whatever it has in it.
    let marked = "<img src=x onerror=document.title='owned'>";
    assert!(run(&["add", "api", "10.0.0.9", "--instance", marked, "--control", &at]).status.success());
    let client = server.client();
    for _ in 0..4 {
        ask(&client, &query(1, "www.example", 1));
    }
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                ask(&client, &query(1, "web.redbreast.internal", 1));
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        let mut shown = String::new();
        // Chromium's own clock runs ahead of the answers on a busy machine: then it is loaded once more.
        wait_until("the page shows what there is", || {
            let output = chromium(&at, "390,844", &["--dump-dom"]);
            shown = String::from_utf8_lossy(&output.stdout).into_owned();
            let all = ["web.redbreast.internal.", "10.0.0.3", "127.0.0.1", "&lt;img src=x", "class=\"self\""];
            let all = [&all[..], &[&upstream.address, "75.0 %"]].concat();
            all.iter().all(|text| shown.contains(text)) && !shown.contains("id=\"rate\">–")
        });
        assert!(!shown.contains("owned</title>") && shown.contains("– Redbreast</title>"), "{shown}");
        let directory = tempfile::tempdir().unwrap();
        let kept = std::env::var("REDBREAST_SCREENSHOTS").ok();
        for (name, window) in [("phone", "390,844"), ("desk", "1280,900")] {
            let directory = kept.clone().unwrap_or_else(|| directory.path().display().to_string());
            let file = format!("{directory}/status-{name}.png");
            chromium(&at, window, &[&format!("--screenshot={file}")]);
            let bytes = std::fs::read(&file).expect("a picture");
            assert!(bytes.starts_with(b"\x89PNG") && bytes.len() > 5_000, "{} bytes", bytes.len());
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
}
