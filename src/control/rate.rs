//! Events per second over the last second, from samples of an ever-growing counter.

use std::collections::VecDeque;

/// Looks back so far, nanoseconds.
const WINDOW_NS: u64 = 1_000_000_000;
/// Samples closer than this to the last one are left out, nanoseconds.
const STEP_NS: u64 = 50_000_000;

/// The samples of about a second: time (monotonic ns) and count.
#[derive(Default)]
pub struct Rate {
    samples: VecDeque<(u64, u64)>,
}

impl Rate {
    /// Takes a sample.
    pub fn sample(&mut self, now_ns: u64, count: u64) {
        if self.samples.back().is_some_and(|last| now_ns < last.0 + STEP_NS) {
            return;
        }
        self.samples.push_back((now_ns, count));
        // One sample stays that is a full window old: the rate is over at least that.
        while self.samples.get(1).is_some_and(|second| second.0 + WINDOW_NS <= now_ns) {
            self.samples.pop_front();
        }
    }

    /// Events per second between the oldest sample and the newest; 0 before there are two.
    pub fn per_second(&self) -> f64 {
        match (self.samples.front(), self.samples.back()) {
            (Some(first), Some(last)) if last.0 > first.0 => {
                last.1.saturating_sub(first.1) as f64 * 1e9 / (last.0 - first.0) as f64
            }
            _ => 0.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_second_only() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(), 0.0);
        let start = 1 << 60;
        for step in 0..30 {
            // Two seconds at 1,000 a second, then silence.
            rate.sample(start + step * 100_000_000, (step * 100).min(2_000));
            if (1..=20).contains(&step) {
                assert!((rate.per_second() - 1_000.0).abs() < 1e-6, "at {step}");
            }
        }
        assert!((rate.per_second() - 100.0).abs() < 1e-6, "{}", rate.per_second());
        rate.sample(start + 3_000_000_000, 2_000);
        assert_eq!(rate.per_second(), 0.0);
        assert!(rate.samples.len() <= 12);
    }

    #[test]
    fn samples_in_quick_succession_are_left_out() {
        let mut rate = Rate::default();
        (0..1_000_000).step_by(1_000).for_each(|ns| rate.sample(ns, ns));
        assert_eq!(rate.samples.len(), 1);
    }
}
