//! Those who follow the changes: `redbreast watch`, and programs like it.
//!
//! Called by the threads that change something, which never wait for a subscriber: one that is too slow misses some
//! events, and is told how many.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock, PoisonError, Weak};

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::api::request::{Event, Registration};
use crate::gossip::engine::News;
use crate::limits::MAX_SUBSCRIBERS;
use crate::store::{NameSet, NodeId};
use crate::wire::name::Name;

/// All of them.
#[derive(Default)]
pub(super) struct Subscribers {
    all: Mutex<Vec<Subscriber>>,
    /// What they are told is read here.
    registered: OnceLock<Weak<dyn Registered>>,
}

/// What is registered, as subscribers are told it.
pub(super) trait Registered: Send + Sync {
    /// What nodes call themselves.
    fn node_names(&self) -> BTreeMap<NodeId, String>;

    /// What is registered under a name by nodes of these `names`; `None` if the name is in none of the node's domains.
    fn registrations(&self, name: &Name, names: &BTreeMap<NodeId, String>) -> Option<Vec<Registration>>;
}

struct Subscriber {
    sender: Sender<Event>,
    lost: u64,
}

impl Subscribers {
    /// What is read from now on.
    pub(super) fn read_from(&self, registered: Weak<dyn Registered>) {
        let _ = self.registered.set(registered);
    }

    /// One more, unless there are too many. Those who listen no more are let go.
    pub(super) fn add(&self, sender: Sender<Event>) -> bool {
        let mut all = self.listening();
        let has_room = all.len() < MAX_SUBSCRIBERS;
        if has_room {
            all.push(Subscriber { sender, lost: 0 });
        }
        has_room
    }

    /// Whether nobody listens.
    pub(super) fn is_empty(&self) -> bool {
        self.listening().is_empty()
    }

    fn listening(&self) -> std::sync::MutexGuard<'_, Vec<Subscriber>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|subscriber| !subscriber.sender.is_closed());
        all
    }

    /// Tells what is registered under these names now. Reverse names change with those that they are of.
    pub(super) fn tell_names(&self, changed: &NameSet) {
        let mut all = self.listening();
        let registered = self.registered.get().filter(|_| !all.is_empty()).and_then(Weak::upgrade);
        let Some(registered) = registered else { return };
        let names = registered.node_names();
        for (done, wire) in changed.iter().enumerate() {
            if all.iter().all(|subscriber| subscriber.sender.capacity() == 0) {
                // None of them has room for more: it need not be found out what they miss.
                let missed = (changed.len() - done) as u64;
                return all.iter_mut().for_each(|subscriber| subscriber.lost += missed);
            }
            let Some(name) = Name::from_wire(wire) else { continue };
            let Some(registrations) = registered.registrations(&name, &names) else { continue };
            tell(&mut all, &Event::Name { name: name.to_string(), registrations });
        }
    }

    /// Tells that so many names have changed, too many to be told one by one.
    pub(super) fn tell_lost(&self, names: usize) {
        self.listening().iter_mut().for_each(|subscriber| subscriber.lost += names as u64);
    }

    /// Tells who has come to the cluster and gone.
    pub(super) fn tell_members(&self, news: &[News]) {
        let mut all = self.listening();
        for news in news {
            let (peer, state) = match news {
                News::Up(peer) => (peer, "up"),
                News::Down(peer) => (peer, "down"),
                News::Left(peer) => (peer, "left"),
            };
            tell(&mut all, &Event::Member { name: peer.name.to_string(), state: state.into() });
        }
    }
}

fn tell(all: &mut [Subscriber], event: &Event) {
    for subscriber in all {
        let lost = Event::Lost { events: subscriber.lost };
        if subscriber.lost > 0 && subscriber.sender.try_send(lost).is_ok() {
            subscriber.lost = 0;
        }
        if subscriber.lost > 0
            || matches!(subscriber.sender.try_send(event.clone()), Err(TrySendError::Full(_)))
        {
            subscriber.lost += 1;
        }
    }
}
