//! The outer form of zone files (RFC 1035 §5.1): one entry a line, without comments, parentheses and `@` for a name.
//!
//! Runs on the thread `files`. The crate that reads the entries panics on a file that ends inside of parentheses or
//! quotes, which must not happen to a running server, and takes an `@` in a record's data for a name of that letter; so
//! it is given entries that have none of these.

use crate::limits::MAX_LINE_LEN;

/// A file's entries.
pub(super) struct Entries {
    /// One a line.
    pub(super) text: Vec<u8>,
    /// The line of the file, counted from 1, that each began in.
    pub(super) lines: Vec<usize>,
}

const _: () = assert!(MAX_LINE_LEN == 64 << 10, "what is told below says so");

/// What is wrong, and in which line.
pub(super) type Mistake = (usize, &'static str);

/// Types with names in their data.
const WITH_NAMES: &[&str] =
    &["NS", "CNAME", "SOA", "PTR", "MX", "RP", "AFSDB", "SRV", "NAPTR", "KX", "DNAME", "SVCB", "HTTPS"];

/// Takes `text` apart into entries. `origin` is what `@` stands for until the file says otherwise.
pub(super) fn entries(text: &[u8], origin: &str) -> Result<Entries, Mistake> {
    let mut reader = ZoneReader { text, at: 0, line: 1 };
    let mut entries = Entries { text: Vec::with_capacity(text.len() + 1), lines: Vec::new() };
    let mut origin = origin.as_bytes().to_vec();
    while let Some(mut entry) = reader.entry()? {
        if entry.tokens.is_empty() {
            continue;
        }
        if entry.tokens.iter().map(|token| token.len() + 1).sum::<usize>() > MAX_LINE_LEN {
            return Err((
                entry.line,
                "the entry that begins here has more than 65536 bytes, which no record has",
            ));
        }
        let is = |token: &[u8], word: &str| token.eq_ignore_ascii_case(word.as_bytes());
        if let [directive, name, ..] = &entry.tokens[..]
            && is(directive, "$ORIGIN")
        {
            origin = if name.ends_with(b".") { name.clone() } else { join(name, &origin) };
            entry.tokens[1].clone_from(&origin);
        }
        // The type stands behind the name, the TTL and the class, of which each may be left out.
        let typed =
            entry.tokens.iter().take(4).position(|token| WITH_NAMES.iter().any(|name| is(token, name)));
        for (i, token) in entry.tokens.iter_mut().enumerate() {
            let is_owner = i == 0 && !entry.indented;
            if token == b"@" && (is_owner || typed.is_some_and(|typed| i > typed)) {
                token.clone_from(&origin);
            }
        }
        if entry.indented {
            entries.text.push(b' ');
        }
        entries.text.extend(entry.tokens.join(&b' '));
        entries.text.push(b'\n');
        entries.lines.push(entry.line);
    }
    Ok(entries)
}

fn join(name: &[u8], origin: &[u8]) -> Vec<u8> {
    match (name, origin) {
        (b"@", _) => origin.to_vec(),
        (_, b".") => [name, b"."].concat(),
        _ => [name, b".", origin].concat(),
    }
}

struct ZoneEntry {
    line: usize,
    /// It begins with blanks: its owner is that of the entry before.
    indented: bool,
    tokens: Vec<Vec<u8>>,
}

struct ZoneReader<'a> {
    text: &'a [u8],
    at: usize,
    line: usize,
}

impl ZoneReader<'_> {
    fn next(&mut self) -> Option<u8> {
        let byte = *self.text.get(self.at)?;
        self.at += 1;
        self.line += usize::from(byte == b'\n');
        Some(byte)
    }

    /// The next entry, or a line without one; `None` at the end of the file.
    fn entry(&mut self) -> Result<Option<ZoneEntry>, Mistake> {
        let Some(first) = self.text.get(self.at) else { return Ok(None) };
        let mut entry =
            ZoneEntry { line: self.line, indented: matches!(first, b' ' | b'\t'), tokens: Vec::new() };
        let (mut depth, mut opened) = (0, self.line);
        loop {
            let line = self.line;
            match self.next() {
                None if depth > 0 => return Err((opened, "a parenthesis is opened here and never closed")),
                None => return Ok(Some(entry)),
                Some(b'\n') if depth == 0 => return Ok(Some(entry)),
                Some(b'\n' | b' ' | b'\t' | b'\r') => {}
                Some(b';') => {
                    while self.text.get(self.at).is_some_and(|&byte| byte != b'\n') {
                        self.at += 1;
                    }
                }
                Some(b'(') => {
                    if depth == 0 {
                        opened = line;
                    }
                    depth += 1;
                }
                Some(b')') if depth == 0 => {
                    return Err((line, "a parenthesis is closed that was never opened"));
                }
                Some(b')') => depth -= 1,
                Some(first) => {
                    if entry.tokens.is_empty() {
                        entry.line = line;
                    }
                    entry.tokens.push(self.token(first, line)?);
                }
            }
        }
    }

    /// A token that begins with `first`, which has been read.
    fn token(&mut self, first: u8, line: usize) -> Result<Vec<u8>, Mistake> {
        let quoted = first == b'"';
        let mut token = vec![first];
        let mut byte = first;
        loop {
            if byte == b'\\' {
                let escaped = self.next().filter(|&byte| byte != b'\n');
                token.push(escaped.ok_or((line, "a backslash stands at the end of the line"))?);
            }
            let ends = |byte: u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b';' | b'(' | b')' | b'"');
            match self.text.get(self.at) {
                None | Some(b'\n') if quoted => {
                    return Err((line, "a quote is opened here and not closed in its line"));
                }
                None => return Ok(token),
                Some(&next) if !quoted && ends(next) => return Ok(token),
                Some(&next) => {
                    self.at += 1;
                    token.push(next);
                    if quoted && next == b'"' {
                        return Ok(token);
                    }
                    byte = next;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<(String, Vec<usize>), Mistake> {
        entries(text.as_bytes(), "x.")
            .map(|entries| (String::from_utf8(entries.text).unwrap(), entries.lines))
    }

    #[test]
    fn entries_come_one_a_line_with_the_lines_they_began_in() {
        let text = "; comment\n@ 7 IN SOA ns me ( 1 ; serial\n 2 3\n4 5 )\n\n\t A 10.0.0.1\r\nt TXT \"a ; \\\"(@\" @ \
                    \\;";
        let expected = "x. 7 IN SOA ns me 1 2 3 4 5\n A 10.0.0.1\nt TXT \"a ; \\\"(@\" @ \\;\n";
        assert_eq!(read(text), Ok((expected.into(), vec![2, 6, 7])));
    }

    #[test]
    fn an_at_sign_is_the_origin_where_a_name_stands() {
        let text = "@ MX 1 @\n$ORIGIN b\n@ CNAME @\na 5 TXT @\n$origin c.\n IN ptr @\n";
        let expected = "x. MX 1 x.\n$ORIGIN b.x.\nb.x. CNAME b.x.\na 5 TXT @\n$origin c.\n IN ptr c.\n";
        assert_eq!(read(text).unwrap().0, expected);
    }

    #[test]
    fn what_is_not_closed_is_told_with_its_line() {
        for (text, line, what) in [
            ("\na TXT ( b\n\n", 2, "a parenthesis is opened here"),
            ("a A 1 )\n", 1, "a parenthesis is closed"),
            ("\n\na TXT \"b\nc\"", 3, "a quote is opened here"),
            ("a TXT \"b", 1, "a quote is opened here"),
            ("a\\\n", 1, "a backslash"),
            ("a TXT \"\\", 1, "a backslash"),
            (
                &format!("\na TXT (\n{})", "b\n".repeat(40_000)),
                2,
                "the entry that begins here has more than 65536",
            ),
        ] {
            let (at, told) = read(text).unwrap_err();
            assert!(at == line && told.starts_with(what), "{text:?}: {at}: {told}");
        }
    }
}
