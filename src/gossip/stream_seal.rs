//! The frames of a stream, sealed: each is taken once, in order, and on the stream that it was made for.
//!
//! Sans-I/O. Runs on the thread `cluster`. The first frame of each direction names its key and a number that its sender
//! has drawn; further ones are counted and bring nothing along. What the server says is bound to the client's number.

use super::cipher::{
    CLUSTER_LEN, PLAIN, Rejected, SEALED, SESSION_LEN, cluster_hash, context, decrypt, decrypt_with_any,
    encrypt, nonce, session,
};
use super::key_ring::{KEY_ID_LEN, KeyRing, SealKey};

/// Bytes of a stream's frame at most, sealed.
pub const MAX_FRAME_LEN: usize = crate::limits::MAX_FRAME_LEN;

/// The two ends of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It has opened the stream, and speaks first.
    Client,
    /// It answers.
    Server,
}

/// Seals and opens the frames of one stream: each once, and in order.
pub struct StreamSeal {
    cluster: Box<str>,
    ring: Option<KeyRing>,
    side: Side,
    ours: [u8; SESSION_LEN],
    /// What the client drew, once its first frame has come.
    client: Option<[u8; SESSION_LEN]>,
    outgoing: Option<Direction>,
    incoming: Option<Direction>,
}

/// One direction of a stream that has begun. Plain ones have no key.
struct Direction {
    key: Option<SealKey>,
    session: [u8; SESSION_LEN],
    counter: u64,
    context: Vec<u8>,
}

/// Bytes of a frame's length in front of it.
const LENGTH_LEN: usize = 4;
/// What a stream's first frame has before its body, sealed and plain.
const FIRST_LEN: usize = 1 + KEY_ID_LEN + SESSION_LEN;
const FIRST_PLAIN_LEN: usize = 1 + CLUSTER_LEN;

impl StreamSeal {
    pub(super) fn new(cluster: &str, ring: Option<KeyRing>, side: Side) -> Self {
        let ours = session();
        Self { cluster: cluster.into(), ring, side, ours, client: None, outgoing: None, incoming: None }
    }

    /// Appends `plain` to `out` as the next frame.
    ///
    /// # Panics
    /// On the server's side before the client's first frame was opened.
    pub fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        let length_at = out.len();
        out.extend_from_slice(&[0; LENGTH_LEN]);
        if self.outgoing.is_none() {
            self.begin(out);
        }
        let outgoing = self.outgoing.as_mut().expect("begun");
        let begin = out.len();
        out.extend_from_slice(plain);
        if let Some(key) = &outgoing.key {
            let nonce = nonce(outgoing.session, outgoing.counter);
            let tag = encrypt(key, &nonce, &outgoing.context, &mut out[begin..]);
            out.extend_from_slice(&tag);
        }
        outgoing.counter += 1;
        let len = u32::try_from(out.len() - length_at - LENGTH_LEN).expect("frames are short");
        out[length_at..][..LENGTH_LEN].copy_from_slice(&len.to_be_bytes());
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        let peer = match self.side {
            Side::Client => None,
            Side::Server => Some(self.client.expect("the client speaks first")),
        };
        if self.side == Side::Client {
            self.client = Some(self.ours);
        }
        let key = self.ring.as_ref().map(|ring| ring.first().clone());
        match &key {
            Some(key) => {
                out.push(SEALED);
                out.extend_from_slice(&key.id);
                out.extend_from_slice(&self.ours);
            }
            None => {
                out.push(PLAIN);
                out.extend_from_slice(&cluster_hash(&self.cluster));
            }
        }
        let context = self.context(self.side, peer);
        self.outgoing = Some(Direction { key, session: self.ours, counter: 0, context });
    }

    /// What a frame of this side is bound to; the server's to the client's number, so that none is of another stream.
    fn context(&self, side: Side, client: Option<[u8; SESSION_LEN]>) -> Vec<u8> {
        let place = if side == Side::Client { "stream, client" } else { "stream, server" };
        context(place, &self.cluster, client.as_ref().map_or(&[], |client| &client[..]))
    }

    /// Takes the next frame off the front of `buffer`, and says how many bytes it took; `None` if it is not all there.
    ///
    /// # Errors
    /// [`Rejected`]; the stream is of no use any more.
    pub fn open(&mut self, buffer: &mut [u8]) -> Result<Option<(Vec<u8>, usize)>, Rejected> {
        let Some(length) = buffer.first_chunk::<LENGTH_LEN>() else { return Ok(None) };
        let len = u32::from_be_bytes(*length) as usize;
        if len > MAX_FRAME_LEN {
            return Err(Rejected::TooLong);
        }
        let Some(frame) = buffer.get_mut(LENGTH_LEN..LENGTH_LEN + len) else { return Ok(None) };
        let plain = if self.incoming.is_none() { self.open_first(frame)? } else { self.open_next(frame)? };
        Ok(Some((plain, LENGTH_LEN + len)))
    }

    fn open_next(&mut self, body: &mut [u8]) -> Result<Vec<u8>, Rejected> {
        let incoming = self.incoming.as_mut().expect("it has begun");
        let plain = match &incoming.key {
            Some(key) => decrypt(key, &nonce(incoming.session, incoming.counter), &incoming.context, body)?,
            None => body,
        };
        incoming.counter += 1;
        Ok(plain.to_vec())
    }

    fn open_first(&mut self, frame: &mut [u8]) -> Result<Vec<u8>, Rejected> {
        let (theirs, client) = match self.side {
            Side::Client => (Side::Server, Some(self.ours)),
            Side::Server => (Side::Client, None),
        };
        match (frame.first(), &self.ring) {
            (None, _) => Err(Rejected::Short),
            (Some(&PLAIN), Some(_)) => Err(Rejected::Plain),
            (Some(&SEALED), None) => Err(Rejected::Sealed),
            (Some(&PLAIN), None) => {
                let (head, body) = frame.split_at_mut_checked(FIRST_PLAIN_LEN).ok_or(Rejected::Short)?;
                if head[1..] != cluster_hash(&self.cluster) {
                    return Err(Rejected::Cluster);
                }
                self.note_begin(None, [0; SESSION_LEN], Vec::new());
                Ok(body.to_vec())
            }
            (Some(&SEALED), Some(ring)) => {
                let (head, body) = frame.split_at_mut_checked(FIRST_LEN).ok_or(Rejected::Short)?;
                let id = head[1..1 + KEY_ID_LEN].try_into().expect("its length");
                let session: [u8; SESSION_LEN] = head[1 + KEY_ID_LEN..].try_into().expect("its length");
                let (context, nonce) = (self.context(theirs, client), nonce(session, 0));
                let (plain, key) = decrypt_with_any(ring.with_id(id), &nonce, &context, body)?;
                let (plain, key) = (plain.to_vec(), key.clone());
                self.note_begin(Some(key), session, context);
                Ok(plain)
            }
            _ => Err(Rejected::Version),
        }
    }

    fn note_begin(&mut self, key: Option<SealKey>, session: [u8; SESSION_LEN], context: Vec<u8>) {
        if self.side == Side::Server {
            self.client = Some(session);
        }
        self.incoming = Some(Direction { key, session, counter: 1, context });
    }
}

#[cfg(test)]
mod tests {
    use super::super::seal::tests::pair;
    use super::*;

    /// Both ends of a stream on which the client has spoken.
    fn stream(keys: &[u8]) -> (StreamSeal, StreamSeal) {
        let (a, b) = pair("c", keys);
        let (mut client, mut server) = (a.stream(Side::Client), b.stream(Side::Server));
        let mut out = Vec::new();
        client.seal(b"request", &mut out);
        assert_eq!(server.open(&mut out), Ok(Some((b"request".to_vec(), out.len()))));
        (client, server)
    }

    #[test]
    fn frames_come_in_order_however_they_are_cut() {
        for keys in [&[][..], &[1]] {
            let (mut client, mut server) = stream(keys);
            let (mut bytes, mut buffer, mut taken) = (Vec::new(), Vec::new(), Vec::new());
            for i in 0..50u8 {
                server.seal(&vec![i; usize::from(i) * 3], &mut bytes);
            }
            for piece in bytes.chunks(7) {
                buffer.extend_from_slice(piece);
                while let Some((frame, len)) = client.open(&mut buffer).unwrap() {
                    buffer.drain(..len);
                    taken.push(frame);
                }
            }
            assert_eq!(taken, (0..50u8).map(|i| vec![i; usize::from(i) * 3]).collect::<Vec<_>>());
            let mut more = Vec::new();
            client.seal(b"more", &mut more);
            assert_eq!(server.open(&mut more).unwrap().unwrap().0, b"more");
        }
    }

    #[test]
    fn frames_of_another_place_are_rejected() {
        let frame = |seal: &mut StreamSeal| {
            let mut out = Vec::new();
            seal.seal(b"frame", &mut out);
            out
        };
        let (mut client, mut server) = stream(&[1]);
        let (first, second, third) = (frame(&mut server), frame(&mut server), frame(&mut server));
        assert!(client.open(&mut second.clone()).is_err(), "not the first");
        let (mut client_2, _) = stream(&[1]);
        assert_eq!(client_2.open(&mut first.clone()), Err(Rejected::Forged), "another stream's");
        client.open(&mut first.clone()).unwrap().unwrap();
        assert_eq!(client.open(&mut first.clone()), Err(Rejected::Forged), "again");
        assert_eq!(client.open(&mut third.clone()), Err(Rejected::Forged), "one left out");
        // A client's own first frame sent back to it.
        let (a, _) = pair("c", &[1]);
        let mut client = a.stream(Side::Client);
        let mut reflected = frame(&mut client);
        assert_eq!(client.open(&mut reflected), Err(Rejected::Forged));
        // What is announced as too long is not waited for.
        assert_eq!(client.open(&mut [0xff; 4]), Err(Rejected::TooLong));
    }
}
