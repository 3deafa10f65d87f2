//! The brake on mass silence: when half of the fleet falls silent at once, the likelier culprit is
//! our own network.
//!
//! ```text
//!             suspects ≥ share of the living, and ≥ least           hold time over
//!    off ─────────── when one would go down ──────▶ held ─────────────────────────▶ let down
//!     ▲                                              │ suspects < half of that         │
//!     ├──────────── released: heartbeats return ◀────┘                                 │
//!     └──────────────────── suspects < half of that ◀──────────────────────────────────┘
//! ```
//!
//! Suspicion comes before down, so when the first of a fleet that was cut off would go down, nearly
//! all of it is suspect already: the brake is on before anybody was called down. (Hence it has
//! nothing to go by when suspicion is turned off.) It is the idea of Eureka's self-preservation, and
//! of the zone brake of Kubernetes' node controller.
//!
//! One for the fleet and one for each group; all reactors share them. Peers whose silence is planned
//! (silenced, in maintenance) or, by the settings of their group, no sign of trouble count for none:
//! see [`Groups`](super::groups::Groups). Deliberately absent: any list
//! of whom it holds. Who is suspect while it is on is held, and a peer's deadline says so when it is
//! asked for.

use super::transition::PeerState;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// When a brake holds, and for how long.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct BrakeSettings {
    /// Share of the living that must be suspect, above 0 and at most 1; above 1 turns it off.
    pub share: f32,
    /// How many must be suspect at least.
    pub least: u32,
    /// For how long at most they are held, nanoseconds.
    pub hold_ns: u64,
}

impl BrakeSettings {
    /// Never holds.
    pub const OFF: BrakeSettings = BrakeSettings { share: 2.0, least: u32::MAX, hold_ns: 0 };
    /// Never holds either, but leaves a group's peers to the fleet's brake.
    pub(super) const UNSET: BrakeSettings = BrakeSettings { share: 1.0, ..BrakeSettings::OFF };
}

/// A scope in figures.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Peers that are up or suspect.
    pub living: u32,
    /// Those that are suspect.
    pub suspect: u32,
    /// Since when its brake is on, monotonic ns; 0 when it is not.
    pub held_since_ns: u64,
}

/// What became of the question whether to hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Held {
    /// Not that many are silent.
    No,
    /// This very question put it on.
    Now,
    /// It was on.
    Already,
}

/// One scope's brake.
pub(super) struct Brake {
    living: AtomicU32,
    suspect: AtomicU32,
    held_since_ns: AtomicU64,
    released_ns: AtomicU64,
    /// When the last hold that was not released ended.
    let_down_ns: AtomicU64,
    share_bits: AtomicU32,
    least: AtomicU32,
    hold_ns: AtomicU64,
}

impl Brake {
    pub(super) fn new(settings: BrakeSettings) -> Brake {
        Brake {
            living: AtomicU32::new(0),
            suspect: AtomicU32::new(0),
            held_since_ns: AtomicU64::new(0),
            released_ns: AtomicU64::new(0),
            let_down_ns: AtomicU64::new(0),
            share_bits: AtomicU32::new(settings.share.to_bits()),
            least: AtomicU32::new(settings.least),
            hold_ns: AtomicU64::new(settings.hold_ns),
        }
    }

    // Relaxed throughout: each word stands for itself. Two reactors may see each other's counts a
    // moment late; that moves the instant of braking by as much, and nothing else hangs on it.

    pub(super) fn set(&self, settings: BrakeSettings) {
        self.share_bits.store(settings.share.to_bits(), Ordering::Relaxed);
        self.least.store(settings.least, Ordering::Relaxed);
        self.hold_ns.store(settings.hold_ns, Ordering::Relaxed);
    }

    /// Whether an operator has turned it off.
    #[inline]
    pub(super) fn is_off(&self) -> bool {
        self.share() > 1.0
    }

    pub(super) fn census(&self) -> Census {
        Census {
            living: self.living.load(Ordering::Relaxed),
            suspect: self.suspect.load(Ordering::Relaxed),
            held_since_ns: self.held_since_ns.load(Ordering::Relaxed),
        }
    }

    #[inline]
    pub(super) fn released_ns(&self) -> u64 {
        self.released_ns.load(Ordering::Relaxed)
    }

    /// Until when it holds; `None` when it is off or its time is over.
    #[inline]
    pub(super) fn held_until_ns(&self, now_ns: u64) -> Option<u64> {
        let since_ns = self.held_since_ns.load(Ordering::Relaxed);
        if since_ns == 0 {
            return None;
        }
        let until_ns = since_ns.saturating_add(self.hold_ns.load(Ordering::Relaxed));
        (now_ns < until_ns).then_some(until_ns)
    }

    /// When a hold ended by its time being over, the last one or the one that has not been cleared
    /// away yet; 0 for never. Whose deadline lies before it had to wait for it.
    #[inline]
    pub(super) fn let_down_ns(&self, now_ns: u64) -> u64 {
        let since_ns = self.held_since_ns.load(Ordering::Relaxed);
        let until_ns = since_ns.saturating_add(self.hold_ns.load(Ordering::Relaxed));
        if since_ns != 0 && until_ns <= now_ns {
            return until_ns;
        }
        self.let_down_ns.load(Ordering::Relaxed)
    }

    /// Puts the brake on if so many are suspect that it must be us.
    pub(super) fn hold_if_many(&self, now_ns: u64) -> Held {
        if self.held_since_ns.load(Ordering::Relaxed) != 0 {
            return Held::Already;
        }
        let Census { living, suspect, .. } = self.census();
        let few = suspect < self.least.load(Ordering::Relaxed);
        if few || (suspect as f32) < self.share() * living as f32 {
            return Held::No;
        }
        let swap = self.held_since_ns.compare_exchange(
            0,
            now_ns.max(1),
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if swap.is_ok() { Held::Now } else { Held::Already }
    }

    /// Goes on with a hold that began then, before this process, also if it is over by now: nobody has
    /// been counted yet.
    pub(super) fn resume(&self, since_ns: u64) {
        self.held_since_ns.store(since_ns.max(1), Ordering::Relaxed);
    }

    /// Ends such a hold if too few are suspect for one.
    pub(super) fn settle(&self, now_ns: u64) {
        self.release_if_few(now_ns);
    }

    /// Counts a change of state. True when it releases the brake before its time because
    /// heartbeats return.
    pub(super) fn moved(&self, from: PeerState, to: PeerState, now_ns: u64) -> bool {
        let step = |word: &AtomicU32, before: bool, after: bool| match (before, after) {
            (false, true) => _ = word.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = word.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        };
        step(&self.living, from.is_alive(), to.is_alive());
        step(&self.suspect, from == PeerState::Suspect, to == PeerState::Suspect);
        from == PeerState::Suspect && self.release_if_few(now_ns)
    }

    fn release_if_few(&self, now_ns: u64) -> bool {
        let Census { living, suspect, held_since_ns } = self.census();
        if held_since_ns == 0 || !self.is_few(living, suspect) {
            return false;
        }
        let early = self.held_until_ns(now_ns).is_some();
        if early {
            self.released_ns.store(now_ns, Ordering::Relaxed);
        } else {
            self.let_down_ns.store(self.let_down_ns(now_ns), Ordering::Relaxed);
        }
        let swap = self.held_since_ns.compare_exchange(
            held_since_ns,
            0,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        early && swap.is_ok()
    }

    /// Fewer are suspect than half of what puts it on.
    fn is_few(&self, living: u32, suspect: u32) -> bool {
        let many = (self.least.load(Ordering::Relaxed) as f32).max(self.share() * living as f32);
        (suspect as f32) < many / 2.0
    }

    fn share(&self) -> f32 {
        f32::from_bits(self.share_bits.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PeerState::{Down, Suspect, Unknown, Up};

    const SETTINGS: BrakeSettings = BrakeSettings { share: 0.5, least: 4, hold_ns: 1_000 };

    fn brake(up: u32, suspect: u32) -> Brake {
        let brake = Brake::new(SETTINGS);
        (0..up + suspect).for_each(|_| _ = brake.moved(Unknown, Up, 1));
        (0..suspect).for_each(|_| _ = brake.moved(Up, Suspect, 1));
        brake
    }

    #[test]
    fn holds_from_the_share_and_the_least_on() {
        assert_eq!(brake(5, 5).hold_if_many(10), Held::Now);
        assert_eq!(brake(6, 5).hold_if_many(10), Held::No, "less than the share");
        assert_eq!(brake(0, 3).hold_if_many(10), Held::No, "fewer than the least");
        assert_eq!(brake(0, 4).hold_if_many(10), Held::Now);
        assert_eq!(Brake::new(BrakeSettings::OFF).hold_if_many(10), Held::No);
    }

    #[test]
    fn ends_when_its_time_is_over_and_then_lets_all_down() {
        let brake = brake(2, 8);
        assert_eq!(brake.hold_if_many(10), Held::Now);
        assert_eq!(brake.hold_if_many(11), Held::Already);
        assert_eq!(brake.held_until_ns(1_009), Some(1_010));
        assert_eq!(brake.held_until_ns(1_010), None);
        // Not held anew while they go down one by one, and nothing to tell when they have.
        for _ in 0..8 {
            assert_ne!(brake.hold_if_many(1_010), Held::Now);
            assert!(!brake.moved(Suspect, Down, 1_010));
        }
        assert_eq!(brake.census(), Census { living: 2, suspect: 0, held_since_ns: 0 });
        assert_eq!(brake.let_down_ns(2_000), 1_010, "the last ones waited for it, too");
        assert_eq!(brake.released_ns(), 0);
    }

    #[test]
    fn a_hold_of_before_ends_when_it_would_have() {
        let resumed = |up, suspect| {
            let brake = Brake::new(SETTINGS);
            brake.resume(10);
            (0..up + suspect).for_each(|_| _ = brake.moved(Unknown, Up, 400));
            (0..suspect).for_each(|_| _ = brake.moved(Up, Suspect, 400));
            brake
        };
        let many = resumed(2, 8);
        many.settle(500);
        assert_eq!((many.held_until_ns(500), many.hold_if_many(500)), (Some(1_010), Held::Already));
        // Over before anybody looked: not begun anew, and known to whoever waited for it.
        let over = resumed(2, 8);
        over.settle(5_000);
        assert_eq!(over.hold_if_many(5_000), Held::Already);
        assert_eq!((over.held_until_ns(5_000), over.let_down_ns(5_000)), (None, 1_010));
        // There is no reason for one any more.
        let few = resumed(8, 1);
        assert_eq!(few.held_until_ns(500), Some(1_010));
        few.settle(500);
        assert_eq!(few.held_until_ns(500), None);
    }

    #[test]
    fn is_released_once_when_heartbeats_return() {
        let brake = brake(0, 10);
        assert_eq!(brake.hold_if_many(10), Held::Now);
        let released: Vec<bool> = (0..10).map(|i| brake.moved(Suspect, Up, 100 + i)).collect();
        // Half of the share of ten is 2.5, of the least 2: released when two are left.
        let expected = [false, false, false, false, false, false, false, true, false, false];
        assert_eq!(released, expected);
        assert_eq!(brake.released_ns(), 107);
        assert_eq!(brake.held_until_ns(108), None);
    }
}
