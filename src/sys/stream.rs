//! Writing to streams that do not block.

use std::io::{self, ErrorKind, Write};

/// Writes as much of `bytes` as the stream takes now, and returns how much that was.
///
/// # Errors
/// What the stream says; one that takes nothing and says nothing is an error, too.
pub fn write_some(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => sent += written,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
