//! Two forecasts and their record: whichever has been nearer counts, with a margin after its error.
//!
//! A sender that keeps to a timetable is best foreseen by Chen's mean: a beat held up on the way says
//! nothing about the next. One that sleeps an interval between beats, or whose network's delay wanders
//! slowly, is best foreseen from its *last* arrival. So both forecasts are made, the mean error of each
//! is kept, and the one that errs less is believed:
//!
//! ```text
//!   from the mean   expected = interval + drift − lag     error₁ ← error₁ + g (|late₁| − error₁)
//!   from the last   expected = interval + drift           error₂ ← error₂ + g (|late₂| − error₂)
//!   margin = deviations × min(error₁, error₂), of the forecast that has it
//! ```
//!
//! `drift` is the mean by which intervals exceed the stated one, so that a sender whose clock is off,
//! or whose work adds to its sleep, is followed. The words: `mean_ns` the drift, `spread` error₁,
//! `extra` error₂.
//!
//! It is of this project: what it takes from Chen, Toueg and Aguilera (2002) is the first forecast, from
//! Bertier, Marin and Sens (2002) the margin that follows the error. `docs/detection.md` measures it
//! against both.

use super::chen::move_lag;
use super::{Arrivals, Forecast};

/// The constants of the blend.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Blend {
    /// Margin in mean errors of the forecast.
    pub deviations: f32,
    /// Weight of the newest arrival, above 0 and at most 1.
    pub gain: f32,
}

impl Default for Blend {
    fn default() -> Self {
        Blend { deviations: 8.0, gain: 1.0 / 64.0 }
    }
}

impl Blend {
    #[inline(always)]
    pub(super) fn learn(&self, arrivals: &mut Arrivals, late_ns: f32, steps: u32) {
        let from_last_ns = late_ns - arrivals.mean_ns * steps as f32;
        let (weight, weight_in_mean) = arrivals.weights(self.gain);
        let from_mean_ns = move_lag(arrivals, from_last_ns, weight_in_mean);
        if steps == 1 {
            arrivals.mean_ns += weight * from_last_ns;
            arrivals.spread += weight * (from_mean_ns.abs() - arrivals.spread);
            arrivals.extra += weight * (from_last_ns.abs() - arrivals.extra);
        }
    }

    #[inline(always)]
    pub(super) fn forecast(&self, arrivals: &Arrivals, interval_ns: f64) -> Forecast {
        let error_ns = arrivals.spread.min(arrivals.extra);
        // Times 0 or 1, which becomes no branch: among many peers it is not to be foretold which wins.
        let mean_wins = if arrivals.spread <= arrivals.extra { 1.0 } else { 0.0 };
        let lag_ns = mean_wins * arrivals.lag_ns;
        Forecast {
            expected_ns: interval_ns + f64::from(arrivals.mean_ns) - f64::from(lag_ns),
            margin_ns: f64::from(self.deviations * error_ns),
        }
    }
}
