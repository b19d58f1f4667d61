//! The end of a worker's TCP: what clients have sent until a stop is answered, and nothing that comes after it is read.
//!
//! Runs on the worker, once.

use std::io::Read as _;
use std::net::Shutdown;
use std::os::fd::AsFd as _;
use std::time::Instant;

use mio::Registry;
use rustix::io::ioctl_fionread;

use super::{ACCEPTS_PER_TURN, BACKLOG, Tcp};
use crate::answer::metrics::Counters;
use crate::sys::mmsg::refuse_more;
use crate::transport::responder::Responder;

/// Times that connections are accepted at a stop: enough for all that the kernel holds ready.
const LAST_ACCEPTS: usize = BACKLOG as usize / ACCEPTS_PER_TURN + 1;

/// What a client has sent too late is read and thrown away, so far: a socket that is closed over unread bytes is reset,
/// which can cost the client the answers that are on their way to it.
const MAX_DISCARDED: usize = 16 * 65_536;

impl Tcp {
    /// Accepts the connections that have been made, and notes of all how much has come. No more are made then: clients
    /// ask again, and find the port closed, or the next server. Connections to `inherited` listeners wait for the next
    /// process.
    pub(crate) fn begin_stop(&mut self, inherited: bool, registry: &Registry, counters: &Counters) {
        if inherited {
            self.listeners.clear();
        }
        for (listener, ready) in &mut self.listeners {
            // If it cannot be had, more may come: there is a bound below.
            let _ = refuse_more(&*listener);
            *ready = true;
        }
        for _ in 0..LAST_ACCEPTS {
            self.accept(registry, Instant::now(), counters);
            if self.listeners.iter().all(|(_, ready)| !ready) {
                break;
            }
        }
        self.listeners.clear();
        for (_, entry) in &mut self.connections {
            let stream = entry.connection.stream_mut();
            stream.unread = ioctl_fionread(stream.stream.as_fd())
                .ok()
                .and_then(|unread| usize::try_from(unread).ok())
                .unwrap_or_default();
            // Nothing will report the end that it has there: it is read until it shows.
            entry.connection.note_end();
        }
        let keys: Vec<_> = self.connections.iter().map(|(key, _)| key).collect();
        keys.into_iter().for_each(|key| self.enqueue(key));
    }

    /// Gives each connection that has something to do its turn. Those of which all is answered are closed.
    pub(crate) fn take_last_turn(&mut self, responder: &mut Responder<'_>) {
        self.serve(Instant::now(), responder);
    }

    /// Whether all is answered, and the clients have taken it.
    pub(crate) fn has_ended(&self) -> bool {
        self.connections.is_empty()
    }

    /// Queries that wait for others.
    pub(crate) fn outstanding(&self) -> usize {
        self.connections.iter().map(|(_, entry)| entry.connection.outstanding()).sum()
    }
}

impl Drop for super::ClientStream {
    fn drop(&mut self) {
        if self.unread > 0 {
            return;
        }
        // It is closed at a stop. Either fails only where the client has gone.
        let _ = self.stream.shutdown(Shutdown::Write);
        let mut discarded = [0; 4_096];
        let mut left = MAX_DISCARDED;
        while left > 0 {
            match self.stream.read(&mut discarded) {
                Ok(read @ 1..) => left = left.saturating_sub(read),
                _ => break,
            }
        }
    }
}
