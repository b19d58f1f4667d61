//! Names that are in none of our domains: whom to ask for them, and what they have said.
//!
//! Everything here does no I/O: it takes bytes and the time, and returns what to do. Each worker has a resolver of its
//! own (`upstream::forwarding` has its sockets), so that nothing is shared on the way of a query. `docs/resolver.md`
//! tells the whole of it.

pub mod cache;
pub mod dress;
pub mod forwarder;
pub mod in_flight;
pub mod message;
pub mod meter;
pub mod query;
pub mod question;
pub mod resolv_conf;
pub mod rewrite;
pub mod routes;
pub mod sanitize;
pub mod servers;
pub mod settings;
pub mod special_use;
pub mod upstream;

use std::sync::Arc;

use cache::{Cache, DOWN_RECHECK_S, FAILURE_RECHECK_S, Found, Limits, State};
use in_flight::Failure;
use question::{Answer, OwnedQuestion, Question};
use routes::{Route, Routes};
use sanitize::AnswerBuffer;

use crate::sys::published::Reader;
use crate::wire::header::rcode;

/// Answers that are to be asked for once more before they expire, gathered in one turn at most: the next turn has more.
const MAX_EXPIRING: usize = crate::limits::MAX_EXPIRING;

/// Seconds for which what is stale may be kept by others (RFC 8767 §4).
pub const STALE_TTL_S: u32 = 30;

/// Seconds for which it is kept that the upstreams could not answer: long enough for a client's second attempt
/// (RFC 9520 §3.2 has one second for the least).
const FAILURE_TTL_S: u32 = 1;

/// What is known of a question.
pub enum CacheResult<'a> {
    /// This is the answer.
    Answer {
        /// The answer, with the TTLs that it came with.
        answer: Answer<'a>,
        /// Seconds to be taken off these.
        age_s: u32,
        /// It is over (RFC 8767): its TTLs are [`STALE_TTL_S`].
        stale: bool,
    },
    /// There is none now.
    Failed(Failure),
    /// Somebody has to be asked.
    Unknown,
}

/// What has just become known of a question that was waited for.
enum Outcome {
    /// The answer is in the buffer.
    Answer,
    /// There is none.
    Failed(Failure),
}

/// What one worker knows of names that are not ours.
pub struct Resolver {
    routes: Reader<Routes>,
    cache: Cache,
    /// What those who have waited are told now, also if it may not be kept.
    outcome: Option<(OwnedQuestion, Outcome)>,
    buffer: AnswerBuffer,
    /// Popular answers that expire soon.
    expiring: Vec<OwnedQuestion>,
    /// When it is, in seconds on the clock of whoever keeps it.
    now_s: u32,
    /// This server, in what it tells upstreams of whom a question has passed.
    id: u64,
}

impl Resolver {
    /// One that keeps what its `limits` allow, and takes the `routes` that there are at the time. `id` is this
    /// server's.
    // cold: made once, at the start of a worker
    #[must_use]
    pub fn new(routes: Reader<Routes>, limits: Limits, id: u64) -> Self {
        Self {
            routes,
            cache: Cache::new(limits),
            outcome: None,
            buffer: AnswerBuffer::default(),
            expiring: Vec::with_capacity(MAX_EXPIRING),
            now_s: 0,
            id,
        }
    }

    /// The time from now on.
    pub fn set_time(&mut self, now_s: u32) {
        self.now_s = now_s;
    }

    /// The time that it has.
    #[must_use]
    pub fn now_s(&self) -> u32 {
        self.now_s
    }

    /// This server, as it tells upstreams.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The routes that there are now.
    pub fn routes(&mut self) -> Arc<Routes> {
        self.routes.load_full()
    }

    /// Which of all that there have been these are.
    pub fn generation(&mut self) -> u64 {
        self.routes.load().generation
    }

    /// Who is asked for `name`, lower-cased in wire form.
    pub fn route(&mut self, name: &[u8]) -> Route {
        self.routes.load().route(name)
    }

    /// What is known of `question`.
    #[inline]
    pub fn lookup(&mut self, question: &Question<'_>) -> CacheResult<'_> {
        if let Some((asked, outcome)) = &self.outcome
            && asked.get() == *question
        {
            return match outcome {
                Outcome::Answer => {
                    CacheResult::Answer { answer: self.buffer.answer(), age_s: 0, stale: false }
                }
                Outcome::Failed(failure) => CacheResult::Failed(*failure),
            };
        }
        let Some(found) = self.cache.find(question, self.now_s) else { return CacheResult::Unknown };
        let stale = match found.state {
            State::Fresh => false,
            State::Expiring => {
                if self.expiring.len() < MAX_EXPIRING {
                    self.expiring.push(question.into());
                }
                false
            }
            State::Stale { at_once: true } => true,
            State::Stale { at_once: false } => return CacheResult::Unknown,
        };
        match found.answer.rcode {
            rcode::NOERROR | rcode::NXDOMAIN => {
                CacheResult::Answer { answer: found.answer, age_s: found.age_s, stale }
            }
            _ => CacheResult::Failed(Failure::Cached),
        }
    }

    /// What is known without signatures of a `question` that could not be answered with them, be it over: an answer,
    /// its age and whether it is stale. That is better than nothing.
    #[cold]
    pub fn lookup_unsigned(&mut self, question: &Question<'_>) -> Option<(Answer<'_>, u32, bool)> {
        let unsigned = Question { dnssec_ok: false, ..*question };
        let found = if question.dnssec_ok { self.cache.find(&unsigned, self.now_s) } else { None };
        let Found { answer, age_s, state } = found?;
        let is_answer = matches!(answer.rcode, rcode::NOERROR | rcode::NXDOMAIN);
        is_answer.then_some((answer, age_s, matches!(state, State::Stale { .. })))
    }

    /// Where an upstream's answer is read into.
    pub fn buffer(&mut self) -> &mut AnswerBuffer {
        &mut self.buffer
    }

    /// Keeps the answer to `question` that is in the buffer, as it may be kept, and has it at hand for those who wait.
    pub fn take_answer(&mut self, question: OwnedQuestion) {
        self.buffer.keep_negative(self.cache.negative_ttl_s());
        self.buffer.raise_ttls(self.cache.min_ttl_s());
        // Nobody shall keep it for longer than we would.
        self.buffer.limit_ttls(self.cache.max_ttl_s(&self.buffer.answer()));
        self.cache.insert(&question.get(), &self.buffer.answer(), self.now_s);
        self.outcome = Some((question, Outcome::Answer));
    }

    /// Notes that `question` could not be answered. Those who wait are told so, or what is stale.
    pub fn take_failure(&mut self, question: OwnedQuestion, failure: Failure) {
        let it = question.get();
        let recheck_s = if failure == Failure::NobodyThere { DOWN_RECHECK_S } else { FAILURE_RECHECK_S };
        self.cache.note_failure(&it, self.now_s, recheck_s);
        self.outcome = None;
        if self.is_stale(&it) {
            return;
        }
        // What is due to us, and not to the name, may be over with the next question.
        if let Failure::Answered(..) | Failure::NoAnswer = failure {
            self.cache.insert(&it, &FAILED, self.now_s);
        }
        self.outcome = Some((question, Outcome::Failed(failure)));
    }

    /// Whether something stale is there for `question`, with signatures or without.
    pub fn has_stale(&mut self, question: &Question<'_>) -> bool {
        self.is_stale(question) || self.lookup_unsigned(question).is_some()
    }

    fn is_stale(&mut self, question: &Question<'_>) -> bool {
        self.cache.find(question, self.now_s).is_some_and(|found| matches!(found.state, State::Stale { .. }))
    }

    /// Those who wait have waited for long, or all servers are down: what is stale may be used from now on.
    pub fn allow_stale(&mut self, question: &Question<'_>, all_down: bool) {
        let recheck_s = if all_down { DOWN_RECHECK_S } else { FAILURE_RECHECK_S };
        self.cache.note_failure(question, self.now_s, recheck_s);
        if !self.is_stale(question) {
            self.outcome = Some((question.into(), Outcome::Failed(Failure::NoAnswer)));
        }
    }

    /// Nobody waits any more for what has just become known.
    pub fn end_outcome(&mut self) {
        self.outcome = None;
    }

    /// A popular answer that expires soon, and should be asked for once more.
    pub fn next_expiring(&mut self) -> Option<OwnedQuestion> {
        self.expiring.pop()
    }

    /// The cache.
    pub fn cache(&mut self) -> &mut Cache {
        &mut self.cache
    }
}

/// What is kept of a question that could not be answered.
const FAILED: Answer<'static> = Answer {
    rcode: rcode::SERVFAIL,
    authenticated: false,
    answers: 0,
    authorities: 0,
    ttl_s: FAILURE_TTL_S,
    records: &[],
    ttls_at: &[],
};
