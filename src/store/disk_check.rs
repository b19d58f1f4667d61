//! A look at a data directory that changes nothing in it, for a process whose end by a crash is a verdict, too.
//!
//! Runs in a child process of a start (`src/cli/check_data.rs`). `redb` panics at some damages, and asks for memory or
//! loops at others that nobody has found yet; release builds abort on a panic, so that nothing in the same process can
//! catch it. The check does all that a start does, the first transaction included, on a file that is open for reading
//! alone: what would be written stays in memory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::disk::{self, DiskError};

/// The unit in which written bytes are kept: redb's own page.
const PAGE_LEN: u64 = PAGE_BYTES as u64;
const PAGE_BYTES: usize = 4096;

/// Does what a start does with the file in `directory`, and leaves it as it is.
///
/// # Errors
/// [`DiskError`], as far as the library says it rather than panics.
pub fn check(directory: &Path) -> Result<(), DiskError> {
    let path = directory.join(disk::FILE);
    let io = |error: io::Error| DiskError::Io(path.clone(), error.to_string());
    let file = File::open(&path).map_err(io)?;
    let len = file.metadata().map_err(io)?.len();
    if len == 0 {
        return Err(disk::is_empty(&path));
    }
    let file = FileBackend::new(file).map_err(|error| disk::storage_error(&path, &error.into()))?;
    let written = Mutex::new(Written { len, kept: len, pages: BTreeMap::new() });
    let opened = disk::builder().create_with_backend(Overlay { file, written });
    let mut database = opened.map_err(|error| disk::storage_error(&path, &error.into()))?;
    let found = disk::inspect(&mut database, &path, |_| {})?;
    let first = disk::transact(&database, found.commits + 1, |transaction| {
        disk::put_incarnation(transaction, found.incarnation)
    });
    first.map_err(|error| disk::storage_error(&path, &error))
}

/// A file, with what has been written since on top of it, in memory.
#[derive(Debug)]
struct Overlay {
    file: FileBackend,
    written: Mutex<Written>,
}

#[derive(Debug)]
struct Written {
    len: u64,
    /// Bytes of the file that still count: what was cut off and added again is zeros.
    kept: u64,
    pages: BTreeMap<u64, Box<[u8]>>,
}

impl Overlay {
    fn written(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A page of the file, with zeros behind its end.
    fn original(&self, page: u64, kept: u64, out: &mut [u8]) -> io::Result<()> {
        let start = page * PAGE_LEN;
        out.fill(0);
        match usize::try_from(kept.saturating_sub(start).min(PAGE_LEN)) {
            Ok(len @ 1..) => self.file.read(start, &mut out[..len]),
            _ => Ok(()),
        }
    }
}

/// The pages that `len` bytes from `offset` on are in: of each its number, where the bytes begin in it, and how many
/// there are.
fn parts(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let end = offset + len as u64;
    let mut at = offset;
    std::iter::from_fn(move || {
        (at < end).then(|| {
            let (page, begin) = (at / PAGE_LEN, at % PAGE_LEN);
            let len = (PAGE_LEN - begin).min(end - at);
            at += len;
            #[allow(clippy::cast_possible_truncation)] // both are less than a page
            (page, begin as usize, len as usize)
        })
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.written().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let written = self.written();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > written.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let (mut page_bytes, mut at) = ([0; PAGE_BYTES], 0);
        for (page, begin, len) in parts(offset, out.len()) {
            let part = &mut out[at..at + len];
            if let Some(bytes) = written.pages.get(&page) {
                part.copy_from_slice(&bytes[begin..begin + len]);
            } else {
                self.original(page, written.kept, &mut page_bytes)?;
                part.copy_from_slice(&page_bytes[begin..begin + len]);
            }
            at += len;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut written = self.written();
        if len < written.len {
            written.kept = written.kept.min(len);
            drop(written.pages.split_off(&len.div_ceil(PAGE_LEN)));
            if let Some(last) = written.pages.get_mut(&(len / PAGE_LEN)) {
                #[allow(clippy::cast_possible_truncation)] // less than a page
                last[(len % PAGE_LEN) as usize..].fill(0);
            }
        }
        written.len = len;
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut written = self.written();
        let kept = written.kept;
        let mut at = 0;
        for (page, begin, len) in parts(offset, data.len()) {
            let bytes = match written.pages.entry(page) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(new) => {
                    let mut bytes = vec![0; PAGE_BYTES];
                    self.original(page, kept, &mut bytes)?;
                    new.insert(bytes.into())
                }
            };
            bytes[begin..begin + len].copy_from_slice(&data[at..at + len]);
            at += len;
        }
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    // The file is open for reading, for which there are no exclusive locks. A shared one keeps a server out just as
    // well.
    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attributes, Disk, Key, Write, encode};
    use crate::wire::name::Name;

    #[test]
    fn what_is_written_is_read_again_and_the_file_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let whole: Vec<u8> = (0..10_000u32).map(|i| i.to_le_bytes()[0]).collect();
        std::fs::write(&path, &whole).unwrap();
        let file = FileBackend::new(File::open(&path).unwrap()).unwrap();
        let written = Mutex::new(Written { len: 10_000, kept: 10_000, pages: BTreeMap::new() });
        let overlay = Overlay { file, written };
        let mut model = whole.clone();
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..2_000 {
            match rng.u8(..8) {
                0 => {
                    let len = rng.usize(1..20_000);
                    overlay.set_len(len as u64).unwrap();
                    model.resize(len, 0);
                }
                1..4 => {
                    let at = rng.usize(..model.len());
                    let bytes = vec![rng.u8(..); rng.usize(..=(model.len() - at).min(9_000))];
                    overlay.write(at as u64, &bytes).unwrap();
                    model[at..at + bytes.len()].copy_from_slice(&bytes);
                }
                _ => {
                    let at = rng.usize(..model.len());
                    let mut bytes = vec![0; rng.usize(..=model.len() - at)];
                    overlay.read(at as u64, &mut bytes).unwrap();
                    assert_eq!(bytes, model[at..at + bytes.len()]);
                }
            }
            assert_eq!(overlay.len().unwrap(), model.len() as u64);
        }
        assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), whole);
    }

    #[test]
    fn a_sound_file_is_found_sound_and_stays_as_it_was() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(directory.path(), 1).unwrap();
        let bytes: Vec<_> = (0..2_000)
            .map(|i| {
                let name = Name::from_text(&format!("n{i}.example")).unwrap();
                encode(&Key::address("test", &name, [10, 0, 0, 1].into()), &Attributes::with_ttl_s(1))
            })
            .collect();
        let key = |bytes| crate::store::Record::read(bytes).unwrap().key;
        disk.commit(&bytes.iter().map(|bytes| Write::Put { key: key(bytes), bytes }).collect::<Vec<_>>())
            .unwrap();
        assert!(matches!(check(directory.path()), Err(DiskError::InUse(_))));
        // What a kill would leave.
        let killed = tempfile::tempdir().unwrap();
        std::fs::copy(disk.path(), killed.path().join(disk::FILE)).unwrap();
        drop(disk);
        for directory in [&directory, &killed] {
            let path = directory.path().join(disk::FILE);
            let before = std::fs::read(&path).unwrap();
            check(directory.path()).unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), before);
        }
    }
}
