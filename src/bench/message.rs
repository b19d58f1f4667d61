//! The records of a received message, as far as the generator looks at them: pure, and safe with any bytes.

use crate::wire::header;
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// One record of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordView<'a> {
    pub(super) rtype: u16,
    pub(super) rdata: &'a [u8],
    /// Where its data begins in the message: names in it may point back.
    pub(super) rdata_at: usize,
}

/// The records of `message`: answers, authorities, additional ones. Ends early where the message is broken.
pub(super) fn records(message: &[u8]) -> impl Iterator<Item = RecordView<'_>> {
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
        let at = skip_name(message, next?)?;
        let fixed = message.get(at..at + 10)?;
        let rdata_at = at + 10;
        let rdata = message.get(rdata_at..rdata_at + usize::from(header::u16_at(fixed, 8)))?;
        next = Some(rdata_at + rdata.len());
        Some(RecordView { rtype: header::u16_at(fixed, 0), rdata, rdata_at })
    })
}

/// The records of the answer section.
pub(super) fn answers(message: &[u8]) -> impl Iterator<Item = RecordView<'_>> {
    let count = if message.len() < header::LEN { 0 } else { header::u16_at(message, header::ANCOUNT) };
    records(message).take(count.into())
}

/// Where the name at `at` ends.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            len if len & 0xc0 == 0xc0 => return message.get(at + 1).map(|_| at + 2),
            len if len < 64 => at += 1 + usize::from(len),
            _ => return None,
        }
    }
}

/// The name at `at` in wire form and lower case, with what it points to. None if it is broken or goes round in circles.
pub(super) fn expand_name(message: &[u8], mut at: usize) -> Option<Vec<u8>> {
    let mut name = Vec::new();
    let mut pointers = 0;
    loop {
        let len = *message.get(at)?;
        if len & 0xc0 == 0xc0 {
            at = usize::from(header::u16_at(message.get(at..at + 2)?, 0) & 0x3fff);
            pointers += 1;
            if pointers > 127 {
                return None;
            }
            continue;
        }
        let label = message.get(at..=at + usize::from(len))?;
        name.extend(label.iter().map(u8::to_ascii_lowercase));
        if len == 0 {
            return Some(name);
        }
        if len > 63 || name.len() > 255 {
            return None;
        }
        at += 1 + usize::from(len);
    }
}

/// A question as people write it: `name type`.
pub(super) fn question_text(question: &[u8]) -> String {
    let (name, rest) = question.split_at(question.len() - 4);
    let name = Name::from_wire(name).map_or_else(|| "?".into(), |name| name.to_string());
    let name = name.strip_suffix('.').filter(|rest| !rest.is_empty()).unwrap_or(&name);
    format!("{name} {}", type_text(header::u16_at(rest, 0)))
}

/// A type as people write it.
pub(super) fn type_text(number: u16) -> String {
    let known = ["A", "AAAA", "PTR", "CNAME", "NS", "TXT", "SRV", "MX", "SOA", "ANY"];
    let found = known.into_iter().find(|text| rtype::from_text(text) == Some(number));
    found.map_or_else(|| format!("TYPE{number}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert_eq!(expand_name(ANSWER, all[0].rdata_at).unwrap(), b"\x01x\x01b\0");
        assert_eq!(answers(ANSWER).count(), 2);
    }

    #[test]
    fn questions_are_told_as_they_are_asked() {
        assert_eq!(question_text(b"\x01a\x01B\0\0\x1c\0\x01"), "a.B AAAA");
        assert_eq!(question_text(b"\0\xff\0\0\x01"), ". TYPE65280");
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
}
