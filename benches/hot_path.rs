//! What one packet and one publication cost, without the kernel: parse, lookup, answer, publish.
#![allow(missing_docs)]

use std::hint::black_box;
use std::net::IpAddr;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use redbreast::dataplane::access::Access;
use redbreast::dataplane::answer::{Answerer, Origin, Service};
use redbreast::dataplane::identity::Identity;
use redbreast::snapshot::Current;
use redbreast::table::{Contents, Publisher, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::name::{Name, QueryName};
use redbreast::wire::query::Query;
use redbreast::wire::response::{DEFAULT_UDP_LEN, Transport};

const NAMES: usize = 10_000;
const BUFFER_LEN: usize = 1600;

fn name(text: &str) -> Name {
    Name::from_text(text).expect("a valid name")
}

fn fill(publisher: &Publisher) -> Contents {
    let mut contents = publisher.contents();
    for i in 0..NAMES {
        let [_, _, high, low] = u32::try_from(i).expect("few names").to_be_bytes();
        contents.add_address(&name(&format!("host-{i}.redbreast.internal")), [10, 0, high, low].into());
    }
    for i in 1..=8 {
        contents.add_address(&name("eight.redbreast.internal"), [10, 1, 0, i].into());
    }
    contents
}

fn publisher() -> Publisher {
    let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
    let mut publisher = Publisher::new(&[name("redbreast.internal")], settings);
    publisher.publish(fill(&publisher)).expect("few records");
    publisher
}

fn query(text: &str) -> Vec<u8> {
    [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name(text).as_wire(), b"\0\x01\0\x01"].concat()
}

fn hot_path(c: &mut Criterion) {
    let publisher = publisher();
    let table = publisher.current();
    let identity = Identity::new(None);
    let service =
        Arc::new(Service { access: Access::default(), identity, rate_limit: 0, udp_len: DEFAULT_UDP_LEN });
    let origin =
        Origin { transport: Transport::Udp, client: IpAddr::from([127, 0, 0, 1]), now_s: 1_800_000_000 };
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
}

fn publish(c: &mut Criterion) {
    let mut publisher = publisher();
    c.bench_function("fill and publish 10,000 names", |b| {
        b.iter(|| {
            let contents = fill(&publisher);
            publisher.publish(contents).expect("few records");
        });
    });
}

criterion_group!(benches, hot_path, publish);
criterion_main!(benches);
