//! Handing tables from the control thread to the workers.
//!
//! The [`Publisher`] runs on the control thread.

use std::sync::Arc;

use smallvec::SmallVec;

use super::update::{Below, NameRecord, Update, between};
use super::whole::whole;
use super::{Entry, MAX_TOGETHER, Table, ZoneSettings, name_server, shard_of};
use crate::policy::Policy;
use crate::policy::rules::Rules;
use crate::precedence::make_way;
use crate::snapshot::{Current, Reader};
use crate::store::{NameSet, Store};
use crate::wire::name::{HashSeed, Name, QueryName};
use crate::wire::record::rtype;

/// The one writer of tables.
pub struct Publisher {
    current: Current<Table>,
    domains: Vec<Name>,
    settings: ZoneSettings,
    rules: Rules,
    below: Below,
    /// Names that have changed since they were published, as long as all of them fit one publication.
    fresh: NameSet,
    /// If they do not: by the part of the table that they are in.
    pending: [NameSet; PARTS],
    /// The part whose turn is next, where there is too much for one publication.
    next_part: usize,
}

/// Names that are published at once, as they were noted: no name is in two parts.
#[derive(Default)]
struct Changed {
    parts: Vec<NameSet>,
}

impl Changed {
    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().flat_map(NameSet::iter)
    }

    fn contains(&self, name: &[u8]) -> bool {
        self.parts.iter().any(|part| part.contains(name))
    }
}

/// Parts of the table that are published one after the other where much has changed: each writes its own shards anew, and
/// the others wait for their turn.
const PARTS: usize = 64;

impl Publisher {
    /// Begins with a table that has the `domains` and no other names.
    #[must_use]
    pub fn new(domains: &[Name], settings: ZoneSettings) -> Self {
        Self::with_seed(domains, settings, HashSeed::random())
    }

    /// The same with names hashed from `seed`, which nobody outside may know: for measurements that are to come out the same
    /// each time.
    #[must_use]
    pub fn with_seed(domains: &[Name], settings: ZoneSettings, seed: HashSeed) -> Self {
        let empty = Table::empty(domains, settings, seed);
        let mut publisher = Self {
            current: Current::new(empty),
            domains: domains.to_vec(),
            settings,
            rules: Rules::default(),
            below: Below::default(),
            fresh: NameSet::default(),
            pending: std::array::from_fn(|_| NameSet::default()),
            next_part: 0,
        };
        let apexes: Vec<_> = domains.iter().map(Name::to_lower_case).collect();
        publisher.note(apexes.iter().map(Name::as_wire).collect());
        publisher.publish(&Store::new(crate::store::NodeId([0; 16]), 0), usize::MAX);
        publisher
    }

    /// Counts publications from here on, which are the serials of our zones: copies that others have taken of the zones of an
    /// earlier process have lower ones.
    pub fn count_from(&mut self, serial: u32) {
        let old = self.current.load();
        let zones = Table::without_names(&self.domains, self.settings, old.seed, serial);
        let (names, entries) = (old.names, old.entries);
        let (shards, recent) = (old.shards.clone(), old.recent.clone());
        self.current.replace(Table { shards, recent, names, entries, ..zones });
    }

    /// A view for one more worker.
    #[must_use]
    pub fn reader(&self) -> Reader<Table> {
        self.current.reader()
    }

    /// The table that workers load from now on.
    #[must_use]
    pub fn current(&self) -> Arc<Table> {
        self.current.load()
    }

    /// Makes the answers of names that are published from now on by these rules.
    pub fn set_rules(&mut self, rules: Rules) {
        self.rules = rules;
    }

    /// Which policy each name has.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Notes that the records of these names are others now.
    pub fn note(&mut self, changed: NameSet) {
        if self.pending() == 0 {
            self.fresh = changed;
        } else {
            self.spread(&changed);
        }
    }

    /// Notes names by their part of the table.
    fn spread(&mut self, changed: &NameSet) {
        let mut folded = QueryName::default();
        let seed = self.current.load().seed();
        for name in changed.iter() {
            folded.fold_wire(name, seed).expect("names are valid");
            self.pending[shard_of(folded.hash(), PARTS)].insert(name);
        }
    }

    /// How many names have changed and are not published yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.fresh.len() + self.pending.iter().map(NameSet::len).sum::<usize>()
    }

    /// Whether the next publication without a change would do nothing: else it brings a part of the table in order.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.current.load().recent.is_empty()
    }

    /// Takes names whose turn it is: all, or parts of the table until there are `most`.
    fn take_pending(&mut self, most: usize) -> Changed {
        let mut taken = Changed::default();
        let fresh = std::mem::take(&mut self.fresh);
        if self.pending() == 0 && fresh.len() <= most {
            taken.parts.push(fresh);
            return taken;
        }
        self.spread(&fresh);
        let mut len = 0;
        for _ in 0..PARTS {
            let part = std::mem::take(&mut self.pending[self.next_part]);
            self.next_part = (self.next_part + 1) % PARTS;
            len += part.len();
            taken.parts.push(part);
            if len >= most {
                break;
            }
        }
        taken
    }

    /// Makes a table in which names that have changed, `most` or somewhat more of them, have the records that `store` has
    /// now, and lets the workers have it, each with its next batch. A name's records always change as a whole.
    pub fn publish(&mut self, store: &Store, most: usize) {
        let changed = self.take_pending(most);
        let table = self.next(&self.current.load(), &changed, store);
        self.current.replace(table);
    }

    /// Makes a table of all that `store` has, and lets the workers have it. For a start, and where so many names have changed
    /// that to look at each of them would be slower. Made by so many threads.
    pub fn publish_whole(&mut self, store: &Store, threads: usize) {
        let old = self.current.load();
        self.fresh = NameSet::default();
        self.pending = std::array::from_fn(|_| NameSet::default());
        let count = |name: &[u8], below: &mut Below| {
            between(name, &old.zones).for_each(|above| *below.entry(above.into()).or_default() += 1);
        };
        let (shards, names, below) = whole(store, old.seed, self.settings.ttl_s, &self.rules, count, threads);
        self.below = below;
        let zones = Table::without_names(&self.domains, self.settings, old.seed, old.serial);
        let table = Table { shards, names, entries: names, ..zones };
        // What is not in the store: the domains' name servers, and names that exist because others stand below them.
        let apexes: Vec<_> = self.domains.iter().map(Name::to_lower_case).collect();
        let special = apexes.iter().map(Name::as_wire).chain(self.below.keys().map(|name| &**name)).collect();
        let table = self.next(&table, &Changed { parts: vec![special] }, store);
        self.current.replace(table);
    }

    /// The table that follows on `old` when these names have changed.
    fn next(&mut self, old: &Table, changed: &Changed, store: &Store) -> Table {
        let mut counts = old.counts();
        let names: Vec<_> = changed.iter().collect();
        let mut update = Update::new(old.seed(), names.len());
        let mut bare = Vec::new();
        let mut before = [None; MAX_TOGETHER];
        for (i, &name) in names.iter().enumerate() {
            make_way(i);
            if i % MAX_TOGETHER == 0 {
                before = look_up(&names[i..names.len().min(i + MAX_TOGETHER)], old, store);
            }
            // Every apex has a name server: those it was given, or ours (RFC 1035 §5.2).
            let server = self.own_name_server(name);
            let answers = store.answers(name);
            let mut records: SmallVec<[_; 8]> = answers
                .map(|answer| NameRecord {
                    rtype: answer.rtype,
                    ttl_s: answer.ttl_s.unwrap_or(self.settings.ttl_s),
                    rdata: answer.rdata,
                    standing: answer.standing,
                })
                .collect();
            if let Some(server) =
                server.as_ref().filter(|_| records.iter().all(|record| record.rtype != rtype::NS))
            {
                records.push(NameRecord::new(rtype::NS, self.settings.ttl_s, server.as_wire()));
            }
            let before = before[i % MAX_TOGETHER];
            let had = before.is_some_and(|before| before.sets().next().is_some());
            let has = !records.is_empty();
            if had != has {
                counts.names = counts.names + usize::from(has) - usize::from(had);
                self.count_below(name, old, has);
            }
            if has {
                counts.entries += usize::from(before.is_none());
                update.push(name, &mut records, &self.rules.of(name), true);
            } else {
                bare.push(name);
            }
        }
        // Names without records exist if others stand below them, which is known only now.
        let above = changed.iter().flat_map(|name| between(name, &old.zones));
        let bare: NameSet = above.filter(|name| !changed.contains(name)).chain(bare).collect();
        for name in bare.iter() {
            let before = old.get_wire(name);
            if before.is_some_and(|before| before.sets().next().is_some()) && !changed.contains(name) {
                continue;
            }
            let exists = self.below.contains_key(name);
            counts.entries = counts.entries + usize::from(exists) - usize::from(before.is_some());
            update.push(name, &mut SmallVec::new(), &Policy::default(), exists);
        }
        update.build(old, counts, &self.domains, self.settings)
    }

    /// Notes that there is one name with records more, or less, below those that `name` is below.
    fn count_below(&mut self, name: &[u8], table: &Table, more: bool) {
        for above in between(name, &table.zones) {
            let below = self.below.entry(above.into()).or_default();
            *below = if more { *below + 1 } else { *below - 1 };
            if *below == 0 {
                self.below.remove(above);
            }
        }
    }

    fn own_name_server(&self, name: &[u8]) -> Option<Name> {
        let apex = self.domains.iter().find(|domain| domain.as_wire().eq_ignore_ascii_case(name))?;
        name_server(apex)
    }
}

/// What `table` has of up to [`MAX_TOGETHER`] names; and has memory bring what will be read of them in the `store`.
fn look_up<'a>(names: &[&[u8]], table: &'a Table, store: &Store) -> [Option<Entry<'a>>; MAX_TOGETHER] {
    let fold = |name: &&[u8]| {
        let mut folded = QueryName::default();
        folded.fold_wire(name, table.seed()).expect("names are valid");
        folded
    };
    if names.len() > 1 {
        store.warm(names);
    }
    table.lookup_together(&names.iter().map(fold).collect::<SmallVec<[_; MAX_TOGETHER]>>())
}

#[cfg(test)]
mod tests {
    use super::super::update::{NAMES_PER_SHARD, SHARDS};
    use super::*;
    use crate::store::{Attributes, Key, NodeId};

    const SETTINGS: ZoneSettings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };

    fn name(text: &str) -> Name {
        Name::from_text(text).unwrap()
    }

    /// A store and what publishes it.
    struct World {
        store: Store,
        publisher: Publisher,
    }

    impl World {
        fn new() -> Self {
            let publisher = Publisher::new(&[name("example"), name("Example.org")], SETTINGS);
            Self { store: Store::new(NodeId([1; 16]), 1), publisher }
        }

        fn add(&mut self, owner: &str, rtype: u16, ttl_s: u32, rdata: &[u8]) {
            let key = Key { instance: "".into(), name: name(owner), rtype, rdata: rdata.into() };
            self.store.register(&key, &Attributes::with_ttl_s(ttl_s)).unwrap();
        }

        fn publish(&mut self) -> Arc<Table> {
            self.publisher.note(self.store.take_changed());
            self.publisher.publish(&self.store, usize::MAX);
            self.publisher.current()
        }
    }

    fn many(world: &mut World, count: usize) {
        (0..count).for_each(|i| world.add(&format!("n{i}.x.example"), rtype::TXT, 1, b"\x01a"));
    }

    #[test]
    fn a_small_change_shares_all_other_shards() {
        let mut world = World::new();
        many(&mut world, 1000);
        let before = world.publish();
        world.add("N500.x.example", rtype::A, 1, &[10, 0, 0, 2]);
        let after = world.publish();
        let differing = before.shards.iter().zip(after.shards.iter()).filter(|(a, b)| !a.is_same(b)).count();
        // Those of the name and of the address's reverse name, which by chance may be one.
        assert!((1..=2).contains(&differing), "{differing}");
        let changed = after.get(&name("n500.x.example")).unwrap().get(rtype::A).unwrap();
        assert_eq!(changed.records[12..], [10, 0, 0, 2]);
        let pointer = after.get(&Name::reverse([10, 0, 0, 2].into())).unwrap().get(rtype::PTR).unwrap();
        assert_eq!(pointer.records[12..], *name("n500.x.example").as_wire());
    }

    #[test]
    fn a_table_that_was_published_stays_as_it_was_whatever_is_published_after_it() {
        let all = |table: &Table| {
            let mut all: Vec<_> = table.all().map(|(name, sets)| (name.to_vec(), sets.to_vec())).collect();
            all.sort_unstable();
            all
        };
        let mut world = World::new();
        let mut rng = fastrand::Rng::with_seed(11);
        // Large enough for changes to stand aside for a while.
        many(&mut world, 10_000);
        let mut held = Vec::new();
        for round in 0..12 {
            let gone: std::collections::HashSet<_> =
                (0..40).map(|_| name(&format!("n{}.x.example", rng.u32(..10_000)))).collect();
            let gone: std::collections::HashSet<_> = gone.iter().map(Name::as_wire).collect();
            world.store.remove(|record| gone.contains(record.name));
            for _ in 0..[1, 20, 2_000][round % 3] {
                world.add(
                    &format!("n{}.x.example", rng.u32(..12_000)),
                    rtype::A,
                    1,
                    &rng.u32(..).to_be_bytes(),
                );
            }
            let table = world.publish();
            let told = all(&table);
            held.push((table, told));
        }
        world.publisher.publish_whole(&world.store, 1);
        assert!(held.windows(2).all(|pair| pair[0].1 != pair[1].1), "each of them is another");
        for (round, (table, told)) in held.iter().enumerate() {
            assert!(all(table) == *told, "the table of round {round} has changed");
        }
    }

    #[test]
    fn what_has_changed_lately_is_found_first_and_goes_into_the_shards_in_the_end() {
        let mut world = World::new();
        let mut rng = fastrand::Rng::with_seed(7);
        many(&mut world, 20_000);
        world.publish();
        assert!(world.publisher.is_settled(), "as many as there are go into the shards at once");
        let mut seen_aside = 0;
        let texts = [&b"\x01b"[..], b"\x03bcd"];
        for round in 0..24 {
            let gone: std::collections::HashSet<_> =
                (0..80).map(|_| name(&format!("n{}.x.example", rng.u32(..20_500)))).collect();
            let gone: std::collections::HashSet<_> = gone.iter().map(Name::as_wire).collect();
            world.store.remove(|record| gone.contains(record.name));
            for _ in 0..if round % 6 == 5 { 1 } else { 300 } {
                let owner = format!("n{}.x.example", rng.u32(..20_500));
                world.add(&owner, rtype::TXT, 1, texts[rng.usize(..2)]);
            }
            let table = world.publish();
            seen_aside += usize::from(!world.publisher.is_settled());
            let mut made =
                Publisher::with_seed(&[name("example"), name("Example.org")], SETTINGS, table.seed());
            made.publish_whole(&world.store, 1);
            let whole = made.current();
            for i in (0..20_500).step_by(3) {
                let name = name(&format!("n{i}.x.example"));
                let said = |table: &Table| {
                    table
                        .get(&name)
                        .map(|entry| entry.sets().map(|set| set.records.to_vec()).collect::<Vec<_>>())
                };
                assert_eq!(said(&table), said(&whole), "{name} in round {round}");
            }
            let sorted = |table: &Table| {
                let mut all: Vec<_> =
                    table.all().map(|(name, sets)| (name.to_vec(), sets.to_vec())).collect();
                all.sort_unstable();
                all
            };
            assert!(sorted(&table) == sorted(&whole), "round {round}");
            assert_eq!((table.names(), table.entries), (whole.names(), whole.entries));
        }
        assert!(seen_aside > 16, "{seen_aside}");
        let (names, mut turns) = (world.publisher.current().names(), 0);
        while !world.publisher.is_settled() {
            world.publish();
            turns += 1;
        }
        assert!((2..=super::super::recent::PARTS).contains(&turns), "{turns}: a part at a time");
        assert_eq!(world.publisher.current().names(), names);
        assert_eq!(world.publisher.current().all().count(), world.publisher.current().entries);
    }

    #[test]
    fn a_table_grows_and_shrinks_with_its_names_and_loses_none() {
        let mut world = World::new();
        for count in [10_000, 20_000, 100] {
            many(&mut world, count);
            world.store.remove(|record| {
                let label = str::from_utf8(&record.name[2..=usize::from(record.name[0])]).unwrap();
                label.parse::<usize>().unwrap() >= count
            });
            let table = world.publish();
            let there = (0..20_000).filter(|i| table.get(&name(&format!("n{i}.x.example"))).is_some());
            assert!(there.eq(0..count), "{count}");
            assert_eq!((table.names(), table.entries), (count + 2, count + 3), "the apexes, and x.example");
            let per_shard = count.div_ceil(table.shards.len());
            let fits = NAMES_PER_SHARD / 4..=2 * NAMES_PER_SHARD;
            assert!(fits.contains(&per_shard) || table.shards.len() == *SHARDS.start(), "{per_shard}");
        }
    }

    #[test]
    fn the_whole_made_at_once_is_what_changes_make_one_after_the_other() {
        let mut world = World::new();
        let mut rng = fastrand::Rng::with_seed(4);
        for i in 0..3_000u32 {
            let owner = ["a", "b.c", "d.e.f", ""].map(|middle| format!("n{}.{middle}.example", i % 700));
            let owner = owner[rng.usize(..4)].replace("..", ".");
            match rng.u8(..4) {
                0 => world.add(&owner, rtype::TXT, rng.u32(..3), b"\x01a"),
                1 => world.add(&owner, rtype::CNAME, 1, b"\x01y\0"),
                _ => world.add(&owner, rtype::A, 1, &rng.u32(..500).to_be_bytes()),
            }
            if rng.u8(..8) == 0 {
                world.store.remove(|record| record.rdata == rng.u32(..500).to_be_bytes());
            }
        }
        world.add("c.example", rtype::A, 1, &[10, 0, 0, 1]);
        world.add("Example.org", rtype::NS, 60, name("a.b").as_wire());
        let all = |table: &Table| {
            let entries = table.shards.iter().flat_map(super::super::shard::Shard::entries);
            let mut all: Vec<_> = entries.map(|(name, sets)| (name.to_vec(), sets.to_vec())).collect();
            all.sort_unstable();
            (all, table.names(), table.entries)
        };
        let by_changes = all(&world.publish());
        let below = world.publisher.below.clone();
        for threads in [1, 2, 7] {
            world.publisher.publish_whole(&world.store, threads);
            assert_eq!(all(&world.publisher.current()), by_changes, "{threads}");
            assert_eq!(world.publisher.below, below, "{threads}");
        }
        assert!(below.len() > 3 && by_changes.1 > 2_000, "{} {}", below.len(), by_changes.1);
        world.store.remove(|_| true);
        assert_eq!(world.publish().names(), 2, "the apexes");
        assert!(world.publisher.below.is_empty());
    }

    #[test]
    fn names_between_a_name_and_its_zone_exist_as_long_as_it_does() {
        let mut world = World::new();
        world.add("a.b.C.example", rtype::A, 1, &[10, 0, 0, 1]);
        world.add("z.c.example", rtype::A, 1, &[10, 0, 0, 1]);
        let table = world.publish();
        for existing in ["b.c.example", "c.example"] {
            assert_eq!(table.get(&name(existing)).unwrap().sets().count(), 0, "{existing}");
        }
        for missing in ["x.a.b.c.example", "x.example", "."] {
            assert!(table.get(&name(missing)).is_none(), "{missing}");
        }
        world.store.remove(|record| record.name.starts_with(b"\x01a"));
        let table = world.publish();
        assert!(table.get(&name("b.c.example")).is_none() && table.get(&name("c.example")).is_some());
        world.store.remove(|_| true);
        let table = world.publish();
        assert!(table.get(&name("c.example")).is_none() && table.get(&name("example")).is_some());
        assert!(world.publisher.below.is_empty());
    }

    #[test]
    fn each_domain_has_a_name_server_its_own_or_the_one_it_was_given() {
        let mut world = World::new();
        world.add("example.ORG", rtype::NS, 60, name("a.b").as_wire());
        let table = world.publish();
        for (apex, server) in [("example", "ns.example"), ("example.org", "a.b")] {
            let set = table.get(&name(apex)).unwrap().get(rtype::NS).unwrap();
            assert_eq!((set.count, &set.records[12..]), (1, name(server).as_wire()), "{apex}");
        }
    }

    #[test]
    fn one_type_has_one_ttl_and_its_shortest_records_first_and_each_once() {
        let mut world = World::new();
        for (owner, ttl_s, text) in
            [("t.example", 60, &b"\x03abc"[..]), ("T.example", 30, b"\x01z"), ("t.EXAMPLE", 90, b"\x01z")]
        {
            world.add(owner, rtype::TXT, ttl_s, text);
        }
        let mut twice = Key {
            instance: "other".into(),
            name: name("t.example"),
            rtype: rtype::TXT,
            rdata: (*b"\x01z").into(),
        };
        world.store.register(&twice, &Attributes::with_ttl_s(30)).unwrap();
        twice.instance = "third".into();
        world.store.register(&twice, &Attributes::with_ttl_s(90)).unwrap();
        let table = world.publish();
        let set = table.get(&name("t.example")).unwrap().get(rtype::TXT).unwrap();
        let fixed = b"\xc0\x0c\0\x10\0\x01\0\0\0\x1e\0";
        assert_eq!(set.records, [&fixed[..], b"\x02\x01z", fixed, b"\x04\x03abc"].concat());
    }

    #[test]
    fn what_cannot_stand_together_is_settled_the_same_everywhere() {
        let mut world = World::new();
        world.add("a.example", rtype::CNAME, 1, b"\x01y\0");
        world.add("a.example", rtype::CNAME, 1, b"\x01x\0");
        let set = |table: &Table| {
            let entry = table.get(&name("a.example")).unwrap();
            entry.sets().map(|set| (set.rtype, set.count, set.records[12..].to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(set(&world.publish()), [(rtype::CNAME, 1, b"\x01x\0".to_vec())]);
        world.add("a.example", rtype::A, 1, &[10, 0, 0, 1]);
        assert_eq!(set(&world.publish()), [(rtype::A, 1, vec![10, 0, 0, 1])]);
        for i in 0..5_000u32 {
            world.add("many.example", rtype::A, 1, &i.to_be_bytes());
        }
        let table = world.publish();
        let many = table.get(&name("many.example")).unwrap().get(rtype::A).unwrap();
        assert_eq!(usize::from(many.count), super::super::MAX_SET_LEN / 16, "as many as an answer can carry");
    }
}
