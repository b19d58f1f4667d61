//! Files that people write: reading them, and telling where they are wrong.
//!
//! Runs on the control thread.

use std::fmt;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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

/// The bytes of the file at `path`, which is a `kind` of file.
///
/// # Errors
/// When it cannot be read.
pub fn read(path: &Path, kind: &str) -> Result<Vec<u8>, FileError> {
    fs::read(path).map_err(|error| FileError::of(path, format_args!("cannot read the {kind}: {error}")))
}

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
