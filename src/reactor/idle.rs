//! When a reactor sleeps and when it polls.
//!
//! Waking up is the enemy of precision: a sleeper is woken tens of microseconds late, whichever
//! system call it sleeps in. Like somebody who must catch a train and knows how badly he wakes up:
//! he sets the alarm early by as much as he has learnt to need, and then watches the clock.
//!
//! - `hybrid`: sleep until short of the next deadline by the learnt wake-up lateness, then poll.
//! - `spin`: never sleep. The most precise, for a whole core.
//! - `sleep`: sleep until the deadline itself. The cheapest; late by a wake-up.
//!
//! Absent on purpose: any reading of a clock. Time comes in, a [`Plan`] goes out.

use crate::io::Patience;

/// How a reactor waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdleStrategy {
    /// Sleep, then poll the last stretch before a deadline.
    Hybrid,
    /// Never sleep.
    Spin,
    /// Never poll.
    Sleep,
}

impl IdleStrategy {
    /// Its name, as `--idle` takes it.
    pub fn as_str(self) -> &'static str {
        match self {
            IdleStrategy::Hybrid => "hybrid",
            IdleStrategy::Spin => "spin",
            IdleStrategy::Sleep => "sleep",
        }
    }
}

/// What to do until something happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Plan {
    /// Go round again at once.
    Poll,
    /// Wait in the transport.
    Wait {
        /// Be awake at this time, monotonic ns. A time and not a length: whoever is held up between
        /// the plan and the wait must not sleep for longer.
        until_ns: u64,
        /// See [`Patience::want`].
        want: u32,
        /// See [`Patience::min_wait_ns`].
        min_wait_ns: u64,
    },
}

impl Plan {
    /// How to wait, for a wait that begins now; `None`: not at all.
    pub fn patience(self, now_ns: u64) -> Option<(u64, Patience)> {
        let Plan::Wait { until_ns, want, min_wait_ns } = self else { return None };
        let timeout_ns = until_ns.checked_sub(now_ns).filter(|left_ns| *left_ns > 0)?;
        let min_wait_ns = min_wait_ns.min(timeout_ns);
        Some((until_ns, Patience { timeout_ns: Some(timeout_ns), want, min_wait_ns }))
    }
}

/// Longest sleep: an idle reactor looks after its counters so often.
pub const LONGEST_SLEEP_NS: u64 = 500_000_000;
/// The margin before a deadline stays within these; a stall of the machine must not turn the
/// strategy into a spin.
const MARGIN_NS: std::ops::RangeInclusive<u64> = 20_000..=250_000;
/// Below this rate each datagram wakes the reactor; above, a short wait gathers a batch.
const GATHER_FROM_PER_S: u64 = 5_000;
/// Datagrams that a gathering wait aims at: what the receive buffers hold, less some. At 250,000 a
/// second 48 instead of 32 took the reactor from 42 to 36 % of a core.
const GATHER: u64 = 48;
/// Bounds of a gathering wait. Shorter saves no wake-ups, longer fills the receive buffers.
const GATHER_NS: std::ops::RangeInclusive<u64> = 50_000..=200_000;

/// Learns how late it is woken and how fast datagrams come, and plans the wait.
#[derive(Clone, Debug)]
pub struct Idle {
    strategy: IdleStrategy,
    /// How long before a deadline to be awake: a high quantile of the wake-up lateness.
    margin_ns: u64,
    /// Datagrams per second, smoothed.
    rate_per_s: u64,
    window_start_ns: u64,
    window_count: u64,
}

impl Idle {
    /// Starts with the lateness that was measured on a small virtual machine.
    pub fn new(strategy: IdleStrategy, now_ns: u64) -> Idle {
        Idle {
            strategy,
            margin_ns: 80_000,
            rate_per_s: 0,
            window_start_ns: now_ns,
            window_count: 0,
        }
    }

    /// How long before a deadline the reactor wants to be awake, nanoseconds.
    pub fn margin_ns(&self) -> u64 {
        self.margin_ns
    }

    /// Notes so many datagrams received.
    pub fn received(&mut self, count: u64, now_ns: u64) {
        self.window_count += count;
        let window_ns = now_ns.saturating_sub(self.window_start_ns);
        if window_ns >= 10_000_000 {
            let rate = (self.window_count as u128 * 1_000_000_000 / window_ns as u128) as u64;
            self.rate_per_s =
                if self.rate_per_s == 0 { rate } else { (self.rate_per_s + rate) / 2 };
            self.window_start_ns = now_ns;
            self.window_count = 0;
        }
    }

    /// Notes that a wait that should have ended at a time ended so much later.
    ///
    /// A step up by a quarter of the excess, a step down by a 400th of the margin: the margin
    /// settles where about one wake-up in a hundred is later than it.
    pub fn woken_late(&mut self, late_ns: u64) {
        if late_ns > self.margin_ns {
            self.margin_ns += (late_ns - self.margin_ns).div_ceil(4);
        } else {
            self.margin_ns -= self.margin_ns / 400;
        }
        self.margin_ns = self.margin_ns.clamp(*MARGIN_NS.start(), *MARGIN_NS.end());
    }

    /// Plans the wait until `deadline_ns`.
    pub fn plan(&self, now_ns: u64, deadline_ns: Option<u64>) -> Plan {
        if self.strategy == IdleStrategy::Spin {
            return Plan::Poll;
        }
        let margin_ns = if self.strategy == IdleStrategy::Hybrid { self.margin_ns } else { 0 };
        let until_ns = deadline_ns.map_or(u64::MAX, |d| d.saturating_sub(margin_ns));
        if until_ns <= now_ns {
            return Plan::Poll;
        }
        let until_ns = until_ns.min(now_ns + LONGEST_SLEEP_NS);
        if self.rate_per_s < GATHER_FROM_PER_S {
            return Plan::Wait { until_ns, want: 1, min_wait_ns: 0 };
        }
        let min_wait_ns =
            (GATHER * 1_000_000_000 / self.rate_per_s).clamp(*GATHER_NS.start(), *GATHER_NS.end());
        Plan::Wait { until_ns, want: 2, min_wait_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Rng, seeds};

    fn wait(until_ns: u64) -> Plan {
        Plan::Wait { until_ns, want: 1, min_wait_ns: 0 }
    }

    #[test]
    fn hybrid_wakes_early_by_the_margin_and_then_polls() {
        let idle = Idle::new(IdleStrategy::Hybrid, 0);
        assert_eq!(idle.plan(1_000_000, Some(2_000_000)), wait(1_920_000));
        assert_eq!(idle.plan(1_920_000, Some(2_000_000)), Plan::Poll);
        assert_eq!(idle.plan(3_000_000, Some(2_000_000)), Plan::Poll, "past");
        assert_eq!(idle.plan(1_000_000, None), wait(1_000_000 + LONGEST_SLEEP_NS));
    }

    #[test]
    fn sleep_waits_for_the_deadline_itself_and_spin_never_waits() {
        assert_eq!(Idle::new(IdleStrategy::Sleep, 0).plan(0, Some(5_000)), wait(5_000));
        assert_eq!(Idle::new(IdleStrategy::Spin, 0).plan(0, None), Plan::Poll);
    }

    #[test]
    fn a_high_rate_gathers_but_never_past_the_deadline() {
        let mut idle = Idle::new(IdleStrategy::Hybrid, 0);
        idle.received(2_500, 10_000_000);
        let (_, patience) = idle.plan(0, None).patience(0).expect("waits");
        assert_eq!((patience.want, patience.min_wait_ns), (2, 192_000));
        let (_, patience) = idle.plan(0, Some(100_000)).patience(0).expect("waits");
        assert_eq!((patience.timeout_ns, patience.min_wait_ns), (Some(20_000), 20_000));
    }

    #[test]
    fn who_is_held_up_on_the_way_to_the_wait_waits_for_less() {
        let plan = Idle::new(IdleStrategy::Hybrid, 0).plan(1_000_000, Some(2_000_000));
        let patience = Patience { timeout_ns: Some(120_000), want: 1, min_wait_ns: 0 };
        assert_eq!(plan.patience(1_800_000), Some((1_920_000, patience)));
        assert_eq!(plan.patience(1_920_000), None);
        assert_eq!(plan.patience(9_000_000), None);
        assert_eq!(Plan::Poll.patience(0), None);
    }

    #[test]
    fn the_margin_settles_near_the_99th_percentile() {
        for seed in seeds() {
            let mut rng = Rng::new(seed);
            let mut idle = Idle::new(IdleStrategy::Hybrid, 0);
            let mut late = 0;
            for step in 0..200_000 {
                // Exponential, median 40 µs: its 99th percentile is 266 µs, above the ceiling, so
                // scale to a median of 10 µs (p99 66 µs).
                let uniform = (rng.below(1 << 53) + 1) as f64 / (1u64 << 53) as f64;
                let lateness = (-uniform.ln() * 14_427.0) as u64;
                if step > 10_000 && lateness > idle.margin_ns() {
                    late += 1;
                }
                idle.woken_late(lateness);
            }
            let share = late as f64 / 190_000.0;
            assert!((0.003..0.06).contains(&share), "seed {seed}: {share} of the wake-ups late");
        }
    }

    #[test]
    fn a_stall_does_not_make_it_spin() {
        let mut idle = Idle::new(IdleStrategy::Hybrid, 0);
        idle.woken_late(50_000_000);
        assert_eq!(idle.margin_ns(), *MARGIN_NS.end());
    }
}
