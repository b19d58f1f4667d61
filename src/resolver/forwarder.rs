//! What a worker asks upstreams and makes of what comes back, without the sockets: who is asked, what is sent, whether
//! it is answered, and who is told.
//!
//! Owned by one worker. It does no I/O and takes the time as an argument: `upstream::forwarding` has the sockets, and
//! `tests/resolver_scenarios` has none, and a time of its own.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use smallvec::SmallVec;

use super::Resolver;
use super::in_flight::{
    Asked, Ended, Failure, InFlight, STREAM, Sending, StreamEnd, TransactionKey, Unawaited, What,
};
use super::message::{Expected, Fault, answered_question, read_answer};
use super::meter::Count;
use super::query::{QueryForm, mix_case, write_query};
use super::question::{OwnedQuestion, Question};
use super::routes::Routes;
use super::sanitize::AnswerBuffer;
use super::special_use::local_answer;
use crate::wire::header::rcode;
use crate::wire::name::{HashSeed, MAX_LEN, QueryName};

/// Answers, failures and silences looked at in one turn at most. When many come at once, clients that ask for names of
/// our own shall not wait for all of them.
const STEPS_PER_TURN: usize = crate::limits::STEPS_PER_TURN;

/// Attempts looked at in one turn at least, and for each that was sent in the last: as many as each is looked at, so
/// that they cannot pile up.
const LOOKS_PER_TURN: usize = crate::limits::ATTEMPTS_PER_TURN;
const LOOKS_PER_ATTEMPT: usize = crate::limits::ATTEMPTS_PER_QUERY;

/// Questions that wait to be sent at most: more than are sent in some tens of milliseconds. If all waited that come
/// beyond what can be sent, each would be given up by the time that it is its turn, and none answered.
const MAX_UNSENT: usize = crate::limits::MAX_UNSENT;

/// Questions without an answer whose clients wait to be told so at most. Where they come faster than that, clients of
/// the oldest are told nothing.
const MAX_UNTOLD: usize = crate::limits::MAX_UNTOLD;

/// The extended error (RFC 8914) of an answer that is not passed on: blocked.
const BLOCKED: u16 = 15;

/// The extended error (RFC 8914) with which a node refuses what goes round in a loop: no reachable authority.
const LOOP: u16 = 22;

/// An answer with an address of a near network, from who may not give one.
const BLOCKED_ADDRESS: Fault = Fault::Failed { rcode: rcode::REFUSED as u16, extended_error: Some(BLOCKED) };

/// Whether it may be our option that the server does not take.
fn may_be_by_option(read: Result<(), Fault>) -> bool {
    match read {
        // So says a node that the option has told of a loop.
        Err(Fault::Failed { extended_error: Some(LOOP | BLOCKED), .. }) => false,
        Err(Fault::Failed { rcode: code, .. }) => {
            [rcode::FORMERR, rcode::NOTIMP, rcode::REFUSED].iter().any(|it| u16::from(*it) == code)
        }
        _ => false,
    }
}

/// Something that has come from an upstream. Servers are known by their numbers in the [`Routes`].
pub enum Arrival<'a> {
    /// A message.
    Message {
        /// From whom.
        server: u16,
        /// To which of the sockets for that server, or from [`STREAM`] on over which connection.
        slot: u8,
        /// What it says.
        bytes: &'a [u8],
    },
    /// The connection to a server has ended, with questions that it has not answered.
    StreamBroken {
        /// To whom.
        server: u16,
        /// Which.
        slot: u8,
        /// How.
        end: StreamEnd,
    },
    /// The host of a server says that nobody is there.
    Refused {
        /// Which.
        server: u16,
        /// Which of the sockets for it was told.
        slot: u8,
    },
    /// Something on the way to a server, or our own kernel, says that it is not reached.
    Unreachable {
        /// Which.
        server: u16,
        /// By which of the sockets for it.
        slot: u8,
    },
}

/// Where it comes from.
pub trait Arrivals {
    /// The next that there is in this turn.
    fn next(&mut self, now: Instant) -> Option<Arrival<'_>>;
}

/// A query that is to be sent.
pub struct Outgoing<'a> {
    sending: Sending<'a>,
    mix_case: bool,
    /// Nobody but the server can read it.
    is_encrypted: bool,
}

impl Outgoing<'_> {
    /// To whom, from where, and with which id.
    #[must_use]
    pub fn place(&self) -> TransactionKey {
        self.sending.place
    }

    /// Writes it to the front of `out` and returns its length.
    ///
    /// # Panics
    /// If there is no room, as [`write_query`] says.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> usize {
        let Sending { place, question, edns, case_bits, passed_by } = &self.sending;
        // Nobody but the server answers over a stream; and there are servers that do not give the case back.
        let case_bits = (self.mix_case && !place.is_stream()).then_some([*case_bits; 4]);
        write_query(
            out,
            place.id,
            question,
            &QueryForm { edns: *edns, case_bits, passed_by, is_padded: self.is_encrypted },
        )
    }
}

/// A question that something has come of.
pub struct Completed<W> {
    question: OwnedQuestion,
    waiters: SmallVec<[W; 1]>,
    outcome: Completion,
}

enum Completion {
    /// The answer is in the resolver's buffer.
    Answer,
    /// There is none.
    Failed(Failure),
    /// It has been waited for for long, or all servers are down: what is stale will do.
    Stale { all_down: bool },
}

impl<W> Completed<W> {
    fn failed((ended, failure): (Ended<W>, Failure)) -> Self {
        let Ended { question, waiters } = ended;
        Self { question, waiters, outcome: Completion::Failed(failure) }
    }

    /// Has `resolver` know it; returns those who have waited.
    pub fn tell(self, resolver: &mut Resolver) -> SmallVec<[W; 1]> {
        match self.outcome {
            Completion::Answer => resolver.take_answer(self.question),
            Completion::Failed(failure) => resolver.take_failure(self.question, failure),
            Completion::Stale { all_down } => resolver.allow_stale(&self.question.get(), all_down),
        }
        self.waiters
    }
}

/// Questions to upstreams, and answers, of one worker.
pub struct Forwarder<W> {
    worker: usize,
    /// Letters of names are sent in upper or lower case by chance, and have to come back so.
    mix_case: bool,
    routes: Arc<Routes>,
    in_flight: InFlight<W>,
    /// Completed without an answer, some of it before it was asked.
    done: VecDeque<Completed<W>>,
    /// What may still be looked at in this turn, and of attempts that nobody has answered.
    steps_left: usize,
    looks_left: usize,
    /// Queries sent in this turn.
    sent: usize,
    secret: StdRng,
    /// What names are hashed with.
    seed: HashSeed,
}

impl<W> Forwarder<W> {
    /// One of the worker with this number, with nobody to ask before its first turn. Ids and, if it is to `mix_case`,
    /// letters are drawn from `secret`; names of questions are hashed with `seed`.
    #[must_use]
    pub fn new(worker: usize, mix_case: bool, mut secret: StdRng, seed: HashSeed) -> Self {
        let routes = Arc::new(Routes::default());
        let in_flight = InFlight::new(&routes, worker, StdRng::from_rng(&mut secret));
        Self {
            worker,
            mix_case,
            routes,
            in_flight,
            done: VecDeque::new(),
            steps_left: STEPS_PER_TURN,
            looks_left: LOOKS_PER_TURN,
            sent: 0,
            secret,
            seed,
        }
    }

    /// Begins a turn. If there are other routes than before, these are returned: they hold from now on, also for what
    /// is in flight, which is asked anew, and what comes from the sockets that were there before is of no use.
    pub fn begin_turn(&mut self, resolver: &mut Resolver, now: Instant) -> Option<&Routes> {
        self.steps_left = STEPS_PER_TURN;
        self.looks_left = LOOKS_PER_TURN + LOOKS_PER_ATTEMPT * std::mem::take(&mut self.sent);
        if resolver.generation() == self.routes.generation {
            return None;
        }
        self.routes = resolver.routes();
        let new = InFlight::new(&self.routes, self.worker, StdRng::from_rng(&mut self.secret));
        let open = std::mem::replace(&mut self.in_flight, new).take_all();
        // What those have said who are not asked any more is not for us to say.
        resolver.cache().clear();
        for Ended { question, waiters } in open {
            for waiter in waiters {
                let it = question.get();
                let asked = match self.group(&it) {
                    Some(group) => self.in_flight.ask(&it, group, &[resolver.id()], Some(waiter), now),
                    None => Asked { what: What::Nobody(Some(waiter)), displaced: None },
                };
                self.note(&it, asked);
            }
        }
        Some(&self.routes)
    }

    /// The servers that are asked for it.
    fn group(&self, question: &Question<'_>) -> Option<u16> {
        self.routes.group_of(question.name)
    }

    /// Somebody at `client` asks us: if we ask there, too, a loop is possible.
    pub fn note_client(&mut self, client: IpAddr) {
        self.in_flight.note_client(client);
    }

    /// Has `waiter` wait for what the servers of a `group` say of a question. Returns whether others wait for the same.
    pub fn ask(
        &mut self,
        question: &Question<'_>,
        group: u16,
        passed_by: &[u64],
        waiter: W,
        now: Instant,
    ) -> bool {
        if self.in_flight.unsent() >= MAX_UNSENT && !self.in_flight.has(question) {
            self.give_up(question, Some(waiter), Failure::Overload);
            return false;
        }
        let asked = self.in_flight.ask(question, group, passed_by, Some(waiter), now);
        let joined = matches!(asked.what, What::Joined);
        self.note(question, asked);
        joined
    }

    fn note(&mut self, question: &Question<'_>, Asked { what, displaced }: Asked<W>) {
        self.done.extend(displaced.map(|ended| Completed::failed((ended, Failure::Overload))));
        match what {
            What::New | What::Joined => {}
            What::Nobody(waiter) => self.give_up(question, waiter, Failure::NobodyThere),
            What::Full(waiter) => self.give_up(question, waiter, Failure::Overload),
        }
    }

    fn give_up(&mut self, question: &Question<'_>, waiter: Option<W>, failure: Failure) {
        let ended = Ended { question: question.into(), waiters: waiter.into_iter().collect() };
        self.done.push_back(Completed::failed((ended, failure)));
    }

    /// Those who have waited for a question that there is no time to say anything of.
    pub fn next_dropped(&mut self) -> Option<SmallVec<[W; 1]>> {
        let dropped = if self.done.len() > MAX_UNTOLD { self.done.pop_front() } else { None };
        dropped.map(|done| done.waiters)
    }

    /// Questions that upstreams have been asked, and queries that wait for the answers.
    #[must_use]
    pub fn in_flight(&self) -> (usize, usize) {
        (self.in_flight.len(), self.in_flight.waiters())
    }

    /// Asks once more for popular answers that expire soon; returns for how many.
    pub fn refresh(&mut self, resolver: &mut Resolver, now: Instant) -> usize {
        let mut count = 0;
        while let Some(question) = resolver.next_expiring() {
            let it = question.get();
            let Some(group) = self.group(&it) else { continue };
            let asked = self.in_flight.ask(&it, group, &[resolver.id()], None, now);
            // Else it is asked for already; or it cannot be, and expires.
            count += usize::from(matches!(asked.what, What::New));
            self.done.extend(asked.displaced.map(|ended| Completed::failed((ended, Failure::Overload))));
        }
        count
    }

    /// The next question that something has come of, by what `arrives` or by the time, as far as this turn goes. It is
    /// [told](Completed::tell) before the next is looked for.
    pub fn next_done(
        &mut self,
        resolver: &mut Resolver,
        arrives: &mut impl Arrivals,
        now: Instant,
    ) -> Option<Completed<W>> {
        self.steps_left = self.steps_left.checked_sub(1)?;
        // In turn, so that neither keeps the other waiting, however many there are.
        if self.steps_left.is_multiple_of(2)
            && let Some(done) = self.done.pop_front()
        {
            return Some(done);
        }
        while let Some(arrival) = arrives.next(now) {
            match arrival {
                Arrival::Message { server, slot, bytes } => {
                    if let Some(done) = self.judge(resolver.buffer(), (server, slot), bytes, now) {
                        return Some(done);
                    }
                }
                Arrival::StreamBroken { server, slot, end } => {
                    self.in_flight.stream_broken(server, slot, end, now);
                }
                Arrival::Refused { server, slot } => self.in_flight.server_refuses(server, slot, now),
                Arrival::Unreachable { server, slot } => self.in_flight.unreachable(server, slot, now),
            }
            self.steps_left = self.steps_left.checked_sub(1)?;
        }
        if let Some(done) = self.done.pop_front() {
            return Some(done);
        }
        if let Some(given_up) = self.in_flight.expire(now, &mut self.looks_left) {
            return Some(Completed::failed(given_up));
        }
        let has_stale = |question: &Question<'_>| resolver.has_stale(question);
        let (Ended { question, waiters }, all_down) = self.in_flight.next_overdue(now, has_stale)?;
        Some(Completed { question, waiters, outcome: Completion::Stale { all_down } })
    }

    /// Gives up all questions, since the server stops. What comes of each, [`next_given_up`](Self::next_given_up) says:
    /// what is stale, or [`Failure::Stopping`].
    pub fn give_up_all(&mut self) {
        let open = self.in_flight.take_all();
        self.done.extend(open.into_iter().map(|ended| Completed::failed((ended, Failure::Stopping))));
    }

    /// The next question that something has come of, whatever may arrive. It is [told](Completed::tell) before the next
    /// is looked for.
    pub fn next_given_up(&mut self) -> Option<Completed<W>> {
        self.done.pop_front()
    }

    /// What has come of a question by a `message` that came back to where it was sent from, if anything has.
    fn judge(
        &mut self,
        buffer: &mut AnswerBuffer,
        (server, slot): (u16, u8),
        message: &[u8],
        now: Instant,
    ) -> Option<Completed<W>> {
        let over_stream = slot >= STREAM;
        let exact_case = self.mix_case && !over_stream;
        let in_flight = &mut self.in_flight;
        let id = u16::from_be_bytes(*message.first_chunk()?);
        let place = TransactionKey { server, slot, id };
        let awaited = match in_flight.awaited(place, now) {
            Ok(awaited) => awaited,
            Err(Unawaited::NoMore) => return None,
            Err(Unawaited::Unasked) => {
                self.look_for_guesses(place, message);
                return None;
            }
        };
        let (question, group) = (awaited.question, awaited.group);
        let mut sent_name = [0; MAX_LEN];
        let sent_name = &mut sent_name[..question.name.len()];
        sent_name.copy_from_slice(question.name);
        if exact_case {
            mix_case(sent_name, [awaited.case_bits; 4]);
        }
        let edns = awaited.edns;
        let expected =
            Expected { id, question, sent_name, exact_case, over_stream, edns, before: awaited.before };
        let routes = &self.routes;
        // A name that nobody is asked for is theirs to tell, as far as they do.
        let is_theirs = |name: &[u8]| routes.group_of(name).is_none_or(|it| it == group);
        let read = read_answer(message, &expected, is_theirs, buffer);
        let is_near = read.is_ok()
            && group == 0
            && routes.upstreams.rebind_protection
            && !routes.upstreams.may_be_near(question.name)
            && buffer.has_near_address();
        self.conclude(buffer, place, message, if is_near { Err(BLOCKED_ADDRESS) } else { read }, now)
    }

    /// What has come of a question by what has been `read` of the `message` that came back.
    fn conclude(
        &mut self,
        buffer: &AnswerBuffer,
        place: TransactionKey,
        message: &[u8],
        read: Result<(), Fault>,
        now: Instant,
    ) -> Option<Completed<W>> {
        let in_flight = &mut self.in_flight;
        if read != Err(Fault::Mismatch) {
            let answers = matches!(read, Ok(()) | Err(Fault::Alias | Fault::Truncated | BLOCKED_ADDRESS));
            // The OPT record of one that is truncated may be missing.
            let has_opt = read != Err(Fault::Truncated) && buffer.has_opt();
            in_flight.note_dress(place, has_opt, answers, now);
        }
        let is_nobody = read.is_ok() && buffer.answer().rcode == rcode::NXDOMAIN;
        if is_nobody && in_flight.falls_back(place, now) {
            return None;
        }
        let failure = match read {
            Ok(()) => {
                let Ended { question, waiters } = in_flight.answered(place, now)?;
                return Some(Completed { question, waiters, outcome: Completion::Answer });
            }
            Err(Fault::Mismatch) => {
                in_flight.meter(place).count(Count::Mismatched);
                self.look_for_guesses(place, message);
                return None;
            }
            Err(Fault::Alias) => return self.follow(buffer, place, message, now),
            Err(Fault::Truncated) => {
                in_flight.truncated(place, now);
                return None;
            }
            Err(Fault::Malformed) => Failure::NoAnswer,
            Err(Fault::NoEdns) => Failure::Answered(rcode::FORMERR.into(), None),
            Err(Fault::Failed { rcode, extended_error }) => Failure::Answered(rcode, extended_error),
        };
        let by_edns = matches!(read, Err(Fault::NoEdns));
        if (by_edns || may_be_by_option(read)) && in_flight.rejected(place, by_edns, now) {
            return None;
        }
        in_flight.declined(place, failure, now).map(Completed::failed)
    }

    /// What has come of a question whose answer, this `message`, leads by aliases to another name, with which the
    /// `buffer` ends.
    #[cold]
    fn follow(
        &mut self,
        buffer: &AnswerBuffer,
        place: TransactionKey,
        message: &[u8],
        now: Instant,
    ) -> Option<Completed<W>> {
        let mut name = QueryName::default();
        let group = self.routes.group_of(buffer.last_name());
        let group = group.filter(|_| name.fold_wire(buffer.last_name(), self.seed).is_ok());
        let Some(group) = group.filter(|_| local_answer(name.as_wire(), 0).is_none()) else {
            let Ended { question, waiters } = self.in_flight.answered(place, now)?;
            return Some(Completed { question, waiters, outcome: Completion::Answer });
        };
        self.in_flight
            .led_on(place, message, (name.as_wire(), name.hash()), group, now)
            .map(Completed::failed)
    }

    /// A `message` that came back to `place` is no answer to what was asked from there. If it has one of the questions
    /// that are open, somebody may be trying ids.
    #[cold]
    fn look_for_guesses(&mut self, place: TransactionKey, message: &[u8]) {
        let mut name = QueryName::default();
        if !place.is_stream()
            && let Some(qtype) = answered_question(message, &mut name, self.seed)
        {
            for (dnssec_ok, checking_disabled) in [(false, false), (true, false), (false, true), (true, true)]
            {
                let (name, name_hash) = (name.as_wire(), name.hash());
                let question = Question { name, name_hash, qtype, dnssec_ok, checking_disabled };
                self.in_flight.spoof_suspected(place.server, &question);
            }
        }
    }

    /// Whom the next query is for that is to be sent.
    pub fn next_server(&mut self) -> Option<u16> {
        self.in_flight.next_server()
    }

    /// The next query that is to be sent, from this `slot` if it is a datagram; none if that may not be yet.
    pub fn next_to_send(&mut self, slot: u8, now: Instant) -> Option<Outgoing<'_>> {
        let mix_case = self.mix_case;
        let sending = self.in_flight.next_to_send(slot, now)?;
        self.sent += 1;
        let server = self.routes.servers.get(usize::from(sending.place.server));
        let is_encrypted = server.is_some_and(|it| it.upstream.protocol.identity().is_some());
        Some(Outgoing { sending, mix_case, is_encrypted })
    }

    /// The host of `server` says, to the socket of this slot, that nobody is there.
    pub fn server_refuses(&mut self, server: u16, slot: u8, now: Instant) {
        self.in_flight.server_refuses(server, slot, now);
    }

    /// What was to be sent to `server` from this slot cannot be, by what our own kernel says.
    pub fn cannot_send(&mut self, server: u16, slot: u8, now: Instant) {
        self.in_flight.unreachable(server, slot, now);
    }

    /// A connection, by server and slot, that is to be closed, if it is there: what is sent next begins another.
    pub fn next_closing(&mut self) -> Option<(u16, u8)> {
        self.in_flight.next_closing()
    }

    /// A server that is to be asked by new sockets: what was sent by those there are got lost, one after the other.
    pub fn next_renewal(&mut self) -> Option<u16> {
        self.in_flight.next_renewal()
    }

    /// Whether there is something to do at once.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.steps_left == 0 || self.looks_left == 0 || !self.done.is_empty() || self.in_flight.is_busy()
    }

    /// When there will be something to do.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.in_flight.deadline()
    }
}
