//! What of a node survives its end: its id, the number of its latest start, and its own registrations, in a file.
//!
//! Runs on the main thread at the start, then on the thread `disk`. The `redb` crate writes the file: a transaction is
//! there as a whole or not at all, whenever the process or the machine ends. What it cannot do is tell a file that was
//! damaged from one that it can mend by going back to an earlier transaction; here the file is checked as a whole at
//! each start, and one that does not hold is refused. A node that silently began anew would have lost what it had
//! acknowledged. `disk_check.rs` has that done first where a crash does no harm, `disk_mark.rs` sees that no
//! transaction is missing, and `reserve.rs` keeps room for removals.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use redb::{
    Builder, Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};

use super::disk_mark::Mark;
use super::node_id::NodeId;
use super::record::Record;
use super::reserve::Reserve;
use super::statement::STATEMENT;

/// The file in the data directory.
pub(super) const FILE: &str = "redbreast.redb";

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
/// How many transactions there have been. Releases before this key was there count from 0.
const COMMITS_KEY: &str = "commits";
const ID_KEY: &str = "id";

/// The file, open.
pub struct Disk {
    /// `None` after the disk has failed a write: it is opened again for the next.
    database: Option<Database>,
    path: PathBuf,
    /// The file by its device and inode: another may come to be at its path.
    identity: (u64, u64),
    /// Transactions that are in it.
    commits: u64,
    mark: Mark,
    reserve: Reserve,
    /// There was no room for the last change.
    is_full: bool,
}

/// What was in the file, or is in a new one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskContents {
    /// The node.
    pub node: NodeId,
    /// The number of this start.
    pub incarnation: u64,
    /// Its own registrations in their encodings.
    pub registrations: Vec<Box<[u8]>>,
}

/// What is in a file.
pub(super) struct Contents {
    node: NodeId,
    /// The number of this start.
    pub(super) incarnation: u64,
    /// Transactions so far.
    pub(super) commits: u64,
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
    /// The file holds, and lacks what was acknowledged: so many transactions of so many. With the file that says so.
    Behind(PathBuf, u64, u64, PathBuf),
    /// This process may not write there.
    ReadOnly(PathBuf, String),
    /// There is no room for more.
    Full(PathBuf),
    /// The file that was opened is no longer at its path.
    Gone(PathBuf),
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
                "{}: the file is damaged ({what}). Restore it from a backup; or move it away to begin anew, and \
                 register again what was registered at this node",
                path.display()
            ),
            Self::Behind(path, there, acknowledged, mark) => write!(
                f,
                "{}: the file is damaged, or is an older copy: it has {there} transactions, and {acknowledged} were \
                 acknowledged. Restore the latest one from a backup; or remove {} to go on with what is there, and \
                 register again what is missing",
                path.display(),
                mark.display()
            ),
            Self::ReadOnly(path, what) => write!(
                f,
                "{}: it cannot be written ({what}), so nothing that is registered here would be kept. Mount it to be \
                 written, or give it to the user that this runs as, or choose another --data-dir; --data-dir-optional \
                 goes on without keeping anything",
                path.display()
            ),
            Self::Full(path) => write!(
                f,
                "{}: the disk is full. Make room there; until then names can be removed and addresses drained, but \
                 nothing can be registered",
                path.display()
            ),
            Self::Gone(path) => write!(
                f,
                "{}: the file was removed, or another is in its place, since this node was started, so nothing can be \
                 kept. Put it back (the mount, for example); or start the node again, which begins with what is there \
                 then",
                path.display()
            ),
            Self::Io(path, what) => write!(f, "{}: {what}", path.display()),
        }
    }
}

impl std::error::Error for DiskError {}

impl DiskError {
    /// Whether it is the place that does not serve, rather than what is in it.
    #[must_use]
    pub fn is_of_place(&self) -> bool {
        matches!(self, Self::ReadOnly(..) | Self::Full(_) | Self::Gone(_) | Self::Io(..))
    }
}

impl Write<'_> {
    /// Whether it may make more of what is kept. A statement, for example a drain, replaces what was said of its
    /// target.
    fn grows(&self) -> bool {
        matches!(self, Self::Put { bytes, .. } if Record::known(bytes).rtype != STATEMENT)
    }
}

impl Disk {
    /// Opens the file in `directory`, or makes both. This start's number is in the file already when this returns: it
    /// is higher than the last one, and at least `unix_time_s`, so that it grows even where the file is put back from a
    /// backup.
    ///
    /// # Errors
    /// [`DiskError`]; what was there is as it was.
    pub fn open(directory: &Path, unix_time_s: u64) -> Result<(Self, DiskContents), DiskError> {
        let path = directory.join(FILE);
        let builder = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        builder.map_err(|error| place_error(directory, "cannot make it", &error))?;
        if !path.try_exists().map_err(|error| place_error(&path, "cannot look at it", &error))? {
            make(directory, &path)?;
        }
        let (mut database, identity) = open(&path)?;
        let mut registrations = Vec::new();
        let mut contents = inspect(&mut database, &path, |bytes| registrations.push(bytes.into()))?;
        contents.incarnation = contents.incarnation.max(unix_time_s);
        let mut disk = Self {
            database: Some(database),
            path,
            identity,
            commits: contents.commits,
            mark: Mark::open(directory),
            reserve: Reserve::find(directory),
            is_full: false,
        };
        let Contents { node, incarnation, .. } = contents;
        disk.write_with_reserve(|transaction| put_incarnation(transaction, incarnation))?;
        Ok((disk, DiskContents { node, incarnation, registrations }))
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes the room that removals will have on a full disk.
    ///
    /// # Errors
    /// When there is none by now. All else works.
    pub fn reserve(&mut self) -> Result<(), DiskError> {
        let made = self
            .reserve
            .make()
            .map_err(|error| place_error(&self.path, "cannot keep room for removals", &error));
        self.is_full |= matches!(made, Err(DiskError::Full(_)));
        made
    }

    /// Writes all of it, or nothing. When this returns, the end of the process or of the machine takes none of it away.
    /// On a full disk only what makes less of it is written.
    ///
    /// # Errors
    /// [`DiskError`], for example when the disk is full; what was written before is there.
    pub fn commit(&mut self, writes: &[Write<'_>]) -> Result<(), DiskError> {
        let change = |transaction: &WriteTransaction| {
            let mut registrations = transaction.open_table(REGISTRATIONS)?;
            for write in writes {
                match *write {
                    Write::Put { key, bytes } => drop(registrations.insert(key, bytes)?),
                    Write::Remove { key } => drop(registrations.remove(key)?),
                }
            }
            Ok(())
        };
        self.see_that_it_is_there()?;
        if writes.iter().any(Write::grows) {
            // The room is for others, as far as there is any.
            if self.is_full && (self.reserve.make().is_err() || self.reserve.is_needed()) {
                return Err(DiskError::Full(self.path.clone()));
            }
            self.is_full = false;
            self.write(change)?;
        } else {
            self.write_with_reserve(change)?;
            // As soon as there is room again, before others take it; until then nothing is registered.
            let _ = self.reserve.make();
        }
        // Not durable is what was written to a file that has no name any more.
        self.see_that_it_is_there()?;
        self.mark.set(self.commits);
        Ok(())
    }

    fn see_that_it_is_there(&self) -> Result<(), DiskError> {
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == self.identity => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(place_error(&self.path, "cannot look at it", &error))
            }
            _ => Err(DiskError::Gone(self.path.clone())),
        }
    }

    /// Writes, on a full disk into the room that is kept for this.
    fn write_with_reserve(
        &mut self,
        change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), DiskError> {
        match self.write(&change) {
            Err(DiskError::Full(_)) if self.reserve.release() => self.write(&change),
            done => done,
        }
    }

    fn write(
        &mut self,
        change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), DiskError> {
        let written = self.try_write(change);
        self.is_full |= matches!(written, Err(DiskError::Full(_)));
        written
    }

    fn try_write(
        &mut self,
        change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<(), DiskError> {
        let database = match self.database.take() {
            Some(database) => database,
            None => match open(&self.path)? {
                (database, identity) if identity == self.identity => database,
                _ => return Err(DiskError::Gone(self.path.clone())),
            },
        };
        transact(&database, self.commits + 1, change).map_err(|error| storage_error(&self.path, &error))?;
        self.database = Some(database);
        self.commits += 1;
        Ok(())
    }
}

/// Makes a transaction of a change, the one with this number.
pub(super) fn transact(
    database: &Database,
    number: u64,
    change: impl Fn(&WriteTransaction) -> Result<(), redb::Error>,
) -> Result<(), redb::Error> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    change(&transaction)?;
    transaction.open_table(NUMBERS)?.insert(COMMITS_KEY, number)?;
    Ok(transaction.commit()?)
}

pub(super) fn put_incarnation(transaction: &WriteTransaction, incarnation: u64) -> Result<(), redb::Error> {
    transaction.open_table(NUMBERS)?.insert(INCARNATION_KEY, incarnation)?;
    Ok(())
}

/// Where the file of a data directory is.
#[must_use]
pub fn file_in(directory: &Path) -> PathBuf {
    directory.join(FILE)
}

/// How the file is opened.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_LEN);
    builder
}

/// Opens the file. Returns its device and inode, too.
fn open(path: &Path) -> Result<(Database, (u64, u64)), DiskError> {
    let opened = OpenOptions::new().read(true).write(true).open(path);
    let file = opened.map_err(|error| place_error(path, "cannot open it", &error))?;
    let metadata = file.metadata().map_err(|error| place_error(path, "cannot look at it", &error))?;
    if metadata.len() == 0 {
        return Err(is_empty(path));
    }
    let database = builder().create_file(file).map_err(|error| storage_error(path, &error.into()))?;
    Ok((database, (metadata.dev(), metadata.ino())))
}

/// Taken as a new one it would be filled without a word.
pub(super) fn is_empty(path: &Path) -> DiskError {
    DiskError::Damaged(path.to_owned(), "it is empty".into())
}

/// Checks a file as a whole, sees that nothing is missing that was acknowledged, and reads it: each registration goes
/// to `take`. The incarnation is that of the start to come.
pub(super) fn inspect(
    database: &mut Database,
    path: &Path,
    take: impl FnMut(&[u8]),
) -> Result<Contents, DiskError> {
    // What a kill left half-written has been taken back by now; whatever does not hold after that is damage.
    match database.check_integrity() {
        Ok(true) => {}
        Ok(false) => return Err(DiskError::Damaged(path.to_owned(), "checksums do not match".into())),
        Err(error) => return Err(storage_error(path, &error.into())),
    }
    let mut contents = read(database, path, take)?;
    let (mark, acknowledged) = Mark::read(path.parent().unwrap_or(Path::new(".")));
    if acknowledged > contents.commits {
        return Err(DiskError::Behind(path.to_owned(), contents.commits, acknowledged, mark));
    }
    let next = contents.incarnation.checked_add(1).filter(|next| *next < crate::limits::MAX_INCARNATION);
    contents.incarnation =
        next.ok_or_else(|| DiskError::Damaged(path.to_owned(), "no start can follow".into()))?;
    Ok(contents)
}

/// What is in the file.
fn read(database: &Database, path: &Path, mut take: impl FnMut(&[u8])) -> Result<Contents, DiskError> {
    let damaged = |what: &str| DiskError::Damaged(path.to_owned(), what.into());
    let mut is_sound = true;
    let mut read = || -> Result<_, redb::Error> {
        let transaction = database.begin_read()?;
        let numbers = transaction.open_table(NUMBERS)?;
        let number = |key| Ok::<_, redb::Error>(numbers.get(key)?.map(|value| value.value()));
        let (format, incarnation) = (number(FORMAT_KEY)?, number(INCARNATION_KEY)?);
        let commits = number(COMMITS_KEY)?.unwrap_or_default();
        let id = transaction.open_table(NODE)?.get(ID_KEY)?.map(|id| id.value().to_vec());
        if format == Some(FORMAT) {
            for entry in transaction.open_table(REGISTRATIONS)?.iter()? {
                let (key, bytes) = entry?;
                is_sound &= Record::read(bytes.value()).is_ok_and(|record| record.key == key.value());
                take(bytes.value());
            }
        }
        Ok((format, incarnation, commits, id))
    };
    let (format, incarnation, commits, id) = read().map_err(|error| storage_error(path, &error))?;
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
    if !is_sound {
        return Err(damaged("a registration cannot be read"));
    }
    Ok(Contents { node, incarnation, commits })
}

/// Makes the file of a new node under another name first: it is there as a whole or not at all.
fn make(directory: &Path, path: &Path) -> Result<(), DiskError> {
    let new = directory.join(NEW_FILE);
    let io = |error: io::Error| place_error(&new, "cannot make it", &error);
    // One that an end in the middle of this has left.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    let options = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&new);
    let made = || -> Result<(), redb::Error> {
        let database = builder().create_file(options?)?;
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

/// What the kernel refuses.
fn place_error(path: &Path, what: &str, error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
            DiskError::ReadOnly(path.to_owned(), format!("{what}: {error}"))
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full(path.to_owned()),
        _ => DiskError::Io(path.to_owned(), format!("{what}: {error}")),
    }
}

pub(super) fn storage_error(path: &Path, error: &redb::Error) -> DiskError {
    match error {
        redb::Error::DatabaseAlreadyOpen => DiskError::InUse(path.to_owned()),
        redb::Error::Io(error)
            if matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            DiskError::Damaged(path.to_owned(), error.to_string())
        }
        redb::Error::PreviousIo => DiskError::Io(path.to_owned(), error.to_string()),
        redb::Error::Io(error) => place_error(path, "reading or writing it failed", error),
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
        disk.commit(&all.iter().map(|(key, bytes)| Write::Put { key, bytes }).collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn what_was_written_is_there_again_under_a_later_start() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("a/b");
        let (mut disk, first) = Disk::open(&below, 100).unwrap();
        assert_eq!((first.incarnation, first.registrations.len()), (100, 0));
        put(&mut disk, 0..10, 1);
        put(&mut disk, 3..4, 7);
        disk.commit(&[Write::Remove { key: &registration(5, 1).0 }, Write::Remove { key: b"none" }]).unwrap();
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
            assert_eq!(found, DiskContents { node, incarnation, registrations }, "the clock says {time_s}");
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
            // A start does this in a process of its own first (`disk_check`), for which a panic of the library is a
            // damage, too.
            match std::panic::catch_unwind(|| Disk::open(directory.path(), 1)) {
                Ok(Ok((_, found))) => {
                    assert_eq!((found.node, found.registrations.len()), (first.node, 200), "byte {at}");
                }
                Ok(Err(error)) => {
                    let is_told = matches!(error, DiskError::Damaged(..) | DiskError::Behind(..));
                    assert!(is_told, "byte {at}: {error}");
                    refused += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 10, "{refused} flips were in bytes that mean something");
    }
}
