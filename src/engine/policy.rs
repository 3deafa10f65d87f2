//! How long a peer may be silent: its detector's forecast, and the limits an operator sets to it.

use super::detector::{Arrivals, Detector};

/// From a peer's statistics and interval to its two deadlines.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Policy {
    /// How the deadline is found.
    pub detector: Detector,
    /// Interval of peers that state none, microseconds.
    pub default_interval_us: u64,
    /// Intervals that a peer may miss; at least 1. The detectors that forecast allow this less one,
    /// counted from the expected arrival.
    pub missed: f64,
    /// Added to every timeout, for the network and the sender's scheduler, nanoseconds.
    pub grace_ns: u64,
    /// Share of the timeout (for a detector that forecasts: of what follows the expected arrival)
    /// after which a silent peer is suspected, above 0 and at most 1.
    pub suspect_fraction: f64,
    /// Nobody is called down after less, nanoseconds.
    pub floor_ns: u64,
    /// Everybody is called down after so much, nanoseconds; `u64::MAX` sets no limit. Where it is
    /// below the floor, the floor holds.
    pub ceiling_ns: u64,
    /// A peer that has been down for so long is forgotten, nanoseconds.
    pub forget_down_ns: u64,
    /// A peer that left so long ago is forgotten, nanoseconds.
    pub forget_left_ns: u64,
}

impl Default for Policy {
    /// As `systole serve` without options.
    fn default() -> Self {
        Policy {
            detector: Detector::default(),
            default_interval_us: 1_000_000,
            missed: 3.0,
            grace_ns: 50_000_000,
            suspect_fraction: 0.7,
            floor_ns: 0,
            ceiling_ns: u64::MAX,
            forget_down_ns: 7 * 86_400_000_000_000,
            forget_left_ns: 3_600_000_000_000,
        }
    }
}

/// When a peer's state changes if it stays silent, nanoseconds from its last heartbeat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadlines {
    /// It is suspected; never after `down_ns`.
    pub suspect_ns: u64,
    /// It is called down.
    pub down_ns: u64,
}

impl Policy {
    /// Least intervals that an unknown peer is given before a detector that forecasts has enough to
    /// go by; with only one, jitter alone would call half of them down and nothing be learnt.
    pub const LEAST_UNLEARNT: f64 = 2.0;

    /// The interval that holds for a peer: its own, or the default when it stated none.
    #[inline]
    pub fn interval_us(&self, stated_us: u64) -> u64 {
        if stated_us == 0 { self.default_interval_us } else { stated_us }
    }

    /// The same in nanoseconds.
    #[inline]
    pub fn interval_ns(&self, stated_us: u64) -> f64 {
        to_float(self.interval_us(stated_us)) * 1e3
    }

    /// Both deadlines of a peer.
    ///
    /// Until a detector that forecasts has learnt enough, they are those of `fixed`, with at least
    /// [`LEAST_UNLEARNT`](Self::LEAST_UNLEARNT) intervals.
    #[inline(always)]
    pub fn deadlines(&self, arrivals: &Arrivals, stated_us: u64) -> Deadlines {
        self.deadlines_at(arrivals, self.interval_ns(stated_us))
    }

    /// The same, where it is known what [`interval_ns`](Self::interval_ns) says.
    #[inline(always)]
    pub fn deadlines_at(&self, arrivals: &Arrivals, interval_ns: f64) -> Deadlines {
        let (expected_ns, timeout_ns) = match self.detector {
            Detector::Fixed { timeout_ns: Some(timeout_ns) } => (0.0, timeout_ns),
            Detector::Fixed { timeout_ns: None } => (0.0, to_ns(interval_ns * self.missed)),
            _ => match self.detector.forecast(arrivals, interval_ns) {
                Some(forecast) => {
                    let allowed_ns = (self.missed - 1.0) * interval_ns + forecast.margin_ns;
                    (forecast.expected_ns, to_ns(forecast.expected_ns + allowed_ns))
                }
                None => (0.0, to_ns(interval_ns * self.missed.max(Self::LEAST_UNLEARNT))),
            },
        };
        let down_ns =
            timeout_ns.saturating_add(self.grace_ns).min(self.ceiling_ns).max(self.floor_ns);
        // Behind one that was later than an interval, the next is expected at once and not in the past:
        // nobody is suspect the moment that he beats.
        let expected_ns = expected_ns.max(0.0);
        let left_ns = to_float(down_ns) - expected_ns;
        let suspect_ns = to_ns(expected_ns + left_ns * self.suspect_fraction);
        Deadlines { suspect_ns: suspect_ns.min(down_ns), down_ns }
    }

    /// Whether a peer that is called down after `down_ns` may have been suspected after a silence; `false`
    /// is certain, and costs less than [`deadlines`](Self::deadlines).
    ///
    /// It is suspected after `e + f (down − e) ≥ f down`, with an `e` of 0 or more and the
    /// [`suspect_fraction`](Self::suspect_fraction) `f`. A hundredth is for what is rounded off.
    #[inline(always)]
    pub fn may_suspect(&self, silence_ns: u64, down_ns: u64) -> bool {
        let fraction = (0.99 * self.suspect_fraction * 256.0) as u64;
        silence_ns > (down_ns >> 8) * fraction
    }

    /// Learns from a heartbeat that continues the sequence: `elapsed_ns` after the one before it,
    /// `steps` numbers later (1 when none is missing).
    ///
    /// Begin anew with `Arrivals::default()` instead when the sender restarted or stated another
    /// interval, and [`resume`](Arrivals::resume) when it was down or is in maintenance; a heartbeat
    /// that came out of sequence is not learnt from.
    #[inline(always)]
    pub fn learn(&self, arrivals: &mut Arrivals, elapsed_ns: u64, steps: u32, stated_us: u64) {
        self.learn_at(arrivals, elapsed_ns, steps, self.interval_ns(stated_us));
    }

    /// The same, where it is known what [`interval_ns`](Self::interval_ns) says.
    #[inline(always)]
    pub fn learn_at(&self, arrivals: &mut Arrivals, elapsed_ns: u64, steps: u32, interval_ns: f64) {
        // In 64 bits, exact up to 104 days: what is left fits 32.
        let late_ns = to_float(elapsed_ns) - f64::from(steps) * interval_ns;
        self.detector.learn(arrivals, late_ns as f32, steps);
        // A sender far faster than it says would be ahead of its timetable without end, and its next
        // heartbeat expected in a far future.
        let earliest_ns = -interval_ns as f32;
        if arrivals.lag_ns < earliest_ns {
            arrivals.lag_ns = earliest_ns;
        }
    }
}

/// A number of any unit as a float. By way of a signed one, which x86-64 converts in one instruction
/// and an unsigned one in five; what is above 2^63, which is 292 years of nanoseconds, is that.
#[inline]
fn to_float(number: u64) -> f64 {
    number.min(i64::MAX as u64).cast_signed() as f64
}

/// Whole nanoseconds, at least 0 and at most 2^63; by way of a signed number, as [`to_float`].
#[inline]
fn to_ns(ns: f64) -> u64 {
    (ns as i64).max(0).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};

    const MS: u64 = 1_000_000;

    /// Five intervals late, and so far ahead of when the next one would be expected.
    #[test]
    fn nobody_is_suspect_the_moment_that_it_beats() {
        for word in Detector::WORDS {
            let policy = Policy {
                detector: word.parse().unwrap(),
                floor_ns: 200 * MS,
                suspect_fraction: 0.5,
                ..Policy::default()
            };
            let mut arrivals = Arrivals::default();
            (0..40).for_each(|_| policy.learn(&mut arrivals, 100 * MS, 1, 100_000));
            policy.learn(&mut arrivals, 600 * MS, 1, 100_000);
            let Deadlines { suspect_ns, down_ns } = policy.deadlines(&arrivals, 100_000);
            assert!(suspect_ns >= down_ns / 2, "{word}: {suspect_ns} of {down_ns}");
            assert!(down_ns >= 200 * MS);
        }
    }

    #[test]
    fn fixed_is_missed_times_the_interval_whatever_was_learnt() {
        let policy = Policy::default();
        let learnt = Arrivals { lag_ns: 1e6, samples: 255, ..Arrivals::default() };
        for arrivals in [Arrivals::default(), learnt] {
            let Deadlines { suspect_ns, down_ns } = policy.deadlines(&arrivals, 0);
            assert_eq!((down_ns, (3_050.0 * 1e6 * 0.7) as u64), (3_050 * MS, suspect_ns));
            assert_eq!(policy.deadlines(&arrivals, 100_000).down_ns, 350 * MS);
        }
    }

    #[test]
    fn a_stated_timeout_is_exact() {
        let detector = Detector::Fixed { timeout_ns: Some(200 * MS + 1) };
        let policy = Policy { detector, grace_ns: 0, ..Policy::default() };
        assert_eq!(policy.deadlines(&Arrivals::default(), 5).down_ns, 200 * MS + 1);
    }

    #[test]
    fn what_has_not_learnt_enough_waits_like_fixed() {
        for word in Detector::WORDS {
            let policy = Policy { detector: word.parse().unwrap(), ..Policy::default() };
            let mut arrivals = Arrivals::default();
            for _ in 1..Arrivals::WARM {
                policy.learn(&mut arrivals, 1_000 * MS, 1, 0);
            }
            assert_eq!(policy.deadlines(&arrivals, 0).down_ns, 3_050 * MS, "{word}");
        }
    }

    #[test]
    fn floor_and_ceiling_hold_whatever_was_learnt() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            for step in 0..2_000 {
                let word = Detector::WORDS[rng.below(Detector::WORDS.len() as u64) as usize];
                let policy = Policy {
                    detector: word.parse().unwrap(),
                    missed: 1.0 + rng.below(400) as f64 / 100.0,
                    suspect_fraction: 0.01 + rng.below(100) as f64 / 100.0,
                    floor_ns: rng.below(2_000) * MS,
                    ceiling_ns: 2_000 * MS + rng.below(3_000) * MS,
                    ..Policy::default()
                };
                let mut arrivals = Arrivals::default();
                for _ in 0..rng.below(40) {
                    let steps = 1 + rng.below(3) as u32;
                    let most_ns = 1 << (20 + rng.below(40));
                    policy.learn(&mut arrivals, rng.below(most_ns), steps, 0);
                }
                let Deadlines { suspect_ns, down_ns } = policy.deadlines(&arrivals, 0);
                let context = format!("seed {seed} step {step} {policy:?} {arrivals:?}");
                assert!((policy.floor_ns..=policy.ceiling_ns).contains(&down_ns), "{context}");
                assert!(suspect_ns <= down_ns, "{context}");
                assert!(policy.may_suspect(suspect_ns + 1, down_ns), "{context}");
                if word == "fixed" {
                    assert!(!policy.may_suspect(suspect_ns / 2, down_ns), "{context}");
                }
            }
        }
    }

    #[test]
    fn a_sender_far_faster_than_it_says_is_not_given_longer() {
        for word in Detector::WORDS {
            let policy = Policy { detector: word.parse().unwrap(), ..Policy::default() };
            let mut arrivals = Arrivals::default();
            for _ in 0..10_000 {
                policy.learn(&mut arrivals, 10 * MS, 1, 0);
            }
            let down_ns = policy.deadlines(&arrivals, 0).down_ns;
            assert!(down_ns <= 4_100 * MS, "{word}: {down_ns} ns for an interval of a second");
        }
    }

    #[test]
    fn a_daily_job_is_known_as_well_as_a_fast_one() {
        const DAY_US: u64 = 86_400_000_000;
        let policy = Policy {
            detector: Detector::Chen(Default::default()),
            missed: 1.0,
            grace_ns: 0,
            ..Policy::default()
        };
        // Late by 3 s every other day: the mean is 1.5 s, the next one due at 1.5 s to either side.
        let mut arrivals = Arrivals::default();
        for day in 0..400u64 {
            let elapsed_ns = if day % 2 == 0 { 3_000 * MS } else { 0 } + DAY_US * 1_000
                - if day % 2 == 1 { 3_000 * MS } else { 0 };
            policy.learn(&mut arrivals, elapsed_ns, 1, DAY_US);
        }
        let expected_ns = policy.deadlines(&arrivals, DAY_US).down_ns;
        let error_ns = expected_ns.abs_diff(DAY_US * 1_000 + 1_500 * MS);
        assert!(error_ns < 50 * MS, "off by {error_ns} ns");
    }
}
