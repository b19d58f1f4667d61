//! Tests of questions in flight, and what the tests of those that fail use, too.

use rand::SeedableRng as _;

use super::super::settings::Upstreams;
use super::super::upstream::Upstream;
use super::*;
use crate::wire::record::rtype;

pub(super) const MS: Duration = Duration::from_millis(1);
pub(super) const TIMEOUT: Duration = Duration::from_secs(5);

pub(super) fn question(name: &[u8]) -> Question<'_> {
    let name_hash =
        name.iter().fold(7, |hash: u64, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3));
    Question { name, name_hash, qtype: rtype::A, dnssec_ok: false, checking_disabled: false }
}

/// Questions to so many servers, which are asked by datagrams.
pub(super) fn of(servers: usize) -> InFlight<u32> {
    let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|address| address.parse().unwrap());
    of_upstreams(&all[..servers])
}

pub(super) fn of_upstreams(upstreams: &[Upstream]) -> InFlight<u32> {
    let upstreams = Upstreams::new(upstreams.into(), Vec::new(), TIMEOUT);
    InFlight::new(&Routes::new(upstreams, 1, &Routes::default()), 0, StdRng::from_seed([7; 32]))
}

impl InFlight<u32> {
    /// Asks for `name`; returns whether the waiter waits.
    pub(super) fn waits(&mut self, name: &[u8], waiter: u32, now: Instant) -> bool {
        !matches!(self.ask(&question(name), 0, &[], Some(waiter), now).what, What::Nobody(_))
    }

    pub(super) fn expires(&mut self, now: Instant) -> Option<(Ended<u32>, Failure)> {
        self.expire(now, &mut usize::MAX.clone())
    }

    /// All that is to be sent.
    pub(super) fn sent(&mut self, now: Instant) -> Vec<TransactionKey> {
        std::iter::from_fn(|| self.next_to_send(3, now).map(|it| it.place)).collect()
    }
}

pub(super) fn waiters(ended: &Ended<u32>) -> &[u32] {
    &ended.waiters
}

#[test]
fn who_asks_the_same_waits_for_the_same_question() {
    let (mut all, now) = (of(1), Instant::now());
    assert!(all.waits(b"\x01a\0", 1, now) && all.waits(b"\x01a\0", 2, now) && all.waits(b"\x01b\0", 3, now));
    let places = all.sent(now);
    assert_eq!((places.len(), places[0].slot), (2, 3));
    assert_eq!(all.awaited(places[0], now).unwrap().question, question(b"\x01a\0"));
    let forged = TransactionKey { id: places[0].id ^ 1, ..places[0] };
    assert!(all.awaited(forged, now).is_err() && all.answered(forged, now).is_none());
    assert_eq!(waiters(&all.answered(places[0], now).unwrap()), [1, 2]);
    assert!(all.awaited(places[0], now).is_err(), "it is answered once");
    assert_eq!((all.len(), all.waiters), (1, 1));
}

#[test]
fn who_does_not_answer_in_time_is_not_the_only_one_asked_and_may_still_answer() {
    let (mut all, begin) = (of(2), Instant::now());
    all.waits(b"\x01a\0", 1, begin);
    let first = all.sent(begin)[0];
    assert!(all.expires(begin + 199 * MS).is_none() && all.sent(begin).is_empty());
    let later = begin + 200 * MS;
    assert!(all.expires(later).is_none());
    let second = all.sent(later)[0];
    assert_ne!(second.server, first.server);
    assert_eq!(waiters(&all.answered(first, later + MS).unwrap()), [1]);
    assert!(all.awaited(second, later + 2 * MS).is_err(), "nobody waits for the other");
    assert!(all.attempts.is_empty() && all.servers[usize::from(second.server)].patience(0) < 200 * MS);
}

#[test]
fn without_edns_the_same_server_is_asked_again() {
    let (mut all, now) = (of(1), Instant::now());
    all.waits(b"\x01a\0", 1, now);
    assert!(all.awaited(TransactionKey { server: 0, slot: 3, id: 0 }, now).is_err());
    let sending = all.next_to_send(3, now).unwrap();
    assert!(sending.edns);
    let place = sending.place;
    assert!(all.rejected(place, true, now));
    let sending = all.next_to_send(3, now).unwrap();
    assert!(!sending.edns);
    let place = sending.place;
    assert!(!all.rejected(place, true, now), "there is no other way");
}

#[test]
fn of_too_many_the_oldest_is_given_up() {
    let (mut all, now) = (of(1), Instant::now());
    for i in 0..u32::try_from(MAX_QUESTIONS).unwrap() {
        let name = [&[4][..], &i.to_be_bytes(), &[0]].concat();
        assert!(matches!(all.ask(&question(&name), 0, &[], Some(i), now).what, What::New));
    }
    let Asked { what: What::New, displaced: Some(oldest) } =
        all.ask(&question(b"\x01a\0"), 0, &[], Some(0), now)
    else {
        panic!()
    };
    assert_eq!((waiters(&oldest), all.len()), (&[0][..], MAX_QUESTIONS));
    for i in MAX_QUESTIONS..MAX_WAITERS {
        let Asked { what, displaced } = all.ask(&question(b"\x01a\0"), 0, &[], Some(1), now);
        assert!(matches!(what, What::Joined) && displaced.is_none(), "{i}");
    }
    let mut ask = || all.ask(&question(b"\x01a\0"), 0, &[], Some(2), now);
    let Asked { what: What::Joined, displaced: Some(oldest) } = ask() else { panic!() };
    assert_eq!(waiters(&oldest), [1]);
    for _ in 2..MAX_QUESTIONS {
        assert!(matches!(ask(), Asked { what: What::Joined, displaced: Some(_) }));
    }
    assert!(matches!(ask().what, What::Full(Some(2))), "all of them wait for this");
    assert_eq!((all.waiters, all.len()), (MAX_WAITERS, 1));
}

#[test]
fn more_questions_than_ids_for_one_place_are_asked_all_the_same() {
    let (mut all, now) = (of(1), Instant::now());
    for i in 0..70_000_u32 {
        let name = [&[4][..], &i.to_be_bytes(), &[0]].concat();
        assert!(all.waits(&name, i, now));
    }
    assert_eq!(all.sent(now).len(), 70_000, "from one slot");
    let mut ended = 0;
    while let Some(at) = all.deadline() {
        while all.expires(at).is_some() {
            ended += 1;
        }
        while all.next_overdue(at, |_| false).is_some() {}
        all.sent(at);
    }
    assert!(ended == 70_000 && all.attempts.is_empty());
}
