//! What nodes say to each other, sealed: encrypted and authenticated with a key that the cluster shares.
//!
//! Sans-I/O: no clock and no sockets. Runs on the thread `cluster`.
//!
//! XChaCha20-Poly1305, whose nonces of 24 bytes have room for a random number that a node draws at each start, or for
//! each stream, and a counter. So nonces never repeat, whoever seals, and no node needs to know of others.

use super::cipher::{
    CLUSTER_LEN, NONCE_LEN, PLAIN, Rejected, SEALED, SESSION_LEN, TAG_LEN, cluster_hash, context,
    decrypt_with_any, encrypt, nonce, session,
};
use super::key_ring::{KEY_ID_LEN, KeyRing};
use super::replay::Windows;
use super::stream_seal::{Side, StreamSeal};

/// Where a sealed datagram's nonce and body begin.
const NONCE_AT: usize = 1 + KEY_ID_LEN;
const BODY_AT: usize = NONCE_AT + NONCE_LEN;

/// Bytes that sealing adds to a datagram.
const OVERHEAD: usize = BODY_AT + TAG_LEN;

/// Seals and opens a node's datagrams, and begins its streams.
pub struct Seal {
    cluster: Box<str>,
    ring: Option<KeyRing>,
    session: [u8; SESSION_LEN],
    counter: u64,
    windows: Windows,
}

impl Seal {
    /// A node of `cluster` with these keys; without any, nothing is sealed.
    ///
    /// # Panics
    /// If the kernel gives no random numbers.
    #[must_use]
    pub fn new(cluster: &str, ring: Option<KeyRing>) -> Self {
        Self { cluster: cluster.into(), ring, session: session(), counter: 0, windows: Windows::default() }
    }

    /// Other keys from now on.
    pub fn set_ring(&mut self, ring: Option<KeyRing>) {
        self.ring = ring;
    }

    /// Appends `plain` to `out`, sealed.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let Some(ring) = &self.ring else {
            out.push(PLAIN);
            out.extend_from_slice(&cluster_hash(&self.cluster));
            out.extend_from_slice(plain);
            return;
        };
        self.counter += 1;
        let key = ring.first();
        let nonce = nonce(self.session, self.counter);
        out.push(SEALED);
        out.extend_from_slice(&key.id);
        out.extend_from_slice(&nonce);
        let begin = out.len();
        out.extend_from_slice(plain);
        let context = context("datagram", &self.cluster, &[]);
        let tag = encrypt(key, &nonce, &context, &mut out[begin..]);
        out.extend_from_slice(&tag);
    }

    /// Opens `datagram` in place.
    ///
    /// # Errors
    /// [`Rejected`].
    pub fn open<'a>(&mut self, datagram: &'a mut [u8]) -> Result<&'a [u8], Rejected> {
        match (datagram.first(), &self.ring) {
            (None, _) => Err(Rejected::Short),
            (Some(&PLAIN), Some(_)) => Err(Rejected::Plain),
            (Some(&SEALED), None) => Err(Rejected::Sealed),
            (Some(&PLAIN), None) => {
                let (cluster, plain) = datagram[1..].split_at_checked(CLUSTER_LEN).ok_or(Rejected::Short)?;
                if cluster == cluster_hash(&self.cluster) { Ok(plain) } else { Err(Rejected::Cluster) }
            }
            (Some(&SEALED), Some(ring)) => {
                if datagram.len() < OVERHEAD {
                    return Err(Rejected::Short);
                }
                let (head, body) = datagram.split_at_mut(BODY_AT);
                let id = head[1..NONCE_AT].try_into().expect("its length");
                let nonce: [u8; NONCE_LEN] = head[NONCE_AT..].try_into().expect("its length");
                let context = context("datagram", &self.cluster, &[]);
                let (plain, _) = decrypt_with_any(ring.with_id(id), &nonce, &context, body)?;
                // Only what is authentic may take room among the sessions.
                let (session, counter) = nonce.split_at(SESSION_LEN);
                let counter = u64::from_be_bytes(counter.try_into().expect("its length"));
                if !self.windows.is_new(session.try_into().expect("its length"), counter) {
                    return Err(Rejected::Replayed);
                }
                Ok(plain)
            }
            _ => Err(Rejected::Version),
        }
    }

    /// One side of a new stream, which keeps the keys that there are now.
    #[must_use]
    pub fn stream(&self, side: Side) -> StreamSeal {
        StreamSeal::new(&self.cluster, self.ring.clone(), side)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::key_ring::SealKey;
    use super::super::key_ring::tests::ring;
    use super::super::replay::WINDOW;
    use super::*;

    pub(in crate::gossip) fn pair(cluster: &str, keys: &[u8]) -> (Seal, Seal) {
        let ring = (!keys.is_empty()).then(|| ring(keys));
        (Seal::new(cluster, ring.clone()), Seal::new(cluster, ring))
    }

    fn sealed(seal: &mut Seal, plain: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        seal.seal(plain, &mut out);
        assert!(out.len() <= plain.len() + OVERHEAD);
        out
    }

    #[test]
    fn datagrams_are_opened_by_those_who_have_the_key_and_nobody_else() {
        for keys in [&[][..], &[1], &[1, 2]] {
            let (mut a, mut b) = pair("c", keys);
            for plain in [&b""[..], b"x", &[7; 1200]] {
                assert_eq!(b.open(&mut sealed(&mut a, plain)), Ok(plain));
            }
        }
        let (mut a, _) = pair("c", &[1]);
        let (mut plain, _) = pair("c", &[]);
        for (mut other, why) in [
            (Seal::new("d", Some(ring(&[1]))), Rejected::Forged),
            (Seal::new("c", Some(ring(&[2]))), Rejected::UnknownKey),
            (Seal::new("c", None), Rejected::Sealed),
        ] {
            assert_eq!(other.open(&mut sealed(&mut a, b"x")), Err(why));
        }
        assert_eq!(a.open(&mut sealed(&mut plain, b"x")), Err(Rejected::Plain));
        assert_eq!(Seal::new("d", None).open(&mut sealed(&mut plain, b"x")), Err(Rejected::Cluster));
        assert_eq!(a.open(&mut [9; 80]), Err(Rejected::Version));
    }

    #[test]
    fn what_was_changed_or_cut_short_is_rejected() {
        let (mut a, mut b) = pair("c", &[1]);
        let whole = sealed(&mut a, b"some words");
        for bit in 0..whole.len() * 8 {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(b.open(&mut changed).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(b.open(&mut whole[..len].to_vec()).is_err(), "{len}");
        }
        assert_eq!(b.open(&mut whole.clone()), Ok(&b"some words"[..]), "nothing of that has used it up");
    }

    #[test]
    fn a_datagram_is_taken_once_and_in_any_order_within_the_window() {
        let (mut a, mut b) = pair("c", &[1]);
        let mut datagrams: Vec<_> = (0..3000u16).map(|i| sealed(&mut a, &i.to_be_bytes())).collect();
        let mut rng = fastrand::Rng::with_seed(1);
        datagrams.chunks_mut(500).for_each(|chunk| rng.shuffle(chunk));
        for datagram in &datagrams {
            assert!(b.open(&mut datagram.clone()).is_ok());
            assert_eq!(b.open(&mut datagram.clone()), Err(Rejected::Replayed));
        }
        for datagram in &datagrams {
            assert_eq!(b.open(&mut datagram.clone()), Err(Rejected::Replayed));
        }
        // One that comes far too late is not told from one that is replayed.
        let late = sealed(&mut a, b"late");
        for _ in 0..WINDOW {
            b.open(&mut sealed(&mut a, b"x")).unwrap();
        }
        assert_eq!(b.open(&mut late.clone()), Err(Rejected::Replayed));
    }

    #[test]
    fn keys_change_while_datagrams_are_under_way() {
        let steps: [&[u8]; 4] = [&[1], &[1, 2], &[2, 1], &[2]];
        let (mut a, mut b) = pair("c", steps[0]);
        let (mut from_a, mut from_b) = (sealed(&mut a, b"a"), sealed(&mut b, b"b"));
        for step in &steps[1..] {
            // One after the other changes, with datagrams of the step before on their way.
            a.set_ring(Some(ring(step)));
            let next = sealed(&mut a, b"a");
            assert_eq!(b.open(&mut from_a), Ok(&b"a"[..]));
            assert_eq!(b.open(&mut next.clone()), Ok(&b"a"[..]), "{step:?}");
            assert_eq!(a.open(&mut from_b), Ok(&b"b"[..]));
            let before = sealed(&mut b, b"b");
            b.set_ring(Some(ring(step)));
            assert_eq!(a.open(&mut before.clone()), Ok(&b"b"[..]), "{step:?}");
            (from_a, from_b) = (sealed(&mut a, b"a"), sealed(&mut b, b"b"));
        }
        let mut old = Seal::new("c", Some(ring(&[1])));
        assert_eq!(a.open(&mut sealed(&mut old, b"x")), Err(Rejected::UnknownKey));
    }

    #[test]
    fn of_keys_with_the_same_id_the_right_one_opens() {
        let wrong = SealKey { secret: [9; 32], id: ring(&[1]).first().id };
        let right = ring(&[1]);
        let mut body = b"words".to_vec();
        let tag = encrypt(right.first(), &[0; 24], b"", &mut body);
        body.extend_from_slice(&tag);
        let keys = [&wrong, right.first()];
        let opened = decrypt_with_any(keys.into_iter(), &[0; 24], b"", &mut body);
        assert_eq!(opened.map(|(plain, _)| plain), Ok(&b"words"[..]));
    }

    #[test]
    fn any_bytes_are_rejected_or_waited_for() {
        let mut rng = fastrand::Rng::with_seed(4);
        let (mut a, mut b) = pair("c", &[1]);
        let (_, mut plain) = pair("c", &[]);
        let whole = sealed(&mut a, b"some words");
        for _ in 0..50_000 {
            let mut bytes =
                if rng.bool() { whole.clone() } else { (0..rng.usize(..200)).map(|_| rng.u8(..)).collect() };
            for _ in 0..rng.usize(1..4) {
                if let Some(at) = (!bytes.is_empty()).then(|| rng.usize(..bytes.len())) {
                    bytes[at] = rng.u8(..3);
                }
            }
            if bytes != whole {
                assert!(b.open(&mut bytes.clone()).is_err());
            }
            let _ = plain.open(&mut bytes.clone());
            let _ = b.stream(Side::Server).open(&mut bytes.clone());
            let _ = plain.stream(Side::Client).open(&mut bytes);
        }
        assert_eq!(b.windows.sessions(), 0, "none of it was authentic");
    }
}
