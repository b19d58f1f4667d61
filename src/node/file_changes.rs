//! What the thread `files` is given to read, and what it hands over: batches of operations, and then all that files say
//! besides.

use std::sync::Arc;
use std::time::Instant;

use super::op::OpRef;
use crate::config::Settings;
use crate::gossip::key_ring::KeyRing;
use crate::policy::Policy;
use crate::policy::rules::Scope;
use crate::resolver::settings::Upstreams;
use crate::store::Record;
use crate::wire::cookie::Secrets;
use crate::zone_maintenance::keys::Keys;

/// Operations that belong together: all of each name's are in one batch. Their bytes follow each other in one block.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    /// Where each ends, and whether it registers something.
    ops: Vec<(usize, bool)>,
}

impl Batch {
    pub(super) fn put(&mut self, registration: &[u8]) {
        self.bytes.extend_from_slice(registration);
        self.ops.push((self.bytes.len(), true));
    }

    pub(super) fn remove(&mut self, key: &[u8]) {
        self.bytes.extend_from_slice(key);
        self.ops.push((self.bytes.len(), false));
    }

    pub(super) fn len(&self) -> usize {
        self.ops.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    /// Takes all of them, and leaves room for as many.
    pub(super) fn take(&mut self) -> Self {
        let room =
            Self { bytes: Vec::with_capacity(self.bytes.len()), ops: Vec::with_capacity(self.ops.len()) };
        std::mem::replace(self, room)
    }

    /// All of them, in their order.
    pub(super) fn ops(&self) -> Vec<OpRef<'_>> {
        let mut begin = 0;
        let op = |&(end, registers): &(usize, bool)| {
            let bytes = &self.bytes[std::mem::replace(&mut begin, end)..end];
            if registers { OpRef::Put(Record::known(bytes)) } else { OpRef::Remove(bytes) }
        };
        self.ops.iter().map(op).collect()
    }
}

/// What the thread is to read.
pub(super) struct Job {
    pub(super) settings: Arc<Settings>,
    /// The settings are new: the owner takes them over when their files have been read.
    pub(super) is_configuration: bool,
    /// New policies, if there are some.
    pub(super) policies: Option<Vec<(Scope, Policy)>>,
}

/// What files say besides names.
pub(super) struct FilesRead {
    pub(super) job: Job,
    pub(super) begin: Instant,
    pub(super) read: Result<Contents, String>,
}

/// The contents of files with no mistake.
pub(super) struct Contents {
    pub(super) secrets: Option<Secrets>,
    pub(super) ring: Option<KeyRing>,
    pub(super) zone_keys: Keys,
    pub(super) upstreams: Option<(Upstreams, Vec<String>)>,
}
