//! Questions that upstream servers have been asked, who waits for the answers, and who is asked next when none comes.
//!
//! Owned by one worker. It does no I/O and takes the time as an argument: what is to be sent is told by
//! [`InFlight::next_to_send`], what has come is told to it.

mod answers;
mod attempts;
mod broken;
mod checks;
mod pending;
mod retransmit;
mod retry_budget;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use attempts::Attempts;
pub use broken::StreamEnd;
use broken::{Connections, stream_patience};
use hashbrown::HashTable;
use pending::{Attempt, AttemptState, Pending};
use rand::Rng as _;
use rand::rngs::StdRng;
pub use retransmit::STALE_AFTER;
use retry_budget::RetryBudget;
use slab::Slab;
use smallvec::SmallVec;
use timers::Timers;

use super::meter::Count;
use super::question::{OwnedQuestion, Question};
use super::routes::Routes;
use super::servers::{ChoiceRules, Server, Subject, choose, explore};
use super::settings::Order;
use super::upstream::{Protocol, is_near};

/// Questions of one worker in flight at most; for a new one the oldest is given up.
pub const MAX_QUESTIONS: usize = crate::limits::MAX_QUESTIONS;

/// Queries of one worker that wait for them at most; the same holds.
pub const MAX_WAITERS: usize = crate::limits::MAX_WAITERS;

/// Ids that are drawn for a message until one is free.
const MAX_DRAWS: usize = 8;

/// Connections of one worker to one server at most: one that is used, and others whose answers may still come.
pub const STREAMS: u8 = crate::limits::UPSTREAM_STREAMS;

/// The first of the slots of what is sent over streams, which have no ports of their own: one for each connection.
pub const STREAM: u8 = u8::MAX - STREAMS + 1;

/// Questions of our own that one question leads to by aliases at most: BIND's limit.
const MAX_STAGES: usize = crate::limits::MAX_ALIAS_QUESTIONS;

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// All servers that could be asked are down, or there are none.
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
pub struct TransactionKey {
    /// The number of the server.
    pub server: u16,
    /// Which of the sockets for that server, or from [`STREAM`] on which of the connections.
    pub slot: u8,
    /// The message's id.
    pub id: u16,
}

impl TransactionKey {
    /// Whether it was sent over a stream.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.slot >= STREAM
    }
}

/// Something to be sent.
pub struct Sending<'a> {
    /// To whom, from where, and with which id.
    pub place: TransactionKey,
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
    /// The answers whose aliases have led to it.
    pub before: &'a [Box<[u8]>],
    /// The group of servers that are asked.
    pub group: u16,
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
    /// The servers, by number, and where they are.
    pub servers: Vec<Server>,
    addresses: Vec<IpAddr>,
    /// Whether a server is asked over streams alone; the connections to each.
    streamed: Vec<bool>,
    connections: Vec<Connections>,
    groups: Vec<Vec<u16>>,
    /// The servers of a group are asked in turn; who is next.
    rotate: bool,
    turn: usize,
    order: Order,
    /// Where all are down there is no answer, and nobody is asked but to see whether they are back.
    fail_fast: bool,
    questions: Slab<Pending<W>>,
    by_question: HashTable<usize>,
    /// In the order in which they began, which is that in which their time is over. Those that have ended before are
    /// passed over.
    begun: VecDeque<Begun>,
    /// The same, of those whose clients have not waited for long yet.
    fresh: VecDeque<Begun>,
    /// Those whom nobody can answer now, by key and serial number.
    hurried: VecDeque<(usize, u64)>,
    attempts: Attempts,
    timers: Timers,
    outgoing: VecDeque<Outgoing>,
    /// Servers that are to be asked by new sockets.
    renewals: VecDeque<u16>,
    /// Connections that are to be closed.
    closings: VecDeque<(u16, u8)>,
    /// Given up while something else was done.
    done: VecDeque<(Ended<W>, Failure)>,
    waiters: usize,
    next_serial: u64,
    retries: RetryBudget,
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
            servers: servers
                .iter()
                .map(|it| Server::new(it.meter(worker), is_near(it.upstream.address.ip())))
                .collect(),
            addresses: servers.iter().map(|it| it.upstream.address.ip()).collect(),
            streamed: servers.iter().map(|it| it.upstream.protocol != Protocol::Dns).collect(),
            connections: servers.iter().map(|_| Connections::default()).collect(),
            groups: groups.clone(),
            rotate: upstreams.rotate,
            turn: 0,
            order: upstreams.order,
            fail_fast: upstreams.fail_fast,
            // As large as they get, so that none is copied to a larger place while queries wait; what is not used takes
            // no memory. The table is larger by far: it is never so full that it has to be made anew, however much
            // comes and goes.
            questions: Slab::with_capacity(MAX_QUESTIONS),
            by_question: HashTable::with_capacity(4 * MAX_QUESTIONS),
            begun: VecDeque::with_capacity(MAX_QUESTIONS),
            fresh: VecDeque::with_capacity(MAX_QUESTIONS),
            hurried: VecDeque::new(),
            attempts: Attempts::with_capacity(2 * MAX_QUESTIONS),
            timers: Timers::with_capacity(2 * MAX_QUESTIONS),
            outgoing: VecDeque::new(),
            renewals: VecDeque::new(),
            closings: VecDeque::new(),
            done: VecDeque::new(),
            waiters: 0,
            next_serial: 0,
            retries: RetryBudget::default(),
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
        self.check_those_down(group, now);
        let all_down = self.all_down(group);
        if let Some(key) = self.find(question) {
            let joined = self.join(key, waiter);
            self.hurry(key);
            return joined;
        }
        let servers = self.groups.get(usize::from(group)).map_or(&[][..], Vec::as_slice);
        self.turn = if self.rotate { self.turn.wrapping_add(1) } else { 0 };
        let (before, from) = servers.split_at(self.turn.checked_rem(servers.len()).unwrap_or(0));
        let in_turn = self.rotate || self.order != Order::Fastest;
        let manner = ChoiceRules { qtype: question.qtype, in_turn };
        let chosen = choose(&self.servers, from.iter().chain(before).copied(), &[], manner);
        let Some(chosen) = chosen.filter(|_| !(all_down && self.fail_fast)) else {
            return Asked { what: What::Nobody(waiter), displaced: None };
        };
        // Where the order is told, and kept, nobody needs to know how fast the others are.
        let is_kept = self.order != Order::Fastest && !self.rotate && servers.first() == Some(&chosen);
        let beside = if is_kept { None } else { explore(&self.servers, servers, chosen, &mut self.rng) };
        let displaced = if self.has_room() { None } else { self.end_oldest(None) };
        let key = self.insert(question.into(), group, passed_by, waiter, false, now);
        [chosen].into_iter().chain(beside).for_each(|server| self.queue(key, server, false));
        self.hurry(key);
        Asked { what: What::New, displaced }
    }

    fn has_room(&self) -> bool {
        self.questions.len() < MAX_QUESTIONS && self.waiters < MAX_WAITERS
    }

    fn insert(
        &mut self,
        question: OwnedQuestion,
        group: u16,
        passed_by: &[u64],
        waiter: Option<W>,
        is_check: bool,
        now: Instant,
    ) -> usize {
        self.waiters += usize::from(waiter.is_some());
        let serial = self.next_serial;
        self.next_serial += 1;
        let hash = question.get().hash();
        let key = self.questions.insert(Pending {
            question,
            waiters: waiter.into_iter().collect(),
            serial,
            group,
            by_datagram: SmallVec::new(),
            refused: SmallVec::new(),
            resting: SmallVec::new(),
            over_stream: SmallVec::new(),
            ended: 0,
            broken: SmallVec::new(),
            cut_short: SmallVec::new(),
            rejects_option: SmallVec::new(),
            rejects_edns: SmallVec::new(),
            failed: SmallVec::new(),
            failure: None,
            last: None,
            stage: None,
            is_spoof_suspected: false,
            is_check,
            passed_by: passed_by.into(),
            begun: now,
        });
        self.begun.push_back(Begun { at: now, key, serial });
        if !is_check {
            let hash_of = |key: &usize| self.questions[*key].question.get().hash();
            self.by_question.insert_unique(hash, key, hash_of);
            self.fresh.push_back(Begun { at: now, key, serial });
        }
        key
    }

    /// Whether it is one of them.
    #[must_use]
    pub fn has(&self, question: &Question<'_>) -> bool {
        self.find(question).is_some()
    }

    /// Messages that wait to be sent, with those of questions that have ended meanwhile: these are passed over when it
    /// is their turn.
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
        let stream = stream || self.needs_stream(key, server);
        let pending = &mut self.questions[key];
        if stream {
            pending.over_stream.push((server, self.connections[usize::from(server)].number()))
        } else {
            pending.by_datagram.push(server)
        }
        self.outgoing.push_back(Outgoing { key, serial: pending.serial, server, stream });
    }

    /// A server that is to be asked by new sockets.
    pub fn next_renewal(&mut self) -> Option<u16> {
        self.renewals.pop_front()
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

    /// The next message that is to be sent, from this `slot` if it is a datagram. None if there is none, or this one
    /// may not be sent yet, and is looked at again when it may.
    pub fn next_to_send(&mut self, slot: u8, now: Instant) -> Option<Sending<'_>> {
        self.next_server()?;
        let Outgoing { key, server, stream, .. } = self.outgoing.pop_front()?;
        let connections = &self.connections[usize::from(server)];
        let (slot, connection) = (if stream { connections.slot() } else { slot }, connections.number());
        // A connection may not be begun yet.
        let pause = connections.pause(now).filter(|_| stream);
        let place = self.draw(server, slot);
        self.note_attempt(key, place, pause, now);
        let pending = &mut self.questions[key];
        pending.last = Some(place);
        if !stream {
            pending.rest(server, now);
        }
        // It may be another than when it was queued.
        if let Some(at) = pending.over_stream.iter().rposition(|it| it.0 == server).filter(|_| stream) {
            pending.over_stream[at].1 = connection;
            if pause.is_some() {
                pending.over_stream.remove(at);
            }
        }
        if pause.is_some() {
            return None;
        }
        self.meter(place).count(Count::Sent);
        let pending = &self.questions[key];
        let Attempt { dress, case_bits, .. } = *self.attempts.get(place)?;
        let passed_by = if dress.option { &pending.passed_by[..] } else { &[] };
        Some(Sending { place, question: pending.asked(), edns: dress.edns, case_bits, passed_by })
    }

    /// A place with an id that nobody can guess.
    #[allow(clippy::cast_possible_truncation)] // of random bits any will do
    fn draw(&mut self, server: u16, slot: u8) -> TransactionKey {
        let mut place = TransactionKey { server, slot, id: 0 };
        // Where nearly all ids are taken, what has been waited for there is not waited for any more.
        for _ in 0..MAX_DRAWS {
            // Sixteen of its bits.
            place.id = self.secret.next_u32() as u16;
            if self.attempts.get(place).is_none() {
                break;
            }
        }
        place
    }

    /// Notes what is sent to `place`, or will not be before the `pause` is over.
    fn note_attempt(&mut self, key: usize, place: TransactionKey, pause: Option<Instant>, now: Instant) {
        let state = &self.servers[usize::from(place.server)];
        let pending = &self.questions[key];
        let over_stream = pending.over_stream.iter().map(|(server, _)| server);
        let times = pending.by_datagram.iter().chain(over_stream).filter(|it| **it == place.server).count();
        let before = u32::try_from(times).unwrap_or(1).saturating_sub(1);
        let patience = if state.is_up() || self.all_down(pending.group) {
            state.patience(before)
        } else {
            Server::patience_if_down(before)
        };
        let patience = if place.is_stream() { stream_patience(patience) } else { patience };
        let question = pending.asked();
        let attempt = Attempt {
            key,
            serial: pending.serial,
            sent: now,
            case_bits: self.secret.next_u64(),
            dress: state.taste.dress(pending.occasion(place.server, times.saturating_sub(1)), now),
            before: times.saturating_sub(1),
            state: if pause.is_none() { AttemptState::Awaited } else { AttemptState::Lost },
            stage: pending.before().len(),
            subject: Subject { hash: question.hash(), qtype: question.qtype, first: before == 0 },
        };
        self.timers.set(pause.unwrap_or(now + patience), place, attempt.serial, now);
        self.attempts.insert(place, attempt);
    }

    /// Somebody at `client` asks us: a loop is possible if we ask there.
    pub fn note_client(&mut self, client: IpAddr) {
        for (server, _) in self.servers.iter_mut().zip(&self.addresses).filter(|(_, at)| **at == client) {
            server.taste.may_loop = true;
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
        !self.outgoing.is_empty() || !self.done.is_empty() || !self.hurried.is_empty()
    }

    /// When there will be something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let timer = self.timers.next();
        let over = self.begun.front().map(|begun| begun.at + self.timeout);
        let overdue = self.fresh.front().map(|begun| begun.at + STALE_AFTER);
        [timer, over, overdue].into_iter().flatten().min()
    }

    /// Questions in flight, but for those by which servers are checked.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_question.len()
    }

    /// Those who wait for them.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.waiters
    }

    /// Whether there are none, nor checks.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.questions.is_empty()
    }
}
