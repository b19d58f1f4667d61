//! The keys of those who may update zones, or take copies of them (TSIG, RFC 8945).
//!
//! Read by the thread `files`; used by the thread `zones`.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use domain::base::Name as KeyName;
use domain::base::name::ToName;
use domain::dep::octseq::Array;
use domain::tsig::{Algorithm, Key};
use domain::utils::base64;

use crate::sys::file_error::{self, FileError};
use crate::wire::name::Name;

/// The shortest secret: half of what the algorithm makes of it (RFC 8945 §6 wants no less than its whole).
const MIN_SECRET_LEN: usize = 16;

/// A file with keys, and the domain that they are for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyFile {
    /// All, if it is not said.
    pub domain: Option<Name>,
    /// The file: `key` statements as BIND and `tsig-keygen` have them.
    pub path: PathBuf,
}

impl FromStr for KeyFile {
    type Err = String;

    /// Reads `[DOMAIN=]FILE`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (domain, path) = match text.split_once('=') {
            Some((domain, path)) if !domain.contains('/') => (Some(domain), path),
            _ => (None, text),
        };
        let domain = domain.map(Name::from_text).transpose().map_err(|error| error.to_string())?;
        if path.is_empty() {
            Err("expected [DOMAIN=]FILE".into())
        } else {
            Ok(Self { domain, path: path.into() })
        }
    }
}

/// What a key is good for: the domains, in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Permissions {
    updates: Domains,
    transfers: Domains,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Domains {
    all: bool,
    some: Vec<Name>,
}

impl Domains {
    fn add(&mut self, domain: Option<&Name>) {
        match domain {
            Some(domain) => self.some.push(domain.to_lower_case()),
            None => self.all = true,
        }
    }

    fn has(&self, domain: &Name) -> bool {
        self.all || self.some.contains(domain)
    }
}

/// A key with what it is good for.
#[derive(Clone)]
pub(super) struct Permitted(Arc<(Key, Permissions)>);

impl AsRef<Key> for Permitted {
    fn as_ref(&self) -> &Key {
        &self.0.0
    }
}

impl Permitted {
    /// Whether who has it may update a zone.
    pub(super) fn updates(&self, zone: &Name) -> bool {
        self.0.1.updates.has(zone)
    }

    /// Whether who has it may take a copy of a zone.
    pub(super) fn transfers(&self, zone: &Name) -> bool {
        self.0.1.transfers.has(zone)
    }
}

type StoreName = KeyName<Array<255>>;

/// All keys.
#[derive(Clone, Default)]
pub struct Keys {
    pub(super) by_name: HashMap<(StoreName, Algorithm), Permitted>,
}

impl fmt::Debug for Keys {
    /// Shows no key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.by_name.len())
    }
}

/// A key as a file has it.
struct Read {
    line: usize,
    name: String,
    algorithm: Option<Algorithm>,
    secret: Option<Vec<u8>>,
}

impl Keys {
    /// Reads the keys for updates and for transfers. A key can be in several files, and is good for all that it is
    /// there for.
    ///
    /// # Errors
    /// [`FileError`]; what is told of a mistake never shows a secret.
    pub fn read(updates: &[KeyFile], transfers: &[KeyFile]) -> Result<Self, FileError> {
        let mut all: HashMap<(StoreName, Algorithm), (Vec<u8>, Permissions)> = HashMap::new();
        let files = updates.iter().map(|file| (file, true)).chain(transfers.iter().map(|file| (file, false)));
        for (file, is_update) in files {
            let bytes = file_error::read_secret(&file.path, "key file")?;
            let text = String::from_utf8_lossy(&bytes);
            for read in parse(&text, &file.path)? {
                let at = |what: &str| {
                    FileError::at(&file.path, read.line, format_args!("key {:?}: {what}", read.name))
                };
                let name = KeyName::<Vec<u8>>::from_str(&read.name).map_err(|_| at("that is no name"))?;
                let name: StoreName = name.try_to_name().map_err(|_| at("that is no name"))?;
                let algorithm = read.algorithm.ok_or_else(|| at("it needs an algorithm"))?;
                let secret = read.secret.clone().ok_or_else(|| at("it needs a secret"))?;
                let entry = all.entry((name, algorithm)).or_insert((secret.clone(), Permissions::default()));
                if entry.0 != secret {
                    return Err(at("another file has another secret for it"));
                }
                let domains = if is_update { &mut entry.1.updates } else { &mut entry.1.transfers };
                domains.add(file.domain.as_ref());
            }
        }
        let mut by_name = HashMap::new();
        for ((name, algorithm), (secret, permissions)) in all {
            // It can only refuse other lengths of signatures than the algorithm's own, and none are asked for.
            if let Ok(key) = Key::new(algorithm, &secret, name.clone(), None, None) {
                by_name.insert((name, algorithm), Permitted(Arc::new((key, permissions))));
            }
        }
        Ok(Self { by_name })
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_name.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }
}

/// The words of a file, one by one.
struct Words<'a> {
    rest: std::vec::IntoIter<(usize, String)>,
    path: &'a Path,
    /// The line of the last one.
    line: usize,
}

impl Words<'_> {
    fn wrong(&self, expected: &str) -> FileError {
        FileError::at(self.path, self.line, format_args!("expected {expected}"))
    }

    fn next(&mut self, expected: &str) -> Result<String, FileError> {
        let Some((line, word)) = self.rest.next() else {
            return Err(FileError::at(
                self.path,
                self.line,
                format_args!("the file ends where {expected} is expected"),
            ));
        };
        self.line = line;
        Ok(word)
    }

    fn expect(&mut self, sign: &str) -> Result<(), FileError> {
        if self.next(sign)? == sign { Ok(()) } else { Err(self.wrong(sign)) }
    }

    /// The rest of a statement that began with `key`.
    fn key(&mut self) -> Result<Read, FileError> {
        let name = self.next("the key's name")?;
        let mut key = Read { line: self.line, name, algorithm: None, secret: None };
        self.expect("{")?;
        loop {
            let word = self.next("}")?;
            if word == "}" {
                self.expect(";")?;
                return Ok(key);
            }
            match &*word {
                "algorithm" => {
                    let algorithm = Algorithm::from_str(&self.next("an algorithm")?.to_lowercase());
                    let algorithm =
                        algorithm.map_err(|_| self.wrong("hmac-sha256, hmac-sha384 or hmac-sha512"))?;
                    key.algorithm = Some(algorithm);
                }
                "secret" => {
                    let secret = base64::decode::<Vec<u8>>(&self.next("a secret")?);
                    let secret = secret.map_err(|_| self.wrong("a secret in base64"))?;
                    if secret.len() < MIN_SECRET_LEN {
                        return Err(self.wrong("a secret of 16 bytes or more; `tsig-keygen` makes one"));
                    }
                    key.secret = Some(secret);
                }
                _ => return Err(self.wrong("algorithm or secret")),
            }
            self.expect(";")?;
        }
    }
}

/// Reads `key "NAME" { algorithm ALGORITHM; secret "BASE64"; };` statements.
fn parse(text: &str, path: &Path) -> Result<Vec<Read>, FileError> {
    let mut words = Words { rest: words(text).into_iter(), path, line: 1 };
    let mut keys = Vec::new();
    while !words.rest.as_slice().is_empty() {
        if words.next("a key")? != "key" {
            return Err(words.wrong("key \"NAME\" { algorithm hmac-sha256; secret \"BASE64\"; };"));
        }
        keys.push(words.key()?);
    }
    if keys.is_empty() { Err(FileError::of(path, "there is no key in it")) } else { Ok(keys) }
}

/// Words with their lines: quoted or not, and the signs between them. Comments go to the ends of lines.
fn words(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let line = line.split("//").next().unwrap_or_default().split('#').next().unwrap_or_default();
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let len = match first {
                '{' | '}' | ';' => 1,
                '"' => 2 + rest[1..].find('"').unwrap_or(rest.len().saturating_sub(2)),
                _ => rest.find(|c: char| c.is_whitespace() || "{};\"".contains(c)).unwrap_or(rest.len()),
            };
            let (word, after) = rest.split_at(len.min(rest.len()));
            found.push((i + 1, word.trim_matches('"').to_owned()));
            rest = after.trim_start();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const SECRET: &str = "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0";

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        (directory, path)
    }

    fn key(name: &str) -> String {
        format!(
            "# made by tsig-keygen\nkey \"{name}\" {{\n\talgorithm hmac-sha256;\n\tsecret \"{SECRET}\";\n}};\n"
        )
    }

    #[test]
    fn keys_are_good_for_what_their_files_are_given_for() {
        let (_directory, path) = file(&(key("one") + &key("two")));
        let web = Name::from_text("web.example").unwrap();
        let other = Name::from_text("example").unwrap();
        let of = |text: &str| text.parse::<KeyFile>().unwrap();
        let named = format!("WEB.example={}", path.display());
        let keys = Keys::read(&[of(&named)], &[of(path.to_str().unwrap())]).unwrap();
        assert_eq!(keys.len(), 2);
        for key in keys.by_name.values() {
            assert!(key.updates(&web) && !key.updates(&other) && key.transfers(&other));
        }
        assert_eq!(format!("{keys:?}"), "Keys(2)");
    }

    #[test]
    fn mistakes_are_told_without_secrets() {
        for (text, told) in [
            ("".into(), "there is no key in it"),
            ("kye \"a\" {};".into(), ":1: expected key"),
            ("key \"a\" {\n algorithm hmac-md5;\n};".into(), ":2: expected hmac-sha256"),
            ("key \"a\" { algorithm hmac-sha256; };".into(), "it needs a secret"),
            (format!("key \"a\" {{ secret \"{SECRET}\"; }};"), "it needs an algorithm"),
            ("key \"a\" { secret \"c2hvcnQ=\"; };".into(), "16 bytes or more"),
            ("key \"a\" {\n\nsecret \"***\"; };".into(), ":3: expected a secret in base64"),
            ("key \"a\" { algorithm".into(), "the file ends"),
            (key("a..b"), "that is no name"),
        ] {
            let (_directory, path) = file(&text);
            let error = Keys::read(&[KeyFile { domain: None, path }], &[]).unwrap_err().to_string();
            assert!(error.contains(told) && !error.contains(SECRET), "{text}: {error}");
        }
        let (_directory, path) = file(&key("a"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(
            Keys::read(&[KeyFile { domain: None, path }], &[]).unwrap_err().to_string().contains("chmod 600")
        );
        assert!("=x".parse::<KeyFile>().is_err() && "example=".parse::<KeyFile>().is_err());
    }
}
