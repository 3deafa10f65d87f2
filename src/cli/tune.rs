//! `systole tune`: which detector, with which constants, meets a demand on a trace.

use super::replay::{describe, describe_whole};
use super::terminal::{self, Severity, Terminal};
use super::traces::{TraceArgs, any_duration, interval, warn_of_old};
use super::{Failure, outputs, words};
use crate::config::{Layer, policy_of};
use crate::engine::Detector;
use crate::trace;
use crate::trace::configure::{interval_for, late_by_moments};
use crate::trace::evidence::{self, LEAST_JUDGED, most_mistakes};
use crate::trace::plot::{self, Curve, Marks};
use crate::trace::tune::{self, Demand, Judgement, Point};
use comfy_table::Cell;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

const EXAMPLES: &str = "\
Examples:
  systole tune fleet.rec --detect-within 2s --mistakes 1/30d
  systole tune trace.csv --detect-within 500ms --mistakes 1/1d --csv curve.csv --svg curve.svg
";

const AFTER: &str = "\
The detection time of a setting is its 99th percentile; mistakes are counted for one peer, on average. \
Of the settings that meet the demand the one with the fewest mistakes is taken, and of those the most \
patient. A trace proves no rarer mistakes than it is long: without one in all the time that its peers \
were watched together, a third of that time is proved between two (95 %). Of fewer than 300 heartbeats \
behind the first nine of each peer's start nothing is concluded.

Exit codes: 0 the demand is met, and the trace proves it; 1 no setting meets it; 2 usage, or no trace; 4 \
NOT PROVED: it is met on the trace, which is too short to prove it, or too short for anything.";

/// The trace does not prove what was asked.
const NOT_PROVED: u8 = 4;

const DAY_NS: f64 = 86_400e9;

/// What was given as flags.
#[derive(clap::Args, Debug)]
#[command(before_long_help = EXAMPLES, after_long_help = AFTER)]
pub struct TuneArgs {
    #[command(flatten)]
    trace: TraceArgs,
    /// How soon a crash is to be found.
    #[arg(long, value_name = "DURATION", value_parser = interval, allow_hyphen_values = true)]
    detect_within: Duration,
    /// How many mistakes a peer may make, like 1/30d.
    #[arg(long, value_name = "N/DURATION", value_parser = rate, allow_hyphen_values = true)]
    mistakes: Rate,
    /// Write all settings that were tried to this file, as CSV.
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Draw the curves into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

/// So many in so long.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Rate {
    count: f64,
    per: Duration,
}

impl Rate {
    fn per_ns(self) -> f64 {
        self.count / self.per.as_nanos() as f64
    }
}

fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || "is no rate; give a number and a duration, like 1/30d".to_owned();
    let (count, per) = text.split_once('/').ok_or_else(wrong)?;
    let count: f64 = count.trim().parse().map_err(|_| wrong())?;
    let per = any_duration(per.trim())?;
    if !(count.is_finite() && count > 0.0) || per.is_zero() {
        return Err(wrong());
    }
    Ok(Rate { count, per })
}

/// Sweeps the settings and says which one to take.
///
/// # Errors
/// The trace cannot be read or is none, or a file cannot be written.
pub fn tune(args: TuneArgs) -> Result<u8, Failure> {
    let files = [("--csv", args.csv.as_deref()), ("--svg", args.svg.as_deref())];
    let files: Vec<_> =
        files.iter().filter_map(|(option, file)| Some((*option, (*file)?))).collect();
    let inputs = args.trace.files();
    let inputs: Vec<&Path> = inputs.iter().map(PathBuf::as_path).collect();
    outputs::check(&inputs, &files)?;
    let (trace, intervals) = args.trace.open()?;
    let base = policy_of(&Layer::default())?;
    let plain = trace::replay(&trace, &base, |place| intervals[place]).peers;
    let arrivals = trace.peers.iter().zip(&plain);
    warn_of_old(arrivals.map(|(peer, of)| (peer.name.as_str(), of.arrivals, of.heartbeats)));
    let judged = evidence::judged(&trace);
    if judged < LEAST_JUDGED {
        terminal::print(&nothing_to_go_by(judged))?;
        return Ok(NOT_PROVED);
    }
    let points = tune::sweep(&trace, &tune::candidates(&base), &intervals);
    if let Some(path) = &args.csv {
        outputs::write(path, &csv(&points))?;
    }
    let demand = Demand {
        within_ns: u64::try_from(args.detect_within.as_nanos()).unwrap_or(u64::MAX),
        mistakes_per_ns: args.mistakes.per_ns(),
    };
    let judgement = tune::judge(&points, &demand);
    if let Some(path) = &args.svg {
        let title = "Detection time against mistakes";
        let marks = Marks {
            wanted: Some((demand.within_ns as f64 / 1e9, demand.mistakes_per_ns * DAY_NS)),
            named: judgement.named().map(xy).collect(),
        };
        outputs::write(path, &plot::svg(title, X_NAME, Y_NAME, &curves(&points), &marks))?;
    }
    let mut text = verdict(&judgement, &demand);
    if let Judgement::Missed { .. } = judgement {
        let network = tune::network(&trace, &intervals);
        let late = late_by_moments(network.loss, network.variance);
        let recurrence_ns = 1.0 / demand.mistakes_per_ns;
        let longest_us = (trace.peers.iter().zip(&intervals))
            .map(|(peer, us)| if *us == 0 { peer.estimate_interval_us() } else { *us })
            .max();
        let _ = match interval_for(demand.within_ns as f64, recurrence_ns, late) {
            // The one that there is does not meet it.
            Some(ns) if longest_us.is_some_and(|us| ns >= us as f64 * 1e3) => write!(
                text,
                "\nBy Chen's procedure the present interval would do: it takes losses and delays for \
                 independent of each other, and here they come in bunches. What an interval would \
                 have to be, only a recording with it can tell."
            ),
            Some(ns) => write!(
                text,
                "\nBy Chen's procedure, with {:.3} % lost and a delay that deviates by {}, an interval \
                 of {} and `--detector chen` with a margin of {} would meet it.",
                network.loss * 100.0,
                words::duration(network.variance.sqrt() as u64),
                words::duration(ns as u64),
                words::duration((demand.within_ns as f64 - ns) as u64)
            ),
            None => write!(
                text,
                "\nBy Chen's procedure, no interval would meet it with {:.3} % lost and a delay that \
                 deviates by {}.",
                network.loss * 100.0,
                words::duration(network.variance.sqrt() as u64)
            ),
        };
    }
    let _ = write!(text, "\n\n{}", table(&points, &judgement, Terminal::detect()));
    terminal::print(&text)?;
    Ok(match judgement {
        Judgement::Met(point) if is_proved(point, &demand) => 0,
        Judgement::Met(_) => NOT_PROVED,
        Judgement::Missed { .. } => 1,
    })
}

const X_NAME: &str = "detection time, 99th percentile, s";
const Y_NAME: &str = "mistakes of a peer in a day";

fn time(point: &Point) -> f64 {
    point.p99_ns as f64
}

fn xy(point: &Point) -> (f64, f64) {
    (time(point) / 1e9, point.mistakes_per_ns * DAY_NS)
}

fn curves(points: &[Point]) -> Vec<Curve> {
    let of = |word: &&str| {
        let own = points.iter().filter(|point| point.policy.detector.as_str() == *word);
        let points = tune::pareto(own, time).into_iter().map(xy).collect();
        Curve { name: (*word).to_owned(), points }
    };
    Detector::WORDS.iter().map(of).collect()
}

fn csv(points: &[Point]) -> String {
    let mut text = String::from(
        "detector,missed,setting,t_d_p50_ns,t_d_p99_ns,t_d_mean_ns,mistakes,mistakes_per_day,\
         query_accuracy\n",
    );
    for point in points {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{},{},\"{}\",{},{},{:.0},{},{},{}",
            point.policy.detector,
            point.policy.missed,
            describe(&point.policy),
            point.p50_ns,
            point.p99_ns,
            point.mean_ns,
            point.mistakes,
            point.mistakes_per_ns * DAY_NS,
            point.query_accuracy
        );
    }
    text
}

fn recurrence(point: &Point) -> String {
    match point.mistakes {
        0 => "-".into(),
        _ => words::duration((1.0 / point.mistakes_per_ns) as u64),
    }
}

/// Rows of the table before and behind each that is named.
const NEIGHBOURS: usize = 4;

fn table(points: &[Point], judgement: &Judgement<'_>, terminal: Terminal) -> String {
    let header = ["SETTING", "T_D P50", "P99", "MISTAKES", "ONE IN", "ACCURACY", ""];
    let mut table = terminal.table(&header, &[1, 2, 3, 4, 5]);
    let rows = judgement.neighbours(points, NEIGHBOURS);
    for point in &rows {
        let is = |named: Option<&Point>| named.is_some_and(|named| std::ptr::eq(named, *point));
        let mark = match *judgement {
            Judgement::Met(named) if is(Some(named)) => "← this one",
            Judgement::Missed { in_time, .. } if is(in_time) => "← soon enough",
            Judgement::Missed { right, .. } if is(right) => "← so few mistakes",
            _ => "",
        };
        table.add_row([
            Cell::new(describe(&point.policy)),
            Cell::new(words::duration(point.p50_ns)),
            Cell::new(words::duration(point.p99_ns)),
            Cell::new(words::count(point.mistakes)),
            Cell::new(recurrence(point)),
            Cell::new(format!("{:.7}", point.query_accuracy)),
            Cell::new(mark),
        ]);
    }
    let note = format!(
        "{} of {} settings: near the demand, those that no other beats in both; --csv FILE has all",
        rows.len(),
        points.len()
    );
    format!("{}\n{}", terminal::render(&table), terminal.paint(Severity::Quiet, &note))
}

fn nothing_to_go_by(judged: u64) -> String {
    format!(
        "NOT PROVED, and nothing to go by: {} of the trace came behind the first nine of a peer's start, \
         by which detectors learn. Fewer than {LEAST_JUDGED} cannot tell a setting that is mistaken once in \
         a hundred heartbeats from a good one; record more.",
        words::plural(judged, "heartbeat")
    )
}

fn is_proved(point: &Point, demand: &Demand) -> bool {
    point.proven_recurrence_ns() * demand.mistakes_per_ns >= 1.0
}

/// What comes of it, the most important first.
fn verdict(judgement: &Judgement<'_>, demand: &Demand) -> String {
    let wanted_ns = 1.0 / demand.mistakes_per_ns;
    let wanted = words::duration(wanted_ns as u64);
    let within = words::duration(demand.within_ns);
    match judgement {
        Judgement::Met(point) => {
            let proved = is_proved(point, demand);
            let mut text = String::new();
            if !proved {
                let _ = writeln!(
                    text,
                    "NOT PROVED: {}, where one in {wanted} is wanted. Without a mistake, {} of watching \
                     would prove that. It is met here, by",
                    proof(point),
                    words::duration((most_mistakes(0) * wanted_ns) as u64)
                );
            }
            let _ = write!(
                text,
                "{}\nfinds a crash within {} and made {} here.",
                describe_whole(&point.policy),
                words::duration(point.p99_ns),
                words::plural(point.mistakes, "mistake"),
            );
            if proved {
                let _ = write!(text, "\nProved: {}.", proof(point));
            }
            let _ = write!(
                text,
                "\nOf the settings within {within} it is the one with the fewest mistakes, and of those the \
                 most patient: the future may be rougher than the trace."
            );
            text
        }
        Judgement::Missed { in_time, right } => {
            let mut text =
                format!("Nothing finds a crash within {within} with one mistake in {wanted}.");
            if let Some(point) = in_time {
                let times = words::times(point.mistakes_per_ns / demand.mistakes_per_ns);
                let _ = write!(
                    text,
                    "\nWithin {within} the best is one in {}, {times} times too many: {}.",
                    recurrence(point),
                    describe(&point.policy)
                );
            }
            if let Some(point) = right {
                let _ = write!(
                    text,
                    "\nWith so few mistakes the quickest takes {}, {} times too long: {}.",
                    words::duration(point.p99_ns),
                    words::times(point.p99_ns as f64 / demand.within_ns as f64),
                    describe(&point.policy)
                );
                if !is_proved(point, demand) {
                    let _ = write!(text, "\nNOT PROVED: {}.", proof(point));
                }
            }
            text
        }
    }
}

/// What the trace proves of a setting's mistakes.
fn proof(point: &Point) -> String {
    format!(
        "{} in {} of watching, all peers together, prove no more than one in {} (95 %)",
        words::plural(point.mistakes, "mistake"),
        words::duration(u64::try_from(point.observed_ns).unwrap_or(u64::MAX)),
        words::duration(point.proven_recurrence_ns() as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::setting::SettingArgs;

    #[test]
    fn every_setting_that_is_tried_can_be_given_as_it_is_named() {
        #[derive(clap::Parser)]
        struct Options {
            #[command(flatten)]
            setting: SettingArgs,
        }
        let base = policy_of(&Layer::default()).unwrap();
        let candidates = tune::candidates(&base);
        assert!(candidates.len() > 100);
        for policy in candidates {
            let named = describe(&policy);
            let words = format!("replay {named}");
            let options: Options = clap::Parser::parse_from(words.split(' '));
            assert_eq!(options.setting.policy().unwrap(), policy, "{named}");
        }
    }

    #[test]
    fn a_rate_is_a_number_in_a_duration() {
        let thirty = rate("1/30d").unwrap();
        assert_eq!((thirty.count, thirty.per), (1.0, Duration::from_secs(30 * 86_400)));
        assert_eq!(rate("2.5 / 1h").unwrap().count, 2.5);
        for wrong in ["1", "x/1d", "0/1d", "1/0s", "1/d", "-1/1d", "inf/1d"] {
            assert!(rate(wrong).is_err(), "{wrong}");
        }
    }
}
