//! The options that say how deadlines are found, for the commands that try settings on a trace.

use super::Failure;
use crate::config::{KEYS, Key, Layer, SWITCH, policy_of, value};
use crate::engine::{Detector, Policy};
use crate::trace::{Replay, Trace, replay_file};
use clap::{Arg, ArgAction, ArgMatches, Command};
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

/// How deadlines are found: the monitor's own options, taken and refused as it does.
#[derive(Clone, Debug)]
pub struct SettingArgs {
    layer: Layer,
}

/// The names of those options.
const NAMES: [&str; 10] = [
    "detector",
    "missed",
    "timeout",
    "threshold",
    "margin",
    "deviations",
    "grace",
    "suspect-at",
    "floor",
    "ceiling",
];

fn keys() -> impl Iterator<Item = &'static Key> {
    NAMES.iter().filter_map(|name| KEYS.iter().find(|key| key.name == *name))
}

impl SettingArgs {
    /// The policy that these options make.
    ///
    /// # Errors
    /// The monitor would refuse them.
    pub fn policy(&self) -> Result<Policy, Failure> {
        Ok(policy_of(&self.layer)?)
    }
}

impl clap::Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let default = |key: &Key| if key.name == "grace" { "0s" } else { key.default };
        command.args(keys().map(|key| flag(key, default(key), "")))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(SettingArgs { layer: given(keys(), matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = <Self as clap::FromArgMatches>::from_arg_matches(matches)?;
        Ok(())
    }
}

/// The flag of a key; `note` ends its long help.
pub fn flag(key: &'static Key, default: &str, note: &str) -> Arg {
    let default = match default {
        "" => String::new(),
        text => format!(" [default: {text}]"),
    };
    let arg = Arg::new(key.name);
    let arg = match key.value {
        SWITCH => arg.num_args(0..=1).require_equals(true).default_missing_value("yes"),
        _ => arg,
    };
    arg.long(key.name)
        .value_name(key.value)
        .action(ArgAction::Append)
        // A value like `-3` is ours to refuse, with the range.
        .allow_hyphen_values(true)
        .help(format!("{}{default}", key.help))
        .long_help(format!("{}{default}\nGive {}.{note}", key.help, key.allowed))
}

/// What was given for these keys by such flags.
pub fn given(keys: impl IntoIterator<Item = &'static Key>, matches: &ArgMatches) -> Layer {
    Layer::from_flags(keys.into_iter().filter_map(|key| {
        let texts = matches.get_many::<String>(key.name)?;
        Some((key, texts.cloned().collect()))
    }))
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
