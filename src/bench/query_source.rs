//! Which query comes next: each thread claims stretches of the passes through the file from a shared position.
//!
//! One atomic addition claims a whole batch. All threads together send the file in order, and one that is slower
//! sends less of it, as if they read from one file. What follows the file by a [`Feed`] each thread takes block by
//! block.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::workload::QueryFile;
use super::workload::feed::{Feed, NextBlock};

/// The queries that indices are of.
#[derive(Clone)]
pub(crate) enum Section<'a> {
    File(&'a QueryFile),
    Block(Arc<QueryFile>),
}

impl Deref for Section<'_> {
    type Target = QueryFile;

    #[inline]
    fn deref(&self) -> &QueryFile {
        match self {
            Self::File(file) => file,
            Self::Block(block) => block,
        }
    }
}

/// One thread's claims.
pub(crate) struct QuerySource<'a> {
    section: Section<'a>,
    feed: Option<&'a Feed<QueryFile>>,
    /// The feed has nothing more.
    fed: bool,
    /// When it was last asked for queries it had none yet.
    starved: bool,
    position: &'a AtomicU64,
    /// Queries in all passes; `u64::MAX` if there is no end.
    total: u64,
    file_len: u32,
    /// Claimed and not taken: `next..end`.
    next: u64,
    end: u64,
}

impl<'a> QuerySource<'a> {
    /// Claims from `position` in `runs` passes through `file`; in one, if there is something behind it.
    pub(crate) fn new(position: &'a AtomicU64, file: &'a QueryFile, runs: Option<u32>) -> Self {
        let (feed, file_len) = (file.feed(), file.count());
        let runs = if feed.is_some() { Some(1) } else { runs };
        let total = runs.map_or(u64::MAX, |runs| u64::from(runs) * u64::from(file_len));
        let (section, fed) = (Section::File(file), feed.is_none());
        Self { section, feed, fed, starved: false, position, total, file_len, next: 0, end: 0 }
    }

    /// What the indices of [`query`](Self::query) are of, until more is asked for.
    #[inline]
    pub(crate) fn section(&self) -> &Section<'a> {
        &self.section
    }

    /// Whether there was nothing to take yet, and there may be at any moment.
    pub(crate) fn is_starved(&self) -> bool {
        self.starved
    }

    /// Takes the next block, if there is one.
    fn next_block(&mut self) {
        let Some(feed) = self.feed else { return };
        self.starved = false;
        match feed.next() {
            NextBlock::Block(block) => {
                (self.next, self.end) = (0, block.count().into());
                self.file_len = block.count();
                self.section = Section::Block(Arc::from(block));
            }
            NextBlock::Later => self.starved = true,
            NextBlock::End => self.fed = true,
        }
    }

    /// How many of `want` queries can be taken; less than that only for a moment, or when the end is reached.
    pub(crate) fn available(&mut self, want: usize) -> usize {
        let want = want as u64;
        if self.next == self.end {
            let is_at_end = matches!(self.section, Section::Block(_)) || self.next >= self.total;
            if self.feed.is_some() && is_at_end {
                self.next_block();
            } else {
                self.next = self.position.fetch_add(want, Relaxed).min(self.total);
                self.end = self.next.saturating_add(want).min(self.total);
            }
        }
        usize::try_from(want.min(self.end - self.next)).unwrap_or(usize::MAX)
    }

    /// Nothing is left to take, for this thread.
    pub(crate) fn is_exhausted(&self) -> bool {
        if self.feed.is_some() {
            return self.fed && self.next == self.end;
        }
        self.next >= self.total || (self.next == self.end && self.position.load(Relaxed) >= self.total)
    }

    /// The index in the file of the `k`-th query that can be taken.
    #[allow(clippy::cast_possible_truncation)] // less than `file_len`
    pub(crate) fn query(&self, k: usize) -> u32 {
        ((self.next + k as u64) % u64::from(self.file_len)) as u32
    }

    /// Takes `count` queries.
    pub(crate) fn take(&mut self, count: usize) {
        self.next += count as u64;
        debug_assert!(self.next <= self.end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(count: usize) -> QueryFile {
        QueryFile::read("a A\n".repeat(count).as_bytes(), "test", None).unwrap()
    }

    #[test]
    fn what_follows_a_file_is_sent_once_and_whole() {
        let lines: String = (0..1_000_000).map(|i| format!("n{i} A\n")).collect();
        let lines = std::io::Cursor::new(lines);
        let file = crate::bench::workload::line_reader::read(lines, "test", &Default::default()).unwrap();
        assert!(file.feed().is_some() && file.count() < 1_000_000);
        let position = AtomicU64::new(0);
        let mut sources = [(); 2].map(|()| QuerySource::new(&position, &file, Some(3)));
        let (mut numbers, mut turn) = (vec![0u8; 1_000_000], 0);
        while !sources.iter().all(QuerySource::is_exhausted) {
            let source = &mut sources[turn % 2];
            let count = source.available(64);
            for k in 0..count {
                let text = source.section().text(source.query(k)).into_owned();
                numbers[text.trim_start_matches('n').trim_end_matches(" A").parse::<usize>().unwrap()] += 1;
            }
            source.take(count);
            turn += 1;
        }
        assert!(numbers.iter().all(|&count| count == 1));
    }

    #[test]
    fn threads_together_send_each_pass_in_full() {
        let position = AtomicU64::new(0);
        let file = file(7);
        let mut sources = [(); 3].map(|()| QuerySource::new(&position, &file, Some(4)));
        let mut sent = [0; 7];
        for turn in 0.. {
            let source = &mut sources[turn % 3];
            let count = source.available(5).min(turn % 4); // not always all of what was claimed
            (0..count).for_each(|k| sent[source.query(k) as usize] += 1);
            source.take(count);
            if sources.iter().all(QuerySource::is_exhausted) {
                break;
            }
        }
        assert_eq!(sent, [4; 7]);
    }

    #[test]
    fn without_a_number_of_passes_there_is_no_end() {
        let (position, file) = (AtomicU64::new(0), file(3));
        let mut source = QuerySource::new(&position, &file, None);
        for i in 0..100 {
            assert_eq!(source.available(1), 1);
            assert_eq!(source.query(0), i % 3);
            source.take(1);
        }
        assert!(!source.is_exhausted());
    }
}
