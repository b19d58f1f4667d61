//! The control listener: an HTTP API with JSON, for programs and for our own command line.
//!
//! Runs on a thread `control` of its own, asynchronously; what changes or reads registrations is done by the control
//! thread, which is asked through its queue. It listens on loopback or on a Unix socket alone: whoever reaches it may do
//! everything.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::oneshot;

use super::control_address::ControlAddress;
use super::request::{
    Added, Addition, Member, Refused, Registration, Removal, Removed, Reply, Request, Status,
};
use super::{addition, balancing};
use crate::wire::name::Name;

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

/// How requests get to the control thread; `false` if it is gone.
type Ask = dyn Fn(Request) -> bool + Send + Sync;

pub(super) struct Shared {
    ask: Box<Ask>,
    pub(super) domains: Vec<Name>,
    check_dir: Option<PathBuf>,
}

impl Listener {
    /// Listens at `address`; hands requests to `ask`.
    ///
    /// # Errors
    /// [`HttpError`].
    pub fn start(
        address: &ControlAddress,
        domains: Vec<Name>,
        check_dir: Option<PathBuf>,
        ask: impl Fn(Request) -> bool + Send + Sync + 'static,
    ) -> Result<Self, HttpError> {
        let fail = |source| HttpError { address: address.clone(), source };
        let (socket, bound) = bind(address).map_err(fail)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(fail)?;
        let router = router(Arc::new(Shared { ask: Box::new(ask), domains, check_dir }));
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            runtime.block_on(async {
                // It ends when it is told to; connections that are open then are closed.
                let served = async {
                    match socket {
                        Socket::Tcp(socket) => axum::serve(TcpListener::from_std(socket)?, router).await,
                        Socket::Unix(socket) => axum::serve(UnixListener::from_std(socket)?, router).await,
                    }
                };
                tokio::select! {
                    ended = served => if let Err(error) = ended {
                        tracing::error!("the control listener has ended: {error}");
                    },
                    _ = stopped => {}
                }
            });
        };
        let thread = thread::Builder::new().name("control".into()).spawn(serve).map_err(fail)?;
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

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/v1/names", get(names).post(add))
        .route("/v1/names/{name}", get(name).delete(remove))
        .route("/v1/members", get(members))
        .route("/v1/status", get(status))
        .merge(balancing::router())
        .fallback(async || Problem::new(StatusCode::NOT_FOUND, "there is no such path; see docs/control.md"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "the path does not take this method; see docs/control.md",
            )
        })
        .with_state(shared)
}

/// What went wrong (RFC 9457).
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    code: StatusCode,
    status: u16,
    title: &'static str,
    detail: String,
}

impl Problem {
    pub(super) fn new(code: StatusCode, detail: impl Into<String>) -> Self {
        let title = code.canonical_reason().unwrap_or_default();
        Self { code, status: code.as_u16(), title, detail: detail.into() }
    }

    pub(super) fn bad(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        (
            self.code,
            [(header::CONTENT_TYPE, "application/problem+json")],
            Json(&self).into_response().into_body(),
        )
            .into_response()
    }
}

impl From<JsonRejection> for Problem {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<QueryRejection> for Problem {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(rejection.status(), rejection.body_text())
    }
}

impl From<Refused> for Problem {
    fn from(Refused(why): Refused) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("nothing was changed: {why}"))
    }
}

impl Shared {
    /// Asks the control thread, and waits for what it says.
    pub(super) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Problem> {
        let (reply, answer) = oneshot::channel();
        let gone = || Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
        if !(self.ask)(request(reply)) {
            return Err(gone());
        }
        answer.await.map_err(|_| gone())
    }
}

async fn add(
    State(shared): State<Arc<Shared>>,
    body: Result<Json<serde_json::Value>, JsonRejection>,
) -> Result<Json<Added>, Problem> {
    let Json(body) = body?;
    // One or a list: read in two steps, so that a mistake is told of the form that was meant.
    let additions: Result<Vec<Addition>, _> = match body {
        serde_json::Value::Array(_) => serde_json::from_value(body),
        _ => serde_json::from_value(body).map(|one| vec![one]),
    };
    let additions = additions.map_err(|error| Problem::bad(error.to_string()))?;
    let registrations = addition::registrations(&additions, &shared.domains, shared.check_dir.as_deref())
        .map_err(Problem::bad)?;
    Ok(Json(shared.ask(|reply| Request::Add(registrations, reply)).await??))
}

/// What of a name is to be removed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    instance: Option<String>,
    /// Several with commas between them.
    address: Option<String>,
}

async fn remove(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
    which: Result<Query<Which>, QueryRejection>,
) -> Result<Json<Removed>, Problem> {
    let Query(Which { instance, address }) = which?;
    let parse = |text: &str| -> Result<IpAddr, Problem> {
        text.parse().map_err(|_| Problem::bad(format!("{text:?} is no IP address")))
    };
    let removal = Removal {
        name: addition::name(&name, &shared.domains).map_err(Problem::bad)?,
        instance: addition::instance(instance.as_deref()).map_err(Problem::bad)?.into(),
        addresses: address.iter().flat_map(|list| list.split(',')).map(parse).collect::<Result<_, _>>()?,
    };
    Ok(Json(shared.ask(|reply| Request::Remove(removal, reply)).await??))
}

async fn names(State(shared): State<Arc<Shared>>) -> Result<Json<Vec<Registration>>, Problem> {
    Ok(Json(shared.ask(|reply| Request::Names(None, reply)).await?))
}

async fn name(
    State(shared): State<Arc<Shared>>,
    Path(name): Path<String>,
) -> Result<Json<Vec<Registration>>, Problem> {
    let name = addition::name(&name, &shared.domains).map_err(Problem::bad)?;
    Ok(Json(shared.ask(|reply| Request::Names(Some(name), reply)).await?))
}

async fn members(State(shared): State<Arc<Shared>>) -> Result<Json<Vec<Member>>, Problem> {
    Ok(Json(shared.ask(Request::Members).await?))
}

async fn status(State(shared): State<Arc<Shared>>) -> Result<Json<Box<Status>>, Problem> {
    Ok(Json(shared.ask(Request::Status).await?))
}

/// Whether a listener may be at `address`, which anybody who reaches it could tell anything.
#[must_use]
pub fn is_private(address: &ControlAddress) -> bool {
    match address {
        ControlAddress::Tcp(address) => SocketAddr::ip(address).is_loopback(),
        ControlAddress::Unix(_) => true,
    }
}
