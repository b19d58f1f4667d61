//! Latencies in the forms that other tools read: percentile distributions (`.hgrm`) and HdrHistogram logs.
//!
//! Written by the main thread: the former after a run, the latter a line at each interval, so that it costs no memory.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, IntervalLogWriterError};

use crate::bench::latency::Latencies;

/// Steps between one halving of the distance to 100% and the next, as in HdrHistogram's own output.
const STEPS_PER_HALVING: u32 = 5;

/// Writes the percentile distribution of `latencies` in milliseconds, as HdrHistogram's plotter reads it.
///
/// # Errors
/// Those of `out`.
pub fn write_distribution(out: &mut dyn Write, latencies: &Latencies) -> io::Result<()> {
    let histogram = latencies.histogram();
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for step in histogram.iter_quantiles(STEPS_PER_HALVING) {
        total += step.count_since_last_iteration();
        let (value_ms, quantile) = (step.value_iterated_to() as f64 / 1e6, step.quantile_iterated_to());
        if quantile < 1.0 {
            writeln!(out, "{value_ms:>12.6} {quantile:>14.12} {total:>10} {:>14.2}", 1.0 / (1.0 - quantile))?;
        } else {
            writeln!(out, "{value_ms:>12.6} {quantile:>14.12} {total:>10}")?;
        }
    }
    let (mean_ms, stddev_ms) = (histogram.mean() / 1e6, histogram.stdev() / 1e6);
    let max_ms = histogram.max() as f64 / 1e6;
    writeln!(out, "#[Mean    = {mean_ms:>12.6}, StdDeviation   = {stddev_ms:>12.6}]")?;
    writeln!(out, "#[Max     = {max_ms:>12.6}, Total count    = {:>12}]", histogram.len())?;
    let (buckets, sub_buckets) = (histogram.buckets(), 2 * 10u32.pow(histogram.sigfig().into()));
    writeln!(out, "#[Buckets = {buckets:>12}, SubBuckets     = {:>12}]", sub_buckets.next_power_of_two())
}

/// A log of intervals, as HdrHistogram's `HistogramLogProcessor` reads it. Values are nanoseconds.
pub struct IntervalLog<W: Write> {
    out: W,
    serializer: V2DeflateSerializer,
}

impl<W: Write> IntervalLog<W> {
    /// Begins a log of a run that starts at `started`.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn begin(mut out: W, started: SystemTime) -> io::Result<Self> {
        let mut serializer = V2DeflateSerializer::new();
        let mut builder = IntervalLogWriterBuilder::new();
        builder.add_comment("redbreast bench: response times in nanoseconds");
        builder.with_start_time(started).with_base_time(started);
        builder.begin_log_with(&mut out, &mut serializer)?;
        Ok(Self { out, serializer })
    }

    /// Adds an interval that began at `start` after the start of the run.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn add(&mut self, start: Duration, length: Duration, latencies: &Latencies) -> io::Result<()> {
        // A builder that is asked for no headers writes none.
        let mut log = IntervalLogWriterBuilder::new().begin_log_with(&mut self.out, &mut self.serializer)?;
        let written = log.write_histogram(latencies.histogram(), start, length, None);
        written.map_err(|error| match error {
            IntervalLogWriterError::IoError(error) => error,
            IntervalLogWriterError::SerializeError(error) => io::Error::other(format!("{error:?}")),
        })
    }

    /// All is written.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn end(mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};

    fn latencies() -> Latencies {
        let mut latencies = Latencies::default();
        (1..=1_000).for_each(|i| latencies.record(i * 1_000_000));
        latencies
    }

    #[test]
    fn the_distribution_has_the_columns_of_hdrhistogram() {
        let mut out = Vec::new();
        write_distribution(&mut out, &latencies()).unwrap();
        let text = String::from_utf8(out).unwrap();
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(rows[0], ["Value", "Percentile", "TotalCount", "1/(1-Percentile)"]);
        let data: Vec<_> = rows[2..].iter().filter(|row| !row[0].starts_with('#')).collect();
        let median = data.iter().find(|row| row[1] == "0.500000000000").unwrap();
        assert_eq!((median[2], median[3]), ("500", "2.00"));
        assert!((median[0].parse::<f64>().unwrap() - 500.0).abs() < 1.0);
        assert_eq!(data.last().unwrap()[1..], ["1.000000000000", "1000"]);
        assert!(text.contains("Total count    =         1000]"), "{text}");
    }

    #[test]
    fn a_log_is_read_back_as_it_was_written() {
        let (mut out, latencies) = (Vec::new(), latencies());
        let mut log = IntervalLog::begin(&mut out, SystemTime::now()).unwrap();
        for second in 0..3 {
            log.add(Duration::from_secs(second), Duration::from_secs(1), &latencies).unwrap();
        }
        log.end().unwrap();
        let intervals: Vec<_> = IntervalLogIterator::new(&out)
            .filter_map(|entry| match entry.unwrap() {
                LogEntry::Interval(interval) => Some(interval),
                _ => None,
            })
            .collect();
        assert_eq!(intervals.len(), 3);
        assert_eq!(intervals[2].start_timestamp(), Duration::from_secs(2));
        assert!((intervals[2].max() / 1e9 - 1.0).abs() < 1e-3);
        assert!(intervals[0].encoded_histogram().starts_with("HISTFAAA"), "compressed, version 2");
    }
}
