//! The file with the keys that the nodes of a cluster share.
//!
//! Runs on the thread `cluster`. A line has a key as 64 hexadecimal digits; `#` begins a comment. The first key seals,
//! all of them open, so that keys are changed while the cluster runs: install the new one as a second line everywhere,
//! use it by making it the first line everywhere, then remove the old one.

use std::fmt;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::sys::file_error::{self, FileError};

/// Keys in a file at most: what comes is tried with those whose id it has.
const MAX_KEYS: usize = 16;

/// Bytes of a key.
const KEY_LEN: usize = 32;

/// Bytes by which a key is told from others, in the open.
pub(super) const KEY_ID_LEN: usize = 4;

/// A key.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct SealKey {
    pub(super) secret: [u8; KEY_LEN],
    pub(super) id: [u8; KEY_ID_LEN],
}

impl SealKey {
    fn new(secret: [u8; KEY_LEN]) -> Self {
        // A hash of a random key of 32 bytes gives nothing of it away.
        let hash = Sha256::new().chain_update(b"redbreast key id").chain_update(secret).finalize();
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&hash[..KEY_ID_LEN]);
        Self { secret, id }
    }
}

/// The keys of a cluster, at least one.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRing {
    keys: Vec<SealKey>,
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({} keys)", self.keys.len())
    }
}

impl KeyRing {
    /// Reads the keys in the file at `path`. What is told of a mistake never shows a key.
    ///
    /// # Errors
    /// [`FileError`], also for a file that others can read.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let bytes = file_error::read_secret(path, "key file")?;
        Self::parse(&bytes, path)
    }

    fn parse(bytes: &[u8], path: &Path) -> Result<Self, FileError> {
        let mut keys: Vec<SealKey> = Vec::new();
        for (i, line) in bytes.split(|&byte| byte == b'\n').enumerate() {
            let line = line.split(|&byte| byte == b'#').next().unwrap_or_default().trim_ascii();
            if line.is_empty() {
                continue;
            }
            let wrong = |what: &dyn fmt::Display| FileError::at(path, i + 1, what);
            let secret = parse_key(line).ok_or_else(|| {
                let found = if line.iter().all(u8::is_ascii_hexdigit) {
                    "digits"
                } else {
                    "bytes, not all of them digits"
                };
                wrong(&format_args!("a key has 64 hexadecimal digits; this line has {} {found}", line.len()))
            })?;
            if keys.iter().any(|key| key.secret == secret) {
                return Err(wrong(&"this key is there twice"));
            }
            if keys.len() == MAX_KEYS {
                return Err(wrong(&format_args!("there can be {MAX_KEYS} keys at most: remove old ones")));
            }
            keys.push(SealKey::new(secret));
        }
        if keys.is_empty() {
            return Err(FileError::of(path, "no key in the file; `openssl rand -hex 32` makes one"));
        }
        Ok(Self { keys })
    }

    /// The key that seals.
    pub(super) fn first(&self) -> &SealKey {
        &self.keys[0]
    }

    /// The keys that may open what has this id.
    pub(super) fn with_id(&self, id: [u8; KEY_ID_LEN]) -> impl Iterator<Item = &SealKey> {
        self.keys.iter().filter(move |key| key.id == id)
    }
}

fn parse_key(line: &[u8]) -> Option<[u8; KEY_LEN]> {
    let mut key = [0; KEY_LEN];
    if line.len() != 2 * KEY_LEN {
        return None;
    }
    for (byte, digits) in key.iter_mut().zip(line.chunks(2)) {
        let digits = str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    Some(key)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// A ring of made-up keys.
    pub(in crate::gossip) fn ring(numbers: &[u8]) -> KeyRing {
        KeyRing { keys: numbers.iter().map(|&number| SealKey::new([number; KEY_LEN])).collect() }
    }

    fn parse(text: &str) -> Result<KeyRing, String> {
        KeyRing::parse(text.as_bytes(), Path::new("k")).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_stand_in_lines_with_the_one_that_seals_first() {
        let text = format!("# new\n{}\n\n  {} # old\r\n", "0A".repeat(32), "0b".repeat(32));
        assert_eq!(parse(&text), Ok(ring(&[0x0a, 0x0b])));
        assert_eq!(parse(&text).unwrap().first().secret, [0x0a; 32]);
    }

    #[test]
    fn mistakes_are_told_with_their_line_and_without_the_key() {
        let key = "0a".repeat(32);
        for (text, told) in [
            (String::new(), "k: no key in the file"),
            ("# nothing\n".into(), "k: no key in the file"),
            (format!("{key}\n{key}0\n"), "k:2: a key has 64 hexadecimal digits; this line has 65 digits"),
            (format!("{}+f", "0a".repeat(31)), "k:1: a key has 64"),
            (format!("{}xy", "0a".repeat(31)), "k:1: a key has 64"),
            (format!("{key}\n#\n{}\n", key.to_uppercase()), "k:3: this key is there twice"),
            ((0..17).map(|i| format!("{i:02x}").repeat(32) + "\n").collect(), "k:17: there can be 16"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.starts_with(told) && !error.contains("0a0a"), "{error}");
        }
        assert_eq!(format!("{:?}", ring(&[7])), "KeyRing(1 keys)");
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        fs::write(&path, "0a".repeat(32)).unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(KeyRing::read(&path).is_ok(), fine, "{mode:o}");
        }
        assert!(KeyRing::read(&path).unwrap_err().to_string().contains("chmod 600"));
        assert!(KeyRing::read(&directory.path().join("none")).is_err());
    }
}
