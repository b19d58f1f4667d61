//! Files that people write: reading them, and telling where they are wrong.
//!
//! Runs on the thread `files`, and at a start on the main thread.

use std::fmt;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::thread;

use crate::limits::MAX_FILE_LEN;

/// Why a file was refused: which file, where in it, and what was wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileError {
    path: PathBuf,
    /// `None` if it is not about any one line.
    line: Option<usize>,
    what: String,
}

impl fmt::Display for FileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        write!(f, " {}", self.what)
    }
}

impl std::error::Error for FileError {}

impl FileError {
    /// `what` is wrong in `line`, counted from 1, of the file at `path`.
    #[must_use]
    pub fn at(path: &Path, line: usize, what: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), line: Some(line), what: what.to_string() }
    }

    /// `what` is wrong with the file at `path`.
    #[must_use]
    pub fn of(path: &Path, what: impl fmt::Display) -> Self {
        Self { path: path.to_owned(), line: None, what: what.to_string() }
    }
}

/// Bytes of a file at most: more than forty million names of a hosts file.
pub const MAX_LEN: u64 = 1 << 30;

/// The bytes of the file at `path`, which is a `kind` of file.
///
/// # Errors
/// When it cannot be read, or has more than [`MAX_FILE_LEN`] bytes.
pub fn read(path: &Path, kind: &str) -> Result<Vec<u8>, FileError> {
    let cannot = |error| FileError::of(path, format_args!("cannot read the {kind}: {error}"));
    let too_long = || {
        let what = format_args!("the {kind} has more than {} MiB: split it", MAX_FILE_LEN >> 20);
        FileError::of(path, what)
    };
    let file = File::open(path).map_err(cannot)?;
    let len = file.metadata().map_err(cannot)?.len();
    if len > MAX_FILE_LEN {
        return Err(too_long());
    }
    let mut bytes = Vec::with_capacity(usize::try_from(len).unwrap_or_default());
    // It may grow meanwhile, or have no length of its own.
    let mut file = file.take(MAX_FILE_LEN + 1);
    loop {
        // The kernel copies what it is asked for in one go, and nobody else has the CPU meanwhile.
        let some = file.by_ref().take(READ_AT_ONCE).read_to_end(&mut bytes).map_err(cannot)?;
        if bytes.len() as u64 > MAX_FILE_LEN {
            return Err(too_long());
        }
        if some == 0 {
            return Ok(bytes);
        }
        thread::yield_now();
    }
}

/// Bytes of a file that are read in one go: some ten microseconds.
const READ_AT_ONCE: u64 = 64 << 10;

/// The same of a file with secrets, which nobody else may read.
///
/// # Errors
/// When it cannot be read, or others can read it, too.
pub fn read_secret(path: &Path, kind: &str) -> Result<Vec<u8>, FileError> {
    let bytes = read(path, kind)?;
    let metadata = fs::metadata(path).map_err(|error| FileError::of(path, error))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        let what =
            format_args!("others can read the secrets in it (mode {mode:03o}); `chmod 600` mends that");
        return Err(FileError::of(path, what));
    }
    Ok(bytes)
}

/// A value in a file as it is told to people: its front, if it is long.
pub struct Excerpt<'a>(pub &'a str);

/// Characters of a value that are told.
const MAX_EXCERPT_LEN: usize = 80;

impl fmt::Display for Excerpt<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.char_indices().nth(MAX_EXCERPT_LEN) {
            None => f.write_str(self.0),
            Some((end, _)) => write!(f, "{}... ({} bytes)", &self.0[..end], self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_too_long_is_refused_before_it_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names");
        let file = File::create(&path).unwrap();
        file.set_len(10 << 30).unwrap();
        let told = read(&path, "names file").unwrap_err().to_string();
        assert!(told.ends_with("names: the names file has more than 1024 MiB: split it"), "{told}");
        fs::write(&path, b"a").unwrap();
        assert_eq!(read(&path, "names file").unwrap(), b"a");
    }

    #[test]
    fn of_a_long_value_the_front_is_told() {
        let (short, long) = ("\u{fc}".repeat(80), "\u{fc}".repeat(81));
        assert_eq!(Excerpt(&short).to_string(), short);
        assert_eq!(Excerpt(&long).to_string(), format!("{short}... (162 bytes)"));
    }
}
