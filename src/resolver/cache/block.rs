//! One answer in the cache, with its question: all of it in one block of memory, so that a look-up waits for one only.
//!
//! Runs on the worker that owns the cache.

use crate::resolver::question::{Answer, Question};
use crate::wire::header::rcode;

/// Bytes in front of the name: a [`Head`].
const HEAD_LEN: usize = 24;

/// Of the head's bytes, those that the question has.
const KEY_LEN: usize = 4;

/// Where it says until when it is not to be asked for once more.
const RECHECK_AT: usize = 12;

/// Bytes that an allocator takes for itself with each block, and to what it rounds up: glibc's.
const ALLOCATOR_BYTES: usize = 8;
const ALLOCATOR_STEP: usize = 16;

/// The head, the name, the records and the places of their TTLs, one behind the other.
pub(super) struct Block(Box<[u8]>);

/// What the head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) qtype: u16,
    pub(super) dnssec_ok: bool,
    pub(super) checking_disabled: bool,
    name_len: u8,
    pub(super) inserted_s: u32,
    pub(super) expires_s: u32,
    /// Until when it is not to be asked for once more if it is over. 0: it is.
    pub(super) recheck_s: u32,
    answers: u16,
    authorities: u16,
    records_len: u16,
    rcode: u8,
    authenticated: bool,
}

impl Head {
    /// From when on it is of no use at all: what failed is none once it is over, all else for so long.
    #[inline]
    pub(super) fn over_s(&self, max_stale_s: u32) -> u32 {
        if self.is_failure() { self.expires_s } else { self.expires_s.saturating_add(max_stale_s) }
    }

    /// It says that somebody could not answer.
    #[inline]
    pub(super) fn is_failure(&self) -> bool {
        is_failure(self.rcode)
    }
}

/// Whether a response code says neither what there is nor that there is nothing.
#[inline]
pub(super) fn is_failure(rcode: u8) -> bool {
    !matches!(rcode, rcode::NOERROR | rcode::NXDOMAIN)
}

/// The head's first bytes: all that a question has besides its name, whose length is among them.
#[inline]
fn key(question: &Question<'_>, name_len: u8) -> [u8; KEY_LEN] {
    let [low, high] = question.qtype.to_le_bytes();
    [low, high, u8::from(question.dnssec_ok) << 1 | u8::from(question.checking_disabled), name_len]
}

impl Block {
    /// `None` if it is longer than any message could make it.
    // cold: once for each answer that an upstream gives, not for those given from the cache
    pub(super) fn new(question: &Question<'_>, answer: &Answer<'_>, now_s: u32, ttl_s: u32) -> Option<Self> {
        let name_len = u8::try_from(question.name.len()).ok()?;
        let records_len = u16::try_from(answer.records.len()).ok()?;
        let len = HEAD_LEN + question.name.len() + answer.records.len() + answer.ttls_at.len();
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&key(question, name_len));
        for time_s in [now_s, now_s.saturating_add(ttl_s), 0] {
            bytes.extend_from_slice(&time_s.to_le_bytes());
        }
        for count in [answer.answers, answer.authorities, records_len] {
            bytes.extend_from_slice(&count.to_le_bytes());
        }
        bytes.extend_from_slice(&[answer.rcode, answer.authenticated.into()]);
        for part in [question.name, answer.records, answer.ttls_at] {
            bytes.extend_from_slice(part);
        }
        Some(Self(bytes.into()))
    }

    /// What it takes of the memory: with what the allocator needs for it.
    #[inline]
    pub(super) fn heap_len(&self) -> usize {
        (self.0.len() + ALLOCATOR_BYTES).next_multiple_of(ALLOCATOR_STEP)
    }

    /// Whether this is what was asked.
    #[inline]
    pub(super) fn answers_to(&self, question: &Question<'_>) -> bool {
        let Ok(name_len) = u8::try_from(question.name.len()) else { return false };
        self.0.starts_with(&key(question, name_len))
            && self.0.get(HEAD_LEN..HEAD_LEN + question.name.len()) == Some(question.name)
    }

    #[inline]
    pub(super) fn head(&self) -> Head {
        let bytes: &[u8; HEAD_LEN] = self.0.first_chunk().unwrap_or(&[0; HEAD_LEN]);
        let u16_at = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Head {
            qtype: u16_at(0),
            dnssec_ok: bytes[2] & 2 != 0,
            checking_disabled: bytes[2] & 1 != 0,
            name_len: bytes[3],
            inserted_s: u32_at(4),
            expires_s: u32_at(8),
            recheck_s: u32_at(RECHECK_AT),
            answers: u16_at(16),
            authorities: u16_at(18),
            records_len: u16_at(20),
            rcode: bytes[22],
            authenticated: bytes[23] != 0,
        }
    }

    pub(super) fn set_recheck_s(&mut self, recheck_s: u32) {
        if let Some(bytes) = self.0.get_mut(RECHECK_AT..RECHECK_AT + 4) {
            bytes.copy_from_slice(&recheck_s.to_le_bytes());
        }
    }

    /// The name, lower-cased, in wire form.
    #[inline]
    pub(super) fn name(&self) -> &[u8] {
        self.0.get(HEAD_LEN..HEAD_LEN + usize::from(self.head().name_len)).unwrap_or_default()
    }

    /// The answer, with the TTL that it had when it came.
    #[inline]
    pub(super) fn answer(&self) -> Answer<'_> {
        let head = self.head();
        let behind_name = self.0.get(HEAD_LEN + usize::from(head.name_len)..).unwrap_or_default();
        let (records, ttls_at) = behind_name.split_at_checked(head.records_len.into()).unwrap_or_default();
        Answer {
            rcode: head.rcode,
            authenticated: head.authenticated,
            answers: head.answers,
            authorities: head.authorities,
            ttl_s: head.expires_s - head.inserted_s,
            records,
            ttls_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question<'_> = Question {
        name: b"\x03www\x07example\0",
        name_hash: 7,
        qtype: 0x1234,
        dnssec_ok: true,
        checking_disabled: false,
    };
    const ANSWER: Answer<'_> = Answer {
        rcode: 3,
        authenticated: true,
        answers: 0x102,
        authorities: 0x304,
        ttl_s: 300,
        records: b"records",
        ttls_at: b"\0\x02\0\x04",
    };

    #[test]
    fn what_went_in_comes_out() {
        let mut block = Block::new(&QUESTION, &ANSWER, 1_000, 300).unwrap();
        assert_eq!(block.answer(), ANSWER);
        assert_eq!(block.name(), QUESTION.name);
        block.set_recheck_s(0x0102_0304);
        let head = block.head();
        assert_eq!((head.qtype, head.dnssec_ok, head.checking_disabled), (0x1234, true, false));
        assert_eq!((head.inserted_s, head.expires_s, head.recheck_s), (1_000, 1_300, 0x0102_0304));
        assert_eq!(block.answer(), ANSWER);
    }

    #[test]
    fn it_answers_to_its_question_and_to_no_other() {
        let block = Block::new(&QUESTION, &ANSWER, 1_000, 300).unwrap();
        assert!(block.answers_to(&QUESTION));
        for other in [
            Question { name: b"\x03wwx\x07example\0", ..QUESTION },
            Question { name: b"\x03www\x07example\0r", ..QUESTION },
            Question { name: &[0; 400], ..QUESTION },
            Question { qtype: 0x1235, ..QUESTION },
            Question { dnssec_ok: false, ..QUESTION },
            Question { checking_disabled: true, ..QUESTION },
        ] {
            assert!(!block.answers_to(&other), "{other:?}");
        }
    }

    #[test]
    fn what_no_message_could_have_is_not_kept() {
        let long = vec![0; 65_536];
        assert!(Block::new(&Question { name: &long[..256], ..QUESTION }, &ANSWER, 0, 1).is_none());
        assert!(Block::new(&QUESTION, &Answer { records: &long, ..ANSWER }, 0, 1).is_none());
        assert!(Block::new(&QUESTION, &Answer { records: &long[1..], ..ANSWER }, 0, 1).is_some());
    }
}
