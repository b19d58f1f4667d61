//! Questions that upstream servers have been asked, who waits for the answers, and who is asked next when none comes.
//!
//! Owned by one worker. It does no I/O and takes the time as an argument: what is to be sent is told by
//! [`InFlight::next_to_send`], what has come is told to it.

mod attempts;
mod failing;
mod retries;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use attempts::Attempts;
pub use failing::STALE_AFTER;
use hashbrown::HashTable;
use rand::Rng as _;
use rand::rngs::StdRng;
use retries::Allowance;
use slab::Slab;
use smallvec::SmallVec;
use timers::Timers;

use super::meter::{Count, Meter};
use super::question::{OwnedQuestion, Question};
use super::routes::Routes;
use super::servers::{Server, choose, explore};
use super::settings::Protocol;

/// Questions of one worker in flight at most; for a new one the oldest is given up.
pub const MAX_QUESTIONS: usize = crate::limits::MAX_QUESTIONS;

/// Queries of one worker that wait for them at most; the same holds.
pub const MAX_WAITERS: usize = crate::limits::MAX_WAITERS;

/// Ids that are drawn for a message until one is free.
const MAX_DRAWS: usize = 8;

/// The slot of what is sent over a stream, which has no port of its own.
pub const STREAM: u8 = u8::MAX;

/// Nodes that a question is told to have passed at most: more is a loop, or as good as one.
pub const MAX_PASSED_BY: usize = 8;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// All servers that could be asked are down.
    NobodyThere,
    /// None has answered in time.
    NoAnswer,
    /// This is all that was said: a response code, and the reason (RFC 8914) if one was given.
    Answered(u16, Option<u16>),
    /// Somebody asked the same a moment ago, and there was none.
    Cached,
    /// There were too many questions.
    Overload,
    /// The server stops, and there is no time to wait for an answer.
    Stopping,
}

/// Where a question was sent from, and to whom: what an answer has to come back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The number of the server.
    pub server: u16,
    /// Which of the sockets for that server, or [`STREAM`].
    pub slot: u8,
    /// The message's id.
    pub id: u16,
}

/// Something to be sent.
pub struct Sending<'a> {
    /// To whom, from where, and with which id.
    pub place: Place,
    /// What is asked.
    pub question: Question<'a>,
    /// With EDNS.
    pub edns: bool,
    /// Random bits, for the case of the name's letters: an answer has to have the same.
    pub case_bits: u64,
    /// The nodes that it has passed.
    pub passed_by: &'a [u64],
}

/// What a question was asked like that has an answer now.
pub struct Awaited<'a> {
    /// The question.
    pub question: Question<'a>,
    /// With EDNS.
    pub edns: bool,
    /// The bits that the case of its name was made with.
    pub case_bits: u64,
}

/// Why nothing is awaited at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unawaited {
    /// Nothing has been asked from there, or so long ago that it is forgotten.
    Unasked,
    /// It has an answer, or waits for one of another kind.
    NoMore,
}

/// A question that is done with.
pub struct Ended<W> {
    /// The question.
    pub question: OwnedQuestion,
    /// Who has waited.
    pub waiters: SmallVec<[W; 1]>,
}

/// A question in flight.
struct Pending<W> {
    question: OwnedQuestion,
    waiters: SmallVec<[W; 1]>,
    /// Its number among all that there have been: keys are used again.
    serial: u64,
    /// The servers that may be asked.
    group: u16,
    /// Those that have been asked by a datagram, and over a stream, once for each time.
    by_datagram: SmallVec<[u16; 4]>,
    over_stream: SmallVec<[u16; 2]>,
    /// Those whose answer a datagram has no room for.
    cut_short: SmallVec<[u16; 1]>,
    /// Those that have said that they cannot answer, and what the last of them said.
    failed: SmallVec<[u16; 2]>,
    failure: Option<Failure>,
    /// Where it was sent from last.
    last: Option<Place>,
    /// Somebody tries to guess what an answer has to have: datagrams are not believed any more.
    is_guessed_at: bool,
    passed_by: SmallVec<[u64; 1]>,
    begun: Instant,
}

/// A question as it was sent once.
struct Attempt {
    key: usize,
    serial: u64,
    sent: Instant,
    case_bits: u64,
    edns: bool,
    /// It has not been answered in time; it may still be.
    is_late: bool,
}

/// When a question began, if it is still that.
#[derive(Clone, Copy)]
struct Begun {
    at: Instant,
    key: usize,
    serial: u64,
}

/// What is to be sent.
struct Outgoing {
    key: usize,
    serial: u64,
    server: u16,
    stream: bool,
}

/// What came of asking.
pub struct Asked<W> {
    /// Of the question.
    pub what: What<W>,
    /// The oldest question, which was given up for it.
    pub displaced: Option<Ended<W>>,
}

/// What came of a question that was asked.
pub enum What<W> {
    /// It is on its way.
    New,
    /// It was on its way already.
    Joined,
    /// There is nobody to ask now.
    Nobody(Option<W>),
    /// Too many wait already, all of them for this.
    Full(Option<W>),
}

/// All questions of a worker.
pub struct InFlight<W> {
    /// How long a question is worked on.
    timeout: Duration,
    /// The servers, by number.
    pub servers: Vec<Server>,
    /// Whether a server is asked over streams alone.
    streamed: Vec<bool>,
    groups: Vec<Vec<u16>>,
    /// The servers of a group are asked in turn; who is next.
    rotate: bool,
    turn: usize,
    questions: Slab<Pending<W>>,
    by_question: HashTable<usize>,
    /// In the order in which they began, which is that in which their time is over. Those that have ended before are passed over.
    begun: VecDeque<Begun>,
    /// The same, of those whose clients have not waited for long yet.
    fresh: VecDeque<Begun>,
    attempts: Attempts,
    timers: Timers,
    outgoing: VecDeque<Outgoing>,
    /// Given up while something else was done.
    done: VecDeque<(Ended<W>, Failure)>,
    waiters: usize,
    next_serial: u64,
    retries: Allowance,
    /// For what nobody shall guess who has seen others of it: ids, and the case of letters (RFC 5452 §9.2).
    secret: StdRng,
    /// For what anybody may guess.
    rng: fastrand::Rng,
}

impl<W> InFlight<W> {
    /// None yet, on these `routes`; `worker` is whose meters are used.
    #[must_use]
    pub fn new(routes: &Routes, worker: usize, mut secret: StdRng) -> Self {
        let Routes { servers, groups, upstreams, .. } = routes;
        Self {
            timeout: upstreams.timeout,
            servers: servers.iter().map(|it| Server::new(it.meter(worker))).collect(),
            streamed: servers.iter().map(|it| matches!(it.upstream.protocol, Protocol::Tls { .. })).collect(),
            groups: groups.clone(),
            rotate: upstreams.rotate,
            turn: 0,
            // As large as they get, so that none is copied to a larger place while queries wait; what is not used takes no memory. The
            // table is larger by far: it is never so full that it has to be made anew, however much comes and goes.
            questions: Slab::with_capacity(MAX_QUESTIONS),
            by_question: HashTable::with_capacity(4 * MAX_QUESTIONS),
            begun: VecDeque::with_capacity(MAX_QUESTIONS),
            fresh: VecDeque::with_capacity(MAX_QUESTIONS),
            attempts: Attempts::with_capacity(2 * MAX_QUESTIONS),
            timers: Timers::with_capacity(2 * MAX_QUESTIONS),
            outgoing: VecDeque::new(),
            done: VecDeque::new(),
            waiters: 0,
            next_serial: 0,
            retries: Allowance::default(),
            rng: fastrand::Rng::with_seed(secret.next_u64()),
            secret,
        }
    }

    /// Asks the servers of a `group` on behalf of `waiter`, or of nobody who waits.
    pub fn ask(
        &mut self,
        question: &Question<'_>,
        group: u16,
        passed_by: &[u64],
        waiter: Option<W>,
        now: Instant,
    ) -> Asked<W> {
        let servers = self.groups.get(usize::from(group)).map_or(&[][..], Vec::as_slice);
        self.turn = if self.rotate { self.turn.wrapping_add(1) } else { 0 };
        let (before, from) = servers.split_at(self.turn.checked_rem(servers.len()).unwrap_or(0));
        let chosen = choose(&self.servers, from.iter().chain(before).copied(), &[], self.rotate);
        if chosen.is_some()
            && let Some(key) = self.find(question)
        {
            return self.join(key, waiter);
        }
        let beside = explore(&mut self.servers, servers, chosen, now, &mut self.rng);
        let is_known = chosen.is_none() && self.find(question).is_some();
        if (chosen.is_none() && beside.is_none()) || is_known {
            return Asked { what: What::Nobody(waiter), displaced: None };
        }
        // If all are down, the question goes to one of them to see whether it is back, and nobody waits for that.
        let (waiter, left) = if chosen.is_some() { (waiter, None) } else { (None, Some(waiter)) };
        let displaced = if self.questions.len() < MAX_QUESTIONS && self.waiters < MAX_WAITERS {
            None
        } else {
            self.end_oldest(None)
        };
        let key = self.begin(question, group, passed_by, waiter, now);
        chosen.into_iter().chain(beside).for_each(|server| self.queue(key, server, false));
        Asked { what: left.map_or(What::New, What::Nobody), displaced }
    }

    fn begin(
        &mut self,
        question: &Question<'_>,
        group: u16,
        passed_by: &[u64],
        waiter: Option<W>,
        now: Instant,
    ) -> usize {
        self.waiters += usize::from(waiter.is_some());
        let serial = self.next_serial;
        self.next_serial += 1;
        let key = self.questions.insert(Pending {
            question: question.into(),
            waiters: waiter.into_iter().collect(),
            serial,
            group,
            by_datagram: SmallVec::new(),
            over_stream: SmallVec::new(),
            cut_short: SmallVec::new(),
            failed: SmallVec::new(),
            failure: None,
            last: None,
            is_guessed_at: false,
            passed_by: passed_by.into(),
            begun: now,
        });
        let hash_of = |key: &usize| self.questions[*key].question.get().hash();
        self.by_question.insert_unique(question.hash(), key, hash_of);
        self.begun.push_back(Begun { at: now, key, serial });
        self.fresh.push_back(Begun { at: now, key, serial });
        key
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, question: &Question<'_>) -> bool {
        self.find(question).is_some()
    }

    /// Messages that wait to be sent, with those of questions that have ended meanwhile: these are passed over when it is their turn.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.outgoing.len()
    }

    fn find(&self, question: &Question<'_>) -> Option<usize> {
        let is_it = |key: &usize| self.questions[*key].question.get() == *question;
        self.by_question.find(question.hash(), is_it).copied()
    }

    fn join(&mut self, key: usize, waiter: Option<W>) -> Asked<W> {
        let mut displaced = None;
        while self.waiters >= MAX_WAITERS && displaced.is_none() {
            match self.end_oldest(Some(key)) {
                Some(ended) => displaced = Some(ended).filter(|ended| !ended.waiters.is_empty()),
                None => return Asked { what: What::Full(waiter), displaced },
            }
        }
        self.waiters += usize::from(waiter.is_some());
        self.questions[key].waiters.extend(waiter);
        Asked { what: What::Joined, displaced }
    }

    /// Gives up the oldest question but for one that stays.
    fn end_oldest(&mut self, stays: Option<usize>) -> Option<Ended<W>> {
        for _ in 0..self.begun.len() {
            let oldest = self.begun.pop_front()?;
            if !self.is_open(oldest.key, oldest.serial) {
                continue;
            }
            if stays != Some(oldest.key) {
                return Some(self.end(oldest.key));
            }
            // It is younger than the others now: it may take somewhat longer until it is given up.
            self.begun.push_back(oldest);
        }
        None
    }

    fn is_open(&self, key: usize, serial: u64) -> bool {
        self.questions.get(key).is_some_and(|pending| pending.serial == serial)
    }

    fn end(&mut self, key: usize) -> Ended<W> {
        let Pending { question, waiters, .. } = self.questions.remove(key);
        if let Ok(entry) = self.by_question.find_entry(question.get().hash(), |it| *it == key) {
            entry.remove();
        }
        self.waiters -= waiters.len();
        Ended { question, waiters }
    }

    fn queue(&mut self, key: usize, server: u16, stream: bool) {
        let pending = &mut self.questions[key];
        let stream = stream || pending.is_guessed_at || self.streamed[usize::from(server)];
        if stream {
            pending.over_stream.push(server)
        } else {
            pending.by_datagram.push(server)
        }
        self.outgoing.push_back(Outgoing { key, serial: pending.serial, server, stream });
    }

    /// Whom the next message is for that is to be sent.
    pub fn next_server(&mut self) -> Option<u16> {
        loop {
            let Outgoing { key, serial, server, .. } = *self.outgoing.front()?;
            if self.is_open(key, serial) {
                return Some(server);
            }
            self.outgoing.pop_front();
        }
    }

    /// The next message that is to be sent, from this `slot` if it is a datagram.
    #[allow(clippy::cast_possible_truncation)] // of random bits any will do
    pub fn next_to_send(&mut self, slot: u8, now: Instant) -> Option<Sending<'_>> {
        self.next_server()?;
        let Outgoing { key, serial, server, stream } = self.outgoing.pop_front()?;
        let slot = if stream { STREAM } else { slot };
        let mut place = Place { server, slot, id: 0 };
        // Where nearly all ids are taken, what has been waited for there is not waited for any more.
        for _ in 0..MAX_DRAWS {
            // Sixteen of its bits.
            place.id = self.secret.next_u32() as u16;
            if self.attempts.get(place).is_none() {
                break;
            }
        }
        let state = &self.servers[usize::from(server)];
        state.meter.count(Count::Sent);
        let (edns, case_bits) = (state.speaks_edns(now), self.secret.next_u64());
        let pending = &mut self.questions[key];
        let asked = pending.by_datagram.iter().chain(&pending.over_stream);
        let times = asked.filter(|it| **it == server).count();
        let patience = state.patience(u32::try_from(times).unwrap_or(1).saturating_sub(1));
        pending.last = Some(place);
        self.attempts.insert(place, Attempt { key, serial, sent: now, case_bits, edns, is_late: false });
        self.timers.set(now + patience, place, serial, now);
        let Pending { question, passed_by, .. } = &self.questions[key];
        Some(Sending { place, question: question.get(), edns, case_bits, passed_by })
    }

    /// What was asked from `place`.
    ///
    /// # Errors
    /// If nothing is awaited there.
    pub fn awaited(&mut self, place: Place, now: Instant) -> Result<Awaited<'_>, Unawaited> {
        let Some(&Attempt { key, serial, case_bits, edns, .. }) = self.attempts.get(place) else {
            self.meter(place).count(Count::Mismatched);
            return Err(Unawaited::Unasked);
        };
        let open = self.is_open(key, serial);
        if !open || (self.questions[key].is_guessed_at && place.slot != STREAM) {
            // Another server was faster, or is asked over a stream. It is good to know when this one has answered.
            self.close(place, now);
            return Err(Unawaited::NoMore);
        }
        Ok(Awaited { question: self.questions[key].question.get(), edns, case_bits })
    }

    /// A datagram in the name of `server` has this question, but not all else that an answer has to have. Who tries one id after the
    /// other will come upon the right one: the server is asked over a stream, and datagrams are not believed any more.
    pub fn guessed_at(&mut self, server: u16, question: &Question<'_>) {
        let Some(key) = self.find(question) else { return };
        let pending = &mut self.questions[key];
        let is_awaited = pending.by_datagram.contains(&server)
            && !pending.failed.contains(&server)
            && !pending.cut_short.contains(&server);
        if is_awaited && !pending.is_guessed_at {
            pending.is_guessed_at = true;
            self.queue(key, server, true);
        }
    }

    /// Ends the attempt at `place` by an answer; returns its question if that is open.
    fn close(&mut self, place: Place, now: Instant) -> Option<usize> {
        let Attempt { key, serial, sent, .. } = self.attempts.remove(place)?;
        let server = &mut self.servers[usize::from(place.server)];
        server.note_answer(now.saturating_duration_since(sent));
        self.is_open(key, serial).then_some(key)
    }

    /// Where it is counted what the server at `place` does.
    #[must_use]
    pub fn meter(&self, place: Place) -> &Meter {
        &self.servers[usize::from(place.server)].meter
    }

    /// There is an answer from `place`.
    pub fn answered(&mut self, place: Place, now: Instant) -> Option<Ended<W>> {
        let key = self.close(place, now)?;
        Some(self.end(key))
    }

    /// The answer from `place` was cut short: the same server is asked over a stream.
    pub fn truncated(&mut self, place: Place, now: Instant) {
        self.meter(place).count(Count::Truncated);
        if let Some(key) = self.close(place, now) {
            self.questions[key].cut_short.push(place.server);
            self.queue(key, place.server, true);
        }
    }

    /// The server does not speak EDNS: it is asked again without.
    pub fn without_edns(&mut self, place: Place, now: Instant) {
        if let Some(key) = self.close(place, now) {
            self.servers[usize::from(place.server)].note_no_edns(now);
            self.queue(key, place.server, place.slot == STREAM);
        }
    }

    /// All questions that nobody has been told of: to be asked of other servers, or given up.
    pub fn take_all(&mut self) -> Vec<Ended<W>> {
        let mut all: Vec<_> = self.done.drain(..).map(|(ended, _)| ended).collect();
        let keys: Vec<_> = self.questions.iter().map(|(key, _)| key).collect();
        all.extend(keys.into_iter().map(|key| self.end(key)));
        all
    }

    /// Whether there is something to send or to tell at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.outgoing.is_empty() || !self.done.is_empty()
    }

    /// When there will be something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.next();
        let over = self.begun.front().map(|begun| begun.at + self.timeout);
        let overdue = self.fresh.front().map(|begun| begun.at + STALE_AFTER);
        [timer, over, overdue].into_iter().flatten().min()
    }

    /// Questions in flight.
    #[must_use]
    pub fn len(&self) -> usize {
        self.questions.len()
    }

    /// Those who wait for them.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.waiters
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }
}
