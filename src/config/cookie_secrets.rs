//! The file with the secrets that server cookies are made with, which servers behind one address share (RFC 9018 §5).
//!
//! Runs on the thread `files`. A line has a secret as 32 hexadecimal digits. The first makes cookies; a second, the one
//! that was there before it or the one that comes next, is accepted too; `#` begins a comment.

use std::path::Path;

use crate::sys::file_error::{self, FileError};
use crate::wire::cookie::{Secret, Secrets};

/// Reads the secrets in the file at `path`. What is told of a mistake never shows a secret.
///
/// # Errors
/// [`FileError`].
pub fn read(path: &Path) -> Result<Secrets, FileError> {
    let bytes = file_error::read(path, "file of cookie secrets")?;
    let mut secrets = Vec::new();
    for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
        let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
        if line.is_empty() {
            continue;
        }
        let secret = parse(line).ok_or_else(|| {
            FileError::at(
                path,
                i + 1,
                format_args!("a secret has 32 hexadecimal digits, not {}", found(line)),
            )
        })?;
        if secrets.len() == 2 {
            return Err(FileError::at(
                path,
                i + 1,
                "there can be two secrets, one to use and one to accept too",
            ));
        }
        secrets.push(secret);
    }
    let Some(&current) = secrets.first() else {
        return Err(FileError::of(path, "there is no secret; write one as 32 hexadecimal digits"));
    };
    Ok(Secrets { current, previous: secrets.get(1).copied() })
}

/// What a line has instead of a secret, without showing it.
fn found(line: &[u8]) -> String {
    match line.len() {
        32 => "other characters among them".into(),
        len => format!("{len} characters"),
    }
}

fn parse(line: &[u8]) -> Option<Secret> {
    let text = str::from_utf8(line).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    (text.len() == 32).then(|| u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes))?
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read_text(text: &str) -> Result<Secrets, String> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        read(file.path())
            .map_err(|error| error.to_string().replace(&file.path().display().to_string(), "file"))
    }

    #[test]
    fn the_first_secret_is_used_and_a_second_accepted() {
        let one = "e5e973e5a6b2a43f48e7dc849e37bfcf";
        let secrets =
            read_text(&format!("# the day's\n {one} # used\r\n\n000102030405060708090A0B0C0D0E0F")).unwrap();
        assert_eq!(secrets.current[..3], [0xe5, 0xe9, 0x73]);
        assert_eq!(secrets.previous.unwrap()[14..], [14, 15]);
        assert_eq!(read_text(one).unwrap().previous, None);
    }

    #[test]
    fn each_mistake_is_told_and_no_secret_shown() {
        let one = "e5e973e5a6b2a43f48e7dc849e37bfcf";
        for (text, told) in [
            (String::new(), "file: there is no secret"),
            ("\nabc".into(), "file:2: a secret has 32 hexadecimal digits, not 3 characters"),
            (one.replace("e5e", "+5e"), "file:1: a secret has 32 hexadecimal digits, not other characters"),
            (format!("{one}\n{one}\n{one}"), "file:3: there can be two secrets"),
        ] {
            let error = read_text(&text).unwrap_err();
            assert!(error.starts_with(told) && !error.contains("5e9"), "{error}");
        }
    }
}
