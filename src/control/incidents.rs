//! Failures that belong together, told as one incident with its members instead of one by one.
//!
//! ```text
//!   downs of a group  ┌──── within one window ────┐
//!   ───────▪──────────▪─▪▪▪▪▪▪▪▪▪▪▪──────────────────▶   the k-th opens it, with those before it
//!                            │ opened   │ settled: told once more      closed: all are back
//! ```
//!
//! Four causes, none with two open incidents: a **group** whose peers go down together, a
//! **parent** whose children are unreachable behind it, a **mass silence** that is held, and a planned
//! silence that is over (or a time of flapping) while peers of a group are **still down**, be they ever so
//! few, since nobody was alarmed when they went. A peer is a member of one incident at most, that of the
//! parent before that of the group; whoever goes down after a mass silence was let go belongs to it still.
//!
//! Sans-IO: the time is an argument, what happened comes out of [`Incidents::take_told`]. Whose
//! failure should alarm nobody (silenced, in maintenance, flapping) is not reported here at all.
//!
//! Over a restart: what is kept is the whole of it, as it was at some number of the log. What was
//! published behind that is gone through once more, with what was decided then ([`Failure::told`]).
//!
//! Bounds: [`MOST_OPEN`] open incidents, downs beyond stay single and are counted; the last
//! [`MOST_CLOSED`] closed; members are as many as there are peers, [`FIRST`] shown of each.

mod crowd;
mod incident;
mod mass_silence;
mod still_down;

use super::notes::Place;
use crate::engine::groups::Scope;
use crate::wire::PeerId;
use crowd::MOST_THRESHOLD;
pub use crowd::threshold;
pub use incident::{Cause, Figures, Incident, Step};
pub use mass_silence::MassSilence;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, VecDeque};
pub use still_down::StillDown;

/// Most incidents open at once.
pub const MOST_OPEN: usize = 4_096;
/// Closed incidents that are remembered.
pub const MOST_CLOSED: usize = 256;
/// Members that an incident names.
pub const FIRST: usize = 32;
/// The shortest window, nanoseconds.
const WINDOW_NS: u64 = 10_000_000_000;
/// How long an incident must not have grown for its size to be told, nanoseconds.
const SETTLED_NS: u64 = 2_000_000_000;
/// How long a group's last downs are kept, nanoseconds: its window is as long as its detection
/// takes, and what any group's may be is unknown here.
const KEPT_NS: u64 = 86_400_000_000_000;

/// Something to tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Told {
    /// When, monotonic nanoseconds.
    pub at_ns: u64,
    /// What.
    pub step: Step,
    /// Of which incident, as it was then.
    pub figures: Figures,
}

/// A peer went down, in its group.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    /// Who.
    pub peer: PeerId,
    /// Its group's number; 0 is the group of those without one.
    pub group: u16,
    /// Peers in that group.
    pub size: u32,
    /// When, monotonic nanoseconds.
    pub at_ns: u64,
    /// How long it had been silent, nanoseconds.
    pub detection_ns: u64,
    /// The incident that an earlier process has told that it belongs to, 0 for none; `None` while
    /// nothing was told.
    pub told: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(into = "(u32, bool)", from = "(u32, bool)")]
struct Member {
    incident: u32,
    reachable: bool,
}

impl From<Member> for (u32, bool) {
    fn from(member: Member) -> (u32, bool) {
        (member.incident, member.reachable)
    }
}

impl From<(u32, bool)> for Member {
    fn from((incident, reachable): (u32, bool)) -> Member {
        Member { incident, reachable }
    }
}

/// All incidents.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Incidents {
    open: BTreeMap<u32, Incident>,
    #[serde(skip)]
    by_cause: HashMap<Cause, u32>,
    members: HashMap<PeerId, Member>,
    /// The groups' brakes that are on, whether or not there is an incident of them.
    #[serde(default)]
    held_groups: BTreeMap<u16, MassSilence>,
    /// When the fleet's hold ended last; groups may be held on.
    #[serde(default)]
    fleet_let_go_ns: u64,
    /// Each group's last downs that belong to no incident, oldest first.
    recent: HashMap<u16, VecDeque<(u64, PeerId)>>,
    closed: VecDeque<Incident>,
    #[serde(skip)]
    told: Vec<Told>,
    last_id: u32,
    #[serde(skip)]
    refused: u64,
    #[serde(skip)]
    swept_ns: u64,
}

impl Incidents {
    /// A peer was called down. Returns the incident that it belongs to now, if any.
    pub fn down(&mut self, failure: Failure) -> Option<u32> {
        let Failure { peer, group, size, at_ns, detection_ns, told } = failure;
        if let Some(member) = self.members.get_mut(&peer) {
            let (id, was_reachable) = (member.incident, member.reachable);
            member.reachable = true;
            if let Some(incident) = self.open.get_mut(&id).filter(|_| !was_reachable) {
                incident.figures.unreachable -= 1;
                incident.figures.down += 1;
                incident.figures.grew_ns = incident.figures.grew_ns.max(at_ns);
                incident.worse = true;
            }
            return Some(id);
        }
        // Its children are still missed from the last time.
        if let Some(&id) = self.by_cause.get(&Cause::Parent(peer)) {
            self.join(id, peer, true, at_ns);
            return Some(id);
        }
        let window_ns = WINDOW_NS.max(detection_ns);
        let released = [Scope::Group(group), Scope::Fleet].map(Cause::MassSilence);
        for cause in released {
            if let Some(&id) = self.by_cause.get(&cause)
                && self.open[&id].joins_until_ns >= at_ns
            {
                self.join(id, peer, true, at_ns);
                return Some(id);
            }
        }
        let cause = Cause::Group(group);
        if let Some(&id) = self.by_cause.get(&cause)
            && at_ns.saturating_sub(self.open[&id].figures.grew_ns) <= window_ns
        {
            self.join(id, peer, true, at_ns);
            return Some(id);
        }
        let recent = self.recent.entry(group).or_default();
        while recent.front().is_some_and(|(then, _)| then + window_ns < at_ns) {
            recent.pop_front();
        }
        if recent.len() == MOST_THRESHOLD as usize {
            recent.pop_front();
        }
        recent.push_back((at_ns, peer));
        let is_crowd = match told {
            Some(incident) => incident > 0,
            None => size >= 2 && recent.len() as u32 >= threshold(size, window_ns),
        };
        if !is_crowd {
            return None;
        }
        let began_ns = recent[0].0;
        let id = self.open(cause, began_ns, at_ns, size)?;
        for (then, peer) in self.recent.remove(&group).unwrap_or_default() {
            self.join(id, peer, true, then);
        }
        self.tell_opened(id, at_ns);
        Some(id)
    }

    /// A peer is silent behind its parent. Of that it is said whether it is reachable itself and down, or
    /// unreachable; `None` if it has not failed. Returns the incident that the peer belongs to, as does the
    /// parent if it has failed.
    pub fn unreachable(
        &mut self,
        peer: PeerId,
        (parent, failed): (PeerId, Option<bool>),
        size: u32,
        at_ns: u64,
    ) -> Option<u32> {
        self.leave_the_crowd(peer, parent, at_ns);
        if let Some(member) = self.members.get_mut(&peer) {
            let (id, was_reachable) = (member.incident, member.reachable);
            member.reachable = false;
            if let Some(incident) = self.open.get_mut(&id).filter(|_| was_reachable) {
                incident.figures.unreachable += 1;
                incident.figures.down -= 1;
            }
            return Some(id);
        }
        let known = self.members.get(&parent).map(|member| member.incident);
        if let Some(id) = known.or_else(|| self.by_cause.get(&Cause::Parent(parent)).copied()) {
            self.join(id, peer, false, at_ns);
            return Some(id);
        }
        let id = self.open(Cause::Parent(parent), at_ns, at_ns, size)?;
        // It was the one that failed, whatever its group's failures counted until now.
        self.recent.values_mut().for_each(|downs| downs.retain(|(_, down)| *down != parent));
        if let Some(reachable) = failed {
            self.join(id, parent, reachable, at_ns);
        }
        self.join(id, peer, false, at_ns);
        self.tell_opened(id, at_ns);
        Some(id)
    }

    /// A peer is unreachable of which an earlier process has told that it belongs to this incident, if that
    /// is open: whoever its parent is by now.
    pub fn unreachable_again(&mut self, peer: PeerId, id: u32, at_ns: u64) -> Option<u32> {
        if !self.open.contains_key(&id) || self.members.contains_key(&peer) {
            return None;
        }
        self.join(id, peer, false, at_ns);
        Some(id)
    }

    /// A peer that was called down turns out to have gone with its parent, which was found later. It is
    /// no part of a crowd of its group any more, unless its parent is.
    fn leave_the_crowd(&mut self, peer: PeerId, parent: PeerId, at_ns: u64) {
        self.recent.values_mut().for_each(|downs| downs.retain(|(_, down)| *down != peer));
        let of = |peer| self.members.get(&peer).map(|member| member.incident);
        let Some(id) = of(peer).filter(|id| of(parent) != Some(*id)) else { return };
        let Some(incident) = self.open.get_mut(&id) else { return };
        if matches!(incident.figures.cause, Cause::Group(_)) && self.members[&peer].reachable {
            self.members.remove(&peer);
            incident.figures.down -= 1;
            incident.first.retain(|first| *first != peer);
            self.close_if_over(id, at_ns);
        }
    }

    /// A peer is up again, has left, or is forgotten. Returns the incident that it belonged to.
    pub fn back(&mut self, peer: PeerId, group: u16, at_ns: u64) -> Option<u32> {
        if let Some(recent) = self.recent.get_mut(&group) {
            recent.retain(|(_, down)| *down != peer);
        }
        let member = self.members.remove(&peer)?;
        if let Some(incident) = self.open.get_mut(&member.incident) {
            let figures = &mut incident.figures;
            match member.reachable {
                true => figures.down -= 1,
                false => figures.unreachable -= 1,
            }
            self.close_if_over(member.incident, at_ns);
        }
        Some(member.incident)
    }

    /// A peer is about to be forgotten, and its name with it: nobody names it among the members any
    /// more, and an incident about it keeps the name.
    pub fn forget(&mut self, peer: PeerId, name: Option<&str>) {
        let own = self.members.get(&peer).map(|member| member.incident);
        if let Some(incident) = own.and_then(|id| self.open.get_mut(&id)) {
            incident.first.retain(|first| *first != peer);
        }
        let about = self.by_cause.get(&Cause::Parent(peer));
        if let Some(incident) = about.and_then(|id| self.open.get_mut(id)) {
            incident.parent_name = name.map(String::from);
        }
    }

    /// The name of the parent that an incident is about, if that is forgotten.
    pub fn parent_name(&self, id: u32) -> Option<&str> {
        self.get(id)?.parent_name.as_deref()
    }

    /// Tells what has settled and closes what is over by the time alone. `suspect` says how many of a scope
    /// are so now.
    pub fn advance(&mut self, now_ns: u64, suspect: impl Fn(Scope) -> u32) {
        self.tell_held_beyond(now_ns, &suspect);
        self.count_held(suspect);
        let over = |i: &Incident| i.figures.held > 0 && i.held_until_ns <= now_ns;
        let over: Vec<u32> = self.open.iter().filter(|(_, i)| over(i)).map(|(id, _)| *id).collect();
        over.into_iter().for_each(|id| self.let_go(id, now_ns));
        let due = |incident: &Incident| {
            let grown = incident.figures.members() > incident.told || incident.worse;
            (grown && incident.figures.grew_ns + SETTLED_NS <= now_ns) || incident.is_over(now_ns)
        };
        let due: Vec<u32> = self.open.iter().filter(|(_, i)| due(i)).map(|(id, _)| *id).collect();
        for id in due {
            if !self.close_if_over(id, now_ns) {
                self.tell(id, Step::Updated, now_ns);
            }
        }
        if now_ns >= self.swept_ns + WINDOW_NS {
            self.swept_ns = now_ns;
            let old = |downs: &VecDeque<(u64, PeerId)>| {
                downs.back().is_none_or(|(then, _)| then + KEPT_NS <= now_ns)
            };
            self.recent.retain(|_, downs| !old(downs));
        }
    }

    /// An earlier process had given an incident this number.
    pub fn numbered(&mut self, id: u32) {
        self.last_id = self.last_id.max(id.saturating_sub(1));
    }

    /// Goes on with what was kept; its times are moved by so much, nanoseconds.
    pub fn resume(mut self, by_ns: i64) -> Incidents {
        let open = &mut self.open;
        self.members.retain(|_, member| open.contains_key(&member.incident));
        for incident in open.values_mut().chain(&mut self.closed) {
            let figures = &mut incident.figures;
            let Figures { began_ns, opened_ns, grew_ns, closed_ns, .. } = figures;
            let (held_ns, joins_ns) = (&mut incident.held_until_ns, &mut incident.joins_until_ns);
            for time in [began_ns, opened_ns, grew_ns, closed_ns, held_ns, joins_ns] {
                // Neither never nor always is a time.
                if ![0, u64::MAX].contains(time) {
                    *time = time.saturating_add_signed(by_ns);
                }
            }
            (figures.down, figures.unreachable) = (0, 0);
            // An older file does not know; nobody who comes back is told of those.
            incident.opened_at.get_or_insert_default();
            if figures.closed_ns > 0 {
                incident.closed_at.get_or_insert_default();
            }
        }
        for member in self.members.values() {
            if let Some(incident) = open.get_mut(&member.incident) {
                match member.reachable {
                    true => incident.figures.down += 1,
                    false => incident.figures.unreachable += 1,
                }
            }
        }
        for (then, _) in self.recent.values_mut().flatten() {
            *then = then.saturating_add_signed(by_ns);
        }
        for silence in self.held_groups.values_mut() {
            silence.at_ns = silence.at_ns.saturating_add_signed(by_ns);
        }
        self.fleet_let_go_ns = self.fleet_let_go_ns.saturating_add_signed(by_ns);
        self.by_cause = open.iter().map(|(id, incident)| (incident.figures.cause, *id)).collect();
        let last = open.keys().next_back().copied().unwrap_or(0);
        self.last_id = self.last_id.max(last);
        self
    }

    /// Lets go of whoever has not failed any more, as `failed` knows, though nobody has said so.
    pub fn reconcile(&mut self, failed: impl Fn(PeerId) -> bool, now_ns: u64) {
        self.recent.values_mut().for_each(|downs| downs.retain(|(_, peer)| failed(*peer)));
        let gone = self.members.keys().copied().filter(|peer| !failed(*peer));
        for peer in gone.collect::<Vec<_>>() {
            self.back(peer, 0, now_ns);
        }
    }

    /// Its beginning or its end stands there in the stream.
    pub fn placed(&mut self, told: &Told, place: Place) {
        let id = told.figures.id;
        let mut closed = self.closed.iter_mut().rev();
        let incident = self.open.get_mut(&id);
        let incident = incident.or_else(|| closed.find(|closed| closed.figures.id == id));
        let Some(incident) = incident else { return };
        match told.step {
            Step::Opened => incident.opened_at = Some(place),
            Step::Closed => incident.closed_at = Some(place),
            Step::Open | Step::Updated => {}
        }
    }

    /// The numbers of the transitions are others than those that it was told behind.
    pub fn renumbered(&mut self) {
        for incident in self.open.values_mut().chain(&mut self.closed) {
            for place in [&mut incident.opened_at, &mut incident.closed_at].into_iter().flatten() {
                *place = Place::default().next(0, 1);
            }
        }
    }

    /// What has happened since the last call, in order.
    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// The incident that a peer is a member of.
    pub fn of(&self, peer: PeerId) -> Option<u32> {
        self.members.get(&peer).map(|member| member.incident)
    }

    /// Open incidents, oldest first.
    pub fn open_ones(&self) -> impl DoubleEndedIterator<Item = &Incident> + ExactSizeIterator {
        self.open.values()
    }

    /// The last closed incidents, oldest first.
    pub fn closed_ones(&self) -> impl DoubleEndedIterator<Item = &Incident> + ExactSizeIterator {
        self.closed.iter()
    }

    /// One incident, open or of the last closed.
    pub fn get(&self, id: u32) -> Option<&Incident> {
        self.open.get(&id).or_else(|| self.closed.iter().find(|closed| closed.figures.id == id))
    }

    /// Incidents that could not be opened for want of room.
    pub fn refused(&self) -> u64 {
        self.refused
    }

    fn open(&mut self, cause: Cause, began_ns: u64, at_ns: u64, size: u32) -> Option<u32> {
        if let Some(&id) = self.by_cause.get(&cause) {
            return Some(id);
        }
        if self.open.len() >= MOST_OPEN {
            self.refused += 1;
            return None;
        }
        self.last_id += 1;
        let figures = Figures {
            id: self.last_id,
            cause,
            began_ns,
            opened_ns: at_ns,
            grew_ns: at_ns,
            closed_ns: 0,
            down: 0,
            unreachable: 0,
            held: 0,
            most: 0,
            size,
            part_of: 0,
        };
        let incident = Incident {
            figures,
            first: Vec::new(),
            parent_name: None,
            told: 0,
            worse: false,
            held_until_ns: 0,
            joins_until_ns: 0,
            opened_at: None,
            closed_at: None,
        };
        self.open.insert(self.last_id, incident);
        self.by_cause.insert(cause, self.last_id);
        Some(self.last_id)
    }

    fn join(&mut self, id: u32, peer: PeerId, reachable: bool, at_ns: u64) {
        let Some(incident) = self.open.get_mut(&id) else { return };
        self.members.insert(peer, Member { incident: id, reachable });
        let figures = &mut incident.figures;
        match reachable {
            true => figures.down += 1,
            false => figures.unreachable += 1,
        }
        figures.grew_ns = figures.grew_ns.max(at_ns);
        figures.most = figures.most.max(figures.members());
        // Others may be behind those of its group.
        figures.size = figures.size.max(figures.members());
        if incident.first.len() < FIRST && !incident.first.contains(&peer) {
            incident.first.push(peer);
        }
    }

    fn tell_opened(&mut self, id: u32, at_ns: u64) {
        // An old one that grows again is no new one.
        let known = self.open.get(&id).is_some_and(|incident| incident.told > 0);
        self.tell(id, if known { Step::Updated } else { Step::Opened }, at_ns);
    }

    fn tell(&mut self, id: u32, step: Step, at_ns: u64) {
        let Some(incident) = self.open.get_mut(&id) else { return };
        incident.told = incident.figures.members().max(incident.told).max(1);
        incident.worse = false;
        self.told.push(Told { at_ns, step, figures: incident.figures });
    }

    fn close_if_over(&mut self, id: u32, at_ns: u64) -> bool {
        if !self.open.get(&id).is_some_and(|incident| incident.is_over(at_ns)) {
            return false;
        }
        let Some(mut incident) = self.open.remove(&id) else { return false };
        self.by_cause.remove(&incident.figures.cause);
        incident.figures.closed_ns = at_ns;
        self.told.push(Told { at_ns, step: Step::Closed, figures: incident.figures });
        if self.closed.len() == MOST_CLOSED {
            self.closed.pop_front();
        }
        self.closed.push_back(incident);
        true
    }
}

#[cfg(test)]
mod tests;
