//! What of a node survives its end: its id, the number of its latest start, and its own registrations, in a file.
//!
//! Runs on the main thread at the start, then on the thread `disk`. The `redb` crate writes the file: a transaction is there
//! as a whole or not at all, whenever the process or the machine ends. What it cannot do is tell a file that was damaged
//! from one that it can mend by going back to an earlier transaction; here the file is checked as a whole at each start,
//! and one that does not hold is refused. A node that silently began anew would have lost what it had acknowledged.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::node_id::NodeId;
use super::record::Record;

/// The file in the data directory.
const FILE: &str = "redbreast.redb";

/// A file that is being made.
const NEW_FILE: &str = "redbreast.redb.new";

/// Bytes that the file's cache may take: registrations are read once, at the start.
const CACHE_LEN: usize = 4 * 1024 * 1024;

/// The format of what is in the file.
const FORMAT: u64 = 1;

const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const NODE: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("node");
const REGISTRATIONS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("registrations");

const FORMAT_KEY: &str = "format";
const INCARNATION_KEY: &str = "incarnation";
const ID_KEY: &str = "id";

/// The file, open.
pub struct Disk {
    /// `None` after the disk has failed a write: it is opened again for the next.
    database: Option<Database>,
    path: PathBuf,
}

/// What was in the file, or is in a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The node.
    pub node: NodeId,
    /// The number of this start.
    pub incarnation: u64,
    /// Its own registrations in their encodings.
    pub registrations: Vec<Box<[u8]>>,
}

/// A change to write.
#[derive(Clone, Copy, Debug)]
pub enum Write<'a> {
    /// The registration with this key has this encoding now.
    Put {
        /// The bytes of its key.
        key: &'a [u8],
        /// Its encoding.
        bytes: &'a [u8],
    },
    /// The registration with this key is no more.
    Remove {
        /// The bytes of its key.
        key: &'a [u8],
    },
}

/// Why registrations cannot be kept.
#[derive(Debug)]
pub enum DiskError {
    /// Another process has the file.
    InUse(PathBuf),
    /// The file is not what was written.
    Damaged(PathBuf, String),
    /// The kernel refused something.
    Io(PathBuf, String),
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InUse(path) => write!(
                f,
                "{}: another redbreast uses this file; each node needs a --data-dir of its own",
                path.display()
            ),
            Self::Damaged(path, what) => write!(
                f,
                "{}: the file is damaged ({what}). Restore it from a backup; or move it away to begin anew, and register \
                 again what was registered at this node",
                path.display()
            ),
            Self::Io(path, what) => write!(f, "{}: {what}", path.display()),
        }
    }
}

impl std::error::Error for DiskError {}

impl Disk {
    /// Opens the file in `directory`, or makes both. This start's number is in the file already when this returns: it is
    /// higher than the last one, and at least `unix_time_s`, so that it grows even where the file is put back from a backup.
    ///
    /// # Errors
    /// [`DiskError`]; what was there is as it was.
    pub fn open(directory: &Path, unix_time_s: u64) -> Result<(Self, Found), DiskError> {
        let path = directory.join(FILE);
        let io = |error: io::Error| DiskError::Io(path.clone(), error.to_string());
        let builder = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        builder.map_err(|error| DiskError::Io(directory.to_owned(), format!("cannot make it: {error}")))?;
        if !path.try_exists().map_err(io)? {
            make(directory, &path)?;
        }
        let len = fs::metadata(&path).map_err(io)?.len();
        if len == 0 {
            // Taken as a new one it would be filled without a word.
            return Err(DiskError::Damaged(path, "it is empty".into()));
        }
        let mut database = open(&path)?;
        // What a kill left half-written has been taken back by now; whatever does not hold after that is damage.
        match database.check_integrity() {
            Ok(true) => {}
            Ok(false) => return Err(DiskError::Damaged(path, "checksums do not match".into())),
            Err(error) => return Err(storage_error(&path, &error.into())),
        }
        let mut found = read(&database, &path)?;
        let next = found.incarnation.checked_add(1);
        let next = next.filter(|next| *next < crate::limits::MAX_INCARNATION);
        let next = next.ok_or_else(|| DiskError::Damaged(path.clone(), "no start can follow".into()))?;
        found.incarnation = next.max(unix_time_s);
        let mut disk = Self { database: Some(database), path };
        disk.write(|transaction| {
            transaction.open_table(NUMBERS)?.insert(INCARNATION_KEY, found.incarnation)?;
            Ok(())
        })?;
        Ok((disk, found))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes all of it, or nothing. When this returns, the end of the process or of the machine takes none of it away.
    ///
    /// # Errors
    /// [`DiskError`], for example when the disk is full; what was written before is there.
    pub fn commit<'a>(&mut self, writes: impl IntoIterator<Item = Write<'a>>) -> Result<(), DiskError> {
        self.write(|transaction| {
            let mut registrations = transaction.open_table(REGISTRATIONS)?;
            for write in writes {
                match write {
                    Write::Put { key, bytes } => drop(registrations.insert(key, bytes)?),
                    Write::Remove { key } => drop(registrations.remove(key)?),
                }
            }
            Ok(())
        })
    }

    fn write(
        &mut self,
        change: impl FnOnce(&redb::WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), DiskError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => open(&self.path)?,
        };
        let write = || -> Result<(), redb::Error> {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            change(&transaction)?;
            Ok(transaction.commit()?)
        };
        write().map_err(|error| storage_error(&self.path, &error))?;
        self.database = Some(database);
        Ok(())
    }
}

fn open(path: &Path) -> Result<Database, DiskError> {
    let opened = Builder::new().set_cache_size(CACHE_LEN).open(path);
    opened.map_err(|error| storage_error(path, &error.into()))
}

/// What is in the file.
fn read(database: &Database, path: &Path) -> Result<Found, DiskError> {
    let damaged = |what: &str| DiskError::Damaged(path.to_owned(), what.into());
    let read = || -> Result<_, redb::Error> {
        let transaction = database.begin_read()?;
        let numbers = transaction.open_table(NUMBERS)?;
        let number = |key| Ok::<_, redb::Error>(numbers.get(key)?.map(|value| value.value()));
        let (format, incarnation) = (number(FORMAT_KEY)?, number(INCARNATION_KEY)?);
        let id = transaction.open_table(NODE)?.get(ID_KEY)?.map(|id| id.value().to_vec());
        let mut registrations = Vec::new();
        for entry in transaction.open_table(REGISTRATIONS)?.iter()? {
            let (key, bytes) = entry?;
            registrations.push((Box::<[u8]>::from(key.value()), Box::<[u8]>::from(bytes.value())));
        }
        Ok((format, incarnation, id, registrations))
    };
    let (format, incarnation, id, entries) = read().map_err(|error| storage_error(path, &error))?;
    match format {
        Some(FORMAT) => {}
        Some(other) => {
            let what = format!("its format is {other}, this release knows {FORMAT}: use a later release");
            return Err(DiskError::Io(path.to_owned(), what));
        }
        None => return Err(damaged("it does not say its format")),
    }
    let incarnation = incarnation.ok_or_else(|| damaged("it does not say the last start"))?;
    let id = id.and_then(|id| <[u8; 16]>::try_from(id).ok());
    let node = NodeId(id.ok_or_else(|| damaged("it does not say which node it is of"))?);
    let sound =
        |(key, bytes): &(Box<[u8]>, Box<[u8]>)| Record::read(bytes).is_ok_and(|record| record.key == &**key);
    if !entries.iter().all(sound) {
        return Err(damaged("a registration cannot be read"));
    }
    Ok(Found { node, incarnation, registrations: entries.into_iter().map(|(_, bytes)| bytes).collect() })
}

/// Makes the file of a new node under another name first: it is there as a whole or not at all.
fn make(directory: &Path, path: &Path) -> Result<(), DiskError> {
    let new = directory.join(NEW_FILE);
    let io = |error: io::Error| DiskError::Io(new.clone(), format!("cannot make it: {error}"));
    // One that an end in the middle of this has left.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new);
    let made = || -> Result<(), redb::Error> {
        let database = Builder::new().set_cache_size(CACHE_LEN).create_file(options?)?;
        let transaction = database.begin_write()?;
        transaction.open_table(NUMBERS)?.insert(FORMAT_KEY, FORMAT)?;
        transaction.open_table(NUMBERS)?.insert(INCARNATION_KEY, 0)?;
        transaction.open_table(NODE)?.insert(ID_KEY, &NodeId::random().0[..])?;
        transaction.open_table(REGISTRATIONS)?;
        Ok(transaction.commit()?)
    };
    made().map_err(|error| storage_error(&new, &error))?;
    fs::rename(&new, path).map_err(io)?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(io)
}

fn storage_error(path: &Path, error: &redb::Error) -> DiskError {
    match error {
        redb::Error::DatabaseAlreadyOpen => DiskError::InUse(path.to_owned()),
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            DiskError::Damaged(path.to_owned(), error.to_string())
        }
        redb::Error::Io(error) => DiskError::Io(path.to_owned(), error.to_string()),
        redb::Error::RepairAborted => DiskError::Damaged(path.to_owned(), "it cannot be mended".into()),
        other => DiskError::Damaged(path.to_owned(), other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::store::{Attributes, Key, encode};
    use crate::wire::name::Name;

    fn registration(number: u32, ttl_s: u32) -> (Box<[u8]>, Box<[u8]>) {
        let name = Name::from_text(&format!("n{number}.example")).unwrap();
        let key = Key::address("test", &name, [10, 0, 0, 1].into());
        let bytes = encode(&key, &Attributes::with_ttl_s(ttl_s));
        let key = Record::read(&bytes).unwrap().key.into();
        (key, bytes)
    }

    fn put(disk: &mut Disk, numbers: std::ops::Range<u32>, ttl_s: u32) {
        let all: Vec<_> = numbers.map(|number| registration(number, ttl_s)).collect();
        disk.commit(all.iter().map(|(key, bytes)| Write::Put { key, bytes })).unwrap();
    }

    #[test]
    fn what_was_written_is_there_again_under_a_later_start() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("a/b");
        let (mut disk, first) = Disk::open(&below, 100).unwrap();
        assert_eq!((first.incarnation, first.registrations.len()), (100, 0));
        put(&mut disk, 0..10, 1);
        put(&mut disk, 3..4, 7);
        disk.commit([Write::Remove { key: &registration(5, 1).0 }, Write::Remove { key: b"none" }]).unwrap();
        let path = disk.path().to_owned();
        assert!(matches!(Disk::open(&below, 100), Err(DiskError::InUse(_))));
        drop(disk);
        let mut expected: Vec<_> =
            (0..10).filter(|&i| i != 5).map(|i| registration(i, if i == 3 { 7 } else { 1 }).1).collect();
        expected.sort();
        for (time_s, incarnation) in [(50, 101), (0, 102), (1000, 1000)] {
            let (_, mut found) = Disk::open(&below, time_s).unwrap();
            found.registrations.sort();
            let (node, registrations) = (first.node, expected.clone());
            assert_eq!(found, Found { node, incarnation, registrations }, "the clock says {time_s}");
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&below), mode(&path)), (0o700, 0o600));
    }

    #[test]
    fn a_start_that_ended_while_it_made_the_file_leaves_nothing_in_the_way() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(NEW_FILE), b"half").unwrap();
        Disk::open(directory.path(), 1).unwrap();
        assert!(!directory.path().join(NEW_FILE).exists());
    }

    fn refusal(directory: &Path) -> String {
        Disk::open(directory, 1).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_file_that_is_not_what_was_written_is_refused_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, _) = Disk::open(directory.path(), 1).unwrap();
        put(&mut disk, 0..300, 1);
        let path = disk.path().to_owned();
        drop(disk);
        let whole = fs::read(&path).unwrap();
        for damaged in
            [Vec::new(), b"names".to_vec(), whole[..whole.len() / 2].to_vec(), vec![0; whole.len()]]
        {
            fs::write(&path, &damaged).unwrap();
            let told = refusal(directory.path());
            assert!(told.contains("redbreast.redb") && told.contains("damaged"), "{told}");
            assert_eq!(fs::read(&path).unwrap().len(), damaged.len());
        }
        fs::write(&path, &whole).unwrap();
        Disk::open(directory.path(), 1).unwrap();
        let file = directory.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(refusal(&file.join("below")).contains("cannot make it"));
    }

    #[test]
    fn flipped_bits_are_found_or_do_no_harm() {
        let directory = tempfile::tempdir().unwrap();
        let (mut disk, first) = Disk::open(directory.path(), 1).unwrap();
        (0..20).for_each(|i| put(&mut disk, i * 10..i * 10 + 10, 1));
        let path = disk.path().to_owned();
        drop(disk);
        let whole = fs::read(&path).unwrap();
        let mut rng = fastrand::Rng::with_seed(8);
        let mut refused = 0;
        for round in 0..600 {
            let mut damaged = whole.clone();
            // The header is the most delicate part.
            let at = if round < 200 { rng.usize(..512) } else { rng.usize(..damaged.len()) };
            damaged[at] ^= 1 << rng.u8(..8);
            fs::write(&path, &damaged).unwrap();
            match Disk::open(directory.path(), 1) {
                Ok((_, found)) => {
                    assert_eq!((found.node, found.registrations.len()), (first.node, 200), "byte {at}");
                }
                Err(error) => {
                    assert!(matches!(error, DiskError::Damaged(..)), "byte {at}: {error}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 10, "{refused} flips were in bytes that mean something");
    }
}
