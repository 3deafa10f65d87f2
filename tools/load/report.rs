//! What a run came to: the figures for scripts (JSON), for people (a table) and for plots (hgrm).

use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write;
use systole::api::TimingSettings;

/// The figures of a run. The JSON is this, key by key.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Whether the monitor missed nobody and blamed nobody, provably.
    pub agrees: bool,
    /// Why nothing can be proved, if so.
    pub broken: Option<String>,
    /// Whether the run was cut short.
    pub interrupted: bool,
    /// Version of the generator.
    pub version: &'static str,
    /// Repeats the schedule.
    pub seed: u64,
    /// Peers.
    pub senders: u32,
    /// Their interval, nanoseconds.
    pub interval_ns: u64,
    /// From a last heartbeat to the deadline, nanoseconds.
    pub timeout_ns: u64,
    /// How long the load lasted, ramp included, nanoseconds.
    pub load_ns: u64,
    /// The other side.
    pub monitor: MonitorReport,
    /// Datagrams that our kernel took.
    pub sent: u64,
    /// Datagrams that our kernel refused.
    pub refused: u64,
    /// Datagrams sent per second after the ramp.
    pub offered_per_second: f64,
    /// Heartbeats that the monitor applied.
    pub accepted: u64,
    /// Whether another process had begun to count before the end: what the ones before had accepted is
    /// not in it.
    pub was_replaced: bool,
    /// The same per second after the ramp.
    pub accepted_per_second: f64,
    /// Peers that the monitor called up.
    pub registered: u64,
    /// Peers killed.
    pub killed: u64,
    /// When, in wall time; null when nobody was.
    pub killed_at: Option<String>,
    /// Killed peers found in time.
    pub detected: u64,
    /// Killed peers not found in time.
    pub missed: u64,
    /// The first of them.
    pub missed_names: Vec<String>,
    /// Peers called down while they were being sent for.
    pub false_alarms: u64,
    /// The first of them.
    pub false_alarm_names: Vec<String>,
    /// Killed peers that were called up again.
    pub resurrected: u64,
    /// The first of them.
    pub resurrected_names: Vec<String>,
    /// Peers that were sent for, and of whom the monitor never said a word.
    pub unknown: u64,
    /// The first of them.
    pub unknown_names: Vec<String>,
    /// Living peers that were called left or forgotten.
    pub dismissed: u64,
    /// The first of them.
    pub dismissed_names: Vec<String>,
    /// Planned silences of peers that came back (flaps, runs of losses).
    pub lapses: u64,
    /// Those found in time.
    pub lapses_detected: u64,
    /// Those not.
    pub lapses_missed: u64,
    /// The first of them.
    pub lapses_missed_names: Vec<String>,
    /// Times that the event stream broke and was answered again.
    pub monitor_absences: u64,
    /// How long it was away, in all.
    pub monitor_absent_ns: u64,
    /// Silences that the generator's own lateness caused.
    pub generator_stalls: u64,
    /// Alarms about them; rightly given.
    pub stall_alarms: u64,
    /// BYEs sent at the end.
    pub byes: u64,
    /// Heartbeats of made-up peers, sent beside the load.
    pub flooded: u64,
    /// Peers that the monitor called left.
    pub left: u64,
    /// Heartbeats left out on purpose.
    pub lost: u64,
    /// Heartbeats sent after their successor on purpose.
    pub reordered: u64,
    /// Heartbeats sent twice on purpose.
    pub duplicated: u64,
    /// Peers started anew on purpose.
    pub restarted: u64,
    /// Datagrams that the monitor's kernel dropped during the run.
    pub kernel_drops: u64,
    /// What the monitor refused during the run, by its reasons.
    pub dropped: BTreeMap<String, u64>,
    /// Kills: how late the monitor says it was.
    pub lateness_ns: Figures,
    /// Kills: monitor's transition minus the last heartbeat's send.
    pub detection_time_ns: Figures,
    /// Kills: seen on the event stream minus the deadline.
    pub visible_ns: Figures,
    /// The generator: sent minus intended.
    pub send_lateness_ns: Figures,
    /// Bare timers beside the load that slept until their time: how late they were.
    pub bare_sleep_ns: Figures,
    /// Bare timers beside the load that polled the last 100 µs: how late they were.
    pub bare_hybrid_ns: Figures,
    /// The generator's processor time per datagram sent, nanoseconds.
    pub cpu_ns_per_send: f64,
    /// The generator's senders, in cores.
    pub cpu_cores: f64,
}

/// The monitor that was tested.
#[derive(Clone, Debug, Serialize)]
pub struct MonitorReport {
    /// Its version.
    pub version: String,
    /// Its id.
    pub id: String,
    /// `uring` or `poll`.
    pub transport: String,
    /// Its reactors.
    pub reactors: u32,
    /// How it computes deadlines.
    pub timing: TimingSettings,
}

/// A distribution in figures, nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Figures {
    /// Values.
    pub count: u64,
    /// Smallest.
    pub min: u64,
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p999: u64,
    /// 99.99th percentile.
    pub p9999: u64,
    /// Largest.
    pub max: u64,
}

impl Figures {
    /// Exact figures of single values: a value at a percentile is the smallest that at least this
    /// share of all values does not exceed.
    pub fn exact(values: &mut [u64]) -> Figures {
        values.sort_unstable();
        let (Some(&min), Some(&max)) = (values.first(), values.last()) else {
            return Figures::default();
        };
        let at = |share: f64| {
            let rank = (share * values.len() as f64).ceil() as usize;
            values[rank.clamp(1, values.len()) - 1]
        };
        let sum: f64 = values.iter().map(|&value| value as f64).sum();
        Figures {
            count: values.len() as u64,
            min,
            mean: sum / values.len() as f64,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max,
        }
    }

    /// Figures of a histogram, exact to its buckets.
    pub fn of(histogram: &Histogram<u64>) -> Figures {
        let at = |share| histogram.value_at_quantile(share);
        Figures {
            count: histogram.len(),
            min: histogram.min(),
            mean: histogram.mean(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            p9999: at(0.9999),
            max: histogram.max(),
        }
    }
}

impl Report {
    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{}", self.head());
        let mut table = Table::new();
        table.load_style(NOTHING);
        for (name, value, remark) in self.rows() {
            table.add_row([name.to_owned(), value, remark]);
        }
        let numbers = table.column_mut(1).expect("rows have three columns");
        numbers.set_cell_alignment(CellAlignment::Right);
        let _ = writeln!(out, "{}", table.trim_fmt());
        let _ = writeln!(out, "{}", self.distributions().trim_fmt());
        let _ = write!(out, "{}", self.conclusion());
        out
    }

    fn head(&self) -> String {
        let m = &self.monitor;
        format!(
            "{} senders every {} for {}, timeout {}, seed {}; monitor {} with {} reactor{}, {}",
            count(self.senders.into()),
            nanos(self.interval_ns),
            nanos(self.load_ns),
            nanos(self.timeout_ns),
            self.seed,
            m.version,
            m.reactors,
            if m.reactors == 1 { "" } else { "s" },
            m.transport,
        )
    }

    fn rows(&self) -> Vec<(&'static str, String, String)> {
        let rate = |rate: f64| format!("{}/s", count(rate.round() as u64));
        let names = |names: &[String]| names.join(" ");
        let accepted = if self.was_replaced { "accepted by the last" } else { "accepted" };
        let mut rows = vec![
            ("sent", count(self.sent), rate(self.offered_per_second)),
            (accepted, count(self.accepted), rate(self.accepted_per_second)),
            ("killed", count(self.killed), self.killed_at.clone().unwrap_or_default()),
            ("detected", count(self.detected), String::new()),
            ("missed", count(self.missed), names(&self.missed_names)),
            ("false alarms", count(self.false_alarms), names(&self.false_alarm_names)),
            ("kernel drops", count(self.kernel_drops), String::new()),
        ];
        let dropped: Vec<String> =
            self.dropped.iter().map(|(why, n)| format!("{why} {}", count(*n))).collect();
        let total: u64 = self.dropped.values().sum();
        let mischief = [
            ("lost", self.lost),
            ("reordered", self.reordered),
            ("duplicated", self.duplicated),
            ("restarted", self.restarted),
        ];
        let mischief: Vec<String> = mischief
            .iter()
            .filter(|(_, n)| *n > 0)
            .map(|(what, n)| format!("{what} {}", count(*n)))
            .collect();
        let found = format!("{} of them found", count(self.lapses_detected));
        let stalled = format!("{} alarms, rightly given", count(self.stall_alarms));
        let optional = [
            (total, ("refused by the monitor", count(total), dropped.join(", "))),
            (
                self.flooded,
                ("flood", count(self.flooded), "heartbeats of made-up peers".to_owned()),
            ),
            (self.refused, ("refused by our kernel", count(self.refused), String::new())),
            (self.lapses, ("silences that ended", count(self.lapses), found)),
            (
                self.lapses_missed,
                ("… missed", count(self.lapses_missed), names(&self.lapses_missed_names)),
            ),
            (
                self.resurrected,
                ("back from the dead", count(self.resurrected), names(&self.resurrected_names)),
            ),
            (self.unknown, ("never known", count(self.unknown), names(&self.unknown_names))),
            (
                self.dismissed,
                ("sent away alive", count(self.dismissed), names(&self.dismissed_names)),
            ),
            (
                self.monitor_absences,
                ("monitor was away", count(self.monitor_absences), nanos(self.monitor_absent_ns)),
            ),
            (self.generator_stalls, ("generator stalls", count(self.generator_stalls), stalled)),
            (mischief.len() as u64, ("on purpose", String::new(), mischief.join(", "))),
        ];
        rows.extend(optional.into_iter().filter(|(n, _)| *n > 0).map(|(_, row)| row));
        let left = format!("{} BYE sent", count(self.byes));
        rows.push(("left", count(self.left), left));
        let cores = format!("{:.1} % of a core", self.cpu_cores * 100.0);
        rows.push(("generator per send", nanos(self.cpu_ns_per_send.round() as u64), cores));
        rows
    }

    fn distributions(&self) -> Table {
        let mut table = Table::new();
        table.load_style(NOTHING);
        table.set_header(["", "count", "p50", "p90", "p99", "p99.9", "p99.99", "max"]);
        for (name, figures) in [
            ("lateness (monitor says)", self.lateness_ns),
            ("detection time", self.detection_time_ns),
            ("visible after deadline", self.visible_ns),
            ("generator's own lateness", self.send_lateness_ns),
            ("bare timers, sleeping", self.bare_sleep_ns),
            ("bare timers, polling at the end", self.bare_hybrid_ns),
        ] {
            let f = figures;
            let mut cells = vec![name.to_owned(), count(f.count)];
            let values = [f.p50, f.p90, f.p99, f.p999, f.p9999, f.max].map(nanos);
            cells.extend(values.map(|value| if f.count == 0 { "-".to_owned() } else { value }));
            table.add_row(cells);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }

    fn conclusion(&self) -> String {
        let late = self.send_lateness_ns.p99 > self.interval_ns / 2;
        let late = if late {
            "warning: the generator could not keep up; lower the rate or raise --threads\n"
        } else {
            ""
        };
        let verdict = match (&self.broken, self.agrees) {
            (Some(why), _) => format!("NOTHING PROVED: {why}"),
            (None, true) => "agrees: nobody missed, nobody blamed".to_owned(),
            (None, false) => {
                "DISAGREES: see missed, false alarms, back from the dead, never known and sent away"
                    .to_owned()
            }
        };
        format!("{late}{verdict}")
    }
}

/// Single values as a histogram of four significant digits.
pub fn histogram(values: &[u64]) -> Histogram<u64> {
    let mut histogram = Histogram::new(4).expect("four digits are within the crate's limits");
    values.iter().for_each(|&value| histogram.saturating_record(value));
    histogram
}

/// `1234567` as `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Nanoseconds with a unit that fits, four digits or so.
pub fn nanos(ns: u64) -> String {
    let n = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", n / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} ms", n / 1e6),
        _ => format!("{:.4} s", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        for (n, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (12_345_678, "12,345,678")] {
            assert_eq!(count(n), want);
        }
        for (n, want) in [
            (0, "0 ns"),
            (999, "999 ns"),
            (1_500, "1.5 µs"),
            (3_050_000, "3.05 ms"),
            (3_050_123_456, "3.0501 s"),
        ] {
            assert_eq!(nanos(n), want);
        }
    }

    #[test]
    fn exact_figures_are_those_of_the_sorted_values() {
        assert_eq!(Figures::exact(&mut []), Figures::default());
        let mut values: Vec<u64> = (1..=1_000).rev().collect();
        let figures = Figures::exact(&mut values);
        let want = Figures {
            count: 1_000,
            min: 1,
            mean: 500.5,
            p50: 500,
            p90: 900,
            p99: 990,
            p999: 999,
            p9999: 1_000,
            max: 1_000,
        };
        assert_eq!(figures, want);
        assert_eq!(Figures::exact(&mut [7]).p50, 7);
    }
}
