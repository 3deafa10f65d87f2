//! Incidents of those who went down while that was to alarm nobody, and are down still.

use super::{Cause, Incidents};
use crate::wire::PeerId;

/// A peer is down, and what kept it from alarming anybody is over: a silence, or that it flapped.
#[derive(Clone, Copy, Debug)]
pub struct StillDown {
    /// Who.
    pub peer: PeerId,
    /// Its group's number; 0 is the group of those without one.
    pub group: u16,
    /// Peers in that group.
    pub size: u32,
    /// Since when it is down, monotonic nanoseconds.
    pub since_ns: u64,
}

impl Incidents {
    /// These peers are down, and are to alarm from now on. Whoever is part of an incident already stays there.
    pub fn still_down(&mut self, all: &[StillDown], at_ns: u64) {
        let mut opened = Vec::new();
        for &StillDown { peer, group, size, since_ns } in all {
            if self.members.contains_key(&peer) {
                continue;
            }
            let cause = Cause::StillDown(group);
            let known = [Cause::Parent(peer), cause].iter().find_map(|c| self.by_cause.get(c));
            let id = match known {
                Some(&id) => id,
                None => {
                    let Some(id) = self.open(cause, since_ns, at_ns, size) else { continue };
                    opened.push(id);
                    id
                }
            };
            self.join(id, peer, true, at_ns);
        }
        opened.into_iter().for_each(|id| self.tell_opened(id, at_ns));
    }
}
