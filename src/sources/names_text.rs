//! The text of the names and zone files that a node has read, and which lines of it have changed since.
//!
//! **Problem.** A names file of a million lines is read again when ten of them have changed. To read, encode, look up
//! and compare a million names takes the better part of a second. **Idea.** Cut the text into pieces of some dozens of
//! lines, where a piece ends is said by its last line alone, so that the same lines make the same pieces wherever they
//! stand. A piece that was there before, byte for byte, says what it said before. Only the lines of other pieces are
//! read, of the old text and of the new. **How it fails.** A name may be said twice, in a line that has changed and in
//! one that has not; or there may be a mistake, or names that cannot stand together. Whoever compares finds that, and
//! reads all of it then. Zone files, in which lines depend on those before them, are compared as a whole.
//!
//! Pure but for reading the files. Runs on the thread `files`, and at a start on the main thread.

use std::cell::OnceCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;

use foldhash::fast::FixedState;

use crate::sys::file_error::{self, FileError};
use crate::sys::sched::{SHORT_STEPS, give_back, yield_every};

/// A line ends a piece if its hash has none of these bits: one in 32 does.
const PIECE_MASK: u64 = 31;

/// Bytes of text that are kept for the next comparison: beyond them all is read each time.
const MAX_KEPT_LEN: usize = 512 << 20;

/// What the files of a node say, as text.
#[derive(Debug, Default)]
pub struct Texts {
    /// Files in the format of hosts(5).
    pub hosts: Vec<Text>,
    /// Zone files.
    pub zones: Vec<ZoneText>,
}

/// One zone file.
#[derive(Debug)]
pub struct ZoneText {
    /// Where it is.
    pub path: PathBuf,
    /// All of it, until it has been read.
    pub bytes: Vec<u8>,
    /// What it is compared by: its length, and two hashes.
    identity: (usize, [u64; 2]),
}

impl PartialEq for ZoneText {
    fn eq(&self, other: &Self) -> bool {
        (&self.path, self.identity) == (&other.path, other.identity)
    }
}

/// One names file.
#[derive(Debug)]
pub struct Text {
    /// Where it is.
    pub path: PathBuf,
    /// All of it.
    pub bytes: Vec<u8>,
    /// Found when they are first needed: nobody waits for them until something changes.
    pieces: OnceCell<Vec<Piece>>,
}

/// Some lines that follow each other.
#[derive(Clone, Copy, Debug)]
struct Piece {
    hash: u64,
    begin: usize,
    end: usize,
}

/// Pieces that only one of two texts has.
#[derive(Debug, Default)]
pub struct ChangedLines<'a> {
    /// Those of the earlier one.
    pub before: Vec<&'a [u8]>,
    /// Those of the later one.
    pub after: Vec<&'a [u8]>,
}

impl ChangedLines<'_> {
    /// Bytes of all of them.
    #[must_use]
    pub fn len(&self) -> usize {
        self.before.iter().chain(&self.after).map(|piece| piece.len()).sum()
    }

    /// Whether nothing has changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Texts {
    /// Reads the files.
    ///
    /// # Errors
    /// [`FileError`] for the first that cannot be read.
    pub fn read(hosts: &[PathBuf], zones: &[PathBuf]) -> Result<Self, FileError> {
        let hosts =
            hosts.iter().map(|path| Ok(Text::new(path.clone(), file_error::read(path, "names file")?)));
        let zone = |path: &PathBuf| {
            let bytes = file_error::read(path, "zone file")?;
            let hashes = [1, 2].map(|seed| FixedState::with_seed(seed).hash_one(&bytes));
            Ok(ZoneText { path: path.clone(), identity: (bytes.len(), hashes), bytes })
        };
        Ok(Self {
            hosts: hosts.collect::<Result<_, _>>()?,
            zones: zones.iter().map(zone).collect::<Result<_, _>>()?,
        })
    }

    /// Whether there is little enough of it to be kept.
    #[must_use]
    pub fn can_be_kept(&self) -> bool {
        self.hosts_len() <= MAX_KEPT_LEN
    }

    /// Bytes of all files in the format of hosts(5).
    #[must_use]
    pub fn hosts_len(&self) -> usize {
        self.hosts.iter().map(|text| text.bytes.len()).sum()
    }

    /// Lets go of what has been read and is compared by its hashes alone.
    pub fn forget_read(&mut self) {
        self.zones.iter_mut().for_each(|zone| give_back(std::mem::take(&mut zone.bytes)));
    }

    /// Does what the next comparison would begin with.
    pub fn prepare(&self) {
        self.hosts.iter().for_each(|text| _ = text.pieces());
    }

    /// Lets go of what may be very much memory.
    pub fn give_back(self) {
        for Text { bytes, pieces, .. } in self.hosts {
            give_back(bytes);
            pieces.into_inner().into_iter().for_each(give_back);
        }
    }

    /// What has changed since `before`; `None` if other files are read now, or a zone file has changed.
    #[must_use]
    pub fn changed_since<'a>(&'a self, before: &'a Self) -> Option<ChangedLines<'a>> {
        let same_files = self.hosts.len() == before.hosts.len()
            && self.hosts.iter().zip(&before.hosts).all(|(now, before)| now.path == before.path)
            && self.zones == before.zones;
        same_files.then(|| {
            let mut changed = ChangedLines::default();
            for (now, before) in self.hosts.iter().zip(&before.hosts) {
                now.compare(before, &mut changed);
            }
            changed
        })
    }
}

impl Text {
    fn new(path: PathBuf, bytes: Vec<u8>) -> Self {
        Self { path, bytes, pieces: OnceCell::new() }
    }

    fn pieces(&self) -> &[Piece] {
        self.pieces.get_or_init(|| pieces(&self.bytes))
    }

    fn piece(&self, piece: &Piece) -> &[u8] {
        &self.bytes[piece.begin..piece.end]
    }

    fn compare<'a>(&'a self, before: &'a Self, changed: &mut ChangedLines<'a>) {
        let mut there: HashMap<u64, Vec<&Piece>, FixedState> = HashMap::default();
        there.reserve(before.pieces().len());
        for (done, piece) in before.pieces().iter().enumerate() {
            yield_every(SHORT_STEPS, done);
            there.entry(piece.hash).or_default().push(piece);
        }
        for (done, piece) in self.pieces().iter().enumerate() {
            yield_every(SHORT_STEPS, done);
            let same = there.get_mut(&piece.hash).and_then(|same| {
                let at = same.iter().position(|other| before.piece(other) == self.piece(piece))?;
                Some(same.swap_remove(at))
            });
            if same.is_none() {
                changed.after.push(self.piece(piece));
            }
        }
        changed.before.extend(there.values().flatten().map(|piece| before.piece(piece)));
    }
}

/// The pieces of a text.
fn pieces(bytes: &[u8]) -> Vec<Piece> {
    let hasher = FixedState::default();
    let (mut pieces, mut begin, mut at, mut piece) = (Vec::new(), 0, 0, 0u64);
    while at < bytes.len() {
        let end = memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |len| at + len + 1);
        let mut line = hasher.build_hasher();
        line.write(&bytes[at..end]);
        let hash = line.finish();
        piece = piece.rotate_left(23).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ hash;
        at = end;
        if hash & PIECE_MASK == 0 || end == bytes.len() {
            yield_every(SHORT_STEPS, pieces.len());
            pieces.push(Piece { hash: piece, begin, end });
            (begin, piece) = (end, 0);
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Texts {
        let text = Text::new("hosts".into(), text.as_bytes().to_vec());
        assert!(
            text.pieces().iter().map(|piece| text.piece(piece)).collect::<Vec<_>>().concat() == text.bytes
        );
        Texts { hosts: vec![text], zones: Vec::new() }
    }

    fn lines(pieces: &[&[u8]]) -> Vec<String> {
        let text = String::from_utf8(pieces.concat()).unwrap();
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_has_changed_is_among_what_is_read_and_little_else_is() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut all: Vec<String> =
            (0..20_000).map(|i| format!("10.0.{}.{} h{i}", i / 250, i % 250)).collect();
        for _ in 0..20 {
            let before = all.clone();
            let (mut gone, mut new) = (Vec::new(), Vec::new());
            for _ in 0..10 {
                let at = rng.usize(..all.len());
                gone.push(all.remove(at));
                let line = format!("10.9.9.9 n{}", rng.u32(..));
                all.insert(rng.usize(..all.len()), line.clone());
                new.push(line);
            }
            let (then, now) = (texts(&(before.join("\n") + "\n")), texts(&(all.join("\n") + "\n")));
            let changed = now.changed_since(&then).unwrap();
            let (mut old, mut fresh) = (lines(&changed.before), lines(&changed.after));
            assert!(old.len() < 3_000 && fresh.len() < 3_000, "{} and {}", old.len(), fresh.len());
            let kept: Vec<_> = old.iter().filter(|line| fresh.contains(line)).cloned().collect();
            old.retain(|line| !kept.contains(line));
            fresh.retain(|line| !kept.contains(line));
            gone.retain(|line| !new.contains(line));
            new.retain(|line| all.contains(line));
            gone.sort();
            new.sort();
            new.dedup();
            assert_eq!((old, fresh), (gone, new));
        }
    }

    #[test]
    fn lines_that_are_there_twice_are_counted() {
        let line = "10.0.0.1 a\n";
        let changed = |before: usize, after: usize| {
            let (before, after) = (texts(&line.repeat(before)), texts(&line.repeat(after)));
            let changed = after.changed_since(&before).unwrap();
            (lines(&changed.before).len(), lines(&changed.after).len())
        };
        assert_eq!(changed(3, 3), (0, 0));
        let (before, after) = changed(3, 2);
        assert_eq!(before - after, 1);
        assert!(texts("").changed_since(&Texts::default()).is_none(), "other files");
    }
}
