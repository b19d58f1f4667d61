//! Work that the store postpones: each step is short however much there is, and in the end it is as if it had been done
//! at once.
#![allow(missing_docs)]

use std::collections::BTreeMap;

use proptest::prelude::*;
use redbreast::policy::rules::Scope;
use redbreast::policy::select::Health;
use redbreast::store::{
    Attributes, Changed, Cursor, Delta, Key, MAX_CHANGED, NodeId, ObservedState, Record, Store, Target,
    encode,
};
use redbreast::wire::name::Name;

const ME: NodeId = NodeId([1; 16]);
const OTHER: NodeId = NodeId([2; 16]);

/// Units of work beyond those asked for that a step may do: the rest of a block, and what leads there.
const SLACK: u64 = 32;

fn key(i: u32) -> Key {
    Key::address("i", &Name::from_text(&format!("n{i}.example")).unwrap(), i.to_be_bytes().into())
}

fn filled(node: NodeId, incarnation: u64, names: std::ops::Range<u32>) -> Store {
    let mut store = Store::new(node, incarnation);
    for i in names {
        store.register(&key(i), &Attributes::default()).unwrap();
    }
    store.take_changed();
    store.take_work();
    store
}

/// What `other` has goes to `store` in parts, the work of each of which is bounded by what is in it.
fn pull(store: &mut Store, other: &Store) {
    let mut part: Option<Delta> = other.delta(other.me(), 0, 16_000);
    while let Some(delta) = part {
        store.take_work();
        store.apply(&delta);
        let units = store.take_work();
        assert!(units <= delta.len() as u64 + SLACK, "{units} for {} changes", delta.len());
        part = other.delta_after(&delta, 16_000);
    }
}

/// Does postponed work in steps of a hundred, each of which is one. Returns how many there were, and the changed names.
fn sweep(store: &mut Store) -> (usize, usize) {
    let (mut steps, mut changed) = (0, 0);
    store.take_work();
    while store.has_sweeps() {
        store.sweep(100);
        let units = store.take_work();
        assert!(units <= 100 + SLACK, "{units}");
        (steps, changed) = (steps + 1, changed + store.take_changed().len());
        store.take_work();
    }
    (steps, changed)
}

fn answered(store: &Store, i: u32) -> usize {
    store.answers(key(i).name.as_wire()).count()
}

#[test]
fn a_node_that_goes_and_comes_back_is_withheld_at_once_and_noted_in_steps() {
    let (mut store, other) = (filled(ME, 1, 0..10), filled(OTHER, 1, 0..5_000));
    pull(&mut store, &other);
    store.take_changed();
    for up in [false, true] {
        store.take_work();
        store.set_up(OTHER, up);
        assert!(store.take_work() <= SLACK);
        assert_eq!(answered(&store, 4_999), usize::from(up));
        let (steps, changed) = sweep(&mut store);
        assert!(steps >= 50 && changed >= 10_000, "{steps} {changed}");
    }
    store.forget(OTHER);
    assert!(store.take_work() <= SLACK && answered(&store, 4_999) == 0 && store.foreign_len() > 0);
    // It is back before all of what it was is gone.
    store.sweep(1_000);
    pull(&mut store, &other);
    assert_eq!(answered(&store, 4_999), 1);
    sweep(&mut store);
    let bytes = store.foreign_len();
    pull(&mut store, &filled(OTHER, 2, 0..5_000));
    sweep(&mut store);
    assert_eq!(store.foreign_len(), bytes, "what has gone has gone");
    store.forget(OTHER);
    sweep(&mut store);
    assert_eq!((store.foreign_len(), answered(&store, 4_999), answered(&store, 9)), (0, 0, 1));
}

#[test]
fn a_restart_notes_what_differs_alone() {
    let mut store = Store::new(ME, 1);
    pull(&mut store, &filled(OTHER, 1, 0..5_000));
    store.take_changed();
    pull(&mut store, &filled(OTHER, 2, 3..5_003));
    assert_eq!((answered(&store, 0), answered(&store, 5_002)), (0, 1), "it holds at once");
    let (steps, changed) = sweep(&mut store);
    assert!(steps >= 90, "{steps}");
    assert_eq!(changed, 12, "six names and the addresses' own");
}

#[test]
fn directives_hold_at_once_and_are_settled_when_all_names_are_noted() {
    let mut store = filled(ME, 1, 0..3_000);
    let say = |store: &mut Store, target: Target, value: Option<&[u8]>| {
        let bytes = store.statements().say(&target, value);
        store.register_encoded(&bytes);
        assert!(!store.directives_settled());
        store.take_changed().len()
    };
    let name = Name::from_text("n7.example").unwrap();
    let one = Target::Policy(Scope::Name(name.as_wire().into()));
    // The first call makes it hold, and notes what is noted at once; those are taken next.
    assert_eq!((say(&mut store, one, Some(b"random")), store.directives_settled()), (1, true));
    let all = Target::Policy(Scope::Domain((*b"\x07example\0").into()));
    assert_eq!(say(&mut store, all, Some(b"random")), 0);
    store.sweep(1_000);
    let some = store.take_changed().len();
    assert!(some <= 1_000 && !store.directives_settled(), "{some}");
    assert_eq!(
        say(&mut store, Target::Address([0, 0, 0, 5].into()), Some(b"1")),
        0,
        "another comes in between"
    );
    let (_, rest) = sweep(&mut store);
    assert!(store.directives_settled() && some + rest >= 4_000, "all, and once more those before the second");
    assert!(store.answers(key(5).name.as_wire()).all(|answer| answer.standing.drained));
}

#[test]
fn tombstones_go_in_steps_when_they_are_too_many() {
    let mut store = filled(ME, 1, 0..12_000);
    store.remove(|_| true);
    store.take_work();
    let before = store.heap_len();
    store.compact(0);
    assert!(store.take_work() <= SLACK);
    let (steps, _) = sweep(&mut store);
    assert!(steps >= 60 && store.heap_len() < before, "{steps}");
    let left = store.delta(ME, 0, usize::MAX).unwrap().len();
    assert_eq!(left, 5_999, "the younger half");
    store.compact(u64::MAX);
    sweep(&mut store);
    assert_eq!(store.delta(ME, 0, usize::MAX).unwrap().len(), 0);
}

#[test]
fn no_more_names_are_noted_than_may_wait() {
    let mut store = Store::new(ME, 1);
    let names = u32::try_from(MAX_CHANGED).unwrap();
    pull(&mut store, &filled(OTHER, 1, 0..names));
    store.take_changed();
    store.set_up(OTHER, false);
    for _ in 0..1_000 {
        store.sweep(1_000);
    }
    assert!((MAX_CHANGED..MAX_CHANGED + 1_000).contains(&store.changed()), "{}", store.changed());
    assert!(!store.has_room() && store.has_sweeps());
    store.take_changed();
    assert!(store.has_room());
    let (_, changed) = sweep(&mut store);
    assert!(changed >= 99_000, "{changed}");
}

#[test]
fn where_all_is_made_anew_names_are_counted_and_afterwards_noted_again() {
    let mut store = filled(ME, 1, 0..10);
    store.count_changes_only(true);
    (0..50).for_each(|i| assert!(store.register(&key(i), &Attributes::with_ttl_s(7)).unwrap()));
    assert!(store.has_room());
    assert!(matches!(store.take_changes(), Changed::Many(50)));
    store.count_changes_only(false);
    store.register(&key(3), &Attributes::with_ttl_s(8)).unwrap();
    let Changed::Names(names) = store.take_changes() else { panic!("names are noted again") };
    assert!(names.contains(key(3).name.as_wire()) && names.len() == 2, "with its reverse name");
}

fn checked(check: &str) -> Attributes {
    let mut attributes = Attributes::default();
    attributes.check = Some(check.into());
    attributes
}

#[test]
fn what_is_registered_together_is_as_if_it_had_been_one_after_the_other() {
    let mut rng = fastrand::Rng::with_seed(6);
    let (mut together, mut single) = (filled(ME, 1, 0..200), filled(ME, 1, 0..200));
    for _ in 0..100 {
        let wanted: Vec<_> = (0..rng.usize(1..300))
            .map(|_| {
                let attributes = match rng.u8(..4) {
                    0 => Attributes::with_ttl_s(rng.u32(..3)),
                    1 => checked("tcp:80"),
                    _ => Attributes::default(),
                };
                encode(&key(rng.u32(..400)), &attributes)
            })
            .collect();
        let records: Vec<_> = wanted.iter().map(|bytes| Record::read(bytes).unwrap()).collect();
        let mut told = Vec::new();
        together.register_some(&records, |new| told.push(new));
        let expected: Vec<_> = records
            .iter()
            .map(|record| {
                let new = !single.has_own_key(record.key);
                single.register_some(&[*record], |told| assert_eq!(told, new));
                new
            })
            .collect();
        assert_eq!(told, expected);
        for _ in 0..rng.usize(..50) {
            let gone = encode(&key(rng.u32(..400)), &Attributes::default());
            let gone = Record::read(&gone).unwrap().key;
            assert_eq!(together.remove_key(gone), single.remove_key(gone));
            let (state, found) = (ObservedState { health: Health::Down, ramp: None }, key(rng.u32(..400)));
            let found = encode(&found, &Attributes::default());
            let found = Record::read(&found).unwrap().key;
            assert_eq!(together.set_state(found, state), single.set_state(found, state));
        }
        assert_eq!(answers(&together), answers(&single));
        assert_eq!((together.own_head(), together.digest_hash()), (single.own_head(), single.digest_hash()));
        let [mut noted, mut noted_single] = [together.take_changed(), single.take_changed()]
            .map(|names| names.iter().map(<[u8]>::to_vec).collect::<Vec<_>>());
        noted.sort();
        noted_single.sort();
        assert_eq!(noted, noted_single);
    }
    // What a check has found stays with the check.
    let bytes = encode(&key(1_000), &checked("tcp:80"));
    let record = Record::read(&bytes).unwrap();
    together.register_some(&[record], |new| assert!(new));
    together.set_state(record.key, ObservedState { health: Health::Down, ramp: None });
    let health = |store: &Store| store.own(record.key).unwrap().attributes().unwrap().state.health;
    together.register_some(&[record], |new| assert!(!new));
    assert_eq!(health(&together), Health::Down);
    let other = encode(&key(1_000), &checked("tcp:81"));
    together.register_some(&[Record::read(&other).unwrap()], |new| assert!(!new));
    assert_eq!(health(&together), Health::Unknown);
}

#[test]
fn reading_and_growing_are_bounded_too() {
    let mut store = filled(ME, 1, 0..30_000);
    let mut cursor = Some(Cursor::BEGIN);
    while let Some(at) = cursor {
        cursor = store.scan(at, 500, |_, _, _| {});
        let units = store.take_work();
        assert!(units <= 500 + SLACK, "{units}");
    }
    for i in 30_000..60_000 {
        store.register(&key(i), &Attributes::default()).unwrap();
        assert!(store.take_work() <= SLACK);
    }
}

#[test]
fn a_part_ends_between_two_names_where_it_can() {
    let mut store = Store::new(ME, 1);
    for i in 0..200u32 {
        let name = Name::from_text(&format!("n{}.example", i / 4)).unwrap();
        store.register(&Key::address("i", &name, i.to_be_bytes().into()), &Attributes::default()).unwrap();
    }
    let mut peer = Store::new(OTHER, 1);
    for max_len in [200, 250, 300, 1_000] {
        let mut part = store.delta(ME, 0, max_len);
        while let Some(delta) = part {
            peer.apply(&delta);
            for i in (0..200).step_by(4) {
                let name = Name::from_text(&format!("n{}.example", i / 4)).unwrap();
                assert!([0, 4].contains(&peer.answers(name.as_wire()).count()), "half of a name");
            }
            part = store.delta_after(&delta, max_len);
        }
        peer.forget(ME);
        peer.settle();
    }
    // One name that has more than fits is cut nevertheless.
    let delta = store.delta(ME, 0, 60).unwrap();
    assert_eq!((delta.len(), delta.to), (1, 2));
}

/// Of two directives the second comes while the names of the first are being noted, and then a record moves behind
/// where they are looked for: with every number of steps in between.
#[test]
fn what_moves_while_directives_are_noted_is_noted() {
    for (first, second) in (1..14).flat_map(|first| (1..14).map(move |second| (first, second))) {
        let (mut store, mut other) = (Store::new(ME, 1), filled(OTHER, 1, 0..KEYS));
        pull(&mut store, &other);
        let mut published = answers(&store);
        for (drained, steps) in [(true, first), (false, second)] {
            let bytes = store.statements().say(&Target::Node(OTHER), drained.then_some(b"1"));
            store.register_encoded(&bytes);
            publish(&mut store, &mut published);
            store.sweep(steps);
            publish(&mut store, &mut published);
        }
        other.remove(|record| record.rdata == 0u32.to_be_bytes());
        other.register(&key(0), &Attributes::default()).unwrap();
        pull_parts(&mut store, &other, 1);
        store.settle();
        publish(&mut store, &mut published);
        assert_eq!(answers(&store), published, "{first} steps, then {second}");
    }
}

/// What happens to a store and to another node whose log it follows; numbers say which key, or how much.
#[derive(Clone, Debug)]
enum Step {
    Register(u32, u32),
    Remove(u32),
    Restart,
    Pull { parts: usize },
    SetUp(bool),
    Forget,
    Say(bool),
    Sweep(usize),
    Publish,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..KEYS, 0..2u32).prop_map(|(i, ttl_s)| Step::Register(i, ttl_s)),
        3 => (0..KEYS).prop_map(Step::Remove),
        2 => Just(Step::Restart),
        6 => (1..6usize).prop_map(|parts| Step::Pull { parts }),
        3 => any::<bool>().prop_map(Step::SetUp),
        1 => Just(Step::Forget),
        1 => any::<bool>().prop_map(Step::Say),
        4 => (1..4usize).prop_map(Step::Sweep),
        2 => Just(Step::Publish),
    ]
}

const KEYS: u32 = 5;

type Published = BTreeMap<Vec<u8>, Vec<(Option<u32>, Vec<u8>, bool)>>;

fn answers(store: &Store) -> Published {
    let names = (0..KEYS).flat_map(|i| {
        let reverse = Name::reverse(i.to_be_bytes().into());
        [key(i).name.as_wire().to_vec(), reverse.as_wire().to_vec()]
    });
    let of = |name: &[u8]| {
        let found = store.answers(name);
        let mut found: Vec<_> = found.map(|it| (it.ttl_s, it.rdata.to_vec(), it.standing.drained)).collect();
        found.sort();
        found
    };
    names.map(|name| (name.clone(), of(&name))).collect()
}

fn publish(store: &mut Store, published: &mut Published) {
    let changed = store.take_changed();
    let now = answers(store);
    published.extend(changed.iter().map(|name| (name.to_vec(), now.get(name).cloned().unwrap_or_default())));
}

fn register(store: &mut Store, i: u32, ttl_s: u32) {
    store.register(&key(i), &Attributes::with_ttl_s(ttl_s)).unwrap();
}

/// Takes parts of one change each.
fn pull_parts(store: &mut Store, other: &Store, parts: usize) {
    let head = store.known().get(OTHER).filter(|there| there.incarnation == other.incarnation());
    let mut part = other.delta(OTHER, head.map_or(0, |there| there.head), 0);
    for _ in 0..parts {
        let Some(delta) = part else { return };
        store.apply(&delta);
        part = other.delta_after(&delta, 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(
        std::env::var("FUZZ_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(20_000)
    ))]

    /// A log is changed, replaced, withheld and forgotten while its names are being noted, in all orders.
    #[test]
    fn no_name_is_missed_whatever_happens_while_names_are_noted(steps in prop::collection::vec(step(), 1..80)) {
        let (mut store, mut other) = (Store::new(ME, 1), Store::new(OTHER, 1));
        let (mut published, mut registered) = (answers(&store), BTreeMap::new());
        for step in &steps {
            match *step {
                Step::Register(i, ttl_s) => {
                    registered.insert(i, ttl_s);
                    register(&mut other, i, ttl_s);
                }
                Step::Remove(i) => {
                    registered.remove(&i);
                    other.remove(|record| record.rdata == i.to_be_bytes());
                }
                Step::Restart => {
                    other = Store::new(OTHER, other.incarnation() + 1);
                    registered.iter().for_each(|(&i, &ttl_s)| register(&mut other, i, ttl_s));
                }
                Step::Pull { parts } => pull_parts(&mut store, &other, parts),
                Step::SetUp(up) => store.set_up(OTHER, up),
                Step::Forget => store.forget(OTHER),
                Step::Say(drained) => {
                    let bytes = store.statements().say(&Target::Node(OTHER), drained.then_some(b"1"));
                    store.register_encoded(&bytes);
                }
                Step::Sweep(steps) => drop(store.sweep(steps)),
                Step::Publish => publish(&mut store, &mut published),
            }
        }
        publish(&mut store, &mut published);
        store.settle();
        publish(&mut store, &mut published);
        prop_assert_eq!(answers(&store), published);
        prop_assert!(!store.has_sweeps());
    }
}
