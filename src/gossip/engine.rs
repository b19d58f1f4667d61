//! One node of the cluster: its members and its store, and what it says to the others to keep all stores the same.
//!
//! Sans-I/O: it takes the time and bytes, and returns what to do. Runs on the control thread.
//!
//! Changes of this node's own go out at once: to every member of a small cluster; in a large one to some, which pass them on
//! to a share of the members each, so that two hops reach everybody. Whatever is lost is found by anti-entropy: each second
//! a node tells a random member the hash of what it knows, and only where that differs do digests follow, and then what is
//! missing: in datagrams if it is little, else over a stream.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use super::membership::{Action, Membership};
use super::message::{MAX_DELTA_LEN, MAX_SUMMARIES, Message};
use super::peer::Peer;
use crate::store::{Applied, Delta, NodeId, SharedStore, Store, Want};

/// How often a node tells a random member what it knows.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Members up to which each gets changes from their origin itself.
const DIRECT_MEMBERS: usize = 32;

/// Changes up to which what is missing comes in datagrams.
const FEW_CHANGES: u64 = 64;

/// Datagrams with changes that one request is answered with at most.
const MAX_ANSWER_DATAGRAMS: usize = 32;

/// Bytes of changes in one message of a stream.
pub const MAX_STREAM_DELTA_LEN: usize = crate::limits::MAX_STREAM_DELTA_LEN;

/// How long the records of a node that is down are kept, withheld from answers: it may come back with the same ones.
const FORGET_AFTER: Duration = crate::limits::TOMBSTONE_AGE;

/// How long our own tombstones are kept at most.
const TOMBSTONE_AGE: Duration = crate::limits::TOMBSTONE_AGE;

/// Nodes that one message asks about.
const MAX_STRANGERS: usize = 64;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// What.
        bytes: Vec<u8>,
    },
    /// Ask a node for much, over a stream: each delta that comes is for [`Engine::handle_delta`].
    Fetch {
        /// Which node.
        to: SocketAddr,
        /// What is wanted of it.
        wants: Vec<Want>,
    },
}

/// What went wrong with what others sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Faults {
    /// Messages that could not be read.
    pub malformed: u64,
    /// Changes that claim to be our own, of a later start: another node has our data.
    pub impostor: u64,
    /// Changes for which there is no room.
    pub full: u64,
}

/// A request that is under way.
struct Asked {
    /// The highest change that it asks for.
    until: u64,
    /// When it is given up, unless something comes.
    expires: Duration,
}

/// What people may want to know of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A node is up.
    Up(Peer),
    /// A node is down.
    Down(Peer),
    /// A node has left.
    Left(Peer),
}

/// A node that is down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Down {
    /// Since when, as far as is known here.
    pub since: Duration,
    /// Who it was, if it was a member in the time of this node.
    pub peer: Option<Peer>,
}

/// A node.
pub struct Engine {
    store: SharedStore,
    me: NodeId,
    membership: Membership,
    /// Our own changes up to this number have been sent out.
    sent: u64,
    next_sync: Duration,
    /// What has been asked for, so that each gap is asked for once.
    asked: HashMap<NodeId, Asked>,
    /// Nodes that have records here and are down.
    down: BTreeMap<NodeId, Down>,
    /// Members that have said that they go for good.
    left: BTreeSet<NodeId>,
    /// The head of our own log at times of the past, oldest first, one a minute.
    heads: VecDeque<(Duration, u64)>,
    outputs: VecDeque<Output>,
    news: Vec<News>,
    faults: Faults,
    synchronised: bool,
    rng: fastrand::Rng,
}

impl Engine {
    /// The node `me` with what is in its `store`, which tries to reach `seeds`.
    #[must_use]
    pub fn new(me: Peer, store: SharedStore, seeds: &[SocketAddr], mut rng: fastrand::Rng) -> Self {
        let node = me.node;
        let membership = Membership::new(me, seeds, rng.u64(..));
        let sent = own_head(&store.read());
        Self {
            sent,
            store,
            me: node,
            membership,
            next_sync: Duration::ZERO,
            asked: HashMap::new(),
            down: BTreeMap::new(),
            left: BTreeSet::new(),
            heads: VecDeque::new(),
            outputs: VecDeque::new(),
            news: Vec::new(),
            faults: Faults::default(),
            synchronised: false,
            rng,
        }
    }

    /// What it knows, shared with those who change and read it; [`handle_time`](Self::handle_time) sends out what is new.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// Which node it is.
    #[must_use]
    pub fn me(&self) -> NodeId {
        self.me
    }

    /// Who is in the cluster.
    #[must_use]
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// Nodes that are down and whose records are kept for a while.
    pub fn down(&self) -> impl Iterator<Item = (NodeId, &Down)> {
        self.down.iter().map(|(&node, down)| (node, down))
    }

    /// One more address to look for the cluster at, unless it is known.
    pub fn add_seed(&mut self, address: SocketAddr) {
        self.membership.add_seed(address);
    }

    /// Whether this node has once known all that another one knew.
    #[must_use]
    pub fn is_synchronised(&self) -> bool {
        self.synchronised
    }

    /// What went wrong so far.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults
    }

    /// Who has come and gone since this was last called.
    pub fn take_news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`handle_time`](Self::handle_time) should be called next.
    #[must_use]
    pub fn next_time(&self) -> Duration {
        self.membership.next_time().map_or(self.next_sync, |time| time.min(self.next_sync))
    }

    /// Does what is due, and sends out our own changes.
    pub fn handle_time(&mut self, now: Duration) {
        self.membership.handle_time(now);
        self.note_members(now);
        self.send_changes();
        if now >= self.next_sync {
            self.next_sync = now + SYNC_PERIOD;
            self.asked.retain(|_, asked| now < asked.expires);
            self.sync_with_someone();
            self.forget_the_past(now);
        }
    }

    /// Takes a datagram.
    pub fn handle_datagram(&mut self, now: Duration, from: SocketAddr, bytes: &[u8]) {
        match Message::decode(bytes) {
            Ok((sender, Some(message))) => self.handle_message(now, from, sender, message),
            Ok((_, None)) => {}
            Err(_) => self.faults.malformed += 1,
        }
    }

    fn handle_message(&mut self, now: Duration, from: SocketAddr, sender: NodeId, message: Message) {
        match message {
            Message::Membership(bytes) => {
                self.faults.malformed += u64::from(!self.membership.handle_message(now, &bytes));
                self.note_members(now);
            }
            Message::Changes { delta, share } => match self.handle_delta(now, &delta) {
                Applied::News | Applied::Staged if share.1 > 0 => self.pass_on(&delta, share, sender),
                Applied::Gap(after) => {
                    let want = Want { origin: delta.origin, from: after, changes: delta.to - after };
                    self.ask(now, from, vec![want]);
                }
                _ => {}
            },
            Message::Hash(hash) => {
                if self.store.read().digest_hash() == hash {
                    self.synchronised = true;
                } else {
                    let digest = self.store.read().digest();
                    for digest in digest.parts(MAX_SUMMARIES) {
                        self.send(from, &Message::Digest { digest, is_answer: false });
                    }
                }
            }
            Message::Digest { digest, is_answer } => {
                // Whose records others answer with is a member, of whom the news did not come here.
                let (me, members) = (self.me, &self.membership);
                let strangers = digest.origins().filter(|&node| node != me && members.member(node).is_none());
                let strangers: Vec<_> = strangers.collect();
                for strangers in strangers.chunks(MAX_STRANGERS) {
                    self.send(from, &Message::Who(strangers.to_vec()));
                }
                let wants = self.store.read().known().wants(&digest);
                if !wants.is_empty() {
                    self.ask(now, from, wants);
                } else if digest.origins().count() < MAX_SUMMARIES {
                    self.synchronised = true; // that was all the sender knows
                }
                let beyond = self.store.read().digest().beyond(&digest).filter(|_| !is_answer);
                for digest in beyond.iter().flat_map(|beyond| beyond.parts(MAX_SUMMARIES)) {
                    self.send(from, &Message::Digest { digest, is_answer: true });
                }
            }
            Message::Want(wants) => self.answer(from, &wants),
            Message::Who(nodes) => {
                let nodes: BTreeSet<_> = nodes.into_iter().take(MAX_STRANGERS).collect();
                for bytes in self.membership.describe(&nodes, MAX_DELTA_LEN) {
                    self.send(from, &Message::Members(bytes));
                }
            }
            Message::Members(bytes) => {
                self.faults.malformed += u64::from(!self.membership.learn(now, &bytes));
                self.note_members(now);
            }
            Message::Leave => {
                // Its being down is told by the membership protocol, which may come later.
                if self.membership.member(sender).is_some() {
                    self.left.insert(sender);
                } else {
                    let peer = self.down.get(&sender).and_then(|down| down.peer.clone());
                    self.news.extend(peer.map(News::Left));
                    self.forget(sender);
                }
            }
        }
    }

    /// Takes over changes, however they came.
    pub fn handle_delta(&mut self, now: Duration, delta: &Delta) -> Applied {
        let applied = self.store.write().apply(delta);
        self.faults.impostor += u64::from(applied == Applied::Impostor);
        self.faults.full += u64::from(applied == Applied::Full);
        if let Some(asked) = self.asked.get_mut(&delta.origin) {
            asked.expires = now + SYNC_PERIOD;
        }
        // Of a node that is not a member (yet, or any more) it is good to know, but nothing to answer with.
        if applied == Applied::News && self.membership.member(delta.origin).is_none() {
            self.store.write().set_up(delta.origin, false);
            self.down.entry(delta.origin).or_insert(Down { since: now, peer: None });
        }
        applied
    }

    /// Tells the others that this node goes for good: they need not keep its records.
    pub fn leave(&mut self, now: Duration) {
        let mut members: Vec<_> = self.membership.members().map(|member| member.address).collect();
        self.rng.shuffle(&mut members);
        // It is said twice: there is no later time to make up for what is lost. And before the membership protocol says
        // that this node is down, so that nobody takes that for an accident.
        let told = members.iter().take(DIRECT_MEMBERS);
        told.clone().chain(told).for_each(|&to| self.send(to, &Message::Leave));
        self.membership.leave(now);
        self.note_members(now);
    }

    fn forget(&mut self, node: NodeId) {
        self.down.remove(&node);
        self.store.write().forget(node);
    }

    fn send(&mut self, to: SocketAddr, message: &Message) {
        let bytes = message.encode(self.me);
        self.outputs.push_back(Output::Datagram { to, bytes });
    }

    /// Passes on what the membership protocol wants to be sent, and takes over who is up and down.
    fn note_members(&mut self, now: Duration) {
        while let Some(action) = self.membership.poll() {
            match action {
                Action::Send { to, bytes } => self.send(to, &Message::Membership(bytes)),
                Action::Up(peer) => {
                    self.down.remove(&peer.node);
                    self.left.remove(&peer.node);
                    self.news.push(News::Up(peer.clone()));
                    self.store.write().set_up(peer.node, true);
                    // It may have news for us, and we for it: in a small cluster there is no need to wait for the next second.
                    // In a large one so many come up at once that each would be told by all.
                    if self.membership.members().len() <= DIRECT_MEMBERS {
                        let hash = self.store.read().digest_hash();
                        self.send(peer.address, &Message::Hash(hash));
                    }
                }
                Action::Down(peer) => {
                    self.store.write().set_up(peer.node, false);
                    if self.left.remove(&peer.node) {
                        self.forget(peer.node);
                        self.news.push(News::Left(peer));
                    } else {
                        self.news.push(News::Down(peer.clone()));
                        self.down.insert(peer.node, Down { since: now, peer: Some(peer) });
                    }
                }
            }
        }
    }

    /// Sends our own new changes to all, or to those who pass them on to all.
    fn send_changes(&mut self) {
        let me = self.me;
        let mut part = self.store.read().delta(me, self.sent, MAX_DELTA_LEN);
        while let Some(delta) = part {
            self.sent = delta.to;
            part = self.store.read().delta_after(&delta, MAX_DELTA_LEN);
            let mut members: Vec<_> = self.membership.members().map(|member| member.address).collect();
            if members.len() <= DIRECT_MEMBERS {
                let message = Message::Changes { delta, share: (0, 0) };
                members.into_iter().for_each(|to| self.send(to, &message));
                continue;
            }
            let shares = u16::try_from(members.len().isqrt()).unwrap_or(u16::MAX);
            self.rng.shuffle(&mut members);
            for (number, to) in (0..shares).zip(members) {
                self.send(to, &Message::Changes { delta: delta.clone(), share: (number, shares) });
            }
        }
    }

    /// Passes changes on to our share of the members, and to the next one's too: some are lost on the way.
    fn pass_on(&mut self, delta: &Delta, (number, shares): (u16, u16), sender: NodeId) {
        let message = Message::Changes { delta: delta.clone(), share: (0, 0) };
        let members =
            self.membership.members().filter(|member| member.node != sender && member.node != delta.origin);
        let share_of = |node: NodeId| u128::from_be_bytes(node.0) % u128::from(shares);
        let ours = [number, (number + 1) % shares].map(u128::from);
        let to: Vec<_> = members
            .filter(|member| ours.contains(&share_of(member.node)))
            .map(|member| member.address)
            .collect();
        to.into_iter().for_each(|to| self.send(to, &message));
    }

    fn sync_with_someone(&mut self) {
        let count = self.membership.members().len();
        if count > 0 {
            let chosen = self.membership.members().nth(self.rng.usize(..count)).map(|member| member.address);
            let hash = self.store.read().digest_hash();
            chosen.into_iter().for_each(|to| self.send(to, &Message::Hash(hash)));
        }
    }

    /// Asks for what is missing, unless that has been done and is still being answered.
    fn ask(&mut self, now: Duration, to: SocketAddr, mut wants: Vec<Want>) {
        let until = |want: &Want| want.from.saturating_add(want.changes);
        wants.retain(|want| self.asked.get(&want.origin).is_none_or(|asked| asked.until < until(want)));
        if wants.is_empty() {
            return;
        }
        for want in &wants {
            self.asked.insert(want.origin, Asked { until: until(want), expires: now + SYNC_PERIOD });
        }
        if wants.iter().map(|want| want.changes).sum::<u64>() <= FEW_CHANGES && wants.len() <= MAX_SUMMARIES {
            self.send(to, &Message::Want(wants));
        } else {
            self.outputs.push_back(Output::Fetch { to, wants });
        }
    }

    fn answer(&mut self, to: SocketAddr, wants: &[Want]) {
        let mut bulk = Bulk::new(wants.to_vec());
        for _ in 0..MAX_ANSWER_DATAGRAMS {
            let Some(delta) = bulk.next(&self.store.read(), MAX_DELTA_LEN) else { break };
            self.send(to, &Message::Changes { delta, share: (0, 0) });
        }
    }

    fn forget_the_past(&mut self, now: Duration) {
        let gone: Vec<_> = self
            .down
            .iter()
            .filter(|(_, down)| now >= down.since + FORGET_AFTER)
            .map(|(&node, _)| node)
            .collect();
        gone.into_iter().for_each(|node| self.forget(node));
        if self.heads.back().is_none_or(|(then, _)| now >= *then + Duration::from_secs(60)) {
            self.heads.push_back((now, own_head(&self.store.read())));
        }
        let mut floor = 0;
        while self.heads.front().is_some_and(|(then, _)| now >= *then + TOMBSTONE_AGE) {
            floor = self.heads.pop_front().map_or(floor, |(_, head)| head);
        }
        self.store.write().compact(floor);
    }
}

/// The answer to a request over a stream, part by part: so that who is slow to read holds nothing up and no memory.
#[derive(Clone, Debug)]
pub struct Bulk {
    wants: VecDeque<Want>,
    last: Option<Delta>,
}

impl Bulk {
    /// The answer to `wants`.
    #[must_use]
    pub fn new(wants: Vec<Want>) -> Self {
        Self { wants: wants.into(), last: None }
    }

    /// The next part of it.
    pub fn next(&mut self, store: &Store, max_len: usize) -> Option<Delta> {
        let follows = self.last.take().and_then(|last| store.delta_after(&last, max_len));
        let next = follows.or_else(|| {
            std::iter::from_fn(|| self.wants.pop_front())
                .find_map(|want| store.delta(want.origin, want.from, max_len))
        })?;
        // The changes themselves are not needed to go on after them.
        self.last = Some(next.without_changes());
        Some(next)
    }
}

fn own_head(store: &Store) -> u64 {
    store.digest().get(store.me()).map_or(0, |summary| summary.head)
}
