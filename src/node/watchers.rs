//! Those who are told of each change.
//!
//! Runs on the control thread, which never waits for them: who is too slow misses some, and is told how many.

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::Node;
use crate::gossip::engine::News;
use crate::registry::request::{Event, Sought};
use crate::store::NameSet;
use crate::wire::name::Name;

/// All of them.
#[derive(Default)]
pub(super) struct Watchers(Vec<Watcher>);

struct Watcher {
    sender: Sender<Event>,
    lost: u64,
}

impl Watchers {
    /// One more; those who listen no more are let go.
    pub(super) fn add(&mut self, sender: Sender<Event>) {
        self.retain_listening();
        self.0.push(Watcher { sender, lost: 0 });
    }

    fn retain_listening(&mut self) {
        self.0.retain(|watcher| !watcher.sender.is_closed());
    }

    fn tell(&mut self, event: &Event) {
        for watcher in &mut self.0 {
            let missed = Event::Lost { events: watcher.lost };
            if watcher.lost > 0 && watcher.sender.try_send(missed).is_ok() {
                watcher.lost = 0;
            }
            if watcher.lost > 0
                || matches!(watcher.sender.try_send(event.clone()), Err(TrySendError::Full(_)))
            {
                watcher.lost += 1;
            }
        }
    }
}

impl Node {
    /// Tells of these names what is registered under them now. Reverse names change with those that they are of.
    pub(super) fn tell_changed(&mut self, changed: &NameSet) {
        self.watchers.retain_listening();
        if self.watchers.0.is_empty() {
            return;
        }
        for wire in changed.iter() {
            let Some(name) = Name::from_wire(wire).filter(|name| self.is_ours(name)) else { continue };
            let registrations = self.registrations(&Sought::Name(name.clone()));
            self.watchers.tell(&Event::Name { name: name.to_string(), registrations });
        }
    }

    fn is_ours(&self, name: &Name) -> bool {
        self.settings.domains.iter().any(|domain| name.is_within(domain))
    }

    /// Tells of members that have come or gone.
    pub(super) fn tell_news(&mut self, all: Vec<News>) {
        for news in all {
            let (peer, state) = match news {
                News::Up(peer) => (peer, "up"),
                News::Down(peer) => (peer, "down"),
                News::Left(peer) => (peer, "left"),
            };
            self.watchers.tell(&Event::Member { name: peer.name.to_string(), state: state.into() });
        }
    }
}
