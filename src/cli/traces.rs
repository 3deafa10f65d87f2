//! The files of a trace, for the commands that try settings on one, and what has to be known of them
//! before anything is concluded.

use super::{Failure, terminal, words};
use crate::config::value;
use crate::engine::{Detector, Policy};
use crate::trace::{Losses, Replay, STDIN, Trace, replay_file};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The files of a trace.
#[derive(clap::Args, Debug)]
pub struct TraceArgs {
    /// A recording of `systole serve --record`, or CSV with the header peer,seq,sent_ns,arrived_ns;
    /// of a rotated recording, all its files. `-` is standard input.
    #[arg(required = true, value_name = "TRACE")]
    files: Vec<PathBuf>,
    /// Interval of the heartbeats that state none. Otherwise it is estimated for each peer from its
    /// first 512: the median time from one to the next, a gap divided by the numbers that it spans.
    #[arg(long, value_name = "DURATION", value_parser = interval, allow_hyphen_values = true)]
    interval: Option<Duration>,
}

impl TraceArgs {
    /// The files, for who must not write over them.
    pub fn files(&self) -> Vec<PathBuf> {
        let of = |file: &'_ PathBuf| match file.as_os_str() == STDIN {
            true => Path::new("/dev/stdin").to_owned(),
            false => file.clone(),
        };
        self.files.iter().map(of).collect()
    }

    /// Reads the files, says what they lack, and finds for each peer the interval of what states none, microseconds.
    ///
    /// # Errors
    /// A file cannot be read, or is no trace.
    pub fn open(&self) -> Result<(Trace, Vec<u64>), Failure> {
        let mut trace = Trace::default();
        for file in &self.files {
            let part = Trace::open(file).map_err(|error| Failure::usage(error.to_string()))?;
            warn_of_losses(file, part.losses);
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

    /// Replays the trace while it is read, and says what it lacks. `None` when it must be opened whole for
    /// that. Beside it each peer's interval, as [`open`](Self::open) finds it.
    ///
    /// # Errors
    /// The file cannot be read, or is no trace.
    pub fn replay(&self, policy: &Policy) -> Result<Option<(Trace, Vec<u64>, Replay)>, Failure> {
        // Several files are put together peer by peer; and what is no file can be read only once.
        let [file] = &self.files[..] else { return Ok(None) };
        if !file.is_file() {
            return Ok(None);
        }
        let found = replay_file(file, policy, self.interval_us());
        let found = found.map_err(|error| Failure::usage(error.to_string()))?;
        let found = found.filter(|(_, _, replay)| replay.overall.arrivals > 0);
        if let Some((trace, ..)) = &found {
            warn_of_losses(file, trace.losses);
        }
        Ok(found)
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
                format!("{} where none is stated", words::exact(interval.as_nanos() as u64))
            }
            None if intervals.iter().all(|us| *us == 0) => "as the senders state it".into(),
            None => "estimated from the arrivals where none is stated".into(),
        }
    }
}

/// Says on stderr what a file lacks.
fn warn_of_losses(file: &Path, losses: Losses) {
    let file = if file == Path::new(STDIN) { "stdin".into() } else { file.display().to_string() };
    let warn = |text: String| terminal::say(&format!("systole: {file} {text}"));
    if losses.torn_bytes > 0 {
        warn(format!(
            "is cut off: its last {} bytes make no block and were left out",
            words::count(losses.torn_bytes)
        ));
    }
    if let Some(at) = losses.damaged_at {
        warn(format!(
            "is damaged at byte {}: the {} bytes from there on were left out",
            words::count(at),
            words::count(losses.damaged_bytes)
        ));
    }
    if losses.dropped > 0 {
        let dropped = words::plural(losses.dropped, "heartbeat");
        warn(format!("lacks {dropped} for which the recorder had no room; they look lost"));
    }
    if losses.unended_lines > 0 {
        warn(
            "has no line end behind its last line: if it was cut off there, that arrival is wrong"
                .to_owned(),
        );
    }
}

/// Says on stderr which senders seem to have begun their numbers anew unnoticed, from each peer's name,
/// arrivals, and those of them that proved something. Networks repeat and reorder a few datagrams; a
/// tenth of a peer's arrivals looks like a restart that the trace hides.
pub fn warn_of_old<'a>(peers: impl Iterator<Item = (&'a str, u64, u64)>) {
    let old = |(name, arrivals, heartbeats)| (name, arrivals, arrivals - heartbeats);
    let mut hidden =
        peers.map(old).filter(|(_, arrivals, old)| *old >= 16 && *old * 10 > *arrivals);
    let Some((name, arrivals, old)) = hidden.next() else { return };
    let others = match hidden.count() {
        0 => String::new(),
        count => format!(", and {} like it", words::plural(count as u64, "peer")),
    };
    terminal::say(&format!(
        "systole: {} of {} arrivals of {name} are old or repeated by their numbers and prove nothing\
         {others}; of a sender that began its numbers anew, a CSV must say so in a column `incarnation`",
        words::count(old),
        words::count(arrivals)
    ));
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
