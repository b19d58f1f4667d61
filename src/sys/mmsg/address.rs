//! Socket addresses as the kernel has them.

use std::mem::{offset_of, size_of};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// Reads a socket address as the kernel wrote it.
pub(super) fn decode(raw: &libc::sockaddr_in6) -> Option<SocketAddr> {
    match i32::from(raw.sin6_family) {
        libc::AF_INET6 => {
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
        }
        libc::AF_INET => {
            // A `sockaddr_in` has its port where `sockaddr_in6` has it, and its address where that has `flowinfo`.
            const _: () =
                assert!(offset_of!(libc::sockaddr_in, sin_port) == offset_of!(libc::sockaddr_in6, sin6_port));
            const _: () = assert!(
                offset_of!(libc::sockaddr_in, sin_addr) == offset_of!(libc::sockaddr_in6, sin6_flowinfo)
            );
            let ip = Ipv4Addr::from(u32::from_be(raw.sin6_flowinfo));
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin6_port)).into())
        }
        _ => None,
    }
}

/// Writes a socket address as the kernel reads it, and says how long it is.
#[allow(clippy::cast_possible_truncation)] // 28 bytes at most
pub(super) fn encode(address: SocketAddr) -> (libc::sockaddr_in6, libc::socklen_t) {
    let mut raw = libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
        sin6_scope_id: 0,
    };
    match address {
        SocketAddr::V6(v6) => {
            raw.sin6_addr.s6_addr = v6.ip().octets();
            (raw.sin6_flowinfo, raw.sin6_scope_id) = (v6.flowinfo(), v6.scope_id());
            (raw, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
        SocketAddr::V4(v4) => {
            // The two have their ports in the same place, and the address where the other has `flowinfo`: see `decode`.
            raw.sin6_family = libc::AF_INET as libc::sa_family_t;
            raw.sin6_flowinfo = u32::from(*v4.ip()).to_be();
            (raw, size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
    }
}
