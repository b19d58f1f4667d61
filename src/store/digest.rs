//! What a node knows, in short: of each origin the incarnation and the number of the latest change.
//!
//! Pure. Runs on whichever thread has the lock. Two nodes with equal digests have equal logs. The hash of a digest
//! travels every second; the digest itself, in parts that each fit in a datagram, only where the hashes differ.

use std::collections::BTreeMap;

use siphasher::sip::SipHasher24;

use super::codec::{Malformed, Reader, put_varint};
use super::node_id::NodeId;
use crate::limits::{MAX_CHANGES, MAX_INCARNATION};

/// How much is known of one origin; a later incarnation is more than any number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Summary {
    /// The origin's incarnation.
    pub incarnation: u64,
    /// The number of its latest change.
    pub head: u64,
}

/// What is known of the origins from `first` to `last`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    first: NodeId,
    last: NodeId,
    summaries: BTreeMap<NodeId, Summary>,
}

/// A range of changes that one node has and another wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Whose changes.
    pub origin: NodeId,
    /// Those after this number.
    pub from: u64,
    /// How many there are at most, as far as is known.
    pub changes: u64,
}

/// The hash of a digest with these summaries, which are in the order of their origins.
pub(super) fn hash(summaries: impl Iterator<Item = (NodeId, Summary)>) -> u64 {
    let mut bytes = Vec::new();
    for (origin, summary) in summaries {
        bytes.extend_from_slice(&origin.0);
        bytes.extend_from_slice(&summary.incarnation.to_be_bytes());
        bytes.extend_from_slice(&summary.head.to_be_bytes());
    }
    SipHasher24::new().hash(&bytes)
}

const LOWEST: NodeId = NodeId([0; 16]);
const HIGHEST: NodeId = NodeId([0xff; 16]);

impl Digest {
    pub(super) fn new(summaries: impl Iterator<Item = (NodeId, Summary)>) -> Self {
        Self { first: LOWEST, last: HIGHEST, summaries: summaries.collect() }
    }

    /// A hash of all of it, the same on all machines.
    #[must_use]
    pub fn hash(&self) -> u64 {
        hash(self.summaries.iter().map(|(&origin, &summary)| (origin, summary)))
    }

    /// What is known of `origin`.
    #[must_use]
    pub fn get(&self, origin: NodeId) -> Option<Summary> {
        self.summaries.get(&origin).copied()
    }

    /// The origins that it tells of.
    pub fn origins(&self) -> impl Iterator<Item = NodeId> {
        self.summaries.keys().copied()
    }

    /// The same in parts with at most `origins` origins each, that together have all of it.
    #[must_use]
    pub fn parts(&self, origins: usize) -> Vec<Self> {
        let all: Vec<_> = self.summaries.iter().map(|(&origin, &summary)| (origin, summary)).collect();
        let mut first = self.first;
        let mut chunks = all.chunks(origins.max(1)).peekable();
        let mut parts = Vec::new();
        loop {
            let chunk = chunks.next().unwrap_or_default();
            let is_last = chunks.peek().is_none();
            let last =
                if is_last { self.last } else { chunk.last().map_or(self.last, |(origin, _)| *origin) };
            parts.push(Self { first, last, summaries: chunk.iter().copied().collect() });
            if is_last {
                return parts;
            }
            first = next(last);
        }
    }

    /// What `other` has that is not here, as far as it tells of it.
    #[must_use]
    pub fn wants(&self, other: &Self) -> Vec<Want> {
        let mut wants = Vec::new();
        for (&origin, theirs) in &other.summaries {
            let ours = self.get(origin);
            if ours.is_none_or(|ours| ours < *theirs) {
                let from =
                    ours.filter(|ours| ours.incarnation == theirs.incarnation).map_or(0, |ours| ours.head);
                wants.push(Want { origin, from, changes: theirs.head - from });
            }
        }
        wants
    }

    /// The part of it that `other` does not have, though it tells of that range; `None` if there is nothing.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Option<Self> {
        if other.first > other.last {
            return None; // it tells of no range
        }
        let in_range = self.summaries.range(other.first..=other.last);
        let summaries: BTreeMap<_, _> = in_range
            .filter(|(origin, ours)| other.get(**origin).is_none_or(|theirs| theirs < **ours))
            .map(|(&origin, &summary)| (origin, summary))
            .collect();
        // It tells of these origins alone: an empty range has nothing to say of the others.
        (!summaries.is_empty()).then_some(Self { first: HIGHEST, last: LOWEST, summaries })
    }

    /// Appends the digest.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.first.0);
        out.extend_from_slice(&self.last.0);
        put_varint(out, self.summaries.len() as u64);
        for (origin, summary) in &self.summaries {
            out.extend_from_slice(&origin.0);
            put_varint(out, summary.incarnation);
            put_varint(out, summary.head);
        }
    }

    /// Takes a digest off the front of `reader`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(reader: &mut Reader<'_>) -> Result<Self, Malformed> {
        let [first, last] = [NodeId(reader.array()?), NodeId(reader.array()?)];
        let mut summaries = BTreeMap::new();
        for _ in 0..reader.varint()? {
            let origin = NodeId(reader.array()?);
            let summary = Summary { incarnation: reader.varint()?, head: reader.varint()? };
            if summary.incarnation >= MAX_INCARNATION || summary.head >= MAX_CHANGES {
                return Err(Malformed);
            }
            summaries.insert(origin, summary);
        }
        Ok(Self { first, last, summaries })
    }
}

/// The id after `id`; the highest has none.
fn next(id: NodeId) -> NodeId {
    NodeId(u128::from_be_bytes(id.0).saturating_add(1).to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(heads: &[(u8, u64, u64)]) -> Digest {
        Digest::new(
            heads.iter().map(|&(id, incarnation, head)| (NodeId([id; 16]), Summary { incarnation, head })),
        )
    }

    #[test]
    fn what_one_has_and_the_other_lacks_is_wanted() {
        let ours = digest(&[(1, 1, 5), (2, 1, 5), (3, 2, 1), (9, 1, 1)]);
        let theirs = digest(&[(1, 1, 8), (2, 1, 5), (3, 1, 9), (4, 3, 7), (9, 2, 3)]);
        let want = |id: u8, from, changes| Want { origin: NodeId([id; 16]), from, changes };
        assert_eq!(ours.wants(&theirs), [want(1, 5, 3), want(4, 0, 7), want(9, 0, 3)]);
        assert_eq!(theirs.wants(&ours), [want(3, 0, 1)]);
        assert_eq!(theirs.wants(&ours.beyond(&theirs).unwrap()), theirs.wants(&ours));
        assert_eq!(ours.beyond(&ours), None);
        let beyond = ours.beyond(&digest(&[])).unwrap();
        assert!(beyond.parts(1).iter().all(|part| ours.beyond(part).is_none()), "an answer asks for nothing");
        assert!(ours.hash() != theirs.hash());
    }

    #[test]
    fn parts_tell_together_what_the_whole_tells() {
        let heads: Vec<_> = (0..20).map(|id| (id * 7, 1, u64::from(id))).collect();
        let (whole, empty) = (digest(&heads), digest(&[]));
        for origins in [1, 3, 19, 20, 21] {
            let parts = whole.parts(origins);
            assert_eq!(parts.len(), 20usize.div_ceil(origins));
            let wanted: Vec<_> = parts.iter().flat_map(|part| empty.wants(part)).collect();
            assert_eq!(wanted, empty.wants(&whole));
            // A node that has one more is told so by exactly the part whose range it is in.
            let more = digest(&[&heads[..], &[(50, 1, 1)]].concat());
            assert_eq!(parts.iter().filter(|part| more.beyond(part).is_some()).count(), 1, "{origins}");
        }
        assert_eq!(empty.parts(5).len(), 1, "also nothing is worth telling");
    }

    #[test]
    fn a_digest_comes_back() {
        for digest in digest(&[(1, 1, 5), (2, MAX_INCARNATION - 1, 0), (3, 1, MAX_CHANGES - 1)]).parts(1) {
            let mut bytes = Vec::new();
            digest.encode(&mut bytes);
            let mut reader = Reader(&bytes);
            assert_eq!(Digest::decode(&mut reader), Ok(digest));
            assert!(reader.is_empty());
            for len in 0..bytes.len() {
                assert_eq!(Digest::decode(&mut Reader(&bytes[..len])), Err(Malformed), "{len}");
            }
        }
        for beyond in [(2, MAX_INCARNATION, 0), (2, 1, MAX_CHANGES), (2, u64::MAX, u64::MAX)] {
            let mut bytes = Vec::new();
            digest(&[beyond]).encode(&mut bytes);
            assert_eq!(Digest::decode(&mut Reader(&bytes)), Err(Malformed), "{beyond:?}");
        }
    }
}
