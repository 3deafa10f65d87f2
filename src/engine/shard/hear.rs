//! What a heartbeat does: the verb *observe*, peer by peer.
//!
//! ```text
//!   known ── who may speak for it? ── where in the sequence? ─┬─ newer: store, learn      (usual)
//!                                                             ├─ it was not up: change
//!                                                             └─ old, twice, late: count, no more
//!   unknown ── may it come in? ── room? ── a slot, and its first transition
//! ```
//!
//! [`Shard::heard_as_usual`] is a short cut for nearly all of them, and touches the slot's hot line alone.
//! Whatever it leaves goes the long way, where what is rare stands in functions of its own, marked cold.

use super::{Cause, Outlet, Shard, mass_silence};
use crate::engine::conflict::Found;
use crate::engine::detector::Arrivals;
use crate::engine::groups::Standing;
use crate::engine::looks;
use crate::engine::notice::Notice;
use crate::engine::sequence::{Order, Position};
use crate::engine::slot::{Slot, SlotData, SlotWriter};
use crate::engine::transition::{PeerState, Reason};
use crate::engine::way::{LEARNT, Way, named};
use crate::metrics::{Counter, HistogramKind};
use crate::wire::{Heartbeat, Kind, Status};

/// Where a slot's sequence stands.
fn position(slot: &Slot) -> Position {
    Position { incarnation: slot.incarnation(), last: slot.last_sequence(), seen: slot.seen_mask() }
}

fn set_position(write: &mut SlotWriter<'_>, position: Position) {
    write.set_last(position.incarnation, position.last);
    write.set_seen_mask(position.seen);
}

impl Shard {
    /// The usual heartbeat: the next one of a peer that is up, and nothing about it is new. False: it
    /// is any other, and nothing was done. What is done here is what [`heard`](Self::heard) would do,
    /// but for counting it; a test holds them against each other.
    #[inline]
    pub(super) fn heard_as_usual(
        &self,
        guess: u32,
        beat: &Heartbeat,
        way: Way,
        now_ns: u64,
    ) -> bool {
        let Some(slot) = self.peers.table.guessed(beat.peer, guess) else { return false };
        let Some(mark) = way.mark() else { return false };
        let is_plain = beat.sequenced
            && beat.kind == Kind::Beat
            && beat.status != Status::Maintenance
            && beat.profile_digest == 0;
        let last_seen_ns = slot.last_seen_ns();
        let is_usual = slot.is_followed_by(beat.incarnation, beat.sequence)
            && is_plain
            && slot.is_up_as(beat.status, mark, beat.key_id)
            && slot.states_interval(beat.interval_us);
        if !is_usual {
            return false;
        }
        let group = slot.told_group();
        if !self.peers.groups.admits(group, beat.key_id) {
            return false;
        }
        let policy = self.peers.groups.policy(group.unwrap_or(0));
        let interval_us = policy.interval_us(beat.interval_us);
        let arrived_ns = now_ns.saturating_sub(u64::from(beat.age_us) * 1_000);
        let elapsed_ns = arrived_ns.saturating_sub(last_seen_ns);
        let continues = last_seen_ns >= self.peers.sight.clear_since_ns();
        let learns = policy.detector.learns();
        // Whether any other brings the deadline nearer is worked out, so that the timer is told.
        if learns && !(continues && slot.has_learnt() && looks::moves_on(elapsed_ns, interval_us)) {
            return false;
        }
        let heartbeats = slot.heartbeats().wrapping_add(1);
        if heartbeats.is_multiple_of(16) {
            let deviation_ns = elapsed_ns.abs_diff(interval_us * 1_000);
            self.shared.histograms.of(HistogramKind::Deviation).record(deviation_ns);
        }
        let mut write = slot.write();
        write.set_last_seen_ns(last_seen_ns.max(arrived_ns));
        write.set_heartbeats(heartbeats);
        write.set_last(beat.incarnation, beat.sequence);
        write.set_seen_mask(slot.seen_mask() << 1 | 1);
        if learns {
            let mut arrivals = slot.arrivals();
            policy.learn(&mut arrivals, elapsed_ns, 1, beat.interval_us);
            write.set_arrivals(&arrivals);
        } else if !continues {
            let mut arrivals = slot.arrivals();
            arrivals.resume();
            write.set_arrivals(&arrivals);
        }
        true
    }

    /// A heartbeat of a peer that has a slot. False when it is refused.
    pub(super) fn heard(
        &mut self,
        index: u32,
        beat: &Heartbeat,
        way: Way,
        now_ns: u64,
        outlet: &mut impl Outlet,
    ) -> bool {
        let slot = self.peers.table.slot(index);
        let mut remember_key = false;
        // A key may have been bound to fewer groups since it brought the peer in. What nobody has proven
        // binds nobody, the group included.
        let admits = |key_id| self.peers.groups.admits(slot.told_group(), key_id);
        if slot.key_id() != 0 && !admits(beat.key_id) {
            self.shared.counters.add(Counter::KeyScope, 1);
            return false;
        }
        if beat.key_id != slot.key_id() {
            // A relay's key would lock out the peer's own when its first HELLO was lost on the way.
            let vouched = slot.profile_digest() == 0 && self.peers.is_relays_key(slot);
            let remembered = if admits(slot.key_id()) { slot.key_id() } else { 0 };
            match self.admission.other_key(remembered, beat, vouched) {
                Ok(remember) => remember_key = remember,
                Err(counter) => {
                    self.shared.counters.add(counter, 1);
                    return false;
                }
            }
            if remember_key && !admits(beat.key_id) {
                // Until it is told the group that its key speaks for.
                self.unassign(beat.peer, named(slot.parent()), now_ns);
            }
        }
        let slot = self.peers.table.slot(index);
        let arrived_ns = now_ns.saturating_sub(beat.age_us as u64 * 1_000);
        let mut order = Order::Newer { missing: 0 };
        let mut position = position(slot);
        // What nobody has proven does not bind who can.
        let proven = slot.key_id() != 0 || beat.key_id == 0;
        if beat.sequenced {
            if slot.sequenced() && proven {
                order = position.take(beat.incarnation, beat.sequence);
            } else {
                position = Position::start(beat.incarnation, beat.sequence);
            }
        } else if slot.sequenced() && slot.key_id() != 0 && beat.key_id != 0 {
            // A line may be as old as the key.
            order = Order::Stale;
        }
        // The text form has no incarnation: whoever has one now is a sender of its own.
        let restarted = order == Order::Restart || beat.sequenced && !slot.sequenced();
        let missing = match order {
            Order::Newer { missing } => missing,
            Order::Restart => 0,
            refused => {
                if refused == Order::Duplicate && beat.sequence == position.last {
                    self.came_by_as_well(index, way, arrived_ns);
                }
                self.refuse(index, beat, position, refused, now_ns, outlet);
                return false;
            }
        };

        let heartbeats = slot.heartbeats().wrapping_add(1);
        let last_seen_ns = slot.last_seen_ns();
        let elapsed_ns = arrived_ns.saturating_sub(last_seen_ns);
        let policy = self.peers.groups.policy(slot.group());
        if heartbeats.is_multiple_of(16) && order == (Order::Newer { missing: 0 }) {
            let interval_ns = policy.interval_us(slot.interval_us()) * 1_000;
            let deviation = elapsed_ns.abs_diff(interval_ns);
            self.shared.histograms.of(HistogramKind::Deviation).record(deviation);
        }
        let interval_changed = beat.interval_us != slot.interval_us();
        let state = slot.state();
        // An outage, a restart, planned work and what we did not see or hear are no inter-arrival
        // times; what was learnt of another interval does not hold for this one.
        let continues = order != Order::Restart
            && state.is_alive()
            && beat.status != Status::Maintenance
            && slot.status() != Status::Maintenance
            && last_seen_ns >= self.peers.sight.clear_since_ns();
        let (stood, is_witness) = (slot.standing(), slot.wants_witness() && beat.sequenced);
        let before = slot.arrivals();
        let mut arrivals = before;
        if interval_changed || order == Order::Restart {
            arrivals = Arrivals::NONE;
        } else if continues {
            policy.learn(&mut arrivals, elapsed_ns, missing.saturating_add(1), beat.interval_us);
        } else {
            arrivals.resume();
        }
        // What is learnt, or lost, may bring the deadline nearer by more than the heartbeat moves it on, and so
        // may the end of what was granted; the timer does not find that out by itself.
        let nearer = interval_changed
            || policy.detector.learns() && {
                let clear_ns = self.peers.sight.clear_since_ns();
                let was_extended = last_seen_ns < clear_ns.max(self.peers.groups.last_release_ns());
                let after = policy.deadlines(&arrivals, beat.interval_us).suspect_ns;
                let was = policy.deadlines(&before, beat.interval_us).suspect_ns;
                was_extended || after.saturating_add(elapsed_ns) < was
            };
        {
            let mut write = slot.write();
            write.set_last_seen_ns(last_seen_ns.max(arrived_ns));
            write.set_heartbeats(heartbeats);
            write.set_status(beat.status);
            write.set_arrivals(&arrivals);
            // Where it stands before that this binds, or is proven: of one without the other, found after a
            // kill, the old number would bind the sender that is now heard for the first time.
            if beat.sequenced {
                set_position(&mut write, position);
                write.set_sequenced(true);
            } else if !proven {
                // Numbers that nobody has proven would make its next lines stale.
                write.set_sequenced(false);
            }
            if interval_changed {
                write.set_interval_us(beat.interval_us);
            }
            if remember_key {
                write.set_key_id(beat.key_id);
            }
            if missing > 0 {
                write.set_gaps(slot.gaps().saturating_add(missing));
            }
            if order == Order::Restart {
                write.set_restarts(slot.restarts().saturating_add(1));
            }
        }
        if way.mark().is_some_and(|mark| mark != slot.way()) {
            self.came_by(index, way);
        }
        if slot.standing() != stood {
            self.began_or_ended_maintenance(index, stood, now_ns, outlet);
        }
        self.shared.counters.add(Counter::Heartbeats, 1);
        if is_witness {
            self.conflicts.applied(index, beat, now_ns);
        }
        if missing > 0 {
            self.shared.counters.add(Counter::Gaps, missing as u64);
        }
        if order == Order::Restart {
            self.shared.counters.add(Counter::Restarts, 1);
        }
        let pending = self.peers.table.slot(index).pending();
        if state == PeerState::Up && beat.kind == Kind::Beat && pending.is_none() {
            if nearer {
                self.arm(index);
            }
            return true;
        }
        self.heard_out_of_turn(index, beat.kind, restarted, now_ns, outlet);
        true
    }

    /// A peer's heartbeats come another way than before. The relay that they come through is its
    /// parent, unless another one was named.
    #[cold]
    fn came_by(&self, index: u32, way: Way) {
        let Some(mark) = way.mark() else { return };
        let slot = self.peers.table.slot(index);
        let mut write = slot.write();
        write.set_way(mark);
        if named(slot.parent()) != 0 {
            return;
        }
        let other = slot.other_way_than(way);
        let own = |relay| self.peers.groups.parent(relay) == Some(slot.peer());
        write.set_parent(match way {
            Way::Relay(number) if !own(number.into()) => LEARNT | u32::from(number),
            _ => 0,
        });
        write.set_other_way(other.code());
        write.set_other_way_at(slot.heartbeats());
    }

    /// A copy of a peer's last beat came, which may be another way; if it is no later than the next beat is
    /// due: afterwards it may be a recording.
    #[cold]
    fn came_by_as_well(&self, index: u32, way: Way, arrived_ns: u64) {
        let slot = self.peers.table.slot(index);
        let interval_us = self.peers.groups.policy(slot.group()).interval_us(slot.interval_us());
        let is_timely = arrived_ns <= slot.last_seen_ns().saturating_add(interval_us * 1_000);
        if is_timely && way.mark().is_some_and(|mark| mark != slot.way()) {
            let mut write = slot.write();
            write.set_other_way(way.code());
            write.set_other_way_at(slot.heartbeats());
        }
    }

    /// A peer's status says that its silence is planned from now on, or is no longer.
    #[cold]
    fn began_or_ended_maintenance(
        &mut self,
        index: u32,
        stood: Standing,
        now_ns: u64,
        outlet: &mut impl Outlet,
    ) {
        self.recounted(index, stood, now_ns, |scope, census| {
            outlet.notice(mass_silence(scope, false, now_ns, census));
        });
    }

    /// The rare rest of [`heard`](Self::heard): the heartbeat changes the peer's state.
    #[cold]
    fn heard_out_of_turn(
        &mut self,
        index: u32,
        kind: Kind,
        restarted: bool,
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
        let (_, judged) = self.peers.judged(slot);
        let gone =
            matches!(slot.state(), PeerState::Down | PeerState::Unreachable | PeerState::Left);
        if gone && judged.down_ns <= now_ns {
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
                let reason = if restarted { Reason::Restart } else { Reason::Beat };
                self.change(index, Cause::of(reason), now_ns, outlet);
            }
        }
    }

    /// A heartbeat that proves nothing: counted, and the slot otherwise left as it is.
    #[cold]
    fn refuse(
        &mut self,
        index: u32,
        beat: &Heartbeat,
        position: Position,
        order: Order,
        now_ns: u64,
        outlet: &mut impl Outlet,
    ) {
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
        self.shared.counters.add(counter, 1);
        if beat.sequenced {
            self.second_sender(index, beat, now_ns, outlet);
        }
    }

    /// Looks whether a heartbeat that was refused shows that its peer has a second sender.
    fn second_sender(
        &mut self,
        index: u32,
        beat: &Heartbeat,
        now_ns: u64,
        outlet: &mut impl Outlet,
    ) {
        let slot = self.peers.table.slot(index);
        let policy = self.peers.groups.policy(slot.group());
        // Whichever of the two is slower sets the pace.
        let interval_us = policy.interval_us(slot.interval_us()).max(beat.interval_us);
        let interval_ns = interval_us.saturating_mul(1_000);
        match self.conflicts.refused(index, beat, interval_ns, now_ns) {
            Found::Nothing => {}
            Found::WantsWitness => slot.write().want_witness(),
            Found::SecondSender { is_news } => {
                slot.write().want_witness();
                self.shared.counters.add(Counter::Conflicts, u64::from(is_news));
                let incarnations = [slot.incarnation(), beat.incarnation];
                let peer = beat.peer;
                let conflict = Notice::Conflict { peer, at_ns: now_ns, incarnations, interval_ns };
                outlet.notice(conflict);
            }
        }
    }

    /// A heartbeat, at this place of its batch, of a peer that has no slot.
    #[cold]
    pub(super) fn newcomer(
        &mut self,
        place: usize,
        beat: &Heartbeat,
        now_ns: u64,
        outlet: &mut impl Outlet,
    ) {
        if beat.kind == Kind::Bye {
            self.shared.counters.add(Counter::ByeUnknown, 1);
            return;
        }
        if let Err(counter) = self.admission.newcomer(beat, outlet.source(place), now_ns) {
            self.shared.counters.add(counter, 1);
            return;
        }
        let arrived_ns = now_ns.saturating_sub(beat.age_us as u64 * 1_000);
        let data = SlotData {
            peer: beat.peer,
            state: PeerState::Up,
            // Until it is told: a process that is killed in between leaves a newcomer.
            pending: Some(Reason::FirstBeat),
            status: beat.status,
            silenced: false,
            sequenced: beat.sequenced,
            way: 0,
            key_id: beat.key_id,
            profile_digest: 0,
            last_seen_ns: arrived_ns,
            since_ns: now_ns,
            alive_since_ns: now_ns,
            first_seen_ns: arrived_ns,
            interval_us: beat.interval_us,
            incarnation: beat.incarnation,
            last_sequence: beat.sequence,
            seen_mask: u32::MAX,
            heartbeats: 1,
            gaps: 0,
            duplicates: 0,
            reordered: 0,
            restarts: 0,
            stale: 0,
            arrivals: Arrivals::NONE,
            group: 0,
            // By its profile, if it has one.
            assigned: false,
            parent: 0,
            other_way: 0,
            other_way_at: 0,
            report_no: self.report_no,
        };
        let index = match self.shared.budget.take().then(|| self.peers.table.insert(data)) {
            Some(Ok(index)) => index,
            refused => {
                if refused.is_some() {
                    self.shared.budget.give_back();
                }
                self.shared.counters.add(Counter::TableFull, 1);
                return;
            }
        };
        self.shared.counters.add(Counter::Heartbeats, 1);
        self.came_by(index, outlet.way(place));
        let standing = self.peers.table.slot(index).standing();
        self.moved(standing, PeerState::Unknown, PeerState::Up, now_ns, outlet);
        if beat.profile_digest != 0 {
            // First its name, so that its first transition can be told by it.
            self.introduce(place, beat, outlet);
        }
        self.change(index, Cause::of(Reason::FirstBeat), now_ns, outlet);
    }

    /// Offers a new profile to the outlet, and remembers it if it was taken.
    pub(super) fn introduce(&mut self, place: usize, beat: &Heartbeat, outlet: &mut impl Outlet) {
        let Some(index) = self.peers.table.find(beat.peer) else { return };
        let slot = self.peers.table.slot(index);
        if slot.profile_digest() == beat.profile_digest {
            return;
        }
        if outlet.profile(place, beat) {
            slot.write().set_profile_digest(beat.profile_digest);
        } else {
            self.shared.counters.add(Counter::ProfilesDeferred, 1);
        }
    }
}
