//! Names that are answered here and never upstream: nobody there knows anything of them, or should learn that they were
//! asked.
//!
//! Pure, and nothing is allocated; a worker asks it of a name that is not in the cache.
//!
//! | names | answer | by |
//! |---|---|---|
//! | `localhost`, and below it | loopback's addresses | RFC 6761 §6.3 |
//! | `invalid`, `test` | no such name | RFC 6761 §6.4, §6.2 |
//! | `onion` | no such name | RFC 7686 §2 |
//! | `local` | no such name | RFC 6762 §22.1 |
//! | reverse names of addresses that are not unique | an empty zone | RFC 6303, RFC 7793 |
//! | those of `127.0.0.1` and `::1` | `localhost` | RFC 6303 §4.2 |
//! | `home.arpa` | an empty zone | RFC 8375 §4 |
//! | `resolver.arpa` | an empty zone: what an upstream designates is not us | RFC 9462 §6.1 |
//! | `service.arpa` | an empty zone | RFC 9665 |
//!
//! Not among them are `example`, `alt`, `ipv4only.arpa` and `internal`: a server should treat their names as any
//! others.

use std::net::{Ipv4Addr, Ipv6Addr};

use smallvec::SmallVec;

use crate::wire::header::{self, rcode};
use crate::wire::name::MAX_LEN;
use crate::wire::record::{self, rtype};

/// The record of an answer, as it stands in a message behind the header and one question.
pub type Record = SmallVec<[u8; RECORD_ROOM]>;

/// Room for the longest, which is an SOA record.
const RECORD_ROOM: usize = 64;
const _: () = assert!(record::FIXED_LEN + 2 + RNAME.len() + 20 <= RECORD_ROOM);

/// Delegation signer (RFC 4034).
const DS: u16 = 43;

/// Who is responsible for an empty zone (RFC 6303 §3).
const RNAME: &[u8] = b"\x06nobody\x07invalid\0";

/// The numbers of its SOA record but the last, which is the negative TTL: serial, refresh, retry, expire (RFC 6303 §3).
const SOA_NUMBERS: [u32; 4] = [1, 3_600, 1_200, 604_800];

/// What the addresses of this machine itself are called.
const LOCALHOST: &[u8] = b"\x09localhost\0";

/// What is answered. Each answer has one record, [`record`](Self::record): in the answer section, or, where there is
/// nothing, in the authority section, the SOA record of the zone that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialUse {
    /// The address of this machine itself: of IPv6, if that was asked for.
    Loopback,
    /// The address is this machine's: the name is `localhost`.
    Pointer,
    /// The name is a zone's, and its SOA record was asked for.
    Soa,
    /// The same, of its NS record: the zone is its own name server.
    Ns,
    /// The name has nothing of that type.
    NoData {
        /// Where in the name the zone's begins.
        zone_at: usize,
    },
    /// There is no such name.
    NxDomain {
        /// Where in the name the zone's begins. At its last byte it is the root.
        zone_at: usize,
    },
}

impl SpecialUse {
    /// The response code.
    #[must_use]
    pub fn rcode(self) -> u8 {
        if matches!(self, Self::NxDomain { .. }) { rcode::NXDOMAIN } else { rcode::NOERROR }
    }

    /// Whether the record is one of the authority section.
    #[must_use]
    pub fn is_negative(self) -> bool {
        matches!(self, Self::NoData { .. } | Self::NxDomain { .. })
    }

    /// The record, for a question of type `qtype`, which others may keep for `ttl_s` seconds. RFC 6303 §3 has three
    /// hours for it; but the reverse name of a private address may be registered at any time.
    #[must_use]
    pub fn record(self, qtype: u16, ttl_s: u32) -> Record {
        match self {
            Self::Loopback if qtype == rtype::AAAA => {
                encoded(0, qtype, ttl_s, &[&Ipv6Addr::LOCALHOST.octets()])
            }
            Self::Loopback => encoded(0, rtype::A, ttl_s, &[&Ipv4Addr::LOCALHOST.octets()]),
            Self::Pointer => encoded(0, rtype::PTR, ttl_s, &[LOCALHOST]),
            Self::Ns => encoded(0, rtype::NS, ttl_s, &[&pointer_to(0)]),
            Self::Soa => soa(0, ttl_s),
            Self::NoData { zone_at } | Self::NxDomain { zone_at } => soa(zone_at, ttl_s),
        }
    }
}

/// The SOA record of the zone whose name begins at `zone_at` in the question's.
fn soa(zone_at: usize, ttl_s: u32) -> Record {
    let mut numbers = [0; 20];
    for (bytes, number) in numbers.chunks_exact_mut(4).zip(SOA_NUMBERS.into_iter().chain([ttl_s])) {
        bytes.copy_from_slice(&number.to_be_bytes());
    }
    encoded(zone_at, rtype::SOA, ttl_s, &[&pointer_to(zone_at), RNAME, &numbers])
}

/// A record of the name that begins at `owner_at` in the question's.
fn encoded(owner_at: usize, rtype: u16, ttl_s: u32, rdata: &[&[u8]]) -> Record {
    let len = rdata.iter().map(|part| part.len()).sum::<usize>();
    #[allow(clippy::cast_possible_truncation)] // a few dozen bytes
    let len = len as u16;
    let mut record = Record::new();
    record.extend_from_slice(&pointer_to(owner_at));
    record.extend_from_slice(&rtype.to_be_bytes());
    record.extend_from_slice(&record::CLASS_IN.to_be_bytes());
    record.extend_from_slice(&ttl_s.to_be_bytes());
    record.extend_from_slice(&len.to_be_bytes());
    rdata.iter().for_each(|part| record.extend_from_slice(part));
    record
}

/// A pointer to what begins at `at` in the question's name (RFC 1035 §4.1.4).
fn pointer_to(at: usize) -> [u8; 2] {
    #[allow(clippy::cast_possible_truncation)] // within a name: below 12 + 255, so within 14 bits too
    let [high, low] = ((header::LEN + at) as u16).to_be_bytes();
    [0xc0 | high, low]
}

/// The answer for `name`, a wire name in lower case, if it is one of those. `None` is not only for all other names: the
/// DS records of an empty zone are its parent's, which alone can prove that it is not signed (RFC 8375 §4).
#[must_use]
pub fn local_answer(name: &[u8], qtype: u16) -> Option<SpecialUse> {
    let last = label_starts(name).last()?;
    match name.get(last..)? {
        b"\x04arpa\0" => in_arpa(name, qtype),
        LOCALHOST => Some(match qtype {
            rtype::A | rtype::AAAA | rtype::ANY => SpecialUse::Loopback,
            _ => in_zone(last, qtype, true),
        }),
        // It is the root that does not have them.
        b"\x07invalid\0" | b"\x04test\0" | b"\x05onion\0" | b"\x05local\0" => {
            Some(SpecialUse::NxDomain { zone_at: name.len() - 1 })
        }
        _ => None,
    }
}

/// Which document says that `name`, a wire name in lower case, is answered here; `None` for all other names.
// cold: for `explain`, not for answers
#[must_use]
pub fn reason(name: &[u8]) -> Option<&'static str> {
    local_answer(name, rtype::ANY)?;
    let mut labels =
        label_starts(name).map(|at| label(name, at)).collect::<SmallVec<[_; 8]>>().into_iter().rev();
    Some(match (labels.next()?, labels.next()) {
        (b"localhost", _) => "RFC 6761 §6.3",
        (b"invalid", _) => "RFC 6761 §6.4",
        (b"test", _) => "RFC 6761 §6.2",
        (b"onion", _) => "RFC 7686 §2",
        (b"local", _) => "RFC 6762 §22.1",
        (_, Some(b"home")) => "RFC 8375 §4",
        (_, Some(b"resolver")) => "RFC 9462 §6.1",
        (_, Some(b"service")) => "RFC 9665",
        (_, _) if labels.next() == Some(b"100") => "RFC 7793",
        _ => "RFC 6303",
    })
}

/// The answer for a name below `arpa`.
#[cold]
fn in_arpa(name: &[u8], qtype: u16) -> Option<SpecialUse> {
    let mut starts = [0; MAX_LEN / 2];
    let mut labels = 0;
    for at in label_starts(name) {
        *starts.get_mut(labels)? = u8::try_from(at).ok()?;
        labels += 1;
    }
    // From the last to the first, without `arpa` and the one before it.
    let start = |i: usize| Some(usize::from(starts[..labels].iter().rev().nth(2 + i).copied()?));
    let front = |i: usize| start(i).map_or(&b""[..], |at| label(name, at));
    let parent_at = usize::from(*starts[..labels].iter().rev().nth(1)?);
    let (zone_at, exists, pointer) = match label(name, parent_at) {
        b"home" | b"resolver" | b"service" => (parent_at, false, false),
        b"in-addr" => {
            let octets = [0, 1, 2, 3].map(|i| octet(front(i)));
            let depth = v4_zone(octets)?;
            // The name of 127.0.0.1, and the two between it and its zone.
            let len = labels - 2;
            let on_the_way = len <= 4 && octets[..len] == [127, 0, 0, 1].map(Some)[..len];
            (start(depth - 1)?, on_the_way, on_the_way && len == 4)
        }
        b"ip6" => {
            let depth = v6_zone(front)?;
            let zone_at = start(depth - 1)?;
            (zone_at, false, depth == 32 && zone_at == 0 && front(31) == b"1")
        }
        _ => return None,
    };
    match qtype {
        rtype::PTR | rtype::ANY if pointer => Some(SpecialUse::Pointer),
        DS if zone_at == 0 => None,
        _ => Some(in_zone(zone_at, qtype, exists)),
    }
}

/// The answer of the zone that begins at `zone_at` in the name, where the name has nothing but what all zones have.
fn in_zone(zone_at: usize, qtype: u16, exists: bool) -> SpecialUse {
    match qtype {
        rtype::SOA | rtype::ANY if zone_at == 0 => SpecialUse::Soa,
        rtype::NS if zone_at == 0 => SpecialUse::Ns,
        _ if zone_at == 0 || exists => SpecialUse::NoData { zone_at },
        _ => SpecialUse::NxDomain { zone_at },
    }
}

/// How many octets the name of the locally served zone has that an address with these, the highest first, is in.
fn v4_zone(octets: [Option<u8>; 4]) -> Option<usize> {
    match octets.map(|octet| octet.map_or(-1, i16::from)) {
        [0 | 10 | 127, ..] => Some(1),
        [100, 64..=127, ..] | [169, 254, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(2),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(3),
        [255, 255, 255, 255] => Some(4),
        _ => None,
    }
}

/// The same of the nibbles of an IPv6 address, as labels, the highest first.
fn v6_zone<'a>(nibble: impl Fn(usize) -> &'a [u8]) -> Option<usize> {
    let begins = |digits: &[u8]| digits.iter().enumerate().all(|(i, digit)| nibble(i) == [*digit]);
    match (nibble(0), nibble(1), nibble(2)) {
        (b"f", b"d", _) => Some(2),
        (b"f", b"e", b"8" | b"9" | b"a" | b"b") => Some(3),
        _ if begins(b"20010db8") => Some(8),
        _ if begins(&[b'0'; 31]) && matches!(nibble(31), b"0" | b"1") => Some(32),
        _ => None,
    }
}

/// An octet as a reverse name has it: no zero before others.
fn octet(label: &[u8]) -> Option<u8> {
    let canonical = matches!(label, [b'0'] | [b'1'..=b'9', ..]) && label.len() <= 3;
    let digit = |digit: &u8| digit.is_ascii_digit().then(|| u16::from(digit - b'0'));
    let value = label.iter().filter(|_| canonical).try_fold(0, |value, it| Some(value * 10 + digit(it)?))?;
    u8::try_from(value).ok().filter(|_| canonical)
}

/// The bytes of the label that begins at `at`.
fn label(name: &[u8], at: usize) -> &[u8] {
    let len = name.get(at).map_or(0, |&len| usize::from(len));
    name.get(at + 1..at + 1 + len).unwrap_or_default()
}

/// Where the labels of a name begin, the root aside.
fn label_starts(name: &[u8]) -> impl Iterator<Item = usize> {
    let mut next = 0;
    std::iter::from_fn(move || {
        let at = next;
        let len = *name.get(at).filter(|len| **len > 0)?;
        next += 1 + usize::from(len);
        Some(at)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::name::Name;

    fn wire(text: &str) -> Vec<u8> {
        Name::from_text(text).unwrap().as_wire().to_vec()
    }

    fn local(text: &str, qtype: u16) -> Option<SpecialUse> {
        local_answer(&wire(text), qtype)
    }

    /// What is in the zone `zone`, and so has its SOA record.
    fn zone_of(answer: Option<SpecialUse>, name: &str) -> Option<(u8, String)> {
        let (SpecialUse::NoData { zone_at } | SpecialUse::NxDomain { zone_at }) = answer? else {
            return None;
        };
        let zone = Name::from_wire(&wire(name)[zone_at..]).unwrap().to_string();
        Some((answer?.rcode(), zone))
    }

    #[test]
    fn localhost_is_this_machine() {
        for name in ["localhost", "a.localhost", "b.a.localhost"] {
            for qtype in [rtype::A, rtype::AAAA, rtype::ANY] {
                assert_eq!(local(name, qtype), Some(SpecialUse::Loopback));
            }
            for qtype in [rtype::MX, rtype::TXT, DS] {
                assert_eq!(zone_of(local(name, qtype), name), Some((rcode::NOERROR, "localhost.".into())));
            }
        }
        assert_eq!(local("localhost", rtype::SOA), Some(SpecialUse::Soa));
        assert_eq!(local("localhost", rtype::NS), Some(SpecialUse::Ns));
        assert_eq!(zone_of(local("a.localhost", rtype::NS), "a.localhost").unwrap().0, rcode::NOERROR);
    }

    #[test]
    fn names_that_do_not_exist_are_denied_for_the_root() {
        for top in ["invalid", "test", "onion", "local"] {
            for name in [top.to_owned(), format!("a.{top}"), format!("b.a.{top}")] {
                for qtype in [rtype::A, rtype::SOA, rtype::NS, rtype::ANY, DS] {
                    let denied = zone_of(local(&name, qtype), &name);
                    assert_eq!(denied, Some((rcode::NXDOMAIN, ".".into())), "{name}");
                }
            }
        }
    }

    #[test]
    fn reverse_names_of_addresses_that_are_not_unique_are_in_empty_zones() {
        let mut zones: Vec<String> = ["10", "168.192", "0", "127", "254.169", "2.0.192", "100.51.198"]
            .into_iter()
            .chain(["113.0.203", "255.255.255.255"])
            .map(str::to_owned)
            .chain((16..=31).map(|octet| format!("{octet}.172")))
            .chain((64..=127).map(|octet| format!("{octet}.100")))
            .map(|zone| format!("{zone}.in-addr.arpa."))
            .collect();
        let zeros = "0.".repeat(31);
        zones.extend(
            ["d.f", "8.e.f", "9.e.f", "a.e.f", "b.e.f", "8.b.d.0.1.0.0.2"]
                .map(|it| format!("{it}.ip6.arpa.")),
        );
        zones.extend([format!("0.{zeros}ip6.arpa."), format!("1.{zeros}ip6.arpa.")]);
        zones.extend(["home.arpa.", "resolver.arpa.", "service.arpa."].map(str::to_owned));
        assert_eq!(zones.len(), 9 + 16 + 64 + 6 + 2 + 3);
        for zone in zones {
            assert_eq!(local(&zone, rtype::SOA), Some(SpecialUse::Soa), "{zone}");
            assert_eq!(local(&zone, rtype::NS), Some(SpecialUse::Ns), "{zone}");
            assert_eq!(zone_of(local(&zone, rtype::A), &zone), Some((rcode::NOERROR, zone.clone())));
            assert_eq!(local(&zone, DS), None, "{zone}: its parent says that it is not signed");
            for name in [format!("9.{zone}"), format!("a.9.{zone}")] {
                assert_eq!(zone_of(local(&name, rtype::PTR), &name), Some((rcode::NXDOMAIN, zone.clone())));
                assert_eq!(zone_of(local(&name, DS), &name), Some((rcode::NXDOMAIN, zone.clone())));
            }
        }
    }

    #[test]
    fn the_addresses_of_loopback_have_their_name() {
        let six = format!("1.{}ip6.arpa", "0.".repeat(31));
        for name in ["1.0.0.127.in-addr.arpa", &six] {
            assert_eq!(local(name, rtype::PTR), Some(SpecialUse::Pointer));
            assert_eq!(zone_of(local(name, rtype::A), name).unwrap().0, rcode::NOERROR);
        }
        // There is something below these two (RFC 8020).
        for name in ["0.127.in-addr.arpa", "0.0.127.in-addr.arpa"] {
            assert_eq!(
                zone_of(local(name, rtype::PTR), name),
                Some((rcode::NOERROR, "127.in-addr.arpa.".into()))
            );
        }
        for name in ["2.0.0.127.in-addr.arpa", "1.127.in-addr.arpa", "1.1.0.0.127.in-addr.arpa"] {
            assert_eq!(zone_of(local(name, rtype::PTR), name).unwrap().0, rcode::NXDOMAIN, "{name}");
        }
    }

    #[test]
    fn it_is_told_which_document_says_so() {
        for (name, document) in [
            ("a.localhost", Some("RFC 6761 §6.3")),
            ("a.test", Some("RFC 6761 §6.2")),
            ("local", Some("RFC 6762 §22.1")),
            ("1.0.0.10.in-addr.arpa", Some("RFC 6303")),
            ("1.0.64.100.in-addr.arpa", Some("RFC 7793")),
            ("8.e.f.ip6.arpa", Some("RFC 6303")),
            ("a.home.arpa", Some("RFC 8375 §4")),
            ("8.8.8.8.in-addr.arpa", None),
            ("example", None),
        ] {
            assert_eq!(reason(&wire(name)), document, "{name}");
        }
    }

    #[test]
    fn all_other_names_are_asked_upstream() {
        let long = format!("1.{}1.ip6.arpa", "0.".repeat(30));
        for name in [
            ".",
            "com",
            "example",
            "www.example.com",
            "localhost.example",
            "notlocalhost",
            "x\\009localhost",
            "arpa",
            "in-addr.arpa",
            "ip6.arpa",
            "172.in-addr.arpa",
            "15.172.in-addr.arpa",
            "32.172.in-addr.arpa",
            "192.in-addr.arpa",
            "0.192.in-addr.arpa",
            "1.0.192.in-addr.arpa",
            "63.100.in-addr.arpa",
            "128.100.in-addr.arpa",
            "255.in-addr.arpa",
            "254.255.255.255.in-addr.arpa",
            "010.in-addr.arpa",
            "8.8.8.8.in-addr.arpa",
            "f.ip6.arpa",
            "e.f.ip6.arpa",
            "c.e.f.ip6.arpa",
            "c.f.ip6.arpa",
            "2.ip6.arpa",
            "b.d.0.1.0.0.2.ip6.arpa",
            "7.b.d.0.1.0.0.2.ip6.arpa",
            "0.0.ip6.arpa",
            &long,
            "fd.ip6.arpa",
            "10.example.arpa",
            "e164.arpa",
            "homes.arpa",
            "ipv4only.arpa",
            "alt",
            "a.internal",
        ] {
            assert_eq!(local(name, rtype::PTR), None, "{name}");
        }
    }

    #[test]
    fn records_stand_as_messages_have_them() {
        let soa_end =
            *b"\xc0\x0e\x06nobody\x07invalid\0\0\0\0\x01\0\0\x0e\x10\0\0\x04\xb0\0\x09\x3a\x80\0\0\0\x07";
        let denied = local("9.10.in-addr.arpa", rtype::PTR).unwrap();
        assert!(denied.is_negative());
        assert_eq!(
            denied.record(rtype::PTR, 7).as_slice(),
            [&b"\xc0\x0e\0\x06\0\x01\0\0\0\x07\0\x26"[..], &soa_end].concat()
        );
        for (name, qtype, record) in [
            ("localhost", rtype::A, &b"\xc0\x0c\0\x01\0\x01\0\0\0\x07\0\x04\x7f\0\0\x01"[..]),
            (
                "localhost",
                rtype::AAAA,
                b"\xc0\x0c\0\x1c\0\x01\0\0\0\x07\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01",
            ),
            ("home.arpa", rtype::NS, b"\xc0\x0c\0\x02\0\x01\0\0\0\x07\0\x02\xc0\x0c"),
            ("1.0.0.127.in-addr.arpa", rtype::PTR, b"\xc0\x0c\0\x0c\0\x01\0\0\0\x07\0\x0b\x09localhost\0"),
        ] {
            let answer = local(name, qtype).unwrap();
            assert!(!answer.is_negative());
            assert_eq!(answer.record(qtype, 7).as_slice(), record, "{name}");
        }
        assert!(!local("a.local", rtype::A).unwrap().record(rtype::A, 7).spilled());
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_without_a_panic(bytes: Vec<u8>, tail in 0..6usize, qtype: u16) {
            let tails: [&[u8]; 6] = [
                b"", b"\x04arpa\0", b"\x07in-addr\x04arpa\0", b"\x0210\x07in-addr\x04arpa\0", b"\x03ip6\x04arpa\0",
                b"\x05local\0",
            ];
            let name = [&bytes[..], tails[tail]].concat();
            if let Some(answer) = local_answer(&name, qtype) {
                prop_assert!(answer.record(qtype, 1).len() > record::FIXED_LEN);
            }
        }
    }
}
