//! The cipher that datagrams and streams are sealed with, and what both share of their form.
//!
//! Sans-I/O. Runs on the thread `cluster`.

use chacha20poly1305::aead::{AeadInOut, KeyInit};
use chacha20poly1305::{Tag, XChaCha20Poly1305, XNonce};
use siphasher::sip::SipHasher24;

use super::key_ring::SealKey;

/// The first byte of what is not sealed, and of what is.
pub(super) const PLAIN: u8 = 0;
pub(super) const SEALED: u8 = 1;

pub(super) const SESSION_LEN: usize = 16;
const COUNTER_LEN: usize = 8;
pub(super) const TAG_LEN: usize = 16;
pub(super) const NONCE_LEN: usize = SESSION_LEN + COUNTER_LEN;
pub(super) const CLUSTER_LEN: usize = 8;

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

pub(super) fn encrypt(
    key: &SealKey,
    nonce: &[u8; NONCE_LEN],
    context: &[u8],
    body: &mut [u8],
) -> [u8; TAG_LEN] {
    let cipher = XChaCha20Poly1305::new(&key.secret.into());
    let tag = cipher.encrypt_inout_detached(&XNonce::from(*nonce), context, body.into());
    tag.expect("far shorter than the cipher's limit").into()
}

/// Opens `body`, which ends in a tag, in place.
pub(super) fn decrypt<'a>(
    key: &SealKey,
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
    keys: impl Iterator<Item = &'k SealKey>,
    nonce: &[u8; NONCE_LEN],
    context: &[u8],
    body: &'a mut [u8],
) -> Result<(&'a [u8], &'k SealKey), Rejected> {
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
