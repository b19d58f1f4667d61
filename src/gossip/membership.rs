//! Who is in the cluster: SWIM by the `foca` crate, with a clock of our own and the joining that it leaves to its user.
//!
//! Sans-I/O: it takes the time and bytes, and returns what to send and what has changed. Runs on the thread `cluster`.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::Duration;

use foca::{Codec, Config, Foca, NoCustomBroadcast, Notification, PeriodicParams, Runtime, Timer};
use rand::SeedableRng;
use rand::rngs::SmallRng;

use super::peer::{Peer, PeerCodec};
use crate::store::NodeId;

/// How often a node probes another. Each is probed at least once in as many periods as there are members.
const PROBE_PERIOD: Duration = Duration::from_millis(500);

/// How long an answer to a probe may take before others are asked to probe as well.
const PROBE_RTT: Duration = Duration::from_millis(150);

/// How long a suspect has to say that it is alive. With a probe's period and the luck of the draw before it, a dead
/// node is declared down within five seconds; in that time a live one hears of the suspicion more than ten times over.
const SUSPICION: Duration = Duration::from_millis(2000);

/// How often news of members go out on their own, as long as there are any: probes alone would spread them too slowly.
const NEWS_PERIOD: Duration = Duration::from_millis(200);

/// How often a member that is down is told of us: so partitions heal by themselves.
const DOWN_PERIOD: Duration = Duration::from_millis(500);

/// How long members that are down are told of us.
const DOWN_FOR: Duration = Duration::from_secs(3600);

/// The first time between two tries to reach a seed, which may come up later.
const ANNOUNCE_PERIOD: Duration = Duration::from_secs(1);

/// The longest time between two tries to reach a seed.
const MAX_SEED_BACKOFF: Duration = Duration::from_secs(16);

/// Seeds at most; names may come to mean ever new addresses.
const MAX_SEEDS: usize = crate::limits::MAX_SEEDS;

/// Members that are told at once of our new self.
const MAX_ANNOUNCED: usize = 32;

/// Bytes of a message at most; what is put around it has to fit in a datagram, too.
pub const MAX_MESSAGE_LEN: usize = 1_200;

/// What comes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send these bytes.
    Send {
        /// Where to.
        to: SocketAddr,
        /// A message of at most [`MAX_MESSAGE_LEN`] bytes.
        bytes: Vec<u8>,
    },
    /// This node is up. It may be known already, under another address or as an earlier self.
    Up(Peer),
    /// This node is down: it has said so, or nobody has heard of it.
    Down(Peer),
}

/// The members of the cluster as this node knows them.
pub struct Membership {
    foca: Foca<Peer, PeerCodec, SmallRng, NoCustomBroadcast>,
    effects: Effects,
    /// The live members, by node; of several that one node has had, the latest.
    members: BTreeMap<NodeId, Peer>,
    /// Where they are.
    addresses: HashMap<SocketAddr, NodeId>,
    seeds: Vec<Seed>,
    next_news: Duration,
}

/// A seed that is to be told of us until it has answered.
struct Seed {
    address: SocketAddr,
    next: Duration,
    backoff: Duration,
}

/// What foca asks for, kept until it is asked for.
#[derive(Default)]
struct Effects {
    now: Duration,
    timers: BinaryHeap<Reverse<(Duration, u64, Timed)>>,
    timers_made: u64,
    actions: VecDeque<Action>,
    changes: Vec<MemberChange>,
    /// We were declared down and have become a later one of ourselves.
    rejoined: bool,
}

/// A timer, which is not compared.
struct Timed(Timer<Peer>);

impl PartialEq for Timed {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Timed {}

impl PartialOrd for Timed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timed {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

enum MemberChange {
    Up(Peer),
    Down(Peer),
    /// The first was at an address where now the second is. If it was up, so is that one, until more is said.
    Renamed(Peer, Peer),
}

impl Runtime<Peer> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        match notification {
            Notification::MemberUp(peer) => self.changes.push(MemberChange::Up(peer.clone())),
            Notification::MemberDown(peer) => self.changes.push(MemberChange::Down(peer.clone())),
            Notification::Rename(before, after) => {
                self.changes.push(MemberChange::Renamed(before.clone(), after.clone()));
            }
            Notification::Rejoin(_) => self.rejoined = true,
            _ => {}
        }
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.actions.push_back(Action::Send { to: to.address, bytes: data.to_vec() });
    }

    fn submit_after(&mut self, event: Timer<Peer>, after: Duration) {
        self.timers_made += 1;
        self.timers.push(Reverse((self.now + after, self.timers_made, Timed(event))));
    }
}

impl Membership {
    /// A node that knows of nobody yet but the addresses of `seeds`.
    #[must_use]
    pub fn new(me: Peer, seeds: &[SocketAddr], rng_seed: u64) -> Self {
        let once = |frequency| PeriodicParams { frequency, num_members: NonZeroUsize::MIN };
        let config = Config {
            probe_period: PROBE_PERIOD,
            probe_rtt: PROBE_RTT,
            num_indirect_probes: NonZeroUsize::new(3).expect("not zero"),
            max_transmissions: NonZeroU8::new(10).expect("not zero"),
            suspect_to_down_after: SUSPICION,
            remove_down_after: Some(DOWN_FOR),
            max_packet_size: NonZeroUsize::new(MAX_MESSAGE_LEN).expect("not zero"),
            notify_down_members: true,
            periodic_announce: Some(once(Duration::from_secs(30))),
            periodic_announce_to_down_members: Some(once(DOWN_PERIOD)),
            periodic_gossip: None, // it would go on when there is nothing to tell
        };
        let others = seeds.iter().filter(|&&address| address != me.address);
        let seed = |&address| Seed { address, next: Duration::ZERO, backoff: ANNOUNCE_PERIOD };
        let seeds = others.map(seed).collect();
        Self {
            foca: Foca::new(me, config, SmallRng::seed_from_u64(rng_seed), PeerCodec),
            effects: Effects::default(),
            members: BTreeMap::new(),
            addresses: HashMap::new(),
            seeds,
            next_news: Duration::ZERO,
        }
    }

    /// One more address to look for the cluster at, unless it is known.
    pub fn add_seed(&mut self, address: SocketAddr) {
        let known = self.seeds.iter().any(|seed| seed.address == address);
        if !known && address != self.me().address && self.seeds.len() < MAX_SEEDS {
            self.seeds.push(Seed { address, next: Duration::ZERO, backoff: ANNOUNCE_PERIOD });
        }
    }

    /// This node as it calls itself now.
    #[must_use]
    pub fn me(&self) -> &Peer {
        self.foca.identity()
    }

    /// The live members but for this node.
    pub fn members(&self) -> impl ExactSizeIterator<Item = &Peer> {
        self.members.values()
    }

    /// The live member `node`.
    #[must_use]
    pub fn member(&self, node: NodeId) -> Option<&Peer> {
        self.members.get(&node)
    }

    /// Takes a message. Returns whether it was one.
    pub fn handle_message(&mut self, now: Duration, bytes: &[u8]) -> bool {
        self.effects.now = now;
        let taken = self.foca.handle_data(bytes, &mut self.effects).is_ok();
        self.note_changes();
        taken
    }

    /// The members among `nodes` with what is known of them, in messages for those who do not know them.
    #[must_use]
    pub fn describe(&self, nodes: &BTreeSet<NodeId>, max_len: usize) -> Vec<Vec<u8>> {
        let mut messages = vec![Vec::new()];
        for member in self.foca.iter_members().filter(|member| nodes.contains(&member.id().node)) {
            let mut bytes = Vec::new();
            if PeerCodec.encode_member(member, &mut bytes).is_err() {
                continue; // memory has room for every member
            }
            match messages.last_mut() {
                Some(last) if last.len() + bytes.len() <= max_len => last.extend_from_slice(&bytes),
                _ => messages.push(bytes),
            }
        }
        messages.retain(|message| !message.is_empty());
        messages
    }

    /// Takes such a message. Returns whether it was one.
    pub fn learn(&mut self, now: Duration, mut bytes: &[u8]) -> bool {
        self.effects.now = now;
        let mut members = Vec::new();
        while !bytes.is_empty() {
            let Ok(member) = PeerCodec.decode_member(&mut bytes) else { return false };
            members.push(member);
        }
        // They are no news to the others.
        let learnt = self.foca.apply_many(members.into_iter(), false, &mut self.effects).is_ok();
        self.note_changes();
        learnt
    }

    /// Does what is due.
    pub fn handle_time(&mut self, now: Duration) {
        self.effects.now = now;
        while self.effects.timers.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Some(Reverse((_, _, Timed(timer)))) = self.effects.timers.pop() else { break };
            // An error tells of a timer that came late, after a pause of the whole process: the next makes up for it.
            let _ = self.foca.handle_timer(timer, &mut self.effects);
        }
        if now >= self.next_news && self.foca.updates_backlog() > 0 {
            self.next_news = now + NEWS_PERIOD;
            let _ = self.foca.gossip(&mut self.effects);
        }
        self.announce_to_seeds(now);
        self.note_changes();
    }

    /// When [`handle_time`](Self::handle_time) should be called next.
    #[must_use]
    pub fn next_time(&self) -> Option<Duration> {
        let timer = self.effects.timers.peek().map(|Reverse((due, ..))| *due);
        let news = (self.foca.updates_backlog() > 0 && !self.members.is_empty()).then_some(self.next_news);
        let seed = self.seeds.iter().filter(|seed| !self.is_member(seed.address)).map(|seed| seed.next).min();
        [timer, news, seed].into_iter().flatten().min()
    }

    /// Tells the others that this node goes. What is to be sent has to be sent still.
    pub fn leave(&mut self, now: Duration) {
        self.effects.now = now;
        let _ = self.foca.leave_cluster(&mut self.effects);
    }

    /// The next thing to do.
    pub fn poll(&mut self) -> Option<Action> {
        self.effects.actions.pop_front()
    }

    fn is_member(&self, address: SocketAddr) -> bool {
        self.addresses.contains_key(&address)
    }

    fn announce_to_seeds(&mut self, now: Duration) {
        for i in 0..self.seeds.len() {
            let address = self.seeds[i].address;
            if self.seeds[i].next > now || self.is_member(address) {
                continue;
            }
            let seed = &mut self.seeds[i];
            seed.next = now + seed.backoff;
            seed.backoff = (seed.backoff * 2).min(MAX_SEED_BACKOFF);
            let _ = self.foca.announce(Peer::seed(address), &mut self.effects);
        }
    }

    /// Tells members of our new self. They would not take its messages to their old selves otherwise, nor we theirs:
    /// after a partition both sides become new at the same time.
    fn announce_to_members(&mut self) {
        let addresses = self.members.values().map(|member| member.address).take(MAX_ANNOUNCED);
        for address in addresses.collect::<Vec<_>>() {
            let _ = self.foca.announce(Peer::seed(address), &mut self.effects);
        }
    }

    /// Makes of foca's notices, which are about addresses, what has changed about nodes.
    fn note_changes(&mut self) {
        if std::mem::take(&mut self.effects.rejoined) {
            self.announce_to_members();
        }
        for change in std::mem::take(&mut self.effects.changes) {
            match change {
                MemberChange::Up(peer) => self.note_up(peer),
                MemberChange::Down(peer) => self.note_down(&peer),
                MemberChange::Renamed(before, after) => {
                    if self.members.get(&before.node) == Some(&before) {
                        if before.node != after.node {
                            self.note_down(&before);
                        }
                        self.note_up(after);
                    }
                }
            }
        }
    }

    fn note_up(&mut self, peer: Peer) {
        if self.members.get(&peer.node).is_some_and(|now| now.generation > peer.generation) {
            return;
        }
        for seed in self.seeds.iter_mut().filter(|seed| seed.address == peer.address) {
            seed.backoff = ANNOUNCE_PERIOD;
            seed.next = self.effects.now + ANNOUNCE_PERIOD;
        }
        if let Some(before) = self.members.insert(peer.node, peer.clone()) {
            self.forget_address(&before);
        }
        self.addresses.insert(peer.address, peer.node);
        self.effects.actions.push_back(Action::Up(peer));
    }

    /// Another node may be at its address by now.
    fn forget_address(&mut self, peer: &Peer) {
        if self.addresses.get(&peer.address) == Some(&peer.node) {
            self.addresses.remove(&peer.address);
        }
    }

    fn note_down(&mut self, peer: &Peer) {
        // Of a node that has moved, only its old address is down.
        if self.members.get(&peer.node).is_some_and(|now| now.generation <= peer.generation) {
            if let Some(before) = self.members.remove(&peer.node) {
                self.forget_address(&before);
            }
            self.effects.actions.push_back(Action::Down(peer.clone()));
        }
    }
}
