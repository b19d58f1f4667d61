//! The seam between transports and what answers.
//!
//! A transport receives messages, has a [`Responder`] answer each in its own buffer, and sends the responses. A query
//! that cannot be answered at once is taken over by the [`Defer`] behind it, together with its [`Client`], by which
//! [`Transports::deliver`](super::Transports::deliver) gives the response its way back later.

use super::client::{Client, DeferredQuery};
use crate::answer::answerer::Answerer;
use crate::answer::metrics::Counters;
use crate::answer::types::{Deferred, Message, Origin, Turn, Verdict};
use crate::sys::published::Reader;
use crate::table::Table;

/// Who takes over queries that cannot be answered at once.
pub(crate) trait Defer {
    /// Takes one over; returns whether it may: otherwise it is answered SERVFAIL. Why is counted.
    fn defer(&mut self, deferred: Deferred, query: DeferredQuery, counters: &Counters) -> bool;
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
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
    pub(crate) clock: &'a mut dyn FnMut() -> u32,
    pub(crate) deferrer: &'a mut dyn Defer,
}

impl Responder<'_> {
    /// What all messages of one batch are answered with: the table and the time of now.
    #[inline]
    pub(crate) fn begin_batch(&mut self) -> BatchResponder<'_> {
        let Self { answerer, tables, counters, clock, deferrer } = self;
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
    pub(crate) fn respond(&mut self, mut message: Message<'_>, client: Client) -> Outcome {
        let origin = Origin { transport: client.transport(), client: client.ip(), deferred: false };
        match self.answerer.answer(&self.turn, message.reborrow(), origin) {
            Verdict::Reply { len } => Outcome::Send { len },
            Verdict::Drop => Outcome::Drop,
            Verdict::Defer(deferred) => self.defer(deferred, message, client),
        }
    }

    /// Has a query deferred; where that may not be, it is answered SERVFAIL.
    #[cold]
    pub(crate) fn defer(&mut self, deferred: Deferred, message: Message<'_>, client: Client) -> Outcome {
        let query = DeferredQuery { query: message.buffer[..message.len].into(), client };
        if self.deferrer.defer(deferred, query, self.turn.counters) {
            return Outcome::Deferred;
        }
        Outcome::Send { len: self.answerer.fail(message) }
    }
}
