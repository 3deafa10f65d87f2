//! Chen's expected arrival, with a margin that follows the error of the prediction.
//!
//! M. Bertier, O. Marin, P. Sens, *Implementation and Performance Evaluation of an Adaptable Failure
//! Detector*, DSN 2002. The margin is Jacobson's estimate of a round trip's timeout (*Congestion
//! Avoidance and Control*, SIGCOMM 1988), of the error instead of the round trip:
//!
//! ```text
//!   error  = arrival − expected − delay
//!   delay ← delay + γ error
//!   var   ← var + γ (|error| − var)
//!   margin = β delay + φ var
//! ```
//!
//! The word `extra` holds the delay, `spread` the var, both nanoseconds.

use super::chen::move_lag;
use super::{Arrivals, Forecast};

/// The constants of the estimate, named as in the paper, which also gave the defaults.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Bertier {
    /// Weight of the mean error.
    pub beta: f32,
    /// Weight of the mean deviation.
    pub phi: f32,
    /// Weight of the newest error, above 0 and at most 1.
    pub gamma: f32,
    /// Weight of the newest arrival in the mean of arrivals, as [`Chen`](super::Chen) has it.
    pub gain: f32,
}

impl Default for Bertier {
    fn default() -> Self {
        Bertier { beta: 1.0, phi: 4.0, gamma: 0.1, gain: 1.0 / 64.0 }
    }
}

impl Bertier {
    #[inline(always)]
    pub(super) fn learn(&self, arrivals: &mut Arrivals, late_ns: f32, steps: u32) {
        let weight = arrivals.weight(2.0, self.gain);
        let error_ns = move_lag(arrivals, late_ns, weight) - arrivals.extra;
        if steps == 1 {
            arrivals.extra += self.gamma * error_ns;
            arrivals.spread += self.gamma * (error_ns.abs() - arrivals.spread);
        }
    }

    #[inline(always)]
    pub(super) fn forecast(&self, arrivals: &Arrivals, interval_ns: f64) -> Forecast {
        let margin_ns = self.beta * arrivals.extra + self.phi * arrivals.spread;
        Forecast {
            expected_ns: interval_ns - f64::from(arrivals.lag_ns),
            margin_ns: f64::from(margin_ns.max(0.0)),
        }
    }
}
