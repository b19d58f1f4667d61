//! What `docs/files.md`, `docs/invariants.md` and the other documents say of the tree: the code map, the invariants'
//! tests, the links.

use std::collections::BTreeSet;
use std::fs;

use crate::{Finding, SRC, TESTS, expect_none, root};

/// The line of `text` that has `part`.
fn line_of(text: &str, part: &str) -> usize {
    text.find(part).map_or(1, |at| text[..at].lines().count().max(1))
}

#[test]
fn every_file_is_in_the_code_map_and_every_entry_of_the_map_is_there() {
    let map = fs::read_to_string(root().join("docs/files.md")).unwrap();
    let listed: BTreeSet<_> = map
        .split('`')
        .filter(|word| word.ends_with(".rs") && (word.starts_with("src/") || word.starts_with("tests/")))
        .collect();
    let files = SRC.iter().chain(TESTS.iter()).map(|source| source.file.as_str());
    let there: BTreeSet<_> = files.filter(|file| !file.starts_with("benches/")).collect();
    let missing = there
        .difference(&listed)
        .map(|file| Finding::new(file, 1, "is not in docs/files.md", "add a row that says what it is for"));
    let gone = listed.difference(&there).map(|file| {
        let what = format!("`{file}` is not there");
        Finding::new(
            "docs/files.md",
            line_of(&map, file),
            what,
            "name the file that it has become, or take it out",
        )
    });
    expect_none(missing.chain(gone).collect());
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
    let text = fs::read_to_string(root().join("docs/invariants.md")).unwrap();
    let invariants: Vec<_> = text.split("\n- ").skip(1).collect();
    assert!(invariants.len() > 20, "{}", invariants.len());
    let mut findings = Vec::new();
    for invariant in invariants {
        let line = line_of(&text, invariant);
        let instead = "name one that holds it as `file::test`; an invariant without a test is none";
        let mut find = |what: String| findings.push(Finding::new("docs/invariants.md", line, what, instead));
        let named: Vec<_> = invariant
            .split('`')
            .filter_map(|word| word.split_once("::"))
            .filter(|(file, _)| file.ends_with(".rs"))
            .collect();
        if named.is_empty() {
            find("the invariant names no test".to_owned());
        }
        for (file, test) in named {
            let there = fs::read_to_string(root().join(file)).is_ok_and(|text| has_test(&text, test));
            if !there {
                find(format!("{file} has no test `{test}`"));
            }
        }
    }
    expect_none(findings);
    let text = "#[test]\n#[allow(x)]\nfn one() {}\nfn two() {}\n";
    assert!(has_test(text, "one") && !has_test(text, "two") && !has_test(text, "on"));
}

#[test]
fn documents_link_only_to_what_is_there() {
    let mut findings = Vec::new();
    for file in ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next()) {
            let outside = target.is_empty() || target.contains("://");
            if !outside && !root().join(target).exists() {
                let line = line_of(&text, &format!("]({target}"));
                let what = format!("links to {target}, which is not there");
                findings.push(Finding::new(
                    file,
                    line,
                    what,
                    "link to where it has gone, or take the link out",
                ));
            }
        }
    }
    expect_none(findings);
}

/// A map has to fit on a page or two: what there is more to say of is in `docs/`.
const MAX_MAP_LEN: usize = 12 * 1024;

#[test]
fn the_map_is_short_and_names_files_that_are_there() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let mut findings = Vec::new();
    if map.len() > MAX_MAP_LEN {
        let what = format!("has {} bytes; {MAX_MAP_LEN} at most", map.len());
        findings.push(Finding::new(
            "ARCHITECTURE.md",
            1,
            what,
            "leave details to docs/ or to the files themselves",
        ));
    }
    let named = map.split('`').skip(1).step_by(2).filter(|word| word.ends_with(".rs"));
    for file in named.filter(|file| !file.contains(' ')) {
        let is_there = [root().join(file), root().join("src").join(file)].iter().any(|path| path.exists());
        if !is_there && file.contains('/') {
            let what = format!("`{file}` is not there");
            findings.push(Finding::new(
                "ARCHITECTURE.md",
                line_of(&map, file),
                what,
                "name the file that it has become",
            ));
        }
    }
    expect_none(findings);
}
