//! How many are a crowd: as many as chance would not bring together.
//!
//! Suppose that every peer
//! goes down once a day by itself, which is more than anybody would put up with. Then of n
//! peers n·w/day go down in a window w on average, and [`threshold`] is the least number that
//! chance exceeds once in a million windows: 3 of 100 peers, 5 of 1,000, 19 of 40,000 in ten
//! seconds; never more than all of a group, so that a pair that goes down together is one. A window
//! is ten seconds or, if longer, the time that it took to detect the latest: peers that fail at one
//! instant are found over the length of an interval, which is less.

/// A crowd, whatever the size of the fleet; also what is remembered of a group's last downs.
pub(super) const MOST_THRESHOLD: u32 = 256;
/// Less is no crowd, unless it is all of a group.
const LEAST_THRESHOLD: u32 = 3;
const DAY_NS: f64 = 86_400e9;
const CHANCE: f64 = 1e-6;

/// How many of `size` peers have to go down within a window for it to be no chance.
pub fn threshold(size: u32, window_ns: u64) -> u32 {
    let mean = f64::from(size) * window_ns as f64 / DAY_NS;
    let all = size.max(2);
    if mean >= f64::from(MOST_THRESHOLD) {
        return MOST_THRESHOLD.min(all);
    }
    // Poisson: the least k with P(X ≥ k) ≤ CHANCE.
    let (mut k, mut exactly) = (0, (-mean).exp());
    let mut at_least = 1.0;
    while at_least > CHANCE && k < MOST_THRESHOLD {
        at_least -= exactly;
        k += 1;
        exactly *= mean / f64::from(k);
    }
    k.max(LEAST_THRESHOLD).min(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW_NS: u64 = 10_000_000_000;

    #[test]
    fn a_crowd_is_what_chance_does_not_bring_together() {
        let table =
            [(1, 2), (2, 2), (3, 3), (10, 3), (100, 3), (1_000, 5), (40_000, 19), (1_000_000, 171)];
        for (size, least) in table {
            assert_eq!(threshold(size, WINDOW_NS), least, "of {size}");
        }
        // Peers of a day are found over hours: chance brings all of a small group together in days.
        assert_eq!(threshold(10, 3 * DAY_NS as u64), 10);
        assert_eq!(threshold(u32::MAX, u64::MAX), MOST_THRESHOLD);
        assert_eq!(threshold(0, 0), 2);
    }

    /// The definition, summed the long way.
    #[test]
    fn chance_exceeds_the_threshold_once_in_a_million_windows() {
        for size in [200_u32, 1_000, 5_000, 40_000, 300_000, 1_000_000] {
            let mean = f64::from(size) / 8_640.0;
            let exactly = |k: u32| (1..=k).fold((-mean).exp(), |p, i| p * mean / f64::from(i));
            let at_least = |k: u32| (k..k + 600).map(exactly).sum::<f64>();
            let k = threshold(size, WINDOW_NS);
            assert!(at_least(k) <= CHANCE * 1.001, "{size}: {k}");
            assert!(k == LEAST_THRESHOLD || at_least(k - 1) > CHANCE * 0.999, "{size}: {k}");
        }
    }
}
