//! Bytes of records and deltas: variable-length integers (LEB128, seven bits a byte) and length-prefixed strings.
//!
//! Pure; runs on whichever thread encodes or decodes. Reading never panics, whatever the bytes are, and borrows from
//! them rather than allocating what a length claims.

/// Bytes that are no encoding of what was expected, or end too early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed or cut short")
    }
}

impl std::error::Error for Malformed {}

/// Appends `value`.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

/// Appends `bytes` behind their length.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Bytes that [`put_varint`] takes.
#[must_use]
pub(super) fn varint_len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Takes values off the front of bytes.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    /// Whether nothing is left.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if there are fewer.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    /// The next bytes, as many as the array has.
    ///
    /// # Errors
    /// [`Malformed`] if there are fewer.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    /// An integer.
    ///
    /// # Errors
    /// [`Malformed`] if it has more than 64 bits, or is not written in as few bytes as it could be: equal records have
    /// to have equal bytes.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 || shift > 0 && byte == 0 {
                return Err(Malformed);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    /// Bytes behind their length, which is at most `max_len`.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn bytes(&mut self, max_len: usize) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.varint()?).ok().filter(|&len| len <= max_len).ok_or(Malformed)?;
        self.take(len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_come_back_and_have_one_encoding() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            assert_eq!(out.len(), varint_len(value), "{value}");
            let mut reader = Reader(&out);
            assert_eq!((reader.varint(), reader.is_empty()), (Ok(value), true));
            for len in 0..out.len() {
                assert_eq!(Reader(&out[..len]).varint(), Err(Malformed), "{value} cut to {len}");
            }
        }
        for wrong in [&[0x80, 0][..], &[0xff; 11], &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2]]
        {
            assert_eq!(Reader(wrong).varint(), Err(Malformed), "{wrong:?}");
        }
    }

    #[test]
    fn lengths_are_bounded_by_what_is_there_and_by_what_may_be() {
        assert_eq!(Reader(b"\x03abc").bytes(3), Ok(&b"abc"[..]));
        assert_eq!(Reader(b"\x03abc").bytes(2), Err(Malformed));
        assert_eq!(Reader(b"\x03ab").bytes(3), Err(Malformed));
    }
}
