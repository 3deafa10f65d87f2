//! What a trace can prove, and what it cannot.
//!
//! Whoever tossed a coin twice and saw no tail knows nothing of the coin. Of an event that was not
//! seen in `n` trials, up to three in `n` have to be feared (the *rule of three*: 0.95 = 1 − e⁻³). That
//! bounds both ends of a setting's worth: how rare its mistakes are, by the time that was watched; and
//! what a percentile of its detection times is worth, by how many there were.
//!
//! Both take mistakes to be independent. They come in bunches, so the truth may be somewhat worse.

use super::{Follower, Trace};
use crate::engine::Arrivals;
use crate::engine::sequence::Order;

/// Of fewer judged silences no setting is recommended. A 99th percentile leaves out one in a hundred:
/// by the rule of three, 300 are needed to have seen beyond it, and to exclude that one heartbeat in a
/// hundred is a mistake.
pub const LEAST_JUDGED: u64 = 300;

/// Silences that all detectors judged by what they had learnt: those between the later heartbeats of a
/// peer's start, behind the first few, by which each detector waits alike.
pub fn judged(trace: &Trace) -> u64 {
    let mut judged = 0;
    for peer in &trace.peers {
        let mut follower = Follower::default();
        // The interval that holds, and how many silences at it were learnt from.
        let mut course: Option<(u32, u8)> = None;
        for arrival in &peer.arrivals {
            let learnt = match (follower.take(arrival), course) {
                (Order::Duplicate | Order::Late | Order::Stale, _) => continue,
                (Order::Newer { .. }, Some((interval, learnt))) if interval == arrival.interval => {
                    judged += u64::from(learnt >= Arrivals::WARM);
                    learnt.saturating_add(1)
                }
                _ => 0,
            };
            // What follows a BYE is not judged.
            course = (!arrival.bye).then_some((arrival.interval, learnt));
        }
    }
    judged
}

/// The most mistakes to be feared where so many were seen, in as long a time (95 %): the upper limit of
/// a Poisson distribution's mean, by the rule of three and, from one on, by Wilson and Hilferty.
pub fn most_mistakes(seen: u64) -> f64 {
    if seen == 0 {
        return 3.0;
    }
    let next = seen as f64 + 1.0;
    // 1.645 is the normal distribution's 95th percentile.
    next * (1.0 - 1.0 / (9.0 * next) + 1.645 / (3.0 * next.sqrt())).powi(3)
}

#[cfg(test)]
mod tests {
    use super::super::{Arrival, PeerTrace};
    use super::*;

    /// From printed tables of the Poisson distribution's exact limits, one-sided, 95 %.
    #[test]
    fn the_limits_are_those_of_the_tables() {
        let table = [(0, 2.996), (1, 4.744), (2, 6.296), (5, 10.513), (10, 16.962), (50, 63.287)];
        for (seen, limit) in table {
            let found = most_mistakes(seen);
            assert!((found / limit - 1.0).abs() < 0.005, "{seen}: {found}, not {limit}");
        }
    }

    fn judged_of(arrivals: impl IntoIterator<Item = Arrival>) -> u64 {
        let arrivals = arrivals.into_iter().collect();
        let peers = vec![PeerTrace::new("a".into(), arrivals)];
        judged(&Trace { peers, ..Trace::default() })
    }

    fn beat(sequence: u32) -> Arrival {
        Arrival { sequence, arrived_ns: u64::from(sequence) * 1_000, ..Arrival::default() }
    }

    #[test]
    fn only_what_was_judged_by_what_was_learnt_counts() {
        let learning = 1 + u32::from(Arrivals::WARM);
        assert_eq!(judged_of([]), 0);
        assert_eq!(judged_of((0..learning).map(beat)), 0);
        assert_eq!(judged_of((0..learning + 5).map(beat)), 5);
        // Old ones prove nothing.
        assert_eq!(judged_of((0..learning + 5).flat_map(|n| [beat(n), beat(n)])), 5);
        // A start and an interval of its own have to be learnt anew.
        let restarted = (0..learning).map(|n| Arrival { incarnation: 1, ..beat(n) });
        assert_eq!(judged_of((0..learning + 5).map(beat).chain(restarted)), 5);
        let slower = (learning + 5..2 * learning + 5).map(|n| Arrival { interval: 7, ..beat(n) });
        assert_eq!(judged_of((0..learning + 5).map(beat).chain(slower)), 5);
    }
}
