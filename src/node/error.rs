//! Why a server did not start, or did not take what its files say.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::gossip::transport::TransportError;
use crate::http::HttpError;
use crate::sources::files::FilesRejected;
use crate::store::DiskError;
use crate::sys::file_error::FileError;
use crate::transport::ListenError;
use crate::upstream::peer_sockets::PeerSocketError;
use crate::upstream::tls::TrustError;

/// Why a server did not start, or did not take new names.
#[derive(Debug)]
pub enum NodeError {
    /// An address cannot be listened on.
    Listen(ListenError),
    /// The address of the gossip cannot be had.
    Gossip(TransportError),
    /// The other nodes cannot be asked, or cannot ask.
    Reach(PeerSocketError),
    /// The address of the control listener cannot be had.
    Control(HttpError),
    /// The Docker Engine's socket may not be used.
    Docker(PathBuf, io::Error),
    /// The data directory cannot be used.
    Disk(DiskError),
    /// Names files or zone files were refused.
    Names(FilesRejected),
    /// Another file was refused.
    File(FileError),
    /// Upstreams cannot be asked over TLS.
    Trust(TrustError),
    /// The kernel refused a thread or an event queue.
    Worker(io::Error),
    /// The same, for another thread.
    Thread(io::Error),
    /// The kernel does not let threads go before others.
    Realtime(io::Error),
}

impl fmt::Display for NodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(error) => error.fmt(f),
            Self::Gossip(error) => error.fmt(f),
            Self::Reach(error) => error.fmt(f),
            Self::Control(error) => error.fmt(f),
            Self::Docker(socket, error) => write!(
                f,
                "cannot use the Docker Engine's socket {}: {error}; run as a user of its group, or choose another \
                 with --docker",
                socket.display()
            ),
            Self::Disk(error) => error.fmt(f),
            Self::File(error) => error.fmt(f),
            Self::Names(refused) => refused.fmt(f),
            Self::Trust(error) => error.fmt(f),
            Self::Worker(error) => write!(f, "cannot start a worker: {error}; try fewer with --workers"),
            Self::Thread(error) => write!(f, "cannot start a thread or an event queue: {error}"),
            Self::Realtime(error) => write!(
                f,
                "--realtime: {error}; run as root, or with CAP_SYS_NICE or a resource limit RTPRIO of 1 (in a unit of \
                 systemd LimitRTPRIO=1 and RestrictRealtime=no)"
            ),
        }
    }
}

impl std::error::Error for NodeError {}
