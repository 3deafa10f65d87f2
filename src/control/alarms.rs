//! What becomes of a transition on its way to the log: is its peer silenced, does it flap, which
//! incident does it belong to, was it a mistake?
//!
//! ```text
//!   transition ─▶ silences? ─▶ flapping ─▶ quality of service ─▶ incidents ─▶ marks, and notes
//!                     └───────────┴── maintenance ──▶ raises none
//! ```
//!
//! The parts are sans-IO and know nothing of one another; this is where they meet. The publisher
//! judges, the survey tells what has been watched and who is missing, HTTP reads; one lock over
//! all, never held across a wait, and never taken by whoever holds a part of the registry.

use super::ControlState;
use super::conflicts::Conflicts;
use super::events::Names;
use super::expect::{Expectations, Expected};
use super::flapping::Flapping;
use super::groups::GroupTable;
use super::incidents::{Failure, Incidents, MassSilence, StillDown};
use super::notes::{Note, Place};
use super::qos::Qos;
use super::registry::Registry;
use super::silences::Silences;
use super::survey::Tallies;
use crate::engine::groups::MOST_FOREBEARS;
use crate::engine::notice::Notice;
use crate::engine::slot::SlotData;
use crate::engine::transition::{PeerState, Transition};
use crate::store::events::PENDING;
use crate::wire::{PeerId, Status};
use serde::{Deserialize, Serialize};

/// Shorter spells of blindness are counted, and not told one by one: the scheduler of a busy machine
/// makes many, and no verdict that anybody sees is later for them. Nanoseconds.
const TOLD_NS: u64 = 100_000_000;

/// What a transition is marked with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Marks {
    /// Its peer is under a silence.
    pub silenced: bool,
    /// Its peer flaps.
    pub flapping: bool,
    /// The incident that it is part of; 0 for none.
    pub incident: u32,
    /// Nobody has judged it: the others say nothing yet.
    pub pending: bool,
}

impl Marks {
    /// Of a transition that is still to be judged.
    pub const PENDING: Marks =
        Marks { silenced: false, flapping: false, incident: 0, pending: true };

    /// The marks in a word.
    pub fn to_bits(self) -> u64 {
        let pending = if self.pending { PENDING } else { 0 };
        self.incident as u64 | (self.silenced as u64) << 32 | (self.flapping as u64) << 33 | pending
    }

    /// The marks of a word.
    pub fn from_bits(bits: u64) -> Marks {
        let is = |bit: u32| bits >> bit & 1 == 1;
        let pending = bits & PENDING > 0;
        Marks { silenced: is(32), flapping: is(33), incident: bits as u32, pending }
    }
}

/// What a verdict is seen in the light of.
pub struct Surroundings<'a> {
    /// Who is behind an id.
    pub registry: &'a Registry,
    /// The groups' numbers.
    pub groups: &'a GroupTable,
    /// How large they are.
    pub tallies: &'a Tallies,
    /// Where the peers' records are.
    pub control: &'a ControlState,
}

impl Surroundings<'_> {
    /// Peers in a group.
    fn size(&self, group: u16) -> u32 {
        self.tallies.size(group, self.control)
    }
}

/// Everything that alarms, or keeps from it. What is not skipped here is kept by [`super::kept`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Alarms {
    /// Failures that belong together.
    pub incidents: Incidents,
    /// Who flaps.
    pub flapping: Flapping,
    /// How good the verdicts were.
    #[serde(skip)]
    pub qos: Qos,
    /// Planned silences.
    #[serde(skip)]
    pub silences: Silences,
    /// Who ought to be here.
    #[serde(skip)]
    pub expect: Expectations,
    /// Whose names have two senders.
    #[serde(default, rename = "second_senders")]
    pub conflicts: Conflicts,
    #[serde(skip)]
    notes: Vec<Note>,
    /// The place of the last note that was taken.
    #[serde(skip)]
    noted: Place,
}

impl Alarms {
    /// With these expectations and silences.
    pub fn new(expect: Expectations, silences: Silences) -> Alarms {
        Alarms { expect, silences, ..Alarms::default() }
    }

    /// Goes on with what was kept, whose times are moved by so much, nanoseconds.
    pub fn resume(&mut self, kept: Alarms, by_ns: i64) {
        let Alarms { incidents, flapping, conflicts, .. } = kept;
        self.conflicts = conflicts.resume(by_ns);
        self.incidents = incidents.resume(by_ns);
        self.flapping = flapping.resume(by_ns);
    }

    /// Takes a transition of a peer of these names, and says how it is marked. Notes may follow.
    pub fn judge(&mut self, t: &Transition, names: &Names, around: &Surroundings<'_>) -> Marks {
        let silenced = self.is_silenced(t.peer, around.registry);
        let group = around.groups.number(names.group()).unwrap_or(0);
        let flapping = self.observe(t, names);
        self.qos.observe(group, t);
        let marks = Marks { silenced, flapping, ..Marks::default() };
        self.assign(t, group, marks, None, around)
    }

    /// Takes a transition that an earlier process has judged and published with these marks.
    pub fn judge_again(
        &mut self,
        t: &Transition,
        names: &Names,
        marks: Marks,
        around: &Surroundings<'_>,
    ) -> Marks {
        let group = around.groups.number(names.group()).unwrap_or(0);
        self.observe(t, names);
        self.incidents.numbered(marks.incident);
        self.assign(t, group, marks, Some(marks.incident), around)
    }

    /// Takes a transition, and says whether its peer flaps.
    fn observe(&mut self, t: &Transition, names: &Names) -> bool {
        if t.to == PeerState::Forgotten {
            self.incidents.forget(t.peer, names.name());
            let ended = self.conflicts.forget(t.peer, t.fired_ns);
            self.notes.extend(ended.map(Note::Conflict));
        }
        let change = self.flapping.observe(t);
        self.notes.extend(change.map(Note::Flapping));
        change.is_some() || self.flapping.is_flapping(t.peer)
    }

    /// Finds the incident that a transition is part of, or the one that was `told`.
    fn assign(
        &mut self,
        t: &Transition,
        group: u16,
        marks: Marks,
        told: Option<u32>,
        around: &Surroundings<'_>,
    ) -> Marks {
        let quiet = marks.silenced || marks.flapping || t.status == Status::Maintenance;
        let raises = !quiet || self.incidents.of(t.peer).is_some();
        let incident = match t.to {
            PeerState::Down if raises => self.incidents.down(Failure {
                peer: t.peer,
                group,
                size: around.size(group),
                at_ns: t.fired_ns,
                detection_ns: t.fired_ns.saturating_sub(t.last_seen_ns),
                told,
            }),
            PeerState::Unreachable if raises && told != Some(0) => told
                .and_then(|id| self.incidents.unreachable_again(t.peer, id, t.fired_ns))
                .or_else(|| self.unreachable(t.peer, group, t.fired_ns, around)),
            PeerState::Up | PeerState::Left | PeerState::Forgotten => {
                self.incidents.back(t.peer, group, t.fired_ns)
            }
            _ => self.incidents.of(t.peer),
        };
        self.collect();
        Marks { incident: incident.unwrap_or(0), ..marks }
    }

    fn unreachable(
        &mut self,
        peer: PeerId,
        group: u16,
        at_ns: u64,
        around: &Surroundings<'_>,
    ) -> Option<u32> {
        let parent = parent_of(peer, around)?;
        if self.is_quiet_above(parent, around) {
            return None;
        }
        let failed = match around.control.slot_of(parent).map(|slot| slot.state) {
            Some(PeerState::Down) => Some(true),
            Some(PeerState::Unreachable) => Some(false),
            _ => None,
        };
        let size = around.size(group);
        self.incidents.unreachable(peer, (parent, failed), size, at_ns)
    }

    /// Whether this parent, or one further up behind which it is unreachable itself, is to alarm nobody:
    /// work on a switch is planned for the switch, not for everything behind it.
    fn is_quiet_above(&self, parent: PeerId, around: &Surroundings<'_>) -> bool {
        let mut above = Some(parent);
        for _ in 0..MOST_FOREBEARS {
            let Some(parent) = above else { return false };
            let slot = around.control.slot_of(parent);
            if self.is_quiet(parent, slot.as_ref(), around) {
                return true;
            }
            let unreachable = slot.is_some_and(|slot| slot.state == PeerState::Unreachable);
            above = if unreachable { parent_of(parent, around) } else { None };
        }
        false
    }

    /// Whether the failure of a peer is to alarm nobody.
    fn is_quiet(&self, peer: PeerId, slot: Option<&SlotData>, around: &Surroundings<'_>) -> bool {
        slot.is_some_and(|slot| slot.status == Status::Maintenance)
            || self.flapping.is_flapping(peer)
            || self.is_silenced(peer, around.registry)
    }

    /// These peers, or those that they are behind, may have been quiet until now. Whoever went down meanwhile
    /// has alarmed nobody, and does now.
    pub fn unquiet(&mut self, all: &[SlotData], now_ns: u64, around: &Surroundings<'_>) {
        let of = |state| all.iter().filter(move |slot| slot.state == state);
        let down = of(PeerState::Down).filter(|slot| self.alarms_now(slot, around));
        let still_down: Vec<_> = down
            .map(|slot| StillDown {
                peer: slot.peer,
                group: slot.group,
                size: around.size(slot.group),
                since_ns: slot.since_ns,
            })
            .collect();
        self.incidents.still_down(&still_down, now_ns);
        for slot in of(PeerState::Unreachable) {
            if self.incidents.of(slot.peer).is_some() {
                continue;
            }
            // From the top: each belongs to the incident of who is above it.
            for slot in unreachable_line(slot, around).iter().rev() {
                if self.alarms_now(slot, around) {
                    self.unreachable(slot.peer, slot.group, now_ns, around);
                }
            }
        }
        self.collect();
    }

    /// Whether a peer that has failed is part of no incident yet, and is not quiet.
    fn alarms_now(&self, slot: &SlotData, around: &Surroundings<'_>) -> bool {
        self.incidents.of(slot.peer).is_none() && !self.is_quiet(slot.peer, Some(slot), around)
    }

    /// Takes one of the engine's findings. Notes may follow.
    pub fn notice(&mut self, notice: Notice, groups: &GroupTable) {
        match notice {
            Notice::MassSilence { scope, held, at_ns, silent, living } => {
                let hold_ns = held.then(|| groups.hold_ns(scope));
                let silence = MassSilence { scope, hold_ns, silent, living, at_ns };
                self.incidents.mass_silence(silence);
                self.collect();
            }
            Notice::Conflict { peer, at_ns, incarnations, interval_ns } => {
                let change = self.conflicts.see(peer, at_ns, incarnations, interval_ns);
                self.notes.extend(change.map(Note::Conflict));
            }
            Notice::Blind { from_ns, to_ns, deaf } => {
                if to_ns.saturating_sub(from_ns) >= TOLD_NS {
                    self.notes.push(Note::Blind { from_ns, to_ns, deaf });
                }
            }
            Notice::Relay { relay } => groups.number_relay(relay),
        }
    }

    /// What time alone brings about. Returns whether somebody who is down has ceased to flap, so that whoever
    /// is behind it may have to be told.
    pub fn advance(&mut self, now_ns: u64, around: &Surroundings<'_>) -> bool {
        let quiet = self.flapping.advance(now_ns);
        let slots = quiet.iter().filter_map(|change| around.control.slot_of(change.peer));
        let failed =
            |slot: &SlotData| matches!(slot.state, PeerState::Down | PeerState::Unreachable);
        let failed: Vec<_> = slots.filter(failed).collect();
        self.notes.extend(quiet.into_iter().map(Note::Flapping));
        self.unquiet(&failed, now_ns, around);
        let ended = self.conflicts.advance(now_ns);
        self.notes.extend(ended.into_iter().map(Note::Conflict));
        self.silences.advance(now_ns);
        self.incidents.advance(now_ns, |scope| around.groups.suspect(scope));
        self.collect();
        !failed.is_empty()
    }

    /// Looks who is missing.
    pub fn expect(
        &mut self,
        now_ns: u64,
        peer: impl Fn(PeerId) -> bool,
        group: impl Fn(&str) -> u32,
    ) {
        for change in self.expect.check(now_ns, peer, group) {
            let (of_group, wanted) = match self.expect.what(change.index) {
                Some(Expected::Group { count, .. }) => (true, *count),
                _ => (false, 1),
            };
            self.notes.push(Note::Missing { change, of_group, wanted });
        }
    }

    /// The notes since the last call, in order, with their places behind this transition: of `least` order
    /// or more.
    pub fn take_notes(&mut self, seq: u64, least: u64) -> Vec<(Note, Place)> {
        let Alarms { notes, noted, incidents, .. } = self;
        let place = |note: Note| {
            *noted = noted.next(seq, least);
            if let Note::Incident(told) = &note {
                incidents.placed(told, *noted);
            }
            (note, *noted)
        };
        notes.drain(..).map(place).collect()
    }

    /// Places are given behind this one from now on.
    pub fn noted_before(&mut self, place: Place) {
        self.noted = place;
    }

    /// The names of who a note is about, where the alarms alone know them still.
    pub fn names_of(&self, note: &Note) -> Option<Names> {
        let Note::Incident(told) = note else { return None };
        let name = self.incidents.parent_name(told.figures.id)?;
        Some(Names::new(Some(name), ""))
    }

    /// Whether a peer is under a silence.
    pub fn is_silenced(&self, peer: PeerId, registry: &Registry) -> bool {
        let any = !self.silences.all().is_empty();
        any && registry.with(peer, |profile| {
            profile.is_some_and(|profile| self.silences.of(&profile).is_some())
        })
    }

    fn collect(&mut self) {
        self.notes.extend(self.incidents.take_told().into_iter().map(Note::Incident));
    }
}

/// A peer's parent: the one that is named, else the relay that it was learnt from.
fn parent_of(peer: PeerId, around: &Surroundings<'_>) -> Option<PeerId> {
    let named = around.registry.with(peer, |p| around.groups.parent_of(&p?).map(PeerId::of));
    let learnt = || around.groups.learnt_parent(&around.control.slot_of(peer)?);
    named.or_else(learnt)
}

/// A peer that is unreachable, its parent if that is so, too, and so on upwards.
fn unreachable_line(slot: &SlotData, around: &Surroundings<'_>) -> Vec<SlotData> {
    let above = |slot: &SlotData| around.control.slot_of(parent_of(slot.peer, around)?);
    let unreachable = |slot: &SlotData| slot.state == PeerState::Unreachable;
    let line = std::iter::successors(Some(*slot), |slot| above(slot).filter(unreachable));
    line.take(1 + MOST_FOREBEARS as usize).collect()
}

#[cfg(test)]
mod tests;
