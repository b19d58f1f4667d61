//! One writer, many readers: a value that is replaced as a whole, and read at the price of one atomic load.
//!
//! The [`Current`] value belongs to the thread that writes it, each [`Reader`] to a worker. A worker goes on with the
//! value that it has unless the pointer to the current one has changed.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

/// A value, and those that were there before it.
pub struct Current<T> {
    current: Arc<ArcSwap<T>>,
    /// Values that were replaced and that a reader may still be using. They are kept until the writer is their only
    /// owner, so that it is never a worker that gives up the last share and has to free one. A reader holds on to one
    /// value at a time, so there are never more of them than readers.
    retired: Vec<Arc<T>>,
}

/// A worker's view of the current value.
pub struct Reader<T>(Cache<Arc<ArcSwap<T>>, Arc<T>>);

/// The current value for those who look at it now and then, and may free one.
pub struct View<T>(Arc<ArcSwap<T>>);

impl<T> Clone for View<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> View<T> {
    /// The current value.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.0.load_full()
    }
}

impl<T> Reader<T> {
    /// The current value. Call it once for a batch of packets.
    #[inline]
    pub fn load(&mut self) -> &T {
        self.0.load()
    }

    /// The same, to be kept for longer: it is freed by the writer all the same, once it has been let go.
    pub fn load_full(&mut self) -> Arc<T> {
        Arc::clone(self.0.load())
    }
}

// cold: the side that publishes; readers have the other
impl<T> Current<T> {
    /// Begins with `value`.
    #[must_use]
    pub fn new(value: T) -> Self {
        Self { current: Arc::new(ArcSwap::from_pointee(value)), retired: Vec::new() }
    }

    /// A view for one more worker.
    #[must_use]
    pub fn reader(&self) -> Reader<T> {
        Reader(Cache::new(Arc::clone(&self.current)))
    }

    /// A view for a thread that is no worker.
    #[must_use]
    pub fn view(&self) -> View<T> {
        View(Arc::clone(&self.current))
    }

    /// The value that readers load from now on.
    #[must_use]
    pub fn load(&self) -> Arc<T> {
        self.current.load_full()
    }

    /// Replaces the value; each reader has it with its next [`load`](Reader::load).
    pub fn replace(&mut self, value: T) {
        self.retired.push(self.current.swap(Arc::new(value)));
        self.retired.retain(|value| Arc::strong_count(value) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_each_value_and_replaced_ones_are_freed_by_the_writer() {
        let mut current = Current::new(Arc::new(0));
        let first: Arc<i32> = Arc::clone(&*current.load());
        let (mut busy, mut idle) = (current.reader(), current.reader());
        for i in 1..=20 {
            current.replace(Arc::new(i));
            assert_eq!(**busy.load(), i);
            assert!(current.retired.len() <= 2, "one per reader");
        }
        assert_eq!(Arc::strong_count(&first), 2, "the idle reader has it");
        idle.load();
        assert_eq!(Arc::strong_count(&first), 2, "and does not free it when it goes on");
        current.replace(Arc::new(21));
        assert_eq!(Arc::strong_count(&first), 1);
    }
}
