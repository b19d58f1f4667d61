//! Where results go: text, JSON, percentile distributions, interval logs, a page; and the display while a run goes on.
//! Runs on the main thread.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};

use crate::bench::latency::Latencies;
use crate::bench::{Progress, RunSettings};
use crate::cli::Failure;
use crate::report::hdr::{self, IntervalLog};
use crate::report::json::Report;
use crate::report::{html, text};

/// Files to write.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "Results")]
#[group(skip)]
pub(super) struct OutputArgs {
    /// Write the result as JSON; `-` for standard output, and the text then goes to standard error
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the result as one HTML page with plots
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write response times by percentile, as HdrHistogram's plotter reads them
    #[arg(long, value_name = "FILE")]
    hgrm: Option<PathBuf>,
    /// Write response times of each second, as HdrHistogram's log processor reads them
    #[arg(long, value_name = "FILE")]
    hdr_log: Option<PathBuf>,
}

/// A file that is made before the run, so that a run is not made in vain.
struct OutputFile {
    path: PathBuf,
    file: File,
}

impl OutputFile {
    fn create(path: &Path) -> Result<Self, Failure> {
        let file = File::create(path)
            .map_err(|error| Failure::usage(format!("{}: cannot be written: {error}", path.display())))?;
        Ok(Self { path: path.into(), file })
    }

    fn write(self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), Failure> {
        let mut out = BufWriter::new(&self.file);
        write(&mut out).and_then(|()| out.flush()).map_err(|error| unwritten(&self.path, &error))
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{}: the result could not be written: {error}", path.display()))
}

/// Where a result goes.
pub(super) struct Outputs {
    json: Option<OutputFile>,
    html: Option<OutputFile>,
    hgrm: Option<OutputFile>,
    log: Option<(PathBuf, IntervalLog<BufWriter<File>>)>,
    /// An interval of the log could not be written.
    log_error: Option<io::Error>,
    json_to_stdout: bool,
    text: Box<dyn Write>,
    text_error: Option<io::Error>,
    display: ProgressBar,
    /// Lines for each interval, as with -S.
    prints_intervals: bool,
    started: SystemTime,
}

impl Outputs {
    /// Makes the files.
    pub(super) fn open(args: &OutputArgs, prints_intervals: bool) -> Result<Self, Failure> {
        let json_to_stdout = args.json.as_deref() == Some(Path::new("-"));
        let create = |path: &Option<PathBuf>| path.as_deref().map(OutputFile::create).transpose();
        let started = SystemTime::now();
        let log = create(&args.hdr_log)?.map(|output| {
            let log = IntervalLog::begin(BufWriter::new(output.file), started);
            log.map(|log| (output.path.clone(), log)).map_err(|error| unwritten(&output.path, &error))
        });
        // Drawn on a terminal alone, and not among the lines of intervals.
        let display = if prints_intervals { ProgressBar::hidden() } else { ProgressBar::new_spinner() };
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed} {msg}") {
            display.set_style(style);
        }
        Ok(Self {
            json: if json_to_stdout { None } else { create(&args.json)? },
            html: create(&args.html)?,
            hgrm: create(&args.hgrm)?,
            log: log.transpose()?,
            log_error: None,
            json_to_stdout,
            text: if json_to_stdout { Box::new(io::stderr()) } else { Box::new(io::stdout()) },
            text_error: None,
            display,
            prints_intervals,
            started,
        })
    }

    /// Writes text for people. That it cannot be written is told at the end.
    pub(super) fn text(&mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let (text, mut result) = (&mut *self.text, Ok(()));
        // What is drawn on the terminal makes way.
        self.display.suspend(|| result = write(text));
        if let Err(error) = result {
            self.text_error.get_or_insert(error);
        }
    }

    /// Tells of an interval.
    pub(super) fn progress(&mut self, settings: &RunSettings, progress: Progress<'_>) {
        let Progress { point, tally, totals } = progress;
        if self.prints_intervals {
            let qps = point.qps();
            self.text(|out| text::write_interval(out, SystemTime::now(), qps));
        } else {
            let rate = settings.rate_qps().map_or(String::new(), |rate| format!(" of {rate:.0}"));
            let latency = |value: Option<f64>| value.map_or("-".into(), |us| format!("{us:.0}"));
            let loss = 100.0 * totals.lost as f64 / (totals.sent as f64).max(1.0);
            self.display.set_message(format!(
                "{:.0}{rate} answered a second, p50 {} us, p99 {} us, {loss:.2}% lost",
                point.qps(),
                latency(point.p50_us),
                latency(point.p99_us)
            ));
            self.display.tick();
        }
        self.log_interval(point.start, point.length, &tally.responses());
    }

    fn log_interval(&mut self, start: Duration, length: Duration, latencies: &Latencies) {
        let Some((_, log)) = &mut self.log else { return };
        if let Err(error) = log.add(start, length, latencies) {
            self.log_error.get_or_insert(error);
        }
    }

    /// Tells what a long piece of work is at.
    pub(super) fn say(&self, message: String) {
        self.display.set_message(message);
        self.display.tick();
    }

    /// When it began.
    pub(super) fn started(&self) -> SystemTime {
        self.started
    }

    /// Writes the result to all files. All are tried; the first error wins.
    pub(super) fn finish(mut self, report: &Report, responses: &Latencies) -> Result<(), Failure> {
        self.display.finish_and_clear();
        let flushed = self.text.flush().err();
        let mut results = vec![match self.text_error.take().or(flushed) {
            Some(error) => Err(Failure::failed(format!("the result could not be written: {error}"))),
            None => Ok(()),
        }];
        let write_json = |out: &mut dyn Write| {
            serde_json::to_writer_pretty(&mut *out, report).map_err(io::Error::from)?;
            writeln!(out)
        };
        if self.json_to_stdout {
            let mut out = io::stdout();
            let written = write_json(&mut out).and_then(|()| out.flush());
            results.push(written.map_err(|error| unwritten(Path::new("standard output"), &error)));
        }
        results.extend(self.json.map(|output| output.write(write_json)));
        results.extend(self.hgrm.map(|output| output.write(|out| hdr::write_distribution(out, responses))));
        let title = format!("redbreast bench of {}", report.target.address);
        results.extend(self.html.map(|output| {
            let page = html::page(&title, &[(report.target.server.clone(), report.clone())]);
            output.write(|out| out.write_all(page.as_bytes()))
        }));
        if let Some((path, log)) = self.log {
            let written = self.log_error.map_or_else(|| log.end(), Err);
            results.push(written.map_err(|error| unwritten(&path, &error)));
        }
        results.into_iter().collect()
    }
}
