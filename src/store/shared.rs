//! The store behind a lock that nobody holds for long: the cluster, the writes, the tables and the readers share it.
//!
//! No operation of the [`Store`] depends on how much it holds, and what concerns very many records is done in steps
//! ([`Store::sweep`]). So whoever takes the lock gives it back within a millisecond, and the thread that keeps membership
//! alive never waits for longer. Whoever reads very much lets go of it again and again.

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::Store;

/// A [`Store`] that several threads share. A clone is another handle to the same store.
#[derive(Clone)]
pub struct SharedStore(Arc<RwLock<Store>>);

impl SharedStore {
    /// Shares `store`.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self(Arc::new(RwLock::new(store)))
    }

    /// The store, to be read.
    pub fn read(&self) -> RwLockReadGuard<'_, Store> {
        // A panic ends the process; in tests, what it left is as good as what there is.
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store, to be changed.
    pub fn write(&self) -> RwLockWriteGuard<'_, Store> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
