//! One reactor's peers: takes heartbeats, fires deadlines, says who changed.
//!
//! Two verbs: *take this batch, the time is `now`* ([`Shard::observe`]) and *advance to `now`*
//! ([`Shard::advance`]); and one question: *when have you something to do next?*
//! ([`Shard::next_deadline_ns`]). No clock, no socket, no thread, no allocation.
//!
//! **Lazy.** A heartbeat touches its slot and nothing else. When a peer's timer fires, its real
//! deadline is computed from the slot: moved on, and the timer goes back; passed, and the peer
//! changes its state.
//!
//! **Nothing is lost for want of room.** When the outlet is full, a change of state stays *pending*
//! in the slot with its timer armed at once, and is made when there is room. So a mass expiry is
//! bounded by how fast somebody listens, never by memory, and nothing has to be queued here.
//!
//! Absent on purpose: names, groups and addresses (the control plane knows those), and any notion
//! of time but the `now` that comes in.

use super::admission::{Admission, Source};
use super::brake::Census;
use super::conflict::Conflicts;
use super::detector::Arrivals;
use super::groups::{Groups, Scope, Standing};
use super::notice::Notice;
use super::peers::{Peers, Verdict};
use super::sight::{Extensions, Sight};
use super::slot::SlotData;
use super::table::{Table, TableView, Tag};
use super::transition::{PeerState, Reason, Transition};
use super::way::{self, Relays, Way, named};
use super::wheel::{Timers, Wheel};
use super::{Budget, StateCounts};
use crate::metrics::{Counter, Counters, HistogramKind, Histograms};
use crate::wire::{Heartbeat, PeerId};
use std::sync::Arc;

/// Where a shard's findings go; the whole outside world, as the engine sees it.
pub trait Outlet {
    /// Whether there is room for one more transition.
    fn has_room(&self) -> bool;
    /// Takes a transition. Called only when there is room.
    fn transition(&mut self, transition: Transition);
    /// The heartbeat at this place of the batch brought a profile that differs from the one last
    /// taken. False when it cannot be taken now; it will be offered again with the next one.
    fn profile(&mut self, place: usize, beat: &Heartbeat) -> bool;
    /// Takes a finding that is no transition. May leave it out when there is no room; what it tells
    /// of can be asked for as well ([`Groups::census`], the counters).
    fn notice(&mut self, notice: Notice);
    /// Where the heartbeat at this place of the batch came from, if that is known.
    fn source(&self, _place: usize) -> Source {
        0
    }
    /// Which way the heartbeat at this place of the batch came.
    #[inline]
    fn way(&self, _place: usize) -> Way {
        Way::Unsaid
    }
}

/// Most heartbeats that [`Shard::observe`] looks up ahead of applying them.
pub const BATCH: usize = 64;

/// A deadline is near when it is no further ahead than this; longer than any wake-up takes.
const NEAR_NS: u64 = 1_000_000;
/// Most timers that [`Shard::next_deadline_ns`] asks; more than are near when nobody is silent.
const NEAR_VISITS: u32 = 64;

/// One reactor's peers. See the module.
pub struct Shard {
    peers: Peers,
    wheel: Wheel,
    conflicts: Conflicts,
    admission: Admission,
    relays: Relays,
    /// Number of the last transition.
    report_no: u32,
    shared: Surroundings,
}

/// What a shard shares with others.
#[derive(Clone)]
pub struct Surroundings {
    /// Policies, parents and brakes.
    pub groups: Arc<Groups>,
    /// The tables of all shards, its own among them, by [`steer`](crate::wire::steer): a parent may
    /// be anywhere. Empty where nobody has a parent.
    pub views: Arc<[TableView]>,
    /// How many peers there may be in all.
    pub budget: Arc<Budget>,
    /// Its peers by state.
    pub states: Arc<StateCounts>,
    /// What it counts.
    pub counters: Arc<Counters>,
    /// What it measures.
    pub histograms: Arc<Histograms>,
}

/// Why a peer changes its state, to which, and the deadline that passed (0 when none did).
#[derive(Clone, Copy)]
struct Cause {
    reason: Reason,
    to: PeerState,
    deadline_ns: u64,
    extended_ns: u64,
    extended_by: Extensions,
}

impl Cause {
    /// A cause without a deadline, to the state that such a reason always leads to.
    fn of(reason: Reason) -> Cause {
        let to = match reason {
            Reason::FirstBeat | Reason::Beat | Reason::Restart => PeerState::Up,
            Reason::Bye => PeerState::Left,
            Reason::Expired | Reason::Removed => PeerState::Forgotten,
            Reason::Silence => PeerState::Suspect,
            Reason::Parent => PeerState::Unreachable,
        };
        Cause { reason, to, deadline_ns: 0, extended_ns: 0, extended_by: Extensions::NONE }
    }

    /// A deadline that passed.
    fn passed(verdict: &Verdict, to: PeerState) -> Cause {
        let reason = match to {
            PeerState::Forgotten => Reason::Expired,
            PeerState::Unreachable => Reason::Parent,
            _ => Reason::Silence,
        };
        Cause {
            reason,
            to,
            deadline_ns: verdict.deadline_ns,
            extended_ns: verdict.extended_ns,
            extended_by: verdict.why,
        }
    }
}

/// Stands for the digest of a profile that came once and is no longer known; no digest is like it.
const PROFILE_LOST: u32 = u32::MAX;

impl Shard {
    /// An empty shard at `now_ns` that keeps its peers in `table`, as many as the table holds and
    /// the budget that it shares with the other shards allows.
    pub fn new(table: Table, shared: Surroundings, now_ns: u64) -> Shard {
        let (groups, views) = (shared.groups.clone(), shared.views.clone());
        let wheel = Wheel::new(now_ns / 1_000, table.capacity());
        let conflicts = Conflicts::new(table.capacity());
        Shard {
            peers: Peers {
                table,
                groups,
                views,
                sight: Sight::default(),
                horizon_ns: now_ns,
                exempted_ns: 0,
            },
            wheel,
            conflicts,
            admission: Admission::default(),
            relays: Relays::default(),
            report_no: 0,
            shared,
        }
    }

    /// Applies heartbeats that arrived by `now_ns`.
    ///
    /// In three passes over up to [`BATCH`] of them, so that the cache misses of many peers overlap:
    /// ask for the index lines, look where the slots are and ask for those, apply.
    pub fn observe(&mut self, beats: &[Heartbeat], now_ns: u64, outlet: &mut impl Outlet) {
        for (chunk_no, chunk) in beats.chunks(BATCH).enumerate() {
            let table = &self.peers.table;
            let mut tags = [Tag::default(); BATCH];
            for (beat, tag) in chunk.iter().zip(&mut tags) {
                *tag = table.prefetch(beat.peer);
            }
            let mut guesses = [0; BATCH];
            for (tag, guess) in tags[..chunk.len()].iter().zip(&mut guesses) {
                *guess = table.guess(*tag);
                table.prefetch_slot(*guess);
            }
            let mut usual = 0;
            for (i, (beat, guess)) in chunk.iter().zip(guesses).enumerate() {
                let place = chunk_no * BATCH + i;
                let way = outlet.way(place);
                if self.heard_as_usual(guess, beat, way, now_ns) {
                    usual += 1;
                    continue;
                }
                let Some(index) = self.peers.table.confirm(beat.peer, guess) else {
                    self.newcomer(place, beat, now_ns, outlet);
                    continue;
                };
                // What is refused must not bring an old name back either.
                if self.heard(index, beat, way, now_ns, outlet) && beat.profile_digest != 0 {
                    self.introduce(place, beat, outlet);
                }
            }
            self.shared.counters.add(Counter::Heartbeats, usual);
        }
    }

    /// Fires what was due at `horizon_ns`, at most `limit` timers and as long as the outlet has
    /// room. True when something due is left: call again.
    ///
    /// Everything that arrived before `horizon_ns` must have been observed; `now_ns`, not before it,
    /// only stamps the transitions.
    pub fn advance(
        &mut self,
        horizon_ns: u64,
        now_ns: u64,
        limit: usize,
        outlet: &mut impl Outlet,
    ) -> bool {
        self.peers.horizon_ns = self.peers.horizon_ns.max(horizon_ns);
        for _ in 0..limit {
            if !outlet.has_room() {
                return true;
            }
            match self.wheel.pop(&self.peers, horizon_ns / 1_000) {
                Some(index) => self.fire(index, now_ns, outlet),
                None => return false,
            }
        }
        true
    }

    /// Spare-time work, at most so many visits: takes those that have beaten out of the way of
    /// the next cascade, so that it is short when its time comes. Only when nothing is due.
    // A symbol of its own, for `tools/instructions` to count.
    #[inline(never)]
    pub fn weed(&mut self, now_ns: u64, visits: u32) {
        let due = self.wheel.pop(&self.peers, now_ns / 1_000);
        debug_assert!(due.is_none(), "asked only when nothing is due");
        self.wheel.weed(&self.peers, visits);
    }

    /// When [`advance`](Self::advance) has something to do next, monotonic ns: the earliest deadline
    /// if that is near, else a time before it at which to ask again.
    pub fn next_deadline_ns(&mut self, now_ns: u64) -> Option<u64> {
        let until_us = (now_ns + NEAR_NS) / 1_000;
        let next_us = self.wheel.next_exact_us(&self.peers, until_us, NEAR_VISITS);
        next_us.map(|tick| tick.saturating_mul(1_000))
    }

    /// Removes a peer as an operator asks. False when it is not here.
    pub fn remove(&mut self, peer: PeerId, now_ns: u64, outlet: &mut impl Outlet) -> bool {
        let Some(index) = self.peers.table.find(peer) else { return false };
        self.change(index, Cause::of(Reason::Removed), now_ns, outlet);
        true
    }

    /// Takes a peer's profile for lost, so that its next HELLO is passed on. That there was one is kept:
    /// a peer that has introduced itself is claimed by nobody else's HELLO.
    pub fn ask_for_name(&mut self, peer: PeerId) {
        if let Some(index) = self.peers.table.find(peer) {
            let slot = self.peers.table.slot(index);
            if slot.profile_digest() != 0 {
                slot.write().set_profile_digest(PROFILE_LOST);
            }
        }
    }

    /// The way of heartbeats that a relay brings, as a datagram by this key says. One that is a peer and has no
    /// number among the parents yet is reported, so that it is given one; until then the way is not said, nor
    /// by a key that may not speak for the relay.
    pub fn way_through(&mut self, relay: PeerId, key_id: u8, outlet: &mut impl Outlet) -> Way {
        let groups = &self.shared.groups;
        let record = || way::record_of(&self.shared.views, relay);
        let may_speak = |relay: SlotData| groups.admits(relay.told_group(), key_id);
        if key_id != 0 && !record().is_some_and(may_speak) {
            return Way::Unsaid;
        }
        if let Some(number) = self.relays.get(relay) {
            return Way::Relay(number);
        }
        match self.shared.groups.number_of_parent(relay) {
            Some(number) => {
                self.relays.learn(relay, number);
                Way::Relay(number)
            }
            None => {
                if record().is_some() {
                    outlet.notice(Notice::Relay { relay });
                }
                Way::Unsaid
            }
        }
    }

    /// Puts a peer into a group, and names its parent, by their numbers in [`Groups`]; 0 leaves it the
    /// parent that was learnt, [`NOBODY`](way::NOBODY) none. Nothing when it is not here.
    pub fn assign(&mut self, peer: PeerId, group: u16, parent: u32, now_ns: u64) {
        self.place(peer, Some(group), parent, now_ns);
    }

    /// Takes a peer out of its group until it is told which one is its own, or because that has no number:
    /// it is treated as one of none, but no key is kept from speaking for it. The parent as in
    /// [`assign`](Self::assign).
    pub fn unassign(&mut self, peer: PeerId, parent: u32, now_ns: u64) {
        self.place(peer, None, parent, now_ns);
    }

    fn place(&mut self, peer: PeerId, told: Option<u16>, parent: u32, now_ns: u64) {
        let Some(index) = self.peers.table.find(peer) else { return };
        let slot = self.peers.table.slot(index);
        let (before, group) = (slot.standing(), told.unwrap_or(0));
        if (slot.told_group(), named(slot.parent())) == (told, parent) {
            return;
        }
        let was_named = named(slot.parent()) != 0;
        let parent = if parent == 0 && !was_named { slot.parent() } else { parent };
        let groups = &self.shared.groups;
        let (was, is) = (groups.policy(before.group), groups.policy(group));
        // What is learnt is measured by the interval.
        let stated_us = slot.interval_us();
        let same_interval = was.interval_us(stated_us) == is.interval_us(stated_us);
        let learns_anew = was.detector != is.detector || !same_interval;
        {
            let mut write = slot.write();
            write.set_group(group, told.is_some());
            write.set_parent(parent);
            if parent == 0 {
                // The next beat through a relay says again whose child it is.
                write.set_way(0);
            }
            if learns_anew {
                write.set_arrivals(&Arrivals::NONE);
            }
        }
        self.recounted(index, before, now_ns, |_, _| {});
        self.arm(index);
    }

    /// Notes that an operator has silenced a peer, or has ceased to. Nothing when it is not here.
    pub fn silence(&mut self, peer: PeerId, silenced: bool, now_ns: u64, outlet: &mut impl Outlet) {
        let Some(index) = self.peers.table.find(peer) else { return };
        let slot = self.peers.table.slot(index);
        if slot.silenced() == silenced {
            return;
        }
        let before = slot.standing();
        slot.write().set_silenced(silenced);
        self.recounted(index, before, now_ns, |scope, census| {
            outlet.notice(mass_silence(scope, false, now_ns, census));
        });
        self.arm(index);
    }

    /// Counts a peer anew whose standing was another one. Whoever was held and is exempt now gets its
    /// verdict.
    fn recounted(
        &mut self,
        index: u32,
        before: Standing,
        now_ns: u64,
        released: impl FnMut(Scope, Census),
    ) {
        let groups = &self.shared.groups;
        let slot = self.peers.table.slot(index);
        let (after, state) = (slot.standing(), slot.state());
        let held = groups.held_until_ns(before, self.peers.horizon_ns).is_some();
        if held && state == PeerState::Suspect && groups.exempts(after) {
            self.peers.exempted_ns = now_ns;
        }
        groups.recounted(before, after, state, now_ns, released);
    }

    /// When we did not see or hear all.
    pub fn sight(&self) -> &Sight {
        &self.peers.sight
    }

    /// What is observed from now on was queued while we did not look: a detector learns nothing from it,
    /// nor from how long behind it the next heartbeat comes.
    pub fn catch_up(&mut self) {
        self.peers.sight.catch_up();
    }

    /// All that was queued meanwhile has been observed by `now_ns`.
    pub fn caught_up(&mut self, now_ns: u64) {
        self.peers.sight.caught_up(now_ns);
    }

    /// We did not look between these times; all that was queued by `to_ns` has been observed, with a
    /// later date. To be told before anything is judged.
    pub fn blind(&mut self, from_ns: u64, to_ns: u64, outlet: &mut impl Outlet) {
        self.peers.sight.blind(from_ns, to_ns);
        self.shared.counters.add(Counter::Stalls, 1);
        self.shared.counters.add(Counter::BlindNs, to_ns.saturating_sub(from_ns));
        outlet.notice(Notice::Blind { from_ns, to_ns, deaf: false });
    }

    /// Heartbeats, nobody knows whose, were lost between these times. To be told before anything is
    /// judged.
    pub fn deaf(&mut self, from_ns: u64, to_ns: u64, outlet: &mut impl Outlet) {
        self.peers.sight.deaf(from_ns, to_ns);
        self.shared.counters.add(Counter::DeafNs, to_ns.saturating_sub(from_ns));
        outlet.notice(Notice::Blind { from_ns, to_ns, deaf: true });
    }

    /// Who is let in.
    pub fn admission(&mut self) -> &mut Admission {
        &mut self.admission
    }

    /// The peers, for their owner.
    pub fn table(&self) -> &Table {
        &self.peers.table
    }

    /// A peer's timer fired and its deadline has passed: make the change that is due.
    fn fire(&mut self, index: u32, now_ns: u64, outlet: &mut impl Outlet) {
        let slot = self.peers.table.slot(index);
        if let Some(reason) = slot.pending() {
            return self.change(index, Cause::of(reason), now_ns, outlet);
        }
        let mut verdict = self.peers.verdict(slot);
        if verdict.to == Some(PeerState::Down) && !self.peers.was_held(slot, &verdict) {
            let held = |scope, census: Census| {
                outlet.notice(mass_silence(scope, true, now_ns, census));
                self.shared.counters.add(Counter::MassSilences, 1);
            };
            self.shared.groups.brake_if_many(slot.standing(), self.peers.horizon_ns, held);
            verdict = self.peers.verdict(slot);
        }
        match verdict.to {
            Some(to) => self.change(index, Cause::passed(&verdict, to), now_ns, outlet),
            None => self.arm(index),
        }
    }

    /// Makes a change of state and says so; or leaves it pending when there is no room to say so.
    /// Re-arms the timer in any case.
    fn change(&mut self, index: u32, cause: Cause, now_ns: u64, outlet: &mut impl Outlet) {
        let slot = self.peers.table.slot(index);
        if slot.pending() == Some(Reason::FirstBeat) && cause.reason != Reason::FirstBeat {
            // Nobody was told of it yet, so there is nothing to tell now that it goes.
            self.moved(slot.standing(), slot.state(), PeerState::Forgotten, now_ns, outlet);
            return self.discard(index);
        }
        // Whatever happens to a peer whose removal is pending, it goes.
        let removed = slot.pending() == Some(Reason::Removed);
        let cause = if removed { Cause::of(Reason::Removed) } else { cause };
        if !outlet.has_room() {
            // Silence is never put off: `advance` asks for room before it takes a timer out.
            slot.write().set_pending(Some(cause.reason));
            self.shared.counters.add(Counter::ReportsDeferred, 1);
            return self.arm(index);
        }
        let data = slot.data();
        let first = cause.reason == Reason::FirstBeat;
        let from = if first { PeerState::Unknown } else { data.state };
        let to = cause.to;
        self.report_no = self.report_no.wrapping_add(1);
        outlet.transition(Transition {
            peer: data.peer,
            from,
            to,
            reason: cause.reason,
            status: data.status,
            index,
            fired_ns: now_ns,
            last_seen_ns: data.last_seen_ns,
            deadline_ns: cause.deadline_ns,
            incarnation: data.incarnation,
            last_sequence: data.last_sequence,
            gaps: data.gaps as u64,
            in_from_ns: if first { 0 } else { now_ns.saturating_sub(data.since_ns) },
            group: data.group,
            extended_ns: cause.extended_ns,
            extended_by: cause.extended_by,
            report_no: self.report_no,
        });
        // Who waited for its parent was asked again now and then, at no exact time.
        if cause.reason == Reason::Silence && !cause.extended_by.has(Extensions::PARENT) {
            let lateness_ns = now_ns.saturating_sub(cause.deadline_ns);
            self.shared.histograms.of(HistogramKind::Lateness).record(lateness_ns);
            if to == PeerState::Down {
                let silent_ns = now_ns.saturating_sub(data.last_seen_ns);
                self.shared.histograms.of(HistogramKind::DetectionTime).record(silent_ns);
            }
        }
        if cause.extended_ns > 0 && cause.reason == Reason::Silence {
            self.shared.counters.add(Counter::Extended, 1);
        }
        if !first {
            self.moved(slot.standing(), from, to, now_ns, outlet);
        }
        if to == PeerState::Forgotten {
            return self.discard(index);
        }
        let mut write = self.peers.table.slot(index).write();
        write.set_state(to);
        write.set_since_ns(now_ns);
        if to.is_alive() && !from.is_alive() {
            write.set_alive_since_ns(now_ns);
        }
        write.set_pending(None);
        write.set_report_no(self.report_no);
        drop(write);
        self.arm(index);
    }

    /// Counts a peer's change of state, and says so if it releases a brake.
    fn moved(
        &mut self,
        standing: Standing,
        from: PeerState,
        to: PeerState,
        now_ns: u64,
        outlet: &mut impl Outlet,
    ) {
        self.shared.states.moved(from, to);
        self.shared.groups.moved(standing, from, to, now_ns, |scope, census| {
            outlet.notice(mass_silence(scope, false, now_ns, census));
        });
    }

    /// Frees a peer's slot.
    fn discard(&mut self, index: u32) {
        self.wheel.disarm(index);
        self.peers.table.remove(index);
        self.shared.budget.give_back();
    }

    /// Arms a peer's timer for its deadline, wherever it was armed before.
    fn arm(&mut self, index: u32) {
        self.wheel.arm(index, self.peers.deadline_us(index));
    }
}

fn mass_silence(scope: Scope, held: bool, at_ns: u64, census: Census) -> Notice {
    Notice::MassSilence { scope, held, at_ns, silent: census.suspect, living: census.living }
}

mod hear;
mod resume;

#[cfg(test)]
mod conflicts;
#[cfg(test)]
mod families;
#[cfg(test)]
mod forgery;
#[cfg(test)]
mod guards;
#[cfg(test)]
mod held;
#[cfg(test)]
mod learning;
#[cfg(test)]
mod parents;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod usual;
