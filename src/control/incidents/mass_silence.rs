//! Incidents of the brake: so many fell silent at once that they are held as suspect.

use super::{Cause, Incident, Incidents, Member, Step, WINDOW_NS};
use crate::engine::groups::Scope;
use crate::wire::PeerId;
use serde::{Deserialize, Serialize};

/// The brake went on, or was released.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct MassSilence {
    /// Of whom.
    pub scope: Scope,
    /// For how long at most they are held, nanoseconds; `None` when they are let go.
    pub hold_ns: Option<u64>,
    /// How many are suspect.
    pub silent: u32,
    /// Of how many that were up or suspect.
    pub living: u32,
    /// When, monotonic nanoseconds.
    pub at_ns: u64,
}

impl MassSilence {
    /// When the hold ends by itself; the beginning of one that has been released.
    fn until_ns(&self) -> u64 {
        self.at_ns.saturating_add(self.hold_ns.unwrap_or(0))
    }
}

impl Incidents {
    /// The brake holds a scope's suspects for so long at most, or (without) lets them go because
    /// heartbeats return. Returns the incident. While the whole fleet is held, its groups are no news,
    /// and what was told of them becomes part of it; those that are held beyond it are told by
    /// [`Incidents::advance`].
    pub fn mass_silence(&mut self, silence: MassSilence) -> Option<u32> {
        let MassSilence { scope, hold_ns, .. } = silence;
        let known = self.by_cause.get(&Cause::MassSilence(scope)).copied();
        if let Scope::Group(group) = scope {
            match hold_ns {
                Some(_) => self.held_groups.insert(group, silence),
                None => self.held_groups.remove(&group),
            };
        }
        if hold_ns.is_none() {
            self.let_go(known?, silence.at_ns);
            return known;
        }
        if known.is_none() && self.held_fleet().is_some() {
            return None;
        }
        self.hold(silence, silence.at_ns)
    }

    /// The fleet's incident, while it is held.
    fn held_fleet(&self) -> Option<&Incident> {
        let id = self.by_cause.get(&Cause::MassSilence(Scope::Fleet))?;
        self.open.get(id).filter(|incident| incident.figures.held > 0)
    }

    /// Tells of a hold, at `now_ns`.
    fn hold(&mut self, silence: MassSilence, now_ns: u64) -> Option<u32> {
        let MassSilence { scope, silent, living, at_ns, .. } = silence;
        let cause = Cause::MassSilence(scope);
        let is_news = !self.by_cause.contains_key(&cause);
        let id = self.open(cause, at_ns, now_ns, living)?;
        let incident = self.open.get_mut(&id)?;
        incident.figures.hold(silent);
        incident.held_until_ns = silence.until_ns();
        // Whoever is judged all the same is part of it.
        incident.joins_until_ns = u64::MAX;
        if is_news && scope == Scope::Fleet {
            self.take_in_groups(id, now_ns);
        }
        self.tell_opened(id, now_ns);
        Some(id)
    }

    /// The brakes that are on, by what was told: of whom, and until when.
    pub fn holds(&self) -> impl Iterator<Item = (Scope, u64)> {
        let groups = self.held_groups.values().map(|silence| (silence.scope, silence.until_ns()));
        let fleet = self.held_fleet().map(|incident| (Scope::Fleet, incident.held_until_ns));
        groups.chain(fleet)
    }

    /// How many are held by now.
    pub(super) fn count_held(&mut self, suspect: impl Fn(Scope) -> u32) {
        for incident in self.open.values_mut().filter(|incident| incident.figures.held > 0) {
            if let Cause::MassSilence(scope) = incident.figures.cause {
                incident.figures.hold(suspect(scope));
            }
        }
    }

    /// The fleet's mass silence takes those of groups in: their members are its own, and they are closed.
    fn take_in_groups(&mut self, fleet: u32, at_ns: u64) {
        let of_group =
            |i: &Incident| matches!(i.figures.cause, Cause::MassSilence(Scope::Group(_)));
        let all: Vec<u32> =
            self.open.iter().filter(|(_, i)| of_group(i)).map(|(id, _)| *id).collect();
        let of_one = |member: &Member| all.contains(&member.incident);
        let members: Vec<(PeerId, Member)> =
            self.members.iter().filter(|(_, m)| of_one(m)).map(|(p, m)| (*p, *m)).collect();
        for (peer, member) in members {
            self.join(fleet, peer, member.reachable, at_ns);
        }
        for id in all {
            let Some(incident) = self.open.get_mut(&id) else { continue };
            let figures = &mut incident.figures;
            (figures.down, figures.unreachable, figures.held) = (0, 0, 0);
            figures.part_of = fleet;
            incident.joins_until_ns = 0;
            self.close_if_over(id, at_ns);
        }
    }

    /// A hold has ended. Whoever is judged now was part of it.
    pub(super) fn let_go(&mut self, id: u32, at_ns: u64) {
        let Some(incident) = self.open.get_mut(&id) else { return };
        if incident.figures.held == 0 {
            return;
        }
        incident.figures.held = 0;
        incident.joins_until_ns = at_ns + WINDOW_NS;
        if incident.figures.cause == Cause::MassSilence(Scope::Fleet) {
            self.fleet_let_go_ns = at_ns;
        }
        self.tell(id, Step::Updated, at_ns);
    }

    /// Groups that are held on although the fleet was let go have incidents of their own, once that one cannot
    /// be joined any more: most are let go in the same instant. How many are held is what `suspect` says.
    pub(super) fn tell_held_beyond(&mut self, now_ns: u64, suspect: impl Fn(Scope) -> u32) {
        self.held_groups.retain(|_, silence| silence.until_ns() > now_ns);
        if self.held_fleet().is_some() || now_ns <= self.fleet_let_go_ns.saturating_add(WINDOW_NS) {
            return;
        }
        let is_untold = |silence: &&MassSilence| {
            !self.by_cause.contains_key(&Cause::MassSilence(silence.scope))
        };
        let untold: Vec<_> = self.held_groups.values().filter(is_untold).copied().collect();
        for silence in untold {
            self.hold(MassSilence { silent: suspect(silence.scope), ..silence }, now_ns);
        }
    }
}
