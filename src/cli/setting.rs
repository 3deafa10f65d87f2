//! The options that say how deadlines are found, for the commands that try settings on a trace.

use super::Failure;
use crate::config::value;
use crate::engine::{Detector, Policy};
use crate::trace::{Replay, Trace, replay_file};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files of a trace.
#[derive(clap::Args, Debug)]
pub struct TraceArgs {
    /// A recording of `systole serve --record`, or CSV with the header peer,seq,sent_ns,arrived_ns;
    /// of a rotated recording, all its files.
    #[arg(required = true, value_name = "TRACE")]
    files: Vec<PathBuf>,
    /// Interval of the heartbeats that state none. Otherwise it is estimated for each peer: the
    /// median time from one heartbeat to the next, a gap divided by the numbers that it spans.
    #[arg(long, value_name = "DURATION", value_parser = interval)]
    interval: Option<Duration>,
}

impl TraceArgs {
    /// The files, for who must not write over them.
    pub fn files(&self) -> Vec<&Path> {
        self.files.iter().map(PathBuf::as_path).collect()
    }

    /// Reads the files, and finds for each peer the interval of what states none, microseconds.
    ///
    /// # Errors
    /// A file cannot be read, or is no trace.
    pub fn open(&self) -> Result<(Trace, Vec<u64>), Failure> {
        let mut trace = Trace::default();
        for file in &self.files {
            let part = Trace::open(file).map_err(|error| Failure::usage(error.to_string()))?;
            if trace.peers.is_empty() {
                trace = part;
            } else {
                trace.append(part);
            }
        }
        if trace.arrivals() == 0 {
            return Err(Failure::usage("there are no heartbeats in the trace"));
        }
        let intervals = trace.intervals_us(self.interval_us());
        Ok((trace, intervals))
    }

    /// Replays the trace while it is read. `None` when it must be opened whole for that.
    ///
    /// # Errors
    /// The file cannot be read, or is no trace.
    pub fn replay(&self, policy: &Policy) -> Result<Option<(Trace, Replay)>, Failure> {
        // Several files are put together peer by peer; and what is no file can be read only once.
        let [file] = &self.files[..] else { return Ok(None) };
        if !file.is_file() {
            return Ok(None);
        }
        let found = replay_file(file, policy, self.interval_us());
        let found = found.map_err(|error| Failure::usage(error.to_string()))?;
        Ok(found.filter(|(_, replay)| replay.overall.arrivals > 0))
    }

    fn interval_us(&self) -> Option<u64> {
        self.interval.map(|interval| interval.as_nanos().div_ceil(1_000) as u64)
    }

    /// Where the intervals come from, in words.
    pub fn interval_source(&self, policy: &Policy, intervals: &[u64]) -> String {
        match self.interval {
            _ if matches!(policy.detector, Detector::Fixed { timeout_ns: Some(_) }) => {
                "plays no part".into()
            }
            Some(interval) => {
                format!("{} where none is stated", humantime::format_duration(interval))
            }
            None if intervals.iter().all(|us| *us == 0) => "as the senders state it".into(),
            None => "estimated from the arrivals where none is stated".into(),
        }
    }
}

/// How deadlines are found.
#[derive(clap::Args, Debug)]
pub struct SettingArgs {
    /// The detector: fixed, chen, bertier, phi, blend.
    #[arg(long, value_name = "NAME")]
    detector: Option<Detector>,
    /// Intervals that a peer may miss.
    #[arg(long, value_name = "N", default_value = "3", value_parser = missed)]
    missed: f64,
    /// The timeout of `fixed`, from the last arrival, in place of missed × interval.
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    timeout: Option<Duration>,
    /// The threshold of `phi`, above 0.
    #[arg(long, value_name = "PHI", value_parser = threshold)]
    threshold: Option<f64>,
    /// The constant margin of `chen`, after the expected arrival and what may be missed.
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    margin: Option<Duration>,
    /// The margin of `blend`, in mean errors of its forecast.
    #[arg(long, value_name = "N", value_parser = threshold)]
    deviations: Option<f64>,
    /// Added to every timeout.
    #[arg(long, value_name = "DURATION", default_value = "0s", value_parser = any_duration)]
    grace: Duration,
    /// Share of the timeout after which a peer is suspected.
    #[arg(long, value_name = "SHARE", default_value = "0.7", value_parser = share)]
    suspect_at: f64,
    /// Nobody is called down after less.
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    floor: Option<Duration>,
    /// Everybody is called down after so much.
    #[arg(long, value_name = "DURATION", value_parser = any_duration)]
    ceiling: Option<Duration>,
}

impl SettingArgs {
    /// The policy that these options make.
    ///
    /// # Errors
    /// An option of another detector was given.
    pub fn policy(&self) -> Result<Policy, Failure> {
        let belongs = [
            ("--timeout", "fixed", self.timeout.is_some()),
            ("--threshold", "phi", self.threshold.is_some()),
            ("--margin", "chen", self.margin.is_some()),
            ("--deviations", "blend", self.deviations.is_some()),
        ];
        // An option that only one detector has names it.
        let implied = belongs.iter().find(|(_, _, given)| *given).map(|(_, word, _)| *word);
        let mut detector = match (self.detector, implied) {
            (Some(detector), _) => detector,
            (None, Some(word)) => word.parse().unwrap_or_default(),
            (None, None) => Detector::default(),
        };
        for (option, word, given) in belongs {
            if given && detector.as_str() != word {
                return Err(Failure::usage(format!(
                    "{option} belongs to --detector {word}, not to {detector}"
                )));
            }
        }
        match &mut detector {
            Detector::Fixed { timeout_ns } => *timeout_ns = self.timeout.map(nanos),
            Detector::Chen(chen) => {
                if let Some(margin) = self.margin {
                    chen.margin_ns = nanos(margin);
                }
            }
            Detector::Phi(phi) => {
                if let Some(threshold) = self.threshold {
                    phi.set_threshold(threshold);
                }
            }
            Detector::Blend(blend) => {
                if let Some(deviations) = self.deviations {
                    blend.deviations = deviations as f32;
                }
            }
            Detector::Bertier(_) => {}
        }
        Ok(Policy {
            detector,
            missed: self.missed,
            grace_ns: nanos(self.grace),
            suspect_fraction: self.suspect_at,
            floor_ns: self.floor.map_or(0, nanos),
            ceiling_ns: self.ceiling.map_or(u64::MAX, nanos),
            ..Policy::default()
        })
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

const YEAR: Duration = Duration::from_secs(366 * 86_400);

/// A duration of up to a year.
pub fn any_duration(text: &str) -> Result<Duration, String> {
    let or = |problem| format!("{problem}; give a duration from 0s to 366d, like 250ms");
    value::duration(text, Duration::ZERO, YEAR).map_err(or)
}

/// A duration of a microsecond to a year.
///
/// # Errors
/// It is none.
pub fn interval(text: &str) -> Result<Duration, String> {
    let or = |problem| format!("{problem}; give a duration from 1us to 366d, like 1s");
    value::duration(text, Duration::from_micros(1), YEAR).map_err(or)
}

fn missed(text: &str) -> Result<f64, String> {
    value::number(text, 1.0, 1_000.0)
        .map_err(|problem| format!("{problem}; give a number from 1 to 1000"))
}

fn share(text: &str) -> Result<f64, String> {
    value::number(text, 0.01, 1.0)
        .map_err(|problem| format!("{problem}; give a number from 0.01 to 1"))
}

fn threshold(text: &str) -> Result<f64, String> {
    value::number(text, 0.01, 1_000.0)
        .map_err(|problem| format!("{problem}; give a number from 0.01 to 1000, like 8"))
}
