//! Questions and types as people write them.

use crate::wire::header;
use crate::wire::name::Name;
use crate::wire::record::rtype;

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

    #[test]
    fn questions_are_told_as_they_are_asked() {
        assert_eq!(question_text(b"\x01a\x01B\0\0\x1c\0\x01"), "a.B AAAA");
        assert_eq!(question_text(b"\0\xff\0\0\x01"), ". TYPE65280");
    }
}
