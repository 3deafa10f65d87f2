//! Groups of peers: which policy holds for them, which keys may speak for them, who their parents are, and the
//! brake on mass silence.
//!
//! ```text
//!   slot.group ──▶ Groups ─┬─ policy       how its deadlines are computed
//!                          ├─ keys         who may speak for its peers
//!                          ├─ census       how many are up or suspect, and its brake
//!   slot.parent ──────────▶└─ parents      number ─▶ peer id
//! ```
//!
//! Shared by all shards and the control plane, which gives the numbers out (names are its business).
//! Number 0 is "no group" and "no parent"; a peer whose group has not been told yet is counted there too,
//! but not judged by the keys of no group. Words are atomics that change seldom: a heartbeat reads
//! its group's policy number, one with a tag its key's bit, and nothing else of this.

use super::brake::{Brake, BrakeSettings, Census, Held};
use super::policy::Policy;
use super::transition::PeerState;
use super::way::NOBODY;
use crate::wire::{KeySet, PeerId};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

/// So many parents up it is asked who is down, or whose failure is to alarm nobody.
pub const MOST_FOREBEARS: u32 = 8;
/// Numbers that a group or a parent can have, 0 included.
// Under miri fewer: making them all anew takes most of the time of each test.
pub const MAX_GROUPS: usize = if cfg!(miri) { 1 << 6 } else { 1 << 14 };

/// The peers that something is said of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Serialize, Deserialize)]
pub enum Scope {
    /// All of them.
    Fleet,
    /// Those of a group, by its number.
    Group(u16),
}

/// What decides which brakes a peer counts for, and is held by.
///
/// For none if its silence is planned, and for none if the brake of its group is off: who says that
/// the failure of all of a group is a thing that happens says so of the fleet's share in it, too.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Standing {
    /// Its group, 0 for none.
    pub(super) group: u16,
    /// Whether it is silenced or in maintenance.
    pub(super) planned: bool,
}

/// What all shards share about groups. See the module.
pub struct Groups {
    policies: Box<[Policy]>,
    policy_of: Box<[AtomicU16]>,
    /// Which keys may speak for a group's peers, a bit for each.
    keys: Box<[[AtomicU64; 4]]>,
    /// Groups that were given a policy, the nameless one included.
    group_count: AtomicU32,
    fleet: Brake,
    groups: Box<[Brake]>,
    /// The id of each parent; the control plane alone writes.
    parents: Box<[AtomicU64]>,
    parent_count: AtomicU32,
    /// When any brake was last released because heartbeats returned, monotonic ns; 0 for never.
    last_release_ns: AtomicU64,
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
            keys: (0..MAX_GROUPS).map(|_| KeySet::ALL.0.map(AtomicU64::new)).collect(),
            group_count: AtomicU32::new(1),
            fleet: Brake::new(brake),
            groups: (0..MAX_GROUPS).map(|_| Brake::new(BrakeSettings::UNSET)).collect(),
            parents: (0..MAX_GROUPS).map(|_| AtomicU64::new(0)).collect(),
            parent_count: AtomicU32::new(1),
            last_release_ns: AtomicU64::new(0),
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

    /// Lets these keys speak for a group's peers, and no others; all may until then. Before it has any.
    pub fn set_keys(&self, group: u16, keys: KeySet) {
        for (word, bits) in self.keys[group as usize].iter().zip(keys.0) {
            // Relaxed: a key is asked for by itself, and that it was changed may be seen a little later.
            word.store(bits, Ordering::Relaxed);
        }
    }

    /// Whether a heartbeat by this key may speak for a group's peers, 0 for those of none; by no key, 0, as
    /// far as this goes. For a peer whose group has not been told yet, `None`, too.
    #[inline]
    pub fn admits(&self, group: Option<u16>, key_id: u8) -> bool {
        let Some(group) = group.filter(|_| key_id != 0) else { return true };
        let (word, bit) = KeySet::place(key_id);
        // Relaxed: as in `set_keys`.
        self.keys[group as usize][word].load(Ordering::Relaxed) & bit != 0
    }

    /// Gives a group a brake of its own, beside the fleet's; or, with [`BrakeSettings::OFF`], takes its
    /// peers out of the fleet's as well. Before it has any: they are counted by it.
    pub fn set_brake(&self, group: u16, settings: BrakeSettings) {
        self.groups[group as usize].set(settings);
    }

    /// How many peers are up or suspect, and since when they are held.
    pub fn census(&self, scope: Scope) -> Census {
        self.brake(scope).census()
    }

    /// Goes on with a hold that an earlier process began then, before anybody is judged; it may be over.
    pub fn resume_hold(&self, scope: Scope, since_ns: u64) {
        self.brake(scope).resume(since_ns);
    }

    /// Ends such a hold if too few are suspect for one, when all peers have been counted.
    pub fn settle_hold(&self, scope: Scope, now_ns: u64) {
        self.brake(scope).settle(now_ns);
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

    /// The brakes that a peer counts for.
    #[inline]
    fn brakes(&self, standing: Standing) -> impl Iterator<Item = (Scope, &Brake)> {
        let Standing { group, planned } = standing;
        let own = (group != 0).then(|| (Scope::Group(group), self.brake(Scope::Group(group))));
        let none = planned || own.is_some_and(|(_, brake)| brake.is_off());
        let all = [Some((Scope::Fleet, &self.fleet)), own];
        all.into_iter().flatten().filter(move |_| !none)
    }

    /// Whether no brake bears on such a peer.
    pub(super) fn exempts(&self, standing: Standing) -> bool {
        self.brakes(standing).next().is_none()
    }

    /// A peer went from one state to another. Whatever brake that releases, because heartbeats
    /// return, is told to `released`.
    pub(super) fn moved(
        &self,
        standing: Standing,
        from: PeerState,
        to: PeerState,
        now_ns: u64,
        mut released: impl FnMut(Scope, Census),
    ) {
        for (scope, brake) in self.brakes(standing) {
            if self.count(brake, from, to, now_ns) {
                released(scope, brake.census());
            }
        }
    }

    /// A brake's peer went from one state to another. Whether that releases it.
    fn count(&self, brake: &Brake, from: PeerState, to: PeerState, now_ns: u64) -> bool {
        let released = brake.moved(from, to, now_ns);
        if released {
            // Relaxed: whoever reads the time before would have asked before, too.
            self.last_release_ns.fetch_max(now_ns, Ordering::Relaxed);
        }
        released
    }

    /// A peer in this state counts for other brakes than before: its group or whether its silence is
    /// planned has changed. `released` as in [`moved`](Self::moved).
    pub(super) fn recounted(
        &self,
        before: Standing,
        after: Standing,
        state: PeerState,
        now_ns: u64,
        mut released: impl FnMut(Scope, Census),
    ) {
        let counts = |standing, scope| self.brakes(standing).any(|(other, _)| other == scope);
        for (_, brake) in self.brakes(after).filter(|(scope, _)| !counts(before, *scope)) {
            self.count(brake, PeerState::Unknown, state, now_ns);
        }
        for (scope, brake) in self.brakes(before).filter(|(scope, _)| !counts(after, *scope)) {
            if self.count(brake, state, PeerState::Unknown, now_ns) {
                released(scope, brake.census());
            }
        }
    }

    /// Until when a suspect peer is held so; `None` when no brake is on.
    #[inline]
    pub(super) fn held_until_ns(&self, standing: Standing, now_ns: u64) -> Option<u64> {
        self.brakes(standing).filter_map(|(_, brake)| brake.held_until_ns(now_ns)).max()
    }

    /// When a brake that a peer counts for was last released because heartbeats returned; 0 for never.
    #[inline]
    pub(super) fn released_ns(&self, standing: Standing) -> u64 {
        self.brakes(standing).map(|(_, brake)| brake.released_ns()).max().unwrap_or(0)
    }

    /// When any brake was last released because heartbeats returned; 0 for never.
    #[inline]
    pub(super) fn last_release_ns(&self) -> u64 {
        self.last_release_ns.load(Ordering::Relaxed)
    }

    /// When the last hold on such a peer ended because its time was over; 0 for never.
    pub(super) fn let_down_ns(&self, standing: Standing, now_ns: u64) -> u64 {
        self.brakes(standing).map(|(_, brake)| brake.let_down_ns(now_ns)).max().unwrap_or(0)
    }

    /// Asked before a suspect peer is called down: puts the brakes on if too many are silent.
    /// Whichever this very call puts on is told to `held`.
    pub(super) fn brake_if_many(
        &self,
        standing: Standing,
        now_ns: u64,
        mut held: impl FnMut(Scope, Census),
    ) {
        for (scope, brake) in self.brakes(standing) {
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

    /// Who counts for the fleet, for group 3, and for group 4, whose brake is off.
    #[test]
    fn a_peer_counts_where_it_stands_and_nowhere_else() {
        let groups = Groups::uniform(Policy::default());
        groups.set_brake(4, BrakeSettings::OFF);
        let at = |group, planned| Standing { group, planned };
        let stands = [
            (at(0, false), [1, 0, 0]),
            (at(3, false), [1, 1, 0]),
            (at(4, false), [0, 0, 0]),
            (at(3, true), [0, 0, 0]),
            (at(0, true), [0, 0, 0]),
        ];
        let counted = || {
            let scopes = [Scope::Fleet, Scope::Group(3), Scope::Group(4)];
            scopes.map(|scope| (groups.census(scope).living, groups.census(scope).suspect))
        };
        for (before, is_before) in stands {
            for (after, is_after) in stands {
                groups.moved(before, PeerState::Unknown, PeerState::Suspect, 1, |_, _| {});
                assert_eq!(counted(), is_before.map(|n| (n, n)), "{before:?}");
                groups.recounted(before, after, PeerState::Suspect, 2, |_, _| {});
                assert_eq!(counted(), is_after.map(|n| (n, n)), "{before:?} to {after:?}");
                groups.moved(after, PeerState::Suspect, PeerState::Down, 3, |_, _| {});
                assert_eq!(counted(), [(0, 0); 3], "{after:?}");
            }
        }
    }
}
