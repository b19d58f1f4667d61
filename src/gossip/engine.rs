//! One node of the cluster: its members and its store, and what it says to the others to keep all stores the same.
//!
//! Sans-I/O: it takes the time and bytes, and returns what to do. Runs on the thread `cluster`.
//!
//! Changes of this node's own go out at once: to every member of a small cluster; in a large one to some, which pass
//! them on to a share of the members each, so that two hops reach everybody. Whatever is lost is found by anti-entropy:
//! each second a node tells a random member the hash of what it knows, and only where that differs do digests follow,
//! and then what is missing: in datagrams if it is little, else over a stream.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

pub use super::bulk::{Bulk, MAX_STREAM_DELTA_LEN};
use super::burst::Burst;
use super::membership::{Action, Membership};
use super::message::{MAX_DELTA_LEN, MAX_SUMMARIES, Message};
use super::peer::Peer;
use super::requests::{Requests, Way};
use crate::store::{Applied, Delta, Filling, NodeId, SharedStore, Want};

/// How often a node tells a random member what it knows.
const SYNC_PERIOD: Duration = Duration::from_secs(1);

/// Members up to which each gets changes from their origin itself.
const DIRECT_MEMBERS: usize = 32;

/// Datagrams with changes that one request is answered with at most.
const MAX_ANSWER_DATAGRAMS: usize = 32;

/// How long the records of a node that is down are kept, withheld from answers: it may come back with the same ones.
const FORGET_AFTER: Duration = crate::limits::TOMBSTONE_AGE;

/// How long our own tombstones are kept at most.
const TOMBSTONE_AGE: Duration = crate::limits::TOMBSTONE_AGE;

/// Units of the store's postponed work that are done at each turn: some 2 ms of them.
const SWEEP_STEPS: usize = crate::limits::SWEEP_STEPS;

/// How long others wait at most for what they want of this node, while it registers very much.
const FILLING_WAIT: Duration = crate::limits::FILLING_WAIT;

/// How often it is looked whether there is room for the names that sweeps note.
const ROOM_PERIOD: Duration = Duration::from_millis(2);

/// Nodes that one message asks about.
const MAX_STRANGERS: usize = 64;

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send a datagram.
    Datagram {
        /// Where to.
        to: SocketAddr,
        /// What. If several get the same, they share it.
        bytes: Arc<[u8]>,
    },
    /// Ask a node for much, over a stream: each delta that comes is for [`Engine::handle_delta`], and the end of the
    /// stream, or that there can be none, for [`Engine::handle_fetch_end`]. There is one to a node at a time.
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
    /// Our own changes up to this number have been sent out, or are pulled.
    sent: u64,
    burst: Burst,
    next_sync: Duration,
    /// When the store's postponed work goes on, if there is any.
    next_sweep: Duration,
    /// Since when this node has been registering very much of its own, if it is.
    filled_since: Option<Duration>,
    /// What has been asked for, so that each gap is asked for once.
    requests: Requests,
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
        let sent = store.read().own_head();
        Self {
            sent,
            burst: Burst::default(),
            store,
            me: node,
            membership,
            next_sync: Duration::ZERO,
            next_sweep: Duration::ZERO,
            filled_since: None,
            requests: Requests::default(),
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

    /// What it knows, shared with those who change and read it; [`handle_time`](Self::handle_time) sends out what is
    /// new.
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

    /// Bytes that are to be sent, each message once.
    #[must_use]
    pub fn buffered(&self) -> usize {
        let mut last = None;
        let lens = self.outputs.iter().map(|output| match output {
            Output::Datagram { bytes, .. }
                if last.replace(Arc::as_ptr(bytes)) != Some(Arc::as_ptr(bytes)) =>
            {
                bytes.len()
            }
            _ => 0,
        });
        lens.sum::<usize>() + self.outputs.capacity() * size_of::<Output>()
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When the store's postponed work is gone on with, if there is any.
    #[must_use]
    pub fn next_sweep(&self) -> Option<Duration> {
        self.store.read().has_sweeps().then_some(self.next_sweep)
    }

    /// When [`handle_time`](Self::handle_time) should be called next.
    #[must_use]
    pub fn next_time(&self) -> Duration {
        [self.membership.next_time(), self.next_sweep(), self.burst.next_time()]
            .into_iter()
            .flatten()
            .fold(self.next_sync, Duration::min)
    }

    /// Does what is due, and sends out our own changes.
    pub fn handle_time(&mut self, now: Duration) {
        self.membership.handle_time(now);
        self.note_members(now);
        self.send_changes(now);
        if now >= self.next_sync {
            self.next_sync = now + SYNC_PERIOD;
            self.requests.expire(now);
            self.sync_with_someone();
            self.forget_the_past(now);
        }
        self.sweep(now);
    }

    /// Does some of the store's postponed work.
    fn sweep(&mut self, now: Duration) {
        if self.store.read().has_sweeps() {
            self.store.write().sweep(SWEEP_STEPS);
        }
        // What is left in the sockets meanwhile is not late.
        let has_room = self.store.read().has_room();
        self.next_sweep = if has_room { now } else { now + ROOM_PERIOD };
        if !has_room {
            self.requests.rest(now);
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
            Message::Changes { delta, share } => match self.take_delta(now, &delta, false) {
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

    /// Whether changes of streams may come. If not, so many names wait to be published, or all are just read, that they
    /// are to be left in the socket.
    #[must_use]
    pub fn takes_bulk(&self) -> bool {
        !self.store.is_bulk_held() && self.store.read().has_room()
    }

    /// Whether streams may give what others want. Not while this node registers very much: what is told in parts takes
    /// longer, here and there. For how long they wait for that has a limit.
    pub fn gives_bulk(&mut self, now: Duration) -> bool {
        if self.store.filling() == Filling::No {
            self.filled_since = None;
            return true;
        }
        now.saturating_sub(*self.filled_since.get_or_insert(now)) >= FILLING_WAIT
    }

    /// Takes over changes that have come over a stream.
    pub fn handle_delta(&mut self, now: Duration, delta: &Delta) -> Applied {
        self.take_delta(now, delta, true)
    }

    /// The stream to `from` is over: if `whole`, all has come that was there.
    pub fn handle_fetch_end(&mut self, from: SocketAddr, whole: bool) {
        let more = self.requests.end_stream(from);
        if whole && more {
            let hash = self.store.read().digest_hash();
            self.send(from, &Message::Hash(hash));
        }
    }

    fn take_delta(&mut self, now: Duration, delta: &Delta, of_stream: bool) -> Applied {
        let applied = {
            let mut store = self.store.write();
            let applied = store.apply(delta);
            // Of a node that is not a member (yet, or any more) it is good to know, but nothing to answer with.
            if applied == Applied::News && self.membership.member(delta.origin).is_none() {
                store.set_up(delta.origin, false);
                self.down.entry(delta.origin).or_insert(Down { since: now, peer: None });
            }
            applied
        };
        self.faults.impostor += u64::from(applied == Applied::Impostor);
        self.faults.full += u64::from(applied == Applied::Full);
        self.requests.note(now, delta.origin, of_stream);
        applied
    }

    /// Tells the others that this node goes for good: they need not keep its records.
    pub fn leave(&mut self, now: Duration) {
        let mut members: Vec<_> = self.membership.members().map(|member| member.address).collect();
        self.rng.shuffle(&mut members);
        // It is said twice: there is no later time to make up for what is lost. And before the membership protocol says
        // that this node is down, so that nobody takes that for an accident.
        members.truncate(DIRECT_MEMBERS);
        for _ in 0..2 {
            self.send_to_all(&members, &Message::Leave);
        }
        self.membership.leave(now);
        self.note_members(now);
    }

    fn forget(&mut self, node: NodeId) {
        self.down.remove(&node);
        self.store.write().forget(node);
    }

    fn send(&mut self, to: SocketAddr, message: &Message) {
        self.send_to_all(&[to], message);
    }

    fn send_to_all(&mut self, to: &[SocketAddr], message: &Message) {
        let bytes: Arc<[u8]> = message.encode(self.me).into();
        self.outputs.extend(to.iter().map(|&to| Output::Datagram { to, bytes: bytes.clone() }));
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
                    // It may have news for us, and we for it: in a small cluster there is no need to wait for the next
                    // second. In a large one so many come up at once that each would be told by all.
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

    /// Sends our own new changes to all, or to those who pass them on to all; or, if they are too many, says that there
    /// are some.
    fn send_changes(&mut self, now: Duration) {
        let head = self.store.read().own_head();
        let is_new = head > self.sent;
        if !is_new && !self.burst.is_behind() {
            return;
        }
        let mut members: Vec<_> = self.membership.members().map(|member| member.address).collect();
        if members.is_empty() {
            // Nor does anybody wait to be told of a burst.
            (self.sent, self.burst) = (head, Burst::default());
            return;
        }
        let is_direct = members.len() <= DIRECT_MEMBERS;
        let receivers = if is_direct { members.len() } else { members.len().isqrt() };
        let mut part = None;
        while self.sent < head && !self.burst.is_behind() {
            let next = {
                let store = self.store.read();
                match &part {
                    Some(part) => store.delta_after(part, MAX_DELTA_LEN),
                    None => store.delta(self.me, self.sent, MAX_DELTA_LEN),
                }
            };
            let Some(delta) = next else { break };
            if !self.burst.take(now, receivers) {
                break;
            }
            self.sent = delta.to;
            part = Some(delta.without_changes());
            if is_direct {
                self.send_to_all(&members, &Message::Changes { delta, share: (0, 0) });
                continue;
            }
            let shares = u16::try_from(receivers).unwrap_or(u16::MAX);
            self.rng.shuffle(&mut members);
            for number in 0..shares {
                let to = members[usize::from(number)];
                self.send(to, &Message::Changes { delta: delta.clone(), share: (number, shares) });
            }
        }
        if self.burst.is_behind() {
            self.sent = self.store.read().own_head();
        }
        if self.burst.tells(now, is_new) {
            self.rng.shuffle(&mut members);
            members.truncate(DIRECT_MEMBERS);
            let hash = self.store.read().digest_hash();
            self.send_to_all(&members, &Message::Hash(hash));
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
        self.send_to_all(&to, &message);
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
    fn ask(&mut self, now: Duration, to: SocketAddr, wants: Vec<Want>) {
        match self.requests.begin(now, to, wants) {
            Some((Way::Datagram, wants)) => self.send(to, &Message::Want(wants)),
            Some((Way::Stream, wants)) => self.outputs.push_back(Output::Fetch { to, wants }),
            None => {}
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
            self.heads.push_back((now, self.store.read().own_head()));
        }
        let mut floor = 0;
        while self.heads.front().is_some_and(|(then, _)| now >= *then + TOMBSTONE_AGE) {
            floor = self.heads.pop_front().map_or(floor, |(_, head)| head);
        }
        self.store.write().compact(floor);
    }
}
