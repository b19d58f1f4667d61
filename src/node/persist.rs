//! Making own registrations durable before they are acknowledged.
//!
//! With a data directory, a thread `disk` writes: a slow disk holds up acknowledgements, but neither the cluster, where
//! a node that is silent for seconds counts as dead, nor answers. All that has gathered while one write was under way
//! goes into the next.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Sender, bounded};
use tracing::warn;

use super::inbox::{ControlSender, Inbox};
use super::op::Op;
use super::{Control, NodeError};
use crate::config::Settings;
use crate::store::{Disk, DiskContents, NodeId, Store};
use crate::sys::parallel_map::threads_for;
use crate::sys::sched::lower_priority;
use crate::worker::unix_time_s;

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
    batches: Option<Sender<Arc<[Op]>>>,
    thread: Option<JoinHandle<()>>,
    /// Why the last batch could not be kept, or nothing can.
    fault: Arc<Mutex<Option<String>>>,
}

impl Journal {
    /// The store with what this node has registered in earlier times, and where it keeps what it registers from now on.
    pub(super) fn open(settings: &Settings, inbox: &Inbox) -> Result<(Store, Self), NodeError> {
        let now = u64::from(unix_time_s());
        // A new node each time: its incarnation can be any.
        let new = |fault| (Store::new(NodeId::random(), now), Self::memory(fault));
        let Some(directory) = &settings.data_dir else { return Ok(new(None)) };
        let (disk, DiskContents { node, incarnation, registrations }) = match Disk::open(directory, now) {
            Ok(opened) => opened,
            Err(error) if settings.data_dir_optional && error.is_of_place() => {
                warn!(
                    "{error}. Going on without: nothing that is registered here is kept, and nothing is here of before"
                );
                return Ok(new(Some(error.to_string())));
            }
            Err(error) => return Err(NodeError::Disk(error)),
        };
        let mut store = Store::new(node, incarnation);
        let registrations: Vec<_> = registrations.iter().map(|bytes| &bytes[..]).collect();
        store.load(&registrations, threads_for(registrations.len()));
        Ok((store, Self::on(disk, inbox.sender())?))
    }

    /// Nothing survives the node; where that is a fault, with the reason.
    fn memory(fault: Option<String>) -> Self {
        Self { batches: None, thread: None, fault: Arc::new(Mutex::new(fault)) }
    }

    /// Everything goes to `disk`; `sender` is told when it is there.
    fn on(mut disk: Disk, sender: ControlSender) -> Result<Self, NodeError> {
        let (batches, receiver) = bounded::<Arc<[Op]>>(1); // the owner waits for one before it gives the next
        let fault = Arc::new(Mutex::new(None));
        let told = Arc::clone(&fault);
        let write = move || {
            lower_priority();
            if let Err(error) = disk.reserve() {
                warn!("{error}; there may be no room for removals when the disk is full");
            }
            for batch in receiver {
                let writes: Vec<_> = batch.iter().map(Op::write).collect();
                let done = disk.commit(&writes).map_err(|error| error.to_string());
                *told.lock().unwrap_or_else(PoisonError::into_inner) = done.clone().err();
                if !sender.send(Control::Committed(done)) {
                    break;
                }
            }
        };
        let thread = thread::Builder::new().name("disk".into()).spawn(write).map_err(NodeError::Thread)?;
        Ok(Self { batches: Some(batches), thread: Some(thread), fault })
    }

    /// Why the last change could not be kept, or nothing can.
    pub(super) fn fault(&self) -> Arc<Mutex<Option<String>>> {
        Arc::clone(&self.fault)
    }

    pub(super) fn is_durable(&self) -> bool {
        self.batches.is_some()
    }

    /// Makes `ops` durable, as far as anything here is.
    pub(super) fn write(&self, ops: &Arc<[Op]>) -> Written {
        match &self.batches {
            None => Written::Now,
            Some(batches) if batches.send(Arc::clone(ops)).is_ok() => Written::Later,
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
