//! The control listener: an HTTP API with JSON, for programs, for our own command line, and a page for people.
//!
//! Runs on a thread `http` of its own, asynchronously. What changes registrations is asked of their owner, through its
//! queue; what is read is read here. Whoever reaches it may do everything, so it is on loopback or on a Unix socket, or
//! asks for a token.

mod auth;
mod balancing;
mod cache;
pub mod client;
mod connections;
mod listing;
mod metrics;
mod names;
mod problem;
mod status;
mod weave;

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::extract::DefaultBodyLimit;
use axum::http::StatusCode;
use axum::{Router, middleware};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

use self::auth::Auth;
pub use self::auth::Token;
use self::problem::Problem;
use crate::api::control_address::ControlAddress;
use crate::api::request::{Queued, Reply, Request, View};
use crate::sys::sched::lower_priority;
use crate::wire::name::Name;

/// Bytes of a request's body at most: a thousand registrations have a few hundred thousand.
const MAX_BODY_LEN: usize = crate::limits::MAX_BODY_LEN;

/// Why there is no control listener.
#[derive(Debug)]
pub struct HttpError {
    address: ControlAddress,
    source: io::Error,
}

impl fmt::Display for HttpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source } = self;
        write!(f, "cannot listen for control at {address}: ")?;
        match source.kind() {
            ErrorKind::AddrInUse => f.write_str(
                "another program, perhaps another redbreast, has it; choose another with --control",
            ),
            _ => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for HttpError {}

/// A running listener.
pub struct Listener {
    address: ControlAddress,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// How changes get to the owner of the registrations.
type Ask = dyn Fn(Request) -> Queued + Send + Sync;

/// What a listener is told.
#[derive(Clone, Debug, Default)]
pub struct ListenerRules {
    /// Names have to be in one of these.
    pub domains: Vec<Name>,
    /// Where the programs are that may be run as health checks.
    pub check_dir: Option<PathBuf>,
    /// What everybody has to bring.
    pub token: Option<Token>,
}

struct ServerState {
    ask: Box<Ask>,
    view: Arc<dyn View>,
    domains: Vec<Name>,
    check_dir: Option<PathBuf>,
    auth: Auth,
}

impl Listener {
    /// Listens at `address`; hands changes to `ask`, and reads from `view`.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn start(
        address: &ControlAddress,
        rules: ListenerRules,
        view: Arc<dyn View>,
        ask: impl Fn(Request) -> Queued + Send + Sync + 'static,
    ) -> Result<Self, HttpError> {
        let fail = |source| HttpError { address: address.clone(), source };
        let (socket, bound) = bind(address).map_err(fail)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let ListenerRules { domains, check_dir, token } = rules;
        let auth = Auth::new(token, matches!(address, ControlAddress::Tcp(_)));
        let router = router(Arc::new(ServerState { ask: Box::new(ask), view, domains, check_dir, auth }));
        let (stop, stopped) = oneshot::channel::<()>();
        // It ends when it is told to; connections that are open then are closed.
        let serve = move || {
            lower_priority();
            runtime.block_on(async {
                let socket = match socket {
                    Socket::Tcp(socket) => TcpListener::from_std(socket).map(connections::Socket::Tcp),
                    Socket::Unix(socket) => UnixListener::from_std(socket).map(connections::Socket::Unix),
                };
                match socket {
                    Ok(socket) => tokio::select! {
                        () = connections::serve(socket, router) => {}
                        _ = stopped => {}
                    },
                    Err(error) => tracing::error!("the control listener has ended: {error}"),
                }
            });
        };
        let thread = thread::Builder::new().name("http".into()).spawn(serve).map_err(fail)?;
        Ok(Self { address: bound, stop, thread })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &ControlAddress {
        &self.address
    }

    /// Ends it.
    pub fn stop(self) {
        drop(self.stop);
        // A panic there has been told by the panic itself.
        let _ = self.thread.join();
        if let ControlAddress::Unix(path) = &self.address {
            // Somebody may have removed it already.
            let _ = std::fs::remove_file(path);
        }
    }
}

fn bind(address: &ControlAddress) -> io::Result<(Socket, ControlAddress)> {
    match address {
        ControlAddress::Tcp(tcp) => {
            let socket = std::net::TcpListener::bind(tcp)?;
            socket.set_nonblocking(true)?;
            let bound = ControlAddress::Tcp(socket.local_addr()?);
            Ok((Socket::Tcp(socket), bound))
        }
        ControlAddress::Unix(path) => {
            let socket = bind_unix(path)?;
            socket.set_nonblocking(true)?;
            Ok((Socket::Unix(socket), address.clone()))
        }
    }
}

/// A socket that a killed server has left behind is replaced; one that somebody listens at is not.
fn bind_unix(path: &FilePath) -> io::Result<std::os::unix::net::UnixListener> {
    let bound = std::os::unix::net::UnixListener::bind(path).or_else(|error| {
        let left_behind = error.kind() == ErrorKind::AddrInUse
            && UnixStream::connect(path).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused);
        if !left_behind {
            return Err(error);
        }
        std::fs::remove_file(path)?;
        std::os::unix::net::UnixListener::bind(path)
    })?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(bound)
}

fn router(shared: Arc<ServerState>) -> Router {
    let fallback = async || Problem::new(StatusCode::NOT_FOUND, "there is no such path; see docs/control.md");
    let wrong_method = async || {
        Problem::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "the path does not take this method; see docs/control.md",
        )
    };
    Router::new()
        .merge(names::router())
        .merge(balancing::router())
        .merge(cache::router())
        .merge(status::router())
        .merge(weave::router())
        .fallback(fallback)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .layer(middleware::from_fn_with_state(Arc::clone(&shared), auth::admit))
        .with_state(shared)
}

impl ServerState {
    /// Asks for a change, and waits for what comes of it.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        match (self.ask)(request(reply)) {
            Queued::Waits => answer.await.map_err(|_| stopping()),
            Queued::Full => Err(busy()),
            Queued::Stopping => Err(stopping()),
        }
    }
}

fn busy() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many requests wait already; try again")
}

fn stopping() -> Problem {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping")
}

/// Whether a listener may be at `address` without a token: nobody else reaches it.
#[must_use]
pub fn is_private(address: &ControlAddress) -> bool {
    match address {
        ControlAddress::Tcp(address) => SocketAddr::ip(address).is_loopback(),
        ControlAddress::Unix(_) => true,
    }
}
