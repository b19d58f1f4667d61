//! Writing a response in place: over the query's own buffer, behind the question that is already there.
//!
//! Runs on the workers, for every packet. Nothing is copied that the query brought: the id, the question (byte for
//! byte, so its case is kept as RFC 4343 and 0x20 clients want it) and the flags that a response repeats stay put.

use super::edns::{CLIENT_COOKIE_LEN, Edns, ExtendedError, MAX_NSID_LEN, Options, SERVER_COOKIE_LEN};
use super::header::{self, rcode};
use super::name::MAX_LEN;
use super::query::Query;
use super::record::rtype;

/// Bytes of the OPT record in a response, without its options.
const OPT_LEN: usize = 11;

/// Bytes of the option that explains a response code.
const EXTENDED_ERROR_LEN: usize = 6;

/// Bytes of all options but that one, at most.
const MAX_OPTIONS_LEN: usize = 4 + CLIENT_COOKIE_LEN + SERVER_COOKIE_LEN + 4 + MAX_NSID_LEN + 6;

const _: () = assert!(header::LEN + MAX_LEN + 4 + OPT_LEN + MAX_OPTIONS_LEN <= CLASSIC_UDP_LEN);

/// Bytes of UDP payload that every client takes (RFC 1035 §4.2.1).
const CLASSIC_UDP_LEN: usize = 512;

/// Bytes of UDP payload that we send and announce at most: what crosses today's networks without fragmentation
/// (DNS Flag Day 2020).
pub const MAX_UDP_LEN: u16 = 1232;

/// The extended response code BADVERS, 16 (RFC 6891 §9): 0 in the header, 1 in the OPT record.
const BADVERS_HIGH: u8 = 1;

/// How a message travels, which decides how long a response may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram: 512 bytes, or what the client announced by EDNS(0), up to [`MAX_UDP_LEN`].
    Udp,
    /// A stream with length-prefixed messages (RFC 7766): 65,535 bytes.
    Tcp,
}

/// A response under construction. Records go in by section, answers first.
pub struct Response<'a> {
    buffer: &'a mut [u8],
    /// Where the next record goes.
    end: usize,
    /// Where records must end, the room for the OPT record already taken off.
    limit: usize,
    edns: Option<Edns>,
    options: Options<'a>,
    answers: u16,
    authorities: u16,
    truncated: bool,
    extended_rcode: u8,
}

impl<'a> Response<'a> {
    /// Begins the response to `query`, which stands in `buffer`. The `options` go out only to who speaks EDNS.
    #[inline]
    pub fn new(buffer: &'a mut [u8], query: &Query, transport: Transport, options: Options<'a>) -> Self {
        let wanted = match (transport, query.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => CLASSIC_UDP_LEN,
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.udp_payload_size.min(MAX_UDP_LEN)).max(CLASSIC_UDP_LEN)
            }
        };
        let reserved = if query.edns.is_some() { OPT_LEN + options.len() } else { 0 };
        let limit = wanted.min(buffer.len()) - reserved;
        Self {
            buffer,
            end: query.question_end,
            limit,
            edns: query.edns,
            options,
            answers: 0,
            authorities: 0,
            truncated: false,
            extended_rcode: 0,
        }
    }

    /// Bytes that records may still take.
    #[inline]
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.end)
    }

    /// Adds `count` answers of `len` bytes together, which `fill` writes.
    ///
    /// # Panics
    /// If they do not fit in [`room`](Self::room).
    #[inline]
    pub fn answer_with(&mut self, count: u16, len: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(len <= self.room());
        fill(&mut self.buffer[self.end..self.end + len]);
        self.end += len;
        self.answers += count;
    }

    /// Adds one record to the authority section if it fits: a negative answer without its SOA is still an answer.
    #[inline]
    pub fn authority(&mut self, record: &[u8]) {
        if record.len() <= self.room() {
            self.buffer[self.end..self.end + record.len()].copy_from_slice(record);
            self.end += record.len();
            self.authorities += 1;
        }
    }

    /// Says that records were left out for want of room (TC).
    #[inline]
    pub fn set_truncated(&mut self) {
        self.truncated = true;
    }

    /// Says why the response code is what it is (RFC 8914), where the client can read it and there is room.
    #[inline]
    pub fn explain(&mut self, error: ExtendedError) {
        if self.options.error.is_none() && self.room() >= EXTENDED_ERROR_LEN {
            self.options.error = Some(error);
            self.limit -= EXTENDED_ERROR_LEN;
        }
    }

    /// Says that the client's EDNS version is not known (RFC 6891 §6.1.3).
    pub fn set_bad_version(&mut self) {
        self.extended_rcode = BADVERS_HIGH;
    }

    /// Writes flags, counts and the OPT record; returns the message's length.
    #[inline]
    #[must_use]
    pub fn finish(mut self, code: u8, authoritative: bool) -> usize {
        let aa = if authoritative { header::AA } else { 0 };
        let tc = if self.truncated { header::TC } else { 0 };
        let (flags, counts) = self.buffer[2..header::LEN].split_at_mut(2);
        flags[0] = header::QR | aa | tc | (flags[0] & header::RD);
        // CD is between resolvers; an answer from our own data clears it (RFC 4035 §3.1.6).
        flags[1] = if authoritative { code } else { (flags[1] & header::CD) | code };
        counts[..2].copy_from_slice(&1u16.to_be_bytes());
        counts[2..4].copy_from_slice(&self.answers.to_be_bytes());
        counts[4..6].copy_from_slice(&self.authorities.to_be_bytes());
        counts[6..8].copy_from_slice(&u16::from(self.edns.is_some()).to_be_bytes());
        if let Some(edns) = self.edns {
            self.opt(edns);
        }
        self.end
    }

    #[inline]
    fn opt(&mut self, edns: Edns) {
        let [type_high, type_low] = rtype::OPT.to_be_bytes();
        let [size_high, size_low] = MAX_UDP_LEN.to_be_bytes();
        let dnssec_ok = if edns.dnssec_ok { 0x80 } else { 0 };
        let options_len = self.options.len();
        #[allow(clippy::cast_possible_truncation)] // some hundred bytes
        let [len_high, len_low] = (options_len as u16).to_be_bytes();
        let record: [u8; OPT_LEN] = [
            0,
            type_high,
            type_low,
            size_high,
            size_low,
            self.extended_rcode,
            0,
            dnssec_ok,
            0,
            len_high,
            len_low,
        ];
        self.buffer[self.end..self.end + OPT_LEN].copy_from_slice(&record);
        self.end += OPT_LEN;
        if options_len > 0 {
            self.options.write(&mut self.buffer[self.end..self.end + options_len]);
            self.end += options_len;
        }
    }
}

/// Turns a message that could not be parsed into a bare header that says so, never longer than what came.
#[inline]
#[must_use]
pub fn header_only(buffer: &mut [u8], code: u8) -> usize {
    debug_assert!(code != rcode::NOERROR);
    buffer[2] = header::QR | (buffer[2] & (header::OPCODE_MASK | header::RD));
    buffer[3] = (buffer[3] & header::CD) | code;
    buffer[4..header::LEN].fill(0);
    header::LEN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::{HashSeed, QueryName};
    use crate::wire::query::MIN_BUFFER_LEN;

    fn query(edns: Option<Edns>) -> (Vec<u8>, Query) {
        let mut buffer = vec![0; 4096];
        let message = b"\x12\x34\x01\x10\0\x01\0\0\0\0\0\0\x03wEb\0\0\x01\0\x01";
        buffer[..message.len()].copy_from_slice(message);
        let mut query =
            Query::parse(&buffer, message.len(), &mut QueryName::default(), HashSeed::from_words(1, 2))
                .unwrap();
        query.edns = edns;
        (buffer, query)
    }

    #[test]
    fn the_response_keeps_id_question_and_rd_and_clears_cd_if_it_is_authoritative() {
        let (mut buffer, query) = query(None);
        let mut response = Response::new(&mut buffer, &query, Transport::Udp, Options::default());
        response.answer_with(1, 3, |out| out.copy_from_slice(b"xyz"));
        assert_eq!(response.finish(rcode::NOERROR, true), 24);
        assert_eq!(&buffer[..24], b"\x12\x34\x85\x00\0\x01\0\x01\0\0\0\0\x03wEb\0\0\x01\0\x01xyz");
    }

    #[test]
    fn room_follows_the_transport_and_what_the_client_can_take() {
        let edns = |udp_payload_size| Some(Edns { udp_payload_size, dnssec_ok: true, ..Edns::default() });
        for (transport, edns, total) in [
            (Transport::Udp, None, 512),
            (Transport::Udp, edns(0), 512),
            (Transport::Udp, edns(600), 600),
            (Transport::Udp, edns(65535), usize::from(MAX_UDP_LEN)),
            (Transport::Tcp, edns(512), 4096),
        ] {
            let (mut buffer, query) = query(edns);
            let mut response = Response::new(&mut buffer, &query, transport, Options::default());
            let room = response.room();
            response.answer_with(1, room, |out| out.fill(7));
            response.authority(b"does not fit");
            assert_eq!(response.finish(rcode::NOERROR, true), total);
        }
    }

    #[test]
    fn an_opt_record_answers_an_opt_record() {
        let (mut buffer, query) =
            query(Some(Edns { udp_payload_size: 1400, version: 1, dnssec_ok: true, ..Edns::default() }));
        let mut response = Response::new(&mut buffer, &query, Transport::Udp, Options::default());
        response.set_bad_version();
        let len = response.finish(rcode::NOERROR, false);
        assert_eq!(&buffer[21..len], b"\0\0\x29\x04\xd0\x01\0\x80\0\0\0");
        assert_eq!(buffer[11], 1);
    }

    #[test]
    fn a_bare_header_repeats_only_what_it_must() {
        let mut buffer = vec![0xff; MIN_BUFFER_LEN];
        assert_eq!(header_only(&mut buffer, rcode::FORMERR), 12);
        assert_eq!(buffer[..12], [0xff, 0xff, 0xf9, 0x11, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
