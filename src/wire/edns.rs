//! EDNS(0) (RFC 6891): the OPT record of a query, and the options we know.
//!
//! Runs on the workers, for every packet that has an OPT record: no allocation, and bounds checked by the accesses.

use std::net::IpAddr;

use super::header::u16_at;

/// Option codes by their IANA numbers.
mod option {
    pub(super) const NSID: u16 = 3;
    pub(super) const CLIENT_SUBNET: u16 = 8;
    pub(super) const COOKIE: u16 = 10;
    pub(super) const TCP_KEEPALIVE: u16 = 11;
    pub(super) const EXTENDED_ERROR: u16 = 15;
}

/// Bytes of a client's part of a cookie (RFC 7873 §4).
pub const CLIENT_COOKIE_LEN: usize = 8;
/// Bytes of the server's part of a cookie as RFC 9018 has it, which all implementations of today share.
pub const SERVER_COOKIE_LEN: usize = 16;
/// Bytes of the name server identifier at most, so that all options and the longest question fit in 512 bytes.
pub const MAX_NSID_LEN: usize = 128;

/// The option of our own by which a node that passes a question on says so, that questions do not go round in circles:
/// the ids of all nodes that have passed it on, eight bytes each. Of the codes for local use (RFC 6891 §9); who does
/// not know it ignores it (§6.1.2).
pub const PASSED_BY: u16 = 65_053;
/// Ids in it at most: a question that so many nodes have passed on goes no further.
pub const MAX_PASSED_BY: usize = 8;

/// What a client says by EDNS(0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Edns {
    /// Bytes of UDP payload that the client can take.
    pub udp_payload_size: u16,
    /// EDNS version; we know version 0.
    pub version: u8,
    /// The client wants DNSSEC records (RFC 3225).
    pub dnssec_ok: bool,
    /// The client's cookie (RFC 7873).
    pub cookie: Option<Cookie>,
    /// The client wants to know which server this is (RFC 5001).
    pub wants_nsid: bool,
    /// The client wants to know how long it may keep its TCP connection (RFC 7828).
    pub wants_keepalive: bool,
    /// Where in the message it is said for whom a forwarder asks (RFC 7871): few do. 0 if that is not said.
    pub(crate) client_subnet_at: u16,
    /// Where in the message it is said which nodes have passed the question on: few do. 0 if that is not said.
    pub(crate) passed_by_at: u16,
}

/// The network of the client that a forwarder asks for (RFC 7871 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSubnet {
    /// An address in it; what is beyond the prefix is 0.
    pub address: IpAddr,
    /// Bits of it that are told.
    pub source_prefix_len: u8,
}

/// Bytes of a client subnet option at most, behind its code and length.
const MAX_CLIENT_SUBNET_LEN: usize = 4 + 16;

impl ClientSubnet {
    /// Reads the option; `None` if it is of a family of addresses that we do not know.
    fn parse(value: &[u8]) -> Result<Option<Self>, BadOption> {
        let (header, address) = value.split_first_chunk::<4>().ok_or(BadOption)?;
        let (source_prefix_len, scope) = (header[2], header[3]);
        let width: u8 = match u16_at(header, 0) {
            1 => 32,
            2 => 128,
            _ => return Ok(None),
        };
        // The scope is ours to say, and bits beyond the prefix have to be 0 (RFC 7871 §6).
        let beyond = (8 - source_prefix_len % 8) % 8;
        let clean = address.last().is_none_or(|last| last.trailing_zeros() >= beyond.into());
        if scope != 0
            || source_prefix_len > width
            || address.len() != usize::from(source_prefix_len.div_ceil(8))
            || !clean
        {
            return Err(BadOption);
        }
        let mut bytes = [0; 16];
        bytes[..address.len()].copy_from_slice(address);
        let address = match bytes.first_chunk::<4>() {
            Some(v4) if width == 32 => IpAddr::from(*v4),
            _ => IpAddr::from(bytes),
        };
        Ok(Some(Self { address, source_prefix_len }))
    }

    /// Reads the option whose value begins at `at`.
    #[cold]
    fn read_at(message: &[u8], at: usize) -> Option<Self> {
        Self::parse(option_at(message, at)?).ok()?
    }

    /// Bytes of the address that travel.
    fn address_len(&self) -> usize {
        self.source_prefix_len.div_ceil(8).into()
    }
}

/// The value of the option whose value begins at `at`.
fn option_at(message: &[u8], at: usize) -> Option<&[u8]> {
    let len = u16_at(message.get(at.checked_sub(2)?..at)?, 0);
    message.get(at..at + usize::from(len))
}

/// A cookie as a client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    /// The client's part, which goes back unchanged.
    pub client: [u8; CLIENT_COOKIE_LEN],
    /// The server's part, if it can be one of ours.
    pub server: Option<[u8; SERVER_COOKIE_LEN]>,
    /// There is a server's part that cannot be one of ours, by its length.
    pub foreign: bool,
}

/// Extended DNS errors (RFC 8914) that we tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtendedError {
    /// What is told is over; nobody could be asked for what it is now.
    StaleAnswer,
    /// There could be no answer a moment ago.
    CachedError,
    /// There is too much to do at the moment.
    NotReady,
    /// The same as [`StaleAnswer`](Self::StaleAnswer), of a name that did not exist.
    StaleNxdomain,
    /// Nobody who could be asked has answered.
    NoReachableAuthority,
    /// What an upstream has told, by its number.
    OfUpstream(u16),
    /// The client's address may not ask.
    Prohibited,
    /// The name is in none of our zones.
    NotAuthoritative,
    /// We do not do what was asked for: transfers, and other classes.
    NotSupported,
}

impl ExtendedError {
    /// The option that says it.
    pub(super) fn option(self) -> [u8; EXTENDED_ERROR_LEN] {
        let ([code_high, code_low], [high, low]) =
            (option::EXTENDED_ERROR.to_be_bytes(), self.code().to_be_bytes());
        [code_high, code_low, 0, 2, high, low]
    }

    /// Its IANA number.
    fn code(self) -> u16 {
        match self {
            Self::StaleAnswer => 3,
            Self::CachedError => 13,
            Self::NotReady => 14,
            Self::Prohibited => 18,
            Self::StaleNxdomain => 19,
            Self::NotAuthoritative => 20,
            Self::NotSupported => 21,
            Self::NoReachableAuthority => 22,
            Self::OfUpstream(code) => code,
        }
    }
}

/// Bytes of the option that explains a response code.
pub(super) const EXTENDED_ERROR_LEN: usize = 6;

/// The options of a response, but for the one that explains its code.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Both parts of the cookie.
    pub cookie: Option<([u8; CLIENT_COOKIE_LEN], [u8; SERVER_COOKIE_LEN])>,
    /// Which server this is.
    pub nsid: Option<&'a [u8]>,
    /// How long an idle TCP connection may stay, in units of 100 ms.
    pub keepalive_100ms: Option<u16>,
    /// For which network the answer was asked.
    pub client_subnet: Option<&'a ClientSubnet>,
}

/// Bytes of all options at most, but for the one that explains a response code.
pub(super) const MAX_OPTIONS_LEN: usize =
    4 + CLIENT_COOKIE_LEN + SERVER_COOKIE_LEN + 4 + MAX_NSID_LEN + 6 + 4 + MAX_CLIENT_SUBNET_LEN;

/// The options in the data of a query's OPT record are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption;

impl Edns {
    /// Reads an OPT record: its ten bytes from type to length, and its data, which begins at `data_at` in the message.
    ///
    /// # Errors
    /// [`BadOption`] when an option does not fit in the data, a cookie has a length that none can have
    /// (RFC 7873 §5.2.2), or a client's network is not written as it has to be (RFC 7871 §6).
    pub(super) fn parse(fixed: &[u8; 10], data_at: usize, mut data: &[u8]) -> Result<Self, BadOption> {
        let end = data_at + data.len();
        let mut edns = Self {
            udp_payload_size: u16_at(fixed, 2),
            version: fixed[5],
            dnssec_ok: fixed[6] & 0x80 != 0,
            ..Self::default()
        };
        // What the data of another version means, nobody knows.
        while edns.version == 0 && !data.is_empty() {
            let (code, value, after) = split_option(data).ok_or(BadOption)?;
            let value_at = || u16::try_from(end - after.len() - value.len()).map_err(|_| BadOption);
            match code {
                // A second cookie is ignored (RFC 7873 §5.2).
                option::COOKIE if edns.cookie.is_none() => edns.cookie = Some(Cookie::parse(value)?),
                option::NSID => edns.wants_nsid = true,
                option::TCP_KEEPALIVE => edns.wants_keepalive = true,
                option::CLIENT_SUBNET if ClientSubnet::parse(value)?.is_some() => {
                    edns.client_subnet_at = value_at()?;
                }
                // Of another form it is somebody else's.
                PASSED_BY if value.len().is_multiple_of(8) => edns.passed_by_at = value_at()?,
                _ => {}
            }
            data = after;
        }
        Ok(edns)
    }

    /// For whom a forwarder asks (RFC 7871), if it says so in the `message` that this was read from.
    #[inline]
    #[must_use]
    pub fn client_subnet(&self, message: &[u8]) -> Option<ClientSubnet> {
        if self.client_subnet_at == 0 {
            return None;
        }
        ClientSubnet::read_at(message, self.client_subnet_at.into())
    }

    /// Whether other nodes have passed the question on.
    #[inline]
    #[must_use]
    pub fn was_passed_on(&self) -> bool {
        self.passed_by_at != 0
    }

    /// The ids of the nodes that have passed the question on, if any have, as the `message` that this was read from
    /// says.
    #[inline]
    pub fn passed_by<'a>(&self, message: &'a [u8]) -> impl Iterator<Item = u64> + use<'a> {
        let ids = option_at(message, self.passed_by_at.into()).unwrap_or_default();
        ids.as_chunks().0.iter().map(|id| u64::from_be_bytes(*id))
    }
}

/// The first option's code and value, and the options behind it. `None` if it does not fit in the `data`.
#[inline]
fn split_option(data: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (header, rest) = data.split_first_chunk::<4>()?;
    let (value, after) = rest.split_at_checked(u16_at(header, 2).into())?;
    Some((u16_at(header, 0), value, after))
}

/// The number of the extended error (RFC 8914) in the data of a response's OPT record, if one is told.
#[must_use]
pub fn extended_error(mut data: &[u8]) -> Option<u16> {
    while let Some((code, value, after)) = split_option(data) {
        if code == option::EXTENDED_ERROR && value.len() >= 2 {
            return Some(u16_at(value, 0));
        }
        data = after;
    }
    None
}

impl Cookie {
    fn parse(value: &[u8]) -> Result<Self, BadOption> {
        let (client, server) = value.split_first_chunk::<CLIENT_COOKIE_LEN>().ok_or(BadOption)?;
        match server.len() {
            // Of another length than ours it was made by another implementation: to us as good as none.
            len @ (0 | 8..=32) => Ok(Self {
                client: *client,
                server: server.try_into().ok(),
                foreign: len != 0 && len != SERVER_COOKIE_LEN,
            }),
            _ => Err(BadOption),
        }
    }
}

impl Options<'_> {
    /// Bytes that the options take.
    #[inline]
    pub(super) fn len(&self) -> usize {
        let cookie = if self.cookie.is_some() { 4 + CLIENT_COOKIE_LEN + SERVER_COOKIE_LEN } else { 0 };
        let nsid = self.nsid.map_or(0, |nsid| 4 + nsid.len());
        let keepalive = if self.keepalive_100ms.is_some() { 6 } else { 0 };
        let subnet = self.client_subnet.map_or(0, |subnet| 4 + 4 + subnet.address_len());
        cookie + nsid + keepalive + subnet
    }

    /// Writes the options to `out`, which has [`len`](Self::len) bytes. For so many bits of the client's address,
    /// `scope`, the answer makes a difference.
    pub(super) fn write(&self, scope: u8, out: &mut [u8]) {
        let mut at = 0;
        let mut put = |code: u16, parts: [&[u8]; 2]| {
            #[allow(clippy::cast_possible_truncation)] // each option is far below 64 KiB
            let len = (parts[0].len() + parts[1].len()) as u16;
            for bytes in [&code.to_be_bytes()[..], &len.to_be_bytes(), parts[0], parts[1]] {
                out[at..at + bytes.len()].copy_from_slice(bytes);
                at += bytes.len();
            }
        };
        if let Some((client, server)) = &self.cookie {
            put(option::COOKIE, [client, server]);
        }
        if let Some(nsid) = self.nsid {
            put(option::NSID, [nsid, &[]]);
        }
        if let Some(timeout) = self.keepalive_100ms {
            put(option::TCP_KEEPALIVE, [&timeout.to_be_bytes(), &[]]);
        }
        if let Some(subnet) = self.client_subnet {
            let bytes = match subnet.address {
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                IpAddr::V6(v6) => v6.octets(),
            };
            let (family, begin) = if subnet.address.is_ipv4() { (1, 12) } else { (2, 0) };
            let header = [0, family, subnet.source_prefix_len, scope];
            put(option::CLIENT_SUBNET, [&header, &bytes[begin..begin + subnet.address_len()]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: &[u8; 10] = b"\0\x29\x04\xd0\0\0\x80\0\0\0";

    fn parse(data: &[u8]) -> Result<Edns, BadOption> {
        Edns::parse(FIXED, 4, data)
    }

    #[test]
    fn known_options_are_read_and_unknown_ones_skipped() {
        let edns = parse(b"\xff\xff\0\x02ab\0\x03\0\0\0\x0a\0\x08clientck\0\x0b\0\0").unwrap();
        assert_eq!((edns.udp_payload_size, edns.version, edns.dnssec_ok), (1232, 0, true));
        assert!(edns.wants_nsid && edns.wants_keepalive);
        assert_eq!(edns.cookie, Some(Cookie { client: *b"clientck", server: None, foreign: false }));
    }

    #[test]
    fn cookies_have_the_lengths_that_they_can_have() {
        for len in 0..=60u8 {
            let data = [&[0, 10, 0, len][..], &vec![7; len.into()]].concat();
            let fits = len == 8 || (16..=40).contains(&len);
            assert_eq!(parse(&data).is_ok(), fits, "{len}");
            let Some(cookie) = parse(&data).ok().and_then(|edns| edns.cookie) else { continue };
            assert_eq!(
                (cookie.server.is_some(), cookie.foreign),
                (len == 24, len != 8 && len != 24),
                "{len}"
            );
        }
    }

    #[test]
    fn a_client_subnet_is_read_as_strictly_as_it_is_written() {
        let subnet = |value: &[u8]| {
            let len = u8::try_from(value.len()).unwrap();
            {
                let data = [&[0, 8, 0, len][..], value].concat();
                // In front of the data is the rest of the message.
                parse(&data).map(|edns| edns.client_subnet(&[&[0; 4][..], &data].concat()))
            }
        };
        let read = |address: &str, source_prefix_len| {
            Ok(Some(ClientSubnet { address: address.parse().unwrap(), source_prefix_len }))
        };
        assert_eq!(subnet(b"\0\x01\x18\0\xc0\0\x02"), read("192.0.2.0", 24));
        assert_eq!(subnet(b"\0\x01\x16\0\xc0\0\xfc"), read("192.0.252.0", 22));
        assert_eq!(subnet(b"\0\x02\x20\0\x20\x01\x0d\xb8"), read("2001:db8::", 32));
        assert_eq!(subnet(b"\0\x01\0\0"), read("0.0.0.0", 0));
        assert_eq!(subnet(b"\0\x03\x08\0\x01"), Ok(None), "a family of its own");
        for wrong in [
            &b"\0\x01\x18"[..],
            b"\0\x01\x18\0\xc0\0",
            b"\0\x01\x18\0\xc0\0\x02\0",
            b"\0\x01\x18\x08\xc0\0\x02",
            b"\0\x01\x16\0\xc0\0\xfe",
            b"\0\x01\x21\0\xc0\0\x02\0\0",
        ] {
            assert_eq!(subnet(wrong), Err(BadOption), "{wrong:?}");
        }
    }

    #[test]
    fn nodes_that_have_passed_a_question_on_are_told() {
        let ids = |data: &[u8]| {
            // In front of the data is the rest of the message.
            parse(data).unwrap().passed_by(&[&[0; 4][..], data].concat()).collect::<Vec<u64>>()
        };
        let option =
            |value: &[u8]| [&[0xfe, 0x1d, 0, u8::try_from(value.len()).unwrap()][..], value].concat();
        assert_eq!(ids(&option(b"\0\0\0\0\0\0\0\x07\x01\0\0\0\0\0\0\0")), [7, 1 << 56]);
        assert!(ids(b"\0\x03\0\0").is_empty());
        assert!(ids(&option(b"")).is_empty());
        assert!(ids(&option(b"other")).is_empty(), "of another form");
    }

    #[test]
    fn the_extended_error_of_a_response_is_found_among_its_options() {
        assert_eq!(extended_error(b"\0\x03\0\x01n\0\x0f\0\x04\0\x16ab\0\x0f\0\x02\0\x01"), Some(22));
        for data in [&b""[..], b"\0\x0f\0\x01\0", b"\0\x0f\0\x03\0\x16", b"\0\x03\0\0"] {
            assert_eq!(extended_error(data), None, "{data:?}");
        }
    }

    #[test]
    fn an_option_that_does_not_fit_is_a_fault() {
        for data in [&b"\0"[..], b"\0\x03\0", b"\0\x03\0\x01", b"\0\x03\0\0\0"] {
            assert_eq!(parse(data), Err(BadOption), "{data:?}");
        }
    }

    #[test]
    fn options_are_written_as_long_as_they_say() {
        let options = Options {
            cookie: Some(([1; 8], [2; 16])),
            nsid: Some(b"node"),
            keepalive_100ms: Some(100),
            client_subnet: Some(&ClientSubnet { address: [192, 0, 2, 0].into(), source_prefix_len: 24 }),
        };
        let mut out = vec![0; options.len()];
        options.write(16, &mut out);
        let expected = [
            &b"\0\x0a\0\x18"[..],
            &[1; 8],
            &[2; 16],
            b"\0\x03\0\x04node",
            b"\0\x0b\0\x02\0\x64",
            b"\0\x08\0\x07\0\x01\x18\x10\xc0\0\x02",
        ];
        assert_eq!(out, expected.concat());
        assert_eq!(Options::default().len(), 0);
        assert_eq!(ExtendedError::Prohibited.option(), *b"\0\x0f\0\x02\0\x12");
    }
}
