//! One operation on what this node has registered, as it is made durable and applied.

use crate::store::{Attributes, Key, Parts, Record, Write, encode_to};

/// A change to make durable. Keys and registrations are in their encodings.
#[derive(Clone, Debug)]
pub(super) enum Op {
    Put { key_len: usize, bytes: Box<[u8]> },
    Remove { key: Box<[u8]> },
}

impl Op {
    /// Registers this, or says something else of it.
    pub(super) fn put(key: &Key, attributes: &Attributes) -> Self {
        let mut bytes = Vec::new();
        let data = (key.rtype, &key.rdata[..]);
        let Parts { key_len, .. } =
            encode_to(&mut bytes, &key.instance, key.name.as_wire(), data, attributes);
        Self::Put { key_len, bytes: bytes.into() }
    }

    /// Removes this.
    pub(super) fn remove(key: &Key) -> Self {
        Self::Remove { key: Self::put(key, &Attributes::default()).key().into() }
    }

    pub(super) fn key(&self) -> &[u8] {
        match self {
            Self::Put { key_len, bytes } => &bytes[..*key_len],
            Self::Remove { key } => key,
        }
    }

    /// The name that it is about, in wire form and lower case.
    pub(super) fn name(&self) -> &[u8] {
        self.as_ref().name()
    }

    pub(super) fn as_ref(&self) -> OpRef<'_> {
        match self {
            Self::Put { bytes, .. } => OpRef::Put(Record::known(bytes)),
            Self::Remove { key } => OpRef::Remove(key),
        }
    }

    /// As the disk takes it.
    pub(super) fn write(&self) -> Write<'_> {
        match self {
            Self::Put { bytes, .. } => Write::Put { key: self.key(), bytes },
            Self::Remove { key } => Write::Remove { key },
        }
    }
}

/// An operation whose bytes stand somewhere else.
#[derive(Clone, Copy, Debug)]
pub(super) enum OpRef<'a> {
    Put(Record<'a>),
    /// Of the registration with this key.
    Remove(&'a [u8]),
}

impl<'a> OpRef<'a> {
    /// What it registers, if it does.
    pub(super) fn registered(&self) -> Option<Record<'a>> {
        match self {
            Self::Put(record) => Some(*record),
            Self::Remove(_) => None,
        }
    }

    /// The name that it is about, in wire form and lower case.
    pub(super) fn name(&self) -> &'a [u8] {
        match self {
            Self::Put(record) => record.name,
            Self::Remove(key) => Record::read(key).map_or(&[], |record| record.name),
        }
    }
}
