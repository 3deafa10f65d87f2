//! Groups of peers: which policy holds for them, who their parents are, and the brake on mass silence.
//!
//! ```text
//!   slot.group ──▶ Groups ─┬─ policy       how its deadlines are computed
//!                          ├─ census       how many are up or suspect, and its brake
//!   slot.parent ──────────▶└─ parents      number ─▶ peer id
//! ```
//!
//! Shared by all shards and the control plane, which gives the numbers out (names are its business).
//! Number 0 is "no group" and "no parent". Words are atomics that change seldom: a heartbeat reads
//! its group's policy number and nothing else of this.

use super::brake::{Brake, BrakeSettings, Census, Held};
use super::policy::Policy;
use super::transition::PeerState;
use super::way::NOBODY;
use crate::wire::PeerId;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// Numbers that a group or a parent can have, 0 included.
pub const MAX_GROUPS: usize = 1 << 14;

/// The peers that something is said of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// All of them.
    Fleet,
    /// Those of a group, by its number.
    Group(u16),
}

/// What all shards share about groups. See the module.
pub struct Groups {
    policies: Box<[Policy]>,
    policy_of: Box<[AtomicU16]>,
    /// Groups that were given a policy, the nameless one included.
    group_count: AtomicU32,
    fleet: Brake,
    groups: Box<[Brake]>,
    /// The id of each parent; the control plane alone writes.
    parents: Box<[AtomicU64]>,
    parent_count: AtomicU32,
}

impl Groups {
    /// Groups that follow the first of `policies` until they are told otherwise, and the fleet's
    /// brake; a group has none of its own until [`set_brake`](Self::set_brake).
    ///
    /// # Panics
    /// When there is no policy, or there are more than 16,384.
    pub fn new(policies: Vec<Policy>, brake: BrakeSettings) -> Groups {
        assert!((1..=MAX_GROUPS).contains(&policies.len()), "1 to {MAX_GROUPS} policies");
        Groups {
            policies: policies.into(),
            policy_of: (0..MAX_GROUPS).map(|_| AtomicU16::new(0)).collect(),
            group_count: AtomicU32::new(1),
            fleet: Brake::new(brake),
            groups: (0..MAX_GROUPS).map(|_| Brake::new(BrakeSettings::OFF)).collect(),
            parents: (0..MAX_GROUPS).map(|_| AtomicU64::new(0)).collect(),
            parent_count: AtomicU32::new(1),
        }
    }

    /// One policy for everybody and no brake, for tests and tools.
    pub fn uniform(policy: Policy) -> Groups {
        Groups::new(vec![policy], BrakeSettings::OFF)
    }

    /// The policy that holds for a group's peers.
    #[inline]
    pub fn policy(&self, group: u16) -> &Policy {
        // Relaxed: the policies themselves never change.
        let number = self.policy_of[group as usize].load(Ordering::Relaxed);
        &self.policies[number as usize]
    }

    /// Lets the policy with this place in the list given to [`new`](Self::new) hold for a group.
    ///
    /// # Panics
    /// When there is no such policy.
    pub fn set_policy(&self, group: u16, policy: u16) {
        assert!((policy as usize) < self.policies.len(), "there is no policy {policy}");
        // Relaxed: as in `policy`.
        self.policy_of[group as usize].store(policy, Ordering::Relaxed);
        self.group_count.fetch_max(u32::from(group) + 1, Ordering::Relaxed);
    }

    /// Gives a group a brake of its own, beside the fleet's.
    pub fn set_brake(&self, group: u16, settings: BrakeSettings) {
        self.groups[group as usize].set(settings);
    }

    /// How many peers are up or suspect, and since when they are held.
    pub fn census(&self, scope: Scope) -> Census {
        self.brake(scope).census()
    }

    /// The number of a parent, the same for the same peer; `None` when 16,383 are known already.
    /// The control plane's only: one thread.
    pub fn parent_number(&self, peer: PeerId) -> Option<u32> {
        // Relaxed: only this thread writes.
        let count = self.parent_count.load(Ordering::Relaxed);
        let known = &self.parents[1..count as usize];
        if let Some(at) = known.iter().position(|id| id.load(Ordering::Relaxed) == peer.0) {
            return Some(at as u32 + 1);
        }
        // Relaxed: the number reaches a shard through the command ring, which orders this before.
        self.parents.get(count as usize)?.store(peer.0, Ordering::Relaxed);
        // Release: partner of the Acquire in `number_of_parent`.
        self.parent_count.store(count + 1, Ordering::Release);
        Some(count)
    }

    /// The number of a peer among the parents, if it was given one; for any thread.
    pub(super) fn number_of_parent(&self, peer: PeerId) -> Option<u16> {
        // Acquire: partner of the Release in `parent_number`; the ids below the count are there.
        let count = self.parent_count.load(Ordering::Acquire);
        let known = &self.parents[1..count as usize];
        // Relaxed: an id is written once, before the count that covers it.
        let at = known.iter().position(|id| id.load(Ordering::Relaxed) == peer.0)?;
        Some(at as u16 + 1)
    }

    /// The parent with this number; `None` for 0, and for one that was never given out.
    #[inline]
    pub fn parent(&self, number: u32) -> Option<PeerId> {
        // Relaxed: see `parent_number`.
        let id = self.parents.get(number as usize)?.load(Ordering::Relaxed);
        (id != 0).then_some(PeerId(id))
    }

    /// Whether both numbers have been given out, so that what a slot of an earlier process says of
    /// them can mean something.
    pub fn knows(&self, group: u16, parent: u32) -> bool {
        // Relaxed: asked before anybody else is at work.
        u32::from(group) < self.group_count.load(Ordering::Relaxed)
            && (parent == NOBODY || parent < self.parent_count.load(Ordering::Relaxed))
    }

    fn brake(&self, scope: Scope) -> &Brake {
        match scope {
            Scope::Fleet => &self.fleet,
            Scope::Group(group) => &self.groups[group as usize],
        }
    }

    /// The brakes that bear on a group's peers.
    fn brakes(&self, group: u16) -> impl Iterator<Item = (Scope, &Brake)> {
        let own = (group != 0).then_some(Scope::Group(group));
        [Some(Scope::Fleet), own].into_iter().flatten().map(|scope| (scope, self.brake(scope)))
    }

    /// A peer of this group went from one state to another. Whatever brake that releases, because
    /// heartbeats return, is told to `released`.
    pub(super) fn moved(
        &self,
        group: u16,
        from: PeerState,
        to: PeerState,
        now_ns: u64,
        mut released: impl FnMut(Scope, Census),
    ) {
        for (scope, brake) in self.brakes(group) {
            if brake.moved(from, to, now_ns) {
                released(scope, brake.census());
            }
        }
    }

    /// A peer in this state changed its group.
    pub(super) fn regrouped(&self, from: u16, to: u16, state: PeerState, now_ns: u64) {
        for (group, before, after) in
            [(from, state, PeerState::Unknown), (to, PeerState::Unknown, state)]
        {
            if group != 0 {
                self.groups[group as usize].moved(before, after, now_ns);
            }
        }
    }

    /// Until when the peers of a group that are suspect are held so; `None` when no brake is on.
    #[inline]
    pub(super) fn held_until_ns(&self, group: u16, now_ns: u64) -> Option<u64> {
        self.brakes(group).filter_map(|(_, brake)| brake.held_until_ns(now_ns)).max()
    }

    /// When a brake on this group was last released because heartbeats returned; 0 for never.
    #[inline]
    pub(super) fn released_ns(&self, group: u16) -> u64 {
        self.brakes(group).map(|(_, brake)| brake.released_ns()).max().unwrap_or(0)
    }

    /// When the last hold on this group ended because its time was over; 0 for never.
    pub(super) fn let_down_ns(&self, group: u16, now_ns: u64) -> u64 {
        self.brakes(group).map(|(_, brake)| brake.let_down_ns(now_ns)).max().unwrap_or(0)
    }

    /// Asked before a suspect peer of this group is called down: puts the brakes on if too many are
    /// silent. Whichever this very call puts on is told to `held`.
    pub(super) fn brake_if_many(
        &self,
        group: u16,
        now_ns: u64,
        mut held: impl FnMut(Scope, Census),
    ) {
        for (scope, brake) in self.brakes(group) {
            if brake.hold_if_many(now_ns) == Held::Now {
                held(scope, brake.census());
            }
        }
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Groups").field("policies", &self.policies).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_has_one_number_and_zero_is_none() {
        let groups = Groups::uniform(Policy::default());
        let first = groups.parent_number(PeerId(7)).unwrap();
        let second = groups.parent_number(PeerId(9)).unwrap();
        assert_ne!(first, second);
        assert_eq!(groups.parent_number(PeerId(7)), Some(first));
        assert_eq!(groups.parent(first), Some(PeerId(7)));
        assert_eq!(groups.parent(0), None);
        assert_eq!(groups.parent(second + 1), None);
        assert_eq!(groups.parent(u32::MAX), None);
    }

    #[test]
    fn parents_are_bounded() {
        let groups = Groups::uniform(Policy::default());
        // One look through all of them for each would take minutes here.
        groups.parent_count.store(MAX_GROUPS as u32, Ordering::Relaxed);
        assert_eq!(groups.parent_number(PeerId(1)), None);
    }

    #[test]
    fn a_change_of_group_takes_the_peer_out_of_one_census_into_the_other() {
        let groups = Groups::uniform(Policy::default());
        groups.moved(3, PeerState::Unknown, PeerState::Up, 1, |_, _| {});
        groups.regrouped(3, 4, PeerState::Up, 2);
        let living = |scope| groups.census(scope).living;
        assert_eq!(living(Scope::Group(3)), 0);
        assert_eq!(living(Scope::Group(4)), 1);
        assert_eq!(living(Scope::Fleet), 1);
        groups.regrouped(4, 0, PeerState::Up, 3);
        assert_eq!((living(Scope::Group(4)), living(Scope::Fleet)), (0, 1));
    }
}
