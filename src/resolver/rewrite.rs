//! Writing records of somebody else's message anew, so that no name in them points to what is not written.
//!
//! Runs on the workers, for every answer of an upstream. No length or pointer of the message is believed.

use std::ops::Range;

use crate::wire::header::{self, u16_at};
use crate::wire::message::expand_name_into;
use crate::wire::name::{MAX_LEN, suffix_at};
use crate::wire::query::skip_name;
use crate::wire::record::rtype;
use crate::wire::response::{POINTER_REACH, pointer};

/// Bytes of the records of an answer at most: with the longest question in front of them and an OPT record behind, they
/// fit in a message over a stream.
pub const MAX_RECORDS_LEN: usize = u16::MAX as usize - header::LEN - MAX_LEN - 4 - 512;

/// The message is broken, or too large to be passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// Where a record stands in the message that is read.
#[derive(Clone, Copy)]
pub(super) struct RecordPlace {
    pub(super) owner_at: u16,
    pub(super) rdata_at: u16,
    pub(super) rdata_len: u16,
    pub(super) rtype: u16,
    /// The hash of its owner, once somebody has looked at that.
    pub(super) owner: u64,
}

impl RecordPlace {
    pub(super) fn rdata(self, message: &[u8]) -> &[u8] {
        let rest = message.get(usize::from(self.rdata_at)..);
        rest.and_then(|rest| rest.get(..self.rdata_len.into())).unwrap_or_default()
    }

    /// Its owner's name, written out in `room`.
    pub(super) fn owner<'a>(
        self,
        message: &[u8],
        room: &'a mut [u8; MAX_LEN],
    ) -> Result<&'a [u8], Malformed> {
        expand_name_into(message, self.owner_at.into(), room).ok_or(Malformed)
    }

    /// The type of the records that it signs; `None` if it is no signature.
    pub(super) fn signs(self, message: &[u8]) -> Option<u16> {
        (self.rtype == rtype::RRSIG).then(|| u16_at(self.rdata(message), 0))
    }

    /// The zone that it is signed by, written out in `room`, if it is a signature.
    pub(super) fn signer<'a>(self, message: &[u8], room: &'a mut [u8; MAX_LEN]) -> Option<&'a [u8]> {
        expand_name_into(message, usize::from(self.rdata_at) + SIGNER_AT, room)
    }
}

/// A name that others may point to: the question's, or one that an alias leads to.
pub(super) struct AliasLink {
    /// Its hash, by which links are told apart.
    pub(super) hash: u64,
    name: [u8; MAX_LEN],
    len: usize,
    /// Where it stands in the message that is written, if a pointer reaches it.
    at: Option<usize>,
    /// So many of its bytes stand there, before it ends or a pointer follows.
    written: usize,
}

impl AliasLink {
    pub(super) fn name(&self) -> &[u8] {
        &self.name[..self.len]
    }

    /// Whether it is `ancestor` or below it.
    pub(super) fn is_within(&self, ancestor: &[u8]) -> bool {
        suffix_at(self.name(), ancestor, <[u8]>::eq_ignore_ascii_case).is_some()
    }

    /// Where `suffix` stands if the name ends with it, case and all: names stay spelt as they were.
    fn suffix_at(&self, suffix: &[u8]) -> Option<usize> {
        let begin = suffix_at(self.name(), suffix, |a, b| a == b)?;
        let at = self.at? + begin;
        (begin < self.written && at < POINTER_REACH).then_some(at)
    }
}

/// Records that are written behind a question.
#[derive(Default)]
pub(super) struct Writer {
    /// As they stand directly behind the question.
    pub(super) records: Vec<u8>,
    /// Where in them there is a TTL, each in two bytes, big-endian.
    pub(super) ttls_at: Vec<u8>,
    /// The lowest of the TTLs.
    pub(super) min_ttl_s: u32,
    /// The question's name, and those that aliases lead to, one from the other.
    pub(super) chain: Vec<AliasLink>,
    /// Where the records begin in the message that is written.
    base: usize,
}

impl Writer {
    /// Begins anew, behind a question for this name, which has this `hash`.
    pub(super) fn begin(&mut self, question_name: &[u8], hash: u64) {
        self.records.clear();
        self.ttls_at.clear();
        self.min_ttl_s = u32::MAX;
        self.base = header::LEN + question_name.len() + 4;
        self.chain.clear();
        self.push_link(question_name, hash, header::LEN, question_name.len());
    }

    /// The number of records.
    pub(super) fn count(&self) -> u16 {
        #[allow(clippy::cast_possible_truncation)] // each takes eleven bytes at least
        let count = (self.ttls_at.len() / 2) as u16;
        count
    }

    /// The end of the chain.
    pub(super) fn last(&self) -> &AliasLink {
        &self.chain[self.chain.len() - 1]
    }

    /// Adds `name` to the chain, which stands in these bytes of the records. Tells whether it is new there.
    pub(super) fn add_link(&mut self, name: &[u8], hash: u64, written: Range<usize>) -> bool {
        let is_new = self.chain.iter().all(|link| link.hash != hash);
        let (at, len) = match self.records[written.clone()] {
            // Nothing but a pointer: the name stands where that leads.
            [high @ 0xc0..=0xff, low] => (usize::from(u16::from_be_bytes([high & 0x3f, low])), 0),
            _ if written.len() == name.len() => (self.base + written.start, name.len()),
            // It ends with a pointer.
            _ => (self.base + written.start, written.len().saturating_sub(2)),
        };
        self.push_link(name, hash, at, len);
        is_new
    }

    fn push_link(&mut self, name: &[u8], hash: u64, at: usize, written: usize) {
        let len = name.len();
        let at = Some(at).filter(|&at| at < POINTER_REACH);
        let mut link = AliasLink { hash, name: [0; MAX_LEN], len, at, written };
        link.name[..len].copy_from_slice(name);
        self.chain.push(link);
    }

    /// Writes a record of the last name on the chain; returns where its data is in the records.
    pub(super) fn write_on_chain(
        &mut self,
        message: &[u8],
        place: RecordPlace,
    ) -> Result<Range<usize>, Malformed> {
        let last = &self.chain[self.chain.len() - 1];
        match last.at {
            Some(at) => self.records.extend_from_slice(&pointer(at)),
            None => self.records.extend_from_slice(last.name()),
        }
        self.write_behind_owner(message, place, u32::MAX)
    }

    /// Writes a record of `owner`, which is to be kept for no longer than `max_ttl_s`.
    pub(super) fn write(
        &mut self,
        message: &[u8],
        place: RecordPlace,
        owner: &[u8],
        max_ttl_s: u32,
    ) -> Result<(), Malformed> {
        self.write_name(owner, true);
        self.write_behind_owner(message, place, max_ttl_s).map(drop)
    }

    fn write_behind_owner(
        &mut self,
        message: &[u8],
        place: RecordPlace,
        max_ttl_s: u32,
    ) -> Result<Range<usize>, Malformed> {
        let rdata_at = usize::from(place.rdata_at);
        let fixed = message.get(..rdata_at).and_then(<[u8]>::last_chunk::<10>).ok_or(Malformed)?;
        let ttl_s = u32::from_be_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]);
        let ttl_s = if ttl_s > i32::MAX.unsigned_abs() { 0 } else { ttl_s.min(max_ttl_s) };
        self.min_ttl_s = self.min_ttl_s.min(ttl_s);
        self.records.extend_from_slice(&fixed[..4]);
        let ttl_at = u16::try_from(self.records.len()).map_err(|_| Malformed)?;
        self.ttls_at.extend_from_slice(&ttl_at.to_be_bytes());
        self.records.extend_from_slice(&ttl_s.to_be_bytes());
        self.records.extend_from_slice(&fixed[8..]);
        let begin = self.records.len();
        self.write_rdata(message, place)?;
        let len = u16::try_from(self.records.len() - begin).map_err(|_| Malformed)?;
        self.records[begin - 2..begin].copy_from_slice(&len.to_be_bytes());
        if self.records.len() > MAX_RECORDS_LEN {
            return Err(Malformed);
        }
        Ok(begin..self.records.len())
    }

    fn write_rdata(&mut self, message: &[u8], place: RecordPlace) -> Result<(), Malformed> {
        let rdata = place.rdata(message);
        let Some(layout) = Layout::of(place.rtype) else {
            self.records.extend_from_slice(rdata);
            // Of the types that make up most of all answers it is known what they have to be.
            let sound = match place.rtype {
                rtype::A => rdata.len() == 4,
                rtype::AAAA => rdata.len() == 16,
                _ => true,
            };
            return if sound { Ok(()) } else { Err(Malformed) };
        };
        let begin = usize::from(place.rdata_at);
        let mut at = begin + layout.before;
        for _ in 0..layout.strings {
            at += 1 + usize::from(*message.get(at).ok_or(Malformed)?);
        }
        self.records.extend_from_slice(message.get(begin..at).ok_or(Malformed)?);
        for _ in 0..layout.names {
            let mut room = [0; MAX_LEN];
            let name = expand_name_into(message, at, &mut room).ok_or(Malformed)?;
            self.write_name(name, layout.may_point);
            at = skip_name(message, at).ok_or(Malformed)?;
        }
        // This also tells if a name, or what is before it, was not in the data.
        let behind = message.get(at..begin + rdata.len()).ok_or(Malformed)?;
        self.records.extend_from_slice(behind);
        if layout.behind.is_none_or(|len| len == behind.len()) { Ok(()) } else { Err(Malformed) }
    }

    /// Writes `name`, if it `may_point` only up to where a name on the chain ends in the same way.
    fn write_name(&mut self, name: &[u8], may_point: bool) {
        match self.shared(name).filter(|_| may_point) {
            Some((len, at)) => {
                self.records.extend_from_slice(&name[..len]);
                self.records.extend_from_slice(&pointer(at));
            }
            None => self.records.extend_from_slice(name),
        }
    }

    /// How many bytes at the front of `name` no name on the chain ends with, and where the others stand.
    fn shared(&self, name: &[u8]) -> Option<(usize, usize)> {
        let mut len = 0;
        // The root is shorter than a pointer to it.
        while name[len] != 0 {
            if let Some(at) = self.chain.iter().find_map(|link| link.suffix_at(&name[len..])) {
                return Some((len, at));
            }
            len += 1 + usize::from(name[len]);
        }
        None
    }
}

/// Bytes of a signature before the name of its signer (RFC 4034 §3.1).
const SIGNER_AT: usize = 18;

/// Where there are names in the data of a record that pointers may be in: by RFC 1035, and by RFC 3597 §4 those that
/// old servers put them in. Data of all other types is copied as it is.
struct Layout {
    /// Bytes before the first name.
    before: usize,
    /// Strings behind these, each with its length in front.
    strings: usize,
    names: usize,
    /// Bytes behind the last name; any number if `None`.
    behind: Option<usize>,
    /// Names in it may be written with pointers (RFC 3597 §4).
    may_point: bool,
}

impl Layout {
    fn of(rtype: u16) -> Option<Self> {
        let (before, strings, names, behind, may_point) = match rtype {
            // And MD, MF, MB, MG, MR.
            rtype::NS | rtype::CNAME | rtype::PTR | 3 | 4 | 7 | 8 | 9 => (0, 0, 1, Some(0), true),
            rtype::SOA => (0, 0, 2, Some(20), true),
            rtype::MX => (2, 0, 1, Some(0), true),
            // MINFO.
            14 => (0, 0, 2, Some(0), true),
            // RP.
            17 => (0, 0, 2, Some(0), false),
            // AFSDB, RT, KX.
            18 | 21 | 36 => (2, 0, 1, Some(0), false),
            // SIG.
            24 | rtype::RRSIG => (SIGNER_AT, 0, 1, None, false),
            // PX.
            26 => (2, 0, 2, Some(0), false),
            // NXT.
            30 | rtype::NSEC => (0, 0, 1, None, false),
            rtype::SRV => (6, 0, 1, Some(0), false),
            // NAPTR.
            35 => (4, 3, 1, Some(0), false),
            rtype::DNAME => (0, 0, 1, Some(0), false),
            // SVCB, HTTPS.
            64 | 65 => (2, 0, 1, None, false),
            _ => return None,
        };
        Some(Self { before, strings, names, behind, may_point })
    }
}
