//! Queries that do not all stand in memory: what comes on standard input after the first [`FIRST_LEN`] bytes of it.
//!
//! The thread `input` reads blocks of lines ahead, a few of them; sending threads take one each when they have sent the one
//! before. So the queries are sent in the order of the blocks, once, and however many come take [`MEMORY_LEN`] at most.

use std::io::BufRead;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::line_reader::LineReader;
use super::query_file::{QueryFile, QueryFileError, Reading};

/// Bytes of queries that are read before anything is sent: what ends within them is sent as a file is, also many times.
pub const FIRST_LEN: usize = 16 << 20;

/// Bytes of a block, and how many are read ahead.
const BLOCK_LEN: usize = 1 << 18;
const BLOCKS_AHEAD: usize = 32;

/// What all of it may take: twice the first part, which grows by doubling, the blocks, and one of each sending thread.
pub const MEMORY_LEN: usize = 64 << 20;

const _: () = assert!(2 * FIRST_LEN + 2 * (BLOCKS_AHEAD + 32) * BLOCK_LEN <= MEMORY_LEN);

/// What is to be told of an input after the run.
#[derive(Debug, Default)]
struct State {
    read: AtomicU64,
    bad: AtomicU64,
    /// Why it ended before its end.
    error: OnceLock<String>,
}

/// Where the next blocks come from.
#[derive(Clone)]
pub struct Feed {
    blocks: Receiver<QueryFile>,
    state: Arc<State>,
}

/// What a look for the next block finds.
pub(crate) enum Next {
    /// A block.
    Block(Box<QueryFile>),
    /// None yet.
    Later,
    /// None any more.
    End,
}

impl Feed {
    pub(crate) fn next(&self) -> Next {
        match self.blocks.try_recv() {
            Ok(block) => Next::Block(Box::new(block)),
            Err(crossbeam_channel::TryRecvError::Empty) => Next::Later,
            Err(crossbeam_channel::TryRecvError::Disconnected) => Next::End,
        }
    }

    /// Queries, and bad lines, that have come by it.
    #[must_use]
    pub fn counts(&self) -> (u64, u64) {
        (self.state.read.load(Relaxed), self.state.bad.load(Relaxed))
    }

    /// Why it ended before its end, if it did.
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.state.error.get().map(String::as_str)
    }
}

/// Reads queries from `source`, which is called `file` in errors: all of them, or the first and the others while the run
/// goes on.
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
    let state = Arc::new(State::default());
    let feed = Feed { blocks, state: Arc::clone(&state) };
    // It ends when there is nothing more to read or nobody to read it for, and with the process at the latest.
    let begun = thread::Builder::new().name("input".into()).spawn(move || read_ahead(lines, &sender, &state));
    begun.map_err(|error| QueryFileError::Unreadable { file: file.into(), error })?;
    Ok(first.end(file)?.followed_by(feed))
}

fn read_ahead(mut lines: LineReader<impl BufRead>, blocks: &Sender<QueryFile>, state: &State) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufReader, Read, repeat};

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
                Next::Block(block) => {
                    assert_eq!(block.text(0), "name.example AAAA");
                    assert!(block.memory_len() < BLOCK_LEN + 1_000);
                    total += block.count() as usize;
                }
                Next::Later => thread::yield_now(),
                Next::End => break,
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
        while !matches!(feed.next(), Next::End) {}
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
