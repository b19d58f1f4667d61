//! Datagrams taken from the kernel several at a time (UDP_GRO, udp(7)): those of one sender and one length that came
//! together, as a server's answers do that were sent as one message. The kernel then does not cut them apart for us.
//!
//! Runs on whichever thread owns the [`GroupReceiver`]: one of the load generator.
#![allow(unsafe_code)]

use std::io;
use std::mem::zeroed;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use super::{BATCH_LEN, CONTROL_LEN, Control};

/// Bytes of a group at most: the kernel makes none that is longer than a datagram can be.
const GROUP_LEN: usize = 65_536;

/// From one buffer to the next. Not a power of two, for the reason given at [`BUFFER_LEN`](super::BUFFER_LEN).
const STRIDE: usize = GROUP_LEN + 64;

/// Groups asked for at least.
const FEWEST: usize = 8;

/// Receives on connected sockets that [hand over groups](hand_over_groups).
pub struct GroupReceiver {
    /// Touched as far as it is used, and no further.
    buffers: Box<[u8]>,
    controls: Box<[Control; BATCH_LEN]>,
    /// Bytes of each group, and of each datagram in it.
    lens: [(usize, usize); BATCH_LEN],
    received: usize,
    /// Groups that the last call asked for: as many as come, and some more.
    asked: usize,
}

impl GroupReceiver {
    /// Without anything received.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffers: vec![0; STRIDE * BATCH_LEN].into(),
            controls: Box::new([Control([0; CONTROL_LEN]); BATCH_LEN]),
            lens: [(0, 0); BATCH_LEN],
            received: 0,
            asked: FEWEST,
        }
    }

    /// Receives what is there with one system call, without waiting. Returns whether there may be more.
    ///
    /// # Errors
    /// As [`Batch::receive`](super::Batch::receive).
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<bool> {
        self.received = 0;
        // SAFETY: all bytes zero are valid for both, which are pointers and numbers.
        let (mut slices, mut headers): ([libc::iovec; BATCH_LEN], [libc::mmsghdr; BATCH_LEN]) =
            unsafe { zeroed() };
        let parts = self.buffers.chunks_exact_mut(STRIDE).zip(self.controls.iter_mut());
        for ((slice, header), (buffer, control)) in
            slices.iter_mut().zip(&mut headers).zip(parts).take(self.asked)
        {
            *slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: GROUP_LEN };
            header.msg_hdr.msg_iov = slice;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = (&raw mut control.0).cast();
            header.msg_hdr.msg_controllen = CONTROL_LEN;
        }
        // SAFETY: the first `asked` headers point to slices and buffers that live until the call has returned, and that
        // nothing else has: they are ours, and borrowed mutably. The descriptor is open as long as it is borrowed.
        let n = unsafe {
            #[allow(clippy::cast_possible_truncation)] // 64 at most
            let asked = self.asked as libc::c_uint;
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                asked,
                libc::MSG_DONTWAIT as _,
                ptr::null_mut(),
            )
        };
        let received = usize::try_from(n).map_err(|_| io::Error::last_os_error())?;
        for (lens, header) in self.lens.iter_mut().zip(&headers[..received]) {
            let len = header.msg_len as usize;
            *lens = (len, datagram_len(&header.msg_hdr).unwrap_or(len).max(1));
        }
        self.received = received;
        let may_be_more = received == self.asked;
        self.asked = (2 * received).clamp(FEWEST, BATCH_LEN);
        Ok(may_be_more)
    }

    /// The datagrams of the last [`receive`](Self::receive), in the order in which they came.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let groups = self.buffers.chunks_exact(STRIDE).zip(&self.lens[..self.received]);
        groups.flat_map(|(buffer, &(len, each))| buffer[..len.min(GROUP_LEN)].chunks(each))
    }
}

impl Default for GroupReceiver {
    fn default() -> Self {
        Self::new()
    }
}

/// How long each datagram of a group is, but for the last; none if it is one datagram.
fn datagram_len(message: &libc::msghdr) -> Option<usize> {
    if message.msg_controllen < size_of::<libc::cmsghdr>() {
        return None;
    }
    // SAFETY: the kernel has written a control message there, whose header says what it is; the buffer is larger than
    // the two, and aligned for the header.
    unsafe {
        let header = message.msg_control.cast::<libc::cmsghdr>();
        if ((*header).cmsg_level, (*header).cmsg_type) != (libc::SOL_UDP, libc::UDP_GRO) {
            return None;
        }
        usize::try_from(libc::CMSG_DATA(header).cast::<libc::c_int>().read_unaligned()).ok()
    }
}

/// Has the kernel hand over groups, for a [`GroupReceiver`].
///
/// # Errors
/// Those of setsockopt(2): kernels before 5.0 do not know it.
pub fn hand_over_groups(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    #[allow(clippy::cast_possible_truncation)] // 4
    let len = size_of_val(&on) as libc::socklen_t;
    // SAFETY: the option's value is the `c_int` behind the pointer, whose size is given.
    let set = unsafe {
        let value = (&raw const on).cast();
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, value, len)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::super::{Addressing, Batch, Wait};
    use super::*;
    use std::net::UdpSocket;
    use std::os::fd::AsFd;

    #[test]
    fn what_was_sent_as_one_message_comes_as_it_was_before() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.connect(server.local_addr().unwrap()).unwrap();
        hand_over_groups(client.as_fd()).unwrap();
        let mut groups = GroupReceiver::new();
        assert_eq!(groups.receive(client.as_fd()).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(groups.datagrams().count(), 0);
        let mut batch = Batch::new(Addressing::PerDatagram);
        for round in 0..3u8 {
            for number in 0..60u8 {
                client.send(&[number]).unwrap();
            }
            assert_eq!(batch.receive(server.as_fd(), Wait::ForOne).unwrap(), 60);
            for number in 0..60usize {
                // Two lengths, so two groups, in whose middle a third is that goes alone.
                let len = [30, 50][number % 2] + usize::from(number == 7);
                batch.datagram(number).buffer[..len].fill(u8::try_from(number).unwrap() + round);
                batch.stage(number, len);
            }
            batch.group();
            assert_eq!(batch.staged(), 3);
            assert_eq!(batch.send_from(server.as_fd(), 0).unwrap(), 3);
            let mut got = Vec::new();
            while got.len() < 60 {
                match groups.receive(client.as_fd()) {
                    Ok(_) => got.extend(groups.datagrams().map(<[u8]>::to_vec)),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
            got.sort_by_key(|datagram| datagram[0]);
            for (number, datagram) in got.iter().enumerate() {
                let len = [30, 50][number % 2] + usize::from(number == 7);
                assert_eq!(*datagram, vec![u8::try_from(number).unwrap() + round; len]);
            }
        }
    }
}
