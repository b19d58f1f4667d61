//! Server cookies (RFC 7873) as RFC 9018 makes them interoperable: all servers with one secret accept each other's.
//!
//! Runs on the workers. Pure: the time is an argument, and nothing is remembered.

use std::net::IpAddr;

use siphasher::sip::SipHasher24;

use super::edns::{CLIENT_COOKIE_LEN, SERVER_COOKIE_LEN};

/// The version byte of RFC 9018 §4.1.
const VERSION: u8 = 1;

/// Bytes before the hash: version, three reserved, the time.
const FRONT_LEN: usize = 8;

/// A cookie is good for an hour, and for five minutes ahead of our clock (RFC 9018 §4.3).
const MAX_AGE_S: i32 = 3600;
const MAX_AHEAD_S: i32 = 300;

/// After half an hour a client gets a new one (RFC 9018 §4.3).
const RENEWAL_AGE_S: i32 = 1800;

/// The key of the hash.
pub type Secret = [u8; 16];

/// The secret that cookies are made with, and the one before it, which is still accepted: while secrets are exchanged
/// one server after the other, clients are known to all of them (RFC 9018 §5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Secrets {
    /// Makes cookies.
    pub current: Secret,
    /// Accepted too.
    pub previous: Option<Secret>,
}

impl Secrets {
    /// A secret for this process alone.
    #[must_use]
    pub fn random() -> Self {
        Self { current: fastrand::u128(..).to_ne_bytes(), previous: None }
    }

    /// Makes the server's part for a client.
    #[must_use]
    pub fn make(&self, client: [u8; CLIENT_COOKIE_LEN], ip: IpAddr, now_s: u32) -> [u8; SERVER_COOKIE_LEN] {
        let [a, b, c, d] = now_s.to_be_bytes();
        complete(&self.current, client, ip, [VERSION, 0, 0, 0, a, b, c, d])
    }

    /// Whether `server` is a cookie that we, or a server with one of our secrets, gave to this client lately; and then
    /// the cookie to give back, which is the same until it gets old.
    #[must_use]
    pub fn renew(
        &self,
        client: [u8; CLIENT_COOKIE_LEN],
        server: [u8; SERVER_COOKIE_LEN],
        ip: IpAddr,
        now_s: u32,
    ) -> Option<[u8; SERVER_COOKIE_LEN]> {
        let (front, _) = server.split_first_chunk::<FRONT_LEN>()?;
        let [version, .., a, b, c, d] = *front;
        // Serial number arithmetic (RFC 1982), as the RFC wants it for the years after 2106.
        let age_s = now_s.wrapping_sub(u32::from_be_bytes([a, b, c, d])).cast_signed();
        if version != VERSION || !(-MAX_AHEAD_S..=MAX_AGE_S).contains(&age_s) {
            return None;
        }
        if complete(&self.current, client, ip, *front) == server {
            return Some(if age_s < RENEWAL_AGE_S { server } else { self.make(client, ip, now_s) });
        }
        let previous = self.previous.filter(|previous| complete(previous, client, ip, *front) == server);
        previous.map(|_| self.make(client, ip, now_s))
    }
}

/// Puts the hash behind the front part.
fn complete(
    secret: &Secret,
    client: [u8; CLIENT_COOKIE_LEN],
    ip: IpAddr,
    front: [u8; FRONT_LEN],
) -> [u8; SERVER_COOKIE_LEN] {
    let mut input = [0; CLIENT_COOKIE_LEN + FRONT_LEN + 16];
    input[..CLIENT_COOKIE_LEN].copy_from_slice(&client);
    input[CLIENT_COOKIE_LEN..][..FRONT_LEN].copy_from_slice(&front);
    let address = &mut input[CLIENT_COOKIE_LEN + FRONT_LEN..];
    let address_len = match ip {
        IpAddr::V4(v4) => {
            address[..4].copy_from_slice(&v4.octets());
            4
        }
        IpAddr::V6(v6) => {
            address.copy_from_slice(&v6.octets());
            16
        }
    };
    let hash = SipHasher24::new_with_key(secret).hash(&input[..CLIENT_COOKIE_LEN + FRONT_LEN + address_len]);
    let mut cookie = [0; SERVER_COOKIE_LEN];
    cookie[..FRONT_LEN].copy_from_slice(&front);
    cookie[FRONT_LEN..].copy_from_slice(&hash.to_le_bytes());
    cookie
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|i| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).unwrap())
    }

    fn secrets(current: &str, previous: Option<&str>) -> Secrets {
        Secrets { current: hex(current), previous: previous.map(hex) }
    }

    const SECRET: &str = "e5e973e5a6b2a43f48e7dc849e37bfcf";

    /// RFC 9018, appendix A.1: learning a new server cookie.
    #[test]
    fn a_new_cookie_is_as_published() {
        let made = secrets(SECRET, None).make(
            hex("2464c4abcf10c957"),
            "198.51.100.100".parse().unwrap(),
            0x5cf7_9f11,
        );
        assert_eq!(made, hex("010000005cf79f111f8130c3eee29480"));
    }

    /// Appendix A.2: the same client learning a renewed one, 40 minutes later.
    #[test]
    fn an_old_cookie_is_renewed_as_published() {
        let renewed = secrets(SECRET, None).renew(
            hex("2464c4abcf10c957"),
            hex("010000005cf79f111f8130c3eee29480"),
            "198.51.100.100".parse().unwrap(),
            0x5cf7_a871,
        );
        assert_eq!(renewed, Some(hex("010000005cf7a871d4a564a1442aca77")));
    }

    /// Appendix A.3: another client, whose cookie has the reserved bytes set.
    #[test]
    fn reserved_bytes_are_hashed_as_they_came() {
        let renewed = secrets(SECRET, None).renew(
            hex("fc93fc62807ddb86"),
            hex("01abcdef5cf78f71a314227b6679ebf5"),
            "203.0.113.203".parse().unwrap(),
            0x5cf7_9234, // while it is good; the appendix leaves that time open
        );
        assert_eq!(renewed, Some(hex("01abcdef5cf78f71a314227b6679ebf5")));
    }

    /// Appendix A.4: an IPv6 client whose cookie was made with the secret before.
    #[test]
    fn a_cookie_of_the_previous_secret_is_renewed_as_published() {
        let secrets = secrets("445536bcd2513298075a5d379663c962", Some("dd3bdf9344b678b185a6f5cb60fca715"));
        let renewed = secrets.renew(
            hex("22681ab97d52c298"),
            hex("010000005cf7c57926556bd0934c72f8"),
            "2001:db8:220:1:59de:d0f4:8769:82b8".parse().unwrap(),
            0x5cf7_c609,
        );
        assert_eq!(renewed, Some(hex("010000005cf7c609a6bb79d16625507a")));
    }

    #[test]
    fn a_cookie_is_the_same_for_half_an_hour_then_renewed_and_after_an_hour_it_is_no_more() {
        let secrets = secrets(SECRET, None);
        let (client, ip) = (*b"a client", "192.0.2.1".parse().unwrap());
        // The second time its seconds overflow while it is in use (RFC 1982).
        for made_s in [1_000_000, u32::MAX - 900] {
            let cookie = secrets.make(client, ip, made_s);
            let renewed = |age_s| secrets.renew(client, cookie, ip, made_s.wrapping_add(age_s));
            assert_eq!((renewed(0), renewed(1799)), (Some(cookie), Some(cookie)));
            for age_s in [1800, 3600] {
                let now_s = made_s.wrapping_add(age_s);
                let fresh = secrets.make(client, ip, now_s);
                assert_eq!(renewed(age_s), Some(fresh), "{age_s} s old");
                assert_eq!(secrets.renew(client, fresh, ip, now_s.wrapping_add(1799)), Some(fresh));
            }
            assert_eq!((renewed(3601), renewed(7200)), (None, None));
        }
    }

    #[test]
    fn cookies_of_others_of_other_times_and_changed_ones_are_not_ours() {
        let secrets = secrets(SECRET, None);
        let (client, ip) = (*b"a client", "192.0.2.1".parse().unwrap());
        let now_s = 4_000_000_000;
        let cookie = secrets.make(client, ip, now_s);
        assert_eq!(secrets.renew(client, cookie, ip, now_s), Some(cookie));
        assert_eq!(secrets.renew(*b"b client", cookie, ip, now_s), None);
        assert_eq!(secrets.renew(client, cookie, "192.0.2.2".parse().unwrap(), now_s), None);
        assert_eq!(secrets.renew(client, cookie, ip, now_s + 3601), None);
        assert_eq!(secrets.renew(client, cookie, ip, now_s - 301), None);
        assert!(secrets.renew(client, cookie, ip, now_s - 300).is_some());
        assert_ne!(secrets.renew(client, cookie, ip, now_s + 1800), Some(cookie), "it is renewed");
        for i in 0..SERVER_COOKIE_LEN {
            let mut changed = cookie;
            changed[i] ^= 1;
            assert_eq!(secrets.renew(client, changed, ip, now_s), None, "byte {i}");
        }
    }
}
