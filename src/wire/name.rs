//! Domain names: as text, as wire bytes, and as the folded form a worker looks up.
//!
//! [`QueryName`] is the hot part and runs on the workers; [`Name`] is for all other threads, files and people.

use std::fmt::{self, Write};
use std::net::IpAddr;

use super::reverse_name::ReverseName;

/// Bytes in a name on the wire at most, its root included (RFC 1035 §2.3.4).
pub const MAX_LEN: usize = 255;
/// Bytes in a label at most (RFC 1035 §2.3.4).
pub const MAX_LABEL_LEN: usize = 63;

/// Room for the longest name, rounded up to whole 8-byte words so that folding may load and store words.
pub const FOLD_LEN: usize = (MAX_LEN + 8) / 8 * 8;

/// The secret that keys the hash of names, drawn anew by each process: without it nobody can make names collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashSeed {
    start: u64,
    multiplier: u64,
}

impl HashSeed {
    /// A seed for this process.
    #[must_use]
    pub fn random() -> Self {
        Self::from_words(fastrand::u64(..), fastrand::u64(..))
    }

    /// A seed of one's own choice, for tests and benchmarks that must repeat.
    #[must_use]
    pub const fn from_words(start: u64, multiplier: u64) -> Self {
        // An even multiplier would push bits out for good, and one with few bits set would mix little.
        Self { start, multiplier: multiplier | 0x9e37_79b9_7f4a_7c15 }
    }
}

/// Multiplies to 128 bits and folds the halves together: every input bit reaches every output bit's neighbourhood.
#[inline]
fn folded_multiply(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    #[allow(clippy::cast_possible_truncation)] // the halves are what is wanted
    let (low, high) = (wide as u64, (wide >> 64) as u64);
    low ^ high
}

/// Bytes that are lower-cased at once.
const CHUNK_LEN: usize = 32;

const _: () = assert!(FOLD_LEN.is_multiple_of(CHUNK_LEN));

/// Lower-cases the ASCII letters. Length bytes are at most 63 and so below `A`: a whole wire name can be folded without
/// looking where its labels begin. Written for compilers to make vector instructions of.
#[inline]
fn lower_case(bytes: &[u8; CHUNK_LEN]) -> [u8; CHUNK_LEN] {
    let mut lower = *bytes;
    for byte in &mut lower {
        *byte |= u8::from(byte.wrapping_sub(b'A') < 26) << 5; // the distance from `A` to `a` is 1 << 5
    }
    lower
}

/// Why a name in a message cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameFault {
    /// The message ends inside the name.
    Truncated,
    /// A label has a length over 63 or is a compression pointer, which a question has nothing to point at.
    BadLabel,
    /// The name is longer than 255 bytes.
    TooLong,
}

/// A name from a question, checked, lower-cased and hashed.
///
/// Kept by its worker and filled anew for each query, so that nothing has to be cleared in between. Of most names all
/// is on one cache line.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct QueryName {
    hash: u64,
    /// 0 if it could not be read.
    len: usize,
    /// The lower-cased name, zero-padded to a whole word; what is behind that means nothing.
    folded: [u8; FOLD_LEN],
}

impl std::fmt::Debug for QueryName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QueryName({})", self.as_wire().escape_ascii())
    }
}

impl Default for QueryName {
    fn default() -> Self {
        Self { folded: [0; FOLD_LEN], len: 0, hash: 0 }
    }
}

impl QueryName {
    /// Reads the name at the front of `bytes`, of which `available` were received; the rest is slack that is loaded
    /// but never looked at. Returns the name's length.
    ///
    /// # Errors
    /// A [`NameFault`]; the name is then unspecified but harmless.
    #[inline]
    pub fn fold(
        &mut self,
        bytes: &[u8; FOLD_LEN],
        available: usize,
        seed: HashSeed,
    ) -> Result<usize, NameFault> {
        self.len = 0;
        let limit = available.min(MAX_LEN);
        let mut end = 0; // where the next length byte stands
        loop {
            if end >= limit {
                return Err(if end >= MAX_LEN { NameFault::TooLong } else { NameFault::Truncated });
            }
            let len = usize::from(bytes[end]);
            end += 1 + len;
            if len == 0 {
                break;
            }
            if len > MAX_LABEL_LEN {
                return Err(NameFault::BadLabel);
            }
        }
        let chunks = end.div_ceil(CHUNK_LEN);
        let from = &bytes.as_chunks().0[..chunks];
        for (from, to) in from.iter().zip(self.folded.as_chunks_mut().0) {
            *to = lower_case(from);
        }
        // What follows the name in its last word is the question's type: not part of the name.
        let words = &mut self.folded.as_chunks_mut::<8>().0[..end.div_ceil(8)];
        if let Some(last) = words.last_mut() {
            let unused = end.wrapping_neg() % 8;
            *last = (u64::from_le_bytes(*last) & u64::MAX >> (8 * unused)).to_le_bytes();
        }
        let hash = words.iter().fold(seed.start, |hash, word| {
            folded_multiply(hash ^ u64::from_le_bytes(*word), seed.multiplier)
        });
        self.hash = folded_multiply(hash, seed.multiplier);
        self.len = end;
        Ok(end)
    }

    /// Folds a whole name, for whoever builds or asks the table outside the query path.
    #[must_use]
    pub fn from_name(name: &Name, seed: HashSeed) -> Self {
        let mut folded = Self::default();
        folded.fold_name(name, seed);
        folded
    }

    /// The same in place of the name there was: a builder of tables folds one name after the other.
    ///
    /// # Panics
    /// If `name` is not a valid uncompressed wire name, which [`Name`] guarantees.
    fn fold_name(&mut self, name: &Name, seed: HashSeed) {
        self.fold_wire(name.as_wire(), seed).expect("a Name is valid");
    }

    /// The same with the name at the front of `wire`, uncompressed, as the data of a record has it.
    ///
    /// # Errors
    /// A [`NameFault`]; the name is then unspecified but harmless.
    pub fn fold_wire(&mut self, wire: &[u8], seed: HashSeed) -> Result<usize, NameFault> {
        let mut bytes = [0; FOLD_LEN];
        let wire = &wire[..wire.len().min(MAX_LEN)];
        bytes[..wire.len()].copy_from_slice(wire);
        self.fold(&bytes, wire.len(), seed)
    }

    /// Whether the name has one label: no dot was written in it.
    #[inline]
    #[must_use]
    pub fn is_single_label(&self) -> bool {
        self.len > 1 && usize::from(self.folded[0]) + 2 == self.len
    }

    /// Whether it is one of those that addresses have (RFC 1035 §3.5, RFC 3596 §2.5).
    #[must_use]
    pub fn is_reverse(&self) -> bool {
        [&b"\x07in-addr\x04arpa\0"[..], b"\x03ip6\x04arpa\0"]
            .iter()
            .any(|parent| suffix_at(self.as_wire(), parent, |a, b| a == b).is_some())
    }

    /// The same name below `domain`, a wire name; `None` if that is too long.
    #[must_use]
    pub fn below(&self, domain: &[u8], seed: HashSeed) -> Option<Self> {
        let front = self.len - 1;
        let mut bytes = [0; FOLD_LEN];
        bytes[..front].copy_from_slice(&self.folded[..front]);
        bytes.get_mut(front..front + domain.len())?.copy_from_slice(domain);
        let mut qualified = Self::default();
        qualified.fold(&bytes, front + domain.len(), seed).ok()?;
        Some(qualified)
    }

    /// The lower-cased wire name.
    #[inline]
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.folded[..self.len]
    }

    /// Its length; 0 if the last name could not be read.
    #[inline]
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // no name is empty
    pub fn len(&self) -> usize {
        self.len
    }

    /// Its keyed hash.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }
}

/// A domain name in wire form, uncompressed, case kept.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// What is wrong with a name given as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameTextError {
    /// Nothing there.
    Empty,
    /// Two dots in a row, or a dot at the front.
    EmptyLabel,
    /// A label of more than 63 bytes.
    LabelTooLong,
    /// More than 255 bytes on the wire.
    TooLong,
    /// A backslash without a character or three digits up to 255 behind it.
    BadEscape,
}

impl fmt::Display for NameTextError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "a name cannot be empty",
            Self::EmptyLabel => "a label between two dots cannot be empty",
            Self::LabelTooLong => "a label can have at most 63 bytes",
            Self::TooLong => "a name can have at most 255 bytes on the wire",
            Self::BadEscape => "a backslash must be followed by a character or by three digits up to 255",
        })
    }
}

impl std::error::Error for NameTextError {}

impl Name {
    /// The root.
    // cold: names of their own are made when names change, not for packets
    #[must_use]
    pub fn root() -> Self {
        Self(Box::new([0]))
    }

    /// Reads a name as master files write it (RFC 1035 §5.1): labels between dots, `\X` and `\DDD` escapes, the dot
    /// at the end optional. A single dot is the root.
    ///
    /// # Errors
    /// A [`NameTextError`].
    pub fn from_text(text: &str) -> Result<Self, NameTextError> {
        if text == "." {
            return Ok(Self::root());
        }
        if text.is_empty() {
            return Err(NameTextError::Empty);
        }
        let mut name = NameBuilder::default();
        let mut bytes = text.bytes();
        while let Some(byte) = bytes.next() {
            match byte {
                b'.' => name.end_label()?,
                b'\\' => name.push(unescape(&mut bytes)?)?,
                _ => name.push(byte)?,
            }
        }
        name.finish()
    }

    /// Reads an uncompressed name in wire form; `None` if it is not exactly that.
    #[must_use]
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let mut at = 0;
        while let Some(&len) = wire.get(at).filter(|&&len| len > 0) {
            at = Some(at + 1 + usize::from(len)).filter(|_| usize::from(len) <= MAX_LABEL_LEN)?;
        }
        (at + 1 == wire.len() && wire.len() <= MAX_LEN).then(|| Self(wire.into()))
    }

    /// The name that PTR records of `address` stand under (RFC 1035 §3.5, RFC 3596 §2.5).
    #[must_use]
    pub fn reverse(address: IpAddr) -> Self {
        Self(ReverseName::new(address).as_wire().into())
    }

    /// This name below `parent`: `www` and `example.` make `www.example.`.
    ///
    /// # Errors
    /// [`NameTextError::TooLong`].
    pub fn below(&self, parent: &Self) -> Result<Self, NameTextError> {
        let (front, len) = (self.0.len() - 1, self.0.len() - 1 + parent.0.len());
        let mut wire = [0; MAX_LEN];
        let room = wire.get_mut(..len).ok_or(NameTextError::TooLong)?;
        room[..front].copy_from_slice(&self.0[..front]);
        room[front..].copy_from_slice(&parent.0);
        Ok(Self((&*room).into()))
    }

    /// The wire form, its root byte included.
    #[must_use]
    pub fn as_wire(&self) -> &[u8] {
        &self.0
    }

    /// Labels, the root not counted.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &self.0[..];
        std::iter::from_fn(move || {
            let (&len, tail) = rest.split_first()?;
            let (label, after) = tail.split_at(usize::from(len));
            rest = after;
            (len > 0).then_some(label)
        })
    }

    /// The name without its first label; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        let first = usize::from(self.0[0]);
        (first > 0).then(|| Self(self.0[1 + first..].into()))
    }

    /// The same name in lower case, the form in which names are compared (RFC 4343).
    #[must_use]
    pub fn to_lower_case(&self) -> Self {
        Self(self.0.to_ascii_lowercase().into()) // length bytes are below `A`
    }

    /// Whether this name is `ancestor` or stands below it, case aside.
    #[must_use]
    pub fn is_within(&self, ancestor: &Self) -> bool {
        suffix_at(&self.0, &ancestor.0, |a, b| a.eq_ignore_ascii_case(b)).is_some()
    }
}

/// A name in the making, on the stack: files with a million names should not cost a million growing vectors.
struct NameBuilder {
    wire: [u8; MAX_LEN],
    /// Where the current label's length byte stands.
    label: usize,
    /// Where the next byte goes.
    end: usize,
}

impl Default for NameBuilder {
    fn default() -> Self {
        Self { wire: [0; MAX_LEN], label: 0, end: 1 }
    }
}

impl NameBuilder {
    /// Adds a byte to the current label.
    fn push(&mut self, byte: u8) -> Result<(), NameTextError> {
        if self.end - self.label > MAX_LABEL_LEN {
            return Err(NameTextError::LabelTooLong);
        }
        // One byte always stays for the root.
        *self.wire[..MAX_LEN - 1].get_mut(self.end).ok_or(NameTextError::TooLong)? = byte;
        self.end += 1;
        Ok(())
    }

    fn end_label(&mut self) -> Result<(), NameTextError> {
        let len = self.end - self.label - 1;
        if len == 0 {
            return Err(NameTextError::EmptyLabel);
        }
        self.wire[self.label] = u8::try_from(len).map_err(|_| NameTextError::LabelTooLong)?;
        self.label = self.end;
        self.end += 1;
        if self.label < MAX_LEN { Ok(()) } else { Err(NameTextError::TooLong) }
    }

    /// Ends the name, after a label or after the dot behind one.
    fn finish(mut self) -> Result<Name, NameTextError> {
        if self.end > self.label + 1 {
            self.end_label()?;
        }
        self.wire[self.label] = 0;
        Ok(Name(self.wire[..=self.label].into()))
    }
}

/// Where in the wire name `name` its suffix `ancestor` begins, if it has that suffix at a label's border and `equal`.
#[inline]
pub fn suffix_at(name: &[u8], ancestor: &[u8], equal: impl Fn(&[u8], &[u8]) -> bool) -> Option<usize> {
    let start = name.len().checked_sub(ancestor.len())?;
    if !equal(&name[start..], ancestor) {
        return None;
    }
    // The bytes agree; they are a suffix of names only if a label begins there.
    let mut label = 0;
    while label < start {
        label += 1 + usize::from(name[label]);
    }
    (label == start).then_some(start)
}

/// Reads what follows a backslash.
fn unescape(bytes: &mut impl Iterator<Item = u8>) -> Result<u8, NameTextError> {
    let first = bytes.next().ok_or(NameTextError::BadEscape)?;
    if !first.is_ascii_digit() {
        return Ok(first);
    }
    let mut value = u32::from(first - b'0');
    for _ in 0..2 {
        let digit = bytes.next().filter(u8::is_ascii_digit).ok_or(NameTextError::BadEscape)?;
        value = value * 10 + u32::from(digit - b'0');
    }
    u8::try_from(value).map_err(|_| NameTextError::BadEscape)
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() == 1 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for &byte in label {
                let character = char::from(byte);
                match character {
                    '.' | '\\' | '"' | ';' | '(' | ')' | '@' | '$' => write!(f, "\\{character}"),
                    '!'..='~' => f.write_char(character),
                    _ => write!(f, "\\{byte:03}"),
                }?;
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SEED: HashSeed = HashSeed { start: 1, multiplier: 0x9e37_79b9_7f4a_7c15 };

    #[test]
    fn text_becomes_wire_and_text_again() {
        for (text, wire) in [
            (".", &b"\0"[..]),
            ("a.", b"\x01a\0"),
            ("Web.redbreast.internal.", b"\x03Web\x09redbreast\x08internal\0"),
            ("a\\.b.c.", b"\x03a.b\x01c\0"),
            ("\\007\\\\.", b"\x02\x07\\\0"),
        ] {
            let name = Name::from_text(text).unwrap();
            assert_eq!(name.as_wire(), wire, "{text}");
            assert_eq!(name.to_string(), text);
        }
        assert_eq!(Name::from_text("a.b").unwrap(), Name::from_text("a.b.").unwrap());
    }

    #[test]
    fn wrong_names_are_told_apart() {
        let long = "a".repeat(64);
        let deep = "a.".repeat(128);
        for (text, error) in [
            ("", NameTextError::Empty),
            (".a", NameTextError::EmptyLabel),
            ("a..b", NameTextError::EmptyLabel),
            ("..", NameTextError::EmptyLabel),
            (long.as_str(), NameTextError::LabelTooLong),
            (deep.as_str(), NameTextError::TooLong),
            ("a\\", NameTextError::BadEscape),
            ("a\\25", NameTextError::BadEscape),
            ("a\\256", NameTextError::BadEscape),
        ] {
            assert_eq!(Name::from_text(text), Err(error), "{text}");
        }
        assert_eq!(Name::from_text(&"a.".repeat(127)).unwrap().as_wire().len(), MAX_LEN);
    }

    #[test]
    fn addresses_have_reverse_names() {
        let v4 = Name::reverse("192.0.2.1".parse().unwrap());
        assert_eq!(v4.to_string(), "1.2.0.192.in-addr.arpa.");
        let v6 = Name::reverse("2001:db8::567:89ab".parse().unwrap());
        let expected = "b.a.9.8.7.6.5.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa."; // RFC 3596 §2.5
        assert_eq!(v6.to_string(), expected);
    }

    #[test]
    fn a_suffix_counts_only_at_a_label_border() {
        let name = |text| Name::from_text(text).unwrap();
        assert!(name("a.Example").is_within(&name("eXample")));
        assert!(name("example").is_within(&name("example")));
        assert!(!name("badexample").is_within(&name("example")));
        assert!(!name("example").is_within(&name("a.example")));
        // The label `x\007example` ends in the very bytes of `example`'s wire form.
        assert!(!name("x\\007example").is_within(&name("example")));
    }

    #[test]
    fn faults_in_question_names_are_told_apart() {
        let fold = |wire: &[u8], available: usize| {
            let mut bytes = [0xff; FOLD_LEN];
            let len = wire.len().min(FOLD_LEN);
            bytes[..len].copy_from_slice(&wire[..len]);
            QueryName::default().fold(&bytes, available, SEED)
        };
        assert_eq!(fold(b"\x03web\0", 5), Ok(5));
        assert_eq!(fold(b"\0", 1), Ok(1));
        assert_eq!(fold(b"\x03web\0", 4), Err(NameFault::Truncated));
        assert_eq!(fold(b"", 0), Err(NameFault::Truncated));
        assert_eq!(fold(b"\xc0\x0c", 2), Err(NameFault::BadLabel));
        assert_eq!(fold(b"\x40", 200), Err(NameFault::BadLabel));
        let longest = [&b"\x01a".repeat(127)[..], b"\0"].concat();
        assert_eq!(fold(&longest, 255), Ok(255));
        let too_long = [&b"\x01a".repeat(127)[..], b"\x01a\0"].concat();
        assert_eq!(fold(&too_long, 258), Err(NameFault::TooLong));
    }

    #[test]
    fn a_single_label_can_be_looked_up_below_a_domain() {
        let folded = |text: &str| QueryName::from_name(&Name::from_text(text).unwrap(), SEED);
        let domain = Name::from_text("redbreast.internal").unwrap();
        let qualified = folded("WEB").below(domain.as_wire(), SEED).unwrap();
        assert_eq!(qualified.as_wire(), b"\x03web\x09redbreast\x08internal\0");
        assert_eq!(qualified.hash(), folded("web.redbreast.internal").hash());
        for (name, single) in [("web", true), ("a.b", false), (".", false)] {
            assert_eq!(folded(name).is_single_label(), single, "{name}");
        }
        let long = Name::from_text(&"a.".repeat(127)).unwrap();
        assert!(folded("web").below(long.as_wire(), SEED).is_none());
    }

    proptest! {
        #[test]
        fn chunks_are_lower_cased_as_bytes_are(bytes: [u8; CHUNK_LEN]) {
            prop_assert_eq!(lower_case(&bytes).to_vec(), bytes.to_ascii_lowercase());
        }

        #[test]
        fn names_that_differ_only_in_case_fold_alike(labels in prop::collection::vec("[a-zA-Z0-9-]{1,20}", 1..8)) {
            let name = Name::from_text(&labels.join(".")).unwrap();
            let folded = QueryName::from_name(&name, SEED);
            let upper = Name::from_text(&labels.join(".").to_uppercase()).unwrap();
            let lower = name.to_lower_case();
            prop_assert_eq!(folded.as_wire(), lower.as_wire());
            prop_assert_eq!(folded.hash(), QueryName::from_name(&upper, SEED).hash());
        }

        #[test]
        fn any_bytes_fold_or_fail_without_a_panic(bytes: Vec<u8>, available in 0..=FOLD_LEN) {
            let mut window = [0; FOLD_LEN];
            let len = bytes.len().min(FOLD_LEN);
            window[..len].copy_from_slice(&bytes[..len]);
            if let Ok(end) = QueryName::default().fold(&window, available, SEED) {
                prop_assert!(end <= available && end <= MAX_LEN);
            }
        }
    }
}
