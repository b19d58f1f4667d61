//! DNS over UDP: binding the workers' sockets, and receiving, answering and sending a batch.
//!
//! Binding runs on the main thread before the workers start; the rest on the workers.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;

use socket2::{SockFilter, SockRef, Socket};

use crate::answer::answerer::Answerer;
use crate::answer::metrics::{Counters, Event};
use crate::answer::types::{Origin, Verdict};
use crate::sys::mmsg::{self, Addressing, BATCH_LEN, Batch, Datagram, Wait, buffered};
use crate::sys::published::Reader;
use crate::table::{MAX_TOGETHER, Table};
use crate::wire::header;
use crate::wire::response::Transport;

/// Bytes of queries and of responses that the kernel is asked to hold for a socket. At about 800 bytes of kernel memory
/// for a small datagram, 4 MiB hold some 5,000: more than a worker answers in ten milliseconds, so that it may lose its
/// core for a scheduler's time slice without losing a query. The kernel silently grants less (`net.core.rmem_max`)
/// where it is set to.
const SOCKET_BUFFER_LEN: usize = crate::limits::SOCKET_BUFFER_LEN;

/// Binds one socket per worker to `address`; with port 0 all of them to the one free port that the kernel picks.
///
/// The kernel spreads clients over the sockets by a hash of their address and port (SO_REUSEPORT). That option would
/// also let a second server share the port unnoticed, each getting some of the queries. So the first socket is bound
/// without it, which fails if anybody has the port, and is only then opened for sharing with the others.
///
/// # Errors
/// What the kernel says.
pub(crate) fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let first = open(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    let first = UdpSocket::from(first);
    let bound = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..workers {
        let socket = open(bound)?;
        socket.set_reuse_port(true)?;
        socket.bind(&bound.into())?;
        sockets.push(socket.into());
    }
    Ok(sockets)
}

/// One socket per worker for the address that `first` is bound to by others.
///
/// # Errors
/// What the kernel says.
pub(crate) fn share(first: UdpSocket, address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    let shared = SockRef::from(&first).reuse_port()?;
    first.set_nonblocking(true)?;
    // The kernel may grant less; what it was given is good then.
    let _ = SockRef::from(&first).set_recv_buffer_size(SOCKET_BUFFER_LEN);
    if address.ip().is_unspecified() {
        mmsg::report_local_address(first.as_fd(), &address)?;
    }
    let mut sockets = vec![first];
    for _ in 1..workers {
        let next = if shared {
            let socket = open(address)?;
            socket.set_reuse_port(true)?;
            socket.bind(&address.into())?;
            socket.into()
        } else {
            sockets[0].try_clone()?
        };
        sockets.push(next);
    }
    Ok(sockets)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    let socket = buffered(address)?;
    if address.is_ipv6() {
        // `--listen 0.0.0.0:53 --listen [::]:53` shall work whatever the system's default.
        socket.set_only_v6(true)?;
    }
    if address.ip().is_unspecified() {
        mmsg::report_local_address(socket.as_fd(), &address)?;
    }
    Ok(socket)
}

/// What has to travel with the datagrams of `socket`: bound to one address it needs no local ones.
pub(crate) fn addressing(socket: &UdpSocket) -> Addressing {
    let bound_to_all = socket.local_addr().is_ok_and(|address| address.ip().is_unspecified());
    if bound_to_all { Addressing::PerDatagramAndLocal } else { Addressing::PerDatagram }
}

/// Lets nothing more into the socket's queue, or no more connections be made to it; what is already there can still be received,
/// or accepted. It holds for as long as anybody has the socket, which may be another process.
pub(crate) fn refuse_more(socket: &impl AsFd) -> io::Result<()> {
    const RETURN_CONSTANT: u16 = 0x06; // BPF_RET | BPF_K: keep 0 bytes of the packet, that is, drop it
    SockRef::from(socket).attach_filter(&[SockFilter::new(RETURN_CONSTANT, 0, 0, 0)])
}

/// How a worker learns that a socket has something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Watch {
    /// The poll watches it, and has nothing to report.
    Waiting,
    /// The poll watches it and has reported something; its queue has not been seen empty since.
    Ready,
    /// Nobody watches it, the worker looks for itself: there has been something every time. To watch a socket is not
    /// free: for each response sent, as for each query received, the kernel calls the poll back and takes its lock,
    /// about 5% of all that a packet costs. Under load that buys nothing.
    Busy,
}

/// A UDP socket with the room for what goes through it.
pub(crate) struct Watched {
    pub(crate) socket: UdpSocket,
    pub(crate) batch: Batch,
    pub(crate) watch: Watch,
}

/// How much of a batch there was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Served {
    /// All that a batch can hold: there may be more in the queue. So many of them were answered at once.
    Full { responses: usize },
    /// Something, and then the queue was empty.
    Partial,
    /// Nothing: the queue was empty.
    Empty,
}

/// Receives one batch, answers it from the table and by the clock as they are now, and sends the responses. What has to
/// wait for other nodes, or is another thread's, is left to `pass_on`, which takes the datagram's number, the length of the query
/// in it and the verdict, and returns the length of a response that is to be sent instead.
pub(crate) fn serve_batch(
    socket: &UdpSocket,
    batch: &mut Batch,
    reader: &mut Reader<Table>,
    answerer: &mut Answerer,
    counters: &Counters,
    clock: impl FnOnce() -> u32,
    mut pass_on: impl FnMut(&Answerer, &mut Batch, usize, usize, Verdict) -> Option<usize>,
) -> Served {
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
    let table = reader.load();
    let now_s = clock();
    for first in (0..received).step_by(MAX_TOGETHER) {
        let count = MAX_TOGETHER.min(received - first);
        for k in 0..count {
            let Datagram { buffer, len, .. } = batch.datagram(first + k);
            answerer.expect(table, k, buffer, len);
        }
        let looked_up = answerer.look_up(table, count);
        for k in 0..count {
            let i = first + k;
            // Nobody can have sent from port 0: an answer could only serve to bother whoever's address that is.
            let Some(client) = batch.peer(i).filter(|peer| peer.port() != 0).map(|peer| peer.ip()) else {
                counters.count(Event::BadSource);
                continue;
            };
            let Datagram { buffer, len, truncated } = batch.datagram(i);
            // A datagram that lost its end still has its header: the answerer sees a message that stops too early.
            let len = if truncated { len.min(header::LEN) } else { len };
            let origin = Origin { transport: Transport::Udp, client, now_s, waited: false };
            let count = |event| counters.count(event);
            let verdict = answerer.answer_expected(k, &looked_up, buffer, len, origin, count);
            let reply_len = match verdict {
                Verdict::Reply { len } => Some(len),
                Verdict::Drop => None,
                Verdict::Ask | Verdict::Forward | Verdict::HandOver => {
                    pass_on(answerer, batch, i, len, verdict)
                }
            };
            if let Some(len) = reply_len {
                batch.stage(i, len);
            }
        }
    }
    let responses = batch.staged();
    if received == BATCH_LEN {
        // More wait already. A worker that finds few at a time keeps up as it is.
        batch.group();
    }
    send(socket, batch, counters);
    if received == BATCH_LEN { Served::Full { responses } } else { Served::Partial }
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
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::*;
    use crate::answer::access::Access;
    use crate::answer::identity::Identity;
    use crate::answer::types::Service;
    use crate::store::{Attributes, Key, NodeId, Store};
    use crate::sys::published::Current;
    use crate::table::{Publisher, ZoneSettings};
    use crate::wire::cookie::Secrets;
    use crate::wire::name::Name;
    use crate::wire::record::rtype;

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
            hands_over: false,
        };
        let secrets = Current::new(Secrets::random());
        let mut answerer = Answerer::new(Arc::new(service), secrets.reader(), fastrand::Rng::new());
        let mut reader = publisher.reader();
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        let head = [0, 9, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        let query = [&head[..], web.as_wire(), &[0, 1, 0, 1]].concat();
        (0..QUERIES).for_each(|_| _ = client.send(&query).unwrap());
        let mut batch = Batch::new(addressing(&server));
        let counters = Counters::default();
        let mut serve = |reader: &mut Reader<Table>, clock: &mut dyn FnMut() -> u32| {
            serve_batch(&server, &mut batch, reader, &mut answerer, &counters, clock, |_, _, _, _, _| None)
        };
        // The clock is read when the batch has its table: what is published then is for the next one.
        let remove = &mut || {
            store.remove(|_| true);
            publisher.publish_whole(&store, 1);
            7
        };
        assert_eq!(serve(&mut reader, remove), Served::Partial);
        assert_eq!(counters.get(Event::Positive), QUERIES as u64);
        client.send(&query).unwrap();
        assert_eq!(serve(&mut reader, &mut || 8), Served::Partial);
        assert_eq!((counters.get(Event::Positive), counters.get(Event::NxDomain)), (QUERIES as u64, 1));
    }
}
