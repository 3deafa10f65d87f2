//! The quality of service of a failure detector, in the terms of Chen, Toueg and Aguilera (2002).
//!
//! ```text
//!   beat          deadline        beat, after all
//!    ├───────────────┤▒▒▒▒▒▒▒▒▒▒▒▒▒▒▒├───────────────┤ …
//!    │◀──── T_D ────▶│◀──── T_M ────▶│
//! ```
//!
//! A *mistake* is a down verdict that a later heartbeat of the same incarnation refutes; it lasts from
//! the deadline to that heartbeat. What is not counted as one: silence that ends in a restart (the
//! sender really was gone), silence after a BYE, and the silence at the end, of which nobody knows.

/// What a setting made of some arrivals.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Quality {
    /// Heartbeats that arrived, the useless ones too.
    pub arrivals: u64,
    /// Those that proved something: newer than all before.
    pub heartbeats: u64,
    /// Sequence numbers that were skipped.
    pub missing: u64,
    /// Restarts of senders.
    pub restarts: u64,
    /// Times that a living peer was called down.
    pub mistakes: u64,
    /// How long all mistakes lasted together, nanoseconds.
    pub mistake_duration_ns: u128,
    /// Times that a living peer was suspected, those that became mistakes too.
    pub suspicions: u64,
    /// How long peers were watched together: from each heartbeat to the next of the same sender,
    /// nanoseconds.
    pub observed_ns: u128,
    /// Detection times: for each heartbeat that proved something, from its arrival to the deadline
    /// that it set. A crash right after it would have been called after so long.
    pub detection: Percentiles,
}

impl Quality {
    /// Share of the observed time in which the verdict was right (P_A), 0 to 1.
    pub fn query_accuracy(&self) -> f64 {
        if self.observed_ns == 0 {
            return 1.0;
        }
        1.0 - self.mistake_duration_ns as f64 / self.observed_ns as f64
    }

    /// Mistakes in a nanosecond of observed time (λ_M), of one peer on average.
    pub fn mistakes_per_ns(&self) -> f64 {
        if self.observed_ns == 0 { 0.0 } else { self.mistakes as f64 / self.observed_ns as f64 }
    }

    /// Mean length of a mistake (T_M), nanoseconds; `None` without one.
    pub fn mean_mistake_ns(&self) -> Option<f64> {
        (self.mistakes > 0).then(|| self.mistake_duration_ns as f64 / self.mistakes as f64)
    }

    /// Mean time from one mistake to the next (T_MR), nanoseconds; `None` without one.
    pub fn mean_recurrence_ns(&self) -> Option<f64> {
        (self.mistakes > 0).then(|| self.observed_ns as f64 / self.mistakes as f64)
    }

    /// Adds what another peer contributes.
    pub fn add(&mut self, other: &Quality) {
        self.arrivals += other.arrivals;
        self.heartbeats += other.heartbeats;
        self.missing += other.missing;
        self.restarts += other.restarts;
        self.mistakes += other.mistakes;
        self.mistake_duration_ns += other.mistake_duration_ns;
        self.suspicions += other.suspicions;
        self.observed_ns += other.observed_ns;
        self.detection.add(&other.detection);
    }
}

/// Values of which percentiles are wanted, exactly: the nearest-rank percentile, which is always one
/// of the values. As long as they are all alike, as a fixed timeout's are, only their count is kept.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Percentiles {
    alike: u64,
    count: u64,
    varied: Vec<u64>,
}

impl Percentiles {
    /// Takes in a value.
    #[inline]
    pub fn push(&mut self, value: u64) {
        if self.varied.is_empty() {
            if self.count == 0 {
                self.alike = value;
            }
            if self.alike == value {
                self.count += 1;
                return;
            }
            self.spread_out();
        }
        self.varied.push(value);
    }

    /// Makes room for so many more.
    pub fn reserve(&mut self, more: usize) {
        self.varied.reserve(more);
    }

    /// How many values there are.
    pub fn len(&self) -> u64 {
        if self.varied.is_empty() { self.count } else { self.varied.len() as u64 }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The mean; 0 when there is no value.
    pub fn mean(&self) -> f64 {
        if self.varied.is_empty() {
            return self.alike as f64;
        }
        self.varied.iter().map(|value| *value as f64).sum::<f64>() / self.varied.len() as f64
    }

    /// The percentiles asked for, each above 0 and at most 100; 0 when there is no value.
    pub fn at<const N: usize>(&mut self, percents: [f64; N]) -> [u64; N] {
        percents.map(|percent| {
            if self.varied.is_empty() {
                return self.alike;
            }
            let len = self.varied.len();
            let rank = (len as f64 * percent / 100.0).ceil() as usize;
            *self.varied.select_nth_unstable(rank.clamp(1, len) - 1).1
        })
    }

    fn add(&mut self, other: &Percentiles) {
        if other.varied.is_empty() {
            if other.count == 0 {
                return;
            }
            if self.varied.is_empty() && (self.count == 0 || self.alike == other.alike) {
                self.alike = other.alike;
                self.count += other.count;
                return;
            }
            self.spread_out();
            self.varied.extend(std::iter::repeat_n(other.alike, other.count as usize));
            return;
        }
        self.spread_out();
        self.varied.extend_from_slice(&other.varied);
    }

    #[cold]
    fn spread_out(&mut self) {
        if self.varied.is_empty() {
            self.varied.extend(std::iter::repeat_n(self.alike, self.count as usize));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};

    #[test]
    fn percentiles_are_those_of_the_sorted_values() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let mut whole = Percentiles::default();
            let mut all = Vec::new();
            for _ in 0..rng.below(6) {
                let kinds = 1 + rng.below(4);
                let mut part = Percentiles::default();
                for _ in 0..rng.below(300) {
                    let value = rng.below(kinds) * 7;
                    part.push(value);
                    all.push(value);
                }
                whole.add(&part);
            }
            all.sort_unstable();
            assert_eq!(whole.len(), all.len() as u64, "seed {seed}");
            let rank = |percent: usize| match all.len() {
                0 => 0,
                n => all[(n * percent).div_ceil(100).max(1) - 1],
            };
            let expected = [rank(50), rank(99), rank(100)];
            assert_eq!(whole.at([50.0, 99.0, 100.0]), expected, "seed {seed}");
        }
    }
}
