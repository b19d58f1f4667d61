//! Why the gate cannot judge: which file or tool, what is wrong, and what to do.
//!
//! Pure.

use std::fmt;
use std::path::Path;

/// What keeps a measurement from being made or compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PerfFault(String);

impl fmt::Display for PerfFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PerfFault {}

impl PerfFault {
    /// With this text.
    pub fn new(what: impl fmt::Display) -> Self {
        Self(what.to_string())
    }
}

/// Something is wrong with the file at `path`.
pub(super) fn fault(path: &Path, what: impl fmt::Display) -> PerfFault {
    PerfFault::new(format_args!("{}: {what}", path.display()))
}
