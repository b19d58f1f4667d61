//! A worker's UDP sockets for one upstream: which port a question is sent from.
//!
//! Runs on the workers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rand::Rng;

use crate::limits::{OLD_UPSTREAM_PORT_AGE, UPSTREAM_PORT_AGE, UPSTREAM_PORTS};
use crate::sys::mmsg::buffered;

/// Sockets for each upstream in use, each with a port of its own: who forges an answer has to guess which of them it is
/// for, too (RFC 5452 §9.2).
#[allow(clippy::cast_possible_truncation)] // slots have eight bits
const PORTS: u8 = UPSTREAM_PORTS as u8;

/// Those in use, and as many that were before all of them were renewed: what they were asked may still be answered.
pub(crate) const SLOTS: usize = 2 * UPSTREAM_PORTS;

/// How often one of them gets a new port. It has rested for as long before, so that nothing is awaited there any more.
const RENEWAL: Duration = Duration::from_secs(UPSTREAM_PORT_AGE.as_secs() / UPSTREAM_PORTS as u64);

/// The sockets. They are connected, so that the kernel lets through what comes from the upstream alone, and tells if
/// nobody is there. Each so has the source address that was right when it was opened.
pub(crate) struct Sockets {
    address: SocketAddr,
    slots: [Option<UdpSocket>; SLOTS],
    /// Where those in use begin: at 0 or at [`PORTS`].
    base: u8,
    chosen: u8,
    /// The one that rests before it gets a new port, and since when.
    resting: u8,
    resting_since: Instant,
    renewed: Option<Instant>,
}

impl Sockets {
    /// None yet: they are opened when there is something to send.
    pub(crate) fn new(address: SocketAddr, now: Instant) -> Self {
        let slots = Default::default();
        Self { address, slots, base: 0, chosen: 0, resting: 0, resting_since: now, renewed: None }
    }

    /// Chooses the port that questions are sent from in this turn: to send all of them by one call is cheaper.
    #[allow(clippy::cast_possible_truncation)] // sixteen
    pub(crate) fn choose(&mut self, now: Instant, secret: &mut impl Rng) {
        if now.saturating_duration_since(self.resting_since) >= RENEWAL {
            self.slots[usize::from(self.base + self.resting)] = None;
            self.resting = (self.resting + 1) % PORTS;
            self.resting_since = now;
        }
        // Any but the one that rests.
        let other = 1 + (secret.next_u32() % u32::from(PORTS - 1)) as u8;
        self.chosen = self.base + (self.resting + other) % PORTS;
    }

    /// Has all questions from now on sent by new sockets, which have the source address and the way that are right now.
    /// Not if that was done a moment ago.
    pub(crate) fn renew(&mut self, now: Instant) {
        if self.renewed.is_some_and(|at| now.saturating_duration_since(at) < OLD_UPSTREAM_PORT_AGE) {
            return;
        }
        self.renewed = Some(now);
        self.base = PORTS - self.base;
        self.chosen = self.base + self.chosen % PORTS;
        self.slots[usize::from(self.base)..][..usize::from(PORTS)].fill_with(|| None);
    }

    /// The slot that was chosen.
    pub(crate) fn chosen(&self) -> u8 {
        self.chosen
    }

    /// The socket in a slot, if it is open.
    pub(crate) fn get(&self, slot: u8) -> Option<&UdpSocket> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    /// Closes the chosen socket: it is of no use any more.
    pub(crate) fn close(&mut self) {
        self.slots[usize::from(self.chosen)] = None;
    }

    /// The chosen socket; opened at a port that the kernel draws, and watched by `token`, if it is not.
    ///
    /// # Errors
    /// What the kernel says.
    pub(crate) fn open(&mut self, registry: &Registry, token: Token) -> io::Result<&UdpSocket> {
        let slot = &mut self.slots[usize::from(self.chosen)];
        match slot {
            Some(socket) => Ok(socket),
            None => Ok(slot.insert(open(self.address, registry, token)?)),
        }
    }
}

fn open(address: SocketAddr, registry: &Registry, token: Token) -> io::Result<UdpSocket> {
    let any =
        if address.is_ipv4() { IpAddr::from(Ipv4Addr::UNSPECIFIED) } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = buffered(address)?;
    // Bound first, the port is drawn from all that are free, and not counted up.
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&address.into())?;
    let socket = UdpSocket::from(socket);
    registry.register(&mut SourceFd(&socket.as_raw_fd()), token, Interest::READABLE)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng as _;
    use rand::rngs::StdRng;

    use super::*;

    #[test]
    fn questions_leave_from_many_ports_and_each_is_renewed_when_it_has_rested() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let poll = mio::Poll::new().unwrap();
        let mut now = Instant::now();
        let mut sockets = Sockets::new(server.local_addr().unwrap(), now);
        let mut rng = StdRng::from_seed([3; 32]);
        let ports = |sockets: &mut Sockets, rng: &mut StdRng, now| -> BTreeSet<u16> {
            (0..300)
                .map(|_| {
                    sockets.choose(now, rng);
                    sockets.open(poll.registry(), Token(1)).unwrap().local_addr().unwrap().port()
                })
                .collect()
        };
        let first = ports(&mut sockets, &mut rng, now);
        let count = usize::from(PORTS);
        assert_eq!(first.len(), count - 1, "one rests");
        assert_eq!(ports(&mut sockets, &mut rng, now), first);
        for _ in 0..=count {
            now += RENEWAL;
            ports(&mut sockets, &mut rng, now);
        }
        let later = ports(&mut sockets, &mut rng, now);
        assert!(later.intersection(&first).count() < count / 2, "{first:?} {later:?}");
        // All of them at once, and what comes late to the old ones is still received.
        let old = sockets.chosen();
        sockets.renew(now);
        let renewed = ports(&mut sockets, &mut rng, now);
        assert_eq!((renewed.len(), renewed.intersection(&later).count()), (count - 1, 0));
        assert!(sockets.get(old).is_some());
        sockets.renew(now + OLD_UPSTREAM_PORT_AGE / 2);
        assert_eq!(ports(&mut sockets, &mut rng, now), renewed, "not again so soon");
    }
}
