//! Whether the plan will trip the monitor's brake on mass silence, and what to say about it.
//!
//! The monitor holds a fleet or a group as suspect when a share of it falls silent at once. A load
//! that kills so many is then found only when the hold is over; it is better known before than
//! wondered about afterwards.

use crate::report::{count, nanos};
use std::time::Duration;
use systole::api::BrakeSettings;

/// The kills of a run lie within an interval of each other, so when the first is due to be called down
/// some may not be suspect yet: it may take this share of the share.
const NEARLY: f64 = 0.8;

/// For how long the monitor will hold the silenced at most, if it will.
pub fn hold(brake: Option<BrakeSettings>, senders: u32, silenced: u32) -> Option<Duration> {
    let brake = brake?;
    let share = f64::from(silenced) / f64::from(senders.max(1));
    let trips = share >= brake.share * NEARLY && silenced >= brake.least;
    trips.then(|| Duration::from_nanos(brake.hold_ns))
}

/// What the operator should know before the run.
pub fn warning(brake: &BrakeSettings, senders: u32, silenced: u32) -> String {
    format!(
        "silencing {} of {} peers trips the monitor's brake on mass silence (from {} % and {} peers \
         on): they are held as suspect for up to {}, and are not missed before that is over; to \
         measure detection, start the monitor with --mass-silence off",
        count(silenced.into()),
        count(senders.into()),
        (brake.share * 100.0).round(),
        count(brake.least.into()),
        nanos(brake.hold_ns),
    )
}

/// What the operator should know if it is on already.
pub fn is_on(brake: &BrakeSettings, held: u64) -> String {
    format!(
        "the monitor's brake on mass silence is on, with {} peers held as suspect from before: whoever \
         falls silent now is held as well, for up to {}, and not missed before that is over; to \
         measure detection wait until they are decided, or take a fresh monitor",
        count(held),
        nanos(brake.hold_ns),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRAKE: BrakeSettings = BrakeSettings { share: 0.5, least: 100, hold_ns: 120_000_000_000 };

    #[test]
    fn a_hundredth_is_no_mass_and_a_half_is() {
        let hold = |senders, silenced| hold(Some(BRAKE), senders, silenced);
        let held = Some(Duration::from_secs(120));
        assert_eq!(hold(50_000, 500), None);
        assert_eq!(hold(50_000, 25_000), held);
        assert_eq!(hold(50_000, 50_000), held);
        assert_eq!(hold(50_000, 20_000), held, "so near that it may");
        assert_eq!(hold(60, 60), None, "too few");
        assert_eq!(super::hold(None, 50_000, 50_000), None, "turned off");
    }

    #[test]
    fn the_warning_says_what_to_do() {
        let text = warning(&BRAKE, 50_000, 30_000);
        assert!(text.starts_with("silencing 30,000 of 50,000 peers trips"), "{text}");
        assert!(text.contains("from 50 % and 100 peers on"), "{text}");
        assert!(text.contains("up to 120.0000 s"), "{text}");
        assert!(text.ends_with("--mass-silence off"), "{text}");
        let text = is_on(&BRAKE, 300);
        assert!(text.contains("with 300 peers held as suspect"), "{text}");
    }
}
