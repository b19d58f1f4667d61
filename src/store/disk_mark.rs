//! How many transactions a node has acknowledged, beside the file that has them.
//!
//! Runs where the disk does. After a kill, `redb` takes a damaged note of the last transaction for one that was cut off
//! while it was written, and goes back to the transaction before: what was acknowledged would be gone without a word.
//! The mark tells the two apart. It is written after the transaction is durable and is not synced itself, so it costs a
//! commit a microsecond, is there after a kill, and never says more than is there after a power cut.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The file.
const FILE: &str = "redbreast.mark";

/// The count of transactions, and the same with all bits turned, so that half of it counts as none.
const LEN: usize = 16;

/// The mark of a data directory.
pub(super) struct Mark(Option<File>);

impl Mark {
    /// That in `directory`. Where it can be neither found nor made, damage of one kind is not noticed, and all else
    /// works.
    pub(super) fn open(directory: &Path) -> Self {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        Self(options.open(directory.join(FILE)).ok())
    }

    /// The file, and how many transactions had been acknowledged; none if that cannot be read.
    pub(super) fn read(directory: &Path) -> (PathBuf, u64) {
        let path = directory.join(FILE);
        let mut bytes = [0; LEN];
        let read = File::open(&path).and_then(|file| file.read_exact_at(&mut bytes, 0));
        let (count, check) = bytes.split_at(LEN / 2);
        let number = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
        let count = number(count);
        (path, if read.is_ok() && number(check) == !count { count } else { 0 })
    }

    /// Says that so many are durable now.
    pub(super) fn set(&self, count: u64) {
        let bytes: Vec<_> = [count, !count].into_iter().flat_map(u64::to_le_bytes).collect();
        if let Some(file) = &self.0 {
            // An older mark is one, too.
            let _ = file.write_all_at(&bytes, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_set_is_there_and_half_of_it_is_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let count = || Mark::read(directory.path()).1;
        let mark = Mark::open(directory.path());
        assert_eq!(count(), 0);
        mark.set(77);
        assert_eq!(count(), 77);
        drop(Mark::open(directory.path()));
        assert_eq!(count(), 77);
        for bytes in [&[1][..], &[77; 16], &[0; 16]] {
            std::fs::write(directory.path().join(FILE), bytes).unwrap();
            assert_eq!(count(), 0, "{bytes:?}");
        }
        // Without a place there is no mark, and no harm.
        Mark::open(Path::new("/nowhere")).set(1);
        assert_eq!(Mark::read(Path::new("/nowhere")).1, 0);
    }
}
