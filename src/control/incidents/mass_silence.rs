//! Incidents of the brake: so many fell silent at once that they are held as suspect.

use super::{Cause, Incident, Incidents, Member, Step, WINDOW_NS};
use crate::engine::groups::Scope;
use crate::wire::PeerId;

/// The brake went on, or was released.
#[derive(Clone, Copy, Debug)]
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

impl Incidents {
    /// The brake holds a scope's suspects for so long at most, or (without) lets them go because
    /// heartbeats return. Returns the incident. While the whole fleet is held, its groups are no news,
    /// and what was told of them becomes part of it.
    pub fn mass_silence(&mut self, silence: MassSilence) -> Option<u32> {
        let MassSilence { scope, hold_ns, silent, living, at_ns } = silence;
        let cause = Cause::MassSilence(scope);
        let known = self.by_cause.get(&cause).copied();
        let fleet = self.by_cause.get(&Cause::MassSilence(Scope::Fleet));
        let Some(hold_ns) = hold_ns else {
            self.let_go(known?, at_ns);
            return known;
        };
        if known.is_none() && fleet.is_some() {
            return None;
        }
        let is_news = known.is_none();
        let id = match known {
            Some(id) => id,
            None => self.open(cause, at_ns, at_ns, living)?,
        };
        let incident = self.open.get_mut(&id)?;
        incident.figures.held = silent.max(1);
        incident.figures.most = incident.figures.most.max(silent);
        incident.held_until_ns = at_ns.saturating_add(hold_ns);
        // Whoever is judged all the same is part of it.
        incident.joins_until_ns = u64::MAX;
        if is_news && scope == Scope::Fleet {
            self.take_in_groups(id, at_ns);
        }
        self.tell_opened(id, at_ns);
        Some(id)
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
        if incident.figures.held > 0 {
            incident.figures.held = 0;
            incident.joins_until_ns = at_ns + WINDOW_NS;
            self.tell(id, Step::Updated, at_ns);
        }
    }
}
