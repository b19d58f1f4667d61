//! Room on the disk that is kept for changes which make what is kept smaller: on a full disk names can still be
//! removed, and addresses drained.
//!
//! Runs on the thread `disk`. `redb` writes a change beside what was there, so that even a removal takes some pages.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// The file that takes up the room.
const FILE: &str = "redbreast.reserve";

/// Bytes of it. Some hundreds of removals and drains, each for itself, fit in a quarter; less, and a removal of a whole
/// instance of a thousand names may not be possible on a full disk.
const RESERVE_LEN: u64 = 4 * 1024 * 1024;

/// With less room than this, no other change is tried: each attempt that fails has the file checked as a whole.
const LEAST_ROOM: u64 = 256 * 1024;

/// The room, if it is there.
pub(super) struct Reserve {
    path: PathBuf,
    there: bool,
}

impl Reserve {
    /// What there is of it in `directory`.
    pub(super) fn find(directory: &Path) -> Self {
        let path = directory.join(FILE);
        // A copy may have a hole where the original had room.
        let there = fs::metadata(&path).is_ok_and(|it| it.blocks() * 512 >= RESERVE_LEN);
        Self { path, there }
    }

    /// Takes the room, if it is not taken yet.
    pub(super) fn make(&mut self) -> io::Result<()> {
        if self.there {
            return Ok(());
        }
        let made = self.try_make();
        if made.is_err() {
            // Half of it would take room from what comes next. If it cannot be removed it was not made either.
            let _ = fs::remove_file(&self.path);
        }
        self.there = made.is_ok();
        made
    }

    fn try_make(&self) -> io::Result<()> {
        let options = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&self.path);
        let file = options?;
        match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_LEN) {
            // Not every file system can.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => fill(file),
            done => Ok(done?),
        }
    }

    /// Gives the room back. Returns whether there was any.
    pub(super) fn release(&mut self) -> bool {
        std::mem::take(&mut self.there) && fs::remove_file(&self.path).is_ok()
    }

    /// Whether the disk has so little room that nothing but removals should be tried.
    pub(super) fn is_needed(&self) -> bool {
        let directory = self.path.parent().unwrap_or(Path::new("."));
        statvfs(directory).is_ok_and(|it| it.f_bavail.saturating_mul(it.f_frsize) < LEAST_ROOM)
    }
}

fn fill(mut file: File) -> io::Result<()> {
    let block = vec![0xff; 64 * 1024];
    for _ in 0..RESERVE_LEN / block.len() as u64 {
        file.write_all(&block)?;
    }
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_taken_and_given_back() {
        let directory = tempfile::tempdir().unwrap();
        let mut reserve = Reserve::find(directory.path());
        assert!(!reserve.release());
        let path = directory.path().join(FILE);
        for _ in 0..2 {
            reserve.make().unwrap();
            reserve.make().unwrap();
            assert!(fs::metadata(&path).unwrap().blocks() * 512 >= RESERVE_LEN);
            assert!(Reserve::find(directory.path()).there);
            assert!(reserve.release() && !reserve.release());
            assert!(!path.exists());
        }
        // A file with a hole takes no room.
        File::create(&path).unwrap().set_len(RESERVE_LEN).unwrap();
        assert!(!Reserve::find(directory.path()).there);
        fill(File::create(&path).unwrap()).unwrap();
        assert!(Reserve::find(directory.path()).there);
    }
}
