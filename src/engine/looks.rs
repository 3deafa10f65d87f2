//! How far ahead a timer may hang, so that the usual heartbeat need not touch it.
//!
//! A heartbeat moves its peer's deadline on, and a detector that learns from it may bring the deadline
//! nearer. Where that is more, the timer would hang too far ahead: it must be told. To find that out for
//! each heartbeat costs more than the heartbeat, so there are two rules instead:
//!
//! 1. the timer of a peer whose detector learns hangs no further ahead of its last heartbeat than
//!    [`FARTHEST`] intervals, whatever its deadline;
//! 2. a heartbeat is usual if it came [`LEAST`] to `FARTHEST` intervals behind the one before, and the
//!    detector learns by steps of a ninth at most.
//!
//! All that detectors learn are weighted means, so a step of a ninth brings a deadline of `d` intervals
//! nearer by `d`/9 and a little for a heartbeat that is early. Up to 3 intervals that is less than the half
//! interval that the heartbeat moves it on; and from above, two thirds of a deadline are still behind the
//! timer's place. So behind a usual heartbeat the timer is never too far ahead.
//!
//! In a fleet with timeouts of three intervals or less, suspicion earlier, the first rule changes nothing.

use super::policy::Policy;

/// Intervals from the last heartbeat to its timer, at most.
const FARTHEST: u64 = 3;
/// Of an interval, in thousandths: less behind the one before, a heartbeat comes in a bunch.
const LEAST: u64 = 500;

/// How far ahead of the last heartbeat a timer may hang, nanoseconds, if the interval is as stated.
#[inline]
pub(super) fn farthest_ns(policy: &Policy, stated_us: u64) -> u64 {
    match policy.detector.learns() {
        true => policy.interval_us(stated_us).saturating_mul(1_000 * FARTHEST),
        false => u64::MAX,
    }
}

/// Whether a heartbeat so long behind the one before, nanoseconds, moves the deadline on by more than
/// what is learnt from it can bring it nearer.
#[inline]
pub(super) fn moves_on(elapsed_ns: u64, interval_us: u64) -> bool {
    let least_ns = interval_us.saturating_mul(LEAST);
    let most_ns = interval_us.saturating_mul(1_000 * FARTHEST);
    (least_ns..=most_ns).contains(&elapsed_ns)
}
