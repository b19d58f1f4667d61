//! Batched datagram I/O: `recvmmsg(2)` and `sendmmsg(2)` over buffers that are allocated once.
//!
//! Runs on whichever thread owns the [`Batch`]: a data-plane worker, a load-generator thread or the echo floor.
//! All of them share this file so that a ratio between two of them compares what they do with a packet and not
//! how they move it. It knows nothing of DNS and imports nothing of this crate.
#![allow(unsafe_code)]

mod address;
mod gro;
mod groups;
mod options;
mod socket;
mod turns;

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::marker::PhantomData;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};

use address::{decode, encode};
pub use gro::{GroupReceiver, hand_over_groups};
pub use options::{receive_drops, report_local_address};
pub use socket::{buffered, refuse_more};
pub use turns::{ask_for_short_turns, set_fifo};

/// Datagrams moved by one system call at most.
pub const BATCH_LEN: usize = crate::limits::BATCH_LEN;

/// Bytes in a datagram buffer.
pub const BUFFER_LEN: usize = crate::limits::BUFFER_LEN;

const _: () = assert!(BUFFER_LEN / 64 % 2 == 1, "buffers must not alias in the L1 cache");

/// The bytes of one datagram, aligned so that no two buffers share a cache line.
#[repr(C, align(64))]
struct Buffer([u8; BUFFER_LEN]);

/// Everything the kernel is given pointers into, in one allocation that never moves.
#[repr(C)]
struct Storage {
    buffers: [Buffer; BATCH_LEN],
    /// Room for an IPv4 or IPv6 peer; `sockaddr_in6` is the larger of the two.
    peers: [libc::sockaddr_in6; BATCH_LEN],
    controls: [Control; BATCH_LEN],
    receive_slices: [libc::iovec; BATCH_LEN],
    receive_headers: [libc::mmsghdr; BATCH_LEN],
    send_slices: [libc::iovec; BATCH_LEN],
    send_headers: [libc::mmsghdr; BATCH_LEN],
}

/// Whether datagrams carry their peer's address, or the socket is connected to its only peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addressing {
    /// Each datagram is received with its peer's address and sent back to it.
    PerDatagram,
    /// As before, and each is sent back from the local address that it was sent to. A socket bound to all addresses
    /// of a machine needs that, or the kernel picks one of them; [`report_local_address`] has to be set on it.
    PerDatagramAndLocal,
    /// The socket is connected; no addresses travel with the datagrams, which the kernel does cheaper.
    Connected,
}

/// Room for the one control message that says which local address a datagram was sent to (IP_PKTINFO, ip(7), or
/// IPV6_PKTINFO, RFC 3542 §6.2), aligned as control messages have to be.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; CONTROL_LEN]);

const CONTROL_LEN: usize = 40;

#[allow(clippy::cast_possible_truncation)] // 20 bytes
// SAFETY: CMSG_SPACE only computes with its argument.
const _: () =
    assert!(unsafe { libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) } as usize <= CONTROL_LEN);

/// What [`Batch::receive`] does when nothing has arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Return [`io::ErrorKind::WouldBlock`] at once.
    Never,
    /// Sleep until there is one datagram, then take what is there (the socket must be blocking).
    ForOne,
}

/// One received datagram: a whole buffer to answer in, and how much of it was received.
pub struct Datagram<'a> {
    /// The whole buffer; the received bytes are its first `len`.
    pub buffer: &'a mut [u8; BUFFER_LEN],
    /// Bytes received.
    pub len: usize,
    /// The datagram was longer than the buffer and has lost its end.
    pub truncated: bool,
}

/// Where a datagram has to go, and from which of our addresses.
#[derive(Clone, Copy)]
pub struct ReturnAddress {
    peer: libc::sockaddr_in6,
    peer_len: libc::socklen_t,
    control: Control,
    control_len: usize,
}

impl ReturnAddress {
    /// To the only peer of a connected socket.
    #[must_use]
    pub fn connected() -> Self {
        // SAFETY: all bytes zero are a `sockaddr_in6`; with a length of 0 the kernel does not look at it.
        let peer = unsafe { std::mem::zeroed() };
        Self { peer, peer_len: 0, control: Control([0; CONTROL_LEN]), control_len: 0 }
    }

    /// To `peer`, from whichever address the kernel takes for that.
    #[must_use]
    pub fn to(peer: SocketAddr) -> Self {
        let (peer, peer_len) = encode(peer);
        Self { peer, peer_len, control: Control([0; CONTROL_LEN]), control_len: 0 }
    }

    /// The same from `source`, an address of this machine of the peer's family.
    #[must_use]
    pub fn from_source(mut self, source: IpAddr) -> Self {
        self.control_len = options::write_source(&mut self.control.0, source);
        self
    }
}

/// Up to [`BATCH_LEN`] datagrams: received together, answered in place, sent together.
pub struct Batch {
    storage: NonNull<Storage>,
    addressing: Addressing,
    received: usize,
    /// Messages to be sent: what was staged, or groups of that.
    staged: usize,
    /// Whether datagrams may go in groups.
    groups: bool,
    /// The raw pointers inside `storage` point into `storage`, so the batch stays on the thread that made it.
    _not_send: PhantomData<*mut ()>,
}

impl Batch {
    /// Allocates the buffers and the headers that describe them to the kernel. Nothing allocates after this.
    #[must_use]
    pub fn new(addressing: Addressing) -> Self {
        let layout = Layout::new::<Storage>();
        // SAFETY: `Storage` is not zero-sized.
        let raw = unsafe { alloc_zeroed(layout) }.cast::<Storage>();
        let Some(storage) = NonNull::new(raw) else { handle_alloc_error(layout) };
        let batch =
            Self { storage, addressing, received: 0, staged: 0, groups: true, _not_send: PhantomData };
        for i in 0..BATCH_LEN {
            batch.describe(i);
        }
        batch
    }

    /// Writes the parts of slot `i`'s headers that never change.
    fn describe(&self, i: usize) {
        let storage = self.storage.as_ptr();
        let named = self.addressing != Addressing::Connected;
        // SAFETY: `storage` is a live allocation of `Storage` (all-zero bytes are valid for each of its fields) that
        // only this batch uses, and `i < BATCH_LEN`. The pointers stored stay valid because the allocation does not
        // move; nothing dereferences them but the kernel, during calls that hold `&mut self`.
        unsafe {
            let base = (&raw mut (*storage).buffers[i]).cast();
            let peer: *mut libc::c_void =
                if named { (&raw mut (*storage).peers[i]).cast() } else { ptr::null_mut() };
            (*storage).receive_slices[i] = libc::iovec { iov_base: base, iov_len: BUFFER_LEN };
            let header = &raw mut (*storage).receive_headers[i].msg_hdr;
            (*header).msg_name = peer;
            (*header).msg_namelen = self.peer_room();
            if self.addressing == Addressing::PerDatagramAndLocal {
                (*header).msg_control = (&raw mut (*storage).controls[i]).cast();
                (*header).msg_controllen = CONTROL_LEN;
            }
            (*header).msg_iov = &raw mut (*storage).receive_slices[i];
            (*header).msg_iovlen = 1;
        }
    }

    #[allow(clippy::cast_possible_truncation)] // 28 bytes
    fn peer_room(&self) -> libc::socklen_t {
        match self.addressing {
            Addressing::PerDatagram | Addressing::PerDatagramAndLocal => {
                size_of::<libc::sockaddr_in6>() as libc::socklen_t
            }
            Addressing::Connected => 0,
        }
    }

    #[allow(clippy::cast_possible_truncation)] // 64
    /// Receives up to [`BATCH_LEN`] datagrams with one system call and returns how many.
    ///
    /// What was staged before is forgotten. Fewer than [`BATCH_LEN`] means that the socket's queue was seen empty,
    /// so an edge-triggered poll may follow without another receive.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there; on a connected socket also errors that the peer's host reported, such as
    /// `ConnectionRefused`. No datagram is lost by an error.
    pub fn receive(&mut self, socket: BorrowedFd<'_>, wait: Wait) -> io::Result<usize> {
        let storage = self.storage.as_ptr();
        let room = self.peer_room();
        let control_room = if self.addressing == Addressing::PerDatagramAndLocal { CONTROL_LEN } else { 0 };
        for i in 0..self.received {
            // SAFETY: as in `describe`; `received <= BATCH_LEN`. The kernel overwrote the lengths with what it filled.
            unsafe {
                let header = &raw mut (*storage).receive_headers[i].msg_hdr;
                (*header).msg_namelen = room;
                (*header).msg_controllen = control_room;
            }
        }
        (self.received, self.staged) = (0, 0);
        let flags = match wait {
            Wait::Never => libc::MSG_DONTWAIT,
            Wait::ForOne => libc::MSG_WAITFORONE,
        };
        // SAFETY: the headers, and the slices, buffers and addresses they point at, live in `storage`, and `&mut self`
        // keeps everything else away from them during the call. The descriptor is open as long as it is borrowed.
        let n = unsafe {
            let headers = (&raw mut (*storage).receive_headers).cast();
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers,
                BATCH_LEN as libc::c_uint,
                flags as _,
                ptr::null_mut(),
            )
        };
        self.received = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        Ok(self.received)
    }

    /// The `i`-th datagram of the last [`receive`](Self::receive).
    ///
    /// # Panics
    /// If `i` is not below [`BATCH_LEN`].
    #[inline]
    pub fn datagram(&mut self, i: usize) -> Datagram<'_> {
        assert!(i < BATCH_LEN);
        let storage = self.storage.as_ptr();
        // SAFETY: `i < BATCH_LEN`; `&mut self` makes the borrow of this buffer the only one, and the kernel reads and
        // writes buffers only during calls that hold `&mut self` too.
        unsafe {
            let header = &raw const (*storage).receive_headers[i];
            Datagram {
                buffer: &mut (*storage).buffers[i].0,
                len: ((*header).msg_len as usize).min(BUFFER_LEN),
                truncated: (*header).msg_hdr.msg_flags & libc::MSG_TRUNC != 0,
            }
        }
    }

    /// The address that the `i`-th datagram came from; `None` on a connected socket.
    ///
    /// # Panics
    /// If `i` is not below [`BATCH_LEN`].
    #[must_use]
    pub fn peer(&self, i: usize) -> Option<SocketAddr> {
        assert!(i < BATCH_LEN);
        if self.addressing == Addressing::Connected {
            return None;
        }
        // SAFETY: `i < BATCH_LEN`, and all bytes of a `sockaddr_in6` are initialised (zeroed at allocation).
        let peer = unsafe { (*self.storage.as_ptr()).peers[i] };
        decode(&peer)
    }

    /// Stages the first `len` bytes of buffer `i` to be sent to that datagram's peer (or the connected one).
    ///
    /// # Panics
    /// If `i` or the number staged is not below [`BATCH_LEN`], or `len` exceeds [`BUFFER_LEN`].
    #[inline]
    pub fn stage(&mut self, i: usize, len: usize) {
        let k = self.staged;
        assert!(i < BATCH_LEN && k < BATCH_LEN && len <= BUFFER_LEN);
        let storage = self.storage.as_ptr();
        // SAFETY: `i` and `k` are below BATCH_LEN and `len` within the buffer; see `describe`.
        unsafe {
            let slice = &raw mut (*storage).send_slices[k];
            (*slice).iov_base = (&raw mut (*storage).buffers[i]).cast();
            (*slice).iov_len = len;
            let from = &raw const (*storage).receive_headers[i].msg_hdr;
            let to = &raw mut (*storage).send_headers[k].msg_hdr;
            (*to).msg_name = (*from).msg_name;
            (*to).msg_namelen = (*from).msg_namelen;
            (*to).msg_iov = slice;
            (*to).msg_iovlen = 1;
            (*to).msg_control = ptr::null_mut();
            (*to).msg_controllen = 0;
        }
        if self.addressing == Addressing::PerDatagramAndLocal {
            self.stage_local_address(i, k);
        }
        self.staged = k + 1;
    }

    /// Has the `k`-th staged datagram sent from the address that the `i`-th received one was sent to.
    fn stage_local_address(&mut self, i: usize, k: usize) {
        let control_len = self.prepare_control(i);
        let storage = self.storage.as_ptr();
        // SAFETY: the caller has checked `i` and `k`; the pointer is to a control buffer inside `storage`, see
        // `describe`.
        unsafe {
            let to = &raw mut (*storage).send_headers[k].msg_hdr;
            (*to).msg_control =
                if control_len > 0 { (&raw mut (*storage).controls[i]).cast() } else { ptr::null_mut() };
            (*to).msg_controllen = control_len;
        }
    }

    /// Makes what the kernel reported of the `i`-th datagram's local address fit for a send, and returns its length, 0
    /// if there is none.
    ///
    /// What the kernel reports at a receive is of the form that it takes at a send. Only the interface is taken out of
    /// it, since the way back may lead through another, unless the address means nothing without (fe80::/10).
    fn prepare_control(&mut self, i: usize) -> usize {
        let storage = self.storage.as_ptr();
        // SAFETY: the caller has checked `i`. The control buffer is as large as asserted above, zeroed at allocation,
        // and aligned for its header; the header's level and type say which structure follows it.
        unsafe {
            let control_len = (*storage).receive_headers[i].msg_hdr.msg_controllen;
            if control_len < size_of::<libc::cmsghdr>() {
                return 0; // nothing reported
            }
            let header = (&raw mut (*storage).controls[i]).cast::<libc::cmsghdr>();
            let data = libc::CMSG_DATA(header);
            match ((*header).cmsg_level, (*header).cmsg_type) {
                (libc::IPPROTO_IP, libc::IP_PKTINFO) => (*data.cast::<libc::in_pktinfo>()).ipi_ifindex = 0,
                (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                    let info = data.cast::<libc::in6_pktinfo>();
                    let [a, b, ..] = (*info).ipi6_addr.s6_addr;
                    if (a, b & 0xc0) != (0xfe, 0x80) {
                        (*info).ipi6_ifindex = 0;
                    }
                }
                _ => return 0,
            }
            control_len.min(CONTROL_LEN)
        }
    }

    /// Where an answer to the `i`-th datagram of the last [`receive`](Self::receive) has to go, for later.
    ///
    /// # Panics
    /// If `i` is not below [`BATCH_LEN`].
    #[must_use]
    pub fn return_address(&mut self, i: usize) -> ReturnAddress {
        assert!(i < BATCH_LEN);
        let local = self.addressing == Addressing::PerDatagramAndLocal;
        let control_len = if local { self.prepare_control(i) } else { 0 };
        let storage = self.storage.as_ptr();
        // SAFETY: `i < BATCH_LEN`, and all bytes are initialised (zeroed at allocation).
        unsafe {
            let peer_len = (*storage).receive_headers[i].msg_hdr.msg_namelen;
            ReturnAddress {
                peer: (*storage).peers[i],
                peer_len,
                control: (*storage).controls[i],
                control_len,
            }
        }
    }

    /// The buffer for the next datagram to be [staged](Self::stage_to), when nothing that was received is needed any
    /// more; `None` if as many as a batch can hold are staged.
    pub fn compose(&mut self) -> Option<&mut [u8; BUFFER_LEN]> {
        if self.staged == BATCH_LEN {
            return None;
        }
        // SAFETY: `staged < BATCH_LEN`, and `&mut self` makes this borrow of the buffer the only one, as in `datagram`.
        Some(unsafe { &mut (*self.storage.as_ptr()).buffers[self.staged].0 })
    }

    /// Stages the first `len` bytes of the buffer that [`compose`](Self::compose) has given.
    ///
    /// # Panics
    /// If a batch is staged already, or `len` exceeds [`BUFFER_LEN`].
    pub fn stage_to(&mut self, len: usize, to: &ReturnAddress) {
        let k = self.staged;
        assert!(k < BATCH_LEN && len <= BUFFER_LEN);
        let storage = self.storage.as_ptr();
        // SAFETY: `k` is below BATCH_LEN, `len` within the buffer, and the lengths of address and control are those of
        // what is copied to where their pointers go.
        unsafe {
            (*storage).peers[k] = to.peer;
            (*storage).controls[k] = to.control;
            let slice = &raw mut (*storage).send_slices[k];
            (*slice).iov_base = (&raw mut (*storage).buffers[k]).cast();
            (*slice).iov_len = len;
            let header = &raw mut (*storage).send_headers[k].msg_hdr;
            (*header).msg_name = (&raw mut (*storage).peers[k]).cast();
            (*header).msg_namelen = to.peer_len;
            (*header).msg_iov = slice;
            (*header).msg_iovlen = 1;
            (*header).msg_control =
                if to.control_len > 0 { (&raw mut (*storage).controls[k]).cast() } else { ptr::null_mut() };
            (*header).msg_controllen = to.control_len;
        }
        self.staged = k + 1;
    }

    /// Datagrams staged since the last receive or [`clear`](Self::clear), or the messages that [`group`](Self::group)
    /// has made of them.
    #[must_use]
    pub fn staged(&self) -> usize {
        self.staged
    }

    /// Forgets what is staged.
    pub fn clear(&mut self) {
        self.staged = 0;
    }

    #[allow(clippy::cast_possible_truncation)] // 64 at most
    /// Sends the staged messages from number `first` on with one system call and returns how many went. What cannot be
    /// sent as a [group](Self::group) is staged as single datagrams again, and sent so.
    ///
    /// # Errors
    /// The error of message `first` itself, a datagram, when not even that one could be sent. An error of a later one
    /// ends the call early and is returned by the next call, which begins there.
    pub fn send_from(&mut self, socket: BorrowedFd<'_>, first: usize) -> io::Result<usize> {
        loop {
            let count = self.staged.saturating_sub(first);
            if count == 0 {
                return Ok(0);
            }
            let storage = self.storage.as_ptr();
            // SAFETY: `first + count <= BATCH_LEN`; the headers point into `storage`, and `&mut self` keeps everything
            // else away from it during the call. The descriptor is open as long as it is borrowed.
            let n = unsafe {
                let headers = (&raw mut (*storage).send_headers[first]).cast();
                libc::sendmmsg(socket.as_raw_fd(), headers, count as libc::c_uint, libc::MSG_DONTWAIT as _)
            };
            match usize::try_from(n).map_err(|_| io::Error::last_os_error()) {
                Err(error) if self.ungroup(first, &error) => {}
                result => return result,
            }
        }
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout and freed only here; `Storage` holds nothing that needs a drop.
        unsafe { dealloc(self.storage.as_ptr().cast(), Layout::new::<Storage>()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn datagrams_are_received_answered_in_place_and_sent_back_to_each_peer() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let server = UdpSocket::bind(address).unwrap();
            let clients: Vec<_> = (0..3).map(|_| UdpSocket::bind(address).unwrap()).collect();
            for (i, client) in clients.iter().enumerate() {
                client.send_to(&[b'a', u8::try_from(i).unwrap()], server.local_addr().unwrap()).unwrap();
            }
            let mut batch = Batch::new(Addressing::PerDatagram);
            assert_eq!(batch.receive(server.as_fd(), Wait::ForOne).unwrap(), 3);
            for (i, client) in clients.iter().enumerate() {
                assert_eq!(batch.peer(i), Some(client.local_addr().unwrap()));
                let datagram = batch.datagram(i);
                assert_eq!((datagram.len, datagram.truncated), (2, false));
                datagram.buffer[0] = b'b';
            }
            // The one in the middle is dropped: what is staged need not be what was received.
            batch.stage(0, 2);
            batch.stage(2, 1);
            assert_eq!(batch.send_from(server.as_fd(), 0).unwrap(), 2);
            let mut reply = [0; 8];
            assert_eq!(clients[0].recv(&mut reply).unwrap(), 2);
            assert_eq!(reply[..2], [b'b', 0]);
            assert_eq!(clients[2].recv(&mut reply).unwrap(), 1);
            assert_eq!(
                batch.receive(server.as_fd(), Wait::Never).unwrap_err().kind(),
                io::ErrorKind::WouldBlock
            );
        }
    }

    #[test]
    fn answers_leave_from_the_address_that_was_asked() {
        for (all, asked) in [("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "::1")] {
            let server = UdpSocket::bind(all).unwrap();
            report_local_address(server.as_fd(), &server.local_addr().unwrap()).unwrap();
            let target = SocketAddr::new(asked.parse().unwrap(), server.local_addr().unwrap().port());
            let client = UdpSocket::bind(if target.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap();
            let mut batch = Batch::new(Addressing::PerDatagramAndLocal);
            for round in 0..3 {
                client.send_to(&[round], target).unwrap();
                assert_eq!(batch.receive(server.as_fd(), Wait::ForOne).unwrap(), 1);
                batch.stage(0, 1);
                assert_eq!(batch.send_from(server.as_fd(), 0).unwrap(), 1);
                let mut reply = [9; 2];
                assert_eq!(client.recv_from(&mut reply).unwrap(), (1, target));
                assert_eq!(reply[0], round);
            }
        }
    }

    #[test]
    fn an_answer_can_be_sent_later_to_where_its_question_came_from() {
        for (all, asked) in [("127.0.0.1:0", "127.0.0.1"), ("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "::1")] {
            let server = UdpSocket::bind(all).unwrap();
            let bound = server.local_addr().unwrap();
            let addressing = if bound.ip().is_unspecified() {
                report_local_address(server.as_fd(), &bound).unwrap();
                Addressing::PerDatagramAndLocal
            } else {
                Addressing::PerDatagram
            };
            let target = SocketAddr::new(asked.parse().unwrap(), bound.port());
            let clients: Vec<_> = (0..3)
                .map(|_| UdpSocket::bind(if target.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" }).unwrap())
                .collect();
            let mut batch = Batch::new(addressing);
            let mut later = Vec::new();
            for client in &clients {
                client.send_to(&[1], target).unwrap();
                batch.receive(server.as_fd(), Wait::ForOne).unwrap();
                later.push(batch.return_address(0));
            }
            batch.clear();
            // One that nobody has asked for, too.
            later.push(ReturnAddress::to(clients[0].local_addr().unwrap()));
            for (i, to) in later.iter().enumerate().rev() {
                batch.compose().unwrap()[0] = u8::try_from(i).unwrap();
                batch.stage_to(1, to);
            }
            assert_eq!(batch.send_from(server.as_fd(), 0).unwrap(), later.len());
            let mut reply = [9; 2];
            clients[0].recv_from(&mut reply).unwrap();
            assert_eq!(reply[0], 3);
            for (i, client) in clients.iter().enumerate() {
                assert_eq!(client.recv_from(&mut reply).unwrap(), (1, target));
                assert_eq!(usize::from(reply[0]), i);
            }
        }
    }

    #[test]
    fn datagrams_leave_from_the_address_that_is_said() {
        for (all, server, sources) in
            [("0.0.0.0:0", "127.0.0.1:0", &["127.1.2.3", "127.250.0.9"][..]), ("[::]:0", "[::1]:0", &["::1"])]
        {
            let server = UdpSocket::bind(server).unwrap();
            let client = UdpSocket::bind(all).unwrap();
            let port = client.local_addr().unwrap().port();
            let mut batch = Batch::new(Addressing::PerDatagram);
            let to = ReturnAddress::to(server.local_addr().unwrap());
            for source in sources {
                batch.compose().unwrap()[0] = 7;
                batch.stage_to(1, &to.from_source(source.parse().unwrap()));
            }
            assert_eq!(batch.send_from(client.as_fd(), 0).unwrap(), sources.len());
            for source in sources {
                let from = server.recv_from(&mut [0; 2]).unwrap().1;
                assert_eq!(from, SocketAddr::new(source.parse().unwrap(), port));
                server.send_to(&[8], from).unwrap();
            }
            // What is sent back comes to the one socket.
            let mut received = 0;
            while received < sources.len() {
                let now = batch.receive(client.as_fd(), Wait::ForOne).unwrap();
                (0..now).for_each(|i| assert_eq!(batch.peer(i), Some(server.local_addr().unwrap())));
                received += now;
            }
        }
    }

    #[test]
    fn a_datagram_longer_than_the_buffer_is_marked_truncated() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(&[7; BUFFER_LEN + 1], server.local_addr().unwrap()).unwrap();
        let mut batch = Batch::new(Addressing::PerDatagram);
        batch.receive(server.as_fd(), Wait::ForOne).unwrap();
        let datagram = batch.datagram(0);
        assert_eq!((datagram.len, datagram.truncated), (BUFFER_LEN, true));
    }
}
