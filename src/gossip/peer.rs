//! A member of the cluster as the others know it, and its bytes in membership messages.
//!
//! Pure. Runs on the thread `cluster`.

use std::net::{IpAddr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Identity, Member, Message, State};

use crate::store::{Malformed, NodeId, Reader, put_bytes, put_varint};

/// Bytes of a node's name at most.
pub const MAX_NODE_NAME_LEN: usize = crate::limits::MAX_NODE_NAME_LEN;

/// Bytes of a peer at most, so that a message has room for several.
const MAX_PEER_LEN: usize = 255;

/// Who a member is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Peer {
    /// Where it gossips.
    pub address: SocketAddr,
    /// Its number. All zero for a seed of which only the address is known.
    pub node: NodeId,
    /// Grows with each start of the node, and each time it was declared down and comes back.
    pub generation: u64,
    /// Where it answers DNS queries, if that is an address that others can use.
    pub dns: Option<SocketAddr>,
    /// What it calls itself.
    pub name: Box<str>,
}

impl Peer {
    /// Whoever gossips at `address`.
    #[must_use]
    pub fn seed(address: SocketAddr) -> Self {
        Self { address, node: NodeId([0; 16]), generation: 0, dns: None, name: "".into() }
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = Vec::with_capacity(64);
        put_address(&mut bytes, Some(self.address));
        bytes.extend_from_slice(&self.node.0);
        put_varint(&mut bytes, self.generation);
        put_address(&mut bytes, self.dns);
        put_bytes(&mut bytes, self.name.as_bytes());
        put_bytes(out, &bytes);
    }

    /// Reads a peer. What a later release has added behind its name is passed over.
    fn read(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let mut reader = Reader(reader.bytes(MAX_PEER_LEN)?);
        let address = read_address(&mut reader)?.ok_or(Malformed)?;
        let node = NodeId(reader.array()?);
        let generation = reader.varint()?;
        let dns = read_address(&mut reader)?;
        let name = str::from_utf8(reader.bytes(MAX_NODE_NAME_LEN)?).map_err(|_| Malformed)?;
        Ok(Self { address, node, generation, dns, name: name.into() })
    }
}

fn put_address(out: &mut Vec<u8>, address: Option<SocketAddr>) {
    match address.map(|address| (address.ip(), address.port())) {
        None => out.push(0),
        Some((IpAddr::V4(ip), port)) => {
            out.push(4);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&port.to_be_bytes());
        }
        Some((IpAddr::V6(ip), port)) => {
            out.push(6);
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&port.to_be_bytes());
        }
    }
}

fn read_address(reader: &mut Reader<'_>) -> Result<Option<SocketAddr>, Malformed> {
    let ip: IpAddr = match reader.array()? {
        [0] => return Ok(None),
        [4] => reader.array::<4>()?.into(),
        [6] => reader.array::<16>()?.into(),
        _ => return Err(Malformed),
    };
    Ok(Some((ip, u16::from_be_bytes(reader.array()?)).into()))
}

impl Identity for Peer {
    type Addr = SocketAddr;

    /// Who was declared down comes back as a later one of itself.
    fn renew(&self) -> Option<Self> {
        Some(Self { generation: self.generation.checked_add(1)?, ..self.clone() })
    }

    fn addr(&self) -> SocketAddr {
        self.address
    }

    /// Generations begin with the time of the start, so the later one at an address is whoever started last there.
    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.node) > (adversary.generation, adversary.node)
    }
}

/// How foca's messages look on the wire.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct PeerCodec;

/// Kinds of messages by their number.
mod kind {
    pub(super) const PING: u8 = 0;
    pub(super) const ACK: u8 = 1;
    pub(super) const PING_REQ: u8 = 2;
    pub(super) const INDIRECT_PING: u8 = 3;
    pub(super) const INDIRECT_ACK: u8 = 4;
    pub(super) const FORWARDED_ACK: u8 = 5;
    pub(super) const ANNOUNCE: u8 = 6;
    pub(super) const FEED: u8 = 7;
    pub(super) const GOSSIP: u8 = 8;
    pub(super) const BROADCAST: u8 = 9;
    pub(super) const TURN_UNDEAD: u8 = 10;
}

impl Codec<Peer> for PeerCodec {
    type Error = Malformed;

    fn encode_header(&mut self, header: &Header<Peer>, mut buf: impl BufMut) -> Result<(), Malformed> {
        let mut out = Vec::with_capacity(160);
        header.src.put(&mut out);
        header.dst.put(&mut out);
        out.extend_from_slice(&header.src_incarnation.to_be_bytes());
        let (kind, about) = match &header.message {
            Message::Ping(number) => (kind::PING, Some((*number, None))),
            Message::Ack(number) => (kind::ACK, Some((*number, None))),
            Message::PingReq { target, probe_number } => {
                (kind::PING_REQ, Some((*probe_number, Some(target))))
            }
            Message::IndirectPing { origin, probe_number } => {
                (kind::INDIRECT_PING, Some((*probe_number, Some(origin))))
            }
            Message::IndirectAck { target, probe_number } => {
                (kind::INDIRECT_ACK, Some((*probe_number, Some(target))))
            }
            Message::ForwardedAck { origin, probe_number } => {
                (kind::FORWARDED_ACK, Some((*probe_number, Some(origin))))
            }
            Message::Announce => (kind::ANNOUNCE, None),
            Message::Feed => (kind::FEED, None),
            Message::Gossip => (kind::GOSSIP, None),
            Message::Broadcast => (kind::BROADCAST, None),
            Message::TurnUndead => (kind::TURN_UNDEAD, None),
        };
        out.push(kind);
        if let Some((number, peer)) = about {
            put_varint(&mut out, number.into());
            if let Some(peer) = peer {
                peer.put(&mut out);
            }
        }
        put_whole(&mut buf, &out)
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Peer>, Malformed> {
        take(&mut buf, |reader| {
            let (src, dst) = (Peer::read(reader)?, Peer::read(reader)?);
            let src_incarnation = u16::from_be_bytes(reader.array()?);
            let [kind] = reader.array()?;
            let mut number = || reader.varint().and_then(|number| number.try_into().map_err(|_| Malformed));
            let message = match kind {
                kind::PING => Message::Ping(number()?),
                kind::ACK => Message::Ack(number()?),
                kind::PING_REQ => {
                    let probe_number = number()?;
                    Message::PingReq { target: Peer::read(reader)?, probe_number }
                }
                kind::INDIRECT_PING => {
                    let probe_number = number()?;
                    Message::IndirectPing { origin: Peer::read(reader)?, probe_number }
                }
                kind::INDIRECT_ACK => {
                    let probe_number = number()?;
                    Message::IndirectAck { target: Peer::read(reader)?, probe_number }
                }
                kind::FORWARDED_ACK => {
                    let probe_number = number()?;
                    Message::ForwardedAck { origin: Peer::read(reader)?, probe_number }
                }
                kind::ANNOUNCE => Message::Announce,
                kind::FEED => Message::Feed,
                kind::GOSSIP => Message::Gossip,
                kind::BROADCAST => Message::Broadcast,
                kind::TURN_UNDEAD => Message::TurnUndead,
                _ => return Err(Malformed),
            };
            Ok(Header { src, src_incarnation, dst, message })
        })
    }

    fn encode_member(&mut self, member: &Member<Peer>, mut buf: impl BufMut) -> Result<(), Malformed> {
        let mut out = Vec::with_capacity(80);
        member.id().put(&mut out);
        out.extend_from_slice(&member.incarnation().to_be_bytes());
        out.push(match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        });
        put_whole(&mut buf, &out)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Peer>, Malformed> {
        take(&mut buf, |reader| {
            let id = Peer::read(reader)?;
            let incarnation = u16::from_be_bytes(reader.array()?);
            let state = match reader.array()? {
                [0] => State::Alive,
                [1] => State::Suspect,
                [2] => State::Down,
                _ => return Err(Malformed),
            };
            Ok(Member::new(id, incarnation, state))
        })
    }
}

/// Puts `bytes` into `buf` if there is room for all of them.
fn put_whole(buf: &mut impl BufMut, bytes: &[u8]) -> Result<(), Malformed> {
    if buf.remaining_mut() < bytes.len() {
        return Err(Malformed); // foca then leaves it to the next message
    }
    buf.put_slice(bytes);
    Ok(())
}

/// Takes what `read` reads off the front of `buf`, whose bytes are all in one piece.
fn take<T>(
    buf: &mut impl Buf,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<T, Malformed> {
    let mut reader = Reader(buf.chunk());
    let before = reader.0.len();
    let value = read(&mut reader)?;
    let taken = before - reader.0.len();
    buf.advance(taken);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(port: u16) -> Peer {
        Peer {
            address: ([10, 0, 0, 1], port).into(),
            node: NodeId([7; 16]),
            generation: 300,
            dns: Some((std::net::Ipv6Addr::LOCALHOST, 53).into()),
            name: "node-1".into(),
        }
    }

    #[test]
    fn headers_and_members_come_back() {
        let messages = [
            Message::Ping(1),
            Message::Ack(2),
            Message::PingReq { target: peer(2), probe_number: 3 },
            Message::IndirectPing { origin: peer(2), probe_number: 4 },
            Message::IndirectAck { target: peer(2), probe_number: 5 },
            Message::ForwardedAck { origin: Peer::seed(([0; 16], 9).into()), probe_number: 6 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header { src: peer(1), src_incarnation: 258, dst: peer(3), message };
            let mut bytes = Vec::new();
            PeerCodec.encode_header(&header, &mut bytes).unwrap();
            bytes.extend_from_slice(b"rest");
            let mut rest = &bytes[..];
            assert_eq!(PeerCodec.decode_header(&mut rest), Ok(header));
            assert_eq!(rest, b"rest");
            for len in 0..bytes.len() - 4 {
                assert_eq!(PeerCodec.decode_header(&bytes[..len]), Err(Malformed), "{len}");
            }
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(peer(1), 9, state);
            let mut bytes = Vec::new();
            PeerCodec.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(PeerCodec.decode_member(&bytes[..]), Ok(member));
        }
    }

    #[test]
    fn what_a_later_release_adds_to_a_peer_is_passed_over() {
        let mut bytes = Vec::new();
        peer(1).put(&mut bytes);
        bytes[0] += 3;
        bytes.extend_from_slice(b"new");
        assert_eq!(Peer::read(&mut Reader(&bytes)), Ok(peer(1)));
    }

    #[test]
    fn the_later_start_wins_an_address() {
        let later = Peer { generation: 301, node: NodeId([1; 16]), ..peer(1) };
        assert!(later.win_addr_conflict(&peer(1)) && !peer(1).win_addr_conflict(&later));
        assert!(peer(1).renew().unwrap().win_addr_conflict(&peer(1)));
    }
}
