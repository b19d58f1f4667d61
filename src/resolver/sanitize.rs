//! What of an upstream's answer is passed on: the records on the chain of aliases that begins at the question's name,
//! or the proof that there are none.
//!
//! Runs on the workers, for every answer of an upstream; it allocates until the buffer has grown. All work is bounded,
//! whatever the message says: each name is read once or twice, and each link of the chain, of which there are few,
//! looks over the hashes of the owners.

use super::question::{Answer, Question};
use super::rewrite::{Malformed, RecordPlace, Writer};
use super::upstream::is_near;
use crate::wire::edns;
use crate::wire::header::{self, rcode, u16_at};
use crate::wire::message::{expand_name_into, records};
use crate::wire::name::{HashSeed, MAX_LEN, QueryName, suffix_at};
use crate::wire::query::skip_name;
use crate::wire::record::{CLASS_IN, rtype};

/// Records of a message at most: more than as many addresses as fit in the longest one.
pub const MAX_RECORDS: usize = crate::limits::MAX_UPSTREAM_RECORDS;

/// Aliases in a row that are followed at most.
pub const MAX_ALIASES: usize = crate::limits::MAX_UPSTREAM_ALIASES;

/// What an upstream says in its OPT record.
#[derive(Clone, Copy)]
pub(super) struct Opt {
    pub(super) extended_rcode: u8,
    pub(super) extended_error: Option<u16>,
}

/// How the chain ends.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// With records of the type that was asked for.
    Records,
    /// With a name that has none, or does not exist.
    Nothing,
    /// Nowhere: it goes round in circles, or on for too long.
    Lost,
    /// With a name that others are asked for.
    Outside,
}

/// How far a message has led.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reached {
    /// To an answer: records, or that there are none.
    End,
    /// To another name, of which it does not say what there is, or is not to say it.
    Alias,
    /// Nowhere: the aliases go round in circles, or on for too long.
    Circle,
    /// To other servers: the one that was asked does not answer itself.
    Referral,
}

/// An answer as it can be passed on, and the room for making it. It is kept and filled anew for each message, and
/// allocates nothing once it has grown.
///
/// Of the answer section it has the records of class IN on the chain of aliases that begins at the question's name, in
/// the order of the chain: CNAME records, and those of the type that was asked for at its end; all records of the name
/// if all were asked for. Of the authority section it has, in a negative answer, the SOA record of a zone that the last
/// name is in. Where DNSSEC records are wanted, there are also the signatures of all these, the DNAME records that
/// aliases come from (RFC 6672 §5.3.1), and the NSEC and NSEC3 records of the zone. All else is left out.
///
/// A TTL with its top bit set is 0 (RFC 2181 §8). That of an SOA record is no more than its MINIMUM field
/// (RFC 2308 §5). A negative answer without such a record may not be kept (§5): its `ttl_s` is 0.
pub struct AnswerBuffer {
    rcode: u8,
    authenticated: bool,
    answers: u16,
    ttl_s: u32,
    writer: Writer,
    /// The records of the answer section, and behind them those of the authority section.
    places: Vec<RecordPlace>,
    /// So many are of the answer section.
    answer_places: usize,
    folded: QueryName,
    /// There was an OPT record.
    has_opt: bool,
    /// Nobody outside knows it, so that names with the same hash are the same.
    seed: HashSeed,
}

impl Default for AnswerBuffer {
    fn default() -> Self {
        Self {
            rcode: rcode::NOERROR,
            authenticated: false,
            answers: 0,
            ttl_s: 0,
            writer: Writer::default(),
            places: Vec::new(),
            answer_places: 0,
            folded: QueryName::default(),
            has_opt: false,
            seed: HashSeed::random(),
        }
    }
}

impl AnswerBuffer {
    /// The answer in the message that was read last, if there was one.
    #[must_use]
    pub fn answer(&self) -> Answer<'_> {
        Answer {
            rcode: self.rcode,
            authenticated: self.authenticated,
            answers: self.answers,
            authorities: self.writer.count() - self.answers,
            ttl_s: self.ttl_s,
            records: &self.writer.records,
            ttls_at: &self.writer.ttls_at,
        }
    }

    /// Whether the message that was read last had an OPT record.
    #[must_use]
    pub fn has_opt(&self) -> bool {
        self.has_opt
    }

    /// Whether there is an address among its records that is not reached from everywhere.
    #[must_use]
    pub fn has_near_address(&self) -> bool {
        let Writer { records, ttls_at, .. } = &self.writer;
        ttls_at.as_chunks::<2>().0.iter().any(|at| {
            let at = usize::from(u16::from_be_bytes(*at));
            let rtype = at.checked_sub(4).and_then(|at| records.get(at..at + 2));
            let data = records.get(at + 6..).unwrap_or_default();
            match rtype.map(|rtype| u16_at(rtype, 0)) {
                Some(rtype::A) => data.first_chunk::<4>().is_some_and(|v4| is_near((*v4).into())),
                Some(rtype::AAAA) => data.first_chunk::<16>().is_some_and(|v6| is_near((*v6).into())),
                _ => false,
            }
        })
    }

    /// Has a negative answer that says nothing of its time kept for so long.
    pub fn keep_negative(&mut self, ttl_s: u32) {
        let is_negative = self.rcode == rcode::NXDOMAIN || self.answers == 0;
        if is_negative && self.writer.count() == self.answers {
            self.ttl_s = ttl_s;
        }
    }

    /// Makes TTLs that are shorter than that so long, but for an answer that may not be kept at all.
    pub fn raise_ttls(&mut self, min_s: u32) {
        if min_s == 0 || self.ttl_s == 0 {
            return;
        }
        self.change_ttls(|ttl_s| ttl_s.max(min_s));
    }

    /// Makes TTLs that are longer than that so long.
    pub fn limit_ttls(&mut self, max_s: u32) {
        self.change_ttls(|ttl_s| ttl_s.min(max_s));
    }

    fn change_ttls(&mut self, change: impl Fn(u32) -> u32) {
        let Writer { records, ttls_at, .. } = &mut self.writer;
        for at in ttls_at.as_chunks::<2>().0 {
            let at = usize::from(u16::from_be_bytes(*at));
            if let Some(ttl) = records.get_mut(at..).and_then(|ttl| ttl.first_chunk_mut::<4>()) {
                *ttl = change(u32::from_be_bytes(*ttl)).to_be_bytes();
            }
        }
        self.ttl_s = change(self.ttl_s);
    }

    /// Notes where the records of `message` stand, and reads its OPT record. Bytes behind the last record mean nothing.
    pub(super) fn collect(&mut self, message: &[u8]) -> Result<Option<Opt>, Malformed> {
        let [answers, authorities, additionals] =
            [header::ANCOUNT, header::NSCOUNT, header::ARCOUNT].map(|at| usize::from(u16_at(message, at)));
        let total = answers + authorities + additionals;
        if total > MAX_RECORDS || message.len() > u16::MAX.into() {
            return Err(Malformed);
        }
        self.places.clear();
        self.answer_places = 0;
        self.has_opt = false;
        let (mut opt, mut seen) = (None, 0);
        for record in records(message) {
            let (in_answers, in_additionals) = (seen < answers, seen >= answers + authorities);
            seen += 1;
            if in_additionals {
                if record.rtype == rtype::OPT && message[record.owner_at] == 0 {
                    let [extended_rcode, ..] = record.ttl_s.to_be_bytes();
                    let extended_error = edns::extended_error(record.rdata);
                    // There is one at most (RFC 6891 §6.1.1).
                    if opt.replace(Opt { extended_rcode, extended_error }).is_some() {
                        return Err(Malformed);
                    }
                }
            } else if record.class == CLASS_IN && is_data(record.rtype) {
                #[allow(clippy::cast_possible_truncation)] // the message has less than 64 KiB
                let [owner_at, rdata_at, rdata_len] =
                    [record.owner_at, record.rdata_at, record.rdata.len()].map(|at| at as u16);
                let owner = 0;
                self.places.push(RecordPlace { owner_at, rdata_at, rdata_len, rtype: record.rtype, owner });
                self.answer_places += usize::from(in_answers);
            }
        }
        self.has_opt = opt.is_some();
        if seen == total { Ok(opt) } else { Err(Malformed) }
    }

    /// Makes the answer of the records that were [collected](Self::collect) from `message`, which has these `flags`
    /// and, in front, this `question`, as far as its servers are whom to ask, as `is_theirs` says of a name.
    ///
    /// # Errors
    /// If it is broken; or if it is incomplete: then it has led to another [name](Self::last_name).
    pub(super) fn sanitize(
        &mut self,
        message: &[u8],
        question: &Question<'_>,
        flags: [u8; 2],
        is_theirs: impl Fn(&[u8]) -> bool,
    ) -> Result<Reached, Malformed> {
        // Its case is the one that the upstream has repeated: that is what pointers of the upstream mean.
        let name = message.get(header::LEN..header::LEN + question.name.len()).ok_or(Malformed)?;
        let hash = self.hash(name)?;
        self.writer.begin(name, hash);
        self.authenticated = true;
        self.go_on(message, question, flags, is_theirs)
    }

    /// The same where the answers of `before` have led to the name that `message` is about.
    pub(super) fn sanitize_behind(
        &mut self,
        before: &[Box<[u8]>],
        message: &[u8],
        question: &Question<'_>,
        flags: [u8; 2],
        is_theirs: impl Fn(&[u8]) -> bool,
    ) -> Result<Reached, Malformed> {
        for (i, earlier) in before.iter().enumerate() {
            self.collect(earlier)?;
            if i == 0 {
                let name = name_asked(earlier)?;
                let hash = self.hash(name)?;
                self.writer.begin(name, hash);
                self.authenticated = true;
            }
            let next_name = name_asked(before.get(i + 1).map_or(message, |it| it))?;
            self.authenticated &= earlier[3] & header::AD != 0;
            self.rcode = rcode::NOERROR;
            self.hash_owners(earlier)?;
            self.follow(earlier, question, |name| !name.eq_ignore_ascii_case(next_name))?;
        }
        self.collect(message)?;
        self.go_on(message, question, flags, is_theirs)
    }

    /// Follows the chain through `message` from where it has got to.
    fn go_on(
        &mut self,
        message: &[u8],
        question: &Question<'_>,
        flags: [u8; 2],
        is_theirs: impl Fn(&[u8]) -> bool,
    ) -> Result<Reached, Malformed> {
        self.rcode = flags[1] & header::RCODE_MASK;
        self.authenticated &= flags[1] & header::AD != 0;
        self.hash_owners(message)?;
        let links = self.writer.chain.len();
        let end = self.follow(message, question, is_theirs)?;
        (self.answers, self.ttl_s) = (self.writer.count(), 0);
        match end {
            End::Lost => return Ok(Reached::Circle),
            End::Outside => return Ok(Reached::Alias),
            End::Records | End::Nothing => {}
        }
        let has_soa = self.write_authority(message, question, end)?;
        self.ttl_s = if end == End::Records || has_soa { self.writer.min_ttl_s } else { 0 };
        if end == End::Nothing && !has_soa && self.rcode == rcode::NOERROR {
            if self.writer.chain.len() > links {
                return Ok(Reached::Alias);
            }
            let is_recursive = flags[1] & header::RA != 0 || flags[0] & header::AA != 0;
            let authorities = &self.places[self.answer_places..];
            if !is_recursive && authorities.iter().any(|place| place.rtype == rtype::NS) {
                return Ok(Reached::Referral);
            }
        }
        Ok(Reached::End)
    }

    /// The name that the chain of aliases has led to.
    #[must_use]
    pub fn last_name(&self) -> &[u8] {
        self.writer.last().name()
    }

    fn hash(&mut self, name: &[u8]) -> Result<u64, Malformed> {
        self.folded.fold_wire(name, self.seed).map_err(|_| Malformed)?;
        Ok(self.folded.hash())
    }

    /// Hashes the owners in the answer section; the message's question is the last name of the chain.
    fn hash_owners(&mut self, message: &[u8]) -> Result<(), Malformed> {
        // Most owners point to where the one before them does, or to the question.
        let mut last = (header::LEN, self.writer.last().hash);
        for i in 0..self.answer_places {
            let owner_at = usize::from(self.places[i].owner_at);
            let points = message[owner_at] >= 0xc0;
            let at = if points { usize::from(u16_at(message, owner_at) & 0x3fff) } else { owner_at };
            if at != last.0 {
                let mut room = [0; MAX_LEN];
                let owner = self.places[i].owner(message, &mut room)?;
                last = (at, self.hash(owner)?);
            }
            self.places[i].owner = last.1;
        }
        Ok(())
    }

    /// Follows the chain, as long as its names are those of the servers that have said so, and writes what is on it.
    fn follow(
        &mut self,
        message: &[u8],
        question: &Question<'_>,
        is_theirs: impl Fn(&[u8]) -> bool,
    ) -> Result<End, Malformed> {
        let qtype = question.qtype;
        let is_wanted = |place: &RecordPlace| qtype == rtype::ANY || place.rtype == qtype;
        loop {
            let here = self.writer.last().hash;
            let answers = &self.places[..self.answer_places];
            // A name that does not exist has no records, whatever is said.
            let exists = self.rcode == rcode::NOERROR;
            if exists && answers.iter().any(|place| place.owner == here && is_wanted(place)) {
                for place in answers.iter().filter(|place| place.owner == here) {
                    let signs = question.dnssec_ok && place.signs(message) == Some(qtype);
                    if is_wanted(place) || signs {
                        self.writer.write_on_chain(message, *place)?;
                    }
                }
                return Ok(End::Records);
            }
            // The first is the one: a name has no other.
            let is_alias = |place: &RecordPlace| place.owner == here && place.rtype == rtype::CNAME;
            let Some(alias) = answers.iter().position(is_alias) else { return Ok(End::Nothing) };
            if self.writer.chain.len() > MAX_ALIASES
                || !self.write_alias(message, alias, question.dnssec_ok)?
            {
                return Ok(End::Lost);
            }
            if !is_theirs(self.writer.last().name()) {
                return Ok(End::Outside);
            }
        }
    }

    /// Writes the CNAME record `alias` of the last name on the chain and what belongs to it, and adds the name that it
    /// leads to. Tells whether that one is new.
    fn write_alias(&mut self, message: &[u8], alias: usize, dnssec_ok: bool) -> Result<bool, Malformed> {
        let here = self.writer.last().hash;
        let mut written = 0..0;
        for (i, place) in self.places[..self.answer_places].iter_mut().enumerate() {
            let signs = place.signs(message);
            if i == alias || dnssec_ok && place.owner == here && signs == Some(rtype::CNAME) {
                let data = self.writer.write_on_chain(message, *place)?;
                if i == alias {
                    written = data;
                }
            } else if dnssec_ok && (place.rtype == rtype::DNAME || signs == Some(rtype::DNAME)) {
                let mut room = [0; MAX_LEN];
                let owner = place.owner(message, &mut room)?;
                if place.owner != here && self.writer.last().is_within(owner) {
                    self.writer.write(message, *place, owner, u32::MAX)?;
                    place.rtype = 0; // once, however many aliases come from it
                }
            }
        }
        let mut room = [0; MAX_LEN];
        let target_at = usize::from(self.places[alias].rdata_at);
        let target = expand_name_into(message, target_at, &mut room).ok_or(Malformed)?;
        let hash = self.hash(target)?;
        Ok(self.writer.add_link(target, hash, written))
    }

    /// Writes what of the authority section is wanted. Tells whether an SOA record is.
    fn write_authority(
        &mut self,
        message: &[u8],
        question: &Question<'_>,
        end: End,
    ) -> Result<bool, Malformed> {
        let mut room = [0; MAX_LEN];
        let zone = match end {
            End::Nothing => self.write_soa(message, &mut room)?,
            End::Records if question.dnssec_ok => self.signer(message, question.qtype, &mut room),
            _ => None,
        };
        let has_soa = end == End::Nothing && zone.is_some();
        let Some(zone) = zone.filter(|_| question.dnssec_ok) else { return Ok(has_soa) };
        let proves = |rtype| matches!(rtype, rtype::NSEC | rtype::NSEC3);
        for place in &self.places[self.answer_places..] {
            let signs = place.signs(message);
            let signs = signs.is_some_and(|rtype| proves(rtype) || rtype == rtype::SOA && has_soa);
            let mut room = [0; MAX_LEN];
            if proves(place.rtype) || signs {
                let owner = place.owner(message, &mut room)?;
                if suffix_at(owner, zone, <[u8]>::eq_ignore_ascii_case).is_some() {
                    self.writer.write(message, *place, owner, u32::MAX)?;
                }
            }
        }
        Ok(has_soa)
    }

    /// Writes the SOA record of a zone that the last name is in; returns the zone.
    fn write_soa<'a>(
        &mut self,
        message: &[u8],
        room: &'a mut [u8; MAX_LEN],
    ) -> Result<Option<&'a [u8]>, Malformed> {
        for place in self.places[self.answer_places..].iter().filter(|place| place.rtype == rtype::SOA) {
            let len = place.owner(message, room)?.len();
            if self.writer.last().is_within(&room[..len]) {
                let minimum_s = place.rdata(message).last_chunk().ok_or(Malformed)?;
                let zone = &room[..len];
                self.writer.write(message, *place, zone, u32::from_be_bytes(*minimum_s))?;
                return Ok(Some(zone));
            }
        }
        Ok(None)
    }

    /// The zone that has signed the records at the chain's end, if they are signed. What is in the authority section
    /// then proves that they come from a wildcard, if they do (RFC 4035 §3.1.3.3).
    fn signer<'a>(&self, message: &[u8], qtype: u16, room: &'a mut [u8; MAX_LEN]) -> Option<&'a [u8]> {
        let last = self.writer.last();
        let answers = &self.places[..self.answer_places];
        let signs = |place: &RecordPlace| {
            place.signs(message).is_some_and(|covered| covered == qtype || qtype == rtype::ANY)
        };
        let signature = answers.iter().find(|place| place.owner == last.hash && signs(place))?;
        signature.signer(message, room).filter(|signer| last.is_within(signer))
    }
}

/// The name that a message asks for, in wire form.
fn name_asked(message: &[u8]) -> Result<&[u8], Malformed> {
    let end = skip_name(message, header::LEN).ok_or(Malformed)?;
    message.get(header::LEN..end).ok_or(Malformed)
}

/// Whether records can be of this type: OPT and the types from 128 to 255 are only in questions, or say something of
/// the message (RFC 6895 §3.1).
fn is_data(rtype: u16) -> bool {
    !matches!(rtype, 0 | rtype::OPT | 128..=255)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_ttl_is_longer_than_the_limit() {
        let name = b"\x01a\0";
        let question =
            Question { name, name_hash: 0, qtype: rtype::A, dnssec_ok: false, checking_disabled: false };
        let [long, short] = [b"\x7f\xff\xff\xff", b"\0\0\0\x05"]
            .map(|ttl| [b"\xc0\x0c\0\x01\0\x01", &ttl[..], b"\0\x04\xc0\0\x02\x01"].concat());
        let message = [b"\0\x09\x81\x80\0\x01\0\x01\0\0\0\0", &name[..], b"\0\x01\0\x01"].concat();
        for (record, limit_s, ttl_s) in [(&long, 60_u32, 60_u32), (&short, 60, 5), (&short, 0, 0)] {
            let message = [&message[..], record].concat();
            let mut out = AnswerBuffer::default();
            assert!(out.collect(&message).is_ok());
            assert_eq!(out.sanitize(&message, &question, [0x81, 0x80], |_| true), Ok(Reached::End));
            out.limit_ttls(limit_s);
            let answer = out.answer();
            assert_eq!((answer.ttl_s, &answer.records[6..10]), (ttl_s, &ttl_s.to_be_bytes()[..]));
        }
    }

    #[test]
    fn what_has_grown_is_enough_for_all_that_is_no_larger() {
        let name = b"\x01a\0";
        let question =
            Question { name, name_hash: 0, qtype: rtype::A, dnssec_ok: false, checking_disabled: false };
        // An alias of `b`, and addresses of that.
        let alias = b"\xc0\x0c\0\x05\0\x01\0\0\0\x01\0\x03\x01b\0";
        let address = b"\xc0\x1f\0\x01\0\x01\0\0\0\x01\0\x04\xc0\0\x02\x01";
        let message = |addresses: u8| {
            let header = [0, 9, 0x81, 0x80, 0, 1, 0, 1 + addresses, 0, 0, 0, 0];
            [&header[..], name, b"\0\x01\0\x01", alias, &address.repeat(addresses.into())].concat()
        };
        let mut out = AnswerBuffer::default();
        let places = [9, 1, 9].map(|addresses| {
            let message = message(addresses);
            assert!(out.collect(&message).is_ok());
            assert_eq!(out.sanitize(&message, &question, [0x81, 0x80], |_| true), Ok(Reached::End));
            assert_eq!(out.answer().answers, u16::from(1 + addresses));
            let writer = &out.writer;
            (out.places.as_ptr(), writer.chain.as_ptr(), writer.records.as_ptr(), writer.ttls_at.as_ptr())
        });
        assert!(places.iter().all(|place| *place == places[0]), "nothing was allocated anew");
    }
}
