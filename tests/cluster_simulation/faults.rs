//! What goes wrong, or right, in the simulated cluster; and what its nodes should answer then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use redbreast::policy::rules::Scope;
use redbreast::store::{Attributes, Record, Target, encode};

use super::world::{NAMES, World, answers_of, key};

/// How many times longer all takes a slow node.
const SLOW: u32 = 10;

impl World {
    pub(super) fn change(&mut self, place: usize, name: u16) {
        self.change_all(place, name..name + 1);
    }

    /// Registers these names, or removes them if the first is registered.
    pub(super) fn change_all(&mut self, place: usize, names: std::ops::Range<u16>) {
        let place_ref = &mut self.places[place];
        let Some(engine) = place_ref.engine.as_mut() else { return };
        let remove = place_ref.registered.contains(&names.start);
        {
            let mut store = engine.store().write();
            for name in names {
                let key = key(place, name);
                if remove && place_ref.registered.remove(&name) {
                    assert!(
                        store.remove_key(Record::read(&encode(&key, &Attributes::default())).unwrap().key)
                    );
                } else if !remove && place_ref.registered.insert(name) {
                    store.register(&key, &Attributes::default()).unwrap();
                }
            }
            store.take_work(); // by another thread
        }
        self.publish(place);
        self.wake(place, self.now);
    }

    /// Says of a node, or of all, something that is to hold at all of them, or takes it back.
    fn say(&mut self, place: usize) {
        let target = match self.rng.usize(..3) {
            0 => Target::Policy(Scope::Default),
            _ => Target::Node(self.places[self.rng.usize(..self.places.len())].id),
        };
        let value = self.rng.bool().then_some(&b"1"[..]);
        if let Some(engine) = &self.places[place].engine {
            let mut store = engine.store().write();
            let bytes = store.statements().say(&target, value);
            store.register_encoded(&bytes);
            store.take_work();
        }
        self.publish(place);
        self.wake(place, self.now);
    }

    /// One of the things that go wrong, or right.
    pub(super) fn disturb(&mut self) {
        let count = self.places.len();
        let place = self.rng.usize(..count);
        match self.rng.u8(..24) {
            0..10 => {
                let name = self.rng.u16(..NAMES);
                self.change(place, name);
            }
            10 if self.rng.bool() => self.places[place].engine = None,
            10 => self.leave(place),
            11 | 12 => {
                let keeps_data = self.rng.bool();
                self.places[place].engine = None;
                self.start(place, keeps_data);
            }
            13 => self.sides = (0..count).map(|_| self.rng.u8(..2)).collect(),
            14 | 15 => self.sides = vec![0; count],
            16 => self.loss[place] = (0..count).map(|_| self.rng.u8(..60)).collect(),
            17 => self.loss[place] = vec![0; count],
            18 => self.max_latency_ms = self.rng.u64(1..80),
            19 => self.places[place].slowness = if self.rng.bool() { SLOW } else { 1 },
            20 => self.say(place),
            21 | 22 if self.bulk > 0 => {
                let first = self.rng.u16(..self.bulk);
                let last = self.rng.u16(first..self.bulk);
                self.change_all(place, NAMES + first..NAMES + last + 1);
            }
            _ => self.places[place].paused_until = self.now + Duration::from_millis(self.rng.u64(..8_000)),
        }
    }

    fn leave(&mut self, place: usize) {
        let now = self.now;
        if let Some(engine) = self.places[place].engine.as_mut() {
            engine.leave(now);
            self.act(place);
        }
        self.places[place].engine = None;
    }

    pub(super) fn calm(&mut self) {
        let count = self.places.len();
        self.sides = vec![0; count];
        self.loss = vec![vec![0; count]; count];
        self.max_latency_ms = 2;
        for place in &mut self.places {
            (place.paused_until, place.slowness) = (self.now, 1);
        }
    }

    pub(super) fn with_bulk(mut self, bulk: u16) -> Self {
        self.bulk = bulk;
        self.names = (0..NAMES + bulk).map(|name| (key(0, name).name.as_wire().to_vec(), name)).collect();
        self
    }

    /// Names to look at: all that are changed one by one, and each `step`th of those that are changed many at a time.
    pub(super) fn looked_at(&self, step: usize) -> impl Iterator<Item = u16> + use<> {
        (0..NAMES).chain((NAMES..NAMES + self.bulk).step_by(step))
    }

    /// What should be answered: the addresses of each of these names, of the nodes that live.
    pub(super) fn expected(&self, names: impl Iterator<Item = u16>) -> BTreeMap<u16, BTreeSet<Vec<u8>>> {
        let alive = || self.places.iter().enumerate().filter(|(_, place)| place.engine.is_some());
        let of = |name| {
            let there = alive().filter(|(_, place)| place.registered.contains(&name));
            there.map(|(at, _)| key(at, name).rdata.to_vec()).collect()
        };
        names.map(|name| (name, of(name))).collect()
    }

    /// What the tables of a node have of these names.
    pub(super) fn published(
        &self,
        place: usize,
        names: impl Iterator<Item = u16>,
    ) -> BTreeMap<u16, BTreeSet<Vec<u8>>> {
        let of = |name| self.places[place].published.get(&name).into_iter().flatten();
        names.map(|name| (name, of(name).map(|(rdata, _)| rdata.clone()).collect())).collect()
    }

    /// Whether the tables of all have what is registered, and what their stores say.
    pub(super) fn agree(&self) -> bool {
        self.agree_on(500)
    }

    pub(super) fn agree_on(&self, step: usize) -> bool {
        let expected = self.expected(self.looked_at(step));
        let live = (0..self.places.len()).filter(|&place| self.places[place].engine.is_some());
        live.into_iter().all(|place| {
            self.published(place, self.looked_at(step)) == expected && self.is_published(place, step)
        })
    }

    /// Whether the tables of a node have what its store says, drains and all.
    fn is_published(&self, place: usize, step: usize) -> bool {
        let Some(engine) = &self.places[place].engine else { return true };
        let store = engine.store().read();
        self.looked_at(step).all(|name| {
            let now = answers_of(&store, key(0, name).name.as_wire());
            self.places[place].published.get(&name).map_or(now.is_empty(), |published| *published == now)
        })
    }

    /// Runs until all agree, for so long at most; returns how long it took.
    pub(super) fn run_until_all_agree(&mut self, patience: Duration) -> Option<Duration> {
        let begin = self.now;
        while self.now < begin + patience {
            if self.agree() {
                return Some(self.now - begin);
            }
            self.run(self.now + Duration::from_millis(10));
        }
        None
    }
}
