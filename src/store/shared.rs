//! The store behind a lock that nobody holds for long: the cluster, the writes, the tables and the readers share it.
//!
//! No operation of the [`Store`] depends on how much it holds, and what concerns very many records is done in steps
//! ([`Store::sweep`]). So whoever takes the lock gives it back within a millisecond, and the thread that keeps membership
//! alive never waits for longer. Whoever reads very much lets go of it again and again.

use std::sync::atomic::{AtomicBool, Ordering};
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
    is_being_filled: AtomicBool,
}

impl SharedStore {
    /// Shares `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(Arc::new(Shared {
            store: RwLock::new(store),
            is_bulk_held: AtomicBool::new(false),
            is_being_filled: AtomicBool::new(false),
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

    /// A source of this node's begins to register what may be very much, or all of it is in answers.
    pub fn note_filling(&self, is_being_filled: bool) {
        self.0.is_being_filled.store(is_being_filled, Ordering::Release);
    }

    /// Whether such a source is at work. To give others parts of it meanwhile would only take longer, for them and here.
    #[must_use]
    pub fn is_being_filled(&self) -> bool {
        self.0.is_being_filled.load(Ordering::Acquire)
    }

    /// The store, to be changed.
    pub fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.0.store.write().unwrap_or_else(PoisonError::into_inner)
    }
}
