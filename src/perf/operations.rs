//! The operations whose instructions are counted: what is done for each query or change, without the kernel.
//!
//! Runs on the main thread of a process of its own, under valgrind. Nothing here depends on the time, on addresses or
//! on random numbers that differ from run to run, as far as that can be had.

use std::collections::VecDeque;
use std::hint::black_box;
use std::io::{self, ErrorKind, Read, Write};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::answer::access::Access;
use crate::answer::answerer::Answerer;
use crate::answer::identity::Identity;
use crate::answer::metrics::Counters;
use crate::answer::service::Service;
use crate::answer::types::{Message, Origin, Turn, Verdict};
use crate::query_time::cache::Cache;
use crate::query_time::{Gathered, PeerLookup};
use crate::resolver::Resolver;
use crate::resolver::cache::Limits;
use crate::resolver::question::{Answer, Question};
use crate::resolver::routes::Routes;
use crate::store::{Attributes, Delta, Key, NodeId, Store, encode};
use crate::sys::mmsg::BATCH_LEN;
use crate::sys::published::Current;
use crate::table::{MAX_TOGETHER, Publisher, ZoneSettings};
use crate::transport::connection::{Buffers, Connection};
use crate::transport::responder::Disposition;
use crate::wire::cookie::Secrets;
use crate::wire::name::{HashSeed, Name, QueryName};
use crate::wire::response::{DEFAULT_UDP_LEN, Transport};

const DOMAIN: &str = "redbreast.internal";

/// Names of the table that is asked, and of the one that is changed.
const NAMES: u32 = 10_000;
const MANY_NAMES: u32 = 1_000_000;

const SEED: HashSeed = HashSeed::from_words(0x7265_6462_7265_6173, 0x5bd1_e995_9e37_79b9);

const BUFFER_LEN: usize = 1600;

/// Changes of one delta: about as many as a datagram has.
const CHANGES: u8 = 16;

/// An operation that is ready to be done.
pub struct Prepared {
    work: Box<dyn FnMut()>,
    /// How many queries or changes one call is.
    per_call: u32,
}

/// Names of the operations, and how they are prepared.
type Preparation = fn(calls: u32) -> Prepared;
const OPERATIONS: [(&str, Preparation); 8] = [
    ("answer-positive", |_| answers(AskedBy::Positive)),
    ("answer-negative", |_| answers(AskedBy::Negative)),
    ("answer-eight", |_| answers(AskedBy::Eight)),
    ("answer-tcp", |_| tcp_answers()),
    ("answer-cached", |_| answers(AskedBy::Cached)),
    ("answer-forwarded", |_| answers(AskedBy::Forwarded)),
    ("publish-one", |_| publications()),
    ("merge-delta", merges),
];

/// What can be counted.
#[must_use]
pub fn names() -> Vec<&'static str> {
    OPERATIONS.iter().map(|(name, _)| *name).collect()
}

/// Prepares an operation and does it in so many calls. Returns how many queries or changes that were, or `None` if
/// there is no such operation.
#[must_use]
pub fn perform(name: &str, calls: u32) -> Option<u64> {
    let (_, prepare) = OPERATIONS.iter().find(|(known, _)| *known == name)?;
    let mut prepared = prepare(calls);
    counted(&mut *prepared.work, calls);
    Some(u64::from(calls) * u64::from(prepared.per_call))
}

/// Does the work. Valgrind counts while this function runs, which it finds by its name.
#[inline(never)]
fn counted(work: &mut dyn FnMut(), calls: u32) {
    for _ in 0..calls {
        work();
    }
}

fn name(text: &str) -> Name {
    Name::from_text(text).expect("a valid name")
}

fn label(i: u32) -> String {
    format!("host-{i:07}.{DOMAIN}")
}

/// A store with so many names, and one that has eight addresses, and who publishes them.
fn world(names: u32) -> (Store, Publisher) {
    let mut store = Store::with_fixed_hashes(NodeId([1; 16]), 1);
    let of = |owner: &str, address: [u8; 4]| {
        encode(&Key::address("", &name(owner), address.into()), &Attributes::default())
    };
    let many = (0..names).map(|i| of(&label(i), (0x0a00_0000 + i).to_be_bytes()));
    let eight = (0..8).map(|i| of(&format!("eight.{DOMAIN}"), [192, 0, 2, i]));
    let all: Vec<_> = many.chain(eight).collect();
    store.load(&all.iter().map(|bytes| &**bytes).collect::<Vec<_>>(), 1);
    let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
    let mut publisher = Publisher::with_seed(&[name(DOMAIN)], settings, SEED);
    publisher.publish_whole(&store, 1);
    (store, publisher)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum AskedBy {
    Positive,
    Negative,
    Eight,
    Cached,
    Forwarded,
}

impl AskedBy {
    /// The queries of a batch.
    fn queries(self) -> Vec<Vec<u8>> {
        let owner = |i: u32| match self {
            Self::Positive => label(i * 151),
            Self::Negative => format!("nobody-{i:05}.{DOMAIN}"),
            Self::Eight => format!("eight.{DOMAIN}"),
            Self::Cached => format!("cached-{i:05}.{DOMAIN}"),
            Self::Forwarded => format!("cached-{i:05}.example"),
        };
        let count = u32::try_from(BATCH_LEN).expect("some dozens");
        (0..count).map(|i| query(&name(&owner(i)))).collect()
    }
}

fn query(name: &Name) -> Vec<u8> {
    [b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0", name.as_wire(), b"\0\x01\0\x01"].concat()
}

fn answerer() -> Answerer {
    let service = Service {
        access: Access::default(),
        forwarders: None,
        identity: Identity::new(None),
        rate_limit: 0,
        udp_len: DEFAULT_UDP_LEN,
        offloads: false,
    };
    Answerer::new(Arc::new(service), Current::new(Secrets::random()).reader(), fastrand::Rng::with_seed(1))
}

/// Seconds since 1970 at which all is answered.
const NOW_S: u32 = 1_800_000_000;

fn origin(transport: Transport) -> Origin {
    Origin { transport, client: IpAddr::from([127, 0, 0, 1]), deferred: false }
}

/// A batch of datagrams, as a worker answers it.
fn answers(asked: AskedBy) -> Prepared {
    let table = world(NAMES).1.current();
    let queries = asked.queries();
    let (mut answerer, counters) = (answerer(), Counters::default());
    if asked == AskedBy::Cached {
        let cache = Arc::new(Cache::with_fixed_hashes(NAMES as usize));
        for query in &queries {
            let mut gathered = Gathered::default();
            gathered.add_answer();
            gathered.add(1, 30, &[192, 0, 2, 1]);
            cache.insert(&query[12..query.len() - 4], gathered.answer(1), 0);
        }
        answerer.set_peers(PeerLookup::new(Some(cache)));
    } else if asked == AskedBy::Forwarded {
        answerer.set_resolver(resolver(&queries, table.seed()));
    }
    let mut buffers = vec![[0u8; BUFFER_LEN]; queries.len()];
    let work = move || {
        for (buffers, queries) in buffers.chunks_mut(MAX_TOGETHER).zip(queries.chunks(MAX_TOGETHER)) {
            for (i, (buffer, query)) in buffers.iter_mut().zip(queries).enumerate() {
                buffer[..query.len()].copy_from_slice(query);
                answerer.prefetch(&table, i, (buffer, query.len()));
            }
            let found = answerer.look_up(&table, queries.len());
            let turn = Turn { table: &table, counters: &counters, now_s: NOW_S };
            for (i, (buffer, query)) in buffers.iter_mut().zip(queries).enumerate() {
                let message = Message { buffer, len: query.len() };
                let verdict = answerer.answer_prefetched((i, &found), &turn, message, origin(Transport::Udp));
                assert!(matches!(verdict, Verdict::Reply { .. }), "every query is answered");
            }
        }
    };
    Prepared { work: Box::new(work), per_call: per_call() }
}

/// One that has an address for each of what is asked, and nobody to ask for more.
fn resolver(queries: &[Vec<u8>], seed: HashSeed) -> Resolver {
    let mut resolver = Resolver::new(Current::new(Routes::default()).reader(), Limits::default(), 1);
    let records = b"\xc0\x0c\0\x01\0\x01\0\0\x0e\x10\0\x04\xc0\0\x02\x01";
    let (answers, ttl_s, ttls_at) = (1, 3_600, &[0, 6]);
    let answer = Answer { rcode: 0, authenticated: false, answers, authorities: 0, ttl_s, records, ttls_at };
    let mut folded = QueryName::default();
    for query in queries {
        folded.fold_wire(&query[12..query.len() - 4], seed).expect("a valid name");
        let (name, name_hash) = (folded.as_wire(), folded.hash());
        let question = Question { name, name_hash, qtype: 1, dnssec_ok: false, checking_disabled: false };
        resolver.cache().insert(&question, &answer, 0);
    }
    resolver.set_time(1);
    resolver
}

fn per_call() -> u32 {
    u32::try_from(BATCH_LEN).expect("some dozens")
}

/// A client that has sent as many queries as a batch has, and takes all answers.
struct Pipelining {
    queries: Vec<u8>,
    unread: VecDeque<()>,
    taken: usize,
}

impl Read for Pipelining {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.unread.pop_front().ok_or(ErrorKind::WouldBlock)?;
        room[..self.queries.len()].copy_from_slice(&self.queries);
        Ok(self.queries.len())
    }
}

impl Write for Pipelining {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.taken += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tcp_answers() -> Prepared {
    let table = world(NAMES).1.current();
    let queries: Vec<u8> = AskedBy::Positive
        .queries()
        .into_iter()
        .flat_map(|query| {
            let len = u16::try_from(query.len()).expect("short");
            [&len.to_be_bytes(), &query[..]].concat()
        })
        .collect();
    let (mut answerer, counters) = (answerer(), Counters::default());
    let mut buffers = Buffers::default();
    let now = Instant::now();
    let work = move || {
        let stream = Pipelining { queries: queries.clone(), unread: VecDeque::from([()]), taken: 0 };
        let mut connection = Connection::new(stream, now);
        let turn = Turn { table: &table, counters: &counters, now_s: NOW_S };
        connection.take_turn(&mut buffers, now, |message| {
            match answerer.answer(&turn, message, origin(Transport::Tcp)) {
                Verdict::Reply { len } => Disposition::Send { len },
                other => panic!("every query is answered, not {other:?}"),
            }
        });
    };
    Prepared { work: Box::new(work), per_call: per_call() }
}

/// One name of a million changes, and is published.
fn publications() -> Prepared {
    let (mut store, mut publisher) = world(MANY_NAMES);
    let key = Key::address("", &name(&label(4_711)), [10, 0, 18, 103].into());
    let mut ttl_s = 0;
    let work = move || {
        ttl_s += 1;
        store.register(&key, &Attributes::with_ttl_s(ttl_s)).expect("short");
        publisher.note(store.take_changed());
        publisher.publish(&store, usize::MAX);
    };
    Prepared { work: Box::new(work), per_call: 1 }
}

/// What another node has changed is merged, a datagram at a time.
fn merges(calls: u32) -> Prepared {
    let mut origin = Store::with_fixed_hashes(NodeId([2; 16]), 1);
    let mut from = 0;
    let mut deltas: VecDeque<Delta> = (0..=calls)
        .map(|call| {
            for i in 0..CHANGES {
                let key = Key::address("", &name(&label(i.into())), [192, 0, 2, i].into());
                origin.register(&key, &Attributes::with_ttl_s(call + 1)).expect("short");
            }
            let delta = origin.delta(NodeId([2; 16]), from, usize::MAX).expect("there are changes");
            from = delta.to;
            delta
        })
        .collect();
    let mut store = world(NAMES).0;
    store.apply(&deltas.pop_front().expect("the first, which brings the names"));
    let work = move || {
        let delta = deltas.pop_front().expect("one for each call");
        black_box(store.apply(&delta));
        black_box(store.take_changed());
    };
    Prepared { work: Box::new(work), per_call: CHANGES.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_can_be_performed() {
        for name in names().into_iter().filter(|name| *name != "publish-one") {
            assert!(perform(name, 3).is_some_and(|done| done >= 3), "{name}");
        }
        assert_eq!(perform("nothing", 1), None);
    }
}
