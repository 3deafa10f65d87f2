//! Bare timers beside the load: how late this machine wakes anybody up, with no monitor in between.
//!
//! A lateness means little without it. Two kinds in turn, a hundred of each a second: one sleeps
//! until its time (clock_nanosleep(2)), one sleeps until a little before and then polls the clock,
//! as a monitor's `sleep` and `hybrid` strategies do.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use systole::clock;
use systole::metrics::Histogram;
use systole::metrics::histogram::Snapshot;

/// Time from one timer to the next, nanoseconds; uneven, so that it falls into step with nothing.
const EVERY_NS: u64 = 5_013_000;
/// How long before its time the polling timer is awake, nanoseconds.
const MARGIN_NS: u64 = 100_000;

/// What the timers came to.
#[derive(Clone, Default)]
pub struct Lateness {
    /// Of those that slept until their time.
    pub sleep: Snapshot,
    /// Of those that polled at the end.
    pub hybrid: Snapshot,
}

/// The timers' thread.
pub struct BareTimers {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Lateness>,
}

impl BareTimers {
    /// Starts them.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start() -> std::io::Result<BareTimers> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new().name("load-bare".into()).spawn(move || {
            // SAFETY: PR_SET_TIMERSLACK (prctl(2)) takes an integer; without it the kernel may fire
            // a sleep 50 µs late.
            unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
            let (sleep, hybrid) = (Histogram::default(), Histogram::default());
            let mut due_ns = clock::monotonic_ns();
            // Relaxed: the flag orders nothing, it is only to be seen soon.
            while !stopped.load(Ordering::Relaxed) {
                due_ns = clock::monotonic_ns().max(due_ns) + EVERY_NS;
                sleep.record(late_after(due_ns, 0));
                due_ns += EVERY_NS;
                hybrid.record(late_after(due_ns, MARGIN_NS));
            }
            Lateness { sleep: sleep.snapshot(), hybrid: hybrid.snapshot() }
        })?;
        Ok(BareTimers { stop, thread })
    }

    /// Ends them; nothing when the thread panicked.
    pub fn finish(self) -> Lateness {
        // Relaxed: see the loop.
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Sleeps until `margin_ns` before `due_ns`, polls until then, and says how late it is.
fn late_after(due_ns: u64, margin_ns: u64) -> u64 {
    let until_ns = due_ns.saturating_sub(margin_ns);
    let until = libc::timespec {
        tv_sec: (until_ns / 1_000_000_000) as libc::time_t,
        tv_nsec: (until_ns % 1_000_000_000) as libc::c_long,
    };
    // SAFETY: `until` is a valid timespec; with TIMER_ABSTIME nothing is written back. A signal ends
    // the sleep early, and the polling below makes up for it.
    unsafe {
        libc::clock_nanosleep(
            libc::CLOCK_MONOTONIC,
            libc::TIMER_ABSTIME,
            &until,
            std::ptr::null_mut(),
        )
    };
    loop {
        if let Some(late_ns) = clock::monotonic_ns().checked_sub(due_ns) {
            return late_ns;
        }
        std::hint::spin_loop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_are_measured_and_never_early() {
        let due_ns = clock::monotonic_ns() + 1_000_000;
        let late_ns = late_after(due_ns, MARGIN_NS);
        assert!(clock::monotonic_ns() >= due_ns + late_ns);
        let timers = BareTimers::start().unwrap();
        assert!(late_after(clock::monotonic_ns() + 8 * EVERY_NS, 0) < u64::MAX);
        let lateness = timers.finish();
        assert!(lateness.sleep.count() > 0 && lateness.hybrid.count() > 0);
    }
}
