//! Going on with the peers of an earlier process: the shard's part of what
//! [`recover`](crate::engine::recover) tells of.

use super::{Cause, Shard};
use crate::engine::slot::Kept;
use crate::engine::transition::{PeerState, Reason, Transition};
use std::collections::HashMap;

impl Shard {
    /// No process was looking between these times, and what came then found no socket, unless they
    /// stayed open and `deaf` is false. Told in ascending order, before anything else.
    pub fn was_absent(&mut self, from_ns: u64, to_ns: u64, deaf: bool) {
        self.peers.sight.absent(from_ns, to_ns, deaf);
    }

    /// Goes on, at `now_ns`, with what an earlier process left: its peers, its unfinished
    /// transitions, and what it had not seen itself. Called once, first of all; see
    /// [`resume`](Self::resume) for what is returned.
    pub fn go_on(&mut self, kept: Kept, now_ns: u64) -> (u32, u32) {
        let Kept { journal, history, looked_ns, left } = kept;
        self.peers.sight.take_over(journal.sight(), now_ns);
        self.was_absent(looked_ns.min(now_ns), now_ns, left.is_none());
        let done = self.resume(history, journal.newest(), now_ns);
        if journal.looked_ns() == 0 {
            journal.looked(now_ns);
        }
        done
    }

    /// Goes on with the peers that the table was recovered with: makes the transitions of `history`
    /// that the earlier process did not come to make, and arms all timers. The history is in the order
    /// of the journal, whose last number is `newest`, and silent: who is to be told of it is told by
    /// others. Called once, behind [`was_absent`](Self::was_absent).
    ///
    /// Returns how many transitions were made, and how many peers found no place in the budget.
    pub fn resume(
        &mut self,
        history: impl IntoIterator<Item = Transition>,
        newest: u64,
        now_ns: u64,
    ) -> (u32, u32) {
        self.report_no = newest as u32;
        // Each peer's last record alone: it is also what the slot of one with older ones says.
        let last: HashMap<_, _> = history.into_iter().map(|t| (t.peer, t)).collect();
        let redone = last.values().filter(|transition| self.redo(transition)).count() as u32;
        (redone, self.take_all_in(now_ns))
    }

    /// Brings a slot up to its peer's last transition. True when there was something to do.
    fn redo(&mut self, last: &Transition) -> bool {
        let Some(index) = self.table().find(last.peer) else { return false };
        let slot = self.table().slot(index);
        if last.to == PeerState::Forgotten {
            // A newcomer that nobody was told of yet has come after it.
            let newcomer = slot.pending() == Some(Reason::FirstBeat);
            if !newcomer {
                self.peers.table.remove(index);
            }
            return !newcomer;
        }
        let made = slot.state() == last.to && slot.since_ns() == last.fired_ns;
        if made && slot.pending() != Some(last.reason) {
            return false;
        }
        let mut write = slot.write();
        write.set_state(last.to);
        write.set_since_ns(last.fired_ns);
        if last.to.is_alive() && !last.from.is_alive() {
            write.set_alive_since_ns(last.fired_ns);
        }
        write.set_pending(None);
        write.set_report_no(last.report_no);
        true
    }

    /// Counts the peers that are in the table already and arms their timers. Returns how many the
    /// budget had no place for; those are let go.
    fn take_all_in(&mut self, now_ns: u64) -> u32 {
        let mut refused = 0;
        for index in 0..self.peers.table.high_water() {
            let slot = self.peers.table.slot(index);
            let (state, standing) = (slot.state(), slot.standing());
            if state == PeerState::Unknown {
                continue;
            }
            // What waits to be told leads elsewhere, and a first heartbeat to where its peer is
            // already; but not in a damaged slot.
            let makes_sense =
                |reason| (Cause::of(reason).to == state) == (reason == Reason::FirstBeat);
            if slot.pending().is_some_and(|reason| !makes_sense(reason)) {
                slot.write().set_pending(None);
            }
            if self.shared.budget.take() {
                self.shared.states.moved(PeerState::Unknown, state);
                // No brake can be released before anything was judged.
                let groups = &self.shared.groups;
                groups.moved(standing, PeerState::Unknown, state, now_ns, |_, _| {});
                self.arm(index);
            } else {
                refused += 1;
                self.peers.table.remove(index);
            }
        }
        refused
    }
}
