//! Reading the records of a message that somebody else has written, and asking for it: pure, and safe with any bytes.
//!
//! Used by the load generator, and where another server's answers are taken.

use super::header;
use super::name::{MAX_LABEL_LEN, MAX_LEN, Name};
use super::query::skip_name;
use super::record::CLASS_IN;

/// A query for one name and type of class IN, with RD set.
#[must_use]
pub fn write_query(id: u16, name: &Name, qtype: u16) -> Vec<u8> {
    let [id_high, id_low] = id.to_be_bytes();
    let header = [id_high, id_low, header::RD, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    [&header[..], name.as_wire(), &qtype.to_be_bytes(), &CLASS_IN.to_be_bytes()].concat()
}

/// One record of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Where its owner's name begins in the message.
    pub owner_at: usize,
    /// Its type.
    pub rtype: u16,
    /// Its class.
    pub class: u16,
    /// How long it may be kept.
    pub ttl_s: u32,
    /// Its data.
    pub rdata: &'a [u8],
    /// Where its data begins in the message: names in it may point back.
    pub rdata_at: usize,
}

/// The records of `message`: answers, authorities, additional ones. Ends early where the message is broken.
pub fn records(message: &[u8]) -> impl Iterator<Item = RecordView<'_>> {
    let counts = [header::ANCOUNT, header::NSCOUNT, header::ARCOUNT];
    let read = || {
        let mut at = header::LEN;
        for _ in 0..header::u16_at(message, header::QDCOUNT) {
            at = skip_name(message, at)? + 4;
        }
        Some(at)
    };
    let count: usize = if message.len() < header::LEN {
        0
    } else {
        counts.iter().map(|&at| usize::from(header::u16_at(message, at))).sum()
    };
    let mut next = if count == 0 { None } else { read() };
    (0..count).map_while(move |_| {
        let owner_at = next?;
        let at = skip_name(message, owner_at)?;
        let fixed = message.get(at..at + 10)?;
        let rdata_at = at + 10;
        let rdata = message.get(rdata_at..rdata_at + usize::from(header::u16_at(fixed, 8)))?;
        next = Some(rdata_at + rdata.len());
        let [rtype, class, ttl_high, ttl_low] = [0, 2, 4, 6].map(|at| header::u16_at(fixed, at));
        let ttl_s = u32::from(ttl_high) << 16 | u32::from(ttl_low);
        Some(RecordView { owner_at, rtype, class, ttl_s, rdata, rdata_at })
    })
}

/// The records of the answer section.
pub fn answers(message: &[u8]) -> impl Iterator<Item = RecordView<'_>> {
    let count = if message.len() < header::LEN { 0 } else { header::u16_at(message, header::ANCOUNT) };
    records(message).take(count.into())
}

/// The name at `at` in wire form, with what it points to. `None` if it is broken or too long.
#[must_use]
pub fn expand_name(message: &[u8], at: usize) -> Option<Vec<u8>> {
    expand_name_into(message, at, &mut [0; MAX_LEN]).map(<[u8]>::to_vec)
}

/// The same, written to the front of `room`. Its pointers have to lead back, to what stands in front of the labels that
/// they end, as RFC 1035 §4.1.4 has it: so none leads round in circles.
#[must_use]
pub fn expand_name_into<'a>(message: &[u8], mut at: usize, room: &'a mut [u8; MAX_LEN]) -> Option<&'a [u8]> {
    let (mut begin, mut len) = (at, 0);
    loop {
        let label_len = usize::from(*message.get(at)?);
        if label_len >= 0xc0 {
            at = usize::from(header::u16_at(message.get(at..at + 2)?, 0) & 0x3fff);
            if !(header::LEN..begin).contains(&at) {
                return None;
            }
            begin = at;
            continue;
        }
        if label_len > MAX_LABEL_LEN {
            return None;
        }
        let label = message.get(at..=at + label_len)?;
        room.get_mut(len..=len + label_len)?.copy_from_slice(label);
        len += label.len();
        at += label.len();
        if label_len == 0 {
            return Some(&room[..len]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::rtype;

    /// `a.b CNAME x.b`, `x.b A 10.0.0.1`, and an OPT record.
    const ANSWER: &[u8] = b"\0\0\x80\0\0\x01\0\x02\0\0\0\x01\x01a\x01B\0\0\x01\0\x01\
        \xc0\x0c\0\x05\0\x01\0\0\0\x01\0\x04\x01X\xc0\x0e\
        \xc0\x1f\0\x01\0\x01\0\0\0\x01\0\x04\x0a\0\0\x01\
        \0\0\x29\x04\xd0\0\0\0\0\0\0";

    #[test]
    fn records_are_told_with_their_data() {
        let all: Vec<_> = records(ANSWER).collect();
        assert_eq!(
            all.iter().map(|view| view.rtype).collect::<Vec<_>>(),
            [rtype::CNAME, rtype::A, rtype::OPT]
        );
        assert_eq!(all[1].rdata, [10, 0, 0, 1]);
        assert_eq!((all[1].class, all[1].ttl_s, all[1].owner_at), (1, 1, 37));
        assert_eq!(expand_name(ANSWER, all[0].rdata_at).unwrap(), b"\x01X\x01B\0");
        assert_eq!(answers(ANSWER).count(), 2);
    }

    #[test]
    fn broken_messages_end_early_and_names_in_circles_are_none() {
        for len in 0..ANSWER.len() {
            assert!(records(&ANSWER[..len]).count() < 3, "{len}");
        }
        let mut circle = ANSWER.to_vec();
        circle[32] = 0xc0;
        circle[33] = 32;
        assert_eq!(expand_name(&circle, 32), None);
        assert_eq!(expand_name(b"\x41", 0), None);
    }

    #[test]
    fn a_pointer_leads_back_and_not_into_the_header() {
        let at = |bytes: &[u8], at: usize| expand_name(&[&[0; 12], bytes].concat(), at);
        assert_eq!(at(b"\x01a\0\x01b\xc0\x0c", 15).unwrap(), b"\x01b\x01a\0");
        assert_eq!(at(b"\xc0\x0e\x01a\0", 12), None, "forward");
        assert_eq!(at(b"\x01a\xc0\x0c", 12), None, "round in a circle");
        assert_eq!(at(b"\xc0\0", 12), None, "into the header");
    }

    #[test]
    fn a_name_has_255_bytes_at_most_with_what_it_points_to() {
        let labels = |count: usize| b"\x01a".repeat(count);
        let message = [&[0; 12][..], &labels(126), b"\0\x01b\xc0\x0c\x02bb\xc0\x0c"].concat();
        assert_eq!(expand_name(&message, 265).unwrap().len(), 255);
        assert_eq!(expand_name(&message, 269), None);
    }
}
