//! A question, and an answer to it, as all of the resolver has them.

use super::STALE_TTL_S;

/// What of a query decides its answer: class IN goes without saying.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Question<'a> {
    /// The name, lower-cased, in wire form.
    pub name: &'a [u8],
    /// The name's hash, as [`QueryName::hash`](crate::wire::name::QueryName::hash) has it.
    pub name_hash: u64,
    /// The type.
    pub qtype: u16,
    /// DNSSEC records are wanted, too (DO, RFC 3225).
    pub dnssec_ok: bool,
    /// What cannot be validated is wanted, too (CD, RFC 4035 §3.2.2).
    pub checking_disabled: bool,
}

impl Question<'_> {
    /// Its hash: questions that are not the same have another, but by chance.
    #[inline]
    #[must_use]
    pub fn hash(&self) -> u64 {
        let rest =
            u64::from(self.qtype) << 2 | u64::from(self.dnssec_ok) << 1 | u64::from(self.checking_disabled);
        // An odd multiplier spreads the type over all bits, the top ones most; a rotation brings these to the low ones.
        self.name_hash ^ rest.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32)
    }
}

/// A question with a name of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedQuestion {
    name: Box<[u8]>,
    name_hash: u64,
    qtype: u16,
    dnssec_ok: bool,
    checking_disabled: bool,
}

impl OwnedQuestion {
    /// The question.
    #[must_use]
    pub fn get(&self) -> Question<'_> {
        let Self { name, name_hash, qtype, dnssec_ok, checking_disabled } = self;
        Question {
            name,
            name_hash: *name_hash,
            qtype: *qtype,
            dnssec_ok: *dnssec_ok,
            checking_disabled: *checking_disabled,
        }
    }
}

impl From<&Question<'_>> for OwnedQuestion {
    fn from(question: &Question<'_>) -> Self {
        let Question { name, name_hash, qtype, dnssec_ok, checking_disabled } = *question;
        Self { name: name.into(), name_hash, qtype, dnssec_ok, checking_disabled }
    }
}

/// An answer, ready to be copied behind its question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The response code.
    pub rcode: u8,
    /// The upstream says that it has validated it (AD).
    pub authenticated: bool,
    /// Records in the answer section, which come first in `records`.
    pub answers: u16,
    /// Records in the authority section, behind these.
    pub authorities: u16,
    /// How long it may be kept: no longer than any of its records.
    pub ttl_s: u32,
    /// The records as they stand in a message directly behind the question. Names in them may be compressed: pointers
    /// lead into the question, or into the records, whose places in a message are the same for all questions of the
    /// same name.
    pub records: &'a [u8],
    /// Where in `records` there is a TTL, each in two bytes, big-endian.
    pub ttls_at: &'a [u8],
}

impl Answer<'_> {
    /// The records of the answer section, from the first on, that fit whole into so many bytes: how many, and their
    /// length.
    #[must_use]
    pub fn answers_within(&self, room: usize) -> (u16, usize) {
        let (mut count, mut len) = (0, 0);
        for at in self.ttls_at.as_chunks::<2>().0.iter().take(self.answers.into()) {
            // Behind the TTL is the length of the data, and these.
            let data_len_at = usize::from(u16::from_be_bytes(*at)) + 4;
            let Some(data_len) = self.records.get(data_len_at..).and_then(|it| it.first_chunk::<2>()) else {
                break;
            };
            let end = data_len_at + 2 + usize::from(u16::from_be_bytes(*data_len));
            if end > room.min(self.records.len()) {
                break;
            }
            (count, len) = (count + 1, end);
        }
        (count, len)
    }
}

/// Makes the TTLs at these places in `records`, as [`Answer::ttls_at`] has them, what they are after so many seconds,
/// or of an answer that is stale.
#[inline]
pub fn age(records: &mut [u8], ttls_at: &[u8], age_s: u32, stale: bool) {
    for at in ttls_at.as_chunks::<2>().0 {
        let at = usize::from(u16::from_be_bytes(*at));
        if let Some(ttl) = records.get_mut(at..).and_then(|ttl| ttl.first_chunk_mut::<4>()) {
            let left_s = if stale { STALE_TTL_S } else { u32::from_be_bytes(*ttl).saturating_sub(age_s) };
            *ttl = left_s.to_be_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_go_whole_or_not_at_all() {
        let record = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        let records = record.repeat(3);
        let answer = Answer {
            rcode: 0,
            authenticated: false,
            answers: 2,
            authorities: 1,
            ttl_s: 60,
            records: &records,
            ttls_at: b"\0\x06\0\x16\0\x26",
        };
        for (room, fits) in [(15, (0, 0)), (16, (1, 16)), (31, (1, 16)), (32, (2, 32)), (99, (2, 32))] {
            assert_eq!(answer.answers_within(room), fits, "{room}");
        }
    }
}
