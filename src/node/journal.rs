//! Making own registrations durable before they are acknowledged.
//!
//! With a data directory, a thread `disk` writes: a slow disk holds up acknowledgements, but neither the cluster, where a
//! node that is silent for seconds counts as dead, nor answers. All that has gathered while one write was under way goes
//! into the next.

use std::path::Path;
use std::thread::{self, JoinHandle};

use crossbeam_channel::Sender;

use super::inbox::ControlSender;
use super::{Control, NodeError};
use crate::precedence::stand_back;
use crate::store::{Attributes, Disk, Key, Parts, Write, encode_to};

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

    fn write(&self) -> Write<'_> {
        match self {
            Self::Put { bytes, .. } => Write::Put { key: self.key(), bytes },
            Self::Remove { key } => Write::Remove { key },
        }
    }
}

/// When something is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// There is nothing to wait for.
    Now,
    /// [`Control::Committed`] will tell.
    Later,
    /// The thread has ended.
    Never,
}

/// Where registrations are kept.
pub(super) struct Journal {
    /// To the thread with the disk, if there is one.
    batches: Option<Sender<Vec<Op>>>,
    thread: Option<JoinHandle<()>>,
}

impl Journal {
    /// Nothing survives the node.
    pub(super) fn memory() -> Self {
        Self { batches: None, thread: None }
    }

    /// Everything goes to `disk`; `sender` is told when it is there.
    pub(super) fn on(mut disk: Disk, sender: ControlSender) -> Result<Self, NodeError> {
        let (batches, receiver) = crossbeam_channel::unbounded::<Vec<Op>>();
        let write = move || {
            stand_back();
            for batch in receiver {
                let done = disk.commit(batch.iter().map(Op::write)).map_err(|error| error.to_string());
                if !sender.send(Control::Committed(done)) {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("disk".into()).spawn(write).map_err(NodeError::Thread)?;
        Ok(Self { batches: Some(batches), thread: Some(thread) })
    }

    pub(super) fn is_durable(&self) -> bool {
        self.batches.is_some()
    }

    /// Makes `ops` durable, as far as anything here is.
    pub(super) fn write(&self, ops: &[Op]) -> Written {
        match &self.batches {
            None => Written::Now,
            Some(batches) if batches.send(ops.to_vec()).is_ok() => Written::Later,
            Some(_) => Written::Never,
        }
    }

    /// Waits until all is written, and lets go of the file.
    pub(super) fn close(mut self) {
        self.batches = None;
        if let Some(thread) = self.thread.take() {
            // It has nothing to say: what failed was told with its batch.
            let _ = thread.join();
        }
    }
}

/// The data directory as people wrote it.
pub(super) fn shown(path: &Path) -> String {
    path.display().to_string()
}
