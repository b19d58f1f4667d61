//! The twelve bytes every message begins with (RFC 1035 §4.1.1): where its fields are and what their values mean.
//!
//! No thread of its own; constants and accessors for the data plane and the load generator.

/// Bytes in a header.
pub const LEN: usize = 12;

/// Where each count stands.
pub const QDCOUNT: usize = 4;
/// Records in the answer section.
pub const ANCOUNT: usize = 6;
/// Records in the authority section.
pub const NSCOUNT: usize = 8;
/// Records in the additional section.
pub const ARCOUNT: usize = 10;

/// In byte 2: this is a response.
pub const QR: u8 = 0x80;
/// In byte 2: the four bits of the operation code.
pub const OPCODE_MASK: u8 = 0x78;
/// In byte 2: authoritative answer.
pub const AA: u8 = 0x04;
/// In byte 2: truncated; ask again over TCP.
pub const TC: u8 = 0x02;
/// In byte 2: recursion desired.
pub const RD: u8 = 0x01;
/// In byte 3: recursion available.
pub const RA: u8 = 0x80;
/// In byte 3: authentic data: who answers has validated it (RFC 4035 §3.2.3).
pub const AD: u8 = 0x20;
/// In byte 3: checking disabled (RFC 4035 §3.2.2).
pub const CD: u8 = 0x10;
/// In byte 3: the low four bits of the response code.
pub const RCODE_MASK: u8 = 0x0f;

/// Operation code of a standard query.
pub const OPCODE_QUERY: u8 = 0;
/// Dynamic update (RFC 2136).
pub const OPCODE_UPDATE: u8 = 5;

/// Response codes, with their IANA mnemonics.
pub mod rcode {
    /// No error.
    pub const NOERROR: u8 = 0;
    /// The query was malformed.
    pub const FORMERR: u8 = 1;
    /// The server failed.
    pub const SERVFAIL: u8 = 2;
    /// The name does not exist.
    pub const NXDOMAIN: u8 = 3;
    /// The operation is not implemented.
    pub const NOTIMP: u8 = 4;
    /// Refused by policy.
    pub const REFUSED: u8 = 5;
    /// A name exists that should not (RFC 2136).
    pub const YXDOMAIN: u8 = 6;
    /// A set of records exists that should not (RFC 2136).
    pub const YXRRSET: u8 = 7;
    /// A set of records that should exist does not (RFC 2136).
    pub const NXRRSET: u8 = 8;

    /// An EDNS version that the server does not know (RFC 6891 §9); its upper bits are in the OPT record.
    pub const BADVERS: u16 = 16;
    /// The client's cookie is none of the server's (RFC 7873 §8).
    pub const BADCOOKIE: u16 = 23;

    /// The mnemonic of a response code as `dig` and dnsperf print it.
    #[must_use]
    pub fn mnemonic(code: u8) -> &'static str {
        const NAMES: [&str; 16] = [
            "NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED", "YXDOMAIN", "YXRRSET",
            "NXRRSET", "NOTAUTH", "NOTZONE", "rcode11", "rcode12", "rcode13", "rcode14", "rcode15",
        ];
        NAMES[usize::from(code & 0x0f)]
    }
}

/// Reads a big-endian 16-bit field; 0 where the message is too short to have it.
#[inline]
#[must_use]
pub fn u16_at(message: &[u8], at: usize) -> u16 {
    match message.get(at..at + 2) {
        Some(field) => u16::from_be_bytes([field[0], field[1]]),
        None => 0,
    }
}
