//! Why the gate cannot judge: which file or tool, what is wrong, and what to do.
//!
//! Pure.

use std::fmt;
use std::path::Path;

/// What keeps a measurement from being made or compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

impl Fault {
    /// With this text.
    pub fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

/// Something is wrong with the file at `path`.
pub(super) fn fault(path: &Path, what: impl fmt::Display) -> Fault {
    Fault::new(format_args!("{}: {what}", path.display()))
}
