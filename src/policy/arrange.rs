//! The order of the addresses in an answer.
//!
//! Runs on the workers, for every answer with addresses: pure and allocation-free.

use std::ops::Range;

use super::Order;
use super::addresses::Addresses;
use super::client::Client;
use super::rendezvous::rendezvous;
use super::steering::Steering;

/// Copies as many of `records` as fit into `out`, in random order.
///
/// Every order is equally likely, and where not all fit every subset is: the forward form of the Fisher-Yates shuffle
/// puts each new record at a random place among those before it and moves the one from there to the end; past the end
/// of `out` it goes on as reservoir sampling (Vitter's algorithm R), with the same bounds for its random numbers.
#[inline]
pub fn shuffle<'a, const LEN: usize>(
    rng: &mut fastrand::Rng,
    mut records: impl Iterator<Item = &'a [u8; LEN]>,
    out: &mut [[u8; LEN]],
) {
    let (Some(to), Some(first)) = (out.first_mut(), records.next()) else { return };
    *to = *first;
    for (before, record) in (1u32..).zip(records) {
        let (place, end) = (rng.u32(..=before) as usize, before as usize);
        if end < out.len() {
            out[end] = out[place];
        }
        if let Some(to) = out.get_mut(place) {
            *to = *record;
        }
    }
}

/// How often a worker has answered each name with rotated addresses: by the name's hash, so that some names share a
/// count.
struct Rotations([u32; Rotations::COUNT]);

impl Rotations {
    const COUNT: usize = crate::limits::ROTATIONS;

    /// None so far; the first answers begin anywhere.
    fn new(rng: &mut fastrand::Rng) -> Self {
        let mut counts = [0; Self::COUNT];
        counts.fill_with(|| rng.u32(..));
        Self(counts)
    }

    #[inline]
    fn next(&mut self, name_hash: u64) -> usize {
        #[allow(clippy::cast_possible_truncation)] // ten bits
        let count = &mut self.0[(name_hash >> 54) as usize % Self::COUNT];
        *count = count.wrapping_add(1);
        *count as usize
    }
}

/// What a worker draws orders with.
pub struct Chance {
    /// Where they come from.
    pub rng: fastrand::Rng,
    rotations: Rotations,
}

impl Chance {
    /// All of it from this generator.
    #[must_use]
    pub fn new(mut rng: fastrand::Rng) -> Self {
        let rotations = Rotations::new(&mut rng);
        Self { rng, rotations }
    }
}

/// The addresses of one answer: which, and how they are put in order.
pub struct Arrangement<'a, const LEN: usize> {
    addresses: Addresses<'a, LEN>,
    steering: Steering<'a>,
    plan: Plan,
    wanted: usize,
}

enum Plan {
    Shuffle,
    /// In turn, from this one on.
    From(usize),
    /// This one first, then all but some in random order.
    First {
        winner: usize,
        skip: Range<usize>,
    },
    /// In turn from this one on, but for the second, which these bits say.
    Hash {
        winner: usize,
        bits: u64,
    },
    Near(Client),
}

impl<'a, const LEN: usize> Arrangement<'a, LEN> {
    /// Chooses among `records`, those of a name with this hash, for a client, who is looked at by some orders alone.
    #[inline]
    #[must_use]
    pub fn new(
        steering: Steering<'a>,
        records: &'a [[u8; LEN]],
        name_hash: u64,
        client: impl FnOnce() -> Client,
        chance: &mut Chance,
    ) -> Self {
        let Chance { rng, rotations } = chance;
        let addresses = Addresses(records);
        let count = records.len();
        let (plan, eligible) = match steering.order {
            Order::Shuffle => (Plan::Shuffle, count),
            Order::Fixed => (Plan::From(0), count),
            Order::Rotate => (Plan::From(rotations.next(name_hash) % count.max(1)), count),
            Order::Hash => {
                let bits = client().hash();
                (Plan::Hash { winner: rendezvous(addresses.folded(), steering, bits), bits }, count)
            }
            Order::Rfc6724 => behind_winner(addresses, steering, client(), rng),
            Order::Near => match addresses.comparable(client()) {
                Some(client) => (Plan::Near(client), count),
                None => (weighted(steering, count, rng), count),
            },
            Order::Weighted => (weighted(steering, count, rng), count),
        };
        let wanted = if steering.answers == 0 { eligible } else { eligible.min(steering.answers) };
        Self { addresses, steering, plan, wanted }
    }

    /// How many addresses the answer is to have.
    #[inline]
    #[must_use]
    pub fn wanted(&self) -> usize {
        self.wanted
    }

    /// Writes as many as fit in `out`, the first of them at its beginning.
    #[inline]
    pub fn write(&self, rng: &mut fastrand::Rng, out: &mut [[u8; LEN]]) {
        let Self { addresses, plan, .. } = self;
        let records = addresses.0;
        match plan {
            Plan::Shuffle => shuffle(rng, records.iter(), out),
            Plan::From(start) => in_turn(records, *start, out),
            Plan::First { winner, skip } => {
                among(*addresses, 0..records.len(), *winner, skip.clone(), rng, out);
            }
            Plan::Hash { winner, bits } => {
                in_turn(records, *winner, out);
                second_by(*bits, records, *winner, out);
            }
            Plan::Near(client) => self.write_near(client, rng, out),
        }
    }

    /// From where the client's own address would stand addresses share ever less with it on both sides, and all that
    /// share the same number of bits stand side by side: on one side, or, where no more bits are known, on both.
    fn write_near(&self, client: &Client, rng: &mut fastrand::Rng, out: &mut [[u8; LEN]]) {
        let addresses = self.addresses;
        let at = addresses.partition(|address| address < client.address());
        let mut taken = at..at;
        let mut rest = out;
        // Nobody stands beyond the ends.
        const NOBODY: i32 = -1;
        let common = |i: usize| match addresses.0.get(i) {
            #[allow(clippy::cast_possible_wrap)] // 128 at most
            Some(_) => client.common(addresses.bits(i)) as i32,
            None => NOBODY,
        };
        let (mut left, mut right) = (common(at.wrapping_sub(1)), common(at));
        while !rest.is_empty() && left.max(right) > NOBODY {
            let (bits, begin) = (left.max(right), taken.clone());
            while left == bits {
                taken.start -= 1;
                left = common(taken.start.wrapping_sub(1));
            }
            while right == bits {
                taken.end += 1;
                right = common(taken.end);
            }
            // What is new of them stands on one side of what was taken, or nothing was.
            let group = if taken.start < begin.start && !begin.is_empty() {
                taken.start..begin.start
            } else if begin.is_empty() {
                taken.clone()
            } else {
                begin.end..taken.end
            };
            let (here, after) = rest.split_at_mut(group.len().min(rest.len()));
            if let ([only], [to]) = (addresses.0.get(group.clone()).unwrap_or_default(), &mut *here) {
                *to = *only;
            } else {
                let winner = self.steering.draw(group.clone(), rng);
                among(addresses, group, winner, 0..0, rng, here);
            }
            rest = after;
        }
    }
}

/// All in turn, from the one at `start` on.
#[inline]
fn in_turn<const LEN: usize>(records: &[[u8; LEN]], start: usize, out: &mut [[u8; LEN]]) {
    let (before, from) = records.split_at(start);
    let (first, rest) = out.split_at_mut(from.len().min(out.len()));
    first.copy_from_slice(&from[..first.len()]);
    rest.copy_from_slice(&before[..rest.len()]);
}

/// Of those in turn after the `winner`, puts the one that `bits` say in second place: so the clients of one address
/// spread over all others when that fails them.
#[inline]
fn second_by<const LEN: usize>(bits: u64, records: &[[u8; LEN]], winner: usize, out: &mut [[u8; LEN]]) {
    if out.len() < 2 || records.len() <= 2 {
        return;
    }
    let others = records.len() - 1;
    #[allow(clippy::cast_possible_truncation)] // below the number of others
    let place = 1 + ((u128::from(bits) * others as u128) >> 64) as usize;
    if place < out.len() {
        out.swap(1, place);
    } else if let Some(record) = records.get((winner + place) % records.len()) {
        out[1] = *record;
    }
}

/// The `winner`, and behind it the others of those `within` a range, but those in `skip`.
#[inline]
fn among<const LEN: usize>(
    addresses: Addresses<'_, LEN>,
    within: Range<usize>,
    winner: usize,
    skip: Range<usize>,
    rng: &mut fastrand::Rng,
    out: &mut [[u8; LEN]],
) {
    // Where all of them fit they are put in order where they go.
    if skip.is_empty() && out.len() == within.len() {
        out.copy_from_slice(addresses.0.get(within.clone()).unwrap_or_default());
        let place = winner.saturating_sub(within.start).min(out.len().saturating_sub(1));
        out.swap(0, place);
        for i in 2..out.len() {
            #[allow(clippy::cast_possible_truncation)] // a set has some thousand records at most
            out.swap(i, rng.u32(1..=i as u32) as usize);
        }
        return;
    }
    let Some((first, rest)) = out.split_first_mut() else { return };
    if let Some(record) = addresses.0.get(winner) {
        *first = *record;
    }
    if rest.is_empty() {
    } else if skip.is_empty() {
        shuffle(rng, addresses.others(within, winner), rest);
    } else {
        let (before, after) = (within.start..skip.start, skip.end..within.end);
        shuffle(rng, addresses.others(before, winner).chain(addresses.others(after, winner)), rest);
    }
}

#[inline]
fn weighted(steering: Steering<'_>, count: usize, rng: &mut fastrand::Rng) -> Plan {
    Plan::First { winner: steering.draw(0..count, rng), skip: 0..0 }
}

/// The first by weight, and which others a client would not put before it: those whose common prefix with its address
/// is no longer (RFC 6724 §6, rule 9). Without knowing that address, the first has to go alone.
#[inline]
fn behind_winner<const LEN: usize>(
    addresses: Addresses<'_, LEN>,
    steering: Steering<'_>,
    client: Client,
    rng: &mut fastrand::Rng,
) -> (Plan, usize) {
    let count = addresses.0.len();
    let winner = steering.draw(0..count, rng);
    let skip = match addresses.comparable(client) {
        None => 0..count,
        Some(client) => {
            let common = client.common(addresses.bits(winner));
            // Where no more bits are known, who shares all of them may be nearer.
            addresses.sharing(&client, (common + 1).min(client.bits()))
        }
    };
    let skipped = skip.len() - usize::from(skip.contains(&winner));
    (Plan::First { winner, skip }, count - skipped)
}

#[cfg(test)]
mod tests {
    use super::super::addresses::V4_RECORD_LEN;
    use super::super::{Policy, steering};
    use super::*;
    use crate::wire::record::{push_record, rtype};
    use std::collections::HashMap;
    use std::net::IpAddr;

    /// Counts how often each outcome comes up, two-byte records `a0 b1 c2 ..` in, `room` of them out.
    fn outcomes(records: u8, room: usize, rounds: usize) -> HashMap<Vec<u8>, usize> {
        let mut rng = fastrand::Rng::with_seed(7);
        let source: Vec<u8> = (0..records).flat_map(|i| [b'a' + i, b'0' + i]).collect();
        let mut counts = HashMap::new();
        for _ in 0..rounds {
            let mut out = vec![[0; 2]; room];
            shuffle(&mut rng, source.as_chunks::<2>().0.iter(), &mut out);
            assert!(out.iter().all(|[a, b]| a - b'a' == b - b'0'), "records stay whole");
            *counts.entry(out.iter().map(|record| record[0]).collect()).or_default() += 1;
        }
        counts
    }

    #[test]
    fn every_order_is_equally_likely() {
        let counts = outcomes(4, 4, 240_000);
        assert_eq!(counts.len(), 24);
        // 10,000 each is expected with a standard deviation of 98.
        assert!(counts.values().all(|n| n.abs_diff(10_000) < 600), "{counts:?}");
    }

    #[test]
    fn every_subset_is_equally_likely_where_not_all_fit() {
        let counts = outcomes(4, 2, 120_000);
        assert_eq!(counts.len(), 12);
        assert!(counts.values().all(|n| n.abs_diff(10_000) < 600), "{counts:?}");
    }

    #[test]
    fn one_record_is_copied_and_none_is_nothing() {
        assert_eq!(outcomes(1, 1, 1), HashMap::from([(vec![b'a'], 1)]));
        assert_eq!(outcomes(0, 0, 1), HashMap::from([(vec![], 1)]));
    }

    /// A set as the table has it, and who asks for it.
    struct World {
        records: Vec<u8>,
        record_len: usize,
        steering: Vec<u8>,
        chance: Chance,
    }

    impl World {
        /// Addresses in ascending order, with their weights.
        fn new(policy: &str, addresses: &[(IpAddr, u32)]) -> Self {
            let policy: Policy = policy.parse().unwrap();
            let (mut records, mut bytes) = (Vec::new(), Vec::new());
            for (address, _) in addresses {
                match address {
                    IpAddr::V4(v4) => push_record(&mut records, rtype::A, 1, &v4.octets()),
                    IpAddr::V6(v6) => push_record(&mut records, rtype::AAAA, 1, &v6.octets()),
                }
            }
            let weights: Vec<_> = addresses.iter().map(|(_, weight)| *weight).collect();
            steering::write(&policy, &weights, &mut bytes);
            let chance = Chance::new(fastrand::Rng::with_seed(3));
            let record_len = records.len() / addresses.len();
            Self { records, record_len, steering: bytes, chance }
        }

        fn arrange<const LEN: usize>(&mut self, client: Client, room: usize) -> (Vec<IpAddr>, usize) {
            let steering = Steering::read(&self.steering).unwrap();
            let Self { records, chance, .. } = self;
            let arrangement = Arrangement::new(steering, records.as_chunks::<LEN>().0, 5, || client, chance);
            let mut out = vec![[0; LEN]; arrangement.wanted().min(room)];
            arrangement.write(&mut chance.rng, &mut out);
            let address = |record: &[u8; LEN]| match LEN {
                V4_RECORD_LEN => IpAddr::from(*record.last_chunk::<4>().unwrap()),
                _ => IpAddr::from(*record.last_chunk::<16>().unwrap()),
            };
            (out.iter().map(address).collect(), arrangement.wanted())
        }

        /// An answer to this client, with room for so many addresses at most.
        fn ask_with_room(&mut self, client: &str, bits: u32, room: usize) -> (Vec<IpAddr>, usize) {
            let client = Client::new(client.parse().unwrap(), bits);
            let (found, wanted) = if self.record_len == V4_RECORD_LEN {
                self.arrange::<V4_RECORD_LEN>(client, room)
            } else {
                self.arrange::<{ V4_RECORD_LEN + 12 }>(client, room)
            };
            let mut distinct = found.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert_eq!(distinct.len(), found.len(), "none twice: {found:?}");
            (found, wanted)
        }

        fn ask(&mut self, client: &str) -> Vec<IpAddr> {
            self.ask_with_room(client, 128, usize::MAX).0
        }
    }

    fn v4(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn five() -> Vec<(IpAddr, u32)> {
        (3..8).map(|last| (v4(last), u32::from(last))).collect()
    }

    #[test]
    fn each_policy_gives_all_addresses_or_as_many_as_are_wanted() {
        for order in ["shuffle", "rotate", "weighted", "fixed", "near", "hash"] {
            let mut all = World::new(order, &five());
            let mut two = World::new(&format!("{order},answers=2"), &five());
            for client in ["10.0.0.2", "192.0.2.1", "2001:db8::1"] {
                assert_eq!(all.ask(client).len(), 5, "{order}");
                assert_eq!(all.ask_with_room(client, 128, 3).0.len(), 3, "{order}");
                assert_eq!(two.ask(client).len(), 2, "{order}");
                let (found, wanted) = two.ask_with_room(client, 128, 1);
                assert_eq!((found.len(), wanted), (1, 2), "{order}");
            }
        }
    }

    #[test]
    fn a_million_answers_begin_as_often_with_each_address_as_its_weight_says() {
        for policy in ["weighted", "weighted,answers=one", "rfc6724", "near", "shuffle", "rotate"] {
            let mut world = World::new(policy, &five());
            let mut first: HashMap<IpAddr, u32> = HashMap::new();
            // Nothing has more than others in common with this client.
            (0..1_000_000).for_each(|_| *first.entry(world.ask("192.0.2.1")[0]).or_default() += 1);
            let weighted = !matches!(policy, "shuffle" | "rotate");
            for (address, weight) in five() {
                let share = if weighted { f64::from(weight) / 25.0 } else { 0.2 };
                let seen = f64::from(first[&address]) / 1e6;
                assert!((seen - share).abs() < 0.005, "{policy}, {address}: {seen}, expected {share}");
            }
        }
    }

    #[test]
    fn over_many_clients_a_hash_gives_each_address_its_weight() {
        for weights in [[1, 1, 1, 1, 1], [3, 4, 5, 6, 7], [1, 65_535 * 16, 16, 100_000, 9]] {
            let five: Vec<_> =
                five().iter().zip(weights).map(|((address, _), weight)| (*address, weight)).collect();
            let mut world = World::new("hash,answers=one", &five);
            let mut first: HashMap<IpAddr, u32> = HashMap::new();
            for client in 0..1_000_000u32 {
                let client = IpAddr::from(client.to_be_bytes()).to_string();
                *first.entry(world.ask(&client)[0]).or_default() += 1;
            }
            let sum: u32 = weights.iter().sum();
            for (address, weight) in five {
                let share = f64::from(weight) / f64::from(sum);
                let seen = f64::from(first.get(&address).copied().unwrap_or_default()) / 1e6;
                assert!((seen - share).abs() < 0.005, "{address}: {seen}, expected {share}");
            }
        }
    }

    #[test]
    fn a_client_keeps_its_address_until_that_goes() {
        for equal in [true, false] {
            let mut five = five();
            five.iter_mut().for_each(|(_, weight)| *weight = if equal { 16 } else { *weight });
            let mut before = World::new("hash", &five);
            let gone = five.remove(2).0;
            let mut after = World::new("hash", &five);
            for i in 0..2_000u32 {
                let client = IpAddr::from((i * 7919).to_be_bytes()).to_string();
                let first = before.ask(&client);
                assert_eq!(first, before.ask(&client), "the whole order is the client's own");
                let now = after.ask(&client)[0];
                assert!(first[0] == gone || now == first[0], "{client}: {} became {now}", first[0]);
            }
        }
        // Hosts change the low half of their IPv6 addresses.
        let mut world = World::new("hash", &five());
        assert_eq!(world.ask("2001:db8::1"), world.ask("2001:db8::ffff:1"));
    }

    #[test]
    fn rotation_gives_each_its_turn() {
        let mut world = World::new("rotate", &five());
        let first: Vec<_> = (0..5).map(|_| world.ask("10.0.0.2")).collect();
        for pair in first.windows(2) {
            assert_eq!(pair[0][1..], pair[1][..4]);
        }
        assert_eq!(world.ask("10.0.0.9"), first[0]);
    }

    #[test]
    fn the_nearest_come_first_and_of_these_the_heaviest_most_often() {
        let addresses: Vec<(IpAddr, u32)> = ["10.0.0.3", "10.0.0.9", "10.0.1.5", "10.9.0.1", "192.0.2.1"]
            .map(|text| (text.parse().unwrap(), 1))
            .to_vec();
        let mut world = World::new("near", &addresses);
        let shown = |found: Vec<IpAddr>| found.iter().map(ToString::to_string).collect::<Vec<_>>();
        let order = ["10.0.1.5", "10.0.0.", "10.0.0.", "10.9.0.1", "192.0.2.1"];
        for _ in 0..100 {
            let found = shown(world.ask("10.0.1.77"));
            assert!(found.iter().zip(order).all(|(found, begin)| found.starts_with(begin)), "{found:?}");
            assert_eq!(shown(world.ask("10.0.0.3"))[..3], ["10.0.0.3", "10.0.0.9", "10.0.1.5"]);
            assert_eq!(shown(world.ask("255.0.0.1"))[0], "192.0.2.1");
        }
        // Of a client's network no more is known than its forwarder tells.
        let firsts = |world: &mut World, bits| -> std::collections::BTreeSet<IpAddr> {
            (0..200).map(|_| world.ask_with_room("10.0.0.0", bits, 9).0[0]).collect()
        };
        assert_eq!(firsts(&mut world, 24).len(), 2);
        assert_eq!(firsts(&mut world, 23).len(), 3);
        assert_eq!(firsts(&mut world, 8).len(), 4);
    }

    /// What glibc and musl make of an answer: a stable sort by the prefix in common with the client's own address.
    fn sorted_by_client(mut answer: Vec<IpAddr>, client: &str) -> Vec<IpAddr> {
        let client = Client::new(client.parse().unwrap(), 128);
        let bits = |address: &IpAddr| Client::new(*address, 128).address();
        answer.sort_by_key(|address| std::cmp::Reverse(client.common(bits(address))));
        answer
    }

    #[test]
    fn the_clients_own_sorting_leaves_the_first_where_it_is() {
        let v6: Vec<(IpAddr, u32)> =
            (3..8u32).map(|last| (format!("2001:db8::{last}").parse().unwrap(), last)).collect();
        for (addresses, client) in
            [(five(), "10.0.0.2"), (five(), "10.0.0.4"), (five(), "10.0.0.77"), (v6, "2001:db8::2")]
        {
            let mut world = World::new("rfc6724", &addresses);
            let (mut first, mut others): (HashMap<IpAddr, u32>, usize) = (HashMap::new(), 0);
            for _ in 0..100_000 {
                let answer = world.ask(client);
                assert_eq!(sorted_by_client(answer.clone(), client)[0], answer[0]);
                *first.entry(answer[0]).or_default() += 1;
                others += usize::from(answer.len() > 1);
            }
            for (address, weight) in addresses {
                let seen = f64::from(first[&address]) / 1e5;
                assert!((seen - f64::from(weight) / 25.0).abs() < 0.005, "{client}, {address}: {seen}");
            }
            assert!(others > 60_000, "{client}: only {others} answers had addresses to fail over to");
        }
        let mut world = World::new("rfc6724", &five());
        assert_eq!(world.ask("2001:db8::1").len(), 1, "its IPv4 address is not known");
        assert_eq!(world.ask("127.0.0.1").len(), 1, "nor which address it has in the network");
        // Of the network alone it is known which are outside.
        for _ in 0..100 {
            let answer = world.ask_with_room("10.0.0.4", 30, 9).0;
            let near = |address: &IpAddr| [v4(4), v4(5), v4(6), v4(7)].contains(address);
            assert!(answer[1..].iter().all(|address| !near(address)), "{answer:?}");
        }
    }
}
