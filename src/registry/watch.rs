//! Tells when files change on disk.
//!
//! The callback runs on a thread of the `notify` crate. Directories are watched rather than files: editors and
//! configuration managers replace a file by renaming another over it, and the watch has to outlive that.

use std::collections::HashSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind};
use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher};

/// Watches as long as it lives.
pub struct FileWatch {
    _watcher: RecommendedWatcher,
}

/// Calls `changed` whenever one of `files` may have new contents.
///
/// # Errors
/// When the kernel will not watch, for example because the limit of inotify watches is reached.
pub fn watch(files: &[PathBuf], changed: impl Fn() + Send + 'static) -> notify::Result<FileWatch> {
    let file_names: HashSet<OsString> =
        files.iter().filter_map(|file| file.file_name()).map(Into::into).collect();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
        // An error means that events may have been lost: look at the files to be safe.
        if event.map_or(true, |event| concerns(&event, &file_names)) {
            changed();
        }
    })?;
    for directory in directories(files) {
        watcher.watch(&directory, RecursiveMode::NonRecursive)?;
    }
    Ok(FileWatch { _watcher: watcher })
}

/// Whether one of the files may now have contents that its writer is done with. A file that is being written is left
/// alone until it is closed: half a file would read as half of the names. After a rename the path that leads to a file
/// may be a new one, whatever was renamed.
fn concerns(event: &Event, file_names: &HashSet<OsString>) -> bool {
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => {
            event.paths.iter().filter_map(|path| path.file_name()).any(|name| file_names.contains(name))
        }
        EventKind::Modify(ModifyKind::Name(_)) => true,
        _ => false,
    }
}

/// The directories that `files` are in, and those that they really are in where they are links: `kubelet` swaps a link
/// in the path of a mounted file, for example.
fn directories(files: &[PathBuf]) -> HashSet<PathBuf> {
    let parent = |path: &Path| match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    files
        .iter()
        .flat_map(|file| [Some(parent(file)), file.canonicalize().ok().map(|real| parent(&real))])
        .flatten()
        .collect()
}
