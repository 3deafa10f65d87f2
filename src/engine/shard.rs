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

use super::sequence::{Order, Position};
use super::slot::{Slot, SlotData, SlotWriter};
use super::table::{Table, Tag};
use super::timing::Timing;
use super::transition::{PeerState, Reason, Transition};
use super::wheel::{Link, Timers, UNARMED, Wheel};
use super::{Budget, StateCounts};
use crate::metrics::{Counter, Counters, HistogramKind, Histograms};
use crate::wire::{Heartbeat, Kind, PeerId};
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
    budget: Arc<Budget>,
    states: Arc<StateCounts>,
    counters: Arc<Counters>,
    histograms: Arc<Histograms>,
}

/// The slots and the rule for their deadlines: what the wheel asks about its timers.
struct Peers {
    table: Table,
    timing: Timing,
}

impl Peers {
    /// When a peer's state has to change if nothing more is heard, monotonic ns.
    fn deadline_ns(&self, index: u32) -> u64 {
        let slot = self.table.slot(index);
        if slot.pending().is_some() {
            return 0;
        }
        let timing = &self.timing;
        match slot.state() {
            PeerState::Up => {
                slot.last_seen_ns().saturating_add(timing.suspect_ns(slot.interval_us()))
            }
            PeerState::Suspect => {
                slot.last_seen_ns().saturating_add(timing.timeout_ns(slot.interval_us()))
            }
            PeerState::Down => slot.since_ns().saturating_add(timing.forget_down_ns),
            PeerState::Left => slot.since_ns().saturating_add(timing.forget_left_ns),
            PeerState::Unknown | PeerState::Forgotten => unreachable!("a free slot has no timer"),
        }
    }
}

/// Why a peer changes its state, to which, and the deadline that passed (0 when none did).
#[derive(Clone, Copy)]
struct Cause {
    reason: Reason,
    to: PeerState,
    deadline_ns: u64,
}

impl Cause {
    /// A cause without a deadline, to the state that such a reason always leads to.
    fn of(reason: Reason) -> Cause {
        let to = match reason {
            Reason::FirstBeat | Reason::Beat | Reason::Restart => PeerState::Up,
            Reason::Bye => PeerState::Left,
            Reason::Expired | Reason::Removed => PeerState::Forgotten,
            Reason::Silence => PeerState::Suspect,
        };
        Cause { reason, to, deadline_ns: 0 }
    }
}

/// Where a slot's sequence stands.
fn position(slot: &Slot) -> Position {
    Position { incarnation: slot.incarnation(), last: slot.last_sequence(), seen: slot.seen_mask() }
}

fn set_position(write: &mut SlotWriter<'_>, position: Position) {
    write.set_incarnation(position.incarnation);
    write.set_last_sequence(position.last);
    write.set_seen_mask(position.seen);
}

/// The first tick that is not before a time: a timer never fires early.
fn tick_us(time_ns: u64) -> u64 {
    time_ns.div_ceil(1_000)
}

impl Timers for Peers {
    fn link(&self, index: u32) -> Link {
        self.table.link(index)
    }

    fn set_link(&mut self, index: u32, link: Link) {
        self.table.set_link(index, link);
    }

    fn deadline_us(&self, index: u32) -> u64 {
        tick_us(self.deadline_ns(index))
    }
}

impl Shard {
    /// An empty shard at `now_ns` that keeps its peers in `table`, as many as the table holds and
    /// the `budget` that it shares with the other shards allows.
    pub fn new(
        table: Table,
        timing: Timing,
        now_ns: u64,
        budget: Arc<Budget>,
        states: Arc<StateCounts>,
        counters: Arc<Counters>,
        histograms: Arc<Histograms>,
    ) -> Shard {
        let wheel = Wheel::new(now_ns / 1_000);
        Shard { peers: Peers { table, timing }, wheel, budget, states, counters, histograms }
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
            for (i, (beat, guess)) in chunk.iter().zip(guesses).enumerate() {
                let place = chunk_no * BATCH + i;
                let Some(index) = self.peers.table.confirm(beat.peer, guess) else {
                    self.newcomer(place, beat, now_ns, outlet);
                    continue;
                };
                self.heard(index, beat, now_ns, outlet);
                if beat.profile_digest != 0 {
                    self.introduce(place, beat, outlet);
                }
            }
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
        for _ in 0..limit {
            if !outlet.has_room() {
                return true;
            }
            match self.wheel.pop(&mut self.peers, horizon_ns / 1_000) {
                Some(index) => self.fire(index, horizon_ns, now_ns, outlet),
                None => return false,
            }
        }
        true
    }

    /// Spare-time work, at most so many visits: takes those that have beaten out of the way of
    /// the next cascade, so that it is short when its time comes. Only when nothing is due.
    pub fn weed(&mut self, now_ns: u64, visits: u32) {
        let due = self.wheel.pop(&mut self.peers, now_ns / 1_000);
        debug_assert!(due.is_none(), "asked only when nothing is due");
        self.wheel.weed(&mut self.peers, visits);
    }

    /// When [`advance`](Self::advance) has something to do next, monotonic ns: the earliest deadline
    /// if that is near, else a time before it at which to ask again.
    pub fn next_deadline_ns(&mut self, now_ns: u64) -> Option<u64> {
        let until_us = (now_ns + NEAR_NS) / 1_000;
        let next_us = self.wheel.next_exact_us(&mut self.peers, until_us, NEAR_VISITS);
        next_us.map(|tick| tick.saturating_mul(1_000))
    }

    /// Removes a peer as an operator asks. False when it is not here.
    pub fn remove(&mut self, peer: PeerId, now_ns: u64, outlet: &mut impl Outlet) -> bool {
        let Some(index) = self.peers.table.find(peer) else { return false };
        self.change(index, Cause::of(Reason::Removed), now_ns, outlet);
        true
    }

    /// The peers, for their owner.
    pub fn table(&self) -> &Table {
        &self.peers.table
    }

    /// A heartbeat of a peer that has a slot.
    fn heard(&mut self, index: u32, beat: &Heartbeat, now_ns: u64, outlet: &mut impl Outlet) {
        let slot = self.peers.table.slot(index);
        let arrived_ns = now_ns.saturating_sub(beat.age_us as u64 * 1_000);
        let mut order = Order::Newer { missing: 0 };
        let mut position = position(slot);
        if beat.sequenced {
            if slot.sequenced() {
                order = position.take(beat.incarnation, beat.sequence);
            } else {
                position = Position::start(beat.incarnation, beat.sequence);
            }
        }
        let missing = match order {
            Order::Newer { missing } => missing,
            Order::Restart => 0,
            refused => return self.refuse(index, position, refused),
        };

        let heartbeats = slot.heartbeats().wrapping_add(1);
        let last_seen_ns = slot.last_seen_ns();
        if heartbeats.is_multiple_of(16) && order == (Order::Newer { missing: 0 }) {
            let interval_ns = self.peers.timing.interval_us(slot.interval_us()) * 1_000;
            let deviation = arrived_ns.saturating_sub(last_seen_ns).abs_diff(interval_ns);
            self.histograms.of(HistogramKind::Deviation).record(deviation);
        }
        let interval_changed = beat.interval_us != slot.interval_us();
        let state = slot.state();
        {
            let mut write = slot.write();
            write.set_last_seen_ns(last_seen_ns.max(arrived_ns));
            write.set_sent_ns(beat.sent_ns);
            write.set_heartbeats(heartbeats);
            write.set_status(beat.status);
            if beat.sequenced {
                write.set_sequenced(true);
                set_position(&mut write, position);
            }
            if interval_changed {
                write.set_interval_us(beat.interval_us);
            }
            if beat.key_id != slot.key_id() {
                write.set_key_id(beat.key_id);
            }
            if missing > 0 {
                write.set_gaps(slot.gaps().saturating_add(missing));
            }
            if order == Order::Restart {
                write.set_restarts(slot.restarts().saturating_add(1));
            }
        }
        self.counters.add(Counter::Heartbeats, 1);
        if missing > 0 {
            self.counters.add(Counter::Gaps, missing as u64);
        }
        if order == Order::Restart {
            self.counters.add(Counter::Restarts, 1);
        }
        if state == PeerState::Up && beat.kind == Kind::Beat && slot.pending().is_none() {
            // A shorter interval brings the deadline nearer than the timer; a longer one is found
            // out when the timer fires.
            if interval_changed {
                self.arm(index);
            }
            return;
        }
        self.heard_out_of_turn(index, beat.kind, order, now_ns, outlet);
    }

    /// The rare rest of [`heard`](Self::heard): the heartbeat changes the peer's state.
    #[cold]
    fn heard_out_of_turn(
        &mut self,
        index: u32,
        kind: Kind,
        order: Order,
        now_ns: u64,
        outlet: &mut impl Outlet,
    ) {
        let slot = self.peers.table.slot(index);
        if kind == Kind::Bye {
            if slot.state() != PeerState::Left {
                self.change(index, Cause::of(Reason::Bye), now_ns, outlet);
            }
            return;
        }
        // Held so long by a relay that its own timeout has passed: evidence, but no sign of life.
        let timeout_ns = self.peers.timing.timeout_ns(slot.interval_us());
        let too_old = slot.last_seen_ns().saturating_add(timeout_ns) <= now_ns;
        if slot.state() == PeerState::Down && too_old {
            return;
        }
        match slot.pending() {
            // Not yet announced: it stays the first beat that it is.
            Some(Reason::FirstBeat) => {}
            _ if slot.state() == PeerState::Up => {
                // A pending BYE or removal of a peer that beats again after all.
                if slot.pending() == Some(Reason::Bye) {
                    slot.write().set_pending(None);
                }
                self.arm(index);
            }
            _ => {
                let reason = if order == Order::Restart { Reason::Restart } else { Reason::Beat };
                self.change(index, Cause::of(reason), now_ns, outlet);
            }
        }
    }

    /// A heartbeat that proves nothing: counted, and the slot otherwise left as it is.
    #[cold]
    fn refuse(&mut self, index: u32, position: Position, order: Order) {
        let slot = self.peers.table.slot(index);
        let mut write = slot.write();
        let counter = match order {
            Order::Duplicate => {
                write.set_duplicates(slot.duplicates().saturating_add(1));
                Counter::Duplicate
            }
            Order::Late => {
                write.set_reordered(slot.reordered().saturating_add(1));
                // It was counted as missing when a later one came.
                write.set_gaps(slot.gaps().saturating_sub(1));
                set_position(&mut write, position);
                Counter::Reordered
            }
            _ => {
                write.set_stale(slot.stale().saturating_add(1));
                Counter::Stale
            }
        };
        drop(write);
        self.counters.add(counter, 1);
    }

    /// A heartbeat, at this place of its batch, of a peer that has no slot.
    #[cold]
    fn newcomer(&mut self, place: usize, beat: &Heartbeat, now_ns: u64, outlet: &mut impl Outlet) {
        if beat.kind == Kind::Bye {
            self.counters.add(Counter::ByeUnknown, 1);
            return;
        }
        let arrived_ns = now_ns.saturating_sub(beat.age_us as u64 * 1_000);
        let data = SlotData {
            peer: beat.peer,
            state: PeerState::Up,
            pending: None,
            status: beat.status,
            sequenced: beat.sequenced,
            key_id: beat.key_id,
            profile_digest: 0,
            last_seen_ns: arrived_ns,
            since_ns: now_ns,
            first_seen_ns: arrived_ns,
            interval_us: beat.interval_us,
            sent_ns: beat.sent_ns,
            incarnation: beat.incarnation,
            last_sequence: beat.sequence,
            seen_mask: u32::MAX,
            heartbeats: 1,
            gaps: 0,
            duplicates: 0,
            reordered: 0,
            restarts: 0,
            stale: 0,
        };
        let index = match self.budget.take().then(|| self.peers.table.insert(data)) {
            Some(Ok(index)) => index,
            refused => {
                if refused.is_some() {
                    self.budget.give_back();
                }
                self.counters.add(Counter::TableFull, 1);
                return;
            }
        };
        self.counters.add(Counter::Heartbeats, 1);
        self.states.moved(PeerState::Unknown, PeerState::Up);
        if beat.profile_digest != 0 {
            // First its name, so that its first transition can be told by it.
            self.introduce(place, beat, outlet);
        }
        self.change(index, Cause::of(Reason::FirstBeat), now_ns, outlet);
    }

    /// Offers a new profile to the outlet, and remembers it if it was taken.
    fn introduce(&mut self, place: usize, beat: &Heartbeat, outlet: &mut impl Outlet) {
        let Some(index) = self.peers.table.find(beat.peer) else { return };
        let slot = self.peers.table.slot(index);
        if slot.profile_digest() == beat.profile_digest {
            return;
        }
        if outlet.profile(place, beat) {
            slot.write().set_profile_digest(beat.profile_digest);
        } else {
            self.counters.add(Counter::ProfilesDeferred, 1);
        }
    }

    /// A peer's timer fired and its deadline has passed: make the change that is due.
    fn fire(&mut self, index: u32, horizon_ns: u64, now_ns: u64, outlet: &mut impl Outlet) {
        let slot = self.peers.table.slot(index);
        let cause = if let Some(reason) = slot.pending() {
            Cause::of(reason)
        } else {
            let deadline_ns = self.peers.deadline_ns(index);
            match slot.state() {
                PeerState::Up | PeerState::Suspect => {
                    let timeout_ns = self.peers.timing.timeout_ns(slot.interval_us());
                    let down_ns = slot.last_seen_ns().saturating_add(timeout_ns);
                    if down_ns <= horizon_ns {
                        Cause { reason: Reason::Silence, to: PeerState::Down, deadline_ns: down_ns }
                    } else {
                        Cause { reason: Reason::Silence, to: PeerState::Suspect, deadline_ns }
                    }
                }
                _ => Cause { deadline_ns, ..Cause::of(Reason::Expired) },
            }
        };
        self.change(index, cause, now_ns, outlet);
    }

    /// Makes a change of state and says so; or leaves it pending when there is no room to say so.
    /// Re-arms the timer in any case.
    fn change(&mut self, index: u32, cause: Cause, now_ns: u64, outlet: &mut impl Outlet) {
        let slot = self.peers.table.slot(index);
        if slot.pending() == Some(Reason::FirstBeat) && cause.reason != Reason::FirstBeat {
            // Nobody was told of it yet, so there is nothing to tell now that it goes.
            self.states.moved(slot.state(), PeerState::Forgotten);
            return self.discard(index);
        }
        if !outlet.has_room() {
            // Silence is never put off: `advance` asks for room before it takes a timer out.
            slot.write().set_pending(Some(cause.reason));
            self.counters.add(Counter::ReportsDeferred, 1);
            return self.arm(index);
        }
        let data = slot.data();
        let first = cause.reason == Reason::FirstBeat;
        let from = if first { PeerState::Unknown } else { data.state };
        let to = cause.to;
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
        });
        if cause.reason == Reason::Silence {
            let lateness_ns = now_ns.saturating_sub(cause.deadline_ns);
            self.histograms.of(HistogramKind::Lateness).record(lateness_ns);
            if to == PeerState::Down {
                let silent_ns = now_ns.saturating_sub(data.last_seen_ns);
                self.histograms.of(HistogramKind::DetectionTime).record(silent_ns);
            }
        }
        if !first {
            self.states.moved(from, to);
        }
        if to == PeerState::Forgotten {
            return self.discard(index);
        }
        let mut write = self.peers.table.slot(index).write();
        write.set_state(to);
        write.set_since_ns(now_ns);
        write.set_pending(None);
        drop(write);
        self.arm(index);
    }

    /// Frees a peer's slot.
    fn discard(&mut self, index: u32) {
        self.wheel.remove(&mut self.peers, index);
        self.peers.table.remove(index);
        self.budget.give_back();
    }

    /// Arms a peer's timer for its deadline, wherever it was armed before.
    fn arm(&mut self, index: u32) {
        if self.peers.table.link(index).armed_us != UNARMED {
            self.wheel.remove(&mut self.peers, index);
        }
        let deadline_us = self.peers.deadline_us(index);
        self.wheel.insert(&mut self.peers, index, deadline_us);
    }
}

#[cfg(test)]
mod tests;
