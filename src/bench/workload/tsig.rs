//! Transaction signatures of queries (RFC 8945).
//!
//! A query is signed when it is read, with the id 0: the record tells the id that was signed, and a server verifies
//! that one, as it does for what was forwarded to it with another. So a query costs no more to send than one without a
//! signature, and the server has all of its work. How far clocks may be apart is said to be [`FUDGE_S`], which is how
//! long a run may take.

use std::time::{SystemTime, UNIX_EPOCH};

use domain::utils::base64;
use ring::hmac;

use crate::wire::header;
use crate::wire::name::Name;
use crate::wire::record::rtype;

/// Seconds that a signature is good for: the most that its field can say.
const FUDGE_S: u16 = u16::MAX;

const CLASS_ANY: u16 = 255;

/// Algorithms: as on the command line, as in a message, and what they do.
const ALGORITHMS: [(&str, &str, &hmac::Algorithm); 4] = [
    ("hmac-sha256", "hmac-sha256.", &hmac::HMAC_SHA256),
    ("hmac-sha1", "hmac-sha1.", &hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
    ("hmac-sha384", "hmac-sha384.", &hmac::HMAC_SHA384),
    ("hmac-sha512", "hmac-sha512.", &hmac::HMAC_SHA512),
];

/// A key, and what a record made with it begins with.
#[derive(Clone, Debug)]
pub struct Tsig {
    name: Vec<u8>,
    algorithm: Vec<u8>,
    key: hmac::Key,
    mac_len: usize,
}

impl Tsig {
    /// Reads `[ALGORITHM:]NAME:SECRET`, the secret in base 64, as dnsperf and nsupdate have it.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let expected = "expected [ALGORITHM:]NAME:SECRET, like hmac-sha256:key.example:c2VjcmV0";
        let parts: Vec<_> = text.split(':').collect();
        let (algorithm, name, secret) = match parts[..] {
            [name, secret] => (ALGORITHMS[0].0, name, secret),
            [algorithm, name, secret] => (algorithm, name, secret),
            _ => return Err(expected.into()),
        };
        let known = ALGORITHMS.iter().find(|(known, ..)| known.eq_ignore_ascii_case(algorithm));
        let Some((_, in_message, algorithm)) = known else {
            let known = ALGORITHMS.map(|(known, ..)| known).join(", ");
            return Err(format!("`{algorithm}` is no algorithm of ours; expected one of {known}"));
        };
        let name = Name::from_text(name).map_err(|error| format!("`{name}` is no name of a key: {error}"))?;
        let secret: Vec<u8> =
            base64::decode(secret).map_err(|error| format!("the secret is not in base 64: {error}"))?;
        let algorithm_name = Name::from_text(in_message).map_err(|error| error.to_string())?;
        Ok(Self {
            name: name.as_wire().to_ascii_lowercase(),
            algorithm: algorithm_name.as_wire().to_vec(),
            key: hmac::Key::new(**algorithm, &secret),
            mac_len: algorithm.digest_algorithm().output_len(),
        })
    }

    /// Bytes of its record.
    pub(super) fn record_len(&self) -> usize {
        self.name.len() + 10 + self.algorithm.len() + 10 + self.mac_len + 6
    }

    /// Signs the message from `begin` on, whose header counts the signature already.
    pub(super) fn sign(&self, packets: &mut Vec<u8>, begin: usize) {
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let time = &now_s.to_be_bytes()[2..];
        let fudge = FUDGE_S.to_be_bytes();
        let mut context = hmac::Context::with_key(&self.key);
        // What is signed is the message as it was without the signature.
        let mut head = [0; header::LEN];
        head.copy_from_slice(&packets[begin..begin + header::LEN]);
        head[header::ARCOUNT + 1] -= 1;
        context.update(&head);
        context.update(&packets[begin + header::LEN..]);
        for part in
            [&self.name[..], &CLASS_ANY.to_be_bytes(), &[0; 4], &self.algorithm, time, &fudge, &[0; 4]]
        {
            context.update(part);
        }
        let mac = context.sign();
        let len = |len: usize| u16::try_from(len).unwrap_or(u16::MAX).to_be_bytes();
        let data_len = self.record_len() - self.name.len() - 10;
        for part in [
            &self.name[..],
            &rtype::TSIG.to_be_bytes(),
            &CLASS_ANY.to_be_bytes(),
            &[0; 4],
            &len(data_len),
            &self.algorithm,
            time,
            &fudge,
            &len(self.mac_len),
            mac.as_ref(),
            &[0; 6], // the id that was signed, no error, nothing else
        ] {
            packets.extend_from_slice(part);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::query_file::{QueryFile, Reading};
    use super::*;
    use domain::base::Message;
    use domain::rdata::tsig::Time48;
    use domain::tsig::{Algorithm, Key, KeyName, ServerTransaction};

    #[test]
    fn signatures_are_those_that_another_implementation_verifies() {
        let secret = [7; 32];
        for (text, algorithm) in [
            ("hmac-sha256", Algorithm::Sha256),
            ("hmac-sha1", Algorithm::Sha1),
            ("HMAC-SHA384", Algorithm::Sha384),
            ("hmac-sha512", Algorithm::Sha512),
        ] {
            let tsig =
                Tsig::parse(&format!("{text}:Key.Example:{}", base64::encode_string(&secret))).unwrap();
            let reading = Reading { tsig: Some(tsig), ..Reading::default() };
            let queries = QueryFile::read_as(&b"a.example A\nb.example AAAA"[..], "q", &reading).unwrap();
            assert_eq!(queries.question(1), b"\x01b\x07example\0\0\x1c\0\x01");
            let name: KeyName = "key.example".parse().unwrap();
            let key = Key::new(algorithm, &secret, name, None, None).unwrap();
            let mut packet = queries.packet(1).to_vec();
            packet[..2].copy_from_slice(&[9, 9]); // sent with another id
            let verified = |packet: Vec<u8>| {
                let mut message = Message::from_octets(packet).unwrap();
                ServerTransaction::request(&&key, &mut message, Time48::now())
                    .is_ok_and(|found| found.is_some())
            };
            assert!(verified(packet.clone()), "{text}");
            packet[14] ^= 1;
            assert!(!verified(packet), "{text}");
        }
    }

    #[test]
    fn a_key_that_makes_no_sense_is_refused() {
        for (bad, why) in [
            ("name", "expected [ALGORITHM:]NAME:SECRET"),
            ("hmac-md5:name:c2VjcmV0", "`hmac-md5`"),
            ("a..b:c2VjcmV0", "`a..b`"),
            ("name:%", "base 64"),
        ] {
            let error = Tsig::parse(bad).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
