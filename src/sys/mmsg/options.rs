//! What sockets are told, and asked, that the standard library and `socket2` have no words for.
//!
//! Runs on whichever thread owns the socket.
#![allow(unsafe_code)]

use std::io;
use std::net::{IpAddr, SocketAddr};
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

/// Writes to `control`, which has room for it and is aligned for it, that a datagram is to leave from `source`. Returns
/// the length of that.
#[allow(clippy::cast_possible_truncation)] // 20 bytes
pub(super) fn write_source(control: &mut [u8; super::CONTROL_LEN], source: IpAddr) -> usize {
    let header = control.as_mut_ptr().cast::<libc::cmsghdr>();
    // SAFETY: the buffer is as large as asserted beside its type, which aligns it for the header; what follows the
    // header is written without being aligned for.
    unsafe {
        match source {
            IpAddr::V4(address) => {
                let info = libc::in_pktinfo {
                    ipi_ifindex: 0,
                    ipi_spec_dst: libc::in_addr { s_addr: u32::from(address).to_be() },
                    ipi_addr: libc::in_addr { s_addr: 0 },
                };
                write_control(header, libc::IPPROTO_IP, libc::IP_PKTINFO, info)
            }
            IpAddr::V6(address) => {
                let ipi6_addr = libc::in6_addr { s6_addr: address.octets() };
                let info = libc::in6_pktinfo { ipi6_addr, ipi6_ifindex: 0 };
                write_control(header, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info)
            }
        }
    }
}

/// Writes a control message.
///
/// # Safety
/// `header` is aligned, and has room for the value behind it.
#[allow(clippy::cast_possible_truncation)] // 20 bytes
unsafe fn write_control<T>(
    header: *mut libc::cmsghdr,
    level: libc::c_int,
    kind: libc::c_int,
    value: T,
) -> usize {
    // SAFETY: the caller's.
    unsafe {
        (*header).cmsg_level = level;
        (*header).cmsg_type = kind;
        (*header).cmsg_len = libc::CMSG_LEN(size_of::<T>() as u32) as usize;
        libc::CMSG_DATA(header).cast::<T>().write_unaligned(value);
        libc::CMSG_SPACE(size_of::<T>() as u32) as usize
    }
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
