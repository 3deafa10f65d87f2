//! Sums over the reactors: the summary, and the histograms since the start or since a reset.
//!
//! Reactors never reset anything. "Since the last reset" is what they have now less a copy taken
//! then, so any number of readers may look at either without disturbing one another or a writer.

use super::present::stamp;
use super::{ControlState, LISTED};
use crate::api::{self, HistogramSummary, PeerCounts, StateFigures, Summary, TimingSettings};
use crate::clock;
use crate::engine::transition::PeerState;
use crate::metrics::histogram::Snapshot;
use crate::metrics::{Counter, HistogramKind};
use std::collections::BTreeMap;

/// What the resettable histograms count from.
pub(super) struct Baseline {
    since_wall_ns: u64,
    /// One for each kind; empty before the first reset.
    snapshots: Vec<Snapshot>,
}

impl Baseline {
    pub(super) fn start(since_wall_ns: u64) -> Baseline {
        Baseline { since_wall_ns, snapshots: Vec::new() }
    }
}

/// What histograms are counted from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Since {
    /// The monitor's start.
    Start,
    /// The last reset; the start before the first one.
    Interval,
}

/// Heartbeats that arrived well-formed and were refused all the same.
const REFUSED: [Counter; 11] = [
    Counter::Stale,
    Counter::Duplicate,
    Counter::Reordered,
    Counter::Unauthenticated,
    Counter::KeyScope,
    Counter::NotFresh,
    Counter::NewcomersOfSource,
    Counter::NewcomersOfKey,
    Counter::TableFull,
    Counter::ByeUnknown,
    Counter::HandOverFull,
];

/// The reason for which this counter counts datagrams dropped by us; `None` for other counters.
pub fn drop_reason(counter: Counter) -> Option<&'static str> {
    counter.label().strip_prefix("drop_")
}

/// The reason for which this counter counts heartbeats refused; `None` for other counters.
pub fn refusal_reason(counter: Counter) -> Option<&'static str> {
    REFUSED.contains(&counter).then(|| counter.label())
}

impl ControlState {
    /// The monitor in figures. Costs a few hundred loads, however many peers there are.
    pub fn summary(&self) -> Summary {
        let config = &self.config;
        let policy = config.groups.policy(0);
        let reasons = Counter::ALL.iter().filter_map(|&counter| {
            let reason = drop_reason(counter).or_else(|| refusal_reason(counter))?;
            Some((reason.to_owned(), self.count(counter)))
        });
        Summary {
            version: env!("CARGO_PKG_VERSION").into(),
            monitor: format!("{:016x}", config.monitor_id),
            epoch: config.epoch_ns,
            started: stamp(config.started_wall_ns),
            time: stamp(clock::wall_ns()),
            transport: self.transport().into(),
            reactors: self.reactors().len() as u32,
            udp: config.udp.iter().map(ToString::to_string).collect(),
            peers: self.peer_counts(),
            max_peers: config.max_peers as u64,
            heartbeats: self.count(Counter::Heartbeats),
            heartbeats_per_second: self.heartbeats_per_second(),
            kernel_drops: self.count(Counter::KernelDrops),
            dropped: reasons.filter(|(_, n)| *n > 0).collect(),
            last_seq: self.events.newest(),
            timing: TimingSettings {
                interval_ns: policy.default_interval_us * 1_000,
                missed: policy.missed,
                grace_ns: policy.grace_ns,
                suspect_at: policy.suspect_fraction,
            },
            alarms: self.alarm_counts(),
            mass_silence: (config.brake.share <= 1.0).then(|| api::BrakeSettings {
                // As it was written: 0.3, not the f32's 0.30000001192…
                share: (f64::from(config.brake.share) * 1e6).round() / 1e6,
                least: config.brake.least,
                hold_ns: config.brake.hold_ns,
            }),
            state: config.state_dir.as_ref().map(|directory| StateFigures {
                directory: directory.display().to_string(),
                peers_recovered: self.count(Counter::PeersRecovered),
                slots_repaired: self.count(Counter::SlotsRepaired),
                slots_discarded: self.count(Counter::SlotsDiscarded),
                transitions_redone: self.count(Counter::TransitionsRedone),
                blind_ns: self.blind_at_start_ns(),
                files_damaged: self.damaged(),
            }),
        }
    }

    fn peer_counts(&self) -> PeerCounts {
        peer_counts(|state| self.peers_in(state))
    }

    /// A histogram of all reactors and the publisher, since the start.
    pub fn histogram(&self, kind: HistogramKind) -> Snapshot {
        let mut sum = self.histograms.of(kind).snapshot();
        self.reactors().iter().for_each(|r| sum.merge(&r.histograms.of(kind).snapshot()));
        sum
    }

    /// All histograms, with every bucket on request.
    pub fn histograms(&self, since: Since, with_buckets: bool) -> api::Histograms {
        let now = self.snapshots();
        match since {
            Since::Start => {
                in_words("start", self.config.started_wall_ns, in_figures(&now, None, with_buckets))
            }
            Since::Interval => self.baseline.lock().expect(UNPOISONED).interval(&now, with_buckets),
        }
    }

    /// Starts a new interval, and answers with the one that it ends. No value falls between them.
    pub fn reset_histograms(&self, with_buckets: bool) -> api::Histograms {
        let mut baseline = self.baseline.lock().expect(UNPOISONED);
        let now = self.snapshots();
        let ended = baseline.interval(&now, with_buckets);
        *baseline = Baseline { since_wall_ns: clock::wall_ns(), snapshots: now };
        ended
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        HistogramKind::ALL.iter().map(|&kind| self.histogram(kind)).collect()
    }
}

/// Peers by state, from a function that counts them.
pub(super) fn peer_counts(of: impl Fn(PeerState) -> u64) -> PeerCounts {
    let [up, suspect, down, left, unreachable] = LISTED.map(of);
    let total = up + suspect + down + left + unreachable;
    PeerCounts { up, suspect, down, left, unreachable, total }
}

impl Baseline {
    fn interval(&self, now: &[Snapshot], with_buckets: bool) -> api::Histograms {
        let earlier = (!self.snapshots.is_empty()).then_some(&self.snapshots[..]);
        in_words("interval", self.since_wall_ns, in_figures(now, earlier, with_buckets))
    }
}

fn in_words(
    since: &str,
    since_wall_ns: u64,
    histograms: BTreeMap<String, HistogramSummary>,
) -> api::Histograms {
    api::Histograms { since: since.into(), since_time: stamp(since_wall_ns), histograms }
}

fn in_figures(
    now: &[Snapshot],
    earlier: Option<&[Snapshot]>,
    with_buckets: bool,
) -> BTreeMap<String, HistogramSummary> {
    let one = |(i, &kind): (usize, &HistogramKind)| {
        let summary = match earlier {
            None => summary(kind, &now[i], with_buckets),
            Some(earlier) => summary(kind, &now[i].since(&earlier[i]), with_buckets),
        };
        (kind.label().to_owned(), summary)
    };
    HistogramKind::ALL.iter().enumerate().map(one).collect()
}

const UNPOISONED: &str = "nothing panics while it holds the baseline";

fn summary(kind: HistogramKind, counts: &Snapshot, with_buckets: bool) -> HistogramSummary {
    let hdr = counts.to_hdr();
    let count = counts.count();
    // The library knows a bucket by its highest value, which can lie above the largest recorded.
    let quantile = |q| if count == 0 { 0 } else { hdr.value_at_quantile(q).min(counts.max_ns()) };
    HistogramSummary {
        help: kind.help().into(),
        count,
        min: if count == 0 { 0 } else { hdr.min() },
        mean: if count == 0 { 0.0 } else { counts.sum_ns() as f64 / count as f64 },
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
        p999: quantile(0.999),
        p9999: quantile(0.9999),
        p99999: quantile(0.99999),
        max: counts.max_ns(),
        buckets: if with_buckets { counts.buckets().collect() } else { Vec::new() },
    }
}

/// Upper bounds of the buckets that a scrape shows, nanoseconds: 1, 2.5, 5 of each decade from a
/// microsecond to ten seconds.
pub const SCRAPE_BOUNDS_NS: [u64; 22] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
];

/// How many values lie in each bucket of [`SCRAPE_BOUNDS_NS`], and above the last of them.
///
/// A value counts where its own bucket's top lies, so one within 0.8 % below a bound may count above.
pub fn coarse(counts: &Snapshot) -> [u64; SCRAPE_BOUNDS_NS.len() + 1] {
    let mut coarse = [0; SCRAPE_BOUNDS_NS.len() + 1];
    for (highest, n) in counts.buckets() {
        coarse[SCRAPE_BOUNDS_NS.partition_point(|&bound| bound < highest)] += n;
    }
    coarse
}

/// The counters that are neither drops nor refusals, which have metrics of their own.
pub fn plain_counters() -> impl Iterator<Item = Counter> {
    let plain = |c: &Counter| drop_reason(*c).is_none() && refusal_reason(*c).is_none();
    Counter::ALL.iter().copied().filter(plain)
}

/// The reasons of `reason_of`, with how often each occurred, in the order of the counters.
pub fn by_reason(
    state: &ControlState,
    reason_of: fn(Counter) -> Option<&'static str>,
) -> BTreeMap<&'static str, u64> {
    let counters = Counter::ALL.iter();
    counters.filter_map(|&c| reason_of(c).map(|reason| (reason, state.count(c)))).collect()
}
