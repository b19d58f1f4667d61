//! Writing a response in place: over the query's own buffer, behind the question that is already there.
//!
//! Runs on the workers, for every packet. Nothing is copied that the query brought: the id, the question (byte for
//! byte, so its case is kept as RFC 4343 and 0x20 clients want it) and the flags that a response repeats stay put.

use super::edns::{ClientSubnet, EXTENDED_ERROR_LEN, ExtendedError, MAX_OPTIONS_LEN, Options};
use super::header::{self, rcode};
use super::name::{MAX_LEN, suffix_at};
use super::query::{Query, salvage};
use super::record::{FIXED_LEN, rtype};

/// Bytes of an OPT record without its options.
pub(crate) const OPT_LEN: usize = 11;

/// Bytes that a response has besides its records at most: header, question, and an OPT record with all of its options.
pub(crate) const MAX_OVERHEAD: usize =
    header::LEN + MAX_LEN + 4 + OPT_LEN + MAX_OPTIONS_LEN + EXTENDED_ERROR_LEN;

const _: () = assert!(header::LEN + MAX_LEN + 4 + OPT_LEN + MAX_OPTIONS_LEN <= CLASSIC_UDP_LEN);

/// Bytes of UDP payload that every client takes (RFC 1035 §4.2.1).
const CLASSIC_UDP_LEN: usize = 512;

/// Bytes of UDP payload that we send and announce at most, unless told otherwise: what crosses today's networks
/// without fragmentation (DNS Flag Day 2020).
pub const DEFAULT_UDP_LEN: u16 = 1232;

/// What that may be set to: from what every client takes to what fits in an Ethernet frame over IPv6 (1,500 bytes).
/// More would be sent in fragments, which firewalls drop and attackers forge.
pub const UDP_LENS: std::ops::RangeInclusive<u16> = 512..=1452;

/// A pointer can point into so many bytes from a message's beginning (RFC 1035 §4.1.4).
pub(crate) const POINTER_REACH: usize = 1 << 14;

/// How a message travels, which decides how long a response may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// One datagram: 512 bytes, or what the client announced by EDNS(0), up to our own limit.
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
    /// The client speaks EDNS, and wants DNSSEC records or not.
    dnssec_ok: Option<bool>,
    options: &'a Options<'a>,
    /// Why the response code is what it is.
    error: Option<ExtendedError>,
    /// Bytes of UDP payload that we announce.
    udp_len: u16,
    questions: u16,
    answers: u16,
    authorities: u16,
    additionals: u16,
    truncated: bool,
    /// RA and AD.
    flags: u8,
    extended_rcode: u8,
    /// For so many bits of the address of the client that a forwarder asks for the answer makes a difference.
    subnet_scope: u8,
}

/// The end of a name that stands in the message already, so that other names can end with a pointer to it.
#[derive(Clone, Copy, Debug)]
pub struct Suffix<'a> {
    /// The name, lower-cased.
    pub name: &'a [u8],
    /// Where it begins in the message.
    pub at: usize,
}

impl<'a> Response<'a> {
    /// Begins the response to `query`, which stands in `buffer`. Over UDP it has at most `udp_len` bytes. The `options`
    /// go out only to who speaks EDNS.
    #[inline]
    pub fn new(
        buffer: &'a mut [u8],
        query: &Query,
        transport: Transport,
        udp_len: u16,
        options: &'a Options<'a>,
    ) -> Self {
        let wanted = match (transport, &query.edns) {
            (Transport::Tcp, _) => usize::from(u16::MAX),
            (Transport::Udp, None) => CLASSIC_UDP_LEN,
            (Transport::Udp, Some(edns)) => {
                usize::from(edns.udp_payload_size.min(udp_len)).max(CLASSIC_UDP_LEN)
            }
        };
        let reserved = if query.edns.is_some() { OPT_LEN + options.len() } else { 0 };
        let limit = wanted.min(buffer.len()) - reserved;
        Self {
            buffer,
            end: query.question_end,
            limit,
            dnssec_ok: query.edns.as_ref().map(|edns| edns.dnssec_ok),
            options,
            error: None,
            udp_len,
            questions: u16::from(query.has_question()),
            answers: 0,
            authorities: 0,
            additionals: 0,
            truncated: false,
            flags: 0,
            extended_rcode: 0,
            subnet_scope: 0,
        }
    }

    /// The message: as long as nothing has been added, what the query said behind its question is still there.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        self.buffer
    }

    /// Whether the client wants names looked for that are not ours (RD).
    #[must_use]
    pub fn recursion_desired(&self) -> bool {
        self.buffer[2] & header::RD != 0
    }

    /// Whether the client wants what cannot be validated, too (CD).
    #[inline]
    #[must_use]
    pub fn checking_disabled(&self) -> bool {
        self.buffer[3] & header::CD != 0
    }

    /// Says that names are looked for that are not ours (RA).
    #[inline]
    pub fn offer_recursion(&mut self) {
        self.flags |= header::RA;
    }

    /// Says that who gave the answer has validated it (AD), to those who want to know that (RFC 6840 §5.7).
    #[inline]
    pub fn set_authenticated(&mut self) {
        let wants = self.buffer[3] & header::AD != 0 || self.dnssec_ok == Some(true);
        if wants {
            self.flags |= header::AD;
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
    #[inline(always)]
    pub fn answer_with(&mut self, count: u16, len: usize, fill: impl FnOnce(&mut [u8])) {
        assert!(len <= self.room());
        fill(&mut self.buffer[self.end..self.end + len]);
        self.end += len;
        self.answers += count;
    }

    /// Adds records of the answer and the authority section together; they are returned to be changed in place.
    ///
    /// # Panics
    /// If they do not fit in [`room`](Self::room).
    #[inline]
    pub fn sections(&mut self, answers: u16, authorities: u16, records: &[u8]) -> &mut [u8] {
        assert!(records.len() <= self.room());
        let from = self.end;
        self.end += records.len();
        self.answers += answers;
        self.authorities += authorities;
        let to = &mut self.buffer[from..self.end];
        to.copy_from_slice(records);
        to
    }

    /// Where the next record will begin.
    #[inline]
    #[must_use]
    pub fn end(&self) -> usize {
        self.end
    }

    /// Adds an answer whose data ends with a name, `before` bytes into it: `record` with its owner at `owner` and with
    /// as much of the name replaced by a pointer as the `suffix` allows. Returns where the name can be pointed at;
    /// `None` if there is no room, and then nothing is added.
    #[must_use]
    pub fn answer_with_name(
        &mut self,
        record: &[u8],
        before: usize,
        owner: usize,
        suffix: Option<Suffix<'_>>,
    ) -> Option<usize> {
        let name_at = FIXED_LEN + before;
        let name = record.get(name_at..)?;
        let shared = suffix.and_then(|suffix| {
            let begin = suffix_at(name, suffix.name, <[u8]>::eq_ignore_ascii_case)?;
            (begin + 2 <= name.len() && suffix.at < POINTER_REACH).then_some((begin, suffix.at))
        });
        let kept = name_at + shared.map_or(name.len(), |(begin, _)| begin);
        let len = kept + if shared.is_some() { 2 } else { 0 };
        if len > self.room() {
            return None;
        }
        let out = &mut self.buffer[self.end..self.end + len];
        out[..kept].copy_from_slice(&record[..kept]);
        out[..2].copy_from_slice(&pointer(owner));
        if let Some((_, at)) = shared {
            out[kept..].copy_from_slice(&pointer(at));
        }
        #[allow(clippy::cast_possible_truncation)] // no longer than the record that it was
        out[FIXED_LEN - 2..FIXED_LEN].copy_from_slice(&((len - FIXED_LEN) as u16).to_be_bytes());
        let name_at = self.end + name_at;
        self.end += len;
        self.answers += 1;
        // A name that is nothing but a pointer is pointed at where that leads.
        Some(shared.filter(|(begin, _)| *begin == 0).map_or(name_at, |(_, at)| at))
    }

    /// Makes the name at `owner` the owner of all records from `from` on.
    pub fn set_owner(&mut self, from: usize, owner: usize) {
        let mut at = from;
        while at + FIXED_LEN <= self.end {
            self.buffer[at..at + 2].copy_from_slice(&pointer(owner));
            at += FIXED_LEN + usize::from(header::u16_at(self.buffer, at + FIXED_LEN - 2));
        }
    }

    /// Adds `count` whole records of the name at `owner` to the additional section, if all of them fit.
    pub fn additional(&mut self, owner: usize, count: u16, records: &[u8]) {
        if records.len() <= self.room() && owner < POINTER_REACH {
            let from = self.end;
            self.buffer[from..from + records.len()].copy_from_slice(records);
            self.end += records.len();
            self.additionals += count;
            self.set_owner(from, owner);
        }
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
        if self.error.is_none() && self.room() >= EXTENDED_ERROR_LEN {
            self.error = Some(error);
            self.limit -= EXTENDED_ERROR_LEN;
        }
    }

    /// For which network it was asked, if a forwarder has said so.
    #[must_use]
    pub fn client_subnet(&self) -> Option<&'a ClientSubnet> {
        self.options.client_subnet
    }

    /// Says that the answer was made for the network that a forwarder has told, all of it (RFC 7871 §7.2.1).
    pub fn depends_on_client_subnet(&mut self) {
        if let Some(subnet) = self.options.client_subnet {
            self.subnet_scope = subnet.source_prefix_len;
        }
    }

    /// The same as [`finish`](Self::finish) for an error, whose `code` may be one of those above 15 (RFC 6891 §6.1.3).
    #[allow(clippy::cast_possible_truncation)] // twelve bits
    #[must_use]
    pub fn finish_with(&mut self, code: u16) -> usize {
        self.extended_rcode = (code >> 4) as u8;
        self.finish(code as u8 & header::RCODE_MASK, false)
    }

    /// Writes flags, counts and the OPT record, once; returns the message's length.
    #[inline(always)]
    #[must_use]
    pub fn finish(&mut self, code: u8, authoritative: bool) -> usize {
        let aa = if authoritative { header::AA } else { 0 };
        let tc = if self.truncated { header::TC } else { 0 };
        let (flags, counts) = self.buffer[2..header::LEN].split_at_mut(2);
        flags[0] = header::QR | aa | tc | (flags[0] & header::RD);
        // CD is between resolvers; an answer from our own data clears it (RFC 4035 §3.1.6).
        flags[1] = self.flags | if authoritative { code } else { (flags[1] & header::CD) | code };
        counts[..2].copy_from_slice(&self.questions.to_be_bytes());
        counts[2..4].copy_from_slice(&self.answers.to_be_bytes());
        counts[4..6].copy_from_slice(&self.authorities.to_be_bytes());
        let additionals = self.additionals + u16::from(self.dnssec_ok.is_some());
        counts[6..8].copy_from_slice(&additionals.to_be_bytes());
        if let Some(dnssec_ok) = self.dnssec_ok {
            self.opt(dnssec_ok);
        }
        self.end
    }

    #[inline]
    fn opt(&mut self, dnssec_ok: bool) {
        let error = self.error.map(ExtendedError::option);
        let (error, own_len) = (error.as_ref().map_or(&[][..], |option| option), self.options.len());
        let options_len = own_len + error.len();
        #[allow(clippy::cast_possible_truncation)] // some hundred bytes
        let record = opt_record(self.udp_len, self.extended_rcode, dnssec_ok, options_len as u16);
        self.buffer[self.end..self.end + OPT_LEN].copy_from_slice(&record);
        self.end += OPT_LEN;
        if options_len > 0 {
            let (own, rest) = self.buffer[self.end..self.end + options_len].split_at_mut(own_len);
            self.options.write(self.subnet_scope, own);
            rest.copy_from_slice(error);
            self.end += options_len;
        }
    }
}

/// An OPT record without its options.
#[inline]
pub(crate) fn opt_record(
    udp_len: u16,
    extended_rcode: u8,
    dnssec_ok: bool,
    options_len: u16,
) -> [u8; OPT_LEN] {
    let [type_high, type_low] = rtype::OPT.to_be_bytes();
    let [size_high, size_low] = udp_len.to_be_bytes();
    let [len_high, len_low] = options_len.to_be_bytes();
    let dnssec_ok = if dnssec_ok { 0x80 } else { 0 };
    [0, type_high, type_low, size_high, size_low, extended_rcode, 0, dnssec_ok, 0, len_high, len_low]
}

/// A pointer to `at`, which is within its reach.
#[inline]
pub(crate) fn pointer(at: usize) -> [u8; 2] {
    debug_assert!(at < POINTER_REACH);
    #[allow(clippy::cast_possible_truncation)] // 14 bits
    let [high, low] = (at as u16).to_be_bytes();
    [0xc0 | high, low]
}

/// Turns the first `len` bytes of `buffer`, which could not be taken as a query, into a response that says so and has
/// what of them can go back. It is never longer than what came.
#[must_use]
pub fn refusal(buffer: &mut [u8], len: usize, code: u8, udp_len: u16) -> usize {
    debug_assert!(code != rcode::NOERROR);
    let remains = salvage(&buffer[..len]);
    buffer[2] = header::QR | (buffer[2] & (header::OPCODE_MASK | header::RD));
    buffer[3] = (buffer[3] & header::CD) | code;
    buffer[4..header::LEN].fill(0);
    let mut end = remains.question_end;
    buffer[header::QDCOUNT + 1] = u8::from(end > header::LEN);
    if remains.has_opt && end + OPT_LEN <= buffer.len() {
        buffer[end..end + OPT_LEN].copy_from_slice(&opt_record(udp_len, 0, remains.dnssec_ok, 0));
        buffer[header::ARCOUNT + 1] = 1;
        end += OPT_LEN;
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::edns::Edns;
    use crate::wire::name::{HashSeed, QueryName};
    use crate::wire::query::MIN_BUFFER_LEN;

    const NO_OPTIONS: Options<'static> =
        Options { cookie: None, nsid: None, keepalive_100ms: None, client_subnet: None };

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
        let mut response = Response::new(&mut buffer, &query, Transport::Udp, DEFAULT_UDP_LEN, &NO_OPTIONS);
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
            (Transport::Udp, edns(65535), usize::from(DEFAULT_UDP_LEN)),
            (Transport::Tcp, edns(512), 4096),
        ] {
            let (mut buffer, query) = query(edns);
            let mut response = Response::new(&mut buffer, &query, transport, DEFAULT_UDP_LEN, &NO_OPTIONS);
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
        let mut response = Response::new(&mut buffer, &query, Transport::Udp, DEFAULT_UDP_LEN, &NO_OPTIONS);
        let len = response.finish_with(rcode::BADVERS);
        assert_eq!(&buffer[21..len], b"\0\0\x29\x04\xd0\x01\0\x80\0\0\0");
        assert_eq!(buffer[11], 1);
    }

    #[test]
    fn a_refusal_repeats_only_what_it_must() {
        let mut buffer = vec![0xff; MIN_BUFFER_LEN];
        assert_eq!(refusal(&mut buffer, 40, rcode::FORMERR, 1232), 12);
        assert_eq!(buffer[..12], [0xff, 0xff, 0xf9, 0x11, 0, 0, 0, 0, 0, 0, 0, 0]);
        let notify = b"\x12\x34\x20\0\0\x01\0\0\0\0\0\x01\x03wEb\0\0\x06\0\x01\0\0\x29\x10\0\0\0\x80\0\0\0";
        buffer[..notify.len()].copy_from_slice(notify);
        let len = refusal(&mut buffer, notify.len(), rcode::NOTIMP, 1232);
        let expected =
            b"\x12\x34\xa0\x04\0\x01\0\0\0\0\0\x01\x03wEb\0\0\x06\0\x01\0\0\x29\x04\xd0\0\0\x80\0\0\0";
        assert_eq!(&buffer[..len], expected);
    }

    #[test]
    fn names_in_answers_end_with_a_pointer_to_a_suffix_they_share() {
        let record = |name: &[u8]| {
            let fixed = [&b"\xc0\x0c\0\x05\0\x01\0\0\0\x07\0"[..], &[u8::try_from(name.len()).unwrap()]];
            [&fixed.concat()[..], name].concat()
        };
        for (name, suffix, data, at) in [
            (&b"\x01a\x03wEB\0"[..], &b"\x03web\0"[..], &b"\x01a\xc0\x0c"[..], 33),
            (b"\x03WEB\0", b"\x03web\0", b"\xc0\x0c", 12),
            (b"\x04aweb\0", b"\x03web\0", b"\x04aweb\0", 33),
            (b"\0", b"\0", b"\0", 33),
        ] {
            let (mut buffer, query) = query(None);
            let mut response =
                Response::new(&mut buffer, &query, Transport::Udp, DEFAULT_UDP_LEN, &NO_OPTIONS);
            let suffix = Suffix { name: suffix, at: 12 };
            assert_eq!(response.answer_with_name(&record(name), 0, 300, Some(suffix)), Some(at));
            let len = response.finish(rcode::NOERROR, true);
            assert_eq!(buffer[21..23], [0xc1, 0x2c]);
            assert_eq!(buffer[31..33], [0, u8::try_from(data.len()).unwrap()]);
            assert_eq!(&buffer[33..len], data);
        }
    }
}
