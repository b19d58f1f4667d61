//! What sockets are told, and asked, that the standard library and `socket2` have no words for.
//!
//! Runs on whichever thread owns the socket.
#![allow(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Has the kernel tell with each datagram which local address it was sent to.
///
/// # Errors
/// Those of setsockopt(2).
pub fn report_local_address(socket: BorrowedFd<'_>, address: &SocketAddr) -> io::Result<()> {
    let (level, name) = match address {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    #[allow(clippy::cast_possible_truncation)] // 4
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is the `c_int` behind the pointer, whose size is given.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const on).cast(), len) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How many datagrams the kernel has dropped because the socket had no room for them: the count that SO_RXQ_OVFL tells
/// with each datagram, asked for once instead.
///
/// # Errors
/// Those of getsockopt(2).
pub fn receive_drops(socket: BorrowedFd<'_>) -> io::Result<u32> {
    /// Of the values that SO_MEMINFO gives, `SK_MEMINFO_DROPS` is the last.
    const DROPS: usize = 8;
    let mut values = [0u32; DROPS + 1];
    #[allow(clippy::cast_possible_truncation)] // 36
    let mut len = size_of_val(&values) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes to the array behind the pointer, which has as many.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MEMINFO,
            values.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if got == 0 { Ok(values[DROPS]) } else { Err(io::Error::last_os_error()) }
}
