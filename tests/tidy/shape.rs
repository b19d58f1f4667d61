//! How a file looks: its first line, its length, its width; what is left unfinished, and what is unsafe.

use crate::source::tokens;
use crate::{Finding, SRC, TESTS, all_files, expect_none};

const MAX_FILE_LINES: usize = 600;
const MAX_FUNCTION_LINES: usize = 70;
const MAX_WIDTH: usize = 120;

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

#[test]
fn every_file_opens_with_its_job() {
    let findings = all_files().filter(|source| !source.text.starts_with("//! ")).map(|source| {
        Finding::new(
            &source.file,
            1,
            "does not open with its job",
            "begin with `//! ` and one sentence of what it is for",
        )
    });
    expect_none(findings.collect());
}

#[test]
fn files_and_functions_stay_short() {
    let mut findings = Vec::new();
    for source in SRC.iter().chain(TESTS.iter().filter(|source| source.file.starts_with("tests/"))) {
        let lines: Vec<_> = source.text.lines().collect();
        if lines.len() > MAX_FILE_LINES {
            let what = format!("has {} lines; {MAX_FILE_LINES} at most", lines.len());
            findings.push(Finding::new(&source.file, 1, what, "give its second idea a file of its own"));
        }
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
                if len > MAX_FUNCTION_LINES {
                    let what = format!("the function has {len} lines; {MAX_FUNCTION_LINES} at most");
                    findings.push(Finding::new(
                        &source.file,
                        i + 1,
                        what,
                        "give its parts names of their own",
                    ));
                }
            }
        }
    }
    expect_none(findings);
}

#[test]
fn lines_are_at_most_as_wide_as_a_window() {
    let mut findings = Vec::new();
    for source in all_files() {
        for (at, line) in source.text.lines().enumerate() {
            let width = line.chars().count();
            if width > MAX_WIDTH {
                let what = format!("is {width} wide; {MAX_WIDTH} at most");
                let instead = "wrap the comment; end a string's line with `\\`";
                findings.push(Finding::new(&source.file, at + 1, what, instead));
            }
        }
    }
    expect_none(findings);
}

#[test]
fn unsafe_is_only_in_the_io_files_and_says_why() {
    let mut findings = Vec::new();
    for source in all_files().filter(|source| !UNSAFE.contains(&source.file.as_str())) {
        for token in tokens(&source.code).iter().filter(|token| token.text == "unsafe") {
            let instead =
                "use what `sys` or rustix has; a further file with it goes to UNSAFE in tests/tidy/shape.rs";
            findings.push(Finding::new(&source.file, token.line, "has `unsafe`", instead));
        }
    }
    expect_none(findings);
}

#[test]
fn nothing_is_left_unfinished() {
    let mut findings = Vec::new();
    let marks = [
        ("TODO", "do it, or file an issue"),
        ("FIXME", "do it, or file an issue"),
        ("XXX", "do it, or file an issue"),
        ("allow(dead_code)", "delete what nobody uses"),
        ("allow(unused", "delete what nobody uses"),
        ("#[ignore", "mend the test, or delete it"),
    ];
    for source in all_files() {
        for (at, (code, comment)) in source.code.lines().zip(source.comments.lines()).enumerate() {
            for (mark, instead) in
                marks.iter().filter(|(mark, _)| code.contains(mark) || comment.contains(mark))
            {
                findings.push(Finding::new(&source.file, at + 1, format!("has `{mark}`"), *instead));
            }
        }
    }
    expect_none(findings);
}
