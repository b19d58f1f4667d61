//! Very many names at once over real sockets: seven nodes in one thread, and somebody who asks for all a hundred times.
//!
//! `BURST_NAMES=1000000` registers another number of names. Nothing hangs on a clock: work is counted in records, and
//! memory in bytes of buffers.
#![allow(missing_docs)]
#![allow(clippy::print_stdout)] // tests tell what they measured

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use redbreast::gossip::driver::Driver;
use redbreast::gossip::engine::Engine;
use redbreast::gossip::message::Message;
use redbreast::gossip::peer::Peer;
use redbreast::gossip::seal::Seal;
use redbreast::gossip::stream_seal::Side;
use redbreast::gossip::transport::GossipSockets;
use redbreast::store::{Attributes, Filling, Key, NodeId, SharedStore, Store, Want};
use redbreast::wire::name::Name;

const CLUSTER: &str = "bursts";

/// What a node may have in its buffers.
const MAX_BUFFERED: usize = 4 << 20;

/// Records that it may touch in one turn: 10 ms at two microseconds each.
const MAX_UNITS: u64 = 5_000;

/// It would be stuck.
const PATIENCE: Duration = Duration::from_secs(300);

fn name_count() -> u32 {
    std::env::var("BURST_NAMES").ok().and_then(|text| text.parse().ok()).unwrap_or(60_000)
}

fn key(number: u32) -> Key {
    let name = Name::from_text(&format!("n{number:07}.redbreast.internal")).unwrap();
    let [_, a, b, c] = number.to_be_bytes();
    Key::address("manual", &name, [10, a, b, c].into())
}

struct Node {
    driver: Driver,
    poll: mio::Poll,
    store: SharedStore,
    most_units: u64,
    most_buffered: usize,
}

impl Node {
    fn new(number: u8, seeds: &[SocketAddr]) -> Self {
        let poll = mio::Poll::new().unwrap();
        let transport =
            GossipSockets::bind(([127, 0, 0, 1], 0).into(), CLUSTER, None, poll.registry()).unwrap();
        let node = NodeId([number; 16]);
        let me = Peer {
            address: transport.address(),
            node,
            generation: 1 << 16,
            dns: None,
            name: format!("node-{number}").into(),
        };
        let store = SharedStore::new(Store::new(node, 1));
        let engine = Engine::new(me, store.clone(), seeds, fastrand::Rng::with_seed(number.into()));
        let driver = Driver::new(engine, Some(transport), poll.registry()).unwrap();
        Self { driver, poll, store, most_units: 0, most_buffered: 0 }
    }

    fn address(&self) -> SocketAddr {
        self.driver.address().unwrap()
    }

    /// One turn of the thread that has it, and one of those that make tables, if they come to it.
    fn turn(&mut self, publishes: bool) {
        let mut events = mio::Events::with_capacity(64);
        self.poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        for event in &events {
            self.driver.note(event);
        }
        self.driver.advance();
        self.most_units = self.most_units.max(self.store.read().take_work());
        self.most_buffered = self.most_buffered.max(self.driver.buffered());
        if publishes {
            self.store.write().take_changed();
        }
    }

    fn knows(&self, node: NodeId) -> usize {
        self.store.read().count(node)
    }

    fn members(&self) -> usize {
        self.driver.engine().membership().members().len()
    }

    /// Bytes that came in changes, or nearly: all but what membership takes.
    fn received(&self) -> u64 {
        let traffic = self.driver.traffic().unwrap();
        traffic.bytes_in + traffic.stream_bytes_in
    }
}

fn cluster(count: u8) -> Vec<Node> {
    let mut nodes = vec![Node::new(1, &[])];
    let seed = nodes[0].address();
    nodes.extend((2..=count).map(|number| Node::new(number, &[seed])));
    until(&mut nodes, |nodes| nodes.iter().all(|node| node.members() + 1 == nodes.len()));
    nodes
}

fn until(nodes: &mut [Node], is_so: impl Fn(&[Node]) -> bool) {
    let begin = Instant::now();
    let mut round = 0;
    while !is_so(nodes) {
        round += 1;
        nodes.iter_mut().enumerate().for_each(|(i, node)| node.turn(i != 3 || round % 20 == 0));
        assert!(begin.elapsed() < PATIENCE, "it does not come to an end");
    }
}

fn register(nodes: &mut [Node], count: u32) {
    for batch in (0..count).collect::<Vec<_>>().chunks(1_000) {
        {
            let mut store = nodes[0].store.write();
            for &number in batch {
                store.register(&key(number), &Attributes::default()).unwrap();
            }
            store.take_work();
        }
        nodes.iter_mut().for_each(|node| node.turn(true));
    }
}

fn check_bounds(nodes: &[Node]) {
    for node in nodes {
        assert!(node.most_buffered <= MAX_BUFFERED, "{} bytes in buffers", node.most_buffered);
        assert!(node.most_units <= MAX_UNITS, "{} records in one turn", node.most_units);
        assert_eq!(node.driver.engine().down().count(), 0, "somebody was taken for dead");
    }
}

#[test]
fn a_burst_of_names_is_at_all_peers_once_in_bounded_memory() {
    let count = name_count();
    let mut nodes = cluster(7);
    let before: Vec<_> = nodes.iter().map(Node::received).collect();
    let begin = Instant::now();
    register(&mut nodes, count);
    let me = NodeId([1; 16]);
    until(&mut nodes, |nodes| nodes.iter().all(|node| node.knows(me) == count as usize));
    let took = begin.elapsed();
    let mut whole = Vec::new();
    nodes[0].store.read().delta(me, 0, usize::MAX).unwrap().encode(&mut whole);
    for (node, before) in nodes.iter().zip(before).skip(1) {
        let ratio = (node.received() - before) as f64 / whole.len() as f64;
        println!(
            "{ratio:.2} of a whole sync; at most {} bytes, {} records a turn",
            node.most_buffered, node.most_units
        );
        assert!(ratio <= 1.3, "{ratio}");
    }
    println!(
        "{count} names at 6 peers after {took:?}; the origin: {} bytes, {} records a turn",
        nodes[0].most_buffered, nodes[0].most_units
    );
    check_bounds(&nodes);
}

#[test]
fn who_asks_for_all_a_hundred_times_costs_little_and_others_get_theirs() {
    let mut nodes = cluster(2);
    register(&mut nodes, 20_000);
    let (me, address) = (NodeId([1; 16]), nodes[0].address());
    until(&mut nodes, |nodes| nodes[1].knows(me) == 20_000);
    // They take nothing of what they have asked for.
    let request = Message::Want(vec![Want { origin: me, from: 0, changes: 20_001 }]).encode(NodeId([9; 16]));
    let greedy: Vec<_> = (0..100)
        .map(|_| {
            let mut frame = Vec::new();
            Seal::new(CLUSTER, None).stream(Side::Client).seal(&request, &mut frame);
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(&frame).unwrap();
            nodes.iter_mut().for_each(|node| node.turn(true));
            stream
        })
        .collect();
    for _ in 0..100 {
        nodes.iter_mut().for_each(|node| node.turn(true));
    }
    nodes.push(Node::new(3, &[address]));
    until(&mut nodes, |nodes| nodes[2].knows(me) == 20_000);
    assert!(nodes[0].driver.traffic().unwrap().streams_broken >= 90);
    check_bounds(&nodes);
    drop(greedy);
}

#[test]
fn who_is_left_alone_in_the_middle_of_a_burst_comes_to_rest() {
    let mut nodes = cluster(2);
    // The other one is gone when the burst is still being told.
    nodes.truncate(1);
    register(&mut nodes, 20_000);
    until(&mut nodes, |nodes| {
        let mut store = nodes[0].store.write();
        // Until it is taken for dead there is always something new to be told.
        store.register(&key(20_000), &Attributes::with_ttl_s(fastrand::u32(1..1_000))).unwrap();
        drop(store);
        nodes[0].members() == 0
    });
    let is_at_rest = |nodes: &[Node]| nodes[0].driver.timeout() > Duration::ZERO;
    until(&mut nodes, is_at_rest);
    for _ in 0..20 {
        nodes[0].turn(true);
        assert!(is_at_rest(&nodes), "there is nothing to do for anybody");
    }
}

#[test]
fn who_is_being_filled_gives_all_at_once_and_lets_nobody_wait_for_ever() {
    let mut nodes = cluster(2);
    let me = NodeId([1; 16]);
    // As with a names file of very many names: more than is told in datagrams.
    nodes[0].store.set_filling(Filling::UnderWay);
    for part in 0..10 {
        (part * 6_000..(part + 1) * 6_000)
            .for_each(|i| assert!(nodes[0].store.write().register(&key(i), &Attributes::default()).unwrap()));
        (0..20).for_each(|_| nodes.iter_mut().for_each(|node| node.turn(true)));
    }
    let told = nodes[1].knows(me);
    assert!(told < 30_000, "{told}: the rest is pulled when all is there");
    nodes[0].store.set_filling(Filling::No);
    until(&mut nodes, |nodes| nodes[1].knows(me) == 60_000);
    // One that is never said to be over holds nobody up for longer than a limit.
    nodes[0].store.set_filling(Filling::UnderWay);
    register(&mut nodes, 100_000);
    until(&mut nodes, |nodes| nodes[1].knows(me) == 100_000);
}
