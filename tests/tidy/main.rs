//! Holds the rules of the house against the tree. A rule prints all that it finds: where, what is wrong, what to do
//! instead.
#![allow(missing_docs)]

mod hot;
mod imports;
mod map;
mod names;
mod shape;
mod source;

use std::fs;
use std::path::PathBuf;
use std::sync::LazyLock;

use source::Source;

/// A place that breaks a rule.
pub(crate) struct Finding {
    pub(crate) file: String,
    pub(crate) line: usize,
    pub(crate) what: String,
    pub(crate) instead: String,
}

impl Finding {
    pub(crate) fn new(file: &str, line: usize, what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into(), instead: instead.into() }
    }
}

/// Fails with all of the findings, if there are any.
pub(crate) fn expect_none(findings: Vec<Finding>) {
    let list: String = findings
        .iter()
        .map(|it| format!("\n{}:{}: {}\n    instead: {}", it.file, it.line, it.what, it.instead))
        .collect();
    assert!(findings.is_empty(), "{} found:{list}\n", findings.len());
}

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files of `src`.
pub(crate) static SRC: LazyLock<Vec<Source>> = LazyLock::new(|| rust_files("src"));
/// All Rust files of `tests` and `benches`.
pub(crate) static TESTS: LazyLock<Vec<Source>> =
    LazyLock::new(|| rust_files("tests").into_iter().chain(rust_files("benches")).collect());

pub(crate) fn all_files() -> impl Iterator<Item = &'static Source> {
    SRC.iter().chain(TESTS.iter())
}

fn rust_files(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
                found.push(Source::new(name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort_by(|a, b| a.file.cmp(&b.file));
    found
}
