//! The simulated network and its nodes: events in the order of their times, and what each costs.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use redbreast::gossip::engine::{Bulk, Engine, MAX_STREAM_DELTA_LEN, Output};
use redbreast::gossip::peer::Peer;
use redbreast::store::{Attributes, Delta, Key, NodeId, Reader, SharedStore, Store};
use redbreast::wire::name::Name;

/// Names that are changed one by one.
pub(super) const NAMES: u16 = 6;

/// What a unit of the store's work costs: twice what a record takes on a machine of today.
const UNIT: Duration = Duration::from_nanos(2_000);
/// What a call into a node costs besides, and each datagram that comes of it.
const CALL: Duration = Duration::from_micros(20);
const SENDING: Duration = Duration::from_micros(5);
/// What one call may cost.
const MAX_TURN: Duration = Duration::from_millis(10);

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
pub(super) type Answers = BTreeSet<(Vec<u8>, bool)>;

/// A place in the network at which nodes live one after the other.
pub(super) struct Place {
    pub(super) engine: Option<Engine>,
    /// Which of the nodes that have lived here this is.
    pub(super) life: u64,
    pub(super) id: NodeId,
    pub(super) incarnation: u64,
    /// What the node has registered, which a restart with its data keeps.
    pub(super) registered: BTreeSet<u16>,
    /// What its tables have: what was answered to each name when it was last told to have changed.
    pub(super) published: BTreeMap<u16, Answers>,
    /// It does nothing until then.
    pub(super) paused_until: Duration,
    /// How many times longer everything takes it.
    pub(super) slowness: u32,
    /// When it is woken next.
    pub(super) wakes_at: Option<Duration>,
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) now: Duration,
    pub(super) rng: fastrand::Rng,
    pub(super) places: Vec<Place>,
    events: BinaryHeap<Reverse<(Duration, u64, usize)>>,
    queued: Vec<Option<Event>>,
    made: u64,
    /// Which side of a partition a place is on.
    pub(super) sides: Vec<u8>,
    /// Of a hundred datagrams from one place to another so many are lost.
    pub(super) loss: Vec<Vec<u8>>,
    pub(super) max_latency_ms: u64,
    /// Bytes sent in datagrams, by all.
    pub(super) sent_bytes: u64,
    /// Bytes sent over streams, by all.
    pub(super) stream_bytes: u64,
    /// What the dearest call into a node has cost.
    pub(super) longest_turn: Duration,
    /// Bytes that a node wanted to send at once at most.
    pub(super) most_buffered: usize,
    /// Names that are changed many at a time, behind those that are changed one by one.
    pub(super) bulk: u16,
    pub(super) names: HashMap<Vec<u8>, u16>,
}

pub(super) fn octets(place: usize) -> [u8; 2] {
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

pub(super) fn key(place: usize, name: u16) -> Key {
    let name_text = Name::from_text(&format!("n{name}.example")).unwrap();
    let ([upper, lower], [high, low]) = (name.to_be_bytes(), octets(place));
    Key::address("", &name_text, [10 + upper, lower, high, low].into())
}

pub(super) fn answers_of(store: &Store, wire: &[u8]) -> Answers {
    let found: Vec<_> =
        store.answers(wire).map(|answer| (answer.rdata.to_vec(), answer.standing.drained)).collect();
    let set: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(set.len(), found.len(), "an address twice: a ghost of an earlier self");
    set
}

impl World {
    pub(super) fn new(places: usize, seed: u64) -> Self {
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
            most_buffered: 0,
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

    pub(super) fn start(&mut self, at: usize, keeps_data: bool) {
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
    pub(super) fn wake(&mut self, place: usize, time: Duration) {
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

    pub(super) fn reaches(&self, from: usize, to: usize) -> bool {
        self.sides[from] == self.sides[to]
    }

    /// Runs until `end`.
    pub(super) fn run(&mut self, end: Duration) {
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
    pub(super) fn publish(&mut self, place: usize) {
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
    pub(super) fn act(&mut self, from: usize) {
        let mut sent = 0;
        let buffered = self.places[from].engine.as_ref().map_or(0, Engine::buffered);
        self.most_buffered = self.most_buffered.max(buffered);
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
}
