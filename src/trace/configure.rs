//! Chen's configuration procedure: which interval, and which margin, meet a demand.
//!
//! Chen, Toueg and Aguilera (2002), sections 4 and 5. With detection wanted within `T` and mistakes no
//! more often than once in `T_MR`, the largest interval η is taken for which
//!
//! ```text
//!   η / Π late(T − j η)  ≥  T_MR      j from 1 to ⌈T / η⌉ − 1
//! ```
//!
//! where `late(x)` is the chance that a heartbeat is not here `x` after it was due. The margin is what is
//! left, `T − η`. What is known of the network decides what `late` is: its distribution (section 4), or
//! only the loss and the variance of the delay, for which Cantelli's inequality gives a bound (section
//! 5). `T` counts from the mean delay.

/// Most heartbeats within the detection time that are tried.
const MOST_BEATS: u32 = 10_000;

/// The largest interval, in the unit of `detect_within` and `recurrence`, for which mistakes recur no
/// more often than wanted; `None` when no interval does with up to 10,000 heartbeats in the detection
/// time. `late(x)` must fall with `x`.
pub fn interval_for(detect_within: f64, recurrence: f64, late: impl Fn(f64) -> f64) -> Option<f64> {
    let log_recurrence = |interval: f64, beats: u32| {
        let lates = (1..=beats).map(|j| late(detect_within - f64::from(j) * interval).ln());
        interval.ln() - lates.sum::<f64>()
    };
    let wanted = recurrence.ln();
    // Between T/(k + 1) and T/k, k heartbeats lie within T, and a shorter interval is always better.
    for beats in 0..MOST_BEATS {
        let (mut good, mut bad) = (
            detect_within / f64::from(beats + 1) * (1.0 + 1e-9),
            if beats == 0 { detect_within } else { detect_within / f64::from(beats) },
        );
        if log_recurrence(bad, beats) >= wanted {
            return Some(bad);
        }
        if log_recurrence(good, beats) < wanted {
            continue;
        }
        for _ in 0..60 {
            let middle = (good + bad) / 2.0;
            if log_recurrence(middle, beats) >= wanted { good = middle } else { bad = middle }
        }
        return Some(good);
    }
    None
}

/// The chance that a heartbeat is not here `x` after it was due, at most, when only the loss and the
/// variance of the delay are known.
pub fn late_by_moments(loss: f64, variance: f64) -> impl Fn(f64) -> f64 {
    move |x| if x <= 0.0 { 1.0 } else { (variance + loss * x * x) / (variance + x * x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: f64 = 86_400.0;

    /// The paper's example: detection within 30 s, one mistake in 30 days, 1 % lost, delays exponential
    /// with mean 0.02 s. Section 4 finds η = 9.97, section 5 (variance 0.02) η = 9.71.
    #[test]
    fn the_paper_s_example_comes_out() {
        let (loss, mean) = (0.01, 0.02);
        let exact = |x: f64| loss + (1.0 - loss) * (-x / mean).exp();
        // Section 4 divides by the chance q₀ that a heartbeat comes in time besides.
        let known = interval_for(30.0, 30.0 * DAY * (1.0 - loss), exact).unwrap();
        assert_eq!((known * 100.0).floor() / 100.0, 9.97, "{known}");
        let moments = interval_for(30.0, 30.0 * DAY, late_by_moments(loss, 0.02)).unwrap();
        assert_eq!((moments * 100.0).floor() / 100.0, 9.71, "{moments}");
    }

    #[test]
    fn a_shorter_time_or_a_rarer_mistake_takes_more_heartbeats() {
        let late = || late_by_moments(0.01, 0.0004);
        let interval = |within, days| interval_for(within, days * DAY, late()).unwrap();
        assert!(interval(2.0, 30.0) < interval(3.0, 30.0));
        assert!(interval(2.0, 300.0) < interval(2.0, 30.0));
        assert_eq!(interval_for(2.0, 1.0, late()), Some(2.0), "a lax demand takes one heartbeat");
        assert_eq!(interval_for(2.0, 1e300, late_by_moments(1.0, 1.0)), None, "all is lost");
    }
}
