//! `systole replay`: what a setting would have made of a trace.
//!
//! It asks no monitor and needs no guard: what counts is the down verdict, by the rules of
//! [`trace::replay`](mod@crate::trace::replay).

use super::setting::SettingArgs;
use super::terminal::{self, Severity, Terminal};
use super::traces::{TraceArgs, warn_of_old};
use super::{Failure, words};
use crate::config::LONGEST;
use crate::engine::{Detector, Policy};
use crate::trace::{self, Quality};
use comfy_table::Cell;
use serde::{Serialize, Serializer};
use std::collections::BTreeMap;

const EXAMPLES: &str = "\
Examples:
  systole replay trace.csv
  systole replay trace.csv --detector fixed --timeout 200ms --json
  systole replay fleet.rec fleet.rec.1 --detector phi --threshold 8 --missed 2
";

const AFTER: &str = "\
A mistake is a down verdict that a later heartbeat of the same start of the sender refutes; it lasts \
from the deadline to that heartbeat. A heartbeat at the deadline is in time; an old or repeated one \
proves nothing; the silence at the end is not judged. Settings are the monitor's, but without grace \
unless you ask for it, and without the guards against the monitor's own trouble.";

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct ReplayArgs {
    #[command(flatten)]
    trace: TraceArgs,
    #[command(flatten)]
    setting: SettingArgs,
    /// List so many peers at most, those with the most mistakes first; 0 lists all.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print JSON, with all peers.
    #[arg(long)]
    json: bool,
}

/// Detection times.
#[derive(Serialize)]
struct Detection {
    p50: u64,
    p99: u64,
    max: u64,
    mean: f64,
}

/// The quality of service over some arrivals.
#[derive(Serialize)]
struct Figures {
    arrivals: u64,
    heartbeats: u64,
    missing: u64,
    restarts: u64,
    suspicions: u64,
    mistakes: u64,
    mistake_duration_ns: u64,
    mistake_mean_ns: Option<f64>,
    mistake_recurrence_ns: Option<f64>,
    query_accuracy: f64,
    observed_ns: u64,
    t_d_ns: Detection,
}

/// What `--json` prints; the text has the figures of those that it shows, as they take time.
#[derive(Serialize)]
struct Answer {
    detector: &'static str,
    interval: String,
    dropped_from_recording: u64,
    torn_bytes: u64,
    damaged_bytes: u64,
    unended_lines: u64,
    #[serde(flatten)]
    overall: Figures,
    #[serde(serialize_with = "figures_of_all")]
    peers: BTreeMap<String, Quality>,
}

fn figures_of_all<S: Serializer>(
    peers: &BTreeMap<String, Quality>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(peers.iter().map(|(name, quality)| (name, Figures::of(quality))))
}

impl Figures {
    fn of(quality: &Quality) -> Figures {
        let [p50, p99, max] = quality.detection.at([50.0, 99.0, 100.0]);
        let whole = |ns: u128| u64::try_from(ns).unwrap_or(u64::MAX);
        Figures {
            arrivals: quality.arrivals,
            heartbeats: quality.heartbeats,
            missing: quality.missing,
            restarts: quality.restarts,
            suspicions: quality.suspicions,
            mistakes: quality.mistakes,
            mistake_duration_ns: whole(quality.mistake_duration_ns),
            mistake_mean_ns: quality.mean_mistake_ns(),
            mistake_recurrence_ns: quality.mean_recurrence_ns(),
            query_accuracy: quality.query_accuracy(),
            observed_ns: whole(quality.observed_ns),
            t_d_ns: Detection { p50, p99, max, mean: quality.detection.mean() },
        }
    }
}

/// Replays a trace and prints what came of it.
///
/// # Errors
/// The trace cannot be read or is none, or the options do not fit together (exit code 2).
pub fn replay(args: ReplayArgs) -> Result<u8, Failure> {
    let policy = args.setting.policy()?;
    let (trace, intervals, replay) = match args.trace.replay(&policy)? {
        Some(found) => found,
        None => {
            let (trace, intervals) = args.trace.open()?;
            let replay = trace::replay(&trace, &policy, |place| intervals[place]);
            (trace, intervals, replay)
        }
    };
    let names = trace.peers.iter().map(|peer| peer.name.clone());
    let peers: BTreeMap<String, Quality> = names.zip(replay.peers).collect();
    let answer = Answer {
        detector: policy.detector.as_str(),
        interval: args.trace.interval_source(&policy, &intervals),
        dropped_from_recording: trace.losses.dropped,
        torn_bytes: trace.losses.torn_bytes,
        damaged_bytes: trace.losses.damaged_bytes,
        unended_lines: trace.losses.unended_lines,
        overall: Figures::of(&replay.overall),
        peers,
    };
    let arrivals =
        answer.peers.iter().map(|(name, of)| (name.as_str(), of.arrivals, of.heartbeats));
    warn_of_old(arrivals);
    if args.json {
        terminal::print_json(&answer)?;
    } else {
        terminal::print(&text(&answer, &policy, args.limit, Terminal::detect()))?;
    }
    Ok(0)
}

/// A detector as the options that make it, for `serve` as for `replay`.
pub fn describe(policy: &Policy) -> String {
    // Rounded up: a little later, and no more mistakes than said.
    let missed = (policy.missed * 1e4 - 1e-6).ceil() / 1e4;
    let missed = format!(" --missed {missed}");
    let mut text = format!("--detector {}", policy.detector);
    match policy.detector {
        Detector::Fixed { timeout_ns: Some(ns) } => {
            text += &format!(" --timeout {}", exactly(ns));
        }
        Detector::Fixed { timeout_ns: None } | Detector::Bertier(_) => text += &missed,
        Detector::Chen(chen) => {
            text += &missed;
            text += &format!(" --margin {}", exactly(chen.margin_ns));
        }
        Detector::Blend(blend) => {
            text += &missed;
            text += &format!(" --deviations {}", blend.deviations);
        }
        Detector::Phi(phi) => {
            text += &missed;
            text += &format!(" --threshold {}", phi.threshold());
        }
    }
    text
}

/// The same with all that goes with it, so that `serve` does with these options what was done here.
pub fn describe_whole(policy: &Policy) -> String {
    let mut text = format!("{} --grace {}", describe(policy), exactly(policy.grace_ns));
    let usual = Policy::default();
    if policy.suspect_fraction != usual.suspect_fraction {
        text += &format!(" --suspect-at {}", policy.suspect_fraction);
    }
    if policy.floor_ns > 0 {
        text += &format!(" --floor {}", exactly(policy.floor_ns));
    }
    if u128::from(policy.ceiling_ns) < LONGEST.as_nanos() {
        text += &format!(" --ceiling {}", exactly(policy.ceiling_ns));
    }
    text
}

/// A duration as an option takes it, with nothing rounded away: one word.
fn exactly(ns: u64) -> String {
    match ns {
        0 => "0s".to_owned(),
        ns => words::exact(ns).replace(' ', "").replace('µ', "u"),
    }
}

fn text(answer: &Answer, policy: &Policy, limit: usize, terminal: Terminal) -> String {
    let header = [
        "PEER", "ARRIVALS", "MISSING", "MISTAKES", "T_M MEAN", "T_MR", "ACCURACY", "T_D P50",
        "P99", "MAX",
    ];
    let mut table = terminal.table(&header, &[1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let mut row = |name: &str, figures: &Figures| {
        let mean = |ns: Option<f64>| ns.map_or("-".into(), |ns| words::duration(ns as u64));
        let severity = if figures.mistakes > 0 { Severity::Bad } else { Severity::Plain };
        let t_d = &figures.t_d_ns;
        table.add_row([
            Cell::new(name),
            Cell::new(words::count(figures.arrivals)),
            Cell::new(words::count(figures.missing)),
            terminal.cell(severity, &words::count(figures.mistakes)),
            Cell::new(mean(figures.mistake_mean_ns)),
            Cell::new(mean(figures.mistake_recurrence_ns)),
            Cell::new(format!("{:.7}", figures.query_accuracy)),
            Cell::new(words::duration(t_d.p50)),
            Cell::new(words::duration(t_d.p99)),
            Cell::new(words::duration(t_d.max)),
        ]);
    };
    row("all", &answer.overall);
    let mut peers: Vec<_> = answer.peers.iter().collect();
    peers.sort_by_key(|(_, quality)| std::cmp::Reverse(quality.mistakes));
    let shown = if limit == 0 { peers.len() } else { limit.min(peers.len()) };
    if peers.len() > 1 {
        peers[..shown].iter().for_each(|(name, quality)| row(name, &Figures::of(quality)));
    }
    let mut notes = format!("{}; interval {}", describe_whole(policy), answer.interval);
    if shown < peers.len() {
        notes += &format!("; {shown} of {}", words::plural(peers.len() as u64, "peer"));
    }
    format!("{}\n{}", terminal::render(&table), terminal.paint(Severity::Quiet, &notes))
}
