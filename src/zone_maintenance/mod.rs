//! Zone maintenance by DNS itself: updates (RFC 2136) and transfers (RFC 5936), signed by keys (RFC 8945).
//!
//! Runs on a thread `zones`, which has the messages that workers hand over; each transfer on one of its own, since it
//! goes as fast as its client takes it. A signed query for anything else is answered as by the workers, and signed.

pub mod keys;
mod transfer;
mod update;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use crossbeam_channel::Receiver;
use domain::base::iana::{Opcode, Rcode, TsigRcode};
use domain::base::message_builder::AdditionalBuilder;
use domain::base::name::ToName;
use domain::base::{Message, MessageBuilder, Rtype};
use domain::rdata::AllRecordData;
use domain::rdata::Tsig;
use domain::rdata::tsig::Time48;
use domain::tsig::{ServerError, ServerSequence, ServerTransaction};
use tokio::sync::oneshot;
use tracing::{info, warn};

use self::keys::{Keys, Permitted};
use crate::answer;
use crate::answer::answerer::Answerer;
use crate::answer::metrics::Counters;
use crate::answer::types::{Origin, Turn, Verdict};
use crate::api::request::{Rejected, Request, ZoneUpdate};
use crate::sys::published::Reader;
use crate::table::Table;
use crate::wire::message::records;
use crate::wire::name::Name;
use crate::wire::response::Transport;
use crate::worker::offload::OffloadedMessage;
use crate::worker::unix_time_s;

/// Transfers at the same time at most; who asks for one more is refused, and comes again.
const MAX_TRANSFERS: usize = crate::limits::MAX_TRANSFERS;

/// Bytes that a message can have.
const MESSAGE_LEN: usize = u16::MAX as usize;

/// How a message is signed, if it is.
type Signature = Option<ServerTransaction<Permitted>>;

/// What the thread works with.
pub struct Service {
    /// The zones that there are, in lower case.
    pub zones: Vec<Name>,
    /// Who may do what.
    pub keys: Reader<Keys>,
    /// Updates from this machine itself need no signature.
    pub unsigned_updates: bool,
    /// What answers come from.
    pub tables: Reader<Table>,
    /// Answers other questions that are signed.
    pub answerer: Answerer,
    /// What it counts. Nobody reads that: a worker has counted each message already.
    pub counters: Counters,
}

/// How requests get to the owner of the registrations; `false` if it does not take them.
type Ask = dyn Fn(Request) -> bool + Send;

/// Starts the thread. It ends with the workers, who hold the other end of `handed`.
///
/// # Errors
/// When the kernel has no thread.
pub fn start(
    service: Service,
    handed: Receiver<OffloadedMessage>,
    ask: impl Fn(Request) -> bool + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let mut thread = Thread { service, ask: Box::new(ask), transfers: Arc::default() };
    let serve = move || handed.iter().for_each(|handed| thread.take(handed));
    thread::Builder::new().name("zones".into()).spawn(serve)
}

struct Thread {
    service: Service,
    ask: Box<Ask>,
    /// How many are under way.
    transfers: Arc<AtomicUsize>,
}

impl Thread {
    fn take(&mut self, handed: OffloadedMessage) {
        let mut bytes = handed.message.to_vec();
        let signature_at = records(&bytes).last().map(|record| record.owner_at);
        let Ok(mut message) = Message::from_octets(bytes.clone()) else { return handed.answer(None) };
        let signature =
            ServerTransaction::request(&self.service.keys.load().by_name, &mut message, Time48::now());
        let signature = match signature {
            Ok(signature) => signature,
            Err(error) => {
                warn!("{} has sent a message that is signed wrongly: {error}", handed.client);
                return handed.answer(signed_wrongly(&message, error).map(AdditionalBuilder::finish));
            }
        };
        if signature.is_some() {
            // It is gone from the counts by now.
            bytes = message.into_octets();
            bytes.truncate(signature_at.unwrap_or(bytes.len()));
        }
        let Ok(message) = Message::from_octets(bytes) else { return handed.answer(None) };
        match (message.header().opcode(), question_type(&message)) {
            (Opcode::UPDATE, _) => {
                let rcode = self.update(&message, signature.as_ref(), handed.client);
                handed.answer(finish(answered(&message, rcode), signature));
            }
            (Opcode::QUERY, Some(Rtype::AXFR | Rtype::IXFR)) => self.transfer(handed, message, signature),
            _ => {
                let answer = self.answer(&message, handed.client, handed.transport);
                handed.answer(answer.and_then(|answer| finish(answer, signature)));
            }
        }
    }

    /// Makes an update, or says why not.
    fn update(
        &self,
        message: &Message<Vec<u8>>,
        signature: Option<&ServerTransaction<Permitted>>,
        client: IpAddr,
    ) -> Rcode {
        let Some(zone) = update::zone(message) else { return Rcode::FORMERR };
        if !self.service.zones.contains(&zone) {
            return Rcode::NOTAUTH;
        }
        let allowed = match signature {
            Some(signature) => signature.wrapped_key().updates(&zone),
            None => self.service.unsigned_updates && client.is_loopback(),
        };
        if !allowed {
            warn!("{client} may not update {zone}");
            return Rcode::REFUSED;
        }
        match update::read(message, &zone, &self.service.zones) {
            Ok(update) => self.make(update),
            Err(rcode) => rcode,
        }
    }

    fn make(&self, update: ZoneUpdate) -> Rcode {
        let (reply, answer) = oneshot::channel();
        if !(self.ask)(Request::Update(update, reply)) {
            return Rcode::SERVFAIL;
        }
        match answer.blocking_recv() {
            Ok(Ok(rcode)) => Rcode::masked_from_int(rcode),
            Ok(Err(Rejected::Unable(why))) => {
                warn!("an update was not made: {why}");
                Rcode::SERVFAIL
            }
            Ok(Err(Rejected::OverLimit(why))) => {
                warn!("an update was refused: {why}");
                Rcode::REFUSED
            }
            Err(_) => Rcode::SERVFAIL,
        }
    }

    /// Begins to send a copy of a zone, or says why not.
    fn transfer(&mut self, handed: OffloadedMessage, message: Message<Vec<u8>>, signature: Signature) {
        let Some(signature) = signature else {
            return handed.answer(finish(answered(&message, Rcode::REFUSED), None));
        };
        let zone = message.sole_question().ok().and_then(|question| name(question.qname()));
        let zone = zone.filter(|zone| self.service.zones.contains(zone));
        let Some(zone) = zone else {
            return handed.answer(finish(answered(&message, Rcode::NOTAUTH), Some(signature)));
        };
        if !signature.wrapped_key().transfers(&zone)
            || self.transfers.load(Ordering::Relaxed) >= MAX_TRANSFERS
        {
            warn!("{} gets no copy of {zone}", handed.client);
            return handed.answer(finish(answered(&message, Rcode::REFUSED), Some(signature)));
        }
        let table = self.service.tables.load_full();
        // A copy over UDP is none: who asks for what has changed is told which copy there is, and comes over TCP
        // (RFC 1995 §2).
        if handed.transport == Transport::Udp {
            let mut soa = None;
            let copied = transfer::copy(&message, &zone, &table, true, |part| {
                soa = Some(part);
                false
            });
            let soa = soa.filter(|_| copied.is_ok());
            return handed.answer(soa.and_then(|soa| finish(soa, Some(signature))));
        }
        let soa_alone = has_serial(&message, table.serial());
        let client = handed.client;
        let Some(messages) = handed.answer_several() else { return };
        let under_way = Arc::clone(&self.transfers);
        under_way.fetch_add(1, Ordering::Relaxed);
        let send = move || {
            let mut signature = ServerSequence::from(signature);
            let copied = transfer::copy(&message, &zone, &table, soa_alone, |mut part| {
                signature.answer(&mut part, Time48::now()).is_ok() && messages.send(part.finish())
            });
            match copied {
                Ok(()) => info!("{client} has a copy of {zone} as of serial {}", table.serial()),
                Err(error) => warn!("a copy of {zone} for {client} was not finished: {error}"),
            }
            under_way.fetch_sub(1, Ordering::Relaxed);
        };
        if thread::Builder::new().name("transfer".into()).spawn(send).is_err() {
            self.transfers.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// The answer to any other message, as the workers give it.
    fn answer(
        &mut self,
        message: &Message<Vec<u8>>,
        client: IpAddr,
        transport: Transport,
    ) -> Option<AdditionalBuilder<Vec<u8>>> {
        let mut buffer = vec![0; MESSAGE_LEN];
        let len = message.as_slice().len();
        buffer[..len].copy_from_slice(message.as_slice());
        let origin = Origin { transport, client, deferred: true };
        let (table, counters) = (self.service.tables.load(), &self.service.counters);
        let turn = Turn { table, counters, now_s: unix_time_s() };
        let message = answer::types::Message { buffer: &mut buffer, len };
        let Verdict::Reply { len } = self.service.answerer.answer(&turn, message, origin) else {
            return None;
        };
        buffer.truncate(len);
        rebuilt(&Message::from_octets(buffer).ok()?)
    }
}

fn builder() -> MessageBuilder<Vec<u8>> {
    MessageBuilder::from_target(Vec::new()).expect("a vector has room")
}

/// What is told to who has signed wrongly (RFC 8945 §5.2).
fn signed_wrongly(
    message: &Message<Vec<u8>>,
    error: ServerError<Permitted>,
) -> Option<AdditionalBuilder<Vec<u8>>> {
    let is_formerr = error.error() == TsigRcode::FORMERR;
    let built = error.build_message(message, builder()).ok()?;
    if !is_formerr || built.header().rcode() != Rcode::NOTAUTH {
        return Some(built);
    }
    // The library says FORMERR of a signature that is well-formed and wrong; it is BADSIG (§5.2.2).
    let record = message.additional().ok()?.limit_to::<Tsig<_, _>>().last()?.ok()?;
    let (id, told) = (message.header().id(), record.data());
    let tsig = Tsig::new(told.algorithm(), told.time_signed(), told.fudge(), b"", id, TsigRcode::BADSIG, b"")
        .ok()?;
    let mut out = answered(message, Rcode::NOTAUTH);
    out.push((record.owner(), record.class(), record.ttl(), tsig)).ok()?;
    Some(out)
}

/// A response without records.
fn answered(message: &Message<Vec<u8>>, rcode: Rcode) -> AdditionalBuilder<Vec<u8>> {
    builder().start_answer(message, rcode).expect("a vector has room").additional()
}

/// Signs a response as its question was, if that was signed.
fn finish(mut answer: AdditionalBuilder<Vec<u8>>, signature: Signature) -> Option<Vec<u8>> {
    if let Some(signature) = signature {
        signature.answer(&mut answer, Time48::now()).ok()?;
    }
    Some(answer.finish())
}

/// The same message, so that something can be added to it.
fn rebuilt(message: &Message<Vec<u8>>) -> Option<AdditionalBuilder<Vec<u8>>> {
    let mut out = builder();
    *out.header_mut() = message.header();
    let mut out = out.question();
    for question in message.question() {
        out.push(question.ok()?).ok()?;
    }
    let mut out = out.answer();
    for record in message.answer().ok()?.limit_to::<AllRecordData<_, _>>() {
        out.push(record.ok()?).ok()?;
    }
    let mut out = out.authority();
    for record in message.authority().ok()?.limit_to::<AllRecordData<_, _>>() {
        out.push(record.ok()?).ok()?;
    }
    let mut out = out.additional();
    for record in message.additional().ok()?.limit_to::<AllRecordData<_, _>>() {
        out.push(record.ok()?).ok()?;
    }
    Some(out)
}

fn question_type(message: &Message<Vec<u8>>) -> Option<Rtype> {
    message.sole_question().ok().map(|question| question.qtype())
}

/// Whether who asks for what has changed has the copy of this serial (RFC 1995 §3).
fn has_serial(message: &Message<Vec<u8>>, serial: u32) -> bool {
    let Ok(section) = message.authority() else { return false };
    let mut soas = section.limit_to::<domain::rdata::Soa<_>>();
    soas.next().is_some_and(|soa| soa.is_ok_and(|soa| soa.data().serial().into_int() == serial))
}

/// A name of a message, in lower case.
fn name(name: impl ToName) -> Option<Name> {
    Name::from_wire(name.to_vec().as_slice()).map(|name| name.to_lower_case())
}
