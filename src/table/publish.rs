//! Handing tables from the control thread to the workers.
//!
//! The [`Publisher`] runs on the control thread.

use std::sync::Arc;

use super::contents::Size;
use super::{Contents, ContentsError, Table, ZoneSettings};
use crate::snapshot::{Current, Reader};
use crate::wire::name::{HashSeed, Name};

/// The one writer of tables.
pub struct Publisher {
    current: Current<Table>,
    domains: Vec<Name>,
    settings: ZoneSettings,
    seed: HashSeed,
    /// Of what was published last: the next is likely to be of about that size.
    size: Size,
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
            current: Current::new(empty),
            domains: domains.to_vec(),
            settings,
            seed,
            size: Size::default(),
        }
    }

    /// A view for one more worker.
    #[must_use]
    pub fn reader(&self) -> Reader<Table> {
        self.current.reader()
    }

    /// Empty contents, to be filled and given to [`publish`](Self::publish).
    #[must_use]
    pub fn contents(&self) -> Contents {
        Contents::new(&self.domains, self.settings, self.seed, self.size)
    }

    /// The table that workers load from now on.
    #[must_use]
    pub fn current(&self) -> Arc<Table> {
        self.current.load()
    }

    /// Makes a table of `contents` and lets the workers have it, each with its next batch.
    ///
    /// # Errors
    /// [`ContentsError`]; the current table stays.
    pub fn publish(&mut self, contents: Contents) -> Result<(), ContentsError> {
        let old = self.current.load();
        self.size = contents.size();
        let table = contents.build(old.serial().wrapping_add(1), Some(&old))?;
        drop(old);
        self.current.replace(table);
        Ok(())
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
        for existing in ["b.c.example", "c.example"] {
            assert_eq!(table.get(&name(existing)).unwrap().sets().count(), 0, "{existing}");
        }
        for missing in ["x.a.b.c.example", "x.example", "."] {
            assert!(table.get(&name(missing)).is_none(), "{missing}");
        }
        assert_eq!(table.names(), 2, "the zone itself, which has a name server, and the one");
    }

    #[test]
    fn each_domain_has_a_name_server_its_own_or_the_one_it_was_given() {
        let mut publisher = Publisher::new(&[name("example"), name("Example.org")], SETTINGS);
        let mut contents = publisher.contents();
        contents.add(&name("example.ORG"), rtype::NS, 60, name("a.b").as_wire());
        publisher.publish(contents).unwrap();
        let table = publisher.current();
        for (apex, server) in [("example", "ns.example"), ("example.org", "a.b")] {
            let set = table.get(&name(apex)).unwrap().get(rtype::NS).unwrap();
            assert_eq!((set.count, &set.records[12..]), (1, name(server).as_wire()), "{apex}");
        }
    }

    #[test]
    fn one_type_has_one_ttl_and_its_shortest_records_first() {
        let mut publisher = Publisher::new(&[name("example")], SETTINGS);
        let mut contents = publisher.contents();
        for (ttl_s, text) in [(60, &b"\x03abc"[..]), (30, b"\x01z"), (90, b"\x01z")] {
            contents.add(&name("t.example"), rtype::TXT, ttl_s, text);
        }
        publisher.publish(contents).unwrap();
        let set = publisher
            .current()
            .get(&name("t.example"))
            .unwrap()
            .get(rtype::TXT)
            .map(|set| set.records.to_vec());
        let fixed = b"\xc0\x0c\0\x10\0\x01\0\0\0\x1e\0";
        let expected = [&fixed[..], b"\x02\x01z", fixed, b"\x04\x03abc"].concat();
        assert_eq!(set, Some(expected));
    }

    #[test]
    fn an_alias_is_nothing_else() {
        let publisher = Publisher::new(&[name("example")], SETTINGS);
        for (rtype, rdata) in [(rtype::A, &[10, 0, 0, 1][..]), (rtype::CNAME, b"\x01y\0")] {
            let mut contents = publisher.contents();
            contents.add(&name("a.example"), rtype::CNAME, 1, b"\x01x\0");
            contents.add(&name("A.example"), rtype, 1, rdata);
            let error = Publisher::new(&[], SETTINGS).publish(contents).unwrap_err();
            assert!(error.to_string().starts_with("a.example. has a CNAME record and others"), "{error}");
        }
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
