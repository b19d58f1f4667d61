//! What one packet and one publication cost, without the kernel: parse, lookup, answer, publish.
#![allow(missing_docs)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use redbreast::dataplane::access::Access;
use redbreast::dataplane::answer::{Answerer, Origin, Service};
use redbreast::dataplane::identity::Identity;
use redbreast::policy::rules::{Rules, Scope};
use redbreast::policy::{Order, Policy};
use redbreast::snapshot::Current;
use redbreast::store::{Attributes, Key, NodeId, Store};
use redbreast::table::{Publisher, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::name::{Name, QueryName};
use redbreast::wire::query::Query;
use redbreast::wire::response::{DEFAULT_UDP_LEN, Transport};

const NAMES: u16 = 10_000;
const BUFFER_LEN: usize = 1600;

fn name(text: &str) -> Name {
    Name::from_text(text).expect("a valid name")
}

fn fill() -> Store {
    let mut store = Store::new(NodeId([1; 16]), 1);
    let mut add = |host: &str, address: [u8; 4]| {
        let key = Key::address("", &name(&format!("{host}.redbreast.internal")), address.into());
        store.register(&key, &Attributes::default()).expect("short");
    };
    for i in 0..NAMES {
        let [high, low] = i.to_be_bytes();
        add(&format!("host-{i}"), [10, 0, high, low]);
    }
    (0..8).for_each(|i| add("eight", [10, 1, 0, i]));
    for order in Order::ALL {
        for i in 0..8u16 {
            let owner = name(&format!("{}.redbreast.internal", order.name()));
            let key = Key::address("", &owner, [10, 1, 0, i.to_be_bytes()[1]].into());
            store.register(&key, &Attributes::with_weight(1 + i % 3)).expect("short");
        }
    }
    store
}

fn publisher() -> Publisher {
    let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
    let mut publisher = Publisher::new(&[name("redbreast.internal")], settings);
    let mut rules = Rules::default();
    for order in Order::ALL {
        let owner = name(&format!("{}.redbreast.internal", order.name()));
        rules.set(&Scope::Name(owner.as_wire().into()), Policy { order, ..Policy::default() });
    }
    publisher.set_rules(rules);
    let mut store = fill();
    publisher.note(store.take_changed());
    publisher.publish(&store, usize::MAX);
    publisher
}

fn query(text: &str) -> Vec<u8> {
    [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name(text).as_wire(), b"\0\x01\0\x01"].concat()
}

fn hot_path(c: &mut Criterion) {
    let publisher = publisher();
    let table = publisher.current();
    let identity = Identity::new(None);
    let service = Arc::new(Service {
        access: Access::default(),
        forwarders: None,
        identity,
        rate_limit: 0,
        udp_len: DEFAULT_UDP_LEN,
        hands_over: false,
    });
    let origin = Origin {
        transport: Transport::Udp,
        client: IpAddr::from([10, 1, 0, 4]),
        now_s: 1_800_000_000,
        waited: false,
    };
    let mut answerer =
        Answerer::new(service, Current::new(Secrets::random()).reader(), fastrand::Rng::with_seed(1));
    let mut buffer = vec![0; BUFFER_LEN];

    for (label, asked) in [
        ("positive", "host-4711.redbreast.internal"),
        ("negative", "nobody-4711.redbreast.internal"),
        ("eight addresses", "eight.redbreast.internal"),
    ] {
        let packet = query(asked);
        let mut folded = QueryName::default();
        buffer[..packet.len()].copy_from_slice(&packet);
        c.bench_function(&format!("parse {label}"), |b| {
            b.iter(|| Query::parse(black_box(&buffer), packet.len(), &mut folded, table.seed()));
        });
        c.bench_function(&format!("lookup {label}"), |b| {
            b.iter(|| table.lookup(black_box(&folded)).is_some())
        });
        c.bench_function(&format!("answer {label}"), |b| {
            b.iter(|| {
                buffer[..packet.len()].copy_from_slice(black_box(&packet));
                answerer.answer(&table, &mut buffer, packet.len(), origin, |event| {
                    black_box(event);
                })
            });
        });
    }
    for order in Order::ALL {
        let packet = query(&format!("{}.redbreast.internal", order.name()));
        c.bench_function(&format!("answer eight addresses by {}", order.name()), |b| {
            b.iter(|| {
                buffer[..packet.len()].copy_from_slice(black_box(&packet));
                answerer.answer(&table, &mut buffer, packet.len(), origin, |event| {
                    black_box(event);
                })
            });
        });
    }
}

fn publish(c: &mut Criterion) {
    let mut publisher = publisher();
    let mut store = fill();
    let all = store.take_changed();
    c.bench_function("publish 10,000 names", |b| {
        b.iter(|| {
            publisher.note(all.clone());
            publisher.publish(&store, usize::MAX);
        });
    });
    let key = Key::address("", &name("host-4711.redbreast.internal"), [10, 0, 18, 103].into());
    let mut ttl_s = 0;
    c.bench_function("publish one of them", |b| {
        b.iter(|| {
            ttl_s += 1;
            store.register(&key, &Attributes::with_ttl_s(ttl_s)).expect("short");
            publisher.note(store.take_changed());
            publisher.publish(&store, usize::MAX);
        });
    });
}

criterion_group!(benches, hot_path, publish);
criterion_main!(benches);
