//! The shards of a table, as a tree of two levels above them: tables that follow on each other share the branches in
//! which nothing has changed.
//!
//! Read by the workers, made by the thread `tables`. With many thousand shards in one array, each new table would count
//! itself among the owners of every one of them, and touch as many cache lines that nobody has near; this way it is
//! some hundred for one change, and few for each of many.

use std::sync::Arc;
use std::thread;

use super::shard::Shard;
use crate::sys::sched::{SHORT_STEPS, yield_every};

/// Shards of a twig: few, since for nearly each of many changes one is copied.
const TWIG: usize = 16;

/// Twigs of a branch. Of the most shards that there are it makes 128 branches.
const BRANCH: usize = 64;

type Twig = Arc<[Shard]>;

/// All shards of a table, a power of two of them.
#[derive(Clone)]
pub(super) struct Root {
    branches: Box<[Arc<[Twig]>]>,
    len: usize,
}

impl Root {
    /// How many shards there are.
    #[inline]
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The `i`-th shard.
    #[inline]
    pub(super) fn get(&self, i: usize) -> &Shard {
        &self.branches[i / TWIG / BRANCH][i / TWIG % BRANCH][i % TWIG]
    }

    /// Puts a shard into the place of another.
    pub(super) fn replace(&mut self, i: usize, shard: Shard) {
        // A copy becomes an owner of all that is below. The counters are brought from memory together before: counting
        // would wait for one after the other.
        let branch = &mut self.branches[i / TWIG / BRANCH];
        if Arc::strong_count(branch) > 1 {
            std::hint::black_box(branch.iter().fold(0, |seen, twig| seen ^ twig[0].address()));
        }
        let twig = &mut Arc::make_mut(branch)[i / TWIG % BRANCH];
        if Arc::strong_count(twig) > 1 {
            std::hint::black_box(twig.iter().fold(0, |seen, shard| seen ^ shard.owners()));
        }
        Arc::make_mut(twig)[i % TWIG] = shard;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.branches.iter().flat_map(|branch| branch.iter()).flat_map(|twig| twig.iter())
    }

    /// Bytes on the heap, with those of the shards.
    pub(super) fn heap_len(&self) -> usize {
        let twigs = self.len.div_ceil(TWIG) * size_of::<Twig>();
        let own = size_of_val(&*self.branches) + twigs + self.len * size_of::<Shard>();
        own + self.iter().map(Shard::heap_len).sum::<usize>()
    }
}

impl Drop for Root {
    /// Frees what no other table has, some at a time: whoever does has all of a table's shards to free, at a reload.
    fn drop(&mut self) {
        for branch in std::mem::take(&mut self.branches) {
            let is_freed = Arc::strong_count(&branch) == 1;
            drop(branch);
            if is_freed {
                thread::yield_now();
            }
        }
    }
}

impl FromIterator<Shard> for Root {
    fn from_iter<T: IntoIterator<Item = Shard>>(shards: T) -> Self {
        let mut len = 0;
        let twigs = in_parts(shards.into_iter().inspect(|_| len += 1), TWIG);
        Self { branches: in_parts(twigs.into_iter(), BRANCH).into(), len }
    }
}

/// The items, so many in each part.
// cold: made with a table, on the thread `tables`
fn in_parts<T>(mut items: impl Iterator<Item = T>, len: usize) -> Vec<Arc<[T]>> {
    let next = || Some(items.by_ref().take(len).collect::<Arc<[T]>>()).filter(|part| !part.is_empty());
    std::iter::from_fn(next)
        .enumerate()
        .inspect(|(done, _)| yield_every(SHORT_STEPS, *done))
        .map(|(_, part)| part)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::shard::ShardWriter;
    use super::*;

    #[test]
    fn a_copy_shares_all_but_what_is_replaced() {
        let shard = |hash: u64| {
            let mut writer = ShardWriter::default();
            writer.begin(1);
            writer.name(hash, &hash.to_be_bytes(), &[0]);
            writer.finish_new()
        };
        for len in [1, 64, TWIG * BRANCH, 2 * TWIG * BRANCH, 8 * TWIG * BRANCH] {
            let old: Root = (0..len as u64).map(shard).collect();
            assert_eq!((old.len(), old.iter().count()), (len, len));
            let mut new = old.clone();
            let i = len / 2;
            new.replace(i, shard(u64::MAX));
            for k in 0..len {
                assert_eq!(new.get(k).is_same(old.get(k)), k != i, "{k} of {len}");
            }
            let branches = new.branches.iter().zip(&old.branches);
            let copied: Vec<_> = branches.filter(|(new, old)| !Arc::ptr_eq(new, old)).collect();
            assert_eq!(copied.len(), 1);
            let twigs = copied[0].0.iter().zip(&**copied[0].1);
            assert_eq!(twigs.filter(|(new, old)| !Arc::ptr_eq(new, old)).count(), 1);
            assert!(new.heap_len() > len * size_of::<Shard>());
        }
    }
}
