//! Lines of a query file, one after the other: by the main thread before the run, or by the thread `input` while it
//! goes on.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread;

use crossbeam_channel::{Sender, bounded};

use super::feed::{Feed, FeedState};
use super::query_file::{Edns, QueryFile, QueryFileError, Reading};

/// Bytes in a line at most. The longest name is 255 bytes of up to four characters (`\DDD`) each, so a longer line
/// cannot be right, and a file that is no text is refused before it fills the memory.
pub(super) const MAX_LINE_LEN: usize = 2_048;

/// Bytes of queries that are read before anything is sent: what ends within them is sent as a file is, also many times.
pub const FIRST_LEN: usize = 16 << 20;

/// Bytes of a block, and how many are read ahead.
const BLOCK_LEN: usize = 1 << 18;
const BLOCKS_AHEAD: usize = 32;

/// What all of it may take: twice the first part, which grows by doubling, the blocks, and one of each sending thread.
const MEMORY_LEN: usize = 64 << 20;

const _: () = assert!(2 * FIRST_LEN + 2 * (BLOCKS_AHEAD + 32) * BLOCK_LEN <= MEMORY_LEN);

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

impl QueryFile {
    /// Reads the file at `path`; a bad line refuses it.
    ///
    /// # Errors
    /// A [`QueryFileError`].
    pub fn open(path: &Path, edns: Option<&Edns>) -> Result<Self, QueryFileError> {
        Self::open_as(path, &Reading { edns: edns.cloned(), strict: true, ..Reading::default() })
    }

    /// Reads the file at `path` as is said.
    ///
    /// # Errors
    /// A [`QueryFileError`].
    pub fn open_as(path: &Path, reading: &Reading) -> Result<Self, QueryFileError> {
        let file = path.display().to_string();
        match File::open(path) {
            Ok(source) => Self::read_as(BufReader::with_capacity(1 << 18, source), &file, reading),
            Err(error) => Err(QueryFileError::Unreadable { file, error }),
        }
    }

    /// Reads queries from `source`, which is called `file` in errors; a bad line refuses it.
    ///
    /// # Errors
    /// A [`QueryFileError`].
    pub fn read(source: impl BufRead, file: &str, edns: Option<&Edns>) -> Result<Self, QueryFileError> {
        Self::read_as(source, file, &Reading { edns: edns.cloned(), strict: true, ..Reading::default() })
    }

    /// Reads queries from `source`, which is called `file` in errors, as is said.
    ///
    /// # Errors
    /// A [`QueryFileError`].
    pub fn read_as(source: impl BufRead, file: &str, reading: &Reading) -> Result<Self, QueryFileError> {
        let mut lines = LineReader::new(source, file, reading.clone());
        let mut queries = lines.begin();
        while lines.read_line(&mut queries)? {}
        queries.end(file)
    }
}

/// Reads queries from `source`, which is called `file` in errors: all of them, or the first and the others while the
/// run goes on.
///
/// # Errors
/// A [`QueryFileError`] in the first of them.
pub fn read(
    source: impl BufRead + Send + 'static,
    file: &str,
    reading: &Reading,
) -> Result<QueryFile, QueryFileError> {
    let mut lines = LineReader::new(source, file, reading.clone());
    let mut first = lines.begin();
    while first.memory_len() < FIRST_LEN {
        if !lines.read_line(&mut first)? {
            return first.end(file);
        }
    }
    let (sender, blocks) = bounded(BLOCKS_AHEAD);
    let state = Arc::new(FeedState::default());
    let feed = Feed { blocks, state: Arc::clone(&state) };
    // It ends when there is nothing more to read or nobody to read it for, and with the process at the latest.
    let begun = thread::Builder::new().name("input".into()).spawn(move || read_ahead(lines, &sender, &state));
    begun.map_err(|error| QueryFileError::Unreadable { file: file.into(), error })?;
    Ok(first.end(file)?.followed_by(feed))
}

fn read_ahead(mut lines: LineReader<impl BufRead>, blocks: &Sender<QueryFile>, state: &FeedState) {
    loop {
        let mut block = lines.begin();
        let mut more = true;
        while more && block.memory_len() < BLOCK_LEN {
            more = lines.read_line(&mut block).unwrap_or_else(|error| {
                let _ = state.error.set(error.to_string());
                false
            });
        }
        state.read.fetch_add(block.count().into(), Relaxed);
        state.bad.fetch_add(block.bad_lines().count, Relaxed);
        if block.count() > 0 && blocks.send(block).is_err() || !more {
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload::feed::NextBlock;
    use std::io::repeat;

    #[test]
    fn what_is_short_is_a_file_and_what_is_long_comes_in_blocks() {
        let short = read(&b"a.example A\nb.example A\n"[..], "in", &Reading::default()).unwrap();
        assert!(short.count() == 2 && short.feed().is_none());

        let line = b"name.example AAAA\n";
        let count = 1_000_000;
        let source = Cycle { line, at: 0 }.take((line.len() * count) as u64).chain(&b"bad\n"[..]);
        let queries = read(BufReader::new(source), "in", &Reading::default()).unwrap();
        let feed = queries.feed().unwrap();
        let mut total = queries.count() as usize;
        loop {
            match feed.next() {
                NextBlock::Block(block) => {
                    assert_eq!(block.text(0), "name.example AAAA");
                    assert!(block.memory_len() < BLOCK_LEN + 1_000);
                    total += block.count() as usize;
                }
                NextBlock::Later => thread::yield_now(),
                NextBlock::End => break,
            }
        }
        assert_eq!((total, feed.counts().1, feed.error()), (count, 1, None));
    }

    #[test]
    fn an_input_without_an_end_takes_no_more_than_it_may_and_ends_with_its_reader() {
        let source = BufReader::new(Cycle { line: b"a A\n", at: 0 });
        let queries = read(source, "in", &Reading::default()).unwrap();
        assert!(queries.memory_len() < FIRST_LEN + 1_000);
        let feed = queries.feed().unwrap().clone();
        let state = Arc::clone(&feed.state);
        while feed.blocks.len() < BLOCKS_AHEAD {
            thread::yield_now();
        }
        drop((queries, feed));
        while Arc::strong_count(&state) > 1 {
            thread::yield_now();
        }
    }

    #[test]
    fn a_strict_reader_ends_at_the_first_bad_line() {
        let good = Cycle { line: b"a A\n", at: 0 }.take(4 * 1_000_000);
        let source = BufReader::new(good.chain(&b"bad\n"[..]).chain(repeat(b'x')));
        let reading = Reading { strict: true, ..Reading::default() };
        let queries = read(source, "in", &reading).unwrap();
        let feed = queries.feed().unwrap();
        while !matches!(feed.next(), NextBlock::End) {}
        assert!(feed.error().unwrap().starts_with("in:1000001: `bad`"), "{:?}", feed.error());
    }

    /// A line again and again.
    struct Cycle {
        line: &'static [u8],
        at: usize,
    }

    impl Read for Cycle {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            for byte in buffer.iter_mut() {
                *byte = self.line[self.at];
                self.at = (self.at + 1) % self.line.len();
            }
            Ok(buffer.len())
        }
    }
}
