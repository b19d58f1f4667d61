//! Lines of a query file, one after the other: by the main thread before the run, or by the thread `input` while it goes on.

use std::io::{self, BufRead, Read};

use super::query_file::{QueryFile, QueryFileError, Reading};

/// Bytes in a line at most. The longest name is 255 bytes of up to four characters (`\DDD`) each, so a longer line
/// cannot be right, and a file that is no text is refused before it fills the memory.
pub(super) const MAX_LINE_LEN: usize = 2_048;

/// Reads lines, one after the other.
pub(super) struct LineReader<R> {
    source: R,
    file: String,
    reading: Reading,
    text: Vec<u8>,
    line: u64,
    good: u64,
}

impl<R: BufRead> LineReader<R> {
    pub(super) fn new(source: R, file: &str, reading: Reading) -> Self {
        Self { source, file: file.into(), reading, text: Vec::new(), line: 0, good: 0 }
    }

    /// No queries yet.
    pub(super) fn begin(&self) -> QueryFile {
        QueryFile::begin_as(&self.reading)
    }

    /// Adds the query of the next line, if there is one. False at the end.
    pub(super) fn read_line(&mut self, queries: &mut QueryFile) -> Result<bool, QueryFileError> {
        self.line += 1;
        self.text.clear();
        let unreadable = |error| QueryFileError::Unreadable { file: self.file.clone(), error };
        let mut limited = (&mut self.source).take(MAX_LINE_LEN as u64 + 1);
        let before = queries.count();
        let added = match limited.read_until(b'\n', &mut self.text).map_err(unreadable)? {
            0 => return Ok(false),
            // With its newline, the longest line has one byte more.
            len if len > MAX_LINE_LEN && !self.text.ends_with(b"\n") => {
                // The rest of it is no line of its own.
                skip_line(&mut self.source).map_err(unreadable)?;
                Err(format!("a line of more than {MAX_LINE_LEN} bytes"))
            }
            _ if queries.add_plain_line(&self.text) => Ok(()),
            _ => queries.add_line(&self.text),
        };
        if queries.count() > before {
            self.good += 1;
            queries.keep_line(&self.text);
        }
        if let Err(fault) = added {
            let error =
                QueryFileError::BadLine { file: self.file.clone(), line: self.line, good: self.good, fault };
            queries.leave_out(error, &self.reading)?;
        }
        Ok(true)
    }
}

/// Passes over what is left of a line.
fn skip_line(source: &mut impl BufRead) -> io::Result<()> {
    loop {
        let buffer = source.fill_buf()?;
        let (len, is_end) = match buffer.iter().position(|&byte| byte == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), buffer.is_empty()),
        };
        source.consume(len);
        if is_end {
            return Ok(());
        }
    }
}
