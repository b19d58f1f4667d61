//! The store behind a lock that nobody holds for long: the cluster, the writes, the tables and the readers share it.
//!
//! No operation of the [`Store`] depends on how much it holds, and what concerns very many records is done in steps
//! ([`Store::sweep`]). So whoever takes the lock gives it back within a millisecond, and the thread that keeps
//! membership alive never waits for longer. Whoever reads very much lets go of it again and again.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Store;

/// What gives a [`Store`] to be read for a moment: the store itself, or one that others change meanwhile.
pub trait ReadStore {
    /// Reads the store. A shared one is locked for as long, which is to be less than a millisecond.
    fn with<R>(&self, read: impl FnOnce(&Store) -> R) -> R;
}

impl ReadStore for Store {
    fn with<R>(&self, read: impl FnOnce(&Store) -> R) -> R {
        read(self)
    }
}

impl ReadStore for SharedStore {
    fn with<R>(&self, read: impl FnOnce(&Store) -> R) -> R {
        read(&self.read())
    }
}

/// A [`Store`] that several threads share. A clone is another handle to the same store.
#[derive(Clone)]
pub struct SharedStore(Arc<Shared>);

struct Shared {
    store: RwLock<Store>,
    is_bulk_held: AtomicBool,
    filling: AtomicU8,
}

/// Whether a source of this node's own, such as a file, registers what may be very much.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Filling {
    /// No.
    No,
    /// Yes, and more will follow. To make a table of all that there is, or to give others parts of it, would only take
    /// longer.
    UnderWay,
    /// All is registered, and not in answers yet.
    ToBePublished,
}

impl SharedStore {
    /// Shares `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Shared {
            store: RwLock::new(store),
            is_bulk_held: AtomicBool::new(false),
            filling: AtomicU8::new(Filling::No as u8),
        }))
    }

    /// The store, to be read.
    pub fn read(&self) -> RwLockReadGuard<'_, Store> {
        // A panic ends the process; in tests, what it left is as good as what there is.
        self.0.store.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has those who bring very much wait, or go on: while all of the store is read, its names are to hold still.
    pub fn hold_bulk(&self, hold: bool) {
        self.0.is_bulk_held.store(hold, Ordering::Release);
    }

    /// Whether those who bring very much are to wait.
    #[must_use]
    pub fn is_bulk_held(&self) -> bool {
        self.0.is_bulk_held.load(Ordering::Acquire)
    }

    /// Tells how far a source is that registers what may be very much.
    pub fn set_filling(&self, filling: Filling) {
        self.0.filling.store(filling as u8, Ordering::Release);
    }

    /// How far it is.
    #[must_use]
    pub fn filling(&self) -> Filling {
        let all = [Filling::No, Filling::UnderWay, Filling::ToBePublished];
        all[usize::from(self.0.filling.load(Ordering::Acquire))]
    }

    /// The store, to be changed.
    pub fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.0.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}
