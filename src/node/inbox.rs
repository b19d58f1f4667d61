//! The control thread's event loop and the queue of what it is asked to do.
//!
//! The [`Inbox`] is the control thread's; every other thread has a [`ControlSender`], which wakes it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::event::Event;
use mio::{Events, Poll, Token, Waker};

use super::Control;

/// The waker's token; the sockets of the gossip have those from `gossip::transport::FIRST_TOKEN` on.
const WAKER: Token = Token(0);

/// Events that the kernel tells of at once.
const EVENTS: usize = 256;

/// Asks things of the control thread.
#[derive(Clone)]
pub struct ControlSender {
    commands: Sender<Control>,
    waker: Arc<Waker>,
}

impl ControlSender {
    /// Asks for `command`. Returns whether there is still somebody to do it.
    pub fn send(&self, command: Control) -> bool {
        // It is queued before it is told of, so that whoever wakes up finds it.
        self.commands.send(command).is_ok() && self.waker.wake().is_ok()
    }
}

/// The control thread's side.
pub struct Inbox {
    poll: Poll,
    events: Events,
    commands: Receiver<Control>,
    sender: ControlSender,
}

impl Inbox {
    /// An empty one.
    ///
    /// # Errors
    /// When the kernel refuses an event queue.
    pub fn new() -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKER)?);
        let (commands, receiver) = crossbeam_channel::unbounded();
        let sender = ControlSender { commands, waker };
        Ok(Self { poll, events: Events::with_capacity(EVENTS), commands: receiver, sender })
    }

    /// A sender for another thread.
    #[must_use]
    pub fn sender(&self) -> ControlSender {
        self.sender.clone()
    }

    /// Where sockets are registered.
    pub(super) fn registry(&self) -> &mio::Registry {
        self.poll.registry()
    }

    /// Waits for something to happen, for so long at most, and tells of each event of a socket.
    pub(super) fn wait(&mut self, patience: Duration, mut tell: impl FnMut(&Event)) {
        let patience = if self.commands.is_empty() { patience } else { Duration::ZERO };
        // Interrupted by a signal: the loop comes round again.
        if self.poll.poll(&mut self.events, Some(patience)).is_ok() {
            self.events.iter().filter(|event| event.token() != WAKER).for_each(&mut tell);
        }
    }

    /// The next command, if there is one.
    pub(super) fn take(&self) -> Option<Control> {
        self.commands.try_recv().ok()
    }
}
