//! What nodes say to each other in datagrams, and its bytes.
//!
//! Pure. Runs on the thread `cluster`. A message has a version, its sender and a kind before its body. A node passes
//! over kinds that it does not know and what stands behind the body that it does: two releases can run side by side.

use crate::limits::{MAX_CHANGES, MAX_INCARNATION};
use crate::store::{Delta, Digest, Malformed, NodeId, Reader, Want, put_bytes, put_varint};

/// The version of the protocol that this release speaks, the only one there has been.
pub const VERSION: u8 = 1;

/// Bytes of a message before its body.
const HEADER_LEN: usize = 1 + 16 + 1;

/// Bytes of a message at most: a datagram that crosses today's networks whole, with what seals it and the headers of
/// IPv6 and UDP around it (1,280 bytes).
pub const MAX_LEN: usize = crate::limits::MAX_MESSAGE_LEN;

/// Bytes of a delta in a message at most; one change may be longer, and then travels in a fragmented datagram.
pub const MAX_DELTA_LEN: usize = MAX_LEN - HEADER_LEN - 8;

/// Origins in a part of a digest at most.
pub const MAX_SUMMARIES: usize = (MAX_LEN - HEADER_LEN - 40) / MAX_SUMMARY_LEN;

/// Bytes of an origin in a digest at most: its id, its incarnation and its head.
const MAX_SUMMARY_LEN: usize = 32;

const _: () = assert!(
    MAX_SUMMARY_LEN > 16 + (MAX_INCARNATION.ilog2() + MAX_CHANGES.ilog2()).div_ceil(7) as usize,
    "both numbers have seven bits a byte"
);

/// What is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A message of the membership protocol.
    Membership(Vec<u8>),
    /// Changes. Who gets them with a share has to pass them on to that share of the members.
    Changes {
        /// Which changes.
        delta: Delta,
        /// The number of the share, and how many there are; no share at all if they are 0.
        share: (u16, u16),
    },
    /// The hash of all that the sender knows. Who knows other things answers with its digest.
    Hash(u64),
    /// A part of what the sender knows. If `is_answer`, it is one to a part that was sent before, and wants none.
    Digest {
        /// The part.
        digest: Digest,
        /// It ends the exchange.
        is_answer: bool,
    },
    /// Changes that the sender lacks. In a datagram there are few.
    Want(Vec<Want>),
    /// The sender goes for good: nobody needs to keep its records.
    Leave,
    /// Nodes that the sender has heard of and does not know as members.
    Who(Vec<NodeId>),
    /// Members, as the membership protocol writes them.
    Members(Vec<u8>),
}

mod kind {
    pub(super) const MEMBERSHIP: u8 = 0;
    pub(super) const CHANGES: u8 = 1;
    pub(super) const HASH: u8 = 2;
    pub(super) const DIGEST: u8 = 3;
    pub(super) const WANT: u8 = 4;
    pub(super) const LEAVE: u8 = 5;
    pub(super) const WHO: u8 = 6;
    pub(super) const MEMBERS: u8 = 7;
}

impl Message {
    /// The message's bytes.
    #[must_use]
    pub fn encode(&self, sender: NodeId) -> Vec<u8> {
        let mut out = vec![VERSION];
        out.extend_from_slice(&sender.0);
        match self {
            Self::Membership(bytes) => {
                out.push(kind::MEMBERSHIP);
                put_bytes(&mut out, bytes);
            }
            Self::Changes { delta, share } => {
                out.push(kind::CHANGES);
                put_varint(&mut out, share.0.into());
                put_varint(&mut out, share.1.into());
                delta.encode(&mut out);
            }
            Self::Hash(hash) => {
                out.push(kind::HASH);
                out.extend_from_slice(&hash.to_be_bytes());
            }
            Self::Digest { digest, is_answer } => {
                out.push(kind::DIGEST);
                out.push(u8::from(*is_answer));
                digest.encode(&mut out);
            }
            Self::Want(wants) => {
                out.push(kind::WANT);
                put_varint(&mut out, wants.len() as u64);
                for want in wants {
                    out.extend_from_slice(&want.origin.0);
                    put_varint(&mut out, want.from);
                    put_varint(&mut out, want.changes);
                }
            }
            Self::Leave => out.push(kind::LEAVE),
            Self::Who(nodes) => {
                out.push(kind::WHO);
                put_varint(&mut out, nodes.len() as u64);
                nodes.iter().for_each(|node| out.extend_from_slice(&node.0));
            }
            Self::Members(bytes) => {
                out.push(kind::MEMBERS);
                put_bytes(&mut out, bytes);
            }
        }
        out
    }

    /// Reads a message and its sender; `None` for a kind that is not known.
    ///
    /// # Errors
    /// [`Malformed`], also for another version.
    pub fn decode(bytes: &[u8]) -> Result<(NodeId, Option<Self>), Malformed> {
        let mut reader = Reader(bytes);
        let [version] = reader.array()?;
        if version != VERSION {
            return Err(Malformed);
        }
        let sender = NodeId(reader.array()?);
        let [kind] = reader.array()?;
        let message = match kind {
            kind::MEMBERSHIP => Self::Membership(reader.bytes(usize::MAX)?.to_vec()),
            kind::CHANGES => {
                let mut number = || u16::try_from(reader.varint()?).map_err(|_| Malformed);
                let share = (number()?, number()?);
                // A share is one of those there are, or there are none.
                if share.0 >= share.1.max(1) {
                    return Err(Malformed);
                }
                Self::Changes { delta: Delta::decode(&mut reader)?, share }
            }
            kind::HASH => Self::Hash(u64::from_be_bytes(reader.array()?)),
            kind::DIGEST => {
                let [is_answer] = reader.array()?;
                Self::Digest { digest: Digest::decode(&mut reader)?, is_answer: is_answer != 0 }
            }
            kind::WANT => {
                let mut wants = Vec::new();
                for _ in 0..reader.varint()? {
                    let origin = NodeId(reader.array()?);
                    wants.push(Want { origin, from: reader.varint()?, changes: reader.varint()? });
                }
                Self::Want(wants)
            }
            kind::LEAVE => Self::Leave,
            kind::WHO => {
                let mut nodes = Vec::new();
                for _ in 0..reader.varint()? {
                    nodes.push(NodeId(reader.array()?));
                }
                Self::Who(nodes)
            }
            kind::MEMBERS => Self::Members(reader.bytes(usize::MAX)?.to_vec()),
            _ => return Ok((sender, None)),
        };
        Ok((sender, Some(message)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{Attributes, Key, Store};
    use crate::wire::name::Name;

    fn messages() -> Vec<Message> {
        let me = NodeId([1; 16]);
        let mut store = Store::new(me, 5);
        let key = Key::address("c", &Name::from_text("web.example").unwrap(), [10, 0, 0, 1].into());
        store.register(&key, &Attributes::default()).unwrap();
        let delta = store.delta(me, 0, MAX_DELTA_LEN).unwrap();
        vec![
            Message::Membership(b"bytes".to_vec()),
            Message::Changes { delta, share: (3, 9) },
            Message::Hash(7),
            Message::Digest { digest: store.digest(), is_answer: true },
            Message::Want(vec![Want { origin: me, from: 3, changes: 4 }]),
            Message::Leave,
            Message::Who(vec![me]),
            Message::Members(b"bytes".to_vec()),
        ]
    }

    #[test]
    fn messages_come_back_and_those_cut_short_do_not() {
        let sender = NodeId([9; 16]);
        for message in messages() {
            let bytes = message.encode(sender);
            assert_eq!(Message::decode(&bytes), Ok((sender, Some(message))));
            for len in 0..bytes.len() {
                assert_eq!(Message::decode(&bytes[..len]), Err(Malformed), "{len}");
            }
        }
    }

    #[test]
    fn what_a_later_release_says_is_passed_over() {
        let sender = NodeId([9; 16]);
        for message in messages() {
            let bytes = [&message.encode(sender)[..], b"more"].concat();
            assert_eq!(Message::decode(&bytes), Ok((sender, Some(message))));
        }
        let mut bytes = Message::Hash(7).encode(sender);
        bytes[17] = 99;
        assert_eq!(Message::decode(&bytes), Ok((sender, None)));
        bytes[0] = 2;
        assert_eq!(Message::decode(&bytes), Err(Malformed), "another version");
    }

    #[test]
    fn any_bytes_are_a_message_or_not() {
        let mut rng = fastrand::Rng::with_seed(3);
        for message in messages().iter().cycle().take(50_000) {
            let mut bytes = message.encode(NodeId([9; 16]));
            for _ in 0..rng.usize(1..5) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
            let _ = Message::decode(&bytes);
        }
    }
}
