//! The φ accrual detector, turned into a deadline.
//!
//! N. Hayashibara, X. Défago, R. Yared, T. Katayama, *The φ Accrual Failure Detector*, SRDS 2004.
//! With the time between arrivals taken as normal, `φ(t) = −log10 P(later than t)`: at φ = 3 one
//! would be wrong once in a thousand. Others ask for φ now and then; here the tail is inverted once,
//! and the threshold becomes a deadline: `mean + pause + y × deviation`.
//!
//! Which tail: the logistic approximation that Akka made customary,
//! `P = 1 / (1 + exp(y (1.5976 + 0.070566 y²)))`, so that a threshold known from there means the same
//! here. Near the centre it is the normal tail to 0.0002. Far out it is the thinner of the two:
//! threshold 8 lies 5.23 deviations out, where the normal tail has it at 5.61. It inverts exactly,
//! being a cubic in `y`.
//!
//! Akka's acceptable pause is the policy's `missed − 1` intervals. The word `mean_ns` holds the mean
//! time between arrivals less the interval, `spread` the variance in squared nanoseconds.

use super::{Arrivals, Forecast};

const LINEAR: f64 = 1.5976;
const CUBIC: f64 = 0.070566;

/// The constants of the detector.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Phi {
    threshold: f64,
    /// Deviations from the mean at which φ reaches the threshold.
    deviations: f64,
    /// Least standard deviation to assume, nanoseconds.
    pub least_deviation_ns: u64,
    /// Weight of the newest arrival in mean and variance, above 0 and at most 1.
    pub gain: f32,
}

impl Default for Phi {
    fn default() -> Self {
        Phi::new(8.0)
    }
}

impl Phi {
    /// The detector that calls a peer down when φ reaches `threshold`, above 0.
    pub fn new(threshold: f64) -> Phi {
        Phi {
            threshold,
            deviations: deviations(threshold),
            least_deviation_ns: 10_000_000,
            gain: 1.0 / 64.0,
        }
    }

    /// Sets the threshold, above 0.
    pub fn set_threshold(&mut self, threshold: f64) {
        (self.threshold, self.deviations) = (threshold, deviations(threshold));
    }

    /// φ at which a peer is called down.
    pub fn threshold(&self) -> f64 {
        self.threshold
    }

    #[inline(always)]
    pub(super) fn learn(&self, arrivals: &mut Arrivals, late_ns: f32, steps: u32) {
        if steps != 1 {
            return;
        }
        // West's update of an exponentially weighted variance; with the weights 1/n it is the plain
        // variance of all n.
        let weight = arrivals.weight(1.0, self.gain);
        let error_ns = late_ns - arrivals.mean_ns;
        let step_ns = weight * error_ns;
        arrivals.mean_ns += step_ns;
        arrivals.spread = (1.0 - weight) * (arrivals.spread + error_ns * step_ns);
    }

    #[inline(always)]
    pub(super) fn forecast(&self, arrivals: &Arrivals, interval_ns: f64) -> Forecast {
        let deviation_ns = f64::from(arrivals.spread).sqrt().max(self.least_deviation_ns as f64);
        Forecast {
            expected_ns: interval_ns + f64::from(arrivals.mean_ns),
            margin_ns: (self.deviations * deviation_ns).max(0.0),
        }
    }
}

/// φ at so many standard deviations past the mean.
pub fn phi(deviations: f64) -> f64 {
    let e = (-deviations * (LINEAR + CUBIC * deviations * deviations)).exp();
    // Two forms of the same number, each where it does not cancel.
    if deviations > 0.0 { -(e / (1.0 + e)).log10() } else { -(1.0 - 1.0 / (1.0 + e)).log10() }
}

/// Standard deviations past the mean at which φ is reached: the inverse of [`phi()`], for φ above 0.
pub fn deviations(phi: f64) -> f64 {
    // φ = log10(1 + exp(z)), and z = LINEAR y + CUBIC y³. Past 10^300 the 1 has long been nothing.
    let exponent = phi * std::f64::consts::LN_10;
    let z = if exponent > 40.0 { exponent } else { exponent.exp_m1().ln() };
    // Depressed cubic with one real root, in the hyperbolic form, which does not cancel.
    let p = LINEAR / CUBIC;
    let q = z / CUBIC;
    let root = (p / 3.0).sqrt();
    2.0 * root * ((q / (2.0 * root.powi(3))).asinh() / 3.0).sinh()
}
