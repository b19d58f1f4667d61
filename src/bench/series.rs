//! The course of a run: what the sending threads hand in each interval, put together by the main thread.
//!
//! Memory is bounded however long the run: beyond `MAX_POINTS` points, every two neighbours become one.

use std::collections::BTreeMap;
use std::time::Duration;

use super::tally::{Tally, Totals};

/// Points of a series at most.
const MAX_POINTS: usize = 1_200;

/// What one thread counted in one interval, or in its last part of one.
pub(super) struct Part {
    pub(super) thread: u32,
    pub(super) interval: u64,
    pub(super) tally: Box<Tally>,
}

/// What was counted in one interval by all threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// When the interval began.
    pub start: Duration,
    /// How long it was.
    pub length: Duration,
    /// What was sent and answered in it. A lost query is counted where it was given up, a timeout after it was sent.
    pub totals: Totals,
    /// Response times, in microseconds: the median, the 99th percentile, the greatest. Where neighbours became one,
    /// the percentiles are the greater of theirs. None where nothing was answered.
    pub p50_us: Option<f64>,
    /// The 99th percentile.
    pub p99_us: Option<f64>,
    /// The greatest.
    pub max_us: Option<f64>,
}

impl Point {
    /// Queries completed a second.
    #[must_use]
    pub fn qps(&self) -> f64 {
        self.totals.completed as f64 / self.length.as_secs_f64().max(1e-9)
    }

    fn new(start: Duration, length: Duration, tally: &Tally) -> Self {
        let responses = tally.responses();
        let quantile_us = |quantile| (tally.totals.completed > 0).then(|| responses.quantile_us(quantile));
        Self {
            start,
            length,
            totals: tally.totals.clone(),
            p50_us: quantile_us(0.5),
            p99_us: quantile_us(0.99),
            max_us: quantile_us(1.0),
        }
    }

    fn join(mut self, next: &Self) -> Self {
        self.length = next.start + next.length - self.start;
        self.totals.merge(&next.totals);
        self.p50_us = greater(self.p50_us, next.p50_us);
        self.p99_us = greater(self.p99_us, next.p99_us);
        self.max_us = greater(self.max_us, next.max_us);
        self
    }
}

fn greater(one: Option<f64>, other: Option<f64>) -> Option<f64> {
    one.zip(other).map(|(one, other)| one.max(other)).or(one).or(other)
}

/// The points of a run without the last one if that is a part of an interval: answers to what was sent before come in
/// it, and as a rate it would mislead. The only one of a run stays.
#[must_use]
pub fn whole<T>(points: &[T], length_s: impl Fn(&T) -> f64) -> &[T] {
    match points {
        [first, .., last] if length_s(last) < 0.99 * length_s(first) => &points[..points.len() - 1],
        _ => points,
    }
}

/// Puts the parts of all threads together.
pub(super) struct Collector {
    interval: Duration,
    /// By thread: the first interval that it may still hand something in of; none when it has ended.
    next: Vec<Option<u64>>,
    open: BTreeMap<u64, Box<Tally>>,
    pub(super) total: Tally,
    points: Vec<Point>,
    /// How many points have become one in `points`, and how many the last of them has.
    joined: usize,
    in_last: usize,
}

impl Collector {
    pub(super) fn new(interval: Duration, threads: u32) -> Self {
        Self {
            interval,
            next: (0..threads).map(|_| Some(0)).collect(),
            open: BTreeMap::new(),
            total: Tally::default(),
            points: Vec::new(),
            joined: 1,
            in_last: 0,
        }
    }

    /// Takes a part. Returns a tally that can be used again, if there is one.
    pub(super) fn take(&mut self, part: Part) -> Option<Box<Tally>> {
        self.next[part.thread as usize] = Some(part.interval + 1);
        self.total.merge(&part.tally);
        match self.open.entry(part.interval) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(part.tally);
                None
            }
            std::collections::btree_map::Entry::Occupied(mut there) => {
                there.get_mut().merge(&part.tally);
                Some(part.tally)
            }
        }
    }

    /// A thread has ended and hands nothing more in.
    pub(super) fn ended(&mut self, thread: u32) {
        self.next[thread as usize] = None;
    }

    /// The next interval that all threads have handed in, in the order of time. The last one ends with the run, at
    /// `end`.
    pub(super) fn complete(&mut self, end: Duration) -> Option<(Point, Box<Tally>)> {
        let (&interval, _) = self.open.first_key_value()?;
        if self.next.iter().flatten().any(|next| *next <= interval) {
            return None;
        }
        let tally = self.open.remove(&interval)?;
        let start = self.interval.saturating_mul(u32::try_from(interval).unwrap_or(u32::MAX));
        let length = end.saturating_sub(start).min(self.interval);
        let point = Point::new(start, length, &tally);
        self.push(point.clone());
        Some((point, tally))
    }

    fn push(&mut self, point: Point) {
        match self.points.pop() {
            Some(last) if self.in_last < self.joined => {
                self.points.push(last.join(&point));
                self.in_last += 1;
            }
            last => {
                self.points.extend(last);
                self.points.push(point);
                self.in_last = 1;
            }
        }
        if self.points.len() > MAX_POINTS {
            let pairs = std::mem::take(&mut self.points);
            self.in_last += if pairs.len().is_multiple_of(2) { self.joined } else { 0 };
            self.joined *= 2;
            self.points =
                pairs.chunks(2).map(|pair| pair[1..].iter().fold(pair[0].clone(), Point::join)).collect();
        }
    }

    pub(super) fn finish(self) -> (Tally, Vec<Point>) {
        (self.total, self.points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(thread: u32, interval: u64, completed: u64) -> Part {
        let mut tally = Box::<Tally>::default();
        tally.totals.completed = completed;
        tally.positive.record(1_000 * (interval + 1));
        Part { thread, interval, tally }
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_interval_is_told_when_all_threads_have_handed_it_in() {
        let mut collector = Collector::new(SECOND, 2);
        let end = SECOND * 10;
        collector.take(part(0, 0, 5));
        assert!(collector.complete(end).is_none());
        collector.take(part(0, 1, 7));
        // The second thread was held up for all of the first interval and has nothing to say of it.
        collector.take(part(1, 1, 1));
        let first = collector.complete(end).unwrap().0;
        assert_eq!((first.start, first.totals.completed, first.qps()), (Duration::ZERO, 5, 5.0));
        let second = collector.complete(end).unwrap().0;
        assert_eq!((second.start, second.totals.completed, second.max_us), (SECOND, 8, Some(2.0)));
        collector.take(part(0, 2, 3));
        assert!(collector.complete(end).is_none());
        collector.ended(1);
        assert_eq!(collector.complete(SECOND * 5 / 2).unwrap().0.length, SECOND / 2);
        let (total, points) = collector.finish();
        assert_eq!((total.totals.completed, points.len()), (16, 3));
    }

    #[test]
    fn an_interval_without_an_answer_has_no_latency_and_the_last_part_of_one_no_rate() {
        let mut collector = Collector::new(SECOND, 1);
        for (interval, completed) in [(0, 0), (1, 5), (2, 5)] {
            collector.take(part(0, interval, completed));
        }
        while collector.complete(SECOND * 9 / 4).is_some() {}
        let points = collector.finish().1;
        let p50s: Vec<_> = points.iter().map(|point| point.p50_us).collect();
        assert_eq!(p50s, [None, Some(2.0), Some(3.0)]);
        assert_eq!(points[0].clone().join(&points[1]).p50_us, Some(2.0));
        let rates: Vec<_> = whole(&points, |it| it.length.as_secs_f64()).iter().map(Point::qps).collect();
        assert_eq!(rates, [0.0, 5.0], "and not 20 a second at the end");
        assert_eq!(whole(&points[..1], |it| it.length.as_secs_f64()).len(), 1);
    }

    #[test]
    fn a_long_run_has_no_more_points_than_a_short_one_and_loses_nothing() {
        let mut collector = Collector::new(SECOND, 1);
        let count = 10 * MAX_POINTS as u64 + 7;
        for interval in 0..count {
            collector.take(part(0, interval, 1));
            collector.complete(Duration::MAX).unwrap();
        }
        let (total, points) = collector.finish();
        assert!(points.len() <= MAX_POINTS && points.len() > MAX_POINTS / 2, "{}", points.len());
        assert_eq!(total.totals.completed, count);
        assert_eq!(points.iter().map(|point| point.totals.completed).sum::<u64>(), count);
        assert_eq!(
            points.iter().map(|point| point.length).sum::<Duration>(),
            SECOND * u32::try_from(count).unwrap()
        );
        for pair in points.windows(2) {
            assert_eq!(pair[0].start + pair[0].length, pair[1].start);
        }
        let (last, rest) = points.split_last().unwrap();
        assert!(rest.iter().all(|point| point.length == rest[0].length) && last.length <= rest[0].length);
    }
}
