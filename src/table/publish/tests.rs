//! Tests of the publisher.

use super::*;
use crate::store::{Attributes, Key, NodeId};
use crate::table::update::{NAMES_PER_SHARD, SHARDS};

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
            world.add(&format!("n{}.x.example", rng.u32(..12_000)), rtype::A, 1, &rng.u32(..).to_be_bytes());
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
        let mut made = Publisher::with_seed(&[name("example"), name("Example.org")], SETTINGS, table.seed());
        made.publish_whole(&world.store, 1);
        let whole = made.current();
        for i in (0..20_500).step_by(3) {
            let name = name(&format!("n{i}.x.example"));
            let said = |table: &Table| {
                table.get(&name).map(|entry| entry.sets().map(|set| set.records.to_vec()).collect::<Vec<_>>())
            };
            assert_eq!(said(&table), said(&whole), "{name} in round {round}");
        }
        let sorted = |table: &Table| {
            let mut all: Vec<_> = table.all().map(|(name, sets)| (name.to_vec(), sets.to_vec())).collect();
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
    // Others may change the store meanwhile, and what they have changed is looked up once more.
    let mut copy = Store::new(NodeId([1; 16]), 1);
    world.store.registrations().for_each(|record| assert!(copy.register_encoded(record.bytes)));
    let shared = SharedStore::new(copy);
    world.publisher.rebuild(&shared, NameSet::default);
    assert_eq!(all(&world.publisher.current()), by_changes, "of a copy");
    shared.write().take_changed();
    world.publisher.rebuild(&shared, || {
        let mut store = shared.write();
        let attributes = Attributes::with_ttl_s(1);
        let late = Key {
            instance: "".into(),
            name: name("late.example"),
            rtype: rtype::TXT,
            rdata: (*b"\x01a").into(),
        };
        store.register(&late, &attributes).unwrap();
        store.take_changed()
    });
    assert_eq!(world.publisher.current().names(), by_changes.1 + 1);
    assert!(world.publisher.current().get(&name("late.example")).is_some());
    world.publisher.publish_whole(&world.store, 1);
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
