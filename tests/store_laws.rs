//! The laws of the record store: merging is commutative, associative and idempotent, a delta is as good as the state,
//! and whatever is lost, doubled, reordered or restarted, nodes that have talked to each other know the same: what the
//! live origins have registered, no more and no less.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use redbreast::policy::rules::Scope;
use redbreast::store::{Applied, Attributes, Delta, Key, NodeId, Reader, Store, Target, encode};
use redbreast::wire::name::Name;

const NODES: usize = 4;
/// So few that the same is registered and removed again and again.
const KEYS: u8 = 6;

/// What the origins have registered, by node: keys with their TTLs.
type Model = [BTreeMap<u8, u32>; NODES];

#[derive(Clone, Debug)]
enum Step {
    Register {
        node: usize,
        key: u8,
        ttl_s: u32,
    },
    Remove {
        node: usize,
        key: u8,
    },
    /// Puts what `node` has of `origin` after `back` changes before its head on the network.
    Send {
        node: usize,
        origin: usize,
        back: u64,
        max_len: usize,
    },
    /// Takes a message off the network, or leaves a copy there.
    Deliver {
        message: prop::sample::Index,
        to: usize,
        keep: bool,
    },
    Drop {
        message: prop::sample::Index,
    },
    /// `to` asks `from` for all it lacks; the exchange may break off after some parts.
    Sync {
        to: usize,
        from: usize,
        parts: usize,
        max_len: usize,
    },
    Restart {
        node: usize,
        keeps_data: bool,
    },
    Compact {
        node: usize,
        back: u64,
    },
    Withhold {
        node: usize,
        origin: usize,
        up: bool,
    },
    Forget {
        node: usize,
        origin: usize,
    },
    /// Says, at `node`, of an address, a node, or all names whether it is drained, or how it is chosen.
    Say {
        node: usize,
        target: u8,
        value: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let node = || 0..NODES;
    let message = || any::<prop::sample::Index>();
    prop_oneof![
        6 => (node(), 0..KEYS, 0..3u32).prop_map(|(node, key, ttl_s)| Step::Register { node, key, ttl_s }),
        4 => (node(), 0..KEYS).prop_map(|(node, key)| Step::Remove { node, key }),
        4 => (node(), node(), 0..4u64, 0..200usize)
            .prop_map(|(node, origin, back, max_len)| Step::Send { node, origin, back, max_len }),
        6 => (message(), node(), any::<bool>()).prop_map(|(message, to, keep)| Step::Deliver { message, to, keep }),
        1 => message().prop_map(|message| Step::Drop { message }),
        3 => (node(), node(), 0..6usize, 0..200usize)
            .prop_map(|(to, from, parts, max_len)| Step::Sync { to, from, parts, max_len }),
        1 => (node(), any::<bool>()).prop_map(|(node, keeps_data)| Step::Restart { node, keeps_data }),
        2 => (node(), 0..4u64).prop_map(|(node, back)| Step::Compact { node, back }),
        1 => (node(), node(), any::<bool>()).prop_map(|(node, origin, up)| Step::Withhold { node, origin, up }),
        1 => (node(), node()).prop_map(|(node, origin)| Step::Forget { node, origin }),
        1 => (node(), 0..4u8, any::<bool>()).prop_map(|(node, target, value)| Step::Say { node, target, value }),
    ]
}

fn id(node: usize) -> NodeId {
    NodeId([u8::try_from(node).unwrap() + 1; 16])
}

fn key(i: u8) -> Key {
    Key::address("", &Name::from_text(&format!("n{}.example", i / 2)).unwrap(), [10, 0, 0, i].into())
}

fn attributes(ttl_s: u32) -> Attributes {
    Attributes::with_ttl_s(ttl_s)
}

/// Nodes, and messages between them.
struct World {
    stores: Vec<Store>,
    model: Model,
    network: Vec<Vec<u8>>,
}

impl World {
    fn new() -> Self {
        let stores = (0..NODES).map(|node| Store::new(id(node), 1)).collect();
        Self { stores, model: Model::default(), network: Vec::new() }
    }

    fn head(&self, node: usize, origin: usize) -> u64 {
        self.stores[node].digest().get(id(origin)).map_or(0, |summary| summary.head)
    }

    fn take(&mut self, step: &Step) {
        self.take_unsettled(step);
        if matches!(step, Step::Compact { .. }) {
            self.stores.iter_mut().for_each(Store::settle);
        }
    }

    /// Leaves what is postponed to others.
    fn take_unsettled(&mut self, step: &Step) {
        match *step {
            Step::Register { node, key: i, ttl_s } => {
                let before = self.model[node].insert(i, ttl_s);
                let changed = self.stores[node].register(&key(i), &attributes(ttl_s)).unwrap();
                assert_eq!(changed, before != Some(ttl_s));
            }
            Step::Remove { node, key: i } => {
                let was = self.model[node].remove(&i).is_some();
                let removed = self.stores[node].remove(|record| record.to_key() == key(i));
                assert_eq!(removed.len(), usize::from(was));
            }
            Step::Send { node, origin, back, max_len } => {
                let from = self.head(node, origin).saturating_sub(back);
                if let Some(delta) = self.stores[node].delta(id(origin), from, max_len) {
                    self.network.push(encoded(&delta));
                }
            }
            Step::Deliver { ref message, to, keep } if !self.network.is_empty() => {
                let at = message.index(self.network.len());
                let bytes = if keep { self.network[at].clone() } else { self.network.swap_remove(at) };
                self.stores[to].apply(&decoded(&bytes));
            }
            Step::Drop { ref message } if !self.network.is_empty() => {
                self.network.swap_remove(message.index(self.network.len()));
            }
            Step::Deliver { .. } | Step::Drop { .. } => {}
            Step::Sync { to, from, parts, max_len } => self.sync(to, from, parts, max_len),
            Step::Restart { node, keeps_data } => {
                if !keeps_data {
                    self.model[node].clear();
                }
                let mut store = Store::new(id(node), self.stores[node].incarnation() + 1);
                for (&i, &ttl_s) in &self.model[node] {
                    store.register(&key(i), &attributes(ttl_s)).unwrap();
                }
                self.stores[node] = store;
            }
            Step::Compact { node, back } => {
                let floor = self.head(node, node).saturating_sub(back);
                self.stores[node].compact(floor);
            }
            Step::Withhold { node, origin, up } if node != origin => self.stores[node].set_up(id(origin), up),
            Step::Forget { node, origin } => self.stores[node].forget(id(origin)),
            Step::Say { node, target, value } => {
                let target = match target {
                    0 => Target::Node(id(1)),
                    1 => Target::Policy(Scope::Default),
                    i => Target::Address([10, 0, 0, i].into()),
                };
                let bytes = self.stores[node].statements().say(&target, value.then_some(b"1"));
                self.stores[node].register_encoded(&bytes);
            }
            Step::Withhold { .. } => {}
        }
    }

    /// `to` takes from `from` what it lacks, in at most so many parts.
    fn sync(&mut self, to: usize, from: usize, parts: usize, max_len: usize) {
        let wants = self.stores[to].digest().wants(&self.stores[from].digest());
        let mut left = parts;
        for want in wants {
            let mut part = self.stores[from].delta(want.origin, want.from, max_len);
            let mut asked_again = false;
            while let Some(delta) = part.filter(|_| left > 0) {
                left -= 1;
                part = match self.stores[to].apply(&decoded(&encoded(&delta))) {
                    // What has been begun does not go on with this: the whole is asked for, and then there are no gaps.
                    Applied::Gap(after) if !asked_again => {
                        asked_again = true;
                        self.stores[from].delta(want.origin, after, max_len)
                    }
                    applied @ (Applied::Gap(_) | Applied::Impostor) => panic!("{applied:?}: {delta:?}"),
                    _ => self.stores[from].delta_after(&delta, max_len),
                };
            }
        }
    }

    /// All origins are up, and everybody asks everybody until nothing is new.
    fn settle(&mut self) {
        for node in 0..NODES {
            (0..NODES).for_each(|origin| self.stores[node].set_up(id(origin), true));
        }
        for _ in 0..2 {
            for to in 0..NODES {
                (0..NODES).filter(|&from| from != to).for_each(|from| self.sync(to, from, usize::MAX, 100));
            }
        }
        self.stores.iter_mut().for_each(Store::settle);
    }

    fn registered(&self) -> BTreeSet<(usize, u8, u32)> {
        let all = self.model.iter().enumerate();
        all.flat_map(|(node, keys)| keys.iter().map(move |(&i, &ttl_s)| (node, i, ttl_s))).collect()
    }
}

/// All that a store has, comparable with the model.
fn contents(store: &Store) -> BTreeSet<(usize, u8, u32)> {
    let of = |(origin, _, record): (NodeId, bool, redbreast::store::Record<'_>)| {
        let last = record.rdata[3];
        (usize::from(origin.0[0]) - 1, last, record.attributes().unwrap().ttl_s.unwrap())
    };
    let all: Vec<_> = store.all().map(of).collect();
    let set: BTreeSet<_> = all.iter().copied().collect();
    assert_eq!(set.len(), all.len(), "each once");
    set
}

/// Type, TTL and data of each record, and whether it is drained, by name.
type Answers = BTreeMap<Vec<u8>, Vec<(u16, Option<u32>, Vec<u8>, bool)>>;

/// What answers are made of, of each name.
fn answers(store: &Store) -> Answers {
    let names = (0..KEYS).flat_map(|i| {
        let address = Key::address("", &Name::root(), [10, 0, 0, i].into());
        let reverse = Name::reverse(<[u8; 4]>::try_from(&address.rdata[..]).unwrap().into());
        [key(i).name.as_wire().to_vec(), reverse.as_wire().to_vec()]
    });
    names
        .map(|name| {
            let mut found: Vec<_> = store
                .answers(&name)
                .map(|answer| (answer.rtype, answer.ttl_s, answer.rdata.to_vec(), answer.standing.drained))
                .collect();
            found.sort();
            (name, found)
        })
        .collect()
}

fn encoded(delta: &Delta) -> Vec<u8> {
    let mut bytes = Vec::new();
    delta.encode(&mut bytes);
    bytes
}

fn decoded(bytes: &[u8]) -> Delta {
    let mut reader = Reader(bytes);
    let delta = Delta::decode(&mut reader).expect("as it was encoded");
    assert!(reader.is_empty());
    delta
}

/// Deltas of one origin's history, as different nodes may have them.
fn history(steps: &[(u8, u32, bool)]) -> Vec<Delta> {
    let mut origin = Store::new(id(0), 1);
    let mut deltas = Vec::new();
    for &(i, ttl_s, remove) in steps {
        if remove {
            origin.remove(|record| record.to_key() == key(i));
        } else {
            origin.register(&key(i), &attributes(ttl_s)).unwrap();
        }
        let head = origin.digest().get(id(0)).unwrap().head;
        deltas.extend((0..3).filter_map(|back| origin.delta(id(0), head.saturating_sub(back + 1), 1000)));
        deltas.extend(origin.delta(id(0), 0, 1000));
    }
    deltas
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3_000)
    ))]

    #[test]
    fn after_quiet_all_know_what_the_live_origins_registered(steps in prop::collection::vec(step(), 1..120)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        world.settle();
        for store in &world.stores {
            prop_assert_eq!(contents(store), world.registered());
            prop_assert_eq!(answers(store), answers(&world.stores[0]));
            prop_assert_eq!(store.digest().hash(), world.stores[0].digest().hash());
        }
    }

    #[test]
    fn the_changed_names_are_all_that_need_publishing(steps in prop::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        let mut published: Vec<_> = world.stores.iter().map(answers).collect();
        for step in &steps {
            world.take(step);
            world.stores.iter_mut().for_each(Store::settle);
            if let Step::Restart { node, .. } = step {
                published[*node] = answers(&world.stores[*node]);
                world.stores[*node].take_changed();
            }
            for (store, published) in world.stores.iter_mut().zip(&mut published) {
                let changed = store.take_changed();
                let now = answers(store);
                for name in changed.iter() {
                    let found = now.get(name).cloned().unwrap_or_default();
                    published.insert(name.to_vec(), found);
                }
                prop_assert_eq!(&now, &*published, "after {:?}", step);
            }
        }
    }

    /// The same with work that is postponed for ever so long: once it is done nothing is left, and what was published
    /// by then is what is answered.
    #[test]
    fn the_changed_names_are_all_in_the_end_however_late_work_is_done(
        steps in prop::collection::vec((step(), 0..4usize, any::<bool>()), 1..100),
    ) {
        let mut world = World::new();
        let mut published: Vec<_> = world.stores.iter().map(answers).collect();
        for (step, sweeps, takes) in &steps {
            world.take_unsettled(step);
            for (node, (store, published)) in world.stores.iter_mut().zip(&mut published).enumerate() {
                if matches!(step, Step::Restart { node: restarted, .. } if *restarted == node) {
                    *published = answers(store);
                    store.take_changed();
                }
                store.sweep(*sweeps);
                if *takes {
                    publish(store, published);
                }
            }
        }
        for (store, mut published) in world.stores.iter_mut().zip(published) {
            publish(store, &mut published); // what was said holds from now on
            store.settle();
            publish(store, &mut published);
            prop_assert_eq!(&answers(store), &published);
            prop_assert!(!store.has_sweeps() && store.changed() == 0);
            // And nothing is left of what has gone.
            (0..NODES).for_each(|origin| store.forget(id(origin)));
            store.settle();
            publish(store, &mut published);
            prop_assert_eq!(&answers(store), &published);
            prop_assert_eq!((store.foreign_len(), store.heads().count()), (0, 1));
        }
    }

    #[test]
    fn merging_is_commutative_and_idempotent_and_a_delta_is_as_good_as_the_state(
        steps in prop::collection::vec((0..KEYS, 0..3u32, any::<bool>()), 1..12),
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..80),
    ) {
        let deltas = history(&steps);
        let mut in_order = Store::new(id(1), 1);
        deltas.iter().for_each(|delta| { in_order.apply(delta); });
        let mut by_state = Store::new(id(2), 1);
        by_state.apply(deltas.last().unwrap());
        prop_assert_eq!(contents(&in_order), contents(&by_state));

        let mut in_disorder = Store::new(id(3), 1);
        order.iter().for_each(|at| { in_disorder.apply(at.get(&deltas)); });
        let before = contents(&in_disorder);
        order.iter().for_each(|at| { in_disorder.apply(at.get(&deltas)); });
        if in_disorder.digest() == in_order.digest() {
            prop_assert_eq!(before, contents(&in_order));
        }
        in_disorder.apply(deltas.last().unwrap());
        prop_assert_eq!(contents(&in_disorder), contents(&in_order));
    }

    #[test]
    fn any_bytes_are_a_delta_or_not_and_what_is_one_comes_back(
        steps in prop::collection::vec((0..KEYS, 0..3u32, any::<bool>()), 1..6),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut: prop::sample::Index,
    ) {
        let mut bytes = encoded(history(&steps).last().unwrap());
        changes.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
        let mut store = Store::new(id(1), 1);
        for bytes in [&bytes[..], &bytes[..cut.index(bytes.len())]] {
            let mut reader = Reader(bytes);
            if let Ok(delta) = Delta::decode(&mut reader) {
                let mut again = Reader(bytes);
                prop_assert_eq!(Delta::decode(&mut again), Ok(delta.clone()));
                store.apply(&delta);
                contents_do_not_panic(&store);
            }
        }
    }
}

/// Publishes the names that are told to have changed.
fn publish(store: &mut Store, published: &mut Answers) {
    let changed = store.take_changed();
    let now = answers(store);
    for name in changed.iter() {
        published.insert(name.to_vec(), now.get(name).cloned().unwrap_or_default());
    }
}

fn contents_do_not_panic(store: &Store) {
    for (_, _, record) in store.all() {
        assert!(store.answers(record.name).count() > 0);
    }
}

#[test]
fn a_new_incarnation_replaces_the_old_one_in_one_step_when_it_is_complete() {
    let mut origin = Store::new(id(0), 1);
    (0..KEYS).for_each(|i| {
        origin.register(&key(i), &attributes(1)).unwrap();
    });
    let mut follower = Store::new(id(1), 1);
    assert_eq!(follower.apply(&origin.delta(id(0), 0, 10_000).unwrap()), Applied::News);

    let mut origin = Store::new(id(0), 2);
    (2..KEYS).for_each(|i| {
        origin.register(&key(i), &attributes(1)).unwrap();
    });
    follower.take_changed();
    let mut part = origin.delta(id(0), 0, 0);
    while let Some(delta) = part {
        let complete = delta.to == delta.head;
        let applied = follower.apply(&delta);
        assert_eq!(applied, if complete { Applied::News } else { Applied::Staged });
        let known = contents(&follower).len();
        assert_eq!(known, usize::from(if complete { KEYS - 2 } else { KEYS }), "no gap, and no ghost");
        part = origin.delta_after(&delta, 0);
    }
    follower.settle();
    let changed = follower.take_changed();
    assert!(changed.contains(key(0).name.as_wire()) && changed.len() == 3, "only what differs: {changed:?}");
}

/// Node 3 registers two keys, which node 1 takes, removes the second, drops the tombstone and registers a third: then
/// node 1 has what is gone, and a part of the new log can be had that does not say so.
fn world_with_something_gone() -> (World, Delta) {
    let mut world = World::new();
    let register = |key| Step::Register { node: 3, key, ttl_s: 0 };
    world.take(&register(0));
    world.take(&register(1));
    world.take(&Step::Sync { to: 1, from: 3, parts: 9, max_len: 0 });
    world.take(&Step::Remove { node: 3, key: 1 });
    world.take(&Step::Compact { node: 3, back: 0 });
    world.take(&register(2));
    let part = world.stores[3].delta(id(3), 0, 0).unwrap();
    assert!(part.to < part.floor && part.floor < part.head, "{part:?}");
    (world, part)
}

#[test]
fn what_was_begun_under_a_floor_does_not_go_on_with_what_was_made_under_a_lower_one() {
    let (mut world, part) = world_with_something_gone();
    assert_eq!(world.stores[0].apply(&part), Applied::News);
    let old = world.stores[1].delta(id(3), part.to, 1000).unwrap();
    assert_eq!(world.stores[0].apply(&old), Applied::Gap(0));
    world.settle();
    assert_eq!(contents(&world.stores[0]), world.registered());
}

#[test]
fn nor_does_what_is_gathered_aside() {
    let (mut world, part) = world_with_something_gone();
    // Of the incarnation before, so that the new one is gathered aside.
    let earlier = Store::new(id(3), 0);
    world.stores[0].apply(&earlier.delta(id(3), 0, 1000).unwrap());
    assert_eq!(world.stores[0].apply(&part), Applied::Staged);
    let old = world.stores[1].delta(id(3), part.to, 1000).unwrap();
    assert_eq!(world.stores[0].apply(&old), Applied::Gap(0));
    world.settle();
    assert_eq!(contents(&world.stores[0]), world.registered());
}

#[test]
fn who_claims_to_be_us_in_a_later_incarnation_is_told() {
    let mut store = Store::new(id(0), 3);
    for (incarnation, expected) in [(2, Applied::Known), (3, Applied::Known), (4, Applied::Impostor)] {
        let other = Store::new(id(0), incarnation);
        assert_eq!(store.apply(&other.delta(id(0), 0, 100).unwrap()), expected);
    }
}

#[test]
fn what_others_register_has_an_end() {
    let mut flooding = Store::new(id(0), 1);
    let mut store = Store::new(id(1), 1).with_max_foreign_len(100_000);
    let (mut from, mut full) = (0, 0);
    for i in 0..20_000u32 {
        let name = Name::from_text(&format!("n{i}.example")).unwrap();
        flooding.register(&Key::address("", &name, i.to_be_bytes().into()), &attributes(1)).unwrap();
        if i % 100 == 0 {
            let delta = flooding.delta(id(0), from, usize::MAX).unwrap();
            from = delta.to;
            full += usize::from(store.apply(&delta) == Applied::Full);
        }
    }
    assert!(full > 100 && store.heap_len() < 300_000, "{full} {}", store.heap_len());
    // Its own are another matter, and those that are removed make room.
    assert!(store.register(&key(1), &attributes(1)).unwrap());
    store.forget(id(0));
    store.settle();
    assert_eq!(store.foreign_len(), 0);
    flooding.remove(|_| true);
    flooding.compact(u64::MAX);
    assert_ne!(store.apply(&flooding.delta(id(0), 0, usize::MAX).unwrap()), Applied::Full);
}

#[test]
fn the_hash_of_a_digest_is_told_without_making_it() {
    let mut store = Store::new(id(0), 1);
    for (i, up) in [(3, true), (1, true), (2, false)] {
        let other = Store::new(id(i), 7);
        store.apply(&other.delta(id(i), 0, usize::MAX).unwrap());
        store.set_up(id(i), up);
        assert_eq!(store.digest_hash(), store.digest().hash());
    }
}

#[test]
fn what_is_loaded_is_found_as_what_is_registered_one_by_one() {
    let registrations: Vec<_> = (0..1_000u32)
        .map(|i| {
            // Some have several addresses, and some addresses several names.
            let name = Name::from_text(&format!("n{}.example", i % 700)).unwrap();
            (name.clone(), encode(&Key::address("", &name, (i / 2).to_be_bytes().into()), &attributes(1)))
        })
        .collect();
    let mut expected = Store::new(id(0), 1);
    assert!(registrations.iter().all(|(_, bytes)| expected.register_encoded(bytes)));
    let bytes: Vec<_> = registrations.iter().map(|(_, bytes)| &bytes[..]).collect();
    for threads in [1, 2, 3, 5, 16, 40] {
        let mut store = Store::new(id(0), 1);
        store.load(&bytes[..400], threads);
        store.load(&bytes[400..], threads);
        let all = |store: &Store| {
            store.all().map(|(_, up, record)| (up, record.bytes.to_vec())).collect::<Vec<_>>()
        };
        assert_eq!((all(&store), store.heads().last()), (all(&expected), expected.heads().last()));
        for (name, _) in &registrations {
            let name = name.to_lower_case();
            let numbers = |store: &Store| -> Vec<_> {
                let mut numbers: Vec<_> = store
                    .named_numbered(name.as_wire())
                    .map(|(origin, _, number, _)| (origin, number))
                    .collect();
                numbers.sort_unstable();
                numbers
            };
            assert_eq!(numbers(&store), numbers(&expected), "{threads}");
        }
        let pointers = |store: &Store| store.answers(b"\x011\x010\x010\x010\x07in-addr\x04arpa\0").count();
        assert_eq!((pointers(&store), pointers(&expected)), (2, 2), "{threads}");
    }
}
