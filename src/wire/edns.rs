//! EDNS(0) (RFC 6891): the OPT record of a query, and the options we know.
//!
//! Runs on the workers, for every packet that has an OPT record: no allocation, and bounds checked by the accesses.

use super::header::u16_at;

/// Option codes by their IANA numbers.
mod option {
    pub(super) const NSID: u16 = 3;
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

/// Extended DNS errors (RFC 8914) that we tell, by their IANA numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum ExtendedError {
    /// The client's address may not ask.
    Prohibited = 18,
    /// The name is in none of our zones.
    NotAuthoritative = 20,
    /// We do not do what was asked for: transfers, and other classes.
    NotSupported = 21,
}

/// The options of a response.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options<'a> {
    /// Both parts of the cookie.
    pub cookie: Option<([u8; CLIENT_COOKIE_LEN], [u8; SERVER_COOKIE_LEN])>,
    /// Which server this is.
    pub nsid: Option<&'a [u8]>,
    /// How long an idle TCP connection may stay, in units of 100 ms.
    pub keepalive_100ms: Option<u16>,
    /// Why the response code is what it is.
    pub error: Option<ExtendedError>,
}

/// The options in the data of a query's OPT record are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadOption;

impl Edns {
    /// Reads an OPT record: its ten bytes from type to length, and its data.
    ///
    /// # Errors
    /// [`BadOption`] when an option does not fit in the data, or a cookie has a length that none can have
    /// (RFC 7873 §5.2.2).
    pub(super) fn parse(fixed: &[u8; 10], mut data: &[u8]) -> Result<Self, BadOption> {
        let mut edns = Self {
            udp_payload_size: u16_at(fixed, 2),
            version: fixed[5],
            dnssec_ok: fixed[6] & 0x80 != 0,
            ..Self::default()
        };
        // What the data of another version means, nobody knows.
        while edns.version == 0 && !data.is_empty() {
            let (header, rest) = data.split_first_chunk::<4>().ok_or(BadOption)?;
            let (value, after) = rest.split_at_checked(u16_at(header, 2).into()).ok_or(BadOption)?;
            match u16_at(header, 0) {
                // A second cookie is ignored (RFC 7873 §5.2).
                option::COOKIE if edns.cookie.is_none() => edns.cookie = Some(Cookie::parse(value)?),
                option::NSID => edns.wants_nsid = true,
                option::TCP_KEEPALIVE => edns.wants_keepalive = true,
                _ => {}
            }
            data = after;
        }
        Ok(edns)
    }
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
        let error = if self.error.is_some() { 6 } else { 0 };
        cookie + nsid + keepalive + error
    }

    /// Writes the options to `out`, which has [`len`](Self::len) bytes.
    pub(super) fn write(&self, out: &mut [u8]) {
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
        if let Some(error) = self.error {
            put(option::EXTENDED_ERROR, [&(error as u16).to_be_bytes(), &[]]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIXED: &[u8; 10] = b"\0\x29\x04\xd0\0\0\x80\0\0\0";

    fn parse(data: &[u8]) -> Result<Edns, BadOption> {
        Edns::parse(FIXED, data)
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
            error: Some(ExtendedError::Prohibited),
        };
        let mut out = vec![0; options.len()];
        options.write(&mut out);
        let expected = [
            &b"\0\x0a\0\x18"[..],
            &[1; 8],
            &[2; 16],
            b"\0\x03\0\x04node",
            b"\0\x0b\0\x02\0\x64",
            b"\0\x0f\0\x02\0\x12",
        ];
        assert_eq!(out, expected.concat());
        assert_eq!(Options::default().len(), 0);
    }
}
