//! The only place that reads time.
//!
//! Two clocks, never mixed: *monotonic* time decides, *wall* time only labels. Monotonic time is
//! `CLOCK_MONOTONIC` in nanoseconds since boot, so it is the same in every thread and process of
//! one machine, and it survives a restart of the monitor.

/// What a reactor reads the time from: the machine's clock, or a test's.
pub trait Clock {
    /// Monotonic time in nanoseconds.
    fn now_ns(&self) -> u64;

    /// What to add to a monotonic time to label it with wall time, in nanoseconds. A clock without
    /// a wall has none.
    fn wall_offset_ns(&self) -> i64 {
        0
    }
}

/// The machine's `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Monotonic;

impl Clock for Monotonic {
    #[inline]
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    fn wall_offset_ns(&self) -> i64 {
        wall_offset_ns()
    }
}

/// Monotonic time in nanoseconds since boot (`CLOCK_MONOTONIC`, clock_gettime(2)).
#[inline]
pub fn monotonic_ns() -> u64 {
    read_ns(libc::CLOCK_MONOTONIC)
}

/// Wall-clock time in nanoseconds since 1970-01-01 UTC (`CLOCK_REALTIME`, clock_gettime(2)).
#[inline]
pub fn wall_ns() -> u64 {
    read_ns(libc::CLOCK_REALTIME)
}

/// What to add to a monotonic time to label it with wall time, in nanoseconds.
///
/// Sampled anew at every call, so a step of the wall clock shows in the next label and nowhere
/// else. The two clocks cannot be read at one instant: of three tries the quickest counts, so that
/// a thread interrupted between the readings does not label everything late.
pub fn wall_offset_ns() -> i64 {
    let sample = |_| {
        let before = monotonic_ns();
        let wall = wall_ns();
        let took = monotonic_ns() - before;
        (took, wall as i64 - (before + took / 2) as i64)
    };
    let quickest = (0..3).map(sample).min_by_key(|(took, _)| *took);
    quickest.expect("there were tries").1
}

/// Processor time that this process has used, user and system together, in nanoseconds
/// (`CLOCK_PROCESS_CPUTIME_ID`, clock_gettime(2)).
pub fn process_cpu_ns() -> u64 {
    read_ns(libc::CLOCK_PROCESS_CPUTIME_ID)
}

#[inline]
fn read_ns(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid, writable timespec for the length of the call.
    let rc = unsafe { libc::clock_gettime(clock, &mut time) };
    debug_assert_eq!(rc, 0, "clock_gettime of a built-in clock cannot fail");
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_time_never_goes_back() {
        let first = monotonic_ns();
        assert!(monotonic_ns() >= first);
    }

    #[test]
    fn the_offset_turns_monotonic_into_wall_time() {
        let before = wall_ns() as i64;
        let labelled = monotonic_ns() as i64 + wall_offset_ns();
        // A second of slack: the wall clock may be slewed while we look.
        assert!((labelled - before).abs() < 1_000_000_000);
    }
}
