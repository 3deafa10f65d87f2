//! Two senders under one id: a cloned machine, a copied configuration, a job started twice.
//!
//! The sender that was started later has the newer incarnation and is the one that is heard; the
//! older one's heartbeats are stale. A few stale ones are usual after a restart, held up on the way.
//! But a sender that was really replaced falls silent, and one that lives goes on counting: stale
//! heartbeats of one older incarnation whose sequence keeps rising for two intervals or more are a
//! second sender.
//!
//! Remembered in a small table of fixed size; a peer whose place another one takes is noticed later,
//! never wrongly.

/// Places in the table.
const PLACES: usize = 256;
/// Stale heartbeats with a rising sequence that it takes.
const HEARD: u32 = 4;
/// How long nothing is said of a peer again, nanoseconds.
const QUIET_NS: u64 = 600_000_000_000;

/// What was heard of an older incarnation.
#[derive(Clone, Copy, Default)]
struct Elder {
    /// The peer's slot and one more; 0 is a free place.
    slot: u32,
    incarnation: u32,
    sequence: u32,
    heard: u32,
    first_ns: u64,
    told_ns: u64,
}

/// The table.
pub(super) struct Conflicts(Box<[Elder; PLACES]>);

impl Default for Conflicts {
    fn default() -> Self {
        Conflicts(Box::new([Elder::default(); PLACES]))
    }
}

impl Conflicts {
    /// Takes a stale heartbeat of an older incarnation, of the peer in slot `index` with this interval.
    /// True when it proves a second sender, at most once in ten minutes for a peer.
    pub(super) fn stale(
        &mut self,
        index: u32,
        incarnation: u32,
        sequence: u32,
        interval_ns: u64,
        now_ns: u64,
    ) -> bool {
        let elder = &mut self.0[index as usize % PLACES];
        if (elder.slot, elder.incarnation) != (index + 1, incarnation) {
            let told_ns = if elder.slot == index + 1 { elder.told_ns } else { 0 };
            let slot = index + 1;
            *elder = Elder { slot, incarnation, sequence, heard: 1, first_ns: now_ns, told_ns };
            return false;
        }
        if (sequence.wrapping_sub(elder.sequence) as i32) <= 0 {
            return false;
        }
        elder.sequence = sequence;
        elder.heard = elder.heard.saturating_add(1);
        let lasting = now_ns.saturating_sub(elder.first_ns) >= interval_ns.saturating_mul(2);
        let told = elder.told_ns != 0 && now_ns.saturating_sub(elder.told_ns) < QUIET_NS;
        if elder.heard < HEARD || !lasting || told {
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
    fn who_loses_its_place_is_noticed_later_and_nobody_wrongly() {
        let mut conflicts = Conflicts::default();
        for i in 0..50u32 {
            let other = 5 + PLACES as u32;
            assert!(!conflicts.stale(5, 1, i, S, u64::from(i) * S));
            assert!(!conflicts.stale(other, 1, i, S, u64::from(i) * S));
        }
    }
}
