//! The limits: those in the documents are those of the program, and what a peer of an earlier release sends keeps
//! within them.
#![allow(missing_docs)]

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use redbreast::gossip::message::Message;
use redbreast::limits::{self, MAX_RECORD_SETS};
use redbreast::store::{Applied, Attributes, Key, NodeId, Store};
use redbreast::table::{Publisher, Table, ZoneSettings};
use redbreast::wire::name::Name;
use redbreast::wire::record::rtype;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A limit as a number: times in milliseconds.
trait Value {
    fn value(&self) -> u64;
}

macro_rules! numbers {
    ($($number:ty),*) => { $(impl Value for $number {
        fn value(&self) -> u64 {
            u64::from(*self)
        }
    })* };
}

numbers!(u8, u16, u32);

impl Value for u64 {
    fn value(&self) -> u64 {
        *self
    }
}

impl Value for usize {
    fn value(&self) -> u64 {
        *self as u64
    }
}

impl Value for Duration {
    fn value(&self) -> u64 {
        self.as_millis().try_into().unwrap()
    }
}

macro_rules! values {
    ($($name:ident)*) => { BTreeMap::from([$((stringify!($name), limits::$name.value())),*]) };
}

/// All limits by name. Seconds are told in milliseconds, as all times.
fn values() -> BTreeMap<&'static str, u64> {
    let mut values = values![
        MAX_RECORD_SETS MAX_SET_LEN MAX_RDATA_LEN MAX_INSTANCE_LEN MAX_ATTRIBUTES_LEN MAX_CHECK_LEN MAX_RECORD_LEN
        MAX_TTL_S MAX_ADDRESSES MAX_WEIGHT MAX_TIER RAMP_STEPS MAX_ADDITIONS MAX_UPDATE_RECORDS MAX_FILE_LEN
        MAX_LINE_LEN DEFAULT_UDP_LEN MIN_UDP_LEN MAX_UDP_LEN MAX_ALIASES MAX_ADDITIONAL MAX_DOMAINS MAX_WORKERS
        STOP_TIMEOUT SETTLE_TIMEOUT SOCKET_BUFFER_LEN BATCHES_PER_TURN BATCHES_BESIDE_OUTCOMES LOOKS_PER_GLANCE
        MAX_TOGETHER RATE_LIMIT_NETWORKS
        ROTATIONS MAX_TCP_CONNECTIONS MAX_TCP_CONNECTIONS_PER_CLIENT TCP_IDLE_TIMEOUT TCP_SLOW_TIMEOUT TCP_OUTPUT_LEN
        MAX_OUTSTANDING MAX_HANDED_OVER MAX_TRANSFERS MAX_UPSTREAMS MAX_FORWARDS DEFAULT_CACHE_BYTES MIN_CACHE_BYTES
        MAX_CACHE_BYTES CACHE_PART_LEN DEFAULT_MAX_TTL_S DEFAULT_MAX_NEGATIVE_TTL_S DEFAULT_NEGATIVE_TTL_S
        MAX_NEGATIVE_TTL_S MAX_MIN_TTL_S DEFAULT_MAX_STALE_S MAX_KEPT_S
        MAX_QUESTIONS MAX_WAITERS MAX_SENT MAX_TRIES MAX_STREAM_TRIES MAX_STREAM_TRIES_BESIDE MAX_STREAMS_ENDED
        RETRIES_PER_S MAX_OPEN_FOR_STREAM RECHECKS_PER_S UPSTREAM_PORTS
        UPSTREAM_PORT_AGE OLD_UPSTREAM_PORT_AGE UPSTREAM_STREAMS UPSTREAM_QUEUE_LEN MAX_QUIC_STREAMS QUIC_WINDOW_LEN
        UPSTREAM_PARTIAL_LEN
        UPSTREAM_HTTPS_REQUESTS UPSTREAM_HTTPS_LEN UPSTREAM_HTTPS_HEADER_LEN
        STEPS_PER_TURN ATTEMPTS_PER_TURN ATTEMPTS_PER_QUERY MAX_UNSENT MAX_UNTOLD
        MAX_UPSTREAM_RECORDS MAX_UPSTREAM_ALIASES MAX_ALIAS_QUESTIONS MAX_EXPIRING QUERIES_PER_TURN DEFAULT_TIMEOUT_MS
        MIN_TIMEOUT_MS
        MAX_TIMEOUT_MS MAX_ASKED_NAMES MAX_ASKING MAX_GATHERED DEFAULT_CACHE_ENTRIES MAX_PEERS MIN_CHECK_INTERVAL
        MAX_CHECK_INTERVAL MIN_CHECK_TIMEOUT MAX_STREAK MAX_CHECKS MAX_CHECK_PROGRAMS MAX_BODY_LEN
        MAX_CONTROL_CONNECTIONS MAX_REQUESTS_PER_S MAX_WATCH_EVENTS MAX_IN_FLIGHT MAX_ORIGINS MAX_FOREIGN_LEN
        MAX_CHANGES
        MAX_STATEMENT_COUNT MAX_INCARNATION MIN_TOMBSTONES TOMBSTONE_AGE MAX_MESSAGE_LEN MAX_GOSSIP_DATAGRAM_LEN
        MAX_NODE_NAME_LEN GOSSIP_BYTES_PER_TURN STREAM_BYTES_PER_TURN MAX_SERVED_OF_ONE MAX_CHANGED SWEEP_STEPS
        CHANGE_DATAGRAMS
        CHANGE_DATAGRAMS_OF_ALL CHANGE_DATAGRAM_PERIOD MAX_CONTROL_WAITING MAX_REQUESTS_WAITING MAX_RESULTS_WAITING
        MAX_BATCHES_WAITING MAX_BATCH_OPERATIONS MAX_LISTED MAX_SUBSCRIBERS MAX_SERVED_STREAMS MAX_FETCHED_STREAMS
        STREAM_REQUEST_TIME
        STREAM_STALL FILLING_WAIT MAX_FRAME_LEN MAX_REQUEST_LEN MAX_STREAM_DELTA_LEN MAX_SEEDS PUBLICATION_PERIOD
        PUBLICATION_CREDIT
        PUBLICATION_SHARE BATCH_LEN BUFFER_LEN MAX_PASSED_BY
    ];
    for (name, value) in &mut values {
        *value *= if name.ends_with("_S") && !name.ends_with("_PER_S") { 1_000 } else { 1 };
    }
    values
}

/// The numbers in a cell of a table: with their units, times in milliseconds.
fn numbers(text: &str) -> Vec<u64> {
    let text = text.replace("2³¹ − 1", "2147483647").replace("2⁴⁸", "281474976710656");
    let words: Vec<_> = text.split([' ', ';', '(', ')', ':']).filter(|word| !word.is_empty()).collect();
    let number = |word: &str| word.trim_end_matches(',').replace(',', "").parse::<u64>().ok();
    let unit = |word: Option<&&str>| match word.map(|word| word.trim_end_matches(',')) {
        Some("KiB") => 1 << 10,
        Some("MiB") => 1 << 20,
        Some("GiB") => 1 << 30,
        Some("s") => 1_000,
        Some("minutes") => 60_000,
        Some("h") => 3_600_000,
        Some("day" | "days") => 86_400_000,
        _ => 1,
    };
    let numbered = words.iter().enumerate().filter_map(|(i, word)| Some((i, number(word)?)));
    numbered.map(|(i, number)| number * unit(words.get(i + 1))).collect()
}

/// The rows of the tables of limits in a document: their limits, and the constants that they name.
fn rows(file: &str) -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(root().join(file)).unwrap();
    let table = text.split("# Limits, each a named constant\n").nth(1).unwrap_or_else(|| panic!("{file}"));
    let rows = table.split("\n## ").next().unwrap().lines().filter(|line| line.starts_with('|')).skip(2);
    let constants = |cell: &str| {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(|word| word.trim_start_matches("limits::").to_owned())
            .collect()
    };
    let row = |line: &str| {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        (cells[2].to_owned(), constants(cells[3]))
    };
    rows.map(row).filter(|(limit, _)| !limit.is_empty()).collect()
}

#[test]
fn limits_in_the_documents_are_those_of_the_program() {
    let values = values();
    let mut documented = Vec::new();
    for file in ["docs/limits.md", "docs/gossip.md"] {
        for (limit, constants) in rows(file) {
            let expected: Vec<_> = constants
                .iter()
                .map(|it| {
                    *values.get(&**it).unwrap_or_else(|| panic!("{file}: {it} is not in src/limits.rs"))
                })
                .collect();
            assert_eq!(numbers(&limit), expected, "{file}: {limit:?} has the limits {constants:?}");
            documented.extend(constants);
        }
    }
    let missing: Vec<_> = values.keys().filter(|name| !documented.iter().any(|it| it == *name)).collect();
    assert!(missing.is_empty(), "in no table of limits: {missing:?}");
}

#[test]
fn each_limit_is_checked_and_says_what_it_is() {
    let text = fs::read_to_string(root().join("src/limits.rs")).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let values = values();
    for (i, line) in lines.iter().enumerate() {
        if let Some(name) = line.strip_prefix("pub const ").and_then(|rest| rest.split(':').next()) {
            assert!(values.contains_key(name), "{name} is not among the values of tests/limits.rs");
            assert!(lines[i - 1].starts_with("/// "), "{name} does not say what it is");
        }
    }
}

/// The frames that a node of revision f86da14 has sent after its zone file had been given 300 types at `many.example`;
/// before that it had forty neighbours, each an address. Messages as they are before they are sealed, each behind its
/// length.
fn recorded() -> Vec<Message> {
    let bytes = fs::read(root().join("tests/data/changes-of-300-types.bin")).unwrap();
    let mut rest = &bytes[..];
    let mut messages = Vec::new();
    while let Some((len, after)) = rest.split_first_chunk() {
        let (message, after) = after.split_at(u16::from_be_bytes(*len).into());
        messages.push(Message::decode(message).unwrap().1.unwrap());
        rest = after;
    }
    messages
}

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

fn types(table: &Table, text: &str) -> Vec<u16> {
    table.get(&name(text)).unwrap().sets().filter(|set| set.count > 0).map(|set| set.rtype).collect()
}

/// What has to hold of a table that has these records, and the address or the text of this node.
fn assert_sound(table: &Table, own: Option<u16>) {
    for i in 0..40 {
        assert_eq!(types(table, &format!("near{i}.example")), [rtype::A], "{i}");
    }
    let many = types(table, "many.example");
    assert_eq!(many.len(), MAX_RECORD_SETS);
    let expected: Vec<_> = own.into_iter().chain(65_000..).take(MAX_RECORD_SETS).collect();
    assert_eq!(many, expected, "the lowest types are answered");
    let all = table.names_of(&name("example")).map(|(_, entry)| entry.sets().count()).sum::<usize>();
    assert!(all > 40 + MAX_RECORD_SETS, "copies of the zone have all names: {all}");
}

#[test]
fn a_peer_of_an_earlier_release_with_300_types_at_one_name_harms_no_neighbour() {
    for whole in [false, true] {
        let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
        let mut publisher = Publisher::new(&[name("example")], settings);
        let mut store = Store::new(NodeId([1; 16]), 1);
        let mut publish = |store: &mut Store, whole: bool| {
            publisher.note(store.take_changed());
            match whole {
                true => publisher.publish_whole(store, 2),
                false => publisher.publish(store, usize::MAX),
            }
            (publisher.current(), publisher.crowded().clone())
        };
        for message in recorded() {
            let Message::Changes { delta, .. } = message else { panic!("{message:?}") };
            assert_eq!(store.apply(&delta), Applied::News);
            let (table, _) = publish(&mut store, whole);
            assert!(table.get(&name("near7.example")).is_some());
        }
        let (table, crowded) = publish(&mut store, whole);
        assert_sound(&table, None);
        let many = name("many.example");
        assert_eq!(crowded.names().collect::<Vec<_>>(), [(many.as_wire(), 300 - MAX_RECORD_SETS)]);
        // What this node registers there is answered by what its type is, as everywhere.
        let key = Key::address("own", &many, [10, 0, 0, 1].into());
        store.register(&key, &Attributes::default()).unwrap();
        let (table, crowded) = publish(&mut store, whole);
        assert_sound(&table, Some(rtype::A));
        assert_eq!(crowded.records(), 301 - MAX_RECORD_SETS);
        // When the peer goes all is as if it had never been.
        let peer = store.all().find(|(origin, ..)| *origin != NodeId([1; 16])).unwrap().0;
        store.forget(peer);
        store.settle();
        let (table, crowded) = publish(&mut store, whole);
        assert_eq!(types(&table, "many.example"), [rtype::A]);
        assert!(crowded.is_empty() && table.get(&name("near7.example")).is_none());
    }
}

#[test]
fn more_names_of_one_address_than_an_answer_can_carry_harm_no_neighbour() {
    let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
    let mut publisher = Publisher::new(&[name("example")], settings);
    let mut store = Store::new(NodeId([1; 16]), 1);
    // Each in a registration of its own, so that no way in sees that they are too many for one reverse name.
    let count = 4_000;
    for i in 0..count {
        let key = Key::address("i", &name(&format!("n{i}.example")), [10, 0, 0, 1].into());
        store.register(&key, &Attributes::default()).unwrap();
    }
    publisher.note(store.take_changed());
    publisher.publish(&store, usize::MAX);
    let table = publisher.current();
    let pointers = table.get(&name("1.0.0.10.in-addr.arpa")).unwrap().get(rtype::PTR).unwrap();
    assert!(pointers.records.len() <= limits::MAX_SET_LEN);
    assert_eq!(usize::from(pointers.count) + publisher.crowded().records(), count);
    assert!((0..count).all(|i| table.get(&name(&format!("n{i}.example"))).is_some()));
    store.remove(|record| record.name != name("n7.example").as_wire());
    publisher.note(store.take_changed());
    publisher.publish(&store, usize::MAX);
    assert!(publisher.crowded().is_empty());
}
