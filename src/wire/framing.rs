//! Messages in a stream of bytes, each behind its length (RFC 1035 §4.2.2).

/// Bytes before each message: its length (RFC 1035 §4.2.2).
pub const PREFIX_LEN: usize = 2;

/// Bytes of the longest message.
pub const MESSAGE_LEN: usize = u16::MAX as usize;

/// Bytes of the longest message with its prefix. A buffer of this length has room left for more behind any incomplete
/// message.
pub const FRAME_LEN: usize = PREFIX_LEN + MESSAGE_LEN;

/// The first message in `input`, if it is there in full.
#[must_use]
pub fn first_message(input: &[u8]) -> Option<&[u8]> {
    let (prefix, rest) = input.split_first_chunk::<PREFIX_LEN>()?;
    rest.get(..usize::from(u16::from_be_bytes(*prefix)))
}
