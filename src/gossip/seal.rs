//! What nodes say to each other, sealed: encrypted and authenticated with a key that the cluster shares.
//!
//! Sans-I/O: no clock and no sockets. Runs on the thread `cluster`.
//!
//! XChaCha20-Poly1305, whose nonces of 24 bytes have room for a random number that a node draws at each start, or for each
//! stream, and a counter. So nonces never repeat, whoever seals, and no node needs to know of others.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use siphasher::sip::SipHasher24;

use super::key_ring::{KEY_ID_LEN, Key, KeyRing};
use super::replay::Windows;
use super::stream_seal::{Side, StreamSeal};

/// The first byte of what is not sealed, and of what is.
pub(super) const PLAIN: u8 = 0;
pub(super) const SEALED: u8 = 1;

pub(super) const SESSION_LEN: usize = 16;
const COUNTER_LEN: usize = 8;
const TAG_LEN: usize = 16;
const NONCE_LEN: usize = SESSION_LEN + COUNTER_LEN;
pub(super) const CLUSTER_LEN: usize = 8;

/// Where a sealed datagram's nonce and body begin.
const NONCE_AT: usize = 1 + KEY_ID_LEN;
const BODY_AT: usize = NONCE_AT + NONCE_LEN;

/// Bytes that sealing adds to a datagram.
pub const OVERHEAD: usize = BODY_AT + TAG_LEN;

/// Why something was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It is shorter than anything that was sealed.
    Short,
    /// It is longer than anything may be.
    TooLong,
    /// It is neither sealed nor plain in a way that this release knows.
    Version,
    /// It is plain, but this node has keys.
    Plain,
    /// It is sealed, but this node has no keys.
    Sealed,
    /// It is sealed with a key that this node does not have.
    UnknownKey,
    /// It was changed on its way, or sealed for another cluster or another place.
    Forged,
    /// It is plain and of another cluster.
    Cluster,
    /// It was there before, or is too old to tell.
    Replayed,
}

impl Rejected {
    /// All reasons.
    pub const ALL: [Self; 9] = [
        Self::Short,
        Self::TooLong,
        Self::Version,
        Self::Plain,
        Self::Sealed,
        Self::UnknownKey,
        Self::Forged,
        Self::Cluster,
        Self::Replayed,
    ];

    /// Its name in counters.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Short => "short",
            Self::TooLong => "too_long",
            Self::Version => "version",
            Self::Plain => "plain",
            Self::Sealed => "sealed",
            Self::UnknownKey => "unknown_key",
            Self::Forged => "forged",
            Self::Cluster => "cluster",
            Self::Replayed => "replayed",
        }
    }

    /// Its place in [`ALL`](Self::ALL).
    #[must_use]
    pub fn index(self) -> usize {
        self as usize
    }
}

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

/// A number that nobody else draws.
pub(super) fn session() -> [u8; SESSION_LEN] {
    let mut session = [0; SESSION_LEN];
    getrandom::fill(&mut session).expect("the kernel gives random numbers");
    session
}

pub(super) fn nonce(session: [u8; SESSION_LEN], counter: u64) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..SESSION_LEN].copy_from_slice(&session);
    nonce[SESSION_LEN..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// What a tag vouches for besides what is sealed: where it belongs.
pub(super) fn context(place: &str, cluster: &str, peer: &[u8]) -> Vec<u8> {
    [b"redbreast 1 ", place.as_bytes(), &[0], cluster.as_bytes(), &[0], peer].concat()
}

pub(super) fn cluster_hash(cluster: &str) -> [u8; CLUSTER_LEN] {
    SipHasher24::new().hash(cluster.as_bytes()).to_be_bytes()
}

pub(super) fn encrypt(key: &Key, nonce: &[u8; NONCE_LEN], context: &[u8], body: &mut [u8]) -> [u8; TAG_LEN] {
    let cipher = XChaCha20Poly1305::new(&key.secret.into());
    let tag = cipher.encrypt_inout_detached(&XNonce::from(*nonce), context, body.into());
    tag.expect("far shorter than the cipher's limit").into()
}

/// Opens `body`, which ends in a tag, in place.
pub(super) fn decrypt<'a>(
    key: &Key,
    nonce: &[u8; NONCE_LEN],
    context: &[u8],
    body: &'a mut [u8],
) -> Result<&'a [u8], Rejected> {
    let len = body.len().checked_sub(TAG_LEN).ok_or(Rejected::Short)?;
    let (sealed, tag) = body.split_at_mut(len);
    let tag = Tag::from(<[u8; TAG_LEN]>::try_from(&*tag).map_err(|_| Rejected::Short)?);
    let cipher = XChaCha20Poly1305::new(&key.secret.into());
    // It is checked before anything is decrypted: after a failure another key can be tried.
    let opened = cipher.decrypt_inout_detached(&XNonce::from(*nonce), context, (&mut *sealed).into(), &tag);
    opened.map(|()| &*sealed).map_err(|_| Rejected::Forged)
}

/// Opens it with the one of `keys` that does, and says which that is.
pub(super) fn decrypt_with_any<'a, 'k>(
    keys: impl Iterator<Item = &'k Key>,
    nonce: &[u8; NONCE_LEN],
    context: &[u8],
    body: &'a mut [u8],
) -> Result<(&'a [u8], &'k Key), Rejected> {
    let mut rejected = Rejected::UnknownKey;
    let mut opened = None;
    for key in keys {
        match decrypt(key, nonce, context, body) {
            Ok(plain) => {
                opened = Some((plain.len(), key));
                break;
            }
            Err(why) => rejected = why,
        }
    }
    opened.map(|(len, key)| (&body[..len], key)).ok_or(rejected)
}

#[cfg(test)]
pub(super) mod tests {
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
        let wrong = Key { secret: [9; 32], id: ring(&[1]).first().id };
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
