//! Answers by policy, as the one function that answers makes them: bytes in, bytes out.
#![allow(missing_docs)]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::RData;
use redbreast::answer::access::Access;
use redbreast::answer::answerer::Answerer;
use redbreast::answer::identity::Identity;
use redbreast::answer::metrics::Counters;
use redbreast::answer::service::Service;
use redbreast::answer::types::{self, Origin, Turn, Verdict};
use redbreast::policy::rules::{Rules, Scope};
use redbreast::policy::select::Health;
use redbreast::store::{Attributes, Key, NodeId, ObservedState, Store, Target, encode};
use redbreast::sys::published::Current;
use redbreast::table::{Publisher, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::name::Name;
use redbreast::wire::record::rtype;
use redbreast::wire::response::{DEFAULT_UDP_LEN, Transport};

const CLIENT: [u8; 4] = [10, 0, 0, 2];

fn name(text: &str) -> Name {
    Name::from_text(&format!("{text}.redbreast.internal")).unwrap()
}

struct World {
    store: Store,
    publisher: Publisher,
    rules: Rules,
    answerer: Answerer,
}

impl World {
    /// A server that believes forwarders in 10.0.0.0/24.
    fn new() -> Self {
        let service = Service {
            access: Access::new(["0.0.0.0/0".parse().unwrap()]),
            forwarders: Some(Access::new(["10.0.0.0/24".parse().unwrap()])),
            identity: Identity::new(None),
            rate_limit: 0,
            udp_len: DEFAULT_UDP_LEN,
            offloads: false,
        };
        let domains = [Name::from_text("redbreast.internal").unwrap()];
        let secrets = Current::new(Secrets::random());
        Self {
            store: Store::new(NodeId([1; 16]), 1),
            publisher: Publisher::new(&domains, ZoneSettings { ttl_s: 1, negative_ttl_s: 1 }),
            rules: Rules::default(),
            answerer: Answerer::new(Arc::new(service), secrets.reader(), fastrand::Rng::with_seed(2)),
        }
    }

    fn add(&mut self, owner: &str, address: [u8; 4], attributes: &Attributes) {
        self.store.register(&Key::address("c", &name(owner), address.into()), attributes).unwrap();
    }

    fn policy(&mut self, owner: &str, policy: &str) {
        self.rules.set(&Scope::Name(name(owner).as_wire().into()), policy.parse().unwrap());
    }

    fn publish(&mut self) {
        self.publisher.set_rules(self.rules.clone());
        self.store.settle();
        self.publisher.note(self.store.take_changed());
        self.publisher.publish(&self.store, usize::MAX);
        // What is made at once is the same.
        let by_changes: Vec<_> = self.sets();
        self.publisher.publish_whole(&self.store, 1);
        assert_eq!(by_changes, self.sets());
    }

    fn sets(&self) -> Vec<(u16, Vec<u8>, Vec<u8>)> {
        let table = self.publisher.current();
        let mut all: Vec<_> = self.store.all().map(|(.., record)| record.to_key().name).collect();
        all.dedup();
        let sets = all.iter().flat_map(|name| table.get(name).unwrap().sets());
        sets.map(|set| (set.count, set.records.to_vec(), set.steering.to_vec())).collect()
    }

    /// Asks for addresses, with these bytes behind the question as an OPT record's.
    fn ask_with(&mut self, owner: &str, opt: &[u8], client: [u8; 4], transport: Transport) -> Message {
        let mut packet =
            [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name(owner).as_wire(), b"\0\x01\0\x01", opt].concat();
        packet[11] = u8::from(!opt.is_empty());
        let len = packet.len();
        packet.resize(65_535, 0);
        let origin = Origin { transport, client: client.into(), deferred: false };
        let (table, counters) = (self.publisher.current(), Counters::default());
        let turn = Turn { table: &table, counters: &counters, now_s: 1_800_000_000 };
        match self.answerer.answer(&turn, types::Message { buffer: &mut packet, len }, origin) {
            Verdict::Reply { len } => Message::from_vec(&packet[..len]).expect("hickory reads what we write"),
            other => panic!("{other:?}"),
        }
    }

    fn ask(&mut self, owner: &str) -> Vec<u8> {
        last_bytes(&self.ask_with(owner, b"", CLIENT, Transport::Udp))
    }
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    let address = |data: &RData| match data {
        RData::A(v4) => v4.0,
        other => panic!("unexpected {other}"),
    };
    message.answers.iter().map(|record| address(&record.data)).collect()
}

fn last_bytes(message: &Message) -> Vec<u8> {
    addresses(message).iter().map(|address| address.octets()[3]).collect()
}

/// An OPT record with a client subnet option of IPv4.
fn subnet(source_len: u8, scope: u8, address: &[u8]) -> Vec<u8> {
    let len = u8::try_from(address.len()).unwrap();
    [&b"\0\0\x29\x04\xd0\0\0\0\0\0"[..], &[8 + len, 0, 8, 0, 4 + len, 0, 1, source_len, scope], address]
        .concat()
}

#[test]
fn over_a_million_queries_each_address_has_its_share() {
    let mut world = World::new();
    for (policy, weighted) in [("shuffle", false), ("rotate", false), ("weighted", true), ("rfc6724", true)] {
        world.policy(policy, policy);
        for i in 3..8u8 {
            world.add(policy, [10, 0, 0, i], &Attributes::with_weight(i.into()));
        }
        world.publish();
        let mut first: HashMap<u8, u32> = HashMap::new();
        (0..1_000_000).for_each(|_| *first.entry(world.ask(policy)[0]).or_default() += 1);
        for i in 3..8u8 {
            let share = if weighted { f64::from(i) / 25.0 } else { 0.2 };
            let seen = f64::from(first[&i]) / 1e6;
            assert!((seen - share).abs() < 0.005, "{policy}, {i}: {seen}, expected {share}");
        }
    }
}

#[test]
fn of_a_thousand_addresses_a_datagram_has_the_first_and_a_fair_part_and_tcp_has_all() {
    const ROUNDS: usize = 40_000;
    let mut world = World::new();
    world.policy("many", "weighted");
    for i in 0..1_000u16 {
        let [high, low] = i.to_be_bytes();
        // One has as much as all others together.
        let weight = if i == 500 { 999 } else { 1 };
        world.add("many", [10, 1, high, low], &Attributes::with_weight(weight));
    }
    world.publish();
    let heavy = Ipv4Addr::new(10, 1, 1, 244);
    let (mut first, mut seen): (usize, HashMap<Ipv4Addr, usize>) = (0, HashMap::new());
    let mut room = 0;
    for _ in 0..ROUNDS {
        let answer = world.ask_with("many", b"", CLIENT, Transport::Udp);
        assert!(answer.metadata.truncation);
        let found = addresses(&answer);
        room = found.len();
        first += usize::from(found[0] == heavy);
        found[1..]
            .iter()
            .filter(|address| **address != heavy)
            .for_each(|address| *seen.entry(*address).or_default() += 1);
    }
    assert_eq!(room, (512 - 12 - name("many").as_wire().len() - 4) / 16);
    assert!(first.abs_diff(ROUNDS / 2) < ROUNDS / 50, "{first}");
    // Each of the others is behind the first as often as any: a thousand times and more, by chance some more or less.
    let expected = ROUNDS * (room - 1) / 1_000;
    let fair = seen.values().filter(|count| count.abs_diff(expected) < expected / 4).count();
    assert_eq!((seen.len(), fair), (999, 999));
    let all = world.ask_with("many", b"", CLIENT, Transport::Tcp);
    assert!(!all.metadata.truncation);
    assert_eq!(all.answers.len(), 1_000);
}

#[test]
fn what_is_not_wanted_is_not_missed() {
    let mut world = World::new();
    (1..9).for_each(|i| world.add("web", [10, 0, 0, i], &Attributes::default()));
    for (policy, count) in [("shuffle,answers=one", 1), ("near,answers=3", 3), ("fixed,answers=9", 8)] {
        world.policy("web", policy);
        world
            .store
            .register(&Key::address("x", &name("web"), [10, 0, 0, 1].into()), &Attributes::with_ttl_s(7))
            .unwrap();
        world.publish();
        let answer = world.ask_with("web", b"", CLIENT, Transport::Udp);
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (count, false), "{policy}");
        world.store.remove(|record| record.instance() == "x");
    }
}

#[test]
fn the_unhealthy_and_the_drained_are_in_no_answer_and_none_is_an_answer_too() {
    let mut world = World::new();
    (1..4).for_each(|i| world.add("web", [10, 0, 0, i], &Attributes::default()));
    let key = |i: u8| encode(&Key::address("c", &name("web"), [10, 0, 0, i].into()), &Attributes::default());
    world.store.set_state(&key(1), ObservedState { health: Health::Down, ramp: None });
    world.publish();
    let sorted = |mut found: Vec<u8>| {
        found.sort_unstable();
        found
    };
    assert_eq!(sorted(world.ask("web")), [2, 3]);
    let drain = |world: &mut World, i: u8, value: Option<&[u8]>| {
        world.store.take_changed();
        let bytes = world.store.statements().say(&Target::Address([10, 0, 0, i].into()), value);
        world.store.register_encoded(&bytes);
        world.publish();
    };
    drain(&mut world, 2, Some(b"1"));
    assert_eq!(sorted(world.ask("web")), [3]);
    drain(&mut world, 3, Some(b"1"));
    assert_eq!(sorted(world.ask("web")), [1], "with none that is healthy those that are not are tried");
    drain(&mut world, 1, Some(b"1"));
    let answer = world.ask_with("web", b"", CLIENT, Transport::Udp);
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(answer.authorities.len(), 1, "a negative answer has the SOA record");
    drain(&mut world, 2, None);
    assert_eq!(sorted(world.ask("web")), [2]);
    assert_eq!(world.publisher.current().names(), 1 + 3 + 1, "the name, its three pointers, the apex");
}

#[test]
fn only_the_forwarders_that_are_believed_say_for_whom_they_ask() {
    let mut world = World::new();
    world.policy("web", "near");
    [[10, 0, 0, 1], [172, 16, 0, 1], [192, 0, 2, 1]]
        .iter()
        .for_each(|address| world.add("web", *address, &Attributes::default()));
    (1..3).for_each(|i| world.add("plain", [10, 0, 0, i], &Attributes::default()));
    world.publish();
    let first = |world: &mut World, owner: &str, opt: &[u8], client| {
        let answer = world.ask_with(owner, opt, client, Transport::Udp);
        let edns = answer.edns.clone().unwrap();
        let told = edns.options().as_ref().iter().find_map(|(_, option)| match option {
            hickory_proto::rr::rdata::opt::EdnsOption::Subnet(subnet) => {
                Some((subnet.addr(), subnet.source_prefix(), subnet.scope_prefix()))
            }
            _ => None,
        });
        (addresses(&answer).first().copied(), told)
    };
    let net = IpAddr::from([172, 16, 7, 0]);
    let opt = subnet(24, 0, &[172, 16, 7]);
    let near = Some(Ipv4Addr::new(172, 16, 0, 1));
    assert_eq!(first(&mut world, "web", &opt, CLIENT), (near, Some((net, 24, 24))));
    assert_eq!(first(&mut world, "plain", &opt, CLIENT).1, Some((net, 24, 0)), "the same for all");
    let own = Some(Ipv4Addr::new(192, 0, 2, 1));
    assert_eq!(first(&mut world, "web", &opt, [192, 0, 2, 9]), (own, None), "not believed");
    // Who tells nothing of its client gets what is for anybody.
    let anybody = first(&mut world, "web", &subnet(0, 0, &[]), CLIENT);
    assert_eq!(anybody.1, Some(([0, 0, 0, 0].into(), 0, 0)));
    for wrong in [subnet(24, 24, &[172, 16, 7]), subnet(20, 0, &[172, 16, 7]), subnet(24, 0, &[172, 16])] {
        let answer = world.ask_with("web", &wrong, CLIENT, Transport::Udp);
        assert_eq!(answer.metadata.response_code, ResponseCode::FormErr);
    }
}

#[test]
fn an_alias_leads_to_addresses_by_the_policy_of_the_name_that_has_them() {
    let mut world = World::new();
    world.policy("web", "fixed,answers=2");
    for i in 1..6u8 {
        world.add("web", [10, 0, 0, i], &Attributes::with_weight(i.into()));
    }
    let key = Key {
        instance: "c".into(),
        name: name("alias"),
        rtype: rtype::CNAME,
        rdata: name("web").as_wire().into(),
    };
    world.store.register(&key, &Attributes::default()).unwrap();
    world.publish();
    assert_eq!(world.ask("web"), [5, 4]);
    let answer = world.ask_with("alias", b"", CLIENT, Transport::Udp);
    let found: Vec<_> = answer.answers[1..].iter().map(|record| record.data.to_string()).collect();
    assert_eq!(found, ["10.0.0.5", "10.0.0.4"]);
}
