//! Whole nodes in a simulated network: loss, duplication, delay, reordering, partitions, pauses, crashes and restarts with and
//! without data, all from one seed. After quiet every live node answers with what the live origins have registered: no ghost,
//! no loss, no resurrection.
//!
//! `SIMULATION_SEEDS=first..last` runs other seeds; a failing one is printed.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // tests tell what they measured

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use redbreast::gossip::engine::{Bulk, Engine, MAX_STREAM_DELTA_LEN, Output};
use redbreast::gossip::peer::Peer;
use redbreast::store::{Attributes, Delta, Key, NodeId, Reader, SharedStore, Store};
use redbreast::wire::name::Name;

const NAMES: u8 = 6;

#[derive(Clone)]
enum Event {
    Wake(usize),
    Datagram {
        from: SocketAddr,
        to: usize,
        bytes: Vec<u8>,
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
}

/// A place in the network at which nodes live one after the other.
struct Place {
    engine: Option<Engine>,
    /// Which of the nodes that have lived here this is.
    life: u64,
    id: NodeId,
    incarnation: u64,
    /// What the node has registered, which a restart with its data keeps.
    registered: BTreeSet<u8>,
    /// It does nothing until then.
    paused_until: Duration,
    /// When it is woken next.
    wakes_at: Option<Duration>,
}

struct World {
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

fn key(place: usize, name: u8) -> Key {
    let name_text = Name::from_text(&format!("n{name}.example")).unwrap();
    let [high, low] = octets(place);
    Key::address("", &name_text, [10, name, high, low].into())
}

impl World {
    fn new(places: usize, seed: u64) -> Self {
        let mut world = Self {
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
        };
        for place in 0..places {
            world.places.push(Place {
                engine: None,
                life: 0,
                id: NodeId([0; 16]),
                incarnation: 0,
                registered: BTreeSet::new(),
                paused_until: Duration::ZERO,
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
            Event::StreamReads { client, .. } => *client,
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
        let Some(engine) = self.places[place].engine.as_mut() else { return };
        match event {
            Event::Wake(_) => engine.handle_time(now),
            Event::Datagram { from, bytes, .. } => engine.handle_datagram(now, from, &bytes),
            Event::StreamWrites { server, client, lives, mut bulk } => {
                let lives_now = (self.places[server].life, self.places[client].life);
                if lives != lives_now || !self.reaches(server, client) {
                    return;
                }
                let store = self.places[server].engine.as_ref().expect("alive").store().clone();
                let next = bulk.next(&store.read(), MAX_STREAM_DELTA_LEN);
                if let Some(delta) = next {
                    let mut bytes = Vec::new();
                    delta.encode(&mut bytes);
                    let arrives = now + self.latency();
                    self.at(arrives, Event::StreamReads { client, life: lives.1, bytes });
                    self.at(arrives, Event::StreamWrites { server, client, lives, bulk });
                }
            }
            Event::StreamReads { life, bytes, .. } => {
                if life == self.places[place].life {
                    let delta = Delta::decode(&mut Reader(&bytes)).unwrap();
                    self.places[place].engine.as_mut().expect("alive").handle_delta(now, &delta);
                }
            }
        }
        self.act(place);
    }

    /// Does what the node at `from` wants to be done.
    fn act(&mut self, from: usize) {
        while let Some(output) = self.places[from].engine.as_mut().and_then(Engine::poll) {
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
        if let Some(engine) = &self.places[from].engine {
            let next = engine.next_time().max(self.now + Duration::from_millis(1));
            self.wake(from, next);
        }
    }

    fn change(&mut self, place: usize, name: u8) {
        let place_ref = &mut self.places[place];
        let Some(engine) = place_ref.engine.as_mut() else { return };
        if place_ref.registered.remove(&name) {
            let gone = key(place, name);
            engine.store().write().remove(|record| record.to_key() == gone);
        } else {
            place_ref.registered.insert(name);
            engine.store().write().register(&key(place, name), &Attributes::default()).unwrap();
        }
        self.wake(place, self.now);
    }

    /// One of the things that go wrong, or right.
    fn disturb(&mut self) {
        let count = self.places.len();
        let place = self.rng.usize(..count);
        match self.rng.u8(..20) {
            0..10 => {
                let name = self.rng.u8(..NAMES);
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
        (0..count).for_each(|place| self.places[place].paused_until = self.now);
    }

    /// What should be answered: the addresses of each name, of the nodes that live.
    fn expected(&self) -> BTreeMap<u8, BTreeSet<Vec<u8>>> {
        let mut expected: BTreeMap<_, BTreeSet<_>> = (0..NAMES).map(|name| (name, BTreeSet::new())).collect();
        for (at, place) in self.places.iter().enumerate().filter(|(_, place)| place.engine.is_some()) {
            for &name in &place.registered {
                expected.get_mut(&name).unwrap().insert(key(at, name).rdata.to_vec());
            }
        }
        expected
    }

    fn answers(&self, place: usize) -> Option<BTreeMap<u8, BTreeSet<Vec<u8>>>> {
        let store = self.places[place].engine.as_ref()?.store().read();
        let of = |name: u8| {
            let wire = key(0, name).name.as_wire().to_vec();
            let found: Vec<_> = store.answers(&wire).map(|answer| answer.rdata.to_vec()).collect();
            let set: BTreeSet<_> = found.iter().cloned().collect();
            assert_eq!(set.len(), found.len(), "an address twice: a ghost of an earlier self");
            set
        };
        Some((0..NAMES).map(|name| (name, of(name))).collect())
    }

    fn agree(&self) -> bool {
        let expected = self.expected();
        (0..self.places.len()).all(|place| self.answers(place).is_none_or(|answers| answers == expected))
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

#[test]
fn after_quiet_all_nodes_answer_alike_and_right_whatever_went_wrong() {
    let mut slowest = Duration::ZERO;
    for seed in seeds() {
        let mut world = World::new(5, seed);
        for _ in 0..60 {
            world.disturb();
            let pause = world.rng.u64(..3_000);
            world.run(world.now + Duration::from_millis(pause));
        }
        world.calm();
        let took = world.run_until_all_agree(Duration::from_secs(40));
        let Some(took) = took else {
            for place in 0..5 {
                println!("{place}: {:?}", world.answers(place));
            }
            panic!("seed {seed}: they do not agree; expected {:?}", world.expected());
        };
        slowest = slowest.max(took);
        // And they stay so.
        world.run(world.now + Duration::from_secs(10));
        assert!(world.agree(), "seed {seed}: they agreed and then did not");
    }
    println!("the slowest took {slowest:?} after the last disturbance");
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
        let name = u8::try_from(round % 4).unwrap();
        world.change(place, name);
        let begin = world.now;
        let wire = key(0, name).name.as_wire().to_vec();
        let expected = world.expected()[&name].len();
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
