//! Sweeps detectors and their constants over a trace, and judges them by a demand.

use super::evidence::most_mistakes;
use super::replay::replay_peer;
use super::{Follower, Quality, Trace};
use crate::engine::detector::{Bertier, Blend, Chen, Phi};
use crate::engine::sequence::Order;
use crate::engine::{Detector, Policy};
use crate::wire;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

/// One setting and what it made of the trace.
#[derive(Clone, PartialEq, Debug)]
pub struct Point {
    /// The setting.
    pub policy: Policy,
    /// Mistakes of all peers.
    pub mistakes: u64,
    /// Mistakes of a peer in a nanosecond (λ_M).
    pub mistakes_per_ns: f64,
    /// How long peers were watched together, nanoseconds.
    pub observed_ns: u128,
    /// Share of the time in which the verdict was right.
    pub query_accuracy: f64,
    /// Detection time: median, nanoseconds.
    pub p50_ns: u64,
    /// Detection time: 99th percentile, nanoseconds; what a demand is held against.
    pub p99_ns: u64,
    /// Detection time: mean, nanoseconds.
    pub mean_ns: f64,
}

impl Point {
    /// The shortest time from one mistake of a peer to the next that has to be feared after this trace
    /// (95 %), nanoseconds.
    pub fn proven_recurrence_ns(&self) -> f64 {
        self.observed_ns as f64 / most_mistakes(self.mistakes)
    }
}

/// What an operator wants.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Demand {
    /// Detection time at the 99th percentile, nanoseconds.
    pub within_ns: u64,
    /// Mistakes of a peer in a nanosecond.
    pub mistakes_per_ns: f64,
}

/// The settings that are tried: the detectors with one constant at forty values, those with two at some
/// forty pairs. All are relative to the interval, so that they suit a fleet of many, and each can be given
/// as options: what is found is what will run.
pub fn candidates(base: &Policy) -> Vec<Policy> {
    let mut all = Vec::new();
    let mut add = |detector, missed| all.push(Policy { detector, missed, ..*base });
    for step in 0..40 {
        // From a thousandth of an interval to ten.
        let beyond = 0.001 * 10f64.powf(f64::from(step) / 39.0 * 4.0);
        let missed = ((1.0 + beyond) * 1e4).ceil() / 1e4;
        add(Detector::Fixed { timeout_ns: None }, missed);
        add(Detector::Chen(Chen::default()), missed);
        add(Detector::Bertier(Bertier::default()), missed);
    }
    for missed in [1.0, 1.5, 2.0, 3.0, 4.0, 6.0] {
        for threshold in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
            add(Detector::Phi(Phi::new(threshold)), missed);
        }
        for deviations in [2.0, 4.0, 8.0, 16.0, 32.0, 64.0] {
            add(Detector::Blend(Blend { deviations, ..Blend::default() }), missed);
        }
    }
    all
}

/// Tries the settings, on all cores. `interval_us` as in [`replay`](super::replay()).
pub fn sweep(trace: &Trace, settings: &[Policy], interval_us: &[u64]) -> Vec<Point> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Relaxed: it only deals out places; the points come back over a channel.
    let next = AtomicUsize::new(0);
    let (done, points) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..cores.min(settings.len()) {
            let (done, next) = (done.clone(), &next);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(policy) = settings.get(place) else { break };
                    let _ = done.send((place, try_out(trace, policy, interval_us)));
                }
            });
        }
    });
    drop(done);
    let mut points: Vec<(usize, Point)> = points.iter().collect();
    points.sort_by_key(|(place, _)| *place);
    points.into_iter().map(|(_, point)| point).collect()
}

fn try_out(trace: &Trace, policy: &Policy, interval_us: &[u64]) -> Point {
    let mut overall = Quality::default();
    for (peer, us) in trace.peers.iter().zip(interval_us) {
        overall.add(&replay_peer(peer, policy, *us));
    }
    let [p50_ns, p99_ns] = overall.detection.at([50.0, 99.0]);
    Point {
        policy: *policy,
        mistakes: overall.mistakes,
        mistakes_per_ns: overall.mistakes_per_ns(),
        observed_ns: overall.observed_ns,
        query_accuracy: overall.query_accuracy(),
        p50_ns,
        p99_ns,
        mean_ns: overall.detection.mean(),
    }
}

/// Those that none of the others beats in detection time (`time`) and mistakes at once, from the
/// quickest to the one with the fewest mistakes.
pub fn pareto<'a>(
    points: impl IntoIterator<Item = &'a Point>,
    time: impl Fn(&Point) -> f64,
) -> Vec<&'a Point> {
    let mut sorted: Vec<&Point> = points.into_iter().collect();
    sorted.sort_by(|a, b| time(a).total_cmp(&time(b)).then(a.mistakes.cmp(&b.mistakes)));
    let mut front: Vec<&Point> = Vec::new();
    for point in sorted {
        if front.last().is_none_or(|last| point.mistakes < last.mistakes) {
            front.push(point);
        }
    }
    front
}

/// The setting that meets a demand, or what comes nearest to it.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Judgement<'a> {
    /// It is met.
    Met(&'a Point),
    /// It is not.
    Missed {
        /// The fewest mistakes within the time; `None` when nothing is that quick.
        in_time: Option<&'a Point>,
        /// The quickest with no more mistakes; `None` when all make more.
        right: Option<&'a Point>,
    },
}

impl<'a> Judgement<'a> {
    /// The points that it names.
    pub fn named(&self) -> impl Iterator<Item = &'a Point> {
        let (first, second) = match *self {
            Judgement::Met(point) => (Some(point), None),
            Judgement::Missed { in_time, right } => (in_time, right),
        };
        first.into_iter().chain(second)
    }

    /// What decided: the named points and, before and behind each, so many of those that no other beats,
    /// from the quickest on.
    pub fn neighbours(&self, points: &'a [Point], each: usize) -> Vec<&'a Point> {
        let mut rows = pareto(points, |point| point.p99_ns as f64);
        for named in self.named() {
            if !rows.iter().any(|row| std::ptr::eq(*row, named)) {
                rows.push(named);
            }
        }
        rows.sort_by_key(|row| (row.p99_ns, std::cmp::Reverse(row.mistakes)));
        let place = |named: &Point| rows.iter().position(|row| std::ptr::eq(*row, named));
        let places: Vec<usize> = self.named().filter_map(place).collect();
        let near = |at: usize| places.iter().any(|place| place.abs_diff(at) <= each);
        (0..rows.len()).filter(|at| near(*at)).map(|at| rows[at]).collect()
    }
}

/// Judges the points by a demand. Of those that meet it, the one with the fewest mistakes, and of these
/// the one that waits longest: the future may be rougher than the trace.
pub fn judge<'a>(points: &'a [Point], demand: &Demand) -> Judgement<'a> {
    let quick = |point: &&Point| point.p99_ns <= demand.within_ns;
    let right = |point: &&Point| point.mistakes_per_ns <= demand.mistakes_per_ns;
    let in_time = points
        .iter()
        .filter(quick)
        .min_by_key(|point| (point.mistakes, std::cmp::Reverse(point.p99_ns)));
    match in_time {
        Some(point) if right(&point) => Judgement::Met(point),
        in_time => {
            let right = points.iter().filter(right).min_by_key(|point| point.p99_ns);
            Judgement::Missed { in_time, right }
        }
    }
}

/// What Chen's procedure has to know of a network.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Network {
    /// Share of the heartbeats that are lost.
    pub loss: f64,
    /// Variance of the delay, squared nanoseconds: half that of the time from a heartbeat to its
    /// neighbour.
    pub variance: f64,
}

/// Estimates the network from a trace.
pub fn network(trace: &Trace, interval_us: &[u64]) -> Network {
    let (mut heard, mut missing, mut neighbours, mut squares) = (0u64, 0u64, 0u64, 0.0);
    for (peer, us) in trace.peers.iter().zip(interval_us) {
        let mut follower = Follower::default();
        let mut last_ns: Option<u64> = None;
        for arrival in &peer.arrivals {
            let gap = match follower.take(arrival) {
                Order::Newer { missing } => missing,
                Order::Restart => {
                    last_ns = None;
                    0
                }
                Order::Duplicate | Order::Late | Order::Stale => continue,
            };
            heard += 1;
            missing += u64::from(gap);
            if let (Some(last_ns), 0) = (last_ns, gap) {
                let stated_us = wire::decode_interval(arrival.interval).unwrap_or(0);
                let interval_us = if stated_us == 0 { *us } else { stated_us };
                let elapsed_ns = arrival.arrived_ns.saturating_sub(last_ns);
                neighbours += 1;
                squares += (elapsed_ns as f64 - interval_us as f64 * 1e3).powi(2);
            }
            last_ns = Some(arrival.arrived_ns);
        }
    }
    Network {
        loss: missing as f64 / (heard + missing).max(1) as f64,
        variance: squares / neighbours.max(1) as f64 / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(p99_ns: u64, mistakes: u64) -> Point {
        Point {
            policy: Policy::default(),
            mistakes,
            mistakes_per_ns: mistakes as f64 / 1e6,
            observed_ns: 1_000_000,
            query_accuracy: 1.0,
            p50_ns: p99_ns,
            p99_ns,
            mean_ns: p99_ns as f64,
        }
    }

    /// Twenty that nobody beats, down to no mistake at 20 ns, and behind them two that wait in vain.
    fn points() -> Vec<Point> {
        let mut points: Vec<Point> = (1..=20).map(|ns| point(ns, 20 - ns)).collect();
        points.extend([point(30, 0), point(40, 0)]);
        points
    }

    fn named(judgement: &Judgement<'_>) -> Vec<u64> {
        judgement.named().map(|point| point.p99_ns).collect()
    }

    #[test]
    fn of_those_that_meet_the_demand_the_most_patient_is_taken_and_shown() {
        let points = points();
        let judgement = judge(&points, &Demand { within_ns: 35, mistakes_per_ns: 3e-6 });
        assert!(matches!(judgement, Judgement::Met(_)), "{judgement:?}");
        assert_eq!(named(&judgement), [30]);
        let rows = judgement.neighbours(&points, 3);
        assert_eq!(rows.iter().map(|row| row.p99_ns).collect::<Vec<_>>(), [18, 19, 20, 30]);
    }

    #[test]
    fn what_comes_nearest_to_a_demand_is_shown_from_both_sides() {
        let points = points();
        let judgement = judge(&points, &Demand { within_ns: 4, mistakes_per_ns: 8e-6 });
        assert!(matches!(judgement, Judgement::Missed { .. }), "{judgement:?}");
        assert_eq!(named(&judgement), [4, 12]);
        let rows = judgement.neighbours(&points, 1);
        assert_eq!(rows.iter().map(|row| row.p99_ns).collect::<Vec<_>>(), [3, 4, 5, 11, 12, 13]);
        let none = judge(&points, &Demand { within_ns: 0, mistakes_per_ns: -1.0 });
        assert_eq!((named(&none).len(), none.neighbours(&points, 3).len()), (0, 0));
    }

    #[test]
    fn a_mistake_makes_less_be_proved() {
        assert_eq!(point(1, 0).proven_recurrence_ns(), 1e6 / 3.0);
        assert!((1e6 / 4.8..1e6 / 4.7).contains(&point(1, 1).proven_recurrence_ns()));
    }
}
