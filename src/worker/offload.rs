//! What workers leave to another thread: updates of zones (RFC 2136), transfers, and all that is signed (RFC 8945).
//!
//! A worker hands the message over and goes on; what is answered comes back to it through a queue, and leaves by the
//! socket or connection that the message came by. Nothing of it is there unless a server has keys or takes updates.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::Waker;

use crate::answer::metrics::Counters;
use crate::transport::Transports;
use crate::transport::client::{Client, DeferredQuery};
use crate::wire::header::{self, rcode};
use crate::wire::response::{DEFAULT_UDP_LEN, OPT_LEN, Transport, refusal};

/// Messages that wait for the other thread at most, of all workers; those after them are SERVFAIL.
pub const MAX_WAITING: usize = crate::limits::MAX_HANDED_OVER;

/// Messages of one transfer that wait for their client at most.
const MAX_AHEAD: usize = 4;

/// A message that a worker has handed over. One that goes out of scope without an answer is answered SERVFAIL,
/// unsigned: whatever becomes of the thread that has it, its client does not wait in vain.
pub struct OffloadedMessage {
    /// The message.
    pub message: Box<[u8]>,
    /// Who sent it.
    pub client: IpAddr,
    /// How it came.
    pub transport: Transport,
    /// Until it is answered.
    reply_to: Option<Client>,
    replies: Sender<Reply>,
    waker: Arc<Waker>,
}

/// What comes back to a worker.
pub(crate) enum Reply {
    /// One message, or none at all.
    One(Client, Option<Vec<u8>>),
    /// Several, as they come.
    Several(Client, Receiver<Vec<u8>>),
}

impl OffloadedMessage {
    /// Answers it with one message, or not at all.
    pub fn answer(mut self, message: Option<Vec<u8>>) {
        self.reply(|client| Reply::One(client, message));
    }

    /// Answers it with several messages, if it came over TCP; otherwise with SERVFAIL.
    #[must_use]
    pub fn answer_several(mut self) -> Option<Messages> {
        if self.transport != Transport::Tcp {
            return None;
        }
        let (sender, receiver) = bounded(MAX_AHEAD);
        self.reply(|client| Reply::Several(client, receiver));
        Some(Messages { sender: Some(sender), waker: Arc::clone(&self.waker) })
    }

    fn reply(&mut self, reply: impl FnOnce(Client) -> Reply) {
        if let Some(client) = self.reply_to.take() {
            // A worker that has ended has no clients any more.
            let _ = self.replies.send(reply(client));
            let _ = self.waker.wake();
        }
    }
}

impl Drop for OffloadedMessage {
    fn drop(&mut self) {
        if self.reply_to.is_some() {
            let mut message = self.message.to_vec();
            let len = message.len();
            message.resize(len + OPT_LEN, 0);
            let refused =
                (len >= header::LEN).then(|| refusal(&mut message, len, rcode::SERVFAIL, DEFAULT_UDP_LEN));
            message.truncate(refused.unwrap_or(0));
            self.reply(|client| Reply::One(client, refused.map(|_| message)));
        }
    }
}

/// Where the messages of one answer go.
pub struct Messages {
    /// There until it is dropped.
    sender: Option<Sender<Vec<u8>>>,
    waker: Arc<Waker>,
}

impl Messages {
    /// Sends one more, and waits while the client does not take those before. Returns whether it is still there.
    pub fn send(&self, message: Vec<u8>) -> bool {
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(message).is_ok());
        let _ = self.waker.wake();
        sent
    }
}

impl Drop for Messages {
    fn drop(&mut self) {
        // The worker sees that there are no more when it looks.
        self.sender = None;
        let _ = self.waker.wake();
    }
}

/// A worker's side.
pub(crate) struct Offload {
    sender: Sender<OffloadedMessage>,
    replies: Receiver<Reply>,
    replies_sender: Sender<Reply>,
    waker: Arc<Waker>,
    /// Answers of several messages that are on their way.
    several: Vec<(Client, Receiver<Vec<u8>>)>,
    /// Messages that have been handed over and not been answered to the end.
    open: usize,
}

impl Offload {
    pub(crate) fn new(sender: Sender<OffloadedMessage>, waker: Arc<Waker>) -> Self {
        // The zone thread waits while a worker has so many to take; the worker never waits for it.
        let (replies_sender, replies) = bounded(MAX_WAITING);
        Self { sender, replies, replies_sender, waker, several: Vec::new(), open: 0 }
    }

    /// Messages that have been handed over and not been answered to the end.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Hands a message over; returns whether it was taken.
    pub(crate) fn hand_over(&mut self, query: DeferredQuery) -> bool {
        let DeferredQuery { query: message, client: reply_to } = query;
        let (replies, waker) = (self.replies_sender.clone(), Arc::clone(&self.waker));
        let (client, transport, reply_to) = (reply_to.ip(), reply_to.transport(), Some(reply_to));
        let offloaded = OffloadedMessage { message, client, transport, reply_to, replies, waker };
        match self.sender.try_send(offloaded) {
            Ok(()) => {
                self.open += 1;
                true
            }
            Err(error) => {
                // Its worker answers it.
                error.into_inner().reply_to = None;
                false
            }
        }
    }

    /// Sends what has been answered.
    pub(crate) fn take_turn(&mut self, transports: &mut Transports, counters: &Counters) {
        transports.begin_delivery();
        while let Some((client, message)) = self.next_reply() {
            let write = |buffer: &mut [u8]| {
                let message = message?;
                buffer.get_mut(..message.len())?.copy_from_slice(&message);
                Some(message.len())
            };
            transports.deliver(client, write, counters);
        }
        transports.end_delivery(counters);
        self.deliver_several(transports, counters);
    }

    /// The next answer of one message.
    fn next_reply(&mut self) -> Option<(Client, Option<Vec<u8>>)> {
        loop {
            match self.replies.try_recv().ok()? {
                Reply::One(client, message) => {
                    self.open -= 1;
                    return Some((client, message));
                }
                Reply::Several(client, messages) => self.several.push((client, messages)),
            }
        }
    }

    /// Gives connections the next messages of answers that have several, as fast as their clients take them.
    fn deliver_several(&mut self, transports: &mut Transports, counters: &Counters) {
        let before = self.several.len();
        self.several.retain(|(client, messages)| match transports.takes(client) {
            None => false,
            Some(false) => true,
            Some(true) => match messages.try_recv() {
                Ok(message) => {
                    transports.deliver_part(client, &message);
                    true
                }
                Err(error) if error.is_empty() => true,
                Err(_) => {
                    transports.deliver(client.clone(), |_| None, counters);
                    false
                }
            },
        });
        self.open -= before - self.several.len();
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use mio::{Poll, Token};

    use super::*;
    use crate::sys::mmsg::ReturnAddress;

    #[test]
    fn what_goes_out_of_scope_unanswered_is_answered_servfail_and_what_is_not_taken_is_not() {
        let poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let (sender, receiver) = bounded(2);
        let mut offload = Offload::new(sender, waker);
        let update = [&[1, 2, 5 << 3, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], b"\x01a\0\0\x06\0\x01"].concat();
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let hand_over = |offload: &mut Offload| {
            let to = ReturnAddress::to((ip, 9).into());
            offload.hand_over(DeferredQuery {
                query: update.as_slice().into(),
                client: Client::Udp { socket: 0, ip, to },
            })
        };
        assert!(hand_over(&mut offload) && hand_over(&mut offload));
        assert!(!hand_over(&mut offload), "there is room for two");
        assert!(offload.open() == 2 && offload.next_reply().is_none(), "the third is answered by its worker");
        receiver.recv().unwrap().answer(None);
        assert!(offload.next_reply().unwrap().1.is_none());
        drop(receiver.recv().unwrap()); // the thread has ended in the middle of it
        drop(receiver);
        let message = offload.next_reply().unwrap().1.unwrap();
        assert_eq!(message[..4], [1, 2, header::QR | (5 << 3), rcode::SERVFAIL]);
        assert_eq!(message[header::LEN..], update[header::LEN..], "the zone comes back");
        assert!(offload.open() == 0 && offload.next_reply().is_none());
        assert!(!hand_over(&mut offload) && offload.open() == 0, "nobody is there");
    }
}
