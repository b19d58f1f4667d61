//! A worker with a resolver, without sockets, at a time of its own.

mod servers;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use redbreast::answer::access::Access;
use redbreast::answer::answerer::Answerer;
use redbreast::answer::identity::Identity;
use redbreast::answer::metrics::{Counters, Event};
use redbreast::answer::service::Service;
use redbreast::answer::types::{self, Deferred, Origin, Turn, Verdict};
use redbreast::resolver::Resolver;
use redbreast::resolver::cache::Limits;
use redbreast::resolver::forwarder::{Arrival, Arrivals, Forwarder};
use redbreast::resolver::in_flight::{StreamEnd, TransactionKey};
use redbreast::resolver::meter::Count;
use redbreast::resolver::query::MAX_QUERY_LEN;
use redbreast::resolver::routes::Routes;
use redbreast::resolver::settings::{Forward, Order, Upstreams};
use redbreast::resolver::upstream::Upstream;
use redbreast::sys::published::Current;
use redbreast::table::{Publisher, Table, ZoneSettings};
use redbreast::wire::cookie::Secrets;
use redbreast::wire::header::{self, rcode::mnemonic};
use redbreast::wire::name::Name;
use redbreast::wire::record::rtype;
use redbreast::wire::response::{DEFAULT_UDP_LEN, Transport};

use crate::message::{Message, name_at, wire};
use crate::script::Question;
use servers::Habit;

/// Lines of what has happened of late: of all that a question lives through.
const MAX_TRACE: usize = 20_000;

/// What there is from the beginning.
#[derive(Clone)]
pub(crate) struct Settings {
    pub(crate) upstreams: Vec<Upstream>,
    pub(crate) forwards: Vec<Forward>,
    pub(crate) timeout: Duration,
    pub(crate) max_stale: Duration,
    pub(crate) seed: u64,
    pub(crate) rotate: bool,
    pub(crate) order: Order,
    /// But for these domains.
    pub(crate) rebind_protection: Option<Vec<Name>>,
    pub(crate) min_ttl: Duration,
    pub(crate) negative_ttl: Duration,
    pub(crate) fail_fast: bool,
    pub(crate) mix_case: bool,
}

/// Who asked.
#[derive(Clone, Copy)]
enum Client {
    One(u8),
    /// One of the crowd.
    Some,
}

struct Waiter {
    client: Client,
    asked: Duration,
    query: Vec<u8>,
}

enum Arriving {
    Message { server: u16, slot: u8, bytes: Vec<u8> },
    StreamBroken { server: u16, slot: u8, end: StreamEnd },
    Refused { server: u16, slot: u8 },
}

/// What has come from upstreams, and a place for the message in hand.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Arriving>,
    message: Vec<u8>,
}

impl Arrivals for Line {
    fn next(&mut self, _: Instant) -> Option<Arrival<'_>> {
        Some(match self.waiting.pop_front()? {
            Arriving::Message { server, slot, bytes } => {
                self.message = bytes;
                Arrival::Message { server, slot, bytes: &self.message }
            }
            Arriving::StreamBroken { server, slot, end } => Arrival::StreamBroken { server, slot, end },
            Arriving::Refused { server, slot } => Arrival::Refused { server, slot },
        })
    }
}

/// A query that was sent and not answered.
struct Sent {
    place: TransactionKey,
    query: Vec<u8>,
}

/// What will happen, in the order in which it will.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Coming {
    /// One of the crowd asks for that name and type.
    Ask(String, u16),
    Answer {
        server: u16,
        slot: u8,
        bytes: Vec<u8>,
    },
    /// It reaches nobody.
    Refusal {
        server: u16,
        slot: u8,
    },
}

pub(crate) struct World {
    settings: Settings,
    epoch: Instant,
    pub(crate) now: Duration,
    table: Arc<Table>,
    answerer: Answerer,
    /// Where answers are written.
    buffer: Vec<u8>,
    forwarder: Forwarder<Waiter>,
    routes: Current<Routes>,
    line: Line,
    sent: Vec<Sent>,
    /// Connections that are there, and servers that there has been one to.
    streams: HashSet<(u16, u8)>,
    silent_streams: HashSet<(u16, u8)>,
    /// Servers that our sockets do not reach until they are renewed: this host has got another address.
    unreached: HashSet<u16>,
    streamed: HashMap<u16, u8>,
    habits: HashMap<String, Habit>,
    coming: BinaryHeap<Reverse<(Duration, usize, Coming)>>,
    came: usize,
    /// What the crowd asks for.
    crowd_names: HashSet<String>,
    pub(crate) crowd_got: BTreeMap<String, u64>,
    pub(crate) crowd_waited: Vec<Duration>,
    counts: HashMap<&'static str, u64>,
    /// What has happened of late, if somebody wants to know.
    pub(crate) trace: Option<VecDeque<String>>,
    /// What had happened when one of the crowd was given no answer first.
    pub(crate) before_failure: Option<VecDeque<String>>,
    /// What has come out and nobody has expected yet.
    pub(crate) outputs: Vec<String>,
    rng: fastrand::Rng,
}

impl World {
    pub(crate) fn new(settings: Settings) -> Self {
        let service = Service {
            access: Access::new(["0.0.0.0/0".parse().expect("a network")]),
            forwarders: None,
            identity: Identity::new(None),
            rate_limit: 0,
            udp_len: DEFAULT_UDP_LEN,
            offloads: false,
        };
        let mut rng = fastrand::Rng::with_seed(settings.seed);
        let secrets = Current::new(Secrets::random());
        let mut answerer = Answerer::new(Arc::new(service), secrets.reader(), rng.fork());
        let domain = Name::from_text("redbreast.internal").expect("a name");
        let before = Routes { own: vec![domain.clone()], ..Routes::default() };
        let routes = Current::new(routes_of(&settings, &before));
        let seconds = |time: Duration| u32::try_from(time.as_secs()).expect("a few days");
        let limits = Limits {
            max_stale_s: seconds(settings.max_stale),
            min_ttl_s: seconds(settings.min_ttl),
            negative_ttl_s: seconds(settings.negative_ttl),
            ..Limits::default()
        };
        answerer.set_resolver(Resolver::new(routes.reader(), limits, 1));
        let table = Publisher::new(&[domain], ZoneSettings { ttl_s: 1, negative_ttl_s: 1 }).current();
        Self {
            forwarder: Forwarder::new(
                0,
                settings.mix_case,
                StdRng::seed_from_u64(settings.seed),
                table.seed(),
            ),
            settings,
            epoch: Instant::now(),
            now: Duration::ZERO,
            table,
            answerer,
            buffer: vec![0; 65_535],
            routes,
            line: Line::default(),
            sent: Vec::new(),
            streams: HashSet::new(),
            silent_streams: HashSet::new(),
            unreached: HashSet::new(),
            streamed: HashMap::new(),
            habits: HashMap::new(),
            coming: BinaryHeap::new(),
            came: 0,
            crowd_names: HashSet::new(),
            crowd_got: BTreeMap::new(),
            crowd_waited: Vec::new(),
            counts: HashMap::new(),
            trace: None,
            before_failure: None,
            outputs: Vec::new(),
            rng,
        }
    }

    /// Lets time pass. What happens on the way comes out with the time at which it did.
    pub(crate) fn advance(&mut self, to: Duration) -> Result<(), String> {
        loop {
            let deadline = self.forwarder.deadline().map(|at| ceil(at.saturating_duration_since(self.epoch)));
            let coming = self.coming.peek().map(|Reverse((at, ..))| *at);
            let next = deadline.into_iter().chain(coming).min().filter(|at| *at <= to);
            if next != Some(self.now) && !self.outputs.is_empty() && self.now < to {
                return Err(format!("at {:?}: {}", self.now, self.outputs.join("; ")));
            }
            let Some(next) = next else { break };
            self.now = next.max(self.now);
            while let Some(Reverse((_, _, coming))) = self.next_coming() {
                match coming {
                    Coming::Ask(name, qtype) => self.ask(Client::Some, &name, qtype, (false, false)),
                    Coming::Answer { server, slot, bytes } => {
                        self.arrive(server, slot, bytes);
                    }
                    Coming::Refusal { server, slot } => self.refuse(server, slot),
                }
            }
            self.turn();
            if self.forwarder.deadline().is_some_and(|at| at <= self.epoch + self.now) {
                return Err(format!("at {:?}: there is something to do that is not done", self.now));
            }
        }
        self.now = to;
        Ok(())
    }

    fn next_coming(&mut self) -> Option<Reverse<(Duration, usize, Coming)>> {
        self.coming.peek().filter(|Reverse((at, ..))| *at <= self.now)?;
        self.coming.pop()
    }

    fn push(&mut self, at: Duration, coming: Coming) {
        self.coming.push(Reverse((at, self.came, coming)));
        self.came += 1;
    }

    /// The time as the worker takes it at the beginning of a turn.
    fn begin_turn(&mut self) -> Instant {
        let now = self.epoch + self.now;
        let resolver = self.answerer.resolver().expect("it has one");
        self.forwarder.begin_turn(resolver, now);
        resolver.set_time(u32::try_from(self.now.as_secs()).expect("not for so long"));
        now
    }

    /// What a worker does in a turn, but for its sockets: `take_upstreams_turn` of `worker`.
    pub(crate) fn turn(&mut self) {
        loop {
            let now = self.begin_turn();
            while let Some(resolver) = self.answerer.resolver()
                && let Some(done) = self.forwarder.next_done(resolver, &mut self.line, now)
            {
                for waiter in done.tell(resolver) {
                    self.answer(waiter, true);
                }
            }
            while let Some(waiters) = self.forwarder.next_dropped() {
                *self.counts.entry(Event::UpstreamDropped.name()).or_default() += waiters.len() as u64;
            }
            let resolver = self.answerer.resolver().expect("it has one");
            resolver.end_outcome();
            let prefetched = self.forwarder.refresh(resolver, now);
            *self.counts.entry(Event::Prefetched.name()).or_default() += prefetched as u64;
            self.flush(now);
            if !self.forwarder.is_busy() && self.line.waiting.is_empty() {
                return;
            }
        }
    }

    fn flush(&mut self, now: Instant) {
        while let Some(server) = self.forwarder.next_renewal() {
            self.unreached.remove(&server);
        }
        while let Some(stream) = self.forwarder.next_closing() {
            self.streams.remove(&stream);
            self.silent_streams.remove(&stream);
        }
        while self.forwarder.next_server().is_some() {
            let slot = self.rng.u8(..16);
            let Some(outgoing) = self.forwarder.next_to_send(slot, now) else { continue };
            let mut query = vec![0; MAX_QUERY_LEN];
            let place = outgoing.place();
            let len = outgoing.write(&mut query);
            query.truncate(len);
            self.take_sent(Sent { place, query });
        }
    }

    /// Notes what happens.
    pub(crate) fn note(&mut self, what: impl Fn() -> String) {
        let now = self.now;
        if let Some(trace) = &mut self.trace {
            trace.push_back(format!("{now:?} {}", what()));
            if trace.len() > MAX_TRACE {
                trace.pop_front();
            }
        }
    }

    /// This host has got another address: what is sent from the old one gets lost.
    pub(crate) fn address_changes(&mut self) {
        let servers = self.routes.load().servers.len();
        self.unreached = (0..u16::try_from(servers).expect("a few")).collect();
    }

    pub(crate) fn client_asks(&mut self, client: u8, question: &Question, flags: (bool, bool)) {
        self.ask(Client::One(client), &question.name, number_of(&question.qtype), flags);
        self.turn();
    }

    pub(crate) fn crowd_asks(&mut self, count: u32, question: &Question, every: Duration) {
        for i in 0..count {
            let name = question.name.replace('*', &i.to_string());
            self.crowd_names.insert(name.clone());
            self.push(self.now + every * i, Coming::Ask(name, number_of(&question.qtype)));
        }
    }

    fn ask(&mut self, client: Client, name: &str, qtype: u16, flags: (bool, bool)) {
        self.begin_turn();
        let (dnssec_ok, checking_disabled) = flags;
        let mut head = *b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01";
        head[3] |= if checking_disabled { header::CD } else { 0 };
        let head = &head[..];
        let name = wire(name).expect("was read");
        let mut opt = *b"\0\0\x29\x04\xd0\0\0\0\0\0\0";
        opt[7] |= u8::from(dnssec_ok) << 7;
        let query = [head, &name, &qtype.to_be_bytes(), &[0, 1][..], &opt].concat();
        self.answer(Waiter { client, asked: self.now, query }, false);
    }

    /// Answers a query, or has it wait: `worker::deferred` without the sockets.
    fn answer(&mut self, waiter: Waiter, deferred: bool) {
        let mut buffer = std::mem::take(&mut self.buffer);
        let len = waiter.query.len();
        buffer[..len].copy_from_slice(&waiter.query);
        let Self { answerer, table, counts, .. } = self;
        let counters = Counters::default();
        let turn = Turn { table, counters: &counters, now_s: 1_800_000_000 };
        let client = Ipv4Addr::new(10, 0, 0, 1).into();
        let origin = Origin { transport: Transport::Udp, client, deferred };
        let verdict = answerer.answer(&turn, types::Message { buffer: &mut buffer, len }, origin);
        for event in Event::ALL {
            *counts.entry(event.name()).or_default() += counters.get(*event);
        }
        match verdict {
            Verdict::Reply { len } => self.take_reply(&waiter, &buffer[..len]),
            Verdict::Defer(Deferred::Upstream(query)) if !deferred => {
                *counts.entry(Event::UpstreamQuery.name()).or_default() += 1;
                let now = self.epoch + self.now;
                if self.forwarder.ask(&query.question(), query.group, &query.passed_by, waiter, now) {
                    *counts.entry(Event::Coalesced.name()).or_default() += 1;
                }
            }
            other => panic!("{other:?}"),
        }
        self.buffer = buffer;
    }

    fn take_reply(&mut self, waiter: &Waiter, response: &[u8]) {
        let message = Message::read(response);
        match waiter.client {
            Client::One(client) => self.outputs.push(format!("client {client} gets {message}")),
            Client::Some => {
                let rcode = mnemonic(response[3] & header::RCODE_MASK).to_owned();
                let name = name_at(response, header::LEN);
                self.note(|| format!("{name}, asked at {:?}, gets {rcode}", waiter.asked));
                if rcode == "SERVFAIL"
                    && let Some(trace) = self.trace.take()
                {
                    let concerns_it = |line: &String| {
                        [&*name, "upstream ", "nobody"].iter().any(|word| line.contains(word))
                    };
                    self.before_failure = Some(trace.into_iter().filter(concerns_it).collect());
                }
                *self.crowd_got.entry(rcode).or_default() += 1;
                self.crowd_waited.push(self.now - waiter.asked);
            }
        }
    }

    pub(crate) fn change_upstreams(&mut self, upstreams: Vec<Upstream>) {
        self.settings.upstreams = upstreams;
        self.sent.clear();
        self.streams.clear();
        self.streamed.clear();
        let routes = routes_of(&self.settings, &self.routes.load());
        self.routes.replace(routes);
        self.turn();
    }

    /// How often something was counted, of a server or of all.
    pub(crate) fn counted(&self, server: Option<&str>, count: &str) -> Result<u64, String> {
        let Some(server) = server else {
            let known = Event::ALL.iter().any(|event| event.name() == count);
            let counted = self.counts.get(count).copied().unwrap_or_default();
            return if known { Ok(counted) } else { Err(format!("nobody counts `{count}`")) };
        };
        let known = Count::ALL.into_iter().find(|it| it.name() == count);
        let known = known.ok_or_else(|| format!("nobody counts `{count}` of a server"))?;
        let number = self.number_of(server)?;
        Ok(self.routes.load().servers[usize::from(number)].meters[0].get(known))
    }

    fn name_of(&self, server: u16) -> String {
        self.routes.load().servers[usize::from(server)].upstream.to_string()
    }

    fn number_of(&self, server: &str) -> Result<u16, String> {
        let routes = self.routes.load();
        let number = routes.servers.iter().position(|it| it.upstream.to_string() == server);
        let number = number.ok_or_else(|| format!("{server} is no upstream"))?;
        Ok(u16::try_from(number).expect("a few"))
    }
}

fn routes_of(settings: &Settings, before: &Routes) -> Routes {
    let Settings { upstreams, forwards, timeout, rotate, fail_fast, .. } = settings;
    let mut upstreams = Upstreams::new(upstreams.clone(), forwards.clone(), *timeout);
    (upstreams.rotate, upstreams.fail_fast) = (*rotate, *fail_fast);
    upstreams.order = settings.order;
    upstreams.rebind_protection = settings.rebind_protection.is_some();
    upstreams.rebind_allow = settings.rebind_protection.clone().unwrap_or_default();
    Routes::new(upstreams, 1, before)
}

/// The time in whole microseconds, as the clock of scenarios goes.
fn ceil(time: Duration) -> Duration {
    Duration::from_micros(u64::try_from(time.as_nanos().div_ceil(1_000)).expect("not for so long"))
}

fn number_of(qtype: &str) -> u16 {
    rtype::from_text(qtype).expect("was read")
}
