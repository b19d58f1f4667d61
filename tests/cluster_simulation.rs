//! Whole nodes in a simulated network: loss, duplication, delay, reordering, partitions, pauses, crashes and restarts with and
//! without data, all from one seed. After quiet every live node answers with what the live origins have registered: no ghost,
//! no loss, no resurrection.
//!
//! Nothing that a node does takes it longer than [`MAX_TURN`]: what it does has a cost, and a seed fails in which one call costs more.
//! Nodes are slow and stand still for a while, too.
//!
//! `SIMULATION_SEEDS=first..last` runs other seeds; a failing one is printed.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // tests tell what they measured

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redbreast::gossip::engine::{Bulk, Engine, MAX_STREAM_DELTA_LEN, Output};
use redbreast::gossip::peer::Peer;
use redbreast::policy::rules::Scope;
use redbreast::store::{Attributes, Delta, Key, NodeId, Reader, Record, SharedStore, Store, Target, encode};
use redbreast::wire::name::Name;

/// Names that are changed one by one.
const NAMES: u16 = 6;

/// What a unit of the store's work costs: twice what a record takes on a machine of today.
const UNIT: Duration = Duration::from_nanos(2_000);
/// What a call into a node costs besides, and each datagram that comes of it.
const CALL: Duration = Duration::from_micros(20);
const SENDING: Duration = Duration::from_micros(5);
/// What one call may cost.
const MAX_TURN: Duration = Duration::from_millis(10);
/// How many times longer all takes a slow node.
const SLOW: u32 = 10;

#[derive(Clone)]
enum Event {
    Wake(usize),
    Datagram {
        from: SocketAddr,
        to: usize,
        bytes: Arc<[u8]>,
    },
    /// The server of a stream writes its next part.
    StreamWrites {
        server: usize,
        client: usize,
        lives: (u64, u64),
        bulk: Bulk,
    },
    StreamReads {
        client: usize,
        life: u64,
        bytes: Vec<u8>,
    },
    StreamEnds {
        client: usize,
        life: u64,
        server: usize,
        whole: bool,
    },
}

/// What is answered to a name: addresses, and whether they are drained.
type Answers = BTreeSet<(Vec<u8>, bool)>;

/// A place in the network at which nodes live one after the other.
struct Place {
    engine: Option<Engine>,
    /// Which of the nodes that have lived here this is.
    life: u64,
    id: NodeId,
    incarnation: u64,
    /// What the node has registered, which a restart with its data keeps.
    registered: BTreeSet<u16>,
    /// What its tables have: what was answered to each name when it was last told to have changed.
    published: BTreeMap<u16, Answers>,
    /// It does nothing until then.
    paused_until: Duration,
    /// How many times longer everything takes it.
    slowness: u32,
    /// When it is woken next.
    wakes_at: Option<Duration>,
}

struct World {
    seed: u64,
    now: Duration,
    rng: fastrand::Rng,
    places: Vec<Place>,
    events: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    queued: Vec<Option<Event>>,
    made: u64,
    /// Which side of a partition a place is on.
    sides: Vec<u8>,
    /// Of a hundred datagrams from one place to another so many are lost.
    loss: Vec<Vec<u8>>,
    max_latency_ms: u64,
    /// Bytes sent in datagrams, by all.
    sent_bytes: u64,
    /// Bytes sent over streams, by all.
    stream_bytes: u64,
    /// What the dearest call into a node has cost.
    longest_turn: Duration,
    /// Names that are changed many at a time, behind those that are changed one by one.
    bulk: u16,
    names: HashMap<Vec<u8>, u16>,
}

fn octets(place: usize) -> [u8; 2] {
    u16::try_from(place).expect("a simulation of thousands at most").to_be_bytes()
}

fn address(place: usize) -> SocketAddr {
    let [high, low] = octets(place);
    ([10, 0, high, low], 6783).into()
}

fn place_of(address: SocketAddr) -> usize {
    let SocketAddr::V4(v4) = address else { panic!("{address}") };
    let [_, _, high, low] = v4.ip().octets();
    usize::from(high) << 8 | usize::from(low)
}

fn key(place: usize, name: u16) -> Key {
    let name_text = Name::from_text(&format!("n{name}.example")).unwrap();
    let ([upper, lower], [high, low]) = (name.to_be_bytes(), octets(place));
    Key::address("", &name_text, [10 + upper, lower, high, low].into())
}

fn answers_of(store: &Store, wire: &[u8]) -> Answers {
    let found: Vec<_> =
        store.answers(wire).map(|answer| (answer.rdata.to_vec(), answer.standing.drained)).collect();
    let set: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(set.len(), found.len(), "an address twice: a ghost of an earlier self");
    set
}

impl World {
    fn new(places: usize, seed: u64) -> Self {
        let mut world = Self {
            seed,
            now: Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
            places: Vec::new(),
            events: BinaryHeap::new(),
            queued: Vec::new(),
            made: 0,
            sides: vec![0; places],
            loss: vec![vec![0; places]; places],
            max_latency_ms: 2,
            sent_bytes: 0,
            stream_bytes: 0,
            longest_turn: Duration::ZERO,
            bulk: 0,
            names: (0..NAMES).map(|name| (key(0, name).name.as_wire().to_vec(), name)).collect(),
        };
        for place in 0..places {
            world.places.push(Place {
                engine: None,
                life: 0,
                id: NodeId([0; 16]),
                incarnation: 0,
                registered: BTreeSet::new(),
                published: BTreeMap::new(),
                paused_until: Duration::ZERO,
                slowness: 1,
                wakes_at: None,
            });
            world.start(place, false);
        }
        world
    }

    fn start(&mut self, at: usize, keeps_data: bool) {
        let rng = fastrand::Rng::with_seed(self.rng.u64(..));
        let seeds: Vec<_> = (0..self.sides.len().min(5)).map(address).collect();
        let place = &mut self.places[at];
        place.life += 1;
        place.incarnation += 1;
        if !keeps_data {
            place.id = NodeId(self.rng.u128(..).to_be_bytes());
            place.registered.clear();
        }
        let mut store = Store::new(place.id, place.incarnation);
        for &name in &place.registered {
            store.register(&key(at, name), &Attributes::default()).unwrap();
        }
        let me = Peer {
            address: address(at),
            node: place.id,
            generation: place.incarnation << 16,
            dns: None,
            name: format!("node-{at}").into(),
        };
        store.take_work();
        place.published.clear();
        place.engine = Some(Engine::new(me, SharedStore::new(store), &seeds, rng));
        self.wake(at, self.now);
    }

    /// Wakes a node at `time`, unless it wakes before.
    fn wake(&mut self, place: usize, time: Duration) {
        let wakes_at = &mut self.places[place].wakes_at;
        if wakes_at.is_none_or(|before| time < before) {
            *wakes_at = Some(time);
            self.at(time, Event::Wake(place));
        }
    }

    fn at(&mut self, time: Duration, event: Event) {
        self.made += 1;
        self.queued.push(Some(event));
        self.events.push(Reverse((time, self.made, self.queued.len() - 1)));
    }

    fn latency(&mut self) -> Duration {
        Duration::from_micros(self.rng.u64(500..=self.max_latency_ms * 1000))
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        self.sides[from] == self.sides[to]
    }

    /// Runs until `end`.
    fn run(&mut self, end: Duration) {
        while let Some(&Reverse((time, _, slot))) = self.events.peek() {
            if time > end {
                break;
            }
            self.events.pop();
            self.now = self.now.max(time);
            let event = self.queued[slot].take().expect("each once");
            self.happen(event);
            if self.queued.len() > 100_000 + 2 * self.events.len() {
                self.compact_queue();
            }
        }
        self.now = end;
    }

    fn compact_queue(&mut self) {
        let events = std::mem::take(&mut self.events);
        let mut queued = std::mem::take(&mut self.queued);
        for Reverse((time, number, slot)) in events {
            self.queued.push(queued[slot].take());
            self.events.push(Reverse((time, number, self.queued.len() - 1)));
        }
    }

    fn happen(&mut self, event: Event) {
        let place = match &event {
            Event::Wake(place) => *place,
            Event::Datagram { to, .. } => *to,
            Event::StreamWrites { server, .. } => *server,
            Event::StreamReads { client, .. } | Event::StreamEnds { client, .. } => *client,
        };
        if self.places[place].paused_until > self.now {
            let later = self.places[place].paused_until;
            if matches!(event, Event::Wake(_)) {
                self.places[place].wakes_at = Some(later);
            }
            return self.at(later, event);
        }
        if matches!(event, Event::Wake(_)) {
            // A wake that an earlier one has made void is not one.
            if self.places[place].wakes_at.is_none_or(|at| at > self.now) {
                return;
            }
            self.places[place].wakes_at = None;
        }
        let now = self.now;
        let life_now = self.places[place].life;
        let Some(engine) = self.places[place].engine.as_mut() else { return };
        match event {
            Event::Wake(_) => engine.handle_time(now),
            Event::Datagram { from, bytes, .. } => engine.handle_datagram(now, from, &bytes),
            Event::StreamWrites { server, client, lives, bulk } => self.write(server, client, lives, bulk),
            Event::StreamReads { life, bytes, .. } => {
                if life == life_now {
                    engine.handle_delta(now, &Delta::decode(&mut Reader(&bytes)).unwrap());
                }
            }
            Event::StreamEnds { life, server, whole, .. } => {
                if life == life_now {
                    engine.handle_fetch_end(address(server), whole);
                }
            }
        }
        self.act(place);
        self.publish(place);
    }

    /// The server of a stream writes on, if it can.
    fn write(&mut self, server: usize, client: usize, lives: (u64, u64), mut bulk: Bulk) {
        let alive = self.places[server].engine.as_ref().filter(|_| lives.0 == self.places[server].life);
        let reaches = self.reaches(server, client);
        let Some(store) = alive.filter(|_| reaches).map(|engine| engine.store().clone()) else {
            // The other end notices in the end.
            let later = self.now + Duration::from_secs(10);
            return self.at(later, Event::StreamEnds { client, life: lives.1, server, whole: false });
        };
        let next = bulk.next(&store.read(), MAX_STREAM_DELTA_LEN);
        let arrives = self.now + self.latency();
        let Some(delta) = next else {
            return self.at(arrives, Event::StreamEnds { client, life: lives.1, server, whole: true });
        };
        let mut bytes = Vec::new();
        delta.encode(&mut bytes);
        self.stream_bytes += bytes.len() as u64;
        self.at(arrives, Event::StreamReads { client, life: lives.1, bytes });
        self.at(arrives, Event::StreamWrites { server, client, lives, bulk });
    }

    /// What the node at `place` has just done takes its time, and not too much of it.
    fn charge(&mut self, place: usize, sent: u32) {
        let Some(engine) = &self.places[place].engine else { return };
        let units = u32::try_from(engine.store().read().take_work()).expect("little");
        let cost = CALL + UNIT * units + SENDING * sent;
        assert!(
            cost <= MAX_TURN,
            "seed {}: a call costs {cost:?}: {units} units, {sent} datagrams",
            self.seed
        );
        self.longest_turn = self.longest_turn.max(cost);
        let slowness = self.places[place].slowness;
        // A slow node stands still now and then, too.
        let pause = if slowness > 1 && self.rng.u8(..) == 0 { self.rng.u64(..200) } else { 0 };
        let busy_until = self.now + cost * slowness + Duration::from_millis(pause);
        let paused_until = &mut self.places[place].paused_until;
        *paused_until = busy_until.max(*paused_until);
    }

    /// The tables of the node at `place` take over what has changed.
    fn publish(&mut self, place: usize) {
        let Some(engine) = &self.places[place].engine else { return };
        let mut store = engine.store().write();
        if store.changed() == 0 {
            return;
        }
        let changed = store.take_changed();
        let known = changed.iter().filter_map(|wire| Some((*self.names.get(wire)?, wire)));
        let answers: Vec<_> = known.map(|(name, wire)| (name, answers_of(&store, wire))).collect();
        store.take_work(); // by another thread
        drop(store);
        self.places[place].published.extend(answers);
    }

    /// Does what the node at `from` wants to be done.
    fn act(&mut self, from: usize) {
        let mut sent = 0;
        while let Some(output) = self.places[from].engine.as_mut().and_then(Engine::poll) {
            sent += 1;
            match output {
                Output::Datagram { to, bytes } => {
                    let to = place_of(to);
                    self.sent_bytes += bytes.len() as u64 + 28;
                    let copies = if self.rng.u8(..100) < 2 { 2 } else { 1 };
                    for _ in 0..copies {
                        if self.reaches(from, to) && self.rng.u8(..100) >= self.loss[from][to] {
                            let arrives = self.now + self.latency();
                            self.at(
                                arrives,
                                Event::Datagram { from: address(from), to, bytes: bytes.clone() },
                            );
                        }
                    }
                }
                Output::Fetch { to, wants } => {
                    let (server, client) = (place_of(to), from);
                    let lives = (self.places[server].life, self.places[client].life);
                    let arrives = self.now + self.latency();
                    self.at(arrives, Event::StreamWrites { server, client, lives, bulk: Bulk::new(wants) });
                }
            }
        }
        self.charge(from, sent);
        if let Some(engine) = &self.places[from].engine {
            let next = engine.next_time().max(self.now + Duration::from_millis(1));
            self.wake(from, next);
        }
    }

    fn change(&mut self, place: usize, name: u16) {
        self.change_all(place, name..name + 1);
    }

    /// Registers these names, or removes them if the first is registered.
    fn change_all(&mut self, place: usize, names: std::ops::Range<u16>) {
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
    fn disturb(&mut self) {
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

    fn calm(&mut self) {
        let count = self.places.len();
        self.sides = vec![0; count];
        self.loss = vec![vec![0; count]; count];
        self.max_latency_ms = 2;
        for place in &mut self.places {
            (place.paused_until, place.slowness) = (self.now, 1);
        }
    }

    fn with_bulk(mut self, bulk: u16) -> Self {
        self.bulk = bulk;
        self.names = (0..NAMES + bulk).map(|name| (key(0, name).name.as_wire().to_vec(), name)).collect();
        self
    }

    /// Names to look at: all that are changed one by one, and each `step`th of those that are changed many at a time.
    fn looked_at(&self, step: usize) -> impl Iterator<Item = u16> + use<> {
        (0..NAMES).chain((NAMES..NAMES + self.bulk).step_by(step))
    }

    /// What should be answered: the addresses of each of these names, of the nodes that live.
    fn expected(&self, names: impl Iterator<Item = u16>) -> BTreeMap<u16, BTreeSet<Vec<u8>>> {
        let alive = || self.places.iter().enumerate().filter(|(_, place)| place.engine.is_some());
        let of = |name| {
            let there = alive().filter(|(_, place)| place.registered.contains(&name));
            there.map(|(at, _)| key(at, name).rdata.to_vec()).collect()
        };
        names.map(|name| (name, of(name))).collect()
    }

    /// What the tables of a node have of these names.
    fn published(&self, place: usize, names: impl Iterator<Item = u16>) -> BTreeMap<u16, BTreeSet<Vec<u8>>> {
        let of = |name| self.places[place].published.get(&name).into_iter().flatten();
        names.map(|name| (name, of(name).map(|(rdata, _)| rdata.clone()).collect())).collect()
    }

    /// Whether the tables of all have what is registered, and what their stores say.
    fn agree(&self) -> bool {
        self.agree_on(500)
    }

    fn agree_on(&self, step: usize) -> bool {
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
    fn run_until_all_agree(&mut self, patience: Duration) -> Option<Duration> {
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

fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("SIMULATION_SEEDS").ok();
    let range = asked.as_deref().and_then(|text| text.split_once("..")).map(|(a, b)| (a.parse(), b.parse()));
    match range {
        Some((Ok(first), Ok(last))) => first..last,
        _ => 0..2_000,
    }
}

/// Runs a cluster in which things go wrong so many times, with so many names that are changed many at a time. Returns how long it took
/// to be right again, and the longest turn.
fn disturb_and_settle(seed: u64, disturbances: usize, bulk: u16) -> (Duration, Duration) {
    let mut world = World::new(5, seed).with_bulk(bulk);
    for _ in 0..disturbances {
        world.disturb();
        let pause = world.rng.u64(..3_000);
        world.run(world.now + Duration::from_millis(pause));
    }
    world.calm();
    let Some(took) = world.run_until_all_agree(Duration::from_secs(40)) else {
        for place in 0..5 {
            println!("{place}: {:?}", world.published(place, world.looked_at(500)));
        }
        panic!("seed {seed}: they do not agree; expected {:?}", world.expected(world.looked_at(500)));
    };
    // And they stay so.
    world.run(world.now + Duration::from_secs(10));
    assert!(world.agree_on(1), "seed {seed}: they agreed and then did not");
    (took, world.longest_turn)
}

#[test]
fn after_quiet_all_nodes_answer_alike_and_right_whatever_went_wrong() {
    let all: Vec<_> = seeds().map(|seed| disturb_and_settle(seed, 60, 20)).collect();
    let (took, turn) = (all.iter().map(|it| it.0).max(), all.iter().map(|it| it.1).max());
    println!("the slowest took {took:?} after the last disturbance; the longest turn {turn:?}");
}

/// Thousands of names at once, so that what is done in steps takes many of them: `SIMULATION_BULK_SEEDS` of it.
#[test]
fn nothing_takes_long_where_thousands_of_names_come_and_go_at_once() {
    let asked = std::env::var("SIMULATION_BULK_SEEDS").ok().and_then(|text| text.parse().ok());
    let all: Vec<_> = (0..asked.unwrap_or(20)).map(|seed| disturb_and_settle(seed, 60, 6_000)).collect();
    let (took, turn) = (all.iter().map(|it| it.0).max(), all.iter().map(|it| it.1).max());
    println!("the slowest took {took:?} after the last disturbance; the longest turn {turn:?}");
}

fn percentile(mut times: Vec<Duration>, percent: usize) -> Duration {
    times.sort();
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

#[test]
fn a_killed_node_leaves_the_answers_in_time() {
    let mut times = Vec::new();
    for seed in 0..100 {
        let mut world = World::new(5, seed);
        (0..5).for_each(|place| world.change(place, 0));
        assert!(world.run_until_all_agree(Duration::from_secs(10)).is_some(), "seed {seed}");
        let pause = world.rng.u64(2_000..5_000);
        world.run(world.now + Duration::from_millis(pause));
        world.places[4].engine = None;
        times.push(world.run_until_all_agree(Duration::from_secs(60)).expect("it is noticed"));
    }
    let p99 = percentile(times, 99);
    println!("killed to gone from all answers: p99 {p99:?}");
    assert!(p99 <= Duration::from_secs(5), "{p99:?}");
}

#[test]
fn a_healed_partition_converges_in_time() {
    let mut times = Vec::new();
    for seed in 0..50 {
        let mut world = World::new(5, seed);
        world.run(Duration::from_secs(5));
        world.sides = vec![0, 0, 1, 1, 1];
        world.run(world.now + Duration::from_secs(20));
        (0..5).for_each(|place| world.change(place, 1));
        world.run(world.now + Duration::from_secs(40));
        world.calm();
        times.push(world.run_until_all_agree(Duration::from_secs(60)).expect("it heals"));
    }
    let p99 = percentile(times.clone(), 99);
    println!("partition healed to all alike: median {:?}, p99 {p99:?}", percentile(times, 50));
    assert!(p99 <= Duration::from_secs(3), "{p99:?}");
}

#[test]
fn no_live_node_is_declared_down_in_an_hour_of_heavy_loss() {
    for seed in 0..2 {
        let mut world = World::new(5, seed);
        (0..5).for_each(|place| world.change(place, 0));
        assert!(world.run_until_all_agree(Duration::from_secs(10)).is_some());
        world.loss = vec![vec![10; 5]; 5];
        let end = world.now + Duration::from_secs(3600);
        while world.now < end {
            world.run(world.now + Duration::from_millis(100));
            assert!(world.agree(), "seed {seed}: a live node's records are withheld at {:?}", world.now);
        }
    }
}

#[test]
fn a_quiet_cluster_sends_little() {
    let mut world = World::new(5, 1);
    (0..5).for_each(|place| world.change(place, 0));
    world.run(Duration::from_secs(60));
    let before = world.sent_bytes;
    world.run(Duration::from_secs(660));
    let per_second = (world.sent_bytes - before) / 600 / 5;
    println!("a node of five with nothing to tell sends {per_second} bytes a second");
    assert!(per_second <= 2_000, "{per_second}");
}

/// A hundred nodes; `scripts/simulate-1000` takes a thousand, and some minutes.
#[test]
fn many_nodes_hear_of_everything_soon_and_say_little() {
    let nodes = std::env::var("NODES").ok().and_then(|text| text.parse().ok()).unwrap_or(100);
    let mut world = World::new(nodes, 1);
    world.max_latency_ms = 1;
    let all_know_all = |world: &World| {
        world.places.iter().all(|place| {
            place.engine.as_ref().is_some_and(|engine| engine.membership().members().len() == nodes - 1)
        })
    };
    while !all_know_all(&world) {
        world.run(world.now + Duration::from_millis(500));
        assert!(world.now < Duration::from_secs(180), "they do not find each other");
    }
    println!("{nodes} nodes that start at once know each other after {:?}", world.now);

    world.run(world.now + Duration::from_secs(60));
    let before = world.sent_bytes;
    world.run(world.now + Duration::from_secs(20));
    let bytes_per_s = (world.sent_bytes - before) / 20 / nodes as u64;
    println!("a node with nothing to tell sends {bytes_per_s} bytes a second");
    assert!(bytes_per_s <= 10_000);

    let mut times = Vec::new();
    for round in 0..100 {
        let place = world.rng.usize(..nodes);
        let name = u16::try_from(round % 4).unwrap();
        world.change(place, name);
        let begin = world.now;
        let wire = key(0, name).name.as_wire().to_vec();
        let expected = world.expected(std::iter::once(name))[&name].len();
        let has = |world: &World, place: usize| {
            world.places[place]
                .engine
                .as_ref()
                .is_some_and(|engine| engine.store().read().answers(&wire).count() == expected)
        };
        let mut late: Vec<usize> = (0..nodes).collect();
        while !late.is_empty() {
            world.run(world.now + Duration::from_micros(250));
            late.retain(|&place| !has(&world, place));
            assert!(world.now < begin + Duration::from_secs(10), "{} nodes have not heard of it", late.len());
        }
        times.push(world.now - begin);
        world.run(world.now + Duration::from_millis(50));
    }
    let (p50, p99) = (percentile(times.clone(), 50), percentile(times, 99));
    println!("a change is at all nodes after p50 {p50:?}, p99 {p99:?}; a round trip takes 1 to 2 ms");
    assert!(p99 <= Duration::from_millis(12 * 2), "{p99:?}");

    world.sides = (0..nodes).map(|place| u8::from(place % 2 == 0)).collect();
    world.run(world.now + Duration::from_secs(60));
    for place in 0..10 {
        world.change(place * nodes / 10, 5);
    }
    world.run(world.now + Duration::from_secs(2));
    world.sides = vec![0; nodes];
    let begin = world.now;
    while !world.agree() {
        world.run(world.now + Duration::from_millis(100));
        assert!(world.now < begin + Duration::from_secs(120), "it does not heal");
    }
    println!("a partition in halves has healed after {:?}", world.now - begin);
    assert!(world.now - begin <= Duration::from_secs(10));
}
