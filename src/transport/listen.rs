//! Binding an address for all workers, over UDP and TCP.
//!
//! Runs on the main thread before the workers start.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::SockRef;

use super::{tcp, udp};

/// How often another free port is tried when the kernel picked one for UDP that TCP has in use.
const PORT_TRIES: usize = 16;

/// What a worker listens on.
#[derive(Default)]
pub struct Listeners {
    /// One per address.
    pub udp: Vec<UdpSocket>,
    /// One per address.
    pub tcp: Vec<TcpListener>,
    /// These sockets are not of this process alone: there may be another that goes on with them.
    pub is_inherited: bool,
}

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct ListenError {
    /// The address.
    pub address: SocketAddr,
    /// The transport that failed, `UDP` or `TCP`.
    pub transport: &'static str,
    /// What the kernel said.
    pub source: io::Error,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, transport, source } = self;
        write!(f, "cannot listen on {address}: ")?;
        match source.kind() {
            ErrorKind::AddrInUse => {
                write!(
                    f,
                    "another program has {transport} port {} (`ss -lntup` shows which); ",
                    address.port()
                )?;
                f.write_str("stop it or choose another with --listen")
            }
            ErrorKind::AddrNotAvailable => {
                f.write_str("this machine has no such address (`ip address` lists them)")
            }
            ErrorKind::PermissionDenied => f.write_str(
                "ports below 1024 take root or CAP_NET_BIND_SERVICE; or choose another with --listen",
            ),
            _ => write!(f, "{source}"),
        }
    }
}

impl std::error::Error for ListenError {}

/// Adds `address` to what each of the workers listens on, and returns it as it is bound. With port 0 it is a port that
/// is free for both transports.
///
/// # Errors
/// [`ListenError`].
pub fn bind(address: SocketAddr, workers: &mut [Listeners]) -> Result<SocketAddr, ListenError> {
    let mut tries = if address.port() == 0 { PORT_TRIES } else { 1 };
    loop {
        tries -= 1;
        let fail = |transport| move |source| ListenError { address, transport, source };
        let sockets = udp::bind(address, workers.len()).map_err(fail("UDP"))?;
        let bound = sockets.first().map_or(Ok(address), UdpSocket::local_addr).map_err(fail("UDP"))?;
        match tcp::bind(bound, workers.len()) {
            Ok(listeners) => {
                for ((worker, socket), listener) in workers.iter_mut().zip(sockets).zip(listeners) {
                    worker.udp.push(socket);
                    worker.tcp.push(listener);
                }
                return Ok(bound);
            }
            Err(error) if error.kind() == ErrorKind::AddrInUse && tries > 0 => {}
            Err(error) => return Err(fail("TCP")(error)),
        }
    }
}

/// Sockets that the process was started with: the service manager has bound them.
#[derive(Default)]
pub struct Inherited {
    /// For UDP.
    pub udp: Vec<UdpSocket>,
    /// For TCP, listening.
    pub tcp: Vec<TcpListener>,
}

impl Inherited {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.udp.is_empty() && self.tcp.is_empty()
    }
}

/// Adds `inherited` sockets to what each of the workers listens on, and returns their addresses. Where the service
/// manager has let the port be shared, each worker has a socket of its own; otherwise all have the one.
///
/// # Errors
/// [`ListenError`].
pub fn adopt(inherited: Inherited, workers: &mut [Listeners]) -> Result<Vec<SocketAddr>, ListenError> {
    let unspecified = SocketAddr::from(([0; 4], 0));
    workers.iter_mut().for_each(|worker| worker.is_inherited = true);
    let mut addresses = Vec::new();
    for socket in inherited.udp {
        let address = socket.local_addr().unwrap_or(unspecified);
        let fail = |source| ListenError { address, transport: "UDP", source };
        let sockets = udp::share(socket, address, workers.len()).map_err(fail)?;
        workers.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.udp.push(socket));
        addresses.push(address);
    }
    for listener in inherited.tcp {
        let address = listener.local_addr().unwrap_or(unspecified);
        let fail = |source| ListenError { address, transport: "TCP", source };
        listener.set_nonblocking(true).map_err(fail)?;
        for worker in &mut *workers {
            worker.tcp.push(listener.try_clone().map_err(fail)?);
        }
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    Ok(addresses)
}

/// Has the kernel give a packet to the worker on the CPU that has processed it (SO_INCOMING_CPU), where that is one of
/// `cpus`, which the workers have in turn. Others go by the hash of their client, as all do otherwise.
///
/// # Errors
/// What the kernel says.
pub fn steer(workers: &[Listeners], cpus: &[usize]) -> io::Result<()> {
    for (listeners, cpu) in workers.iter().zip(cpus.iter().cycle()) {
        for socket in &listeners.udp {
            SockRef::from(socket).set_cpu_affinity(*cpu)?;
        }
        for listener in &listeners.tcp {
            SockRef::from(listener).set_cpu_affinity(*cpu)?;
        }
    }
    Ok(())
}
