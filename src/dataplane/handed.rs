//! What workers leave to another thread: updates of zones (RFC 2136), transfers, and all that is signed (RFC 8945).
//!
//! A worker hands the message over and goes on; what is answered comes back to it through a queue, and leaves by the socket or
//! connection that the message came by. Nothing of it is there unless a server has keys or takes updates.

use std::net::IpAddr;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::Waker;

use super::tcp::{Tcp, TcpClient};
use super::waiting::Client;
use crate::wire::response::Transport;

/// Messages that wait for the other thread at most, of all workers; those after them are SERVFAIL.
pub const MAX_WAITING: usize = crate::limits::MAX_HANDED_OVER;

/// Messages of one transfer that wait for their client at most.
const MAX_AHEAD: usize = 4;

/// A message that a worker has handed over.
pub struct HandedOver {
    /// The message.
    pub message: Box<[u8]>,
    /// Who sent it.
    pub client: IpAddr,
    /// How it came.
    pub transport: Transport,
    reply_to: Client,
    replies: Sender<Reply>,
    waker: Arc<Waker>,
}

/// What comes back to a worker.
pub(super) enum Reply {
    /// One message, or none at all.
    One(Client, Option<Vec<u8>>),
    /// Several, as they come.
    Several(TcpClient, Receiver<Vec<u8>>),
}

impl HandedOver {
    /// Answers it with one message, or not at all.
    pub fn answer(self, message: Option<Vec<u8>>) {
        // A worker that has ended has no clients any more.
        let _ = self.replies.send(Reply::One(self.reply_to, message));
        let _ = self.waker.wake();
    }

    /// Answers it with several messages, if it came over TCP; otherwise not at all.
    #[must_use]
    pub fn answer_several(self) -> Option<Messages> {
        let Client::Tcp(client) = self.reply_to else { return None };
        let (sender, receiver) = bounded(MAX_AHEAD);
        let _ = self.replies.send(Reply::Several(client, receiver));
        let _ = self.waker.wake();
        Some(Messages { sender: Some(sender), waker: self.waker })
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
pub(super) struct Handing {
    handed: Sender<HandedOver>,
    replies: Receiver<Reply>,
    replies_sender: Sender<Reply>,
    waker: Arc<Waker>,
    /// Answers of several messages that are on their way.
    several: Vec<(TcpClient, Receiver<Vec<u8>>)>,
}

impl Handing {
    pub(super) fn new(handed: Sender<HandedOver>, waker: Arc<Waker>) -> Self {
        let (replies_sender, replies) = unbounded();
        Self { handed, replies, replies_sender, waker, several: Vec::new() }
    }

    /// Hands a message over; returns whether it was taken.
    pub(super) fn hand_over(
        &self,
        message: &[u8],
        client: IpAddr,
        transport: Transport,
        reply_to: Client,
    ) -> bool {
        let (replies, waker) = (self.replies_sender.clone(), Arc::clone(&self.waker));
        let handed = HandedOver { message: message.into(), client, transport, reply_to, replies, waker };
        self.handed.try_send(handed).is_ok()
    }

    /// The next answer of one message.
    pub(super) fn next_reply(&mut self) -> Option<(Client, Option<Vec<u8>>)> {
        loop {
            match self.replies.try_recv().ok()? {
                Reply::One(client, message) => return Some((client, message)),
                Reply::Several(client, messages) => self.several.push((client, messages)),
            }
        }
    }

    /// Gives connections the next messages of answers that have several, as fast as their clients take them.
    pub(super) fn deliver_several(&mut self, tcp: &mut Tcp) {
        self.several.retain(|(client, messages)| match tcp.takes(*client) {
            None => false,
            Some(false) => true,
            Some(true) => match messages.try_recv() {
                Ok(message) => {
                    tcp.deliver_part(*client, &message);
                    true
                }
                Err(error) if error.is_empty() => true,
                Err(_) => {
                    tcp.deliver(*client, None);
                    false
                }
            },
        });
    }
}
