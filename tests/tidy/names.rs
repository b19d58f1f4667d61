//! Names: one meaning each, and somebody who uses what has one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use crate::imports::shipped_files;
use crate::source::{Source, Token, tokens};
use crate::{Finding, SRC, TESTS, expect_none, root};

/// Modules that may have types of one name: two can be told apart by their folders.
const MAX_MEANINGS: usize = 2;

/// What each subcommand has, by clap's words.
const OF_SUBCOMMANDS: &[&str] = &["Args", "Command"];

/// Types that code defines, each with its line. Those inside of traits and their implementations belong to these.
fn types<'a>(code: &'a str) -> Vec<(&'a str, usize)> {
    let tokens = tokens(code);
    let defined = |it: &[Token<'a>]| {
        let line_begin = it[0].indent == Some(0) || it[0].indent.is_none();
        let is_type = matches!(it[0].text, "struct" | "enum" | "trait" | "union");
        (is_type || it[0].text == "type" && line_begin).then_some((it[1].text, it[1].line))
    };
    tokens.windows(2).filter(|it| it[1].is_word()).filter_map(defined).collect()
}

#[test]
fn a_type_name_has_one_meaning() {
    let mut by_name: BTreeMap<&str, Vec<(&Source, usize)>> = BTreeMap::new();
    for source in shipped_files() {
        for (name, line) in types(&source.shipped) {
            if !(source.file.starts_with("src/cli/") && OF_SUBCOMMANDS.contains(&name)) {
                by_name.entry(name).or_default().push((source, line));
            }
        }
    }
    let files = |places: &[(&Source, usize)]| -> BTreeSet<String> {
        places.iter().map(|(source, _)| source.file.clone()).collect()
    };
    by_name.retain(|_, places| files(places).len() > MAX_MEANINGS);
    let mut findings = Vec::new();
    for (name, places) in &by_name {
        for (source, line) in places.iter() {
            let what = format!("`{name}` is a type in {} modules", files(places).len());
            let instead = "name it by what it is here, in the field's words";
            findings.push(Finding::new(&source.file, *line, what, instead));
        }
    }
    expect_none(findings);
}

/// An item that others could name.
struct Item<'a> {
    name: &'a str,
    line: usize,
    /// Whether it is a type or a trait.
    is_type: bool,
}

/// Whether the token is in a `mod` with a body: what is public there is so for the file.
fn is_in_inner_module(tokens: &[Token<'_>], at: usize) -> bool {
    let begin = tokens[..at].windows(3).rposition(|it| it[0].text == "mod" && it[2].text == "{");
    let Some(inside) = begin.map(|begin| &tokens[begin..at]) else { return false };
    let count = |brace| inside.iter().filter(|token| token.text == brace).count();
    count("{") > count("}")
}

/// Items with `pub`, of whatever reach.
fn public_items<'a>(tokens: &[Token<'a>]) -> Vec<Item<'a>> {
    let mut items = Vec::new();
    let is_public = |at: &usize| tokens[*at].text == "pub" && !is_in_inner_module(tokens, *at);
    for at in (0..tokens.len()).filter(is_public) {
        let mut next = at + 1;
        if tokens[next].text == "(" {
            next += tokens[next..].iter().position(|token| token.text == ")").map_or(0, |len| len + 1);
        }
        while matches!(tokens[next].text, "async" | "unsafe" | "extern") {
            next += 1;
        }
        // `const fn` is a function, `const X` is none.
        next += usize::from(tokens[next].text == "const" && tokens[next + 1].text == "fn");
        let is_type = matches!(tokens[next].text, "struct" | "enum" | "trait" | "type" | "union");
        if is_type || matches!(tokens[next].text, "fn" | "const" | "static") {
            let Token { text: name, line, .. } = tokens[next + 1];
            items.push(Item { name, line, is_type });
        }
    }
    items
}

/// Words of signatures, of public fields and variants, and of associated types. A type that is named there has to be as
/// public as these, even if nobody else writes its name.
fn words_of_surface<'a>(tokens: &[Token<'a>]) -> BTreeSet<&'a str> {
    let mut words = BTreeSet::new();
    for (at, token) in tokens.iter().enumerate() {
        // Methods of a trait's implementation have no `pub`.
        let begins = token.text == "pub" || matches!(token.text, "fn" | "type") && token.indent.is_some();
        if !begins {
            continue;
        }
        // An item's own name says nothing of who needs it.
        let is_kind = |token: &Token<'_>| matches!(token.text, "struct" | "enum" | "trait" | "type");
        let kind = tokens[at..].iter().take(5).position(is_kind);
        let is_enum = kind.is_some_and(|kind| tokens[at + kind].text == "enum");
        let ends = |token: &Token<'_>| token.text == "}" || !is_enum && matches!(token.text, "{" | ";");
        let surface = tokens[at..].iter().take_while(|token| !ends(token)).enumerate();
        let others = surface.filter(|(i, token)| token.is_word() && kind.is_none_or(|kind| *i != kind + 1));
        words.extend(others.map(|(_, token)| token.text));
    }
    words
}

#[test]
fn what_is_public_is_named_by_somebody_else() {
    let scripts = fs::read_dir(root().join("scripts"))
        .unwrap()
        .filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    let scripts: Vec<String> = scripts.collect();
    let words_of = |text| -> BTreeSet<String> {
        tokens(text).iter().filter(|token| token.is_word()).map(|token| token.text.to_owned()).collect()
    };
    // Format strings name constants, so strings count.
    let others = TESTS.iter().filter(|source| !source.file.starts_with("tests/tidy/"));
    let mut words: Vec<(&str, BTreeSet<String>)> =
        SRC.iter().chain(others).map(|it| (it.file.as_str(), words_of(&it.uncommented))).collect();
    words.extend(scripts.iter().map(|text| ("scripts", words_of(text))));
    let mut by_word: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (file, words) in &words {
        words.iter().for_each(|word| by_word.entry(word).or_default().push(file));
    }
    let mut findings = Vec::new();
    for source in shipped_files() {
        let tokens = tokens(&source.shipped);
        let surface = words_of_surface(&tokens);
        for Item { name, line, is_type } in public_items(&tokens) {
            let named = by_word.get(name).is_some_and(|files| files.iter().any(|file| *file != source.file));
            if named || is_type && surface.contains(name) {
                continue;
            }
            let (what, instead) = match tokens.iter().filter(|token| token.text == name).count() {
                1 => ("nobody names", "delete it"),
                _ => ("nobody outside of this file names", "take its `pub` away"),
            };
            findings.push(Finding::new(&source.file, line, format!("{what} `{name}`"), instead));
        }
    }
    expect_none(findings);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_public_items_are_found() {
        let code =
            "pub struct A;\nenum B { C(D) }\nimpl X for A {\n    type Y = A;\n}\npub(crate) type E = A;\n";
        let names: Vec<_> = types(code).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["A", "B", "E"]);
        let code = "pub(in crate::a) const fn f() {}\npub const N: usize = 1;\npub use a::b;\npub mod c;\nfn g() \
                    {}\nmod m { pub fn n() {} }\n\
                    pub async fn h() {}\npub struct S { pub x: u8 }\n";
        let items: Vec<_> =
            public_items(&tokens(code)).into_iter().map(|item| (item.name, item.is_type)).collect();
        assert_eq!(items, [("f", false), ("N", false), ("h", false), ("S", true)]);
    }

    #[test]
    fn what_a_signature_names_is_on_the_surface() {
        let code = "pub struct A;\npub struct B { c: C, pub d: D }\nimpl A {\n    pub fn e(&self) -> E { F }\n}\npub \
                    enum G { H(I) }\n";
        let surface = words_of_surface(&tokens(code));
        let has = |name| surface.contains(name);
        assert!(has("D") && has("E") && has("I"));
        assert!(!has("A") && !has("C") && !has("F") && !has("G"));
    }
}
