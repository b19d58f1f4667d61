//! Files that run for every packet, where nothing may block, allocate, log, lock or read a clock.

use std::ops::RangeInclusive;

use crate::source::{Source, end_of_item, tokens};
use crate::{Finding, SRC, expect_none};

/// All files that a query meets between the receiving and the sending of its datagram, or of its message over TCP: what
/// `Watched::serve` and `Connection` call. The loops around them, which run once a turn and have the clock, are none.
const HOT: &[&str] = &[
    "src/answer/access.rs",
    "src/answer/answer_section.rs",
    "src/answer/answerer.rs",
    "src/answer/chaos.rs",
    "src/answer/errors.rs",
    "src/answer/external.rs",
    "src/answer/identity.rs",
    "src/answer/metrics.rs",
    "src/answer/rate_limit.rs",
    "src/answer/types.rs",
    "src/policy/addresses.rs",
    "src/policy/arrange.rs",
    "src/policy/client.rs",
    "src/policy/rendezvous.rs",
    "src/policy/steering.rs",
    "src/query_time/cache.rs",
    "src/query_time/mod.rs",
    "src/query_time/peer_lookup.rs",
    "src/resolver/cache/block.rs",
    "src/resolver/cache/mod.rs",
    "src/resolver/cache/part.rs",
    "src/resolver/mod.rs",
    "src/resolver/question.rs",
    "src/resolver/special_use.rs",
    "src/resolver/routes.rs",
    "src/sys/counter.rs",
    "src/sys/mmsg/address.rs",
    "src/sys/mmsg/groups.rs",
    "src/sys/mmsg/mod.rs",
    "src/sys/published.rs",
    "src/table/mod.rs",
    "src/table/recent.rs",
    "src/table/root.rs",
    "src/table/shard.rs",
    "src/table/zone.rs",
    "src/transport/client.rs",
    "src/transport/connection.rs",
    "src/transport/responder.rs",
    "src/transport/udp/batch.rs",
    "src/wire/cookie.rs",
    "src/wire/edns.rs",
    "src/wire/framing.rs",
    "src/wire/header.rs",
    "src/wire/name.rs",
    "src/wire/query.rs",
    "src/wire/record.rs",
    "src/wire/response.rs",
];

const LOCKS: &str = "publish a value (`sys::published`), or count in the worker's own memory";
const CLOCK: &str = "take the time from the caller, who reads it once a turn";
const LOGS: &str = "count an event (`answer::metrics`); the owner logs";
const ALLOCATES: &str = "use room that was allocated at the start, or a `SmallVec`; what runs at a start or a change \
                         alone has `// cold: why` above it";

/// What must not be in them, as tokens.
const BANNED: &[(&[&str], &str)] = &[
    (&["Mutex"], LOCKS),
    (&["RwLock"], LOCKS),
    (&["tracing", "::"], LOGS),
    (&["Instant", "::"], CLOCK),
    (&["SystemTime"], CLOCK),
    (&["HashMap"], ALLOCATES),
    (&["format", "!"], ALLOCATES),
    (&["vec", "!"], ALLOCATES),
    (&["Box", "::", "new"], ALLOCATES),
    (&["Arc", "::", "new"], ALLOCATES),
    (&["Vec", "::", "new"], ALLOCATES),
    (&["Vec", "::", "with_capacity"], ALLOCATES),
    (&["String", "::", "new"], ALLOCATES),
    (&[".", "to_string", "("], ALLOCATES),
    (&[".", "to_owned", "("], ALLOCATES),
    (&[".", "to_vec", "("], ALLOCATES),
    (&[".", "concat", "("], ALLOCATES),
    (&[".", "collect", "("], ALLOCATES),
    (&[".", "collect", "::"], ALLOCATES),
];

/// Shorter ones are no reasons.
const MIN_REASON_LEN: usize = 12;

/// A comment `// cold: why`: it excuses its own line, or, on a line of its own, the item or statement below it.
struct Marker {
    line: usize,
    reason: String,
    lines: RangeInclusive<usize>,
}

fn markers(source: &Source) -> Vec<Marker> {
    let code: Vec<_> = source.code.lines().collect();
    let marker = |(at, comment): (usize, &str)| {
        let reason = comment.split_once("// cold:")?.1.trim().to_owned();
        let below = || {
            let is_item = |line: &&str| !line.trim().is_empty() && !line.trim_start().starts_with("#[");
            let begin = at + 1 + code[at + 1..].iter().position(is_item)?;
            let rest = code[begin..].join("\n");
            Some(begin + 1..=begin + rest[..end_of_item(&rest)].lines().count())
        };
        let own = at + 1..=at + 1;
        let lines = if code[at].trim().is_empty() { below().unwrap_or(own) } else { own };
        Some(Marker { line: at + 1, reason, lines })
    };
    source.comments.lines().enumerate().filter_map(marker).collect()
}

/// What of a file has no place on the way of a packet, and markers that excuse nothing or give no reason.
fn findings(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let markers = markers(source);
    let mut used = vec![false; markers.len()];
    let tokens = tokens(&source.shipped);
    for at in 0..tokens.len() {
        for (banned, instead) in BANNED {
            let is_it =
                tokens[at..].iter().map(|token| token.text).take(banned.len()).eq(banned.iter().copied());
            if !is_it {
                continue;
            }
            let line = tokens[at + banned.len() - 1].line;
            match markers.iter().position(|marker| marker.lines.contains(&line)) {
                Some(marker) => used[marker] = true,
                None => {
                    let what = format!("`{}` runs for every packet", banned.concat());
                    findings.push(Finding::new(&source.file, line, what, *instead));
                }
            }
        }
    }
    for (marker, used) in markers.iter().zip(used) {
        let what = match (used, marker.reason.len() < MIN_REASON_LEN) {
            (false, _) => "`// cold:` excuses nothing",
            (true, true) => "`// cold:` without a reason",
            (true, false) => continue,
        };
        findings.push(Finding::new(&source.file, marker.line, what, "take it away, or say when this runs"));
    }
    findings
}

#[test]
fn the_hot_path_has_nothing_that_blocks_allocates_or_logs() {
    let gone = HOT.iter().filter(|file| !SRC.iter().any(|source| source.file == **file));
    let gone = gone.map(|file| {
        Finding::new(file, 1, "is not there", "name what it has become in HOT of tests/tidy/hot.rs")
    });
    let hot = SRC.iter().filter(|source| HOT.contains(&source.file.as_str()));
    expect_none(gone.chain(hot.flat_map(findings)).collect());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> Vec<usize> {
        let source = Source::new("src/x.rs".to_owned(), text.to_owned());
        findings(&source).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_marker_excuses_the_item_below_it_and_nothing_else() {
        assert_eq!(found("fn f() {\n    vec![1];\n    g().collect::<X>()\n}\n"), [2, 3]);
        let item = "/// Makes it.\n// cold: once, at the start\n#[must_use]\nfn f() -> X<A, B> \
                    {\n    vec![1]\n}\n\nfn g() { vec![] }\n";
        assert_eq!(found(item), [8]);
        let statement = "fn f() \
                         {\n    // cold: once, at the start\n    let x = g(\n        vec![],\n    );\n    vec![]\n}\n";
        assert_eq!(found(statement), [6]);
        assert_eq!(found("let x = vec![]; // cold: once, at the start\nvec![];\n"), [2]);
        assert_eq!(
            found("let x = \"vec![]\"; // vec![]\n#[cfg(test)]\nmod t { vec![] }\n"),
            [] as [usize; 0]
        );
    }

    #[test]
    fn a_marker_needs_a_reason_and_something_to_excuse() {
        assert_eq!(found("// cold:\nfn f() { vec![] }\n"), [1]);
        assert_eq!(found("// cold: once, at the start\nfn f() {}\n"), [1]);
    }
}
