//! The shards of a table, in groups: tables that follow on each other share the groups in which nothing has changed.
//!
//! Read by the workers, made by the control thread. With many thousand shards in one array, each new table would count itself
//! among the owners of every one of them, and touch as many cache lines that nobody has near; this way it is some hundred.

use std::sync::Arc;

use super::shard::Shard;

/// Shards in a group: of the most shards that there are, as many as there are groups then.
const GROUP: usize = 128;

/// All shards of a table, a power of two of them.
#[derive(Clone)]
pub(super) struct Root {
    groups: Box<[Arc<[Shard]>]>,
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
        &self.groups[i / GROUP][i % GROUP]
    }

    /// Puts a shard into the place of another.
    pub(super) fn replace(&mut self, i: usize, shard: Shard) {
        Arc::make_mut(&mut self.groups[i / GROUP])[i % GROUP] = shard;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Shard> {
        self.groups.iter().flat_map(|group| group.iter())
    }

    /// Bytes on the heap, with those of the shards.
    pub(super) fn heap_len(&self) -> usize {
        let own = size_of_val(&*self.groups) + self.len * size_of::<Shard>();
        own + self.iter().map(Shard::heap_len).sum::<usize>()
    }
}

impl FromIterator<Shard> for Root {
    fn from_iter<T: IntoIterator<Item = Shard>>(shards: T) -> Self {
        let mut rest: Vec<_> = shards.into_iter().collect();
        let len = rest.len();
        let mut groups = Vec::with_capacity(len.div_ceil(GROUP));
        while !rest.is_empty() {
            let after = rest.split_off(rest.len().min(GROUP));
            groups.push(std::mem::replace(&mut rest, after).into());
        }
        Self { groups: groups.into(), len }
    }
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
        for len in [1, 64, GROUP, 2 * GROUP, 16 * GROUP] {
            let old: Root = (0..len as u64).map(shard).collect();
            assert_eq!((old.len(), old.iter().count()), (len, len));
            let mut new = old.clone();
            let i = len / 2;
            new.replace(i, shard(u64::MAX));
            for k in 0..len {
                assert_eq!(new.get(k).is_same(old.get(k)), k != i, "{k} of {len}");
            }
            let copied =
                new.groups.iter().zip(&old.groups).filter(|(new, old)| !Arc::ptr_eq(new, old)).count();
            assert_eq!(copied, 1);
            assert!(new.heap_len() > len * size_of::<Shard>());
        }
    }
}
