//! What has changed lately in a large table, beside the shards, which are written anew for many changes at once.
//!
//! Read by the workers, made by the thread `tables`. A changed name is in a random shard of very many: to write that
//! anew, its block has to come from memory, with those that stand beside it in the tree to be counted. Most of what a
//! change costs is waiting for them. So where many names have changed, and they are few beside all there are, they go
//! here first: into one of some dozen parts by their hash, each a single block as a shard is, which stays near while it
//! is written often. A look-up finds what is newer here, and otherwise goes on to the shards. The largest parts go into
//! the shards when all of them have become too large, or nothing has changed for a while.

use super::shard::{Entry, Shard, ShardWriter};
use super::shard_of;
use crate::wire::name::QueryName;

/// Parts by hash. One is emptied at a time, so that the cluster is not kept waiting.
pub(super) const PARTS: usize = 64;

/// Names that have changed at once, from which on they go here: fewer are written into their shards sooner than here.
const MANY: usize = 64;

/// They are few beside all that a table has if there are so many of these for each of them.
const FEW_OF: usize = 32;

/// Bytes that there may be here for each name of the table.
const BYTES_PER_NAME: usize = 4;

/// The parts; none are there as long as all are empty, which look-ups ask first.
#[derive(Clone, Default)]
pub(super) struct Recent {
    parts: Box<[Option<Shard>]>,
}

/// The part that names with this hash are in.
#[inline]
pub(super) fn part_of(hash: u64) -> usize {
    shard_of(hash, PARTS)
}

/// Whether so many changes of a table with so many names go here.
pub(super) fn is_worth(changed: usize, entries: usize) -> bool {
    changed >= MANY && changed.saturating_mul(FEW_OF) <= entries
}

impl Recent {
    /// What has become of `name`, if it has changed lately.
    #[inline(never)]
    pub(super) fn find(&self, name: &QueryName) -> Option<Entry<'_>> {
        self.parts.get(part_of(name.hash()))?.as_ref()?.find(name)
    }

    /// Whether there is nothing.
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// A part, if it has anything.
    pub(super) fn part(&self, part: usize) -> Option<&Shard> {
        self.parts.get(part)?.as_ref()
    }

    /// The names and their record sets behind their count, in no order; also those that are gone.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.parts.iter().flatten().flat_map(Shard::placed)
    }

    /// Adds names to a part, or puts them into the place of what it has of them. `changed` are their hashes, their
    /// names, and their record sets behind their count: nothing if they are gone.
    // cold: made with a table, on the thread `tables`
    pub(super) fn put<'a>(
        &mut self,
        part: usize,
        changed: impl ExactSizeIterator<Item = (u64, &'a [u8], &'a [u8])>,
        writer: &mut ShardWriter,
        hash: impl FnMut(&[u8]) -> u64,
    ) {
        if self.parts.is_empty() {
            self.parts = vec![None; PARTS].into();
        }
        writer.go_on(self.parts[part].as_ref(), changed.len(), hash);
        changed.for_each(|(hash, name, sets)| writer.put(hash, name, sets));
        self.parts[part] = Some(writer.finish_new());
    }

    /// The part that is to go into the shards next: the largest, if all are too large for a table of so many names or
    /// `all` are to go.
    pub(super) fn ripe(&self, entries: usize, all: bool) -> Option<usize> {
        let sizes = || self.parts.iter().map(|part| part.as_ref().map_or(0, Shard::heap_len));
        let is_due = all || sizes().sum::<usize>() > BYTES_PER_NAME * entries;
        let largest = sizes().enumerate().max_by_key(|(_, size)| *size)?;
        (is_due && largest.1 > 0).then_some(largest.0)
    }

    /// Empties a part.
    pub(super) fn clear(&mut self, part: usize) {
        if let Some(part) = self.parts.get_mut(part) {
            *part = None;
        }
        if self.parts.iter().all(Option::is_none) {
            *self = Self::default();
        }
    }

    /// Bytes on the heap.
    pub(super) fn heap_len(&self) -> usize {
        size_of_val(&*self.parts) + self.parts.iter().flatten().map(Shard::heap_len).sum::<usize>()
    }
}
