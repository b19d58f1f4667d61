//! Holds the rules of the house against the tree: layering, the code map, banned constructs, sizes.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;

/// Which modules of this crate a module may import. The load generator imports `wire` and `sys` alone, so that it
/// stays an independent judge of the server; the wire code on nothing at all.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &["sys", "wire"]),
    ("sys", &[]),
    ("wire", &[]),
    ("policy", &["wire"]),
    ("resolver", &["sys", "wire"]),
    ("store", &["policy", "sys", "wire"]),
    ("gossip", &["store", "sys", "wire"]),
    ("health", &["policy", "store", "sys", "wire"]),
    ("table", &["policy", "store", "sys", "wire"]),
    ("query_time", &["table", "wire"]),
    ("answer", &["policy", "query_time", "resolver", "sys", "table", "wire"]),
    ("transport", &["answer", "sys", "table", "wire"]),
    ("upstream", &["answer", "query_time", "resolver", "sys", "table", "transport", "wire"]),
    ("worker", &["answer", "query_time", "resolver", "sys", "table", "transport", "upstream", "wire"]),
    ("api", &["health", "policy", "store", "wire"]),
    ("http", &["api", "policy", "store", "sys", "wire"]),
    ("sources", &["api", "policy", "store", "sys", "wire"]),
    ("zone_maintenance", &["answer", "api", "store", "sys", "table", "wire", "worker"]),
    (
        "config",
        &[
            "answer",
            "api",
            "policy",
            "query_time",
            "resolver",
            "sys",
            "table",
            "transport",
            "wire",
            "zone_maintenance",
        ],
    ),
    (
        "node",
        &[
            "answer",
            "api",
            "config",
            "gossip",
            "health",
            "http",
            "policy",
            "query_time",
            "resolver",
            "sources",
            "store",
            "sys",
            "table",
            "transport",
            "upstream",
            "wire",
            "worker",
            "zone_maintenance",
        ],
    ),
    ("bench", &["sys", "wire"]),
    ("testbed", &["api", "http"]),
    ("report", &["bench", "wire"]),
    (
        "perf",
        &[
            "answer",
            "api",
            "bench",
            "query_time",
            "report",
            "resolver",
            "store",
            "sys",
            "table",
            "testbed",
            "transport",
            "wire",
            "worker",
        ],
    ),
    ("spread", &["bench", "report", "wire"]),
    ("compare", &["api", "bench", "report", "testbed", "wire"]),
    (
        "cli",
        &[
            "answer",
            "api",
            "bench",
            "compare",
            "config",
            "gossip",
            "http",
            "node",
            "perf",
            "policy",
            "query_time",
            "report",
            "resolver",
            "sources",
            "spread",
            "store",
            "sys",
            "table",
            "testbed",
            "transport",
            "wire",
            "worker",
            "zone_maintenance",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// What every module may import: constants alone.
const GROUND: &str = "limits";

/// Files that run for every packet, where nothing may block, allocate, log, lock or read a clock.
const HOT: &[&str] = &[
    "src/answer/access.rs",
    "src/answer/answerer.rs",
    "src/answer/metrics.rs",
    "src/answer/external.rs",
    "src/answer/rate_limit.rs",
    "src/answer/answer_section.rs",
    "src/transport/udp/batch.rs",
    "src/answer/chaos.rs",
    "src/answer/errors.rs",
    "src/answer/identity.rs",
    "src/answer/types.rs",
    "src/transport/client.rs",
    "src/transport/responder.rs",
    "src/policy/addresses.rs",
    "src/policy/arrange.rs",
    "src/policy/client.rs",
    "src/policy/rendezvous.rs",
    "src/policy/steering.rs",
    "src/resolver/cache/mod.rs",
    "src/resolver/cache/part.rs",
    "src/table/shard.rs",
    "src/wire/query.rs",
    "src/wire/response.rs",
];

/// What must not be in them (their builders and tests aside, which say so where they do).
const BANNED_WHEN_HOT: &[&str] = &[
    "Mutex",
    "RwLock",
    "tracing::",
    "Instant::",
    "SystemTime",
    "HashMap",
    "format!(",
    ".to_string()",
    "Box::new(",
];

/// The only files with `unsafe`.
const UNSAFE: &[&str] = &[
    "src/sys/mmsg/gro.rs",
    "src/sys/mmsg/groups.rs",
    "src/sys/mmsg/mod.rs",
    "src/sys/mmsg/options.rs",
    "src/sys/mmsg/turns.rs",
    "tests/record_memory.rs",
    "tests/worker_allocations.rs",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`, by their paths from the root.
fn rust_files(folder: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    found
}

/// The text without comments, and without the unit tests at its end.
fn code(text: &str) -> String {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn layer(file: &str) -> &str {
    let inner = file.strip_prefix("src/").unwrap_or(file);
    inner.split(['/', '.']).next().unwrap_or_default()
}

#[test]
fn imports_point_one_way() {
    for (file, text) in rust_files("src") {
        let here = layer(&file);
        let allowed = LAYERS
            .iter()
            .find(|(name, _)| *name == here)
            .unwrap_or_else(|| panic!("{file}: `{here}` has no place in LAYERS of tests/tidy.rs"))
            .1;
        for used in code(&text).split("crate::").skip(1) {
            let module = used.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
            assert!(
                module.is_empty() || module == here || module == GROUND || allowed.contains(&module),
                "{file}: `{here}` must not import `{module}`; see LAYERS in tests/tidy.rs"
            );
        }
    }
}

#[test]
fn every_file_is_in_the_code_map_and_every_entry_of_the_map_is_there() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let listed: BTreeSet<_> = map
        .split('`')
        .filter(|word| word.ends_with(".rs") && (word.starts_with("src/") || word.starts_with("tests/")))
        .map(str::to_owned)
        .collect();
    let mut there: BTreeSet<_> = rust_files("src").into_iter().map(|(file, _)| file).collect();
    there.extend(rust_files("tests").into_iter().map(|(file, _)| file));
    let missing: Vec<_> = there.difference(&listed).collect();
    let gone: Vec<_> = listed.difference(&there).collect();
    assert!(missing.is_empty(), "not in ARCHITECTURE.md's code map: {missing:?}");
    assert!(gone.is_empty(), "in ARCHITECTURE.md's code map but not in the tree: {gone:?}");
}

/// Whether `text` has a test of this name: the function, and the attribute before it.
fn has_test(text: &str, test: &str) -> bool {
    let lines: Vec<_> = text.lines().map(str::trim_start).collect();
    let is_it =
        |line: &str| line.strip_prefix("fn ").is_some_and(|rest| rest.starts_with(&format!("{test}(")));
    let has_attribute = |at: usize| {
        lines[..at].iter().rev().take_while(|line| line.starts_with("#[")).any(|line| *line == "#[test]")
    };
    lines.iter().enumerate().any(|(at, line)| is_it(line) && has_attribute(at))
}

#[test]
fn each_invariant_names_tests_that_are_there() {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let invariants =
        text.split("## Invariants\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap();
    let invariants: Vec<_> = invariants.split("\n- ").skip(1).collect();
    assert!(invariants.len() > 20, "{}", invariants.len());
    for invariant in invariants {
        let named: Vec<_> = invariant
            .split('`')
            .filter_map(|word| word.split_once("::"))
            .filter(|(file, _)| file.ends_with(".rs"))
            .collect();
        assert!(!named.is_empty(), "no test is named as `file::test` by the invariant: {invariant}");
        for (file, test) in named {
            let text =
                fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
            assert!(has_test(&text, test), "{file} has no test `{test}`, which shall hold: {invariant}");
        }
    }
    let text = "#[test]\n#[allow(x)]\nfn one() {}\nfn two() {}\n";
    assert!(has_test(text, "one") && !has_test(text, "two") && !has_test(text, "on"));
}

#[test]
fn every_file_opens_with_its_job() {
    for (file, text) in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches"))
    {
        assert!(text.starts_with("//! "), "{file}: does not open with `//!` and its job");
    }
}

#[test]
fn files_and_functions_stay_short() {
    for (file, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() <= MAX_FILE_LINES, "{file} has {} lines; {MAX_FILE_LINES} at most", lines.len());
        for (i, line) in lines.iter().enumerate() {
            let body = line.trim_start();
            let indent = &line[..line.len() - body.len()];
            let is_function =
                ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "async fn ", "pub async fn "]
                    .iter()
                    .any(|start| body.starts_with(start));
            if is_function && !body.ends_with('}') && !body.ends_with(';') {
                let end = format!("{indent}}}");
                let len = lines[i..].iter().position(|line| **line == end).unwrap_or(0) + 1;
                assert!(
                    len <= MAX_FUNCTION_LINES,
                    "{file}:{}: {len} lines; {MAX_FUNCTION_LINES} at most",
                    i + 1
                );
            }
        }
    }
}

#[test]
fn the_hot_path_has_nothing_that_blocks_allocates_or_logs() {
    for file in HOT {
        let text =
            code(&fs::read_to_string(root().join(file)).unwrap_or_else(|error| panic!("{file}: {error}")));
        for banned in BANNED_WHEN_HOT {
            assert!(!text.contains(banned), "{file} has `{banned}`, which has no place on the hot path");
        }
    }
}

#[test]
fn unsafe_is_only_in_the_io_files_and_says_why() {
    for (file, text) in rust_files("src").into_iter().chain(rust_files("tests")) {
        let code = code(&text);
        if file == "tests/tidy.rs" {
            continue;
        }
        let has_unsafe =
            code.contains("unsafe {") || code.contains("unsafe fn") || code.contains("unsafe impl");
        assert!(!has_unsafe || UNSAFE.contains(&file.as_str()), "{file}: no `unsafe` outside {UNSAFE:?}");
    }
}

#[test]
fn nothing_is_left_unfinished() {
    for (file, text) in rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("benches"))
    {
        if file == "tests/tidy.rs" {
            continue;
        }
        for mark in ["TODO", "FIXME", "XXX", "allow(dead_code)", "allow(unused", "#[ignore"] {
            assert!(!text.contains(mark), "{file} has `{mark}`");
        }
    }
}

#[test]
fn documents_link_only_to_what_is_there() {
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = target.is_empty() || target.contains("://");
            assert!(outside || Path::new(&root()).join(target).exists(), "{file} links to {target}");
        }
    }
}
