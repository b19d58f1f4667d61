//! What one packet and one publication cost, without the kernel: parse, lookup, answer, publish.
#![allow(missing_docs)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use dashmap::DashMap;
use foldhash::fast::RandomState;
use redbreast::answer::access::Access;
use redbreast::answer::answerer::Answerer;
use redbreast::answer::identity::Identity;
use redbreast::answer::metrics::Counters;
use redbreast::answer::service::Service;
use redbreast::answer::types::{Message, Origin, Turn};
use redbreast::policy::rules::{Rules, Scope};
use redbreast::policy::{Order, Policy};
use redbreast::resolver::cache::{Cache, Limits};
use redbreast::resolver::message::{Expected, read_answer};
use redbreast::resolver::query::{MAX_QUERY_LEN, QueryForm, write_query};
use redbreast::resolver::question::{Answer, Question};
use redbreast::resolver::sanitize::AnswerBuffer;
use redbreast::store::{Attributes, Key, NodeId, Store};
use redbreast::sys::published::Current;
use redbreast::table::{Publisher, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::name::{HashSeed, Name, QueryName};
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
        offloads: false,
    });
    let origin = Origin { transport: Transport::Udp, client: IpAddr::from([10, 1, 0, 4]), deferred: false };
    let mut answerer =
        Answerer::new(service, Current::new(Secrets::random()).reader(), fastrand::Rng::with_seed(1));
    let mut buffer = vec![0; BUFFER_LEN];
    let counters = Counters::default();
    let turn = Turn { table: &table, counters: &counters, now_s: 1_800_000_000 };

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
                let message = Message { buffer: &mut buffer, len: packet.len() };
                answerer.answer(&turn, message, origin)
            });
        });
    }
    for order in Order::ALL {
        let packet = query(&format!("{}.redbreast.internal", order.name()));
        c.bench_function(&format!("answer eight addresses by {}", order.name()), |b| {
            b.iter(|| {
                buffer[..packet.len()].copy_from_slice(black_box(&packet));
                let message = Message { buffer: &mut buffer, len: packet.len() };
                answerer.answer(&turn, message, origin)
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

/// Asking an upstream, and taking what it answers.
fn upstream(c: &mut Criterion) {
    let asked = name("www.example.com");
    let asked = asked.as_wire();
    let question =
        Question { name: asked, name_hash: 1, qtype: 1, dnssec_ok: false, checking_disabled: false };
    let mut buffer = [0; MAX_QUERY_LEN];
    let manner = QueryForm { edns: true, case_bits: Some([0x5555; 4]), passed_by: &[4711], is_padded: false };
    c.bench_function("write a query to an upstream", |b| {
        b.iter(|| write_query(&mut buffer, 0x1234, black_box(&question), &manner));
    });

    let header = |answers: u8, authorities: u8, rcode: u8| {
        let header = [0x12, 0x34, 0x81, 0x80 | rcode, 0, 1, 0, answers, 0, authorities, 0, 1];
        [&header[..], asked, b"\0\x01\0\x01"].concat()
    };
    let address = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
    let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x06\x03cdn\xc0\x10";
    let target = b"\xc0\x2d\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x01";
    let soa = b"\xc0\x10\0\x06\0\x01\0\0\0\x3c\0\x1d\x02ns\xc0\x10\x01h\xc0\x10\0\0\0\x01\0\0\0\x01\
                \0\0\0\x01\0\0\0\x01\0\0\0\x3c";
    let opt = b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
    for (label, message) in [
        ("one address", [&header(1, 0, 0)[..], address, opt].concat()),
        ("four addresses", [&header(4, 0, 0)[..], &address.repeat(4), opt].concat()),
        ("an alias and two addresses", [&header(3, 0, 0)[..], alias, target, target, opt].concat()),
        ("that there is no such name", [&header(0, 1, 3)[..], soa, opt].concat()),
    ] {
        let expected = Expected {
            id: 0x1234,
            question,
            sent_name: asked,
            exact_case: true,
            over_stream: false,
            edns: true,
            before: &[],
        };
        let mut out = AnswerBuffer::default();
        assert_eq!(read_answer(&message, &expected, |_| true, &mut out), Ok(()), "{label}");
        assert!(out.answer().ttl_s == 60, "{label}");
        c.bench_function(&format!("take from an upstream {label}"), |b| {
            b.iter(|| read_answer(black_box(&message), &expected, |_| true, &mut out));
        });
    }
}

/// The names of so many questions: by Zipf's law, the `k`-th of them is asked for `1 / k` as often as the first.
fn popular_names(names: u16, questions: usize) -> Vec<QueryName> {
    let mut random = fastrand::Rng::with_seed(1);
    let seed = HashSeed::random();
    let mut sum = 0.0;
    let sums: Vec<f64> = (1..=names)
        .map(|rank| {
            sum += 1.0 / f64::from(rank);
            sum
        })
        .collect();
    let mut hosts: Vec<_> = (0..names).collect();
    random.shuffle(&mut hosts);
    let drawn = std::iter::repeat_with(|| {
        let drawn = random.f64() * sum;
        let rank = sums.partition_point(|&sum| sum <= drawn).min(sums.len() - 1);
        QueryName::from_name(&name(&format!("host-{}.example", hosts[rank])), seed)
    });
    drawn.take(questions).collect()
}

fn question(name: &[u8], name_hash: u64) -> Question<'_> {
    Question { name, name_hash, qtype: 1, dnssec_ok: false, checking_disabled: false }
}

/// What the resolver's cache costs a query, beside a map that all workers would share.
fn cache(c: &mut Criterion) {
    let asked = popular_names(NAMES, 100_000);
    let records = b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\x0a\0\0\x01";
    let answer = Answer {
        rcode: 0,
        authenticated: false,
        answers: 1,
        authorities: 0,
        ttl_s: 300,
        records,
        ttls_at: b"\0\x06",
    };
    let mut cache = Cache::new(Limits::default());
    let shared = DashMap::<Box<[u8]>, Box<[u8]>, RandomState>::default();
    for name in &asked {
        cache.insert(&question(name.as_wire(), name.hash()), &answer, 0);
        shared.insert(name.as_wire().into(), records.as_slice().into());
    }
    let mut buffer = [0; 16];
    let mut names = asked.iter().cycle();
    c.bench_function("find one of 10,000 cached answers", |b| {
        b.iter(|| {
            let name = names.next().expect("endless");
            let found = cache.find(&question(name.as_wire(), name.hash()), 1).expect("it was kept");
            buffer.copy_from_slice(found.answer.records);
            black_box(&buffer);
        });
    });
    c.bench_function("find the same in a dashmap", |b| {
        b.iter(|| {
            let name = names.next().expect("endless");
            let found = shared.get(name.as_wire()).expect("it was kept");
            buffer.copy_from_slice(&found);
            black_box(&buffer);
        });
    });
    let mut number = 0_u64;
    c.bench_function("keep one more in a full cache", |b| {
        b.iter(|| {
            number += 1;
            let bytes = [b"\x08", &number.to_be_bytes()[..], b"\0"].concat();
            let name_hash = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            cache.insert(&question(&bytes, name_hash), &answer, 1);
        });
    });
}

criterion_group!(benches, hot_path, publish, upstream, cache);
criterion_main!(benches);
