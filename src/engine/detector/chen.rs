//! NFD-E: the expected arrival and a constant margin.
//!
//! W. Chen, S. Toueg, M. K. Aguilera, *On the Quality of Service of Failure Detectors*, IEEE
//! Transactions on Computers 51(5), 2002, section 6.3. The paper predicts the arrival of heartbeat
//! `l + 1` as the mean of `A_i − η i` over the last `n` arrivals, plus `η (l + 1)`, and suspects `α`
//! later. Seen from the last arrival that is `η − lag`, where the *lag* is how far the last arrival's
//! `A_l − η l` lies above the mean. The lag is all that has to be kept:
//!
//! ```text
//!   heartbeat, late by d:   lag ← lag + d;   the mean moves by g × lag, so   lag ← (1 − g) × lag
//! ```

use super::{Arrivals, Forecast};

/// The constants of NFD-E. Its margin α is `missed − 1` intervals of the policy, plus this one.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Chen {
    /// Constant margin, nanoseconds.
    pub margin_ns: u64,
    /// Weight of the newest arrival in the mean, above 0 and at most 1.
    pub gain: f32,
}

impl Default for Chen {
    fn default() -> Self {
        Chen { margin_ns: 0, gain: 1.0 / 64.0 }
    }
}

/// Moves the lag on by one heartbeat; returns how late that one came by the mean before it. Its weight is
/// that of a sample with 2 before, as the first arrival of all is in the mean too.
#[inline(always)]
pub(super) fn move_lag(arrivals: &mut Arrivals, late_ns: f32, weight: f32) -> f32 {
    let error_ns = arrivals.lag_ns + late_ns;
    arrivals.lag_ns = error_ns * (1.0 - weight);
    error_ns
}

impl Chen {
    #[inline(always)]
    pub(super) fn learn(&self, arrivals: &mut Arrivals, late_ns: f32) {
        let weight = arrivals.weight(2.0, self.gain);
        move_lag(arrivals, late_ns, weight);
    }

    #[inline(always)]
    pub(super) fn forecast(&self, arrivals: &Arrivals, interval_ns: f64) -> Forecast {
        Forecast {
            expected_ns: interval_ns - f64::from(arrivals.lag_ns),
            margin_ns: self.margin_ns as f64,
        }
    }
}
