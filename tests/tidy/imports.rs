//! What files import: no room imports from one above it, no circles, no file that nobody imports.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::source::{Source, Token, tokens};
use crate::{Finding, SRC, TESTS, expect_none};

/// Which modules of this crate a module may import. The load generator imports `wire` and `sys` alone, so that it
/// stays an independent judge of the server; the wire code on nothing at all.
const LAYERS: &[(&str, &[&str])] = &[
    ("limits", &["wire"]),
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

/// A path that code names, and where.
struct Path<'a> {
    words: Vec<&'a str>,
    /// The name that it gets here.
    name: &'a str,
    line: usize,
    /// Whether it is in a `use`; in a `pub use`.
    imported: bool,
    exported: bool,
}

/// All paths in the code: those of `use`, and those that stand where they are used.
fn paths<'a>(tokens: &[Token<'a>]) -> Vec<Path<'a>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let before = at.checked_sub(1).map_or("", |before| tokens[before].text);
        let token = tokens[at];
        if token.text == "use" && (token.indent.is_some() || matches!(before, "pub" | ")")) {
            at = add_use_tree(tokens, at + 1, &[], token.indent.is_none(), &mut paths);
            continue;
        }
        let mut end = at + 1;
        if token.is_word() && before != "::" {
            let more = |end: usize| Some((tokens.get(end)?.text == "::", tokens.get(end + 1)?.is_word()));
            while more(end) == Some((true, true)) {
                end += 2;
            }
            if end > at + 1 {
                let words = tokens[at..end].iter().step_by(2).map(|token| token.text).collect();
                paths.push(Path { words, name: "", line: token.line, imported: false, exported: false });
            }
        }
        at = end;
    }
    paths
}

/// Adds the paths of the tree that begins at `at`. Returns where it ends.
fn add_use_tree<'a>(
    tokens: &[Token<'a>],
    mut at: usize,
    prefix: &[&'a str],
    exported: bool,
    paths: &mut Vec<Path<'a>>,
) -> usize {
    let mut words = prefix.to_vec();
    let line = tokens[at].line;
    while at < tokens.len() && !matches!(tokens[at].text, "," | ";" | "}") {
        match tokens[at].text {
            "::" | "*" => at += 1,
            "{" => {
                at += 1;
                while tokens[at].text != "}" {
                    at = add_use_tree(tokens, at, &words, exported, paths);
                    at += usize::from(tokens[at].text == ",");
                }
                return at + 1;
            }
            "as" => {
                paths.push(Path { words, name: tokens[at + 1].text, line, imported: true, exported });
                return at + 2;
            }
            word => {
                words.push(word);
                at += 1;
            }
        }
    }
    let name = words.iter().rev().find(|word| **word != "self").copied().unwrap_or_default();
    paths.push(Path { words, name, line, imported: true, exported });
    at
}

/// The module that a file of `src` is; `None` for the two that are the roots.
fn module(file: &str) -> Option<Vec<&str>> {
    let inner = file.strip_prefix("src/")?.strip_suffix(".rs")?;
    let words: Vec<_> = inner.strip_suffix("/mod").unwrap_or(inner).split('/').collect();
    (!matches!(words[..], ["main"] | ["lib"])).then_some(words)
}

/// The file of a module's parent, of which there are two spellings.
fn parent<'a>(files: &'a [Source], module: &[&str]) -> Option<&'a Source> {
    let folder = module[..module.len() - 1].join("/");
    let spellings = match folder.as_str() {
        "" => ["src/lib.rs".to_owned(), String::new()],
        folder => [format!("src/{folder}/mod.rs"), format!("src/{folder}.rs")],
    };
    files.iter().find(|source| spellings.contains(&source.file))
}

fn declares(code: &str, module: &str) -> bool {
    tokens(code).windows(3).any(|it| it[0].text == "mod" && it[1].text == module && it[2].text == ";")
}

/// Whether neither the module nor one that it is in is there for unit tests alone.
fn is_shipped(files: &[Source], module: &[&str]) -> bool {
    (1..=module.len()).all(|len| {
        let name = module[len - 1];
        parent(files, &module[..len]).is_some_and(|parent| declares(&parent.shipped, name))
    })
}

/// The files of `src` that are not there for unit tests alone.
pub(crate) fn shipped_files() -> impl Iterator<Item = &'static Source> {
    SRC.iter().filter(|source| module(&source.file).is_none_or(|module| is_shipped(&SRC, &module)))
}

/// A module that is shipped, with what it names.
struct Node<'a> {
    source: &'a Source,
    module: Vec<&'a str>,
    paths: Vec<Path<'a>>,
}

/// The modules of the crate without those that only unit tests have.
struct Graph<'a> {
    nodes: Vec<Node<'a>>,
    at: HashMap<Vec<&'a str>, usize>,
}

impl<'a> Graph<'a> {
    fn new(files: &'a [Source]) -> Self {
        let node = |source: &'a Source| {
            let module = module(&source.file)?;
            let paths = paths(&tokens(&source.shipped));
            is_shipped(files, &module).then_some(Node { source, module, paths })
        };
        let nodes: Vec<_> = files.iter().filter_map(node).collect();
        let at = nodes.iter().enumerate().map(|(at, node)| (node.module.clone(), at)).collect();
        Self { nodes, at }
    }

    /// The path from the crate's root; `None` if it leads to another crate.
    fn absolute(&self, from: usize, words: &[&'a str]) -> Option<Vec<&'a str>> {
        let node = &self.nodes[from];
        let supers = words.iter().take_while(|word| **word == "super").count();
        let (base, rest) = match *words.first()? {
            "crate" => (&node.module[..0], &words[1..]),
            "self" => (&node.module[..], &words[1..]),
            "super" => (&node.module[..node.module.len().checked_sub(supers)?], &words[supers..]),
            word => {
                let child = [&node.module[..], &[word]].concat();
                if self.at.contains_key(&child) {
                    (&node.module[..], words)
                } else {
                    let import = node.paths.iter().find(|path| path.imported && path.name == word)?;
                    let inner = *import.words.first()?;
                    let here = matches!(inner, "crate" | "self" | "super") || inner != word;
                    let base = here.then(|| self.absolute(from, &import.words)).flatten()?;
                    return Some([&base[..], &words[1..]].concat());
                }
            }
        };
        Some(base.iter().chain(rest).filter(|word| **word != "self").copied().collect())
    }

    /// The file that a path leads to: that of its longest part that is a file, or where this has the item from.
    fn resolve(&self, from: usize, words: &[&'a str]) -> Option<usize> {
        let path = self.absolute(from, words)?;
        let (len, found) = (1..=path.len()).rev().find_map(|len| Some((len, *self.at.get(&path[..len])?)))?;
        let Some(item) = path.get(len) else { return Some(found) };
        let export = self.nodes[found].paths.iter().find(|path| path.exported && path.name == *item);
        match export.and_then(|export| self.resolve(found, &export.words)) {
            Some(origin) if found != from => Some(origin),
            _ => Some(found),
        }
    }

    /// Which files a file needs, and where it first says so.
    ///
    /// That a module uses its own ancestor is no need of that kind: a child sees what is private in its ancestors, not
    /// the other way, so Rust has what the children share stand there.
    fn needs(&self, from: usize) -> BTreeMap<usize, usize> {
        let mut needs = BTreeMap::new();
        for path in &self.nodes[from].paths {
            let Some(to) = self.resolve(from, &path.words) else { continue };
            if to != from && !self.nodes[from].module.starts_with(&self.nodes[to].module) {
                needs.entry(to).or_insert(path.line);
            }
        }
        needs
    }

    /// For each file those of its circle, if it is in one, itself included.
    fn circles(&self, needs: &[BTreeMap<usize, usize>]) -> Vec<BTreeSet<usize>> {
        let reach = |start: usize| {
            let mut reached = BTreeSet::new();
            let mut ahead = vec![start];
            while let Some(at) = ahead.pop() {
                ahead.extend(needs[at].keys().filter(|to| reached.insert(**to)));
            }
            reached
        };
        let reached: Vec<_> = (0..self.nodes.len()).map(reach).collect();
        let circle =
            |at: usize| reached[at].iter().copied().filter(|to| reached[*to].contains(&at)).collect();
        (0..self.nodes.len()).map(circle).collect()
    }
}

#[test]
fn there_are_no_circles_between_files() {
    let graph = Graph::new(&SRC);
    let needs: Vec<_> = (0..graph.nodes.len()).map(|at| graph.needs(at)).collect();
    let circles = graph.circles(&needs);
    let file = |at: usize| graph.nodes[at].source.file.as_str();
    let mut findings = Vec::new();
    for circle in circles.iter().collect::<BTreeSet<_>>() {
        for from in circle {
            for (to, line) in needs[*from].iter().filter(|(to, _)| circle.contains(to)) {
                let what =
                    format!("{} is used here and leads back, in a circle of {}", file(*to), circle.len());
                let instead = "give what both need a file of its own, or move the item to where it is used";
                findings.push(Finding::new(file(*from), *line, what, instead));
            }
        }
    }
    expect_none(findings);
}

#[test]
fn imports_point_one_way() {
    let mut findings = Vec::new();
    for source in SRC.iter() {
        let here = source.file["src/".len()..].split(['/', '.']).next().unwrap_or_default();
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == here) else {
            let what = format!("`{here}` has no place among the layers");
            findings.push(Finding::new(
                &source.file,
                1,
                what,
                "give it one in LAYERS of tests/tidy/imports.rs",
            ));
            continue;
        };
        let all_code = paths(&tokens(&source.code));
        for path in all_code.iter().filter(|path| path.words[0] == "crate" && path.words.len() > 1) {
            let used = path.words[1];
            // Unit tests may look further, as the tests of `tests/` do.
            let tested = !source.shipped.lines().nth(path.line - 1).is_some_and(|line| line.contains(used));
            if !tested && used != here && used != GROUND && !allowed.contains(&used) {
                let what = format!("`{here}` must not import `{used}`");
                let instead =
                    "take it as an argument, or move what both need below; LAYERS in tests/tidy/imports.rs";
                findings.push(Finding::new(&source.file, path.line, what, instead));
            }
        }
    }
    expect_none(findings);
}

#[test]
fn every_file_is_imported() {
    let mut findings = Vec::new();
    for source in SRC.iter() {
        let Some(module) = module(&source.file) else { continue };
        let name = module[module.len() - 1];
        if !parent(&SRC, &module).is_some_and(|parent| declares(&parent.code, name)) {
            let what = format!("no `mod {name};` leads to it");
            findings.push(Finding::new(&source.file, 1, what, "delete it, or declare it in its parent"));
        }
    }
    let named = |file: &str| {
        let file = file.rsplit('/').next().unwrap_or(file);
        TESTS.iter().any(|other| {
            declares(&other.code, file.trim_end_matches(".rs"))
                || other.uncommented.lines().any(|line| line.starts_with("#[path") && line.contains(file))
        })
    };
    for source in TESTS.iter() {
        // A file of its own in `tests` or `benches`, and a `main.rs`, are crates.
        let is_crate = source.file.matches('/').count() == 1 || source.file.ends_with("/main.rs");
        if !is_crate && !named(&source.file) {
            findings.push(Finding::new(&source.file, 1, "no `mod` leads to it", "delete it, or declare it"));
        }
    }
    expect_none(findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, text: &str) -> Source {
        Source::new(name.to_owned(), text.to_owned())
    }

    fn needs(files: &[Source], from: &str) -> Vec<String> {
        let graph = Graph::new(files);
        let from = graph.nodes.iter().position(|node| node.source.file == from).unwrap();
        graph.needs(from).into_keys().map(|to| graph.nodes[to].source.file.clone()).collect()
    }

    #[test]
    fn paths_lead_to_the_file_that_has_the_item() {
        let files = [
            file("src/lib.rs", "mod a;\nmod b;\n"),
            file("src/a/mod.rs", "pub mod one;\npub mod two;\npub mod three;\npub use one::One as Other;\n"),
            file("src/a/one.rs", "pub struct One;\n#[cfg(test)]\nmod tests { use crate::b::B; }\n"),
            file("src/a/two.rs", "use super::{self, Shared, three::{self as x, Y}};\nfn f() { x::g() }\n"),
            file("src/a/three.rs", "pub fn g() -> super::Other {}\n"),
            file("src/b.rs", "use crate::a::{Other, two};\nfn f() { two::g(); std::mem::take() }\n"),
        ];
        assert_eq!(needs(&files, "src/a/mod.rs"), ["src/a/one.rs"]);
        assert!(needs(&files, "src/a/one.rs").is_empty(), "a test may use what it likes");
        assert_eq!(needs(&files, "src/a/two.rs"), ["src/a/three.rs"], "its parent is no need");
        assert_eq!(needs(&files, "src/a/three.rs"), ["src/a/one.rs"], "through what the parent exports");
        assert_eq!(needs(&files, "src/b.rs"), ["src/a/one.rs", "src/a/two.rs"]);
    }

    #[test]
    fn a_circle_is_found_and_a_line_is_none() {
        let files = [
            file("src/lib.rs", "mod a;\nmod b;\nmod c;\n"),
            file("src/a.rs", "use crate::b::B;\n"),
            file("src/b.rs", "fn f() { crate::a::g() }\nuse crate::c::C;\n"),
            file("src/c.rs", "\n"),
        ];
        let graph = Graph::new(&files);
        let needs: Vec<_> = (0..3).map(|at| graph.needs(at)).collect();
        let circles = graph.circles(&needs);
        assert_eq!(circles, [BTreeSet::from([0, 1]), BTreeSet::from([0, 1]), BTreeSet::new()]);
    }
}
