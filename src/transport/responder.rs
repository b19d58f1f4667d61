//! The seam between transports and what answers.
//!
//! A `ClientTransport` receives messages, has a `Responder` answer each in its own buffer, and sends the responses.
//! A query that cannot be answered at once is taken over by the `Defer` behind it, together with its `Client`, by
//! which `ClientTransport::deliver` gives the response its way back later.

use std::time::Duration;

use mio::Registry;

use super::client::{Client, DeferredQuery};
use crate::answer::answerer::Answerer;
use crate::answer::metrics::Counters;
use crate::answer::types::{Deferred, Message, Origin, Turn, Verdict};
use crate::sys::published::Reader;
use crate::table::Table;

/// What each transport provides, beside a kind of [`Client`].
pub(crate) trait ClientTransport {
    /// Enough to bring a response back to who sent a query.
    type Client;

    /// Receives what has come, as far as one turn goes, has each message answered, and sends the responses. Its sockets
    /// are registered with `registry`.
    fn take_turn(&mut self, registry: &Registry, responder: &mut Responder<'_>);

    /// Gives the response to a deferred query its way back: `answer` writes it to the front of a buffer, or there is
    /// none. The client may be gone.
    fn deliver(
        &mut self,
        client: Self::Client,
        answer: impl FnOnce(&mut [u8]) -> Option<usize>,
        counters: &Counters,
    );

    /// Whether there may be something to do that the poll will not report.
    fn is_busy(&self) -> bool;

    /// How long the worker may sleep.
    fn timeout(&self) -> Option<Duration>;
}

/// Who takes over queries that cannot be answered at once.
pub(crate) trait Defer {
    /// Takes one over; returns whether it may: otherwise it is answered SERVFAIL. Why is counted.
    fn defer(&mut self, deferred: &Deferred, query: DeferredQuery, counters: &Counters) -> bool;
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// The first `len` bytes of its buffer are to be sent back.
    Send {
        /// Bytes of response.
        len: usize,
    },
    /// Nothing is to be sent.
    Drop,
    /// The response comes later.
    Deferred,
}

/// What a worker answers with.
pub(crate) struct Responder<'a> {
    pub(crate) answerer: &'a mut Answerer,
    pub(crate) tables: &'a mut Reader<Table>,
    pub(crate) counters: &'a Counters,
    /// Seconds since 1970.
    pub(crate) clock: &'a dyn Fn() -> u32,
    pub(crate) deferrer: &'a mut dyn Defer,
    /// Upstreams have answered or are to be asked: what has come of other questions is not to wait for more and more
    /// new ones.
    pub(crate) beside_outcomes: bool,
}

impl Responder<'_> {
    /// What all messages of one batch are answered with: the table and the time of now.
    #[inline]
    pub(crate) fn begin_batch(&mut self) -> BatchResponder<'_> {
        let Self { answerer, tables, counters, clock, deferrer, .. } = self;
        let turn = Turn { table: tables.load(), counters, now_s: clock() };
        BatchResponder { answerer, turn, deferrer: &mut **deferrer }
    }
}

/// A [`Responder`] for the messages of one batch.
pub(crate) struct BatchResponder<'a> {
    pub(crate) answerer: &'a mut Answerer,
    pub(crate) turn: Turn<'a>,
    deferrer: &'a mut dyn Defer,
}

impl BatchResponder<'_> {
    /// Answers a message, or has it deferred.
    pub(crate) fn respond(&mut self, mut message: Message<'_>, client: Client) -> Disposition {
        let origin = Origin { transport: client.transport(), client: client.ip(), deferred: false };
        match self.answerer.answer(&self.turn, message.reborrow(), origin) {
            Verdict::Reply { len } => Disposition::Send { len },
            Verdict::Drop => Disposition::Drop,
            Verdict::Defer(deferred) => self.defer(&deferred, message, client),
        }
    }

    /// Has a query deferred; where that may not be, it is answered SERVFAIL.
    #[cold]
    pub(crate) fn defer(&mut self, deferred: &Deferred, message: Message<'_>, client: Client) -> Disposition {
        let query = DeferredQuery { query: message.buffer[..message.len].into(), client };
        if self.deferrer.defer(deferred, query, self.turn.counters) {
            return Disposition::Deferred;
        }
        Disposition::Send { len: self.answerer.fail(message) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Arc;

    use super::*;
    use crate::answer::access::Access;
    use crate::answer::identity::Identity;
    use crate::answer::metrics::Event;
    use crate::answer::service::Service;
    use crate::query_time::{PeerAnswer, PeerLookup};
    use crate::store::{NodeId, Store};
    use crate::sys::published::Current;
    use crate::table::{Publisher, ZoneSettings};
    use crate::wire::cookie::Secrets;
    use crate::wire::header::{self, rcode};
    use crate::wire::name::Name;
    use crate::wire::query::MIN_BUFFER_LEN;

    /// A transport without a network.
    #[derive(Default)]
    struct Memory {
        incoming: VecDeque<(usize, Vec<u8>)>,
        outgoing: Vec<(usize, Vec<u8>)>,
    }

    impl ClientTransport for Memory {
        type Client = usize;

        fn take_turn(&mut self, _: &Registry, responder: &mut Responder<'_>) {
            let mut responder = responder.begin_batch();
            while let Some((client, query)) = self.incoming.pop_front() {
                let mut buffer = vec![0; MIN_BUFFER_LEN];
                buffer[..query.len()].copy_from_slice(&query);
                let message = Message { buffer: &mut buffer, len: query.len() };
                if let Disposition::Send { len } = responder.respond(message, Client::Memory(client)) {
                    self.outgoing.push((client, buffer[..len].to_vec()));
                }
            }
        }

        fn deliver(&mut self, client: usize, answer: impl FnOnce(&mut [u8]) -> Option<usize>, _: &Counters) {
            let mut buffer = vec![0; MIN_BUFFER_LEN];
            let len = answer(&mut buffer);
            self.outgoing.extend(len.map(|len| (client, buffer[..len].to_vec())));
        }

        fn is_busy(&self) -> bool {
            !self.incoming.is_empty()
        }

        fn timeout(&self) -> Option<Duration> {
            None
        }
    }

    /// Takes over as many as there is room for.
    struct Taken {
        room: usize,
        queries: Vec<DeferredQuery>,
    }

    impl Defer for Taken {
        fn defer(&mut self, deferred: &Deferred, query: DeferredQuery, _: &Counters) -> bool {
            assert!(matches!(deferred, Deferred::Peers(_)), "{deferred:?}");
            let is_room = self.queries.len() < self.room;
            if is_room {
                self.queries.push(query);
            }
            is_room
        }
    }

    fn answerer() -> Answerer {
        let service = Service {
            access: Access::default(),
            forwarders: None,
            identity: Identity::new(None),
            rate_limit: 0,
            udp_len: 1_232,
            offloads: false,
        };
        let secrets = Current::new(Secrets::random());
        let mut answerer = Answerer::new(Arc::new(service), secrets.reader(), fastrand::Rng::new());
        answerer.set_peers(PeerLookup::new(None));
        answerer
    }

    #[test]
    fn a_transport_answers_at_once_or_gives_a_deferred_query_its_way_back() {
        let domain = Name::from_text("example").unwrap();
        let store = Store::new(NodeId([1; 16]), 1);
        let mut publisher = Publisher::new(&[domain], ZoneSettings { ttl_s: 1, negative_ttl_s: 1 });
        publisher.publish_whole(&store, 1);
        let (mut answerer, mut tables) = (answerer(), publisher.reader());
        let (counters, mut taken) = (Counters::default(), Taken { room: 1, queries: Vec::new() });
        let query = |name: &str| {
            let head = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
            [&head[..], Name::from_text(name).unwrap().as_wire(), &[0, 1, 0, 1]].concat()
        };
        let mut memory = Memory::default();
        memory.incoming.extend([(1, query("a.test")), (2, query("b.example")), (3, query("c.example"))]);
        memory.incoming.push_back((4, b"too short".to_vec()));
        let poll = mio::Poll::new().unwrap();
        let mut responder = Responder {
            answerer: &mut answerer,
            tables: &mut tables,
            counters: &counters,
            clock: &|| 7,
            deferrer: &mut taken,
            beside_outcomes: false,
        };
        memory.take_turn(poll.registry(), &mut responder);
        let code = |message: &[u8]| message[3] & header::RCODE_MASK;
        // The first is refused, the second deferred, the third too much, the last no message.
        let answered: Vec<_> = memory.outgoing.drain(..).map(|(client, it)| (client, code(&it))).collect();
        assert_eq!(answered, [(1, rcode::REFUSED), (3, rcode::SERVFAIL)]);
        assert_eq!((counters.get(Event::Refused), counters.get(Event::Short)), (1, 1));
        // Other nodes have said that nobody has it.
        let DeferredQuery { query, client } = taken.queries.pop().unwrap();
        let Client::Memory(client) = client else { panic!("it came over another transport") };
        let name = query[header::LEN..query.len() - 4].into();
        answerer.peers().unwrap().set_answer(Some((name, PeerAnswer::nobody(5))));
        let turn = Turn { table: &publisher.current(), counters: &counters, now_s: 8 };
        let answer = |buffer: &mut [u8]| {
            buffer[..query.len()].copy_from_slice(&query);
            let client = Client::Memory(client);
            let origin = Origin { transport: client.transport(), client: client.ip(), deferred: true };
            match answerer.answer(&turn, Message { buffer, len: query.len() }, origin) {
                Verdict::Reply { len } => Some(len),
                other => panic!("{other:?}"),
            }
        };
        memory.deliver(client, answer, &counters);
        let [(client, response)] = &memory.outgoing[..] else { panic!("{:?}", memory.outgoing) };
        assert_eq!((*client, code(response)), (2, rcode::NXDOMAIN));
    }
}
