//! The bytes that are laid out by hand: what is written at a limit is read as it was written, and one past it is
//! refused or left out.
#![allow(missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::select;
use redbreast::gossip::cipher::Rejected;
use redbreast::gossip::message::Message;
use redbreast::gossip::seal::Seal;
use redbreast::gossip::stream_seal::Side;
use redbreast::limits::{
    MAX_ADDRESSES, MAX_ATTRIBUTES_LEN, MAX_CHANGES, MAX_CHECK_LEN, MAX_FRAME_LEN, MAX_INCARNATION,
    MAX_INSTANCE_LEN, MAX_RDATA_LEN, MAX_RECORD_LEN, MAX_RECORD_SETS, MAX_SET_LEN, MAX_WEIGHT, RAMP_STEPS,
};
use redbreast::policy::steering::{self, Steering};
use redbreast::store::{
    Applied, Attributes, Delta, Key, Malformed, NodeId, Reader, Record, Store, encode, put_bytes, put_varint,
};
use redbreast::table::{Publisher, Table, ZoneSettings};
use redbreast::wire::name::Name;
use redbreast::wire::record::FIXED_LEN;

const PEER: NodeId = NodeId([2; 16]);

fn name(text: &str) -> Name {
    Name::from_text(text).unwrap()
}

/// Numbers around a limit, and small ones.
fn around(limit: usize) -> impl Strategy<Value = usize> {
    select(vec![0, 1, limit / 2, limit - 1, limit, limit + 1, limit + 2])
}

/// A name that has so many bytes on the wire, up to 255.
fn name_of(len: usize) -> Name {
    let labels: Vec<_> = (0..len / 64).map(|_| "x".repeat(63)).collect();
    let rest = (len % 64).saturating_sub(2);
    let last = (rest > 0).then(|| "y".repeat(rest));
    name(&labels.into_iter().chain(last).collect::<Vec<_>>().join("."))
}

proptest! {
    #[test]
    fn registrations(
        instance in around(MAX_INSTANCE_LEN),
        rdata in around(MAX_RDATA_LEN),
        owner in select(vec![3usize, 64, 66, 127, 254, 255]),
        rtype in select(vec![3u16, 127, 128, 254, 255, 256, 16_383, 16_384, u16::MAX]),
        check in around(MAX_CHECK_LEN),
        later in around(MAX_ATTRIBUTES_LEN - 3),
    ) {
        let rdata = vec![7; rdata].into();
        let key = Key { instance: "i".repeat(instance).into(), name: name_of(owner), rtype, rdata };
        let is_sound = instance <= MAX_INSTANCE_LEN && key.rdata.len() <= MAX_RDATA_LEN;
        prop_assert_eq!(key.check().is_ok(), is_sound);
        let bytes = encode(&key, &Attributes::default());
        let expected = if is_sound { Ok(key.clone()) } else { Err(Malformed) };
        prop_assert_eq!(Record::read(&bytes).map(|record| record.to_key()), expected);
        // A check that is longer than this release's are is kept as one of a later release, and is none here.
        let mut attributes = Attributes::with_ttl_s(5);
        attributes.check = Some("c".repeat(check).into());
        let checked = encode(&key, &attributes);
        let read = Record::read(&checked).and_then(|record| record.attributes());
        let expected = if is_sound { Ok(checked) } else { Err(&Malformed) };
        prop_assert_eq!(read.as_ref().map(|read| encode(&key, read)), expected);
        let kept = attributes.check.filter(|check| is_sound && check.len() <= MAX_CHECK_LEN);
        prop_assert_eq!(read.ok().and_then(|read| read.check), kept);
        // An attribute of a later release, with its kind and its length in front.
        let mut bytes = bytes.to_vec();
        let before = bytes.len();
        put_varint(&mut bytes, 31);
        put_bytes(&mut bytes, &vec![9; later]);
        let fits = is_sound && bytes.len() - before <= MAX_ATTRIBUTES_LEN;
        prop_assert_eq!(Record::read(&bytes).is_ok(), fits);
        prop_assert!(!fits || bytes.len() <= MAX_RECORD_LEN);
    }

    #[test]
    fn deltas(
        incarnation in select(vec![1, MAX_INCARNATION - 1, MAX_INCARNATION, u64::MAX]),
        head in select(vec![1, 2, 300, MAX_CHANGES - 1, MAX_CHANGES, u64::MAX]),
        rdata in around(MAX_RDATA_LEN),
    ) {
        let key = Key { instance: "i".into(), name: name("web.example"), rtype: 9, rdata: vec![7; rdata].into() };
        let record = encode(&key, &Attributes::default());
        let change = [&[1], &record[..]].concat();
        let mut bytes = PEER.0.to_vec();
        // Incarnation, floor, from, the length of the range, what comes after it, one change at its end.
        [incarnation, 0, 0, head, 0, 1, head].into_iter().for_each(|number| put_varint(&mut bytes, number));
        put_bytes(&mut bytes, &change);
        let decoded = Delta::decode(&mut Reader(&bytes));
        let is_sound = incarnation < MAX_INCARNATION && head < MAX_CHANGES && rdata <= MAX_RDATA_LEN;
        prop_assert_eq!(decoded.is_ok(), is_sound);
        if let Ok(delta) = decoded {
            let mut again = Vec::new();
            delta.encode(&mut again);
            prop_assert_eq!(again, bytes);
            let mut store = Store::new(NodeId([1; 16]), 1);
            prop_assert_eq!(store.apply(&delta), Applied::News);
            let owner = key.name.clone();
            prop_assert_eq!(store.answers(owner.as_wire()).count(), 1);
            let (origin, _, number, _) = store.named_numbered(owner.as_wire()).next().unwrap();
            prop_assert_eq!((origin, number), (PEER, head));
            prop_assert_eq!(store.delta(PEER, head - 1, 1), store.delta(PEER, head - 1, usize::MAX));
        }
    }

    #[test]
    fn shares(number in any::<u16>(), shares in select(vec![0u16, 1, 2, 255, u16::MAX])) {
        let mut store = Store::new(PEER, 1);
        let key = Key::address("i", &name("web.example"), [10, 0, 0, 1].into());
        store.register(&key, &Attributes::default()).unwrap();
        let delta = store.delta(PEER, 0, 1_000).unwrap();
        let number = if number % 2 == 0 { number } else { shares.wrapping_add(number % 5).wrapping_sub(3) };
        let message = Message::Changes { delta, share: (number, shares) };
        let decoded = Message::decode(&message.encode(PEER));
        let is_sound = number < shares || (number, shares) == (0, 0);
        prop_assert_eq!(decoded, if is_sound { Ok((PEER, Some(message))) } else { Err(Malformed) });
    }
}

#[test]
fn frames() {
    for by in [-2, -1, 0, 1, 2] {
        let seal = Seal::new("x", None);
        let (mut client, mut server) = (seal.stream(Side::Client), seal.stream(Side::Server));
        let mut frame = Vec::new();
        client.seal(b"", &mut frame);
        let before = frame.len() - 4;
        let plain = vec![7; MAX_FRAME_LEN.checked_add_signed(by).unwrap() - before];
        let (mut client, mut frame) = (seal.stream(Side::Client), Vec::new());
        client.seal(&plain, &mut frame);
        let len = frame.len();
        let expected = if by > 0 { Err(Rejected::TooLong) } else { Ok(Some((plain, len))) };
        assert_eq!(server.open(&mut frame), expected, "{by}");
    }
}

#[test]
fn steered_addresses() {
    let most = u32::from(MAX_WEIGHT) * u32::from(RAMP_STEPS);
    for count in [2, 255, 256, MAX_ADDRESSES - 1, MAX_ADDRESSES] {
        let weights = vec![most; count];
        let mut bytes = Vec::new();
        steering::write(&"weighted".parse().unwrap(), &weights, &mut bytes);
        assert_eq!(bytes.len(), steering::len(count));
        let read = Steering::read(&bytes).unwrap();
        assert!(read.weights().eq(weights), "the sum of {count} weights has 32 bits");
        let mut rng = fastrand::Rng::with_seed(1);
        assert!((0..100).all(|_| read.draw(0..count, &mut rng) < count));
    }
}

/// A name's records by type, and how many are left out, as `limits` says it.
fn expected(records: &BTreeSet<(u16, Vec<u8>)>) -> (BTreeMap<u16, Vec<Vec<u8>>>, usize) {
    let mut sets: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    for (rtype, rdata) in records {
        sets.entry(*rtype).or_default().push(rdata.clone());
    }
    while sets.len() > MAX_RECORD_SETS {
        sets.pop_last();
    }
    for set in sets.values_mut() {
        set.sort_by_key(|rdata| (rdata.len(), rdata.clone()));
        let mut len = 0;
        let fitting = set.iter().take_while(|rdata| {
            len += FIXED_LEN + rdata.len();
            len <= MAX_SET_LEN
        });
        let fitting = fitting.count();
        set.truncate(fitting);
    }
    let left_out = records.len() - sets.values().map(Vec::len).sum::<usize>();
    (sets, left_out)
}

fn answered(table: &Table, name: &Name) -> BTreeMap<u16, Vec<Vec<u8>>> {
    let sets = table.get(name).unwrap().sets();
    sets.map(|set| (set.rtype, set.each().map(|record| record[FIXED_LEN..].to_vec()).collect())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn tables(
        types in select(vec![1u16, 2, 127, 128, 253, 254, 255, 256, 257, 300, 510, 511, 512]),
        of_one in select(vec![1usize, 2, 14, 15, 16, 17]),
        rdata_len in select(vec![2usize, 1_000, MAX_RDATA_LEN - 1, MAX_RDATA_LEN]),
        origins in 1u8..4,
        whole in any::<bool>(),
    ) {
        let many = name("many.example");
        let mut stores: Vec<_> = (1..=origins).map(|id| Store::new(NodeId([id; 16]), 1)).collect();
        let mut records = BTreeSet::new();
        for i in 0..types {
            // One type has several, of the length that is asked for.
            let (count, len) = if i == types / 2 { (of_one, rdata_len) } else { (1, 2) };
            for k in 0..count {
                let mut rdata = vec![7; len];
                rdata[..2].copy_from_slice(&u16::try_from(k).unwrap().to_be_bytes());
                records.insert((1_000 + i, rdata.clone()));
                let key = Key { instance: "i".into(), name: many.clone(), rtype: 1_000 + i, rdata: rdata.into() };
                stores[usize::from(i) % usize::from(origins)].register(&key, &Attributes::default()).unwrap();
            }
        }
        let near: Vec<_> = (0..100).map(|i| name(&format!("near{i}.example"))).collect();
        for name in &near {
            let key = Key::address("i", name, [10, 0, 0, 1].into());
            stores[0].register(&key, &Attributes::default()).unwrap();
        }
        let mut own = stores.remove(0);
        for store in &stores {
            own.apply(&store.delta(store.me(), 0, usize::MAX).unwrap());
        }
        let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
        let mut publisher = Publisher::new(&[name("example")], settings);
        if whole {
            publisher.publish_whole(&own, 1);
        } else {
            publisher.note(own.take_changed());
            publisher.publish(&own, usize::MAX);
        }
        let table = publisher.current();
        let (sets, left_out) = expected(&records);
        prop_assert_eq!(answered(&table, &many), sets);
        prop_assert_eq!(publisher.crowded().records(), left_out);
        for name in &near {
            prop_assert_eq!(answered(&table, name), BTreeMap::from([(1, vec![vec![10, 0, 0, 1]])]));
        }
        prop_assert_eq!(table.names_of(&name("example")).count(), 100 + 2, "all names, and the apex");
    }
}

/// What is published often, of a table with many names, stands in an overlay until there is time.
#[test]
fn an_overlay_holds_a_name_at_its_limits() {
    let many = name("many.example");
    let settings = ZoneSettings { ttl_s: 1, negative_ttl_s: 1 };
    let mut publisher = Publisher::new(&[name("example")], settings);
    let mut store = Store::new(NodeId([1; 16]), 1);
    let address =
        |i: u32, last: u8| Key::address("i", &name(&format!("n{i}.example")), [10, 0, 0, last].into());
    // All have one address, which so many names cannot be led back to.
    let mut attributes = Attributes::with_ttl_s(5);
    attributes.no_pointer = true;
    (0..8_000).for_each(|i| assert!(store.register(&address(i, 1), &attributes).unwrap()));
    publisher.publish_whole(&store, 1);
    store.take_changed();
    for (round, types) in [253u16, 254, 255, 256, 300, 254, 0, 512].into_iter().enumerate() {
        store.remove(|record| record.name == many.as_wire());
        for i in 0..types {
            let key =
                Key { instance: "i".into(), name: many.clone(), rtype: 1_000 + i, rdata: [7; 2].into() };
            store.register(&key, &Attributes::default()).unwrap();
        }
        let last = u8::try_from(round).unwrap() + 2;
        (0..100).for_each(|i| assert!(store.register(&address(i, last), &attributes).unwrap()));
        publisher.note(store.take_changed());
        publisher.publish(&store, usize::MAX);
        assert!(!publisher.is_settled(), "it stands in the overlay");
        let table = publisher.current();
        let sets = table.get(&many).map_or(0, |entry| entry.sets().count());
        assert_eq!(sets, usize::from(types).min(MAX_RECORD_SETS), "{types}");
        assert_eq!(publisher.crowded().records(), usize::from(types).saturating_sub(MAX_RECORD_SETS));
        assert!((0..8_000).all(|i| table.get(&name(&format!("n{i}.example"))).is_some()));
        while !publisher.is_settled() {
            publisher.publish(&store, usize::MAX);
        }
        let table = publisher.current();
        assert_eq!(table.get(&many).map_or(0, |entry| entry.sets().count()), sets, "{types}, settled");
    }
}
