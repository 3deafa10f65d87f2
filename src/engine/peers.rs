//! A shard's peers and what their silence comes to: the answers that the wheel goes by.
//!
//! ```text
//!   detector's deadlines ──▶ + what we did not see or hear ──▶ + time after a released brake
//!                                                                      │ passed?
//!            down ◀── nobody ── who speaks for the peer? ◀─────────────┘
//!     unreachable ◀── its parent is down
//!      ask again  ◀── its parent is silent, too, or so many are that it must be us
//! ```
//!
//! A deadline is a pure function of the slot, the shared [`Groups`], the parent's slot and the
//! horizon: nothing is stored in the peer while it is held, so nothing has to be undone. While it is
//! held the answer is always a time ahead of the horizon, at which it is asked again.

use super::groups::{Groups, MOST_FOREBEARS, Standing};
use super::looks;
use super::policy::Deadlines;
use super::sight::{Extensions, Judged, Sight, Silence};
use super::slot::{Slot, SlotData};
use super::table::{Table, TableView};
use super::transition::PeerState;
use super::way::{self, LEARNT, Way, number_of};
use super::wheel::Timers;
use crate::wire::{PeerId, Status};
use std::sync::Arc;

/// How long behind its parent's deadline a child waits for the parent's own verdict, which another
/// reactor may be late to make.
const PARENT_SLACK_NS: u64 = 100_000_000;
/// How soon a child asks again within that time.
const PARENT_RETRY_NS: u64 = 5_000_000;
/// How often at most an unreachable peer looks after its parent.
const RECHECK_NS: u64 = 1_000_000_000;

/// The slots and all that their deadlines depend on.
pub(super) struct Peers {
    pub(super) table: Table,
    pub(super) groups: Arc<Groups>,
    /// The tables of all shards, for parents.
    pub(super) views: Arc<[TableView]>,
    pub(super) sight: Sight,
    /// Up to when everything that arrived has been observed, monotonic ns.
    pub(super) horizon_ns: u64,
    /// When a peer that was held was last exempted from it, as by a silence, monotonic ns.
    pub(super) exempted_ns: u64,
}

/// What a peer's silence comes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Verdict {
    /// Suspect, down, unreachable or forgotten; `None` when it is too soon to say.
    pub(super) to: Option<PeerState>,
    /// The deadline that passed; or when to ask again.
    pub(super) deadline_ns: u64,
    /// How much later that is than the detector alone would say.
    pub(super) extended_ns: u64,
    /// Why it is later.
    pub(super) why: Extensions,
}

/// What a parent's state means for its children.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Parent {
    /// There is none, or nothing is known of it: children are judged by themselves.
    None,
    /// It is alive since then and above suspicion since then, was last heard then, and will be late then;
    /// silent for so long it would be down.
    Alive { since_ns: u64, trusted_ns: u64, heard_ns: u64, overdue_ns: u64, timeout_ns: u64 },
    /// It is silent itself; ask again then.
    InDoubt { heard_ns: u64, again_ns: u64 },
    /// It is down, unreachable or has left, and was last heard then.
    Gone { heard_ns: u64 },
}

impl Parent {
    /// Two parents, either of which will do.
    fn or(self, other: Parent) -> Parent {
        use Parent::{Alive, Gone, InDoubt, None};
        match (self, other) {
            (None, only) | (only, None) => only,
            // The peer's way was open for as long as either was there.
            (Alive { since_ns: one, .. }, Alive { since_ns: two, .. }) => {
                if one <= two {
                    self
                } else {
                    other
                }
            }
            (alive @ Alive { .. }, _) | (_, alive @ Alive { .. }) => alive,
            (InDoubt { heard_ns: one, again_ns }, InDoubt { heard_ns: two, again_ns: sooner }) => {
                InDoubt { heard_ns: one.max(two), again_ns: again_ns.min(sooner) }
            }
            (InDoubt { heard_ns: one, again_ns }, Gone { heard_ns: two })
            | (Gone { heard_ns: two }, InDoubt { heard_ns: one, again_ns }) => {
                InDoubt { heard_ns: one.max(two), again_ns }
            }
            (Gone { heard_ns: one }, Gone { heard_ns: two }) => Gone { heard_ns: one.max(two) },
        }
    }
}

impl Peers {
    /// What bears on a peer's deadlines.
    #[inline]
    fn silence(&self, slot: &Slot) -> Silence {
        let policy = self.groups.policy(slot.group());
        let stated_us = slot.interval_us();
        Silence {
            last_seen_ns: slot.last_seen_ns(),
            interval_ns: policy.interval_us(stated_us).saturating_mul(1_000),
            grace_ns: policy.grace_ns,
            deadlines: policy.deadlines(&slot.arrivals(), stated_us),
        }
    }

    /// A silent peer's two deadlines, with everything that it is granted but the holds.
    #[inline]
    pub(super) fn judged(&self, slot: &Slot) -> (Silence, Judged) {
        let silence = self.silence(slot);
        let mut judged = self.sight.judge(&silence);
        let released_ns = self.groups.released_ns(slot.standing());
        if released_ns > silence.last_seen_ns {
            judged = silence.one_more(judged, released_ns, Extensions::MASS);
        }
        (silence, judged)
    }

    /// When a peer's state has to change, or has to be asked for again, if nothing more is heard;
    /// monotonic ns.
    pub(super) fn deadline_ns(&self, index: u32) -> u64 {
        let slot = self.table.slot(index);
        match self.usual_deadline_ns(slot) {
            Some(deadline_ns) => deadline_ns,
            None if slot.pending().is_some() => 0,
            None => self.verdict(slot).deadline_ns,
        }
    }

    /// A short cut through [`verdict`](Self::verdict) for nearly all that the wheel meets: up, and heard
    /// behind everything that could extend its deadlines.
    #[inline]
    fn usual_deadline_ns(&self, slot: &Slot) -> Option<u64> {
        let last_seen_ns = slot.last_seen_ns();
        let clear_ns = self.sight.clear_since_ns().max(self.groups.last_release_ns());
        if !slot.is_plainly_up() || last_seen_ns < clear_ns {
            return None;
        }
        let (policy, stated_us) = (self.groups.policy(slot.group()), slot.interval_us());
        let Deadlines { suspect_ns, down_ns } = policy.deadlines(&slot.arrivals(), stated_us);
        if last_seen_ns.saturating_add(down_ns) <= self.horizon_ns {
            return None;
        }
        let look_ns = last_seen_ns.saturating_add(looks::farthest_ns(policy, stated_us));
        let deadline_ns = last_seen_ns.saturating_add(suspect_ns);
        // Silent for so long already, it will not be heard as usual.
        Some(if look_ns > self.horizon_ns { deadline_ns.min(look_ns) } else { deadline_ns })
    }

    /// What the silence of the peer in this slot comes to at the horizon.
    pub(super) fn verdict(&self, slot: &Slot) -> Verdict {
        let plainly =
            |to, deadline_ns| Verdict { to, deadline_ns, extended_ns: 0, why: Extensions::NONE };
        let policy = self.groups.policy(slot.group());
        let passed = |deadline_ns: u64| deadline_ns <= self.horizon_ns;
        match slot.state() {
            PeerState::Up | PeerState::Suspect => {
                let (silence, judged) = self.judged(slot);
                if !passed(judged.down_ns) {
                    let suspect = slot.state() == PeerState::Suspect;
                    let deadline_ns = if suspect { judged.down_ns } else { judged.suspect_ns };
                    let plain = silence.plain();
                    let plain_ns = if suspect { plain.down_ns } else { plain.suspect_ns };
                    return Verdict {
                        to: passed(deadline_ns).then_some(PeerState::Suspect),
                        deadline_ns,
                        extended_ns: deadline_ns.saturating_sub(plain_ns),
                        why: judged.why,
                    };
                }
                self.overdue(slot, &silence, judged)
            }
            PeerState::Unreachable => self.unreachable(slot),
            PeerState::Down => {
                let forget_ns = slot.since_ns().saturating_add(policy.forget_down_ns);
                match self.behind_a_parent(slot) {
                    Some((to, again_ns)) if forget_ns > self.horizon_ns => {
                        plainly(to, again_ns.min(forget_ns))
                    }
                    _ => plainly(Some(PeerState::Forgotten), forget_ns),
                }
            }
            PeerState::Left => {
                let forget_ns = slot.since_ns().saturating_add(policy.forget_left_ns);
                plainly(Some(PeerState::Forgotten), forget_ns)
            }
            PeerState::Unknown | PeerState::Forgotten => unreachable!("a free slot has no timer"),
        }
    }

    /// A peer's down deadline has passed: is it the peer's fault?
    #[cold]
    fn overdue(&self, slot: &Slot, silence: &Silence, judged: Judged) -> Verdict {
        let plain_ns = silence.plain().down_ns;
        let verdict = |to, deadline_ns: u64, why| Verdict {
            to,
            deadline_ns,
            extended_ns: deadline_ns.saturating_sub(plain_ns),
            why: judged.why.with(why),
        };
        // A peer that is held is suspect, whatever else.
        let hold = |again_ns: u64, why| match slot.state() {
            PeerState::Up => verdict(Some(PeerState::Suspect), judged.suspect_ns, Extensions::NONE),
            _ => verdict(None, again_ns.max(self.horizon_ns + 1_000), why),
        };
        let mut down_ns = judged.down_ns;
        let mut waited_for = Extensions::NONE;
        let let_down_ns = match self.groups.exempts(slot.standing()) {
            true => self.exempted_ns,
            false => self.groups.let_down_ns(slot.standing(), self.horizon_ns),
        };
        // Whoever has a parent may have been held for it until now.
        let may_wait = self.groups.parent(number_of(slot.parent())).is_some();
        let until_ns = if may_wait { self.horizon_ns } else { let_down_ns.max(down_ns) };
        let held = self.sight.judge_held(silence, until_ns);
        if held.down_ns > down_ns {
            (down_ns, waited_for) = (held.down_ns, held.why);
            if down_ns > self.horizon_ns {
                return hold(down_ns, waited_for);
            }
        }
        match self.parent(slot) {
            Parent::Gone { .. } => {
                return verdict(Some(PeerState::Unreachable), down_ns, waited_for);
            }
            Parent::InDoubt { again_ns, .. } => {
                return hold(again_ns, waited_for.with(Extensions::PARENT));
            }
            // It was away while the peer was silent: its way may have been cut.
            Parent::Alive { since_ns, .. } if since_ns > silence.last_seen_ns => {
                down_ns = down_ns.max(self.behind(since_ns, silence).down_ns);
                waited_for = waited_for.with(Extensions::PARENT);
                if down_ns > self.horizon_ns {
                    return hold(down_ns, waited_for);
                }
            }
            // It was suspect meanwhile, and its way may have been cut. No doubt lasts longer than its timeout,
            // and what counts is the one in which the peer was due: or one that is suspect now and then
            // would hide the dead.
            Parent::Alive { trusted_ns, timeout_ns, .. } if trusted_ns > silence.last_seen_ns => {
                let returned_ns = trusted_ns.min(down_ns.saturating_add(timeout_ns));
                down_ns = down_ns.max(self.once_more_behind(returned_ns, silence));
                waited_for = waited_for.with(Extensions::PARENT);
                if down_ns > self.horizon_ns {
                    return hold(down_ns, waited_for);
                }
            }
            Parent::Alive { heard_ns, .. } if heard_ns > down_ns => {
                // Its heartbeat ended the doubt.
                down_ns = heard_ns.min(self.horizon_ns);
                waited_for = waited_for.with(Extensions::PARENT);
            }
            Parent::Alive { .. } | Parent::None => {}
        }
        if let Some(until_ns) = self.groups.held_until_ns(slot.standing(), self.horizon_ns) {
            // A released brake leaves time for one more heartbeat, so it is noticed soon enough.
            let again_ns = self.horizon_ns.saturating_add(silence.interval_ns);
            return hold(until_ns.min(again_ns), Extensions::MASS);
        }
        if let_down_ns > down_ns {
            down_ns = let_down_ns;
            waited_for = waited_for.with(Extensions::MASS);
        }
        verdict(Some(PeerState::Down), down_ns, waited_for)
    }

    /// Whether a peer that is about to be called down was held by a brake until its time was over: no
    /// other brake holds it anew.
    pub(super) fn was_held(&self, slot: &Slot, verdict: &Verdict) -> bool {
        let own_ns = verdict.deadline_ns.saturating_sub(verdict.extended_ns);
        self.groups.let_down_ns(slot.standing(), self.horizon_ns) > own_ns
    }

    /// The deadlines of a peer as if it had been heard then, with what we did not see or hear since.
    fn behind(&self, since_ns: u64, silence: &Silence) -> Judged {
        let last_seen_ns = since_ns.max(silence.last_seen_ns);
        self.sight.judge(&Silence { last_seen_ns, ..*silence })
    }

    /// When a peer is down that is left time for one more heartbeat behind then, and what we have not seen
    /// or heard since.
    fn once_more_behind(&self, since_ns: u64, silence: &Silence) -> u64 {
        let plain_ns = since_ns.saturating_add(silence.deadlines.down_ns);
        let missed_ns = self.behind(since_ns, silence).down_ns.saturating_sub(plain_ns);
        let nothing = Judged { suspect_ns: 0, down_ns: 0, why: Extensions::NONE };
        let once_more = silence.one_more(nothing, since_ns, Extensions::PARENT);
        once_more.down_ns.saturating_add(missed_ns)
    }

    /// When an unreachable peer is judged by itself again.
    #[cold]
    fn unreachable(&self, slot: &Slot) -> Verdict {
        let silence = self.silence(slot);
        let policy = self.groups.policy(slot.group());
        let forget_ns = slot.since_ns().saturating_add(policy.forget_down_ns);
        let again_ns = self.horizon_ns + silence.deadlines.down_ns.max(RECHECK_NS);
        let is_old = forget_ns <= self.horizon_ns;
        let (to, deadline_ns) = match self.parent(slot) {
            // Asked for again when it would be old: a parent that went before it is forgotten by then.
            Parent::Gone { .. } if !is_old => (None, again_ns.min(forget_ns)),
            // Not forgotten before its parent is: nobody has been told yet whether it lives.
            Parent::Gone { .. } => (None, again_ns),
            Parent::InDoubt { again_ns, .. } => (None, again_ns),
            Parent::None if is_old => (Some(PeerState::Forgotten), forget_ns),
            Parent::None => (Some(PeerState::Down), self.horizon_ns),
            Parent::Alive { since_ns, .. } => {
                // Whoever recovers first: the children get a whole timeout behind their parent.
                (Some(PeerState::Down), self.behind(since_ns, &silence).down_ns)
            }
        };
        let plain_ns = silence.plain().down_ns;
        Verdict {
            to: to.filter(|_| deadline_ns <= self.horizon_ns),
            deadline_ns,
            extended_ns: deadline_ns.saturating_sub(plain_ns),
            why: Extensions::PARENT,
        }
    }

    /// A peer that was called down before its slower parent could be missed: while that has not been
    /// heard since, the fault may be the parent's. Says when to ask again, or that it is unreachable.
    #[cold]
    fn behind_a_parent(&self, slot: &Slot) -> Option<(Option<PeerState>, u64)> {
        let silent_since = |heard_ns: u64| heard_ns < slot.since_ns();
        match self.parent(slot) {
            Parent::Gone { heard_ns }
                if silent_since(heard_ns) && self.has_a_dead_forebear(slot) =>
            {
                Some((Some(PeerState::Unreachable), self.horizon_ns))
            }
            Parent::InDoubt { heard_ns, again_ns } if silent_since(heard_ns) => {
                Some((None, again_ns))
            }
            Parent::Alive { heard_ns, overdue_ns, .. } if silent_since(heard_ns) => {
                // Decided by now, and not called down: the brake may hold it.
                let later_ns = self.horizon_ns.saturating_add(RECHECK_NS);
                let is_due = overdue_ns <= self.horizon_ns;
                Some((None, if is_due { later_ns } else { overdue_ns.saturating_add(1) }))
            }
            _ => None,
        }
    }

    /// Whether its parent is down, or unreachable behind one that is. Where parents name each other in
    /// a ring, one of them must stay down.
    fn has_a_dead_forebear(&self, slot: &Slot) -> bool {
        let mut number = slot.parent();
        for _ in 0..MOST_FOREBEARS {
            let parent = self.groups.parent(number_of(number)).filter(|id| *id != slot.peer());
            match parent.and_then(|parent| self.find_anywhere(parent)) {
                Some(record) if record.state == PeerState::Unreachable => number = record.parent,
                found => return found.is_some_and(|record| record.state == PeerState::Down),
            }
        }
        false
    }

    /// How a peer's parent is doing; the better one, where two relays bring it.
    fn parent(&self, slot: &Slot) -> Parent {
        let parent = self.parent_of_number(number_of(slot.parent()), slot.peer());
        if slot.parent() & LEARNT == 0 {
            return parent;
        }
        match slot.other_way_lately() {
            Way::Unsaid => parent,
            Way::Direct => Parent::None,
            Way::Relay(number) => parent.or(self.parent_of_number(number.into(), slot.peer())),
        }
    }

    /// Whether it is bound to the key of the relay that it comes through.
    pub(super) fn is_relays_key(&self, slot: &Slot) -> bool {
        let relay = self.groups.parent(number_of(slot.parent()));
        let record = relay.and_then(|relay| self.find_anywhere(relay));
        slot.parent() & LEARNT != 0 && record.is_some_and(|relay| relay.key_id == slot.key_id())
    }

    /// How the parent with this number is doing.
    fn parent_of_number(&self, number: u32, child: PeerId) -> Parent {
        let Some(parent) = self.groups.parent(number) else { return Parent::None };
        let Some(record) = self.find_anywhere(parent) else { return Parent::None };
        match record.state {
            PeerState::Down | PeerState::Unreachable | PeerState::Left => {
                Parent::Gone { heard_ns: record.last_seen_ns }
            }
            PeerState::Unknown | PeerState::Forgotten => Parent::None,
            PeerState::Up | PeerState::Suspect => self.beating_parent(&record, child),
        }
    }

    /// A parent that is not down: beating, or about to be called down itself?
    fn beating_parent(&self, record: &SlotData, child: PeerId) -> Parent {
        let silence = self.silence_of(record);
        let overdue_ns = overdue_ns(&silence);
        let decided_ns = match self.horizon_ns <= overdue_ns {
            true => 0,
            false => self.decided_ns(record, &silence, child, MOST_FOREBEARS),
        };
        if self.horizon_ns > decided_ns {
            let (since_ns, heard_ns) = (record.alive_since_ns, record.last_seen_ns);
            let trusted_ns = if record.state == PeerState::Up { record.since_ns } else { 0 };
            let timeout_ns = silence.deadlines.down_ns;
            return Parent::Alive { since_ns, trusted_ns, heard_ns, overdue_ns, timeout_ns };
        }
        let again_ns = self.horizon_ns + PARENT_RETRY_NS.max(silence.interval_ns / 16);
        let again_ns = again_ns.min(decided_ns.saturating_add(1));
        Parent::InDoubt { heard_ns: record.last_seen_ns, again_ns }
    }

    /// By when a silent parent is called down, if it is: a moment behind its own deadline, or behind the
    /// time by which its own parent is decided, for which it waits. Of fixed times only, so that peers that
    /// name each other as parents do not wait for one another for ever; and without the `child` that asks.
    fn decided_ns(
        &self,
        record: &SlotData,
        silence: &Silence,
        child: PeerId,
        generations: u32,
    ) -> u64 {
        // Held itself, it is called down when its hold ends, and not before all that it is granted.
        let planned = record.silenced || record.status == Status::Maintenance;
        let standing = Standing { group: record.group, planned };
        let let_down_ns = self.groups.let_down_ns(standing, self.horizon_ns);
        let mut down_ns = self.sight.judge_held(silence, let_down_ns).down_ns.max(let_down_ns);
        let parent = self.groups.parent(number_of(record.parent));
        let parent = parent.filter(|id| generations > 0 && *id != child);
        if let Some(parent) = parent.and_then(|id| self.find_anywhere(id)) {
            let silence = self.silence_of(&parent);
            let is_late = overdue_ns(&silence) < self.horizon_ns;
            down_ns = down_ns.max(match parent.state {
                PeerState::Up | PeerState::Suspect if is_late => {
                    self.decided_ns(&parent, &silence, child, generations - 1)
                }
                // Who waited for it has yet to see that.
                PeerState::Down | PeerState::Unreachable | PeerState::Left => parent.since_ns,
                _ => 0,
            });
        }
        down_ns.saturating_add(PARENT_SLACK_NS)
    }

    /// What bears on the deadlines of a peer of any shard.
    fn silence_of(&self, record: &SlotData) -> Silence {
        let policy = self.groups.policy(record.group);
        Silence {
            last_seen_ns: record.last_seen_ns,
            interval_ns: policy.interval_us(record.interval_us).saturating_mul(1_000),
            grace_ns: policy.grace_ns,
            deadlines: policy.deadlines(&record.arrivals, record.interval_us),
        }
    }

    /// A peer's record, in whichever shard it is.
    fn find_anywhere(&self, peer: PeerId) -> Option<SlotData> {
        way::record_of(&self.views, peer)
    }
}

/// By when the next heartbeat should have come.
fn overdue_ns(silence: &Silence) -> u64 {
    let due_ns = silence.interval_ns.saturating_add(silence.grace_ns);
    silence.last_seen_ns.saturating_add(due_ns)
}

/// The first tick that is not before a time: a timer never fires early.
fn tick_us(time_ns: u64) -> u64 {
    time_ns.div_ceil(1_000)
}

impl Timers for Peers {
    #[inline]
    fn deadline_us(&self, index: u32) -> u64 {
        tick_us(self.deadline_ns(index))
    }

    #[inline]
    fn prefetch(&self, index: u32) {
        self.table.prefetch_slot(index);
    }
}
