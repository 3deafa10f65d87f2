//! Going to sleep without missing a wake-up: Dekker's protocol between an owner and those who bring
//! it something.
//!
//! ```text
//!  owner:    asleep ← true    fence(SeqCst)    anything there? then stay awake, else wait
//!  bringer:  bring it         fence(SeqCst)    asleep? then wake the owner
//! ```
//!
//! Each side writes, then looks at what the other writes. With a sequentially consistent fence in
//! between at least one of them sees the other: either the owner finds what was brought, or the
//! bringer finds the owner asleep. Both may happen, and then the owner is woken once too often, which
//! does no harm.
//!
//! Absent on purpose: what is brought, and how one wakes. Their owner says so.

use super::primitive::{AtomicBool, Ordering, fence};

/// Whether an owner sleeps.
#[derive(Debug)]
pub struct Sleep {
    asleep: AtomicBool,
}

impl Default for Sleep {
    fn default() -> Self {
        Sleep { asleep: AtomicBool::new(false) }
    }
}

impl Sleep {
    /// The owner is going to wait. False, and it must not, when `anything_there` says so; that may
    /// look with relaxed loads.
    pub fn begin(&self, anything_there: impl FnOnce() -> bool) -> bool {
        // Relaxed, for the fence orders it.
        self.asleep.store(true, Ordering::Relaxed);
        // SeqCst fence: partner of the one in `must_wake`; it orders the store before the look.
        fence(Ordering::SeqCst);
        if anything_there() {
            self.end();
            return false;
        }
        true
    }

    /// The owner is awake.
    pub fn end(&self) {
        // Relaxed: a bringer that still sees `true` wakes it once too often.
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// Whether the owner has to be woken, by the caller, who has brought something before. True for
    /// one of several callers.
    pub fn must_wake(&self) -> bool {
        // SeqCst fence: partner of the one in `begin`; it orders what was brought before the look.
        fence(Ordering::SeqCst);
        // Relaxed look first: it keeps the line shared when the owner is awake, the common case. The
        // swap needs no more: it only settles which of several bringers wakes.
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(loom)]
    use loom::{model, sync::Arc, sync::atomic::AtomicU32, thread};
    #[cfg(not(loom))]
    use std::{sync::Arc, sync::atomic::AtomicU32, thread};

    /// Without loom: the same body many times, on real threads.
    #[cfg(not(loom))]
    fn model(body: impl Fn()) {
        (0..if cfg!(miri) { 20 } else { 2_000 }).for_each(|_| body());
    }

    /// What an owner and its bringers share: heaps that are brought, and wake-ups that are sent.
    #[derive(Default)]
    struct Place {
        sleep: Sleep,
        brought: AtomicU32,
        asked: AtomicU32,
        woken: AtomicU32,
    }

    impl Place {
        fn bring(&self, what: &AtomicU32) {
            what.fetch_add(1, Ordering::Relaxed);
            if self.sleep.must_wake() {
                self.woken.fetch_add(1, Ordering::Relaxed);
            }
        }

        fn is_empty(&self) -> bool {
            let none = |what: &AtomicU32| what.load(Ordering::Relaxed) == 0;
            none(&self.brought) && none(&self.asked)
        }
    }

    #[test]
    fn nobody_sleeps_on_what_was_brought() {
        model(|| {
            let place = Arc::new(Place::default());
            let parcel = {
                let place = place.clone();
                thread::spawn(move || place.bring(&place.brought))
            };
            let question = {
                let place = place.clone();
                thread::spawn(move || place.bring(&place.asked))
            };
            let sleeps = place.sleep.begin(|| !place.is_empty());
            parcel.join().unwrap();
            question.join().unwrap();
            let woken = place.woken.load(Ordering::Relaxed);
            assert!(!sleeps || woken > 0, "asleep beside two things, and nobody wakes it");
            assert!(woken <= 2);
        });
    }

    #[test]
    fn of_several_bringers_one_wakes() {
        model(|| {
            let place = Arc::new(Place::default());
            assert!(place.sleep.begin(|| !place.is_empty()));
            let other = {
                let place = place.clone();
                thread::spawn(move || place.bring(&place.brought))
            };
            place.bring(&place.asked);
            other.join().unwrap();
            assert_eq!(place.woken.load(Ordering::Relaxed), 1);
        });
    }

    #[test]
    fn what_comes_after_waking_up_is_seen_at_the_next_sleep() {
        model(|| {
            let place = Arc::new(Place::default());
            let other = {
                let place = place.clone();
                thread::spawn(move || place.bring(&place.brought))
            };
            let mut sleeps = place.sleep.begin(|| !place.is_empty());
            if sleeps && place.woken.load(Ordering::Relaxed) == 0 {
                // Woken by something else, by a datagram say.
                place.sleep.end();
                sleeps = place.sleep.begin(|| !place.is_empty());
            }
            other.join().unwrap();
            assert!(!sleeps || place.woken.load(Ordering::Relaxed) > 0);
        });
    }
}
