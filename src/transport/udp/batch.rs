//! A batch of datagrams: received, answered in place, sent.
//!
//! Runs on the workers, for every packet.

use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::AsFd;

use super::Watched;
use crate::answer::metrics::{Counters, Event};
use crate::answer::types::{Message, Origin, Verdict};
use crate::sys::mmsg::{BATCH_LEN, Batch, Datagram, Wait};
use crate::table::MAX_TOGETHER;
use crate::transport::client::Client;
use crate::transport::responder::{BatchResponder, Disposition, Responder};
use crate::wire::header;
use crate::wire::response::Transport;

/// How much of a batch there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// All that a batch can hold: there may be more in the queue. So many of them were answered at once.
    Full { responses: usize },
    /// Something, and then the queue was empty.
    Partial,
    /// Nothing: the queue was empty.
    Empty,
}

impl Watched {
    /// Receives one batch, has it answered, and sends the responses.
    pub(super) fn serve(&mut self, number: usize, responder: &mut Responder<'_>) -> Served {
        let Self { socket, batch, .. } = self;
        let counters = responder.counters;
        let received = match batch.receive(socket.as_fd(), Wait::Never) {
            Ok(received) => received,
            Err(error) => {
                if error.kind() != ErrorKind::WouldBlock {
                    counters.count(Event::ReceiveFailed);
                }
                return Served::Empty;
            }
        };
        counters.count(Event::Batch);
        let mut responder = responder.begin_batch();
        for first in (0..received).step_by(MAX_TOGETHER) {
            let count = MAX_TOGETHER.min(received - first);
            answer_together(batch, (number, first, count), &mut responder);
        }
        let responses = batch.staged();
        if received == BATCH_LEN {
            // More wait already. A worker that finds few at a time keeps up as it is.
            batch.group();
        }
        send(socket, batch, counters);
        if received == BATCH_LEN { Served::Full { responses } } else { Served::Partial }
    }
}

/// Answers `count` datagrams of a batch, from the `first` on, whose names are looked up together.
#[inline(always)]
fn answer_together(
    batch: &mut Batch,
    (number, first, count): (usize, usize, usize),
    responder: &mut BatchResponder<'_>,
) {
    let table = responder.turn.table;
    for k in 0..count {
        let Datagram { buffer, len, .. } = batch.datagram(first + k);
        responder.answerer.prefetch(table, k, (buffer, len));
    }
    let found = responder.answerer.look_up(table, count);
    for k in 0..count {
        let i = first + k;
        // Nobody can have sent from port 0: an answer could only serve to bother whoever's address that is.
        let Some(client) = batch.peer(i).filter(|peer| peer.port() != 0).map(|peer| peer.ip()) else {
            responder.turn.counters.count(Event::BadSource);
            continue;
        };
        let Datagram { buffer, len, truncated } = batch.datagram(i);
        // A datagram that lost its end still has its header: the answerer sees a message that stops too early.
        let len = if truncated { len.min(header::LEN) } else { len };
        let origin = Origin { transport: Transport::Udp, client, deferred: false };
        let message = Message { buffer, len };
        match responder.answerer.answer_prefetched((k, &found), &responder.turn, message, origin) {
            Verdict::Reply { len } => batch.stage(i, len),
            Verdict::Drop => {}
            // By reference: it has some hundred bytes.
            Verdict::Defer(ref deferred) => {
                let client = Client::Udp { socket: number, ip: client, to: batch.return_address(i) };
                let message = Message { buffer: batch.datagram(i).buffer, len };
                if let Disposition::Send { len } = responder.defer(deferred, message, client) {
                    batch.stage(i, len);
                }
            }
        }
    }
}

/// Sends what is staged. A response that the kernel will not take is counted and given up, since waiting would hold up
/// everybody else; its client asks again.
pub(crate) fn send(socket: &UdpSocket, batch: &mut Batch, counters: &Counters) {
    let mut next = 0;
    while next < batch.staged() {
        match batch.send_from(socket.as_fd(), next) {
            Ok(sent) => next += sent,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => {
                counters.count(Event::SendFailed);
                next += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::super::{Watch, addressing};
    use super::*;
    use crate::answer::access::Access;
    use crate::answer::answerer::Answerer;
    use crate::answer::identity::Identity;
    use crate::answer::service::Service;
    use crate::answer::types::Deferred;
    use crate::store::{Attributes, Key, NodeId, Store};
    use crate::sys::published::Current;
    use crate::table::{Publisher, ZoneSettings};
    use crate::transport::client::DeferredQuery;
    use crate::transport::responder::Defer;
    use crate::wire::cookie::Secrets;
    use crate::wire::name::Name;
    use crate::wire::record::rtype;

    /// Takes nothing over.
    struct Nobody;

    impl Defer for Nobody {
        fn defer(&mut self, _: &Deferred, _: DeferredQuery, _: &Counters) -> bool {
            false
        }
    }

    #[test]
    fn a_batch_is_answered_from_one_table() {
        // More than are looked up together, so that the table could be loaded again between two of them.
        const QUERIES: usize = 2 * MAX_TOGETHER + 1;
        let (domain, web) = (Name::from_text("example").unwrap(), Name::from_text("web.example").unwrap());
        let mut store = Store::new(NodeId([1; 16]), 1);
        let rdata = (&[10u8, 0, 0, 1][..]).into();
        let key = Key { instance: "".into(), name: web.clone(), rtype: rtype::A, rdata };
        store.register(&key, &Attributes::with_ttl_s(1)).unwrap();
        let mut publisher = Publisher::new(&[domain], ZoneSettings { ttl_s: 1, negative_ttl_s: 1 });
        publisher.publish_whole(&store, 1);
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
        let mut tables = publisher.reader();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let head = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let query = [&head[..], web.as_wire(), &[0, 1, 0, 1]].concat();
        (0..QUERIES).for_each(|_| _ = client.send(&query).unwrap());
        let batch = Batch::new(addressing(&server));
        let mut socket = Watched { socket: server, batch, watch: Watch::Ready };
        let counters = Counters::default();
        let mut serve = |clock: &dyn Fn() -> u32| {
            let (answerer, tables, counters) = (&mut answerer, &mut tables, &counters);
            let (deferrer, beside_outcomes) = (&mut Nobody, false);
            let mut responder = Responder { answerer, tables, counters, clock, deferrer, beside_outcomes };
            socket.serve(0, &mut responder)
        };
        let world = RefCell::new((store, publisher));
        // The clock is read when the batch has its table: what is published then is for the next one.
        let remove = || {
            let (store, publisher) = &mut *world.borrow_mut();
            store.remove(|_| true);
            publisher.publish_whole(store, 1);
            7
        };
        assert_eq!(serve(&remove), Served::Partial);
        assert_eq!(counters.get(Event::Positive), QUERIES as u64);
        client.send(&query).unwrap();
        assert_eq!(serve(&|| 8), Served::Partial);
        assert_eq!((counters.get(Event::Positive), counters.get(Event::NxDomain)), (QUERIES as u64, 1));
    }
}
