//! Handing tables from the control thread to the workers.
//!
//! The [`Publisher`] runs on the control thread, a [`Reader`] on each worker. A worker looks at one atomic pointer per
//! batch and goes on with the table it has unless that has changed.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::contents::Size;
use super::{Contents, ContentsError, Table, ZoneSettings};
use crate::wire::name::{HashSeed, Name};

/// The one writer of tables.
pub struct Publisher {
    current: Arc<ArcSwap<Table>>,
    /// Tables that were replaced and that a worker may still be answering from. They are kept until the publisher is
    /// their only owner, so that it is never a worker that gives up the last share and has to free a table. A worker
    /// holds on to one table at a time, so there are never more of them than workers.
    retired: Vec<Arc<Table>>,
    domains: Vec<Name>,
    settings: ZoneSettings,
    seed: HashSeed,
    /// Of what was published last: the next is likely to be of about that size.
    size: Size,
}

/// A worker's view of the current table.
pub struct Reader(Cache<Arc<ArcSwap<Table>>, Arc<Table>>);

impl Reader {
    /// The current table. Call it once for a batch of packets.
    #[inline]
    pub fn load(&mut self) -> &Table {
        self.0.load()
    }
}

impl Publisher {
    /// Begins with a table that has the `domains` and no names.
    #[must_use]
    pub fn new(domains: &[Name], settings: ZoneSettings) -> Self {
        let seed = HashSeed::random();
        let empty = Contents::new(domains, settings, seed, Size::default())
            .build(1, None)
            .expect("no records, none too many");
        Self {
            current: Arc::new(ArcSwap::from_pointee(empty)),
            retired: Vec::new(),
            domains: domains.to_vec(),
            settings,
            seed,
            size: Size::default(),
        }
    }

    /// A view for one more worker.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader(Cache::new(Arc::clone(&self.current)))
    }

    /// Empty contents, to be filled and given to [`publish`](Self::publish).
    #[must_use]
    pub fn contents(&self) -> Contents {
        Contents::new(&self.domains, self.settings, self.seed, self.size)
    }

    /// The table that workers load from now on.
    #[must_use]
    pub fn current(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// Makes a table of `contents` and lets the workers have it, each with its next batch.
    ///
    /// # Errors
    /// [`ContentsError`]; the current table stays.
    pub fn publish(&mut self, contents: Contents) -> Result<(), ContentsError> {
        let old = self.current.load_full();
        self.size = contents.size();
        let table = contents.build(old.serial().wrapping_add(1), Some(&old))?;
        self.retired.push(self.current.swap(Arc::new(table)));
        drop(old);
        self.retired.retain(|table| Arc::strong_count(table) > 1);
        Ok(())
    }

    /// Replaced tables that workers still hold.
    #[must_use]
    pub fn retired(&self) -> usize {
        self.retired.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::rtype;

    const SETTINGS: ZoneSettings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    fn fill(publisher: &Publisher, last: u8) -> Contents {
        let mut contents = publisher.contents();
        for i in 0..1000 {
            let address = [10, 0, 0, if i == 500 { last } else { 1 }].into();
            contents.add_address(&name(&format!("n{i}.x.example")), address);
        }
        contents
    }

    #[test]
    fn readers_see_each_publication_and_replaced_tables_are_freed_by_the_publisher() {
        let mut publisher = Publisher::new(&[name("example")], SETTINGS);
        let (mut busy, mut idle) = (publisher.reader(), publisher.reader());
        let empty = std::ptr::from_ref(idle.load());
        for i in 1..=20 {
            publisher.publish(fill(&publisher, i)).unwrap();
            assert_eq!(busy.load().serial(), 1 + u32::from(i));
            assert!(publisher.retired() <= 2, "one per reader");
        }
        assert_eq!(publisher.retired.iter().filter(|table| Arc::as_ptr(table) == empty).count(), 1);
        idle.load();
        publisher.publish(fill(&publisher, 1)).unwrap();
        assert!(publisher.retired.iter().all(|table| Arc::as_ptr(table) != empty));
    }

    #[test]
    fn a_small_change_shares_all_other_shards() {
        let mut publisher = Publisher::new(&[name("example")], SETTINGS);
        publisher.publish(fill(&publisher, 1)).unwrap();
        let before = publisher.current();
        publisher.publish(fill(&publisher, 2)).unwrap();
        let after = publisher.current();
        let differing = before.shards.iter().zip(&after.shards).filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        assert_eq!(differing, 1);
        let changed = after.get(&name("N500.x.example")).unwrap().get(rtype::A).unwrap();
        assert_eq!(changed.records[12..], [10, 0, 0, 2]);
    }

    #[test]
    fn names_between_a_name_and_its_zone_exist_without_records() {
        let mut publisher = Publisher::new(&[name("example")], SETTINGS);
        let mut contents = publisher.contents();
        contents.add_address(&name("a.b.C.example"), [10, 0, 0, 1].into());
        publisher.publish(contents).unwrap();
        let table = publisher.current();
        for existing in ["b.c.example", "c.example", "example"] {
            assert_eq!(table.get(&name(existing)).unwrap().sets().count(), 0, "{existing}");
        }
        for missing in ["x.a.b.c.example", "x.example", "."] {
            assert!(table.get(&name(missing)).is_none(), "{missing}");
        }
        assert_eq!(table.names(), 1);
    }

    #[test]
    fn equal_records_are_kept_once_whatever_the_case_of_their_name() {
        let mut publisher = Publisher::new(&[name("example")], SETTINGS);
        let mut contents = publisher.contents();
        for spelling in ["Foo.example", "foo.example", "FOO.EXAMPLE"] {
            contents.add_address(&name(spelling), [10, 0, 0, 1].into());
        }
        publisher.publish(contents).unwrap();
        assert_eq!(publisher.current().get(&name("foo.example")).unwrap().get(rtype::A).unwrap().count, 1);
    }

    #[test]
    fn more_records_than_an_answer_can_carry_are_refused_and_the_old_table_stays() {
        let mut publisher = Publisher::new(&[name("example")], SETTINGS);
        let mut contents = publisher.contents();
        for i in 0..4_100u32 {
            contents.add_address(&name("many.example"), std::net::Ipv4Addr::from(i).into());
        }
        let error = publisher.publish(contents).unwrap_err();
        assert!(error.to_string().contains("many.example. has 4100 records"), "{error}");
        assert_eq!(publisher.current().serial(), 1);
    }
}
