//! Which names are beaten by two senders or more: since when, by which incarnations, until when.
//!
//! The engine says what it sees, now and then as long as it sees it. Here that becomes one thing with
//! a beginning and an end. It outlives the process, whose successor sees the same anew and finds that
//! it is known.

use crate::engine::conflict::quiet_ns;
use crate::wire::PeerId;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Most at one time; of further ones nothing is told until there is room.
pub const MOST_CONFLICTS: usize = 65_536;
/// Most incarnations of one that are remembered, the latest.
const MOST_INCARNATIONS: usize = 8;
/// How often it is looked who has been quiet for long enough, nanoseconds.
const LOOK_NS: u64 = 1_000_000_000;

/// A longer time between two looks is one in which nobody looked, nanoseconds.
const UNSEEN_NS: u64 = 10_000_000_000;

/// Two senders or more under one id. Times are monotonic nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Conflict {
    /// When it was recognised.
    pub began_ns: u64,
    /// When it was seen last.
    pub seen_ns: u64,
    /// The incarnation that was heard last, and the others; one stands twice if it has two senders.
    pub incarnations: Vec<u32>,
    quiet_ns: u64,
}

/// A conflict began or ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change {
    /// Whose.
    pub peer: PeerId,
    /// It began; else it ended, nothing having been seen of it for long.
    pub began: bool,
    /// When.
    pub at_ns: u64,
    /// When it began.
    pub began_ns: u64,
    /// When it was seen last.
    pub seen_ns: u64,
    /// The incarnation that is heard, and the one that beats on beside it, the same or an older.
    pub incarnations: [u32; 2],
}

/// All that there are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Conflicts {
    peers: BTreeMap<PeerId, Conflict>,
    #[serde(skip)]
    looked_ns: u64,
    #[serde(skip)]
    untold: u64,
}

impl Conflicts {
    /// Goes on with what was kept, whose times are moved by so much, nanoseconds.
    pub fn resume(mut self, by_ns: i64) -> Conflicts {
        for conflict in self.peers.values_mut() {
            conflict.began_ns = conflict.began_ns.saturating_add_signed(by_ns);
            conflict.seen_ns = conflict.seen_ns.saturating_add_signed(by_ns);
        }
        self
    }

    /// Nobody looked for so long, nanoseconds: that it was quiet then means nothing.
    pub fn skip(&mut self, unseen_ns: u64) {
        for conflict in self.peers.values_mut() {
            conflict.seen_ns = conflict.seen_ns.saturating_add(unseen_ns);
        }
    }

    /// Takes what the engine sees; returns it if it is news. `interval_ns` is the peer's.
    pub fn see(
        &mut self,
        peer: PeerId,
        at_ns: u64,
        incarnations: [u32; 2],
        interval_ns: u64,
    ) -> Option<Change> {
        let quiet_ns = quiet_ns(interval_ns);
        if let Some(conflict) = self.peers.get_mut(&peer) {
            conflict.seen_ns = conflict.seen_ns.max(at_ns);
            conflict.quiet_ns = quiet_ns;
            conflict.add(incarnations);
            return None;
        }
        if self.peers.len() >= MOST_CONFLICTS {
            self.untold += 1;
            return None;
        }
        let (began_ns, seen_ns) = (at_ns, at_ns);
        let all = incarnations.to_vec();
        self.peers.insert(peer, Conflict { began_ns, seen_ns, incarnations: all, quiet_ns });
        Some(Change { peer, began: true, at_ns, began_ns, seen_ns, incarnations })
    }

    /// A peer was forgotten; returns whether that ends a conflict.
    pub fn forget(&mut self, peer: PeerId, at_ns: u64) -> Option<Change> {
        self.peers.remove(&peer).map(|conflict| conflict.ended(peer, at_ns))
    }

    /// Those that have ended.
    pub fn advance(&mut self, now_ns: u64) -> Vec<Change> {
        let passed_ns = now_ns.saturating_sub(self.looked_ns);
        if passed_ns < LOOK_NS {
            return Vec::new();
        }
        if self.looked_ns > 0 && passed_ns > UNSEEN_NS {
            self.skip(passed_ns);
        }
        self.looked_ns = now_ns;
        let mut ended = Vec::new();
        self.peers.retain(|&peer, conflict| {
            let goes_on = now_ns.saturating_sub(conflict.seen_ns) < conflict.quiet_ns;
            if !goes_on {
                ended.push(conflict.ended(peer, now_ns));
            }
            goes_on
        });
        ended
    }

    /// That of a peer.
    pub fn of(&self, peer: PeerId) -> Option<&Conflict> {
        self.peers.get(&peer)
    }

    /// All, by the peers' ids.
    pub fn all(&self) -> impl ExactSizeIterator<Item = (PeerId, &Conflict)> {
        self.peers.iter().map(|(peer, conflict)| (*peer, conflict))
    }

    /// Findings of peers that found no room.
    pub fn untold(&self) -> u64 {
        self.untold
    }
}

impl Conflict {
    fn ended(&self, peer: PeerId, at_ns: u64) -> Change {
        let Conflict { began_ns, seen_ns, .. } = *self;
        let heard = self.incarnations.first().copied().unwrap_or_default();
        let incarnations = [heard, self.incarnations.get(1).copied().unwrap_or(heard)];
        Change { peer, began: false, at_ns, began_ns, seen_ns, incarnations }
    }

    /// Puts the incarnation that is heard in front, and the other behind the rest if it is new.
    fn add(&mut self, [heard, other]: [u32; 2]) {
        let all = &mut self.incarnations;
        let twice = heard == other || all.iter().filter(|&&one| one == heard).count() > 1;
        all.retain(|one| *one != heard);
        all.splice(0..0, std::iter::repeat_n(heard, if twice { 2 } else { 1 }));
        if !all.contains(&other) {
            all.push(other);
        }
        if all.len() > MOST_INCARNATIONS {
            // The last one before the newcomer makes room: nothing says which is gone.
            all.remove(MOST_INCARNATIONS - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::ops::Range;

    const S: u64 = 1_000_000_000;
    const PEER: PeerId = PeerId(7);

    /// What ends while it is looked every second.
    fn look(conflicts: &mut Conflicts, times_ns: Range<u64>) -> Vec<Change> {
        times_ns.step_by(S as usize).flat_map(|now_ns| conflicts.advance(now_ns)).collect()
    }

    #[test]
    fn it_begins_once_goes_on_and_ends_once() {
        let mut conflicts = Conflicts::default();
        let began = conflicts.see(PEER, 5 * S, [9, 7], S);
        let first = Change {
            peer: PEER,
            began: true,
            at_ns: 5 * S,
            began_ns: 5 * S,
            seen_ns: 5 * S,
            incarnations: [9, 7],
        };
        assert_eq!(began, Some(first));
        for i in 1..100 {
            assert_eq!(conflicts.see(PEER, (5 + i * 30) * S, [9, 7], S), None);
            assert_eq!(look(&mut conflicts, (5 + i * 30) * S..(35 + i * 30) * S), []);
        }
        let seen_ns = (5 + 99 * 30) * S;
        assert_eq!(look(&mut conflicts, seen_ns + 30 * S..seen_ns + 120 * S), []);
        let at_ns = seen_ns + 120 * S;
        let last = Change { began: false, at_ns, seen_ns, ..first };
        assert_eq!(look(&mut conflicts, at_ns..at_ns + 999 * S), [last]);
        assert!(conflicts.see(PEER, at_ns + 1_000 * S, [9, 7], S).is_some(), "another one");
    }

    #[test]
    fn who_is_forgotten_has_none_any_more() {
        let mut conflicts = Conflicts::default();
        conflicts.see(PEER, 5 * S, [9, 7], S);
        let ended = conflicts.forget(PEER, 6 * S).unwrap();
        assert_eq!((ended.began, ended.at_ns, ended.seen_ns), (false, 6 * S, 5 * S));
        assert_eq!((conflicts.forget(PEER, 7 * S), conflicts.all().len()), (None, 0));
    }

    #[test]
    fn a_slow_peer_gets_as_much_time_as_its_interval_asks_for() {
        let mut conflicts = Conflicts::default();
        conflicts.see(PEER, S, [9, 7], 3_600 * S);
        assert_eq!(look(&mut conflicts, S..32 * 3_600 * S), []);
        assert_eq!(look(&mut conflicts, 32 * 3_600 * S..33 * 3_600 * S).len(), 1);
    }

    #[test]
    fn time_in_which_nobody_looked_does_not_end_it() {
        for skipped in [true, false] {
            let mut conflicts = Conflicts::default();
            conflicts.see(PEER, S, [9, 7], S);
            let kept = serde_json::to_string(&conflicts).unwrap();
            let mut next: Conflicts = serde_json::from_str(&kept).unwrap();
            next = next.resume(100 * S as i64);
            assert_eq!(next.of(PEER).unwrap().began_ns, 101 * S);
            if skipped {
                next.skip(1_000 * S);
            }
            assert_eq!(next.advance(1_102 * S).is_empty(), skipped);
            assert_eq!(next.see(PEER, 1_103 * S, [9, 7], S).is_none(), skipped);
            // Stopped in the middle, it notices by itself.
            assert_eq!(next.advance(9_999 * S), []);
            assert_eq!(look(&mut next, 10_000 * S..10_200 * S).len(), 1);
        }
    }

    #[test]
    fn the_incarnations_are_all_that_were_seen_the_heard_one_first() {
        let mut conflicts = Conflicts::default();
        let mut see = |incarnations| {
            conflicts.see(PEER, S, incarnations, S);
            conflicts.of(PEER).unwrap().incarnations.clone()
        };
        assert_eq!(see([5, 5]), [5, 5]);
        assert_eq!(see([6, 5]), [6, 5, 5]);
        assert_eq!(see([6, 4]), [6, 5, 5, 4]);
        assert_eq!(see([6, 6]), [6, 6, 5, 5, 4]);
        assert_eq!(see([6, 4]), [6, 6, 5, 5, 4]);
        for i in 10..30 {
            assert!(see([6, i]).len() <= MOST_INCARNATIONS);
        }
        assert_eq!(see([6, 30]), [6, 6, 5, 5, 4, 10, 11, 30]);
    }

    #[test]
    fn beyond_the_bound_nothing_is_told_until_there_is_room() {
        let mut conflicts = Conflicts::default();
        for id in 0..=MOST_CONFLICTS as u64 {
            let told = conflicts.see(PeerId(id), S, [9, 7], S).is_some();
            assert_eq!(told, id < MOST_CONFLICTS as u64);
        }
        assert_eq!((conflicts.all().len(), conflicts.untold()), (MOST_CONFLICTS, 1));
        conflicts.advance(1_000 * S);
        assert!(conflicts.see(PeerId(MOST_CONFLICTS as u64), 1_000 * S, [9, 7], S).is_some());
    }
}
