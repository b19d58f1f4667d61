//! What a worker sends to the servers that it asks.
//!
//! Runs on the workers; it writes where it is told to.

use super::question::Question;
use crate::wire::edns::{MAX_PASSED_BY, PASSED_BY};
use crate::wire::header;
use crate::wire::name::MAX_LEN;
use crate::wire::record::CLASS_IN;
use crate::wire::response::{DEFAULT_UDP_LEN, OPT_LEN, opt_record};

/// Bytes of a query at most.
pub const MAX_QUERY_LEN: usize =
    header::LEN + MAX_LEN + 4 + OPT_LEN + 4 + 8 * MAX_PASSED_BY + 4 + (PADDED_LEN - 1);

/// What is encrypted is padded to a multiple of so many bytes, so that its length does not tell its name
/// (RFC 8467 §4.1).
const PADDED_LEN: usize = 128;

/// The option that pads (RFC 7830).
const PADDING: u16 = 12;

/// How an upstream is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct QueryForm<'a> {
    /// By EDNS(0). Without it nothing is said of DNSSEC, nor of who has passed the question on.
    pub edns: bool,
    /// With the case of the name's letters mixed by these random bits, one for each of its bytes: who forges an answer
    /// has to guess them, too.
    pub case_bits: Option<[u64; 4]>,
    /// The ids of the nodes that have passed the question on, this one among them. Of more than [`MAX_PASSED_BY`] the
    /// rest is left out.
    pub passed_by: &'a [u64],
    /// It is encrypted, and so padded, if it has EDNS.
    pub is_padded: bool,
}

/// Writes the query for `question` to the front of `out`, RD and AD set, and returns its length. The name, as it was
/// sent, begins behind the header.
///
/// # Panics
/// If `out` has no room for it; [`MAX_QUERY_LEN`] bytes are enough for any.
#[must_use]
pub fn write_query(out: &mut [u8], id: u16, question: &Question<'_>, form: &QueryForm<'_>) -> usize {
    let mut end = 0;
    let mut put = |bytes: &[u8]| {
        out[end..end + bytes.len()].copy_from_slice(bytes);
        end += bytes.len();
    };
    let [id_high, id_low] = id.to_be_bytes();
    // Only who sets AD or DO is told what has been validated (RFC 6840 §5.7); whether a client is to know it is seen
    // later.
    let flags = header::AD | if question.checking_disabled { header::CD } else { 0 };
    put(&[id_high, id_low, header::RD, flags, 0, 1, 0, 0, 0, 0, 0, u8::from(form.edns)]);
    put(question.name);
    put(&question.qtype.to_be_bytes());
    put(&CLASS_IN.to_be_bytes());
    if form.edns {
        let ids = &form.passed_by[..form.passed_by.len().min(MAX_PASSED_BY)];
        #[allow(clippy::cast_possible_truncation)] // eight of them at most
        let ids_len = 8 * ids.len() as u16;
        let ids_option_len = if ids.is_empty() { 0 } else { 4 + ids_len };
        let len = header::LEN + question.name.len() + 4 + OPT_LEN + usize::from(ids_option_len);
        let padding = form.is_padded.then(|| (len + 4).next_multiple_of(PADDED_LEN) - (len + 4));
        #[allow(clippy::cast_possible_truncation)] // fewer than 128
        let padding = padding.map(|padding| padding as u16);
        let options_len = ids_option_len + padding.map_or(0, |padding| 4 + padding);
        put(&opt_record(DEFAULT_UDP_LEN, 0, question.dnssec_ok, options_len));
        if !ids.is_empty() {
            put(&PASSED_BY.to_be_bytes());
            put(&ids_len.to_be_bytes());
            ids.iter().for_each(|id| put(&id.to_be_bytes()));
        }
        if let Some(padding) = padding {
            put(&PADDING.to_be_bytes());
            put(&padding.to_be_bytes());
            put(&[0; PADDED_LEN][..padding.into()]);
        }
    }
    if let Some(bits) = form.case_bits {
        mix_case(&mut out[header::LEN..header::LEN + question.name.len()], bits);
    }
    end
}

/// Makes those letters of a lower-cased wire name capital that have their bit set. Bytes that say a label's length are
/// no letters.
pub fn mix_case(name: &mut [u8], bits: [u64; 4]) {
    for (bytes, word) in name.chunks_mut(64).zip(bits) {
        for (i, byte) in bytes.iter_mut().enumerate().filter(|(_, byte)| byte.is_ascii_lowercase()) {
            *byte ^= u8::from(word >> i & 1 == 1) << 5;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::name::Name;
    use crate::wire::record::rtype::A;

    fn question(name: &[u8]) -> Question<'_> {
        Question { name, name_hash: 7, qtype: A, dnssec_ok: true, checking_disabled: false }
    }

    #[test]
    fn a_query_is_written_as_on_the_wire() {
        let mut out = [0xee; MAX_QUERY_LEN];
        let mut asked = question(b"\x03web\0");
        let len = write_query(&mut out, 0x1234, &asked, &QueryForm::default());
        assert_eq!(&out[..len], b"\x12\x34\x01\x20\0\x01\0\0\0\0\0\0\x03web\0\0\x01\0\x01");
        asked.checking_disabled = true;
        let form = QueryForm {
            edns: true,
            case_bits: Some([0b1010, 0, 0, 0]),
            passed_by: &[1, 2],
            is_padded: false,
        };
        let len = write_query(&mut out, 0x1234, &asked, &form);
        let expected = b"\x12\x34\x01\x30\0\x01\0\0\0\0\0\x01\x03WeB\0\0\x01\0\x01\
            \0\0\x29\x04\xd0\0\0\x80\0\0\x14\xfe\x1d\0\x10\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02";
        assert_eq!(&out[..len], expected);
    }

    #[test]
    fn the_longest_query_fits() {
        let longest = Name::from_text(&"a.".repeat(127)).unwrap();
        let name = longest.as_wire();
        let form =
            QueryForm { edns: true, case_bits: Some([u64::MAX; 4]), passed_by: &[5; 9], is_padded: false };
        let mut out = [0; MAX_QUERY_LEN];
        assert_eq!(write_query(&mut out, 1, &question(name), &form), 350);
        for ids in 0..=8 {
            let form = QueryForm { is_padded: true, passed_by: &[5; 9][..ids], ..form };
            assert!(write_query(&mut out, 1, &question(name), &form) <= MAX_QUERY_LEN);
        }
        assert_eq!(out[header::LEN..header::LEN + 255], name.to_ascii_uppercase());
    }

    #[test]
    fn what_is_encrypted_has_a_length_that_tells_little() {
        let mut out = [0xee; MAX_QUERY_LEN];
        for labels in 1..=100 {
            let name = Name::from_text(&"a.".repeat(labels)).unwrap();
            for passed_by in [&[][..], &[7], &[7; 8]] {
                let form = QueryForm { edns: true, case_bits: None, passed_by, is_padded: true };
                let len = write_query(&mut out, 1, &question(name.as_wire()), &form);
                assert!(len.is_multiple_of(PADDED_LEN), "{len} of {labels} labels");
                let opt = header::LEN + name.as_wire().len() + 4;
                let options = usize::from(header::u16_at(&out, opt + OPT_LEN - 2));
                assert_eq!(opt + OPT_LEN + options, len, "the OPT record ends the message");
            }
        }
        let form = QueryForm { edns: false, case_bits: None, passed_by: &[], is_padded: true };
        assert_eq!(
            write_query(&mut out, 1, &question(b"\x03web\0"), &form),
            21,
            "without EDNS there is nothing to pad"
        );
    }
}
