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

use super::udp::buffered;

/// Sockets for each upstream, each with a port of its own: who forges an answer has to guess which of them it is for, too
/// (RFC 5452 §9.2).
pub(super) const SLOTS: usize = crate::limits::UPSTREAM_PORTS;

/// How often one of them gets a new port. It has rested for as long before, so that nothing is awaited there any more.
const RENEWAL: Duration = Duration::from_secs(crate::limits::UPSTREAM_PORT_AGE.as_secs() / SLOTS as u64);

/// The sockets. They are connected, so that the kernel lets through what comes from the upstream alone, and tells if nobody
/// is there.
pub(super) struct Sockets {
    address: SocketAddr,
    slots: [Option<UdpSocket>; SLOTS],
    chosen: u8,
    /// The one that rests before it gets a new port, and since when.
    resting: u8,
    resting_since: Instant,
}

impl Sockets {
    /// None yet: they are opened when there is something to send.
    pub(super) fn new(address: SocketAddr, now: Instant) -> Self {
        Self { address, slots: Default::default(), chosen: 0, resting: 0, resting_since: now }
    }

    /// Chooses the port that questions are sent from in this turn: to send all of them by one call is cheaper.
    #[allow(clippy::cast_possible_truncation)] // sixteen
    pub(super) fn choose(&mut self, now: Instant, secret: &mut impl Rng) {
        const COUNT: u8 = SLOTS as u8;
        if now.saturating_duration_since(self.resting_since) >= RENEWAL {
            self.slots[usize::from(self.resting)] = None;
            self.resting = (self.resting + 1) % COUNT;
            self.resting_since = now;
        }
        // Any but the one that rests.
        self.chosen = (self.resting + 1 + (secret.next_u32() % u32::from(COUNT - 1)) as u8) % COUNT;
    }

    /// The slot that was chosen.
    pub(super) fn chosen(&self) -> u8 {
        self.chosen
    }

    /// The socket in a slot, if it is open.
    pub(super) fn get(&self, slot: u8) -> Option<&UdpSocket> {
        self.slots.get(usize::from(slot))?.as_ref()
    }

    /// The chosen socket; opened at a port that the kernel draws, and watched by `token`, if it is not.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn open(&mut self, registry: &Registry, token: Token) -> io::Result<&UdpSocket> {
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
        assert_eq!(first.len(), SLOTS - 1, "one rests");
        assert_eq!(ports(&mut sockets, &mut rng, now), first);
        for _ in 0..=SLOTS {
            now += RENEWAL;
            ports(&mut sockets, &mut rng, now);
        }
        let later = ports(&mut sockets, &mut rng, now);
        assert!(later.intersection(&first).count() < SLOTS / 2, "{first:?} {later:?}");
    }
}
