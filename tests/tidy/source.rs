//! Reads Rust far enough to tell code, comments and quoted text apart, and to cut code into tokens.

use std::ops::Range;

/// A Rust file. All views of it have the same lines and columns; what a view leaves out is spaces in it.
pub(crate) struct Source {
    /// Its path from the root of the repository.
    pub(crate) file: String,
    pub(crate) text: String,
    /// Without comments.
    pub(crate) uncommented: String,
    /// Without comments and without what is between quotation marks.
    pub(crate) code: String,
    /// As `code`, without what is compiled for unit tests alone.
    pub(crate) shipped: String,
    /// Comments alone.
    pub(crate) comments: String,
}

impl Source {
    pub(crate) fn new(file: String, text: String) -> Self {
        let chars: Vec<char> = text.chars().collect();
        let kinds = kinds(&chars);
        let view = |keep: &[Kind]| -> String {
            let shown = |(c, kind): (&char, &Kind)| if *c == '\n' || keep.contains(kind) { *c } else { ' ' };
            chars.iter().zip(&kinds).map(shown).collect()
        };
        let code = view(&[Kind::Code]);
        Self {
            file,
            uncommented: view(&[Kind::Code, Kind::Quoted]),
            shipped: without_unit_tests(&code),
            comments: view(&[Kind::Comment]),
            code,
            text,
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Code,
    Comment,
    Quoted,
}

fn kinds(chars: &[char]) -> Vec<Kind> {
    let mut kinds = vec![Kind::Code; chars.len()];
    let mut at = 0;
    while at < chars.len() {
        let (kind, inside) = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => (Kind::Comment, at..find(chars, at, |c| c == '\n')),
            ('/', Some('*')) => (Kind::Comment, at..end_of_block_comment(chars, at)),
            ('"', _) => (Kind::Quoted, at + 1..end_of_string(chars, at + 1)),
            ('r', Some('"' | '#')) if !in_word(chars, at) => match raw_string(chars, at) {
                Some(inside) => (Kind::Quoted, inside),
                None => (Kind::Code, at..at + 1),
            },
            ('\'', Some('\\')) => (Kind::Quoted, at + 1..find(chars, at + 3, |c| c == '\'')),
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => (Kind::Quoted, at + 1..at + 2),
            _ => (Kind::Code, at..at + 1),
        };
        kinds[inside.clone()].fill(kind);
        // The closing quotation mark is code, and opens nothing.
        at = inside.end + usize::from(kind == Kind::Quoted);
    }
    kinds
}

fn find(chars: &[char], from: usize, is_it: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|at| is_it(chars[*at])).unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    while at + 1 < chars.len() {
        match (chars[at], chars[at + 1]) {
            ('/', '*') => depth += 1,
            ('*', '/') => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], start: usize) -> usize {
    let mut at = start;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at.min(chars.len())
}

/// What is inside the raw string whose `r` is at `start`; `None` if it is a raw identifier, as `r#type`.
fn raw_string(chars: &[char], start: usize) -> Option<Range<usize>> {
    let open = find(chars, start + 1, |c| c != '#');
    let hashes = open - start - 1;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let closes = |at: &usize| chars[*at] == '"' && chars[at + 1..].iter().take(hashes).all(|c| *c == '#');
    Some(open + 1..(open + 1..chars.len()).find(closes).unwrap_or(chars.len()))
}

/// Whether the character belongs to a word that began before it. A `b` or `c` that opens a string is no such word.
fn in_word(chars: &[char], at: usize) -> bool {
    let word = |at: usize| chars[at].is_alphanumeric() || chars[at] == '_';
    at > 0 && word(at - 1) && !(matches!(chars[at - 1], 'b' | 'c') && (at == 1 || !word(at - 2)))
}

/// The code with spaces for each item that has `#[cfg(test)]`.
fn without_unit_tests(code: &str) -> String {
    let mut shipped = code.to_owned();
    while let Some(start) = shipped.find("#[cfg(test)]") {
        let end = start + end_of_item(&shipped[start..]);
        let blank: String = shipped[start..end].chars().map(|c| if c == '\n' { c } else { ' ' }).collect();
        shipped.replace_range(start..end, &blank);
    }
    shipped
}

/// The length of the item, field or statement that `code` begins with, its attributes included. It ends with a `;` or
/// `,`, with a `}` at the end of a line, or before the bracket that closes what it is in.
pub(crate) fn end_of_item(code: &str) -> usize {
    let mut depth = 0_usize;
    let mut angles = 0_usize;
    let mut before = '\n';
    for (at, c) in code.char_indices() {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth == 0 => return at,
            ')' | ']' | '}' => depth -= 1,
            // As rustfmt writes it: a comparison has spaces around it, a list of generic arguments none.
            '<' if !before.is_whitespace() => angles += 1,
            '>' if !matches!(before, ' ' | '-' | '=') => angles = angles.saturating_sub(1),
            _ => {}
        }
        before = c;
        let ends = match c {
            ';' => true,
            ',' => angles == 0,
            '}' => code[at + 1..].starts_with('\n') || at + 1 == code.len(),
            _ => false,
        };
        if depth == 0 && ends {
            return at + 1;
        }
    }
    code.len()
}

/// A word, `::`, or any other single character of code.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    pub(crate) line: usize,
    /// Whether nothing but spaces is before it on its line, and how many.
    pub(crate) indent: Option<usize>,
}

impl Token<'_> {
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|c: char| c.is_alphanumeric() || c == '_')
    }
}

pub(crate) fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    for (line, text) in code.lines().enumerate() {
        let mut rest = text;
        while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
            rest = &rest[start..];
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let len = match word {
                0 if rest.starts_with("::") => 2,
                0 => rest.chars().next().map_or(0, char::len_utf8),
                len => len,
            };
            let before = text.len() - rest.len();
            let indent = text[..before].trim().is_empty().then_some(before);
            tokens.push(Token { text: &rest[..len], line: line + 1, indent });
            rest = &rest[len..];
        }
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Source {
        Source::new("src/x.rs".to_owned(), text.to_owned())
    }

    #[test]
    fn strings_with_slashes_are_no_comments() {
        assert_eq!(read(r#"f("http://x"); // why"#).uncommented, r#"f("http://x");       "#);
        assert_eq!(read(r#"f("http://x"); // why"#).code, r#"f("        ");       "#);
        assert_eq!(read(r#"f("\"// ", 1)"#).code, r#"f("     ", 1)"#);
        assert_eq!(read(r#"f("\\"); // "x""#).code.trim_end(), r#"f("  ");"#);
    }

    #[test]
    fn raw_strings_end_at_as_many_hashes() {
        assert_eq!(read("r#\"//\"#; x // y").code, "r#\"  \"#; x     ");
        assert_eq!(read("br##\"\"#\"##; x").code, "br##\"  \"##; x");
        assert_eq!(read("r\"\\\"; x").code, "r\" \"; x");
        assert_eq!(read("r#type // y").code, "r#type     ");
        assert_eq!(read("for\"//\"").code, "for\"  \"");
    }

    #[test]
    fn characters_are_quoted_and_lifetimes_are_not() {
        assert_eq!(read("'\"'; // y").code, "' ';     ");
        assert_eq!(read(r"'\''; '\\'; '\u{2f}'; // y").code.trim_end(), r"'  '; '  '; '      ';");
        assert_eq!(read("fn f<'a>(x: &'a str) {} // 'b'").code.trim_end(), "fn f<'a>(x: &'a str) {}");
        assert_eq!(read("b'/'; 'x: loop {}").code, "b' '; 'x: loop {}");
    }

    #[test]
    fn block_comments_nest() {
        assert_eq!(read("a /* x /* y */ \" */ b").code, "a                   b");
        assert_eq!(read("a /*/ x */ b").comments, "  /*/ x */  ");
        assert_eq!(read("a\n/* x\ny */ b").code, "a\n    \n     b");
    }

    #[test]
    fn unit_tests_are_not_shipped() {
        let text = "fn a() {}\n#[cfg(test)]\n#[allow(x, y)]\nmod tests {\n fn b() { \"}\" }\n}\nfn c() {}\n";
        let words = |code: &str| -> Vec<String> {
            tokens(code).iter().filter(|token| token.is_word()).map(|token| token.text.to_owned()).collect()
        };
        assert_eq!(words(&read(text).shipped), ["fn", "a", "fn", "c"]);
        assert_eq!(words(&read("#[cfg(test)]\nmod tests;\nmod x;").shipped), ["mod", "x"]);
    }

    #[test]
    fn tokens_know_their_lines() {
        let text = "a::b\n  ::{c}";
        let read: Vec<_> = tokens(text).iter().map(|token| (token.text, token.line, token.indent)).collect();
        let expected = [
            ("a", 1, Some(0)),
            ("::", 1, None),
            ("b", 1, None),
            ("::", 2, Some(2)),
            ("{", 2, None),
            ("c", 2, None),
            ("}", 2, None),
        ];
        assert_eq!(read, expected);
    }
}
