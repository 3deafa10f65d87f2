//! Two senders under one id: a cloned machine, a copied configuration, a job started twice.
//!
//! The sender that was started later has the newer incarnation and is the one that is heard; the
//! older one's heartbeats are stale. A few stale ones are usual after a restart, held up on the way.
//! But a sender that was really replaced falls silent, and one that lives goes on counting: stale
//! heartbeats of one older incarnation whose sequence keeps rising for two intervals or more are a
//! second sender.
//!
//! Of several older ones one is followed, until it falls silent. Remembered in a table of fixed size, so
//! peers may share a place: one has it until it is told or gives no more evidence, and then the next,
//! so that nobody waits for longer than those take that it shares with. Nothing is ever told wrongly.
//!
//! Not seen: two senders of one incarnation (a machine cloned while it ran, two starts within the same
//! tenth of a second). They are known by duplicate and late heartbeats alone.

/// Places in the table.
const PLACES: usize = 4_096;
/// Stale heartbeats with a rising sequence that it takes.
const HEARD: u32 = 4;
/// How long nothing is said of a peer again, nanoseconds.
const QUIET_NS: u64 = 600_000_000_000;
/// Intervals without evidence after which another elder, or another peer, has the place.
const PATIENCE: u64 = 4;
/// Intervals after which it has it in any case.
const TURN: u64 = 16;

/// What was heard of an older incarnation.
#[derive(Clone, Copy, Default)]
struct Elder {
    /// The peer's slot and one more; 0 is a free place.
    slot: u32,
    incarnation: u32,
    sequence: u32,
    heard: u32,
    first_ns: u64,
    last_ns: u64,
    interval_ns: u64,
    told_ns: u64,
}

impl Elder {
    /// It was told a short while ago.
    fn is_told(&self, now_ns: u64) -> bool {
        self.told_ns != 0 && now_ns.saturating_sub(self.told_ns) < QUIET_NS
    }

    /// It may yet give evidence, and nothing else may have its place.
    fn is_followed(&self, now_ns: u64) -> bool {
        let within = |then_ns: u64, intervals: u64| {
            now_ns.saturating_sub(then_ns) < self.interval_ns.saturating_mul(intervals)
        };
        self.slot != 0 && within(self.last_ns, PATIENCE) && within(self.first_ns, TURN)
    }
}

/// The table.
pub(super) struct Conflicts(Box<[Elder]>);

impl Default for Conflicts {
    fn default() -> Self {
        Conflicts(vec![Elder::default(); PLACES].into())
    }
}

impl Conflicts {
    /// Takes a stale heartbeat of an older incarnation, of the peer in slot `index` with this interval.
    /// True when it proves a second sender. Said of a peer at most once in ten minutes, unless
    /// another one had its place meanwhile: the control plane drops what it has told.
    pub(super) fn stale(
        &mut self,
        index: u32,
        incarnation: u32,
        sequence: u32,
        interval_ns: u64,
        now_ns: u64,
    ) -> bool {
        let elder = &mut self.0[index as usize % PLACES];
        let (is_own, slot) = (elder.slot == index + 1, index + 1);
        if !is_own || elder.incarnation != incarnation {
            // Who was told has had its turn; its other elders are no news either.
            let stays = elder.is_followed(now_ns) && (is_own || !elder.is_told(now_ns));
            if !stays {
                let told_ns = if is_own { elder.told_ns } else { 0 };
                let (first_ns, last_ns, heard) = (now_ns, now_ns, 1);
                *elder = Elder {
                    slot,
                    incarnation,
                    sequence,
                    heard,
                    first_ns,
                    last_ns,
                    interval_ns,
                    told_ns,
                };
            }
            return false;
        }
        if (sequence.wrapping_sub(elder.sequence) as i32) <= 0 {
            return false;
        }
        (elder.sequence, elder.last_ns) = (sequence, now_ns);
        elder.heard = elder.heard.saturating_add(1);
        let lasting = now_ns.saturating_sub(elder.first_ns) >= interval_ns.saturating_mul(2);
        if elder.heard < HEARD || !lasting || elder.is_told(now_ns) {
            return false;
        }
        elder.told_ns = now_ns.max(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn an_elder_that_beats_on_is_told_once() {
        let mut conflicts = Conflicts::default();
        let told: Vec<u64> =
            (1..20).filter(|&i| conflicts.stale(5, 1, 100 + i as u32, S, i * S)).collect();
        assert_eq!(told, [4]);
        assert!(conflicts.stale(5, 1, 1_000, S, 700 * S), "and again when it goes on for long");
    }

    #[test]
    fn stragglers_of_a_restart_are_none() {
        let mut conflicts = Conflicts::default();
        for i in 0..50 {
            // All within a second, however many.
            assert!(!conflicts.stale(5, 1, 100 + i, S, S + u64::from(i)));
        }
    }

    #[test]
    fn a_replay_of_the_same_heartbeats_is_none() {
        let mut conflicts = Conflicts::default();
        for i in 0..50 {
            assert!(!conflicts.stale(5, 1, 100 + i % 3, S, u64::from(i) * S));
        }
    }

    #[test]
    fn of_several_elders_by_turns_one_is_found_out() {
        for elders in 2..6u32 {
            let mut conflicts = Conflicts::default();
            let mut told = Vec::new();
            for i in 0..40u32 {
                let now_ns = u64::from(i) * S;
                for elder in 1..=elders {
                    if conflicts.stale(5, elder, 100 * elder + i, S, now_ns + u64::from(elder)) {
                        told.push((i, elder));
                    }
                }
            }
            assert_eq!(told, [(3, 1)], "{elders} elders");
        }
    }

    #[test]
    fn an_elder_that_falls_silent_makes_way_for_another() {
        let mut conflicts = Conflicts::default();
        conflicts.stale(5, 1, 100, S, S);
        let told = |i: &u64| conflicts.stale(5, 2, *i as u32, S, i * S);
        assert_eq!((2..40).filter(told).collect::<Vec<_>>(), [8]);
    }

    #[test]
    fn all_that_share_a_place_are_told_in_turn() {
        let mut conflicts = Conflicts::default();
        let peers = 8u32;
        let mut told = std::collections::BTreeSet::new();
        for i in 0..200u32 {
            for peer in 0..peers {
                // Each has another place among the others from one second to the next.
                let peer = (peer + i) % peers;
                let now_ns = u64::from(i) * S + u64::from(peer);
                if conflicts.stale(5 + peer * PLACES as u32, 1, i, S, now_ns) {
                    told.insert(peer);
                }
            }
        }
        assert_eq!(told.len(), peers as usize);
    }

    #[test]
    fn one_that_proves_nothing_does_not_keep_others_from_its_place_for_ever() {
        let mut conflicts = Conflicts::default();
        let mut told = Vec::new();
        for i in 0..60u64 {
            // Always the same heartbeat, and an honest second sender.
            assert!(!conflicts.stale(5, 1, 7, S, i * S));
            if conflicts.stale(5 + PLACES as u32, 1, i as u32, S, i * S + 1) {
                told.push(i);
            }
        }
        // Told again after the other had its turn; the control plane drops that.
        assert_eq!(told[0], 7, "{told:?}");
    }
}
