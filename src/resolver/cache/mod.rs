//! What upstream servers have answered, kept for a while: the cache of one worker.
//!
//! Each worker has one of its own, so a look-up takes no lock and allocates nothing. The cache is cut into parts of
//! about a mebibyte, each with its table and its queues: so that a table that grows holds its worker up for some tens
//! of microseconds only, however large the cache is. The time is in seconds on a clock that never goes back, and comes
//! from the caller.

mod block;
mod part;

use self::block::{Block, is_failure};
use self::part::{MAX_FOUND, Part};
use super::question::{Answer, Question, age};
use crate::wire::header::{self, rcode};
use crate::wire::name::suffix_at;
use crate::wire::record::CLASS_IN;

/// For how long after upstreams have failed to answer a question it is answered by what is over without asking them
/// (RFC 8767 §5, failure recheck timer).
pub const FAILURE_RECHECK_S: u32 = 30;

/// The same where all of them are known to be down: to ask costs nothing then, nobody waits for it, and who asks sees
/// that they are back.
pub const DOWN_RECHECK_S: u32 = 1;

/// For how long it is kept at most that somebody could not answer (RFC 2308 §7 allows five minutes).
const MAX_FAILURE_TTL_S: u32 = 5;

/// Found as often as this since it came, an answer is popular: worth asking for once more before it expires.
const POPULAR: u8 = MAX_FOUND;

/// Bytes of a part, or up to twice as many, since there is a power of two of them.
const PART_LEN: usize = crate::limits::CACHE_PART_LEN;

/// What a cache may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for everything, with tables and what the allocator needs. With less than some thousands nothing
    /// is kept at all.
    pub max_bytes: usize,
    /// Seconds that an answer is kept at most (RFC 8767 §4 asks for a cap of the order of days to weeks at most).
    pub max_ttl_s: u32,
    /// The same for what says that there is nothing (RFC 2308 §5 suggests one to three hours).
    pub max_negative_ttl_s: u32,
    /// Seconds that an answer is kept at least, if it may be kept.
    pub min_ttl_s: u32,
    /// Seconds for which a negative answer is kept that does not say for how long it may be.
    pub negative_ttl_s: u32,
    /// Seconds after an answer is over for which it may be used if upstreams fail (RFC 8767 §5 suggests one to three
    /// days). 0: never.
    pub max_stale_s: u32,
}

impl Default for Limits {
    /// 64 MiB; a day, an hour for negative answers, and a day in which answers may be stale.
    fn default() -> Self {
        Self {
            max_bytes: 64 << 20,
            max_ttl_s: 86_400,
            max_negative_ttl_s: 3_600,
            min_ttl_s: 0,
            negative_ttl_s: 5,
            max_stale_s: 86_400,
        }
    }
}

/// Whether an answer that was found may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may.
    Fresh,
    /// It may, but it is popular and about to expire: the question should be asked once more. This is said once.
    Expiring,
    /// It is over, and may be used only if the upstreams fail (RFC 8767).
    Stale {
        /// They did, not long ago: to be used without asking them.
        at_once: bool,
    },
}

/// An answer that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The answer as it came; its TTL as the limits have made it.
    pub answer: Answer<'a>,
    /// The seconds since then, to be taken off each TTL. For what is stale it has no meaning: all TTLs are then 30 s
    /// (RFC 8767 §4).
    pub age_s: u32,
    /// Whether it may be used.
    pub state: State,
}

/// One of the answers that are kept for a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// The type that was asked for.
    pub qtype: u16,
    /// DNSSEC records were wanted, too.
    pub dnssec_ok: bool,
    /// What could not be validated was wanted, too.
    pub checking_disabled: bool,
    /// The answer, as [`Found::answer`].
    pub answer: Answer<'a>,
    /// Seconds until it expires; since it has expired, negative, if it is stale.
    pub left_s: i64,
}

impl Entry<'_> {
    /// The answer as a message to who asks for `name` now, with the question's flags.
    // cold: for people who look at the cache
    #[must_use]
    pub fn to_message(&self, name: &[u8]) -> Vec<u8> {
        let Self { qtype, checking_disabled, answer, left_s, .. } = self;
        let flags = header::RA
            | answer.rcode & header::RCODE_MASK
            | if answer.authenticated { header::AD } else { 0 }
            | if *checking_disabled { header::CD } else { 0 };
        let mut message = vec![0, 0, header::QR | header::RD, flags];
        for count in [1, answer.answers, answer.authorities, 0] {
            message.extend_from_slice(&count.to_be_bytes());
        }
        message.extend_from_slice(name);
        message.extend_from_slice(&qtype.to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        let begin = message.len();
        message.extend_from_slice(answer.records);
        let age_s = u32::try_from(i64::from(answer.ttl_s) - left_s).unwrap_or_default();
        age(&mut message[begin..], answer.ttls_at, age_s, *left_s <= 0);
        message
    }
}

/// What a cache holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Answers, with those that are stale, and those that are of no use any more but have not had to go.
    pub entries: usize,
    /// Bytes of memory that they take, all in all.
    pub bytes: usize,
    /// Answers that had to go for others, since the cache was made.
    pub evictions: u64,
}

/// The cache.
pub struct Cache {
    limits: Limits,
    /// A power of two of them.
    parts: Box<[Part]>,
}

impl Cache {
    /// Empty. Memory is taken when answers come, but for one in sixty-four bytes.
    // cold: made once, at the start of a worker
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let parts = 1 << (limits.max_bytes / PART_LEN).max(1).ilog2();
        Self { limits, parts: (0..parts).map(|_| Part::new(limits.max_bytes / parts)).collect() }
    }

    /// The answer to `question`, unless there is none, or one that is over and may not even be stale.
    #[inline]
    #[must_use]
    pub fn find(&mut self, question: &Question<'_>, now_s: u32) -> Option<Found<'_>> {
        let max_stale_s = self.limits.max_stale_s;
        let (part, hash) = self.part(question);
        let slot = part.find(hash, question)?;
        let head = slot.block.head();
        if now_s >= head.over_s(max_stale_s) {
            return None;
        }
        slot.touch();
        let state = if now_s >= head.expires_s {
            State::Stale { at_once: now_s < head.recheck_s }
        } else if slot.found >= POPULAR
            && !slot.told
            && is_near(head.expires_s - now_s, head.expires_s - head.inserted_s)
        {
            slot.told = true;
            State::Expiring
        } else {
            State::Fresh
        };
        Some(Found { answer: slot.block.answer(), age_s: now_s.saturating_sub(head.inserted_s), state })
    }

    /// For how many seconds an answer is kept at least.
    #[must_use]
    pub fn min_ttl_s(&self) -> u32 {
        self.limits.min_ttl_s
    }

    /// For how many seconds a negative answer is kept that does not say for how long it may be.
    #[must_use]
    pub fn negative_ttl_s(&self) -> u32 {
        self.limits.negative_ttl_s
    }

    /// For how many seconds `answer` may be kept at most, whatever its TTL.
    #[must_use]
    pub fn max_ttl_s(&self, answer: &Answer<'_>) -> u32 {
        let Limits { max_ttl_s, max_negative_ttl_s, .. } = self.limits;
        if is_failure(answer.rcode) {
            max_ttl_s.min(MAX_FAILURE_TTL_S)
        } else if answer.rcode == rcode::NXDOMAIN || answer.answers == 0 {
            max_ttl_s.min(max_negative_ttl_s)
        } else {
            max_ttl_s
        }
    }

    /// Keeps the `answer` to `question` from now on, for its TTL or what the limits allow, in place of the one before.
    /// Not one with a TTL of 0. That somebody could not answer is kept for `MAX_FAILURE_TTL_S` at most, and not in
    /// place of an answer that may still be used, be it stale.
    pub fn insert(&mut self, question: &Question<'_>, answer: &Answer<'_>, now_s: u32) {
        let max_stale_s = self.limits.max_stale_s;
        let failure = is_failure(answer.rcode);
        let ttl_s = answer.ttl_s.min(self.max_ttl_s(answer));
        if ttl_s == 0 {
            return;
        }
        let (part, hash) = self.part(question);
        if failure {
            let before = part.find(hash, question).map(|slot| slot.block.head());
            if before.is_some_and(|head| !head.is_failure() && now_s < head.over_s(max_stale_s)) {
                return;
            }
        }
        if let Some(block) = Block::new(question, answer, now_s, ttl_s) {
            part.insert(hash, question, block);
        }
    }

    /// Notes that the upstreams have failed to answer `question`: for `recheck_s` seconds, as [`FAILURE_RECHECK_S`],
    /// what is stale may be used without asking them.
    pub fn note_failure(&mut self, question: &Question<'_>, now_s: u32, recheck_s: u32) {
        let (part, hash) = self.part(question);
        if let Some(slot) = part.find(hash, question) {
            slot.block.set_recheck_s(now_s.saturating_add(recheck_s));
        }
    }

    /// Forgets all answers for `name`, lower-cased and in wire form, and for those `below` it, too. Returns how many
    /// there were. Looks at everything there is: some milliseconds for a hundred thousand answers.
    pub fn flush(&mut self, name: &[u8], below: bool) -> usize {
        let goes = |block: &Block| {
            if below { suffix_at(block.name(), name, |a, b| a == b).is_some() } else { block.name() == name }
        };
        self.parts.iter_mut().map(|part| part.remove(goes)).sum()
    }

    /// Forgets everything, and gives the memory back. Returns how many answers there were.
    pub fn clear(&mut self) -> usize {
        self.parts.iter_mut().map(Part::clear).sum()
    }

    /// The answers for `name`, lower-cased and in wire form, but for those that are over and may not even be stale.
    /// Looks at everything there is, as [`Self::flush`].
    pub fn entries<'a>(&'a self, name: &'a [u8], now_s: u32) -> impl Iterator<Item = Entry<'a>> {
        self.parts.iter().flat_map(Part::blocks).filter(move |block| block.name() == name).filter_map(
            move |block| {
                let head = block.head();
                (now_s < head.over_s(self.limits.max_stale_s)).then(|| Entry {
                    qtype: head.qtype,
                    dnssec_ok: head.dnssec_ok,
                    checking_disabled: head.checking_disabled,
                    answer: block.answer(),
                    left_s: i64::from(head.expires_s) - i64::from(now_s),
                })
            },
        )
    }

    /// What it holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.parts.iter().fold(Stats::default(), |sum, part| Stats {
            entries: sum.entries + part.len(),
            bytes: sum.bytes + part.heap_len(),
            evictions: sum.evictions + part.evictions(),
        })
    }

    /// The part that `question` belongs to, and its hash there: one half of its hash chooses the part, the other is
    /// used within.
    #[inline]
    fn part(&mut self, question: &Question<'_>) -> (&mut Part, u32) {
        let [a, b, c, d, e, f, g, h] = question.hash().to_le_bytes();
        let chosen = u32::from_le_bytes([e, f, g, h]) as usize & (self.parts.len() - 1);
        (&mut self.parts[chosen], u32::from_le_bytes([a, b, c, d]))
    }
}

/// Whether an answer with `left_s` of its `ttl_s` is about to expire: in the last tenth, or second. One that is kept
/// for a second only always is, and so never.
#[inline]
fn is_near(left_s: u32, ttl_s: u32) -> bool {
    ttl_s > 1 && left_s <= (ttl_s / 10).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question<'_> = Question {
        name: b"\x03www\x07example\0",
        name_hash: 7,
        qtype: 1,
        dnssec_ok: false,
        checking_disabled: false,
    };
    const ANSWER: Answer<'_> = Answer {
        rcode: rcode::NOERROR,
        authenticated: false,
        answers: 1,
        authorities: 0,
        ttl_s: 300,
        records: b"\xc0\x0c\0\x01\0\x01\0\0\x01\x2c\0\x04\x0a\0\0\x01",
        ttls_at: b"\0\x06",
    };
    const FAILURE: Answer<'_> =
        Answer { rcode: rcode::SERVFAIL, answers: 0, ttl_s: 1, records: b"", ttls_at: b"", ..ANSWER };

    fn cache() -> Cache {
        Cache::new(Limits::default())
    }

    /// A cache in which `answer` was put at 1,000 s.
    fn with(answer: Answer<'_>) -> Cache {
        let mut cache = cache();
        cache.insert(&QUESTION, &answer, 1_000);
        cache
    }

    fn state(cache: &mut Cache, now_s: u32) -> Option<State> {
        cache.find(&QUESTION, now_s).map(|found| found.state)
    }

    /// Asks for the name of this number, and puts an answer in if it is not there. True if it was.
    fn ask(cache: &mut Cache, number: u64) -> bool {
        let name = [b"\x08", &number.to_be_bytes()[..], b"\x07example\0"].concat();
        let question = Question {
            name: &name,
            name_hash: number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ..QUESTION
        };
        let there = cache.find(&question, 0).is_some();
        if !there {
            cache.insert(&question, &ANSWER, 0);
        }
        there
    }

    /// Bytes of a name and an answer that [`ask`] puts in.
    const DATA_LEN: usize = 18 + ANSWER.records.len();

    #[test]
    fn an_answer_is_found_with_its_age_until_it_expires_and_is_stale_then() {
        let mut cache = with(ANSWER);
        let found = cache.find(&QUESTION, 1_000).unwrap();
        assert_eq!(found, Found { answer: ANSWER, age_s: 0, state: State::Fresh });
        assert_eq!(cache.find(&QUESTION, 1_299).unwrap().age_s, 299);
        assert_eq!(state(&mut cache, 1_300), Some(State::Stale { at_once: false }));
        assert_eq!(state(&mut cache, 1_299 + 86_400), Some(State::Stale { at_once: false }));
        assert_eq!(state(&mut cache, 1_300 + 86_400), None);
        assert_eq!(cache.find(&Question { qtype: 28, ..QUESTION }, 1_000), None);
        assert_eq!(cache.find(&Question { dnssec_ok: true, ..QUESTION }, 1_000), None);
    }

    #[test]
    fn a_newer_answer_takes_the_place_of_the_one_before() {
        let mut cache = with(ANSWER);
        let records = [ANSWER.records, ANSWER.records].concat();
        let newer = Answer { answers: 2, ttl_s: 60, records: &records, ..ANSWER };
        cache.insert(&QUESTION, &newer, 1_100);
        assert_eq!(
            cache.find(&QUESTION, 1_101),
            Some(Found { answer: newer, age_s: 1, state: State::Fresh })
        );
        assert_eq!(cache.stats().entries, 1);
    }

    #[test]
    fn times_are_capped_and_none_at_all_is_not_kept() {
        let kept_s = |answer| {
            let mut cache = with(answer);
            cache.find(&QUESTION, 1_000).map(|found| found.answer.ttl_s)
        };
        assert_eq!(kept_s(Answer { ttl_s: u32::MAX, ..ANSWER }), Some(86_400));
        assert_eq!(kept_s(Answer { ttl_s: u32::MAX, answers: 0, ..ANSWER }), Some(3_600));
        assert_eq!(kept_s(Answer { ttl_s: u32::MAX, rcode: rcode::NXDOMAIN, ..ANSWER }), Some(3_600));
        assert_eq!(kept_s(Answer { ttl_s: u32::MAX, ..FAILURE }), Some(MAX_FAILURE_TTL_S));
        assert_eq!(kept_s(Answer { ttl_s: 0, ..ANSWER }), None);
    }

    #[test]
    fn the_end_of_the_clock_is_no_harm() {
        let mut cache = cache();
        cache.insert(&QUESTION, &ANSWER, u32::MAX - 1);
        assert_eq!(state(&mut cache, u32::MAX - 1), Some(State::Fresh));
        cache.note_failure(&QUESTION, u32::MAX, FAILURE_RECHECK_S);
        assert_eq!(state(&mut cache, u32::MAX), None);
    }

    #[test]
    fn without_a_time_for_it_nothing_is_ever_stale() {
        let mut cache = Cache::new(Limits { max_stale_s: 0, ..Limits::default() });
        cache.insert(&QUESTION, &ANSWER, 1_000);
        assert_eq!(state(&mut cache, 1_299), Some(State::Fresh));
        assert_eq!(state(&mut cache, 1_300), None);
        cache.insert(&QUESTION, &FAILURE, 1_300);
        assert_eq!(state(&mut cache, 1_300), Some(State::Fresh));
    }

    #[test]
    fn a_popular_answer_is_said_to_expire_once_in_its_last_tenth() {
        let mut cache = with(ANSWER);
        assert_eq!(state(&mut cache, 1_000), Some(State::Fresh));
        assert_eq!(state(&mut cache, 1_000), Some(State::Fresh));
        assert_eq!(state(&mut cache, 1_269), Some(State::Fresh));
        assert_eq!(state(&mut cache, 1_270), Some(State::Expiring));
        assert_eq!(state(&mut cache, 1_271), Some(State::Fresh));
        cache.insert(&QUESTION, &ANSWER, 1_271);
        assert_eq!(state(&mut cache, 1_570), Some(State::Fresh), "what it was before counts no more");
        assert_eq!(state(&mut cache, 1_570), Some(State::Fresh));
        assert_eq!(state(&mut cache, 1_570), Some(State::Expiring));
    }

    #[test]
    fn a_short_time_has_its_last_second_and_a_second_has_none() {
        for (ttl_s, last) in [(9, State::Expiring), (2, State::Expiring), (1, State::Fresh)] {
            let mut cache = with(Answer { ttl_s, ..ANSWER });
            for _ in 0..5 {
                if ttl_s > 1 {
                    assert_eq!(state(&mut cache, 998 + ttl_s), Some(State::Fresh));
                }
            }
            let found: Vec<_> = (0..3).filter_map(|_| state(&mut cache, 999 + ttl_s)).collect();
            assert_eq!(found[0], last, "{ttl_s} s");
            assert_eq!(found[1..], [State::Fresh; 2]);
        }
    }

    #[test]
    fn after_a_failure_what_is_stale_is_used_at_once_for_a_while() {
        let mut cache = with(ANSWER);
        cache.note_failure(&QUESTION, 1_310, FAILURE_RECHECK_S);
        assert_eq!(state(&mut cache, 1_339), Some(State::Stale { at_once: true }));
        assert_eq!(state(&mut cache, 1_340), Some(State::Stale { at_once: false }));
        cache.note_failure(&QUESTION, 1_340, FAILURE_RECHECK_S);
        assert_eq!(state(&mut cache, 1_340), Some(State::Stale { at_once: true }));
        cache.note_failure(&QUESTION, 1_340, DOWN_RECHECK_S);
        assert_eq!(state(&mut cache, 1_341), Some(State::Stale { at_once: false }), "the last word counts");
        cache.insert(&QUESTION, &Answer { ttl_s: 2, ..ANSWER }, 1_340);
        assert_eq!(state(&mut cache, 1_341), Some(State::Fresh));
        assert_eq!(state(&mut cache, 1_342), Some(State::Stale { at_once: false }));
        cache.note_failure(&Question { qtype: 2, ..QUESTION }, 1_340, FAILURE_RECHECK_S);
        assert_eq!(cache.stats().entries, 1);
    }

    #[test]
    fn a_failure_is_never_stale_and_takes_no_place_of_what_may_be_used() {
        let mut cache = with(FAILURE);
        assert_eq!(cache.find(&QUESTION, 1_000).unwrap().answer, FAILURE);
        assert_eq!(state(&mut cache, 1_001), None);
        cache.insert(&QUESTION, &Answer { rcode: rcode::REFUSED, ..FAILURE }, 1_000);
        assert_eq!(cache.find(&QUESTION, 1_000).unwrap().answer.rcode, rcode::REFUSED);

        cache.insert(&QUESTION, &ANSWER, 1_000);
        for now_s in [1_000, 1_300, 1_299 + 86_400] {
            cache.insert(&QUESTION, &FAILURE, now_s);
            assert_eq!(cache.find(&QUESTION, now_s).unwrap().answer, ANSWER);
        }
        cache.insert(&QUESTION, &FAILURE, 1_300 + 86_400);
        assert_eq!(cache.find(&QUESTION, 1_300 + 86_400).unwrap().answer, FAILURE);
    }

    #[test]
    fn a_name_is_shown_and_flushed_alone_or_with_what_is_below_it() {
        let mut cache = Cache::new(Limits { max_bytes: 4 << 20, ..Limits::default() });
        for name in [&b"\x01a\x01b\0"[..], b"\x01b\0", b"\x02ab\0", b"\x01c\0"] {
            for qtype in [1, 28] {
                // The upper half of the hash chooses the part.
                let name_hash = u64::from(name[1]) << 32;
                cache.insert(&Question { name, name_hash, qtype, ..QUESTION }, &ANSWER, 1_000);
            }
        }
        let left = |cache: &Cache, name: &[u8], now_s| {
            let mut all: Vec<_> =
                cache.entries(name, now_s).map(|entry| (entry.qtype, entry.left_s)).collect();
            all.sort_unstable();
            all
        };
        assert_eq!(left(&cache, b"\x01b\0", 1_100), [(1, 200), (28, 200)]);
        assert_eq!(left(&cache, b"\x01b\0", 1_400), [(1, -100), (28, -100)]);
        assert_eq!(left(&cache, b"\x01b\0", 90_000), []);
        assert_eq!(cache.flush(b"\x01b\0", false), 2);
        assert_eq!(left(&cache, b"\x01b\0", 1_100), []);
        assert_eq!(cache.flush(b"\x01b\0", true), 2, "`ab` is not below `b`");
        assert_eq!(cache.stats().entries, 4);
        assert_eq!(cache.clear(), 4);
        assert_eq!(cache.stats().entries, 0);
    }

    #[test]
    fn an_entry_is_told_as_a_message_with_the_ttl_that_is_left() {
        let mut cache = with(Answer { authenticated: true, ..ANSWER });
        cache.insert(&Question { qtype: 28, ..QUESTION }, &FAILURE, 1_000);
        let messages = |now_s| {
            let mut all: Vec<_> =
                cache.entries(QUESTION.name, now_s).map(|it| it.to_message(QUESTION.name)).collect();
            all.sort();
            all
        };
        let question = [QUESTION.name, b"\0\x01\0\x01"].concat();
        let all = messages(1_000);
        assert_eq!(all[0], [b"\0\0\x81\x82\0\x01\0\0\0\0\0\0", QUESTION.name, b"\0\x1c\0\x01"].concat());
        for (now_s, ttl_s) in [(1_000, 300_u32), (1_299, 1), (1_300, 30), (80_000, 30)] {
            let record = [b"\xc0\x0c\0\x01\0\x01", &ttl_s.to_be_bytes()[..], b"\0\x04\x0a\0\0\x01"].concat();
            let message = [b"\0\0\x81\xa0\0\x01\0\x01\0\0\0\0", &question[..], &record].concat();
            assert_eq!(messages(now_s).last(), Some(&message), "{now_s}");
        }
    }

    #[test]
    fn a_scan_leaves_what_is_popular() {
        let mut cache = Cache::new(Limits { max_bytes: 2 << 20, ..Limits::default() });
        let mut random = fastrand::Rng::with_seed(5);
        // Of 8,000 names, those with small numbers are asked for most often.
        let mut popular = |cache: &mut Cache| {
            let mut hits = 0_u16;
            for _ in 0..50_000 {
                let most = random.u64(..8_000);
                hits += u16::from(ask(cache, random.u64(..=most)));
            }
            f64::from(hits) / 50_000.0
        };
        popular(&mut cache);
        let before = popular(&mut cache);
        for number in 0..10 * (2 << 20) / 128 {
            assert!(!ask(&mut cache, 1 << 32 | number));
        }
        let after = popular(&mut cache);
        assert!(cache.stats().evictions > 100_000);
        assert!(before > 0.95 && after > before - 0.05, "{before} before and {after} after");
    }

    #[test]
    fn no_more_memory_is_taken_than_may_be_and_150_bytes_an_answer_at_most_beside_its_data() {
        for max_bytes in [1 << 20, 3_000_000, 8 << 20] {
            let mut cache = Cache::new(Limits { max_bytes, ..Limits::default() });
            let mut most = 0.0_f64;
            for number in 0..200_000 {
                ask(&mut cache, number);
                let Stats { entries, bytes, .. } = cache.stats();
                assert!(bytes <= max_bytes, "{bytes} bytes");
                // Few answers have the bytes of an empty cache to bear.
                if entries > max_bytes / 1_000 {
                    most = most.max(bytes as f64 / entries as f64 - DATA_LEN as f64);
                }
            }
            assert!(most <= 150.0, "{most} bytes beside {DATA_LEN}");
            assert!(cache.stats().bytes > max_bytes / 10 * 8);
        }
    }
}
