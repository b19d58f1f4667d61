//! Checking once whether an address is well.
//!
//! Runs on the `health` thread, asynchronously, many at a time. Whatever is checked may be silent, slow or hostile:
//! every check ends with its time, and reads no more than it needs.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process_group};
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UdpSocket};
use tokio::process::Command;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::monitor::CheckOutcome;
use super::spec::{Check, Probe};
use crate::sys::tls_error;
use crate::sys::tls_trust::Trust;
use crate::wire::header as dns_header;
use crate::wire::message::write_query;
use crate::wire::name::Name;

/// Programs that run at the same time at most: each takes a process.
const MAX_PROGRAMS: usize = crate::limits::MAX_CHECK_PROGRAMS;

/// Where a DNS response has its code, and the bits of it.
const RCODE_AT: usize = 3;
const RCODE_MASK: u8 = 0x0f;

/// What checks of all kinds need.
pub struct Prober {
    tls: TlsConnector,
    /// Where programs are, if any may be run.
    programs: Option<PathBuf>,
    running: Semaphore,
}

/// Why an address is not well, or why that is not known.
enum ProbeFault {
    Failed(String),
    Unmade(String),
}

impl From<io::Error> for ProbeFault {
    fn from(error: io::Error) -> Self {
        // What this machine is short of is no fault of the other.
        let ours =
            [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM, libc::EADDRNOTAVAIL, libc::EAGAIN];
        if error.raw_os_error().is_some_and(|code| ours.contains(&code)) {
            Self::Unmade(error.to_string())
        } else {
            Self::Failed(error.to_string())
        }
    }
}

impl Prober {
    /// Runs programs that are in the directory `programs`, or none.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new(programs: Option<PathBuf>) -> Result<Self, rustls::Error> {
        // What is checked is how a server is, not who.
        let tls = TlsConnector::from(Arc::new(Trust::default().client_config(&[], false)?));
        Ok(Self { tls, programs, running: Semaphore::new(MAX_PROGRAMS) })
    }

    /// Makes a check of `address`, or goes on with one that was `begun`.
    pub async fn probe(&self, address: IpAddr, check: &Check, begun: Option<Socket>) -> CheckOutcome {
        let limit = check.timeout;
        let made = async {
            match &check.probe {
                Probe::Tcp { port } => {
                    match begun.map_or_else(|| begin_tcp(address, *port), Begun::Pending) {
                        Begun::Done(outcome) => return outcome,
                        Begun::Pending(socket) => connected(socket).await,
                    }
                }
                Probe::Http { tls, port, path, host, status } => {
                    let at = SocketAddr::new(address, *port);
                    self.http(at, *tls, path, host.as_deref(), *status).await
                }
                Probe::Dns { port, name, qtype } => dns(SocketAddr::new(address, *port), name, *qtype).await,
                // It has a time of its own: who stops waiting for a program has to end it.
                Probe::Command { program } => self.command(program, address, limit).await,
            }
            .map_or_else(outcome, |()| CheckOutcome::Well)
        };
        let is_program = matches!(check.probe, Probe::Command { .. });
        let made = if is_program { Ok(made.await) } else { timeout(limit, made).await };
        made.unwrap_or_else(|_| CheckOutcome::Failed(no_answer(limit)))
    }

    async fn http(
        &self,
        at: SocketAddr,
        tls: bool,
        path: &str,
        host: Option<&str>,
        (low, high): (u16, u16),
    ) -> Result<(), ProbeFault> {
        let host = host.map_or_else(|| at.ip().to_string(), str::to_owned);
        let failed = |error: &dyn std::fmt::Display| ProbeFault::Failed(error.to_string());
        let request = Request::builder()
            .uri(path)
            .header(header::HOST, &host)
            .header(header::USER_AGENT, concat!("redbreast/", env!("CARGO_PKG_VERSION")))
            .header(header::CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| failed(&error))?;
        let stream = TcpStream::connect(at).await?;
        let status = if tls {
            let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name).to_owned();
            let name = ServerName::try_from(name).unwrap_or_else(|_| ServerName::from(at.ip()));
            let stream = self.tls.connect(name, stream).await;
            let stream = stream.map_err(|error| ProbeFault::Failed(tls_error::text_of_io(&error)))?;
            exchange(stream, request).await
        } else {
            exchange(stream, request).await
        };
        match status.map_err(|error| failed(&error))? {
            status if (low..=high).contains(&status) => Ok(()),
            status => Err(ProbeFault::Failed(format!("HTTP status {status}"))),
        }
    }

    async fn command(&self, program: &str, address: IpAddr, limit: Duration) -> Result<(), ProbeFault> {
        let Some(directory) = &self.programs else {
            return Err(ProbeFault::Unmade("this node has no --check-dir, so it runs no programs".into()));
        };
        let path = directory.join(program);
        let Ok(_permit) = timeout(limit, self.running.acquire()).await else {
            return Err(ProbeFault::Unmade(format!("{MAX_PROGRAMS} programs are running already")));
        };
        run(&path, address, limit).await
    }
}

fn no_answer(limit: Duration) -> String {
    format!("no answer within {} ms", limit.as_millis())
}

/// A connection that was begun.
pub enum Begun {
    /// It is known already what came of it.
    Done(CheckOutcome),
    /// The other side has not answered yet.
    Pending(Socket),
}

/// Begins to connect to a port. On this machine, and where nobody listens on it, it is mostly known at once what comes
/// of it: to wait for that through the event loop would cost as much again.
#[must_use]
pub fn begin_tcp(address: IpAddr, port: u16) -> Begun {
    match connect(SocketAddr::new(address, port)) {
        Ok(Connecting::Yes(socket)) => Begun::Pending(socket),
        Ok(Connecting::No) => Begun::Done(CheckOutcome::Well),
        Err(error) => Begun::Done(outcome(ProbeFault::from(error))),
    }
}

enum Connecting {
    Yes(Socket),
    No,
}

fn connect(at: SocketAddr) -> io::Result<Connecting> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    // It is reset rather than closed, or each check would leave a port in TIME_WAIT here for a minute.
    socket.set_linger(Some(Duration::ZERO))?;
    match socket.connect(&at.into()) {
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        connected => return connected.map(|()| Connecting::No),
    }
    let mut polled = [PollFd::new(&socket, PollFlags::OUT)];
    if poll(&mut polled, Some(&Timespec::default()))? == 0 {
        return Ok(Connecting::Yes(socket));
    }
    socket.take_error()?.map_or(Ok(Connecting::No), Err)
}

async fn connected(socket: Socket) -> Result<(), ProbeFault> {
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    stream.take_error()?.map_or(Ok(()), |error| Err(error.into()))
}

fn outcome(fault: ProbeFault) -> CheckOutcome {
    match fault {
        ProbeFault::Failed(why) => CheckOutcome::Failed(why),
        ProbeFault::Unmade(why) => CheckOutcome::Unmade(why),
    }
}

/// The status of the response.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<u16, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let driver = AbortOnDrop(tokio::spawn(connection));
    let status = sender.send_request(request).await?.status().as_u16();
    // What comes behind the head is of no interest.
    drop(driver);
    Ok(status)
}

/// Ends a task when nobody waits for what it is for any more.
struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn dns(at: SocketAddr, name: &Name, qtype: u16) -> Result<(), ProbeFault> {
    let any: SocketAddr = if at.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(at).await?;
    let query = write_query(fastrand::u16(..), name, qtype);
    socket.send(&query).await?;
    let mut answer = [0; 4096];
    loop {
        let len = socket.recv(&mut answer).await?;
        let answer = &answer[..len];
        let question = dns_header::LEN..query.len();
        // Anything else is not for us.
        if answer.get(..2) == query.get(..2)
            && answer.get(2).is_some_and(|flags| flags & dns_header::QR != 0)
            && answer.get(question.clone()) == query.get(question)
        {
            return match answer[RCODE_AT] & RCODE_MASK {
                0 => Ok(()),
                rcode => Err(ProbeFault::Failed(format!("DNS response code {rcode}"))),
            };
        }
    }
}

/// Runs a program in a process group of its own, and ends all of that with its time.
async fn run(path: &Path, address: IpAddr, limit: Duration) -> Result<(), ProbeFault> {
    let cannot = |error: &io::Error| ProbeFault::Unmade(format!("{} cannot be run: {error}", path.display()));
    let mut child = Command::new(path)
        .arg(address.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| cannot(&error))?;
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let ended = timeout(limit, child.wait()).await;
    // What it has started and left behind goes with it, also when it has ended well.
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(ProbeFault::Failed(format!("it ended with {status}"))),
        Ok(Err(error)) => Err(cannot(&error)),
        Err(_) => {
            let _ = child.wait().await;
            Err(ProbeFault::Failed(format!("it had not ended after {} ms", limit.as_millis())))
        }
    }
}
