//! Tells when files change on disk, whatever the way to them.
//!
//! Runs on a thread of its own, `watch`; events come from a thread of the `notify` crate. What is watched is each place
//! in which a name is looked up on the way to a file, links included, and the file: editors and configuration managers
//! rename another file over it, `kubelet` swaps a link in the middle of the path, `ln -sf` the link at its end. After
//! each change of these the way is looked up again. Some changes make no event at all, for example those that another
//! host makes to a network file system; so the files' identities are compared every two seconds, too.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use crossbeam_channel::{Receiver, Sender, TrySendError};
use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};
use tracing::warn;

/// How often files are compared with what they were.
const PERIOD: Duration = Duration::from_secs(2);

/// Events that wait at most. When there are more, all files count as changed.
const MAX_EVENTS: usize = 1024;

/// Links on the way to a file at most, as in the kernel (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Looking up the way and watching it is begun again so often while the way changes. The next look is a [`PERIOD`]
/// later.
const MAX_LOOKS: usize = 8;

/// Watches as long as it lives.
pub struct FileWatch {
    _stop: Sender<()>,
}

/// Calls `changed` whenever one of `files` may have new contents. What changes after this has returned is noticed.
///
/// # Errors
/// When there can be no thread for it. Where the kernel will not watch, the files are still compared.
pub fn watch(files: &[PathBuf], changed: impl Fn() + Send + 'static) -> io::Result<FileWatch> {
    let (sender, events) = crossbeam_channel::bounded(MAX_EVENTS);
    let shared = Arc::new(Shared::default());
    let files =
        files.iter().map(|path| WatchedFile { path: path.clone(), ..WatchedFile::default() }).collect();
    let mut ways = Ways { files, shared, watcher: None, watched: BTreeMap::new(), writing: HashSet::new() };
    ways.watch_with(sender);
    ways.look_again();
    ways.files.iter_mut().for_each(|file| file.told = file.now);
    let (stop, stopped) = crossbeam_channel::bounded(0);
    thread::Builder::new().name("watch".into()).spawn(move || ways.run(&events, &stopped, &changed))?;
    Ok(FileWatch { _stop: stop })
}

/// What the thread of `notify` looks at, and says.
#[derive(Default)]
struct Shared {
    /// Where something that happens may concern a file.
    places: Mutex<HashSet<PathBuf>>,
    /// Events were lost.
    lost: AtomicBool,
}

/// Something that has happened at one of the places.
#[derive(Clone, Debug)]
enum Happened {
    /// A file there is being written. It is left alone until it is closed: half a file would read as half of the names.
    Written(PathBuf),
    /// Its writer is done.
    Closed(PathBuf),
    /// What has this name is another one.
    Renamed,
    /// It is new, or gone.
    MadeOrRemoved(PathBuf),
    /// Nobody knows.
    Lost,
}

impl Shared {
    /// What of an event concerns us. Runs on the thread of `notify`.
    fn read(&self, event: notify::Result<Event>) -> Option<Happened> {
        // An error means that events may have been lost.
        let Ok(event) = event else { return Some(Happened::Lost) };
        if event.need_rescan() {
            return Some(Happened::Lost);
        }
        let places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = event.paths.iter().find(|path| places.contains(*path))?;
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => Some(Happened::Closed(place.clone())),
            EventKind::Modify(ModifyKind::Data(_)) => Some(Happened::Written(place.clone())),
            EventKind::Modify(ModifyKind::Name(_)) => Some(Happened::Renamed),
            EventKind::Create(_) | EventKind::Remove(_) => Some(Happened::MadeOrRemoved(place.clone())),
            _ => None,
        }
    }
}

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// What is at a path, and since when, where the file system says so: numbers are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileIdentity {
    device: u64,
    inode: u64,
    created: Option<SystemTime>,
}

impl FileIdentity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino(), created: metadata.created().ok() }
    }

    /// Whether it is certain to be the same as what was there `before`.
    fn is_still(&self, before: Option<&Self>) -> bool {
        self.created.is_some() && before == Some(self)
    }
}

#[derive(Default)]
struct WatchedFile {
    path: PathBuf,
    /// Where its path leads, with no links on the way.
    target: PathBuf,
    now: Option<Identity>,
    /// What it was when it was told last that it has changed.
    told: Option<Identity>,
    /// What it was at the last comparison.
    compared: Option<Identity>,
}

impl WatchedFile {
    /// One that is not there has no new contents.
    fn has_changed(&self) -> bool {
        self.now.is_some() && self.now != self.told
    }
}

/// The files, and what is watched on the way to them.
struct Ways {
    files: Vec<WatchedFile>,
    shared: Arc<Shared>,
    watcher: Option<RecommendedWatcher>,
    /// By their paths, with what is there: another may come to be at a path.
    watched: BTreeMap<PathBuf, FileIdentity>,
    /// Files of which the last that was heard is that they are being written.
    writing: HashSet<PathBuf>,
}

impl Ways {
    fn watch_with(&mut self, sender: Sender<Happened>) {
        let shared = Arc::clone(&self.shared);
        let watcher = notify::recommended_watcher(move |event| {
            let happened = shared.read(event);
            if happened.is_some_and(|it| matches!(sender.try_send(it), Err(TrySendError::Full(_)))) {
                shared.lost.store(true, Ordering::Release);
            }
        });
        self.watcher = watcher.map_err(|error| tell(&error)).ok();
    }

    fn run(mut self, events: &Receiver<Happened>, stopped: &Receiver<()>, changed: &impl Fn()) {
        // Without a watcher there is nobody at the other end.
        let nothing = crossbeam_channel::never();
        let events = if self.watcher.is_some() { events } else { &nothing };
        let ticks = crossbeam_channel::tick(PERIOD);
        loop {
            let is_news = crossbeam_channel::select! {
                recv(events) -> happened => happened.is_ok_and(|happened| self.take(happened)),
                recv(ticks) -> _ => self.compare(),
                recv(stopped) -> _ => return,
            };
            if is_news | self.shared.lost.swap(false, Ordering::AcqRel) {
                self.files.iter_mut().for_each(|file| file.told = file.now);
                changed();
            }
        }
    }

    /// Takes note of an event. Returns whether a file may have contents now that its writer is done with.
    fn take(&mut self, happened: Happened) -> bool {
        match happened {
            Happened::Written(path) => {
                self.writing.insert(path);
                false
            }
            Happened::Closed(path) => {
                self.writing.remove(&path);
                self.way();
                self.files.iter().any(|file| file.target == path)
            }
            Happened::Renamed => {
                self.look_again();
                self.files.iter().any(WatchedFile::has_changed)
            }
            Happened::MadeOrRemoved(path) => {
                self.look_again();
                // A file that is new is still to be written, and then closed.
                let is_file = fs::symlink_metadata(path).is_ok_and(|it| it.is_file());
                !is_file && self.files.iter().any(WatchedFile::has_changed)
            }
            Happened::Lost => {
                self.look_again();
                true
            }
        }
    }

    /// Compares the files with what they were. Returns whether one has changed, without an event, and stays as it is
    /// now.
    fn compare(&mut self) -> bool {
        if self.way() != self.watched {
            self.look_again();
        }
        let mut is_news = false;
        for file in &mut self.files {
            let is_settled = file.compared == file.now && !self.writing.contains(&file.target);
            is_news |= file.has_changed() && is_settled;
            file.compared = file.now;
        }
        is_news
    }

    /// Looks up the way to the files, and watches it. What is watched by now may be what has been there before.
    fn look_again(&mut self) {
        self.writing.clear();
        for _ in 0..MAX_LOOKS {
            let way = self.way();
            if let Some(watcher) = &mut self.watcher {
                // Nothing is watched anew without need: in a trace of a busy CPU each new watch kept the workers from
                // it for 10 to 15 ms (Linux 6.18).
                let is_still =
                    |path: &PathBuf| way.get(path).is_some_and(|it| it.is_still(self.watched.get(path)));
                for path in self.watched.keys().filter(|path| !is_still(path)) {
                    // It fails if it is gone, and then there is nothing to do.
                    let _ = watcher.unwatch(path);
                }
                for path in way.keys().filter(|path| !is_still(path)) {
                    match watcher.watch(path, RecursiveMode::NonRecursive) {
                        Err(error) if !matches!(error.kind, notify::ErrorKind::PathNotFound) => tell(&error),
                        _ => {}
                    }
                }
            }
            self.watched = way;
            // What has changed between the look and the watch made no event.
            if self.way() == self.watched {
                return;
            }
        }
    }

    /// What there is on the way to the files. Notes where these are, and what.
    fn way(&mut self) -> BTreeMap<PathBuf, FileIdentity> {
        let (mut way, mut places) = (BTreeMap::new(), HashSet::new());
        for file in &mut self.files {
            let lookups = lookups(&file.path);
            file.target = lookups.last().map(|(directory, name)| directory.join(name)).unwrap_or_default();
            let metadata = fs::metadata(&file.target).ok();
            file.now = metadata.as_ref().map(Identity::of);
            way.extend(metadata.map(|it| (file.target.clone(), FileIdentity::of(&it))));
            for (directory, name) in lookups {
                places.insert(directory.join(name));
                if let Ok(metadata) = fs::metadata(&directory) {
                    way.insert(directory, FileIdentity::of(&metadata));
                }
            }
        }
        *self.shared.places.lock().unwrap_or_else(PoisonError::into_inner) = places;
        way
    }
}

fn tell(error: &notify::Error) {
    warn!("files are compared every {} s, for they cannot be watched: {error}", PERIOD.as_secs());
}

/// The names that the kernel looks up on the way along `path`, each with the directory that it looks in; that has no
/// links on its way. The last is the file.
fn lookups(path: &Path) -> Vec<(PathBuf, OsString)> {
    let working = || std::env::current_dir().unwrap_or_else(|_| "/".into());
    let mut at = if path.is_absolute() { PathBuf::from("/") } else { working() };
    let mut rest = parts(path);
    let (mut lookups, mut links) = (Vec::new(), 0);
    while let Some(name) = rest.pop() {
        if name == ".." {
            at.pop();
            continue;
        }
        let place = at.join(&name);
        lookups.push((at.clone(), name));
        match fs::read_link(&place) {
            Ok(target) if links < MAX_LINKS => {
                links += 1;
                rest.extend(parts(&target));
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
            }
            _ => at = place,
        }
    }
    lookups
}

/// The names in a path, the last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let name = |part: Component<'_>| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_name_on_the_way_is_looked_up_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        fs::create_dir_all(root.join("a/b")).unwrap();
        fs::create_dir(root.join("c")).unwrap();
        fs::write(root.join("c/real"), "").unwrap();
        symlink("../../c", root.join("a/b/over")).unwrap();
        symlink(root.join("a/b/over/real"), root.join("link")).unwrap();
        let way: Vec<_> =
            lookups(&root.join("c/../link")).into_iter().map(|(at, name)| at.join(name)).collect();
        let expected = ["c", "link", "a", "a/b", "a/b/over", "c", "c/real"].map(|name| root.join(name));
        let way: Vec<_> = way.into_iter().filter(|it| it.starts_with(&root) && *it != root).collect();
        assert_eq!(way, expected);
    }

    #[test]
    fn a_loop_of_links_ends() {
        let directory = tempfile::tempdir().unwrap();
        symlink("loop", directory.path().join("loop")).unwrap();
        assert!(lookups(&directory.path().join("loop")).len() < 100);
    }
}
