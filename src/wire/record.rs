//! Record types and classes, and the encoding of records ready to be copied into an answer.
//!
//! Encoding allocates; it runs on the thread `tables` when a table is built, never on a worker.

/// Class IN, the Internet.
pub const CLASS_IN: u16 = 1;
/// Class CHAOS, for what a server says of itself (RFC 4892).
pub const CLASS_CHAOS: u16 = 3;

/// Class ANY, in questions only.
pub const CLASS_ANY: u16 = 255;

/// The pointer to the question's name (RFC 1035 §4.1.4): the owner of every record in an answer section of ours.
pub const QUESTION_POINTER: [u8; 2] = [0xc0, 12];

/// Bytes of a record before its data, its owner being a pointer: owner, type, class, TTL, length.
pub const FIXED_LEN: usize = 2 + 2 + 2 + 4 + 2;

/// Record types by their IANA numbers.
pub mod rtype {
    /// IPv4 address (RFC 1035).
    pub const A: u16 = 1;
    /// Name server (RFC 1035).
    pub const NS: u16 = 2;
    /// Alias (RFC 1035).
    pub const CNAME: u16 = 5;
    /// Start of authority (RFC 1035).
    pub const SOA: u16 = 6;
    /// Domain name pointer, for addresses turned into names (RFC 1035).
    pub const PTR: u16 = 12;
    /// Mail exchange (RFC 1035).
    pub const MX: u16 = 15;
    /// Text (RFC 1035).
    pub const TXT: u16 = 16;
    /// IPv6 address (RFC 3596).
    pub const AAAA: u16 = 28;
    /// Location of a service (RFC 2782).
    pub const SRV: u16 = 33;
    /// Alias of all names below one (RFC 6672).
    pub const DNAME: u16 = 39;
    /// EDNS(0) pseudo-record (RFC 6891).
    pub const OPT: u16 = 41;
    /// Signature of the records of one name and type (RFC 4034 §3).
    pub const RRSIG: u16 = 46;
    /// Which name comes next, and so which do not exist (RFC 4034 §4).
    pub const NSEC: u16 = 47;
    /// The same of hashed names (RFC 5155).
    pub const NSEC3: u16 = 50;
    /// Key of a zone's parent that its own is vouched for by (RFC 4034 §5).
    pub const DS: u16 = 43;
    /// Key of a zone (RFC 4034 §2).
    pub const DNSKEY: u16 = 48;
    /// How a service is reached (RFC 9460).
    pub const SVCB: u16 = 64;
    /// The same for HTTP (RFC 9460 §9).
    pub const HTTPS: u16 = 65;
    /// Transaction signature (RFC 8945), the last record of a message.
    pub const TSIG: u16 = 250;
    /// Incremental zone transfer (RFC 1995), in questions only.
    pub const IXFR: u16 = 251;
    /// Zone transfer (RFC 5936), in questions only.
    pub const AXFR: u16 = 252;
    /// Any type, in questions only; answered minimally (RFC 8482).
    pub const ANY: u16 = 255;

    /// Types that may stand in a query file, by mnemonic.
    const MNEMONICS: &[(&str, u16)] = &[
        ("A", A),
        ("NS", NS),
        ("MD", 3),
        ("MF", 4),
        ("CNAME", CNAME),
        ("SOA", SOA),
        ("MB", 7),
        ("MG", 8),
        ("MR", 9),
        ("NULL", 10),
        ("WKS", 11),
        ("PTR", PTR),
        ("HINFO", 13),
        ("MINFO", 14),
        ("MX", MX),
        ("TXT", TXT),
        ("RP", 17),
        ("AFSDB", 18),
        ("X25", 19),
        ("ISDN", 20),
        ("RT", 21),
        ("NSAP", 22),
        ("NSAP-PTR", 23),
        ("SIG", 24),
        ("KEY", 25),
        ("PX", 26),
        ("GPOS", 27),
        ("AAAA", AAAA),
        ("LOC", 29),
        ("NXT", 30),
        ("EID", 31),
        ("NIMLOC", 32),
        ("SRV", SRV),
        ("ATMA", 34),
        ("NAPTR", 35),
        ("KX", 36),
        ("CERT", 37),
        ("A6", 38),
        ("DNAME", DNAME),
        ("SINK", 40),
        ("APL", 42),
        ("DS", DS),
        ("SSHFP", 44),
        ("IPSECKEY", 45),
        ("RRSIG", RRSIG),
        ("NSEC", NSEC),
        ("DNSKEY", DNSKEY),
        ("DHCID", 49),
        ("NSEC3", NSEC3),
        ("NSEC3PARAM", 51),
        ("TLSA", 52),
        ("SMIMEA", 53),
        ("HIP", 55),
        ("NINFO", 56),
        ("RKEY", 57),
        ("TALINK", 58),
        ("CDS", 59),
        ("CDNSKEY", 60),
        ("OPENPGPKEY", 61),
        ("CSYNC", 62),
        ("ZONEMD", 63),
        ("SVCB", SVCB),
        ("HTTPS", HTTPS),
        ("DSYNC", 66),
        ("SPF", 99),
        ("UINFO", 100),
        ("UID", 101),
        ("GID", 102),
        ("UNSPEC", 103),
        ("NID", 104),
        ("L32", 105),
        ("L64", 106),
        ("LP", 107),
        ("EUI48", 108),
        ("EUI64", 109),
        ("TKEY", 249),
        ("TSIG", TSIG),
        ("IXFR", IXFR),
        ("AXFR", AXFR),
        ("MAILB", 253),
        ("MAILA", 254),
        ("ANY", ANY),
        ("URI", 256),
        ("CAA", 257),
        ("AVC", 258),
        ("DOA", 259),
        ("AMTRELAY", 260),
        ("RESINFO", 261),
        ("WALLET", 262),
        ("CLA", 263),
        ("IPN", 264),
        ("TA", 32_768),
        ("DLV", 32_769),
    ];

    /// The number of a type given by mnemonic in any case, or as `TYPE123` (RFC 3597).
    #[must_use]
    pub fn from_text(text: &str) -> Option<u16> {
        let known = MNEMONICS.iter().find(|(mnemonic, _)| mnemonic.eq_ignore_ascii_case(text));
        known.map(|&(_, number)| number).or_else(|| {
            let (prefix, digits) = text.split_at_checked(4)?;
            let number = prefix.eq_ignore_ascii_case("TYPE").then_some(digits)?;
            number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok())?
        })
    }
}

/// Appends a record of class IN, its owner the question's name.
///
/// # Panics
/// If `rdata` is longer than the 65,535 bytes that its length field can say.
pub fn push_record(out: &mut Vec<u8>, rtype: u16, ttl_s: u32, rdata: &[u8]) {
    let rdata_len = u16::try_from(rdata.len()).expect("record data is bounded by its producers");
    out.extend_from_slice(&QUESTION_POINTER);
    out.extend_from_slice(&rtype.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl_s.to_be_bytes());
    out.extend_from_slice(&rdata_len.to_be_bytes());
    out.extend_from_slice(rdata);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_known_by_mnemonic_and_by_number() {
        assert_eq!(rtype::from_text("aaaa"), Some(28));
        assert_eq!(rtype::from_text("TYPE65280"), Some(65280));
        assert_eq!(["md", "NSAP-PTR", "DLV"].map(rtype::from_text), [Some(3), Some(23), Some(32_769)]);
        for wrong in ["", "BOGUS", "TYPE", "TYPE65536", "TYPE-1", "TYPE+1", "ÄÄ"] {
            assert_eq!(rtype::from_text(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_record_is_laid_out_as_on_the_wire() {
        let mut out = Vec::new();
        push_record(&mut out, rtype::A, 258, &[192, 0, 2, 1]);
        assert_eq!(out, [0xc0, 12, 0, 1, 0, 1, 0, 0, 1, 2, 0, 4, 192, 0, 2, 1]);
    }
}
