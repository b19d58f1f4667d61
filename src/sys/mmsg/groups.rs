//! Datagrams of equal length for one peer sent as one message, which the kernel cuts apart again (UDP_SEGMENT, udp(7)):
//! its way down and through the network's stack is gone once for all of them.
//!
//! Runs on whichever thread owns the [`Batch`].
#![allow(unsafe_code)]

use std::{io, ptr};

use super::{Addressing, BATCH_LEN, Batch};

/// Bytes of payload of one message at most: IPv4 has no room for more than 65,507.
const MAX_MESSAGE_LEN: usize = 65_000;

/// Places for groups by a hash of peer and length, and how many of them are tried. Where all of these are taken,
/// another group is driven out, which costs a message.
const PLACES: usize = 128;
const TRIES: usize = 4;

/// No datagram, or no group.
const NONE: u8 = u8::MAX;

const _: () = assert!(BATCH_LEN < NONE as usize);

/// Datagrams that go together, by their numbers: the first and the last; each knows the next one.
#[derive(Clone, Copy)]
struct Group {
    first: u8,
    last: u8,
    count: u8,
}

impl Batch {
    /// Has what is staged be fewer messages, where some of it is for the same peer and equally long. Such datagrams
    /// keep their order among each other. Nothing more can be staged then. Does nothing where datagrams have to leave
    /// from the address that was asked.
    pub fn group(&mut self) {
        if !self.groups || self.addressing != Addressing::PerDatagram {
            return;
        }
        let mut groups = [Group { first: 0, last: 0, count: 0 }; BATCH_LEN];
        let mut next = [NONE; BATCH_LEN];
        let mut places = [NONE; PLACES];
        let mut len = 0;
        for k in 0..self.staged {
            #[allow(clippy::cast_possible_truncation)] // asserted above
            let number = k as u8;
            let home = self.place_of(k);
            let tried = || (0..TRIES).map(|i| (home + i) % PLACES);
            let fitting = tried().map(|place| usize::from(places[place])).find(|&group| {
                groups[..len].get(group).is_some_and(|it| self.fits(usize::from(it.first), k, it.count))
            });
            if let Some(group) = fitting {
                let group = &mut groups[group];
                next[usize::from(group.last)] = number;
                (group.last, group.count) = (number, group.count + 1);
                continue;
            }
            let place = tried().find(|&place| places[place] == NONE).unwrap_or(home);
            #[allow(clippy::cast_possible_truncation)] // no more groups than datagrams
            let group = len as u8;
            places[place] = group;
            groups[len] = Group { first: number, last: number, count: 1 };
            len += 1;
        }
        if len < self.staged {
            self.arrange(&groups[..len], &next);
        }
    }

    /// Where a group with the peer and length of the `k`-th staged datagram is looked for.
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // below `PLACES`
    fn place_of(&self, k: usize) -> usize {
        let (peer, len) = self.peer_and_len(k);
        let address = match libc::c_int::from(peer.sin6_family) {
            libc::AF_INET6 => peer.sin6_addr.s6_addr.last_chunk().map_or(0, |tail| u32::from_le_bytes(*tail)),
            _ => peer.sin6_flowinfo, // where a `sockaddr_in` has its address
        };
        let mixed = (u64::from(address) << 32 | u64::from(peer.sin6_port) << 16 | len as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> (64 - PLACES.ilog2())) as usize
    }

    /// Whether the `k`-th staged datagram can go with the `first` of `count` of them.
    #[inline]
    fn fits(&self, first: usize, k: usize, count: u8) -> bool {
        let ((first, first_len), (peer, len)) = (self.peer_and_len(first), self.peer_and_len(k));
        // What of a `sockaddr_in6` is all of a `sockaddr_in`, and the rest of it.
        let start = |peer: &libc::sockaddr_in6| (peer.sin6_family, peer.sin6_port, peer.sin6_flowinfo);
        let rest = |peer: &libc::sockaddr_in6| (peer.sin6_addr.s6_addr, peer.sin6_scope_id);
        len == first_len
            && start(peer) == start(first)
            && (libc::c_int::from(peer.sin6_family) != libc::AF_INET6 || rest(peer) == rest(first))
            && len * (usize::from(count) + 1) <= MAX_MESSAGE_LEN
    }

    /// Whom the `k`-th staged datagram is for, and its length.
    #[inline]
    fn peer_and_len(&self, k: usize) -> (&libc::sockaddr_in6, usize) {
        let storage = self.storage.as_ptr();
        // SAFETY: `k < staged <= BATCH_LEN`, which the accesses check. The name of what is staged points to one of the
        // peers, since the caller has checked how this batch is addressed; they are initialised (zeroed at allocation)
        // and written only through `&mut self`.
        unsafe {
            let peer = (*storage).send_headers[k].msg_hdr.msg_name.cast::<libc::sockaddr_in6>();
            (&*peer, (*storage).send_slices[k].iov_len)
        }
    }

    /// Makes a message of each group, whose datagrams lead from one to the `next`.
    #[allow(clippy::cast_possible_truncation)] // 2 bytes, and the length of a datagram
    fn arrange(&mut self, groups: &[Group], next: &[u8; BATCH_LEN]) {
        let storage = self.storage.as_ptr();
        // SAFETY: groups and chains have numbers below `staged <= BATCH_LEN`, each once, so `at` stays below it, too.
        // Headers are read from copies, since messages get numbers that datagrams have had. Control buffers are as
        // large as asserted beside them, and not used otherwise by a batch without local addresses.
        unsafe {
            let (slices, headers) = ((*storage).send_slices, (*storage).send_headers);
            let mut at = 0;
            for (g, group) in groups.iter().enumerate() {
                let header = &raw mut (*storage).send_headers[g].msg_hdr;
                let first = &headers[usize::from(group.first)].msg_hdr;
                ((*header).msg_name, (*header).msg_namelen) = (first.msg_name, first.msg_namelen);
                (*header).msg_iov = &raw mut (*storage).send_slices[at];
                (*header).msg_iovlen = usize::from(group.count);
                if group.count > 1 {
                    let control = (&raw mut (*storage).controls[g]).cast::<libc::cmsghdr>();
                    (*control).cmsg_level = libc::SOL_UDP;
                    (*control).cmsg_type = libc::UDP_SEGMENT;
                    (*control).cmsg_len = libc::CMSG_LEN(size_of::<u16>() as u32) as usize;
                    let len = slices[usize::from(group.first)].iov_len as u16;
                    libc::CMSG_DATA(control).cast::<u16>().write_unaligned(len);
                    (*header).msg_control = control.cast();
                    (*header).msg_controllen = libc::CMSG_SPACE(size_of::<u16>() as u32) as usize;
                }
                let mut k = group.first;
                for _ in 0..group.count {
                    (*storage).send_slices[at] = slices[usize::from(k)];
                    (at, k) = (at + 1, next[usize::from(k)]);
                }
            }
        }
        self.staged = groups.len();
    }

    /// After an `error` of the `first`-th message: if that is a group, makes all from it on messages of one datagram
    /// again. If it was for being a group, as where the network device leaves checksums to nobody, there are no groups
    /// any more. Says whether it was a group.
    pub(super) fn ungroup(&mut self, first: usize, error: &io::Error) -> bool {
        let storage = self.storage.as_ptr();
        // SAFETY: `first < staged <= BATCH_LEN`, which the slice access checks. Each message's slices are within those
        // of the batch, in the order of the messages, so there are no more than `BATCH_LEN` datagrams.
        unsafe {
            let headers = (*storage).send_headers;
            let messages = &headers[first..self.staged];
            if messages.first().is_none_or(|message| message.msg_hdr.msg_iovlen < 2) {
                return false;
            }
            let mut at = first;
            for message in messages {
                for i in 0..message.msg_hdr.msg_iovlen {
                    let header = &raw mut (*storage).send_headers[at].msg_hdr;
                    *header = message.msg_hdr;
                    (*header).msg_iov = message.msg_hdr.msg_iov.add(i);
                    (*header).msg_iovlen = 1;
                    ((*header).msg_control, (*header).msg_controllen) = (ptr::null_mut(), 0);
                    at += 1;
                }
            }
            self.staged = at;
        }
        let not_possible = [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::EOPNOTSUPP, libc::ENOPROTOOPT];
        self.groups &= !error.raw_os_error().is_some_and(|code| not_possible.contains(&code));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::fd::{AsFd, AsRawFd};

    use super::super::Wait;
    use super::*;

    /// Answers `asked`, pairs of a client and the length of its answer, in one batch; checks what comes, and returns
    /// how many messages that was and whether there may be groups afterwards.
    fn answer(address: &str, asked: &[(usize, usize)], without_checksums: bool) -> (usize, bool) {
        let server = UdpSocket::bind(address).unwrap();
        if without_checksums {
            let on: libc::c_int = 1;
            // SAFETY: the option's value is the `c_int` behind the pointer, whose size is given.
            let set = unsafe {
                let value = (&raw const on).cast();
                libc::setsockopt(server.as_raw_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, value, 4)
            };
            assert_eq!(set, 0);
        }
        let clients: Vec<_> = (0..4).map(|_| UdpSocket::bind(address).unwrap()).collect();
        let mut batch = Batch::new(Addressing::PerDatagram);
        for (i, (client, _)) in asked.iter().enumerate() {
            let number = u8::try_from(i).unwrap();
            clients[*client].send_to(&[number], server.local_addr().unwrap()).unwrap();
        }
        assert_eq!(batch.receive(server.as_fd(), Wait::ForOne).unwrap(), asked.len());
        for (i, (_, len)) in asked.iter().enumerate() {
            let number = u8::try_from(i).unwrap();
            batch.datagram(i).buffer[..*len].fill(number);
            batch.stage(i, *len);
        }
        batch.group();
        let (messages, mut next) = (batch.staged(), 0);
        while next < batch.staged() {
            match batch.send_from(server.as_fd(), next) {
                Ok(sent) => next += sent,
                Err(error) => panic!("{error}"),
            }
        }
        for (client, socket) in clients.iter().enumerate() {
            socket.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
            let expected = asked.iter().enumerate().filter(|(_, (to, _))| *to == client);
            let mut expected: Vec<_> =
                expected.map(|(i, (_, len))| vec![u8::try_from(i).unwrap(); *len]).collect();
            let mut got: Vec<_> = expected
                .iter()
                .map(|_| {
                    let mut bytes = [0; 2000];
                    let len = socket.recv(&mut bytes).unwrap();
                    bytes[..len].to_vec()
                })
                .collect();
            expected.sort();
            got.sort();
            assert_eq!(got, expected);
        }
        (messages, batch.groups)
    }

    #[test]
    fn what_is_equally_long_and_for_one_peer_goes_as_one_and_comes_as_many() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let alone = [(0, 50), (1, 50), (2, 50), (0, 51)];
            assert_eq!(answer(address, &alone, false), (4, true));
            let mixed: Vec<_> = (0..BATCH_LEN).map(|i| (i % 4, if i % 3 == 0 { 90 } else { 60 })).collect();
            let (messages, groups) = answer(address, &mixed, false);
            assert!((8..16).contains(&messages) && groups, "{messages}");
            // So many are too long for one message.
            let long = [(0, 1400); BATCH_LEN];
            assert_eq!(answer(address, &long, false), (2, true));
        }
    }

    #[test]
    fn where_the_kernel_makes_no_groups_each_goes_alone() {
        let asked: Vec<_> = (0..BATCH_LEN).map(|i| (i % 3, 40 + i % 2)).collect();
        let (messages, groups) = answer("127.0.0.1:0", &asked, true);
        assert!(messages < 16 && !groups, "{messages}");
    }
}
